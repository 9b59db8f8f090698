//! Trains gradient-boosted trees with libxgboost.
//!
//! The order of steps: parameters are checked by name, rows and labels by the objective, and only then is the library
//! asked to do anything. With the same version, parameters, rows and number of threads the model is the same bytes;
//! another number of threads adds in another order and may give other last bits.

mod parameters;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::trainer::{TrainSession, Trained, Trainer};
use super::xgboost_library::{Booster, DMatrix};
use super::{Library, Matrix, RoundReport, RowSet, Task, TrainError};

pub use parameters::{Objective, XgboostParameters};

/// Trains with libxgboost.
#[derive(Debug)]
pub struct XgboostTrainer {
    /// The library.
    pub library: Library,
    /// What it is told.
    pub parameters: XgboostParameters,
    /// Choose the objective by the labels instead of taking it from the parameters.
    pub objective_by_labels: bool,
}

impl Trainer for XgboostTrainer {
    fn parameters(&self) -> BTreeMap<String, String> {
        let mut parameters = self.parameters.to_map();
        if self.objective_by_labels {
            parameters.remove("objective");
        }
        parameters
    }

    fn rounds(&self) -> u32 {
        self.parameters.rounds
    }

    fn train(
        &self,
        train: Matrix<'_>,
        test: Matrix<'_>,
        session: &mut TrainSession<'_>,
    ) -> Result<Trained, TrainError> {
        let mut parameters = self.parameters.clone();
        if self.objective_by_labels {
            parameters.objective = Objective::for_task(Task::for_labels(train.labels()));
        }
        let boosted = boost(&self.library, train, Some(test), &parameters, session.progress)?;
        parameters.num_class = boosted.classes;
        Ok(Trained {
            model: boosted.model,
            framework: "xgboost",
            framework_version: self.library.version_text(),
            file_name: "model.ubj",
            task: parameters.objective.task(),
            parameters: parameters.to_map(),
            test_scores: Some(boosted.test_scores),
        })
    }
}

/// What libxgboost made.
#[derive(Debug, Clone, PartialEq)]
struct Boosted {
    /// The model's file, as UBJSON.
    model: Vec<u8>,
    /// What libxgboost itself says of the test rows; empty where there are none.
    test_scores: Vec<f32>,
    /// The number of classes of [`Objective::Softprob`].
    classes: Option<u32>,
}

/// Trains a model.
///
/// `progress` is told of each round; when it breaks, the model is what it is after that round. `test` rows are scored
/// but not learned from.
fn boost(
    library: &Library,
    train: Matrix<'_>,
    test: Option<Matrix<'_>>,
    parameters: &XgboostParameters,
    progress: &mut dyn FnMut(RoundReport) -> ControlFlow<()>,
) -> Result<Boosted, TrainError> {
    parameters.check()?;
    let classes = parameters.check_labels(&train, test.as_ref())?;
    let mut matrices = Vec::with_capacity(2);
    for matrix in [Some(&train), test.as_ref()].into_iter().flatten() {
        let (expected, found) = (train.feature_count(), matrix.feature_count());
        if found != expected {
            return Err(TrainError::FeatureCount { expected, found });
        }
        let mut rows = DMatrix::from_rows(library, matrix.features(), found, parameters.nthread)?;
        rows.set_label(matrix.labels())?;
        matrices.push(rows);
    }
    let sets: &[RowSet] = if test.is_some() { &[RowSet::Train, RowSet::Test] } else { &[RowSet::Train] };
    let text = parameters.to_text(classes);
    let mut booster =
        Booster::new(library, text.iter().map(|(name, value)| (*name, value.as_str())), matrices)?;
    for round in 0..parameters.rounds {
        // At most `ROUNDS_MAX`.
        let iteration = round as i32;
        booster.update(iteration)?;
        let metrics = booster.eval(iteration, sets)?;
        if progress(RoundReport { round: round + 1, of: parameters.rounds, metrics }).is_break() {
            break;
        }
    }
    let test_scores = match &test {
        Some(test) => {
            let rows =
                DMatrix::from_rows(library, test.features(), test.feature_count(), parameters.nthread)?;
            booster.predict(&rows)?
        }
        None => Vec::new(),
    };
    Ok(Boosted { model: booster.save()?, test_scores, classes })
}

#[cfg(test)]
mod tests;
