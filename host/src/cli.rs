//! The command line: parses arguments, wires the layers together and prints. Holds no logic of its own.
//!
//! Data goes to standard output, everything else to standard error. `--json` output is stable.

mod archive;
mod compile;
mod data;
mod device;
mod endpoint;
mod error;
mod evaluate;
mod gc;
mod job;
mod lineage;
mod listener;
mod model;
mod monitor;
mod output;
mod pipeline;
mod plugin;
mod predict;
mod replay;
mod run;
mod serve;
mod server;
mod state;
mod sweep;
mod train;
mod transform;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use output::Output;
use state::StateArguments;

/// A WebAssembly plugin host for machine-learning operations: data, training, serving and monitoring in one program.
///
/// The steps you write yourself run as sandboxed components, and the same bytes run in training and in serving.
#[derive(Debug, Parser)]
#[command(name = "host", version, propagate_version = true, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    state: StateArguments,

    /// Print data as JSON on standard output.
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,

    /// Say more on standard error; twice for debugging.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    verbose: u8,

    /// Say only what is wrong.
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Global options")]
    quiet: bool,

    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 the host failed, 2 something you gave it is wrong, 3 a plugin failed, 4 drift was found,
5 a step of a pipeline failed.

A first session:
  host data add mnist examples/mnist/data
  host train --data mnist --preprocess mnist-pixels.wasm --postprocess argmax-label.wasm --name mnist
  host serve --model mnist --port 8080";

#[derive(Debug, Subcommand)]
enum Command {
    /// Build, inspect and run plugins.
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Add, list and show datasets.
    #[command(subcommand)]
    Data(data::DataCommand),
    /// Make a dataset of another one's rows: filtered, split, and sent through transformers.
    Transform(transform::TransformArguments),
    /// Train a model and keep it as a bundle.
    Train(train::TrainArguments),
    /// Search for the best parameters: train many models and keep the best.
    Sweep(Box<sweep::SweepArguments>),
    /// Compare, promote, name, import and export models.
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Show what something was made from, and what it led to: datasets, components, runs, bundles, models.
    Lineage(lineage::LineageArguments),
    /// List, show, compare and watch runs.
    #[command(subcommand)]
    Run(run::RunCommand),
    /// Check, plan, run and show pipelines.
    #[command(subcommand)]
    Pipeline(pipeline::PipelineCommand),
    /// Score a dataset with a model.
    Predict(predict::PredictArguments),
    /// Judge a model by rows with labels.
    Evaluate(evaluate::EvaluateArguments),
    /// Serve a model over HTTP.
    Serve(serve::ServeArguments),
    /// List the endpoints of a server, and roll one back to the version before.
    #[command(subcommand)]
    Endpoint(endpoint::EndpointCommand),
    /// Compute a prediction that was served once more, and compare.
    Replay(replay::ReplayArguments),
    /// Start the server of experiments, runs and models, which MLflow's clients can use.
    Server(server::ServerArguments),
    /// Watch what an endpoint sees.
    #[command(subcommand)]
    Monitor(monitor::MonitorCommand),
    /// Write datasets, runs and models into one file, as a backup or to carry them elsewhere.
    Export(archive::ExportArguments),
    /// Take in what `host export` wrote, elsewhere or before.
    Import(archive::ImportArguments),
    /// Free the space of what nothing needs any more.
    Gc(gc::GcArguments),
    /// Compile a component that comes on standard input.
    #[command(hide = true)]
    Compile(compile::CompileArguments),
    /// Become the program of a job, with its limits.
    #[command(hide = true)]
    Job(job::JobArguments),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    output::start_log(cli.verbose, cli.quiet);
    let output = Output::new(cli.json, cli.quiet);
    if let Err(error) = crate::process::heed_children() {
        output.warn(&format!("it will not be known how programs end that are started: {error}"));
    }
    let code = run(cli, &output).unwrap_or_else(|error| error::report(&error, &output));
    output::standard_error::flush();
    code
}

fn run(cli: Cli, output: &Output) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Plugin(command) => plugin::run(command, output)?,
        Command::Data(command) => data::run(command, &cli.state, output)?,
        Command::Transform(arguments) => transform::run(arguments, &cli.state, output)?,
        Command::Train(arguments) => train::run(arguments, &cli.state, output)?,
        Command::Sweep(arguments) => sweep::run(&arguments, &cli.state, output)?,
        Command::Model(command) => return model::run(command, &cli.state, output),
        Command::Lineage(arguments) => state::wait(lineage::run(&arguments, &cli.state, output))?,
        Command::Run(command) => run::run(command, &cli.state, output)?,
        Command::Pipeline(command) => return pipeline::run(command, &cli.state, output),
        Command::Predict(arguments) => predict::run(arguments, &cli.state, output)?,
        Command::Evaluate(arguments) => evaluate::run(arguments, &cli.state, output)?,
        Command::Serve(arguments) => serve::run(arguments, &cli.state, output)?,
        Command::Endpoint(command) => state::wait(endpoint::run(command, &cli.state, output))?,
        Command::Replay(arguments) => return replay::run(&arguments, &cli.state, output),
        Command::Server(arguments) => server::run(&arguments, &cli.state, output)?,
        Command::Monitor(command) => return monitor::run(command, &cli.state, output),
        Command::Export(arguments) => archive::export(arguments, &cli.state, output)?,
        Command::Import(arguments) => archive::import(arguments, &cli.state, output)?,
        Command::Gc(arguments) => gc::run(arguments, &cli.state, output)?,
        Command::Compile(arguments) => return compile::run(&arguments, output),
        Command::Job(arguments) => return job::run(arguments),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "host", &mut script);
            output.bytes(&script)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        super::Cli::command().debug_assert();
    }
}
