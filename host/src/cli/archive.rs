use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use indicatif::ProgressBar;

use super::output::{Output, bytes_text, thousands};
use super::state::{StateArguments, wait};
use crate::project::{
    ArchiveProgress, ArchiveWatcher, ExportReport, ExportSpec, ExportTarget, ImportCounts, ImportReport,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
With nothing named, everything is exported: datasets, experiments, runs, models, and all of their files.
A run brings its metrics and artifacts, a model its versions and the runs that made them. Datasets come by name only.

Examples:
  host export backup.tar
  host export digits.tar --model mnist --data mnist@1
  host --state-dir ./offline export - | ssh server host import -")]
pub(super) struct ExportArguments {
    /// The file to make; `-` for standard output.
    file: PathBuf,
    /// Runs of this experiment; may be given more than once, as all of these.
    #[arg(long = "experiment", value_name = "NAME")]
    experiments: Vec<String>,
    /// A run, by its id.
    #[arg(long = "run", value_name = "ID")]
    runs: Vec<String>,
    /// A dataset with all of its versions, or one version of it as `name@version`.
    #[arg(long = "data", value_name = "NAME")]
    datasets: Vec<String>,
    /// A model with all of its versions.
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// Replace the file if it is there.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is there already is left as it is, so importing twice changes nothing: runs by id, versions of datasets by digest,
versions of models by bundle or files. Versions whose numbers are taken get the next.

Example:
  host --state-dir ./offline train --data mnist --name mnist
  host --state-dir ./offline export runs.tar
  host --database postgres://host@db.example/host --blobs s3://models/host import runs.tar")]
pub(super) struct ImportArguments {
    /// A file that `host export` made; `-` for standard input.
    file: PathBuf,
}

pub(super) fn export(
    arguments: ExportArguments,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<()> {
    let ExportArguments { file, experiments, runs, datasets, models, force } = arguments;
    let spec = ExportSpec { experiments, runs, datasets, models };
    let to_stdout = file == Path::new("-");
    let target = match to_stdout {
        true => ExportTarget::Stdout,
        false => ExportTarget::File { path: file.clone(), replace: force },
    };
    let report = wait(async {
        let project = state.open_project().await?;
        let bar = output.progress_bytes(0, "reading");
        let exported = project.export(&spec, target, watcher(&bar, "writing")).await;
        bar.finish_and_clear();
        Ok(exported?)
    })?;
    let line = format!("exported {} to {}", exported(&report), file.display());
    match (to_stdout, output.is_json()) {
        (true, _) => output.note(&exported(&report)),
        (false, true) => output.value(&report)?,
        (false, false) => output.line(&line)?,
    }
    Ok(())
}

pub(super) fn import(
    arguments: ImportArguments,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<()> {
    let ImportArguments { file } = arguments;
    let archive: Box<dyn Read + Send> = match file == Path::new("-") {
        true => Box::new(std::io::stdin()),
        false => Box::new(File::open(&file).with_context(|| format!("failed to read `{}`", file.display()))?),
    };
    let report = wait(async {
        let project = state.open_project().await?;
        let bar = output.progress_bytes(0, "reading");
        let imported = project.import(archive, watcher(&bar, "reading")).await;
        bar.finish_and_clear();
        Ok(imported?)
    })?;
    if output.is_json() {
        return output.value(&report);
    }
    tell(&report, output)
}

fn watcher(bar: &ProgressBar, what: &'static str) -> ArchiveWatcher {
    let bar = bar.clone();
    Arc::new(move |progress| match progress {
        ArchiveProgress::Metadata => {}
        ArchiveProgress::Blobs(bytes) => {
            bar.set_prefix(what);
            bar.set_length(bytes);
        }
        ArchiveProgress::Done(bytes) => bar.inc(bytes),
        ArchiveProgress::Storing => bar.set_prefix("storing"),
    })
}

fn exported(report: &ExportReport) -> String {
    let counts = [
        (report.dataset_versions, "dataset version"),
        (report.runs, "run"),
        (report.logged_models, "logged model"),
        (report.model_versions, "model version"),
        (report.blobs, "blob"),
    ];
    let counts = counts.into_iter().filter(|(count, what)| *count > 0 || *what == "blob");
    let counts: Vec<_> = counts.map(|(count, what)| counted(count, what)).collect();
    format!("{}, {}", counts.join(", "), bytes_text(report.bytes))
}

fn tell(report: &ImportReport, output: &Output) -> anyhow::Result<()> {
    let kinds = [
        (report.experiments, "experiment"),
        (report.runs, "run"),
        (report.logged_models, "logged model"),
        (report.dataset_versions, "dataset version"),
        (report.model_versions, "model version"),
    ];
    for (ImportCounts { added, present }, what) in kinds {
        match (added, present) {
            (0, 0) => {}
            (added, 0) => output.line(&format!("imported {}", counted(added, what)))?,
            (added, present) => {
                let there = thousands(present);
                output.line(&format!("imported {}; {there} were there already", counted(added, what)))?;
            }
        }
    }
    for note in &report.notes {
        output.note(note);
    }
    if report.more_notes > 0 {
        output.note(&format!("… and {} more differences", thousands(report.more_notes)));
    }
    Ok(())
}

fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", thousands(count), if count == 1 { "" } else { "s" })
}
