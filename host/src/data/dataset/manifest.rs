use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufWriter, Write as _};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::files::{FILES_MAX, FileFormat, check_path};
use super::recipe::Recipe;
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
    /// How its rows were made of the first parent's; none where they were added as they are.
    pub recipe: Option<Recipe>,
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
struct Stored<'a> {
    format: u32,
    name: Name,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    parents: Vec<Digest>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    recipe: Option<Recipe>,
    /// Names of the first parent's files that are gone; none where `files` lists all.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    removed: Option<Vec<String>>,
    files: Cow<'a, [FileEntry]>,
    schema: Cow<'a, [ColumnSpec]>,
    splits: Cow<'a, [SplitEntry]>,
}

impl DatasetManifest {
    /// What versions with the same files have in common, whatever is known about them.
    pub(in crate::data) fn content(files: &[FileEntry]) -> Result<Digest, DataError> {
        // Of a million files the text has hundreds of megabytes, which need not be held.
        let mut writer = BufWriter::new(Sha256::new());
        serde_json::to_writer(&mut writer, files).map_err(DataError::Encode)?;
        let failed = |error| DataError::Encode(serde_json::Error::io(error));
        writer.flush().map_err(failed)?;
        let hasher = writer.into_inner().map_err(|error| failed(error.into_error()))?;
        Ok(Digest::from_hasher(hasher))
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
        let recipe = stored.recipe.take();
        let (schema, splits) = (std::mem::take(&mut stored.schema), std::mem::take(&mut stored.splits));
        let wrong = |reason: &str| DataError::Manifest { digest, reason: reason.to_owned() };
        while let Some(removed) = stored.removed {
            let base = *stored.parents.first().ok_or_else(|| wrong("it has changes and no parent"))?;
            if chain.len() > CHAIN_MAX {
                return Err(wrong("it rests on too many others"));
            }
            changes.push((removed, stored.files.into_owned()));
            chain.push(base);
            stored = read(store, base)?;
        }
        let mut files = stored.files.into_owned();
        if !changes.is_empty() {
            files = apply(files, changes);
        }
        check_files(&files).map_err(|error| wrong(&error.to_string()))?;
        sort(&mut files);
        let (schema, splits) = (schema.into_owned(), splits.into_owned());
        Ok((Self { name, parents, recipe, files, schema, splits }, chain))
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
            Some((removed, changed)) => (Some(removed), Cow::Owned(changed)),
            None => (None, Cow::Borrowed(self.files.as_slice())),
        };
        let stored = Stored {
            format: FORMAT,
            name: self.name.clone(),
            parents: self.parents.clone(),
            recipe: self.recipe.clone(),
            removed,
            files,
            schema: Cow::Borrowed(&self.schema),
            splits: Cow::Borrowed(&self.splits),
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

/// Refuses files that no folder could hold together: of the same name, or in a folder that is a file too. And too many.
pub(super) fn check_files(files: &[FileEntry]) -> Result<(), DataError> {
    if files.len() > FILES_MAX {
        return Err(DataError::TooManyFiles { limit: FILES_MAX });
    }
    let mut paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    // Part by part, so that what is in a folder follows the folder's name: by bytes `x-1` is between `x` and `x/1`.
    paths.sort_unstable_by(|a, b| a.split('/').cmp(b.split('/')));
    for (path, next) in paths.iter().zip(paths.iter().skip(1)) {
        match next.strip_prefix(path) {
            Some("") => return Err(DataError::DuplicateFile { file: (*path).to_owned() }),
            Some(rest) if rest.starts_with('/') => {
                let (file, inside) = ((*path).to_owned(), (*next).to_owned());
                return Err(DataError::FileAndFolder { file, inside });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The files after changes, of which the oldest is the last.
fn apply(files: Vec<FileEntry>, changes: Vec<(Vec<String>, Vec<FileEntry>)>) -> Vec<FileEntry> {
    let mut files = by_path(files);
    for (removed, changed) in changes.into_iter().rev() {
        for path in removed {
            files.remove(&path);
        }
        files.append(&mut by_path(changed));
    }
    files.into_values().collect()
}

fn by_path(files: Vec<FileEntry>) -> BTreeMap<String, FileEntry> {
    files.into_iter().map(|file| (file.path.clone(), file)).collect()
}

fn read(store: &Store, digest: Digest) -> Result<Stored<'static>, DataError> {
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
    let stored: Stored<'static> = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    if stored.files.len() > FILES_MAX {
        return Err(wrong(DataError::TooManyFiles { limit: FILES_MAX }.to_string()));
    }
    for path in stored.files.iter().map(|file| &file.path) {
        check_path(path)
            .map_err(|expected| wrong(format!("expected {expected}, found `{}`", path.escape_debug())))?;
    }
    Ok(stored)
}
