//! Builds a plugin: a cargo package in a folder becomes one component file.
//!
//! Owns the choice of a toolchain that can compile for WebAssembly, the call of cargo, and the encoding of the core
//! module as a component. Refuses to know what a plugin is: whether the component keeps the contract is checked where
//! every component is, when it is loaded.
//!
//! In order: ask cargo for the package, find a toolchain, compile, encode, write the file in one step.

mod cargo;
mod toolchain;

use std::io;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use wit_component::ComponentEncoder;

use crate::domain::Digest;

pub use toolchain::{Toolchain, ToolchainError};

/// Name of the compiler's target.
const TARGET: &str = "wasm32-unknown-unknown";

/// What was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildReport {
    /// Name of the package.
    pub package: String,
    /// Where the component lies.
    pub path: PathBuf,
    /// Digest of the component.
    pub digest: Digest,
    /// Size of the component, in bytes.
    pub component_bytes: u64,
    /// Size of the core module in it, in bytes.
    pub module_bytes: u64,
    /// What compiled it.
    pub toolchain: Toolchain,
}

/// Why a plugin could not be built.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BuildError {
    #[error("cannot open `{}`", directory.display())]
    Directory {
        directory: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot run cargo\nhint: install Rust from https://rustup.rs")]
    Cargo {
        #[source]
        source: io::Error,
    },
    #[error("`{}` is not a cargo package: {reason}", directory.display())]
    NotPackage { directory: PathBuf, reason: String },
    #[error("`{}` is a workspace without a package of its own\nhint: name the folder of one of {}", directory.display(), packages.join(", "))]
    Workspace { directory: PathBuf, packages: Vec<String> },
    #[error(
        "package `{package}` is not a plugin: it has no cdylib\nhint: add `crate-type = [\"cdylib\", \"rlib\"]` under `[lib]` in its Cargo.toml"
    )]
    NotCdylib { package: String },
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
    #[error("package `{package}` does not compile")]
    Compile { package: String },
    #[error("cargo said nothing of a WebAssembly module of package `{package}`")]
    NoModule { package: String },
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "package `{package}` does not make a component\nhint: export a plugin with `mlops_plugin::export_transformer!` or `export_detector!`"
    )]
    Encode {
        package: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("cannot write `{}`", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Builds the plugin whose `Cargo.toml` lies in `directory`.
///
/// The component is written to `output`, or under the package's name into `output` where that is a folder; without one,
/// it is `<package>.wasm` in cargo's target folder of that package. A file that was there is replaced in one step. What
/// cargo and the compiler say goes to stderr as they say it. `toolchain` insists on one; otherwise the first that works
/// is taken, and the standard library for WebAssembly is installed where rustup can.
pub fn build(
    directory: &Path,
    output: Option<&Path>,
    toolchain: Option<Toolchain>,
) -> Result<BuildReport, BuildError> {
    let directory = directory
        .canonicalize()
        .map_err(|source| BuildError::Directory { directory: directory.to_owned(), source })?;
    let package = cargo::package(&directory)?;
    let compiler = toolchain::find(&directory, toolchain)?;
    let module_path = cargo::compile(&directory, &package, &compiler)?;
    let module =
        std::fs::read(&module_path).map_err(|source| BuildError::Read { path: module_path, source })?;
    let component =
        encode(&module).map_err(|source| BuildError::Encode { package: package.name.clone(), source })?;

    let file_name = format!("{}.wasm", package.name);
    let path = match output {
        None => package.target_directory.join(file_name),
        Some(folder) if folder.is_dir() => folder.join(file_name),
        Some(file) => file.to_owned(),
    };
    write(&path, &component).map_err(|source| BuildError::Write { path: path.clone(), source })?;
    Ok(BuildReport {
        package: package.name,
        path,
        digest: Digest::of(&component),
        component_bytes: component.len() as u64,
        module_bytes: module.len() as u64,
        toolchain: compiler.toolchain,
    })
}

/// Makes a component of a core module that carries the types of its world, as bindings leave them there.
fn encode(module: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    Ok(ComponentEncoder::default().module(module)?.validate(true).encode()?)
}

/// Writes a file in one step: a reader sees the old bytes or the new.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // As any file the user makes, within the umask; a temporary file alone would be for nobody else.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(manifest: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("src")).unwrap();
        std::fs::write(folder.path().join("src/lib.rs"), "").unwrap();
        std::fs::write(folder.path().join("Cargo.toml"), manifest).unwrap();
        folder
    }

    fn refusal(folder: &Path) -> String {
        build(folder, None, None).unwrap_err().to_string()
    }

    #[test]
    fn refuses_folders_that_are_no_plugin() {
        let missing = Path::new("/does/not/exist");
        assert_eq!(refusal(missing), "cannot open `/does/not/exist`");
        let empty = tempfile::tempdir().unwrap();
        assert!(refusal(empty.path()).contains("is not a cargo package: could not find `Cargo.toml`"));
        let broken = scratch("[package\n");
        assert!(refusal(broken.path()).contains("is not a cargo package: "));

        let library = scratch("[package]\nname = \"ordinary\"\nedition = \"2024\"\n[workspace]\n");
        assert!(
            refusal(library.path())
                .starts_with("package `ordinary` is not a plugin: it has no cdylib\nhint: ")
        );

        let workspace = scratch("[workspace]\nmembers = [\"member\"]\nresolver = \"3\"\n");
        std::fs::create_dir_all(workspace.path().join("member/src")).unwrap();
        std::fs::write(workspace.path().join("member/src/lib.rs"), "").unwrap();
        std::fs::write(
            workspace.path().join("member/Cargo.toml"),
            "[package]\nname = \"member\"\nedition = \"2024\"\n",
        )
        .unwrap();
        assert!(refusal(workspace.path()).ends_with("hint: name the folder of one of member"));
    }

    #[test]
    fn refuses_modules_that_make_no_component() {
        assert!(encode(b"").is_err());
        assert!(encode(b"\0asm").is_err());
        assert!(encode(b"\0asm\x0d\0\x01\0").is_err(), "a component is no core module");
    }

    #[test]
    fn replaces_a_file_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugin.wasm");
        write(&path, b"old").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write(&folder.path().join("missing/plugin.wasm"), b"").is_err());
    }
}
