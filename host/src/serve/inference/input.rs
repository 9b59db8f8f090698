use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::InferenceError;
use super::error::{shown, some_names};
use crate::domain::{BatchError, ColumnSpec, DataType, SchemaError, Tensor, TensorError};

/// What an input calls its content where its strings are bytes as base64 (RFC 4648), by MLServer's convention.
pub const BASE64: &str = "base64";

/// There are libraries that leave the padding out.
const DECODER: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Elements that are looked through at once for one that is not allowed.
const BLOCK_ELEMENTS: usize = 1_024;

/// Which of the columns `specs` has that name; `guess` is where it probably is.
pub fn find_column(specs: &[ColumnSpec], name: &str, guess: usize) -> Result<usize, InferenceError> {
    if specs.get(guess).is_some_and(|spec| spec.name == name) {
        return Ok(guess);
    }
    specs.iter().position(|spec| spec.name == name).ok_or_else(|| {
        let expected = some_names(specs.iter().map(|spec| spec.name.as_str()));
        SchemaError::Unknown { name: shown(name), expected }.into()
    })
}

/// How many rows a tensor has, whose type and shape must be those of the column `spec`.
///
/// Its first dimension is the row; the others must be the column's. Only of a column with one element a row, `[n]` and
/// `[n, 1]` mean the same, since there are clients that know but one of them.
pub fn check_head(
    spec: &ColumnSpec,
    datatype: &str,
    shape: &[usize],
    rows_max: usize,
) -> Result<usize, InferenceError> {
    let name = || spec.name.clone();
    if datatype != spec.dtype.as_str() {
        let found: DataType = shown(datatype)
            .parse()
            .map_err(|wrong: String| InferenceError::element(wrong, None, &spec.name))?;
        return Err(SchemaError::DataType { name: name(), expected: spec.dtype, found }.into());
    }
    let Some((&rows, row_shape)) = shape.split_first() else {
        return Err(TensorError::NoDimensions { name: name() }.into());
    };
    let is_scalar = |shape: &[usize]| matches!(shape, [] | [1]);
    if row_shape != spec.shape && !(is_scalar(row_shape) && is_scalar(&spec.shape)) {
        let (expected, found) = (spec.shape.clone(), row_shape.to_vec());
        return Err(SchemaError::Shape { name: name(), expected, found }.into());
    }
    match rows {
        0 => Err(InferenceError::NoRows),
        found if found > rows_max => Err(InferenceError::TooManyRows { limit: rows_max, found }),
        rows => Ok(rows),
    }
}

/// The column `spec` with `rows` rows of the elements in `data`.
///
/// Bytes can say what JSON cannot: a BOOL other than 0 and 1, and NaN in a column that has no missing elements, are
/// refused as JSON's way to write them is.
pub fn tensor_of_bytes(spec: &ColumnSpec, rows: usize, data: Vec<u8>) -> Result<Tensor, InferenceError> {
    if spec.dtype == DataType::Bytes {
        let elements = spec.row_elements().saturating_mul(rows);
        if let Some(wrong) = first_wrong_string(&data, elements) {
            return Err(wrong_element(spec, wrong));
        }
    }
    let tensor = tensor(spec, rows, data).map_err(|error| match error {
        InferenceError::Batch(BatchError::Tensor(TensorError::TruthValue { element, found, .. })) => {
            wrong_element(spec, (element, format!("expected 0 or 1, found {found}")))
        }
        error => error,
    })?;
    match first_wrong_number(spec, tensor.data()) {
        Some(wrong) => Err(wrong_element(spec, wrong)),
        None => Ok(tensor),
    }
}

/// The column `spec` with the byte strings that those of `tensor` say as [`BASE64`]. Other types are as they are.
pub fn from_base64(spec: &ColumnSpec, tensor: Tensor) -> Result<Tensor, InferenceError> {
    if spec.dtype != DataType::Bytes {
        return Ok(tensor);
    }
    // Three bytes of four, and as many for their length.
    let mut data = Vec::with_capacity(tensor.data().len());
    for (element, text) in tensor.byte_strings().enumerate() {
        let start = data.len();
        data.extend_from_slice(&[0; 4]);
        DECODER.decode_vec(text, &mut data).map_err(|error| {
            let wrong = match error {
                base64::DecodeError::InvalidByte(offset, byte) => {
                    format!("`{}` at byte {offset}", char::from(byte).escape_default())
                }
                _ => "a text that is cut off".to_owned(),
            };
            wrong_element(spec, (element, format!("expected base64, found {wrong}")))
        })?;
        // Shorter than its text, whose length has as many bytes.
        let length = u32::try_from(data.len() - start - 4).unwrap_or(u32::MAX);
        if let Some(place) = data.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }
    Ok(Tensor::new(spec.name.clone(), spec.dtype, tensor.shape().to_vec(), data)?)
}

/// The column `spec` with elements that are known to be right; only their number is checked.
pub(super) fn tensor(spec: &ColumnSpec, rows: usize, data: Vec<u8>) -> Result<Tensor, InferenceError> {
    let shape = [rows].into_iter().chain(spec.shape.iter().copied()).collect();
    Ok(Tensor::new(spec.name.clone(), spec.dtype, shape, data)?)
}

/// The error for an element, with its row.
fn wrong_element(spec: &ColumnSpec, (element, wrong): (usize, String)) -> InferenceError {
    let row_elements = spec.row_elements();
    let place = match element.checked_rem(row_elements) {
        Some(within) if row_elements > 1 => format!("element {within}: "),
        _ => String::new(),
    };
    InferenceError::element(format!("{place}{wrong}"), element.checked_div(row_elements), &spec.name)
}

/// The first element of `data` that is no value of its type, and what is wrong with it.
fn first_wrong_number(spec: &ColumnSpec, data: &[u8]) -> Option<(usize, String)> {
    let nan = |element: Option<usize>| Some((element?, "expected a number, found NaN".to_owned()));
    match spec.dtype {
        _ if spec.nullable => None,
        DataType::Fp16 => nan(first_wrong(data, |bytes| u16::from_le_bytes(bytes) & 0x7fff > 0x7c00)),
        DataType::Fp32 => nan(first_wrong(data, |bytes| f32::from_le_bytes(bytes).is_nan())),
        DataType::Fp64 => nan(first_wrong(data, |bytes| f64::from_le_bytes(bytes).is_nan())),
        _ => None,
    }
}

/// The first element that is wrong. Blocks are looked at without a branch, which the compiler makes wide.
fn first_wrong<const SIZE: usize>(data: &[u8], is_wrong: impl Fn([u8; SIZE]) -> bool) -> Option<usize> {
    let elements = data.as_chunks::<SIZE>().0;
    for (index, block) in elements.chunks(BLOCK_ELEMENTS).enumerate() {
        if block.iter().fold(false, |wrong, bytes| wrong | is_wrong(*bytes)) {
            let within = block.iter().position(|bytes| is_wrong(*bytes))?;
            return Some(index * BLOCK_ELEMENTS + within);
        }
    }
    None
}

/// The first byte string of `expected` that does not end within `data`.
fn first_wrong_string(data: &[u8], expected: usize) -> Option<(usize, String)> {
    let mut rest = data;
    for element in 0..expected {
        let Some((length, after)) = rest.split_first_chunk::<4>() else {
            let message = format!("expected a length of 4 bytes, found {} bytes left", rest.len());
            return Some((element, message));
        };
        let length = u32::from_le_bytes(*length) as usize;
        let Some((_, after)) = after.split_at_checked(length) else {
            let message = format!("expected a string of {length} bytes, found {} bytes left", after.len());
            return Some((element, message));
        };
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(dtype: DataType, shape: &[usize]) -> ColumnSpec {
        ColumnSpec {
            name: "x".to_owned(),
            dtype,
            shape: shape.to_vec(),
            nullable: false,
            element_names: Vec::new(),
        }
    }

    fn head(shape: &[usize], found: &[usize]) -> Result<usize, String> {
        check_head(&spec(DataType::Fp32, shape), "FP32", found, 8).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_dimension_is_the_row() {
        assert_eq!(head(&[28, 28], &[3, 28, 28]), Ok(3));
        assert_eq!(head(&[], &[3]), Ok(3));
        assert_eq!(head(&[], &[3, 1]), Ok(3));
        assert_eq!(head(&[1], &[3]), Ok(3));
        let refused = [
            (&[28, 28][..], &[28, 28][..], "column `x`: expected rows of 28 × 28, found 28"),
            (&[28, 28], &[1, 784], "column `x`: expected rows of 28 × 28, found 784"),
            (&[28, 28], &[1, 1, 28, 28], "column `x`: expected rows of 28 × 28, found 1 × 28 × 28"),
            (&[], &[1, 1, 1], "column `x`: expected rows of one element, found 1 × 1"),
            (&[], &[1, 2], "column `x`: expected rows of one element, found 2"),
            (&[], &[], "column `x` has no dimensions: expected at least one, the row"),
            (&[], &[0], "expected at least one row, found none"),
            (&[], &[9], "expected at most 8 rows, found 9"),
        ];
        for (shape, found, expected) in refused {
            assert_eq!(head(shape, found), Err(expected.to_owned()), "{found:?}");
        }
    }

    #[test]
    fn names_and_types_are_the_columns() {
        let named = |name: &str| ColumnSpec { name: name.to_owned(), ..spec(DataType::Fp32, &[]) };
        let specs = [named("x"), named("y")];
        for guess in 0..3 {
            assert_eq!(find_column(&specs, "x", guess), Ok(0));
            assert_eq!(find_column(&specs, "y", guess), Ok(1));
        }
        let error = |name: &str| find_column(&specs, name, 0).unwrap_err().to_string();
        assert_eq!(error("z"), "column `z` is unknown: expected `x`, `y`");
        assert!(error(&"z".repeat(1_000_000)).len() < 200);

        let error = |datatype: &str| check_head(&specs[0], datatype, &[1], 8).unwrap_err().to_string();
        assert_eq!(error("FP64"), "column `x`: expected FP32, found FP64");
        assert!(error("BF16").starts_with("column `x`: `BF16` is not a data type: expected one of BOOL, "));
        assert!(error(&"y".repeat(1_000_000)).len() < 300);
    }

    #[test]
    fn bytes_that_json_could_not_say_are_refused() {
        let error = |spec: &ColumnSpec, rows, data: &[u8]| {
            let error = tensor_of_bytes(spec, rows, data.to_vec()).unwrap_err();
            (error.to_string(), error.row(), error.column().map(str::to_owned))
        };
        let bools = spec(DataType::Bool, &[2]);
        assert!(tensor_of_bytes(&bools, 2, vec![0, 1, 1, 0]).is_ok());
        let found = error(&bools, 2, &[0, 1, 1, 2]);
        let message = "row 1, column `x`: element 1: expected 0 or 1, found 2".to_owned();
        assert_eq!(found, (message, Some(1), Some("x".to_owned())));

        let many = 3_000;
        for (dtype, nan) in [
            (DataType::Fp16, 0xfe01_u16.to_le_bytes().to_vec()),
            (DataType::Fp32, f32::NAN.to_le_bytes().to_vec()),
            (DataType::Fp64, f64::NAN.to_le_bytes().to_vec()),
        ] {
            let mut floats = spec(dtype, &[]);
            let mut data = vec![0; many * nan.len()];
            data[2_500 * nan.len()..][..nan.len()].copy_from_slice(&nan);
            let found = error(&floats, many, &data).0;
            assert_eq!(found, "row 2500, column `x`: expected a number, found NaN");
            floats.nullable = true;
            assert!(tensor_of_bytes(&floats, many, data).is_ok());
        }
        let infinite = f32::INFINITY.to_le_bytes().to_vec();
        assert!(tensor_of_bytes(&spec(DataType::Fp32, &[]), 1, infinite).is_ok());
    }

    #[test]
    fn lengths_are_told_before_elements() {
        let error = |dtype, rows, data: &[u8]| {
            tensor_of_bytes(&spec(dtype, &[2]), rows, data.to_vec()).unwrap_err().to_string()
        };
        assert_eq!(
            error(DataType::Bool, 2, &[7, 7, 7]),
            "column `x` of shape [2, 2] and type BOOL: expected 4 bytes, found 3"
        );
        assert_eq!(
            error(DataType::Fp32, usize::MAX, &[]),
            format!("column `x` of shape [{}, 2] is too large to address", usize::MAX)
        );
    }

    #[test]
    fn base64_is_the_bytes_that_it_says() {
        let decoded = |texts: &[&str]| {
            let texts = Tensor::from_strings("x", texts.iter().map(|text| text.as_bytes())).unwrap();
            from_base64(&spec(DataType::Bytes, &[]), texts)
        };
        let tensor = decoded(&["iVBORw==", "iVBORw", "", "/+8="]).unwrap();
        let strings: Vec<_> = tensor.byte_strings().collect();
        assert_eq!(strings, [&b"\x89PNG"[..], b"\x89PNG", b"", b"\xff\xef"]);
        let error = |text| {
            let error = decoded(&["", text]).unwrap_err();
            assert_eq!((error.row(), error.column()), (Some(1), Some("x")));
            error.to_string()
        };
        assert_eq!(error("iV ORw=="), "row 1, column `x`: expected base64, found ` ` at byte 2");
        assert_eq!(error("iV\nORw=="), "row 1, column `x`: expected base64, found `\\n` at byte 2");
        assert_eq!(error("iVBOR"), "row 1, column `x`: expected base64, found a text that is cut off");
        let numbers = Tensor::from_f32("x", vec![2], &[1.0, 2.0]).unwrap();
        assert_eq!(from_base64(&spec(DataType::Fp32, &[]), numbers.clone()).unwrap(), numbers);
    }

    #[test]
    fn byte_strings_are_walked_to_the_row_that_is_wrong() {
        let error =
            |data: &[u8]| tensor_of_bytes(&spec(DataType::Bytes, &[2]), 2, data.to_vec()).unwrap_err();
        let whole = b"\x01\0\0\0a\0\0\0\0\x02\0\0\0bc\x01\0\0\0d";
        assert!(tensor_of_bytes(&spec(DataType::Bytes, &[2]), 2, whole.to_vec()).is_ok());
        let short = error(&whole[..whole.len() - 1]);
        assert_eq!(
            short.to_string(),
            "row 1, column `x`: element 1: expected a string of 1 bytes, found 0 bytes left"
        );
        assert_eq!(short.row(), Some(1));
        let cut = error(&whole[..11]).to_string();
        assert_eq!(cut, "row 1, column `x`: element 0: expected a length of 4 bytes, found 2 bytes left");
        let lie = error(b"\xff\xff\xff\xff").to_string();
        assert_eq!(
            lie,
            "row 0, column `x`: element 0: expected a string of 4294967295 bytes, found 0 bytes left"
        );
        let long = error(&[&whole[..], b"\0\0\0\0"].concat()).to_string();
        assert_eq!(long, "column `x` holds byte strings that do not match its shape [2, 2]");
    }
}
