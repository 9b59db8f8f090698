use std::borrow::Cow;

use super::{DataType, half_to_f64};

/// Lists that a row without elements may be written in: they have no data that would bound them.
const EMPTY_LISTS_MAX: usize = 1_024;

/// One named column: elements in row-major order, little-endian, the first dimension being the row.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    name: String,
    dtype: DataType,
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// Parts that do not make a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum TensorError {
    #[error("column name of {length} bytes: expected 1 to 256")]
    NameLength { length: usize },
    #[error("column `{name}` has no dimensions: expected at least one, the row")]
    NoDimensions { name: String },
    #[error("column `{name}`: expected at most {} dimensions, found {found}", Tensor::DIMENSIONS_MAX)]
    TooManyDimensions { name: String, found: usize },
    #[error(
        "column `{name}` of shape {shape:?}: expected at most {EMPTY_LISTS_MAX} lists in a row of no elements"
    )]
    TooManyLists { name: String, shape: Vec<usize> },
    #[error("column `{name}` of shape {shape:?} is too large to address")]
    TooLarge { name: String, shape: Vec<usize> },
    #[error("column `{name}` of shape {shape:?} and type {dtype}: expected {expected} bytes, found {found}")]
    DataLength { name: String, shape: Vec<usize>, dtype: DataType, expected: usize, found: usize },
    #[error("column `{name}` holds byte strings that do not match its shape {shape:?}")]
    ByteStrings { name: String, shape: Vec<usize> },
    #[error("column `{name}`, element {element}: expected 0 or 1, a truth value, found {found}")]
    TruthValue { name: String, element: usize, found: u8 },
}

impl Tensor {
    /// Dimensions that a tensor may have, the row among them; no column has ten. Lists are written as deep as that.
    pub const DIMENSIONS_MAX: usize = 64;

    /// Makes a tensor of `data`, checked against `shape` and `dtype`.
    pub fn new(
        name: impl Into<String>,
        dtype: DataType,
        shape: Vec<usize>,
        data: Vec<u8>,
    ) -> Result<Self, TensorError> {
        let name = name.into();
        if name.is_empty() || name.len() > 256 {
            return Err(TensorError::NameLength { length: name.len() });
        }
        let Some((&rows, row_shape)) = shape.split_first() else {
            return Err(TensorError::NoDimensions { name });
        };
        if shape.len() > Self::DIMENSIONS_MAX {
            return Err(TensorError::TooManyDimensions { name, found: shape.len() });
        }
        // The row by itself first: no rows of it would hide that it overflows.
        let row_elements = row_shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
        let row_elements =
            row_elements.filter(|&count| count.checked_mul(dtype.size().unwrap_or(1)).is_some());
        let Some(elements) = row_elements.and_then(|count| count.checked_mul(rows)) else {
            return Err(TensorError::TooLarge { name, shape });
        };
        if row_elements == Some(0) && lists_of_row(row_shape) > EMPTY_LISTS_MAX {
            return Err(TensorError::TooManyLists { name, shape });
        }
        match dtype.size().map(|size| elements.checked_mul(size)) {
            Some(None) => return Err(TensorError::TooLarge { name, shape }),
            Some(Some(expected)) if expected != data.len() => {
                let found = data.len();
                return Err(TensorError::DataLength { name, shape, dtype, expected, found });
            }
            None if !holds_byte_strings(&data, elements) => {
                return Err(TensorError::ByteStrings { name, shape });
            }
            Some(Some(_)) | None => {}
        }
        if dtype == DataType::Bool
            && let Some((element, &found)) = data.iter().enumerate().find(|(_, byte)| **byte > 1)
        {
            return Err(TensorError::TruthValue { name, element, found });
        }
        Ok(Self { name, dtype, shape, data })
    }

    /// Makes an FP32 tensor.
    pub fn from_f32(name: impl Into<String>, shape: Vec<usize>, values: &[f32]) -> Result<Self, TensorError> {
        // Little-endian targets only (checked in `domain`), where the bytes of a float slice are the wire format.
        Self::new(name, DataType::Fp32, shape, bytemuck::cast_slice(values).to_vec())
    }

    /// Makes a BYTES tensor of one dimension.
    pub fn from_strings<'a>(
        name: impl Into<String>,
        values: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, TensorError> {
        let mut data = Vec::new();
        let mut rows = 0;
        let name = name.into();
        for value in values {
            let Ok(length) = u32::try_from(value.len()) else {
                return Err(TensorError::TooLarge { name, shape: vec![value.len()] });
            };
            data.extend_from_slice(&length.to_le_bytes());
            data.extend_from_slice(value);
            rows += 1;
        }
        Self::new(name, DataType::Bytes, vec![rows], data)
    }

    /// Column name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Element type.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// Dimensions, the row first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Dimensions of one row.
    pub fn row_shape(&self) -> &[usize] {
        self.shape.get(1..).unwrap_or_default()
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or_default()
    }

    /// Number of elements in one row.
    pub fn row_elements(&self) -> usize {
        self.row_shape().iter().product()
    }

    /// Lists that one row is written in.
    pub fn row_lists(&self) -> usize {
        lists_of_row(self.row_shape())
    }

    /// The elements as they cross every boundary.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Gives the elements away.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// The same column under another name.
    pub fn renamed(mut self, name: impl Into<String>) -> Result<Self, TensorError> {
        self.name = name.into();
        Self::new(self.name, self.dtype, self.shape, self.data)
    }

    /// The elements as floats, borrowed where the buffer is aligned; none if the type is not FP32.
    pub fn as_f32(&self) -> Option<Cow<'_, [f32]>> {
        (self.dtype == DataType::Fp32).then(|| elements(&self.data))
    }

    /// The same of FP64.
    pub fn as_f64(&self) -> Option<Cow<'_, [f64]>> {
        (self.dtype == DataType::Fp64).then(|| elements(&self.data))
    }

    /// The same of INT32.
    pub fn as_i32(&self) -> Option<Cow<'_, [i32]>> {
        (self.dtype == DataType::Int32).then(|| elements(&self.data))
    }

    /// The same of INT64.
    pub fn as_i64(&self) -> Option<Cow<'_, [i64]>> {
        (self.dtype == DataType::Int64).then(|| elements(&self.data))
    }

    /// The same of UINT64.
    pub fn as_u64(&self) -> Option<Cow<'_, [u64]>> {
        (self.dtype == DataType::Uint64).then(|| elements(&self.data))
    }

    /// The elements as 64-bit floats, whatever the numeric type; none for BYTES and FP16.
    ///
    /// 64-bit integers beyond 2^53 are rounded.
    pub fn to_f64(&self) -> Option<Vec<f64>> {
        (self.dtype != DataType::Fp16).then(|| numbers(self.dtype, &self.data)).flatten()
    }

    /// The elements as 32-bit floats, each the nearest; none for BYTES and FP16. By way of [`Self::to_f64`], 64-bit integers would be
    /// rounded twice.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let is_taken = self.dtype != DataType::Fp16;
        let floats = || {
            converted(
                self.dtype,
                &self.data,
                |value| value as f32,
                |value| value as f32,
                |value| value as f32,
            )
        };
        is_taken.then(floats).flatten()
    }

    /// Like [`Self::to_f64`], of FP16 too, and at most `elements` at a time; none at all for BYTES.
    pub fn number_blocks(&self, elements: usize) -> impl Iterator<Item = Vec<f64>> {
        let block = elements.max(1).saturating_mul(self.dtype.size().unwrap_or(1));
        self.data.chunks(block).map_while(|block| numbers(self.dtype, block))
    }

    /// The column as FP64, if it holds integers or truth values that are all the same there; otherwise as it is.
    pub fn widened_to_f64(self) -> Self {
        const INTEGER_MAX: u64 = 1 << f64::MANTISSA_DIGITS;
        let is_held = match self.dtype {
            DataType::Int64 => self
                .as_i64()
                .is_some_and(|values| values.iter().all(|value| value.unsigned_abs() <= INTEGER_MAX)),
            DataType::Uint64 => {
                self.as_u64().is_some_and(|values| values.iter().all(|value| *value <= INTEGER_MAX))
            }
            dtype => !dtype.is_float(),
        };
        match is_held.then(|| self.to_f64()).flatten() {
            Some(values) => {
                Self { dtype: DataType::Fp64, data: bytemuck::cast_slice(&values).to_vec(), ..self }
            }
            None => self,
        }
    }

    /// The elements of a BYTES tensor in order; empty for other types.
    pub fn byte_strings(&self) -> impl Iterator<Item = &[u8]> {
        let data = if self.dtype == DataType::Bytes { self.data.as_slice() } else { &[] };
        ByteStrings { data }
    }

    /// Rows `range` as a tensor of their own; none where they are not all there.
    pub fn slice_rows(&self, range: std::ops::Range<usize>) -> Option<Self> {
        let count = range.end.checked_sub(range.start).filter(|_| range.end <= self.rows())?;
        let elements = self.row_elements();
        let bytes = match self.dtype.size() {
            Some(size) => {
                let stride = elements * size;
                range.start * stride..range.end * stride
            }
            None => {
                let mut strings = ByteStrings { data: &self.data };
                let skipped: usize = strings.by_ref().take(range.start * elements).map(|s| s.len() + 4).sum();
                let taken: usize = strings.take(count * elements).map(|s| s.len() + 4).sum();
                skipped..skipped + taken
            }
        };
        let mut shape = self.shape.clone();
        *shape.first_mut()? = count;
        Some(Self { name: self.name.clone(), dtype: self.dtype, shape, data: self.data.get(bytes)?.to_vec() })
    }

    /// The rows for which `kept` is true, as a tensor of their own; rows beyond its end are not kept.
    pub fn keep_rows(&self, kept: &[bool]) -> Self {
        let elements = self.row_elements();
        let rows = kept.iter().take(self.rows()).filter(|kept| **kept).count();
        let mut data = Vec::with_capacity((self.data.len() / self.rows().max(1)).saturating_mul(rows));
        match self.dtype.size().map(|size| size * elements) {
            Some(0) => {}
            Some(row_bytes) => {
                let mut first = 0;
                for run in kept.chunk_by(|a, b| a == b) {
                    let end = first + run.len();
                    if run.first() == Some(&true) {
                        let end = (end * row_bytes).min(self.data.len());
                        data.extend_from_slice(self.data.get(first * row_bytes..end).unwrap_or_default());
                    }
                    first = end;
                }
            }
            None => {
                let mut strings = ByteStrings { data: &self.data };
                for kept in kept {
                    let before = strings.data;
                    let bytes: usize = strings.by_ref().take(elements).map(|string| string.len() + 4).sum();
                    if *kept {
                        data.extend_from_slice(before.get(..bytes).unwrap_or_default());
                    }
                }
            }
        }
        let shape = [rows].into_iter().chain(self.row_shape().iter().copied()).collect();
        Self { name: self.name.clone(), dtype: self.dtype, shape, data }
    }

    /// Makes room for `more` rows, judging by the `present` ones.
    pub(super) fn reserve_rows(&mut self, more: usize, present: usize) {
        self.data.reserve(more.saturating_mul(self.data.len() / present.max(1)));
    }

    /// Appends the rows of `other`, which must have the same type and row shape; says whether it has.
    pub(super) fn append(&mut self, other: &Self) -> bool {
        if self.dtype != other.dtype || self.row_shape() != other.row_shape() {
            return false;
        }
        if let Some(rows) = self.shape.first_mut() {
            *rows += other.rows();
        }
        self.data.extend_from_slice(&other.data);
        true
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {} {:?}", self.name, self.dtype, self.shape)
    }
}

/// Elements as what they are, borrowed where the buffer is aligned.
fn elements<T: bytemuck::AnyBitPattern>(data: &[u8]) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(data) {
        Ok(values) => Cow::Borrowed(values),
        Err(_) => Cow::Owned(data.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()),
    }
}

/// The integer that a float is; none where it is none, or beyond 64 bits.
pub fn whole_number(value: f64) -> Option<i64> {
    const END: f64 = 9_223_372_036_854_775_808.0;
    // NaN and infinities have no fraction that is 0.
    (value.fract() == 0.0 && (-END..END).contains(&value)).then_some(value as i64)
}

/// Elements of a numeric type as 64-bit floats; none for BYTES.
fn numbers(dtype: DataType, data: &[u8]) -> Option<Vec<f64>> {
    converted(dtype, data, |value| value, |value| value as f64, |value| value as f64)
}

/// Elements of a numeric type by what 64-bit integers become, and what all others do, which 64-bit floats hold; none for BYTES.
fn converted<T>(
    dtype: DataType,
    data: &[u8],
    float: impl Fn(f64) -> T,
    signed: impl Fn(i64) -> T,
    unsigned: impl Fn(u64) -> T,
) -> Option<Vec<T>> {
    fn each<const N: usize, T>(data: &[u8], value: impl Fn([u8; N]) -> T) -> Option<Vec<T>> {
        Some(data.as_chunks::<N>().0.iter().map(|bytes| value(*bytes)).collect())
    }
    match dtype {
        DataType::Bool | DataType::Uint8 => each(data, |[byte]| float(f64::from(byte))),
        DataType::Uint16 => each(data, |bytes| float(f64::from(u16::from_le_bytes(bytes)))),
        DataType::Uint32 => each(data, |bytes| float(f64::from(u32::from_le_bytes(bytes)))),
        DataType::Uint64 => each(data, |bytes| unsigned(u64::from_le_bytes(bytes))),
        DataType::Int8 => each(data, |bytes| float(f64::from(i8::from_le_bytes(bytes)))),
        DataType::Int16 => each(data, |bytes| float(f64::from(i16::from_le_bytes(bytes)))),
        DataType::Int32 => each(data, |bytes| float(f64::from(i32::from_le_bytes(bytes)))),
        DataType::Int64 => each(data, |bytes| signed(i64::from_le_bytes(bytes))),
        DataType::Fp16 => each(data, |bytes| float(half_to_f64(u16::from_le_bytes(bytes)))),
        DataType::Fp32 => each(data, |bytes| float(f64::from(f32::from_le_bytes(bytes)))),
        DataType::Fp64 => each(data, |bytes| float(f64::from_le_bytes(bytes))),
        DataType::Bytes => None,
    }
}

/// Lists that a row is written in: one, one for each element of that, and so on up to those that have none.
fn lists_of_row(row_shape: &[usize]) -> usize {
    let (mut lists, mut in_last) = (0_usize, 1_usize);
    for size in row_shape {
        lists = lists.saturating_add(in_last);
        in_last = in_last.saturating_mul(*size);
    }
    lists
}

struct ByteStrings<'a> {
    data: &'a [u8],
}

impl<'a> Iterator for ByteStrings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.data.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.data = rest;
        Some(value)
    }
}

fn holds_byte_strings(data: &[u8], elements: usize) -> bool {
    let mut strings = ByteStrings { data };
    let found = strings.by_ref().count();
    found == elements && strings.data.is_empty()
}

const _: () = assert!(cfg!(target_endian = "little"), "tensor bytes are little-endian");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_data_that_does_not_match_shape() {
        assert!(Tensor::new("x", DataType::Fp32, vec![2, 3], vec![0; 24]).is_ok());
        let error = Tensor::new("x", DataType::Fp32, vec![2, 3], vec![0; 23]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "column `x` of shape [2, 3] and type FP32: expected 24 bytes, found 23"
        );
        assert!(matches!(
            Tensor::new("x", DataType::Fp64, vec![usize::MAX, 2], vec![]),
            Err(TensorError::TooLarge { .. })
        ));
        assert!(matches!(
            Tensor::new("x", DataType::Fp64, vec![usize::MAX], vec![]),
            Err(TensorError::TooLarge { .. })
        ));
        assert!(matches!(
            Tensor::new("x", DataType::Uint8, vec![0, usize::MAX, 2], vec![]),
            Err(TensorError::TooLarge { .. })
        ));
        assert!(Tensor::new("", DataType::Fp64, vec![0], vec![]).is_err());
        assert!(Tensor::new("x", DataType::Fp64, vec![], vec![0; 8]).is_err());
    }

    #[test]
    fn refuses_more_dimensions_than_lists_are_written_in() {
        let of = |dimensions: usize| Tensor::new("x", DataType::Uint8, vec![1; dimensions], vec![0]);
        assert!(of(Tensor::DIMENSIONS_MAX).is_ok());
        let error = of(1_000_000).unwrap_err();
        assert_eq!(error.to_string(), "column `x`: expected at most 64 dimensions, found 1000000");
    }

    #[test]
    fn refuses_truth_values_that_are_neither() {
        let of = |data: &[u8]| Tensor::new("ok", DataType::Bool, vec![data.len()], data.to_vec());
        assert!(of(&[0, 1, 1]).is_ok());
        let error = of(&[0, 1, 2, 255]).unwrap_err();
        assert_eq!(error.to_string(), "column `ok`, element 2: expected 0 or 1, a truth value, found 2");
    }

    #[test]
    fn refuses_rows_of_nothing_in_many_lists() {
        let of = |shape: &[usize]| Tensor::new("x", DataType::Fp32, shape.to_vec(), Vec::new());
        for few in [&[100_000, 0][..], &[2, 1_023, 0], &[2, 0, 1 << 40], &[0, 1 << 40], &[1, 1, 1, 0]] {
            assert!(of(few).is_ok(), "{few:?}");
        }
        for many in
            [&[1, 1_024, 0][..], &[0, 1_024, 0], &[1, 1 << 40, 0], &[1, 512, 1, 0], &[1, 1, 1 << 40, 3, 0]]
        {
            assert!(matches!(of(many), Err(TensorError::TooManyLists { .. })), "{many:?}");
        }
        let error = of(&[1, 3_000_000_000, 0]).unwrap_err();
        let told =
            "column `x` of shape [1, 3000000000, 0]: expected at most 1024 lists in a row of no elements";
        assert_eq!(error.to_string(), told);
    }

    #[test]
    fn byte_strings_are_checked_and_sliced() {
        let tensor = Tensor::from_strings("s", [&b"a"[..], b"", b"ccc"]).unwrap();
        assert_eq!(tensor.shape(), [3]);
        assert_eq!(tensor.byte_strings().collect::<Vec<_>>(), [&b"a"[..], b"", b"ccc"]);
        let tail = tensor.slice_rows(1..3).unwrap();
        assert_eq!(tail.byte_strings().collect::<Vec<_>>(), [&b""[..], b"ccc"]);
        assert!(tensor.slice_rows(2..4).is_none());

        let mut data = tensor.data().to_vec();
        data.pop();
        assert!(Tensor::new("s", DataType::Bytes, vec![3], data).is_err());
        assert!(Tensor::new("s", DataType::Bytes, vec![2], tensor.data().to_vec()).is_err());
    }

    #[test]
    fn kept_rows_are_those_of_slices() {
        let strings = Tensor::from_strings("s", [&b"a"[..], b"", b"ccc", b"dd"]).unwrap();
        let pairs = Tensor::new("x", DataType::Uint16, vec![4, 2], (0..16).collect()).unwrap();
        for tensor in [strings, pairs] {
            for bits in 0..16_u8 {
                let kept: Vec<bool> = (0..4).map(|row| bits >> row & 1 == 1).collect();
                let mut expected = tensor.slice_rows(0..0).unwrap();
                for row in (0..4).filter(|row| kept[*row]) {
                    assert!(expected.append(&tensor.slice_rows(row..row + 1).unwrap()));
                }
                assert_eq!(tensor.keep_rows(&kept), expected);
                assert_eq!(tensor.keep_rows(&kept).data(), expected.data());
            }
        }
    }

    #[test]
    fn half_floats_have_their_values() {
        // numpy.frombuffer(bytes, "<f2")
        let values = [
            (0x0000, 0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65_504.0),
            (0x0001, 2.0_f64.powi(-24)),
            (0x0400, 2.0_f64.powi(-14)),
            (0x3555, 0.333_251_953_125),
            (0xfc00, f64::NEG_INFINITY),
        ];
        let data = values.iter().flat_map(|(bits, _): &(u16, f64)| bits.to_le_bytes()).collect();
        let tensor = Tensor::new("x", DataType::Fp16, vec![values.len()], data).unwrap();
        let expected: Vec<f64> = values.iter().map(|(_, value)| *value).collect();
        assert_eq!(tensor.number_blocks(3).collect::<Vec<_>>().concat(), expected);
        assert!(half_to_f64(0x7e00).is_nan());
        assert!(tensor.to_f64().is_none());
    }

    #[test]
    fn numbers_widen_to_f64() {
        let tensor = Tensor::new("x", DataType::Int16, vec![2], vec![0xff, 0xff, 2, 0]).unwrap();
        assert_eq!(tensor.to_f64().unwrap(), [-1.0, 2.0]);
        assert!(tensor.as_f32().is_none());
    }

    #[test]
    fn integers_become_f64_where_it_holds_all_of_them() {
        let widened = |dtype, data: &[u8]| {
            let rows = data.len() / DataType::size(dtype).unwrap();
            let tensor = Tensor::new("x", dtype, vec![rows], data.to_vec()).unwrap().widened_to_f64();
            (tensor.dtype(), tensor.to_f64().unwrap())
        };
        let most = 1_i64 << 53;
        let signed = |values: &[i64]| widened(DataType::Int64, bytemuck::cast_slice(values));
        assert_eq!(signed(&[30, -most, most]), (DataType::Fp64, vec![30.0, -(most as f64), most as f64]));
        assert_eq!(signed(&[30, most + 1]).0, DataType::Int64);
        assert_eq!(signed(&[i64::MIN]).0, DataType::Int64);
        assert_eq!(widened(DataType::Uint64, bytemuck::cast_slice(&[u64::MAX])).0, DataType::Uint64);
        assert_eq!(widened(DataType::Bool, &[1, 0]), (DataType::Fp64, vec![1.0, 0.0]));
        assert_eq!(widened(DataType::Int8, &[255]), (DataType::Fp64, vec![-1.0]));
        assert_eq!(widened(DataType::Fp32, &[0; 4]).0, DataType::Fp32);
        let text = Tensor::from_strings("x", [&b"1"[..]]).unwrap();
        assert_eq!(text.clone().widened_to_f64(), text);
    }

    #[test]
    fn numbers_become_the_nearest_f32() {
        let floats = |dtype, data: &[u8]| {
            let rows = data.len() / DataType::size(dtype).unwrap();
            Tensor::new("x", dtype, vec![rows], data.to_vec()).unwrap().to_f32()
        };
        // Just above the middle of two of 32 bits, which a float of 64 bits is itself.
        let integer = (1_i64 << 60) + (1 << 36) + 1;
        let above = 1_152_921_642_045_800_448.0;
        let signed = [integer, -integer, i64::MAX];
        let expected = vec![above, -above, 9_223_372_036_854_775_808.0];
        assert_eq!(floats(DataType::Int64, bytemuck::cast_slice(&signed)).unwrap(), expected);
        let unsigned = [integer as u64, u64::MAX];
        let expected = vec![above, 18_446_744_073_709_551_616.0];
        assert_eq!(floats(DataType::Uint64, bytemuck::cast_slice(&unsigned)).unwrap(), expected);
        assert_eq!(
            floats(DataType::Fp64, bytemuck::cast_slice(&[0.1, 1e300])).unwrap(),
            [0.1, f32::INFINITY]
        );
        assert_eq!(floats(DataType::Int32, &16_777_217_i32.to_le_bytes()).unwrap(), [16_777_216.0]);
        assert_eq!(floats(DataType::Bool, &[1, 0]).unwrap(), [1.0, 0.0]);
        assert!(floats(DataType::Fp16, &[0, 0]).is_none());
    }
}
