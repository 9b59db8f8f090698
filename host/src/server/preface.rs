use std::io::Cursor;

use tokio::io::{AsyncReadExt as _, Chain, Join, join};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// What every connection of HTTP/2 begins with (RFC 9113, section 3.4). No request of HTTP/1.1 does: there is no method
/// `PRI`, and never will be.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream whose first bytes were read and are read once more.
pub(super) type Reread = Join<Chain<Cursor<Vec<u8>>, OwnedReadHalf>, OwnedWriteHalf>;

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1, or something that it can say what is wrong with.
    Http1,
    /// HTTP/2 with prior knowledge, as programs speak it; browsers do so only over TLS.
    Http2,
}

/// Tells by its first bytes what a client speaks. Reads no further than that takes; none if there are no bytes at all.
pub(super) async fn detect(stream: TcpStream) -> std::io::Result<Option<(Protocol, Reread)>> {
    let (mut read, write) = stream.into_split();
    let mut first = Vec::with_capacity(PREFACE.len());
    let protocol = loop {
        if first == PREFACE {
            break Protocol::Http2;
        }
        let missing = (PREFACE.len() - first.len()) as u64;
        let is_end = (&mut read).take(missing).read_buf(&mut first).await? == 0;
        if is_end || !PREFACE.starts_with(&first) {
            break Protocol::Http1;
        }
    };
    let is_nothing = first.is_empty();
    Ok((!is_nothing).then(|| (protocol, join(Cursor::new(first).chain(read), write))))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// What is detected of a client that sends `pieces` and then ends, and all that is read.
    async fn detected(pieces: &[&[u8]]) -> Option<(Protocol, Vec<u8>)> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let sending = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
        };
        let (detected, ()) = tokio::join!(detect(stream), sending);
        let (protocol, mut stream) = detected.unwrap()?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        Some((protocol, bytes))
    }

    #[tokio::test]
    async fn the_preface_of_http_2_is_told_from_requests_of_http_1() {
        let preface = [PREFACE, b"\0\0\0\x04\0\0\0\0\0"].concat();
        let request = b"POST /serve/m HTTP/1.1\r\n\r\n".to_vec();
        for (sent, expected) in [
            (preface.clone(), Protocol::Http2),
            (request, Protocol::Http1),
            (b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n".to_vec(), Protocol::Http1),
            (b"PRI * HTTP/2.0\r\n".to_vec(), Protocol::Http1),
            (b"P".to_vec(), Protocol::Http1),
            (vec![0xff; 100], Protocol::Http1),
            (vec![0x16, 0x03, 0x01], Protocol::Http1),
        ] {
            assert_eq!(detected(&[&sent]).await, Some((expected, sent.clone())), "{sent:?}");
            let bytes: Vec<&[u8]> = sent.chunks(1).collect();
            assert_eq!(detected(&bytes).await, Some((expected, sent.clone())), "{sent:?} byte by byte");
        }
        assert_eq!(detected(&[]).await, None);
    }
}
