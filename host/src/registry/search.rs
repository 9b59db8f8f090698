//! Finds models and versions by MLflow's filter grammar, read as tracking reads it.

use serde::Deserialize;
use sqlx::any::AnyRow;

use super::Registry;
use super::entities::{
    MODEL_COLUMNS, ModelVersion, RegisteredModel, VERSION_COLUMNS, model_version, registered_model,
};
use super::model_versions::PROMPT_TAG;
use crate::store::Dialect;
use crate::track::search::bindings::{Bindings, invalid_comparator, sql_operator};
use crate::track::search::filter::{Clause, Comparator, Entity, Operand};
use crate::track::search::order::parse_order;
use crate::track::search::{checked_filter, window};
use crate::track::{Page, TrackError};

/// Models and versions of a page, where nobody says how many, and at most.
const MODELS_DEFAULT: usize = 100;
const MODELS_MAX: usize = 1_000;
const VERSIONS_DEFAULT: usize = 10_000;
const VERSIONS_MAX: usize = 200_000;

/// What a search looks for; a default one finds everything but prompts.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RegistrySearch {
    /// Clauses joined by `AND`.
    #[serde(default, deserialize_with = "crate::track::rest::fields::or_default")]
    pub filter: String,
    /// Keys with `ASC` or `DESC`.
    #[serde(default, deserialize_with = "crate::track::rest::fields::texts")]
    pub order_by: Vec<String>,
    /// Where the page starts, from the page before.
    #[serde(default, deserialize_with = "crate::track::rest::fields::or_default")]
    pub page_token: String,
    /// Results of a page.
    #[serde(default, deserialize_with = "crate::track::rest::fields::opt_int")]
    pub max_results: Option<i64>,
}

/// What is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Models,
    Versions,
}

/// The column of an attribute, and how it can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attribute {
    Text(&'static str),
    /// Text that may be one of a list.
    Listed(&'static str),
    Integer(&'static str),
}

impl Subject {
    fn attribute(self, key: &str) -> Result<Attribute, TrackError> {
        use Attribute::{Integer, Listed, Text};
        Ok(match (self, key) {
            (_, "name") => Listed("m.name"),
            (Self::Versions, "run_id") => Listed("v.run_id"),
            (Self::Versions, "source_path") => Text("v.source"),
            (Self::Versions, "version_number") => Integer("v.number"),
            _ => {
                let key: String = key.chars().take(100).collect();
                let valid = match self {
                    Self::Models => "name",
                    Self::Versions => "name, version_number, run_id, source_path",
                };
                return Err(TrackError::invalid(format!(
                    "Invalid attribute key '{key}' specified. Valid keys are: {valid}"
                )));
            }
        })
    }

    fn order_column(self, key: &str) -> Result<&'static str, TrackError> {
        Ok(match (self, key) {
            (_, "name") => "m.name",
            (Self::Versions, "version_number") => "v.number",
            (Self::Versions, "creation_timestamp") => "v.created_at",
            (Self::Versions, "last_updated_timestamp") => "v.updated_at",
            (Self::Models, "creation_timestamp") => "m.created_at",
            (Self::Models, "last_updated_timestamp" | "timestamp") => "m.updated_at",
            _ => {
                let key: String = key.chars().take(100).collect();
                let valid = match self {
                    Self::Models => "name, creation_timestamp, last_updated_timestamp",
                    Self::Versions => "name, version_number, creation_timestamp, last_updated_timestamp",
                };
                return Err(TrackError::invalid(format!(
                    "Invalid order by key '{key}' specified. Valid keys are: {valid}"
                )));
            }
        })
    }

    /// Table of tags with its condition on the row that is looked at.
    fn tags(self) -> &'static str {
        match self {
            Self::Models => "registered_model_tags t WHERE t.model = m.id",
            Self::Versions => "model_version_tags t WHERE t.version = v.id",
        }
    }

    /// The order that `order_by` asks for, made certain by what tells any two results apart.
    fn order(self, order_by: &[String]) -> Result<String, TrackError> {
        let mut order = Vec::new();
        for key in parse_order(order_by)? {
            if key.entity != Entity::Attribute {
                return Err(TrackError::invalid(format!("Invalid order_by entity of '{}'", key.key)));
            }
            let column = self.order_column(&key.key)?;
            order.push(format!("{column} {}", if key.ascending { "ASC" } else { "DESC" }));
        }
        if order.is_empty() && self == Self::Versions {
            order.push("v.updated_at DESC".to_owned());
        }
        let orders_by = |order: &[String], column: &str| {
            order.iter().any(|key| key.split(' ').next().is_some_and(|found| found == column))
        };
        if !orders_by(&order, "m.name") {
            order.push("m.name ASC".to_owned());
        }
        if self == Self::Versions && !orders_by(&order, "v.number") {
            order.push("v.number DESC".to_owned());
        }
        Ok(order.join(", "))
    }
}

/// Conditions of a search, and their values.
struct Conditions {
    subject: Subject,
    sql: Vec<String>,
    values: Bindings,
}

impl Conditions {
    fn new(subject: Subject, dialect: Dialect, filter: &str) -> Result<Self, TrackError> {
        let mut conditions = Self { subject, sql: Vec::new(), values: Bindings::new(dialect) };
        let mut wants_prompts = false;
        for clause in checked_filter(filter)? {
            match asks_for_prompts(&clause) {
                Some(wanted) => wants_prompts |= wanted,
                None => conditions.add(&clause)?,
            }
        }
        let tags = subject.tags();
        let not = if wants_prompts { "" } else { "NOT " };
        let key = conditions.values.text(PROMPT_TAG);
        let value = conditions.values.text("true");
        conditions
            .sql
            .push(format!("{not}EXISTS (SELECT 1 FROM {tags} AND t.key = {key} AND t.value = {value})"));
        Ok(conditions)
    }

    fn add(&mut self, clause: &Clause) -> Result<(), TrackError> {
        let is_list = matches!(clause.comparator, Comparator::In | Comparator::NotIn);
        let condition = match clause.entity {
            Entity::Tag if is_list => return Err(invalid_comparator(clause)),
            Entity::Tag => {
                let key = self.values.text(&clause.key);
                let value = self.values.compare_text("t.value", clause)?;
                format!("EXISTS (SELECT 1 FROM {} AND t.key = {key} AND {value})", self.subject.tags())
            }
            Entity::Attribute => match self.subject.attribute(&clause.key)? {
                Attribute::Text(_) if is_list => return Err(invalid_comparator(clause)),
                Attribute::Text(column) | Attribute::Listed(column) => {
                    self.values.compare_text(column, clause)?
                }
                Attribute::Integer(column) => self.compare_integer(column, clause)?,
            },
            _ => {
                return Err(TrackError::invalid(
                    "Invalid entity type. Valid entity types are ('attribute', 'tag', 'tags')",
                ));
            }
        };
        self.sql.push(condition);
        Ok(())
    }

    fn compare_integer(&mut self, column: &str, clause: &Clause) -> Result<String, TrackError> {
        let Comparator::Order(operator) = clause.comparator else { return Err(invalid_comparator(clause)) };
        let value = match &clause.operand {
            Operand::Number(text) | Operand::Text(text) => text.parse::<i64>().ok(),
            _ => None,
        };
        let value = value.ok_or_else(|| {
            TrackError::invalid(format!("Invalid value for numeric attribute '{}'", clause.key))
        })?;
        Ok(format!("{column} {} {}", sql_operator(operator), self.values.integer(value)))
    }

    async fn fetch(
        mut self,
        registry: &Registry,
        order_by: &[String],
        (offset, limit): (usize, usize),
    ) -> Result<Vec<AnyRow>, TrackError> {
        let (columns, from) = match self.subject {
            Subject::Models => (MODEL_COLUMNS, "registered_models m"),
            Subject::Versions => {
                (VERSION_COLUMNS, "model_versions v JOIN registered_models m ON m.id = v.model")
            }
        };
        let order = self.subject.order(order_by)?;
        let limit = self.values.integer(limit as i64);
        let offset = self.values.integer(offset as i64);
        let sql = format!(
            "SELECT {columns} FROM {from} WHERE {} ORDER BY {order} LIMIT {limit} OFFSET {offset}",
            self.sql.join(" AND ")
        );
        self.values.fetch_all(registry.database().readers(), sql).await
    }
}

/// Whether a clause is about being a prompt, and then whether prompts are wanted. Models have no such tag, so that
/// comparing it finds none of them.
fn asks_for_prompts(clause: &Clause) -> Option<bool> {
    let Operand::Text(value) = &clause.operand else { return None };
    match clause.comparator {
        _ if clause.entity != Entity::Tag || clause.key != PROMPT_TAG => None,
        Comparator::Order("=") => Some(value.eq_ignore_ascii_case("true")),
        Comparator::Order("!=") => Some(value.eq_ignore_ascii_case("false")),
        _ => None,
    }
}

impl Registry {
    /// Finds models; without another order by name.
    pub async fn search_models(&self, search: RegistrySearch) -> Result<Page<RegisteredModel>, TrackError> {
        let (offset, limit) = window(&search.page_token, search.max_results, MODELS_DEFAULT, MODELS_MAX)?;
        let conditions = Conditions::new(Subject::Models, self.database().dialect(), &search.filter)?;
        let rows = conditions.fetch(self, &search.order_by, (offset, limit + 1)).await?;
        let found = rows.iter().take(limit).map(registered_model).collect::<Result<Vec<_>, _>>()?;
        let next_page_token = (rows.len() > limit).then(|| (offset + limit).to_string());
        Ok(Page { found: self.with_model_details(found).await?, next_page_token })
    }

    /// Finds versions; without another order the ones that changed last come first.
    pub async fn search_versions(&self, search: RegistrySearch) -> Result<Page<ModelVersion>, TrackError> {
        let (offset, limit) = window(&search.page_token, search.max_results, VERSIONS_DEFAULT, VERSIONS_MAX)?;
        let conditions = Conditions::new(Subject::Versions, self.database().dialect(), &search.filter)?;
        let rows = conditions.fetch(self, &search.order_by, (offset, limit + 1)).await?;
        let found = rows.iter().take(limit).map(model_version).collect::<Result<Vec<_>, _>>()?;
        let next_page_token = (rows.len() > limit).then(|| (offset + limit).to_string());
        Ok(Page { found: self.with_version_details(found).await?, next_page_token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_certain() {
        let order = |subject: Subject, by: &[&str]| {
            subject.order(&by.iter().map(|&key| key.into()).collect::<Vec<_>>())
        };
        assert_eq!(order(Subject::Models, &[]).unwrap(), "m.name ASC");
        assert_eq!(order(Subject::Models, &["name DESC"]).unwrap(), "m.name DESC");
        assert_eq!(order(Subject::Versions, &[]).unwrap(), "v.updated_at DESC, m.name ASC, v.number DESC");
        assert_eq!(order(Subject::Versions, &["version_number ASC"]).unwrap(), "v.number ASC, m.name ASC");
        for by in [["tags.a"], ["run_id"], ["name; DROP TABLE runs"], ["metrics.a DESC"]] {
            assert!(order(Subject::Versions, &by).is_err(), "{by:?}");
        }
    }

    #[test]
    fn filters_hold_no_value_in_their_text() {
        let conditions = Conditions::new(
            Subject::Versions,
            Dialect::Postgres,
            "name = 'x''; --' AND tags.a LIKE '%b%' AND version_number > 2",
        )
        .unwrap();
        assert_eq!(
            conditions.sql[..3],
            [
                "m.name = $1",
                "EXISTS (SELECT 1 FROM model_version_tags t WHERE t.version = v.id AND t.key = $2 AND t.value LIKE \
                 $3 ESCAPE '\u{1}')",
                "v.number > $4",
            ]
        );
        for filter in [
            "run_id = 'x'",
            "name = 1",
            "metrics.a > 1",
            "params.a = 'b'",
            "name > 'a'",
            "tags.a IN ('b')",
            "name IS NULL",
            "aliases.a = 'b'",
            "name = 'a' OR name = 'b'",
        ] {
            assert!(Conditions::new(Subject::Models, Dialect::Postgres, filter).is_err(), "{filter}");
        }
        for filter in ["version_number = 1.5", "version_number LIKE '1'", "source_path IN ('a')"] {
            assert!(Conditions::new(Subject::Versions, Dialect::Postgres, filter).is_err(), "{filter}");
        }
    }
}
