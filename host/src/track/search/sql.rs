use std::collections::{HashMap, HashSet};

use sqlx::AnyPool;
use sqlx::any::AnyRow;

use super::super::logged_models::LoggedModelStatus;
use super::super::{TrackError, ViewType};
use super::DatasetFilter;
use super::bindings::{Bindings, invalid_comparator, sql_operator};
use super::filter::{Clause, Comparator, Entity, Operand};
use super::order::OrderKey;
use crate::store::Dialect;

/// What is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Runs,
    Experiments,
    Models,
}

/// What kind of value an attribute has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AttributeKind {
    Text,
    Integer,
    /// The number of a logged model's status.
    Status,
}

/// Metrics, parameters and tags whose tables are joined, so that an index of their values can be used; others are looked up
/// for each result. With more PostgreSQL plans for seconds, and SQLite joins no more than 64.
const JOINS_MAX: usize = 8;

/// A metric, parameter or tag of a result, in terms of SQL.
#[derive(Debug, Clone)]
struct LookedUp {
    /// Its value: null where it is not there, and where a metric is no number.
    value: String,
    /// The condition that it is there.
    is_there: String,
}

/// A `SELECT` that is being put together.
pub(super) struct Select {
    subject: Subject,
    joins: String,
    conditions: Vec<String>,
    order: Vec<String>,
    bound: Bindings,
    /// What was looked up, by table and key: each is so once.
    looked_up: HashMap<(&'static str, String), LookedUp>,
    /// Keys of metrics that are numbers in every result.
    numbers: HashSet<String>,
    /// What the metrics of models are measured on; on anything where there is none.
    datasets: Vec<DatasetFilter>,
}

impl Subject {
    /// Table, alias, table of tags, its column of the owner.
    fn tables(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Runs => ("runs", "r", "run_tags", "run"),
            Self::Experiments => ("experiments", "e", "experiment_tags", "experiment"),
            Self::Models => ("logged_models", "m", "logged_model_tags", "model"),
        }
    }

    /// The column of an attribute.
    fn attribute(self, key: &str) -> Result<(&'static str, AttributeKind), TrackError> {
        use AttributeKind::{Integer, Status, Text};
        let found = match (self, key) {
            (Self::Runs, "run_id" | "run_uuid") => ("r.run_id", Text),
            (Self::Runs, "run_name" | "run name" | "Run name" | "Run Name") => ("r.name", Text),
            (Self::Runs, "status") => ("r.status", Text),
            (Self::Runs, "user_id") => ("r.user_id", Text),
            (Self::Runs, "artifact_uri") => ("r.artifact_uri", Text),
            (Self::Runs, "start_time" | "created" | "Created") => ("r.started_at", Integer),
            (Self::Runs, "end_time") => ("r.ended_at", Integer),
            (Self::Experiments, "name") => ("e.name", Text),
            (Self::Experiments, "experiment_id") => ("e.id", Integer),
            (Self::Experiments, "creation_time") => ("e.created_at", Integer),
            (Self::Experiments, "last_update_time") => ("e.updated_at", Integer),
            (Self::Models, "name") => ("m.name", Text),
            (Self::Models, "model_id") => ("m.model_id", Text),
            (Self::Models, "status") => ("m.status", Status),
            (Self::Models, "model_type") => ("m.model_type", Text),
            (Self::Models, "source_run_id") => ("m.source_run_id", Text),
            (Self::Models, "creation_timestamp" | "creation_time") => ("m.created_at", Integer),
            (Self::Models, "last_updated_timestamp" | "last_updated_time") => ("m.updated_at", Integer),
            (_, other) => {
                let valid = match self {
                    Self::Runs => "run_id, run_name, status, user_id, artifact_uri, start_time, end_time",
                    Self::Models => {
                        "name, model_id, model_type, status, source_run_id, creation_timestamp, \
                         last_updated_timestamp"
                    }
                    Self::Experiments => "name, experiment_id, creation_time, last_update_time",
                };
                let other: String = other.chars().take(100).collect();
                return Err(TrackError::invalid(format!(
                    "Invalid attribute key '{other}' specified. Valid keys are: {valid}"
                )));
            }
        };
        Ok(found)
    }
}

fn unknown_status(word: &str) -> TrackError {
    let word: String = word.chars().take(100).collect();
    TrackError::invalid(format!(
        "'{word}' is no status of a logged model: expected PENDING, READY, UPLOAD_FAILED or UNSPECIFIED"
    ))
}

impl Select {
    pub(super) fn new(subject: Subject, dialect: Dialect) -> Self {
        Self {
            subject,
            joins: String::new(),
            conditions: Vec::new(),
            order: Vec::new(),
            bound: Bindings::new(dialect),
            looked_up: HashMap::new(),
            numbers: HashSet::new(),
            datasets: Vec::new(),
        }
    }

    pub(super) fn restrict_to_experiments(&mut self, ids: &[i64]) {
        let places: Vec<String> = ids.iter().map(|id| self.bound.integer(*id)).collect();
        let (_, alias, ..) = self.subject.tables();
        self.conditions.push(format!("{alias}.experiment IN ({})", places.join(",")));
    }

    pub(super) fn restrict_to_view(&mut self, view: ViewType) {
        let (_, alias, ..) = self.subject.tables();
        match view {
            ViewType::ActiveOnly => self.conditions.push(format!("{alias}.deleted_at IS NULL")),
            ViewType::DeletedOnly => self.conditions.push(format!("{alias}.deleted_at IS NOT NULL")),
            ViewType::All => {}
        }
    }

    pub(super) fn filter(&mut self, clauses: &[Clause]) -> Result<(), TrackError> {
        clauses.iter().try_for_each(|clause| self.add_clause(clause))
    }

    /// Sorts by `keys`, then the newest first.
    pub(super) fn order(&mut self, keys: &[OrderKey]) -> Result<(), TrackError> {
        self.order_on(keys, &[])
    }

    /// Like [`Self::order`], where a metric of a model is the one that was measured on the dataset in its place in
    /// `datasets`.
    pub(super) fn order_on(
        &mut self,
        keys: &[OrderKey],
        datasets: &[Option<DatasetFilter>],
    ) -> Result<(), TrackError> {
        let mut has_time = false;
        for (place, key) in keys.iter().enumerate() {
            self.add_order(key, datasets.get(place).and_then(Option::as_ref))?;
            has_time |= matches!(key.key.as_str(), "start_time" | "creation_time" | "creation_timestamp");
        }
        match self.subject {
            Subject::Runs => {
                if !has_time {
                    self.order.push("r.started_at DESC".to_owned());
                }
                self.order.push("r.run_id".to_owned());
            }
            Subject::Experiments | Subject::Models => {
                let (_, alias, ..) = self.subject.tables();
                if !has_time {
                    self.order.push(format!("{alias}.created_at DESC"));
                }
                self.order.push(format!("{alias}.id DESC"));
            }
        }
        Ok(())
    }

    pub(super) async fn fetch(
        mut self,
        readers: &AnyPool,
        columns: &str,
        offset: usize,
        limit: usize,
    ) -> Result<Vec<AnyRow>, TrackError> {
        let limit = self.bound.integer(limit as i64);
        let offset = self.bound.integer(offset as i64);
        let (table, alias, ..) = self.subject.tables();
        let conditions = match self.conditions.as_slice() {
            [] => "1 = 1".to_owned(),
            conditions => conditions.join(" AND "),
        };
        let sql = format!(
            "SELECT {columns} FROM {table} {alias}{} WHERE {conditions} ORDER BY {} LIMIT {limit} OFFSET {offset}",
            self.joins,
            self.order.join(", ")
        );
        self.bound.fetch_all(readers, sql).await
    }

    fn add_clause(&mut self, clause: &Clause) -> Result<(), TrackError> {
        let is_null_check = matches!(clause.comparator, Comparator::IsNull | Comparator::IsNotNull);
        match (clause.entity, self.subject) {
            (Entity::Param | Entity::Tag, _) if is_null_check => self.add_null_check(clause),
            _ if is_null_check => {
                Err(TrackError::invalid("IS NULL / IS NOT NULL is only supported for tags and params"))
            }
            (Entity::Attribute, _) => self.add_attribute(clause),
            (Entity::Tag, _) => self.add_pair(self.subject.tables().2, clause),
            (Entity::Param, Subject::Runs) => self.add_pair("run_params", clause),
            (Entity::Param, Subject::Models) => self.add_pair("logged_model_params", clause),
            (Entity::Metric, Subject::Models) => self.add_model_metric(clause),
            (Entity::Metric, Subject::Runs) => self.add_metric(clause),
            (Entity::Dataset, Subject::Runs) => self.add_dataset(clause),
            _ => Err(TrackError::invalid(
                "Invalid search expression: experiments are found by attributes and tags",
            )),
        }
    }

    fn add_attribute(&mut self, clause: &Clause) -> Result<(), TrackError> {
        let (column, kind) = self.subject.attribute(&clause.key)?;
        let condition = match kind {
            AttributeKind::Text => {
                let takes_list = column == "r.run_id" || self.subject == Subject::Models;
                if matches!(clause.operand, Operand::List(_)) && !takes_list {
                    return Err(TrackError::invalid(
                        "Only the 'run_id' attribute supports comparison with a list of quoted string values.",
                    ));
                }
                self.bound.compare_text(column, clause)?
            }
            AttributeKind::Status => {
                let (Comparator::Order(operator @ ("=" | "!=")), Operand::Text(word)) =
                    (clause.comparator, &clause.operand)
                else {
                    return Err(invalid_comparator(clause));
                };
                let status = LoggedModelStatus::of_word(word).ok_or_else(|| unknown_status(word))?;
                let place = self.bound.integer(status.number());
                format!("{column} {} {place}", sql_operator(operator))
            }
            AttributeKind::Integer => {
                let Comparator::Order(operator) = clause.comparator else {
                    return Err(invalid_comparator(clause));
                };
                let value = match &clause.operand {
                    Operand::Number(number) => number.parse::<f64>().ok(),
                    // Ids of experiments are text for MLflow.
                    Operand::Text(text) if column == "e.id" => text.parse::<i64>().ok().map(|id| id as f64),
                    _ => None,
                };
                let value = value.ok_or_else(|| {
                    TrackError::invalid(format!(
                        "Expected numeric value type for numeric attribute: {}.",
                        clause.key
                    ))
                })?;
                let place = self.bound.number(value);
                format!("{column} {} {place}", sql_operator(operator))
            }
        };
        self.conditions.push(condition);
        Ok(())
    }

    /// A tag or parameter that is there or not.
    fn add_null_check(&mut self, clause: &Clause) -> Result<(), TrackError> {
        let (_, owner, tags, column) = self.subject.tables();
        let table = match (clause.entity, self.subject) {
            (Entity::Param, Subject::Runs) => "run_params",
            (Entity::Param, Subject::Models) => "logged_model_params",
            (Entity::Tag, _) => tags,
            _ => {
                return Err(TrackError::invalid("Invalid search expression: experiments have no parameters"));
            }
        };
        let key = self.bound.text(&clause.key);
        let not = if clause.comparator == Comparator::IsNull { "NOT " } else { "" };
        self.conditions.push(format!(
            "{not}EXISTS (SELECT 1 FROM {table} x WHERE x.{column} = {owner}.id AND x.key = {key})"
        ));
        Ok(())
    }

    fn add_pair(&mut self, table: &'static str, clause: &Clause) -> Result<(), TrackError> {
        if matches!(clause.comparator, Comparator::In | Comparator::NotIn) {
            return Err(invalid_comparator(clause));
        }
        let found = self.look_up("JOIN", table, &clause.key);
        let condition = self.bound.compare_text(&found.value, clause)?;
        self.conditions.push(condition);
        Ok(())
    }

    fn add_metric(&mut self, clause: &Clause) -> Result<(), TrackError> {
        let (Comparator::Order(operator), Operand::Number(number)) = (clause.comparator, &clause.operand)
        else {
            return Err(TrackError::invalid(
                "Expected numeric value type for metric, compared by one of =, !=, <, <=, >, >=.",
            ));
        };
        let value: f64 =
            number.parse().map_err(|_| TrackError::invalid("Expected numeric value type for metric."))?;
        let LookedUp { value: column, is_there } = self.look_up("JOIN", "series", &clause.key);
        let place = self.bound.float(value);
        // What is no number is unequal to every number and else in no relation to it.
        if operator == "!=" {
            self.conditions.push(format!("{is_there} AND ({column} <> {place} OR {column} IS NULL)"));
        } else {
            self.conditions.push(format!("{column} {operator} {place}"));
            self.numbers.insert(clause.key.clone());
        }
        Ok(())
    }

    /// A model has a metric once for each run and dataset; one that fits is enough.
    fn add_model_metric(&mut self, clause: &Clause) -> Result<(), TrackError> {
        let (Comparator::Order(operator), Operand::Number(number)) = (clause.comparator, &clause.operand)
        else {
            return Err(invalid_comparator(clause));
        };
        let value: f64 =
            number.parse().map_err(|_| TrackError::invalid("Expected numeric value type for metric."))?;
        let key = self.bound.text(&clause.key);
        let place = self.bound.float(value);
        let datasets = self.datasets.clone();
        let measured = self.measured_on(&datasets);
        self.conditions.push(format!(
            "EXISTS (SELECT 1 FROM logged_model_metrics x WHERE x.model = m.id AND x.key = {key} \
             AND x.value {} {place}{measured})",
            sql_operator(operator)
        ));
        Ok(())
    }

    /// Says which datasets the filter's metrics of models are measured on. A model without such a metric is not found, even
    /// where the filter is about something else.
    pub(super) fn restrict_to_datasets(&mut self, datasets: &[DatasetFilter], clauses: &[Clause]) {
        if !datasets.is_empty() && !clauses.iter().any(|clause| clause.entity == Entity::Metric) {
            let measured = self.measured_on(datasets);
            self.conditions.push(format!(
                "EXISTS (SELECT 1 FROM logged_model_metrics x WHERE x.model = m.id{measured})"
            ));
        }
        self.datasets = datasets.to_vec();
    }

    /// The condition that a metric `x` was measured on one of `datasets`, to be added to others.
    fn measured_on(&mut self, datasets: &[DatasetFilter]) -> String {
        let mut one_of = Vec::with_capacity(datasets.len());
        for dataset in datasets {
            let name = self.bound.text(&dataset.dataset_name);
            let mut condition = format!("x.dataset_name = {name}");
            if !dataset.dataset_digest.is_empty() {
                let digest = self.bound.text(&dataset.dataset_digest);
                condition.push_str(&format!(" AND x.dataset_digest = {digest}"));
            }
            one_of.push(condition);
        }
        if one_of.is_empty() { String::new() } else { format!(" AND ({})", one_of.join(" OR ")) }
    }

    /// A model's newest value of a metric, measured on `dataset` if there is one.
    fn newest_model_metric(&mut self, key: &str, dataset: Option<&DatasetFilter>) -> String {
        let key = self.bound.text(key);
        let measured = self.measured_on(dataset.map(std::slice::from_ref).unwrap_or_default());
        format!(
            "(SELECT x.value FROM logged_model_metrics x WHERE x.model = m.id AND x.key = {key}{measured} \
             ORDER BY x.timestamp DESC, x.step DESC, x.run_id, x.dataset_name, x.dataset_digest LIMIT 1)"
        )
    }

    fn add_dataset(&mut self, clause: &Clause) -> Result<(), TrackError> {
        let from = "SELECT 1 FROM run_inputs i JOIN input_datasets d ON d.id = i.dataset";
        let condition = match clause.key.as_str() {
            "name" => format!("{from} WHERE i.run = r.id AND {}", self.bound.compare_text("d.name", clause)?),
            "digest" => {
                format!("{from} WHERE i.run = r.id AND {}", self.bound.compare_text("d.digest", clause)?)
            }
            "context" => format!(
                "SELECT 1 FROM run_input_tags i WHERE i.run = r.id AND i.key = 'mlflow.data.context' AND {}",
                self.bound.compare_text("i.value", clause)?
            ),
            other => {
                let other: String = other.chars().take(100).collect();
                return Err(TrackError::invalid(format!(
                    "Invalid dataset attribute key '{other}': expected name, digest or context"
                )));
            }
        };
        self.conditions.push(format!("EXISTS ({condition})"));
        Ok(())
    }

    fn add_order(&mut self, key: &OrderKey, dataset: Option<&DatasetFilter>) -> Result<(), TrackError> {
        let direction = if key.ascending { "ASC" } else { "DESC" };
        let column = match (key.entity, self.subject) {
            (Entity::Attribute, _) => self.subject.attribute(&key.key)?.0.to_owned(),
            (Entity::Metric, Subject::Runs) => {
                let LookedUp { value, is_there } = self.look_up("LEFT JOIN", "series", &key.key);
                // An index gives the order where every result has a number.
                if !self.numbers.contains(&key.key) {
                    // Numbers first, then what is none, then what is not there.
                    self.order.push(format!(
                        "CASE WHEN {value} IS NOT NULL THEN 0 WHEN {is_there} THEN 1 ELSE 2 END"
                    ));
                }
                self.order.push(format!("{value} {direction}"));
                return Ok(());
            }
            (Entity::Param, Subject::Runs) => self.look_up("LEFT JOIN", "run_params", &key.key).value,
            (Entity::Param, Subject::Models) => {
                self.look_up("LEFT JOIN", "logged_model_params", &key.key).value
            }
            (Entity::Metric, Subject::Models) => self.newest_model_metric(&key.key, dataset),
            (Entity::Tag, _) => {
                let table = self.subject.tables().2;
                self.look_up("LEFT JOIN", table, &key.key).value
            }
            _ => {
                return Err(TrackError::invalid(format!("Invalid order_by entity of '{}'", key.key)));
            }
        };
        self.order.push(format!("CASE WHEN {column} IS NULL THEN 1 ELSE 0 END"));
        self.order.push(format!("{column} {direction}"));
        Ok(())
    }

    /// Looks up `key` in a table that has one row for each owner and key; once, however often it is compared.
    fn look_up(&mut self, join: &str, table: &'static str, key: &str) -> LookedUp {
        if let Some(found) = self.looked_up.get(&(table, key.to_owned())) {
            return found.clone();
        }
        let (_, owner, _, column) = self.subject.tables();
        let place = self.bound.text(key);
        let found = if self.looked_up.len() < JOINS_MAX {
            let alias = format!("t{}", self.looked_up.len() + 1);
            self.joins.push_str(&format!(
                " {join} {table} {alias} ON {alias}.{column} = {owner}.id AND {alias}.key = {place}"
            ));
            LookedUp { value: format!("{alias}.value"), is_there: format!("{alias}.{column} IS NOT NULL") }
        } else {
            let from = format!("FROM {table} x WHERE x.{column} = {owner}.id AND x.key = {place}");
            LookedUp {
                value: format!("(SELECT x.value {from})"),
                is_there: format!("(SELECT x.{column} {from}) IS NOT NULL"),
            }
        };
        self.looked_up.insert((table, key.to_owned()), found.clone());
        found
    }
}
