use std::path::{Path, PathBuf};

use crate::domain::Digest;

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
    /// Blobs that are not what they were.
    #[error(
        "{count} files are damaged or missing: add them again with `--reread`, or restore the blobs from a backup"
    )]
    DamagedFiles {
        /// How many.
        count: usize,
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
