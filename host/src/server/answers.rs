use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response};
use futures_util::FutureExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use super::guard::ForbiddenRequest;

/// What a server answers by.
pub trait Answers: Clone + Send + Sync + 'static {
    /// The answer to a request of `client`.
    fn answer(
        &self,
        request: Request<Body>,
        client: SocketAddr,
    ) -> impl Future<Output = Response<Body>> + Send + use<Self>;

    /// The answer to a request of `client` that is not looked into, in the shape of the errors of what was asked for.
    fn refuse(&self, request: &Request<Body>, client: SocketAddr, why: &Refusal) -> Response<Body>;
}

/// Why a request is not looked into.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A browser should not have sent it.
    #[error(transparent)]
    Forbidden(#[from] ForbiddenRequest),
    /// Too many others are under way.
    #[error("too many requests are under way: try again")]
    Busy {
        /// For how long it waited for one of them to end.
        waited: Duration,
    },
    /// It has more headers than anybody needs.
    #[error("expected at most {limit} headers, found more")]
    TooManyHeaders {
        /// The limit.
        limit: usize,
    },
    /// It does not name one host.
    #[error("expected one `Host`, a name with or without a port, found {found}")]
    Host {
        /// What it names.
        found: String,
    },
    /// Its body comes in a way that is not undone here.
    #[error("`Transfer-Encoding` is not supported: expected `chunked`, once, or none")]
    TransferEncoding,
}

/// Routes to answer by, and how they refuse.
#[derive(Clone)]
pub struct Routed {
    routes: Router,
    refuse: fn(&Refusal) -> Response<Body>,
}

impl Routed {
    /// Answers by `routes`, and by `refuse` what is not looked into.
    pub fn new(routes: Router, refuse: fn(&Refusal) -> Response<Body>) -> Self {
        Self { routes, refuse }
    }
}

impl Answers for Routed {
    fn answer(
        &self,
        request: Request<Body>,
        _: SocketAddr,
    ) -> impl Future<Output = Response<Body>> + Send + use<> {
        let answer = TowerToHyperService::new(self.routes.clone()).call(request);
        answer.map(|answer| answer.unwrap_or_else(|never| match never {}))
    }

    fn refuse(&self, _: &Request<Body>, _: SocketAddr, why: &Refusal) -> Response<Body> {
        (self.refuse)(why)
    }
}

/// What `answers` refuse a request with, without a body where none is asked for.
pub(super) fn refused(
    answers: &impl Answers,
    request: &Request<Body>,
    client: SocketAddr,
    why: &Refusal,
) -> Response<Body> {
    let mut answer = answers.refuse(request, client, why);
    if request.method() == Method::HEAD {
        *answer.body_mut() = Body::empty();
    }
    answer
}
