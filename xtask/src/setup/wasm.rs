//! A compiler that makes wasm32-unknown-unknown. How it is called is known to `host plugin build`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::system;
use crate::error::{Error, Result};
use crate::{process, terminal};

const TARGET: &str = "wasm32-unknown-unknown";

/// Rustup tries again for long where its server cannot be reached; a download of 20 MB needs less.
const RUSTUP_MAX: Duration = Duration::from_secs(120);

/// Debian's compiler for the web, with the source of the standard library: what can be had where only Debian's mirrors
/// are reached.
const PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust/library/std/Cargo.toml";

/// Installs what is missing.
pub(super) fn ensure() -> Result<()> {
    if has_target()? || has_debian() {
        return Ok(());
    }
    terminal::note(&format!("installing the compiler's standard library for {TARGET}"));
    let mut rustup = Command::new("rustup");
    if process::succeeds_within(rustup.args(["target", "add", TARGET]).stdout(Stdio::null()), RUSTUP_MAX)
        && has_target()?
    {
        return Ok(());
    }
    terminal::note("rustup cannot install it: trying Debian's packages");
    system::install(&PACKAGES).map_err(|error| {
        Error::new(format!(
            "plugins cannot be compiled: run `rustup target add {TARGET}` (and else: {error})"
        ))
    })?;
    if has_debian() {
        return Ok(());
    }
    // Old releases have packages of these names that lack the sources or are too old to be of use.
    Err(Error::new(format!("plugins cannot be compiled: run `rustup target add {TARGET}`")))
}

/// Whether the compiler on the path has the library.
pub(crate) fn has_target() -> Result<bool> {
    let mut rustc = Command::new("rustc");
    let sysroot = process::read_text(rustc.args(["--print", "sysroot"]), "find the Rust compiler")?;
    Ok(Path::new(&sysroot).join("lib/rustlib").join(TARGET).join("lib").is_dir())
}

fn has_debian() -> bool {
    Path::new(DEBIAN_RUSTC).is_file() && Path::new(DEBIAN_SOURCE).is_file()
}
