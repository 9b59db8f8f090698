use std::collections::HashMap;
use std::io::Read;

use ::safetensors::Dtype;
use ::safetensors::tensor::{Metadata, TensorInfo};

use super::{COLUMNS, to_wire};
use crate::data::DataError;
use crate::domain::Batch;

/// A column as a file has it.
struct Column<'a> {
    name: &'a str,
    dtype: Dtype,
    shape: Vec<usize>,
    data: &'a [u8],
}

/// Reads a batch as the bytes of a safetensors file, without a copy of its elements. The bytes are a function of the
/// batch; BYTES columns are refused, for the format has none.
pub fn read_as_safetensors(batch: &Batch) -> Result<impl Read + '_, DataError> {
    let mut columns = Vec::with_capacity(batch.tensors().len());
    for tensor in batch.tensors() {
        let Some(dtype) = to_wire(tensor.dtype()) else {
            let (column, found) = (tensor.name().to_owned(), tensor.dtype().to_string());
            return Err(DataError::SafetensorsType { column, found });
        };
        let (name, shape) = (tensor.name(), tensor.shape().to_vec());
        columns.push(Column { name, dtype, shape, data: tensor.data() });
    }
    read_columns(columns)
}

/// Reads columns of numbers as the bytes of a safetensors file, without a copy of them: of each its name, its shape and
/// its elements, row-major.
pub fn read_f32_as_safetensors<'a>(
    columns: &[(&'a str, Vec<usize>, &'a [f32])],
) -> Result<impl Read + use<'a>, DataError> {
    let column = |(name, shape, values): &(&'a str, Vec<usize>, &'a [f32])| Column {
        name,
        dtype: Dtype::F32,
        shape: shape.clone(),
        // Little-endian, as every machine is that this is built for (see `domain::Tensor`).
        data: bytemuck::cast_slice(values),
    };
    read_columns(columns.iter().map(column).collect())
}

fn read_columns(mut columns: Vec<Column<'_>>) -> Result<impl Read + use<'_>, DataError> {
    let names: Vec<_> = columns.iter().map(|column| column.name).collect();
    let order = serde_json::to_string(&names).map_err(DataError::Encode)?;
    // The widest first, so that every tensor is aligned.
    columns.sort_by(|one, other| other.dtype.cmp(&one.dtype).then_with(|| one.name.cmp(other.name)));
    let mut end = 0;
    let infos = columns.iter().map(|column| {
        let start = end;
        end += column.data.len();
        let info =
            TensorInfo { dtype: column.dtype, shape: column.shape.clone(), data_offsets: (start, end) };
        (column.name.to_owned(), info)
    });
    let metadata = HashMap::from([(COLUMNS.to_owned(), order)]);
    let metadata = Metadata::new(Some(metadata), infos.collect()).map_err(DataError::Safetensors)?;
    let mut header = serde_json::to_vec(&metadata).map_err(DataError::Encode)?;
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
    let length = (header.len() as u64).to_le_bytes();
    let start = std::io::Cursor::new([&length[..], &header].concat());
    Ok(start.chain(Slices { slices: columns.into_iter().map(|column| column.data).collect(), next: 0 }))
}

/// Reads slices one after another.
struct Slices<'a> {
    slices: Vec<&'a [u8]>,
    next: usize,
}

impl Read for Slices<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while let Some(slice) = self.slices.get_mut(self.next) {
            match slice.read(buffer)? {
                0 if !buffer.is_empty() => self.next += 1,
                count => return Ok(count),
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{decode_safetensors, encode_safetensors};
    use crate::domain::{DataType, Tensor};

    #[test]
    fn the_bytes_are_those_of_the_encoder() {
        let batch = Batch::new(vec![
            Tensor::new("z", DataType::Uint8, vec![3], vec![1, 2, 3]).unwrap(),
            Tensor::from_f32("b", vec![3, 2], &[1.0, f32::NAN, 3.0, 4.0, 5.0, 6.0]).unwrap(),
            Tensor::new("a", DataType::Uint8, vec![3, 0], vec![]).unwrap(),
            Tensor::new("flag", DataType::Bool, vec![3], vec![1, 0, 1]).unwrap(),
        ]);
        for batch in [batch.unwrap(), Batch::default()] {
            let mut bytes = Vec::new();
            read_as_safetensors(&batch).unwrap().read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, encode_safetensors(&batch).unwrap());
            decode_safetensors(&bytes).unwrap();
        }
        let text = Batch::new(vec![Tensor::from_strings("s", [&b"a"[..]]).unwrap()]).unwrap();
        assert!(read_as_safetensors(&text).is_err());
    }

    #[test]
    fn columns_of_numbers_are_written_as_a_batch_of_them_is() {
        let (features, labels) = ([1.0, f32::NAN, 3.0, 4.0], [0.0, 1.0]);
        let mut bytes = Vec::new();
        let columns = [("features", vec![2, 2], &features[..]), ("label", vec![2], &labels[..])];
        read_f32_as_safetensors(&columns).unwrap().read_to_end(&mut bytes).unwrap();
        let batch = Batch::new(vec![
            Tensor::from_f32("features", vec![2, 2], &features).unwrap(),
            Tensor::from_f32("label", vec![2], &labels).unwrap(),
        ]);
        assert_eq!(bytes, encode_safetensors(&batch.unwrap()).unwrap());
    }
}
