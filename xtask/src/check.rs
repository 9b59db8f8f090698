//! `cargo xtask test` and `cargo xtask lint`.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::arguments::Arguments;
use crate::error::{Context as _, Result};
use crate::layout::Layout;
use crate::setup::{self, Scope, cargo};
use crate::{process, terminal};

const TEST_USAGE: &str = "\
Set up, then run every test

Usage: cargo xtask test [-- ARGUMENTS OF CARGO TEST]

Without arguments runs the tests of this workspace against the optimised program, and then the plugins' own tests. With
arguments runs only those of this workspace that they name:
  cargo xtask test -- --package host trees
  cargo xtask test -- --test serving -- --nocapture";

const LINT_USAGE: &str = "\
Check formatting and lints of the program, the plugins and the tests' guests

Usage: cargo xtask lint

Mend formatting with `cargo fmt`, here and in plugins/.";

pub(crate) fn test_command(mut arguments: Arguments) -> Result<()> {
    let chosen = arguments.trailing();
    arguments.help(TEST_USAGE);
    arguments.finish()?;
    let layout = Layout::find()?;
    // Tests open thousands of connections.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let all = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all)
        .context("have as many files open as allowed")?;
    let mut times = Times::default();
    times.take("set-up", || setup::run(&layout, Scope::Tests))?;
    times.take("tests", || process::run(workspace_tests(&layout).args(&chosen), "pass the tests"))?;
    if chosen.is_empty() {
        let mut command = plugins_cargo(&layout);
        command.args(["test", "--workspace"]);
        times.take("tests of plugins", || process::run(&mut command, "pass the tests of plugins"))?;
    }
    terminal::line(&format!("\n{}", terminal::table(&times.rows).trim_end()));
    Ok(())
}

pub(crate) fn lint_command(mut arguments: Arguments) -> Result<()> {
    arguments.help(LINT_USAGE);
    arguments.finish()?;
    let layout = Layout::find()?;
    setup::ensure_linters()?;
    let root = layout.root();
    let (plugins, guests) = (root.join("plugins"), root.join("tests/guests"));
    for folder in [root, &plugins, &guests] {
        let mut format = Command::new("cargo");
        format.args(["fmt", "--all", "--check"]).current_dir(folder);
        process::run(&mut format, "find the code formatted as `cargo fmt` does it")?;
    }
    clippy(cargo(&layout), root, &["--release", "--all-targets"])?;
    clippy(plugins_cargo(&layout), &plugins, &["--locked", "--all-targets"])?;
    // Debian's fallback compiler comes without clippy.
    if !setup::has_wasm_target()? {
        terminal::note("left out lints for WebAssembly: run `rustup target add wasm32-unknown-unknown`");
        return Ok(());
    }
    // What a plugin has only as a component; and guests are nothing else.
    for folder in [&plugins, &guests] {
        clippy(plugins_cargo(&layout), folder, &["--locked", "--target", "wasm32-unknown-unknown"])?;
    }
    Ok(())
}

fn clippy(mut cargo: Command, workspace: &Path, options: &[&str]) -> Result<()> {
    cargo.current_dir(workspace).args(["clippy", "--workspace"]).args(options);
    process::run(cargo.args(["--", "--deny", "warnings"]), "find the code without warnings")
}

/// The tests of this workspace, told where things are.
fn workspace_tests(layout: &Layout) -> Command {
    let mut command = cargo(layout);
    command.args(["test", "--release", "--workspace"]);
    command.env("HOST_BIN", layout.host());
    command.env("HOST_PLUGINS_DIR", layout.plugins());
    command.env("HOST_GUESTS_DIR", layout.guests());
    command.env("HOST_PYTHON", layout.python_environment().join("bin/python"));
    command
}

/// Cargo for the plugins, whose tests run natively and unoptimised.
fn plugins_cargo(layout: &Layout) -> Command {
    let mut command = cargo(layout);
    command.current_dir(layout.root().join("plugins")).env("CARGO_TARGET_DIR", layout.plugins_target());
    command
}

/// How long each part took.
#[derive(Default)]
struct Times {
    rows: Vec<Vec<String>>,
}

impl Times {
    fn take(&mut self, part: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        terminal::heading(part);
        let started = Instant::now();
        work()?;
        self.rows.push(vec![part.to_owned(), terminal::duration(started.elapsed())]);
        Ok(())
    }
}
