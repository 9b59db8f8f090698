//! Datasets, readers of their formats, batches as JSON and safetensors, monitoring windows.
mod error;
mod source;
mod safetensors;
mod window;
pub mod statistics;
pub mod idx;
pub mod json;
pub use error::DataError;
pub use window::{WindowWriter, read_window};
pub use safetensors::{encode_safetensors, decode_safetensors};
