//! What running a plan now would do, without doing it.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value};

use super::cache_key::identity;
use super::changes::changes;
use super::plan::{Decision, Finished, Plan, PlannedStep};
use super::record::{RecordError, Records};
use super::step::{self, StepContext};
use super::step_run::is_there;
use crate::domain::Digest;

/// Changes that a reason tells.
const CHANGES_TOLD: usize = 3;

/// What would become of a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepPreview {
    /// Its name in the plan.
    pub step: String,
    /// The kind of step.
    pub uses: &'static str,
    /// The steps that it needs.
    pub needs: Vec<String>,
    /// What would become of it.
    pub outcome: PreviewedOutcome,
    /// Why.
    pub reason: String,
    /// What it would answer, where that is known.
    pub outputs: Map<String, Value>,
}

/// What would become of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PreviewedOutcome {
    /// It is run.
    Run,
    /// Its result is there.
    Cached,
    /// It is left out.
    Skip,
    /// It depends on what steps answer that are run before it.
    Unknown,
    /// It cannot be run as it is.
    Fail,
}

/// Tells for every step of `plan`, in its order, what would become of it.
///
/// Of a step that is run each time, such as one that adds data, it is supposed that it answers what it answered last time: else
/// nothing could be told of those that need it.
pub async fn preview(
    plan: &Plan,
    context: &StepContext,
    records: &Records,
) -> Result<Vec<StepPreview>, RecordError> {
    let mut finished: Vec<Option<Finished>> = vec![None; plan.steps.len()];
    // For each step, those of whose answers something is supposed.
    let mut supposed: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); plan.steps.len()];
    let mut previews = Vec::with_capacity(plan.steps.len());
    for (place, step) in plan.steps.iter().enumerate() {
        let Foreseen { outcome, mut reason, outputs } =
            foresee(plan, place, step, &finished, context, records).await?;
        let of_needs = step.needs.iter().filter_map(|need| supposed.get(*need));
        let mut suppositions: BTreeSet<usize> = of_needs.flatten().copied().collect();
        if step.is_cached && matches!(outcome, PreviewedOutcome::Run | PreviewedOutcome::Cached) {
            let of = suppositions.iter().filter_map(|of| plan.steps.get(*of));
            let of: Vec<String> = of.map(|step| format!("`{}`", step.id)).collect();
            if !of.is_empty() {
                reason = format!("{reason}, if {} answers as last time", of.join(" and "));
            }
        }
        let known = match outcome {
            PreviewedOutcome::Cached => Some(Finished::Done(outputs.clone())),
            PreviewedOutcome::Skip => Some(Finished::Skipped),
            PreviewedOutcome::Fail => Some(Finished::Failed),
            PreviewedOutcome::Run if !step.is_cached => {
                let last = records.last_outputs(plan.name.as_str(), &step.id).await?;
                suppositions.extend(last.is_some().then_some(place));
                last.map(Finished::Done)
            }
            PreviewedOutcome::Run | PreviewedOutcome::Unknown => None,
        };
        if let (Some(slot), Some(own)) = (finished.get_mut(place), supposed.get_mut(place)) {
            (*slot, *own) = (known, suppositions);
        }
        previews.push(StepPreview {
            step: step.id.clone(),
            uses: step.uses.name,
            needs: step.needs.iter().filter_map(|need| Some(plan.steps.get(*need)?.id.clone())).collect(),
            outcome,
            reason,
            outputs,
        });
    }
    Ok(previews)
}

/// What would become of a step, why, and what it would answer, where that is known.
struct Foreseen {
    outcome: PreviewedOutcome,
    reason: String,
    outputs: Map<String, Value>,
}

async fn foresee(
    plan: &Plan,
    place: usize,
    step: &PlannedStep,
    finished: &[Option<Finished>],
    context: &StepContext,
    records: &Records,
) -> Result<Foreseen, RecordError> {
    let told = |outcome, reason: String| Ok(Foreseen { outcome, reason, outputs: Map::new() });
    let id = |place: usize| plan.steps.get(place).map(|step| step.id.as_str()).unwrap_or_default();
    let with = match plan.decide(place, finished) {
        Ok(Decision::Run(with)) => with,
        Ok(Decision::Wait(needed)) => {
            return told(PreviewedOutcome::Unknown, format!("it needs `{}`, which runs before", id(needed)));
        }
        Ok(Decision::Blocked(needed)) => {
            return told(PreviewedOutcome::Fail, format!("it needs `{}`", id(needed)));
        }
        Ok(Decision::Skip(reason)) => return told(PreviewedOutcome::Skip, reason),
        Err(error) => return told(PreviewedOutcome::Fail, error.to_string()),
    };
    if !step.is_cached {
        return told(PreviewedOutcome::Run, "it is always run".to_owned());
    }
    let prepared = match step::prepare(step.uses, &with, context).await {
        Ok(prepared) => prepared,
        Err(error) => return told(PreviewedOutcome::Fail, error.to_string()),
    };
    let identity = identity(step, &prepared.identity, env!("CARGO_PKG_VERSION"));
    match records.results(&[Digest::of(identity.as_bytes())]).await?.pop() {
        None => {
            let before = records.last_identity(plan.name.as_str(), &step.id).await?;
            told(PreviewedOutcome::Run, why_run(before.as_deref(), &identity))
        }
        Some((_, result)) if is_there(context, &result.outputs).await => {
            let reason = format!("run {} made its result", result.run_id);
            Ok(Foreseen { outcome: PreviewedOutcome::Cached, reason, outputs: result.outputs })
        }
        Some(_) => told(PreviewedOutcome::Run, "its result has been removed".to_owned()),
    }
}

/// Why there is no result: by what it depends on now and what it depended on when it last made something.
fn why_run(before: Option<&str>, now: &str) -> String {
    let Some(before) = before else { return "it has made nothing yet".to_owned() };
    let changes = changes(before, now);
    match changes.get(..CHANGES_TOLD) {
        _ if changes.is_empty() => "its result is known no more".to_owned(),
        Some(first) if changes.len() > CHANGES_TOLD => {
            format!("{}, and {} more changes", first.join(", "), changes.len() - CHANGES_TOLD)
        }
        _ => changes.join(", "),
    }
}
