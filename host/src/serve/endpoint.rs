use std::sync::Arc;

use super::ApiError;
use super::window::WindowCapture;
use crate::data;
use crate::domain::{Batch, Digest, Name};
use crate::plugin::block_on;
use crate::registry::Predictor;

/// Rows up to which a request is computed on the thread that read it. At some 20 µs a row this is about a millisecond.
const INLINE_ROWS_MAX: usize = 64;

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
    pub async fn answer(&self, body: &[u8]) -> Result<Vec<u8>, ApiError> {
        let specs = &self.config.predictor.signature().inputs;
        let (inputs, form) = data::decode_rows(body, specs, self.config.rows_max)?;
        let outputs = if inputs.rows() <= INLINE_ROWS_MAX {
            predict(&self.config, inputs).await?
        } else {
            let config = Arc::clone(&self.config);
            tokio::task::spawn_blocking(move || block_on(predict(&config, inputs)))
                .await
                .map_err(|error| internal(&error))??
        };
        data::encode_rows(&outputs, form).map_err(|error| internal(&error))
    }
}

async fn predict(config: &EndpointConfig, inputs: Batch) -> Result<Batch, ApiError> {
    let prediction = config.predictor.predict(&inputs).await?;
    if let Some(window) = &config.window {
        window.offer(prediction.features, prediction.scores);
    }
    Ok(prediction.outputs)
}

fn internal(error: &dyn std::fmt::Display) -> ApiError {
    use super::ErrorCode;
    use axum::http::StatusCode;
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, error.to_string())
}
