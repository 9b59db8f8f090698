//! Rows with the answers that a bundle gave to them when it was made, so that whoever loads it can see that it still does.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{PredictionError, Predictor};
use crate::data::{self, JsonError, RowForm};
use crate::domain::{Batch, ColumnSpec};

/// Rows that a sample has at most.
const ROWS_MAX: usize = 8;

/// Rows among which they are looked for.
const ROWS_TRIED: usize = 256;

/// Largest sample that is kept: one that is larger would be a burden for every server that loads the bundle.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Requests and their answers, as `POST /serve/{endpoint}` takes and gives them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The rows, as objects.
    pub inputs: Vec<Value>,
    /// The answer to each.
    pub outputs: Vec<Value>,
}

/// A sample that cannot be read, or is answered otherwise.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// It is not what this program writes.
    #[error("its recorded sample cannot be read: {reason}")]
    Unreadable {
        /// What is wrong.
        reason: String,
    },
    /// A row cannot be answered.
    #[error("it cannot answer its recorded sample: {0}")]
    Prediction(#[from] PredictionError),
    /// The answer is another one.
    #[error("it answers row {row} of its recorded sample with {found}: expected {expected}")]
    Differs {
        /// The row, from 0.
        row: usize,
        /// What it answered.
        found: String,
        /// What it answered when it was made.
        expected: String,
    },
}

impl Sample {
    /// Has `predictor` answer the first of `rows` that JSON can hold as they are; none where it can hold none of them.
    pub async fn record(predictor: &Predictor, rows: &Batch) -> Result<Option<Self>, PredictionError> {
        let specs = &predictor.signature().inputs;
        let mut inputs = Vec::new();
        for row in 0..rows.rows().min(ROWS_TRIED) {
            if let Some(value) = rows.slice_rows(row..row + 1).and_then(|row| as_json(&row, specs)) {
                inputs.push(value);
            }
            if inputs.len() == ROWS_MAX {
                break;
            }
        }
        if inputs.is_empty() {
            return Ok(None);
        }
        let Ok(batch) = decoded(&inputs, specs) else { return Ok(None) };
        let outputs = predictor.predict(&batch).await?.outputs;
        Ok(rows_as_json(&outputs).map(|outputs| Self { inputs, outputs }))
    }

    /// Reads one that was recorded.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SampleError> {
        serde_json::from_slice(bytes).map_err(|error| SampleError::Unreadable { reason: error.to_string() })
    }

    /// What is recorded; none where it is too large to be carried along.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self).ok().filter(|bytes| bytes.len() <= MAX_BYTES)
    }

    /// Has `predictor` answer the rows, and compares; gives how many there are.
    pub async fn check(&self, predictor: &Predictor) -> Result<usize, SampleError> {
        let unreadable = |error: JsonError| SampleError::Unreadable { reason: error.to_string() };
        let batch = decoded(&self.inputs, &predictor.signature().inputs).map_err(unreadable)?;
        let outputs = predictor.predict(&batch).await?.outputs;
        let found = rows_as_json(&outputs).unwrap_or_default();
        let differing = self.outputs.iter().zip(&found).position(|(expected, found)| expected != found);
        let row =
            differing.or((self.outputs.len() != found.len()).then(|| self.outputs.len().min(found.len())));
        match row {
            None => Ok(found.len()),
            Some(row) => {
                let told =
                    |rows: &[Value]| rows.get(row).map_or_else(|| "nothing".to_owned(), Value::to_string);
                Err(SampleError::Differs { row, found: told(&found), expected: told(&self.outputs) })
            }
        }
    }
}

fn decoded(rows: &[Value], specs: &[ColumnSpec]) -> Result<Batch, JsonError> {
    let text = Value::Array(rows.to_vec()).to_string();
    Ok(data::decode_rows(text.as_bytes(), specs, rows.len())?.0)
}

/// A row as JSON, if that is the same row when it is read again.
fn as_json(row: &Batch, specs: &[ColumnSpec]) -> Option<Value> {
    let mut rows = rows_as_json(row)?;
    let again = decoded(&rows, specs).ok()?;
    (again == *row).then(|| rows.pop()).flatten()
}

fn rows_as_json(batch: &Batch) -> Option<Vec<Value>> {
    let text = data::encode_rows(batch, RowForm::List).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DataType, Tensor};

    fn spec(name: &str, dtype: DataType) -> ColumnSpec {
        ColumnSpec { name: name.to_owned(), dtype, shape: Vec::new(), nullable: false }
    }

    #[test]
    fn only_rows_that_json_can_hold_are_kept() {
        let specs = [spec("x", DataType::Fp32), spec("name", DataType::Bytes)];
        let row = |x: f32, name: &[u8]| {
            let name = Tensor::from_strings("name", [name]).unwrap();
            Batch::new(vec![Tensor::from_f32("x", vec![1], &[x]).unwrap(), name]).unwrap()
        };
        let kept = as_json(&row(0.1, "é".as_bytes()), &specs).unwrap();
        assert_eq!(kept, serde_json::json!({ "x": 0.1, "name": "é" }));
        assert_eq!(as_json(&row(f32::NAN, b"a"), &specs), None);
        assert_eq!(as_json(&row(0.1, b"\xff"), &specs), None);
        assert_eq!(decoded(&[kept], &specs).unwrap(), row(0.1, "é".as_bytes()));
    }

    #[test]
    fn what_is_no_sample_is_told() {
        for text in ["", "[]", "{\"inputs\": []}", "{\"inputs\": [], \"outputs\": [], \"more\": 1}"] {
            assert!(Sample::from_bytes(text.as_bytes()).is_err(), "{text}");
        }
    }
}
