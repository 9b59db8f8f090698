//! Datasets, readers of their formats, batches as JSON and safetensors, monitoring windows.
//!
//! Owns what files and texts from outside mean as batches, and refuses them in one sentence that names the place. Every
//! reader streams: it holds one batch, whatever a header promises or a packed file unpacks to. Refuses to know what the
//! rows are for. Blobs and records are the store's; the tensors in them are this module's.
//!
//! `dataset` stands on the readers `idx`, `csv` and `parquet` and on `statistics`; `window` on `safetensors`; `json` on
//! none of them.

mod csv;
mod dataset;
mod error;
mod idx;
mod json;
mod parquet;
mod safetensors;
mod source;
mod statistics;
mod window;

pub use dataset::{
    AddedDataset, BATCH_ROWS, DatasetManifest, DatasetRecord, DatasetVersion, FileEntry, FileFormat,
    ResolvedDataset, SplitEntry, SplitReader, add_dataset, list_datasets, open_split, resolve_dataset,
};
pub use error::DataError;
pub use json::{JsonError, RowForm, decode_rows, decode_untyped, encode_rows, encode_tensors};
pub use safetensors::{decode_safetensors, encode_safetensors};
pub use statistics::{ColumnStatistics, Distinct, LengthRange, Moments, ValueCount};
pub use window::{Window, WindowWriter, read_window};
