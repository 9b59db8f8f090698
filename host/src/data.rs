//! Datasets, readers of their formats, batches as JSON and safetensors, monitoring windows and what was found of them,
//! recorded predictions.
//!
//! Owns what files and texts from outside mean as batches, and refuses them in one sentence that names the place. Every
//! reader streams: it holds one batch, whatever a header promises or a packed file unpacks to. Refuses to know what the
//! rows are for. Blobs and records are the store's; the tensors in them are this module's.
//!
//! `dataset` stands on the readers `idx`, `csv`, `parquet` and `safetensors`, on `statistics` and on `catalog`, which names versions; `window` on `safetensors`; `json` on
//! none of them.

mod alerts;
pub(crate) mod catalog;
mod csv;
mod dataset;
mod error;
mod fetch;
mod filter;
mod idx;
mod inferred;
pub(crate) mod json;
mod parquet;
mod prediction;
mod safetensors;
mod source;
mod statistics;
mod window;

pub use alerts::{ALERTS_MAX, Alert, Alerts, NewAlert};
pub use catalog::restore::DatasetRecord;
pub use catalog::{Catalog, DatasetVersion, ResolvedDataset};
pub use dataset::{
    AddProgress, AddWatcher, AddedDataset, AppliedTransformer, BATCH_ROWS, DatasetDiff, DatasetManifest,
    FileChange, FileEntry, FileFormat, FileProblem, GetReport, NewDataset, Recipe, Shard, ShardPlace,
    ShardWriter, ShardedSplit, ShardedVersion, SplitEntry, SplitReader, SplitRule, copy_files, diff,
    get_files, open_split, verify_files, verify_folder,
};
pub use error::DataError;
pub use filter::{Filter, FilterError};
pub use json::{
    JsonError, RowForm, UnknownColumns, can_be_csv, decode_rows, decode_scoring, decode_scoring_csv,
    decode_untyped, encode_predictions, encode_rows, encode_rows_of_any_bytes, encode_tensors, rows_len_max,
};
pub use prediction::{
    AnsweredBy, BundleRecord, GraphRecord, PartRecord, PredictionRecord, PredictionWriter, find_prediction,
    prediction_bundles,
};
pub use safetensors::{decode_safetensors, encode_safetensors, read_f32_as_safetensors};
pub use statistics::{
    ColumnStatistics, Distinct, Histogram, IntegerRange, LengthRange, Moments, Quantiles, ValueCount,
};
pub use window::{Window, WindowBundle, WindowWriter, bundles_of_window, read_window, window_bundles};
