//! Tables: how many columns they may have, and those whose columns are the elements of the model's only one.

use super::super::JsonError;
use super::super::scan::Scanner;
use crate::domain::{Batch, ColumnSpec, Tensor};

/// Elements of the only column up to which a table is taken for it. Names are looked for one by one.
const SPREAD_MAX: usize = 256;

/// Names that a body may give to columns, beside those of the model.
pub(super) const OTHER_NAMES_MAX: usize = 16 * 1024;

/// How many names a body may give to columns: they are kept, and a packed body says millions in a few bytes.
pub(super) fn names_max(specs: &[ColumnSpec]) -> usize {
    let elements = specs.iter().map(ColumnSpec::row_elements).fold(0, usize::saturating_add);
    elements.saturating_add(OTHER_NAMES_MAX)
}

pub(super) fn too_many_names(names_max: usize) -> JsonError {
    JsonError::new(format!("expected at most {names_max} columns, found more"))
}

/// Refuses CSV with a line of more cells than there may be names, without keeping them.
pub(super) fn check_cells(text: &[u8], names_max: usize) -> Result<(), JsonError> {
    // Only what has so many commas can have such a line, and hardly any has.
    if text.iter().filter(|byte| **byte == b',').count() < names_max {
        return Ok(());
    }
    let (mut reader, mut rest, mut cells) = (csv_core::Reader::new(), text, 0);
    let mut skipped = [0; 1024];
    loop {
        let (read, taken, _) = reader.read_field(rest, &mut skipped);
        rest = rest.get(taken..).unwrap_or_default();
        match read {
            csv_core::ReadFieldResult::Field { record_end } => {
                cells = if record_end { 0 } else { cells + 1 };
                if cells >= names_max {
                    return Err(too_many_names(names_max));
                }
            }
            csv_core::ReadFieldResult::End => return Ok(()),
            csv_core::ReadFieldResult::InputEmpty | csv_core::ReadFieldResult::OutputFull => {}
        }
    }
}

/// The columns of one element that the only column is written as, by these names: a model that was imported without a signature has
/// one column of all features, and those who ask it have a table. None where the column is there by its name, or they are more or fewer.
pub(super) fn spread(specs: &[ColumnSpec], names: &[String]) -> Option<Vec<ColumnSpec>> {
    let [only] = specs else { return None };
    let is_table = only.row_elements() <= SPREAD_MAX;
    let is_spread = is_table
        && only.dtype.size().is_some()
        && only.row_elements() > 1
        && only.row_elements() == names.len();
    if !is_spread || names.contains(&only.name) {
        return None;
    }
    let one = |name: &String| ColumnSpec { name: name.clone(), shape: Vec::new(), ..only.clone() };
    Some(names.iter().map(one).collect())
}

/// The same of a table without names, if its first row is one of elements.
pub(super) fn numbered(specs: &[ColumnSpec], data: &mut Scanner<'_>) -> Option<Vec<ColumnSpec>> {
    let [only] = specs else { return None };
    if !(data.take(b'[') && data.take(b'[')) || data.peek() == Some(b'[') {
        return None;
    }
    let names: Vec<_> = (0..only.row_elements()).map(|index| format!("{}[{index}]", only.name)).collect();
    spread(specs, &names)
}

/// The batch of the only column whose elements are columns of their own in `batch`, if it was spread.
pub(super) fn together(batch: Batch, specs: &[ColumnSpec], is_spread: bool) -> Result<Batch, JsonError> {
    let (true, [only]) = (is_spread, specs) else { return Ok(batch) };
    let size = only.dtype.size().unwrap_or(1);
    let mut data = Vec::with_capacity(batch.byte_len());
    for row in 0..batch.rows() {
        for column in batch.tensors() {
            data.extend_from_slice(column.data().get(row * size..(row + 1) * size).unwrap_or_default());
        }
    }
    let shape = [batch.rows()].into_iter().chain(only.shape.iter().copied()).collect();
    let tensor = Tensor::new(only.name.clone(), only.dtype, shape, data);
    let tensor = tensor.map_err(|error| JsonError::new(error.to_string()))?;
    Batch::new(vec![tensor]).map_err(|error| JsonError::new(error.to_string()))
}
