use std::collections::BTreeMap;

use super::Task;
use super::evaluation::{self, EvaluationError};

/// How good a model is on rows it has not seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Metrics by name: `accuracy` and `log_loss`, or `rmse`, `mae` and `r2`.
    pub metrics: BTreeMap<String, f64>,
    /// Rows of the true class, columns of the predicted one; empty for regression.
    pub confusion: Vec<Vec<u64>>,
}

/// Judges rows of `columns` scores by what they predict.
pub(super) fn evaluate(
    task: Task,
    scores: &[f32],
    columns: usize,
    labels: &[f32],
) -> Result<Evaluation, EvaluationError> {
    let named =
        |metrics: &[(&str, f64)]| metrics.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
    if task == Task::Regression {
        let found = evaluation::regression(scores, labels)?;
        let metrics = named(&[("rmse", found.rmse), ("mae", found.mae), ("r2", found.r2)]);
        return Ok(Evaluation { metrics, confusion: Vec::new() });
    }
    let found = evaluation::classification(scores, columns, labels)?;
    let metrics = named(&[("accuracy", found.accuracy), ("log_loss", found.log_loss)]);
    Ok(Evaluation { metrics, confusion: found.confusion.rows().map(<[u64]>::to_vec).collect() })
}
