use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, header};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::Semaphore;

use super::ApiError;
use super::body::{BodyReader, Held, note_packing};
use super::inference::ContentEncoding;
use super::offload::{on_blocking_pool, stopping};

/// How old a document may be where so much waits for clients that there would soon be no memory for another.
const SHARED_MAX_AGE: Duration = Duration::from_secs(1);

/// What tells of all endpoints, and so is large and takes long where there are many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Document {
    Metrics,
    OpenApi,
    Endpoints,
    Statistics,
    Index {
        only_ready: bool,
    },
    /// As gRPC has them.
    StatisticsMessage,
    IndexMessage {
        only_ready: bool,
    },
}

/// Makes documents: one at a time, so that those who ask for them leave the cores to others, and one for all who wait for the
/// same. What somebody gets was begun after it was asked for.
#[derive(Clone)]
pub(super) struct Documents {
    place: Arc<Semaphore>,
    known: Arc<Mutex<BTreeMap<(Document, ContentEncoding), Known>>>,
    shared_max_age: Duration,
}

#[derive(Default)]
struct Known {
    /// The one that is begun next, of those who wait for it.
    next: Option<WeakShared<Making>>,
    latest: Option<Latest>,
}

type Making = BoxFuture<'static, Result<Text, ApiError>>;

/// The one that was begun last, as long as a client takes it.
struct Latest {
    begun: Instant,
    held: Weak<Held>,
    packed_by: Option<&'static str>,
}

/// A document, once in memory for all who take it.
#[derive(Clone)]
pub(super) struct Text {
    held: Arc<Held>,
    packed_by: Option<&'static str>,
}

struct Taken(Arc<Held>);

impl AsRef<[u8]> for Taken {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref().as_ref()
    }
}

impl Text {
    pub(super) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(Taken(self.held))
    }

    pub(super) fn into_response(self, content_type: &'static str) -> Response<Body> {
        let packed_by = self.packed_by;
        let mut response = Response::new(Body::from(self.into_bytes()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        note_packing(response.headers_mut(), packed_by);
        response
    }
}

impl Documents {
    pub(super) fn new() -> Self {
        let place = Arc::new(Semaphore::new(1));
        Self { place, known: Arc::default(), shared_max_age: SHARED_MAX_AGE }
    }

    /// A document, by `make` if nobody waits for it already; counted once among the answers of `bodies`, until the last client
    /// has taken it.
    pub(super) async fn get(
        &self,
        document: Document,
        accepted: ContentEncoding,
        bodies: &BodyReader,
        make: impl FnOnce() -> Result<Vec<u8>, ApiError> + Send + 'static,
    ) -> Result<Text, ApiError> {
        let key = (document, accepted);
        // Clients that take nothing would have a text each, and leave nothing to others.
        if bodies.is_scarce()
            && let Some(text) = self.latest(key)
        {
            return Ok(text);
        }
        self.next(key, bodies, make).await
    }

    fn latest(&self, key: (Document, ContentEncoding)) -> Option<Text> {
        let known = self.lock();
        let Latest { begun, held, packed_by } = known.get(&key)?.latest.as_ref()?;
        let held = held.upgrade().filter(|_| begun.elapsed() < self.shared_max_age)?;
        Some(Text { held, packed_by: *packed_by })
    }

    fn next(
        &self,
        key: (Document, ContentEncoding),
        bodies: &BodyReader,
        make: impl FnOnce() -> Result<Vec<u8>, ApiError> + Send + 'static,
    ) -> Shared<Making> {
        let mut all = self.lock();
        let known = all.entry(key).or_default();
        // Where all have gone away who waited for it, it never comes.
        if let Some(next) = known.next.as_ref().and_then(WeakShared::upgrade) {
            return next;
        }
        let next = self.clone().made(key, bodies.clone(), make).boxed().shared();
        known.next = next.downgrade();
        next
    }

    async fn made(
        self,
        key: (Document, ContentEncoding),
        bodies: BodyReader,
        make: impl FnOnce() -> Result<Vec<u8>, ApiError> + Send + 'static,
    ) -> Result<Text, ApiError> {
        let place = Arc::clone(&self.place).acquire_owned().await.map_err(|_| stopping())?;
        // Who asks from now on is to see what happens from now on.
        self.lock().entry(key).or_default().next = None;
        let begun = Instant::now();
        let text = on_blocking_pool(move || {
            // Also when nobody waits any more.
            let _place = place;
            let (held, packed_by) = bodies.take_document(make()?, key.1)?;
            Ok::<_, ApiError>(Text { held: Arc::new(held), packed_by })
        });
        let text = text.await??;
        let latest = Latest { begun, held: Arc::downgrade(&text.held), packed_by: text.packed_by };
        self.lock().entry(key).or_default().latest = Some(latest);
        Ok(text)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Document, ContentEncoding), Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets no document begin until what it gives is dropped.
    #[cfg(test)]
    pub(super) async fn pause(&self) -> tokio::sync::OwnedSemaphorePermit {
        Arc::clone(&self.place).acquire_owned().await.unwrap()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use futures_util::poll;

    use super::super::{ErrorCode, ServeLimits};
    use super::*;

    const KIB: usize = 1024;

    fn bodies(kib: usize) -> BodyReader {
        BodyReader::new(ServeLimits { bodies_max_bytes: kib * KIB, ..ServeLimits::default() })
    }

    fn number(text: &Text) -> u8 {
        text.clone().into_bytes()[0]
    }

    /// Documents of so many KiB that begin with their numbers.
    struct Numbered {
        documents: Documents,
        bodies: BodyReader,
        made: Arc<AtomicUsize>,
        kib: usize,
    }

    impl Numbered {
        fn new(kib: usize, bodies_kib: usize, shared_max_age: Duration) -> Self {
            let documents = Documents { shared_max_age, ..Documents::new() };
            Self { documents, bodies: bodies(bodies_kib), made: Arc::default(), kib }
        }

        async fn get(&self, document: Document, accepted: ContentEncoding) -> Result<Text, ApiError> {
            let (made, kib) = (Arc::clone(&self.made), self.kib);
            let make = move || Ok(vec![made.fetch_add(1, Ordering::Relaxed) as u8; kib * KIB]);
            self.documents.get(document, accepted, &self.bodies, make).await
        }

        async fn metrics(&self) -> Result<Text, ApiError> {
            self.get(Document::Metrics, ContentEncoding::Identity).await
        }
    }

    #[tokio::test]
    async fn those_who_wait_share_one_that_was_begun_after_they_asked() {
        let documents = Documents::new();
        let (bodies, making) = (bodies(1_000), Arc::new(AtomicUsize::new(0)));
        let (open, gate) = std::sync::mpsc::channel();
        let gate = Arc::new(Mutex::new(gate));
        let get = || {
            let (making, gate) = (Arc::clone(&making), Arc::clone(&gate));
            let make = move || {
                let number = making.fetch_add(1, Ordering::SeqCst) as u8;
                gate.lock().unwrap().recv().unwrap();
                Ok(vec![number; 100 * KIB])
            };
            documents.get(Document::Metrics, ContentEncoding::Identity, &bodies, make)
        };
        let mut first = Box::pin(get());
        assert!(poll!(&mut first).is_pending());
        while making.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // That one may tell nothing of what has happened until now.
        let mut others: Vec<_> = (0..1_000).map(|_| Box::pin(get())).collect();
        for other in &mut others {
            assert!(poll!(other).is_pending());
        }
        assert_eq!(making.load(Ordering::SeqCst), 1, "one at a time");
        (0..2).for_each(|_| open.send(()).unwrap());
        assert_eq!(number(&first.await.unwrap()), 0);
        let others = join_all(others).await;
        let first_of_them = others[0].as_ref().unwrap().clone().into_bytes();
        assert!(others.iter().all(|other| number(other.as_ref().unwrap()) == 1));
        let is_same =
            |other: Result<Text, ApiError>| other.unwrap().into_bytes().as_ptr() == first_of_them.as_ptr();
        assert!(others.into_iter().all(is_same), "it is in memory once");
        open.send(()).unwrap();
        assert_eq!(number(&get().await.unwrap()), 2, "nobody gets what was made for others before");
    }

    #[tokio::test]
    async fn one_at_a_time_is_made_also_when_nobody_waits_for_it() {
        let numbered = Numbered::new(1, 1_000, SHARED_MAX_AGE);
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let begun = Arc::new(AtomicUsize::new(0));
        let told = Arc::clone(&begun);
        let make = move || {
            told.store(1, Ordering::SeqCst);
            gate.recv().unwrap();
            Ok(Vec::new())
        };
        let (identity, bodies) = (ContentEncoding::Identity, &numbered.bodies);
        let mut gone = Box::pin(numbered.documents.get(Document::OpenApi, identity, bodies, make));
        assert!(poll!(&mut gone).is_pending());
        while begun.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        drop(gone);
        let mut gone_before_its_turn = Box::pin(numbered.metrics());
        assert!(poll!(&mut gone_before_its_turn).is_pending());
        let mut waiting = Box::pin(numbered.get(Document::Endpoints, identity));
        assert!(poll!(&mut waiting).is_pending());
        drop(gone_before_its_turn);
        assert_eq!(numbered.documents.place.available_permits(), 0);
        open.send(()).unwrap();
        assert_eq!(number(&waiting.await.unwrap()), 0);
        assert_eq!(number(&numbered.metrics().await.unwrap()), 1);
    }

    #[tokio::test]
    async fn one_who_fails_leaves_the_place_to_others() {
        let numbered = Numbered::new(1, 1_000, SHARED_MAX_AGE);
        let (identity, bodies) = (ContentEncoding::Identity, &numbered.bodies);
        let failing = || panic!("as no document should");
        let failed = numbered.documents.get(Document::OpenApi, identity, bodies, failing).await;
        assert_eq!(failed.err().unwrap().code(), ErrorCode::Internal);
        assert_eq!(number(&numbered.get(Document::OpenApi, identity).await.unwrap()), 0);
    }

    #[tokio::test]
    async fn clients_that_take_nothing_leave_room_for_others() {
        // Five fit.
        let numbered = Numbered::new(200, 1_000, Duration::MAX);
        let mut untaken = Vec::new();
        for _ in 0..100 {
            untaken.push(numbered.metrics().await.unwrap().into_bytes());
        }
        let numbers: Vec<u8> = untaken.iter().map(|bytes| bytes[0]).collect();
        assert_eq!(numbers[..3], [0, 1, 2]);
        assert!(numbers[3..].iter().all(|&number| number == 2), "{numbers:?}");
        // Another one has not been made yet, and finds room.
        let packed = numbered.get(Document::Metrics, ContentEncoding::Gzip).await.unwrap();
        let packed = packed.into_response("text/plain");
        let headers = ["content-encoding", "vary"].map(|name| packed.headers()[name].to_str().unwrap());
        assert_eq!(headers, ["gzip", "accept-encoding"]);
        drop(untaken);
        assert_eq!(numbered.metrics().await.unwrap().into_bytes()[0], 4, "as fresh as ever");
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_of_a_large_one_keeps_nobody_from_it() {
        let numbered = Numbered::new(900, 1_000, Duration::ZERO);
        let mut untaken = Vec::new();
        for _ in 0..4 {
            untaken.push(numbered.metrics().await.unwrap().into_bytes());
        }
        assert_eq!(numbered.metrics().await.err().unwrap().code(), ErrorCode::Overloaded);
        // One that is packed is small, and so it is counted.
        assert!(numbered.get(Document::Metrics, ContentEncoding::Gzip).await.is_ok());
    }

    #[tokio::test]
    async fn there_are_no_more_than_there_is_memory_for() {
        let numbered = Numbered::new(200, 1_000, Duration::ZERO);
        let mut untaken = Vec::new();
        for _ in 0..5 {
            untaken.push(numbered.metrics().await.unwrap().into_bytes());
        }
        assert_eq!(numbered.metrics().await.err().unwrap().code(), ErrorCode::Overloaded);
        untaken.pop();
        assert_eq!(number(&numbered.metrics().await.unwrap()), 6);
        // One that is alone always finds room, whatever was made before.
        untaken.clear();
        let larger = Numbered { kib: 2_000, ..numbered };
        assert_eq!(number(&larger.metrics().await.unwrap()), 7);
        assert_eq!(number(&larger.metrics().await.unwrap()), 8);
    }
}
