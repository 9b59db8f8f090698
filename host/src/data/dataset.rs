//! Datasets: immutable versions, each a manifest of files by digest with schema and statistics.
//!
//! Adding goes in this order, so that a refused dataset leaves nothing in the store: find the files, hash them, look
//! whether a version has exactly them, read all rows for schema and statistics, and only then store the blobs, the
//! manifest and the version's row.

mod add;
mod check;
mod diff;
mod files;
mod get;
mod manifest;
mod recipe;
mod schema;
mod shards;
mod split;
mod tree;

pub use add::{AddProgress, AddWatcher, NewDataset};
pub use check::{FileProblem, verify_files, verify_folder};
pub use diff::{DatasetDiff, FileChange, diff};
pub use files::FileFormat;
pub(super) use files::check_path;
pub use get::{GetReport, copy_files, get_files};
pub use manifest::{DatasetManifest, FileEntry, SplitEntry};
pub use recipe::{AppliedTransformer, Recipe, SplitRule};
pub use shards::{Shard, ShardPlace, ShardWriter, ShardedSplit, ShardedVersion};
pub use split::{SplitReader, open_split};

use super::catalog::ResolvedDataset;

/// Rows of a batch where nobody asks for another number: a batch of MNIST has 0.8 MiB then, which fits a cache.
pub const BATCH_ROWS: usize = 1_024;

/// What adding did.
#[derive(Debug, Clone)]
pub struct AddedDataset {
    /// The version that holds the files.
    pub dataset: ResolvedDataset,
    /// Whether there was such a version already; then nothing was written.
    pub unchanged: bool,
    /// Files whose bytes were read; the others were known from before.
    pub files_read: u64,
    /// What was not added or not read, as sentences for the user.
    pub notes: Vec<String>,
}

#[cfg(test)]
mod tests;
