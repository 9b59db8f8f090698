//! XGBoost's model files (JSON and UBJSON) and what makes scores of them.
//!
//! The layout is that of <https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html>. A file is read in
//! two steps: serde reads the structs of [`file`], which name only what prediction needs; then every count, index and name
//! is checked while the trees are copied into a [`Forest`], or the weights into a [`Linear`]. Scores are bit for bit those
//! of libxgboost 3.2 on a CPU with the same `libm`: both sum margins in `f32` in the order of the trees and call the
//! platform's `expf`. Where versions of libxgboost differ, they are those of 3.2, also for older files.
//!
//! Everything that libxgboost 3.2 saves is read: its objectives; the boosters `gbtree`, `dart` and `gblinear`; several
//! trees a round; splits by categories, where a feature is the number of its category, counted as in the training; and
//! several targets, also with a leaf for all of them. All trees vote: an early-stopped model predicts as
//! `Booster.predict` does, which does not read `best_iteration`. An objective of one's own is not in the file that it
//! trained: XGBoost writes one of its own.

mod file;
mod json;
mod linear;
mod names;
mod objective;
mod stopped;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use file::{BoosterModel, File, Learner, LearnerParameters, Tree, number};
use linear::Linear;
use names::NamesFile;
use objective::Objective;
use stopped::StoppedFile;

use super::trees::{Forest, ForestBuilder, Node, TreeError};
use super::{Framework, Model, ModelError, ubjson};

/// More features than any table has; keeps `features × rows` and the padded row far from overflow.
const FEATURES_MAX: usize = 1 << 20;

/// Named by its own limit because a file of a few bytes can claim any number.
const MARGINS_MAX: usize = 1 << 16;

const JSON: &str = "XGBoost JSON";
const UBJSON: &str = "XGBoost UBJSON";

/// A loaded XGBoost model.
#[derive(Debug)]
pub struct XgboostModel {
    objective: Objective,
    booster: Booster,
}

#[derive(Debug)]
enum Booster {
    Trees(Forest),
    /// Trees of the booster `dart`, with their weights in their leaves.
    Dart(Forest),
    Linear(Linear),
}

impl XgboostModel {
    /// Reads and checks a model file.
    pub fn load(bytes: &[u8]) -> Result<Self, ModelError> {
        let (format, file): (_, File) = read(bytes)?;
        file.learner.check().map_err(|error| error.of_format(format))
    }
}

impl Model for XgboostModel {
    fn description(&self) -> String {
        let objective = match self.objective.name {
            // The scores are those of `multi:softprob`.
            "multi:softmax" => "multi:softprob",
            name => name,
        };
        match &self.booster {
            Booster::Trees(forest) => format!("XGBoost {objective}, {} trees", forest.tree_count()),
            Booster::Dart(forest) => format!("XGBoost dart {objective}, {} trees", forest.tree_count()),
            Booster::Linear(_) => format!("XGBoost gblinear {objective}"),
        }
    }

    fn feature_count(&self) -> usize {
        match &self.booster {
            Booster::Trees(forest) | Booster::Dart(forest) => forest.feature_count(),
            Booster::Linear(linear) => linear.feature_count(),
        }
    }

    fn score_count(&self) -> usize {
        match &self.booster {
            Booster::Trees(forest) | Booster::Dart(forest) => forest.margin_count(),
            Booster::Linear(linear) => linear.margin_count(),
        }
    }

    fn predicts_values(&self) -> bool {
        self.objective.predicts_values(self.score_count())
    }

    fn byte_len(&self) -> usize {
        match &self.booster {
            Booster::Trees(forest) | Booster::Dart(forest) => forest.byte_len(),
            Booster::Linear(linear) => linear.byte_len(),
        }
    }

    fn score(&self, features: &[f32]) -> Result<Vec<f32>, ModelError> {
        let mut scores = match &self.booster {
            Booster::Trees(forest) | Booster::Dart(forest) => forest.margins(features),
            Booster::Linear(linear) => linear.margins(features),
        };
        self.objective.transform(&mut scores, self.score_count());
        Ok(scores)
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

/// The names of the features, which a file may have.
pub(super) fn feature_names(bytes: &[u8]) -> Result<Vec<String>, ModelError> {
    let (format, file): (_, NamesFile) = read(bytes)?;
    file.learner.names().map_err(|error| error.of_format(format))
}

/// Of a training that was stopped early the rounds up to the best one, and all that there are, where these are more.
pub(super) fn best_rounds(bytes: &[u8]) -> Result<Option<(usize, usize)>, ModelError> {
    let (_, file): (_, StoppedFile) = read(bytes)?;
    Ok(file.best_rounds())
}

/// Reads what `T` names of a file, and tells its format.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<(&'static str, T), ModelError> {
    let Some((b'{', after)) = bytes.split_first() else { return Err(ModelError::UnknownFormat) };
    // After the brace JSON has a quote, a closing brace or white space; UBJSON has the type of the key's length.
    let (format, file) = if matches!(after.first(), Some(b'L' | b'l' | b'I' | b'i' | b'U' | b'#' | b'$')) {
        (UBJSON, ubjson::from_slice(bytes).map_err(|error| error.to_string()))
    } else {
        (JSON, serde_json::from_slice(&json::with_numbers(bytes)).map_err(|error| error.to_string()))
    };
    Ok((format, file.map_err(|reason| ModelError::Malformed { format, reason })?))
}

enum CheckError {
    Malformed(String),
    Unsupported { what: String, expected: String },
}

impl CheckError {
    fn of_format(self, format: &'static str) -> ModelError {
        match self {
            Self::Malformed(reason) => ModelError::Malformed { format, reason },
            Self::Unsupported { what, expected } => ModelError::Unsupported { what, expected },
        }
    }
}

impl From<String> for CheckError {
    fn from(reason: String) -> Self {
        Self::Malformed(reason)
    }
}

fn unsupported(what: String, expected: &str) -> CheckError {
    CheckError::Unsupported { what, expected: expected.to_owned() }
}

impl Learner {
    fn check(self) -> Result<XgboostModel, CheckError> {
        let objective = Objective::named(&self.objective.name)?;
        let parameters = &self.learner_model_param;
        let features: usize = number(&parameters.num_feature, "num_feature")?;
        if features == 0 {
            return Err("0 features: expected at least 1".to_owned().into());
        }
        if features > FEATURES_MAX {
            return Err(unsupported(format!("{features} features"), "at most 1048576"));
        }
        let margins = parameters.margin_count(objective)?;
        let booster = self.gradient_booster;
        let booster = match booster.name.as_str() {
            "gbtree" => {
                let intercepts = parameters.intercepts(objective, margins, booster.model.trees.is_empty())?;
                Booster::Trees(booster.model.forest(features, intercepts, None)?)
            }
            "dart" => {
                let model = booster.gbtree.model;
                let intercepts = parameters.intercepts(objective, margins, model.trees.is_empty())?;
                Booster::Dart(model.forest(features, intercepts, Some(&booster.weight_drop))?)
            }
            "gblinear" => {
                let weights = booster.model.weights;
                let intercepts = parameters.intercepts(objective, margins, weights.is_empty())?;
                Booster::Linear(Linear::new(features, &intercepts, weights)?)
            }
            other => {
                let booster = format!("booster `{}`", other.chars().take(40).collect::<String>());
                return Err(unsupported(booster, "`gbtree`, `dart` or `gblinear`"));
            }
        };
        Ok(XgboostModel { objective, booster })
    }
}

impl LearnerParameters {
    /// Margins in a row: one for each class, or for each target.
    fn margin_count(&self, objective: Objective) -> Result<usize, CheckError> {
        let targets: usize =
            self.num_target.as_ref().map_or(Ok(1), |targets| number(targets, "num_target"))?;
        let classes: usize = number(&self.num_class, "num_class")?;
        if objective.is_softmax() && classes == 0 {
            return Err("0 classes: expected at least 1".to_owned().into());
        }
        if classes > 1 && targets > 1 {
            return Err(format!("{classes} classes and {targets} targets: expected one of them").into());
        }
        match classes.max(targets).max(1) {
            margins @ 0..=MARGINS_MAX => Ok(margins),
            margins => Err(unsupported(format!("{margins} scores in a row"), "at most 65536")),
        }
    }

    /// The margins before the first tree, from `base_score`.
    fn intercepts(
        &self,
        objective: Objective,
        margins: usize,
        is_untrained: bool,
    ) -> Result<Vec<f32>, CheckError> {
        let text = &self.base_score;
        let numbers: Vec<&str> = match text.trim().strip_prefix('[').map(|list| list.strip_suffix(']')) {
            None => vec![text],
            Some(None) => return Err("`base_score` has no closing bracket".to_owned().into()),
            Some(Some(list)) => list.split(',').collect(),
        };
        if numbers.len() != 1 && numbers.len() != margins {
            let found = numbers.len();
            return Err(format!("`base_score` has {found} numbers: expected 1 or {margins}").into());
        }
        // What was to be told from the labels, and never was, is the margin itself.
        let is_margin = is_untrained && self.boost_from_average.as_ref().is_none_or(|flag| flag == "1");
        let margin = |score: f32| match is_margin {
            true if score.is_finite() => Ok(score),
            true => Err(format!("`base_score` is {score}: expected a finite number").into()),
            false => objective.margin(score),
        };
        let intercepts: Result<Vec<f32>, CheckError> =
            numbers.iter().map(|score| margin(number(score, "base_score")?)).collect();
        match intercepts?.as_slice() {
            &[intercept] => Ok(vec![intercept; margins]),
            intercepts => Ok(intercepts.to_vec()),
        }
    }
}

impl BoosterModel {
    /// Checks and packs the trees. `weights` are what the leaves of each are multiplied by.
    fn forest(
        self,
        features: usize,
        intercepts: Vec<f32>,
        weights: Option<&[f32]>,
    ) -> Result<Forest, CheckError> {
        let count = self.trees.len();
        if self.tree_info.len() != count {
            return Err(format!("`tree_info` has {} entries for {count} trees", self.tree_info.len()).into());
        }
        if let Some(found) = weights.map(<[f32]>::len).filter(|found| *found != count) {
            return Err(format!("`weight_drop` has {found} entries for {count} trees").into());
        }
        let margins = intercepts.len();
        let mut forest = ForestBuilder::new(features, intercepts);
        for (index, (tree, group)) in self.trees.into_iter().zip(self.tree_info).enumerate() {
            // libxgboost puts trees where their ids say, and writes them in that order.
            if let Some(id) = tree.id.filter(|id| *id != index as u64) {
                return Err(format!("tree {index} has the id {id}: expected {index}").into());
            }
            let weight = weights.and_then(|weights| weights.get(index)).copied();
            tree.add_to(&mut forest, group, margins, weight).map_err(|error| match error {
                CheckError::Malformed(reason) => CheckError::Malformed(format!("tree {index}: {reason}")),
                unsupported @ CheckError::Unsupported { .. } => unsupported,
            })?;
        }
        Ok(forest.build())
    }
}

impl Tree {
    fn is_leaf(&self, index: usize) -> bool {
        // As in `RegTree::Node::IsLeaf`.
        self.left_children.get(index) == Some(&-1)
    }

    fn add_to(
        &self,
        forest: &mut ForestBuilder,
        group: u32,
        margins: usize,
        weight: Option<f32>,
    ) -> Result<(), CheckError> {
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
        if let Some(unknown) = self.split_type.iter().find(|split_type| **split_type > 1) {
            return Err(format!("`split_type` {unknown}: expected 0 or 1").into());
        }
        self.check_categories()?;
        let leaf_len: usize = number(&self.tree_param.size_leaf_vector, "size_leaf_vector")?;
        let added = match (leaf_len, weight) {
            (0 | 1, None) => forest.add_tree(group, nodes, |index| self.node(index, None)),
            (0 | 1, Some(weight)) => forest.add_tree(group, nodes, |index| match self.node(index, None)? {
                // libxgboost adds it to 0, multiplies the sum, and adds the product to the margin.
                Node::Leaf { value } => Some(Node::Leaf { value: (0.0 + value) * weight }),
                split => Some(split),
            }),
            (_, None) if leaf_len == margins => {
                self.check_leaves(leaf_len)?;
                forest.add_tree_to_all(nodes, |index| self.node(index, Some(leaf_len)))
            }
            (_, None) => return Err(format!("leaves of {leaf_len} values: expected 1 or {margins}").into()),
            (_, Some(_)) => {
                return Err(unsupported(format!("booster `dart` with leaves of {leaf_len} values"), "1"));
            }
        };
        added.map_err(|error: TreeError| error.to_string().into())
    }

    /// A node; none if it has a negative child. A leaf has `leaf_len` values, or one.
    fn node(&self, index: usize, leaf_len: Option<usize>) -> Option<Node<'_>> {
        let condition = *self.split_conditions.get(index)?;
        if self.is_leaf(index) {
            return Some(match leaf_len {
                None => Node::Leaf { value: condition },
                Some(len) => Node::Leaves { values: self.leaf_values(index, len) },
            });
        }
        let child = |children: &[i32]| usize::try_from(*children.get(index)?).ok();
        let feature = *self.split_indices.get(index)?;
        let default_left = self.default_left.get(index)?.0;
        let (left, right) = (child(&self.left_children)?, child(&self.right_children)?);
        if self.split_type.get(index) == Some(&1) {
            let categories = self.categories_of(index).unwrap_or_default();
            return Some(Node::Categories { feature, categories, default_left, left, right });
        }
        Some(Node::Split { feature, threshold: condition, default_left, left, right })
    }

    /// The values of a leaf that has `len`; none where the file has none.
    fn leaf_values(&self, index: usize, len: usize) -> &[f32] {
        let (all, place) = match self.leaf_weights.is_empty() {
            true => (&self.base_weights, Some(index)),
            false => {
                (&self.leaf_weights, self.right_children.get(index).and_then(|&place| place.try_into().ok()))
            }
        };
        place.and_then(|place| all.chunks_exact(len).nth(place)).unwrap_or_default()
    }

    /// Refuses leaves of `len` values that share them: libxgboost writes those of each by themselves, and a small file in which all
    /// leaves have the same ones would take the memory of a large one.
    fn check_leaves(&self, len: usize) -> Result<(), CheckError> {
        let mut taken = vec![false; self.leaf_weights.len() / len];
        for (index, &place) in
            self.right_children.iter().enumerate().filter(|(index, _)| self.is_leaf(*index))
        {
            // A leaf whose values the file lacks is refused where it is reached.
            let taken = usize::try_from(place).ok().and_then(|place| taken.get_mut(place));
            if taken.is_some_and(|taken| std::mem::replace(taken, true)) {
                return Err(
                    format!("node {index} is a leaf with the values of another: expected its own").into()
                );
            }
        }
        Ok(())
    }

    /// Refuses splits that share categories: libxgboost writes those of each behind those of the one before, and a small file in
    /// which all splits have the same ones would take the memory of a large one.
    fn check_categories(&self) -> Result<(), CheckError> {
        let splits = self.categories_nodes.len();
        let lengths = [self.categories_segments.len(), self.categories_sizes.len()];
        if lengths != [splits; 2] {
            return Err(format!(
                "{splits} splits by categories, {lengths:?} of their sets: expected as many"
            )
            .into());
        }
        let mut end = 0_u64;
        for (&start, &len) in self.categories_segments.iter().zip(&self.categories_sizes) {
            if start != end {
                return Err(format!("a split's categories begin at {start}: expected {end}").into());
            }
            end = end.saturating_add(len);
        }
        match end == self.categories.len() as u64 {
            true => Ok(()),
            false => Err(format!("{} categories: expected {end}", self.categories.len()).into()),
        }
    }

    /// The categories of a split that is by categories.
    fn categories_of(&self, index: usize) -> Option<&[u32]> {
        let place = self.categories_nodes.binary_search(&u32::try_from(index).ok()?).ok()?;
        let start = usize::try_from(*self.categories_segments.get(place)?).ok()?;
        let len = usize::try_from(*self.categories_sizes.get(place)?).ok()?;
        self.categories.get(start..start.checked_add(len)?)
    }
}

#[cfg(test)]
mod tests;
