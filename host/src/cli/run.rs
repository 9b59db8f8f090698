use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use clap::Subcommand;
use console::style;
use serde_json::json;

use super::output::{Output, Table, age_text, duration_text, number_text, printable, sparkline};
use super::state::{StateArguments, wait};
use crate::domain::Direction;
use crate::track::{Experiment, Metric, Run, RunSearch, RunStatus, Tracker, ViewType, now_ms};
use crate::train::sweep::BEST_TAG;

/// Characters of a sparkline.
const SPARKLINE_WIDTH: usize = 40;

/// Digits of a run's id that are shown; as many can be given to name it.
const SHORT_ID: usize = 8;

/// Metrics in a list of runs where nobody names any.
const LISTED_METRICS: usize = 4;

#[derive(Debug, Subcommand)]
pub(super) enum RunCommand {
    /// List runs, the newest first.
    #[command(after_help = "\
Example:
  host run list --filter \"metrics.accuracy > 0.9 AND params.max_depth = '6'\" --order-by 'metrics.accuracy DESC'")]
    List {
        /// Only those of this experiment.
        #[arg(long, value_name = "NAME")]
        experiment: Option<String>,
        /// Only those that a filter finds, in MLflow's grammar.
        #[arg(long, default_value = "")]
        filter: String,
        /// Sort by a key with `ASC` or `DESC`, such as `metrics.accuracy DESC`.
        #[arg(long, value_name = "KEY")]
        order_by: Vec<String>,
        /// Show this metric; may be given more than once [default: those that most runs have].
        #[arg(long = "metric", value_name = "NAME")]
        metrics: Vec<String>,
        /// Show at most so many.
        #[arg(long, default_value_t = 20)]
        limit: u16,
    },
    /// Show what a run is, logged and made.
    Show {
        /// Its id or the first digits of it, or its name: the newest of that name.
        run: String,
    },
    /// Show runs side by side, the best of each metric marked.
    Compare {
        /// Their ids or names.
        #[arg(required = true, num_args = 2..)]
        runs: Vec<String>,
        /// Also parameters that are the same in all.
        #[arg(long)]
        all: bool,
    },
    /// Follow a run's metrics until it ends.
    Watch {
        /// Its id or name.
        run: String,
    },
}

pub(super) fn run(command: RunCommand, state: &StateArguments, output: &Output) -> anyhow::Result<()> {
    wait(async {
        let tracker = state.open_tracker().await?;
        match command {
            RunCommand::List { experiment, filter, order_by, metrics, limit } => {
                let search = RunSearch {
                    filter,
                    order_by,
                    max_results: Some(i64::from(limit.max(1))),
                    ..RunSearch::default()
                };
                list(&tracker, experiment.as_deref(), search, metrics, output).await
            }
            RunCommand::Show { run } => show(&tracker, &find(&tracker, &run).await?, output).await,
            RunCommand::Compare { runs, all } => {
                let mut found = Vec::new();
                for run in &runs {
                    found.push(find(&tracker, run).await?);
                }
                compare(&found, all, output)
            }
            RunCommand::Watch { run } => watch(&tracker, find(&tracker, &run).await?, output).await,
        }
    })
}

async fn experiments(tracker: &Tracker) -> anyhow::Result<Vec<Experiment>> {
    let mut experiments = Vec::new();
    let mut token = String::new();
    loop {
        let page = tracker.search_experiments("", ViewType::ActiveOnly, &[], &token, None).await?;
        experiments.extend(page.found);
        match page.next_page_token {
            Some(next) => token = next,
            None => return Ok(experiments),
        }
    }
}

/// The run that `text` names.
pub(super) async fn find(tracker: &Tracker, text: &str) -> anyhow::Result<Run> {
    if text.len() == 32
        && let Ok(run) = tracker.run(text).await
    {
        return Ok(run);
    }
    let experiment_ids: Vec<String> =
        experiments(tracker).await?.into_iter().map(|experiment| experiment.experiment_id).collect();
    let quoted = text.replace('\'', "''");
    let is_id = text.len() >= 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let by_id = is_id.then(|| format!("run_id LIKE '{quoted}%'"));
    for filter in by_id.into_iter().chain([format!("run_name = '{quoted}'")]) {
        let is_by_id = filter.starts_with("run_id");
        let search = RunSearch {
            experiment_ids: experiment_ids.clone(),
            filter,
            max_results: Some(2),
            ..RunSearch::default()
        };
        let found = tracker.search_runs(search).await?.found;
        if is_by_id && found.len() > 1 {
            bail!("`{text}` begins the ids of several runs: give more digits");
        }
        if let Some(run) = found.into_iter().next() {
            return Ok(run);
        }
    }
    bail!("there is no run `{text}`: see `host run list`")
}

async fn list(
    tracker: &Tracker,
    experiment: Option<&str>,
    mut search: RunSearch,
    metrics: Vec<String>,
    output: &Output,
) -> anyhow::Result<()> {
    let experiments = match experiment {
        Some(name) => vec![tracker.experiment_by_name(name).await?],
        None => experiments(tracker).await?,
    };
    let names: BTreeMap<String, String> =
        experiments.into_iter().map(|experiment| (experiment.experiment_id, experiment.name)).collect();
    search.experiment_ids = names.keys().cloned().collect();
    let runs = tracker.search_runs(search).await?.found;
    if output.is_json() {
        return output.value(&runs);
    }
    let metrics = if metrics.is_empty() { frequent_metrics(&runs) } else { metrics };
    let best: Vec<Option<f64>> = metrics.iter().map(|key| best_of(key, &runs)).collect();
    let mut header = vec!["RUN", "NAME", "EXPERIMENT", "STATUS", ">STARTED", ">TOOK"];
    let titles: Vec<String> = metrics.iter().map(|key| format!(">{}", key.to_uppercase())).collect();
    header.extend(titles.iter().map(String::as_str));
    let mut table = Table::new(&header);
    for run in &runs {
        let info = &run.info;
        let mut row = vec![
            short(&info.run_id),
            marked_name(run),
            names.get(&info.experiment_id).map(|name| first_line(name)).unwrap_or_default(),
            info.status.as_str().to_lowercase(),
            age_text(now_ms() - info.start_time),
            info.end_time.map(|end| duration_text(end - info.start_time)).unwrap_or_default(),
        ];
        row.extend(metrics.iter().zip(&best).map(|(key, best)| value_text(value_of(run, key), *best)));
        table.styled_row(row);
    }
    output.table(&table)?;
    if runs.is_empty() {
        output.note("there is no such run");
    }
    Ok(())
}

/// A run's name; of the best trial of a sweep, with a mark.
fn marked_name(run: &Run) -> String {
    let name = first_line(&run.info.run_name);
    match run.data.tags.iter().any(|tag| tag.key == BEST_TAG) {
        true => format!("{name} {}", style("(best)").green()),
        false => name,
    }
}

/// The metrics that most runs have.
fn frequent_metrics(runs: &[Run]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for metric in
        runs.iter().flat_map(|run| &run.data.metrics).filter(|metric| !metric.key.starts_with("system/"))
    {
        *counts.entry(&metric.key).or_default() += 1;
    }
    let mut keys: Vec<(&str, usize)> = counts.into_iter().collect();
    keys.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    keys.into_iter().take(LISTED_METRICS).map(|(key, _)| key.to_owned()).collect()
}

fn value_of(run: &Run, key: &str) -> Option<f64> {
    run.data.metrics.iter().find(|metric| metric.key == key).map(|metric| metric.value)
}

/// The best value among runs; none where fewer than two have one.
fn best_of(key: &str, runs: &[Run]) -> Option<f64> {
    let values: Vec<f64> =
        runs.iter().filter_map(|run| value_of(run, key)).filter(|value| !value.is_nan()).collect();
    if values.len() < 2 {
        return None;
    }
    let better = match Direction::of_metric(key) {
        Direction::Minimize => f64::min,
        Direction::Maximize => f64::max,
    };
    values.into_iter().reduce(better)
}

fn value_text(value: Option<f64>, best: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if Some(value) == best => style(format!("{}*", number_text(value))).green().to_string(),
        // As wide as one that is marked.
        Some(value) if best.is_some() => format!("{} ", number_text(value)),
        Some(value) => number_text(value),
    }
}

async fn show(tracker: &Tracker, run: &Run, output: &Output) -> anyhow::Result<()> {
    if output.is_json() {
        return output.value(run);
    }
    let info = &run.info;
    output.field("run", &info.run_id)?;
    output.field("name", first_line(&info.run_name))?;
    output.field("experiment", first_line(&tracker.experiment(&info.experiment_id).await?.name))?;
    output.field("status", info.status.as_str().to_lowercase())?;
    output.field("started", age_text(now_ms() - info.start_time))?;
    if let Some(end) = info.end_time {
        output.field("took", duration_text(end - info.start_time))?;
    }
    for input in &run.inputs.dataset_inputs {
        output.field("dataset", first_line(&format!("{} {}", input.dataset.name, input.dataset.digest)))?;
    }
    for (title, pairs) in [("PARAMETER", &run.data.params), ("TAG", &run.data.tags)] {
        if pairs.is_empty() {
            continue;
        }
        let mut table = Table::new(&[title, "VALUE"]);
        for pair in pairs {
            table.row(vec![pair.key.clone(), first_line(&pair.value)]);
        }
        output.line("")?;
        output.table(&table)?;
    }
    if !run.data.metrics.is_empty() {
        let mut table = Table::new(&["METRIC", ">NEWEST", ">STEP", "HISTORY"]);
        for metric in &run.data.metrics {
            let history = tracker.metric_sample(&info.run_id, &metric.key, None, SPARKLINE_WIDTH).await?;
            let values: Vec<f64> = history.iter().map(|point| point.value).collect();
            let line = sparkline(&values);
            table.row(vec![metric.key.clone(), number_text(metric.value), metric.step.to_string(), line]);
        }
        output.line("")?;
        output.table(&table)?;
    }
    Ok(())
}

/// A line of blocks as high as the values.
fn compare(runs: &[Run], all: bool, output: &Output) -> anyhow::Result<()> {
    if output.is_json() {
        return output.value(&runs);
    }
    let mut header = vec!["".to_owned()];
    header.extend(runs.iter().map(|run| format!(">{}", short(&run.info.run_id))));
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut table = Table::new(&header);
    table.row(row_of("name", runs, |run| first_line(&run.info.run_name)));
    table.row(row_of("status", runs, |run| run.info.status.as_str().to_lowercase()));
    let mut params: Vec<&str> =
        runs.iter().flat_map(|run| &run.data.params).map(|pair| pair.key.as_str()).collect();
    params.sort_unstable();
    params.dedup();
    let param = |run: &Run, key: &str| {
        run.data
            .params
            .iter()
            .find(|pair| pair.key == key)
            .map_or("-".to_owned(), |pair| first_line(&pair.value))
    };
    for key in params {
        let values: Vec<String> = runs.iter().map(|run| param(run, key)).collect();
        if all || values.windows(2).any(|pair| pair.first() != pair.get(1)) {
            table.row(row_of(key, runs, |run| param(run, key)));
        }
    }
    let mut metrics: Vec<&str> =
        runs.iter().flat_map(|run| &run.data.metrics).map(|metric| metric.key.as_str()).collect();
    metrics.sort_unstable();
    metrics.dedup();
    for key in metrics {
        let best = best_of(key, runs);
        table.styled_row(row_of(key, runs, |run| value_text(value_of(run, key), best)));
    }
    Ok(output.table(&table)?)
}

fn row_of(title: &str, runs: &[Run], cell: impl Fn(&Run) -> String) -> Vec<String> {
    std::iter::once(printable(title)).chain(runs.iter().map(cell)).collect()
}

async fn watch(tracker: &Tracker, mut run: Run, output: &Output) -> anyhow::Result<()> {
    let mut shown: BTreeMap<String, (i64, f64)> = BTreeMap::new();
    loop {
        let mut fresh: Vec<&Metric> = Vec::new();
        for metric in &run.data.metrics {
            let point = (metric.step, metric.value);
            if shown.insert(metric.key.clone(), point) != Some(point) {
                fresh.push(metric);
            }
        }
        if output.is_json() {
            for metric in &fresh {
                output.line(&json!(metric).to_string())?;
            }
        } else if let Some(step) = fresh.iter().map(|metric| metric.step).max() {
            let values: Vec<String> =
                fresh.iter().map(|metric| format!("{} {}", metric.key, number_text(metric.value))).collect();
            output.line(&format!("step {step:>5}  {}", values.join("  ")))?;
        }
        if !matches!(run.info.status, RunStatus::Running | RunStatus::Scheduled) {
            output.note(&format!("the run has ended: {}", run.info.status.as_str().to_lowercase()));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        run = tracker.run(&run.info.run_id).await?;
    }
}

fn short(run_id: &str) -> String {
    run_id.get(..SHORT_ID).unwrap_or(run_id).to_owned()
}

/// What others logged may drive a terminal, so only the first line's plain characters are shown.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(100).collect()
}
