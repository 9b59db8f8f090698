//! Jobs as processes of this machine.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity};
use serde_json::{Map, Value};

use super::{Executor, ExecutorError, answer};
use crate::domain::Digest;
use crate::pipeline::job::{FILES_OUT, Job, JobEnd, JobFile, JobOutcome, OUTPUTS, Program};
use crate::process::{self, Cancel, Ended, LimitedCommand, PROGRESS, Stopped, Waiting, how_it_ended};
use crate::store::{Store, StoreError};

/// Files that a command may hand on.
const FILES_OUT_MAX: usize = 10_000;

/// Time that a job has to end by itself when it is told to.
const GRACE: Duration = Duration::from_secs(2);

/// The exit code by which `host monitor run` says that data drifted, for which it was asked.
const DRIFTED: i32 = 4;

/// Starts a process of this machine for each job: in a folder and a process group of its own, on cores of its own, with
/// bounded memory; it ends when this process does, however that ends.
#[derive(Debug)]
pub struct LocalExecutor {
    store: Store,
    program: PathBuf,
    environment: Vec<(OsString, OsString)>,
    cores: Cores,
}

impl LocalExecutor {
    /// An executor over `store`. `program` is this program, and `environment` tells it where the store and its database
    /// are.
    pub fn new(store: Store, program: PathBuf, environment: Vec<(OsString, OsString)>) -> Self {
        Self { store, program, environment, cores: Cores::of_this_process() }
    }

    /// Cores that all jobs together can have.
    pub fn cores(&self) -> u32 {
        u32::try_from(self.cores.all.len()).unwrap_or(u32::MAX).max(1)
    }

    fn start(&self, job: &Job, folder: &Path, cores: &[usize]) -> std::io::Result<Child> {
        let arguments = |arguments: &[String]| arguments.iter().map(OsString::from).collect::<Vec<_>>();
        let command = match &job.program {
            Program::Host(words) => [vec![self.program.clone().into_os_string()], arguments(words)].concat(),
            Program::Command(words) => arguments(words),
        };
        let limited = LimitedCommand {
            memory_bytes: job.limits.memory_bytes,
            cores: cores.to_vec(),
            ..LimitedCommand::of_this_process(command)
        };
        let mut command = limited.to_command(&self.program);
        match job.program {
            Program::Host(_) => command.env(PROGRESS, "1"),
            Program::Command(_) => command.env_remove(PROGRESS),
        };
        command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .envs(&job.environment)
            .env("NO_COLOR", "1")
            .env(OUTPUTS, outputs_path(folder))
            .env(FILES_OUT, files_out(folder))
            .current_dir(job.folder.as_deref().unwrap_or(&work_folder(folder)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }

    /// Puts the job's files into its working folder.
    fn fetch(&self, job: &Job, folder: &Path) -> Result<(), ExecutorError> {
        let work = work_folder(folder);
        for folder in [&work, &files_out(folder)] {
            std::fs::create_dir(folder).map_err(ExecutorError::io("create a folder", job))?;
        }
        for file in &job.files {
            let path = Path::new(&file.path);
            let is_inside = path.components().all(|part| matches!(part, Component::Normal(_)));
            if file.path.is_empty() || !is_inside {
                return Err(ExecutorError::Path { step: job.name.clone(), path: file.path.clone() });
            }
            let path = work.join(path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(ExecutorError::io("create a folder", job))?;
            }
            let mut target =
                std::fs::File::create_new(&path).map_err(ExecutorError::io("write a file", job))?;
            self.store.copy_blob(file.digest, &mut target)?;
        }
        Ok(())
    }

    /// What a process that ended well has answered; the error is the step's.
    fn collect(&self, job: &Job, folder: &Path, ended: &Ended) -> Result<Answer, Unanswered> {
        match job.program {
            Program::Host(_) => Ok((answer::of_host(&ended.answer, ended.answer_cut)?, Vec::new())),
            Program::Command(_) => {
                let mut outputs = answer::of_command(&outputs_path(folder))?;
                let files = self.keep_files(&files_out(folder))?;
                for file in &files {
                    outputs.entry(file.path.clone()).or_insert_with(|| file.digest.to_string().into());
                }
                Ok((outputs, files))
            }
        }
    }

    fn keep_files(&self, folder: &Path) -> Result<Vec<JobFile>, Unanswered> {
        let mut files = Vec::new();
        for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
            let entry = entry.map_err(|error| format!("its files cannot be read: {error}"))?;
            if entry.file_type().is_dir() {
                continue;
            }
            let inside = entry.path().strip_prefix(folder).unwrap_or(entry.path());
            let path = inside.to_str().ok_or_else(|| format!("it made a file `{}`", inside.display()))?;
            if !entry.file_type().is_file() {
                return Err(format!("it made `{path}`, which is not a plain file").into());
            }
            if files.len() == FILES_OUT_MAX {
                return Err(format!("it made more than {FILES_OUT_MAX} files").into());
            }
            let mut file = std::fs::File::open(entry.path())
                .map_err(|error| format!("its file `{path}` cannot be read: {error}"))?;
            let digest: Digest = self.store.put(&mut file)?.digest;
            files.push(JobFile { path: path.to_owned(), digest });
        }
        Ok(files)
    }
}

type Answer = (Map<String, Value>, Vec<JobFile>);

/// Why there is no answer: the step's fault, or the store's.
enum Unanswered {
    Step(String),
    Store(StoreError),
}

impl From<String> for Unanswered {
    fn from(reason: String) -> Self {
        Self::Step(reason)
    }
}

impl From<StoreError> for Unanswered {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Executor for LocalExecutor {
    fn run(
        &self,
        job: &Job,
        cancel: &Cancel,
        progress: &mut dyn FnMut(String),
    ) -> Result<JobOutcome, ExecutorError> {
        let folder = self.store.temporary_folder()?;
        self.fetch(job, folder.path())?;
        let cores = self.cores.take(job.limits.cores);
        let child = self
            .start(job, folder.path(), cores.numbers())
            .map_err(ExecutorError::io("start a process", job))?;
        let mut tell = |line| progress(line);
        let (answer_max_bytes, progress): (_, Option<&mut dyn FnMut(String)>) = match job.program {
            Program::Host(_) => (answer::ANSWER_MAX_BYTES, Some(&mut tell)),
            Program::Command(_) => (0, None),
        };
        let waiting = Waiting {
            timeout: job.limits.timeout_ms.map(Duration::from_millis),
            grace: GRACE,
            answer_max_bytes,
            cancel,
            progress,
            printed: &mut |_| {},
            tick: &mut || ControlFlow::Continue(()),
        };
        let ended = process::wait(child, waiting).map_err(ExecutorError::io("wait for a process", job))?;
        drop(cores);
        let end = match ended.stopped {
            Some(Stopped::TimedOut) => JobEnd::TimedOut,
            Some(Stopped::Cancelled) => JobEnd::Cancelled,
            None if ended.status.success() || is_answer(job, ended.status) => JobEnd::Done,
            None => JobEnd::Failed(format!("it {}", how_it_ended(ended.status, ended.log.last_line()))),
        };
        let (end, (outputs, files)) = match end {
            JobEnd::Done => match self.collect(job, folder.path(), &ended) {
                Ok(answer) => (JobEnd::Done, answer),
                Err(Unanswered::Step(reason)) => (JobEnd::Failed(reason), Answer::default()),
                Err(Unanswered::Store(error)) => return Err(error.into()),
            },
            other => (other, Answer::default()),
        };
        Ok(JobOutcome { end, outputs, files, log: ended.log.into_bytes() })
    }
}

fn work_folder(folder: &Path) -> PathBuf {
    folder.join("work")
}

fn outputs_path(folder: &Path) -> PathBuf {
    folder.join("outputs")
}

fn files_out(folder: &Path) -> PathBuf {
    folder.join("files")
}

/// Whether this program has answered although it did not exit with 0.
fn is_answer(job: &Job, status: ExitStatus) -> bool {
    matches!(job.program, Program::Host(_)) && status.code() == Some(DRIFTED)
}

/// The cores of this process, and how many jobs are on each.
#[derive(Debug)]
struct Cores {
    all: Vec<usize>,
    jobs: Mutex<Vec<u32>>,
}

impl Cores {
    fn of_this_process() -> Self {
        let all = match sched_getaffinity(None) {
            Ok(set) => (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect(),
            Err(_) => Vec::new(),
        };
        let jobs = Mutex::new(vec![0; all.len()]);
        Self { all, jobs }
    }

    /// The `wanted` cores on which there is least to do; none by number where a job may have all.
    fn take(&self, wanted: Option<u32>) -> TakenCores<'_> {
        let mut taken = TakenCores { cores: self, places: Vec::new(), numbers: Vec::new() };
        let wanted = wanted.map_or(self.all.len(), |wanted| wanted as usize);
        if wanted >= self.all.len() {
            return taken;
        }
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut places: Vec<usize> = (0..self.all.len()).collect();
        places.sort_by_key(|place| (jobs.get(*place).copied(), *place));
        for place in places.into_iter().take(wanted.max(1)) {
            if let (Some(jobs), Some(number)) = (jobs.get_mut(place), self.all.get(place)) {
                *jobs += 1;
                taken.places.push(place);
                taken.numbers.push(*number);
            }
        }
        taken
    }
}

struct TakenCores<'a> {
    cores: &'a Cores,
    places: Vec<usize>,
    numbers: Vec<usize>,
}

impl TakenCores<'_> {
    fn numbers(&self) -> &[usize] {
        &self.numbers
    }
}

impl Drop for TakenCores<'_> {
    fn drop(&mut self) {
        let mut jobs = self.cores.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        for place in &self.places {
            if let Some(jobs) = jobs.get_mut(*place) {
                *jobs -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(count: usize) -> Cores {
        Cores { all: (10..10 + count).collect(), jobs: Mutex::new(vec![0; count]) }
    }

    #[test]
    fn jobs_get_the_cores_that_are_free() {
        let cores = cores(3);
        let first = cores.take(Some(1));
        let second = cores.take(Some(2));
        assert_eq!((first.numbers(), second.numbers()), (&[10][..], &[11, 12][..]));
        drop(first);
        assert_eq!(cores.take(Some(1)).numbers(), [10]);
        assert!(cores.take(Some(3)).numbers().is_empty(), "all of them needs no list");
        assert!(cores.take(None).numbers().is_empty());
        assert_eq!(cores.take(Some(0)).numbers().len(), 1);
        drop(second);
        assert!(cores.jobs.into_inner().unwrap().iter().all(|jobs| *jobs == 0));
    }
}
