//! The one HTTP listener: accepts connections, bounds what each may take, and shuts down without dropping requests.
//!
//! Answers by what it knows nothing about ([`Answers`]), behind a check of who sends ([`Guarded`]). HTTP/1.1 and HTTP/2 share the port:
//! the first bytes of a connection tell which it is. Runs until it is told to stop, then closes the listener, answers what comes
//! on open connections within a moment, lets the requests under way finish within a grace period, and returns.

mod answers;
mod connection;
mod files;
mod guard;
mod head;
mod http2;
mod linger;
mod places;
mod preface;
mod quiet;
mod workers;
mod write_limit;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

pub use self::answers::{Answers, Refusal, Routed};
use self::connection::{Connections, Limits};
use self::files::{Failures, connections_max, is_for_want_of_files};
pub use self::guard::{AllowedHosts, AllowedHostsError, ForbiddenRequest, Guarded};
use self::quiet::Crowd;
use self::workers::Serving;
pub use self::workers::Workers;
use crate::task::polled_at_once;

/// Connections at once, where the system allows so many open files; more wait, all but one of them in the kernel's queue, until one
/// ends or one that idles makes room.
const CONNECTIONS_MAX: usize = 4_096;

/// What a client may do. Requests of HTTP/2 are as many as there may be connections, so that what a request may take is bounded as
/// it is where each has a connection of its own.
const LIMITS: Limits = Limits {
    last_call: Duration::from_millis(250),
    head: Duration::from_secs(60),
    crowded: Duration::from_secs(2),
    write: Duration::from_secs(60),
    place: Duration::from_secs(5),
    requests: CONNECTIONS_MAX,
    connections: CONNECTIONS_MAX,
};

/// Time that requests under way get at shutdown.
const GRACE: Duration = Duration::from_secs(10);

/// Pause after `accept` failed, for example for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// The listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Somebody else listens there.
    #[error("port {} of {} is in use", address.port(), address.ip())]
    PortInUse {
        /// The address.
        address: SocketAddr,
    },
    /// Any other reason.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// An open listener.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    limits: Limits,
}

impl Server {
    /// Opens the listener; port 0 takes any free one. From then on the process may have as many open files as the system allows
    /// it: each connection is one.
    pub async fn bind(ip: IpAddr, port: u16) -> Result<Self, ServerError> {
        let address = SocketAddr::new(ip, port);
        files::raise_limit();
        let opened = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address, limits: LIMITS })
        };
        opened.await.map_err(|source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AddrInUse => ServerError::PortInUse { address },
            _ => ServerError::Listen { address, source },
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers by `answers` until `stop` is ready, then drains. Connections are served by this runtime.
    pub async fn run(self, answers: impl Answers, stop: impl Future<Output = ()>) {
        let give = |connection| _ = tokio::spawn(connection);
        self.run_by(give, answers, stop).await;
    }

    /// Answers by `answers` until `stop` is ready, then drains. Connections are served by `workers`, and requests that are one
    /// of several of a connection at once by this runtime.
    pub async fn run_on(self, workers: &Workers, answers: impl Answers, stop: impl Future<Output = ()>) {
        self.run_by(|connection| workers.give(connection), answers, stop).await;
    }

    async fn run_by(self, give: impl Fn(Serving), answers: impl Answers, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let (stop_connections, stopping) = watch::channel(());
        let (tell_crowd, crowd) = Crowd::new();
        let connections = Connections::new(answers, self.limits, crowd, stopping);
        let places = Arc::new(Semaphore::new(connections_max(self.limits.connections)));
        let mut failures = Failures::default();
        let free_place = async || {
            if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                return Ok(place);
            }
            loop {
                tell_crowd.wants();
                let place = Arc::clone(&places).acquire_owned();
                if let Ok(place) = tokio::time::timeout(self.limits.crowded / 4, place).await {
                    tell_crowd.has_place();
                    return place;
                }
            }
        };
        let serve = |place: OwnedSemaphorePermit, stream: std::net::TcpStream, client: SocketAddr| {
            let connections = connections.clone();
            give(Box::pin(async move {
                match TcpStream::from_std(stream) {
                    Ok(stream) => polled_at_once(connections.serve(stream, client)).await,
                    Err(error) => tracing::warn!(%error, "could not serve a connection"),
                }
                drop(place);
            }));
        };
        loop {
            let accepted = async {
                let (stream, client) = self.listener.accept().await?;
                // The semaphore is never closed, so a missing permit cannot happen; treat it as an error to retry.
                let place = free_place().await.map_err(std::io::Error::other)?;
                // Who serves it waits for it by an event loop of its own.
                Ok::<_, std::io::Error>((place, stream.into_std()?, client))
            };
            let accepted = tokio::select! {
                accepted = accepted => accepted,
                () = &mut stop => break,
            };
            let (place, stream, client) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    failures.tell(&error);
                    if is_for_want_of_files(&error) {
                        tell_crowd.wants();
                    }
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            serve(place, stream, client);
        }
        stop_connections.send_replace(());
        // Those whose connections the system has taken already may have sent their requests.
        for (stream, client) in rest_of(self.listener) {
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { break };
            serve(place, stream, client);
        }
        drop(connections);
        if tokio::time::timeout(GRACE, stop_connections.closed()).await.is_err() {
            tracing::warn!("requests were still under way after {} s and were cut off", GRACE.as_secs());
        }
    }
}

/// The connections that wait to be accepted.
fn rest_of(listener: TcpListener) -> impl Iterator<Item = (std::net::TcpStream, SocketAddr)> {
    // As before, accepting waits for none.
    let listener = listener.into_std().ok();
    std::iter::from_fn(move || listener.as_ref()?.accept().ok())
        .filter(|(stream, _)| stream.set_nonblocking(true).is_ok())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::Write as _;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use axum::Router;
    use axum::body::{Body, Bytes, HttpBody};
    use axum::http::{Response, StatusCode};
    use axum::routing::get;
    use hyper::body::Frame;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::runtime::Handle;
    use tokio::sync::mpsc;

    use super::*;

    /// An answer without end, which tells when it is dropped.
    struct Endless {
        dropped: mpsc::UnboundedSender<()>,
    }

    impl Drop for Endless {
        fn drop(&mut self) {
            self.dropped.send(()).unwrap();
        }
    }

    impl HttpBody for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; 65_536])))))
        }
    }

    /// A server with these limits and an endless answer to `GET /`; where it listens, and what tells when an answer was let go.
    async fn serving(limits: Limits) -> (SocketAddr, mpsc::UnboundedReceiver<()>) {
        let mut server = Server::bind(IpAddr::from([127, 0, 0, 1]), 0).await.unwrap();
        server.limits = limits;
        let address = server.address();
        let (dropped, let_go) = mpsc::unbounded_channel();
        let endless = get(async move || Body::new(Endless { dropped: dropped.clone() }));
        tokio::spawn(server.run(routed(Router::new().route("/", endless)), std::future::pending()));
        (address, let_go)
    }

    const NEVER: Duration = Duration::from_secs(3_600);
    const SOON: Duration = Duration::from_millis(50);
    const FOREVER: Limits = Limits {
        last_call: NEVER,
        head: NEVER,
        crowded: NEVER,
        write: NEVER,
        place: NEVER,
        requests: 1,
        connections: 100,
    };

    fn routed(routes: Router) -> Routed {
        Routed::new(routes, |why| Response::new(Body::from(format!("refused: {why}"))))
    }

    /// The beginning of a connection of HTTP/2 whose client has room for `room` bytes of each answer.
    fn preface(room: u32) -> Vec<u8> {
        let settings = [&b"\0\0\x06\x04\0\0\0\0\0\0\x04"[..], &room.to_be_bytes()].concat();
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..]].concat()
    }

    /// `GET /` with the host `x`, as the first request of a connection of HTTP/2.
    const GET: &[u8] = b"\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x01\x01x";

    #[tokio::test]
    async fn lets_go_of_a_client_that_asks_and_never_reads() {
        for request in [
            b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
            [&preface(0x7fff_ffff)[..], b"\0\0\x04\x08\0\0\0\0\0\x7f\0\0\0", GET].concat(),
            [&preface(65_535)[..], GET].concat(),
            [&preface(0)[..], GET].concat(),
        ] {
            let (address, mut let_go) = serving(Limits { write: SOON, ..FOREVER }).await;
            let mut client = std::net::TcpStream::connect(address).unwrap();
            client.write_all(&request).unwrap();
            let let_go = tokio::time::timeout(Duration::from_secs(60), let_go.recv());
            let_go.await.expect("the connection is held for ever").unwrap();
        }
    }

    #[tokio::test]
    async fn lets_go_of_a_client_that_says_nothing_more() {
        for begun in [
            Vec::new(),
            b"P".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r".to_vec(),
            b"GET / HTTP/1.1\r\nhost:".to_vec(),
            preface(0),
            // Half the head of a request.
            [&preface(0)[..], &GET[..12]].concat(),
            [&preface(0)[..], b"\0\0\x01\x01\0\0\0\0\x01\x82"].concat(),
        ] {
            let (address, _) = serving(Limits { head: SOON, ..FOREVER }).await;
            let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
            client.write_all(&begun).await.unwrap();
            let closed = async { while client.read(&mut [0; 1_024]).await.is_ok_and(|count| count > 0) {} };
            tokio::time::timeout(Duration::from_secs(60), closed).await.expect("it is held for ever");
        }
    }

    #[tokio::test]
    async fn who_has_sent_half_a_request_and_reads_on_is_told_that_it_is_bad() {
        let server = Server::bind(IpAddr::from([127, 0, 0, 1]), 0).await.unwrap();
        let mut client = tokio::net::TcpStream::connect(server.address()).await.unwrap();
        let gone = StatusCode::from_u16(499).unwrap();
        let routes = Router::new().route("/", get(async move || gone));
        tokio::spawn(server.run(routed(routes), std::future::pending()));
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn connections_that_idle_make_room_for_others() {
        let answered = b"GET /none HTTP/1.1\r\nhost: x\r\n\r\n";
        for begun in [&b""[..], b"P", b"GET / HTTP/1.1\r\nhost:", answered, &preface(65_535)] {
            let (address, _) = serving(Limits { crowded: SOON, connections: 1, ..FOREVER }).await;
            let mut idle = tokio::net::TcpStream::connect(address).await.unwrap();
            idle.write_all(begun).await.unwrap();
            let mut other = tokio::net::TcpStream::connect(address).await.unwrap();
            other.write_all(b"GET /none HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            let read = tokio::time::timeout(Duration::from_secs(60), other.read_to_end(&mut answer));
            read.await.expect("it waits for the one that idles").unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 404"), "{}", answer.escape_ascii());
        }
        // Whose request is under way stays.
        let (address, mut let_go) = serving(Limits { crowded: SOON, connections: 1, ..FOREVER }).await;
        let mut asking = tokio::net::TcpStream::connect(address).await.unwrap();
        asking.write_all(&[&preface(1)[..], GET].concat()).await.unwrap();
        let mut other = tokio::net::TcpStream::connect(address).await.unwrap();
        other.write_all(answered).await.unwrap();
        let early = tokio::time::timeout(8 * SOON, let_go.recv()).await;
        assert!(early.is_err(), "the request was let go");
    }

    #[tokio::test]
    async fn a_request_of_http_2_has_no_more_headers_than_one_of_http_1() {
        let (address, _let_go) = serving(Limits { requests: 2, ..FOREVER }).await;
        // `GET /` and then the first of HPACK's own names again and again.
        let with_fields = |count: u8| {
            let block = [&GET[9..], &b"\x0f\x04\x01a".repeat(usize::from(count))[..]].concat();
            let head = [&(block.len() as u32).to_be_bytes()[1..], b"\x01\x05\0\0\0\x01"].concat();
            [&preface(65_535)[..], &head, &block].concat()
        };
        for (count, is_taken) in [(100, true), (101, false)] {
            let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
            client.write_all(&with_fields(count)).await.unwrap();
            let data = async {
                loop {
                    let (mut head, mut frame) = ([0; 9], Vec::new());
                    client.read_exact(&mut head).await.unwrap();
                    frame.resize(u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize, 0);
                    client.read_exact(&mut frame).await.unwrap();
                    if head[3] == 0 {
                        return frame;
                    }
                }
            };
            let data = tokio::time::timeout(Duration::from_secs(60), data).await.expect("no answer");
            let refused = b"refused: expected at most 100 headers, found more";
            assert_eq!(data != refused, is_taken, "{count}: {}", data.escape_ascii());
        }
    }

    #[tokio::test]
    async fn who_finds_no_place_is_told_so() {
        let (address, _let_go) = serving(Limits { place: SOON, ..FOREVER }).await;
        // One has the only place for as long as its client takes nothing of an answer without end.
        let mut endless = tokio::net::TcpStream::connect(address).await.unwrap();
        endless.write_all(&[&preface(1)[..], GET].concat()).await.unwrap();
        let is_begun = async {
            let (mut seen, mut piece) = (Vec::new(), [0; 1_024]);
            while !seen.windows(10).any(|frame| frame == b"\0\0\x01\0\0\0\0\0\x01\0") {
                let count = endless.read(&mut piece).await.unwrap();
                seen.extend_from_slice(&piece[..count]);
            }
        };
        tokio::time::timeout(Duration::from_secs(60), is_begun).await.expect("a byte of the answer");
        let mut other = tokio::net::TcpStream::connect(address).await.unwrap();
        other.write_all(&[&preface(65_535)[..], GET].concat()).await.unwrap();
        let refused = async {
            let (mut seen, mut piece) = (Vec::new(), [0; 1_024]);
            while !seen.ends_with(b"refused: too many requests are under way: try again") {
                let count = other.read(&mut piece).await.unwrap();
                assert_ne!(count, 0, "{}", seen.escape_ascii());
                seen.extend_from_slice(&piece[..count]);
            }
        };
        tokio::time::timeout(Duration::from_secs(60), refused).await.expect("it waits for ever");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn workers_answer_what_is_under_way_when_the_server_stops() {
        let server = Server::bind(IpAddr::from([127, 0, 0, 1]), 0).await.unwrap();
        let (address, workers) = (server.address(), Workers::start(2, &Handle::current()).unwrap());
        let (begun, mut begins) = mpsc::unbounded_channel();
        let (finish, finishing) = watch::channel(false);
        let slow = get(async move || {
            begun.send(Handle::current().id()).unwrap();
            let mut finishing = finishing.clone();
            finishing.wait_for(|finishing| *finishing).await.unwrap();
            "done"
        });
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let routes = routed(Router::new().route("/", slow));
        let running = tokio::spawn(async move {
            server.run_on(&workers, routes, async { _ = stopped.await }).await;
        });
        let mut clients = Vec::new();
        let mut threads = Vec::new();
        for request in [
            b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
            [&preface(65_535)[..], GET].concat(),
            b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
            [&preface(65_535)[..], GET].concat(),
        ] {
            let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
            client.write_all(&request).await.unwrap();
            threads.push(begins.recv().await.unwrap());
            clients.push(client);
        }
        assert_ne!(threads[0], threads[1], "each worker has a connection");
        assert_eq!(threads[..2], threads[2..], "and another one");
        assert!(!threads.contains(&Handle::current().id()));
        stop.send(()).unwrap();
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!running.is_finished());
        finish.send(true).unwrap();
        for mut client in clients {
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert!(answer.windows(4).any(|piece| piece == b"done"), "{}", answer.escape_ascii());
        }
        running.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_sent_before_the_stop_and_soon_after_it_is_answered() {
        let mut server = Server::bind(IpAddr::from([127, 0, 0, 1]), 0).await.unwrap();
        server.limits = Limits { last_call: Duration::from_secs(3), connections: 1_000, ..FOREVER };
        let (address, workers) = (server.address(), Workers::start(2, &Handle::current()).unwrap());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let routes = routed(Router::new().route("/", get("done")));
        let running = tokio::spawn(async move {
            server.run_on(&workers, routes, async { _ = stopped.await }).await;
        });
        let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        let connect = || tokio::net::TcpStream::connect(address);
        let mut kept = Vec::new();
        for _ in 0..100 {
            let mut client = connect().await.unwrap();
            client.write_all(request).await.unwrap();
            let mut first = [0; 1_024];
            assert!(client.read(&mut first).await.unwrap() > 0);
            kept.push(client);
        }
        let mut silent = connect().await.unwrap();
        let mut clients = Vec::new();
        for mut client in kept {
            client.write_all(request).await.unwrap();
            clients.push(client);
        }
        for _ in 0..100 {
            let mut client = connect().await.unwrap();
            client.write_all(request).await.unwrap();
            clients.push(client);
        }
        stop.send(()).unwrap();
        while connect().await.is_ok() {
            tokio::task::yield_now().await;
        }
        silent.write_all(request).await.unwrap();
        clients.push(silent);
        let mut answers = Vec::new();
        for mut client in clients {
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answers.push(String::from_utf8_lossy(&answer).to_lowercase());
        }
        assert_eq!(answers.iter().filter(|answer| answer.ends_with("done")).count(), 201);
        assert!(answers[200].contains("connection: close"), "{}", answers[200]);
        running.await.unwrap();
    }
}
