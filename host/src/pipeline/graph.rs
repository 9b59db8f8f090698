//! A plan as a picture: text for terminals, Mermaid for pages that draw it, SVG for everything else.

mod layout;
mod svg;

use std::collections::HashMap;
use std::fmt::Write as _;

use super::plan::{Plan, PlannedStep};
use super::status::StepStatus;

pub use svg::svg;

/// More steps than this are drawn with one box for all members of a matrix.
const APART_MAX: usize = 200;
/// Names in a list of what a step needs; of more only the number is told.
const NEEDS_SHOWN: usize = 6;

/// Fill and line, both readable with black text; the word stands there too, since not everyone sees colours.
fn colours(status: Option<StepStatus>) -> (&'static str, &'static str) {
    match status {
        None | Some(StepStatus::Waiting) => ("#f6f8fa", "#57606a"),
        Some(StepStatus::Cached) => ("#ddf4ff", "#0969da"),
        Some(StepStatus::Finished) => ("#dafbe1", "#1a7f37"),
        Some(StepStatus::Skipped) => ("#ffffff", "#8c959f"),
        Some(StepStatus::Running) => ("#fff8c5", "#9a6700"),
        Some(StepStatus::Cancelled | StepStatus::Blocked) => ("#fff1e5", "#bc4c00"),
        Some(StepStatus::Failed) => ("#ffebe9", "#cf222e"),
    }
}

/// A box of the picture: a step, or all members of a matrix.
struct Node {
    label: String,
    /// The kind of step, and its status or those of the members.
    detail: String,
    status: Option<StepStatus>,
    /// Nodes that come before it, ascending.
    needs: Vec<usize>,
}

/// The boxes of a plan, each after those that it needs. `statuses` is by index of [`Plan::steps`]; it may be shorter.
fn nodes(plan: &Plan, statuses: &[Option<StepStatus>]) -> Vec<Node> {
    let status = |index: usize| statuses.get(index).copied().flatten();
    if plan.steps.len() <= APART_MAX {
        let apart = plan.steps.iter().enumerate().map(|(index, step)| {
            let status = status(index);
            let words = status.map(|status| format!(" · {}", status.as_str())).unwrap_or_default();
            let detail = format!("{}{words}", step.uses.name);
            Node { label: step.id.clone(), detail, status, needs: step.needs.clone() }
        });
        return apart.collect();
    }
    let mut nodes: Vec<Node> = Vec::new();
    let mut by_name: HashMap<&str, usize> = HashMap::new();
    let mut first = 0;
    // Members of a matrix stand side by side.
    for members in plan.steps.chunk_by(|left, right| left.name == right.name) {
        let Some(step) = members.first() else { continue };
        let start = by_name.len();
        let mut needs: Vec<usize> =
            needed_names(plan, step).filter_map(|name| by_name.get(name).copied()).collect();
        needs.sort_unstable();
        needs.dedup();
        by_name.insert(&step.name, start);
        let statuses: Vec<StepStatus> = (first..first + members.len()).filter_map(status).collect();
        first += members.len();
        let label = match members.len() {
            1 => step.id.clone(),
            count => format!("{} × {count}", step.name),
        };
        let detail = format!("{}{}", step.uses.name, counted(&statuses));
        nodes.push(Node { label, detail, status: statuses.iter().max().copied(), needs });
    }
    nodes
}

fn needed_names<'plan>(plan: &'plan Plan, step: &'plan PlannedStep) -> impl Iterator<Item = &'plan str> {
    step.needs.iter().filter_map(|index| plan.steps.get(*index)).map(|step| step.name.as_str())
}

/// ` · 3 done, 1 failed`; nothing without statuses.
fn counted(statuses: &[StepStatus]) -> String {
    let mut sorted = statuses.to_vec();
    sorted.sort_unstable();
    let words: Vec<String> = sorted
        .chunk_by(|left, right| left == right)
        .filter_map(|same| same.first().map(|status| format!("{} {}", same.len(), status.as_str())))
        .collect();
    if words.is_empty() { String::new() } else { format!(" · {}", words.join(", ")) }
}

/// The plan for a terminal: a numbered layer after the other, whose steps can run at the same time, each with what it
/// needs. `statuses` is by index of [`Plan::steps`]; it may be empty.
pub fn text(plan: &Plan, statuses: &[Option<StepStatus>]) -> String {
    let nodes = nodes(plan, statuses);
    let layers = layout::layers(&nodes);
    let width = |text: &str| text.chars().count();
    let label_width = nodes.iter().map(|node| width(&node.label)).max().unwrap_or_default();
    let detail_width = nodes.iter().map(|node| width(&node.detail)).max().unwrap_or_default();
    let number_width = layers.len().to_string().len();
    let mut text = String::new();
    for (number, layer) in layers.iter().enumerate() {
        for (row, node) in layer.iter().filter_map(|index| nodes.get(*index)).enumerate() {
            let number = if row == 0 { (number + 1).to_string() } else { String::new() };
            let needs = needs_text(&nodes, node);
            let line = format!(
                "{number:number_width$}  {:label_width$}  {:detail_width$}{needs}",
                node.label, node.detail
            );
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    text
}

fn needs_text(nodes: &[Node], node: &Node) -> String {
    let labels = node.needs.iter().filter_map(|index| nodes.get(*index)).map(|node| node.label.as_str());
    match node.needs.len() {
        0 => String::new(),
        count if count > NEEDS_SHOWN => {
            let shown: Vec<&str> = labels.take(NEEDS_SHOWN).collect();
            format!("  ← {} and {} more", shown.join(", "), count - NEEDS_SHOWN)
        }
        _ => format!("  ← {}", labels.collect::<Vec<_>>().join(", ")),
    }
}

/// The plan as a flowchart of Mermaid. `statuses` is by index of [`Plan::steps`]; it may be empty.
pub fn mermaid(plan: &Plan, statuses: &[Option<StepStatus>]) -> String {
    let nodes = nodes(plan, statuses);
    let mut text = "flowchart LR\n".to_owned();
    // Writing to a `String` cannot fail.
    for (index, node) in nodes.iter().enumerate() {
        let (label, detail) = (mermaid_escaped(&node.label), mermaid_escaped(&node.detail));
        let _ = writeln!(text, "  s{index}[\"{label}<br/>{detail}\"]");
    }
    for (index, node) in nodes.iter().enumerate() {
        for needed in &node.needs {
            let _ = writeln!(text, "  s{needed} --> s{index}");
        }
    }
    let mut by_status: std::collections::BTreeMap<StepStatus, Vec<String>> =
        std::collections::BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        if let Some(status) = node.status {
            by_status.entry(status).or_default().push(format!("s{index}"));
        }
    }
    for (status, names) in by_status {
        let (fill, line) = colours(Some(status));
        let word = status.as_str();
        let _ = writeln!(text, "  classDef {word} fill:{fill},stroke:{line},color:#000000");
        let _ = writeln!(text, "  class {} {word}", names.join(","));
    }
    text
}

/// With Mermaid's own codes for what would end a label, be taken for HTML or begin a code.
fn mermaid_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '#' | '&' | '<' | '>' | ';' | '`' | '\\' => {
                let _ = write!(escaped, "#{};", u32::from(character));
            }
            other if other.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
