use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use console::style;

use super::output::{Output, Table, number_text, thousands};
use super::plugin::{PluginOptions, load};
use super::state::StateArguments;
use crate::domain::Name;
use crate::monitor::{self, MonitorReport, MonitorSpec};
use crate::plugin::{Verdict, block_on};

/// Drift was found.
const DRIFTED: u8 = 4;

/// Scores that the table shows; `--all` shows the rest.
const SHOWN: usize = 10;

#[derive(Debug, Subcommand)]
pub(super) enum MonitorCommand {
    /// Compare what an endpoint saw with what the model was trained on that answered.
    Run {
        /// The endpoint.
        #[arg(long)]
        endpoint: Name,
        /// The detector, a component.
        #[arg(long, value_name = "FILE")]
        detector: PathBuf,
        /// Config of the detector, a JSON object.
        #[arg(long, value_name = "JSON", default_value = "{}")]
        config: String,
        /// Newest rows to look at.
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
        rows: u32,
        /// Show every score.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        options: PluginOptions,
    },
}

pub(super) fn run(
    command: MonitorCommand,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let MonitorCommand::Run { endpoint, detector, config, rows, all, options } = command;
    let store = state.open_store()?;
    let runtime = options.start()?;
    let (detector, _) = load(&runtime, &detector)?;
    let spec = MonitorSpec {
        endpoint: &endpoint,
        detector: &detector,
        config: &config,
        rows_max: usize::try_from(rows)?,
    };
    let report = block_on(monitor::run(&store, &spec))?;
    if output.is_json() {
        output.value(&report)?;
    } else {
        print(&report, if all { usize::MAX } else { SHOWN }, output)?;
    }
    Ok(if report.verdict == Verdict::Drifted { ExitCode::from(DRIFTED) } else { ExitCode::SUCCESS })
}

fn print(report: &MonitorReport, shown: usize, output: &Output) -> anyhow::Result<()> {
    let mut table = Table::new(&["FEATURE", "STATISTIC", ">VALUE", ">THRESHOLD", "VERDICT"]);
    for score in report.scores.iter().take(shown) {
        table.row(vec![
            score.feature.clone(),
            score.statistic.clone(),
            number_text(score.value),
            number_text(score.threshold),
            verdict_text(score.verdict),
        ]);
    }
    output.table(&table)?;
    if let Some(more) = report.scores.len().checked_sub(shown).filter(|&more| more > 0) {
        output.note(&format!("… and {more} more, see them with --all"));
    }
    let drifted = report.scores.iter().filter(|score| score.verdict == Verdict::Drifted).count();
    output.line("")?;
    Ok(output.line(&format!(
        "{}: {drifted} of {} feature groups of `{}` drifted ({} rows against {} of training, by {})",
        verdict_text(report.verdict),
        report.scores.len(),
        report.endpoint,
        thousands(report.window_rows as u64),
        thousands(report.reference_rows as u64),
        report.detector,
    ))?)
}

fn verdict_text(verdict: Verdict) -> String {
    let text = style(verdict.as_str());
    match verdict {
        Verdict::Stable => text.green(),
        Verdict::Warning => text.yellow(),
        Verdict::Drifted => text.red().bold(),
    }
    .to_string()
}
