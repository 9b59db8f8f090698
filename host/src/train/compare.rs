//! Which of several bundles is the best by a metric on the same rows.

use std::collections::BTreeMap;

use serde::Serialize;

use super::evaluate::{EvaluateError, EvaluateSpec, evaluate};
use crate::domain::{Digest, Direction, closest};
use crate::plugin::PluginRuntime;
use crate::registry::ResolvedModel;
use crate::store::Store;

/// A bundle to compare, and what the user calls it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// A name, digest or folder.
    pub reference: String,
    /// The bundle.
    pub model: ResolvedModel,
}

/// What to compare.
pub struct CompareSpec<'a> {
    /// The bundles; at least one, unless there is a champion.
    pub candidates: &'a [Candidate],
    /// The one to be better than, where there is one yet.
    pub champion: Option<&'a Candidate>,
    /// The metric to compare by.
    pub metric: &'a str,
    /// Which of its values are better.
    pub direction: Direction,
    /// The rows.
    pub rows: EvaluateSpec<'a>,
}

/// A bundle that was judged.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComparedBundle {
    /// What the user calls it.
    pub reference: String,
    /// The bundle.
    pub bundle: Digest,
    /// Its value of the metric.
    pub value: f64,
    /// Whether it is what the champion is.
    pub is_champion: bool,
}

/// The best bundle, and all.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The best.
    pub bundle: Digest,
    /// All of its metrics.
    pub metrics: BTreeMap<String, f64>,
    /// Whether it is what the champion is.
    pub is_champion: bool,
    /// All that were judged: the candidates, and after them the champion if it is none of them.
    pub candidates: Vec<ComparedBundle>,
}

/// Bundles that cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// One of them cannot be judged.
    #[error("`{reference}`: {source}")]
    Candidate {
        /// What the user calls it.
        reference: String,
        /// Why not.
        source: Box<EvaluateError>,
    },
    /// One of them has no such metric.
    #[error("`{reference}`: {source}")]
    Metric {
        /// What the user calls it.
        reference: String,
        /// Which ones it has.
        source: UnknownMetric,
    },
    /// Nothing is the best.
    #[error("no bundle can be the best: `{metric}` is a number for none of them")]
    NoNumber {
        /// The metric.
        metric: String,
    },
}

/// A metric that a bundle does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no metric `{metric}`: {}", metrics_text(known, suggestion.as_deref()))]
pub struct UnknownMetric {
    /// What was asked for.
    pub metric: String,
    /// What there is.
    pub known: Vec<String>,
    /// One of them that may have been meant.
    pub suggestion: Option<String>,
}

fn metrics_text(known: &[String], suggestion: Option<&str>) -> String {
    const SHOWN: usize = 20;
    if let Some(suggestion) = suggestion {
        return format!("did you mean `{suggestion}`?");
    }
    let names: Vec<_> = known.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "there is none".to_owned() } else { format!("there are {}", names.join(", ")) }
}

/// The value of a metric.
pub(super) fn metric_of(metrics: &BTreeMap<String, f64>, metric: &str) -> Result<f64, UnknownMetric> {
    metrics.get(metric).copied().ok_or_else(|| UnknownMetric {
        metric: metric.to_owned(),
        known: metrics.keys().cloned().collect(),
        suggestion: closest(metric, metrics.keys().map(String::as_str)).map(str::to_owned),
    })
}

/// Judges all on the same rows. Of equals the champion is the best, else the first.
pub fn compare(
    store: &Store,
    runtime: &PluginRuntime,
    spec: &CompareSpec<'_>,
) -> Result<Comparison, CompareError> {
    let champion = spec.champion.map(|champion| champion.model.digest);
    let is_new = |champion: &&Candidate| {
        !spec.candidates.iter().any(|candidate| candidate.model.digest == champion.model.digest)
    };
    let all: Vec<&Candidate> = spec.candidates.iter().chain(spec.champion.filter(is_new)).collect();
    let mut judged: BTreeMap<Digest, BTreeMap<String, f64>> = BTreeMap::new();
    let mut compared = Vec::with_capacity(all.len());
    for candidate in all {
        let (reference, bundle) = (candidate.reference.clone(), candidate.model.digest);
        let metrics = match judged.get(&bundle) {
            Some(metrics) => metrics,
            None => {
                let found = evaluate(store, runtime, &candidate.model.manifest, spec.rows);
                let found = found.map_err(|error| CompareError::Candidate {
                    reference: reference.clone(),
                    source: Box::new(error),
                })?;
                judged.entry(bundle).or_insert(found.evaluation.metrics)
            }
        };
        let value = metric_of(metrics, spec.metric);
        let value = value.map_err(|source| CompareError::Metric { reference: reference.clone(), source })?;
        compared.push(ComparedBundle { reference, bundle, value, is_champion: Some(bundle) == champion });
    }
    let best = best(&compared, spec.direction);
    let best = best.ok_or_else(|| CompareError::NoNumber { metric: spec.metric.to_owned() })?;
    let (bundle, is_champion) = (best.bundle, best.is_champion);
    let metrics = judged.remove(&bundle).unwrap_or_default();
    Ok(Comparison { bundle, metrics, is_champion, candidates: compared })
}

/// The best one that has a number; of equals the champion, else the first.
fn best(compared: &[ComparedBundle], direction: Direction) -> Option<&ComparedBundle> {
    let champions = compared.iter().filter(|one| one.is_champion);
    let others = compared.iter().filter(|one| !one.is_champion);
    let numbers = champions.chain(others).filter(|one| !one.value.is_nan());
    numbers.reduce(|best, one| if direction.is_better_by(one.value, best.value, 0.0) { one } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(reference: &str, value: f64, is_champion: bool) -> ComparedBundle {
        let bundle = Digest::of(reference.as_bytes());
        ComparedBundle { reference: reference.to_owned(), bundle, value, is_champion }
    }

    #[test]
    fn of_equals_the_champion_is_best_and_else_the_first() {
        let name = |compared: &[ComparedBundle], direction| {
            best(compared, direction).map(|best| best.reference.clone()).unwrap_or_default()
        };
        let (up, down) = (Direction::Maximize, Direction::Minimize);
        let equal = [one("a", 1.0, false), one("b", 1.0, false), one("c", 1.0, true)];
        assert_eq!(name(&equal, up), "c");
        assert_eq!(name(equal.get(..2).unwrap(), down), "a");
        let other = [one("a", f64::NAN, true), one("b", 1.0, false), one("c", 2.0, false)];
        assert_eq!((name(&other, up).as_str(), name(&other, down).as_str()), ("c", "b"));
        assert_eq!(name(&[one("a", f64::NAN, true)], up), "");
    }

    #[test]
    fn an_unknown_metric_is_told_with_those_there_are() {
        let metrics = BTreeMap::from([("accuracy".to_owned(), 0.5), ("log_loss".to_owned(), 1.0)]);
        let error = |metric: &str| metric_of(&metrics, metric).unwrap_err().to_string();
        assert_eq!(error("acuracy"), "there is no metric `acuracy`: did you mean `accuracy`?");
        assert_eq!(error("rmse"), "there is no metric `rmse`: there are `accuracy`, `log_loss`");
        let none = metric_of(&BTreeMap::new(), "rmse").unwrap_err().to_string();
        assert_eq!(none, "there is no metric `rmse`: there is none");
    }
}
