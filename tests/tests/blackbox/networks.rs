//! `host train --model cnn|mlp`: what is learned, what is served, and what can go wrong.

use host_tests::{Host, mnist_files, pixels_json, plugin, test_images};

#[test]
fn a_cnn_learns_digits_and_serves_what_it_was_tested_with() {
    let host = Host::new();
    host.run(["data", "add", "mnist", &mnist_files()]).expect_success();
    let (before, after) = (plugin("mnist-pixels"), plugin("argmax-label"));
    let transformers = ["train", "--data", "mnist", "--preprocess", &before, "--postprocess", &after];
    let options =
        ["--model", "cnn", "--train-rows", "5000", "--set", "epochs=4", "--set", "lr=0.002", "--json"];
    let report = host.run(transformers.into_iter().chain(options)).json();
    let accuracy = report["metrics"]["accuracy"].as_f64().unwrap();
    assert!(accuracy > 0.95, "{report}");
    let shown = host.run(["model", "show", "mnist", "--json"]).json();
    let manifest = &shown["manifest"];
    assert_eq!(manifest["model"]["framework"], "network");
    assert_eq!(manifest["model"]["file_name"], "model.safetensors");
    assert_eq!(manifest["parameters"]["image"], "28x28x1");
    assert_eq!(manifest["parameters"]["task"], "classes");
    let predicted = host.run(["predict", "--model", "mnist", "--data", "mnist"]).expect_success();
    let predicted: Vec<&str> = predicted.lines().collect();
    assert_eq!(predicted.len(), 10_000);
    let server = host.serve(["--model", "mnist"]);
    for (image, expected) in test_images().iter().take(20).zip(&predicted) {
        let answer = server.post("/serve/mnist", &pixels_json(image));
        assert_eq!((answer.status, answer.body.as_str()), (200, *expected));
    }
    let many: Vec<_> =
        test_images().iter().take(200).map(|image| serde_json::json!({"pixels": image})).collect();
    let answer = server.post("/serve/mnist", &serde_json::json!(many).to_string());
    assert_eq!(answer.body, format!("[{}]", predicted[..200].join(",")), "one by one or together");

    let refused = host.run(["predict", "--model", "mnist", "--data", "mnist", "--device", "cuda"]);
    let expected = "the GPU cannot be used: this program was built without CUDA: build it with `cargo build --release --features cuda`";
    assert!(refused.code != 0 && refused.stderr.contains(expected), "{}", refused.stderr);
}

/// A table whose label no linear function tells, with a number missing here and there.
fn with_table() -> Host {
    let host = Host::new();
    let mut table = String::from("x,y,label\n");
    for row in 0..400 {
        let (x, y) = (row % 2, row / 2 % 2);
        let missing = if row % 41 == 40 { String::new() } else { x.to_string() };
        table.push_str(&format!("{missing},{y},{}\n", x ^ y));
    }
    let file = host.state_dir().join("table.csv");
    std::fs::write(&file, table).unwrap();
    host.run(["data", "add", "table", file.to_str().unwrap()]).expect_success();
    host
}

#[test]
fn an_mlp_learns_a_table_the_same_with_any_number_of_threads() {
    let host = with_table();
    let train = |threads| {
        let options =
            ["--set", "epochs=40", "--set", "hidden=16", "--set", "lr=0.02", "--threads", threads, "--json"];
        let report =
            host.run(["train", "--data", "table", "--model", "mlp"].into_iter().chain(options)).json();
        assert!(report["metrics"]["accuracy"].as_f64().unwrap() > 0.9, "{report}");
        let bundle = report["bundle"].as_str().unwrap().to_owned();
        host.run(["model", "show", &bundle, "--json"]).json()["manifest"]["model"]["blob"].clone()
    };
    assert_eq!(train("1"), train("2"));
    let runs = host.run(["run", "list", "--json"]).json();
    assert!(runs.to_string().contains("train-loss") || runs.to_string().contains("test_accuracy"), "{runs}");
    let server = host.serve(["--model", "table"]);
    let answer = server.post("/serve/table", "[{\"x\": 1, \"y\": 0}, {\"x\": 1, \"y\": 1}]");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let score = |row: usize| answer.json()[row]["scores"][0].as_f64().unwrap();
    assert!(score(0) > 0.8 && score(1) < 0.2, "{}", answer.body);
}

#[test]
fn mistakes_are_told_in_one_sentence() {
    let host = with_table();
    for (model, more, words) in [
        ("cnn", ["--rounds", "5"], "parameter `--rounds` is `5`: expected none for a cnn"),
        ("mlp", ["--rounds", "5"], "`--set epochs=5`"),
        ("mlp", ["--set", "epoch=5"], "did you mean `epochs`"),
        ("mlp", ["--set", "kernel=5"], "unknown parameter `kernel`"),
        ("mlp", ["--set", "dropout=2"], "expected a number from 0 to 0.99"),
        ("cnn", ["--set", "epochs=1"], "2 features are no square image"),
        ("cnn", ["--set", "image=1x2"], "nothing is left of the 1x2x1"),
    ] {
        let ran = host.run(["train", "--data", "table", "--model", model].into_iter().chain(more));
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    assert_eq!(host.run(["model", "list", "--json"]).json().as_array().unwrap().len(), 0);
}
