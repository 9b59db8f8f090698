//! Rows with the answers that a bundle gave to them when it was made, so that whoever loads it can see that it still does.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{PredictionError, Predictor};
use crate::data::{self, JsonError, RowForm};
use crate::domain::{Batch, ColumnSpec, DataType};

/// Rows that a sample has at most.
const ROWS_MAX: usize = 8;

/// Rows among which they are looked for.
const ROWS_TRIED: usize = 256;

/// How far apart numbers may be that are rounded otherwise: of 1 and less as they are, of larger ones as a share.
const ROUNDING: f64 = 1e-4;

/// Rows that are made up where there are none.
const MADE_UP_ROWS: usize = 4;

/// Numbers in one of them at most.
const MADE_UP_ELEMENTS_MAX: usize = 1 << 16;

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

    /// Has `predictor` answer rows of small numbers; none where it takes no such rows, or too large ones.
    pub async fn of_made_up_rows(predictor: &Predictor) -> Option<Self> {
        let specs = &predictor.signature().inputs;
        if specs.iter().any(|spec| spec.dtype == DataType::Bytes) {
            return None;
        }
        Self::record(predictor, &made_up_rows(specs, MADE_UP_ROWS)?).await.ok()?
    }

    /// Has `predictor` answer a row of zeros and empty strings; none where it refuses that, as what decodes images does, or
    /// takes too large ones.
    pub async fn of_zeros(predictor: &Predictor) -> Option<Self> {
        Self::record(predictor, &made_up_rows(&predictor.signature().inputs, 1)?).await.ok()?
    }

    /// A row and the answer to it.
    pub fn into_first(self) -> Option<(Value, Value)> {
        self.inputs.into_iter().next().zip(self.outputs.into_iter().next())
    }

    /// Reads one that was recorded.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SampleError> {
        serde_json::from_slice(bytes).map_err(|error| SampleError::Unreadable { reason: error.to_string() })
    }

    /// What is recorded; none where it is too large to be carried along.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self).ok().filter(|bytes| bytes.len() <= MAX_BYTES)
    }

    /// Has `predictor` answer the rows, and compares; gives how many there are, and whether all are the same bits.
    ///
    /// Other bits are other answers, except of a model that another library evaluates: of that a newer version or another
    /// processor may round otherwise, within [`ROUNDING`].
    pub async fn check(&self, predictor: &Predictor) -> Result<(usize, bool), SampleError> {
        let unreadable = |error: JsonError| SampleError::Unreadable { reason: error.to_string() };
        let batch = decoded(&self.inputs, &predictor.signature().inputs).map_err(unreadable)?;
        let outputs = predictor.predict(&batch).await?.outputs;
        let found = rows_as_json(&outputs).unwrap_or_default();
        let differing = self.outputs.iter().zip(&found).position(|(expected, found)| expected != found);
        let row =
            differing.or((self.outputs.len() != found.len()).then(|| self.outputs.len().min(found.len())));
        match row {
            None => Ok((found.len(), true)),
            Some(_) if predictor.may_round() && nearly(&self.outputs, &found) => Ok((found.len(), false)),
            Some(row) => {
                let told =
                    |rows: &[Value]| rows.get(row).map_or_else(|| "nothing".to_owned(), Value::to_string);
                Err(SampleError::Differs { row, found: told(&found), expected: told(&self.outputs) })
            }
        }
    }

    /// How long `predictor` takes for one of the rows, which it has answered before, so that nothing is made for the first time; none
    /// where it does not answer it.
    pub async fn time_of_row(&self, predictor: &Predictor) -> Option<Duration> {
        let row = decoded(self.inputs.get(..1)?, &predictor.signature().inputs).ok()?;
        let begun = Instant::now();
        predictor.predict(&row).await.ok()?;
        Some(begun.elapsed())
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

fn nearly(expected: &[Value], found: &[Value]) -> bool {
    expected.len() == found.len()
        && expected.iter().zip(found).all(|(expected, found)| match (expected, found) {
            (Value::Array(expected), Value::Array(found)) => nearly(expected, found),
            (Value::Object(expected), Value::Object(found)) => {
                let of = |object: &Map<String, Value>| object.values().cloned().collect::<Vec<_>>();
                expected.keys().eq(found.keys()) && nearly(&of(expected), &of(found))
            }
            (Value::Number(expected), Value::Number(found)) => {
                let (expected, found) = (expected.as_f64(), found.as_f64());
                expected.zip(found).is_some_and(|(expected, found)| {
                    (expected - found).abs() <= ROUNDING * expected.abs().max(1.0)
                })
            }
            (expected, found) => expected == found,
        })
}

/// Rows for these columns, of which the first is all zeros; none where they are too large.
fn made_up_rows(specs: &[ColumnSpec], count: usize) -> Option<Batch> {
    // Lists of nothing count too, of which there may be many.
    let counted = |spec: &ColumnSpec| {
        spec.shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size.max(1)))
    };
    let elements = specs.iter().try_fold(0_usize, |sum, spec| sum.checked_add(counted(spec)?))?;
    if elements > MADE_UP_ELEMENTS_MAX {
        return None;
    }
    let row = |row: usize| -> Value {
        let column = |spec: &ColumnSpec| made_up(spec.dtype, &spec.shape, &mut (row, 0));
        specs.iter().map(|spec| (spec.name.clone(), column(spec))).collect()
    };
    let rows: Vec<Value> = (0..count).map(row).collect();
    decoded(&rows, specs).ok().filter(|batch| batch.rows() == count)
}

/// Numbers from 0 to 10 that every type holds, or empty strings, in a shape; `place` counts the row and the elements so far.
fn made_up(dtype: DataType, shape: &[usize], place: &mut (usize, usize)) -> Value {
    if let Some((&size, inner)) = shape.split_first() {
        return (0..size).map(|_| made_up(dtype, inner, place)).collect();
    }
    place.1 += 1;
    // The first row is all zeros, the others are unlike each other.
    let number = place.0 * (place.1 * 7 + place.0) % 11;
    match dtype {
        DataType::Bool => Value::from(number % 2 == 1),
        DataType::Bytes => Value::from(""),
        _ => Value::from(number),
    }
}

fn rows_as_json(batch: &Batch) -> Option<Vec<Value>> {
    let text = data::encode_rows(batch, RowForm::List).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Tensor;

    fn spec(name: &str, dtype: DataType) -> ColumnSpec {
        ColumnSpec {
            name: name.to_owned(),
            dtype,
            shape: Vec::new(),
            nullable: false,
            element_names: Vec::new(),
        }
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
    fn only_numbers_may_be_rounded_otherwise() {
        let row =
            |score: f64, label: u32| vec![serde_json::json!({ "scores": [score, 1e9], "label": label })];
        assert!(nearly(&row(0.5, 1), &row(0.500_000_1, 1)));
        assert!(!nearly(&row(0.5, 1), &row(0.51, 1)) && !nearly(&row(0.5, 1), &row(0.5, 2)));
        assert!(
            !nearly(&row(0.5, 1), &[]) && !nearly(&row(0.5, 1), &[serde_json::json!({ "scores": [0.5] })])
        );
        assert!(!nearly(&[Value::Null], &[Value::from(0)]));
    }

    #[test]
    fn numbers_are_made_up_in_every_shape() {
        let row = |row| made_up(DataType::Int8, &[2, 2], &mut (row, 0));
        assert_eq!(row(0), serde_json::json!([[0, 0], [0, 0]]));
        assert_eq!(row(1), serde_json::json!([[8, 4], [0, 7]]));
        assert_eq!(made_up(DataType::Bool, &[], &mut (0, 0)), Value::from(false));
        assert_eq!(made_up(DataType::Bytes, &[1], &mut (0, 0)), serde_json::json!([""]));
        let rows = |shape: &[usize]| {
            made_up_rows(&[ColumnSpec { shape: shape.to_vec(), ..spec("x", DataType::Bytes) }], 2)
        };
        assert_eq!(rows(&[2, 3]).unwrap().rows(), 2);
        for large in [&[1 << 17][..], &[1 << 40, 0], &[usize::MAX, 2]] {
            assert_eq!(rows(large), None, "{large:?}");
        }
    }

    #[test]
    fn what_is_no_sample_is_told() {
        for text in ["", "[]", "{\"inputs\": []}", "{\"inputs\": [], \"outputs\": [], \"more\": 1}"] {
            assert!(Sample::from_bytes(text.as_bytes()).is_err(), "{text}");
        }
    }
}
