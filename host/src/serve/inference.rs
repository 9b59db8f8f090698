//! The Open Inference Protocol v2 as bytes: requests and answers of its REST form with the binary extension, and the
//! documents about servers and models.
//!
//! A request is a JSON object, its *header*, and after it the bytes of the tensors that are not in the JSON. The header
//! is walked once; the elements of a tensor go straight into its buffer, from JSON as from bytes. What is asked for beyond
//! the signature, and any bytes beyond what was announced, are refused: [`decode_request`] makes a batch that the
//! predictor takes, or says in one sentence which column and row is wrong. [`encode_response`] is the way back.
//!
//! `input` and `output` know tensors and not how they are written, so that the protocol's other form can use them. Refuses
//! to know HTTP, endpoints and the clock.

mod classification;
mod compression;
mod document;
mod error;
mod input;
mod output;
mod request;
mod response;
mod statistics;

pub use compression::ContentEncoding;
pub use document::{
    EXTENSIONS, ModelConfig, ModelIndexEntry, ModelMetadata, ModelState, ServerMetadata, TensorConfig,
    TensorMetadata, decode_index_request, decode_load_request,
};
pub use error::{CompressionError, InferenceError};
pub use input::{BASE64, check_head, find_column, from_base64, tensor_of_bytes};
pub use output::{OutputForm, OutputSelection, RequestedOutput, SelectedOutput};
pub use request::{HEADER_LENGTH, InferenceRequest, decode_request, parse_header_length};
pub use response::{EncodedResponse, ResponseHead, encode_response};
pub use statistics::{BatchSums, DurationSum, Durations, InferenceSums, ModelStatistics, StatisticsRecord};
