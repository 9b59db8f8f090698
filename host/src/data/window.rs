//! Monitoring windows: the newest rows that an endpoint saw, in segments of safetensors.
//!
//! A segment is written each time rows come, and names the bundle that saw and answered them; small neighbours of one
//! bundle are joined, so that a quiet endpoint has no more files than a busy one. Where the process dies between writing
//! a joined segment and removing its parts, some rows are there twice until they age out: windows are samples for
//! statistics, not a log.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::Path;

use super::DataError;
use super::safetensors::{RowsHead, RowsOrigin, decode_rows_of, encode_rows_of, read_head_of};
use crate::domain::{Batch, ColumnSpec, Digest, Name};
use crate::store::{Segments, Store};

/// Rows from which on a segment is no longer joined with the next.
const SEGMENT_ROWS: usize = 1_024;

/// Bytes from which on it is not joined either: rows that are wide would soon be too much to be written again and again.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes of a window, however many rows were asked for. A detector has to hold them in memory, where it may have 256 MiB.
const WINDOW_BYTES: u64 = 128 * 1024 * 1024;

/// Seconds up to the newest rows of a window. Who has answered most rows in them is looked at, so that one that is given few
/// requests hides nobody, and one that replaces another is seen soon.
const RECENT_SECONDS: u64 = 60;

/// How often a reader starts again because a writer joined segments under its hands.
const READ_TRIES: usize = 10;

/// The newest rows that an endpoint saw, all answered by one bundle.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// The bundle.
    pub bundle: Digest,
    /// The version of a model that it was when it answered the newest, as `name@number`; none where it was none.
    pub version: Option<String>,
    /// Features and scores side by side, oldest row first.
    pub rows: Batch,
}

/// A bundle that has answered rows of a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowBundle {
    /// The bundle.
    pub bundle: Digest,
    /// The version of a model that it was, as `name@number`; none where it was none.
    pub version: Option<String>,
}

impl fmt::Display for WindowBundle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => formatter.write_str(version),
            None => self.bundle.fmt(formatter),
        }
    }
}

struct Segment {
    number: u64,
    bundle: Digest,
    rows: usize,
    bytes: u64,
}

/// Adds rows to the window of one endpoint, which keeps its newest.
pub struct WindowWriter {
    store: Store,
    endpoint: Name,
    /// Whose rows it writes, and how many of them came in the last minute. Those that are kept do not tell: they are a sample, and
    /// make room for others the sooner the more there are.
    origin: RowsOrigin,
    rows_max: usize,
    bytes_max: u64,
    segments: VecDeque<Segment>,
    /// Columns of the newest segment; rows with other columns are never joined with it.
    columns: Vec<ColumnSpec>,
}

impl WindowWriter {
    /// Opens the window of `endpoint` for rows that `bundle` answers. At least the newest `rows_max` rows are kept, and
    /// not many more, whichever bundle answered them; fewer where they would take more than 128 MiB.
    pub fn open(store: &Store, endpoint: &Name, bundle: Digest, rows_max: usize) -> Result<Self, DataError> {
        let mut segments = VecDeque::new();
        let mut columns = Vec::new();
        let mut origin = RowsOrigin { bundle, version: None, answered: BTreeMap::new() };
        for number in store.segments(Segments::Window(endpoint))? {
            match read_head(store, endpoint, number) {
                Ok(Some((head, bytes))) => {
                    columns = head.columns;
                    let RowsOrigin { bundle: of, answered, .. } = head.origin;
                    if of == bundle {
                        origin.answered = answered;
                    }
                    segments.push_back(Segment { number, bundle: of, rows: head.rows, bytes });
                }
                Ok(None) => {}
                Err(DataError::Window { source, .. }) => {
                    tracing::warn!(%endpoint, number, error = %source, "removing a damaged segment of a window");
                    store.remove_segment(Segments::Window(endpoint), number)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            store: store.clone(),
            endpoint: endpoint.clone(),
            origin,
            rows_max: rows_max.max(1),
            bytes_max: WINDOW_BYTES,
            segments,
            columns,
        })
    }

    /// Says which version of a model the bundle is, as `name@number`.
    pub fn of_version(self, version: Option<String>) -> Self {
        Self { origin: RowsOrigin { version, ..self.origin }, ..self }
    }

    /// Adds the rows of `batch`, a sample of so many that were `answered` since the last time, and lets go of as many old ones
    /// as are no longer needed.
    pub fn append(&mut self, batch: &Batch, answered: u64, now_ms: i64) -> Result<(), DataError> {
        self.note_answered(answered, now_ms.div_euclid(1_000));
        let rows = batch.rows();
        let newest = match rows > self.rows_max {
            true => batch.slice_rows(rows - self.rows_max..rows).map(Cow::Owned),
            false => Some(Cow::Borrowed(batch)),
        };
        let Some(batch) = newest.filter(|batch| batch.rows() > 0) else { return Ok(()) };
        let bytes = encode_rows_of(&self.origin, &batch)?;
        let number = self.store.append_segment(Segments::Window(&self.endpoint), &[&bytes])?;
        self.add(number, &batch, &bytes);
        let columns = ColumnSpec::of_batch(&batch);
        if columns == self.columns {
            self.join()?;
        }
        self.columns = columns;
        self.trim()
    }

    fn note_answered(&mut self, rows: u64, second: i64) {
        let known = self.origin.answered.entry(second).or_default();
        *known = known.saturating_add(rows);
        // A clock may also be set back.
        self.origin.answered.retain(|&at, _| at.abs_diff(second) < RECENT_SECONDS);
    }

    fn add(&mut self, number: u64, rows: &Batch, encoded: &[u8]) {
        let (bundle, rows, bytes) = (self.origin.bundle, rows.rows(), encoded.len() as u64);
        self.segments.push_back(Segment { number, bundle, rows, bytes });
    }

    /// Joins the newest segments while both are small and of this bundle, and the older is not much larger, so that
    /// each row is rewritten about ten times at most.
    fn join(&mut self) -> Result<(), DataError> {
        while let Some((older, newer)) = self.segments.len().checked_sub(2).and_then(|index| {
            let (older, newer) = (self.segments.get(index)?, self.segments.get(index + 1)?);
            let small = older.rows + newer.rows <= SEGMENT_ROWS
                && older.bytes.saturating_add(newer.bytes) <= SEGMENT_BYTES
                && older.rows <= 2 * newer.rows;
            let own = older.bundle == self.origin.bundle && newer.bundle == self.origin.bundle;
            (small && own).then_some((older.number, newer.number))
        }) {
            let first = read_segment(&self.store, &self.endpoint, older)?;
            let second = read_segment(&self.store, &self.endpoint, newer)?;
            let (Some(Window { rows: mut joined, .. }), Some(second)) = (first, second) else {
                return Ok(());
            };
            if joined.append(&second.rows).is_err() {
                return Ok(());
            }
            let bytes = encode_rows_of(&self.origin, &joined)?;
            self.store.replace_segment(Segments::Window(&self.endpoint), newer, &[&bytes])?;
            self.store.remove_segment(Segments::Window(&self.endpoint), older)?;
            self.segments.truncate(self.segments.len() - 2);
            self.add(newer, &joined, &bytes);
        }
        Ok(())
    }

    fn trim(&mut self) -> Result<(), DataError> {
        let mut rows: usize = self.segments.iter().map(|segment| segment.rows).sum();
        let mut bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        // The newest stays, however large it is.
        while let Some(oldest) = self.segments.front().filter(|_| self.segments.len() > 1) {
            if rows - oldest.rows < self.rows_max && bytes <= self.bytes_max {
                break;
            }
            self.store.remove_segment(Segments::Window(&self.endpoint), oldest.number)?;
            rows -= oldest.rows;
            bytes -= oldest.bytes;
            self.segments.pop_front();
        }
        Ok(())
    }
}

/// The bundles that the windows of all endpoints but some name: comparing a window needs the bundle that filled it.
pub fn window_bundles(store: &Store, except: &BTreeSet<Name>) -> Result<BTreeSet<Digest>, DataError> {
    let mut bundles = BTreeSet::new();
    for endpoint in store.window_endpoints()?.into_iter().filter(|endpoint| !except.contains(endpoint)) {
        for number in store.segments(Segments::Window(&endpoint))? {
            // One that is gone meanwhile was joined with the next, which is read after it.
            bundles.extend(read_head(store, &endpoint, number)?.map(|(head, _)| head.origin.bundle));
        }
    }
    Ok(bundles)
}

/// The bundles that have answered rows of an endpoint's window, each once, who did last first.
pub fn bundles_of_window(store: &Store, endpoint: &Name) -> Result<Vec<WindowBundle>, DataError> {
    let mut bundles: Vec<WindowBundle> = Vec::new();
    for number in store.segments(Segments::Window(endpoint))?.into_iter().rev() {
        let Some((head, _)) = read_head(store, endpoint, number)? else { continue };
        let RowsOrigin { bundle, version, .. } = head.origin;
        if bundles.iter().all(|known| known.bundle != bundle) {
            bundles.push(WindowBundle { bundle, version });
        }
    }
    Ok(bundles)
}

/// The newest at most `rows_max` rows of an endpoint's window that `bundle` answered, fewer where they take more than 128 MiB; none
/// if there are no rows. Where no bundle is given it is the one that answered most rows of the endpoint in the minute before the
/// newest.
///
/// Segments whose columns differ from the newest's, as they do where `host serve` replaced a transformer, are passed over: those
/// rows are not of the same model.
pub fn read_window(
    store: &Store,
    endpoint: &Name,
    bundle: Option<Digest>,
    rows_max: usize,
) -> Result<Option<Window>, DataError> {
    let bundle = match bundle {
        Some(bundle) => Some(bundle),
        None => main_bundle(store, endpoint)?,
    };
    let Some(bundle) = bundle else { return Ok(None) };
    let mut segments = Vec::new();
    for _ in 0..READ_TRIES {
        let (found, whole) = read_newest(store, endpoint, bundle, rows_max, WINDOW_BYTES)?;
        segments = found;
        if whole {
            break;
        }
    }
    let Some(newest) = segments.first() else { return Ok(None) };
    let version = newest.version.clone();
    let mut rows = Batch::default();
    for segment in segments.into_iter().rev() {
        rows.append(&segment.rows)?;
    }
    let count = rows.rows();
    let rows = rows.slice_rows(count.saturating_sub(rows_max)..count).unwrap_or(rows);
    Ok(Some(Window { bundle, version, rows }))
}

/// The bundle that answered most rows of an endpoint in the minute before the newest, of several the one that did last; none if there
/// are no rows. Rows of earlier builds do not say when they were answered: where the newest are such, it is theirs.
fn main_bundle(store: &Store, endpoint: &Name) -> Result<Option<Digest>, DataError> {
    let mut counts: Vec<(Digest, u64)> = Vec::new();
    let mut newest = None;
    for number in store.segments(Segments::Window(endpoint))?.into_iter().rev() {
        // One that is gone meanwhile was joined with the next, which was read before it.
        let Some((head, _)) = read_head(store, endpoint, number)? else { continue };
        let RowsOrigin { bundle, answered, .. } = head.origin;
        let last = answered.last_key_value().map_or(i64::MIN, |(&second, _)| second);
        let newest = *newest.get_or_insert(last);
        if last < newest && last.abs_diff(newest) >= RECENT_SECONDS {
            break;
        }
        // What a segment says is of all rows of its bundle up to it.
        if counts.iter().all(|(known, _)| *known != bundle) {
            let recent = answered.iter().filter(|(second, _)| second.abs_diff(newest) < RECENT_SECONDS);
            let rows = recent.fold(0_u64, |sum, (_, rows)| sum.saturating_add(*rows));
            counts.push((bundle, rows));
        }
    }
    Ok(counts.into_iter().rev().max_by_key(|(_, rows)| *rows).map(|(bundle, _)| bundle))
}

/// Segments of a bundle from the newest back, and whether none vanished meanwhile.
fn read_newest(
    store: &Store,
    endpoint: &Name,
    bundle: Digest,
    rows_max: usize,
    bytes_max: u64,
) -> Result<(Vec<Window>, bool), DataError> {
    let mut segments: Vec<Window> = Vec::new();
    let (mut rows, mut bytes) = (0, 0_u64);
    for number in store.segments(Segments::Window(endpoint))?.into_iter().rev() {
        if rows >= rows_max {
            break;
        }
        let Some((head, _)) = read_head(store, endpoint, number)? else {
            return Ok((segments, false));
        };
        if head.origin.bundle != bundle {
            continue;
        }
        let Some(segment) = read_segment(store, endpoint, number)? else {
            return Ok((segments, false));
        };
        let continues =
            |newest: &Window| ColumnSpec::of_batch(&newest.rows) == ColumnSpec::of_batch(&segment.rows);
        if segments.first().is_none_or(continues) {
            rows += segment.rows.rows();
            bytes = bytes.saturating_add(segment.rows.byte_len() as u64);
            if bytes > bytes_max && !segments.is_empty() {
                break;
            }
            segments.push(segment);
        }
    }
    Ok((segments, true))
}

fn read_segment(store: &Store, endpoint: &Name, number: u64) -> Result<Option<Window>, DataError> {
    let Some(bytes) = store.read_segment(Segments::Window(endpoint), number)? else { return Ok(None) };
    let (origin, rows) = decode_rows_of(&bytes).map_err(damaged(endpoint, number))?;
    let RowsOrigin { bundle, version, .. } = origin;
    Ok(Some(Window { bundle, version, rows }))
}

/// What a segment says of its rows, and its bytes; the rows are not read.
fn read_head(store: &Store, endpoint: &Name, number: u64) -> Result<Option<(RowsHead, u64)>, DataError> {
    let Some(file) = store.open_segment(Segments::Window(endpoint), number)? else { return Ok(None) };
    let name = format!("segment {number} of the window of endpoint `{endpoint}`");
    match read_head_of(&file, &name) {
        Ok(head) => {
            let metadata = file.metadata().map_err(DataError::read(Path::new(&name)))?;
            Ok(Some((head, metadata.len())))
        }
        // A disk that fails says nothing of the segment.
        Err(error @ DataError::Read { .. }) => Err(error),
        Err(error) => Err(damaged(endpoint, number)(error)),
    }
}

fn damaged(endpoint: &Name, number: u64) -> impl FnOnce(DataError) -> DataError {
    let endpoint = endpoint.clone();
    move |error| DataError::Window { endpoint, number, source: Box::new(error) }
}

#[cfg(test)]
mod tests;
