use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::parts::TRANSFORMERS_MAX;
use crate::data::DataError;
use crate::domain::{Digest, Name, Signature, SignatureError};
use crate::model::{ModelError, OutputChoice};
use crate::plugin::{LoadError, PluginError};
use crate::store::{Store, StoreError};
use crate::track::TrackError;

/// Media type of a bundle's manifest.
pub const MEDIA_TYPE: &str = "application/vnd.mlops.bundle.v1+json";

/// Where a bundle folder has its manifest and its blobs.
pub(super) const MANIFEST_FILE: &str = "bundle.json";
pub(super) const BLOBS_FOLDER: &str = "blobs/sha256";

/// Largest manifest that is read; a real one has a few kilobytes.
const MANIFEST_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Everything that serving and an audit need, by digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleManifest {
    /// [`MEDIA_TYPE`]; says how to read the rest.
    pub media_type: String,
    /// The model file.
    pub model: ModelEntry,
    /// Transformers between a request and the model, in order.
    pub preprocess: Vec<TransformerEntry>,
    /// Transformers between the model and the answer, in order.
    pub postprocess: Vec<TransformerEntry>,
    /// What it takes, what the model sees, what it answers.
    pub signature: Signature,
    /// What it was trained on; none where the model was trained elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetRef>,
    /// Parameters of the trainer.
    pub parameters: BTreeMap<String, String>,
    /// Metrics on the test split.
    pub metrics: BTreeMap<String, f64>,
    /// Rows of the true class, columns of the predicted one; empty for regression.
    pub confusion: Vec<Vec<u64>>,
    /// A sample of the training features and scores, as safetensors, that windows are compared with; none where the model
    /// was trained elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<BlobRef>,
    /// Rows with the answers to them, as [`super::Sample`] writes them; none where the model was trained elsewhere, unless
    /// another library evaluates it: then rows that were made up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<BlobRef>,
}

/// A blob and its size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobRef {
    /// Digest of the bytes.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
}

/// The model file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// The library whose format it is, for example `xgboost`.
    pub framework: String,
    /// Version of that library.
    pub framework_version: String,
    /// The file's usual name, for example `model.ubj`.
    pub file_name: String,
    /// The bytes.
    pub blob: BlobRef,
    /// Which output has the scores, and what they are; none where the file itself tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputChoice>,
}

/// One transformer of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransformerEntry {
    /// Name in the plugin's manifest.
    pub name: String,
    /// Version in the plugin's manifest.
    pub version: String,
    /// The component.
    pub component: BlobRef,
    /// Config, a JSON object.
    pub config: serde_json::Value,
    /// What it learned; none if it learns nothing.
    pub state: Option<BlobRef>,
}

/// A dataset version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetRef {
    /// Its name when the bundle was made.
    pub name: Name,
    /// Digest of the version.
    pub version: Digest,
}

/// A bundle or model that cannot be read, written or found.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A dataset cannot be found.
    #[error("{0}")]
    Data(#[from] DataError),
    /// A file failed.
    #[error("failed to {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The manifest cannot be read.
    #[error("`{origin}` is not a bundle manifest: {reason}")]
    Manifest {
        /// Where it came from.
        origin: String,
        /// Why not.
        reason: String,
    },
    /// A blob is not what its digest says.
    #[error("blob {digest} of the bundle is damaged: its bytes have digest {found}")]
    Damaged {
        /// The digest it should have.
        digest: Digest,
        /// The digest it has.
        found: Digest,
    },
    /// A part is larger than any that works.
    #[error("the {part} of the bundle has {found} bytes: the limit is {limit}")]
    PartTooLarge {
        /// The part.
        part: String,
        /// Its size.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A request would take hours.
    #[error("the bundle has {found} transformers {place} the model: the limit is {TRANSFORMERS_MAX}")]
    TooManyTransformers {
        /// `before` or `after`.
        place: &'static str,
        /// How many there are.
        found: usize,
    },
    /// A blob is absurdly large.
    #[error("`{}` has {found} bytes: the limit is {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// There is no such model.
    #[error("there is no model `{name}`{}{}", known(models), folder_called(name, *is_folder))]
    UnknownModel {
        /// The name.
        name: Name,
        /// Some of the models there are.
        models: Vec<String>,
        /// Whether a bundle folder here is called so.
        is_folder: bool,
    },
    /// Nothing was added to the model yet.
    #[error("model `{name}` has no version yet")]
    NoVersions {
        /// The model.
        name: Name,
    },
    /// All of the model's versions are yanked, so that none is the newest.
    #[error(
        "every version of model `{name}` is yanked: name one, such as `{name}@{highest}`, or take the mark from one by \
         `host model tag {name}@{highest} {tag} --delete`",
        tag = super::YANKED_TAG
    )]
    AllYanked {
        /// The model.
        name: Name,
        /// The highest number there is.
        highest: i64,
    },
    /// No version of the model has the alias.
    #[error("model `{name}` has no alias `{alias}`{}", has(aliases))]
    UnknownAlias {
        /// The model.
        name: Name,
        /// The alias asked for.
        alias: String,
        /// The aliases there are.
        aliases: Vec<String>,
    },
    /// The version was made by a client of MLflow.
    #[error(
        "version {version} of model `{name}` has no bundle: only what `host train` or `host model import` made can be used \
         here"
    )]
    NoBundle {
        /// The model.
        name: Name,
        /// The version.
        version: i64,
    },
    /// The database failed, or what it was asked is wrong.
    #[error("{0}")]
    Track(#[from] TrackError),
    /// The model has no such version.
    #[error("model `{name}` has no version {version}: its highest is {highest}")]
    UnknownVersion {
        /// The model.
        name: Name,
        /// The version asked for.
        version: i64,
        /// The highest number there is, yanked or not.
        highest: i64,
    },
    /// The version is yanked, and what is asked would need it not to be.
    #[error(
        "version {version} of model `{name}` is yanked (`{tag}` is `{}`): if it should answer again, take the mark away first \
         by `host model tag {name}@{version} {tag} --delete`",
        why.chars().take(200).collect::<String>(),
        tag = super::YANKED_TAG
    )]
    Yanked {
        /// The model.
        name: Name,
        /// The version.
        version: i64,
        /// The value of its tag.
        why: String,
    },
    /// Text that names no model.
    #[error(
        "`{text}` names no model: expected a name, `name@version`, `name@alias`, `models:/name/version`, `models:/name@alias`, a \
         `sha256:` digest or a bundle folder"
    )]
    Reference {
        /// The text.
        text: String,
    },
    /// There is no bundle where one is said to be.
    #[error("there is no bundle in `{}`: expected a folder with `{MANIFEST_FILE}`", folder.display())]
    NoFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// Nothing of which the lineage could be told.
    #[error(
        "nothing is called `{text}`: expected a dataset or its version, a model's version, a run's id, or the digest of a \
         bundle or component"
    )]
    UnknownSubject {
        /// The text.
        text: String,
    },
    /// A name that a dataset and a model have.
    #[error("`{text}` is a dataset and a model: say `data:{text}` or `model:{text}`")]
    AmbiguousSubject {
        /// The text.
        text: String,
    },
    /// Digits that begin several ids.
    #[error("`{text}` begins the ids of several runs: give more digits")]
    AmbiguousRun {
        /// The digits.
        text: String,
    },
    /// No batch could have the columns of its signature.
    #[error("the bundle's signature cannot be used: {0}")]
    Signature(#[from] SignatureError),
    /// The model file cannot be used.
    #[error("the bundle's model file cannot be loaded")]
    Model(#[from] ModelError),
    /// The model is not the one that the signature is of.
    #[error(
        "the bundle's model has {found} {what} a row: expected {expected}, as the bundle's signature says"
    )]
    ModelCount {
        /// Features or scores.
        what: &'static str,
        /// How many the signature has.
        expected: usize,
        /// How many the model has.
        found: usize,
    },
    /// A component cannot be used.
    #[error("plugin `{name}` of the bundle cannot be loaded: {source}")]
    Plugin {
        /// Its name in the bundle.
        name: String,
        /// Why not.
        source: LoadError,
    },
    /// A component refused its config or state.
    #[error("{0}")]
    Open(#[from] PluginError),
}

fn has(aliases: &[String]) -> String {
    match aliases {
        [] => ": it has none".to_owned(),
        aliases => {
            let names: Vec<_> = aliases.iter().take(10).map(|alias| format!("`{alias}`")).collect();
            format!(": it has {}", names.join(", "))
        }
    }
}

/// What is said where somebody may have meant a folder.
fn folder_called(name: &Name, is_there: bool) -> String {
    if is_there { format!("; the bundle folder that is called so is `./{name}`") } else { String::new() }
}

fn known(models: &[String]) -> String {
    match models {
        [] => ": none has been trained yet, see `host train --help`".to_owned(),
        names => {
            let names: Vec<_> = names.iter().take(10).map(|name| format!("`{name}`")).collect();
            format!(": there are {}", names.join(", "))
        }
    }
}

impl ModelEntry {
    /// The library and the format of the file, such as `xgboost_ubj`, as the Open Inference Protocol names platforms.
    pub fn platform(&self) -> String {
        match self.file_name.rsplit_once('.') {
            Some((_, format)) => format!("{}_{format}", self.framework),
            None => self.framework.clone(),
        }
    }
}

impl BundleManifest {
    /// The bytes whose digest names the bundle.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RegistryError> {
        serde_json::to_vec_pretty(self).map_err(|error| RegistryError::Manifest {
            origin: "manifest".to_owned(),
            reason: error.to_string(),
        })
    }

    /// Reads a manifest; `origin` says in errors where it came from.
    ///
    /// Whether batches can have its columns is told by [`Signature::check`], and not here: also a bundle that cannot be used is
    /// counted, copied and shown.
    pub fn from_bytes(bytes: &[u8], origin: &str) -> Result<Self, RegistryError> {
        let wrong = |reason: String| RegistryError::Manifest { origin: origin.to_owned(), reason };
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        if manifest.media_type != MEDIA_TYPE {
            return Err(wrong(format!(
                "its media type is `{}`, expected `{MEDIA_TYPE}`",
                manifest.media_type
            )));
        }
        Ok(manifest)
    }

    /// Every blob that the bundle consists of, its manifest aside.
    pub fn blobs(&self) -> impl Iterator<Item = &BlobRef> {
        self.parts().map(|(_, blob)| blob)
    }
}

/// Writes the manifest of a bundle whose blobs are in the store; gives the bundle's digest.
pub fn write_bundle(store: &Store, manifest: &BundleManifest) -> Result<Digest, RegistryError> {
    Ok(store.put_bytes(&manifest.to_bytes()?)?)
}

/// Reads the manifest of the bundle `digest`.
pub fn read_bundle(store: &Store, digest: Digest) -> Result<BundleManifest, RegistryError> {
    BundleManifest::from_bytes(&store.get(digest)?, &digest.to_string())
}

/// Checks that the bundle `digest` can be used, and that every blob of it is there and what its digest says.
pub(super) fn check_bundle(store: &Store, digest: Digest) -> Result<(), RegistryError> {
    let manifest = read_bundle(store, digest)?;
    manifest.check()?;
    manifest.blobs().try_for_each(|blob| Ok(store.check_blob(blob.digest)?))
}

/// Copies a bundle into a folder that can be carried elsewhere: `bundle.json` and `blobs/sha256/…`.
///
/// The folder appears whole or not at all.
pub fn export_bundle(store: &Store, digest: Digest, folder: &Path) -> Result<(), RegistryError> {
    let io = |action: &'static str, path: &Path| {
        let path = path.to_path_buf();
        move |source| RegistryError::Io { action, path, source }
    };
    if folder.exists() {
        let exists = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
        return Err(io("create", folder)(exists));
    }
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let staging =
        tempfile::Builder::new().prefix(".bundle-").tempdir_in(parent).map_err(io("create", folder))?;
    let manifest_bytes = store.get(digest)?;
    let manifest = BundleManifest::from_bytes(&manifest_bytes, &digest.to_string())?;
    let blobs = staging.path().join(BLOBS_FOLDER);
    std::fs::create_dir_all(&blobs).map_err(io("create", &blobs))?;
    for blob in manifest.blobs() {
        write_synced(&blobs.join(blob.digest.hex()), &store.get(blob.digest)?)?;
    }
    write_synced(&staging.path().join(MANIFEST_FILE), &manifest_bytes)?;
    std::fs::rename(staging.path(), folder).map_err(io("create", folder))?;
    // The folder has moved away from where the guard would remove it.
    drop(staging.keep());
    Ok(())
}

/// Takes a bundle folder into the store, checking every digest; gives the bundle's digest.
pub(super) fn import_bundle(store: &Store, folder: &Path) -> Result<Digest, RegistryError> {
    use std::io::ErrorKind;
    let manifest_path = folder.join(MANIFEST_FILE);
    let manifest_bytes = read_limited(&manifest_path, MANIFEST_MAX_BYTES).map_err(|error| match error {
        RegistryError::Io { source, .. }
            if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
        {
            RegistryError::NoFolder { folder: folder.to_path_buf() }
        }
        error => error,
    })?;
    let manifest = BundleManifest::from_bytes(&manifest_bytes, &manifest_path.display().to_string())?;
    manifest.check()?;
    for blob in manifest.blobs() {
        let bytes = read_limited(&folder.join(BLOBS_FOLDER).join(blob.digest.hex()), blob.size)?;
        let found = Digest::of(&bytes);
        if found != blob.digest {
            return Err(RegistryError::Damaged { digest: blob.digest, found });
        }
        store.put_bytes(&bytes)?;
    }
    Ok(store.put_bytes(&manifest_bytes)?)
}

fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, RegistryError> {
    let io = |source| RegistryError::Io { action: "read", path: path.to_path_buf(), source };
    // A bundle comes from elsewhere: what is no plain file could have no end, or be another's.
    let metadata = std::fs::symlink_metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(io(std::io::Error::other("expected a plain file, found a link, folder or device")));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(io)?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, limit.saturating_add(1)), &mut bytes)
        .map_err(io)?;
    let found = bytes.len() as u64;
    if found > limit {
        return Err(RegistryError::TooLarge { path: path.to_path_buf(), found, limit });
    }
    Ok(bytes)
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), RegistryError> {
    use std::io::Write as _;
    let io = |source| RegistryError::Io { action: "write", path: path.to_path_buf(), source };
    let mut file = std::fs::File::create_new(path).map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    file.sync_all().map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OutputChoice;
    use crate::plugin::{PluginRuntime, RuntimeConfig};
    use crate::registry::{ExternalModel, Predictor, bundle_external};

    const MODEL: &[u8] = include_bytes!("../model/fixtures/forest.ubj");

    fn external() -> ExternalModel {
        ExternalModel {
            file: MODEL.to_vec(),
            output: OutputChoice::default(),
            signature: None,
            preprocess: Vec::new(),
            postprocess: Vec::new(),
        }
    }

    #[test]
    fn a_bundle_with_columns_that_no_batch_could_have_is_read_and_copied_but_not_used() {
        let base = tempfile::tempdir().unwrap();
        let store = Store::open(&base.path().join("state")).unwrap();
        let honest = bundle_external(&store, &external()).unwrap();
        check_bundle(&store, honest).unwrap();
        let mut manifest = read_bundle(&store, honest).unwrap();
        manifest.signature.outputs.iter_mut().for_each(|spec| spec.shape = vec![1; 50_000]);
        // As an earlier version of the program has written it.
        let deep = write_bundle(&store, &manifest).unwrap();
        assert_eq!(read_bundle(&store, deep).unwrap(), manifest);
        let folder = base.path().join("bundle");
        export_bundle(&store, deep, &folder).unwrap();

        let told = "the bundle's signature cannot be used: column `scores`: expected at most 64 dimensions, found 50001";
        assert_eq!(check_bundle(&store, deep).unwrap_err().to_string(), told);
        let runtime = PluginRuntime::new(RuntimeConfig::default()).unwrap();
        let refused = Predictor::load(&store, &runtime, &manifest).err();
        assert_eq!(refused.map(|error| error.to_string()).as_deref(), Some(told));
        let other = Store::open(&base.path().join("other")).unwrap();
        assert_eq!(import_bundle(&other, &folder).unwrap_err().to_string(), told);
        assert!(other.get(Digest::of(MODEL)).is_err(), "nothing of it is kept");
    }
}
