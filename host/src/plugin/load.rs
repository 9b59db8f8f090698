use std::sync::Arc;

use super::bindings::detector::DriftDetectorPre;
use super::bindings::transformer::PreprocessorPre;
use super::call::CallState;
use super::session::{Session, shortened};
use super::{
    Fault, InstancePolicy, Interfaces, Kind, Limits, LoadError, Manifest, ManifestLimits, PluginError,
    PluginRuntime, block_on,
};
use crate::domain::Digest;

/// A component that passed every check, with its manifest; a cheap handle.
#[derive(Clone)]
pub struct Plugin {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) runtime: PluginRuntime,
    pub(super) digest: Digest,
    pub(super) size_bytes: usize,
    pub(super) interfaces: Interfaces,
    pub(super) manifest: Manifest,
    pub(super) limits: Limits,
    pub(super) exports: ExportsPre,
}

/// A compiled component with its imports linked and its exports looked up.
#[derive(Clone)]
pub(super) enum ExportsPre {
    Transformer(PreprocessorPre<CallState>),
    Detector(DriftDetectorPre<CallState>),
}

impl Inner {
    fn load(runtime: &PluginRuntime, digest: Digest, bytes: &[u8]) -> Result<Self, LoadError> {
        let interfaces = Interfaces::read(bytes)?;
        let invalid = |error: wasmtime::Error| LoadError::Invalid(format!("{error:#}"));
        let component = runtime.component(bytes)?;
        let linked = runtime.inner.linker.instantiate_pre(&component).map_err(invalid)?;
        let exports = match interfaces.kind {
            Kind::Transformer => ExportsPre::Transformer(PreprocessorPre::new(linked).map_err(invalid)?),
            Kind::Detector => ExportsPre::Detector(DriftDetectorPre::new(linked).map_err(invalid)?),
        };
        let limits = runtime.inner.config.ceiling.grant(&ManifestLimits::default());
        let manifest =
            block_on(Session::describe(runtime, &exports, &limits)).map_err(LoadError::Describe)?;
        if let Some(problem) = manifest.problem(interfaces.kind) {
            return Err(LoadError::Manifest(problem));
        }
        let limits = runtime.inner.config.ceiling.grant(&manifest.limits);
        let (runtime, size_bytes) = (runtime.clone(), bytes.len());
        Ok(Self { runtime, digest, size_bytes, interfaces, manifest, limits, exports })
    }
}

impl Plugin {
    /// Checks and compiles a component and asks it for its manifest. One that is in use already is not loaded twice.
    pub fn load(runtime: &PluginRuntime, bytes: &[u8]) -> Result<Self, LoadError> {
        let digest = Digest::of(bytes);
        let load = || Inner::load(runtime, digest, bytes).map(Arc::new);
        let inner = runtime.inner.plugins.get_or_make(digest, load)?;
        Ok(Self { inner })
    }

    /// What the plugin says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.inner.manifest
    }

    /// Digest of the component's bytes.
    pub fn digest(&self) -> Digest {
        self.inner.digest
    }

    /// Size of the component.
    pub fn size_bytes(&self) -> usize {
        self.inner.size_bytes
    }

    /// What it imports and exports.
    pub fn interfaces(&self) -> &Interfaces {
        &self.inner.interfaces
    }

    /// The limits its calls run under.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Whether instances are kept between calls: the operator's word, else the manifest's.
    pub fn keeps_instances(&self) -> bool {
        let policy = self.inner.runtime.inner.config.instances.unwrap_or(self.inner.manifest.instances);
        policy == InstancePolicy::Pooled
    }

    pub(super) fn error(&self, fault: Fault) -> PluginError {
        // What a guest says goes into errors, responses and terminals.
        PluginError {
            name: self.inner.manifest.name.clone(),
            digest: self.inner.digest,
            fault: shortened(fault),
        }
    }

    /// Refuses a plugin of another kind.
    pub fn expect_kind(&self, wanted: Kind) -> Result<(), PluginError> {
        let found = self.inner.manifest.kind;
        if found == wanted {
            return Ok(());
        }
        let (found, wanted) = (found.as_str(), wanted.as_str());
        Err(self.error(Fault::InvalidConfig(format!("it is a {found}, and a {wanted} is needed here"))))
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} ({})", self.inner.manifest.name, self.inner.digest)
    }
}
