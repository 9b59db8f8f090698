//! Tables: how many columns they may have, and those whose columns are the elements of the model's only one.

use std::collections::HashSet;

use super::super::scan::Scanner;
use super::super::{JsonError, UnknownColumns};
use crate::domain::{Batch, ColumnSpec, Tensor};

/// Elements of the only column up to which a table is taken for it. Names are looked for one by one.
const SPREAD_MAX: usize = ColumnSpec::ELEMENT_NAMES_MAX;

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

/// Whether rows of these columns can be CSV.
pub fn can_be_csv(specs: &[ColumnSpec]) -> bool {
    specs.iter().all(|spec| spec.shape.is_empty()) || only_of_table(specs).is_some()
}

/// The columns of one element that the only column is written as, by these names, in the order of its elements: a model that was
/// imported without a signature has one column of all features, and those who ask it have a table. None where the column is there by its
/// name, or they are more or fewer. Where the elements have names, others than these are an error, unless others may be ignored and
/// none is missing.
pub(super) fn spread(
    specs: &[ColumnSpec],
    names: &[String],
    unknown: UnknownColumns,
) -> Result<Option<Vec<ColumnSpec>>, JsonError> {
    let Some(only) = only_of_table(specs) else { return Ok(None) };
    let elements = only.row_elements();
    // What the bundle of somebody else says need not be true.
    let known = if only.element_names.len() == elements { only.element_names.as_slice() } else { &[] };
    let is_named = !known.is_empty() && are_in(known, names);
    // One more name may be that of the column itself, which then has the rows.
    let may_be_more =
        unknown == UnknownColumns::Ignored && (known.contains(&only.name) || !names.contains(&only.name));
    let ordered: Vec<&String> = if is_named && (known.len() == names.len() || may_be_more) {
        known.iter().collect()
    } else if names.is_empty() || names.contains(&only.name) {
        return Ok(None);
    } else if !known.is_empty() {
        let is_strange = !names.iter().any(|name| known.contains(name));
        by_place(names)
            .filter(|_| names.len() == elements && is_strange)
            .ok_or_else(|| other_names(known, names))?
    } else if names.len() == elements {
        names.iter().collect()
    } else {
        return Ok(None);
    };
    Ok(Some(ordered.into_iter().map(|name| one_of(only, name)).collect()))
}

/// The same of a table without names, if its first row is one of elements.
pub(super) fn numbered(specs: &[ColumnSpec], data: &mut Scanner<'_>) -> Option<Vec<ColumnSpec>> {
    let only = only_of_table(specs)?;
    if !(data.take(b'[') && data.take(b'[')) || data.peek() == Some(b'[') {
        return None;
    }
    let numbers = 0..only.row_elements();
    Some(numbers.map(|index| one_of(only, &format!("{}[{index}]", only.name))).collect())
}

/// The only column, if a table may be taken for it.
fn only_of_table(specs: &[ColumnSpec]) -> Option<&ColumnSpec> {
    let [only] = specs else { return None };
    let is_table = (2..=SPREAD_MAX).contains(&only.row_elements()) && only.dtype.size().is_some();
    is_table.then_some(only)
}

/// A column of one element of another's.
fn one_of(column: &ColumnSpec, name: &str) -> ColumnSpec {
    ColumnSpec {
        name: name.to_owned(),
        dtype: column.dtype,
        shape: Vec::new(),
        nullable: column.nullable,
        element_names: Vec::new(),
    }
}

/// Whether all that are known are among the names, in whatever order.
fn are_in(known: &[String], names: &[String]) -> bool {
    if known == names {
        return true;
    }
    let names: HashSet<&String> = names.iter().collect();
    known.iter().all(|name| names.contains(name))
}

/// The names in the order of the places that they mean: numbers from 0, as pandas calls columns that were given no names, or such
/// after an `f`, as XGBoost does.
fn by_place(names: &[String]) -> Option<Vec<&String>> {
    ["", "f"].into_iter().find_map(|prefix| {
        let mut placed = vec![None; names.len()];
        for name in names {
            let place: usize = name.strip_prefix(prefix)?.parse().ok()?;
            *placed.get_mut(place)? = Some(name);
        }
        placed.into_iter().collect()
    })
}

/// What is said of a table whose columns have other names than the elements.
fn other_names(known: &[String], names: &[String]) -> JsonError {
    let told = |what: &str, these: &[String], others: &[String]| {
        let others: HashSet<&String> = others.iter().collect();
        let strays: Vec<&String> = these.iter().filter(|name| !others.contains(name)).collect();
        let shown = |name: &&String| format!("`{}`", name.chars().take(80).collect::<String>());
        let list: Vec<String> = strays.iter().take(10).map(shown).collect();
        let more = if strays.len() > list.len() { ", …" } else { "" };
        (!list.is_empty()).then(|| format!("{what} {}{more}", list.join(", ")))
    };
    let parts = [told("missing", known, names), told("unknown", names, known)];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let parts = if parts.is_empty() { "some appear twice".to_owned() } else { parts.join("; ") };
    JsonError::new(format!("the columns are not the features that the model was trained with: {parts}"))
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
