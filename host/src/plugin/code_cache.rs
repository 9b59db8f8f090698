//! What is in the folder of compiled code: wasmtime's own cache of it, in which this process looks and which another one fills, and
//! a digest of each code. Wasmtime takes what it finds there for what it has written; what a disk has damaged would end the
//! process that runs it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::hash::{Hash, Hasher};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use wasmtime::{Cache, CacheConfig, Engine};

use super::code::is_older;

/// Compiled code that is kept; what was not used for longest goes first.
const MAX_BYTES: u64 = 512 * 1024 * 1024;

/// How the names of files end that wasmtime has not written to their end, and how old one is that nobody goes on with.
const UNFINISHED: &str = "wip-atomic-write-mod";
const UNFINISHED_STATS: &str = "wip-atomic-write-stats";
const UNFINISHED_MAX: Duration = Duration::from_secs(3_600);

/// Where wasmtime has its code, in a folder for each version of it, and where the digests of it are.
const CODE: &str = "modules";
const DIGESTS: &str = "digests";

/// What wasmtime takes for a cleaning of its cache that is under way, and how long that may take. Its own cleaning removes whatever it
/// does not know, such as digests and locks; [`CachedCode::trim_others`] is ours.
const CLEANING: &str = ".cleanup.wip-host";
const CLEANING_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// What an engine looks in.
pub(super) fn cache(folder: &Path) -> wasmtime::Result<Cache> {
    let mut config = CacheConfig::new();
    config.with_cleanup_interval(CLEANING_MAX);
    // Where the clock was set back.
    config.with_allowed_clock_drift_for_files_from_future(CLEANING_MAX);
    config.with_directory(folder).with_files_total_size_soft_limit(MAX_BYTES);
    // It would be packed anew, and be no more what its digest is of.
    config.with_optimized_compression_usage_counter_threshold(u64::MAX);
    Cache::new(config)
}

/// Has wasmtime clean nothing in `folder`.
pub(super) fn forbid_cleaning(folder: &Path) -> std::io::Result<()> {
    File::options().append(true).create(true).mode(0o600).open(folder.join(CLEANING)).map(drop)
}

/// The code of a component for an engine.
pub(super) struct CachedCode<'a> {
    folder: &'a Path,
    key: String,
}

impl<'a> CachedCode<'a> {
    pub(super) fn of(folder: &'a Path, component: &[u8], engine: &Engine) -> Self {
        Self { folder, key: key(engine, component) }
    }

    /// Whether it is there, to the last byte as it was compiled.
    pub(super) fn is_sound(&self) -> bool {
        let expected = std::fs::read(self.digest_path()).ok();
        let found = || self.find().ok().flatten().and_then(|path| digest(&path).ok());
        expected.is_some_and(|expected| found() == Some(expected))
    }

    /// Removes it; there may be none.
    pub(super) fn remove(&self) -> std::io::Result<()> {
        if let Some(path) = self.find()? {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }

    /// Removes what was left by somebody who was stopped, or found the disk full, while writing it.
    pub(super) fn remove_unfinished(&self) -> std::io::Result<()> {
        let unfinished = self.unfinished();
        for version in versions(self.folder)? {
            match std::fs::remove_file(version.join(&unfinished)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The name of the file to which wasmtime writes it before it has its own name, which it does only where there is none.
    pub(super) fn unfinished(&self) -> String {
        format!("{}.{UNFINISHED}", self.key)
    }

    /// Gives it, with its digest, to the engine of `to`; says whether there was any.
    pub(super) fn hand_over(&self, to: &Self) -> std::io::Result<bool> {
        let Some(path) = self.find()? else { return Ok(false) };
        to.write_digest(&digest(&path)?)?;
        std::fs::rename(&path, path.with_file_name(&to.key))?;
        Ok(true)
    }

    /// Removes what was not used for longest until the rest keeps within the limit, but not this, which is to be used.
    pub(super) fn trim_others(&self) -> std::io::Result<()> {
        trim_to(self.folder, MAX_BYTES, &self.key)
    }

    /// Where it is, if it is there.
    fn find(&self) -> std::io::Result<Option<PathBuf>> {
        let paths = versions(self.folder)?.into_iter().map(|version| version.join(&self.key));
        Ok(paths.into_iter().find(|path| path.exists()))
    }

    fn digest_path(&self) -> PathBuf {
        self.folder.join(DIGESTS).join(&self.key)
    }

    fn write_digest(&self, digest: &[u8]) -> std::io::Result<()> {
        let digests = self.folder.join(DIGESTS);
        DirBuilder::new().recursive(true).mode(0o700).create(&digests)?;
        let mut file = tempfile::NamedTempFile::new_in(digests)?;
        file.write_all(digest)?;
        file.persist(self.digest_path())?;
        Ok(())
    }
}

/// Folders of code, one for each version of wasmtime.
fn versions(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder.join(CODE)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut versions = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            versions.push(entry.path());
        }
    }
    Ok(versions)
}

fn digest(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut hasher = Sha256::new();
    std::io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().to_vec())
}

fn trim_to(folder: &Path, max_bytes: u64, needed: &str) -> std::io::Result<()> {
    let (mut kept, mut total) = (Vec::new(), 0_u64);
    for version in versions(folder)? {
        for file in std::fs::read_dir(version)? {
            let path = file?.path();
            // Others have a dot in their names: how often code was used, and what is not written to its end.
            if let Some(extension) = path.extension() {
                // A compiler notes its use of what it has handed over.
                let is_left = match extension.to_str() {
                    Some("stats") => !path.with_extension("").exists(),
                    Some(UNFINISHED | UNFINISHED_STATS) => is_older(&path, UNFINISHED_MAX),
                    _ => false,
                };
                if is_left {
                    std::fs::remove_file(&path)?;
                }
                continue;
            }
            let Ok(metadata) = path.symlink_metadata() else { continue };
            // Each use is noted there.
            let noted = path.with_extension("stats").symlink_metadata().and_then(|noted| noted.modified());
            let used = metadata.modified()?.max(noted.unwrap_or(SystemTime::UNIX_EPOCH));
            total = total.saturating_add(metadata.len());
            if path.file_name().is_none_or(|name| name != needed) {
                kept.push((used, metadata.len(), path));
            }
        }
    }
    kept.sort_unstable();
    let name_of = |path: &PathBuf| path.file_name().map(OsString::from);
    let mut names: HashSet<OsString> = kept.iter().filter_map(|(_, _, path)| name_of(path)).collect();
    names.insert(needed.into());
    for (_, bytes, path) in kept {
        if total <= max_bytes {
            break;
        }
        std::fs::remove_file(&path)?;
        let _ = std::fs::remove_file(path.with_extension("stats"));
        total = total.saturating_sub(bytes);
        if let Some(name) = path.file_name() {
            names.remove(name);
        }
    }
    remove_digests_but(folder, &names);
    Ok(())
}

/// Removes digests of code that is gone, and those that were not written to their end.
fn remove_digests_but(folder: &Path, kept: &HashSet<OsString>) {
    let digests = std::fs::read_dir(folder.join(DIGESTS)).into_iter().flatten().flatten();
    for digest in digests.filter(|digest| !kept.contains(&digest.file_name())) {
        let _ = std::fs::remove_file(digest.path());
    }
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
    use super::*;

    #[test]
    fn wasmtime_cleans_nothing() {
        let folder = tempfile::tempdir().unwrap();
        forbid_cleaning(folder.path()).unwrap();
        forbid_cleaning(folder.path()).unwrap();
        let cleaning = folder.path().join(CLEANING);
        assert_eq!(cleaning.file_stem().unwrap(), ".cleanup");
        assert!(cleaning.extension().unwrap().to_str().unwrap().starts_with("wip-"));
        let cache = cache(folder.path()).unwrap();
        let for_ever = (cache.cleanup_interval(), cache.allowed_clock_drift_for_files_from_future());
        assert_eq!(for_ever, (CLEANING_MAX, CLEANING_MAX));
    }

    #[test]
    fn code_is_known_by_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let version = folder.path().join(CODE).join("version");
        std::fs::create_dir_all(&version).unwrap();
        let of = |key: &str| CachedCode { folder: folder.path(), key: key.to_owned() };
        let (left, code) = (of("left"), of("code"));
        assert!(!left.hand_over(&code).unwrap());
        std::fs::write(version.join("left"), "machine code").unwrap();
        assert!(!left.is_sound(), "nobody knows");
        assert!(left.hand_over(&code).unwrap());
        assert!(code.is_sound() && !left.is_sound());
        std::fs::write(version.join("code"), "machine c/de").unwrap();
        assert!(!code.is_sound());
        code.remove().unwrap();
        assert!(!version.join("code").exists());
        code.remove().unwrap();
        of("other").trim_others().unwrap();
        assert_eq!(std::fs::read_dir(folder.path().join(DIGESTS)).unwrap().count(), 0);
    }

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let versions = [folder.path().join("modules/old"), folder.path().join("modules/new")];
        versions.iter().for_each(|version| std::fs::create_dir_all(version).unwrap());
        let write = |version: &Path, name: &str, seconds| {
            let file = File::create(version.join(name)).unwrap();
            file.set_len(10).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        };
        let [old, new] = &versions;
        write(old, "first", 1);
        write(old, "first.stats", 5);
        write(old, "second", 2);
        write(old, "second.stats", 2);
        write(new, "third", 3);
        write(new, "last", 6);
        write(new, "handed-over.stats", 6);
        let kept = || {
            let files = versions.iter().flat_map(|version| std::fs::read_dir(version).unwrap());
            let mut names: Vec<_> =
                files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
            names.sort_unstable();
            names
        };
        trim_to(folder.path(), 40, "last").unwrap();
        assert_eq!(kept(), ["first", "first.stats", "last", "second", "second.stats", "third"]);
        write(new, "older.wip-atomic-write-mod", 1);
        write(new, "older.wip-atomic-write-stats", 1);
        trim_to(folder.path(), 29, "last").unwrap();
        assert_eq!(kept(), ["first", "first.stats", "last"]);
        File::create(new.join("now.wip-atomic-write-mod")).unwrap();
        trim_to(folder.path(), 0, "first").unwrap();
        assert_eq!(kept(), ["first", "first.stats", "now.wip-atomic-write-mod"], "it is to be used");
    }
}
