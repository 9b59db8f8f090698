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
    /// By the digest of the file. A model goes when nobody uses it any more.
    loaded: Mutex<HashMap<Digest, Weak<dyn Model>>>,
}

impl ModelLoader {
    /// Loads to `device`.
    pub fn new(device: Device) -> Self {
        Self { device, loaded: Mutex::default() }
    }

    /// The model of a bundle.
    pub(super) fn load(&self, store: &Store, entry: &ModelEntry) -> Result<Arc<dyn Model>, RegistryError> {
        let digest = entry.blob.digest;
        // Where somebody has chosen an output, another bundle may have chosen another.
        let is_shared = entry.output.is_none();
        let known = self.loaded().get(&digest).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|_| is_shared) {
            return Ok(known);
        }
        let choice = entry.output.clone().unwrap_or_default();
        let model: Arc<dyn Model> = Arc::from(model::load_on(&store.get(digest)?, &choice, self.device)?);
        if is_shared {
            let mut loaded = self.loaded();
            loaded.retain(|_, model| model.strong_count() > 0);
            loaded.insert(digest, Arc::downgrade(&model));
        }
        Ok(model)
    }

    fn loaded(&self) -> MutexGuard<'_, HashMap<Digest, Weak<dyn Model>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::BlobRef;

    #[test]
    fn a_model_that_is_used_is_loaded_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let entry = |file: &[u8]| ModelEntry {
            framework: "xgboost".to_owned(),
            framework_version: String::new(),
            file_name: "model.ubj".to_owned(),
            blob: BlobRef { digest: store.put_bytes(file).unwrap(), size: file.len() as u64 },
            output: None,
        };
        let first = entry(include_bytes!("../model/fixtures/dart.ubj"));
        let second = entry(include_bytes!("../model/fixtures/forest.ubj"));
        let loader = ModelLoader::default();
        let load = |entry: &ModelEntry| loader.load(&store, entry).unwrap();
        let (one, again, other) = (load(&first), load(&first), load(&second));
        assert!(Arc::ptr_eq(&one, &again) && !Arc::ptr_eq(&one, &other));
        assert!(!Arc::ptr_eq(&one, &ModelLoader::default().load(&store, &first).unwrap()));
        drop((one, again));
        assert!(loader.loaded()[&first.blob.digest].upgrade().is_none(), "nobody uses it");
        let one = load(&first);
        drop(other);
        load(&entry(include_bytes!("../model/fixtures/labels.ubj")));
        assert_eq!(loader.loaded().len(), 2, "what is gone is forgotten");
        drop(one);
    }
}
