//! `host transform`: datasets made of others, and what can go wrong on the way.

use std::process::Command;
use std::time::Duration;

use host_tests::{Host, mnist_files, plugin, ran};
use serde_json::{Value, json};

fn with_mnist() -> Host {
    let host = Host::new();
    host.run(["data", "add", "mnist", &mnist_files()]).expect_success();
    host
}

fn json_of(host: &Host, arguments: &[&str]) -> Value {
    host.run(arguments.iter().copied().chain(["--json"])).json()
}

/// Adds a table; gives what [`Host::run`] is for the rest.
fn with_table(text: &str) -> Host {
    let host = Host::new();
    let file = host.state_dir().join("table.csv");
    std::fs::write(&file, text).unwrap();
    host.run(["data", "add", "table", file.to_str().unwrap()]).expect_success();
    host
}

const TABLE: &str = "city,width,label\nUlm,1.5,0\n,2.5,1\nKöln,,0\n\"a, b\",4.5,1\nUlm,5.5,1\n";

#[test]
fn a_part_of_mnist_keeps_its_splits_or_gets_others() {
    let host = with_mnist();
    let few = ["transform", "mnist", "--name", "few", "--filter", "label in [0, 1]", "--rows", "500"];
    let made = json_of(&host, &few);
    assert_eq!(
        (&made["name"], &made["version"], &made["unchanged"]),
        (&json!("few"), &json!(1), &json!(false))
    );
    assert_eq!(made["rows"], json!({ "train": 500, "test": 500 }));
    let again = json_of(&host, &few);
    assert_eq!((&again["unchanged"], &again["digest"]), (&json!(true), &made["digest"]));
    let shown = json_of(&host, &["data", "show", "few"]);
    assert_eq!(shown["schema"][0], json!({ "name": "pixels", "dtype": "UINT8", "shape": [28, 28] }));
    assert_eq!(shown["recipe"], json!({ "filters": ["label in [0, 1]"], "rows": 500 }));
    let labels = &shown["splits"][0]["statistics"][1]["values"];
    assert_eq!((&labels[0]["value"], &labels[1]["value"], &labels[2]), (&json!(0), &json!(1), &Value::Null));
    let text = host.run(["data", "show", "few", "--rows", "1"]).expect_success();
    assert!(text.contains("row 0, pixels") && text.contains("filter label in [0, 1]"), "{text}");
    let lineage = host.run(["data", "lineage", "few"]).expect_success();
    assert!(lineage.contains("dataset mnist@1 ("), "{lineage}");

    let split = |seed: &str| {
        let seed = format!("seed={seed}");
        let rows = ["--filter", "label <= 1", "--split", "test=0.2", "--split", &seed];
        json_of(&host, &[&["transform", "mnist", "--name", "split"], &rows[..]].concat())["rows"].clone()
    };
    let (seven, eight) = (split("7"), split("8"));
    let count = |rows: &Value, split: &str| rows[split].as_u64().unwrap();
    for rows in [&seven, &eight] {
        assert_eq!(count(rows, "train") + count(rows, "test"), 14_780, "all zeros and ones that there are");
        assert!((2_700..3_200).contains(&count(rows, "test")), "{rows}");
    }
    assert_ne!(seven, eight);
    assert_eq!(split("7"), seven);
}

#[test]
fn a_scaled_dataset_trains_to_the_model_that_the_transformer_would() {
    let host = with_mnist();
    host.run(["transform", "mnist", "--name", "small", "--rows", "1500"]).expect_success();
    for name in ["mnist-pixels", "standard-scaler"] {
        let component = plugin(name);
        let made = json_of(&host, &["transform", "small", "--name", name, "--preprocess", &component]);
        assert_eq!(made["rows"], json!({ "train": 1500, "test": 1500 }));
        let shown = json_of(&host, &["data", "show", name]);
        let columns: Vec<_> = shown["schema"].as_array().unwrap().iter().map(|spec| &spec["name"]).collect();
        assert_eq!(columns, ["features", "label"]);
        let applied = &shown["recipe"]["transformers"][0];
        assert_eq!((&applied["name"], &shown["recipe"]["label"]), (&json!(name), &json!("label")));
        let train = |data: &str, more: &[&str]| {
            let arguments = ["train", "--data", data, "--rounds", "3", "--threads", "1", "--name", "m"];
            json_of(&host, &[&arguments[..], more].concat())
        };
        let through = train("small", &["--preprocess", &component]);
        let scaled = train(name, &[]);
        assert_eq!(scaled["metrics"], through["metrics"], "{name}");
        let bundle = |trained: &Value| {
            let bundle = trained["bundle"].as_str().unwrap().to_owned();
            json_of(&host, &["model", "show", &bundle])["manifest"].clone()
        };
        let (through, scaled) = (bundle(&through), bundle(&scaled));
        assert_eq!(scaled["model"]["blob"], through["model"]["blob"], "{name}: the same bytes");
        let state = through["preprocess"][0]["state"]["digest"].clone();
        assert_eq!(
            (&applied["state"], &applied["component"]),
            (&state, &through["preprocess"][0]["component"]["digest"])
        );
    }
}

#[test]
fn rows_of_a_table_are_filtered_by_text_numbers_and_what_is_missing() {
    let host = with_table(TABLE);
    let widths = |filters: &[&str]| -> Vec<f64> {
        let mut arguments = vec!["transform", "table", "--name", "made", "--select", "width"];
        filters.iter().for_each(|filter| arguments.extend(["--filter", filter]));
        let made = json_of(&host, &arguments);
        let dataset = format!("made@{}", made["version"]);
        let shown = json_of(&host, &["data", "show", &dataset, "--rows", "9"]);
        let rows = shown["preview"]["rows"].as_array().unwrap().clone();
        assert_eq!(rows.len() as u64, made["rows"]["train"].as_u64().unwrap());
        assert_eq!(rows[0].as_object().unwrap().len(), 2, "the label stays");
        rows.iter().map(|row| row["width"].as_f64().unwrap_or(f64::NAN)).collect()
    };
    assert_eq!(widths(&["city == Ulm"]), [1.5, 5.5]);
    assert_eq!(widths(&["city in [\"a, b\", Ulm]", "width > 2"]), [4.5, 5.5]);
    assert_eq!(widths(&["city is missing"]), [2.5]);
    assert_eq!(widths(&["city != Ulm", "width is present"]), [4.5]);
    assert!(widths(&["width is missing"])[0].is_nan());
    assert_eq!(widths(&["width >= 2.5", "label == 1", "city is present"]), [4.5, 5.5]);
    let encoded = plugin("one-hot");
    let config = r#"one-hot={"columns":["city"]}"#;
    let arguments = ["transform", "table", "--name", "encoded", "--preprocess", &encoded, "--config", config];
    let made = json_of(&host, &arguments);
    assert_eq!(made["rows"]["train"], 5, "text becomes numbers");
}

#[test]
fn mistakes_are_told_in_one_sentence_and_leave_nothing() {
    let host = with_table(TABLE);
    let pixels = plugin("mnist-pixels");
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--filter", "height > 1"], 2, "there is no such column: there are `city`, `width`, `label`"),
        (&["--filter", "width > tall"], 2, "column `width` is FP64: expected a number, found `tall`"),
        (&["--filter", "width"], 2, "expected ==, !=, <, <=, >, >="),
        (&["--filter", "width = 1"], 2, "after column `width`"),
        (&["--filter", "width > 100"], 2, "no row of `table` is left"),
        (&["--select", "height"], 2, "has no column `height`: it has `city`, `width`, `label`"),
        (&["--label", "height"], 2, "has no column `height`"),
        (&[], 2, "column `city` is text"),
        (&["--rows", "0"], 2, "0"),
        (&["--split", "test=1.5"], 2, "expected a number between 0 and 1"),
        (&["--split", "seed=3"], 2, "needs `--split test=…`"),
        (&["--split", "half"], 2, "expected NAME=VALUE"),
        (&["--config", "other={}"], 2, "names no plugin"),
        (&["--preprocess", "/nowhere.wasm"], 2, "/nowhere.wasm"),
        (&["--select", "width", "--preprocess", &pixels], 2, "`width`"),
    ];
    for (more, code, words) in cases {
        let base = ["transform", "table", "--name", "made"];
        let ran = host.run(base.iter().chain(*more).copied());
        assert_eq!(ran.code, *code, "{more:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{more:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{more:?}: {}", ran.stderr);
    }
    let ran = host.run(["transform", "nothing", "--name", "made"]);
    assert!(ran.code == 2 && ran.stderr.contains("there is no dataset `nothing`"), "{}", ran.stderr);
    let plain = host.state_dir().join("picture.png");
    std::fs::write(&plain, "png").unwrap();
    host.run(["data", "add", "plain", plain.to_str().unwrap()]).expect_success();
    let ran = host.run(["transform", "plain", "--name", "made"]);
    assert!(ran.code == 2 && ran.stderr.contains("holds no rows"), "{}", ran.stderr);
    let test_only = host.state_dir().join("test.csv");
    std::fs::write(&test_only, "x,label\n1,0\n").unwrap();
    host.run(["data", "add", "judged", test_only.to_str().unwrap()]).expect_success();
    let scaler = plugin("standard-scaler");
    let ran = host.run(["transform", "judged", "--name", "made", "--preprocess", &scaler]);
    assert!(ran.code == 2 && ran.stderr.contains("of which no row is kept"), "{}", ran.stderr);
    let listed = json_of(&host, &["data", "list"]);
    assert!(listed.as_array().unwrap().iter().all(|dataset| dataset["name"] != "made"), "{listed}");
}

#[test]
fn a_killed_transform_leaves_nothing_and_can_be_repeated() {
    let host = with_mnist();
    let pixels = plugin("mnist-pixels");
    let arguments = ["transform", "mnist", "--name", "scaled", "--preprocess", &pixels, "--rows", "10000"];
    for wait_ms in [20, 100, 200, 400] {
        let mut making = host.command().args(arguments).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait_ms));
        making.kill().unwrap();
        making.wait().unwrap();
    }
    let made = json_of(&host, &arguments);
    assert_eq!((&made["version"], &made["rows"]), (&json!(1), &json!({ "train": 10000, "test": 10000 })));
    // What a process leaves that was killed goes when it is an hour old.
    let left = || -> Vec<_> {
        let entries = std::fs::read_dir(host.state_dir().join("temporary")).unwrap();
        entries.map(|entry| entry.unwrap().path()).filter(|path| !path.ends_with(".lock")).collect()
    };
    for path in left() {
        assert!(Command::new("touch").args(["-d", "2 hours ago"]).arg(path).status().unwrap().success());
    }
    host.run(["data", "verify", "scaled"]).expect_success();
    assert_eq!(left(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_full_disk_leaves_no_version_and_no_scraps() {
    let folder = tempfile::tempdir().unwrap();
    // MNIST fits, and of what becomes of it a part.
    let script = r#"
        mount -t tmpfs -o size=60m none "$HOST_STATE_DIR" || exit 90
        "$@" --quiet data add mnist "$FILES" >/dev/null 2>&1 || exit 91
        "$@" --quiet transform mnist --name scaled --preprocess "$PIXELS"
        code=$?
        "$@" data show scaled >&2
        "$@" data list --json
        find "$HOST_STATE_DIR/temporary" -type f -not -name .lock
        "$@" transform mnist --name scaled --preprocess "$PIXELS" --rows 500 --json >/dev/null || exit 92
        exit $code
    "#;
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "bash", "-c", script, "bash"])
        .arg(Host::new().command().get_program())
        .env("HOST_STATE_DIR", folder.path())
        .env_remove("HOST_DATABASE")
        .env_remove("HOST_BLOBS")
        .env("FILES", mnist_files())
        .env("PIXELS", plugin("mnist-pixels"))
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let ran = ran(output);
    assert_eq!(ran.code, 1, "{}\n{}", ran.stdout, ran.stderr);
    let mut lines = ran.stderr.lines();
    assert!(lines.next().unwrap().contains("No space left on device"), "{}", ran.stderr);
    assert!(lines.next().unwrap().contains("there is no dataset `scaled`"), "{}", ran.stderr);
    let listed: Value = serde_json::from_str(ran.stdout.trim()).expect("one line, and no file after it");
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
}
