use std::collections::HashSet;

use super::super::TrackError;
use super::super::names::check_text;
use super::filter::{Entity, entity_of};
use super::lexer::{Token, tokens};

/// Keys of an order at most.
const KEYS_MAX: usize = 20;

/// A key that results are sorted by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OrderKey {
    pub(crate) entity: Entity,
    pub(crate) key: String,
    pub(crate) ascending: bool,
}

/// Reads keys such as `metrics.loss DESC`, each of which comes once.
pub(crate) fn parse_order(order_by: &[String]) -> Result<Vec<OrderKey>, TrackError> {
    let keys = parse_keys(order_by)?;
    let mut names = HashSet::with_capacity(keys.len());
    match keys.iter().find(|key| !names.insert((key.entity, key.key.as_str()))) {
        Some(twice) => {
            let key: String = twice.key.chars().take(200).collect();
            Err(TrackError::invalid(format!("`order_by` contains duplicate fields: {key}")))
        }
        None => Ok(keys),
    }
}

/// Like [`parse_order`], where a key may come again, as a metric on another dataset does.
pub(super) fn parse_keys(order_by: &[String]) -> Result<Vec<OrderKey>, TrackError> {
    if order_by.len() > KEYS_MAX {
        return Err(TrackError::invalid(format!("An order can have at most {KEYS_MAX} keys")));
    }
    order_by.iter().map(|text| parse_key(text)).collect()
}

fn parse_key(text: &str) -> Result<OrderKey, TrackError> {
    let wrong = || {
        let text: String = text.chars().take(200).collect();
        TrackError::invalid(format!("Invalid order_by clause '{text}'. Could not be parsed."))
    };
    check_text("order_by", text)?;
    let tokens = tokens(text).map_err(|_| wrong())?;
    let (Some(Token::Word(name)), direction) = (tokens.first(), tokens.get(1..).unwrap_or_default()) else {
        return Err(wrong());
    };
    let ascending = match direction {
        [] => true,
        [Token::Word(word)] if word.is_keyword("ASC") => true,
        [Token::Word(word)] if word.is_keyword("DESC") => false,
        _ => return Err(wrong()),
    };
    let (entity, key) = entity_of(name)?;
    Ok(OrderKey { entity, key, ascending })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_keys_with_directions() {
        let keys = parse_order(&["metrics.`a b` DESC".to_owned(), "start_time".to_owned()]).unwrap();
        assert_eq!(
            keys,
            [
                OrderKey { entity: Entity::Metric, key: "a b".to_owned(), ascending: false },
                OrderKey { entity: Entity::Attribute, key: "start_time".to_owned(), ascending: true },
            ]
        );
        for text in
            ["", "metrics.a DOWN", "metrics.a DESC x", "1", "metrics.a, metrics.b", "other.a", "tags.`a\0`"]
        {
            assert!(parse_order(&[text.to_owned()]).is_err(), "{text}");
        }
        assert!(parse_order(&["metrics.a".to_owned(), "metric.a DESC".to_owned()]).is_err());
    }
}
