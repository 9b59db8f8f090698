//! Trains gradient-boosted trees with libxgboost.
//!
//! The order of steps: parameters are checked by name, rows and labels by the objective, and only then is the library
//! asked to do anything. With the same version, parameters, rows and number of threads the model is the same bytes;
//! another number of threads adds in another order and may give other last bits.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::evaluation::class_of;
use super::xgboost_library::{Booster, DMatrix};
use super::{Library, Matrix, RoundReport, RowSet, TrainError};

/// More rounds than any model has; keeps a typing error from running for a day.
const ROUNDS_MAX: u32 = 100_000;

/// Classes that [`crate::model`] takes.
const CLASSES_MAX: u32 = 1 << 16;

/// Whole numbers are taken for classes only below this; counts and years are values.
const CLASSES_GUESSED_MAX: f32 = 256.0;

/// What a model learns to predict. These are the objectives that [`crate::model`] loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// `multi:softprob`: a probability for each of several classes; labels are 0, 1, 2, ….
    Softprob,
    /// `binary:logistic`: the probability of class 1; labels are 0 and 1.
    Logistic,
    /// `reg:squarederror`: a number.
    SquaredError,
}

impl Objective {
    const ALL: [Self; 3] = [Self::Softprob, Self::Logistic, Self::SquaredError];

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
            true if largest <= 1.0 => Self::Logistic,
            true => Self::Softprob,
            false => Self::SquaredError,
        }
    }

    /// libxgboost's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Softprob => "multi:softprob",
            Self::Logistic => "binary:logistic",
            Self::SquaredError => "reg:squarederror",
        }
    }
}

/// How to train. [`XgboostParameters::set`] takes every parameter by libxgboost's name for it.
#[derive(Debug, Clone, PartialEq)]
pub struct XgboostParameters {
    /// What to predict.
    pub objective: Objective,
    /// Number of classes of [`Objective::Softprob`]; where none, one more than the largest label.
    pub num_class: Option<u32>,
    /// Levels of a tree.
    pub max_depth: u32,
    /// Step size, from 0 to 1.
    pub eta: f64,
    /// Start of the pseudo-random numbers.
    pub seed: u32,
    /// Threads to use; 0 for all cores.
    pub nthread: u32,
    /// Trees for each output.
    pub rounds: u32,
    /// Every other parameter, by its name in libxgboost.
    other: BTreeMap<&'static str, String>,
}

impl Default for XgboostParameters {
    fn default() -> Self {
        Self {
            objective: Objective::SquaredError,
            num_class: None,
            max_depth: 6,
            eta: 0.3,
            seed: 0,
            nthread: 0,
            rounds: 100,
            other: BTreeMap::from([("tree_method", "hist".to_owned())]),
        }
    }
}

/// Names that are taken, each with the name by which libxgboost knows it; of
/// <https://xgboost.readthedocs.io/en/stable/parameter.html> those of the tree booster on a CPU.
const NAMES: &[(&str, &str)] = &[
    ("alpha", "reg_alpha"),
    ("base_score", "base_score"),
    ("colsample_bylevel", "colsample_bylevel"),
    ("colsample_bynode", "colsample_bynode"),
    ("colsample_bytree", "colsample_bytree"),
    ("eta", "eta"),
    ("eval_metric", "eval_metric"),
    ("extmem_single_page", "extmem_single_page"),
    ("gamma", "min_split_loss"),
    ("grow_policy", "grow_policy"),
    ("interaction_constraints", "interaction_constraints"),
    ("lambda", "reg_lambda"),
    ("learning_rate", "eta"),
    ("max_bin", "max_bin"),
    ("max_cached_hist_node", "max_cached_hist_node"),
    ("max_delta_step", "max_delta_step"),
    ("max_depth", "max_depth"),
    ("max_leaves", "max_leaves"),
    ("min_child_weight", "min_child_weight"),
    ("min_split_loss", "min_split_loss"),
    ("monotone_constraints", "monotone_constraints"),
    ("n_estimators", "rounds"),
    ("n_jobs", "nthread"),
    ("nthread", "nthread"),
    ("num_boost_round", "rounds"),
    ("num_class", "num_class"),
    ("num_parallel_tree", "num_parallel_tree"),
    ("objective", "objective"),
    ("random_state", "seed"),
    ("refresh_leaf", "refresh_leaf"),
    ("reg_alpha", "reg_alpha"),
    ("reg_lambda", "reg_lambda"),
    ("rounds", "rounds"),
    ("sampling_method", "sampling_method"),
    ("scale_pos_weight", "scale_pos_weight"),
    ("seed", "seed"),
    ("seed_per_iteration", "seed_per_iteration"),
    ("subsample", "subsample"),
    ("tree_method", "tree_method"),
];

impl XgboostParameters {
    /// Sets a parameter from text. Aliases are one parameter: the last value counts.
    ///
    /// Values of parameters without a field of their own are checked by libxgboost, when training begins.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), TrainError> {
        let canonical = NAMES.iter().find(|(known, _)| *known == name).map(|(_, canonical)| *canonical);
        let Some(canonical) = canonical else {
            return Err(TrainError::UnknownParameter { name: name.to_owned(), suggestion: closest(name) });
        };
        let whole = "a whole number that is not negative";
        match canonical {
            "objective" => {
                let names = || Objective::ALL.map(|known| format!("`{}`", known.name())).join(", ");
                let known = Objective::ALL.into_iter().find(|known| known.name() == value);
                self.objective = known.ok_or_else(|| refuse(name, value, format!("one of {}", names())))?;
            }
            "num_class" => self.num_class = Some(parsed(name, value, whole)?),
            "max_depth" => self.max_depth = parsed(name, value, whole)?,
            "seed" => self.seed = parsed(name, value, whole)?,
            "nthread" => self.nthread = parsed(name, value, whole)?,
            "rounds" => self.rounds = parsed(name, value, whole)?,
            "eta" => self.eta = parsed(name, value, "a number from 0 to 1")?,
            other => {
                self.other.insert(other, value.to_owned());
            }
        }
        self.check()
    }

    fn check(&self) -> Result<(), TrainError> {
        if self.rounds == 0 || self.rounds > ROUNDS_MAX {
            let expected = format!("a number from 1 to {ROUNDS_MAX}");
            return Err(refuse("rounds", &self.rounds.to_string(), expected));
        }
        if !(0.0..=1.0).contains(&self.eta) {
            return Err(refuse("eta", &self.eta.to_string(), "a number from 0 to 1".to_owned()));
        }
        Ok(())
    }

    /// Name and value of every parameter but the rounds, which only this module knows.
    fn to_text(&self, classes: Option<u32>) -> Vec<(&str, String)> {
        let mut text = vec![
            ("objective", self.objective.name().to_owned()),
            ("max_depth", self.max_depth.to_string()),
            ("eta", self.eta.to_string()),
            ("seed", self.seed.to_string()),
            ("nthread", self.nthread.to_string()),
            ("verbosity", "0".to_owned()),
        ];
        text.extend(classes.map(|classes| ("num_class", classes.to_string())));
        text.extend(self.other.iter().map(|(name, value)| (*name, value.clone())));
        text
    }

    /// Name and value of every parameter, for the record.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let text = self.to_text(self.num_class).into_iter();
        let text = text.filter(|(name, _)| *name != "verbosity");
        let rounds = [("rounds", self.rounds.to_string())];
        text.chain(rounds).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Checks labels, and tells the number of classes where the objective has several.
    fn check_labels(&self, train: &Matrix<'_>, test: Option<&Matrix<'_>>) -> Result<Option<u32>, TrainError> {
        let labels = || train.labels().iter().chain(test.map(Matrix::labels).unwrap_or_default()).copied();
        let classes = match (self.objective, self.num_class) {
            (Objective::SquaredError, None) => return Ok(None),
            (Objective::Logistic, None) => 2,
            (Objective::Softprob, Some(classes)) => classes,
            // Float to integer saturates.
            (Objective::Softprob, None) => (labels().fold(0.0, f32::max) as u32).saturating_add(1),
            (Objective::SquaredError | Objective::Logistic, Some(classes)) => {
                let expected = format!("none for the objective `{}`", self.objective.name());
                return Err(refuse("num_class", &classes.to_string(), expected));
            }
        };
        if !(2..=CLASSES_MAX).contains(&classes) {
            let expected = format!("a number from 2 to {CLASSES_MAX}");
            return Err(refuse("num_class", &classes.to_string(), expected));
        }
        if let Some(&only) = train.labels().first()
            && train.labels().iter().all(|&label| label == only)
        {
            return Err(TrainError::OneClass { label: only });
        }
        for matrix in [Some(train), test].into_iter().flatten() {
            let stray = matrix.labels().iter().position(|&label| class_of(label, classes as usize).is_none());
            if let Some((row, &label)) = stray.and_then(|row| Some((row, matrix.labels().get(row)?))) {
                let expected = format!("a whole number from 0 to {}", classes - 1);
                return Err(TrainError::Label { row, label, expected });
            }
        }
        Ok((self.objective == Objective::Softprob).then_some(classes))
    }
}

/// What training made.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// The model's file, as UBJSON.
    pub model: Vec<u8>,
    /// What libxgboost itself says of the test rows; empty where there are none.
    pub test_scores: Vec<f32>,
}

/// Trains a model.
///
/// `progress` is told of each round; when it breaks, the model is what it is after that round. `test` rows are scored
/// but not learned from.
pub fn train(
    library: &Library,
    train: Matrix<'_>,
    test: Option<Matrix<'_>>,
    parameters: &XgboostParameters,
    progress: &mut dyn FnMut(RoundReport) -> ControlFlow<()>,
) -> Result<Trained, TrainError> {
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
    Ok(Trained { model: booster.save()?, test_scores })
}

fn refuse(name: &str, value: &str, expected: String) -> TrainError {
    TrainError::ParameterValue { name: name.to_owned(), value: value.to_owned(), expected }
}

fn parsed<T: std::str::FromStr>(name: &str, value: &str, expected: &str) -> Result<T, TrainError> {
    value.trim().parse().map_err(|_| refuse(name, value, expected.to_owned()))
}

/// The known name with the fewest edits, if they are few for its length.
fn closest(name: &str) -> Option<&'static str> {
    // No known name is that long; the distance takes time in the product of the lengths.
    if name.len() > 64 {
        return None;
    }
    let candidates = NAMES.iter().map(|(known, _)| (edits(name, known), *known));
    let (distance, known) = candidates.min()?;
    (distance <= 1 + known.len() / 5).then_some(known)
}

/// Levenshtein's distance: insertions, deletions and replacements of bytes (Wagner and Fischer 1974, by rows).
fn edits(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, byte) in left.bytes().enumerate() {
        let mut diagonal = index;
        let mut before = index + 1;
        for (cell, other) in row.iter_mut().zip(std::iter::once(None).chain(right.bytes().map(Some))) {
            let cost = match other {
                None => before,
                Some(other) => (diagonal + usize::from(byte != other)).min(before + 1).min(*cell + 1),
            };
            diagonal = std::mem::replace(cell, cost);
            before = cost;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
