mod decide;
mod expand;

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use serde_json::{Map, Value as Json};

use super::condition::Condition;
use super::file::{PipelineSpec, Resources, Retry};
use super::problem::{PipelineError, Problems};
use super::tree::Tree;
use super::trigger::Trigger;
use super::uses::Uses;
use crate::domain::Name;

pub use decide::{Decision, Finished, ResolveError};

/// Most pairs of a step and one that it needs, matrices expanded.
pub const EDGES_MAX: usize = 1_000_000;
/// Most bytes that the values of all steps may take, matrices expanded.
pub const PLAN_MAX_BYTES: usize = 64 << 20;
/// Most bytes that the values of one step may take, outputs of other steps filled in.
pub const RESOLVED_MAX_BYTES: usize = 16 << 20;

/// What runs, in which order: the steps of a pipeline with parameters filled in and matrices expanded.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The pipeline's name.
    pub name: Name,
    /// What starts it besides people.
    pub triggers: Vec<Trigger>,
    /// The values of the parameters, in the order of the file.
    pub parameters: Map<String, Json>,
    /// The steps: each after all that it needs, otherwise in the order of the file; members of a matrix in the order
    /// of its values, the last axis fastest.
    pub steps: Vec<PlannedStep>,
    /// Where the members of each step of the file are.
    members: HashMap<String, Members>,
}

/// One step that runs (or is skipped), or one member of a step's matrix.
#[derive(Debug, Clone)]
pub struct PlannedStep {
    /// `train`, or `train[depth=4,eta=0.1]`; unlike any other's.
    pub id: String,
    /// The step's name in the file.
    pub name: String,
    /// The kind of step.
    pub uses: &'static Uses,
    /// The steps that come before it, as indices of [`Plan::steps`], ascending.
    pub needs: Vec<usize>,
    /// This member's value of each axis; empty without a matrix.
    pub matrix: Map<String, Json>,
    /// Whether it runs; always if there is none.
    pub when: Option<Condition>,
    /// Retries after a failure.
    pub retry: Retry,
    /// When it is ended; never if there is none.
    pub timeout: Option<Duration>,
    /// Whether its result may be taken from the cache.
    pub is_cached: bool,
    /// The outputs that a command must write; empty for others.
    pub outputs: Vec<String>,
    /// What it may use.
    pub resources: Resources,
    /// `with`, where only references to outputs are left as templates.
    with: Tree,
}

/// The planned steps of one step of the file.
#[derive(Debug, Clone)]
struct Members {
    range: Range<usize>,
    is_matrix: bool,
}

impl PipelineSpec {
    /// Plans the pipeline with parameters as they were given (`-p name=value`, the text not yet typed).
    pub fn plan(&self, given: &[(String, String)]) -> Result<Plan, PipelineError> {
        let mut problems = Problems::default();
        let plan = expand::expand(self, given, &mut problems);
        problems.or(&self.file, plan)
    }
}

impl PlannedStep {
    /// `with` for people: what is known, and templates for the outputs that are not.
    pub fn with_shown(&self) -> Json {
        self.with.shown()
    }
}

impl Plan {
    /// The step with that id.
    pub fn index_of(&self, id: &str) -> Option<usize> {
        self.steps.iter().position(|step| step.id == id)
    }

    /// For each step the steps that need it, as indices of [`Plan::steps`], ascending.
    pub fn followers(&self) -> Vec<Vec<usize>> {
        let mut followers = vec![Vec::new(); self.steps.len()];
        for (index, step) in self.steps.iter().enumerate() {
            for needed in &step.needs {
                if let Some(followers) = followers.get_mut(*needed) {
                    followers.push(index);
                }
            }
        }
        followers
    }
}
