use std::path::PathBuf;

use clap::Subcommand;

use serde_json::json;

use super::output::{Output, Table, bytes_text, number_text, thousands};
use super::state::{StateArguments, now};
use crate::data::{self, ColumnStatistics, Distinct, ResolvedDataset, SplitEntry};
use crate::domain::{ColumnSpec, Name};

#[derive(Debug, Subcommand)]
pub(super) enum DataCommand {
    /// Add files as a new version of a dataset.
    ///
    /// IDX (as MNIST has them), CSV and Parquet files are read. Files named `train*` and `test*` or `t10k*` become the
    /// splits `train` and `test`; other files belong to `train`.
    Add {
        /// The dataset.
        name: Name,
        /// Files and folders.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// List the datasets.
    List,
    /// Show a version's schema, rows and statistics.
    Show {
        /// The dataset: a name, `name@version` or `name@sha256:…`.
        dataset: String,
    },
}

pub(super) fn run(command: DataCommand, state: &StateArguments, output: &Output) -> anyhow::Result<()> {
    let store = state.open_store()?;
    match command {
        DataCommand::Add { name, paths } => {
            let added = data::add_dataset(&store, &name, &paths, now())?;
            for note in &added.notes {
                output.note(note);
            }
            let dataset = &added.dataset;
            if output.is_json() {
                return output.value(&json!({
                    "name": dataset.name,
                    "version": dataset.version.number,
                    "digest": dataset.version.digest,
                    "unchanged": added.unchanged,
                    "rows": rows(dataset),
                }));
            }
            let verb = if added.unchanged { "unchanged" } else { "added" };
            Ok(output.line(&format!(
                "{verb} {name}@{} ({}): {}",
                dataset.version.number,
                dataset.version.digest.short(),
                rows_text(dataset),
            ))?)
        }
        DataCommand::List => {
            let datasets = data::list_datasets(&store)?;
            if output.is_json() {
                let list = datasets
                    .iter()
                    .map(|(name, record)| json!({ "name": name, "versions": record.versions }));
                return output.value(&list.collect::<Vec<_>>());
            }
            let mut table = Table::new(&["DATASET", ">VERSION", "ROWS", ">FILES", ">SIZE", "DIGEST"]);
            for (name, record) in &datasets {
                for version in record.versions.iter().rev() {
                    let dataset = data::resolve_dataset(&store, &format!("{name}@{}", version.number))?;
                    table.row(vec![
                        name.to_string(),
                        version.number.to_string(),
                        rows_text(&dataset),
                        dataset.manifest.files.len().to_string(),
                        bytes_text(dataset.manifest.files.iter().map(|file| file.size).sum()),
                        version.digest.short(),
                    ]);
                }
            }
            Ok(output.table(&table)?)
        }
        DataCommand::Show { dataset } => show(&data::resolve_dataset(&store, &dataset)?, output),
    }
}

fn rows(dataset: &ResolvedDataset) -> serde_json::Value {
    let rows = dataset.manifest.splits.iter().map(|split| (split.name.clone(), json!(split.rows)));
    serde_json::Value::Object(rows.collect())
}

fn rows_text(dataset: &ResolvedDataset) -> String {
    let text = |split: &SplitEntry| format!("{} {}", thousands(split.rows), split.name);
    dataset.manifest.splits.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn show(dataset: &ResolvedDataset, output: &Output) -> anyhow::Result<()> {
    let manifest = &dataset.manifest;
    if output.is_json() {
        return output.value(&json!({
            "name": dataset.name,
            "version": dataset.version.number,
            "digest": dataset.version.digest,
            "added_at": dataset.version.added_at,
            "rows": rows(dataset),
            "schema": manifest.schema,
            "splits": manifest.splits,
            "files": manifest.files,
        }));
    }
    output.field("dataset", format!("{}@{}", dataset.name, dataset.version.number))?;
    output.field("digest", dataset.version.digest)?;
    output.field("rows", rows_text(dataset))?;
    for file in &manifest.files {
        output.field("file", format!("{} ({}, {})", file.path, file.split, bytes_text(file.size)))?;
    }
    let header =
        ["SPLIT", "COLUMN", "TYPE", ">COUNT", ">MISSING", ">DISTINCT", ">MIN", ">MAX", ">MEAN", ">STD"];
    let mut table = Table::new(&header);
    for split in &manifest.splits {
        for statistics in &split.statistics {
            let spec = manifest.schema.iter().find(|spec| spec.name == statistics.name);
            table.row(statistics_row(&split.name, spec, statistics));
        }
    }
    output.line("")?;
    output.table(&table)?;
    for split in &manifest.splits {
        for statistics in &split.statistics {
            if let Some(values) = &statistics.histogram {
                let counts =
                    values.iter().map(|value| format!("{}: {}", value.value, thousands(value.count)));
                let counts = counts.collect::<Vec<_>>().join("  ");
                output.line("")?;
                output.line(&format!("{} {}  {counts}", split.name, statistics.name))?;
            }
        }
    }
    Ok(())
}

fn statistics_row(split: &str, spec: Option<&ColumnSpec>, statistics: &ColumnStatistics) -> Vec<String> {
    let kind = spec.map(|spec| {
        let sizes: String = spec.shape.iter().map(|size| format!(" × {size}")).collect();
        format!("{}{sizes}", spec.dtype)
    });
    let moment = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number_text);
    let moments = statistics.moments.as_ref();
    vec![
        split.to_owned(),
        statistics.name.clone(),
        kind.unwrap_or_default(),
        thousands(statistics.count),
        thousands(statistics.missing),
        match statistics.distinct {
            Distinct::Exactly(count) => thousands(count),
            Distinct::MoreThan(count) => format!("> {}", thousands(count)),
        },
        moment(moments.map(|moments| moments.min)),
        moment(moments.map(|moments| moments.max)),
        moment(moments.map(|moments| moments.mean)),
        moment(moments.map(|moments| moments.std)),
    ]
}
