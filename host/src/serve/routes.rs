use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use axum::routing::{get, post};

use super::answer::json_response;
use super::body::BodyReader;
use super::{ApiError, Endpoint, ErrorCode, ServeLimits};

/// Carries the digest of the bundle that answered.
const BUNDLE_HEADER: HeaderName = HeaderName::from_static("x-bundle-digest");

struct Shared {
    endpoints: BTreeMap<String, ServedEndpoint>,
    bodies: BodyReader,
}

struct ServedEndpoint {
    endpoint: Endpoint,
    bundle_header: Option<HeaderValue>,
}

/// Routes of the serving part:
///
/// - `POST /serve/{endpoint}`: a JSON object or a list of them in, the same out.
/// - `GET /serve`: the endpoints with their signatures.
/// - `GET /health`: the process lives. `GET /ready`: every endpoint's bundle is loaded, and its model fits its signature.
pub fn router(endpoints: Vec<Endpoint>, limits: ServeLimits) -> Router {
    let serve = |endpoint: Endpoint| {
        let bundle_header = HeaderValue::from_str(&endpoint.bundle().to_string()).ok();
        (endpoint.name().to_string(), ServedEndpoint { endpoint, bundle_header })
    };
    let endpoints = endpoints.into_iter().map(serve).collect();
    let shared = Arc::new(Shared { endpoints, bodies: BodyReader::new(limits) });
    Router::new()
        .route("/serve/{endpoint}", post(answer).fallback(not_posted))
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
    let answered = match shared.bodies.read(request.into_body()).await {
        Ok(body) => served.endpoint.answer(body).await,
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

/// Endpoints are loaded, and refused if model and signature differ, before the socket is opened. So whoever gets an
/// answer at all gets this one.
async fn alive() -> Response<Body> {
    json_response(StatusCode::OK, r#"{"status":"ok"}"#)
}

async fn unknown_route(request: Request) -> Response<Body> {
    let message = format!("there is no route `{}`: see `GET /serve` for the endpoints", shown_path(&request));
    ApiError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message).into_response()
}

/// Another method than `POST` on an endpoint, or on what is none.
async fn not_posted(
    State(shared): State<Arc<Shared>>,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response<Body> {
    match name {
        Ok(Path(name)) if shared.endpoints.contains_key(&name) => wrong_method(request).await,
        Ok(Path(name)) => unknown_endpoint(&shared, &name).into_response(),
        Err(_) => unknown_endpoint(&shared, "�").into_response(),
    }
}

async fn wrong_method(request: Request) -> Response<Body> {
    let method: String = request.method().as_str().chars().take(20).collect();
    let message = format!("`{}` does not take {method}", shown_path(&request));
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::MethodNotAllowed, message).into_response()
}

/// The path as a message shows it: not longer than people read.
fn shown_path(request: &Request) -> String {
    request.uri().path().chars().take(200).collect()
}

fn unknown_endpoint(shared: &Shared, name: &str) -> ApiError {
    let name: String = name.chars().take(80).collect();
    let known: Vec<_> = shared.endpoints.keys().map(|name| format!("`{name}`")).collect();
    let message = format!("there is no endpoint `{name}`: there is {}", known.join(", "));
    ApiError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message)
}
