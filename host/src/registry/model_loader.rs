use std::sync::Arc;

use super::{ModelEntry, RegistryError};
use crate::domain::SharedByDigest;
use crate::model::{self, Device, Model};
use crate::store::Store;

/// Loads models where a device says, and those that are loaded already only once: endpoints that answer by the same share it.
#[derive(Debug, Default)]
pub struct ModelLoader {
    device: Device,
    loaded: SharedByDigest<dyn Model>,
}

impl ModelLoader {
    /// Loads to `device`.
    pub fn new(device: Device) -> Self {
        Self { device, loaded: SharedByDigest::default() }
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
        if let Some(known) = self.loaded.get(digest) {
            return Ok(known);
        }
        // Read before others have to wait for it: a store may not answer.
        let file = store.get(digest)?;
        self.loaded.get_or_make(digest, || load(&file))
    }
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
        assert!(loader.loaded.get(first.blob.digest).is_none(), "nobody uses it");
    }
}
