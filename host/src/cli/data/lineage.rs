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
    parents(&lineage, "", output)?;
    for child in &lineage.children {
        output.line(&format!("├─ became {}", name_of(child)))?;
    }
    for run in &lineage.runs {
        output.line(&format!("├─ read by {}", run_text(run)))?;
    }
    Ok(())
}

/// What a version was made from, and that from what it was made.
fn parents(dataset: &LineageDataset, indent: &str, output: &Output) -> anyhow::Result<()> {
    for parent in &dataset.parents {
        output.line(&format!("{indent}├─ made from {}", name_of(parent)))?;
        parents(parent, &format!("{indent}│  "), output)?;
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
