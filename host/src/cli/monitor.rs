use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use console::style;

use super::output::{Output, Table, age_text, number_text, printable, thousands};
use super::plugin::{PluginOptions, load};
use super::state::{StateArguments, wait};
use crate::data::Alert;
use crate::domain::Name;
use crate::monitor::{self, MonitorReport, MonitorSpec, record_alert};
use crate::plugin::{Verdict, block_on};
use crate::registry::ModelReference;
use crate::track::now_ms;

/// Drift was found.
const DRIFTED: u8 = 4;

/// Scores that the table shows; `--all` shows the rest.
const SHOWN: usize = 10;

#[derive(Debug, Subcommand)]
pub(super) enum MonitorCommand {
    /// Compare what an endpoint saw with what the model was trained on that answered.
    ///
    /// Where it drifted, the exit code is 4, and an alert is kept, which starts pipelines that wait for one.
    Run(RunArguments),
    /// List alerts: what drifted, the newest first.
    Alerts {
        /// Only those of this endpoint.
        #[arg(long, value_name = "NAME")]
        endpoint: Option<Name>,
        /// Show at most so many.
        #[arg(long, default_value_t = 20)]
        limit: u16,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct RunArguments {
    /// The endpoint.
    #[arg(long)]
    endpoint: Name,
    /// The model whose rows to look at: a name, `name@version`, `name@alias`, a `sha256:` digest or a bundle folder [default: the
    /// one that answered most of the endpoint's rows in the last minute].
    #[arg(long)]
    model: Option<ModelReference>,
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
}

pub(super) fn run(
    command: MonitorCommand,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    match command {
        MonitorCommand::Run(arguments) => monitor(&arguments, state, output),
        MonitorCommand::Alerts { endpoint, limit } => {
            let limit = u32::from(limit);
            let alerts =
                wait(async { Ok(state.open_alerts().await?.list(endpoint.as_ref(), limit).await?) })?;
            list(&alerts, endpoint.as_ref(), output)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn monitor(arguments: &RunArguments, state: &StateArguments, output: &Output) -> anyhow::Result<ExitCode> {
    let store = state.open_store()?;
    let model = arguments.model.as_ref().map(|model| state.resolve_model(&store, model)).transpose()?;
    let runtime = arguments.options.start()?;
    let (detector, _) = load(&runtime, &arguments.detector)?;
    let spec = MonitorSpec {
        endpoint: &arguments.endpoint,
        model: model.as_ref(),
        detector: &detector,
        config: &arguments.config,
        rows_max: usize::try_from(arguments.rows)?,
    };
    let report = block_on(monitor::run(&store, &spec))?;
    if output.is_json() {
        output.value(&report)?;
    } else {
        print(&report, if arguments.all { usize::MAX } else { SHOWN }, output)?;
    }
    if report.verdict != Verdict::Drifted {
        return Ok(ExitCode::SUCCESS);
    }
    wait(async { Ok(record_alert(&state.open_alerts().await?, &report, now_ms()).await?) })
        .context("failed to keep the alert")?;
    Ok(ExitCode::from(DRIFTED))
}

fn list(alerts: &[Alert], endpoint: Option<&Name>, output: &Output) -> anyhow::Result<()> {
    if output.is_json() {
        return output.value(&alerts);
    }
    if alerts.is_empty() {
        let of = endpoint.map(|endpoint| format!(" of endpoint `{endpoint}`")).unwrap_or_default();
        output.note(&format!("there are no alerts{of}: `host monitor run` keeps one where data drifted"));
        return Ok(());
    }
    let mut table = Table::new(&["ENDPOINT", "FOUND", "DRIFTED", "DETECTOR", "BUNDLE"]);
    for alert in alerts {
        let bundle = alert.bundle.rsplit(':').next().unwrap_or_default();
        table.row(vec![
            alert.endpoint.clone(),
            age_text(now_ms() - alert.created_at),
            format!("{} of {}", alert.drifted, alert.scores),
            printable(&alert.detector),
            bundle.chars().take(12).collect(),
        ]);
    }
    Ok(output.table(&table)?)
}

fn print(report: &MonitorReport, shown: usize, output: &Output) -> anyhow::Result<()> {
    let mut table = Table::new(&["FEATURE", "STATISTIC", ">VALUE", ">THRESHOLD", "VERDICT"]);
    for score in report.scores.iter().take(shown) {
        table.styled_row(vec![
            printable(&score.feature),
            printable(&score.statistic),
            number_text(score.value),
            number_text(score.threshold),
            verdict_text(score.verdict),
        ]);
    }
    output.table(&table)?;
    if let Some(more) = report.scores.len().checked_sub(shown).filter(|&more| more > 0) {
        output.note(&format!("… and {more} more, see them with --all"));
    }
    output.line("")?;
    Ok(output.line(&format!(
        "{}: {} of {} feature groups of `{}` drifted ({} rows of {} against {} of training, by {})",
        verdict_text(report.verdict),
        report.drifted,
        report.scores.len(),
        report.endpoint,
        thousands(report.window_rows as u64),
        answered_by(report),
        thousands(report.reference_rows as u64),
        report.detector,
    ))?)
}

fn answered_by(report: &MonitorReport) -> String {
    report.version.clone().unwrap_or_else(|| format!("bundle {}", report.bundle.short()))
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
