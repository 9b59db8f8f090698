//! Gives back what it gets, after some work. It counts the rows, and panics where one holds the byte 255, or calls its column
//! otherwise where one holds a large number: rows that were sent with such a one must not suffer.

use std::hint::black_box;

use contract::types::{Error, Tensor};
use contract::{GuestTransformer, Manifest, Transformer, manifest, metrics};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Picky {
    /// Rounds of a loop that does nothing, in each call; a million take some milliseconds.
    #[serde(default)]
    work: u64,
    /// The number of FP32 above which the columns are called otherwise, and 255 is a byte like any other.
    renames_above: Option<f32>,
    /// What it does with no rows.
    #[serde(default)]
    no_rows: NoRows,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NoRows {
    /// Gives them back.
    #[default]
    Same,
    /// Gives back columns of one element a row.
    Flat,
    /// Refuses them.
    Refused,
}

contract::export_plugin!(Picky, Manifest { rows_independent: true, ..manifest("picky") });

impl GuestTransformer for Picky {
    fn open(config: String, _state: Option<Vec<u8>>) -> Result<Transformer, Error> {
        let this: Self =
            serde_json::from_str(&config).map_err(|error| Error::InvalidConfig(error.to_string()))?;
        Ok(Transformer::new(this))
    }

    fn fit(&self, _batch: Vec<Tensor>) -> Result<(), Error> {
        Ok(())
    }

    fn state(&self) -> Result<Vec<u8>, Error> {
        Err(Error::NotFitted)
    }

    fn transform(&self, batch: Vec<Tensor>) -> Result<Vec<Tensor>, Error> {
        for round in 0..self.work {
            black_box(round);
        }
        let rows = batch.first().and_then(|tensor| tensor.shape.first().copied()).unwrap_or_default();
        metrics::counter_add("rows_seen", rows as f64, &[]);
        match self.no_rows {
            NoRows::Flat if rows == 0 => return Ok(batch.into_iter().map(flat).collect()),
            NoRows::Refused if rows == 0 => {
                return Err(Error::InvalidConfig("expected at least one row".to_owned()));
            }
            _ => {}
        }
        let Some(most) = self.renames_above else {
            assert!(batch.iter().all(|tensor| !tensor.data.contains(&255)), "a row holds 255");
            return Ok(batch);
        };
        let is_above = |number: &[u8]| number.try_into().is_ok_and(|bytes| f32::from_le_bytes(bytes) > most);
        match batch.iter().any(|tensor| tensor.data.chunks_exact(4).any(is_above)) {
            true => Ok(batch.into_iter().map(renamed).collect()),
            false => Ok(batch),
        }
    }
}

/// The column under a name that would be two lines.
fn renamed(tensor: Tensor) -> Tensor {
    Tensor { name: format!("{}\r\nforged", tensor.name), ..tensor }
}

/// The column without rows, of one element a row.
fn flat(tensor: Tensor) -> Tensor {
    Tensor { shape: vec![0], ..tensor }
}
