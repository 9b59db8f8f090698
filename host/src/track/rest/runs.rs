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
    #[serde(default, deserialize_with = "fields::or_default")]
    experiment_id: String,
    run_name: Option<String>,
    #[serde(default, deserialize_with = "fields::or_default")]
    user_id: String,
    #[serde(default, deserialize_with = "fields::opt_int")]
    start_time: Option<i64>,
    #[serde(default, deserialize_with = "fields::objects")]
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

/// Its fields, not [`ById`] flattened: that would keep whatever else comes in the body, as in the structures below.
#[derive(Deserialize)]
pub(super) struct Update {
    run_id: Option<String>,
    run_uuid: Option<String>,
    #[serde(default, deserialize_with = "fields::word_or_number")]
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
    let run_id = ById { run_id: asked.run_id, run_uuid: asked.run_uuid }.id()?;
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
    run_id: Option<String>,
    run_uuid: Option<String>,
    key: String,
    #[serde(deserialize_with = "fields::double::deserialize")]
    value: f64,
    #[serde(deserialize_with = "fields::int")]
    timestamp: i64,
    #[serde(default, deserialize_with = "fields::int_or_zero")]
    step: i64,
    model_id: Option<String>,
    dataset_name: Option<String>,
    dataset_digest: Option<String>,
}

pub(super) async fn log_metric(tracker: Tracker, asked: LogMetric) -> Result<Empty, TrackError> {
    let LogMetric { run_id, run_uuid, key, value, timestamp, step, model_id, dataset_name, dataset_digest } =
        asked;
    let run_id = ById { run_id, run_uuid }.id()?;
    let metric = Metric { key, value, timestamp, step, model_id, dataset_name, dataset_digest };
    tracker.log_batch(run_id, vec![metric], Vec::new(), Vec::new()).await?;
    Ok(Empty {})
}

#[derive(Deserialize)]
pub(super) struct LogPair {
    run_id: Option<String>,
    run_uuid: Option<String>,
    key: String,
    #[serde(default, deserialize_with = "fields::or_default")]
    value: String,
}

impl LogPair {
    /// The run's id, and what it is to have.
    fn parts(self) -> Result<(String, Pair), TrackError> {
        let run_id = ById { run_id: self.run_id, run_uuid: self.run_uuid }.id()?;
        Ok((run_id, Pair { key: self.key, value: self.value }))
    }
}

pub(super) async fn log_parameter(tracker: Tracker, asked: LogPair) -> Result<Empty, TrackError> {
    let (run_id, param) = asked.parts()?;
    tracker.log_batch(run_id, Vec::new(), vec![param], Vec::new()).await?;
    Ok(Empty {})
}

pub(super) async fn set_tag(tracker: Tracker, asked: LogPair) -> Result<Empty, TrackError> {
    let (run_id, tag) = asked.parts()?;
    tracker.log_batch(run_id, Vec::new(), Vec::new(), vec![tag]).await?;
    Ok(Empty {})
}

#[derive(Deserialize)]
pub(super) struct LogBatch {
    run_id: String,
    #[serde(default, deserialize_with = "fields::objects")]
    metrics: Vec<Metric>,
    #[serde(default, deserialize_with = "fields::objects")]
    params: Vec<Pair>,
    #[serde(default, deserialize_with = "fields::objects")]
    tags: Vec<Pair>,
}

pub(super) async fn log_batch(tracker: Tracker, asked: LogBatch) -> Result<Empty, TrackError> {
    tracker.log_batch(asked.run_id, asked.metrics, asked.params, asked.tags).await?;
    Ok(Empty {})
}

#[derive(Deserialize)]
pub(super) struct LogInputs {
    run_id: String,
    #[serde(default, deserialize_with = "fields::objects")]
    datasets: Vec<DatasetInput>,
    #[serde(default, deserialize_with = "fields::objects")]
    models: Vec<ModelInput>,
}

pub(super) async fn log_inputs(tracker: Tracker, asked: LogInputs) -> Result<Empty, TrackError> {
    tracker.log_inputs(asked.run_id, asked.datasets, asked.models).await?;
    Ok(Empty {})
}

#[derive(Deserialize)]
pub(super) struct LogOutputs {
    run_id: String,
    #[serde(default, deserialize_with = "fields::objects")]
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
    run_id: Option<String>,
    run_uuid: Option<String>,
    #[serde(default, deserialize_with = "fields::or_default")]
    model_json: String,
}

pub(super) async fn log_model(tracker: Tracker, asked: LogModel) -> Result<Empty, TrackError> {
    let run_id = ById { run_id: asked.run_id, run_uuid: asked.run_uuid }.id()?;
    tracker.log_model(run_id, &asked.model_json).await?;
    Ok(Empty {})
}
