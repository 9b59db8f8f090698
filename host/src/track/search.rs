//! Finds runs and experiments by MLflow's filter grammar: clauses joined by `AND`, such as
//! `metrics.accuracy > 0.9 AND params."max depth" = '6' AND tags.team LIKE 'vision%' AND status = 'FINISHED'`.
//!
//! A filter becomes SQL in which everything that came from outside is a bound value.

pub(crate) mod bindings;
pub(crate) mod filter;
mod lexer;
pub(crate) mod order;
mod sql;

use serde::Deserialize;

use self::filter::parse_filter;
use self::order::{parse_keys, parse_order};
use self::sql::{Select, Subject};
use super::logged_models::{MODEL_COLUMNS, model};
use super::rows::{self, EXPERIMENT_COLUMNS, RUN_COLUMNS};
use super::{Experiment, LoggedModel, Run, TrackError, Tracker, ViewType};

/// Results of a page at most.
const PAGE_MAX: usize = 50_000;

/// Experiments that a search may name.
const EXPERIMENTS_MAX: usize = 10_000;

/// Longest filter.
const FILTER_MAX_BYTES: usize = 64 * 1024;

/// What a search looks for; a default one finds everything that is active.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RunSearch {
    /// Experiments to look in.
    #[serde(default, deserialize_with = "super::rest::fields::or_default")]
    pub experiment_ids: Vec<String>,
    /// Clauses joined by `AND`.
    #[serde(default, deserialize_with = "super::rest::fields::or_default")]
    pub filter: String,
    /// Active ones, deleted ones or both.
    #[serde(default, deserialize_with = "super::rest::fields::word_or_default")]
    pub run_view_type: ViewType,
    /// Keys with `ASC` or `DESC`.
    #[serde(default, deserialize_with = "super::rest::fields::or_default")]
    pub order_by: Vec<String>,
    /// Where the page starts, from the page before.
    #[serde(default, deserialize_with = "super::rest::fields::or_default")]
    pub page_token: String,
    /// Results of a page.
    #[serde(default, deserialize_with = "super::rest::fields::opt_int")]
    pub max_results: Option<i64>,
}

/// A search for logged models.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ModelSearch {
    /// Experiments to look in.
    #[serde(default, deserialize_with = "super::rest::fields::or_default")]
    pub experiment_ids: Vec<String>,
    /// Clauses joined by `AND`.
    #[serde(default, deserialize_with = "super::rest::fields::or_default")]
    pub filter: String,
    /// What metrics in the filter are measured on; anything if there is none.
    #[serde(default, deserialize_with = "super::rest::fields::objects")]
    pub datasets: Vec<DatasetFilter>,
    /// Fields with a direction.
    #[serde(default, deserialize_with = "super::rest::fields::objects")]
    pub order_by: Vec<ModelOrder>,
    /// Where the page starts, from the page before.
    #[serde(default, deserialize_with = "super::rest::fields::or_default")]
    pub page_token: String,
    /// Results of a page.
    #[serde(default, deserialize_with = "super::rest::fields::opt_int")]
    pub max_results: Option<i64>,
}

/// A dataset that metrics of logged models are measured on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct DatasetFilter {
    /// Its name.
    #[serde(default, deserialize_with = "super::rest::fields::or_default")]
    pub dataset_name: String,
    /// Its digest; any if it is empty.
    #[serde(default, deserialize_with = "super::rest::fields::or_default")]
    pub dataset_digest: String,
}

/// A field that logged models are sorted by.
#[derive(Debug, Clone, Deserialize)]
pub struct ModelOrder {
    /// Its name, for example `metrics.accuracy`.
    pub field_name: String,
    /// Whether the least comes first.
    #[serde(default = "yes", deserialize_with = "or_yes")]
    pub ascending: bool,
    /// The dataset that a metric is measured on; any if there is no name.
    #[serde(default, deserialize_with = "super::rest::fields::or_default")]
    pub dataset_name: String,
    /// Its digest; any if it is empty.
    #[serde(default, deserialize_with = "super::rest::fields::or_default")]
    pub dataset_digest: String,
}

fn yes() -> bool {
    true
}

fn or_yes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(true))
}

/// Datasets that a search may name.
const DATASETS_MAX: usize = 100;

impl ModelOrder {
    fn dataset(&self) -> Result<Option<DatasetFilter>, TrackError> {
        let (name, digest) = (&self.dataset_name, &self.dataset_digest);
        super::names::check_text("dataset_name", name)?;
        super::names::check_text("dataset_digest", digest)?;
        match (name.as_str(), digest.as_str()) {
            ("", "") => Ok(None),
            ("", _) => Err(TrackError::invalid(
                "`dataset_digest` can only be specified if `dataset_name` is also specified.",
            )),
            _ => Ok(Some(DatasetFilter { dataset_name: name.clone(), dataset_digest: digest.clone() })),
        }
    }
}

/// A part of what was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// In the order asked for.
    pub found: Vec<T>,
    /// Where the next page starts; none at the end.
    pub next_page_token: Option<String>,
}

impl Tracker {
    /// Finds runs; without another order the newest come first.
    pub async fn search_runs(&self, search: RunSearch) -> Result<Page<Run>, TrackError> {
        let experiments = parse_experiments(&search.experiment_ids)?;
        if experiments.is_empty() {
            return Ok(Page { found: Vec::new(), next_page_token: None });
        }
        let (offset, limit) = window(&search.page_token, search.max_results, 1_000, PAGE_MAX)?;
        let mut select = Select::new(Subject::Runs, self.database.dialect());
        select.restrict_to_experiments(&experiments);
        select.restrict_to_view(search.run_view_type);
        select.filter(&checked_filter(&search.filter)?)?;
        select.order(&parse_order(&search.order_by)?)?;
        let rows = select.fetch(self.database.readers(), RUN_COLUMNS, offset, limit + 1).await?;
        let found = rows.iter().take(limit).map(rows::run).collect::<Result<Vec<_>, _>>()?;
        let next_page_token = (rows.len() > limit).then(|| (offset + limit).to_string());
        Ok(Page { found: self.with_data(found).await?, next_page_token })
    }

    /// Finds experiments; without another order the newest come first.
    pub async fn search_experiments(
        &self,
        filter: &str,
        view: ViewType,
        order_by: &[String],
        page_token: &str,
        max_results: Option<i64>,
    ) -> Result<Page<Experiment>, TrackError> {
        let (offset, limit) = window(page_token, max_results, 1_000, PAGE_MAX)?;
        let mut select = Select::new(Subject::Experiments, self.database.dialect());
        select.restrict_to_view(view);
        select.filter(&checked_filter(filter)?)?;
        select.order(&parse_order(order_by)?)?;
        let rows = select.fetch(self.database.readers(), EXPERIMENT_COLUMNS, offset, limit + 1).await?;
        let found = rows.iter().take(limit).map(rows::experiment).collect::<Result<Vec<_>, _>>()?;
        let next_page_token = (rows.len() > limit).then(|| (offset + limit).to_string());
        Ok(Page { found: self.with_tags(found).await?, next_page_token })
    }
}

impl Tracker {
    /// Finds logged models; without another order the newest come first.
    pub async fn search_logged_models(&self, search: ModelSearch) -> Result<Page<LoggedModel>, TrackError> {
        let experiments = parse_experiments(&search.experiment_ids)?;
        if experiments.is_empty() {
            return Err(TrackError::invalid("Missing value for required parameter 'experiment_ids'."));
        }
        let (offset, limit) = window(&search.page_token, search.max_results, 100, PAGE_MAX)?;
        let mut select = Select::new(Subject::Models, self.database.dialect());
        select.restrict_to_experiments(&experiments);
        select.restrict_to_view(ViewType::ActiveOnly);
        check_datasets(&search.datasets)?;
        let clauses = checked_filter(&search.filter)?;
        select.restrict_to_datasets(&search.datasets, &clauses);
        select.filter(&clauses)?;
        let direction = |order: &ModelOrder| {
            format!("{} {}", order.field_name, if order.ascending { "ASC" } else { "DESC" })
        };
        let order_by: Vec<String> = search.order_by.iter().map(direction).collect();
        let datasets = search.order_by.iter().map(ModelOrder::dataset).collect::<Result<Vec<_>, _>>()?;
        select.order_on(&parse_keys(&order_by)?, &datasets)?;
        let rows = select.fetch(self.database.readers(), MODEL_COLUMNS, offset, limit + 1).await?;
        let found = rows.iter().take(limit).map(model).collect::<Result<Vec<_>, _>>()?;
        let next_page_token = (rows.len() > limit).then(|| (offset + limit).to_string());
        Ok(Page { found: self.with_model_data(found).await?, next_page_token })
    }
}

fn check_datasets(datasets: &[DatasetFilter]) -> Result<(), TrackError> {
    if datasets.len() > DATASETS_MAX {
        return Err(TrackError::invalid(format!("A search can name at most {DATASETS_MAX} datasets")));
    }
    if datasets.iter().any(|dataset| dataset.dataset_name.is_empty()) {
        return Err(TrackError::invalid("`dataset_name` in the `datasets` clause must be specified."));
    }
    datasets.iter().try_for_each(|dataset| {
        super::names::check_text("dataset_name", &dataset.dataset_name)?;
        super::names::check_text("dataset_digest", &dataset.dataset_digest)
    })
}

fn parse_experiments(ids: &[String]) -> Result<Vec<i64>, TrackError> {
    if ids.len() > EXPERIMENTS_MAX {
        return Err(TrackError::invalid(format!("A search can name at most {EXPERIMENTS_MAX} experiments")));
    }
    ids.iter().map(|id| super::experiments::parse_id(id)).collect()
}

/// Reads a filter that came from outside.
pub(crate) fn checked_filter(text: &str) -> Result<Vec<filter::Clause>, TrackError> {
    if text.len() > FILTER_MAX_BYTES {
        return Err(TrackError::invalid(format!("A filter can have at most {FILTER_MAX_BYTES} bytes")));
    }
    super::names::check_text("filter", text)?;
    parse_filter(text)
}

/// First result and number of results of a page.
pub(crate) fn window(
    page_token: &str,
    max_results: Option<i64>,
    default_results: usize,
    results_max: usize,
) -> Result<(usize, usize), TrackError> {
    let offset = match page_token {
        "" => 0,
        token => token
            .parse::<u32>()
            .map_err(|_| TrackError::invalid("Invalid page token: it was not given by this server"))?
            as usize,
    };
    let limit = match max_results {
        None => default_results,
        Some(found) => usize::try_from(found).ok().filter(|limit| (1..=results_max).contains(limit)).ok_or_else(
            || {
                TrackError::invalid(format!(
                    "Invalid value {found} for parameter 'max_results' supplied: It must be at least 1 and at most \
                     {results_max}"
                ))
            },
        )?,
    };
    Ok((offset, limit))
}
