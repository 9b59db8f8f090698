use axum::http::StatusCode;

use super::super::{ApiError, ErrorCode};
use crate::domain::DataType;

/// A call that cannot be answered, for reasons that only this form of the protocol has. All are the caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum GrpcError {
    /// The bytes are no protobuf, or not of the message that the method takes.
    #[error("the message is not the protobuf expected")]
    Malformed,
    /// The stream of messages breaks off, or does not begin as one.
    #[error("expected a message of gRPC: {found}")]
    Frame {
        /// What there is instead.
        found: &'static str,
    },
    /// A method that takes one message got more or none.
    #[error("expected one message, found {found}")]
    MessageCount {
        /// How many.
        found: &'static str,
    },
    /// So many fields say nothing more.
    #[error("expected at most {limit} fields in a request, found more")]
    TooManyFields {
        /// The limit.
        limit: usize,
    },
    /// What the answer repeats is too long.
    #[error("`id`: expected at most {limit} bytes, found {found}")]
    IdLength {
        /// The limit.
        limit: usize,
        /// How long it is.
        found: usize,
    },
    /// A size that no tensor has.
    #[error("column `{name}`: dimension {dimension}: expected a size, found {found}")]
    Dimension {
        /// The column.
        name: String,
        /// Which dimension.
        dimension: usize,
        /// The size.
        found: i64,
    },
    /// More dimensions than any column has.
    #[error("column `{name}`: expected at most {limit} dimensions, found more")]
    TooManyDimensions {
        /// The column.
        name: String,
        /// The limit.
        limit: usize,
    },
    /// The elements are nowhere, or in two places.
    #[error(
        "column `{name}`: expected its elements in `contents` or `raw_input_contents`, found {}",
        if *both { "both" } else { "neither" }
    )]
    Elements {
        /// The column.
        name: String,
        /// Whether there are two places.
        both: bool,
    },
    /// Raw contents are those of every input.
    #[error("expected as many `raw_input_contents` as there are inputs, which is {expected}, found {found}")]
    RawCount {
        /// How many inputs there are.
        expected: usize,
        /// How many contents.
        found: usize,
    },
    /// The type has no list of its own.
    #[error(
        "column `{name}` is {dtype}: expected its elements in `raw_input_contents`, found them in `contents`"
    )]
    OnlyRaw {
        /// The column.
        name: String,
        /// Its type.
        dtype: DataType,
    },
    /// Elements in the list of another type.
    #[error("column `{name}` is {dtype}: expected its elements in `{expected}`, found some in another list")]
    OtherList {
        /// The column.
        name: String,
        /// Its type.
        dtype: DataType,
        /// The list of that type.
        expected: &'static str,
    },
    /// Elements are missing, or there are too many.
    #[error("column `{name}`: expected {expected} elements, found {found}")]
    ElementCount {
        /// The column.
        name: String,
        /// As its shape says.
        expected: usize,
        /// How many there are; more are not counted on.
        found: usize,
    },
    /// A number that the column's type does not have.
    #[error("row {row}, column `{name}`: expected {dtype}, found {found}")]
    Range {
        /// The row.
        row: usize,
        /// The column.
        name: String,
        /// Its type.
        dtype: DataType,
        /// The number.
        found: i64,
    },
    /// A parameter is not what it should be.
    #[error("output `{name}`: `classification`: expected a number of classes, found another value")]
    Classes {
        /// The output.
        name: String,
    },
    /// A time that is none.
    #[error("`timeout`: expected a whole number of microseconds from 0 on, found another value")]
    TimeoutParameter,
    /// Memory that a caller shares is another's, and only on this machine.
    #[error("`shared_memory_region` is not supported: expected the elements themselves")]
    SharedMemory,
    /// The head that says how messages are packed.
    #[error("`grpc-encoding` is `{found}`: expected `gzip`, `deflate` or `identity`")]
    Encoding {
        /// What it says.
        found: String,
    },
    /// The head that says how long the caller waits.
    #[error(
        "`grpc-timeout` is `{found}`: expected up to eight digits and one of `H`, `M`, `S`, `m`, `u`, `n`"
    )]
    Timeout {
        /// What it says.
        found: String,
    },
}

impl From<GrpcError> for ApiError {
    fn from(error: GrpcError) -> Self {
        let message = error.to_string();
        match error {
            GrpcError::Encoding { .. } => unimplemented(message),
            _ => Self::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidInput, message),
        }
    }
}

/// The error for what this server does not do.
pub(super) fn unimplemented(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::NOT_IMPLEMENTED, ErrorCode::Unsupported, message)
}

/// A name from outside, cut to what people read.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(80).collect()
}
