use serde::Deserialize;
use serde_json::{Map, Value};

use super::elements::take_row;
use super::scan::Scanner;
use super::{JsonError, decode_rows};
use crate::domain::{Batch, ColumnSpec, DataType, Tensor};

/// A tensor of the Open Inference Protocol; what else the protocol allows does not change its content.
#[derive(Deserialize)]
struct WireTensor {
    name: String,
    datatype: String,
    shape: Vec<usize>,
    data: Value,
}

/// Reads a batch without a schema: rows as objects, or tensors of the Open Inference Protocol under `inputs` or `outputs`.
///
/// The types of rows are inferred over all of them: BOOL, INT64, BYTES, or FP64 where a number has a fraction or is
/// missing (`null`). Meant for files that people write; it holds the text's tree in memory.
pub fn decode_untyped(text: &[u8]) -> Result<Batch, JsonError> {
    let value: Value =
        serde_json::from_slice(text).map_err(|error| JsonError::new(format!("not JSON: {error}")))?;
    if let Value::Object(object) = &value {
        let tensors =
            ["inputs", "outputs"].into_iter().find_map(|key| Some((key, object.get(key)?.as_array()?)));
        if let Some((key, tensors)) = tensors.filter(|(_, tensors)| tensors.iter().all(is_wire_tensor)) {
            return decode_tensors(key, tensors);
        }
    }
    let rows: Vec<&Map<String, Value>> = match &value {
        Value::Object(row) => vec![row],
        Value::Array(rows) => {
            let object = |(index, row)| as_object(row, index);
            rows.iter().enumerate().map(object).collect::<Result<_, _>>()?
        }
        other => {
            let found = kind(other);
            return Err(JsonError::new(format!("expected an object or a list of objects, found {found}")));
        }
    };
    let specs = infer(&rows)?;
    decode_rows(text, &specs, rows.len()).map(|(batch, _)| batch)
}

fn as_object(row: &Value, index: usize) -> Result<&Map<String, Value>, JsonError> {
    row.as_object()
        .ok_or_else(|| JsonError::in_row(format!("expected an object, found {}", kind(row)), index))
}

fn is_wire_tensor(value: &Value) -> bool {
    value.get("datatype").is_some()
}

fn decode_tensors(key: &str, tensors: &[Value]) -> Result<Batch, JsonError> {
    let mut columns = Vec::new();
    for (index, value) in tensors.iter().enumerate() {
        let wrong = |error: &dyn std::fmt::Display| JsonError::new(format!("`{key}` {index}: {error}"));
        let tensor = WireTensor::deserialize(value).map_err(|error| wrong(&error))?;
        let dtype: DataType = tensor.datatype.parse().map_err(|error: String| wrong(&error))?;
        let text = serde_json::to_vec(&tensor.data).map_err(|error| wrong(&error))?;
        let spec = ColumnSpec {
            name: tensor.name,
            dtype,
            shape: tensor.shape,
            nullable: true,
            element_names: Vec::new(),
        };
        let mut data = Vec::new();
        take_row(&mut Scanner::new(&text), &spec, &mut data)
            .map_err(|error| JsonError::in_column(error, None, &spec.name))?;
        columns.push(Tensor::new(spec.name, dtype, spec.shape, data).map_err(|error| wrong(&error))?);
    }
    Batch::new(columns).map_err(|error| JsonError::new(error.to_string()))
}

/// The columns of the first row, with the type that fits every row.
fn infer(rows: &[&Map<String, Value>]) -> Result<Vec<ColumnSpec>, JsonError> {
    let Some(first) = rows.first() else {
        return Err(JsonError::new("expected at least one row, found an empty list"));
    };
    let column = |(name, value): (&String, &Value)| {
        let mut dtype = None;
        for (row, value) in rows.iter().enumerate().filter_map(|(index, row)| Some((index, row.get(name)?))) {
            infer_type(value, &mut dtype).map_err(|wrong| JsonError::in_column(wrong, Some(row), name))?;
        }
        let dtype = dtype.unwrap_or(DataType::Fp64);
        Ok(ColumnSpec {
            name: name.clone(),
            dtype,
            shape: shape_of(value),
            nullable: dtype == DataType::Fp64,
            element_names: Vec::new(),
        })
    };
    first.iter().map(column).collect()
}

fn infer_type(value: &Value, dtype: &mut Option<DataType>) -> Result<(), String> {
    let found = match value {
        Value::Array(values) => return values.iter().try_for_each(|value| infer_type(value, dtype)),
        Value::Bool(_) => DataType::Bool,
        Value::Number(number) if number.is_i64() => DataType::Int64,
        Value::Number(_) | Value::Null => DataType::Fp64,
        Value::String(_) => DataType::Bytes,
        Value::Object(_) => return Err("expected a number, string or list, found an object".to_owned()),
    };
    *dtype = Some(match *dtype {
        None => found,
        Some(before) if before == found => found,
        Some(DataType::Int64 | DataType::Fp64) if matches!(found, DataType::Int64 | DataType::Fp64) => {
            DataType::Fp64
        }
        Some(before) => return Err(format!("expected {before}, as before, found {}", kind(value))),
    });
    Ok(())
}

/// The shape that the first elements suggest; whether the others follow is checked when they are read.
fn shape_of(value: &Value) -> Vec<usize> {
    let mut shape = Vec::new();
    let mut level = value;
    while let Value::Array(values) = level {
        shape.push(values.len());
        let Some(first) = values.first() else { break };
        level = first;
    }
    shape
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::json::encode_tensors;

    fn decode(text: &str) -> Result<Batch, String> {
        decode_untyped(text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn infers_types_over_all_rows() {
        let batch = decode(
            r#"[{"a":1,"b":1,"c":"x","d":true,"e":[[1,2]]},{"a":2,"b":null,"c":"","d":false,"e":[[3,4.5]]}]"#,
        );
        let found: Vec<_> = batch.unwrap().tensors().iter().map(|tensor| format!("{tensor:?}")).collect();
        assert_eq!(
            found,
            ["a: INT64 [2]", "b: FP64 [2]", "c: BYTES [2]", "d: BOOL [2]", "e: FP64 [2, 1, 2]"]
        );
    }

    #[test]
    fn reads_tensors_of_the_protocol() {
        let batch = decode(
            r#"{"id":"1","inputs":[{"name":"x","datatype":"FP32","shape":[2,2],"data":[1,2,3,4.5]},
                {"name":"s","datatype":"BYTES","shape":[2],"data":["a","b"],"parameters":{}}]}"#,
        )
        .unwrap();
        assert_eq!(batch.column("x").unwrap().as_f32().unwrap().as_ref(), [1.0, 2.0, 3.0, 4.5]);
        assert_eq!(batch.rows(), 2);
        let written = String::from_utf8(encode_tensors(&batch).unwrap()).unwrap();
        assert_eq!(decode(&written).unwrap(), batch);
    }

    #[test]
    fn names_what_is_wrong() {
        let cases = [
            ("[1]", "row 0: expected an object, found a number"),
            ("3", "expected an object or a list of objects, found a number"),
            ("[]", "expected at least one row, found an empty list"),
            (r#"[{"a":1},{"a":"x"}]"#, "row 1, column `a`: expected INT64, as before, found a string"),
            (r#"[{"a":1},{"b":1}]"#, "row 1, column `b`: is unknown: expected `a`"),
            (r#"{"a":{}}"#, "row 0, column `a`: expected a number, string or list, found an object"),
            (r#"{"a":[[1],[2,3]]}"#, "row 0, column `a`: list 1: expected 1 value, found 2"),
            (
                r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[3],"data":[1]}]}"#,
                "column `x`: expected 3 values, found 1",
            ),
            (
                r#"{"inputs":[{"name":"x","datatype":"FP64","shape":[99999999999,9999999999],"data":[1]}]}"#,
                "column `x`: its shape [99999999999, 9999999999] is too large to address",
            ),
            (
                r#"{"inputs":[{"name":"x","datatype":"FP64","shape":[99999999999],"data":[1]}]}"#,
                "column `x`: expected 99999999999 values, found 1",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(decode(text).unwrap_err(), expected, "{text}");
        }
        assert!(
            decode(r#"{"inputs":[{"datatype":"FP32"}]}"#).unwrap_err().contains("`inputs` 0: missing field")
        );
        assert!(decode(&"[".repeat(100_000)).unwrap_err().starts_with("not JSON"));
    }
}
