use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::files::find_all;
use super::manifest::{DatasetManifest, FileEntry};
use crate::data::DataError;
use crate::domain::{Digest, map_parallel};
use crate::store::{Store, StoreError};

/// Threads that wait for blobs; a bucket answers each with a delay.
const THREADS: usize = 8;

/// What is wrong with a file of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileProblem {
    /// The file.
    pub path: String,
    /// What is wrong: `missing`, `damaged`, `changed` or `unknown`.
    pub problem: &'static str,
}

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
/// all. Files that are there already stay, so that what was interrupted goes on where it was. A file of other content in
/// a place is an error unless `replace`. Tells `each` of the bytes of every file that is done.
pub fn get_files(
    store: &Store,
    manifest: &DatasetManifest,
    folder: &Path,
    replace: bool,
    each: &(dyn Fn(u64) + Sync),
) -> Result<GetReport, DataError> {
    let mut folders: HashSet<PathBuf> = HashSet::from([folder.to_path_buf()]);
    for file in &manifest.files {
        let target = folder.join(&file.path);
        folders.extend(target.ancestors().skip(1).take_while(|path| *path != folder).map(Path::to_path_buf));
    }
    let mut folders: Vec<_> = folders.into_iter().collect();
    folders.sort();
    folders.iter().try_for_each(|path| make_folder(path, folder))?;
    let written = map_parallel(
        &manifest.files,
        THREADS,
        || DataError::Stopped,
        |file| {
            let written = get_file(store, file, &folder.join(&file.path), replace)?;
            each(file.size);
            Ok((written, file.size))
        },
    )?;
    let mut report = GetReport::default();
    for (written, size) in written {
        match written {
            true => (report.written, report.bytes) = (report.written + 1, report.bytes + size),
            false => report.present += 1,
        }
    }
    Ok(report)
}

/// Creates a folder. One below `root` must not be a link, which could lead anywhere.
fn make_folder(path: &Path, root: &Path) -> Result<(), DataError> {
    if path == root {
        return std::fs::create_dir_all(path).map_err(DataError::write(path));
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => {
            let (expected, found) = ("a folder", "a file or link");
            Err(DataError::Path { path: path.to_path_buf(), expected, found })
        }
        Err(_) => std::fs::create_dir(path).map_err(DataError::write(path)),
    }
}

/// Writes a file; false if it was there already.
fn get_file(store: &Store, file: &FileEntry, target: &Path, replace: bool) -> Result<bool, DataError> {
    match std::fs::symlink_metadata(target) {
        Ok(found) if found.is_file() && found.len() == file.size && hash(target)? == file.digest => {
            return Ok(false);
        }
        Ok(found) if found.is_dir() || !replace => {
            let (expected, found) = ("nothing, or the file of the dataset", "something else");
            return Err(DataError::Path { path: target.to_path_buf(), expected, found });
        }
        _ => {}
    }
    let folder = target.parent().unwrap_or(Path::new("."));
    // With the rights that any new file has.
    let rights = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    let temporary = tempfile::Builder::new().prefix(".part-").permissions(rights).tempfile_in(folder);
    let mut temporary = temporary.map_err(DataError::write(target))?;
    store.copy_blob(file.digest, temporary.as_file_mut())?;
    temporary.persist(target).map_err(|error| DataError::write(target)(error.error))?;
    Ok(true)
}

/// Reads every blob of a version, and says which are not what they were.
pub fn verify_files(
    store: &Store,
    manifest: &DatasetManifest,
    each: &(dyn Fn(u64) + Sync),
) -> Result<Vec<FileProblem>, DataError> {
    let checked = map_parallel(
        &manifest.files,
        THREADS,
        || DataError::Stopped,
        |file| {
            let problem = match store.check_blob(file.digest) {
                Ok(()) => None,
                Err(StoreError::Missing { .. }) => Some("missing"),
                Err(StoreError::Damaged { .. } | StoreError::NotAFile { .. }) => Some("damaged"),
                Err(error) => return Err(error.into()),
            };
            each(file.size);
            Ok(problem.map(|problem| FileProblem { path: file.path.clone(), problem }))
        },
    );
    Ok(checked?.into_iter().flatten().collect())
}

/// Compares the files in `folder` with a version, and says which are not the same.
pub fn verify_folder(
    manifest: &DatasetManifest,
    folder: &Path,
    each: &(dyn Fn(u64) + Sync),
) -> Result<Vec<FileProblem>, DataError> {
    let checked = map_parallel(
        &manifest.files,
        THREADS,
        || DataError::Stopped,
        |file| {
            let path = folder.join(&file.path);
            let problem = match std::fs::symlink_metadata(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some("missing"),
                Err(error) => return Err(DataError::read(&path)(error)),
                Ok(found) if !found.is_file() || found.len() != file.size => Some("changed"),
                Ok(_) => (hash(&path)? != file.digest).then_some("changed"),
            };
            each(file.size);
            Ok(problem.map(|problem| FileProblem { path: file.path.clone(), problem }))
        },
    );
    let mut problems: Vec<_> = checked?.into_iter().flatten().collect();
    let known: HashSet<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    let unknown = find_all(folder)?.into_iter().filter(|path| !known.contains(path.as_str()));
    problems.extend(unknown.map(|path| FileProblem { path, problem: "unknown" }));
    Ok(problems)
}

fn hash(path: &Path) -> Result<Digest, DataError> {
    let mut file = File::open(path).map_err(DataError::read(path))?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut hasher).map_err(DataError::read(path))?;
    Ok(Digest::from_hasher(hasher))
}
