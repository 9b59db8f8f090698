//! What may be a key, a name, an id: MLflow's rules and limits.

use std::collections::HashMap;

use super::{Metric, Pair, TrackError};

/// Longest key of a metric, parameter or tag.
const KEY_MAX_CHARS: usize = 250;

/// Longest value of a parameter; longer ones are cut, as MLflow's server does.
const PARAM_VALUE_MAX_CHARS: usize = 6_000;

/// Longest value of a run's tag; longer ones are cut, as MLflow's server does.
const TAG_VALUE_MAX_CHARS: usize = 8_000;

/// Longest key of a tag that a run starts with, and of a tag or parameter of a logged model: MLflow checks none of them. An
/// index of PostgreSQL takes no more.
const FREE_KEY_MAX_CHARS: usize = 500;

/// Longest value of these.
const FREE_VALUE_MAX_CHARS: usize = 1_000_000;

/// Longest name of a run; a longer one is cut, as the value of the tag is that holds it too.
const RUN_NAME_MAX_CHARS: usize = TAG_VALUE_MAX_CHARS;

/// Longest value of an experiment's tag.
const EXPERIMENT_TAG_VALUE_MAX_CHARS: usize = 20_000;

/// Longest name of an experiment.
const EXPERIMENT_NAME_MAX_CHARS: usize = 500;

/// Checks a key of a metric, parameter or tag; `path` names it in the error.
pub(crate) fn check_key(path: &str, key: &str) -> Result<(), TrackError> {
    let is_allowed = |c: char| c.is_alphanumeric() || matches!(c, '_' | '/' | '.' | '-' | ' ' | ':');
    let refuse = |why: String| {
        let shown: String = key.chars().take(300).collect();
        Err(TrackError::invalid(format!(
            "Invalid value {} for parameter '{path}' supplied: {why}",
            serde_json::Value::from(shown)
        )))
    };
    if !key.chars().all(is_allowed) {
        return refuse(
            "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) \
             and slashes (/)."
                .to_owned(),
        );
    }
    if !is_plain_path(key) {
        return refuse(
            "Names may be treated as files in certain cases, and must not resolve to other names when treated as \
             such."
                .to_owned(),
        );
    }
    check_length(path, key, KEY_MAX_CHARS)
}

/// Whether a path is relative, and written in the one way that it can be.
pub(super) fn is_plain_path(path: &str) -> bool {
    !path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Refuses a parameter that is not there.
pub(crate) fn required(parameter: &str, text: &str) -> Result<(), TrackError> {
    if text.is_empty() {
        return Err(TrackError::invalid(format!("Missing value for required parameter '{parameter}'.")));
    }
    Ok(())
}

/// Refuses text that is too long.
pub(crate) fn check_length(path: &str, text: &str, max_chars: usize) -> Result<(), TrackError> {
    // Bytes are at least as many as characters, so most text needs no counting.
    if text.len() > max_chars && text.chars().count() > max_chars {
        return Err(TrackError::invalid(format!(
            "'{path}' exceeds the maximum length of {max_chars} characters"
        )));
    }
    check_text(path, text)
}

/// Refuses what a database cannot hold.
pub(crate) fn check_text(path: &str, text: &str) -> Result<(), TrackError> {
    if text.contains('\0') {
        return Err(TrackError::invalid(format!("'{path}' contains a NUL character")));
    }
    Ok(())
}

/// Checks a metric's point.
pub(super) fn check_metric(path: &str, metric: &Metric) -> Result<(), TrackError> {
    check_key(&format!("{path}name"), &metric.key)?;
    if metric.timestamp < 0 {
        return Err(TrackError::invalid(format!(
            "Invalid value {} for parameter '{path}timestamp' supplied: metric '{}' (value={}). Timestamp must be a \
             nonnegative long (64-bit integer)",
            metric.timestamp, metric.key, metric.value
        )));
    }
    let is_given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if is_given(&metric.dataset_name) && !is_given(&metric.dataset_digest) {
        return Err(TrackError::invalid(format!(
            "Missing value for required parameter '{path}dataset_digest': the metric '{}' names a dataset",
            metric.key
        )));
    }
    let texts = [&metric.model_id, &metric.dataset_name, &metric.dataset_digest];
    texts
        .into_iter()
        .flatten()
        .try_for_each(|text| check_length(&format!("{path}dataset"), text, DATASET_MAX_CHARS))
}

/// Checks a parameter, cutting its value to what may be kept.
pub(super) fn checked_param(path: &str, mut param: Pair) -> Result<Pair, TrackError> {
    check_key(&format!("{path}key"), &param.key)?;
    check_text(&format!("{path}value"), &param.value)?;
    cut(&mut param.value, PARAM_VALUE_MAX_CHARS);
    Ok(param)
}

/// Checks a tag of a run, cutting its value to what may be kept.
pub(super) fn checked_tag(path: &str, mut tag: Pair) -> Result<Pair, TrackError> {
    check_key(&format!("{path}key"), &tag.key)?;
    check_text(&format!("{path}value"), &tag.value)?;
    cut(&mut tag.value, TAG_VALUE_MAX_CHARS);
    Ok(tag)
}

/// Checks a tag or parameter where MLflow keeps whatever it is given: any characters, and nothing is cut.
pub(super) fn check_free(path: &str, pair: &Pair) -> Result<(), TrackError> {
    check_free_key(&format!("{path}key"), &pair.key)?;
    check_length(&format!("{path}value"), &pair.value, FREE_VALUE_MAX_CHARS)
}

/// Checks the key of what [`check_free`] lets pass.
pub(super) fn check_free_key(path: &str, key: &str) -> Result<(), TrackError> {
    check_length(path, key, FREE_KEY_MAX_CHARS)
}

/// Checks a run's name, cutting it to what may be kept.
pub(super) fn checked_run_name(mut name: String) -> Result<String, TrackError> {
    check_text("run_name", &name)?;
    cut(&mut name, RUN_NAME_MAX_CHARS);
    Ok(name)
}

/// Of pairs with one key the last one, in the place of the first.
pub(super) fn last_of_each_key(pairs: Vec<Pair>) -> Vec<Pair> {
    let mut places: HashMap<String, usize> = HashMap::with_capacity(pairs.len());
    let mut kept: Vec<Pair> = Vec::with_capacity(pairs.len());
    for pair in pairs {
        match places.get(&pair.key).and_then(|place| kept.get_mut(*place)) {
            Some(same) => *same = pair,
            None => {
                places.insert(pair.key.clone(), kept.len());
                kept.push(pair);
            }
        }
    }
    kept
}

/// Checks a tag of an experiment.
pub(super) fn check_experiment_tag(tag: &Pair) -> Result<(), TrackError> {
    check_key("key", &tag.key)?;
    check_length("value", &tag.value, EXPERIMENT_TAG_VALUE_MAX_CHARS)
}

/// Checks an experiment's name.
pub(super) fn check_experiment_name(name: &str) -> Result<(), TrackError> {
    if name.trim().is_empty() {
        return Err(TrackError::invalid("Invalid experiment name: '' is not a name"));
    }
    check_length("name", name, EXPERIMENT_NAME_MAX_CHARS)
}

/// Longest name of a dataset in a metric.
const DATASET_MAX_CHARS: usize = 500;

fn cut(text: &mut String, max_chars: usize) {
    if text.len() > max_chars
        && let Some((end, _)) = text.char_indices().nth(max_chars)
    {
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_mlflows() {
        for key in ["a", "a b", "val/loss", "ä.β-1_2:3", "system/gpu 0", ".hidden", "a..b"] {
            assert!(check_key("key", key).is_ok(), "{key}");
        }
        for key in ["", "/a", "a/", "a//b", "a/../b", "..", ".", "a/.", "a;b", "a\0", "a\n", "a%b", "a#"] {
            assert!(check_key("key", key).is_err(), "{key:?}");
        }
        assert!(check_key("key", &"é".repeat(250)).is_ok());
        let error = check_key("metrics[3].key", &"x".repeat(251)).unwrap_err();
        assert_eq!(error.to_string(), "'metrics[3].key' exceeds the maximum length of 250 characters");
    }

    #[test]
    fn what_mlflow_keeps_unseen_is_kept_whole() {
        let pair = |key: &str, value: &str| Pair { key: key.to_owned(), value: value.to_owned() };
        for key in ["", "my(key)", "a[0]", "it's", "../x", "a\nb", &"é".repeat(500)] {
            assert!(check_free("", &pair(key, &"v".repeat(9_000))).is_ok(), "{key:?}");
        }
        for bad in [
            pair(&"k".repeat(501), "v"),
            pair("a\0", "v"),
            pair("a", "\0"),
            pair("a", &"v".repeat(1_000_001)),
        ] {
            assert!(check_free("", &bad).is_err());
        }
        let pairs = vec![pair("a", "1"), pair("b", "2"), pair("a", "3")];
        assert_eq!(last_of_each_key(pairs), [pair("a", "3"), pair("b", "2")]);
    }

    #[test]
    fn a_metric_of_a_dataset_has_its_digest() {
        let mut metric = Metric::new("a", 1.0, 1, 0);
        metric.dataset_name = Some("d".to_owned());
        for digest in [None, Some(String::new())] {
            metric.dataset_digest = digest;
            assert!(check_metric("", &metric).unwrap_err().to_string().contains("dataset_digest"));
        }
        metric.dataset_digest = Some("x".to_owned());
        assert!(check_metric("", &metric).is_ok());
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let long = Pair { key: "a".to_owned(), value: "é".repeat(9_000) };
        assert_eq!(checked_param("", long.clone()).unwrap().value.chars().count(), 6_000);
        assert_eq!(checked_run_name(long.value.clone()).unwrap().chars().count(), 8_000);
        assert_eq!(checked_tag("", long).unwrap().value.chars().count(), 8_000);
    }
}
