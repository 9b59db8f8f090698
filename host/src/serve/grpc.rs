//! The Open Inference Protocol v2 over gRPC, as Triton speaks it, and gRPC's own health service.
//!
//! A call is a `POST` of HTTP/2 whose body has messages of protobuf, each behind its length, and whose answer ends with a
//! status in its trailers. These few rules are followed here, on the routes that there are for HTTP, rather than by a library
//! that brings a server of its own: so the same limits on size, time and memory hold for bodies and messages, sent in any
//! form, the same errors are told by the same sentences, and small requests are computed on the thread that decodes them.
//!
//! `messages` is generated from `inference.proto`; requests for inference are read without it (see [`wire`]).

mod contents;
mod deadline;
mod documents;
mod error;
mod health;
mod infer;
mod message;
#[allow(dead_code, clippy::all, reason = "generated, of the whole protocol")]
mod messages;
mod request;
mod response;
mod status;
mod stream;
mod wire;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Response, StatusCode, Version, header};
use axum::routing::post;

use self::deadline::Deadline;
use self::error::GrpcError;
use self::message::MessageReader;
use self::status::Code;
use super::body::RequestBody;
use super::observe::{Client, SeenCall};
use super::shared::{Asked, Shared};
use super::{ApiError, ErrorCode};

/// The service by its full name.
const SERVICE: &str = "inference.GRPCInferenceService";

/// The route of its methods.
const ROUTE: &str = "/inference.GRPCInferenceService/{method}";

/// The path of the method that computes.
pub(super) const INFERENCE_PATH: &str = "/inference.GRPCInferenceService/ModelInfer";

/// The services that are answered.
pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new().route(ROUTE, post(inference)).route("/grpc.health.v1.Health/{method}", post(health))
}

/// A call, before its messages are read.
struct Call {
    caller: Caller,
    client: Option<Client>,
    messages: MessageReader,
}

/// What all messages of a call have in common.
struct Caller {
    shared: Arc<Shared>,
    /// The metadata.
    headers: HeaderMap,
    deadline: Deadline,
}

impl Call {
    fn new(shared: Arc<Shared>, request: Request) -> Result<Self, ApiError> {
        let (head, body) = request.into_parts();
        let deadline = Deadline::of(&head.headers)?;
        let messages = MessageReader::new(&head.headers, body)?;
        let client = head.extensions.get().copied();
        Ok(Self { caller: Caller { shared, headers: head.headers, deadline }, client, messages })
    }

    /// The message of a call that takes one.
    async fn only(&mut self, known: &mut Known) -> Result<RequestBody, ApiError> {
        let message = self.messages.only(&self.caller.shared.bodies).await?;
        known.request_bytes = Some(self.messages.received().bytes());
        Ok(message)
    }
}

/// What is known of a call before its answer is there, to be told also where none comes in time.
#[derive(Default)]
struct Known {
    asked: Option<Asked>,
    /// How long the body was.
    request_bytes: Option<u64>,
    /// Whether it asks for a prediction, so that it counts as refused where nobody was asked.
    is_inference: bool,
}

/// What is told of a call that ended with an error, or without.
fn seen_call(error: Option<ErrorCode>, request_bytes: Option<u64>) -> SeenCall {
    SeenCall { status: Some(error.map_or(Code::Ok, Code::of) as u16), request_bytes }
}

async fn inference(
    State(shared): State<Arc<Shared>>,
    method: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response<Body> {
    let method = named(method);
    respond(shared, request, async move |mut call, known| match method.as_str() {
        "ModelInfer" => infer::infer(call, known).await,
        "ModelStreamInfer" => stream::answer(call, known),
        method => {
            let message = call.only(known).await?;
            Ok(status::answered(documents::answer(&call.caller.shared, method, message.bytes()).await?))
        }
    })
    .await
}

/// Answers a call of [`INFERENCE_PATH`].
pub(super) async fn infer(shared: Arc<Shared>, request: Request) -> Response<Body> {
    respond(shared, request, infer::infer).await
}

async fn health(
    State(shared): State<Arc<Shared>>,
    method: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response<Body> {
    let method = named(method);
    respond(shared, request, async move |mut call, known| {
        let message = call.only(known).await?;
        Ok(status::answered(health::answer(&call.caller.shared, &method, message.bytes())?))
    })
    .await
}

/// The name of a method. What is no text is no name either.
fn named(method: Result<Path<String>, PathRejection>) -> String {
    method.map_or_else(|_| "�".to_owned(), |Path(method)| method)
}

/// Whether a path is a call of gRPC's.
pub(super) fn is_path(path: &str) -> bool {
    path.starts_with("/inference.GRPCInferenceService/") || path.starts_with("/grpc.health.v1.Health/")
}

/// The answer to a call whose message has these bytes as its first field.
pub fn answered_call(bytes: &[u8]) -> Response<Body> {
    match message::framed(&bytes.to_vec()) {
        Ok(framed) => status::answered(framed),
        Err(error) => refused(&error),
    }
}

/// The answer to a call that got an error before it was one.
pub(super) fn refused(error: &ApiError) -> Response<Body> {
    status::refused(error)
}

/// Answers a call by `answer`, within the time that the caller has for it.
async fn respond(
    shared: Arc<Shared>,
    request: Request,
    answer: impl AsyncFnOnce(Call, &mut Known) -> Result<Response<Body>, ApiError>,
) -> Response<Body> {
    if let Err(error) = check_is_grpc(&request) {
        return error.into_response();
    }
    let (told, mut known) = (Arc::clone(&shared), Known::default());
    let answered = match Call::new(shared, request) {
        Ok(call) => call.caller.deadline.within(answer(call, &mut known)).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &answered
        && known.is_inference
        && known.asked.is_none()
    {
        told.count_refused(error);
    }
    let seen = seen_call(answered.as_ref().err().map(ApiError::code), known.request_bytes);
    let mut response = answered.unwrap_or_else(|error| failed(&told, known.asked.as_ref(), &error));
    told.mark_call(seen, &mut response);
    response
}

/// The response to a call that got an error.
fn failed(shared: &Shared, asked: Option<&Asked>, error: &ApiError) -> Response<Body> {
    let mut response = status::refused(error);
    shared.fail(asked, error, &mut response);
    response
}

/// Whether a request is a call at all. What is none gets an answer of HTTP.
fn check_is_grpc(request: &Request) -> Result<(), ApiError> {
    if request.version() != Version::HTTP_2 {
        let message = "gRPC needs HTTP/2, which this port speaks too, with prior knowledge";
        return Err(ApiError::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, ErrorCode::Unsupported, message));
    }
    let found = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_protobuf = |rest: &str| rest.is_empty() || rest.starts_with(';') || rest.starts_with("+proto");
    match found.and_then(|found| found.strip_prefix("application/grpc")) {
        Some(rest) if is_protobuf(rest) => Ok(()),
        _ => {
            let found: String = found.unwrap_or_default().chars().take(80).collect();
            let message = format!("`content-type` is `{found}`: expected `application/grpc`");
            Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::Unsupported, message))
        }
    }
}
