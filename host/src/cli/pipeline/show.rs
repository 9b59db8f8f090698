use console::style;
use serde_json::{Value, json};

use super::super::output::{Output, Table, age_text, duration_text, number_text, printable, with_fields};
use super::progress::mark;
use crate::pipeline::{Records, StepRecord, StepStatus};
use crate::track::now_ms;

/// Longest output that a table shows.
const OUTPUT_MAX_CHARS: usize = 60;

pub(super) async fn show(run: &str, records: &Records, output: &Output) -> anyhow::Result<()> {
    let record = records.find(run).await?;
    let steps = records.steps(&record).await?;
    if output.is_json() {
        let steps = serde_json::to_value(&steps)?;
        let fields = [("status", record.status_text().into()), ("steps", steps)];
        return output.value(&with_fields(&record, fields)?);
    }
    output.field("pipeline", &record.name)?;
    output.field("run", &record.run_id)?;
    output.field("file", printable(&record.file_name))?;
    output.field("status", record.status_text())?;
    if !record.triggered_by.is_empty() {
        output.field("triggered by", &record.triggered_by)?;
    }
    output.field("started", age_text(now_ms() - record.started_at))?;
    output.field("time", time(record.started_at, record.ended_at))?;
    for (name, value) in &record.params {
        output.field(name, printable(&shown(value)))?;
    }
    output.line("")?;
    let mut table = Table::new(&["STEP", "STATUS", ">TIME", "RUN", "OUTPUTS"]);
    for step in &steps {
        table.styled_row(vec![
            printable(&step.step),
            mark(step.status).trim_end().to_owned(),
            time(step.started_at, step.ended_at),
            printable(&step.run_id).chars().take(8).collect(),
            outputs(step),
        ]);
    }
    Ok(output.table(&table)?)
}

pub(super) async fn list(
    name: Option<&str>,
    limit: u16,
    records: &Records,
    output: &Output,
) -> anyhow::Result<()> {
    let found = records.list(name, u32::from(limit)).await?;
    if output.is_json() {
        let told = found.iter().map(|record| with_fields(record, [("status", record.status_text().into())]));
        return output.value(&json!(told.collect::<Result<Vec<_>, _>>()?));
    }
    let mut table = Table::new(&["RUN", "PIPELINE", "STATUS", "STARTED", ">TIME", "TRIGGERED BY"]);
    for record in &found {
        table.row(vec![
            record.run_id.chars().take(8).collect(),
            record.name.clone(),
            record.status_text(),
            age_text(now_ms() - record.started_at),
            time(record.started_at, record.ended_at),
            short_cause(&record.triggered_by),
        ]);
    }
    Ok(output.table(&table)?)
}

/// How many steps are how far, in words.
pub(super) fn counts(statuses: impl Iterator<Item = StepStatus>) -> String {
    let mut counts: Vec<(StepStatus, usize)> = Vec::new();
    for status in statuses {
        match counts.iter_mut().find(|(known, _)| *known == status) {
            Some((_, count)) => *count += 1,
            None => counts.push((status, 1)),
        }
    }
    let parts: Vec<String> =
        counts.iter().map(|(status, count)| format!("{count} {}", status.as_str())).collect();
    parts.join(", ")
}

/// What triggered a run, with digests cut.
pub(super) fn short_cause(cause: &str) -> String {
    cause.split(", ").map(short_digest).collect::<Vec<_>>().join(", ")
}

/// A text in which a digest stands, with the first of its digits.
fn short_digest(text: &str) -> String {
    match text.split_once("sha256:") {
        Some((before, digest)) => format!("{before}{}", digest.chars().take(12).collect::<String>()),
        None => text.to_owned(),
    }
}

fn time(started_at: i64, ended_at: Option<i64>) -> String {
    ended_at.map(|ended_at| duration_text(ended_at - started_at)).unwrap_or_default()
}

fn outputs(step: &StepRecord) -> String {
    if !step.reason.is_empty() {
        return printable(&step.reason);
    }
    let parts =
        step.outputs.iter().map(|(name, value)| format!("{}={}", style(printable(name)).dim(), shown(value)));
    parts.collect::<Vec<_>>().join(" ")
}

/// A value in a cell: digests and long texts are cut.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => short_digest(text),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), number_text),
        Value::Object(map) => {
            let parts: Vec<String> =
                map.iter().map(|(name, value)| format!("{name} {}", shown(value))).collect();
            format!("({})", parts.join(", "))
        }
        other => other.to_string(),
    };
    let text = printable(&text);
    match text.chars().count() > OUTPUT_MAX_CHARS {
        true => text.chars().take(OUTPUT_MAX_CHARS - 1).chain(['…']).collect(),
        false => text,
    }
}
