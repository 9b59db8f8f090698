//! Conditions on rows, as `label <= 4`, `city in [Ulm, "Bad Aibling"]` or `width is present`.
//!
//! A condition is read for a schema: the column's name is the longest that the text begins with, and its type says what
//! the value is. A missing value fulfils no condition but `is missing`, as in SQL.

use std::cmp::Ordering;

use super::error::excerpt;
use crate::domain::{Batch, ColumnSpec, DataType, Tensor};

/// Most values of `in`.
const VALUES_MAX: usize = 10_000;

/// A text that is no condition on rows of a dataset.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// Nothing that the schema has.
    #[error("filter {text}: there is no such column: there are {columns}")]
    Column {
        /// The condition.
        text: String,
        /// The columns there are.
        columns: String,
    },
    /// The column is not one of single values.
    #[error("filter {text}: column `{column}` has rows of {shape}: expected one value a row")]
    Shape {
        /// The condition.
        text: String,
        /// The column.
        column: String,
        /// Its shape.
        shape: String,
    },
    /// Nothing that can be asked.
    #[error(
        "filter {text}: expected ==, !=, <, <=, >, >=, in [A, B], `is present` or `is missing` after column `{column}`"
    )]
    Operator {
        /// The condition.
        text: String,
        /// The column.
        column: String,
    },
    /// A value that the column cannot have.
    #[error("filter {text}: column `{column}` is {dtype}: expected {expected}, found {found}")]
    Value {
        /// The condition.
        text: String,
        /// The column.
        column: String,
        /// Its type.
        dtype: DataType,
        /// What such a column has.
        expected: &'static str,
        /// What was given.
        found: String,
    },
}

/// A condition on rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    column: String,
    condition: Condition,
}

#[derive(Debug, Clone, PartialEq)]
enum Condition {
    Is { missing: bool },
    Compare(Operator, Value),
    In(Vec<Value>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A value to compare with, of the column's kind.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    /// Of a column of integers: compared exactly.
    Integer(i128),
    Number(f64),
    Text(Vec<u8>),
}

/// Longer signs before those that they begin with.
const OPERATORS: [(&str, Operator); 6] = [
    ("==", Operator::Equal),
    ("!=", Operator::Unequal),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

impl Filter {
    /// Reads a condition on rows of these columns.
    pub fn parse(text: &str, schema: &[ColumnSpec]) -> Result<Self, FilterError> {
        let shown = excerpt(text.as_bytes());
        let (spec, rest) = split_column(text.trim(), schema)
            .ok_or_else(|| FilterError::Column { text: shown.clone(), columns: names(schema) })?;
        let column = spec.name.clone();
        if spec.row_elements() != 1 {
            let sizes: Vec<_> = spec.shape.iter().map(ToString::to_string).collect();
            return Err(FilterError::Shape { text: shown, column, shape: sizes.join(" × ") });
        }
        let rest = rest.trim();
        let value = |text: &str| {
            parse_value(text.trim(), spec.dtype).ok_or_else(|| FilterError::Value {
                text: shown.clone(),
                column: spec.name.clone(),
                dtype: spec.dtype,
                expected: expected(spec.dtype),
                found: excerpt(text.trim().as_bytes()),
            })
        };
        let condition = if let Some((text, operator)) =
            OPERATORS.iter().find_map(|(sign, operator)| Some((rest.strip_prefix(sign)?, *operator)))
        {
            Condition::Compare(operator, value(text)?)
        } else if let Some(list) = word(rest, "in").and_then(list) {
            Condition::In(list.into_iter().map(value).collect::<Result<_, _>>()?)
        } else {
            match word(rest, "is") {
                Some("present") => Condition::Is { missing: false },
                Some("missing") => Condition::Is { missing: true },
                _ => return Err(FilterError::Operator { text: shown, column }),
            }
        };
        Ok(Self { column, condition })
    }

    /// Sets to false those of `kept` whose rows do not fulfil the condition.
    pub fn apply(&self, batch: &Batch, kept: &mut [bool]) {
        let Some(column) = batch.column(&self.column) else { return kept.fill(false) };
        let is_integer = !(column.dtype().is_float() || column.dtype() == DataType::Bytes);
        if column.dtype() == DataType::Bytes {
            for (kept, value) in kept.iter_mut().zip(column.byte_strings()) {
                *kept &= self.holds(value.is_empty(), |wanted| match wanted {
                    Value::Text(wanted) => Some(value.cmp(wanted)),
                    Value::Integer(_) | Value::Number(_) => None,
                });
            }
        } else if is_integer {
            for (kept, value) in kept.iter_mut().zip(integers(column)) {
                *kept &= self.holds(false, |wanted| match wanted {
                    Value::Integer(wanted) => Some(value.cmp(wanted)),
                    Value::Number(wanted) => (value as f64).partial_cmp(wanted),
                    Value::Text(_) => None,
                });
            }
        } else {
            for (kept, value) in kept.iter_mut().zip(column.number_blocks(usize::MAX).flatten()) {
                *kept &= self.holds(value.is_nan(), |wanted| match wanted {
                    Value::Number(wanted) => value.partial_cmp(wanted),
                    Value::Integer(_) | Value::Text(_) => None,
                });
            }
        }
    }

    fn holds(&self, is_missing: bool, compare: impl Fn(&Value) -> Option<Ordering>) -> bool {
        match &self.condition {
            Condition::Is { missing } => is_missing == *missing,
            _ if is_missing => false,
            Condition::Compare(operator, value) => {
                compare(value).is_some_and(|ordering| operator.holds(ordering))
            }
            Condition::In(values) => values.iter().any(|value| compare(value) == Some(Ordering::Equal)),
        }
    }
}

impl Operator {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::Unequal => ordering.is_ne(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

/// The names in backticks, for a sentence.
pub(super) fn names(schema: &[ColumnSpec]) -> String {
    const NAMED_MAX: usize = 20;
    let named = schema.iter().take(NAMED_MAX).map(|spec| excerpt(spec.name.as_bytes()));
    let named = named.collect::<Vec<_>>().join(", ");
    match schema.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// The column that the text begins with, which may be in backticks, and what comes after it.
fn split_column<'s, 't>(text: &'t str, schema: &'s [ColumnSpec]) -> Option<(&'s ColumnSpec, &'t str)> {
    if let Some((name, rest)) = text.strip_prefix('`').and_then(|text| text.split_once('`')) {
        return Some((schema.iter().find(|spec| spec.name == name)?, rest));
    }
    let after = |spec: &ColumnSpec| {
        let rest = text.strip_prefix(spec.name.as_str())?;
        let ends = rest.starts_with(char::is_whitespace) || rest.starts_with(['=', '!', '<', '>']);
        (ends || rest.is_empty()).then_some(rest)
    };
    let found = schema.iter().filter_map(|spec| Some((spec, after(spec)?)));
    found.max_by_key(|(spec, _)| spec.name.len())
}

/// What comes after a word.
fn word<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    let rest = text.strip_prefix(word)?;
    rest.starts_with(|c: char| c.is_whitespace() || c == '[').then(|| rest.trim())
}

/// The values of `[A, B]`; commas in quotes belong to a value.
fn list(text: &str) -> Option<Vec<&str>> {
    let inside = text.strip_prefix('[')?.strip_suffix(']')?;
    let mut quote = None;
    let values: Vec<_> = inside
        .split(|c: char| {
            match quote {
                None if c == '"' || c == '\'' => quote = Some(c),
                Some(open) if c == open => quote = None,
                _ => {}
            }
            c == ',' && quote.is_none()
        })
        .collect();
    (values.len() <= VALUES_MAX && !inside.trim().is_empty()).then_some(values)
}

fn parse_value(text: &str, dtype: DataType) -> Option<Value> {
    match dtype {
        DataType::Bytes => {
            let quoted =
                ['"', '\''].into_iter().find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote));
            // Nothing would be a missing value, which is asked for otherwise.
            let text = quoted.unwrap_or(text);
            (!text.is_empty()).then(|| Value::Text(text.as_bytes().to_vec()))
        }
        DataType::Bool => match text {
            "true" | "1" => Some(Value::Integer(1)),
            "false" | "0" => Some(Value::Integer(0)),
            _ => None,
        },
        DataType::Fp16 | DataType::Fp32 | DataType::Fp64 => number(text),
        _ => text.parse().ok().map(Value::Integer).or_else(|| number(text)),
    }
}

fn number(text: &str) -> Option<Value> {
    text.parse().ok().filter(|number: &f64| !number.is_nan()).map(Value::Number)
}

fn expected(dtype: DataType) -> &'static str {
    match dtype {
        DataType::Bytes => "a text that is not empty",
        DataType::Bool => "true or false",
        _ => "a number",
    }
}

/// The elements of a column of integers or booleans.
fn integers(column: &Tensor) -> Vec<i128> {
    fn each<const N: usize>(data: &[u8], value: impl Fn([u8; N]) -> i128) -> Vec<i128> {
        data.as_chunks::<N>().0.iter().map(|bytes| value(*bytes)).collect()
    }
    let data = column.data();
    match column.dtype() {
        DataType::Uint16 => each(data, |bytes| u16::from_le_bytes(bytes).into()),
        DataType::Uint32 => each(data, |bytes| u32::from_le_bytes(bytes).into()),
        DataType::Uint64 => each(data, |bytes| u64::from_le_bytes(bytes).into()),
        DataType::Int8 => each(data, |bytes| i8::from_le_bytes(bytes).into()),
        DataType::Int16 => each(data, |bytes| i16::from_le_bytes(bytes).into()),
        DataType::Int32 => each(data, |bytes| i32::from_le_bytes(bytes).into()),
        DataType::Int64 => each(data, |bytes| i64::from_le_bytes(bytes).into()),
        _ => each(data, |[byte]| byte.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        let floats = |values: [f64; 4]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let integers = |values: [i64; 4]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Batch::new(vec![
            Tensor::new("x", DataType::Fp64, vec![4], floats([1.5, f64::NAN, -2.0, 0.0])).unwrap(),
            Tensor::new("x y", DataType::Uint8, vec![4], vec![1, 2, 3, 200]).unwrap(),
            Tensor::new("id", DataType::Int64, vec![4], integers([i64::MAX, i64::MAX - 1, -1, 0])).unwrap(),
            Tensor::new("flag", DataType::Bool, vec![4, 1], vec![1, 0, 1, 0]).unwrap(),
            Tensor::from_strings("city", [&b"Ulm"[..], b"", b"Bad Aibling, Markt", b"Aalen"]).unwrap(),
            Tensor::new("half", DataType::Fp16, vec![4], vec![0, 0x3c, 0, 0xc0, 0, 0, 0, 0x7e]).unwrap(),
            Tensor::new("image", DataType::Uint8, vec![4, 2, 2], vec![0; 16]).unwrap(),
        ])
        .unwrap()
    }

    fn kept(text: &str) -> Vec<usize> {
        let batch = batch();
        let filter = Filter::parse(text, &ColumnSpec::of_batch(&batch)).unwrap();
        let mut kept = vec![true; 4];
        filter.apply(&batch, &mut kept);
        (0..4).filter(|row| kept[*row]).collect()
    }

    fn refusal(text: &str) -> String {
        Filter::parse(text, &ColumnSpec::of_batch(&batch())).unwrap_err().to_string()
    }

    #[test]
    fn every_operator_on_numbers() {
        assert_eq!(kept("x == 1.5"), [0]);
        assert_eq!(kept("x != 1.5"), [2, 3], "a missing value is not unequal");
        assert_eq!(kept("x<0"), [2]);
        assert_eq!(kept("x <= 0"), [2, 3]);
        assert_eq!(kept("x > -2"), [0, 3]);
        assert_eq!(kept("  x >= -2e0 "), [0, 2, 3]);
        assert_eq!(kept("x in [0, 1.5, 7]"), [0, 3]);
        assert_eq!(kept("x is missing"), [1]);
        assert_eq!(kept("x is present"), [0, 2, 3]);
        assert_eq!(kept("x y in [2,200]"), [1, 3], "the longest name that fits");
        assert_eq!(kept("x y > 2.5"), [2, 3]);
        assert!(kept("x y == -1").is_empty());
        assert_eq!(kept("half >= -2"), [0, 1, 2]);
        assert_eq!(kept("half is missing"), [3]);
        assert_eq!(kept("flag == true"), [0, 2]);
        assert_eq!(kept("flag != true"), [1, 3]);
    }

    #[test]
    fn large_integers_are_compared_exactly() {
        assert_eq!(kept("id == 9223372036854775807"), [0]);
        assert_eq!(kept("id < 9223372036854775807"), [1, 2, 3]);
        assert_eq!(kept("id < 9223372036854775808"), [0, 1, 2, 3]);
        assert_eq!(kept("id > -0.5"), [0, 1, 3]);
        assert_eq!(kept("id is present"), [0, 1, 2, 3]);
    }

    #[test]
    fn text_is_compared_as_it_is() {
        assert_eq!(kept("city == Ulm"), [0]);
        assert_eq!(kept("city == 'Ulm'"), [0]);
        assert_eq!(kept("city == Bad Aibling, Markt"), [2]);
        assert_eq!(kept(r#"city in [Ulm, "Bad Aibling, Markt"]"#), [0, 2]);
        assert_eq!(kept("`city`!=Ulm"), [2, 3]);
        assert_eq!(kept("city < B"), [3]);
        assert_eq!(kept("city is missing"), [1]);
    }

    #[test]
    fn refuses_in_one_sentence() {
        assert_eq!(
            refusal("width > 1"),
            "filter `width > 1`: there is no such column: there are `x`, `x y`, `id`, `flag`, `city`, `half`, `image`"
        );
        assert_eq!(
            refusal("image == 1"),
            "filter `image == 1`: column `image` has rows of 2 × 2: expected one value a row"
        );
        assert_eq!(
            refusal("x = 1"),
            "filter `x = 1`: expected ==, !=, <, <=, >, >=, in [A, B], `is present` or `is missing` after column `x`"
        );
        assert_eq!(
            refusal("x > tall"),
            "filter `x > tall`: column `x` is FP64: expected a number, found `tall`"
        );
        assert_eq!(
            refusal("flag == 2"),
            "filter `flag == 2`: column `flag` is BOOL: expected true or false, found `2`"
        );
        for text in
            ["", "x", "x is", "x is there", "x in", "x in []", "x in [1", "x in 1, 2", "x ~ 1", "x isnt 1"]
        {
            refusal(text);
        }
        for text in ["x == ", "x == nan", "x y == 1x", "city == ''", "x in [1,]", "flag == yes"] {
            assert!(refusal(text).contains("expected"), "{text}");
        }
    }
}
