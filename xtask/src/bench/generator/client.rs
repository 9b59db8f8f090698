//! A connection: bytes between a socket and the protocol that is spoken over it.

use std::io::{Error, ErrorKind, Read as _, Result, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::Wire;
use super::http1::{self, Http1};
use super::http2::Http2;

/// A server that does not answer within is stuck; Python's take a while until their first answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Bytes that are read in one go; answers have a few hundred.
const READ_BYTES: usize = 16 * 1024;

/// A protocol, without input and output.
pub(super) trait Exchange {
    /// What a client says before anything else.
    fn greeting(&self) -> Vec<u8>;

    /// Puts the bytes that ask for `message` at the end of `output`.
    fn ask(&mut self, message: &[u8], output: &mut Vec<u8>) -> Result<()>;

    /// Takes what it understands of `input`, says what there is to say, and gives the answer when it is complete.
    fn take(&mut self, input: &mut Vec<u8>, output: &mut Vec<u8>) -> Result<Option<Answer>>;
}

/// What a server answered.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::bench) struct Answer {
    /// Of HTTP.
    pub(super) status: u16,
    /// Whether gRPC gave a message; true for HTTP/1.1.
    pub(super) has_message: bool,
    /// The headers of HTTP/1.1; nothing of gRPC's.
    pub(super) head: String,
    pub(in crate::bench) body: Vec<u8>,
}

/// A connection.
pub(in crate::bench) struct Client {
    stream: TcpStream,
    exchange: Box<dyn Exchange>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Answer {
    /// A success.
    #[cfg(test)]
    pub(in crate::bench) fn new(head: &str, body: &[u8]) -> Self {
        Self { status: 200, has_message: true, head: head.to_owned(), body: body.to_vec() }
    }

    /// The value of a header of HTTP/1.1.
    pub(in crate::bench) fn header(&self, name: &str) -> Option<&str> {
        http1::header(&self.head, name)
    }

    /// What is wrong with it, if it is no success.
    pub(in crate::bench) fn failure(&self) -> Option<String> {
        match (self.status, self.has_message) {
            (200, true) => None,
            (200, false) => Some("gRPC gave an error instead of a message".to_owned()),
            (status, _) => Some(format!("status {status}: {}", String::from_utf8_lossy(&self.body).trim())),
        }
    }
}

impl Client {
    /// Connects.
    pub(in crate::bench) fn open(address: SocketAddr, wire: &Wire) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        let exchange: Box<dyn Exchange> = match wire {
            Wire::Http1 => Box::new(Http1),
            Wire::Grpc(path) => Box::new(Http2::new(path, address)?),
        };
        // At once: a server may speak first, and would be answered.
        let mut client = Self { stream, output: exchange.greeting(), exchange, input: Vec::new() };
        client.flush()?;
        Ok(client)
    }

    /// Sends a request and waits for its answer.
    pub(in crate::bench) fn ask(&mut self, message: &[u8]) -> Result<Answer> {
        self.send(message)?;
        loop {
            if let Some(answer) = self.receive()? {
                return Ok(answer);
            }
        }
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends a request. There is one at a time, so that the socket has room for it.
    pub(super) fn send(&mut self, message: &[u8]) -> Result<()> {
        self.exchange.ask(message, &mut self.output)?;
        self.flush()
    }

    /// Reads once; the answer, if it is complete.
    pub(super) fn receive(&mut self) -> Result<Option<Answer>> {
        let mut buffer = [0; READ_BYTES];
        let read = match self.stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            // With no time limit it is not yet there; with one the time is over.
            Err(error) if error.kind() == ErrorKind::WouldBlock && !self.blocks()? => return Ok(None),
            Err(error) => return Err(error),
        };
        self.input.extend(buffer.iter().take(read));
        let answer = self.exchange.take(&mut self.input, &mut self.output)?;
        self.flush()?;
        Ok(answer)
    }

    fn blocks(&self) -> Result<bool> {
        Ok(!rustix::fs::fcntl_getfl(&self.stream)?.contains(rustix::fs::OFlags::NONBLOCK))
    }

    fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }
}

/// A server that speaks another protocol.
pub(super) fn malformed(expected: &str, found: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("expected {expected} from the server, found `{found}`"))
}
