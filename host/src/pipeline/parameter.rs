use serde_json::{Map, Value as Json};

use super::check::parameter_needs;
use super::file::{ParameterSpec, PipelineSpec};
use super::node::Node;
use super::order::order;
use super::problem::{Problems, quoted, suggestion};
use super::template::Reference;
use super::tree::{Budget, Stop};
use super::uses::described;

/// Most bytes that the values of all parameters may take.
pub const PARAMETERS_MAX_BYTES: usize = 4 << 20;

/// The values of all parameters in the order of the file: the given ones (`-p name=value`), else the defaults.
///
/// A given value has the type that the default has. Of a name that is given twice the last one counts.
pub(super) fn values(
    spec: &PipelineSpec,
    given: &[(String, String)],
    problems: &mut Problems,
) -> Map<String, Json> {
    let defaults = evaluated(spec, &Map::new(), problems);
    let mut overrides = Map::new();
    for (name, text) in given {
        let Some(default) = defaults.get(name) else {
            let near = suggestion(name, spec.parameters.iter().map(|parameter| parameter.name.as_str()));
            problems.add_without_place(format!("unknown parameter {}{near}", quoted(name)));
            continue;
        };
        match typed(text, default) {
            Ok(value) => {
                overrides.insert(name.clone(), value);
            }
            Err(message) => problems.add_without_place(format!("parameter {}: {message}", quoted(name))),
        }
    }
    if overrides.is_empty() { defaults } else { evaluated(spec, &overrides, problems) }
}

fn evaluated(
    spec: &PipelineSpec,
    overrides: &Map<String, Json>,
    problems: &mut Problems,
) -> Map<String, Json> {
    let mut budget = Budget(PARAMETERS_MAX_BYTES);
    let mut known: Map<String, Json> = Map::new();
    let in_order = order(&parameter_needs(spec)).order;
    for parameter in in_order.into_iter().filter_map(|index| spec.parameters.get(index)) {
        let value = match overrides.get(&parameter.name) {
            Some(value) => Ok(value.clone()),
            None => default_value(parameter, &known, &mut budget),
        };
        match value {
            Ok(value) => {
                known.insert(parameter.name.clone(), value);
            }
            Err(Stop::Failed(message) | Stop::Skipped(message)) => {
                let name = quoted(&parameter.name);
                problems.add(parameter.default.place, format!("parameter {name}: {message}"));
                return known;
            }
        }
    }
    let in_file = spec.parameters.iter().map(|parameter| &parameter.name);
    in_file.filter_map(|name| known.remove(name).map(|value| (name.clone(), value))).collect()
}

fn default_value(
    parameter: &ParameterSpec,
    known: &Map<String, Json>,
    budget: &mut Budget,
) -> Result<Json, Stop> {
    let look_up = |reference: &Reference| match reference {
        Reference::Parameter(name) => {
            known.get(name).cloned().ok_or_else(|| Stop::Failed(format!("{} has no value", quoted(name))))
        }
        other => Err(Stop::Failed(format!("{} has no value", quoted(&other.to_string())))),
    };
    parameter.default.resolved(&look_up, budget)
}

/// The value that `text` stands for, of the type that `default` has.
fn typed(text: &str, default: &Json) -> Result<Json, String> {
    let expected = match default {
        Json::Null => "nothing",
        Json::Bool(_) => "`true` or `false`",
        Json::Number(number) if number.is_f64() => "a number",
        Json::Number(_) => "an integer",
        Json::String(_) => return Ok(Json::String(text.to_owned())),
        Json::Array(_) => "a list, such as `[1, 2]`",
        Json::Object(_) => "a mapping, such as `{a: 1}`",
    };
    let mut unread = Problems::default();
    let value = Node::parse(text, &mut unread).filter(|_| unread.is_empty()).map(|node| node.to_json());
    let fits = |value: &Json| match (value, default) {
        (Json::Number(value), Json::Number(default)) => default.is_f64() || !value.is_f64(),
        (value, default) => std::mem::discriminant(value) == std::mem::discriminant(default),
    };
    let value = value.ok_or_else(|| format!("expected {expected}, found {}", quoted(text)))?;
    if !fits(&value) {
        return Err(format!("expected {expected}, found {}", described(&value)));
    }
    match value {
        // `2` for a default of `1.5` is `2.0`.
        Json::Number(number) if default.is_f64() => {
            Ok(number.as_f64().map_or(Json::Number(number), Json::from))
        }
        value => Ok(value),
    }
}
