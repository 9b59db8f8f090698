use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::files::{
    Existing, create_folders, create_private_folder, create_temporary, open_plain, publish, read_plain,
};
use super::{Store, StoreError};
use crate::domain::Name;
use crate::task::rest;

/// Largest segment that is read; a thousand rows of 784 floats have 3 MiB.
const SEGMENT_MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// Bytes of a segment that are written without a rest.
const PIECE_BYTES: usize = 64 * 1024;

/// Numbered pieces of bytes that come one after another, the oldest of which go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segments<'a> {
    /// The monitoring window of an endpoint.
    Window(&'a Name),
    /// Predictions that were served.
    Predictions,
}

impl Segments<'_> {
    /// What a segment's file is called after its number.
    fn suffix(self) -> &'static str {
        match self {
            Self::Window(_) => ".safetensors",
            Self::Predictions => ".predictions",
        }
    }
}

impl Store {
    /// Endpoints that have a window.
    pub fn window_endpoints(&self) -> Result<Vec<Name>, StoreError> {
        let folder = self.windows();
        let mut endpoints = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(StoreError::io("read", &folder))? {
            let file_name = entry.map_err(StoreError::io("read", &folder))?.file_name();
            endpoints.extend(file_name.to_str().and_then(|name| name.parse().ok()));
        }
        Ok(endpoints)
    }

    /// Numbers of the segments, oldest first.
    pub fn segments(&self, of: Segments<'_>) -> Result<Vec<u64>, StoreError> {
        let folder = self.segment_folder(of);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::io("read", &folder)(error)),
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let file_name = entry.map_err(StoreError::io("read", &folder))?.file_name();
            let stem = file_name.to_str().and_then(|name| name.strip_suffix(of.suffix()));
            numbers.extend(stem.and_then(|stem| stem.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Adds a segment of `parts` after the newest; gives its number. Durable when it returns.
    ///
    /// Rests now and then, since servers write segments beside what they answer.
    pub fn append_segment(&self, of: Segments<'_>, parts: &[&[u8]]) -> Result<u64, StoreError> {
        // The state folder may have been taken away while a server runs; what is made anew is for its user alone, too.
        create_private_folder(self.folder())?;
        create_folders(&self.temporary())?;
        create_folders(&self.segment_folder(of))?;
        loop {
            let number = self.segments(of)?.last().map_or(1, |last| last.saturating_add(1));
            let path = self.segment_path(of, number);
            // Another server may have taken the number; then the next one is free.
            if self.write_segment(&path, parts, Existing::Keep)? {
                return Ok(number);
            }
            if number == u64::MAX {
                return Err(StoreError::io("write", &path)(ErrorKind::AlreadyExists.into()));
            }
        }
    }

    /// Puts `parts` in place of a segment, as a whole or not at all. Durable when it returns, and rests as
    /// [`Store::append_segment`] does.
    pub fn replace_segment(&self, of: Segments<'_>, number: u64, parts: &[&[u8]]) -> Result<(), StoreError> {
        self.write_segment(&self.segment_path(of, number), parts, Existing::Replace).map(|_| ())
    }

    fn write_segment(&self, path: &Path, parts: &[&[u8]], existing: Existing) -> Result<bool, StoreError> {
        let mut file = create_temporary(&self.temporary())?;
        for (index, piece) in parts.iter().flat_map(|part| part.chunks(PIECE_BYTES)).enumerate() {
            if index > 0 {
                rest();
            }
            file.write_all(piece).map_err(StoreError::io("write", path))?;
        }
        publish(file, path, existing)
    }

    /// The bytes of a segment; none if it is gone.
    pub fn read_segment(&self, of: Segments<'_>, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        read_plain(&self.segment_path(of, number), SEGMENT_MAX_BYTES)
    }

    /// Opens a segment to read a part of it; none if it is gone.
    pub fn open_segment(&self, of: Segments<'_>, number: u64) -> Result<Option<File>, StoreError> {
        Ok(open_plain(&self.segment_path(of, number))?.map(|(file, _)| file))
    }

    /// Removes a segment; one that is gone already is no failure.
    pub fn remove_segment(&self, of: Segments<'_>, number: u64) -> Result<(), StoreError> {
        let path = self.segment_path(of, number);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::io("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// The size of a segment in bytes; none if it is gone.
    pub fn segment_len(&self, of: Segments<'_>, number: u64) -> Result<Option<u64>, StoreError> {
        let path = self.segment_path(of, number);
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }

    /// Whether nothing was written to a window since `since`.
    pub fn is_window_unused(&self, endpoint: &Name, since: SystemTime) -> Result<bool, StoreError> {
        let of = Segments::Window(endpoint);
        let segments = self.segments(of)?;
        if segments.is_empty() {
            return is_older(&self.segment_folder(of), since);
        }
        for number in segments {
            if !is_older(&self.segment_path(of, number), since)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes a window if nothing was written to it since `since`; whether it did. What is written meanwhile stays.
    pub fn remove_unused_window(&self, endpoint: &Name, since: SystemTime) -> Result<bool, StoreError> {
        if !self.is_window_unused(endpoint, since)? {
            return Ok(false);
        }
        let of = Segments::Window(endpoint);
        for number in self.segments(of)? {
            if !is_older(&self.segment_path(of, number), since)? {
                return Ok(false);
            }
            self.remove_segment(of, number)?;
        }
        // Which fails where something is in it.
        Ok(std::fs::remove_dir(self.segment_folder(of)).is_ok())
    }

    fn segment_folder(&self, of: Segments<'_>) -> PathBuf {
        match of {
            Segments::Window(endpoint) => self.windows().join(endpoint.as_str()),
            Segments::Predictions => self.folder().join("predictions"),
        }
    }

    /// The file of a segment.
    pub fn segment_path(&self, of: Segments<'_>, number: u64) -> PathBuf {
        self.segment_folder(of).join(format!("{number:08}{}", of.suffix()))
    }
}

/// Whether a file or folder was written before `since`, or is gone.
fn is_older(path: &Path, since: SystemTime) -> Result<bool, StoreError> {
    match std::fs::symlink_metadata(path).and_then(|metadata| metadata.modified()) {
        Ok(modified) => Ok(modified < since),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_state_folder_that_was_taken_away_is_made_anew_for_its_user_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("state");
        let store = Store::open(&folder).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(store.append_segment(Segments::Predictions, &[b"one"]).unwrap(), 1);
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_window_is_removed_that_nobody_writes_to() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (gone, served): (Name, Name) = ("gone".parse().unwrap(), "served".parse().unwrap());
        let write = |endpoint: &Name| store.append_segment(Segments::Window(endpoint), &[b"rows"]).unwrap();
        let age = |endpoint: &Name, number: u64| {
            let path = store.segment_path(Segments::Window(endpoint), number);
            let file = File::options().append(true).open(path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(7_200)).unwrap();
        };
        for endpoint in [&gone, &served] {
            (0..2).for_each(|_| age(endpoint, write(endpoint)));
        }
        write(&served);
        let hour_ago = SystemTime::now() - Duration::from_secs(3_600);
        assert!(!store.is_window_unused(&served, hour_ago).unwrap());
        assert!(!store.remove_unused_window(&served, hour_ago).unwrap());
        assert!(store.remove_unused_window(&gone, hour_ago).unwrap());
        assert_eq!(store.window_endpoints().unwrap(), std::slice::from_ref(&served));
        assert_eq!(store.segments(Segments::Window(&served)).unwrap(), [1, 2, 3]);
        // Its server goes on.
        write(&gone);
        assert_eq!(store.segments(Segments::Window(&gone)).unwrap(), [1]);
    }

    #[test]
    fn segments_are_numbered_in_the_order_they_came() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let endpoint: Name = "mnist".parse().unwrap();
        let of = Segments::Window(&endpoint);
        assert!(store.segments(of).unwrap().is_empty());
        for expected in 1..=11 {
            assert_eq!(store.append_segment(of, &[&[expected], b""]).unwrap(), u64::from(expected));
        }
        assert_eq!(store.read_segment(of, 11).unwrap().unwrap(), [11]);
        store.remove_segment(of, 1).unwrap();
        store.remove_segment(of, 1).unwrap();
        store.replace_segment(of, 2, &[b"t", b"wo"]).unwrap();
        assert_eq!(store.segments(of).unwrap(), (2..=11).collect::<Vec<_>>());
        assert_eq!(store.read_segment(of, 2).unwrap().unwrap(), b"two");
        assert_eq!(store.read_segment(of, 1).unwrap(), None);
    }
}
