use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read, Seek as _, Write as _};
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::files::{Existing, create_temporary, open_plain, publish, sync_folder};
use super::{Store, StoreError};
use crate::domain::Digest;

/// Largest blob that [`Store::get`] reads into memory; larger ones are read by [`Store::open_blob`].
const IN_MEMORY_MAX_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// Bytes hashed and copied at a time.
const PIECE_BYTES: usize = 128 * 1024;

impl Store {
    /// Stores what `reader` gives; a blob that is there already is left. Durable when it returns.
    pub fn put(&self, reader: &mut dyn Read) -> Result<Digest, StoreError> {
        let temporary = self.temporary();
        let mut file = create_temporary(&temporary)?;
        let mut size = 0_u64;
        let path = file.path().to_path_buf();
        let digest = hash(reader, StoreError::Input, |piece| {
            size += piece.len() as u64;
            file.write_all(piece).map_err(StoreError::io("write", &path))
        })?;
        let target = self.blob_path(digest);
        let folder = target.parent().unwrap_or(&temporary).to_path_buf();
        if !self.prepare_folder(&folder, digest, size)? {
            publish(file, &target, Existing::Replace)?;
        }
        Ok(digest)
    }

    /// Stores `bytes`; a blob that is there already is left. Durable when it returns.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let mut reader = bytes;
        self.put(&mut reader)
    }

    /// The blob's bytes, checked against the digest.
    pub fn get(&self, digest: Digest) -> Result<Vec<u8>, StoreError> {
        let (file, metadata) = self.open_unchecked(digest)?;
        let path = self.blob_path(digest);
        let found = metadata.len();
        if found > IN_MEMORY_MAX_BYTES {
            return Err(StoreError::TooLarge { path, found, limit: IN_MEMORY_MAX_BYTES });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(found).unwrap_or_default());
        file.take(IN_MEMORY_MAX_BYTES).read_to_end(&mut bytes).map_err(StoreError::io("read", &path))?;
        check(digest, Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// Opens a blob for reading, after all of it was checked against the digest: formats that jump about in a file
    /// could not be checked on the way, and nobody acts on bytes that turn out wrong at the end.
    pub fn open_blob(&self, digest: Digest) -> Result<File, StoreError> {
        let (mut file, _) = self.open_unchecked(digest)?;
        let path = self.blob_path(digest);
        let found = hash(&mut file, StoreError::io("read", &path), |_| Ok(()))?;
        check(digest, found)?;
        file.rewind().map_err(StoreError::io("read", &path))?;
        Ok(file)
    }

    /// Bytes of a blob.
    pub fn blob_len(&self, digest: Digest) -> Result<u64, StoreError> {
        Ok(self.open_unchecked(digest)?.1.len())
    }

    fn open_unchecked(&self, digest: Digest) -> Result<(File, Metadata), StoreError> {
        open_plain(&self.blob_path(digest))?.ok_or(StoreError::Missing { digest })
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        let prefix = hex.get(..2).unwrap_or_default();
        self.blobs().join(prefix).join(&hex)
    }

    /// Creates the blob's folder; says whether the blob is there already, whole and durable. One that a failing disk has
    /// cut is written again.
    fn prepare_folder(
        &self,
        folder: &std::path::Path,
        digest: Digest,
        size: u64,
    ) -> Result<bool, StoreError> {
        match std::fs::create_dir(folder) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(StoreError::io("create", folder)(error)),
        }
        sync_folder(&self.blobs())?;
        match open_plain(&self.blob_path(digest))? {
            Some((_, metadata)) if metadata.len() == size => sync_folder(folder).map(|()| true),
            _ => Ok(false),
        }
    }
}

fn check(digest: Digest, found: Digest) -> Result<(), StoreError> {
    if found == digest { Ok(()) } else { Err(StoreError::Damaged { digest, found }) }
}

/// Hashes all that `reader` gives, handing each piece on.
fn hash(
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

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        (folder, store)
    }

    fn files_in(folder: PathBuf) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn gives_back_what_was_put() {
        let (_folder, store) = store();
        let bytes: Vec<u8> = (0..300_000_u32).map(|value| value as u8).collect();
        let digest = store.put_bytes(&bytes).unwrap();
        assert_eq!(digest, Digest::of(&bytes));
        assert_eq!(store.get(digest).unwrap(), bytes);
        assert_eq!(store.blob_len(digest).unwrap(), 300_000);
        let mut read = Vec::new();
        store.open_blob(digest).unwrap().read_to_end(&mut read).unwrap();
        assert_eq!(read, bytes);
        assert_eq!(store.put_bytes(b"").and_then(|empty| store.get(empty)).unwrap(), b"");
        assert_eq!(files_in(store.temporary()), 0);
    }

    #[test]
    fn leaves_a_blob_that_is_there() {
        let (_folder, store) = store();
        let digest = store.put_bytes(b"same").unwrap();
        let path = store.blob_path(digest);
        let before = std::fs::metadata(&path).unwrap().modified().unwrap();
        store.put_bytes(b"same").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), before);
    }

    #[test]
    fn names_the_blob_that_is_missing_or_damaged() {
        let (_folder, store) = store();
        let digest = Digest::of(b"abc");
        let error = store.get(digest).unwrap_err();
        assert_eq!(error.to_string(), format!("there is no blob {digest}"));
        assert!(!error.is_host_failure());
        store.put_bytes(b"abc").unwrap();
        std::fs::write(store.blob_path(digest), b"abd").unwrap();
        for error in [store.get(digest).unwrap_err(), store.open_blob(digest).unwrap_err()] {
            let found = Digest::of(b"abd");
            assert_eq!(error.to_string(), format!("blob {digest} is damaged: its bytes have digest {found}"));
            assert!(error.is_host_failure());
        }
    }

    #[test]
    fn rewrites_a_blob_that_was_cut() {
        let (_folder, store) = store();
        let digest = store.put_bytes(b"abc").unwrap();
        std::fs::write(store.blob_path(digest), b"a").unwrap();
        store.put_bytes(b"abc").unwrap();
        assert_eq!(store.get(digest).unwrap(), b"abc");
    }

    #[test]
    fn refuses_a_link_in_place_of_a_blob() {
        let (folder, store) = store();
        let digest = store.put_bytes(b"abc").unwrap();
        let elsewhere = folder.path().join("elsewhere");
        std::fs::rename(store.blob_path(digest), &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, store.blob_path(digest)).unwrap();
        assert!(matches!(store.get(digest), Err(StoreError::NotAFile { .. })));
        assert!(matches!(store.put_bytes(b"abc"), Err(StoreError::NotAFile { .. })));
    }

    #[test]
    fn a_reader_that_fails_leaves_nothing() {
        struct Failing(usize);
        impl Read for Failing {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                self.0 += 1;
                if self.0 > 3 { Err(std::io::Error::other("gone")) } else { Ok(buffer.len()) }
            }
        }
        let (_folder, store) = store();
        assert!(matches!(store.put(&mut Failing(0)), Err(StoreError::Input(_))));
        assert_eq!(files_in(store.temporary()) + files_in(store.blobs()), 0);
    }

    /// Needs the right to mount; a machine without it skips.
    #[test]
    fn a_full_disk_is_an_error_that_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
            .arg(folder.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("skipped: a tmpfs cannot be mounted here");
            return;
        }
        let outcome = std::panic::catch_unwind(|| {
            let store = Store::open(folder.path()).unwrap();
            let error = store.put(&mut std::io::repeat(7).take(1 << 20)).unwrap_err();
            assert!(error.is_host_failure());
            assert!(
                matches!(&error, StoreError::Io { action: "write", source, .. }
                    if source.kind() == ErrorKind::StorageFull),
                "{error:?}"
            );
            assert_eq!(files_in(store.temporary()) + files_in(store.blobs()), 0);
            let small = store.put_bytes(b"fits").unwrap();
            assert_eq!(store.get(small).unwrap(), b"fits");
        });
        std::process::Command::new("umount").arg(folder.path()).status().unwrap();
        outcome.unwrap();
    }
}
