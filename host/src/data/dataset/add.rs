use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::files::{FileFormat, Found, FoundFile, find_files};
use super::manifest::{self, DatasetManifest, FileEntry, SplitEntry};
use super::schema;
use super::split::{Source, SplitReader};
use super::{AddedDataset, BATCH_ROWS};
use crate::data::catalog::{Catalog, NewVersion, ResolvedDataset, blocking};
use crate::data::statistics::StatisticsBuilder;
use crate::data::{DataError, fetch};
use crate::domain::{ColumnSpec, Digest, Name, map_parallel};
use crate::store::{BlobBatch, ExistingBlobs, KnownFiles, NextRead, Presence, Store};

/// Threads beyond one a core: those that wait for the disk. More would take memory, about 1 MiB each, and keep no disk
/// busier.
const WAITING_THREADS: usize = 6;

/// Bytes of a file on average from which threads wait for the disk; those with smaller files wait for each other.
const WAITED_FOR_BYTES: u64 = 32 * 1024;

/// Names of files that a note lists; of more, their number is told.
const NAMED_MAX: usize = 5;

/// What to add.
#[derive(Debug, Clone)]
pub struct NewDataset {
    /// The dataset that gets a version.
    pub name: Name,
    /// Files, folders, patterns, and URLs of folders in buckets.
    pub paths: Vec<PathBuf>,
    /// The version whose files it has too, except those of the same name.
    pub parent: Option<String>,
    /// Patterns for files of the parent that it does not have.
    pub remove: Vec<String>,
    /// Whether IDX, CSV, Parquet and safetensors files are read as rows.
    pub rows: bool,
    /// Whether files are read again that have not changed since they were read last.
    pub reread: bool,
    /// When this is, in milliseconds since 1970.
    pub now_ms: i64,
}

/// What adding is at, for who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddProgress {
    /// So many files with so many bytes were found.
    Found {
        /// Files.
        files: u64,
        /// Bytes of all of them.
        bytes: u64,
    },
    /// So many more bytes are known.
    Hashed(u64),
    /// The rows are being read.
    Describing,
    /// What is new is being stored.
    Storing,
}

/// Who waits.
pub type AddWatcher = Arc<dyn Fn(AddProgress) + Send + Sync>;

/// Files by digest, and where their bytes are meanwhile.
struct Hashed {
    files: Vec<FileEntry>,
    sources: HashMap<Digest, PathBuf>,
    batch: BlobBatch,
    known: KnownFiles,
    files_read: u64,
    notes: Vec<String>,
}

/// A file that is known now.
struct HashedFile {
    entry: FileEntry,
    /// Where its bytes can be read until the batch ends, unless they are a blob already.
    staged: Option<PathBuf>,
    was_read: bool,
}

/// What is known of the files before they are read.
#[derive(Default)]
struct Before {
    known: KnownFiles,
    /// What the dataset's newest version holds.
    newest: HashSet<Digest>,
}

impl Before {
    fn load(store: &Store, name: &Name, newest: Option<Digest>) -> Self {
        // One that cannot be read vouches for nothing; that costs reading the files.
        let newest = newest.and_then(|digest| DatasetManifest::load(store, digest).ok());
        let newest = newest.into_iter().flat_map(|manifest| manifest.files).map(|file| file.digest).collect();
        Self { known: store.known_files(name), newest }
    }

    /// Whether the store has a blob and will keep it: because it says so, or because the newest version names it.
    fn is_kept(&self, batch: &BlobBatch, digest: Digest, size: u64) -> Result<bool, DataError> {
        Ok(match batch.touch(digest, size)? {
            Presence::Kept => true,
            Presence::Missing => false,
            Presence::Unknown => self.newest.contains(&digest),
        })
    }
}

impl Catalog {
    /// Adds files as a new version of a dataset. A refused dataset leaves nothing in the store.
    ///
    /// IDX files named as those of MNIST become columns (`images`: `pixels`, `labels`: `label`) that are zipped row by
    /// row; CSV, Parquet and safetensors files of a split follow each other by name. A part of a name such as `test` or `t10k` says
    /// that a file belongs to the split `test`; others belong to `train`. All other files are kept as they are.
    pub async fn add(&self, new: NewDataset, watcher: AddWatcher) -> Result<AddedDataset, DataError> {
        let parent = match &new.parent {
            Some(parent) => Some(self.resolve(parent).await?),
            None => None,
        };
        let newest = self.versions(&new.name).await?.pop().map(|version| version.digest);
        let relies_on: Vec<Digest> =
            parent.iter().map(|parent| parent.version.digest).chain(newest).collect();
        let (store, asked, watching) = (self.store().clone(), new.clone(), watcher.clone());
        let Hashed { files, sources, batch, known, files_read, mut notes } =
            blocking(move || hash_files(&store, &asked, newest, &watching)).await?;
        let mut files = merge(inherited(parent.as_ref(), &new.remove)?, files);
        manifest::check_files(&files)?;
        manifest::sort(&mut files);
        if files.is_empty() {
            return Err(DataError::NoData { paths: "what is left".to_owned() });
        }
        notes.extend(plain_note(&files, new.rows));
        let content = DatasetManifest::content(&files)?;
        let store = self.store().clone();
        if let Some(version) = self.with_content(&new.name, content).await? {
            let (name, digest) = (new.name.clone(), version.digest);
            let manifest = blocking(move || {
                // What the version names and the store has lost is among them.
                batch.keep()?;
                store.set_known_files(&name, &known)?;
                DatasetManifest::load(&store, digest)
            });
            let dataset = ResolvedDataset { name: new.name, version, manifest: manifest.await? };
            return Ok(AddedDataset { dataset, unchanged: true, files_read, notes });
        }
        let (name, parent) = (new.name.clone(), parent.map(|parent| parent.version.digest));
        let (manifest, digest) = blocking(move || {
            watcher(AddProgress::Describing);
            let manifest = describe(&store, &name, files, &sources, parent)?;
            watcher(AddProgress::Storing);
            batch.keep()?;
            store.set_known_files(&name, &known)?;
            let base = parent.map(|parent| DatasetManifest::load_chain(&store, parent)).transpose()?;
            let digest = manifest.store(&store, base.as_ref().map(|(base, chain)| (base, chain.len())))?;
            Ok((manifest, digest))
        })
        .await?;
        let version = NewVersion { digest, content, manifest: &manifest, relies_on, now_ms: new.now_ms };
        let (version, unchanged) = self.insert(&new.name, version).await?;
        let dataset = ResolvedDataset { name: new.name, version, manifest };
        Ok(AddedDataset { dataset, unchanged, files_read, notes })
    }

    /// Makes one version of several: where they have files of the same name, the last one's is taken. It lists its files
    /// itself, so that the versions it came from can be deleted.
    pub async fn squash(&self, name: Name, from: &[String], now_ms: i64) -> Result<AddedDataset, DataError> {
        let mut files = Vec::new();
        let mut parents = Vec::new();
        for text in from {
            let dataset = self.resolve(text).await?;
            if !parents.contains(&dataset.version.digest) {
                parents.push(dataset.version.digest);
            }
            files = merge(files, dataset.manifest.files);
        }
        manifest::check_files(&files)?;
        manifest::sort(&mut files);
        let content = DatasetManifest::content(&files)?;
        let store = self.store().clone();
        let squashed = name.clone();
        let relies_on = parents.clone();
        let (manifest, digest) = blocking(move || {
            let mut manifest = describe(&store, &squashed, files, &HashMap::new(), None)?;
            manifest.parents = parents;
            let digest = manifest.store(&store, None)?;
            Ok((manifest, digest))
        })
        .await?;
        let version = NewVersion { digest, content, manifest: &manifest, relies_on, now_ms };
        let (version, unchanged) = self.insert(&name, version).await?;
        Ok(AddedDataset {
            dataset: ResolvedDataset { name, version, manifest },
            unchanged,
            files_read: 0,
            notes: Vec::new(),
        })
    }
}

/// The parent's files, except those that match a pattern.
fn inherited(parent: Option<&ResolvedDataset>, remove: &[String]) -> Result<Vec<FileEntry>, DataError> {
    let Some(parent) = parent else { return Ok(Vec::new()) };
    let mut entries = parent.manifest.files.clone();
    for text in remove {
        let wrong = |error: glob::PatternError| DataError::Pattern {
            pattern: text.clone(),
            reason: error.msg.to_owned(),
        };
        let pattern = glob::Pattern::new(text).map_err(wrong)?;
        let before = entries.len();
        // A folder's name means all that is in it.
        let inside = format!("{}/", text.trim_end_matches('/'));
        entries.retain(|file| !pattern.matches(&file.path) && !file.path.starts_with(&inside));
        if entries.len() == before {
            let dataset = format!("{}@{}", parent.name, parent.version.number);
            return Err(DataError::NothingToRemove { pattern: text.clone(), dataset });
        }
    }
    Ok(entries)
}

/// The files of both; of those with the same name the newer one's.
fn merge(mut files: Vec<FileEntry>, newer: Vec<FileEntry>) -> Vec<FileEntry> {
    let names: HashSet<&str> = newer.iter().map(|file| file.path.as_str()).collect();
    files.retain(|file| !names.contains(file.path.as_str()));
    files.extend(newer);
    files
}

/// Hashes and stages the files; `newest` is the dataset's newest version.
fn hash_files(
    store: &Store,
    new: &NewDataset,
    newest: Option<Digest>,
    watcher: &AddWatcher,
) -> Result<Hashed, DataError> {
    let (urls, paths): (Vec<_>, Vec<_>) =
        new.paths.iter().cloned().partition(|path| path.to_str().is_some_and(fetch::is_url));
    let existing = if new.reread { ExistingBlobs::Replace } else { ExistingBlobs::Keep };
    let batch = store.blob_batch(existing)?;
    // What changes from here on may have been read before or after, so it must not be taken for settled.
    let now = SystemTime::now();
    let mut found = if paths.is_empty() && (!urls.is_empty() || new.parent.is_some()) {
        Found::default()
    } else {
        find_files(&paths, new.rows)?
    };
    let fetched = fetch::fetch_folders(&urls, store)?;
    if let Some(folder) = &fetched {
        let more = find_files(&[folder.path().to_path_buf()], new.rows)?;
        found.files.extend(more.files);
        found.left_out.extend(more.left_out);
    }
    let bytes = found.files.iter().map(|file| file.stamp.size()).sum();
    watcher(AddProgress::Found { files: found.files.len() as u64, bytes });
    let before = if new.reread { Before::default() } else { Before::load(store, &new.name, newest) };
    let entries = hash_all(&batch, &found.files, &before, watcher)?;
    // A list of a million files takes hundreds of megabytes, and the new one follows.
    drop(before);
    let mut hashed = Hashed {
        files: Vec::with_capacity(entries.len()),
        sources: HashMap::new(),
        batch,
        known: KnownFiles::default(),
        files_read: 0,
        notes: left_out_note(&found.left_out).into_iter().collect(),
    };
    for (file, HashedFile { entry, staged, was_read }) in found.files.iter().zip(entries) {
        hashed.known.insert(&file.path, file.stamp, entry.digest, now);
        hashed.files_read += u64::from(was_read);
        hashed.sources.extend(staged.map(|path| (entry.digest, path)));
        hashed.files.push(entry);
    }
    Ok(hashed)
}

/// The digest of every file, on all cores.
fn hash_all(
    batch: &BlobBatch,
    files: &[FoundFile],
    before: &Before,
    watcher: &AddWatcher,
) -> Result<Vec<HashedFile>, DataError> {
    let bytes: u64 = files.iter().map(|file| file.stamp.size()).sum();
    let waiting = if bytes / files.len().max(1) as u64 >= WAITED_FOR_BYTES { WAITING_THREADS } else { 0 };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    map_parallel(
        files,
        cores + waiting,
        || DataError::Stopped,
        |file| {
            let hashed = hash_one(batch, file, before)?;
            watcher(AddProgress::Hashed(file.stamp.size()));
            Ok(hashed)
        },
    )
}

fn hash_one(batch: &BlobBatch, file: &FoundFile, before: &Before) -> Result<HashedFile, DataError> {
    let entry = |digest, size| FileEntry {
        path: file.name.clone(),
        digest,
        size,
        format: file.format,
        split: file.split.to_owned(),
        column: file.column.clone(),
    };
    if let Some(digest) = before.known.digest(&file.path, &file.stamp)
        && before.is_kept(batch, digest, file.stamp.size())?
    {
        let entry = entry(digest, file.stamp.size());
        return Ok(HashedFile { entry, staged: None, was_read: false });
    }
    let next_read = match file.format {
        FileFormat::Plain => NextRead::Later,
        // For schema and statistics.
        _ => NextRead::Soon,
    };
    let mut opened = File::open(&file.path).map_err(DataError::read(&file.path))?;
    let (blob, staged) = batch.stage(&mut opened, next_read).map_err(|error| match error {
        crate::store::StoreError::Input(source) => DataError::read(&file.path)(source),
        other => other.into(),
    })?;
    Ok(HashedFile { entry: entry(blob.digest, blob.size), staged, was_read: true })
}

/// Reads all rows for schema and statistics.
fn describe(
    store: &Store,
    name: &Name,
    files: Vec<FileEntry>,
    sources: &HashMap<Digest, PathBuf>,
    parent: Option<Digest>,
) -> Result<DatasetManifest, DataError> {
    let with_rows: Vec<_> = files.iter().filter(|file| file.format != FileFormat::Plain).cloned().collect();
    let source = |file: &FileEntry| match sources.get(&file.digest) {
        Some(path) => Source::Path(path.clone()),
        None => Source::Blob(store.clone(), file.digest),
    };
    let sources: Vec<_> = with_rows.iter().map(source).collect();
    let schema = schema::infer(&with_rows, &sources)?;
    let mut splits: Vec<SplitEntry> = Vec::new();
    for file in &with_rows {
        if splits.last().is_none_or(|split| split.name != file.split) {
            splits.push(describe_split(&with_rows, &sources, &schema, &file.split)?);
        }
    }
    let parents = parent.into_iter().collect();
    Ok(DatasetManifest { name: name.clone(), parents, recipe: None, files, schema, splits })
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

fn left_out_note(names: &[String]) -> Option<String> {
    let verb = if names.len() == 1 { "was left out: it is" } else { "were left out: they are" };
    (!names.is_empty()).then(|| format!("{} {verb} no data", some_of(names.iter().map(String::as_str))))
}

/// Says which files hold no rows, where others do: a misspelt name should not go unnoticed.
fn plain_note(files: &[FileEntry], rows: bool) -> Option<String> {
    let (plain, with_rows): (Vec<_>, Vec<_>) =
        files.iter().partition(|file| file.format == FileFormat::Plain);
    let is_worth_it = rows && !plain.is_empty() && !with_rows.is_empty();
    let verb = if plain.len() == 1 { "holds" } else { "hold" };
    is_worth_it.then(|| {
        let names = some_of(plain.iter().map(|file| file.path.as_str()));
        format!("{names} {verb} no rows: expected a name as of IDX, CSV, Parquet or safetensors files")
    })
}

fn some_of<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(NAMED_MAX);
    let named: Vec<_> = names.take(NAMED_MAX).map(|name| format!("`{}`", name.escape_debug())).collect();
    match more {
        0 => named.join(", "),
        _ => format!("{} and {more} more", named.join(", ")),
    }
}
