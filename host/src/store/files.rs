use std::fs::{DirBuilder, File, Metadata};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use tempfile::{NamedTempFile, TempDir};

use super::StoreError;

/// Younger temporary files may belong to a writer that has created but not yet locked its file.
const LEFTOVER_AGE_MIN: Duration = Duration::from_secs(3_600);

/// Creates a temporary file in `folder` and locks it, so that [`remove_leftovers`] knows its writer lives.
pub(super) fn create_temporary(folder: &Path) -> Result<NamedTempFile, StoreError> {
    // With the rights that any new file has: a folder of blobs may be shared.
    let rights = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    let file = tempfile::Builder::new().permissions(rights).tempfile_in(folder);
    let file = file.map_err(StoreError::io("create a file in", folder))?;
    file.as_file().lock().map_err(StoreError::io("lock", file.path()))?;
    Ok(file)
}

/// A folder for files that nobody else needs. Its lock says that its owner lives, see [`remove_leftovers`].
#[derive(Debug)]
pub struct TemporaryFolder {
    folder: TempDir,
    _lock: File,
}

impl TemporaryFolder {
    pub(super) fn create(parent: &Path) -> Result<Self, StoreError> {
        let folder = TempDir::new_in(parent).map_err(StoreError::io("create a folder in", parent))?;
        let path = folder.path().join(LOCK_FILE);
        let lock = File::create_new(&path).map_err(StoreError::io("create", &path))?;
        lock.lock().map_err(StoreError::io("lock", &path))?;
        Ok(Self { folder, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// What to do where the target of a rename is there already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Replace,
    Keep,
}

/// Syncs `file`, gives it the name `target` and syncs the folder; false if `target` was there and is kept.
pub(super) fn publish(file: NamedTempFile, target: &Path, existing: Existing) -> Result<bool, StoreError> {
    file.as_file().sync_all().map_err(StoreError::io("write", target))?;
    let renamed = match existing {
        Existing::Replace => file.persist(target),
        Existing::Keep => file.persist_noclobber(target),
    };
    let published = match renamed {
        Ok(_) => true,
        Err(error) if existing == Existing::Keep && error.error.kind() == ErrorKind::AlreadyExists => false,
        Err(error) => return Err(StoreError::io("write", target)(error.error)),
    };
    // Also where it was there already: its writer may have died between the rename and this.
    if let Some(folder) = target.parent() {
        sync_folder(folder)?;
    }
    Ok(published)
}

/// Writes `bytes` to `target` as a whole or not at all.
pub(super) fn write_whole(
    temporary: &Path,
    target: &Path,
    bytes: &[u8],
    existing: Existing,
) -> Result<bool, StoreError> {
    let mut file = create_temporary(temporary)?;
    file.write_all(bytes).map_err(StoreError::io("write", target))?;
    publish(file, target, existing)
}

/// Makes the names in `folder` durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(StoreError::io("sync", folder))
}

/// Creates a folder, and those above it that are missing, durably.
pub(super) fn create_folders(folder: &Path) -> Result<(), StoreError> {
    create(folder, &DirBuilder::new())
}

/// The same, and nobody else sees what is in the folder.
pub(super) fn create_private_folder(folder: &Path) -> Result<(), StoreError> {
    create(folder, DirBuilder::new().mode(0o700))
}

fn create(folder: &Path, builder: &DirBuilder) -> Result<(), StoreError> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_folders(parent)?;
    match builder.create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists || !folder.is_dir() => {
            Err(StoreError::io("create", folder)(error))
        }
        // Also where another process was faster: it may not have synced it yet.
        _ => sync_folder(parent),
    }
}

/// Opens a plain file; none if there is no such name. Links, pipes and devices are refused: they would read what lies
/// outside of the state folder, or never end.
pub(super) fn open_plain(path: &Path) -> Result<Option<(File, Metadata)>, StoreError> {
    let named = match std::fs::symlink_metadata(path) {
        Ok(named) => named,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("read", path)(error)),
    };
    if !named.is_file() {
        return Err(StoreError::NotAFile { path: path.to_path_buf() });
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("read", path)(error)),
    };
    let opened = file.metadata().map_err(StoreError::io("read", path))?;
    if !opened.is_file() {
        return Err(StoreError::NotAFile { path: path.to_path_buf() });
    }
    Ok(Some((file, opened)))
}

/// Reads a plain file of at most `limit` bytes; none if there is no such name.
pub(super) fn read_plain(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let Some((file, metadata)) = open_plain(path)? else { return Ok(None) };
    let found = metadata.len();
    if found > limit {
        return Err(StoreError::TooLarge { path: path.to_path_buf(), found, limit });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(found).unwrap_or_default());
    file.take(limit).read_to_end(&mut bytes).map_err(StoreError::io("read", path))?;
    Ok(Some(bytes))
}

/// Name of the file in a temporary folder whose lock says that the folder's writer lives.
pub(super) const LOCK_FILE: &str = ".lock";

/// Removes temporary files and folders that no writer holds any more.
pub(super) fn remove_leftovers(folder: &Path) -> Result<(), StoreError> {
    for entry in std::fs::read_dir(folder).map_err(StoreError::io("read", folder))? {
        let path = entry.map_err(StoreError::io("read", folder))?.path();
        // Another process may clean up at the same time, so a file that vanishes is no failure.
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok());
        let old = age.is_some_and(|age| age > LEFTOVER_AGE_MIN);
        if !old {
            continue;
        }
        let is_held = |lock: &Path| File::open(lock).is_ok_and(|file| file.try_lock().is_err());
        if metadata.is_dir() && !is_held(&path.join(LOCK_FILE)) {
            tracing::debug!(path = %path.display(), "removing a leftover temporary folder");
            let _ = std::fs::remove_dir_all(&path);
        } else if metadata.is_file() && !is_held(&path) {
            tracing::debug!(path = %path.display(), "removing a leftover temporary file");
            let _ = std::fs::remove_file(&path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn removes_only_leftovers_that_are_old_and_unlocked() {
        let folder = tempfile::tempdir().unwrap();
        let create = |name: &str, age_s: u64| {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age_s)).unwrap();
            file
        };
        create("old", 7_200);
        create("young", 60);
        let held = create("held", 7_200);
        held.lock().unwrap();
        let mut locks = Vec::new();
        for name in ["old-folder", "held-folder"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            let lock = File::create(folder.path().join(name).join(LOCK_FILE)).unwrap();
            if name == "held-folder" {
                lock.lock().unwrap();
            }
            locks.push(lock);
            let opened = File::open(folder.path().join(name)).unwrap();
            opened.set_modified(SystemTime::now() - Duration::from_secs(7_200)).unwrap();
        }
        remove_leftovers(folder.path()).unwrap();
        let mut left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["held", "held-folder", "young"]);
    }

    #[test]
    fn reads_neither_links_nor_folders_nor_too_much() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"12345").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(matches!(read_plain(&link, 10), Err(StoreError::NotAFile { .. })));
        assert!(matches!(read_plain(folder.path(), 10), Err(StoreError::NotAFile { .. })));
        assert!(matches!(read_plain(&file, 4), Err(StoreError::TooLarge { found: 5, limit: 4, .. })));
        assert_eq!(read_plain(&file, 5).unwrap().unwrap(), b"12345");
        assert!(read_plain(&folder.path().join("none"), 5).unwrap().is_none());
    }
}
