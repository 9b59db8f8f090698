use std::collections::{BTreeSet, HashSet};
use std::time::SystemTime;

use super::GcError;
use crate::data::{DataError, DatasetManifest, DatasetVersion, prediction_bundles, window_bundles};
use crate::domain::{Digest, Name};
use crate::registry::{NamedBundle, RegistryError, read_bundle};
use crate::store::{Store, StoreError};
use crate::track::NamedDigests;

/// Largest blob that is tried as a bundle's manifest because somebody says that it is one.
const BUNDLE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Largest blob that is tried as a dataset's manifest because somebody says that it is one.
const DATASET_MAX_BYTES: u64 = 512 * 1024 * 1024;

/// Every blob that something names.
///
/// Names are of two kinds. A version of a dataset or of a model *needs* all that it names: what of it cannot be read is
/// an error. What a dataset or a bundle *was made from* need not be there, since versions can be deleted; of that the
/// manifests are kept, so that lineage can tell what it was, and the files are not.
pub(super) struct Names {
    pub(super) blobs: HashSet<Digest>,
    /// Windows to which nothing was written for so long that what they name does not count.
    pub(super) unused_windows: BTreeSet<Name>,
    ancestors: HashSet<Digest>,
    store: Store,
}

impl Names {
    pub(super) fn new(store: Store) -> Self {
        Self { blobs: HashSet::new(), unused_windows: BTreeSet::new(), ancestors: HashSet::new(), store }
    }

    /// The manifests and files of dataset versions.
    pub(super) fn add_datasets(&mut self, datasets: &[(Name, Vec<DatasetVersion>)]) -> Result<(), GcError> {
        for (name, versions) in datasets {
            for version in versions {
                let what = format!("dataset version `{name}@{}`", version.number);
                let (manifest, chain) = DatasetManifest::load_chain(&self.store, version.digest)
                    .map_err(|error| GcError::unreadable(what.clone(), error))?;
                self.blobs.extend(manifest.files.iter().map(|file| file.digest));
                self.add_ancestry(chain, &what)?;
            }
        }
        Ok(())
    }

    /// The bundles of versions of models.
    pub(super) fn add_bundles(&mut self, bundles: &[NamedBundle]) -> Result<(), GcError> {
        for NamedBundle { version, bundle } in bundles {
            let what = format!("model version `{version}`");
            let dataset =
                self.add_bundle(*bundle).map_err(|error| GcError::unreadable(what.clone(), error))?;
            self.add_ancestry(dataset, &what)?;
        }
        Ok(())
    }

    /// The bundles that filled windows: drift is told from their references. Windows to which nothing was written since `since` name
    /// none.
    pub(super) fn add_windows(&mut self, since: SystemTime) -> Result<(), GcError> {
        for endpoint in self.store.window_endpoints()? {
            if self.store.is_window_unused(&endpoint, since)? {
                self.unused_windows.insert(endpoint);
            }
        }
        self.add_bundles_of_windows()
    }

    fn add_bundles_of_windows(&mut self) -> Result<(), GcError> {
        let unreadable = |error| GcError::unreadable("a window of an endpoint".to_owned(), error);
        for bundle in window_bundles(&self.store, &self.unused_windows).map_err(unreadable)? {
            self.add_bundle_if_any(bundle, "a window of an endpoint")?;
        }
        Ok(())
    }

    /// Removes the windows that are unused; gives how many.
    pub(super) fn remove_unused_windows(&mut self, since: SystemTime) -> Result<usize, GcError> {
        let unused = std::mem::take(&mut self.unused_windows);
        let mut removed = 0;
        for endpoint in &unused {
            removed += usize::from(self.store.remove_unused_window(endpoint, since)?);
        }
        if removed < unused.len() {
            // Something was written to the others meanwhile.
            self.add_bundles_of_windows()?;
        }
        Ok(removed)
    }

    /// The bundles that answered recorded predictions: those can be computed again.
    pub(super) fn add_predictions(&mut self) -> Result<(), GcError> {
        let unreadable = |error| GcError::unreadable("recorded predictions".to_owned(), error);
        for bundle in prediction_bundles(&self.store).map_err(unreadable)? {
            self.add_bundle_if_any(bundle, "a recorded prediction")?;
        }
        Ok(())
    }

    /// What runs and people name. Clients can write there what they want, so it may be nothing that is here.
    pub(super) fn add_tracked(&mut self, named: NamedDigests) -> Result<(), GcError> {
        self.blobs.extend(named.blobs);
        for (bundle, run_id) in named.bundles {
            self.add_bundle_if_any(bundle, &format!("run `{run_id}`"))?;
        }
        for dataset in named.datasets {
            self.blobs.insert(dataset);
            self.add_ancestry([dataset], "a run")?;
        }
        Ok(())
    }

    /// Adds a bundle; gives the dataset version that it was made from, if it was made here.
    fn add_bundle(&mut self, bundle: Digest) -> Result<Option<Digest>, RegistryError> {
        let manifest = read_bundle(&self.store, bundle)?;
        self.blobs.insert(bundle);
        self.blobs.extend(manifest.blobs().map(|blob| blob.digest));
        Ok(manifest.dataset.map(|dataset| dataset.version))
    }

    /// Adds a bundle that may not be there, or be none.
    fn add_bundle_if_any(&mut self, bundle: Digest, what: &str) -> Result<(), GcError> {
        self.blobs.insert(bundle);
        if !self.is_small(bundle, BUNDLE_MAX_BYTES)? {
            return Ok(());
        }
        match self.add_bundle(bundle) {
            Ok(dataset) => self.add_ancestry(dataset, what),
            Err(RegistryError::Manifest { .. }) => Ok(()),
            Err(error) => Err(GcError::unreadable(what.to_owned(), error)),
        }
    }

    /// Adds manifests of datasets, those that they were made from, and so on.
    fn add_ancestry(
        &mut self,
        manifests: impl IntoIterator<Item = Digest>,
        what: &str,
    ) -> Result<(), GcError> {
        let mut waiting: Vec<Digest> = manifests.into_iter().collect();
        while let Some(manifest) = waiting.pop() {
            if !self.ancestors.insert(manifest) {
                continue;
            }
            self.blobs.insert(manifest);
            // What a manifest says is its parent may be anything.
            if !self.is_small(manifest, DATASET_MAX_BYTES)? {
                continue;
            }
            match DatasetManifest::parents_of(&self.store, manifest) {
                Ok(parents) => waiting.extend(parents),
                Err(DataError::Manifest { .. } | DataError::Store(StoreError::Missing { .. })) => {}
                Err(error) => return Err(GcError::unreadable(what.to_owned(), error)),
            }
        }
        Ok(())
    }

    /// Whether a blob is there and not larger than what it is said to be.
    fn is_small(&self, digest: Digest, limit: u64) -> Result<bool, GcError> {
        match self.store.blob_len(digest) {
            Ok(size) => Ok(size <= limit),
            Err(StoreError::Missing { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
