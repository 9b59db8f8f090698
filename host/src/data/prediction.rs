//! Predictions that were served, with all that is needed to compute them again: what was asked, by which bundle or bundles,
//! and what was answered.
//!
//! Each is a header of JSON, whose length stands before it as four bytes, little-endian, and the bytes of the tensors that it
//! lists. A segment is one after another.
//!
//! A segment is written each time some come. While it is small, what comes next is joined with those before it, so that a quiet
//! server has no more files than a busy one. What is joined takes the place of the oldest of them, and the others are removed
//! then: where the process dies in between, some are there twice until they age out. Whoever reads from the newest back finds
//! what was joined meanwhile, since it only ever moves to a segment that is read later.
//!
//! A header begins with a checksum of all that comes after it, so that damage is not taken for another answer. Records of
//! before there were checksums have none, and programs of then skip it as they do any field that they do not know.

use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};
use std::io::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::DataError;
use crate::domain::{Batch, DataType, Digest, Name, Tensor};
use crate::store::{Segments, Store};

/// Longest header: names and shapes of a thousand columns, or a graph of long names.
const HEADER_MAX_BYTES: usize = 1024 * 1024;

/// Bytes of a header's length.
const LENGTH_BYTES: usize = size_of::<u32>();

/// Bytes from which on a segment is no longer joined; a share of all that is kept where that is less.
const JOINED_BYTES_MAX: u64 = 1024 * 1024;

/// What may be joined is at most this share of all: the oldest go a segment at a time.
const JOINED_SHARE: u64 = 256;

/// A segment counts at least as this share of what may be joined. Each server that starts begins with a small one, and so many
/// files would cost more than what is in them.
const COUNTED_SHARE: u64 = 16;

/// Segments that are removed in one go at most: earlier programs left hundreds of thousands.
const REMOVED_AT_ONCE: usize = 1_000;

/// How a header with a checksum begins.
const CHECKSUM_NAME: &[u8] = br#"{"crc32":""#;

/// Hexadecimal digits of a checksum, before it is known.
const NO_CHECKSUM: &str = "00000000";

/// A prediction that was served.
#[derive(Debug, Clone, PartialEq)]
pub struct PredictionRecord {
    /// Its id, as the answer's header had it.
    pub id: String,
    /// When it was answered, in milliseconds since 1970.
    pub answered_at: i64,
    /// The endpoint.
    pub endpoint: Name,
    /// Who answered.
    pub answered_by: AnsweredBy,
    /// The rows.
    pub inputs: Batch,
    /// The answer to them.
    pub outputs: Batch,
}

/// Who answered. The header has the fields of one or the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a bundle or a graph that answered")]
pub enum AnsweredBy {
    /// The endpoints that the endpoint is made of.
    Graph(GraphRecord),
    /// A bundle.
    Bundle(BundleRecord),
}

/// A bundle that answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleRecord {
    /// The version of the model, as `name@number`; none where the bundle is no version of one.
    pub version: Option<String>,
    /// Its digest.
    pub bundle: Digest,
    /// Whether the bundle's own transformers answered, and no others in their place.
    pub is_of_bundle: bool,
}

/// A graph of endpoints that answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GraphRecord {
    /// How it is made of them. What that means is known to those who serve. Shared by all of its records.
    #[serde(serialize_with = "write_graph", deserialize_with = "read_graph")]
    pub graph: Arc<Value>,
    /// The endpoints that were asked.
    pub parts: Vec<PartRecord>,
}

/// An endpoint that was asked for another, which is made of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Its number among the endpoints of the graph, from 0: several may be the same endpoint.
    pub place: usize,
    /// Its name.
    pub endpoint: Name,
    /// Who answered.
    #[serde(flatten)]
    pub answered_by: BundleRecord,
}

fn write_graph<S: Serializer>(graph: &Arc<Value>, serializer: S) -> Result<S::Ok, S::Error> {
    graph.as_ref().serialize(serializer)
}

fn read_graph<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Value>, D::Error> {
    Value::deserialize(deserializer).map(Arc::new)
}

#[derive(Deserialize)]
struct Header {
    id: String,
    answered_at: i64,
    endpoint: Name,
    #[serde(flatten)]
    answered_by: AnsweredBy,
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
    /// Stands first, where it is looked for.
    crc32: &'a str,
    id: &'a str,
    answered_at: i64,
    endpoint: &'a Name,
    #[serde(flatten)]
    answered_by: &'a AnsweredBy,
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

impl AnsweredBy {
    /// The bundles that answered, as often as they did.
    pub fn bundles(&self) -> impl Iterator<Item = &BundleRecord> {
        let (bundle, parts) = match self {
            Self::Bundle(bundle) => (Some(bundle), [].as_slice()),
            Self::Graph(graph) => (None, graph.parts.as_slice()),
        };
        bundle.into_iter().chain(parts.iter().map(|part| &part.answered_by))
    }

    /// The versions that answered, as the answer's header `x-model-version` named them; none where it had none.
    pub fn versions(&self) -> Option<String> {
        match self {
            Self::Bundle(bundle) => bundle.version.clone(),
            Self::Graph(_) => {
                let label =
                    |bundle: &BundleRecord| bundle.version.clone().unwrap_or_else(|| bundle.bundle.short());
                let labels: BTreeSet<String> = self.bundles().map(label).collect();
                Some(labels.into_iter().collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl PredictionRecord {
    /// Appends it to a segment, or nothing if it fails.
    pub fn write_to(&self, segment: &mut Vec<u8>) -> Result<(), DataError> {
        let header = WrittenHeader {
            crc32: NO_CHECKSUM,
            id: &self.id,
            answered_at: self.answered_at,
            endpoint: &self.endpoint,
            answered_by: &self.answered_by,
            inputs: &self.inputs,
            outputs: &self.outputs,
        };
        let start = segment.len();
        segment.extend_from_slice(&[0; LENGTH_BYTES]);
        if let Err(error) = serde_json::to_writer(&mut *segment, &header) {
            segment.truncate(start);
            return Err(DataError::Encode(error));
        }
        let length = segment.len() - start - LENGTH_BYTES;
        // Nobody could read it, nor what comes after it.
        if length > HEADER_MAX_BYTES {
            segment.truncate(start);
            return Err(too_long(length));
        }
        let length = length as u32;
        if let Some(place) = segment.get_mut(start..start + LENGTH_BYTES) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        for tensor in self.inputs.tensors().iter().chain(self.outputs.tensors()) {
            segment.extend_from_slice(tensor.data());
        }
        let place = start + LENGTH_BYTES + CHECKSUM_NAME.len();
        let after = segment.get_mut(place..).and_then(|text| text.split_at_mut_checked(NO_CHECKSUM.len()));
        if let Some((mut digits, after)) = after {
            // There is room for as many.
            let _ = write!(digits, "{:08x}", crc32fast::hash(after));
        }
        Ok(())
    }

    /// Finds the prediction `id` in a segment. A damaged record is an error only where no other has that id.
    pub fn find(segment: &[u8], id: &str) -> Result<Option<Self>, DataError> {
        let mut rest = segment;
        let mut damaged = Ok(None);
        while !rest.is_empty() {
            let Record { header, data, is_whole } = take_record(&mut rest)?;
            if !is_whole {
                damaged = Err(changed(&header.id));
            } else if header.id == id {
                return header.with_data(data).map(Some);
            }
        }
        damaged
    }
}

/// A record as it stands in a segment.
struct Record<'a> {
    header: Header,
    /// The bytes of the tensors.
    data: &'a [u8],
    /// Whether it is what was written, as far as it has a checksum.
    is_whole: bool,
}

fn take_record<'a>(rest: &mut &'a [u8]) -> Result<Record<'a>, DataError> {
    let (length, after) = rest.split_first_chunk().ok_or_else(cut)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > HEADER_MAX_BYTES {
        return Err(too_long(length));
    }
    let (text, after) = after.split_at_checked(length).ok_or_else(cut)?;
    let header: Header = serde_json::from_slice(text)
        .map_err(|error| DataError::PredictionRecord { reason: error.to_string() })?;
    let (data, after) = after.split_at_checked(header.data_len()).ok_or_else(cut)?;
    *rest = after;
    Ok(Record { header, data, is_whole: is_whole(text, data) })
}

fn is_whole(header: &[u8], data: &[u8]) -> bool {
    let checked = header.strip_prefix(CHECKSUM_NAME);
    let Some((digits, after)) = checked.and_then(|text| text.split_at_checked(NO_CHECKSUM.len())) else {
        return true;
    };
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(after);
    checksum.update(data);
    format!("{:08x}", checksum.finalize()).as_bytes() == digits
}

fn changed(id: &str) -> DataError {
    let id: String = id.chars().take(80).collect();
    DataError::PredictionRecord { reason: format!("the record of prediction `{id}` is not what was written") }
}

fn too_long(length: usize) -> DataError {
    DataError::PredictionRecord { reason: format!("a header has {length} bytes") }
}

fn cut() -> DataError {
    DataError::PredictionRecord { reason: "it ends in the middle of a record".to_owned() }
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
            answered_by: self.answered_by,
        })
    }
}

/// Adds predictions to those that a store keeps, the newest of them.
pub struct PredictionWriter {
    store: Store,
    bytes_max: u64,
    /// The oldest first.
    segments: VecDeque<Segment>,
}

struct Segment {
    number: u64,
    bytes: u64,
    /// Whether this writer has written it, and may join it with others: nobody else does.
    is_own: bool,
}

impl PredictionWriter {
    /// Keeps the newest segments that take at most `bytes_max` together, and the newest in any case.
    pub fn open(store: &Store, bytes_max: u64) -> Result<Self, DataError> {
        let mut segments = VecDeque::new();
        for number in store.segments(Segments::Predictions)? {
            let bytes = store.segment_len(Segments::Predictions, number)?;
            segments.extend(bytes.map(|bytes| Segment { number, bytes, is_own: false }));
        }
        Ok(Self { store: store.clone(), bytes_max, segments })
    }

    /// Adds what [`PredictionRecord::write_to`] has written to each of `parts`, as a segment or to those before. Durable when it
    /// returns.
    pub fn append(&mut self, parts: &[&[u8]]) -> Result<(), DataError> {
        let before = self.to_join(parts.iter().map(|part| part.len() as u64).sum());
        let all: Vec<&[u8]> =
            before.iter().map(|(_, bytes)| bytes.as_slice()).chain(parts.iter().copied()).collect();
        let bytes = all.iter().map(|part| part.len() as u64).sum();
        let Some(&(number, _)) = before.first() else {
            let number = self.store.append_segment(Segments::Predictions, parts)?;
            self.segments.push_back(Segment { number, bytes, is_own: true });
            return Ok(());
        };
        self.store.replace_segment(Segments::Predictions, number, &all)?;
        let joined = self.segments.split_off(self.segments.len().saturating_sub(before.len()));
        for segment in joined.into_iter().filter(|segment| segment.number != number) {
            // All of it is there once more. One that cannot be removed goes when it is the oldest.
            if self.store.remove_segment(Segments::Predictions, segment.number).is_err() {
                self.segments.push_back(Segment { is_own: false, ..segment });
            }
        }
        self.segments.push_back(Segment { number, bytes, is_own: true });
        Ok(())
    }

    /// The newest segments that what comes now is joined with, the oldest of them first: small ones that are not much larger than
    /// what is joined with them, so that each prediction is written again some ten times at most.
    fn to_join(&self, bytes: u64) -> Vec<(u64, Vec<u8>)> {
        let mut total = bytes;
        let mut found = VecDeque::new();
        for segment in self.segments.iter().rev() {
            let is_small = total.saturating_add(segment.bytes) <= self.joined_bytes_max()
                && segment.bytes <= total.saturating_mul(2);
            if !segment.is_own || !is_small {
                break;
            }
            // One that is gone, damaged or cannot be read must not take what comes now along.
            let Ok(Some(read)) = self.store.read_segment(Segments::Predictions, segment.number) else {
                break;
            };
            if read.len() as u64 != segment.bytes {
                break;
            }
            total += segment.bytes;
            found.push_front((segment.number, read));
        }
        found.into()
    }

    fn joined_bytes_max(&self) -> u64 {
        JOINED_BYTES_MAX.min(self.bytes_max / JOINED_SHARE)
    }

    /// Lets go of the oldest that are too much. What cannot be removed is tried again the next time.
    pub fn trim(&mut self) -> Result<(), DataError> {
        let least = self.joined_bytes_max() / COUNTED_SHARE;
        let mut bytes: u64 = self.segments.iter().map(|segment| segment.bytes.max(least)).sum();
        for _ in 0..REMOVED_AT_ONCE {
            // The newest stays, however large it is.
            let Some(oldest) = self.segments.front().filter(|_| self.segments.len() > 1) else { break };
            if bytes <= self.bytes_max {
                break;
            }
            let Segment { number, bytes: known, is_own } = *oldest;
            let found = self.store.segment_len(Segments::Predictions, number)?;
            // Another server adds to it: it has newer ones than it had, and its turn comes later.
            if let Some(grown) = found.filter(|found| !is_own && *found != known) {
                self.segments.push_back(Segment { number, bytes: grown, is_own });
                bytes += grown.max(least);
            } else {
                self.store.remove_segment(Segments::Predictions, number)?;
            }
            bytes -= known.max(least);
            self.segments.pop_front();
        }
        Ok(())
    }
}

/// Finds a prediction that was recorded; the newest are looked at first. A damaged segment is an error only where it is nowhere else.
pub fn find_prediction(store: &Store, id: &str) -> Result<Option<PredictionRecord>, DataError> {
    let mut damaged = Ok(None);
    for Reverse(number) in newest_first(store)? {
        // One that is gone meanwhile was too old, or was joined with one before it, which is read after it.
        let Some(segment) = store.read_segment(Segments::Predictions, number)? else { continue };
        match PredictionRecord::find(&segment, id) {
            Ok(None) => {}
            Err(error) => damaged = Err(damaged_segment(store, number)(error)),
            found => return found,
        }
    }
    damaged
}

/// The bundles that recorded predictions name: computing one again needs those that answered.
pub fn prediction_bundles(store: &Store) -> Result<BTreeSet<Digest>, DataError> {
    let mut bundles = BTreeSet::new();
    for Reverse(number) in newest_first(store)? {
        // As above.
        let Some(segment) = store.read_segment(Segments::Predictions, number)? else { continue };
        let mut rest = segment.as_slice();
        while !rest.is_empty() {
            // One that is damaged cannot be computed again, so that it does not matter which bundles it names.
            let Record { header, .. } = take_record(&mut rest).map_err(damaged_segment(store, number))?;
            bundles.extend(header.answered_by.bundles().map(|answered| answered.bundle));
        }
    }
    Ok(bundles)
}

/// Numbers of all segments, the newest first.
fn newest_first(store: &Store) -> Result<BTreeSet<Reverse<u64>>, DataError> {
    let mut numbers = store.segments(Segments::Predictions)?;
    // Not every file system lists what is replaced meanwhile.
    numbers.extend(store.segments(Segments::Predictions)?);
    Ok(numbers.into_iter().map(Reverse).collect())
}

fn damaged_segment(store: &Store, number: u64) -> impl FnOnce(DataError) -> DataError {
    let path = store.segment_path(Segments::Predictions, number);
    move |error| DataError::PredictionSegment { number, path, source: Box::new(error) }
}

#[cfg(test)]
mod tests;
