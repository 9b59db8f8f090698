//! Parquet through the column readers, without arrow.
//!
//! Flat columns of booleans, integers, floats and strings are read; nested ones, dates, times and decimals are refused,
//! for a tensor could not say what their numbers mean. A column of numbers or booleans that has nulls becomes FP64, or
//! stays FP32, and null is NaN; in BYTES, null is the empty string. Integers beyond 2^53 that would become FP64 are read as
//! text, as those of CSV.

use std::cell::Cell;
use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::sync::Once;

use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType as ParquetType, DoubleType, FixedLenByteArray,
    FixedLenByteArrayType, FloatType, Int32Type, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use super::DataError;
use super::inferred::{INTEGER_MAX, InferredColumn, is_wide};
use super::source::BATCH_MAX_BYTES;
use crate::domain::{Batch, ColumnSpec, DataType, Tensor};

/// Rows looked at at a time where only nulls are counted.
const COUNT_ROWS: usize = 8_192;

/// Most columns, as for CSV.
const COLUMNS_MAX: usize = 16_384;

/// Reads the rows of one Parquet file as batches of columns that are known.
pub struct ParquetReader {
    name: String,
    file: SerializedFileReader<File>,
    columns: Vec<Column>,
    group: usize,
    group_rows_left: usize,
    readers: Vec<ColumnReader>,
}

/// One column: what it becomes, and where it stands in the file.
struct Column {
    spec: ColumnSpec,
    index: usize,
    optional: bool,
    /// The type in the file, which may be narrower.
    stored: DataType,
}

/// Reads the schema of `file`, called `name` in errors, and looks for nulls; gives its columns and the number of rows.
pub fn infer_parquet(file: File, name: &str) -> Result<(Vec<InferredColumn>, u64), DataError> {
    let file = open_file(file, name)?;
    let metadata = file.metadata();
    let descriptors = metadata.file_metadata().schema_descr().columns();
    if descriptors.is_empty() || descriptors.len() > COLUMNS_MAX {
        let found = format!("{} columns", descriptors.len());
        return Err(DataError::format(name, "", format!("1 to {COLUMNS_MAX} columns"), found));
    }
    let mut inferred = Vec::with_capacity(descriptors.len());
    for (index, descriptor) in descriptors.iter().enumerate() {
        let plain = data_type(descriptor, name)?;
        let optional = descriptor.max_def_level() > 0;
        let nulls = optional && plain != DataType::Bytes && guarded(name, || has_nulls(&file, index))?;
        let wide = guarded(name, || has_wide(&file, index, plain))?;
        let dtype = match plain {
            DataType::Int64 | DataType::Uint64 if nulls && wide => DataType::Bytes,
            plain if nulls && plain != DataType::Fp32 => DataType::Fp64,
            plain => plain,
        };
        let nullable = dtype == DataType::Fp64 || (nulls && dtype == DataType::Fp32);
        let spec = ColumnSpec {
            name: descriptor.name().to_owned(),
            dtype,
            shape: Vec::new(),
            nullable,
            element_names: Vec::new(),
        };
        inferred.push(InferredColumn { spec, wide });
    }
    let rows = (0..metadata.num_row_groups()).map(|group| metadata.row_group(group).num_rows());
    let rows = rows.map(|rows| u64::try_from(rows).unwrap_or_default()).fold(0, u64::saturating_add);
    Ok((inferred, rows))
}

impl ParquetReader {
    /// Opens `file`, called `name` in errors, which must have exactly the columns `specs`, in any order.
    pub fn open(file: File, name: &str, specs: &[ColumnSpec]) -> Result<Self, DataError> {
        let file = open_file(file, name)?;
        let descriptors = file.metadata().file_metadata().schema_descr().columns();
        let mut columns = Vec::with_capacity(specs.len());
        for spec in specs {
            let Some(index) = descriptors.iter().position(|descriptor| descriptor.name() == spec.name) else {
                return Err(DataError::format(name, "", format!("a column `{}`", spec.name), "none"));
            };
            let Some(descriptor) = descriptors.get(index) else { continue };
            let optional = descriptor.max_def_level() > 0;
            columns.push(Column {
                spec: spec.clone(),
                index,
                optional,
                stored: data_type(descriptor, name)?,
            });
        }
        if descriptors.len() != specs.len() {
            let found = descriptors.len().to_string();
            return Err(DataError::format(name, "", format!("{} columns", specs.len()), found));
        }
        Ok(Self { name: name.to_owned(), file, columns, group: 0, group_rows_left: 0, readers: Vec::new() })
    }

    /// The next at most `rows_max` rows; none at the end.
    pub fn next_batch(&mut self, rows_max: usize) -> Result<Option<Batch>, DataError> {
        while self.group_rows_left == 0 {
            if self.group == self.file.metadata().num_row_groups() {
                return Ok(None);
            }
            let (file, columns, group) = (&self.file, &self.columns, self.group);
            (self.readers, self.group_rows_left) = guarded(&self.name, || {
                let group = file.get_row_group(group)?;
                let readers = columns.iter().map(|column| group.get_column_reader(column.index));
                let rows = usize::try_from(group.metadata().num_rows()).unwrap_or_default();
                Ok((readers.collect::<Result<_, _>>()?, rows))
            })?;
            self.group += 1;
        }
        let row_bytes = 8 * self.columns.len().max(1);
        let rows = rows_max.clamp(1, (BATCH_MAX_BYTES / row_bytes).max(1)).min(self.group_rows_left);
        let mut tensors = Vec::with_capacity(self.columns.len());
        for (column, reader) in self.columns.iter().zip(&mut self.readers) {
            let data = guarded(&self.name, || read_column(reader, column, rows))?;
            let data = data.map_err(|(expected, found)| {
                DataError::format(&self.name, format!(" column `{}`", column.spec.name), expected, found)
            })?;
            tensors.push(Tensor::new(column.spec.name.clone(), column.spec.dtype, vec![rows], data)?);
        }
        self.group_rows_left -= rows;
        Ok(Some(Batch::new(tensors)?))
    }
}

thread_local! {
    /// Whether this thread is in [`guarded`].
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs the Parquet library, which may panic on files that were made to break it.
///
/// The panic is the file's fault and told as such, so nothing of it is printed.
fn guarded<T>(name: &str, call: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, DataError> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                print(panic);
            }
        }));
    });
    GUARDED.set(true);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(false);
    let outcome = outcome.unwrap_or_else(|_| Err(ParquetError::General("the file is damaged".to_owned())));
    outcome.map_err(|source| DataError::Parquet { file: name.to_owned(), source })
}

fn open_file(file: File, name: &str) -> Result<SerializedFileReader<File>, DataError> {
    guarded(name, || SerializedFileReader::new(file))
}

fn data_type(descriptor: &ColumnDescriptor, file: &str) -> Result<DataType, DataError> {
    let refuse = |found: String| {
        let place = format!(" column `{}`", descriptor.path().string());
        Err(DataError::format(file, place, "a flat column of booleans, numbers or strings", found))
    };
    if descriptor.path().parts().len() != 1
        || descriptor.max_rep_level() > 0
        || descriptor.max_def_level() > 1
    {
        return refuse("a nested one".to_owned());
    }
    let logical = descriptor.logical_type_ref();
    let converted = descriptor.converted_type();
    let dtype = match (descriptor.physical_type(), logical, converted) {
        (Type::BOOLEAN, ..) => DataType::Bool,
        (Type::INT32, Some(LogicalType::Integer(integer)), _) => match (integer.bit_width, integer.is_signed)
        {
            (8, true) => DataType::Int8,
            (8, false) => DataType::Uint8,
            (16, true) => DataType::Int16,
            (16, false) => DataType::Uint16,
            (_, true) => DataType::Int32,
            (_, false) => DataType::Uint32,
        },
        (Type::INT32, None, ConvertedType::NONE | ConvertedType::INT_32) => DataType::Int32,
        (Type::INT32, None, ConvertedType::UINT_32) => DataType::Uint32,
        (Type::INT32, None, ConvertedType::INT_16) => DataType::Int16,
        (Type::INT32, None, ConvertedType::UINT_16) => DataType::Uint16,
        (Type::INT32, None, ConvertedType::INT_8) => DataType::Int8,
        (Type::INT32, None, ConvertedType::UINT_8) => DataType::Uint8,
        (Type::INT64, Some(LogicalType::Integer(integer)), _) if integer.is_signed => DataType::Int64,
        (Type::INT64, Some(LogicalType::Integer(_)), _) => DataType::Uint64,
        (Type::INT64, None, ConvertedType::NONE | ConvertedType::INT_64) => DataType::Int64,
        (Type::INT64, None, ConvertedType::UINT_64) => DataType::Uint64,
        (Type::FLOAT, ..) => DataType::Fp32,
        (Type::DOUBLE, ..) => DataType::Fp64,
        (
            Type::BYTE_ARRAY,
            None | Some(LogicalType::String | LogicalType::Enum | LogicalType::Json),
            converted,
        ) if converted != ConvertedType::DECIMAL => DataType::Bytes,
        (Type::FIXED_LEN_BYTE_ARRAY, None | Some(LogicalType::Uuid), ConvertedType::NONE) => DataType::Bytes,
        (physical, Some(logical), _) => return refuse(format!("{physical} that means {logical:?}")),
        (physical, None, ConvertedType::NONE) => return refuse(physical.to_string()),
        (physical, None, converted) => return refuse(format!("{physical} that means {converted}")),
    };
    Ok(dtype)
}

fn has_nulls(file: &SerializedFileReader<File>, index: usize) -> Result<bool, ParquetError> {
    fn count<T: ParquetType>(reader: ColumnReader) -> Result<bool, ParquetError> {
        let mut reader = get_typed_column_reader::<T>(reader);
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        loop {
            levels.clear();
            values.clear();
            let (records, present, _) =
                reader.read_records(COUNT_ROWS, Some(&mut levels), None, &mut values)?;
            if present < records {
                return Ok(true);
            }
            if records == 0 {
                return Ok(false);
            }
        }
    }
    for group in 0..file.num_row_groups() {
        let reader = file.get_row_group(group)?.get_column_reader(index)?;
        let nulls = match reader {
            ColumnReader::BoolColumnReader(_) => count::<BoolType>(reader)?,
            ColumnReader::Int32ColumnReader(_) => count::<Int32Type>(reader)?,
            ColumnReader::Int64ColumnReader(_) => count::<Int64Type>(reader)?,
            ColumnReader::FloatColumnReader(_) => count::<FloatType>(reader)?,
            ColumnReader::DoubleColumnReader(_) => count::<DoubleType>(reader)?,
            _ => false,
        };
        if nulls {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a column of INT64 or UINT64 has integers that FP64 might not hold.
fn has_wide(file: &SerializedFileReader<File>, index: usize, dtype: DataType) -> Result<bool, ParquetError> {
    if !matches!(dtype, DataType::Int64 | DataType::Uint64) {
        return Ok(false);
    }
    let is_wide = |value: &i64| match dtype {
        DataType::Uint64 => value.cast_unsigned() > INTEGER_MAX,
        _ => is_wide(*value),
    };
    for group in 0..file.num_row_groups() {
        let reader = file.get_row_group(group)?.get_column_reader(index)?;
        let ColumnReader::Int64ColumnReader(mut reader) = reader else { return Ok(false) };
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        loop {
            levels.clear();
            values.clear();
            let (records, ..) = reader.read_records(COUNT_ROWS, Some(&mut levels), None, &mut values)?;
            if values.iter().any(is_wide) {
                return Ok(true);
            }
            if records == 0 {
                break;
            }
        }
    }
    Ok(false)
}

/// What was expected and found in a column whose pages can be read but do not hold what they should.
type Mismatch = (String, String);

/// Reads the next `rows` elements of a column.
fn read_column(
    reader: &mut ColumnReader,
    column: &Column,
    rows: usize,
) -> Result<Result<Vec<u8>, Mismatch>, ParquetError> {
    let mut cells = Cells { rows, optional: column.optional, dtype: column.spec.dtype, data: Vec::new() };
    let dtype = column.spec.dtype;
    let outcome = match reader {
        ColumnReader::BoolColumnReader(reader) => cells.read::<BoolType>(reader, |value, data| {
            if dtype == DataType::Bool {
                data.push(u8::from(*value));
                return true;
            }
            push_integer(data, dtype, i64::from(*value))
        }),
        // Unsigned integers are stored in the bits of signed ones.
        ColumnReader::Int32ColumnReader(reader) => cells.read::<Int32Type>(reader, |value, data| {
            let unsigned = column.stored == DataType::Uint32;
            push_integer(
                data,
                dtype,
                if unsigned { i64::from(value.cast_unsigned()) } else { i64::from(*value) },
            )
        }),
        ColumnReader::Int64ColumnReader(reader) => cells.read::<Int64Type>(reader, |value, data| {
            if column.stored != DataType::Uint64 {
                return push_integer(data, dtype, *value);
            }
            let value = value.cast_unsigned();
            match dtype {
                DataType::Uint64 => data.extend_from_slice(&value.to_le_bytes()),
                DataType::Fp64 => data.extend_from_slice(&(value as f64).to_le_bytes()),
                DataType::Bytes => return push_string(data, dtype, value.to_string().as_bytes()),
                _ => return false,
            }
            true
        }),
        ColumnReader::FloatColumnReader(reader) => cells.read::<FloatType>(reader, |value, data| {
            match dtype {
                DataType::Fp32 => data.extend_from_slice(&value.to_le_bytes()),
                DataType::Fp64 => data.extend_from_slice(&f64::from(*value).to_le_bytes()),
                _ => return false,
            }
            true
        }),
        ColumnReader::DoubleColumnReader(reader) => cells.read::<DoubleType>(reader, |value, data| {
            data.extend_from_slice(&value.to_le_bytes());
            dtype == DataType::Fp64
        }),
        ColumnReader::ByteArrayColumnReader(reader) => cells
            .read::<ByteArrayType>(reader, |value: &ByteArray, data| push_string(data, dtype, value.data())),
        ColumnReader::FixedLenByteArrayColumnReader(reader) => cells
            .read::<FixedLenByteArrayType>(reader, |value: &FixedLenByteArray, data| {
                push_string(data, dtype, value.data())
            }),
        ColumnReader::Int96ColumnReader(_) => Ok(Err((dtype.to_string(), "INT96".to_owned()))),
    };
    outcome.map(|outcome| outcome.map(|()| cells.data))
}

/// The elements of one column of one batch.
struct Cells {
    rows: usize,
    optional: bool,
    dtype: DataType,
    data: Vec<u8>,
}

impl Cells {
    fn read<T: ParquetType>(
        &mut self,
        reader: &mut ColumnReaderImpl<T>,
        push: impl Fn(&T::T, &mut Vec<u8>) -> bool,
    ) -> Result<Result<(), Mismatch>, ParquetError> {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let mut records = 0;
        while records < self.rows {
            // The library may stop at the end of a page.
            let wanted = self.optional.then_some(&mut levels);
            let (read, _, _) = reader.read_records(self.rows - records, wanted, None, &mut values)?;
            if read == 0 {
                return Ok(Err((
                    format!("{} rows more", self.rows - records),
                    "the end of the column".to_owned(),
                )));
            }
            records += read;
        }
        let mut values = values.iter();
        for row in 0..self.rows {
            let null = self.optional && levels.get(row) == Some(&0);
            let pushed = if null {
                push_missing(&mut self.data, self.dtype)
            } else {
                values.next().is_some_and(|value| push(value, &mut self.data))
            };
            if !pushed {
                let found = if null { "null" } else { "a value that does not fit" };
                return Ok(Err((self.dtype.to_string(), found.to_owned())));
            }
            if self.data.len() > BATCH_MAX_BYTES {
                let found = format!("more in {} rows", self.rows);
                return Ok(Err((format!("at most {BATCH_MAX_BYTES} bytes a batch"), found)));
            }
        }
        Ok(Ok(()))
    }
}

fn push_missing(data: &mut Vec<u8>, dtype: DataType) -> bool {
    match dtype {
        DataType::Fp32 => data.extend_from_slice(&f32::NAN.to_le_bytes()),
        DataType::Fp64 => data.extend_from_slice(&f64::NAN.to_le_bytes()),
        DataType::Bytes => data.extend_from_slice(&0_u32.to_le_bytes()),
        _ => return false,
    }
    true
}

fn push_string(data: &mut Vec<u8>, dtype: DataType, value: &[u8]) -> bool {
    let Ok(length) = u32::try_from(value.len()) else { return false };
    data.extend_from_slice(&length.to_le_bytes());
    data.extend_from_slice(value);
    dtype == DataType::Bytes
}

fn push_integer(data: &mut Vec<u8>, dtype: DataType, value: i64) -> bool {
    fn push<const N: usize, E>(data: &mut Vec<u8>, bytes: Result<[u8; N], E>) -> bool {
        bytes.is_ok_and(|bytes| {
            data.extend_from_slice(&bytes);
            true
        })
    }
    match dtype {
        DataType::Uint8 => push(data, u8::try_from(value).map(u8::to_le_bytes)),
        DataType::Uint16 => push(data, u16::try_from(value).map(u16::to_le_bytes)),
        DataType::Uint32 => push(data, u32::try_from(value).map(u32::to_le_bytes)),
        DataType::Int8 => push(data, i8::try_from(value).map(i8::to_le_bytes)),
        DataType::Int16 => push(data, i16::try_from(value).map(i16::to_le_bytes)),
        DataType::Int32 => push(data, i32::try_from(value).map(i32::to_le_bytes)),
        DataType::Int64 => push(data, Ok::<_, ()>(value.to_le_bytes())),
        DataType::Fp64 => push(data, Ok::<_, ()>((value as f64).to_le_bytes())),
        DataType::Bytes => push_string(data, dtype, value.to_string().as_bytes()),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
