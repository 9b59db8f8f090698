//! How the YAML of an endpoint file is read, and what is said where it is wrong.

use serde_saphyr::budget::BudgetBreach;

use super::ENDPOINT_FILE_MAX_BYTES;

/// Lists and objects in each other in such a file; none that means something has ten.
const DEPTH_MAX: usize = 16;

/// Values in it.
const VALUES_MAX: usize = 50_000;

/// What the YAML reader says of a number that is another than it should be, and what is to be said.
const WANTED: [(&str, &str); 3] = [
    ("invalid u64", "expected a whole number from 0,"),
    ("invalid u32", "expected a whole number from 0 to 4294967295,"),
    ("invalid floating point", "expected a number,"),
];

/// What the YAML reader refused.
pub(super) fn message(error: &serde_saphyr::Error, text: &str) -> String {
    match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key, location } => {
            let quoted = |key: &str| format!("`{}`", key.chars().take(80).collect::<String>());
            let key = key.as_deref().map_or("a key".to_owned(), quoted);
            format!("{key} stands there twice at line {}, column {}", location.line(), location.column())
        }
        serde_saphyr::Error::Budget { breach: BudgetBreach::Documents { .. }, .. }
        | serde_saphyr::Error::MultipleDocuments { .. } => "has a second document: expected one".to_owned(),
        serde_saphyr::Error::Budget { breach, location } => match breach {
            BudgetBreach::Depth { .. } => {
                format!("is nested too deeply: expected at most {DEPTH_MAX} levels")
            }
            BudgetBreach::Aliases { .. } | BudgetBreach::Anchors { .. } | BudgetBreach::MergeKeys { .. } => {
                let line = line_of(text, location.line()).map(|line| format!(", in `{line}`"));
                format!("has an anchor or an alias: expected none{}", line.unwrap_or_default())
            }
            _ => format!("is too large: expected at most {VALUES_MAX} values"),
        },
        other => {
            let message = other.to_string().replace('\n', " ");
            let message = message.replace("mapping start", "fields").replace("sequence start", "a list");
            let message =
                WANTED.iter().fold(message, |message, (told, wanted)| message.replace(told, wanted));
            let line = other.location().and_then(|location| line_of(text, location.line()));
            line.map_or_else(|| message.clone(), |line| format!("{message}, in `{line}`"))
        }
    }
}

/// A line of a text, by its number from 1, as far as people read.
fn line_of(text: &str, number: u64) -> Option<String> {
    let line = text.lines().nth(usize::try_from(number).ok()?.checked_sub(1)?)?.trim();
    (!line.is_empty()).then(|| line.chars().take(80).collect())
}

/// How such a file is read: without what could make much of little.
pub(super) fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 100_000,
            max_nodes: VALUES_MAX,
            max_depth: DEPTH_MAX,
            max_aliases: 0,
            max_anchors: 0,
            max_documents: 1,
            max_merge_keys: 0,
            max_total_scalar_bytes: ENDPOINT_FILE_MAX_BYTES,
        },
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}
