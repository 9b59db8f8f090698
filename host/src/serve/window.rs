use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::data::{DataError, WindowWriter};
use crate::domain::{Batch, BatchError};
use crate::task::rest;
use crate::track::now_ms;

/// Rows that are kept of one interval between two writes. Under load the rows are a uniform sample of all that came. Only
/// rows that the sample takes are copied, some thousands in an interval however many come, so that the cost of
/// monitoring hardly grows with traffic.
const ROWS_PER_FLUSH: usize = 1_024;

/// Bytes of the rows that are kept of one interval: rows that are wide are fewer, one at least.
const BYTES_PER_FLUSH: usize = 2 * 1024 * 1024;

/// Bytes of the rows that all windows of a server keep of one interval, so that fifty endpoints under load do not fill memory with
/// rows.
const ALL_BYTES_PER_FLUSH: usize = 24 * 1024 * 1024;

/// Rows that are kept however many windows there are, where they have no more bytes than this; one at least.
const LEAST_ROWS_PER_FLUSH: usize = 64;
const LEAST_BYTES_PER_FLUSH: usize = 256 * 1024;

/// Rows that are put together without a rest.
const ROWS_BEFORE_REST: usize = 64;

/// Keeps what an endpoint saw and answered, and writes it to the store now and then.
///
/// A window holds the features and the scores side by side. Requests only push into memory; [`Self::flush`], called
/// by a thread about once a second and at its end, does the writing.
pub struct WindowCapture {
    reservoir: Mutex<Reservoir>,
    writer: Mutex<WindowWriter>,
    rows_written: AtomicU64,
    /// Whether rows are taken.
    is_open: AtomicBool,
}

/// The memory that the windows of a server share.
#[derive(Debug, Default)]
pub struct WindowMemory {
    taken: AtomicUsize,
}

impl WindowMemory {
    /// Takes so many bytes, if there are.
    fn take(&self, bytes: usize) -> bool {
        let taken = self.taken.fetch_add(bytes, Ordering::Relaxed);
        let is_there = taken.saturating_add(bytes) <= ALL_BYTES_PER_FLUSH;
        if !is_there {
            self.give_back(bytes);
        }
        is_there
    }

    fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A window that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write a monitoring window")]
pub enum WindowError {
    /// The store failed.
    Data(#[from] DataError),
    /// Rows do not fit together.
    Batch(#[from] BatchError),
}

/// A uniform sample of a stream of unknown length: algorithm R (Vitter, "Random Sampling with a Reservoir", 1985).
struct Reservoir {
    rows: Vec<Batch>,
    /// Bytes of the rows.
    bytes: usize,
    /// Rows that it holds at most.
    places: usize,
    seen: u64,
    random: u64,
    memory: Arc<WindowMemory>,
    /// Bytes that it has taken of it.
    taken: usize,
}

impl Reservoir {
    fn new(memory: Arc<WindowMemory>) -> Self {
        let (rows, random) = (Vec::new(), 0x9e37_79b9_7f4a_7c15);
        Self { rows, bytes: 0, places: ROWS_PER_FLUSH, seen: 0, random, memory, taken: 0 }
    }

    /// The place of the next row of the stream, which has so many bytes; none if the sample leaves it out.
    fn draw(&mut self, row_bytes: usize) -> Option<usize> {
        self.seen += 1;
        if self.rows.len() < self.places {
            if self.has_room(row_bytes) {
                return Some(self.rows.len());
            }
            // There is no more, so that what it has is its size.
            self.places = self.rows.len();
        }
        // xorshift64 (Marsaglia 2003): which rows are sampled need not be unpredictable, only even.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % self.seen).ok().filter(|&place| place < self.rows.len())
    }

    /// Makes room for one more row of so many bytes, if it may have one.
    fn has_room(&mut self, row_bytes: usize) -> bool {
        let bytes = self.bytes.saturating_add(row_bytes);
        let is_first = self.rows.is_empty();
        if !is_first && bytes > BYTES_PER_FLUSH {
            return false;
        }
        let is_little = self.rows.len() < LEAST_ROWS_PER_FLUSH && bytes <= LEAST_BYTES_PER_FLUSH;
        if self.memory.take(row_bytes) {
            self.taken += row_bytes;
        } else if !is_first && !is_little {
            return false;
        }
        self.bytes = bytes;
        true
    }

    /// What it has, and of how many rows that is a sample; it begins again.
    fn drain(&mut self) -> (Vec<Batch>, u64) {
        (self.bytes, self.places) = (0, ROWS_PER_FLUSH);
        self.memory.give_back(std::mem::take(&mut self.taken));
        (std::mem::take(&mut self.rows), std::mem::take(&mut self.seen))
    }

    fn put(&mut self, place: usize, row: Batch) {
        match self.rows.get_mut(place) {
            Some(kept) => *kept = row,
            None => self.rows.push(row),
        }
    }

    /// Samples the rows of a batch, whose columns are those of `features` and of `scores`. They are put together only if it takes
    /// one.
    fn offer(&mut self, features: &Batch, scores: &Batch) {
        let rows = features.rows();
        let row_bytes = (features.byte_len() + scores.byte_len()) / rows.max(1);
        let row_of = |batch: &Batch, row: usize| match rows {
            1 => Some(batch.clone()),
            _ => batch.slice_rows(row..row + 1),
        };
        for row in 0..rows {
            let Some(place) = self.draw(row_bytes) else { continue };
            let (Some(features), Some(scores)) = (row_of(features, row), row_of(scores, row)) else { return };
            let mut columns = features.into_tensors();
            columns.extend(scores.into_tensors());
            // A feature column named like the model's output would make no batch; then there is nothing to keep.
            let Ok(row) = Batch::new(columns) else { return };
            self.put(place, row);
        }
    }
}

impl Drop for Reservoir {
    fn drop(&mut self) {
        self.drain();
    }
}

impl WindowCapture {
    /// Captures into `writer`, with a part of `memory`.
    pub fn new(writer: WindowWriter, memory: Arc<WindowMemory>) -> Self {
        let reservoir = Reservoir::new(memory);
        Self {
            reservoir: Mutex::new(reservoir),
            writer: Mutex::new(writer),
            rows_written: AtomicU64::new(0),
            is_open: AtomicBool::new(true),
        }
    }

    /// Takes rows from now on, or no more.
    pub(super) fn set_open(&self, is_open: bool) {
        self.is_open.store(is_open, Ordering::Relaxed);
    }

    /// Offers the rows of an answered request.
    pub fn offer(&self, features: &Batch, scores: &Batch) {
        if !self.is_open.load(Ordering::Relaxed) {
            return;
        }
        self.reservoir.lock().unwrap_or_else(PoisonError::into_inner).offer(features, scores);
    }

    /// Writes what was captured since the last time; gives the number of rows. When it returns, what another thread was writing
    /// is written too.
    pub fn flush(&self) -> Result<usize, WindowError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let (rows, seen) = self.reservoir.lock().unwrap_or_else(PoisonError::into_inner).drain();
        let (count, mut rows) = (rows.len(), rows.into_iter());
        let Some(mut segment) = rows.next() else { return Ok(0) };
        segment.reserve_rows(count);
        for (index, row) in rows.enumerate() {
            segment.append(&row)?;
            if (index + 1) % ROWS_BEFORE_REST == 0 {
                rest();
            }
        }
        if segment.rows() > 0 {
            writer.append(&segment, seen, now_ms())?;
            self.rows_written.fetch_add(segment.rows() as u64, Ordering::Relaxed);
        }
        Ok(segment.rows())
    }

    /// Rows written so far.
    pub fn rows_written(&self) -> u64 {
        self.rows_written.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Tensor;

    fn values(range: std::ops::Range<usize>) -> Batch {
        let values: Vec<f32> = range.map(|value| value as f32).collect();
        Batch::new(vec![Tensor::from_f32("x", vec![values.len()], &values).unwrap()]).unwrap()
    }

    #[test]
    fn a_full_reservoir_is_an_even_sample() {
        for rows_at_once in [1, 2_000] {
            let mut reservoir = Reservoir::new(Arc::default());
            for start in (0..20_000).step_by(rows_at_once) {
                reservoir.offer(&values(start..start + rows_at_once), &Batch::default());
            }
            assert_eq!(reservoir.rows.len(), ROWS_PER_FLUSH);
            let kept = |row: &Batch| row.tensors()[0].as_f32().unwrap()[0];
            let mean = reservoir.rows.iter().map(kept).sum::<f32>() / 1_024.0;
            // The standard error of the mean is 5774 / √1024 ≈ 180.
            assert!((mean - 10_000.0).abs() < 900.0, "{mean}");
        }
    }

    #[test]
    fn few_rows_are_all_kept_in_their_order() {
        let mut reservoir = Reservoir::new(Arc::default());
        reservoir.offer(&values(0..1), &Batch::default());
        reservoir.offer(&values(1..10), &Batch::default());
        let kept: Vec<_> = reservoir.rows.iter().map(|row| row.tensors()[0].as_f32().unwrap()[0]).collect();
        assert_eq!(kept, (0_u8..10).map(f32::from).collect::<Vec<_>>());
    }

    #[test]
    fn rows_that_are_wide_are_fewer() {
        let wide = |elements: usize| {
            let tensor = Tensor::from_f32("x", vec![1, elements], &vec![0.0; elements]).unwrap();
            Batch::new(vec![tensor]).unwrap()
        };
        let kept = |elements: usize| {
            let (mut reservoir, row) = (Reservoir::new(Arc::default()), wide(elements));
            (0..2_000).for_each(|_| reservoir.offer(&row, &Batch::default()));
            let kept = reservoir.rows.len();
            reservoir.drain();
            (0..2_000).for_each(|_| reservoir.offer(&row, &Batch::default()));
            assert_eq!(reservoir.rows.len(), kept, "as many in the next interval");
            kept
        };
        assert_eq!([1, 784, 10_000, 1_000_000].map(kept), [ROWS_PER_FLUSH, 668, 52, 1]);
    }

    #[test]
    fn all_windows_together_keep_no_more_than_there_is_memory_for() {
        assert_eq!(kept_of_fifty(784), (668, LEAST_ROWS_PER_FLUSH));
        assert_eq!(kept_of_fifty(100_000), (5, 1), "however wide they are");
    }

    /// How many rows of so many elements the first and the last of fifty windows keep.
    fn kept_of_fifty(elements: usize) -> (usize, usize) {
        let tensor = Tensor::from_f32("x", vec![1, elements], &vec![0.0; elements]).unwrap();
        let row = Batch::new(vec![tensor]).unwrap();
        let memory = Arc::<WindowMemory>::default();
        let mut all: Vec<Reservoir> = (0..50).map(|_| Reservoir::new(Arc::clone(&memory))).collect();
        for reservoir in &mut all {
            (0..2_000).for_each(|_| reservoir.offer(&row, &Batch::default()));
        }
        let kept: Vec<usize> = all.iter().map(|reservoir| reservoir.rows.len()).collect();
        let bytes = kept.iter().sum::<usize>() * row.byte_len();
        let least = LEAST_BYTES_PER_FLUSH.max(row.byte_len());
        assert!(bytes <= ALL_BYTES_PER_FLUSH + 50 * least, "{bytes}");
        all.iter_mut().for_each(|reservoir| drop(reservoir.drain()));
        assert_eq!(memory.taken.load(Ordering::Relaxed), 0);
        all[49].offer(&row, &Batch::default());
        drop(all);
        assert_eq!(memory.taken.load(Ordering::Relaxed), 0, "one that is unloaded gives back what it has");
        (kept[0], kept[49])
    }
}
