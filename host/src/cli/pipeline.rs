mod progress;
mod show;
mod trigger;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use console::style;
use serde_json::json;

use self::progress::Progress;
use super::error::CANCELLED;
use super::output::{Output, Table, printable};
use super::plugin::parse_pair;
use super::state::{StateArguments, pipelines_before};
use crate::pipeline::executor::LocalExecutor;
use crate::pipeline::trigger::led_by;
use crate::pipeline::{
    self, NewPipelineRecord, PipelineFile, PipelineRecord, PipelineReport, PipelineRunner, PipelineStatus,
    Plan, PreviewedOutcome, Records, RunOptions, StepContext, preview, start_pipeline,
};
use crate::process::Cancel;
use crate::registry::Registry;
use crate::store::Store;

/// A step has failed.
const STEP_FAILED: u8 = 5;

#[derive(Debug, Subcommand)]
pub(super) enum PipelineCommand {
    /// Check a pipeline file, and tell everything that is wrong with it.
    Check {
        #[command(flatten)]
        file: FileArguments,
    },
    /// Tell what running it would do: which steps are run and which have their results already, and why.
    Plan {
        #[command(flatten)]
        file: FileArguments,
    },
    /// Run it: what was done before with the same inputs is not done again.
    #[command(after_help = "\
Examples:
  host pipeline run examples/mnist/pipeline.yaml
  host pipeline run pipeline.yaml -p rounds=20 --fail-fast

Exit codes: 0 every step ended well, 5 a step failed, 130 it was stopped.")]
    Run {
        #[command(flatten)]
        file: FileArguments,
        #[command(flatten)]
        options: RunArguments,
    },
    /// Go on with a pipeline that was killed, stopped or has failed: what has ended well is kept.
    Resume {
        /// The pipeline run: its id or the first digits of it, or the pipeline's name for its newest.
        run: String,
        /// Also where another machine seems to be at it.
        #[arg(long)]
        take_over: bool,
        #[command(flatten)]
        options: RunArguments,
    },
    /// Show how far the steps of a pipeline are, or how they ended.
    Show {
        /// The pipeline run: its id or the first digits of it, or the pipeline's name for its newest.
        run: String,
    },
    /// List pipelines that were started, the newest first.
    List {
        /// Only those of this name.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Show at most so many.
        #[arg(long, default_value_t = 20)]
        limit: u16,
    },
    /// Have it started by its triggers, wherever `host server` runs on this state.
    ///
    /// The file and the parameters are kept as they are now: say it again after a change. What there is already (versions
    /// of datasets, alerts, times that have passed) starts nothing.
    #[command(after_help = "\
Example:
  host pipeline enable pipeline.yaml -p rounds=200
  host server

with, in the file:
  triggers:
    - schedule: \"0 3 * * *\"     # every night, in UTC
    - dataset: penguins         # for a new version of it
    - drift: penguins           # when `host monitor run` finds that the endpoint's data drifted")]
    Enable {
        #[command(flatten)]
        file: FileArguments,
    },
    /// Have it started by nothing but people again; a run that is under way goes on.
    Disable {
        /// The pipeline's name.
        pipeline: String,
    },
    /// List the triggers of enabled pipelines, and what each started last.
    Triggers {
        /// Only those of this pipeline.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// Draw what needs what.
    Graph {
        #[command(flatten)]
        file: FileArguments,
        /// How.
        #[arg(long, value_enum, default_value_t = Drawing::Text)]
        format: Drawing,
    },
    /// Print the JSON Schema of pipeline files, for editors.
    Schema,
}

#[derive(Debug, clap::Args)]
pub(super) struct FileArguments {
    /// The pipeline file.
    #[arg(default_value = "pipeline.yaml")]
    file: PathBuf,
    /// A parameter's value instead of its default; may be given more than once.
    #[arg(short, long = "param", value_name = "NAME=VALUE", value_parser = parse_pair)]
    params: Vec<(String, String)>,
}

#[derive(Debug, clap::Args)]
pub(super) struct RunArguments {
    /// Start nothing new once a step has failed, also what does not need it.
    #[arg(long)]
    fail_fast: bool,
    /// Run every step, also where its result is there.
    #[arg(long)]
    force: bool,
    /// Cores that all steps together may use [default: all].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    cores: Option<u32>,
}

/// How to draw.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Drawing {
    /// Characters.
    Text,
    /// A picture for browsers.
    Svg,
    /// A diagram in the language of Mermaid, which Markdown on many sites shows.
    Mermaid,
}

pub(super) fn run(
    command: PipelineCommand,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    match command {
        PipelineCommand::Check { file } => check(&file, output)?,
        PipelineCommand::Graph { file, format } => graph(&file, format, output)?,
        PipelineCommand::Schema => output.value(&pipeline::schema())?,
        of_state => {
            let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            return threads.context("failed to start threads")?.block_on(with_state(of_state, state, output));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn with_state(
    command: PipelineCommand,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let registry = state.open_registry().await?;
    let records = Records::new(registry.tracker().database().clone());
    match command {
        PipelineCommand::Plan { file } => {
            show_plan(&file, registry, &records, output).await?;
        }
        PipelineCommand::Run { file, options } => {
            let (file, plan) = file.plan()?;
            let name = plan.name.clone();
            let pipelines = led_by(&[&pipelines_before()], name.as_str());
            let new = NewPipelineRecord { name, file, triggered_by: String::new(), pipelines };
            let record = start_pipeline(registry.tracker(), &records, new).await?;
            return execute(plan, record, registry, records, &options, state, output).await;
        }
        PipelineCommand::Resume { run, take_over, options } => {
            let found = records.find(&run).await?;
            let plan = Arc::new(PipelineFile::from(&found).plan()?);
            let record = records.take_over(&found, take_over).await?;
            return execute(plan, record, registry, records, &options, state, output).await;
        }
        PipelineCommand::Enable { file } => trigger::enable(&file, &registry, output).await?,
        PipelineCommand::Disable { pipeline } => trigger::disable(&pipeline, &registry, output).await?,
        PipelineCommand::Triggers { name } => {
            trigger::list(name.as_deref(), &registry, output).await?;
        }
        PipelineCommand::Show { run } => show::show(&run, &records, output).await?,
        PipelineCommand::List { name, limit } => {
            show::list(name.as_deref(), limit, &records, output).await?;
        }
        PipelineCommand::Check { .. } | PipelineCommand::Graph { .. } | PipelineCommand::Schema => {}
    }
    Ok(ExitCode::SUCCESS)
}

impl FileArguments {
    /// Reads the file, and plans it.
    fn plan(&self) -> anyhow::Result<(PipelineFile, Arc<Plan>)> {
        let file = PipelineFile::read(&self.file, self.params.clone())?;
        let plan = Arc::new(file.plan()?);
        Ok((file, plan))
    }
}

fn check(arguments: &FileArguments, output: &Output) -> anyhow::Result<()> {
    let (_, plan) = arguments.plan()?;
    if output.is_json() {
        let steps: Vec<&str> = plan.steps.iter().map(|step| step.id.as_str()).collect();
        return output.value(&json!({ "name": plan.name, "params": plan.parameters, "steps": steps }));
    }
    let steps = plan.steps.len();
    Ok(output.line(&format!("{}: {steps} {}", plan.name, if steps == 1 { "step" } else { "steps" }))?)
}

fn graph(arguments: &FileArguments, format: Drawing, output: &Output) -> anyhow::Result<()> {
    let (_, plan) = arguments.plan()?;
    let drawn = match format {
        Drawing::Text => pipeline::graph::text(&plan, &[]),
        Drawing::Svg => pipeline::graph::svg(&plan, &[]),
        Drawing::Mermaid => pipeline::graph::mermaid(&plan, &[]),
    };
    Ok(output.bytes(drawn.as_bytes())?)
}

async fn show_plan(
    file: &FileArguments,
    registry: Registry,
    records: &Records,
    output: &Output,
) -> anyhow::Result<()> {
    let (file, plan) = file.plan()?;
    let previews = preview(&plan, &StepContext::new(registry, file.folder), records).await?;
    if output.is_json() {
        return output.value(&json!({ "name": plan.name, "steps": previews }));
    }
    let mut table = Table::new(&["STEP", "USES", "WILL", "WHY"]);
    for preview in &previews {
        let outcome = match preview.outcome {
            PreviewedOutcome::Run => style("run").green(),
            PreviewedOutcome::Cached => style("reuse").cyan(),
            PreviewedOutcome::Skip => style("skip").dim(),
            PreviewedOutcome::Unknown => style("depend"),
            PreviewedOutcome::Fail => style("fail").red(),
        };
        let cells = [preview.step.as_str(), preview.uses, &outcome.to_string(), &printable(&preview.reason)];
        table.styled_row(cells.map(str::to_owned).to_vec());
    }
    Ok(output.table(&table)?)
}

/// What runs steps on this machine, for a state.
pub(super) fn local_executor(state: &StateArguments, store: Store) -> anyhow::Result<LocalExecutor> {
    let program = std::env::current_exe().context("failed to find this program")?;
    Ok(LocalExecutor::new(store, program, state.to_environment()?))
}

async fn execute(
    plan: Arc<Plan>,
    record: PipelineRecord,
    registry: Registry,
    records: Records,
    options: &RunArguments,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let context = StepContext::new(registry, PathBuf::from(&record.folder));
    let executor = local_executor(state, context.store.clone())?;
    let runner = PipelineRunner {
        cores: options.cores.unwrap_or_else(|| executor.cores()),
        context,
        records,
        executor: Arc::new(executor),
        options: RunOptions { ignore_results: options.force, fail_fast: options.fail_fast },
    };
    output.note(&format!("{} run {}", plan.name, record.run_id));
    let cancel = Arc::new(Cancel::default());
    let waiter = tokio::spawn(cancel_on_signal(Arc::clone(&cancel)));
    let mut progress = Progress::new(&plan, output);
    let report = runner.run(plan, &record, cancel, &mut |event| progress.on(event)).await;
    progress.finish();
    waiter.abort();
    let report = report?;
    tell(&record, &report, output)?;
    Ok(match report.status {
        PipelineStatus::Finished | PipelineStatus::Running => ExitCode::SUCCESS,
        PipelineStatus::Failed => ExitCode::from(STEP_FAILED),
        PipelineStatus::Cancelled => ExitCode::from(CANCELLED),
    })
}

async fn cancel_on_signal(cancel: Arc<Cancel>) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    cancel.cancel();
}

fn tell(record: &PipelineRecord, report: &PipelineReport, output: &Output) -> anyhow::Result<()> {
    if output.is_json() {
        return output.value(&json!({
            "run_id": record.run_id,
            "name": record.name,
            "status": report.status,
            "seconds": report.seconds,
            "steps": report.steps,
        }));
    }
    let counted = show::counts(report.steps.iter().map(|step| step.status));
    output.field("pipeline", &record.name)?;
    output.field("run", &record.run_id)?;
    output.field("status", report.status.as_str())?;
    output.field("steps", counted)?;
    output.field("time", format!("{:.1} s", report.seconds))?;
    match report.status {
        PipelineStatus::Failed | PipelineStatus::Cancelled => {
            output.note(&format!("go on with it: host pipeline resume {}", record.run_id));
        }
        PipelineStatus::Finished | PipelineStatus::Running => {}
    }
    Ok(())
}
