use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Batch, Error, Instances, Limits};

/// Compares a window of rows that an endpoint saw with a reference, and says how far they differ.
///
/// Life of one: opened without state, `fit` with batch after batch of the reference, then `score` with a window;
/// `state` keeps what `fit` learned where a host wants to score later without the reference.
pub trait Detector: Sized + 'static {
    /// What the user configures. Derive `Deserialize` with `#[serde(deny_unknown_fields)]`; [`NoConfig`] if nothing.
    ///
    /// [`NoConfig`]: crate::NoConfig
    type Config: DeserializeOwned;

    /// What `fit` learns. Kept as JSON, so numbers must be finite and the order of maps fixed.
    type State: Serialize + DeserializeOwned;

    /// Whether an instance may be kept for the next call.
    const INSTANCES: Instances = Instances::Fresh;

    /// What the plugin asks for.
    const LIMITS: Limits = Limits::DEFAULT;

    /// JSON Schema (2020-12) of [`Detector::Config`].
    const CONFIG_SCHEMA: &str = r#"{"type":"object"}"#;

    /// Makes a detector; `state` is what [`Detector::state`] returned after `fit`, none before.
    ///
    /// Errors: [`Error::InvalidConfig`], [`Error::InvalidState`].
    fn open(config: Self::Config, state: Option<Self::State>) -> Result<Self, Error>;

    /// Learns from one batch of the reference.
    ///
    /// Errors: [`Error::InvalidInput`].
    fn fit(&mut self, batch: Batch) -> Result<(), Error>;

    /// Returns what was learned; the same for the same batches.
    ///
    /// Errors: [`Error::NotFitted`] when `fit` saw no rows.
    fn state(&self) -> Result<Self::State, Error>;

    /// Scores a window, which has the columns of the reference.
    ///
    /// Errors: [`Error::InvalidInput`], for example when the window has too few rows; [`Error::NotFitted`].
    fn score(&self, window: Batch) -> Result<Vec<Score>, Error>;
}

/// The difference of one feature, or of one group of features.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Column name, or the name that the plugin gives a group, for example `features[0:4,8:12]`.
    pub feature: String,
    /// Name of the statistic, for example `psi`.
    pub statistic: String,
    /// Its value; larger means further apart.
    pub value: f64,
    /// The value from which on the verdict is [`Verdict::Drifted`].
    pub threshold: f64,
    /// The plugin's judgement.
    pub verdict: Verdict,
}

/// What a score means for the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// No difference beyond what chance explains.
    Stable,
    /// Worth a look.
    Warning,
    /// The window does not come from the reference's distribution.
    Drifted,
}

/// Makes the crate a plugin: exports a [`Detector`] with a manifest that names the crate, its version and its
/// description.
///
/// Once a crate. Natively it only checks the type, so that tests need no WebAssembly.
#[macro_export]
macro_rules! export_detector {
    ($detector:ty) => {
        const _: () = {
            #[cfg(target_arch = "wasm32")]
            $crate::guest::export_detector_component!($detector);

            const fn is_detector<T: $crate::Detector>() {}
            is_detector::<$detector>();
        };
    };
}
