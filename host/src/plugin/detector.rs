use serde::Serialize;

use super::bindings::detector::exports::mlops::plugin::detector as guest;
use super::session::{Session, clean};
use super::{Fault, Kind, Plugin, PluginError};
use crate::domain::Batch;

/// Scores of one answer.
const SCORES_MAX: usize = 65_536;

/// Longest name of a feature or statistic.
const NAME_MAX_BYTES: usize = 256;

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
        self.session.fit(reference).await.map_err(|fault| self.plugin.error(fault))
    }

    /// Scores a window; worst first: by verdict, then by value relative to its threshold, then by name.
    pub async fn score(&mut self, window: &Batch) -> Result<Vec<Score>, PluginError> {
        let scores = self.session.score(window).await.map_err(|fault| self.plugin.error(fault))?;
        let scores: Result<Vec<Score>, Fault> = checked(scores);
        let mut scores = scores.map_err(|fault| self.plugin.error(fault))?;
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

/// Takes what a detector answered, if it can be one: a detector that says nothing has not found that all is well.
fn checked(scores: Vec<guest::Score>) -> Result<Vec<Score>, Fault> {
    let breach = |what: String| Err(Fault::Contract(format!("it returned {what}")));
    if scores.is_empty() {
        return breach("no scores".to_owned());
    }
    if scores.len() > SCORES_MAX {
        return breach(format!("{} scores: the limit is {SCORES_MAX}", scores.len()));
    }
    for score in &scores {
        let name =
            |text: &str| !text.is_empty() && text.len() <= NAME_MAX_BYTES && !text.contains(char::is_control);
        if !name(&score.feature) || !name(&score.statistic) {
            return breach(format!(
                "a score of `{}` by `{}`: expected names of 1 to {NAME_MAX_BYTES} bytes without control characters",
                clean(&score.feature, 80),
                clean(&score.statistic, 80)
            ));
        }
        if !score.value.is_finite() || !score.threshold.is_finite() {
            let (value, threshold) = (score.value, score.threshold);
            return breach(format!(
                "{value} with threshold {threshold} for `{}`: expected finite numbers",
                score.feature
            ));
        }
    }
    Ok(scores.into_iter().map(score).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn one(feature: &str, statistic: &str, value: f64, threshold: f64) -> Vec<guest::Score> {
        let (feature, statistic) = (feature.to_owned(), statistic.to_owned());
        vec![guest::Score { feature, statistic, value, threshold, verdict: guest::Verdict::Stable }]
    }

    #[test]
    fn answers_that_say_nothing_or_cannot_be_shown_break_the_contract() {
        let told = |scores| checked(scores).map_err(|fault| fault.to_string());
        assert_eq!(told(one("x", "psi", 0.1, 0.2)).unwrap().len(), 1);
        assert_eq!(told(Vec::new()).unwrap_err(), "broke the contract: it returned no scores");
        let long = "x".repeat(257);
        for (feature, statistic, value, threshold, expected) in [
            ("", "psi", 0.1, 0.2, "expected names of 1 to 256 bytes"),
            (long.as_str(), "psi", 0.1, 0.2, "expected names of 1 to 256 bytes"),
            ("a\u{1b}[31m", "psi", 0.1, 0.2, "a score of `a[31m`"),
            ("x", "p\nsi", 0.1, 0.2, "by `psi`"),
            ("x", "psi", f64::NAN, 0.2, "NaN with threshold 0.2 for `x`"),
            ("x", "psi", 0.1, f64::INFINITY, "0.1 with threshold inf for `x`"),
        ] {
            let error = told(one(feature, statistic, value, threshold)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let many = one("x", "psi", 0.1, 0.2).into_iter().cycle().take(SCORES_MAX + 1).collect();
        assert!(told(many).unwrap_err().contains("65537 scores: the limit is 65536"));
    }
}
