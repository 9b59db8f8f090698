//! The run that tracking has of a step.

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::mpsc::UnboundedSender;

use super::job::JobOutcome;
use super::plan::{Plan, PlannedStep};
use super::record::{MadeBy, PipelineRecord, StepRecord};
use super::run::{PipelineRunner, RunError, StepChange, StepEvent};
use super::status::StepStatus;
use super::step::StepContext;
use super::uses::StepKind;
use crate::domain::Digest;
use crate::process::Cancel;
use crate::track::{
    ArtifactPath, BUNDLE_TAG, Metric, NewRun, PARENT_TAG, PIPELINE_TAG, Pair, RunChange, RunSearch,
    RunStatus, TrackError, Tracker, now_ms,
};

/// Variable of the environment with the run of the step that a program runs for.
pub const RUN_ID: &str = "HOST_RUN_ID";

/// Variable of the environment with the names of the pipelines that led to a process, with spaces between.
pub const PIPELINES: &str = "HOST_PIPELINES";

/// Longest value of a parameter of a run.
const PARAM_MAX_CHARS: usize = 500;

/// Parameters of one request.
const PARAMS_MAX: usize = 100;

/// A step that is to be done.
pub(super) struct StepRun {
    pub(super) runner: PipelineRunner,
    pub(super) plan: Arc<Plan>,
    pub(super) pipeline: PipelineRecord,
    pub(super) place: usize,
    pub(super) with: Map<String, Value>,
    pub(super) cancel: Arc<Cancel>,
    pub(super) events: UnboundedSender<StepEvent>,
}

impl StepRun {
    pub(super) fn tell(&self, change: StepChange) {
        // Whoever listened may have gone.
        let _ = self.events.send(StepEvent { step: self.place, change });
    }

    fn tracker(&self) -> &Tracker {
        self.runner.context.registry.tracker()
    }
}

/// Creates the run of a step, and records that it is under way.
pub(super) async fn begin(
    run: &StepRun,
    step: &PlannedStep,
    key: Digest,
    started_at: i64,
) -> Result<String, RunError> {
    let parent = run.tracker().run(&run.pipeline.run_id).await?;
    let tags = vec![
        tag(PARENT_TAG, &run.pipeline.run_id),
        tag(PIPELINE_TAG, &run.pipeline.name),
        tag("host.step", &step.id),
        tag("host.cache_key", &key.to_string()),
    ];
    let new = NewRun {
        experiment_id: parent.info.experiment_id,
        run_name: Some(step.id.clone()),
        user_id: user(),
        start_time: Some(started_at),
        tags,
    };
    let run_id = run.tracker().create_run(new).await?.info.run_id;
    let record = StepRecord {
        step: step.id.clone(),
        status: StepStatus::Running,
        run_id: run_id.clone(),
        attempts: 0,
        outputs: Map::new(),
        reason: String::new(),
        started_at,
        ended_at: None,
    };
    run.runner.records.step(&run.pipeline, record, None).await?;
    Ok(run_id)
}

/// Records how a step ended, in its run and in the pipeline.
pub(super) async fn finish(
    run: &StepRun,
    step: &PlannedStep,
    record: &StepRecord,
    outcome: JobOutcome,
    made_by: Option<MadeBy>,
) -> Result<(), RunError> {
    let tracker = run.tracker();
    let run_id = record.run_id.clone();
    keep_files(tracker, &run_id, &outcome, &run.runner.context).await?;
    let mut tags: Vec<Pair> = Vec::new();
    // Others answer with a bundle that was there before.
    if !matches!(step.uses.kind, StepKind::Compare | StepKind::Register) {
        tags.extend(text(&record.outputs, "bundle").map(|bundle| tag(BUNDLE_TAG, bundle)));
    }
    tags.extend(text(&record.outputs, "dataset").map(|dataset| tag("host.dataset", dataset)));
    // A training reports to the run itself.
    let (metrics, params) = match matches!(step.uses.kind, StepKind::Train | StepKind::Sweep) {
        true => (Vec::new(), Vec::new()),
        false => (metrics(&record.outputs), params(&run.with)),
    };
    tracker.log_batch(run_id.clone(), metrics, params, tags).await?;
    let status = match record.status {
        StepStatus::Finished => RunStatus::Finished,
        StepStatus::Cancelled => RunStatus::Killed,
        _ => RunStatus::Failed,
    };
    // At the same time, so that one sync serves both.
    let (ended, recorded) = tokio::join!(
        end(tracker, &run_id, status),
        run.runner.records.step(&run.pipeline, record.clone(), made_by)
    );
    ended?;
    Ok(recorded?)
}

/// Shows the files that a step handed on, and what it printed, as artifacts of its run.
async fn keep_files(
    tracker: &Tracker,
    run_id: &str,
    outcome: &JobOutcome,
    context: &StepContext,
) -> Result<(), RunError> {
    if outcome.log.is_empty() && outcome.files.is_empty() {
        return Ok(());
    }
    let run = tracker.run(run_id).await?;
    if !outcome.log.is_empty() {
        tracker.put_run_artifact(&run, "log.txt", outcome.log.clone()).await?;
    }
    let folder = tracker.artifact_folder(&run)?;
    let mut links = Vec::new();
    for file in &outcome.files {
        let (store, digest) = (context.store.clone(), file.digest);
        let size = tokio::task::spawn_blocking(move || store.blob_len(digest)).await;
        let size = size.map_err(|_| RunError::Stopped)?.map_err(TrackError::from)?;
        let path = folder.join(&ArtifactPath::parse(&format!("files/{}", file.path))?);
        links.push((path, digest, size));
    }
    Ok(tracker.link_artifacts(links).await?)
}

/// Whether everything is there that outputs name by digest.
pub(super) async fn is_there(context: &StepContext, outputs: &Map<String, Value>) -> bool {
    let mut digests = Vec::new();
    for value in outputs.values() {
        collect_digests(value, &mut digests);
    }
    let store = context.store.clone();
    let checked =
        tokio::task::spawn_blocking(move || digests.into_iter().all(|digest| store.blob_len(digest).is_ok()));
    checked.await.unwrap_or(false)
}

fn collect_digests(value: &Value, digests: &mut Vec<Digest>) {
    match value {
        Value::String(text) => {
            let digest = text.rsplit_once('@').map_or(text.as_str(), |(_, digest)| digest);
            digests.extend(digest.parse::<Digest>());
        }
        Value::Array(values) => values.iter().for_each(|value| collect_digests(value, digests)),
        Value::Object(map) => map.values().for_each(|value| collect_digests(value, digests)),
        _ => {}
    }
}

/// Ends runs of a pipeline that nobody is at: their process was killed.
pub(super) async fn end_abandoned(tracker: &Tracker, record: &PipelineRecord) -> Result<(), RunError> {
    let parent = tracker.run(&record.run_id).await?;
    loop {
        let search = RunSearch {
            experiment_ids: vec![parent.info.experiment_id.clone()],
            filter: format!("tags.`{PARENT_TAG}` = '{}' AND status = 'RUNNING'", record.run_id),
            ..RunSearch::default()
        };
        // Each that is ended is found no more, so the first page is always the next.
        let found = tracker.search_runs(search).await?.found;
        if found.is_empty() {
            break;
        }
        for run in &found {
            end(tracker, &run.info.run_id, RunStatus::Killed).await?;
        }
    }
    // It goes on.
    let change = RunChange { status: Some(RunStatus::Running), end_time: None, run_name: None };
    tracker.update_run(record.run_id.clone(), change).await?;
    Ok(())
}

/// Says that a run has ended.
pub(super) async fn end(tracker: &Tracker, run_id: &str, status: RunStatus) -> Result<(), TrackError> {
    let change = RunChange { status: Some(status), end_time: Some(now_ms()), run_name: None };
    tracker.update_run(run_id.to_owned(), change).await.map(drop)
}

fn metrics(outputs: &Map<String, Value>) -> Vec<Metric> {
    let of_map = outputs.get("metrics").and_then(Value::as_object).into_iter().flatten();
    let numbers = outputs.iter().chain(of_map).filter_map(|(name, value)| Some((name, value.as_f64()?)));
    numbers.map(|(name, value)| Metric::new(name.clone(), value, now_ms(), 0)).collect()
}

fn params(with: &Map<String, Value>) -> Vec<Pair> {
    let written = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let params = with.iter().map(|(name, value)| Pair {
        key: name.clone(),
        value: written(value).chars().take(PARAM_MAX_CHARS).collect(),
    });
    params.take(PARAMS_MAX).collect()
}

fn text<'a>(outputs: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    outputs.get(name).and_then(Value::as_str)
}

pub(super) fn tag(key: &str, value: &str) -> Pair {
    Pair { key: key.to_owned(), value: value.to_owned() }
}

pub(super) fn user() -> String {
    std::env::var("USER").unwrap_or_default()
}
