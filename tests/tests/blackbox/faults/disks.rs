//! Disks that are full, and links where files should be.

use std::path::Path;

use host_tests::{Answer, Host, Server};
use serde_json::json;

use super::{pair_of_points, run, steps};
use crate::tracking::{api, assert_refused, post, start_run};

fn put(server: &Server, name: &str, content: &[u8]) -> Answer {
    server.put(&format!("/api/2.0/mlflow-artifacts/artifacts/{name}"), content)
}

fn get(server: &Server, name: &str) -> Answer {
    server.get(&format!("/api/2.0/mlflow-artifacts/artifacts/{name}"))
}

/// Writes until nothing more fits.
fn fill(file: &Path) {
    use std::io::Write as _;
    let mut filler = std::fs::File::create(file).unwrap();
    while filler.write_all(&[7; 4_096]).is_ok() {}
}

#[test]
fn a_full_disk_stops_what_writes_and_nothing_else() {
    let host = Host::new();
    let server = host.server_on_small_disk("8m");
    let state = server.path(host.state_dir());
    let run_id = start_run(&server);
    assert_eq!(put(&server, "before.txt", b"before").status, 200);
    let filler = state.join("filler");
    fill(&filler);
    assert_refused(&put(&server, "during.txt", &[1; 100_000]), 503, "TEMPORARILY_UNAVAILABLE");
    let is_refused = |number: i64| {
        let mut batch = pair_of_points(&run_id, "during", number);
        // Each more than a page of the database.
        batch["params"] = json!([{ "key": format!("p{number}"), "value": "x".repeat(6_000) }]);
        let answer = server.post(&api("runs/log-batch"), &batch.to_string());
        if answer.status != 200 {
            assert_refused(&answer, 503, "TEMPORARILY_UNAVAILABLE");
        }
        answer.status != 200
    };
    // What the database's files have room for already is taken.
    let first_refused = (0..1_000).find(|number| is_refused(*number)).expect("the disk was never full");
    for number in first_refused + 1..first_refused + 4 {
        is_refused(number);
    }
    assert_eq!(get(&server, "before.txt").body, "before");
    assert_refused(&get(&server, "during.txt"), 404, "RESOURCE_DOES_NOT_EXIST");
    let found = run(&server, &run_id);
    let params = found["data"]["params"].as_array().map_or(0, Vec::len);
    assert_eq!(steps(&server, &run_id, "during").len(), params * 2, "half a batch was kept");
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(put(&server, "during.txt", b"during").status, 200);
    post(&server, "runs/log-batch", &pair_of_points(&run_id, "after", 0));
    assert_eq!(steps(&server, &run_id, "after"), [0, 1]);
    let temporary = std::fs::read_dir(state.join("temporary")).unwrap().count();
    assert_eq!(temporary, 0, "what was half-written is gone");
}

#[test]
fn a_full_disk_ends_an_upload_in_parts_that_can_go_on_later() {
    let host = Host::new();
    let server = host.server_on_small_disk("8m");
    let filler = server.path(host.state_dir()).join("filler");
    let mpu = |action: &str, body: &serde_json::Value| {
        server.post(&format!("/api/2.0/mlflow-artifacts/mpu/{action}/0/x"), &body.to_string())
    };
    let created = mpu("create", &json!({ "path": "a.bin", "num_parts": 1 })).json();
    let upload_id = created["upload_id"].clone();
    let url = created["credentials"][0]["url"].as_str().unwrap();
    let path = &url[url.find("/api/").unwrap()..];
    fill(&filler);
    assert_refused(&server.put(path, &[1; 1_000_000]), 503, "TEMPORARILY_UNAVAILABLE");
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(server.put(path, &[1; 1_000_000]).status, 200);
    fill(&filler);
    let etag = host_tests::sha256(&[1; 1_000_000]);
    let complete =
        json!({ "path": "a.bin", "upload_id": upload_id, "parts": [{ "part_number": 1, "etag": etag }] });
    assert_refused(&mpu("complete", &complete), 503, "TEMPORARILY_UNAVAILABLE");
    assert_refused(&get(&server, "0/x/a.bin"), 404, "RESOURCE_DOES_NOT_EXIST");
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(mpu("complete", &complete).status, 200);
    assert_eq!(get(&server, "0/x/a.bin").body.len(), 1_000_000);
}

#[test]
fn a_link_in_place_of_a_blob_gives_nothing_away() {
    let host = Host::new();
    let server = host.server([]);
    assert_eq!(put(&server, "a.txt", b"mine").status, 200);
    assert_eq!(put(&server, "b.txt", b"other").status, 200);
    let secret = host.state_dir().join("secret");
    std::fs::write(&secret, "mine").unwrap();
    let digest = host_tests::sha256(b"mine");
    let blob = host.state_dir().join("blobs/sha256").join(&digest[..2]).join(&digest);
    std::fs::remove_file(&blob).unwrap();
    // Even a link to the right bytes: whoever can change them there could change them later.
    std::os::unix::fs::symlink(&secret, &blob).unwrap();
    assert_refused(&get(&server, "a.txt"), 500, "INTERNAL_ERROR");
    assert_refused(&put(&server, "again.txt", b"mine"), 500, "INTERNAL_ERROR");
    assert_refused(&get(&server, "again.txt"), 404, "RESOURCE_DOES_NOT_EXIST");
    assert_eq!(get(&server, "b.txt").body, "other");
    std::fs::remove_file(&blob).unwrap();
    assert_eq!(put(&server, "again.txt", b"mine").status, 200);
    assert_eq!(get(&server, "a.txt").body, "mine");
}

#[test]
fn links_among_temporary_files_are_not_followed() {
    let host = Host::new();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("precious"), "precious").unwrap();
    std::fs::create_dir(host.state_dir().join("temporary")).unwrap();
    let link = host.state_dir().join("temporary/upload-00000000000000000000000000000000");
    std::os::unix::fs::symlink(outside.path(), &link).unwrap();
    let touched = std::process::Command::new("touch").args(["-h", "-d", "2000-01-01"]).arg(&link).status();
    assert!(touched.unwrap().success());
    let server = host.server([]);
    assert_eq!(put(&server, "a.txt", b"a").status, 200);
    let part = server.put(&format!("/api/2.0/mlflow-artifacts/mpu/part/{}/1", "0".repeat(32)), b"x");
    assert_refused(&part, 404, "RESOURCE_DOES_NOT_EXIST");
    let left: Vec<_> =
        std::fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["precious"]);
}

#[test]
fn a_state_folder_that_is_a_link_is_used() {
    let (host, elsewhere) = (Host::new(), tempfile::tempdir().unwrap());
    let link = elsewhere.path().join("link");
    std::os::unix::fs::symlink(host.state_dir(), &link).unwrap();
    let linked = host.run(["--state-dir", link.to_str().unwrap(), "run", "list", "--json"]);
    assert_eq!(linked.json(), json!([]));
    assert!(host.state_dir().join("host.db").is_file());
}

#[test]
fn a_database_that_is_none_is_told_at_once() {
    for content in [&b"noise, and not a database"[..], &[7; 8_192]] {
        let host = Host::new();
        std::fs::write(host.state_dir().join("host.db"), content).unwrap();
        let refused = host.run(["run", "list"]);
        assert_eq!(refused.code, 1, "{}", refused.stderr);
        assert!(refused.stderr.contains("file is not a database"), "{}", refused.stderr);
        // A pool of connections would try for ten seconds, and log each try.
        assert_eq!(refused.stderr.trim().lines().count(), 1, "{}", refused.stderr);
    }
}
