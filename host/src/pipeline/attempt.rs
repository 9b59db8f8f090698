//! One step from its values to its record: its result if that is there, else attempts until one succeeds.

use std::time::Duration;

use serde_json::{Map, Value};

use super::cache_key::identity;
use super::job::{Job, JobEnd, JobLimits, JobOutcome};
use super::plan::PlannedStep;
use super::record::{MadeBy, StepRecord, StepResult};
use super::run::{RunError, StepChange, StepEvent};
use super::status::StepStatus;
use super::step::{self, PreparedStep};
use super::step_run::{self, StepRun};
use crate::domain::Digest;
use crate::process::Cancel;
use crate::track::now_ms;

/// How often a pause between attempts looks whether somebody said stop.
const PAUSE_PIECE: Duration = Duration::from_millis(100);

/// A step that was attempted.
pub(super) struct Attempted {
    pub(super) record: StepRecord,
}

/// Does a step.
pub(super) async fn attempt(run: StepRun) -> Result<Attempted, RunError> {
    let Some(step) = run.plan.steps.get(run.place) else { return Err(RunError::Stopped) };
    let started_at = now_ms();
    let ended = |status, reason: String| StepRecord {
        step: step.id.clone(),
        status,
        run_id: String::new(),
        attempts: 0,
        outputs: Map::new(),
        reason,
        started_at,
        ended_at: Some(now_ms()),
    };
    let prepared = match step::prepare(step.uses, &run.with, &run.runner.context).await {
        Ok(prepared) => prepared,
        Err(error) => {
            let record = ended(StepStatus::Failed, error.to_string());
            run.runner.records.step(&run.pipeline, record.clone(), None).await?;
            return Ok(Attempted { record });
        }
    };
    let identity = identity(step, &prepared.identity, env!("CARGO_PKG_VERSION"));
    let key = Digest::of(identity.as_bytes());
    if step.is_cached
        && !run.runner.options.ignore_results
        && let Some(result) = find_result(&run, key).await?
    {
        let mut record = ended(StepStatus::Cached, String::new());
        record.outputs = result.outputs;
        record.run_id = result.run_id;
        run.runner.records.step(&run.pipeline, record.clone(), None).await?;
        return Ok(Attempted { record });
    }
    let run_id = step_run::begin(&run, step, key, started_at).await?;
    let (attempts, outcome) = try_until_done(&run, step, &prepared, &run_id).await?;
    let (status, reason) = match &outcome.end {
        JobEnd::Done => (StepStatus::Finished, String::new()),
        JobEnd::Failed(reason) => (StepStatus::Failed, reason.clone()),
        JobEnd::TimedOut => (StepStatus::Failed, timed_out(step)),
        JobEnd::Cancelled => (StepStatus::Cancelled, "the pipeline was stopped".to_owned()),
    };
    let mut record = ended(status, reason);
    record.attempts = attempts;
    record.run_id = run_id;
    record.outputs = outcome.outputs.clone();
    let made_by = MadeBy { cache_key: key, identity };
    let made_by = (status == StepStatus::Finished && step.is_cached).then_some(made_by);
    step_run::finish(&run, step, &record, outcome, made_by).await?;
    Ok(Attempted { record })
}

fn timed_out(step: &PlannedStep) -> String {
    format!("it took longer than {:?}", step.timeout.unwrap_or_default())
}

/// The result of a key, if all that it names is there still.
async fn find_result(run: &StepRun, key: Digest) -> Result<Option<StepResult>, RunError> {
    let results = run.runner.records.results(&[key]).await?;
    let Some((_, result)) = results.into_iter().next() else { return Ok(None) };
    Ok(step_run::is_there(&run.runner.context, &result.outputs).await.then_some(result))
}

/// Runs a step until it succeeds or has no attempts left; gives how many there were, and the last.
async fn try_until_done(
    run: &StepRun,
    step: &PlannedStep,
    prepared: &PreparedStep,
    run_id: &str,
) -> Result<(u32, JobOutcome), RunError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        run.tell(StepChange::Started { attempt });
        let mut outcome = execute(run, job(run, step, prepared, run_id)).await?;
        if outcome.end.is_done() {
            outcome.outputs = step::outputs(step.uses, outcome.outputs);
            if let Some(missing) = missing_output(step, &outcome.outputs) {
                outcome.end = JobEnd::Failed(format!("it wrote no output `{missing}`"));
            }
        }
        let reason = match &outcome.end {
            JobEnd::Failed(reason) => reason.clone(),
            JobEnd::TimedOut => timed_out(step),
            JobEnd::Done | JobEnd::Cancelled => return Ok((attempt, outcome)),
        };
        if attempt > step.retry.count {
            return Ok((attempt, outcome));
        }
        // Twice as long each time, so that what is overloaded can recover.
        let after = step.retry.backoff.saturating_mul(1 << (attempt - 1).min(10));
        run.tell(StepChange::Retrying { reason, after });
        if !pause(after, &run.cancel).await {
            return Ok((attempt, JobOutcome { end: JobEnd::Cancelled, ..outcome }));
        }
    }
}

/// Waits; false where somebody said stop.
async fn pause(time: Duration, cancel: &Cancel) -> bool {
    let until = tokio::time::Instant::now() + time;
    while tokio::time::Instant::now() < until && !cancel.is_cancelled() {
        tokio::time::sleep_until(until.min(tokio::time::Instant::now() + PAUSE_PIECE)).await;
    }
    !cancel.is_cancelled()
}

fn missing_output<'a>(step: &'a PlannedStep, outputs: &Map<String, Value>) -> Option<&'a str> {
    step.outputs.iter().map(String::as_str).find(|name| !outputs.contains_key(*name))
}

async fn execute(run: &StepRun, job: Job) -> Result<JobOutcome, RunError> {
    let (executor, cancel) =
        (std::sync::Arc::clone(&run.runner.executor), std::sync::Arc::clone(&run.cancel));
    let (events, step) = (run.events.clone(), run.place);
    let mut progress = move |text| {
        // Whoever listened may have gone.
        let _ = events.send(StepEvent { step, change: StepChange::Progress(text) });
    };
    let outcome = tokio::task::spawn_blocking(move || executor.run(&job, &cancel, &mut progress)).await;
    Ok(outcome.map_err(|_| RunError::Stopped)??)
}

fn job(run: &StepRun, step: &PlannedStep, prepared: &PreparedStep, run_id: &str) -> Job {
    let mut environment = prepared.environment.clone();
    environment.insert(step_run::RUN_ID.to_owned(), run_id.to_owned());
    environment.insert(step_run::PIPELINES.to_owned(), run.pipeline.pipelines.clone());
    Job {
        name: step.id.clone(),
        program: prepared.program.clone(),
        files: prepared.files.clone(),
        environment,
        limits: JobLimits {
            timeout_ms: step.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            cores: step.resources.cores,
            memory_bytes: step.resources.memory_bytes,
        },
        folder: prepared.in_folder.then(|| run.runner.context.folder.clone()),
    }
}
