use std::sync::Arc;

use axum::http::StatusCode;

use super::window::WindowCapture;
use super::{ApiError, ErrorCode, RequestBody};
use crate::data::{self, RowForm};
use crate::domain::{Batch, Digest, Name};
use crate::plugin::block_on;
use crate::registry::Predictor;

/// Rows up to which a request is computed on the thread that read it. At some 20 µs a row this is about a millisecond.
const INLINE_ROWS_MAX: usize = 64;

/// Bytes of a body up to which it is decoded on the thread that read it. Decoding takes about a nanosecond a byte.
const INLINE_BODY_MAX_BYTES: usize = 100 * 1024;

/// Scores up to which an answer is encoded on that thread.
const INLINE_SCORES_MAX: usize = 16 * 1024;

/// Scores that one answer may hold: 16 MiB of them, which are some 50 MB as JSON. A model of thousands of classes makes
/// this of few rows, so the limits on body and rows do not bound it.
const ANSWER_SCORES_MAX: usize = 4 * 1024 * 1024;

/// What an endpoint is made of.
pub struct EndpointConfig {
    /// Its name: the last part of `/serve/{endpoint}`.
    pub name: Name,
    /// Digest of the bundle behind it.
    pub bundle: Digest,
    /// The bundle, loaded.
    pub predictor: Predictor,
    /// Where rows are kept for monitoring; none where monitoring is off.
    pub window: Option<Arc<WindowCapture>>,
    /// Rows that one request may have.
    pub rows_max: usize,
}

/// A served name.
pub struct Endpoint {
    config: Arc<EndpointConfig>,
}

impl Endpoint {
    /// Makes an endpoint.
    pub fn new(config: EndpointConfig) -> Self {
        Self { config: Arc::new(config) }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.config.name
    }

    /// Digest of the bundle behind it.
    pub fn bundle(&self) -> Digest {
        self.config.bundle
    }

    /// The window it fills.
    pub fn window(&self) -> Option<&Arc<WindowCapture>> {
        self.config.window.as_ref()
    }

    /// The predictor behind it.
    pub fn predictor(&self) -> &Predictor {
        &self.config.predictor
    }

    /// Answers a body: a JSON object gets an object, a list gets a list.
    pub async fn answer(&self, body: RequestBody) -> Result<Vec<u8>, ApiError> {
        let config = Arc::clone(&self.config);
        if body.bytes().len() > INLINE_BODY_MAX_BYTES {
            return on_blocking_pool(move || {
                let (inputs, form) = decode(&config, body.bytes())?;
                block_on(compute(&config, inputs, form))
            })
            .await;
        }
        let (inputs, form) = decode(&config, body.bytes())?;
        let scores = inputs.rows().saturating_mul(config.predictor.score_count());
        if inputs.rows() <= INLINE_ROWS_MAX && scores <= INLINE_SCORES_MAX {
            return compute(&config, inputs, form).await;
        }
        on_blocking_pool(move || block_on(compute(&config, inputs, form))).await
    }
}

/// Rows of a body that may be computed: neither they nor their scores are too many.
fn decode(config: &EndpointConfig, body: &[u8]) -> Result<(Batch, RowForm), ApiError> {
    let specs = &config.predictor.signature().inputs;
    let (inputs, form) = data::decode_rows(body, specs, config.rows_max)?;
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
    Ok((inputs, form))
}

async fn compute(config: &EndpointConfig, inputs: Batch, form: RowForm) -> Result<Vec<u8>, ApiError> {
    let prediction = config.predictor.predict(&inputs).await?;
    if let Some(window) = &config.window {
        window.offer(prediction.features, prediction.scores);
    }
    data::encode_rows(&prediction.outputs, form).map_err(|error| internal(&error))
}

async fn on_blocking_pool(
    answer: impl FnOnce() -> Result<Vec<u8>, ApiError> + Send + 'static,
) -> Result<Vec<u8>, ApiError> {
    tokio::task::spawn_blocking(answer).await.map_err(|error| internal(&error))?
}

fn internal(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::thread::ThreadId;

    use super::*;
    use crate::domain::{ColumnSpec, DataType, Signature};
    use crate::model::Model;
    use crate::registry::PredictorParts;

    /// Says always 0, and remembers who asked.
    #[derive(Debug)]
    struct Zeros {
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

    fn endpoint(features: usize, scores: usize) -> (Arc<Zeros>, Endpoint) {
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
        let endpoint = Endpoint::new(EndpointConfig {
            name: "zeros".parse().unwrap(),
            bundle: Digest::of(b""),
            predictor: Predictor::new(parts, signature),
            window: None,
            rows_max: 100_000,
        });
        (model, endpoint)
    }

    fn rows(count: usize, features: usize) -> RequestBody {
        let row = format!("{{\"features\":[{}]}}", vec!["0"; features].join(","));
        format!("[{}]", vec![row; count].join(",")).into_bytes().into()
    }

    #[tokio::test]
    async fn refuses_rows_whose_answer_would_be_too_large_before_computing_it() {
        let (model, endpoint) = endpoint(1, 65_536);
        let refused = endpoint.answer(rows(65, 1)).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::AnswerTooLarge);
        assert_eq!(
            refused.message(),
            "the answer would be too large: expected at most 64 rows, as the model has 65536 scores for each, found 65"
        );
        assert!(model.asked_by.lock().unwrap().is_empty());
        assert!(endpoint.answer(rows(64, 1)).await.is_ok());
    }

    #[tokio::test]
    async fn only_small_requests_are_answered_on_the_thread_that_read_them() {
        let asked_here = async |count: usize, features: usize, scores: usize| {
            let (model, endpoint) = endpoint(features, scores);
            endpoint.answer(rows(count, features)).await.unwrap();
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
