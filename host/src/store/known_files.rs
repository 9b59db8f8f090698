use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::files::{Existing, read_plain, write_whole};
use super::{Store, StoreError};
use crate::domain::{Digest, Name};

/// A change this shortly before a file is read may be followed by another that leaves the same times.
const SETTLED_AGE: Duration = Duration::from_secs(2);

/// Largest list that is read; a million files take about 200 MB.
const LIST_MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// Digests of files of this machine that were read before, so that those which have not changed since need not be read
/// again. Whether one has changed is told by its size, inode and times, as `git` does.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct KnownFiles {
    files: HashMap<String, KnownFile>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct KnownFile(Stamp, Digest);

/// What changes with a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// When its content and its entry changed, in nanoseconds since 1970.
    modified: i64,
    changed: i64,
}

impl Stamp {
    /// The file's bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The stamp of a file.
    pub fn of(metadata: &Metadata) -> Self {
        let time = |s: i64, ns: i64| s.saturating_mul(1_000_000_000).saturating_add(ns);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: time(metadata.mtime(), metadata.mtime_nsec()),
            changed: time(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl KnownFiles {
    /// The digest of the file at `path`, if it still is what was read.
    pub fn digest(&self, path: &Path, stamp: &Stamp) -> Option<Digest> {
        let known = self.files.get(path.to_str()?)?;
        (known.0 == *stamp).then_some(known.1)
    }

    /// Remembers a file that was read when it had `stamp`, before `now`.
    pub fn insert(&mut self, path: &Path, stamp: Stamp, digest: Digest, now: SystemTime) {
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let settled = since_1970.saturating_sub(SETTLED_AGE).as_nanos();
        let is_settled = |time: i64| u128::try_from(time).is_ok_and(|time| time < settled);
        if let Some(path) = path.to_str().filter(|_| is_settled(stamp.modified) && is_settled(stamp.changed))
        {
            self.files.insert(path.to_owned(), KnownFile(stamp, digest));
        }
    }
}

impl Store {
    /// The files that were read for the dataset `name`; none if that list is lost, which costs time only.
    pub fn known_files(&self, name: &Name) -> KnownFiles {
        let bytes = read_plain(&self.known_files_path(name), LIST_MAX_BYTES);
        bytes.ok().flatten().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Remembers the files that were read for the dataset `name`, in place of what was known.
    pub fn set_known_files(&self, name: &Name, known: &KnownFiles) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(known).unwrap_or_default();
        write_whole(&self.temporary(), &self.known_files_path(name), &bytes, Existing::Replace).map(drop)
    }

    fn known_files_path(&self, name: &Name) -> std::path::PathBuf {
        self.known_files_folder().join(format!("{name}.json"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_file_is_known_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state")).unwrap();
        let (name, path) = ("d".parse().unwrap(), folder.path().join("file"));
        std::fs::write(&path, "abc").unwrap();
        let stamp = || Stamp::of(&std::fs::metadata(&path).unwrap());
        let digest = Digest::of(b"abc");
        let mut known = KnownFiles::default();
        known.insert(&path, stamp(), digest, SystemTime::now());
        assert_eq!(known.digest(&path, &stamp()), None, "it may be changing right now");
        let later = SystemTime::now() + Duration::from_secs(3);
        known.insert(&path, stamp(), digest, later);
        store.set_known_files(&name, &known).unwrap();
        let known = store.known_files(&name);
        assert_eq!(known.digest(&path, &stamp()), Some(digest));
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::write(&path, "abd").unwrap();
        File::open(&path).unwrap().set_modified(modified).unwrap();
        assert_eq!(known.digest(&path, &stamp()), None, "its time was set back");
        std::fs::write(folder.path().join("state/known-files/d.json"), "{").unwrap();
        assert_eq!(store.known_files(&name).digest(&path, &stamp()), None);
    }
}
