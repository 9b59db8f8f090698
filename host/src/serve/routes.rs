mod described;
mod direct;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::{get, post};
use futures_util::FutureExt as _;
use futures_util::future::Either;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use self::described::described;
use self::direct::Direct;
use super::answer::json_response;
use super::body::{accepted_by, packed_json};
use super::documents::{Document, Text};
use super::exchange::{answered, arrived, refused};
use super::observe::{Client, observed};
use super::offload::internal;
use super::rows::BodyFormat;
use super::shared::{ServeState, Shared};
use super::{ApiError, Endpoints, ErrorCode, grpc, metrics, openapi, protocol, scoring};

/// Routes of the serving part:
///
/// - `POST /serve/{endpoint}`: a JSON object or a list of them in, the same out. `POST /serve/{endpoint}/{version}` asks a
///   version of the model that is loaded, whatever its part of the requests is.
/// - `GET /serve`: the endpoints with the versions behind them and their signatures.
/// - `GET /openapi.json`: the same for programs, as OpenAPI 3.1.
/// - `GET /metrics`: what was counted and measured, for Prometheus.
/// - `GET /health`: the process lives. `GET /ready`: there is an endpoint, and the server is not stopping.
#[derive(Clone)]
pub struct Routes {
    shared: Arc<Shared>,
    all: Router,
}

impl Routes {
    /// Routes that answer from `state`.
    pub fn new(state: ServeState) -> Self {
        let shared = Arc::new(Shared::new(state));
        let routes = Router::new()
            .route("/serve/{endpoint}", post(answer).fallback(not_posted))
            .route("/serve/{endpoint}/{version}", post(answer_of_version).fallback(not_posted_to_version))
            .route("/serve", get(list))
            .route("/metrics", get(exposition))
            .route("/health", get(alive))
            .route("/ready", get(ready))
            .route("/openapi.json", get(openapi))
            .merge(protocol::router())
            .merge(scoring::router())
            .merge(grpc::router())
            .fallback(unknown_route)
            .method_not_allowed_fallback(wrong_method)
            .with_state(Arc::clone(&shared));
        let all = match &shared.observer {
            Some(observer) => observed(routes, Arc::clone(observer)),
            None => routes,
        };
        Self { shared, all }
    }

    /// The answer to a request of `client`.
    pub fn answer(
        &self,
        mut request: Request,
        client: SocketAddr,
    ) -> impl Future<Output = Response<Body>> + Send + use<> {
        // Who is told of requests stands before the other routes.
        let direct = Direct::of(&request).filter(|_| self.shared.observer.is_none());
        match direct {
            // In a box, since it is moved several times before it is asked for the first time; written there, since what is made
            // elsewhere first is moved whole, which was 0.3 µs of a request.
            Some(direct) => {
                let answer = Box::write(Box::new_uninit(), direct.answer(Arc::clone(&self.shared), request));
                Either::Left(Box::into_pin(answer))
            }
            None => {
                if self.shared.observer.is_some() {
                    request.extensions_mut().insert(Client(client));
                }
                let answer = TowerToHyperService::new(self.all.clone()).call(request);
                Either::Right(answer.map(|answer| answer.unwrap_or_else(|never| match never {})))
            }
        }
    }

    /// The answer to who may not ask, `why` says why not.
    pub fn forbid(&self, request: &Request, client: SocketAddr, why: &impl fmt::Display) -> Response<Body> {
        let error = ApiError::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, why.to_string());
        self.refuse(request, client, Duration::ZERO, error)
    }

    /// The answer where too many ask at once, as `why` says, to a request that has waited.
    pub fn overloaded(
        &self,
        request: &Request,
        client: SocketAddr,
        waited: Duration,
        why: &impl fmt::Display,
    ) -> Response<Body> {
        let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Overloaded, why.to_string());
        self.refuse(request, client, waited, error)
    }

    /// The answer to a request that has more headers than it may, as `why` says.
    pub fn too_many_headers(
        &self,
        request: &Request,
        client: SocketAddr,
        why: &impl fmt::Display,
    ) -> Response<Body> {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let error = ApiError::new(status, ErrorCode::InvalidInput, why.to_string());
        self.refuse(request, client, Duration::ZERO, error)
    }

    /// The answer to a request that is wrong whatever the route, as `why` says.
    pub fn invalid(&self, request: &Request, client: SocketAddr, why: &impl fmt::Display) -> Response<Body> {
        let error = ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidInput, why.to_string());
        self.refuse(request, client, Duration::ZERO, error)
    }

    /// The answer to a request that asks for what is not there whatever the route, as `why` says.
    pub fn unsupported(
        &self,
        request: &Request,
        client: SocketAddr,
        why: &impl fmt::Display,
    ) -> Response<Body> {
        let error = ApiError::new(StatusCode::NOT_IMPLEMENTED, ErrorCode::Unsupported, why.to_string());
        self.refuse(request, client, Duration::ZERO, error)
    }

    /// The answer to a request that no route is asked for.
    fn refuse(
        &self,
        request: &Request,
        client: SocketAddr,
        waited: Duration,
        error: ApiError,
    ) -> Response<Body> {
        self.shared.count_refused(&error);
        let response = in_form_of(request.uri().path(), error.clone());
        if let Some(observer) = &self.shared.observer {
            observer.tell_refused(request, client, waited, &response, &error);
        }
        response
    }
}

type Server = State<Arc<Shared>>;

async fn answer(
    State(shared): Server,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response<Body> {
    match name {
        Ok(Path(name)) => respond(&shared, &name, None, request).await,
        Err(_) => shared.unknown_endpoint("�").into_response(),
    }
}

async fn answer_of_version(
    State(shared): Server,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Response<Body> {
    match path {
        Ok(Path((name, version))) => respond(&shared, &name, Some(&version), request).await,
        Err(_) => shared.unknown_endpoint("�").into_response(),
    }
}

async fn respond(shared: &Shared, name: &str, version: Option<&str>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let arrived = async {
        let format = BodyFormat::of(&head.headers)?;
        Ok((format, arrived(shared, name, version, &head.headers, body).await?))
    };
    let (format, (asked, body, call)) = match arrived.await {
        Ok(arrived) => arrived,
        Err(error) => return refused(shared, error, ApiError::into_response),
    };
    let answer = format.answer(&asked.deployment, body, call, &shared.bodies);
    let write = async |body, room| packed_json(&shared.bodies, body, room, accepted_by(&head.headers)).await;
    answered(shared, &asked, answer, write, ApiError::into_response).await
}

async fn openapi(State(shared): Server, headers: HeaderMap) -> Response<Body> {
    let make = |endpoints: &Endpoints| Ok(openapi::document(endpoints).to_string().into());
    told(shared.document(Document::OpenApi, accepted_by(&headers), make).await, "application/json")
}

async fn exposition(State(shared): Server, headers: HeaderMap) -> Response<Body> {
    let of = Arc::clone(&shared);
    let make = move || {
        let text = metrics::exposition(&of.metrics, &of.endpoints);
        text.map(String::into_bytes).map_err(|error| internal(&error))
    };
    told(shared.exposition(accepted_by(&headers), make).await, metrics::CONTENT_TYPE)
}

fn told(document: Result<Text, ApiError>, content_type: &'static str) -> Response<Body> {
    document.map_or_else(ApiError::into_response, |text| text.into_response(content_type))
}

async fn list(State(shared): Server, headers: HeaderMap) -> Response<Body> {
    told(shared.document(Document::Endpoints, accepted_by(&headers), listed).await, "application/json")
}

fn listed(endpoints: &Endpoints) -> Result<Vec<u8>, ApiError> {
    let failed = endpoints.failures();
    let failed: Vec<_> =
        failed.iter().map(|(name, reason)| serde_json::json!({ "name": name, "reason": reason })).collect();
    let file_failed = endpoints.file_failure();
    let endpoints: Vec<_> = endpoints.all().iter().map(|endpoint| described(endpoint)).collect();
    let listed = serde_json::json!({ "endpoints": endpoints, "failed": failed, "file_failed": file_failed });
    Ok(listed.to_string().into())
}

async fn ready(State(shared): Server) -> Response<Body> {
    if let Some(message) = shared.endpoints.not_ready() {
        return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NotReady, message).into_response();
    }
    alive().await
}

async fn alive() -> Response<Body> {
    json_response(StatusCode::OK, r#"{"status":"ok"}"#)
}

async fn unknown_route(request: Request) -> Response<Body> {
    let message = format!("there is no route `{}`: see `GET /serve` for the endpoints", shown_path(&request));
    in_form_of(request.uri().path(), ApiError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message))
}

/// Something else than `POST` for an endpoint: what there is not at all is not found, rather than not allowed.
async fn not_posted(
    State(shared): Server,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response<Body> {
    wrong_method_of(&shared, name.as_ref().ok().map(|Path(name)| name.as_str()), request).await
}

async fn not_posted_to_version(
    State(shared): Server,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Response<Body> {
    wrong_method_of(&shared, path.as_ref().ok().map(|Path((name, _))| name.as_str()), request).await
}

async fn wrong_method_of(shared: &Shared, endpoint: Option<&str>, request: Request) -> Response<Body> {
    match endpoint {
        Some(name) if shared.endpoints.get(name).is_some() => wrong_method(request).await,
        name => shared.unknown_endpoint(name.unwrap_or("�")).into_response(),
    }
}

async fn wrong_method(request: Request) -> Response<Body> {
    let method: String = request.method().as_str().chars().take(20).collect();
    let message = format!("`{}` does not take {method}", shown_path(&request));
    in_form_of(
        request.uri().path(),
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::MethodNotAllowed, message),
    )
}

/// An error as clients of what was asked for read it.
fn in_form_of(path: &str, error: ApiError) -> Response<Body> {
    match path {
        path if path.starts_with("/v2") => error.into_inference_response(),
        path if grpc::is_path(path) => grpc::refused(&error),
        _ => error.into_response(),
    }
}

/// The path as a message shows it: not longer than people read.
fn shown_path(request: &Request) -> String {
    request.uri().path().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use http_body_util::BodyExt as _;

    use super::super::{ServeLimits, ServeMetrics};
    use super::*;

    #[tokio::test]
    async fn what_tells_of_all_endpoints_is_made_one_at_a_time() {
        let routes = Routes::new(ServeState {
            endpoints: Arc::default(),
            recorder: None,
            control: None,
            observer: None,
            metrics: ServeMetrics::new().unwrap(),
            limits: ServeLimits::default(),
        });
        let client = SocketAddr::from(([127, 0, 0, 1], 1));
        for (method, path, expected) in [
            ("GET", "/metrics", "# HELP "),
            ("GET", "/openapi.json", "{"),
            ("GET", "/serve", "{\"endpoints\":[],\"failed\":[],\"file_failed\":null}"),
            ("GET", "/v2/models/stats", "{\"model_stats\":[]}"),
            ("POST", "/v2/repository/index", "[]"),
        ] {
            let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
            let mut answer = Box::pin(routes.answer(request, client));
            let paused = routes.shared.documents.pause().await;
            assert!(poll!(&mut answer).is_pending(), "{path}");
            drop(paused);
            let answer = answer.await;
            assert_eq!(answer.status(), StatusCode::OK, "{path}");
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert!(body.starts_with(expected.as_bytes()), "{path}: {}", body.escape_ascii());
        }
    }
}
