use std::collections::HashMap;

use super::file::{Axis, PipelineSpec, StepSpec};
use super::order::order;
use super::problem::{Place, Problems, listed, quoted, suggestion};
use super::template::Reference;
use super::tree::TreeKind;

/// Most steps, matrices expanded.
pub const STEPS_MAX: usize = 10_000;
/// Most members of one matrix.
pub const MEMBERS_MAX: usize = 1_000;
/// Most templates in a file.
pub const TEMPLATES_MAX: usize = 50_000;

/// What is known of a file by name.
struct Names<'spec> {
    parameters: HashMap<&'spec str, usize>,
    steps: HashMap<&'spec str, usize>,
    spec: &'spec PipelineSpec,
}

impl<'spec> Names<'spec> {
    fn of(spec: &'spec PipelineSpec) -> Self {
        let parameters = spec.parameters.iter().map(|parameter| parameter.name.as_str());
        let steps = spec.steps.iter().map(|step| step.name.as_str());
        Self {
            parameters: parameters.enumerate().map(|(index, name)| (name, index)).collect(),
            steps: steps.enumerate().map(|(index, name)| (name, index)).collect(),
            spec,
        }
    }
}

/// For each step the steps that come before it, by index: those of `needs` and those that its templates name.
pub(super) fn step_needs(spec: &PipelineSpec) -> Vec<Vec<usize>> {
    let names = Names::of(spec);
    spec.steps
        .iter()
        .map(|step| {
            let mut needs: Vec<usize> =
                step.needs.iter().filter_map(|(name, _)| names.steps.get(name.as_str()).copied()).collect();
            visit_references(step, &mut |reference, _| {
                if let Reference::Output { step, .. } = reference {
                    needs.extend(names.steps.get(step.as_str()));
                }
            });
            needs.sort_unstable();
            needs.dedup();
            needs
        })
        .collect()
}

/// For each parameter those that its default refers to, by index.
pub(super) fn parameter_needs(spec: &PipelineSpec) -> Vec<Vec<usize>> {
    let names = Names::of(spec);
    spec.parameters
        .iter()
        .map(|parameter| {
            let mut needs = Vec::new();
            parameter.default.visit_references(&mut |reference, _| {
                if let Reference::Parameter(name) = reference {
                    needs.extend(names.parameters.get(name.as_str()).copied());
                }
            });
            needs.sort_unstable();
            needs.dedup();
            needs
        })
        .collect()
}

fn visit_references<'spec>(step: &'spec StepSpec, visit: &mut impl FnMut(&'spec Reference, Place)) {
    step.with.visit_references(visit);
    if let Some((condition, place)) = &step.when {
        condition.references().into_iter().for_each(|reference| visit(reference, *place));
    }
}

/// Checks what the parts of a file say of each other.
pub(super) fn check(spec: &PipelineSpec, problems: &mut Problems) {
    let names = Names::of(spec);
    if let Some(step) = spec.steps.get(STEPS_MAX) {
        problems.add(step.place, format!("too many steps: expected at most {STEPS_MAX}"));
        return;
    }
    let mut templates = 0;
    for parameter in &spec.parameters {
        parameter.default.visit_references(&mut |reference, place| {
            templates += 1;
            let owner = format!("parameter {}", quoted(&parameter.name));
            match reference {
                Reference::Parameter(name) => check_parameter(name, place, &owner, &names, problems),
                other => problems.add(
                    place,
                    format!(
                        "{owner} refers to {}: only `params` can be used here",
                        quoted(&other.to_string())
                    ),
                ),
            }
        });
    }
    for step in &spec.steps {
        if problems.are_plenty() {
            return;
        }
        check_step(step, &names, &mut templates, problems);
        if templates > TEMPLATES_MAX {
            problems
                .add(step.place, format!("too many templates: expected at most {TEMPLATES_MAX} in a file"));
            return;
        }
    }
    for circle in order(&parameter_needs(spec)).circles {
        let known = circle.iter().filter_map(|index| spec.parameters.get(*index));
        let parameters: Vec<_> = known.map(|parameter| (parameter.name.as_str(), parameter.place)).collect();
        tell_circle("parameters refer to each other in a circle", &parameters, problems);
    }
    for circle in order(&step_needs(spec)).circles {
        let known = circle.iter().filter_map(|index| spec.steps.get(*index));
        let steps: Vec<_> = known.map(|step| (step.name.as_str(), step.place)).collect();
        tell_circle("steps need each other in a circle", &steps, problems);
    }
}

fn tell_circle(message: &str, circle: &[(&str, Place)], problems: &mut Problems) {
    const SHOWN: usize = 10;
    let Some((first, place)) = circle.first() else { return };
    let mut names: Vec<&str> = circle.iter().take(SHOWN).map(|(name, _)| *name).collect();
    if circle.len() > SHOWN {
        names.push("…");
    }
    names.push(first);
    problems.add(*place, format!("{message}: `{}`", names.join(" → ")));
}

fn check_step(step: &StepSpec, names: &Names<'_>, templates: &mut usize, problems: &mut Problems) {
    let owner = format!("step {}", quoted(&step.name));
    for (needed, place) in &step.needs {
        if !names.steps.contains_key(needed.as_str()) {
            tell_unknown_step(needed, *place, &format!("{owner} needs"), names, problems);
        }
    }
    visit_references(step, &mut |reference, place| {
        *templates += 1;
        match reference {
            Reference::Parameter(name) => check_parameter(name, place, &owner, names, problems),
            Reference::Matrix(name) => {
                if !step.matrix.iter().any(|axis| axis.name == *name) {
                    let axes = step.matrix.iter().map(|axis| axis.name.as_str());
                    let reason = if step.matrix.is_empty() {
                        ": it has no `matrix`".to_owned()
                    } else {
                        suggestion(name, axes)
                    };
                    let message = format!("{owner} refers to `matrix.{name}`, which is not defined{reason}");
                    problems.add(place, message);
                }
            }
            Reference::Output { step, output, path } => {
                check_output(step, output, path, place, &owner, names, problems);
            }
        }
    });
    let mut members: usize = 1;
    for axis in &step.matrix {
        axis.values.visit_references(&mut |reference, place| {
            *templates += 1;
            match reference {
                Reference::Parameter(name) => check_parameter(name, place, &owner, names, problems),
                other => problems.add(
                    place,
                    format!(
                        "`matrix` of {owner} refers to {}: its values must be known before anything runs, so only \
                         `params` can be used here",
                        quoted(&other.to_string())
                    ),
                ),
            }
        });
        members = members.saturating_mul(check_axis(axis, &owner, problems));
    }
    if members > MEMBERS_MAX {
        problems.add(
            step.place,
            format!("`matrix` of {owner} has {members} members: expected at most {MEMBERS_MAX}"),
        );
    }
}

/// Checks the values of an axis; their number is returned, 1 if it is not known yet.
pub(super) fn check_axis(axis: &Axis, owner: &str, problems: &mut Problems) -> usize {
    let name = format!("`{}` in `matrix` of {owner}", axis.name);
    let list = match &axis.values.kind {
        TreeKind::List(list) => list,
        TreeKind::Template(_) => return 1,
        _ => {
            let found = super::uses::described(&axis.values.shown());
            problems.add(axis.values.place, format!("{name}: expected a list, found {found}"));
            return 1;
        }
    };
    if list.is_empty() {
        problems.add(axis.values.place, format!("{name}: expected at least one value"));
    }
    let mut seen = std::collections::HashSet::new();
    for value in list {
        match value.kind {
            TreeKind::Template(_) => {}
            TreeKind::Text(_) | TreeKind::Number(_) | TreeKind::Boolean(_) => {
                let text = value.shown().to_string();
                if text.len() > super::file::NAME_MAX_BYTES {
                    let most = super::file::NAME_MAX_BYTES;
                    problems.add(value.place, format!("{name}: a value is longer than {most} characters"));
                } else if !seen.insert(text.clone()) {
                    problems.add(value.place, format!("{name}: {} stands there twice", quoted(&text)));
                }
            }
            _ => {
                let found = super::uses::described(&value.shown());
                problems.add(
                    value.place,
                    format!("{name}: expected strings, numbers or booleans, found {found}"),
                );
            }
        }
    }
    list.len().max(1)
}

fn check_parameter(name: &str, place: Place, owner: &str, names: &Names<'_>, problems: &mut Problems) {
    if !names.parameters.contains_key(name) {
        let known = names.spec.parameters.iter().map(|parameter| parameter.name.as_str());
        let near = suggestion(name, known);
        problems
            .add(place, format!("{owner} refers to parameter {}, which is not defined{near}", quoted(name)));
    }
}

fn tell_unknown_step(name: &str, place: Place, does: &str, names: &Names<'_>, problems: &mut Problems) {
    let near = suggestion(name, names.spec.steps.iter().map(|step| step.name.as_str()));
    problems.add(place, format!("{does} step {}, which does not exist{near}", quoted(name)));
}

fn check_output(
    step: &str,
    output: &str,
    path: &[String],
    place: Place,
    owner: &str,
    names: &Names<'_>,
    problems: &mut Problems,
) {
    let Some(referred) = names.steps.get(step).and_then(|index| names.spec.steps.get(*index)) else {
        tell_unknown_step(step, place, &format!("{owner} refers to"), names, problems);
        return;
    };
    let fixed = referred.uses.outputs.iter().find(|known| known.name == output);
    let declared = referred.outputs.as_ref();
    let is_known = fixed.is_some()
        || referred.uses.is_open
            && declared.is_none_or(|declared| declared.iter().any(|name| name == output));
    if !is_known {
        let known: Vec<&str> = match declared {
            Some(declared) if referred.uses.is_open => declared.iter().map(String::as_str).collect(),
            _ => referred.uses.outputs.iter().map(|output| output.name).collect(),
        };
        let near = suggestion(output, known.iter().copied());
        let near = if near.is_empty() { format!(": it has {}", listed(known)) } else { near };
        let (output, step) = (quoted(output), quoted(step));
        problems.add(
            place,
            format!("{owner} refers to output {output} of step {step}, which has none such{near}"),
        );
    } else if let Some(key) = path.first()
        && fixed.is_some_and(|fixed| !fixed.is_map)
    {
        let (key, output) = (quoted(key), quoted(output));
        problems.add(
            place,
            format!("{owner} refers to {key} of output {output} of step `{step}`: it is a single value"),
        );
    }
}
