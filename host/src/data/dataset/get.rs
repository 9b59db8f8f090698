use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::manifest::{DatasetManifest, FileEntry};
use super::tree::{Place, Standing, Tree, is_no_folder};
use crate::data::DataError;
use crate::domain::{Digest, map_parallel};
use crate::store::{Store, StoreError};

/// Threads that wait for blobs; a bucket answers each with a delay.
pub(super) const THREADS: usize = 8;

/// Files that get their names together, after the disk was waited for once: for each it would take longer than writing.
const FILES_AT_ONCE: usize = 10_000;

/// What getting a version did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct GetReport {
    /// Files that were written.
    pub written: u64,
    /// Files that were there already.
    pub present: u64,
    /// Bytes that were written.
    pub bytes: u64,
}

/// Writes the files of a version into `folder`, several at a time; every file is checked, and appears whole or not at
/// all. Files that are there already stay, and so does what there is of others, so that what was interrupted goes on
/// where it was. A file of other content in a place is an error unless `replace`. Tells `each` of the bytes of every file
/// that is done. What was written is on the disk when it returns.
pub fn get_files(
    store: &Store,
    manifest: &DatasetManifest,
    folder: &Path,
    replace: bool,
    each: &(dyn Fn(u64) + Sync),
) -> Result<GetReport, DataError> {
    let tree = Tree::create(folder)?;
    let mut report = GetReport::default();
    for files in manifest.files.chunks(FILES_AT_ONCE) {
        let fetched = map_parallel(files, THREADS, stopped, |file| {
            let fetched = fetch(store, file, &tree, replace)?;
            each(file.size);
            Ok(fetched)
        })?;
        let (written, present): (Vec<_>, Vec<_>) =
            files.iter().zip(fetched).partition(|(_, fetched)| *fetched);
        report.present += present.len() as u64;
        if !written.is_empty() {
            tree.sync()?;
        }
        for (file, _) in written {
            publish(file, &tree)?;
            (report.written, report.bytes) = (report.written + 1, report.bytes + file.size);
        }
    }
    // Also where all were there: whoever wrote them may have been killed before this.
    tree.sync()?;
    Ok(report)
}

/// Writes the files of a version into a new folder that nobody else knows of, several at a time; every file is checked.
/// Unlike [`get_files`] it waits for no disk: what is written is for now.
pub fn copy_files(store: &Store, manifest: &DatasetManifest, folder: &Path) -> Result<(), DataError> {
    let tree = Tree::create(folder)?;
    map_parallel(&manifest.files, THREADS, stopped, |file| {
        let path = tree.path(&file.path);
        let mut copy = open_place(&tree, file)?.create().map_err(DataError::write(&path))?;
        Ok(store.copy_blob(file.digest, &mut copy)?)
    })
    .map(drop)
}

fn stopped() -> DataError {
    DataError::Stopped
}

/// Writes a file under the name that it has meanwhile; false if it was there already.
fn fetch(store: &Store, file: &FileEntry, tree: &Tree, replace: bool) -> Result<bool, DataError> {
    let path = tree.path(&file.path);
    let place = open_place(tree, file)?;
    match place.standing().map_err(DataError::read(&path))? {
        Standing::Nothing => {}
        Standing::File(size) if size == file.size && hash(&place, &path)? == file.digest => return Ok(false),
        Standing::File(_) | Standing::Other if replace => {}
        _ => {
            let (expected, found) = ("nothing, or the file of the dataset", "something else");
            return Err(DataError::Path { path, expected, found });
        }
    }
    let part = part_name(file);
    let opened = place.lock_beside(&part).map_err(DataError::write(&path))?;
    let length = opened.metadata().map_err(DataError::write(&path))?.len();
    let mut rest = Rest { file: &opened, at: 0, length, there: Vec::new() };
    match store.copy_blob(file.digest, &mut rest) {
        Ok(()) => {}
        Err(error @ StoreError::Damaged { .. }) => {
            place.remove_beside(&part).map_err(DataError::write(&path))?;
            return Err(error.into());
        }
        Err(error) => return Err(error.into()),
    }
    rest.cut().map_err(DataError::write(&path))?;
    Ok(true)
}

/// Gives a file that was fetched its name.
fn publish(file: &FileEntry, tree: &Tree) -> Result<(), DataError> {
    let path = tree.path(&file.path);
    let place = open_place(tree, file)?;
    // Another process that gets the same version may have done it.
    if !place.replace_by(&part_name(file)).map_err(DataError::write(&path))?
        && hash(&place, &path)? != file.digest
    {
        let (expected, found) = ("the file of the dataset", "something else");
        return Err(DataError::Path { path, expected, found });
    }
    Ok(())
}

/// The place of a file, with the folders above it.
fn open_place<'a>(tree: &Tree, file: &'a FileEntry) -> Result<Place<'a>, DataError> {
    tree.place(&file.path, true).map_err(|error| {
        let path = tree.path(&file.path);
        let path = path.parent().unwrap_or(&path).to_path_buf();
        match is_no_folder(error) {
            true => DataError::Path { path, expected: "folders", found: "below a file or link" },
            false => DataError::Write { path, source: error.into() },
        }
    })
}

/// The name of a file before it is whole: always the same, so that the next one who gets it goes on, and one that no
/// other file of the folder has.
pub(super) fn part_name(file: &FileEntry) -> String {
    let name = Digest::of(format!("{} {}", file.digest, file.path).as_bytes()).hex();
    format!(".part-{}", name.get(..32).unwrap_or(&name))
}

/// The digest of the file at a place, called `path` in errors.
pub(super) fn hash(place: &Place<'_>, path: &Path) -> Result<Digest, DataError> {
    let mut file = place.open().map_err(DataError::read(path))?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut hasher).map_err(DataError::read(path))?;
    Ok(Digest::from_hasher(hasher))
}

/// Writes to a file what is not in it yet: what an earlier try left is compared, and kept as far as it is the same.
struct Rest<'a> {
    file: &'a File,
    /// Bytes that are what they should be.
    at: u64,
    /// Bytes that the file has.
    length: u64,
    there: Vec<u8>,
}

impl Rest<'_> {
    /// How many of the next bytes are in the file already.
    fn same(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.length.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let Some(next) = bytes.get(..left.min(bytes.len())).filter(|next| !next.is_empty()) else {
            return Ok(0);
        };
        self.there.resize(next.len(), 0);
        self.file.read_exact_at(&mut self.there, self.at)?;
        if self.there == next {
            return Ok(next.len());
        }
        self.cut()?;
        Ok(0)
    }

    /// Removes what is wrong, or too much.
    fn cut(&mut self) -> std::io::Result<()> {
        if self.length > self.at {
            self.file.set_len(self.at)?;
            self.length = self.at;
        }
        Ok(())
    }
}

impl Write for Rest<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut count = self.same(bytes)?;
        if count == 0 {
            count = self.file.write_at(bytes, self.at)?;
            self.length = self.length.max(self.at + count as u64);
        }
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
