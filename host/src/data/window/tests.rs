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

fn append(writer: &mut WindowWriter, rows: &Batch) {
    append_at(writer, rows, 0);
}

fn append_at(writer: &mut WindowWriter, rows: &Batch, second: i64) {
    writer.append(rows, rows.rows() as u64, second * 1_000).unwrap();
}

fn read(store: &Store, endpoint: &Name, rows_max: usize) -> Batch {
    read_window(store, endpoint, None, rows_max).unwrap().map(|window| window.rows).unwrap_or_default()
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
    append(&mut writer, &Batch::default());
    for start in (0..200).step_by(10) {
        append(&mut writer, &batch("x", start..start + 10));
    }
    assert_eq!(values(&read(&store, &endpoint, 50)), (150..200).collect::<Vec<_>>());
    assert_eq!(values(&read(&store, &endpoint, 7)), (193..200).collect::<Vec<_>>());
    assert_eq!(read(&store, &endpoint, 0).rows(), 0);
}

#[test]
fn keeps_few_files_and_not_many_more_rows_than_asked() {
    let (_folder, store, endpoint, mut writer) = open(3_000);
    for start in (0..6_000).step_by(20) {
        append(&mut writer, &batch("x", start..start + 20));
    }
    let segments = store.segments(Segments::Window(&endpoint)).unwrap();
    assert!(segments.len() <= 16, "{} segments", segments.len());
    let all = read(&store, &endpoint, usize::MAX);
    assert!((3_000..3_000 + SEGMENT_ROWS).contains(&all.rows()), "{} rows", all.rows());
    assert_eq!(values(&all), (6_000 - all.rows()..6_000).collect::<Vec<_>>());
    append(&mut writer, &batch("x", 0..10_000));
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
    (0..20).for_each(|value| append(&mut writer, &wide(value)));
    let found = lengths(&store, &endpoint);
    assert!(found.iter().all(|&length| length <= SEGMENT_BYTES), "{found:?}");
    assert!(found.iter().sum::<u64>() <= writer.bytes_max, "{found:?}");
    let kept = wide_values(&read(&store, &endpoint, 1_000));
    assert!(kept.len() >= 4, "{kept:?}");
    assert_eq!(kept, (20 - kept.len()..20).collect::<Vec<_>>());
    writer.bytes_max = 1;
    append(&mut writer, &wide(20));
    assert_eq!(lengths(&store, &endpoint).len(), 1, "the newest stays");
    assert_eq!(wide_values(&read(&store, &endpoint, 1_000)).last(), Some(&20));
}

#[test]
fn a_reader_takes_so_many_bytes() {
    let (_folder, store, endpoint, mut writer) = open(1_000);
    (0..20).for_each(|value| append(&mut writer, &wide(value)));
    let rows = |bytes_max| {
        let (segments, whole) = read_newest(&store, &endpoint, bundle("first"), 1_000, bytes_max).unwrap();
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
            append(writer, &wide(value));
        }
    }
    let bytes = |store| lengths(store, &endpoint).iter().sum::<u64>();
    assert!(bytes(&store) <= 8 << 20, "{}", bytes(&store));
    // Who comes next has all of it to look after.
    let mut third = WindowWriter::open(&store, &endpoint, bundle("second"), 1_000).unwrap();
    third.bytes_max = 4 << 20;
    append(&mut third, &wide(20));
    assert!(bytes(&store) <= 4 << 20, "{}", bytes(&store));
    let window = read_window(&store, &endpoint, None, 1_000).unwrap().unwrap();
    assert_eq!((window.bundle, wide_values(&window.rows).last()), (bundle("second"), Some(&20)));
}

#[test]
fn a_window_is_opened_without_reading_its_rows() {
    let (folder, store, endpoint, mut writer) = open(1_000);
    append(&mut writer, &wide(0));
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
    assert_eq!(window_bundles(&store, &BTreeSet::new()).unwrap(), BTreeSet::from([bundle("first")]));
    let mut writer = WindowWriter::open(&store, &endpoint, bundle("first"), 1_000).unwrap();
    assert_eq!(writer.segments.iter().map(|segment| segment.rows).collect::<Vec<_>>(), [1, 2]);
    append(&mut writer, &wide(1));
    assert_eq!(wide_values(&read(&store, &endpoint, 1_000)), [1], "what is too much goes");
}

#[test]
fn a_reopened_window_goes_on() {
    let (_folder, store, endpoint, mut writer) = open(10);
    append(&mut writer, &batch("x", 0..8));
    drop(writer);
    let mut writer = WindowWriter::open(&store, &endpoint, bundle("first"), 10).unwrap();
    append(&mut writer, &batch("x", 8..16));
    assert_eq!(values(&read(&store, &endpoint, 10)), (6..16).collect::<Vec<_>>());
}

#[test]
fn rows_with_other_columns_are_left_out() {
    let (_folder, store, endpoint, mut writer) = open(100);
    append(&mut writer, &batch("x", 0..8));
    append(&mut writer, &batch("y", 8..12));
    append(&mut writer, &batch("y", 12..14));
    let window = read(&store, &endpoint, 100);
    assert_eq!(window.tensors()[0].name(), "y");
    assert_eq!(values(&window), (8..14).collect::<Vec<_>>());
}

#[test]
fn rows_of_another_bundle_are_neither_joined_nor_read() {
    let (_folder, store, endpoint, mut writer) = open(100);
    append(&mut writer, &batch("x", 0..4));
    append(&mut writer, &batch("x", 4..8));
    let mut second = WindowWriter::open(&store, &endpoint, bundle("second"), 100).unwrap();
    assert_eq!(read_window(&store, &endpoint, None, 100).unwrap().unwrap().bundle, bundle("first"));
    append(&mut second, &batch("x", 8..12));
    append(&mut second, &batch("x", 12..16));
    assert_eq!(store.segments(Segments::Window(&endpoint)).unwrap().len(), 2, "one for each bundle");
    let window = read_window(&store, &endpoint, None, 100).unwrap().unwrap();
    assert_eq!((window.bundle, values(&window.rows)), (bundle("second"), (8..16).collect()));
    // Two that share an endpoint's requests write by turns: neither hides what the other has kept.
    let mut first_again = WindowWriter::open(&store, &endpoint, bundle("first"), 100).unwrap();
    append(&mut first_again, &batch("x", 16..18));
    let window = read_window(&store, &endpoint, None, 100).unwrap().unwrap();
    assert_eq!((window.bundle, values(&window.rows)), (bundle("first"), (0..8).chain(16..18).collect()));
}

/// Who is looked at where nobody is named.
fn main(store: &Store, endpoint: &Name) -> Digest {
    main_bundle(store, endpoint).unwrap().unwrap()
}

#[test]
fn who_answers_most_is_looked_at_and_another_soon_after_it_has_taken_over() {
    // No more than that is kept of each.
    let (_folder, store, endpoint, champion) = open(20);
    let mut champion = champion.of_version(Some("m@1".to_owned()));
    let mut canary = WindowWriter::open(&store, &endpoint, bundle("canary"), 20).unwrap();
    for second in 0..100 {
        append_at(&mut champion, &batch("x", 0..19), second);
        append_at(&mut canary, &batch("x", 100..101), second);
        assert_eq!(main(&store, &endpoint), bundle("first"), "{second}");
    }
    let of = |bundle| read_window(&store, &endpoint, bundle, 100).unwrap();
    let found = of(None).unwrap();
    assert_eq!((found.bundle, found.version.as_deref()), (bundle("first"), Some("m@1")));
    assert!(values(&found.rows).iter().all(|value| *value < 19));
    let named = of(Some(bundle("canary"))).unwrap();
    assert_eq!((named.bundle, named.version), (bundle("canary"), None));
    assert!(named.rows.rows() >= 20 && values(&named.rows).iter().all(|value| *value == 100));
    assert_eq!(of(Some(bundle("nobody"))), None);
    let known = [(bundle("canary"), None), (bundle("first"), Some("m@1".to_owned()))];
    let known = known.map(|(bundle, version)| WindowBundle { bundle, version });
    assert_eq!(bundles_of_window(&store, &endpoint).unwrap(), known);

    // It makes room for its own rows only where there is none.
    let mut next = WindowWriter::open(&store, &endpoint, bundle("next"), 10_000).unwrap();
    append_at(&mut next, &batch("x", 0..19), 100);
    assert_eq!(main(&store, &endpoint), bundle("first"), "it has only begun");
    (101..160).for_each(|second| append_at(&mut next, &batch("x", 0..19), second));
    assert_eq!(main(&store, &endpoint), bundle("next"));
}

#[test]
fn it_counts_what_was_answered_and_not_what_is_kept() {
    let (_folder, store, endpoint, mut champion) = open(20);
    let mut canary = WindowWriter::open(&store, &endpoint, bundle("canary"), 20).unwrap();
    champion.append(&batch("x", 0..10), 900, 7_999).unwrap();
    canary.append(&batch("x", 0..20), 100, 8_001).unwrap();
    assert_eq!(main(&store, &endpoint), bundle("first"));
    // As many: who answered last.
    canary.append(&batch("x", 0..1), 800, 8_001).unwrap();
    assert_eq!(main(&store, &endpoint), bundle("canary"));
    // Who opens it anew goes on.
    let mut champion = WindowWriter::open(&store, &endpoint, bundle("first"), 20).unwrap();
    champion.append(&batch("x", 0..1), 1, 9_000).unwrap();
    assert_eq!(main(&store, &endpoint), bundle("first"));
}

#[test]
fn times_that_make_no_sense_leave_it_to_the_newest_rows() {
    let (_folder, store, endpoint, mut first) = open(100);
    let mut second = WindowWriter::open(&store, &endpoint, bundle("second"), 100).unwrap();
    append_at(&mut first, &batch("x", 0..50), 10_000);
    append_at(&mut second, &batch("x", 0..2), 5_000);
    assert_eq!(main(&store, &endpoint), bundle("second"), "the clock was set back");
    append_at(&mut first, &batch("x", 0..1), i64::MIN / 1_000);
    append_at(&mut second, &batch("x", 0..1), i64::MAX / 1_000);
    assert_eq!(main(&store, &endpoint), bundle("second"));
    // As earlier builds wrote them.
    let origin = RowsOrigin { bundle: bundle("old"), version: None, answered: BTreeMap::new() };
    let bytes = encode_rows_of(&origin, &batch("x", 0..1)).unwrap();
    store.append_segment(Segments::Window(&endpoint), &[&bytes]).unwrap();
    assert_eq!(main(&store, &endpoint), bundle("old"));
    append_at(&mut first, &batch("x", 0..1), 0);
    assert_eq!(main(&store, &endpoint), bundle("first"));
}

#[test]
fn a_segment_that_names_no_bundle_is_damaged() {
    let (_folder, store, endpoint, _writer) = open(100);
    let bytes = encode_safetensors(&batch("x", 0..8)).unwrap();
    store.append_segment(Segments::Window(&endpoint), &[&bytes]).unwrap();
    assert!(matches!(read_window(&store, &endpoint, None, 100), Err(DataError::Window { .. })));
    WindowWriter::open(&store, &endpoint, bundle("first"), 100).unwrap();
    assert_eq!(read_window(&store, &endpoint, None, 100).unwrap(), None);
}

#[test]
fn a_damaged_segment_is_named_and_does_not_stop_the_server() {
    let (_folder, store, endpoint, mut writer) = open(100);
    append(&mut writer, &batch("x", 0..8));
    let number = store.append_segment(Segments::Window(&endpoint), &[b"noise"]).unwrap();
    let error = read_window(&store, &endpoint, None, 100).unwrap_err();
    assert_eq!(error.to_string(), format!("segment {number} of the window of endpoint `mnist` is damaged"));
    WindowWriter::open(&store, &endpoint, bundle("first"), 100).unwrap();
    assert_eq!(read(&store, &endpoint, 100).rows(), 8);
}
