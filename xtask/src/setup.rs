//! Everything that building, testing and the demo need. Idempotent, and quick when all of it is there.
//!
//! In order: system packages, the wasm toolchain, Python, libxgboost and ONNX Runtime, the program, and the components that it builds.

mod components;
mod onnxruntime;
mod python;
mod system;
mod wasm;
mod wheel;
mod xgboost;

use std::fs::File;
use std::path::Path;
use std::process::Command;

use crate::arguments::Arguments;
use crate::error::{Context as _, Result};
use crate::layout::Layout;
use crate::{process, terminal};

pub(crate) use system::{Tool, ensure as ensure_tools};
pub(crate) use wasm::has_target as has_wasm_target;

const USAGE: &str = "\
Install what is missing and build the program and its plugins

Usage: cargo xtask setup

Installs, each only where it is missing:
  - gcc, and Python with its venv module, by apt-get (with sudo where not root)
  - the compiler's standard library for wasm32-unknown-unknown, by rustup or else from Debian's packages
  - libxgboost, and ONNX Runtime for the tests, from PyPI, into ~/.local/share/host/lib
  - PostgreSQL, by apt-get, and a Python environment, into ~/.cache/host/venv, for the tests
Then builds the program, the plugins and the tests' guests into the target folder.";

/// How much is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// What a user of the program needs.
    Demo,
    /// That and what the tests need.
    Tests,
}

pub(crate) fn command(mut arguments: Arguments) -> Result<()> {
    arguments.help(USAGE);
    arguments.finish()?;
    let layout = Layout::find()?;
    run(&layout, Scope::Tests)?;
    terminal::line(&format!("program  {}", process::display_path(&layout.host())));
    terminal::line(&format!("plugins  {}", process::display_path(&layout.plugins())));
    terminal::line(&format!("guests   {}", process::display_path(&layout.guests())));
    Ok(())
}

/// Sets up what `scope` wants. Another set-up at the same time is waited for.
pub(crate) fn run(layout: &Layout, scope: Scope) -> Result<()> {
    let _lock = lock(layout)?;
    ensure_tools(&[Tool::COMPILER, Tool::PYTHON])?;
    wasm::ensure()?;
    python::ensure(&layout.python_environment(), None)?;
    xgboost::ensure(layout)?;
    if scope == Scope::Tests {
        ensure_tools(&[Tool::POSTGRESQL, Tool::PROMTOOL])?;
        onnxruntime::ensure(layout)?;
        let requirements = layout.root().join("tests/python/requirements.txt");
        python::ensure(&layout.python_environment(), Some(&requirements))?;
    }
    claim_target(layout)?;
    build_host(layout, scope)?;
    components::build(layout, &layout.root().join("plugins"), &layout.plugins())?;
    if scope == Scope::Tests {
        components::build(layout, &layout.root().join("tests/guests"), &layout.guests())?;
    }
    Ok(())
}

/// A Python environment of a bench, in `folder`.
pub(crate) fn ensure_python(layout: &Layout, folder: &Path, requirements: &Path) -> Result<()> {
    let _lock = lock(layout)?;
    python::ensure(folder, Some(requirements))
}

/// What `cargo fmt` and `cargo clippy` need; rustup's minimal profile is without.
pub(crate) fn ensure_linters() -> Result<()> {
    wasm::ensure()?;
    let is_there = |name: &str| process::succeeds(Command::new("cargo").args([name, "--version"]));
    if is_there("fmt") && is_there("clippy") {
        return Ok(());
    }
    process::run(
        Command::new("rustup").args(["component", "add", "rustfmt", "clippy"]),
        "install cargo's linters",
    )
}

/// Cargo in the clone, with our target folder.
pub(crate) fn cargo(layout: &Layout) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(layout.root()).env("CARGO_TARGET_DIR", layout.target());
    command
}

/// Sees that what another clone compiled is not taken for this one's.
///
/// Clones share a target folder so that each dependency is compiled once. For the workspace's own packages cargo compares
/// times only, and the files of this clone may be older than what was compiled of the other's.
fn claim_target(layout: &Layout) -> Result<()> {
    let claim = layout.target().join("clone");
    let root = layout.root().as_os_str().as_encoded_bytes();
    if std::fs::read(&claim).is_ok_and(|claimed| claimed == root) {
        return Ok(());
    }
    let mut clean = cargo(layout);
    clean.args(["clean", "--quiet", "--release", "--package", "host", "--package", "host-tests"]);
    process::run(&mut clean, "remove what another clone compiled")?;
    let claimed = std::fs::create_dir_all(layout.target()).and_then(|()| std::fs::write(&claim, root));
    claimed.context(format_args!("write `{}`", claim.display()))
}

fn build_host(layout: &Layout, scope: Scope) -> Result<()> {
    let mut command = cargo(layout);
    command.args(["build", "--release"]);
    match scope {
        Scope::Demo => command.args(["--package", "host", "--bin", "host"]),
        // What `cargo test` will want. With other targets dependencies have other features, and the program would be
        // compiled once more.
        Scope::Tests => command.args(["--workspace", "--lib", "--bins", "--tests"]),
    };
    process::run(&mut command, "build the program")
}

fn lock(layout: &Layout) -> Result<File> {
    let path = layout.cache().join("setup.lock");
    std::fs::create_dir_all(layout.cache()).context(format_args!("create `{}`", layout.cache().display()))?;
    let locked = File::create(&path).and_then(|file| {
        if file.try_lock().is_err() {
            terminal::note("waiting for another set-up to end");
            file.lock()?;
        }
        Ok(file)
    });
    locked.context(format_args!("lock `{}`", path.display()))
}
