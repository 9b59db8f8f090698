//! Detects drift by the population stability index (PSI).
//!
//! Takes numeric columns. A column is divided into groups: a scalar is one, each of up to 64 elements a row is its own,
//! and more elements are regions of an image or runs, whose value is the mean of their members in a row. `fit` collects
//! the reference's values of each group and divides them into bins by their quantiles; `score` compares how a window
//! fills the same bins:
//!
//! > PSI = Σ (q − p) · ln(q / p), with p and q the shares of a bin in reference and window
//!
//! PSI above 0.25 is drift and above 0.1 worth a look by old convention, but small windows reach both by chance. The
//! thresholds are therefore never below what chance explains; see [`chance`].
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used))]

mod bins;
pub mod chance;
mod groups;

use std::cell::OnceCell;

use mlops_plugin::{Batch, Detector, Error, Instances, Limits, Score, Tensor, Verdict};
use serde::{Deserialize, Serialize};

pub use bins::Bins;
pub use groups::Group;

/// Rows of a reference; enough for any bin, and a bound on memory.
const REFERENCE_ROWS_MAX: usize = 65_536;

/// Rows below which a window says nothing: two a bin by default.
const WINDOW_ROWS_MIN: usize = 20;

/// What the user configures.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Number of bins that hold equal shares of the reference.
    pub bins: usize,
    /// Height and width of the regions of an image; a seventh of each side by default.
    pub block: Option<[usize; 2]>,
    /// Height and width of images; by default the shape of a row if that has two dimensions, or else a square.
    pub image: Option<[usize; 2]>,
    /// PSI from which on a group is worth a look.
    pub warning: f64,
    /// PSI from which on a group has drifted.
    pub drifted: f64,
    /// Probability that a window without drift is called drifted, over all of its groups.
    pub alpha: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { bins: 10, block: None, image: None, warning: 0.1, drifted: 0.25, alpha: 0.01 }
    }
}

/// What is learned of a reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    rows: usize,
    columns: Vec<Column>,
}

/// What is learned of a column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    name: String,
    row_elements: usize,
    groups: Vec<(Group, Bins)>,
}

/// The values of a column's groups, while the reference is read.
#[derive(Debug)]
struct Collected {
    name: String,
    row_elements: usize,
    groups: Vec<(Group, Vec<f64>)>,
}

/// The detector.
#[derive(Debug)]
pub struct Psi {
    config: Config,
    /// Values in the order of rows; empty before the first row, and where a state was opened.
    collected: Vec<Collected>,
    rows: usize,
    /// Made from what was collected when it is first needed, or opened.
    reference: OnceCell<Reference>,
    is_from_state: bool,
}

impl Detector for Psi {
    type Config = Config;
    type State = Reference;
    const INSTANCES: Instances = Instances::Pooled;
    // A reference of the largest size in about 300 groups.
    const LIMITS: Limits = Limits { memory_bytes_max: Some(256 << 20), ..Limits::DEFAULT };
    const CONFIG_SCHEMA: &str = r#"{
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "bins": {
                "type": "integer", "minimum": 2, "maximum": 100, "default": 10,
                "description": "Number of bins that hold equal shares of the reference"
            },
            "block": {
                "type": ["array", "null"], "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2,
                "default": null, "description": "Height and width of the regions of an image"
            },
            "image": {
                "type": ["array", "null"], "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2,
                "default": null, "description": "Height and width of images"
            },
            "warning": {
                "type": "number", "exclusiveMinimum": 0, "default": 0.1,
                "description": "PSI from which on a group is worth a look"
            },
            "drifted": {
                "type": "number", "exclusiveMinimum": 0, "default": 0.25,
                "description": "PSI from which on a group has drifted; at least the warning"
            },
            "alpha": {
                "type": "number", "exclusiveMinimum": 0, "maximum": 0.5, "default": 0.01,
                "description": "Probability that a window without drift is called drifted"
            }
        }
    }"#;

    fn open(config: Config, state: Option<Reference>) -> Result<Self, Error> {
        check(&config)?;
        if let Some(reference) = &state {
            reference.check()?;
        }
        let is_from_state = state.is_some();
        let reference = state.map_or_else(OnceCell::new, OnceCell::from);
        Ok(Self { config, collected: Vec::new(), rows: 0, reference, is_from_state })
    }

    fn fit(&mut self, batch: Batch) -> Result<(), Error> {
        if self.is_from_state {
            return Err(Error::other(
                "a reference that was fitted cannot grow: fit all of it before `state`",
            ));
        }
        let rows = self.rows + batch.rows();
        if rows > REFERENCE_ROWS_MAX {
            let message = format!("expected a reference of at most {REFERENCE_ROWS_MAX} rows, found {rows}");
            return Err(Error::invalid_input(message));
        }
        if batch.rows() == 0 {
            return Ok(());
        }
        if self.collected.is_empty() {
            self.collected = self.plan(&batch)?;
        }
        let columns = self.collected.iter().map(|column| (column.name.as_str(), column.row_elements));
        let tensors = select(&batch, columns)?;
        // Widened first, so that a batch that is refused halfway teaches nothing.
        let values: Vec<_> = tensors.into_iter().map(Tensor::to_f64).collect::<Result<_, _>>()?;
        for (column, values) in self.collected.iter_mut().zip(values) {
            for (group, collected) in &mut column.groups {
                collected.extend(values.chunks_exact(column.row_elements).map(|row| group.value(row)));
            }
        }
        self.rows = rows;
        self.reference = OnceCell::new();
        Ok(())
    }

    fn state(&self) -> Result<Reference, Error> {
        self.reference().cloned()
    }

    fn score(&self, window: Batch) -> Result<Vec<Score>, Error> {
        let reference = self.reference()?;
        if window.rows() < WINDOW_ROWS_MIN {
            let found = window.rows();
            return Err(Error::invalid_input(format!(
                "expected at least {WINDOW_ROWS_MIN} rows, found {found}"
            )));
        }
        let columns = reference.columns.iter().map(|column| (column.name.as_str(), column.row_elements));
        let tensors = select(&window, columns)?;
        let groups = reference.columns.iter().map(|column| column.groups.len()).sum();
        let mut scores = Vec::with_capacity(groups);
        for (column, tensor) in reference.columns.iter().zip(tensors) {
            let values = tensor.to_f64()?;
            for (group, bins) in &column.groups {
                let divergence =
                    bins.compare(values.chunks_exact(column.row_elements).map(|row| group.value(row)));
                let chance = chance::psi_max(
                    reference.rows,
                    window.rows(),
                    divergence.bins_filled,
                    self.config.alpha / groups as f64,
                );
                scores.push(self.judge(group.name(&column.name), divergence.psi, chance));
            }
        }
        Ok(scores)
    }
}

mlops_plugin::export_detector!(Psi);

impl Psi {
    /// Divides the columns of the first batch into groups.
    fn plan(&self, batch: &Batch) -> Result<Vec<Collected>, Error> {
        let mut collected = Vec::with_capacity(batch.columns().len());
        let mut is_image_used = false;
        for tensor in batch.columns() {
            let row_elements = tensor.row_elements();
            if row_elements == 0 {
                let message = "expected at least one element a row, found none";
                return Err(Error::invalid_input(message).column(tensor.name()));
            }
            let image =
                self.config.image.filter(|[height, width]| height.checked_mul(*width) == Some(row_elements));
            is_image_used |= image.is_some();
            let groups = groups::divide(tensor.row_shape(), image, self.config.block);
            let groups = groups.into_iter().map(|group| (group, Vec::new())).collect();
            collected.push(Collected { name: tensor.name().to_owned(), row_elements, groups });
        }
        if let (Some([height, width]), false) = (self.config.image, is_image_used) {
            return Err(Error::invalid_config(format!(
                "`image`: no column has rows of {height} × {width} elements"
            )));
        }
        Ok(collected)
    }

    fn reference(&self) -> Result<&Reference, Error> {
        if self.rows == 0 && !self.is_from_state {
            return Err(Error::NotFitted);
        }
        let learn = |column: &Collected| {
            let bins = |(group, values): &(Group, Vec<f64>)| (*group, Bins::learn(values, self.config.bins));
            Column {
                name: column.name.clone(),
                row_elements: column.row_elements,
                groups: column.groups.iter().map(bins).collect(),
            }
        };
        Ok(self.reference.get_or_init(|| Reference {
            rows: self.rows,
            columns: self.collected.iter().map(learn).collect(),
        }))
    }

    /// The score of a group whose PSI is `value`, where `chance` explains as much.
    fn judge(&self, feature: String, value: f64, chance: f64) -> Score {
        let threshold = self.config.drifted.max(chance);
        let verdict = if value >= threshold {
            Verdict::Drifted
        } else if value >= self.config.warning.max(chance) {
            Verdict::Warning
        } else {
            Verdict::Stable
        };
        Score { feature, statistic: "psi".to_owned(), value, threshold, verdict }
    }
}

impl Reference {
    /// Whether `fit` could have learned this: what is read later must not be able to go wrong.
    fn check(&self) -> Result<(), Error> {
        let is_valid = |column: &Column| {
            let is_valid = |(group, bins): &(Group, Bins)| {
                group.fits(column.row_elements) && bins.rows() == Some(self.rows)
            };
            column.row_elements > 0 && column.groups.iter().all(is_valid)
        };
        if self.rows > 0 && self.rows <= REFERENCE_ROWS_MAX && self.columns.iter().all(is_valid) {
            Ok(())
        } else {
            Err(Error::invalid_state("expected groups and bins of one reference"))
        }
    }
}

fn check(config: &Config) -> Result<(), Error> {
    let refusal = |field: &str, expected: &str, found: &dyn std::fmt::Debug| {
        Err(Error::invalid_config(format!("`{field}`: expected {expected}, found {found:?}")))
    };
    let is_threshold = |value: f64| value.is_finite() && value > 0.0;
    if !(2..=100).contains(&config.bins) {
        return refusal("bins", "2 to 100", &config.bins);
    }
    for (field, sizes) in [("block", config.block), ("image", config.image)] {
        if let Some(sizes) = sizes.filter(|sizes| sizes.contains(&0)) {
            return refusal(field, "a height and a width of at least 1", &sizes);
        }
    }
    if !is_threshold(config.warning) {
        return refusal("warning", "a number above 0", &config.warning);
    }
    if !is_threshold(config.drifted) || config.drifted < config.warning {
        return refusal("drifted", "at least `warning`", &config.drifted);
    }
    if !(config.alpha > 0.0 && config.alpha <= 0.5) {
        return refusal("alpha", "a probability above 0, at most 0.5", &config.alpha);
    }
    Ok(())
}

/// The tensors of `columns`, each a name and the elements of a row, in their order and without others.
fn select<'a, 'b>(
    batch: &'a Batch,
    columns: impl Iterator<Item = (&'b str, usize)> + Clone,
) -> Result<Vec<&'a Tensor>, Error> {
    batch.refuse_others(&columns.clone().map(|(name, _)| name).collect::<Vec<_>>())?;
    let tensor = |(name, expected): (&str, usize)| {
        let tensor = batch.column(name)?;
        let found = tensor.row_elements();
        if found == expected {
            Ok(tensor)
        } else {
            let message = format!("expected {expected} elements a row, as in the reference, found {found}");
            Err(Error::invalid_input(message).column(name))
        }
    };
    columns.map(tensor).collect()
}

#[cfg(test)]
mod tests;
