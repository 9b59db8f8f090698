use std::borrow::Cow;
use std::fmt;

use crate::{DataType, Element, Error};

/// One named column: elements in row-major order, little-endian, the first dimension being the row.
///
/// A tensor that exists is valid: its data has the length that its shape and type ask for, so no read can panic.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    name: String,
    dtype: DataType,
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// Runs `$body` with `$values` an exact-size iterator over the elements as `$target`; none for BYTES.
///
/// A macro and not a trait object, so that every element type gets a loop of its own that vectorises.
macro_rules! each_number {
    ($tensor:expr, $target:ty, $values:ident => $body:expr) => {{
        macro_rules! run {
            ($convert:expr) => {{
                let $values = $tensor.data.as_chunks().0.iter().map($convert);
                Some($body)
            }};
        }
        match $tensor.dtype {
            DataType::Bool | DataType::Uint8 => run!(|&[byte]: &[u8; 1]| byte as $target),
            DataType::Uint16 => run!(|bytes| u16::from_le_bytes(*bytes) as $target),
            DataType::Uint32 => run!(|bytes| u32::from_le_bytes(*bytes) as $target),
            DataType::Uint64 => run!(|bytes| u64::from_le_bytes(*bytes) as $target),
            DataType::Int8 => run!(|bytes| i8::from_le_bytes(*bytes) as $target),
            DataType::Int16 => run!(|bytes| i16::from_le_bytes(*bytes) as $target),
            DataType::Int32 => run!(|bytes| i32::from_le_bytes(*bytes) as $target),
            DataType::Int64 => run!(|bytes| i64::from_le_bytes(*bytes) as $target),
            DataType::Fp16 => run!(|bytes| half::f16::from_le_bytes(*bytes).to_f32() as $target),
            DataType::Fp32 => run!(|bytes| f32::from_le_bytes(*bytes) as $target),
            DataType::Fp64 => run!(|bytes| f64::from_le_bytes(*bytes) as $target),
            DataType::Bytes => None,
        }
    }};
}

impl Tensor {
    /// Makes a tensor of `data`, checked against `shape` and `dtype`.
    ///
    /// Fails with [`Error::Other`]: parts that do not fit are the fault of the plugin that makes them.
    pub fn new(
        name: impl Into<String>,
        dtype: DataType,
        shape: impl Into<Vec<usize>>,
        data: Vec<u8>,
    ) -> Result<Self, Error> {
        let tensor = Self { name: name.into(), dtype, shape: shape.into(), data };
        match tensor.fault() {
            None => Ok(tensor),
            Some(fault) => Err(Error::Other(format!("column `{}` {fault}", tensor.name))),
        }
    }

    /// Makes a tensor of numbers, whose Rust type gives the element type.
    ///
    /// Pass an iterator instead of a collection where you can: the elements are then computed straight into the
    /// tensor's buffer, by vector instructions where the computation allows.
    ///
    /// ```
    /// # use mlops_plugin::{DataType, Tensor};
    /// let halves = Tensor::from_values("halves", [3], [1_u8, 2, 3].iter().map(|&value| f32::from(value) / 2.0))?;
    /// assert_eq!(halves.dtype(), DataType::Fp32);
    /// assert_eq!(*halves.as_f32()?, [0.5, 1.0, 1.5]);
    /// # Ok::<_, mlops_plugin::Error>(())
    /// ```
    pub fn from_values<T: Element>(
        name: impl Into<String>,
        shape: impl Into<Vec<usize>>,
        values: impl IntoIterator<Item = T>,
    ) -> Result<Self, Error> {
        Self::new(name, T::DTYPE, shape, T::encode(values.into_iter()))
    }

    /// Makes a BYTES tensor.
    pub fn from_strings(
        name: impl Into<String>,
        shape: impl Into<Vec<usize>>,
        values: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Result<Self, Error> {
        let name = name.into();
        let mut data = Vec::new();
        for value in values {
            let value = value.as_ref();
            let Ok(length) = u32::try_from(value.len()) else {
                return Err(Error::Other(format!("column `{name}` holds a byte string of 4 GiB or more")));
            };
            data.extend_from_slice(&length.to_le_bytes());
            data.extend_from_slice(value);
        }
        Self::new(name, DataType::Bytes, shape, data)
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

    /// Number of elements in one row; zero where a dimension is zero.
    pub fn row_elements(&self) -> usize {
        self.row_shape().iter().product()
    }

    /// The elements as they crossed the boundary.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Gives name, type, shape and elements away.
    pub fn into_parts(self) -> (String, DataType, Vec<usize>, Vec<u8>) {
        (self.name, self.dtype, self.shape, self.data)
    }

    /// The same column under another name.
    pub fn renamed(self, name: impl Into<String>) -> Result<Self, Error> {
        Self::new(name, self.dtype, self.shape, self.data)
    }

    /// The elements as `T`, borrowed where the buffer is aligned, which it is in a guest.
    ///
    /// Fails with [`Error::InvalidInput`] where the type is another.
    pub fn values<T: Element>(&self) -> Result<Cow<'_, [T]>, Error> {
        if self.dtype == T::DTYPE {
            Ok(T::decode(&self.data))
        } else {
            Err(self.unexpected_type(T::DTYPE.as_str()))
        }
    }

    /// The elements of an FP32 tensor: [`Tensor::values`] of `f32`.
    pub fn as_f32(&self) -> Result<Cow<'_, [f32]>, Error> {
        self.values()
    }

    /// The elements as 32-bit floats, whatever the numeric type; borrowed where they are.
    ///
    /// What a 32-bit float cannot hold is rounded; out of range becomes infinite. Fails with
    /// [`Error::InvalidInput`] for BYTES.
    pub fn to_f32(&self) -> Result<Cow<'_, [f32]>, Error> {
        if self.dtype == DataType::Fp32 {
            return self.as_f32();
        }
        each_number!(self, f32, values => values.collect()).ok_or_else(|| self.unexpected_type("numbers"))
    }

    /// The elements as 64-bit floats, whatever the numeric type; borrowed where they are.
    ///
    /// 64-bit integers beyond 2^53 are rounded. Fails with [`Error::InvalidInput`] for BYTES.
    pub fn to_f64(&self) -> Result<Cow<'_, [f64]>, Error> {
        if self.dtype == DataType::Fp64 {
            return self.values();
        }
        each_number!(self, f64, values => values.collect()).ok_or_else(|| self.unexpected_type("numbers"))
    }

    /// The elements of an integer or BOOL tensor as 64-bit integers; borrowed where they are.
    ///
    /// Fails with [`Error::InvalidInput`] for other types, and for a UINT64 that does not fit.
    pub fn to_i64(&self) -> Result<Cow<'_, [i64]>, Error> {
        match self.dtype {
            DataType::Int64 => self.values(),
            DataType::Uint64 => {
                let convert = |(index, &value): (usize, &u64)| {
                    i64::try_from(value).map_err(|_| {
                        let row = index / self.row_elements().max(1);
                        let message = format!("expected an integer up to {}, found {value}", i64::MAX);
                        Error::invalid_input(message).row(row).column(&self.name)
                    })
                };
                self.values::<u64>()?
                    .iter()
                    .enumerate()
                    .map(convert)
                    .collect::<Result<_, _>>()
                    .map(Cow::Owned)
            }
            dtype if dtype.is_integer() => each_number!(self, i64, values => values.collect())
                .ok_or_else(|| self.unexpected_type("integers")),
            _ => Err(self.unexpected_type("integers")),
        }
    }

    /// The elements of a BYTES tensor in order.
    ///
    /// Fails with [`Error::InvalidInput`] where the type is another.
    pub fn byte_strings(&self) -> Result<impl Iterator<Item = &[u8]>, Error> {
        if self.dtype == DataType::Bytes {
            Ok(ByteStrings { data: &self.data })
        } else {
            Err(self.unexpected_type("BYTES"))
        }
    }

    /// An FP32 tensor of the same shape under another name: `convert` of every element, whatever its numeric type.
    ///
    /// The fast way to write an element-wise transformer: one pass, compiled for every element type.
    pub fn map_f32(&self, name: impl Into<String>, convert: impl Fn(f32) -> f32) -> Result<Self, Error> {
        let data = match self.dtype {
            DataType::Uint8 | DataType::Bool => Some(map_bytes(&self.data, convert)),
            _ => each_number!(self, f32, values => f32::encode(values.map(&convert))),
        };
        let data = data.ok_or_else(|| self.unexpected_type("numbers"))?;
        Self::new(name, DataType::Fp32, self.shape.as_slice(), data)
    }

    /// The same elements with rows of `row_shape`, for example `&[784]` for rows of 28 × 28.
    ///
    /// Fails with [`Error::InvalidInput`] where the rows have another number of elements.
    pub fn with_row_shape(mut self, row_shape: &[usize]) -> Result<Self, Error> {
        let elements = row_shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
        if elements != Some(self.row_elements()) {
            let expected = shape_text(row_shape);
            let message = format!("expected rows of {expected}, found {}", shape_text(self.row_shape()));
            return Err(Error::invalid_input(message).column(self.name));
        }
        self.shape.truncate(1);
        self.shape.extend_from_slice(row_shape);
        Ok(self)
    }

    /// An error that names this column and its type.
    fn unexpected_type(&self, expected: &str) -> Error {
        Error::invalid_input(format!("expected {expected}, found {}", self.dtype)).column(&self.name)
    }

    /// What keeps this from being a tensor, as the rest of a sentence that begins with the column.
    fn fault(&self) -> Option<String> {
        let Self { name, dtype, shape, data } = self;
        if name.is_empty() || name.len() > 256 {
            return Some(format!("has a name of {} bytes: expected 1 to 256", name.len()));
        }
        let Some((&rows, row_shape)) = shape.split_first() else {
            return Some("has no dimensions: expected at least one, the row".to_owned());
        };
        // Multiplied without the rows first: zero rows must not hide a row too large to count.
        let row_elements = row_shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
        let Some(elements) = row_elements.and_then(|elements| elements.checked_mul(rows)) else {
            return Some(format!("of shape {shape:?} is too large to address"));
        };
        match dtype.size().map(|size| elements.checked_mul(size)) {
            Some(None) => Some(format!("of shape {shape:?} is too large to address")),
            Some(Some(expected)) if expected != data.len() => Some(format!(
                "of shape {shape:?} and type {dtype}: expected {expected} bytes, found {}",
                data.len()
            )),
            None if !holds_byte_strings(data, elements) => {
                Some(format!("holds byte strings that do not match its shape {shape:?}"))
            }
            Some(Some(_)) | None => None,
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {} {:?}", self.name, self.dtype, self.shape)
    }
}

/// The encoded results of `convert` for each of `bytes`.
///
/// Sixteen in each step of the loop: the compiler for WebAssembly would make steps of four, and in each the guest also
/// looks at its clock.
fn map_bytes(bytes: &[u8], convert: impl Fn(f32) -> f32) -> Vec<u8> {
    let convert = |byte: u8| convert(f32::from(byte)).to_le_bytes();
    let (groups, rest) = bytes.as_chunks::<16>();
    let mut data = Vec::with_capacity(bytes.len());
    for group in groups {
        data.extend_from_slice(&group.map(convert));
    }
    data.extend(rest.iter().map(|&byte| convert(byte)));
    data.into_flattened()
}

/// Dimensions of a row for people: `28 × 28`, or `one element`.
pub(crate) fn shape_text(shape: &[usize]) -> String {
    match shape {
        [] => "one element".to_owned(),
        sizes => sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" × "),
    }
}

struct ByteStrings<'a> {
    data: &'a [u8],
}

impl<'a> Iterator for ByteStrings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.data.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        self.data = rest;
        Some(value)
    }
}

fn holds_byte_strings(data: &[u8], elements: usize) -> bool {
    let mut strings = ByteStrings { data };
    let found = strings.by_ref().count();
    found == elements && strings.data.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dtype: DataType, data: &[u8]) -> Tensor {
        Tensor::new("x", dtype, [data.len() / dtype.size().unwrap()], data.to_vec()).unwrap()
    }

    #[test]
    fn refuses_data_that_does_not_match_shape() {
        let refusal = |dtype, shape: &[usize], length| {
            Tensor::new("x", dtype, shape, vec![0; length]).unwrap_err().to_string()
        };
        assert_eq!(
            refusal(DataType::Fp32, &[2, 3], 23),
            "column `x` of shape [2, 3] and type FP32: expected 24 bytes, found 23"
        );
        assert_eq!(
            refusal(DataType::Fp32, &[], 4),
            "column `x` has no dimensions: expected at least one, the row"
        );
        for shape in [&[usize::MAX, 2][..], &[usize::MAX], &[0, usize::MAX, 2]] {
            assert!(refusal(DataType::Fp64, shape, 0).ends_with("is too large to address"));
        }
        assert!(Tensor::new("", DataType::Uint8, [0], vec![]).is_err());
        assert!(Tensor::new("x".repeat(257), DataType::Uint8, [0], vec![]).is_err());
    }

    #[test]
    fn refuses_byte_strings_that_do_not_match_shape() {
        let tensor = Tensor::from_strings("x", [3], ["a", "", "ccc"]).unwrap();
        let strings = tensor.byte_strings().unwrap().collect::<Vec<_>>();
        assert_eq!(strings, [&b"a"[..], b"", b"ccc"]);
        for (rows, data) in
            [(2, tensor.data().to_vec()), (4, tensor.data().to_vec()), (1, vec![9, 0, 0, 0]), (1, vec![0; 3])]
        {
            assert!(Tensor::new("x", DataType::Bytes, [rows], data).is_err());
        }
        assert!(Tensor::new("x", DataType::Bytes, [1], u32::MAX.to_le_bytes().to_vec()).is_err());
    }

    #[test]
    fn numbers_of_every_type_widen() {
        for (tensor, expected) in [
            (tensor(DataType::Bool, &[0, 1]), [0.0, 1.0]),
            (tensor(DataType::Uint8, &[0, 255]), [0.0, 255.0]),
            (tensor(DataType::Int8, &[0, 255]), [0.0, -1.0]),
            (tensor(DataType::Uint16, &[0, 0, 255, 255]), [0.0, 65535.0]),
            (tensor(DataType::Int16, &[0, 0, 255, 255]), [0.0, -1.0]),
            (tensor(DataType::Fp16, &[0, 0x3c, 0, 0xc0]), [1.0, -2.0]),
            (Tensor::from_values("x", [2], [0_u32, 7]).unwrap(), [0.0, 7.0]),
            (Tensor::from_values("x", [2], [0_i32, -7]).unwrap(), [0.0, -7.0]),
            (Tensor::from_values("x", [2], [0_u64, 7]).unwrap(), [0.0, 7.0]),
            (Tensor::from_values("x", [2], [0_i64, -7]).unwrap(), [0.0, -7.0]),
            (Tensor::from_values("x", [2], [0.5_f32, -7.0]).unwrap(), [0.5, -7.0]),
            (Tensor::from_values("x", [2], [0.5_f64, -7.0]).unwrap(), [0.5, -7.0]),
        ] {
            assert_eq!(*tensor.to_f64().unwrap(), expected, "{tensor:?}");
            assert_eq!(*tensor.to_f32().unwrap(), expected.map(|value| value as f32), "{tensor:?}");
            let doubled = tensor.map_f32("y", |value| value * 2.0).unwrap();
            assert_eq!(*doubled.as_f32().unwrap(), expected.map(|value| value as f32 * 2.0), "{tensor:?}");
            let integers = tensor.to_i64().ok().map(|values| values.to_vec());
            let whole = expected.map(|value| value as i64).to_vec();
            assert_eq!(integers, tensor.dtype().is_integer().then_some(whole), "{tensor:?}");
        }
    }

    #[test]
    fn bytes_are_mapped_as_numbers_of_any_type_are() {
        for count in [0, 1, 15, 16, 17, 256] {
            let bytes: Vec<u8> = (0..count).map(|index| (index * 37 % 256) as u8).collect();
            let wide = Tensor::from_values("x", [count], bytes.iter().map(|&byte| u16::from(byte))).unwrap();
            let expected = wide.map_f32("y", |value| value / 255.0).unwrap();
            assert_eq!(
                tensor(DataType::Uint8, &bytes).map_f32("y", |value| value / 255.0).unwrap(),
                expected
            );
        }
    }

    #[test]
    fn views_borrow_where_aligned_and_copy_where_not() {
        let aligned = Tensor::from_values("x", [2], [1.0_f32, 2.0]).unwrap();
        let values = aligned.as_f32().unwrap();
        assert_eq!(matches!(values, Cow::Borrowed(_)), aligned.data().as_ptr().addr().is_multiple_of(4));

        let mut bytes = vec![0];
        bytes.extend_from_slice(aligned.data());
        for start in 0..2 {
            assert_eq!(
                *f32::decode(&bytes[start..start + 4]),
                [f32::from_le_bytes(bytes[start..][..4].try_into().unwrap())]
            );
        }
    }

    #[test]
    fn names_the_type_that_was_found() {
        let text = Tensor::from_strings("x", [1], ["a"]).unwrap();
        let expected = "column `x`: expected numbers, found BYTES";
        assert_eq!(text.to_f32().unwrap_err().to_string(), expected);
        assert_eq!(text.to_f64().unwrap_err().to_string(), expected);
        assert_eq!(text.map_f32("y", |value| value).unwrap_err().to_string(), expected);
        assert_eq!(text.as_f32().unwrap_err().to_string(), "column `x`: expected FP32, found BYTES");
        let huge = Tensor::from_values("x", [2, 1], [1, u64::MAX]).unwrap();
        assert_eq!(
            huge.to_i64().unwrap_err().to_string(),
            "column `x`, row 1: expected an integer up to 9223372036854775807, found 18446744073709551615"
        );
    }

    #[test]
    fn rows_take_another_shape_of_the_same_size() {
        let image = Tensor::new("x", DataType::Uint8, [3, 2, 2], vec![0; 12]).unwrap();
        assert_eq!(image.clone().with_row_shape(&[4]).unwrap().shape(), [3, 4]);
        assert_eq!(
            image.with_row_shape(&[5]).unwrap_err().to_string(),
            "column `x`: expected rows of 5, found 2 × 2"
        );
    }
}
