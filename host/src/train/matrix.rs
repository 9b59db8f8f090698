//! Rows with labels: streamed from a dataset version, collected for a trainer.

use crate::data::{self, ResolvedDataset};
use crate::domain::{Batch, ColumnSpec, DataType, Tensor, mix};
use crate::store::Store;

use super::{Matrix, TrainError};

/// Of a dataset without a test split, one of so many rows is held out for testing.
const HELD_OUT_ONE_OF: u64 = 5;

/// Whether a row is held out: always the same rows, but in no step with whatever order the file has.
fn is_held_out(row: u64) -> bool {
    mix(row).is_multiple_of(HELD_OUT_ONE_OF)
}

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

    /// The split of a name.
    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Train, Self::Test].into_iter().find(|split| split.as_str() == name)
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
        let held_out = match self.has_test_split {
            true => 0,
            false => (0..available).filter(|row| is_held_out(*row)).count() as u64,
        };
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
                // Before rows are held out, so that an error names the row as the file counts it.
                self.check_label(&batch, first)?;
                let batch = if self.has_test_split { batch } else { hold_out(&batch, first, split)? };
                let batch = match batch.rows() > left {
                    true => batch.slice_rows(0..left).unwrap_or_default(),
                    false => batch,
                };
                left -= batch.rows();
                self.split_label(batch)
            });
            Some(selected)
        }))
    }

    fn check_label(&self, batch: &Batch, first_row: usize) -> Result<(), TrainError> {
        let column = batch.column(self.label);
        let values = column.filter(|column| column.row_elements() == 1).and_then(Tensor::to_f64);
        let Some(values) = values else {
            let found = match column {
                Some(column) if column.dtype() == DataType::Bytes => "text".to_owned(),
                Some(column) => format!("{} of {:?}", column.dtype(), column.row_shape()),
                None => "no such column".to_owned(),
            };
            return Err(TrainError::LabelType { label: self.label.to_owned(), found });
        };
        match values.iter().position(|value| !value.is_finite()) {
            Some(row) => Err(TrainError::LabelMissing { label: self.label.to_owned(), row: first_row + row }),
            None => Ok(()),
        }
    }

    /// Takes the checked label column out of the batch.
    fn split_label(&self, mut batch: Batch) -> Result<(Batch, Vec<f32>), TrainError> {
        let values = batch.take_column(self.label).and_then(|column| column.to_f64()).unwrap_or_default();
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
        let is_test = is_held_out((first_row + row) as u64);
        if is_test == (split == Split::Test)
            && let Some(row) = batch.slice_rows(row..row + 1)
        {
            selected.append(&row)?;
        }
    }
    Ok(selected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_one_row_in_five_is_held_out_in_step_with_no_period() {
        let held_out: Vec<u64> = (0..10_000).filter(|row| is_held_out(*row)).collect();
        assert!((1_850..2_150).contains(&held_out.len()), "{}", held_out.len());
        for period in [2, 3, 5, 7, 10] {
            for phase in 0..period {
                let of_phase = held_out.iter().filter(|row| *row % period == phase).count() as f64;
                let share = of_phase * period as f64 / held_out.len() as f64;
                assert!((0.8..1.2).contains(&share), "{phase} of {period}: {share}");
            }
        }
    }
}
