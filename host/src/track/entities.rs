use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::TrackError;
use super::rest::fields::{Numbered, double, int, int_or_zero, objects, or_default};

/// A name under which runs are compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Experiment {
    /// A number, as text.
    pub experiment_id: String,
    /// Unique among those that are not deleted for good.
    pub name: String,
    /// Where artifacts of its runs go.
    pub artifact_location: String,
    /// Active or deleted.
    pub lifecycle_stage: Lifecycle,
    /// Milliseconds since 1970.
    pub creation_time: i64,
    /// Milliseconds since 1970.
    pub last_update_time: i64,
    /// Notes of whoever made it.
    pub tags: Vec<Pair>,
}

/// A key with a value: a tag or a parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// Unique within what it belongs to.
    pub key: String,
    /// Any text.
    #[serde(default, deserialize_with = "or_default")]
    pub value: String,
}

/// Whether something is in use or waits to be collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// In use.
    Active,
    /// Deleted, and can be restored.
    Deleted,
}

/// Which lifecycles a search looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ViewType {
    /// What is in use.
    #[default]
    ActiveOnly,
    /// What is deleted.
    DeletedOnly,
    /// Both.
    All,
}

/// A point of a metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// The metric's name.
    pub key: String,
    /// Any float: NaN and infinities are kept.
    #[serde(with = "double")]
    pub value: f64,
    /// Milliseconds since 1970.
    #[serde(deserialize_with = "int")]
    pub timestamp: i64,
    /// The x axis: a round, an epoch.
    #[serde(default, deserialize_with = "int_or_zero")]
    pub step: i64,
    /// The logged model that was measured, where one is named.
    #[serde(default, skip_serializing)]
    pub model_id: Option<String>,
    /// The dataset that it was measured on.
    #[serde(default, skip_serializing)]
    pub dataset_name: Option<String>,
    /// That dataset's digest.
    #[serde(default, skip_serializing)]
    pub dataset_digest: Option<String>,
}

impl Metric {
    /// A point that belongs to a run alone.
    pub fn new(key: impl Into<String>, value: f64, timestamp: i64, step: i64) -> Self {
        Self {
            key: key.into(),
            value,
            timestamp,
            step,
            model_id: None,
            dataset_name: None,
            dataset_digest: None,
        }
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RunStatus {
    /// Under way.
    Running,
    /// Waits for resources.
    Scheduled,
    /// Done.
    Finished,
    /// Ended by an error.
    Failed,
    /// Ended by somebody.
    Killed,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// What it is.
    pub info: RunInfo,
    /// What it logged.
    pub data: RunData,
    /// What it read.
    pub inputs: RunInputs,
    /// What it made.
    pub outputs: RunOutputs,
}

/// What a run is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunInfo {
    /// 32 hexadecimal digits.
    pub run_id: String,
    /// The same; older clients read this one.
    pub run_uuid: String,
    /// For people.
    pub run_name: String,
    /// Its experiment.
    pub experiment_id: String,
    /// Who started it.
    pub user_id: String,
    /// How far it is.
    pub status: RunStatus,
    /// Milliseconds since 1970.
    pub start_time: i64,
    /// Milliseconds since 1970; none while it is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<i64>,
    /// Where its artifacts are.
    pub artifact_uri: String,
    /// Active or deleted.
    pub lifecycle_stage: Lifecycle,
}

/// What a run logged.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RunData {
    /// The newest point of each metric.
    pub metrics: Vec<Metric>,
    /// Parameters; each is set once.
    pub params: Vec<Pair>,
    /// Notes.
    pub tags: Vec<Pair>,
}

/// What a run read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunInputs {
    /// Datasets.
    #[serde(default, deserialize_with = "objects")]
    pub dataset_inputs: Vec<DatasetInput>,
    /// Logged models.
    #[serde(default, deserialize_with = "objects")]
    pub model_inputs: Vec<ModelInput>,
}

/// What a run made.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RunOutputs {
    /// Logged models.
    pub model_outputs: Vec<ModelOutput>,
}

/// A logged model that a run read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInput {
    /// Its id.
    pub model_id: String,
}

/// A logged model that a run made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelOutput {
    /// Its id.
    pub model_id: String,
    /// When, on the x axis of its metrics.
    #[serde(default, deserialize_with = "int_or_zero")]
    pub step: i64,
}

/// A dataset that a run read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetInput {
    /// Notes on the use, for example `mlflow.data.context`.
    #[serde(default, deserialize_with = "objects")]
    pub tags: Vec<Pair>,
    /// The dataset.
    pub dataset: InputDataset,
}

/// A dataset as a run names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputDataset {
    /// Its name.
    pub name: String,
    /// Identifies its content.
    pub digest: String,
    /// What kind of source it has.
    #[serde(default, deserialize_with = "or_default")]
    pub source_type: String,
    /// Where it came from.
    #[serde(default, deserialize_with = "or_default")]
    pub source: String,
    /// Its columns, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// Statistics, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

impl Numbered for ViewType {
    fn of_number(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::ActiveOnly,
            2 => Self::DeletedOnly,
            3 => Self::All,
            _ => return None,
        })
    }
}

impl Numbered for RunStatus {
    fn of_number(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::Running,
            2 => Self::Scheduled,
            3 => Self::Finished,
            4 => Self::Failed,
            5 => Self::Killed,
            _ => return None,
        })
    }
}

impl Lifecycle {
    pub(super) fn of(deleted_at: Option<i64>) -> Self {
        if deleted_at.is_none() { Self::Active } else { Self::Deleted }
    }

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Deleted => "deleted",
        }
    }
}

impl RunStatus {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Scheduled => "SCHEDULED",
            Self::Finished => "FINISHED",
            Self::Failed => "FAILED",
            Self::Killed => "KILLED",
        }
    }
}

impl FromStr for RunStatus {
    type Err = TrackError;

    fn from_str(text: &str) -> Result<Self, TrackError> {
        let all = [Self::Running, Self::Scheduled, Self::Finished, Self::Failed, Self::Killed];
        all.into_iter().find(|status| status.as_str() == text).ok_or_else(|| {
            let text: String = text.chars().take(100).collect();
            TrackError::invalid(format!(
                "`{text}` is no status: expected RUNNING, SCHEDULED, FINISHED, FAILED or KILLED"
            ))
        })
    }
}
