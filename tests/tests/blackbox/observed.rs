//! What is told of requests to `host serve`: the access log, and the spans that say the same.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use host_tests::{Http2, guest, python};
use serde_json::{Value, json};

use super::endpoints::{ROW, two_versions, wait_for, write};
use super::grpc::{GRPC, INFER, field, framed};
use super::traces::{TRACE, collected, collector, parsed};

const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// The head of an answer that was to be packed, and its body unpacked.
fn packed(server: &host_tests::Server, what: &str) -> (String, String) {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!(
        "{what} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    assert!(head.contains("\r\ncontent-encoding: gzip\r\n"), "{what}: {head}");
    let script = "import sys,gzip\nsys.stdout.buffer.write(gzip.decompress(sys.stdin.buffer.read()))";
    let mut unpacking = Command::new(python());
    unpacking.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut unpacking = unpacking.spawn().unwrap();
    unpacking.stdin.take().unwrap().write_all(&answer[end..]).unwrap();
    let text = unpacking.wait_with_output().unwrap().stdout;
    (head, String::from_utf8(text).unwrap())
}

#[test]
fn what_tells_of_all_endpoints_is_packed_for_who_likes_that() {
    let registry = two_versions();
    let endpoints: String = (0..50).map(|number| format!("  e{number}: {{ model: digits }}\n")).collect();
    let file = write(&registry.host, &format!("version: 1\nendpoints:\n{endpoints}"));
    let server = registry.host.serve(["--endpoints", &file]);
    let (head, text) = packed(&server, "GET /metrics");
    assert!(head.contains("\r\ncontent-type: text/plain; version=0.0.4"), "{head}");
    assert!(text.starts_with("# HELP ") && text.contains("host_build_info"), "{text}");
    for what in ["GET /openapi.json", "GET /serve", "GET /v2/models/stats", "POST /v2/repository/index"] {
        let (head, text) = packed(&server, what);
        assert!(head.contains("\r\ncontent-type: application/json\r\n"), "{what}: {head}");
        let document: Value = serde_json::from_str(&text).unwrap();
        assert!(document.to_string().contains("e49"), "{what}: {text}");
    }
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
    let traced = [("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"))];
    let traced = traced.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(server.post_with_headers("/serve/digits", ROW, &traced).0.status, 200);
    let of_a_page = [("origin", "http://evil.example")];
    assert_eq!(server.post_with_headers("/serve/digits", ROW, &of_a_page).0.status, 403);
    assert!(server.get("/metrics").body.contains("host_refused_requests_total{code=\"forbidden\"} 1\n"));
    server.stop().expect_success();
    let lines = parsed(&std::fs::read_to_string(log).unwrap());
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
        ("/serve/digits", 200, json!(1), none.clone()),
        ("/serve/digits", 403, none.clone(), json!("forbidden")),
        ("/metrics", 200, none.clone(), none.clone()),
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
    assert!(lines.iter().all(|line| line["client"] == "127.0.0.1"));
    let traces: Vec<_> = lines.iter().filter_map(|line| line["trace"].as_str()).collect();
    assert_eq!(traces, [TRACE], "the caller's, where it has one");
}

#[test]
fn a_log_that_is_moved_away_goes_on_in_a_new_file() {
    let registry = two_versions();
    let log = registry.host.state_dir().join("access.jsonl");
    let server = registry.host.serve(["--model", "digits", "--access-log", log.to_str().unwrap()]);
    assert_eq!(server.get("/health").status, 200);
    let moved = log.with_extension("old");
    let is_there = |path: &Path| path.metadata().is_ok_and(|file| file.len() > 0);
    wait_for("the first line", || is_there(&log));
    std::fs::rename(&log, &moved).unwrap();
    wait_for("a new file", || {
        assert_eq!(server.get("/ready").status, 200);
        is_there(&log)
    });
    server.stop().expect_success();
    let (before, after) = (std::fs::read_to_string(moved).unwrap(), std::fs::read_to_string(log).unwrap());
    assert_eq!(parsed(&before)[0]["path"], "/health");
    assert!(parsed(&after).iter().all(|line| line["path"] == "/ready"), "{after}");
}

#[test]
fn a_log_that_nobody_reads_keeps_no_server_from_stopping() {
    let registry = two_versions();
    let pipe = registry.host.state_dir().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Both ends, so that neither waits for the other.
    let held = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
    let server = registry.host.serve(["--model", "digits", "--access-log", pipe.to_str().unwrap()]);
    // A pipe holds 64 KiB.
    for _ in 0..1_000 {
        assert_eq!(server.get("/health").status, 200);
    }
    let ran = server.stop();
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("the last lines of the access log could not be written"), "{}", ran.stderr);
    drop(held);
}

/// A call of `model` with the row `a`, 2.
pub(super) fn call(model: &str, a: i64) -> Vec<u8> {
    let mut message = field(1, model.as_bytes());
    for name in [b"a", b"b"] {
        message.extend(field(5, &[field(1, name), field(2, b"INT64"), field(3, &[1])].concat()));
    }
    for number in [a, 2] {
        message.extend(field(7, &number.to_le_bytes()));
    }
    framed(&message)
}

/// What is told of requests to `digits@1` with the guest `picky`, which panics where `a` is 255: the lines of the access log,
/// and the spans of requests in the same order.
fn told_of(work: u64, arguments: &[&str], ask: impl FnOnce(&host_tests::Server)) -> (Vec<Value>, Vec<Value>) {
    let registry = two_versions();
    let (collector, lines, port) = collector();
    let log = registry.host.state_dir().join("access.jsonl");
    let (file, config) = (guest("picky"), format!("picky={{\"work\":{work}}}"));
    let picky = ["--model", "digits@1", "--plugin", &file, "--config", &config];
    let logged = ["--access-log", log.to_str().unwrap()];
    let mut command = registry.host.command();
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{port}"));
    let arguments = picky.into_iter().chain(logged).chain(arguments.iter().copied());
    let server = host_tests::Server::start_serve(command, arguments);
    ask(&server);
    server.stop().expect_success();
    let mut spans = collected(collector, lines);
    spans.retain(|span| span["attributes"]["http.request.method"].is_string());
    (parsed(&std::fs::read_to_string(log).unwrap()), spans)
}

#[test]
fn what_went_wrong_is_told_with_the_request() {
    let bad = call("digits", 255);
    let (lines, spans) = told_of(0, &[], |server| {
        assert_eq!(server.post("/serve/digits", &json!({"a": 1, "b": 2}).to_string()).status, 200);
        assert_eq!(server.post("/serve/digits", &json!({"a": 255, "b": 2}).to_string()).status, 500);
        assert_eq!(server.post("/v2/models/nobody/infer", "{}").status, 404);
        assert_eq!(server.get("/nowhere").status, 404);
        let mut client = Http2::connect(server);
        client.post(1, "localhost", INFER, GRPC, &bad);
        client.body(1).unwrap();
        client.post(3, "localhost", STREAM, GRPC, &bad);
        client.body(3).unwrap();
    });
    let told: Vec<(&str, &str)> = lines
        .iter()
        .filter_map(|line| Some((line["error"].as_str()?, line["message"].as_str().unwrap())))
        .collect();
    let (codes, messages): (Vec<_>, Vec<_>) = told.iter().copied().unzip();
    assert_eq!(codes, ["plugin_fault", "not_found", "not_found", "plugin_fault", "plugin_fault"]);
    for message in [messages[0], messages[3], messages[4]] {
        assert!(message.starts_with("plugin `picky` "), "{message}");
    }
    assert_eq!(messages[1], "there is no endpoint `nobody`: there is `digits`");
    assert!(!messages.concat().contains(char::is_control), "{messages:?}");
    let events: Vec<_> = spans.iter().flat_map(|span| span["events"].as_array().unwrap()).collect();
    let expected: Vec<_> = told
        .iter()
        .map(|(code, message)| json!(["exception", {"exception.type": code, "exception.message": message}]))
        .collect();
    assert_eq!(events, expected.iter().collect::<Vec<_>>());
    assert!(spans[0]["events"].as_array().unwrap().is_empty() && lines[0]["message"].is_null());
}

#[test]
fn a_call_of_grpc_tells_as_much_as_a_request_of_rest() {
    let (good, bad, nobody) = (call("digits", 3), call("digits", 255), call("nobody", 3));
    let (lines, spans) = told_of(0, &[], |server| {
        assert_eq!(server.post("/serve/digits", r#"{"a": 255, "b": 2}"#).status, 500);
        let mut client = Http2::connect(server);
        for (stream, call) in [(1, &good), (3, &bad), (5, &nobody)] {
            client.post(stream, "localhost", INFER, GRPC, call);
            client.body(stream).unwrap();
        }
        assert_eq!(server.get(INFER).status, 200, "gRPC says it otherwise");
    });
    let told = |line: &Value| {
        let who = ["endpoint", "version", "bundle"].map(|name| line[name].clone());
        (who, line["grpc_status"].clone(), line["error"].clone())
    };
    let (none, rest) = (Value::Null, told(&lines[0]));
    assert_eq!((&rest.1, &rest.2), (&none, &json!("plugin_fault")));
    assert!(rest.0.iter().all(Value::is_string), "{rest:?}");
    let unknown = [none.clone(), none.clone(), none.clone()];
    let expected = [
        (rest.0.clone(), json!(0), none.clone()),
        (rest.0.clone(), json!(13), json!("plugin_fault")),
        (unknown.clone(), json!(5), json!("not_found")),
        (unknown, json!(12), none.clone()),
    ];
    assert_eq!(lines[1..].iter().map(told).collect::<Vec<_>>(), expected);
    let bytes: Vec<&Value> = lines[1..4].iter().map(|line| &line["request_bytes"]).collect();
    assert_eq!(bytes, [good.len(), bad.len(), nobody.len()].map(Value::from).iter().collect::<Vec<_>>());
    let told = |span: &Value| {
        let attributes = &span["attributes"];
        let [system, status] = ["rpc.system", "rpc.grpc.status_code"].map(|name| attributes[name].clone());
        let (service, method) = (&attributes["rpc.service"], &attributes["rpc.method"]);
        let name = match service.as_str().zip(method.as_str()) {
            Some((service, method)) => format!("{service}/{method}"),
            None => "POST /serve/{endpoint}".to_owned(),
        };
        assert_eq!((&span["name"], &attributes["url.scheme"]), (&json!(name), &json!("http")));
        assert_eq!(method.is_string(), system.is_string(), "{span}");
        (span["error"].clone(), attributes["host.endpoint"].clone(), system, status)
    };
    let (digits, grpc) = (json!("digits"), json!("grpc"));
    let expected = [
        (json!(true), digits.clone(), none.clone(), none.clone()),
        (json!(false), digits.clone(), grpc.clone(), json!(0)),
        (json!(true), digits, grpc.clone(), json!(13)),
        (json!(false), none.clone(), grpc.clone(), json!(5)),
        (json!(true), none, grpc, json!(12)),
    ];
    assert_eq!(spans.iter().map(told).collect::<Vec<_>>(), expected);
}

#[test]
fn each_request_of_a_stream_is_told_as_a_call_of_its_own_and_the_stream_at_its_end() {
    let calls = [call("digits", 3), call("digits", 255), call("nobody", 3)];
    let mut answered = 0;
    let (lines, spans) = told_of(0, &[], |server| {
        let mut client = Http2::connect(server);
        for (stream, call) in [1, 3, 5].into_iter().zip(&calls) {
            client.post(stream, "localhost", INFER, GRPC, call);
            client.body(stream).unwrap();
        }
        client.post(7, "localhost", STREAM, GRPC, &calls.concat());
        answered = client.body(7).unwrap().len();
    });
    let [calls_told, requests, [stream]] = [&lines[..3], &lines[3..6], &lines[6..]] else {
        panic!("{lines:?}");
    };
    let told = |line: &Value| {
        let same =
            ["endpoint", "version", "bundle", "rows", "status", "grpc_status", "error", "request_bytes"];
        same.map(|name| line[name].clone())
    };
    assert_eq!(
        requests.iter().map(told).collect::<Vec<_>>(),
        calls_told.iter().map(told).collect::<Vec<_>>()
    );
    let stages = |line: &Value| line["stages_us"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(stages(&requests[0]), stages(&calls_told[0]));
    assert!(requests[0]["prediction"].is_string(), "{}", requests[0]);
    assert_ne!(requests[0]["prediction"], calls_told[0]["prediction"]);
    let sent: u64 = requests.iter().map(|line| line["response_bytes"].as_u64().unwrap()).sum();
    assert_eq!(sent, answered as u64);
    // The stream itself was answered by nobody.
    let expected = json!({ "path": STREAM, "status": 200, "grpc_status": 0, "requests": 3, "response_bytes": answered,
        "request_bytes": calls.concat().len() });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(stream[name], *value, "{name} of {stream}");
    }
    assert!(["endpoint", "prediction", "error"].iter().all(|name| stream[name].is_null()), "{stream}");
    let longest = requests.iter().map(|line| line["duration_us"].as_u64().unwrap()).max().unwrap();
    assert!(stream["duration_us"].as_u64().unwrap() >= longest, "{lines:?}");
    assert_eq!(spans.len(), lines.len());
    let parents: Vec<&Value> = spans.iter().map(|span| &span["parent"]).collect();
    let (none, own) = (&json!(""), &spans[6]["id"]);
    assert_eq!(parents, [none, none, none, own, own, own, none], "a stream's requests are below it");
    let names = spans[3..].iter().map(|span| &span["name"]);
    assert!(names.into_iter().all(|name| *name == json!(&STREAM[1..])), "{spans:?}");
    for (span, line) in spans.iter().zip(&lines) {
        for (attribute, name) in [
            ("rpc.grpc.status_code", "grpc_status"),
            ("host.endpoint", "endpoint"),
            ("host.prediction.id", "prediction"),
            ("host.requests", "requests"),
            ("error.type", "error"),
        ] {
            assert_eq!(span["attributes"][attribute], line[name], "{attribute} of {span}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_among_the_bytes_of_a_stream() {
    let (request, torn) = (call("digits", 3), [2, 0, 0, 0, 1, 7]);
    let (lines, _) = told_of(0, &[], |server| {
        let mut client = Http2::connect(server);
        client.post(1, "localhost", STREAM, GRPC, &[&request[..], &torn].concat());
        client.body(1).unwrap();
    });
    let [read, stream] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!((&read["request_bytes"], &stream["requests"]), (&json!(request.len()), &json!(1)));
    assert_eq!(
        (&stream["request_bytes"], &stream["grpc_status"]),
        (&json!(request.len() + torn.len()), &json!(3))
    );
}

#[test]
fn a_stream_that_is_cut_off_is_told_without_a_status() {
    let request = call("digits", 3);
    let (lines, spans) = told_of(0, &[], |server| {
        let mut client = Http2::connect(server);
        // The end of the stream is not among this.
        client.post(1, "localhost", STREAM, GRPC, b"");
        assert!(client.send(Http2::DATA, 0, 1, &request));
        while client.receive().unwrap().kind != Http2::DATA {}
        assert!(client.send(Http2::RST_STREAM, 0, 1, &8_u32.to_be_bytes()));
        client.settle();
    });
    assert_eq!((lines.len(), spans.len()), (2, 2), "{lines:?}");
    assert_eq!((&lines[0]["grpc_status"], &lines[0]["endpoint"]), (&json!(0), &json!("digits")));
    assert_eq!((&lines[1]["grpc_status"], &lines[1]["requests"]), (&Value::Null, &json!(1)));
    assert_eq!((&spans[1]["error"], &spans[1]["attributes"]["host.requests"]), (&json!(false), &json!(1)));
}

#[test]
fn a_call_that_is_not_answered_in_time_tells_who_was_asked() {
    let late = call("digits", 3);
    // Each call of the plugin runs into its limit, which is later than the caller's.
    let mut counted = String::new();
    let (mut lines, mut spans) = told_of(u64::MAX >> 1, &["--plugin-call-max-ms", "2000"], |server| {
        let mut client = Http2::connect(server);
        for (stream, path) in [(1, INFER), (3, STREAM)] {
            client.post(stream, "localhost", path, &[GRPC, &[("grpc-timeout", "500m")]].concat(), &late);
            assert_eq!(client.body(stream).unwrap(), b"");
        }
        counted = server.get("/metrics").body;
    });
    let series =
        "host_request_errors_total{code=\"deadline_exceeded\",endpoint=\"digits\",version=\"digits@1\"} 2";
    assert!(counted.contains(series), "{counted}");
    lines.retain(|line| line["path"] != "/metrics");
    spans.retain(|span| span["attributes"]["url.path"] != "/metrics");
    let [call, request, stream] = lines.as_slice() else { panic!("{lines:?}") };
    for line in [call, request] {
        assert_eq!(
            (&line["error"], &line["grpc_status"], &line["endpoint"], &line["request_bytes"]),
            (&json!("deadline_exceeded"), &json!(4), &json!("digits"), &json!(late.len()))
        );
    }
    assert_eq!(
        (&stream["error"], &stream["grpc_status"], &stream["endpoint"], &stream["requests"]),
        (&json!("deadline_exceeded"), &json!(4), &Value::Null, &json!(1))
    );
    assert!(spans.iter().all(|span| span["error"] == true), "{spans:?}");
}

#[test]
fn a_client_that_goes_away_leaves_a_line_and_a_count() {
    let mut counted = String::new();
    let (lines, spans) = told_of(u64::MAX >> 1, &["--plugin-call-max-ms", "2000"], |server| {
        let mut client = TcpStream::connect(server.address()).unwrap();
        let length = ROW.len();
        let head =
            format!("POST /serve/digits HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
        client.write_all([head.as_bytes(), ROW.as_bytes()].concat().as_slice()).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert!(client.read(&mut [0]).is_err(), "there is no answer yet");
        drop(client);
        let series = "host_request_errors_total{code=\"cancelled\"";
        let is_counted = |line: &&str| line.starts_with(series) && !line.ends_with(" 0");
        let count = || server.get("/metrics").body.lines().find(is_counted).map(str::to_owned);
        counted = eventually(count);
    });
    assert_eq!(counted.rsplit(' ').next(), Some("1"), "{counted}");
    // Whoever asks for the count may be answered before the server notices.
    let line = lines.iter().find(|line| line["path"] == "/serve/digits").unwrap();
    assert_eq!(
        (&line["status"], &line["error"], &line["request_bytes"]),
        (&json!(499), &json!("cancelled"), &json!(ROW.len()))
    );
    let span = spans.iter().find(|span| span["attributes"]["url.path"] == "/serve/digits").unwrap();
    assert_eq!(span["attributes"]["http.response.status_code"], 499);
}

#[test]
fn a_client_that_goes_away_in_its_body_has_sent_no_wrong_one() {
    let (lines, _) = told_of(0, &[], |server| {
        let begin = |head: &str| {
            let mut client = TcpStream::connect(server.address()).unwrap();
            let head = format!("POST /serve/digits HTTP/1.1\r\nhost: localhost\r\n{head}");
            client.write_all(head.as_bytes()).unwrap();
            client
        };
        drop(begin("content-length: 1000\r\n\r\n{"));
        let mut half = begin("transfer-encoding: chunked\r\n\r\n5\r\n{");
        half.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        half.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "who still reads is told so: {answer}");
        let mut client = Http2::connect(server);
        client.post(1, "localhost", "/serve/digits", &[], b"");
        assert!(client.send(Http2::DATA, 0, 1, b"{"));
        assert!(client.send(Http2::RST_STREAM, 0, 1, &8_u32.to_be_bytes()));
        client.settle();
        let count = || {
            let metrics = server.get("/metrics").body;
            metrics.contains("host_refused_requests_total{code=\"cancelled\"} 3\n").then_some(())
        };
        eventually(count);
        // What is no body at all is wrong, whoever sends it.
        let mut client = begin("transfer-encoding: chunked\r\nconnection: close\r\n\r\nxyz\r\n");
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    });
    let told = lines.iter().filter(|line| line["path"] == "/serve/digits");
    let told: Vec<_> = told.map(|line| (&line["status"], &line["error"])).collect();
    let (gone, wrong) = ((json!(499), json!("cancelled")), (json!(400), json!("invalid_input")));
    let expected = [&gone, &gone, &gone, &wrong].map(|(status, error)| (status, error));
    assert_eq!(told, expected);
}

/// What `look` finds within ten seconds.
fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let until = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(std::time::Instant::now() < until, "it does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}
