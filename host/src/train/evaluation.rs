//! How good predictions are: pure functions of scores and labels, in `f64`.
//!
//! Definitions are scikit-learn's (<https://scikit-learn.org/stable/modules/model_evaluation.html>).

mod roc_auc;

use serde::Serialize;

use roc_auc::roc_auc;

/// Scores and labels that do not go together.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EvaluationError {
    /// Not as many rows of scores as labels, or none.
    #[error("{scores} scores for {labels} labels: expected {columns} for each of at least one")]
    Length {
        /// Number of scores.
        scores: usize,
        /// Number of labels.
        labels: usize,
        /// Scores in a row.
        columns: usize,
    },
    /// A label that is no class.
    #[error("label of row {row} is {label}: expected a whole number less than {classes}")]
    Label {
        /// The row, from 0.
        row: usize,
        /// What it is.
        label: f32,
        /// Number of classes.
        classes: usize,
    },
}

/// How good probabilities of classes are.
#[derive(Debug, Clone, PartialEq)]
pub struct Classification {
    /// Rows whose most probable class is their label, as a share of all.
    pub accuracy: f64,
    /// Mean of the negative logarithm of the probability given to the label, in nats.
    pub log_loss: f64,
    /// Labels against predictions.
    pub confusion: ConfusionMatrix,
    /// Each class against all others.
    pub classes: Vec<ClassMetrics>,
    /// Means over the classes that occur among the labels or the predictions: precision, recall and F1.
    pub macro_averages: ClassMeans,
    /// Area under the ROC curve: of two classes that of class 1, of more the mean over the classes that have one. None
    /// where no class has one.
    pub roc_auc: Option<f64>,
}

/// How well one class is told from all others. A share of nothing is 0.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassMetrics {
    /// The class's number.
    pub class: usize,
    /// Rows of which it is the label.
    pub rows: u64,
    /// Of the rows that were taken for this class, the share that is of it.
    pub precision: f64,
    /// Of the rows of this class, the share that was taken for it.
    pub recall: f64,
    /// The harmonic mean of precision and recall.
    pub f1: f64,
    /// Area under the ROC curve of the class's probability; none where all rows are of the class or none is.
    pub roc_auc: Option<f64>,
}

/// Means over classes, each of the same weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassMeans {
    /// Of the precisions.
    pub precision: f64,
    /// Of the recalls.
    pub recall: f64,
    /// Of the F1.
    pub f1: f64,
}

/// Counts of rows by label (row of the matrix) and predicted class (column).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfusionMatrix {
    classes: usize,
    counts: Vec<u64>,
}

impl ConfusionMatrix {
    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// For each label, the counts of the predicted classes.
    pub fn rows(&self) -> impl Iterator<Item = &[u64]> {
        self.counts.chunks_exact(self.classes)
    }

    /// What the counts say of a class: rows that have it as label, rows that were taken for it, rows that are both.
    fn of_class(&self, class: usize) -> (u64, u64, u64) {
        let count = |row: &[u64]| row.get(class).copied().unwrap_or_default();
        let labelled = self.rows().nth(class).unwrap_or_default();
        (labelled.iter().sum(), self.rows().map(count).sum(), count(labelled))
    }
}

/// How good predicted values are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Regression {
    /// Root of the mean squared error.
    pub rmse: f64,
    /// Mean absolute error.
    pub mae: f64,
    /// Share of the variance that is explained; 1 is perfect, 0 no better than the mean. Where all labels are equal:
    /// 1 if every prediction is right, else 0.
    pub r2: f64,
}

/// Judges probabilities: rows of `columns` classes, or where `columns` is 1, the probability of class 1 of two.
///
/// The class of a row is the most probable one, the first of equals; of two classes, class 1 if its probability is
/// more than half. The logarithm is taken of probabilities clipped to `[ε, 1 − ε]`, where ε is that of `f32`, as
/// scikit-learn does with 32-bit scores.
pub fn classification(
    scores: &[f32],
    columns: usize,
    labels: &[f32],
) -> Result<Classification, EvaluationError> {
    check_length(scores, columns, labels)?;
    let classes = columns.max(2);
    let mut counts = vec![0_u64; classes * classes];
    let mut loss = 0.0_f64;
    let mut right = 0_u64;
    for (row, (scores, &label)) in scores.chunks_exact(columns).zip(labels).enumerate() {
        let class = class_of(label, classes).ok_or(EvaluationError::Label { row, label, classes })?;
        let (predicted, probability) = match *scores {
            [score] if class == 1 => (usize::from(score > 0.5), f64::from(score)),
            [score] => (usize::from(score > 0.5), 1.0 - f64::from(score)),
            _ => (largest(scores), f64::from(scores.get(class).copied().unwrap_or_default())),
        };
        let epsilon = f64::from(f32::EPSILON);
        loss -= probability.clamp(epsilon, 1.0 - epsilon).ln();
        right += u64::from(predicted == class);
        if let Some(count) = counts.get_mut(class * classes + predicted) {
            *count += 1;
        }
    }
    let rows = labels.len() as f64;
    let confusion = ConfusionMatrix { classes, counts };
    let metrics: Vec<ClassMetrics> =
        (0..classes).map(|class| class_metrics(class, &confusion, scores, columns, labels)).collect();
    Ok(Classification {
        accuracy: right as f64 / rows,
        log_loss: loss / rows,
        macro_averages: macro_averages(&metrics, &confusion),
        roc_auc: overall_roc_auc(&metrics),
        classes: metrics,
        confusion,
    })
}

fn class_metrics(
    class: usize,
    confusion: &ConfusionMatrix,
    scores: &[f32],
    columns: usize,
    labels: &[f32],
) -> ClassMetrics {
    let (rows, taken, both) = confusion.of_class(class);
    let share = |of: u64| if of == 0 { 0.0 } else { both as f64 / of as f64 };
    let f1 = if rows + taken == 0 { 0.0 } else { 2.0 * both as f64 / (rows + taken) as f64 };
    // Of two classes with one probability, class 0's falls as class 1's rises.
    let score = |row: &[f32]| match *row {
        [score] if class == 0 => -score,
        [score] => score,
        _ => row.get(class).copied().unwrap_or_default(),
    };
    let scored = scores.chunks_exact(columns).map(score);
    let roc_auc = roc_auc(scored.zip(labels.iter().map(|&label| label == class as f32)));
    ClassMetrics { class, rows, precision: share(taken), recall: share(rows), f1, roc_auc }
}

fn macro_averages(metrics: &[ClassMetrics], confusion: &ConfusionMatrix) -> ClassMeans {
    let occurs = |metrics: &&ClassMetrics| {
        let (rows, taken, _) = confusion.of_class(metrics.class);
        rows + taken > 0
    };
    let occurring: Vec<&ClassMetrics> = metrics.iter().filter(occurs).collect();
    let mean = |value: fn(&ClassMetrics) -> f64| {
        occurring.iter().map(|metrics| value(metrics)).sum::<f64>() / occurring.len().max(1) as f64
    };
    ClassMeans {
        precision: mean(|metrics| metrics.precision),
        recall: mean(|metrics| metrics.recall),
        f1: mean(|metrics| metrics.f1),
    }
}

fn overall_roc_auc(metrics: &[ClassMetrics]) -> Option<f64> {
    if let [_, second] = metrics {
        return second.roc_auc;
    }
    let areas: Vec<f64> = metrics.iter().filter_map(|metrics| metrics.roc_auc).collect();
    (!areas.is_empty()).then(|| areas.iter().sum::<f64>() / areas.len() as f64)
}

/// Judges values.
pub fn regression(predictions: &[f32], labels: &[f32]) -> Result<Regression, EvaluationError> {
    check_length(predictions, 1, labels)?;
    let rows = labels.len() as f64;
    let mean = labels.iter().copied().map(f64::from).sum::<f64>() / rows;
    let (mut squares, mut absolutes, mut variance) = (0.0, 0.0, 0.0);
    for (&prediction, &label) in predictions.iter().zip(labels) {
        let error = f64::from(prediction) - f64::from(label);
        squares += error * error;
        absolutes += error.abs();
        variance += (f64::from(label) - mean).powi(2);
    }
    let r2 = match (squares == 0.0, variance == 0.0) {
        (true, _) => 1.0,
        (false, true) => 0.0,
        (false, false) => 1.0 - squares / variance,
    };
    Ok(Regression { rmse: (squares / rows).sqrt(), mae: absolutes / rows, r2 })
}

/// The class that a label names; none if it is not a whole number less than `classes`.
pub(super) fn class_of(label: f32, classes: usize) -> Option<usize> {
    // Float to integer saturates, and a class that the float cannot hold exactly does not convert back.
    let class = label as usize;
    (class < classes && class as f32 == label && label >= 0.0).then_some(class)
}

fn check_length(scores: &[f32], columns: usize, labels: &[f32]) -> Result<(), EvaluationError> {
    let fits = labels.len().checked_mul(columns) == Some(scores.len());
    if columns == 0 || labels.is_empty() || !fits {
        return Err(EvaluationError::Length { scores: scores.len(), labels: labels.len(), columns });
    }
    Ok(())
}

/// Index of the largest score, the first of equals; NaN is less than all.
fn largest(scores: &[f32]) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (index, &score) in scores.iter().enumerate() {
        if score > best.1 {
            best = (index, score);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        // Scores are 32-bit: their decimals are not exact.
        assert!((found - expected).abs() < 5e-8, "{found} is not {expected}");
    }

    #[test]
    fn several_classes() {
        let scores = [0.7, 0.2, 0.1, 0.1, 0.8, 0.1, 0.3, 0.3, 0.4, 0.5, 0.5, 0.0];
        let found = classification(&scores, 3, &[0.0, 1.0, 0.0, 1.0]).unwrap();
        close(found.accuracy, 0.5);
        // −(ln 0.7 + ln 0.8 + ln 0.3 + ln 0.5) / 4
        close(found.log_loss, 0.619_234_620);
        let rows: Vec<_> = found.confusion.rows().collect();
        assert_eq!(rows, [[1, 0, 1], [1, 1, 0], [0, 0, 0]]);
    }

    #[test]
    fn two_classes_by_one_probability() {
        let found = classification(&[0.9, 0.5, 0.25], 1, &[1.0, 1.0, 0.0]).unwrap();
        close(found.accuracy, 2.0 / 3.0);
        // −(ln 0.9 + ln 0.5 + ln 0.75) / 3
        close(found.log_loss, 0.362_063_256);
        assert_eq!(found.confusion.rows().collect::<Vec<_>>(), [[1, 0], [1, 1]]);
        assert_eq!(found.confusion.classes(), 2);
    }

    #[test]
    fn classes_are_told_from_all_others() {
        // scikit-learn 1.9: precision_recall_fscore_support, and roc_auc_score with multi_class="ovr".
        let scores =
            [0.7, 0.2, 0.1, 0.1, 0.8, 0.1, 0.3, 0.3, 0.4, 0.5, 0.4, 0.1, 0.2, 0.2, 0.6, 0.25, 0.5, 0.25];
        let found = classification(&scores, 3, &[0.0, 1.0, 0.0, 1.0, 2.0, 2.0]).unwrap();
        let class = |class: usize| {
            let metrics = &found.classes[class];
            [metrics.precision, metrics.recall, metrics.f1, metrics.roc_auc.unwrap()]
        };
        let expected = [[0.5, 0.5, 0.5, 0.875], [0.5, 0.5, 0.5, 0.875], [0.5, 0.5, 0.5, 0.875]];
        for (index, expected) in expected.into_iter().enumerate() {
            for (found, expected) in class(index).into_iter().zip(expected) {
                close(found, expected);
            }
        }
        close(found.roc_auc.unwrap(), 0.875);
        assert_eq!(found.classes[2].rows, 2);
    }

    #[test]
    fn classes_that_do_not_occur_are_left_out_of_the_means() {
        let scores = [0.7, 0.2, 0.1, 0.1, 0.8, 0.1, 0.7, 0.3, 0.0];
        let found = classification(&scores, 3, &[0.0, 1.0, 1.0]).unwrap();
        // Class 2 is neither a label nor predicted; (½ + 1) / 2, (1 + ½) / 2, ⅔.
        close(found.macro_averages.precision, 0.75);
        close(found.macro_averages.recall, 0.75);
        close(found.macro_averages.f1, 2.0 / 3.0);
        assert_eq!(found.classes[2].roc_auc, None);
        assert_eq!(
            (found.classes[2].precision, found.classes[2].recall, found.classes[2].f1),
            (0.0, 0.0, 0.0)
        );
        let one = classification(&[0.9, 0.8], 1, &[1.0, 1.0]).unwrap();
        assert_eq!(one.roc_auc, None);
        assert_eq!(one.macro_averages.recall, 1.0);
    }

    #[test]
    fn two_classes_have_one_area() {
        let found = classification(&[0.1, 0.4, 0.35, 0.8], 1, &[0.0, 0.0, 1.0, 1.0]).unwrap();
        assert_eq!(found.roc_auc, Some(0.75));
        assert_eq!(found.classes[0].roc_auc, Some(0.75), "the order is the same, seen from the other side");
        let two = [0.9, 0.1, 0.6, 0.4, 0.65, 0.35, 0.2, 0.8];
        assert_eq!(classification(&two, 2, &[0.0, 0.0, 1.0, 1.0]).unwrap().roc_auc, Some(0.75));
    }

    #[test]
    fn certainty_that_is_wrong_costs_no_infinity() {
        let found = classification(&[0.0, 1.0], 2, &[0.0]).unwrap();
        close(found.log_loss, -f64::from(f32::EPSILON).ln());
        close(classification(&[1.0], 1, &[1.0]).unwrap().log_loss, f64::from(f32::EPSILON));
        assert!(classification(&[f32::NAN, f32::NAN], 2, &[0.0]).unwrap().log_loss.is_nan());
    }

    #[test]
    fn values() {
        let found = regression(&[2.5, 0.0, 2.0, 8.0], &[3.0, -0.5, 2.0, 7.0]).unwrap();
        close(found.rmse, 0.375_f64.sqrt());
        close(found.mae, 0.5);
        // 1 − 1.5 / 29.1875
        close(found.r2, 0.948_608_137_044_967);
        assert_eq!(regression(&[1.0, 1.0], &[1.0, 1.0]).unwrap().r2, 1.0);
        assert_eq!(regression(&[1.0, 2.0], &[1.0, 1.0]).unwrap().r2, 0.0);
    }

    #[test]
    fn refuses_what_does_not_go_together() {
        assert_eq!(
            classification(&[0.5; 3], 2, &[0.0]).unwrap_err().to_string(),
            "3 scores for 1 labels: expected 2 for each of at least one"
        );
        assert!(classification(&[], 2, &[]).is_err());
        assert!(classification(&[], 0, &[]).is_err());
        assert!(regression(&[], &[]).is_err());
        for label in [2.0, -1.0, 0.5, f32::NAN, f32::INFINITY] {
            assert!(classification(&[0.5, 0.5], 2, &[label]).is_err(), "{label}");
        }
    }
}
