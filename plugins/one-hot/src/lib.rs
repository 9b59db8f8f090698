//! Encodes categories as one column of zeros and ones each.
//!
//! Config `columns` names the columns to encode: text or integers, one a row. Learns their categories, sorted, and
//! replaces each column by one of the same name, FP32, with an element for each category. Other columns pass unchanged.
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used))]

mod categories;

use mlops_plugin::{Batch, Error, Instances, Tensor, Transformer};
use serde::{Deserialize, Serialize};

pub use categories::Categories;

/// What the user configures.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Columns to encode.
    pub columns: Vec<String>,
    /// Largest number of categories of a column; more of them are an error in `fit`.
    #[serde(default = "default_max_categories")]
    pub max_categories: usize,
    /// What a category that `fit` did not see becomes.
    #[serde(default)]
    pub unknown: Unknown,
}

/// What a category that `fit` did not see becomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// Zeros.
    #[default]
    Ignore,
    /// An error.
    Error,
}

fn default_max_categories() -> usize {
    256
}

/// A column and its categories.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    name: String,
    categories: Categories,
}

/// The transformer.
#[derive(Debug)]
pub struct OneHot {
    config: Config,
    /// In the order of the config; empty before the first row was seen.
    columns: Vec<Column>,
}

impl Transformer for OneHot {
    type Config = Config;
    type State = Vec<Column>;
    const NEEDS_FIT: bool = true;
    const ROWS_INDEPENDENT: bool = true;
    const INSTANCES: Instances = Instances::Pooled;
    const CONFIG_SCHEMA: &str = r#"{
        "type": "object",
        "additionalProperties": false,
        "required": ["columns"],
        "properties": {
            "columns": {
                "type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": true,
                "description": "Columns to encode"
            },
            "max_categories": {
                "type": "integer", "minimum": 1, "default": 256,
                "description": "Largest number of categories of a column"
            },
            "unknown": {
                "enum": ["ignore", "error"], "default": "ignore",
                "description": "What a category becomes that training did not have: zeros or an error"
            }
        }
    }"#;

    fn open(config: Config, state: Option<Vec<Column>>) -> Result<Self, Error> {
        if config.columns.is_empty() {
            return Err(Error::invalid_config("`columns`: expected at least one name"));
        }
        let mut sorted: Vec<_> = config.columns.iter().collect();
        sorted.sort_unstable();
        if let Some([name, _]) = sorted.array_windows().find(|[one, other]| one == other) {
            return Err(Error::invalid_config(format!("`columns`: `{name}` appears twice")));
        }
        if config.max_categories == 0 {
            return Err(Error::invalid_config("`max_categories`: expected at least 1, found 0"));
        }
        let columns = state.unwrap_or_default();
        if !columns.is_empty() && !columns.iter().map(|column| &column.name).eq(&config.columns) {
            return Err(Error::invalid_state("expected the columns of the config"));
        }
        if columns.iter().any(|column| !column.categories.are_sorted()) {
            return Err(Error::invalid_state("expected sorted categories"));
        }
        Ok(Self { config, columns })
    }

    fn fit(&mut self, batch: Batch) -> Result<(), Error> {
        if batch.rows() == 0 {
            return Ok(());
        }
        let mut columns = Vec::with_capacity(self.config.columns.len());
        for (index, name) in self.config.columns.iter().enumerate() {
            let tensor = single(batch.column(name)?)?;
            let known = self.columns.get(index).map(|column| &column.categories);
            let categories = Categories::learn(known, tensor, self.config.max_categories)?;
            columns.push(Column { name: name.clone(), categories });
        }
        // Only now, so that a batch that is refused halfway teaches nothing.
        self.columns = columns;
        Ok(())
    }

    fn state(&self) -> Result<Vec<Column>, Error> {
        if self.columns.is_empty() { Err(Error::NotFitted) } else { Ok(self.columns.clone()) }
    }

    fn transform(&self, mut batch: Batch) -> Result<Batch, Error> {
        if self.columns.is_empty() {
            return Err(Error::NotFitted);
        }
        let mut encoded = Vec::with_capacity(batch.columns().len());
        for Column { name, categories } in &self.columns {
            let tensor = batch.take(name)?;
            let hot = categories.find(single(&tensor)?, self.config.unknown)?;
            encoded.push(one_hot(name, &hot, categories.len())?);
        }
        encoded.extend(batch.into_columns());
        Batch::new(encoded)
    }
}

mlops_plugin::export_transformer!(OneHot);

/// `tensor`, if it has one element a row.
fn single(tensor: &Tensor) -> Result<&Tensor, Error> {
    match tensor.row_elements() {
        1 => Ok(tensor),
        found => {
            Err(Error::invalid_input(format!("expected one element a row, found {found}"))
                .column(tensor.name()))
        }
    }
}

/// A column with a one where `hot` says, if anywhere, in each row of `width` elements.
fn one_hot(name: &str, hot: &[Option<usize>], width: usize) -> Result<Tensor, Error> {
    let mut values = vec![0.0_f32; hot.len() * width];
    for (row, hot) in values.chunks_exact_mut(width.max(1)).zip(hot) {
        if let Some(element) = hot.and_then(|index| row.get_mut(index)) {
            *element = 1.0;
        }
    }
    Tensor::from_values(name, [hot.len(), width], values)
}

#[cfg(test)]
mod tests {
    use mlops_plugin::{DataType, testing};

    use super::*;

    const COLOURS: &str = r#"{"columns": ["colour"]}"#;

    fn colours(values: &[&str]) -> Batch {
        Batch::new([Tensor::from_strings("colour", [values.len()], values).unwrap()]).unwrap()
    }

    fn sizes(values: &[i16]) -> Batch {
        Batch::new([Tensor::from_values("size", [values.len(), 1], values.to_vec()).unwrap()]).unwrap()
    }

    fn fitted(config: &str, batches: &[Batch]) -> OneHot {
        let state = testing::fit_transformer::<OneHot>(config, batches.to_vec()).unwrap();
        testing::open_transformer(config, Some(&state)).unwrap()
    }

    fn encoded(one_hot: &OneHot, batch: Batch, name: &str) -> (Vec<usize>, Vec<f32>) {
        let answer = testing::transform(one_hot, batch).unwrap();
        let column = answer.column(name).unwrap();
        (column.shape().to_vec(), column.as_f32().unwrap().to_vec())
    }

    #[test]
    fn categories_are_sorted_whatever_the_order_of_rows() {
        let one =
            testing::fit_transformer::<OneHot>(COLOURS, [colours(&["red", "blue"]), colours(&["", "red"])]);
        let other = testing::fit_transformer::<OneHot>(COLOURS, [colours(&["", "blue", "red"])]);
        assert_eq!(one, other);
        let expected = r#"[{"name":"colour","categories":{"text":["","blue","red"]}}]"#;
        assert_eq!(String::from_utf8(one.unwrap()).unwrap(), expected);
    }

    #[test]
    fn encodes_text_and_integers() {
        let one_hot = fitted(COLOURS, &[colours(&["red", "blue"])]);
        let expected = (vec![3, 2], vec![0.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(encoded(&one_hot, colours(&["red", "blue", "green"]), "colour"), expected);

        let one_hot = fitted(r#"{"columns": ["size"]}"#, &[sizes(&[40, -3])]);
        assert_eq!(encoded(&one_hot, sizes(&[-3, 40, 0]), "size").1, [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        let wide = Batch::new([Tensor::from_values("size", [1], [40_u64]).unwrap()]).unwrap();
        assert_eq!(encoded(&one_hot, wide, "size").1, [0.0, 1.0], "the width of an integer does not matter");
    }

    #[test]
    fn other_columns_pass_unchanged() {
        let one_hot = fitted(COLOURS, &[colours(&["red"])]);
        let other = Tensor::new("other", DataType::Fp16, [1, 2], vec![1, 2, 3, 4]).unwrap();
        let mut columns = colours(&["red"]).into_columns();
        columns.insert(0, other.clone());
        let answer = testing::transform(&one_hot, Batch::new(columns).unwrap()).unwrap();
        assert_eq!(*answer.column("other").unwrap(), other);
        assert_eq!(answer.columns().len(), 2);
    }

    #[test]
    fn unknown_categories_are_an_error_where_configured() {
        let config = r#"{"columns": ["colour"], "unknown": "error"}"#;
        let one_hot = fitted(config, &[colours(&["red"])]);
        let expected = Error::invalid_input("expected a category of the training data, found `blue`");
        let error = one_hot.transform(colours(&["red", "blue"])).unwrap_err();
        assert_eq!(error, expected.row(1).column("colour"));
    }

    #[test]
    fn refuses_more_categories_than_configured() {
        let config = r#"{"columns": ["colour"], "max_categories": 2}"#;
        let mut one_hot: OneHot = testing::open_transformer(config, None).unwrap();
        one_hot.fit(colours(&["red", "blue", "red"])).unwrap();
        let error = one_hot.fit(colours(&["red", "green"])).unwrap_err();
        let expected = Error::invalid_input("expected at most 2 categories, found `green` beyond them");
        assert_eq!(error, expected.row(1).column("colour"));
        assert_eq!(one_hot.columns[0].categories.len(), 2, "a refused batch teaches nothing");
    }

    #[test]
    fn zero_rows_teach_nothing() {
        assert_eq!(testing::fit_transformer::<OneHot>(COLOURS, [colours(&[])]), Err(Error::NotFitted));
        let unfitted: OneHot = testing::open_transformer(COLOURS, None).unwrap();
        assert_eq!(unfitted.transform(colours(&[])), Err(Error::NotFitted));
        let one_hot = fitted(COLOURS, &[colours(&["red", "blue"])]);
        assert_eq!(encoded(&one_hot, colours(&[]), "colour"), (vec![0, 2], vec![]));
    }

    #[test]
    fn refuses_columns_that_hold_no_categories() {
        let refusal = |tensor| {
            let mut one_hot: OneHot = testing::open_transformer(COLOURS, None).unwrap();
            one_hot.fit(Batch::new(vec![tensor]).unwrap()).unwrap_err().to_string()
        };
        let tensor = Tensor::from_values("colour", [1], [0.5_f32]).unwrap();
        assert_eq!(refusal(tensor), "column `colour`: expected BYTES or integers, found FP32");
        let tensor = Tensor::from_values("colour", [1, 2], [1, 2]).unwrap();
        assert_eq!(refusal(tensor), "column `colour`: expected one element a row, found 2");
        let tensor = Tensor::from_strings("colour", [1], [[0xff]]).unwrap();
        assert_eq!(refusal(tensor), "column `colour`, row 0: expected UTF-8 text, found other bytes");
        let tensor = Tensor::from_strings("color", [1], ["red"]).unwrap();
        assert_eq!(refusal(tensor), "column `colour`: expected a column `colour`, found `color`");
    }

    #[test]
    fn refuses_another_kind_of_category_than_in_training() {
        let one_hot = fitted(COLOURS, &[colours(&["red"])]);
        let number = Tensor::from_values("colour", [1], [1_u8]).unwrap();
        assert_eq!(
            one_hot.transform(Batch::new([number]).unwrap()).unwrap_err().to_string(),
            "column `colour`: expected BYTES, found UINT8"
        );
    }

    #[test]
    fn refuses_configs_and_states_that_cannot_be() {
        for (config, expected) in [
            ("{}", "missing field `columns`"),
            (r#"{"columns": []}"#, "`columns`: expected at least one name"),
            (r#"{"columns": ["a", "a"]}"#, "`columns`: `a` appears twice"),
            (r#"{"columns": ["a"], "max_categories": 0}"#, "`max_categories`: expected at least 1, found 0"),
            (
                r#"{"columns": ["a"], "unknown": "zero"}"#,
                "unknown variant `zero`, expected `ignore` or `error`",
            ),
        ] {
            let error = testing::open_transformer::<OneHot>(config, None).unwrap_err();
            let Error::InvalidConfig(message) = error else { panic!("{error:?}") };
            assert!(message.starts_with(expected), "{message}");
        }
        for state in [
            r#"[{"name": "size", "categories": {"integer": [1]}}]"#,
            r#"[{"name": "colour", "categories": {"integer": [2, 1]}}]"#,
            r#"[{"name": "colour", "categories": {"text": ["a", "a"]}}]"#,
            r#"[{"name": "colour", "categories": []}]"#,
        ] {
            let error = testing::open_transformer::<OneHot>(COLOURS, Some(state.as_bytes())).unwrap_err();
            assert!(matches!(error, Error::InvalidState(_)), "{state}: {error:?}");
        }
    }
}
