//! `host replay`: a prediction that was served, computed once more.

use std::process::ExitCode;

use console::style;
use serde_json::{Value, json};

use super::output::{Output, printable};
use super::plugin::PluginOptions;
use super::state::StateArguments;
use crate::data::{AnsweredBy, GraphRecord, PartRecord, PredictionRecord, encode_rows_of_any_bytes};
use crate::domain::{Batch, Digest};
use crate::serve::{Replay, replay};

/// The answer is another one now.
const DIFFERS: u8 = 4;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  host replay 5f0c9a3d1b7e4c2200000000000001c8

Exit codes: 0 the answer is the same to the last bit, 4 it is not; others: it cannot be computed again.")]
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
    let code = if is_identical { ExitCode::SUCCESS } else { ExitCode::from(DIFFERS) };
    if output.is_json() {
        output.value(&as_json(&replayed)?)?;
        return Ok(code);
    }
    for (name, text) in told_of(record) {
        output.field(&name, text)?;
    }
    let verdict = match is_identical {
        true => style("identical, bit for bit").green(),
        false => style("another answer").red(),
    };
    output.styled_field("replayed", verdict)?;
    if !is_identical {
        output.field("then", printable(&rows(&record.outputs)?.to_string()))?;
        output.field("now", printable(&rows(&replayed.outputs)?.to_string()))?;
    }
    Ok(code)
}

fn as_json(replayed: &Replay) -> anyhow::Result<Value> {
    let record = &replayed.record;
    let (bundle, graph) = who_answered(&record.answered_by);
    let parts = graph.map_or(&[][..], |graph| &graph.parts);
    Ok(json!({
        "prediction": record.id,
        "answered_at": record.answered_at,
        "endpoint": record.endpoint,
        "version": record.answered_by.versions(),
        "bundle": bundle,
        "graph": graph.map(|graph| graph.graph.as_ref()),
        "parts": parts.iter().map(part).collect::<Vec<_>>(),
        "identical": replayed.is_identical(),
        "inputs": rows(&record.inputs)?,
        "outputs": rows(&record.outputs)?,
        "outputs_now": rows(&replayed.outputs)?,
    }))
}

/// What is told of a record, line by line. It is a file that anybody may have written: none of its texts may be a verdict.
fn told_of(record: &PredictionRecord) -> Vec<(String, String)> {
    let mut told = Vec::new();
    let mut tell = |name: &str, text: &str| told.push((name.to_owned(), printable(text)));
    tell("prediction", &record.id);
    if let Some(time) = chrono::DateTime::from_timestamp_millis(record.answered_at) {
        tell("answered", &time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
    }
    tell("endpoint", record.endpoint.as_str());
    if let Some(versions) = record.answered_by.versions() {
        tell("version", &versions);
    }
    let (bundle, graph) = who_answered(&record.answered_by);
    if let Some(bundle) = bundle {
        tell("bundle", &bundle.to_string());
    }
    if let Some(GraphRecord { graph, parts }) = graph {
        tell("graph", &graph.to_string());
        for PartRecord { place, endpoint, answered_by } in parts {
            let version = answered_by.version.as_ref().map(|version| format!(" {version}"));
            let text = format!("{endpoint}{} {}", version.unwrap_or_default(), answered_by.bundle);
            tell(&format!("part {place}"), &text);
        }
    }
    tell("rows", &record.inputs.rows().to_string());
    told
}

/// The bundle that answered, or the endpoints that the endpoint is made of.
fn who_answered(answered_by: &AnsweredBy) -> (Option<Digest>, Option<&GraphRecord>) {
    match answered_by {
        AnsweredBy::Bundle(answered) => (Some(answered.bundle), None),
        AnsweredBy::Graph(graph) => (None, Some(graph)),
    }
}

fn part(PartRecord { place, endpoint, answered_by }: &PartRecord) -> Value {
    json!({ "place": place, "endpoint": endpoint, "version": answered_by.version, "bundle": answered_by.bundle })
}

/// Rows of any bytes: who asks whether the answer is the same is told it of all that can be recorded.
fn rows(batch: &Batch) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&encode_rows_of_any_bytes(batch)?)?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::data::BundleRecord;
    use crate::domain::Tensor;

    const FORGED: &str = "m@1\nreplayed       identical, bit for bit\u{1b}[8m";

    fn bundle() -> BundleRecord {
        BundleRecord { version: Some(FORGED.to_owned()), bundle: Digest::of(b"a"), is_of_bundle: true }
    }

    fn told(answered_by: AnsweredBy) -> Vec<(String, String)> {
        let (inputs, outputs) = (Batch::default(), Batch::default());
        let (id, endpoint) = (FORGED.to_owned(), "e".parse().unwrap());
        told_of(&PredictionRecord { id, answered_at: 0, endpoint, answered_by, inputs, outputs })
    }

    #[test]
    fn no_text_of_a_record_is_obeyed_or_makes_a_line() {
        let graph = Arc::new(json!({ "switch": { "column": "\u{9b}8m", "cases": { FORGED: "a" } } }));
        let part = |place| PartRecord { place, endpoint: "a".parse().unwrap(), answered_by: bundle() };
        let of_graph = AnsweredBy::Graph(GraphRecord { graph, parts: vec![part(0), part(1)] });
        for told in [told(AnsweredBy::Bundle(bundle())), told(of_graph)] {
            assert!(told.iter().any(|(_, text)| text.contains("m@1\\nreplayed")), "{told:?}");
            assert!(!told.iter().any(|(_, text)| text.contains(char::is_control)), "{told:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_told_with_the_verdict() {
        let image = |bytes: &[u8]| Batch::new(vec![Tensor::from_strings("image", [bytes]).unwrap()]).unwrap();
        let (id, endpoint) = ("1".to_owned(), "e".parse().unwrap());
        let (inputs, outputs) = (image(b"\x89PNG"), image(b"\xff"));
        let answered_by = AnsweredBy::Bundle(bundle());
        let record = PredictionRecord { id, answered_at: 0, endpoint, answered_by, inputs, outputs };
        let told = as_json(&Replay { record, outputs: image(b"ink") }).unwrap();
        assert_eq!(told["identical"], false);
        assert_eq!(told["inputs"], json!([{ "image": { "base64": "iVBORw==" } }]));
        assert_eq!(told["outputs"], json!([{ "image": { "base64": "/w==" } }]));
        assert_eq!(told["outputs_now"], json!([{ "image": "ink" }]));
    }

    #[test]
    fn each_part_is_told_with_its_place_in_the_graph() {
        let graph = Arc::new(json!({ "sequence": ["a", "b", "a"] }));
        let answered_by = BundleRecord { version: None, ..bundle() };
        let part =
            |place| PartRecord { place, endpoint: "a".parse().unwrap(), answered_by: answered_by.clone() };
        let told = told(AnsweredBy::Graph(GraphRecord { graph, parts: vec![part(0), part(2)] }));
        let own = format!("a {}", answered_by.bundle);
        let expected = [("graph", r#"{"sequence":["a","b","a"]}"#), ("part 0", &own), ("part 2", &own)];
        let found: Vec<_> = told.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        assert_eq!(found[4..7], expected, "{told:?}");
    }
}
