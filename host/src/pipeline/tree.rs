use serde_json::{Map, Number, Value as Json};

use super::node::{Node, Value};
use super::problem::{Place, Problems};
use super::template::{Part, Reference, Template, parse};

/// A value of the file in which templates may stand.
#[derive(Debug, Clone)]
pub struct Tree {
    pub(super) place: Place,
    /// Whether it came out of a template: a number then may become the text that a field asks for.
    pub(super) is_filled: bool,
    pub(super) kind: TreeKind,
}

/// What a [`Tree`] is.
#[derive(Debug, Clone)]
pub(super) enum TreeKind {
    Null,
    Boolean(bool),
    Number(Number),
    Text(String),
    Template(Template),
    List(Vec<Tree>),
    Map(Vec<(Key, Tree)>),
}

/// A key of a mapping with where it stands.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) place: Place,
}

/// Why a value cannot be resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// It stands for an output of a step that was skipped.
    Skipped(String),
    /// One sentence.
    Failed(String),
}

/// How many bytes values may still take, so that texts that repeat each other end before memory does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget(pub(super) usize);

impl Budget {
    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), Stop> {
        self.0 = self
            .0
            .checked_sub(bytes)
            .ok_or_else(|| Stop::Failed("templates make the values too large".to_owned()))?;
        Ok(())
    }
}

/// About how many bytes a value takes in memory.
pub(super) fn weight(value: &Json) -> usize {
    const SMALL: usize = 32;
    SMALL
        + match value {
            Json::String(text) => text.len(),
            Json::Array(list) => list.iter().map(weight).sum(),
            Json::Object(map) => map.iter().map(|(key, value)| SMALL + key.len() + weight(value)).sum(),
            _ => 0,
        }
}

/// A value as it is written within a text.
fn as_text(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Tree {
    pub(super) fn read(node: &Node, problems: &mut Problems) -> Self {
        let kind = match &node.value {
            Value::Null => TreeKind::Null,
            Value::Boolean(value) => TreeKind::Boolean(*value),
            Value::Number(value) => TreeKind::Number(value.clone()),
            Value::Text(text) => match parse(text).map(text_kind) {
                Ok(kind) => kind,
                Err(message) => {
                    problems.add(node.place, message);
                    // Stands for a template, so that no second problem is told of the same place.
                    TreeKind::Template(Template { parts: Vec::new() })
                }
            },
            Value::List(list) => {
                TreeKind::List(list.iter().map(|element| Self::read(element, problems)).collect())
            }
            Value::Map(entries) => TreeKind::Map(
                entries
                    .iter()
                    .map(|entry| {
                        let key = Key { name: entry.key.clone(), place: entry.key_place };
                        (key, Self::read(&entry.node, problems))
                    })
                    .collect(),
            ),
        };
        Self { place: node.place, is_filled: false, kind }
    }

    /// Calls `visit` with each reference and the place of the text that it stands in.
    pub(super) fn visit_references<'tree>(&'tree self, visit: &mut impl FnMut(&'tree Reference, Place)) {
        match &self.kind {
            TreeKind::Template(template) => {
                template.references().for_each(|reference| visit(reference, self.place));
            }
            TreeKind::List(list) => list.iter().for_each(|element| element.visit_references(visit)),
            TreeKind::Map(map) => map.iter().for_each(|(_, value)| value.visit_references(visit)),
            _ => {}
        }
    }

    /// With the references filled in that `known` knows the value of; the others stay.
    pub(super) fn filled(
        &self,
        known: &impl Fn(&Reference) -> Option<Json>,
        budget: &mut Budget,
    ) -> Result<Self, Stop> {
        budget.spend(size_of::<Self>())?;
        let mut is_filled = self.is_filled;
        let kind = match &self.kind {
            TreeKind::Template(template) => {
                if let Some(value) = template.exact().and_then(known) {
                    budget.spend(weight(&value))?;
                    return Ok(Self::of(value, self.place));
                }
                is_filled = true;
                text_kind(filled_parts(template, known, budget)?)
            }
            TreeKind::List(list) => TreeKind::List(
                list.iter().map(|element| element.filled(known, budget)).collect::<Result<_, _>>()?,
            ),
            TreeKind::Map(map) => {
                let mut filled = Vec::with_capacity(map.len());
                for (key, value) in map {
                    budget.spend(key.name.len())?;
                    filled.push((key.clone(), value.filled(known, budget)?));
                }
                TreeKind::Map(filled)
            }
            TreeKind::Text(text) => {
                budget.spend(text.len())?;
                self.kind.clone()
            }
            TreeKind::Null | TreeKind::Boolean(_) | TreeKind::Number(_) => self.kind.clone(),
        };
        Ok(Self { place: self.place, is_filled, kind })
    }

    /// The value, every reference looked up. An element of a list that stands for something skipped is left out; a
    /// list of which nothing is left so is skipped itself.
    pub(super) fn resolved(
        &self,
        look_up: &impl Fn(&Reference) -> Result<Json, Stop>,
        budget: &mut Budget,
    ) -> Result<Json, Stop> {
        budget.spend(size_of::<Self>())?;
        Ok(match &self.kind {
            TreeKind::Null => Json::Null,
            TreeKind::Boolean(value) => Json::Bool(*value),
            TreeKind::Number(value) => Json::Number(value.clone()),
            TreeKind::Text(text) => {
                budget.spend(text.len())?;
                Json::String(text.clone())
            }
            TreeKind::Template(template) => {
                if let Some(reference) = template.exact() {
                    let value = look_up(reference)?;
                    budget.spend(weight(&value))?;
                    return Ok(value);
                }
                let mut text = String::new();
                for part in &template.parts {
                    let piece = match part {
                        Part::Text(text) => text.clone(),
                        Part::Reference(reference) => as_text(&look_up(reference)?),
                    };
                    budget.spend(piece.len())?;
                    text.push_str(&piece);
                }
                Json::String(text)
            }
            TreeKind::List(list) => {
                let mut values = Vec::with_capacity(list.len());
                let mut skipped = None;
                for element in list {
                    match element.resolved(look_up, budget) {
                        Ok(value) => values.push(value),
                        Err(Stop::Skipped(step)) => skipped = Some(step),
                        Err(failed) => return Err(failed),
                    }
                }
                match skipped {
                    Some(step) if values.is_empty() => return Err(Stop::Skipped(step)),
                    _ => Json::Array(values),
                }
            }
            TreeKind::Map(map) => {
                let mut values = Map::new();
                for (key, value) in map {
                    budget.spend(key.name.len())?;
                    values.insert(key.name.clone(), value.resolved(look_up, budget)?);
                }
                Json::Object(values)
            }
        })
    }

    /// A known value in the place of the template that stood for it.
    pub(super) fn of(value: Json, place: Place) -> Self {
        let kind = match value {
            Json::Null => TreeKind::Null,
            Json::Bool(value) => TreeKind::Boolean(value),
            Json::Number(value) => TreeKind::Number(value),
            Json::String(text) => TreeKind::Text(text),
            Json::Array(list) => {
                TreeKind::List(list.into_iter().map(|element| Self::of(element, place)).collect())
            }
            Json::Object(map) => TreeKind::Map(
                map.into_iter().map(|(name, value)| (Key { name, place }, Self::of(value, place))).collect(),
            ),
        };
        Self { place, is_filled: true, kind }
    }

    /// The value if no template is left in it, else with templates as they are written.
    pub(super) fn shown(&self) -> Json {
        match &self.kind {
            TreeKind::Null => Json::Null,
            TreeKind::Boolean(value) => Json::Bool(*value),
            TreeKind::Number(value) => Json::Number(value.clone()),
            TreeKind::Text(text) => Json::String(text.clone()),
            TreeKind::Template(template) => Json::String(template.to_string()),
            TreeKind::List(list) => Json::Array(list.iter().map(Self::shown).collect()),
            TreeKind::Map(map) => {
                Json::Object(map.iter().map(|(key, value)| (key.name.clone(), value.shown())).collect())
            }
        }
    }
}

/// A text if there is nothing but text in `parts`, else a template.
fn text_kind(mut parts: Vec<Part>) -> TreeKind {
    match parts.as_mut_slice() {
        [Part::Text(text)] => TreeKind::Text(std::mem::take(text)),
        _ => TreeKind::Template(Template { parts }),
    }
}

/// The parts with what is known filled in, texts side by side joined.
fn filled_parts(
    template: &Template,
    known: &impl Fn(&Reference) -> Option<Json>,
    budget: &mut Budget,
) -> Result<Vec<Part>, Stop> {
    let mut filled: Vec<Part> = Vec::with_capacity(template.parts.len());
    for part in &template.parts {
        let piece = match part {
            Part::Text(text) => text.clone(),
            Part::Reference(reference) => match known(reference) {
                Some(value) => as_text(&value),
                None => {
                    budget.spend(size_of::<Part>())?;
                    filled.push(part.clone());
                    continue;
                }
            },
        };
        budget.spend(piece.len())?;
        match filled.last_mut() {
            Some(Part::Text(text)) => text.push_str(&piece),
            _ => filled.push(Part::Text(piece)),
        }
    }
    Ok(filled)
}
