use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use tempfile::{NamedTempFile, TempPath};

use super::super::files::{TemporaryFolder, open_plain, sync_folder};
use super::super::{Store, StoreError};
use super::direct::{Piece, write_direct};
use super::local::{LocalBlobs, Staged, is_renewed};
use super::{BlobInfo, Blobs};
use crate::domain::{Digest, map_parallel};

/// Files from which syncing the whole file system is quicker than syncing each.
const SYNC_EACH_MAX: usize = 64;

/// Requests to a bucket at the same time.
const UPLOADS_AT_ONCE: usize = 16;

/// Many blobs that are stored together: nothing is kept until [`BlobBatch::keep`], and then the disk is waited for once
/// instead of once a blob. Several threads may add to it.
#[derive(Debug)]
pub struct BlobBatch {
    store: Store,
    folder: TemporaryFolder,
    next: AtomicU64,
    staged: Mutex<Vec<StagedPath>>,
    /// First bytes of the digests of blobs that were there already.
    touched: Mutex<BTreeSet<u8>>,
    existing: ExistingBlobs,
}

/// What becomes of a blob that is stored again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExistingBlobs {
    /// It is left: its name says what it holds.
    Keep,
    /// It is replaced, because it may be damaged.
    Replace,
}

/// When a blob that is stored is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextRead {
    /// Soon, so that it had better stay in memory.
    Soon,
    /// Nobody knows, so that its way through memory would be for nothing.
    Later,
}

/// Whether a blob is there, as far as can be told without asking another machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is, and will be for a while.
    Kept,
    /// It is not.
    Missing,
    /// Only the bucket knows.
    Unknown,
}

/// A blob that has no name yet; its file is closed, since there may be more than a process may have open.
#[derive(Debug)]
struct StagedPath {
    path: TempPath,
    blob: BlobInfo,
}

impl Store {
    /// Begins a batch of blobs.
    pub fn blob_batch(&self, existing: ExistingBlobs) -> Result<BlobBatch, StoreError> {
        Ok(BlobBatch {
            store: self.clone(),
            folder: TemporaryFolder::create(self.staging().temporary())?,
            next: AtomicU64::new(0),
            staged: Mutex::default(),
            touched: Mutex::default(),
            existing,
        })
    }

    fn staging(&self) -> &LocalBlobs {
        match &self.blobs {
            Blobs::Local(blobs) => blobs,
            Blobs::Remote(blobs) => blobs.staging(),
        }
    }

    /// Says that somebody relies on a blob, which keeps it from being removed for a while.
    ///
    /// Asks the file system only: a bucket would have to be asked for each.
    pub fn touch_blob(&self, digest: Digest, size: u64) -> Result<Presence, StoreError> {
        match &self.blobs {
            Blobs::Local(blobs) if blobs.touch(BlobInfo { digest, size })? => Ok(Presence::Kept),
            Blobs::Local(_) => Ok(Presence::Missing),
            Blobs::Remote(_) => Ok(Presence::Unknown),
        }
    }
}

impl BlobBatch {
    /// Adds what `reader` gives; says where it can be read until the batch ends, unless it is a blob already.
    pub fn stage(
        &self,
        reader: &mut dyn Read,
        next_read: NextRead,
    ) -> Result<(BlobInfo, Option<PathBuf>), StoreError> {
        thread_local! {
            // Memory for each of thousands of small files would cost as much as hashing them.
            static PIECE: RefCell<Piece> = const { RefCell::new(Piece::new()) };
        }
        PIECE.with_borrow_mut(|piece| {
            piece.fill(reader).map_err(StoreError::Input)?;
            self.stage_from(piece, reader, next_read)
        })
    }

    /// Adds what is in `piece` and what `reader` gives after it.
    fn stage_from(
        &self,
        piece: &mut Piece,
        reader: &mut dyn Read,
        next_read: NextRead,
    ) -> Result<(BlobInfo, Option<PathBuf>), StoreError> {
        if !piece.is_full() {
            let bytes = piece.bytes();
            let blob = BlobInfo { digest: Digest::of(bytes), size: bytes.len() as u64 };
            if self.is_kept(blob)? {
                return Ok((blob, None));
            }
            let (path, mut file) = self.create()?;
            self.write(&mut file, &path, bytes, next_read)?;
            return Ok((blob, Some(self.add(path, blob))));
        }
        let (path, mut file) = self.create()?;
        let (mut hasher, mut size) = (Sha256::new(), 0);
        loop {
            hasher.update(piece.bytes());
            size += piece.bytes().len() as u64;
            self.write(&mut file, &path, piece.bytes(), next_read)?;
            if !piece.is_full() {
                break;
            }
            piece.fill(reader).map_err(StoreError::Input)?;
        }
        let blob = BlobInfo { digest: Digest::from_hasher(hasher), size };
        if self.is_kept(blob)? {
            return Ok((blob, None));
        }
        Ok((blob, Some(self.add(path, blob))))
    }

    fn write(
        &self,
        file: &mut File,
        path: &Path,
        bytes: &[u8],
        next_read: NextRead,
    ) -> Result<(), StoreError> {
        let written = match (&self.store.blobs, next_read) {
            (Blobs::Local(_), NextRead::Later) => write_direct(file, bytes),
            // What goes to a bucket is read for that.
            (Blobs::Remote(_), _) | (_, NextRead::Soon) => file.write_all(bytes),
        };
        written.map_err(StoreError::io("write", path))
    }

    /// Says that the batch relies on a blob, like [`Store::touch_blob`]; it is durable when the batch is kept.
    pub fn touch(&self, digest: Digest, size: u64) -> Result<Presence, StoreError> {
        let presence = self.store.touch_blob(digest, size)?;
        if presence == Presence::Kept {
            // Whoever put it may not have synced its name yet, or was killed before.
            let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
            touched.insert(digest.first_byte());
        }
        Ok(presence)
    }

    /// Whether a blob need not be stored.
    fn is_kept(&self, blob: BlobInfo) -> Result<bool, StoreError> {
        Ok(self.existing == ExistingBlobs::Keep && self.touch(blob.digest, blob.size)? == Presence::Kept)
    }

    /// Keeps all of them; durable when it returns.
    pub fn keep(self) -> Result<(), StoreError> {
        self.store.claim()?;
        let staged = self.staged.into_inner().unwrap_or_else(PoisonError::into_inner);
        let touched = self.touched.into_inner().unwrap_or_else(PoisonError::into_inner);
        match &self.store.blobs {
            Blobs::Local(blobs) => {
                blobs.sync_names(touched)?;
                keep_local(blobs, self.folder.path(), staged, self.existing)
            }
            Blobs::Remote(blobs) => {
                let staged: Vec<_> = staged.into_iter().map(|staged| Mutex::new(Some(staged))).collect();
                map_parallel(
                    &staged,
                    UPLOADS_AT_ONCE,
                    || StoreError::Closed,
                    |staged| {
                        let staged = staged.lock().unwrap_or_else(PoisonError::into_inner).take();
                        let Some(staged) = staged else { return Ok(()) };
                        match self.existing {
                            ExistingBlobs::Keep => blobs.keep(staged_file(staged)?).map(drop),
                            ExistingBlobs::Replace => blobs.replace(staged_file(staged)?),
                        }
                    },
                )
                .map(drop)
            }
        }
    }

    fn create(&self) -> Result<(TempPath, File), StoreError> {
        let path = self.folder.path().join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let file = File::create_new(&path).map_err(StoreError::io("create", &path))?;
        let path = TempPath::try_from_path(&path).map_err(StoreError::io("create", &path))?;
        Ok((path, file))
    }

    fn add(&self, path: TempPath, blob: BlobInfo) -> PathBuf {
        let readable = path.to_path_buf();
        let mut staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        staged.push(StagedPath { path, blob });
        readable
    }
}

/// The bytes first and then the names, so that a name never shows less than the whole content.
fn keep_local(
    blobs: &LocalBlobs,
    folder: &Path,
    staged: Vec<StagedPath>,
    existing: ExistingBlobs,
) -> Result<(), StoreError> {
    if staged.len() <= SYNC_EACH_MAX {
        for staged in staged {
            match existing {
                ExistingBlobs::Keep => blobs.keep(staged_file(staged)?).map(drop)?,
                ExistingBlobs::Replace => blobs.replace(staged_file(staged)?)?,
            }
        }
        return Ok(());
    }
    sync_file_system(folder)?;
    let _guard = blobs.guard(File::lock_shared)?;
    for StagedPath { path, blob } in staged {
        let target = blobs.path(blob.digest);
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(StoreError::io("create", folder))?;
        }
        match open_plain(&target)? {
            Some((file, metadata))
                if existing == ExistingBlobs::Keep && metadata.len() == blob.size && is_renewed(&file) => {}
            _ => path.persist(&target).map_err(|error| StoreError::io("write", &target)(error.error))?,
        }
    }
    sync_file_system(folder)
}

fn staged_file(staged: StagedPath) -> Result<Staged, StoreError> {
    let file = File::options().read(true).write(true).open(&staged.path);
    let file = file.map_err(StoreError::io("read", &staged.path))?;
    Ok(Staged { file: NamedTempFile::from_parts(file, staged.path), blob: staged.blob })
}

/// Waits until everything that was written to the file system of `folder` is on the disk.
fn sync_file_system(folder: &Path) -> Result<(), StoreError> {
    let opened = File::open(folder).map_err(StoreError::io("read", folder))?;
    rustix::fs::syncfs(&opened).map_err(|error| StoreError::io("sync", folder)(error.into()))?;
    sync_folder(folder)
}
