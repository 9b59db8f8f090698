use serde_json::{Map, Value as Json, json};

use super::check::MEMBERS_MAX;
use super::file::{CORES_MAX, FORMAT_VERSION, NAME_MAX_BYTES, RETRIES_MAX};
use super::trigger::TRIGGERS_MAX;
use super::uses::{Field, FieldKind, OnlyWith, USES, Uses};

/// The JSON Schema (draft 2020-12) of pipeline files, by which editors complete, explain and check them.
///
/// It is made from the same table as the checks, but says less than they do: what the parts of a file say of each other
/// (references, circles, types of what a template stands for) only [`super::PipelineSpec`] checks.
pub fn schema() -> Json {
    let mut definitions = Map::new();
    definitions.insert(
        "template".to_owned(),
        json!({
            "type": "string",
            "pattern": r"\$\{\{.+\}\}",
            "description": "`${{ steps.STEP.outputs.OUTPUT }}`, `${{ params.NAME }}` or `${{ matrix.NAME }}`.",
        }),
    );
    definitions
        .insert("duration".to_owned(), json!({"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$"}));
    definitions.insert("names".to_owned(), texts());
    definitions.insert("step".to_owned(), step());
    for uses in USES {
        let mut with = record(uses.fields, uses.doc);
        if let Some(rule) = &uses.only_with {
            set(&mut with, "allOf", only_with(rule, uses.fields));
        }
        definitions.insert(with_name(uses), with);
    }
    let name = json!({"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,63}$"});
    let named = |what: &str| {
        let mut named = name.clone();
        set(&mut named, "description", what.into());
        named
    };
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Pipeline",
        "description": "A pipeline of `host`: steps and what each needs.",
        "type": "object",
        "required": ["version", "name", "steps"],
        "additionalProperties": false,
        "properties": {
            "version": {"const": FORMAT_VERSION, "description": "The version of this format."},
            "name": named("The pipeline's name."),
            "params": {
                "description": "Parameters with their defaults; `-p name=value` gives others of the same type.",
                "type": "object",
                "propertyNames": key(),
                "additionalProperties": {"type": ["string", "number", "boolean", "array", "object"]},
            },
            "triggers": {
                "description": "What starts the pipeline besides people, once `host pipeline enable` was said and while \
                                `host server` runs.",
                "type": "array",
                "maxItems": TRIGGERS_MAX,
                "items": {
                    "type": "object",
                    "additionalProperties": false,
                    "minProperties": 1,
                    "maxProperties": 1,
                    "properties": {
                        "schedule": {"type": "string", "description": "A time in UTC, in cron's five fields: `0 3 * * *`."},
                        "dataset": named("A dataset: starts when it gets a new version."),
                        "drift": named("An endpoint: starts when `host monitor run` finds that its data drifted."),
                    },
                },
            },
            "steps": {
                "description": "The steps by name; their order means nothing.",
                "type": "object",
                "minProperties": 1,
                "propertyNames": key(),
                "additionalProperties": {"$ref": "#/$defs/step"},
            },
        },
        "$defs": definitions,
    })
}

/// What names steps, parameters, axes and outputs.
fn key() -> Json {
    json!({"pattern": format!("^[A-Za-z0-9_-]{{1,{NAME_MAX_BYTES}}}$")})
}

fn step() -> Json {
    let kinds: Vec<Json> =
        USES.iter().map(|uses| json!({"const": uses.name, "description": uses.doc})).collect();
    json!({
        "type": "object",
        "required": ["uses"],
        "additionalProperties": false,
        "properties": {
            "uses": {"description": "What the step does.", "oneOf": kinds},
            "needs": {
                "description": "Steps that come before, besides those that templates refer to.",
                "$ref": "#/$defs/names",
            },
            "with": {"description": "What the step works with.", "type": "object"},
            "matrix": {
                "description": "Runs the step once for each combination; `${{ matrix.NAME }}` is the value of one.",
                "type": "object",
                "minProperties": 1,
                "propertyNames": key(),
                "additionalProperties": {
                    "anyOf": [
                        {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": MEMBERS_MAX,
                            "items": {"type": ["string", "number", "boolean"]},
                        },
                        {"$ref": "#/$defs/template"},
                    ],
                },
            },
            "when": {
                "description": "Runs the step only if this is true: `==`, `!=`, `<`, `<=`, `>`, `>=`, `&&`, `||`, `!` \
                                over templates, numbers, texts in quotes, `true`, `false` and `null`.",
                "type": ["string", "boolean"],
            },
            "retry": {
                "description": "Runs the step again after a failure.",
                "anyOf": [
                    {"type": "integer", "minimum": 1, "maximum": RETRIES_MAX},
                    {
                        "type": "object",
                        "additionalProperties": false,
                        "properties": {
                            "count": {"type": "integer", "minimum": 1, "maximum": RETRIES_MAX, "default": 1},
                            "backoff": {
                                "description": "The wait before the first retry, such as `5s`.",
                                "$ref": "#/$defs/duration",
                            },
                        },
                    },
                ],
            },
            "timeout": {"description": "When the step is ended, such as `30m`.", "$ref": "#/$defs/duration"},
            "cache": {"description": "Whether an earlier result with the same inputs is taken.", "type": "boolean"},
            "outputs": {"description": "The outputs that a command must write.", "$ref": "#/$defs/names"},
            "resources": {
                "description": "What the step may use.",
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "cores": {"type": "integer", "minimum": 1, "maximum": CORES_MAX},
                    "memory": {
                        "description": "Such as `2GiB`.",
                        "type": "string",
                        "pattern": "^0*[1-9][0-9]*(B|kB|KiB|MB|MiB|GB|GiB|TB|TiB)$",
                    },
                },
            },
        },
        "allOf": USES.iter().map(rule).collect::<Vec<_>>(),
    })
}

/// What holds for a step of one kind.
fn rule(uses: &Uses) -> Json {
    let mut then = json!({"properties": {"with": {"$ref": format!("#/$defs/{}", with_name(uses))}}});
    if uses.fields.iter().any(|field| field.is_required) {
        set(&mut then, "required", json!(["with"]));
    }
    if !uses.is_open
        && let Some(properties) = then.get_mut("properties")
    {
        set(properties, "outputs", json!(false));
    }
    json!({"if": {"required": ["uses"], "properties": {"uses": {"const": uses.name}}}, "then": then})
}

fn with_name(uses: &Uses) -> String {
    format!("with-{}", uses.name)
}

fn record(fields: &[Field], doc: &str) -> Json {
    let properties: Map<String, Json> =
        fields.iter().map(|field| (field.name.to_owned(), value(field))).collect();
    let required: Vec<&str> =
        fields.iter().filter(|field| field.is_required).map(|field| field.name).collect();
    json!({
        "description": doc,
        "type": "object",
        "required": required,
        "additionalProperties": false,
        "properties": properties,
    })
}

/// What holds of fields that are for one value of another. Where a template stands for that, nothing does.
fn only_with(rule: &OnlyWith, fields: &[Field]) -> Json {
    let choices = fields.iter().find(|field| field.name == rule.field).map(|field| field.kind);
    let others: Vec<&str> = match choices {
        Some(FieldKind::Choice(choices)) => {
            choices.iter().copied().filter(|choice| *choice != rule.value).collect()
        }
        _ => Vec::new(),
    };
    let forbidden: Map<String, Json> = rule.fields().map(|name| (name.to_owned(), json!(false))).collect();
    json!([
        {
            "if": {"required": [rule.field], "properties": {rule.field: {"const": rule.value}}},
            "then": {"required": rule.needs},
        },
        {"if": {"properties": {rule.field: {"enum": others}}}, "then": {"properties": forbidden}},
    ])
}

fn value(field: &Field) -> Json {
    let own = match field.kind {
        FieldKind::Text => json!({"type": "string"}),
        FieldKind::Choice(choices) => or_template(json!({"enum": choices})),
        FieldKind::Integer => or_template(json!({"type": "integer"})),
        FieldKind::Number => or_template(json!({"type": "number"})),
        FieldKind::Boolean => or_template(json!({"type": "boolean"})),
        FieldKind::Texts | FieldKind::Command => texts(),
        FieldKind::Files => json!({
            "anyOf": [texts(), {"type": "object", "additionalProperties": {"type": "string"}}]
        }),
        FieldKind::Map => or_template(json!({"type": "object"})),
        FieldKind::Record(fields) => or_template(record(fields, field.doc)),
    };
    let mut described = own;
    set(&mut described, "description", field.doc.into());
    described
}

fn texts() -> Json {
    json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
}

fn or_template(own: Json) -> Json {
    json!({"anyOf": [own, {"$ref": "#/$defs/template"}]})
}

fn set(object: &mut Json, key: &str, value: Json) {
    if let Json::Object(map) = object {
        map.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `visit` with every object of a document.
    fn visit(value: &Json, visit_object: &mut impl FnMut(&Map<String, Json>)) {
        match value {
            Json::Object(map) => {
                visit_object(map);
                map.values().for_each(|value| visit(value, visit_object));
            }
            Json::Array(list) => list.iter().for_each(|value| visit(value, visit_object)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let schema = schema();
        let mut count = 0;
        visit(&schema, &mut |object| {
            if let Some(Json::String(reference)) = object.get("$ref") {
                count += 1;
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(schema.pointer(pointer).is_some(), "{reference}");
            }
        });
        assert!(count > 30);
    }

    #[test]
    fn every_kind_of_step_and_field_is_explained() {
        let schema = schema();
        for uses in USES {
            let with = &schema["$defs"][with_name(uses)];
            assert_eq!(with["description"], uses.doc);
            for field in uses.fields {
                let found = &with["properties"][field.name];
                assert_eq!(found["description"], field.doc, "{} of {}", field.name, uses.name);
                assert_eq!(
                    with["required"].as_array().unwrap().contains(&json!(field.name)),
                    field.is_required
                );
            }
        }
        assert_eq!(schema["$defs"]["step"]["allOf"].as_array().unwrap().len(), USES.len());
    }
}
