use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;

use super::files::FileFormat;
use super::{DatasetManifest, FileEntry};
use crate::data::DataError;
use crate::data::csv::CsvReader;
use crate::data::idx::IdxReader;
use crate::data::parquet::ParquetReader;
use crate::data::safetensors::SafetensorsReader;
use crate::domain::{Batch, ColumnSpec, Digest};
use crate::store::Store;

/// Where the bytes of a file come from: the user's file before it is added, the blob after.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Path(PathBuf),
    Blob(Store, Digest),
}

impl Source {
    pub(super) fn open(&self) -> Result<File, DataError> {
        match self {
            Self::Path(path) => File::open(path).map_err(DataError::read(path)),
            Self::Blob(store, digest) => Ok(store.open_blob(*digest)?),
        }
    }
}

/// Gives the rows of a split, batch after batch; holds one batch at a time. Ends after an error.
pub struct SplitReader {
    schema: Vec<ColumnSpec>,
    batch_rows: usize,
    rows: Rows,
}

enum Rows {
    /// Files that are columns side by side.
    Columns(Vec<IdxReader>),
    /// Files that follow each other.
    Tables(VecDeque<(FileEntry, Source)>, Option<Table>),
    Ended,
}

enum Table {
    Csv(Box<CsvReader>),
    Parquet(Box<ParquetReader>),
    Safetensors(Box<SafetensorsReader>),
}

/// Reads the split of a version in batches of at most `batch_rows` rows. Every blob is checked before it is read.
pub fn open_split(
    store: &Store,
    manifest: &DatasetManifest,
    split: &str,
    batch_rows: usize,
) -> Result<SplitReader, DataError> {
    let of_split = manifest.files.iter().filter(|file| file.split == split);
    let files: Vec<_> =
        of_split.map(|file| (file.clone(), Source::Blob(store.clone(), file.digest))).collect();
    if files.is_empty() {
        return Err(DataError::UnknownSplit {
            name: manifest.name.clone(),
            split: split.chars().take(80).collect(),
            splits: manifest.splits.iter().map(|split| split.name.clone()).collect(),
        });
    }
    SplitReader::open(files, &manifest.schema, batch_rows)
}

impl SplitReader {
    pub(super) fn open(
        files: Vec<(FileEntry, Source)>,
        schema: &[ColumnSpec],
        batch_rows: usize,
    ) -> Result<Self, DataError> {
        let columns = files.first().is_some_and(|(file, _)| file.format == FileFormat::Idx);
        let rows = if columns {
            Rows::Columns(open_columns(&files, schema)?)
        } else {
            Rows::Tables(files.into(), None)
        };
        Ok(Self { schema: schema.to_vec(), batch_rows, rows })
    }

    fn next_batch(&mut self) -> Result<Option<Batch>, DataError> {
        match &mut self.rows {
            Rows::Ended => Ok(None),
            Rows::Columns(readers) => {
                // Wide rows come in fewer at a time; every column has to follow the widest.
                let mut rows = self.batch_rows;
                let mut tensors = Vec::with_capacity(readers.len());
                for reader in readers.iter() {
                    rows = rows.min(reader.batch_rows_max());
                }
                for reader in readers {
                    let Some(tensor) = reader.next_column(rows)? else { return Ok(None) };
                    tensors.push(tensor);
                }
                Ok(Some(Batch::new(tensors)?))
            }
            Rows::Tables(files, open) => loop {
                let Some(table) = open else {
                    let Some((file, source)) = files.pop_front() else { return Ok(None) };
                    *open = Some(open_table(&file, &source, &self.schema)?);
                    continue;
                };
                let batch = match table {
                    Table::Csv(reader) => reader.next_batch(self.batch_rows)?,
                    Table::Parquet(reader) => reader.next_batch(self.batch_rows)?,
                    Table::Safetensors(reader) => reader.next_batch(self.batch_rows)?,
                };
                if batch.is_some() {
                    return Ok(batch);
                }
                *open = None;
            },
        }
    }
}

impl Iterator for SplitReader {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_batch().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.rows = Rows::Ended;
        }
        next
    }
}

/// Opens one file for each column, which must have equally many rows.
fn open_columns(files: &[(FileEntry, Source)], schema: &[ColumnSpec]) -> Result<Vec<IdxReader>, DataError> {
    let mut readers: Vec<IdxReader> = Vec::with_capacity(schema.len());
    let mut first: Option<(usize, &str)> = None;
    for spec in schema {
        let named = |(file, _): &&(FileEntry, Source)| file.column.as_deref() == Some(&spec.name);
        let Some((file, source)) = files.iter().find(named) else {
            let place = files.first().map(|(file, _)| file.split.as_str()).unwrap_or_default();
            return Err(DataError::format(place, "", format!("a file with column `{}`", spec.name), "none"));
        };
        let reader = IdxReader::open(source.open()?, &file.path, &spec.name)?;
        let (expected, first) = *first.get_or_insert((reader.rows(), &file.path));
        if reader.rows() != expected {
            return Err(DataError::Disagree {
                file: file.path.clone(),
                first: first.to_owned(),
                expected: format!("{expected} rows"),
                found: reader.rows().to_string(),
            });
        }
        readers.push(reader);
    }
    Ok(readers)
}

fn open_table(file: &FileEntry, source: &Source, schema: &[ColumnSpec]) -> Result<Table, DataError> {
    let opened = source.open()?;
    match file.format {
        FileFormat::Csv => {
            CsvReader::open(opened, &file.path, schema).map(|reader| Table::Csv(Box::new(reader)))
        }
        FileFormat::Parquet => {
            ParquetReader::open(opened, &file.path, schema).map(|reader| Table::Parquet(Box::new(reader)))
        }
        FileFormat::Safetensors => SafetensorsReader::open(opened, &file.path, schema)
            .map(|reader| Table::Safetensors(Box::new(reader))),
        FileFormat::Idx | FileFormat::Plain => {
            Err(DataError::format(&file.path, "", "a table", file.format.as_str()))
        }
    }
}
