//! Which parameters to try next, and which trials to end early: pure functions of what was tried.
//!
//! A suggestion depends on the seed, the trial's number and the results so far, and on nothing else: a search that was
//! interrupted goes on as if it had not been, once it knows its results.

mod schedule;
mod space;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};
use tpe::{TpeOptimizerBuilder, categorical_range, histogram_estimator, parzen_estimator};

pub use schedule::{Schedule, Scheduler};
pub use space::{Assignment, Dimension, Range, Space, Values};

use crate::domain::Direction;

/// Results before which TPE knows too little and draws at random.
const STARTUP_TRIALS: usize = 10;

/// More combinations than any grid is worth.
const GRID_MAX: u64 = 1_000_000;

/// How parameters are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Every combination of whole numbers and choices, in their order, the last parameter fastest.
    Grid,
    /// Independently and evenly (Bergstra and Bengio, "Random search for hyper-parameter optimization", 2012).
    Random,
    /// Where good results are likelier than others, a parameter at a time: the tree-structured Parzen estimator
    /// (Bergstra et al., "Algorithms for hyper-parameter optimization", 2011).
    Tpe,
}

/// What a trial was given, and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// Its parameters.
    pub assignment: Assignment,
    /// Its metric; what is not a number is worse than any.
    pub value: f64,
}

/// A search that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// No parameters.
    #[error("a search needs at least one parameter: give `--space NAME=LOW..HIGH`")]
    Empty,
    /// A parameter named twice.
    #[error("parameter `{name}` is given twice in the space")]
    Twice {
        /// The parameter.
        name: String,
    },
    /// Not a parameter with values.
    #[error(
        "`{text}` is no parameter to search: expected `NAME=LOW..HIGH`, `NAME=LOW..HIGH:log` or `NAME=VALUE,VALUE,…`"
    )]
    Syntax {
        /// What was written.
        text: String,
    },
    /// Values that cannot be.
    #[error("the space of parameter `{name}` is `{found}`: expected {expected}")]
    Values {
        /// The parameter.
        name: String,
        /// What was written.
        found: String,
        /// What would be taken.
        expected: String,
    },
    /// A grid of what cannot be counted.
    #[error(
        "a grid cannot have the range of `{name}`, which is not of whole numbers: list its values, as `{name}=0.1,0.2`"
    )]
    Uncountable {
        /// The parameter.
        name: String,
    },
    /// A grid of too much.
    #[error(
        "a grid of more than {GRID_MAX} combinations cannot be searched: take fewer values or another method"
    )]
    TooMany,
}

/// A search: what it is given to decide on.
#[derive(Debug, Clone)]
pub struct Search {
    space: Space,
    method: Method,
    direction: Direction,
    seed: u32,
}

impl Search {
    /// Checks that the method can search the space.
    pub fn new(space: Space, method: Method, direction: Direction, seed: u32) -> Result<Self, SearchError> {
        let search = Self { space, method, direction, seed };
        if method == Method::Grid {
            let uncountable = |dimension: &&Dimension| dimension.values.count().is_none();
            if let Some(dimension) = search.space.dimensions().iter().find(uncountable) {
                return Err(SearchError::Uncountable { name: dimension.name.clone() });
            }
            if search.combinations().is_none_or(|count| count > GRID_MAX) {
                return Err(SearchError::TooMany);
            }
        }
        Ok(search)
    }

    /// The space.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Trials after which a grid has been searched; none where there is no end.
    pub fn trials(&self) -> Option<u64> {
        self.combinations().filter(|_| self.method == Method::Grid)
    }

    fn combinations(&self) -> Option<u64> {
        let counts = self.space.dimensions().iter().map(|dimension| dimension.values.count());
        counts.into_iter().try_fold(1_u64, |product, count| product.checked_mul(count?))
    }

    /// What the trial of this number, from 0, is to try; none when a grid has been searched.
    pub fn suggest(&self, trial: u64, observations: &[Observation]) -> Option<Assignment> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(u64::from(self.seed).rotate_left(32) ^ trial);
        match self.method {
            Method::Grid => self.combination(trial),
            Method::Tpe if observations.len() >= STARTUP_TRIALS => {
                Some(self.estimated(observations, &mut random))
            }
            Method::Random | Method::Tpe => {
                let point: Vec<f64> = self.space.dimensions().iter().map(|_| random.random()).collect();
                Some(self.space.at(&point))
            }
        }
    }

    fn combination(&self, trial: u64) -> Option<Assignment> {
        let mut rest = trial;
        let mut assignment = Vec::new();
        for dimension in self.space.dimensions().iter().rev() {
            let count = dimension.values.count()?.max(1);
            assignment.push((dimension.name.clone(), dimension.values.nth(rest % count)));
            rest /= count;
        }
        assignment.reverse();
        (rest == 0).then_some(assignment)
    }

    fn estimated(&self, observations: &[Observation], random: &mut Xoshiro256PlusPlus) -> Assignment {
        let seen: Vec<(Vec<f64>, f64)> = observations
            .iter()
            .filter_map(|observation| {
                let cost = self.direction.cost(observation.value);
                // The estimator takes no NaN.
                let cost = if cost.is_nan() { f64::INFINITY } else { cost };
                Some((self.space.point(&observation.assignment)?, cost))
            })
            .collect();
        let coordinate = |(place, dimension): (usize, &Dimension)| {
            let told = seen.iter().filter_map(|(point, cost)| Some((*point.get(place)?, *cost)));
            estimate(&dimension.values, told, random).unwrap_or_else(|| random.random())
        };
        let point: Vec<f64> = self.space.dimensions().iter().enumerate().map(coordinate).collect();
        self.space.at(&point)
    }
}

/// The coordinate, from 0 to 1, that the estimator proposes for a parameter.
fn estimate(
    values: &Values,
    told: impl Iterator<Item = (f64, f64)>,
    random: &mut Xoshiro256PlusPlus,
) -> Option<f64> {
    // A choice's coordinate is the middle of its share; the estimator numbers choices from 0.
    let (range, estimator, scale) = match values {
        Values::Choice(choices) => {
            (categorical_range(choices.len()).ok()?, histogram_estimator(), choices.len() as f64)
        }
        Values::Float(_) | Values::Integer(_) => (tpe::range(0.0, 1.0).ok()?, parzen_estimator(), 1.0),
    };
    let mut optimizer = TpeOptimizerBuilder::new().build(estimator, range).ok()?;
    for (unit, cost) in told {
        // The range excludes its end.
        let coordinate = (unit * scale).min(scale * (1.0 - f64::EPSILON));
        optimizer.tell(coordinate, cost).ok()?;
    }
    let proposed = optimizer.ask(random).ok()?;
    Some(match values {
        Values::Choice(_) => (proposed + 0.5) / scale,
        Values::Float(_) | Values::Integer(_) => proposed,
    })
}

#[cfg(test)]
mod tests;
