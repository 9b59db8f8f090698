//! What XGBoost's objectives make of margins, and of `base_score`: in the same float operations as libxgboost.

use super::CheckError;

/// `base_score` of a logistic model is bounded by this and by 1 minus this.
const PROBABILITY_MIN: f32 = 1e-6;

/// An objective, as far as it matters to what is predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Objective {
    /// libxgboost's name.
    pub(super) name: &'static str,
    transform: Transform,
    link: Link,
}

/// How margins become scores: `PredTransform` of libxgboost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transform {
    /// The margin is the score.
    Identity,
    /// The probability of class 1.
    Sigmoid,
    /// `expf`.
    Exponential,
    /// `exp` in 64 bits, rounded to 32: other bits than `expf` for one number in some thousands.
    WideExponential,
    /// Class 1 where the margin is positive, else class 0.
    Step,
    /// A probability for each class.
    Softmax,
}

/// How `base_score` becomes a margin: `ProbToMargin` of libxgboost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Identity,
    Logit,
    Logarithm,
}

/// The objectives of libxgboost 3.2.
const OBJECTIVES: [Objective; 19] = [
    Objective::new("reg:squarederror", Transform::Identity, Link::Identity),
    Objective::new("reg:squaredlogerror", Transform::Identity, Link::Identity),
    Objective::new("reg:absoluteerror", Transform::Identity, Link::Identity),
    Objective::new("reg:pseudohubererror", Transform::Identity, Link::Identity),
    Objective::new("reg:quantileerror", Transform::Identity, Link::Identity),
    Objective::new("reg:logistic", Transform::Sigmoid, Link::Logit),
    Objective::new("reg:gamma", Transform::Exponential, Link::Logarithm),
    Objective::new("reg:tweedie", Transform::Exponential, Link::Logarithm),
    Objective::new("count:poisson", Transform::Exponential, Link::Logarithm),
    Objective::new("survival:cox", Transform::Exponential, Link::Logarithm),
    Objective::new("survival:aft", Transform::WideExponential, Link::Logarithm),
    Objective::new("binary:logistic", Transform::Sigmoid, Link::Logit),
    Objective::new("binary:logitraw", Transform::Identity, Link::Identity),
    Objective::new("binary:hinge", Transform::Step, Link::Identity),
    Objective::new("multi:softprob", Transform::Softmax, Link::Identity),
    Objective::new("multi:softmax", Transform::Softmax, Link::Identity),
    Objective::new("rank:pairwise", Transform::Identity, Link::Identity),
    Objective::new("rank:ndcg", Transform::Identity, Link::Identity),
    Objective::new("rank:map", Transform::Identity, Link::Identity),
];

impl Objective {
    const fn new(name: &'static str, transform: Transform, link: Link) -> Self {
        Self { name, transform, link }
    }

    /// The objective of this name. `reg:linear` is an older name of `reg:squarederror`.
    pub(super) fn named(name: &str) -> Result<Self, CheckError> {
        let canonical = if name == "reg:linear" { "reg:squarederror" } else { name };
        OBJECTIVES.into_iter().find(|known| known.name == canonical).ok_or_else(|| {
            let known = OBJECTIVES.map(|known| format!("`{}`", known.name)).join(", ");
            CheckError::Unsupported {
                what: format!("objective `{}`", name.chars().take(40).collect::<String>()),
                expected: format!("one of XGBoost 3.2, which are {known}"),
            }
        })
    }

    /// Whether it tells classes apart by a margin for each.
    pub(super) fn is_softmax(self) -> bool {
        self.transform == Transform::Softmax
    }

    /// Whether `scores` scores in a row are values, and not probabilities of classes, of which one is right: several
    /// probabilities of class 1 are each of another label.
    pub(super) fn predicts_values(self, scores: usize) -> bool {
        match self.name {
            "binary:logistic" | "binary:hinge" => scores > 1,
            _ => !self.is_softmax(),
        }
    }

    /// The margin that `base_score` means.
    pub(super) fn margin(self, base_score: f32) -> Result<f32, CheckError> {
        let (expected, margin) = match self.link {
            Link::Identity => ("a finite number", base_score),
            Link::Logit if !(0.0..=1.0).contains(&base_score) => ("a number from 0 to 1", f32::NAN),
            Link::Logit => {
                let bounded = base_score.clamp(PROBABILITY_MIN, 1.0 - PROBABILITY_MIN);
                ("a number from 0 to 1", -(1.0 / bounded - 1.0).ln())
            }
            // Where every label is 0, so are `base_score` and whatever is predicted.
            Link::Logarithm if base_score == 0.0 => return Ok(f32::NEG_INFINITY),
            Link::Logarithm => ("a finite number that is not negative", base_score.ln()),
        };
        match margin.is_finite() {
            true => Ok(margin),
            false => Err(format!("`base_score` is {base_score}: expected {expected}").into()),
        }
    }

    /// Makes scores of the margins of rows of `count` each.
    pub(super) fn transform(self, margins: &mut [f32], count: usize) {
        let each = |margins: &mut [f32], transform: fn(f32) -> f32| {
            margins.iter_mut().for_each(|margin| *margin = transform(*margin));
        };
        match self.transform {
            Transform::Identity => {}
            Transform::Sigmoid => each(margins, sigmoid),
            Transform::Exponential => each(margins, f32::exp),
            Transform::WideExponential => each(margins, |margin| f64::from(margin).exp() as f32),
            Transform::Step => each(margins, |margin| if margin > 0.0 { 1.0 } else { 0.0 }),
            Transform::Softmax => margins.chunks_exact_mut(count).for_each(softmax),
        }
    }
}

/// `common::Softmax` of libxgboost: exponentials in `f32`, their sum in `f64`, the quotient in `f32`.
pub(super) fn softmax(margins: &mut [f32]) {
    // `fmaxf` ignores NaN, as `f32::max` does.
    let largest = margins.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0_f64;
    for margin in margins.iter_mut() {
        *margin = (*margin - largest).exp();
        sum += f64::from(*margin);
    }
    let sum = sum as f32;
    for margin in margins {
        *margin /= sum;
    }
}

/// `common::Sigmoid` of libxgboost. It also adds 1e-16 to the denominator, which in `f32` changes no result, as the
/// denominator is at least 1.
pub(super) fn sigmoid(margin: f32) -> f32 {
    // Its guard against an overflowing exponential, which lets NaN pass.
    let negative = if 88.7 < -margin { 88.7 } else { -margin };
    1.0 / (negative.exp() + 1.0)
}
