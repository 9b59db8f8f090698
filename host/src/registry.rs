//! Bundles and the names they go by.
//!
//! A bundle is the immutable content of a model version: a manifest that lists blobs by digest ([`BundleManifest`]).
//! A model is a name with numbered versions, each a bundle. [`Predictor`] is a bundle loaded to compute: the one path
//! that training's evaluation, batch scoring and serving share, so they cannot differ.
//!
//! Knows nothing of HTTP, of training or of the terminal.

mod bundle;
mod features;
mod models;
mod predictor;

pub use bundle::{
    BlobRef, BundleManifest, DatasetRef, MEDIA_TYPE, ModelEntry, RegistryError, TransformerEntry,
    export_bundle, read_bundle, write_bundle,
};
pub use features::{FeatureError, assemble};
pub use models::{ModelRecord, ModelReference, ModelVersion, ResolvedModel, list_models, register, resolve};
pub use predictor::{Prediction, PredictionError, Predictor, PredictorParts};
