use serde::Serialize;

use super::bindings::detector::exports::mlops::plugin::detector as guest;
use super::session::Session;
use super::{Kind, Plugin, PluginError};
use crate::domain::Batch;

/// A detector that learns a reference and scores windows against it.
pub struct Detector {
    plugin: Plugin,
    session: Session,
}

/// How far one feature, or one group of features, is from the reference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// Column or group.
    pub feature: String,
    /// Name of the statistic.
    pub statistic: String,
    /// Its value; larger means further apart.
    pub value: f64,
    /// The value from which on the verdict is `drifted`.
    pub threshold: f64,
    /// The detector's judgement.
    pub verdict: Verdict,
}

/// What a score means for the operator, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// No difference beyond what chance explains.
    Stable,
    /// Worth a look.
    Warning,
    /// Not the reference's distribution.
    Drifted,
}

impl Verdict {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Warning => "warning",
            Self::Drifted => "drifted",
        }
    }
}

impl Detector {
    /// Opens `plugin` without state.
    pub async fn open(plugin: &Plugin, config: &str) -> Result<Self, PluginError> {
        plugin.expect_kind(Kind::Detector)?;
        let session = Session::open(plugin, config, None).await.map_err(|fault| plugin.error(fault))?;
        Ok(Self { plugin: plugin.clone(), session })
    }

    /// Learns from a batch of the reference.
    pub async fn fit(&mut self, reference: &Batch) -> Result<(), PluginError> {
        self.session.begin_call();
        self.session.fit(reference).await.map_err(|fault| self.plugin.error(fault))
    }

    /// Scores a window; worst first: by verdict, then by value relative to its threshold, then by name.
    pub async fn score(&mut self, window: &Batch) -> Result<Vec<Score>, PluginError> {
        self.session.begin_call();
        let scores = self.session.score(window).await.map_err(|fault| self.plugin.error(fault))?;
        let mut scores: Vec<Score> = scores.into_iter().map(score).collect();
        let excess = |score: &Score| score.value / score.threshold;
        scores.sort_by(|a, b| {
            b.verdict
                .cmp(&a.verdict)
                .then_with(|| excess(b).total_cmp(&excess(a)))
                .then_with(|| a.feature.cmp(&b.feature))
        });
        Ok(scores)
    }
}

fn score(score: guest::Score) -> Score {
    Score {
        feature: score.feature,
        statistic: score.statistic,
        value: score.value,
        threshold: score.threshold,
        verdict: match score.verdict {
            guest::Verdict::Stable => Verdict::Stable,
            guest::Verdict::Warning => Verdict::Warning,
            guest::Verdict::Drifted => Verdict::Drifted,
        },
    }
}
