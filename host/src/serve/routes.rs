use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use axum::routing::{get, post};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::answer::json_response;
use super::{ApiError, Endpoint, ErrorCode};

/// Carries the digest of the bundle that answered.
const BUNDLE_HEADER: HeaderName = HeaderName::from_static("x-bundle-digest");

/// What a request may cost before it is computed.
#[derive(Debug, Clone)]
pub struct ServeLimits {
    /// Bytes of a body.
    pub body_max_bytes: usize,
    /// Time for a body to arrive.
    pub body_max_ms: u64,
}

impl Default for ServeLimits {
    /// 16 MiB hold some 5,000 MNIST images as JSON; a client that needs more than 30 s to send them is not sending.
    fn default() -> Self {
        Self { body_max_bytes: 16 * 1024 * 1024, body_max_ms: 30_000 }
    }
}

struct Shared {
    endpoints: BTreeMap<String, ServedEndpoint>,
    limits: ServeLimits,
}

struct ServedEndpoint {
    endpoint: Endpoint,
    bundle_header: Option<HeaderValue>,
}

/// Routes of the serving part:
///
/// - `POST /serve/{endpoint}`: a JSON object or a list of them in, the same out.
/// - `GET /serve`: the endpoints with their signatures.
/// - `GET /health`: the process lives. `GET /ready`: every endpoint can answer.
pub fn router(endpoints: Vec<Endpoint>, limits: ServeLimits) -> Router {
    let serve = |endpoint: Endpoint| {
        let bundle_header = HeaderValue::from_str(&endpoint.bundle().to_string()).ok();
        (endpoint.name().to_string(), ServedEndpoint { endpoint, bundle_header })
    };
    let shared = Arc::new(Shared { endpoints: endpoints.into_iter().map(serve).collect(), limits });
    Router::new()
        .route("/serve/{endpoint}", post(answer))
        .route("/serve", get(list))
        .route("/health", get(alive))
        .route("/ready", get(alive))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(shared)
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response<Body> {
    let Ok(Path(name)) = name else {
        return unknown_endpoint(&shared, "�").into_response();
    };
    let Some(served) = shared.endpoints.get(&name) else {
        return unknown_endpoint(&shared, &name).into_response();
    };
    let answered = match read_body(request, &shared.limits).await {
        Ok(body) => served.endpoint.answer(&body).await,
        Err(error) => Err(error),
    };
    let mut response = match answered {
        Ok(body) => json_response(StatusCode::OK, body),
        Err(error) => {
            if error.code() != ErrorCode::InvalidInput {
                tracing::warn!(endpoint = name, code = ?error.code(), "{}", error.message());
            }
            error.into_response()
        }
    };
    if let Some(bundle) = &served.bundle_header {
        response.headers_mut().insert(BUNDLE_HEADER, bundle.clone());
    }
    response
}

/// Reads a whole body within the limits on size and time.
async fn read_body(request: Request, limits: &ServeLimits) -> Result<Bytes, ApiError> {
    let too_large = || {
        let message = format!("the body is larger than the limit of {} bytes", limits.body_max_bytes);
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::BodyTooLarge, message)
    };
    // What the head announces is refused before any of it is read.
    if request.body().size_hint().lower() > limits.body_max_bytes as u64 {
        return Err(too_large());
    }
    let body = Limited::new(request.into_body(), limits.body_max_bytes);
    let within = Duration::from_millis(limits.body_max_ms);
    match tokio::time::timeout(within, body.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::InvalidInput,
            format!("the body broke off: {error}"),
        )),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            ErrorCode::BodyTimeout,
            format!("the body did not arrive within {} ms", limits.body_max_ms),
        )),
    }
}

async fn list(State(shared): State<Arc<Shared>>) -> Response<Body> {
    let endpoints: Vec<_> = shared
        .endpoints
        .values()
        .map(|served| {
            let endpoint = &served.endpoint;
            serde_json::json!({
                "name": endpoint.name(),
                "bundle": endpoint.bundle(),
                "signature": endpoint.predictor().signature(),
                "window_rows": endpoint.window().map(|window| window.rows_written()),
            })
        })
        .collect();
    json_response(StatusCode::OK, serde_json::json!({ "endpoints": endpoints }).to_string())
}

/// Endpoints are loaded before the socket is opened, so whoever gets an answer at all gets this one.
async fn alive() -> Response<Body> {
    json_response(StatusCode::OK, r#"{"status":"ok"}"#)
}

async fn unknown_route(request: Request) -> Response<Body> {
    let path: String = request.uri().path().chars().take(200).collect();
    let message = format!("there is no route `{path}`: see `GET /serve` for the endpoints");
    ApiError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message).into_response()
}

async fn wrong_method(request: Request) -> Response<Body> {
    let message = format!("`{}` does not take {}", request.uri().path(), request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::MethodNotAllowed, message).into_response()
}

fn unknown_endpoint(shared: &Shared, name: &str) -> ApiError {
    let name: String = name.chars().take(80).collect();
    let known: Vec<_> = shared.endpoints.keys().map(|name| format!("`{name}`")).collect();
    let message = format!("there is no endpoint `{name}`: there is {}", known.join(", "));
    ApiError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message)
}
