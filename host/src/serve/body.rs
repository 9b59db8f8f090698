use std::error::Error;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::inference::ContentEncoding;
use super::offload::{on_blocking_pool, stopping};
use super::{ApiError, ErrorCode};

/// Bodies up to this size are not counted, which most are. There are never more of them than connections, and
/// requests of HTTP/2, of which a stream has 128 KiB at most.
pub(super) const UNCOUNTED_MAX_BYTES: usize = 64 * 1024;

/// Bytes that an answer may have as it is written, judged before: more than the flat elements of any that a plugin may give, and
/// less than those in dozens of lists each.
const ANSWER_MAX_BYTES: usize = 512 * 1024 * 1024;

/// The unit in which memory is counted, since a semaphore gives at most 2³² permits at once.
const UNIT_BYTES: usize = 1024;

/// The most units there can be, which no machine has; fits a semaphore of any platform.
const UNITS_MAX: usize = 1 << 28;

/// A document, such as the metrics, counts as this share of what there is for answers at most.
const DOCUMENT_SHARE: usize = 4;

/// What answers are called where there is no memory for another.
const UNTAKEN: &str = "answers that clients have not taken";

/// What a request may cost before it is computed.
#[derive(Debug, Clone)]
pub struct ServeLimits {
    /// Bytes of a body.
    pub body_max_bytes: usize,
    /// Time for a body to arrive.
    pub body_max_ms: u64,
    /// Bytes of the bodies of all requests under way together, and as many of answers; those of up to 64 KiB are not counted.
    pub bodies_max_bytes: usize,
}

impl Default for ServeLimits {
    /// 16 MiB hold some 5,000 MNIST images as JSON; a client that needs more than 30 s to send them is not sending. All
    /// together may take what 32 such clients send at once.
    fn default() -> Self {
        Self { body_max_bytes: 16 * 1024 * 1024, body_max_ms: 30_000, bodies_max_bytes: 512 * 1024 * 1024 }
    }
}

/// The response with an answer, packed where the caller likes that and it is worth it, and counted among `bodies`: as it is while it
/// is packed, and as it was packed from then on. `room` is what was taken for it.
pub(super) async fn packed(
    bodies: &BodyReader,
    body: Vec<u8>,
    room: Share,
    accepted: ContentEncoding,
) -> Result<Response<Body>, ApiError> {
    let mut held = bodies.take_answer(body, room)?;
    let mut packed_by = None;
    if held.is_to_be_packed(accepted) {
        (held, packed_by) = bodies.pack(held, accepted).await?;
    }
    let mut response = Response::new(Body::from(held.into_bytes()));
    note_packing(response.headers_mut(), packed_by);
    Ok(response)
}

/// Says how an answer is packed, and that others get it otherwise.
pub(super) fn note_packing(headers: &mut HeaderMap, packed_by: Option<&'static str>) {
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(name) = packed_by {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
    }
}

/// The same of JSON.
pub(super) async fn packed_json(
    bodies: &BodyReader,
    body: Vec<u8>,
    room: Share,
    accepted: ContentEncoding,
) -> Result<Response<Body>, ApiError> {
    let mut response = packed(bodies, body, room, accepted).await?;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// How a body is packed, as its request says; one on top of another is not undone.
pub(super) fn encoding_of(headers: &HeaderMap) -> Result<ContentEncoding, ApiError> {
    let mut told =
        headers.get_all(header::CONTENT_ENCODING).iter().map(|value| value.to_str().unwrap_or("?"));
    let encoding = match (told.next(), told.next()) {
        (Some(first), Some(second)) => ContentEncoding::of_request(Some(&format!("{first}, {second}"))),
        (only, _) => ContentEncoding::of_request(only),
    };
    Ok(encoding?)
}

/// What a request likes its answer to be packed by.
pub(super) fn accepted_by(headers: &HeaderMap) -> ContentEncoding {
    let mut told = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    match (told.next(), told.next()) {
        // Several lines are one list.
        (Some(first), Some(second)) => {
            let all: Vec<&str> = [first, second].into_iter().chain(told).collect();
            ContentEncoding::accepted(Some(&all.join(",")))
        }
        (only, _) => ContentEncoding::accepted(only),
    }
}

/// A whole body. Its bytes are counted among those under way until it is dropped.
#[derive(Debug)]
pub struct RequestBody {
    bytes: Vec<u8>,
    share: Share,
}

impl RequestBody {
    /// What was sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<Vec<u8>> for RequestBody {
    /// A body that was not read from a socket, and is not counted.
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, share: Share::default() }
    }
}

/// The part of the memory for bodies that one body has; none for a small one.
#[derive(Debug, Default)]
pub(super) struct Share(Option<OwnedSemaphorePermit>);

impl Share {
    /// Gives back what is more than so many units.
    fn shrink(&mut self, units: usize) {
        if let Some(permit) = &mut self.0 {
            drop(permit.split(permit.num_permits().saturating_sub(units)));
        }
    }
}

/// The error of a body that came to no end: its client has gone, or has sent what is none.
pub(super) fn broken_off(error: &axum::Error) -> ApiError {
    let causes = std::iter::successors(Some(error as &dyn Error), |error| (**error).source());
    if causes.into_iter().any(is_of_who_has_gone) {
        return ApiError::cancelled();
    }
    let message = format!("the body broke off: {error}");
    ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidInput, message)
}

/// Whether an error says that a connection has ended, or a stream of HTTP/2.
fn is_of_who_has_gone(error: &(dyn Error + 'static)) -> bool {
    let is_closed = |kind| {
        use std::io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof,
        };
        matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
    };
    let of_connection = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    let of_stream = error.downcast_ref::<h2::Error>();
    of_connection.is_some_and(is_closed)
        || of_stream.is_some_and(|error| error.is_io() || (error.is_reset() && error.is_remote()))
}

/// Bytes of an answer that are counted until the last of them is sent.
pub(super) struct Held {
    bytes: Vec<u8>,
    share: Share,
}

impl Held {
    fn is_to_be_packed(&self, accepted: ContentEncoding) -> bool {
        accepted != ContentEncoding::Identity && self.bytes.len() >= ContentEncoding::PACKED_MIN_BYTES
    }

    /// The same packed, and by what. Where packing fails there are still the bytes.
    fn packed(mut self, accepted: ContentEncoding) -> (Self, Option<&'static str>) {
        let Ok(packed) = accepted.pack(&self.bytes) else { return (self, None) };
        self.bytes = packed;
        self.share.shrink(units_of(self.bytes.len()));
        (self, accepted.name())
    }

    /// The same, packed on this thread if that is worth it.
    pub(super) fn packed_if_worth_it(self, accepted: ContentEncoding) -> (Self, Option<&'static str>) {
        if self.is_to_be_packed(accepted) { self.packed(accepted) } else { (self, None) }
    }

    fn into_bytes(self) -> Bytes {
        match self.share.0 {
            None => self.bytes.into(),
            Some(_) => Bytes::from_owner(self),
        }
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Units that are counted of so many bytes.
fn units_of(bytes: usize) -> usize {
    if bytes <= UNCOUNTED_MAX_BYTES { 0 } else { bytes.div_ceil(UNIT_BYTES) }
}

/// Reads bodies within the limits on size, time and memory, and counts those of answers.
#[derive(Clone)]
pub(super) struct BodyReader {
    limits: ServeLimits,
    free_units: Arc<Semaphore>,
    /// For answers, so that whoever takes none of theirs keeps nobody from asking.
    free_answer_units: Arc<Semaphore>,
    units: usize,
    /// Places for answers that are being packed.
    packers: Arc<Semaphore>,
}

impl BodyReader {
    pub(super) fn new(limits: ServeLimits) -> Self {
        let units = (limits.bodies_max_bytes / UNIT_BYTES).clamp(1, UNITS_MAX);
        let free = || Arc::new(Semaphore::new(units));
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let packers = Arc::new(Semaphore::new(cores));
        Self { limits, free_units: free(), free_answer_units: free(), units, packers }
    }

    /// Reads a whole body.
    pub(super) async fn read(&self, body: Body) -> Result<RequestBody, ApiError> {
        self.in_time("did not arrive", self.collect(body)).await
    }

    /// What `work` makes of a body, or what was `missed` where that takes longer than it may.
    async fn in_time<T>(
        &self,
        missed: &str,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let within = Duration::from_millis(self.limits.body_max_ms);
        tokio::time::timeout(within, work).await.unwrap_or_else(|_| {
            let message = format!("the body {missed} within {} ms", self.limits.body_max_ms);
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::BodyTimeout, message))
        })
    }

    /// A message that `read` reads, within the time that a body has.
    pub(super) async fn read_message(
        &self,
        read: impl Future<Output = Result<Option<(Vec<u8>, Share)>, ApiError>>,
    ) -> Result<Option<RequestBody>, ApiError> {
        Ok(self.in_time("did not arrive", read).await?.map(|(bytes, share)| RequestBody { bytes, share }))
    }

    /// Unpacks a body, for as long as it may take to arrive and while somebody waits for it. Packed and unpacked bytes are both
    /// counted while that takes, and those that come of it from then on.
    pub(super) async fn unpack(
        &self,
        body: RequestBody,
        encoding: ContentEncoding,
    ) -> Result<RequestBody, ApiError> {
        if encoding == ContentEncoding::Identity {
            return Ok(body);
        }
        let (reader, RequestBody { bytes, mut share }) = (self.clone(), body);
        // Goes with this future, which is dropped where nobody waits any more.
        let waiting = Arc::new(());
        let waits = Arc::downgrade(&waiting);
        let unpacking = on_blocking_pool(move || {
            let packed_bytes = bytes.len();
            let is_wanted = || waits.strong_count() > 0;
            let room = |unpacked_bytes: usize| reader.take_room(&mut share, packed_bytes + unpacked_bytes);
            let bytes = encoding.unpack(bytes, reader.limits.body_max_bytes, is_wanted, room)?;
            share.shrink(units_of(bytes.len()));
            Ok(RequestBody { bytes, share })
        });
        let unpacked = self.in_time("was not unpacked", async { unpacking.await? }).await;
        drop(waiting);
        unpacked
    }

    async fn collect(&self, mut body: Body) -> Result<RequestBody, ApiError> {
        let mut share = Share::default();
        // What is too large is refused before any of it is read. Whoever announces much and sends little takes no room from others.
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        self.check_size(announced)?;
        let mut bytes = Vec::with_capacity(announced.min(UNCOUNTED_MAX_BYTES));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broken_off(&error))?;
            // What is no data are trailers, which mean nothing here.
            let Some(data) = frame.data_ref() else { continue };
            self.grow(&mut share, bytes.len() + data.len())?;
            bytes.extend_from_slice(data);
        }
        Ok(RequestBody { bytes, share })
    }

    /// Makes `share` large enough for a body of so many bytes, if there may be one.
    pub(super) fn grow(&self, share: &mut Share, bytes: usize) -> Result<(), ApiError> {
        self.check_size(bytes)?;
        self.take_room(share, bytes)
    }

    /// Refuses a body of more bytes than one may have.
    pub(super) fn check_size(&self, bytes: usize) -> Result<(), ApiError> {
        if bytes <= self.limits.body_max_bytes {
            return Ok(());
        }
        let message = format!("the body is larger than the limit of {} bytes", self.limits.body_max_bytes);
        Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::BodyTooLarge, message))
    }

    /// Room for an answer that is yet to be written, and has at most so many bytes.
    pub(super) fn room_for_answer(&self, bytes_max: usize) -> Result<Share, ApiError> {
        if bytes_max > ANSWER_MAX_BYTES {
            let message = format!(
                "the answer would be too large: expected at most {ANSWER_MAX_BYTES} bytes, found up to {bytes_max}: send \
                 fewer rows at once"
            );
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::AnswerTooLarge, message));
        }
        let mut room = Share::default();
        self.take_answer_room(&mut room, bytes_max)?;
        Ok(room)
    }

    /// Counts an answer among those under way, until its client has taken it: one that reads slowly keeps it in memory. `room` is
    /// what was taken for it.
    pub(super) fn hold(&self, bytes: Vec<u8>, room: Share) -> Result<Bytes, ApiError> {
        Ok(self.take_answer(bytes, room)?.into_bytes())
    }

    /// Counts an answer in the same way.
    pub(super) fn take_answer(&self, bytes: Vec<u8>, room: Share) -> Result<Held, ApiError> {
        let mut share = room;
        self.take_answer_room(&mut share, bytes.len())?;
        share.shrink(units_of(bytes.len()));
        Ok(Held { bytes, share })
    }

    /// Counts a document as an answer, as it is when it is packed: only one is made at a time. However large it is, a client that
    /// takes nothing of it leaves room for others.
    pub(super) fn take_document(
        &self,
        bytes: Vec<u8>,
        accepted: ContentEncoding,
    ) -> Result<(Held, Option<&'static str>), ApiError> {
        let (mut held, packed_by) = Held { bytes, share: Share::default() }.packed_if_worth_it(accepted);
        let units = units_of(held.bytes.len()).min(self.units.div_ceil(DOCUMENT_SHARE));
        self.take_units(&self.free_answer_units, &mut held.share, units, UNTAKEN)?;
        Ok((held, packed_by))
    }

    fn take_answer_room(&self, share: &mut Share, bytes: usize) -> Result<(), ApiError> {
        self.take(&self.free_answer_units, share, bytes, UNTAKEN)
    }

    /// Whether half of what there is for answers is taken.
    pub(super) fn is_scarce(&self) -> bool {
        self.free_answer_units.available_permits() < self.units / 2
    }

    /// Packs an answer, if that works, and tells by what; as many at once as there are cores.
    async fn pack(
        &self,
        held: Held,
        accepted: ContentEncoding,
    ) -> Result<(Held, Option<&'static str>), ApiError> {
        let place = Arc::clone(&self.packers).acquire_owned().await.map_err(|_| stopping())?;
        on_blocking_pool(move || {
            let _place = place;
            held.packed(accepted)
        })
        .await
    }

    /// Makes `share` large enough for so many bytes of a request.
    fn take_room(&self, share: &mut Share, bytes: usize) -> Result<(), ApiError> {
        self.take(&self.free_units, share, bytes, "bodies under way")
    }

    /// Makes `share` large enough for so many bytes, of those that `free` has for `what`.
    fn take(
        &self,
        free: &Arc<Semaphore>,
        share: &mut Share,
        bytes: usize,
        what: &str,
    ) -> Result<(), ApiError> {
        // A body that is alone always finds room, or those between both limits could never be sent.
        self.take_units(free, share, units_of(bytes).min(self.units), what)
    }

    fn take_units(
        &self,
        free: &Arc<Semaphore>,
        share: &mut Share,
        units: usize,
        what: &str,
    ) -> Result<(), ApiError> {
        let present = share.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = units.saturating_sub(present);
        let Some(missing) = u32::try_from(missing).ok().filter(|&missing| missing > 0) else { return Ok(()) };
        let more = Arc::clone(free).try_acquire_many_owned(missing).map_err(|_| {
            let message = format!(
                "the {what} take all of the {} bytes there are for them: try again",
                self.limits.bodies_max_bytes
            );
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Overloaded, message)
        })?;
        match &mut share.0 {
            Some(present) => present.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
