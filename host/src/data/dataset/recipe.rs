use serde::{Deserialize, Serialize};

use crate::domain::{Digest, mix};

/// How the rows of a version were made of those of its first parent, in this order.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// Conditions that all rows fulfil.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<String>,
    /// Rows that were kept at most: of each split, or of all where they were split anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// How rows were split anew; none where they kept their splits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitRule>,
    /// Columns that were kept; none where all were.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub select: Vec<String>,
    /// The column that no transformer saw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Transformers, one after another.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub transformers: Vec<AppliedTransformer>,
}

/// How rows are split into `train` and `test`: by a hash of their place among the rows that there were.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitRule {
    /// About this part of the rows is for testing; between 0 and 1.
    pub test: f64,
    /// Chooses which.
    pub seed: u64,
}

/// A transformer that made columns of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppliedTransformer {
    /// The plugin's name.
    pub name: String,
    /// The plugin's version.
    pub version: String,
    /// The bytes of the component.
    pub component: Digest,
    /// Its config.
    pub config: serde_json::Value,
    /// What it had learned of the split `train`; none if it learns nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub state: Option<Digest>,
}

impl SplitRule {
    /// Whether the row in this place is for testing.
    pub fn is_test(&self, place: u64) -> bool {
        // The upper 53 bits as a number from 0 to 1, as floats can hold them.
        let share = (mix(place ^ mix(self.seed)) >> 11) as f64 / (1_u64 << f64::MANTISSA_DIGITS) as f64;
        share < self.test
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_has_its_share_and_depends_on_the_seed() {
        let places = |test, seed| -> Vec<u64> {
            let rule = SplitRule { test, seed };
            (0..10_000).filter(|place| rule.is_test(*place)).collect()
        };
        for (test, expected) in [(0.2, 1_850..2_150), (0.5, 4_800..5_200), (0.01, 60..140)] {
            assert!(expected.contains(&places(test, 7).len()), "{test}");
            let both = places(test, 7).iter().filter(|place| places(test, 8).contains(place)).count();
            assert!((both as f64) < expected.end as f64 * (test + 0.1), "{test}: {both}");
        }
        assert_eq!(places(0.2, 7), places(0.2, 7));
        assert!(places(0.2, 7).iter().all(|place| places(0.3, 7).contains(place)));
    }
}
