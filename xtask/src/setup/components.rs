//! Components: every crate in a folder that makes one, built by the program itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Context as _, Result};
use crate::layout::Layout;
use crate::{process, terminal};

/// Builds each crate in `folder` that is a cdylib to `NAME.wasm` in `into`, where the name is that of its folder.
pub(super) fn build(layout: &Layout, folder: &Path, into: &Path) -> Result<()> {
    std::fs::create_dir_all(into).context(format_args!("create `{}`", into.display()))?;
    for (name, path) in crates(folder)? {
        let file = into.join(&name).with_added_extension("wasm");
        let mut command = Command::new(layout.host());
        command.args(["--quiet", "plugin", "build"]).arg(path).arg("--output").arg(&file);
        // One target folder, so that the standard library and the SDK are compiled once for all.
        command.current_dir(layout.root()).env("CARGO_TARGET_DIR", layout.plugins_target());
        terminal::note(&format!("building {name}.wasm"));
        process::run(command.stdout(Stdio::null()), &format!("build the component `{name}`"))?;
    }
    Ok(())
}

/// Name and path of each crate in `folder` that is a cdylib, by name; none if there is no such folder.
fn crates(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(format_args!("read `{}`", folder.display()))?,
    };
    let mut crates = Vec::new();
    for entry in entries {
        let path = entry.context(format_args!("read `{}`", folder.display()))?.path();
        let Ok(manifest) = std::fs::read_to_string(path.join("Cargo.toml")) else { continue };
        if let Some(name) = path.file_name().filter(|_| manifest.contains("\"cdylib\"")) {
            crates.push((name.to_string_lossy().into_owned(), path));
        }
    }
    crates.sort();
    Ok(crates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_plugins_and_not_their_sdk() {
        let plugins = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../plugins");
        let names: Vec<String> = crates(&plugins).unwrap().into_iter().map(|(name, _)| name).collect();
        for expected in ["argmax-label", "mnist-pixels", "one-hot", "psi", "standard-scaler"] {
            assert!(names.iter().any(|name| name == expected), "{names:?}");
        }
        assert!(!names.iter().any(|name| name == "sdk"), "{names:?}");
        assert!(crates(Path::new("/does/not/exist")).unwrap().is_empty());
    }
}
