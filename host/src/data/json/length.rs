//! How long the JSON of rows can get, told before any of it is written: an element may stand in dozens of lists, and take
//! a hundred times as many bytes as it has.

use crate::domain::{Batch, DataType, Tensor};

/// Bytes around all rows: those of `{"predictions":[]}`.
const AROUND_BYTES: usize = 18;

/// Both brackets or braces, and a comma.
const LIST_BYTES: usize = 3;

/// Bytes that [`encode_rows`](super::encode_rows) and [`encode_predictions`](super::encode_predictions) write at most.
pub fn rows_len_max(batch: &Batch) -> usize {
    let column = |tensor: &Tensor| {
        let lists = tensor.row_lists().saturating_mul(LIST_BYTES);
        // The name, a colon and a comma.
        let in_row = lists.saturating_add(string_len(tensor.name().as_bytes()) + 2);
        elements_len_max(tensor).saturating_add(in_row.saturating_mul(tensor.rows()))
    };
    let rows = batch.rows().saturating_mul(LIST_BYTES).saturating_add(AROUND_BYTES);
    batch.tensors().iter().map(column).fold(rows, usize::saturating_add)
}

/// Bytes that [`write_elements`](super::write_elements) writes at most: those of the longest numbers, and just those of strings.
pub(crate) fn elements_len_max(tensor: &Tensor) -> usize {
    let (size, digits) = match tensor.dtype() {
        DataType::Bytes => {
            return tensor.byte_strings().map(|string| string_len(string) + 1).sum();
        }
        DataType::Uint8 => (1, 3),
        DataType::Int8 => (1, 4),
        DataType::Bool => (1, 5),
        DataType::Uint16 => (2, 5),
        DataType::Int16 => (2, 6),
        DataType::Fp16 => (2, 16),
        DataType::Uint32 => (4, 10),
        DataType::Int32 => (4, 11),
        DataType::Fp32 => (4, 16),
        DataType::Uint64 | DataType::Int64 => (8, 20),
        DataType::Fp64 => (8, 24),
    };
    (tensor.data().len() / size).saturating_mul(digits + 1)
}

/// Bytes of a string with its quotes.
fn string_len(string: &[u8]) -> usize {
    let escaped = |byte: &u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    };
    string.iter().map(escaped).sum::<usize>() + 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{RowForm, encode_predictions, encode_rows};

    /// That no more is written than was told; gives what was told and what was written.
    fn told_and_written(tensors: Vec<Tensor>) -> (usize, usize) {
        let batch = Batch::new(tensors).unwrap();
        let (told, written) = (rows_len_max(&batch), encode_rows(&batch, RowForm::List).unwrap().len());
        assert!(written <= told && encode_predictions(&batch).unwrap().len() <= told, "{batch:?}");
        (told, written)
    }

    fn tensor(dtype: DataType, shape: &[usize], data: &[u8]) -> Tensor {
        Tensor::new("x", dtype, shape.to_vec(), data.to_vec()).unwrap()
    }

    #[test]
    fn lists_are_told_however_deep_they_are() {
        let flat = told_and_written(vec![tensor(DataType::Bool, &[1, 1_000], &[0; 1_000])]);
        assert!(flat.0 < 6_100, "{flat:?}");
        let mut shape = vec![1; Tensor::DIMENSIONS_MAX];
        shape[1] = 1_000;
        let deep = told_and_written(vec![tensor(DataType::Bool, &shape, &[0; 1_000])]);
        assert!(deep.1 > 120_000 && deep.0 < deep.1 * 2, "{deep:?}");
        for shape in [&[0][..], &[3, 0], &[2, 1_000, 0], &[2, 1, 1, 0]] {
            told_and_written(vec![tensor(DataType::Fp32, shape, &[])]);
        }
    }

    #[test]
    fn the_longest_numbers_are_told() {
        told_and_written(vec![
            tensor(DataType::Uint8, &[1, 1], &[255]),
            tensor(DataType::Int8, &[1, 1], &i8::MIN.to_le_bytes()).renamed("int8").unwrap(),
            tensor(DataType::Uint64, &[1], &u64::MAX.to_le_bytes()).renamed("uint64").unwrap(),
            tensor(DataType::Int64, &[1], &i64::MIN.to_le_bytes()).renamed("int64").unwrap(),
        ]);
        for exponent in 0..=u8::MAX {
            for fraction in [0, 1, 0x2a_aaab, 0x55_5555, 0x7f_ffff] {
                let bits = 1 << 31 | u32::from(exponent) << 23 | fraction;
                told_and_written(vec![tensor(DataType::Fp32, &[1], &bits.to_le_bytes())]);
            }
        }
        for exponent in 0..1 << 11 {
            for fraction in [0, 1, 0xa_aaaa_aaaa_aaab, 0x5_5555_5555_5555, 0xf_ffff_ffff_ffff] {
                let bits = 1 << 63 | exponent << 52 | fraction;
                told_and_written(vec![tensor(DataType::Fp64, &[1], &u64::to_le_bytes(bits))]);
            }
        }
        let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for half in halves.chunks(2) {
            told_and_written(vec![tensor(DataType::Fp16, &[1], half)]);
        }
    }

    #[test]
    fn strings_are_told_to_the_byte() {
        let all: String = (0..0x80_u8).map(char::from).chain(['ä', '🦀']).collect();
        let strings = Tensor::from_strings("a\"\n", [all.as_bytes(), b"", b"plain"]).unwrap();
        let (told, written) = told_and_written(vec![strings]);
        // No comma stands behind the last, and no `predictions` around them.
        assert!(told - written <= AROUND_BYTES + 2 * 3, "{told} {written}");
    }
}
