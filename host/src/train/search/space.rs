use std::fmt::Display;
use std::str::FromStr;

use serde_json::Value;

use super::SearchError;
use crate::domain::closest;

/// What a range or list is written as, for errors.
const SYNTAX: &str = "`LOW..HIGH`, `LOW..HIGH:log` or `VALUE,VALUE,…`";

/// The parameters that are searched, and the values that each may take.
#[derive(Debug, Clone, PartialEq)]
pub struct Space {
    dimensions: Vec<Dimension>,
}

/// A parameter that is searched.
#[derive(Debug, Clone, PartialEq)]
pub struct Dimension {
    /// The parameter's name.
    pub name: String,
    /// The values that it may take.
    pub values: Values,
}

/// The values that a parameter may take.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// A number between two, both included.
    Float(Range<f64>),
    /// A whole number between two, both included.
    Integer(Range<i64>),
    /// One of several texts.
    Choice(Vec<String>),
}

/// Numbers between two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range<T> {
    /// The least.
    pub low: T,
    /// The greatest.
    pub high: T,
    /// Whether factors count instead of differences: as much is tried from 0.01 to 0.1 as from 0.1 to 1.
    pub log: bool,
}

/// Values for all parameters of a space, in its order: what a trial is given.
pub type Assignment = Vec<(String, String)>;

impl Space {
    /// Takes parameters, each once.
    pub fn new(dimensions: Vec<Dimension>) -> Result<Self, SearchError> {
        if dimensions.is_empty() {
            return Err(SearchError::Empty);
        }
        for (index, dimension) in dimensions.iter().enumerate() {
            let before = dimensions.iter().take(index);
            if before.into_iter().any(|before| before.name == dimension.name) {
                return Err(SearchError::Twice { name: dimension.name.clone() });
            }
        }
        Ok(Self { dimensions })
    }

    /// Reads a map from names to what they may be: text as `3..10`, a list of choices, or an object of `low`, `high` and
    /// `log`.
    pub fn from_json(map: &serde_json::Map<String, Value>) -> Result<Self, SearchError> {
        let dimension = |(name, value): (&String, &Value)| {
            Ok(Dimension { name: name.clone(), values: Values::from_json(name, value)? })
        };
        Self::new(map.iter().map(dimension).collect::<Result<_, SearchError>>()?)
    }

    /// The parameters.
    pub fn dimensions(&self) -> &[Dimension] {
        &self.dimensions
    }

    /// Assignments that together have every bound and every choice: if a trainer takes them all, it takes each value.
    pub fn bounds(&self) -> Vec<Assignment> {
        let most = self.dimensions.iter().map(|dimension| dimension.values.bounds().len()).max();
        let at = |place: usize| {
            let value = |dimension: &Dimension| {
                let bounds = dimension.values.bounds();
                let value = bounds.get(place % bounds.len().max(1)).cloned().unwrap_or_default();
                (dimension.name.clone(), value)
            };
            self.dimensions.iter().map(value).collect()
        };
        (0..most.unwrap_or_default()).map(at).collect()
    }

    /// The assignment at a point of which each coordinate lies from 0 to 1.
    pub(super) fn at(&self, point: &[f64]) -> Assignment {
        let pairs = self.dimensions.iter().zip(point);
        pairs.map(|(dimension, unit)| (dimension.name.clone(), dimension.values.at(*unit))).collect()
    }

    /// The point of an assignment; none if it is not of this space.
    pub(super) fn point(&self, assignment: &Assignment) -> Option<Vec<f64>> {
        let coordinate = |dimension: &Dimension| {
            let (_, value) = assignment.iter().find(|(name, _)| *name == dimension.name)?;
            dimension.values.unit(value)
        };
        self.dimensions.iter().map(coordinate).collect()
    }
}

impl FromStr for Dimension {
    type Err = SearchError;

    /// Reads `name=low..high`, `name=low..high:log` or `name=a,b,c`.
    fn from_str(text: &str) -> Result<Self, SearchError> {
        let refuse = || SearchError::Syntax { text: text.to_owned() };
        let (name, values) = text.split_once('=').ok_or_else(refuse)?;
        let name = name.trim();
        if name.is_empty() {
            return Err(refuse());
        }
        Ok(Self { name: name.to_owned(), values: Values::parse(name, values)? })
    }
}

impl Values {
    fn parse(name: &str, text: &str) -> Result<Self, SearchError> {
        let refuse = |expected: String| SearchError::Values {
            name: name.to_owned(),
            found: text.to_owned(),
            expected,
        };
        let Some((low, rest)) = text.split_once("..") else {
            let choices: Vec<String> = text.split(',').map(|choice| choice.trim().to_owned()).collect();
            return Self::choices(name, choices);
        };
        let (high, log) = match rest.split_once(':') {
            None => (rest, false),
            Some((high, "log")) => (high, true),
            Some((_, scale)) => {
                let meant = closest(scale, ["log"]).map(|known| format!(": did you mean `{known}`?"));
                return Err(refuse(format!(
                    "`:log` or nothing after the range{}",
                    meant.unwrap_or_default()
                )));
            }
        };
        let (low, high) = (low.trim(), high.trim());
        if let (Ok(low), Ok(high)) = (low.parse(), high.parse()) {
            return Self::integers(name, low, high, log);
        }
        match (low.parse(), high.parse()) {
            (Ok(low), Ok(high)) => Self::floats(name, low, high, log),
            _ => Err(refuse(SYNTAX.to_owned())),
        }
    }

    fn from_json(name: &str, value: &Value) -> Result<Self, SearchError> {
        let refuse = |expected: &str| SearchError::Values {
            name: name.to_owned(),
            found: value.to_string(),
            expected: expected.to_owned(),
        };
        match value {
            Value::String(text) => Self::parse(name, text),
            Value::Array(values) => {
                let text = |value: &Value| match value {
                    Value::String(text) => Ok(text.clone()),
                    Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
                    _ => Err(refuse("a list of texts, numbers or booleans")),
                };
                Self::choices(name, values.iter().map(text).collect::<Result<_, _>>()?)
            }
            Value::Object(fields) => {
                let known = ["low", "high", "log"];
                if let Some(key) = fields.keys().find(|key| !known.contains(&key.as_str())) {
                    let meant = closest(key, known).map(|known| format!(": did you mean `{known}`?"));
                    let expected = format!("no key `{key}`{}", meant.unwrap_or_default());
                    return Err(refuse(&expected));
                }
                let log = match fields.get("log") {
                    None => false,
                    Some(log) => log.as_bool().ok_or_else(|| refuse("`log` to be true or false"))?,
                };
                let bound = |key: &str| fields.get(key).and_then(Value::as_number);
                let (Some(low), Some(high)) = (bound("low"), bound("high")) else {
                    return Err(refuse("numbers `low` and `high`"));
                };
                match (low.as_i64(), high.as_i64(), low.as_f64(), high.as_f64()) {
                    (Some(low), Some(high), ..) => Self::integers(name, low, high, log),
                    (.., Some(low), Some(high)) => Self::floats(name, low, high, log),
                    _ => Err(refuse("numbers `low` and `high`")),
                }
            }
            _ => Err(refuse(SYNTAX)),
        }
    }

    fn integers(name: &str, low: i64, high: i64, log: bool) -> Result<Self, SearchError> {
        check_range(name, low, high, log && low < 1)?;
        Ok(Self::Integer(Range { low, high, log }))
    }

    fn floats(name: &str, low: f64, high: f64, log: bool) -> Result<Self, SearchError> {
        let is_finite = (high - low).is_finite();
        if !is_finite {
            let (found, expected) = (format!("{low}..{high}"), "finite numbers".to_owned());
            return Err(SearchError::Values { name: name.to_owned(), found, expected });
        }
        check_range(name, low, high, log && low <= 0.0)?;
        Ok(Self::Float(Range { low, high, log }))
    }

    fn choices(name: &str, choices: Vec<String>) -> Result<Self, SearchError> {
        let twice = choices
            .iter()
            .enumerate()
            .find(|(index, choice)| choices.iter().take(*index).any(|before| before == *choice));
        let expected = match (choices.is_empty() || choices.iter().any(String::is_empty), twice) {
            (true, _) => SYNTAX.to_owned(),
            (false, Some((_, choice))) => format!("`{choice}` only once"),
            (false, None) => return Ok(Self::Choice(choices)),
        };
        Err(SearchError::Values { name: name.to_owned(), found: choices.join(","), expected })
    }

    /// How many values there are; none for a range of numbers that are not whole.
    pub fn count(&self) -> Option<u64> {
        match self {
            Self::Float(range) if range.low == range.high => Some(1),
            Self::Float(_) => None,
            Self::Integer(range) => Some(range.high.abs_diff(range.low).saturating_add(1)),
            Self::Choice(choices) => Some(choices.len() as u64),
        }
    }

    /// The value of a number, from 0.
    pub(super) fn nth(&self, place: u64) -> String {
        match self {
            Self::Float(range) => range.low.to_string(),
            Self::Integer(range) => range.low.saturating_add_unsigned(place).min(range.high).to_string(),
            Self::Choice(choices) => {
                let place = usize::try_from(place).unwrap_or(usize::MAX);
                choices.get(place).or(choices.last()).cloned().unwrap_or_default()
            }
        }
    }

    fn bounds(&self) -> Vec<String> {
        match self {
            Self::Float(range) => vec![range.low.to_string(), range.high.to_string()],
            Self::Integer(range) => vec![range.low.to_string(), range.high.to_string()],
            Self::Choice(choices) => choices.clone(),
        }
    }

    fn at(&self, unit: f64) -> String {
        let unit = unit.clamp(0.0, 1.0);
        match self {
            Self::Float(range) => range.at(unit).to_string(),
            // Each whole number has as much room as the others: half a step before it and half a step after it.
            Self::Integer(range) => {
                let value = range.with_room().at(unit).round() as i64;
                value.clamp(range.low, range.high).to_string()
            }
            Self::Choice(choices) => self.nth((unit * choices.len() as f64) as u64),
        }
    }

    fn unit(&self, text: &str) -> Option<f64> {
        match self {
            Self::Float(range) => {
                let value: f64 = text.parse().ok()?;
                (range.low..=range.high).contains(&value).then(|| range.unit(value))
            }
            Self::Integer(range) => {
                let value: i64 = text.parse().ok()?;
                (range.low..=range.high).contains(&value).then(|| range.with_room().unit(value as f64))
            }
            Self::Choice(choices) => {
                let place = choices.iter().position(|choice| choice == text)?;
                Some((place as f64 + 0.5) / choices.len() as f64)
            }
        }
    }
}

fn check_range<T: PartialOrd + Display>(
    name: &str,
    low: T,
    high: T,
    no_logarithm: bool,
) -> Result<(), SearchError> {
    let expected = match (low <= high, no_logarithm) {
        (false, _) => "the smaller number first",
        (true, true) => "numbers above 0 where factors count",
        (true, false) => return Ok(()),
    };
    let (name, found) = (name.to_owned(), format!("{low}..{high}"));
    Err(SearchError::Values { name, found, expected: expected.to_owned() })
}

impl Range<f64> {
    fn at(self, unit: f64) -> f64 {
        let value = match self.log {
            true => (self.low.ln() + unit * (self.high.ln() - self.low.ln())).exp(),
            false => self.low + unit * (self.high - self.low),
        };
        value.clamp(self.low, self.high)
    }

    fn unit(self, value: f64) -> f64 {
        let unit = match self.log {
            true => (value.ln() - self.low.ln()) / (self.high.ln() - self.low.ln()),
            false => (value - self.low) / (self.high - self.low),
        };
        if unit.is_finite() { unit.clamp(0.0, 1.0) } else { 0.0 }
    }
}

impl Range<i64> {
    fn with_room(self) -> Range<f64> {
        Range { low: self.low as f64 - 0.5, high: self.high as f64 + 0.5, log: self.log }
    }
}
