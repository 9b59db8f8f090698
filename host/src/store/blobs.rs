mod batch;
mod bucket;
mod cache;
mod connect;
mod direct;
mod download;
mod local;
mod owner;
mod remote;
mod upload;
mod url;

use std::fs::File;
use std::io::{Read, Seek as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use self::local::LocalBlobs;
use self::remote::RemoteBlobs;
use super::{Store, StoreError};
use crate::domain::Digest;

pub(super) use self::local::hash;
pub(super) use self::owner::Owner;

pub use self::batch::{BlobBatch, ExistingBlobs, NextRead, Presence};
pub use self::bucket::fetch_bucket;
pub use self::connect::{Bucket, connect};
pub use self::url::{BlobsUrl, BlobsUrlError};

/// Largest blob that [`Store::get`] reads into memory; larger ones are read by [`Store::open_blob`].
const IN_MEMORY_MAX_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// A blob that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// Of its bytes.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
}

/// A blob that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobEntry {
    /// Its name, unchecked.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// When it was put last.
    pub modified: SystemTime,
}

/// Where blobs are.
#[derive(Debug, Clone)]
pub(super) enum Blobs {
    /// In a folder of this machine.
    Local(LocalBlobs),
    /// In a bucket.
    Remote(Arc<RemoteBlobs>),
}

impl Blobs {
    pub(super) fn open(url: &BlobsUrl, state_folder: &Path) -> Result<Self, StoreError> {
        match url {
            BlobsUrl::InStateFolder => {
                LocalBlobs::open(&state_folder.join("blobs"), &state_folder.join("temporary"))
                    .map(Self::Local)
            }
            BlobsUrl::Folder(folder) => LocalBlobs::open(folder, &folder.join("temporary")).map(Self::Local),
            BlobsUrl::Bucket(url) => Ok(Self::Remote(Arc::new(RemoteBlobs::open(url, state_folder)?))),
        }
    }
}

impl Store {
    /// Stores what `reader` gives; a blob that is there already is left. Durable when it returns.
    pub fn put(&self, reader: &mut dyn Read) -> Result<BlobInfo, StoreError> {
        self.claim()?;
        match &self.blobs {
            Blobs::Local(blobs) => blobs.keep(blobs.stage(reader)?),
            Blobs::Remote(blobs) => blobs.keep(blobs.staging().stage(reader)?),
        }
    }

    /// Stores `bytes`; a blob that is there already is left. Durable when it returns.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let mut reader = bytes;
        self.put(&mut reader).map(|blob| blob.digest)
    }

    /// The blob's bytes, checked against the digest.
    pub fn get(&self, digest: Digest) -> Result<Vec<u8>, StoreError> {
        let file = match &self.blobs {
            Blobs::Local(blobs) => blobs.open_unchecked(digest)?.0,
            Blobs::Remote(blobs) => blobs.open_checked(digest)?,
        };
        let name = PathBuf::from(digest.hex());
        let unreadable = || StoreError::io("read", &name);
        let found = file.metadata().map_err(unreadable())?.len();
        if found > IN_MEMORY_MAX_BYTES {
            return Err(StoreError::TooLarge { path: name, found, limit: IN_MEMORY_MAX_BYTES });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(found).unwrap_or_default());
        file.take(IN_MEMORY_MAX_BYTES).read_to_end(&mut bytes).map_err(unreadable())?;
        check(digest, Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// Opens a blob for reading, after all of it was checked against the digest: formats that jump about in a file
    /// could not be checked on the way, and nobody acts on bytes that turn out wrong at the end.
    pub fn open_blob(&self, digest: Digest) -> Result<File, StoreError> {
        match &self.blobs {
            Blobs::Remote(blobs) => blobs.open_checked(digest),
            Blobs::Local(blobs) => {
                let (mut file, _) = blobs.open_unchecked(digest)?;
                let path = blobs.path(digest);
                check(digest, hash(&mut file, StoreError::io("read", &path), |_| Ok(()))?)?;
                file.rewind().map_err(StoreError::io("read", &path))?;
                Ok(file)
            }
        }
    }

    /// Writes a blob's bytes to `file`. They turn out wrong at the end, if they are, so nobody may act on them before.
    pub fn copy_blob(&self, digest: Digest, file: &mut dyn Write) -> Result<(), StoreError> {
        let name = PathBuf::from(digest.hex());
        let mut blob = match &self.blobs {
            Blobs::Local(blobs) => blobs.open_unchecked(digest)?.0,
            Blobs::Remote(blobs) => blobs.open_checked(digest)?,
        };
        let found = hash(&mut blob, StoreError::io("read", &name), |piece| {
            file.write_all(piece).map_err(StoreError::io("write a copy of", &name))
        })?;
        check(digest, found)
    }

    /// Reads a blob where it is kept, not a copy of it, and checks it.
    pub fn check_blob(&self, digest: Digest) -> Result<(), StoreError> {
        match &self.blobs {
            Blobs::Local(blobs) => {
                let (mut file, _) = blobs.open_unchecked(digest)?;
                let path = blobs.path(digest);
                check(digest, hash(&mut file, StoreError::io("read", &path), |_| Ok(()))?)
            }
            Blobs::Remote(blobs) => check(digest, blobs.hash(digest)?),
        }
    }

    /// Bytes of a blob, without reading it.
    pub fn blob_len(&self, digest: Digest) -> Result<u64, StoreError> {
        match &self.blobs {
            Blobs::Local(blobs) => Ok(blobs.open_unchecked(digest)?.1.len()),
            Blobs::Remote(blobs) => blobs.len(digest),
        }
    }

    /// How many bytes [`Store::get`] would read. The bucket is not asked for what is kept here of it.
    pub fn read_len(&self, digest: Digest) -> Result<u64, StoreError> {
        match &self.blobs {
            Blobs::Local(_) => self.blob_len(digest),
            Blobs::Remote(blobs) => blobs.read_len(digest),
        }
    }

    /// Whether blobs can be reached at all; says why not.
    pub fn check_blobs(&self) -> Result<(), StoreError> {
        match &self.blobs {
            Blobs::Local(_) => Ok(()),
            Blobs::Remote(blobs) => blobs.check(),
        }
    }

    /// Tells `each` of every blob, in no order.
    pub fn list_blobs(
        &self,
        each: &mut dyn FnMut(BlobEntry) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match &self.blobs {
            Blobs::Local(blobs) => blobs.list(each),
            Blobs::Remote(blobs) => blobs.list(each),
        }
    }

    /// Removes a blob unless somebody put it after `since`; says whether it did.
    pub fn remove_unused_blob(&self, digest: Digest, since: SystemTime) -> Result<bool, StoreError> {
        match &self.blobs {
            Blobs::Local(blobs) => blobs.remove_unused(digest, since),
            Blobs::Remote(blobs) => blobs.remove_unused(digest, since),
        }
    }

    /// How much longer than its last change says a blob may be relied on: where it is put again sooner, it is left as it
    /// is. Removing what is younger is safe only while nobody else writes.
    pub fn unused_age_min(&self) -> Duration {
        match &self.blobs {
            Blobs::Local(_) => Duration::ZERO,
            Blobs::Remote(_) => remote::REFRESH_AGE,
        }
    }

    /// Uploads that broke off before `since`.
    pub fn count_abandoned_uploads(&self, since: SystemTime) -> Result<usize, StoreError> {
        match &self.blobs {
            Blobs::Local(_) => Ok(0),
            Blobs::Remote(blobs) => blobs.count_abandoned(since),
        }
    }

    /// Ends uploads that broke off before `since`; gives their number.
    pub fn abort_abandoned_uploads(&self, since: SystemTime) -> Result<usize, StoreError> {
        match &self.blobs {
            Blobs::Local(_) => Ok(0),
            Blobs::Remote(blobs) => blobs.abort_abandoned(since),
        }
    }
}

fn check(digest: Digest, found: Digest) -> Result<(), StoreError> {
    if found == digest { Ok(()) } else { Err(StoreError::Damaged { digest, found }) }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        (folder, store)
    }

    fn path_of(store: &Store, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        store.folder().join("blobs/sha256").join(&hex[..2]).join(&hex)
    }

    fn files_in(folder: PathBuf) -> usize {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().file_name() != ".lock").count()
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
        let path = path_of(&store, digest);
        let before = std::fs::metadata(&path).unwrap().ino();
        store.put_bytes(b"same").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), before);
    }

    #[test]
    fn names_the_blob_that_is_missing_or_damaged() {
        let (_folder, store) = store();
        let digest = Digest::of(b"abc");
        let error = store.get(digest).unwrap_err();
        assert_eq!(error.to_string(), format!("there is no blob {digest}"));
        assert!(!error.is_host_failure());
        store.put_bytes(b"abc").unwrap();
        std::fs::write(path_of(&store, digest), b"abd").unwrap();
        for error in [store.get(digest).unwrap_err(), store.open_blob(digest).unwrap_err()] {
            let found = Digest::of(b"abd");
            assert_eq!(error.to_string(), format!("blob {digest} is damaged: its bytes have digest {found}"));
            assert!(error.is_host_failure());
        }
    }

    #[test]
    fn only_what_nobody_put_of_late_is_removed() {
        let (_folder, store) = store();
        let digest = store.put_bytes(b"abc").unwrap();
        let now = SystemTime::now();
        let (before, after) = (now - Duration::from_secs(60), now + Duration::from_secs(60));
        assert!(!store.remove_unused_blob(digest, before).unwrap());
        let file = File::options().write(true).open(path_of(&store, digest)).unwrap();
        file.set_modified(before - Duration::from_secs(60)).unwrap();
        // Putting it again is using it.
        store.put_bytes(b"abc").unwrap();
        assert!(!store.remove_unused_blob(digest, before).unwrap());
        let mut listed = Vec::new();
        store
            .list_blobs(&mut |blob| {
                listed.push((blob.digest, blob.size));
                Ok(())
            })
            .unwrap();
        assert_eq!(listed, [(digest, 3)]);
        assert!(store.remove_unused_blob(digest, after).unwrap());
        assert!(matches!(store.get(digest), Err(StoreError::Missing { .. })));
        assert!(!store.remove_unused_blob(digest, after).unwrap());
    }

    #[test]
    fn blobs_can_lie_in_another_folder() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let url = BlobsUrl::Folder(elsewhere.path().to_path_buf());
        let store = Store::open_with(folder.path(), &url).unwrap();
        let digest = store.put_bytes(b"abc").unwrap();
        assert_eq!(Store::open_with(folder.path(), &url).unwrap().get(digest).unwrap(), b"abc");
        assert!(matches!(Store::open(folder.path()).unwrap().get(digest), Err(StoreError::Missing { .. })));
    }

    #[test]
    fn rewrites_a_blob_that_was_cut() {
        let (_folder, store) = store();
        let digest = store.put_bytes(b"abc").unwrap();
        std::fs::write(path_of(&store, digest), b"a").unwrap();
        store.put_bytes(b"abc").unwrap();
        assert_eq!(store.get(digest).unwrap(), b"abc");
    }

    #[test]
    fn refuses_a_link_in_place_of_a_blob() {
        let (folder, store) = store();
        let digest = store.put_bytes(b"abc").unwrap();
        let elsewhere = folder.path().join("elsewhere");
        std::fs::rename(path_of(&store, digest), &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, path_of(&store, digest)).unwrap();
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
        assert_eq!(files_in(store.temporary()) + files_in(store.folder().join("blobs/sha256")), 0);
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
            assert_eq!(files_in(store.temporary()) + files_in(store.folder().join("blobs/sha256")), 0);
            let small = store.put_bytes(b"fits").unwrap();
            assert_eq!(store.get(small).unwrap(), b"fits");
        });
        std::process::Command::new("umount").arg(folder.path()).status().unwrap();
        outcome.unwrap();
    }
}
