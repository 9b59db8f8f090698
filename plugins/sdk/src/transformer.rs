use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Batch, Error, Instances, Limits};

/// Maps batches to batches; used before a model (preprocess) and after it (postprocess).
///
/// Life of one: opened without state, `fit` with batch after batch of training data, `state` once; later, in training,
/// in batch scoring and in serving, opened with that state and `transform` any number of times.
pub trait Transformer: Sized + 'static {
    /// What the user configures. Derive `Deserialize` with `#[serde(deny_unknown_fields)]`; [`NoConfig`] if nothing.
    ///
    /// [`NoConfig`]: crate::NoConfig
    type Config: DeserializeOwned;

    /// What `fit` learns; `()` if nothing. Kept as JSON, so numbers must be finite and the order of maps fixed.
    type State: Serialize + DeserializeOwned;

    /// Whether `fit` learns anything. If not, the host never calls it and there is no state.
    const NEEDS_FIT: bool = false;

    /// Whether each row of the answer depends on the same row of the input alone, so that the host may split a long
    /// batch into pieces and run them in any order, or put the rows of several requests into one.
    const ROWS_INDEPENDENT: bool = false;

    /// Whether an instance may be kept for the next call.
    const INSTANCES: Instances = Instances::Fresh;

    /// What the plugin asks for.
    const LIMITS: Limits = Limits::DEFAULT;

    /// JSON Schema (2020-12) of [`Transformer::Config`].
    const CONFIG_SCHEMA: &str = r#"{"type":"object"}"#;

    /// Makes a transformer; `state` is what [`Transformer::state`] returned after `fit`, none before.
    ///
    /// Errors: [`Error::InvalidConfig`], [`Error::InvalidState`].
    fn open(config: Self::Config, state: Option<Self::State>) -> Result<Self, Error>;

    /// Learns from one batch of training data. Called once a batch, in the order of the data.
    ///
    /// Errors: [`Error::InvalidInput`].
    fn fit(&mut self, _batch: Batch) -> Result<(), Error> {
        Ok(())
    }

    /// Returns what was learned; the same for the same batches.
    ///
    /// Errors: [`Error::NotFitted`] when `fit` saw no rows.
    fn state(&self) -> Result<Self::State, Error> {
        Err(Error::NotFitted)
    }

    /// Maps a batch of any number of rows, zero included, to a batch with the same number of rows.
    ///
    /// Errors: [`Error::InvalidInput`] with row and column where known; [`Error::NotFitted`].
    fn transform(&self, batch: Batch) -> Result<Batch, Error>;
}

/// Makes the crate a plugin: exports a [`Transformer`] with a manifest that names the crate, its version and its
/// description.
///
/// Once a crate. Natively it only checks the type, so that tests need no WebAssembly.
#[macro_export]
macro_rules! export_transformer {
    ($transformer:ty) => {
        const _: () = {
            #[cfg(target_arch = "wasm32")]
            $crate::guest::export_transformer_component!($transformer);

            const fn is_transformer<T: $crate::Transformer>() {}
            is_transformer::<$transformer>();
        };
    };
}
