//! The one HTTP listener: accepts connections, bounds what each may take, and shuts down without dropping requests.
//!
//! Mounts routers that it knows nothing about, behind a check of who sends ([`guarded`]). Runs until it is told to stop,
//! then closes the listener, lets the requests under way finish within a grace period, and returns.

mod guard;
mod linger;
mod write_limit;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use self::guard::{AllowedHosts, AllowedHostsError, ForbiddenRequest, guarded};
use self::linger::{Lingering, Unread, WatchedBody};
use self::write_limit::WriteLimit;

/// Time for a client to send the head of a request; also the longest a connection may idle.
const HEADER_READ_MAX: Duration = Duration::from_secs(60);

/// Time for a client to take some of an answer.
const WRITE_MAX: Duration = Duration::from_secs(60);

/// Bytes of a request's head.
const HEADER_MAX_BYTES: usize = 64 * 1024;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4_096;

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
    write_max: Duration,
}

impl Server {
    /// Opens the listener; port 0 takes any free one.
    pub async fn bind(ip: IpAddr, port: u16) -> Result<Self, ServerError> {
        let address = SocketAddr::new(ip, port);
        let opened = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address, write_max: WRITE_MAX })
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

    /// Serves `router` until `stop` is ready, then drains.
    pub async fn run(self, router: Router, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let connections = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let accepted = async {
                // The semaphore is never closed, so a missing permit cannot happen; treat it as an error to retry.
                let place = Arc::clone(&places).acquire_owned().await.map_err(std::io::Error::other)?;
                let (stream, _) = self.listener.accept().await?;
                Ok::<_, std::io::Error>((place, stream))
            };
            let accepted = tokio::select! {
                accepted = accepted => accepted,
                () = &mut stop => break,
            };
            let (place, stream) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            // Answers are small; waiting to fill a packet only delays them.
            let _ = stream.set_nodelay(true);
            let unread = Unread::default();
            let stream = Lingering::new(WriteLimit::new(stream, self.write_max), unread.clone());
            let router = TowerToHyperService::new(router.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = router.call(request.map(|body| WatchedBody::new(body, unread.clone())));
                let unread = unread.clone();
                async move {
                    let mut answer = answer.await?;
                    if unread.get() {
                        // Or the client would send its next request on a connection that is about to close.
                        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok::<_, Infallible>(answer)
                }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_READ_MAX)
                .max_buf_size(HEADER_MAX_BYTES)
                .serve_connection(TokioIo::new(stream), service);
            let connection = connections.watch(connection);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection ended badly");
                }
                drop(place);
            });
        }
        drop(self.listener);
        if tokio::time::timeout(GRACE, connections.shutdown()).await.is_err() {
            tracing::warn!("requests were still under way after {} s and were cut off", GRACE.as_secs());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use axum::body::{Body, Bytes, HttpBody};
    use axum::routing::get;
    use hyper::body::Frame;
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

    #[tokio::test]
    async fn lets_go_of_a_client_that_asks_and_never_reads() {
        let mut server = Server::bind(IpAddr::from([127, 0, 0, 1]), 0).await.unwrap();
        server.write_max = Duration::from_millis(50);
        let address = server.address();
        let (dropped, mut let_go) = mpsc::unbounded_channel();
        let endless = get(async move || Body::new(Endless { dropped: dropped.clone() }));
        let running = tokio::spawn(server.run(Router::new().route("/", endless), std::future::pending()));
        let mut client = std::net::TcpStream::connect(address).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let let_go = tokio::time::timeout(Duration::from_secs(60), let_go.recv());
        let_go.await.expect("the connection is held for ever").unwrap();
        running.abort();
    }
}
