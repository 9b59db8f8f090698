use std::fs::File;
use std::io::Seek as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::super::StoreError;
use super::local::{LocalBlobs, Staged, hash};
use crate::domain::Digest;

/// Bytes of blobs kept beside a bucket.
const CACHE_MAX_BYTES: u64 = 10 * 1024 * 1024 * 1024;

/// Time after which a download that broke off is no longer gone on with.
const PARTIAL_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Bytes added after which it is looked whether the cache is too large.
const TRIM_EVERY_BYTES: u64 = 1024 * 1024 * 1024;

/// Copies of blobs whose home is a bucket. The oldest are removed where there are too many; each is checked when it is
/// read, so nothing waits for the disk, and one that a failing machine cut is fetched again.
#[derive(Debug)]
pub(super) struct Cache {
    blobs: LocalBlobs,
    partials: PathBuf,
    /// Bytes added since the last look; the first addition of a process looks.
    added: AtomicU64,
}

/// A blob that is being fetched: a file of its own that a later try goes on with. Nobody else fetches it meanwhile.
pub(super) struct Partial {
    pub(super) file: File,
    pub(super) path: PathBuf,
}

impl Cache {
    pub(super) fn open(state_folder: &Path) -> Result<Self, StoreError> {
        let folder = state_folder.join("cache");
        let partials = folder.join("partial");
        std::fs::create_dir_all(&partials).map_err(StoreError::io("create", &partials))?;
        let blobs = LocalBlobs::open(&folder, &state_folder.join("temporary"))?;
        Ok(Self { blobs, partials, added: AtomicU64::new(TRIM_EVERY_BYTES) })
    }

    pub(super) fn blobs(&self) -> &LocalBlobs {
        &self.blobs
    }

    /// A copy whose bytes were checked, if there is one.
    pub(super) fn get(&self, digest: Digest) -> Result<Option<File>, StoreError> {
        let path = self.blobs.path(digest);
        let mut file = match self.blobs.open_unchecked(digest) {
            Ok((file, _)) => file,
            Err(StoreError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        if hash(&mut file, StoreError::io("read", &path), |_| Ok(()))? != digest {
            tracing::warn!(%digest, "a cached copy is damaged and is fetched again");
            std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            return Ok(None);
        }
        file.rewind().map_err(StoreError::io("read", &path))?;
        // The time of its last use, by which the oldest are found.
        let _ = file.set_modified(SystemTime::now());
        Ok(Some(file))
    }

    /// How many bytes a copy has, if there is one.
    pub(super) fn len(&self, digest: Digest) -> Result<Option<u64>, StoreError> {
        match self.blobs.open_unchecked(digest) {
            Ok((_, metadata)) => Ok(Some(metadata.len())),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps staged bytes.
    pub(super) fn insert(&self, staged: Staged) -> Result<(), StoreError> {
        let size = staged.blob.size;
        self.blobs.cache(staged)?;
        self.make_room(size)
    }

    /// Keeps what was fetched and found right; gives it, ready to be read.
    pub(super) fn insert_partial(&self, digest: Digest, mut partial: Partial) -> Result<File, StoreError> {
        let target = self.blobs.path(digest);
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(StoreError::io("create", folder))?;
        }
        std::fs::rename(&partial.path, &target).map_err(StoreError::io("write", &target))?;
        let size = partial.file.metadata().map_or(0, |metadata| metadata.len());
        partial.file.rewind().map_err(StoreError::io("read", &target))?;
        self.make_room(size)?;
        // Without the lock: whoever reads must not keep others from fetching.
        partial.file.unlock().map_err(StoreError::io("unlock", &target))?;
        Ok(partial.file)
    }

    /// Lets go of a copy; whoever reads it has it open.
    pub(super) fn forget(&self, digest: Digest) {
        let _ = std::fs::remove_file(self.blobs.path(digest));
    }

    /// The file that a blob is fetched into, with what an earlier try left. Waits for others that fetch it.
    pub(super) fn partial(&self, digest: Digest) -> Result<Partial, StoreError> {
        let path = self.partials.join(digest.hex());
        loop {
            let mut options = File::options();
            options.read(true).append(true).create(true);
            let file = options.open(&path).map_err(StoreError::io("create", &path))?;
            file.lock().map_err(StoreError::io("lock", &path))?;
            // Whoever was waited for may have given the file its name in the cache, or removed it.
            let opened = file.metadata().map_err(StoreError::io("read", &path))?.ino();
            if std::fs::symlink_metadata(&path).is_ok_and(|named| named.ino() == opened) {
                return Ok(Partial { file, path });
            }
        }
    }

    fn remove_old_partials(&self) -> Result<(), StoreError> {
        for entry in std::fs::read_dir(&self.partials).map_err(StoreError::io("read", &self.partials))? {
            let path = entry.map_err(StoreError::io("read", &self.partials))?.path();
            let Ok(file) = File::open(&path) else { continue };
            let age = file.metadata().and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
            let is_old = matches!(age, Ok(Ok(age)) if age > PARTIAL_AGE_MAX);
            if is_old && file.try_lock().is_ok() {
                let _ = std::fs::remove_file(&path);
            }
        }
        Ok(())
    }

    fn make_room(&self, size: u64) -> Result<(), StoreError> {
        if self.added.fetch_add(size, Ordering::Relaxed) < TRIM_EVERY_BYTES {
            return Ok(());
        }
        self.added.store(0, Ordering::Relaxed);
        self.remove_old_partials()?;
        let mut copies = Vec::new();
        self.blobs.list(&mut |copy| {
            copies.push(copy);
            Ok(())
        })?;
        let mut total: u64 = copies.iter().map(|copy| copy.size).sum();
        copies.sort_by_key(|copy| copy.modified);
        for copy in copies {
            if total <= CACHE_MAX_BYTES {
                break;
            }
            // Another process may have been faster; whoever reads it has it open.
            let _ = std::fs::remove_file(self.blobs.path(copy.digest));
            total -= copy.size;
        }
        Ok(())
    }
}

impl Partial {
    /// Forgets what arrived.
    pub(super) fn discard(self) -> Result<(), StoreError> {
        std::fs::remove_file(&self.path).map_err(StoreError::io("remove", &self.path))
    }
}
