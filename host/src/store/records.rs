use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::files::{Existing, read_plain, write_whole};
use super::{Store, StoreError};
use crate::domain::Name;

/// Version of the envelope around every record.
const FORMAT: u64 = 1;

/// Largest record that is read; a dataset with ten thousand versions has about 2 MiB.
const RECORD_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Longest wait for another process. A change takes milliseconds, so whoever holds the lock this long has stopped.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Time between two tries for the lock.
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// What a record is about; each kind has its own names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// A dataset and its versions.
    Dataset,
}

impl RecordKind {
    pub(super) const ALL: [Self; 1] = [Self::Dataset];

    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Dataset => "datasets",
        }
    }
}

#[derive(Serialize)]
struct Written<'a, T> {
    format: u64,
    record: &'a T,
}

#[derive(Deserialize)]
struct Format {
    format: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read<T> {
    #[serde(rename = "format")]
    _format: u64,
    record: T,
}

impl Store {
    /// The record of `name`; none if there is none.
    pub fn read_record<T: DeserializeOwned>(
        &self,
        kind: RecordKind,
        name: &Name,
    ) -> Result<Option<T>, StoreError> {
        let path = self.record_path(kind, name);
        let Some(bytes) = read_plain(&path, RECORD_MAX_BYTES)? else { return Ok(None) };
        decode(&path, &bytes).map(Some)
    }

    /// Replaces the record of `name` by what `change` makes of it; gives the new one. No other process changes a record
    /// of this kind meanwhile. Where `change` fails, nothing is written. Durable when it returns.
    pub fn update_record<T, E>(
        &self,
        kind: RecordKind,
        name: &Name,
        change: impl FnOnce(Option<T>) -> Result<T, E>,
    ) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned,
        E: From<StoreError>,
    {
        let folder = self.records(kind);
        // A name cannot start with a dot, so this is no record's file.
        let lock = lock(&folder.join(".lock"))?;
        let changed = change(self.read_record(kind, name)?)?;
        let written = Written { format: FORMAT, record: &changed };
        let bytes = serde_json::to_vec_pretty(&written)
            .map_err(|source| StoreError::Encode { name: name.clone(), source })?;
        write_whole(&self.temporary(), &self.record_path(kind, name), &bytes, Existing::Replace)?;
        drop(lock);
        Ok(changed)
    }

    /// Names that have a record, in order.
    pub fn list_records(&self, kind: RecordKind) -> Result<Vec<Name>, StoreError> {
        let folder = self.records(kind);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(StoreError::io("read", &folder))? {
            let file_name = entry.map_err(StoreError::io("read", &folder))?.file_name();
            let stem = file_name.to_str().and_then(|name| name.strip_suffix(".json"));
            names.extend(stem.and_then(|stem| stem.parse::<Name>().ok()));
        }
        names.sort();
        Ok(names)
    }

    fn record_path(&self, kind: RecordKind, name: &Name) -> PathBuf {
        self.records(kind).join(format!("{name}.json"))
    }
}

fn decode<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, StoreError> {
    let wrong = |source| StoreError::Record { path: path.to_path_buf(), source };
    let Format { format } = serde_json::from_slice(bytes).map_err(wrong)?;
    if format != FORMAT {
        return Err(StoreError::RecordFormat { path: path.to_path_buf(), found: format, expected: FORMAT });
    }
    serde_json::from_slice::<Read<T>>(bytes).map(|read| read.record).map_err(wrong)
}

/// Takes the lock, which falls when the file is closed: by the caller, or by the system if the process dies.
fn lock(path: &Path) -> Result<File, StoreError> {
    let file =
        File::options().create(true).append(true).open(path).map_err(StoreError::io("create", path))?;
    let started = std::time::Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_WAIT => std::thread::sleep(LOCK_RETRY),
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Busy { path: path.to_path_buf(), waited_s: LOCK_WAIT.as_secs() });
            }
            Err(TryLockError::Error(source)) => return Err(StoreError::io("lock", path)(source)),
        }
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

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn set(store: &Store, text: &str, value: u32) -> Result<u32, StoreError> {
        store.update_record(RecordKind::Dataset, &name(text), |_: Option<u32>| Ok(value))
    }

    #[test]
    fn reads_and_lists_what_was_written() {
        let (_folder, store) = store();
        set(&store, "b", 1).unwrap();
        set(&store, "a.json", 2).unwrap();
        assert_eq!(store.read_record::<u32>(RecordKind::Dataset, &name("b")).unwrap(), Some(1));
        assert_eq!(store.read_record::<u32>(RecordKind::Dataset, &name("c")).unwrap(), None);
        assert_eq!(store.list_records(RecordKind::Dataset).unwrap(), [name("a.json"), name("b")]);
    }

    #[test]
    fn the_format_on_disk_stays() {
        let (folder, store) = store();
        set(&store, "a", 7).unwrap();
        let text = std::fs::read_to_string(folder.path().join("datasets/a.json")).unwrap();
        assert_eq!(text, "{\n  \"format\": 1,\n  \"record\": 7\n}");
    }

    #[test]
    fn a_failed_change_writes_nothing() {
        let (_folder, store) = store();
        set(&store, "a", 1).unwrap();
        let failed = store.update_record(RecordKind::Dataset, &name("a"), |_: Option<u32>| {
            Err(StoreError::Input(std::io::Error::other("no")))
        });
        assert!(failed.is_err());
        assert_eq!(store.read_record::<u32>(RecordKind::Dataset, &name("a")).unwrap(), Some(1));
    }

    #[test]
    fn concurrent_changes_lose_nothing() {
        let (folder, _store) = store();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                // A store of its own, as another process would have: the lock belongs to the opened file.
                let store = Store::open(folder.path()).unwrap();
                scope.spawn(move || {
                    for _ in 0..10 {
                        let add = |old: Option<u32>| Ok::<_, StoreError>(old.unwrap_or(0) + 1);
                        store.update_record(RecordKind::Dataset, &name("count"), add).unwrap();
                    }
                });
            }
        });
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.read_record::<u32>(RecordKind::Dataset, &name("count")).unwrap(), Some(40));
    }

    #[test]
    fn refuses_other_formats_damaged_records_and_links() {
        let (folder, store) = store();
        let path = folder.path().join("datasets/a.json");
        let read = || store.read_record::<u32>(RecordKind::Dataset, &name("a")).unwrap_err();
        std::fs::write(&path, r#"{"format": 2, "record": {"new": true}}"#).unwrap();
        let error = read().to_string();
        assert!(error.ends_with("has format 2: expected 1, a newer `host` may have written it"), "{error}");
        for text in ["", "{", r#"{"format": 1, "record": -1}"#, r#"{"format": 1, "record": 1, "x": 1}"#] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(read(), StoreError::Record { .. }), "{text}");
        }
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert!(matches!(read(), StoreError::NotAFile { .. }));
    }
}
