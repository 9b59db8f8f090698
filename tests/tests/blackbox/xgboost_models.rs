//! Models of every kind that XGBoost trains, served as libxgboost predicts.

use std::process::Command;

use host_tests::{Host, python, ran, repository};
use serde_json::{Value, json};

#[test]
fn models_of_every_kind_predict_to_the_bit_what_libxgboost_does() {
    let host = Host::new();
    let folder = host.state_dir().join("files");
    std::fs::create_dir(&folder).unwrap();
    let mut script = Command::new(python());
    script.arg(repository().join("tests/python/random_models.py")).arg(&folder).arg("1");
    ran(script.output().unwrap()).expect_success();
    let rows = folder.join("rows.safetensors");
    host.run(["data", "add", "rows", rows.to_str().unwrap()]).expect_success();
    let expected = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let expected = expected.as_object().unwrap();
    assert!(expected.len() > 25);
    for (index, (file, expected)) in expected.iter().enumerate() {
        let (path, name) = (folder.join(file), format!("m{index}"));
        host.run(["model", "import", path.to_str().unwrap(), "--name", &name]).expect_success();
        let predict = ["predict", "--model", &name, "--data", "rows", "--split", "train"];
        let predicted = host.run(predict).expect_success();
        let found: Vec<u32> = predicted.lines().flat_map(scores_of_line).map(f32::to_bits).collect();
        assert!(json!(found) == expected["score_bits"], "{file}, trained with {}", expected["parameters"]);
    }
}

/// The scores of a row.
fn scores_of_line(line: &str) -> Vec<f32> {
    let row: Value = serde_json::from_str(line).unwrap();
    // From its text, as a 64-bit float in between would be rounded twice.
    row["scores"].as_array().unwrap().iter().map(|score| score.to_string().parse().unwrap()).collect()
}

/// Trains on features with names, in no order of the alphabet, and says what it predicts of a row.
const NAMED: &str = "
import json, sys
import numpy, xgboost
random = numpy.random.default_rng(0)
rows = random.normal([50, 40, 5], [10, 5, 1], (500, 3)).astype('f4')
names = ['income', 'age', 'debt']
data = xgboost.DMatrix(rows, label=rows @ [1, -2, 3], feature_names=names)
booster = xgboost.train({'nthread': 1}, data, 20)
for file in sys.argv[1:]:
    booster.save_model(file)
row = numpy.array([[51.25, 35.5, 5.25]], 'f4')
print(json.dumps(float(booster.predict(xgboost.DMatrix(row, feature_names=names))[0])))
";

/// Model files of features with names, as UBJSON and JSON, and the score of income 51.25, age 35.5 and debt 5.25.
fn named_models(host: &Host) -> ([String; 2], f32) {
    let files =
        ["named.ubj", "named.json"].map(|name| host.state_dir().join(name).to_str().unwrap().to_owned());
    let printed = ran(Command::new(python()).arg("-c").arg(NAMED).args(&files).output().unwrap());
    let score: f64 = serde_json::from_str(&printed.expect_success()).unwrap();
    (files, score as f32)
}

fn written(host: &Host, name: &str, value: &Value) -> String {
    let path = host.state_dir().join(name);
    std::fs::write(&path, value.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_table_in_another_order_than_the_features_of_the_file_is_put_into_theirs() {
    let host = Host::new();
    let (files, score) = named_models(&host);
    for (name, file) in ["ubj", "json"].into_iter().zip(&files) {
        host.run(["model", "import", file, "--name", name]).expect_success();
    }
    let shown = host.run(["model", "show", "ubj", "--json"]).json();
    let column = &shown["manifest"]["signature"]["inputs"][0];
    assert_eq!(
        (&column["name"], &column["element_names"]),
        (&json!("features"), &json!(["income", "age", "debt"]))
    );
    let server = host.serve(["--model", "ubj", "--model", "json"]);
    let (json_body, csv_body) = ([("content-type", "application/json")], [("content-type", "text/csv")]);
    for name in ["ubj", "json"] {
        let invocations = format!("/endpoints/{name}/invocations");
        let of_answer = |path: &str, body: &str, kind: &[(&str, &str)]| {
            let (answer, _) = server.post_with_headers(path, body, kind);
            assert_eq!(answer.status, 200, "{body}: {}", answer.body);
            let answer = answer.json();
            let row = answer.get("predictions").unwrap_or(&answer)[0].clone();
            let score = row.get("scores").map_or(&row, |scores| &scores[0]).clone();
            score.as_f64().unwrap() as f32
        };
        for body in [
            json!({ "dataframe_split": { "columns": ["income", "age", "debt"], "data": [[51.25, 35.5, 5.25]] } }),
            json!({ "dataframe_split": { "columns": ["age", "debt", "income"], "data": [[35.5, 5.25, 51.25]] } }),
            json!({ "dataframe_records": [{ "age": 35.5, "debt": 5.25, "income": 51.25 }] }),
            json!({ "inputs": { "age": [35.5], "debt": [5.25], "income": [51.25] } }),
            json!({ "dataframe_split": { "columns": [0, 1, 2], "data": [[51.25, 35.5, 5.25]] } }),
            json!({ "inputs": [[51.25, 35.5, 5.25]] }),
            json!({ "inputs": { "features": [[51.25, 35.5, 5.25]] } }),
        ] {
            assert_eq!(of_answer(&invocations, &body.to_string(), &json_body), score, "{name}: {body}");
        }
        for path in [invocations.clone(), format!("/serve/{name}")] {
            assert_eq!(of_answer(&path, "debt,income,age\n5.25,51.25,35.5\n", &csv_body), score, "{path}");
            let (refused, _) = server.post_with_headers(&path, "debt,income,loan\n1,2,3\n", &csv_body);
            let told = "the columns are not the features that the model was trained with: missing `age`; unknown `loan`";
            assert!(refused.status == 400 && refused.body.contains(told), "{}", refused.body);
        }
        let tensor =
            json!({ "name": "features", "datatype": "FP32", "shape": [1, 3], "data": [51.25, 35.5, 5.25] });
        let body = json!({ "inputs": [tensor] }).to_string();
        let answer = server.post(&format!("/v2/models/{name}/infer"), &body).json();
        assert_eq!(answer["outputs"][0]["data"][0].as_f64().unwrap() as f32, score, "{answer}");
    }
}

#[test]
fn versions_whose_features_are_in_another_order_share_requests() {
    let host = Host::new();
    let ([file, _], score) = named_models(&host);
    let turned = NAMED.replace(
        "names = ['income', 'age', 'debt']",
        "rows = rows[:, [2, 0, 1]]; names = ['debt', 'income', 'age']",
    );
    let turned =
        turned.replace("@ [1, -2, 3]", "@ [3, 1, -2]").replace("51.25, 35.5, 5.25", "5.25, 51.25, 35.5");
    let second = host.state_dir().join("turned.ubj");
    let second = second.to_str().unwrap();
    let printed = ran(Command::new(python()).args(["-c", &turned, second]).output().unwrap());
    let score_of_second: f64 = serde_json::from_str(&printed.expect_success()).unwrap();
    for file in [&file, second] {
        host.run(["model", "import", file, "--name", "m"]).expect_success();
    }
    let endpoints = host.state_dir().join("endpoints.yaml");
    let traffic = "traffic: [{ model: m@1, weight: 51 }, { model: m@2, weight: 49 }]";
    std::fs::write(&endpoints, format!("version: 1\nendpoints: {{ e: {{ {traffic} }} }}\n")).unwrap();
    let server = host.serve(["--endpoints", endpoints.to_str().unwrap()]);
    let expected = std::collections::BTreeMap::from([
        ("m@1".to_owned(), score),
        ("m@2".to_owned(), score_of_second as f32),
    ]);
    // What has no names is in the order that the endpoint says.
    let bodies = [
        json!({ "dataframe_split": { "columns": ["age", "debt", "income"], "data": [[35.5, 5.25, 51.25]] } }),
        json!({ "inputs": [[51.25, 35.5, 5.25]] }),
    ];
    for body in &bodies {
        let mut found = std::collections::BTreeMap::new();
        for _ in 0..40 {
            let (answer, headers) =
                server.post_with_headers("/endpoints/e/invocations", &body.to_string(), &[]);
            assert_eq!(answer.status, 200, "{}", answer.body);
            let answered = answer.json()["predictions"][0].as_f64().unwrap() as f32;
            found.insert(headers["x-model-version"].clone(), answered);
        }
        assert_eq!(found, expected, "{body}");
    }
    // Who asks for a version asks in its own order.
    let row = json!({ "features": [5.25, 51.25, 35.5] }).to_string();
    let answered = server.post("/serve/e/2", &row).json()["scores"][0].as_f64().unwrap() as f32;
    assert_eq!(answered, score_of_second as f32);
}

#[test]
fn columns_of_a_signature_are_the_features_of_the_same_names() {
    let host = Host::new();
    let ([file, _], score) = named_models(&host);
    let column = |name: &str| json!({ "name": name, "dtype": "FP32", "shape": [] });
    let sorted = ["age", "debt", "income"].map(column);
    let signature = written(&host, "sorted.json", &json!({ "inputs": sorted }));
    host.run(["model", "import", &file, "--name", "sorted", "--signature", &signature]).expect_success();
    // Other names are those of the features in the order in which they are written.
    let others = ["x", "y", "z"].map(column);
    let signature = written(&host, "others.json", &json!({ "inputs": others }));
    host.run(["model", "import", &file, "--name", "others", "--signature", &signature]).expect_success();
    let server = host.serve(["--model", "sorted", "--model", "others"]);
    for (name, row) in [
        ("sorted", json!({ "age": 35.5, "debt": 5.25, "income": 51.25 })),
        ("others", json!({ "x": 51.25, "y": 35.5, "z": 5.25 })),
    ] {
        let answer = server.post(&format!("/serve/{name}"), &row.to_string()).json();
        assert_eq!(answer["scores"][0].as_f64().unwrap() as f32, score, "{name}: {answer}");
    }
    let one = |names: Value| json!({ "inputs": [{ "name": "x", "dtype": "FP64", "shape": [3], "element_names": names }] });
    for (inputs, told) in [
        (
            one(json!(["age", "debt", "income"])),
            "the model's features are in another order: expected `income`, `age`, `debt`",
        ),
        (one(json!(["age", "debt"])), "column `x` has 2 `element_names`: expected 3"),
        (
            json!({ "inputs": sorted, "features": sorted }),
            "the signature's features are `age` FP32 [], `debt` FP32 [], `income` FP32 [], and those of the model and its transformers `income` FP32 [],",
        ),
    ] {
        let signature = written(&host, "wrong.json", &inputs);
        let refused = host.run(["model", "import", &file, "--name", "wrong", "--signature", &signature]);
        assert!(refused.code == 2 && refused.stderr.contains(told), "{}", refused.stderr);
    }
}
