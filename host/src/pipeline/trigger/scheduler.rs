//! Looks what is due and starts it; goes on with what a killed server had started.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::due::{Decision, Start, decide};
use super::enabled::{Claim, TriggerError, Triggers, WatchedPipeline};
use crate::pipeline::executor::{Executor, LocalExecutor};
use crate::pipeline::owner::Owner;
use crate::pipeline::record::{
    NewPipelineRecord, PipelineRecord, PipelineStatus, RecordError, Records, RunningPipeline,
};
use crate::pipeline::start::prepare_run;
use crate::pipeline::{PipelineFile, PipelineRunner, Plan, RunOptions, StepContext, step_run};
use crate::process::Cancel;
use crate::registry::Registry;
use crate::track::{ErrorCode, RunStatus, TrackError, now_ms};

/// Pipelines that a server runs at a time; more stay due. Each may use all cores, so that more would only take turns.
pub const RUNS_MAX: usize = 4;

/// How often it is looked what has happened.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time for steps to end and for their records, once a server is told to stop: as long as requests under way have.
const GRACE: Duration = Duration::from_secs(10);

/// Pause before the end of a run is recorded again, where the database could not.
const PAUSE: Duration = Duration::from_secs(5);

/// Starts pipelines by their triggers.
pub struct Scheduler {
    triggers: Triggers,
    runs: Runs,
    /// Each gives the run's id when it ends.
    running: JoinSet<String>,
    /// The ids of those.
    run_ids: HashSet<String>,
    /// This process.
    owner: Owner,
    /// Whether looking failed the last time, which is told once.
    is_failing: bool,
}

/// What runs pipelines.
#[derive(Clone)]
struct Runs {
    registry: Registry,
    records: Records,
    executor: Arc<dyn Executor>,
    cores: u32,
    cancel: Arc<Cancel>,
}

/// Why the scheduler gave up looking for now.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error("{0}")]
    Trigger(#[from] TriggerError),
    #[error("{0}")]
    Record(#[from] RecordError),
}

impl From<TrackError> for LookError {
    fn from(error: TrackError) -> Self {
        Self::Record(error.into())
    }
}

impl Scheduler {
    /// A scheduler over the database and the store of `registry`.
    pub fn new(registry: Registry, executor: LocalExecutor) -> Self {
        let database = registry.tracker().database();
        let (triggers, records) = (Triggers::new(database.clone()), Records::new(database.clone()));
        let cores = executor.cores();
        let runs = Runs { registry, records, executor: Arc::new(executor), cores, cancel: Arc::default() };
        Self {
            triggers,
            runs,
            running: JoinSet::new(),
            run_ids: HashSet::new(),
            owner: Owner::this_process(),
            is_failing: false,
        }
    }

    /// Looks and starts until `stop` is ready; then stops what runs, and returns when that is recorded.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut stop => break,
                _ = ticks.tick() => {}
            }
            match self.look().await {
                Ok(()) => self.is_failing = false,
                Err(error) => {
                    if !self.is_failing {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "triggers cannot be looked at"
                        );
                    }
                    self.is_failing = true;
                }
            }
        }
        self.runs.cancel.cancel();
        let ended = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            tracing::warn!("pipelines were still under way after {} s and were cut off", GRACE.as_secs());
        }
    }

    async fn look(&mut self) -> Result<(), LookError> {
        while let Some(ended) = self.running.try_join_next() {
            if let Ok(run_id) = ended {
                self.run_ids.remove(&run_id);
            }
        }
        let mut pipelines = self.triggers.watch().await?;
        if pipelines.is_empty() {
            return Ok(());
        }
        let mut busy = HashSet::new();
        for run in self.runs.records.running().await? {
            if !self.may_live(&run) {
                let is_enabled = pipelines.iter().any(|pipeline| pipeline.name == run.name);
                if !run.is_triggered || !is_enabled {
                    continue;
                }
                // It goes before what is due, also where it has to wait for others.
                if self.running.len() < RUNS_MAX && !busy.contains(&run.name) {
                    self.resume(&run.run_id).await?;
                }
            }
            busy.insert(run.name);
        }
        // Those that wait longest first, or some would never have a place.
        pipelines.sort_by_key(|pipeline| pipeline.fired_at);
        for pipeline in pipelines {
            if self.running.len() >= RUNS_MAX {
                break;
            }
            if !busy.contains(&pipeline.name) {
                self.consider(pipeline).await?;
            }
        }
        Ok(())
    }

    /// Whether somebody may be at a run. Of this process's own it is known: where a write was kept although the database
    /// could not say so, there may be one that nobody is at.
    fn may_live(&self, run: &RunningPipeline) -> bool {
        match &run.owner {
            Some(owner) if *owner == self.owner => self.run_ids.contains(&run.run_id),
            Some(owner) => owner.may_live(),
            None => false,
        }
    }

    /// Starts a pipeline that is not running, if something is due.
    async fn consider(&mut self, mut pipeline: WatchedPipeline) -> Result<(), LookError> {
        for watched in pipeline.triggers.iter_mut().filter(|watched| watched.newest.is_some()) {
            watched.event = self.triggers.event(&pipeline.name, &watched.trigger, watched.seen).await?;
        }
        match decide(&pipeline.name, &pipeline.triggers, now_ms()) {
            Decision::Wait => Ok(()),
            Decision::Pass(looks) => Ok(self.triggers.pass(pipeline.key, looks).await?),
            Decision::Start(start) => self.start(pipeline, start).await,
        }
    }

    async fn start(&mut self, pipeline: WatchedPipeline, start: Start) -> Result<(), LookError> {
        let Some(file) = self.triggers.file(pipeline.key).await? else { return Ok(()) };
        let (triggered_by, pipelines) = (start.cause(), start.pipelines.clone());
        let claim = Claim { pipeline: pipeline.key, starts: pipeline.starts, start, now_ms: now_ms() };
        let refused = match plan(file.clone()).await {
            Err(reason) => reason,
            Ok(plan) => {
                let name = plan.name.clone();
                let new = NewPipelineRecord { name, file, triggered_by, pipelines };
                match self.write_start(claim.clone(), new).await {
                    Ok(Some(record)) => {
                        self.spawn(plan, record);
                        return Ok(());
                    }
                    Ok(None) => return Ok(()),
                    Err(error) if may_pass(&error) => return Err(error.into()),
                    Err(error) => error.to_string(),
                }
            }
        };
        tracing::warn!(pipeline = pipeline.name, "a pipeline cannot be started: {refused}");
        Ok(self.triggers.refuse(claim, refused).await?)
    }

    async fn write_start(
        &self,
        claim: Claim,
        new: NewPipelineRecord,
    ) -> Result<Option<PipelineRecord>, RecordError> {
        let run = prepare_run(self.runs.registry.tracker(), &new).await?;
        self.triggers.start(claim, run, new).await
    }

    /// Goes on with a run whose server was killed.
    async fn resume(&mut self, run_id: &str) -> Result<(), LookError> {
        let record = self.runs.records.find(run_id).await?;
        let is_own = record.owner.as_ref() == Some(&self.owner);
        let record = match self.runs.records.take_over(&record, is_own).await {
            Ok(record) => record,
            // Another was quicker.
            Err(RecordError::Owned { .. } | RecordError::Finished { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match plan(PipelineFile::from(&record)).await {
            Ok(plan) => {
                tracing::warn!(
                    pipeline = record.name,
                    run = record.run_id,
                    "going on with an interrupted run"
                );
                self.spawn(plan, record);
            }
            Err(reason) => {
                let (runs, reason) = (self.runs.clone(), format!("it cannot go on: {reason}"));
                self.hold(record.run_id.clone(), async move { runs.give_up(&record, &reason).await });
            }
        }
        Ok(())
    }

    fn spawn(&mut self, plan: Arc<Plan>, record: PipelineRecord) {
        let runs = self.runs.clone();
        self.hold(record.run_id.clone(), async move { runs.run(plan, record).await });
    }

    /// Holds on to what is done for a run, until it ends.
    fn hold(&mut self, run_id: String, work: impl Future<Output = ()> + Send + 'static) {
        self.run_ids.insert(run_id.clone());
        self.running.spawn(async move {
            work.await;
            run_id
        });
    }
}

impl Runs {
    /// Runs a pipeline to its end, whatever that is.
    async fn run(self, plan: Arc<Plan>, record: PipelineRecord) {
        tracing::info!(
            pipeline = record.name,
            run = record.run_id,
            triggered_by = record.triggered_by,
            "a pipeline runs"
        );
        let runner = PipelineRunner {
            context: StepContext::new(self.registry.clone(), (&record.folder).into()),
            records: self.records.clone(),
            executor: Arc::clone(&self.executor),
            cores: self.cores,
            options: RunOptions::default(),
        };
        let (cancel, of_run) = (Arc::clone(&self.cancel), record.clone());
        // A task of its own, so that one that panics is recorded too.
        let ran = tokio::spawn(async move { runner.run(plan, &of_run, cancel, &mut |_| {}).await });
        match ran.await {
            Ok(Ok(report)) if report.status == PipelineStatus::Finished => {
                tracing::info!(pipeline = record.name, run = record.run_id, "a pipeline has finished");
            }
            Ok(Ok(report)) => tell(&record, &format!("it is {}", report.status.as_str())),
            Ok(Err(error)) => self.give_up(&record, &error.to_string()).await,
            Err(error) => self.give_up(&record, &error.to_string()).await,
        }
    }

    /// Records that a run that this process is at has failed, or the pipeline would wait for it.
    async fn give_up(&self, record: &PipelineRecord, reason: &str) {
        tell(record, reason);
        let tracker = self.registry.tracker();
        if let Err(error) = step_run::end(tracker, &record.run_id, RunStatus::Failed).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "the run of a pipeline was not ended");
        }
        while let Err(error) = self.records.end(record, PipelineStatus::Failed).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the end of a pipeline was not recorded"
            );
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn tell(record: &PipelineRecord, reason: &str) {
    let run = &record.run_id;
    let pipeline = &record.name;
    tracing::warn!(pipeline, "a run did not finish: {reason}; go on with it: host pipeline resume {run}");
}

/// The plan of a file, or why it cannot be run.
async fn plan(file: PipelineFile) -> Result<Arc<Plan>, String> {
    // A large file takes a while, and the folder may be on a disk that hangs.
    let planned = tokio::task::spawn_blocking(move || match file.folder.is_dir() {
        true => file.plan().map(Arc::new).map_err(|error| error.to_string()),
        false => Err(format!("its folder `{}` is not there", file.folder.display())),
    });
    planned.await.unwrap_or_else(|error| Err(error.to_string()))
}

/// Whether it may go well another time.
fn may_pass(error: &RecordError) -> bool {
    match error {
        RecordError::Database(_) => true,
        RecordError::Track(error) => {
            matches!(error.code(), ErrorCode::TemporarilyUnavailable | ErrorCode::InternalError)
        }
        _ => false,
    }
}
