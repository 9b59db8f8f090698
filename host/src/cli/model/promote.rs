//! `host model promote` and `host model compare`: which version is the best.

use anyhow::bail;

use super::{NamedVersion, check_alias};
use crate::cli::output::{Output, Table, number_text};
use crate::cli::plugin::PluginOptions;
use crate::cli::state::{StateArguments, start_threads, wait};
use crate::domain::Direction;
use crate::registry::{ModelReference, Registry, RegistryError, VersionSelector};
use crate::train::{
    self, Candidate, CompareSpec, Comparison, Criterion, EvaluateSpec, PromoteSpec, Promotion,
};

/// The split that both verbs judge by.
const SPLIT: &str = "test";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code 0 whether the alias was moved or not; `--json` tells by `promoted`.

Example:
  host model promote mnist --metric accuracy --margin 0.001 --data mnist")]
pub(in crate::cli) struct PromoteArguments {
    /// The version: a name for its newest version, `name@version` or `name@alias`.
    model: NamedVersion,
    /// The alias that it may get.
    #[arg(long, default_value = "champion")]
    alias: String,
    /// Move the alias only if the version is better by this metric than the one that has it.
    #[arg(long)]
    metric: Option<String>,
    /// `maximize` or `minimize` the metric [default: losses and errors are minimized].
    #[arg(long, requires = "metric")]
    direction: Option<Direction>,
    /// How much better it must be.
    #[arg(long, requires = "metric", default_value = "0", value_parser = parse_margin)]
    margin: f64,
    /// Judge both by the test split of this dataset [default: by what training recorded].
    #[arg(long, requires = "metric", value_name = "DATASET")]
    data: Option<String>,
    /// Column that should be predicted.
    #[arg(long, requires = "data", default_value = "label")]
    label: String,
    #[command(flatten)]
    options: PluginOptions,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Of equals the champion is the best, else the first.

Example:
  host model compare mnist@2 mnist@3 --champion mnist@champion --data mnist --metric accuracy")]
pub(in crate::cli) struct CompareArguments {
    /// Bundles: names, `name@version`, `name@alias`, `sha256:` digests or bundle folders such as `./mnist`.
    #[arg(required = true, value_name = "CANDIDATE")]
    candidates: Vec<ModelReference>,
    /// The one to be better than; it is left out where it is not there yet.
    #[arg(long, value_name = "NAME@ALIAS")]
    champion: Option<ModelReference>,
    /// The dataset whose test split all are judged by.
    #[arg(long, value_name = "DATASET")]
    data: String,
    /// The metric.
    #[arg(long)]
    metric: String,
    /// `maximize` or `minimize` the metric [default: losses and errors are minimized].
    #[arg(long)]
    direction: Option<Direction>,
    /// Column that should be predicted.
    #[arg(long, default_value = "label")]
    label: String,
    #[command(flatten)]
    options: PluginOptions,
}

pub(super) fn promote(
    arguments: PromoteArguments,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<()> {
    check_alias(&arguments.alias)?;
    let rows = match &arguments.data {
        Some(data) => Some((arguments.options.start()?, state.resolve_dataset(data)?)),
        None => None,
    };
    let rows = rows
        .as_ref()
        .map(|(runtime, dataset)| (runtime, EvaluateSpec { dataset, split: SPLIT, label: &arguments.label }));
    let criterion = arguments.metric.as_deref().map(|metric| Criterion {
        metric,
        direction: arguments.direction.unwrap_or_else(|| Direction::of_metric(metric)),
        margin: arguments.margin,
        rows,
    });
    let newest = VersionSelector::Newest;
    let spec = PromoteSpec {
        model: &arguments.model.name,
        version: arguments.model.version.as_ref().unwrap_or(&newest),
        alias: &arguments.alias,
        criterion,
    };
    let threads = start_threads()?;
    let registry = threads.block_on(state.open_registry())?;
    let promotion = train::promote(threads.handle(), &registry, &spec)?;
    if output.is_json() {
        return output.value(&promotion);
    }
    Ok(output.line(&promotion_text(&promotion))?)
}

fn promotion_text(promotion: &Promotion) -> String {
    let Promotion { model, version, alias, reason, .. } = promotion;
    match (promotion.promoted, promotion.previous) {
        (true, _) => format!("{model}@{alias} is version {version} now: {reason}"),
        (false, Some(previous)) => format!("{model}@{alias} is still version {previous}: {reason}"),
        (false, None) => format!("{model}@{alias} is still no version: {reason}"),
    }
}

pub(super) fn compare(
    arguments: CompareArguments,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<()> {
    let (candidates, champion) = wait(async {
        let registry = state.open_registry().await?;
        let mut candidates = Vec::new();
        for reference in &arguments.candidates {
            let model = registry.resolve(reference).await?;
            candidates.push(Candidate { reference: reference.to_string(), model });
        }
        let champion = match &arguments.champion {
            Some(reference) => find_champion(&registry, reference, output).await?,
            None => None,
        };
        Ok((candidates, champion))
    })?;
    let dataset = state.resolve_dataset(&arguments.data)?;
    let runtime = arguments.options.start()?;
    let spec = CompareSpec {
        candidates: &candidates,
        champion: champion.as_ref(),
        metric: &arguments.metric,
        direction: arguments.direction.unwrap_or_else(|| Direction::of_metric(&arguments.metric)),
        rows: EvaluateSpec { dataset: &dataset, split: SPLIT, label: &arguments.label },
    };
    let store = state.open_store()?;
    let comparison = train::compare(&store, &runtime, &spec)?;
    if output.is_json() {
        return output.value(&comparison);
    }
    table(&comparison, &arguments.metric, output)
}

/// The champion; none where nothing has the alias yet, or there is no such model.
async fn find_champion(
    registry: &Registry,
    reference: &ModelReference,
    output: &Output,
) -> anyhow::Result<Option<Candidate>> {
    if !matches!(reference, ModelReference::Name(_, VersionSelector::Alias(_) | VersionSelector::Number(_))) {
        bail!("`{reference}` cannot be the champion: expected `name@alias`, such as `mnist@champion`");
    }
    match registry.resolve(reference).await {
        Ok(model) => Ok(Some(Candidate { reference: reference.to_string(), model })),
        Err(
            error @ (RegistryError::UnknownModel { .. }
            | RegistryError::NoVersions { .. }
            | RegistryError::UnknownAlias { .. }),
        ) => {
            output.note(&format!("there is no champion yet: {error}"));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn table(comparison: &Comparison, metric: &str, output: &Output) -> anyhow::Result<()> {
    let value = format!(">{}", metric.to_uppercase());
    let mut table = Table::new(&["", "MODEL", &value, "BUNDLE", ""]);
    let mut is_marked = false;
    // Of a bundle that was named twice only the first is marked.
    for one in &comparison.candidates {
        let is_best = one.bundle == comparison.bundle && !is_marked;
        is_marked |= is_best;
        table.row(vec![
            if is_best { "*" } else { "" }.to_owned(),
            one.reference.clone(),
            number_text(one.value),
            one.bundle.short(),
            if one.is_champion { "champion" } else { "" }.to_owned(),
        ]);
    }
    Ok(output.table(&table)?)
}

fn parse_margin(text: &str) -> Result<f64, String> {
    let margin = text.parse().ok().filter(|margin: &f64| margin.is_finite() && *margin >= 0.0);
    margin.ok_or_else(|| "expected a number that is not negative".to_owned())
}
