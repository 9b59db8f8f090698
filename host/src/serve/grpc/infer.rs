use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, Response};
use tokio::sync::oneshot;

use super::super::body::RequestBody;
use super::super::deployment::{Given, Writing};
use super::super::endpoint::number_of;
use super::super::inference::OutputSelection;
use super::super::observe::Seen;
use super::super::protocol::asked;
use super::super::shared::{Asked, answered_by_parts, cache_header};
use super::super::{ApiError, Decoded};
use super::request::{InferHead, decode_infer_request};
use super::response::{Envelope, InferResponseHead, encode_infer_response};
use super::status::answered;
use super::{Call, Caller, Known};

/// Answers `ModelInfer`.
pub(super) async fn infer(mut call: Call, known: &mut Known) -> Result<Response<Body>, ApiError> {
    known.is_inference = true;
    let message = call.only(known).await?;
    let Computed { message, metadata, seen } =
        computed(&call.caller, message, Envelope::Call, None, &mut known.asked).await?;
    let mut response = answered(message);
    response.headers_mut().extend(metadata);
    if let Some(seen) = seen {
        response.extensions_mut().insert(seen);
    }
    Ok(response)
}

/// The answer to a message `ModelInferRequest`.
pub(super) struct Computed {
    /// Framed.
    pub(super) message: Bytes,
    /// What it says of itself.
    metadata: Vec<(HeaderName, HeaderValue)>,
    /// What is told of it, where anything is.
    pub(super) seen: Option<Seen>,
}

/// Requests of a stream that are answered at the same time.
pub(super) const AT_ONCE_MAX: usize = 16;

/// Computes an answer; leaves in `known` who was asked, as soon as that is clear. `before` ends with the request before it of its
/// stream, which it waits for where so many at once would find no place: a stream by itself overflows no queue.
pub(super) async fn computed(
    caller: &Caller,
    message: RequestBody,
    envelope: Envelope,
    before: Option<oneshot::Receiver<()>>,
    known: &mut Option<Asked>,
) -> Result<Computed, ApiError> {
    let (shared, headers, deadline) = (&caller.shared, &caller.headers, caller.deadline);
    let head = InferHead::read(message.bytes()).map_err(ApiError::from)?;
    let version = (!head.model_version.is_empty()).then_some(head.model_version);
    let asked = asked(shared, head.model_name, version, Some(headers))?;
    // Of a graph it is not known which queues it meets.
    let is_wide = || asked.deployment.graph().is_none() && asked.routing.queue().has_room_for(AT_ONCE_MAX);
    if let Some(before) = before
        && !is_wide()
    {
        // It ends by being dropped. Only then does the time begin that this may wait.
        let _ = before.await;
    }
    let asked = known.insert(asked);
    let request = asked.call(deadline.at());
    let prediction = shared.next_prediction_id();
    let parameter = |(name, value): (HeaderName, HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let mut head = InferResponseHead {
        model_name: asked.endpoint.name().to_string(),
        model_version: number_of(&asked.deployment).to_string(),
        id: head.id.to_owned(),
        parameters: asked.answered_by(&prediction, &[]).map(parameter).collect(),
    };
    let answer = asked.deployment.answer_as(
        message,
        request,
        &shared.bodies,
        move |message, specs, rows_max| {
            // Where the request has waited for a thread, nobody may be waiting any more.
            deadline.check()?;
            let request = decode_infer_request(message, specs, rows_max)?;
            Ok(Decoded { inputs: request.inputs, note: request.outputs, timeout: request.timeout })
        },
        Writing {
            len_max: |outputs, selection: &OutputSelection| selection.raw_len_max(outputs),
            encode: move |given: &Given, selection: OutputSelection| {
                let of_answer = answered_by_parts(&given.parts).chain(cache_header(given.is_cached));
                head.parameters.extend(of_answer.map(parameter));
                encode_infer_response(head, &given.outputs, &selection, envelope)
            },
        },
    );
    let mut answer = answer.await?;
    let message = shared.bodies.hold(std::mem::take(&mut answer.body), std::mem::take(&mut answer.room));
    let message = shared.with_room(asked, message)?;
    let metadata = asked.answered_by(&prediction, &answer.parts);
    let metadata = metadata.chain(cache_header(answer.is_cached)).collect();
    let seen = shared.keep(prediction, asked, answer);
    Ok(Computed { message, metadata, seen })
}
