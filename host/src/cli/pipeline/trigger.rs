use console::style;

use super::super::output::{Output, Table, age_text, printable, time_text};
use super::FileArguments;
use super::show::short_cause;
use crate::data::Catalog;
use crate::pipeline::trigger::{Trigger, TriggerRecord, Triggers};
use crate::registry::Registry;
use crate::track::now_ms;

pub(super) async fn enable(
    arguments: &FileArguments,
    registry: &Registry,
    output: &Output,
) -> anyhow::Result<()> {
    let (file, plan) = arguments.plan()?;
    let tracker = registry.tracker();
    let triggers = Triggers::new(tracker.database().clone());
    triggers.enable(&file, &plan, now_ms()).await?;
    let catalog = Catalog::new(tracker.database().clone(), tracker.store().clone());
    for trigger in &plan.triggers {
        if let Trigger::Dataset(dataset) = trigger
            && catalog.versions(dataset).await?.is_empty()
        {
            output.warn(&format!("there is no dataset `{dataset}` yet"));
        }
    }
    list(Some(plan.name.as_str()), registry, output).await?;
    output.note(&format!("pipeline `{}` is enabled: `host server` starts it", plan.name));
    Ok(())
}

pub(super) async fn disable(pipeline: &str, registry: &Registry, output: &Output) -> anyhow::Result<()> {
    Triggers::new(registry.tracker().database().clone()).disable(pipeline).await?;
    output.note(&format!("pipeline `{pipeline}` is disabled"));
    Ok(())
}

pub(super) async fn list(name: Option<&str>, registry: &Registry, output: &Output) -> anyhow::Result<()> {
    let now_ms = now_ms();
    let mut found = Triggers::new(registry.tracker().database().clone()).list(now_ms).await?;
    found.retain(|record| name.is_none_or(|name| record.pipeline == name));
    if output.is_json() {
        return output.value(&found);
    }
    let mut table = Table::new(&["PIPELINE", "TRIGGER", "NEXT", "LAST", "RUN", "STATUS", "WHY"]);
    for record in &found {
        table.styled_row(vec![
            printable(&record.pipeline),
            printable(&record.trigger),
            record.next_at.map(time_text).unwrap_or_default(),
            record.fired_at.map(|at| age_text(now_ms - at)).unwrap_or_default(),
            record.run_id.iter().flat_map(|run_id| run_id.chars().take(8)).collect(),
            printable(record.status.as_deref().unwrap_or_default()),
            why(record),
        ]);
    }
    Ok(output.table(&table)?)
}

/// What the trigger started the pipeline for, or why it could not.
fn why(record: &TriggerRecord) -> String {
    match (&record.problem, &record.cause) {
        (Some(problem), _) => style(format!("cannot start: {}", printable(problem))).red().to_string(),
        (None, Some(cause)) => printable(&short_cause(cause)),
        (None, None) => String::new(),
    }
}
