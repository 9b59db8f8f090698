//! Moves an alias to a version if that is better than the one that has it.
//!
//! Judging takes long, moving does not: the alias is moved only if the version that has it is still the one that the
//! decision was made by, else it is decided anew. So of two promotions at once none overwrites a better version unseen.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::runtime::Handle;

use super::compare::{UnknownMetric, metric_of};
use super::evaluate::{EvaluateError, EvaluateSpec, evaluate};
use crate::domain::{Digest, Direction, Name};
use crate::plugin::PluginRuntime;
use crate::registry::{
    BundleManifest, ModelVersion, Registry, RegistryError, VersionSelector, check_new_alias, read_bundle,
};
use crate::track::TrackError;

/// Decisions after which it is given up: so many others moved the alias meanwhile.
const DECISIONS_MAX: usize = 32;

/// What to promote, and when.
pub struct PromoteSpec<'a> {
    /// The model.
    pub model: &'a Name,
    /// The version that may get the alias.
    pub version: &'a VersionSelector,
    /// The alias.
    pub alias: &'a str,
    /// What the version must be better by; none moves the alias in any case.
    pub criterion: Option<Criterion<'a>>,
}

/// What makes a version better than another.
pub struct Criterion<'a> {
    /// The metric.
    pub metric: &'a str,
    /// Which of its values are better.
    pub direction: Direction,
    /// How much better it must be; not negative.
    pub margin: f64,
    /// The rows that both are judged by; none takes the metrics that training recorded of both.
    pub rows: Option<(&'a PluginRuntime, EvaluateSpec<'a>)>,
}

/// What was decided, and by what.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Promotion {
    /// Whether the alias was moved.
    pub promoted: bool,
    /// The model.
    pub model: String,
    /// The version that was to get the alias.
    pub version: i64,
    /// The alias.
    pub alias: String,
    /// The version that had it before.
    pub previous: Option<i64>,
    /// The metric.
    pub metric: Option<String>,
    /// The version's value of it.
    pub value: Option<f64>,
    /// The value of the version that had the alias.
    pub previous_value: Option<f64>,
    /// Why it was decided so, for people.
    pub reason: String,
}

/// A version that could not be promoted, nor refused.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// A version is not there or has no bundle.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// The database failed, or what it was asked is wrong.
    #[error("{0}")]
    Track(#[from] TrackError),
    /// A version cannot be judged.
    #[error("version {version}: {source}")]
    Evaluate {
        /// The version.
        version: i64,
        /// Why not.
        source: Box<EvaluateError>,
    },
    /// A version has no such metric.
    #[error("version {version}: {source}")]
    Metric {
        /// The version.
        version: i64,
        /// Which ones it has.
        source: UnknownMetric,
    },
    /// What was recorded says nothing of which is better.
    #[error(
        "version {version} was tested on {data}, and version {previous} on {previous_data}: their metrics cannot be \
         compared\nhint: give `--data DATASET` to test both on the same rows"
    )]
    OtherData {
        /// The version.
        version: i64,
        /// What it was tested on.
        data: String,
        /// The version that has the alias.
        previous: i64,
        /// What that was tested on.
        previous_data: String,
    },
    /// Others moved the alias all the time.
    #[error("`{alias}` was moved by others {DECISIONS_MAX} times meanwhile: try again")]
    Busy {
        /// The alias.
        alias: String,
    },
}

/// Decides, and moves the alias if that is the decision. Must not be called on a thread of `threads`, which do the reading
/// and writing of the database.
pub fn promote(
    threads: &Handle,
    registry: &Registry,
    spec: &PromoteSpec<'_>,
) -> Result<Promotion, PromoteError> {
    check_new_alias(spec.alias)?;
    let version = threads.block_on(registry.find_version(spec.model, spec.version))?;
    let mut judge = Judge { registry, criterion: spec.criterion.as_ref(), values: BTreeMap::new() };
    for _ in 0..DECISIONS_MAX {
        let holder = threads.block_on(holder(registry, spec))?;
        let decision = judge.decide(&version, holder.as_ref(), spec.alias)?;
        if !decision.promoted {
            return Ok(decision);
        }
        let (name, alias) = (version.name.clone(), spec.alias.to_owned());
        let moved = registry.move_alias(name, alias, decision.previous, version.number);
        if threads.block_on(moved)? {
            return Ok(decision);
        }
    }
    Err(PromoteError::Busy { alias: spec.alias.to_owned() })
}

/// The version that has the alias.
async fn holder(registry: &Registry, spec: &PromoteSpec<'_>) -> Result<Option<ModelVersion>, RegistryError> {
    let model = registry.find_model(spec.model).await?;
    let Some(found) = model.aliases.iter().find(|found| found.alias == spec.alias) else { return Ok(None) };
    registry.find_version(spec.model, &VersionSelector::Number(found.number)).await.map(Some)
}

struct Judge<'a> {
    registry: &'a Registry,
    criterion: Option<&'a Criterion<'a>>,
    /// What bundles were found to be.
    values: BTreeMap<Digest, f64>,
}

impl Judge<'_> {
    fn decide(
        &mut self,
        version: &ModelVersion,
        holder: Option<&ModelVersion>,
        alias: &str,
    ) -> Result<Promotion, PromoteError> {
        let mut decision = Promotion {
            promoted: false,
            model: version.name.clone(),
            version: version.number,
            alias: alias.to_owned(),
            previous: holder.map(|holder| holder.number),
            metric: self.criterion.map(|criterion| criterion.metric.to_owned()),
            value: None,
            previous_value: None,
            reason: String::new(),
        };
        if let Some(criterion) = self.criterion {
            decision.value = Some(self.value(criterion, version)?);
            if let Some(holder) = holder {
                if criterion.rows.is_none() {
                    self.check_same_data(version, holder)?;
                }
                decision.previous_value = Some(self.value(criterion, holder)?);
            }
        }
        (decision.promoted, decision.reason) = reason(&decision, self.criterion);
        Ok(decision)
    }

    /// A version's value of the metric.
    fn value(&mut self, criterion: &Criterion<'_>, version: &ModelVersion) -> Result<f64, PromoteError> {
        let bundle = bundle_of(version)?;
        if let Some(value) = self.values.get(&bundle) {
            return Ok(*value);
        }
        let number = version.number;
        let manifest = self.manifest(bundle)?;
        let metrics = match &criterion.rows {
            None => manifest.metrics,
            Some((runtime, rows)) => {
                evaluate(self.registry.tracker().store(), runtime, &manifest, *rows)
                    .map_err(|error| PromoteError::Evaluate { version: number, source: Box::new(error) })?
                    .evaluation
                    .metrics
            }
        };
        let value = metric_of(&metrics, criterion.metric)
            .map_err(|source| PromoteError::Metric { version: number, source })?;
        self.values.insert(bundle, value);
        Ok(value)
    }

    fn manifest(&self, bundle: Digest) -> Result<BundleManifest, RegistryError> {
        read_bundle(self.registry.tracker().store(), bundle)
    }

    /// Recorded metrics are of the test split of the dataset version that each was trained on.
    fn check_same_data(&self, version: &ModelVersion, holder: &ModelVersion) -> Result<(), PromoteError> {
        let bundles = (bundle_of(version)?, bundle_of(holder)?);
        if bundles.0 == bundles.1 {
            return Ok(());
        }
        let datasets = (self.manifest(bundles.0)?.dataset, self.manifest(bundles.1)?.dataset);
        if let (Some(one), Some(other)) = &datasets
            && one.version == other.version
        {
            return Ok(());
        }
        let text = |dataset: Option<crate::registry::DatasetRef>| {
            let text = dataset.map(|dataset| format!("`{}@{}`", dataset.name, dataset.version));
            text.unwrap_or_else(|| "nothing that is known".to_owned())
        };
        Err(PromoteError::OtherData {
            version: version.number,
            data: text(datasets.0),
            previous: holder.number,
            previous_data: text(datasets.1),
        })
    }
}

fn bundle_of(version: &ModelVersion) -> Result<Digest, PromoteError> {
    version.bundle.ok_or_else(|| {
        TrackError::invalid(format!(
            "version {} of `{}` has no bundle to judge",
            version.number, version.name
        ))
        .into()
    })
}

/// Whether to move the alias, and why.
fn reason(decision: &Promotion, criterion: Option<&Criterion<'_>>) -> (bool, String) {
    let Promotion { version, alias, .. } = decision;
    if decision.previous == Some(*version) {
        return (false, format!("version {version} is `{alias}` already"));
    }
    let Some(criterion) = criterion else { return (true, "no metric was asked for".to_owned()) };
    let metric = criterion.metric;
    let value = decision.value.unwrap_or(f64::NAN);
    if value.is_nan() {
        return (false, format!("{metric} of version {version} is not a number"));
    }
    let (Some(previous), Some(previous_value)) = (decision.previous, decision.previous_value) else {
        return (true, format!("no version was `{alias}`"));
    };
    let is_better = criterion.direction.is_better_by(value, previous_value, criterion.margin);
    let than = format!("better than {previous_value} of version {previous}");
    let margin = match criterion.margin {
        0.0 => String::new(),
        margin => format!(" by more than {margin}"),
    };
    let is = if is_better { "is" } else { "is not" };
    (is_better, format!("{metric} {value} {is} {than}{margin}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(previous: Option<(i64, f64)>, value: f64, margin: f64) -> (bool, String) {
        let criterion = Criterion { metric: "accuracy", direction: Direction::Maximize, margin, rows: None };
        let decision = Promotion {
            promoted: false,
            model: "m".to_owned(),
            version: 2,
            alias: "champion".to_owned(),
            previous: previous.map(|(number, _)| number),
            metric: Some("accuracy".to_owned()),
            value: Some(value),
            previous_value: previous.map(|(_, value)| value),
            reason: String::new(),
        };
        reason(&decision, Some(&criterion))
    }

    #[test]
    fn only_what_is_better_is_promoted() {
        let told = |previous, value, margin| decided(previous, value, margin);
        let (yes, no) = (|text: &str| (true, text.to_owned()), |text: &str| (false, text.to_owned()));
        assert_eq!(told(None, 0.5, 0.0), yes("no version was `champion`"));
        assert_eq!(told(None, f64::NAN, 0.0), no("accuracy of version 2 is not a number"));
        assert_eq!(told(Some((2, 0.5)), 0.5, 0.0), no("version 2 is `champion` already"));
        assert_eq!(told(Some((1, 0.5)), 0.75, 0.0), yes("accuracy 0.75 is better than 0.5 of version 1"));
        assert_eq!(told(Some((1, 0.5)), 0.5, 0.0), no("accuracy 0.5 is not better than 0.5 of version 1"));
        assert_eq!(
            told(Some((1, 0.5)), 0.75, 0.25),
            no("accuracy 0.75 is not better than 0.5 of version 1 by more than 0.25")
        );
        assert!(told(Some((1, f64::NAN)), 0.1, 0.25).0);
        assert!(!told(Some((1, 0.5)), f64::NAN, 0.0).0);
    }
}
