use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::bundle::import_bundle;
use super::{BundleManifest, RegistryError, read_bundle};
use crate::domain::{Digest, Name};
use crate::store::{RecordKind, Store};

/// A model: a name with numbered versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecord {
    /// Oldest first, numbered from 1 without gaps.
    pub versions: Vec<ModelVersion>,
}

/// A version of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelVersion {
    /// Its number.
    pub number: u32,
    /// Its content.
    pub bundle: Digest,
    /// When it was registered, in seconds since 1970.
    pub registered_at: u64,
}

/// What a user may write for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelReference {
    /// The newest version of a name, or the version after `@`.
    Name(Name, Option<u32>),
    /// A bundle in the store.
    Bundle(Digest),
    /// A bundle folder.
    Folder(PathBuf),
}

/// A bundle that was found, and under which name.
#[derive(Debug, Clone)]
pub struct ResolvedModel {
    /// The model's name; for a folder or digest there is none.
    pub name: Option<Name>,
    /// The version's number, where there is a name.
    pub version: Option<u32>,
    /// Digest of the bundle.
    pub digest: Digest,
    /// The bundle's manifest.
    pub manifest: BundleManifest,
}

impl FromStr for ModelReference {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        let wrong = || RegistryError::Reference { text: text.chars().take(200).collect() };
        if text.starts_with("sha256:") {
            return text.parse().map(Self::Bundle).map_err(|_| wrong());
        }
        if Path::new(text).join("bundle.json").is_file() {
            return Ok(Self::Folder(PathBuf::from(text)));
        }
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        Ok(Self::Name(name.parse().map_err(|_| wrong())?, version))
    }
}

/// Adds a version that holds `bundle` to the model `name`; `now` is in seconds since 1970.
///
/// The same bundle again is the version it already is, so repeating changes nothing.
pub fn register(store: &Store, name: &Name, bundle: Digest, now: u64) -> Result<ModelVersion, RegistryError> {
    let mut registered = None;
    store.update_record(RecordKind::Model, name, |record: Option<ModelRecord>| {
        let mut record = record.unwrap_or(ModelRecord { versions: Vec::new() });
        let version = match record.versions.iter().find(|version| version.bundle == bundle) {
            Some(version) => version.clone(),
            None => {
                let number = record.versions.last().map_or(1, |last| last.number + 1);
                let version = ModelVersion { number, bundle, registered_at: now };
                record.versions.push(version.clone());
                version
            }
        };
        registered = Some(version);
        Ok::<_, RegistryError>(record)
    })?;
    registered.ok_or_else(|| RegistryError::UnknownModel { name: name.clone(), models: Vec::new() })
}

/// Every model, by name.
pub fn list_models(store: &Store) -> Result<Vec<(Name, ModelRecord)>, RegistryError> {
    let mut models = Vec::new();
    for name in store.list_records(RecordKind::Model)? {
        if let Some(record) = store.read_record(RecordKind::Model, &name)? {
            models.push((name, record));
        }
    }
    Ok(models)
}

/// Finds the bundle that `reference` means; a folder is taken into the store first.
pub fn resolve(store: &Store, reference: &ModelReference) -> Result<ResolvedModel, RegistryError> {
    let (name, version, digest) = match reference {
        ModelReference::Bundle(digest) => (None, None, *digest),
        ModelReference::Folder(folder) => (None, None, import_bundle(store, folder)?),
        ModelReference::Name(name, wanted) => {
            let version = find_version(store, name, *wanted)?;
            (Some(name.clone()), Some(version.number), version.bundle)
        }
    };
    Ok(ResolvedModel { name, version, digest, manifest: read_bundle(store, digest)? })
}

fn find_version(store: &Store, name: &Name, wanted: Option<u32>) -> Result<ModelVersion, RegistryError> {
    let record: Option<ModelRecord> = store.read_record(RecordKind::Model, name)?;
    let Some((record, newest)) = record.as_ref().and_then(|record| Some((record, record.versions.last()?)))
    else {
        let models = store.list_records(RecordKind::Model)?;
        return Err(RegistryError::UnknownModel { name: name.clone(), models });
    };
    let Some(wanted) = wanted else {
        return Ok(newest.clone());
    };
    record.versions.iter().find(|version| version.number == wanted).cloned().ok_or_else(|| {
        RegistryError::UnknownVersion { name: name.clone(), version: wanted, newest: newest.number }
    })
}
