use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::{ModelEntry, RegistryError};
use crate::domain::Digest;
use crate::model::{self, Device, Model};
use crate::store::Store;

/// Loads models where a device says, and those that are loaded already only once: endpoints that answer by the same share it.
#[derive(Debug, Default)]
pub struct ModelLoader {
    device: Device,
    /// By the digest of the file.
    loaded: Mutex<HashMap<Digest, Arc<SharedModel>>>,
}

/// A model that goes when nobody uses it any more; locked while it is being loaded.
type SharedModel = Mutex<Option<Weak<dyn Model>>>;

impl ModelLoader {
    /// Loads to `device`.
    pub fn new(device: Device) -> Self {
        Self { device, loaded: Mutex::default() }
    }

    /// The model of a bundle. Who wants it while others load it waits for them.
    pub(super) fn load(&self, store: &Store, entry: &ModelEntry) -> Result<Arc<dyn Model>, RegistryError> {
        let digest = entry.blob.digest;
        let choice = entry.output.clone().unwrap_or_default();
        let load = |file: &[u8]| -> Result<Arc<dyn Model>, RegistryError> {
            Ok(Arc::from(model::load_on(file, &choice, self.device)?))
        };
        // Where somebody has chosen an output, another bundle may have chosen another.
        if entry.output.is_some() {
            return load(&store.get(digest)?);
        }
        let shared = self.shared(digest);
        let known = || lock(&shared).as_ref().and_then(Weak::upgrade);
        if let Some(known) = known() {
            return Ok(known);
        }
        // Read before it is locked: a store may not answer.
        let file = store.get(digest)?;
        let mut shared = lock(&shared);
        if let Some(known) = shared.as_ref().and_then(Weak::upgrade) {
            return Ok(known);
        }
        let model = load(&file)?;
        *shared = Some(Arc::downgrade(&model));
        Ok(model)
    }

    /// The place of the model of a file.
    fn shared(&self, digest: Digest) -> Arc<SharedModel> {
        let mut loaded = lock(&self.loaded);
        // One that nobody holds is not being loaded.
        let is_used = |shared: &Arc<SharedModel>| {
            Arc::strong_count(shared) > 1
                || lock(shared).as_ref().is_some_and(|model| model.strong_count() > 0)
        };
        loaded.retain(|known, shared| *known == digest || is_used(shared));
        Arc::clone(loaded.entry(digest).or_default())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::BlobRef;

    fn entry(store: &Store, file: &[u8]) -> ModelEntry {
        ModelEntry {
            framework: "xgboost".to_owned(),
            framework_version: String::new(),
            file_name: "model.ubj".to_owned(),
            blob: BlobRef { digest: store.put_bytes(file).unwrap(), size: file.len() as u64 },
            output: None,
        }
    }

    #[test]
    fn a_model_that_is_used_is_loaded_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let entry = |file: &[u8]| entry(&store, file);
        let first = entry(include_bytes!("../model/fixtures/dart.ubj"));
        let second = entry(include_bytes!("../model/fixtures/forest.ubj"));
        let loader = ModelLoader::default();
        let load = |entry: &ModelEntry| loader.load(&store, entry).unwrap();
        let (one, again, other) = (load(&first), load(&first), load(&second));
        assert!(Arc::ptr_eq(&one, &again) && !Arc::ptr_eq(&one, &other));
        assert!(!Arc::ptr_eq(&one, &ModelLoader::default().load(&store, &first).unwrap()));
        drop((one, again));
        let model = lock(&loader.loaded)[&first.blob.digest].clone();
        assert!(lock(&model).as_ref().unwrap().upgrade().is_none(), "nobody uses it");
        drop(model);
        let one = load(&first);
        drop(other);
        load(&entry(include_bytes!("../model/fixtures/labels.ubj")));
        assert_eq!(lock(&loader.loaded).len(), 2, "what is gone is forgotten");
        drop(one);
    }

    #[test]
    fn those_who_want_a_model_at_once_share_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let entry = entry(&store, include_bytes!("../model/fixtures/dart.ubj"));
        let (loader, start) = (ModelLoader::default(), std::sync::Barrier::new(8));
        let models: Vec<_> = std::thread::scope(|scope| {
            let load = || {
                start.wait();
                loader.load(&store, &entry).unwrap()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(load)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(models.iter().all(|model| Arc::ptr_eq(model, &models[0])));
    }

    #[test]
    fn a_model_that_cannot_be_loaded_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (loader, broken) = (ModelLoader::default(), entry(&store, b"no model"));
        assert!(loader.load(&store, &broken).is_err() && loader.load(&store, &broken).is_err());
        loader.load(&store, &entry(&store, include_bytes!("../model/fixtures/dart.ubj"))).unwrap();
        assert_eq!(lock(&loader.loaded).len(), 1, "what was never loaded is forgotten");
    }
}
