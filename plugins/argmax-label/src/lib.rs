//! Turns a model's scores into a label and its probability.
//!
//! Takes a column of FP32 scores, `scores` unless configured otherwise, with as many elements a row as there are
//! classes. Gives `label`, the class with the largest score (the first of equals), and `probability`, FP32, that score.
//! The label is the place of the class, INT64, or what `labels` has there: texts, or integers, which are INT64 too. A
//! single element a row is the probability of the second of two classes. Other columns are not passed on.
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used))]

use mlops_plugin::{Batch, Error, Instances, Tensor, Transformer};
use serde::Deserialize;

/// How far from 0 or 1 a probability may be rounded: ten trees of a forest, each with a tenth, make 1.0000001.
const ROUNDING: f32 = 1e-3;

/// What the user configures.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name of the column of scores.
    pub column: String,
    /// Labels of the classes in the order of the scores; the label is then one of these instead of an index.
    pub labels: Option<Labels>,
}

/// Labels of classes.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "`labels`: expected texts, or integers")]
pub enum Labels {
    /// Integers.
    Integers(Vec<i64>),
    /// Texts.
    Texts(Vec<String>),
}

impl Labels {
    fn len(&self) -> usize {
        match self {
            Self::Integers(labels) => labels.len(),
            Self::Texts(labels) => labels.len(),
        }
    }

    /// One that is there more than once.
    fn repeated(&self) -> Option<String> {
        fn find<T: Ord + ToString>(labels: &[T]) -> Option<String> {
            let mut sorted: Vec<_> = labels.iter().collect();
            sorted.sort_unstable();
            let found = sorted.array_windows().find(|[one, other]| one == other);
            found.map(|[label, _]| label.to_string())
        }
        match self {
            Self::Integers(labels) => find(labels),
            Self::Texts(labels) => find(labels),
        }
    }

    /// The column `label` of these classes.
    fn column(&self, classes: impl ExactSizeIterator<Item = usize>) -> Result<Tensor, Error> {
        let rows = classes.len();
        match self {
            Self::Integers(labels) => {
                let values = classes.filter_map(|class| labels.get(class).copied());
                Tensor::from_values("label", [rows], values)
            }
            Self::Texts(labels) => {
                Tensor::from_strings("label", [rows], classes.filter_map(|class| labels.get(class)))
            }
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self { column: "scores".to_owned(), labels: None }
    }
}

/// The transformer.
#[derive(Debug)]
pub struct ArgmaxLabel {
    config: Config,
}

impl Transformer for ArgmaxLabel {
    type Config = Config;
    type State = ();
    const ROWS_INDEPENDENT: bool = true;
    const INSTANCES: Instances = Instances::Pooled;
    const CONFIG_SCHEMA: &str = r#"{
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "column": {"type": "string", "default": "scores", "description": "Name of the column of scores"},
            "labels": {
                "type": ["array", "null"], "items": {"type": ["string", "integer"]}, "minItems": 2, "default": null,
                "description": "Labels of the classes in the order of the scores, all texts or all integers"
            }
        }
    }"#;

    fn open(config: Config, _state: Option<()>) -> Result<Self, Error> {
        match &config.labels {
            Some(labels) if labels.len() < 2 => {
                Err(Error::invalid_config(format!("`labels`: expected at least 2, found {}", labels.len())))
            }
            Some(labels) => match labels.repeated() {
                Some(label) => Err(Error::invalid_config(format!("`labels`: `{label}` appears twice"))),
                None => Ok(Self { config }),
            },
            None => Ok(Self { config }),
        }
    }

    fn transform(&self, batch: Batch) -> Result<Batch, Error> {
        let column = batch.column(&self.config.column)?;
        let scores = column.as_f32()?;
        let rows = column.rows();
        let choices: Vec<(usize, f32)> = match column.row_shape() {
            [] | [1] => scores.iter().enumerate().map(|(row, &score)| binary(row, score)).collect(),
            &[classes] if classes > 1 => {
                let rows = scores.chunks_exact(classes).enumerate();
                rows.map(|(row, scores)| argmax(row, scores)).collect()
            }
            shape => {
                Err(Error::invalid_input(format!("expected a score for each class, found rows of {shape:?}")))
            }
        }
        .map_err(|error: Error| error.column(column.name()))?;

        let label = match &self.config.labels {
            None => Tensor::from_values("label", [rows], choices.iter().map(|&(class, _)| class as i64))?,
            Some(labels) => {
                let classes = column.row_elements().max(2);
                if labels.len() != classes {
                    let count = labels.len();
                    return Err(Error::invalid_config(format!(
                        "`labels`: expected {classes}, found {count}"
                    )));
                }
                labels.column(choices.iter().map(|&(class, _)| class))?
            }
        };
        let probability =
            Tensor::from_values("probability", [rows], choices.iter().map(|&(_, score)| score))?;
        Batch::new([label, probability])
    }
}

mlops_plugin::export_transformer!(ArgmaxLabel);

/// Class and probability where the score is the probability of the second of two classes.
fn binary(row: usize, score: f32) -> Result<(usize, f32), Error> {
    match probability(score) {
        Some(score) if score > 0.5 => Ok((1, score)),
        Some(score) => Ok((0, 1.0 - score)),
        None => {
            Err(Error::invalid_input(format!("expected a probability from 0 to 1, found {score}")).row(row))
        }
    }
}

/// Class and value of the largest probability, the first of equals.
fn argmax(row: usize, scores: &[f32]) -> Result<(usize, f32), Error> {
    let mut best = (0, f32::NEG_INFINITY);
    for (class, &score) in scores.iter().enumerate() {
        if probability(score).is_none() {
            let message = format!("expected a probability from 0 to 1 for class {class}, found {score}");
            return Err(Error::invalid_input(message).row(row));
        }
        if score > best.1 {
            best = (class, score);
        }
    }
    Ok((best.0, best.1.clamp(0.0, 1.0)))
}

/// A score as a probability: of one that is rounded to a bit more than 1 or less than 0, that.
fn probability(score: f32) -> Option<f32> {
    (-ROUNDING..=1.0 + ROUNDING).contains(&score).then_some(score.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use mlops_plugin::testing;

    use super::*;

    fn scores(shape: &[usize], values: &[f32]) -> Batch {
        Batch::new([Tensor::from_values("scores", shape, values.to_vec()).unwrap()]).unwrap()
    }

    fn transform(config: &str, batch: Batch) -> Result<Batch, Error> {
        testing::transform(&testing::open_transformer::<ArgmaxLabel>(config, None)?, batch)
    }

    fn columns(batch: &Batch) -> (Vec<i64>, Vec<f32>) {
        let label = batch.column("label").unwrap().values::<i64>().unwrap().to_vec();
        (label, batch.column("probability").unwrap().as_f32().unwrap().to_vec())
    }

    #[test]
    fn first_of_equal_maxima_wins() {
        let batch = scores(&[3, 3], &[0.1, 0.7, 0.2, 0.4, 0.2, 0.4, 0.0, 1.0, 0.0]);
        assert_eq!(columns(&transform("{}", batch).unwrap()), (vec![1, 0, 1], vec![0.7, 0.4, 1.0]));
        let lowest = scores(&[1, 2], &[0.0; 2]);
        assert_eq!(columns(&transform("{}", lowest).unwrap()), (vec![0], vec![0.0]));
    }

    #[test]
    fn one_score_is_the_probability_of_the_second_class() {
        for shape in [&[4, 1][..], &[4]] {
            let answer = transform("{}", scores(shape, &[0.0, 0.5, 0.75, 1.0])).unwrap();
            assert_eq!(columns(&answer), (vec![0, 0, 1, 1], vec![1.0, 0.5, 0.75, 1.0]));
        }
        for (score, found) in [(-0.1, "-0.1"), (1.5, "1.5"), (f32::NAN, "NaN")] {
            let error = transform("{}", scores(&[2, 1], &[0.5, score])).unwrap_err();
            let expected = Error::invalid_input(format!("expected a probability from 0 to 1, found {found}"));
            assert_eq!(error, expected.row(1).column("scores"));
        }
    }

    #[test]
    fn what_is_rounded_beyond_one_or_zero_is_that() {
        let batch = scores(&[2, 2], &[1.000_000_1, 0.0, -1e-7, 1.000_5]);
        assert_eq!(columns(&transform("{}", batch).unwrap()), (vec![0, 1], vec![1.0, 1.0]));
        let beyond = scores(&[1, 2], &[1.0, 1.000_5]);
        assert_eq!(
            columns(&transform("{}", beyond).unwrap()),
            (vec![1], vec![1.0]),
            "as the model orders them"
        );
        let answer = transform("{}", scores(&[2], &[1.000_000_1, -1e-7])).unwrap();
        assert_eq!(columns(&answer), (vec![1, 0], vec![1.0, 1.0]));
    }

    #[test]
    fn labels_are_text_where_configured() {
        let config = r#"{"labels": ["cat", "dog"], "column": "scores"}"#;
        for batch in [scores(&[2, 2], &[0.1, 0.9, 0.9, 0.1]), scores(&[2], &[0.9, 0.1])] {
            let answer = transform(config, batch).unwrap();
            let label: Vec<_> = answer.column("label").unwrap().byte_strings().unwrap().collect();
            assert_eq!(label, [b"dog", b"cat"]);
        }
        let error = transform(config, scores(&[1, 3], &[0.0; 3])).unwrap_err();
        assert_eq!(error, Error::invalid_config("`labels`: expected 3, found 2"));
        let error = transform(r#"{"labels": ["cat"]}"#, scores(&[0], &[])).unwrap_err();
        assert_eq!(error, Error::invalid_config("`labels`: expected at least 2, found 1"));
        let error = transform(r#"{"labels": ["a", "b", "a"]}"#, scores(&[0, 3], &[])).unwrap_err();
        assert_eq!(error, Error::invalid_config("`labels`: `a` appears twice"));
    }

    #[test]
    fn labels_are_integers_where_configured() {
        let config = r#"{"labels": [-3, 9007199254740993]}"#;
        let answer = transform(config, scores(&[2, 2], &[0.1, 0.9, 0.9, 0.1])).unwrap();
        assert_eq!(columns(&answer), (vec![9_007_199_254_740_993, -3], vec![0.9, 0.9]));
        assert_eq!(columns(&transform(config, scores(&[0, 2], &[])).unwrap()), (vec![], vec![]));
        let error = transform(r#"{"labels": [1, 2, 1]}"#, scores(&[0, 3], &[])).unwrap_err();
        assert_eq!(error, Error::invalid_config("`labels`: `1` appears twice"));
        for labels in [r#"[1, "b"]"#, "[1.5, 2]", "[1, 9223372036854775808]", "3"] {
            let error = transform(&format!(r#"{{"labels": {labels}}}"#), scores(&[0, 2], &[])).unwrap_err();
            assert!(
                matches!(&error, Error::InvalidConfig(text) if text.contains("expected texts, or integers"))
            );
        }
    }

    #[test]
    fn names_row_and_class_of_what_is_no_probability() {
        for (score, found) in [(f32::NAN, "NaN"), (3.5, "3.5"), (-0.9, "-0.9"), (f32::INFINITY, "inf")] {
            let error = transform("{}", scores(&[2, 2], &[0.1, 0.9, 0.9, score])).unwrap_err();
            let message = format!("expected a probability from 0 to 1 for class 1, found {found}");
            assert_eq!(error, Error::invalid_input(message).row(1).column("scores"));
        }
    }

    #[test]
    fn zero_rows_give_zero_rows() {
        let answer = transform("{}", scores(&[0, 10], &[])).unwrap();
        assert_eq!(columns(&answer), (vec![], vec![]));
    }

    #[test]
    fn refuses_what_are_no_scores() {
        let refusal = |batch| transform("{}", batch).unwrap_err().to_string();
        assert_eq!(
            refusal(scores(&[1, 2, 2], &[0.0; 4])),
            "column `scores`: expected a score for each class, found rows of [2, 2]"
        );
        assert_eq!(
            refusal(scores(&[2, 0], &[])),
            "column `scores`: expected a score for each class, found rows of [0]"
        );
        let wide = Tensor::from_values("scores", [1, 2], [0.0_f64; 2]).unwrap();
        assert_eq!(refusal(Batch::new([wide]).unwrap()), "column `scores`: expected FP32, found FP64");
        let error = transform(r#"{"colum": "x"}"#, scores(&[1], &[0.0])).unwrap_err();
        assert!(
            matches!(error, Error::InvalidConfig(message) if message.starts_with("unknown field `colum`"))
        );
    }
}
