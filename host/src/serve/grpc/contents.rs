use super::GrpcError;
use super::wire::{Fields, Value, take_varint};
use crate::domain::{ColumnSpec, DataType};

/// The elements of a column that are not bytes but numbers and strings, as its tensor holds them. `contents` is a message
/// `InferTensorContents`, of which only the list for the column's type may have any.
///
/// Numbers are checked to be of the type; what else may be wrong with an element is for
/// [`tensor_of_bytes`](super::super::inference::tensor_of_bytes) to see.
pub(super) fn elements_of(spec: &ColumnSpec, rows: usize, contents: &[u8]) -> Result<Vec<u8>, GrpcError> {
    let Some((list, list_name, size)) = list_of(spec.dtype) else {
        return Err(GrpcError::OnlyRaw { name: spec.name.clone(), dtype: spec.dtype });
    };
    let expected = spec.row_elements().saturating_mul(rows);
    // Each element takes a byte at least, whatever the shape promises.
    let room = expected.min(contents.len()).saturating_mul(size);
    let mut elements = Elements { spec, expected, found: 0, data: Vec::with_capacity(room) };
    let mut fields = Fields::new(contents);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (number, value) if number == list => elements.take(value)?,
            // An empty list of another type says nothing.
            (1..=8, Value::Bytes([])) if number != 8 => {}
            (1..=8, _) => {
                let (name, dtype) = (spec.name.clone(), spec.dtype);
                return Err(GrpcError::OtherList { name, dtype, expected: list_name });
            }
            _ => {}
        }
    }
    match elements.found == expected {
        true => Ok(elements.data),
        false => Err(elements.wrong_count()),
    }
}

/// The number and name of the list for a type, and the bytes of an element, the length of a string being one.
fn list_of(dtype: DataType) -> Option<(u64, &'static str, usize)> {
    Some(match dtype {
        DataType::Bool => (1, "bool_contents", 1),
        DataType::Int8 => (2, "int_contents", 1),
        DataType::Int16 => (2, "int_contents", 2),
        DataType::Int32 => (2, "int_contents", 4),
        DataType::Int64 => (3, "int64_contents", 8),
        DataType::Uint8 => (4, "uint_contents", 1),
        DataType::Uint16 => (4, "uint_contents", 2),
        DataType::Uint32 => (4, "uint_contents", 4),
        DataType::Uint64 => (5, "uint64_contents", 8),
        DataType::Fp32 => (6, "fp32_contents", 4),
        DataType::Fp64 => (7, "fp64_contents", 8),
        DataType::Bytes => (8, "bytes_contents", 4),
        DataType::Fp16 => return None,
    })
}

/// The elements that were read so far.
struct Elements<'a> {
    spec: &'a ColumnSpec,
    expected: usize,
    found: usize,
    data: Vec<u8>,
}

impl Elements<'_> {
    /// Takes one element, or a list of them in one piece.
    fn take(&mut self, value: Value<'_>) -> Result<(), GrpcError> {
        match (self.spec.dtype, value) {
            (DataType::Bytes, Value::Bytes(string)) => {
                self.count(1)?;
                let length = u32::try_from(string.len()).map_err(|_| GrpcError::Malformed)?;
                self.data.extend_from_slice(&length.to_le_bytes());
                self.data.extend_from_slice(string);
                Ok(())
            }
            (DataType::Fp32, Value::Fixed32(bytes)) => self.take_floats(&bytes, 4),
            (DataType::Fp64, Value::Fixed64(bytes)) => self.take_floats(&bytes, 8),
            (DataType::Fp32, Value::Bytes(list)) => self.take_floats(list, 4),
            (DataType::Fp64, Value::Bytes(list)) => self.take_floats(list, 8),
            (DataType::Fp32 | DataType::Fp64, _) => Err(GrpcError::Malformed),
            (_, Value::Varint(number)) => self.take_number(number),
            (_, Value::Bytes(mut list)) => {
                while !list.is_empty() {
                    let number = take_varint(&mut list)?;
                    self.take_number(number)?;
                }
                Ok(())
            }
            _ => Err(GrpcError::Malformed),
        }
    }

    /// Floats are on the wire as they are in a tensor.
    fn take_floats(&mut self, bytes: &[u8], size: usize) -> Result<(), GrpcError> {
        if !bytes.len().is_multiple_of(size) {
            return Err(GrpcError::Malformed);
        }
        self.count(bytes.len() / size)?;
        self.data.extend_from_slice(bytes);
        Ok(())
    }

    /// `number` is on the wire as it would be with 64 bits; of the type of its list it is what its lowest bits are.
    fn take_number(&mut self, number: u64) -> Result<(), GrpcError> {
        self.count(1)?;
        let (signed, unsigned) = (number as i32, number as u32);
        let wrong = |found: i64| GrpcError::Range {
            row: (self.found - 1).checked_div(self.spec.row_elements()).unwrap_or_default(),
            name: self.spec.name.clone(),
            dtype: self.spec.dtype,
            found,
        };
        macro_rules! narrow {
            ($number:expr, $narrow:ty) => {{
                let number = $number;
                let narrow = <$narrow>::try_from(number).map_err(|_| wrong(i64::from(number)))?;
                self.data.extend_from_slice(&narrow.to_le_bytes());
            }};
        }
        match self.spec.dtype {
            DataType::Bool => self.data.push(u8::from(number != 0)),
            DataType::Int8 => narrow!(signed, i8),
            DataType::Int16 => narrow!(signed, i16),
            DataType::Int32 => self.data.extend_from_slice(&signed.to_le_bytes()),
            DataType::Uint8 => narrow!(unsigned, u8),
            DataType::Uint16 => narrow!(unsigned, u16),
            DataType::Uint32 => self.data.extend_from_slice(&unsigned.to_le_bytes()),
            DataType::Int64 | DataType::Uint64 => self.data.extend_from_slice(&number.to_le_bytes()),
            DataType::Fp16 | DataType::Fp32 | DataType::Fp64 | DataType::Bytes => {
                return Err(GrpcError::Malformed);
            }
        }
        Ok(())
    }

    /// Counts elements before there is room made for them.
    fn count(&mut self, more: usize) -> Result<(), GrpcError> {
        self.found = self.found.saturating_add(more);
        if self.found > self.expected { Err(self.wrong_count()) } else { Ok(()) }
    }

    fn wrong_count(&self) -> GrpcError {
        let (name, expected, found) = (self.spec.name.clone(), self.expected, self.found);
        GrpcError::ElementCount { name, expected, found }
    }
}
