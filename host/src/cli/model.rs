mod check;
mod diff;
mod history;
mod promote;
mod register;

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::bail;
use clap::Subcommand;
use serde_json::{Value, json};

use super::output::{Output, Table, bytes_text, number_text, printable};
use super::plugin::parse_pair;
use super::state::{StateArguments, wait};
use crate::domain::{ColumnSpec, Name};
use crate::model::OutputChoice;
use crate::registry::{
    self, BundleManifest, ModelReference, ModelVersion, RegisteredModel, Registry, RegistryError,
    TransformerEntry, VersionSelector, YANKED_TAG,
};
use crate::store::{Store, StoreError};
use crate::track::Pair;

#[derive(Debug, Subcommand)]
pub(super) enum ModelCommand {
    /// List the models.
    List,
    /// Show what a bundle holds.
    Show {
        /// A name, `name@version`, `name@alias`, a `sha256:` digest or a bundle folder such as `./mnist`.
        model: ModelReference,
    },
    /// Copy a bundle into a folder that can be carried elsewhere and served from there.
    Export {
        /// A name, `name@version`, `name@alias` or a `sha256:` digest.
        model: ModelReference,
        /// The folder to make.
        folder: PathBuf,
    },
    /// Give a version a name that can move to another one later.
    #[command(after_help = "\
Example:
  host model alias mnist@2 champion
  host serve --model mnist@champion")]
    Alias {
        /// A name for its newest version, or `name@version`.
        model: NamedVersion,
        /// The alias, such as `champion`.
        alias: String,
        /// Take the alias away, whichever version has it.
        #[arg(long)]
        delete: bool,
    },
    /// Give a version an alias, such as `champion`, if it is better than the one that has it.
    Promote(promote::PromoteArguments),
    /// Judge several bundles by the same rows, and tell the best.
    Compare(promote::CompareArguments),
    /// Load a bundle as serving does, and have it answer rows that training held out.
    Check(check::CheckArguments),
    /// Show what differs between two bundles.
    Diff(diff::DiffArguments),
    /// Make a version of a bundle that is there already.
    Register(register::RegisterArguments),
    /// Make a version of a model that was trained elsewhere, or of a bundle folder.
    Import(register::ImportArguments),
    /// Show which versions a model's aliases have meant, and since when.
    History(history::HistoryArguments),
    /// Set a tag of a model or of a version.
    #[command(after_help = "\
The tag `host.yanked` sets a version aside: it is not the newest of its model any more, whatever
its number is, and is still reached by number and alias. `host endpoint rollback` sets it too. Its
value may say why; only `false` says that it is not.

Examples:
  host model tag mnist@3 checked=yes
  host model tag mnist@3 host.yanked=true
  host model tag mnist@3 host.yanked --delete")]
    Tag {
        /// A name, `name@version` or `name@alias`.
        model: NamedVersion,
        /// The tag as `KEY=VALUE`; with `--delete` only `KEY`.
        #[arg(value_name = "KEY=VALUE")]
        tag: String,
        /// Remove the tag.
        #[arg(long)]
        delete: bool,
    },
    /// Forget a version, or a model with all of them; bundles, runs and artifacts stay.
    Delete {
        /// A name for the whole model, `name@version` or `name@alias`.
        model: NamedVersion,
    },
}

/// A model, or one version of it.
#[derive(Debug, Clone)]
pub(super) struct NamedVersion {
    name: Name,
    version: Option<VersionSelector>,
}

impl FromStr for NamedVersion {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version.parse()?)),
            None => (text, None),
        };
        Ok(Self { name: name.parse()?, version })
    }
}

impl NamedVersion {
    /// The version that is meant; the newest where none is named.
    async fn find(&self, registry: &Registry) -> Result<ModelVersion, RegistryError> {
        let newest = VersionSelector::Newest;
        registry.find_version(&self.name, self.version.as_ref().unwrap_or(&newest)).await
    }
}

pub(super) fn run(
    command: ModelCommand,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    match command {
        ModelCommand::Check(arguments) => check::run(&arguments, state, output)?,
        ModelCommand::Diff(arguments) => return diff::run(arguments, state, output),
        ModelCommand::Promote(arguments) => promote::promote(arguments, state, output)?,
        ModelCommand::Compare(arguments) => promote::compare(arguments, state, output)?,
        ModelCommand::Register(arguments) => register::register(arguments, state, output)?,
        ModelCommand::Import(arguments) => register::import(arguments, state, output)?,
        other => run_simple(other, state, output)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Commands that load no plugin and judge nothing.
fn run_simple(command: ModelCommand, state: &StateArguments, output: &Output) -> anyhow::Result<()> {
    let store = state.open_store()?;
    match command {
        ModelCommand::Show { model } => {
            let resolved = state.resolve_model(&store, &model)?;
            if output.is_json() {
                return output.value(&json!({
                    "name": resolved.name,
                    "version": resolved.version,
                    "tags": told_tags(&resolved.tags),
                    "bundle": resolved.digest,
                    "manifest": resolved.manifest,
                }));
            }
            if let (Some(name), Some(version)) = (&resolved.name, resolved.version) {
                output.field("model", format!("{name}@{version}"))?;
            }
            output.field("bundle", resolved.digest)?;
            for tag in &resolved.tags {
                output.field("tag", format!("{} = {}", printable(&tag.key), printable(&tag.value)))?;
            }
            show(&resolved.manifest, output)
        }
        ModelCommand::Export { model, folder } => {
            let resolved = state.resolve_model(&store, &model)?;
            registry::export_bundle(&store, resolved.digest, &folder)?;
            if output.is_json() {
                return output.value(&json!({ "bundle": resolved.digest, "folder": folder }));
            }
            Ok(output.line(&folder.display().to_string())?)
        }
        of_names => wait(async {
            let registry = state.open_registry().await?;
            run_with_names(of_names, &registry, &store, output).await
        }),
    }
}

async fn run_with_names(
    command: ModelCommand,
    registry: &Registry,
    store: &Store,
    output: &Output,
) -> anyhow::Result<()> {
    let (told, line) = match command {
        ModelCommand::Alias { model, alias, delete: false } => set_alias(registry, &model, alias).await?,
        ModelCommand::Alias { model, alias, delete: true } => delete_alias(registry, &model, alias).await?,
        ModelCommand::Tag { model, tag, delete } => change_tag(registry, &model, tag, delete).await?,
        ModelCommand::Delete { model } => delete(registry, &model).await?,
        ModelCommand::History(arguments) => return history::run(arguments, registry, output).await,
        _ => return list(&registry.list_models().await?, store, output),
    };
    if output.is_json() {
        return output.value(&told);
    }
    Ok(output.line(&line)?)
}

/// Refuses an alias that nobody could use here.
fn check_alias(alias: &str) -> anyhow::Result<()> {
    if alias.bytes().all(|byte| byte.is_ascii_digit()) {
        bail!("`{alias}` cannot be an alias: it could not be told from a version");
    }
    Ok(())
}

async fn set_alias(
    registry: &Registry,
    model: &NamedVersion,
    alias: String,
) -> anyhow::Result<(Value, String)> {
    check_alias(&alias)?;
    let version = model.find(registry).await?;
    registry.set_alias(version.name.clone(), alias.clone(), &version.number.to_string()).await?;
    let line = format!("{}@{alias} is version {}", version.name, version.number);
    Ok((json!({ "name": version.name, "version": version.number, "alias": alias }), line))
}

async fn delete_alias(
    registry: &Registry,
    model: &NamedVersion,
    alias: String,
) -> anyhow::Result<(Value, String)> {
    let found = registry.find_model(&model.name).await?;
    if !registry.delete_alias(found.name.clone(), alias.clone()).await? {
        let aliases = found.aliases.into_iter().map(|found| found.alias).collect();
        return Err(RegistryError::UnknownAlias { name: model.name.clone(), alias, aliases }.into());
    }
    let line = format!("{}@{alias} is no more", found.name);
    Ok((json!({ "name": found.name, "alias": alias }), line))
}

async fn change_tag(
    registry: &Registry,
    model: &NamedVersion,
    tag: String,
    delete: bool,
) -> anyhow::Result<(Value, String)> {
    let (key, value) = match delete {
        true => (tag, None),
        false => {
            let (key, value) = parse_pair(&tag).map_err(|error| anyhow::anyhow!("{error}"))?;
            (key, Some(value))
        }
    };
    let name = model.name.to_string();
    let number = match &model.version {
        Some(_) => Some(model.find(registry).await?.number),
        None => {
            let found = registry.find_model(&model.name).await?;
            if key == YANKED_TAG && !delete {
                let highest = found.latest_versions.iter().map(|version| version.number).max().unwrap_or(1);
                bail!("`{YANKED_TAG}` is a tag of versions: name one, such as `{}@{highest}`", found.name);
            }
            None
        }
    };
    match (number.map(|number| number.to_string()), value.clone()) {
        (Some(number), Some(value)) => {
            registry.set_version_tag(name, &number, Pair { key: key.clone(), value }).await?;
        }
        (Some(number), None) => registry.delete_version_tag(name, &number, key.clone()).await?,
        (None, Some(value)) => registry.set_model_tag(name, Pair { key: key.clone(), value }).await?,
        (None, None) => registry.delete_model_tag(name, key.clone()).await?,
    }
    let place = number.map_or_else(|| model.name.to_string(), |number| format!("{}@{number}", model.name));
    let line = match &value {
        Some(value) => format!("{place}: {key} = {value}"),
        None => format!("{place}: no {key}"),
    };
    Ok((json!({ "name": model.name, "version": number, "key": key, "value": value }), line))
}

/// Says of a version that was there already, and holds what should be registered, that it is not the newest for that.
pub(super) fn note_if_yanked(version: &ModelVersion, output: &Output) {
    if version.is_yanked() {
        let named = format!("{}@{}", version.name, version.number);
        output.note(&format!(
            "{named} is yanked, and is not the newest: `host model tag {named} {YANKED_TAG} --delete` takes the mark away"
        ));
    }
}

async fn delete(registry: &Registry, model: &NamedVersion) -> anyhow::Result<(Value, String)> {
    if model.version.is_some() {
        let version = model.find(registry).await?;
        registry.delete_version(version.name.clone(), &version.number.to_string()).await?;
        let line = format!("{}@{} is no more", version.name, version.number);
        return Ok((json!({ "name": version.name, "version": version.number }), line));
    }
    let found = registry.find_model(&model.name).await?;
    registry.delete_model(found.name.clone()).await?;
    Ok((json!({ "name": found.name, "version": null }), format!("{} is no more", found.name)))
}

fn list(
    models: &[(RegisteredModel, Vec<ModelVersion>)],
    store: &Store,
    output: &Output,
) -> anyhow::Result<()> {
    if output.is_json() {
        return output
            .value(&models.iter().map(|(model, versions)| listed(model, versions)).collect::<Vec<_>>());
    }
    let mut table = Table::new(&["MODEL", ">VERSION", "ALIASES", "DATASET", ">ACCURACY", "BUNDLE", ""]);
    for (model, versions) in models {
        for version in versions {
            let mut cells = vec![model.name.clone(), version.number.to_string(), version.aliases.join(", ")];
            let mut mark = if version.is_yanked() { "yanked" } else { "" };
            match version.bundle.map(|bundle| (bundle, registry::read_bundle(store, bundle))) {
                Some((bundle, Ok(manifest))) => {
                    let accuracy = manifest.metrics.get("accuracy").copied().unwrap_or(f64::NAN);
                    let dataset = manifest.dataset.map(|dataset| dataset.name.to_string());
                    cells.extend([dataset.unwrap_or_default(), number_text(accuracy), bundle.short()]);
                }
                // The others are what they were.
                Some((bundle, Err(error))) if is_of_bundle(&error) => {
                    output.warn(&format!("{}@{}: {error}", model.name, version.number));
                    mark = "damaged";
                    cells.extend([String::new(), "-".to_owned(), bundle.short()]);
                }
                Some((_, Err(error))) => return Err(error.into()),
                None => cells.extend([String::new(), String::new(), "none".to_owned()]),
            }
            cells.push(mark.to_owned());
            table.row(cells);
        }
    }
    Ok(output.table(&table)?)
}

/// Whether a manifest is gone or is none, and not the store that has failed, for all of them.
fn is_of_bundle(error: &RegistryError) -> bool {
    match error {
        RegistryError::Store(error) => {
            matches!(error, StoreError::Missing { .. } | StoreError::Damaged { .. })
        }
        RegistryError::Manifest { .. } | RegistryError::TooLarge { .. } => true,
        _ => false,
    }
}

fn told_tags(tags: &[Pair]) -> Value {
    tags.iter().map(|tag| (tag.key.clone(), Value::from(tag.value.clone()))).collect()
}

fn listed(model: &RegisteredModel, versions: &[ModelVersion]) -> Value {
    let version = |version: &ModelVersion| {
        json!({
            "number": version.number,
            "bundle": version.bundle,
            "registered_at": version.creation_timestamp / 1_000,
            "aliases": version.aliases,
            "tags": told_tags(&version.tags),
            "run_id": version.run_id,
            "source": version.source,
            "stage": version.current_stage,
            "description": version.description,
        })
    };
    json!({
        "name": model.name,
        "versions": versions.iter().rev().map(version).collect::<Vec<_>>(),
        "tags": told_tags(&model.tags),
        "description": model.description,
    })
}

fn show(manifest: &BundleManifest, output: &Output) -> anyhow::Result<()> {
    let model = &manifest.model;
    output.field(
        "framework",
        format!("{} {}, {}", model.framework, model.framework_version, bytes_text(model.blob.size)),
    )?;
    if let Some(OutputChoice { name: Some(name), scores: Some(scores) }) = &model.output {
        output.field("scores", format!("{scores} in `{name}`"))?;
    }
    let dataset = manifest.dataset.as_ref();
    let dataset = dataset.map(|dataset| format!("{} {}", dataset.name, dataset.version));
    output.field("dataset", dataset.unwrap_or_else(|| "none, it was imported".to_owned()))?;
    let chain = |entries: &[TransformerEntry]| match entries {
        [] => "none".to_owned(),
        all => all
            .iter()
            .map(|entry| format!("{} {} ({})", entry.name, entry.version, entry.component.digest.short()))
            .collect::<Vec<_>>()
            .join(" → "),
    };
    output.field("preprocess", chain(&manifest.preprocess))?;
    output.field("postprocess", chain(&manifest.postprocess))?;
    output.field("inputs", columns(&manifest.signature.inputs))?;
    output.field("features", columns(&manifest.signature.features))?;
    output.field("outputs", columns(&manifest.signature.outputs))?;
    for (name, value) in &manifest.parameters {
        output.field("parameter", format!("{name} = {value}"))?;
    }
    for (name, value) in &manifest.metrics {
        output.field("metric", format!("{name} = {}", number_text(*value)))?;
    }
    Ok(())
}

fn columns(specs: &[ColumnSpec]) -> String {
    let text = |spec: &ColumnSpec| {
        let sizes: String = spec.shape.iter().map(|size| format!(" × {size}")).collect();
        format!("{}: {}{sizes}", spec.name, spec.dtype)
    };
    specs.iter().map(text).collect::<Vec<_>>().join(", ")
}
