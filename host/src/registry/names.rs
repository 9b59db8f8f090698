//! What may be a model's name, an alias, a tag, a number of a version: MLflow's rules and limits.

pub(super) use crate::track::names::required;
use crate::track::names::{check_key, check_length};
use crate::track::{Pair, TrackError};

/// Longest name of a model.
const NAME_MAX_CHARS: usize = 256;

/// Longest name of a version.
const ALIAS_MAX_CHARS: usize = 255;

/// Longest description; MLflow checks none.
const DESCRIPTION_MAX_CHARS: usize = 100_000;

/// Longest value of a tag.
const TAG_VALUE_MAX_CHARS: usize = 100_000;

/// Tags of a request at most.
const TAGS_MAX: usize = 1_000;

/// Checks a model's name; `parameter` names it in the error.
pub(super) fn check_model_name(parameter: &str, name: &str) -> Result<(), TrackError> {
    required(parameter, name.trim())?;
    let shown = || name.chars().take(300).collect::<String>();
    if name.contains(['/', ':']) {
        return Err(TrackError::invalid(format!(
            "Invalid model name '{}'. Names cannot contain '/' or ':'.",
            shown()
        )));
    }
    if name == "." || name.starts_with("..") {
        return Err(TrackError::invalid(format!(
            "Invalid value \"{}\" for parameter 'name' supplied: Names may be treated as files in certain cases, and \
             must not resolve to other names when treated as such.",
            shown()
        )));
    }
    check_length(parameter, name, NAME_MAX_CHARS)
}

/// Checks an alias as a name to look for.
pub(super) fn check_alias(alias: &str) -> Result<(), TrackError> {
    if alias.is_empty() {
        return Err(TrackError::invalid("Registered model alias name cannot be empty."));
    }
    if !alias.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-')) {
        let shown: String = alias.chars().take(300).collect();
        return Err(TrackError::invalid(format!(
            "Invalid alias name: '{shown}'. Names may only contain alphanumerics, underscores (_), and dashes (-)."
        )));
    }
    check_length("Registered model alias name", alias, ALIAS_MAX_CHARS)
}

/// Whether an alias is the one that no version is given: `latest`.
pub(super) fn is_latest(alias: &str) -> bool {
    alias.eq_ignore_ascii_case("latest")
}

/// Checks an alias as a name to give.
pub fn check_new_alias(alias: &str) -> Result<(), TrackError> {
    check_alias(alias)?;
    if is_latest(alias) {
        return Err(TrackError::invalid("'latest' alias name (case insensitive) is reserved."));
    }
    let number = alias.strip_prefix(['v', 'V']).unwrap_or_default();
    if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(TrackError::invalid(format!("Version alias name '{alias}' is reserved.")));
    }
    Ok(())
}

/// Checks a description.
pub(super) fn check_description(text: &str) -> Result<(), TrackError> {
    check_length("description", text, DESCRIPTION_MAX_CHARS)
}

/// Checks a tag.
pub(super) fn check_tag(tag: &Pair) -> Result<(), TrackError> {
    check_key("key", &tag.key)?;
    check_length("value", &tag.value, TAG_VALUE_MAX_CHARS)
}

/// Checks the tags of a new thing; of those with one key the last one stays.
pub(super) fn checked_tags(tags: Vec<Pair>) -> Result<Vec<Pair>, TrackError> {
    if tags.len() > TAGS_MAX {
        return Err(TrackError::invalid(format!("A request can contain at most {TAGS_MAX} tags")));
    }
    let mut checked: Vec<Pair> = Vec::with_capacity(tags.len());
    for tag in tags {
        check_tag(&tag)?;
        checked.retain(|other| other.key != tag.key);
        checked.push(tag);
    }
    Ok(checked)
}

/// Reads the number of a version.
pub(super) fn parse_number(text: &str) -> Result<i64, TrackError> {
    required("version", text)?;
    text.trim().parse().map_err(|_| {
        let text: String = text.chars().take(100).collect();
        TrackError::invalid(format!("Parameter 'version' must be an integer, got '{text}'."))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models_are_mlflows() {
        for name in ["digits", "My Model", "ünï.cödé", "a%2fb", "a@b", "..a".trim_start_matches('.')] {
            assert!(check_model_name("name", name).is_ok(), "{name}");
        }
        for name in ["", "  ", ".", "..", "../a", "a/b", "a:b", "..a", "a\0b", &"é".repeat(257)] {
            assert!(check_model_name("name", name).is_err(), "{name:?}");
        }
        assert!(check_model_name("name", &"é".repeat(256)).is_ok());
    }

    #[test]
    fn aliases_are_mlflows() {
        for alias in ["champion", "a-b_1", "ä", "7", "v", "version1", "v1a"] {
            assert!(check_new_alias(alias).is_ok(), "{alias}");
        }
        for alias in
            ["", "latest", "Latest", "v1", "V22", "a b", "a.b", "a@b", "a/b", "a\n", &"a".repeat(256)]
        {
            assert!(check_new_alias(alias).is_err(), "{alias:?}");
        }
        assert!(check_alias("v1").is_ok() && check_alias("latest").is_ok());
    }

    #[test]
    fn tags_have_limits_and_the_last_of_a_key_stays() {
        let tag = |key: &str, value: &str| Pair { key: key.to_owned(), value: value.to_owned() };
        let kept = checked_tags(vec![tag("a", "1"), tag("b", "2"), tag("a", "3")]).unwrap();
        assert_eq!(kept, [tag("b", "2"), tag("a", "3")]);
        assert!(check_tag(&tag("a", &"é".repeat(100_000))).is_ok());
        for bad in
            [tag("", "x"), tag("a", &"x".repeat(100_001)), tag(&"a".repeat(251), "x"), tag("../a", "x")]
        {
            assert!(check_tag(&bad).is_err());
        }
        assert!(checked_tags(vec![tag("a", "1"); 1_001]).is_err());
        assert!(check_description(&"x".repeat(100_001)).is_err());
    }

    #[test]
    fn numbers_of_versions_are_integers() {
        assert_eq!(parse_number("12").unwrap(), 12);
        for text in ["", "one", "1.5", "1e3", "99999999999999999999"] {
            assert!(parse_number(text).is_err(), "{text}");
        }
    }
}
