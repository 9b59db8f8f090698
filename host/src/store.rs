//! The only place that knows where things lie on disk.
//!
//! Owns the state folder and the database: blobs by digest, rows of SQL, segments of monitoring windows and of
//! recorded predictions. Everything is written
//! to a temporary file of the same file system, synced, renamed into place, and acknowledged after its folder is synced
//! too; so a name shows either the whole content or none, and what was acknowledged survives power loss. Knows nothing
//! about tensors, datasets or models: it keeps bytes and JSON documents that others give meaning.
//!
//! ```text
//! blobs/owner
//! blobs/sha256/ab/<64 hexadecimal digits>
//! known-files/<dataset>.json
//! windows/<endpoint>/<number>.safetensors
//! predictions/<number>.predictions
//! temporary/
//! temporary/upload-<identifier>/<part>
//! ```

mod blobs;
mod database;
mod error;
mod files;
mod known_files;
mod part_uploads;
mod segments;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use blobs::{Blobs, Owner};

pub use blobs::{
    BlobBatch, BlobEntry, BlobInfo, BlobsUrl, BlobsUrlError, Bucket, ExistingBlobs, NextRead, Presence,
    connect, fetch_bucket,
};
pub use database::{Database, DatabaseError, DatabaseUrl, DatabaseUrlError, Dialect};
pub use error::StoreError;
pub use files::TemporaryFolder;
pub use known_files::{KnownFiles, Stamp};
pub use part_uploads::{AssembledUpload, PartUpload, PartUploadError};
pub use segments::Segments;

/// The state folder; clones are cheap and mean the same folder, which several processes may share.
#[derive(Debug, Clone)]
pub struct Store {
    root: Arc<Path>,
    blobs: Blobs,
    owner: Option<Arc<Owner>>,
}

impl Store {
    /// Opens `folder`, creating it if need be, and removes what writers that died more than an hour ago left half-written.
    /// Blobs are kept in it too.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        Self::open_with(folder, &BlobsUrl::InStateFolder)
    }

    /// Like [`Store::open`], with blobs kept at `blobs`.
    pub fn open_with(folder: &Path, blobs: &BlobsUrl) -> Result<Self, StoreError> {
        files::create_private_folder(folder)?;
        let store = Self { root: Arc::from(folder), blobs: Blobs::open(blobs, folder)?, owner: None };
        for folder in [store.windows(), store.temporary(), store.known_files_folder()] {
            files::create_folders(&folder)?;
        }
        files::remove_leftovers(&store.temporary())?;
        Ok(store)
    }

    /// The state folder.
    pub fn folder(&self) -> &Path {
        &self.root
    }

    /// A folder that is removed when it is let go, or an hour after a process that could not do that.
    pub fn temporary_folder(&self) -> Result<TemporaryFolder, StoreError> {
        TemporaryFolder::create(&self.temporary())
    }

    fn known_files_folder(&self) -> PathBuf {
        self.root.join("known-files")
    }

    fn windows(&self) -> PathBuf {
        self.root.join("windows")
    }

    fn temporary(&self) -> PathBuf {
        self.root.join("temporary")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_folder_it_cannot_create() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let error = Store::open(&file.join("state")).unwrap_err();
        assert!(error.to_string().starts_with("failed to create `"), "{error}");
        assert!(error.is_host_failure());
    }

    #[test]
    fn a_folder_that_it_makes_is_for_its_user_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let base = tempfile::tempdir().unwrap();
        let mode = |folder: &Path| folder.metadata().unwrap().permissions().mode() & 0o777;
        let made = base.path().join("above/state");
        Store::open(&made).unwrap();
        assert_eq!(mode(&made), 0o700);
        let given = base.path().join("given");
        std::fs::create_dir(&given).unwrap();
        std::fs::set_permissions(&given, std::fs::Permissions::from_mode(0o750)).unwrap();
        Store::open(&given).unwrap();
        assert_eq!(mode(&given), 0o750, "as somebody else wanted it");
    }

    #[test]
    fn opening_twice_keeps_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let digest = Store::open(folder.path()).unwrap().put_bytes(b"kept").unwrap();
        assert_eq!(Store::open(folder.path()).unwrap().get(digest).unwrap(), b"kept");
    }
}
