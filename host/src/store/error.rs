use std::path::{Path, PathBuf};

use crate::domain::{Digest, Name};

/// Something that could not be stored or found.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system failed.
    #[error("failed to {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// What should be stored could not be read.
    #[error("failed to read what is to be stored")]
    Input(#[source] std::io::Error),
    /// There is no such blob.
    #[error("there is no blob {digest}")]
    Missing {
        /// The digest asked for.
        digest: Digest,
    },
    /// A blob is not what it was.
    #[error("blob {digest} is damaged: its bytes have digest {found}")]
    Damaged {
        /// The digest it should have.
        digest: Digest,
        /// The digest it has.
        found: Digest,
    },
    /// The bucket of blobs failed, or cannot be reached.
    #[error("failed to {action} `{place}`")]
    Remote {
        /// What was tried.
        action: &'static str,
        /// The bucket.
        place: String,
        /// Why not.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The threads that speak to the bucket have ended, because the program is about to.
    #[error("the store is being closed")]
    Closed,
    /// Something that is not a file stands where one should.
    #[error("`{}` is not a plain file: expected no link, folder or device there", path.display())]
    NotAFile {
        /// Where.
        path: PathBuf,
    },
    /// A file is too large to be read into memory.
    #[error("`{}` has {found} bytes: expected at most {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A record is not what this program writes.
    #[error("record `{}` cannot be read", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A record of another version of this program.
    #[error("record `{}` has format {found}: expected {expected}, a newer `host` may have written it", path.display())]
    RecordFormat {
        /// The file.
        path: PathBuf,
        /// The format it has.
        found: u64,
        /// The format this program reads.
        expected: u64,
    },
    /// A record cannot be written as JSON.
    #[error("record `{name}` cannot be written as JSON")]
    Encode {
        /// Whose record.
        name: Name,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// Another process changes records for longer than a process should.
    #[error("another process holds the lock `{}` for more than {waited_s} s", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
        /// How long it was waited for.
        waited_s: u64,
    },
}

impl StoreError {
    /// Whether the machine or the state folder failed, rather than the caller who asked for something that is not there
    /// or gave something that cannot be read.
    pub fn is_host_failure(&self) -> bool {
        !matches!(self, Self::Missing { .. } | Self::Input(_))
    }

    pub(super) fn remote(action: &'static str, place: &str, source: object_store::Error) -> Self {
        Self::Remote { action, place: place.to_owned(), source: Box::new(source) }
    }

    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}
