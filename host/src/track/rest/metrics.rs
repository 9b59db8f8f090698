use serde::{Deserialize, Serialize};

use super::super::names::required;
use super::super::{Metric, TrackError, Tracker};
use super::fields;
use super::runs::ById;

/// Points for each run where the caller asks for no number, as in MLflow.
const SAMPLE_DEFAULT: i64 = 320;

/// Points for each run at most, as in MLflow.
const SAMPLE_MAX: i64 = 2_500;

/// Runs of a request at most, as in MLflow.
const RUNS_MAX: usize = 100;

#[derive(Deserialize)]
pub(super) struct History {
    #[serde(flatten)]
    run: ById,
    metric_key: String,
    #[serde(default, deserialize_with = "fields::opt_int")]
    max_results: Option<i64>,
    page_token: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Points {
    metrics: Vec<Metric>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

pub(super) async fn history(tracker: Tracker, asked: History) -> Result<Points, TrackError> {
    required("metric_key", &asked.metric_key)?;
    let max_results = asked.max_results.map(positive).transpose()?;
    let token = asked.page_token.as_deref();
    let run_id = asked.run.id()?;
    let page = tracker.metric_history(&run_id, &asked.metric_key, max_results, token).await?;
    Ok(Points { metrics: page.metrics, next_page_token: page.next_page_token })
}

fn positive(max_results: i64) -> Result<usize, TrackError> {
    usize::try_from(max_results).ok().filter(|max| *max > 0).ok_or_else(|| {
        TrackError::invalid(format!(
            "Invalid value {max_results} for parameter 'max_results' supplied. It must be a positive integer."
        ))
    })
}

#[derive(Deserialize)]
pub(super) struct BulkInterval {
    #[serde(default, deserialize_with = "fields::texts")]
    run_ids: Vec<String>,
    metric_key: String,
    #[serde(default, deserialize_with = "fields::opt_int")]
    start_step: Option<i64>,
    #[serde(default, deserialize_with = "fields::opt_int")]
    end_step: Option<i64>,
    #[serde(default, deserialize_with = "fields::opt_int")]
    max_results: Option<i64>,
}

#[derive(Serialize)]
pub(super) struct PointOfRun {
    run_id: String,
    #[serde(flatten)]
    metric: Metric,
}

#[derive(Serialize)]
pub(super) struct PointsOfRuns {
    metrics: Vec<PointOfRun>,
}

pub(super) async fn bulk_interval(tracker: Tracker, asked: BulkInterval) -> Result<PointsOfRuns, TrackError> {
    if asked.run_ids.is_empty() || asked.run_ids.len() > RUNS_MAX {
        return Err(TrackError::invalid(format!(
            "GetMetricHistoryBulkInterval request must specify from 1 to {RUNS_MAX} run_ids. Received {}.",
            asked.run_ids.len()
        )));
    }
    let steps = match (asked.start_step, asked.end_step) {
        (None, None) => None,
        (Some(start), Some(end)) if start <= end => Some((start, end)),
        (Some(_), Some(_)) => return Err(TrackError::invalid("end_step must be greater than start_step.")),
        _ => return Err(TrackError::invalid("Both start_step and end_step must be specified together.")),
    };
    let max_results = asked.max_results.unwrap_or(SAMPLE_DEFAULT);
    if !(1..=SAMPLE_MAX).contains(&max_results) {
        return Err(TrackError::invalid(format!("max_results must be between 1 and {SAMPLE_MAX}.")));
    }
    let mut metrics = Vec::new();
    for run_id in asked.run_ids {
        let sample = tracker.metric_sample(&run_id, &asked.metric_key, steps, max_results as usize).await?;
        metrics.extend(sample.into_iter().map(|metric| PointOfRun { run_id: run_id.clone(), metric }));
    }
    Ok(PointsOfRuns { metrics })
}
