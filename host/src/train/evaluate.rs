//! How good a bundle is on rows with labels: they go through its own transformers and model, as requests do, and are
//! judged as training judges its test split.

use super::matrix::{Source, Split};
use super::report::{self, Evaluation};
use super::trainer::Task;
use super::{TrainError, evaluation};
use crate::data::{self, ResolvedDataset};
use crate::domain::BatchError;
use crate::model::SCORES;
use crate::plugin::{PluginRuntime, block_on};
use crate::registry::{BundleManifest, PredictionError, Predictor, RegistryError};
use crate::store::Store;

/// Rows to judge by.
#[derive(Debug, Clone, Copy)]
pub struct EvaluateSpec<'a> {
    /// The dataset version.
    pub dataset: &'a ResolvedDataset,
    /// Its rows: `test`, or `train`. Of a dataset without a test split, those that training holds out are `test`.
    pub split: &'a str,
    /// Column with what should be predicted.
    pub label: &'a str,
}

/// What the rows say.
#[derive(Debug, Clone, PartialEq)]
pub struct BundleEvaluation {
    /// How many they are.
    pub rows: usize,
    /// How well they were predicted.
    pub evaluation: Evaluation,
}

/// A bundle that could not be judged.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// Rows of this name are for nothing here.
    #[error("`{split}` is no split to judge by: expected `test` or `train`")]
    Split {
        /// What was asked for.
        split: String,
    },
    /// The bundle cannot be loaded.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// The dataset cannot be read, or has no labels.
    #[error("{0}")]
    Source(#[source] Box<TrainError>),
    /// The rows are not what the bundle takes.
    #[error("the bundle cannot answer rows of `{dataset}`: {source}")]
    Prediction {
        /// The dataset.
        dataset: String,
        /// Why not.
        source: Box<PredictionError>,
    },
    /// Columns do not fit together.
    #[error("{0}")]
    Batch(#[from] BatchError),
    /// Scores and labels do not go together.
    #[error("the bundle's scores cannot be judged by column `{label}`: {source}")]
    Evaluation {
        /// The column.
        label: String,
        /// Why not.
        source: evaluation::EvaluationError,
    },
}

impl From<TrainError> for EvaluateError {
    fn from(error: TrainError) -> Self {
        Self::Source(Box::new(error))
    }
}

/// Judges a bundle. Columns that it does not take, such as the label, are left out.
pub fn evaluate(
    store: &Store,
    runtime: &PluginRuntime,
    manifest: &BundleManifest,
    spec: EvaluateSpec<'_>,
) -> Result<BundleEvaluation, EvaluateError> {
    let split = Split::named(spec.split);
    let split = split.ok_or_else(|| EvaluateError::Split { split: spec.split.to_owned() })?;
    let source = Source::open(store, spec.dataset, spec.label, None, data::BATCH_ROWS)?;
    let predictor = Predictor::load(store, runtime, manifest)?;
    let (mut scores, mut labels) = (Vec::new(), Vec::new());
    for batch in source.batches(split)? {
        let (inputs, batch_labels) = batch?;
        let prediction = block_on(predictor.predict(&predictor.select_inputs(inputs)?));
        let dataset = || spec.dataset.name.to_string();
        let prediction = prediction
            .map_err(|error| EvaluateError::Prediction { dataset: dataset(), source: Box::new(error) })?;
        let column = prediction.scores.column(SCORES);
        scores.extend(column.and_then(|column| column.as_f32()).unwrap_or_default().iter());
        labels.extend(batch_labels);
    }
    if labels.is_empty() {
        return Err(TrainError::EmptySplit { split: split.as_str() }.into());
    }
    let columns = predictor.score_count();
    let task = Task::of_scores(columns, predictor.predicts_values());
    let evaluation = report::evaluate(task, &scores, columns, &labels);
    let evaluation =
        evaluation.map_err(|source| EvaluateError::Evaluation { label: spec.label.to_owned(), source })?;
    Ok(BundleEvaluation { rows: labels.len(), evaluation })
}
