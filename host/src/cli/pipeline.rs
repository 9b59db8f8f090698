mod progress;
mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use console::style;
use serde_json::{Map, Value, json};

use self::progress::Progress;
use super::output::{Output, Table, printable};
use super::plugin::parse_pair;
use super::state::StateArguments;
use crate::data::Catalog;
use crate::pipeline::executor::{Cancel, LocalExecutor};
use crate::pipeline::{
    self, NewPipelineRecord, PipelineRecord, PipelineReport, PipelineRunner, PipelineSpec, PipelineStatus,
    Plan, PreviewedOutcome, Records, RunOptions, StepContext, begin_pipeline, preview,
};
use crate::registry::Registry;

/// A step has failed.
const STEP_FAILED: u8 = 5;

/// Somebody said stop.
const CANCELLED: u8 = 130;

/// Largest pipeline file.
const FILE_MAX_BYTES: u64 = 1024 * 1024;

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
            let file = PipelineFile::read(&file.file)?.plan(&file.params)?;
            show_plan(&file, registry, &records, output).await?;
        }
        PipelineCommand::Run { file, options } => {
            let params = params_map(&file.params);
            let file = PipelineFile::read(&file.file)?.plan(&file.params)?;
            let new = NewPipelineRecord {
                name: file.plan.name.to_string(),
                file_name: file.name.clone(),
                file: file.text.clone(),
                folder: file.folder.display().to_string(),
                params,
            };
            let record = begin_pipeline(registry.tracker(), &records, new).await?;
            return execute(file, record, registry, records, &options, state, output).await;
        }
        PipelineCommand::Resume { run, take_over, options } => {
            let found = records.find(&run).await?;
            let file = PipelineFile::of_record(&found)?;
            let record = records.take_over(&found, take_over).await?;
            return execute(file, record, registry, records, &options, state, output).await;
        }
        PipelineCommand::Show { run } => show::show(&run, &records, output).await?,
        PipelineCommand::List { name, limit } => {
            show::list(name.as_deref(), limit, &records, output).await?;
        }
        PipelineCommand::Check { .. } | PipelineCommand::Graph { .. } | PipelineCommand::Schema => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// A file that was read, and its plan.
struct PipelineFile {
    name: String,
    text: String,
    folder: PathBuf,
    plan: Arc<Plan>,
}

/// A file that was read.
struct ReadFile {
    name: String,
    text: String,
    folder: PathBuf,
    spec: PipelineSpec,
}

impl PipelineFile {
    fn read(path: &Path) -> anyhow::Result<ReadFile> {
        use std::io::Read as _;
        let name = path.display().to_string();
        let file = std::fs::File::open(path).with_context(|| format!("failed to read `{name}`"))?;
        let mut text = String::new();
        file.take(FILE_MAX_BYTES + 1)
            .read_to_string(&mut text)
            .with_context(|| format!("failed to read `{name}`"))?;
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let folder =
            folder.canonicalize().with_context(|| format!("failed to read `{}`", folder.display()))?;
        let spec = PipelineSpec::parse(&name, &text)?;
        Ok(ReadFile { name, text, folder, spec })
    }

    /// The file as it was when a pipeline was started.
    fn of_record(record: &PipelineRecord) -> anyhow::Result<Self> {
        let spec = PipelineSpec::parse(&record.file_name, &record.file)?;
        let params = record.params.iter().map(|(name, value)| {
            (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        });
        let plan = Arc::new(spec.plan(&params.collect::<Vec<_>>())?);
        let (name, text) = (record.file_name.clone(), record.file.clone());
        Ok(Self { name, text, folder: PathBuf::from(&record.folder), plan })
    }
}

impl ReadFile {
    fn plan(self, params: &[(String, String)]) -> anyhow::Result<PipelineFile> {
        let plan = Arc::new(self.spec.plan(params)?);
        Ok(PipelineFile { name: self.name, text: self.text, folder: self.folder, plan })
    }
}

fn params_map(params: &[(String, String)]) -> Map<String, Value> {
    params.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect()
}

fn check(arguments: &FileArguments, output: &Output) -> anyhow::Result<()> {
    let file = PipelineFile::read(&arguments.file)?.plan(&arguments.params)?;
    if output.is_json() {
        let steps: Vec<&str> = file.plan.steps.iter().map(|step| step.id.as_str()).collect();
        return output
            .value(&json!({ "name": file.plan.name, "params": file.plan.parameters, "steps": steps }));
    }
    let steps = file.plan.steps.len();
    Ok(output.line(&format!("{}: {steps} {}", file.plan.name, if steps == 1 { "step" } else { "steps" }))?)
}

fn graph(arguments: &FileArguments, format: Drawing, output: &Output) -> anyhow::Result<()> {
    let file = PipelineFile::read(&arguments.file)?.plan(&arguments.params)?;
    let drawn = match format {
        Drawing::Text => pipeline::graph::text(&file.plan, &[]),
        Drawing::Svg => pipeline::graph::svg(&file.plan, &[]),
        Drawing::Mermaid => pipeline::graph::mermaid(&file.plan, &[]),
    };
    Ok(output.bytes(drawn.as_bytes())?)
}

fn context(registry: Registry, folder: PathBuf) -> StepContext {
    let tracker = registry.tracker();
    let (database, store) = (tracker.database().clone(), tracker.store().clone());
    StepContext { catalog: Catalog::new(database, store.clone()), registry, store, folder }
}

async fn show_plan(
    file: &PipelineFile,
    registry: Registry,
    records: &Records,
    output: &Output,
) -> anyhow::Result<()> {
    let previews = preview(&file.plan, &context(registry, file.folder.clone()), records).await?;
    if output.is_json() {
        return output.value(&json!({ "name": file.plan.name, "steps": previews }));
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
        table.row(cells.map(str::to_owned).to_vec());
    }
    Ok(output.table(&table)?)
}

async fn execute(
    file: PipelineFile,
    record: PipelineRecord,
    registry: Registry,
    records: Records,
    options: &RunArguments,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let context = context(registry, file.folder.clone());
    let program = std::env::current_exe().context("failed to find this program")?;
    let executor = LocalExecutor::new(context.store.clone(), program, state.to_environment()?);
    let runner = PipelineRunner {
        cores: options.cores.unwrap_or_else(|| executor.cores()),
        context,
        records,
        executor: Arc::new(executor),
        options: RunOptions { ignore_results: options.force, fail_fast: options.fail_fast },
    };
    output.note(&format!("{} run {}", file.plan.name, record.run_id));
    let cancel = Arc::new(Cancel::default());
    let waiter = tokio::spawn(cancel_on_signal(Arc::clone(&cancel)));
    let mut progress = Progress::new(&file.plan, output);
    let report = runner.run(Arc::clone(&file.plan), &record, cancel, &mut |event| progress.on(event)).await;
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
