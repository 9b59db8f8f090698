//! The routes of the Open Inference Protocol v2 and of Triton's extensions of it that other servers speak too: model
//! repository, configuration, statistics, classification and binary tensors.
//!
//! A *model* of the protocol is an endpoint here, and its versions are those that are loaded.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use axum::routing::{any, get, post};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::answer::json_response;
use super::body::{BodyReader, Share, accepted_by, encoding_of, packed};
use super::deployment::{Given, Writing};
use super::documents::Document;
use super::endpoint::number_of;
use super::endpoints::UnloadedEndpoint;
use super::exchange::{answered, arrived, refused};
use super::inference::{
    ContentEncoding, EXTENSIONS, EncodedResponse, HEADER_LENGTH, ModelConfig, ModelIndexEntry, ModelMetadata,
    ModelState, OutputSelection, ResponseHead, ServerMetadata, StatisticsRecord, TensorConfig,
    TensorMetadata, decode_index_request, decode_load_request, decode_request, encode_response,
    parse_header_length,
};
use super::shared::{Asked, Shared};
use super::{
    ApiError, Control, ControlChange, Decoded, Deployment, Endpoint, Endpoints, ErrorCode, RequestBody,
};
use crate::domain::Name;

/// Why a model is not there that a client has unloaded, as Triton says it.
const UNLOADED: &str = "unloaded";

/// The routes below `/v2`.
pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v2", get(server))
        .route("/v2/", get(server))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/stats", get(all_statistics))
        .route("/v2/models/{model}", get(metadata))
        .route("/v2/models/{model}/{what}", any(of_model))
        .route("/v2/models/{model}/versions/{version}", get(version_metadata))
        .route("/v2/models/{model}/versions/{version}/{what}", any(of_version))
        .route("/v2/repository/index", post(index))
        .route("/v2/repository/models/{model}/{change}", post(change))
        .route("/v2/{*rest}", get(unknown).post(unknown))
}

type Server = State<Arc<Shared>>;

/// What stands in a path; where that is no text, it names nothing.
struct InPath<T>(T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for InPath<T> {
    type Rejection = Response<Body>;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        path.map(|Path(value)| Self(value)).map_err(|_| {
            let message = "the path names nothing: it is no text";
            ApiError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message).into_inference_response()
        })
    }
}

async fn server() -> Response<Body> {
    document_response(&ServerMetadata {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        extensions: &EXTENSIONS,
    })
}

async fn live() -> Response<Body> {
    json_response(StatusCode::OK, r#"{"live":true}"#)
}

async fn ready(State(shared): Server) -> Response<Body> {
    match shared.endpoints.not_ready() {
        Some(message) => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NotReady, message)
            .into_inference_response(),
        None => json_response(StatusCode::OK, r#"{"ready":true}"#),
    }
}

async fn unknown(request: Request) -> Response<Body> {
    let path: String = request.uri().path().chars().take(200).collect();
    let (status, code, message) = match unsupported_part(&path) {
        Some(part) => {
            let message = format!("`{part}` is not supported: expected the protocol's own routes");
            (StatusCode::NOT_IMPLEMENTED, ErrorCode::Unsupported, message)
        }
        None => (StatusCode::NOT_FOUND, ErrorCode::NotFound, format!("there is no route `{path}`")),
    };
    ApiError::new(status, code, message).into_inference_response()
}

/// What a path asks for of the protocol's extensions that are not here.
fn unsupported_part(path: &str) -> Option<&str> {
    let mut parts = path.strip_prefix("/v2/")?.split('/');
    let part = match parts.next()? {
        // Behind the name of a model.
        "models" => parts.nth(1)?,
        part => part,
    };
    let is_extension = matches!(part, "systemsharedmemory" | "cudasharedmemory" | "trace" | "logging");
    is_extension.then_some(part)
}

async fn metadata(State(shared): Server, InPath(model): InPath<String>) -> Response<Body> {
    told(asked(&shared, &model, None, None).map(|asked| document_response(&metadata_of(&asked))))
}

async fn version_metadata(
    State(shared): Server,
    InPath((model, version)): InPath<(String, String)>,
) -> Response<Body> {
    let asked = asked(&shared, &model, Some(&version), None);
    told(asked.map(|asked| document_response(&metadata_of(&asked))))
}

async fn of_model(
    State(shared): Server,
    InPath((model, what)): InPath<(String, String)>,
    request: Request,
) -> Response<Body> {
    replied(&shared, &model, None, &what, request).await
}

async fn of_version(
    State(shared): Server,
    InPath((model, version, what)): InPath<(String, String, String)>,
    request: Request,
) -> Response<Body> {
    replied(&shared, &model, Some(&version), &what, request).await
}

/// The answer to what is asked of a model's version, or of the one that answers for it. Which methods it takes depends on that.
async fn replied(
    shared: &Shared,
    model: &str,
    version: Option<&str>,
    what: &str,
    request: Request,
) -> Response<Body> {
    let method = request.method();
    match what {
        "infer" if method == Method::POST => inferred(shared, model, version, request).await,
        "infer" => told(wrong_method(shared, model, version, what, method, "POST")),
        "ready" | "config" | "stats" if !matches!(*method, Method::GET | Method::HEAD) => {
            told(wrong_method(shared, model, version, what, method, "GET, HEAD"))
        }
        _ => told(document_of(shared, model, version, what)),
    }
}

/// The answer to another method than those that are allowed. What there is not at all is not found, rather than not allowed.
fn wrong_method(
    shared: &Shared,
    model: &str,
    version: Option<&str>,
    what: &str,
    method: &Method,
    allowed: &'static str,
) -> Result<Response<Body>, ApiError> {
    asked(shared, model, version, None)?;
    let method: String = method.as_str().chars().take(20).collect();
    let message = format!("`{what}` does not take {method}: expected {allowed}");
    let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::MethodNotAllowed, message);
    let mut response = told(Err(error));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    Ok(response)
}

fn document_of(
    shared: &Shared,
    model: &str,
    version: Option<&str>,
    what: &str,
) -> Result<Response<Body>, ApiError> {
    let asked = asked(shared, model, version, None)?;
    match what {
        "ready" => {
            asked.deployment.check_ready()?;
            Ok(document_response(&serde_json::json!({ "name": asked.endpoint.name(), "ready": true })))
        }
        "config" => Ok(document_response(&config_of(&asked))),
        "stats" => {
            let all = match version {
                Some(_) => vec![statistics_of(&asked.endpoint, &asked.deployment)],
                None => statistics_of_all(&asked.endpoint),
            };
            Ok(document_response(&serde_json::json!({ "model_stats": all })))
        }
        other => Err(no_document(other)),
    }
}

fn no_document(what: &str) -> ApiError {
    let what: String = what.chars().take(80).collect();
    let message = format!("there is no `{what}` of a model: expected `infer`, `ready`, `config` or `stats`");
    ApiError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message)
}

async fn all_statistics(State(shared): Server, headers: HeaderMap) -> Response<Body> {
    let make = |endpoints: &Endpoints| {
        let document = serde_json::json!({ "model_stats": statistics_of_endpoints(endpoints) });
        Ok(serde_json::to_vec(&document).unwrap_or_default())
    };
    let document = shared.document(Document::Statistics, accepted_by(&headers), make).await;
    told(document.map(|text| text.into_response("application/json")))
}

/// What a model's version infers, or the one that answers for it.
pub(super) async fn inferred(
    shared: &Shared,
    model: &str,
    version: Option<&str>,
    request: Request,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let arrived = async {
        let arrived = arrived(shared, model, version, &head.headers, body).await?;
        Ok((arrived, header_length_of(&head.headers)?))
    };
    let ((asked, body, call), length) = match arrived.await {
        Ok(arrived) => arrived,
        Err(error) => return refused(shared, error, ApiError::into_inference_response),
    };
    let (name, number) = (asked.endpoint.name().to_string(), number_of(&asked.deployment).to_string());
    let answer = asked.deployment.answer_as(
        body,
        call,
        &shared.bodies,
        move |body, specs, rows_max| {
            let request = decode_request(body, length, specs, rows_max)?;
            let note = (request.id, request.outputs);
            Ok(Decoded { inputs: request.inputs, note, timeout: request.timeout })
        },
        Writing {
            len_max: |outputs, (_, selection): &(Option<String>, OutputSelection)| selection.len_max(outputs),
            encode: move |given: &Given, (id, selection): (Option<String>, OutputSelection)| {
                let head = ResponseHead {
                    model_name: &name,
                    model_version: Some(&number),
                    id: id.as_deref(),
                    parameters: &[],
                };
                Ok(encode_response(head, &given.outputs, &selection)?)
            },
        },
    );
    let accepted = accepted_by(&head.headers);
    let write = async |body, room| packed_response(&shared.bodies, body, room, accepted).await;
    answered(shared, &asked, answer, write, ApiError::into_inference_response).await
}

/// Bytes of JSON before the binary data.
fn header_length_of(headers: &HeaderMap) -> Result<Option<usize>, ApiError> {
    let told = headers.get(HEADER_LENGTH).map(|value| parse_header_length(value.to_str().unwrap_or("?")));
    Ok(told.transpose()?)
}

/// The response with an answer, packed where the caller likes that and it is worth it.
async fn packed_response(
    bodies: &BodyReader,
    encoded: EncodedResponse,
    room: Share,
    accepted: ContentEncoding,
) -> Result<Response<Body>, ApiError> {
    let (content_type, length) = (encoded.content_type(), encoded.header_length);
    let mut response = packed(bodies, encoded.body, room, accepted).await?;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(length) = length {
        headers.insert(HeaderName::from_static(HEADER_LENGTH), HeaderValue::from(length));
    }
    Ok(response)
}

async fn index(State(shared): Server, request: Request) -> Response<Body> {
    told(indexed(&shared, request).await)
}

async fn indexed(shared: &Shared, request: Request) -> Result<Response<Body>, ApiError> {
    let accepted = accepted_by(request.headers());
    let body = body_of(shared, request).await?;
    let only_ready = decode_index_request(body.bytes())?;
    let make = move |endpoints: &Endpoints| {
        Ok(serde_json::to_vec(&index_of(endpoints, only_ready)).unwrap_or_default())
    };
    let text = shared.document(Document::Index { only_ready }, accepted, make).await?;
    Ok(text.into_response("application/json"))
}

/// The body of a request to the model repository, unpacked.
async fn body_of(shared: &Shared, request: Request) -> Result<RequestBody, ApiError> {
    let encoding = encoding_of(request.headers())?;
    shared.bodies.unpack(shared.bodies.read(request.into_body()).await?, encoding).await
}

/// All that is loaded, what could not be, and what clients have unloaded and could load again; or only what answers.
pub(super) fn index_of(all: &Endpoints, only_ready: bool) -> Vec<ModelIndexEntry> {
    let (endpoints, unloaded) = all.all_and_unloaded();
    let loaded = endpoints.iter().flat_map(|endpoint| {
        let routing = endpoint.routing();
        let entry = |(number, deployment): (i64, &Arc<Deployment>)| {
            let (name, version) = (endpoint.name().to_string(), number.to_string());
            match deployment.check_ready() {
                Ok(()) => ModelIndexEntry { name, version, state: ModelState::Ready, reason: String::new() },
                Err(error) => ModelIndexEntry::unavailable(name, version, error.message()),
            }
        };
        routing.numbered().into_iter().map(entry).collect::<Vec<_>>()
    });
    let unloaded = unloaded.into_iter().flat_map(|UnloadedEndpoint { name, versions }| {
        let entry = move |version| ModelIndexEntry::unavailable(name.to_string(), version, UNLOADED);
        versions.into_iter().map(entry)
    });
    let is_there = |name: &Name| endpoints.iter().any(|endpoint| endpoint.name() == name);
    let failed = all.failures().into_iter().filter(|(name, _)| !is_there(name));
    // Which version it would be is not known.
    let failed =
        failed.map(|(name, reason)| ModelIndexEntry::unavailable(name.to_string(), String::new(), &reason));
    let is_asked_for = |entry: &ModelIndexEntry| !only_ready || entry.state == ModelState::Ready;
    loaded.chain(failed).chain(unloaded).filter(is_asked_for).collect()
}

async fn change(
    State(shared): Server,
    InPath((model, change)): InPath<(String, String)>,
    request: Request,
) -> Response<Body> {
    told(changed(&shared, &model, &change, request).await)
}

async fn changed(
    shared: &Shared,
    model: &str,
    change: &str,
    request: Request,
) -> Result<Response<Body>, ApiError> {
    let change = match change {
        "load" => ControlChange::Load,
        "unload" => ControlChange::Unload,
        other => return Err(no_document(other)),
    };
    let control = control_of(shared)?;
    let body = body_of(shared, request).await?;
    decode_load_request(body.bytes())?;
    ask(control, model, change).await?;
    Ok(json_response(StatusCode::OK, "{}"))
}

/// Whom to ask for changes of what is loaded.
pub(super) fn control_of(shared: &Shared) -> Result<&Control, ApiError> {
    shared.control.as_ref().ok_or_else(|| {
        let message =
            "models are not loaded and unloaded by requests: start the server with `--model-control`";
        ApiError::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, message)
    })
}

/// Loads or unloads a model.
pub(super) async fn ask(control: &Control, model: &str, change: ControlChange) -> Result<(), ApiError> {
    let name = model.parse().map_err(|error: crate::domain::NameError| {
        ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidInput, error.to_string())
    })?;
    control.ask(name, change).await
}

pub(super) fn asked(
    shared: &Shared,
    model: &str,
    version: Option<&str>,
    headers: Option<&HeaderMap>,
) -> Result<Asked, ApiError> {
    shared.ask(shared.endpoint(model)?, version, headers)
}

pub(super) fn metadata_of(asked: &Asked) -> ModelMetadata {
    let signature = asked.deployment.signature();
    ModelMetadata {
        name: asked.endpoint.name().to_string(),
        versions: asked.endpoint.routing().numbers(),
        platform: asked.deployment.platform().to_owned(),
        inputs: TensorMetadata::of(&signature.inputs),
        outputs: TensorMetadata::of(&signature.outputs),
    }
}

pub(super) fn config_of(asked: &Asked) -> ModelConfig {
    let signature = asked.deployment.signature();
    ModelConfig {
        name: asked.endpoint.name().to_string(),
        platform: asked.deployment.platform().to_owned(),
        backend: env!("CARGO_PKG_NAME").to_owned(),
        max_batch_size: asked.deployment.rows_max(),
        input: TensorConfig::of(&signature.inputs),
        output: TensorConfig::of(&signature.outputs),
    }
}

pub(super) fn statistics_of(endpoint: &Endpoint, deployment: &Deployment) -> StatisticsRecord {
    deployment.statistics().record(endpoint.name().as_str(), number_of(deployment).to_string())
}

pub(super) fn statistics_of_all(endpoint: &Endpoint) -> Vec<StatisticsRecord> {
    let routing = endpoint.routing();
    routing.deployments().map(|deployment| statistics_of(endpoint, deployment)).collect()
}

pub(super) fn statistics_of_endpoints(endpoints: &Endpoints) -> Vec<StatisticsRecord> {
    endpoints.all().iter().flat_map(|endpoint| statistics_of_all(endpoint)).collect()
}

fn document_response(document: &impl Serialize) -> Response<Body> {
    json_response(StatusCode::OK, serde_json::to_vec(document).unwrap_or_default())
}

fn told(answered: Result<Response<Body>, ApiError>) -> Response<Body> {
    answered.unwrap_or_else(|error| {
        error.log(None);
        error.into_inference_response()
    })
}
