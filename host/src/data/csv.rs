//! CSV with a header row, plain or packed by gzip.
//!
//! Types are inferred over the whole file: BOOL (`true`, `false`), INT64, FP64, else BYTES. An empty cell is missing. A
//! column of numbers or booleans with missing cells is FP64, and missing is NaN; in BYTES, missing is the empty string.
//! An integer that does not fit INT64 makes its column BYTES, for it is rather a key than a quantity; so does one beyond
//! 2^53 where the column would be FP64, which could not tell it from its neighbours. Lines without any character are
//! skipped. Text is UTF-8; a file in another encoding is refused rather than guessed at.

use std::fs::File;
use std::io::Read;

use csv::ByteRecord;

use super::DataError;
use super::error::excerpt;
use super::inferred::{InferredColumn, is_wide};
use super::source::{BATCH_MAX_BYTES, Budget, BudgetReader, Content};
use crate::domain::{Batch, ColumnSpec, DataType, Tensor};

/// Longest record. A quote that is never closed would otherwise collect the rest of the file.
const RECORD_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Most columns, so that a header cannot make readers hold more than some megabytes.
const COLUMNS_MAX: usize = 16_384;

/// Reads the rows of one CSV file as batches of columns that are known.
pub struct CsvReader {
    records: Records,
    columns: Vec<Column>,
}

/// One column: what it becomes, and where its cells stand.
struct Column {
    spec: ColumnSpec,
    cell: usize,
}

/// What the cells of a column have been so far.
#[derive(Clone, Copy)]
struct Seen {
    bool: bool,
    integer: bool,
    float: bool,
    missing: bool,
    any: bool,
    /// Whether there was an integer that FP64 cannot tell from its neighbours.
    wide: bool,
}

/// Reads `file`, called `name` in errors, to its end; gives its columns and the number of rows.
pub fn infer_csv(file: File, name: &str) -> Result<(Vec<InferredColumn>, u64), DataError> {
    let mut records = Records::open(file, name)?;
    let mut seen =
        vec![
            Seen { bool: true, integer: true, float: true, missing: false, any: false, wide: false };
            records.names.len()
        ];
    let mut rows = 0;
    while records.advance()? {
        rows += 1;
        for (seen, cell) in seen.iter_mut().zip(&records.record) {
            seen.observe(cell);
        }
    }
    let spec = |(name, seen): (&String, &Seen)| {
        let dtype = seen.data_type();
        let nullable = dtype == DataType::Fp64;
        let spec =
            ColumnSpec { name: name.clone(), dtype, shape: Vec::new(), nullable, element_names: Vec::new() };
        InferredColumn { spec, wide: seen.wide }
    };
    Ok((records.names.iter().zip(&seen).map(spec).collect(), rows))
}

impl Seen {
    fn observe(&mut self, cell: &[u8]) {
        if cell.is_empty() {
            self.missing = true;
            return;
        }
        self.any = true;
        self.bool &= parse_bool(cell).is_some();
        let integer = parse_integer(cell);
        self.integer &= integer.is_some();
        self.wide |= integer.is_some_and(is_wide);
        self.float &= parse_float(cell).is_some() && (self.integer || !is_long_integer(cell));
    }

    fn data_type(self) -> DataType {
        match self {
            Self { any: false, .. } => DataType::Fp64,
            Self { bool: true, missing: false, .. } => DataType::Bool,
            Self { integer: true, missing: false, .. } => DataType::Int64,
            Self { wide: true, .. } => DataType::Bytes,
            Self { bool: true, .. } | Self { integer: true, .. } | Self { float: true, .. } => DataType::Fp64,
            _ => DataType::Bytes,
        }
    }
}

impl CsvReader {
    /// Opens `file`, called `name` in errors, whose header must have exactly the columns `specs`, in any order.
    pub fn open(file: File, name: &str, specs: &[ColumnSpec]) -> Result<Self, DataError> {
        let records = Records::open(file, name)?;
        let columns = specs.iter().map(|spec| {
            let cell = records.names.iter().position(|name| *name == spec.name).ok_or_else(|| {
                DataError::format(name, " line 1", format!("a column `{}`", spec.name), "none")
            })?;
            Ok(Column { spec: spec.clone(), cell })
        });
        let columns = columns.collect::<Result<Vec<_>, DataError>>()?;
        if let Some(stray) = records.names.iter().find(|name| !specs.iter().any(|spec| spec.name == **name)) {
            let expected = format!("{} columns", specs.len());
            return Err(DataError::format(
                name,
                " line 1",
                expected,
                format!("one more, {}", excerpt(stray.as_bytes())),
            ));
        }
        Ok(Self { records, columns })
    }

    /// The next at most `rows_max` rows; none at the end.
    pub fn next_batch(&mut self, rows_max: usize) -> Result<Option<Batch>, DataError> {
        let mut data = vec![Vec::new(); self.columns.len()];
        let mut rows = 0;
        let mut bytes = 0;
        while rows < rows_max.max(1) && bytes < BATCH_MAX_BYTES && self.records.advance()? {
            for (column, data) in self.columns.iter().zip(&mut data) {
                let cell = self.records.record.get(column.cell).unwrap_or_default();
                if push(data, column.spec.dtype, cell).is_none() {
                    let place = format!("{}, column `{}`", self.records.place(), column.spec.name);
                    let expected = column.spec.dtype.to_string();
                    return Err(DataError::format(&self.records.name, place, expected, excerpt(cell)));
                }
            }
            // A cell takes at least eight bytes as a number, and one and its length as text.
            bytes += self.records.record.as_slice().len() + 8 * self.columns.len();
            rows += 1;
        }
        if rows == 0 {
            return Ok(None);
        }
        let tensor = |(column, data): (&Column, Vec<u8>)| {
            Tensor::new(column.spec.name.clone(), column.spec.dtype, vec![rows], data)
        };
        let tensors = self.columns.iter().zip(data).map(tensor).collect::<Result<_, _>>()?;
        Ok(Some(Batch::new(tensors)?))
    }
}

/// The records after the header, each with as many cells as the header.
struct Records {
    name: String,
    names: Vec<String>,
    reader: csv::Reader<BudgetReader<Box<dyn Read + Send>>>,
    budget: Budget,
    record: ByteRecord,
}

impl Records {
    fn open(file: File, name: &str) -> Result<Self, DataError> {
        let (reader, budget) = BudgetReader::new(Content::open(file, name)?.reader);
        let reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(reader);
        let record = ByteRecord::new();
        let mut records = Self { name: name.to_owned(), names: Vec::new(), reader, budget, record };
        if !records.read()? {
            return Err(DataError::format(name, "", "a header row", "no line"));
        }
        records.names = header(name, &records.record)?;
        Ok(records)
    }

    /// Reads the next record; false at the end.
    fn advance(&mut self) -> Result<bool, DataError> {
        let more = self.read()?;
        let (expected, found) = (self.names.len(), self.record.len());
        if more && found != expected {
            let expected = format!("{expected} cells, as in the header");
            return Err(DataError::format(&self.name, self.place(), expected, found.to_string()));
        }
        let garbled = |(_, cell): &(&String, &[u8])| std::str::from_utf8(cell).is_err();
        if let Some((column, cell)) = self.names.iter().zip(&self.record).find(garbled) {
            let place = format!("{}, column `{column}`", self.place());
            return Err(DataError::format(&self.name, place, "UTF-8", excerpt(cell)));
        }
        Ok(more)
    }

    fn read(&mut self) -> Result<bool, DataError> {
        self.budget.refill(RECORD_MAX_BYTES);
        self.reader
            .read_byte_record(&mut self.record)
            .map_err(|source| DataError::Csv { file: self.name.clone(), source })
    }

    fn place(&self) -> String {
        self.record.position().map(|position| format!(" line {}", position.line())).unwrap_or_default()
    }
}

fn header(file: &str, record: &ByteRecord) -> Result<Vec<String>, DataError> {
    let wrong = |expected: &str, found: String| DataError::format(file, " line 1", expected, found);
    if record.len() > COLUMNS_MAX {
        return Err(wrong(&format!("at most {COLUMNS_MAX} columns"), record.len().to_string()));
    }
    if record.iter().all(|cell| parse_float(cell).is_some()) {
        return Err(wrong("the columns' names", "only numbers".to_owned()));
    }
    let mut names: Vec<String> = Vec::with_capacity(record.len());
    for (index, cell) in record.iter().enumerate() {
        // Spreadsheets put a byte order mark in front of the first cell.
        let cell = if index == 0 { cell.strip_prefix(b"\xef\xbb\xbf").unwrap_or(cell) } else { cell };
        let name =
            std::str::from_utf8(cell).ok().map(str::trim).filter(|name| (1..=256).contains(&name.len()));
        let Some(name) = name else {
            return Err(wrong("names of 1 to 256 bytes of UTF-8", excerpt(cell)));
        };
        names.push(name.to_owned());
    }
    let mut sorted: Vec<_> = names.iter().collect();
    sorted.sort();
    if let Some(twice) =
        sorted.windows(2).find_map(|pair| (pair.first() == pair.last()).then(|| pair.first()).flatten())
    {
        return Err(wrong("each name once", format!("{} twice", excerpt(twice.as_bytes()))));
    }
    Ok(names)
}

fn push(data: &mut Vec<u8>, dtype: DataType, cell: &[u8]) -> Option<()> {
    match dtype {
        DataType::Bool => data.push(u8::from(parse_bool(cell)?)),
        DataType::Int64 => data.extend_from_slice(&parse_integer(cell)?.to_le_bytes()),
        DataType::Fp64 => {
            let value = match cell {
                [] => f64::NAN,
                cell => {
                    parse_float(cell).or_else(|| parse_bool(cell).map(|value| f64::from(u8::from(value))))?
                }
            };
            data.extend_from_slice(&value.to_le_bytes());
        }
        DataType::Bytes => {
            data.extend_from_slice(&u32::try_from(cell.len()).ok()?.to_le_bytes());
            data.extend_from_slice(cell);
        }
        _ => return None,
    }
    Some(())
}

pub(super) fn parse_bool(cell: &[u8]) -> Option<bool> {
    match cell {
        b"true" | b"True" | b"TRUE" => Some(true),
        b"false" | b"False" | b"FALSE" => Some(false),
        _ => None,
    }
}

fn parse_integer(cell: &[u8]) -> Option<i64> {
    std::str::from_utf8(cell).ok()?.trim().parse().ok()
}

fn parse_float(cell: &[u8]) -> Option<f64> {
    std::str::from_utf8(cell).ok()?.trim().parse().ok()
}

/// Whether the cell is an integer with more digits than INT64 has.
fn is_long_integer(cell: &[u8]) -> bool {
    let digits = cell.strip_prefix(b"-").unwrap_or(cell);
    digits.len() > 18 && digits.iter().all(u8::is_ascii_digit) && parse_integer(cell).is_none()
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    fn read(text: impl AsRef<[u8]>) -> Result<(Batch, u64), DataError> {
        let (columns, rows) = infer_csv(file(text.as_ref()), "a.csv")?;
        let specs: Vec<_> = columns.into_iter().map(|column| column.spec).collect();
        let mut reader = CsvReader::open(file(text.as_ref()), "a.csv", &specs)?;
        let mut all = Batch::default();
        while let Some(batch) = reader.next_batch(2)? {
            assert!(batch.rows() <= 2);
            all.append(&batch)?;
        }
        Ok((all, rows))
    }

    fn types(text: &str) -> Vec<String> {
        read(text).unwrap().0.tensors().iter().map(|tensor| tensor.dtype().to_string()).collect()
    }

    #[test]
    fn infers_types_over_the_whole_file() {
        let text = "a,b,c,d,e,f\n1,1,true,x,,007\n-2,2.5,False,,,8\n 3 ,,true,\"y,\n\",,9\n";
        let (batch, rows) = read(text).unwrap();
        assert_eq!(rows, 3);
        assert_eq!(types(text), ["INT64", "FP64", "BOOL", "BYTES", "FP64", "INT64"]);
        assert_eq!(batch.column("a").unwrap().to_f64().unwrap(), [1.0, -2.0, 3.0]);
        assert!(batch.column("b").unwrap().to_f64().unwrap()[2].is_nan());
        assert_eq!(batch.column("d").unwrap().byte_strings().collect::<Vec<_>>(), [&b"x"[..], b"", b"y,\n"]);
        assert!(batch.column("e").unwrap().to_f64().unwrap().iter().all(|value| value.is_nan()));
    }

    #[test]
    fn missing_numbers_and_booleans_become_floats() {
        assert_eq!(types("a,b,c\n1,true,x\n,,\n"), ["FP64", "FP64", "BYTES"]);
        let (batch, _) = read("b,x\ntrue,1\n,2\nfalse,3\n").unwrap();
        let values = batch.column("b").unwrap().to_f64().unwrap();
        assert_eq!((values[0], values[1].is_nan(), values[2]), (1.0, true, 0.0));
    }

    #[test]
    fn mixed_columns_and_long_integers_are_text() {
        assert_eq!(types("a,b,c\n1,true,12345678901234567890\nx,1,1\n"), ["BYTES", "BYTES", "BYTES"]);
        assert_eq!(types("c,d\n1,0.5\n12345678901234567890,1\n"), ["BYTES", "FP64"]);
        // FP64 would make …992 of it.
        let (batch, _) =
            read("id,whole,part\n9007199254740993,9007199254740993,9007199254740993\n,1,0.5\n").unwrap();
        let types: Vec<_> = batch.tensors().iter().map(|tensor| tensor.dtype().as_str()).collect();
        assert_eq!(types, ["BYTES", "INT64", "BYTES"]);
        let ids: Vec<_> = batch.column("id").unwrap().byte_strings().collect();
        assert_eq!(ids, [&b"9007199254740993"[..], b""]);
        assert_eq!(self::types("id,x\n-9007199254740992,1\n,2\n"), ["FP64", "INT64"]);
    }

    #[test]
    fn reads_gzip_and_byte_order_marks() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"\xef\xbb\xbfa,b\r\n1,2\r\n").unwrap();
        let (batch, _) = read(encoder.finish().unwrap()).unwrap();
        assert_eq!(batch.tensors()[0].name(), "a");
        assert_eq!(batch.rows(), 1);
    }

    #[test]
    fn names_line_and_column_of_what_is_wrong() {
        let text = |text: &[u8]| read(text).unwrap_err().to_string();
        assert_eq!(text(b""), "`a.csv`: expected a header row, found no line");
        assert_eq!(text(b"1,2\n3,4\n"), "`a.csv` line 1: expected the columns' names, found only numbers");
        assert_eq!(text(b"a,a\n1,2\n"), "`a.csv` line 1: expected each name once, found `a` twice");
        assert_eq!(text(b"a,\n1,2\n"), "`a.csv` line 1: expected names of 1 to 256 bytes of UTF-8, found ``");
        assert_eq!(text(b"a,b\n1,2\n3\n"), "`a.csv` line 3: expected 2 cells, as in the header, found 1");
        assert_eq!(
            text(b"a,b\n1,\"2\n3\"\n4,5,6\n"),
            "`a.csv` line 4: expected 2 cells, as in the header, found 3"
        );
        assert!(text(b"a,\xff\n").contains("UTF-8"));
        // The first bytes of a character in one cell, the rest in the next.
        let garbled = text(b"a,b\n1,2\n\xc3,\xa9\n");
        assert!(garbled.starts_with("`a.csv` line 3, column `a`: expected UTF-8, found"), "{garbled}");
        let (columns, _) = infer_csv(file(b"a,b\n1,2\n"), "a.csv").unwrap();
        let specs: Vec<_> = columns.into_iter().map(|column| column.spec).collect();
        let mut changed = CsvReader::open(file(b"b,a\n1,2\n3,x\n"), "b.csv", &specs).unwrap();
        let error = changed.next_batch(9).unwrap_err().to_string();
        assert_eq!(error, "`b.csv` line 3, column `a`: expected INT64, found `x`");
        let open = |text: &[u8]| CsvReader::open(file(text), "b.csv", &specs).err().unwrap().to_string();
        assert_eq!(open(b"a\n1\n"), "`b.csv` line 1: expected a column `b`, found none");
        assert_eq!(open(b"a,b,c\n"), "`b.csv` line 1: expected 2 columns, found one more, `c`");
    }

    #[test]
    fn a_quote_that_is_never_closed_costs_no_memory() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"a,b\n1,\"").unwrap();
        for _ in 0..40 {
            encoder.write_all(&vec![b'x'; 1 << 20]).unwrap();
        }
        let error = read(encoder.finish().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "`a.csv` is not CSV");
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("longer than the limit"));
    }
}
