//! Safetensors files as tables: every tensor is a column, its first dimension the row.
//!
//! The header is not believed: sizes are compared with the file's before anything of them is allocated, and rows are
//! read in pieces, each from its place in the file. Columns stand in the order that the metadata lists, as this program
//! writes it, or else in that of their bytes.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use ::safetensors::tensor::Metadata;

use super::{COLUMNS, from_wire};
use crate::data::DataError;
use crate::data::error::excerpt;
use crate::data::inferred::InferredColumn;
use crate::data::source::BATCH_MAX_BYTES;
use crate::domain::{Batch, ColumnSpec, DataType, Tensor};

/// Longest header; that of the most columns has some two megabytes.
const HEADER_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes of the header's length.
const LENGTH_BYTES: u64 = 8;

/// Most columns, as for CSV.
const COLUMNS_MAX: usize = 16_384;

/// Reads the rows of one safetensors file.
pub struct SafetensorsReader {
    name: String,
    file: File,
    columns: Vec<Column>,
    rows: usize,
    rows_read: usize,
}

/// One column, and where it stands in the file.
struct Column {
    spec: ColumnSpec,
    start: u64,
    row_bytes: usize,
}

/// Reads the header of `file`, called `name` in errors; gives its columns and the number of rows.
///
/// Floats may be missing in any column of them: that none is would be known only after reading all.
pub fn infer_safetensors(file: File, name: &str) -> Result<(Vec<InferredColumn>, u64), DataError> {
    let (columns, rows) = read_header(&file, name)?;
    let inferred = columns.into_iter().map(|column| InferredColumn { spec: column.spec, wide: false });
    Ok((inferred.collect(), rows as u64))
}

impl SafetensorsReader {
    /// Opens `file`, called `name` in errors, which must have exactly the columns `specs`, in any order.
    pub fn open(file: File, name: &str, specs: &[ColumnSpec]) -> Result<Self, DataError> {
        let (mut found, rows) = read_header(&file, name)?;
        let mut columns = Vec::with_capacity(specs.len());
        for spec in specs {
            let place = found
                .iter()
                .position(|column| column.spec.name == spec.name)
                .ok_or_else(|| DataError::format(name, "", format!("a column `{}`", spec.name), "none"))?;
            let column = found.swap_remove(place);
            if column.spec.dtype != spec.dtype || column.spec.shape != spec.shape {
                let place = format!(" column `{}`", spec.name);
                let text = |spec: &ColumnSpec| format!("{} {:?}", spec.dtype, spec.shape);
                return Err(DataError::format(name, place, text(spec), text(&column.spec)));
            }
            columns.push(column);
        }
        if let Some(stray) = found.first() {
            let found = format!("one more, {}", excerpt(stray.spec.name.as_bytes()));
            return Err(DataError::format(name, "", format!("{} columns", specs.len()), found));
        }
        Ok(Self { name: name.to_owned(), file, columns, rows, rows_read: 0 })
    }

    /// The next at most `rows_max` rows; none at the end.
    pub fn next_batch(&mut self, rows_max: usize) -> Result<Option<Batch>, DataError> {
        let row_bytes: usize = self.columns.iter().map(|column| column.row_bytes).sum();
        let rows_max = rows_max.clamp(1, (BATCH_MAX_BYTES / row_bytes.max(1)).max(1));
        let rows = rows_max.min(self.rows - self.rows_read);
        if rows == 0 {
            return Ok(None);
        }
        let mut tensors = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            let mut data = vec![0; rows * column.row_bytes];
            let offset = column.start + (self.rows_read as u64) * column.row_bytes as u64;
            self.file.read_exact_at(&mut data, offset).map_err(DataError::read(Path::new(&self.name)))?;
            column.check(&data, self.rows_read, &self.name)?;
            let shape = [rows].into_iter().chain(column.spec.shape.iter().copied()).collect();
            tensors.push(Tensor::new(column.spec.name.clone(), column.spec.dtype, shape, data)?);
        }
        self.rows_read += rows;
        Ok(Some(Batch::new(tensors)?))
    }
}

impl Column {
    /// Refuses a BOOL that is neither true nor false.
    fn check(&self, data: &[u8], first_row: usize, name: &str) -> Result<(), DataError> {
        if self.spec.dtype != DataType::Bool {
            return Ok(());
        }
        let Some(stray) = data.iter().position(|&byte| byte > 1) else { return Ok(()) };
        let place = format!(" row {}, column `{}`", first_row + stray / self.row_bytes, self.spec.name);
        let found = data.get(stray).copied().unwrap_or_default();
        Err(DataError::format(name, place, "0 or 1 for BOOL", found.to_string()))
    }
}

/// The columns and the number of rows that the header promises, which the file's size agrees with.
fn read_header(file: &File, name: &str) -> Result<(Vec<Column>, usize), DataError> {
    let (metadata, start) = read_metadata(file, name, HEADER_MAX_BYTES)?;
    let wrong = |expected: String, found: String| DataError::format(name, "", expected, found);
    let names = column_names(&metadata, name)?;
    if names.is_empty() || names.len() > COLUMNS_MAX {
        let found = format!("{} tensors", names.len());
        return Err(wrong(format!("1 to {COLUMNS_MAX} tensors"), found));
    }
    let mut columns: Vec<Column> = Vec::with_capacity(names.len());
    let mut rows: Option<usize> = None;
    for column in names {
        let place = || format!(" tensor {}", excerpt(column.as_bytes()));
        let Some(info) = metadata.info(&column) else { continue };
        if !(1..=256).contains(&column.len()) {
            let found = format!("{} bytes", column.len());
            return Err(DataError::format(name, place(), "a name of 1 to 256 bytes", found));
        }
        let Some(dtype) = from_wire(info.dtype) else {
            let (expected, found) = ("a type that a column can have", info.dtype.to_string());
            return Err(DataError::format(name, place(), expected, found));
        };
        let Some((&own_rows, shape)) = info.shape.split_first() else {
            return Err(DataError::format(name, place(), "at least one dimension, the row", "none"));
        };
        let expected = *rows.get_or_insert(own_rows);
        if own_rows != expected {
            let expected = format!("{expected} rows, as in tensor {}", first_name(&columns));
            return Err(DataError::format(name, place(), expected, own_rows.to_string()));
        }
        let size = dtype.size().unwrap_or(1);
        let row_bytes = shape.iter().try_fold(size, |product, &size| product.checked_mul(size));
        let Some(row_bytes) = row_bytes.filter(|bytes| (1..=BATCH_MAX_BYTES).contains(bytes)) else {
            let expected = format!("rows of 1 to {BATCH_MAX_BYTES} bytes");
            return Err(DataError::format(name, place(), expected, format!("rows of shape {shape:?}")));
        };
        let nullable = dtype.is_float();
        let offset = start + info.data_offsets.0 as u64;
        let spec =
            ColumnSpec { name: column, dtype, shape: shape.to_vec(), nullable, element_names: Vec::new() };
        columns.push(Column { spec, start: offset, row_bytes });
    }
    let row_bytes = columns.iter().fold(0_usize, |sum, column| sum.saturating_add(column.row_bytes));
    if row_bytes > BATCH_MAX_BYTES {
        return Err(wrong(format!("rows of at most {BATCH_MAX_BYTES} bytes"), row_bytes.to_string()));
    }
    Ok((columns, rows.unwrap_or_default()))
}

fn first_name(columns: &[Column]) -> String {
    columns.first().map(|first| excerpt(first.spec.name.as_bytes())).unwrap_or_default()
}

/// The header of at most `header_max` bytes, and where the bytes of the tensors begin. They follow each other without gaps to the
/// file's end.
pub(super) fn read_metadata(file: &File, name: &str, header_max: u64) -> Result<(Metadata, u64), DataError> {
    let read = || DataError::read(Path::new(name));
    let size = file.metadata().map_err(read())?.len();
    let mut length = [0; LENGTH_BYTES as usize];
    if size < LENGTH_BYTES {
        let expected = "a safetensors header of at least 8 bytes";
        return Err(DataError::format(name, "", expected, format!("{size} bytes")));
    }
    file.read_exact_at(&mut length, 0).map_err(read())?;
    let length = u64::from_le_bytes(length);
    let limit = header_max.min(size - LENGTH_BYTES);
    if length > limit {
        let expected = format!("a safetensors header of at most {limit} bytes");
        return Err(DataError::format(name, "", expected, length.to_string()));
    }
    let mut header = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_exact_at(&mut header, LENGTH_BYTES).map_err(read())?;
    // Some JSON parsers would take what is no UTF-8.
    let text = std::str::from_utf8(&header);
    let metadata = text.ok().map(serde_json::from_str::<Metadata>);
    let Some(Ok(metadata)) = metadata else {
        let reason = metadata.and_then(Result::err).map_or("no UTF-8".to_owned(), |error| error.to_string());
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
        return Err(DataError::format(name, "", "a safetensors header in JSON", reason));
    };
    let start = LENGTH_BYTES + length;
    let expected = start.saturating_add(metadata.data_len() as u64);
    if expected != size {
        let expected = format!("{expected} bytes, as its header says");
        return Err(DataError::format(name, "", expected, size.to_string()));
    }
    Ok((metadata, start))
}

/// The names in the order of the columns.
pub(super) fn column_names(metadata: &Metadata, name: &str) -> Result<Vec<String>, DataError> {
    let stored = metadata.offset_keys();
    let listed = metadata.metadata().as_ref().and_then(|metadata| metadata.get(COLUMNS));
    let Some(listed) = listed else { return Ok(stored) };
    let names = serde_json::from_str::<Vec<String>>(listed).unwrap_or_default();
    let (mut listed, mut sorted) = (names.clone(), stored);
    listed.sort_unstable();
    sorted.sort_unstable();
    if listed != sorted {
        let expected = "each tensor once in the list `columns` of its metadata";
        return Err(DataError::format(name, "", expected, "another list"));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::data::encode_safetensors;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    fn read(bytes: &[u8]) -> Result<Batch, DataError> {
        let (columns, rows) = infer_safetensors(file(bytes), "a.safetensors")?;
        let specs: Vec<_> = columns.into_iter().map(|column| column.spec).collect();
        let mut reader = SafetensorsReader::open(file(bytes), "a.safetensors", &specs)?;
        let mut all = Batch::default();
        while let Some(batch) = reader.next_batch(2)? {
            assert!(batch.rows() <= 2);
            all.append(&batch)?;
        }
        assert_eq!(all.rows() as u64, rows);
        Ok(all)
    }

    fn refusal(bytes: &[u8]) -> String {
        read(bytes).unwrap_err().to_string()
    }

    #[test]
    fn every_type_and_shape_comes_back() {
        let numbers = DataType::ALL.into_iter().filter(|dtype| dtype.size().is_some());
        let column = |dtype: DataType| {
            let data = (0..3 * 2 * dtype.size().unwrap()).map(|byte| u8::from(byte % 2 == 1)).collect();
            Tensor::new(dtype.as_str(), dtype, vec![3, 2, 1], data).unwrap()
        };
        let batch = Batch::new(numbers.map(column).collect()).unwrap();
        assert_eq!(read(&encode_safetensors(&batch).unwrap()).unwrap(), batch);
    }

    #[test]
    fn files_of_other_programs_have_the_columns_in_the_order_of_their_bytes() {
        let header = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[4,6]},
            "z":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}}"#;
        let batch = read(&with_header(header, &[1, 2, 3, 4, 5, 6])).unwrap();
        let names: Vec<_> = batch.tensors().iter().map(Tensor::name).collect();
        assert_eq!(names, ["z", "a"]);
        assert_eq!(batch.column("a").unwrap().data(), [5, 6]);
    }

    #[test]
    fn a_file_cut_anywhere_or_too_long_is_refused() {
        let x = Tensor::from_f32("x", vec![3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let bytes = encode_safetensors(&Batch::new(vec![x]).unwrap()).unwrap();
        for length in 0..bytes.len() {
            refusal(&bytes[..length]);
        }
        let size = bytes.len();
        assert_eq!(
            refusal(&bytes[..size - 1]),
            format!("`a.safetensors`: expected {size} bytes, as its header says, found {}", size - 1)
        );
        refusal(&[&bytes[..], &[0]].concat());
    }

    #[test]
    fn headers_that_lie_are_refused_and_cost_no_memory() {
        let tensor = |shape: &str, offsets: &str| {
            format!(r#"{{"x":{{"dtype":"U8","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let case = |header: &str| refusal(&with_header(header, &[0; 4]));
        refusal(&with_header(&tensor("[4]", "[0,4]"), &[0; 3]));
        for (shape, offsets) in [
            ("[1000000000000]", "[0,1000000000000]"),
            ("[4294967296,4294967296]", "[0,4]"),
            ("[4]", "[1,5]"),
            ("[4]", "[4,0]"),
            ("[2]", "[0,4]"),
            ("[-1]", "[0,4]"),
            ("[4]", "[0,-4]"),
        ] {
            case(&tensor(shape, offsets));
        }
        assert!(case(&tensor("[]", "[0,1]")).contains("expected"));
        assert!(refusal(&with_header(&tensor("[]", "[0,1]"), &[0])).contains("at least one dimension"));
        assert!(refusal(&with_header(&tensor("[4,0]", "[0,0]"), &[])).contains("rows of 1 to"));
        assert!(refusal(&with_header("{}", &[])).contains("found 0 tensors"));
        for header in ["", "[]", "null", "{\"x\":1}", "{\"x\":{\"dtype\":\"U8\"}}", "\u{7f}"] {
            assert!(case(header).contains("expected a safetensors header in JSON"), "{header}");
        }
        let not_text = [&1_u64.to_le_bytes()[..], b"\xff"].concat();
        assert!(refusal(&not_text).contains("UTF-8"), "{}", refusal(&not_text));
        let deep = "[".repeat(1_000_000);
        assert!(case(&format!("{{\"x\":{deep}")).contains("JSON"));
        let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
        assert!(refusal(&huge).contains("header of at most 2 bytes, found 18446744073709551615"));
    }

    #[test]
    fn names_the_tensor_that_does_not_fit() {
        let two = |second: &str| {
            let header = format!(
                r#"{{"x":{{"dtype":"U8","shape":[2],"data_offsets":[0,2]}},"y":{{{second},"data_offsets":[2,4]}}}}"#
            );
            refusal(&with_header(&header, &[0, 1, 2, 3]))
        };
        assert_eq!(
            two(r#""dtype":"U8","shape":[1,2]"#),
            "`a.safetensors` tensor `y`: expected 2 rows, as in tensor `x`, found 1"
        );
        assert_eq!(
            two(r#""dtype":"BF16","shape":[1]"#),
            "`a.safetensors` tensor `y`: expected a type that a column can have, found BF16"
        );
        assert_eq!(
            two(r#""dtype":"BOOL","shape":[2]"#),
            "`a.safetensors` row 0, column `y`: expected 0 or 1 for BOOL, found 2"
        );
    }

    #[test]
    fn a_list_of_columns_that_is_about_other_tensors_is_refused() {
        for listed in [r#"[\"y\"]"#, r#"[\"x\",\"x\"]"#, "[]", "x"] {
            let header = format!(
                r#"{{"__metadata__":{{"columns":"{listed}"}},"x":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#
            );
            assert!(refusal(&with_header(&header, &[0])).contains("each tensor once"), "{listed}");
        }
    }
}
