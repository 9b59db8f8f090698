mod names;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Seek as _, Write as _};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use self::names::Names;
use super::container::{ArchiveEntry, ArchiveReader, unreadable};
use super::{
    ArchiveError, ArchiveProgress, ArchiveWatcher, BLOBS_FOLDER, FORMAT, HEADER_NAME, Header, LINE_MAX_BYTES,
    Line, METADATA_NAME, blocking, nameless, nameless_file, shown,
};
use crate::data::catalog::restore as datasets;
use crate::domain::Digest;
use crate::project::Project;
use crate::registry::read_bundle;
use crate::store::{ExistingBlobs, NextRead, Store, StoreError};

/// Largest header that is read; a real one has some hundred bytes.
const HEADER_MAX_BYTES: u64 = 64 * 1024;

/// Largest manifests of a bundle and of a dataset that are read.
const BUNDLE_MAX_BYTES: u64 = 4 * 1024 * 1024;
const DATASET_MAX_BYTES: u64 = 512 * 1024 * 1024;

/// Notes that a report tells; of more, their number is told.
const NOTES_MAX: usize = 100;

/// What came of importing an archive.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ImportReport {
    /// Experiments.
    pub experiments: ImportCounts,
    /// Runs.
    pub runs: ImportCounts,
    /// Logged models.
    pub logged_models: ImportCounts,
    /// Versions of datasets.
    pub dataset_versions: ImportCounts,
    /// Versions of models.
    pub model_versions: ImportCounts,
    /// Blobs in the archive.
    pub blobs: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// What is not as it was in the archive, as sentences for the user.
    pub notes: Vec<String>,
    /// How many more there are.
    pub more_notes: u64,
}

/// How many of a kind came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ImportCounts {
    /// Those that were written.
    pub added: u64,
    /// Those that were there already, and were left as they are.
    pub present: u64,
}

impl ImportCounts {
    fn count(&mut self, is_new: bool) {
        *(if is_new { &mut self.added } else { &mut self.present }) += 1;
    }
}

impl ImportReport {
    fn note(&mut self, text: String) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(text);
        } else {
            self.more_notes += 1;
        }
    }
}

/// An archive that was read to its end, with its blobs in the store and nothing of it in the database.
struct Checked {
    metadata: File,
    datasets: Vec<datasets::ReadRecord>,
    report: ImportReport,
}

impl Project {
    /// Takes in what an archive holds; what is here already is left as it is.
    pub async fn import(
        &self,
        archive: Box<dyn Read + Send>,
        watcher: ArchiveWatcher,
    ) -> Result<ImportReport, ArchiveError> {
        let store = self.store().clone();
        let checked = blocking(move || check_and_keep(&store, archive, &watcher)).await?;
        let dialect = self.database().dialect();
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    Names::new(dialect, checked.report)
                        .write(connection, checked.metadata, &checked.datasets)
                        .await
                })
            })
            .await
    }
}

/// Reads all of an archive, and keeps its blobs once nothing about it is wrong.
fn check_and_keep(
    store: &Store,
    archive: Box<dyn Read + Send>,
    watcher: &ArchiveWatcher,
) -> Result<Checked, ArchiveError> {
    watcher(ArchiveProgress::Metadata);
    let mut archive = ArchiveReader::new(BufReader::new(archive));
    let header = read_header(&mut archive)?;
    let mut metadata = read_metadata(store, &mut archive, &header)?;
    watcher(ArchiveProgress::Blobs(header.bytes));
    let batch = store.blob_batch(ExistingBlobs::Keep)?;
    let mut blobs = Blobs::new();
    let mut bytes = 0_u64;
    while let Some(entry) = archive.next_entry()? {
        let digest = digest_of(&entry)?;
        if blobs.insert(digest, entry.size).is_some() {
            return Err(ArchiveError::format(format!("blob {digest} is in it twice")));
        }
        let (found, _) = batch.stage(&mut archive.content(&entry), NextRead::Later).map_err(staging)?;
        if found.digest != digest {
            let found = found.digest;
            return Err(ArchiveError::format(format!(
                "blob {digest} is damaged: its bytes have digest {found}"
            )));
        }
        bytes = bytes.saturating_add(entry.size);
        watcher(ArchiveProgress::Done(entry.size));
    }
    if (blobs.len() as u64, bytes) != (header.blobs, header.bytes) {
        return Err(ArchiveError::format(format!(
            "expected {} blobs of {} bytes, found {} of {bytes}",
            header.blobs,
            header.bytes,
            blobs.len()
        )));
    }
    let mut needs = Needs::default();
    each_line(&mut metadata, |line| needs.add(line))?;
    needs.artifacts.iter().try_for_each(|(digest, size)| match blobs.get(digest) {
        // Clients are told the size before they get the bytes.
        Some(found) if found != size => Err(ArchiveError::format(format!(
            "an artifact has {size} bytes, and its blob {digest} has {found}"
        ))),
        _ => present(&blobs, *digest),
    })?;
    needs.bundles.iter().try_for_each(|digest| present(&blobs, *digest))?;
    needs.datasets.iter().try_for_each(|record| present(&blobs, record.digest))?;
    watcher(ArchiveProgress::Storing);
    batch.keep()?;
    let datasets = read_manifests(store, needs, &blobs)?;
    let report = ImportReport { blobs: header.blobs, bytes: header.bytes, ..ImportReport::default() };
    Ok(Checked { metadata, datasets, report })
}

fn read_header(archive: &mut ArchiveReader<impl Read>) -> Result<Header, ArchiveError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let entry = expected(archive, HEADER_NAME)?;
    if entry.size > HEADER_MAX_BYTES {
        return Err(ArchiveError::format(format!("`{HEADER_NAME}` has {} bytes", entry.size)));
    }
    let mut bytes = Vec::new();
    archive.content(&entry).read_to_end(&mut bytes).map_err(unreadable)?;
    let wrong = |error: serde_json::Error| ArchiveError::format(format!("`{HEADER_NAME}`: {error}"));
    let Format { format } = serde_json::from_slice(&bytes).map_err(wrong)?;
    if format != FORMAT {
        return Err(ArchiveError::format(format!(
            "expected format {FORMAT}, found {format}: a newer `host` may have written it"
        )));
    }
    serde_json::from_slice(&bytes).map_err(wrong)
}

/// Copies the metadata to a file without a name, and compares it with what the header says.
fn read_metadata(
    store: &Store,
    archive: &mut ArchiveReader<impl Read>,
    header: &Header,
) -> Result<File, ArchiveError> {
    let entry = expected(archive, METADATA_NAME)?;
    let mut file = nameless_file(store)?;
    let mut content = archive.content(&entry);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(error)),
        };
        let piece = buffer.get(..count).unwrap_or_default();
        hasher.update(piece);
        file.write_all(piece).map_err(nameless("write"))?;
    }
    if Digest::from_hasher(hasher) != header.metadata {
        return Err(ArchiveError::format(
            "its metadata is damaged: its digest is another than the header says",
        ));
    }
    Ok(file)
}

fn expected(archive: &mut ArchiveReader<impl Read>, name: &str) -> Result<ArchiveEntry, ArchiveError> {
    let entry = archive.next_entry()?.filter(|entry| entry.name == name);
    entry.ok_or_else(|| {
        ArchiveError::format(format!("expected `{name}` of `host export`, found something else"))
    })
}

fn digest_of(entry: &ArchiveEntry) -> Result<Digest, ArchiveError> {
    let hex = entry.name.strip_prefix(BLOBS_FOLDER);
    let digest = hex.and_then(|hex| format!("sha256:{hex}").parse().ok());
    digest.ok_or_else(|| {
        let name = shown(&entry.name);
        ArchiveError::format(format!("expected blobs only, as `{BLOBS_FOLDER}…`, found `{name}`"))
    })
}

fn staging(error: StoreError) -> ArchiveError {
    match error {
        StoreError::Input(source) => unreadable(source),
        error => error.into(),
    }
}

fn present(blobs: &Blobs, digest: Digest) -> Result<(), ArchiveError> {
    if blobs.contains_key(&digest) {
        return Ok(());
    }
    Err(ArchiveError::format(format!("blob {digest}, which it names, is not in it")))
}

/// Blobs that are in the archive, and their bytes.
type Blobs = HashMap<Digest, u64>;

/// Blobs that the metadata names.
#[derive(Default)]
struct Needs {
    /// With the sizes that are told of them.
    artifacts: HashSet<(Digest, u64)>,
    bundles: HashSet<Digest>,
    datasets: Vec<crate::data::DatasetRecord>,
}

impl Needs {
    fn add(&mut self, line: Line) -> Result<(), ArchiveError> {
        match line {
            Line::Artifacts(record) => {
                self.artifacts.extend(record.files.iter().map(|file| (file.digest, file.size)))
            }
            Line::ModelVersion(record) => self.bundles.extend(record.bundle),
            Line::Dataset(record) => self.datasets.push(record),
            _ => {}
        }
        Ok(())
    }
}

/// Reads what the manifests of datasets and bundles name, all of which must have come too.
fn read_manifests(
    store: &Store,
    needs: Needs,
    blobs: &Blobs,
) -> Result<Vec<datasets::ReadRecord>, ArchiveError> {
    let check_size = |digest: Digest, limit: u64| match store.blob_len(digest)? {
        size if size <= limit => Ok(()),
        size => Err(ArchiveError::format(format!(
            "blob {digest} of {size} bytes is no manifest: expected at most {limit} bytes"
        ))),
    };
    for bundle in needs.bundles {
        check_size(bundle, BUNDLE_MAX_BYTES)?;
        let manifest = read_bundle(store, bundle)?;
        manifest.blobs().try_for_each(|blob| present(blobs, blob.digest))?;
    }
    let mut read = Vec::with_capacity(needs.datasets.len());
    for record in needs.datasets {
        check_size(record.digest, DATASET_MAX_BYTES)?;
        let mut dataset = datasets::read_record(store, record)?;
        dataset.blobs.iter().try_for_each(|digest| present(blobs, *digest))?;
        dataset.blobs = Vec::new();
        read.push(dataset);
    }
    Ok(read)
}

/// Reads a line of metadata; none at the end.
fn read_line(file: &mut BufReader<File>, buffer: &mut Vec<u8>) -> Result<Option<Line>, ArchiveError> {
    buffer.clear();
    let mut limited = file.take(LINE_MAX_BYTES + 1);
    limited.read_until(b'\n', buffer).map_err(unreadable)?;
    if buffer.is_empty() {
        return Ok(None);
    }
    if buffer.len() as u64 > LINE_MAX_BYTES {
        return Err(ArchiveError::format(format!(
            "a line of `{METADATA_NAME}` has more than {LINE_MAX_BYTES} bytes"
        )));
    }
    let wrong = |error| ArchiveError::format(format!("a line of `{METADATA_NAME}` cannot be read: {error}"));
    serde_json::from_slice(buffer).map(Some).map_err(wrong)
}

fn each_line(
    metadata: &mut File,
    mut each: impl FnMut(Line) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    metadata.rewind().map_err(nameless("read"))?;
    let copy = metadata.try_clone().map_err(nameless("read"))?;
    let (mut reader, mut buffer) = (BufReader::new(copy), Vec::new());
    while let Some(line) = read_line(&mut reader, &mut buffer)? {
        each(line)?;
    }
    Ok(())
}
