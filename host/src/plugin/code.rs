//! The folder of compiled code: whose it is, and whose turn to compile.

use std::fs::{DirBuilder, File, Metadata, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use tempfile::TempDir;

use super::code_cache::forbid_cleaning;

/// Room that a disk must have for code: what a few plugins take.
const ROOM_MIN_BYTES: u64 = 16 * 1024 * 1024;

/// How often a temporary folder in which something appears is removed, and the pause before each time but the first.
const REMOVALS_MAX: u32 = 10;
const REMOVAL_PAUSE: Duration = Duration::from_millis(10);

/// The number that Linux shows for a user that has none.
const OVERFLOW_USER: u32 = 65_534;

/// The beginning of the names of temporary folders. Earlier programs, which hold no lock on theirs, had another one.
const TEMPORARY_PREFIX: &str = "host-compiled-";

/// How old a temporary folder is that nobody holds and that is left by somebody who was killed, rather than just made.
const LEFT_AFTER: Duration = Duration::from_secs(60);

/// The file by which those who compile wait for each other. It is for this user alone, where others may read the folder.
const LOCK: &str = "lock";

/// How often it is looked whether somebody else still compiles, and when it is told that somebody does.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);
const LOCK_TOLD_AFTER: Duration = Duration::from_secs(1);

/// Where compiled code is.
#[derive(Debug)]
pub(super) struct CodeFolder {
    path: PathBuf,
    temporary: Option<Temporary>,
}

/// A folder that goes with the process that made it.
#[derive(Debug)]
struct Temporary {
    folder: TempDir,
    /// Locked for as long as the process lives, so that others tell the folder from one that was left.
    held: Mutex<File>,
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
        // Memory, where a container has no disk to write to, or a full one, or one that others write to.
        let folders = [&std::env::temp_dir(), Path::new("/dev/shm")];
        folders.iter().for_each(|folder| remove_left(folder, LEFT_AFTER));
        let folder = temporary_in(&folders, ROOM_MIN_BYTES)?;
        let path = folder.path().canonicalize()?;
        let held = Mutex::new(hold(&path)?);
        Ok(Self { path, temporary: Some(Temporary { folder, held }) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder, for one look: whoever cleans up may have removed it, and somebody else may have made one in its place. It is made
    /// anew, or refused.
    pub(super) fn look(&self) -> std::io::Result<&Path> {
        let Some(Temporary { held, .. }) = &self.temporary else {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
            check_owners(&self.path)?;
            forbid_cleaning(&self.path)?;
            return Ok(&self.path);
        };
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Ok(()) => *held.lock().unwrap_or_else(PoisonError::into_inner) = hold(&self.path)?,
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            Err(_) => {}
        }
        // What is above was as good as there is.
        check_is_own(&self.path)?;
        forbid_cleaning(&self.path)?;
        Ok(&self.path)
    }
}

impl Drop for CodeFolder {
    fn drop(&mut self) {
        let Some(temporary) = &self.temporary else { return };
        // A thread of the cache may be writing down what was used.
        for _ in 0..REMOVALS_MAX {
            match std::fs::remove_dir_all(temporary.folder.path()) {
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
                    std::thread::sleep(REMOVAL_PAUSE)
                }
                _ => return,
            }
        }
    }
}

/// Locks a temporary folder. Where there are no locks nobody takes it for one that was left, either.
fn hold(folder: &Path) -> std::io::Result<File> {
    let folder = File::open(folder)?;
    let _ = folder.try_lock();
    Ok(folder)
}

/// Makes `folder` if it is not there, and sees that files can be made in it, by nobody else.
fn usable(folder: &Path) -> std::io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let folder = folder.canonicalize()?;
    check_owners(&folder)?;
    tempfile::tempfile_in(&folder)?;
    forbid_cleaning(&folder)?;
    check_room(&folder, ROOM_MIN_BYTES)?;
    Ok(folder)
}

/// A new folder in the first of `folders` that has so much room and in which nobody else can put another in its place; where
/// there is none, in the first that there can be one in.
fn temporary_in(folders: &[&Path], room_min_bytes: u64) -> std::io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX).permissions(PermissionsExt::from_mode(0o700));
    let mut second_best = Err(ErrorKind::NotFound.into());
    for folder in folders {
        let made = builder.tempdir_in(folder);
        let checked = made.as_ref().is_ok_and(|made| {
            let path = made.path().canonicalize();
            path.and_then(|path| check_owners(&path)).is_ok()
                && check_room(made.path(), room_min_bytes).is_ok()
        });
        if checked {
            return made;
        }
        if second_best.is_err() {
            second_best = made;
        }
    }
    second_best
}

/// Whether something was changed so long ago.
pub(super) fn is_older(path: &Path, age: Duration) -> bool {
    let changed = path.symlink_metadata().and_then(|metadata| metadata.modified());
    changed.ok().and_then(|changed| changed.elapsed().ok()).is_some_and(|elapsed| elapsed >= age)
}

/// Removes temporary folders of this user's in `folder` whose processes were killed.
fn remove_left(folder: &Path, left_after: Duration) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let names = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY_PREFIX)));
    for path in names.map(|entry| entry.path()) {
        let is_left = check_is_own(&path).is_ok()
            && is_older(&path, left_after)
            && File::open(&path).is_ok_and(|held| held.try_lock().is_ok());
        if is_left {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

/// Refuses what is no folder of this user's alone.
fn check_is_own(folder: &Path) -> std::io::Result<()> {
    let metadata = folder.symlink_metadata()?;
    if !metadata.is_dir() {
        return Err(std::io::Error::other(format!("`{}` is no folder", folder.display())));
    }
    let (user, mode) = (metadata.uid(), metadata.mode());
    if user != rustix::process::geteuid().as_raw() {
        return Err(std::io::Error::other(format!("`{}` belongs to user {user}", folder.display())));
    }
    if mode & 0o077 != 0 {
        return Err(std::io::Error::other(format!("others get at `{}`", folder.display())));
    }
    Ok(())
}

/// Refuses a folder on a disk that is full, where each plugin would fail to load.
fn check_room(folder: &Path, min_bytes: u64) -> std::io::Result<()> {
    let disk = rustix::fs::statvfs(folder)?;
    let room = disk.f_bavail.saturating_mul(disk.f_frsize);
    if room < min_bytes {
        let missing = format!("{room} bytes are free there, expected {min_bytes} at least");
        return Err(std::io::Error::new(ErrorKind::StorageFull, missing));
    }
    Ok(())
}

/// Refuses a folder in which others could put code that this program would run: one that they can write to, or that has such a
/// folder above or below it.
fn check_owners(folder: &Path) -> std::io::Result<()> {
    for above in folder.ancestors() {
        let metadata = above.symlink_metadata()?;
        if metadata.is_symlink() {
            return Err(std::io::Error::other(format!("`{}` is a link", above.display())));
        }
        // Of a folder such as `/tmp` nobody can take away what is another's.
        let is_sticky = above != folder && metadata.mode() & 0o1000 != 0;
        check_owner(above, &Owner::of(&metadata), is_sticky)?;
    }
    if folder.symlink_metadata()?.mode() & 0o011 == 0 {
        // Others do not get at what is below.
        return Ok(());
    }
    let modules = folder.join("modules");
    let Ok(versions) = std::fs::read_dir(&modules) else { return Ok(()) };
    let versions: Vec<PathBuf> = versions.flatten().map(|version| version.path()).collect();
    for below in std::iter::once(modules).chain(versions) {
        let metadata = below.symlink_metadata()?;
        if metadata.is_symlink() {
            return Err(std::io::Error::other(format!("`{}` is a link", below.display())));
        }
        check_owner(&below, &Owner::of(&metadata), false)?;
    }
    Ok(())
}

/// Whose a folder is, and who may do what there.
struct Owner {
    user: u32,
    group: u32,
    mode: u32,
}

impl Owner {
    fn of(metadata: &Metadata) -> Self {
        Self { user: metadata.uid(), group: metadata.gid(), mode: metadata.mode() }
    }
}

/// Refuses a folder that is neither this user's nor root's, and one that others write to unless they are free to.
fn check_owner(folder: &Path, owner: &Owner, others_may_write: bool) -> std::io::Result<()> {
    let Owner { user, group, mode } = *owner;
    // In a namespace of users the root folder may be of one that has no number there.
    let is_of_nobody = user == OVERFLOW_USER && folder == Path::new("/");
    if user != rustix::process::geteuid().as_raw() && user != 0 && !is_of_nobody {
        return Err(std::io::Error::other(format!("`{}` belongs to user {user}", folder.display())));
    }
    // The group that has the number of its user is that user's alone.
    let writers = if group == user && !is_of_nobody { 0o002 } else { 0o022 };
    if !others_may_write && mode & writers != 0 {
        return Err(std::io::Error::other(format!("others may write to `{}`", folder.display())));
    }
    Ok(())
}

/// Waits until nobody else compiles for this folder, until the answer is dropped. One at a time is enough, since the compiler
/// takes all cores, and many would take many times the memory. It is no more than that: who has waited for `patience` goes on.
pub(super) fn lock(folder: &Path, patience: Duration) -> std::io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let file = options.open(folder.join(LOCK))?;
    let started = Instant::now();
    let mut is_told = false;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {}
            // Some file systems of networks have no locks.
            Err(TryLockError::Error(error)) if error.kind() != ErrorKind::Unsupported => return Err(error),
            _ => return Ok(file),
        }
        let waited = started.elapsed();
        if waited >= patience {
            tracing::warn!("another process still compiles for `{}`: not waiting for it", folder.display());
            return Ok(file);
        }
        if waited >= LOCK_TOLD_AFTER && !is_told {
            tracing::warn!("waiting for another process that compiles for `{}`", folder.display());
            is_told = true;
        }
        std::thread::sleep(LOCK_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    #[test]
    fn a_folder_that_others_may_write_to_is_not_used() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().canonicalize().unwrap();
        let (above, folder) = (base.join("above"), base.join("above/code"));
        let version = folder.join("modules/version");
        std::fs::create_dir_all(&version).unwrap();
        let is_used = || CodeFolder::open(Some(&folder)).unwrap().path() == folder;
        let set = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        for path in [&above, &folder, &folder.join("modules"), &version] {
            set(path, 0o755);
        }
        assert!(is_used());
        for path in [&above, &folder, &folder.join("modules"), &version] {
            set(path, 0o777);
            assert!(!is_used(), "{}", path.display());
            set(path, 0o755);
        }
        set(&above, 0o1777);
        assert!(is_used());
        set(&version, 0o777);
        set(&folder, 0o700);
        assert!(is_used(), "nobody gets there");
        assert!(usable(&base.join("made/by/it")).is_ok());
        assert_eq!(base.join("made/by/it").metadata().unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_folder_that_goes_is_made_anew_and_anothers_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().canonicalize().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        for kept in [Some(base.join("code")), None] {
            let folder = CodeFolder::open(kept.as_deref()).unwrap();
            let path = folder.look().unwrap();
            std::fs::remove_dir_all(path).unwrap();
            assert_eq!(mode(folder.look().unwrap()), 0o700);
            std::fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
            assert!(folder.look().is_err());
            std::fs::remove_dir_all(path).unwrap();
            std::os::unix::fs::symlink(&base, path).unwrap();
            assert!(folder.look().is_err());
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn temporary_folders_of_who_was_killed_are_removed() {
        let base = tempfile::tempdir().unwrap();
        let [left, held, open, other] = ["host-compiled-1", "host-compiled-2", "host-compiled-3", "other"]
            .map(|name| {
                let path = base.path().join(name);
                DirBuilder::new().mode(0o700).create(&path).unwrap();
                path
            });
        std::fs::write(left.join("code"), "").unwrap();
        std::fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
        let lock = File::open(&held).unwrap();
        lock.try_lock().unwrap();
        remove_left(base.path(), Duration::from_secs(3_600));
        assert!(left.exists(), "it may have just been made");
        remove_left(base.path(), Duration::ZERO);
        assert_eq!([&left, &held, &open, &other].map(|path| path.exists()), [false, true, true, true]);
    }

    #[test]
    fn a_folder_on_a_full_disk_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check_room(folder.path(), 0).is_ok());
        let refused = check_room(folder.path(), u64::MAX).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StorageFull);
    }

    #[test]
    fn a_temporary_folder_is_where_others_cannot_replace_it() {
        let base = tempfile::tempdir().unwrap();
        let (open, closed) = (base.path().join("open"), base.path().join("closed"));
        for (folder, mode) in [(&open, 0o777), (&closed, 0o755)] {
            std::fs::create_dir(folder).unwrap();
            std::fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
        }
        let made_in = |folders: &[&Path], room| {
            temporary_in(folders, room).unwrap().path().parent().unwrap().to_owned()
        };
        assert_eq!(made_in(&[&open, &closed], 0), closed);
        assert_eq!(made_in(&[&open], 0), open, "there is no other");
        assert_eq!(made_in(&[&base.path().join("none"), &closed], u64::MAX), closed);
        assert!(temporary_in(&[&base.path().join("none")], 0).is_err());
    }

    #[test]
    fn whose_a_folder_is_is_told() {
        let user = rustix::process::geteuid().as_raw();
        let told = |path: &str, user, group, mode| {
            let checked = check_owner(Path::new(path), &Owner { user, group, mode }, false);
            checked.err().map(|error| error.to_string())
        };
        assert_eq!(told("/a", user, user, 0o775), None);
        assert_eq!(told("/a", 0, 7, 0o755), None);
        assert_eq!(told("/a", 0, 7, 0o775).unwrap(), "others may write to `/a`");
        assert_eq!(told("/a", 4_000_000, 0, 0o700).unwrap(), "`/a` belongs to user 4000000");
        assert_eq!(told("/", OVERFLOW_USER, OVERFLOW_USER, 0o755), None);
        assert_eq!(told("/", OVERFLOW_USER, OVERFLOW_USER, 0o775).unwrap(), "others may write to `/`");
    }

    #[test]
    fn one_compiles_at_a_time_and_nobody_waits_forever() {
        let folder = tempfile::tempdir().unwrap();
        let is_locked = || File::open(folder.path().join(LOCK)).unwrap().try_lock().is_err();
        let first = lock(folder.path(), Duration::ZERO).unwrap();
        assert!(is_locked());
        drop(lock(folder.path(), Duration::from_millis(1)).unwrap());
        assert!(is_locked(), "who went on without it does not end it");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| lock(folder.path(), Duration::from_secs(600)).unwrap());
            drop(first);
            let second = second.join().unwrap();
            assert!(is_locked());
            drop(second);
        });
        assert!(!is_locked());
    }

    #[test]
    fn a_temporary_folder_goes_with_who_made_it() {
        let folder = CodeFolder::open(None).unwrap();
        let path = folder.path().to_owned();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        drop(folder);
        assert!(!path.exists());
    }
}
