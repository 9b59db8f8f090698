//! `cargo xtask bench`: measures and writes down.

mod calls;
mod cores;
mod cpu;
mod data;
mod generator;
mod load;
mod model;
mod networks;
mod pipelines;
mod report;
mod serving;
mod tracking;
mod training;
mod transform;

use std::path::{Path, PathBuf};

use crate::arguments::Arguments;
use crate::error::{Context as _, Error, Result};
use crate::layout::Layout;
use crate::session::Session;
use crate::setup;
use crate::terminal;

const USAGE: &str = "\
Set up, then measure and write the results to docs/benchmarks.md

Usage: cargo xtask bench serving [--parts PARTS] [--seconds SECONDS] [--rounds ROUNDS] [--no-setup]
       cargo xtask bench tracking [--seconds SECONDS] [--rounds ROUNDS]
       cargo xtask bench data [--rounds ROUNDS]
       cargo xtask bench training [--rounds ROUNDS]
       cargo xtask bench networks [--epochs EPOCHS] [--rounds ROUNDS] [--python FILE]
       cargo xtask bench pipelines [--rounds ROUNDS]
       cargo xtask bench transform [--rounds ROUNDS]
       cargo xtask bench calls [-- ARGUMENTS OF CRITERION]

Benches:
  serving      One image over HTTP and gRPC: `host`, the same server answering a constant, and FastAPI, MLServer and BentoML
               with the same model; by turns, ROUNDS times SECONDS each [default: 3 times 8 s, half an hour in all].
               PARTS, with commas between, are some of
                 load        full load at 1, 8, 64 and 512 connections
                 in-process  a request without a server
                 cold-start  from the start of a process to its first answer
                 memory      idle and under load, and with 50 endpoints
                 rate        latency at a constant rate, 80 % of what `host` can take
                 polled      requests of a client that never sleeps
                 swap        full load while the version behind an endpoint changes
               With --no-setup it measures what is built already
  training     All of MNIST, 100 rounds of depth 6: `host train` and Python's xgboost, by turns, ROUNDS times
               [default: 3; a quarter of an hour on two cores]
  networks     All of MNIST, EPOCHS epochs [default: 3] of a cnn and an mlp, on one thread and on all cores: `host train` and
               PyTorch on the processor, by turns, ROUNDS times [default: 3]; FILE is a Python with torch and numpy, else
               one is installed, which takes several GB
  tracking     What MLflow's clients send, to `host server` and to `mlflow server`, both on SQLite, by turns; then search
               over 100,000 runs and the history of 1,000,000 points
  data         100,000 files of 10 GB in all: `host data add`, `sha256sum` and `cp`, by turns; on the disk, which needs
               room for three times as much, and fewer files in memory
  pipelines    Steps that do nothing, many at a time and one after the other, beside the same processes started by hand
  transform    1,000,000 images through `mnist-pixels`: `host transform` and the same Rust function called natively, by
               turns; the disk needs room for 10 GB
  calls        A component's calls beside the same Rust function's, and the stages of a request, in process, by criterion;
               with arguments it prints only";

/// Threads of a load generator and its server share few cores; more seconds say more than more threads.
const SECONDS: u32 = 8;
const ROUNDS: u32 = 3;
const EPOCHS: u32 = 3;

pub(crate) fn command(mut arguments: Arguments) -> Result<()> {
    arguments.help(USAGE);
    let bench = arguments.positional();
    let layout = Layout::find()?;
    match bench.as_deref() {
        Some("serving") => {
            let seconds = count(&mut arguments, "--seconds", SECONDS)?;
            let rounds = count(&mut arguments, "--rounds", ROUNDS)?;
            let parts = "parts with commas between, of `load`, `in-process`, `cold-start`, `memory`, `rate`, `polled` and `swap`";
            let parts = arguments.value("--parts", parts)?.unwrap_or_default();
            let is_set_up = arguments.flag("--no-setup");
            arguments.finish()?;
            serving::run(&layout, &serving::Options { parts, seconds, rounds, is_set_up })
        }
        Some("tracking") => {
            let seconds = count(&mut arguments, "--seconds", SECONDS)?;
            let rounds = count(&mut arguments, "--rounds", ROUNDS)?;
            arguments.finish()?;
            tracking::run(&layout, seconds, rounds)
        }
        Some("data") => {
            let rounds = count(&mut arguments, "--rounds", ROUNDS)?;
            arguments.finish()?;
            data::run(&layout, rounds)
        }
        Some("training") => {
            let rounds = count(&mut arguments, "--rounds", ROUNDS)?;
            arguments.finish()?;
            training::run(&layout, rounds)
        }
        Some("networks") => {
            let epochs = count(&mut arguments, "--epochs", EPOCHS)?;
            let rounds = count(&mut arguments, "--rounds", ROUNDS)?;
            let python = arguments.value("--python", "a program")?;
            arguments.finish()?;
            networks::run(&layout, python, epochs, rounds)
        }
        Some("pipelines") => {
            let rounds = count(&mut arguments, "--rounds", ROUNDS)?;
            arguments.finish()?;
            pipelines::run(&layout, rounds)
        }
        Some("transform") => {
            let rounds = count(&mut arguments, "--rounds", ROUNDS)?;
            arguments.finish()?;
            transform::run(&layout, rounds)
        }
        Some("calls") => {
            let chosen = arguments.trailing();
            arguments.finish()?;
            calls::run(&layout, &chosen)
        }
        Some(other) => {
            Err(Error::usage(format!("there is no bench `{other}`: see `cargo xtask bench --help`")))
        }
        None => Err(Error::usage(
            "expected a bench: `calls`, `data`, `networks`, `pipelines`, `serving`, `tracking`, `training` or `transform`",
        )),
    }
}

fn count(arguments: &mut Arguments, name: &str, default: u32) -> Result<u32> {
    match arguments.value(name, "a number from 1 on")? {
        Some(0) => Err(Error::usage(format!("`{name}` expects a number from 1 on, found `0`"))),
        given => Ok(given.unwrap_or(default)),
    }
}

/// Python with what the peers need.
fn peer_python(layout: &Layout) -> Result<PathBuf> {
    let folder = layout.cache().join("bench/venv");
    setup::ensure_python(layout, &folder, &layout.root().join("benches/python/requirements.txt"))?;
    Ok(folder.join("bin/python"))
}

/// Parameters of the model that is measured, for the program and for its peers.
const PARAMETERS: [&str; 4] = ["--rounds", "100", "--set", "max_depth=6"];

/// Makes `folder` anew.
fn fresh_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(format_args!("remove `{}`", folder.display()))
        }
        _ => std::fs::create_dir_all(folder).context(format_args!("create `{}`", folder.display())),
    }
}

/// Makes `folder` anew and adds MNIST to a state folder in it.
fn fresh_session(layout: &Layout, folder: PathBuf) -> Result<Session<'_>> {
    fresh_folder(&folder)?;
    let session = Session::new(layout, folder.join("state"));
    let mut add = session.host(["data", "add", "mnist", "examples/mnist/data"]);
    session.run(&mut add, "add the data")?;
    terminal::line("");
    Ok(session)
}
