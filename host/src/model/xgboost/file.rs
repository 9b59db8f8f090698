//! The structure of model files, by the names that XGBoost gives; only what prediction needs.

use std::fmt::Formatter;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use super::{CheckError, json};

#[derive(Deserialize)]
pub(super) struct File {
    pub(super) learner: Learner,
}

#[derive(Deserialize)]
pub(super) struct Learner {
    pub(super) gradient_booster: GradientBooster,
    pub(super) learner_model_param: LearnerParameters,
    pub(super) objective: ObjectiveEntry,
}

#[derive(Deserialize)]
pub(super) struct GradientBooster {
    pub(super) name: String,
    /// Of `gbtree` and `gblinear`.
    #[serde(default)]
    pub(super) model: BoosterModel,
    /// Of `dart`, whose trees stand within.
    #[serde(default)]
    pub(super) gbtree: TreeBooster,
    /// Of `dart`: what the leaves of each tree are multiplied by.
    #[serde(default, deserialize_with = "floats")]
    pub(super) weight_drop: Vec<f32>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct TreeBooster {
    pub(super) model: BoosterModel,
}

/// Trees, or weights. All have defaults because the name that tells which may come after them.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct BoosterModel {
    /// The margin that each tree adds to.
    pub(super) tree_info: Vec<u32>,
    pub(super) trees: Vec<Tree>,
    /// Of `gblinear`.
    #[serde(deserialize_with = "floats")]
    pub(super) weights: Vec<f32>,
}

/// Numbers of the learner are written as text, one parameter struct of libxgboost's after another.
#[derive(Deserialize)]
pub(super) struct LearnerParameters {
    /// One number, or since 3.1 a list of them in brackets.
    pub(super) base_score: String,
    pub(super) num_class: String,
    pub(super) num_feature: String,
    /// Written since 1.6.
    #[serde(default)]
    pub(super) num_target: Option<String>,
    /// Written since 1.7.
    #[serde(default)]
    pub(super) boost_from_average: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct ObjectiveEntry {
    pub(super) name: String,
}

/// One tree as parallel arrays over its nodes.
#[derive(Deserialize)]
pub(super) struct Tree {
    /// Its place among the trees.
    #[serde(default)]
    pub(super) id: Option<u64>,
    pub(super) left_children: Vec<i32>,
    /// Of a leaf of several values since 3.2, which of `leaf_weights` are its.
    pub(super) right_children: Vec<i32>,
    pub(super) split_indices: Vec<u32>,
    /// Of a split its threshold, of a leaf its value.
    #[serde(deserialize_with = "floats")]
    pub(super) split_conditions: Vec<f32>,
    pub(super) default_left: Vec<Flag>,
    /// 0 for a numeric split, 1 for a categorical one.
    #[serde(default)]
    pub(super) split_type: Vec<u8>,
    /// The categories of all categorical splits, one after the other.
    #[serde(default)]
    pub(super) categories: Vec<u32>,
    /// The nodes that are categorical splits, in order.
    #[serde(default)]
    pub(super) categories_nodes: Vec<u32>,
    /// Where the categories of each of them begin.
    #[serde(default)]
    pub(super) categories_segments: Vec<u64>,
    /// How many categories each of them has.
    #[serde(default)]
    pub(super) categories_sizes: Vec<u64>,
    /// Where leaves have several values: those of every node, before 3.2.
    #[serde(default, deserialize_with = "floats")]
    pub(super) base_weights: Vec<f32>,
    /// Where leaves have several values: those of every leaf, since 3.2.
    #[serde(default, deserialize_with = "floats")]
    pub(super) leaf_weights: Vec<f32>,
    pub(super) tree_param: TreeParameters,
}

#[derive(Deserialize)]
pub(super) struct TreeParameters {
    /// Values of a leaf; 0 or 1 where it has one.
    pub(super) size_leaf_vector: String,
}

/// Reads a number that is written as text.
pub(super) fn number<T: FromStr>(text: &str, name: &str) -> Result<T, CheckError> {
    let shown = || text.chars().take(40).collect::<String>();
    text.trim()
        .parse()
        .map_err(|_| CheckError::Malformed(format!("`{name}` is `{}`: expected a number", shown())))
}

/// A truth value, which newer files write as 0 or 1 and older ones as a boolean.
pub(super) struct Flag(pub(super) bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FlagVisitor;

        impl Visitor<'_> for FlagVisitor {
            type Value = Flag;

            fn expecting(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
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

/// A float, which in JSON may be an infinity or NaN.
struct Float(f32);

impl<'de> Deserialize<'de> for Float {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FloatVisitor;

        impl Visitor<'_> for FloatVisitor {
            type Value = Float;

            fn expecting(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a number")
            }

            fn visit_f32<E: de::Error>(self, value: f32) -> Result<Float, E> {
                Ok(Float(value))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Float, E> {
                Ok(Float(value as f32))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Float, E> {
                Ok(Float(json::special(value.into()).unwrap_or(value as f32)))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Float, E> {
                Ok(Float(json::special(value.into()).unwrap_or(value as f32)))
            }
        }

        // Asked for 32 bits, JSON's numbers are rounded once.
        deserializer.deserialize_f32(FloatVisitor)
    }
}

fn floats<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
    let floats = Vec::<Float>::deserialize(deserializer)?;
    Ok(floats.into_iter().map(|Float(value)| value).collect())
}
