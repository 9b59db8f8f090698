use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Time for a client to end its side once it has got its last answer.
const LINGER_MAX: Duration = Duration::from_secs(30);

/// Whether the client may still be sending a body that nobody wants.
#[derive(Clone, Default)]
pub(super) struct Unread(Arc<AtomicBool>);

impl Unread {
    /// Whether a body was let go before its end.
    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A request's body, which tells if it is let go before its end.
pub(super) struct WatchedBody<B: Body> {
    body: B,
    ended: bool,
    unread: Unread,
}

impl<B: Body> WatchedBody<B> {
    /// Tells `unread`.
    pub(super) fn new(body: B, unread: Unread) -> Self {
        Self { body, ended: false, unread }
    }
}

impl<B: Body> Drop for WatchedBody<B> {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            self.unread.0.store(true, Ordering::Relaxed);
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for WatchedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.ended |= matches!(frame, Poll::Ready(None));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that is closed only when the client has ended its side, if the client may still be sending.
///
/// A socket that is closed with bytes unread resets the connection, and the reset overtakes the answer: a client whose
/// body was refused would see a broken connection and never the reason (RFC 9112, section 9.6).
pub(super) struct Lingering<S> {
    stream: S,
    unread: Unread,
    limit: Duration,
    /// When to close all the same; none until the answers are out.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Lingering<S> {
    /// Lingers if `unread` says so when the stream ends.
    pub(super) fn new(stream: S, unread: Unread) -> Self {
        Self { stream, unread, limit: LINGER_MAX, deadline: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deadline.is_none() {
            std::task::ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            if !self.unread.get() {
                return Poll::Ready(Ok(()));
            }
        }
        let limit = self.limit;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut bytes = [0; 8_192];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match std::task::ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // Its end, and a connection that broke, leave nothing to wait for.
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn connected(unread: bool) -> (std::net::TcpStream, Lingering<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        (client, Lingering::new(stream, Unread(Arc::new(AtomicBool::new(unread)))))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_that_is_still_sending_sees_the_answer() {
        let (mut client, mut stream) = connected(true).await;
        let sending = tokio::task::spawn_blocking(move || {
            // More than the buffers of both sides hold, so that it cannot be done before the answer comes.
            client.write_all(&vec![0; 32 << 20]).unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            answer
        });
        stream.write_all(b"no").await.unwrap();
        stream.shutdown().await.unwrap();
        drop(stream);
        assert_eq!(sending.await.unwrap(), "no");
    }

    #[tokio::test]
    async fn a_client_that_never_ends_is_not_waited_for_beyond_the_limit() {
        let (_client, mut stream) = connected(true).await;
        stream.limit = Duration::from_millis(50);
        stream.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn nobody_is_waited_for_who_has_sent_everything() {
        let (_client, mut stream) = connected(false).await;
        stream.limit = Duration::from_secs(3_600);
        stream.shutdown().await.unwrap();
    }

    #[test]
    fn a_body_tells_if_it_was_let_go_before_its_end() {
        let unread = Unread::default();
        drop(WatchedBody::new(axum::body::Body::empty(), unread.clone()));
        assert!(!unread.get());
        drop(WatchedBody::new(axum::body::Body::from("some"), unread.clone()));
        assert!(unread.get());
    }
}
