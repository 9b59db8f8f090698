use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;

use super::DataError;

/// Most bytes that a reader holds for one batch; batches of wide rows have fewer rows than asked for.
pub(super) const BATCH_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Bytes read from a file at a time.
const BUFFER_BYTES: usize = 128 * 1024;

/// The content of a file: as it is, or unpacked where it starts like gzip, whatever its name.
pub(super) struct Content {
    /// Gives the bytes.
    pub(super) reader: Box<dyn Read + Send>,
    /// How many bytes there are; none where only unpacking would tell.
    pub(super) size: Option<u64>,
}

impl Content {
    pub(super) fn open(mut file: File, name: &str) -> Result<Self, DataError> {
        let failed = || DataError::read(Path::new(name));
        let mut magic = [0; 2];
        let found = read_full(&mut file, &mut magic).map_err(failed())?;
        file.rewind().map_err(failed())?;
        if found == 2 && magic == [0x1f, 0x8b] {
            let packed = BufReader::with_capacity(BUFFER_BYTES, file);
            // The decoder gives small pieces for small questions; the buffer asks for large ones.
            let unpacked = BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(packed));
            return Ok(Self { reader: Box::new(unpacked), size: None });
        }
        let size = Some(file.metadata().map_err(failed())?.len());
        Ok(Self { reader: Box::new(BufReader::with_capacity(BUFFER_BYTES, file)), size })
    }
}

/// Fills `buffer` as far as there are bytes; gives how many there were.
pub(super) fn read_full(reader: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// How many bytes a [`BudgetReader`] may still give; shared with whoever refills it.
#[derive(Clone)]
pub(super) struct Budget(Arc<AtomicU64>);

impl Budget {
    pub(super) fn refill(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }
}

/// Fails once its budget is used up, so that what a parser collects before it answers stays bounded.
pub(super) struct BudgetReader<R> {
    inner: R,
    budget: Budget,
}

impl<R: Read> BudgetReader<R> {
    pub(super) fn new(inner: R) -> (Self, Budget) {
        let budget = Budget(Arc::new(AtomicU64::new(u64::MAX)));
        (Self { inner, budget: budget.clone() }, budget)
    }
}

impl<R: Read> Read for BudgetReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.budget.0.load(Ordering::Relaxed);
        if left == 0 {
            return Err(std::io::Error::new(ErrorKind::FileTooLarge, "one record is longer than the limit"));
        }
        let count = self.inner.read(buffer)?;
        self.budget.refill(left.saturating_sub(count as u64));
        Ok(count)
    }
}
