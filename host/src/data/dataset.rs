//! Datasets: a name with immutable versions, each a manifest of files by digest with schema and statistics.
//!
//! Adding goes in this order, so that a refused dataset leaves nothing in the store: recognise the files, hash them,
//! look whether a version has exactly them, read all rows for schema and statistics, and only then store the blobs, the
//! manifest and the record.

mod files;
mod schema;
mod split;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use files::FileFormat;
pub use split::{SplitReader, open_split};

use self::files::{FoundFile, find_files};
use self::split::Source;
use super::DataError;
use super::statistics::{ColumnStatistics, StatisticsBuilder};
use crate::domain::{ColumnSpec, Digest, Name};
use crate::store::{RecordKind, Store};

/// Rows of a batch where nobody asks for another number: a batch of MNIST has 0.8 MiB then, which fits a cache.
pub const BATCH_ROWS: usize = 1_024;

/// Version of the manifest.
const FORMAT: u32 = 1;

/// A dataset: a name with numbered versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetRecord {
    /// Oldest first, numbered from 1 without gaps.
    pub versions: Vec<DatasetVersion>,
}

/// A version of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetVersion {
    /// Its number.
    pub number: u32,
    /// Digest of its manifest.
    pub digest: Digest,
    /// When it was added, in seconds since 1970.
    pub added_at: u64,
}

/// The content of a version. Its bytes are a function of the files, so that the same files have the same digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetManifest {
    /// Says how to read the rest.
    pub format: u32,
    /// The dataset's name when the version was added.
    pub name: Name,
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
    /// Its name, without folders.
    pub path: String,
    /// Its bytes, as they were added: packed files stay packed.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
    /// How to read them.
    pub format: FileFormat,
    /// The split that it belongs to.
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

/// A version with its content.
#[derive(Debug, Clone)]
pub struct ResolvedDataset {
    /// The dataset.
    pub name: Name,
    /// The version.
    pub version: DatasetVersion,
    /// What it holds.
    pub manifest: DatasetManifest,
}

/// What adding did.
#[derive(Debug, Clone)]
pub struct AddedDataset {
    /// The version that holds the files.
    pub dataset: ResolvedDataset,
    /// Whether there was such a version already; then nothing was written.
    pub unchanged: bool,
    /// Files that were left out, as sentences for the user.
    pub notes: Vec<String>,
}

/// Adds files as a new version of the dataset `name`; `now` is in seconds since 1970.
///
/// `paths` are files, or folders whose files are taken. IDX files named as those of MNIST become columns (`images`:
/// `pixels`, `labels`: `label`) that are zipped row by row; CSV and Parquet files of a split follow each other by name.
/// Files named `train…` and `test…` or `t10k…` become the splits `train` and `test`; others belong to `train`.
pub fn add_dataset(
    store: &Store,
    name: &Name,
    paths: &[PathBuf],
    now: u64,
) -> Result<AddedDataset, DataError> {
    let (found, notes) = find_files(paths)?;
    let mut files = Vec::with_capacity(found.len());
    for file in &found {
        let (digest, size) = hash(&file.path)?;
        files.push(FileEntry {
            path: file.name.clone(),
            digest,
            size,
            format: file.format,
            split: file.split.to_owned(),
            column: file.column.clone(),
        });
    }
    if let Some(dataset) = find_same(store, name, &files)? {
        return Ok(AddedDataset { dataset, unchanged: true, notes });
    }
    let sources: Vec<_> = found.iter().map(|file| Source::Path(file.path.clone())).collect();
    let schema = schema::infer(&files, &sources)?;
    let mut splits: Vec<SplitEntry> = Vec::new();
    for file in &files {
        if splits.last().is_none_or(|split| split.name != file.split) {
            splits.push(describe_split(&files, &sources, &schema, &file.split)?);
        }
    }
    for (file, entry) in found.iter().zip(&files) {
        store_file(store, file, entry.digest)?;
    }
    let manifest = DatasetManifest { format: FORMAT, name: name.clone(), files, schema, splits };
    let digest = store.put_bytes(&serde_json::to_vec(&manifest).map_err(DataError::Encode)?)?;
    let (version, unchanged) = add_version(store, name, digest, now)?;
    Ok(AddedDataset { dataset: ResolvedDataset { name: name.clone(), version, manifest }, unchanged, notes })
}

/// Every dataset, by name.
pub fn list_datasets(store: &Store) -> Result<Vec<(Name, DatasetRecord)>, DataError> {
    let mut datasets = Vec::new();
    for name in store.list_records(RecordKind::Dataset)? {
        if let Some(record) = store.read_record(RecordKind::Dataset, &name)? {
            datasets.push((name, record));
        }
    }
    Ok(datasets)
}

/// Finds what `text` means: `name` is the newest version, `name@2` the second, `name@sha256:…` the one of that digest.
pub fn resolve_dataset(store: &Store, text: &str) -> Result<ResolvedDataset, DataError> {
    let (name, wanted) = match text.split_once('@') {
        Some((name, wanted)) => (name, Some(wanted)),
        None => (text, None),
    };
    let reference = || DataError::Reference { text: text.chars().take(200).collect() };
    let name: Name = name.parse().map_err(|_| reference())?;
    let number: Option<u32> = wanted.and_then(|wanted| wanted.parse().ok());
    let digest: Option<Digest> = wanted.and_then(|wanted| wanted.parse().ok());
    if wanted.is_some() && number.is_none() && digest.is_none() {
        return Err(reference());
    }
    let record: Option<DatasetRecord> = store.read_record(RecordKind::Dataset, &name)?;
    let versions = record.map(|record| record.versions).unwrap_or_default();
    let Some(newest) = versions.last() else {
        return Err(DataError::UnknownDataset { name, datasets: store.list_records(RecordKind::Dataset)? });
    };
    let version = match wanted {
        None => newest,
        Some(wanted) => {
            let is_wanted =
                |version: &&DatasetVersion| Some(version.number) == number || Some(version.digest) == digest;
            versions.iter().find(is_wanted).ok_or_else(|| DataError::UnknownVersion {
                name: name.clone(),
                version: wanted.to_owned(),
                newest: newest.number,
            })?
        }
    };
    let manifest = read_manifest(store, version.digest)?;
    Ok(ResolvedDataset { name, version: version.clone(), manifest })
}

fn read_manifest(store: &Store, digest: Digest) -> Result<DatasetManifest, DataError> {
    let wrong = |reason: String| DataError::Manifest { digest, reason };
    let manifest: DatasetManifest =
        serde_json::from_slice(&store.get(digest)?).map_err(|error| wrong(error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(wrong(format!("expected format {FORMAT}, found {}", manifest.format)));
    }
    Ok(manifest)
}

/// The version that holds exactly these files. Statistics are not compared: a later program may know more of them.
fn find_same(store: &Store, name: &Name, files: &[FileEntry]) -> Result<Option<ResolvedDataset>, DataError> {
    let record: Option<DatasetRecord> = store.read_record(RecordKind::Dataset, name)?;
    for version in record.map(|record| record.versions).unwrap_or_default() {
        let manifest = read_manifest(store, version.digest)?;
        if manifest.files == files {
            return Ok(Some(ResolvedDataset { name: name.clone(), version, manifest }));
        }
    }
    Ok(None)
}

fn describe_split(
    files: &[FileEntry],
    sources: &[Source],
    schema: &[ColumnSpec],
    split: &str,
) -> Result<SplitEntry, DataError> {
    let of_split = files.iter().cloned().zip(sources.iter().cloned()).filter(|(file, _)| file.split == split);
    let mut statistics = StatisticsBuilder::default();
    let mut rows = 0;
    for batch in SplitReader::open(of_split.collect(), schema, BATCH_ROWS)? {
        let batch = batch?;
        rows += batch.rows() as u64;
        statistics.observe(&batch);
    }
    if rows == 0 {
        let first = files.iter().find(|file| file.split == split).map(|file| file.path.as_str());
        return Err(DataError::format(first.unwrap_or(split), "", "at least one row", "none"));
    }
    Ok(SplitEntry { name: split.to_owned(), rows, statistics: statistics.finish() })
}

fn hash(path: &Path) -> Result<(Digest, u64), DataError> {
    let mut file = File::open(path).map_err(DataError::read(path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer).map_err(DataError::read(path))?;
        if count == 0 {
            return Ok((Digest::from_hasher(hasher), size));
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
        size += count as u64;
    }
}

/// Stores a file, which must still be what was described.
fn store_file(store: &Store, file: &FoundFile, expected: Digest) -> Result<(), DataError> {
    let mut reader = File::open(&file.path).map_err(DataError::read(&file.path))?;
    if store.put(&mut reader)?.digest != expected {
        return Err(DataError::Changed { path: file.path.clone() });
    }
    Ok(())
}

/// Adds a version to the record; gives it, and whether it was there already.
fn add_version(
    store: &Store,
    name: &Name,
    digest: Digest,
    now: u64,
) -> Result<(DatasetVersion, bool), DataError> {
    let mut unchanged = false;
    let record = store.update_record(RecordKind::Dataset, name, |record: Option<DatasetRecord>| {
        let mut record = record.unwrap_or(DatasetRecord { versions: Vec::new() });
        unchanged = record.versions.iter().any(|version| version.digest == digest);
        if !unchanged {
            let number = record.versions.last().map_or(1, |last| last.number.saturating_add(1));
            record.versions.push(DatasetVersion { number, digest, added_at: now });
        }
        Ok::<_, DataError>(record)
    })?;
    let version = record.versions.into_iter().find(|version| version.digest == digest);
    let lost = || DataError::Manifest { digest, reason: "the record does not name it".to_owned() };
    Ok((version.ok_or_else(lost)?, unchanged))
}

#[cfg(test)]
mod tests;
