use anyhow::Context as _;
use serde_json::json;

use crate::cli::output::{Output, thousands};
use crate::cli::plugin::PluginOptions;
use crate::cli::state::StateArguments;
use crate::model;
use crate::plugin::block_on;
use crate::registry::{ModelEntry, ModelReference, Predictor, Sample};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  host model check mnist@champion")]
pub(in crate::cli) struct CheckArguments {
    /// A name, `name@version`, `name@alias`, a `sha256:` digest or a bundle folder such as `./mnist`.
    model: ModelReference,
    #[command(flatten)]
    options: PluginOptions,
}

pub(super) fn run(arguments: &CheckArguments, state: &StateArguments, output: &Output) -> anyhow::Result<()> {
    let store = state.open_store()?;
    let resolved = state.resolve_model(&store, &arguments.model)?;
    let recorded = resolved.manifest.sample.as_ref();
    let recorded = recorded.context("the bundle has no recorded sample to answer: it was made elsewhere")?;
    let sample = Sample::load(&store, recorded)?;
    let runtime = arguments.options.start()?;
    let predictor = Predictor::load(&store, &runtime, &resolved.manifest)?;
    let evaluator = evaluator(&resolved.manifest.model, &predictor)?;
    let (answered, is_exact) = block_on(sample.check(&predictor)).map_err(|error| match &evaluator {
        Some(evaluator) => anyhow::Error::new(error).context(evaluator.clone()),
        None => error.into(),
    })?;
    if output.is_json() {
        let told = json!({ "bundle": resolved.digest, "answered": answered, "exact": is_exact });
        return output.value(&told);
    }
    output.field("bundle", resolved.digest)?;
    let how = if is_exact { "as when it was made" } else { "as when it was made, but for rounding" };
    output.field("answered", format!("{} rows {how}", thousands(answered as u64)))?;
    if let Some(evaluator) = evaluator {
        output.field("evaluator", evaluator)?;
    }
    Ok(())
}

/// Who evaluates the model, where another library does, and who did when the bundle was made.
fn evaluator(entry: &ModelEntry, predictor: &Predictor) -> anyhow::Result<Option<String>> {
    if !predictor.may_round() {
        return Ok(None);
    }
    let (made, now) = (&entry.framework_version, model::onnx_runtime_version()?);
    Ok(Some(match *made == now {
        true => format!("ONNX Runtime {now}"),
        false => format!("ONNX Runtime {now}, and {made} when it was made"),
    }))
}
