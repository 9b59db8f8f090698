//! IDX, the format of MNIST: a big-endian header with type and dimensions, then the elements.
//!
//! See <http://yann.lecun.com/exdb/mnist/>. The header is not believed: nothing is allocated for rows that are not
//! there, and fewer or more bytes than it promises are an error.

use std::fs::File;
use std::path::Path;

use super::DataError;
use super::source::{BATCH_MAX_BYTES, Content, read_full};
use crate::domain::{ColumnSpec, DataType, Tensor};

/// Reads the rows of one IDX file as one column.
pub struct IdxReader {
    file: String,
    spec: ColumnSpec,
    content: Content,
    header_bytes: u64,
    row_bytes: usize,
    rows: usize,
    rows_read: usize,
}

impl IdxReader {
    /// Reads the header of `file`, which is called `name` in errors; its rows become `column`.
    pub fn open(file: File, name: &str, column: &str) -> Result<Self, DataError> {
        let mut content = Content::open(file, name)?;
        let truncated = |found: usize, expected: usize| {
            DataError::format(
                name,
                "",
                format!("an IDX header of {expected} bytes"),
                format!("{found} bytes"),
            )
        };
        let mut magic = [0; 4];
        let found = read_full(&mut content.reader, &mut magic).map_err(DataError::read(Path::new(name)))?;
        if found < 4 {
            return Err(truncated(found, 4));
        }
        let [zero_a, zero_b, type_code, dimension_count] = magic;
        let dtype = data_type(type_code).filter(|_| zero_a == 0 && zero_b == 0).ok_or_else(|| {
            let expected = "0, 0 and an IDX type (8, 9, 11, 12, 13 or 14) in the first three bytes";
            DataError::format(name, "", expected, format!("{zero_a}, {zero_b} and {type_code}"))
        })?;
        let mut dimensions = vec![0; usize::from(dimension_count) * 4];
        let found =
            read_full(&mut content.reader, &mut dimensions).map_err(DataError::read(Path::new(name)))?;
        if found < dimensions.len() {
            return Err(truncated(4 + found, 4 + dimensions.len()));
        }
        let mut shape = dimensions.as_chunks::<4>().0.iter().map(|bytes| u32::from_be_bytes(*bytes) as usize);
        let Some(rows) = shape.next() else {
            return Err(DataError::format(name, "", "at least one dimension", "none"));
        };
        let shape: Vec<usize> = shape.collect();
        let size = dtype.size().unwrap_or(1);
        let row_bytes = shape.iter().try_fold(size, |product, &size| product.checked_mul(size));
        let Some(row_bytes) = row_bytes.filter(|bytes| (1..=BATCH_MAX_BYTES).contains(bytes)) else {
            let found = format!("rows of shape {shape:?}");
            return Err(DataError::format(name, "", format!("rows of 1 to {BATCH_MAX_BYTES} bytes"), found));
        };
        let spec =
            ColumnSpec { name: column.to_owned(), dtype, shape, nullable: false, element_names: Vec::new() };
        let header_bytes = 4 + dimensions.len() as u64;
        let reader =
            Self { file: name.to_owned(), spec, content, header_bytes, row_bytes, rows, rows_read: 0 };
        match reader.content.size {
            Some(found) if found != reader.expected_bytes() => Err(reader.wrong_size(&found.to_string())),
            _ => Ok(reader),
        }
    }

    /// What the column looks like.
    pub fn spec(&self) -> &ColumnSpec {
        &self.spec
    }

    /// Rows in all.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rows that are read at a time at most, however many are asked for.
    pub fn batch_rows_max(&self) -> usize {
        (BATCH_MAX_BYTES / self.row_bytes).max(1)
    }

    /// The next at most `rows_max` rows; none at the end.
    pub fn next_column(&mut self, rows_max: usize) -> Result<Option<Tensor>, DataError> {
        let rows = rows_max.clamp(1, self.batch_rows_max()).min(self.rows - self.rows_read);
        let read = DataError::read(Path::new(&self.file));
        let mut data = vec![0; rows * self.row_bytes];
        let found = read_full(&mut self.content.reader, &mut data).map_err(read)?;
        if found < data.len() {
            let before = self.header_bytes + (self.rows_read as u64) * self.row_bytes as u64;
            return Err(self.wrong_size(&(before + found as u64).to_string()));
        }
        self.rows_read += rows;
        if self.rows_read == self.rows {
            let read = DataError::read(Path::new(&self.file));
            if read_full(&mut self.content.reader, &mut [0]).map_err(read)? > 0 {
                return Err(self.wrong_size("more"));
            }
        }
        if rows == 0 {
            return Ok(None);
        }
        to_little_endian(&mut data, self.spec.dtype.size().unwrap_or(1));
        let shape = [rows].into_iter().chain(self.spec.shape.iter().copied()).collect();
        Ok(Some(Tensor::new(self.spec.name.clone(), self.spec.dtype, shape, data)?))
    }

    fn expected_bytes(&self) -> u64 {
        self.header_bytes + (self.rows as u64).saturating_mul(self.row_bytes as u64)
    }

    fn wrong_size(&self, found: &str) -> DataError {
        let expected = format!("{} bytes, as its header says ({} rows)", self.expected_bytes(), self.rows);
        DataError::format(&self.file, "", expected, found)
    }
}

fn data_type(code: u8) -> Option<DataType> {
    Some(match code {
        0x08 => DataType::Uint8,
        0x09 => DataType::Int8,
        0x0b => DataType::Int16,
        0x0c => DataType::Int32,
        0x0d => DataType::Fp32,
        0x0e => DataType::Fp64,
        _ => return None,
    })
}

fn to_little_endian(data: &mut [u8], size: usize) {
    if size > 1 {
        data.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn idx(code: u8, shape: &[u32], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, code, shape.len() as u8];
        shape.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
        bytes.extend(data);
        bytes
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Tensor>, DataError> {
        let mut reader = IdxReader::open(file(bytes), "a.idx", "x")?;
        let mut columns = Vec::new();
        while let Some(column) = reader.next_column(2)? {
            columns.push(column);
        }
        Ok(columns)
    }

    #[test]
    fn reads_rows_plain_and_packed() {
        let bytes = idx(0x08, &[3, 2], &[1, 2, 3, 4, 5, 6]);
        for bytes in [bytes.clone(), gzip(&bytes)] {
            let columns = read(&bytes).unwrap();
            assert_eq!(columns.len(), 2);
            assert_eq!(columns[0].shape(), [2, 2]);
            assert_eq!(columns[1].data(), [5, 6]);
        }
    }

    #[test]
    fn reads_every_type_as_little_endian() {
        let cases: [(u8, DataType, Vec<u8>); 6] = [
            (0x08, DataType::Uint8, vec![200]),
            (0x09, DataType::Int8, vec![200]),
            (0x0b, DataType::Int16, (-2_i16).to_be_bytes().to_vec()),
            (0x0c, DataType::Int32, (-70_000_i32).to_be_bytes().to_vec()),
            (0x0d, DataType::Fp32, 1.5_f32.to_be_bytes().to_vec()),
            (0x0e, DataType::Fp64, (-1e300_f64).to_be_bytes().to_vec()),
        ];
        let expected = [200.0, -56.0, -2.0, -70_000.0, 1.5, -1e300];
        for ((code, dtype, bytes), expected) in cases.into_iter().zip(expected) {
            let columns = read(&idx(code, &[1], &bytes)).unwrap();
            assert_eq!(columns[0].dtype(), dtype);
            assert_eq!(columns[0].to_f64().unwrap(), [expected]);
        }
    }

    #[test]
    fn refuses_fewer_and_more_bytes_than_promised() {
        let short = idx(0x08, &[3, 2], &[0; 5]);
        let long = idx(0x08, &[3, 2], &[0; 7]);
        let text = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert_eq!(text(&short), "`a.idx`: expected 18 bytes, as its header says (3 rows), found 17");
        assert_eq!(text(&gzip(&short)), "`a.idx`: expected 18 bytes, as its header says (3 rows), found 17");
        assert_eq!(text(&long), "`a.idx`: expected 18 bytes, as its header says (3 rows), found 19");
        assert_eq!(text(&gzip(&long)), "`a.idx`: expected 18 bytes, as its header says (3 rows), found more");
        assert_eq!(
            text(&gzip(&idx(8, &[0], &[1]))),
            "`a.idx`: expected 8 bytes, as its header says (0 rows), found more"
        );
        assert!(read(&idx(8, &[0], &[])).unwrap().is_empty());
    }

    #[test]
    fn refuses_headers_that_are_none() {
        let text = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert_eq!(text(b""), "`a.idx`: expected an IDX header of 4 bytes, found 0 bytes");
        assert_eq!(text(&[0, 0, 8, 2, 0]), "`a.idx`: expected an IDX header of 12 bytes, found 5 bytes");
        assert!(text(&[0, 0, 10, 1, 0, 0, 0, 0]).ends_with("found 0, 0 and 10"));
        assert!(text(b"PNG\n").ends_with("found 80, 78 and 71"));
        assert_eq!(text(&[0, 0, 8, 0]), "`a.idx`: expected at least one dimension, found none");
        assert!(text(&idx(8, &[1, 0], &[])).contains("expected rows of 1 to"));
        assert!(text(&idx(14, &[1, u32::MAX, u32::MAX, u32::MAX], &[])).contains("expected rows of 1 to"));
    }

    #[test]
    fn a_lying_or_exploding_file_costs_no_memory() {
        // Four thousand million rows are promised, none is there.
        assert!(read(&gzip(&idx(8, &[u32::MAX, 1024], &[]))).is_err());
        // 64 MiB of zeros behind a header that promises one row: only one byte more is unpacked.
        let bomb = gzip(&idx(8, &[1, 1], &vec![0; 64 << 20]));
        assert!(bomb.len() < 1 << 20);
        assert!(read(&bomb).unwrap_err().to_string().ends_with("found more"));
    }

    #[test]
    fn names_a_damaged_gzip_file() {
        let packed = gzip(&idx(8, &[4000, 2], &(0..8000_u32).map(|i| (i * i) as u8).collect::<Vec<_>>()));
        for bytes in [&packed[..packed.len() / 2], &packed[..3]] {
            let error = read(bytes).unwrap_err();
            assert_eq!(error.to_string(), "failed to read `a.idx`");
            assert!(std::error::Error::source(&error).is_some());
        }
    }
}
