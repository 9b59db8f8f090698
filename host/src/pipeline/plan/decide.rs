use serde_json::{Map, Value as Json};

use super::{Plan, PlannedStep, RESOLVED_MAX_BYTES};
use crate::pipeline::problem::{listed, quoted};
use crate::pipeline::template::Reference;
use crate::pipeline::tree::{Budget, Stop};
use crate::pipeline::uses;

/// How a step ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Finished {
    /// It ran, or its result was taken from the cache; these are its outputs.
    Done(Map<String, Json>),
    /// It was not run because of its `when`, or because what it refers to was skipped.
    Skipped,
    /// It failed, or was not run because something that it needs failed.
    Failed,
}

/// What to do with a step now.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Nothing yet: it needs the step with this index, which has not finished.
    Wait(usize),
    /// It never runs: it needs the step with this index, which failed.
    Blocked(usize),
    /// It is skipped; the reason in words for people.
    Skip(String),
    /// It runs with these values for `with`, checked and without any template.
    Run(Map<String, Json>),
}

/// A step whose values cannot be resolved from the outputs of others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("step `{step}`: {message}")]
pub struct ResolveError {
    step: String,
    message: String,
}

impl Plan {
    /// What to do with the step of that index, where `finished` says how each step ended (by index; none: not yet).
    ///
    /// A step waits for all that it needs. It is skipped if its `when` is false, or if it refers to an output of a
    /// skipped step; an element of a list that does so is left out, and only a list of which nothing is left skips
    /// the step. What stands only in `needs` may be skipped without any effect.
    ///
    /// # Errors
    /// An output is missing or of a type that the field does not take, or `when` compares what cannot be compared.
    pub fn decide(&self, index: usize, finished: &[Option<Finished>]) -> Result<Decision, ResolveError> {
        let Some(step) = self.steps.get(index) else {
            return Err(ResolveError { step: index.to_string(), message: "does not exist".to_owned() });
        };
        let mut waits = None;
        for &needed in &step.needs {
            match finished.get(needed) {
                Some(Some(Finished::Failed)) => return Ok(Decision::Blocked(needed)),
                Some(Some(_)) => {}
                _ => waits = waits.or(Some(needed)),
            }
        }
        if let Some(needed) = waits {
            return Ok(Decision::Wait(needed));
        }
        match self.resolved(step, finished) {
            Ok(decision) => Ok(decision),
            Err(Stop::Skipped(of)) => Ok(Decision::Skip(format!("{} was skipped", quoted(&of)))),
            Err(Stop::Failed(message)) => Err(ResolveError { step: step.id.clone(), message }),
        }
    }

    fn resolved(&self, step: &PlannedStep, finished: &[Option<Finished>]) -> Result<Decision, Stop> {
        let look_up = |reference: &Reference| self.value(reference, finished);
        if let Some(condition) = &step.when
            && !condition.is_met(&look_up)?
        {
            return Ok(Decision::Skip(format!("`when` is false: {condition}")));
        }
        let mut budget = Budget(RESOLVED_MAX_BYTES);
        match step.with.resolved(&look_up, &mut budget)? {
            Json::Object(values) => uses::checked(step.uses, values).map(Decision::Run).map_err(Stop::Failed),
            other => {
                Err(Stop::Failed(format!("`with`: expected a mapping, found {}", uses::described(&other))))
            }
        }
    }

    /// What a reference stands for: of a matrix the list of what its members put out, skipped ones left out.
    fn value(&self, reference: &Reference, finished: &[Option<Finished>]) -> Result<Json, Stop> {
        let unknown = || Stop::Failed(format!("{} has no value", quoted(&reference.to_string())));
        let Reference::Output { step, output, path } = reference else { return Err(unknown()) };
        let members = self.members.get(step).ok_or_else(unknown)?;
        let mut values = Vec::with_capacity(members.range.len());
        for index in members.range.clone() {
            let planned = self.steps.get(index).ok_or_else(unknown)?;
            match finished.get(index) {
                Some(Some(Finished::Done(outputs))) => {
                    values.push(output_of(planned, outputs, output, path)?)
                }
                Some(Some(Finished::Skipped)) => {}
                _ => return Err(unknown()),
            }
        }
        if values.is_empty() {
            Err(Stop::Skipped(step.clone()))
        } else if members.is_matrix {
            Ok(Json::Array(values))
        } else {
            values.pop().ok_or_else(unknown)
        }
    }
}

fn output_of(
    step: &PlannedStep,
    outputs: &Map<String, Json>,
    output: &str,
    path: &[String],
) -> Result<Json, Stop> {
    let missing = |name: &str, of: &str, known: &Map<String, Json>| {
        let known =
            if known.is_empty() { "nothing".to_owned() } else { listed(known.keys().map(String::as_str)) };
        Stop::Failed(format!("{of} did not put out {}: it put out {known}", quoted(name)))
    };
    let owner = format!("step {}", quoted(&step.id));
    let mut value = outputs.get(output).ok_or_else(|| missing(output, &owner, outputs))?;
    let mut name = output;
    for key in path {
        let of = format!("{} of {owner}", quoted(name));
        let map = value.as_object().ok_or_else(|| {
            let found = uses::described(value);
            Stop::Failed(format!("{of}: expected a mapping with {}, found {found}", quoted(key)))
        })?;
        value = map.get(key).ok_or_else(|| missing(key, &of, map))?;
        name = key;
    }
    Ok(value.clone())
}
