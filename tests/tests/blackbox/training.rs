//! `host train`: the bundle, its agreement with Python, and what can go wrong.

use std::path::{Path, PathBuf};
use std::process::Command;

use host_tests::{Host, mnist_files, plugin, python, ran, repository};
use serde_json::Value;

/// The blob that a bundle names, in the state folder.
fn blob(host: &Host, entry: &Value) -> PathBuf {
    let hex = entry["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
    host.state_dir().join("blobs/sha256").join(&hex[..2]).join(&hex)
}

#[test]
fn python_loads_the_model_file_and_predicts_the_same() {
    let host = Host::trained();
    let manifest = host.run(["model", "show", "mnist", "--json"]).json()["manifest"].clone();
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.ubj");
    std::fs::copy(blob(host, &manifest["model"]["blob"]), &model).unwrap();
    let predicted = folder.path().join("predicted.jsonl");
    let out = predicted.to_str().unwrap();
    host.run(["predict", "--model", "mnist", "--data", "mnist", "--out", out]).expect_success();
    let compared = Command::new(python())
        .arg(repository().join("tests/python/compare_predictions.py"))
        .args([&model, &predicted, &PathBuf::from(mnist_files())])
        .output()
        .unwrap();
    let compared = ran(compared).json();
    assert_eq!(compared["rows"], 10_000);
    assert_eq!(compared["labels_differing"], 0);
    assert!(compared["largest_difference"].as_f64().unwrap() <= 1e-6, "{compared}");
    assert!(compared["accuracy"].as_f64().unwrap() > 0.85, "{compared}");
}

#[test]
fn the_bundle_tells_what_was_trained_on_what_through_what() {
    let host = Host::trained();
    let shown = host.run(["model", "show", "mnist", "--json"]).json();
    let manifest = &shown["manifest"];
    let data = host.run(["data", "show", "mnist", "--json"]).json();
    assert_eq!(manifest["dataset"]["version"], data["digest"]);
    assert_eq!(manifest["preprocess"][0]["name"], "mnist-pixels");
    assert_eq!(manifest["postprocess"][0]["name"], "argmax-label");
    let component = blob(host, &manifest["preprocess"][0]["component"]);
    assert_eq!(std::fs::read(component).unwrap(), std::fs::read(plugin("mnist-pixels")).unwrap());
    assert_eq!(manifest["signature"]["inputs"][0]["name"], "pixels");
    assert_eq!(manifest["signature"]["inputs"][0]["dtype"], "UINT8");
    assert_eq!(manifest["signature"]["features"][0]["shape"], serde_json::json!([784]));
    assert_eq!(manifest["parameters"]["max_depth"], "5");
    let accuracy = manifest["metrics"]["accuracy"].as_f64().unwrap();
    assert!((0.85..1.0).contains(&accuracy), "{accuracy}");
    let confusion = manifest["confusion"].as_array().unwrap();
    let count = |value: &Value| value.as_u64().unwrap();
    let all: u64 = confusion.iter().flat_map(|row| row.as_array().unwrap()).map(count).sum();
    let right: u64 = confusion.iter().enumerate().map(|(class, row)| count(&row[class])).sum();
    assert_eq!(all, 10_000);
    assert_eq!(right as f64 / 10_000.0, accuracy);
    let digest = shown["bundle"].as_str().unwrap();
    assert_eq!(host.run(["model", "show", digest, "--json"]).json()["manifest"], *manifest);
}

#[test]
fn the_same_training_again_is_the_same_bundle() {
    let host = Host::new();
    host.run(["data", "add", "mnist", &mnist_files()]).expect_success();
    let before = plugin("mnist-pixels");
    let arguments = [
        "train",
        "--data",
        "mnist",
        "--preprocess",
        &before,
        "--train-rows",
        "500",
        "--rounds",
        "3",
        "--threads",
        "1",
        "--json",
    ];
    let (first, second) = (host.run(arguments).json(), host.run(arguments).json());
    assert_eq!(first["bundle"], second["bundle"]);
    assert_eq!(second["version"], 1, "the same content is the same version");
}

#[test]
fn a_table_without_splits_or_transformers_trains_too() {
    let host = Host::new();
    let mut table = String::from("x,y,label\n");
    for row in 0..200 {
        let (x, y) = (row % 17, row % 5);
        let missing = if row % 29 == 0 { String::new() } else { format!("{x}.5") };
        table.push_str(&format!("{missing},{y},{}\n", i32::from(x > 8)));
    }
    let file = host.state_dir().join("table.csv");
    std::fs::write(&file, table).unwrap();
    host.run(["data", "add", "table", file.to_str().unwrap()]).expect_success();
    let report = host.run(["train", "--data", "table", "--rounds", "10", "--json"]).json();
    assert_eq!((report["train_rows"].as_u64(), report["test_rows"].as_u64()), (Some(154), Some(46)));
    assert!(report["metrics"]["accuracy"].as_f64().unwrap() > 0.9, "{report}");
    let server = host.serve(["--model", "table"]);
    let answer = server.post("/serve/table", "[{\"x\": 16.5, \"y\": 1}, {\"x\": null, \"y\": 1}]");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.json()[0]["scores"][0].as_f64().unwrap() > 0.5, "{}", answer.body);
    assert_eq!(server.post("/serve/table", "{\"x\": 1, \"y\": null}").status, 400, "`y` was never missing");
}

#[test]
fn mistakes_are_told_before_anything_is_trained() {
    let host = Host::trained();
    let pixels = plugin("mnist-pixels");
    let base = [
        "train",
        "--data",
        "mnist",
        "--preprocess",
        &pixels,
        "--train-rows",
        "100",
        "--rounds",
        "1",
        "--name",
        "wrong",
    ];
    let failure = |more: &[&str]| {
        let ran = host.run(base.iter().chain(more).copied());
        (ran.code, ran.stderr.clone())
    };
    for (more, word) in [
        (vec!["--set", "max_dept=3"], "did you mean `max_depth`"),
        (vec!["--set", "max_depth=deep"], "`deep`"),
        (vec!["--label", "digit"], "`digit`"),
        (vec!["--config", "other={}"], "`--config other=…`"),
        (vec!["--config", "mnist-pixels={"], "not JSON"),
        (vec!["--config", "mnist-pixels={\"unknown\":1}"], "refused its config"),
    ] {
        let (code, stderr) = failure(&more);
        assert_eq!(code, 2, "{more:?}: {stderr}");
        assert!(stderr.contains(word), "{more:?}: {stderr}");
    }
    let (code, stderr) = failure(&["--preprocess", "/nowhere.wasm"]);
    assert_eq!(code, 2, "{stderr}");
    let unknown = host.run(["train", "--data", "nothing"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("`nothing`"), "{}", unknown.stderr);
    let library = host.command().env("HOST_XGBOOST_LIBRARY", "/nowhere.so").args(base).output().unwrap();
    let library = ran(library);
    assert_ne!(library.code, 0);
    assert!(library.stderr.contains("/nowhere.so"), "{}", library.stderr);
    let listed = host.run(["model", "list", "--json"]).json();
    assert!(listed.as_array().unwrap().iter().all(|model| model["name"] != "wrong"), "{listed}");
}

#[test]
fn a_detector_is_no_preprocessor() {
    let host = Host::trained();
    let ran = host.run(["train", "--data", "mnist", "--preprocess", &plugin("psi"), "--train-rows", "10"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("it is a detector, and a transformer is needed here"), "{}", ran.stderr);
}

#[test]
fn a_damaged_bundle_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    Host::trained().run(["model", "export", "mnist", bundle.to_str().unwrap()]).expect_success();
    let manifest_path = bundle.join("bundle.json");
    let text = std::fs::read_to_string(&manifest_path).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    let entry = &manifest["model"]["blob"];
    let hex = entry["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let model = bundle.join("blobs/sha256").join(&hex);
    let whole = std::fs::read(&model).unwrap();
    let half = &whole[..whole.len() / 2];
    std::fs::write(&model, half).unwrap();
    let refused = |word: &str| {
        let host = Host::new();
        let ran = host.run(["serve", "--model", bundle.to_str().unwrap(), "--port", "0"]);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
        assert_eq!(ran.stderr.trim_end().lines().count(), 1, "{}", ran.stderr);
    };
    refused("is damaged");
    // The same half with a digest that fits: only the model file's own reader can tell now.
    use sha2::Digest as _;
    let other: String = sha2::Sha256::digest(half).iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::rename(&model, bundle.join("blobs/sha256").join(&other)).unwrap();
    std::fs::write(&manifest_path, text.replace(&hex, &other)).unwrap();
    refused("malformed");
    std::fs::write(&manifest_path, &text[..text.len() / 2]).unwrap();
    refused("is not a bundle manifest");
}

#[test]
fn a_full_disk_leaves_no_bundle_and_no_scraps() {
    let host = Host::trained();
    let folder = tempfile::tempdir().unwrap();
    // A file system of 40 MB in a mount namespace of its own: MNIST and the run's record fit, the blobs of a training do
    // not all.
    let script = r#"
        mount -t tmpfs -o size="$SIZE" none "$STATE" || exit 90
        "$@" data add mnist "$FILES" >/dev/null || exit 91
        "$@" run list >/dev/null 2>&1 || exit 93
        head -c "$(($(df --output=avail -B1 "$STATE" | tail -1) - 700000))" /dev/zero > "$STATE/filler"
        "$@" train --data mnist --preprocess "$PIXELS" --train-rows 500 --rounds 30
        code=$?
        "$@" model list --json
        find "$STATE" -name '*tmp*' -type f
        rm "$STATE/filler"
        "$@" train --data mnist --preprocess "$PIXELS" --train-rows 500 --rounds 3 --json >/dev/null || exit 92
        exit $code
    "#;
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "bash", "-c", script, "bash"])
        .arg(host.command().get_program())
        .env("STATE", folder.path())
        .env("HOST_STATE_DIR", folder.path())
        .env("SIZE", "40m")
        .env("FILES", mnist_files())
        .env("PIXELS", plugin("mnist-pixels"))
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let ran = ran(output);
    assert_eq!(ran.code, 1, "{}\n{}", ran.stdout, ran.stderr);
    assert_eq!(ran.stdout.trim(), "[]", "no model, no temporary file");
    assert!(ran.stderr.contains("No space left on device"), "{}", ran.stderr);
    assert!(!Path::new(&folder.path().join("models")).exists(), "the mount went with its namespace");
}

#[test]
fn labels_are_judged_before_anything_is_trained() {
    let host = Host::new();
    let file = host.state_dir().join("t.csv");
    let train = |rows: &str, more: &[&str]| {
        std::fs::write(&file, format!("a,label\n{rows}")).unwrap();
        host.run(["data", "add", "t", file.to_str().unwrap()]).expect_success();
        host.run(["train", "--data", "t", "--rounds", "1"].into_iter().chain(more.iter().copied()))
    };
    let rows = |label: &dyn Fn(usize) -> String| -> String {
        (0..200).map(|row| format!("{},{}\n", row % 7, label(row))).collect()
    };
    let ages = train(&rows(&|row| (18 + row % 60).to_string()), &[]);
    assert!(ages.stderr.contains("the labels suggested the objective reg:squarederror"), "{}", ages.stderr);
    let same = train(&rows(&|_| "0".to_owned()), &[]);
    assert!(same.stderr.contains("every row to train on has the class 0"), "{}", same.stderr);
    let missing = train(&rows(&|row| if row == 7 { String::new() } else { (row % 2).to_string() }), &[]);
    assert!(missing.stderr.contains("row 7"), "{}", missing.stderr);
    let text = train(&rows(&|row| if row % 2 == 0 { "cat" } else { "dog" }.to_owned()), &[]);
    assert!(text.stderr.contains("found text"), "{}", text.stderr);
}

#[test]
fn variables_that_are_empty_are_not_set() {
    let host = Host::new();
    let mut list = host.command();
    list.args(["data", "list"]).env("HOST_XGBOOST_LIBRARY", "").env("HOST_DATABASE", "");
    assert_eq!(ran(list.output().unwrap()).code, 0);
    let mut train = host.command();
    train.args(["train", "--data", "none"]).env("HOST_XGBOOST_LIBRARY", "");
    let ran = ran(train.output().unwrap());
    assert!(ran.stderr.contains("there is no dataset `none`"), "{}", ran.stderr);
}

#[test]
fn a_bundle_folder_with_something_else_than_files_is_refused() {
    let carried = tempfile::tempdir().unwrap();
    let folder = carried.path().join("bundle");
    Host::trained().run(["model", "export", "mnist", folder.to_str().unwrap()]).expect_success();
    let blobs = folder.join("blobs/sha256");
    let blob = std::fs::read_dir(&blobs).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &blob).unwrap();
    let ran = Host::new().run(["model", "show", folder.to_str().unwrap()]);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("expected a plain file"), "{}", ran.stderr);
}
