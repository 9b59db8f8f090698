use std::borrow::{Borrow, Cow};
use std::collections::BTreeSet;
use std::fmt::Display;

use mlops_plugin::{DataType, Error, Tensor};
use serde::{Deserialize, Serialize};

use crate::Unknown;

/// The categories of a column, sorted and unique.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Categories {
    /// Of a BYTES column.
    Text(Vec<String>),
    /// Of an integer or BOOL column; its width does not matter.
    Integer(Vec<i64>),
}

impl Categories {
    /// Number of categories.
    #[expect(clippy::len_without_is_empty, reason = "what was learned from rows is never empty")]
    pub fn len(&self) -> usize {
        match self {
            Self::Text(categories) => categories.len(),
            Self::Integer(categories) => categories.len(),
        }
    }

    pub(crate) fn are_sorted(&self) -> bool {
        match self {
            Self::Text(categories) => categories.is_sorted_by(|one, other| one < other),
            Self::Integer(categories) => categories.is_sorted_by(|one, other| one < other),
        }
    }

    /// The categories of `tensor` together with those `known` before, `count_max` at most.
    pub(crate) fn learn(known: Option<&Self>, tensor: &Tensor, count_max: usize) -> Result<Self, Error> {
        match (known, tensor.dtype()) {
            (None, DataType::Bytes) => union(&[], texts(tensor)?, tensor, count_max).map(Self::Text),
            (None, dtype) if dtype.is_integer() => {
                union(&[], integers(tensor)?, tensor, count_max).map(Self::Integer)
            }
            (None, dtype) => {
                let message = format!("expected BYTES or integers, found {dtype}");
                Err(Error::invalid_input(message).column(tensor.name()))
            }
            (Some(Self::Text(known)), _) => union(known, texts(tensor)?, tensor, count_max).map(Self::Text),
            (Some(Self::Integer(known)), _) => {
                union(known, integers(tensor)?, tensor, count_max).map(Self::Integer)
            }
        }
    }

    /// Index of the category of each row; none where it is unknown and that is no error.
    pub(crate) fn find(&self, tensor: &Tensor, unknown: Unknown) -> Result<Vec<Option<usize>>, Error> {
        match self {
            Self::Text(known) => positions(known, texts(tensor)?, tensor, unknown),
            Self::Integer(known) => positions(known, integers(tensor)?, tensor, unknown),
        }
    }
}

fn texts(tensor: &Tensor) -> Result<Vec<Cow<'_, str>>, Error> {
    let text = |(row, bytes)| match str::from_utf8(bytes) {
        Ok(text) => Ok(Cow::Borrowed(text)),
        Err(_) => {
            Err(Error::invalid_input("expected UTF-8 text, found other bytes").row(row).column(tensor.name()))
        }
    };
    tensor.byte_strings()?.enumerate().map(text).collect()
}

fn integers(tensor: &Tensor) -> Result<Vec<Cow<'_, i64>>, Error> {
    Ok(tensor.to_i64()?.iter().map(|&value| Cow::Owned(value)).collect())
}

fn union<Value>(
    known: &[Value::Owned],
    values: Vec<Cow<'_, Value>>,
    tensor: &Tensor,
    count_max: usize,
) -> Result<Vec<Value::Owned>, Error>
where
    Value: ToOwned<Owned: Ord + Clone + Display> + Ord + Display + ?Sized,
{
    let mut categories: BTreeSet<Value::Owned> = known.iter().cloned().collect();
    for (row, value) in values.into_iter().enumerate() {
        if categories.contains::<Value>(value.borrow()) {
            continue;
        }
        if categories.len() == count_max {
            let message = format!("expected at most {count_max} categories, found `{value}` beyond them");
            return Err(Error::invalid_input(message).row(row).column(tensor.name()));
        }
        categories.insert(value.into_owned());
    }
    Ok(categories.into_iter().collect())
}

fn positions<Value>(
    known: &[Value::Owned],
    values: Vec<Cow<'_, Value>>,
    tensor: &Tensor,
    unknown: Unknown,
) -> Result<Vec<Option<usize>>, Error>
where
    Value: ToOwned<Owned: Display> + Ord + Display + ?Sized,
{
    let position = |(row, value): (usize, Cow<'_, Value>)| match (
        known.binary_search_by(|category| category.borrow().cmp(&value)),
        unknown,
    ) {
        (Ok(index), _) => Ok(Some(index)),
        (Err(_), Unknown::Ignore) => Ok(None),
        (Err(_), Unknown::Error) => {
            let message = format!("expected a category of the training data, found `{value}`");
            Err(Error::invalid_input(message).row(row).column(tensor.name()))
        }
    };
    values.into_iter().enumerate().map(position).collect()
}
