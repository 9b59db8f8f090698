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
    let shown = host.run(["model", "show", "mnist", "--json"]).json();
    let manifest = &shown["manifest"];
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
    let is_close = |name: &str, found: &Value, expected: &Value| {
        let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
        assert!((found - expected).abs() < 1e-6, "{name}: {found} is not scikit-learn's {expected}");
    };
    let expected = compared["metrics"].as_object().unwrap();
    assert_eq!(expected.len(), manifest["metrics"].as_object().unwrap().len());
    for (name, expected) in expected {
        is_close(name, &manifest["metrics"][name], expected);
    }
    let evaluation = evaluation_of(host, &shown["bundle"]);
    let classes = compared["classes"].as_array().unwrap();
    assert_eq!(classes.len(), evaluation["classes"].as_array().unwrap().len());
    for (class, expected) in classes.iter().enumerate() {
        for (name, expected) in expected.as_object().unwrap() {
            is_close(&format!("{name} of {class}"), &evaluation["classes"][class][name], expected);
        }
    }
}

/// The artifact `evaluation.json` of the run that made a bundle.
fn evaluation_of(host: &Host, bundle: &Value) -> Value {
    let filter = format!("tags.`host.bundle` = '{}'", bundle.as_str().unwrap());
    let runs = host.run(["run", "list", "--filter", &filter, "--json"]).json();
    let uri = runs[0]["info"]["artifact_uri"].as_str().unwrap();
    let path = uri.strip_prefix("mlflow-artifacts:/").unwrap();
    let server = host.server([]);
    server.get(&format!("/api/2.0/mlflow-artifacts/artifacts/{path}/evaluation.json")).json()
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

#[test]
fn a_killed_training_goes_on_from_its_newest_checkpoint() {
    let host = Host::new();
    host.run(["data", "add", "mnist", &mnist_files()]).expect_success();
    let pixels = plugin("mnist-pixels");
    let base = [
        "train",
        "--data",
        "mnist",
        "--preprocess",
        &pixels,
        "--train-rows",
        "1000",
        "--threads",
        "1",
        "--json",
    ];
    let rounds = ["--rounds", "40", "--checkpoint-every", "5"];
    let mut child = host
        .command()
        .args(base.iter().chain(&rounds))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let reached = |run: &Value| {
        let metrics = run["data"]["metrics"].as_array()?;
        metrics.iter().find(|metric| metric["key"] == "test-mlogloss")?["step"].as_i64()
    };
    let run_id = loop {
        let run = host.run(["run", "list", "--json"]).json()[0].clone();
        if reached(&run).is_some_and(|step| step >= 12) {
            break run["info"]["run_id"].as_str().unwrap().to_owned();
        }
        assert!(child.try_wait().unwrap().is_none(), "the training ended before it could be killed");
    };
    child.kill().unwrap();
    child.wait().unwrap();
    let go_on = |more: &[&str]| {
        let resume = ["--resume", run_id.as_str()];
        host.run(base.into_iter().chain(more.iter().copied()).chain(resume))
    };
    let other = go_on(&["--rounds", "50"]);
    assert_eq!(other.code, 2, "{}", other.stderr);
    let told = format!("run `{run_id}` was started with the parameter `rounds` as `40`: found `50`");
    assert!(other.stderr.contains(&told), "{}", other.stderr);

    let ran = go_on(&rounds);
    assert!(ran.stderr.contains("going on after round "), "{}", ran.stderr);
    let resumed = ran.json();
    assert_eq!(resumed["run_id"], run_id.as_str());
    let whole = host.run(base.into_iter().chain(["--rounds", "40", "--experiment", "whole"])).json();
    assert_eq!(resumed["bundle"], whole["bundle"], "it is the model of a training that was not killed");

    let server = host.server([]);
    let path = format!("/api/2.0/mlflow/metrics/get-history?run_id={run_id}&metric_key=test-mlogloss");
    let history = server.get(&path).json();
    let steps: Vec<i64> =
        history["metrics"].as_array().unwrap().iter().map(|point| point["step"].as_i64().unwrap()).collect();
    assert_eq!(steps, (1..=40).collect::<Vec<_>>(), "no round is lost or doubled");
    let listed =
        server.get(&format!("/api/2.0/mlflow/artifacts/list?run_id={run_id}&path=checkpoints")).json();
    let files: Vec<&str> =
        listed["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(files, ["checkpoints/round-000030", "checkpoints/round-000035"]);
    let finished = go_on(&rounds);
    assert!(finished.stderr.contains("has finished: there is nothing to resume"), "{}", finished.stderr);
}

#[test]
fn a_training_starts_from_a_model_and_its_rounds_count() {
    let host = Host::new();
    host.run(["data", "add", "mnist", &mnist_files()]).expect_success();
    let pixels = plugin("mnist-pixels");
    let train = |more: &[&str]| {
        let base = [
            "train",
            "--data",
            "mnist",
            "--preprocess",
            &pixels,
            "--train-rows",
            "500",
            "--threads",
            "1",
            "--json",
        ];
        host.run(base.into_iter().chain(more.iter().copied()))
    };
    let short = train(&["--rounds", "3", "--name", "short"]).json();
    let long = train(&["--rounds", "6", "--name", "long", "--continue-from", "short@1"]).json();
    let whole = train(&["--rounds", "6", "--name", "whole"]).json();
    assert_eq!(long["bundle"], whole["bundle"]);
    let manifest = host.run(["model", "show", "short", "--json"]).json()["manifest"].clone();
    let file = blob(&host, &manifest["model"]["blob"]);
    let from_file =
        train(&["--rounds", "6", "--name", "file", "--continue-from", file.to_str().unwrap()]).json();
    assert_eq!(from_file["bundle"], whole["bundle"]);
    let refused = train(&["--rounds", "3", "--continue-from", short["bundle"].as_str().unwrap()]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("has 3 rounds already, expected fewer than the 3 in all"),
        "{}",
        refused.stderr
    );
    let missing = train(&["--continue-from", "nothing"]);
    assert!(missing.stderr.contains("`nothing`"), "{}", missing.stderr);
}

#[test]
fn a_training_stops_early_and_tells_the_best_round() {
    let host = Host::new();
    let file = host.state_dir().join("noise.csv");
    let mix = |row: u32| row.wrapping_mul(2_654_435_761) >> 16;
    let rows: String =
        (0..400).map(|row| format!("{},{},{}\n", row % 7, mix(row) % 50, mix(row * 3 + 1) % 2)).collect();
    std::fs::write(&file, format!("a,b,label\n{rows}")).unwrap();
    host.run(["data", "add", "noise", file.to_str().unwrap()]).expect_success();
    let stop = ["--set", "early_stopping_rounds=3", "--rounds", "500"];
    let trained = host.run(["train", "--data", "noise", "--json"].into_iter().chain(stop)).json();
    let shown = host.run(["run", "show", trained["run_id"].as_str().unwrap(), "--json"]).json();
    let params = shown["data"]["params"].as_array().unwrap();
    let best =
        params.iter().find(|param| param["key"] == "best_iteration").unwrap()["value"].as_str().unwrap();
    let best: i64 = best.parse().unwrap();
    let metrics = shown["data"]["metrics"].as_array().unwrap();
    let last =
        metrics.iter().find(|metric| metric["key"] == "test-logloss").unwrap()["step"].as_i64().unwrap();
    // Rounds are counted from 1 and iterations from 0.
    assert_eq!(last, best + 1 + 3, "three rounds after the best");
    let loss = trained["metrics"]["log_loss"].as_f64().unwrap();
    assert!((0.3..0.8).contains(&loss), "{loss}");
}
