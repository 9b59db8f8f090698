//! `host lineage`: what something was made from, and what it led to.

use std::collections::HashSet;

use console::style;

use super::output::{Output, printable};
use super::state::StateArguments;
use crate::data::Catalog;
use crate::registry::{Lineage, LineageDirection, LineageNode, LineageSubject, Registry};

/// Digits of a run's id that a line shows.
const SHORT_ID: usize = 8;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  host lineage mnist@champion            what the champion was made from
  host lineage data:mnist@1              what came of a version of a dataset
  host lineage mnist-pixels.wasm         the runs, bundles and models that a component went into")]
pub(super) struct LineageArguments {
    /// A dataset or its version, a model's version, a run's id or its first digits, a digest, or a component's file. What is
    /// both a dataset and a model is told apart by `data:` and `model:`; `run:` is there too.
    subject: String,
    /// Only what it was made from.
    #[arg(long, conflicts_with = "down")]
    up: bool,
    /// Only what it led to.
    #[arg(long)]
    down: bool,
}

pub(super) async fn run(
    arguments: &LineageArguments,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<()> {
    let Ok(mut subject) = arguments.subject.parse::<LineageSubject>();
    if let LineageSubject::Any(path) = &subject
        && path.ends_with(".wasm")
    {
        subject = LineageSubject::Digest(super::plugin::digest_of(path.as_ref())?);
    }
    let lineage = lineage_of(&state.open_registry().await?, &subject).await?;
    let directions: &[_] = match (arguments.up, arguments.down) {
        (true, _) => &[LineageDirection::Up],
        (_, true) => &[LineageDirection::Down],
        _ => &[LineageDirection::Up, LineageDirection::Down],
    };
    show(&lineage, directions, output)
}

pub(super) async fn lineage_of(registry: &Registry, subject: &LineageSubject) -> anyhow::Result<Lineage> {
    let tracker = registry.tracker();
    let catalog = Catalog::new(tracker.database().clone(), tracker.store().clone());
    Ok(registry.lineage(&catalog, subject).await?)
}

pub(super) fn show(
    lineage: &Lineage,
    directions: &[LineageDirection],
    output: &Output,
) -> anyhow::Result<()> {
    if output.is_json() {
        return output.value(lineage);
    }
    output.line(&lineage.nodes.first().map(text_of).unwrap_or_default())?;
    for direction in directions {
        let title = match direction {
            LineageDirection::Up => "made from",
            LineageDirection::Down => "led to",
        };
        if lineage.next(0, *direction).is_empty() {
            output.line(&style(format!("{title} nothing that is known")).dim().to_string())?;
            continue;
        }
        output.line(&style(title).bold().to_string())?;
        draw(lineage, 0, *direction, "", &mut HashSet::new(), output)?;
    }
    if lineage.is_truncated {
        output.note("there is more: ask for the lineage of what is told last");
    }
    Ok(())
}

/// Draws what is next to a node, and what is next to that; each of them once.
fn draw(
    lineage: &Lineage,
    place: usize,
    direction: LineageDirection,
    indent: &str,
    drawn: &mut HashSet<usize>,
    output: &Output,
) -> anyhow::Result<()> {
    let next = lineage.next(place, direction);
    for (index, other) in next.iter().enumerate() {
        let (mark, below) = if index + 1 == next.len() { ("└─", "   ") } else { ("├─", "│  ") };
        let text = lineage.nodes.get(*other).map(text_of).unwrap_or_default();
        let is_leaf = lineage.next(*other, direction).is_empty();
        let is_told = !drawn.insert(*other) && !is_leaf;
        output.line(&format!("{indent}{mark} {text}{}", if is_told { ", see above" } else { "" }))?;
        if !is_told {
            draw(lineage, *other, direction, &format!("{indent}{below}"), drawn, output)?;
        }
    }
    Ok(())
}

fn text_of(node: &LineageNode) -> String {
    match node {
        LineageNode::Dataset { name: Some(name), version: Some(version), digest } => {
            format!("dataset {name}@{version} ({})", digest.short())
        }
        LineageNode::Dataset { digest, .. } => {
            format!("dataset whose version was deleted ({})", digest.short())
        }
        LineageNode::Component { name, digest } => {
            format!("component {} ({})", printable(name), digest.short())
        }
        LineageNode::Run { run_id, name, status, pipeline } => {
            let of = pipeline.as_ref().map(|name| format!(" of pipeline {}", printable(name)));
            format!(
                "run {} {}{}, {}",
                run_id.get(..SHORT_ID).unwrap_or(run_id),
                printable(name),
                of.unwrap_or_default(),
                status.as_str().to_lowercase()
            )
        }
        LineageNode::Bundle { digest, framework: Some(framework) } => {
            format!("bundle {} ({framework})", digest.short())
        }
        LineageNode::Bundle { digest, framework: None } => format!("bundle {}, removed", digest.short()),
        LineageNode::Model { name, version, aliases } => {
            let aliases: Vec<_> = aliases.iter().map(|alias| printable(alias)).collect();
            let named = if aliases.is_empty() { String::new() } else { format!(" ({})", aliases.join(", ")) };
            format!("model {}@{version}{named}", printable(name))
        }
    }
}
