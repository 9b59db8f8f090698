//! Bodies and queries that are no requests, or too much of one.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use host_tests::{Host, Server};
use serde_json::json;

use super::{refused, run};
use crate::tracking::{api, assert_refused, post, start_run};

/// Endpoints that take JSON.
const ENDPOINTS: [&str; 40] = [
    "experiments/create",
    "experiments/search",
    "experiments/update",
    "experiments/delete",
    "experiments/restore",
    "experiments/set-experiment-tag",
    "experiments/delete-experiment-tag",
    "runs/create",
    "runs/update",
    "runs/delete",
    "runs/restore",
    "runs/search",
    "runs/log-metric",
    "runs/log-parameter",
    "runs/log-batch",
    "runs/log-inputs",
    "runs/outputs",
    "runs/log-model",
    "runs/set-tag",
    "runs/delete-tag",
    "logged-models",
    "logged-models/search",
    "logged-models/m-0/params",
    "registered-models/create",
    "registered-models/rename",
    "registered-models/get-latest-versions",
    "registered-models/set-tag",
    "registered-models/alias",
    "model-versions/create",
    "model-versions/transition-stage",
    "model-versions/set-tag",
    "../mlflow-artifacts/mpu/create/x",
    "../mlflow-artifacts/mpu/complete/x",
    "../mlflow-artifacts/mpu/abort/x",
    "runs/log-metric?x=y",
    "runs/log-batch?x=y",
    "runs/search?x=y",
    "experiments/search?x=y",
    "logged-models/search?x=y",
    "logged-models?x=y",
];

/// Bytes of the largest JSON body.
const BODY_MAX_BYTES: usize = 32 << 20;

/// What the server may hold whatever is sent: far more than it needs, far less than a body of a gigabyte.
const MEMORY_MAX_BYTES: u64 = 900 << 20;

fn endpoint(path: &str) -> String {
    path.strip_prefix("../").map_or_else(|| api(path), |path| format!("/api/2.0/{path}"))
}

/// The status and error code of an answer as it came over the wire.
fn status_and_code(answer: &str) -> (String, String) {
    let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {answer:?}")).to_owned();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    let error: serde_json::Value =
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    (status, error["error_code"].as_str().unwrap().to_owned())
}

#[test]
fn no_endpoint_takes_what_is_no_object() {
    let host = Host::new();
    let server = host.server([]);
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(200_000), close.repeat(200_000));
    let bodies: Vec<Vec<u8>> = vec![
        b"[]".to_vec(),
        b" [\"x\", \"y\"]".to_vec(),
        b"[{}]".to_vec(),
        b"7".to_vec(),
        b"\"x\"".to_vec(),
        b"null".to_vec(),
        b"true".to_vec(),
        b"{".to_vec(),
        b"{\"name\": ".to_vec(),
        b"{} {}".to_vec(),
        b"\xef\xbb\xbf{}".to_vec(),
        b"{\"name\": \"\xff\", \"run_id\": \"\xc3\"}".to_vec(),
        b"{\"\xff\": 1}".to_vec(),
        b"run_id=x".to_vec(),
        vec![0; 1_000],
        deep("[", "]").into_bytes(),
        deep("{\"a\":", "}").into_bytes(),
    ];
    let agent = host_tests::agent();
    for path in ENDPOINTS {
        for body in &bodies {
            let mut answer =
                agent.post(format!("http://{}{}", server.address(), endpoint(path))).send(&body[..]).unwrap();
            let (status, text) = (answer.status(), answer.body_mut().read_to_string().unwrap());
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            assert_eq!(status, 400, "{path} {shown}: {text}");
            assert!(
                text.contains("\"INVALID_PARAMETER_VALUE\"") && text.len() < 2_000,
                "{path} {shown}: {text}"
            );
        }
    }
    let experiments = post(&server, "experiments/search", &json!({ "max_results": 10 }));
    assert_eq!(experiments["experiments"].as_array().unwrap().len(), 1, "nothing was created");
}

#[test]
fn keys_that_come_twice_and_wrong_types_are_refused() {
    let host = Host::new();
    let server = host.server([]);
    let id = start_run(&server);
    for (path, body) in [
        (
            "runs/log-metric",
            format!(r#"{{"run_id":"{id}","run_id":"{id}","key":"a","value":1,"timestamp":1}}"#),
        ),
        ("runs/log-metric", format!(r#"{{"run_id":"{id}","key":"a","key":"b","value":1,"timestamp":1}}"#)),
        ("runs/log-metric", format!(r#"{{"run_id":"{id}","key":"a","value":1,"value":2,"timestamp":1}}"#)),
        ("runs/log-metric", format!(r#"{{"run_id":"{id}","key":["a"],"value":1,"timestamp":1}}"#)),
        ("runs/log-metric", format!(r#"{{"run_id":"{id}","key":"a","value":{{}},"timestamp":1}}"#)),
        ("runs/log-metric", format!(r#"{{"run_id":"{id}","key":"a","value":1,"timestamp":1.5}}"#)),
        ("runs/log-metric", format!(r#"{{"run_id":"{id}","key":"a","value":1,"timestamp":1,"step":1e30}}"#)),
        ("runs/log-metric", format!(r#"{{"run_id":"{id}","key":"a","value":1,"timestamp":1,"step":true}}"#)),
        ("runs/log-metric", format!(r#"{{"run_id":"{id}","value":1,"timestamp":1}}"#)),
        ("runs/log-metric", format!(r#"{{"run_id":"{id}","key":"\ud800","value":1,"timestamp":1}}"#)),
        ("runs/log-metric", format!(r#"{{"run_id":"{id}","key":"a","value":1e99999,"timestamp":1}}"#)),
        ("runs/log-metric", format!("{{\"run_id\":\"{id}\",\"key\":\"a\nb\",\"value\":1,\"timestamp\":1}}")),
        ("runs/log-parameter", format!(r#"{{"run_id":"{id}","key":"a","value":"1","value":"2"}}"#)),
        ("runs/log-parameter", format!(r#"{{"run_id":"{id}","key":"a","value":1}}"#)),
        ("runs/set-tag", format!(r#"{{"run_id":"{id}","key":"a","key":"a","value":"1"}}"#)),
        ("runs/set-tag", format!(r#"{{"run_id":["{id}"],"key":"a","value":"1"}}"#)),
        ("runs/log-batch", format!(r#"{{"run_id":"{id}","params":[],"params":[]}}"#)),
        ("runs/log-batch", format!(r#"{{"run_id":"{id}","params":{{"a":"1"}}}}"#)),
        ("runs/log-batch", format!(r#"{{"run_id":"{id}","params":[["a","1"]]}}"#)),
        ("runs/log-batch", format!(r#"{{"run_id":"{id}","params":[{{"key":"a","value":"1","key":"b"}}]}}"#)),
        ("runs/update", format!(r#"{{"run_id":"{id}","status":"DONE"}}"#)),
        ("runs/update", format!(r#"{{"run_id":"{id}","status":"FAILED","status":"FINISHED"}}"#)),
        ("runs/create", r#"{"experiment_id":0}"#.to_owned()),
        ("runs/create", r#"{"experiment_id":"0","tags":{"a":"b"}}"#.to_owned()),
        ("runs/search", r#"{"experiment_ids":"0"}"#.to_owned()),
        ("runs/search", r#"{"experiment_ids":["0"],"max_results":"many"}"#.to_owned()),
        ("runs/search", r#"{"experiment_ids":["0"],"filter":7}"#.to_owned()),
        ("experiments/create", r#"{"name":"a","name":"b"}"#.to_owned()),
        ("experiments/create", r#"{"name":{"a":"b"}}"#.to_owned()),
        ("registered-models/create", r#"{"name":"a","name":"b"}"#.to_owned()),
    ] {
        let answer = server.post(&api(path), &body);
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.body);
        refused(&answer);
    }
    let run = run(&server, &id);
    assert_eq!(run["info"]["status"], "RUNNING");
    assert!(!run["data"].to_string().contains("\"a\""), "{run}");
}

#[test]
fn text_that_is_not_utf8_is_refused_in_queries_and_paths() {
    let host = Host::new();
    let server = host.server([]);
    post(&server, "experiments/create", &json!({ "name": "\u{fffd}" }));
    for path in [
        api("experiments/get-by-name?experiment_name=%ff"),
        api("runs/get?run_id=%c3%28"),
        api("metrics/get-history?run_id=x&metric_key=%ff"),
        api("artifacts/list?run_id=x&path=%ff"),
        api("registered-models/get?name=%ff"),
        api("logged-models/%ff"),
        "/api/2.0/mlflow-artifacts/artifacts?path=%ff".to_owned(),
        "/api/2.0/mlflow-artifacts/artifacts/%ff".to_owned(),
    ] {
        let answer = server.get(&path);
        assert_eq!(answer.status, 400, "{path}: {}", answer.body);
        refused(&answer);
    }
    // Bytes that no address may have are refused before there is a request.
    for request in [
        &b"GET /api/2.0/mlflow/runs/get?run_id=\xff HTTP/1.1\r\nhost: localhost\r\n\r\n"[..],
        b"GET /\x00 HTTP/1.1\r\n\r\n",
    ] {
        let answer = server.send_raw(request);
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(server.get("/health").body, "OK");
}

fn open_post(server: &Server, path: &str, length: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{length}\r\n\r\n",
        endpoint(path)
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

fn send_chunk(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes())?;
    stream.write_all(bytes)?;
    stream.write_all(b"\r\n")
}

#[test]
fn a_body_that_was_packed_on_its_way_is_refused() {
    let host = Host::new();
    let server = host.server([]);
    let mut stream = open_post(&server, "experiments/search", "transfer-encoding: gzip, chunked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(status_and_code(&answer), ("501".to_owned(), "NOT_IMPLEMENTED".to_owned()));
}

#[test]
fn a_body_of_a_gigabyte_is_refused_and_takes_no_memory() {
    let host = Host::new();
    let server = host.server([]);
    // Announced: refused before any of it is sent.
    for path in [
        "runs/log-batch",
        "experiments/create",
        "registered-models/create",
        "../mlflow-artifacts/mpu/create/x",
    ] {
        let mut stream = open_post(&server, path, "content-length: 1073741824");
        let mut answer = String::new();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(status_and_code(&answer), ("400".to_owned(), "INVALID_PARAMETER_VALUE".to_owned()));
    }
    // Of unknown length: read up to the limit and no further.
    let mut stream = open_post(&server, "runs/log-batch", "transfer-encoding: chunked");
    let piece = vec![b' '; 1 << 20];
    let sent = (0..1_024).take_while(|_| send_chunk(&mut stream, &piece).is_ok()).count();
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(
        status_and_code(&answer),
        ("400".to_owned(), "INVALID_PARAMETER_VALUE".to_owned()),
        "{sent} MiB sent"
    );
    assert!(server.peak_memory() < MEMORY_MAX_BYTES / 3, "{} bytes", server.peak_memory());
    assert_eq!(server.get("/health").body, "OK");
}

#[test]
fn many_large_bodies_at_once_take_bounded_memory() {
    let host = Host::new();
    let server = host.server([]);
    let run_id = start_run(&server);
    // What is not asked for would take many times its bytes if it were kept.
    let mut body =
        format!(r#"{{"run_id":"{run_id}","key":"a","value":1,"timestamp":1,"more":[0"#).into_bytes();
    while body.len() < BODY_MAX_BYTES - 100 {
        body.extend(b",0");
    }
    body.extend(b"]}");
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..24)
            .map(|_| {
                scope.spawn(|| {
                    let mut stream =
                        open_post(&server, "runs/log-metric", &format!("content-length: {}", body.len()));
                    // A server that has no room says so before all is sent.
                    let _ = stream.write_all(&body);
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).unwrap();
                    answer
                })
            })
            .collect();
        for thread in threads {
            let answer = thread.join().unwrap();
            if !answer.starts_with("HTTP/1.1 200 ") {
                assert_eq!(
                    status_and_code(&answer),
                    ("503".to_owned(), "TEMPORARILY_UNAVAILABLE".to_owned())
                );
            }
        }
    });
    assert!(server.peak_memory() < MEMORY_MAX_BYTES, "{} bytes", server.peak_memory());
    // The room is free again.
    assert_eq!(server.post(&api("runs/log-metric"), std::str::from_utf8(&body).unwrap()).status, 200);
}

#[test]
fn uploads_that_never_end_stop_other_files_and_nothing_else() {
    let host = Host::new();
    let server = host.server([]);
    let run_id = start_run(&server);
    let artifact = |name: &str| format!("/api/2.0/mlflow-artifacts/artifacts/{name}");
    assert_eq!(server.put(&artifact("before"), b"there").status, 200);
    let begin = |number: usize| {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        let path = artifact(&number.to_string());
        let head = format!("PUT {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\nx");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    // More than may be under way; those beyond it are told at once.
    let streams: Vec<TcpStream> = (0..300).map(begin).collect();
    let is_refused = |mut stream: &TcpStream| {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let mut head = [0; 12];
        stream.read(&mut head).is_ok_and(|count| head[..count].starts_with(b"HTTP/1.1 503"))
    };
    let mut told = BTreeSet::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    while told.len() < 300 - 256 {
        assert!(Instant::now() < deadline, "{} were refused", told.len());
        told.extend(streams.iter().enumerate().filter(|(_, stream)| is_refused(stream)).map(|(at, _)| at));
    }
    assert_refused(&server.get(&artifact("before")), 503, "TEMPORARILY_UNAVAILABLE");
    let metric = format!(r#"{{"run_id": "{run_id}", "key": "loss", "value": 1, "timestamp": 1}}"#);
    assert_eq!(server.post(&api("runs/log-metric"), &metric).status, 200);
    drop(streams);
    while server.get(&artifact("before")).status == 503 {
        assert!(Instant::now() < deadline, "uploads that broke off are still counted");
    }
    assert_eq!(server.get(&artifact("before")).body, "there");
    assert_refused(&server.get(&artifact("0")), 404, "RESOURCE_DOES_NOT_EXIST");
}
