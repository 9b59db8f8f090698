use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, Response};

use super::super::shared::Shared;
use super::super::{grpc, protocol};
use super::respond;

/// A request whose route is known at a glance: those that there are most of. What finds routes for all that there is takes more than
/// a microsecond of them.
pub(super) enum Direct {
    Scoring(String),
    Inference(String),
    Call,
}

impl Direct {
    pub(super) fn of(request: &Request) -> Option<Self> {
        if request.method() != Method::POST {
            return None;
        }
        let path = request.uri().path();
        // Whatever is written in another way, or is no name, is for the others.
        let named = |name: &str| is_plain_name(name).then(|| name.to_owned());
        if let Some(name) = path.strip_prefix("/serve/") {
            return named(name).map(Self::Scoring);
        }
        if let Some(rest) = path.strip_prefix("/v2/models/") {
            return named(rest.strip_suffix("/infer")?).map(Self::Inference);
        }
        (path == grpc::INFERENCE_PATH).then_some(Self::Call)
    }

    pub(super) async fn answer(self, shared: Arc<Shared>, request: Request) -> Response<Body> {
        match self {
            Self::Scoring(endpoint) => respond(&shared, &endpoint, None, request).await,
            Self::Inference(model) => protocol::inferred(&shared, &model, None, request).await,
            Self::Call => grpc::infer(shared, request).await,
        }
    }
}

/// Whether a part of a path is written as the name of an endpoint is, and means what it says.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_as_most_write_it_is_found_at_a_glance() {
        let route = |method: Method, path: &str| {
            let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
            match Direct::of(&request)? {
                Direct::Scoring(endpoint) => Some(format!("score {endpoint}")),
                Direct::Inference(model) => Some(format!("infer {model}")),
                Direct::Call => Some("call".to_owned()),
            }
        };
        let post = |path: &str| route(Method::POST, path);
        assert_eq!(post("/serve/mnist").as_deref(), Some("score mnist"));
        assert_eq!(post("/serve/a-B_c.9?x=1").as_deref(), Some("score a-B_c.9"));
        assert_eq!(post("/v2/models/mnist/infer").as_deref(), Some("infer mnist"));
        assert_eq!(post("/inference.GRPCInferenceService/ModelInfer").as_deref(), Some("call"));
        for path in [
            "/serve/",
            "/serve",
            "/serve/mnist/1",
            "/serve/mnist/",
            "/serve/mn%69st",
            "/serve/%2e%2e",
            "//serve/mnist",
            "/v2/models/mnist/versions/1/infer",
            "/v2/models//infer",
            "/v2/models/mnist/infer/",
            "/v2/models/mnist",
            "/v2/models/infer",
            "/inference.GRPCInferenceService/ModelInfer/",
            "/inference.GRPCInferenceService/ModelStreamInfer",
        ] {
            assert_eq!(post(path), None, "{path}");
        }
        assert_eq!(route(Method::GET, "/serve/mnist"), None);
        assert_eq!(route(Method::PUT, "/v2/models/mnist/infer"), None);
    }
}
