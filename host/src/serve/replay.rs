//! Computes a prediction that was served once more, and compares.

use crate::data::{DataError, PredictionRecord, find_prediction};
use crate::domain::Batch;
use crate::plugin::{PluginRuntime, block_on};
use crate::registry::{PredictionError, Predictor, RegistryError, read_bundle};
use crate::store::Store;

/// A prediction and what comes of the same rows now.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    /// What was recorded.
    pub record: PredictionRecord,
    /// The answer of the same bundle now.
    pub outputs: Batch,
}

/// A prediction that cannot be computed again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It was not recorded, or too long ago.
    #[error(
        "prediction `{id}` is not recorded here: only the newest are kept, of very many at once only \
         some, and none of endpoints that are made of others, see `host serve --help`"
    )]
    Unknown {
        /// Its id.
        id: String,
    },
    /// Others answered than the bundle's transformers.
    #[error("prediction `{id}` was answered by other transformers than the bundle's (`host serve --plugin`)")]
    Replaced {
        /// Its id.
        id: String,
    },
    /// The records cannot be read.
    #[error("{0}")]
    Data(#[from] DataError),
    /// The bundle is gone or cannot be loaded.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// The rows cannot be answered.
    #[error("the rows cannot be answered any more: {0}")]
    Prediction(#[from] PredictionError),
}

/// Has the bundle that answered the prediction `id` answer the same rows again.
pub fn replay(store: &Store, runtime: &PluginRuntime, id: &str) -> Result<Replay, ReplayError> {
    let unknown = || ReplayError::Unknown { id: id.chars().take(80).collect() };
    let record = find_prediction(store, id)?.ok_or_else(unknown)?;
    if !record.is_of_bundle {
        return Err(ReplayError::Replaced { id: record.id });
    }
    let manifest = read_bundle(store, record.bundle)?;
    let predictor = Predictor::load(store, runtime, &manifest)?;
    let outputs = block_on(predictor.predict(&record.inputs))?.outputs;
    Ok(Replay { record, outputs })
}

impl Replay {
    /// Whether every bit of the answer is what it was.
    pub fn is_identical(&self) -> bool {
        let (then, now) = (self.record.outputs.tensors(), self.outputs.tensors());
        // Compared by their bytes: NaN is equal to nothing, and zero to minus zero.
        then.len() == now.len()
            && then.iter().zip(now).all(|(then, now)| {
                (then.name(), then.dtype(), then.shape(), then.data())
                    == (now.name(), now.dtype(), now.shape(), now.data())
            })
    }
}
