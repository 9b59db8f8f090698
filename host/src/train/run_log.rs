//! Reports a training to a run: what it is given, its metrics while it goes on, and what came of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{Evaluation, RoundReport, checkpoint};
use crate::domain::{Digest, Name};
use crate::registry::{ModelVersion, Registry, RegistryError};
use crate::track::{
    ArtifactPath, DatasetInput, InputDataset, Metric, NewRun, PARENT_TAG, Pair, Run, RunChange, RunStatus,
    TrackError, Tracker, now_ms,
};

/// Metrics that may wait to be written; a training that is faster than the database waits.
const QUEUE_MAX: usize = 10_000;

/// How long metrics are collected before they are written.
const COLLECT: Duration = Duration::from_millis(200);

/// How often the use of processor and memory is logged.
const SYSTEM_INTERVAL: Duration = Duration::from_secs(2);

/// Metric of the memory in use, as MLflow names it.
const MEMORY: &str = "system/system_memory_usage_megabytes";

/// Metrics of one request.
const BATCH_MAX: usize = 1_000;

/// What is known before the training starts.
#[derive(Debug, Clone, Default)]
pub struct RunStart {
    /// The command that starts it.
    pub source: &'static str,
    /// The run that was created for it; without one a new one is.
    pub run_id: Option<String>,
    /// The run that it is a part of, by its id.
    pub parent: Option<String>,
    /// Name of the experiment, created if there is none.
    pub experiment: String,
    /// For people.
    pub run_name: Option<String>,
    /// What the trainer is told.
    pub params: Vec<Pair>,
    /// The dataset version, and the digests of plugins.
    pub tags: Vec<Pair>,
    /// The dataset.
    pub dataset: Option<InputDataset>,
}

/// What the task that writes is told.
enum Entry {
    Point(Metric),
    /// To be told when all points before it are written.
    Written(oneshot::Sender<()>),
}

/// A run that is under way.
pub struct RunLog {
    tracker: Tracker,
    runtime: Handle,
    run_id: String,
    /// The last step of each metric that was logged before a run was resumed.
    logged: BTreeMap<String, i64>,
    entries: mpsc::Sender<Entry>,
    writer: JoinHandle<Result<(), TrackError>>,
}

impl RunLog {
    /// Starts a run. Must not be called on a thread of `runtime`, which does the writing.
    pub fn start(runtime: Handle, tracker: Tracker, start: RunStart) -> Result<Self, TrackError> {
        let run_id = runtime.block_on(create(&tracker, start))?;
        Ok(Self::log(runtime, tracker, run_id, BTreeMap::new()))
    }

    /// Goes on with a run that has not finished. What it has logged already is not logged again.
    pub fn resume(runtime: Handle, tracker: Tracker, run: &Run) -> Result<Self, TrackError> {
        let run_id = run.info.run_id.clone();
        let change = RunChange { status: Some(RunStatus::Running), ..RunChange::default() };
        runtime.block_on(tracker.update_run(run_id.clone(), change))?;
        let logged = run.data.metrics.iter().map(|metric| (metric.key.clone(), metric.step)).collect();
        Ok(Self::log(runtime, tracker, run_id, logged))
    }

    fn log(runtime: Handle, tracker: Tracker, run_id: String, logged: BTreeMap<String, i64>) -> Self {
        let (entries, waiting) = mpsc::channel(QUEUE_MAX);
        let first_step = logged.get(MEMORY).map_or(0, |step| step + 1);
        let writer = runtime.spawn(write(tracker.clone(), run_id.clone(), waiting, first_step));
        Self { tracker, runtime, run_id, logged, entries, writer }
    }

    /// The run's id.
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Logs a point; it is written a moment later.
    pub fn metric(&self, key: impl Into<String>, value: f64, step: u32) {
        let key = key.into();
        if self.logged.get(&key).is_some_and(|logged| i64::from(step) <= *logged) {
            return;
        }
        // Where the writer has failed, the end tells why.
        let point = Metric::new(key, value, now_ms(), i64::from(step));
        let _ = self.entries.blocking_send(Entry::Point(point));
    }

    /// Logs the metrics of a round, each under its rows and its name.
    pub fn round(&self, round: &RoundReport) {
        for metric in &round.metrics {
            self.metric(format!("{}-{}", metric.set.name(), metric.name), metric.value, round.round);
        }
    }

    /// Stores a file of the run.
    pub fn artifact(&self, path: &str, content: Vec<u8>) -> Result<(), TrackError> {
        let stored = async {
            let run = self.tracker.run(&self.run_id).await?;
            self.tracker.put_run_artifact(&run, path, content).await
        };
        self.runtime.block_on(stored)
    }

    /// Shows blobs that are in the store already as files of the run: of each its path, digest and size.
    pub fn link(&self, files: &[(String, Digest, u64)]) -> Result<(), TrackError> {
        self.runtime.block_on(async {
            let folder = self.tracker.artifact_folder(&self.tracker.run(&self.run_id).await?)?;
            let link = |(path, digest, size): &(String, Digest, u64)| {
                Ok((folder.join(&ArtifactPath::parse(path)?), *digest, *size))
            };
            let links = files.iter().map(link).collect::<Result<Vec<_>, TrackError>>()?;
            self.tracker.link_artifacts(links).await
        })
    }

    /// Keeps what the test split said: metrics as `test_…`, and all of it as `evaluation.json`.
    pub fn evaluation(&self, evaluation: &Evaluation, train_seconds: f64) -> Result<(), TrackError> {
        for (name, value) in &evaluation.metrics {
            self.metric(format!("test_{name}"), *value, 0);
        }
        self.metric("train_seconds", train_seconds, 0);
        let internal = |error: serde_json::Error| TrackError::internal(error.to_string());
        if !evaluation.confusion.is_empty() {
            self.artifact("confusion.json", serde_json::to_vec(&evaluation.confusion).map_err(internal)?)?;
        }
        self.artifact("evaluation.json", serde_json::to_vec_pretty(evaluation).map_err(internal)?)
    }

    /// Keeps what the training can be continued from: the newest two are artifacts of the run.
    ///
    /// The metrics of its rounds are written first, because a training that goes on from it does not tell them again.
    pub fn checkpoint(&self, round: u32, bytes: Vec<u8>) -> Result<(), TrackError> {
        let (written, told) = oneshot::channel();
        // Where the writer has failed, nobody holds the other end any more.
        let _ = self.entries.blocking_send(Entry::Written(written));
        told.blocking_recv().map_err(|_| {
            let reason = format!("the metrics before the checkpoint after round {round} were not written");
            TrackError::internal(reason)
        })?;
        self.runtime.block_on(checkpoint::keep(&self.tracker, &self.run_id, round, bytes))
    }

    /// The newest checkpoint: the round after which it was made, and its bytes.
    pub fn newest_checkpoint(&self) -> Result<Option<(u32, Vec<u8>)>, TrackError> {
        self.runtime.block_on(async {
            let run = self.tracker.run(&self.run_id).await?;
            checkpoint::newest(&self.tracker, &run).await
        })
    }

    /// Adds the bundle that the run made to a model, as a version.
    pub fn register(&self, model: &Name, bundle: Digest) -> Result<ModelVersion, RegistryError> {
        let registry = Registry::new(self.tracker.clone());
        self.runtime.block_on(registry.register_bundle(model, bundle, &self.run_id))
    }

    /// Writes what waits, and how the run ended.
    pub fn finish(self, status: RunStatus, params: Vec<Pair>, tags: Vec<Pair>) -> Result<(), TrackError> {
        let Self { tracker, runtime, run_id, entries, writer, logged: _ } = self;
        drop(entries);
        runtime.block_on(async {
            let written = writer.await.map_err(|error| TrackError::internal(error.to_string()))?;
            tracker.log_batch(run_id.clone(), Vec::new(), params, tags).await?;
            let change = RunChange { status: Some(status), end_time: Some(now_ms()), run_name: None };
            tracker.update_run(run_id, change).await?;
            written
        })
    }
}

async fn create(tracker: &Tracker, start: RunStart) -> Result<String, TrackError> {
    let tag = |key: &str, value: String| Pair { key: key.to_owned(), value };
    let mut tags = start.tags;
    tags.push(tag("mlflow.source.name", start.source.to_owned()));
    tags.extend(start.parent.map(|parent| tag(PARENT_TAG, parent)));
    tags.push(tag("mlflow.source.type", "LOCAL".to_owned()));
    if let Some(commit) = git_commit(Path::new(".")) {
        tags.push(tag("mlflow.source.git.commit", commit));
    }
    let user_id = std::env::var("USER").unwrap_or_default();
    if !user_id.is_empty() {
        tags.push(tag("mlflow.user", user_id.clone()));
    }
    let run_id = match start.run_id {
        Some(run_id) => {
            tracker.log_batch(run_id.clone(), Vec::new(), start.params, tags).await?;
            run_id
        }
        None => {
            let experiment_id = tracker.ensure_experiment(&start.experiment).await?;
            let new = NewRun { experiment_id, run_name: start.run_name, user_id, start_time: None, tags };
            let run_id = tracker.create_run(new).await?.info.run_id;
            tracker.log_batch(run_id.clone(), Vec::new(), start.params, Vec::new()).await?;
            run_id
        }
    };
    if let Some(dataset) = start.dataset {
        let context = tag("mlflow.data.context", "training".to_owned());
        let input = DatasetInput { tags: vec![context], dataset };
        tracker.log_inputs(run_id.clone(), vec![input], Vec::new()).await?;
    }
    Ok(run_id)
}

/// The commit that is checked out where the user stands; none where there is no repository.
fn git_commit(folder: &Path) -> Option<String> {
    let output = std::process::Command::new("git")
        .args(["rev-parse", "HEAD"])
        .current_dir(folder)
        .stderr(std::process::Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let commit = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (commit.len() >= 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(commit)
}

/// Writes points a few times a second, and at once where somebody waits for it, with the use of processor and memory
/// among them.
async fn write(
    tracker: Tracker,
    run_id: String,
    mut waiting: mpsc::Receiver<Entry>,
    first_step: i64,
) -> Result<(), TrackError> {
    let mut system = SystemUse::default();
    let mut next_system = tokio::time::Instant::now();
    let mut step = first_step;
    loop {
        let mut points = Vec::new();
        tokio::select! {
            first = waiting.recv() => match first {
                Some(Entry::Point(point)) => points.push(point),
                Some(Entry::Written(told)) => {
                    let _ = told.send(());
                    continue;
                }
                None => return Ok(()),
            },
            () = tokio::time::sleep_until(next_system) => {
                points.extend(system.points(step));
                step += 1;
                next_system += SYSTEM_INTERVAL;
            }
        }
        let told = collect(&mut waiting, &mut points).await;
        tracker.log_batch(run_id.clone(), points, Vec::new(), Vec::new()).await?;
        if let Some(told) = told {
            let _ = told.send(());
        }
    }
}

/// Adds points that come within a moment, as many as one request takes. Tells who waits for them to be written.
async fn collect(
    waiting: &mut mpsc::Receiver<Entry>,
    points: &mut Vec<Metric>,
) -> Option<oneshot::Sender<()>> {
    let end = tokio::time::Instant::now() + COLLECT;
    while points.len() < BATCH_MAX {
        match tokio::time::timeout_at(end, waiting.recv()).await {
            Ok(Some(Entry::Point(point))) => points.push(point),
            Ok(Some(Entry::Written(told))) => return Some(told),
            Ok(None) | Err(_) => return None,
        }
    }
    None
}

/// What the process uses, from `/proc`; nothing where there is none.
#[derive(Default)]
struct SystemUse {
    last: Option<(std::time::Instant, f64)>,
}

impl SystemUse {
    /// Points named as MLflow names them.
    fn points(&mut self, step: i64) -> Vec<Metric> {
        let mut points = Vec::new();
        let now = std::time::Instant::now();
        let mut add = |key: &str, value: f64| points.push(Metric::new(key, value, now_ms(), step));
        if let Some(seconds) = cpu_seconds() {
            if let Some((then, before)) = self.last {
                let passed = now.duration_since(then).as_secs_f64();
                if passed > 0.0 {
                    add("system/cpu_utilization_percentage", 100.0 * (seconds - before) / passed);
                }
            }
            self.last = Some((now, seconds));
        }
        if let Some(megabytes) = resident_megabytes() {
            add(MEMORY, megabytes);
        }
        points
    }
}

/// Processor time of this process so far, with that of threads which have ended.
fn cpu_seconds() -> Option<f64> {
    /// What Linux counts in for programs, whatever it counts in for itself.
    const TICKS_PER_SECOND: f64 = 100.0;
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name, which may hold anything; the third follows its closing bracket.
    let (_, fields) = text.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (times.next()?.parse().ok()?, times.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

/// Memory that this process occupies, in megabytes.
fn resident_megabytes() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes / 1_024.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Database, DatabaseUrl, Store};
    use crate::track::Lifecycle;

    #[test]
    fn tells_what_the_process_uses() {
        let mut system = SystemUse::default();
        let first = system.points(0);
        assert!(first.iter().any(|point| point.key.contains("memory") && point.value > 1.0), "{first:?}");
        let second = system.points(1);
        assert!(second.iter().any(|point| point.key.contains("cpu") && point.value >= 0.0), "{second:?}");
    }

    #[test]
    fn a_checkpoint_is_not_there_before_the_rounds_that_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let tracker = runtime.block_on(async {
            let database = Database::open(&DatabaseUrl::default(), store.folder()).await.unwrap();
            Tracker::new(database, store)
        });
        let start = RunStart { experiment: "digits".to_owned(), ..RunStart::default() };
        let log = RunLog::start(runtime.handle().clone(), tracker.clone(), start).unwrap();
        for round in 1..=3 {
            log.metric("loss", 0.5, round);
            log.checkpoint(round, vec![0; 8]).unwrap();
            // What a training finds that goes on after this one was killed here.
            let history = runtime.block_on(tracker.metric_history(log.run_id(), "loss", None, None)).unwrap();
            let steps: Vec<i64> = history.metrics.iter().map(|point| point.step).collect();
            assert_eq!(steps, (1..=i64::from(round)).collect::<Vec<_>>());
            assert_eq!(log.newest_checkpoint().unwrap().unwrap().0, round);
        }
        runtime.block_on(tracker.set_run_lifecycle(log.run_id().to_owned(), Lifecycle::Deleted)).unwrap();
        log.metric("loss", 0.5, 4);
        let error = log.checkpoint(4, vec![0; 8]).unwrap_err().to_string();
        assert!(error.contains("metrics before the checkpoint after round 4 were not written"), "{error}");
        assert!(log.finish(RunStatus::Finished, Vec::new(), Vec::new()).is_err());
    }

    #[test]
    fn knows_the_commit_of_a_repository_only() {
        assert!(git_commit(Path::new("/")).is_none());
    }
}
