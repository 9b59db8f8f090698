//! The names of features, as far as a file has them.

use std::collections::HashSet;
use std::fmt::Formatter;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use super::file::number;
use super::{CheckError, FEATURES_MAX};

/// Longest name, as of a column.
const NAME_MAX_BYTES: usize = 256;

/// What the names are told by.
#[derive(Deserialize)]
pub(super) struct NamesFile {
    pub(super) learner: NamesLearner,
}

#[derive(Deserialize)]
pub(super) struct NamesLearner {
    /// Empty where the rows that it learned from had none.
    #[serde(default, deserialize_with = "names")]
    feature_names: Vec<String>,
    learner_model_param: FeatureCount,
}

#[derive(Deserialize)]
struct FeatureCount {
    num_feature: String,
}

impl NamesLearner {
    /// The names: one for each feature, or none where there are none or such as no table has, which may be of any length and appear
    /// twice.
    pub(super) fn names(self) -> Result<Vec<String>, CheckError> {
        let names = self.feature_names;
        if names.is_empty() {
            return Ok(names);
        }
        let features: usize = number(&self.learner_model_param.num_feature, "num_feature")?;
        if names.len() != features {
            return Err(format!("{} names of features: expected {features}", names.len()).into());
        }
        let mut known = HashSet::new();
        let are_of_use =
            names.iter().all(|name| (1..=NAME_MAX_BYTES).contains(&name.len()) && known.insert(name));
        Ok(if are_of_use { names } else { Vec::new() })
    }
}

/// Reads names, and stops where there are more than a model may have features.
fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct NamesVisitor;

    impl<'de> Visitor<'de> for NamesVisitor {
        type Value = Vec<String>;

        fn expecting(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("a list of names")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut names = Vec::new();
            while let Some(name) = list.next_element()? {
                if names.len() == FEATURES_MAX {
                    return Err(de::Error::custom(format!("more than {FEATURES_MAX} names of features")));
                }
                names.push(name);
            }
            Ok(names)
        }
    }

    deserializer.deserialize_seq(NamesVisitor)
}
