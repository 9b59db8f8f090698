use serde_json::json;

use super::output::{Output, number_text, thousands};
use super::plugin::PluginOptions;
use super::state::StateArguments;
use crate::registry::ModelReference;
use crate::train::{self, EvaluateSpec};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  host evaluate mnist@champion --data mnist")]
pub(super) struct EvaluateArguments {
    /// What to judge: a name, `name@version`, `name@alias`, a `sha256:` digest or a bundle folder such as `./mnist`.
    model: ModelReference,
    /// What to judge by: a dataset's name, `name@version`, `name@tag` or `name@sha256:…`.
    #[arg(long, value_name = "DATASET")]
    data: String,
    /// Which rows of it, `test` or `train`; where it has no test split, `test` are the rows that training holds out.
    #[arg(long, default_value = "test")]
    split: String,
    /// Column that should be predicted.
    #[arg(long, default_value = "label")]
    label: String,
    #[command(flatten)]
    options: PluginOptions,
}

pub(super) fn run(
    arguments: EvaluateArguments,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<()> {
    let store = state.open_store()?;
    let dataset = state.resolve_dataset(&arguments.data)?;
    let resolved = state.resolve_model(&store, &arguments.model)?;
    let runtime = arguments.options.start()?;
    let spec = EvaluateSpec { dataset: &dataset, split: &arguments.split, label: &arguments.label };
    let found = train::evaluate(&store, &runtime, &resolved.manifest, spec)?;
    let metrics = &found.evaluation.metrics;
    let data = format!("{}@{}", dataset.name, dataset.version.digest);
    if output.is_json() {
        return output.value(&json!({
            "bundle": resolved.digest,
            "data": data,
            "rows": found.rows,
            "metrics": metrics,
        }));
    }
    output.field("bundle", resolved.digest)?;
    output.field("data", data)?;
    output.field("rows", thousands(found.rows as u64))?;
    for (name, value) in metrics {
        output.field(name, number_text(*value))?;
    }
    Ok(())
}
