//! Batches of numbers as safetensors, and files of datasets in that format.
//!
//! The format sorts tensors by alignment and name, so the order of the columns stands in the file's metadata.

mod file;
mod shard;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;

use ::safetensors::tensor::Metadata;
use ::safetensors::{Dtype, SafeTensorError, SafeTensors, View, serialize};

use super::DataError;
use super::error::excerpt;
use crate::domain::{Batch, ColumnSpec, DataType, Digest, Tensor};

pub(super) use self::file::{SafetensorsReader, infer_safetensors};
pub(super) use self::shard::read_as_safetensors;
pub use self::shard::read_f32_as_safetensors;

/// Key of the metadata that lists the columns, as a JSON list.
const COLUMNS: &str = "columns";

/// Key of the metadata that names the bundle which saw and answered the rows.
const BUNDLE: &str = "bundle";

/// Key of the metadata that names the version of a model that it was.
const VERSION: &str = "version";

/// Key of the metadata that says how many rows were answered when, as a JSON object.
const ANSWERED: &str = "answered";

/// Longest header of rows of a bundle, as the decoder takes it.
const ROWS_HEADER_MAX_BYTES: u64 = 100_000_000;

/// Writes a batch of numbers; BYTES columns are refused, for the format has none.
pub fn encode_safetensors(batch: &Batch) -> Result<Vec<u8>, DataError> {
    encode(batch, HashMap::new())
}

/// Who saw and answered rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RowsOrigin {
    /// The bundle.
    pub bundle: Digest,
    /// The version of a model that it was, as `name@number`; none where it was none.
    pub version: Option<String>,
    /// How many it had answered lately when they were written, by the second: Unix time. Rows of earlier builds have none.
    pub answered: BTreeMap<i64, u64>,
}

/// Writes rows that a bundle saw and answered.
pub(super) fn encode_rows_of(origin: &RowsOrigin, rows: &Batch) -> Result<Vec<u8>, DataError> {
    let answered = serde_json::to_string(&origin.answered).map_err(DataError::Encode)?;
    let bundle = origin.bundle.to_string();
    let mut metadata = HashMap::from([(BUNDLE.to_owned(), bundle), (ANSWERED.to_owned(), answered)]);
    metadata.extend(origin.version.clone().map(|version| (VERSION.to_owned(), version)));
    encode(rows, metadata)
}

fn encode(batch: &Batch, mut metadata: HashMap<String, String>) -> Result<Vec<u8>, DataError> {
    let mut views = Vec::with_capacity(batch.tensors().len());
    for tensor in batch.tensors() {
        let Some(dtype) = to_wire(tensor.dtype()) else {
            let (column, found) = (tensor.name().to_owned(), tensor.dtype().to_string());
            return Err(DataError::SafetensorsType { column, found });
        };
        views.push((tensor.name(), Column { dtype, tensor }));
    }
    let names: Vec<_> = batch.tensors().iter().map(Tensor::name).collect();
    let order = serde_json::to_string(&names).map_err(DataError::Encode)?;
    metadata.insert(COLUMNS.to_owned(), order);
    serialize(views, Some(metadata)).map_err(DataError::Safetensors)
}

/// Reads a batch. Columns come in the order in which they were written; for files of other programs, in that of the file.
pub fn decode_safetensors(bytes: &[u8]) -> Result<Batch, DataError> {
    decode(bytes, &read_metadata(bytes)?)
}

/// Reads what [`encode_rows_of`] wrote. Rows of which nobody says whose they are cannot be compared with anything, so
/// they are refused.
pub(super) fn decode_rows_of(bytes: &[u8]) -> Result<(RowsOrigin, Batch), DataError> {
    let header = read_metadata(bytes)?;
    Ok((origin_of(&header)?, decode(bytes, &header)?))
}

/// What the header of rows says of them.
pub(super) struct RowsHead {
    /// Who saw and answered them.
    pub origin: RowsOrigin,
    /// Their columns.
    pub columns: Vec<ColumnSpec>,
    /// How many there are.
    pub rows: usize,
}

/// Reads the header of what [`encode_rows_of`] wrote to `file`, called `name` in errors, and nothing of the rows.
pub(super) fn read_head_of(file: &File, name: &str) -> Result<RowsHead, DataError> {
    let (header, _) = file::read_metadata(file, name, ROWS_HEADER_MAX_BYTES)?;
    let origin = origin_of(&header)?;
    let (mut columns, mut rows) = (Vec::new(), None);
    for column in file::column_names(&header, name)? {
        let Some(info) = header.info(&column) else { continue };
        let Some(dtype) = from_wire(info.dtype) else {
            return Err(DataError::SafetensorsType { column, found: info.dtype.to_string() });
        };
        let own = info.shape.split_first().filter(|&(own_rows, _)| own_rows == *rows.get_or_insert(own_rows));
        let Some((_, shape)) = own else {
            let expected = "as many rows as in the columns before";
            return Err(DataError::format(name, "", expected, format!("a tensor of {:?}", info.shape)));
        };
        columns.push(ColumnSpec {
            name: column,
            dtype,
            shape: shape.to_vec(),
            nullable: false,
            element_names: Vec::new(),
        });
    }
    Ok(RowsHead { origin, columns, rows: rows.copied().unwrap_or_default() })
}

fn origin_of(header: &Metadata) -> Result<RowsOrigin, DataError> {
    let said = |key| header.metadata().as_ref().and_then(|metadata| metadata.get(key));
    let named = said(BUNDLE);
    let bundle = named.and_then(|text| text.parse().ok()).ok_or_else(|| DataError::SegmentBundle {
        found: named.map_or("none".to_owned(), |text| excerpt(text.as_bytes())),
    })?;
    let answered = said(ANSWERED).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    Ok(RowsOrigin { bundle, version: said(VERSION).cloned(), answered })
}

fn read_metadata(bytes: &[u8]) -> Result<Metadata, DataError> {
    SafeTensors::read_metadata(bytes).map(|(_, header)| header).map_err(DataError::Safetensors)
}

fn decode(bytes: &[u8], header: &Metadata) -> Result<Batch, DataError> {
    let file = SafeTensors::deserialize(bytes).map_err(DataError::Safetensors)?;
    let listed = header.metadata().as_ref().and_then(|metadata| metadata.get(COLUMNS));
    let names = match listed.map(|listed| serde_json::from_str::<Vec<String>>(listed)) {
        // Each tensor once, or the list is not about this file.
        Some(Ok(names)) if names.len() == file.len() => names,
        Some(_) => return Err(DataError::Safetensors(SafeTensorError::TensorNotFound(COLUMNS.to_owned()))),
        None => header.offset_keys(),
    };
    let mut tensors = Vec::with_capacity(names.len());
    for name in names {
        let view = file.tensor(&name).map_err(DataError::Safetensors)?;
        let dtype = from_wire(view.dtype()).filter(|dtype| {
            // Any other byte would be a bool that is neither true nor false.
            *dtype != DataType::Bool || view.data().iter().all(|&byte| byte <= 1)
        });
        let Some(dtype) = dtype else {
            return Err(DataError::SafetensorsType { column: name, found: view.dtype().to_string() });
        };
        tensors.push(Tensor::new(name, dtype, view.shape().to_vec(), view.data().to_vec())?);
    }
    Ok(Batch::new(tensors)?)
}

struct Column<'a> {
    dtype: Dtype,
    tensor: &'a Tensor,
}

impl View for Column<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        self.tensor.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.tensor.data())
    }

    fn data_len(&self) -> usize {
        self.tensor.data().len()
    }
}

fn to_wire(dtype: DataType) -> Option<Dtype> {
    Some(match dtype {
        DataType::Bool => Dtype::BOOL,
        DataType::Uint8 => Dtype::U8,
        DataType::Uint16 => Dtype::U16,
        DataType::Uint32 => Dtype::U32,
        DataType::Uint64 => Dtype::U64,
        DataType::Int8 => Dtype::I8,
        DataType::Int16 => Dtype::I16,
        DataType::Int32 => Dtype::I32,
        DataType::Int64 => Dtype::I64,
        DataType::Fp16 => Dtype::F16,
        DataType::Fp32 => Dtype::F32,
        DataType::Fp64 => Dtype::F64,
        DataType::Bytes => return None,
    })
}

fn from_wire(dtype: Dtype) -> Option<DataType> {
    DataType::ALL.into_iter().find(|candidate| to_wire(*candidate) == Some(dtype))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn batch() -> Batch {
        Batch::new(vec![
            Tensor::new("z", DataType::Uint8, vec![2], vec![1, 2]).unwrap(),
            Tensor::from_f32("b", vec![2, 2], &[1.0, f32::NAN, 3.0, 4.0]).unwrap(),
            Tensor::new("a", DataType::Fp16, vec![2], vec![1, 2, 3, 4]).unwrap(),
            Tensor::new("flag", DataType::Bool, vec![2], vec![1, 0]).unwrap(),
        ])
        .unwrap()
    }

    #[test]
    fn columns_come_back_in_their_order() {
        let back = decode_safetensors(&encode_safetensors(&batch()).unwrap()).unwrap();
        let shown = |batch: &Batch| {
            batch.tensors().iter().map(|tensor| format!("{tensor:?}{:?}", tensor.data())).collect::<Vec<_>>()
        };
        assert_eq!(shown(&back), shown(&batch()));
        assert_eq!(
            encode_safetensors(&batch()).unwrap(),
            encode_safetensors(&back).unwrap(),
            "the bytes are a function of the batch"
        );
        assert_eq!(
            decode_safetensors(&encode_safetensors(&Batch::default()).unwrap()).unwrap(),
            Batch::default()
        );
    }

    #[test]
    fn rows_of_a_bundle_name_it() {
        let (bundle, answered) =
            (Digest::of(b"bundle"), BTreeMap::from([(-1, 7), (1_764_257_000, u64::MAX)]));
        for version in [None, Some("mnist@1".to_owned())] {
            let origin = RowsOrigin { bundle, version, answered: answered.clone() };
            let (named, rows) = decode_rows_of(&encode_rows_of(&origin, &batch()).unwrap()).unwrap();
            assert_eq!((named, rows.rows()), (origin, 2));
        }
        // As earlier builds wrote them.
        let only_bundle = HashMap::from([(BUNDLE.to_owned(), bundle.to_string())]);
        let (named, _) = decode_rows_of(&encode(&batch(), only_bundle).unwrap()).unwrap();
        assert_eq!(named, RowsOrigin { bundle, version: None, answered: BTreeMap::new() });
        assert_eq!(
            decode_rows_of(&encode_safetensors(&batch()).unwrap()).unwrap_err().to_string(),
            "the segment does not say which bundle filled it: expected a digest, found none"
        );
        let other = HashMap::from([(BUNDLE.to_owned(), "mnist@1".to_owned())]);
        let error = decode_rows_of(&encode(&batch(), other).unwrap()).unwrap_err().to_string();
        assert!(error.ends_with("expected a digest, found `mnist@1`"), "{error}");
    }

    #[test]
    fn the_head_of_rows_says_what_the_rows_do() {
        let read = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            read_head_of(&file, "rows").map(|head| (head.origin, head.columns, head.rows))
        };
        let bundle = Digest::of(b"bundle");
        let (version, answered) = (Some("mnist@1".to_owned()), BTreeMap::from([(5, 7)]));
        let origin = RowsOrigin { bundle, version, answered };
        for rows in [batch(), Batch::default()] {
            let bytes = encode_rows_of(&origin, &rows).unwrap();
            assert_eq!(read(&bytes).unwrap(), (origin.clone(), ColumnSpec::of_batch(&rows), rows.rows()));
            assert!(read(&bytes[..bytes.len() - 1]).is_err(), "cut");
        }
        assert!(matches!(read(&encode_safetensors(&batch()).unwrap()), Err(DataError::SegmentBundle { .. })));
        let unequal = r#"{"__metadata__":{"bundle":"DIGEST"},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#;
        let header = unequal.replace("DIGEST", &bundle.to_string());
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 3]].concat();
        assert!(read(&bytes).is_err());
    }

    #[test]
    fn refuses_strings_and_foreign_types() {
        let strings = Batch::new(vec![Tensor::from_strings("s", [&b"a"[..]]).unwrap()]).unwrap();
        assert!(
            encode_safetensors(&strings).unwrap_err().to_string().starts_with("column `s` has type BYTES")
        );
        let header = br#"{"x":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}"#;
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header, &[0, 0]].concat();
        assert!(decode_safetensors(&bytes).unwrap_err().to_string().starts_with("column `x` has type BF16"));
        let header = br#"{"x":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}}"#;
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header, &[2]].concat();
        assert!(decode_safetensors(&bytes).is_err());
    }

    #[test]
    fn refuses_damaged_files() {
        let bytes = encode_safetensors(&batch()).unwrap();
        for length in 0..bytes.len() {
            assert!(decode_safetensors(&bytes[..length]).is_err(), "cut at {length}");
        }
        assert!(decode_safetensors(&[&bytes[..], &[0]].concat()).is_err());
        let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
        assert!(decode_safetensors(&huge).is_err());
        let scalar = br#"{"x":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}"#;
        let bytes = [&(scalar.len() as u64).to_le_bytes()[..], scalar, &[0]].concat();
        assert!(decode_safetensors(&bytes).is_err(), "a tensor without rows");
    }
}
