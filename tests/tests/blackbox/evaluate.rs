//! `host evaluate`: a bundle judged by rows with labels.

use host_tests::{Host, plugin};
use insta::assert_snapshot;
use serde_json::Value;

/// A project with the file as a dataset.
fn with_table(name: &str, rows: &str) -> Host {
    let host = Host::new();
    add(&host, name, rows);
    host
}

fn add(host: &Host, name: &str, rows: &str) {
    let file = host.state_dir().join(format!("{name}.csv"));
    std::fs::write(&file, rows).unwrap();
    host.run(["data", "add", name, file.to_str().unwrap()]).expect_success();
}

#[test]
fn a_bundle_is_judged_as_training_judged_it() {
    let host = Host::trained();
    let manifest = host.run(["model", "show", "mnist", "--json"]).json();
    let told = host.run(["evaluate", "mnist", "--data", "mnist", "--json"]).json();
    assert_eq!(told["rows"], 10_000);
    assert_eq!(told["bundle"], manifest["bundle"]);
    assert_eq!(told["metrics"], manifest["manifest"]["metrics"], "the same numbers to the last bit");
    let data = host.run(["data", "show", "mnist", "--json"]).json();
    assert_eq!(told["data"], format!("mnist@{}", data["digest"].as_str().unwrap()));
    // By what it printed it can be judged again.
    let data = told["data"].as_str().unwrap();
    let bundle = told["bundle"].as_str().unwrap();
    assert_eq!(host.run(["evaluate", bundle, "--data", data, "--json"]).json(), told);
    let text = host.run(["evaluate", "mnist", "--data", "mnist", "--quiet"]).expect_success();
    assert!(text.contains("accuracy") && text.contains("10,000"), "{text}");
}

#[test]
fn rows_that_training_held_out_are_the_test_split() {
    let rows: String = (0..90)
        .map(|row| format!("{},{},{},{}\n", row % 11, row % 5, ["x", "y"][row % 2], (row % 11) as f64 / 2.0))
        .collect();
    let host = with_table("t", &format!("a,b,text,y\n{rows}"));
    let encoder = plugin("one-hot");
    let trained = host
        .run([
            "train",
            "--data",
            "t",
            "--label",
            "y",
            "--rounds",
            "3",
            "--preprocess",
            &encoder,
            "--config",
            r#"one-hot={"columns": ["text"]}"#,
            "--json",
        ])
        .json();
    let evaluate = |more: &[&str]| {
        host.run([&["evaluate", "t", "--data", "t", "--label", "y", "--json"][..], more].concat())
    };
    let told = evaluate(&[]).json();
    assert_eq!((&told["metrics"], &told["rows"]), (&trained["metrics"], &trained["test_rows"]));
    assert!(told["metrics"]["rmse"].is_number(), "values, not classes: {told}");
    let train = evaluate(&["--split", "train"]).json();
    assert_eq!(train["rows"], trained["train_rows"]);
    let failure = evaluate(&["--split", "validation"]).failure(&host);
    assert_snapshot!(failure, @r"
    exit 2
    error: `validation` is no split to judge by: expected `test` or `train`
    ");
}

#[test]
fn data_that_a_bundle_cannot_answer_is_refused() {
    let rows: String = (0..60).map(|row| format!("{},{},{}\n", row % 7, row % 5, row % 2)).collect();
    let host = with_table("t", &format!("a,b,label\n{rows}"));
    host.run(["train", "--data", "t", "--rounds", "1"]).expect_success();
    // Columns that the model does not take, such as another label, are left out.
    add(&host, "more", &format!("a,b,label,c\n{}", rows.replace('\n', ",7\n")));
    assert_eq!(host.run(["evaluate", "t", "--data", "more", "--json"]).json()["metrics"], {
        let told: Value = host.run(["evaluate", "t", "--data", "t", "--json"]).json();
        told["metrics"].clone()
    });
    add(&host, "fewer", &format!("a,label\n{}", "1,0\n2,1\n".repeat(30)));
    add(&host, "floats", &format!("a,b,label\n{}", "0.5,1.5,1\n".repeat(60)));
    add(&host, "classes", &format!("a,b,label\n{}", "1,2,5\n".repeat(60)));
    add(&host, "gaps", &format!("a,b,label\n{}", "1,2,\n1,2,1\n".repeat(30)));
    add(&host, "words", &format!("a,b,label\n{}", "1,2,yes\n".repeat(60)));
    let failure = |data: &str, more: &[&str]| {
        host.run([&["evaluate", "t", "--data", data][..], more].concat()).failure(&host)
    };
    assert_snapshot!(failure("t", &["--label", "y"]), @r"
    exit 2
    error: dataset `t` has no column `y` to predict: it has `a`, `b`, `label`
    ");
    assert_snapshot!(failure("fewer", &[]), @r"
    exit 2
    error: the bundle cannot answer rows of `fewer`: column `b` is missing
    ");
    assert_snapshot!(failure("floats", &[]), @r"
    exit 2
    error: the bundle cannot answer rows of `floats`: column `a`: expected INT64, found FP64
    ");
    assert_snapshot!(failure("classes", &[]), @r"
    exit 2
    error: the bundle's scores cannot be judged by column `label`: label of row 0 is 5: expected a whole number less than 2
    ");
    assert_snapshot!(failure("gaps", &[]), @r"
    exit 2
    error: row 0 has no value in column `label`, which is to be predicted
    ");
    assert_snapshot!(failure("words", &[]), @r"
    exit 2
    error: column `label` cannot be predicted: expected one number a row, found text
    ");
    assert_snapshot!(failure("none", &[]).lines().next().unwrap(), @"exit 2");
    let unknown = host.run(["evaluate", "other", "--data", "t"]).failure(&host);
    assert_snapshot!(unknown, @r"
    exit 2
    error: there is no model `other`: there are `t`
    ");
}

#[test]
fn a_table_that_misses_nothing_is_answered_by_a_model_of_one_that_does() {
    let row = |row: usize, age: String, flag: &str| format!("{age},{flag},{}\n", row % 2);
    let age = |at: usize| if at.is_multiple_of(9) { String::new() } else { at.to_string() };
    let gaps: String = (0..60).map(|at| row(at, age(at), ["true", ""][at % 2])).collect();
    let host = with_table("gaps", &format!("age,flag,label\n{gaps}"));
    host.run(["train", "--data", "gaps", "--rounds", "3"]).expect_success();
    let shown = host.run(["model", "show", "gaps", "--json"]).json();
    let columns = shown["manifest"]["signature"]["inputs"].as_array().unwrap();
    assert!(columns.iter().all(|column| column["dtype"] == "FP64"), "{columns:?}");
    // INT64 and BOOL.
    let whole: String = (0..60).map(|at| row(at, (at * 2).to_string(), ["true", "false"][at % 2])).collect();
    add(&host, "whole", &format!("age,flag,label\n{whole}"));
    let predict = ["predict", "--model", "gaps", "--data", "whole", "--split", "train"];
    let predicted = host.run(predict).expect_success();
    let predicted: Vec<Value> = predicted.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let server = host.serve(["--model", "gaps"]);
    let rows: String = whole.lines().map(|line| format!("{}\n", line.rsplit_once(',').unwrap().0)).collect();
    let csv = [("content-type", "text/csv")];
    let (served, _) = server.post_with_headers("/serve/gaps", &format!("age,flag\n{rows}"), &csv);
    assert_eq!(served.json(), Value::from(predicted));
    let told = host.run(["evaluate", "gaps", "--data", "whole", "--json"]).json();
    assert!(told["metrics"]["accuracy"].is_number(), "{told}");
    // FP64 would make another number of it.
    add(&host, "wide", &format!("age,flag,label\n{}", "9007199254740993,true,1\n".repeat(60)));
    let failure = host.run(["evaluate", "gaps", "--data", "wide"]).failure(&host);
    assert_snapshot!(failure, @r"
    exit 2
    error: the bundle cannot answer rows of `wide`: column `age`: expected FP64, found INT64
    ");
}
