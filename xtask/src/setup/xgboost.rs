//! libxgboost, which the program loads when a training starts. It is the library of the official Python package, because
//! that is built for old systems and weighs 6 MB, and to compile it takes ten minutes.

use super::wheel::{self, Staging, remove};
use crate::error::{Context as _, Result};
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
    let staging = Staging::create(&libraries)?;
    let package = format!("xgboost-cpu=={VERSION}");
    let unpacked = wheel::download(&layout.python_environment(), &staging, &package, &[])?;
    let install = || -> std::io::Result<()> {
        let package = staging.path().join("xgboost");
        std::fs::create_dir_all(package.join("lib"))?;
        std::fs::rename(unpacked.join(LIBRARY), staging.path().join(LIBRARY))?;
        std::fs::rename(unpacked.join("xgboost/VERSION"), package.join("VERSION"))?;
        // The library comes last: where it is, the rest is.
        remove(&libraries.join("xgboost"))?;
        remove(&libraries.join(RUNTIME))?;
        std::fs::rename(unpacked.join(RUNTIME), libraries.join(RUNTIME))?;
        std::fs::rename(package, libraries.join("xgboost"))
    };
    install().context(format_args!("install libxgboost into `{}`", libraries.display()))
}
