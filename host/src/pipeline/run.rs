//! Runs a plan: what is ready is started while there are cores, what was made before is not made again, what fails is
//! tried again, and what does not need it goes on.
//!
//! The order of things for a step: its values are filled in from the outputs of those it needs; what it names is looked up
//! and fixed by digest; if its result is there, that is it; else its run is created and recorded, the executor runs it,
//! and its outputs are recorded together with the key that finds them again. A process that is killed in between leaves a
//! record of a step that is running, which [`PipelineRunner::run`] ends before it starts that step anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::task::JoinSet;

use super::attempt::{Attempted, attempt};
use super::executor::{Executor, ExecutorError};
use super::plan::{Decision, Finished, Plan, PlannedStep};
use super::record::{PipelineRecord, PipelineStatus, RecordError, Records, StepRecord};
use super::status::StepStatus;
use super::step::StepContext;
use super::step_run::{self, StepRun};
use crate::process::Cancel;
use crate::track::{RunStatus, TrackError, now_ms};

/// Runs plans.
#[derive(Clone)]
pub struct PipelineRunner {
    /// Where steps find what they name.
    pub context: StepContext,
    /// Where progress is recorded.
    pub records: Records,
    /// What runs the steps.
    pub executor: Arc<dyn Executor>,
    /// Cores that all steps together may use.
    pub cores: u32,
    /// How to run.
    pub options: RunOptions,
}

/// How to run a plan.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunOptions {
    /// Run every step, whether its result is there or not.
    pub ignore_results: bool,
    /// Start nothing new once a step has failed.
    pub fail_fast: bool,
}

/// Something happened to a step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepEvent {
    /// Its place in the plan.
    pub step: usize,
    /// What.
    pub change: StepChange,
}

/// What happened to a step.
#[derive(Debug, Clone, PartialEq)]
pub enum StepChange {
    /// It is being run, for the so-manieth time.
    Started {
        /// From 1.
        attempt: u32,
    },
    /// It says how far it is.
    Progress(String),
    /// An attempt has failed; the next comes after a pause.
    Retrying {
        /// Why.
        reason: String,
        /// The pause.
        after: Duration,
    },
    /// It has ended.
    Ended(StepRecord),
}

/// How a pipeline ended.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineReport {
    /// How.
    pub status: PipelineStatus,
    /// Every step, in the plan's order.
    pub steps: Vec<StepRecord>,
    /// How long it took.
    pub seconds: f64,
}

/// A pipeline that could not be run, whatever its steps are.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Progress cannot be recorded.
    #[error("{0}")]
    Record(#[from] RecordError),
    /// Runs cannot be recorded.
    #[error("{0}")]
    Track(#[from] TrackError),
    /// The executor failed.
    #[error("{0}")]
    Executor(#[from] ExecutorError),
    /// A task of this program has ended without a word.
    #[error("a step was given up")]
    Stopped,
}

/// A step that has ended, as its task tells it.
pub(super) struct EndedStep {
    pub(super) step: usize,
    pub(super) record: StepRecord,
}

impl PipelineRunner {
    /// Runs what of `plan` has not ended well in `record`, which this process owns, and records how it ended.
    ///
    /// `observe` is told of every step. Where `cancel` says stop, steps under way are stopped and nothing new is begun.
    pub async fn run(
        &self,
        plan: Arc<Plan>,
        record: &PipelineRecord,
        cancel: Arc<Cancel>,
        observe: &mut (dyn FnMut(StepEvent) + Send),
    ) -> Result<PipelineReport, RunError> {
        let started = Instant::now();
        step_run::end_abandoned(self.context.registry.tracker(), record).await?;
        let before = self.records.steps(record).await?;
        let mut state = RunState::new(&plan, before);
        let outcome = self.run_steps(&plan, record, &mut state, &cancel, observe).await;
        let status = match &outcome {
            Err(_) => PipelineStatus::Failed,
            Ok(()) if cancel.is_cancelled() => PipelineStatus::Cancelled,
            Ok(()) if state.has_failed() => PipelineStatus::Failed,
            Ok(()) => PipelineStatus::Finished,
        };
        let of_run = match status {
            PipelineStatus::Finished => RunStatus::Finished,
            PipelineStatus::Cancelled => RunStatus::Killed,
            _ => RunStatus::Failed,
        };
        step_run::end(self.context.registry.tracker(), &record.run_id, of_run).await?;
        self.records.end(record, status).await?;
        outcome?;
        let steps = state.records.into_iter().flatten().collect();
        Ok(PipelineReport { status, steps, seconds: started.elapsed().as_secs_f64() })
    }

    async fn run_steps(
        &self,
        plan: &Arc<Plan>,
        record: &PipelineRecord,
        state: &mut RunState,
        cancel: &Arc<Cancel>,
        observe: &mut (dyn FnMut(StepEvent) + Send),
    ) -> Result<(), RunError> {
        let (events, mut told) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        loop {
            while let Some((place, decision)) = state.next(plan, self, cancel) {
                let Some(step) = plan.steps.get(place) else { break };
                match decision {
                    Next::End(status, reason) => {
                        let ended = ended_now(step, status, reason);
                        self.records.step(record, ended.clone(), None).await?;
                        observe(StepEvent { step: place, change: StepChange::Ended(ended.clone()) });
                        state.end(place, ended);
                    }
                    Next::Run(with) => {
                        state.start(place, step);
                        let run = StepRun {
                            runner: self.clone(),
                            plan: Arc::clone(plan),
                            pipeline: record.clone(),
                            place,
                            with,
                            cancel: Arc::clone(cancel),
                            events: events.clone(),
                        };
                        tasks.spawn(attempt_step(run));
                    }
                }
            }
            tokio::select! {
                Some(event) = told.recv() => observe(event),
                joined = tasks.join_next() => match joined {
                    None => return Ok(()),
                    Some(joined) => {
                        let ended = joined.map_err(|_| RunError::Stopped)??;
                        while let Ok(event) = told.try_recv() {
                            observe(event);
                        }
                        let change = StepChange::Ended(ended.record.clone());
                        observe(StepEvent { step: ended.step, change });
                        state.end(ended.step, ended.record);
                    }
                },
            }
        }
    }
}

async fn attempt_step(run: StepRun) -> Result<EndedStep, RunError> {
    let place = run.place;
    let Attempted { record } = attempt(run).await?;
    Ok(EndedStep { step: place, record })
}

/// What is to be done with a step that waits.
enum Next {
    Run(Map<String, Value>),
    End(StepStatus, String),
}

/// How far every step is.
struct RunState {
    finished: Vec<Option<Finished>>,
    records: Vec<Option<StepRecord>>,
    running: HashMap<usize, u32>,
    /// All before it have ended or are running.
    first_waiting: usize,
}

impl RunState {
    /// What has ended well stays so; all else waits.
    fn new(plan: &Plan, before: Vec<StepRecord>) -> Self {
        let mut before: HashMap<String, StepRecord> =
            before.into_iter().map(|record| (record.step.clone(), record)).collect();
        let has_ended_well =
            |record: &StepRecord| matches!(record.status, StepStatus::Finished | StepStatus::Cached);
        let records: Vec<Option<StepRecord>> =
            plan.steps.iter().map(|step| before.remove(&step.id).filter(has_ended_well)).collect();
        let finished = records.iter().map(|record| record.as_ref().map(finished)).collect();
        Self { finished, records, running: HashMap::new(), first_waiting: 0 }
    }

    fn has_failed(&self) -> bool {
        self.records
            .iter()
            .flatten()
            .any(|record| matches!(record.status, StepStatus::Failed | StepStatus::Blocked))
    }

    fn waits(&self, place: usize) -> bool {
        self.finished.get(place).is_some_and(Option::is_none) && !self.running.contains_key(&place)
    }

    /// The first step that something can be done with now.
    fn next(&mut self, plan: &Plan, runner: &PipelineRunner, cancel: &Cancel) -> Option<(usize, Next)> {
        while self.first_waiting < plan.steps.len() && !self.waits(self.first_waiting) {
            self.first_waiting += 1;
        }
        let gives_up = runner.options.fail_fast && self.has_failed();
        let used: u32 = self.running.values().sum();
        let places = self.first_waiting..plan.steps.len();
        places.filter(|place| self.waits(*place)).find_map(|place| {
            if cancel.is_cancelled() {
                return Some((
                    place,
                    Next::End(StepStatus::Cancelled, "the pipeline was stopped".to_owned()),
                ));
            }
            if gives_up {
                let reason = "another step has failed".to_owned();
                return Some((place, Next::End(StepStatus::Blocked, reason)));
            }
            // A step that wants more cores than there are gets all of them, alone.
            let wanted = plan.steps.get(place).map_or(1, cores).min(runner.cores);
            if used > 0 && used + wanted > runner.cores {
                return None;
            }
            let next = match plan.decide(place, &self.finished) {
                Ok(Decision::Wait(_)) => return None,
                Ok(Decision::Run(with)) => Next::Run(with),
                Ok(Decision::Skip(reason)) => Next::End(StepStatus::Skipped, reason),
                Ok(Decision::Blocked(needed)) => {
                    let needed = plan.steps.get(needed).map(|step| step.id.as_str()).unwrap_or_default();
                    Next::End(StepStatus::Blocked, format!("it needs `{needed}`"))
                }
                Err(error) => Next::End(StepStatus::Failed, error.to_string()),
            };
            Some((place, next))
        })
    }

    fn start(&mut self, place: usize, step: &PlannedStep) {
        self.running.insert(place, cores(step));
    }

    fn end(&mut self, place: usize, record: StepRecord) {
        self.running.remove(&place);
        if let (Some(state), Some(slot)) = (self.finished.get_mut(place), self.records.get_mut(place)) {
            *state = Some(finished(&record));
            *slot = Some(record);
        }
    }
}

/// Cores that a step counts for: one that does not say how many may use all, beside others.
fn cores(step: &PlannedStep) -> u32 {
    step.resources.cores.unwrap_or(1)
}

fn finished(record: &StepRecord) -> Finished {
    match record.status {
        StepStatus::Finished | StepStatus::Cached => Finished::Done(record.outputs.clone()),
        StepStatus::Skipped => Finished::Skipped,
        StepStatus::Waiting
        | StepStatus::Running
        | StepStatus::Failed
        | StepStatus::Blocked
        | StepStatus::Cancelled => Finished::Failed,
    }
}

fn ended_now(step: &PlannedStep, status: StepStatus, reason: String) -> StepRecord {
    let now = now_ms();
    StepRecord {
        step: step.id.clone(),
        status,
        run_id: String::new(),
        attempts: 0,
        outputs: Map::new(),
        reason,
        started_at: now,
        ended_at: Some(now),
    }
}
