//! The start of a pipeline: its run, and the record that this process is at it.

use super::record::{NewPipelineRecord, PipelineRecord, RecordError, Records};
use super::step_run::{tag, user};
use crate::track::{NewRun, PIPELINE_TAG, PreparedRun, TrackError, Tracker};

/// Starts a pipeline: creates its run in the experiment of its name, and records that this process is at it.
pub async fn start_pipeline(
    tracker: &Tracker,
    records: &Records,
    new: NewPipelineRecord,
) -> Result<PipelineRecord, RecordError> {
    let run = prepare_run(tracker, &new).await?;
    records.start(run, new).await
}

/// The run of a pipeline, ready to be written together with its record.
pub(super) async fn prepare_run(
    tracker: &Tracker,
    new: &NewPipelineRecord,
) -> Result<PreparedRun, TrackError> {
    let name = new.name.as_str();
    let experiment_id = tracker.ensure_experiment(name).await?;
    let mut tags = vec![tag(PIPELINE_TAG, name), tag("mlflow.source.name", &new.file.name)];
    if !new.triggered_by.is_empty() {
        tags.push(tag("host.trigger", &new.triggered_by));
    }
    tracker.prepare_run(NewRun { experiment_id, run_name: None, user_id: user(), start_time: None, tags })
}
