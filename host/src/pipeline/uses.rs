//! What `uses` may be: the fields of each kind of step, their types, and what it puts out.
//!
//! One table ([`USES`]) is what the checks, the planner and the JSON Schema for editors read.

mod table;

use serde_json::{Map, Value as Json};

use super::problem::{Place, Problems, listed, quoted, suggestion};
use super::tree::{Key, Tree, TreeKind};

pub use table::USES;

/// A kind of step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Uses {
    /// Which it is.
    pub kind: StepKind,
    /// What stands after `uses:`.
    pub name: &'static str,
    /// One sentence on what it does.
    pub doc: &'static str,
    /// What may stand in `with`.
    pub fields: &'static [Field],
    /// What later steps may refer to.
    pub outputs: &'static [Output],
    /// Whether it may put out more than `outputs` names, as a command of the user's can.
    pub is_open: bool,
    /// Whether its result is taken from the cache where `cache` says nothing.
    pub is_cached: bool,
    /// Fields that go with one value of another.
    pub only_with: Option<OnlyWith>,
}

/// Fields that are for one value of another field alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OnlyWith {
    /// The other field.
    pub field: &'static str,
    /// The value.
    pub value: &'static str,
    /// Fields that must be given with it.
    pub needs: &'static [&'static str],
    /// Fields that may be given with it.
    pub takes: &'static [&'static str],
}

impl OnlyWith {
    /// The fields that are for the value alone.
    pub(super) fn fields(&self) -> impl Iterator<Item = &'static str> {
        self.needs.iter().chain(self.takes).copied()
    }

    /// The value, for messages.
    fn shown(&self) -> String {
        format!("`{}: {}`", self.field, self.value)
    }
}

/// A field of `with`, or of a mapping within it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Field {
    /// The key.
    pub name: &'static str,
    /// What its value may be.
    pub kind: FieldKind,
    /// Whether it must be given.
    pub is_required: bool,
    /// One sentence on what it means.
    pub doc: &'static str,
}

/// What the value of a field may be. A template may stand for any of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FieldKind {
    /// A text.
    Text,
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A text or a list of texts; always resolved to a list. A list within the list is spliced in, so that all
    /// outputs of a matrix can stand beside others.
    Texts,
    /// A text for the shell, or a list of a program and its arguments.
    Command,
    /// Files: a text or a list of them, or a mapping from where each is put.
    Files,
    /// A mapping with keys of the user's.
    Map,
    /// A mapping with these keys.
    Record(&'static [Field]),
}

/// What a step puts out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Output {
    /// Its name, as in `steps.x.outputs.NAME`.
    pub name: &'static str,
    /// Whether it is a mapping: `outputs.metrics.accuracy`.
    pub is_map: bool,
    /// One sentence on what it is.
    pub doc: &'static str,
}

/// The kind of step of that name.
pub fn find(name: &str) -> Option<&'static Uses> {
    USES.iter().find(|uses| uses.name == name)
}

/// The kinds of steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    /// Adds files to a dataset.
    Data,
    /// Makes a dataset version from another.
    Transform,
    /// Trains a model.
    Train,
    /// Measures a bundle.
    Evaluate,
    /// Searches hyperparameters.
    Sweep,
    /// Picks the best bundle.
    Compare,
    /// Makes a bundle a version of a model.
    Register,
    /// Moves an alias.
    Promote,
    /// Tries a version out.
    Serve,
    /// Looks for drift.
    Monitor,
    /// Runs a program.
    Command,
}

impl FieldKind {
    /// For messages: `expected …`.
    fn expected(self) -> String {
        match self {
            Self::Text => "a string".to_owned(),
            Self::Choice(choices) => format!("one of {}", listed(choices.iter().copied())),
            Self::Integer => "an integer".to_owned(),
            Self::Number => "a number".to_owned(),
            Self::Boolean => "`true` or `false`".to_owned(),
            Self::Texts | Self::Command => "a string or a list of strings".to_owned(),
            Self::Files => "a string, a list of strings or a mapping to strings".to_owned(),
            Self::Map | Self::Record(_) => "a mapping".to_owned(),
        }
    }
}

/// Checks `with` of a step of the file: unknown and missing fields and types; a template may stand for any type.
pub(super) fn check(uses: &Uses, step: &str, with: &Tree, problems: &mut Problems) {
    let owner = format!("`with` of step {}", quoted(step));
    check_record(uses.fields, &owner, with, problems);
    if let (Some(rule), TreeKind::Map(entries)) = (&uses.only_with, &with.kind) {
        check_only_with(rule, &owner, with.place, entries, problems);
    }
}

fn check_only_with(
    rule: &OnlyWith,
    owner: &str,
    place: Place,
    entries: &[(Key, Tree)],
    problems: &mut Problems,
) {
    let given = |name: &str| entries.iter().find(|(key, _)| key.name == name);
    match given(rule.field).map(|(_, value)| &value.kind) {
        // It is looked at again when it is known.
        Some(TreeKind::Template(_)) => {}
        Some(TreeKind::Text(text)) if text == rule.value => {
            for name in rule.needs.iter().filter(|name| given(name).is_none()) {
                problems.add(place, format!("{owner} lacks `{name}`, which {} needs", rule.shown()));
            }
        }
        _ => {
            for (key, _) in rule.fields().filter_map(given) {
                problems.add(key.place, format!("`{}` in {owner} is for {} alone", key.name, rule.shown()));
            }
        }
    }
}

fn check_record(fields: &[Field], owner: &str, tree: &Tree, problems: &mut Problems) {
    let entries = match &tree.kind {
        TreeKind::Map(entries) => entries.as_slice(),
        TreeKind::Template(_) => return,
        _ => {
            problems.add(tree.place, format!("{owner}: expected a mapping, found {}", found(tree)));
            return;
        }
    };
    for (key, value) in entries {
        match fields.iter().find(|field| field.name == key.name) {
            Some(field) => check_field(field, owner, value, problems),
            None => problems.add(
                key.place,
                format!(
                    "unknown key {} of {owner}{}",
                    quoted(&key.name),
                    suggestion(&key.name, fields.iter().map(|field| field.name))
                ),
            ),
        }
    }
    for field in fields.iter().filter(|field| field.is_required) {
        if !entries.iter().any(|(key, _)| key.name == field.name) {
            problems.add(
                tree.place,
                format!("{owner} lacks `{}`: expected {}", field.name, field.kind.expected()),
            );
        }
    }
}

fn check_field(field: &Field, owner: &str, tree: &Tree, problems: &mut Problems) {
    let name = field.name;
    let mut wrong = |place: Place, found: &str| {
        problems
            .add(place, format!("`{name}` in {owner}: expected {}, found {found}", field.kind.expected()));
    };
    if matches!(tree.kind, TreeKind::Template(_)) {
        return;
    }
    match field.kind {
        FieldKind::Texts | FieldKind::Command | FieldKind::Files => match &tree.kind {
            TreeKind::Map(entries) if field.kind == FieldKind::Files => {
                for (key, value) in entries.iter().filter(|(_, value)| !is_text(value)) {
                    wrong(value.place, &format!("{} for {}", found(value), quoted(&key.name)));
                }
            }
            TreeKind::List(list) => {
                for element in list.iter().filter(|element| !is_text(element)) {
                    // A list that came out of a template is spliced in, and its elements checked then.
                    if !(element.is_filled && matches!(element.kind, TreeKind::List(_))) {
                        wrong(element.place, &format!("{} in the list", found(element)));
                    }
                }
            }
            _ if is_text(tree) => {}
            _ => wrong(tree.place, &found(tree)),
        },
        FieldKind::Record(fields) => check_record(fields, &format!("`{name}` in {owner}"), tree, problems),
        FieldKind::Text if is_text(tree) => {}
        kind => {
            if !accepts(kind, &tree.shown()) {
                let near = match (kind, &tree.kind) {
                    (FieldKind::Choice(choices), TreeKind::Text(text)) => {
                        suggestion(text, choices.iter().copied())
                    }
                    _ => String::new(),
                };
                wrong(tree.place, &format!("{}{near}", found(tree)));
            }
        }
    }
}

/// Whether a field of texts takes it: a text, or a number or boolean that a template stood for.
fn is_text(tree: &Tree) -> bool {
    match tree.kind {
        TreeKind::Text(_) | TreeKind::Template(_) => true,
        TreeKind::Number(_) | TreeKind::Boolean(_) => tree.is_filled,
        _ => false,
    }
}

fn accepts(kind: FieldKind, value: &Json) -> bool {
    match kind {
        FieldKind::Text => value.is_string(),
        FieldKind::Choice(choices) => value.as_str().is_some_and(|text| choices.contains(&text)),
        FieldKind::Integer => value.is_i64() || value.is_u64(),
        FieldKind::Number => value.is_number(),
        FieldKind::Boolean => value.is_boolean(),
        FieldKind::Map | FieldKind::Record(_) => value.is_object(),
        FieldKind::Texts | FieldKind::Command => {
            value.is_string() || value.as_array().is_some_and(|list| list.iter().all(Json::is_string))
        }
        FieldKind::Files => {
            accepts(FieldKind::Texts, value)
                || value.as_object().is_some_and(|map| map.values().all(Json::is_string))
        }
    }
}

fn found(tree: &Tree) -> String {
    described(&tree.shown())
}

/// What a value is, for a message.
pub(super) fn described(value: &Json) -> String {
    match value {
        Json::Null => "nothing".to_owned(),
        Json::Bool(value) => format!("`{value}`"),
        Json::Number(value) => format!("the number `{value}`"),
        Json::String(text) => format!("the text {}", quoted(text)),
        Json::Array(_) => "a list".to_owned(),
        Json::Object(_) => "a mapping".to_owned(),
    }
}

/// Checks resolved values of `with` once more, now that every template is filled in, and brings them into the form
/// that a job gets: fields of [`FieldKind::Texts`] as a list, numbers and booleans as text where a text is asked for,
/// and the other way round.
///
/// The error is one sentence without the step's name.
pub(super) fn checked(uses: &Uses, values: Map<String, Json>) -> Result<Map<String, Json>, String> {
    let values = checked_record(uses.fields, "with", values)?;
    let Some(rule) = &uses.only_with else { return Ok(values) };
    if values.get(rule.field).and_then(Json::as_str) == Some(rule.value) {
        return match rule.needs.iter().find(|name| !values.contains_key(**name)) {
            Some(name) => Err(format!("`with.{name}` is missing, which {} needs", rule.shown())),
            None => Ok(values),
        };
    }
    match rule.fields().find(|name| values.contains_key(*name)) {
        Some(name) => Err(format!("`with.{name}` is for {} alone", rule.shown())),
        None => Ok(values),
    }
}

fn checked_record(
    fields: &[Field],
    owner: &str,
    mut values: Map<String, Json>,
) -> Result<Map<String, Json>, String> {
    if let Some(key) = values.keys().find(|key| !fields.iter().any(|field| field.name == **key)) {
        let near = suggestion(key, fields.iter().map(|field| field.name));
        return Err(format!("unknown key {} of `{owner}`{near}", quoted(key)));
    }
    for field in fields {
        let path = format!("{owner}.{}", field.name);
        match values.get_mut(field.name) {
            Some(value) => *value = checked_value(field, &path, value.take())?,
            None if field.is_required => return Err(format!("`{path}` is missing")),
            None => {}
        }
    }
    Ok(values)
}

fn checked_value(field: &Field, path: &str, value: Json) -> Result<Json, String> {
    let value = match (field.kind, value) {
        (FieldKind::Text | FieldKind::Command, value) if !value.is_array() => as_text(value),
        (FieldKind::Files, Json::Object(map)) => {
            Json::Object(map.into_iter().map(|(path, file)| (path, as_text(file))).collect())
        }
        (FieldKind::Texts | FieldKind::Command | FieldKind::Files, value) => Json::Array(spliced(value)),
        (FieldKind::Record(fields), Json::Object(map)) => Json::Object(checked_record(fields, path, map)?),
        // What a command writes as `name=value` is text.
        (FieldKind::Integer | FieldKind::Number | FieldKind::Boolean, Json::String(text)) => {
            serde_json::from_str(text.trim()).unwrap_or(Json::String(text))
        }
        (_, value) => value,
    };
    if accepts(field.kind, &value) {
        Ok(value)
    } else {
        Err(format!("`{path}`: expected {}, found {}", field.kind.expected(), described(&value)))
    }
}

fn as_text(value: Json) -> Json {
    match value {
        Json::Number(_) | Json::Bool(_) => Json::String(value.to_string()),
        other => other,
    }
}

fn spliced(value: Json) -> Vec<Json> {
    match value {
        Json::Array(list) => list.into_iter().flat_map(spliced).collect(),
        other => vec![as_text(other)],
    }
}
