//! What running a plan now would do, without doing it.

use serde::Serialize;
use serde_json::{Map, Value};

use super::cache_key::cache_key;
use super::plan::{Decision, Finished, Plan, PlannedStep};
use super::record::{RecordError, Records};
use super::step::{self, StepContext};
use super::step_run::is_there;

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
pub async fn preview(
    plan: &Plan,
    context: &StepContext,
    records: &Records,
) -> Result<Vec<StepPreview>, RecordError> {
    let mut finished: Vec<Option<Finished>> = vec![None; plan.steps.len()];
    let mut previews = Vec::with_capacity(plan.steps.len());
    for (place, step) in plan.steps.iter().enumerate() {
        let (outcome, reason, outputs) = foresee(plan, place, step, &finished, context, records).await?;
        if let Some(slot) = finished.get_mut(place) {
            *slot = match outcome {
                PreviewedOutcome::Cached => Some(Finished::Done(outputs.clone())),
                PreviewedOutcome::Skip => Some(Finished::Skipped),
                PreviewedOutcome::Fail => Some(Finished::Failed),
                PreviewedOutcome::Run | PreviewedOutcome::Unknown => None,
            };
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

async fn foresee(
    plan: &Plan,
    place: usize,
    step: &PlannedStep,
    finished: &[Option<Finished>],
    context: &StepContext,
    records: &Records,
) -> Result<(PreviewedOutcome, String, Map<String, Value>), RecordError> {
    let told = |outcome, reason: String| Ok((outcome, reason, Map::new()));
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
    let key = cache_key(step, &prepared.identity, env!("CARGO_PKG_VERSION"));
    match records.results(&[key]).await?.pop() {
        None => told(PreviewedOutcome::Run, "there is no result of it with these inputs".to_owned()),
        Some((_, result)) if is_there(context, &result.outputs).await => {
            let reason = format!("run {} made its result", result.run_id);
            Ok((PreviewedOutcome::Cached, reason, result.outputs))
        }
        Some(_) => told(PreviewedOutcome::Run, "its result has been removed".to_owned()),
    }
}
