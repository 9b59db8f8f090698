//! ONNX models, exported as their users do, imported and served as ONNX Runtime's own package predicts.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use host_tests::{Host, Server, plugin, python, ran, repository, sha256};
use insta::assert_snapshot;
use serde_json::{Value, json};

/// The models, made once.
fn models() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut script = Command::new(python());
        script.arg(repository().join("tests/python/onnx_models.py")).arg(folder.path());
        ran(script.output().unwrap()).expect_success();
        folder
    });
    made.path()
}

fn model(name: &str) -> String {
    models().join(format!("{name}.onnx")).to_str().unwrap().to_owned()
}

fn expected(name: &str) -> Value {
    let text = std::fs::read(models().join("expected.json")).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()[name].clone()
}

/// A host that knows the rows as dataset `rows`, and the signature of models of its four columns.
fn host_with_rows() -> (Host, String) {
    let host = Host::new();
    let rows = models().join("rows.csv");
    host.run(["data", "add", "rows", rows.to_str().unwrap()]).expect_success();
    let columns = ["a", "b", "c", "d"].map(|name| json!({ "name": name, "dtype": "FP64", "shape": [] }));
    let signature = host.state_dir().join("signature.json");
    std::fs::write(&signature, json!({ "inputs": columns }).to_string()).unwrap();
    (host, signature.to_str().unwrap().to_owned())
}

/// What the model `name` says of the rows, as bits.
fn predicted(host: &Host, name: &str) -> Value {
    bits_of(&host.run(["predict", "--model", name, "--data", "rows", "--split", "train"]).expect_success())
}

fn bits_of(predictions: &str) -> Value {
    let row = |line: &str| -> Vec<u32> {
        let row: Value = serde_json::from_str(line).unwrap();
        // From its text, as a 64-bit float in between would be rounded twice.
        let scores = row["scores"].as_array().unwrap().iter();
        scores.map(|score| score.to_string().parse::<f32>().unwrap().to_bits()).collect()
    };
    predictions.lines().map(row).collect::<Vec<_>>().into()
}

#[test]
fn exports_of_every_kind_predict_to_the_bit_what_onnx_runtime_does() {
    let (host, signature) = host_with_rows();
    for (name, metric) in [
        ("logistic_maps", "accuracy"),
        ("logistic", "accuracy"),
        ("logistic_double", "accuracy"),
        ("forest", "accuracy"),
        ("mlp_maps", "accuracy"),
        ("lightgbm_maps", "accuracy"),
        ("lightgbm", "accuracy"),
        ("lightgbm_binary", ""),
        ("regressor", "rmse"),
        ("clusters", ""),
        ("network", ""),
        ("network_of_one", ""),
        ("network_softmax", "accuracy"),
    ] {
        let file = model(name);
        host.run(["model", "import", &file, "--name", name, "--signature", &signature]).expect_success();
        assert!(predicted(&host, name) == expected(name), "{name}");
        let checked = host.run(["model", "check", name, "--json"]).json();
        assert_eq!((&checked["answered"], &checked["exact"]), (&json!(4), &json!(true)), "{name}");
        if !metric.is_empty() {
            let told = host.run(["evaluate", name, "--data", "rows", "--split", "train", "--json"]).json();
            assert!(told["metrics"][metric].is_number(), "{name}: {told}");
        }
    }
}

#[test]
fn a_classifier_of_scikit_learn_is_served() {
    let (host, signature) = host_with_rows();
    let (file, label) = (model("logistic_maps"), plugin("argmax-label"));
    let import =
        ["model", "import", &file, "--name", "iris", "--signature", &signature, "--postprocess", &label];
    host.run(import).expect_success();
    let manifest = host.run(["model", "show", "iris", "--json"]).json()["manifest"].clone();
    assert_eq!(manifest["model"]["framework"], "onnxruntime");
    assert_eq!(manifest["model"]["file_name"], "model.onnx");
    let digest = format!("sha256:{}", sha256(&std::fs::read(&file).unwrap()));
    assert_eq!(manifest["model"]["blob"]["digest"], digest);
    assert_eq!(
        manifest["model"]["output"],
        json!({ "name": "output_probability", "scores": "probabilities" })
    );
    let shown = host.run(["model", "show", "iris"]).expect_success();
    assert!(shown.contains("probabilities in `output_probability`"), "{shown}");
    let server = host.serve(["--model", "iris"]);
    let rows: Vec<Value> = (0..200).map(|n| json!({ "a": n % 8, "b": 3, "c": n % 7, "d": n % 3 })).collect();
    let together = server.post("/serve/iris", &json!(rows).to_string());
    assert_eq!(together.status, 200, "{}", together.body);
    // Many callers at once, each for a row, are told the same.
    let alone: Vec<Value> = std::thread::scope(|scope| {
        let ask = |row: &Value| server.post("/serve/iris", &row.to_string()).json();
        let parts: Vec<_> = rows
            .chunks(25)
            .map(|part| scope.spawn(move || part.iter().map(ask).collect::<Vec<_>>()))
            .collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    let without_id = |answer: &Value| (answer["label"].clone(), answer["scores"].clone());
    let together = together.json();
    let together: Vec<_> = together.as_array().unwrap().iter().map(without_id).collect();
    assert_eq!(together, alone.iter().map(without_id).collect::<Vec<_>>());
    let platform = server.get("/v2/models/iris").json()["platform"].clone();
    assert_eq!(platform, "onnxruntime_onnx");
    // It goes wherever another goes.
    drop(server);
    let archive = host.state_dir().join("all.tar");
    host.run(["export", archive.to_str().unwrap()]).expect_success();
    let elsewhere = Host::new();
    elsewhere.run(["import", archive.to_str().unwrap()]).expect_success();
    elsewhere.run(["model", "check", "iris"]).expect_success();
}

#[test]
fn what_the_scores_are_can_be_said() {
    let (host, signature) = host_with_rows();
    let import = |file: &str, name: &str, more: &[&str]| {
        let file = model(file);
        let base = ["model", "import", &file, "--name", name, "--signature", &signature];
        host.run([&base[..], more].concat())
    };
    // Logits as they come are values, which no labels judge.
    import("network", "values", &[]).expect_success();
    import("network", "logits", &["--scores", "logits"]).expect_success();
    import("network_softmax", "softmax", &[]).expect_success();
    assert_eq!(host.run(["evaluate", "values", "--data", "rows", "--split", "train"]).code, 2);
    let metrics = |name: &str| {
        host.run(["evaluate", name, "--data", "rows", "--split", "train", "--json"]).json()["metrics"].clone()
    };
    let (own, theirs) = (metrics("logits"), metrics("softmax"));
    assert_eq!(own["accuracy"], theirs["accuracy"]);
    let loss = |metrics: &Value| metrics["log_loss"].as_f64().unwrap();
    assert!((loss(&own) - loss(&theirs)).abs() < 1e-5, "{own} {theirs}");
    import("two_outputs", "negated", &["--output", "z"]).expect_success();
    let first =
        host.run(["predict", "--model", "negated", "--data", "rows", "--split", "train"]).expect_success();
    let first: Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
    assert_eq!(first["scores"], json!([-5.1, -3.5, -1.4, -0.2]));
    let failure = |file: &str, more: &[&str]| {
        import(file, "m", more).failure(&host).split("cannot be imported: ").last().unwrap().to_owned()
    };
    assert_snapshot!(failure("two_outputs", &[]), @r"
    the ONNX model cannot be used: several outputs may have the scores: it has `y` FLOAT [?, 4], `z` FLOAT [?, 4]
    hint: give `--output NAME`
    ");
    assert_snapshot!(failure("two_outputs", &["--output", "a"]), @"the ONNX model cannot be used: it has no output `a`: it has `y` FLOAT [?, 4], `z` FLOAT [?, 4]");
    let xgboost = repository().join("host/src/model/fixtures/logistic.json");
    let xgboost = xgboost.to_str().unwrap();
    let ran = host.run(["model", "import", xgboost, "--name", "m", "--scores", "values"]);
    let told = ran.failure(&host);
    assert_snapshot!(told.split("cannot be imported: ").last().unwrap(), @"which output has the scores, and what they are, can be said of ONNX models only");
}

/// Imports a model of the four columns that answers labels.
fn import_labelling(host: &Host, signature: &str, name: &str, more: &[&str]) -> host_tests::Ran {
    let (file, label) = (model(name), plugin("argmax-label"));
    let base = ["model", "import", &file, "--name", name, "--signature", signature, "--postprocess", &label];
    host.run([&base[..], more].concat())
}

/// What a model says of the rows, in one column.
fn predicted_column(host: &Host, name: &str, column: &str) -> Value {
    let told = host.run(["predict", "--model", name, "--data", "rows", "--split", "train"]).expect_success();
    told.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()[column].clone()).collect()
}

fn why(host: &Host, ran: host_tests::Ran) -> String {
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    ran.failure(host).split("cannot be imported: ").last().unwrap().trim_end().to_owned()
}

#[test]
fn decision_scores_are_not_taken_for_probabilities() {
    let (host, signature) = host_with_rows();
    let import = |name: &str, more: &[&str]| import_labelling(&host, &signature, name, more);
    let logits = ["--scores", "logits"];
    for name in [
        "labels_ridge",
        "labels_linear_svc",
        "labels_linear_svc_of_two",
        "labels_logistic_raw",
        "labels_boosted_raw",
        "labels_svc",
    ] {
        let told = why(&host, import(name, &[]));
        assert!(
            told.contains("is taken for probabilities by its name or what makes it, and ")
                && told.contains("--scores logits"),
            "{told}"
        );
        let file = model(name);
        let plain = host.run(["model", "import", &file, "--name", name, "--signature", &signature]);
        assert_eq!(why(&host, plain), told);
        let told = why(&host, import(name, &["--scores", "probabilities"]));
        assert!(told.starts_with("the model's scores are said to be probabilities, and are ["), "{told}");
        let told = why(&host, import(name, &["--scores", "values"]));
        assert!(
            told.starts_with("transformer `argmax-label` takes probabilities, and the model's "),
            "{told}"
        );
        import(name, &logits).expect_success();
        assert!(predicted_column(&host, name, "label") == expected(name), "{name}");
    }
    // The scores are in the other order than the labels.
    for name in ["labels_svc_of_two", "labels_svc_of_texts"] {
        let own = if name == "labels_svc_of_two" { "output_label" } else { "label" };
        let told = why(&host, import(name, &logits));
        assert!(
            told.starts_with(&format!("the model's own labels, in output `{own}`, are mostly not ")),
            "{told}"
        );
    }
    let file = model("labels_svc_of_two");
    let own =
        ["model", "import", &file, "--name", "own", "--signature", &signature, "--output", "output_label"];
    host.run(own).expect_success();
    let found = predicted_column(&host, "own", "scores");
    let label = |row: &Value| json!(row[0].as_f64().unwrap() as i64);
    assert!(found.as_array().unwrap().iter().map(label).collect::<Value>() == expected("labels_svc_of_two"));
    // Logits of PyTorch are no probabilities until they are said to be logits.
    let told = why(&host, import("network", &[]));
    assert!(told.starts_with("transformer `argmax-label` takes probabilities, and the model's "), "{told}");
    import("network", &logits).expect_success();
    // A softmax over something else than classes makes values.
    let file = model("softmax_of_parts");
    host.run(["model", "import", &file, "--name", "parts"]).expect_success();
    let shown = host.run(["model", "show", "parts"]).expect_success();
    assert!(shown.contains("values in `y`"), "{shown}");
}

#[test]
fn integer_classes_are_answered_as_they_are() {
    let (host, signature) = host_with_rows();
    let import = |name: &str, more: &[&str]| import_labelling(&host, &signature, name, more);
    assert_snapshot!(why(&host, import("labels_from_one", &[])), @r#"
    transformer `argmax-label` would answer places from 0, and the model's classes are 1, 2
    hint: give `--config 'argmax-label={"labels": [1, 2]}'`
    "#);
    for (name, labels) in [
        ("labels_from_one", "[1, 2]"),
        ("labels_of_tens", "[10, 20, 30]"),
        ("labels_of_tens_mlp", "[10, 20, 30]"),
    ] {
        let told = why(&host, import(name, &[]));
        let config = format!("argmax-label={{\"labels\": {labels}}}");
        assert!(told.ends_with(&format!("hint: give `--config '{config}'`")), "{told}");
        import(name, &["--config", &config]).expect_success();
        assert!(predicted_column(&host, name, "label") == expected(name), "{name}");
        let shown = host.run(["model", "show", name, "--json"]).json();
        assert_eq!(shown["manifest"]["signature"]["outputs"][0]["dtype"], "INT64", "{name}");
        // Scores alone have no labels.
        let file = model(name);
        host.run(["model", "import", &file, "--name", "plain", "--signature", &signature]).expect_success();
    }
    import("labels_of_tens", &["--config", r#"argmax-label={"labels": ["x", "y", "z"]}"#]).expect_success();
    // Texts are places until they are configured.
    import("labels_of_texts", &[]).expect_success();
    assert_eq!(predicted_column(&host, "labels_of_texts", "label")[0], 0);
}

#[test]
fn files_that_cannot_be_taken_are_told() {
    let host = Host::new();
    let failure = |file: &str| {
        let ran = host.run(["model", "import", file, "--name", "m"]);
        assert_eq!(ran.code, 2, "{file}: {}", ran.stderr);
        ran.failure(&host).split("cannot be imported: ").last().unwrap().trim_end().to_owned()
    };
    let bad = |name: &str| failure(&model(&format!("bad_{name}")));
    assert_snapshot!(bad("strings"), @"the ONNX model cannot be used: its input is `x` STRING [?, 4]: expected FLOAT, DOUBLE, INT64 or INT32");
    assert_snapshot!(bad("two_inputs"), @"the ONNX model cannot be used: it takes `x` FLOAT [?, 4], `w` FLOAT [?, 4]: expected one input");
    assert_snapshot!(bad("batch"), @"the ONNX model cannot be used: its input is `x` FLOAT [16, 4]: expected a first dimension of any size, or of 1");
    assert_snapshot!(bad("free"), @"the ONNX model cannot be used: its input is `x` FLOAT [?, ?]: expected every dimension but the first to have a size");
    assert_snapshot!(bad("huge"), @"the ONNX model cannot be used: its input is `x` FLOAT [?, 1099511627776, 1099511627776]: expected at most 16777216 features a row");
    assert_snapshot!(bad("rows"), @"the ONNX model cannot be used: it answers one row with [2, 2]: expected a first dimension of 1");
    assert_snapshot!(bad("operator"), @"the ONNX model cannot be used: ONNX Runtime refuses it: Fatal error: custom:Nothing(-1) is not a registered function/op");
    assert_snapshot!(bad("external"), @r"
    the ONNX model cannot be used: its tensor `w` is in another file: expected all of the model in one
    hint: load it with its tensors by `onnx.load`, and save it by `onnx.save`
    ");
    assert_snapshot!(bad("nested"), @r"
    the ONNX model cannot be used: its tensor `w` is in another file: expected all of the model in one
    hint: load it with its tensors by `onnx.load`, and save it by `onnx.save`
    ");
    assert_snapshot!(bad("sequence"), @"the ONNX model cannot be used: no output has scores: it has `y` a sequence");
    assert_snapshot!(bad("deep"), @"the ONNX model cannot be used: `TreeEnsembleRegressor` has a tree of 20001 levels: expected at most 16384");
    assert_snapshot!(bad("way_back"), @"the ONNX model cannot be used: `TreeEnsembleRegressor` has a tree with a way back");
    let whole = std::fs::read(model("forest")).unwrap();
    let written = |bytes: &[u8]| {
        let path: PathBuf = host.state_dir().join("file.onnx");
        std::fs::write(&path, bytes).unwrap();
        failure(path.to_str().unwrap())
    };
    assert!(written(b"").starts_with("not a model file: expected "));
    assert!(written(b"no model").starts_with("not a model file: expected "));
    assert_snapshot!(written(&whole[..whole.len() / 2]), @"the ONNX model cannot be used: it ends within a field");
    assert_snapshot!(written(&whole[..2]), @"the ONNX model cannot be used: it has no graph");
    // Sound for a reader of the ends, and nonsense in the weights.
    let place = whole.len() / 3;
    let damaged = [&whole[..place], &[0xff; 64], &whole[place + 64..]].concat();
    let told = written(&damaged);
    assert!(told.contains("ONNX model"), "{told}");
    assert_eq!(host.run(["model", "list", "--json"]).json(), json!([]));
}

#[test]
fn a_tree_of_as_many_levels_as_are_taken_is_served() {
    let host = Host::new();
    host.run(["model", "import", &model("deep_tree"), "--name", "deep"]).expect_success();
    let server = host.serve(["--model", "deep"]);
    for (feature, leaf) in [(1.0, 1.0), (-1e6, 32_766.0)] {
        let answered = server.post("/serve/deep", &json!({ "features": [feature, 0, 0, 0] }).to_string());
        assert_eq!(answered.json()["scores"], json!([leaf]), "{}", answered.body);
    }
}

#[test]
fn what_a_model_cannot_answer_is_an_error_and_nothing_else() {
    let (host, signature) = host_with_rows();
    let import = |name: &str| {
        let file = model(name);
        host.run(["model", "import", &file, "--name", name, "--signature", &signature]).expect_success();
    };
    for name in ["fails_later", "whole", "not_finite"] {
        import(name);
    }
    let server = host.serve(["--model", "fails_later", "--model", "whole", "--model", "not_finite"]);
    let ask = |name: &str, row: &str| server.post(&format!("/serve/{name}"), row);
    let (sound, large) = (r#"{"a": 0, "b": 1, "c": 2, "d": 3}"#, r#"{"a": 0, "b": 1, "c": 2, "d": 99}"#);
    assert_eq!(ask("fails_later", sound).json()["scores"], json!([0.0, 1.0, 2.0, 3.0]));
    let failed = ask("fails_later", large);
    assert_eq!(failed.status, 500);
    assert!(failed.body.contains("ONNX Runtime could not answer: "), "{}", failed.body);
    assert_eq!(ask("fails_later", sound).status, 200);
    assert_eq!(ask("whole", large).json()["scores"], json!([0.0, 1.0, 2.0, 99.0]));
    let half = r#"{"a": 0, "b": 1.5, "c": 2, "d": 3}"#;
    let told = "row 1, column `b`: expected a whole number that INT64 holds, found 1.5";
    let refused = ask("whole", &format!("[{sound}, {half}]"));
    assert_eq!(refused.status, 400, "{}", refused.body);
    let error = json!({ "code": "invalid_input", "message": told, "row": 1, "column": "b" });
    assert_eq!(refused.json(), json!({ "error": error }));
    let column = |(name, values): (&str, [f64; 2])| json!({ "name": name, "datatype": "FP64", "shape": [2], "data": values });
    let inputs = [("a", [0.0, 0.0]), ("b", [1.0, 1.5]), ("c", [2.0, 2.0]), ("d", [3.0, 3.0])].map(column);
    let refused = server.post("/v2/models/whole/infer", &json!({ "inputs": inputs }).to_string());
    assert_eq!((refused.status, refused.json()), (400, json!({ "error": told })));
    assert_eq!(ask("whole", half).json()["error"]["row"], 0);
    // The logarithms of 0 and of a negative number are no numbers of JSON.
    let scores = ask("not_finite", r#"{"a": 0, "b": -1, "c": 1, "d": 1}"#).json()["scores"].clone();
    assert_eq!(scores, json!([null, null, 0.0, 0.0]));
}

#[test]
fn a_row_that_takes_for_ever_ends_at_its_deadline_and_holds_up_nobody() {
    let (host, signature) = host_with_rows();
    let file = model("turns");
    host.run(["model", "import", &file, "--name", "turns", "--signature", &signature]).expect_success();
    assert!(predicted(&host, "turns") == expected("turns"));
    let server = host.serve(["--model", "turns", "--threads", "1"]);
    let row = |turns: f64| json!({ "a": turns, "b": 0, "c": 0, "d": 0 }).to_string();
    // It knows that rows are quick.
    for turns in 0..20 {
        let answered = server.post("/serve/turns", &row(turns.into()));
        assert_eq!(answered.json()["scores"], json!([f64::from(turns)]), "{}", answered.body);
    }
    let endless = |time_ms: &str| {
        server.post_with_headers("/serve/turns", &row(1e12), &[("x-request-timeout-ms", time_ms)]).0
    };
    let is_computing = || server.get("/metrics").body.contains("host_computing{endpoint=\"turns\"} 1");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| endless("3000"));
        while !is_computing() {}
        let beside = server.post("/serve/turns", &row(7.0));
        assert_eq!(beside.json()["scores"], json!([7.0]), "{}", beside.body);
        assert!(!waiting.is_finished());
        let late = waiting.join().unwrap();
        assert_eq!((late.status, &late.json()["error"]["code"]), (504, &json!("deadline_exceeded")));
    });
    // Its session, which was ended, answers again.
    assert_eq!(server.post("/serve/turns", &row(9.0)).json()["scores"], json!([9.0]));
    // Nor does the end of the server wait for one.
    let mut client = TcpStream::connect(server.address()).unwrap();
    let body = row(1e12);
    write!(
        client,
        "POST /serve/turns HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    while !is_computing() {}
    assert_eq!(server.stop().code, 0);
}

/// What a server answers to all of these rows of one column at once, as bits: to people's JSON, and to a client's bytes.
fn served(server: &Server, name: &str, column: &str, dtype: &str, rows: &Value) -> [Value; 2] {
    let bits = |scores: &Value| scores.to_string().parse::<f32>().unwrap().to_bits();
    let objects: Value = rows.as_array().unwrap().iter().map(|row| json!({ (column): row })).collect();
    let (answer, headers) = server.post_with_headers(&format!("/serve/{name}"), &objects.to_string(), &[]);
    assert_eq!(answer.status, 200, "{name}: {}", answer.body);
    let told = answer.json();
    let of_row = |row: &Value| row["scores"].as_array().unwrap().iter().map(bits).collect::<Vec<_>>();
    let as_json = told.as_array().unwrap().iter().map(of_row).collect::<Vec<_>>().into();
    assert!(headers.contains_key("x-prediction-id"), "{headers:?}");
    let shape = [rows.as_array().unwrap().len(), rows[0].as_array().map_or(1, Vec::len)];
    let numbers =
        rows.as_array().unwrap().iter().flat_map(|row| row.as_array().cloned().unwrap_or(vec![row.clone()]));
    let bytes = numbers.flat_map(|number| match dtype {
        "FP64" => number.as_f64().unwrap().to_le_bytes().to_vec(),
        "INT32" => i32::try_from(number.as_i64().unwrap()).unwrap().to_le_bytes().to_vec(),
        _ => number.as_i64().unwrap().to_le_bytes().to_vec(),
    });
    let bytes: Vec<u8> = bytes.collect();
    let shape = if rows[0].is_array() { shape.to_vec() } else { vec![shape[0]] };
    let input = json!({ "name": column, "datatype": dtype, "shape": shape, "parameters": { "binary_data_size": bytes.len() } });
    let head = json!({ "inputs": [input] }).to_string();
    let length = head.len().to_string();
    let body = [head.as_bytes(), &bytes].concat();
    let sent = [("inference-header-content-length", length.as_str())];
    let (answer, _) = server.post_with_headers(&format!("/v2/models/{name}/infer"), &body, &sent);
    assert_eq!(answer.status, 200, "{name}: {}", answer.body);
    let output = answer.json()["outputs"][0].clone();
    let scores: Vec<u32> = output["data"].as_array().unwrap().iter().map(bits).collect();
    let width = output["shape"][1].as_u64().unwrap() as usize;
    [as_json, scores.chunks(width).map(<[u32]>::to_vec).collect::<Vec<_>>().into()]
}

#[test]
fn what_models_of_other_types_are_asked_is_not_rounded() {
    let host = Host::new();
    let mut arguments = Vec::new();
    let cases = [("exact_double", "FP64"), ("exact_int64", "INT64"), ("exact_int32", "INT32")];
    for (name, dtype) in cases {
        let rows = expected(name)["rows"].clone();
        let names: Vec<String> =
            (0..rows[0].as_array().unwrap().len()).map(|place| format!("x{place}")).collect();
        let line =
            |row: &Value| row.as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>().join(",");
        let lines: Vec<String> = rows.as_array().unwrap().iter().map(line).collect();
        let table = host.state_dir().join(format!("{name}.csv"));
        std::fs::write(&table, format!("{}\n{}\n", names.join(","), lines.join("\n"))).unwrap();
        host.run(["data", "add", name, table.to_str().unwrap()]).expect_success();
        // Of the columns of the table, and of one that the file itself tells.
        let found = if dtype == "FP64" { "FP64" } else { "INT64" };
        let columns: Vec<Value> =
            names.iter().map(|name| json!({ "name": name, "dtype": found, "shape": [] })).collect();
        let signature = host.state_dir().join("signature.json");
        std::fs::write(&signature, json!({ "inputs": columns }).to_string()).unwrap();
        let file = model(name);
        let import = ["model", "import", &file, "--name", name, "--signature", signature.to_str().unwrap()];
        host.run(import).expect_success();
        let told =
            host.run(["predict", "--model", name, "--data", name, "--split", "train"]).expect_success();
        assert_eq!(bits_of(&told), expected(name)["bits"], "{name}");
        let plain = format!("{name}_plain");
        host.run(["model", "import", &file, "--name", &plain]).expect_success();
        let shown = host.run(["model", "show", &plain, "--json"]).json();
        let input = &shown["manifest"]["signature"]["inputs"][0];
        assert_eq!((&input["name"], &input["dtype"]), (&json!("features"), &json!(dtype)), "{shown}");
        arguments.extend(["--model".to_owned(), plain, "--model".to_owned(), name.to_owned()]);
    }
    let server = host.serve(arguments.iter().map(String::as_str));
    for (name, dtype) in cases {
        let (rows, bits) = (expected(name)["rows"].clone(), expected(name)["bits"].clone());
        for answered in served(&server, &format!("{name}_plain"), "features", dtype, &rows) {
            assert_eq!(answered, bits, "{name}");
        }
    }
    let rows: Value =
        expected("exact_int32")["rows"].as_array().unwrap().iter().map(|row| row[0].clone()).collect();
    for answered in served(&server, "exact_int32", "x0", "INT64", &rows) {
        assert_eq!(answered, expected("exact_int32")["bits"]);
    }
    let large = server.post("/serve/exact_int32", r#"{"x0": 2147483648}"#);
    assert_eq!(large.status, 400, "{}", large.body);
    let row = json!({ "x0": 123_456_789, "x1": -9_007_199_254_740_993_i64 }).to_string();
    let (_, headers) = server.post_with_headers("/serve/exact_int64", &row, &[]);
    server.stop().expect_success();
    let replayed = host.run(["replay", &headers["x-prediction-id"]]).expect_success();
    assert!(replayed.contains("identical, bit for bit"), "{replayed}");
}

#[test]
fn a_program_s_model_of_another_type_is_judged_as_it_is_served() {
    let host = Host::new();
    let row = |row: u32| format!("{},{}\n", 1_700_000_000 + row, row);
    let table = host.state_dir().join("times.csv");
    std::fs::write(&table, format!("t,label\n{}", (0..200).map(row).collect::<String>())).unwrap();
    host.run(["data", "add", "times", table.to_str().unwrap()]).expect_success();
    let file = model("exact_double");
    let program = ["sh", "-c", "cp \"$0\" \"$HOST_MODEL_OUT\"", &file];
    let train = [&["train", "--data", "times", "--model", "command", "--json", "--"][..], &program].concat();
    let report = host.run(train).json();
    // Times that are rounded to a 32-bit float are up to a minute off.
    assert!(report["metrics"]["rmse"].as_f64().unwrap() < 1e-3, "{report}");
    let evaluated = host.run(["evaluate", "times", "--data", "times", "--json"]).json();
    assert_eq!(evaluated["metrics"], report["metrics"]);
}

/// The scores of the rows of training that the bundle of a model keeps for comparison with windows.
fn reference_scores(host: &Host, name: &str) -> Vec<f32> {
    let folder = host.state_dir().join(format!("{name}.bundle"));
    host.run(["model", "export", name, folder.to_str().unwrap()]).expect_success();
    let manifest = std::fs::read(folder.join("bundle.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let digest = manifest["reference"]["digest"].as_str().unwrap().trim_start_matches("sha256:");
    let file = std::fs::read(folder.join("blobs/sha256").join(digest)).unwrap();
    let (size, rest) = file.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*size) as usize);
    let header: Value = serde_json::from_slice(header).unwrap();
    let offset = |place: usize| header["scores"]["data_offsets"][place].as_u64().unwrap() as usize;
    let (scores, _) = data[offset(0)..offset(1)].as_chunks::<4>();
    scores.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn a_program_s_model_of_another_type_is_compared_with_what_it_says_when_served() {
    let host = Host::new();
    let add = |name: &str, rows: &[String]| {
        let table = host.state_dir().join(format!("{name}.csv"));
        std::fs::write(&table, format!("x,label\n{}", rows.concat())).unwrap();
        host.run(["data", "add", name, table.to_str().unwrap()]).expect_success();
    };
    let train = |name: &str, file: &str| {
        let file = model(file);
        let program = ["--", "sh", "-c", "cp \"$0\" \"$HOST_MODEL_OUT\"", &file];
        let arguments = ["train", "--data", name, "--model", "command", "--name", name];
        host.run([&arguments[..], &program].concat()).expect_success();
    };
    add("times", &(0..5_000).map(|row| format!("{},{row}\n", 1_700_000_000 + row)).collect::<Vec<_>>());
    train("times", "exact_double");
    // Of every second row of training; 32-bit floats of this size are 128 apart.
    let mut reference = reference_scores(&host, "times");
    assert!((1_900..=2_048).contains(&reference.len()), "{}", reference.len());
    reference.dedup_by(|one, other| one.round() == other.round());
    assert!(reference.len() >= 1_900, "{}", reference.len());
    // Whole numbers that a 32-bit float rounds to what the model does not take.
    let whole = |row: i32| format!("{},{}\n", i32::MAX - row, f64::from((i32::MAX - row) % 8) / 8.0);
    add("whole", &(0..100).map(whole).collect::<Vec<_>>());
    train("whole", "exact_int32");
    let reference = reference_scores(&host, "whole");
    for score in [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875] {
        assert!(reference.contains(&score), "{score}: {reference:?}");
    }
}

#[test]
fn what_is_learned_of_the_scores_of_a_model_of_another_type_is_not_rounded() {
    let host = Host::new();
    let row = |row: u32| format!("{},{}\n", 1_700_000_000 + row, row);
    let table = host.state_dir().join("times.csv");
    std::fs::write(&table, format!("t,label\n{}", (0..200).map(row).collect::<String>())).unwrap();
    host.run(["data", "add", "times", table.to_str().unwrap()]).expect_success();
    let (file, scaler) = (model("exact_double"), plugin("standard-scaler"));
    let arguments = ["train", "--data", "times", "--model", "command", "--postprocess", &scaler];
    let program = ["--", "sh", "-c", "cp \"$0\" \"$HOST_MODEL_OUT\"", &file];
    host.run([&arguments[..], &program].concat()).expect_success();
    let told =
        host.run(["predict", "--model", "times", "--data", "times", "--split", "train"]).expect_success();
    let of_line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["features"][0].as_f64().unwrap();
    let scaled: Vec<f64> = told.lines().map(of_line).collect();
    let mean_of = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let squares: Vec<f64> = scaled.iter().map(|value| value * value).collect();
    // One row in five was held out. Of rounded scores the deviation would be a fifth more.
    let found = (mean_of(&scaled), mean_of(&squares));
    assert!(found.0.abs() < 0.08 && (found.1 - 1.0).abs() < 0.08, "{found:?}");
}

#[test]
fn an_integer_that_no_score_holds_is_no_answer() {
    let host = Host::new();
    let file = model("labels");
    host.run(["model", "import", &file, "--name", "labels", "--output", "y"]).expect_success();
    let server = host.serve(["--model", "labels"]);
    let ask = |id: i64| server.post("/serve/labels", &json!({ "features": [id] }).to_string());
    for id in [3, -16_777_216, 16_777_218, 1 << 62] {
        let score: f32 = ask(id).json()["scores"][0].to_string().parse().unwrap();
        assert_eq!(score as i64, id);
    }
    for id in [16_777_217, -16_777_217, i64::MAX] {
        let refused = ask(id);
        assert_eq!(refused.status, 500);
        let told = format!("output `y` of row 0 is {id}: expected a number that a 32-bit float holds");
        assert!(refused.body.contains(&told), "{}", refused.body);
    }
}

/// An exported bundle whose sample and version of the runtime are others than when it was made.
fn changed(host: &Host, folder: &str, change: fn(f64) -> f64) -> String {
    let folder = host.state_dir().join(folder);
    host.run(["model", "export", "m", folder.to_str().unwrap()]).expect_success();
    let manifest_file = folder.join("bundle.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&manifest_file).unwrap()).unwrap();
    let blob = |digest: &str| folder.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let sample = blob(manifest["sample"]["digest"].as_str().unwrap());
    let mut sample: Value = serde_json::from_slice(&std::fs::read(sample).unwrap()).unwrap();
    let score = &mut sample["outputs"][1]["scores"][0];
    *score = json!(change(score.as_f64().unwrap()));
    let bytes = sample.to_string();
    let digest = sha256(bytes.as_bytes());
    std::fs::write(blob(&digest), &bytes).unwrap();
    manifest["sample"] = json!({ "digest": format!("sha256:{digest}"), "size": bytes.len() });
    manifest["model"]["framework_version"] = json!("1.20.1");
    std::fs::write(&manifest_file, manifest.to_string()).unwrap();
    folder.to_str().unwrap().to_owned()
}

#[test]
fn another_runtime_may_round_otherwise_and_no_more() {
    let (host, signature) = host_with_rows();
    let file = model("logistic");
    host.run(["model", "import", &file, "--name", "m", "--signature", &signature]).expect_success();
    let rounded = changed(&host, "rounded", |score| score + 1e-7);
    let told = host.run(["model", "check", &rounded]).expect_success();
    assert!(told.contains("4 rows as when it was made, but for rounding"), "{told}");
    assert!(told.contains("ONNX Runtime 1.32.0, and 1.20.1 when it was made"), "{told}");
    assert_eq!(host.run(["model", "check", &rounded, "--json"]).json()["exact"], false);
    drop(host.serve(["--model", &format!("m={rounded}")]));
    let other = changed(&host, "other", |score| score + 0.1);
    let told = host.run(["model", "check", &other]).failure(&host);
    assert!(
        told.contains(
            "ONNX Runtime 1.32.0, and 1.20.1 when it was made: it answers row 1 of its recorded sample with "
        ),
        "{told}"
    );
}

#[test]
fn a_missing_runtime_is_told_with_the_remedy() {
    let (host, signature) = host_with_rows();
    let file = model("logistic");
    let import = ["model", "import", &file, "--name", "m", "--signature", &signature];
    let without = |library: &str, arguments: &[&str]| {
        let mut command = host.command();
        command.env("HOST_ONNXRUNTIME", library).args(arguments);
        ran(command.output().unwrap())
    };
    let told = without("/nowhere.so", &import).failure(&host);
    assert_snapshot!(told.split("cannot be imported: ").last().unwrap(), @r"
    ONNX Runtime was not found in `/nowhere.so`
    hint: run `cargo xtask setup` in a checkout, or `pip install onnxruntime==1.32.0` and set HOST_ONNXRUNTIME to its onnxruntime/capi/libonnxruntime.so.1.32.0
    ");
    let text = without(&signature, &import);
    assert_eq!(text.code, 2);
    assert!(text.stderr.contains("as ONNX Runtime: "), "{}", text.stderr);
    host.run(import).expect_success();
    let predict = ["predict", "--model", "m", "--data", "rows", "--split", "train"];
    let told = without("/nowhere.so", &predict).failure(&host);
    assert!(told.contains("ONNX Runtime was not found in `/nowhere.so`"), "{told}");
    assert!(without("", &predict).code == 0);
}
