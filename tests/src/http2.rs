use std::collections::{BTreeMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::{PATIENCE, Server};

/// A client of HTTP/2 that sends what it is told to, also what no client should.
pub struct Http2 {
    stream: TcpStream,
    /// What has come and was not asked for yet.
    early: VecDeque<Frame>,
    /// Bytes of data that the server has room for, of each stream and, as 0, in all; a stream begins with `window`.
    room: BTreeMap<u32, i64>,
    window: i64,
}

/// A frame: its type, its flags, its stream and its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Such as [`Http2::DATA`].
    pub kind: u8,
    /// Such as [`Http2::END_STREAM`].
    pub flags: u8,
    /// 0 for the whole connection.
    pub stream: u32,
    /// What is in it.
    pub payload: Vec<u8>,
}

impl Http2 {
    /// What a connection begins with.
    pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// A piece of a body.
    pub const DATA: u8 = 0;
    /// A head or trailers.
    pub const HEADERS: u8 = 1;
    /// A stream is given up.
    pub const RST_STREAM: u8 = 3;
    /// Settings, which are acknowledged.
    pub const SETTINGS: u8 = 4;
    /// A question, which is acknowledged.
    pub const PING: u8 = 6;
    /// The connection ends.
    pub const GOAWAY: u8 = 7;
    /// More room for data.
    pub const WINDOW_UPDATE: u8 = 8;
    /// The rest of a head.
    pub const CONTINUATION: u8 = 9;
    /// Of data or a head: the last of its stream.
    pub const END_STREAM: u8 = 1;
    /// Of settings or a ping: that it was read.
    pub const ACK: u8 = 1;
    /// Of a head: the whole of it.
    pub const END_HEADERS: u8 = 4;

    /// A connection that has begun.
    pub fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let (room, window) = (BTreeMap::from([(0, 65_535)]), 65_535);
        let mut client = Self { stream, early: VecDeque::new(), room, window };
        client.stream.write_all(Self::PREFACE).unwrap();
        assert!(client.send(Self::SETTINGS, 0, 0, &[]));
        // As much room as there may be for the whole connection.
        assert!(client.send(Self::WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes()));
        // The server gives requests more room once its settings are acknowledged.
        assert_eq!(client.receive().map(|frame| (frame.kind, frame.flags)), Some((Self::SETTINGS, 0)));
        assert!(client.send(Self::SETTINGS, Self::ACK, 0, &[]));
        client.settle();
        client
    }

    /// Sends data, as soon as the server has room for it; false if it has closed the connection.
    pub fn send_data(&mut self, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let length = payload.len() as i64;
        while [0, stream].iter().any(|of| *self.room_of(*of) < length) {
            let Some(frame) = self.read() else { return false };
            self.early.push_back(frame);
        }
        *self.room_of(0) -= length;
        *self.room_of(stream) -= length;
        self.send(Self::DATA, flags, stream, payload)
    }

    fn room_of(&mut self, stream: u32) -> &mut i64 {
        self.room.entry(stream).or_insert(self.window)
    }

    /// Sends a frame; false if the server has closed the connection.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.stream.write_all(&[&head, payload].concat()).is_ok()
    }

    /// Sends a request with its body; `named` is what it calls the server.
    pub fn post(&mut self, stream: u32, named: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let own = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", named)];
        let head: Vec<u8> =
            own.iter().chain(headers).flat_map(|(name, value)| literal(name, value)).collect();
        assert!(self.send(Self::HEADERS, Self::END_HEADERS, stream, &head));
        let mut pieces = body.chunks(16_384).peekable();
        while let Some(piece) = pieces.next() {
            let end = if pieces.peek().is_none() { Self::END_STREAM } else { 0 };
            assert!(self.send_data(end, stream, piece));
        }
    }

    /// Waits until the server has read all that was sent; gives the frames that came before it said so.
    pub fn settle(&mut self) -> Vec<Frame> {
        assert!(self.send(Self::PING, 0, 0, b"settled?"));
        let mut frames = Vec::new();
        loop {
            let frame = self.receive().expect("the server closed the connection");
            if frame.kind == Self::PING && frame.payload == b"settled?" {
                return frames;
            }
            frames.push(frame);
        }
    }

    /// The next frame; none if the server has closed the connection.
    pub fn receive(&mut self) -> Option<Frame> {
        self.early.pop_front().or_else(|| self.read())
    }

    /// The next frame that comes; notes the room that it makes.
    fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.stream.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes(stream);
        match kind {
            Self::WINDOW_UPDATE => {
                *self.room_of(stream) += i64::from(u32::from_be_bytes(payload[..4].try_into().unwrap()));
            }
            Self::SETTINGS => {
                let settings = payload.chunks_exact(6).filter(|setting| setting[..2] == [0, 4]);
                settings.for_each(|setting| {
                    self.window = i64::from(u32::from_be_bytes(setting[2..].try_into().unwrap()));
                });
            }
            _ => {}
        }
        Some(Frame { kind, flags, stream, payload })
    }

    /// The body of an answer; none if the stream or the connection ended before it. What comes of others is kept for them.
    pub fn body(&mut self, stream: u32) -> Option<Vec<u8>> {
        let mut others = VecDeque::new();
        let body = self.body_beside(stream, &mut others);
        others.append(&mut self.early);
        self.early = others;
        body
    }

    fn body_beside(&mut self, stream: u32, others: &mut VecDeque<Frame>) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let frame = self.receive()?;
            if frame.stream != stream {
                others.push_back(frame);
                continue;
            }
            if frame.kind == Self::DATA && !frame.payload.is_empty() {
                // Room for as much again.
                let room = u32::try_from(frame.payload.len()).unwrap().to_be_bytes();
                self.send(Self::WINDOW_UPDATE, 0, frame.stream, &room);
            }
            let ends =
                matches!(frame.kind, Self::DATA | Self::HEADERS) && frame.flags & Self::END_STREAM != 0;
            match frame.kind {
                Self::DATA => body.extend(frame.payload),
                Self::RST_STREAM => return None,
                _ => {}
            }
            if ends {
                return Some(body);
            }
        }
    }
}

/// A header as it is sent, in the simplest of HPACK's forms.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        assert!(text.len() < 127);
        [&[text.len() as u8], text.as_bytes()].concat()
    };
    [vec![0], text(name), text(value)].concat()
}
