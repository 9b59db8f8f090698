mod options;
mod program;
mod record;
mod tracking;

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context as _, bail};
use console::style;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::runtime::Runtime;

use super::model::note_if_yanked;
use super::output::{Output, Table, number_text, thousands};
use super::run::find;
use super::state::StateArguments;
use crate::domain::{Digest, Name};
use crate::registry::{ModelReference, ModelVersion};
use crate::store::Store;
use crate::track::{BUNDLE_TAG, RunStatus, Tracker};
use crate::train::evaluation::ClassMetrics;
use crate::train::{self, Checkpoints, RunLog, RunStart, Surroundings, TrainError, TrainEvent, TrainReport};

pub(super) use options::{TrainOptions, start_threads, transformers};
pub(super) use record::{check_resumed, pairs, run_start, tag};
pub(super) use tracking::ProgramSupport;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  host train --data mnist --preprocess mnist-pixels.wasm --postprocess argmax-label.wasm \\
    --model xgboost --name mnist --rounds 100 --set max_depth=6
  host train --data mnist --preprocess mnist-pixels.wasm --model cnn --set epochs=3
  host train --data mnist --preprocess mnist-pixels.wasm --model command -- python3 train.py --depth 6")]
pub(super) struct TrainArguments {
    #[command(flatten)]
    train: TrainOptions,
    /// Name of the model that gets a new version [default: the dataset's name].
    #[arg(long)]
    name: Option<Name>,
    /// Make only the bundle, and no version of a model: see `host model register`.
    #[arg(long, conflicts_with = "name")]
    no_register: bool,
    /// Experiment that the run belongs to [default: the model's name].
    #[arg(long, value_name = "NAME")]
    experiment: Option<String>,
    /// Name of the run [default: one is made up].
    #[arg(long, value_name = "NAME")]
    run_name: Option<String>,
    /// Keep a checkpoint with the run after every so many rounds; the newest two stay.
    #[arg(long, value_name = "ROUNDS", value_parser = clap::value_parser!(u32).range(1..))]
    checkpoint_every: Option<u32>,
    /// Go on with a run that did not finish, from its newest checkpoint; all else is to be as it was.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["experiment", "run_name"])]
    resume: Option<String>,
    /// Start from a model instead of from nothing: a file, or a model as elsewhere. Its rounds count.
    #[arg(long, value_name = "MODEL")]
    continue_from: Option<String>,
}

pub(super) fn run(arguments: TrainArguments, state: &StateArguments, output: &Output) -> anyhow::Result<()> {
    arguments.train.let_idle_threads_sleep();
    let store = state.open_store()?;
    let options = &arguments.train;
    if options.is_command() && arguments.checkpoint_every.is_some() {
        bail!("`--checkpoint-every` is for the trainers of the host: a program keeps its checkpoints itself");
    }
    let program = options.program(&store)?;
    let spec = options.spec(state, program.as_ref())?;
    let trainer = options.trainer(program.as_ref(), &[], options.threads)?;
    let model = arguments.name.clone().unwrap_or_else(|| spec.dataset.name.clone());
    let experiment = arguments.experiment.clone().unwrap_or_else(|| model.to_string());
    let mut start = run_start(&spec, trainer.as_ref(), experiment, arguments.run_name.clone());
    let mut start_from = None;
    if let Some(text) = &arguments.continue_from {
        let file = model_file(text, state, &store)?;
        start.params.push(tag("continue_from", Digest::of(&file).to_string()));
        start_from = Some(file);
    }
    let threads = start_threads()?;
    let tracker = threads.block_on(state.open_tracker())?;
    let support =
        options.is_command().then(|| ProgramSupport::start(&threads, tracker.clone())).transpose()?;
    let log = open_log(&arguments, start, &threads, tracker)?;
    if arguments.resume.is_some() {
        match log.newest_checkpoint()? {
            Some((round, bytes)) => {
                output.note(&format!("going on after round {round}"));
                start_from = Some(bytes);
            }
            None => output.note("the run has no checkpoint: it starts anew"),
        }
    }
    let mut progress = Progress { output, bar: None, log: &log, support: support.as_ref() };
    let mut keep = |round, bytes| Ok(log.checkpoint(round, bytes)?);
    let checkpoints = arguments.checkpoint_every.map(|every| Checkpoints { every, keep: &mut keep });
    let surroundings = Surroundings {
        log: Some(&log),
        show: tracking::is_watched(output).then_some(&tracking::show),
        ..support.as_ref().map(ProgramSupport::surroundings).unwrap_or_default()
    };
    let mut on_event = |event| progress.on(event);
    let trained =
        train::run(&store, &spec, trainer.as_ref(), checkpoints, start_from, surroundings, &mut on_event);
    progress.finish();
    let registered = trained.map_err(anyhow::Error::from).and_then(|report| {
        let version = (!arguments.no_register).then(|| log.register(&model, report.bundle)).transpose()?;
        Ok((report, version))
    });
    match registered {
        Ok((report, version)) => {
            let by_labels = options.by_labels().and_then(|name| report.parameters.get_key_value(name));
            if let Some((name, value)) = by_labels {
                output.note(&format!(
                    "the labels suggested the {name} {value}; choose another with `--set {name}=…`"
                ));
            }
            log.evaluation(&report.evaluation, report.train_seconds)?;
            let run_id = log.run_id().to_owned();
            let mut tags = vec![tag(BUNDLE_TAG, report.bundle.to_string())];
            tags.extend(version.as_ref().map(|version| tag("host.model", named(version))));
            log.finish(RunStatus::Finished, pairs(&report.parameters), tags)?;
            print(version.as_ref(), &report, &run_id, output)
        }
        Err(error) => {
            // The training's error is the one to tell.
            if let Err(error) = log.finish(status_of(&error), Vec::new(), Vec::new()) {
                tracing::warn!(%error, "the run's end was not recorded");
            }
            Err(error)
        }
    }
}

/// Begins the run, or goes on with it.
fn open_log(
    arguments: &TrainArguments,
    start: RunStart,
    threads: &Runtime,
    tracker: Tracker,
) -> anyhow::Result<RunLog> {
    match &arguments.resume {
        None => Ok(RunLog::start(threads.handle().clone(), tracker, start)?),
        Some(text) => {
            let run = threads.block_on(find(&tracker, text))?;
            check_resumed(&run, &start)?;
            Ok(RunLog::resume(threads.handle().clone(), tracker, &run)?)
        }
    }
}

/// How a run ends that ends with this error.
pub(super) fn status_of(error: &anyhow::Error) -> RunStatus {
    match error.downcast_ref() {
        Some(TrainError::Stopped) => RunStatus::Killed,
        _ => RunStatus::Failed,
    }
}

/// The model file that `text` means: a file, or the one in a bundle.
fn model_file(text: &str, state: &StateArguments, store: &Store) -> anyhow::Result<Vec<u8>> {
    if Path::new(text).is_file() {
        return std::fs::read(text).with_context(|| format!("failed to read `{text}`"));
    }
    let reference: ModelReference = text.parse()?;
    let resolved = state.resolve_model(store, &reference)?;
    Ok(store.get(resolved.manifest.model.blob.digest)?)
}

/// Shows how far a run is, and logs it.
struct Progress<'a> {
    output: &'a Output,
    bar: Option<ProgressBar>,
    log: &'a RunLog,
    support: Option<&'a ProgramSupport>,
}

impl Progress<'_> {
    fn on(&mut self, event: TrainEvent) -> ControlFlow<()> {
        match event {
            TrainEvent::Phase { name, steps } => {
                self.finish();
                // Of a program it is not known how long it takes, and what it prints is to be seen.
                self.bar = (steps > 0).then(|| self.output.progress(steps, name));
            }
            TrainEvent::Progress(steps) => {
                if let Some(bar) = &self.bar {
                    bar.inc(steps);
                }
            }
            TrainEvent::Round(round) => {
                self.log.round(&round);
                if let Some(bar) = &self.bar {
                    let metrics = round
                        .metrics
                        .iter()
                        .map(|metric| format!("{} {} {:.5}", metric.set.name(), metric.name, metric.value));
                    bar.set_position(u64::from(round.round));
                    bar.set_message(metrics.collect::<Vec<_>>().join("  "));
                }
            }
        }
        match self.support.is_some_and(ProgramSupport::is_stopping) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}

/// A version as a user writes it.
fn named(version: &ModelVersion) -> String {
    format!("{}@{}", version.name, version.number)
}

fn print(
    version: Option<&ModelVersion>,
    report: &TrainReport,
    run_id: &str,
    output: &Output,
) -> anyhow::Result<()> {
    if let Some(version) = version {
        note_if_yanked(version, output);
    }
    let evaluation = &report.evaluation;
    if output.is_json() {
        return output.value(&json!({
            "model": version.map(|version| &version.name),
            "version": version.map(|version| version.number),
            "bundle": report.bundle,
            "run_id": run_id,
            "train_rows": report.train_rows,
            "test_rows": report.test_rows,
            "train_seconds": report.train_seconds,
            "total_seconds": report.total_seconds,
            "metrics": evaluation.metrics,
            "classes": evaluation.classes,
            "confusion": evaluation.confusion,
        }));
    }
    if let Some(version) = version {
        output.field("model", named(version))?;
    }
    output.field("bundle", report.bundle)?;
    output.field("run", run_id)?;
    output.field(
        "rows",
        format!("{} train, {} test", thousands(report.train_rows as u64), thousands(report.test_rows as u64)),
    )?;
    output.field(
        "time",
        format!("{:.1} s training, {:.1} s in all", report.train_seconds, report.total_seconds),
    )?;
    for (name, value) in &evaluation.metrics {
        output.field(name, number_text(*value))?;
    }
    if !evaluation.confusion.is_empty() && evaluation.confusion.len() <= 20 {
        output.line("")?;
        output.table(&classes(&evaluation.classes))?;
        output.line("")?;
        output.line(&confusion(&evaluation.confusion))?;
    }
    output.note(&match version {
        Some(version) => format!("serve it: host serve --model {}", version.name),
        None => format!("make it a version: host model register {} NAME", report.bundle),
    });
    Ok(())
}

/// Each class against all others.
fn classes(metrics: &[ClassMetrics]) -> Table {
    let mut table = Table::new(&[">class", ">rows", ">precision", ">recall", ">f1", ">roc auc"]);
    for class in metrics {
        let mut row = vec![class.class.to_string(), thousands(class.rows)];
        row.extend([class.precision, class.recall, class.f1].map(number_text));
        row.push(class.roc_auc.map_or_else(|| "-".to_owned(), number_text));
        table.row(row);
    }
    table
}

/// Rows are the true classes, columns the predicted ones.
fn confusion(counts: &[Vec<u64>]) -> String {
    const NAMES: [&str; 20] = [
        ">0", ">1", ">2", ">3", ">4", ">5", ">6", ">7", ">8", ">9", ">10", ">11", ">12", ">13", ">14", ">15",
        ">16", ">17", ">18", ">19",
    ];
    let mut header = vec![">true \\ predicted"];
    header.extend(NAMES.iter().take(counts.len()));
    let mut table = Table::new(&header);
    for (class, row) in counts.iter().enumerate() {
        let mut cells = vec![class.to_string()];
        cells.extend(row.iter().enumerate().map(|(predicted, &count)| match (count, predicted == class) {
            (0, _) => style("·").dim().to_string(),
            (count, true) => style(count).green().to_string(),
            (count, false) => count.to_string(),
        }));
        table.styled_row(cells);
    }
    table.to_string().trim_end().to_owned()
}
