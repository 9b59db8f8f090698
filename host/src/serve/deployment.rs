use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderName, HeaderValue, StatusCode};

use super::inference::{Durations, ModelStatistics};
use super::window::WindowCapture;
use super::{ApiError, ErrorCode, RequestBody};
use crate::data::{self, PredictionRecord};
use crate::domain::{Batch, ColumnSpec, Digest, Name};
use crate::plugin::block_on;
use crate::registry::Predictor;
use crate::track::now_ms;

/// Rows up to which a request is computed on the thread that read it. At some 20 µs a row this is about a millisecond.
const INLINE_ROWS_MAX: usize = 64;

/// Bytes of a body up to which it is decoded on the thread that read it. Decoding takes about a nanosecond a byte.
const INLINE_BODY_MAX_BYTES: usize = 100 * 1024;

/// Scores up to which an answer is encoded on that thread.
const INLINE_SCORES_MAX: usize = 16 * 1024;

/// Scores that one answer may hold: 16 MiB of them, which are some 50 MB as JSON. A model of thousands of classes makes
/// this of few rows, so the limits on body and rows do not bound it.
const ANSWER_SCORES_MAX: usize = 4 * 1024 * 1024;

/// Carries the digest of the bundle that answered.
const BUNDLE_HEADER: HeaderName = HeaderName::from_static("x-bundle-digest");

/// Carries the version of the model that answered, as `name@number`.
const VERSION_HEADER: HeaderName = HeaderName::from_static("x-model-version");

/// What a deployment is made of.
pub struct DeploymentConfig {
    /// The model and the version's number; none where the bundle is none of a model's.
    pub version: Option<(Name, i64)>,
    /// Digest of the bundle.
    pub bundle: Digest,
    /// The library that made the model and the format of its file, such as `xgboost_ubj`.
    pub platform: String,
    /// The bundle, loaded.
    pub predictor: Predictor,
    /// Whether its transformers are the bundle's own, and no others in their place.
    pub is_of_bundle: bool,
    /// Where rows are kept for monitoring; none where monitoring is off.
    pub window: Option<Arc<WindowCapture>>,
    /// Rows that one request may have.
    pub rows_max: usize,
}

/// A bundle that is loaded and answers: transformers and model together, which are swapped only together.
pub struct Deployment {
    config: Arc<DeploymentConfig>,
    headers: Vec<(HeaderName, HeaderValue)>,
    statistics: ModelStatistics,
}

impl Deployment {
    /// Makes a deployment.
    pub fn new(config: DeploymentConfig) -> Self {
        let version =
            config.version.as_ref().map(|(model, number)| (VERSION_HEADER, format!("{model}@{number}")));
        let named = [Some((BUNDLE_HEADER, config.bundle.to_string())), version];
        let headers =
            named.into_iter().flatten().filter_map(|(name, value)| Some((name, value.parse().ok()?)));
        let statistics = ModelStatistics::default();
        Self { headers: headers.collect(), statistics, config: Arc::new(config) }
    }

    /// What an answer says of who gave it.
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// The model and the version's number; none where the bundle is none of a model's.
    pub fn version(&self) -> Option<&(Name, i64)> {
        self.config.version.as_ref()
    }

    /// Digest of the bundle.
    pub fn bundle(&self) -> Digest {
        self.config.bundle
    }

    /// The library that made the model and the format of its file.
    pub fn platform(&self) -> &str {
        &self.config.platform
    }

    /// The window it fills.
    pub fn window(&self) -> Option<&Arc<WindowCapture>> {
        self.config.window.as_ref()
    }

    /// What computes.
    pub fn predictor(&self) -> &Predictor {
        &self.config.predictor
    }

    /// What it has done since it was loaded.
    pub fn statistics(&self) -> &ModelStatistics {
        &self.statistics
    }

    /// Rows that one request may have.
    pub fn rows_max(&self) -> usize {
        self.config.rows_max
    }

    /// Answers a body of JSON: an object gets an object, a list gets a list.
    pub async fn answer(&self, body: RequestBody) -> Result<Answer<Vec<u8>>, ApiError> {
        let decode =
            |body: &[u8], specs: &[ColumnSpec], rows_max| Ok(data::decode_rows(body, specs, rows_max)?);
        let encode =
            |outputs: &Batch, form| data::encode_rows(outputs, form).map_err(|error| internal(&error));
        self.answer_as(body, decode, encode).await
    }

    /// Answers a body that `decode` makes a batch of, by the columns of the signature and the most rows that there may be;
    /// `encode` writes the outputs, with what `decode` has noted beside the batch.
    ///
    /// Small requests go all of their way on the thread that calls, others on the blocking pool.
    pub async fn answer_as<N, T>(
        &self,
        body: RequestBody,
        decode: impl FnOnce(&[u8], &[ColumnSpec], usize) -> Result<(Batch, N), ApiError> + Send + 'static,
        encode: impl FnOnce(&Batch, N) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<Answer<T>, ApiError>
    where
        N: Send + 'static,
        T: Send + 'static,
    {
        let started = Instant::now();
        let config = Arc::clone(&self.config);
        let answer = async {
            if body.bytes().len() > INLINE_BODY_MAX_BYTES {
                return on_blocking_pool(move || {
                    let (inputs, note) = decoded(&config, body.bytes(), decode)?;
                    block_on(compute(&config, inputs, |outputs| encode(outputs, note)))
                })
                .await;
            }
            let (inputs, note) = decoded(&config, body.bytes(), decode)?;
            let scores = inputs.rows().saturating_mul(config.predictor.score_count());
            if inputs.rows() <= INLINE_ROWS_MAX && scores <= INLINE_SCORES_MAX {
                return compute(&config, inputs, |outputs| encode(outputs, note)).await;
            }
            on_blocking_pool(move || block_on(compute(&config, inputs, |outputs| encode(outputs, note))))
                .await
        };
        let answer = answer.await;
        let total = started.elapsed();
        match &answer {
            Ok(answer) => {
                let (infer, output) = (answer.infer, answer.output);
                let input = total.saturating_sub(infer + output);
                let durations = Durations { total, queue: Duration::ZERO, input, infer, output };
                let now = u64::try_from(now_ms()).unwrap_or_default();
                self.statistics.count_answer(answer.inputs.rows(), &durations, now);
            }
            Err(_) => self.statistics.count_failure(total),
        }
        answer
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
            version: self.version().map(|(model, number)| format!("{model}@{number}")),
            bundle: self.bundle(),
            is_of_bundle: self.config.is_of_bundle,
            inputs: answer.inputs,
            outputs: answer.outputs,
        }
    }
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
    /// Time in transformers and model.
    infer: Duration,
    /// Time in which the outputs were written.
    output: Duration,
}

/// Rows of a body that may be computed: neither they nor their scores are too many.
fn decoded<N>(
    config: &DeploymentConfig,
    body: &[u8],
    decode: impl FnOnce(&[u8], &[ColumnSpec], usize) -> Result<(Batch, N), ApiError>,
) -> Result<(Batch, N), ApiError> {
    let (inputs, note) = decode(body, &config.predictor.signature().inputs, config.rows_max)?;
    let scores = config.predictor.score_count();
    let rows_max = ANSWER_SCORES_MAX / scores.max(1);
    if inputs.rows() > rows_max {
        let message = format!(
            "the answer would be too large: expected at most {rows_max} rows, as the model has {scores} scores for \
             each, found {}",
            inputs.rows()
        );
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::AnswerTooLarge, message));
    }
    Ok((inputs, note))
}

async fn compute<T>(
    config: &DeploymentConfig,
    inputs: Batch,
    encode: impl FnOnce(&Batch) -> Result<T, ApiError>,
) -> Result<Answer<T>, ApiError> {
    let started = Instant::now();
    let prediction = config.predictor.predict(&inputs).await?;
    let infer = started.elapsed();
    if let Some(window) = &config.window {
        window.offer(prediction.features, prediction.scores);
    }
    let (outputs, started) = (prediction.outputs, Instant::now());
    let body = encode(&outputs)?;
    Ok(Answer { body, inputs, outputs, infer, output: started.elapsed() })
}

async fn on_blocking_pool<T: Send + 'static>(
    answer: impl FnOnce() -> Result<Answer<T>, ApiError> + Send + 'static,
) -> Result<Answer<T>, ApiError> {
    tokio::task::spawn_blocking(answer).await.map_err(|error| internal(&error))?
}

fn internal(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, error.to_string())
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;
    use std::thread::ThreadId;

    use super::*;
    use crate::domain::{ColumnSpec, DataType, Signature};
    use crate::model::Model;
    use crate::registry::PredictorParts;

    /// Says always 0, and remembers who asked.
    #[derive(Debug)]
    pub(crate) struct Zeros {
        features: usize,
        scores: usize,
        asked_by: Mutex<Vec<ThreadId>>,
    }

    impl Model for Zeros {
        fn description(&self) -> String {
            "zeros".to_owned()
        }

        fn feature_count(&self) -> usize {
            self.features
        }

        fn score_count(&self) -> usize {
            self.scores
        }

        fn predicts_values(&self) -> bool {
            true
        }

        fn byte_len(&self) -> usize {
            0
        }

        fn score(&self, features: &[f32]) -> Vec<f32> {
            self.asked_by.lock().unwrap().push(std::thread::current().id());
            vec![0.0; features.len() / self.features * self.scores]
        }
    }

    impl Deployment {
        /// The same as a version of a model.
        pub(crate) fn named(self, model: &str, number: i64) -> Self {
            let config = Arc::into_inner(self.config).unwrap();
            Self::new(DeploymentConfig { version: Some((model.parse().unwrap(), number)), ..config })
        }
    }

    pub(crate) fn deployment(features: usize, scores: usize) -> (Arc<Zeros>, Deployment) {
        let model = Arc::new(Zeros { features, scores, asked_by: Mutex::new(Vec::new()) });
        let input = ColumnSpec {
            name: "features".to_owned(),
            dtype: DataType::Fp32,
            shape: vec![features],
            nullable: true,
        };
        let signature =
            Signature { inputs: vec![input.clone()], features: vec![input], outputs: vec![model.scores()] };
        let parts = PredictorParts { preprocess: Vec::new(), model: model.clone(), postprocess: Vec::new() };
        let deployment = Deployment::new(DeploymentConfig {
            version: None,
            bundle: Digest::of(b""),
            platform: "test".to_owned(),
            is_of_bundle: true,
            predictor: Predictor::new(parts, signature),
            window: None,
            rows_max: 100_000,
        });
        (model, deployment)
    }

    fn rows(count: usize, features: usize) -> RequestBody {
        let row = format!("{{\"features\":[{}]}}", vec!["0"; features].join(","));
        format!("[{}]", vec![row; count].join(",")).into_bytes().into()
    }

    #[tokio::test]
    async fn refuses_rows_whose_answer_would_be_too_large_before_computing_it() {
        let (model, deployment) = deployment(1, 65_536);
        let refused = deployment.answer(rows(65, 1)).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::AnswerTooLarge);
        assert_eq!(
            refused.message(),
            "the answer would be too large: expected at most 64 rows, as the model has 65536 scores for each, found 65"
        );
        assert!(model.asked_by.lock().unwrap().is_empty());
        assert!(deployment.answer(rows(64, 1)).await.is_ok());
    }

    #[tokio::test]
    async fn only_small_requests_are_answered_on_the_thread_that_read_them() {
        let asked_here = async |count: usize, features: usize, scores: usize| {
            let (model, deployment) = deployment(features, scores);
            deployment.answer(rows(count, features)).await.unwrap();
            let asked_by = model.asked_by.lock().unwrap();
            asked_by.as_slice() == [std::thread::current().id()]
        };
        assert!(asked_here(1, 784, 10).await);
        assert!(asked_here(64, 20, 10).await);
        assert!(!asked_here(65, 20, 10).await, "many rows");
        assert!(!asked_here(10, 20_000, 1).await, "a long body");
        assert!(!asked_here(10, 20, 10_000).await, "a long answer");
    }
}
