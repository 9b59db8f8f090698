//! How good predictions are: pure functions of scores and labels, in `f64`.
//!
//! Definitions are scikit-learn's (<https://scikit-learn.org/stable/modules/model_evaluation.html>).

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
    Ok(Classification { accuracy: right as f64 / rows, log_loss: loss / rows, confusion })
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
