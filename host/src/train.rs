//! Trainers: rows and labels in, the bytes of a model file out, one report a round on the way.
//!
//! Owns one training run from a dataset version to a bundle ([`run`]), the trainers (libxgboost with its binding, candle,
//! any program: [`command`]), the metrics of predictions, and what is decided by them: which of several bundles is the best ([`compare`]), and whether
//! a version becomes the champion ([`promote`]). What is trained here, [`crate::model`] loads; runs that fail leave no bundle.

mod checkpoint;
pub mod command;
mod compare;
mod evaluate;
pub mod evaluation;
mod files;
mod job;
mod matrix;
pub mod network;
mod parameter;
mod prepared;
mod promote;
mod report;
mod run_log;
pub mod search;
pub mod sweep;
mod trainer;
mod transform;
pub mod xgboost;
mod xgboost_library;

use crate::data::DataError;
use crate::domain::{BatchError, Name, SchemaError, TensorError};
use crate::model::ModelError;
use crate::model::network::reason_of;
use crate::plugin::PluginError;
use crate::registry::{FeatureError, PredictionError, RegistryError};
use crate::store::StoreError;
use crate::track::TrackError;

pub use crate::model::LibrarySearch;
pub use compare::{Candidate, CompareError, CompareSpec, ComparedBundle, Comparison, UnknownMetric, compare};
pub use evaluate::{BundleEvaluation, EvaluateError, EvaluateSpec, evaluate};
pub use files::DataFiles;
pub use job::{TrainEvent, TrainReport, run};
pub use prepared::{Learned, Prepared, TrainSpec, TransformerSpec};
pub use promote::{Criterion, PromoteError, PromoteSpec, Promotion, promote};
pub use report::{EVALUATION_METRICS, Evaluation};
pub use run_log::{RunLog, RunStart};
pub use trainer::{Checkpoints, ShowPrinted, Surroundings, Task, TrainData, TrainSession, Trained, Trainer};
pub use transform::{TransformError, TransformEvent, TransformSpec, transform};
pub use xgboost_library::{Booster, DMatrix, Library};

/// Rows to learn from: features row-major, NaN where one is missing, and a label for each row.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    features: &'a [f32],
    feature_count: usize,
    labels: &'a [f32],
}

impl<'a> Matrix<'a> {
    /// Takes rows of `feature_count` features and as many labels as rows.
    pub fn new(features: &'a [f32], feature_count: usize, labels: &'a [f32]) -> Result<Self, TrainError> {
        if labels.is_empty() || feature_count == 0 {
            return Err(TrainError::Empty { rows: labels.len(), features: feature_count });
        }
        if labels.len().checked_mul(feature_count) != Some(features.len()) {
            return Err(TrainError::Length {
                expected: feature_count,
                rows: labels.len(),
                found: features.len(),
            });
        }
        if let Some((row, &label)) = labels.iter().enumerate().find(|(_, label)| !label.is_finite()) {
            return Err(TrainError::Label { row, label, expected: "a finite number".to_owned() });
        }
        if let Some(index) = features.iter().position(|feature| feature.is_infinite()) {
            return Err(TrainError::Infinite { row: index / feature_count, feature: index % feature_count });
        }
        Ok(Self { features, feature_count, labels })
    }

    /// Number of rows; at least 1.
    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    /// Number of features in a row; at least 1.
    pub fn feature_count(&self) -> usize {
        self.feature_count
    }

    /// The features, row-major.
    pub fn features(&self) -> &'a [f32] {
        self.features
    }

    /// The labels.
    pub fn labels(&self) -> &'a [f32] {
        self.labels
    }
}

/// What a trainer tells after each round.
#[derive(Debug, Clone, PartialEq)]
pub struct RoundReport {
    /// The round that ended, from 1.
    pub round: u32,
    /// Rounds in all.
    pub of: u32,
    /// How good the model is now.
    pub metrics: Vec<RoundMetric>,
}

/// A metric after a round.
#[derive(Debug, Clone, PartialEq)]
pub struct RoundMetric {
    /// The rows that were scored.
    pub set: RowSet,
    /// The trainer's name of the metric, such as `mlogloss`.
    pub name: String,
    /// Its value.
    pub value: f64,
}

/// Rows that a metric is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowSet {
    /// Rows that the model learns from.
    Train,
    /// Rows that it does not see.
    Test,
}

impl RowSet {
    /// `train` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// Training that could not begin or did not end.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The caller said stop.
    #[error("training was stopped")]
    Stopped,
    /// The column to predict is not there.
    #[error("dataset `{dataset}` has no column `{label}` to predict: it has {columns}")]
    NoLabel {
        /// The dataset.
        dataset: Name,
        /// The column.
        label: String,
        /// The columns there are.
        columns: String,
    },
    /// The column to predict holds no numbers.
    #[error("column `{label}` cannot be predicted: expected one number a row, found {found}")]
    LabelType {
        /// The column.
        label: String,
        /// What it holds.
        found: String,
    },
    /// Nothing to tell apart.
    #[error("every row to train on has the class {label}: expected at least two classes")]
    OneClass {
        /// The class.
        label: f32,
    },
    /// A row without a label.
    #[error("row {row} has no value in column `{label}`, which is to be predicted")]
    LabelMissing {
        /// The column.
        label: String,
        /// The row, from 0.
        row: usize,
    },
    /// Nothing to learn from or to test on.
    #[error("the split `{split}` has no rows")]
    EmptySplit {
        /// The split.
        split: &'static str,
    },
    /// The transformers left no column for the model.
    #[error("the preprocess transformers left no numeric column for the model")]
    NoFeatures,
    /// The evaluator and the trainer's library disagree.
    #[error(
        "the host's evaluator and {framework} score test row {row} differently: this {framework} is not one that the \
         host can serve for bit by bit"
    )]
    CrossCheck {
        /// The trainer's library.
        framework: &'static str,
        /// The first row, from 0.
        row: usize,
    },
    /// A metric that the evaluation does not have.
    #[error("there is no metric `{name}`: expected one of {}", known.join(", "))]
    NoMetric {
        /// The metric.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The run cannot be written.
    #[error("{0}")]
    Track(#[from] TrackError),
    /// The dataset cannot be read.
    #[error("{0}")]
    Data(#[from] DataError),
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A transformer failed.
    #[error("{0}")]
    Plugin(#[from] PluginError),
    /// The bundle cannot be written.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// The columns make no matrix.
    #[error("{0}")]
    Features(#[from] FeatureError),
    /// The bundle cannot answer.
    #[error("the bundle cannot answer rows of the test split: {0}")]
    Prediction(#[from] PredictionError),
    /// The answer is not what the signature says.
    #[error("the answer to rows of the test split is not what the signature says: {0}")]
    Schema(#[from] SchemaError),
    /// The trained model cannot be loaded.
    #[error("the trained model cannot be loaded: {0}")]
    Model(#[from] ModelError),
    /// The model does not go with the rows.
    #[error("the model takes {found} features a row: expected {expected}, as many as the transformers make")]
    ModelFeatures {
        /// Features of a row.
        expected: usize,
        /// Features that the model takes.
        found: usize,
    },
    /// The program that was to train did not.
    #[error("{0}")]
    Command(#[from] command::CommandError),
    /// Scores and labels do not go together.
    #[error("{0}")]
    Evaluation(#[from] evaluation::EvaluationError),
    /// Columns do not fit together.
    #[error("{0}")]
    Batch(#[from] BatchError),
    /// A column cannot be made.
    #[error("{0}")]
    Tensor(#[from] TensorError),
    /// libxgboost is nowhere.
    #[error(
        "libxgboost was not found in {}\nhint: run `cargo xtask setup` in a checkout, or `pip download --no-deps \
         xgboost-cpu==3.2.0`, unzip the wheel and set HOST_XGBOOST_LIBRARY to its xgboost/lib/libxgboost.so",
        looked.join(", ")
    )]
    LibraryNotFound {
        /// Every place, in order.
        looked: Vec<String>,
    },
    /// A file that is there cannot be loaded.
    #[error("failed to load `{path}` as libxgboost")]
    LibraryLoad {
        /// The file.
        path: String,
        /// What the loader says.
        #[source]
        source: libloading::Error,
    },
    /// A library, but not the one.
    #[error("`{path}` is not libxgboost 2.0 or newer: it has no function `{function}`")]
    NotXgboost {
        /// The file.
        path: String,
        /// The first function that was missed.
        function: &'static str,
    },
    /// A version whose models or functions differ.
    #[error("`{path}` is libxgboost {version}: expected 2.0 or newer")]
    LibraryVersion {
        /// The file.
        path: String,
        /// What it says it is.
        version: String,
    },
    /// libxgboost refused.
    #[error("libxgboost: {message}")]
    Xgboost {
        /// Its reason.
        message: String,
    },
    /// A network that cannot be made or trained.
    #[error("the network cannot be trained: {reason}")]
    Network {
        /// What is wrong.
        reason: String,
    },
    /// candle failed.
    #[error("candle failed: {reason}")]
    Candle {
        /// Its reason.
        reason: String,
    },
    /// A training that does not learn.
    #[error(
        "training diverged in epoch {epoch}: the loss is no finite number\nhint: set a smaller `learning_rate`"
    )]
    Diverged {
        /// The epoch, from 1.
        epoch: u32,
    },
    /// What to go on from does not fit.
    #[error("cannot start from this file: {reason}")]
    StartFrom {
        /// What is wrong.
        reason: String,
    },
    /// libxgboost answered with something else than it documents.
    #[error("libxgboost answered {found}: expected {expected}")]
    Answer {
        /// What it should have been.
        expected: &'static str,
        /// What it was.
        found: String,
    },
    /// A name that the trainer would ignore.
    #[error("unknown parameter `{name}`{}", suggestion.map(|known| format!(": did you mean `{known}`?")).unwrap_or_default())]
    UnknownParameter {
        /// The name.
        name: String,
        /// A known one that is close.
        suggestion: Option<&'static str>,
    },
    /// A value that cannot be.
    #[error("parameter `{name}` is `{value}`: expected {expected}")]
    ParameterValue {
        /// The name.
        name: String,
        /// What was given.
        value: String,
        /// What would be taken.
        expected: String,
    },
    /// No rows or no columns.
    #[error("{rows} rows of {features} features: expected at least one of each")]
    Empty {
        /// Number of rows.
        rows: usize,
        /// Number of features.
        features: usize,
    },
    /// Features and labels do not go together.
    #[error("{found} features for {rows} labels: expected {expected} a row")]
    Length {
        /// Features in a row.
        expected: usize,
        /// Number of labels.
        rows: usize,
        /// Number of features in all rows.
        found: usize,
    },
    /// Test rows that the model could not score.
    #[error("test rows have {found} features: expected {expected}, as in the training rows")]
    FeatureCount {
        /// Features of a training row.
        expected: usize,
        /// Features of a test row.
        found: usize,
    },
    /// A label that the objective cannot learn.
    #[error("label of row {row} is {label}: expected {expected}")]
    Label {
        /// The row, from 0.
        row: usize,
        /// What it is.
        label: f32,
        /// What it could be.
        expected: String,
    },
    /// A feature that is not a number.
    #[error(
        "feature {feature} of row {row} is infinite: expected a finite number, or NaN where it is missing"
    )]
    Infinite {
        /// The row, from 0.
        row: usize,
        /// The feature, from 0.
        feature: usize,
    },
}

impl From<candle_core::Error> for TrainError {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle { reason: reason_of(&error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_rows_that_cannot_be_learned() {
        let refusal = |features: &[f32], count, labels: &[f32]| {
            Matrix::new(features, count, labels).unwrap_err().to_string()
        };
        assert!(Matrix::new(&[1.0, f32::NAN], 2, &[0.0]).is_ok());
        assert_eq!(refusal(&[], 2, &[]), "0 rows of 2 features: expected at least one of each");
        assert_eq!(refusal(&[1.0; 3], 2, &[0.0]), "3 features for 1 labels: expected 2 a row");
        assert_eq!(
            refusal(&[1.0; 2], 1, &[0.0, f32::NAN]),
            "label of row 1 is NaN: expected a finite number"
        );
        assert_eq!(
            refusal(&[1.0, 1.0, 1.0, f32::INFINITY], 2, &[0.0, 0.0]),
            "feature 1 of row 1 is infinite: expected a finite number, or NaN where it is missing"
        );
    }
}
