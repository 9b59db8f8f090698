//! Values that came from outside, and the conditions they stand in: text of SQL never holds one.

use sqlx::AnyPool;
use sqlx::any::AnyRow;

use super::super::TrackError;
use super::filter::{Clause, Comparator, Operand};
use crate::store::Dialect;

/// Escape character of patterns: none that a filter can contain, so that a backslash means itself.
const NO_ESCAPE: char = '\u{1}';

/// Longest pattern, which is SQLite's limit.
const PATTERN_MAX_BYTES: usize = 50_000;

/// Values of a search at most, of all clauses and experiments together; SQLite's limit is 32,766.
const VALUES_MAX: usize = 32_000;

/// A value that came from outside.
#[derive(Debug, Clone)]
enum Bound {
    Text(String),
    Integer(i64),
    Float(f64),
}

/// The values of a statement, in the order of its placeholders.
#[derive(Debug)]
pub(crate) struct Bindings {
    dialect: Dialect,
    values: Vec<Bound>,
}

impl Bindings {
    /// No values, for a statement of this database.
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self { dialect, values: Vec::new() }
    }

    fn bind(&mut self, value: Bound) -> String {
        self.values.push(value);
        // To SQLite `$1` is a name, and finding one among thousands is slow.
        let sign = match self.dialect {
            Dialect::Sqlite => '?',
            Dialect::Postgres => '$',
        };
        format!("{sign}{}", self.values.len())
    }

    /// The placeholder of a text.
    pub(crate) fn text(&mut self, text: &str) -> String {
        self.bind(Bound::Text(text.to_owned()))
    }

    /// The placeholder of an integer.
    pub(crate) fn integer(&mut self, value: i64) -> String {
        self.bind(Bound::Integer(value))
    }

    /// The placeholder of a float.
    pub(crate) fn float(&mut self, value: f64) -> String {
        self.bind(Bound::Float(value))
    }

    /// The placeholder of a number, an integer where it is one.
    pub(crate) fn number(&mut self, value: f64) -> String {
        self.bind(whole_or_float(value))
    }

    /// A condition on a column of text.
    pub(crate) fn compare_text(&mut self, column: &str, clause: &Clause) -> Result<String, TrackError> {
        let wrong = || {
            TrackError::invalid(format!(
                "Expected a quoted string value for '{}' (e.g. 'my-value').",
                clause.key.chars().take(100).collect::<String>()
            ))
        };
        match (clause.comparator, &clause.operand) {
            (Comparator::Order(operator @ ("=" | "!=")), Operand::Text(text)) => {
                let place = self.text(text);
                Ok(format!("{column} {} {place}", sql_operator(operator)))
            }
            (Comparator::Like | Comparator::ILike, Operand::Text(text)) => {
                if text.contains(NO_ESCAPE) {
                    return Err(wrong());
                }
                if text.len() > PATTERN_MAX_BYTES {
                    return Err(TrackError::invalid(format!(
                        "A pattern can have at most {PATTERN_MAX_BYTES} bytes"
                    )));
                }
                let is_exact = clause.comparator == Comparator::Like;
                let place = self.text(text);
                let (left, right) = match is_exact {
                    true => (column.to_owned(), place),
                    false => (format!("LOWER({column})"), format!("LOWER({place})")),
                };
                Ok(format!("{left} LIKE {right} ESCAPE '{NO_ESCAPE}'"))
            }
            (Comparator::In | Comparator::NotIn, Operand::List(values)) => {
                let places: Vec<String> = values.iter().map(|value| self.text(value)).collect();
                let not = if clause.comparator == Comparator::NotIn { "NOT " } else { "" };
                Ok(format!("{column} {not}IN ({})", places.join(",")))
            }
            (Comparator::Order("=" | "!="), _) => Err(wrong()),
            _ => Err(invalid_comparator(clause)),
        }
    }

    /// Runs a statement.
    pub(crate) async fn fetch_all(self, readers: &AnyPool, sql: String) -> Result<Vec<AnyRow>, TrackError> {
        if self.values.len() > VALUES_MAX {
            return Err(TrackError::invalid(format!("A search can name at most {VALUES_MAX} values")));
        }
        let query =
            self.values.into_iter().fold(sqlx::query(sqlx::AssertSqlSafe(sql)), |query, value| match value {
                Bound::Text(text) => query.bind(text),
                Bound::Integer(integer) => query.bind(integer),
                Bound::Float(float) => query.bind(float),
            });
        Ok(query.fetch_all(readers).await?)
    }
}

/// SQL's word for an operator of a filter.
pub(crate) fn sql_operator(operator: &'static str) -> &'static str {
    if operator == "!=" { "<>" } else { operator }
}

fn whole_or_float(value: f64) -> Bound {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        Bound::Integer(value as i64)
    } else {
        Bound::Float(value)
    }
}

/// A comparison that a key has not.
pub(crate) fn invalid_comparator(clause: &Clause) -> TrackError {
    let key: String = clause.key.chars().take(100).collect();
    TrackError::invalid(format!(
        "Invalid comparator for '{key}': {:?} cannot be used there",
        clause.comparator
    ))
}
