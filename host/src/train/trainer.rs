//! What every trainer has in common: rows in, a model file out, one report a round on the way.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::evaluation::class_of;
use super::{DataFiles, Matrix, RoundReport, RunLog, TrainError};
use crate::process::Cancel;

/// Whole numbers are taken for classes only below this; counts and years are values.
const CLASSES_GUESSED_MAX: f32 = 256.0;

/// What a model learns to predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Which of two classes; labels are 0 and 1.
    Binary,
    /// Which of several classes; labels are 0, 1, 2, ….
    Classes,
    /// A number.
    Regression,
}

impl Task {
    /// What a model tells that makes `count` scores of a row, which are values or else probabilities.
    pub fn of_scores(count: usize, are_values: bool) -> Self {
        match count {
            _ if are_values => Self::Regression,
            1 => Self::Binary,
            _ => Self::Classes,
        }
    }

    /// What labels suggest: few different whole numbers from 0 without gaps are classes, anything else is a value.
    pub fn for_labels(labels: &[f32]) -> Self {
        let largest = labels.iter().copied().fold(0.0, f32::max);
        let is_class = |label: f32| label >= 0.0 && label.fract() == 0.0 && label < CLASSES_GUESSED_MAX;
        let mut occurs = vec![false; largest.min(CLASSES_GUESSED_MAX) as usize + 1];
        let are_classes = labels.iter().all(|&label| {
            // Float to integer saturates.
            if let Some(place) = occurs.get_mut(label as usize) {
                *place = true;
            }
            is_class(label)
        });
        let has_gaps = occurs.contains(&false);
        match are_classes && (!has_gaps || largest <= 1.0) {
            true if largest <= 1.0 => Self::Binary,
            true => Self::Classes,
            false => Self::Regression,
        }
    }
}

/// What a model is learned from.
#[derive(Clone, Copy)]
pub struct TrainData<'a> {
    /// Rows to learn from.
    pub train: Matrix<'a>,
    /// Rows that are scored but not learned from.
    pub test: Matrix<'a>,
    /// Both as files, with those of the dataset version, for trainers that are programs of their own. They are written
    /// when they are asked for, and once.
    pub files: &'a dyn Fn() -> Result<Arc<DataFiles>, TrainError>,
}

/// Learns a model from rows. Everything that can be wrong with its parameters is told when it is made.
pub trait Trainer: Send + Sync {
    /// Its parameters, for the record of a run that begins: what follows from the labels is not among them.
    fn parameters(&self) -> BTreeMap<String, String>;

    /// What else its result depends on, as tags of the run.
    fn tags(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// How many reports there will be at most: rounds, or epochs. 0 where that is not known; such a training cannot be
    /// ended early.
    fn rounds(&self) -> u32;

    /// Learns from the training rows. The test rows are scored after each round, but not learned from.
    fn train(&self, data: &TrainData<'_>, session: &mut TrainSession<'_>) -> Result<Trained, TrainError>;
}

/// What goes on around a training.
pub struct TrainSession<'a> {
    /// Is told of each round; when it breaks, the model is what it is after that round.
    pub progress: &'a mut dyn FnMut(RoundReport) -> ControlFlow<()>,
    /// Takes what a training can be continued from, after every so many rounds.
    pub checkpoints: Option<Checkpoints<'a>>,
    /// What an earlier training gave as a checkpoint, or a model file of the same trainer: to go on from there.
    pub start_from: Option<Vec<u8>>,
    /// What programs need that train.
    pub surroundings: Surroundings<'a>,
}

impl<'a> TrainSession<'a> {
    /// A training from nothing, without checkpoints.
    pub fn new(progress: &'a mut dyn FnMut(RoundReport) -> ControlFlow<()>) -> Self {
        Self { progress, checkpoints: None, start_from: None, surroundings: Surroundings::default() }
    }
}

/// What programs need that train, see [`super::command`]. Each may be missing.
#[derive(Clone, Copy, Default)]
pub struct Surroundings<'a> {
    /// The run that the training reports to.
    pub log: Option<&'a RunLog>,
    /// Where MLflow's clients find that run.
    pub tracking_url: Option<&'a str>,
    /// Says that the training should end without a model.
    pub cancel: Option<&'a Cancel>,
    /// Takes what a program prints, as it does.
    pub show: Option<&'a ShowPrinted>,
}

/// Takes what a program prints, as it does.
pub type ShowPrinted = dyn Fn(&[u8]) + Sync;

/// Where checkpoints go.
pub struct Checkpoints<'a> {
    /// Rounds between two; at least 1.
    pub every: u32,
    /// Keeps one: the round after which it was made, from 1, and its bytes. The session is told of the round before.
    pub keep: &'a mut dyn FnMut(u32, Vec<u8>) -> Result<(), TrainError>,
}

/// What training made.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// The model's file, as [`crate::model::load`] reads it.
    pub model: Vec<u8>,
    /// The library whose format it is, for example `xgboost`.
    pub framework: &'static str,
    /// Version of that library.
    pub framework_version: String,
    /// The file's usual name, for example `model.ubj`.
    pub file_name: &'static str,
    /// What was predicted, by which the model is judged; where it is not known, the model's scores tell it.
    pub task: Option<Task>,
    /// Every parameter that was used, with what followed from the labels.
    pub parameters: BTreeMap<String, String>,
    /// What the trainer's own library says of the test rows, where the host's evaluator has to answer the same bits.
    pub test_scores: Option<Vec<f32>>,
}

/// Refuses labels that are no classes below `classes`, and labels that are all the same.
pub(super) fn check_classes(
    train: &Matrix<'_>,
    test: Option<&Matrix<'_>>,
    classes: usize,
) -> Result<(), TrainError> {
    if let Some(&only) = train.labels().first()
        && train.labels().iter().all(|&label| label == only)
    {
        return Err(TrainError::OneClass { label: only });
    }
    for matrix in [Some(train), test].into_iter().flatten() {
        let stray = matrix.labels().iter().position(|&label| class_of(label, classes).is_none());
        if let Some((row, &label)) = stray.and_then(|row| Some((row, matrix.labels().get(row)?))) {
            let expected = format!("a whole number from 0 to {}", classes.saturating_sub(1));
            return Err(TrainError::Label { row, label, expected });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_suggest_what_there_is_to_learn() {
        for (labels, task) in [
            (&[0.0, 1.0, 1.0][..], Task::Binary),
            (&[1.0, 1.0], Task::Binary),
            (&[0.0, 1.0, 2.0], Task::Classes),
            (&[0.0, 2.0], Task::Regression),
            (&[-1.0, 0.0, 1.0], Task::Regression),
            (&[0.0, 0.5, 1.0], Task::Regression),
            (&[1e30, 0.0], Task::Regression),
        ] {
            assert_eq!(Task::for_labels(labels), task, "{labels:?}");
        }
    }
}
