//! Bundles and the names they go by.
//!
//! A bundle is the immutable content of a model version: a manifest that lists blobs by digest ([`BundleManifest`]).
//! A model is a name with numbered versions, which have tags and aliases; words and rules are those of MLflow's model
//! registry, whose REST API [`rest`] answers. A version that `host train` made holds a bundle, one that a client of
//! MLflow made names its files among tracking's artifacts. [`Predictor`] is a bundle loaded to compute: the one path
//! that training's evaluation, batch scoring and serving share, so they cannot differ.
//!
//! Knows nothing of training or of the terminal.

mod aliases;
mod annotations;
pub(crate) mod archive;
mod bundle;
mod difference;
mod entities;
mod external;
mod feature_names;
mod features;
mod lineage;
mod model_loader;
mod model_versions;
mod models;
mod named_digests;
mod names;
mod parts;
mod predictor;
mod registered_models;
mod registration;
pub mod rest;
mod sample;
mod search;
mod source;
mod yanked;

use crate::domain::Digest;
use crate::store::{Database, Store};
use crate::track::{TrackError, Tracker};

pub use aliases::AliasChange;
pub use archive::{ModelRecord, VersionRecord};
pub use bundle::{
    BlobRef, BundleManifest, DatasetRef, MEDIA_TYPE, ModelEntry, RegistryError, TransformerEntry,
    export_bundle, read_bundle, write_bundle,
};
pub use difference::{Difference, differences};
pub use entities::{ModelAlias, ModelVersion, RegisteredModel, Stage};
pub use external::{ExternalError, ExternalModel, ExternalSignature, ExternalTransformer, bundle_external};
pub use feature_names::FeatureNamesError;
pub use features::{FeatureError, assemble};
pub use lineage::{Lineage, LineageDirection, LineageEdge, LineageNode, LineageSubject};
pub use model_loader::ModelLoader;
pub use model_versions::NewVersion;
pub use models::{FolderState, ModelReference, ResolvedModel, VersionSelector, resolve_unnamed};
pub use named_digests::NamedBundle;
pub use names::check_new_alias;
pub(crate) use parts::check_transformer_counts;
pub use predictor::{Prediction, PredictionError, Predictor, PredictorParts, TransformerCall};
pub use registration::BundleOrigin;
pub use sample::{Sample, SampleError};
pub use search::RegistrySearch;
pub use yanked::YANKED_TAG;

/// Reads and writes models and their versions; clones are cheap and mean the same registry.
#[derive(Debug, Clone)]
pub struct Registry {
    tracker: Tracker,
}

impl Registry {
    /// A registry in the database of `tracker`, over its runs and logged models.
    pub fn new(tracker: Tracker) -> Self {
        Self { tracker }
    }

    /// The runs and artifacts that versions refer to.
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// Reads a bundle's manifest where blocking does no harm.
    async fn manifest(&self, bundle: Digest) -> Result<BundleManifest, RegistryError> {
        let store = self.store().clone();
        let read = tokio::task::spawn_blocking(move || read_bundle(&store, bundle)).await;
        read.map_err(|error| TrackError::internal(error.to_string()))?
    }

    fn database(&self) -> &Database {
        self.tracker.database()
    }

    fn store(&self) -> &Store {
        self.tracker.store()
    }
}
