//! What bundle folders hold, from one look to the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::super::deployer::{DeployError, Deployer, LocatedBundle};
use super::look::waits_after;
use crate::registry::{FolderState, ModelReference};
use crate::task::spawn_blocking;

/// What folders hold, and in which state; for all endpoints, as several may be of one folder.
#[derive(Default)]
pub(super) struct Folders(Mutex<Known>);

#[derive(Default)]
struct Known {
    folders: HashMap<ModelReference, Folder>,
    /// When what has failed was to be tried again last.
    forgotten: Option<Instant>,
}

struct Folder {
    state: FolderState,
    located: Result<LocatedBundle, Refused>,
}

/// A folder that could not be taken in. It is read again when something in it has changed, and after a while: the store may have
/// failed.
struct Refused {
    error: Arc<DeployError>,
    waits: Duration,
    until: Instant,
}

/// Whether a folder is to be read.
enum Found {
    Known(Result<LocatedBundle, DeployError>),
    /// It is, and if that fails, again after so long.
    Unknown(Duration),
}

impl Folders {
    /// The bundle that `model` means now. A folder is read again only when it has changed, or when it could not be taken in and that
    /// is to be tried again.
    pub(super) async fn locate(
        &self,
        deployer: &Deployer,
        places: &Semaphore,
        model: &ModelReference,
    ) -> Result<LocatedBundle, DeployError> {
        let ModelReference::Folder(_) = model else { return deployer.locate(model).await };
        // Each thread that reads folders keeps memory for that, so that few of them should.
        let _place = places.acquire().await;
        // A folder may be on a server that does not answer.
        let folder = model.clone();
        let state = spawn_blocking(move || folder.folder_state()).await?;
        let Some(state) = state else { return deployer.locate(model).await };
        let begun = Instant::now();
        let waits = match self.find(model, &state, begun) {
            Found::Known(located) => return located,
            Found::Unknown(waits) => waits,
        };
        let located = deployer.locate(model).await.map_err(Arc::new);
        let until = Instant::now() + waits;
        let refused = |error: &Arc<DeployError>| Refused { error: Arc::clone(error), waits, until };
        self.insert(model, Folder { state, located: located.as_ref().map_err(refused).cloned() }, begun);
        located.map_err(DeployError::Folder)
    }

    fn find(&self, folder: &ModelReference, state: &FolderState, now: Instant) -> Found {
        match self.known().folders.get(folder) {
            Some(Folder { state: known, located: Ok(located) }) if known.is_of_same_bundle(state) => {
                Found::Known(Ok(located.clone()))
            }
            Some(Folder { state: known, located: Err(refused) }) if known == state => {
                if now < refused.until {
                    return Found::Known(Err(DeployError::Folder(Arc::clone(&refused.error))));
                }
                Found::Unknown(waits_after(Some(refused.waits)))
            }
            _ => Found::Unknown(waits_after(None)),
        }
    }

    fn insert(&self, model: &ModelReference, folder: Folder, begun: Instant) {
        let mut known = self.known();
        // Who asks for another try does not mean one that was under way.
        if folder.located.is_err() && known.forgotten.is_some_and(|forgotten| begun <= forgotten) {
            known.folders.remove(model);
            return;
        }
        known.folders.insert(model.clone(), folder);
    }

    /// Has those read again that could not be taken in.
    pub(super) fn forget_failures(&self, is_meant: impl Fn(&ModelReference) -> bool) {
        let mut known = self.known();
        known.forgotten = Some(Instant::now());
        known.folders.retain(|folder, found| found.located.is_ok() || !is_meant(folder));
    }

    /// Has a folder read again.
    pub(super) fn forget(&self, folder: &ModelReference) {
        self.known().folders.remove(folder);
    }

    /// Forgets those that nobody wants any more.
    pub(super) fn retain(&self, is_wanted: impl Fn(&ModelReference) -> bool) {
        self.known().folders.retain(|folder, _| is_wanted(folder));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::time::SystemTime;

    use tempfile::TempDir;

    use super::super::{EndpointSpec, Endpoints, Reconciler};
    use super::*;
    use crate::domain::Digest;
    use crate::model::OutputChoice;
    use crate::plugin::{PluginRuntime, RuntimeConfig};
    use crate::registry::{ExternalModel, ModelLoader, bundle_external, export_bundle};
    use crate::store::Store;

    const MODEL: &[u8] = include_bytes!("../../model/fixtures/forest.ubj");

    /// The last blob of the bundle.
    const REFERENCE: &[u8] = b"rows";

    fn deployer(base: &Path) -> Deployer {
        Deployer {
            store: Store::open(base).unwrap(),
            runtime: PluginRuntime::new(RuntimeConfig::default()).unwrap(),
            models: Arc::new(ModelLoader::default()),
            registry: None,
            window_rows: 0,
            window_memory: Arc::default(),
            rows_max: 10,
        }
    }

    /// A bundle folder with a model and a reference.
    fn bundle_folder(base: &TempDir) -> PathBuf {
        let store = Store::open(&base.path().join("other")).unwrap();
        let external = ExternalModel {
            file: MODEL.to_vec(),
            output: OutputChoice::default(),
            signature: None,
            preprocess: Vec::new(),
            postprocess: Vec::new(),
        };
        let folder = base.path().join("bundle");
        export_bundle(&store, bundle_external(&store, &external).unwrap(), &folder).unwrap();
        let mut manifest: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("bundle.json")).unwrap()).unwrap();
        let digest = Digest::of(REFERENCE);
        manifest["reference"] = serde_json::json!({ "digest": digest, "size": REFERENCE.len() });
        std::fs::write(folder.join("bundle.json"), manifest.to_string()).unwrap();
        write_reference(&folder, REFERENCE);
        folder
    }

    fn write_reference(folder: &Path, bytes: &[u8]) {
        std::fs::write(folder.join("blobs/sha256").join(Digest::of(REFERENCE).hex()), bytes).unwrap();
    }

    /// Whether the folder has been read since it was last asked.
    fn was_read(store: &Store) -> bool {
        store.remove_unused_blob(Digest::of(MODEL), SystemTime::now()).unwrap()
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_taken_in_is_read_again_after_a_while_or_a_change() {
        let base = tempfile::tempdir().unwrap();
        let folder = bundle_folder(&base);
        let deployer = deployer(&base.path().join("state"));
        let (folders, places) = (Folders::default(), Semaphore::new(1));
        let model = ModelReference::Folder(folder.clone());
        let locate = || folders.locate(&deployer, &places, &model);
        write_reference(&folder, b"r0ws");
        let first = locate().await.unwrap_err().to_string();
        assert!(first.contains("is damaged") && was_read(&deployer.store), "{first}");
        for _ in 0..3 {
            assert_eq!(locate().await.unwrap_err().to_string(), first);
        }
        assert!(!was_read(&deployer.store), "nothing has changed");
        let waits = |folders: &Folders| match &folders.known().folders.get(&model).unwrap().located {
            Err(refused) => refused.waits,
            Ok(_) => Duration::ZERO,
        };
        assert_eq!(waits(&folders), waits_after(None));
        for folder in folders.known().folders.values_mut() {
            folder.located.as_mut().unwrap_err().until = Instant::now();
        }
        assert!(locate().await.is_err() && was_read(&deployer.store), "it may be the store that has failed");
        assert_eq!(waits(&folders), 2 * waits_after(None));
        folders.forget_failures(|_| true);
        assert!(locate().await.is_err() && was_read(&deployer.store), "somebody has asked for it");
        assert_eq!(waits(&folders), waits_after(None));
        write_reference(&folder, REFERENCE);
        assert!(locate().await.is_ok() && was_read(&deployer.store), "it is mended");
        // What is taken in needs its folder no more.
        write_reference(&folder, b"r0ws");
        assert!(locate().await.is_ok() && !was_read(&deployer.store), "it is the same bundle");
    }
    #[tokio::test]
    async fn a_folder_is_taken_in_again_when_what_it_holds_was_freed() {
        let base = tempfile::tempdir().unwrap();
        let model = ModelReference::Folder(bundle_folder(&base));
        let deployer = deployer(&base.path().join("state"));
        let store = deployer.store.clone();
        let endpoints = Arc::new(Endpoints::default());
        let mut reconciler = Reconciler::new(deployer, Arc::clone(&endpoints));
        let specs = ["one", "two"].map(|name| EndpointSpec::of_model(name.parse().unwrap(), model.clone()));
        for count in [1, 2] {
            reconciler.want(specs[..count].to_vec());
            let changes = reconciler.start().await;
            assert!(changes.len() == 1 && changes[0].outcome.is_ok(), "{changes:?}");
            let mut blobs = Vec::new();
            store
                .list_blobs(&mut |blob| {
                    blobs.push(blob.digest);
                    Ok(())
                })
                .unwrap();
            assert_eq!(blobs.len(), 3);
            blobs
                .iter()
                .for_each(|blob| assert!(store.remove_unused_blob(*blob, SystemTime::now()).unwrap()));
        }
        assert_eq!(endpoints.all().len(), 2);
    }
}
