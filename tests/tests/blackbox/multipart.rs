//! Artifacts that are sent in parts, as MLflow's client does where `MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD` is set.

use host_tests::{Answer, Bucket, Host, Server};
use serde_json::{Value, json};

use crate::tracking::assert_refused;

/// Where artifacts of this name are kept, and what the client calls its file.
const FOLDER: &str = "0/run/artifacts";
const FILE: &str = "/home/me/large.bin";

fn multipart(server: &Server, action: &str, folder: &str, body: &Value) -> Answer {
    server.post(&format!("/api/2.0/mlflow-artifacts/mpu/{action}/{folder}"), &body.to_string())
}

/// Begins an upload; gives its identifier and the URLs of its parts.
fn create(server: &Server, parts: usize) -> (String, Vec<String>) {
    let answer = multipart(server, "create", FOLDER, &json!({ "path": FILE, "num_parts": parts }));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let created = answer.json();
    let credentials = created["credentials"].as_array().unwrap();
    let urls = credentials.iter().zip(1..).map(|(credential, number)| {
        assert_eq!(credential["part_number"], number);
        credential["url"].as_str().unwrap().to_owned()
    });
    (created["upload_id"].as_str().unwrap().to_owned(), urls.collect())
}

/// Sends a part; gives its etag.
fn put_part(url: &str, content: &[u8]) -> String {
    let answer = host_tests::agent().put(url).send(content).unwrap();
    assert_eq!(answer.status(), 200);
    answer.headers()["etag"].to_str().unwrap().to_owned()
}

fn complete(server: &Server, upload_id: &str, etags: &[(usize, String)]) -> Answer {
    let parts =
        etags.iter().map(|(number, etag)| json!({ "part_number": number, "etag": etag, "url": null }));
    let parts: Vec<Value> = parts.collect();
    multipart(server, "complete", FOLDER, &json!({ "path": FILE, "upload_id": upload_id, "parts": parts }))
}

fn abort(server: &Server, upload_id: &str) -> Answer {
    multipart(server, "abort", FOLDER, &json!({ "path": FILE, "upload_id": upload_id }))
}

fn artifact(server: &Server) -> Answer {
    server.get(&format!("/api/2.0/mlflow-artifacts/artifacts/{FOLDER}/large.bin"))
}

fn numbered(etags: impl IntoIterator<Item = String>) -> Vec<(usize, String)> {
    (1..).zip(etags).collect()
}

fn parts_become_an_artifact(server: &Server) {
    let (upload_id, urls) = create(server, 3);
    let contents = ["a".repeat(300_000), "b".repeat(300_000), "c".to_owned()];
    let mut etags: Vec<_> =
        urls.iter().zip(&contents).rev().map(|(url, content)| put_part(url, content.as_bytes())).collect();
    etags.reverse();
    assert_refused(&artifact(server), 404, "RESOURCE_DOES_NOT_EXIST");
    let parts = numbered(etags);
    for _ in 0..2 {
        let answer = complete(server, &upload_id, &parts);
        assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    }
    assert_eq!(artifact(server).body, contents.concat());
    assert_refused(&abort(server, &upload_id), 400, "INVALID_PARAMETER_VALUE");
    // Sent again after another was stored in its place, a request changes nothing.
    let path = format!("/api/2.0/mlflow-artifacts/artifacts/{FOLDER}/large.bin");
    assert_eq!(server.put(&path, b"newer").status, 200);
    assert_eq!(complete(server, &upload_id, &parts).status, 200);
    assert_eq!(artifact(server).body, "newer");
    let (empty, urls) = create(server, 0);
    assert!(urls.is_empty());
    assert_eq!(complete(server, &empty, &[]).status, 200);
    assert_eq!(artifact(server).body, "");
}

#[test]
fn parts_become_an_artifact_in_a_folder() {
    let host = Host::new();
    parts_become_an_artifact(&host.server([]));
}

#[test]
fn parts_become_an_artifact_in_a_bucket() {
    let host = Host::new();
    parts_become_an_artifact(&host.server_with_bucket(Bucket::shared(), "multipart", []));
}

#[test]
fn an_upload_in_parts_survives_kill_9() {
    let host = Host::new();
    let mut server = host.server([]);
    let (upload_id, urls) = create(&server, 2);
    let first = put_part(&urls[0], b"one ");
    server.kill();
    server = host.server([]);
    assert_refused(&artifact(&server), 404, "RESOURCE_DOES_NOT_EXIST");
    let path = urls[1].split_once("/api/").unwrap().1;
    let second = put_part(&format!("http://{}/api/{path}", server.address()), b"two");
    let parts = numbered([first, second]);
    assert_eq!(complete(&server, &upload_id, &parts).status, 200);
    server.kill();
    server = host.server([]);
    assert_eq!(artifact(&server).body, "one two");
    assert_eq!(complete(&server, &upload_id, &parts).status, 200, "harmless to repeat");
}

#[test]
fn refuses_parts_that_are_not_what_they_should_be() {
    let host = Host::new();
    let server = host.server([]);
    let (upload_id, urls) = create(&server, 2);
    let first = put_part(&urls[0], b"one");
    let refused = |answer: &Answer| assert_refused(answer, 400, "INVALID_PARAMETER_VALUE");
    refused(&complete(&server, &upload_id, &numbered([first.clone(), first.clone()])));
    let second = put_part(&urls[1], b"two");
    let numbers = |numbers: [usize; 2]| numbers.into_iter().zip([first.clone(), second.clone()]);
    refused(&complete(&server, &upload_id, &[]));
    refused(&complete(&server, &upload_id, &numbered([first.clone()])));
    refused(&complete(&server, &upload_id, &numbered([second.clone(), first.clone()])));
    refused(&complete(&server, &upload_id, &numbered([first.clone(), "\"x\"".to_owned()])));
    for wrong in [[0, 1], [1, 3], [1, 1]] {
        refused(&complete(&server, &upload_id, &numbers(wrong).collect::<Vec<_>>()));
    }
    let part = |number: &str| format!("/api/2.0/mlflow-artifacts/mpu/part/{upload_id}/{number}");
    for number in ["0", "3", "-1", "x", "1e0", "4294967296"] {
        refused(&server.put(&part(number), b"x"));
    }
    let elsewhere = json!({ "path": FILE, "upload_id": upload_id, "parts": [] });
    for action in ["complete", "abort"] {
        refused(&multipart(&server, action, "0/other/artifacts", &elsewhere));
    }
    assert_refused(&artifact(&server), 404, "RESOURCE_DOES_NOT_EXIST");
    let blobs = std::fs::read_dir(host.state_dir().join("blobs/sha256")).unwrap();
    assert_eq!(blobs.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count(), 0);
    let in_any_order: Vec<_> = numbered([first, second]).into_iter().rev().collect();
    assert_eq!(complete(&server, &upload_id, &in_any_order).status, 200, "it can be mended");
    assert_eq!(artifact(&server).body, "onetwo");
}

#[test]
fn refuses_uploads_that_are_none() {
    let host = Host::new();
    let server = host.server([]);
    for body in [
        json!({}),
        json!({ "path": FILE }),
        json!({ "path": FILE, "num_parts": -1 }),
        json!({ "path": FILE, "num_parts": 10_001 }),
        json!({ "path": FILE, "num_parts": "many" }),
        json!({ "path": "", "num_parts": 1 }),
        json!({ "path": "/home/..", "num_parts": 1 }),
        json!({ "path": 7, "num_parts": 1 }),
        json!([]),
    ] {
        assert_refused(&multipart(&server, "create", FOLDER, &body), 400, "INVALID_PARAMETER_VALUE");
    }
    for folder in ["..%2f..", "%2e%2e/x", "%252e%252e/x", "C%3A/x", "..;/x", "0%23x", "0%00x", "0//x", "%ff"]
    {
        let body = json!({ "path": FILE, "num_parts": 1 });
        assert_refused(&multipart(&server, "create", folder, &body), 400, "INVALID_PARAMETER_VALUE");
    }
    assert_refused(&server.post("/api/2.0/mlflow-artifacts/mpu/create/", "{}"), 404, "ENDPOINT_NOT_FOUND");
    let (known, _) = create(&server, 1);
    for upload_id in ["", "..", "../x", &format!("../temporary/upload-{known}"), &"0".repeat(32), "\u{0}"] {
        assert_refused(&complete(&server, upload_id, &[]), 404, "RESOURCE_DOES_NOT_EXIST");
        assert_refused(&abort(&server, upload_id), 404, "RESOURCE_DOES_NOT_EXIST");
        let encoded: String = upload_id.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let put = server.put(&format!("/api/2.0/mlflow-artifacts/mpu/part/{encoded}/1"), b"x");
        assert_refused(&put, 404, "RESOURCE_DOES_NOT_EXIST");
    }
    for _ in 0..2 {
        assert_eq!(abort(&server, &known).status, 200, "harmless to repeat");
    }
    assert_refused(&complete(&server, &known, &[(1, "0".repeat(64))]), 400, "INVALID_PARAMETER_VALUE");
    let put = server.put(&format!("/ajax-api/2.0/mlflow-artifacts/mpu/part/{known}/1"), b"x");
    assert_refused(&put, 400, "INVALID_PARAMETER_VALUE");
}
