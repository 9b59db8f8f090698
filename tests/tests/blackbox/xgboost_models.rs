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
