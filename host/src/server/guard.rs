//! Which requests a browser may send here.
//!
//! Any page that somebody looks at can make the browser send requests to a server on the same machine. Two things tell
//! such requests apart: `Origin` names the page's own server, and `Host` names the machine that the page asked for, which
//! is not this one where a name server led the browser astray (DNS rebinding). Whoever is no browser names no origin.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Response, Uri};
use futures_util::future::{Either, ready};

use super::answers::{Answers, Refusal, refused};

/// Allows every `Host`.
const EVERY_HOST: &str = "*";

/// What a server on this machine alone is called by.
const LOOPBACK_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Longest name of a host that is allowed: that of DNS, with a port.
const NAME_MAX_BYTES: usize = 253 + ":65535".len();

/// The names by which clients may call the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHosts {
    /// As they were given, in small letters: `name` or `name:port`.
    given: Vec<String>,
    /// What `Host` may name whatever its port is, in small letters; none where it may name anything.
    known: Option<Vec<String>>,
}

/// A name of a host was none.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` is no name of a host: expected `name`, `name:port` or `*`")]
pub struct AllowedHostsError {
    name: String,
}

/// A request that a page of another server, or under another name, made a browser send.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForbiddenRequest {
    /// It calls this server by a name that it does not have.
    #[error("requests for the host `{host}` are not answered here: allow it by `--allowed-hosts`")]
    Host {
        /// The name.
        host: String,
    },
    /// It would change something for a page of another server.
    #[error("pages of `{origin}` may not change anything here: allow its host and port by `--allowed-hosts`")]
    Origin {
        /// The page's server.
        origin: String,
    },
}

impl AllowedHosts {
    /// What clients may call a server that listens on `ip`: on loopback its usual names and those that are given; elsewhere
    /// those that are given, or anything if none is.
    pub fn new(given: &[String], ip: IpAddr) -> Result<Self, AllowedHostsError> {
        let given: Vec<String> = given
            .iter()
            .map(|name| name.trim().to_ascii_lowercase())
            .filter(|name| !name.is_empty())
            .collect();
        if let Some(name) = given.iter().find(|name| *name != EVERY_HOST && !is_host(name)) {
            let name = name.chars().take(100).collect();
            return Err(AllowedHostsError { name });
        }
        let allows_all = given.iter().any(|name| name == EVERY_HOST) || given.is_empty() && !ip.is_loopback();
        let own = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let known = LOOPBACK_NAMES.into_iter().map(str::to_owned).chain([own]);
        Ok(Self { known: (!allows_all).then(|| known.collect()), given })
    }

    /// Whether a request may be answered. HTTP/2 names the host in the URI, and may do so in `Host` too; whatever names it
    /// must be right.
    fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), ForbiddenRequest> {
        let named = uri.authority().and_then(|named| HeaderValue::from_str(named.as_str()).ok());
        if let Some(host) = headers.get_all(HOST).iter().chain(&named).find(|host| !self.knows(host)) {
            return Err(ForbiddenRequest::Host { host: shown(host) });
        }
        if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
            // These change nothing, and a browser keeps the answer from pages of other servers.
            return Ok(());
        }
        let host = named.as_ref().or_else(|| headers.get(HOST));
        match headers.get_all(ORIGIN).iter().find(|origin| !self.is_own(origin, host)) {
            Some(origin) => Err(ForbiddenRequest::Origin { origin: shown(origin) }),
            None => Ok(()),
        }
    }

    fn knows(&self, host: &HeaderValue) -> bool {
        let Some(known) = &self.known else { return true };
        // As nearly everybody writes it.
        let plain = host.to_str().map(without_port).unwrap_or_default();
        if known.iter().any(|known| known == plain) {
            return true;
        }
        let Some(authority) = authority(host) else { return false };
        let name = authority.host();
        let is_named = |given: &String| given == authority.as_str() || given == name;
        known.iter().any(|known| known == name) || self.given.iter().any(is_named)
    }

    /// Whether a page is of this server, under the name and port that the request has or one that is allowed. The scheme
    /// may be another: a proxy may have taken TLS away.
    fn is_own(&self, origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
        let Some(origin) = origin.to_str().ok().map(str::to_ascii_lowercase) else { return false };
        let Some(origin) = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) else {
            return false;
        };
        let host = host.and_then(authority);
        host.is_some_and(|host| host.as_str() == origin) || self.given.iter().any(|given| given == origin)
    }
}

/// Whether text is a host with or without a port, and nothing more.
fn is_host(text: &str) -> bool {
    let authority =
        text.parse::<Authority>().ok().filter(|_| text.len() <= NAME_MAX_BYTES && !text.contains('@'));
    authority
        .is_some_and(|authority| authority.as_str() == authority.host() || authority.port_u16().is_some())
}

/// A host without its port, if that is one; other text as it is.
fn without_port(text: &str) -> &str {
    match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() && !port.starts_with('+') => host,
        _ => text,
    }
}

/// Host and port in small letters.
fn authority(value: &HeaderValue) -> Option<Authority> {
    let text = value.to_str().ok()?.to_ascii_lowercase();
    text.parse().ok().filter(|_| !text.contains('@'))
}

/// A header as a message shows it.
pub(super) fn shown(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).chars().take(100).collect()
}

/// What answers requests, behind the check.
#[derive(Clone)]
pub struct Guarded<A> {
    answers: A,
    hosts: Arc<AllowedHosts>,
}

impl<A> Guarded<A> {
    /// Puts the check in front of `answers`.
    pub fn new(answers: A, hosts: AllowedHosts) -> Self {
        Self { answers, hosts: Arc::new(hosts) }
    }
}

impl<A: Answers> Answers for Guarded<A> {
    fn answer(
        &self,
        request: Request,
        client: SocketAddr,
    ) -> impl Future<Output = Response<Body>> + Send + use<A> {
        match self.hosts.check(request.method(), request.uri(), request.headers()) {
            Ok(()) => Either::Left(self.answers.answer(request, client)),
            Err(why) => Either::Right(ready(refused(&self.answers, &request, client, &why.into()))),
        }
    }

    fn refuse(&self, request: &Request, client: SocketAddr, why: &Refusal) -> Response<Body> {
        self.answers.refuse(request, client, why)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use axum::Router;
    use http_body_util::BodyExt as _;

    use super::super::answers::Routed;
    use super::*;

    fn hosts(given: &[&str], ip: impl Into<IpAddr>) -> AllowedHosts {
        let given: Vec<String> = given.iter().map(|&name| name.to_owned()).collect();
        AllowedHosts::new(&given, ip.into()).unwrap()
    }

    fn is_allowed(hosts: &AllowedHosts, method: Method, host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        headers.extend(origin.map(|origin| (ORIGIN, origin.parse().unwrap())));
        hosts.check(&method, &Uri::from_static("/"), &headers).is_ok()
    }

    #[test]
    fn a_server_on_loopback_has_the_names_of_loopback() {
        let own = hosts(&[], Ipv4Addr::LOCALHOST);
        for host in
            ["localhost", "localhost:5000", "LocalHost:1", "127.0.0.1", "127.0.0.1:5000", "[::1]:5000"]
        {
            assert!(is_allowed(&own, Method::GET, host, None), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:5000",
            "localhost.evil.example",
            "127.0.0.1.evil.example:5000",
            "",
            "x@localhost",
            "localhost, x",
            "10.0.0.1",
            "[::2]",
        ] {
            assert!(!is_allowed(&own, Method::GET, host, None), "{host}");
        }
        assert!(is_allowed(&hosts(&[], Ipv4Addr::new(127, 0, 0, 2)), Method::GET, "127.0.0.2:1", None));
        assert!(is_allowed(&hosts(&[], Ipv6Addr::LOCALHOST), Method::GET, "localhost:1", None));
        let path = Uri::from_static("/");
        assert_eq!(own.check(&Method::POST, &path, &HeaderMap::new()), Ok(()), "no host at all");
        let mut twice = HeaderMap::new();
        twice.append(HOST, "localhost".parse().unwrap());
        twice.append(HOST, "evil.example".parse().unwrap());
        assert!(own.check(&Method::GET, &path, &twice).is_err());
    }

    #[test]
    fn the_host_that_a_uri_names_is_checked_as_that_of_the_header_is() {
        let own = hosts(&[], Ipv4Addr::LOCALHOST);
        let check = |uri: &str, host: Option<&str>, origin: Option<&str>| {
            let header = |name, value: Option<&str>| value.map(|value| (name, value.parse().unwrap()));
            let headers = [header(HOST, host), header(ORIGIN, origin)].into_iter().flatten().collect();
            own.check(&Method::POST, &uri.parse().unwrap(), &headers).is_ok()
        };
        assert!(check("http://localhost:5000/serve/m", None, None));
        assert!(!check("http://evil.example/serve/m", None, None));
        assert!(!check("http://evil.example/serve/m", Some("localhost:5000"), None));
        assert!(!check("http://localhost:5000/serve/m", Some("evil.example"), None));
        assert!(!check("http://user@localhost:5000/serve/m", None, None));
        assert!(check("http://localhost:5000/serve/m", None, Some("http://localhost:5000")));
        assert!(!check("http://localhost:5000/serve/m", None, Some("http://evil.example")));
        assert!(!check("http://localhost/serve/m", Some("localhost:1"), Some("http://localhost:1")));
    }

    #[test]
    fn names_can_be_added() {
        let proxied = hosts(&["ML.example", " other.example:8443 ", ""], Ipv4Addr::LOCALHOST);
        for host in ["ml.example", "ml.example:99", "other.example:8443", "localhost:5000"] {
            assert!(is_allowed(&proxied, Method::POST, host, None), "{host}");
        }
        assert!(!is_allowed(&proxied, Method::POST, "other.example", None));
        // A proxy may send its own name for the host, and the page's for the origin.
        assert!(is_allowed(&proxied, Method::POST, "localhost:5000", Some("https://ml.example")));
        assert!(!is_allowed(&proxied, Method::POST, "localhost:5000", Some("https://ml.example:1")));
        let open = hosts(&["*"], Ipv4Addr::LOCALHOST);
        assert!(is_allowed(&open, Method::POST, "evil.example", None));
        assert!(!is_allowed(&open, Method::POST, "localhost", Some("http://evil.example")));
        for name in ["http://x", "x/y", "x y", "a@b", "x:y", &"x".repeat(300)] {
            assert!(AllowedHosts::new(&[name.to_owned()], Ipv4Addr::LOCALHOST.into()).is_err(), "{name}");
        }
    }

    #[test]
    fn elsewhere_names_are_checked_only_where_some_are_given() {
        let open = hosts(&[], Ipv4Addr::UNSPECIFIED);
        assert!(is_allowed(&open, Method::POST, "anything.example", None));
        assert!(!is_allowed(&open, Method::POST, "anything.example", Some("http://evil.example")));
        let named = hosts(&["ml.example"], Ipv4Addr::UNSPECIFIED);
        assert!(is_allowed(&named, Method::GET, "ml.example:80", None));
        assert!(!is_allowed(&named, Method::GET, "anything.example", None));
    }

    #[test]
    fn pages_of_other_servers_may_read_but_not_write() {
        let own = hosts(&[], Ipv4Addr::LOCALHOST);
        let writes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        for method in writes {
            let post = |origin: &str| is_allowed(&own, method.clone(), "127.0.0.1:5000", Some(origin));
            assert!(post("http://127.0.0.1:5000") && post("https://127.0.0.1:5000"));
            for origin in [
                "null",
                "http://evil.example",
                "http://127.0.0.1",
                "http://127.0.0.1:8080",
                "http://localhost:5000",
                "http://127.0.0.1:5000.evil.example",
                "http://x@127.0.0.1:5000",
                "chrome-extension://127.0.0.1:5000",
                "",
                "http://127.0.0.1:5000/",
            ] {
                assert!(!post(origin), "{method} {origin}");
            }
        }
        assert!(is_allowed(&own, Method::GET, "127.0.0.1:5000", Some("http://evil.example")));
    }

    #[tokio::test]
    async fn what_is_refused_is_asked_of_nobody_and_has_no_body_for_head() {
        let refuse = |why: &Refusal| Response::new(Body::from(why.to_string()));
        let answers = Routed::new(Router::new().fallback(async || "secret"), refuse);
        let guarded = Guarded::new(answers, hosts(&[], Ipv4Addr::LOCALHOST));
        let client = SocketAddr::from(([127, 0, 0, 1], 1));
        let answer = async |method: Method, host: &str| {
            let request = Request::builder().method(method).uri("/").header(HOST, host);
            let answer = guarded.answer(request.body(Body::empty()).unwrap(), client).await;
            String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
        };
        assert_eq!(answer(Method::GET, "localhost").await, "secret");
        let why = "requests for the host `evil.example` are not answered here: allow it by `--allowed-hosts`";
        assert_eq!(answer(Method::GET, "evil.example").await, why);
        assert_eq!(answer(Method::HEAD, "evil.example").await, "");
    }

    #[test]
    fn ports_are_numbers() {
        for (text, name) in [
            ("localhost:80", "localhost"),
            ("localhost", "localhost"),
            ("[::1]:5000", "[::1]"),
            ("[::1]", "[::1]"),
            ("localhost:", "localhost:"),
            ("localhost:+80", "localhost:+80"),
            ("localhost:65536", "localhost:65536"),
            ("localhost:80@evil.example", "localhost:80@evil.example"),
        ] {
            assert_eq!(without_port(text), name);
        }
    }
}
