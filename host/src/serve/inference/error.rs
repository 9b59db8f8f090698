use crate::data::JsonError;
use crate::domain::{BatchError, SchemaError, TensorError};

/// A request that cannot be answered, or an answer that cannot be written as asked. All but
/// [`InferenceError::Output`] are the caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InferenceError {
    /// The JSON is none, or a value in it is not what it should be; also an element that is wrong as bytes.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A column is missing, unknown, or of another type or shape.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// Columns do not fit together, or bytes not to their shape.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The head of the HTTP request says something else than a number of bytes.
    #[error("`Inference-Header-Content-Length` is `{found}`: expected a number of bytes")]
    HeaderLengthText {
        /// What it says.
        found: String,
    },
    /// The JSON should end beyond the body.
    #[error("`Inference-Header-Content-Length` is {found}: expected at most {body}, the bytes of the body")]
    HeaderLength {
        /// Where the JSON should end.
        found: usize,
        /// How long the body is.
        body: usize,
    },
    /// No rows.
    #[error("expected at least one row, found none")]
    NoRows,
    /// More rows than a request may have.
    #[error("expected at most {limit} rows, found {found}")]
    TooManyRows {
        /// The limit.
        limit: usize,
        /// How many there are.
        found: usize,
    },
    /// The elements are nowhere, or in two places.
    #[error(
        "column `{name}`: expected its elements in `data` or as `binary_data_size` bytes, found {}",
        if *both { "both" } else { "neither" }
    )]
    Elements {
        /// The column.
        name: String,
        /// Whether there are two places.
        both: bool,
    },
    /// The body ends before the bytes of a column do.
    #[error(
        "column `{name}`: `binary_data_size` is {expected}, and {found} bytes are left behind the JSON, whose end \
         `Inference-Header-Content-Length` tells"
    )]
    ShortBody {
        /// The column.
        name: String,
        /// What it should have.
        expected: usize,
        /// What there is.
        found: usize,
    },
    /// A body without JSON, for more or fewer inputs than the one that it could be.
    #[error(
        "`Inference-Header-Content-Length` is 0, so that the body would be the bytes of the only input: expected JSON \
         that names them, as there are {found}"
    )]
    RawInputs {
        /// How many inputs there are.
        found: usize,
    },
    /// The body goes on after the bytes of the last column.
    #[error("expected the body to end with the bytes of the last input, found {found} more")]
    LongBody {
        /// How many more.
        found: usize,
    },
    /// There is no such output.
    #[error("output `{name}` is unknown: expected {}", list(expected))]
    UnknownOutput {
        /// What was asked for.
        name: String,
        /// Some of those there are.
        expected: Vec<String>,
    },
    /// An output can be asked for once.
    #[error("output `{name}` is asked for twice")]
    RepeatedOutput {
        /// The output.
        name: String,
    },
    /// More outputs than any model has.
    #[error("expected at most {limit} outputs, found more")]
    TooManyOutputs {
        /// The limit.
        limit: usize,
    },
    /// An output whose largest elements cannot be told.
    #[error("output `{name}` is {found}, which has no classes: expected a type of numbers")]
    NoClasses {
        /// The output.
        name: String,
        /// Its type.
        found: crate::domain::DataType,
    },
    /// An output that is no text was asked for as JSON.
    #[error("output `{name}` holds bytes that are no UTF-8, which JSON needs: ask for it with `binary_data`")]
    NoText {
        /// The output.
        name: String,
    },
    /// Something is asked of the repository that it does not do.
    #[error("{what} is not supported: expected {expected}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What can be.
        expected: &'static str,
    },
    /// An output cannot be made, which is our fault.
    #[error("the answer cannot be written")]
    Output(#[source] TensorError),
}

impl InferenceError {
    /// The row, counted from 0, where it is known.
    pub fn row(&self) -> Option<usize> {
        match self {
            Self::Json(error) => error.row(),
            _ => None,
        }
    }

    /// The column of the input, where it is known.
    pub fn column(&self) -> Option<&str> {
        match self {
            Self::Json(error) => error.column(),
            Self::Schema(
                SchemaError::Missing { name }
                | SchemaError::Unknown { name, .. }
                | SchemaError::DataType { name, .. }
                | SchemaError::Shape { name, .. },
            )
            | Self::Elements { name, .. }
            | Self::ShortBody { name, .. }
            | Self::Batch(
                BatchError::DuplicateColumn { name }
                | BatchError::RowCount { name, .. }
                | BatchError::Append { name }
                | BatchError::Tensor(
                    TensorError::NoDimensions { name }
                    | TensorError::TooManyDimensions { name, .. }
                    | TensorError::TooManyLists { name, .. }
                    | TensorError::TooLarge { name, .. }
                    | TensorError::DataLength { name, .. }
                    | TensorError::ByteStrings { name, .. }
                    | TensorError::TruthValue { name, .. },
                ),
            ) => Some(name),
            _ => None,
        }
    }

    /// Something in the JSON is wrong, or that it is none.
    pub(super) fn json(message: impl Into<String>) -> Self {
        Self::Json(JsonError::new(message))
    }

    /// The error with the column it is in, if it names no place yet.
    pub(super) fn in_column(self, column: &str) -> Self {
        match self {
            Self::Json(error) if error.column().is_none() => {
                Self::element(error.to_string(), error.row(), column)
            }
            other => other,
        }
    }

    /// The error with what it is in, if it names no place yet.
    pub(super) fn inside(self, place: &str) -> Self {
        match self {
            Self::Json(error) if error.column().is_none() => Self::json(format!("{place}: {error}")),
            other => other,
        }
    }

    /// An element that is wrong, whatever form it has.
    pub(super) fn element(message: impl Into<String>, row: Option<usize>, column: &str) -> Self {
        Self::Json(JsonError::in_column(message, row, column))
    }
}

impl From<TensorError> for InferenceError {
    fn from(error: TensorError) -> Self {
        Self::Batch(error.into())
    }
}

/// A body that cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum CompressionError {
    /// Another format, or one on top of another.
    #[error("`Content-Encoding` is `{found}`: expected `gzip`, `deflate`, `zstd` or `identity`")]
    Encoding {
        /// What it says.
        found: String,
    },
    /// The packed bytes are damaged or cut off.
    #[error("the body is not {encoding}")]
    Damaged {
        /// What it should be.
        encoding: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Something follows.
    #[error("expected the body to end with the {encoding} data, found {found} more bytes")]
    Trailing {
        /// What should end it.
        encoding: &'static str,
        /// How much follows.
        found: usize,
    },
    /// The unpacked bytes are too many.
    #[error("the unpacked body is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Up to ten names, for a sentence that says what could have been asked for.
pub(super) fn some_names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.take(10).map(str::to_owned).collect()
}

/// A name from outside, cut to what people read.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(80).collect()
}
