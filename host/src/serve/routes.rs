use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use axum::routing::{get, post};

use super::answer::json_response;
use super::body::BodyReader;
use super::{
    Answer, ApiError, Control, Deployment, Endpoint, Endpoints, ErrorCode, PredictionIds, Recorder,
    ServeLimits, protocol,
};
use crate::track::now_ms;

/// Carries the id of the prediction.
const PREDICTION_HEADER: HeaderName = HeaderName::from_static("x-prediction-id");

/// What the routes answer from.
#[derive(Clone)]
pub struct ServeState {
    /// The endpoints.
    pub endpoints: Arc<Endpoints>,
    /// Where predictions are recorded; none where they are not.
    pub recorder: Option<Arc<Recorder>>,
    /// Whom clients may ask to load and unload models; none where they may not.
    pub control: Option<Control>,
    /// What a request may take.
    pub limits: ServeLimits,
}

pub(super) struct Shared {
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) control: Option<Control>,
    pub(super) bodies: BodyReader,
    recorder: Option<Arc<Recorder>>,
    ids: PredictionIds,
}

impl Shared {
    /// The endpoint of a name.
    pub(super) fn endpoint(&self, name: &str) -> Result<Arc<Endpoint>, ApiError> {
        self.endpoints.get(name).ok_or_else(|| unknown_endpoint(self, name))
    }

    /// Names the prediction and who answered in a response, and records it.
    pub(super) fn finish<T>(
        &self,
        endpoint: &Endpoint,
        deployment: &Deployment,
        answer: Answer<T>,
        response: &mut Response<Body>,
    ) {
        let id = self.ids.next();
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(PREDICTION_HEADER, value);
        }
        for (header, value) in deployment.headers() {
            response.headers_mut().insert(header, value.clone());
        }
        if let Some(recorder) = &self.recorder {
            recorder.offer(deployment.record(id, endpoint.name(), now_ms(), answer));
        }
    }
}

/// Routes of the serving part:
///
/// - `POST /serve/{endpoint}`: a JSON object or a list of them in, the same out. `POST /serve/{endpoint}/{version}` asks a
///   version of the model that is loaded, whatever its part of the requests is.
/// - `GET /serve`: the endpoints with the versions behind them and their signatures.
/// - `GET /health`: the process lives. `GET /ready`: there is an endpoint, which answers.
pub fn router(state: ServeState) -> Router {
    let ServeState { endpoints, recorder, control, limits } = state;
    let (ids, bodies) = (PredictionIds::default(), BodyReader::new(limits));
    let shared = Arc::new(Shared { endpoints, control, bodies, recorder, ids });
    Router::new()
        .route("/serve/{endpoint}", post(answer).fallback(not_posted))
        .route("/serve/{endpoint}/{version}", post(answer_of_version).fallback(not_posted_to_version))
        .route("/serve", get(list))
        .route("/health", get(alive))
        .route("/ready", get(ready))
        .merge(protocol::router())
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(shared)
}

type Server = State<Arc<Shared>>;

async fn answer(
    State(shared): Server,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response<Body> {
    match name {
        Ok(Path(name)) => respond(&shared, &name, None, request).await,
        Err(_) => unknown_endpoint(&shared, "�").into_response(),
    }
}

async fn answer_of_version(
    State(shared): Server,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Response<Body> {
    match path {
        Ok(Path((name, version))) => respond(&shared, &name, Some(&version), request).await,
        Err(_) => unknown_endpoint(&shared, "�").into_response(),
    }
}

async fn respond(shared: &Shared, name: &str, version: Option<&str>, request: Request) -> Response<Body> {
    let endpoint = match shared.endpoint(name) {
        Ok(endpoint) => endpoint,
        Err(error) => return error.into_response(),
    };
    let (head, body) = request.into_parts();
    // Who answers is chosen when all of the request is there: one that arrives slowly holds no old version.
    let body = match shared.bodies.read(body).await {
        Ok(body) => body,
        Err(error) => return failed(name, &error, error.clone().into_response()),
    };
    let deployment = match choose(&endpoint, version, &head.headers) {
        Ok(deployment) => deployment,
        Err(error) => return error.into_response(),
    };
    match deployment.answer(body).await {
        Ok(mut answer) => {
            let mut response = json_response(StatusCode::OK, std::mem::take(&mut answer.body));
            shared.finish(&endpoint, &deployment, answer, &mut response);
            response
        }
        Err(error) => {
            let mut response = failed(name, &error, error.clone().into_response());
            for (header, value) in deployment.headers() {
                response.headers_mut().insert(header, value.clone());
            }
            response
        }
    }
}

/// The version of an endpoint that answers, or the one of its versions that is asked for.
pub(super) fn choose(
    endpoint: &Endpoint,
    version: Option<&str>,
    headers: &HeaderMap,
) -> Result<Arc<Deployment>, ApiError> {
    let not_found = |message: String| ApiError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message);
    let Some(version) = version else {
        let nobody = || not_found(format!("nobody answers for endpoint `{}`", endpoint.name()));
        return endpoint.choose(headers).ok_or_else(nobody);
    };
    let routing = endpoint.routing();
    let number = version.parse().ok();
    number.and_then(|number| routing.version(number)).map(Arc::clone).ok_or_else(|| {
        let version: String = version.chars().take(40).collect();
        let loaded = routing.deployments().filter_map(|deployment| Some(deployment.version()?.1.to_string()));
        let loaded = match loaded.collect::<Vec<_>>() {
            none if none.is_empty() => "its versions have no numbers".to_owned(),
            loaded => format!("loaded is {}", loaded.join(", ")),
        };
        not_found(format!("endpoint `{}` has no version `{version}`: {loaded}", endpoint.name()))
    })
}

/// Logs what is not the caller's fault.
fn failed(endpoint: &str, error: &ApiError, response: Response<Body>) -> Response<Body> {
    if error.code() != ErrorCode::InvalidInput {
        tracing::warn!(endpoint, code = ?error.code(), "{}", error.message());
    }
    response
}

async fn list(State(shared): Server) -> Response<Body> {
    let endpoints: Vec<_> = shared.endpoints.all().iter().map(|endpoint| described(endpoint)).collect();
    json_response(StatusCode::OK, serde_json::json!({ "endpoints": endpoints }).to_string())
}

/// An endpoint with the first of those that answer, which is the only one as a rule, and all that are loaded.
fn described(endpoint: &Endpoint) -> serde_json::Value {
    let routing = endpoint.routing();
    let first = routing.routes().first().map(|route| &route.deployment);
    let weight = |deployment: &Arc<Deployment>| {
        let routes = routing.routes().iter();
        routes
            .filter(|route| Arc::ptr_eq(&route.deployment, deployment))
            .map(|route| route.weight)
            .sum::<u32>()
    };
    let versions: Vec<_> = routing
        .deployments()
        .map(|deployment| {
            serde_json::json!({
                "model": deployment.version().map(|(model, _)| model),
                "version": deployment.version().map(|(_, number)| number),
                "bundle": deployment.bundle(),
                "weight": weight(deployment),
                "window_rows": deployment.window().map(|window| window.rows_written()),
            })
        })
        .collect();
    serde_json::json!({
        "name": endpoint.name(),
        "bundle": first.map(|deployment| deployment.bundle()),
        "signature": first.map(|deployment| deployment.predictor().signature()),
        "window_rows": first.and_then(|first| first.window()).map(|window| window.rows_written()),
        "versions": versions,
    })
}

async fn ready(State(shared): Server) -> Response<Body> {
    if shared.endpoints.all().is_empty() {
        let message = "no endpoint is loaded";
        return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NotReady, message).into_response();
    }
    alive().await
}

async fn alive() -> Response<Body> {
    json_response(StatusCode::OK, r#"{"status":"ok"}"#)
}

async fn unknown_route(request: Request) -> Response<Body> {
    let message = format!("there is no route `{}`: see `GET /serve` for the endpoints", shown_path(&request));
    in_form_of(&request, ApiError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message))
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
        name => unknown_endpoint(shared, name.unwrap_or("�")).into_response(),
    }
}

async fn wrong_method(request: Request) -> Response<Body> {
    let method: String = request.method().as_str().chars().take(20).collect();
    let message = format!("`{}` does not take {method}", shown_path(&request));
    in_form_of(&request, ApiError::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::MethodNotAllowed, message))
}

/// An error as clients of what was asked for read it.
fn in_form_of(request: &Request, error: ApiError) -> Response<Body> {
    match request.uri().path().starts_with("/v2") {
        true => error.into_inference_response(),
        false => error.into_response(),
    }
}

/// The path as a message shows it: not longer than people read.
fn shown_path(request: &Request) -> String {
    request.uri().path().chars().take(200).collect()
}

fn unknown_endpoint(shared: &Shared, name: &str) -> ApiError {
    let name: String = name.chars().take(80).collect();
    let known: Vec<_> =
        shared.endpoints.all().iter().take(10).map(|endpoint| format!("`{}`", endpoint.name())).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let message = format!("there is no endpoint `{name}`: there is {known}");
    ApiError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message)
}
