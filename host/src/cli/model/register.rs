//! `host model register` and `host model import`: versions of bundles and model files that are there already.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::json;

use crate::cli::output::Output;
use crate::cli::plugin::{PluginOptions, load, parse_pair};
use crate::cli::state::{StateArguments, start_threads, wait};
use crate::domain::Name;
use crate::model::{self, OutputChoice, ScoreKind};
use crate::plugin::PluginRuntime;
use crate::registry::{self, BundleOrigin, ExternalModel, ExternalTransformer, ModelReference, ModelVersion};
use crate::track::Pair;

/// Largest file of a model or state, as of a blob of a bundle folder.
const FILE_MAX_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// Largest signature.
const SIGNATURE_MAX_BYTES: u64 = 4 * 1024 * 1024;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  host model register sha256:… digits --tag team=vision")]
pub(in crate::cli) struct RegisterArguments {
    /// The bundle: a `sha256:` digest, a bundle folder such as `./mnist`, or a name, `name@version` or `name@alias`.
    bundle: ModelReference,
    /// The model that gets a version; it is made if need be.
    name: Name,
    /// A tag of the version; may be given many times.
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = parse_pair)]
    tags: Vec<(String, String)>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  host model import model.json --name churn --postprocess argmax-label.wasm
  host model import model.onnx --name digits --scores logits

The signature is JSON, of which only `inputs` must be there, and that only where a transformer stands before the model:
  {\"inputs\": [{\"name\": \"pixels\", \"dtype\": \"UINT8\", \"shape\": [28, 28]}]}")]
pub(in crate::cli) struct ImportArguments {
    /// The model: ONNX, XGBoost's JSON or UBJSON, a network as safetensors, or a bundle folder that `host model export` made.
    file: PathBuf,
    /// The model that gets a version; it is made if need be.
    #[arg(long)]
    name: Name,
    /// What the model takes [default: one column `features` of all features].
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// The output of an ONNX model that has the scores [default: the only one that can].
    #[arg(long, value_name = "NAME")]
    output: Option<String>,
    /// What the scores of an ONNX model are [default: as the model tells, see docs/registry.md].
    #[arg(long, value_enum, value_name = "KIND")]
    scores: Option<Scores>,
    /// Transformers before the model: components, given more than once in this order.
    #[arg(long, value_name = "FILE")]
    preprocess: Vec<PathBuf>,
    /// Transformers after the model: components, given more than once in this order.
    #[arg(long, value_name = "FILE")]
    postprocess: Vec<PathBuf>,
    /// Config of a transformer by its plugin's name, as `NAME={…}`.
    #[arg(long, value_name = "NAME=JSON", value_parser = parse_pair)]
    config: Vec<(String, String)>,
    /// What a transformer has learned elsewhere, by its plugin's name.
    #[arg(long, value_name = "NAME=FILE", value_parser = parse_pair)]
    state: Vec<(String, String)>,
    /// A tag of the version; may be given many times.
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = parse_pair)]
    tags: Vec<(String, String)>,
    #[command(flatten)]
    options: PluginOptions,
}

/// [`ScoreKind`] as an argument.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Scores {
    /// Probabilities of classes, or of one class of two.
    Probabilities,
    /// What a softmax, or of one in a row a sigmoid, makes probabilities of.
    Logits,
    /// Values.
    Values,
}

impl Scores {
    fn kind(self) -> ScoreKind {
        match self {
            Self::Probabilities => ScoreKind::Probabilities,
            Self::Logits => ScoreKind::Logits,
            Self::Values => ScoreKind::Values,
        }
    }
}

pub(super) fn register(
    arguments: RegisterArguments,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<()> {
    let version = wait(async {
        let registry = state.open_registry().await?;
        let found = registry.resolve(&arguments.bundle).await?;
        let origin = origin("host model register");
        Ok(registry.register(&arguments.name, found.digest, pairs(arguments.tags), origin).await?)
    })?;
    tell(&version, output)
}

pub(super) fn import(
    arguments: ImportArguments,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<()> {
    // What is wrong with files is told before anything is written.
    let file = &arguments.file;
    let is_folder = std::fs::metadata(file).with_context(|| failed(file))?.is_dir();
    let given = [
        ("signature", arguments.signature.is_some()),
        ("output", arguments.output.is_some()),
        ("scores", arguments.scores.is_some()),
        ("preprocess", !arguments.preprocess.is_empty()),
        ("postprocess", !arguments.postprocess.is_empty()),
        ("config", !arguments.config.is_empty()),
        ("state", !arguments.state.is_empty()),
    ];
    if let Some((option, _)) = given.iter().find(|(_, is_given)| is_folder && *is_given) {
        bail!("`--{option}` is for model files: a bundle folder has everything");
    }
    let runtime = arguments.options.start()?;
    let external = if is_folder { None } else { Some(read(&arguments, &runtime)?) };
    let threads = start_threads()?;
    let registry = threads.block_on(state.open_registry())?;
    let bundle = match &external {
        // The store that knows the project, so that what is put belongs to it.
        Some(external) => registry::bundle_external(registry.tracker().store(), external)
            .with_context(|| format!("`{}` cannot be imported", file.display()))?,
        None => threads.block_on(registry.resolve(&ModelReference::Folder(file.clone())))?.digest,
    };
    if let Some(external) = &external
        && let Some((best, all)) = model::best_rounds(&external.file)?
    {
        output.warn(&format!(
            "the training was stopped early, with its best round as number {best} of {all}: all {all} answer, as with \
             `Booster.predict`, where `XGBClassifier` and MLflow take the first {best} alone; to have these answer, \
             import what `model.get_booster()[:{best}].save_model(…)` writes"
        ));
    }
    let (tags, origin) = (pairs(arguments.tags), origin("host model import"));
    let version = threads.block_on(registry.register(&arguments.name, bundle, tags, origin))?;
    tell(&version, output)
}

fn read(arguments: &ImportArguments, runtime: &PluginRuntime) -> anyhow::Result<ExternalModel> {
    let signature = match &arguments.signature {
        Some(path) => {
            let bytes = read_file(path, SIGNATURE_MAX_BYTES)?;
            let signature = serde_json::from_slice(&bytes);
            Some(signature.with_context(|| format!("`{}` is no signature", path.display()))?)
        }
        None => None,
    };
    let transformers = |files: &[PathBuf]| -> anyhow::Result<Vec<ExternalTransformer>> {
        files.iter().map(|file| transformer(file, arguments, runtime)).collect()
    };
    let external = ExternalModel {
        file: read_file(&arguments.file, FILE_MAX_BYTES)?,
        signature,
        output: OutputChoice { name: arguments.output.clone(), scores: arguments.scores.map(Scores::kind) },
        preprocess: transformers(&arguments.preprocess)?,
        postprocess: transformers(&arguments.postprocess)?,
    };
    let is_used = |name: &str| {
        let mut all = external.preprocess.iter().chain(&external.postprocess);
        all.any(|transformer| transformer.plugin.manifest().name == name)
    };
    for (option, pairs) in [("config", &arguments.config), ("state", &arguments.state)] {
        if let Some((name, _)) = pairs.iter().find(|(name, _)| !is_used(name)) {
            bail!("`--{option} {name}=…` names no transformer of this model");
        }
    }
    Ok(external)
}

fn transformer(
    file: &Path,
    arguments: &ImportArguments,
    runtime: &PluginRuntime,
) -> anyhow::Result<ExternalTransformer> {
    let (plugin, bytes) = load(runtime, file)?;
    let of_plugin = |pairs: &[(String, String)]| {
        let found = pairs.iter().rev().find(|(name, _)| *name == plugin.manifest().name);
        found.map(|(_, value)| value.clone())
    };
    let config = match of_plugin(&arguments.config) {
        Some(text) => serde_json::from_str(&text)
            .with_context(|| format!("the config of `{}` is not JSON: `{text}`", plugin.manifest().name))?,
        None => json!({}),
    };
    let state = of_plugin(&arguments.state).map(|file| read_file(Path::new(&file), FILE_MAX_BYTES));
    let state = state.transpose()?;
    Ok(ExternalTransformer { plugin, bytes, config, state })
}

/// Reads a plain file: anything else could have no end.
fn read_file(path: &Path, limit: u64) -> anyhow::Result<Vec<u8>> {
    let metadata = std::fs::metadata(path).with_context(|| failed(path))?;
    if !metadata.is_file() {
        bail!("`{}` is no plain file", path.display());
    }
    if metadata.len() > limit {
        bail!("`{}` has {} bytes: the limit is {limit}", path.display(), metadata.len());
    }
    std::fs::read(path).with_context(|| failed(path))
}

fn failed(path: &Path) -> String {
    format!("failed to read `{}`", path.display())
}

fn origin(command: &'static str) -> BundleOrigin {
    BundleOrigin { command, user_id: std::env::var("USER").unwrap_or_default() }
}

fn pairs(tags: Vec<(String, String)>) -> Vec<Pair> {
    tags.into_iter().map(|(key, value)| Pair { key, value }).collect()
}

fn tell(version: &ModelVersion, output: &Output) -> anyhow::Result<()> {
    super::note_if_yanked(version, output);
    if output.is_json() {
        return output.value(&json!({
            "model": version.name,
            "version": version.number,
            "bundle": version.bundle,
        }));
    }
    output.field("model", format!("{}@{}", version.name, version.number))?;
    if let Some(bundle) = version.bundle {
        output.field("bundle", bundle)?;
    }
    Ok(())
}
