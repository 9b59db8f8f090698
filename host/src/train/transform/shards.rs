//! One thread reads rows and cuts them into shards; others transform, look at, hash and write one shard each.
//!
//! Where shards are cut depends on the rows alone, and what is known of them is added up in their order, so the version
//! is the same however many threads there are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use super::rows::Rows;
use super::{Columns, TransformError, TransformEvent};
use crate::data::{BATCH_ROWS, Shard, ShardPlace, ShardWriter, ShardedSplit};
use crate::domain::{Batch, DataType};
use crate::train::matrix::Split;

/// Bytes of the rows of a shard, as they were and as they become. Each thread holds both.
const SHARD_BYTES: usize = 16 * 1024 * 1024;

/// Most threads that transform, so that they hold some 300 MiB together.
const THREADS_MAX: usize = 8;

/// What was written.
pub(super) struct Made {
    /// Its splits, of which some may be empty.
    pub(super) splits: Vec<ShardedSplit>,
}

/// Rows that become one shard.
struct Job {
    /// Shards before it.
    order: u64,
    split: Split,
    /// Shards of its split before it.
    number: u64,
    first_row: u64,
    rows: Batch,
}

/// Writes all rows, on some threads.
pub(super) fn write(
    rows: &Rows<'_>,
    columns: &Columns<'_>,
    writer: &ShardWriter,
    threads: usize,
    progress: &(dyn Fn(TransformEvent) + Sync),
) -> Result<Made, TransformError> {
    let (sender, receiver) = sync_channel(1);
    let receiver = Mutex::new(receiver);
    let failed = AtomicBool::new(false);
    let done = Mutex::new(Done::default());
    std::thread::scope(|scope| {
        let work = || work(&receiver, columns, writer, &done, &failed);
        let workers: Vec<_> = (0..threads.clamp(1, THREADS_MAX)).map(|_| scope.spawn(work)).collect();
        let read = feed(rows, columns, sender, &failed, progress);
        let worked = workers.into_iter().map(|worker| worker.join().unwrap_or(Err(TransformError::Stopped)));
        // What stopped the workers is the cause of what stopped the reader.
        worked.fold(Ok(()), Result::and).and(read)
    })?;
    let Done { train, test, .. } = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Made { splits: vec![test, train] })
}

/// Shards that are written, added up as far as all before them are.
#[derive(Default)]
struct Done {
    next: u64,
    waiting: BTreeMap<u64, (Split, Shard)>,
    train: ShardedSplit,
    test: ShardedSplit,
}

impl Done {
    fn push(&mut self, order: u64, split: Split, shard: Shard) -> Result<(), TransformError> {
        self.waiting.insert(order, (split, shard));
        while let Some((split, shard)) = self.waiting.remove(&self.next) {
            self.next += 1;
            match split {
                Split::Train => self.train.push(shard)?,
                Split::Test => self.test.push(shard)?,
            }
        }
        Ok(())
    }
}

/// Makes shards until there are no more rows. After an error of any thread it only takes rows away, so that the reader
/// never waits for nobody.
fn work(
    jobs: &Mutex<Receiver<Job>>,
    columns: &Columns<'_>,
    writer: &ShardWriter,
    done: &Mutex<Done>,
    failed: &AtomicBool,
) -> Result<(), TransformError> {
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
    let mut outcome = Ok(());
    while let Some(job) = next() {
        if failed.load(Ordering::Relaxed) {
            continue;
        }
        let made = make_shard(job, columns, writer, done);
        if made.is_err() {
            failed.store(true, Ordering::Relaxed);
            outcome = made;
        }
    }
    outcome
}

fn make_shard(
    job: Job,
    columns: &Columns<'_>,
    writer: &ShardWriter,
    done: &Mutex<Done>,
) -> Result<(), TransformError> {
    let Job { order, split, number, first_row, rows } = job;
    let made = columns.make_all(rows)?;
    let shard = writer.write(ShardPlace { split: split.as_str(), number, first_row }, &made)?;
    done.lock().unwrap_or_else(PoisonError::into_inner).push(order, split, shard)
}

/// Rows of a split that wait to become a shard.
struct Cut {
    split: Split,
    rows: Batch,
    number: u64,
    first_row: u64,
}

/// Reads all rows and sends them shard by shard.
fn feed(
    rows: &Rows<'_>,
    columns: &Columns<'_>,
    jobs: SyncSender<Job>,
    failed: &AtomicBool,
    progress: &(dyn Fn(TransformEvent) + Sync),
) -> Result<(), TransformError> {
    let cut = |split| Cut { split, rows: Batch::default(), number: 0, first_row: 0 };
    let mut cuts = [cut(Split::Train), cut(Split::Test)];
    let mut order = 0;
    let mut send = |cut: &mut Cut, rows: Batch| {
        let (split, number, first_row) = (cut.split, cut.number, cut.first_row);
        cut.number += 1;
        cut.first_row += rows.rows() as u64;
        let job = Job { order, split, number, first_row, rows };
        order += 1;
        match failed.load(Ordering::Relaxed) {
            true => Err(TransformError::Stopped),
            false => jobs.send(job).map_err(|_| TransformError::Stopped),
        }
    };
    let mut shard_rows = None;
    rows.read(None, progress, &mut |split, batch| {
        let shard_rows = match shard_rows {
            Some(rows) => rows,
            None => *shard_rows.insert(rows_of_shard(&batch, columns)?),
        };
        let Some(cut) = cuts.iter_mut().find(|cut| cut.split == split) else { return Ok(()) };
        cut.rows.append(&batch)?;
        while cut.rows.rows() >= shard_rows {
            let rest = cut.rows.slice_rows(shard_rows..cut.rows.rows()).unwrap_or_default();
            let mut full = std::mem::replace(&mut cut.rows, rest);
            if full.rows() > shard_rows {
                full = full.slice_rows(0..shard_rows).unwrap_or_default();
            }
            send(cut, full)?;
        }
        Ok(())
    })?;
    for cut in &mut cuts {
        let rest = std::mem::take(&mut cut.rows);
        if rest.rows() > 0 {
            send(cut, rest)?;
        }
    }
    Ok(())
}

/// Rows of a shard, by what a first batch has and becomes. Whole batches, so that a transformer gets the same ones however
/// wide the rows are.
fn rows_of_shard(first: &Batch, columns: &Columns<'_>) -> Result<usize, TransformError> {
    let made = columns.make(first.clone())?;
    if let Some(text) = made.tensors().iter().find(|tensor| tensor.dtype() == DataType::Bytes) {
        return Err(TransformError::Text { column: text.name().to_owned() });
    }
    let bytes = first.byte_len().max(made.byte_len());
    let rows = SHARD_BYTES / bytes.div_ceil(first.rows().max(1)).max(1);
    Ok(if rows > BATCH_ROWS { rows - rows % BATCH_ROWS } else { rows.max(1) })
}
