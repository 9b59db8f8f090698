//! Predictions that were served, with all that is needed to compute them again: what was asked, by which bundle, and what
//! was answered.
//!
//! Each is a header of JSON, whose length stands before it as four bytes, little-endian, and the bytes of the tensors that it
//! lists. A segment is one after another.

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize, Serializer};

use super::DataError;
use crate::domain::{Batch, DataType, Digest, Name, Tensor};
use crate::store::{Segments, Store};

/// Longest header: names and shapes of a thousand columns.
const HEADER_MAX_BYTES: usize = 1024 * 1024;

/// Bytes of a header's length.
const LENGTH_BYTES: usize = size_of::<u32>();

/// A prediction that was served.
#[derive(Debug, Clone, PartialEq)]
pub struct PredictionRecord {
    /// Its id, as the answer's header had it.
    pub id: String,
    /// When it was answered, in milliseconds since 1970.
    pub answered_at: i64,
    /// The endpoint.
    pub endpoint: Name,
    /// The version of the model that answered, as `name@number`; none where the bundle is no version of one.
    pub version: Option<String>,
    /// The bundle that answered.
    pub bundle: Digest,
    /// Whether the bundle's own transformers answered, and no others in their place.
    pub is_of_bundle: bool,
    /// The rows.
    pub inputs: Batch,
    /// The answer to them.
    pub outputs: Batch,
}

#[derive(Deserialize)]
struct Header {
    id: String,
    answered_at: i64,
    endpoint: Name,
    version: Option<String>,
    bundle: Digest,
    is_of_bundle: bool,
    inputs: Vec<Column>,
    outputs: Vec<Column>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
    dtype: DataType,
    shape: Vec<usize>,
    bytes: usize,
}

/// A [`Header`] as it is written, thousands of times a second while requests are answered: nothing is copied for it.
#[derive(Serialize)]
struct WrittenHeader<'a> {
    id: &'a str,
    answered_at: i64,
    endpoint: &'a Name,
    version: Option<&'a str>,
    bundle: Digest,
    is_of_bundle: bool,
    #[serde(serialize_with = "write_columns")]
    inputs: &'a Batch,
    #[serde(serialize_with = "write_columns")]
    outputs: &'a Batch,
}

#[derive(Serialize)]
struct WrittenColumn<'a> {
    name: &'a str,
    dtype: DataType,
    shape: &'a [usize],
    bytes: usize,
}

fn write_columns<S: Serializer>(batch: &&Batch, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(batch.tensors().iter().map(|tensor| WrittenColumn {
        name: tensor.name(),
        dtype: tensor.dtype(),
        shape: tensor.shape(),
        bytes: tensor.data().len(),
    }))
}

impl PredictionRecord {
    /// Appends it to a segment, or nothing if it fails.
    pub fn write_to(&self, segment: &mut Vec<u8>) -> Result<(), DataError> {
        let header = WrittenHeader {
            id: &self.id,
            answered_at: self.answered_at,
            endpoint: &self.endpoint,
            version: self.version.as_deref(),
            bundle: self.bundle,
            is_of_bundle: self.is_of_bundle,
            inputs: &self.inputs,
            outputs: &self.outputs,
        };
        let start = segment.len();
        segment.extend_from_slice(&[0; LENGTH_BYTES]);
        if let Err(error) = serde_json::to_writer(&mut *segment, &header) {
            segment.truncate(start);
            return Err(DataError::Encode(error));
        }
        let length = u32::try_from(segment.len() - start - LENGTH_BYTES).unwrap_or(u32::MAX);
        if let Some(place) = segment.get_mut(start..start + LENGTH_BYTES) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        for tensor in self.inputs.tensors().iter().chain(self.outputs.tensors()) {
            segment.extend_from_slice(tensor.data());
        }
        Ok(())
    }

    /// Finds the prediction `id` in a segment.
    pub fn find(segment: &[u8], id: &str) -> Result<Option<Self>, DataError> {
        let mut rest = segment;
        while !rest.is_empty() {
            let header = take_header(&mut rest)?;
            let (data, after) = rest.split_at_checked(header.data_len()).ok_or_else(cut)?;
            rest = after;
            if header.id == id {
                return header.with_data(data).map(Some);
            }
        }
        Ok(None)
    }
}

fn take_header(rest: &mut &[u8]) -> Result<Header, DataError> {
    let (length, after) = rest.split_first_chunk().ok_or_else(cut)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > HEADER_MAX_BYTES {
        return Err(DataError::PredictionSegment { reason: format!("a header has {length} bytes") });
    }
    let (header, after) = after.split_at_checked(length).ok_or_else(cut)?;
    *rest = after;
    serde_json::from_slice(header).map_err(|error| DataError::PredictionSegment { reason: error.to_string() })
}

fn cut() -> DataError {
    DataError::PredictionSegment { reason: "it ends in the middle of one".to_owned() }
}

impl Header {
    /// Bytes of the tensors.
    fn data_len(&self) -> usize {
        let columns = self.inputs.iter().chain(&self.outputs);
        columns.map(|column| column.bytes).fold(0, usize::saturating_add)
    }

    /// `data` has as many bytes as the columns say.
    fn with_data(self, data: &[u8]) -> Result<PredictionRecord, DataError> {
        let mut rest = data;
        let mut batch = |columns: Vec<Column>| {
            let mut tensors = Vec::with_capacity(columns.len());
            for column in columns {
                let (own, after) = rest.split_at_checked(column.bytes).ok_or_else(cut)?;
                rest = after;
                tensors.push(Tensor::new(column.name, column.dtype, column.shape, own.to_vec())?);
            }
            Ok::<_, DataError>(Batch::new(tensors)?)
        };
        Ok(PredictionRecord {
            inputs: batch(self.inputs)?,
            outputs: batch(self.outputs)?,
            id: self.id,
            answered_at: self.answered_at,
            endpoint: self.endpoint,
            version: self.version,
            bundle: self.bundle,
            is_of_bundle: self.is_of_bundle,
        })
    }
}

/// Adds predictions to those that a store keeps, the newest of them.
pub struct PredictionWriter {
    store: Store,
    bytes_max: u64,
    /// Numbers and sizes, the oldest first.
    segments: VecDeque<(u64, u64)>,
}

impl PredictionWriter {
    /// Keeps the newest segments that take at most `bytes_max` together, and the newest in any case.
    pub fn open(store: &Store, bytes_max: u64) -> Result<Self, DataError> {
        let mut segments = VecDeque::new();
        for number in store.segments(Segments::Predictions)? {
            segments.extend(store.segment_len(Segments::Predictions, number)?.map(|bytes| (number, bytes)));
        }
        Ok(Self { store: store.clone(), bytes_max, segments })
    }

    /// Adds a segment that [`PredictionRecord::write_to`] has filled, and lets go of old ones. Durable when it returns.
    pub fn append(&mut self, segment: &[u8]) -> Result<(), DataError> {
        let number = self.store.append_segment(Segments::Predictions, segment)?;
        self.segments.push_back((number, segment.len() as u64));
        let mut bytes: u64 = self.segments.iter().map(|(_, bytes)| bytes).sum();
        while bytes > self.bytes_max && self.segments.len() > 1 {
            let Some((number, freed)) = self.segments.pop_front() else { break };
            self.store.remove_segment(Segments::Predictions, number)?;
            bytes -= freed;
        }
        Ok(())
    }
}

/// Finds a prediction that was recorded; the newest are looked at first.
pub fn find_prediction(store: &Store, id: &str) -> Result<Option<PredictionRecord>, DataError> {
    for number in store.segments(Segments::Predictions)?.into_iter().rev() {
        // One that is gone meanwhile was too old.
        let Some(segment) = store.read_segment(Segments::Predictions, number)? else { continue };
        if let Some(found) = PredictionRecord::find(&segment, id)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The bundles that recorded predictions name: computing one again needs the bundle that answered.
pub fn prediction_bundles(store: &Store) -> Result<BTreeSet<Digest>, DataError> {
    let mut bundles = BTreeSet::new();
    for number in store.segments(Segments::Predictions)? {
        let Some(segment) = store.read_segment(Segments::Predictions, number)? else { continue };
        let mut rest = segment.as_slice();
        while !rest.is_empty() {
            let header = take_header(&mut rest)?;
            let (_, after) = rest.split_at_checked(header.data_len()).ok_or_else(cut)?;
            rest = after;
            bundles.insert(header.bundle);
        }
    }
    Ok(bundles)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> PredictionRecord {
        let names = Tensor::from_strings("name", [b"\xff".as_slice(), b""]).unwrap();
        let numbers = Tensor::from_f32("x", vec![2, 1], &[f32::NAN, -0.0]).unwrap();
        PredictionRecord {
            id: id.to_owned(),
            answered_at: 7,
            endpoint: "e".parse().unwrap(),
            version: Some("m@1".to_owned()),
            bundle: Digest::of(b"bundle"),
            is_of_bundle: true,
            inputs: Batch::new(vec![names, numbers]).unwrap(),
            outputs: Batch::new(vec![Tensor::from_f32("y", vec![2], &[f32::INFINITY, 1.0]).unwrap()])
                .unwrap(),
        }
    }

    fn segment() -> Vec<u8> {
        let mut segment = Vec::new();
        ["a", "b", "c"].iter().for_each(|id| record(id).write_to(&mut segment).unwrap());
        segment
    }

    /// By bytes: NaN is equal to nothing.
    fn bytes(record: &PredictionRecord) -> Vec<u8> {
        let mut bytes = Vec::new();
        record.write_to(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn every_bit_comes_back() {
        for id in ["a", "b", "c"] {
            let found = PredictionRecord::find(&segment(), id).unwrap().unwrap();
            assert_eq!(bytes(&found), bytes(&record(id)));
        }
        assert!(PredictionRecord::find(&segment(), "d").unwrap().is_none());
        assert!(PredictionRecord::find(&[], "a").unwrap().is_none());
    }

    #[test]
    fn damage_is_an_error_and_no_more() {
        let whole = segment();
        for length in 1..whole.len() {
            // What stands before the cut may still be found.
            let _ = PredictionRecord::find(&whole[..length], "c").is_err();
            assert!(!matches!(PredictionRecord::find(&whole[..length], "c"), Ok(Some(_))), "{length}");
        }
        for index in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[index] ^= 0x5a;
            let _ = PredictionRecord::find(&damaged, "c");
        }
    }

    #[test]
    fn the_newest_are_kept_and_found() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert!(find_prediction(&store, "a").unwrap().is_none());
        let write = |id: &str| {
            let mut segment = Vec::new();
            record(id).write_to(&mut segment).unwrap();
            segment
        };
        let size = write("a").len() as u64;
        let mut writer = PredictionWriter::open(&store, 2 * size).unwrap();
        ["a", "b"].iter().for_each(|id| writer.append(&write(id)).unwrap());
        assert!(find_prediction(&store, "a").unwrap().is_some());
        // Another server goes on where this one has ended.
        let mut writer = PredictionWriter::open(&store, 2 * size).unwrap();
        writer.append(&write("c")).unwrap();
        let is_there = |id: &str| find_prediction(&store, id).unwrap().is_some();
        assert_eq!((is_there("a"), is_there("b"), is_there("c")), (false, true, true));
        assert_eq!(
            prediction_bundles(&store).unwrap().into_iter().collect::<Vec<_>>(),
            [Digest::of(b"bundle")]
        );
        let mut writer = PredictionWriter::open(&store, 0).unwrap();
        writer.append(&write("d")).unwrap();
        assert_eq!(store.segments(Segments::Predictions).unwrap().len(), 1, "the newest stays in any case");
    }
}
