use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::http::{HeaderName, HeaderValue, StatusCode};

use super::batcher::Batcher;
use super::body::{BodyReader, Share};
use super::cache::{AnswerCache, CachedAnswer, Key};
use super::engine::{Computed, Engine};
use super::graph::{Graph, Part};
use super::inference::{Durations, ModelStatistics};
use super::metrics::DeploymentMetrics;
use super::offload::{
    INLINE_ANSWER_MAX_BYTES, INLINE_BYTES_MAX, INLINE_ROWS_MAX, internal, on_blocking_pool,
};
use super::queue::too_late;
use super::window::WindowCapture;
use super::work::Work;
use super::{ApiError, BatchPolicy, ErrorCode, Queue, RequestBody, StageTimes};
use crate::data::{AnsweredBy, BundleRecord, PredictionRecord};
use crate::domain::{Batch, ColumnSpec, Digest, Name, Signature, elements_in_order};
use crate::plugin::Transformer;
use crate::track::now_ms;

/// Bytes of a body up to which it is decoded on the thread that read it. Decoding takes about a nanosecond a byte.
const INLINE_BODY_MAX_BYTES: usize = 100 * 1024;

/// Scores that one answer may hold: 16 MiB of them, which are some 50 MB as JSON. A model of thousands of classes makes
/// this of few rows, so the limits on body and rows do not bound it.
const ANSWER_SCORES_MAX: usize = 4 * 1024 * 1024;

/// Carries the digest of the bundle that answered.
pub(super) const BUNDLE_HEADER: HeaderName = HeaderName::from_static("x-bundle-digest");

/// Carries the version of the model that answered, as `name@number`.
pub(super) const VERSION_HEADER: HeaderName = HeaderName::from_static("x-model-version");

/// What a deployment is made of.
pub struct DeploymentConfig {
    /// The model and the version's number; none where the bundle is none of a model's.
    pub version: Option<(Name, i64)>,
    /// Digest of the bundle.
    pub bundle: Digest,
    /// What a row takes; none where nobody has tried. The first is computed then where it holds up no connection.
    pub row_time: Option<Duration>,
    /// The library that made the model and the format of its file, such as `xgboost_ubj`.
    pub platform: String,
    /// What computes.
    pub work: Work,
    /// Whether its transformers are the bundle's own, and no others in their place.
    pub is_of_bundle: bool,
    /// Where rows are kept for monitoring; none where monitoring is off.
    pub window: Option<Arc<WindowCapture>>,
    /// Rows that one request may have.
    pub rows_max: usize,
    /// A row and its answer, for documents; none where none is known.
    pub example: Option<(serde_json::Value, serde_json::Value)>,
}

/// A bundle that is loaded and answers: transformers and model together, which are swapped only together.
pub struct Deployment {
    version: Option<(Name, i64)>,
    bundle: Digest,
    platform: String,
    is_of_bundle: bool,
    rows_max: usize,
    example: Option<(serde_json::Value, serde_json::Value)>,
    headers: Vec<(HeaderName, HeaderValue)>,
    statistics: ModelStatistics,
    engine: Arc<Engine>,
    batcher: RwLock<Option<Arc<Batcher>>>,
}

/// What is given to a request, and by whom.
pub(super) struct Given {
    /// The columns.
    pub(super) outputs: Batch,
    /// Who answered for an endpoint that is made of others.
    pub(super) parts: Vec<Part>,
    /// Whether it was kept from before; none where answers are not kept.
    pub(super) is_cached: Option<bool>,
}

/// What a request brings along beside its body.
#[derive(Clone)]
pub struct Call {
    /// Where it waits for its turn.
    pub queue: Arc<Queue>,
    /// Answers that were given before; none where they are not kept.
    pub cache: Option<Arc<AnswerCache>>,
    /// Until when it may wait.
    pub deadline: Option<tokio::time::Instant>,
    /// Whom it is asked as, where this is another version, which has the elements of rows in another order.
    pub speaker: Option<Arc<Deployment>>,
}

/// What was decoded of a request's body.
#[derive(Debug)]
pub struct Decoded<N> {
    /// The rows.
    pub inputs: Batch,
    /// What the answer is written by.
    pub note: N,
    /// How long the client waits from now on; none where it does not say.
    pub timeout: Option<Duration>,
}

/// An answer, and what it was made of.
#[derive(Debug)]
pub struct Answer<T> {
    /// What is sent.
    pub body: T,
    /// What was asked.
    pub inputs: Batch,
    /// What was answered.
    pub outputs: Batch,
    /// How long its parts took.
    pub times: StageTimes,
    /// Whether it was given before, and kept; none where answers are not.
    pub is_cached: Option<bool>,
    /// Who answered for an endpoint that is made of others.
    pub parts: Vec<Part>,
    /// What is taken for the body of the memory that answers share.
    pub(super) room: Share,
    /// Rows that were computed together.
    batch_rows: usize,
    /// Whether it stands for those computed together.
    is_first: bool,
}

impl Deployment {
    /// Makes a deployment that counts as one of `endpoint`.
    pub fn new(endpoint: &str, config: DeploymentConfig) -> Result<Self, prometheus::Error> {
        let DeploymentConfig {
            version,
            bundle,
            row_time,
            platform,
            work,
            is_of_bundle,
            window,
            rows_max,
            example,
        } = config;
        let named = version.as_ref().map(|(model, number)| format!("{model}@{number}"));
        let label = named.clone().unwrap_or_else(|| bundle.short());
        let metrics = DeploymentMetrics::new(endpoint, &label, work.transformers())?;
        metrics.begin_errors(matches!(work, Work::Graph(_)));
        // What is made of others has no bundle: those that answer are named with each answer.
        let bundle_of_answers = (!matches!(work, Work::Graph(_))).then(|| bundle.to_string());
        let headers = [
            bundle_of_answers.map(|bundle| (BUNDLE_HEADER, bundle)),
            named.map(|version| (VERSION_HEADER, version)),
        ];
        let headers =
            headers.into_iter().flatten().filter_map(|(name, value)| Some((name, value.parse().ok()?)));
        Ok(Self {
            headers: headers.collect(),
            statistics: ModelStatistics::default(),
            engine: Arc::new(Engine::new(work, window, metrics, row_time)),
            batcher: RwLock::default(),
            version,
            bundle,
            platform,
            is_of_bundle,
            rows_max,
            example,
        })
    }

    /// What an answer says of who gave it.
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// The model and the version's number; none where the bundle is none of a model's.
    pub fn version(&self) -> Option<&(Name, i64)> {
        self.version.as_ref()
    }

    /// The version as `name@number`, or what names the bundle where it is none of a model's.
    pub fn version_label(&self) -> String {
        self.version_name().unwrap_or_else(|| self.bundle.short())
    }

    fn version_name(&self) -> Option<String> {
        self.version.as_ref().map(|(model, number)| format!("{model}@{number}"))
    }

    /// Digest of the bundle.
    pub fn bundle(&self) -> Digest {
        self.bundle
    }

    /// The library that made the model and the format of its file.
    pub fn platform(&self) -> &str {
        &self.platform
    }

    /// The window it fills.
    pub fn window(&self) -> Option<&Arc<WindowCapture>> {
        self.engine.window.as_ref()
    }

    /// The transformers before and after the model.
    pub fn transformers(&self) -> (&[Transformer], &[Transformer]) {
        self.engine.work.transformers()
    }

    /// What it takes and answers.
    pub fn signature(&self) -> &Signature {
        self.engine.work.signature()
    }

    /// Whether it could answer; otherwise why not.
    pub fn check_ready(&self) -> Result<(), ApiError> {
        self.graph().map_or(Ok(()), Graph::check_ready)
    }

    /// Whether it is made of other endpoints.
    pub fn is_graph(&self) -> bool {
        self.graph().is_some()
    }

    /// The graph, if it is one.
    pub(super) fn graph(&self) -> Option<&Graph> {
        match &self.engine.work {
            Work::Graph(graph) => Some(graph),
            Work::Bundle(_) => None,
        }
    }

    /// What it has done since it was loaded.
    pub fn statistics(&self) -> &ModelStatistics {
        &self.statistics
    }

    /// Its series of metrics.
    pub fn metrics(&self) -> &DeploymentMetrics {
        &self.engine.metrics
    }

    /// A row and its answer; none where none is known.
    pub fn example(&self) -> Option<&(serde_json::Value, serde_json::Value)> {
        self.example.as_ref()
    }

    /// Rows that one request may have.
    pub fn rows_max(&self) -> usize {
        self.rows_max
    }

    /// Computes requests together from the next one on, with the turns of `queue`; or each alone. They are never together
    /// where a transformer says that rows depend on each other.
    pub(super) fn batch_by(&self, policy: Option<BatchPolicy>, queue: &Arc<Queue>) {
        let policy = policy.filter(|policy| self.engine.work.may_batch(*policy));
        let mut batcher = self.batcher.write().unwrap_or_else(PoisonError::into_inner);
        let is_so = match (policy, batcher.as_ref()) {
            (Some(policy), Some(batcher)) => batcher.is_of(policy, queue),
            (None, None) => true,
            _ => false,
        };
        if !is_so {
            let batcher_of = |policy| Batcher::new(policy, Arc::clone(queue), Arc::clone(&self.engine));
            *batcher = policy.map(|policy| Arc::new(batcher_of(policy)));
        }
    }

    /// Whether requests are computed together as `policy` says, as far as the transformers allow it.
    pub(super) fn is_batching_by(&self, policy: Option<BatchPolicy>) -> bool {
        let policy = policy.filter(|policy| self.engine.work.may_batch(*policy));
        let batcher = self.batcher.read().unwrap_or_else(PoisonError::into_inner);
        batcher.as_ref().map(|batcher| batcher.policy()) == policy
    }

    /// Answers a body that `decode` makes a batch of, by the columns of the signature and the most rows that there may be;
    /// `writing` writes what was given to it, with what `decode` has noted beside the batch, in memory of `bodies`.
    ///
    /// Small requests go all of their way on the thread that calls; what takes longer goes to the blocking pool.
    pub(super) async fn answer_as<N, T>(
        &self,
        body: RequestBody,
        call: Call,
        bodies: &BodyReader,
        decode: impl FnOnce(&[u8], &[ColumnSpec], usize) -> Result<Decoded<N>, ApiError> + Send + 'static,
        writing: Writing<N, impl FnOnce(&Given, N) -> Result<T, ApiError> + Send + 'static>,
    ) -> Result<Answer<T>, ApiError>
    where
        N: Send + 'static,
        T: Send + 'static,
    {
        let under_way = UnderWay::begin(self, call.deadline);
        let answer = self.answer_uncounted(under_way.started, body, call, bodies, decode, writing).await;
        under_way.end(&answer);
        answer
    }

    async fn answer_uncounted<N, T>(
        &self,
        started: Instant,
        body: RequestBody,
        call: Call,
        bodies: &BodyReader,
        decode: impl FnOnce(&[u8], &[ColumnSpec], usize) -> Result<Decoded<N>, ApiError> + Send + 'static,
        writing: Writing<N, impl FnOnce(&Given, N) -> Result<T, ApiError> + Send + 'static>,
    ) -> Result<Answer<T>, ApiError>
    where
        N: Send + 'static,
        T: Send + 'static,
    {
        // The body stays, so that its bytes are counted as long as there are rows of it.
        let (Decoded { inputs, note, timeout }, body) = if body.bytes().len() > INLINE_BODY_MAX_BYTES {
            let (engine, rows_max, speaker) = (Arc::clone(&self.engine), self.rows_max, call.speaker.clone());
            on_blocking_pool(move || {
                let decoded = decode_as(&engine, speaker.as_deref(), body.bytes(), rows_max, decode);
                decoded.map(|decoded| (decoded, body))
            })
            .await??
        } else {
            let speaker = call.speaker.as_deref();
            (decode_as(&self.engine, speaker, body.bytes(), self.rows_max, decode)?, body)
        };
        self.check_scores(inputs.rows())?;
        let decode_time = started.elapsed();
        let of_client = timeout.map(|timeout| tokio::time::Instant::now() + timeout);
        let deadline = [call.deadline, of_client].into_iter().flatten().min();
        let (computed, is_cached) =
            self.compute_or_find(inputs, Some(body), &Call { deadline, ..call }).await?;
        let encode_started = Instant::now();
        let Computed { inputs, outputs, times, batch_rows, parts, is_first, .. } = computed;
        let given = Given { outputs, parts, is_cached };
        let (given, body, room) = writing.write(given, note, bodies).await?;
        let Given { outputs, parts, is_cached } = given;
        let times = StageTimes { decode: decode_time, encode: encode_started.elapsed(), ..times };
        Ok(Answer { body, inputs, outputs, times, is_cached, parts, room, batch_rows, is_first })
    }

    /// The answer that was given to the same rows before, or a new one.
    async fn compute_or_find(
        &self,
        inputs: Batch,
        body: Option<RequestBody>,
        call: &Call,
    ) -> Result<(Computed, Option<bool>), ApiError> {
        let Some(cache) = &call.cache else {
            return Ok((self.compute_in_turn(inputs, body, call).await?, None));
        };
        let bundle = self.bundle;
        let (inputs, key) = if inputs.byte_len() > INLINE_BODY_MAX_BYTES {
            on_blocking_pool(move || {
                let key = Key::of(bundle, &inputs);
                (inputs, key)
            })
            .await?
        } else {
            let key = Key::of(bundle, &inputs);
            (inputs, key)
        };
        let found = cache.get(key);
        self.metrics().count_lookup(found.is_some());
        if let Some(found) = found {
            let CachedAnswer { features, scores, outputs } = found.as_ref();
            self.engine.offer(Some((features.clone(), scores.clone())));
            let (batch_rows, times) = (inputs.rows(), StageTimes::default());
            let outputs = outputs.clone();
            let parts = Vec::new();
            let computed = Computed { inputs, outputs, seen: None, times, batch_rows, parts, is_first: true };
            return Ok((computed, Some(true)));
        }
        let mut computed = self.compute_in_turn(inputs, body, call).await?;
        if let Some((features, scores)) = computed.seen.take() {
            let outputs = computed.outputs.clone();
            cache.insert(key, CachedAnswer { features, scores, outputs });
        }
        Ok((computed, Some(false)))
    }

    /// Computes when it is its turn, alone or with others. What the model saw is left where answers are kept. The body is held
    /// as long as there are rows of it.
    async fn compute_in_turn(
        &self,
        inputs: Batch,
        body: Option<RequestBody>,
        call: &Call,
    ) -> Result<Computed, ApiError> {
        let keeps = call.cache.is_some();
        let batcher = self.batcher.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(batcher) = batcher.filter(|batcher| batcher.takes(inputs.rows())) {
            return batcher.compute(inputs, body, call.deadline, keeps).await;
        }
        let waiting = Instant::now();
        let turn = call.queue.enter(call.deadline).await?;
        self.engine.compute_request(inputs, waiting.elapsed(), call.deadline, keeps, (turn, body)).await
    }

    /// Answers rows that an endpoint made of this one has, and counts that as a request; tells how long its parts took.
    pub(super) async fn answer_rows(
        &self,
        inputs: Batch,
        call: Call,
    ) -> Result<(Batch, StageTimes), ApiError> {
        let under_way = UnderWay::begin(self, call.deadline);
        let answer = async {
            // Whoever asked has sent what the graph takes.
            ColumnSpec::check(&self.signature().inputs, &inputs).map_err(|error| {
                internal(&format_args!("`{}` was given what it does not take: {error}", self.version_label()))
            })?;
            self.check_scores(inputs.rows())?;
            let (computed, is_cached) = self.compute_or_find(inputs, None, &call).await?;
            let Computed { inputs, outputs, times, batch_rows, parts, is_first, .. } = computed;
            let room = Share::default();
            Ok(Answer { body: (), inputs, outputs, times, is_cached, parts, room, batch_rows, is_first })
        };
        let answer = answer.await;
        under_way.end(&answer);
        answer.map(|answer| (answer.outputs, answer.times))
    }

    /// Computes for its own sake: nothing of it is recorded, and no turn is taken.
    pub(super) async fn compute(&self, inputs: Batch) -> Result<Batch, ApiError> {
        Ok(self.engine.compute(inputs, None, ()).await?.outputs)
    }

    /// Bytes of the scores that are made of so many rows.
    pub(super) fn score_bytes(&self, rows: usize) -> usize {
        rows.saturating_mul(self.engine.work.score_count()).saturating_mul(size_of::<f32>())
    }

    /// Refuses rows whose answer would be too large.
    pub(super) fn check_scores(&self, rows: usize) -> Result<(), ApiError> {
        let scores = self.engine.work.score_count();
        let rows_max = ANSWER_SCORES_MAX / scores.max(1);
        if rows <= rows_max {
            return Ok(());
        }
        let message = format!(
            "the answer would be too large: expected at most {rows_max} rows, as the model has {scores} scores for \
             each, found {rows}"
        );
        Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::AnswerTooLarge, message))
    }

    fn count_failure(&self, error: &ApiError, total: Duration) {
        self.statistics.count_failure(total);
        self.metrics().count_error(error);
    }

    fn count<T>(&self, answer: &Answer<T>, total: Duration) {
        let rows = answer.inputs.rows();
        let times = &answer.times;
        let durations = Durations {
            total,
            queue: times.queue,
            input: times.decode,
            infer: times.infer(),
            output: times.encode,
        };
        let now = u64::try_from(now_ms()).unwrap_or_default();
        match answer.is_cached {
            Some(true) => self.statistics.count_cached(&durations, now),
            is_cached => {
                self.statistics.count_answer(rows, &durations, now);
                if answer.is_first {
                    self.statistics.count_execution(answer.batch_rows, &durations);
                }
                if is_cached.is_some() {
                    self.statistics.count_uncached(total);
                }
            }
        }
        self.metrics().count_answer(rows, total, times, answer.is_cached == Some(true));
    }

    /// The record of an answer that it gave at `endpoint`.
    pub fn record<T>(
        &self,
        id: String,
        endpoint: &Name,
        answered_at: i64,
        answer: Answer<T>,
    ) -> PredictionRecord {
        PredictionRecord {
            id,
            answered_at,
            endpoint: endpoint.clone(),
            answered_by: match self.graph() {
                Some(graph) => AnsweredBy::Graph(graph.record(&answer.parts)),
                None => AnsweredBy::Bundle(self.bundle_record()),
            },
            inputs: answer.inputs,
            outputs: answer.outputs,
        }
    }

    /// The record of its bundle.
    pub(super) fn bundle_record(&self) -> BundleRecord {
        BundleRecord { version: self.version_name(), bundle: self.bundle, is_of_bundle: self.is_of_bundle }
    }
}

/// How an answer is written.
pub(super) struct Writing<N, E> {
    /// Bytes that it takes at most, told without writing any of them.
    pub(super) len_max: fn(&Batch, &N) -> usize,
    /// Writes it.
    pub(super) encode: E,
}

impl<N: Send + 'static, E> Writing<N, E> {
    /// Writes what was given: a little on this thread, and more where it holds up nobody, in memory of `bodies` that is taken before
    /// any of it is written. What is made of a row by the last transformer is its own to say, and may be much more than its scores.
    async fn write<T>(self, given: Given, note: N, bodies: &BodyReader) -> Result<(Given, T, Share), ApiError>
    where
        E: FnOnce(&Given, N) -> Result<T, ApiError> + Send + 'static,
        T: Send + 'static,
    {
        let (Self { len_max, encode }, outputs) = (self, &given.outputs);
        let is_little = outputs.rows() <= INLINE_ROWS_MAX
            && outputs.byte_len() <= INLINE_BYTES_MAX
            && len_max(outputs, &note) <= INLINE_ANSWER_MAX_BYTES;
        if is_little {
            let body = encode(&given, note)?;
            return Ok((given, body, Share::default()));
        }
        let bodies = bodies.clone();
        on_blocking_pool(move || {
            let room = bodies.room_for_answer(len_max(&given.outputs, &note))?;
            let body = encode(&given, note)?;
            Ok((given, body, room))
        })
        .await?
    }
}

/// What `decode` makes of a body by the columns of whom it is asked as, as the one that answers has them.
fn decode_as<N>(
    engine: &Engine,
    speaker: Option<&Deployment>,
    body: &[u8],
    rows_max: usize,
    decode: impl FnOnce(&[u8], &[ColumnSpec], usize) -> Result<Decoded<N>, ApiError>,
) -> Result<Decoded<N>, ApiError> {
    let own = &engine.work.signature().inputs;
    let Some(speaker) = speaker else { return decode(body, own, rows_max) };
    let asked = &speaker.signature().inputs;
    let decoded = decode(body, asked, rows_max)?;
    Ok(Decoded { inputs: elements_in_order(decoded.inputs, asked, own), ..decoded })
}

/// A request until it is counted. One whose answer nobody waits for any more is counted, too: as what its deadline ended, or its
/// client.
struct UnderWay<'a> {
    deployment: &'a Deployment,
    started: Instant,
    deadline: Option<tokio::time::Instant>,
    is_counted: bool,
}

impl<'a> UnderWay<'a> {
    fn begin(deployment: &'a Deployment, deadline: Option<tokio::time::Instant>) -> Self {
        Self { deployment, started: Instant::now(), deadline, is_counted: false }
    }

    fn end<T>(mut self, answer: &Result<Answer<T>, ApiError>) {
        self.is_counted = true;
        let total = self.started.elapsed();
        match answer {
            Ok(answer) => self.deployment.count(answer, total),
            Err(error) => self.deployment.count_failure(error, total),
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.is_counted {
            return;
        }
        let is_late = self.deadline.is_some_and(|deadline| deadline <= tokio::time::Instant::now());
        let error = if is_late { too_late() } else { ApiError::cancelled() };
        self.deployment.count_failure(&error, self.started.elapsed());
    }
}

#[cfg(test)]
pub(super) mod tests;
