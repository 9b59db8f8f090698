use super::FileEntry;
use super::files::FileFormat;
use super::split::Source;
use crate::data::DataError;
use crate::data::csv::infer_csv;
use crate::data::idx::IdxReader;
use crate::data::inferred::InferredColumn;
use crate::data::parquet::infer_parquet;
use crate::data::safetensors::infer_safetensors;
use crate::domain::{ColumnSpec, DataType};

/// Columns, and the file that promised them first.
struct Promise<'a> {
    file: &'a str,
    columns: Vec<InferredColumn>,
}

/// Reads the columns of every file and finds the types that fit all of them. All files have one format, and every split
/// has the same columns.
pub(super) fn infer(files: &[FileEntry], sources: &[Source]) -> Result<Vec<ColumnSpec>, DataError> {
    let Some(first) = files.first() else { return Ok(Vec::new()) };
    if let Some(other) = files.iter().find(|file| file.format != first.format) {
        return Err(disagree(&other.path, &first.path, first.format.as_str(), other.format.as_str()));
    }
    let promises = match first.format {
        FileFormat::Idx => promises_of_idx(files, sources)?,
        FileFormat::Csv => promises_of_tables(files, sources, infer_csv)?,
        FileFormat::Parquet => promises_of_tables(files, sources, infer_parquet)?,
        FileFormat::Safetensors => promises_of_tables(files, sources, infer_safetensors)?,
        FileFormat::Plain => return Ok(Vec::new()),
    };
    let mut promises = promises.into_iter();
    let Some(mut schema) = promises.next() else { return Ok(Vec::new()) };
    for promise in promises {
        merge(&mut schema, &promise, first.format)?;
    }
    Ok(schema.columns.into_iter().map(|column| column.spec).collect())
}

/// The columns of each split, which has one file for each.
fn promises_of_idx<'a>(files: &'a [FileEntry], sources: &[Source]) -> Result<Vec<Promise<'a>>, DataError> {
    let mut promises: Vec<(&str, Promise<'_>)> = Vec::new();
    let mut seen: Vec<(&str, &str, &str)> = Vec::new();
    for (file, source) in files.iter().zip(sources) {
        let column = file.column.as_deref().unwrap_or("value");
        if let Some((.., first)) =
            seen.iter().find(|(split, name, _)| *split == file.split && *name == column)
        {
            let expected = format!("another column than `{column}`");
            return Err(disagree(&file.path, first, &expected, "the same"));
        }
        seen.push((&file.split, column, &file.path));
        let spec = IdxReader::open(source.open()?, &file.path, column)?.spec().clone();
        let column = InferredColumn { spec, wide: false };
        match promises.last_mut().filter(|(split, _)| *split == file.split) {
            Some((_, promise)) => promise.columns.push(column),
            None => promises.push((&file.split, Promise { file: &file.path, columns: vec![column] })),
        }
    }
    Ok(promises.into_iter().map(|(_, promise)| promise).collect())
}

type Infer = fn(std::fs::File, &str) -> Result<(Vec<InferredColumn>, u64), DataError>;

fn promises_of_tables<'a>(
    files: &'a [FileEntry],
    sources: &[Source],
    infer: Infer,
) -> Result<Vec<Promise<'a>>, DataError> {
    let promise = |(file, source): (&'a FileEntry, &Source)| {
        let (columns, _) = infer(source.open()?, &file.path)?;
        Ok(Promise { file: &file.path, columns })
    };
    files.iter().zip(sources).map(promise).collect()
}

/// Widens `schema` so that `other` fits too.
fn merge(schema: &mut Promise<'_>, other: &Promise<'_>, format: FileFormat) -> Result<(), DataError> {
    let same = |a: &InferredColumn, b: &InferredColumn| a.spec.name == b.spec.name;
    if let Some(stray) =
        other.columns.iter().find(|column| !schema.columns.iter().any(|own| same(own, column)))
    {
        let found = format!("one more, `{}`", stray.spec.name);
        return Err(disagree(other.file, schema.file, &format!("{} columns", schema.columns.len()), &found));
    }
    for own in &mut schema.columns {
        let Some(column) = other.columns.iter().find(|column| same(own, column)) else {
            return Err(disagree(other.file, schema.file, &format!("a column `{}`", own.spec.name), "none"));
        };
        let wider = widen_column(own, column, format).filter(|_| own.spec.shape == column.spec.shape);
        let Some(dtype) = wider else {
            let (own, column) = (&own.spec, &column.spec);
            let expected = format!("column `{}` to be {} {:?}", own.name, own.dtype, own.shape);
            let found = format!("{} {:?}", column.dtype, column.shape);
            return Err(disagree(other.file, schema.file, &expected, &found));
        };
        own.wide |= column.wide;
        let nullable = own.spec.nullable || column.spec.nullable;
        own.spec.dtype = dtype;
        own.spec.nullable = dtype == DataType::Fp64 || (nullable && dtype != DataType::Bytes);
    }
    Ok(())
}

/// Like [`widen`]; integers that FP64 cannot hold become text together with others.
fn widen_column(a: &InferredColumn, b: &InferredColumn, format: FileFormat) -> Option<DataType> {
    let wider = widen(a.spec.dtype, b.spec.dtype, format);
    let is_text = |column: &InferredColumn| column.spec.dtype == DataType::Bytes && !column.wide;
    match wider {
        Some(DataType::Fp64) if a.wide || b.wide => Some(DataType::Bytes),
        // One of two Parquet files has nulls among its integers.
        None if (a.wide || b.wide) && !is_text(a) && !is_text(b) => Some(DataType::Bytes),
        wider => wider,
    }
}

/// The type that holds the values of both, if there is one. Every CSV cell is also text; IDX and safetensors say what they
/// mean.
fn widen(a: DataType, b: DataType, format: FileFormat) -> Option<DataType> {
    use DataType::{Bool, Bytes, Fp32, Fp64, Int64, Uint64};
    let integer = |dtype: DataType| !matches!(dtype, Bool | Bytes | Fp32 | Fp64 | DataType::Fp16);
    match (a, b) {
        _ if a == b => Some(a),
        _ if matches!(format, FileFormat::Idx | FileFormat::Safetensors) => None,
        (Bytes, _) | (_, Bytes) => (format == FileFormat::Csv).then_some(Bytes),
        // A boolean column with missing cells is FP64.
        (Bool, Fp64) | (Fp64, Bool) => Some(Fp64),
        (Bool, _) | (_, Bool) => (format == FileFormat::Csv).then_some(Bytes),
        _ if integer(a) && integer(b) && a != Uint64 && b != Uint64 => Some(Int64),
        _ => Some(Fp64),
    }
}

fn disagree(file: &str, first: &str, expected: &str, found: &str) -> DataError {
    let (file, first) = (file.to_owned(), first.to_owned());
    DataError::Disagree { file, first, expected: expected.to_owned(), found: found.to_owned() }
}
