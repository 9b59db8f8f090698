use anyhow::Context as _;
use serde_json::json;

use crate::cli::output::{Output, thousands};
use crate::cli::plugin::PluginOptions;
use crate::cli::state::StateArguments;
use crate::plugin::block_on;
use crate::registry::{ModelReference, Predictor, Sample};

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
    let recorded = resolved.manifest.sample.as_ref();
    let recorded = recorded.context("the bundle has no recorded sample to answer: it was made elsewhere")?;
    let sample = Sample::from_bytes(&store.get(recorded.digest)?)?;
    let runtime = arguments.options.start()?;
    let predictor = Predictor::load(&store, &runtime, &resolved.manifest)?;
    let answered = block_on(sample.check(&predictor))?;
    if output.is_json() {
        return output.value(&json!({ "bundle": resolved.digest, "answered": answered }));
    }
    output.field("bundle", resolved.digest)?;
    output.field("answered", format!("{} rows as when it was made", thousands(answered as u64)))?;
    Ok(())
}
