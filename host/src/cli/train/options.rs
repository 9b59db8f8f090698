use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::ValueEnum;
use serde_json::json;

use super::super::plugin::{PluginOptions, load, parse_pair};
use super::super::state::{StateArguments, given};
use super::program::ProgramOptions;
use crate::plugin::PluginRuntime;
use crate::train::command::{CommandError, CommandTrainer};
use crate::train::network::{NetworkKind, NetworkParameters, NetworkTrainer};
use crate::train::xgboost::{XgboostParameters, XgboostTrainer};
use crate::train::{LibrarySearch, TrainError, TrainSpec, Trainer, TransformerSpec};

/// What to train, on what, through what: the same for one training and for many.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct TrainOptions {
    /// What to train on: a dataset's name, or `name@version`.
    #[arg(long, value_name = "DATASET")]
    pub(in crate::cli) data: String,
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
    /// Column to predict.
    #[arg(long, default_value = "label")]
    label: String,
    /// Use only the first rows of the training split.
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    train_rows: Option<u32>,
    /// Boosting rounds in all [default: 100]. Networks have epochs: `--set epochs=10`.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: Option<u32>,
    /// A parameter of what is trained; may be given many times.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = parse_pair)]
    parameters: Vec<(String, String)>,
    /// Threads to train with [default: one per core].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(in crate::cli) threads: Option<u16>,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    pub(in crate::cli) seed: u32,
    /// The libxgboost to train with [default: the one that is found].
    #[arg(long, value_name = "FILE", env = "HOST_XGBOOST_LIBRARY")]
    xgboost_library: Option<OsString>,
    #[command(flatten)]
    options: PluginOptions,
    #[command(flatten)]
    pub(super) program: ProgramOptions,
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
    /// Any program: it is given after `--`.
    Command,
}

/// Says to OpenMP how idle threads wait. Its default, spinning, costs a factor of two where cores are shared.
const OMP_WAIT_POLICY: &str = "OMP_WAIT_POLICY";

impl TrainOptions {
    /// The trainer, with more parameters that count for more than those of `--set`; `program` is [`Self::program`].
    pub(in crate::cli) fn trainer(
        &self,
        program: Option<&CommandTrainer>,
        more: &[(String, String)],
        threads: Option<u16>,
    ) -> Result<Box<dyn Trainer>, TrainError> {
        match self.model {
            ModelKind::Xgboost => self.xgboost(more, threads),
            ModelKind::Cnn => self.network(NetworkKind::Cnn, more, threads),
            ModelKind::Mlp => self.network(NetworkKind::Mlp, more, threads),
            ModelKind::Command => self.command(program.ok_or(CommandError::NoProgram)?, more, threads),
        }
    }

    fn command(
        &self,
        program: &CommandTrainer,
        more: &[(String, String)],
        threads: Option<u16>,
    ) -> Result<Box<dyn Trainer>, TrainError> {
        self.check_no_rounds("program", "rounds")?;
        let mut trainer = program.clone();
        trainer.threads = usize::from(threads.unwrap_or_default());
        trainer.seed = self.seed;
        for (name, value) in self.parameters.iter().chain(more) {
            trainer.set(name, value)?;
        }
        Ok(Box::new(trainer))
    }

    fn check_no_rounds(&self, trainer: &str, parameter: &str) -> Result<(), TrainError> {
        let Some(rounds) = self.rounds else { return Ok(()) };
        let expected =
            format!("none for a {trainer}\nhint: set its {parameter} with `--set {parameter}={rounds}`");
        let (name, value) = ("--rounds".to_owned(), rounds.to_string());
        Err(TrainError::ParameterValue { name, value, expected })
    }

    fn network(
        &self,
        kind: NetworkKind,
        more: &[(String, String)],
        threads: Option<u16>,
    ) -> Result<Box<dyn Trainer>, TrainError> {
        self.check_no_rounds(kind.name(), "epochs")?;
        let mut parameters = NetworkParameters::new(kind);
        parameters.threads = usize::from(threads.unwrap_or_default());
        parameters.seed = self.seed;
        for (name, value) in self.parameters.iter().chain(more) {
            parameters.set(name, value)?;
        }
        Ok(Box::new(NetworkTrainer { parameters }))
    }

    fn xgboost(
        &self,
        more: &[(String, String)],
        threads: Option<u16>,
    ) -> Result<Box<dyn Trainer>, TrainError> {
        let mut parameters = XgboostParameters::default();
        parameters.rounds = self.rounds.unwrap_or(parameters.rounds);
        parameters.nthread = u32::from(threads.unwrap_or_default());
        parameters.seed = self.seed;
        for (name, value) in self.parameters.iter().chain(more) {
            parameters.set(name, value)?;
        }
        let library = LibrarySearch::from_environment(given(self.xgboost_library.clone()));
        let objective_by_labels = !self.sets("objective");
        Ok(Box::new(XgboostTrainer { library, parameters, objective_by_labels }))
    }

    /// The parameter that the labels will choose because it was not given.
    pub(in crate::cli) fn by_labels(&self) -> Option<&'static str> {
        let name = match self.model {
            ModelKind::Xgboost => "objective",
            ModelKind::Cnn | ModelKind::Mlp => "task",
            ModelKind::Command => return None,
        };
        (!self.sets(name)).then_some(name)
    }

    /// Sees to it that idle threads of the trainer sleep. Call it before anything else: the program may start anew.
    pub(in crate::cli) fn let_idle_threads_sleep(&self) {
        if let ModelKind::Xgboost = self.model {
            let_idle_threads_sleep();
        }
    }

    /// Whether a program of the user's trains.
    pub(in crate::cli) fn is_command(&self) -> bool {
        matches!(self.model, ModelKind::Command)
    }

    /// Whether the user set a parameter.
    pub(in crate::cli) fn sets(&self, name: &str) -> bool {
        self.parameters.iter().any(|(set, _)| set == name)
    }

    /// What to train on, through what; `program` is [`Self::program`].
    pub(in crate::cli) fn spec(
        &self,
        state: &StateArguments,
        program: Option<&CommandTrainer>,
    ) -> anyhow::Result<TrainSpec> {
        let dataset = state.resolve_dataset(&self.data)?;
        // Before plugins are compiled: what is mistyped is to be told at once.
        self.trainer(program, &[], self.threads)?;
        let runtime = self.options.start()?;
        let preprocess = transformers(&self.preprocess, &self.config, &runtime)?;
        let postprocess = transformers(&self.postprocess, &self.config, &runtime)?;
        let used = |name: &str| {
            let all = preprocess.iter().chain(&postprocess);
            all.map(|transformer| &transformer.plugin.manifest().name).any(|known| known == name)
        };
        if let Some((name, _)) = self.config.iter().find(|(name, _)| !used(name)) {
            anyhow::bail!("`--config {name}=…` names no plugin of this run");
        }
        Ok(TrainSpec {
            dataset,
            label: self.label.clone(),
            train_rows: self.train_rows.map(|rows| rows as usize),
            preprocess,
            postprocess,
        })
    }
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

/// The runtime that writes what trainings report.
pub(in crate::cli) fn start_threads() -> anyhow::Result<tokio::runtime::Runtime> {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    threads.context("failed to start threads")
}

pub(in crate::cli) fn transformers(
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
