//! Finds a compiler that has a standard library for WebAssembly.
//!
//! In order: the compiler on the path, if it has the library; the same after rustup installed it; Debian's compiler,
//! which has the library's source in a package and compiles it along (minutes, once). The last is for machines that
//! reach a mirror of Debian but not of Rust.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use super::TARGET;
use super::cargo::first_error;

/// Where the standard library for WebAssembly comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toolchain {
    /// Compiled, with the compiler on the path; rustup installs it.
    Rustup,
    /// As source, with Debian's compiler; the packages `rustc-web` and `rust-web-src` install them.
    Debian,
}

/// Why there is no compiler for WebAssembly.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ToolchainError {
    #[error(
        "the Rust compiler cannot compile for WebAssembly: {reason}\nhint: run `rustup target add {TARGET}`"
    )]
    NoTarget { reason: String },
    #[error(
        "Debian's Rust compiler or its library's source is missing\nhint: run `apt install rustc-web rust-web-src`"
    )]
    NoDebian,
    #[error("`{text}` is not a toolchain: expected `rustup` or `debian`")]
    Unknown { text: String },
}

/// How cargo is told to use a toolchain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Compiler {
    pub(super) toolchain: Toolchain,
    pub(super) arguments: Vec<&'static str>,
    pub(super) environment: Vec<(&'static str, OsString)>,
}

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust/library/std/Cargo.toml";

/// Finds a compiler for the package in `directory`, which may ask for a version of its own; `wanted` insists on one.
pub(super) fn find(directory: &Path, wanted: Option<Toolchain>) -> Result<Compiler, ToolchainError> {
    match wanted {
        Some(Toolchain::Rustup) => rustup(directory),
        Some(Toolchain::Debian) => debian(directory).ok_or(ToolchainError::NoDebian),
        None => rustup(directory).or_else(|error| debian(directory).ok_or(error)),
    }
}

fn rustup(directory: &Path) -> Result<Compiler, ToolchainError> {
    let has_library =
        || sysroot(directory).is_some_and(|root| root.join("lib/rustlib").join(TARGET).is_dir());
    if !has_library() {
        let added = Command::new("rustup").args(["target", "add", TARGET]).current_dir(directory).output();
        let reason = match added {
            Ok(output) if output.status.success() => "its standard library is missing".to_owned(),
            Ok(output) => format!("rustup could not add the target ({})", first_error(&output.stderr)),
            Err(_) => "its standard library is missing and there is no rustup to add it".to_owned(),
        };
        if !has_library() {
            return Err(ToolchainError::NoTarget { reason });
        }
    }
    Ok(Compiler { toolchain: Toolchain::Rustup, arguments: Vec::new(), environment: Vec::new() })
}

fn debian(directory: &Path) -> Option<Compiler> {
    if !(Path::new(DEBIAN_RUSTC).is_file() && Path::new(DEBIAN_SOURCE).is_file()) {
        return None;
    }
    let mut environment = vec![
        ("RUSTC", DEBIAN_RUSTC.into()),
        // To compile the standard library is not stable, and Debian's compiler is.
        ("RUSTC_BOOTSTRAP", "1".into()),
    ];
    // Debian's compiler expects a linker of another package; one of the compiler on the path does as well.
    if let Some(linker) = linker(directory) {
        environment.push(("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker.into()));
    }
    Some(Compiler {
        toolchain: Toolchain::Debian,
        arguments: vec!["-Zbuild-std=std,panic_abort"],
        environment,
    })
}

fn linker(directory: &Path) -> Option<PathBuf> {
    let toolchains = std::fs::read_dir(sysroot(directory)?.join("lib/rustlib")).ok()?;
    toolchains.flatten().map(|entry| entry.path().join("bin/rust-lld")).find(|linker| linker.is_file())
}

/// Folder of the compiler on the path.
fn sysroot(directory: &Path) -> Option<PathBuf> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).current_dir(directory).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| PathBuf::from(text.trim()))
}

impl Toolchain {
    /// The name that a user gives.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rustup => "rustup",
            Self::Debian => "debian",
        }
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Toolchain {
    type Err = ToolchainError;

    fn from_str(text: &str) -> Result<Self, ToolchainError> {
        [Self::Rustup, Self::Debian]
            .into_iter()
            .find(|toolchain| toolchain.as_str() == text)
            .ok_or_else(|| ToolchainError::Unknown { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for toolchain in [Toolchain::Rustup, Toolchain::Debian] {
            assert_eq!(toolchain.to_string().parse::<Toolchain>().unwrap(), toolchain);
        }
        let error = "nightly".parse::<Toolchain>().unwrap_err();
        assert_eq!(error.to_string(), "`nightly` is not a toolchain: expected `rustup` or `debian`");
    }
}
