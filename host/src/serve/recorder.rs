use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounter;

use crate::data::{DataError, PredictionRecord, PredictionWriter};

/// Predictions that are kept of a second.
const RECORDS_PER_FLUSH: usize = 4_096;

/// Predictions of an interval that are kept however fast they come. Others are spread over it, so that a second under load is
/// recorded from its beginning to its end, and no part of it has all the work.
const RECORDS_AT_ONCE: usize = 1_024;

/// Time between two writes.
pub(super) const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of rows and answers that are kept of one interval.
const BYTES_PER_FLUSH: usize = 32 * 1024 * 1024;

/// Bytes from which on a prediction is written into memory of its own, while others are written to that of all.
const LARGE_BYTES_MIN: usize = 64 * 1024;

/// Bytes of a block of predictions. They are written to many of these and not to one memory that grows, which would be
/// copied while requests wait, by megabytes.
const BLOCK_BYTES: usize = 256 * 1024;

/// Bytes of a block for what a prediction has besides its rows and answers: more of it makes the block grow.
const HEADER_BYTES: usize = 1024;

/// Blocks that are kept for the next interval.
const KEPT_BLOCKS_MAX: usize = 64;

/// Keeps what was asked and answered, and writes it to the store now and then.
///
/// Requests only write into memory, which is used again and again: rows that stayed where they are until they are written would
/// make every request after them take memory that no cache holds. [`Self::flush`], called by a thread about once a
/// second and at its end, does the rest. What is not written when the process is killed is lost.
pub struct Recorder {
    pending: Mutex<Pending>,
    writer: Mutex<PredictionWriter>,
    /// Counts those that are not kept.
    unrecorded: IntCounter,
}

struct Pending {
    since: Instant,
    /// What is written, the newest last.
    blocks: Vec<Vec<u8>>,
    /// Large ones, one each.
    large: Vec<Vec<u8>>,
    records: usize,
    bytes: usize,
    /// Blocks that were written before, empty.
    spare: Vec<Vec<u8>>,
}

impl Pending {
    /// Nothing since now, to be written to memory that is there.
    fn new(spare: Vec<Vec<u8>>) -> Self {
        Self { since: Instant::now(), blocks: Vec::new(), large: Vec::new(), records: 0, bytes: 0, spare }
    }

    /// A block with room for about so many bytes.
    fn block(&mut self, bytes: usize) -> &mut Vec<u8> {
        let has_room = |block: &Vec<u8>| block.len().saturating_add(bytes + HEADER_BYTES) <= BLOCK_BYTES;
        let block = match self.blocks.pop_if(|block| has_room(block)) {
            Some(block) => block,
            None => self.spare.pop().unwrap_or_else(|| Vec::with_capacity(BLOCK_BYTES)),
        };
        self.blocks.push_mut(block)
    }

    /// Takes room for a prediction of so many bytes, if there is.
    fn take_room(&mut self, bytes: usize) -> bool {
        let has_room = self.records < RECORDS_AT_ONCE || self.records < records_until(self.since.elapsed());
        let has_room = has_room && self.bytes.saturating_add(bytes) <= BYTES_PER_FLUSH;
        if has_room {
            self.records += 1;
            self.bytes += bytes;
        }
        has_room
    }
}

/// Predictions that may have been kept when so much time has passed since the last write, which may take longer than usual.
fn records_until(elapsed: Duration) -> usize {
    let intervals = elapsed.as_secs_f64() / FLUSH_INTERVAL.as_secs_f64();
    let spread = (RECORDS_PER_FLUSH - RECORDS_AT_ONCE) as f64;
    let late = RECORDS_PER_FLUSH as f64 * (intervals - 1.0).max(0.0);
    RECORDS_AT_ONCE + (spread * intervals.min(1.0) + late) as usize
}

impl Recorder {
    /// Records by `writer`, and counts what is not kept.
    pub fn new(writer: PredictionWriter, unrecorded: IntCounter) -> Self {
        Self { pending: Mutex::new(Pending::new(Vec::new())), writer: Mutex::new(writer), unrecorded }
    }

    /// Keeps a prediction of so many bytes, unless there are too many; whether it does. The record is only made where it is
    /// kept, since under load most are not.
    pub fn offer(&self, bytes: usize, record: impl FnOnce() -> PredictionRecord) -> bool {
        let is_kept = self.keep(bytes, record);
        if !is_kept {
            self.unrecorded.inc();
        }
        is_kept
    }

    fn keep(&self, bytes: usize, record: impl FnOnce() -> PredictionRecord) -> bool {
        let mut pending = self.pending();
        if !pending.take_room(bytes) {
            return false;
        }
        if bytes < LARGE_BYTES_MIN {
            return record().write_to(pending.block(bytes)).is_ok();
        }
        drop(pending);
        let mut large = Vec::with_capacity(bytes);
        let is_written = record().write_to(&mut large).is_ok();
        self.pending().large.push(large);
        is_written
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what has come since the last time. When it returns, what another thread was writing is written too.
    pub fn flush(&self) -> Result<(), DataError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pending = self.pending();
        let spare = std::mem::take(&mut pending.spare);
        let Pending { mut blocks, large, records, .. } =
            std::mem::replace(&mut *pending, Pending::new(spare));
        drop(pending);
        if blocks.is_empty() && large.is_empty() {
            return Ok(());
        }
        let parts: Vec<&[u8]> = blocks.iter().chain(&large).map(Vec::as_slice).collect();
        let written = writer.append(&parts);
        if written.is_err() {
            self.unrecorded.inc_by(records as u64);
        }
        // What is written is there, also where older ones cannot be removed.
        let trimmed = writer.trim();
        blocks.iter_mut().for_each(Vec::clear);
        let mut pending = self.pending();
        let places = KEPT_BLOCKS_MAX.saturating_sub(pending.spare.len());
        pending.spare.extend(blocks.into_iter().take(places));
        written.and(trimmed)
    }
}

/// Gives each prediction an id that no other has: 32 hexadecimal digits, of which the first half is the process's own.
pub struct PredictionIds {
    process: u64,
    next: AtomicU64,
}

impl Default for PredictionIds {
    fn default() -> Self {
        let (process, _) = uuid::Uuid::new_v4().as_u64_pair();
        Self { process, next: AtomicU64::new(0) }
    }
}

impl PredictionIds {
    /// The next one.
    pub fn next(&self) -> String {
        format!("{:016x}{:016x}", self.process, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// Whether a text could be such an id.
pub(super) fn is_prediction_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{AnsweredBy, BundleRecord, find_prediction};
    use crate::domain::{Batch, Digest, Tensor};
    use crate::store::Store;

    fn record(id: String, rows: usize) -> PredictionRecord {
        let batch = |name: &str| {
            Batch::new(vec![Tensor::from_f32(name, vec![rows], &vec![0.5; rows]).unwrap()]).unwrap()
        };
        PredictionRecord {
            id,
            answered_at: 1,
            endpoint: "e".parse().unwrap(),
            answered_by: AnsweredBy::Bundle(BundleRecord {
                version: None,
                bundle: Digest::of(b""),
                is_of_bundle: true,
            }),
            inputs: batch("x"),
            outputs: batch("y"),
        }
    }

    fn recorder(store: &Store) -> Recorder {
        Recorder::new(
            PredictionWriter::open(store, u64::MAX).unwrap(),
            IntCounter::new("unrecorded", "x").unwrap(),
        )
    }

    #[test]
    fn too_many_are_counted_and_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let recorder = recorder(&store);
        let ids = PredictionIds::default();
        let first = ids.next();
        let offer = |id: String, rows: usize| recorder.offer(8 * rows, || record(id, rows));
        let started = |at: Instant| recorder.pending().since = at;
        let keeps = || (0..RECORDS_PER_FLUSH + 9).filter(|_| offer(ids.next(), 1)).count();
        let now = Instant::now();
        started(now + 3_600 * FLUSH_INTERVAL);
        assert!(offer(first.clone(), 1));
        assert_eq!(1 + keeps(), RECORDS_AT_ONCE, "as many as come at once");
        started(now.checked_sub(FLUSH_INTERVAL).unwrap());
        assert!(RECORDS_AT_ONCE + keeps() >= RECORDS_PER_FLUSH, "the others until the end of the interval");
        assert_eq!(records_until(FLUSH_INTERVAL), RECORDS_PER_FLUSH);
        let half = RECORDS_AT_ONCE.midpoint(RECORDS_PER_FLUSH);
        assert_eq!(records_until(FLUSH_INTERVAL / 2), half, "evenly");
        assert_eq!(
            records_until(3 * FLUSH_INTERVAL),
            3 * RECORDS_PER_FLUSH,
            "also where one write takes long"
        );
        recorder.flush().unwrap();
        recorder.flush().unwrap();
        assert!(find_prediction(&store, &first).unwrap().is_some());
        // There is room again, though not for anything.
        assert!(!offer(ids.next(), BYTES_PER_FLUSH / 4));
        let last = ids.next();
        assert!(offer(last.clone(), 1));
        recorder.flush().unwrap();
        assert!(find_prediction(&store, &last).unwrap().is_some());
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let recorder = recorder(&store);
        let offer = || assert!(recorder.offer(8, || record("0".to_owned(), 1)));
        offer();
        recorder.flush().unwrap();
        assert_eq!(recorder.unrecorded.get(), 0);
        // A disk that takes no more.
        let predictions = folder.path().join("predictions");
        std::fs::remove_dir_all(&predictions).unwrap();
        std::fs::write(&predictions, "").unwrap();
        (0..3).for_each(|_| offer());
        assert!(recorder.flush().is_err());
        assert_eq!(recorder.unrecorded.get(), 3);
        assert!(!recorder.offer(BYTES_PER_FLUSH + 1, || record("0".to_owned(), 1)));
        assert_eq!(recorder.unrecorded.get(), 4);
    }

    #[test]
    fn what_is_too_old_is_removed_when_that_works_and_counts_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let writer = PredictionWriter::open(&store, 0).unwrap();
        let recorder = Recorder::new(writer, IntCounter::new("unrecorded", "x").unwrap());
        let write = |id: &str| {
            assert!(recorder.offer(8, || record(id.to_owned(), 1)));
            recorder.flush()
        };
        write("0").unwrap();
        // The only segment; a folder cannot be removed as a file is.
        let oldest =
            std::fs::read_dir(folder.path().join("predictions")).unwrap().next().unwrap().unwrap().path();
        std::fs::remove_file(&oldest).unwrap();
        std::fs::create_dir(&oldest).unwrap();
        for id in ["1", "2"] {
            assert!(write(id).is_err());
            assert!(find_prediction(&store, id).unwrap().is_some());
        }
        assert_eq!(recorder.unrecorded.get(), 0, "they are recorded");
        std::fs::remove_dir(&oldest).unwrap();
        std::fs::write(&oldest, "").unwrap();
        write("3").unwrap();
        assert!(!oldest.exists());
        assert!(find_prediction(&store, "2").unwrap().is_none());
    }

    #[test]
    fn many_predictions_fill_blocks_that_are_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let recorder = recorder(&store);
        let rows = BLOCK_BYTES / 8 / 10;
        let blocks = || {
            let pending = recorder.pending();
            (pending.blocks.len(), pending.spare.len())
        };
        for interval in 0..3 {
            let ids: Vec<String> = (0..30).map(|number| format!("{interval}-{number}")).collect();
            assert!(ids.iter().all(|id| recorder.offer(8 * rows, || record(id.clone(), rows))));
            // A large one has memory of its own, which is not kept.
            assert!(recorder.offer(LARGE_BYTES_MIN, || record(format!("{interval}-large"), 2 * rows)));
            assert_eq!(blocks(), (4, 0), "nine in each");
            recorder.flush().unwrap();
            assert_eq!(blocks(), (0, 4));
            for id in ids.iter().chain([&format!("{interval}-large")]) {
                assert_eq!(find_prediction(&store, id).unwrap().unwrap().inputs.rows() % rows, 0, "{id}");
            }
        }
        for number in 0..10 * KEPT_BLOCKS_MAX {
            recorder.pending().since = Instant::now().checked_sub(FLUSH_INTERVAL).unwrap();
            assert!(recorder.offer(8 * rows, || record(number.to_string(), rows)));
        }
        assert!(blocks().0 > KEPT_BLOCKS_MAX);
        recorder.flush().unwrap();
        assert_eq!(blocks(), (0, KEPT_BLOCKS_MAX), "and no more");
        for number in 0..2_000 {
            recorder.pending().since = Instant::now().checked_sub(FLUSH_INTERVAL).unwrap();
            assert!(recorder.offer(8, || record(number.to_string(), 1)));
        }
        assert!(blocks().0 > 1, "small ones fill more than one too");
        recorder.flush().unwrap();
        assert!(
            recorder.pending().spare.iter().all(|block| block.capacity() == BLOCK_BYTES),
            "none has grown"
        );
    }

    #[test]
    fn ids_are_never_the_same() {
        let (here, there) = (PredictionIds::default(), PredictionIds::default());
        let ids = [here.next(), here.next(), there.next(), there.next()];
        let mut distinct = ids.to_vec();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), 4);
        assert!(ids.iter().all(|id| id.len() == 32));
    }
}
