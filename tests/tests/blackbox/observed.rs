//! What is told of requests to `host serve`: the access log, and traces.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};

use host_tests::{python, repository};
use serde_json::{Value, json};

use super::endpoints::{ROW, two_versions};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A collector, and its port.
fn collector() -> (Child, BufReader<std::process::ChildStdout>, u16) {
    let script = repository().join("tests/python/collector.py");
    let mut command = Command::new(python());
    let mut child = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut port = String::new();
    lines.read_line(&mut port).unwrap();
    (child, lines, port.trim().parse().unwrap())
}

#[test]
fn every_request_is_a_line_of_the_access_log() {
    let registry = two_versions();
    let log = registry.host.state_dir().join("access.jsonl");
    let server = registry.host.serve(["--model", "digits", "--access-log", log.to_str().unwrap()]);
    let (_, headers) = server.post_with_headers("/serve/digits", ROW, &[]);
    let tensors = r#"{"inputs":[{"name":"a","datatype":"INT64","shape":[2],"data":[1,2]},{"name":"b","datatype":"INT64","shape":[2],"data":[3,4]}]}"#;
    assert_eq!(server.post("/v2/models/digits/infer", tensors).status, 200);
    assert_eq!(server.post("/invocations", r#"{"instances": [{"a": 1, "b": 2}]}"#).status, 200);
    assert_eq!(server.post("/serve/digits", "{}").status, 400);
    assert_eq!(server.post("/serve/nobody", "{}").status, 404);
    assert_eq!(server.get("/health").status, 200);
    server.stop().expect_success();
    let text = std::fs::read_to_string(log).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |line: &Value| {
        (line["path"].clone(), line["status"].clone(), line["rows"].clone(), line["error"].clone())
    };
    let none = Value::Null;
    let expected = [
        ("/serve/digits", 200, json!(1), none.clone()),
        ("/v2/models/digits/infer", 200, json!(2), none.clone()),
        ("/invocations", 200, json!(1), none.clone()),
        ("/serve/digits", 400, none.clone(), json!("invalid_input")),
        ("/serve/nobody", 404, none.clone(), json!("not_found")),
        ("/health", 200, none.clone(), none.clone()),
    ];
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(path, status, rows, error)| (json!(path), json!(status), rows, error))
        .collect();
    assert_eq!(lines.iter().map(told).collect::<Vec<_>>(), expected);
    let first = &lines[0];
    assert_eq!(first["prediction"], headers["x-prediction-id"].as_str());
    assert_eq!(first["bundle"], headers["x-bundle-digest"].as_str());
    assert_eq!(
        (&first["version"], &first["endpoint"], &first["method"]),
        (&json!("digits@2"), &json!("digits"), &json!("POST"))
    );
    assert_eq!(first["request_bytes"], ROW.len());
    let stages: Vec<_> = first["stages_us"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(stages, ["decode", "queue", "preprocess", "model", "postprocess", "encode"]);
    assert_eq!(lines[3]["version"], "digits@2", "who refused it");
}

#[test]
fn traces_go_to_a_collector_below_the_caller_s_span() {
    let registry = two_versions();
    let (mut collector, mut lines, port) = collector();
    let mut command = registry.host.command();
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{port}"))
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret")
        .env("OTEL_SERVICE_NAME", "digits-in-production");
    let server = host_tests::Server::start_serve(command, ["--model", "digits"]);
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let (_, headers) = server.post_with_headers("/serve/digits", ROW, &[("traceparent", &parent)]);
    assert_eq!(server.post("/serve/nobody", "{}").status, 404);
    server.stop().expect_success();
    drop(collector.stdin.take());
    let mut text = String::new();
    lines.read_to_string(&mut text).unwrap();
    collector.wait().unwrap();
    let spans: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let request =
        spans.iter().find(|span| span["name"] == "POST /serve/{endpoint}" && span["trace"] == TRACE).unwrap();
    assert_eq!(
        (&request["parent"], &request["service"], &request["key"]),
        (&json!("00f067aa0ba902b7"), &json!("digits-in-production"), &json!("secret"))
    );
    let attributes = &request["attributes"];
    assert_eq!(attributes["host.bundle.digest"], headers["x-bundle-digest"].as_str());
    assert_eq!(attributes["host.prediction.id"], headers["x-prediction-id"].as_str());
    assert_eq!(
        (&attributes["host.model.version"], &attributes["http.response.status_code"]),
        (&json!("digits@2"), &json!(200))
    );
    let stages: Vec<&str> = spans
        .iter()
        .filter(|span| span["parent"] == request["id"])
        .map(|span| {
            assert_eq!(span["trace"], TRACE);
            span["name"].as_str().unwrap()
        })
        .collect();
    assert!(
        stages.starts_with(&["decode"]) && stages.contains(&"model") && stages.contains(&"encode"),
        "{stages:?}"
    );
    let sum: i64 = spans
        .iter()
        .filter(|span| span["parent"] == request["id"])
        .map(|span| span["nanos"].as_i64().unwrap())
        .sum();
    assert!(sum <= request["nanos"].as_i64().unwrap() + 2_000, "stages take no longer than all");
    let missing = spans.iter().find(|span| span["attributes"]["http.response.status_code"] == 404).unwrap();
    assert_eq!(missing["attributes"]["error.type"], "not_found");
    assert_ne!(missing["trace"], TRACE);
}

#[test]
fn variables_that_ask_for_what_is_not_there_are_told() {
    let registry = two_versions();
    let refused = |variables: &[(&str, &str)]| {
        let mut command = registry.host.command();
        command.args(["serve", "--model", "digits", "--port", "0"]);
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
        let ran = host_tests::ran(command.envs([endpoint]).envs(variables.iter().copied()).output().unwrap());
        assert_ne!(ran.code, 0);
        ran.stderr
    };
    let told = refused(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
    assert!(told.contains("`OTEL_EXPORTER_OTLP_PROTOCOL` is `grpc`: expected `http/protobuf`"), "{told}");
    let told = refused(&[("OTEL_TRACES_EXPORTER", "zipkin")]);
    assert!(told.contains("`OTEL_TRACES_EXPORTER` is `zipkin`: expected `otlp` or `none`"), "{told}");
    let log =
        registry.host.run(["serve", "--model", "digits", "--port", "0", "--access-log", "/nowhere/log"]);
    assert!(
        log.code != 0 && log.stderr.contains("failed to open the access log `/nowhere/log`"),
        "{}",
        log.stderr
    );
}
