//! What the endpoints take and answer, as OpenAPI 3.1.

use serde_json::{Map, Value, json};

use super::rows::column_of_bytes;
use super::{Deployment, Endpoints, example};
use crate::domain::{ColumnSpec, DataType};

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
    if inputs.iter().all(|column| column.shape.is_empty()) {
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
    let of_type = |name: &str| match is_nullable {
        true => json!({ "type": [name, "null"] }),
        false => json!({ "type": name }),
    };
    let integer = |from: i128, to: i128| {
        // Beyond these numbers JSON's readers disagree, so that they are no use as bounds.
        let exact = -(1_i128 << 53)..=1_i128 << 53;
        match exact.contains(&from) && exact.contains(&to) {
            true => json!({ "type": "integer", "minimum": from as i64, "maximum": to as i64 }),
            // But for 0, of which all know what it is.
            false if from == 0 => json!({ "type": "integer", "minimum": 0 }),
            false => of_type("integer"),
        }
    };
    match dtype {
        DataType::Bool => of_type("boolean"),
        DataType::Uint8 => integer(0, u8::MAX.into()),
        DataType::Uint16 => integer(0, u16::MAX.into()),
        DataType::Uint32 => integer(0, u32::MAX.into()),
        DataType::Uint64 => integer(0, u64::MAX.into()),
        DataType::Int8 => integer(i8::MIN.into(), i8::MAX.into()),
        DataType::Int16 => integer(i16::MIN.into(), i16::MAX.into()),
        DataType::Int32 => integer(i32::MIN.into(), i32::MAX.into()),
        DataType::Int64 => integer(i64::MIN.into(), i64::MAX.into()),
        DataType::Fp16 | DataType::Fp32 | DataType::Fp64 => of_type("number"),
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
