use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Response, StatusCode};
use futures_util::StreamExt as _;
use futures_util::stream::{FuturesOrdered, unfold};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::{JoinError, JoinHandle};

use super::super::body::RequestBody;
use super::super::observe::{Begun, ObservedStream, Seen, SeenError};
use super::super::offload::joined;
use super::super::shared::Asked;
use super::super::{ApiError, ErrorCode};
use super::infer::{AT_ONCE_MAX, computed};
use super::message::{MessageReader, Received, framed};
use super::request::InferHead;
use super::response::{Envelope, stream_error};
use super::status::{response, trailers};
use super::{Call, Caller, Known, ROUTE, seen_call};
use crate::task::shared_threads;

/// The path of `ModelStreamInfer`.
const PATH: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// Longest that a stream may wait for its next request. It holds a place for requests as long as it is there.
const IDLE_MAX: Duration = Duration::from_secs(600);

/// Bytes of requests that are under way, and of their answers as far as the last one tells, from which on no more are read: large
/// ones are answered one by one, so that a stream takes no more memory than a call.
const AHEAD_MAX_BYTES: usize = 128 * 1024;

/// Answers `ModelStreamInfer`: for each request one answer, in the order of the requests. An error is an answer too, and
/// the stream goes on; it ends with the first message that cannot be read.
pub(super) fn answer(call: Call, known: &mut Known) -> Result<Response<Body>, ApiError> {
    known.is_inference = true;
    let shared = &call.caller.shared;
    let place = shared.place_for_stream()?;
    let observed = shared.observed_stream(PATH, ROUTE, &call.caller.headers, call.client);
    let is_stream = observed.is_some();
    let frames = unfold(Some(Stream::new(call, observed, place)), async |stream| {
        let mut stream = stream?;
        let (frame, next) = match stream.next_answer().await {
            Ok(Some(answer)) => (Frame::data(answer), Some(stream)),
            Ok(None) => (Frame::trailers(trailers(Ok(()))), None),
            Err(error) => (Frame::trailers(trailers(Err(&error))), None),
        };
        Some((Ok::<_, Infallible>(frame), next))
    });
    let mut response = response(Body::new(StreamBody::new(frames)));
    if is_stream {
        response.extensions_mut().insert(Seen { is_stream, ..Seen::default() });
    }
    Ok(response)
}

/// A stream of requests that is under way.
struct Stream {
    caller: Arc<Caller>,
    /// None where nothing is told of it.
    observed: Option<ObservedStream>,
    received: Received,
    /// The next request, as it comes; none when no more are read.
    reading: Option<Pin<Box<dyn Future<Output = Read> + Send>>>,
    /// Whether it is under way, and goes on whatever there is room for: its time to come goes on too.
    is_reading: bool,
    /// In the order of the requests.
    answers: FuturesOrdered<Answering>,
    /// Bytes of their requests, and of the answer before.
    ahead_bytes: usize,
    answer_bytes: usize,
    /// Ends with the last request that has come.
    last: Option<oneshot::Receiver<()>>,
    /// Whether a request has no answer: those after it have none either.
    is_cut: bool,
    /// How it ends when these are sent.
    end: Result<(), ApiError>,
    _place: OwnedSemaphorePermit,
}

/// What comes of reading, and who reads on.
type Read = (MessageReader, Result<Option<Arrived>, ApiError>);

/// A request of a stream that is there.
struct Arrived {
    begun: Begun,
    bytes: u64,
    message: RequestBody,
}

/// A request of a stream that was answered, or was not before the caller's deadline.
struct Answered {
    begun: Begun,
    bytes: u64,
    /// Of the message, unpacked.
    message_bytes: usize,
    /// Who was asked.
    asked: Option<Asked>,
    /// What is told of it, where anything is.
    seen: Option<Seen>,
    /// Framed.
    answer: Result<Bytes, ApiError>,
}

/// A request that is answered by a task of its own: who does not take the answers before holds up nobody whose rows are computed
/// together with its own. Is given up when it is dropped.
struct Answering(JoinHandle<Answered>);

impl Stream {
    fn new(call: Call, observed: Option<ObservedStream>, place: OwnedSemaphorePermit) -> Self {
        let (caller, received) = (Arc::new(call.caller), call.messages.received());
        let reading = read(Arc::clone(&caller), call.messages);
        Self {
            caller,
            observed,
            received,
            reading: Some(Box::pin(reading)),
            is_reading: false,
            answers: FuturesOrdered::new(),
            ahead_bytes: 0,
            answer_bytes: 0,
            last: None,
            is_cut: false,
            end: Ok(()),
            _place: place,
        }
    }

    /// The answer to the next request, framed; none at the end.
    async fn next_answer(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            self.is_reading |= self.has_room();
            tokio::select! {
                biased;
                Some(answered) = self.answers.next() => match self.sent(answered) {
                    Ok(_) if self.is_cut => {}
                    Ok(answer) => return Ok(Some(answer)),
                    Err(error) => {
                        self.is_cut = true;
                        self.stop(Err(error));
                    }
                },
                Some((messages, read)) = next(&mut self.reading), if self.is_reading => self.take(messages, read),
                else => break,
            }
        }
        let end = std::mem::replace(&mut self.end, Ok(()));
        if let Some(observed) = &mut self.observed {
            let error = end.as_ref().err();
            observed.end(seen_call(error.map(ApiError::code), None), error.map(SeenError::of));
        }
        end.map(|()| None)
    }

    /// Whether the next request is read before those under way are answered.
    fn has_room(&self) -> bool {
        let under_way = self.answers.len();
        let bytes = self.ahead_bytes.saturating_add(self.answer_bytes.saturating_mul(under_way));
        under_way == 0 || (under_way < AT_ONCE_MAX && bytes < AHEAD_MAX_BYTES)
    }

    /// Has a request answered, and the next one read.
    fn take(&mut self, messages: MessageReader, read_now: Result<Option<Arrived>, ApiError>) {
        self.is_reading = false;
        match read_now {
            Ok(Some(arrived)) => {
                let is_alone = self.answers.is_empty();
                self.ahead_bytes += arrived.message.bytes().len();
                let (done, last) = oneshot::channel();
                let before = self.last.replace(last).filter(|_| !is_alone);
                let answer = answered(Arc::clone(&self.caller), arrived, before, done);
                // By this thread, or where others are computed by whoever is free.
                let task = match shared_threads().filter(|_| !is_alone) {
                    Some(threads) => threads.spawn(answer),
                    None => tokio::spawn(answer),
                };
                self.answers.push_back(Answering(task));
                self.reading = Some(Box::pin(read(Arc::clone(&self.caller), messages)));
            }
            Ok(None) => self.stop(Ok(())),
            Err(error) => {
                // That nobody waits any more is no fault of a request.
                if self.caller.deadline.check().is_ok() {
                    self.caller.shared.count_refused(&error);
                }
                self.stop(Err(error));
            }
        }
    }

    /// Reads no more; the first error is how it ends.
    fn stop(&mut self, end: Result<(), ApiError>) {
        self.reading = None;
        if self.end.is_ok() {
            self.end = end;
        }
    }

    /// The answer to a request, which is told.
    fn sent(&mut self, answered: Result<Answered, JoinError>) -> Result<Bytes, ApiError> {
        let Answered { begun, bytes, message_bytes, asked, seen, answer } =
            answered.map_err(|error| joined(&error))?;
        self.ahead_bytes = self.ahead_bytes.saturating_sub(message_bytes);
        self.answer_bytes = answer.as_ref().map_or(0, Bytes::len);
        if let (Err(error), None) = (&answer, &asked) {
            self.caller.shared.count_refused(error);
        }
        if let Some(observed) = &mut self.observed {
            let failure = || self.caller.shared.seen_failure(asked.as_ref(), answer.as_ref().err()?);
            if let Some(mut seen) = seen.or_else(failure) {
                seen.call = Some(seen_call(seen.error.as_ref().map(|error| error.code), Some(bytes)));
                let sent = answer.as_ref().ok().filter(|_| !self.is_cut);
                observed.tell(begun, &seen, sent.map(|answer| answer.len() as u64));
            }
        }
        answer
    }
}

impl Drop for Stream {
    /// All that has come counts, whether or not it was a request, and however the stream has ended.
    fn drop(&mut self) {
        if let Some(observed) = &mut self.observed {
            observed.note_request_bytes(self.received.bytes());
        }
    }
}

impl Future for Answering {
    type Output = Result<Answered, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What comes of reading; none where nothing is read any more.
async fn next(reading: &mut Option<Pin<Box<dyn Future<Output = Read> + Send>>>) -> Option<Read> {
    match reading {
        Some(reading) => Some(reading.await),
        None => None,
    }
}

/// Reads the next request; there is none at the end of the stream.
async fn read(caller: Arc<Caller>, mut messages: MessageReader) -> Read {
    let request = async {
        let begins = tokio::time::timeout(IDLE_MAX, messages.begins()).await;
        let begins = begins.unwrap_or_else(|_| {
            let message = format!("no request came for {} s", IDLE_MAX.as_secs());
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::BodyTimeout, message))
        })?;
        if !begins {
            return Ok(None);
        }
        let (begun, before) = (Begun::now(), messages.read());
        let Some(message) = messages.next(&caller.shared.bodies).await? else { return Ok(None) };
        Ok(Some(Arrived { begun, bytes: messages.read() - before, message }))
    };
    let request = caller.deadline.within(request).await;
    (messages, request)
}

/// Answers a request of a stream. An error is an answer, unless the caller waits no more. `before` ends with the request before it,
/// as `done` with this one.
async fn answered(
    caller: Arc<Caller>,
    Arrived { begun, bytes, message }: Arrived,
    before: Option<oneshot::Receiver<()>>,
    done: oneshot::Sender<()>,
) -> Answered {
    let _done = done;
    let (mut asked, mut seen) = (None, None);
    let message_bytes = message.bytes().len();
    let id = InferHead::read(message.bytes()).map(|head| head.id.to_owned()).unwrap_or_default();
    let computing = computed(&caller, message, Envelope::Stream, before, &mut asked);
    let answer = match caller.deadline.within(computing).await {
        Ok(computed) => {
            seen = computed.seen;
            Ok(computed.message)
        }
        Err(error) if caller.deadline.check().is_err() => Err(error),
        Err(error) => {
            if asked.is_none() {
                caller.shared.count_refused(&error);
            }
            seen = caller.shared.seen_failure(asked.as_ref(), &error);
            framed(&stream_error(&error, &id)).map(Bytes::from)
        }
    };
    Answered { begun, bytes, message_bytes, asked, seen, answer }
}
