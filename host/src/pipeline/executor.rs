//! Where jobs run. The trait takes nothing but a job's description, so that a queue of workers on other machines can
//! stand behind it as well as [`LocalExecutor`], which starts a process of this machine for each.

mod answer;
mod local;

use super::job::{Job, JobOutcome};
use crate::process::Cancel;
use crate::store::StoreError;

pub use local::LocalExecutor;

/// Runs jobs.
pub trait Executor: Send + Sync {
    /// Runs a job to its end, on whatever thread calls; several may be under way.
    ///
    /// A job that fails, hangs or is stopped is an outcome. An error is a failure of the executor or the store, which
    /// says nothing of the job. `progress` is told, in words, how far a job is that says so.
    fn run(
        &self,
        job: &Job,
        cancel: &Cancel,
        progress: &mut dyn FnMut(String),
    ) -> Result<JobOutcome, ExecutorError>;
}

/// A job could not be run, whatever it is.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// Files cannot be fetched or kept.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The operating system refused.
    #[error("failed to {action} for step `{step}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// For which step.
        step: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A path of a job would leave its folder.
    #[error("step `{step}` has a file `{path}`: expected a relative path without `..`")]
    Path {
        /// The step.
        step: String,
        /// The path.
        path: String,
    },
}

impl ExecutorError {
    fn io(action: &'static str, job: &Job) -> impl FnOnce(std::io::Error) -> Self {
        let step = job.name.clone();
        move |source| Self::Io { action, step, source }
    }
}
