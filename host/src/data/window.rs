//! Monitoring windows: the newest rows that an endpoint saw, in segments of safetensors.
//!
//! A segment is written each time rows come, and names the bundle that saw and answered them; small neighbours of one
//! bundle are joined, so that a quiet endpoint has no more files than a busy one. Where the process dies between writing
//! a joined segment and removing its parts, some rows are there twice until they age out: windows are samples for
//! statistics, not a log.

use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use std::path::Path;

use super::DataError;
use super::safetensors::{RowsHead, decode_rows_of, encode_rows_of, read_head_of};
use crate::domain::{Batch, ColumnSpec, Digest, Name};
use crate::store::{Segments, Store};

/// Rows from which on a segment is no longer joined with the next.
const SEGMENT_ROWS: usize = 1_024;

/// Bytes from which on it is not joined either: rows that are wide would soon be too much to be written again and again.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes of a window, however many rows were asked for. A detector has to hold them in memory, where it may have 256 MiB.
const WINDOW_BYTES: u64 = 128 * 1024 * 1024;

/// How often a reader starts again because a writer joined segments under its hands.
const READ_TRIES: usize = 10;

/// The newest rows that an endpoint saw, all answered by one bundle.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// The bundle.
    pub bundle: Digest,
    /// Features and scores side by side, oldest row first.
    pub rows: Batch,
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
    bundle: Digest,
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
        for number in store.segments(Segments::Window(endpoint))? {
            match read_head(store, endpoint, number) {
                Ok(Some((head, bytes))) => {
                    columns = head.columns;
                    segments.push_back(Segment { number, bundle: head.bundle, rows: head.rows, bytes });
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
            bundle,
            rows_max: rows_max.max(1),
            bytes_max: WINDOW_BYTES,
            segments,
            columns,
        })
    }

    /// Adds the rows of `batch`, and lets go of as many old ones as are no longer needed.
    pub fn append(&mut self, batch: &Batch) -> Result<(), DataError> {
        let rows = batch.rows();
        let newest = match rows > self.rows_max {
            true => batch.slice_rows(rows - self.rows_max..rows).map(Cow::Owned),
            false => Some(Cow::Borrowed(batch)),
        };
        let Some(batch) = newest.filter(|batch| batch.rows() > 0) else { return Ok(()) };
        let bytes = encode_rows_of(self.bundle, &batch)?;
        let number = self.store.append_segment(Segments::Window(&self.endpoint), &[&bytes])?;
        self.add(number, &batch, &bytes);
        let columns = ColumnSpec::of_batch(&batch);
        if columns == self.columns {
            self.join()?;
        }
        self.columns = columns;
        self.trim()
    }

    fn add(&mut self, number: u64, rows: &Batch, encoded: &[u8]) {
        let (bundle, rows, bytes) = (self.bundle, rows.rows(), encoded.len() as u64);
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
            let own = older.bundle == self.bundle && newer.bundle == self.bundle;
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
            let bytes = encode_rows_of(self.bundle, &joined)?;
            self.store.replace_segment(Segments::Window(&self.endpoint), newer, &bytes)?;
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

/// The bundles that the windows of all endpoints name: comparing a window needs the bundle that filled it.
pub fn window_bundles(store: &Store) -> Result<BTreeSet<Digest>, DataError> {
    let mut bundles = BTreeSet::new();
    for endpoint in store.window_endpoints()? {
        for number in store.segments(Segments::Window(&endpoint))? {
            // One that is gone meanwhile was joined with the next, which is read after it.
            bundles.extend(read_head(store, &endpoint, number)?.map(|(head, _)| head.bundle));
        }
    }
    Ok(bundles)
}

/// The newest at most `rows_max` rows of an endpoint's window, fewer where they take more than 128 MiB; none if there are no rows.
///
/// Segments that another bundle filled than the newest, or whose columns differ, as they do where `host serve` replaced a
/// transformer, are passed over: those rows are not of the same model.
pub fn read_window(store: &Store, endpoint: &Name, rows_max: usize) -> Result<Option<Window>, DataError> {
    let mut segments = Vec::new();
    for _ in 0..READ_TRIES {
        let (found, whole) = read_newest(store, endpoint, rows_max, WINDOW_BYTES)?;
        segments = found;
        if whole {
            break;
        }
    }
    let Some(bundle) = segments.first().map(|newest| newest.bundle) else { return Ok(None) };
    let mut rows = Batch::default();
    for segment in segments.into_iter().rev() {
        rows.append(&segment.rows)?;
    }
    let count = rows.rows();
    let rows = rows.slice_rows(count.saturating_sub(rows_max)..count).unwrap_or(rows);
    Ok(Some(Window { bundle, rows }))
}

/// Segments from the newest back, and whether none vanished meanwhile.
fn read_newest(
    store: &Store,
    endpoint: &Name,
    rows_max: usize,
    bytes_max: u64,
) -> Result<(Vec<Window>, bool), DataError> {
    let mut segments: Vec<Window> = Vec::new();
    let (mut rows, mut bytes) = (0, 0_u64);
    for number in store.segments(Segments::Window(endpoint))?.into_iter().rev() {
        if rows >= rows_max {
            break;
        }
        let Some(segment) = read_segment(store, endpoint, number)? else {
            return Ok((segments, false));
        };
        let continues = |newest: &Window| {
            let columns = ColumnSpec::of_batch(&newest.rows);
            newest.bundle == segment.bundle && columns == ColumnSpec::of_batch(&segment.rows)
        };
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
    let (bundle, rows) = decode_rows_of(&bytes).map_err(damaged(endpoint, number))?;
    Ok(Some(Window { bundle, rows }))
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
mod tests {
    use super::super::encode_safetensors;
    use super::*;
    use crate::domain::Tensor;

    fn open(rows_max: usize) -> (tempfile::TempDir, Store, Name, WindowWriter) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let endpoint: Name = "mnist".parse().unwrap();
        let writer = WindowWriter::open(&store, &endpoint, bundle("first"), rows_max).unwrap();
        (folder, store, endpoint, writer)
    }

    fn bundle(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    fn read(store: &Store, endpoint: &Name, rows_max: usize) -> Batch {
        read_window(store, endpoint, rows_max).unwrap().map(|window| window.rows).unwrap_or_default()
    }

    fn batch(column: &str, values: std::ops::Range<usize>) -> Batch {
        let values: Vec<f32> = values.map(|value| value as f32).collect();
        Batch::new(vec![Tensor::from_f32(column, vec![values.len()], &values).unwrap()]).unwrap()
    }

    fn values(batch: &Batch) -> Vec<usize> {
        let values = batch.tensors().first().map(|tensor| tensor.to_f64().unwrap()).unwrap_or_default();
        values.into_iter().map(|value| value as usize).collect()
    }

    #[test]
    fn gives_the_newest_rows_in_order() {
        let (_folder, store, endpoint, mut writer) = open(50);
        assert_eq!(read(&store, &endpoint, 10), Batch::default());
        writer.append(&Batch::default()).unwrap();
        for start in (0..200).step_by(10) {
            writer.append(&batch("x", start..start + 10)).unwrap();
        }
        assert_eq!(values(&read(&store, &endpoint, 50)), (150..200).collect::<Vec<_>>());
        assert_eq!(values(&read(&store, &endpoint, 7)), (193..200).collect::<Vec<_>>());
        assert_eq!(read(&store, &endpoint, 0).rows(), 0);
    }

    #[test]
    fn keeps_few_files_and_not_many_more_rows_than_asked() {
        let (_folder, store, endpoint, mut writer) = open(3_000);
        for start in (0..6_000).step_by(20) {
            writer.append(&batch("x", start..start + 20)).unwrap();
        }
        let segments = store.segments(Segments::Window(&endpoint)).unwrap();
        assert!(segments.len() <= 16, "{} segments", segments.len());
        let all = read(&store, &endpoint, usize::MAX);
        assert!((3_000..3_000 + SEGMENT_ROWS).contains(&all.rows()), "{} rows", all.rows());
        assert_eq!(values(&all), (6_000 - all.rows()..6_000).collect::<Vec<_>>());
        writer.append(&batch("x", 0..10_000)).unwrap();
        assert_eq!(values(&read(&store, &endpoint, usize::MAX)), (7_000..10_000).collect::<Vec<_>>());
    }

    /// One row of a mebibyte.
    fn wide(value: u8) -> Batch {
        let row = Tensor::from_f32("x", vec![1, 1 << 18], &[f32::from(value); 1 << 18]).unwrap();
        Batch::new(vec![row]).unwrap()
    }

    fn wide_values(rows: &Batch) -> Vec<usize> {
        values(rows).into_iter().step_by(1 << 18).collect()
    }

    /// Bytes of the segments, oldest first.
    fn lengths(store: &Store, endpoint: &Name) -> Vec<u64> {
        let of = Segments::Window(endpoint);
        let length = |number| store.segment_len(of, number).unwrap().unwrap();
        store.segments(of).unwrap().into_iter().map(length).collect()
    }

    #[test]
    fn rows_that_are_wide_are_kept_up_to_so_many_bytes() {
        let (_folder, store, endpoint, mut writer) = open(1_000);
        writer.bytes_max = 8 << 20;
        (0..20).for_each(|value| writer.append(&wide(value)).unwrap());
        let found = lengths(&store, &endpoint);
        assert!(found.iter().all(|&length| length <= SEGMENT_BYTES), "{found:?}");
        assert!(found.iter().sum::<u64>() <= writer.bytes_max, "{found:?}");
        let kept = wide_values(&read(&store, &endpoint, 1_000));
        assert!(kept.len() >= 4, "{kept:?}");
        assert_eq!(kept, (20 - kept.len()..20).collect::<Vec<_>>());
        writer.bytes_max = 1;
        writer.append(&wide(20)).unwrap();
        assert_eq!(lengths(&store, &endpoint).len(), 1, "the newest stays");
        assert_eq!(wide_values(&read(&store, &endpoint, 1_000)).last(), Some(&20));
    }

    #[test]
    fn a_reader_takes_so_many_bytes() {
        let (_folder, store, endpoint, mut writer) = open(1_000);
        (0..20).for_each(|value| writer.append(&wide(value)).unwrap());
        let rows = |bytes_max| {
            let (segments, whole) = read_newest(&store, &endpoint, 1_000, bytes_max).unwrap();
            assert!(whole);
            segments.iter().map(|segment| segment.rows.rows()).sum::<usize>()
        };
        assert_eq!(rows(u64::MAX), 20);
        assert!((4..=8).contains(&rows(8 << 20)), "{}", rows(8 << 20));
        assert!((1..=4).contains(&rows(1)), "the newest segment");
    }

    #[test]
    fn each_of_several_writers_keeps_so_many_bytes() {
        let (_folder, store, endpoint, first) = open(1_000);
        let second = WindowWriter::open(&store, &endpoint, bundle("second"), 1_000).unwrap();
        let mut writers = [first, second];
        for value in 0..20 {
            for writer in &mut writers {
                writer.bytes_max = 4 << 20;
                writer.append(&wide(value)).unwrap();
            }
        }
        let bytes = |store| lengths(store, &endpoint).iter().sum::<u64>();
        assert!(bytes(&store) <= 8 << 20, "{}", bytes(&store));
        // Who comes next has all of it to look after.
        let mut third = WindowWriter::open(&store, &endpoint, bundle("second"), 1_000).unwrap();
        third.bytes_max = 4 << 20;
        third.append(&wide(20)).unwrap();
        assert!(bytes(&store) <= 4 << 20, "{}", bytes(&store));
        let window = read_window(&store, &endpoint, 1_000).unwrap().unwrap();
        assert_eq!((window.bundle, wide_values(&window.rows).last()), (bundle("second"), Some(&20)));
    }

    #[test]
    fn a_window_is_opened_without_reading_its_rows() {
        let (folder, store, endpoint, mut writer) = open(1_000);
        writer.append(&wide(0)).unwrap();
        // More than is ever read at once, and nothing on the disk.
        let bytes_of_rows = 2_u64 << 30;
        let header = format!(
            r#"{{"__metadata__":{{"bundle":"{}"}},"x":{{"dtype":"U8","shape":[2,{}],"data_offsets":[0,{bytes_of_rows}]}}}}"#,
            bundle("first"),
            bytes_of_rows / 2
        );
        let parts = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()];
        let number = store.append_segment(Segments::Window(&endpoint), &parts).unwrap();
        let path = folder.path().join(format!("windows/{endpoint}/{number:08}.safetensors"));
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_len(8 + header.len() as u64 + bytes_of_rows).unwrap();
        assert_eq!(window_bundles(&store).unwrap(), BTreeSet::from([bundle("first")]));
        let mut writer = WindowWriter::open(&store, &endpoint, bundle("first"), 1_000).unwrap();
        assert_eq!(writer.segments.iter().map(|segment| segment.rows).collect::<Vec<_>>(), [1, 2]);
        writer.append(&wide(1)).unwrap();
        assert_eq!(wide_values(&read(&store, &endpoint, 1_000)), [1], "what is too much goes");
    }

    #[test]
    fn a_reopened_window_goes_on() {
        let (_folder, store, endpoint, mut writer) = open(10);
        writer.append(&batch("x", 0..8)).unwrap();
        drop(writer);
        let mut writer = WindowWriter::open(&store, &endpoint, bundle("first"), 10).unwrap();
        writer.append(&batch("x", 8..16)).unwrap();
        assert_eq!(values(&read(&store, &endpoint, 10)), (6..16).collect::<Vec<_>>());
    }

    #[test]
    fn rows_with_other_columns_are_left_out() {
        let (_folder, store, endpoint, mut writer) = open(100);
        writer.append(&batch("x", 0..8)).unwrap();
        writer.append(&batch("y", 8..12)).unwrap();
        writer.append(&batch("y", 12..14)).unwrap();
        let window = read(&store, &endpoint, 100);
        assert_eq!(window.tensors()[0].name(), "y");
        assert_eq!(values(&window), (8..14).collect::<Vec<_>>());
    }

    #[test]
    fn rows_of_another_bundle_are_neither_joined_nor_read() {
        let (_folder, store, endpoint, mut writer) = open(100);
        writer.append(&batch("x", 0..4)).unwrap();
        writer.append(&batch("x", 4..8)).unwrap();
        let mut second = WindowWriter::open(&store, &endpoint, bundle("second"), 100).unwrap();
        assert_eq!(read_window(&store, &endpoint, 100).unwrap().unwrap().bundle, bundle("first"));
        second.append(&batch("x", 8..12)).unwrap();
        second.append(&batch("x", 12..16)).unwrap();
        assert_eq!(store.segments(Segments::Window(&endpoint)).unwrap().len(), 2, "one for each bundle");
        let window = read_window(&store, &endpoint, 100).unwrap().unwrap();
        assert_eq!((window.bundle, values(&window.rows)), (bundle("second"), (8..16).collect()));
        // Two that share an endpoint's requests write by turns: neither hides what the other has kept.
        let mut first_again = WindowWriter::open(&store, &endpoint, bundle("first"), 100).unwrap();
        first_again.append(&batch("x", 16..18)).unwrap();
        let window = read_window(&store, &endpoint, 100).unwrap().unwrap();
        assert_eq!((window.bundle, values(&window.rows)), (bundle("first"), (0..8).chain(16..18).collect()));
    }

    #[test]
    fn a_segment_that_names_no_bundle_is_damaged() {
        let (_folder, store, endpoint, _writer) = open(100);
        let bytes = encode_safetensors(&batch("x", 0..8)).unwrap();
        store.append_segment(Segments::Window(&endpoint), &[&bytes]).unwrap();
        assert!(matches!(read_window(&store, &endpoint, 100), Err(DataError::Window { .. })));
        WindowWriter::open(&store, &endpoint, bundle("first"), 100).unwrap();
        assert_eq!(read_window(&store, &endpoint, 100).unwrap(), None);
    }

    #[test]
    fn a_damaged_segment_is_named_and_does_not_stop_the_server() {
        let (_folder, store, endpoint, mut writer) = open(100);
        writer.append(&batch("x", 0..8)).unwrap();
        let number = store.append_segment(Segments::Window(&endpoint), &[b"noise"]).unwrap();
        let error = read_window(&store, &endpoint, 100).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("segment {number} of the window of endpoint `mnist` is damaged")
        );
        WindowWriter::open(&store, &endpoint, bundle("first"), 100).unwrap();
        assert_eq!(read(&store, &endpoint, 100).rows(), 8);
    }
}
