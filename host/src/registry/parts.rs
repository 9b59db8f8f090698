//! What a bundle is made of, and how large each part and how many transformers may be: it comes from elsewhere, and nothing of it is
//! read that is of no use.

use std::fmt;

use super::sample;
use super::{BlobRef, BundleManifest, RegistryError};
use crate::plugin::{COMPONENT_MAX_BYTES, STATE_MAX_BYTES};
use crate::store::Store;

/// Largest model file or reference of a bundle.
const BLOB_MAX_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// Transformers before the model, and as many after it; a bundle has a few.
pub(super) const TRANSFORMERS_MAX: usize = 32;

impl BundleManifest {
    /// Checks that the bundle could be used as far as its manifest tells: its columns, how many transformers it has, and how large its
    /// parts are.
    pub(super) fn check(&self) -> Result<(), RegistryError> {
        self.signature.check()?;
        check_transformer_counts(self.preprocess.len(), self.postprocess.len())?;
        self.parts().try_for_each(|(part, blob)| part.check_size(blob.size))
    }

    /// The same with what each is.
    pub(super) fn parts(&self) -> impl Iterator<Item = (Part<'_>, &BlobRef)> {
        let transformers = self.preprocess.iter().chain(&self.postprocess);
        let of_transformers = transformers.flat_map(|entry| {
            let state = entry.state.as_ref().map(|state| (Part::State(&entry.name), state));
            [Some((Part::Component(&entry.name), &entry.component)), state]
        });
        let reference = self.reference.as_ref().map(|reference| (Part::Reference, reference));
        let sample = self.sample.as_ref().map(|sample| (Part::Sample, sample));
        [Some((Part::Model, &self.model.blob)), reference, sample]
            .into_iter()
            .chain(of_transformers)
            .flatten()
    }
}

/// What a blob of a bundle is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// The model file.
    Model,
    /// What windows are compared with.
    Reference,
    /// Rows with the answers to them.
    Sample,
    /// The component of a transformer of that name.
    Component(&'a str),
    /// What it learned.
    State(&'a str),
}

impl Part<'_> {
    /// Refuses one that is so large that it is of no use. Nothing of it is to be read before.
    fn check_size(self, found: u64) -> Result<(), RegistryError> {
        let limit = match self {
            Self::Model | Self::Reference => BLOB_MAX_BYTES,
            Self::Sample => sample::MAX_BYTES as u64,
            Self::Component(_) => COMPONENT_MAX_BYTES as u64,
            Self::State(_) => STATE_MAX_BYTES as u64,
        };
        if found <= limit {
            return Ok(());
        }
        Err(RegistryError::PartTooLarge { part: self.to_string(), found, limit })
    }
}

impl fmt::Display for Part<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model => write!(formatter, "model file"),
            Self::Reference => write!(formatter, "drift reference"),
            Self::Sample => write!(formatter, "recorded sample"),
            Self::Component(name) => write!(formatter, "component of `{name}`"),
            Self::State(name) => write!(formatter, "state of `{name}`"),
        }
    }
}

/// Refuses so many transformers before and after a model that what they take together is bounded by nothing.
pub(crate) fn check_transformer_counts(before: usize, after: usize) -> Result<(), RegistryError> {
    for (place, found) in [("before", before), ("after", after)] {
        if found > TRANSFORMERS_MAX {
            return Err(RegistryError::TooManyTransformers { place, found });
        }
    }
    Ok(())
}

/// Reads a part of a bundle from the store. Its size is looked at where it is kept, whatever a manifest says.
pub(super) fn read_part(store: &Store, part: Part<'_>, blob: &BlobRef) -> Result<Vec<u8>, RegistryError> {
    part.check_size(store.read_len(blob.digest)?)?;
    Ok(store.get(blob.digest)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Digest;
    use crate::model::OutputChoice;
    use crate::plugin::{PluginRuntime, RuntimeConfig};
    use crate::registry::bundle::{MANIFEST_FILE, import_bundle};
    use crate::registry::{
        ExternalModel, Predictor, TransformerEntry, bundle_external, export_bundle, read_bundle,
    };

    const MODEL: &[u8] = include_bytes!("../model/fixtures/forest.ubj");

    /// Why a folder of what `change` makes of it is not taken in.
    fn refused(change: impl FnOnce(&mut BundleManifest)) -> String {
        let base = tempfile::tempdir().unwrap();
        let store = Store::open(&base.path().join("state")).unwrap();
        let external = ExternalModel {
            file: MODEL.to_vec(),
            output: OutputChoice::default(),
            signature: None,
            preprocess: Vec::new(),
            postprocess: Vec::new(),
        };
        let digest = bundle_external(&store, &external).unwrap();
        let folder = base.path().join("bundle");
        export_bundle(&store, digest, &folder).unwrap();
        let mut manifest = read_bundle(&store, digest).unwrap();
        change(&mut manifest);
        std::fs::write(folder.join(MANIFEST_FILE), manifest.to_bytes().unwrap()).unwrap();
        let other = Store::open(&base.path().join("other")).unwrap();
        let error = import_bundle(&other, &folder).unwrap_err().to_string();
        assert!(other.get(Digest::of(MODEL)).is_err(), "nothing of it is kept");
        let runtime = PluginRuntime::new(RuntimeConfig::default()).unwrap();
        let of_store = Predictor::load(&store, &runtime, &manifest).err().map(|error| error.to_string());
        assert_eq!(of_store.as_ref(), Some(&error), "nor is it loaded where it is there");
        error
    }

    fn transformer() -> TransformerEntry {
        TransformerEntry {
            name: "scale".to_owned(),
            version: "1.0.0".to_owned(),
            component: BlobRef { digest: Digest::of(b"component"), size: 9 },
            config: serde_json::json!({}),
            state: None,
        }
    }

    #[test]
    fn parts_that_are_too_large_are_not_read() {
        let blob = |size| BlobRef { digest: Digest::of(b"large"), size };
        let told = "the component of `scale` of the bundle has 67108865 bytes: the limit is 67108864";
        let component = TransformerEntry { component: blob((64 << 20) + 1), ..transformer() };
        assert_eq!(refused(|manifest| manifest.preprocess.push(component)), told);
        let told = "the state of `scale` of the bundle has 2684354560 bytes: the limit is 16777216";
        let state = TransformerEntry { state: Some(blob(2560 << 20)), ..transformer() };
        assert_eq!(refused(|manifest| manifest.postprocess.push(state)), told);
        let told = "the recorded sample of the bundle has 4194305 bytes: the limit is 4194304";
        assert_eq!(refused(|manifest| manifest.sample = Some(blob((4 << 20) + 1))), told);
    }

    #[test]
    fn parts_of_which_a_manifest_tells_too_little_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let blob = BlobRef { digest: store.put_bytes(&vec![0; (16 << 20) + 1]).unwrap(), size: 1 };
        assert_eq!(read_part(&store, Part::Component("scale"), &blob).unwrap().len(), (16 << 20) + 1);
        let error = read_part(&store, Part::State("scale"), &blob).unwrap_err().to_string();
        assert_eq!(error, "the state of `scale` of the bundle has 16777217 bytes: the limit is 16777216");
    }

    #[test]
    fn more_transformers_than_anybody_needs_are_refused() {
        let told = "the bundle has 33 transformers before the model: the limit is 32";
        assert_eq!(refused(|manifest| manifest.preprocess = vec![transformer(); 33]), told);
        let told = "the bundle has 33 transformers after the model: the limit is 32";
        assert_eq!(refused(|manifest| manifest.postprocess = vec![transformer(); 33]), told);
        check_transformer_counts(TRANSFORMERS_MAX, TRANSFORMERS_MAX).unwrap();
    }
}
