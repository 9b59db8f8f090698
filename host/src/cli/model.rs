use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::output::{Output, Table, bytes_text, number_text};
use super::state::StateArguments;
use crate::domain::ColumnSpec;
use crate::registry::{self, BundleManifest, ModelReference, TransformerEntry};

#[derive(Debug, Subcommand)]
pub(super) enum ModelCommand {
    /// List the models.
    List,
    /// Show what a bundle holds.
    Show {
        /// A name, `name@version`, a `sha256:` digest or a bundle folder.
        model: ModelReference,
    },
    /// Copy a bundle into a folder that can be carried elsewhere and served from there.
    Export {
        /// A name, `name@version` or a `sha256:` digest.
        model: ModelReference,
        /// The folder to make.
        folder: PathBuf,
    },
}

pub(super) fn run(command: ModelCommand, state: &StateArguments, output: &Output) -> anyhow::Result<()> {
    let store = state.open_store()?;
    match command {
        ModelCommand::List => {
            let models = registry::list_models(&store)?;
            if output.is_json() {
                let models: Vec<_> = models
                    .iter()
                    .map(|(name, record)| json!({ "name": name, "versions": record.versions }))
                    .collect();
                return output.value(&models);
            }
            let mut table = Table::new(&["MODEL", ">VERSION", "DATASET", ">ACCURACY", "BUNDLE"]);
            for (name, record) in &models {
                for version in record.versions.iter().rev() {
                    let manifest = registry::read_bundle(&store, version.bundle)?;
                    let accuracy = manifest.metrics.get("accuracy").copied().unwrap_or(f64::NAN);
                    table.row(vec![
                        name.to_string(),
                        version.number.to_string(),
                        manifest.dataset.name.to_string(),
                        number_text(accuracy),
                        version.bundle.short(),
                    ]);
                }
            }
            Ok(output.table(&table)?)
        }
        ModelCommand::Show { model } => {
            let resolved = registry::resolve(&store, &model)?;
            if output.is_json() {
                return output.value(&json!({
                    "name": resolved.name,
                    "version": resolved.version,
                    "bundle": resolved.digest,
                    "manifest": resolved.manifest,
                }));
            }
            if let (Some(name), Some(version)) = (&resolved.name, resolved.version) {
                output.field("model", format!("{name}@{version}"))?;
            }
            output.field("bundle", resolved.digest)?;
            show(&resolved.manifest, output)
        }
        ModelCommand::Export { model, folder } => {
            let resolved = registry::resolve(&store, &model)?;
            registry::export_bundle(&store, resolved.digest, &folder)?;
            if output.is_json() {
                return output.value(&json!({ "bundle": resolved.digest, "folder": folder }));
            }
            Ok(output.line(&folder.display().to_string())?)
        }
    }
}

fn show(manifest: &BundleManifest, output: &Output) -> anyhow::Result<()> {
    let model = &manifest.model;
    output.field(
        "framework",
        format!("{} {}, {}", model.framework, model.framework_version, bytes_text(model.blob.size)),
    )?;
    output.field("dataset", format!("{} {}", manifest.dataset.name, manifest.dataset.version))?;
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
