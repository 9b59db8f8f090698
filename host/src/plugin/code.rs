//! The folder of compiled code: wasmtime's own cache of it, in which this process looks and which another one fills.

use std::borrow::Cow;
use std::fs::{DirBuilder, File};
use std::hash::{Hash, Hasher};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use wasmtime::{Cache, CacheConfig, Engine};

/// Compiled code that is kept; what was not used for longest goes first.
const CODE_CACHE_MAX_BYTES: u64 = 512 * 1024 * 1024;

/// How often a temporary folder in which something appears is removed, and the pause before each time but the first.
const REMOVALS_MAX: u32 = 10;
const REMOVAL_PAUSE: Duration = Duration::from_millis(10);

/// Where compiled code is.
#[derive(Debug)]
pub(super) struct CodeFolder {
    path: PathBuf,
    /// Goes with the process that made it.
    temporary: Option<TempDir>,
}

impl CodeFolder {
    /// Opens `folder`; where there is none or it cannot be used, one of this process alone takes its place, which costs time and
    /// nothing else.
    pub(super) fn open(folder: Option<&Path>) -> std::io::Result<Self> {
        if let Some(folder) = folder {
            match usable(folder) {
                Ok(path) => return Ok(Self { path, temporary: None }),
                Err(error) => {
                    tracing::warn!("compiled code is not kept in `{}`: {error}", folder.display());
                }
            }
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix("host-code-").permissions(PermissionsExt::from_mode(0o700));
        // Memory, where a container has no disk to write to.
        let temporary = builder.tempdir().or_else(|_| builder.tempdir_in("/dev/shm"))?;
        let path = temporary.path().canonicalize()?;
        Ok(Self { path, temporary: Some(temporary) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for CodeFolder {
    fn drop(&mut self) {
        let Some(temporary) = &self.temporary else { return };
        // A thread of the cache may be writing down what was used.
        for _ in 0..REMOVALS_MAX {
            match std::fs::remove_dir_all(temporary.path()) {
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
                    std::thread::sleep(REMOVAL_PAUSE)
                }
                _ => return,
            }
        }
    }
}

/// Makes `folder` if it is not there, and sees that files can be made in it.
fn usable(folder: &Path) -> std::io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let folder = folder.canonicalize()?;
    tempfile::tempfile_in(&folder)?;
    Ok(folder)
}

/// What an engine looks in.
pub(super) fn cache(folder: &Path) -> wasmtime::Result<Cache> {
    let mut config = CacheConfig::new();
    config.with_directory(folder).with_files_total_size_soft_limit(CODE_CACHE_MAX_BYTES);
    Cache::new(config)
}

/// Waits until nobody else compiles for this folder, until the answer is dropped. One at a time is enough, since the compiler
/// takes all cores, and many would take many times the memory.
pub(super) fn lock(folder: &Path) -> std::io::Result<File> {
    let file = File::open(folder)?;
    match file.lock() {
        // Some file systems of networks have no locks.
        Err(error) if error.kind() != ErrorKind::Unsupported => Err(error),
        _ => Ok(file),
    }
}

/// Gives the code of `component` that engine `from` has left to engine `to`; says whether there was any.
pub(super) fn hand_over(
    folder: &Path,
    component: &[u8],
    from: &Engine,
    to: &Engine,
) -> std::io::Result<bool> {
    let (from, to) = (key(from, component), key(to, component));
    let mut is_there = false;
    // One folder for each version of wasmtime.
    for version in std::fs::read_dir(folder.join("modules"))? {
        let version = version?.path();
        match std::fs::rename(version.join(&from), version.join(&to)) {
            Ok(()) => is_there = true,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(is_there)
}

/// The name of the file in which an engine looks for the code of a component. Wasmtime tells nobody: this is the hash of its
/// `CodeBuilder::compile_cached`. Were it another one, nothing that was compiled would be found, and no component could be loaded.
fn key(engine: &Engine, component: &[u8]) -> String {
    let (debug_information, intrinsics) = (None::<&[u8]>, None::<&str>);
    let of =
        (engine.precompile_compatibility_hash(), Cow::Borrowed(component), debug_information, intrinsics);
    let mut hasher = Sha256Hasher(Sha256::new());
    of.hash(&mut hasher);
    URL_SAFE_NO_PAD.encode(hasher.0.finalize())
}

struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    /// Nobody asks for a part of it.
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_temporary_folder_goes_with_who_made_it() {
        let folder = CodeFolder::open(None).unwrap();
        let path = folder.path().to_owned();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        drop(folder);
        assert!(!path.exists());
    }
}
