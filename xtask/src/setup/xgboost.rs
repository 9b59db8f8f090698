//! libxgboost, which the program loads when a training starts. It is the library of the official Python package, because
//! that is built for old systems and weighs 6 MB, and to compile it takes ten minutes.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::python;
use crate::error::{Context as _, Error, Result};
use crate::layout::Layout;
use crate::{process, terminal};

/// The version that the tests compare with Python's; tests/python/requirements.txt names the same.
const VERSION: &str = "3.2.0";

/// The library. Its RPATH is `$ORIGIN/../../xgboost_cpu.libs`, so the folders lie as in the package.
const LIBRARY: &str = "xgboost/lib/libxgboost.so";

/// Beside it: OpenMP's runtime.
const RUNTIME: &str = "xgboost_cpu.libs";

/// Installs the library where it is missing or of another version.
pub(super) fn ensure(layout: &Layout) -> Result<()> {
    let libraries = layout.libraries();
    let is_there = libraries.join(LIBRARY).is_file()
        && std::fs::read_to_string(libraries.join("xgboost/VERSION"))
            .is_ok_and(|found| found.trim() == VERSION);
    if is_there {
        return Ok(());
    }
    terminal::note(&format!("installing libxgboost {VERSION} into {}", process::display_path(&libraries)));
    // In the same file system as its destination, so that it is moved there in one step.
    let staging = Staging::create(libraries.join(format!(".staging-{}", std::process::id())))?;
    let unpacked = download(&layout.python_environment(), &staging.0)?;
    let install = || -> std::io::Result<()> {
        let package = staging.0.join("xgboost");
        std::fs::create_dir_all(package.join("lib"))?;
        std::fs::rename(unpacked.join(LIBRARY), staging.0.join(LIBRARY))?;
        std::fs::rename(unpacked.join("xgboost/VERSION"), package.join("VERSION"))?;
        // The library comes last: where it is, the rest is.
        remove(&libraries.join("xgboost"))?;
        remove(&libraries.join(RUNTIME))?;
        std::fs::rename(unpacked.join(RUNTIME), libraries.join(RUNTIME))?;
        std::fs::rename(package, libraries.join("xgboost"))
    };
    install().context(format_args!("install libxgboost into `{}`", libraries.display()))
}

/// Downloads the package and unpacks it; gives the folder.
fn download(environment: &Path, staging: &Path) -> Result<PathBuf> {
    let mut pip = python::pip(environment);
    pip.args(["download", "--no-deps", "--only-binary=:all:", "--dest"]).arg(staging);
    process::run(pip.arg(format!("xgboost-cpu=={VERSION}")), "download libxgboost")?;
    let files = std::fs::read_dir(staging).context("read what was downloaded")?;
    let wheel =
        files.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "whl"));
    let wheel = wheel.ok_or_else(|| Error::new("failed to download libxgboost: pip left no package"))?;
    let unpacked = staging.join("unpacked");
    let mut unzip = Command::new(environment.join("bin/python"));
    process::run(unzip.args(["-m", "zipfile", "-e"]).arg(wheel).arg(&unpacked), "unpack libxgboost")?;
    Ok(unpacked)
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A folder that is removed in any case.
struct Staging(PathBuf);

impl Staging {
    fn create(folder: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&folder).context(format_args!("create `{}`", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What stays behind is named after this process and harms nothing.
        let _ = remove(&self.0);
    }
}
