//! Compares the window of an endpoint with the reference of the bundle that filled it, by a detector.
//!
//! What drifted is an alert, which is kept, and may start pipelines that wait for one.
//!
//! Windows and references hold features and scores side by side, so a detector sees drift of the input and of the
//! predictions in one pass. Knows neither how windows are captured nor who looks at the report.

use serde::Serialize;

use crate::data::{self, Alerts, DataError, NewAlert, WindowBundle};
use crate::domain::{Digest, Name};
use crate::plugin::{Detector, Plugin, PluginError, Score, Verdict};
use crate::registry::{self, RegistryError, ResolvedModel};
use crate::store::{Store, StoreError};

/// What to compare.
pub struct MonitorSpec<'a> {
    /// The endpoint whose window is scored.
    pub endpoint: &'a Name,
    /// Whose rows; where none is given, of who answered most of them lately.
    pub model: Option<&'a ResolvedModel>,
    /// The detector.
    pub detector: &'a Plugin,
    /// The detector's config, a JSON object.
    pub config: &'a str,
    /// Newest rows of the window to score.
    pub rows_max: usize,
}

/// What a detector found.
#[derive(Debug, Clone, Serialize)]
pub struct MonitorReport {
    /// The endpoint.
    pub endpoint: Name,
    /// The bundle that answered the window's rows, whose reference they were compared with.
    pub bundle: Digest,
    /// The version of a model that it was, as `name@number`; none where it was none.
    pub version: Option<String>,
    /// Name of the detector.
    pub detector: String,
    /// Digest of the detector.
    pub detector_digest: Digest,
    /// Rows of the reference.
    pub reference_rows: usize,
    /// Rows of the window.
    pub window_rows: usize,
    /// The worst verdict of any score.
    pub verdict: Verdict,
    /// How many scores say that the data drifted.
    pub drifted: usize,
    /// Every score, worst first.
    pub scores: Vec<Score>,
}

/// A comparison that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The endpoint has not answered anything yet.
    #[error(
        "endpoint `{endpoint}` has no window yet: if it has a model, one is filled about a second after its first answers; if it is \
         made of others, those have windows"
    )]
    NoWindow {
        /// The endpoint.
        endpoint: Name,
    },
    /// The model has answered nothing that the window still holds.
    #[error("endpoint `{endpoint}` has no rows in its window that `{model}` answered: it has rows of {}", listed(.found))]
    NoRows {
        /// The endpoint.
        endpoint: Name,
        /// The model.
        model: String,
        /// Those that have.
        found: Vec<WindowBundle>,
    },
    /// The model was trained elsewhere.
    #[error(
        "endpoint `{endpoint}` was served from bundle {bundle}, which has no sample of its training data to compare with: \
         its model was imported"
    )]
    NoReference {
        /// The endpoint.
        endpoint: Name,
        /// The bundle.
        bundle: Digest,
    },
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A window or reference cannot be read.
    #[error("{0}")]
    Data(#[from] DataError),
    /// The bundle cannot be read.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// The detector failed.
    #[error("{0}")]
    Plugin(#[from] PluginError),
}

fn listed(bundles: &[WindowBundle]) -> String {
    bundles.iter().map(|bundle| format!("`{bundle}`")).collect::<Vec<_>>().join(", ")
}

/// Scores the endpoint's window by the detector, fitted on the reference of the bundle that filled it. That bundle may
/// have long been followed by a newer version of its model: what was served is what counts.
pub async fn run(store: &Store, spec: &MonitorSpec<'_>) -> Result<MonitorReport, MonitorError> {
    let bundle = spec.model.map(|model| model.digest);
    let Some(window) = data::read_window(store, spec.endpoint, bundle, spec.rows_max)? else {
        return Err(nothing_to_compare(store, spec)?);
    };
    let bundle = registry::read_bundle(store, window.bundle)?;
    let reference = bundle.reference.ok_or_else(|| MonitorError::NoReference {
        endpoint: spec.endpoint.clone(),
        bundle: window.bundle,
    })?;
    let reference = data::decode_safetensors(&store.get(reference.digest)?)?;
    let mut detector = Detector::open(spec.detector, spec.config).await?;
    detector.fit(&reference).await?;
    let scores = detector.score(&window.rows).await?;
    Ok(MonitorReport {
        endpoint: spec.endpoint.clone(),
        bundle: window.bundle,
        version: window.version,
        detector: spec.detector.manifest().name.clone(),
        detector_digest: spec.detector.digest(),
        reference_rows: reference.rows(),
        window_rows: window.rows.rows(),
        verdict: scores.iter().map(|score| score.verdict).max().unwrap_or(Verdict::Stable),
        drifted: scores.iter().filter(|score| score.verdict == Verdict::Drifted).count(),
        scores,
    })
}

/// Why there are no rows.
fn nothing_to_compare(store: &Store, spec: &MonitorSpec<'_>) -> Result<MonitorError, DataError> {
    let (endpoint, found) = (spec.endpoint.clone(), data::bundles_of_window(store, spec.endpoint)?);
    Ok(match spec.model {
        Some(model) if !found.is_empty() => {
            let named = model.name.as_ref().zip(model.version);
            let version = named.map(|(name, number)| format!("{name}@{number}"));
            let model = WindowBundle { bundle: model.digest, version }.to_string();
            MonitorError::NoRows { endpoint, model, found }
        }
        _ => MonitorError::NoWindow { endpoint },
    })
}

/// Keeps an alert, if the report says that the data drifted; gives its number.
pub async fn record_alert(
    alerts: &Alerts,
    report: &MonitorReport,
    now_ms: i64,
) -> Result<Option<i64>, DataError> {
    if report.verdict != Verdict::Drifted {
        return Ok(None);
    }
    let alert = NewAlert {
        endpoint: report.endpoint.clone(),
        bundle: report.bundle,
        detector: report.detector.clone(),
        detector_digest: report.detector_digest,
        verdict: report.verdict,
        drifted: report.drifted,
        scores: report.scores.len(),
        now_ms,
    };
    alerts.record(alert).await.map(Some)
}
