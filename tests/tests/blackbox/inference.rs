//! The Open Inference Protocol: its official client, and what no client sends.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use host_tests::{Host, Server, pixels_json, python, ran, repository, test_images};
use serde_json::{Value, json};

use super::endpoints::{ROW, two_versions, wait_for, write};

#[test]
fn the_official_client_works_unmodified() {
    let server = Host::trained().serve(["--model", "mnist", "--model-control"]);
    let images = &test_images()[..9];
    let answers: Vec<Value> =
        images.iter().map(|image| server.post("/serve/mnist", &pixels_json(image)).json()).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("case.json");
    std::fs::write(&file, json!({ "rows": images, "answers": answers }).to_string()).unwrap();
    let script = repository().join("tests/python/inference_client.py");
    let output = Command::new(python()).arg(script).arg(server.address()).arg(file).output().unwrap();
    assert!(ran(output).expect_success().contains("all as documented"));
}

#[test]
fn what_a_client_has_unloaded_stays_in_the_index_until_it_is_loaded_again() {
    let registry = two_versions();
    let file = write(
        &registry.host,
        "version: 1\nendpoints: { one: { model: digits@1 }, two: { model: digits@2 }, e: { sequence: [one] } }\n",
    );
    let server = registry.host.serve(["--endpoints", &file, "--model-control"]);
    let index = |body: &str| {
        let answer = server.post("/v2/repository/index", body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json().as_array().unwrap().clone()
    };
    let ready = |name: &str, version: &str| json!({ "name": name, "version": version, "state": "READY", "reason": "" });
    let change = |name: &str, change: &str| {
        let answer = server.post(&format!("/v2/repository/models/{name}/{change}"), "");
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    let all = [ready("e", "1"), ready("one", "1"), ready("two", "2")];
    assert_eq!(index(""), all);
    change("one", "unload");
    change("nobody", "unload");
    let found = index(r#"{"ready": false}"#);
    let [part, two, one] = found.as_slice() else { panic!("{found:?}") };
    let unloaded = json!({ "name": "one", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded" });
    assert_eq!((two, one), (&all[2], &unloaded));
    // It is there, but not what it is made of.
    assert_eq!((&part["name"], &part["state"]), (&json!("e"), &json!("UNAVAILABLE")));
    assert!(part["reason"].as_str().unwrap().contains("`one`"), "{part}");
    assert_eq!(index(r#"{"ready": true}"#), [ready("two", "2")]);
    // Bodies are read here as elsewhere: a frame of zstd with one raw block (RFC 8878), what is not unpacked, and a list.
    let packed = [b"\x28\xb5\x2f\xfd\x20\x0f\x79\0\0", &br#"{"ready": true}"#[..]].concat();
    for (body, encoding, status) in
        [(&packed[..], "zstd", 200), (b"{}", "gzip", 400), (b"{}", "br", 415), (b"[true]", "identity", 400)]
    {
        let asked = |path: &str| server.post_with_headers(path, body, &[("content-encoding", encoding)]).0;
        let found = asked("/v2/repository/index");
        assert_eq!(found.status, status, "{}", found.body);
        assert!(status != 200 || found.json() == json!([ready("two", "2")]), "{}", found.body);
        assert_eq!(asked("/v2/repository/models/nobody/unload").status, status, "{encoding}");
    }
    change("one", "load");
    assert_eq!(index(""), all);
}

#[test]
fn a_load_that_fails_changes_nothing_of_what_the_file_says() {
    let registry = two_versions();
    registry.run(&["model", "alias", "digits@1", "champion"]).expect_success();
    let text = "version: 1\nendpoints: { digits: { model: digits@champion }, two: { model: digits@2 } }\n";
    let file = write(&registry.host, text);
    let server = registry.host.serve(["--endpoints", &file, "--model-control"]);
    let change =
        |name: &str, change: &str| server.post(&format!("/v2/repository/models/{name}/{change}"), "").status;
    let names = || {
        let found = server.post("/v2/repository/index", "").json();
        let text = |entry: &Value| format!("{} {}", entry["name"], entry["reason"]).replace('"', "");
        found.as_array().unwrap().iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(change("digits", "unload"), 200);
    registry.run(&["model", "alias", "digits", "champion", "--delete"]).expect_success();
    assert_eq!(change("digits", "load"), 400);
    assert_eq!(names(), ["two ", "digits unloaded"], "it stays what it was");
    registry.run(&["model", "alias", "digits@1", "champion"]).expect_success();
    assert_eq!(change("digits", "load"), 200);
    let told = server.get("/serve").json();
    let version = &told["endpoints"][0]["versions"][0];
    assert_eq!((&version["version"], &version["asked_for"]), (&json!(1), &json!("digits@champion")));
    // What only a client has asked for is forgotten instead.
    assert_eq!((change("nothing", "load"), names()), (400, vec!["digits ".to_owned(), "two ".to_owned()]));
}

#[test]
fn what_was_unloaded_and_is_no_longer_said_of_is_forgotten_and_what_a_client_has_loaded_stays() {
    let registry = two_versions();
    let host = &registry.host;
    let text = "version: 1\nendpoints: { one: { model: digits@1 }, two: { model: digits@2 } }\n";
    let file = write(host, text);
    let server = host.serve(["--endpoints", &file, "--model-control"]);
    let change =
        |name: &str, change: &str| server.post(&format!("/v2/repository/models/{name}/{change}"), "").status;
    assert_eq!((change("one", "unload"), change("digits", "load")), (200, 200));
    write(host, "version: 1\nendpoints: { three: { model: digits@1 }, two: { model: digits@2 } }\n");
    wait_for("the file is not followed", || server.post("/serve/three", ROW).status == 200);
    let index = server.post("/v2/repository/index", "").json();
    let names: Vec<&Value> = index.as_array().unwrap().iter().map(|entry| &entry["name"]).collect();
    assert_eq!(names, ["digits", "three", "two"]);
    assert_eq!(change("one", "load"), 400);
    // Nor is it in the way of who says it again.
    write(host, text);
    wait_for("the file is not followed", || server.post("/serve/one", ROW).status == 200);
    assert_eq!(server.post("/serve/digits", ROW).status, 200);
}

#[test]
fn what_was_unloaded_comes_back_when_the_file_says_another_thing_of_it() {
    let registry = two_versions();
    let host = &registry.host;
    let text = |one: &str, more: &str| {
        format!("version: 1\nendpoints: {{ one: {{ model: {one} }}, two: {{ model: digits@2 }}{more} }}\n")
    };
    let file = write(host, &text("digits@1", ""));
    let server = host.serve(["--endpoints", &file, "--model-control"]);
    assert_eq!(server.post("/v2/repository/models/one/unload", "").status, 200);
    // What is said of others is not of it.
    write(host, &text("digits@1", ", three: { model: digits@1 }"));
    wait_for("the file is not followed", || server.post("/serve/three", ROW).status == 200);
    assert_eq!(server.post("/serve/one", ROW).status, 404);
    write(host, &text("digits@2", ", three: { model: digits@1 }"));
    wait_for("it is not back", || server.post("/serve/one", ROW).status == 200);
    let index = server.post("/v2/repository/index", "").json();
    assert!(index.as_array().unwrap().iter().all(|entry| entry["state"] == "READY"), "{index}");
}

#[test]
fn what_is_asked_of_a_model_takes_its_own_methods_and_says_so() {
    let registry = two_versions();
    let server = registry.host.serve(["--model", "digits@1"]);
    let asked = |method: &str, path: &str| {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let answer = answer.to_ascii_lowercase();
        let allowed = answer.lines().find_map(|line| line.strip_prefix("allow: ")).map(str::to_owned);
        (answer.get(9..12).unwrap_or_default().to_owned(), allowed)
    };
    let refused = |allowed: &str| ("405".to_owned(), Some(allowed.to_owned()));
    for model in ["/v2/models/digits", "/v2/models/digits/versions/1"] {
        for method in ["GET", "HEAD", "OPTIONS", "PUT"] {
            assert_eq!(asked(method, &format!("{model}/infer")), refused("post"), "{method} {model}");
        }
        for document in ["ready", "config", "stats"] {
            for method in ["POST", "OPTIONS", "DELETE"] {
                let found = asked(method, &format!("{model}/{document}"));
                assert_eq!(found, refused("get, head"), "{method} {model}/{document}");
            }
            for method in ["GET", "HEAD"] {
                assert_eq!(asked(method, &format!("{model}/{document}")), ("200".to_owned(), None));
            }
        }
        for method in ["GET", "POST", "OPTIONS"] {
            assert_eq!(asked(method, &format!("{model}/nothing")), ("404".to_owned(), None), "{method}");
        }
    }
    for path in ["/v2/models/none/infer", "/v2/models/none/ready", "/v2/models/digits/versions/2/ready"] {
        assert_eq!(asked("PUT", path), ("404".to_owned(), None), "{path}");
    }
}

/// Status and message of a refusal; and that the next request is answered.
fn refused(server: &Server, path: &str, body: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let (answer, _) = server.post_with_headers(path, body, headers);
    let told = answer.json();
    let message = told["error"].as_str().unwrap_or_else(|| panic!("{}", answer.body)).to_owned();
    assert_eq!(told.as_object().unwrap().len(), 1, "{told}");
    assert!(!message.contains('\n') && message.len() < 400, "{message}");
    let good = server.post("/v2/models/mnist/infer", &request("[1, 28, 28]", 784));
    assert_eq!(good.status, 200, "{}", good.body);
    (answer.status, message)
}

fn request(shape: &str, count: usize) -> String {
    let zeros = vec!["0"; count].join(",");
    format!(r#"{{"inputs":[{{"name":"pixels","datatype":"UINT8","shape":{shape},"data":[{zeros}]}}]}}"#)
}

/// A body, headers, and the status and a part of the message that they get.
type Case = (String, Vec<(&'static str, &'static str)>, u16, &'static str);

#[test]
fn bad_requests_are_told_as_the_protocol_tells_them_and_harm_nobody() {
    let server = Host::trained().serve(["--model", "mnist", "--body-max-bytes", "100000"]);
    let infer = "/v2/models/mnist/infer";
    let binary = |size: &str| {
        format!(
            r#"{{"inputs":[{{"name":"pixels","datatype":"UINT8","shape":[1,28,28],"parameters":{{"binary_data_size":{size}}}}}]}}"#
        )
    };
    let cases: Vec<Case> = vec![
        (request("[1, 28, 27]", 756), vec![], 400, "`pixels`"),
        (request("[-1, 28, 28]", 784), vec![], 400, ""),
        (request("[18446744073709551615, 28, 28]", 784), vec![], 400, ""),
        (request("[1000000, 28, 28]", 784), vec![], 400, "expected at most"),
        (request("[2, 28, 28]", 784), vec![], 400, "`pixels`"),
        (request("[0, 28, 28]", 0), vec![], 400, "at least one row"),
        (request("[1, 28, 28]", 783), vec![], 400, "`pixels`"),
        (request("[1, 28, 28]", 784).replace("UINT8", "FP32"), vec![], 400, "expected UINT8, found FP32"),
        (request("[1, 28, 28]", 784).replace("[0,0", "[NaN,0"), vec![], 400, ""),
        (request("[1, 28, 28]", 784).replace("[0,0", "[256,0"), vec![], 400, "row 0, column `pixels`"),
        (String::new(), vec![], 400, ""),
        ("[".repeat(50_000), vec![], 400, ""),
        ("{}".to_owned(), vec![], 400, "inputs"),
        (binary("784"), vec![], 400, "784"),
        (binary("9999999999"), vec![("inference-header-content-length", "20")], 400, ""),
        (binary("-1"), vec![], 400, ""),
        (binary("784"), vec![("inference-header-content-length", "99999")], 400, "expected at most"),
        (binary("784"), vec![("inference-header-content-length", "x")], 400, "expected a number of bytes"),
        (" ".repeat(100_001), vec![], 413, "limit"),
        ("no gzip".to_owned(), vec![("content-encoding", "gzip")], 400, ""),
        ("{}".to_owned(), vec![("content-encoding", "br")], 415, "br"),
    ];
    for (body, headers, status, message) in &cases {
        let (found, told) = refused(&server, infer, body, headers);
        let shown: String = body.chars().take(80).collect();
        assert_eq!(found, *status, "{shown} {headers:?}: {told}");
        assert!(told.contains(message), "{shown}: {told}");
    }
    // What is small when it is packed and large when it is not.
    let packed = {
        let mut gzip = Command::new("sh");
        gzip.args(["-c", "head -c 50000000 /dev/zero | gzip -9"]);
        gzip.output().unwrap().stdout
    };
    let (answer, _) = server.post_with_headers(infer, &packed, &[("content-encoding", "gzip")]);
    assert_eq!(answer.status, 413, "{}", answer.body);
    assert!(server.peak_memory() < 1 << 30);
    for (path, status) in [
        ("/v2/models/none/infer", 404),
        ("/v2/models/mnist/versions/9/infer", 404),
        ("/v2/models/mnist/versions/x/infer", 404),
        ("/v2/models/mnist/nothing", 404),
        ("/v2/models/%ff/infer", 404),
        ("/v2/nothing", 404),
        ("/v2/health/live", 405),
        ("/v2/repository/models/mnist/load", 403),
    ] {
        assert_eq!(refused(&server, path, "{}", &[]).0, status, "{path}");
    }
}
