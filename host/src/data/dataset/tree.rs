//! A folder of the user's, and files below it that are reached without following a link: whoever may write there while
//! this works could otherwise lead it anywhere. Each folder is opened in the one above it, which the system can be asked
//! for everywhere; the names have no `..`, see [`super::files::check_path`].

use std::fs::{File, Metadata};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::data::DataError;

/// What a folder is opened with.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What a file is opened with: a pipe that took its place must not be waited for.
const FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// An open folder.
#[derive(Debug)]
pub(super) struct Tree {
    path: PathBuf,
    folder: File,
}

/// A name in an open folder.
#[derive(Debug)]
pub(super) struct Place<'a> {
    folder: OwnedFd,
    name: &'a str,
}

/// What is at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Nothing,
    /// A plain file of so many bytes.
    File(u64),
    Folder,
    /// A link, pipe, socket or device.
    Other,
}

impl Tree {
    /// Opens a folder that is there; it may be a link itself.
    pub(super) fn open(path: &Path) -> Result<Self, DataError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty());
        let folder = folder.map_err(|error| DataError::read(path)(error.into()))?;
        Ok(Self { path: path.to_path_buf(), folder: folder.into() })
    }

    /// Creates a folder where there is none, and opens it.
    pub(super) fn create(path: &Path) -> Result<Self, DataError> {
        std::fs::create_dir_all(path).map_err(DataError::write(path))?;
        Self::open(path)
    }

    /// The path of a file, to be told.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }

    /// The place of a file. Folders above it that are not there are created where `create`; a link in the place of one is
    /// refused.
    pub(super) fn place<'a>(&self, file: &'a str, create: bool) -> Result<Place<'a>, Errno> {
        let (above, name) = file.rsplit_once('/').unwrap_or(("", file));
        let mut folder = rustix::fs::openat(&self.folder, ".", FOLDER, Mode::empty())?;
        for part in above.split('/').filter(|part| !part.is_empty()) {
            folder = match rustix::fs::openat(&folder, part, FOLDER, Mode::empty()) {
                Err(Errno::NOENT) if create => {
                    match rustix::fs::mkdirat(&folder, part, Mode::from_raw_mode(0o777)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error),
                    }
                    rustix::fs::openat(&folder, part, FOLDER, Mode::empty())?
                }
                opened => opened?,
            };
        }
        Ok(Place { folder, name })
    }

    /// Waits until all that was written to the folder's file system is on the disk.
    pub(super) fn sync(&self) -> Result<(), DataError> {
        rustix::fs::syncfs(&self.folder).map_err(|error| DataError::write(&self.path)(error.into()))
    }
}

impl Place<'_> {
    /// What is there.
    pub(super) fn standing(&self) -> std::io::Result<Standing> {
        let found = match rustix::fs::statat(&self.folder, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Standing::Nothing),
            found => found?,
        };
        Ok(match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => Standing::File(u64::try_from(found.st_size).unwrap_or_default()),
            FileType::Directory => Standing::Folder,
            _ => Standing::Other,
        })
    }

    /// Opens the file for reading.
    pub(super) fn open(&self) -> std::io::Result<File> {
        let opened = rustix::fs::openat(&self.folder, self.name, OFlags::RDONLY | FILE, Mode::empty())?;
        plain(opened.into()).map(|(file, _)| file)
    }

    /// Creates the file, of which there is none yet, for writing now and for reading later.
    pub(super) fn create(&self) -> std::io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | FILE;
        Ok(rustix::fs::openat(&self.folder, self.name, flags, Mode::from_raw_mode(0o444))?.into())
    }

    /// Opens a file beside it for reading and writing, with what is in it, and locks it; creates it where there is none,
    /// with the rights that any new file has. Waits for others who have it.
    pub(super) fn lock_beside(&self, name: &str) -> std::io::Result<File> {
        use std::os::unix::fs::MetadataExt as _;
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | FILE;
            let opened = rustix::fs::openat(&self.folder, name, flags, Mode::from_raw_mode(0o666))?;
            let (file, metadata) = plain(opened.into())?;
            // Another name of it may be that of a file which is not to be written.
            if metadata.nlink() > 1 {
                self.remove_beside(name)?;
                continue;
            }
            match file.lock() {
                // Two who get one version at a time may have to try again there.
                Err(error) if has_no_locks(&error) => {}
                locked => locked?,
            }
            // Whoever was waited for may have given the file its name, or removed it.
            match rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(named) if named.st_ino == metadata.ino() => return Ok(file),
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Removes a file beside it.
    pub(super) fn remove_beside(&self, name: &str) -> std::io::Result<()> {
        match rustix::fs::unlinkat(&self.folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a file beside it its name, in place of what has it; false if there is no such file.
    pub(super) fn replace_by(&self, name: &str) -> std::io::Result<bool> {
        match rustix::fs::renameat(&self.folder, name, &self.folder, self.name) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether a folder above a file cannot be entered because something else, or nothing, is in its place.
pub(super) fn is_no_folder(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

/// Whether a file system, such as one of another machine, has no locks.
fn has_no_locks(error: &std::io::Error) -> bool {
    let known = [Errno::NOLCK, Errno::NOTSUP, Errno::NOSYS];
    Errno::from_io_error(error).is_some_and(|error| known.contains(&error))
}

fn plain(file: File) -> std::io::Result<(File, Metadata)> {
    let metadata = file.metadata()?;
    match metadata.is_file() {
        true => Ok((file, metadata)),
        false => Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is no plain file")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_folder_that_becomes_a_link_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let (root, elsewhere) = (folder.path().join("root"), folder.path().join("elsewhere"));
        std::fs::create_dir(&elsewhere).unwrap();
        let tree = Tree::create(&root).unwrap();
        let place = tree.place("a/b/file", true).unwrap();
        std::fs::rename(root.join("a/b"), root.join("a/moved")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, root.join("a/b")).unwrap();
        place.lock_beside(".part").unwrap().write_all(b"text").unwrap();
        assert!(place.replace_by(".part").unwrap());
        assert_eq!(std::fs::read(root.join("a/moved/file")).unwrap(), b"text");
        assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
        for create in [true, false] {
            assert!(is_no_folder(tree.place("a/b/file", create).unwrap_err()));
        }
    }

    #[test]
    fn only_plain_files_are_opened_and_written() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::open(folder.path()).unwrap();
        let own = folder.path().join("own");
        std::fs::write(&own, "precious").unwrap();
        std::fs::hard_link(&own, folder.path().join(".part")).unwrap();
        std::os::unix::fs::symlink(&own, folder.path().join("link")).unwrap();
        let place = tree.place("link", false).unwrap();
        assert_eq!(place.standing().unwrap(), Standing::Other);
        assert!(place.open().is_err() && place.lock_beside("link").is_err());
        place.lock_beside(".part").unwrap().write_all(b"other").unwrap();
        assert_eq!(std::fs::read(&own).unwrap(), b"precious");
    }
}
