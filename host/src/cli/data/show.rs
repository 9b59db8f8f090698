use serde_json::json;

use super::super::output::{
    Output, Table, age_text, bytes_text, number_text, printable, sparkline, thousands, with_fields,
};
use super::preview::Preview;
use super::{SHOWN_FILES, holds};
use crate::data::{self, ColumnStatistics, Distinct, FileChange, FileEntry, Recipe, ResolvedDataset};
use crate::domain::ColumnSpec;
use crate::track::now_ms;

pub(super) fn show(
    dataset: &ResolvedDataset,
    all_files: bool,
    rows: &Preview,
    output: &Output,
) -> anyhow::Result<()> {
    let (manifest, version) = (&dataset.manifest, &dataset.version);
    if output.is_json() {
        let more = [
            ("name", json!(dataset.name)),
            ("parents", json!(manifest.parents)),
            ("recipe", json!(manifest.recipe)),
            ("schema", json!(manifest.schema)),
            ("splits", json!(manifest.splits)),
            ("files", json!(manifest.files)),
        ];
        let preview = (!rows.is_empty()).then(|| ("preview", rows.json()));
        return output.value(&with_fields(version, more.into_iter().chain(preview))?);
    }
    output.field("dataset", format!("{}@{}", dataset.name, version.number))?;
    output.field("digest", version.digest)?;
    output.field("added", age_text(now_ms() - version.created_at))?;
    if let Some(published) = version.published_at {
        output.field("published", age_text(now_ms() - published))?;
    }
    if !version.tags.is_empty() {
        output.field("tags", version.tags.join(" "))?;
    }
    for parent in &manifest.parents {
        output.field("made from", parent)?;
    }
    for step in manifest.recipe.iter().flat_map(recipe_text) {
        output.field("made by", step)?;
    }
    output.field("holds", holds(version))?;
    let shown = if all_files { manifest.files.len() } else { SHOWN_FILES };
    for file in manifest.files.iter().take(shown) {
        output.field("file", file_text(file))?;
    }
    if let more @ 1.. = manifest.files.len().saturating_sub(shown) {
        output.field("", format!("and {} more files, see `--files`", thousands(more as u64)))?;
    }
    if !manifest.splits.is_empty() {
        statistics(dataset, output)?;
    }
    rows.print(output)
}

/// The steps of a recipe, each as a line.
fn recipe_text(recipe: &Recipe) -> Vec<String> {
    let mut steps: Vec<String> =
        recipe.filters.iter().map(|filter| format!("filter {}", printable(filter))).collect();
    steps.extend(recipe.rows.map(|rows| format!("the first {} rows", thousands(rows))));
    steps.extend(recipe.split.map(|split| format!("split test={} seed={}", split.test, split.seed)));
    steps.extend(recipe.select.iter().map(|column| format!("select {}", printable(column))));
    steps.extend(recipe.transformers.iter().map(|applied| {
        let state = applied.state.map(|state| format!(", state {}", state.short())).unwrap_or_default();
        let (name, version) = (printable(&applied.name), printable(&applied.version));
        format!("{name} {version} ({}{state})", applied.component.short())
    }));
    steps
}

fn statistics(dataset: &ResolvedDataset, output: &Output) -> anyhow::Result<()> {
    let header = [
        "SPLIT",
        "COLUMN",
        "TYPE",
        ">COUNT",
        ">MISSING",
        ">DISTINCT",
        ">MIN",
        ">25 %",
        ">MEDIAN",
        ">75 %",
        ">MAX",
        ">MEAN",
        ">STD",
        "HISTOGRAM",
    ];
    let mut table = Table::new(&header);
    let splits = &dataset.manifest.splits;
    for split in splits {
        for statistics in &split.statistics {
            let spec = dataset.manifest.schema.iter().find(|spec| spec.name == statistics.name);
            table.row(statistics_row(&split.name, spec, statistics));
        }
    }
    output.line("")?;
    output.table(&table)?;
    for split in splits {
        for statistics in &split.statistics {
            if let Some(values) = &statistics.values {
                let counts =
                    values.iter().map(|value| format!("{}: {}", value.value, thousands(value.count)));
                let counts = counts.collect::<Vec<_>>().join("  ");
                output.line("")?;
                output.line(&format!("{} {}  {counts}", split.name, printable(&statistics.name)))?;
            }
        }
    }
    Ok(())
}

fn statistics_row(split: &str, spec: Option<&ColumnSpec>, statistics: &ColumnStatistics) -> Vec<String> {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number_text);
    let moments = statistics.moments.as_ref();
    let integers = statistics.integers.as_ref();
    // What floats cannot hold is told as it is.
    let exact =
        |integer: Option<i128>, value| integer.map_or_else(|| number(value), |value| value.to_string());
    let quantiles = statistics.quantiles.as_ref();
    let bars = statistics.histogram.as_ref().map(|histogram| {
        let counts: Vec<f64> = histogram.counts.iter().map(|count| *count as f64).collect();
        sparkline(&counts)
    });
    vec![
        split.to_owned(),
        printable(&statistics.name),
        spec.map(type_text).unwrap_or_default(),
        thousands(statistics.count),
        thousands(statistics.missing),
        match statistics.distinct {
            Distinct::Exactly(count) => thousands(count),
            Distinct::MoreThan(count) => format!("> {}", thousands(count)),
        },
        exact(integers.map(|integers| integers.min), moments.map(|moments| moments.min)),
        number(quantiles.map(|quantiles| quantiles.p25)),
        number(quantiles.map(|quantiles| quantiles.p50)),
        number(quantiles.map(|quantiles| quantiles.p75)),
        exact(integers.map(|integers| integers.max), moments.map(|moments| moments.max)),
        number(moments.map(|moments| moments.mean)),
        number(moments.map(|moments| moments.std)),
        bars.unwrap_or_default(),
    ]
}

fn type_text(spec: &ColumnSpec) -> String {
    let sizes: String = spec.shape.iter().map(|size| format!(" × {size}")).collect();
    format!("{}{sizes}", spec.dtype)
}

fn file_text(file: &FileEntry) -> String {
    let split = if file.split.is_empty() { String::new() } else { format!("{}, ", file.split) };
    format!("{} ({split}{})", printable(&file.path), bytes_text(file.size))
}

pub(super) fn diff(before: &ResolvedDataset, after: &ResolvedDataset, output: &Output) -> anyhow::Result<()> {
    let found = data::diff(&before.manifest, &after.manifest);
    if output.is_json() {
        return output.value(&found);
    }
    for change in &found.files {
        output.line(&change_text(change))?;
    }
    for (mark, columns) in [('-', &found.columns_removed), ('+', &found.columns_added)] {
        for column in columns {
            output.line(&format!("{mark} column {} {}", printable(&column.name), type_text(column)))?;
        }
    }
    for rows in &found.rows {
        let (before, after) = (thousands(rows.before), thousands(rows.after));
        output.line(&format!("~ split {}: {before} rows, then {after}", rows.split))?;
    }
    let count = |of: fn(&FileChange) -> bool| found.files.iter().filter(|change| of(change)).count();
    let added = count(|change| change.before.is_none());
    let removed = count(|change| change.after.is_none());
    let changed = found.files.len() - added - removed;
    Ok(output.line(&format!("{added} files added, {removed} removed, {changed} changed"))?)
}

fn change_text(change: &FileChange) -> String {
    let path = printable(&change.path);
    match (&change.before, &change.after) {
        (None, Some(after)) => format!("+ {path} ({})", bytes_text(after.size)),
        (Some(before), None) => format!("- {path} ({})", bytes_text(before.size)),
        (Some(before), Some(after)) => {
            format!("~ {path} ({}, then {})", bytes_text(before.size), bytes_text(after.size))
        }
        (None, None) => path,
    }
}
