use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn of_bundle() -> AnsweredBy {
    AnsweredBy::Bundle(bundle(Some("m@1"), b"bundle"))
}

fn bundle(version: Option<&str>, content: &[u8]) -> BundleRecord {
    BundleRecord {
        version: version.map(str::to_owned),
        bundle: Digest::of(content),
        is_of_bundle: version.is_some(),
    }
}

fn of_graph() -> AnsweredBy {
    let part = |place, endpoint: &str, answered_by| PartRecord {
        place,
        endpoint: endpoint.parse().unwrap(),
        answered_by,
    };
    AnsweredBy::Graph(GraphRecord {
        graph: Arc::new(json!({ "ensemble": ["one", { "endpoint": "two", "weight": 0.1 }, "one"] })),
        parts: vec![
            part(0, "one", bundle(Some("m@1"), b"1")),
            part(1, "two", bundle(None, b"2")),
            part(2, "one", bundle(Some("m@1"), b"1")),
        ],
    })
}

fn record(id: &str, answered_by: AnsweredBy) -> PredictionRecord {
    let names = Tensor::from_strings("name", [b"\xff".as_slice(), b""]).unwrap();
    let numbers = Tensor::from_f32("x", vec![2, 1], &[f32::NAN, -0.0]).unwrap();
    PredictionRecord {
        id: id.to_owned(),
        answered_at: 7,
        endpoint: "e".parse().unwrap(),
        answered_by,
        inputs: Batch::new(vec![names, numbers]).unwrap(),
        outputs: Batch::new(vec![Tensor::from_f32("y", vec![2], &[f32::INFINITY, 1.0]).unwrap()]).unwrap(),
    }
}

fn records() -> [PredictionRecord; 3] {
    [record("a", of_bundle()), record("b", of_graph()), record("c", of_bundle())]
}

fn segment() -> Vec<u8> {
    let mut segment = Vec::new();
    records().iter().for_each(|record| record.write_to(&mut segment).unwrap());
    segment
}

/// By bytes: NaN is equal to nothing.
fn bytes(record: &PredictionRecord) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.write_to(&mut bytes).unwrap();
    bytes
}

/// A segment of one record with this header, and these bytes of tensors.
fn segment_of(header: &str, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(header.len()).unwrap().to_le_bytes();
    [length.as_slice(), header.as_bytes(), data].concat()
}

#[test]
fn every_bit_comes_back() {
    for record in records() {
        let found = PredictionRecord::find(&segment(), &record.id).unwrap().unwrap();
        assert_eq!(found.answered_by, record.answered_by);
        assert_eq!(bytes(&found), bytes(&record));
    }
    assert!(PredictionRecord::find(&segment(), "d").unwrap().is_none());
    assert!(PredictionRecord::find(&[], "a").unwrap().is_none());
}

#[test]
fn bundles_are_recorded_as_they_were_before_there_were_graphs_and_with_a_checksum() {
    let header = format!(
        r#"{{"id":"a","answered_at":7,"endpoint":"e","version":"m@1","bundle":"{}","is_of_bundle":true,"inputs":[{{"name":"x","dtype":"FP32","shape":[1],"bytes":4}}],"outputs":[{{"name":"y","dtype":"FP32","shape":[1],"bytes":4}}]}}"#,
        Digest::of(b"bundle")
    );
    let before = segment_of(&header, &[0, 0, 128, 63, 0, 0, 0, 64]);
    let batch = |name: &str, value| Batch::new(vec![Tensor::from_f32(name, vec![1], &[value]).unwrap()]);
    let expected = PredictionRecord {
        inputs: batch("x", 1.0).unwrap(),
        outputs: batch("y", 2.0).unwrap(),
        ..record("a", of_bundle())
    };
    assert_eq!(PredictionRecord::find(&before, "a").unwrap(), Some(expected.clone()));
    let header = header.replacen('{', r#"{"crc32":"68a820c9","#, 1);
    let now = segment_of(&header, &[0, 0, 128, 63, 0, 0, 0, 64]);
    assert_eq!(String::from_utf8_lossy(&bytes(&expected)), String::from_utf8_lossy(&now));
    assert_eq!(PredictionRecord::find(&now, "a").unwrap(), Some(expected));
}

#[test]
fn a_record_is_what_was_written_or_told_to_be_damaged() {
    for whole in [of_bundle(), of_graph()].map(|answered_by| bytes(&record("a", answered_by))) {
        for place in 0..8 * whole.len() {
            let mut changed = whole.clone();
            changed[place / 8] ^= 1 << (place % 8);
            match PredictionRecord::find(&changed, "a") {
                // A bit of the checksum's name: without one it is a record as it was before.
                Ok(Some(found)) => assert_eq!(bytes(&found), whole, "bit {place}"),
                found => assert!(found.is_err(), "bit {place}: {found:?}"),
            }
        }
    }
}

#[test]
fn a_damaged_record_hides_no_other_of_its_segment() {
    let mut segment = segment();
    let end = bytes(&record("a", of_bundle())).len();
    segment[end - 1] ^= 1;
    assert_eq!(PredictionRecord::find(&segment, "b").unwrap().unwrap().id, "b");
    for id in ["a", "d"] {
        let error = PredictionRecord::find(&segment, id).unwrap_err();
        assert_eq!(error.to_string(), "the record of prediction `a` is not what was written");
    }
}

#[test]
fn who_answered_is_told_as_the_answer_s_header_told_it() {
    assert_eq!(of_bundle().versions().as_deref(), Some("m@1"));
    assert_eq!(AnsweredBy::Bundle(bundle(None, b"1")).versions(), None);
    let unnamed = Digest::of(b"2").short();
    assert_eq!(of_graph().versions(), Some(format!("{unnamed}, m@1")));
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
fn a_header_says_who_answered_and_is_not_longer_than_what_is_read() {
    let header = |fields: &str| {
        format!(r#"{{"id":"a","answered_at":7,"endpoint":"e","inputs":[],"outputs":[]{fields}}}"#)
    };
    let digest = Digest::of(b"");
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for fields in [
        String::new(),
        r#","graph":{}"#.to_owned(),
        r#","parts":[]"#.to_owned(),
        format!(r#","bundle":"{digest}""#),
        r#","graph":{},"parts":[{"place":-1,"endpoint":"e"}]"#.to_owned(),
        format!(
            r#","graph":{{}},"parts":[{{"place":0,"endpoint":"../e","bundle":"{digest}","is_of_bundle":true}}]"#
        ),
        format!(r#","graph":{nested},"parts":[]"#),
    ] {
        let refused = PredictionRecord::find(&segment_of(&header(&fields), &[]), "a");
        let shown: String = fields.chars().take(80).collect();
        assert!(matches!(refused, Err(DataError::PredictionRecord { .. })), "{shown}: {refused:?}");
    }
    let mut too_long = record("a", of_graph());
    if let AnsweredBy::Graph(graph) = &mut too_long.answered_by {
        graph.graph = Arc::new(json!("x".repeat(HEADER_MAX_BYTES)));
    }
    let mut segment = segment();
    let before = segment.clone();
    assert!(too_long.write_to(&mut segment).is_err());
    assert_eq!(segment, before, "what others have recorded can be read");
}

#[test]
fn the_newest_are_kept_and_found() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert!(find_prediction(&store, "a").unwrap().is_none());
    let write = |id: &str| bytes(&record(id, of_bundle()));
    let size = write("a").len() as u64;
    let mut writer = PredictionWriter::open(&store, 2 * size).unwrap();
    ["a", "b"].iter().for_each(|id| writer.append(&[&write(id)]).unwrap());
    assert!(find_prediction(&store, "a").unwrap().is_some());
    // Another server goes on where this one has ended.
    let mut writer = PredictionWriter::open(&store, 2 * size).unwrap();
    writer.append(&[&write("c")]).unwrap();
    writer.trim().unwrap();
    let is_there = |id: &str| find_prediction(&store, id).unwrap().is_some();
    assert_eq!((is_there("a"), is_there("b"), is_there("c")), (false, true, true));
    assert_eq!(prediction_bundles(&store).unwrap(), BTreeSet::from([Digest::of(b"bundle")]));
    let mut writer = PredictionWriter::open(&store, 0).unwrap();
    writer.append(&[&bytes(&record("d", of_graph()))]).unwrap();
    writer.trim().unwrap();
    assert_eq!(store.segments(Segments::Predictions).unwrap().len(), 1, "the newest stays in any case");
    let of_parts = BTreeSet::from([Digest::of(b"1"), Digest::of(b"2")]);
    assert_eq!(prediction_bundles(&store).unwrap(), of_parts);
}

#[test]
fn what_a_quiet_server_records_is_joined_and_found() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let ids: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let segments = || store.segments(Segments::Predictions).unwrap().len();
    let mut writer = PredictionWriter::open(&store, 256 * 1024 * 1024).unwrap();
    for id in &ids {
        writer.append(&[&bytes(&record(id, of_bundle()))]).unwrap();
        assert!(segments() < 12, "{id}: {}", segments());
    }
    // Another server that writes beside it leaves its segments alone.
    let mut other = PredictionWriter::open(&store, 256 * 1024 * 1024).unwrap();
    other.append(&[&bytes(&record("other", of_graph()))]).unwrap();
    writer.append(&[&bytes(&record("last", of_bundle()))]).unwrap();
    for id in ids.iter().map(String::as_str).chain(["other", "last"]) {
        assert_eq!(find_prediction(&store, id).unwrap().unwrap().id, id);
    }
    let of_all = ["bundle", "1", "2"].map(|bundle| Digest::of(bundle.as_bytes()));
    assert_eq!(prediction_bundles(&store).unwrap(), BTreeSet::from(of_all));
}

#[test]
fn what_is_joined_while_somebody_reads_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let mut writer = PredictionWriter::open(&store, 256 * 1024 * 1024).unwrap();
    let written = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for number in 0..100 {
                writer.append(&[&bytes(&record(&number.to_string(), of_bundle()))]).unwrap();
                written.store(number + 1, Ordering::SeqCst);
            }
        });
        while !writing.is_finished() {
            for number in (0..written.load(Ordering::SeqCst)).rev().step_by(7) {
                assert!(find_prediction(&store, &number.to_string()).unwrap().is_some(), "{number}");
            }
        }
    });
}

#[test]
fn what_another_server_adds_to_is_not_old() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let write = |id: &str| bytes(&record(id, of_bundle()));
    let size = write("a").len() as u64;
    let mut quiet = PredictionWriter::open(&store, 600 * size).unwrap();
    quiet.append(&[&write("a")]).unwrap();
    let mut busy = PredictionWriter::open(&store, 2 * size).unwrap();
    quiet.append(&[&write("b")]).unwrap();
    for _ in 0..2 {
        busy.append(&[&write("c")]).unwrap();
        busy.trim().unwrap();
    }
    assert!(find_prediction(&store, "b").unwrap().is_some());
    // It has its turn when nothing is added any more.
    for _ in 0..3 {
        busy.append(&[&write("d")]).unwrap();
        busy.trim().unwrap();
    }
    assert!(find_prediction(&store, "b").unwrap().is_none());
}

#[test]
fn small_segments_that_nobody_joins_are_not_more_than_some_thousands() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let part = bytes(&record("a", of_bundle()));
    // Each server that starts writes one of its own, and then the next starts.
    std::fs::create_dir(folder.path().join("predictions")).unwrap();
    for number in 1..=5_000 {
        std::fs::write(folder.path().join(format!("predictions/{number:08}.predictions")), &part).unwrap();
    }
    let mut writer = PredictionWriter::open(&store, 256 * 1024 * 1024).unwrap();
    writer.append(&[&part]).unwrap();
    writer.trim().unwrap();
    assert_eq!(store.segments(Segments::Predictions).unwrap().len(), 4_096);
}

#[test]
fn a_damaged_segment_hides_no_prediction_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let mut writer = PredictionWriter::open(&store, u64::MAX).unwrap();
    writer.append(&[&bytes(&record("a", of_bundle()))]).unwrap();
    let whole = bytes(&record("b", of_bundle()));
    // By another server, which joins nothing with it.
    let mut writer = PredictionWriter::open(&store, u64::MAX).unwrap();
    writer.append(&[&whole[..whole.len() - 1]]).unwrap();
    assert_eq!(find_prediction(&store, "a").unwrap().unwrap().id, "a");
    let told = |error: &DataError| {
        let path = folder.path().join("predictions").join("00000002.predictions");
        let segment = format!("segment 2 of the recorded predictions, `{}`, is damaged", path.display());
        assert_eq!(error.to_string(), segment);
        assert_eq!(error.source().unwrap().to_string(), "it ends in the middle of a record");
    };
    // It may be what is damaged.
    told(&find_prediction(&store, "b").unwrap_err());
    // What it names must not be freed, and nobody can tell what that is.
    told(&prediction_bundles(&store).unwrap_err());
}

/// Any JSON of a few values: what a graph is, this module does not know.
fn any_graph() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<f64>().prop_filter("JSON has no others", |number| number.is_finite()).prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("\\PC{0,4}", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn any_part() -> impl Strategy<Value = PartRecord> {
    let version = prop::option::of("[a-z]{1,8}@[1-9]");
    (any::<usize>(), "[a-z0-9]{1,64}", version, any::<[u8; 4]>(), any::<bool>()).prop_map(
        |(place, endpoint, version, content, is_of_bundle)| PartRecord {
            place,
            endpoint: endpoint.parse().unwrap(),
            answered_by: BundleRecord { version, bundle: Digest::of(&content), is_of_bundle },
        },
    )
}

proptest! {
    #[test]
    fn graphs_come_back_and_damage_to_them_is_no_more_than_an_error(
        graph in any_graph(),
        parts in prop::collection::vec(any_part(), 0..6),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        end in any::<prop::sample::Index>(),
    ) {
        let answered_by = AnsweredBy::Graph(GraphRecord { graph: Arc::new(graph), parts });
        let mut segment = bytes(&record("a", answered_by.clone()));
        let found = PredictionRecord::find(&segment, "a").unwrap().unwrap();
        prop_assert_eq!(&found.answered_by, &answered_by);
        prop_assert_eq!(bytes(&found), segment.clone());
        // From one byte to all but one.
        let cut = &segment[..1 + end.index(segment.len() - 1)];
        prop_assert!(PredictionRecord::find(cut, "a").is_err());
        for (place, byte) in changes {
            let index = place.index(segment.len());
            segment[index] = byte;
        }
        let _ = PredictionRecord::find(&segment, "a");
    }
}
