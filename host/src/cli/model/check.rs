use anyhow::Context as _;
use serde_json::json;

use crate::cli::output::{Output, thousands};
use crate::cli::plugin::PluginOptions;
use crate::cli::state::StateArguments;
use crate::registry::ModelReference;
use crate::train;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  host model check mnist@champion")]
pub(in crate::cli) struct CheckArguments {
    /// A name, `name@version`, `name@alias`, a `sha256:` digest or a bundle folder.
    model: ModelReference,
    #[command(flatten)]
    options: PluginOptions,
}

pub(super) fn run(arguments: &CheckArguments, state: &StateArguments, output: &Output) -> anyhow::Result<()> {
    let store = state.open_store()?;
    let resolved = state.resolve_model(&store, &arguments.model)?;
    let made_from = resolved.manifest.dataset.as_ref();
    let made_from = made_from.context("the bundle was made elsewhere: there are no rows to try it with")?;
    let dataset = state.resolve_dataset(&format!("{}@{}", made_from.name, made_from.version))?;
    let runtime = arguments.options.start()?;
    let answered = train::try_out(&store, &runtime, &resolved.manifest, &dataset)?;
    if output.is_json() {
        return output.value(&json!({ "bundle": resolved.digest, "answered": answered }));
    }
    output.field("bundle", resolved.digest)?;
    output.field("answered", format!("{} rows", thousands(answered as u64)))?;
    Ok(())
}
