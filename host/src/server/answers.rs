use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

/// What a server answers by.
pub trait Answers: Clone + Send + Sync + 'static {
    /// The answer to a request.
    fn answer(&self, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send + use<Self>;
}

impl Answers for Router {
    fn answer(&self, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send + use<> {
        let answer = TowerToHyperService::new(self.clone()).call(request);
        async move { answer.await.unwrap_or_else(|never| match never {}) }
    }
}
