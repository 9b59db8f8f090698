use std::io::ErrorKind;
use std::path::PathBuf;

use super::files::{Existing, read_plain, sync_folder, write_whole};
use super::{Store, StoreError};
use crate::domain::Name;

/// Largest segment that is read; a thousand rows of 784 floats have 3 MiB.
const SEGMENT_MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// What a segment's file is called after its number.
const SUFFIX: &str = ".safetensors";

/// Segments of monitoring windows: numbered pieces of bytes for each endpoint.
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

    /// Numbers of the endpoint's segments, oldest first.
    pub fn window_segments(&self, endpoint: &Name) -> Result<Vec<u64>, StoreError> {
        let folder = self.window_folder(endpoint);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::io("read", &folder)(error)),
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let file_name = entry.map_err(StoreError::io("read", &folder))?.file_name();
            let stem = file_name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            numbers.extend(stem.and_then(|stem| stem.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Adds a segment after the newest; gives its number. Durable when it returns.
    pub fn append_window_segment(&self, endpoint: &Name, bytes: &[u8]) -> Result<u64, StoreError> {
        let folder = self.window_folder(endpoint);
        if !folder.is_dir() {
            std::fs::create_dir_all(&folder).map_err(StoreError::io("create", &folder))?;
            sync_folder(&self.windows())?;
        }
        loop {
            let number = self.window_segments(endpoint)?.last().map_or(1, |last| last.saturating_add(1));
            let path = self.segment_path(endpoint, number);
            // Another server of the same endpoint may have taken the number; then the next one is free.
            if write_whole(&self.temporary(), &path, bytes, Existing::Keep)? {
                return Ok(number);
            }
            if number == u64::MAX {
                return Err(StoreError::io("write", &path)(ErrorKind::AlreadyExists.into()));
            }
        }
    }

    /// Puts other bytes in place of a segment.
    pub fn replace_window_segment(
        &self,
        endpoint: &Name,
        number: u64,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let path = self.segment_path(endpoint, number);
        write_whole(&self.temporary(), &path, bytes, Existing::Replace).map(|_| ())
    }

    /// The bytes of a segment; none if it is gone.
    pub fn read_window_segment(&self, endpoint: &Name, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        read_plain(&self.segment_path(endpoint, number), SEGMENT_MAX_BYTES)
    }

    /// Removes a segment; one that is gone already is no failure.
    pub fn remove_window_segment(&self, endpoint: &Name, number: u64) -> Result<(), StoreError> {
        let path = self.segment_path(endpoint, number);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::io("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    fn window_folder(&self, endpoint: &Name) -> PathBuf {
        self.windows().join(endpoint.as_str())
    }

    fn segment_path(&self, endpoint: &Name, number: u64) -> PathBuf {
        self.window_folder(endpoint).join(format!("{number:08}{SUFFIX}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_numbered_in_the_order_they_came() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let endpoint: Name = "mnist".parse().unwrap();
        assert!(store.window_segments(&endpoint).unwrap().is_empty());
        for expected in 1..=11 {
            assert_eq!(store.append_window_segment(&endpoint, &[expected]).unwrap(), u64::from(expected));
        }
        store.remove_window_segment(&endpoint, 1).unwrap();
        store.remove_window_segment(&endpoint, 1).unwrap();
        store.replace_window_segment(&endpoint, 2, b"two").unwrap();
        assert_eq!(store.window_segments(&endpoint).unwrap(), (2..=11).collect::<Vec<_>>());
        assert_eq!(store.read_window_segment(&endpoint, 2).unwrap().unwrap(), b"two");
        assert_eq!(store.read_window_segment(&endpoint, 1).unwrap(), None);
    }
}
