use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::blobs::hash;
use super::files::{
    Existing, LOCK_FILE, create_temporary, open_plain, read_plain, remove_leftovers, write_whole,
};
use super::{BlobInfo, Store, StoreError};
use crate::domain::Digest;

/// Uploads under way at once, of all processes that share a state folder.
const OPEN_MAX: usize = 256;

/// How the folder of an upload begins; its identifier follows.
const FOLDER_PREFIX: &str = "upload-";

/// File in an upload's folder that says what is to become of it.
const ABOUT_FILE: &str = "upload.json";

/// File in an upload's folder that says what became of it.
const ENDED_FILE: &str = "ended.json";

/// Largest of those files: 10,000 digests and a path take less than one.
const FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// A blob that arrives in numbered parts: a folder among the temporary ones, with a file for each part.
///
/// Nothing of it is a blob before all of it is. The folder outlives the process, so that an upload goes on after a
/// restart; like all that is temporary it is removed when nothing arrived for an hour.
#[derive(Debug)]
pub struct PartUpload {
    id: String,
    folder: PathBuf,
    temporary: PathBuf,
    about: About,
}

/// An upload whose parts have become a blob; others cannot complete it meanwhile.
#[derive(Debug)]
pub struct AssembledUpload {
    upload: PartUpload,
    parts: Vec<Digest>,
    blob: BlobInfo,
    _lock: File,
}

/// An upload in parts that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PartUploadError {
    /// It never was, or is forgotten.
    #[error("there is no upload `{id}`, or nothing of it arrived for an hour")]
    Unknown {
        /// Which.
        id: String,
    },
    /// No more are taken.
    #[error("{OPEN_MAX} uploads are under way already: try again later")]
    TooMany,
    /// Somebody else completes or aborts it.
    #[error("upload `{id}` is being completed: try again later")]
    Busy {
        /// Which.
        id: String,
    },
    /// It was completed or aborted.
    #[error("upload `{id}` was {how} already")]
    Ended {
        /// Which.
        id: String,
        /// How.
        how: &'static str,
    },
    /// A part has not arrived.
    #[error("part {number} of upload `{id}` is missing")]
    MissingPart {
        /// Of which upload.
        id: String,
        /// Which.
        number: u32,
    },
    /// A part is not what its sender says it is.
    #[error("part {number} of upload `{id}` has etag {}: expected {}", found.hex(), expected.hex())]
    DifferentPart {
        /// Of which upload.
        id: String,
        /// Which.
        number: u32,
        /// What its sender says.
        expected: Digest,
        /// What arrived.
        found: Digest,
    },
    /// All parts together are too large.
    #[error("upload `{id}` has {found} bytes: expected at most {limit}")]
    TooLarge {
        /// Which.
        id: String,
        /// Its bytes.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    name: String,
    parts: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ended {
    Completed { parts: Vec<Digest> },
    Aborted,
}

impl Store {
    /// Begins an upload of `parts` parts that will be known as `name`; gives its identifier, which cannot be guessed.
    pub fn begin_upload(&self, name: &str, parts: u32) -> Result<String, PartUploadError> {
        let temporary = self.temporary();
        remove_leftovers(&temporary)?;
        if open_uploads(&temporary)? >= OPEN_MAX {
            return Err(PartUploadError::TooMany);
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        let folder = temporary.join(format!("{FOLDER_PREFIX}{id}"));
        std::fs::create_dir(&folder).map_err(StoreError::io("create", &folder))?;
        let lock = folder.join(LOCK_FILE);
        File::create_new(&lock).map_err(StoreError::io("create", &lock))?;
        let about = About { name: name.to_owned(), parts };
        write_json(&temporary, &folder.join(ABOUT_FILE), &about)?;
        Ok(id)
    }

    /// Finds an upload by its identifier, whatever became of it.
    pub fn find_upload(&self, id: &str) -> Result<PartUpload, PartUploadError> {
        let unknown = || PartUploadError::Unknown { id: id.chars().take(80).collect() };
        // Anything else could be a path.
        if id.len() != 32 || !id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(unknown());
        }
        let temporary = self.temporary();
        let folder = temporary.join(format!("{FOLDER_PREFIX}{id}"));
        let about = read_json(&folder.join(ABOUT_FILE))?.ok_or_else(unknown)?;
        Ok(PartUpload { id: id.to_owned(), folder, temporary, about })
    }

    /// Makes one blob of the parts of `upload`, if they have these digests; none if that was done before. Durable when it
    /// returns, but nobody knows of the blob yet, so the upload ends only by [`AssembledUpload::finish`].
    pub fn assemble_upload(
        &self,
        upload: PartUpload,
        parts: Vec<Digest>,
        size_max: u64,
    ) -> Result<Option<AssembledUpload>, PartUploadError> {
        let lock = upload.lock()?;
        match upload.ended()? {
            None => {}
            Some(Ended::Completed { parts: before }) if before == parts => return Ok(None),
            Some(ended) => return Err(upload.ended_error(&ended)),
        }
        upload.check_size(size_max)?;
        let mut reader =
            PartsReader { upload: &upload, expected: &parts, number: 1, part: None, wrong: None };
        let stored = self.put(&mut reader);
        if let Some(wrong) = reader.wrong {
            return Err(wrong);
        }
        Ok(Some(AssembledUpload { blob: stored?, parts, upload, _lock: lock }))
    }
}

impl PartUpload {
    /// What it will be known as.
    pub fn name(&self) -> &str {
        &self.about.name
    }

    /// How many parts it has.
    pub fn parts(&self) -> u32 {
        self.about.parts
    }

    /// Stores a part, in place of one of the same number; gives the digest of its bytes. It is not waited for the disk:
    /// what a failing machine cut is found when the upload is completed.
    pub fn put_part(&self, number: u32, reader: &mut dyn Read) -> Result<Digest, PartUploadError> {
        if let Some(ended) = self.ended()? {
            return Err(self.ended_error(&ended));
        }
        let mut file = create_temporary(&self.temporary)?;
        let path = file.path().to_path_buf();
        let digest = hash(reader, StoreError::Input, |piece| {
            file.write_all(piece).map_err(StoreError::io("write", &path))
        })?;
        match file.persist(self.part(number)) {
            Ok(_) => Ok(digest),
            // It was forgotten meanwhile.
            Err(error) if error.error.kind() == ErrorKind::NotFound => Err(self.unknown()),
            Err(error) => Err(StoreError::io("write", &self.part(number))(error.error).into()),
        }
    }

    /// Ends the upload and forgets its parts; harmless to repeat.
    pub fn abort(&self) -> Result<(), PartUploadError> {
        let _lock = self.lock()?;
        match self.ended()? {
            None => Ok(self.end(&Ended::Aborted)?),
            Some(Ended::Aborted) => Ok(()),
            Some(ended) => Err(self.ended_error(&ended)),
        }
    }

    fn part(&self, number: u32) -> PathBuf {
        self.folder.join(number.to_string())
    }

    fn unknown(&self) -> PartUploadError {
        PartUploadError::Unknown { id: self.id.clone() }
    }

    fn ended(&self) -> Result<Option<Ended>, StoreError> {
        read_json(&self.folder.join(ENDED_FILE))
    }

    fn ended_error(&self, ended: &Ended) -> PartUploadError {
        let how = match ended {
            Ended::Completed { .. } => "completed",
            Ended::Aborted => "aborted",
        };
        PartUploadError::Ended { id: self.id.clone(), how }
    }

    /// Keeps others from ending it, and from removing it as a leftover. Nobody waits: a thread that did would be lost to
    /// all others.
    fn lock(&self) -> Result<File, PartUploadError> {
        let path = self.folder.join(LOCK_FILE);
        let (file, _) = open_plain(&path)?.ok_or_else(|| self.unknown())?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(PartUploadError::Busy { id: self.id.clone() }),
            Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &path)(error).into()),
        }
    }

    /// Looks whether all parts are there before any is read.
    fn check_size(&self, limit: u64) -> Result<(), PartUploadError> {
        let mut found = 0_u64;
        for number in 1..=self.about.parts {
            let missing = || PartUploadError::MissingPart { id: self.id.clone(), number };
            let (_, metadata) = open_plain(&self.part(number))?.ok_or_else(missing)?;
            found = found.saturating_add(metadata.len());
        }
        if found > limit {
            return Err(PartUploadError::TooLarge { id: self.id.clone(), found, limit });
        }
        Ok(())
    }

    /// Remembers what became of it, so that the same request can come again, and then removes its parts.
    fn end(&self, ended: &Ended) -> Result<(), StoreError> {
        write_json(&self.temporary, &self.folder.join(ENDED_FILE), ended)?;
        for entry in std::fs::read_dir(&self.folder).map_err(StoreError::io("read", &self.folder))? {
            let entry = entry.map_err(StoreError::io("read", &self.folder))?;
            if entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()) {
                let path = entry.path();
                std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        Ok(())
    }
}

impl AssembledUpload {
    /// What came of the parts.
    pub fn blob(&self) -> BlobInfo {
        self.blob
    }

    /// Ends the upload, now that somebody else knows of the blob.
    pub fn finish(self) -> Result<(), StoreError> {
        self.upload.end(&Ended::Completed { parts: self.parts })
    }
}

/// Gives one part after the other, and fails at the end of one that is not what it should be.
struct PartsReader<'a> {
    upload: &'a PartUpload,
    expected: &'a [Digest],
    /// The part that is read, or would be next.
    number: u32,
    part: Option<(File, Sha256)>,
    /// Why it failed; an error of reading could not say it.
    wrong: Option<PartUploadError>,
}

impl PartsReader<'_> {
    fn expected(&self) -> Option<Digest> {
        let index = usize::try_from(self.number).ok()?.checked_sub(1)?;
        self.expected.get(index).copied()
    }

    fn open(&self) -> Result<(File, Sha256), PartUploadError> {
        let (id, number) = (self.upload.id.clone(), self.number);
        let opened = open_plain(&self.upload.part(number))?;
        let (file, _) = opened.ok_or(PartUploadError::MissingPart { id, number })?;
        Ok((file, Sha256::new()))
    }

    fn fail(&mut self, wrong: PartUploadError) -> std::io::Error {
        let text = wrong.to_string();
        self.wrong = Some(wrong);
        std::io::Error::other(text)
    }
}

impl Read for PartsReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while let Some(expected) = self.expected() {
            let (mut file, mut hasher) = match self.part.take() {
                Some(part) => part,
                None => self.open().map_err(|error| self.fail(error))?,
            };
            let read = file.read(buffer);
            if let Ok(count @ 1..) = read {
                hasher.update(buffer.get(..count).unwrap_or_default());
            }
            match read {
                Ok(0) if !buffer.is_empty() => {
                    let (id, number) = (self.upload.id.clone(), self.number);
                    let found = Digest::from_hasher(hasher);
                    if found != expected {
                        return Err(self.fail(PartUploadError::DifferentPart {
                            id,
                            number,
                            expected,
                            found,
                        }));
                    }
                    self.number += 1;
                }
                read => {
                    self.part = Some((file, hasher));
                    return read;
                }
            }
        }
        Ok(0)
    }
}

/// Uploads that have not ended.
fn open_uploads(temporary: &Path) -> Result<usize, StoreError> {
    let mut open = 0;
    for entry in std::fs::read_dir(temporary).map_err(StoreError::io("read", temporary))? {
        let entry = entry.map_err(StoreError::io("read", temporary))?;
        let is_upload = entry.file_name().to_str().is_some_and(|name| name.starts_with(FOLDER_PREFIX));
        if is_upload && !entry.path().join(ENDED_FILE).exists() {
            open += 1;
        }
    }
    Ok(open)
}

fn write_json<T: Serialize>(temporary: &Path, target: &Path, value: &T) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(value).map_err(std::io::Error::other);
    let bytes = bytes.map_err(StoreError::io("write", target))?;
    write_whole(temporary, target, &bytes, Existing::Replace).map(drop)
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, StoreError> {
    let Some(bytes) = read_plain(path, FILE_MAX_BYTES)? else { return Ok(None) };
    let value = serde_json::from_slice(&bytes).map_err(std::io::Error::other);
    value.map(Some).map_err(StoreError::io("read", path))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        (folder, store)
    }

    fn put(store: &Store, id: &str, number: u32, mut bytes: &[u8]) -> Digest {
        store.find_upload(id).unwrap().put_part(number, &mut bytes).unwrap()
    }

    fn assemble(
        store: &Store,
        id: &str,
        parts: &[Digest],
    ) -> Result<Option<AssembledUpload>, PartUploadError> {
        store.assemble_upload(store.find_upload(id).unwrap(), parts.to_vec(), 1_000)
    }

    #[test]
    fn parts_become_one_blob_whatever_their_order_of_arrival() {
        let (_folder, store) = store();
        let id = store.begin_upload("a/b", 3).unwrap();
        assert_eq!(store.find_upload(&id).unwrap().name(), "a/b");
        let third = put(&store, &id, 3, b"three");
        let first = put(&store, &id, 1, b"one");
        put(&store, &id, 2, b"mistake");
        let second = put(&store, &id, 2, b"");
        let parts = [first, second, third];
        let assembled = assemble(&store, &id, &parts).unwrap().unwrap();
        assert_eq!(store.get(assembled.blob().digest).unwrap(), b"onethree");
        assert!(matches!(assemble(&store, &id, &parts), Err(PartUploadError::Busy { .. })));
        assembled.finish().unwrap();
        assert!(assemble(&store, &id, &parts).unwrap().is_none(), "harmless to repeat");
        for parts in [&parts[..2], &[third, second, first]] {
            assert!(matches!(assemble(&store, &id, parts), Err(PartUploadError::Ended { .. })));
        }
        let upload = store.find_upload(&id).unwrap();
        assert!(matches!(upload.abort(), Err(PartUploadError::Ended { how: "completed", .. })));
        assert!(matches!(upload.put_part(1, &mut &b"x"[..]), Err(PartUploadError::Ended { .. })));
        assert!(!upload.part(1).exists() && !upload.part(3).exists());
    }

    #[test]
    fn what_is_missing_or_different_leaves_no_blob() {
        let (_folder, store) = store();
        let id = store.begin_upload("a", 2).unwrap();
        let first = put(&store, &id, 1, b"one");
        let missing = assemble(&store, &id, &[first, first]).unwrap_err();
        assert!(matches!(missing, PartUploadError::MissingPart { number: 2, .. }), "{missing}");
        let second = put(&store, &id, 2, &[7; 998]);
        let large = assemble(&store, &id, &[first, second]).unwrap_err();
        assert!(matches!(large, PartUploadError::TooLarge { found: 1_001, .. }), "{large}");
        let second = put(&store, &id, 2, b"two");
        let different = assemble(&store, &id, &[first, first]).unwrap_err();
        assert!(matches!(different, PartUploadError::DifferentPart { number: 2, .. }), "{different}");
        let mut blobs = 0;
        store
            .list_blobs(&mut |_| {
                blobs += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(blobs, 0);
        assert!(assemble(&store, &id, &[first, second]).unwrap().is_some(), "it can be mended");
    }

    #[test]
    fn an_upload_that_was_aborted_is_over() {
        let (_folder, store) = store();
        let id = store.begin_upload("a", 1).unwrap();
        let part = put(&store, &id, 1, b"one");
        let upload = store.find_upload(&id).unwrap();
        upload.abort().unwrap();
        upload.abort().unwrap();
        assert!(!upload.part(1).exists());
        let refused = assemble(&store, &id, &[part]).unwrap_err();
        assert!(matches!(refused, PartUploadError::Ended { how: "aborted", .. }), "{refused}");
    }

    #[test]
    fn identifiers_are_no_paths() {
        let (_folder, store) = store();
        let id = store.begin_upload("a", 1).unwrap();
        for wrong in ["", "..", "../x", &format!("../temporary/{id}"), &id.to_uppercase(), &"0".repeat(32)] {
            let refused = store.find_upload(wrong);
            assert!(matches!(refused, Err(PartUploadError::Unknown { .. })), "{wrong}: {refused:?}");
        }
    }

    #[test]
    fn idle_uploads_are_forgotten_and_those_that_end_make_room() {
        let (_folder, store) = store();
        let ids: Vec<_> = (0..OPEN_MAX).map(|_| store.begin_upload("a", 1).unwrap()).collect();
        assert!(matches!(store.begin_upload("a", 1), Err(PartUploadError::TooMany)));
        store.find_upload(&ids[0]).unwrap().abort().unwrap();
        let new = store.begin_upload("a", 1).unwrap();
        for id in &ids {
            let folder = File::open(store.temporary().join(format!("{FOLDER_PREFIX}{id}"))).unwrap();
            folder.set_modified(SystemTime::now() - Duration::from_secs(7_200)).unwrap();
        }
        store.begin_upload("a", 1).unwrap();
        assert!(matches!(store.find_upload(&ids[0]), Err(PartUploadError::Unknown { .. })));
        assert!(matches!(store.find_upload(&ids[9]), Err(PartUploadError::Unknown { .. })));
        store.find_upload(&new).unwrap();
    }
}
