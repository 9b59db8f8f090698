//! Trains gradient-boosted trees with libxgboost.
//!
//! The order of steps: parameters are checked by name, rows and labels by the objective, and only then is the library
//! asked to do anything. With the same version, parameters, rows and number of threads the model is the same bytes;
//! another number of threads adds in another order and may give other last bits.
//!
//! A model or a checkpoint is gone on from by loading its file: `rounds` is the number of rounds in all, and those that
//! it has count. The bytes are then those of a training in one go, unless rows or columns are drawn at random: the
//! state of libxgboost's generator is in no file, and not even `seed_per_iteration` makes the first round the same.
//!
//! With `early_stopping_rounds`, training ends when the last metric of the test rows has not become better for as many
//! rounds, and the model is cut after its best round, as by `xgboost.callback.EarlyStopping(save_best=True)`: all trees
//! of a model file vote, here and wherever else it is loaded.

mod kinds;
mod parameters;

use std::collections::BTreeMap;

use super::trainer::{TrainData, TrainSession, Trained, Trainer};
use super::xgboost_library::{Booster, DMatrix};
use super::{Library, LibrarySearch, Matrix, RoundMetric, RoundReport, RowSet, Task, TrainError};
use crate::domain::Direction;
use crate::model;

pub use parameters::{Objective, XgboostParameters};

/// Trains with libxgboost.
#[derive(Debug)]
pub struct XgboostTrainer {
    /// Where the library is; it is loaded when training begins.
    pub library: LibrarySearch,
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

    fn train(&self, data: &TrainData<'_>, session: &mut TrainSession<'_>) -> Result<Trained, TrainError> {
        let TrainData { train, test, .. } = *data;
        let library = Library::load(&self.library)?;
        let mut parameters = self.parameters.clone();
        if self.objective_by_labels {
            parameters.objective = Objective::for_task(Task::for_labels(train.labels()));
        }
        let boosted = boost(&library, train, Some(test), &parameters, session)?;
        parameters.num_class = boosted.classes;
        let mut used = parameters.to_map();
        used.extend(boosted.best_iteration.map(|best| ("best_iteration".to_owned(), best.to_string())));
        Ok(Trained {
            model: boosted.model,
            framework: "xgboost",
            framework_version: library.version_text(),
            file_name: "model.ubj",
            task: Some(parameters.objective.task()),
            parameters: used,
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
    /// The best round, from 0, where training may stop early: the last that the model has.
    best_iteration: Option<u32>,
}

/// Trains a model.
///
/// The session is told of each round; when it breaks, the model is what it is after that round. `test` rows are scored
/// but not learned from.
fn boost(
    library: &Library,
    train: Matrix<'_>,
    test: Option<Matrix<'_>>,
    parameters: &XgboostParameters,
    session: &mut TrainSession<'_>,
) -> Result<Boosted, TrainError> {
    parameters.check()?;
    let classes = parameters.check_labels(&train, test.as_ref())?;
    let start_from = session.start_from.as_deref();
    if let Some(file) = start_from {
        check_start(file, &train, parameters, classes)?;
    }
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
    let text = text.iter().map(|(name, value)| (*name, value.as_str()));
    let mut booster = Booster::new(library, text, matrices, start_from)?;
    let best_iteration = run_rounds(&mut booster, sets, parameters, session)?;
    let mut booster = match best_iteration {
        Some(best) => booster.first_rounds(best + 1)?,
        None => booster,
    };
    let test_scores = match &test {
        Some(test) => {
            let rows =
                DMatrix::from_rows(library, test.features(), test.feature_count(), parameters.nthread)?;
            booster.predict(&rows)?
        }
        None => Vec::new(),
    };
    Ok(Boosted { model: booster.save()?, test_scores, classes, best_iteration })
}

/// Refuses to go on with a model that learned something else, which libxgboost would turn into what is asked for.
fn check_start(
    file: &[u8],
    train: &Matrix<'_>,
    parameters: &XgboostParameters,
    classes: Option<u32>,
) -> Result<(), TrainError> {
    let model = model::load(file)?;
    let objective = parameters.objective.name();
    let refuse = |found: String, expected: String| {
        let reason = format!("its model {found}, expected {expected}");
        TrainError::StartFrom { reason }
    };
    let description = model.description();
    if !description.starts_with(&format!("XGBoost {objective},")) {
        return Err(refuse(format!("is `{description}`"), format!("the objective `{objective}`")));
    }
    let (features, expected) = (model.feature_count(), train.feature_count());
    if features != expected {
        return Err(refuse(format!("takes {features} features"), expected.to_string()));
    }
    let (scores, expected) = (model.score_count(), classes.map_or(1, |classes| classes as usize));
    if scores != expected {
        return Err(refuse(format!("tells {scores} classes apart"), expected.to_string()));
    }
    Ok(())
}

/// Boosts from the rounds that the model has up to those it is to have. Tells the best round, from 0, where training
/// may stop early.
fn run_rounds(
    booster: &mut Booster<'_>,
    sets: &[RowSet],
    parameters: &XgboostParameters,
    session: &mut TrainSession<'_>,
) -> Result<Option<u32>, TrainError> {
    let begun = booster.rounds()?;
    if begun >= parameters.rounds {
        let all = parameters.rounds;
        let reason = format!("its model has {begun} rounds already, expected fewer than the {all} in all");
        return Err(TrainError::StartFrom { reason });
    }
    let patience = parameters.early_stopping_rounds.filter(|_| sets.contains(&RowSet::Test));
    let mut best = if patience.is_some() { BestRound::of_model(booster)? } else { None };
    for round in begun..parameters.rounds {
        // At most `ROUNDS_MAX`.
        let iteration = round as i32;
        booster.update(iteration)?;
        let metrics = booster.eval(iteration, sets)?;
        let is_enough = match patience {
            Some(patience) => {
                BestRound::note(&mut best, booster, round, &metrics)?;
                best.as_ref().is_some_and(|best| round - best.iteration >= patience)
            }
            None => false,
        };
        let told = (session.progress)(RoundReport { round: round + 1, of: parameters.rounds, metrics });
        if told.is_break() || is_enough {
            break;
        }
        if let Some(checkpoints) = &mut session.checkpoints
            && (round + 1).is_multiple_of(checkpoints.every)
            && round + 1 < parameters.rounds
        {
            (checkpoints.keep)(round + 1, booster.save()?)?;
        }
    }
    Ok(best.map(|best| best.iteration))
}

/// The best round so far, as XGBoost's Python package judges and keeps it (`xgboost.callback.EarlyStopping`): by the
/// last metric of the test rows, noted in the model's attributes, from which a continued training reads it.
struct BestRound {
    /// From 0.
    iteration: u32,
    score: f64,
}

impl BestRound {
    const ITERATION: &str = "best_iteration";
    const SCORE: &str = "best_score";

    fn of_model(booster: &mut Booster<'_>) -> Result<Option<Self>, TrainError> {
        let rounds = booster.rounds()?;
        let iteration = booster.attribute(Self::ITERATION)?.and_then(|text| text.parse().ok());
        let score = booster.attribute(Self::SCORE)?.and_then(|text| text.parse().ok());
        let best = iteration.zip(score).map(|(iteration, score)| Self { iteration, score });
        Ok(best.filter(|best| best.iteration < rounds))
    }

    fn note(
        best: &mut Option<Self>,
        booster: &mut Booster<'_>,
        iteration: u32,
        metrics: &[RoundMetric],
    ) -> Result<(), TrainError> {
        let Some(metric) = metrics.iter().rev().find(|metric| metric.set == RowSet::Test) else {
            return Ok(());
        };
        let (score, direction) = (metric.value, Direction::of_metric(&metric.name));
        if best.as_ref().is_none_or(|best| direction.is_better_by(score, best.score, 0.0)) {
            booster.set_attribute(Self::ITERATION, &iteration.to_string())?;
            booster.set_attribute(Self::SCORE, &score.to_string())?;
            *best = Some(Self { iteration, score });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
