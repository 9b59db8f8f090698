use std::collections::HashSet;
use std::path::Path;

use serde::Serialize;
use walkdir::WalkDir;

use super::get::{THREADS, hash};
use super::manifest::{DatasetManifest, FileEntry};
use super::tree::{Standing, Tree, is_no_folder};
use crate::data::DataError;
use crate::domain::map_parallel;
use crate::store::{Store, StoreError};

/// What is wrong with a file of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileProblem {
    /// The file.
    pub path: String,
    /// What is wrong: `missing`, `damaged`, `changed`, `unreadable` or `unknown`.
    pub problem: &'static str,
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

/// Compares all that is in `folder` with a version, and says what is not the same. Follows no link below it.
pub fn verify_folder(
    manifest: &DatasetManifest,
    folder: &Path,
    each: &(dyn Fn(u64) + Sync),
) -> Result<Vec<FileProblem>, DataError> {
    let tree = Tree::open(folder)?;
    let checked = map_parallel(
        &manifest.files,
        THREADS,
        || DataError::Stopped,
        |file| {
            let problem = compare(file, &tree);
            each(file.size);
            Ok(problem.map(|problem| FileProblem { path: file.path.clone(), problem }))
        },
    );
    let mut problems: Vec<_> = checked?.into_iter().flatten().collect();
    problems.extend(strangers(manifest, folder));
    Ok(problems)
}

/// What is wrong with a file in a folder.
fn compare(file: &FileEntry, tree: &Tree) -> Option<&'static str> {
    let place = match tree.place(&file.path, false) {
        Ok(place) => place,
        Err(error) if is_no_folder(error) => return Some("missing"),
        Err(_) => return Some("unreadable"),
    };
    match place.standing() {
        Ok(Standing::Nothing) => Some("missing"),
        Ok(Standing::File(size)) if size == file.size => match hash(&place, &tree.path(&file.path)) {
            Ok(digest) => (digest != file.digest).then_some("changed"),
            Err(_) => Some("unreadable"),
        },
        Ok(_) => Some("changed"),
        Err(_) => Some("unreadable"),
    }
}

/// Whatever is in a folder and not of the version, also what adding would leave out or refuse.
fn strangers(manifest: &DatasetManifest, folder: &Path) -> Vec<FileProblem> {
    let known: HashSet<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    let mut problems = Vec::new();
    let mut tell = |path: &Path, problem| {
        let path = path.strip_prefix(folder).unwrap_or(path).to_string_lossy().into_owned();
        problems.push(FileProblem { path, problem });
    };
    // The folder itself may be a link.
    for entry in WalkDir::new(folder).follow_root_links(true).sort_by_file_name() {
        match entry {
            Ok(entry) if entry.file_type().is_dir() => {}
            Ok(entry) => {
                let name = entry.path().strip_prefix(folder).ok().and_then(Path::to_str);
                if !name.is_some_and(|name| known.contains(name)) {
                    tell(entry.path(), "unknown");
                }
            }
            Err(error) => tell(error.path().unwrap_or(folder), "unreadable"),
        }
    }
    problems
}
