//! The bodies that MLflow's scoring server takes: `dataframe_split`, `dataframe_records`, `instances` and `inputs` as JSON,
//! and CSV with a line of names. See "Local inference server" in MLflow's documentation.

mod table;

use std::borrow::Cow;

use super::elements::{take_row, take_rows};
use super::rows::{Columns, take_list};
use super::scan::{INFINITY, NEGATIVE_INFINITY, Scanner, is_number};
use super::{JsonError, UnknownColumns, write_string};
use crate::data::csv::parse_bool;
use crate::domain::{Batch, ColumnSpec, DataType};
pub use table::can_be_csv;
use table::{check_cells, names_max, numbered, spread, together, too_many_names};

/// The fields that hold rows.
const FORMATS: [&str; 4] = ["dataframe_split", "dataframe_records", "instances", "inputs"];

/// Reads the rows of a JSON body, which has one of [`FORMATS`]; at most `rows_max` rows. Columns that are not
/// among `specs` are ignored, as MLflow does it, and so are its `params`, because models here have none, and what else there is, such as
/// the `signature_name` of TensorFlow Serving's clients.
pub fn decode_scoring(text: &[u8], specs: &[ColumnSpec], rows_max: usize) -> Result<Batch, JsonError> {
    let mut scanner = Scanner::new(text);
    let mut found: Option<(&'static str, Scanner<'_>)> = None;
    let mut other: Option<String> = None;
    take_fields(&mut scanner, &mut |scanner, name| {
        match FORMATS.into_iter().find(|format| *format == name) {
            Some(format) if found.is_none() => found = Some((format, scanner.clone())),
            Some(format) => {
                return Err(JsonError::new(format!("expected rows in one field, found `{format}` too")));
            }
            None if other.is_none() => other = Some(name.chars().take(80).collect()),
            None => {}
        }
        scanner.skip().map_err(JsonError::new)
    })?;
    scanner.end().map_err(JsonError::new)?;
    let Some((format, mut at)) = found else {
        let expected = FORMATS.map(|format| format!("`{format}`")).join(", ");
        let other = other.map_or_else(|| "none".to_owned(), |other| format!("`{other}`"));
        return Err(JsonError::new(format!("expected one of {expected}, found {other}")));
    };
    match format {
        "dataframe_split" => take_split(&mut at, specs, rows_max),
        "dataframe_records" => take_records(&mut at, specs, rows_max),
        // MLflow takes either form of both.
        _ => match at.peek() {
            Some(b'{') => take_columns(&mut at, specs, rows_max),
            _ => take_instances(&mut at, specs, rows_max),
        },
    }
}

/// Reads CSV whose first line names the columns; each must have one element in a row. An empty cell is a missing value.
pub fn decode_scoring_csv(
    text: &[u8],
    specs: &[ColumnSpec],
    rows_max: usize,
    unknown: UnknownColumns,
) -> Result<Batch, JsonError> {
    check_cells(text, names_max(specs))?;
    let told = |error: csv::Error| JsonError::new(format!("the body is not CSV: {error}"));
    let mut reader = csv::ReaderBuilder::new().from_reader(text);
    let names: Vec<String> = reader.headers().map_err(told)?.iter().map(str::to_owned).collect();
    let spread = spread(specs, &names, unknown)?;
    let mut columns = Columns::new(spread.as_deref().unwrap_or(specs), unknown);
    let order = columns.order(names.iter().map(String::as_str))?;
    let mut record = csv::StringRecord::new();
    let mut cell_as_json = Vec::new();
    loop {
        let read = reader.read_record(&mut record);
        if matches!(read, Ok(false)) {
            return together(columns.finish()?, specs, spread.is_some());
        }
        let row = columns.begin_row(rows_max)?;
        read.map_err(|error| misread(&error, row, &names))?;
        for (cell, &column) in record.iter().zip(&order) {
            let Some(column) = column else { continue };
            cell_as_json.clear();
            match columns.spec(column).map(|spec| spec.dtype) {
                Some(DataType::Bytes) => write_string(&mut cell_as_json, cell),
                dtype => cell_as_json.extend_from_slice(in_json(cell.trim(), dtype).as_bytes()),
            }
            let mut scanner = Scanner::new(&cell_as_json);
            let taken = columns.take(column, &mut scanner).is_ok() && scanner.end().is_ok();
            columns.within(column, if taken { Ok(()) } else { Err(unfit(columns.spec(column), cell)) })?;
        }
        columns.end_row()?;
    }
}

/// What is said of a line that is no row.
fn misread(error: &csv::Error, row: usize, names: &[String]) -> JsonError {
    let message = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("expected {expected_len} cells, found {len}")
        }
        csv::ErrorKind::Utf8 { err, .. } => {
            let message = "is not text in UTF-8";
            return match names.get(err.field()) {
                Some(name) => JsonError::in_column(message, Some(row), name),
                None => JsonError::in_row(message, row),
            };
        }
        _ => format!("is not CSV: {error}"),
    };
    JsonError::in_row(message, row)
}

/// A cell as JSON writes what it holds. A dataset's CSV is read as generously: what trains shall serve.
fn in_json(cell: &str, dtype: Option<DataType>) -> Cow<'_, str> {
    let truth = parse_bool(cell.as_bytes());
    match (dtype, cell) {
        (_, "") => "null".into(),
        (Some(DataType::Bool), _) => match truth {
            Some(true) => "true".into(),
            Some(false) => "false".into(),
            None => cell.into(),
        },
        (_, number) if is_number(number.as_bytes()) => number.into(),
        (Some(DataType::Fp16 | DataType::Fp32 | DataType::Fp64), _) => {
            let value = cell.parse().ok().or_else(|| truth.map(|truth| f64::from(u8::from(truth))));
            match value {
                Some(missing) if missing.is_nan() => "null".into(),
                Some(value) if value.is_finite() => value.to_string().into(),
                Some(infinity) => if infinity > 0.0 { INFINITY } else { NEGATIVE_INFINITY }.into(),
                None => cell.into(),
            }
        }
        _ => cell.parse::<i64>().map_or(cell.into(), |value| value.to_string().into()),
    }
}

/// What is said of a cell that is not what its column holds.
fn unfit(spec: Option<&ColumnSpec>, cell: &str) -> String {
    let cell: String = cell.chars().take(80).collect();
    match spec {
        Some(spec) if spec.row_elements() != 1 => {
            let dtype = spec.dtype;
            format!("expected one {dtype} in a row, which CSV can hold, and not {:?}: send JSON", spec.shape)
        }
        Some(spec) => format!("expected {}, found `{cell}`", spec.dtype),
        None => format!("`{cell}` is too much"),
    }
}

/// `{"columns": […], "data": [[…], …]}`; without names the columns are the signature's, in its order.
fn take_split(scanner: &mut Scanner<'_>, specs: &[ColumnSpec], rows_max: usize) -> Result<Batch, JsonError> {
    let (mut names, mut data) = (None, None);
    take_fields(scanner, &mut |scanner, name| {
        let place = scanner.clone();
        match name {
            "columns" => names = Some(take_names(&mut place.clone(), names_max(specs))?),
            "data" => data = Some(place),
            "index" => {}
            other => {
                let other: String = other.chars().take(80).collect();
                let message =
                    format!("`dataframe_split` has `{other}`: expected `columns`, `index` and `data`");
                return Err(JsonError::new(message));
            }
        }
        scanner.skip().map_err(JsonError::new)
    })?;
    let Some(mut data) = data else {
        return Err(JsonError::new("`dataframe_split` has no `data`: expected a list of rows"));
    };
    let spread = match &names {
        Some(names) => spread(specs, names, UnknownColumns::Ignored)?,
        None => numbered(specs, &mut data.clone()),
    };
    let mut columns = Columns::new(spread.as_deref().unwrap_or(specs), UnknownColumns::Ignored);
    let order = match &names {
        Some(names) => columns.order(names.iter().map(String::as_str))?,
        None => (0..spread.as_deref().unwrap_or(specs).len()).map(Some).collect(),
    };
    data.expect(b'[').map_err(JsonError::new)?;
    if data.take(b']') {
        return Err(JsonError::new("expected at least one row, found an empty list"));
    }
    loop {
        let row = columns.begin_row(rows_max)?;
        let in_row = |message| JsonError::in_row(message, row);
        data.expect(b'[').map_err(in_row)?;
        let mut found = 0;
        let mut more = !data.take(b']');
        while more {
            let Some(&column) = order.get(found) else {
                return Err(in_row(format!("expected {} values, found more", order.len())));
            };
            match column {
                Some(column) => columns.take(column, &mut data)?,
                None => data.skip().map_err(in_row)?,
            }
            found += 1;
            more = data.more(b']').map_err(in_row)?;
        }
        if found < order.len() {
            return Err(in_row(format!("expected {} values, found {found}", order.len())));
        }
        columns.end_row()?;
        if !data.more(b']').map_err(JsonError::new)? {
            return together(columns.finish()?, specs, spread.is_some());
        }
    }
}

/// A list of objects.
fn take_records(
    scanner: &mut Scanner<'_>,
    specs: &[ColumnSpec],
    rows_max: usize,
) -> Result<Batch, JsonError> {
    let spread = match specs {
        [only] if only.row_elements() > 1 => {
            let names = names_of_first(&mut scanner.clone(), names_max(specs))?;
            spread(specs, &names, UnknownColumns::Ignored)?
        }
        _ => None,
    };
    let mut columns = Columns::new(spread.as_deref().unwrap_or(specs), UnknownColumns::Ignored);
    take_list(scanner, &mut columns, rows_max)?;
    together(columns.finish()?, specs, spread.is_some())
}

/// A list of objects, or of the rows of the only column.
fn take_instances(
    scanner: &mut Scanner<'_>,
    specs: &[ColumnSpec],
    rows_max: usize,
) -> Result<Batch, JsonError> {
    let mut first = scanner.clone();
    if first.take(b'[') && first.peek() == Some(b'{') {
        return take_records(scanner, specs, rows_max);
    }
    if specs.len() != 1 {
        let message = format!("expected objects with the {} columns of the model", specs.len());
        return Err(JsonError::new(message));
    }
    let mut columns = Columns::new(specs, UnknownColumns::Ignored);
    scanner.expect(b'[').map_err(JsonError::new)?;
    if scanner.take(b']') {
        return Err(JsonError::new("expected at least one row, found an empty list"));
    }
    loop {
        columns.begin_row(rows_max)?;
        columns.take(0, scanner)?;
        columns.end_row()?;
        if !scanner.more(b']').map_err(JsonError::new)? {
            return columns.finish();
        }
    }
}

/// An object with a list of rows for each column, or with the element of the only row.
fn take_columns(
    scanner: &mut Scanner<'_>,
    specs: &[ColumnSpec],
    rows_max: usize,
) -> Result<Batch, JsonError> {
    let spread = match specs {
        [only] if only.row_elements() > 1 => {
            let names = names_of_fields(&mut scanner.clone(), names_max(specs))?;
            spread(specs, &names, UnknownColumns::Ignored)?
        }
        _ => None,
    };
    let mut columns = Columns::new(spread.as_deref().unwrap_or(specs), UnknownColumns::Ignored);
    take_fields(scanner, &mut |scanner, name| {
        let Some(column) = columns.find(name)? else { return scanner.skip().map_err(JsonError::new) };
        if scanner.peek() != Some(b'[') {
            let take = |spec: &ColumnSpec, data: &mut Vec<u8>| {
                take_row(scanner, spec, data).map_err(|wrong| (Some(0), wrong))
            };
            return columns.take_whole(column, 1, take);
        }
        let rows = count(&mut scanner.clone())?;
        if rows > rows_max {
            return Err(JsonError::new(format!("expected at most {rows_max} rows, found {rows}")));
        }
        columns.take_whole(column, rows, |spec, data| take_rows(scanner, spec, rows, data))
    })?;
    together(columns.finish_whole()?, specs, spread.is_some())
}

/// Items of a list.
fn count(scanner: &mut Scanner<'_>) -> Result<usize, JsonError> {
    scanner.expect(b'[').map_err(JsonError::new)?;
    if scanner.take(b']') {
        return Err(JsonError::new("expected at least one row, found an empty list"));
    }
    let mut items = 0;
    loop {
        scanner.skip().map_err(JsonError::new)?;
        items += 1;
        if !scanner.more(b']').map_err(JsonError::new)? {
            return Ok(items);
        }
    }
}

/// The names of the fields of the first of a list of objects.
fn names_of_first(scanner: &mut Scanner<'_>, names_max: usize) -> Result<Vec<String>, JsonError> {
    if !scanner.take(b'[') || scanner.peek() != Some(b'{') {
        return Ok(Vec::new());
    }
    names_of_fields(scanner, names_max)
}

/// The names of the fields of an object.
fn names_of_fields(scanner: &mut Scanner<'_>, names_max: usize) -> Result<Vec<String>, JsonError> {
    let mut names = Vec::new();
    take_fields(scanner, &mut |scanner, name| {
        if names.len() == names_max {
            return Err(too_many_names(names_max));
        }
        names.push(name.to_owned());
        scanner.skip().map_err(JsonError::new)
    })?;
    Ok(names)
}

/// The names of a list, which may be numbers: pandas numbers the columns of a frame that was given no names.
fn take_names(scanner: &mut Scanner<'_>, names_max: usize) -> Result<Vec<String>, JsonError> {
    let mut names = Vec::new();
    scanner.expect(b'[').map_err(JsonError::new)?;
    let mut more = !scanner.take(b']');
    while more {
        let name = match scanner.string().map_err(JsonError::new)? {
            Some(name) => name.into_owned(),
            None => match scanner.number().map_err(JsonError::new)? {
                Some(number) => number.to_owned(),
                None => return Err(JsonError::new(scanner.unexpected("a column's name"))),
            },
        };
        if names.len() == names_max {
            return Err(too_many_names(names_max));
        }
        names.push(name);
        more = scanner.more(b']').map_err(JsonError::new)?;
    }
    Ok(names)
}

/// Goes through the fields of an object; `take` must read the value.
fn take_fields<'a>(
    scanner: &mut Scanner<'a>,
    take: &mut impl FnMut(&mut Scanner<'a>, &str) -> Result<(), JsonError>,
) -> Result<(), JsonError> {
    if scanner.peek() != Some(b'{') {
        return Err(JsonError::new(scanner.unexpected("an object")));
    }
    scanner.expect(b'{').map_err(JsonError::new)?;
    let mut more = !scanner.take(b'}');
    while more {
        let name = scanner.key().map_err(JsonError::new)?;
        take(scanner, &name)?;
        more = scanner.more(b'}').map_err(JsonError::new)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
