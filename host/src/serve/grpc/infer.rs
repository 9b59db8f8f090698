use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use futures_util::stream::unfold;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::OwnedSemaphorePermit;

use super::super::body::RequestBody;
use super::super::endpoint::number_of;
use super::super::observe::{Begun, ObservedStream, Seen, SeenError};
use super::super::protocol::asked;
use super::super::shared::{Asked, answered_by_parts, cache_header};
use super::super::{ApiError, Decoded, ErrorCode};
use super::message::framed;
use super::request::{InferHead, decode_infer_request};
use super::response::{Envelope, InferResponseHead, encode_infer_response, stream_error};
use super::status::{answered, response, trailers};
use super::{Call, Known, ROUTE, seen_call};

/// The path of `ModelStreamInfer`.
const STREAM_PATH: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// Longest that a stream may wait for its next request. It holds a place for requests as long as it is there.
const STREAM_IDLE_MAX: Duration = Duration::from_secs(600);

/// Answers `ModelInfer`.
pub(super) async fn infer(mut call: Call, known: &mut Known) -> Result<Response<Body>, ApiError> {
    known.is_inference = true;
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
pub(super) fn stream(call: Call, known: &mut Known) -> Result<Response<Body>, ApiError> {
    known.is_inference = true;
    let place = call.shared.place_for_stream()?;
    let observed = call.shared.observed_stream(STREAM_PATH, ROUTE, &call.headers, call.client);
    let is_stream = observed.is_some();
    let frames = unfold(Some(Stream { call, observed, _place: place }), async |stream| {
        let mut stream = stream?;
        let (frame, next) = match stream.next_answer().await {
            Ok(Some(answer)) => (Frame::data(answer), Some(stream)),
            Ok(None) => (Frame::trailers(trailers(Ok(()))), None),
            Err(error) => (Frame::trailers(trailers(Err(&error))), None),
        };
        Some((Ok::<_, std::convert::Infallible>(frame), next))
    });
    let mut response = response(Body::new(StreamBody::new(frames)));
    if is_stream {
        response.extensions_mut().insert(Seen { is_stream, ..Seen::default() });
    }
    Ok(response)
}

/// A stream of requests that is under way.
struct Stream {
    call: Call,
    /// None where nothing is told of it.
    observed: Option<ObservedStream>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Stream {
    /// All that has come counts, whether or not it was a request, and however the stream has ended.
    fn drop(&mut self) {
        if let Some(observed) = &mut self.observed {
            observed.note_request_bytes(self.call.messages.received());
        }
    }
}

/// A request of a stream that is there.
struct StreamRequest {
    begun: Begun,
    bytes: u64,
    /// What is known of it before its answer is there.
    asked: Option<Asked>,
    /// What is told of it once it is answered, where anything is.
    seen: Option<Seen>,
}

impl Stream {
    /// The answer to the next request, framed; none at the end.
    async fn next_answer(&mut self) -> Result<Option<Bytes>, ApiError> {
        let (deadline, mut request) = (self.call.deadline, None);
        let answered = deadline.within(next_answer(&mut self.call, &mut request)).await;
        if let Err(error) = &answered
            && request.as_ref().is_none_or(|request| request.asked.is_none())
        {
            self.call.shared.count_refused(error);
        }
        self.tell(request, &answered);
        answered
    }

    /// Tells a request that was answered, or was not before the caller's deadline; and how the stream has ended.
    fn tell(&mut self, request: Option<StreamRequest>, answered: &Result<Option<Bytes>, ApiError>) {
        let Some(observed) = &mut self.observed else { return };
        let error = answered.as_ref().err();
        if let Some(StreamRequest { begun, bytes, asked, seen }) = request {
            let failure = || self.call.shared.seen_failure(asked.as_ref(), error?);
            if let Some(mut seen) = seen.or_else(failure) {
                seen.call = Some(seen_call(seen.error.as_ref().map(|error| error.code), Some(bytes)));
                let sent = answered.as_ref().ok().and_then(Option::as_ref);
                observed.tell(begun, &seen, sent.map(|answer| answer.len() as u64));
            }
        }
        if !matches!(answered, Ok(Some(_))) {
            observed.end(seen_call(error.map(ApiError::code), None), error.map(SeenError::of));
        }
    }
}

/// The answer to the next request of a stream, framed; none at its end. Leaves in `request` what is known of it.
async fn next_answer(
    call: &mut Call,
    request: &mut Option<StreamRequest>,
) -> Result<Option<Bytes>, ApiError> {
    let begins = tokio::time::timeout(STREAM_IDLE_MAX, call.messages.begins()).await;
    let begins = begins.unwrap_or_else(|_| {
        let message = format!("no request came for {} s", STREAM_IDLE_MAX.as_secs());
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::BodyTimeout, message))
    })?;
    if !begins {
        return Ok(None);
    }
    let (begun, read) = (Begun::now(), call.messages.read());
    let Some(message) = call.messages.next(&call.shared.bodies).await? else { return Ok(None) };
    let bytes = call.messages.read() - read;
    let request = request.insert(StreamRequest { begun, bytes, asked: None, seen: None });
    let id = InferHead::read(message.bytes()).map(|head| head.id.to_owned()).unwrap_or_default();
    match computed(call, message, Envelope::Stream, &mut request.asked).await {
        Ok(answer) => {
            request.seen = answer.seen;
            Ok(Some(answer.message))
        }
        Err(error) if call.deadline.check().is_err() => Err(error),
        Err(error) => {
            if request.asked.is_none() {
                call.shared.count_refused(&error);
            }
            request.seen = call.shared.seen_failure(request.asked.as_ref(), &error);
            framed(&stream_error(&error, &id)).map(|answer| Some(answer.into()))
        }
    }
}

/// The answer to a message `ModelInferRequest`.
struct Computed {
    /// Framed.
    message: Bytes,
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
    let head = InferHead::read(message.bytes()).map_err(ApiError::from)?;
    let version = (!head.model_version.is_empty()).then_some(head.model_version);
    let asked = known.insert(asked(shared, head.model_name, version, Some(headers))?);
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
        move |message, specs, rows_max| {
            // Where the request has waited for a thread, nobody may be waiting any more.
            deadline.check()?;
            let request = decode_infer_request(message, specs, rows_max)?;
            Ok(Decoded { inputs: request.inputs, note: request.outputs, timeout: request.timeout })
        },
        move |given, selection| {
            let of_answer = answered_by_parts(&given.parts).chain(cache_header(given.is_cached));
            head.parameters.extend(of_answer.map(parameter));
            encode_infer_response(head, &given.outputs, &selection, envelope)
        },
    );
    let mut answer = answer.await?;
    let message = shared.bodies.hold(std::mem::take(&mut answer.body));
    let message = shared.with_room(asked, message)?;
    let metadata = asked.answered_by(&prediction, &answer.parts);
    let metadata = metadata.chain(cache_header(answer.is_cached)).collect();
    let seen = shared.keep(prediction, asked, answer);
    Ok(Computed { message, metadata, seen })
}
