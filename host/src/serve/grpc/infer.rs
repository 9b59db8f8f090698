use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use futures_util::stream::unfold;
use http_body_util::StreamBody;
use hyper::body::Frame;

use super::super::body::RequestBody;
use super::super::observe::Seen;
use super::super::protocol::{asked, number_of};
use super::super::routes::{Asked, versions_of};
use super::super::{ApiError, Decoded, ErrorCode};
use super::message::framed;
use super::request::{InferHead, decode_infer_request};
use super::response::{Envelope, InferResponseHead, encode_infer_response, stream_error};
use super::status::{answered, response, trailers};
use super::{Call, Known};

/// Longest that a stream may wait for its next request. It holds a place for requests as long as it is there.
const STREAM_IDLE_MAX: Duration = Duration::from_secs(600);

/// Answers `ModelInfer`.
pub(super) async fn infer(mut call: Call, known: &mut Known) -> Result<Response<Body>, ApiError> {
    let message = call.only(known).await?;
    let Computed { message, metadata, seen } =
        computed(&mut call, message, Envelope::Call, &mut known.asked).await?;
    let mut response = answered(message);
    response.headers_mut().extend(metadata);
    if let Some(seen) = seen {
        response.extensions_mut().insert(seen);
    }
    Ok(response)
}

/// Answers `ModelStreamInfer`: for each request one answer, in the order of the requests. An error is an answer too, and
/// the stream goes on; it ends with the first message that cannot be read.
pub(super) fn stream(call: Call) -> Response<Body> {
    let frames = unfold(Some(call), async |call| {
        let mut call = call?;
        let deadline = call.deadline;
        let (frame, next) = match deadline.within(next_answer(&mut call)).await {
            Ok(Some(answer)) => (Frame::data(Bytes::from(answer)), Some(call)),
            Ok(None) => (Frame::trailers(trailers(Ok(()))), None),
            Err(error) => (Frame::trailers(trailers(Err(&error))), None),
        };
        Some((Ok::<_, std::convert::Infallible>(frame), next))
    });
    response(Body::new(StreamBody::new(frames)))
}

/// The answer to the next request of a stream, framed; none at its end.
async fn next_answer(call: &mut Call) -> Result<Option<Vec<u8>>, ApiError> {
    let begins = tokio::time::timeout(STREAM_IDLE_MAX, call.messages.begins()).await;
    let begins = begins.unwrap_or_else(|_| {
        let message = format!("no request came for {} s", STREAM_IDLE_MAX.as_secs());
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::BodyTimeout, message))
    })?;
    if !begins {
        return Ok(None);
    }
    let Some(message) = call.messages.next(&call.shared.bodies).await? else { return Ok(None) };
    let id = InferHead::read(message.bytes()).map(|head| head.id.to_owned()).unwrap_or_default();
    let answer = computed(call, message, Envelope::Stream, &mut None).await;
    match answer {
        Ok(answer) => Ok(Some(answer.message)),
        Err(error) if call.deadline.check().is_err() => Err(error),
        Err(error) => framed(&stream_error(&error, &id)).map(Some),
    }
}

/// The answer to a message `ModelInferRequest`.
struct Computed {
    /// Framed.
    message: Vec<u8>,
    /// What it says of itself.
    metadata: Vec<(HeaderName, HeaderValue)>,
    /// What is told of it, where anything is.
    seen: Option<Seen>,
}

/// Computes an answer; leaves in `known` who was asked, as soon as that is clear.
async fn computed(
    call: &mut Call,
    message: RequestBody,
    envelope: Envelope,
    known: &mut Option<Asked>,
) -> Result<Computed, ApiError> {
    let (shared, headers, deadline) = (&call.shared, &call.headers, call.deadline);
    let refused = |error: &ApiError| shared.count_refused(error);
    let head = InferHead::read(message.bytes()).map_err(ApiError::from).inspect_err(refused)?;
    let version = (!head.model_version.is_empty()).then_some(head.model_version);
    let asked = known.insert(asked(shared, head.model_name, version, headers).inspect_err(refused)?);
    let request = asked.routing.call(deadline.at());
    let prediction = shared.next_prediction_id();
    let mut metadata: Vec<_> = asked.answered_by(&prediction).collect();
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let head = InferResponseHead {
        model_name: asked.endpoint.name().to_string(),
        model_version: number_of(&asked.deployment),
        id: head.id.to_owned(),
        parameters: metadata.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
    };
    let answer = asked.deployment.answer_as(
        message,
        request,
        move |message, specs, rows_max| {
            // Where the request has waited for a thread, nobody may be waiting any more.
            deadline.check()?;
            let request = decode_infer_request(message, specs, rows_max)?;
            Ok(Decoded { inputs: request.inputs, note: request.outputs, timeout: request.timeout })
        },
        move |outputs, selection| encode_infer_response(head, outputs, &selection, envelope),
    );
    let mut answer = answer.await?;
    let message = std::mem::take(&mut answer.body);
    metadata.extend(versions_of(&answer.parts));
    let seen = shared.keep(prediction, asked, answer);
    Ok(Computed { message, metadata, seen })
}
