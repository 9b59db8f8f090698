use std::collections::HashMap;
use std::io::Read;

use ::safetensors::tensor::{Metadata, TensorInfo};

use super::{COLUMNS, to_wire};
use crate::data::DataError;
use crate::domain::{Batch, Tensor};

/// Reads a batch as the bytes of a safetensors file, without a copy of its elements. The bytes are a function of the
/// batch; BYTES columns are refused, for the format has none.
pub fn read_as_safetensors(batch: &Batch) -> Result<impl Read + '_, DataError> {
    let mut columns = Vec::with_capacity(batch.tensors().len());
    for tensor in batch.tensors() {
        let Some(dtype) = to_wire(tensor.dtype()) else {
            let (column, found) = (tensor.name().to_owned(), tensor.dtype().to_string());
            return Err(DataError::SafetensorsType { column, found });
        };
        columns.push((dtype, tensor));
    }
    // The widest first, so that every tensor is aligned.
    columns.sort_by(|(dtype, tensor), (other, second)| {
        other.cmp(dtype).then_with(|| tensor.name().cmp(second.name()))
    });
    let mut end = 0;
    let infos = columns.iter().map(|(dtype, tensor)| {
        let start = end;
        end += tensor.data().len();
        let info = TensorInfo { dtype: *dtype, shape: tensor.shape().to_vec(), data_offsets: (start, end) };
        (tensor.name().to_owned(), info)
    });
    let names: Vec<_> = batch.tensors().iter().map(Tensor::name).collect();
    let order = serde_json::to_string(&names).map_err(DataError::Encode)?;
    let metadata = HashMap::from([(COLUMNS.to_owned(), order)]);
    let metadata = Metadata::new(Some(metadata), infos.collect()).map_err(DataError::Safetensors)?;
    let mut header = serde_json::to_vec(&metadata).map_err(DataError::Encode)?;
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
    let length = (header.len() as u64).to_le_bytes();
    let start = std::io::Cursor::new([&length[..], &header].concat());
    Ok(start
        .chain(Slices { slices: columns.into_iter().map(|(_, tensor)| tensor.data()).collect(), next: 0 }))
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
    use crate::domain::DataType;

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
}
