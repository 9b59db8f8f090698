use std::collections::BTreeMap;

use serde::Serialize;

use super::Task;
use super::evaluation::{self, ClassMetrics, EvaluationError};

/// How good a model is on rows it has not seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Metrics by name: `accuracy`, `log_loss`, `precision_macro`, `recall_macro`, `f1_macro` and, where it can be told,
    /// `roc_auc`; or `rmse`, `mae` and `r2`.
    pub metrics: BTreeMap<String, f64>,
    /// Each class against all others; empty for regression.
    pub classes: Vec<ClassMetrics>,
    /// Rows of the true class, columns of the predicted one; empty for regression.
    pub confusion: Vec<Vec<u64>>,
}

/// Every metric that an evaluation may have.
pub const EVALUATION_METRICS: &[&str] =
    &["accuracy", "log_loss", "precision_macro", "recall_macro", "f1_macro", "roc_auc", "rmse", "mae", "r2"];

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
        let metrics = told(named(&[("rmse", found.rmse), ("mae", found.mae), ("r2", found.r2)]));
        return Ok(Evaluation { metrics, classes: Vec::new(), confusion: Vec::new() });
    }
    let found = evaluation::classification(scores, columns, labels)?;
    let means = found.macro_averages;
    let mut metrics: BTreeMap<String, f64> = named(&[
        ("accuracy", found.accuracy),
        ("log_loss", found.log_loss),
        ("precision_macro", means.precision),
        ("recall_macro", means.recall),
        ("f1_macro", means.f1),
    ]);
    metrics.extend(found.roc_auc.map(|area| ("roc_auc".to_owned(), area)));
    let confusion = found.confusion.rows().map(<[u64]>::to_vec).collect();
    Ok(Evaluation { metrics: told(metrics), classes: found.classes, confusion })
}

/// Leaves out what JSON cannot say: a model that has diverged has no loss.
fn told(mut metrics: BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    metrics.retain(|_, value| value.is_finite());
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_has_diverged_has_no_loss_that_could_not_be_read_again() {
        let found = evaluate(Task::Regression, &[f32::NAN, 1.0], 1, &[1.0, 2.0]).unwrap();
        assert!(found.metrics.is_empty(), "{:?}", found.metrics);
        let found = evaluate(Task::Classes, &[f32::NAN; 4], 2, &[0.0, 1.0]).unwrap();
        assert!(found.metrics.contains_key("accuracy") && !found.metrics.contains_key("log_loss"));
        assert!(!serde_json::to_string(&found.metrics).unwrap().contains("null"));
    }
}
