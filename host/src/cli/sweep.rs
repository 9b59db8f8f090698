mod progress;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::ValueEnum;
use console::style;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::runtime::Runtime;

use self::progress::Progress;
use super::model::note_if_yanked;
use super::output::{Output, Table, number_text, printable};
use super::run::find;
use super::state::StateArguments;
use super::train::{ProgramSupport, TrainOptions, check_resumed, run_start, start_threads, status_of, tag};
use crate::domain::{Direction, Name, closest};
use crate::registry::{ModelVersion, Registry};
use crate::store::Store;
use crate::track::{BUNDLE_TAG, Run, RunStatus, Tracker};
use crate::train::search::{Assignment, Dimension, Method, Schedule, Scheduler, Search, Space};
use crate::train::sweep::{self, BEST_TAG, Sweep, SweepState, TrialPlan, TrialReport};
use crate::train::{
    EVALUATION_METRICS, Prepared, RunLog, RunStart, TrainError, TrainEvent, TrainSpec, Trainer,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  host sweep --data mnist --preprocess mnist-pixels.wasm --space max_depth=3..10 --space eta=0.01..0.3:log \\
    --trials 20 --metric accuracy --parallel 2 --time 10m --name mnist")]
pub(super) struct SweepArguments {
    #[command(flatten)]
    train: TrainOptions,
    /// A parameter to search: `NAME=LOW..HIGH`, with `:log` where factors count, or `NAME=VALUE,VALUE,…`.
    #[arg(long, required = true, value_name = "NAME=VALUES")]
    space: Vec<String>,
    /// How parameters are chosen.
    #[arg(long, value_enum, default_value_t = MethodKind::Tpe)]
    method: MethodKind,
    /// How trials that promise little are ended early, by the trainer's last metric of the test rows.
    #[arg(long, value_enum, default_value_t = ScheduleKind::None)]
    schedule: ScheduleKind,
    /// Rounds before which no trial is ended early.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    min_rounds: u32,
    /// Of so many trials one goes on at each rung.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=100))]
    reduction: u32,
    /// Trials in all [default: 20, or the whole grid].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    trials: Option<u64>,
    /// The metric of the test rows to search for.
    #[arg(long, default_value = "accuracy")]
    metric: String,
    /// Whether the metric is to be small or large [default: what its name tells].
    #[arg(long, value_name = "minimize|maximize")]
    direction: Option<Direction>,
    /// Trials at once, which share the threads.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,
    /// When to end, such as `90s`, `10m` or `2h`: what runs then counts as it is.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
    /// Name of the model that gets the best bundle as a new version [default: it is not registered].
    #[arg(long)]
    name: Option<Name>,
    /// Experiment that the runs belong to [default: the model's name, or the dataset's].
    #[arg(long, value_name = "NAME")]
    experiment: Option<String>,
    /// Name of the run [default: one is made up].
    #[arg(long, value_name = "NAME")]
    run_name: Option<String>,
    /// Go on with a sweep that did not finish; all but trials, time and parallel is to be as it was.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["experiment", "run_name"])]
    resume: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MethodKind {
    /// Every combination.
    Grid,
    /// By chance.
    Random,
    /// By what the results suggest.
    Tpe,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ScheduleKind {
    /// None is ended.
    None,
    /// Successive halving.
    Halving,
    /// Hyperband.
    Hyperband,
}

/// The command, as runs name it.
const SOURCE: &str = "host sweep";

/// Trials where nobody says how many.
const TRIALS: u64 = 20;

pub(super) fn run(arguments: &SweepArguments, state: &StateArguments, output: &Output) -> anyhow::Result<()> {
    arguments.train.let_idle_threads_sleep();
    let began = Instant::now();
    check_metric(&arguments.metric)?;
    let direction = arguments.direction.unwrap_or_else(|| Direction::of_metric(&arguments.metric));
    let search = arguments.search(direction)?;
    let store = state.open_store()?;
    let program = arguments.train.program(&store)?;
    let trainer =
        |assignment: &Assignment, threads| arguments.train.trainer(program.as_ref(), assignment, threads);
    let spec = arguments.train.spec(state, program.as_ref())?;
    let threads = arguments.threads_of_a_trial();
    for assignment in search.space().bounds() {
        trainer(&assignment, Some(threads))?;
    }
    let common = trainer(&Vec::new(), None)?;
    if common.rounds() == 0 && !matches!(arguments.schedule, ScheduleKind::None) {
        bail!(
            "the rounds of a program are its own, and its trials are not ended early: leave out `--schedule`"
        );
    }
    let runtime = start_threads()?;
    let tracker = runtime.block_on(state.open_tracker())?;
    let support =
        arguments.train.is_command().then(|| ProgramSupport::start(&runtime, tracker.clone())).transpose()?;
    let start = arguments.run_start(&spec, common.as_ref(), direction);
    let parent = Parent::begin(arguments, start, &runtime, tracker)?;
    let work = Work {
        arguments,
        search,
        direction,
        began,
        spec: &spec,
        trainer: &|assignment| trainer(assignment, Some(threads)),
        rounds: common.rounds(),
        support: support.as_ref(),
        parent: &parent,
    };
    let finished = work.trials(&store, output).and_then(|reports| {
        let best = best(&reports, &arguments.metric, direction)?.clone();
        let version = parent.keep_best(&best, arguments.name.as_ref())?;
        Ok((reports, best, version))
    });
    match finished {
        Ok((reports, best, version)) => {
            let run_id = parent.log.run_id().to_owned();
            parent.finish(&best)?;
            print(&run_id, &reports, &best, version.as_ref(), arguments, output)
        }
        Err(error) => {
            // The sweep's error is the one to tell.
            if let Err(error) = parent.log.finish(status_of(&error), Vec::new(), Vec::new()) {
                tracing::warn!(%error, "the run's end was not recorded");
            }
            Err(error)
        }
    }
}

impl SweepArguments {
    fn search(&self, direction: Direction) -> anyhow::Result<Search> {
        let dimensions = self.space.iter().map(|text| text.parse()).collect::<Result<Vec<Dimension>, _>>()?;
        if let Some(dimension) = dimensions.iter().find(|dimension| self.train.sets(&dimension.name)) {
            bail!(
                "parameter `{}` is both set and searched: expected one of `--set` and `--space`",
                dimension.name
            );
        }
        let method = match self.method {
            MethodKind::Grid => Method::Grid,
            MethodKind::Random => Method::Random,
            MethodKind::Tpe => Method::Tpe,
        };
        Ok(Search::new(Space::new(dimensions)?, method, direction, self.train.seed)?)
    }

    fn scheduler(&self, max_rounds: u32) -> Scheduler {
        let schedule = match self.schedule {
            ScheduleKind::None => Schedule::None,
            ScheduleKind::Halving => Schedule::Halving,
            ScheduleKind::Hyperband => Schedule::Hyperband,
        };
        Scheduler::new(schedule, self.min_rounds, max_rounds, self.reduction)
    }

    /// The threads, divided between the trials that run at once.
    fn threads_of_a_trial(&self) -> u16 {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = self.train.threads.map_or_else(cores, usize::from);
        u16::try_from(threads / usize::from(self.parallel)).unwrap_or(u16::MAX).max(1)
    }

    /// What the sweep's own run records: what is common to all trials, and what is searched how.
    fn run_start(&self, spec: &TrainSpec, trainer: &dyn Trainer, direction: Direction) -> RunStart {
        let name = self.name.as_ref().unwrap_or(&spec.dataset.name).to_string();
        let experiment = self.experiment.clone().unwrap_or(name);
        let mut start = run_start(spec, trainer, experiment, self.run_name.clone());
        let name_of = |kind: &dyn Fn() -> Option<clap::builder::PossibleValue>| {
            kind().map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        // How many threads a trial has depends on how many run at once, which may be another number when it is resumed.
        start.params.retain(|param| param.key != "nthread");
        for text in &self.space {
            let (name, values) = text.split_once('=').unwrap_or((text, ""));
            start.params.push(tag(&format!("space.{}", name.trim()), values));
        }
        start.params.extend([
            tag("sweep.method", name_of(&|| self.method.to_possible_value())),
            tag("sweep.schedule", name_of(&|| self.schedule.to_possible_value())),
            tag("sweep.metric", self.metric.clone()),
            tag("sweep.direction", direction.as_str()),
            tag("sweep.min_rounds", self.min_rounds.to_string()),
            tag("sweep.reduction", self.reduction.to_string()),
            tag("sweep.seed", self.train.seed.to_string()),
        ]);
        RunStart { source: SOURCE, ..start }
    }
}

/// The run of the sweep itself.
struct Parent<'a> {
    runtime: &'a Runtime,
    tracker: Tracker,
    log: RunLog,
    /// What the run was when it was resumed.
    resumed: Option<Run>,
    /// Trials stay in it.
    experiment: String,
}

impl<'a> Parent<'a> {
    fn begin(
        arguments: &SweepArguments,
        start: RunStart,
        runtime: &'a Runtime,
        tracker: Tracker,
    ) -> anyhow::Result<Self> {
        let handle = runtime.handle().clone();
        let (log, resumed) = match &arguments.resume {
            None => (RunLog::start(handle, tracker.clone(), start)?, None),
            Some(text) => {
                let run = runtime.block_on(find(&tracker, text))?;
                check_resumed(&run, &start)?;
                (RunLog::resume(handle, tracker.clone(), &run)?, Some(run))
            }
        };
        // Not what was asked for: the run may have been created for the sweep, by a pipeline, or long ago.
        let experiment = runtime.block_on(async {
            let run = tracker.run(log.run_id()).await?;
            tracker.experiment(&run.info.experiment_id).await
        })?;
        Ok(Self { runtime, tracker, log, resumed, experiment: experiment.name })
    }

    /// Marks the best trial, and makes it a version of the model, if there is to be one.
    fn keep_best(&self, best: &TrialReport, name: Option<&Name>) -> anyhow::Result<Option<ModelVersion>> {
        let mark = vec![tag(BEST_TAG, "true")];
        self.runtime.block_on(self.tracker.log_batch(best.run_id.clone(), Vec::new(), Vec::new(), mark))?;
        let registry = Registry::new(self.tracker.clone());
        match (name, best.bundle) {
            (Some(name), Some(bundle)) => {
                Ok(Some(self.runtime.block_on(registry.register_bundle(name, bundle, &best.run_id))?))
            }
            _ => Ok(None),
        }
    }

    fn finish(self, best: &TrialReport) -> anyhow::Result<()> {
        for (name, value) in &best.metrics {
            self.log.metric(format!("test_{name}"), *value, 0);
        }
        let mut tags = vec![tag("host.sweep.best_run", best.run_id.clone())];
        tags.extend(best.bundle.map(|bundle| tag(BUNDLE_TAG, bundle.to_string())));
        Ok(self.log.finish(RunStatus::Finished, Vec::new(), tags)?)
    }
}

type MakeTrainer<'a> = dyn Fn(&Assignment) -> Result<Box<dyn Trainer>, TrainError> + Sync + 'a;

/// What is to be swept.
struct Work<'a> {
    arguments: &'a SweepArguments,
    search: Search,
    direction: Direction,
    began: Instant,
    spec: &'a TrainSpec,
    /// Makes what a trial trains with.
    trainer: &'a MakeTrainer<'a>,
    /// Rounds of a trial, as far as they are known.
    rounds: u32,
    support: Option<&'a ProgramSupport>,
    parent: &'a Parent<'a>,
}

impl Work<'_> {
    fn trials(&self, store: &Store, output: &Output) -> anyhow::Result<Vec<TrialReport>> {
        let (arguments, parent) = (self.arguments, self.parent);
        let prepared = prepare(store, self.spec, self.support, output)?;
        let plan = |assignment: &Assignment| {
            let trainer = (self.trainer)(assignment)?;
            let above = Some(parent.log.run_id().to_owned());
            let start = run_start(self.spec, trainer.as_ref(), parent.experiment.clone(), None);
            // A run that was created for the sweep is the sweep's, and no trial's.
            let start = RunStart { source: SOURCE, run_id: None, parent: above, ..start };
            Ok(TrialPlan { trainer, start })
        };
        let wanted = arguments.trials.unwrap_or_else(|| self.search.trials().unwrap_or(TRIALS));
        let trials = self.search.trials().map_or(wanted, |all| all.min(wanted));
        let progress = Progress::new(output, &parent.log, &arguments.metric, self.direction, trials);
        let sweep = Sweep {
            prepared: &prepared,
            search: &self.search,
            metric: &arguments.metric,
            trials,
            parallel: usize::from(arguments.parallel),
            deadline: arguments.time.and_then(|time| self.began.checked_add(time)),
            tracker: parent.tracker.clone(),
            runtime: parent.runtime.handle().clone(),
            surroundings: self.support.map(ProgramSupport::surroundings).unwrap_or_default(),
            plan: &plan,
            ended: &|report| progress.ended(report),
        };
        let scheduler = arguments.scheduler(self.rounds);
        let state = match &parent.resumed {
            None => SweepState::new(scheduler),
            Some(run) => parent.runtime.block_on(sweep::resume(&sweep, run, scheduler))?,
        };
        progress.knows(state.reports());
        let reports = sweep.run(state)?;
        progress.bar.finish();
        Ok(reports)
    }
}

/// Reads the data with a bar of its own for each phase.
fn prepare<'a>(
    store: &'a Store,
    spec: &'a TrainSpec,
    support: Option<&ProgramSupport>,
    output: &Output,
) -> anyhow::Result<Prepared<'a>> {
    let mut bar: Option<ProgressBar> = None;
    let prepared = Prepared::read(store, spec, &mut |event| {
        match event {
            TrainEvent::Phase { name, steps } => {
                if let Some(ended) = bar.replace(output.progress(steps, name)) {
                    ended.finish();
                }
            }
            TrainEvent::Progress(steps) => bar.iter().for_each(|bar| bar.inc(steps)),
            TrainEvent::Round(_) => {}
        }
        match support.is_some_and(ProgramSupport::is_stopping) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    if let Some(bar) = bar {
        bar.finish();
    }
    Ok(prepared?)
}

/// Refuses a metric that no evaluation has.
fn check_metric(metric: &str) -> anyhow::Result<()> {
    if EVALUATION_METRICS.contains(&metric) {
        return Ok(());
    }
    match closest(metric, EVALUATION_METRICS.iter().copied()) {
        Some(known) => bail!("there is no metric `{metric}`: did you mean `{known}`?"),
        None => bail!("there is no metric `{metric}`: expected one of {}", EVALUATION_METRICS.join(", ")),
    }
}

/// The best trial, or why there is none.
fn best<'r>(
    reports: &'r [TrialReport],
    metric: &str,
    direction: Direction,
) -> anyhow::Result<&'r TrialReport> {
    if let Some(best) = sweep::best(reports, metric, direction) {
        return Ok(best);
    }
    let failed: Vec<&String> = reports.iter().filter_map(|report| report.error.as_ref()).collect();
    match failed.first() {
        None => bail!("no trial ended in time"),
        Some(first) => bail!("{} of {} trials failed, the first with: {first}", failed.len(), reports.len()),
    }
}

/// `90s`, `10m` or `2h`; a number alone is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let refuse = || "expected a time such as `90s`, `10m` or `2h`".to_owned();
    let units = [("s", 1), ("m", 60), ("h", 3_600)];
    let unit = units.into_iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
    let (number, seconds) = unit.unwrap_or((text, 1));
    let number: u64 = number.trim().parse().map_err(|_| refuse())?;
    number.checked_mul(seconds).filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or_else(refuse)
}

fn print(
    run_id: &str,
    reports: &[TrialReport],
    best: &TrialReport,
    version: Option<&ModelVersion>,
    arguments: &SweepArguments,
    output: &Output,
) -> anyhow::Result<()> {
    if let Some(version) = version {
        note_if_yanked(version, output);
    }
    if output.is_json() {
        let mut told = json!({
            "bundle": best.bundle,
            "run_id": run_id,
            "best_run_id": best.run_id,
            "params": best.params.iter().cloned().collect::<BTreeMap<_, _>>(),
            "metrics": best.metrics,
            "trials": reports,
        });
        if let (Some(version), Some(fields)) = (version, told.as_object_mut()) {
            fields.insert("model".to_owned(), json!(version.name));
            fields.insert("version".to_owned(), json!(version.number));
        }
        return output.value(&told);
    }
    let names: Vec<String> = best.params.iter().map(|(name, _)| format!(">{name}")).collect();
    let metric = format!(">{}", arguments.metric);
    let mut header = vec![">trial", "run", "ended", metric.as_str()];
    header.extend(names.iter().map(String::as_str));
    let mut table = Table::new(&header);
    for report in reports {
        let value = report.metrics.get(&arguments.metric).map_or_else(|| "-".to_owned(), |v| number_text(*v));
        let is_best = report.run_id == best.run_id;
        let value =
            if is_best { style(format!("{value}*")).green().to_string() } else { format!("{value} ") };
        let run = report.run_id.get(..8).unwrap_or(&report.run_id).to_owned();
        let mut row = vec![report.trial.to_string(), run, report.ended.as_str().to_owned(), value];
        row.extend(report.params.iter().map(|(_, value)| printable(value)));
        table.styled_row(row);
    }
    output.table(&table)?;
    output.line("")?;
    if let Some(version) = version {
        output.field("model", format!("{}@{}", version.name, version.number))?;
    }
    if let Some(bundle) = best.bundle {
        output.field("bundle", bundle)?;
    }
    output.field("run", run_id)?;
    output.field("best run", &best.run_id)?;
    for (name, value) in &best.metrics {
        output.field(name, number_text(*value))?;
    }
    match (version, best.bundle) {
        (Some(version), _) => output.note(&format!("serve it: host serve --model {}", version.name)),
        (None, Some(bundle)) => output.note(&format!("make it a version: host model register {bundle} NAME")),
        (None, None) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(["5s", "10m", "2h"].map(|text| duration(text).unwrap().as_secs()), [5, 600, 7_200]);
        for text in ["", "m", "0", "-1s", "1d", "1.5h", "99999999999999999999h", "18446744073709551615h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
