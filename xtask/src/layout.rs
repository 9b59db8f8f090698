//! Where things lie: the clone, what is built, what can be made again, what is kept.

use std::path::{Path, PathBuf};

use crate::error::{Context as _, Error, Result};

/// The folders that everything else is under.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
    cache: PathBuf,
    data: PathBuf,
    target: PathBuf,
}

impl Layout {
    /// Finds the folders from the environment.
    pub(crate) fn find() -> Result<Self> {
        // Of the environment, where cargo sets it at each run: clones that share a target folder share this program too,
        // so that the path it was compiled in may be another's.
        let package = std::env::var_os("CARGO_MANIFEST_DIR")
            .map(PathBuf::from)
            .ok_or_else(|| Error::new("failed to find the repository: run this program as `cargo xtask`"))?;
        let root = package.join("..");
        let root =
            root.canonicalize().context(format_args!("find the repository in `{}`", root.display()))?;
        let cache = base("XDG_CACHE_HOME", ".cache")?.join("host");
        let data = base("XDG_DATA_HOME", ".local/share")?.join("host");
        let target = match variable("CARGO_TARGET_DIR") {
            // Cargo takes it relative to where it is called, and we call it from several folders.
            Some(folder) => std::path::absolute(&folder).context("resolve CARGO_TARGET_DIR")?,
            None => cache.join("target"),
        };
        Ok(Self { root, cache, data, target })
    }

    /// The clone.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What can be made again.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// Cargo's target folder. Outside the clone, so that it outlives a clean and several clones share it.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Cargo's target folder for plugins and guests, whose profiles have nothing in common with the program's.
    pub(crate) fn plugins_target(&self) -> PathBuf {
        self.target.join("plugins-build")
    }

    /// Components of the first-party plugins.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.target.join("plugins")
    }

    /// The component of one of them.
    pub(crate) fn plugin(&self, name: &str) -> PathBuf {
        self.plugins().join(format!("{name}.wasm"))
    }

    /// Components of the tests' guests.
    pub(crate) fn guests(&self) -> PathBuf {
        self.target.join("guests")
    }

    /// The program.
    pub(crate) fn host(&self) -> PathBuf {
        self.target.join("release/host")
    }

    /// Where the program looks for libxgboost and ONNX Runtime.
    pub(crate) fn libraries(&self) -> PathBuf {
        self.data.join("lib")
    }

    /// Python with what the tests need.
    pub(crate) fn python_environment(&self) -> PathBuf {
        self.cache.join("venv")
    }

    /// The four files of MNIST.
    pub(crate) fn mnist(&self) -> PathBuf {
        self.root.join("examples/mnist/data")
    }

    /// The results of the benches.
    pub(crate) fn benchmarks(&self) -> PathBuf {
        self.root.join("docs/benchmarks.md")
    }
}

/// The value of a variable; empty is unset, as the XDG specification wants it.
pub(crate) fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Whether nobody watches and nobody can answer.
pub(crate) fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

fn base(name: &str, below_home: &str) -> Result<PathBuf> {
    // The XDG specification says to ignore relative paths.
    let absolute = |name| variable(name).filter(|folder| folder.is_absolute());
    absolute(name).or_else(|| Some(absolute("HOME")?.join(below_home))).ok_or_else(|| {
        Error::new(format!(
            "there is no place for files: set HOME or {name}, for example `export {name}=/tmp/host`"
        ))
    })
}
