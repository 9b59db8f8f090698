use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header};
use axum::routing::{get, post};
use futures_util::FutureExt as _;
use futures_util::future::Either;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use super::answer::json_response;
use super::body::{BodyReader, accepted_by, packed};
use super::deployment::VERSION_HEADER;
use super::engine::{internal, on_blocking_pool};
use super::graph::versions_of;
use super::inference::ContentEncoding;
use super::metrics::{self, ServeMetrics};
use super::observe::{ObservedStream, Seen, SeenAnswer, SeenAsked, SeenCall, observed};
use super::rows::BodyFormat;
use super::{
    Answer, ApiError, Call, Control, Deployment, Endpoint, Endpoints, ErrorCode, Observer, Part,
    PredictionIds, Recorder, RequestBody, Routing, ServeLimits, grpc, openapi, protocol, scoring,
};
use crate::track::now_ms;

/// Carries the id of the prediction.
const PREDICTION_HEADER: HeaderName = HeaderName::from_static("x-prediction-id");

/// Tells whether the answer was kept from before, where answers are.
const CACHE_HEADER: HeaderName = HeaderName::from_static("x-cache");

/// Tells how many milliseconds the client waits.
const TIMEOUT_HEADER: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// What the routes answer from.
pub struct ServeState {
    /// The endpoints.
    pub endpoints: Arc<Endpoints>,
    /// Where predictions are recorded; none where they are not.
    pub recorder: Option<Arc<Recorder>>,
    /// Whom clients may ask to load and unload models; none where they may not.
    pub control: Option<Control>,
    /// Who is told of requests, if anybody is.
    pub observer: Option<Arc<Observer>>,
    /// What is counted beside the endpoints.
    pub metrics: ServeMetrics,
    /// What a request may take.
    pub limits: ServeLimits,
}

pub(super) struct Shared {
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) control: Option<Control>,
    pub(super) bodies: BodyReader,
    metrics: ServeMetrics,
    observer: Option<Arc<Observer>>,
    recorder: Option<Arc<Recorder>>,
    ids: PredictionIds,
}

/// Who was asked.
pub(super) struct Asked {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) routing: Arc<Routing>,
    pub(super) deployment: Arc<Deployment>,
}

impl Shared {
    /// The endpoint of a name.
    pub(super) fn endpoint(&self, name: &str) -> Result<Arc<Endpoint>, ApiError> {
        self.endpoints.get(name).ok_or_else(|| unknown_endpoint(self, name))
    }

    /// The version of an endpoint that answers, or the one of its versions that is asked for.
    pub(super) fn ask(
        &self,
        endpoint: Arc<Endpoint>,
        version: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Asked, ApiError> {
        let routing = endpoint.routing();
        let deployment = match version {
            Some(version) => version_of(&endpoint, &routing, version)?,
            None => endpoint.choose(&routing, headers).ok_or_else(|| {
                let message = format!("nobody answers for endpoint `{}`", endpoint.name());
                ApiError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message)
            })?,
        };
        Ok(Asked { endpoint, routing, deployment })
    }

    /// Counts a request that got an error before anybody was asked.
    pub(super) fn count_refused(&self, error: &ApiError) {
        self.metrics.count_refused(error.code());
    }

    /// Leaves in the response who was asked and could not answer, or that nobody was.
    pub(super) fn mark_failure(
        &self,
        asked: Option<&Asked>,
        error: &ApiError,
        response: &mut Response<Body>,
    ) {
        if let Some(seen) = self.seen_failure(asked, error) {
            response.extensions_mut().insert(seen);
        }
    }

    /// What is told of a request that was not answered, where anything is.
    pub(super) fn seen_failure(&self, asked: Option<&Asked>, error: &ApiError) -> Option<Seen> {
        let seen = || Seen { asked: asked.map(Asked::seen), error: Some(error.code()), ..Seen::default() };
        self.observer.is_some().then(seen)
    }

    /// Leaves in the response to a call of gRPC, beside what else is there, what HTTP does not tell of it.
    pub(super) fn mark_call(&self, call: SeenCall, response: &mut Response<Body>) {
        if self.observer.is_some() {
            response.extensions_mut().get_or_insert_default::<Seen>().call = Some(call);
        }
    }

    /// A stream of requests that begins, of a call with these headers; none where nothing is told of it.
    pub(super) fn observed_stream(
        &self,
        path: &'static str,
        route: &'static str,
        headers: &HeaderMap,
    ) -> Option<ObservedStream> {
        let observer = self.observer.as_ref()?;
        Some(ObservedStream::begin(observer, path, route, headers))
    }

    /// Names the prediction and who answered in a response, records it and lets shadows answer it too.
    pub(super) fn finish<T>(&self, asked: &Asked, answer: Answer<T>, response: &mut Response<Body>) {
        let headers = response.headers_mut();
        let id = self.next_prediction_id();
        for (header, value) in asked.answered_by(&id) {
            headers.insert(header, value);
        }
        headers.extend(versions_header(&answer.parts));
        if let Some(is_cached) = answer.is_cached {
            headers.insert(CACHE_HEADER, HeaderValue::from_static(if is_cached { "hit" } else { "miss" }));
        }
        if let Some(seen) = self.keep(id, asked, answer) {
            response.extensions_mut().insert(seen);
        }
    }

    /// The id of a prediction that is about to be made.
    pub(super) fn next_prediction_id(&self) -> String {
        self.ids.next()
    }

    /// Records an answer and lets shadows answer it too; gives what is told of it, where anything is.
    pub(super) fn keep<T>(&self, id: String, asked: &Asked, answer: Answer<T>) -> Option<Seen> {
        let Asked { endpoint, routing, deployment } = asked;
        let seen = self.observer.is_some().then(|| {
            let (rows, times, is_cached) = (answer.inputs.rows(), answer.times, answer.is_cached);
            let parts = answer.parts.clone();
            let answered = Some(SeenAnswer { prediction: id.clone(), rows, times, is_cached, parts });
            Seen { asked: Some(asked.seen()), answered, ..Seen::default() }
        });
        for shadow in routing.shadows() {
            shadow.mirror(&answer.inputs, &answer.outputs);
        }
        if let Some(recorder) = &self.recorder {
            // What a record has beside rows and answer is short, unless it has a graph.
            let of_graph = deployment.graph().map_or(0, |graph| graph.record_bytes());
            let bytes = answer.inputs.byte_len() + answer.outputs.byte_len() + of_graph;
            let record = || deployment.record(id, endpoint.name(), now_ms(), answer);
            if !recorder.offer(bytes, record) {
                self.metrics.count_unrecorded();
            }
        }
        seen
    }
}

/// The header that names who answered for an endpoint that is made of others.
pub(super) fn versions_header(parts: &[Part]) -> Option<(HeaderName, HeaderValue)> {
    if parts.is_empty() {
        return None;
    }
    Some((VERSION_HEADER, HeaderValue::from_str(&versions_of(parts)).ok()?))
}

impl Asked {
    fn seen(&self) -> SeenAsked {
        SeenAsked { endpoint: self.endpoint.name().clone(), deployment: Arc::clone(&self.deployment) }
    }

    /// What an answer says of itself: the prediction's id, and who answered.
    pub(super) fn answered_by(&self, id: &str) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let id = HeaderValue::from_str(id).ok().map(|id| (PREDICTION_HEADER, id));
        id.into_iter().chain(self.deployment.headers().iter().cloned())
    }

    /// What a request with these headers brings along.
    pub(super) fn call(&self, headers: &HeaderMap) -> Result<Call, ApiError> {
        let of_client = headers.get(TIMEOUT_HEADER).map(timeout_of).transpose()?;
        let of_client = of_client.map(|timeout| tokio::time::Instant::now() + timeout);
        Ok(self.routing.call(of_client))
    }
}

fn timeout_of(value: &HeaderValue) -> Result<Duration, ApiError> {
    let ms = value.to_str().ok().and_then(|text| text.trim().parse::<u32>().ok());
    ms.map(|ms| Duration::from_millis(u64::from(ms))).ok_or_else(|| {
        let message = format!("`{TIMEOUT_HEADER}` is {value:?}: expected a number of milliseconds");
        ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidInput, message)
    })
}

/// Routes of the serving part:
///
/// - `POST /serve/{endpoint}`: a JSON object or a list of them in, the same out. `POST /serve/{endpoint}/{version}` asks a
///   version of the model that is loaded, whatever its part of the requests is.
/// - `GET /serve`: the endpoints with the versions behind them and their signatures.
/// - `GET /openapi.json`: the same for programs, as OpenAPI 3.1.
/// - `GET /metrics`: what was counted and measured, for Prometheus.
/// - `GET /health`: the process lives. `GET /ready`: there is an endpoint, which answers.
#[derive(Clone)]
pub struct Routes {
    shared: Arc<Shared>,
    all: Router,
}

/// A request whose route is known at a glance: those that there are most of. What finds routes for all that there is takes more than
/// a microsecond of them.
enum Direct {
    Scoring(String),
    Inference(String),
    Call,
}

impl Routes {
    /// Routes that answer from `state`.
    pub fn new(state: ServeState) -> Self {
        let ServeState { endpoints, recorder, control, observer, metrics, limits } = state;
        let (ids, bodies) = (PredictionIds::default(), BodyReader::new(limits));
        let told = observer.clone();
        let shared = Arc::new(Shared { endpoints, control, bodies, metrics, observer, recorder, ids });
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
        let all = match told {
            Some(observer) => observed(routes, observer),
            None => routes,
        };
        Self { shared, all }
    }

    /// The answer to a request.
    pub fn answer(&self, request: Request) -> impl Future<Output = Response<Body>> + Send + use<> {
        // Who is told of requests stands before the other routes.
        let direct = Direct::of(&request).filter(|_| self.shared.observer.is_none());
        match direct {
            // In a box, since it is moved several times before it is asked for the first time.
            Some(direct) => Either::Left(Box::pin(direct.answer(Arc::clone(&self.shared), request))),
            None => {
                let answer = TowerToHyperService::new(self.all.clone()).call(request);
                Either::Right(answer.map(|answer| answer.unwrap_or_else(|never| match never {})))
            }
        }
    }
}

impl Direct {
    fn of(request: &Request) -> Option<Self> {
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

    async fn answer(self, shared: Arc<Shared>, request: Request) -> Response<Body> {
        match self {
            Self::Scoring(endpoint) => respond(&shared, &endpoint, None, request).await,
            Self::Inference(model) => protocol::inferred(&shared, &model, None, "infer", request).await,
            Self::Call => grpc::infer(shared, request).await,
        }
    }
}

/// Whether a part of a path is written as the name of an endpoint is, and means what it says.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
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
    let (head, body) = request.into_parts();
    let arrived = async {
        let format = BodyFormat::of(&head.headers)?;
        Ok((format, arrived(shared, name, version, &head.headers, body).await?))
    };
    let (format, (asked, body, call)) = match arrived.await {
        Ok(arrived) => arrived,
        Err(error) => {
            shared.count_refused(&error);
            let mut response = failed(name, &error, error.clone().into_response());
            shared.mark_failure(None, &error, &mut response);
            return response;
        }
    };
    match format.answer(&asked.deployment, body, call).await {
        Ok(mut answer) => {
            let body = std::mem::take(&mut answer.body);
            let mut response = packed(body, accepted_by(&head.headers)).await;
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            shared.finish(&asked, answer, &mut response);
            response
        }
        Err(error) => {
            let mut response = failed(name, &error, error.clone().into_response());
            for (header, value) in asked.deployment.headers() {
                response.headers_mut().insert(header, value.clone());
            }
            shared.mark_failure(Some(&asked), &error, &mut response);
            response
        }
    }
}

/// Who is asked, and what. Who answers is chosen when all of the request is there: one that arrives slowly holds no old
/// version.
pub(super) async fn arrived(
    shared: &Shared,
    name: &str,
    version: Option<&str>,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Asked, RequestBody, Call), ApiError> {
    let endpoint = shared.endpoint(name)?;
    let encoding = headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?"));
    let encoding = ContentEncoding::of_request(encoding)?;
    let body = shared.bodies.unpack(shared.bodies.read(body).await?, encoding).await?;
    let asked = shared.ask(endpoint, version, headers)?;
    let call = asked.call(headers)?;
    Ok((asked, body, call))
}

/// The version of an endpoint with a number.
fn version_of(endpoint: &Endpoint, routing: &Routing, version: &str) -> Result<Arc<Deployment>, ApiError> {
    // A version has one name: `+1` and `01` are none.
    let number = version.parse().ok().filter(|_| version.starts_with(|first| matches!(first, '1'..='9')));
    number.and_then(|number| routing.version(number)).map(Arc::clone).ok_or_else(|| {
        let version: String = version.chars().take(40).collect();
        let loaded = routing.numbers().join(", ");
        let message =
            format!("endpoint `{}` has no version `{version}`: loaded is {loaded}", endpoint.name());
        ApiError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message)
    })
}

async fn openapi(State(shared): Server) -> Response<Body> {
    match on_blocking_pool(move || openapi::document(&shared.endpoints).to_string()).await {
        Ok(document) => json_response(StatusCode::OK, document),
        Err(error) => error.into_response(),
    }
}

async fn exposition(State(shared): Server) -> Response<Body> {
    // It takes milliseconds where there are many endpoints.
    let exposed = on_blocking_pool(move || metrics::exposition(&shared.metrics, &shared.endpoints)).await;
    match exposed.and_then(|exposed| exposed.map_err(|error| internal(&error))) {
        Ok(text) => {
            let mut response = Response::new(Body::from(text));
            let content_type = HeaderValue::from_static(metrics::CONTENT_TYPE);
            response.headers_mut().insert(header::CONTENT_TYPE, content_type);
            response
        }
        Err(error) => error.into_response(),
    }
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
    let asked_for = |deployment: &Arc<Deployment>| {
        let route = routing.routes().iter().find(|route| Arc::ptr_eq(&route.deployment, deployment));
        route.and_then(|route| route.model.as_ref()).map(ToString::to_string)
    };
    let versions: Vec<_> = routing
        .deployments()
        .map(|deployment| {
            serde_json::json!({
                "model": deployment.version().map(|(model, _)| model),
                "version": deployment.version().map(|(_, number)| number),
                "bundle": deployment.bundle(),
                "weight": routing.weight(deployment),
                "asked_for": asked_for(deployment),
                "window_rows": deployment.window().map(|window| window.rows_written()),
            })
        })
        .collect();
    let shadows: Vec<_> = routing
        .shadows()
        .iter()
        .map(|shadow| {
            let deployment = shadow.deployment();
            serde_json::json!({
                "model": deployment.version().map(|(model, _)| model),
                "version": deployment.version().map(|(_, number)| number),
                "bundle": deployment.bundle(),
                "percent": shadow.percent(),
                "answers": deployment.metrics().shadow_counts(),
            })
        })
        .collect();
    serde_json::json!({
        "name": endpoint.name(),
        "bundle": first.map(|deployment| deployment.bundle()),
        "signature": first.map(|deployment| deployment.signature()),
        "window_rows": first.and_then(|first| first.window()).map(|window| window.rows_written()),
        "routes": described_routes(&routing),
        "versions": versions,
        "shadows": shadows,
        "waiting": routing.queue().waiting(),
        "computing": routing.queue().computing(),
    })
}

/// What an endpoint is asked to serve, and what that means now; several may mean the same version.
fn described_routes(routing: &Routing) -> Vec<serde_json::Value> {
    let described = routing.routes().iter().filter_map(|route| {
        let version = route.deployment.version();
        Some(serde_json::json!({
            "asked_for": route.model.as_ref()?.to_string(),
            "model": version.map(|(model, _)| model),
            "version": version.map(|(_, number)| number),
            "bundle": route.deployment.bundle(),
            "weight": route.weight,
        }))
    });
    described.collect()
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
        name => unknown_endpoint(shared, name.unwrap_or("�")).into_response(),
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

/// The answer to who may not ask, `why` says why not.
pub fn forbid(asked: &Uri, why: &impl std::fmt::Display) -> Response<Body> {
    in_form_of(asked.path(), ApiError::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, why.to_string()))
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

fn unknown_endpoint(shared: &Shared, name: &str) -> ApiError {
    let name: String = name.chars().take(80).collect();
    let known: Vec<_> =
        shared.endpoints.all().iter().take(10).map(|endpoint| format!("`{}`", endpoint.name())).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let message = format!("there is no endpoint `{name}`: there is {known}");
    ApiError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message)
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
