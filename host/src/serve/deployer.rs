use std::error::Error;
use std::iter::successors;
use std::sync::Arc;

use serde_json::Value;
use tokio::task::JoinError;

use super::capture::with_causes;
use super::graph::Graph;
use super::{
    Deployment, DeploymentConfig, GraphError, ShadowError, WindowCapture, WindowMemory, Work, example,
};
use crate::data::{DataError, WindowWriter};
use crate::domain::{Digest, Name};
use crate::plugin::{PluginRuntime, block_on};
use crate::registry::{
    BundleManifest, ModelLoader, ModelReference, PredictionError, Predictor, Registry, RegistryError, Sample,
    SampleError, read_bundle, resolve_unnamed,
};
use crate::store::{Store, StoreError};

/// Loads bundles to answer requests.
#[derive(Clone)]
pub struct Deployer {
    /// Where bundles are.
    pub store: Store,
    /// What runs their transformers.
    pub runtime: PluginRuntime,
    /// What loads their models.
    pub models: Arc<ModelLoader>,
    /// Where models are; none where only bundles are served that have no name.
    pub registry: Option<Registry>,
    /// Newest rows that are kept for monitoring; 0 keeps none.
    pub window_rows: usize,
    /// What the rows of all windows share.
    pub window_memory: Arc<WindowMemory>,
    /// Rows that one request may have.
    pub rows_max: usize,
}

/// A bundle that was found, and as which version of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocatedBundle {
    /// The model and the version's number; none where the bundle is none of a model's.
    pub version: Option<(Name, i64)>,
    /// Its digest.
    pub bundle: Digest,
}

/// A bundle that cannot answer requests.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// It is not there or cannot be loaded.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// It is a model's, and there are none.
    #[error("`{0}` is a model's version: no registry is open")]
    NoRegistry(ModelReference),
    /// It does not answer as it did when it was made.
    #[error("{0}")]
    Sample(#[from] SampleError),
    /// With other transformers it takes other columns than it did when it was made.
    #[error("with these transformers the bundle cannot answer the row that was recorded with it: {0}")]
    Replaced(#[from] PredictionError),
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// Its window cannot be opened.
    #[error("{0}")]
    Window(#[from] DataError),
    /// It is made of endpoints that do not fit together.
    #[error("{0}")]
    Graph(#[from] GraphError),
    /// It would share an endpoint's requests with one that takes or answers with other columns.
    #[error(
        "`{version}` differs from `{main}` in column `{column}`: versions that share requests take and answer the same"
    )]
    Columns {
        /// The version that gets no requests.
        version: String,
        /// The one that gets most.
        main: String,
        /// A column in which they differ.
        column: String,
    },
    /// It should be a shadow, and takes other columns than a version that answers.
    #[error("shadow `{shadow}` does not take what `{version}` does, and is given no requests: {error}")]
    Shadow {
        /// The shadow.
        shadow: ModelReference,
        /// The version that answers.
        version: String,
        /// What does not fit.
        error: Box<ShadowError>,
    },
    /// Its metrics cannot be named so.
    #[error("{0}")]
    Metrics(#[from] prometheus::Error),
    /// The program is closing.
    #[error("the work was given up")]
    Stopped,
    /// A folder cannot be taken into the store; for all endpoints that are of it.
    #[error("{0}")]
    Folder(#[source] Arc<Self>),
    /// A bug has ended it.
    #[error("a bug of the host's ended the work: {0}")]
    Panicked(JoinError),
    /// Several things at once.
    #[error("{0}")]
    Several(String),
}

impl From<JoinError> for DeployError {
    fn from(error: JoinError) -> Self {
        if error.is_cancelled() { Self::Stopped } else { Self::Panicked(error) }
    }
}

impl DeployError {
    /// All of them in one; none where there are none.
    pub(super) fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        let Some(last) = errors.pop() else { return Ok(()) };
        if errors.is_empty() {
            return Err(last);
        }
        let texts: Vec<String> = errors.iter().chain([&last]).map(|error| with_causes(error)).collect();
        Err(Self::Several(texts.join("; ")))
    }

    /// Whether the store lacks a blob.
    pub(super) fn is_of_missing_blob(&self) -> bool {
        let mut causes = successors(Some(self as &dyn Error), |&error| error.source());
        causes.any(|cause| matches!(cause.downcast_ref(), Some(StoreError::Missing { .. })))
    }
}

impl Deployer {
    /// The bundle that `model` means now; a folder is taken into the store.
    pub async fn locate(&self, model: &ModelReference) -> Result<LocatedBundle, DeployError> {
        match model {
            ModelReference::Name(name, selector) => {
                let no_registry = || DeployError::NoRegistry(model.clone());
                let registry = self.registry.as_ref().ok_or_else(no_registry)?;
                let version = registry.find_version(name, selector).await?;
                let none = || RegistryError::NoBundle { name: name.clone(), version: version.number };
                let bundle = version.bundle.ok_or_else(none)?;
                Ok(LocatedBundle { version: Some((name.clone(), version.number)), bundle })
            }
            ModelReference::Bundle(bundle) => Ok(LocatedBundle { version: None, bundle: *bundle }),
            ModelReference::Folder(_) => {
                let (store, folder) = (self.store.clone(), model.clone());
                let taken = tokio::task::spawn_blocking(move || resolve_unnamed(&store, &folder)).await;
                let taken = taken??;
                let taken = taken.ok_or_else(|| RegistryError::Reference { text: model.to_string() })?;
                Ok(LocatedBundle { version: None, bundle: taken.digest })
            }
        }
    }

    /// Loads a bundle for an endpoint, and has it answer its recorded sample: who does not answer that as it did when it was
    /// made gets no requests. `held` is let go when that is done, and not before, also where nobody waits for it any more.
    pub async fn deploy(
        &self,
        endpoint: &Name,
        located: LocatedBundle,
        held: impl Send + 'static,
    ) -> Result<Deployment, DeployError> {
        let (deployer, endpoint) = (self.clone(), endpoint.clone());
        let loaded = tokio::task::spawn_blocking(move || {
            let loaded = deployer.load(&endpoint, located);
            drop(held);
            loaded
        });
        loaded.await?
    }

    fn load(&self, endpoint: &Name, located: LocatedBundle) -> Result<Deployment, DeployError> {
        let manifest = read_bundle(&self.store, located.bundle)?;
        let predictor = Predictor::load_by(&self.models, &self.store, &self.runtime, &manifest)?;
        let sample = match self.recorded_sample(&manifest)? {
            Some(sample) => {
                block_on(sample.check(&predictor))?;
                Some(sample)
            }
            // Only for documents: what nobody has recorded proves nothing.
            None => block_on(Sample::of_zeros(&predictor)),
        };
        let row_time = sample.as_ref().and_then(|sample| block_on(sample.time_of_row(&predictor)));
        let window = self.window(endpoint, &located)?;
        let LocatedBundle { version, bundle } = located;
        let config = DeploymentConfig {
            version,
            bundle,
            row_time,
            platform: manifest.model.platform(),
            work: Work::Bundle(predictor),
            is_of_bundle: true,
            window,
            rows_max: self.rows_max,
            example: sample.and_then(Sample::into_first),
        };
        Ok(Deployment::new(endpoint.as_str(), config)?)
    }

    /// A row and the answer to it of a bundle whose transformers are others, for documents; refuses those that take other columns.
    /// It calls them, and waits for them.
    pub fn example_of_replaced(
        &self,
        manifest: &BundleManifest,
        predictor: &Predictor,
    ) -> Result<Option<(Value, Value)>, DeployError> {
        Ok(block_on(example::of_replaced(predictor, self.recorded_sample(manifest)?))?)
    }

    /// The rows that a bundle has answered when it was made; none where none were recorded.
    fn recorded_sample(&self, manifest: &BundleManifest) -> Result<Option<Sample>, DeployError> {
        let Some(recorded) = &manifest.sample else { return Ok(None) };
        Ok(Some(Sample::load(&self.store, recorded)?))
    }

    /// Makes an endpoint of others answer. It has no window: those that it asks have theirs.
    pub(super) fn deploy_graph(&self, endpoint: &Name, graph: Graph) -> Result<Deployment, DeployError> {
        let config = DeploymentConfig {
            version: None,
            bundle: graph.digest(),
            row_time: None,
            platform: "graph".to_owned(),
            work: Work::Graph(graph),
            is_of_bundle: false,
            window: None,
            rows_max: self.rows_max,
            example: None,
        };
        Ok(Deployment::new(endpoint.as_str(), config)?)
    }

    /// Where the rows of an endpoint are kept that a bundle answers.
    pub fn window(
        &self,
        endpoint: &Name,
        located: &LocatedBundle,
    ) -> Result<Option<Arc<WindowCapture>>, DataError> {
        if self.window_rows == 0 {
            return Ok(None);
        }
        let version = located.version.as_ref().map(|(model, number)| format!("{model}@{number}"));
        let writer = WindowWriter::open(&self.store, endpoint, located.bundle, self.window_rows)?;
        let writer = writer.of_version(version);
        Ok(Some(Arc::new(WindowCapture::new(writer, Arc::clone(&self.window_memory)))))
    }
}
