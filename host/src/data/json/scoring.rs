//! The bodies that MLflow's scoring server takes: `dataframe_split`, `dataframe_records`, `instances` and `inputs` as JSON,
//! and CSV with a line of names. See "Local inference server" in MLflow's documentation.

use std::borrow::Cow;

use super::elements::take_rows;
use super::rows::{Columns, take_list};
use super::scan::{Scanner, is_number};
use super::{JsonError, UnknownColumns, write_string};
use crate::data::csv::parse_bool;
use crate::domain::{Batch, ColumnSpec, DataType, Tensor};

/// The fields that hold rows.
const FORMATS: [&str; 4] = ["dataframe_split", "dataframe_records", "instances", "inputs"];

/// Names that a body may give to columns, beside those of the model.
const OTHER_NAMES_MAX: usize = 16 * 1024;

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
        "instances" => take_instances(&mut at, specs, rows_max),
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
    let spread = spread(specs, &names);
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
                _ => cell.into(),
            }
        }
        _ => cell.parse::<i64>().map_or(cell.into(), |value| value.to_string().into()),
    }
}

/// What is said of a cell that is not what its column holds.
fn unfit(spec: Option<&ColumnSpec>, cell: &str) -> String {
    let cell: String = cell.chars().take(80).collect();
    match spec {
        Some(spec) if !spec.shape.is_empty() => {
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
        Some(names) => spread(specs, names),
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
            spread(specs, &names_of_first(&mut scanner.clone(), names_max(specs))?)
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

/// An object with a list of rows for each column.
fn take_columns(
    scanner: &mut Scanner<'_>,
    specs: &[ColumnSpec],
    rows_max: usize,
) -> Result<Batch, JsonError> {
    let mut columns = Columns::new(specs, UnknownColumns::Ignored);
    take_fields(scanner, &mut |scanner, name| {
        let Some(column) = columns.find(name)? else { return scanner.skip().map_err(JsonError::new) };
        let rows = count(&mut scanner.clone())?;
        if rows > rows_max {
            return Err(JsonError::new(format!("expected at most {rows_max} rows, found {rows}")));
        }
        columns.take_whole(column, rows, |spec, data| take_rows(scanner, spec, rows, data))
    })?;
    columns.finish()
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

/// How many names a body may give to columns: they are kept, and a packed body says millions in a few bytes.
fn names_max(specs: &[ColumnSpec]) -> usize {
    let elements = specs.iter().map(ColumnSpec::row_elements).fold(0, usize::saturating_add);
    elements.saturating_add(OTHER_NAMES_MAX)
}

fn too_many_names(names_max: usize) -> JsonError {
    JsonError::new(format!("expected at most {names_max} columns, found more"))
}

/// Refuses CSV with a line of more cells than there may be names, without keeping them.
fn check_cells(text: &[u8], names_max: usize) -> Result<(), JsonError> {
    // Only what has so many commas can have such a line, and hardly any has.
    if text.iter().filter(|byte| **byte == b',').count() < names_max {
        return Ok(());
    }
    let (mut reader, mut rest, mut cells) = (csv_core::Reader::new(), text, 0);
    let mut skipped = [0; 1024];
    loop {
        let (read, taken, _) = reader.read_field(rest, &mut skipped);
        rest = rest.get(taken..).unwrap_or_default();
        match read {
            csv_core::ReadFieldResult::Field { record_end } => {
                cells = if record_end { 0 } else { cells + 1 };
                if cells >= names_max {
                    return Err(too_many_names(names_max));
                }
            }
            csv_core::ReadFieldResult::End => return Ok(()),
            csv_core::ReadFieldResult::InputEmpty | csv_core::ReadFieldResult::OutputFull => {}
        }
    }
}

/// The columns of one element that the only column is written as, by these names: a model that was imported without a signature has
/// one column of all features, and those who ask it have a table. None where the column is there by its name, or they are more or fewer.
fn spread(specs: &[ColumnSpec], names: &[String]) -> Option<Vec<ColumnSpec>> {
    let [only] = specs else { return None };
    let is_spread =
        only.dtype.size().is_some() && only.row_elements() > 1 && only.row_elements() == names.len();
    if !is_spread || names.contains(&only.name) {
        return None;
    }
    let one = |name: &String| ColumnSpec { name: name.clone(), shape: Vec::new(), ..only.clone() };
    Some(names.iter().map(one).collect())
}

/// The same of a table without names, if its first row is one of elements.
fn numbered(specs: &[ColumnSpec], data: &mut Scanner<'_>) -> Option<Vec<ColumnSpec>> {
    let [only] = specs else { return None };
    if !(data.take(b'[') && data.take(b'[')) || data.peek() == Some(b'[') {
        return None;
    }
    let names: Vec<_> = (0..only.row_elements()).map(|index| format!("{}[{index}]", only.name)).collect();
    spread(specs, &names)
}

/// The batch of the only column whose elements are columns of their own in `batch`, if it was spread.
fn together(batch: Batch, specs: &[ColumnSpec], is_spread: bool) -> Result<Batch, JsonError> {
    let (true, [only]) = (is_spread, specs) else { return Ok(batch) };
    let size = only.dtype.size().unwrap_or(1);
    let mut data = Vec::with_capacity(batch.byte_len());
    for row in 0..batch.rows() {
        for column in batch.tensors() {
            data.extend_from_slice(column.data().get(row * size..(row + 1) * size).unwrap_or_default());
        }
    }
    let shape = [batch.rows()].into_iter().chain(only.shape.iter().copied()).collect();
    let tensor = Tensor::new(only.name.clone(), only.dtype, shape, data);
    let tensor = tensor.map_err(|error| JsonError::new(error.to_string()))?;
    Batch::new(vec![tensor]).map_err(|error| JsonError::new(error.to_string()))
}

/// The names of the fields of the first of a list of objects.
fn names_of_first(scanner: &mut Scanner<'_>, names_max: usize) -> Result<Vec<String>, JsonError> {
    let mut names = Vec::new();
    if !scanner.take(b'[') || scanner.peek() != Some(b'{') {
        return Ok(names);
    }
    take_fields(scanner, &mut |scanner, name| {
        if names.len() == names_max {
            return Err(too_many_names(names_max));
        }
        names.push(name.to_owned());
        scanner.skip().map_err(JsonError::new)
    })?;
    Ok(names)
}

fn take_names(scanner: &mut Scanner<'_>, names_max: usize) -> Result<Vec<String>, JsonError> {
    let mut names = Vec::new();
    scanner.expect(b'[').map_err(JsonError::new)?;
    let mut more = !scanner.take(b']');
    while more {
        let name = scanner.string().map_err(JsonError::new)?;
        let Some(name) = name else { return Err(JsonError::new(scanner.unexpected("a column's name"))) };
        if names.len() == names_max {
            return Err(too_many_names(names_max));
        }
        names.push(name.into_owned());
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
mod tests {
    use super::*;
    use crate::domain::DataType;

    fn spec(name: &str, dtype: DataType, shape: &[usize]) -> ColumnSpec {
        let nullable = matches!(dtype, DataType::Fp64);
        ColumnSpec { name: name.to_owned(), dtype, shape: shape.to_vec(), nullable }
    }

    fn two() -> [ColumnSpec; 2] {
        [spec("age", DataType::Fp64, &[]), spec("city", DataType::Bytes, &[])]
    }

    fn decode(text: &str, specs: &[ColumnSpec]) -> Result<Batch, String> {
        decode_scoring(text.as_bytes(), specs, 3).map_err(|error| error.to_string())
    }

    #[test]
    fn every_format_says_the_same() {
        let records = r#"{"dataframe_records": [{"age": 4, "city": "Bern"}, {"city": "", "age": null}]}"#;
        let expected = decode(records, &two()).unwrap();
        assert_eq!(expected.rows(), 2);
        for same in [
            r#"{"dataframe_split": {"columns": ["city", "age"], "data": [["Bern", 4], ["", null]]}}"#,
            r#"{"dataframe_split": {"data": [[4, "Bern"], [null, ""]], "index": [7, 8]}, "params": {}}"#,
            r#"{"instances": [{"age": 4, "city": "Bern"}, {"age": null, "city": ""}]}"#,
            r#"{"inputs": {"city": ["Bern", ""], "age": [4, null]}}"#,
        ] {
            // NaN is equal to nothing, so bytes are compared.
            let found = decode(same, &two()).unwrap();
            for (left, right) in expected.tensors().iter().zip(found.tensors()) {
                assert_eq!((left.name(), left.data()), (right.name(), right.data()), "{same}");
            }
        }
        let csv = b"city,age\nBern,4\n\"\",\n";
        let csv = decode_scoring_csv(csv, &two(), 3, UnknownColumns::Refused).unwrap();
        assert_eq!(csv.tensors()[0].data(), expected.tensors()[0].data());
        assert_eq!(csv.tensors()[1].data(), expected.tensors()[1].data());
    }

    #[test]
    fn cells_are_taken_as_a_dataset_takes_them() {
        let specs = [
            spec("flag", DataType::Bool, &[]),
            spec("count", DataType::Int64, &[]),
            ColumnSpec { nullable: true, ..spec("size", DataType::Fp64, &[]) },
        ];
        let read = |text: &str| decode_scoring_csv(text.as_bytes(), &specs, 10, UnknownColumns::Refused);
        let text = "flag,count,size\nTrue,007,.5\nFALSE,+5,nan\ntrue,-3,TRUE\nFalse,12,+5.\n";
        let same = r#"[{"flag":true,"count":7,"size":0.5},{"flag":false,"count":5,"size":null},
                       {"flag":true,"count":-3,"size":1},{"flag":false,"count":12,"size":5}]"#;
        let (found, expected) = (read(text).unwrap(), crate::data::decode_rows(same.as_bytes(), &specs, 10));
        for (left, right) in found.tensors().iter().zip(expected.unwrap().0.tensors()) {
            assert_eq!((left.name(), left.data()), (right.name(), right.data()));
        }
        for (row, expected) in [
            ("yes,1,1", "row 0, column `flag`: expected BOOL, found `yes`"),
            ("true,1.5,1", "row 0, column `count`: expected INT64, found `1.5`"),
            ("true,nan,1", "row 0, column `count`: expected INT64, found `nan`"),
            ("true,1,inf", "row 0, column `size`: expected FP64, found `inf`"),
        ] {
            let error = read(&format!("flag,count,size\n{row}\n")).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn strings_are_the_text_that_they_say_also_where_that_could_be_base64() {
        let city = [spec("city", DataType::Bytes, &[])];
        for text in [
            r#"{"dataframe_records": [{"city": "QmVybg=="}]}"#,
            r#"{"dataframe_split": {"columns": ["city"], "data": [["QmVybg=="]]}}"#,
            r#"{"instances": [{"city": "QmVybg=="}]}"#,
            r#"{"inputs": {"city": ["QmVybg=="]}}"#,
        ] {
            let batch = decode(text, &city).unwrap();
            assert_eq!(batch.tensors()[0].byte_strings().collect::<Vec<_>>(), [b"QmVybg=="], "{text}");
        }
    }

    #[test]
    fn rows_of_one_column_need_no_name() {
        let image = [spec("pixels", DataType::Uint8, &[2, 2])];
        let named = decode(r#"{"dataframe_records": [{"pixels": [1, 2, 3, 4]}]}"#, &image).unwrap();
        for same in [
            r#"{"instances": [[[1, 2], [3, 4]]]}"#,
            r#"{"inputs": [[1, 2, 3, 4]]}"#,
            r#"{"inputs": {"pixels": [[[1, 2], [3, 4]]]}}"#,
            r#"{"dataframe_split": {"columns": ["pixels"], "data": [[[1, 2, 3, 4]]]}}"#,
        ] {
            assert_eq!(decode(same, &image).unwrap(), named, "{same}");
        }
    }

    #[test]
    fn a_table_is_taken_for_the_only_column_of_as_many_elements() {
        let features = [ColumnSpec { nullable: true, ..spec("features", DataType::Fp32, &[3]) }];
        let named = decode(
            r#"{"dataframe_records": [{"features": [1, 2, 3]}, {"features": [4, 5, 6.5]}]}"#,
            &features,
        );
        let named = named.unwrap();
        for same in [
            r#"{"dataframe_split": {"columns": ["x", "y", "z"], "data": [[1, 2, 3], [4, 5, 6.5]]}}"#,
            r#"{"dataframe_split": {"data": [[1, 2, 3], [4, 5, 6.5]]}}"#,
            r#"{"dataframe_split": {"data": [[[1, 2, 3]], [[4, 5, 6.5]]]}}"#,
            r#"{"dataframe_records": [{"x": 1, "y": 2, "z": 3}, {"z": 6.5, "x": 4, "y": 5}]}"#,
            r#"{"instances": [[1, 2, 3], [4, 5, 6.5]]}"#,
        ] {
            assert_eq!(decode(same, &features).unwrap(), named, "{same}");
        }
        let csv = |text: &str, unknown| {
            decode_scoring_csv(text.as_bytes(), &features, 3, unknown).map_err(|error| error.to_string())
        };
        for unknown in [UnknownColumns::Ignored, UnknownColumns::Refused] {
            assert_eq!(csv("x,y,z\n1,2,3\n4,5,6.5\n", unknown).unwrap(), named);
        }
        let missing = csv("x,y,z\n1,,3\n", UnknownColumns::Ignored).unwrap();
        assert!(missing.tensors()[0].as_f32().unwrap()[1].is_nan());
        for (wrong, told) in [
            (
                r#"{"dataframe_split": {"columns": ["x", "y"], "data": [[1, 2]]}}"#,
                "column `features`: is missing",
            ),
            (
                r#"{"dataframe_split": {"columns": ["x", "y", "x"], "data": [[1, 2, 3]]}}"#,
                "column `x`: appears twice",
            ),
            (
                r#"{"dataframe_split": {"data": [[1, 2, 3], [4, "5", 6]]}}"#,
                "row 1, column `features[1]`: expected FP32, found a string",
            ),
            (
                r#"{"dataframe_records": [{"x": 1, "y": 2, "z": 3}, {"x": 4, "y": 5}]}"#,
                "row 1, column `z`: is missing",
            ),
        ] {
            assert_eq!(decode(wrong, &features).unwrap_err(), told, "{wrong}");
        }
    }

    #[test]
    fn no_body_has_more_names_than_are_kept() {
        let names = |count: usize| vec![r#""x""#; count].join(",");
        let split =
            |count| format!(r#"{{"dataframe_split": {{"columns": [{}], "data": []}}}}"#, names(count));
        let max = OTHER_NAMES_MAX + 2;
        let told = format!("expected at most {max} columns, found more");
        assert_eq!(decode(&split(max + 1), &two()).unwrap_err(), told);
        assert_eq!(decode(&split(max), &two()).unwrap_err(), "column `age`: is missing");
        let csv = |text: &str| {
            let decoded = decode_scoring_csv(text.as_bytes(), &two(), 3, UnknownColumns::Ignored);
            decoded.unwrap_err().to_string()
        };
        assert_eq!(csv(&",".repeat(max)), told);
        assert_eq!(csv(&format!("age,city\n{}", ",".repeat(max))), told, "no line has");
        assert_eq!(csv(&format!("a\"b{}", ",".repeat(max))), told, "a quote within a cell hides nothing");
        assert_eq!(csv(&",".repeat(max - 1)), "column `age`: is missing");
        let within = format!("age,city\n1,\"{}\"\n", ",".repeat(2 * max));
        let batch = decode_scoring_csv(within.as_bytes(), &two(), 3, UnknownColumns::Refused).unwrap();
        assert_eq!(batch.tensors()[1].byte_strings().next().unwrap().len(), 2 * max, "these are no cells");
    }

    #[test]
    fn columns_that_nobody_asked_for_are_ignored_and_others_still_missed() {
        let asked = decode(r#"{"instances": [{"age": 4, "city": "Bern"}]}"#, &two()).unwrap();
        for same in [
            r#"{"dataframe_records": [{"x": {"y": [1]}, "age": 4, "z": null, "city": "Bern"}]}"#,
            r#"{"dataframe_split": {"columns": ["x", "city", "x", "age"], "data": [[1, "Bern", [], 4]]}}"#,
            r#"{"instances": [{"age": 4, "city": "Bern", "x": "y"}]}"#,
            r#"{"signature_name": "serving_default", "instances": [{"age": 4, "city": "Bern"}], "client_request_id": 7}"#,
            r#"{"inputs": {"city": ["Bern"], "x": [1, 2, 3, 4, 5], "age": [4], "z": 1}}"#,
        ] {
            assert_eq!(decode(same, &two()).unwrap(), asked, "{same}");
        }
        let csv = |text: &str| decode_scoring_csv(text.as_bytes(), &two(), 3, UnknownColumns::Ignored);
        assert_eq!(csv(",city,x,age\n0,Bern,?,4\n").unwrap(), asked);
        assert_eq!(csv("city,x\nBern,4\n").unwrap_err().to_string(), "column `age`: is missing");
        for (missing, told) in [
            (r#"{"dataframe_records": [{"agee": 4, "city": "Bern"}]}"#, "row 0, column `age`: is missing"),
            (r#"{"dataframe_split": {"columns": ["agee", "city"], "data": []}}"#, "column `age`: is missing"),
            (r#"{"inputs": {"city": ["Bern"], "agee": [4]}}"#, "column `age`: is missing"),
            (r#"{"inputs": {"agee": [4]}}"#, "expected at least one row, found none"),
        ] {
            assert_eq!(decode(missing, &two()).unwrap_err(), told, "{missing}");
        }
        let broken = r#"{"dataframe_records": [{"age": 4, "city": "Bern", "x": }]}"#;
        assert!(decode(broken, &two()).unwrap_err().contains("not JSON"));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let told = |text: &str| decode(text, &two()).unwrap_err();
        let formats = "`dataframe_split`, `dataframe_records`, `instances`, `inputs`";
        assert_eq!(told("{}"), format!("expected one of {formats}, found none"));
        assert_eq!(told(r#"{"rows": [], "x": 1}"#), format!("expected one of {formats}, found `rows`"));
        assert_eq!(
            told(r#"{"inputs": {}, "instances": []}"#),
            "expected rows in one field, found `instances` too"
        );
        assert_eq!(told(r#"{"instances": []}"#), "expected objects with the 2 columns of the model");
        assert_eq!(told(r#"{"dataframe_records": []}"#), "expected at least one row, found an empty list");
        assert_eq!(
            told(r#"{"dataframe_split": {"columns": ["age", "city"], "data": [[1]]}}"#),
            "row 0: expected 2 values, found 1"
        );
        assert_eq!(
            told(r#"{"dataframe_split": {"columns": ["age", "city"], "data": [[1, "x", 2]]}}"#),
            "row 0: expected 2 values, found more"
        );
        assert!(told(r#"{"dataframe_split": {"columns": ["age"], "data": [[1]]}}"#).contains("`city`"));
        assert!(told(r#"{"dataframe_split": {"columns": ["age", "age"], "data": []}}"#).contains("twice"));
        assert!(told(r#"{"inputs": {"age": [1, 2], "city": ["x"]}}"#).contains("rows"));
        assert!(told(r#"{"inputs": {"age": [1, 2, 3, 4], "city": ["x"]}}"#).contains("at most 3 rows"));
        assert!(told(r#"{"dataframe_split": 5}"#).contains("an object"));
        assert!(told("[").contains("an object"));
        let csv = |text: &str| {
            let decoded = decode_scoring_csv(text.as_bytes(), &two(), 3, UnknownColumns::Refused);
            decoded.unwrap_err().to_string()
        };
        assert!(csv("age,city,x\n1,a,2\n").contains("`x`"));
        assert!(csv("age\n1\n").contains("`city`"));
        assert_eq!(csv("age,city\nx,y\n"), "row 0, column `age`: expected FP64, found `x`");
        assert_eq!(csv("age,city\n1,a\n1\n"), "row 1: expected 2 cells, found 1");
        assert_eq!(csv("age,city\n1,a,b\n"), "row 0: expected 2 cells, found 3");
        let latin = decode_scoring_csv(b"age,city\n1,a\n2,Z\xfcrich\n", &two(), 3, UnknownColumns::Refused);
        let latin = latin.unwrap_err();
        assert_eq!(latin.to_string(), "row 1, column `city`: is not text in UTF-8");
        assert_eq!((latin.row(), latin.column()), (Some(1), Some("city")));
        assert!(csv("age,city\n1,a\n1,a\n1,a\n1,a\n").contains("at most 3 rows"));
        assert_eq!(csv("age,city\n"), "expected at least one row, found none");
    }
}
