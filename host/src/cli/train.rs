use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::ValueEnum;
use console::style;
use indicatif::ProgressBar;
use serde_json::json;

use super::output::{Output, Table, number_text, thousands};
use super::plugin::{PluginOptions, load, parse_pair};
use super::state::{StateArguments, given};
use crate::domain::Name;
use crate::plugin::PluginRuntime;
use crate::registry::ModelVersion;
use crate::track::{BUNDLE_TAG, InputDataset, Pair, RunStatus};
use crate::train::network::{NetworkKind, NetworkParameters, NetworkTrainer};
use crate::train::xgboost::{XgboostParameters, XgboostTrainer};
use crate::train::{
    self, Library, LibrarySearch, RunLog, RunStart, TrainEvent, TrainReport, TrainSpec, Trainer,
    TransformerSpec,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  host train --data mnist --preprocess mnist-pixels.wasm --postprocess argmax-label.wasm \\
    --model xgboost --name mnist --rounds 100 --set max_depth=6
  host train --data mnist --preprocess mnist-pixels.wasm --model cnn --set epochs=3")]
pub(super) struct TrainArguments {
    /// What to train on: a dataset's name, or `name@version`.
    #[arg(long, value_name = "DATASET")]
    data: String,
    /// What to train.
    #[arg(long, value_enum, default_value_t = ModelKind::Xgboost)]
    model: ModelKind,
    /// Transformers before the model: components, in this order.
    #[arg(long, value_name = "FILE")]
    preprocess: Vec<PathBuf>,
    /// Transformers after the model: components, in this order.
    #[arg(long, value_name = "FILE")]
    postprocess: Vec<PathBuf>,
    /// Config of a transformer by its plugin's name, as `NAME={…}`.
    #[arg(long, value_name = "NAME=JSON", value_parser = parse_pair)]
    config: Vec<(String, String)>,
    /// Name of the model that gets a new version [default: the dataset's name].
    #[arg(long)]
    name: Option<Name>,
    /// Column to predict.
    #[arg(long, default_value = "label")]
    label: String,
    /// Use only the first rows of the training split.
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    train_rows: Option<u32>,
    /// Boosting rounds [default: 100]. Networks have epochs: `--set epochs=10`.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: Option<u32>,
    /// A parameter of what is trained; may be given many times.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = parse_pair)]
    parameters: Vec<(String, String)>,
    /// Threads to train with [default: one per core].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    seed: u32,
    /// Experiment that the run belongs to [default: the model's name].
    #[arg(long, value_name = "NAME")]
    experiment: Option<String>,
    /// Name of the run [default: one is made up].
    #[arg(long, value_name = "NAME")]
    run_name: Option<String>,
    /// The libxgboost to train with [default: the one that is found].
    #[arg(long, value_name = "FILE", env = "HOST_XGBOOST_LIBRARY")]
    xgboost_library: Option<OsString>,
    #[command(flatten)]
    options: PluginOptions,
}

/// The trainers there are.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ModelKind {
    /// Gradient-boosted trees.
    Xgboost,
    /// Convolutions over images, then dense layers.
    Cnn,
    /// Dense layers.
    Mlp,
}

/// Says to OpenMP how idle threads wait. Its default, spinning, costs a factor of two where cores are shared.
const OMP_WAIT_POLICY: &str = "OMP_WAIT_POLICY";

pub(super) fn run(arguments: TrainArguments, state: &StateArguments, output: &Output) -> anyhow::Result<()> {
    if let ModelKind::Xgboost = arguments.model {
        let_idle_threads_sleep();
    }
    let store = state.open_store()?;
    let dataset = state.resolve_dataset(&arguments.data)?;
    let (trainer, by_labels) = trainer(&arguments)?;
    let runtime = arguments.options.start()?;
    let preprocess = transformers(&arguments.preprocess, &arguments.config, &runtime)?;
    let postprocess = transformers(&arguments.postprocess, &arguments.config, &runtime)?;
    let used = |name: &str| {
        preprocess.iter().chain(&postprocess).any(|transformer| transformer.plugin.manifest().name == name)
    };
    if let Some((name, _)) = arguments.config.iter().find(|(name, _)| !used(name)) {
        anyhow::bail!("`--config {name}=…` names no plugin of this run");
    }
    let model = arguments.name.clone().unwrap_or_else(|| dataset.name.clone());
    let spec = TrainSpec {
        dataset,
        label: arguments.label,
        train_rows: arguments.train_rows.map(|rows| rows as usize),
        preprocess,
        postprocess,
    };
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let threads = threads.context("failed to start threads")?;
    let tracker = threads.block_on(state.open_tracker())?;
    let experiment = arguments.experiment.unwrap_or_else(|| model.to_string());
    let start = run_start(&spec, trainer.as_ref(), experiment, arguments.run_name);
    let log = RunLog::start(threads.handle().clone(), tracker, start)?;
    let run_id = log.run_id().to_owned();
    let mut progress = Progress { output, bar: None, log: &log };
    let trained = train::run(&store, &spec, trainer.as_ref(), &mut |event| progress.on(event));
    progress.finish();
    let registered = trained.map_err(anyhow::Error::from).and_then(|report| {
        let version = log.register(&model, report.bundle)?;
        Ok((report, version))
    });
    match registered {
        Ok((report, version)) => {
            if let Some((name, value)) = by_labels.and_then(|name| report.parameters.get_key_value(name)) {
                output.note(&format!(
                    "the labels suggested the {name} {value}; choose another with `--set {name}=…`"
                ));
            }
            keep(&log, &report)?;
            let model_tag = tag("host.model", format!("{model}@{}", version.number));
            let tags = vec![model_tag, tag(BUNDLE_TAG, report.bundle.to_string())];
            log.finish(RunStatus::Finished, pairs(&report.parameters), tags)?;
            print(&version, &report, &run_id, output)
        }
        Err(error) => {
            // The training's error is the one to tell.
            if let Err(error) = log.finish(RunStatus::Failed, Vec::new(), Vec::new()) {
                tracing::warn!(%error, "the run's end was not recorded");
            }
            Err(error)
        }
    }
}

/// What learns, and the parameter that the labels will choose because it was not given.
fn trainer(arguments: &TrainArguments) -> anyhow::Result<(Box<dyn Trainer>, Option<&'static str>)> {
    let unless_given = |parameter| {
        let given = arguments.parameters.iter().any(|(name, _)| name == parameter);
        (!given).then_some(parameter)
    };
    let kind = match arguments.model {
        ModelKind::Xgboost => {
            let mut parameters = XgboostParameters::default();
            parameters.rounds = arguments.rounds.unwrap_or(parameters.rounds);
            parameters.nthread = u32::from(arguments.threads.unwrap_or_default());
            parameters.seed = arguments.seed;
            for (name, value) in &arguments.parameters {
                parameters.set(name, value)?;
            }
            let search = LibrarySearch::from_environment(given(arguments.xgboost_library.clone()));
            let by_labels = unless_given("objective");
            let objective_by_labels = by_labels.is_some();
            let library = Library::load(&search)?;
            return Ok((Box::new(XgboostTrainer { library, parameters, objective_by_labels }), by_labels));
        }
        ModelKind::Cnn => NetworkKind::Cnn,
        ModelKind::Mlp => NetworkKind::Mlp,
    };
    if let Some(rounds) = arguments.rounds {
        let model = kind.name();
        anyhow::bail!(
            "`--rounds` is for xgboost\nhint: set the epochs of a {model} with `--set epochs={rounds}`"
        );
    }
    let mut parameters = NetworkParameters::new(kind);
    parameters.threads = usize::from(arguments.threads.unwrap_or_default());
    parameters.seed = arguments.seed;
    for (name, value) in &arguments.parameters {
        parameters.set(name, value)?;
    }
    Ok((Box::new(NetworkTrainer { parameters }), unless_given("task")))
}

fn tag(key: &str, value: String) -> Pair {
    Pair { key: key.to_owned(), value }
}

fn pairs(map: &BTreeMap<String, String>) -> Vec<Pair> {
    map.iter().map(|(key, value)| tag(key, value.clone())).collect()
}

/// What a run records before it starts: everything that its result depends on.
fn run_start(
    spec: &TrainSpec,
    trainer: &dyn Trainer,
    experiment: String,
    run_name: Option<String>,
) -> RunStart {
    let mut params = pairs(&trainer.parameters());
    params.push(tag("label", spec.label.clone()));
    if let Some(rows) = spec.train_rows {
        params.push(tag("train_rows", rows.to_string()));
    }
    let plugins = spec.preprocess.iter().chain(&spec.postprocess);
    let mut tags: Vec<Pair> = plugins
        .map(|transformer| {
            let name = &transformer.plugin.manifest().name;
            tag(&format!("host.plugin.{name}"), transformer.plugin.digest().to_string())
        })
        .collect();
    let (dataset, version) = (&spec.dataset, &spec.dataset.version);
    tags.push(tag("host.dataset", format!("{}@{}", dataset.name, version.number)));
    let dataset = InputDataset {
        name: dataset.name.to_string(),
        // MLflow's limit is 36 characters.
        digest: version.digest.hex().chars().take(32).collect(),
        source_type: "host".to_owned(),
        source: format!("{}@{}", dataset.name, version.digest),
        schema: None,
        profile: None,
    };
    RunStart { experiment, run_name, params, tags, dataset: Some(dataset) }
}

/// Keeps with the run what the test split said.
fn keep(log: &RunLog, report: &TrainReport) -> anyhow::Result<()> {
    for (name, value) in &report.evaluation.metrics {
        log.metric(format!("test_{name}"), *value, 0);
    }
    log.metric("train_seconds", report.train_seconds, 0);
    if !report.evaluation.confusion.is_empty() {
        log.artifact("confusion.json", serde_json::to_vec(&report.evaluation.confusion)?)?;
    }
    Ok(())
}

/// Starts this program anew with [`OMP_WAIT_POLICY`] set, if the user has not decided it.
///
/// OpenMP reads the variable when libxgboost is loaded, and changing the environment of a running process is unsafe.
/// Where the program cannot be started again, training is only slower.
fn let_idle_threads_sleep() {
    use std::os::unix::process::CommandExt as _;
    if std::env::var_os(OMP_WAIT_POLICY).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let error = std::process::Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(OMP_WAIT_POLICY, "PASSIVE")
            .exec();
        tracing::info!(%error, "training goes on with threads that spin while they are idle");
    }
}

fn transformers(
    files: &[PathBuf],
    configs: &[(String, String)],
    runtime: &PluginRuntime,
) -> anyhow::Result<Vec<TransformerSpec>> {
    let mut specs = Vec::new();
    for file in files {
        let (plugin, bytes) = load(runtime, file)?;
        let config = configs.iter().rev().find(|(name, _)| *name == plugin.manifest().name);
        let config = match config {
            Some((name, text)) => serde_json::from_str(text)
                .with_context(|| format!("the config of `{name}` is not JSON: `{text}`"))?,
            None => json!({}),
        };
        specs.push(TransformerSpec { plugin, bytes, config });
    }
    Ok(specs)
}

/// Shows how far a run is, and logs it.
struct Progress<'a> {
    output: &'a Output,
    bar: Option<ProgressBar>,
    log: &'a RunLog,
}

impl Progress<'_> {
    fn on(&mut self, event: TrainEvent) -> ControlFlow<()> {
        match event {
            TrainEvent::Phase { name, steps } => {
                self.finish();
                self.bar = Some(self.output.progress(steps, name));
            }
            TrainEvent::Progress(steps) => {
                if let Some(bar) = &self.bar {
                    bar.inc(steps);
                }
            }
            TrainEvent::Round(round) => {
                for metric in &round.metrics {
                    let key = format!("{}-{}", metric.set.name(), metric.name);
                    self.log.metric(key, metric.value, round.round);
                }
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
        ControlFlow::Continue(())
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}

fn print(version: &ModelVersion, report: &TrainReport, run_id: &str, output: &Output) -> anyhow::Result<()> {
    let model = &version.name;
    let evaluation = &report.evaluation;
    if output.is_json() {
        return output.value(&json!({
            "model": model,
            "version": version.number,
            "bundle": report.bundle,
            "run_id": run_id,
            "train_rows": report.train_rows,
            "test_rows": report.test_rows,
            "train_seconds": report.train_seconds,
            "total_seconds": report.total_seconds,
            "metrics": evaluation.metrics,
            "confusion": evaluation.confusion,
        }));
    }
    output.field("model", format!("{model}@{}", version.number))?;
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
        output.line(&confusion(&evaluation.confusion))?;
    }
    output.note(&format!("serve it: host serve --model {model}"));
    Ok(())
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
        table.row(cells);
    }
    table.to_string().trim_end().to_owned()
}
