use std::collections::BTreeMap;

use serde::Serialize;

use super::manifest::{DatasetManifest, FileEntry};
use crate::domain::ColumnSpec;

/// How one version differs from another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DatasetDiff {
    /// Files that are new, gone or other than before, by name.
    pub files: Vec<FileChange>,
    /// Columns that were not there or were of another type.
    pub columns_added: Vec<ColumnSpec>,
    /// Columns that are not there or are of another type.
    pub columns_removed: Vec<ColumnSpec>,
    /// Splits whose rows differ in number, by name.
    pub rows: Vec<RowsChange>,
}

/// A file that differs: new without `before`, gone without `after`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// Its name.
    pub path: String,
    /// What it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<FileEntry>,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<FileEntry>,
}

/// A split whose rows differ in number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowsChange {
    /// The split.
    pub split: String,
    /// Rows before.
    pub before: u64,
    /// Rows after.
    pub after: u64,
}

/// How `after` differs from `before`.
pub fn diff(before: &DatasetManifest, after: &DatasetManifest) -> DatasetDiff {
    let mut files: BTreeMap<&str, (Option<&FileEntry>, Option<&FileEntry>)> = BTreeMap::new();
    for file in &before.files {
        files.entry(&file.path).or_default().0 = Some(file);
    }
    for file in &after.files {
        files.entry(&file.path).or_default().1 = Some(file);
    }
    let changes = files.into_iter().filter(|(_, (before, after))| before != after);
    let changes = changes.map(|(path, (before, after))| FileChange {
        path: path.to_owned(),
        before: before.cloned(),
        after: after.cloned(),
    });
    let mut rows: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for split in &before.splits {
        rows.entry(&split.name).or_default().0 = split.rows;
    }
    for split in &after.splits {
        rows.entry(&split.name).or_default().1 = split.rows;
    }
    let rows = rows.into_iter().filter(|(_, (before, after))| before != after);
    DatasetDiff {
        files: changes.collect(),
        columns_added: missing_in(&after.schema, &before.schema),
        columns_removed: missing_in(&before.schema, &after.schema),
        rows: rows
            .map(|(split, (before, after))| RowsChange { split: split.to_owned(), before, after })
            .collect(),
    }
}

fn missing_in(columns: &[ColumnSpec], others: &[ColumnSpec]) -> Vec<ColumnSpec> {
    columns.iter().filter(|column| !others.contains(column)).cloned().collect()
}
