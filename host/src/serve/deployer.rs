use std::sync::Arc;

use super::{Deployment, DeploymentConfig, WindowCapture};
use crate::data::{DataError, WindowWriter};
use crate::domain::Name;
use crate::plugin::{PluginRuntime, block_on};
use crate::registry::{
    ModelReference, Predictor, Registry, RegistryError, ResolvedModel, Sample, SampleError, resolve_unnamed,
};
use crate::store::{Store, StoreError};

/// Loads bundles to answer requests.
#[derive(Clone)]
pub struct Deployer {
    /// Where bundles are.
    pub store: Store,
    /// What runs their transformers.
    pub runtime: PluginRuntime,
    /// Where models are; none where only bundles are served that have no name.
    pub registry: Option<Registry>,
    /// Newest rows that are kept for monitoring; 0 keeps none.
    pub window_rows: usize,
    /// Rows that one request may have.
    pub rows_max: usize,
}

/// A bundle that cannot answer requests.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// It is not there or cannot be loaded.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// It does not answer as it did when it was made.
    #[error("{0}")]
    Sample(#[from] SampleError),
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// Its window cannot be opened.
    #[error("{0}")]
    Window(#[from] DataError),
    /// The program is closing.
    #[error("the work was given up")]
    Stopped,
}

impl Deployer {
    /// The bundle that `model` means now.
    pub async fn resolve(&self, model: &ModelReference) -> Result<ResolvedModel, DeployError> {
        let (store, unnamed) = (self.store.clone(), model.clone());
        let found = tokio::task::spawn_blocking(move || resolve_unnamed(&store, &unnamed)).await;
        if let Some(found) = found.map_err(|_| DeployError::Stopped)?? {
            return Ok(found);
        }
        let unknown = || RegistryError::Reference { text: model.to_string() };
        Ok(self.registry.as_ref().ok_or_else(unknown)?.resolve(model).await?)
    }

    /// Loads a bundle for an endpoint, and has it answer its recorded sample: who does not answer that as it did when it was
    /// made gets no requests.
    pub async fn deploy(&self, endpoint: &Name, model: ResolvedModel) -> Result<Deployment, DeployError> {
        let (deployer, endpoint) = (self.clone(), endpoint.clone());
        let loaded = tokio::task::spawn_blocking(move || deployer.load(&endpoint, model));
        loaded.await.map_err(|_| DeployError::Stopped)?
    }

    fn load(&self, endpoint: &Name, model: ResolvedModel) -> Result<Deployment, DeployError> {
        let predictor = Predictor::load(&self.store, &self.runtime, &model.manifest)?;
        if let Some(recorded) = &model.manifest.sample {
            let sample = Sample::from_bytes(&self.store.get(recorded.digest)?)?;
            block_on(sample.check(&predictor))?;
        }
        Ok(Deployment::new(DeploymentConfig {
            version: model.name.zip(model.version),
            bundle: model.digest,
            platform: model.manifest.model.platform(),
            predictor,
            is_of_bundle: true,
            window: self.window(endpoint, model.digest)?,
            rows_max: self.rows_max,
        }))
    }

    /// Where the rows of an endpoint are kept that a bundle answers.
    pub fn window(
        &self,
        endpoint: &Name,
        bundle: crate::domain::Digest,
    ) -> Result<Option<Arc<WindowCapture>>, DataError> {
        if self.window_rows == 0 {
            return Ok(None);
        }
        let writer = WindowWriter::open(&self.store, endpoint, bundle, self.window_rows)?;
        Ok(Some(Arc::new(WindowCapture::new(writer))))
    }
}
