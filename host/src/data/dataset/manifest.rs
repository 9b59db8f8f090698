use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::files::{FileFormat, check_path};
use crate::data::DataError;
use crate::data::statistics::ColumnStatistics;
use crate::domain::{ColumnSpec, Digest, Name};
use crate::store::Store;

/// Version of the manifest.
const FORMAT: u32 = 2;

/// Manifests that are read at most to know a version's files. Where a chain would get longer, the next version lists
/// all of its files itself.
const CHAIN_MAX: usize = 32;

/// The content of a version. Its bytes are a function of the files and the parents, so that the same files have the same
/// digest.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetManifest {
    /// The dataset's name when the version was added.
    pub name: Name,
    /// Manifests of the versions that it was made from.
    pub parents: Vec<Digest>,
    /// The files, by split and name.
    pub files: Vec<FileEntry>,
    /// The columns of every split.
    pub schema: Vec<ColumnSpec>,
    /// The splits, by name.
    pub splits: Vec<SplitEntry>,
}

/// One file of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name, with folders: a relative path that leads nowhere else, see [`check_path`].
    pub path: String,
    /// Its bytes, as they were added: packed files stay packed.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
    /// How to read them.
    pub format: FileFormat,
    /// The split that it belongs to; empty for a file without rows.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub split: String,
    /// The column that it holds; none if it names its columns itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub column: Option<String>,
}

/// One split of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitEntry {
    /// Its name: `train` or `test`.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// What its columns look like.
    pub statistics: Vec<ColumnStatistics>,
}

/// A manifest as it is stored: with all of the files, or with what is other than in its first parent.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    name: Name,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    parents: Vec<Digest>,
    /// Names of the first parent's files that are gone; none where `files` lists all.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    removed: Option<Vec<String>>,
    files: Vec<FileEntry>,
    schema: Vec<ColumnSpec>,
    splits: Vec<SplitEntry>,
}

impl DatasetManifest {
    /// What versions with the same files have in common, whatever is known about them.
    pub(in crate::data) fn content(files: &[FileEntry]) -> Result<Digest, DataError> {
        Ok(Digest::of(&serde_json::to_vec(files).map_err(DataError::Encode)?))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Reads the manifest of `digest`, and those that it rests on.
    pub fn load(store: &Store, digest: Digest) -> Result<Self, DataError> {
        Self::load_chain(store, digest).map(|(manifest, _)| manifest)
    }

    /// Like [`Self::load`], with the digests of all manifests that were read, its own first.
    pub fn load_chain(store: &Store, digest: Digest) -> Result<(Self, Vec<Digest>), DataError> {
        let mut chain = vec![digest];
        let newest = read(store, digest)?;
        let mut changes = vec![];
        let mut stored = newest;
        let (name, parents) = (stored.name.clone(), stored.parents.clone());
        let (schema, splits) = (std::mem::take(&mut stored.schema), std::mem::take(&mut stored.splits));
        while let Some(removed) = stored.removed {
            let wrong = |reason: &str| DataError::Manifest { digest, reason: reason.to_owned() };
            let base = *stored.parents.first().ok_or_else(|| wrong("it has changes and no parent"))?;
            if chain.len() > CHAIN_MAX {
                return Err(wrong("it rests on too many others"));
            }
            changes.push((removed, stored.files));
            chain.push(base);
            stored = read(store, base)?;
        }
        let mut files: BTreeMap<String, FileEntry> = by_path(stored.files);
        for (removed, changed) in changes.into_iter().rev() {
            for path in removed {
                files.remove(&path);
            }
            files.append(&mut by_path(changed));
        }
        let mut files: Vec<_> = files.into_values().collect();
        sort(&mut files);
        Ok((Self { name, parents, files, schema, splits }, chain))
    }

    /// Manifests that the manifest of `digest` was made from, and that it may rest on.
    pub fn parents_of(store: &Store, digest: Digest) -> Result<Vec<Digest>, DataError> {
        Ok(read(store, digest)?.parents)
    }

    /// Stores the manifest. Against the first parent, `base`, only what changed is written, if that is less.
    pub(super) fn store(&self, store: &Store, base: Option<(&Self, usize)>) -> Result<Digest, DataError> {
        let changes = base.filter(|(_, chain)| *chain < CHAIN_MAX).map(|(base, _)| self.changes(base));
        let changes =
            changes.filter(|(removed, changed)| (removed.len() + changed.len()) * 2 < self.files.len());
        let (removed, files) = match changes {
            Some((removed, changed)) => (Some(removed), changed),
            None => (None, self.files.clone()),
        };
        let stored = Stored {
            format: FORMAT,
            name: self.name.clone(),
            parents: self.parents.clone(),
            removed,
            files,
            schema: self.schema.clone(),
            splits: self.splits.clone(),
        };
        Ok(store.put_bytes(&serde_json::to_vec(&stored).map_err(DataError::Encode)?)?)
    }

    /// Names that `base` has and this does not, and files that this has and `base` does not have so.
    fn changes(&self, base: &Self) -> (Vec<String>, Vec<FileEntry>) {
        let before: BTreeMap<&str, &FileEntry> =
            base.files.iter().map(|file| (file.path.as_str(), file)).collect();
        let now: BTreeMap<&str, &FileEntry> =
            self.files.iter().map(|file| (file.path.as_str(), file)).collect();
        let removed = before.keys().filter(|path| !now.contains_key(*path)).map(|path| (*path).to_owned());
        let is_changed = |file: &&FileEntry| before.get(file.path.as_str()) != Some(file);
        (removed.collect(), self.files.iter().filter(is_changed).cloned().collect())
    }
}

/// The order of a version's files.
pub(super) fn sort(files: &mut [FileEntry]) {
    files.sort_by(|a, b| (&a.split, &a.path).cmp(&(&b.split, &b.path)));
}

fn by_path(files: Vec<FileEntry>) -> BTreeMap<String, FileEntry> {
    files.into_iter().map(|file| (file.path.clone(), file)).collect()
}

fn read(store: &Store, digest: Digest) -> Result<Stored, DataError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let wrong = |reason: String| DataError::Manifest { digest, reason };
    let bytes = store.get(digest)?;
    let Format { format } = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    if format != FORMAT {
        return Err(wrong(format!("expected format {FORMAT}, found {format}")));
    }
    let stored: Stored = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    for path in stored.files.iter().map(|file| &file.path) {
        check_path(path)
            .map_err(|expected| wrong(format!("expected {expected}, found `{}`", path.escape_debug())))?;
    }
    Ok(stored)
}
