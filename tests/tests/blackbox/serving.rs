//! `host serve`: the guarantee, bad requests, bad plugins, start and stop.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use host_tests::{Answer, Host, guest, misbehaviour, pixels_json, plugin, test_images};
use serde_json::json;

use super::endpoints::two_versions;

fn error_of(answer: &Answer) -> (u16, String, String) {
    let error = &answer.json()["error"];
    let text = |field: &str| error[field].as_str().unwrap().to_owned();
    (answer.status, text("code"), text("message"))
}

#[test]
fn every_test_image_gets_the_training_paths_answer_bit_for_bit() {
    let host = Host::trained();
    let predicted = host.run(["predict", "--model", "mnist", "--data", "mnist"]).expect_success();
    let predicted: Vec<&str> = predicted.lines().collect();
    assert_eq!(predicted.len(), 10_000);
    let server = host.serve(["--model", "mnist"]);
    for (image, expected) in test_images().iter().zip(&predicted) {
        let answer = server.post("/serve/mnist", &pixels_json(image));
        assert_eq!((answer.status, answer.body.as_str()), (200, *expected));
    }
    let listed: Vec<_> = test_images().iter().map(|image| serde_json::json!({ "pixels": image })).collect();
    let answer = server.post("/serve/mnist", &serde_json::Value::from(listed[..2_000].to_vec()).to_string());
    assert_eq!(answer.body, format!("[{}]", predicted[..2_000].join(",")), "one by one or together");
}

#[test]
fn the_same_is_answered_however_the_path_is_written() {
    let host = Host::trained();
    let server = host.serve(["--model", "mnist", "--body-max-bytes", "100000"]);
    let log = host.state_dir().join("written.log");
    // With a log, all routes are looked for in the same way.
    let told =
        host.serve(["--model", "mnist", "--body-max-bytes", "100000", "--access-log", log.to_str().unwrap()]);
    let good = pixels_json(&test_images()[0]);
    let tensor = serde_json::json!({"id": "x", "inputs": [
        {"name": "pixels", "shape": [1, 28, 28], "datatype": "UINT8", "data": test_images()[0]}
    ]});
    let tensor = tensor.to_string();
    type Headers = &'static [(&'static str, &'static str)];
    let packed: Headers = &[("accept-encoding", "gzip")];
    let slow: Headers = &[("x-request-timeout-ms", "soon")];
    let large = format!("[{}]", vec![good.as_str(); 60].join(","));
    let requests: [(&str, &str, &str, Headers); 9] = [
        ("/serve/mnist", "/serve/%6dnist", &good, &[]),
        ("/serve/mnist", "/serve/mni%73t?x=1", &good, packed),
        ("/serve/mnist", "/serve/mni%73t", "{", &[]),
        ("/serve/mnist", "/serve/mni%73t", &good, slow),
        ("/serve/mnist", "/serve/mni%73t", &large, &[]),
        ("/serve/nobody", "/serve/nobod%79", &good, &[]),
        ("/v2/models/mnist/infer", "/v2/models/mnis%74/infer", &tensor, packed),
        ("/v2/models/mnist/infer", "/v2/models/mnis%74/infer", "{}", &[]),
        ("/v2/models/nobody/infer", "/v2/models/nobod%79/infer", &tensor, &[]),
    ];
    for (path, other, body, headers) in requests {
        let of_others = |server: &host_tests::Server, path: &str| {
            let (answer, mut headers) = server.post_with_headers(path, body, headers);
            // Of each prediction its own, and of each moment.
            assert_eq!(
                headers.remove("x-prediction-id").is_some(),
                answer.status == 200,
                "{path}: {answer:?}"
            );
            headers.remove("date");
            (answer, headers)
        };
        let expected = of_others(&server, path);
        assert_eq!(of_others(&server, other), expected);
        assert_eq!(of_others(&told, path), expected);
    }
    for path in ["/serve/mnist", "/v2/models/mnist/infer"] {
        assert_eq!(server.get(path).status, 405, "{path}");
        assert_eq!(told.get(path), server.get(path));
    }
}

#[test]
fn a_fresh_instance_answers_as_a_kept_one() {
    let host = Host::trained();
    let (kept, fresh) =
        (host.serve(["--model", "mnist"]), host.serve(["--model", "mnist", "--fresh-instances"]));
    for image in &test_images()[..50] {
        let body = pixels_json(image);
        assert_eq!(kept.post("/serve/mnist", &body), fresh.post("/serve/mnist", &body));
    }
}

#[test]
fn bad_rows_are_told_by_row_and_column_and_the_next_request_is_answered() {
    let server = Host::trained().serve(["--model", "mnist", "--body-max-bytes", "100000"]);
    let good = pixels_json(&test_images()[0]);
    let expected = server.post("/serve/mnist", &good);
    assert_eq!(expected.status, 200);
    assert_eq!(expected.json()["label"], 7);
    let pixels = |replacement: &str, count: usize| {
        let zeros = vec!["0"; count].join(",");
        format!("{{\"pixels\":[{replacement}{zeros}]}}")
    };
    let mut cases: HashMap<&str, (String, &str)> = HashMap::new();
    cases.insert(
        "783 pixels",
        (pixels("", 783), "row 0, column `pixels`: expected 784 values (28 × 28), found 783"),
    );
    cases.insert("785 pixels", (pixels("", 785), "row 0, column `pixels`: expected 784 values (28 × 28)"));
    cases.insert("a string", (pixels("\"a\",", 783), "row 0, column `pixels`"));
    cases.insert("NaN", (pixels("NaN,", 783), ""));
    cases.insert("null", (pixels("null,", 783), "row 0, column `pixels`"));
    cases.insert("256", (pixels("256,", 783), "row 0, column `pixels`"));
    cases.insert("-1", (pixels("-1,", 783), "row 0, column `pixels`"));
    cases.insert("a fraction", (pixels("0.5,", 783), "row 0, column `pixels`"));
    cases.insert("huge exponent", (pixels("1e999,", 783), ""));
    cases.insert("unknown field", (good.replace("{\"pixels\"", "{\"extra\":1,\"pixels\""), "`extra`"));
    cases.insert("duplicate field", (good.replace("{\"pixels\"", "{\"pixels\":[],\"pixels\""), "`pixels`"));
    cases.insert("missing field", ("{}".to_owned(), "`pixels`"));
    cases.insert("empty body", (String::new(), ""));
    cases.insert("cut off", (good[..good.len() / 2].to_owned(), ""));
    cases.insert("trailing", (format!("{good}x"), ""));
    cases.insert("a number", ("7".to_owned(), ""));
    cases.insert("second row", (format!("[{good},{}]", pixels("", 3)), "row 1, column `pixels`"));
    cases.insert("no rows", ("[]".to_owned(), "expected at least one row"));
    cases.insert("deep nesting", ("[".repeat(50_000), ""));
    for (name, (body, message)) in &cases {
        let answer = server.post("/serve/mnist", body);
        let (status, code, found) = error_of(&answer);
        assert_eq!((status, code.as_str()), (400, "invalid_input"), "{name}: {found}");
        assert!(found.contains(message), "{name}: {found}");
        assert!(!found.contains('\n') && found.len() < 400, "{name}: {found}");
        assert_eq!(server.post("/serve/mnist", &good), expected, "after {name}");
    }
    for bytes in [100_001, 20_000_000] {
        let answer = server.post("/serve/mnist", &" ".repeat(bytes));
        assert_eq!(error_of(&answer).0, 413);
    }
    assert_eq!(error_of(&server.post("/serve/other", &good)).1, "not_found");
    assert_eq!(error_of(&server.post("/serve/%ff", &good)).1, "not_found");
    assert_eq!(error_of(&server.get("/serve/mnist")).1, "method_not_allowed");
    assert_eq!(error_of(&server.get("/serve/other")).1, "not_found");
    assert_eq!(error_of(&server.get("/serve/%ff")).1, "not_found");
    let long = format!("/serve/{}", "x".repeat(5_000));
    for answer in [server.get(&long), server.get(&long.replace("serve", "other"))] {
        let (status, _, message) = error_of(&answer);
        assert_eq!(status, 404);
        assert!(message.len() < 400, "{message}");
    }
    let posted = error_of(&server.post("/health", ""));
    assert_eq!((posted.0, posted.2.as_str()), (405, "`/health` does not take POST"));
    assert_eq!(error_of(&server.get("/nothing")).0, 404);
    assert_eq!(server.post("/serve/mnist", &good), expected);
}

#[test]
fn a_bad_plugin_ends_its_own_call_and_nothing_else() {
    let host = Host::trained();
    let image = pixels_json(&test_images()[0]);
    let cases = [
        ("loop", "ran longer than its limit of 300 ms"),
        ("memory", "needs more memory than its limit of 67108864 bytes"),
        ("stack", "overflowed its stack"),
        ("huge-output", "returned more than its limit of 67108864 bytes"),
        ("panic", "crashed: "),
        ("malformed", "broke the contract: "),
    ];
    for (behaviour, reason) in cases {
        let config = format!("misbehaving={}", misbehaviour(behaviour));
        let file = guest("misbehaving");
        // What is no endless loop must not run into the limit on a slow machine.
        let call_max_ms = if behaviour == "loop" { "300" } else { "60000" };
        let arguments =
            ["--model", "mnist", "--plugin", &file, "--config", &config, "--plugin-call-max-ms", call_max_ms];
        let server = host.serve(arguments);
        for _ in 0..3 {
            let (status, code, message) = error_of(&server.post("/serve/mnist", &image));
            assert_eq!((status, code.as_str()), (500, "plugin_fault"), "{behaviour}: {message}");
            assert!(message.contains("plugin `misbehaving` (sha256:"), "{message}");
            assert!(message.contains(reason), "{behaviour}: {message}");
        }
        assert_eq!(server.get("/health").status, 200, "after {behaviour}");
        let ran = server.stop();
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(ran.stderr.contains("replaces the bundle's `mnist-pixels`"), "{}", ran.stderr);
    }
}

#[test]
fn a_burst_at_a_plugin_that_takes_memory_does_not_take_it_for_all_at_once() {
    let file = guest("misbehaving");
    let config = format!("misbehaving={}", misbehaviour("memory"));
    // What it takes is some time before it is ended for it, on a slow machine too.
    let limit = ["--plugin-call-max-ms", "60000"];
    let server = Host::trained()
        .serve(["--model", "mnist", "--plugin", &file, "--config", &config].into_iter().chain(limit));
    let image = pixels_json(&test_images()[0]);
    assert_eq!(server.get("/health").status, 200);
    let before = server.peak_memory();
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..64).map(|_| scope.spawn(|| server.post("/serve/mnist", &image))).collect();
        for asked in asking {
            let (status, code, message) = error_of(&asked.join().unwrap());
            assert_eq!((status, code.as_str()), (500, "plugin_fault"), "{message}");
        }
    });
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    let grown = server.peak_memory() - before;
    assert!(grown < (3 * cores + 2) * (64 << 20), "{grown} bytes more, where one call may take 64 MiB");
}

#[test]
fn a_standard_error_that_nobody_reads_holds_up_nobody() {
    let file = guest("misbehaving");
    let config = format!("misbehaving={}", misbehaviour("panic"));
    let server = Host::trained().serve(["--model", "mnist", "--plugin", &file, "--config", &config]);
    let image = pixels_json(&test_images()[0]);
    // Each is told in some hundred bytes, and a pipe holds 64 KiB.
    for _ in 0..1_000 {
        let (status, code, message) = error_of(&server.post("/serve/mnist", &image));
        assert_eq!((status, code.as_str()), (500, "plugin_fault"), "{message}");
    }
    assert_eq!(server.get("/health").status, 200);
    // Nor the end, which does not wait for ever for somebody to read it.
    let stopped = server.stop();
    assert_eq!(stopped.code, 0);
    assert!(stopped.stderr.contains("misbehaving"), "{}", stopped.stderr);
}

#[test]
fn a_looping_plugin_does_not_hold_up_other_requests() {
    let file = guest("misbehaving");
    let server = Host::trained().serve([
        "--model",
        "mnist",
        "--threads",
        "1",
        "--plugin",
        &file,
        "--config",
        "misbehaving={\"behaviour\":\"loop\"}",
    ]);
    std::thread::scope(|scope| {
        let looping = scope.spawn(|| server.post("/serve/mnist", &pixels_json(&test_images()[0])));
        let mut answered = 0;
        while !looping.is_finished() {
            assert_eq!(server.get("/health").status, 200);
            answered += 1;
        }
        assert_eq!(looping.join().unwrap().status, 500);
        // The loop lasts a second; a server whose only thread it held would have answered once.
        assert!(answered >= 5, "{answered}");
    });
}

#[test]
fn stops_on_a_signal_and_answers_what_is_under_way() {
    let server = Host::trained().serve(["--model", "mnist"]);
    let body = pixels_json(&test_images()[0]);
    let mut slow = TcpStream::connect(server.address()).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head =
        format!("POST /serve/mnist HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    slow.write_all(head.as_bytes()).unwrap();
    slow.write_all(&body.as_bytes()[..100]).unwrap();
    // The server has read the head once it answers on another connection that came later.
    for _ in 0..20 {
        assert_eq!(server.get("/ready").status, 200);
    }
    server.terminate();
    // From here on it is draining, and the request is still not there.
    server.wait_until_it_refuses();
    slow.write_all(&body.as_bytes()[100..]).unwrap();
    let mut response = String::new();
    slow.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(response.contains("connection: close"), "{response}");
    assert_eq!(server.wait().code, 0);
}

#[test]
fn stops_on_a_signal_while_it_waits_for_another_that_compiles() {
    use std::io::{BufRead as _, BufReader};
    let host = Host::trained();
    let code = host.state_dir().join("code-of-another");
    std::fs::create_dir(&code).unwrap();
    let held = std::fs::File::create(code.join("lock")).unwrap();
    held.lock().unwrap();
    let mut command = host.command();
    command.args(["serve", "--model", "mnist", "--port", "0", "--code-cache", code.to_str().unwrap()]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("waiting for another process that compiles")));
    let id = child.id().to_string();
    assert!(Command::new("sh").args(["-c", "kill -s TERM \"$0\"", &id]).status().unwrap().success());
    // The other holds on for as long as this takes.
    assert!(lines.any(|line| line.contains("stopped")));
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let server = Host::trained().serve(["--model", "mnist"]);
    let mut stalled = TcpStream::connect(server.address()).unwrap();
    stalled
        .write_all(b"POST /serve/mnist HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{")
        .unwrap();
    for _ in 0..20 {
        assert_eq!(server.get("/ready").status, 200);
    }
    server.terminate();
    server.wait_until_it_refuses();
    server.terminate();
    let ran = server.wait();
    // Not 0, as after draining: this is what a shell says of a program that SIGTERM ended.
    assert_eq!(ran.code, 143, "{}", ran.stderr);
    assert!(ran.stderr.contains("told to stop again"), "{}", ran.stderr);
}

/// A model so large that 100,000 rows take a core some 20 seconds.
pub(super) fn slow_model() -> Host {
    let host = Host::new();
    let mut table = String::from("x,y,label\n");
    for row in 0..400_u32 {
        // Labels that nothing explains make trees that split as often as they may.
        let label = row.wrapping_mul(2_654_435_761) >> 8;
        table.push_str(&format!("{}.5,{}.5,{}\n", row * 7 % 101, row * 13 % 103, label % 10));
    }
    let file = host.state_dir().join("table.csv");
    std::fs::write(&file, table).unwrap();
    host.run(["data", "add", "slow", file.to_str().unwrap()]).expect_success();
    let arguments = ["--rounds", "1500", "--set", "eta=0.001", "--set", "min_child_weight=0"];
    host.run(["train", "--data", "slow", "--threads", "1"].into_iter().chain(arguments)).expect_success();
    host
}

#[test]
fn a_long_computation_does_not_outlast_the_grace_period() {
    let host = slow_model();
    let server = host.serve(["--model", "slow"]);
    let body = format!("[{}]", vec![r#"{"x":50,"y":50}"#; 100_000].join(","));
    let head =
        format!("POST /serve/slow HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    let requests = 4 * std::thread::available_parallelism().unwrap().get();
    let send = |_| {
        let mut connection = TcpStream::connect(server.address()).unwrap();
        connection.write_all(head.as_bytes()).unwrap();
        connection.write_all(body.as_bytes()).unwrap();
        connection
    };
    let _under_way: Vec<_> = (0..requests).map(send).collect();
    assert_eq!(server.get("/ready").status, 200);
    let told = Instant::now();
    server.terminate();
    let ran = server.wait();
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("were cut off"), "the requests were too short: {}", ran.stderr);
    // Ten seconds of grace; the requests would take all cores a minute and more.
    assert!(told.elapsed() < Duration::from_secs(30), "{:?}", told.elapsed());
}

#[test]
fn large_bodies_under_way_share_a_limit() {
    let server = Host::trained().serve(["--model", "mnist", "--bodies-max-bytes", "1000000"]);
    let begin = |sent: &[u8]| {
        let mut client = TcpStream::connect(server.address()).unwrap();
        let head = "POST /serve/mnist HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900000\r\n\r\n";
        client.write_all(&[head.as_bytes(), sent].concat()).unwrap();
        client
    };
    // All but the last byte, without which there is no answer.
    let hold = || begin(&vec![b' '; 899_999]);
    let mut holding = hold();
    let large = format!("[{}]", vec![pixels_json(&test_images()[0]); 100].join(","));
    let deadline = Instant::now() + Duration::from_secs(60);
    // Who announces as much and sends nothing takes no room, however many there are.
    let stalled: Vec<TcpStream> = (0..20).map(|_| begin(b"[")).collect();
    let refused = loop {
        let answer = server.post("/serve/mnist", &large);
        if answer.status != 200 {
            break answer;
        }
        assert!(Instant::now() < deadline, "the body of the other request was not read");
        // If it was read while this one was under way, it was refused itself.
        holding = hold();
    };
    let (status, code, message) = error_of(&refused);
    assert_eq!((status, code.as_str()), (503, "overloaded"), "{message}");
    assert_eq!(server.post("/serve/mnist", &pixels_json(&test_images()[0])).status, 200, "small ones go on");
    drop(holding);
    while server.post("/serve/mnist", &large).status != 200 {
        assert!(Instant::now() < deadline, "the memory did not come back");
    }
    drop(stalled);
}

#[test]
fn a_bundle_whose_model_is_not_the_signatures_is_refused() {
    let carried = tempfile::tempdir().unwrap();
    let folder = carried.path().join("bundle");
    Host::trained().run(["model", "export", "mnist", folder.to_str().unwrap()]).expect_success();
    let file = folder.join("bundle.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    manifest["signature"]["features"][0]["shape"] = serde_json::json!([783]);
    std::fs::write(&file, manifest.to_string()).unwrap();
    // A taken port, so that a server which takes the bundle ends as well.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ran = Host::new().run(["serve", "--port", &port, "--model", folder.to_str().unwrap()]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    let expected = "the bundle's model has 784 features a row: expected 783, as the bundle's signature says";
    assert!(ran.stderr.contains(expected), "{}", ran.stderr);
}

#[test]
fn a_client_that_sends_nothing_is_cut_off() {
    let server = Host::trained().serve(["--model", "mnist", "--body-max-ms", "200"]);
    let mut stalled = TcpStream::connect(server.address()).unwrap();
    stalled.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stalled
        .write_all(b"POST /serve/mnist HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{")
        .unwrap();
    let started = Instant::now();
    let mut response = vec![0; 4_096];
    let length = stalled.read(&mut response).unwrap();
    let response = String::from_utf8_lossy(&response[..length]).into_owned();
    assert!(response.starts_with("HTTP/1.1 408"), "{response}");
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_body_that_is_announced_too_large_is_refused_before_it_is_sent() {
    let server = Host::trained().serve(["--model", "mnist"]);
    let mut connection = TcpStream::connect(server.address()).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let head = "POST /serve/mnist HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n";
    connection.write_all(head.as_bytes()).unwrap();
    let mut response = vec![0; 4_096];
    let length = connection.read(&mut response).unwrap();
    let response = String::from_utf8_lossy(&response[..length]).into_owned();
    assert!(response.starts_with("HTTP/1.1 413"), "{response}");
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_body_for_what_is_not_there_need_not_be_sent() {
    let server = Host::trained().serve(["--model", "mnist"]);
    for path in [
        "/serve/nobody",
        "/serve/mnist/99",
        "/v2/models/mnist/versions/99/infer",
        "/endpoints/nobody/invocations",
    ] {
        let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n");
        let answer = server.send_raw(head.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
}

#[test]
fn who_could_not_answer_is_named_whatever_the_protocol() {
    let (file, config) = (guest("picky"), "picky={\"work\":0}");
    let registry = two_versions();
    let arguments = ["--model", "digits@1", "--plugin", &file, "--config", config];
    let server = registry.host.serve(arguments);
    let row = r#"{"a": 255, "b": 2}"#;
    let tensor =
        |name: &str, datum: u32| json!({ "name": name, "shape": [1], "datatype": "INT64", "data": [datum] });
    let inputs = json!({ "inputs": [tensor("a", 255), tensor("b", 2)] }).to_string();
    let rows = json!({ "dataframe_records": [{ "a": 255, "b": 2 }] }).to_string();
    let requests = [
        ("/serve/digits", row),
        ("/v2/models/digits/infer", inputs.as_str()),
        ("/endpoints/digits/invocations", rows.as_str()),
    ];
    for (path, body) in requests {
        let (answer, headers) = server.post_with_headers(path, body, &[]);
        assert_eq!(answer.status, 500, "{path}: {}", answer.body);
        assert_eq!(headers["x-model-version"], "digits@1", "{path}");
        assert!(headers["x-bundle-digest"].starts_with("sha256:"), "{path}");
        assert!(!headers.contains_key("x-prediction-id"), "{path}: there is none");
    }
}

#[test]
fn what_is_no_request_is_answered_and_cut_off() {
    let server = Host::trained().serve(["--model", "mnist"]);
    let many_headers: String = (0..150).map(|index| format!("a{index}: b\r\n")).collect();
    let chunked = |headers: &str| {
        format!("POST /serve/mnist HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n")
    };
    let cases = [
        ("HELO there\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        (format!("GET /health HTTP/1.1\r\nhost: localhost\r\n{many_headers}\r\n"), "HTTP/1.1 431"),
        ("GET /health HTTP/1.1\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("GET /health HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("GET /health HTTP/1.1\r\nhost: local host\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("GET /health HTTP/1.0\r\n\r\n".to_owned(), "HTTP/1.0 200"),
        (chunked("transfer-encoding: gzip, chunked"), "HTTP/1.1 501"),
        (chunked("transfer-encoding: chunked\r\ntransfer-encoding: chunked"), "HTTP/1.1 501"),
        (chunked("transfer-encoding: chunked\r\nconnection: close"), "HTTP/1.1 400"),
    ];
    for (request, status) in cases {
        let mut connection = TcpStream::connect(server.address()).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        connection.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        connection.read_to_string(&mut response).unwrap();
        assert!(response.starts_with(status), "{request:.20}: {response}");
    }
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_port_in_use_is_told_with_a_way_out() {
    let host = Host::trained();
    let server = host.serve(["--model", "mnist"]);
    let port = server.address().rsplit_once(':').unwrap().1.to_owned();
    let ran = host.run(["serve", "--model", "mnist", "--port", &port]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains(&format!("port {port} of 127.0.0.1 is in use")), "{}", ran.stderr);
    assert!(ran.stderr.contains("--port"), "{}", ran.stderr);
}

#[test]
fn the_bundles_own_component_is_no_replacement() {
    let own = plugin("mnist-pixels");
    let server = Host::trained().serve(["--model", "mnist", "--plugin", &own]);
    assert_eq!(server.post("/serve/mnist", &pixels_json(&test_images()[0])).json()["label"], 7);
    let ran = server.stop();
    assert!(!ran.stderr.contains("warning"), "{}", ran.stderr);
}

#[test]
fn the_bundles_own_component_with_another_config_is_told() {
    let config = |name: &str| format!("{name}={{\"labels\": [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]}}");
    let (own, config) = (plugin("argmax-label"), config("argmax-label"));
    let arguments = ["--model", "mnist", "--postprocess", &own, "--config", &config];
    let server = Host::trained().serve(arguments);
    assert_eq!(server.post("/serve/mnist", &pixels_json(&test_images()[0])).json()["label"], 2);
    let told = server.stop().stderr;
    let warning = "is the bundle's own component with another config: answers may differ";
    assert_eq!(told.matches(warning).count(), 1, "{told}");
}

#[test]
fn an_exported_bundle_serves_from_its_folder_alone() {
    let carried = tempfile::tempdir().unwrap();
    let folder = carried.path().join("bundle");
    let folder = folder.to_str().unwrap();
    Host::trained().run(["model", "export", "mnist", folder]).expect_success();
    let elsewhere = Host::new();
    let server = elsewhere.serve(["--model", folder, "--endpoint", "digits"]);
    assert_eq!(server.post("/serve/digits", &pixels_json(&test_images()[0])).json()["label"], 7);
    assert_eq!(Host::trained().run(["model", "export", "mnist", folder]).code, 2, "nothing is overwritten");
}

#[test]
fn thousands_that_say_nothing_leave_room_for_who_asks() {
    let server = Host::trained().serve(["--model", "mnist"]);
    let image = pixels_json(&test_images()[0]);
    let expected = server.post("/serve/mnist", &image);
    let before = server.peak_memory();
    let half =
        format!("POST /serve/mnist HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n[", image.len());
    // Some send nothing, some a part of a head, some a part of a body.
    let idle: Vec<TcpStream> = (0..2_000)
        .map(|index| {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            match index % 3 {
                0 => {}
                1 => stream.write_all(b"POST /serve/mnist HTTP/1.1\r\nhost: loc").unwrap(),
                _ => stream.write_all(half.as_bytes()).unwrap(),
            }
            stream
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(server.post("/serve/mnist", &image), expected);
    }
    let each = (server.peak_memory() - before) / idle.len() as u64;
    assert!(each < 100_000, "{each} bytes for each");
    drop(idle);
    assert_eq!(server.post("/serve/mnist", &image), expected);
}
