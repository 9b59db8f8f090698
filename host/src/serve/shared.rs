use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::body::BodyReader;
use super::deployment::{BUNDLE_HEADER, VERSION_HEADER};
use super::documents::{Document, Documents, Text};
use super::graph::{bundles_of, versions_of};
use super::inference::ContentEncoding;
use super::metrics::ServeMetrics;
use super::observe::{Client, ObservedStream, Seen, SeenAnswer, SeenAsked, SeenCall, SeenError};
use super::{
    Answer, ApiError, Call, Control, Deployment, Endpoint, Endpoints, ErrorCode, Observer, Part,
    PredictionIds, Recorder, Routing, ServeLimits,
};
use crate::domain::have_other_order;
use crate::track::now_ms;

/// Carries the id of the prediction.
const PREDICTION_HEADER: HeaderName = HeaderName::from_static("x-prediction-id");

/// Tells whether the answer was kept from before, where answers are.
const CACHE_HEADER: HeaderName = HeaderName::from_static("x-cache");

/// Tells how many milliseconds the client waits.
const TIMEOUT_HEADER: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// Streams of requests at once. Each has one of the server's places for requests for as long as it is there, though it may ask
/// nothing; half of them are left to those who do.
const STREAMS_MAX: usize = 2_048;

/// Bytes of metrics that clients have not taken yet: whoever watches the server should see it also when answers take all that
/// there is for them.
const METRICS_MAX_BYTES: usize = 64 * 1024 * 1024;

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

/// What is there of that for all requests.
pub(super) struct Shared {
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) control: Option<Control>,
    pub(super) bodies: BodyReader,
    pub(super) metrics: ServeMetrics,
    pub(super) observer: Option<Arc<Observer>>,
    pub(super) documents: Documents,
    /// Where metrics are counted.
    bodies_of_metrics: BodyReader,
    recorder: Option<Arc<Recorder>>,
    ids: PredictionIds,
    stream_places: Arc<Semaphore>,
}

/// Who was asked.
pub(super) struct Asked {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) routing: Arc<Routing>,
    pub(super) deployment: Arc<Deployment>,
    /// Whose columns the request has, where the elements of their rows stand in another order.
    speaker: Option<Arc<Deployment>>,
}

impl Shared {
    pub(super) fn new(state: ServeState) -> Self {
        let ServeState { endpoints, recorder, control, observer, metrics, limits } = state;
        let of_metrics = ServeLimits { bodies_max_bytes: METRICS_MAX_BYTES, ..limits.clone() };
        let (ids, bodies) = (PredictionIds::default(), BodyReader::new(limits));
        let (documents, bodies_of_metrics) = (Documents::new(), BodyReader::new(of_metrics));
        let stream_places = Arc::new(Semaphore::new(STREAMS_MAX));
        Self {
            endpoints,
            control,
            bodies,
            metrics,
            observer,
            documents,
            bodies_of_metrics,
            recorder,
            ids,
            stream_places,
        }
    }

    /// A document that `make` makes of the endpoints, counted among answers.
    pub(super) async fn document(
        &self,
        document: Document,
        accepted: ContentEncoding,
        make: impl FnOnce(&Endpoints) -> Result<Vec<u8>, ApiError> + Send + 'static,
    ) -> Result<Text, ApiError> {
        let endpoints = Arc::clone(&self.endpoints);
        let make = move || make(&endpoints);
        self.documents.get(document, accepted, &self.bodies, make).await
    }

    /// The metrics, by `make`.
    pub(super) async fn exposition(
        &self,
        accepted: ContentEncoding,
        make: impl FnOnce() -> Result<Vec<u8>, ApiError> + Send + 'static,
    ) -> Result<Text, ApiError> {
        self.documents.get(Document::Metrics, accepted, &self.bodies_of_metrics, make).await
    }

    /// A place for one more stream of requests.
    pub(super) fn place_for_stream(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.stream_places).try_acquire_owned().map_err(|_| {
            let message = format!("{STREAMS_MAX} streams are open, as many as may be: try again");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Overloaded, message)
        })
    }

    /// The endpoint of a name.
    pub(super) fn endpoint(&self, name: &str) -> Result<Arc<Endpoint>, ApiError> {
        self.endpoints.get(name).ok_or_else(|| self.unknown_endpoint(name))
    }

    /// The error of a name that no endpoint has, or one that could not be loaded.
    pub(super) fn unknown_endpoint(&self, name: &str) -> ApiError {
        if self.endpoints.has_failed(name) {
            let message =
                format!("endpoint `{name}` could not be loaded: `POST /v2/repository/index` tells why");
            return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NotReady, message);
        }
        let name: String = name.chars().take(80).collect();
        let known: Vec<_> =
            self.endpoints.all().iter().take(10).map(|endpoint| format!("`{}`", endpoint.name())).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let message = format!("there is no endpoint `{name}`: there is {known}");
        ApiError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message)
    }

    /// The version of an endpoint that answers a request with these headers, or the one of its versions that is asked for. Where
    /// nothing is to be computed there are no `headers`, and who answers most speaks for all.
    pub(super) fn ask(
        &self,
        endpoint: Arc<Endpoint>,
        version: Option<&str>,
        headers: Option<&HeaderMap>,
    ) -> Result<Asked, ApiError> {
        let routing = endpoint.routing();
        let deployment = match version {
            Some(version) => version_of(&endpoint, &routing, version)?,
            None => {
                let answering = match headers {
                    Some(headers) => endpoint.choose(&routing, headers),
                    None => routing.main().map(Arc::clone),
                };
                answering.ok_or_else(|| {
                    let message = format!("nobody answers for endpoint `{}`", endpoint.name());
                    ApiError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message)
                })?
            }
        };
        // Who asks no version means the columns that the endpoint says it takes.
        let is_other = |main: &&Arc<Deployment>| {
            !Arc::ptr_eq(main, &deployment)
                && have_other_order(&main.signature().inputs, &deployment.signature().inputs)
        };
        let main = if version.is_none() { routing.main() } else { None };
        let speaker = main.filter(is_other).map(Arc::clone);
        Ok(Asked { endpoint, routing, deployment, speaker })
    }

    /// Counts an answer for whose bytes there was no memory as an error too.
    pub(super) fn with_room<T>(&self, asked: &Asked, held: Result<T, ApiError>) -> Result<T, ApiError> {
        held.inspect_err(|error| asked.deployment.metrics().count_error(error))
    }

    /// Counts a request that got an error before anybody was asked.
    pub(super) fn count_refused(&self, error: &ApiError) {
        self.metrics.count_refused(error.code());
    }

    /// Names in the response with an error who was asked and could not answer, if anybody was, and tells the error.
    pub(super) fn fail(&self, asked: Option<&Asked>, error: &ApiError, response: &mut Response<Body>) {
        error.log(asked.map(|asked| asked.endpoint.name()));
        let answering = asked.iter().flat_map(|asked| asked.deployment.headers());
        response.headers_mut().extend(answering.cloned());
        if let Some(seen) = self.seen_failure(asked, error) {
            response.extensions_mut().insert(seen);
        }
    }

    /// What is told of a request that was not answered, where anything is.
    pub(super) fn seen_failure(&self, asked: Option<&Asked>, error: &ApiError) -> Option<Seen> {
        let seen =
            || Seen { asked: asked.map(Asked::seen), error: Some(SeenError::of(error)), ..Seen::default() };
        self.observer.is_some().then(seen)
    }

    /// Leaves in the response to a call of gRPC, beside what else is there, what HTTP does not tell of it.
    pub(super) fn mark_call(&self, call: SeenCall, response: &mut Response<Body>) {
        if self.observer.is_some() {
            response.extensions_mut().get_or_insert_default::<Seen>().call = Some(call);
        }
    }

    /// A stream of requests that begins, of a call of `client` with these headers; none where nothing is told of it.
    pub(super) fn observed_stream(
        &self,
        path: &'static str,
        route: &'static str,
        headers: &HeaderMap,
        client: Option<Client>,
    ) -> Option<ObservedStream> {
        let observer = self.observer.as_ref()?;
        Some(ObservedStream::begin(observer, path, route, headers, client))
    }

    /// Names the prediction and who answered in a response, records it and lets shadows answer it too.
    pub(super) fn finish<T>(&self, asked: &Asked, answer: Answer<T>, response: &mut Response<Body>) {
        let headers = response.headers_mut();
        let id = self.next_prediction_id();
        headers.extend(asked.answered_by(&id, &answer.parts));
        headers.extend(cache_header(answer.is_cached));
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
        let Asked { endpoint, routing, deployment, .. } = asked;
        let seen = self.observer.is_some().then(|| {
            let (rows, times, is_cached) = (answer.inputs.rows(), answer.times, answer.is_cached);
            let parts = answer.parts.clone();
            let answered = Some(SeenAnswer { prediction: id.clone(), rows, times, is_cached, parts });
            Seen { asked: Some(asked.seen()), answered, ..Seen::default() }
        });
        let shadows = routing.shadows().iter().filter(|_| routing.is_answered_by(deployment));
        for shadow in shadows {
            shadow.mirror(deployment, &answer.inputs, &answer.outputs);
        }
        if let Some(recorder) = &self.recorder {
            // What a record has beside rows and answer is short, unless it has a graph.
            let of_graph = deployment.graph().map_or(0, |graph| graph.record_bytes());
            let bytes = answer.inputs.byte_len() + answer.outputs.byte_len() + of_graph;
            let record = || deployment.record(id, endpoint.name(), now_ms(), answer);
            recorder.offer(bytes, record);
        }
        seen
    }
}

/// What an answer says of the parts that gave it, where its endpoint is made of others.
pub(super) fn answered_by_parts(parts: &[Part]) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let of_parts = (!parts.is_empty())
        .then(|| [(BUNDLE_HEADER, bundles_of(parts)), (VERSION_HEADER, versions_of(parts))]);
    let of_parts = of_parts.into_iter().flatten();
    of_parts.filter_map(|(header, text)| Some((header, HeaderValue::from_str(&text).ok()?)))
}

/// The header that tells whether an answer was kept from before, where answers are.
pub(super) fn cache_header(is_cached: Option<bool>) -> Option<(HeaderName, HeaderValue)> {
    Some((CACHE_HEADER, HeaderValue::from_static(if is_cached? { "hit" } else { "miss" })))
}

impl Asked {
    /// What the request brings along whose client waits until `of_client`.
    pub(super) fn call(&self, of_client: Option<tokio::time::Instant>) -> Call {
        Call { speaker: self.speaker.clone(), ..self.routing.call(of_client) }
    }

    fn seen(&self) -> SeenAsked {
        SeenAsked { endpoint: self.endpoint.name().clone(), deployment: Arc::clone(&self.deployment) }
    }

    /// What an answer says of itself: the prediction's id, and who answered. For an endpoint that is made of others these did.
    pub(super) fn answered_by(
        &self,
        id: &str,
        parts: &[Part],
    ) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let id = HeaderValue::from_str(id).ok().map(|id| (PREDICTION_HEADER, id));
        id.into_iter().chain(self.deployment.headers().iter().cloned()).chain(answered_by_parts(parts))
    }
}

/// Until when the client of a request waits whose headers have just come, and whose body may take its time; none where it does
/// not say.
pub(super) fn deadline_of(headers: &HeaderMap) -> Result<Option<tokio::time::Instant>, ApiError> {
    let timeout = headers.get(TIMEOUT_HEADER).map(timeout_of).transpose()?;
    // What is further away than the clock goes is never.
    Ok(timeout.and_then(|timeout| tokio::time::Instant::now().checked_add(timeout)))
}

fn timeout_of(value: &HeaderValue) -> Result<Duration, ApiError> {
    let ms = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    ms.map(Duration::from_millis).ok_or_else(|| {
        let message = format!("`{TIMEOUT_HEADER}` is {value:?}: expected a number of milliseconds");
        ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidInput, message)
    })
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
