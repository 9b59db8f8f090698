//! HTTP/1.1: requests are sent as they were prepared; answers have a Content-Length.

use std::io::Result;

use super::client::{Answer, Exchange, malformed};

const HEAD_END: &[u8] = b"\r\n\r\n";

/// Keeps nothing from one request to the next.
pub(super) struct Http1;

impl Exchange for Http1 {
    fn greeting(&self) -> Vec<u8> {
        Vec::new()
    }

    fn ask(&mut self, message: &[u8], output: &mut Vec<u8>) -> Result<()> {
        output.extend_from_slice(message);
        Ok(())
    }

    fn take(&mut self, input: &mut Vec<u8>, _output: &mut Vec<u8>) -> Result<Option<Answer>> {
        let Some(end) = input.windows(HEAD_END.len()).position(|bytes| bytes == HEAD_END) else {
            return Ok(None);
        };
        let head = input.get(..end).unwrap_or_default();
        let head = std::str::from_utf8(head).map_err(|_| malformed("headers of text", "other bytes"))?;
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| malformed("a status line", head))?;
        let length: Option<usize> = header(head, "content-length").and_then(|value| value.parse().ok());
        let length = length.ok_or_else(|| malformed("a content-length", head))?;
        let body_start = end + HEAD_END.len();
        if input.len() < body_start + length {
            return Ok(None);
        }
        let head = head.to_owned();
        let body = input.drain(..body_start + length).skip(body_start).collect();
        Ok(Some(Answer { status, has_message: true, head, body }))
    }
}

/// The value of the header `name` in the head of an answer.
pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_when_they_are_complete() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: y\r\n\r\nabcHTTP/1.1 404";
        for cut in [10, 30, 44, 46] {
            let mut input = whole[..cut].to_vec();
            assert_eq!(Http1.take(&mut input, &mut Vec::new()).unwrap(), None, "{cut}");
            assert_eq!(input.len(), cut);
        }
        let mut input = whole.to_vec();
        let answer = Http1.take(&mut input, &mut Vec::new()).unwrap().unwrap();
        assert_eq!((answer.status, &answer.body[..], &input[..]), (200, &b"abc"[..], &b"HTTP/1.1 404"[..]));
        assert_eq!(header(&answer.head, "x"), Some("y"));
    }

    #[test]
    fn other_protocols_are_refused() {
        for text in ["SSH-2.0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
            Http1.take(&mut text.as_bytes().to_vec(), &mut Vec::new()).unwrap_err();
        }
    }
}
