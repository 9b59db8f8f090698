//! Gives back what it gets, after some work. It counts the rows, and panics where one holds the byte 255: rows that were
//! sent with such a one must not suffer.

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
        assert!(batch.iter().all(|tensor| !tensor.data.contains(&255)), "a row holds 255");
        Ok(batch)
    }
}
