use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, StatusCode};
use futures_util::future::{Either, ready};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::answers::refused;
use super::linger::{Lingering, Unread, WatchedBody};
use super::places::Places;
use super::preface::{Protocol, Reread, detect};
use super::quiet::{Crowd, Quiet};
use super::write_limit::WriteLimit;
use super::{Answers, head, http2};

/// Bytes of a request's head.
pub(super) const HEADER_MAX_BYTES: usize = 64 * 1024;

/// The status, told in logs, of a request whose client seems to have gone in the middle of it.
const CLIENT_GONE: u16 = 499;

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
    /// For a client to send a request after the server is told to stop: it may be on its way.
    pub(super) last_call: Duration,
    /// For a request of HTTP/2 to wait for a place.
    pub(super) place: Duration,
    /// Requests of HTTP/2 that are answered at once, of all connections together.
    pub(super) requests: usize,
    /// Connections at once.
    pub(super) connections: usize,
}

/// What was asked over a connection of HTTP/1.1.
#[derive(Default)]
struct Asked {
    begun: AtomicU64,
    ended: AtomicU64,
    /// Whether the connection closes after the answer that is made.
    is_last: AtomicBool,
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
        let mut stopping = self.stopping.clone();
        let last_call = async {
            _ = stopping.changed().await;
            tokio::time::sleep(self.limits.last_call).await;
        };
        let detected = tokio::select! {
            biased;
            detected = tokio::time::timeout(self.limits.head, detect(stream)) => detected,
            () = last_call => return,
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
        let asked = Arc::new(Asked::default());
        let counted = Arc::clone(&asked);
        let service = service_fn(move |request: Request<Incoming>| {
            counted.begun.fetch_add(1, Ordering::Relaxed);
            let counted = Arc::clone(&counted);
            let request = request.map(|body| Body::new(WatchedBody::new(body, unread.clone())));
            let answer = match head::check(request.version(), request.headers()) {
                Ok(()) => Either::Left(answers.answer(request, client)),
                Err(why) => {
                    let mut answer = refused(&answers, &request, client, &why);
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    Either::Right(ready(answer))
                }
            };
            let unread = unread.clone();
            async move {
                let mut answer = answer.await;
                if answer.status().as_u16() == CLIENT_GONE {
                    // Who has only stopped sending may still read it: half a request is a bad one.
                    *answer.status_mut() = StatusCode::BAD_REQUEST;
                }
                if unread.get() || counted.is_last.load(Ordering::Relaxed) {
                    // Or the client would send its next request on a connection that is about to close.
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                counted.ended.fetch_add(1, Ordering::Relaxed);
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
                biased;
                _ = self.stopping.changed() => {
                    asked.is_last.store(true, Ordering::Relaxed);
                    let last_call = tokio::time::sleep(self.limits.last_call);
                    tokio::select! {
                        biased;
                        served = connection.as_mut() => return served,
                        () = last_call => break,
                    }
                }
                served = connection.as_mut() => return served,
                () = self.crowd.waits() => {
                    let begun = asked.begun.load(Ordering::Relaxed);
                    let is_asked = begun > asked.ended.load(Ordering::Relaxed);
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
