use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::linger::{Lingering, Unread, WatchedBody};
use super::places::Places;
use super::preface::{Protocol, Reread, detect};
use super::quiet::{Crowd, Quiet};
use super::write_limit::WriteLimit;
use super::{Answers, http2};

/// Bytes of a request's head.
pub(super) const HEADER_MAX_BYTES: usize = 64 * 1024;

/// What every connection is served with.
#[derive(Clone)]
pub(super) struct Connections<A> {
    pub(super) answers: A,
    pub(super) limits: Limits,
    /// Places for requests of HTTP/2.
    pub(super) places: Places,
    /// Tells that others wait for places of connections.
    pub(super) crowd: Crowd,
    /// Changes when the server is told to stop. Who waits for the end of all connections waits until nobody has it.
    pub(super) stopping: watch::Receiver<()>,
}

/// How long a client may do nothing, and how much is done at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// For a client to send the head of a request, and before it the first bytes that say what it speaks; also the longest a
    /// connection may idle.
    pub(super) head: Duration,
    /// For a connection to idle while others wait for its place.
    pub(super) crowded: Duration,
    /// For a client to take some of an answer.
    pub(super) write: Duration,
    /// For a request of HTTP/2 to wait for a place.
    pub(super) place: Duration,
    /// Requests of HTTP/2 that are answered at once, of all connections together.
    pub(super) requests: usize,
    /// Connections at once.
    pub(super) connections: usize,
}

impl<A: Answers> Connections<A> {
    /// Answers by `answers` until `stopping` changes.
    pub(super) fn new(answers: A, limits: Limits, crowd: Crowd, stopping: watch::Receiver<()>) -> Self {
        let places = Places::new(limits.requests, limits.place);
        Self { answers, limits, places, crowd, stopping }
    }

    /// Serves a connection until its end. What it speaks is told by its first bytes.
    pub(super) async fn serve(mut self, stream: TcpStream, client: SocketAddr) {
        // Answers are small; waiting to fill a packet only delays them.
        let _ = stream.set_nodelay(true);
        // A look at the sockets, or what has come already would not be known yet.
        tokio::task::yield_now().await;
        let mut in_the_way = Quiet::new(self.limits.crowded);
        let crowded = async {
            loop {
                self.crowd.waits().await;
                if in_the_way.has_lasted(Instant::now(), 0, false) && self.crowd.claims() {
                    return;
                }
            }
        };
        let detected = tokio::select! {
            // What has come before the server was told to stop is answered.
            biased;
            detected = tokio::time::timeout(self.limits.head, detect(stream)) => detected,
            _ = self.stopping.changed() => return,
            () = crowded => return,
        };
        let served = match detected {
            Ok(Ok(Some((Protocol::Http1, stream)))) => self.serve_http1(stream, client).await,
            Ok(Ok(Some((Protocol::Http2, stream)))) => http2::serve(stream, client, self).await,
            // Nothing was asked in time, or ever.
            Ok(Ok(None) | Err(_)) | Err(_) => return,
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a connection ended badly");
        }
    }

    async fn serve_http1(mut self, stream: Reread, client: SocketAddr) -> hyper::Result<()> {
        let unread = Unread::default();
        let stream = Lingering::new(WriteLimit::new(stream, self.limits.write), unread.clone());
        let answers = self.answers;
        let (begun, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let requests = (Arc::clone(&begun), Arc::clone(&ended));
        let service = service_fn(move |request: Request<Incoming>| {
            requests.0.fetch_add(1, Ordering::Relaxed);
            let ended = Arc::clone(&requests.1);
            let request = request.map(|body| Body::new(WatchedBody::new(body, unread.clone())));
            let answer = answers.answer(request, client);
            let unread = unread.clone();
            async move {
                let mut answer = answer.await;
                if unread.get() {
                    // Or the client would send its next request on a connection that is about to close.
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                ended.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Infallible>(answer)
            }
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.limits.head)
                .max_buf_size(HEADER_MAX_BYTES)
                .serve_connection(TokioIo::new(stream), service)
        );
        let mut in_the_way = Quiet::new(self.limits.crowded);
        loop {
            tokio::select! {
                // What has come is read before it is told to go.
                biased;
                served = connection.as_mut() => return served,
                _ = self.stopping.changed() => break,
                () = self.crowd.waits() => {
                    let begun = begun.load(Ordering::Relaxed);
                    let is_asked = begun > ended.load(Ordering::Relaxed);
                    match in_the_way.has_lasted(Instant::now(), begun, is_asked) && self.crowd.claims() {
                        // There is no answer that could be under way.
                        true if begun == 0 => return Ok(()),
                        true => break,
                        false => {}
                    }
                }
            }
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    }
}
