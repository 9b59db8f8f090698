use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::problem::{Place, Problems, quoted};

/// Largest pipeline file, in bytes: 10,000 steps of a hundred characters each.
pub const FILE_MAX_BYTES: usize = 1 << 20;
/// Most values that a file may hold, aliases expanded.
pub const NODES_MAX: usize = 200_000;
/// Deepest nesting of lists and mappings.
pub const DEPTH_MAX: usize = 32;
/// Most anchors, and most aliases that repeat them.
pub const ALIASES_MAX: usize = 1_000;
/// Most values that aliases may repeat all together: what ends an alias bomb before it is built.
pub const ALIASED_MAX: usize = 50_000;

/// A value of the file with where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// What a value may be. YAML 1.2: `no`, `on`, `010`, `1_000` and dates are text.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Boolean(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a mapping with its value; in the order of the file, each key once.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_place: Place,
    pub(super) node: Node,
}

impl Node {
    /// Reads the one YAML document of `text`. `None` if that is impossible; `problems` then says why.
    pub(super) fn parse(text: &str, problems: &mut Problems) -> Option<Self> {
        let start = Place { line: 1, column: 1 };
        if text.len() > FILE_MAX_BYTES {
            let message = format!("has {} bytes: expected at most {FILE_MAX_BYTES}", text.len());
            problems.add(start, message);
            return None;
        }
        match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options()) {
            Ok(raw) => Some(tidied(raw, problems)),
            Err(error) => {
                let place = error.location().and_then(|location| place_of(&location)).unwrap_or(start);
                problems.add(place, yaml_message(&error, text, place));
                None
            }
        }
    }

    /// What the value is, for a message: `the number 3`, `a list`.
    pub(super) fn described(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Boolean(value) => format!("`{value}`"),
            Value::Number(value) => format!("the number `{value}`"),
            Value::Text(text) => format!("the text {}", quoted(text)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }

    /// The value without places; nothing in it is taken for a template.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Boolean(value) => (*value).into(),
            Value::Number(value) => value.clone().into(),
            Value::Text(text) => text.clone().into(),
            Value::List(list) => list.iter().map(Self::to_json).collect(),
            Value::Map(entries) => {
                entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect()
            }
        }
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            // Scalars, starts and ends of lists and mappings.
            max_events: 4 * NODES_MAX,
            max_nodes: NODES_MAX,
            max_depth: DEPTH_MAX,
            // Above ours, which says more.
            flow_nesting_limit: 2 * DEPTH_MAX,
            max_aliases: ALIASES_MAX,
            max_anchors: ALIASES_MAX,
            max_recorded_anchor_events: 4 * NODES_MAX,
            max_documents: 1,
            max_merge_keys: ALIASES_MAX,
            max_total_scalar_bytes: 2 * FILE_MAX_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: ALIASED_MAX,
            max_replay_stack_depth: DEPTH_MAX,
        },
        // Ours says both places, and goes on to find more.
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        null_as_string: true,
        with_snippet: false,
    }
}

/// One sentence for what the YAML reader refused.
fn yaml_message(error: &serde_saphyr::Error, text: &str, place: Place) -> String {
    use serde_saphyr::Error;
    use serde_saphyr::budget::BudgetBreach;
    let mut inner = error.without_snippet();
    while let Error::AliasError { error, .. } = inner {
        inner = error;
    }
    match inner {
        Error::Budget { breach: BudgetBreach::Aliases { .. } | BudgetBreach::Anchors { .. }, .. } => {
            format!("has too many anchors or aliases: expected at most {ALIASES_MAX}")
        }
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            format!("is nested too deeply: expected at most {DEPTH_MAX} levels")
        }
        Error::Budget { breach: BudgetBreach::RecordedAnchorEvents { .. }, .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            format!("aliases repeat too much: expected at most {ALIASED_MAX} repeated values")
        }
        Error::Budget { breach: BudgetBreach::Documents { .. }, .. } | Error::MultipleDocuments { .. } => {
            "a second document begins here: expected one".to_owned()
        }
        Error::Budget { .. } => format!("is too large: expected at most {NODES_MAX} values"),
        Error::RecursiveReferencesRequireWeakTypes { .. } => "an alias repeats itself without end".to_owned(),
        Error::UnknownAnchor { .. } => "the alias names no anchor".to_owned(),
        Error::NonFiniteFloat { value, .. } => format!("{} is not a finite number", quoted(value)),
        other => {
            let formatter = serde_saphyr::UserMessageFormatter;
            let message = serde_saphyr::MessageFormatter::format_message(&formatter, other);
            let line = usize::try_from(place.line).unwrap_or(usize::MAX);
            let line = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
            let hint = if line.contains("${{") && line.contains(['{', '[']) {
                " (a template within `{…}` or `[…]` must be quoted: \"${{ … }}\")"
            } else {
                ""
            };
            let message: String = message
                .chars()
                .map(|character| if character.is_control() { ' ' } else { character })
                .collect();
            format!("is not YAML: {message}{hint}")
        }
    }
}

fn place_of(location: &Location) -> Option<Place> {
    (location.line() > 0).then(|| Place { line: location.line(), column: location.column() })
}

/// A value as the YAML reader hands it out.
enum Raw {
    Null,
    Boolean(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Raw, E> {
        serde_json::Number::from_f64(value)
            .map(Raw::Number)
            .ok_or_else(|| E::custom("expected a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = access.next_element()? {
            list.push(element);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = access.next_entry()? {
            map.push(entry);
            if map.len() > NODES_MAX {
                return Err(A::Error::custom("too many keys"));
            }
        }
        Ok(Raw::Map(map))
    }
}

/// The node of `raw`, without keys that repeat an earlier one.
fn tidied(raw: Spanned<Raw>, problems: &mut Problems) -> Node {
    let place = place_of(&raw.referenced).unwrap_or(Place { line: 1, column: 1 });
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Boolean(value) => Value::Boolean(value),
        Raw::Number(value) => Value::Number(value),
        Raw::Text(value) => Value::Text(value),
        Raw::List(list) => Value::List(list.into_iter().map(|element| tidied(element, problems)).collect()),
        Raw::Map(map) => Value::Map(tidied_map(map, problems)),
    };
    Node { place, value }
}

fn tidied_map(map: Vec<(Spanned<String>, Spanned<Raw>)>, problems: &mut Problems) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::with_capacity(map.len());
    let mut lines: std::collections::HashMap<String, u64> = std::collections::HashMap::new();
    for (key, value) in map {
        let node = tidied(value, problems);
        let key_place = place_of(&key.referenced).unwrap_or(node.place);
        if let Some(line) = lines.get(&key.value) {
            let message = format!("duplicate key {}: it stands in line {line} already", quoted(&key.value));
            problems.add(key_place, message);
            continue;
        }
        lines.insert(key.value.clone(), key_place.line);
        entries.push(Entry { key: key.value, key_place, node });
    }
    entries
}
