use std::path::{Path, PathBuf};

use crate::domain::{BatchError, Digest, Name, TensorError};
use crate::store::{DatabaseError, StoreError};

/// Data that cannot be read, added or found.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A file or folder of the user cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file or folder of the user cannot be written.
    #[error("failed to write `{}`", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what its format says.
    #[error("`{file}`{place}: expected {expected}, found {found}")]
    Format {
        /// The file.
        file: String,
        /// Where in it: empty, or for example ` line 3, column `x``.
        place: String,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The CSV library gave up.
    #[error("`{file}` is not CSV")]
    Csv {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: csv::Error,
    },
    /// The Parquet library gave up.
    #[error("`{file}` is not Parquet that can be read")]
    Parquet {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// The bytes are not safetensors.
    #[error("not a safetensors file")]
    Safetensors(#[source] safetensors::SafeTensorError),
    /// A type that safetensors or a tensor cannot hold.
    #[error("column `{column}` has type {found}: expected a type of numbers that a tensor can have")]
    SafetensorsType {
        /// The column.
        column: String,
        /// Its type.
        found: String,
    },
    /// A segment of a monitoring window names no bundle, as those of older versions of this program.
    #[error("the segment does not say which bundle filled it: expected a digest, found {found}")]
    SegmentBundle {
        /// What stands in its place.
        found: String,
    },
    /// A segment of a monitoring window is damaged.
    #[error("segment {number} of the window of endpoint `{endpoint}` is damaged")]
    Window {
        /// Whose window.
        endpoint: Name,
        /// Which part.
        number: u64,
        /// Why.
        #[source]
        source: Box<DataError>,
    },
    /// Columns do not fit together.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A column is none.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A path that is no file to read.
    #[error("`{}` is {found}: expected {expected}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What may stand there.
        expected: &'static str,
        /// What stands there.
        found: &'static str,
    },
    /// A file of the user whose name no file of a dataset can have.
    #[error("`{}` cannot be the name of a file of a dataset: expected {expected}", path.display())]
    FileName {
        /// The file.
        path: PathBuf,
        /// What a name is.
        expected: &'static str,
    },
    /// A pattern that cannot be matched.
    #[error("`{pattern}` is no pattern: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why not.
        reason: String,
    },
    /// More files than a version may have.
    #[error("there are more than {limit} files: expected at most that many in a version")]
    TooManyFiles {
        /// The limit.
        limit: usize,
    },
    /// Nothing to add.
    #[error("there is no data in {paths}: expected files")]
    NoData {
        /// The paths given.
        paths: String,
    },
    /// Two files of one name.
    #[error("two files are named `{}`: expected every file of a dataset to have a name of its own", file.escape_debug())]
    DuplicateFile {
        /// The name.
        file: String,
    },
    /// A name that is that of a file and of a folder.
    #[error("`{}` is a file, and a folder in `{}`: expected one of them", file.escape_debug(), inside.escape_debug())]
    FileAndFolder {
        /// The name.
        file: String,
        /// A file in the folder.
        inside: String,
    },
    /// Files of a dataset contradict each other.
    #[error("`{file}`: expected {expected}, as in `{first}`, found {found}")]
    Disagree {
        /// The file.
        file: String,
        /// The one it disagrees with.
        first: String,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// No such dataset.
    #[error("there is no dataset `{name}`{}", known(datasets))]
    UnknownDataset {
        /// The name.
        name: Name,
        /// The datasets there are.
        datasets: Vec<Name>,
    },
    /// The dataset has no such version.
    #[error("dataset `{name}` has no version or tag `{version}`: its newest is {newest}")]
    UnknownVersion {
        /// The dataset.
        name: Name,
        /// The version asked for.
        version: String,
        /// The newest there is.
        newest: u32,
    },
    /// A version that was published cannot be deleted.
    #[error("`{name}@{number}` is published: it cannot be deleted")]
    Published {
        /// The dataset.
        name: Name,
        /// The version.
        number: u32,
    },
    /// A version whose files were to be used again is gone.
    #[error("version {digest}, whose files are used again, was deleted meanwhile: run the command again")]
    Superseded {
        /// The version.
        digest: Digest,
    },
    /// Text that cannot be a tag.
    #[error("`{tag}` is no tag: expected a name that is no number")]
    Tag {
        /// The text.
        tag: String,
    },
    /// Nothing in the parent has such a name.
    #[error("`{pattern}` matches no file of `{dataset}`")]
    NothingToRemove {
        /// What should be removed.
        pattern: String,
        /// The parent.
        dataset: String,
    },
    /// The version holds no rows.
    #[error(
        "`{name}@{number}` holds no rows: expected IDX, CSV, Parquet or safetensors files among its {files}"
    )]
    NoRows {
        /// The dataset.
        name: Name,
        /// The version.
        number: u32,
        /// How many files it has.
        files: usize,
    },
    /// The database failed.
    #[error("{0}")]
    Database(#[from] DatabaseError),
    /// A thread has ended, because the program is about to.
    #[error("the work was stopped")]
    Stopped,
    /// The version has no such split.
    #[error("dataset `{name}` has no split `{split}`: {}", expected_split(splits))]
    UnknownSplit {
        /// The dataset.
        name: Name,
        /// The split asked for.
        split: String,
        /// The splits there are.
        splits: Vec<String>,
    },
    /// Text that names no dataset.
    #[error("`{text}` names no dataset: expected a name, `name@version`, `name@tag` or `name@sha256:…`")]
    Reference {
        /// The text.
        text: String,
    },
    /// A segment of recorded predictions is damaged.
    #[error("segment {number} of the recorded predictions, `{}`, is damaged", path.display())]
    PredictionSegment {
        /// Which part.
        number: u64,
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<DataError>,
    },
    /// The record of a prediction cannot be read, or not be written.
    #[error("{reason}")]
    PredictionRecord {
        /// What is wrong.
        reason: String,
    },
    /// A dataset's manifest cannot be read.
    #[error("blob {digest} is not a dataset manifest that can be read: {reason}")]
    Manifest {
        /// Its digest.
        digest: Digest,
        /// Why not.
        reason: String,
    },
    /// A dataset's manifest cannot be written.
    #[error("the manifest cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
}

impl DataError {
    pub(super) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Read { path, source }
    }

    pub(super) fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Write { path, source }
    }

    pub(super) fn format(
        file: &str,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        let (place, expected, found) = (place.into(), expected.into(), found.into());
        Self::Format { file: file.to_owned(), place, expected, found }
    }
}

/// Text from outside, cut to what fits a message and without control characters, in backticks.
pub(super) fn excerpt(text: &[u8]) -> String {
    const CHARACTERS_MAX: usize = 40;
    // A character has at most four bytes.
    let start = text.get(..CHARACTERS_MAX * 4).unwrap_or(text);
    let text_start = String::from_utf8_lossy(start);
    let mut shown: String = text_start.chars().take(CHARACTERS_MAX).flat_map(char::escape_debug).collect();
    if text_start.chars().count() > CHARACTERS_MAX || start.len() < text.len() {
        shown.push('…');
    }
    format!("`{shown}`")
}

fn expected_split(splits: &[String]) -> String {
    match splits {
        [] => "it holds no rows".to_owned(),
        splits => {
            let names: Vec<_> = splits.iter().map(|name| format!("`{name}`")).collect();
            format!("expected {}", names.join(" or "))
        }
    }
}

fn known(datasets: &[Name]) -> String {
    match datasets {
        [] => ": none has been added yet, see `host data add --help`".to_owned(),
        names => {
            let names: Vec<_> = names.iter().take(10).map(|name| format!("`{name}`")).collect();
            format!(": there are {}", names.join(", "))
        }
    }
}
