//! Pipelines: a file that names steps and what each needs, the plan that it makes, and running it.
//!
//! The planner is pure: it reads no file, clock, network or randomness; text and parameters come in, and what comes out
//! is the same on every machine. It owns the format of `pipeline.yaml`.
//!
//! 1. [`PipelineSpec::parse`] reads the text with budgets and checks it: keys, types, references, circles. All problems
//!    are told together, each with its line and column.
//! 2. [`PipelineSpec::plan`] fills parameters in, expands matrices and puts the steps in order: a [`Plan`].
//! 3. [`Plan::decide`] says of a step, from how the others ended, whether it waits, is skipped, is blocked or runs, and
//!    with which values.
//! 4. [`cache_key`] names the result of a step by all that it depends on.
//!
//! 5. [`PipelineRunner`] runs it: what is ready becomes a [`Job`], a description that means the same on any machine, which
//!    an [`executor::Executor`] runs as a process of its own; what it answers is recorded, so that a pipeline that is
//!    killed goes on. This layer therefore needs to know neither training nor serving.
//!
//! 6. [`trigger`] starts pipelines at times, for new versions of datasets and for alerts of drift.
//!
//! [`graph`] draws a plan, and [`schema()`] describes the file for editors.
//!
//! What `uses` may be stands in one table, [`uses::USES`]. A template `${{ … }}` stands for a parameter, a value of the
//! step's matrix or an output of another step; a value that is exactly one template keeps its type. A reference to an
//! output of a step with a matrix is the list of what all its members put out.

mod attempt;
mod cache_key;
mod changes;
mod check;
mod condition;
pub mod executor;
mod file;
pub mod graph;
mod job;
mod node;
mod order;
mod owner;
mod parameter;
mod plan;
mod preview;
mod problem;
mod quantity;
mod record;
mod run;
mod schema;
mod source;
mod start;
mod status;
mod step;
mod step_run;
mod template;
mod tree;
pub mod trigger;
pub mod uses;

pub use cache_key::cache_key;
pub use check::{MEMBERS_MAX, STEPS_MAX, TEMPLATES_MAX};
pub use condition::Condition;
pub use file::{CORES_MAX, FORMAT_VERSION, NAME_MAX_BYTES, PipelineSpec, RETRIES_MAX, Resources, Retry};
pub use job::{FILES_OUT, Job, JobEnd, JobFile, JobLimits, JobOutcome, OUTPUTS, Program};
pub use node::{ALIASED_MAX, ALIASES_MAX, DEPTH_MAX, FILE_MAX_BYTES, NODES_MAX};
pub use parameter::PARAMETERS_MAX_BYTES;
pub use plan::{
    Decision, EDGES_MAX, Finished, PLAN_MAX_BYTES, Plan, PlannedStep, RESOLVED_MAX_BYTES, ResolveError,
};
pub use preview::{PreviewedOutcome, StepPreview, preview};
pub use problem::{PROBLEMS_MAX, PipelineError, Place, Problem};
pub use quantity::DURATION_MAX;
pub use record::{NewPipelineRecord, PipelineRecord, PipelineStatus, RecordError, Records, StepRecord};
pub use run::{PipelineReport, PipelineRunner, RunError, RunOptions, StepChange, StepEvent};
pub use schema::schema;
pub use source::{PipelineFile, PipelineFileError};
pub use start::start_pipeline;
pub use status::StepStatus;
pub use step::StepContext;
pub use step_run::{PIPELINES, RUN_ID};
pub use template::Reference;

#[cfg(test)]
mod tests;
