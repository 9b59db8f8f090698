//! Libraries of the packages of PyPI: downloaded and unpacked beside where they are to lie.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::python;
use crate::error::{Context as _, Error, Result};
use crate::process;

/// Downloads a package, as `name==version`, and unpacks it; gives the folder. `more` are arguments of pip.
pub(super) fn download(
    environment: &Path,
    staging: &Staging,
    package: &str,
    more: &[&str],
) -> Result<PathBuf> {
    let mut pip = python::pip(environment);
    pip.args(["download", "--no-deps", "--only-binary=:all:", "--dest"]).arg(&staging.0).args(more);
    process::run(pip.arg(package), &format!("download {package}"))?;
    let files = std::fs::read_dir(&staging.0).context("read what was downloaded")?;
    let wheel =
        files.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "whl"));
    let wheel =
        wheel.ok_or_else(|| Error::new(format!("failed to download {package}: pip left no package")))?;
    let unpacked = staging.0.join("unpacked");
    let mut unzip = Command::new(environment.join("bin/python"));
    process::run(
        unzip.args(["-m", "zipfile", "-e"]).arg(wheel).arg(&unpacked),
        &format!("unpack {package}"),
    )?;
    Ok(unpacked)
}

/// Removes a folder that may not be there.
pub(super) fn remove(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A folder that is removed in any case.
pub(super) struct Staging(PathBuf);

impl Staging {
    /// Makes one in `libraries`: in the same file system as its destination, so that what is in it is moved in one step.
    pub(super) fn create(libraries: &Path) -> Result<Self> {
        let folder = libraries.join(format!(".staging-{}", std::process::id()));
        std::fs::create_dir_all(&folder).context(format_args!("create `{}`", folder.display()))?;
        Ok(Self(folder))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What stays behind is named after this process and harms nothing.
        let _ = remove(&self.0);
    }
}
