use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::super::StoreError;
use super::super::files::{
    Existing, create_folders, create_temporary, open_plain, publish, read_plain, remove_leftovers,
    sync_folder, write_whole,
};
use super::owner::NAME_MAX_BYTES;
use super::{BlobEntry, BlobInfo};
use crate::domain::Digest;

/// Bytes hashed and copied at a time.
const PIECE_BYTES: usize = 128 * 1024;

/// Blobs in a folder, by their digests: `sha256/ab/<64 hexadecimal digits>`.
#[derive(Debug, Clone)]
pub(in super::super) struct LocalBlobs {
    folder: Arc<Path>,
    temporary: Arc<Path>,
}

/// Bytes that are on the disk and have no name yet.
pub(super) struct Staged {
    pub(super) file: NamedTempFile,
    pub(super) blob: BlobInfo,
}

impl LocalBlobs {
    /// Opens the folder of blobs `folder`, creating it if need be. Files being written stand in `temporary`, on the same
    /// file system.
    pub(super) fn open(folder: &Path, temporary: &Path) -> Result<Self, StoreError> {
        let by_digest = folder.join("sha256");
        create_folders(&by_digest)?;
        create_folders(temporary)?;
        remove_leftovers(temporary)?;
        Ok(Self { folder: Arc::from(by_digest), temporary: Arc::from(temporary) })
    }

    /// Writes what `reader` gives to a temporary file, and hashes it.
    pub(super) fn stage(&self, reader: &mut dyn Read) -> Result<Staged, StoreError> {
        let mut file = create_temporary(&self.temporary)?;
        let mut size = 0_u64;
        let path = file.path().to_path_buf();
        let digest = hash(reader, StoreError::Input, |piece| {
            size += piece.len() as u64;
            file.write_all(piece).map_err(StoreError::io("write", &path))
        })?;
        Ok(Staged { file, blob: BlobInfo { digest, size } })
    }

    /// Gives staged bytes their name, durably. A blob that is there already, whole, is left.
    pub(super) fn keep(&self, staged: Staged) -> Result<BlobInfo, StoreError> {
        let blob = staged.blob;
        let target = self.path(blob.digest);
        let folder = target.parent().unwrap_or(&self.folder).to_path_buf();
        // Against `remove_unused`, which could otherwise remove what is found to be there here.
        let _guard = self.guard(File::lock_shared)?;
        self.create_folder(&folder)?;
        match open_plain(&target)? {
            Some((file, metadata)) if metadata.len() == blob.size && is_renewed(&file) => {
                sync_folder(&folder)?;
            }
            _ => {
                publish(staged.file, &target, Existing::Replace)?;
            }
        }
        Ok(blob)
    }

    /// Gives staged bytes their name without waiting for the disk: for copies that are checked when they are read.
    pub(super) fn cache(&self, staged: Staged) -> Result<File, StoreError> {
        let target = self.path(staged.blob.digest);
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(StoreError::io("create", folder))?;
        }
        staged.file.persist(&target).map_err(|error| StoreError::io("write", &target)(error.error))
    }

    /// Says that somebody relies on a blob; false if it is not there, whole.
    pub(super) fn touch(&self, blob: BlobInfo) -> Result<bool, StoreError> {
        let path = self.path(blob.digest);
        if std::fs::symlink_metadata(&path).is_err() {
            return Ok(false);
        }
        let _guard = self.guard(File::lock_shared)?;
        match open_plain(&path)? {
            Some((file, metadata)) => Ok(metadata.len() == blob.size && is_renewed(&file)),
            None => Ok(false),
        }
    }

    /// Gives staged bytes their name, durably, in place of a blob that may be damaged.
    pub(super) fn replace(&self, staged: Staged) -> Result<(), StoreError> {
        let target = self.path(staged.blob.digest);
        let _guard = self.guard(File::lock_shared)?;
        self.create_folder(target.parent().unwrap_or(&self.folder))?;
        publish(staged.file, &target, Existing::Replace).map(drop)
    }

    /// Makes durable the names of blobs whose digests begin with these bytes.
    pub(super) fn sync_names(&self, prefixes: impl IntoIterator<Item = u8>) -> Result<(), StoreError> {
        prefixes.into_iter().try_for_each(|prefix| sync_folder(&self.folder.join(format!("{prefix:02x}"))))
    }

    /// What the file `owner` says.
    pub(super) fn owner(&self) -> Result<Option<Vec<u8>>, StoreError> {
        read_plain(&self.owner_path(), NAME_MAX_BYTES)
    }

    /// Writes the file `owner`; one that is there is left unless `replace`.
    pub(super) fn set_owner(&self, project: &str, replace: bool) -> Result<(), StoreError> {
        let path = self.owner_path();
        if !replace && std::fs::symlink_metadata(&path).is_ok() {
            return Ok(());
        }
        let existing = if replace { Existing::Replace } else { Existing::Keep };
        write_whole(&self.temporary, &path, format!("{project}\n").as_bytes(), existing).map(drop)
    }

    fn owner_path(&self) -> PathBuf {
        self.folder.with_file_name("owner")
    }

    /// Where files being written stand.
    pub(super) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Opens a blob as it lies there, unchecked.
    pub(super) fn open_unchecked(&self, digest: Digest) -> Result<(File, Metadata), StoreError> {
        open_plain(&self.path(digest))?.ok_or(StoreError::Missing { digest })
    }

    /// Where a blob lies.
    pub(super) fn path(&self, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        let prefix = hex.get(..2).unwrap_or_default();
        self.folder.join(prefix).join(&hex)
    }

    /// Tells `each` of every blob.
    pub(super) fn list(
        &self,
        each: &mut dyn FnMut(BlobEntry) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for folder in std::fs::read_dir(&self.folder).map_err(StoreError::io("read", &self.folder))? {
            let folder = folder.map_err(StoreError::io("read", &self.folder))?;
            // A link could lead anywhere.
            if !folder.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let folder = folder.path();
            for entry in std::fs::read_dir(&folder).map_err(StoreError::io("read", &folder))? {
                let entry = entry.map_err(StoreError::io("read", &folder))?;
                let name = entry.file_name();
                let digest = name.to_str().and_then(|name| format!("sha256:{name}").parse::<Digest>().ok());
                // Not ours, or gone meanwhile.
                let (Some(digest), Ok(metadata)) = (digest, entry.metadata()) else { continue };
                if !metadata.is_file() {
                    continue;
                }
                let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                each(BlobEntry { digest, size: metadata.len(), modified })?;
            }
        }
        Ok(())
    }

    /// Removes a blob that nobody has put since `since`; says whether it did.
    pub(super) fn remove_unused(&self, digest: Digest, since: SystemTime) -> Result<bool, StoreError> {
        let _guard = self.guard(File::lock)?;
        let path = self.path(digest);
        let Some((_, metadata)) = open_plain(&path)? else { return Ok(false) };
        if metadata.modified().map_err(StoreError::io("read", &path))? > since {
            return Ok(false);
        }
        std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        Ok(true)
    }

    fn create_folder(&self, folder: &Path) -> Result<(), StoreError> {
        match std::fs::create_dir(folder) {
            Ok(()) => sync_folder(&self.folder),
            // Its maker may not have synced it yet.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => sync_folder(&self.folder),
            Err(error) => Err(StoreError::io("create", folder)(error)),
        }
    }

    /// Takes the lock between those who put and those who remove; it falls with the file.
    pub(super) fn guard(&self, take: fn(&File) -> std::io::Result<()>) -> Result<File, StoreError> {
        let path = self.folder.join(".lock");
        let file =
            File::options().create(true).append(true).open(&path).map_err(StoreError::io("create", &path))?;
        take(&file).map_err(StoreError::io("lock", &path))?;
        Ok(file)
    }
}

/// Makes a blob as young as one that was just put. Where that is not allowed, because another user's process wrote it, it
/// could be found unused, and has to be written anew.
pub(super) fn is_renewed(file: &File) -> bool {
    file.set_modified(SystemTime::now()).is_ok()
}

/// Hashes all that `reader` gives, handing each piece on.
pub(in super::super) fn hash(
    reader: &mut dyn Read,
    unreadable: impl FnOnce(std::io::Error) -> StoreError,
    mut each: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<Digest, StoreError> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_hasher(hasher)),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(error)),
        };
        let piece = buffer.get(..count).unwrap_or_default();
        hasher.update(piece);
        each(piece)?;
    }
}
