use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::plan::PlannedStep;
use crate::domain::Digest;

/// Changes when the document below or what steps do with their values changes in a way that old results must not serve.
const KEY_VERSION: u64 = 1;

/// The digest of all that the result of `step` depends on; the same digest is the same result.
///
/// It is the sha256 of [`identity`].
pub fn cache_key(step: &PlannedStep, with: &Map<String, Json>, host_version: &str) -> Digest {
    Digest::of(identity(step, with, host_version).as_bytes())
}

/// All that the result of `step` depends on, as a JSON document without spaces, keys sorted by their bytes at every level:
///
/// - `key`: the version of this document, 1;
/// - `host`: the version of this host, since it decides what a step does with its values;
/// - `uses`: the kind of step;
/// - `with`: the resolved values, as [`super::Decision::Run`] has them, but with everything that they only name looked
///   up: files, components, dataset versions and models behind an alias, each by digest;
/// - `outputs`: the outputs that a command must write.
///
/// Left out because they change no result: the step's name and place, its id (the values of its matrix are in `with`
/// where they matter), `needs`, `when`, `retry`, `timeout`, `cache` and `resources`. Lists keep their order. `1` and
/// `1.0` are different numbers.
pub fn identity(step: &PlannedStep, with: &Map<String, Json>, host_version: &str) -> String {
    let mut outputs = step.outputs.clone();
    outputs.sort_unstable();
    let mut text = String::from("{\"host\":");
    write(&Json::from(host_version), &mut text);
    text.push_str(&format!(",\"key\":{KEY_VERSION},\"outputs\":"));
    write(&Json::from(outputs), &mut text);
    text.push_str(",\"uses\":");
    write(&Json::from(step.uses.name), &mut text);
    text.push_str(",\"with\":");
    write_map(with, &mut text);
    text.push('}');
    text
}

fn write(value: &Json, text: &mut String) {
    match value {
        Json::Object(map) => write_map(map, text),
        Json::Array(list) => {
            text.push('[');
            for (index, element) in list.iter().enumerate() {
                text.push_str(if index > 0 { "," } else { "" });
                write(element, text);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

fn write_map(map: &Map<String, Json>, text: &mut String) {
    let sorted: BTreeMap<&String, &Json> = map.iter().collect();
    text.push('{');
    for (index, (key, value)) in sorted.into_iter().enumerate() {
        text.push_str(if index > 0 { "," } else { "" });
        text.push_str(&Json::from(key.as_str()).to_string());
        text.push(':');
        write(value, text);
    }
    text.push('}');
}
