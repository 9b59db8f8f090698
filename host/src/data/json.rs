//! Batches as JSON: rows as objects, for people, and tensors as the Open Inference Protocol v2 writes them.
//!
//! [`decode_rows`] is on the path of every request. It writes each number straight into the tensor that the schema
//! promises, which serde's generic data model cannot do at this speed; everything off that path is left to serde_json.
//! A protocol with a form of its own around the elements reads it with [`Scanner`] and leaves these to [`take_rows`].

mod elements;
mod length;
mod number;
mod rows;
mod scan;
mod scoring;
mod untyped;
mod write;

pub(crate) use elements::take_rows;
pub(crate) use length::elements_len_max;
pub use length::rows_len_max;
pub use rows::decode_rows;
pub(crate) use scan::Scanner;
pub use scoring::{can_be_csv, decode_scoring, decode_scoring_csv};
pub use untyped::decode_untyped;
pub use write::{encode_predictions, encode_rows, encode_rows_of_any_bytes, encode_tensors};
pub(crate) use write::{write_elements, write_string};

/// Whether rows are written as one object or as a list of objects. An answer has the form of its question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowForm {
    /// One row: `{…}`.
    Object,
    /// Any number of rows: `[{…}, …]`.
    List,
}

/// What becomes of columns that are not among those that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownColumns {
    /// They are an error, so that a mistyped name is told.
    Refused,
    /// They are left out, as MLflow does it.
    Ignored,
}

/// JSON that is not the batch it should be, or a batch that JSON cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", place(*row, column.as_deref()))]
pub struct JsonError {
    message: String,
    row: Option<usize>,
    column: Option<String>,
}

impl JsonError {
    /// The row, counted from 0, where it is known.
    pub fn row(&self) -> Option<usize> {
        self.row
    }

    /// The column, where it is known.
    pub fn column(&self) -> Option<&str> {
        self.column.as_deref()
    }

    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), row: None, column: None }
    }

    fn in_row(message: impl Into<String>, row: usize) -> Self {
        Self { message: message.into(), row: Some(row), column: None }
    }

    pub(crate) fn in_column(message: impl Into<String>, row: Option<usize>, column: &str) -> Self {
        Self { message: message.into(), row, column: Some(column.to_owned()) }
    }
}

fn place(row: Option<usize>, column: Option<&str>) -> String {
    match (row, column) {
        (Some(row), Some(column)) => format!("row {row}, column `{column}`: "),
        (Some(row), None) => format!("row {row}: "),
        (None, Some(column)) => format!("column `{column}`: "),
        (None, None) => String::new(),
    }
}
