use serde::{Deserialize, Serialize};

use super::super::{
    DatasetInput, Lifecycle, Metric, ModelInput, ModelOutput, NewRun, Pair, Run, RunChange, RunInfo,
    RunSearch, RunStatus, TrackError, Tracker,
};
use super::fields;

/// Nothing to tell but that it was done.
#[derive(Serialize)]
pub(super) struct Empty {}

#[derive(Deserialize)]
pub(super) struct Create {
    #[serde(default)]
    experiment_id: String,
    run_name: Option<String>,
    #[serde(default)]
    user_id: String,
    #[serde(default, deserialize_with = "fields::opt_int")]
    start_time: Option<i64>,
    #[serde(default)]
    tags: Vec<Pair>,
}

#[derive(Serialize)]
pub(super) struct Found {
    run: Run,
}

pub(super) async fn create(tracker: Tracker, asked: Create) -> Result<Found, TrackError> {
    let Create { experiment_id, run_name, user_id, start_time, tags } = asked;
    Ok(Found {
        run: tracker.create_run(NewRun { experiment_id, run_name, user_id, start_time, tags }).await?,
    })
}

/// Names a run: older clients say `run_uuid`, and newer ones send both.
#[derive(Deserialize)]
pub(super) struct ById {
    run_id: Option<String>,
    run_uuid: Option<String>,
}

impl ById {
    pub(super) fn id(self) -> Result<String, TrackError> {
        self.run_id
            .or(self.run_uuid)
            .filter(|id| !id.is_empty())
            .ok_or_else(|| TrackError::invalid("Missing value for required parameter 'run_id'."))
    }
}

pub(super) async fn get(tracker: Tracker, asked: ById) -> Result<Found, TrackError> {
    Ok(Found { run: tracker.run(&asked.id()?).await? })
}

#[derive(Deserialize)]
pub(super) struct Update {
    #[serde(flatten)]
    run: ById,
    status: Option<RunStatus>,
    #[serde(default, deserialize_with = "fields::opt_int")]
    end_time: Option<i64>,
    run_name: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Updated {
    run_info: RunInfo,
}

pub(super) async fn update(tracker: Tracker, asked: Update) -> Result<Updated, TrackError> {
    let run_id = asked.run.id()?;
    let change = RunChange { status: asked.status, end_time: asked.end_time, run_name: asked.run_name };
    Ok(Updated { run_info: tracker.update_run(run_id, change).await? })
}

pub(super) async fn delete(tracker: Tracker, asked: ById) -> Result<Empty, TrackError> {
    tracker.set_run_lifecycle(asked.id()?, Lifecycle::Deleted).await?;
    Ok(Empty {})
}

pub(super) async fn restore(tracker: Tracker, asked: ById) -> Result<Empty, TrackError> {
    tracker.set_run_lifecycle(asked.id()?, Lifecycle::Active).await?;
    Ok(Empty {})
}

#[derive(Serialize)]
pub(super) struct FoundAll {
    runs: Vec<Run>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

pub(super) async fn search(tracker: Tracker, asked: RunSearch) -> Result<FoundAll, TrackError> {
    let page = tracker.search_runs(asked).await?;
    Ok(FoundAll { runs: page.found, next_page_token: page.next_page_token })
}

#[derive(Deserialize)]
pub(super) struct LogMetric {
    #[serde(flatten)]
    run: ById,
    #[serde(flatten)]
    metric: Metric,
}

pub(super) async fn log_metric(tracker: Tracker, asked: LogMetric) -> Result<Empty, TrackError> {
    let run_id = asked.run.id()?;
    tracker.log_batch(run_id, vec![asked.metric], Vec::new(), Vec::new()).await?;
    Ok(Empty {})
}

#[derive(Deserialize)]
pub(super) struct LogPair {
    #[serde(flatten)]
    run: ById,
    #[serde(flatten)]
    pair: Pair,
}

pub(super) async fn log_parameter(tracker: Tracker, asked: LogPair) -> Result<Empty, TrackError> {
    let run_id = asked.run.id()?;
    tracker.log_batch(run_id, Vec::new(), vec![asked.pair], Vec::new()).await?;
    Ok(Empty {})
}

pub(super) async fn set_tag(tracker: Tracker, asked: LogPair) -> Result<Empty, TrackError> {
    let run_id = asked.run.id()?;
    tracker.log_batch(run_id, Vec::new(), Vec::new(), vec![asked.pair]).await?;
    Ok(Empty {})
}

#[derive(Deserialize)]
pub(super) struct LogBatch {
    run_id: String,
    #[serde(default)]
    metrics: Vec<Metric>,
    #[serde(default)]
    params: Vec<Pair>,
    #[serde(default)]
    tags: Vec<Pair>,
}

pub(super) async fn log_batch(tracker: Tracker, asked: LogBatch) -> Result<Empty, TrackError> {
    tracker.log_batch(asked.run_id, asked.metrics, asked.params, asked.tags).await?;
    Ok(Empty {})
}

#[derive(Deserialize)]
pub(super) struct LogInputs {
    run_id: String,
    #[serde(default)]
    datasets: Vec<DatasetInput>,
    #[serde(default)]
    models: Vec<ModelInput>,
}

pub(super) async fn log_inputs(tracker: Tracker, asked: LogInputs) -> Result<Empty, TrackError> {
    tracker.log_inputs(asked.run_id, asked.datasets, asked.models).await?;
    Ok(Empty {})
}

#[derive(Deserialize)]
pub(super) struct LogOutputs {
    run_id: String,
    #[serde(default)]
    models: Vec<ModelOutput>,
}

pub(super) async fn log_outputs(tracker: Tracker, asked: LogOutputs) -> Result<Empty, TrackError> {
    tracker.log_outputs(asked.run_id, asked.models).await?;
    Ok(Empty {})
}

#[derive(Deserialize)]
pub(super) struct DeleteTag {
    run_id: String,
    key: String,
}

pub(super) async fn delete_tag(tracker: Tracker, asked: DeleteTag) -> Result<Empty, TrackError> {
    tracker.delete_tag(asked.run_id, asked.key).await?;
    Ok(Empty {})
}

#[derive(Deserialize)]
pub(super) struct LogModel {
    #[serde(flatten)]
    run: ById,
    #[serde(default)]
    model_json: String,
}

pub(super) async fn log_model(tracker: Tracker, asked: LogModel) -> Result<Empty, TrackError> {
    let run_id = asked.run.id()?;
    tracker.log_model(run_id, &asked.model_json).await?;
    Ok(Empty {})
}
