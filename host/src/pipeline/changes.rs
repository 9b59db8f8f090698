//! What has changed of all that a step depends on, in words.

use serde_json::Value;

/// Longest value that is told, in characters.
const VALUE_MAX_CHARS: usize = 60;

/// Digits of a digest that are told.
const DIGEST_DIGITS: usize = 12;

/// Every difference between two documents of [`super::cache_key`], each as part of a sentence.
pub(super) fn changes(before: &str, now: &str) -> Vec<String> {
    let parsed = |text| serde_json::from_str::<Value>(text).unwrap_or_default();
    let mut changes = Vec::new();
    compare("", Some(&parsed(before)), Some(&parsed(now)), &mut changes);
    changes
}

fn compare(path: &str, before: Option<&Value>, now: Option<&Value>, changes: &mut Vec<String>) {
    match (before, now) {
        (before, now) if before == now => {}
        (Some(Value::Object(before)), Some(Value::Object(now))) => {
            let added = now.keys().filter(|key| !before.contains_key(*key));
            for key in before.keys().chain(added) {
                compare(&below(path, key), before.get(key), now.get(key), changes);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(now))) if before.len() == now.len() => {
            let several = before.len() > 1;
            for (index, (before, now)) in before.iter().zip(now).enumerate() {
                let path = if several { format!("{path}[{index}]") } else { path.to_owned() };
                compare(&path, Some(before), Some(now), changes);
            }
        }
        (Some(before), Some(now)) => {
            changes.push(format!("`{path}` is {}, was {}", told(now), told(before)));
        }
        (None, Some(now)) => changes.push(format!("`{path}` is {}, was not given", told(now))),
        (Some(before), None) => changes.push(format!("`{path}` is not given, was {}", told(before))),
        (None, None) => {}
    }
}

/// As the pipeline file has it: values of `with` are what people write, the rest is the host's.
fn below(path: &str, key: &str) -> String {
    match (path, key) {
        ("", "host") => "version of host".to_owned(),
        ("" | "with", key) => key.to_owned(),
        (path, key) => format!("{path}.{key}"),
    }
}

fn told(value: &Value) -> String {
    let text = match value {
        Value::String(text) => shortened(text),
        other => other.to_string(),
    };
    match text.char_indices().nth(VALUE_MAX_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// Digests are told by their first digits.
fn shortened(text: &str) -> String {
    match text.split_once("sha256:") {
        Some((name, digits)) if digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            format!("{name}{}", digits.get(..DIGEST_DIGITS).unwrap_or(digits))
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_is_told_as_the_file_has_it() {
        let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let before = serde_json::json!({
            "host": "0.1.0", "key": 1, "outputs": [], "uses": "train",
            "with": { "data": format!("d@{}", digest("a")), "params": { "rounds": 60, "eta": 0.1 }, "preprocess": [digest("1")] },
        });
        let now = serde_json::json!({
            "host": "0.1.0", "key": 1, "outputs": [], "uses": "train",
            "with": { "data": format!("d@{}", digest("b")), "params": { "rounds": 80 }, "preprocess": [digest("2")], "seed": 7 },
        });
        let mut told = changes(&before.to_string(), &now.to_string());
        told.sort();
        assert_eq!(
            told,
            [
                "`data` is d@bbbbbbbbbbbb, was d@aaaaaaaaaaaa",
                "`params.eta` is not given, was 0.1",
                "`params.rounds` is 80, was 60",
                "`preprocess` is 222222222222, was 111111111111",
                "`seed` is 7, was not given",
            ]
        );
        assert!(changes(&now.to_string(), &now.to_string()).is_empty());
    }

    #[test]
    fn long_values_are_cut_and_the_hosts_version_is_named() {
        let told = changes(
            &serde_json::json!({ "host": "1", "with": { "run": "é".repeat(100) } }).to_string(),
            &serde_json::json!({ "host": "2", "with": { "run": ["a", "b"] } }).to_string(),
        );
        assert_eq!(told[0], "`version of host` is 2, was 1");
        assert_eq!(told[1], format!("`run` is [\"a\",\"b\"], was {}…", "é".repeat(60)));
    }
}
