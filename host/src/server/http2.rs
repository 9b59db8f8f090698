use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::answers::{Answers, Refusal, refused};
use super::connection::Connections;
use super::preface::Reread;
use super::quiet::Quiet;
use super::write_limit::WriteLimit;
use crate::task::shared_threads;

/// Requests at once on one connection. RFC 9113 asks for at least 100.
const STREAMS_MAX: u32 = 128;

/// Bytes of a request's headers, with 32 more for each, as RFC 9113 counts them (section 6.5.2). A client can say them in a few.
const HEADERS_MAX_BYTES: u32 = 16 * 1024;

/// Headers of a request, as of HTTP/1.1.
const FIELDS_MAX: usize = 100;

/// Requests that a client has sent and taken back before they were looked at; a client with more is flooding
/// (CVE-2023-44487, CVE-2019-9514).
const PENDING_RESETS_MAX: usize = 32;

/// Streams that we have reset for what a client did wrong on them (CVE-2025-8671).
const ERROR_RESETS_MAX: usize = 64;

/// How often a peer is asked whether it is still there, and how long it has to say so.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_MAX: Duration = Duration::from_secs(20);

/// Bytes of one request that a client may send ahead: enough to fill a fast network that is near. What all connections may have
/// unread is a few GiB at worst, most of it what small frames take.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;

/// Bytes of all its requests together. h2 ends a connection whose small frames, while nobody has read them, cost more than half of
/// that, each the 256 bytes or so that it takes in memory less its own. So it is many times what one request may send ahead:
/// several streams of requests of some 25 bytes that wait behind a slow one do not use that up.
const WINDOW_BYTES: u32 = 64 * STREAM_WINDOW_BYTES;

/// Bytes of an answer that are handed over at once, whatever the client has room for: a frame.
const PIECE_BYTES: usize = 16 * 1024;

/// In how many looks a time goes by. A connection is only looked at, so it may idle for one part longer.
const LOOKS: u32 = 4;

/// Serves a connection of HTTP/2 until its end. Closes it when no request was under way for the time that one of HTTP/1.1 may
/// idle, which is less where others wait for its place, or when the client takes nothing of the answers that it has asked for.
pub(super) async fn serve<A: Answers>(
    stream: Reread,
    client: SocketAddr,
    mut connections: Connections<A>,
) -> hyper::Result<()> {
    let limits = connections.limits;
    let activity = Arc::new(Activity::default());
    let (watched, places) = (Arc::clone(&activity), connections.places);
    let answers = connections.answers;
    let service = service_fn(move |request: Request<Incoming>| {
        let open = Open::new(Arc::clone(&watched));
        let beside = watched.seen().open;
        let (answers, places) = (answers.clone(), places.clone());
        async move {
            let request = request.map(Body::new);
            let place = match request.headers().len() > FIELDS_MAX {
                true => Err(Refusal::TooManyHeaders { limit: FIELDS_MAX }),
                false => places.take(beside).await.map_err(|waited| Refusal::Busy { waited }),
            };
            let (place, answer) = match place {
                Ok(place) => (Some(place), answers.answer(request, client).await),
                Err(why) => (None, refused(&answers, &request, client, &why)),
            };
            Ok::<_, Infallible>(answer.map(|body| AnswerBody::new(body, open, place)))
        }
    });
    let stream = TokioIo::new(WriteLimit::new(stream, limits.write));
    let threads = Threads { activity: Arc::clone(&activity) };
    let mut connection = pin!(
        http2::Builder::new(threads)
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_MAX)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADERS_MAX_BYTES)
            .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
            .max_local_error_reset_streams(ERROR_RESETS_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .serve_connection(stream, service)
    );
    let mut is_stopping = false;
    let (mut idle, mut stuck) = (Quiet::new(limits.head), Quiet::new(limits.write));
    let mut in_the_way = Quiet::new(limits.crowded);
    let mut look = tokio::time::interval(limits.head.min(limits.write) / LOOKS);
    loop {
        tokio::select! {
            served = connection.as_mut() => return served,
            _ = connections.stopping.changed(), if !is_stopping => {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = connections.crowd.waits() => {
                let seen = activity.seen();
                if in_the_way.has_lasted(Instant::now(), seen.begun, seen.open > 0) && connections.crowd.claims() {
                    if std::mem::replace(&mut is_stopping, true) {
                        return Ok(());
                    }
                    connection.as_mut().graceful_shutdown();
                }
            }
            now = look.tick() => {
                let seen = activity.seen();
                if stuck.lasts(now, seen.taken, seen.untaken == 0) {
                    tracing::debug!("a client takes nothing of its answers");
                    return Ok(());
                }
                if idle.lasts(now, seen.begun, seen.open > 0) {
                    // The client had as long to go as it had to ask.
                    if std::mem::replace(&mut is_stopping, true) {
                        return Ok(());
                    }
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Who answers the requests of a connection: its own thread the only one, and whatever thread is free several at once, which
/// would wait for each other there.
#[derive(Clone)]
struct Threads {
    activity: Arc<Activity>,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Threads {
    fn execute(&self, request: F) {
        let is_alone = self.activity.seen().open <= 1;
        match shared_threads().filter(|_| !is_alone) {
            Some(threads) => threads.spawn(request),
            None => tokio::spawn(request),
        };
    }
}

/// What goes on on a connection.
#[derive(Default)]
struct Activity {
    /// Requests that have begun.
    begun: AtomicU64,
    /// Requests that have ended.
    ended: AtomicU64,
    /// How often a client has made room for more of an answer.
    taken: AtomicU64,
    /// Answers that wait for room.
    untaken: AtomicU64,
}

/// [`Activity`] at one time.
struct Seen {
    begun: u64,
    open: u64,
    taken: u64,
    untaken: u64,
}

impl Activity {
    fn seen(&self) -> Seen {
        let ended = self.ended.load(Ordering::Acquire);
        let begun = self.begun.load(Ordering::Acquire);
        Seen {
            begun,
            open: begun.saturating_sub(ended),
            taken: self.taken.load(Ordering::Relaxed),
            untaken: self.untaken.load(Ordering::Relaxed),
        }
    }
}

/// A request under way, until it is dropped.
struct Open(Arc<Activity>);

impl Open {
    fn new(activity: Arc<Activity>) -> Self {
        activity.begun.fetch_add(1, Ordering::AcqRel);
        Self(activity)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::AcqRel);
    }
}

/// An answer, in pieces that are handed over as the client makes room for them. Its request is under way until the last of
/// them.
struct AnswerBody {
    body: Body,
    /// What is left of a frame.
    rest: Bytes,
    open: Open,
    /// Whether nobody has asked for more since it began or gave a piece, because the client has no room.
    is_untaken: bool,
    _place: Option<OwnedSemaphorePermit>,
}

impl AnswerBody {
    fn new(body: Body, open: Open, place: Option<OwnedSemaphorePermit>) -> Self {
        let mut answer = Self { body, rest: Bytes::new(), open, is_untaken: false, _place: place };
        answer.set_untaken(true);
        answer
    }

    fn set_untaken(&mut self, is_untaken: bool) {
        let activity = &self.open.0;
        match (self.is_untaken, is_untaken) {
            (false, true) => _ = activity.untaken.fetch_add(1, Ordering::Relaxed),
            (true, false) => {
                activity.untaken.fetch_sub(1, Ordering::Relaxed);
                activity.taken.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        self.is_untaken = is_untaken;
    }

    /// The next piece of `rest`, which is put back without it.
    fn piece(&mut self, mut rest: Bytes) -> Frame<Bytes> {
        let piece = rest.split_to(rest.len().min(PIECE_BYTES));
        self.rest = rest;
        self.set_untaken(true);
        Frame::data(piece)
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.set_untaken(false);
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.set_untaken(false);
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            return Poll::Ready(Some(Ok(self.piece(rest))));
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            Ok(match frame?.into_data() {
                Ok(data) => self.piece(data),
                Err(trailers) => trailers,
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use axum::Router;
    use axum::http::Response;
    use axum::routing::post;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::runtime::Handle;
    use tokio::sync::oneshot;

    use super::super::{Routed, Server};
    use super::*;
    use crate::task::work_as;

    const PING: u8 = 6;
    const SETTINGS: u8 = 4;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// Reads on until there is a frame of this kind and with these flags; false at the end of the connection.
    async fn finds(client: &mut TcpStream, kind: u8, flags: u8) -> bool {
        loop {
            let (mut head, mut payload) = ([0; 9], Vec::new());
            if client.read_exact(&mut head).await.is_err() {
                return false;
            }
            payload.resize(u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize, 0);
            if client.read_exact(&mut payload).await.is_err() {
                return false;
            }
            if head[3..5] == [kind, flags] {
                return true;
            }
        }
    }

    /// Whether a connection goes on that has sent, of each of so many requests, so many pieces of this length which nobody reads.
    async fn bears(requests: u32, pieces: usize, length: usize) -> bool {
        let server = Server::bind(IpAddr::from([127, 0, 0, 1]), 0).await.unwrap();
        let address = server.address();
        let never = post(async |request: Request| {
            std::future::pending::<()>().await;
            drop(request);
        });
        let routes = Routed::new(Router::new().route("/", never), |_| Response::default());
        let running = tokio::spawn(server.run(routes, std::future::pending()));
        let mut client = TcpStream::connect(address).await.unwrap();
        let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, b"")[..]].concat();
        client.write_all(&begin).await.unwrap();
        assert!(finds(&mut client, SETTINGS, 0).await);
        // There is more room from then on.
        let settled = [frame(SETTINGS, 1, 0, b""), frame(PING, 0, 0, &[0; 8])].concat();
        client.write_all(&settled).await.unwrap();
        assert!(finds(&mut client, PING, 1).await);
        for stream in (0..requests).map(|index| 2 * index + 1) {
            let head = frame(1, 4, stream, b"\x83\x86\x84\x01\x01x");
            let body = frame(0, 0, stream, &vec![b' '; length]).repeat(pieces);
            // The server may have closed the connection before all of it was sent.
            let _ = client.write_all(&[head, body].concat()).await;
        }
        let _ = client.write_all(&frame(PING, 0, 0, &[1; 8])).await;
        let goes_on = tokio::time::timeout(Duration::from_secs(60), finds(&mut client, PING, 1)).await;
        running.abort();
        goes_on.expect("nothing is told")
    }

    #[tokio::test]
    async fn small_pieces_that_nobody_reads_yet_end_no_connection() {
        // As many as there may be of a request.
        assert!(bears(3, STREAM_WINDOW_BYTES as usize / 25, 25).await);
        assert!(bears(7, STREAM_WINDOW_BYTES as usize / 50, 50).await);
    }

    #[tokio::test]
    async fn pieces_that_take_far_more_memory_than_they_hold_do() {
        assert!(!bears(1, 40_000, 1).await);
    }

    #[test]
    fn requests_that_are_several_at_once_wait_for_no_single_thread() {
        let others = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let shared = others.handle().clone();
        let worker = std::thread::spawn(move || {
            let ids = (shared.id(), tokio::runtime::Builder::new_current_thread().build().unwrap());
            work_as(0, shared);
            ids.1.block_on(async {
                let threads = Threads { activity: Arc::default() };
                let mut open = Vec::new();
                for is_alone in [true, false, false] {
                    open.push(Open::new(Arc::clone(&threads.activity)));
                    let (tell, told) = oneshot::channel();
                    threads.execute(async move { tell.send(Handle::current().id()).unwrap() });
                    let expected = if is_alone { Handle::current().id() } else { ids.0 };
                    assert_eq!(told.await.unwrap(), expected);
                }
            });
        });
        worker.join().unwrap();
    }
}
