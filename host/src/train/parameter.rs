//! Values that a user gives by name, as text.

use std::str::FromStr;

use super::TrainError;
use crate::domain::closest;

/// A name that no parameter has.
pub(super) fn unknown(name: &str, known: impl IntoIterator<Item = &'static str>) -> TrainError {
    TrainError::UnknownParameter { name: name.to_owned(), suggestion: closest(name, known) }
}

/// A value that cannot be.
pub(super) fn refuse(name: &str, value: &str, expected: String) -> TrainError {
    TrainError::ParameterValue { name: name.to_owned(), value: value.to_owned(), expected }
}

/// Reads a value; `expected` says in an error what would be taken.
pub(super) fn parsed<T: FromStr>(name: &str, value: &str, expected: &str) -> Result<T, TrainError> {
    value.trim().parse().map_err(|_| refuse(name, value, expected.to_owned()))
}
