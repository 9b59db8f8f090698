//! ONNX Runtime, which the program loads for the first ONNX model: the library of the official Python package.

use super::wheel::{self, Staging, remove};
use crate::error::{Context as _, Result};
use crate::layout::Layout;
use crate::{process, terminal};

/// The version that the tests compare with Python's; tests/python/requirements.txt names the same.
const VERSION: &str = "1.32.0";

/// The folder where the program looks.
const FOLDER: &str = "onnxruntime";

/// Installs the library where it is missing or of another version.
pub(super) fn ensure(layout: &Layout) -> Result<()> {
    let libraries = layout.libraries();
    let folder = libraries.join(FOLDER);
    let is_there = folder.join("libonnxruntime.so").is_file()
        && std::fs::read_to_string(folder.join("VERSION")).is_ok_and(|found| found.trim() == VERSION);
    if is_there {
        return Ok(());
    }
    terminal::note(&format!("installing ONNX Runtime {VERSION} into {}", process::display_path(&libraries)));
    let staging = Staging::create(&libraries)?;
    let package = format!("onnxruntime=={VERSION}");
    // The library is the same for every Python; older ones have no package of this version.
    let unpacked =
        wheel::download(&layout.python_environment(), &staging, &package, &["--python-version", "3.12"])?;
    let install = || -> std::io::Result<()> {
        let made = staging.path().join(FOLDER);
        std::fs::create_dir_all(&made)?;
        let library = format!("onnxruntime/capi/libonnxruntime.so.{VERSION}");
        std::fs::rename(unpacked.join(library), made.join("libonnxruntime.so"))?;
        std::fs::write(made.join("VERSION"), VERSION)?;
        remove(&folder)?;
        std::fs::rename(made, &folder)
    };
    install().context(format_args!("install ONNX Runtime into `{}`", libraries.display()))
}
