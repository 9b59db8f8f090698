//! Scales columns to zero mean and unit variance and joins them to one.
//!
//! Takes any number of numeric columns. Learns mean and standard deviation of each element of a row (of the population,
//! as scikit-learn does), and gives `features`, FP32: the columns in the order of the first batch that was fitted, each
//! value minus its mean over its deviation. A deviation of zero divides by one. NaN is skipped in `fit` and stays NaN.
//!
//! Config `columns` chooses columns and their order; other columns are then not passed on.
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used))]

mod moments;

use mlops_plugin::{Batch, Error, Instances, Tensor, Transformer};
use serde::{Deserialize, Serialize};

pub use moments::Moments;

/// What the user configures.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Columns to scale, in the order of the features; all columns where not given.
    #[serde(default)]
    pub columns: Option<Vec<String>>,
}

/// A column of the training data and what was learned about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    name: String,
    /// One for each element of a row.
    elements: Vec<Moments>,
}

/// The transformer.
#[derive(Debug)]
pub struct StandardScaler {
    config: Config,
    /// In the order of the features; empty before the first row was seen.
    columns: Vec<Column>,
}

impl Transformer for StandardScaler {
    type Config = Config;
    type State = Vec<Column>;
    const NEEDS_FIT: bool = true;
    const ROWS_INDEPENDENT: bool = true;
    const INSTANCES: Instances = Instances::Pooled;
    const CONFIG_SCHEMA: &str = r#"{
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "columns": {
                "type": ["array", "null"], "items": {"type": "string"}, "minItems": 1, "uniqueItems": true,
                "default": null, "description": "Columns to scale, in the order of the features; all by default"
            }
        }
    }"#;

    fn open(config: Config, state: Option<Vec<Column>>) -> Result<Self, Error> {
        if let Some(columns) = &config.columns {
            if columns.is_empty() {
                return Err(Error::invalid_config("`columns`: expected at least one name"));
            }
            let mut sorted: Vec<_> = columns.iter().collect();
            sorted.sort_unstable();
            if let Some([name, _]) = sorted.array_windows().find(|[one, other]| one == other) {
                return Err(Error::invalid_config(format!("`columns`: `{name}` appears twice")));
            }
        }
        let columns = state.unwrap_or_default();
        if columns.iter().any(|column| column.elements.is_empty()) {
            return Err(Error::invalid_state("expected at least one element of every column"));
        }
        if columns.iter().flat_map(|column| &column.elements).any(|moments| !moments.is_valid()) {
            return Err(Error::invalid_state("expected finite means and deviations"));
        }
        Ok(Self { config, columns })
    }

    fn fit(&mut self, batch: Batch) -> Result<(), Error> {
        if batch.rows() == 0 {
            return Ok(());
        }
        // A copy, so that a batch that is refused halfway teaches nothing.
        let mut columns = match self.columns.as_slice() {
            [] => self.empty_columns(&batch)?,
            columns => columns.to_vec(),
        };
        let tensors = self.select(&batch, &columns)?;
        for (column, tensor) in columns.iter_mut().zip(tensors) {
            for (row, values) in tensor.to_f64()?.chunks_exact(column.elements.len()).enumerate() {
                for (moments, &value) in column.elements.iter_mut().zip(values) {
                    if value.abs() > f64::from(f32::MAX) {
                        let message = format!("expected a number that FP32 can hold, found {value}");
                        return Err(Error::invalid_input(message).row(row).column(&column.name));
                    }
                    moments.add(value);
                }
            }
        }
        self.columns = columns;
        Ok(())
    }

    fn state(&self) -> Result<Vec<Column>, Error> {
        if self.columns.is_empty() { Err(Error::NotFitted) } else { Ok(self.columns.clone()) }
    }

    fn transform(&self, batch: Batch) -> Result<Batch, Error> {
        if self.columns.is_empty() {
            return Err(Error::NotFitted);
        }
        let tensors = self.select(&batch, &self.columns)?;
        let scaled: Vec<Vec<f32>> = self
            .columns
            .iter()
            .zip(tensors)
            .map(|(column, tensor)| column.scale(tensor))
            .collect::<Result<_, _>>()?;
        let width = self.columns.iter().map(|column| column.elements.len()).sum();
        let shape = [batch.rows(), width];
        let features = match scaled.as_slice() {
            [only] => Tensor::from_values("features", shape, only.iter().copied())?,
            columns => {
                let mut features = Vec::with_capacity(columns.iter().map(Vec::len).sum());
                for row in 0..batch.rows() {
                    for (column, values) in self.columns.iter().zip(columns) {
                        let width = column.elements.len();
                        features.extend_from_slice(
                            values.get(row * width..(row + 1) * width).unwrap_or_default(),
                        );
                    }
                }
                Tensor::from_values("features", shape, features)?
            }
        };
        Batch::new([features])
    }
}

mlops_plugin::export_transformer!(StandardScaler);

impl StandardScaler {
    /// The columns to learn, from the first batch that has rows.
    fn empty_columns(&self, batch: &Batch) -> Result<Vec<Column>, Error> {
        let tensors: Vec<&Tensor> = match &self.config.columns {
            Some(names) => names.iter().map(|name| batch.column(name)).collect::<Result<_, _>>()?,
            None => batch.columns().iter().collect(),
        };
        let empty = |tensor: &Tensor| match tensor.row_elements() {
            0 => {
                Err(Error::invalid_input("expected at least one element a row, found none")
                    .column(tensor.name()))
            }
            width => Ok(Column { name: tensor.name().to_owned(), elements: vec![Moments::default(); width] }),
        };
        tensors.into_iter().map(empty).collect()
    }

    /// The tensors of `columns` in their order, all there and as wide as they were.
    fn select<'a>(&self, batch: &'a Batch, columns: &[Column]) -> Result<Vec<&'a Tensor>, Error> {
        if self.config.columns.is_none() {
            batch.refuse_others(&columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>())?;
        }
        let tensor = |column: &Column| {
            let tensor = batch.column(&column.name)?;
            let (expected, found) = (column.elements.len(), tensor.row_elements());
            if expected == found {
                Ok(tensor)
            } else {
                let message = format!("expected {expected} elements a row, as in training, found {found}");
                Err(Error::invalid_input(message).column(&column.name))
            }
        };
        columns.iter().map(tensor).collect()
    }
}

impl Column {
    fn scale(&self, tensor: &Tensor) -> Result<Vec<f32>, Error> {
        let scales: Vec<(f64, f64)> = self.elements.iter().map(Moments::mean_and_deviation).collect();
        let values = tensor.to_f64()?;
        let mut scaled = Vec::with_capacity(values.len());
        for row in values.chunks_exact(scales.len()) {
            // In 64 bits until the last step, as the means are.
            scaled.extend(
                row.iter().zip(&scales).map(|(value, (mean, deviation))| ((value - mean) / deviation) as f32),
            );
        }
        Ok(scaled)
    }
}

#[cfg(test)]
mod tests {
    use mlops_plugin::testing;

    use super::*;

    fn batch(columns: &[(&str, &[usize], &[f64])]) -> Batch {
        let tensor = |&(name, shape, values): &(&str, &[usize], &[f64])| {
            Tensor::from_values(name, shape, values.to_vec())
        };
        Batch::new(columns.iter().map(|column| tensor(column).unwrap()).collect::<Vec<_>>()).unwrap()
    }

    fn fitted(config: &str, batches: &[Batch]) -> StandardScaler {
        let state = testing::fit_transformer::<StandardScaler>(config, batches.to_vec()).unwrap();
        testing::open_transformer(config, Some(&state)).unwrap()
    }

    fn features(scaler: &StandardScaler, batch: Batch) -> (Vec<usize>, Vec<f32>) {
        let answer = testing::transform(scaler, batch).unwrap();
        let features = answer.column("features").unwrap();
        (features.shape().to_vec(), features.as_f32().unwrap().to_vec())
    }

    #[test]
    fn joins_columns_in_the_order_of_fit() {
        let training = batch(&[("b", &[2], &[0.0, 4.0]), ("a", &[2, 2], &[1.0, 5.0, 3.0, 5.0])]);
        let scaler = fitted("{}", &[training]);
        let window = batch(&[("a", &[1, 2], &[4.0, 7.0]), ("b", &[1, 1], &[3.0])]);
        assert_eq!(features(&scaler, window), (vec![1, 3], vec![0.5, 2.0, 2.0]));
    }

    #[test]
    fn takes_the_columns_of_the_config() {
        let training = batch(&[("a", &[2], &[0.0, 4.0]), ("b", &[2], &[1.0, 3.0]), ("c", &[2], &[0.0, 0.0])]);
        let scaler = fitted(r#"{"columns": ["b", "a"]}"#, std::slice::from_ref(&training));
        assert_eq!(features(&scaler, training), (vec![2, 2], vec![-1.0, -1.0, 1.0, 1.0]));
        for (config, expected) in [
            (r#"{"columns": []}"#, "`columns`: expected at least one name"),
            (r#"{"columns": ["b", "a", "b"]}"#, "`columns`: `b` appears twice"),
        ] {
            let error = testing::open_transformer::<StandardScaler>(config, None).unwrap_err();
            assert_eq!(error, Error::invalid_config(expected));
        }
    }

    #[test]
    fn batches_do_not_change_what_is_learned() {
        let values: Vec<f64> = (0..60).map(|index| f64::from(index * 7919 % 101) / 3.0 + 1e6).collect();
        let whole = testing::fit_transformer::<StandardScaler>("{}", [batch(&[("x", &[30, 2], &values)])]);
        let pieces = values.chunks(6).map(|values| batch(&[("x", &[3, 2], values)]));
        assert_eq!(whole, testing::fit_transformer::<StandardScaler>("{}", pieces));
    }

    #[test]
    fn missing_values_are_skipped_and_stay_missing() {
        let training = batch(&[("x", &[3, 2], &[1.0, f64::NAN, f64::NAN, f64::NAN, 3.0, f64::NAN])]);
        let scaler = fitted("{}", &[training]);
        let (_, values) = features(&scaler, batch(&[("x", &[2, 2], &[3.0, 5.0, f64::NAN, f64::NAN])]));
        assert_eq!(values[..2], [1.0, 5.0], "an element that was never there passes unscaled");
        assert!(values[2..].iter().all(|value| value.is_nan()));
    }

    #[test]
    fn constants_divide_by_one() {
        let scaler = fitted("{}", &[batch(&[("x", &[3], &[0.1; 3])])]);
        assert_eq!(features(&scaler, batch(&[("x", &[2], &[0.1, 2.1])])).1, [0.0, 2.0]);
    }

    #[test]
    fn zero_rows_teach_nothing() {
        let empty = batch(&[("x", &[0, 2], &[])]);
        let error = testing::fit_transformer::<StandardScaler>("{}", [empty.clone()]).unwrap_err();
        assert_eq!(error, Error::NotFitted);
        let unfitted: StandardScaler = testing::open_transformer("{}", None).unwrap();
        assert_eq!(unfitted.transform(empty.clone()), Err(Error::NotFitted));
        let scaler = fitted("{}", &[empty.clone(), batch(&[("x", &[1, 2], &[1.0, 2.0])])]);
        assert_eq!(features(&scaler, empty), (vec![0, 2], vec![]));
    }

    #[test]
    fn names_the_column_that_differs_from_training() {
        let scaler = fitted("{}", &[batch(&[("x", &[1, 2], &[1.0, 2.0]), ("y", &[1], &[1.0])])]);
        let refusal =
            |columns: &[(&str, &[usize], &[f64])]| scaler.transform(batch(columns)).unwrap_err().to_string();
        assert_eq!(refusal(&[("x", &[1, 2], &[1.0, 2.0])]), "column `y`: expected a column `y`, found `x`");
        assert_eq!(
            refusal(&[("z", &[1], &[1.0])]),
            "column `z`: expected no other columns than `x`, `y`, found `z`"
        );
        assert_eq!(
            refusal(&[("x", &[1, 3], &[1.0; 3]), ("y", &[1], &[1.0])]),
            "column `x`: expected 2 elements a row, as in training, found 3"
        );
    }

    #[test]
    fn a_refused_batch_teaches_nothing() {
        let mut scaler: StandardScaler = testing::open_transformer("{}", None).unwrap();
        scaler.fit(batch(&[("x", &[1], &[1.0])])).unwrap();
        let before = scaler.state().unwrap();
        for (value, found) in [(f64::INFINITY, "inf"), (-1e39, "-1000000000000000000000000000000000000000")] {
            let error = scaler.fit(batch(&[("x", &[2], &[7.0, value])])).unwrap_err();
            let expected =
                Error::invalid_input(format!("expected a number that FP32 can hold, found {found}"));
            assert_eq!(error, expected.row(1).column("x"));
        }
        assert_eq!(scaler.state().unwrap(), before);
        let text = Batch::new([Tensor::from_strings("x", [1], ["1"]).unwrap()]).unwrap();
        assert_eq!(scaler.fit(text).unwrap_err().to_string(), "column `x`: expected numbers, found BYTES");
    }

    #[test]
    fn refuses_a_state_that_it_cannot_have_written() {
        for state in [
            r#"[{"name": "x", "elements": [{"count": 1, "mean": 0, "squares": -1}]}]"#,
            r#"[{"name": "x", "elements": []}]"#,
            r#"[{"name": "x"}]"#,
        ] {
            let error =
                testing::open_transformer::<StandardScaler>("{}", Some(state.as_bytes())).unwrap_err();
            assert!(matches!(error, Error::InvalidState(_)), "{state}: {error:?}");
        }
    }
}
