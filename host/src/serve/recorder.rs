use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::data::{DataError, PredictionRecord, PredictionWriter};

/// Predictions that are kept of one interval between two writes; more are counted, but not kept.
const RECORDS_PER_FLUSH: usize = 4_096;

/// Bytes of rows and answers that are kept of one interval.
const BYTES_PER_FLUSH: usize = 32 * 1024 * 1024;

/// Keeps what was asked and answered, and writes it to the store now and then.
///
/// Requests only push into memory, without copying rows; [`Self::flush`], called by a task of the server's about once a second and
/// at its end, does the writing. What is not written when the process is killed is lost.
pub struct Recorder {
    pending: Mutex<Pending>,
    writer: Mutex<PredictionWriter>,
}

#[derive(Default)]
struct Pending {
    records: Vec<PredictionRecord>,
    bytes: usize,
}

impl Recorder {
    /// Records to `writer`.
    pub fn new(writer: PredictionWriter) -> Self {
        Self { pending: Mutex::default(), writer: Mutex::new(writer) }
    }

    /// Keeps a prediction of so many bytes, unless there are too many; whether it does. The record is only made where it is
    /// kept, since under load most are not.
    pub fn offer(&self, bytes: usize, record: impl FnOnce() -> PredictionRecord) -> bool {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.records.len() >= RECORDS_PER_FLUSH || pending.bytes.saturating_add(bytes) > BYTES_PER_FLUSH
        {
            return false;
        }
        pending.bytes += bytes;
        pending.records.push(record());
        true
    }

    /// Writes what has come since the last time. When it returns, what another thread was writing is written too.
    pub fn flush(&self) -> Result<(), DataError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let pending = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        if pending.records.is_empty() {
            return Ok(());
        }
        let mut segment = Vec::with_capacity(pending.bytes + 512 * pending.records.len());
        for record in &pending.records {
            record.write_to(&mut segment)?;
        }
        writer.append(&segment)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::find_prediction;
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
            version: None,
            bundle: Digest::of(b""),
            is_of_bundle: true,
            inputs: batch("x"),
            outputs: batch("y"),
        }
    }

    #[test]
    fn too_many_are_counted_and_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let recorder = Recorder::new(PredictionWriter::open(&store, u64::MAX).unwrap());
        let ids = PredictionIds::default();
        let first = ids.next();
        let offer = |id: String, rows: usize| recorder.offer(8 * rows, || record(id, rows));
        assert!(offer(first.clone(), 1));
        let kept = (0..RECORDS_PER_FLUSH + 9).filter(|_| offer(ids.next(), 1)).count();
        assert_eq!(kept, RECORDS_PER_FLUSH - 1);
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
