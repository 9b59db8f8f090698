//! An HTTP/1.1 client for a server on this machine: one connection that is kept, answers with a Content-Length.

use std::io::{BufRead as _, BufReader, Error, ErrorKind, Read as _, Result, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A server that does not answer within is stuck.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Bytes of an answer's head, and of its body; those of our servers have a few hundred.
const HEAD_MAX: u64 = 64 * 1024;
const BODY_MAX: usize = 16 * 1024 * 1024;

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
    address: SocketAddr,
}

/// What a server answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        Ok(Self { reader: BufReader::new(stream), address })
    }

    /// Sends a GET.
    pub(crate) fn get(&mut self, path: &str) -> Result<Response> {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.address), b"")
    }

    /// Sends a POST of JSON.
    pub(crate) fn post(&mut self, path: &str, body: &[u8]) -> Result<Response> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        self.send(&head, body)
    }

    fn send(&mut self, head: &str, body: &[u8]) -> Result<Response> {
        // In one piece, or the second part would wait for an acknowledgement of the first.
        let request = [head.as_bytes(), body].concat();
        self.reader.get_mut().write_all(&request)?;
        let mut head = (&mut self.reader).take(HEAD_MAX);
        let mut line = String::new();
        head.read_line(&mut line)?;
        let status =
            line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.split(' ').next()?.trim().parse().ok());
        let status = status.ok_or_else(|| malformed("a status line", &line))?;
        let mut length: Option<usize> = None;
        loop {
            line.clear();
            head.read_line(&mut line)?;
            let Some((name, value)) = line.split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok();
            }
        }
        if line != "\r\n" {
            return Err(malformed("a header", &line));
        }
        let length = length.filter(|&length| length <= BODY_MAX);
        let mut body = vec![0; length.ok_or_else(|| malformed("a content-length within bounds", "none"))?];
        self.reader.read_exact(&mut body)?;
        Ok(Response { status, body })
    }
}

fn malformed(expected: &str, found: &str) -> Error {
    Error::new(
        ErrorKind::InvalidData,
        format!("expected {expected} from the server, found `{}`", found.trim()),
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    /// Answers each request of one connection with the next of `answers`, and gives what it read.
    fn server(answers: &'static [&'static str]) -> (SocketAddr, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            let mut requests = Vec::new();
            for answer in answers {
                let read = stream.read(&mut buffer).unwrap();
                requests.push(String::from_utf8(buffer[..read].to_vec()).unwrap());
                stream.write_all(answer.as_bytes()).unwrap();
            }
            requests
        });
        (address, thread)
    }

    #[test]
    fn keeps_the_connection() {
        let (address, thread) = server(&[
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            "HTTP/1.1 404 Not Found\r\ncontent-length:3\r\nx: y\r\n\r\nno\n",
        ]);
        let mut connection = Connection::open(address).unwrap();
        assert_eq!(connection.post("/a", b"[1]").unwrap(), Response { status: 200, body: b"{}".to_vec() });
        assert_eq!(connection.get("/b").unwrap(), Response { status: 404, body: b"no\n".to_vec() });
        let requests = thread.join().unwrap();
        assert!(requests[0].starts_with("POST /a HTTP/1.1\r\n") && requests[0].ends_with("\r\n\r\n[1]"));
        assert!(requests[1].starts_with("GET /b HTTP/1.1\r\n"));
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        let cases = [
            ("SSH-2.0\r\n", "expected a status line"),
            ("HTTP/1.1 200 OK\r\n\r\n", "expected a content-length"),
            ("HTTP/1.1 200 OK\r\nnonsense\r\n", "expected a header"),
        ];
        for (answer, expected) in cases {
            let (address, thread) = server(Vec::leak(vec![answer]));
            let error = Connection::open(address).unwrap().get("/").unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
            thread.join().unwrap();
        }
    }
}
