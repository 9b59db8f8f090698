//! The parameters of libxgboost, by its names for them.

use std::collections::BTreeMap;

use super::kinds;
use crate::train::parameter::{parsed, refuse, unknown};
use crate::train::trainer::check_classes;
use crate::train::{Matrix, Task, TrainError};

/// More rounds than any model has; keeps a typing error from running for a day.
const ROUNDS_MAX: u32 = 100_000;

/// Classes that [`crate::model`] takes.
const CLASSES_MAX: u32 = 1 << 16;

/// What a model learns to predict, one objective for each [`Task`]. [`crate::model`] loads those of XGBoost that are not
/// here too.
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

    /// The objective that learns `task`.
    pub fn for_task(task: Task) -> Self {
        match task {
            Task::Binary => Self::Logistic,
            Task::Classes => Self::Softprob,
            Task::Regression => Self::SquaredError,
        }
    }

    /// What a model of this objective predicts.
    pub fn task(self) -> Task {
        match self {
            Self::Softprob => Task::Classes,
            Self::Logistic => Task::Binary,
            Self::SquaredError => Task::Regression,
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
    /// Rounds without a better metric of the test rows after which training ends; none for all rounds.
    pub early_stopping_rounds: Option<u32>,
    /// Every other parameter, by its name in libxgboost.
    pub(super) other: BTreeMap<&'static str, String>,
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
            early_stopping_rounds: None,
            other: BTreeMap::from([("tree_method", "hist".to_owned())]),
        }
    }
}

/// Names that are taken, each with the name by which libxgboost knows it: of
/// <https://xgboost.readthedocs.io/en/release_3.2.0/parameter.html> those of the tree booster on a CPU, and those of
/// Python's `xgboost.train` and scikit-learn interface.
///
/// Left out is what belongs to other boosters and objectives (`booster`, `rate_drop`, `tweedie_variance_power`, …), what
/// there is nothing for (`multi_strategy`: there is one label; `max_cat_*`: features are numbers; `device`), and what
/// would take rounds away from those that are reported (`process_type`, `updater`, `disable_default_eval_metric`).
const NAMES: &[(&str, &str)] = &[
    ("alpha", "reg_alpha"),
    ("base_score", "base_score"),
    ("colsample_bylevel", "colsample_bylevel"),
    ("colsample_bynode", "colsample_bynode"),
    ("colsample_bytree", "colsample_bytree"),
    ("early_stopping_rounds", "early_stopping_rounds"),
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
    /// Of parameters without a field of their own the type is checked; their ranges libxgboost checks, when training
    /// begins.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), TrainError> {
        let canonical = NAMES.iter().find(|(known, _)| *known == name).map(|(_, canonical)| *canonical);
        let Some(canonical) = canonical else {
            return Err(unknown(name, NAMES.iter().map(|(known, _)| *known)));
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
            "early_stopping_rounds" => self.early_stopping_rounds = Some(parsed(name, value, whole)?),
            "eta" => self.eta = parsed(name, value, "a number from 0 to 1")?,
            other => {
                kinds::check(other, name, value)?;
                self.other.insert(other, value.to_owned());
            }
        }
        self.check()
    }

    pub(super) fn check(&self) -> Result<(), TrainError> {
        let rounds = [("rounds", Some(self.rounds)), ("early_stopping_rounds", self.early_stopping_rounds)];
        for (name, rounds) in rounds {
            if let Some(rounds) = rounds.filter(|rounds| !(1..=ROUNDS_MAX).contains(rounds)) {
                return Err(refuse(name, &rounds.to_string(), format!("a number from 1 to {ROUNDS_MAX}")));
            }
        }
        if !(0.0..=1.0).contains(&self.eta) {
            return Err(refuse("eta", &self.eta.to_string(), "a number from 0 to 1".to_owned()));
        }
        Ok(())
    }

    /// Name and value of every parameter but the rounds, which only this module knows.
    pub(super) fn to_text(&self, classes: Option<u32>) -> Vec<(&str, String)> {
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
        let patience = self.early_stopping_rounds.map(|rounds| ("early_stopping_rounds", rounds.to_string()));
        let rounds = [("rounds", self.rounds.to_string())];
        text.chain(rounds).chain(patience).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Checks labels, and tells the number of classes where the objective has several.
    pub(super) fn check_labels(
        &self,
        train: &Matrix<'_>,
        test: Option<&Matrix<'_>>,
    ) -> Result<Option<u32>, TrainError> {
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
        check_classes(train, test, classes as usize)?;
        Ok((self.objective == Objective::Softprob).then_some(classes))
    }
}
