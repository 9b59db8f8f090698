use super::super::TrackError;
use super::lexer::{Token, Word, tokens};

/// Clauses of a filter at most.
const CLAUSES_MAX: usize = 50;

/// What a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Entity {
    Attribute,
    Metric,
    Param,
    Tag,
    Dataset,
}

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparator {
    /// `=`, `!=`, `<`, `<=`, `>`, `>=`.
    Order(&'static str),
    Like,
    ILike,
    In,
    NotIn,
    IsNull,
    IsNotNull,
}

/// What a key is compared with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    None,
    Text(String),
    Number(String),
    List(Vec<String>),
}

/// One clause of a filter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Clause {
    pub(crate) entity: Entity,
    pub(crate) key: String,
    pub(crate) comparator: Comparator,
    pub(crate) operand: Operand,
}

/// Reads a filter; an empty one has no clauses.
pub(super) fn parse_filter(text: &str) -> Result<Vec<Clause>, TrackError> {
    let tokens = tokens(text)?;
    let mut rest = tokens.as_slice();
    let mut clauses = Vec::new();
    while !rest.is_empty() {
        if !clauses.is_empty() {
            match rest.split_first() {
                Some((Token::Word(word), after)) if word.is_keyword("AND") => rest = after,
                _ => return Err(invalid("clauses are joined by AND")),
            }
        }
        let (clause, after) = parse_clause(rest)?;
        clauses.push(clause);
        rest = after;
        if clauses.len() > CLAUSES_MAX {
            return Err(TrackError::invalid(format!("A filter can have at most {CLAUSES_MAX} clauses")));
        }
    }
    Ok(clauses)
}

/// What a name such as `metrics.loss` names; without an entity it is an attribute.
pub(super) fn entity_of(word: &Word) -> Result<(Entity, String), TrackError> {
    let Some(entity) = &word.entity else { return Ok((Entity::Attribute, word.key.clone())) };
    let entity = match entity.as_str() {
        "metric" | "metrics" => Entity::Metric,
        "parameter" | "parameters" | "param" | "params" => Entity::Param,
        "tag" | "tags" => Entity::Tag,
        "attribute" | "attributes" | "attr" | "run" => Entity::Attribute,
        "dataset" | "datasets" => Entity::Dataset,
        other => {
            let other: String = other.chars().take(100).collect();
            return Err(TrackError::invalid(format!(
                "Invalid entity type '{other}'. Valid values are ['metric', 'parameter', 'tag', 'attribute', \
                 'dataset']"
            )));
        }
    };
    Ok((entity, word.key.clone()))
}

fn parse_clause(tokens: &[Token]) -> Result<(Clause, &[Token]), TrackError> {
    let Some((Token::Word(name), rest)) = tokens.split_first() else {
        return Err(invalid("a clause starts with a name, such as metrics.loss"));
    };
    let (entity, key) = entity_of(name)?;
    let (comparator, rest) = parse_comparator(rest)?;
    let (operand, rest) = match comparator {
        Comparator::IsNull | Comparator::IsNotNull => (Operand::None, rest),
        Comparator::In | Comparator::NotIn => parse_list(rest)?,
        _ => match rest.split_first() {
            Some((Token::Text(text), rest)) => (Operand::Text(text.clone()), rest),
            Some((Token::Number(number), rest)) => (Operand::Number(number.clone()), rest),
            Some((Token::Word(word), rest)) if word.entity.is_none() && word.is_quoted() => {
                (Operand::Text(word.key.clone()), rest)
            }
            _ => return Err(invalid("a comparison needs a number or a quoted string value")),
        },
    };
    Ok((Clause { entity, key, comparator, operand }, rest))
}

fn parse_comparator(tokens: &[Token]) -> Result<(Comparator, &[Token]), TrackError> {
    let keywords: [(&[&str], Comparator); 6] = [
        (&["NOT", "IN"], Comparator::NotIn),
        (&["IN"], Comparator::In),
        (&["LIKE"], Comparator::Like),
        (&["ILIKE"], Comparator::ILike),
        (&["IS", "NOT", "NULL"], Comparator::IsNotNull),
        (&["IS", "NULL"], Comparator::IsNull),
    ];
    if let Some((Token::Operator(operator), rest)) = tokens.split_first() {
        return Ok((Comparator::Order(operator), rest));
    }
    for (words, comparator) in keywords {
        let Some((found, rest)) = tokens.split_at_checked(words.len()) else { continue };
        let is_so =
            |(token, word): (&Token, &&str)| matches!(token, Token::Word(found) if found.is_keyword(word));
        if found.iter().zip(words).all(is_so) {
            return Ok((comparator, rest));
        }
    }
    Err(invalid("a name is followed by =, !=, <, <=, >, >=, LIKE, ILIKE, IN, NOT IN, IS NULL or IS NOT NULL"))
}

fn parse_list(tokens: &[Token]) -> Result<(Operand, &[Token]), TrackError> {
    let wrong = || invalid("a list looks like ('a', 'b')");
    let Some((Token::Open, mut rest)) = tokens.split_first() else { return Err(wrong()) };
    let mut values = Vec::new();
    loop {
        let value = match rest.split_first() {
            Some((Token::Text(text), _)) => text.clone(),
            Some((Token::Word(word), _)) if word.entity.is_none() && word.is_quoted() => word.key.clone(),
            _ => return Err(wrong()),
        };
        values.push(value);
        match rest.get(1..).and_then(<[Token]>::split_first) {
            // A list of one is written with a comma at its end by programs in Python.
            Some((Token::Comma, [Token::Close, after @ ..])) => return Ok((Operand::List(values), after)),
            Some((Token::Comma, after)) => rest = after,
            Some((Token::Close, after)) => return Ok((Operand::List(values), after)),
            _ => return Err(wrong()),
        }
    }
}

fn invalid(why: &str) -> TrackError {
    TrackError::invalid(format!("Invalid clause(s) in filter string: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clause(text: &str) -> Clause {
        parse_filter(text).unwrap().remove(0)
    }

    #[test]
    fn reads_every_kind_of_clause() {
        let of = |entity, key: &str, comparator, operand| Clause {
            entity,
            key: key.to_owned(),
            comparator,
            operand,
        };
        let text = |text: &str| Operand::Text(text.to_owned());
        assert_eq!(
            clause("metrics.loss < 0.5"),
            of(Entity::Metric, "loss", Comparator::Order("<"), Operand::Number("0.5".to_owned()))
        );
        assert_eq!(
            clause("params.\"max depth\" = \"6\""),
            of(Entity::Param, "max depth", Comparator::Order("="), text("6"))
        );
        assert_eq!(
            clause("tags.`mlflow.source.name` ilike '%x%'"),
            of(Entity::Tag, "mlflow.source.name", Comparator::ILike, text("%x%"))
        );
        assert_eq!(
            clause("status = 'FINISHED'"),
            of(Entity::Attribute, "status", Comparator::Order("="), text("FINISHED"))
        );
        let list = Operand::List(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(
            clause("attributes.run_id NOT IN ('a', 'b')"),
            of(Entity::Attribute, "run_id", Comparator::NotIn, list)
        );
        let one = Operand::List(vec!["a".to_owned()]);
        assert_eq!(clause("run_id IN ('a',)"), of(Entity::Attribute, "run_id", Comparator::In, one));
        assert_eq!(clause("tags.x IS NOT NULL"), of(Entity::Tag, "x", Comparator::IsNotNull, Operand::None));
        assert_eq!(parse_filter("metrics.a > 1 and params.b = 'c' AND tags.d != 'e'").unwrap().len(), 3);
        assert!(parse_filter("  ").unwrap().is_empty());
    }

    #[test]
    fn refuses_other_text() {
        for text in [
            "metrics.a",
            "metrics.a >",
            "> 1",
            "metrics.a > 1 OR metrics.b > 1",
            "metrics.a > 1 metrics.b > 1",
            "other.a = 'b'",
            "tags.a = b",
            "tags.a IN ()",
            "tags.a IN (,)",
            "tags.a IN ('b',,)",
            "tags.a IN ('b'",
            "tags.a IN ('b' 'c')",
            "AND",
            "metrics.a > 1 AND",
            "tags.a IS",
            "tags.a = (",
            "1 = 1",
        ] {
            assert!(parse_filter(text).is_err(), "{text}");
        }
    }
}
