use super::super::output::{Output, printable};
use crate::data::Catalog;
use crate::registry::{LineageDataset, LineageRun, Registry};

pub(super) async fn show(registry: &Registry, text: &str, output: &Output) -> anyhow::Result<()> {
    let tracker = registry.tracker();
    let catalog = Catalog::new(tracker.database().clone(), tracker.store().clone());
    let lineage = registry.lineage(&catalog, text).await?;
    if output.is_json() {
        return output.value(&lineage);
    }
    output.line(&name_of(&lineage))?;
    let mut branches = parents_of(&lineage);
    let became = |child| Branch { text: format!("became {}", name_of(child)), branches: Vec::new() };
    branches.extend(lineage.children.iter().map(became));
    let read = |run| Branch { text: format!("read by {}", run_text(run)), branches: Vec::new() };
    branches.extend(lineage.runs.iter().map(read));
    draw(&branches, "", output)
}

/// A line of the tree, and what is below it.
struct Branch {
    text: String,
    branches: Vec<Branch>,
}

/// What a version was made from, and that from what it was made.
fn made_from(dataset: &LineageDataset) -> Branch {
    let again = if dataset.is_told_above { ", see above" } else { "" };
    Branch { text: format!("made from {}{again}", name_of(dataset)), branches: parents_of(dataset) }
}

fn parents_of(dataset: &LineageDataset) -> Vec<Branch> {
    let mut branches: Vec<_> = dataset.parents.iter().map(made_from).collect();
    if dataset.is_truncated {
        let text = format!("made from more, see `host data lineage` of {}", name_of(dataset));
        branches.push(Branch { text, branches: Vec::new() });
    }
    branches
}

fn draw(branches: &[Branch], indent: &str, output: &Output) -> anyhow::Result<()> {
    for (place, branch) in branches.iter().enumerate() {
        let is_last = place + 1 == branches.len();
        let (mark, below) = if is_last { ("└─", "   ") } else { ("├─", "│  ") };
        output.line(&format!("{indent}{mark} {}", branch.text))?;
        draw(&branch.branches, &format!("{indent}{below}"), output)?;
    }
    Ok(())
}

fn name_of(dataset: &LineageDataset) -> String {
    match (&dataset.name, dataset.version) {
        (Some(name), Some(version)) => format!("{name}@{version} ({})", dataset.digest.short()),
        _ => format!("a version that was deleted ({})", dataset.digest.short()),
    }
}

fn run_text(run: &LineageRun) -> String {
    let models: Vec<_> = run.models.iter().map(|model| format!("{}@{}", model.name, model.version)).collect();
    let made = if models.is_empty() { String::new() } else { format!(", which made {}", models.join(", ")) };
    format!("run {} {}{made}", run.run_id.get(..8).unwrap_or(&run.run_id), printable(&run.run_name))
}
