//! Rows with the answers that a bundle gave to them when it was made, so that whoever loads it can see that it still does.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::parts::{Part, read_part};
use super::{BlobRef, PredictionError, Predictor, RegistryError};
use crate::data::{self, JsonError, RowForm};
use crate::domain::{Batch, ColumnSpec, DataType};
use crate::store::Store;

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

/// Lists that these stand in at most.
const MADE_UP_LISTS_MAX: usize = 1 << 17;

/// Largest sample that is kept: one that is larger would be a burden for every server that loads the bundle.
pub(super) const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Largest row, and largest answer, that documents show: as many as rows have that are made up.
const EXAMPLE_MAX_BYTES: usize = 256 * 1024;

/// How many times as many bytes as it has JSON is told to have at most: `0,` may be a number of 20 digits.
const TOLD_TIMES: usize = 11;

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
    /// It is not there, or too large.
    #[error(transparent)]
    Registry(#[from] Box<RegistryError>),
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
        Self::record_within(MAX_BYTES, predictor, rows).await
    }

    /// The same; none where a row or all the answers have more than `max` bytes.
    async fn record_within(
        max: usize,
        predictor: &Predictor,
        rows: &Batch,
    ) -> Result<Option<Self>, PredictionError> {
        let specs = &predictor.signature().inputs;
        let mut inputs = Vec::new();
        for row in 0..rows.rows().min(ROWS_TRIED) {
            if let Some(value) = rows.slice_rows(row..row + 1).and_then(|row| as_json(&row, specs, max)) {
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
        Ok(rows_as_json(&outputs, max).map(|outputs| Self { inputs, outputs }))
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
        let row = made_up_rows(&predictor.signature().inputs, 1)?;
        Self::record_within(EXAMPLE_MAX_BYTES, predictor, &row).await.ok()?
    }

    /// A row and the answer to it, for documents; none where one of them is too large, since it stays in memory.
    pub fn into_first(self) -> Option<(Value, Value)> {
        let first = self.inputs.into_iter().next().zip(self.outputs.into_iter().next());
        let is_small = |value: &Value| value.to_string().len() <= EXAMPLE_MAX_BYTES;
        first.filter(|(row, answer)| is_small(row) && is_small(answer))
    }

    /// Reads the one that a bundle names.
    pub fn load(store: &Store, recorded: &BlobRef) -> Result<Self, SampleError> {
        Self::from_bytes(&read_part(store, Part::Sample, recorded).map_err(Box::new)?)
    }

    /// Reads one that was recorded.
    fn from_bytes(bytes: &[u8]) -> Result<Self, SampleError> {
        let unreadable = |reason: String| SampleError::Unreadable { reason };
        let sample: Self = serde_json::from_slice(bytes).map_err(|error| unreadable(error.to_string()))?;
        let rows = sample.inputs.len().max(sample.outputs.len());
        if rows > ROWS_MAX {
            return Err(unreadable(format!("it has {rows} rows: the limit is {ROWS_MAX}")));
        }
        Ok(sample)
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
        let found = rows_as_json(&outputs, MAX_BYTES).unwrap_or_default();
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

/// A row as JSON of `max` bytes at most, if that is the same row when it is read again.
fn as_json(row: &Batch, specs: &[ColumnSpec], max: usize) -> Option<Value> {
    let mut rows = rows_as_json(row, max)?;
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
        spec.shape.iter().try_fold((0_usize, 1_usize), |(lists, in_last), &size| {
            Some((lists.checked_add(in_last)?, in_last.checked_mul(size.max(1))?))
        })
    };
    let (lists, elements) = specs.iter().try_fold((0_usize, 0_usize), |(lists, elements), spec| {
        let of_column = counted(spec)?;
        Some((lists.checked_add(of_column.0)?, elements.checked_add(of_column.1)?))
    })?;
    if lists > MADE_UP_LISTS_MAX || elements > MADE_UP_ELEMENTS_MAX {
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

/// Rows as JSON; none where they have more than `max` bytes of it, of which each may take 70 in memory. That is seen before they
/// are written as far as it can be told, since a plugin may answer with lists a hundred times as long as what it wrote.
fn rows_as_json(batch: &Batch, max: usize) -> Option<Vec<Value>> {
    if data::rows_len_max(batch) > max.saturating_mul(TOLD_TIMES) {
        return None;
    }
    let text = data::encode_rows(batch, RowForm::List).ok()?;
    (text.len() <= max).then(|| serde_json::from_slice(&text).ok()).flatten()
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
        let kept = as_json(&row(0.1, "é".as_bytes()), &specs, MAX_BYTES).unwrap();
        assert_eq!(kept, serde_json::json!({ "x": 0.1, "name": "é" }));
        assert_eq!(as_json(&row(f32::NAN, b"a"), &specs, MAX_BYTES), None);
        assert_eq!(as_json(&row(0.1, b"\xff"), &specs, MAX_BYTES), None);
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
        let mut deep = vec![1; Tensor::DIMENSIONS_MAX - 1];
        deep[0] = 1 << 12;
        for large in [&[1 << 17][..], &[1 << 40, 0], &[usize::MAX, 2], &deep] {
            assert_eq!(rows(large), None, "{large:?}");
        }
        assert_eq!(rows(&[256, 256, 1]).unwrap().rows(), 2);
    }

    #[test]
    fn what_would_be_much_json_is_not_made() {
        let rows = |count: usize, dimensions: usize| {
            let mut shape = vec![1; dimensions];
            shape[1] = count;
            Batch::new(vec![Tensor::new("x", DataType::Bool, shape, vec![0; count]).unwrap()]).unwrap()
        };
        let deepest = Tensor::DIMENSIONS_MAX;
        assert!(rows_as_json(&rows(1_000, deepest), MAX_BYTES).is_some());
        assert!(rows_as_json(&rows(1 << 16, 2), MAX_BYTES).is_some());
        assert!(rows_as_json(&rows(1 << 16, deepest), MAX_BYTES).is_none(), "8 MB");
        assert!(rows_as_json(&rows(1 << 20, 2), MAX_BYTES).is_none(), "6 MB");
        assert!(rows_as_json(&rows(1 << 16, 2), EXAMPLE_MAX_BYTES).is_none(), "400 kB");
        // Numbers of one digit where 20 could be.
        let numbers = Tensor::new("x", DataType::Uint64, vec![1, 1 << 20], vec![0; 8 << 20]).unwrap();
        assert!(rows_as_json(&Batch::new(vec![numbers]).unwrap(), MAX_BYTES).is_some());
    }

    #[test]
    fn documents_show_no_large_rows() {
        let example = |bytes: usize| {
            let large = Value::from("x".repeat(bytes));
            let of = |inputs, outputs| Sample { inputs: vec![inputs], outputs: vec![outputs] }.into_first();
            (of(large.clone(), Value::Null).is_some(), of(Value::Null, large).is_some())
        };
        assert_eq!(example(1_000), (true, true));
        assert_eq!(example(EXAMPLE_MAX_BYTES), (false, false));
    }

    #[test]
    fn what_is_no_sample_is_told() {
        for text in ["", "[]", "{\"inputs\": []}", "{\"inputs\": [], \"outputs\": [], \"more\": 1}"] {
            assert!(Sample::from_bytes(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_sample_that_nobody_would_have_recorded_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let load = |text: String| {
            // The manifest may say less than there is.
            let recorded = BlobRef { digest: store.put_bytes(text.as_bytes()).unwrap(), size: 1 };
            Sample::load(&store, &recorded).map_err(|error| error.to_string())
        };
        let rows = |count: usize| {
            let zeros = vec!["0"; count].join(",");
            format!("{{\"inputs\": [{zeros}], \"outputs\": [{zeros}]}}")
        };
        assert_eq!(load(rows(ROWS_MAX)).unwrap().inputs.len(), ROWS_MAX);
        let told = "its recorded sample cannot be read: it has 9 rows: the limit is 8";
        assert_eq!(load(rows(ROWS_MAX + 1)).unwrap_err(), told);
        let told = "the recorded sample of the bundle has 4194305 bytes: the limit is 4194304";
        assert_eq!(load(" ".repeat(MAX_BYTES + 1)).unwrap_err(), told);
    }
}
