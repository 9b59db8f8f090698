//! What the endpoints take and answer, as OpenAPI 3.1.

use serde_json::{Map, Value, json};

use super::rows::column_of_bytes;
use super::{Deployment, Endpoints, example};
use crate::data::can_be_csv;
use crate::domain::{ColumnSpec, DataType};

/// The greatest number that FP32 holds in as few digits as name it, as answers have it. It is a little greater than that number,
/// and rounded to it.
const FP32_GREATEST: f64 = 3.402_823_5e38;

/// The document of a server with these endpoints.
pub(super) fn document(endpoints: &Endpoints) -> Value {
    let mut paths = Map::new();
    for endpoint in endpoints.all() {
        let routing = endpoint.routing();
        let name = endpoint.name();
        if let Some(deployment) = routing.main() {
            let operation = format!("serve_{name}");
            let summary = format!("Predictions of `{name}`, now by {}", deployment.version_label());
            paths.insert(format!("/serve/{name}"), path_item(&operation, &summary, deployment, endpoints));
        }
        for (number, deployment) in routing.numbered() {
            let operation = format!("serve_{name}/{number}");
            let summary = format!("Predictions of `{name}` by {}", deployment.version_label());
            paths.insert(
                format!("/serve/{name}/{number}"),
                path_item(&operation, &summary, deployment, endpoints),
            );
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "host serve",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Endpoints of models with their transformers. The Open Inference Protocol v2 is below `/v2`.",
        },
        "paths": paths,
        "components": { "schemas": { "Error": error_schema() } },
    })
}

fn path_item(operation: &str, summary: &str, deployment: &Deployment, endpoints: &Endpoints) -> Value {
    let signature = deployment.signature();
    let (asked, answered) = match deployment.graph() {
        // Its answer changes with the versions of its parts, and asking them would be counted and captured as a request.
        Some(graph) => (example::of_graph(graph, endpoints), None),
        None => deployment.example().cloned().unzip(),
    };
    let request = request_content(&signature.inputs, asked);
    // JSON has no NaN and no infinities.
    let outputs: Vec<_> = signature
        .outputs
        .iter()
        .map(|column| ColumnSpec { nullable: column.dtype.is_float(), ..column.clone() })
        .collect();
    let answer = rows_media(&outputs, answered);
    let error = |description: &str| {
        json!({
            "description": description,
            "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } },
        })
    };
    let header = |description: &str| json!({ "description": description, "schema": { "type": "string" } });
    json!({
        "post": {
            "operationId": operation,
            "summary": summary,
            "parameters": [{
                "name": "X-Request-Timeout-Ms",
                "in": "header",
                "required": false,
                "description": "Milliseconds that the caller waits; what is not computed by then is not computed at all.",
                "schema": { "type": "integer", "minimum": 0 },
            }],
            "requestBody": { "required": true, "content": request },
            "responses": {
                "200": {
                    "description": "An object for an object, a list for a list.",
                    "headers": {
                        "X-Prediction-Id": header("Names the prediction, for `host replay`."),
                        "X-Model-Version": header("Who answered, as `model@version`."),
                        "X-Bundle-Digest": header("The bundle that answered."),
                        "X-Cache": header("Where answers are kept: `hit` if it was given before, and otherwise `miss`."),
                    },
                    "content": { "application/json": answer },
                },
                "400": error("The body is not what the model takes; the error names row and column."),
                "403": error("The request is one of another site's page, or names a host that is not this server."),
                "404": error("There is no such endpoint, or no such version of it."),
                "406": error("The answer holds bytes that are no text, which JSON cannot say."),
                "408": error("The body did not arrive in time."),
                "413": error("The body or the answer is too large."),
                "415": error("The body is packed, or of a kind, that this endpoint does not take."),
                "429": error("Too many requests wait; try again after `Retry-After` seconds."),
                "500": error("A plugin failed."),
                "503": error("Overloaded; try again after `Retry-After` seconds."),
                "504": error("Not computed by the deadline."),
            },
        },
    })
}

/// What a request may hold, by its type.
fn request_content(inputs: &[ColumnSpec], example: Option<Value>) -> Map<String, Value> {
    let mut content = Map::new();
    if column_of_bytes(inputs).is_some() {
        content.insert("application/octet-stream".to_owned(), json!({}));
        if example.is_none() {
            // No text is known that the endpoint takes, so that it is likely to want an image, which JSON cannot hold. What is
            // text after all can be sent as bytes.
            content.insert("image/*".to_owned(), json!({}));
            return content;
        }
    }
    content.insert("application/json".to_owned(), rows_media(inputs, example));
    if can_be_csv(inputs) {
        // With a line of names.
        content.insert("text/csv".to_owned(), json!({ "schema": { "type": "string" } }));
    }
    content
}

/// JSON with one row, or a list of rows.
fn rows_media(columns: &[ColumnSpec], example: Option<Value>) -> Value {
    let row = object_schema(columns);
    let schema = json!({ "oneOf": [row, { "type": "array", "items": row, "minItems": 1 }] });
    let mut media = Map::from_iter([("schema".to_owned(), schema)]);
    media.extend(example.map(|example| ("example".to_owned(), example)));
    Value::Object(media)
}

/// The schema of a row.
fn object_schema(columns: &[ColumnSpec]) -> Value {
    let properties: Map<String, Value> =
        columns.iter().map(|column| (column.name.clone(), column_schema(column))).collect();
    let required: Vec<_> = columns.iter().map(|column| &column.name).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// The schema of a row's elements in a column, nested as its shape is.
fn column_schema(column: &ColumnSpec) -> Value {
    let element = element_schema(column.dtype, column.nullable);
    column.shape.iter().rev().fold(
        element,
        |inner, &size| json!({ "type": "array", "items": inner, "minItems": size, "maxItems": size }),
    )
}

fn element_schema(dtype: DataType, is_nullable: bool) -> Value {
    let named = |name: &str| match is_nullable {
        true => json!([name, "null"]),
        false => json!(name),
    };
    let of_type = |name: &str| json!({ "type": named(name) });
    let integer = |from: i64, to: u64| json!({ "type": "integer", "minimum": from, "maximum": to });
    // Programs that are made from the document have smaller integers where none is named.
    let long = |from: i64, to: u64, format: &str| json!({ "type": "integer", "format": format, "minimum": from, "maximum": to });
    let float = |greatest: f64| json!({ "type": named("number"), "minimum": -greatest, "maximum": greatest });
    match dtype {
        DataType::Bool => of_type("boolean"),
        DataType::Uint8 => integer(0, u8::MAX.into()),
        DataType::Uint16 => integer(0, u16::MAX.into()),
        DataType::Uint32 => integer(0, u32::MAX.into()),
        DataType::Uint64 => long(0, u64::MAX, "uint64"),
        DataType::Int8 => integer(i8::MIN.into(), i8::MAX as u64),
        DataType::Int16 => integer(i16::MIN.into(), i16::MAX as u64),
        DataType::Int32 => integer(i32::MIN.into(), i32::MAX as u64),
        DataType::Int64 => long(i64::MIN, i64::MAX as u64, "int64"),
        DataType::Fp16 => float(65_504.0),
        DataType::Fp32 => float(FP32_GREATEST),
        DataType::Fp64 => of_type("number"),
        DataType::Bytes => of_type("string"),
    }
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {
                    "code": { "type": "string" },
                    "message": { "type": "string" },
                    "row": { "type": "integer", "minimum": 0 },
                    "column": { "type": "string" },
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{UnknownColumns, decode_rows, decode_scoring_csv};

    #[test]
    fn csv_is_there_where_it_is_taken() {
        let column = |name: &str, dtype, shape: &[usize]| ColumnSpec {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            nullable: false,
            element_names: Vec::new(),
        };
        let named = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let features = column("features", DataType::Fp32, &[2]);
        for (inputs, has_csv) in [
            (vec![column("a", DataType::Int64, &[]), column("b", DataType::Bytes, &[])], true),
            // A model that was imported without a signature, with names for its features and without.
            (vec![features.clone()], true),
            (vec![ColumnSpec { element_names: named(&["a", "b"]), ..features.clone() }], true),
            (vec![features, column("b", DataType::Fp32, &[])], false),
            (vec![column("pixels", DataType::Uint8, &[28, 28])], false),
        ] {
            let content = request_content(&inputs, Some(json!({})));
            assert_eq!(content.contains_key("text/csv"), has_csv, "{inputs:?}");
            let names =
                (0..inputs.iter().map(ColumnSpec::row_elements).sum()).map(|place| match &inputs[..] {
                    [only] => only.element_names.get(place).cloned().unwrap_or_else(|| format!("c{place}")),
                    all => all.get(place).map_or_else(|| "c".to_owned(), |column| column.name.clone()),
                });
            let names: Vec<String> = names.collect();
            let text = format!("{}\n{}\n", names.join(","), vec!["1"; names.len()].join(","));
            let taken = decode_scoring_csv(text.as_bytes(), &inputs, 1, UnknownColumns::Refused);
            assert_eq!(taken.is_ok(), has_csv, "{inputs:?}");
        }
    }

    #[test]
    fn the_bounds_of_numbers_are_those_that_are_taken() {
        for (dtype, beyond) in [
            (DataType::Uint8, ["-1", "256"]),
            (DataType::Uint16, ["-1", "65536"]),
            (DataType::Uint32, ["-1", "4294967296"]),
            (DataType::Uint64, ["-1", "18446744073709551616"]),
            (DataType::Int8, ["-129", "128"]),
            (DataType::Int16, ["-32769", "32768"]),
            (DataType::Int32, ["-2147483649", "2147483648"]),
            (DataType::Int64, ["-9223372036854775809", "9223372036854775808"]),
            (DataType::Fp16, ["-65520", "65520"]),
            (DataType::Fp32, ["-3.4028236e38", "3.4028236e38"]),
        ] {
            let schema = element_schema(dtype, false);
            let column = ColumnSpec {
                name: "x".to_owned(),
                dtype,
                shape: Vec::new(),
                nullable: false,
                element_names: Vec::new(),
            };
            let is_taken = |number: &str| {
                decode_rows(format!(r#"{{"x":{number}}}"#).as_bytes(), std::slice::from_ref(&column), 1)
                    .is_ok()
            };
            for bound in ["minimum", "maximum"] {
                assert!(is_taken(&schema[bound].to_string()), "{dtype:?}: {schema}");
            }
            assert!(!beyond.into_iter().any(is_taken), "{dtype:?}");
        }
        assert_eq!(element_schema(DataType::Fp64, false), json!({ "type": "number" }));
        let nullable = element_schema(DataType::Fp32, true);
        assert_eq!(
            (&nullable["type"], &nullable["maximum"]),
            (&json!(["number", "null"]), &json!(3.4028235e38))
        );
        let long = element_schema(DataType::Int64, false);
        assert_eq!((&long["format"], &long["maximum"]), (&json!("int64"), &json!(i64::MAX)));
    }
}
