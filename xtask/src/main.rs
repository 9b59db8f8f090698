//! Set-up, tests, demo and benches of this repository: `cargo xtask COMMAND`.
//!
//! Owns what a contributor's machine needs and the order in which things are built. Refuses to know how `host` works: it
//! runs the program as a user would. Has almost no dependencies, so that a fresh machine runs it within seconds.
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used))]

mod arguments;
mod bench;
mod check;
mod demo;
mod error;
mod http;
mod layout;
mod mnist;
mod process;
mod server;
mod session;
mod setup;
mod statistics;
mod terminal;

use std::process::ExitCode;

use arguments::Arguments;
use error::{Error, Result};

const USAGE: &str = "\
Set-up, tests, demo and benches of this repository

Usage: cargo xtask COMMAND [OPTIONS]

Commands:
  setup  Install what is missing and build the program and its plugins
  test   Set up, then run every test
  lint   Check formatting and lints
  demo   Set up, then train, serve and watch a model of handwritten digits
  bench  Set up, then measure and write the results to docs/benchmarks.md

`cargo xtask COMMAND --help` tells more of each.

Environment:
  CARGO_TARGET_DIR  Where everything is built [default: ~/.cache/host/target]
  XDG_CACHE_HOME    What can be made again lies under `host/` there [default: ~/.cache]
  XDG_DATA_HOME     libxgboost and ONNX Runtime lie under `host/lib/` there [default: ~/.local/share]
  CI                If set, nothing is asked and no progress is drawn";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::error(&error);
            error.exit_code()
        }
    }
}

fn run() -> Result<()> {
    let mut arguments = Arguments::from_environment()?;
    let Some(command) = arguments.positional() else {
        arguments.help(USAGE);
        arguments.finish()?;
        return Err(Error::usage("expected a command: see `cargo xtask --help`"));
    };
    match command.as_str() {
        "setup" => setup::command(arguments),
        "test" => check::test_command(arguments),
        "lint" => check::lint_command(arguments),
        "demo" => demo::command(arguments),
        "bench" => bench::command(arguments),
        "help" => {
            terminal::line(USAGE);
            arguments.finish()
        }
        other => Err(Error::usage(format!("there is no command `{other}`: see `cargo xtask --help`"))),
    }
}
