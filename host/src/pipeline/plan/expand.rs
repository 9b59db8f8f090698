use std::collections::HashMap;

use serde_json::{Map, Value as Json};

use super::{EDGES_MAX, Members, PLAN_MAX_BYTES, Plan, PlannedStep};
use crate::pipeline::check::{MEMBERS_MAX, STEPS_MAX, check_axis, step_needs};
use crate::pipeline::file::{Axis, PipelineSpec, StepSpec};
use crate::pipeline::order::order;
use crate::pipeline::parameter;
use crate::pipeline::problem::{Problems, quoted};
use crate::pipeline::template::Reference;
use crate::pipeline::tree::{Budget, Stop, TreeKind, weight};
use crate::pipeline::trigger::Trigger;
use crate::pipeline::uses::{self, StepKind};

/// Expands matrices, fills parameters in and puts the steps in order. What it returns counts only without problems.
pub(super) fn expand(spec: &PipelineSpec, given: &[(String, String)], problems: &mut Problems) -> Plan {
    let parameters = parameter::values(spec, given, problems);
    let (name, triggers) = (spec.name.clone(), spec.triggers.clone());
    let mut plan = Plan { name, triggers, parameters, steps: Vec::new(), members: HashMap::new() };
    if !problems.is_empty() {
        return plan;
    }
    let needs = step_needs(spec);
    let mut budget = Budget(PLAN_MAX_BYTES);
    let mut edges: usize = 0;
    for index in order(&needs).order {
        let Some(step) = spec.steps.get(index) else { continue };
        let before = needs.get(index).into_iter().flatten().filter_map(|index| spec.steps.get(*index));
        let members = before.filter_map(|step| plan.members.get(&step.name));
        let mut planned_needs: Vec<usize> = members.flat_map(|members| members.range.clone()).collect();
        planned_needs.sort_unstable();
        let matrix = members_of(step, &plan.parameters, &mut budget, problems);
        edges = edges.saturating_add(planned_needs.len().saturating_mul(matrix.len()));
        if plan.steps.len().saturating_add(matrix.len()) > STEPS_MAX {
            problems
                .add(step.place, format!("too many steps: expected at most {STEPS_MAX}, matrices expanded"));
            return plan;
        }
        if edges > EDGES_MAX {
            problems.add(
                step.place,
                format!("steps need each other in more than {EDGES_MAX} ways, matrices expanded"),
            );
            return plan;
        }
        let start = plan.steps.len();
        for member in matrix {
            match planned(step, member, planned_needs.clone(), &plan.parameters, &mut budget, problems) {
                Ok(planned) => {
                    check_triggers(&planned, &plan.triggers, problems);
                    plan.steps.push(planned);
                }
                Err(Stop::Failed(message) | Stop::Skipped(message)) => {
                    problems.add(step.place, format!("step {}: {message}", quoted(&step.name)));
                    return plan;
                }
            }
        }
        let members = Members { range: start..plan.steps.len(), is_matrix: !step.matrix.is_empty() };
        plan.members.insert(step.name.clone(), members);
        if problems.are_plenty() {
            return plan;
        }
    }
    plan
}

fn planned(
    step: &StepSpec,
    matrix: Map<String, Json>,
    needs: Vec<usize>,
    parameters: &Map<String, Json>,
    budget: &mut Budget,
    problems: &mut Problems,
) -> Result<PlannedStep, Stop> {
    let known = |reference: &Reference| match reference {
        Reference::Parameter(name) => parameters.get(name).cloned(),
        Reference::Matrix(name) => matrix.get(name).cloned(),
        Reference::Output { .. } => None,
    };
    let with = step.with.filled(&known, budget)?;
    uses::check(step.uses, &step.name, &with, problems);
    let when = step.when.as_ref().map(|(condition, place)| (condition.filled(&known), *place));
    if let Some((condition, place)) = &when
        && condition.references().is_empty()
    {
        let unknown = |reference: &Reference| Err(Stop::Skipped(reference.to_string()));
        if let Err(Stop::Failed(message)) = condition.is_met(&unknown) {
            problems.add(*place, format!("`when` of step {}: {message}", quoted(&step.name)));
        }
    }
    Ok(PlannedStep {
        id: id(&step.name, &matrix),
        name: step.name.clone(),
        uses: step.uses,
        needs,
        matrix,
        when: when.map(|(condition, _)| condition),
        retry: step.retry,
        timeout: step.timeout,
        is_cached: step.is_cached,
        outputs: step.outputs.clone().unwrap_or_default(),
        resources: step.resources,
        with,
    })
}

/// A pipeline that waits for versions of a dataset and adds some itself would answer itself, or nobody.
fn check_triggers(step: &PlannedStep, triggers: &[Trigger], problems: &mut Problems) {
    let TreeKind::Map(with) = &step.with.kind else { return };
    if !matches!(step.uses.kind, StepKind::Data | StepKind::Transform) {
        return;
    }
    for (key, value) in with {
        let TreeKind::Text(name) = &value.kind else { continue };
        let waits =
            |trigger: &Trigger| matches!(trigger, Trigger::Dataset(dataset) if dataset.as_str() == name);
        if key.name == "name" && triggers.iter().any(waits) {
            let (name, step) = (quoted(name), quoted(&step.name));
            problems.add(
                value.place,
                format!(
                    "step {step} adds versions to dataset {name}, for which a trigger of this pipeline waits: expected \
                     another dataset"
                ),
            );
        }
    }
}

/// `name[axis=value,…]`. Texts that could be mistaken for something else stand in quotes, so that ids are unique.
fn id(name: &str, matrix: &Map<String, Json>) -> String {
    if matrix.is_empty() {
        return name.to_owned();
    }
    let plain = |text: &str| {
        let allowed = |character: char| character.is_alphanumeric() || "-_.+/@:".contains(character);
        !text.is_empty() && text.chars().all(allowed) && serde_json::from_str::<Json>(text).is_err()
    };
    let values: Vec<String> = matrix
        .iter()
        .map(|(axis, value)| match value {
            Json::String(text) if plain(text) => format!("{axis}={text}"),
            other => format!("{axis}={other}"),
        })
        .collect();
    format!("{name}[{}]", values.join(","))
}

/// The values of each member of a step's matrix: all combinations, the last axis fastest; one empty one without a
/// matrix, and where the matrix is wrong.
fn members_of(
    step: &StepSpec,
    parameters: &Map<String, Json>,
    budget: &mut Budget,
    problems: &mut Problems,
) -> Vec<Map<String, Json>> {
    let owner = format!("step {}", quoted(&step.name));
    let known = |reference: &Reference| match reference {
        Reference::Parameter(name) => parameters.get(name).cloned(),
        _ => None,
    };
    let mut members = vec![Map::new()];
    for axis in &step.matrix {
        let values = match axis.values.filled(&known, budget) {
            Ok(values) => Axis { name: axis.name.clone(), values },
            Err(Stop::Failed(message) | Stop::Skipped(message)) => {
                problems.add(axis.values.place, format!("`matrix` of {owner}: {message}"));
                return vec![Map::new()];
            }
        };
        let count = check_axis(&values, &owner, problems);
        if members.len().saturating_mul(count) > MEMBERS_MAX {
            let message = format!("`matrix` of {owner} has too many members: expected at most {MEMBERS_MAX}");
            problems.add(step.place, message);
            return vec![Map::new()];
        }
        // What is no list was told; one member stands for the others, so that the rest of the step is checked.
        let TreeKind::List(list) = &values.values.kind else { continue };
        let list: Vec<Json> = list.iter().map(super::Tree::shown).collect();
        members = members
            .iter()
            .flat_map(|member| {
                list.iter().map(|value| {
                    let mut member = member.clone();
                    member.insert(axis.name.clone(), value.clone());
                    member
                })
            })
            .collect();
    }
    let bytes = members.iter().flat_map(|member| member.values()).map(weight).sum();
    if let Err(Stop::Failed(message)) = budget.spend(bytes) {
        problems.add(step.place, format!("`matrix` of {owner}: {message}"));
    }
    members
}
