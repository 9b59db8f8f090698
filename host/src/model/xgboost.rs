//! XGBoost's model files (JSON and UBJSON) and the objectives that turn margins into scores.
//!
//! The layout is that of <https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html>. A file is read in
//! two steps: serde reads the structs below, which name only what prediction needs; then every count, index and name
//! is checked while the trees are copied into a [`Forest`]. Scores are bit for bit those of libxgboost on a CPU with
//! the same `libm`: both sum margins in `f32` in the order of the trees and call the platform's `expf`.
//!
//! Refused with a sentence each: boosters other than `gbtree`, objectives other than [`Objective`], categorical
//! splits, several targets, and trees with vectors in their leaves. All trees vote: an early-stopped model predicts
//! as `Booster.predict` does, which does not read `best_iteration`. JSON has no infinity: where a threshold is infinite
//! XGBoost writes what is not JSON, which is refused, and the UBJSON file of the model is read.

use std::borrow::Cow;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{self, Visitor};

use super::trees::{Forest, ForestBuilder, Node, TreeError};
use super::{Framework, Model, ModelError, ubjson};

/// More features than any table has; keeps `features × rows` and the padded row far from overflow.
const FEATURES_MAX: usize = 1 << 20;

/// Named by its own limit because a file of a few bytes can claim any number.
const CLASSES_MAX: usize = 1 << 16;

const JSON: &str = "XGBoost JSON";
const UBJSON: &str = "XGBoost UBJSON";

/// A loaded XGBoost model.
#[derive(Debug)]
pub struct XgboostModel {
    objective: Objective,
    forest: Forest,
}

/// How margins become scores; the names are libxgboost's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Objective {
    /// `multi:softprob`, and `multi:softmax`, which trains the same trees: a probability for each class.
    Softmax,
    /// `binary:logistic`: the probability of class 1.
    Logistic,
    /// `reg:squarederror`: the margin is the value.
    SquaredError,
}

impl XgboostModel {
    /// Reads and checks a model file.
    pub fn load(bytes: &[u8]) -> Result<Self, ModelError> {
        let (format, file): (_, File<'_>) = read(bytes)?;
        file.learner.check().map_err(|error| match error {
            CheckError::Malformed(reason) => ModelError::Malformed { format, reason },
            CheckError::Unsupported { what, expected } => ModelError::Unsupported { what, expected },
        })
    }
}

impl Model for XgboostModel {
    fn description(&self) -> String {
        let objective = match self.objective {
            Objective::Softmax => "multi:softprob",
            Objective::Logistic => "binary:logistic",
            Objective::SquaredError => "reg:squarederror",
        };
        format!("XGBoost {objective}, {} trees", self.forest.tree_count())
    }

    fn feature_count(&self) -> usize {
        self.forest.feature_count()
    }

    fn score_count(&self) -> usize {
        self.forest.margin_count()
    }

    fn predicts_values(&self) -> bool {
        self.objective == Objective::SquaredError
    }

    fn byte_len(&self) -> usize {
        self.forest.byte_len()
    }

    fn score(&self, features: &[f32]) -> Vec<f32> {
        let mut scores = self.forest.margins(features);
        match self.objective {
            Objective::Softmax => scores.chunks_exact_mut(self.score_count()).for_each(softmax),
            Objective::Logistic => scores.iter_mut().for_each(|margin| *margin = sigmoid(*margin)),
            Objective::SquaredError => {}
        }
        scores
    }
}

/// The version of XGBoost that wrote a file.
pub(super) fn framework(bytes: &[u8]) -> Result<Framework, ModelError> {
    #[derive(Deserialize)]
    struct Written {
        /// Three numbers.
        #[serde(default)]
        version: Vec<u32>,
    }
    let (format, file): (_, Written) = read(bytes)?;
    let version = file.version.iter().map(ToString::to_string).collect::<Vec<_>>().join(".");
    let file_name = if format == UBJSON { "model.ubj" } else { "model.json" };
    Ok(Framework { name: "xgboost", version, file_name })
}

/// Reads what `T` names of a file, and tells its format.
fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(&'static str, T), ModelError> {
    let Some((b'{', after)) = bytes.split_first() else { return Err(ModelError::UnknownFormat) };
    // After the brace JSON has a quote, a closing brace or white space; UBJSON has the type of the key's length.
    let (format, file) = if matches!(after.first(), Some(b'L' | b'l' | b'I' | b'i' | b'U' | b'#' | b'$')) {
        (UBJSON, ubjson::from_slice(bytes).map_err(|error| error.to_string()))
    } else {
        (JSON, serde_json::from_slice(bytes).map_err(|error| error.to_string()))
    };
    Ok((format, file.map_err(|reason| ModelError::Malformed { format, reason })?))
}

/// `common::Softmax` of libxgboost: exponentials in `f32`, their sum in `f64`, the quotient in `f32`.
fn softmax(margins: &mut [f32]) {
    // `fmaxf` ignores NaN, as `f32::max` does; margins are never NaN, because no sum of leaves overflows.
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
fn sigmoid(margin: f32) -> f32 {
    // Its guard against an overflowing exponential.
    let exponential = (-margin).min(88.7).exp();
    1.0 / (exponential + 1.0)
}

enum CheckError {
    Malformed(String),
    Unsupported { what: String, expected: &'static str },
}

impl From<String> for CheckError {
    fn from(reason: String) -> Self {
        Self::Malformed(reason)
    }
}

fn unsupported(what: impl Into<String>, expected: &'static str) -> CheckError {
    CheckError::Unsupported { what: what.into(), expected }
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    learner: Learner<'a>,
}

#[derive(Deserialize)]
struct Learner<'a> {
    #[serde(borrow)]
    gradient_booster: GradientBooster<'a>,
    #[serde(borrow)]
    learner_model_param: LearnerParameters<'a>,
    #[serde(borrow)]
    objective: ObjectiveEntry<'a>,
}

#[derive(Deserialize)]
struct GradientBooster<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    /// Absent where the booster is `dart`.
    #[serde(default)]
    model: TreeModel,
}

/// The fields have defaults because those of `gblinear` are others, and its name may come after them.
#[derive(Deserialize, Default)]
#[serde(default)]
struct TreeModel {
    tree_info: Vec<u32>,
    trees: Vec<Tree>,
}

/// Numbers of the learner are written as text, one parameter struct of libxgboost's after another.
#[derive(Deserialize)]
struct LearnerParameters<'a> {
    #[serde(borrow)]
    base_score: Text<'a>,
    #[serde(borrow)]
    num_class: Text<'a>,
    #[serde(borrow)]
    num_feature: Text<'a>,
    /// Written since 1.6.
    #[serde(borrow, default)]
    num_target: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct ObjectiveEntry<'a> {
    #[serde(borrow)]
    name: Text<'a>,
}

/// One tree as parallel arrays over its nodes; a leaf has no children, and its value is its split condition.
#[derive(Deserialize)]
struct Tree {
    left_children: Vec<i32>,
    right_children: Vec<i32>,
    split_indices: Vec<u32>,
    split_conditions: Vec<f32>,
    default_left: Vec<Flag>,
    /// 0 for a numeric split, 1 for a categorical one.
    #[serde(default)]
    split_type: Vec<u8>,
    tree_param: TreeParameters,
}

#[derive(Deserialize)]
struct TreeParameters {
    size_leaf_vector: String,
}

/// Text that is borrowed from the file where it holds no escape.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Text<'_> {
    fn number<T: FromStr>(&self, name: &str) -> Result<T, CheckError> {
        number(&self.0, name)
    }
}

fn number<T: FromStr>(text: &str, name: &str) -> Result<T, CheckError> {
    let shown = || text.chars().take(40).collect::<String>();
    text.trim()
        .parse()
        .map_err(|_| CheckError::Malformed(format!("`{name}` is `{}`: expected a number", shown())))
}

/// A truth value, which newer files write as 0 or 1 and older ones as a boolean.
struct Flag(bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FlagVisitor;

        impl Visitor<'_> for FlagVisitor {
            type Value = Flag;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a boolean, 0 or 1")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Flag, E> {
                Ok(Flag(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Flag, E> {
                match value {
                    0 | 1 => Ok(Flag(value == 1)),
                    other => Err(E::invalid_value(de::Unexpected::Signed(other), &self)),
                }
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Flag, E> {
                self.visit_i64(i64::try_from(value).unwrap_or(i64::MAX))
            }
        }

        deserializer.deserialize_any(FlagVisitor)
    }
}

impl Learner<'_> {
    fn check(self) -> Result<XgboostModel, CheckError> {
        let booster = &self.gradient_booster.name.0;
        if booster != "gbtree" {
            return Err(unsupported(format!("booster `{booster}`"), "`gbtree`"));
        }
        let objective = objective(&self.objective.name.0)?;
        let parameters = &self.learner_model_param;
        let features: usize = parameters.num_feature.number("num_feature")?;
        if features == 0 {
            return Err("0 features: expected at least 1".to_owned().into());
        }
        if features > FEATURES_MAX {
            return Err(unsupported(format!("{features} features"), "at most 1048576"));
        }
        let margins = self.margin_count(objective)?;
        let TreeModel { tree_info, trees } = self.gradient_booster.model;
        if tree_info.len() != trees.len() {
            let (infos, trees) = (tree_info.len(), trees.len());
            return Err(format!("`tree_info` has {infos} entries for {trees} trees").into());
        }
        let mut forest =
            ForestBuilder::new(features, intercepts(&parameters.base_score.0, objective, margins)?);
        for (index, (tree, group)) in trees.into_iter().zip(tree_info).enumerate() {
            tree.add_to(&mut forest, group).map_err(|error| match error {
                CheckError::Malformed(reason) => CheckError::Malformed(format!("tree {index}: {reason}")),
                unsupported @ CheckError::Unsupported { .. } => unsupported,
            })?;
        }
        Ok(XgboostModel { objective, forest: forest.build() })
    }

    /// Margins in a row: one for each class of a softmax, else one.
    fn margin_count(&self, objective: Objective) -> Result<usize, CheckError> {
        let parameters = &self.learner_model_param;
        let targets = parameters.num_target.as_ref().map_or(Ok(1), |text| text.number("num_target"))?;
        if targets != 1_usize {
            return Err(unsupported(format!("{targets} targets"), "1"));
        }
        let classes: usize = parameters.num_class.number("num_class")?;
        match (objective, classes) {
            (Objective::Softmax, 0 | 1) => Err(format!("{classes} classes: expected at least 2").into()),
            (Objective::Softmax, 2..=CLASSES_MAX) => Ok(classes),
            (Objective::Softmax, _) => Err(unsupported(format!("{classes} classes"), "at most 65536")),
            (_, 0 | 1) => Ok(1),
            (_, _) => Err(format!("{classes} classes: expected none for this objective").into()),
        }
    }
}

fn objective(name: &str) -> Result<Objective, CheckError> {
    match name {
        "multi:softprob" | "multi:softmax" => Ok(Objective::Softmax),
        "binary:logistic" => Ok(Objective::Logistic),
        "reg:squarederror" => Ok(Objective::SquaredError),
        other => Err(unsupported(
            format!("objective `{other}`"),
            "`multi:softprob`, `multi:softmax`, `binary:logistic` or `reg:squarederror`",
        )),
    }
}

/// The margins before the first tree, from `base_score`: one number for all of them, or since 3.1 `[…]`, one each.
fn intercepts(text: &str, objective: Objective, margins: usize) -> Result<Vec<f32>, CheckError> {
    let scores = match text.trim().strip_prefix('[').map(|list| list.strip_suffix(']')) {
        None => vec![number(text, "base_score")?],
        Some(None) => return Err("`base_score` has no closing bracket".to_owned().into()),
        Some(Some(list)) => {
            list.split(',').map(|score| number(score, "base_score")).collect::<Result<Vec<f32>, _>>()?
        }
    };
    let intercepts = match *scores.as_slice() {
        [score] => vec![intercept(score, objective)?; margins],
        _ if scores.len() == margins => {
            scores.into_iter().map(|score| intercept(score, objective)).collect::<Result<_, _>>()?
        }
        _ => return Err(format!("`base_score` has {} numbers: expected 1 or {margins}", scores.len()).into()),
    };
    Ok(intercepts)
}

/// `ProbToMargin` of the objective: `base_score` of a logistic model is a probability, else a margin already.
fn intercept(score: f32, objective: Objective) -> Result<f32, CheckError> {
    let margin = match objective {
        Objective::Logistic => -(1.0 / score - 1.0).ln(),
        Objective::Softmax | Objective::SquaredError => score,
    };
    if !margin.is_finite() {
        return Err(format!("`base_score` is {score}: expected a finite margin").into());
    }
    Ok(margin)
}

impl Tree {
    fn add_to(&self, forest: &mut ForestBuilder, group: u32) -> Result<(), CheckError> {
        let leaf_values = &self.tree_param.size_leaf_vector;
        if !matches!(leaf_values.as_str(), "0" | "1") {
            return Err(unsupported(format!("leaves of {leaf_values} values"), "1"));
        }
        let nodes = self.left_children.len();
        let lengths = [
            self.right_children.len(),
            self.split_indices.len(),
            self.split_conditions.len(),
            self.default_left.len(),
        ];
        if lengths.iter().any(|&length| length != nodes) {
            return Err(format!("arrays of {nodes} and {lengths:?} nodes: expected equal lengths").into());
        }
        if self.split_type.iter().any(|&split_type| split_type != 0) {
            return Err(unsupported("categorical splits", "numeric ones"));
        }
        forest
            .add_tree(group, nodes, |index| self.node(index))
            .map_err(|error: TreeError| error.to_string().into())
    }

    fn node(&self, index: usize) -> Option<Node> {
        let condition = *self.split_conditions.get(index)?;
        // A leaf is a node without a left child, as in `RegTree::Node::IsLeaf`.
        if *self.left_children.get(index)? == -1 {
            return Some(Node::Leaf { value: condition });
        }
        let child = |children: &[i32]| usize::try_from(*children.get(index)?).ok();
        Some(Node::Split {
            feature: *self.split_indices.get(index)?,
            threshold: condition,
            default_left: self.default_left.get(index)?.0,
            left: child(&self.left_children)?,
            right: child(&self.right_children)?,
        })
    }
}

#[cfg(test)]
mod tests;
