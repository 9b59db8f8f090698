//! Carries a project, or parts of it, in one file: `host export` and `host import`.
//!
//! An archive is a tar file of plain files, in this order: a header, the metadata as lines of JSON, and the blobs that
//! they name. [`container`] reads and writes that shape, [`select`] finds what belongs to what is to be exported,
//! [`export`] writes it, [`import`] reads it.
//!
//! Importing takes three steps, so that a file that is wrong, or a process that is killed, leaves nothing that can be seen:
//! all of the file is read and checked; its blobs are kept, still without names; and one transaction writes all names. What
//! is there already is never changed, so importing twice is harmless.

mod container;
mod export;
mod import;
mod select;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::data::{DataError, DatasetRecord};
use crate::domain::Digest;
use crate::registry::{ModelRecord, RegistryError, VersionRecord};
use crate::store::{DatabaseError, Store, StoreError};
use crate::track::{
    ArtifactsRecord, ExperimentRecord, LoggedModelRecord, PointsRecord, RunRecord, TrackError,
};

pub use export::ExportTarget;
pub use import::{ImportCounts, ImportReport};
pub use select::ExportSpec;

/// Version of the format.
const FORMAT: u32 = 1;

/// Longest line of metadata: a dataset of a run may have a profile of 16 million characters.
const LINE_MAX_BYTES: u64 = 128 * 1024 * 1024;

/// Names of the files that every archive begins with.
const HEADER_NAME: &str = "archive.json";
const METADATA_NAME: &str = "metadata.jsonl";

/// What the names of blobs begin with.
const BLOBS_FOLDER: &str = "blobs/sha256/";

/// The first file of an archive: what follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// [`FORMAT`]; says how to read the rest.
    format: u32,
    /// Milliseconds since 1970.
    created_at: i64,
    /// Version of the program that wrote it.
    host: String,
    /// Digest of the metadata.
    metadata: Digest,
    /// How many blobs follow.
    blobs: u64,
    /// Bytes of them.
    bytes: u64,
}

/// A line of the metadata. What a line refers to stands before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Dataset(DatasetRecord),
    Experiment(ExperimentRecord),
    Run(Box<RunRecord>),
    Points(PointsRecord),
    LoggedModel(Box<LoggedModelRecord>),
    Artifacts(ArtifactsRecord),
    Model(ModelRecord),
    ModelVersion(Box<VersionRecord>),
}

/// What an archive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ExportReport {
    /// Versions of datasets.
    pub dataset_versions: u64,
    /// Experiments.
    pub experiments: u64,
    /// Runs.
    pub runs: u64,
    /// Logged models.
    pub logged_models: u64,
    /// Versions of models.
    pub model_versions: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// What exporting or importing is at, for who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveProgress {
    /// Metadata is being read or written.
    Metadata,
    /// Blobs of so many bytes follow.
    Blobs(u64),
    /// So many of them are done.
    Done(u64),
    /// Blobs and names are being written.
    Storing,
}

/// Who waits.
pub type ArchiveWatcher = Arc<dyn Fn(ArchiveProgress) + Send + Sync>;

/// An archive that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
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
    /// Something is there already.
    #[error("`{}` is there already\nhint: give another name, or `--force` to replace it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file is not what this program writes.
    #[error("the archive cannot be imported: {reason}")]
    Format {
        /// What was expected and found.
        reason: String,
    },
    /// Nothing of the name is there.
    #[error("there is no {what} `{name}`")]
    Unknown {
        /// A kind of thing.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The database failed, or what it was asked is wrong.
    #[error("{0}")]
    Track(#[from] TrackError),
    /// A dataset cannot be read.
    #[error("{0}")]
    Data(#[from] DataError),
    /// A bundle cannot be read.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// Metadata cannot be written as JSON.
    #[error("the metadata cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
    /// A thread has ended, because the program is about to.
    #[error("the work was stopped")]
    Stopped,
}

impl ArchiveError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    fn format(reason: impl Into<String>) -> Self {
        Self::Format { reason: reason.into() }
    }
}

impl From<DatabaseError> for ArchiveError {
    fn from(error: DatabaseError) -> Self {
        Self::Track(error.into())
    }
}

/// A file for metadata: in memory it could be too large. It has no name, so it is gone when it is let go.
fn nameless_file(store: &Store) -> Result<File, ArchiveError> {
    let folder = store.temporary_folder()?;
    tempfile::tempfile_in(folder.path()).map_err(ArchiveError::io("create a file in", folder.path()))
}

/// The failure of such a file.
fn nameless(action: &'static str) -> impl FnOnce(std::io::Error) -> ArchiveError {
    ArchiveError::io(action, Path::new("temporary"))
}

/// Text of an archive as it can be shown: short, and nothing that a terminal would obey.
fn shown(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_debug).collect()
}

/// Runs what waits for the disk or the bucket where it holds up nobody else.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArchiveError> + Send + 'static,
) -> Result<T, ArchiveError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(ArchiveError::Stopped))
}
