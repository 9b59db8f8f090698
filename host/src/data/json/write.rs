use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::ser::{CompactFormatter, Formatter as _};

use super::{JsonError, RowForm};
use crate::domain::{Batch, DataType, Tensor, half_to_f64};

/// Writes the rows as objects: a scalar for a column with one element a row, nested lists for others.
///
/// Floats are written with the fewest digits that give the same float back, each in its own precision. NaN and
/// infinities, which JSON cannot hold, become `null`. [`RowForm::Object`] needs exactly one row.
pub fn encode_rows(batch: &Batch, form: RowForm) -> Result<Vec<u8>, JsonError> {
    write_rows(batch, form, NoText::Refused)
}

/// Writes a list of the rows as [`encode_rows`] does, and bytes that are no text, which that refuses, as `{"base64": "…"}`.
pub fn encode_rows_of_any_bytes(batch: &Batch) -> Result<Vec<u8>, JsonError> {
    write_rows(batch, RowForm::List, NoText::Base64)
}

fn write_rows(batch: &Batch, form: RowForm, no_text: NoText) -> Result<Vec<u8>, JsonError> {
    let mut text = Vec::with_capacity(batch.byte_len().saturating_mul(2));
    let mut columns: Vec<_> =
        batch.tensors().iter().map(|tensor| Cursor { no_text, ..Cursor::new(tensor) }).collect();
    match (form, batch.rows()) {
        (RowForm::Object, 1) => write_object(&mut text, &mut columns, 0)?,
        (RowForm::Object, rows) => return Err(JsonError::new(format!("expected one row, found {rows}"))),
        (RowForm::List, rows) => {
            text.push(b'[');
            for row in 0..rows {
                if row > 0 {
                    text.push(b',');
                }
                write_object(&mut text, &mut columns, row)?;
            }
            text.push(b']');
        }
    }
    Ok(text)
}

/// Writes the rows as MLflow's scoring server answers them: `{"predictions": […]}`, a list of what the only column has in each row, or
/// of objects where there are several columns. A list of one element is that element: models that say one number of a row answer a
/// list of numbers there.
pub fn encode_predictions(batch: &Batch) -> Result<Vec<u8>, JsonError> {
    let mut text = br#"{"predictions":"#.to_vec();
    match batch.tensors() {
        [only] => {
            let mut column = Cursor::new(only);
            let row_shape = if only.row_shape() == [1] { &[] } else { only.row_shape() };
            text.push(b'[');
            for row in 0..batch.rows() {
                if row > 0 {
                    text.push(b',');
                }
                column
                    .write_nested(&mut text, row_shape)
                    .map_err(|wrong| JsonError::in_column(wrong, Some(row), only.name()))?;
            }
            text.push(b']');
        }
        _ => text.extend_from_slice(&encode_rows(batch, RowForm::List)?),
    }
    text.push(b'}');
    Ok(text)
}

/// Writes the batch as the Open Inference Protocol writes an answer: `{"outputs": [{name, datatype, shape, data}]}`,
/// with flat data.
pub fn encode_tensors(batch: &Batch) -> Result<Vec<u8>, JsonError> {
    let mut text = br#"{"outputs":["#.to_vec();
    for (index, tensor) in batch.tensors().iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        text.extend_from_slice(br#"{"name":"#);
        write_string(&mut text, tensor.name());
        text.extend_from_slice(br#","datatype":"#);
        write_string(&mut text, tensor.dtype().as_str());
        text.extend_from_slice(br#","shape":["#);
        let sizes: Vec<_> = tensor.shape().iter().map(ToString::to_string).collect();
        text.extend_from_slice(sizes.join(",").as_bytes());
        text.extend_from_slice(br#"],"data":["#);
        write_elements(&mut text, tensor)?;
        text.extend_from_slice(b"]}");
    }
    text.extend_from_slice(b"]}");
    Ok(text)
}

/// Writes all elements of `tensor` with commas between them, as [`encode_rows`] writes them.
pub(crate) fn write_elements(text: &mut Vec<u8>, tensor: &Tensor) -> Result<(), JsonError> {
    let elements = tensor.shape().iter().product();
    Cursor::new(tensor)
        .write_flat(text, elements)
        .map_err(|wrong| JsonError::in_column(wrong, None, tensor.name()))
}

fn write_object(text: &mut Vec<u8>, columns: &mut [Cursor<'_>], row: usize) -> Result<(), JsonError> {
    text.push(b'{');
    for (index, column) in columns.iter_mut().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        let tensor = column.tensor;
        write_string(text, tensor.name());
        text.push(b':');
        column
            .write_nested(text, tensor.row_shape())
            .map_err(|wrong| JsonError::in_column(wrong, Some(row), tensor.name()))?;
    }
    text.push(b'}');
    Ok(())
}

/// What becomes of bytes that are no text.
#[derive(Clone, Copy)]
enum NoText {
    Refused,
    Base64,
}

/// A column and the elements that are not written yet.
struct Cursor<'a> {
    tensor: &'a Tensor,
    rest: &'a [u8],
    no_text: NoText,
}

impl<'a> Cursor<'a> {
    fn new(tensor: &'a Tensor) -> Self {
        Self { tensor, rest: tensor.data(), no_text: NoText::Refused }
    }

    fn write_nested(&mut self, text: &mut Vec<u8>, shape: &[usize]) -> Result<(), String> {
        let Some((&size, inner)) = shape.split_first() else {
            return self.write_flat(text, 1);
        };
        text.push(b'[');
        if inner.is_empty() {
            self.write_flat(text, size)?;
        } else {
            for index in 0..size {
                if index > 0 {
                    text.push(b',');
                }
                self.write_nested(text, inner)?;
            }
        }
        text.push(b']');
        Ok(())
    }

    /// Writes the next `count` elements with commas between them. Writing to a vector cannot fail.
    fn write_flat(&mut self, text: &mut Vec<u8>, count: usize) -> Result<(), String> {
        let mut json = CompactFormatter;
        macro_rules! write_numbers {
            ($number:ty, $write:ident, $finite:expr) => {{
                const SIZE: usize = size_of::<$number>();
                let (taken, rest) = self.rest.split_at_checked(count * SIZE).unwrap_or((self.rest, &[]));
                self.rest = rest;
                for (index, bytes) in taken.as_chunks::<SIZE>().0.iter().enumerate() {
                    if index > 0 {
                        text.push(b',');
                    }
                    let value = <$number>::from_le_bytes(*bytes);
                    let _ = if $finite(&value) { json.$write(text, value) } else { json.write_null(text) };
                }
            }};
        }
        match self.tensor.dtype() {
            DataType::Uint8 => write_numbers!(u8, write_u8, |_| true),
            DataType::Uint16 => write_numbers!(u16, write_u16, |_| true),
            DataType::Uint32 => write_numbers!(u32, write_u32, |_| true),
            DataType::Uint64 => write_numbers!(u64, write_u64, |_| true),
            DataType::Int8 => write_numbers!(i8, write_i8, |_| true),
            DataType::Int16 => write_numbers!(i16, write_i16, |_| true),
            DataType::Int32 => write_numbers!(i32, write_i32, |_| true),
            DataType::Int64 => write_numbers!(i64, write_i64, |_| true),
            DataType::Fp32 => write_numbers!(f32, write_f32, |value: &f32| value.is_finite()),
            DataType::Fp64 => write_numbers!(f64, write_f64, |value: &f64| value.is_finite()),
            DataType::Bool => {
                let (taken, rest) = self.rest.split_at_checked(count).unwrap_or((self.rest, &[]));
                self.rest = rest;
                for (index, &byte) in taken.iter().enumerate() {
                    text.extend_from_slice(if index > 0 { b"," } else { b"" });
                    text.extend_from_slice(if byte == 0 { b"false" } else { b"true" });
                }
            }
            DataType::Fp16 => {
                let (taken, rest) = self.rest.split_at_checked(count * 2).unwrap_or((self.rest, &[]));
                self.rest = rest;
                for (index, bytes) in taken.as_chunks::<2>().0.iter().enumerate() {
                    text.extend_from_slice(if index > 0 { b"," } else { b"" });
                    // A binary32 holds every binary16, and has fewer digits to tell apart than a binary64.
                    let value = half_to_f64(u16::from_le_bytes(*bytes)) as f32;
                    let _ =
                        if value.is_finite() { json.write_f32(text, value) } else { json.write_null(text) };
                }
            }
            DataType::Bytes => self.write_strings(text, count)?,
        }
        Ok(())
    }

    fn write_strings(&mut self, text: &mut Vec<u8>, count: usize) -> Result<(), String> {
        for index in 0..count {
            let Some((length, rest)) = self.rest.split_first_chunk::<4>() else { break };
            let Some((bytes, rest)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else {
                break;
            };
            self.rest = rest;
            text.extend_from_slice(if index > 0 { b"," } else { b"" });
            match (std::str::from_utf8(bytes), self.no_text) {
                (Ok(value), _) => write_string(text, value),
                (Err(_), NoText::Base64) => {
                    text.extend_from_slice(br#"{"base64":"#);
                    write_string(text, &BASE64_STANDARD.encode(bytes));
                    text.push(b'}');
                }
                (Err(_), NoText::Refused) => {
                    return Err("expected UTF-8, which JSON needs, found other bytes".to_owned());
                }
            }
        }
        Ok(())
    }
}

/// Writes a string with its quotes.
pub(crate) fn write_string(text: &mut Vec<u8>, value: &str) {
    // Writing a string to a vector cannot fail.
    let _ = serde_json::to_writer(text, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::json::decode_rows;
    use crate::domain::ColumnSpec;

    fn rows(batch: &Batch, form: RowForm) -> String {
        String::from_utf8(encode_rows(batch, form).unwrap()).unwrap()
    }

    #[test]
    fn writes_scalars_lists_and_strings() {
        let batch = Batch::new(vec![
            Tensor::from_f32("p", vec![2, 2], &[0.1, 0.9, 1.0, f32::NAN]).unwrap(),
            Tensor::new("label", DataType::Uint8, vec![2], vec![7, 255]).unwrap(),
            Tensor::from_strings("s", [&b"a\"b"[..], "ä".as_bytes()]).unwrap(),
            Tensor::new("ok", DataType::Bool, vec![2, 1, 1], vec![1, 0]).unwrap(),
        ])
        .unwrap();
        let expected = r#"[{"p":[0.1,0.9],"label":7,"s":"a\"b","ok":[[true]]},{"p":[1.0,null],"label":255,"s":"ä","ok":[[false]]}]"#;
        assert_eq!(rows(&batch, RowForm::List), expected);
        let first = batch.slice_rows(0..1).unwrap();
        assert_eq!(rows(&first, RowForm::Object), expected[1..].split_inclusive('}').next().unwrap());
        assert!(encode_rows(&batch, RowForm::Object).unwrap_err().to_string().ends_with("found 2"));
        assert_eq!(rows(&Batch::default(), RowForm::List), "[]");
    }

    #[test]
    fn infinities_become_null_and_largest_numbers_stay() {
        let values = [f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE, -0.0];
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let batch = Batch::new(vec![Tensor::new("x", DataType::Fp64, vec![1, 5], data).unwrap()]).unwrap();
        assert_eq!(
            rows(&batch, RowForm::Object),
            r#"{"x":[null,null,1.7976931348623157e+308,2.2250738585072014e-308,-0.0]}"#
        );
    }

    #[test]
    fn half_floats_come_back_bit_for_bit() {
        let bits: Vec<u16> = (0..=u16::MAX).filter(|&bits| half_to_f64(bits).is_finite()).collect();
        let data = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let shape = vec![1, bits.len()];
        let batch = Batch::new(vec![Tensor::new("x", DataType::Fp16, shape, data).unwrap()]).unwrap();
        let text = encode_rows(&batch, RowForm::Object).unwrap();
        let (back, _) = decode_rows(&text, &ColumnSpec::of_batch(&batch), 1).unwrap();
        assert_eq!(back.tensors()[0].data(), batch.tensors()[0].data());

        let data = [0x3c00, 0x2e66, 0x7c00, 0x7e00_u16].iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let batch = Batch::new(vec![Tensor::new("x", DataType::Fp16, vec![1, 4], data).unwrap()]).unwrap();
        assert_eq!(rows(&batch, RowForm::Object), r#"{"x":[1.0,0.099975586,null,null]}"#);
    }

    #[test]
    fn refuses_bytes_that_are_no_text() {
        let batch = Batch::new(vec![Tensor::from_strings("s", [&b"\xff"[..]]).unwrap()]).unwrap();
        let error = encode_rows(&batch, RowForm::List).unwrap_err();
        assert_eq!(
            error.to_string(),
            "row 0, column `s`: expected UTF-8, which JSON needs, found other bytes"
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_base64_where_that_is_asked_for() {
        let bytes = [&b"\x89PNG"[..], "ä".as_bytes(), b"\xff", b"iVBORw=="];
        let mut columns = vec![Tensor::from_strings("s", bytes).unwrap()];
        let data = columns[0].data().to_vec();
        columns.push(Tensor::new("t", DataType::Bytes, vec![4, 1], data).unwrap());
        let batch = Batch::new(columns).unwrap();
        let rows: serde_json::Value =
            serde_json::from_slice(&encode_rows_of_any_bytes(&batch).unwrap()).unwrap();
        let expected = serde_json::json!([
            { "s": { "base64": "iVBORw==" }, "t": [{ "base64": "iVBORw==" }] },
            { "s": "ä", "t": ["ä"] },
            { "s": { "base64": "/w==" }, "t": [{ "base64": "/w==" }] },
            { "s": "iVBORw==", "t": ["iVBORw=="] },
        ]);
        assert_eq!(rows, expected);
        assert!(encode_rows(&batch, RowForm::List).is_err(), "answers are not read so");
    }

    proptest::proptest! {
        #[test]
        fn floats_come_back_bit_for_bit(values in proptest::collection::vec(proptest::num::f32::NORMAL | proptest::num::f32::SUBNORMAL | proptest::num::f32::ZERO, 1..50)) {
            let batch = Batch::new(vec![Tensor::from_f32("x", vec![1, values.len()], &values).unwrap()]).unwrap();
            let text = encode_rows(&batch, RowForm::Object).unwrap();
            let (back, _) = decode_rows(&text, &ColumnSpec::of_batch(&batch), 1).unwrap();
            proptest::prop_assert_eq!(back.tensors()[0].data(), batch.tensors()[0].data());
        }
    }

    #[test]
    fn predictions_of_one_number_are_numbers() {
        let written = |tensors: Vec<Tensor>| {
            String::from_utf8(encode_predictions(&Batch::new(tensors).unwrap()).unwrap()).unwrap()
        };
        let tensor = |shape: &[usize]| Tensor::from_f32("y", shape.to_vec(), &[0.5, 2.0]).unwrap();
        assert_eq!(written(vec![tensor(&[2])]), r#"{"predictions":[0.5,2.0]}"#);
        assert_eq!(written(vec![tensor(&[2, 1])]), r#"{"predictions":[0.5,2.0]}"#);
        assert_eq!(written(vec![tensor(&[1, 2])]), r#"{"predictions":[[0.5,2.0]]}"#);
        assert_eq!(written(vec![tensor(&[2, 1, 1])]), r#"{"predictions":[[[0.5]],[[2.0]]]}"#);
        let label = Tensor::from_f32("z", vec![1], &[1.0]).unwrap();
        let several = Tensor::from_f32("y", vec![1, 1], &[0.5]).unwrap();
        assert_eq!(written(vec![several, label]), r#"{"predictions":[{"y":[0.5],"z":1.0}]}"#);
    }
}
