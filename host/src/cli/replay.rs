//! `host replay`: a prediction that was served, computed once more.

use std::process::ExitCode;

use console::style;
use serde_json::{Value, json};

use super::output::Output;
use super::plugin::PluginOptions;
use super::state::StateArguments;
use crate::data::{AnsweredBy, PartRecord, RowForm, encode_rows};
use crate::domain::{Batch, Digest};
use crate::serve::replay;

/// The answer is another one now.
const DIFFERS: u8 = 1;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  host replay 5f0c9a3d1b7e4c2200000000000001c8

Exit codes: 0 the answer is the same to the last bit, 1 it is not.")]
pub(super) struct ReplayArguments {
    /// The prediction, as the header `x-prediction-id` of its answer named it.
    prediction: String,
    #[command(flatten)]
    options: PluginOptions,
}

pub(super) fn run(
    arguments: &ReplayArguments,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let store = state.open_store()?;
    let runtime = arguments.options.start()?;
    let replayed = replay(&store, &runtime, &arguments.prediction)?;
    let record = &replayed.record;
    let is_identical = replayed.is_identical();
    let (bundle, parts) = who_answered(&record.answered_by);
    let code = if is_identical { ExitCode::SUCCESS } else { ExitCode::from(DIFFERS) };
    if output.is_json() {
        output.value(&json!({
            "prediction": record.id,
            "answered_at": record.answered_at,
            "endpoint": record.endpoint,
            "version": record.answered_by.versions(),
            "bundle": bundle,
            "parts": parts.iter().map(part).collect::<Vec<_>>(),
            "identical": is_identical,
            "inputs": rows(&record.inputs)?,
            "outputs": rows(&record.outputs)?,
            "outputs_now": rows(&replayed.outputs)?,
        }))?;
        return Ok(code);
    }
    output.field("prediction", &record.id)?;
    if let Some(time) = chrono::DateTime::from_timestamp_millis(record.answered_at) {
        output.field("answered", time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))?;
    }
    output.field("endpoint", &record.endpoint)?;
    if let Some(versions) = record.answered_by.versions() {
        output.field("version", versions)?;
    }
    if let Some(bundle) = bundle {
        output.field("bundle", bundle)?;
    }
    for PartRecord { endpoint, answered_by, .. } in parts {
        let version = answered_by.version.as_ref().map(|version| format!(" {version}"));
        output.field("part", format!("{endpoint}{} {}", version.unwrap_or_default(), answered_by.bundle))?;
    }
    output.field("rows", record.inputs.rows())?;
    let verdict = match is_identical {
        true => style("identical, bit for bit").green(),
        false => style("another answer").red(),
    };
    output.field("replayed", verdict)?;
    if !is_identical {
        output.field("then", rows(&record.outputs)?)?;
        output.field("now", rows(&replayed.outputs)?)?;
    }
    Ok(code)
}

/// The bundle that answered; of an endpoint made of others those that were asked.
fn who_answered(answered_by: &AnsweredBy) -> (Option<Digest>, &[PartRecord]) {
    match answered_by {
        AnsweredBy::Bundle(answered) => (Some(answered.bundle), &[]),
        AnsweredBy::Graph(graph) => (None, &graph.parts),
    }
}

fn part(PartRecord { endpoint, answered_by, .. }: &PartRecord) -> Value {
    json!({ "endpoint": endpoint, "version": answered_by.version, "bundle": answered_by.bundle })
}

fn rows(batch: &Batch) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&encode_rows(batch, RowForm::List)?)?)
}
