//! Traces of `host serve`, and the variables of OpenTelemetry.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use host_tests::{python, repository};
use serde_json::{Value, json};

use super::endpoints::{ROW, two_versions, wait_for};

pub(super) const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A collector, and its port.
pub(super) fn collector() -> (Child, BufReader<std::process::ChildStdout>, u16) {
    let script = repository().join("tests/python/collector.py");
    let mut command = Command::new(python());
    let mut child = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut port = String::new();
    lines.read_line(&mut port).unwrap();
    (child, lines, port.trim().parse().unwrap())
}

/// The spans that a collector got, which ends.
pub(super) fn collected(mut collector: Child, mut lines: impl std::io::Read) -> Vec<Value> {
    drop(collector.stdin.take());
    let mut text = String::new();
    lines.read_to_string(&mut text).unwrap();
    collector.wait().unwrap();
    parsed(&text)
}

/// A value of JSON in each line.
pub(super) fn parsed(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn traces_go_to_a_collector_below_the_caller_s_span() {
    let registry = two_versions();
    let (collector, lines, port) = collector();
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
    let spans = collected(collector, lines);
    let request =
        spans.iter().find(|span| span["name"] == "POST /serve/{endpoint}" && span["trace"] == TRACE).unwrap();
    assert_eq!(
        (&request["parent"], &request["service"], &request["key"]),
        (&json!("00f067aa0ba902b7"), &json!("digits-in-production"), &json!("secret"))
    );
    let attributes = &request["attributes"];
    assert_eq!(attributes["host.bundle.digest"], headers["x-bundle-digest"].as_str());
    assert_eq!(attributes["host.prediction.id"], headers["x-prediction-id"].as_str());
    assert_eq!(attributes["client.address"], "127.0.0.1");
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
fn a_trace_of_an_endpoint_made_of_others_has_them() {
    let registry = two_versions();
    let (collector, lines, port) = collector();
    let file = registry.host.state_dir().join("chain.yaml");
    let chain = "version: 1\nendpoints: { one: { model: digits@1 }, two: { model: digits@2 }, e: { ensemble: [one, two] } }\n";
    std::fs::write(&file, chain).unwrap();
    let mut command = registry.host.command();
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{port}"));
    let log = registry.host.state_dir().join("access.jsonl");
    let arguments = ["--endpoints", file.to_str().unwrap(), "--access-log", log.to_str().unwrap()];
    let server = host_tests::Server::start_serve(command, arguments);
    let (answer, headers) = server.post_with_headers("/serve/e", ROW, &[]);
    assert_eq!((answer.status, headers["x-model-version"].as_str()), (200, "digits@1, digits@2"));
    assert_eq!(server.post("/serve/e", "{}").status, 400);
    server.stop().expect_success();
    let versions: Vec<Value> =
        parsed(&std::fs::read_to_string(log).unwrap()).iter().map(|line| line["version"].clone()).collect();
    assert_eq!(versions, [json!("digits@1, digits@2"), Value::Null], "as the header has it");
    let spans = collected(collector, lines);
    let below = |span: &Value, name: &str| {
        let found = spans.iter().find(|one| one["parent"] == span["id"] && one["name"] == name);
        found.unwrap_or_else(|| panic!("no `{name}` below {span}: {spans:?}")).clone()
    };
    let request = spans.iter().find(|span| span["name"] == "POST /serve/{endpoint}").unwrap();
    assert_eq!(request["attributes"]["host.model.version"], "digits@1, digits@2");
    let model = below(request, "model");
    for (name, version) in [("one", "digits@1"), ("two", "digits@2")] {
        let part = below(&model, &format!("endpoint {name}"));
        let attributes = &part["attributes"];
        assert_eq!(
            (&attributes["host.endpoint"], &attributes["host.model.version"]),
            (&json!(name), &json!(version))
        );
        assert!(part["nanos"].as_i64() <= model["nanos"].as_i64(), "{part} {model}");
        let inner = below(&part, "model");
        assert_eq!(inner["attributes"]["host.bundle.digest"], attributes["host.bundle.digest"]);
    }
}

#[test]
fn variables_that_ask_for_what_is_not_there_are_told() {
    let registry = two_versions();
    // They are meant for all programs of a machine, and keep this one from nothing but traces.
    let refused = |variables: &[(&str, &str)]| {
        let mut command = registry.host.command();
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
        command.envs([endpoint]).envs(variables.iter().copied());
        let server = host_tests::Server::start_serve(command, ["--model", "digits"]);
        assert_eq!(server.post("/serve/digits", ROW).status, 200);
        let ran = server.stop();
        assert_eq!(ran.code, 0);
        ran.stderr
    };
    let told = refused(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
    assert!(told.contains("`OTEL_EXPORTER_OTLP_PROTOCOL` is `grpc`: expected `http/protobuf`"), "{told}");
    let told = refused(&[
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
    ]);
    assert!(
        told.contains("`OTEL_EXPORTER_OTLP_TRACES_PROTOCOL` is `grpc`: expected `http/protobuf`"),
        "{told}"
    );
    for (name, found) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "localhost:4318"),
    ] {
        let told = refused(&[(name, found)]);
        let expected =
            format!("`{name}` is `{found}`: expected a URL of HTTP, such as `http://127.0.0.1:4318`");
        assert!(told.contains(&expected), "{told}");
    }
    let told = refused(&[("OTEL_TRACES_EXPORTER", "zipkin")]);
    assert!(told.contains("`OTEL_TRACES_EXPORTER` is `zipkin`: expected `otlp` or `none`"), "{told}");
    let told = refused(&[("OTEL_TRACES_SAMPLER", "sometimes")]);
    assert!(told.contains("`OTEL_TRACES_SAMPLER` is `sometimes`: expected one of always_on, "), "{told}");
    for (sampler, share) in [("traceidratio", "10%"), ("parentbased_traceidratio", "-1")] {
        let told = refused(&[("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", share)]);
        let expected = format!("`OTEL_TRACES_SAMPLER_ARG` is `{share}`: expected a number from 0 to 1");
        assert!(told.contains(&expected), "{told}");
        // As if it was not set: all of them have spans, which nobody takes.
        assert!(told.contains("spans do not reach the collector"), "{told}");
    }
    let told = refused(&[("OTEL_TRACES_SAMPLER", "always_on"), ("OTEL_TRACES_SAMPLER_ARG", "unused")]);
    assert!(!told.contains("OTEL_TRACES_SAMPLER_ARG"), "{told}");
    let told = refused(&[("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")]);
    assert!(told.contains("`OTEL_EXPORTER_OTLP_COMPRESSION` is `gzip`: expected `none`"), "{told}");
    let told = refused(&[
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none"),
    ]);
    assert!(!told.contains("COMPRESSION"), "{told}");
    let log =
        registry.host.run(["serve", "--model", "digits", "--port", "0", "--access-log", "/nowhere/log"]);
    assert!(
        log.code != 0 && log.stderr.contains("failed to open the access log `/nowhere/log`"),
        "{}",
        log.stderr
    );
}

#[test]
fn the_service_is_named_by_its_variable_or_among_the_attributes_or_else_host() {
    let registry = two_versions();
    let named = |variables: &[(&str, &str)]| {
        let (collector, lines, port) = collector();
        let mut command = registry.host.command();
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{port}"));
        command.envs(variables.iter().copied());
        let server = host_tests::Server::start_serve(command, ["--model", "digits"]);
        assert_eq!(server.get("/health").status, 200);
        server.stop().expect_success();
        collected(collector, lines)[0]["service"].clone()
    };
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test,service.name=zz");
    assert_eq!(named(&[]), "host");
    assert_eq!(named(&[("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")]), "host");
    assert_eq!(named(&[attributes]), "zz");
    assert_eq!(named(&[attributes, ("OTEL_SERVICE_NAME", "yy")]), "yy");
}

#[test]
fn variables_of_traces_go_before_those_of_all_signals() {
    let registry = two_versions();
    let (collector, lines, port) = collector();
    let mut command = registry.host.command();
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    command.env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", format!("http://127.0.0.1:{port}/v1/traces"));
    command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    command.env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf");
    let server = host_tests::Server::start_serve(command, ["--model", "digits"]);
    assert_eq!(server.get("/health").status, 200);
    let ran = server.stop();
    assert!(ran.code == 0 && !ran.stderr.contains("PROTOCOL"), "{}", ran.stderr);
    assert_eq!(collected(collector, lines).len(), 1);
}

#[test]
fn spans_that_a_slow_collector_leaves_no_place_for_are_told_and_counted() {
    let registry = two_versions();
    let mut command = registry.host.command();
    // It takes what it is sent, and answers nothing while requests come.
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = collector.local_addr().unwrap();
    let (taken, is_taken) = std::sync::mpsc::channel();
    std::thread::spawn(move || collector.incoming().for_each(|connection| taken.send(connection).unwrap()));
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"));
    command.env("OTEL_BSP_SCHEDULE_DELAY", "50").env("OTEL_BSP_MAX_QUEUE_SIZE", "4");
    let server = host_tests::Server::start_serve(command, ["--model", "digits"]);
    assert_eq!(server.post("/serve/digits", ROW).status, 200);
    let sending = is_taken.recv().unwrap();
    for _ in 0..10 {
        assert_eq!(server.post("/serve/digits", ROW).status, 200);
    }
    let metrics = server.get("/metrics").body;
    let dropped = |line: &str| line.strip_prefix("host_spans_dropped_total ")?.parse::<u64>().ok();
    assert!(metrics.lines().find_map(dropped).unwrap() > 0, "{metrics}");
    // Whoever waits for an answer learns that there is none.
    drop((sending, is_taken));
    let stderr = server.stop().stderr;
    assert!(
        stderr.contains("those without a place in the queue (`OTEL_BSP_MAX_QUEUE_SIZE`) are lost"),
        "{stderr}"
    );
}

#[test]
fn a_collector_that_is_not_there_is_told_once() {
    let registry = two_versions();
    let mut command = registry.host.command();
    // Who tries to reach it is counted and gets no answer.
    let (nobody, tried) = (TcpListener::bind("127.0.0.1:0").unwrap(), Arc::new(AtomicUsize::new(0)));
    let address = nobody.local_addr().unwrap();
    let counted = Arc::clone(&tried);
    std::thread::spawn(move || nobody.incoming().for_each(|_| _ = counted.fetch_add(1, Ordering::SeqCst)));
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"));
    command.env("OTEL_BSP_SCHEDULE_DELAY", "50");
    let server = host_tests::Server::start_serve(command, ["--model", "digits"]);
    for _ in 0..4 {
        let before = tried.load(Ordering::SeqCst);
        assert_eq!(server.post("/serve/digits", ROW).status, 200);
        wait_for("the spans of a request are not sent", || tried.load(Ordering::SeqCst) > before);
    }
    let stderr = server.stop().stderr;
    assert_eq!(stderr.matches("spans do not reach the collector").count(), 1, "{stderr}");
}
