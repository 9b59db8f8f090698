use super::table::OTHER_NAMES_MAX;
use super::*;
use crate::domain::DataType;

fn spec(name: &str, dtype: DataType, shape: &[usize]) -> ColumnSpec {
    let nullable = matches!(dtype, DataType::Fp64);
    ColumnSpec { name: name.to_owned(), dtype, shape: shape.to_vec(), nullable, element_names: Vec::new() }
}

fn two() -> [ColumnSpec; 2] {
    [spec("age", DataType::Fp64, &[]), spec("city", DataType::Bytes, &[])]
}

fn decode(text: &str, specs: &[ColumnSpec]) -> Result<Batch, String> {
    decode_scoring(text.as_bytes(), specs, 3).map_err(|error| error.to_string())
}

#[test]
fn every_format_says_the_same() {
    let records = r#"{"dataframe_records": [{"age": 4, "city": "Bern"}, {"city": "", "age": null}]}"#;
    let expected = decode(records, &two()).unwrap();
    assert_eq!(expected.rows(), 2);
    for same in [
        r#"{"dataframe_split": {"columns": ["city", "age"], "data": [["Bern", 4], ["", null]]}}"#,
        r#"{"dataframe_split": {"data": [[4, "Bern"], [null, ""]], "index": [7, 8]}, "params": {}}"#,
        r#"{"instances": [{"age": 4, "city": "Bern"}, {"age": NaN, "city": ""}]}"#,
        r#"{"inputs": {"city": ["Bern", ""], "age": [4, null]}}"#,
        r#"{"params": {"x": NaN}, "inputs": {"city": ["Bern", ""], "age": [4, NaN]}}"#,
    ] {
        // NaN is equal to nothing, so bytes are compared.
        let found = decode(same, &two()).unwrap();
        for (left, right) in expected.tensors().iter().zip(found.tensors()) {
            assert_eq!((left.name(), left.data()), (right.name(), right.data()), "{same}");
        }
    }
    let csv = b"city,age\nBern,4\n\"\",\n";
    let csv = decode_scoring_csv(csv, &two(), 3, UnknownColumns::Refused).unwrap();
    assert_eq!(csv.tensors()[0].data(), expected.tensors()[0].data());
    assert_eq!(csv.tensors()[1].data(), expected.tensors()[1].data());
}

#[test]
fn cells_are_taken_as_a_dataset_takes_them() {
    let specs = [
        spec("flag", DataType::Bool, &[]),
        spec("count", DataType::Int64, &[]),
        ColumnSpec { nullable: true, ..spec("size", DataType::Fp64, &[]) },
    ];
    let read = |text: &str| decode_scoring_csv(text.as_bytes(), &specs, 10, UnknownColumns::Refused);
    let text = "flag,count,size\nTrue,007,.5\nFALSE,+5,nan\ntrue,-3,TRUE\nFalse,12,+5.\n";
    let same = r#"[{"flag":true,"count":7,"size":0.5},{"flag":false,"count":5,"size":null},
                   {"flag":true,"count":-3,"size":1},{"flag":false,"count":12,"size":5}]"#;
    let (found, expected) = (read(text).unwrap(), crate::data::decode_rows(same.as_bytes(), &specs, 10));
    for (left, right) in found.tensors().iter().zip(expected.unwrap().0.tensors()) {
        assert_eq!((left.name(), left.data()), (right.name(), right.data()));
    }
    let infinite = read("flag,count,size\nTrue,1,inf\nTrue,1,-Infinity\n").unwrap();
    assert_eq!(infinite.tensors()[2].to_f64().unwrap(), [f64::INFINITY, f64::NEG_INFINITY]);
    for (row, expected) in [
        ("yes,1,1", "row 0, column `flag`: expected BOOL, found `yes`"),
        ("true,1.5,1", "row 0, column `count`: expected INT64, found `1.5`"),
        ("true,nan,1", "row 0, column `count`: expected INT64, found `nan`"),
        ("true,inf,1", "row 0, column `count`: expected INT64, found `inf`"),
        ("true,1,1e999", "row 0, column `size`: expected FP64, found `1e999`"),
    ] {
        let error = read(&format!("flag,count,size\n{row}\n")).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_cell_that_is_no_number_is_at_fault_also_where_a_row_is_a_list_of_one() {
    let told = |shape: &[usize]| {
        let specs = [spec("size", DataType::Fp32, shape)];
        let read = |text: &[u8]| decode_scoring_csv(text, &specs, 10, UnknownColumns::Refused);
        read(b"size\nNA\n").unwrap_err().to_string()
    };
    for shape in [&[][..], &[1], &[1, 1]] {
        assert_eq!(told(shape), "row 0, column `size`: expected FP32, found `NA`");
    }
    let not_one = "expected one FP32 in a row, which CSV can hold, and not [2]: send JSON";
    assert_eq!(told(&[2]), format!("row 0, column `size`: {not_one}"));
}

#[test]
fn strings_are_the_text_that_they_say_also_where_that_could_be_base64() {
    let city = [spec("city", DataType::Bytes, &[])];
    for text in [
        r#"{"dataframe_records": [{"city": "QmVybg=="}]}"#,
        r#"{"dataframe_split": {"columns": ["city"], "data": [["QmVybg=="]]}}"#,
        r#"{"instances": [{"city": "QmVybg=="}]}"#,
        r#"{"inputs": {"city": ["QmVybg=="]}}"#,
    ] {
        let batch = decode(text, &city).unwrap();
        assert_eq!(batch.tensors()[0].byte_strings().collect::<Vec<_>>(), [b"QmVybg=="], "{text}");
    }
}

#[test]
fn rows_of_one_column_need_no_name() {
    let image = [spec("pixels", DataType::Uint8, &[2, 2])];
    let named = decode(r#"{"dataframe_records": [{"pixels": [1, 2, 3, 4]}]}"#, &image).unwrap();
    for same in [
        r#"{"instances": [[[1, 2], [3, 4]]]}"#,
        r#"{"inputs": [[1, 2, 3, 4]]}"#,
        r#"{"inputs": {"pixels": [[[1, 2], [3, 4]]]}}"#,
        r#"{"dataframe_split": {"columns": ["pixels"], "data": [[[1, 2, 3, 4]]]}}"#,
    ] {
        assert_eq!(decode(same, &image).unwrap(), named, "{same}");
    }
}

#[test]
fn columns_may_have_numbers_for_names() {
    let specs = [spec("0", DataType::Fp64, &[]), spec("1", DataType::Bytes, &[])];
    let named = decode(r#"{"dataframe_records": [{"0": 4, "1": "Bern"}]}"#, &specs).unwrap();
    for same in [
        r#"{"dataframe_split": {"columns": [0, 1], "data": [[4, "Bern"]]}}"#,
        r#"{"dataframe_split": {"columns": ["1", 0], "index": [0], "data": [["Bern", 4]]}}"#,
    ] {
        assert_eq!(decode(same, &specs).unwrap(), named, "{same}");
    }
    for (wrong, told) in [
        (r#"{"dataframe_split": {"columns": [0, "0"], "data": []}}"#, "column `0`: appears twice"),
        (r#"{"dataframe_split": {"columns": [null], "data": []}}"#, "expected a column's name, found `null`"),
    ] {
        assert_eq!(decode(wrong, &specs).unwrap_err(), told, "{wrong}");
    }
}

#[test]
fn a_table_is_put_into_the_order_of_the_elements_that_have_names() {
    let named = ["income", "age", "features"].map(str::to_owned).to_vec();
    let unnamed = [ColumnSpec { nullable: true, ..spec("features", DataType::Fp32, &[3]) }];
    let features = [ColumnSpec { element_names: named, ..unnamed[0].clone() }];
    let csv = |text: &str| {
        decode_scoring_csv(text.as_bytes(), &features, 3, UnknownColumns::Refused)
            .map_err(|error| error.to_string())
    };
    let expected = decode(r#"{"inputs": [[1, 2, 3], [4, 5, 6.5]]}"#, &features).unwrap();
    for same in [
        r#"{"dataframe_split": {"columns": ["income", "age", "features"], "data": [[1, 2, 3], [4, 5, 6.5]]}}"#,
        r#"{"dataframe_split": {"columns": ["age", "features", "income"], "data": [[2, 3, 1], [5, 6.5, 4]]}}"#,
        r#"{"dataframe_records": [{"age": 2, "features": 3, "income": 1}, {"income": 4, "features": 6.5, "age": 5}]}"#,
        r#"{"instances": [{"features": 3, "age": 2, "income": 1}, {"income": 4, "age": 5, "features": 6.5}]}"#,
        r#"{"inputs": {"features": [3, 6.5], "age": [2, 5], "income": [1, 4]}}"#,
        // Names that mean places, and no names.
        r#"{"dataframe_split": {"columns": [0, 1, 2], "data": [[1, 2, 3], [4, 5, 6.5]]}}"#,
        r#"{"dataframe_split": {"columns": ["2", "0", "1"], "data": [[3, 1, 2], [6.5, 4, 5]]}}"#,
        r#"{"inputs": {"f0": [1, 4], "f2": [3, 6.5], "f1": [2, 5]}}"#,
        r#"{"dataframe_split": {"data": [[1, 2, 3], [4, 5, 6.5]]}}"#,
        r#"{"dataframe_records": [{"features": [1, 2, 3]}, {"features": [4, 5, 6.5]}]}"#,
        r#"{"inputs": {"other": 1, "features": [[1, 2, 3], [4, 5, 6.5]]}}"#,
    ] {
        assert_eq!(decode(same, &features).unwrap(), expected, "{same}");
    }
    assert_eq!(csv("features,income,age\n3,1,2\n6.5,4,5\n").unwrap(), expected);
    assert_eq!(csv("f0,f1,f2\n1,2,3\n4,5,6.5\n").unwrap(), expected);
    let told = |names: &str| csv(&format!("{names}\n1,2,3\n")).unwrap_err();
    let start = "the columns are not the features that the model was trained with: ";
    for (names, wrong) in [
        ("income,age,debt", "missing `features`; unknown `debt`"),
        ("x,y,z", "missing `income`, `age`, `features`; unknown `x`, `y`, `z`"),
        ("f1,f2,f3", "missing `income`, `age`, `features`; unknown `f1`, `f2`, `f3`"),
        ("income,age,age", "missing `features`"),
    ] {
        assert_eq!(told(names), format!("{start}{wrong}"));
    }
    for (body, wrong) in [
        (r#"{"dataframe_split": {"columns": ["age", "income"], "data": [[1, 2]]}}"#, "missing `features`"),
        (r#"{"inputs": {"income": [1], "age": [2], "debt": [3]}}"#, "missing `features`; unknown `debt`"),
        (r#"{"dataframe_records": [{"a": 1}]}"#, "missing `income`, `age`, `features`; unknown `a`"),
    ] {
        assert_eq!(decode(body, &features).unwrap_err(), format!("{start}{wrong}"));
    }
    // What nobody asked for is ignored where that is said, as MLflow does it.
    for same in [
        r#"{"dataframe_split": {"columns": ["debt", "income", "age", "features"], "data": [[0, 1, 2, 3], ["", 4, 5, 6.5]]}}"#,
        r#"{"dataframe_records": [{"age": 2, "features": 3, "debt": [], "income": 1}, {"income": 4, "features": 6.5, "age": 5}]}"#,
        r#"{"inputs": {"features": [3, 6.5], "age": [2, 5], "debt": 0, "income": [1, 4]}}"#,
    ] {
        assert_eq!(decode(same, &features).unwrap(), expected, "{same}");
    }
    let more = ",income,age,features\n0,1,2,3\n1,4,5,6.5\n";
    let taken = decode_scoring_csv(more.as_bytes(), &features, 3, UnknownColumns::Ignored);
    assert_eq!(taken.unwrap(), expected);
    let twice = r#"{"dataframe_split": {"columns": ["income", "age", "features", "age"], "data": []}}"#;
    assert_eq!(decode(twice, &features).unwrap_err(), "column `age`: appears twice");
    // The column itself, beside which its elements are what nobody asked for.
    let table = ["income", "age", "debt"].map(str::to_owned).to_vec();
    let other = [ColumnSpec { element_names: table, ..unnamed[0].clone() }];
    let both = r#"{"inputs": {"income": 7, "age": 8, "debt": 9, "features": [[1, 2, 3], [4, 5, 6.5]]}}"#;
    assert_eq!(decode(both, &other).unwrap(), expected);
    let more = "loan,income,age,debt\n0,1,2,3\n1,4,5,6.5\n";
    let refused = decode_scoring_csv(more.as_bytes(), &other, 3, UnknownColumns::Refused).unwrap_err();
    assert_eq!(refused.to_string(), format!("{start}unknown `loan`"));
    assert_eq!(decode_scoring_csv(more.as_bytes(), &other, 3, UnknownColumns::Ignored).unwrap(), expected);
    let more: Vec<String> = (0..12).map(|index| format!(r#""c{index}": [1]"#)).collect();
    let error = decode(&format!(r#"{{"inputs": {{{}}}}}"#, more.join(", ")), &features).unwrap_err();
    assert!(error.ends_with("`c8`, `c9`, …"), "{error}");
    assert_eq!(
        decode(r#"{"dataframe_records": [{}]}"#, &features).unwrap_err(),
        "row 0, column `features`: is missing"
    );
    // The bundle of somebody else, whose names are none of its elements'.
    let damaged = [ColumnSpec { element_names: vec!["income".to_owned()], ..unnamed[0].clone() }];
    let table = r#"{"dataframe_split": {"columns": ["z", "y", "x"], "data": [[1, 2, 3], [4, 5, 6.5]]}}"#;
    assert_eq!(decode(table, &damaged).unwrap(), expected);
}

#[test]
fn a_table_is_taken_for_the_only_column_of_as_many_elements() {
    let features = [ColumnSpec { nullable: true, ..spec("features", DataType::Fp32, &[3]) }];
    let named =
        decode(r#"{"dataframe_records": [{"features": [1, 2, 3]}, {"features": [4, 5, 6.5]}]}"#, &features);
    let named = named.unwrap();
    for same in [
        r#"{"dataframe_split": {"columns": ["x", "y", "z"], "data": [[1, 2, 3], [4, 5, 6.5]]}}"#,
        r#"{"dataframe_split": {"columns": [0, 1, 2], "data": [[1, 2, 3], [4, 5, 6.5]]}}"#,
        r#"{"dataframe_split": {"data": [[1, 2, 3], [4, 5, 6.5]]}}"#,
        r#"{"dataframe_split": {"data": [[[1, 2, 3]], [[4, 5, 6.5]]]}}"#,
        r#"{"dataframe_records": [{"x": 1, "y": 2, "z": 3}, {"z": 6.5, "x": 4, "y": 5}]}"#,
        r#"{"instances": [[1, 2, 3], [4, 5, 6.5]]}"#,
        r#"{"inputs": {"x": [1, 4], "y": [2, 5], "z": [3, 6.5]}}"#,
        r#"{"instances": {"x": [[1], [4]], "y": [2, 5], "z": [3, 6.5]}}"#,
        r#"{"inputs": {"other": 1, "features": [[1, 2, 3], [4, 5, 6.5]], "more": 2}}"#,
    ] {
        assert_eq!(decode(same, &features).unwrap(), named, "{same}");
    }
    let first = decode(r#"{"inputs": {"x": 1, "y": 2, "z": 3}}"#, &features).unwrap();
    assert_eq!(first, named.slice_rows(0..1).unwrap());
    let uneven = decode(r#"{"inputs": {"x": [1, 2], "y": [2], "z": [3]}}"#, &features).unwrap_err();
    assert!(uneven.contains("rows"), "{uneven}");
    let csv = |text: &str, unknown| {
        decode_scoring_csv(text.as_bytes(), &features, 3, unknown).map_err(|error| error.to_string())
    };
    for unknown in [UnknownColumns::Ignored, UnknownColumns::Refused] {
        assert_eq!(csv("x,y,z\n1,2,3\n4,5,6.5\n", unknown).unwrap(), named);
    }
    let missing = csv("x,y,z\n1,,3\n", UnknownColumns::Ignored).unwrap();
    assert!(missing.tensors()[0].as_f32().unwrap()[1].is_nan());
    for (wrong, told) in [
        (
            r#"{"dataframe_split": {"columns": ["x", "y"], "data": [[1, 2]]}}"#,
            "column `features`: is missing",
        ),
        (r#"{"inputs": {"x": [1], "y": [2]}}"#, "column `features`: is missing"),
        (r#"{"inputs": {"x": [1], "y": [2], "x": [3]}}"#, "column `x`: appears twice"),
        (r#"{"inputs": {"x": 1, "y": "2", "z": 3}}"#, "row 0, column `y`: expected FP32, found a string"),
        (
            r#"{"dataframe_split": {"columns": ["x", "y", "x"], "data": [[1, 2, 3]]}}"#,
            "column `x`: appears twice",
        ),
        (
            r#"{"dataframe_split": {"data": [[1, 2, 3], [4, "5", 6]]}}"#,
            "row 1, column `features[1]`: expected FP32, found a string",
        ),
        (
            r#"{"dataframe_records": [{"x": 1, "y": 2, "z": 3}, {"x": 4, "y": 5}]}"#,
            "row 1, column `z`: is missing",
        ),
    ] {
        assert_eq!(decode(wrong, &features).unwrap_err(), told, "{wrong}");
    }
}

#[test]
fn no_body_has_more_names_than_are_kept() {
    let names = |count: usize| vec![r#""x""#; count].join(",");
    let split = |count| format!(r#"{{"dataframe_split": {{"columns": [{}], "data": []}}}}"#, names(count));
    let max = OTHER_NAMES_MAX + 2;
    let told = format!("expected at most {max} columns, found more");
    assert_eq!(decode(&split(max + 1), &two()).unwrap_err(), told);
    assert_eq!(decode(&split(max), &two()).unwrap_err(), "column `age`: is missing");
    let csv = |text: &str| {
        let decoded = decode_scoring_csv(text.as_bytes(), &two(), 3, UnknownColumns::Ignored);
        decoded.unwrap_err().to_string()
    };
    assert_eq!(csv(&",".repeat(max)), told);
    assert_eq!(csv(&format!("age,city\n{}", ",".repeat(max))), told, "no line has");
    assert_eq!(csv(&format!("a\"b{}", ",".repeat(max))), told, "a quote within a cell hides nothing");
    assert_eq!(csv(&",".repeat(max - 1)), "column `age`: is missing");
    let within = format!("age,city\n1,\"{}\"\n", ",".repeat(2 * max));
    let batch = decode_scoring_csv(within.as_bytes(), &two(), 3, UnknownColumns::Refused).unwrap();
    assert_eq!(batch.tensors()[1].byte_strings().next().unwrap().len(), 2 * max, "these are no cells");
}

#[test]
fn columns_that_nobody_asked_for_are_ignored_and_others_still_missed() {
    let asked = decode(r#"{"instances": [{"age": 4, "city": "Bern"}]}"#, &two()).unwrap();
    for same in [
        r#"{"dataframe_records": [{"x": {"y": [1]}, "age": 4, "z": null, "city": "Bern"}]}"#,
        r#"{"dataframe_split": {"columns": ["x", "city", "x", "age"], "data": [[1, "Bern", [], 4]]}}"#,
        r#"{"instances": [{"age": 4, "city": "Bern", "x": "y"}]}"#,
        r#"{"signature_name": "serving_default", "instances": [{"age": 4, "city": "Bern"}], "client_request_id": 7}"#,
        r#"{"inputs": {"city": ["Bern"], "x": [1, 2, 3, 4, 5], "age": [4], "z": 1}}"#,
        r#"{"inputs": {"city": "Bern", "age": 4, "x": {}}}"#,
        r#"{"instances": {"city": ["Bern"], "age": 4}}"#,
    ] {
        assert_eq!(decode(same, &two()).unwrap(), asked, "{same}");
    }
    let csv = |text: &str| decode_scoring_csv(text.as_bytes(), &two(), 3, UnknownColumns::Ignored);
    assert_eq!(csv(",city,x,age\n0,Bern,?,4\n").unwrap(), asked);
    assert_eq!(csv("city,x\nBern,4\n").unwrap_err().to_string(), "column `age`: is missing");
    for (missing, told) in [
        (r#"{"dataframe_records": [{"agee": 4, "city": "Bern"}]}"#, "row 0, column `age`: is missing"),
        (r#"{"dataframe_split": {"columns": ["agee", "city"], "data": []}}"#, "column `age`: is missing"),
        (r#"{"inputs": {"city": ["Bern"], "agee": [4]}}"#, "column `age`: is missing"),
        (r#"{"inputs": {"agee": [4]}}"#, "column `age`: is missing"),
        (r#"{"inputs": {}}"#, "column `age`: is missing"),
    ] {
        assert_eq!(decode(missing, &two()).unwrap_err(), told, "{missing}");
    }
    let broken = r#"{"dataframe_records": [{"age": 4, "city": "Bern", "x": }]}"#;
    assert!(decode(broken, &two()).unwrap_err().contains("not JSON"));
}

#[test]
fn what_is_wrong_is_told() {
    let told = |text: &str| decode(text, &two()).unwrap_err();
    let formats = "`dataframe_split`, `dataframe_records`, `instances`, `inputs`";
    assert_eq!(told("{}"), format!("expected one of {formats}, found none"));
    assert_eq!(told(r#"{"rows": [], "x": 1}"#), format!("expected one of {formats}, found `rows`"));
    assert_eq!(
        told(r#"{"inputs": {}, "instances": []}"#),
        "expected rows in one field, found `instances` too"
    );
    assert_eq!(told(r#"{"instances": []}"#), "expected objects with the 2 columns of the model");
    assert_eq!(told(r#"{"dataframe_records": []}"#), "expected at least one row, found an empty list");
    assert_eq!(
        told(r#"{"dataframe_split": {"columns": ["age", "city"], "data": [[1]]}}"#),
        "row 0: expected 2 values, found 1"
    );
    assert_eq!(
        told(r#"{"dataframe_split": {"columns": ["age", "city"], "data": [[1, "x", 2]]}}"#),
        "row 0: expected 2 values, found more"
    );
    assert!(told(r#"{"dataframe_split": {"columns": ["age"], "data": [[1]]}}"#).contains("`city`"));
    assert!(told(r#"{"dataframe_split": {"columns": ["age", "age"], "data": []}}"#).contains("twice"));
    assert!(told(r#"{"inputs": {"age": [1, 2], "city": ["x"]}}"#).contains("rows"));
    assert!(told(r#"{"inputs": {"age": [1, 2, 3, 4], "city": ["x"]}}"#).contains("at most 3 rows"));
    assert!(told(r#"{"inputs": {"age": 1, "city": ["x", "y"]}}"#).contains("rows"));
    assert_eq!(told(r#"{"inputs": {"age": "x"}}"#), "row 0, column `age`: expected FP64, found a string");
    assert!(told(r#"{"dataframe_split": 5}"#).contains("an object"));
    assert!(told("[").contains("an object"));
    let csv = |text: &str| {
        let decoded = decode_scoring_csv(text.as_bytes(), &two(), 3, UnknownColumns::Refused);
        decoded.unwrap_err().to_string()
    };
    assert!(csv("age,city,x\n1,a,2\n").contains("`x`"));
    assert!(csv("age\n1\n").contains("`city`"));
    assert_eq!(csv("age,city\nx,y\n"), "row 0, column `age`: expected FP64, found `x`");
    assert_eq!(csv("age,city\n1,a\n1\n"), "row 1: expected 2 cells, found 1");
    assert_eq!(csv("age,city\n1,a,b\n"), "row 0: expected 2 cells, found 3");
    let latin = decode_scoring_csv(b"age,city\n1,a\n2,Z\xfcrich\n", &two(), 3, UnknownColumns::Refused);
    let latin = latin.unwrap_err();
    assert_eq!(latin.to_string(), "row 1, column `city`: is not text in UTF-8");
    assert_eq!((latin.row(), latin.column()), (Some(1), Some("city")));
    assert!(csv("age,city\n1,a\n1,a\n1,a\n1,a\n").contains("at most 3 rows"));
    assert_eq!(csv("age,city\n"), "expected at least one row, found none");
}
