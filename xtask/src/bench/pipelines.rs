//! What a pipeline costs besides its steps: steps that do nothing, beside the same processes started by hand.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::{fresh_folder, report};
use crate::error::{Context as _, Result};
use crate::layout::Layout;
use crate::session::Session;
use crate::setup::{self, Scope};
use crate::statistics::median;
use crate::{process, terminal};

/// Steps that do not need each other.
const MANY: usize = 1_000;

/// Steps one after the other.
const CHAIN: usize = 100;

/// Steps of the pipeline whose results are all there.
const CACHED: usize = 20;

pub(super) fn run(layout: &Layout, rounds: u32) -> Result<()> {
    setup::run(layout, Scope::Demo)?;
    let folder = layout.cache().join("bench/pipelines");
    terminal::heading("Running pipelines of steps that do nothing");
    let (mut many, mut chain, mut bare, mut cached) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        fresh_folder(&folder)?;
        let session = Session::new(layout, folder.join("state"));
        let measure =
            |name: &str, steps: usize, is_chain: bool| pipeline(&session, &folder, name, steps, is_chain);
        many.push(measure("many", MANY, false)?);
        chain.push(measure("chain", CHAIN, true)? / CHAIN as f64);
        bare.push(processes(CHAIN)? / CHAIN as f64);
        measure("cached", CACHED, true)?;
        cached.push(measure("cached", CACHED, true)?);
        terminal::line(&format!("round {round} of {rounds}"));
    }
    std::fs::remove_dir_all(&folder).context(format_args!("remove `{}`", folder.display()))?;
    let row = |what: String, value: String| vec![what, value];
    let rows = [
        row("measured".to_owned(), "median".to_owned()),
        row(format!("{MANY} steps that do not need each other"), format!("{:.2} s", median(&many))),
        row(format!("a step of {CHAIN}, one after the other"), format!("{:.1} ms", median(&chain) * 1e3)),
        row("the same process, started and waited for".to_owned(), format!("{:.1} ms", median(&bare) * 1e3)),
        row(format!("{CACHED} steps whose results are there"), format!("{:.0} ms", median(&cached) * 1e3)),
    ];
    let result = report::table(&rows, 0);
    terminal::line(&format!("\n{result}"));
    report::write(layout, "pipelines", &format!("cargo xtask bench pipelines --rounds {rounds}"), &result)
}

/// Runs a pipeline of steps that do nothing; gives its seconds, with the start of the program.
fn pipeline(session: &Session<'_>, folder: &Path, name: &str, steps: usize, is_chain: bool) -> Result<f64> {
    let mut text = format!("version: 1\nname: {name}\nsteps:\n");
    for step in 0..steps {
        let needs = if is_chain && step > 0 { format!("needs: [s{}], ", step - 1) } else { String::new() };
        // A value of its own, or one step's result would be all others'.
        let with = format!("with: {{ run: [\"true\"], env: {{ STEP: \"{name} {step}\" }} }}");
        text.push_str(&format!("  s{step}: {{ uses: command, {needs}{with} }}\n"));
    }
    let file = folder.join(format!("{name}.yaml"));
    std::fs::write(&file, text).context(format_args!("write `{}`", file.display()))?;
    let mut command = session.host(["--quiet", "pipeline", "run"]);
    command.arg(&file).stdout(Stdio::null());
    let started = Instant::now();
    process::run(&mut command, "run the pipeline")?;
    Ok(started.elapsed().as_secs_f64())
}

/// Starts the processes of such steps by hand, one after the other.
fn processes(count: usize) -> Result<f64> {
    let started = Instant::now();
    for _ in 0..count {
        process::run(&mut Command::new("true"), "start a process")?;
    }
    Ok(started.elapsed().as_secs_f64())
}
