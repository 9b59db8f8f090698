use std::io::{Seek as _, Write as _};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::*;

/// One column of a test file: its values, and whether each row has one.
enum Written {
    Bool(Vec<bool>, Option<Vec<i16>>),
    Int32(Vec<i32>, Option<Vec<i16>>),
    Int64(Vec<i64>, Option<Vec<i16>>),
    Float(Vec<f32>, Option<Vec<i16>>),
    Double(Vec<f64>, Option<Vec<i16>>),
    Strings(Vec<&'static str>, Option<Vec<i16>>),
}

/// Writes two row groups with the same columns.
fn write(schema: &str, columns: &[Written], compression: Compression) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
    for _ in 0..2 {
        let mut group = writer.next_row_group().unwrap();
        for column in columns {
            let mut open = group.next_column().unwrap().unwrap();
            macro_rules! put {
                ($type:ty, $values:expr, $levels:expr) => {
                    open.typed::<$type>().write_batch($values, $levels.as_deref(), None).unwrap()
                };
            }
            match column {
                Written::Bool(values, levels) => put!(BoolType, values, levels),
                Written::Int32(values, levels) => put!(Int32Type, values, levels),
                Written::Int64(values, levels) => put!(Int64Type, values, levels),
                Written::Float(values, levels) => put!(FloatType, values, levels),
                Written::Double(values, levels) => put!(DoubleType, values, levels),
                Written::Strings(values, levels) => {
                    let values: Vec<ByteArray> = values.iter().map(|value| ByteArray::from(*value)).collect();
                    put!(ByteArrayType, &values, levels)
                }
            };
            open.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

fn read(bytes: &[u8]) -> Result<Batch, DataError> {
    let (columns, rows) = infer_parquet(file(bytes), "a.parquet")?;
    let specs: Vec<_> = columns.into_iter().map(|column| column.spec).collect();
    let mut reader = ParquetReader::open(file(bytes), "a.parquet", &specs)?;
    let mut all = Batch::default();
    while let Some(batch) = reader.next_batch(2)? {
        assert!(batch.rows() <= 2);
        all.append(&batch)?;
    }
    assert_eq!(all.rows() as u64, rows);
    Ok(all)
}

fn sample(compression: Compression) -> Vec<u8> {
    let schema = "message m {
        required boolean b; required int32 i; required int64 l; required float f; required double d;
        required binary s (UTF8); required int32 u (INTEGER(8,false)); }";
    let columns = [
        Written::Bool(vec![true, false, true], None),
        Written::Int32(vec![1, -2, 3], None),
        Written::Int64(vec![i64::MAX, -1, 0], None),
        Written::Float(vec![0.5, -1.5, 2.0], None),
        Written::Double(vec![1e300, 0.1, 0.0], None),
        Written::Strings(vec!["a", "", "ccc"], None),
        Written::Int32(vec![0, 255, 7], None),
    ];
    write(schema, &columns, compression)
}

#[test]
fn reads_every_type_over_row_groups_and_codecs() {
    let codecs = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(Default::default()),
        Compression::GZIP(Default::default()),
    ];
    for codec in codecs {
        let batch = read(&sample(codec)).unwrap();
        let shown: Vec<_> = batch.tensors().iter().map(|tensor| format!("{tensor:?}")).collect();
        let expected = [
            "b: BOOL [6]",
            "i: INT32 [6]",
            "l: INT64 [6]",
            "f: FP32 [6]",
            "d: FP64 [6]",
            "s: BYTES [6]",
            "u: UINT8 [6]",
        ];
        assert_eq!(shown, expected);
        assert_eq!(batch.column("i").unwrap().to_f64().unwrap(), [1.0, -2.0, 3.0, 1.0, -2.0, 3.0]);
        assert_eq!(&batch.column("u").unwrap().data()[..3], [0, 255, 7]);
        assert_eq!(batch.column("s").unwrap().byte_strings().nth(5).unwrap(), b"ccc");
    }
}

#[test]
fn nulls_become_nan_or_empty_strings() {
    let schema = "message m { optional int32 i; optional int64 full; optional float f; optional boolean b; optional binary s (UTF8); }";
    let gap = || Some(vec![1, 0, 1]);
    let columns = [
        Written::Int32(vec![1, 3], gap()),
        Written::Int64(vec![1, 2, 3], Some(vec![1, 1, 1])),
        Written::Float(vec![1.0, 3.0], gap()),
        Written::Bool(vec![true, false], gap()),
        Written::Strings(vec!["a", "c"], gap()),
    ];
    let batch = read(&write(schema, &columns, Compression::SNAPPY)).unwrap();
    let shown: Vec<_> = batch.tensors().iter().map(|tensor| format!("{tensor:?}")).collect();
    assert_eq!(shown, ["i: FP64 [6]", "full: INT64 [6]", "f: FP32 [6]", "b: FP64 [6]", "s: BYTES [6]"]);
    for column in ["i", "f", "b"] {
        let values = batch.column(column).unwrap().to_f64().unwrap();
        assert!(values[1].is_nan() && values[4].is_nan() && values[3] == 1.0, "{column}: {values:?}");
    }
    assert_eq!(batch.column("s").unwrap().byte_strings().nth(1).unwrap(), b"");
}

#[test]
fn unsigned_integers_keep_their_value() {
    let schema = "message m { required int64 a (INTEGER(64,false)); optional int64 b (INTEGER(64,false)); optional int32 c (INTEGER(32,false)); required int32 d (INTEGER(32,false)); }";
    let columns = [
        Written::Int64(vec![-1, 1], None),
        Written::Int64(vec![-1], Some(vec![1, 0])),
        Written::Int32(vec![-1], Some(vec![1, 0])),
        Written::Int32(vec![-1, 1], None),
    ];
    let batch = read(&write(schema, &columns, Compression::SNAPPY)).unwrap();
    let first = |column: &str| batch.column(column).unwrap().to_f64().unwrap()[0];
    assert_eq!(["a", "c", "d"].map(first), [1.8446744073709552e19, 4294967295.0, 4294967295.0]);
    assert_eq!(batch.column("b").unwrap().byte_strings().next().unwrap(), b"18446744073709551615");
    assert_eq!(batch.column("a").unwrap().data()[..8], [255; 8]);
}

#[test]
fn refuses_nested_columns_and_dates() {
    let nested =
        "message m { optional group list (LIST) { repeated group list { optional double element; } } }";
    let schema = Arc::new(parse_message_type(nested).unwrap());
    let mut bytes = Vec::new();
    SerializedFileWriter::new(&mut bytes, schema, Default::default()).unwrap().close().unwrap();
    let error = read(&bytes).unwrap_err().to_string();
    assert_eq!(
        error,
        "`a.parquet` column `list.list.element`: expected a flat column of booleans, numbers or strings, found a nested one"
    );
    for field in ["int32 d (DATE)", "int64 t (TIMESTAMP(MILLIS,true))", "int32 x (DECIMAL(5,2))", "int96 t"] {
        let schema = Arc::new(parse_message_type(&format!("message m {{ required {field}; }}")).unwrap());
        let mut bytes = Vec::new();
        SerializedFileWriter::new(&mut bytes, schema, Default::default()).unwrap().close().unwrap();
        let error = read(&bytes).unwrap_err().to_string();
        assert!(
            error.contains("expected a flat column of booleans, numbers or strings, found INT"),
            "{error}"
        );
    }
}

#[test]
fn a_damaged_file_is_an_error_and_never_a_panic() {
    let good = sample(Compression::SNAPPY);
    for length in (0..good.len()).step_by(7) {
        assert!(read(&good[..length]).is_err(), "cut at {length}");
    }
    assert!(matches!(read(b""), Err(DataError::Parquet { .. })));
    assert!(matches!(read(b"PAR1 not really PAR1"), Err(DataError::Parquet { .. })));
    // Whatever a flipped byte does, the caller gets an answer; the library's own panics stay inside.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for position in 0..good.len() {
        let mut bytes = good.clone();
        bytes[position] ^= 0x55;
        let _ = std::panic::catch_unwind(|| {
            let (columns, _) = infer_parquet(file(&bytes), "a")?;
            let specs: Vec<_> = columns.into_iter().map(|column| column.spec).collect();
            let mut reader = ParquetReader::open(file(&bytes), "a", &specs)?;
            let mut batches = 0;
            while reader.next_batch(2)?.is_some() {
                batches += 1;
                assert!(batches < 100, "endless");
            }
            Ok::<_, DataError>(())
        })
        .unwrap();
    }
    std::panic::set_hook(hook);
}

#[test]
fn a_panic_of_the_library_is_the_files_fault() {
    let error = guarded::<()>("a.parquet", || panic!("index out of bounds")).unwrap_err();
    assert!(error.to_string().contains("`a.parquet`"), "{error}");
    assert!(!GUARDED.get());
}

#[test]
fn large_integers_with_nulls_are_text() {
    let schema = "message m { optional int64 id; required int64 whole; optional int64 small; }";
    let columns = [
        Written::Int64(vec![9_007_199_254_740_993], Some(vec![1, 0])),
        Written::Int64(vec![9_007_199_254_740_993, 1], None),
        Written::Int64(vec![9_007_199_254_740_992], Some(vec![1, 0])),
    ];
    let batch = read(&write(schema, &columns, Compression::UNCOMPRESSED)).unwrap();
    let types: Vec<_> = batch.tensors().iter().map(|tensor| tensor.dtype().as_str()).collect();
    assert_eq!(types, ["BYTES", "INT64", "FP64"]);
    let ids: Vec<_> = batch.column("id").unwrap().byte_strings().take(2).collect();
    assert_eq!(ids, [&b"9007199254740993"[..], b""]);
}
