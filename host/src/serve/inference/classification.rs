use std::cmp::Ordering;

use super::InferenceError;
use crate::domain::{DataType, Tensor, half_to_f64};

/// The `classes` largest elements of each row, largest first, as strings `value:index`; fewer where a row has fewer.
///
/// Floats have six digits after the point, as C's `printf("%f")` writes them, which clients of this form expect. Of equal
/// elements the first comes first, and NaN comes last.
pub(super) fn classify(tensor: &Tensor, classes: usize) -> Result<Tensor, InferenceError> {
    macro_rules! classify_numbers {
        ($number:ty) => {
            strings(tensor, classes, <$number>::from_le_bytes, |value| value.to_string())
        };
    }
    let float = |value: &f64| format!("{value:.6}");
    let (count, data) = match tensor.dtype() {
        DataType::Uint8 => classify_numbers!(u8),
        DataType::Uint16 => classify_numbers!(u16),
        DataType::Uint32 => classify_numbers!(u32),
        DataType::Uint64 => classify_numbers!(u64),
        DataType::Int8 => classify_numbers!(i8),
        DataType::Int16 => classify_numbers!(i16),
        DataType::Int32 => classify_numbers!(i32),
        DataType::Int64 => classify_numbers!(i64),
        DataType::Fp16 => strings(tensor, classes, |bytes| half_to_f64(u16::from_le_bytes(bytes)), float),
        DataType::Fp32 => strings(tensor, classes, |bytes| f64::from(f32::from_le_bytes(bytes)), float),
        DataType::Fp64 => strings(tensor, classes, f64::from_le_bytes, float),
        found @ (DataType::Bool | DataType::Bytes) => {
            return Err(InferenceError::NoClasses { name: tensor.name().to_owned(), found });
        }
    };
    Tensor::new(tensor.name(), DataType::Bytes, vec![tensor.rows(), count], data)
        .map_err(InferenceError::Output)
}

/// Bytes that the strings of [`classify`] take at most as they are written: the digits of the largest number, six after the point, and
/// the index.
pub(super) fn class_bytes_max(tensor: &Tensor, classes: usize) -> usize {
    let string = if tensor.dtype() == DataType::Fp64 { 350 } else { 80 };
    let count = classes.min(tensor.row_elements());
    tensor.rows().saturating_mul(count).saturating_mul(string)
}

/// How many strings a row has, and those of all rows as a BYTES tensor holds them.
fn strings<N: PartialOrd, const SIZE: usize>(
    tensor: &Tensor,
    classes: usize,
    number: impl Fn([u8; SIZE]) -> N,
    text: impl Fn(&N) -> String,
) -> (usize, Vec<u8>) {
    let row_elements = tensor.row_elements();
    let count = classes.min(row_elements);
    let mut data = Vec::new();
    // A row without elements has no chunk, and no string.
    for row in tensor.data().as_chunks::<SIZE>().0.chunks(row_elements.max(1)) {
        let mut elements: Vec<(usize, N)> = row.iter().map(|bytes| number(*bytes)).enumerate().collect();
        // Stable, so that the first of equals stays first.
        elements.sort_by(|(_, left), (_, right)| descending(left, right));
        for (index, value) in elements.iter().take(count) {
            let string = format!("{}:{index}", text(value));
            data.extend_from_slice(&(string.len() as u32).to_le_bytes());
            data.extend_from_slice(string.as_bytes());
        }
    }
    (count, data)
}

/// The order in which the largest comes first; what is not equal to itself comes last.
fn descending<N: PartialOrd>(left: &N, right: &N) -> Ordering {
    let is_number = |value: &N| value.partial_cmp(value).is_some();
    right.partial_cmp(left).unwrap_or_else(|| is_number(right).cmp(&is_number(left)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(tensor: &Tensor, count: usize) -> Vec<String> {
        let found = classify(tensor, count).unwrap();
        assert_eq!(found.dtype(), DataType::Bytes);
        assert_eq!(found.shape().iter().product::<usize>(), found.byte_strings().count());
        found.byte_strings().map(|string| String::from_utf8(string.to_vec()).unwrap()).collect()
    }

    #[test]
    fn the_largest_of_each_row_come_first() {
        let scores = Tensor::from_f32("p", vec![2, 4], &[1.1, 3.3, 0.5, 2.4, 0.0, 0.25, 0.25, 0.5]).unwrap();
        assert_eq!(classes(&scores, 2), ["3.300000:1", "2.400000:3", "0.500000:3", "0.250000:1"]);
        assert_eq!(classify(&scores, 2).unwrap().shape(), [2, 2]);
        assert_eq!(classify(&scores, usize::MAX).unwrap().shape(), [2, 4]);
    }

    #[test]
    fn numbers_keep_their_digits() {
        let large = [u64::MAX - 1, u64::MAX].iter().flat_map(|value| value.to_le_bytes()).collect();
        let large = Tensor::new("p", DataType::Uint64, vec![1, 2], large).unwrap();
        assert_eq!(classes(&large, 2), ["18446744073709551615:1", "18446744073709551614:0"]);
        let half = Tensor::new("p", DataType::Fp16, vec![1, 2], vec![0, 0x3c, 0, 0xc0]).unwrap();
        assert_eq!(classes(&half, 2), ["1.000000:0", "-2.000000:1"]);
        let scalar = Tensor::new("p", DataType::Int8, vec![2], vec![1, 255]).unwrap();
        assert_eq!(classes(&scalar, 3), ["1:0", "-1:0"]);
    }

    #[test]
    fn what_is_no_number_comes_last() {
        let scores = [f32::NAN, 1.0, f32::NEG_INFINITY, f32::NAN];
        let scores = Tensor::from_f32("p", vec![1, 4], &scores).unwrap();
        assert_eq!(classes(&scores, 4), ["1.000000:1", "-inf:2", "NaN:0", "NaN:3"]);
    }

    #[test]
    fn rows_without_elements_and_types_without_order_are_told() {
        let empty = Tensor::new("p", DataType::Fp32, vec![3, 0], Vec::new()).unwrap();
        assert_eq!(classify(&empty, 2).unwrap().shape(), [3, 0]);
        let strings = Tensor::from_strings("s", [&b"a"[..]]).unwrap();
        assert_eq!(
            classify(&strings, 1).unwrap_err().to_string(),
            "output `s` is BYTES, which has no classes: expected a type of numbers"
        );
    }
}
