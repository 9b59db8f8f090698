//! What may be a key, a name, an id: MLflow's rules and limits.

use super::{Metric, Pair, TrackError};

/// Longest key of a metric, parameter or tag.
const KEY_MAX_CHARS: usize = 250;

/// Longest value of a parameter; longer ones are cut, as MLflow's server does.
const PARAM_VALUE_MAX_CHARS: usize = 6_000;

/// Longest value of a run's tag; longer ones are cut, as MLflow's server does.
const TAG_VALUE_MAX_CHARS: usize = 8_000;

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
    fn long_values_are_cut_between_characters() {
        let long = Pair { key: "a".to_owned(), value: "é".repeat(9_000) };
        assert_eq!(checked_param("", long.clone()).unwrap().value.chars().count(), 6_000);
        assert_eq!(checked_tag("", long).unwrap().value.chars().count(), 8_000);
    }
}
