//! What is told of each request, for who wants it: a line of the access log, and the spans of a trace.
//!
//! Routes leave a [`Seen`] in their responses; [`observed`] reads it behind them, together with what HTTP knows. A stream of
//! requests is told by itself ([`ObservedStream`]). Without a log and traces nothing of this is there, and a request pays
//! nothing.

mod access_log;
mod export;
mod span_queue;
mod stream;
mod traces;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, Response};
use axum::middleware::{Next, from_fn};
use opentelemetry::Context;
use opentelemetry::trace::{Span as _, TraceContextExt as _};
use opentelemetry_sdk::trace::Span;

#[cfg(test)]
pub(super) use self::access_log::tests::Kept;
pub use self::access_log::{AccessLog, AccessLogError};
pub use self::export::{TraceError, Traces};
pub(super) use self::stream::ObservedStream;
use super::answer::CLIENT_CLOSED_REQUEST;
use super::graph::{bundles_of, versions_of};
use super::{ApiError, Deployment, ErrorCode, Part, StageTimes};
use crate::domain::Name;

/// As much of an error's sentence as is told.
const MESSAGE_MAX_CHARS: usize = 300;

/// What is told where the client went away before its answer was there.
static CANCELLED: SeenError = SeenError {
    code: ErrorCode::Cancelled,
    message: Cow::Borrowed("the client went away before the answer was there"),
};

/// What a route knows of the request that it has answered.
#[derive(Clone, Default)]
pub(super) struct Seen {
    /// None where an error came before anybody was asked, or nobody is.
    pub(super) asked: Option<SeenAsked>,
    pub(super) answered: Option<SeenAnswer>,
    pub(super) error: Option<SeenError>,
    /// Only of what came by gRPC.
    pub(super) call: Option<SeenCall>,
    /// Whether it is a stream, of which nothing is to be told yet.
    pub(super) is_stream: bool,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenError {
    pub(super) code: ErrorCode,
    pub(super) message: Cow<'static, str>,
}

impl SeenError {
    pub(super) fn of(error: &ApiError) -> Self {
        Self { code: error.code(), message: error.message().to_owned().into() }
    }

    /// The sentence in one line, as far as people read: it may name what comes from outside.
    fn line(&self) -> String {
        let letters = self.message.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
        letters.take(MESSAGE_MAX_CHARS).collect()
    }
}

/// Who was asked.
#[derive(Clone)]
pub(super) struct SeenAsked {
    pub(super) endpoint: Name,
    pub(super) deployment: Arc<Deployment>,
}

/// The answer, if there is one.
#[derive(Debug, Clone)]
pub(super) struct SeenAnswer {
    pub(super) prediction: String,
    pub(super) rows: usize,
    pub(super) times: StageTimes,
    pub(super) is_cached: Option<bool>,
    /// Who answered for an endpoint that is made of others.
    pub(super) parts: Vec<Part>,
}

impl Seen {
    /// The version that was asked, or the versions that answered for an endpoint that is made of others.
    fn version(&self) -> Option<String> {
        let deployment = &self.asked.as_ref()?.deployment;
        match deployment.is_graph() {
            true => self.answered.as_ref().map(|answer| versions_of(&answer.parts)),
            false => Some(deployment.version_label()),
        }
    }

    /// The digest of its bundle, or of theirs.
    fn bundle(&self) -> Option<String> {
        let deployment = &self.asked.as_ref()?.deployment;
        match deployment.is_graph() {
            true => self.answered.as_ref().map(|answer| bundles_of(&answer.parts)),
            false => Some(deployment.bundle().to_string()),
        }
    }
}

/// What HTTP does not tell of a call of gRPC: its status is always 200, and its head does not say how long the body is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SeenCall {
    /// gRPC's status; none of a stream that was cut off.
    pub(super) status: Option<u16>,
    /// None where the body did not come as it should.
    pub(super) request_bytes: Option<u64>,
}

/// When something began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    instant: Instant,
    at: SystemTime,
}

impl Begun {
    pub(super) fn now() -> Self {
        Self { instant: Instant::now(), at: SystemTime::now() }
    }

    /// Microseconds since then.
    fn micros(self) -> u64 {
        u64::try_from(self.instant.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// Who sent a request: the client, or the last proxy before this server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client(pub(super) SocketAddr);

/// A request that is over, as it is told.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    client: Option<Client>,
    method: &'a str,
    path: &'a str,
    route: Option<&'a str>,
    status: u16,
    started_at: SystemTime,
    micros: u64,
    request_bytes: Option<u64>,
    response_bytes: Option<u64>,
    /// How many requests there were in a stream; none of a request.
    requests: Option<u64>,
    seen: Option<&'a Seen>,
    error: Option<&'a SeenError>,
    call: Option<SeenCall>,
}

/// Where requests are told.
pub struct Observer {
    /// The access log.
    pub log: Option<AccessLog>,
    /// Traces.
    pub traces: Option<Traces>,
}

impl Observer {
    /// Whether nothing is told anywhere.
    pub fn is_idle(&self) -> bool {
        self.log.is_none() && self.traces.is_none()
    }

    /// Goes on in a new access log if the file was moved.
    pub fn reopen_log(&self) {
        if let Some(log) = &self.log {
            log.reopen();
        }
    }

    /// Tells a request whose caller has the span `parent`, if any.
    fn tell(&self, told: &Told<'_>, parent: &Context) {
        let span = self.traces.as_ref().map(|traces| traces.begin(told, parent));
        self.tell_with(told, span, parent);
    }

    /// Tells what has a span already, where there are traces.
    fn tell_with(&self, told: &Told<'_>, span: Option<Span>, parent: &Context) {
        if let Some(log) = &self.log {
            let parent = parent.span();
            let span = span.as_ref().map_or(parent.span_context(), |span| span.span_context());
            log.tell(told, span.is_valid().then(|| span.trace_id()));
        }
        if let (Some(traces), Some(span)) = (&self.traces, span) {
            traces.tell(told, span);
        }
    }

    /// Tells a request that no route was asked for, and the answer to it after it has waited.
    pub(super) fn tell_refused(
        &self,
        request: &Request,
        client: SocketAddr,
        waited: Duration,
        response: &Response<Body>,
        error: &ApiError,
    ) {
        let error = SeenError::of(error);
        let told = Told {
            client: Some(Client(client)),
            method: request.method().as_str(),
            path: request.uri().path(),
            route: None,
            status: response.status().as_u16(),
            started_at: SystemTime::now().checked_sub(waited).unwrap_or(SystemTime::UNIX_EPOCH),
            micros: waited.as_micros() as u64,
            request_bytes: request.body().size_hint().exact(),
            response_bytes: response.body().size_hint().exact(),
            requests: None,
            seen: None,
            error: Some(&error),
            call: refused_call(response.headers()),
        };
        self.tell(&told, &traces::parent_of(request.headers()));
    }

    /// Writes what is not written yet; waits for it.
    pub fn finish(&self) {
        if let Some(log) = &self.log {
            log.finish();
        }
        if let Some(traces) = &self.traces {
            traces.finish();
        }
    }
}

/// The routes, with every request told to `observer`.
pub(super) fn observed(router: Router, observer: Arc<Observer>) -> Router {
    router.layer(from_fn(move |request: Request, next: Next| {
        let observer = Arc::clone(&observer);
        async move { answered(&observer, request, next).await }
    }))
}

async fn answered(observer: &Observer, request: Request, next: Next) -> Response<Body> {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let parent = traces::parent_of(request.headers());
    let begun = Begun::now();
    let told = Told {
        client: request.extensions().get().copied(),
        method: &method,
        path: &path,
        route: route.as_deref(),
        status: CLIENT_CLOSED_REQUEST,
        started_at: begun.at,
        micros: 0,
        request_bytes: request.body().size_hint().exact(),
        response_bytes: None,
        requests: None,
        seen: None,
        error: Some(&CANCELLED),
        call: None,
    };
    // Told as it is if it is dropped: then its client has gone.
    let mut untold = Untold { observer, begun, told: Some(told), parent: &parent };
    let response = next.run(request).await;
    let told = untold.told.take();
    let seen = response.extensions().get::<Seen>();
    if let Some(told) = told.filter(|_| !seen.is_some_and(|seen| seen.is_stream)) {
        let call = seen.and_then(|seen| seen.call).or_else(|| refused_call(response.headers()));
        let told = Told {
            status: response.status().as_u16(),
            micros: begun.micros(),
            request_bytes: told.request_bytes.or(call.and_then(|call| call.request_bytes)),
            response_bytes: response.body().size_hint().exact(),
            seen,
            error: seen.and_then(|seen| seen.error.as_ref()).or_else(|| response.extensions().get()),
            call,
            ..told
        };
        observer.tell(&told, &parent);
    }
    response
}

/// A request that is to be told when it is over.
struct Untold<'a> {
    observer: &'a Observer,
    begun: Begun,
    told: Option<Told<'a>>,
    parent: &'a Context,
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        if let Some(told) = self.told {
            self.observer.tell(&Told { micros: self.begun.micros(), ..told }, self.parent);
        }
    }
}

/// A call that no route has taken for one: its answer has gRPC's status in the head.
fn refused_call(headers: &HeaderMap) -> Option<SeenCall> {
    let status = headers.get("grpc-status")?.to_str().ok()?.parse().ok();
    Some(SeenCall { status, request_bytes: None })
}
