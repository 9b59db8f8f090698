//! Rows with labels: streamed from a dataset version, collected for a trainer.

use crate::data::{self, ResolvedDataset};
use crate::domain::{Batch, ColumnSpec};
use crate::store::Store;

use super::{Matrix, TrainError};

/// Of a dataset without a test split, every so many-th row is held out for testing.
const HELD_OUT_EVERY: usize = 5;

/// What rows are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    /// To learn from.
    Train,
    /// To judge by.
    Test,
}

impl Split {
    /// Its name in datasets.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// Row-major features with a label each, as trainers take them.
#[derive(Debug, Default)]
pub struct LabelledMatrix {
    /// `rows × columns` values; NaN where missing.
    pub features: Vec<f32>,
    /// One a row: the class's number, or the value to predict.
    pub labels: Vec<f32>,
    /// Features in a row.
    pub columns: usize,
}

impl LabelledMatrix {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    /// The form that trainers take, checked.
    pub(super) fn as_matrix(&self) -> Result<Matrix<'_>, TrainError> {
        Matrix::new(&self.features, self.columns, &self.labels)
    }

    /// Features of a row; empty beyond the last.
    pub fn row(&self, row: usize) -> &[f32] {
        self.features.get(row * self.columns..(row + 1) * self.columns).unwrap_or_default()
    }

    pub(super) fn append(&mut self, columns: usize, features: &[f32], labels: &[f32]) {
        self.columns = columns;
        self.features.extend_from_slice(features);
        self.labels.extend_from_slice(labels);
    }
}

/// A dataset version seen as inputs and labels.
///
/// The label column is taken out before any transformer sees the rows, as a request will not have it either.
pub(super) struct Source<'a> {
    store: &'a Store,
    dataset: &'a ResolvedDataset,
    label: &'a str,
    inputs: Vec<ColumnSpec>,
    train_rows: Option<usize>,
    batch_rows: usize,
    has_test_split: bool,
}

impl<'a> Source<'a> {
    pub(super) fn open(
        store: &'a Store,
        dataset: &'a ResolvedDataset,
        label: &'a str,
        train_rows: Option<usize>,
        batch_rows: usize,
    ) -> Result<Self, TrainError> {
        let schema = &dataset.manifest.schema;
        if !schema.iter().any(|spec| spec.name == label) {
            let columns = schema.iter().map(|spec| format!("`{}`", spec.name)).collect::<Vec<_>>().join(", ");
            let dataset = dataset.name.clone();
            return Err(TrainError::NoLabel { label: label.to_owned(), dataset, columns });
        }
        let inputs = schema.iter().filter(|spec| spec.name != label).cloned().collect();
        let has_test_split = stored_rows(dataset, Split::Test) > 0;
        Ok(Self { store, dataset, label, inputs, train_rows, batch_rows, has_test_split })
    }

    /// The columns of a request.
    pub(super) fn inputs(&self) -> &[ColumnSpec] {
        &self.inputs
    }

    /// Rows that [`Self::batches`] will give.
    pub(super) fn rows(&self, split: Split) -> u64 {
        let available = stored_rows(self.dataset, Split::Train);
        let held_out = if self.has_test_split { 0 } else { available / HELD_OUT_EVERY as u64 };
        match split {
            Split::Train => {
                let rows = available - held_out;
                self.train_rows.map_or(rows, |wanted| rows.min(wanted as u64))
            }
            Split::Test if self.has_test_split => stored_rows(self.dataset, Split::Test),
            Split::Test => held_out,
        }
    }

    /// The rows of a split, in the order of the data, with their labels.
    pub(super) fn batches(
        &self,
        split: Split,
    ) -> Result<impl Iterator<Item = Result<(Batch, Vec<f32>), TrainError>> + '_, TrainError> {
        let stored = if self.has_test_split { split } else { Split::Train };
        let batches = data::open_split(self.store, &self.dataset.manifest, stored.as_str(), self.batch_rows)?;
        let mut row = 0;
        let mut left = usize::try_from(self.rows(split)).unwrap_or(usize::MAX);
        Ok(batches.map_while(move |batch| {
            if left == 0 {
                return None;
            }
            let selected = batch.map_err(TrainError::from).and_then(|batch| {
                let first = row;
                row += batch.rows();
                let batch = if self.has_test_split { batch } else { hold_out(&batch, first, split)? };
                let batch = match batch.rows() > left {
                    true => batch.slice_rows(0..left).unwrap_or_default(),
                    false => batch,
                };
                left -= batch.rows();
                self.split_label(batch, first)
            });
            Some(selected)
        }))
    }

    fn split_label(&self, mut batch: Batch, first_row: usize) -> Result<(Batch, Vec<f32>), TrainError> {
        let column = batch.take_column(self.label);
        let values =
            column.as_ref().filter(|column| column.row_elements() == 1).and_then(|column| column.to_f64());
        let Some(values) = values else {
            let dtype = column.map(|column| format!("{column:?}")).unwrap_or_default();
            return Err(TrainError::LabelType { label: self.label.to_owned(), found: dtype });
        };
        if let Some(row) = values.iter().position(|value| !value.is_finite()) {
            return Err(TrainError::LabelMissing { label: self.label.to_owned(), row: first_row + row });
        }
        Ok((batch, values.into_iter().map(|value| value as f32).collect()))
    }
}

fn stored_rows(dataset: &ResolvedDataset, split: Split) -> u64 {
    dataset
        .manifest
        .splits
        .iter()
        .find(|stored| stored.name == split.as_str())
        .map_or(0, |stored| stored.rows)
}

/// The rows of `batch` that belong to a split, where the dataset has no test split of its own.
fn hold_out(batch: &Batch, first_row: usize, split: Split) -> Result<Batch, TrainError> {
    let mut selected = batch.slice_rows(0..0).unwrap_or_default();
    for row in 0..batch.rows() {
        let is_test = (first_row + row) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1;
        if is_test == (split == Split::Test)
            && let Some(row) = batch.slice_rows(row..row + 1)
        {
            selected.append(&row)?;
        }
    }
    Ok(selected)
}
