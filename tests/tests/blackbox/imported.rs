//! `host model import`: models that were trained elsewhere.

use std::path::{Path, PathBuf};

use host_tests::{Host, guest, mnist_files, plugin, repository};
use insta::assert_snapshot;
use serde_json::{Value, json};

/// A model file that XGBoost wrote, of six features.
pub(super) fn model_file(name: &str) -> String {
    repository().join("host/src/model/fixtures").join(name).to_str().unwrap().to_owned()
}

fn written(host: &Host, name: &str, text: &str) -> String {
    let path = host.state_dir().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_file_of_xgboost_becomes_a_version() {
    let host = Host::new();
    let softmax = model_file("softprob.json");
    let import = ["model", "import", &softmax, "--name", "flowers", "--tag", "from=elsewhere", "--json"];
    let told = host.run(import).json();
    assert_eq!((&told["model"], &told["version"]), (&json!("flowers"), &json!(1)));
    assert_eq!(host.run(import).json(), told, "the same file is the same version");
    let shown = host.run(["model", "show", "flowers", "--json"]).json();
    assert_eq!(shown["bundle"], told["bundle"]);
    let manifest = &shown["manifest"];
    assert_eq!(manifest["model"]["framework"], "xgboost");
    assert_eq!(manifest["model"]["framework_version"], "3.2.0");
    assert_eq!(manifest["model"]["file_name"], "model.json");
    assert_eq!(manifest["signature"]["inputs"][0]["shape"], json!([6]));
    assert_eq!(
        manifest["signature"]["outputs"][0],
        json!({ "name": "scores", "dtype": "FP32", "shape": [3] })
    );
    assert!(manifest.get("dataset").is_none() && manifest.get("reference").is_none());
    let text = host.run(["model", "show", "flowers"]).expect_success();
    assert!(text.contains("none, it was imported"), "{text}");
    let versions = host.run(["model", "list", "--json"]).json()[0]["versions"].clone();
    assert_eq!(versions[0]["tags"], json!({ "from": "elsewhere" }));
    let run = host.run(["run", "show", versions[0]["run_id"].as_str().unwrap(), "--json"]).json();
    assert!(run.to_string().contains("host model import"), "{run}");
    assert!(host.run(["model", "list"]).expect_success().contains("flowers"));
    // The other format of the same model is another bundle that answers the same.
    let binary = model_file("softprob.ubj");
    let label = plugin("argmax-label");
    let import = ["model", "import", &binary, "--name", "flowers", "--postprocess", &label, "--json"];
    assert_eq!(host.run(import).json()["version"], 2);
    let server = host.serve(["--model", "flowers"]);
    let answer = server.post("/serve/flowers", r#"{"features": [0.1, -0.5, 1, 0, null, 2]}"#);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.json()["label"].is_number(), "{}", answer.body);
    server.wait_for_window(1);
    drop(server);
    // What needs its training data says so.
    let detector = plugin("psi");
    let drift = host.run(["monitor", "run", "--endpoint", "flowers", "--detector", &detector]);
    assert_eq!(drift.code, 2);
    assert!(drift.stderr.contains("has no sample of its training data to compare with"), "{}", drift.stderr);
    host.run(["gc", "--older-than", "0s"]).expect_success();
    // It goes wherever a trained one goes.
    let archive = host.state_dir().join("all.tar");
    let archive = archive.to_str().unwrap();
    host.run(["export", archive]).expect_success();
    let elsewhere = Host::new();
    elsewhere.run(["import", archive]).expect_success();
    assert_eq!(elsewhere.run(["model", "show", "flowers@1", "--json"]).json()["bundle"], told["bundle"]);
}

#[test]
fn rows_that_a_plugin_gives_other_columns_than_none_end_with_its_fault() {
    let host = Host::new();
    let names = ["a", "b", "c", "d", "e", "f"];
    let inputs = names.map(|name| json!({ "name": name, "dtype": "FP64", "shape": [] }));
    let signature = written(&host, "signature.json", &json!({ "inputs": inputs }).to_string());
    let rows = written(&host, "rows.csv", &format!("{}\n0.5,0.5,0.5,0.5,0.5,0.5\n", names.join(",")));
    host.run(["data", "add", "rows", &rows]).expect_success();
    let (model, picky) = (model_file("softprob.json"), guest("picky"));
    let import = ["model", "import", &model, "--name", "flowers", "--signature", &signature];
    // Probabilities are more than 0, and of no rows there are none.
    let renames = ["--postprocess", &picky, "--config", "picky={\"renames_above\":0}"];
    host.run(import.into_iter().chain(renames)).expect_success();
    let predicted = host.run(["predict", "--model", "flowers", "--data", "rows", "--split", "train"]);
    assert_eq!(predicted.code, 3, "{}", predicted.stderr);
    let told = "broke the contract: it returned other columns than its bundle says: column `scoresforged` is unknown: \
                expected `scores`\n";
    assert!(predicted.stderr.ends_with(told), "{}", predicted.stderr);
}

#[test]
fn answers_have_the_columns_that_rows_are_answered_with() {
    let host = Host::new();
    let (model, picky, label) = (model_file("softprob.json"), guest("picky"), plugin("argmax-label"));
    let import = ["model", "import", &model, "--name", "flowers", "--postprocess"];
    let flat = [&picky, "--config", "picky={\"no_rows\":\"flat\"}", "--json"];
    let imported = host.run(import.into_iter().chain(flat)).json();
    let shown = host.run(["model", "show", "flowers", "--json"]).json();
    assert_eq!(shown["manifest"]["signature"]["outputs"][0]["shape"], json!([3]));
    let body = r#"{"features": [0.1, -0.5, 1, 0, null, 2]}"#;
    let server = host.serve(["--model", "flowers"]);
    let expected = server.post("/serve/flowers", body);
    assert_eq!(expected.status, 200, "{}", expected.body);
    let stderr = server.stop().stderr;
    assert!(!stderr.contains("other columns"), "{stderr}");
    // A bundle of before, whose signature is what no rows were answered with.
    let folder = host.state_dir().join("bundle");
    let path = folder.to_str().unwrap();
    host.run(["model", "export", imported["bundle"].as_str().unwrap(), path]).expect_success();
    let file = folder.join("bundle.json");
    let mut manifest: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    manifest["signature"]["outputs"][0]["shape"] = json!([]);
    std::fs::write(&file, manifest.to_string()).unwrap();
    let server = host.serve(["--model", &format!("before={path}")]);
    assert_eq!(server.post("/serve/before", body).json(), expected.json());
    let told = "plugin `picky` answers rows with other columns than its bundle says, which are taken for those of the \
                answer: column `scores`: expected rows of one element, found 3";
    let stderr = server.stop().stderr;
    assert_eq!(stderr.matches(told).count(), 1, "{stderr}");
    // One that refuses no rows, in place of a transformer that answers with other columns.
    host.run(import.into_iter().chain([label.as_str()])).expect_success();
    let refused = ["--postprocess", &picky, "--config", "picky={\"no_rows\":\"refused\"}"];
    let server = host.serve(["--model", "flowers"].into_iter().chain(refused));
    assert_eq!(server.post("/serve/flowers", body).json(), expected.json());
}

#[test]
fn rounds_after_the_best_one_of_a_training_that_was_stopped_early_are_warned_of() {
    let host = Host::new();
    let mut file: Value =
        serde_json::from_str(&std::fs::read_to_string(model_file("softprob.json")).unwrap()).unwrap();
    for (best, is_warned_of) in [("0", true), ("1", false)] {
        file["learner"]["attributes"] = json!({ "best_iteration": best });
        let stopped = written(&host, "stopped.json", &file.to_string());
        let ran = host.run(["model", "import", &stopped, "--name", "flowers"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let warning =
            "warning: the training was stopped early, with its best round as number 1 of 2: all 2 answer";
        assert_eq!(ran.stderr.contains(warning), is_warned_of, "{}", ran.stderr);
    }
}

#[test]
fn a_device_that_this_program_was_not_built_for_is_told_also_where_it_is_not_needed() {
    let host = Host::new();
    host.run(["model", "import", &model_file("softprob.json"), "--name", "flowers"]).expect_success();
    let server = host.serve(["--model", "flowers", "--device", "cuda"]);
    assert_eq!(server.post("/serve/flowers", r#"{"features": [0.1, -0.5, 1, 0, null, 2]}"#).status, 200);
    let told = server.stop().stderr;
    assert_eq!(told.matches("warning: this program was built without CUDA").count(), 1, "{told}");
}

#[test]
fn null_is_taken_where_the_signature_says_that_elements_may_be_missing() {
    let host = Host::new();
    let softmax = model_file("softprob.json");
    host.run(["model", "import", &softmax, "--name", "default"]).expect_success();
    for (name, nullable) in [("may-miss", true), ("may-not", false)] {
        let inputs = json!({ "inputs": [{ "name": "features", "dtype": "FP32", "shape": [6], "nullable": nullable }] });
        let signature = written(&host, "signature.json", &inputs.to_string());
        let import = ["model", "import", &softmax, "--name", name, "--signature", &signature];
        host.run(import).expect_success();
    }
    let server = host.serve(["--model", "default", "--model", "may-miss", "--model", "may-not"]);
    for (name, status) in [("default", 200), ("may-miss", 200), ("may-not", 400)] {
        let row = r#"{"features": [0.1, -0.5, 1, 0, null, 2]}"#;
        let answer = server.post(&format!("/serve/{name}"), row);
        assert_eq!(answer.status, status, "{name}: {}", answer.body);
    }
}

#[test]
fn an_imported_model_is_judged_by_rows_of_several_columns() {
    let host = Host::new();
    let header = "a,b,c,d,e,f,label\n";
    let number = |row: usize, column: usize| (row * (column + 3) % 17) as f64 / 8.0 - 1.0;
    let row = |row: usize| {
        let numbers: Vec<String> = (0..6).map(|column| format!("{:.3}", number(row, column))).collect();
        format!("{},{}\n", numbers.join(","), row % 2)
    };
    let table = written(&host, "t.csv", &format!("{header}{}", (0..50).map(row).collect::<String>()));
    host.run(["data", "add", "t", &table]).expect_success();
    let columns: Vec<Value> = ["a", "b", "c", "d", "e", "f"]
        .map(|name| json!({ "name": name, "dtype": "FP64", "shape": [] }))
        .into();
    let signature = written(&host, "signature.json", &json!({ "inputs": columns }).to_string());
    for (file, metric) in [("logistic.json", "accuracy"), ("squarederror.ubj", "rmse")] {
        let file = model_file(file);
        host.run(["model", "import", &file, "--name", metric, "--signature", &signature]).expect_success();
        let told = host.run(["evaluate", metric, "--data", "t", "--json"]).json();
        assert!(told["metrics"][metric].is_number(), "{told}");
        assert_eq!(
            host.run(["model", "promote", metric, "--metric", metric, "--data", "t", "--json"]).json()["promoted"],
            true
        );
    }
    // There is nothing recorded to be promoted by.
    let said = host.run(["model", "promote", "rmse", "--metric", "rmse"]).failure(&host);
    assert_snapshot!(said, @r"
    exit 2
    error: version 1: there is no metric `rmse`: there is none
    ");
    // Without the signature it takes one column, which this table does not have.
    let plain = model_file("logistic.ubj");
    host.run(["model", "import", &plain, "--name", "plain"]).expect_success();
    let said = host.run(["evaluate", "plain", "--data", "t"]).failure(&host);
    assert_snapshot!(said, @r"
    exit 2
    error: the bundle cannot answer rows of `t`: column `features` is missing
    ");
}

/// A blob of an exported bundle.
pub(super) fn blob(folder: &Path, entry: &Value) -> String {
    let hex = entry["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
    folder.join("blobs/sha256").join(hex).to_str().unwrap().to_owned()
}

/// The shared model as a folder, and its manifest.
pub(super) fn exported(into: &Host) -> (PathBuf, Value) {
    let folder = into.state_dir().join("exported");
    Host::trained().run(["model", "export", "mnist", folder.to_str().unwrap()]).expect_success();
    let manifest = std::fs::read(folder.join("bundle.json")).unwrap();
    (folder, serde_json::from_slice(&manifest).unwrap())
}

#[test]
fn the_parts_of_a_bundle_make_one_that_answers_the_same() {
    let host = Host::new();
    let (folder, manifest) = exported(&host);
    let model = blob(&folder, &manifest["model"]["blob"]);
    let state = format!("mnist-pixels={}", blob(&folder, &manifest["preprocess"][0]["state"]));
    let signature = written(&host, "signature.json", &manifest["signature"].to_string());
    let (before, after) = (plugin("mnist-pixels"), plugin("argmax-label"));
    let base =
        ["model", "import", &model, "--name", "parts", "--preprocess", &before, "--postprocess", &after];
    let import = |more: &[&str]| host.run([&base[..], more].concat());
    let told = import(&["--signature", &signature, "--state", &state, "--json"]).json();
    let rebuilt = host.run(["model", "show", "parts", "--json"]).json()["manifest"].clone();
    for part in ["model", "preprocess", "postprocess", "signature"] {
        let (mut rebuilt, mut original) = (rebuilt[part].clone(), manifest[part].clone());
        if part == "model" {
            // Only training asks the library for it.
            rebuilt["framework_version"] = Value::Null;
            original["framework_version"] = Value::Null;
        }
        assert_eq!(rebuilt, original, "{part}");
    }
    assert_eq!(told["version"], 1);
    host.run(["data", "add", "mnist", &mnist_files()]).expect_success();
    let evaluated = host.run(["evaluate", "parts", "--data", "mnist", "--json"]).json();
    assert_eq!(evaluated["metrics"], manifest["metrics"]);

    let failure = |more: &[&str]| {
        let failure = import(more).failure(&host);
        failure.split("cannot be imported: ").last().unwrap().to_owned()
    };
    assert_snapshot!(failure(&["--signature", &signature]), @r"
    transformer `mnist-pixels` learns from training data, and there is none: expected its state
    hint: give `--state mnist-pixels=FILE`
    ");
    assert_snapshot!(failure(&["--state", &state]), @r#"
    the columns of a request are not known where a transformer stands before the model: expected a signature
    hint: give `--signature FILE` with `{"inputs": [{"name": …, "dtype": …, "shape": […]}]}`
    "#);
    let needless = format!("argmax-label={signature}");
    let told = failure(&["--signature", &signature, "--state", &state, "--state", &needless]);
    assert_snapshot!(told, @"transformer `argmax-label` learns nothing: leave out its state");
    let unused = format!("psi={signature}");
    assert_snapshot!(failure(&["--signature", &signature, "--state", &state, "--state", &unused]), @r"
    exit 2
    error: `--state psi=…` names no transformer of this model
    ");
    let mut wrong = manifest["signature"].clone();
    wrong["outputs"][0]["name"] = json!("score");
    let wrong = written(&host, "wrong.json", &wrong.to_string());
    let told = failure(&["--signature", &wrong, "--state", &state]);
    assert!(told.starts_with("the signature's outputs are `score` "), "{told}");
    let damaged = written(&host, "damaged-state", "{");
    let damaged = format!("mnist-pixels={damaged}");
    let ran = import(&["--signature", &signature, "--state", &damaged]);
    assert!(ran.code == 2 || ran.code == 3, "{}", ran.stderr);
    assert_eq!(host.run(["model", "list", "--json"]).json()[0]["versions"].as_array().unwrap().len(), 1);
}

#[test]
fn a_bundle_folder_is_imported_whole() {
    let host = Host::new();
    let (folder, _) = exported(&host);
    let path = folder.to_str().unwrap();
    let told = host.run(["model", "import", path, "--name", "carried", "--json"]).json();
    let original = Host::trained().run(["model", "show", "mnist", "--json"]).json();
    assert_eq!(told["bundle"], original["bundle"]);
    let said = host.run(["model", "import", path, "--name", "carried", "--signature", path]).failure(&host);
    assert_snapshot!(said, @r"
    exit 2
    error: `--signature` is for model files: a bundle folder has everything
    ");
    std::fs::write(folder.join("bundle.json"), "{}").unwrap();
    assert_eq!(host.run(["model", "import", path, "--name", "carried"]).code, 2);
    std::fs::remove_file(folder.join("bundle.json")).unwrap();
    let said = host.run(["model", "import", path, "--name", "carried"]).failure(&host);
    assert_snapshot!(said, @r"
    exit 2
    error: there is no bundle in `[STATE]/exported`: expected a folder with `bundle.json`
    ");
}

#[test]
fn files_that_are_no_models_are_told() {
    let host = Host::new();
    let failure = |file: &str, more: &[&str]| {
        let ran = host.run([&["model", "import", file, "--name", "m"][..], more].concat());
        let failure = ran.failure(&host);
        assert_eq!(ran_code(&failure), "exit 2", "{failure}");
        failure.split("cannot be imported: ").last().unwrap().to_owned()
    };
    let told = |text: &str| failure(&written(&host, "file", text), &[]);
    for text in ["", "\u{80}\u{4}", "[1]"] {
        assert!(told(text).starts_with("not a model file: expected "), "{}", told(text));
    }
    assert!(told("{\"learner\": {").starts_with("malformed XGBoost JSON model: "));
    assert_snapshot!(failure("/dev/zero", &[]), @r"
    exit 2
    error: `/dev/zero` is no plain file
    ");
    assert_snapshot!(failure("/none", &[]), @r"
    exit 2
    error: failed to read `/none`: No such file or directory (os error 2)
    ");
    let model = model_file("logistic.json");
    let signature = |text: &str| failure(&model, &["--signature", &written(&host, "signature.json", text)]);
    assert_snapshot!(signature("{}"), @r"
    exit 2
    error: `[STATE]/signature.json` is no signature: missing field `inputs` at line 1 column 2
    ");
    assert_snapshot!(signature(r#"{"inputs": [], "more": 1}"#), @r"
    exit 2
    error: `[STATE]/signature.json` is no signature: unknown field `more`, expected one of `inputs`, `features`, `outputs` at line 1 column 21
    ");
    let inputs = |dtype: &str, shape: &str| {
        signature(&format!(r#"{{"inputs": [{{"name": "x", "dtype": "{dtype}", "shape": [{shape}]}}]}}"#))
    };
    let expected = "the bundle's model has 6 features a row: expected 5, as the bundle's signature says";
    assert_eq!(inputs("FP32", "5"), expected);
    assert_snapshot!(inputs("BYTES", "6"), @"the model cannot take what it gets: column `x` has type BYTES, which no model takes: encode it with a transformer, such as `one-hot`");
    let huge = inputs("FP32", "18446744073709551615, 2");
    assert!(huge.starts_with("the signature cannot be used: "), "{huge}");
    assert!(signature(r#"{"inputs": []}"#).contains("expected"));
    let detector = failure(&model, &["--postprocess", &plugin("psi")]);
    assert!(detector.contains("detector"), "{detector}");
    assert_eq!(host.run(["model", "list", "--json"]).json(), json!([]));
}

fn ran_code(failure: &str) -> &str {
    failure.lines().next().unwrap()
}

/// A file of safetensors as any program can write it: a header of JSON, and numbers.
fn safetensors(metadata: &Value, tensors: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
    let mut header = json!({ "__metadata__": { "host.network": metadata.to_string() } });
    let mut data = Vec::new();
    for (name, shape, values) in tensors {
        let begin = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        header[*name] = json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()] });
    }
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

#[test]
fn a_network_of_elsewhere_becomes_a_version() {
    let host = Host::new();
    let dense =
        |units: u32, activation: &str| json!({ "kind": "dense", "units": units, "activation": activation });
    let architecture = json!({
        "version": 1, "input": { "height": 1, "width": 1, "channels": 2 }, "missing": 0.0,
        "layers": [dense(2, "relu"), dense(2, "none")], "output": { "kind": "classes" },
    });
    let weights = [1.0, -1.0, 0.5, 2.0];
    let file = safetensors(
        &architecture,
        &[
            ("layers.0.weight", &[2, 2], &weights),
            ("layers.0.bias", &[2], &[0.25, -0.5]),
            ("layers.1.weight", &[2, 2], &[1.0, 0.0, 0.0, 1.0]),
            ("layers.1.bias", &[2], &[0.0, 0.0]),
        ],
    );
    let path = host.state_dir().join("model.safetensors");
    std::fs::write(&path, &file).unwrap();
    let columns = ["a", "b"].map(|name| json!({ "name": name, "dtype": "FP32", "shape": [] }));
    let signature = written(&host, "signature.json", &json!({ "inputs": columns }).to_string());
    let path = path.to_str().unwrap();
    host.run(["model", "import", path, "--name", "net", "--signature", &signature]).expect_success();
    let shown = host.run(["model", "show", "net", "--json"]).json();
    assert_eq!(shown["manifest"]["model"]["file_name"], "model.safetensors");
    let server = host.serve(["--model", "net"]);
    let answer = server.post("/serve/net", r#"{"a": 1, "b": -2}"#).json();
    // 1 · 1 − 2 · 0.5 + 0.25 and −1 · 1 − 2 · 2 − 0.5, of which the second is cut off at 0.
    let hidden = [0.25_f64, 0.0];
    let sum: f64 = hidden.iter().map(|value| value.exp()).sum();
    for (score, hidden) in answer["scores"].as_array().unwrap().iter().zip(hidden) {
        let expected = hidden.exp() / sum;
        assert!((score.as_f64().unwrap() - expected).abs() < 1e-6, "{answer}");
    }
    drop(server);
    // Cut anywhere it is refused, and nothing is registered.
    let short = host.state_dir().join("short.safetensors");
    for length in [9, 40, file.len() - 1] {
        std::fs::write(&short, &file[..length]).unwrap();
        let said = host.run(["model", "import", short.to_str().unwrap(), "--name", "short"]);
        assert_eq!(said.code, 2, "{length}: {}", said.stderr);
    }
    assert!(!host.run(["model", "list"]).expect_success().contains("short"));
}
