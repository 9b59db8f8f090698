//! Many trainings on the same matrices in search of the best: trials on threads, each a run below the sweep's.
//!
//! The order of steps of a trial: the search suggests parameters by what others have reached; a run begins; after each
//! round the scheduler may end it; the model is judged; if it was not ended early, it is kept as a bundle. A trial that
//! fails is a failed run, and not the end of the sweep; a database that fails is.

mod resume;

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;
use tokio::runtime::Handle;

use super::search::{Assignment, Observation, Scheduler, Search};
use super::{
    Prepared, RoundReport, RowSet, RunLog, RunStart, Surroundings, TrainError, TrainSession, Trainer,
};
use crate::domain::{Digest, Direction};
use crate::track::{BUNDLE_TAG, Pair, RunStatus, Tracker};

pub use resume::resume;

/// Tag of a trial's run: its number, from 0.
const TRIAL_TAG: &str = "host.sweep.trial";
/// Tag of a trial's run: what was suggested, as a JSON object of texts.
const PARAMETERS_TAG: &str = "host.sweep.parameters";
/// Tag of a trial's run: why it ended.
const ENDED_TAG: &str = "host.sweep.ended";
/// Tag of a trial's run: the metric by which it could have been ended.
const LIVE_METRIC_TAG: &str = "host.sweep.live_metric";
/// Tag of the best trial's run.
pub const BEST_TAG: &str = "host.sweep.best";

/// What all trials of a sweep share.
pub struct Sweep<'a> {
    /// What they train on.
    pub prepared: &'a Prepared<'a>,
    /// What they try.
    pub search: &'a Search,
    /// The metric of the evaluation that is searched for.
    pub metric: &'a str,
    /// How many there are to be, with those before it was resumed.
    pub trials: u64,
    /// How many run at once.
    pub parallel: usize,
    /// When no more begin, and those that run end after their round.
    pub deadline: Option<Instant>,
    /// Where runs are written.
    pub tracker: Tracker,
    /// What writes them.
    pub runtime: Handle,
    /// What programs need that train, besides the trial's run.
    pub surroundings: Surroundings<'a>,
    /// What a trial trains with and what its run starts with.
    pub plan: &'a (dyn Fn(&Assignment) -> Result<TrialPlan, TrainError> + Sync),
    /// Is told of each trial that has ended.
    pub ended: &'a (dyn Fn(&TrialReport) + Sync),
}

/// What a trial trains with.
pub struct TrialPlan {
    /// What learns.
    pub trainer: Box<dyn Trainer>,
    /// What its run starts with; the sweep adds the trial's number and parameters.
    pub start: RunStart,
}

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TrialEnd {
    /// After all its rounds.
    Finished,
    /// By the scheduler; there is no bundle.
    Stopped,
    /// When the time was up; its bundle is what it was then.
    Time,
    /// By an error.
    Failed,
}

/// What came of a trial.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrialReport {
    /// Its number, from 0.
    pub trial: u64,
    /// Its run.
    pub run_id: String,
    /// How it ended.
    pub ended: TrialEnd,
    /// What was tried.
    #[serde(serialize_with = "as_map")]
    pub params: Assignment,
    /// What the test split says; empty where it failed.
    pub metrics: BTreeMap<String, f64>,
    /// Its bundle, where there is one.
    pub bundle: Option<Digest>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How far a sweep is.
pub struct SweepState {
    scheduler: Scheduler,
    observations: Vec<Observation>,
    reports: Vec<TrialReport>,
    /// Trials that were begun and are to be done again.
    again: VecDeque<(u64, Assignment)>,
    next: u64,
}

impl SweepState {
    /// A sweep that has not begun.
    pub fn new(scheduler: Scheduler) -> Self {
        let (observations, reports, again) = (Vec::new(), Vec::new(), VecDeque::new());
        Self { scheduler, observations, reports, again, next: 0 }
    }

    /// Trials that have ended.
    pub fn reports(&self) -> &[TrialReport] {
        &self.reports
    }

    fn note(&mut self, sweep: &Sweep<'_>, report: TrialReport) {
        let value = report.metrics.get(sweep.metric).copied().unwrap_or(f64::NAN);
        self.observations.push(Observation { assignment: report.params.clone(), value });
        self.reports.push(report);
    }
}

impl Sweep<'_> {
    /// Runs trials until there are enough, the grid is searched or the time is up. Gives all, by number.
    pub fn run(&self, state: SweepState) -> Result<Vec<TrialReport>, TrainError> {
        let state = Mutex::new(state);
        let failed: Mutex<Option<TrainError>> = Mutex::new(None);
        let work = || {
            while let Some((trial, assignment)) = self.next(&state)
                && lock(&failed).is_none()
            {
                match self.trial(trial, &assignment, &state) {
                    Ok(report) => {
                        (self.ended)(&report);
                        lock(&state).note(self, report);
                    }
                    Err(error) => {
                        lock(&failed).get_or_insert(error);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.parallel.max(1) {
                scope.spawn(work);
            }
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut reports = state.into_inner().unwrap_or_else(PoisonError::into_inner).reports;
        reports.sort_by_key(|report| report.trial);
        Ok(reports)
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn next(&self, state: &Mutex<SweepState>) -> Option<(u64, Assignment)> {
        if self.is_over() {
            return None;
        }
        let mut state = lock(state);
        if let Some(again) = state.again.pop_front() {
            return Some(again);
        }
        if state.next >= self.trials {
            return None;
        }
        let assignment = self.search.suggest(state.next, &state.observations)?;
        let trial = state.next;
        state.next += 1;
        Some((trial, assignment))
    }

    /// Runs a trial; an error here is not the trial's.
    fn trial(
        &self,
        trial: u64,
        assignment: &Assignment,
        state: &Mutex<SweepState>,
    ) -> Result<TrialReport, TrainError> {
        let TrialPlan { trainer, mut start } = (self.plan)(assignment)?;
        let map: BTreeMap<&str, &str> =
            assignment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        start.tags.push(tag(TRIAL_TAG, trial.to_string()));
        start.tags.push(tag(PARAMETERS_TAG, serde_json::json!(map).to_string()));
        let log = RunLog::start(self.runtime.clone(), self.tracker.clone(), start)?;
        let mut live = Live { sweep: self, state, log: &log, trial, metric: None, ended: TrialEnd::Finished };
        let learned = self.learn(trainer.as_ref(), &mut live);
        let (metric, ended) = (live.metric, live.ended);
        let mut report = TrialReport {
            trial,
            run_id: log.run_id().to_owned(),
            ended,
            params: assignment.clone(),
            metrics: BTreeMap::new(),
            bundle: None,
            error: None,
        };
        let mut tags: Vec<Pair> = metric.map(|metric| tag(LIVE_METRIC_TAG, metric)).into_iter().collect();
        let kept = learned.and_then(|learned| self.keep(learned, &log, &mut report));
        let (status, params) = match kept {
            Ok(params) => (RunStatus::Finished, params),
            // Not the trial's error: it is done anew when the sweep is resumed.
            Err(TrainError::Stopped) => {
                log.finish(RunStatus::Killed, Vec::new(), Vec::new())?;
                return Err(TrainError::Stopped);
            }
            Err(error) => {
                report.ended = TrialEnd::Failed;
                report.error = Some(error.to_string());
                tags.push(tag("host.error", error.to_string()));
                (RunStatus::Failed, Vec::new())
            }
        };
        tags.push(tag(ENDED_TAG, report.ended.as_str()));
        tags.extend(report.bundle.map(|bundle| tag(BUNDLE_TAG, bundle.to_string())));
        log.finish(status, params, tags)?;
        Ok(report)
    }

    fn learn(&self, trainer: &dyn Trainer, live: &mut Live<'_>) -> Result<super::Learned, TrainError> {
        let log = live.log;
        let mut on_round = |round: RoundReport| live.on_round(&round);
        let surroundings = Surroundings { log: Some(log), ..self.surroundings };
        let mut session = TrainSession { surroundings, ..TrainSession::new(&mut on_round) };
        self.prepared.learn(trainer, &mut session)
    }

    /// Notes what a model is worth, and keeps it unless it was ended early. Gives the run's parameters.
    fn keep(
        &self,
        learned: super::Learned,
        log: &RunLog,
        report: &mut TrialReport,
    ) -> Result<Vec<Pair>, TrainError> {
        let metrics = learned.evaluation.metrics.clone();
        if !metrics.contains_key(self.metric) {
            let known = metrics.into_keys().collect();
            return Err(TrainError::NoMetric { name: self.metric.to_owned(), known });
        }
        log.evaluation(&learned.evaluation, learned.train_seconds)?;
        let mut params = Vec::new();
        if report.ended != TrialEnd::Stopped {
            let kept = self.prepared.keep(learned)?;
            report.bundle = Some(kept.bundle);
            params = kept.parameters.into_iter().map(|(key, value)| Pair { key, value }).collect();
        }
        report.metrics = metrics;
        Ok(params)
    }
}

/// The best of the trials that have a bundle; of equals the first.
pub fn best<'r>(reports: &'r [TrialReport], metric: &str, direction: Direction) -> Option<&'r TrialReport> {
    let value = |report: &TrialReport| report.metrics.get(metric).copied().unwrap_or(f64::NAN);
    let kept = reports.iter().filter(|report| report.bundle.is_some() && !value(report).is_nan());
    kept.reduce(
        |best, report| if direction.is_better_by(value(report), value(best), 0.0) { report } else { best },
    )
}

/// A trial that is under way.
struct Live<'a> {
    sweep: &'a Sweep<'a>,
    state: &'a Mutex<SweepState>,
    log: &'a RunLog,
    trial: u64,
    /// The metric by which the scheduler judges: the last of the test rows.
    metric: Option<String>,
    ended: TrialEnd,
}

impl Live<'_> {
    fn on_round(&mut self, round: &RoundReport) -> ControlFlow<()> {
        self.log.round(round);
        let is_last = round.round >= round.of;
        let judged = round.metrics.iter().rev().find(|metric| metric.set == RowSet::Test);
        if let Some(metric) = judged {
            let cost = Direction::of_metric(&metric.name).cost(metric.value);
            if self.metric.is_none() {
                self.metric = Some(format!("{}-{}", metric.set.name(), metric.name));
            }
            let goes_on = lock(self.state).scheduler.goes_on(self.trial, round.round, cost);
            if !goes_on && !is_last {
                self.ended = TrialEnd::Stopped;
                return ControlFlow::Break(());
            }
        }
        if self.sweep.is_over() && !is_last {
            self.ended = TrialEnd::Time;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

impl TrialEnd {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Stopped => "stopped",
            Self::Time => "time",
            Self::Failed => "failed",
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tag(key: &str, value: impl Into<String>) -> Pair {
    Pair { key: key.to_owned(), value: value.into() }
}

fn as_map<S: serde::Serializer>(assignment: &Assignment, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(assignment.iter().map(|(name, value)| (name, value)))
}
