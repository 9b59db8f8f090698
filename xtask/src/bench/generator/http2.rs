//! As much of HTTP/2 (RFC 9113) as unary gRPC calls over one connection need, one after another.
//!
//! Headers are sent without the table that HPACK (RFC 7541) keeps, so that a request's are always the same bytes, and
//! those of answers are not read: a call that failed has no message.

use std::io::Result;
use std::net::SocketAddr;

use super::client::{Answer, Exchange, malformed};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's head: length, type, flags, stream.
const FRAME_HEAD: usize = 9;

/// Bytes of the head of a gRPC message: whether it is packed, and its length.
const MESSAGE_HEAD: usize = 5;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// What either side may send before the other says that it may send more.
const WINDOW: i64 = 65_535;

/// The most that a window can be.
const WINDOW_MAX: i64 = (1 << 31) - 1;

/// A connection's state.
pub(super) struct Http2 {
    /// The headers of every request.
    headers: Vec<u8>,
    stream: u32,
    /// Bytes that the server still takes.
    window: i64,
    /// The answer to the newest request, as far as it has come.
    body: Vec<u8>,
}

/// A frame that has come.
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Http2 {
    pub(super) fn new(path: &str, address: SocketAddr) -> Result<Self> {
        // `:method: POST` and `:scheme: http` have numbers.
        let mut headers = vec![0x83, 0x86];
        // So have the names `:path`, `:authority` and `content-type`; the last one's does not fit into four bits.
        literal(&mut headers, &[0x04], path)?;
        literal(&mut headers, &[0x01], &address.to_string())?;
        literal(&mut headers, &[0x0f, 31 - 15], "application/grpc")?;
        literal(&mut headers, b"\0\x02te", "trailers")?;
        Ok(Self { headers, stream: 0, window: WINDOW, body: Vec::new() })
    }

    /// Takes a frame; whether it ends the answer.
    fn handle(&mut self, came: Frame, output: &mut Vec<u8>) -> Result<bool> {
        let is_ack = came.flags & ACK != 0;
        match came.kind {
            DATA if came.stream == self.stream => self.body.extend(came.payload),
            SETTINGS if !is_ack => frame(output, SETTINGS, ACK, 0, &[]),
            PING if !is_ack => frame(output, PING, ACK, 0, &came.payload),
            WINDOW_UPDATE if came.stream == 0 => {
                let more = came.payload.try_into().map_or(0, u32::from_be_bytes);
                self.window += i64::from(more);
            }
            RST_STREAM | GOAWAY => {
                let text = String::from_utf8_lossy(&came.payload).into_owned();
                return Err(malformed("an answer", &format!("the end: {}", text.trim_start_matches('\0'))));
            }
            _ => {}
        }
        let ends = matches!(came.kind, DATA | HEADERS) && came.flags & END_STREAM != 0;
        Ok(ends && came.stream == self.stream)
    }
}

impl Exchange for Http2 {
    fn greeting(&self) -> Vec<u8> {
        let mut greeting = PREFACE.to_vec();
        frame(&mut greeting, SETTINGS, 0, 0, &[]);
        // Answers of a few hundred bytes will not use that up.
        let more = u32::try_from(WINDOW_MAX - WINDOW).unwrap_or_default();
        frame(&mut greeting, WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        greeting
    }

    fn ask(&mut self, message: &[u8], output: &mut Vec<u8>) -> Result<()> {
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
        let data = [&[0], &length[..], message].concat();
        self.window -= data.len() as i64;
        if self.window < 0 {
            return Err(malformed("room for a request", "a window that is used up"));
        }
        // Clients' streams have odd numbers.
        self.stream = if self.stream == 0 { 1 } else { self.stream + 2 };
        frame(output, HEADERS, END_HEADERS, self.stream, &self.headers);
        frame(output, DATA, END_STREAM, self.stream, &data);
        Ok(())
    }

    fn take(&mut self, input: &mut Vec<u8>, output: &mut Vec<u8>) -> Result<Option<Answer>> {
        if input.starts_with(b"HTTP/1.1") {
            return Err(malformed("HTTP/2", "HTTP/1.1"));
        }
        let mut is_complete = false;
        while let Some(came) = next_frame(input) {
            is_complete |= self.handle(came, output)?;
        }
        if !is_complete {
            return Ok(None);
        }
        let data = std::mem::take(&mut self.body);
        let body = data.get(MESSAGE_HEAD..);
        let answer = Answer {
            status: 200,
            has_message: body.is_some(),
            head: String::new(),
            body: body.unwrap_or_default().to_vec(),
        };
        Ok(Some(answer))
    }
}

/// A header that is not to be kept in a table: its name as HPACK has it, and its value.
fn literal(headers: &mut Vec<u8>, name: &[u8], value: &str) -> Result<()> {
    // Longer ones have a longer length.
    let length = u8::try_from(value.len()).ok().filter(|length| *length < 127);
    let length = length.ok_or_else(|| malformed("a short header", value))?;
    headers.extend_from_slice(name);
    headers.push(length);
    headers.extend_from_slice(value.as_bytes());
    Ok(())
}

/// Puts a frame at the end of `output`.
fn frame(output: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    output.extend(length.iter().skip(1));
    output.extend([kind, flags]);
    output.extend(stream.to_be_bytes());
    output.extend_from_slice(payload);
}

/// Takes a frame off the beginning of `input`, if it has come as a whole.
fn next_frame(input: &mut Vec<u8>) -> Option<Frame> {
    let &[a, b, c, kind, flags, s, t, u, v] = input.first_chunk::<FRAME_HEAD>()?;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    if input.len() < FRAME_HEAD + length {
        return None;
    }
    let payload = input.drain(..FRAME_HEAD + length).skip(FRAME_HEAD).collect();
    // The highest bit is reserved.
    Some(Frame { kind, flags, stream: u32::from_be_bytes([s, t, u, v]) & (u32::MAX >> 1), payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Http2 {
        let mut http2 = Http2::new("/a.B/C", SocketAddr::from(([127, 0, 0, 1], 80))).unwrap();
        http2.ask(b"question", &mut Vec::new()).unwrap();
        http2
    }

    #[test]
    fn a_request_is_its_frames_and_the_first_has_the_preface_before_it() {
        let mut http2 = Http2::new("/a.B/C", SocketAddr::from(([127, 0, 0, 1], 80))).unwrap();
        let mut output = http2.greeting();
        http2.ask(b"question", &mut output).unwrap();
        let mut rest = output.strip_prefix(PREFACE).unwrap().to_vec();
        let frames: Vec<Frame> = std::iter::from_fn(|| next_frame(&mut rest)).collect();
        let kinds: Vec<_> = frames.iter().map(|frame| (frame.kind, frame.stream)).collect();
        assert_eq!(kinds, [(SETTINGS, 0), (WINDOW_UPDATE, 0), (HEADERS, 1), (DATA, 1)]);
        assert_eq!(frames[2].payload[..10], *b"\x83\x86\x04\x06/a.B/C");
        assert!(frames[2].payload.ends_with(b"\x0f\x10\x10application/grpc\0\x02te\x08trailers"));
        assert_eq!(frames[3].payload, b"\0\0\0\0\x08question");
        output.clear();
        http2.ask(b"", &mut output).unwrap();
        assert_eq!(next_frame(&mut output).unwrap().stream, 3);
    }

    #[test]
    fn an_answer_is_a_message_with_trailers_behind_it() {
        let (mut http2, mut input, mut output) = (opened(), Vec::new(), Vec::new());
        frame(&mut input, SETTINGS, 0, 0, &[]);
        frame(&mut input, PING, 0, 0, b"12345678");
        frame(&mut input, HEADERS, END_HEADERS, 1, b"?");
        frame(&mut input, DATA, 0, 1, b"\0\0\0\0\x02hi");
        assert_eq!(http2.take(&mut input, &mut output).unwrap(), None);
        let said: Vec<u8> = std::iter::from_fn(|| next_frame(&mut output)).map(|frame| frame.kind).collect();
        assert_eq!(said, [SETTINGS, PING]);
        frame(&mut input, HEADERS, END_HEADERS | END_STREAM, 1, b"?");
        let answer = http2.take(&mut input, &mut output).unwrap().unwrap();
        assert_eq!((answer.failure(), &answer.body[..]), (None, &b"hi"[..]));
    }

    #[test]
    fn an_error_has_no_message() {
        let (mut http2, mut input) = (opened(), Vec::new());
        frame(&mut input, HEADERS, END_HEADERS | END_STREAM, 1, b"?");
        let answer = http2.take(&mut input, &mut Vec::new()).unwrap().unwrap();
        assert!(answer.failure().is_some());
    }

    #[test]
    fn the_end_of_a_connection_and_other_protocols_are_errors() {
        let mut input = Vec::new();
        frame(&mut input, GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\0bye");
        for mut input in [input, b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()] {
            opened().take(&mut input, &mut Vec::new()).unwrap_err();
        }
    }

    #[test]
    fn no_more_is_sent_than_the_server_takes() {
        let mut http2 = opened();
        http2.ask(&[0; 65_000], &mut Vec::new()).unwrap();
        http2.ask(&[0; 1_000], &mut Vec::new()).unwrap_err();
        let mut http2 = opened();
        let mut input = Vec::new();
        frame(&mut input, WINDOW_UPDATE, 0, 0, &70_000_u32.to_be_bytes());
        http2.take(&mut input, &mut Vec::new()).unwrap();
        http2.ask(&[0; 65_000], &mut Vec::new()).unwrap();
        http2.ask(&[0; 60_000], &mut Vec::new()).unwrap();
    }
}
