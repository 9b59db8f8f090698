//! Pipelines: a file says what depends on what, running it keeps what is done.
//!
//! Owns the description of steps, the plan, and its execution. Steps run as processes with a description of their own
//! ([`Job`]) behind a trait ([`Executor`]), so this layer needs to know neither training nor serving.

pub mod executor;
mod job;

pub use job::{FILES_OUT, Job, JobEnd, JobFile, JobLimits, JobOutcome, OUTPUTS, Program};
