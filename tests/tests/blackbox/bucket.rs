//! Blobs in a bucket of S3.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use host_tests::{Bucket, Host, Postgres, Server, mnist_files, plugin, ran};
use serde_json::Value;

use crate::tracking::{assert_refused, start_run, use_mlflows_client};

/// A file that no packing makes smaller.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..bytes / 8).flat_map(|_| next().to_le_bytes()).collect()
}

/// The program, with blobs in `bucket` below `prefix`.
fn command(host: &Host, bucket: &Bucket, prefix: &str) -> Command {
    let mut command = host.command();
    command.envs(bucket.environment()).env("HOST_BLOBS", bucket.url(prefix));
    command
}

pub(crate) fn files_below(folder: std::path::PathBuf) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let count = |path: std::path::PathBuf| if path.is_dir() { files_below(path) } else { 1 };
    entries.map(|entry| count(entry.unwrap().path())).sum()
}

fn put_artifact(server: &Server, name: &str, content: &[u8]) -> host_tests::Answer {
    server.put(&format!("/api/2.0/mlflow-artifacts/artifacts/{name}"), content)
}

fn artifact(server: &Server, name: &str) -> host_tests::Answer {
    server.get(&format!("/api/2.0/mlflow-artifacts/artifacts/{name}"))
}

#[test]
fn mlflows_own_client_works_on_postgresql_and_s3() {
    let (host, postgres) = (Host::new(), Postgres::start());
    let server = host.server_with_bucket(Bucket::shared(), "client", ["--database", &postgres.url()]);
    use_mlflows_client(&server);
    assert_eq!(files_below(host.state_dir().join("blobs")), 0);
    assert!(!host.state_dir().join("host.db").exists());
}

#[test]
fn a_model_is_trained_and_served_from_s3() {
    let (host, bucket) = (Host::new(), Bucket::shared());
    let run = |arguments: &[&str]| ran(command(&host, bucket, "train").args(arguments).output().unwrap());
    run(&["data", "add", "mnist", &mnist_files()]).expect_success();
    let (before, after) = (plugin("mnist-pixels"), plugin("argmax-label"));
    let options = ["--train-rows", "500", "--rounds", "2"];
    let transformers = ["train", "--data", "mnist", "--preprocess", &before, "--postprocess", &after];
    run(&[&transformers[..], &options[..]].concat()).expect_success();
    let scored =
        || run(&["predict", "--model", "mnist", "--data", "mnist", "--split", "test"]).expect_success();
    let first = scored();
    assert_eq!(first.lines().count(), 10_000);
    // What is kept on this machine is a copy only.
    assert_eq!(files_below(host.state_dir().join("blobs")), 0);
    std::fs::remove_dir_all(host.state_dir().join("cache")).unwrap();
    assert_eq!(scored(), first);
}

#[test]
fn a_large_file_is_sent_in_parts_and_a_broken_upload_goes_on() {
    let (host, bucket) = (Host::new(), Bucket::shared());
    let content = noise(96 << 20);
    let file = host.state_dir().join("large.csv");
    // A table of one long text a row.
    let mut table = b"text\n".to_vec();
    for line in content.chunks(32 << 10) {
        table.extend(line.iter().map(|byte| b'a' + (byte & 15)));
        table.push(b'\n');
    }
    std::fs::write(&file, &table).unwrap();
    let add = || {
        let mut add = command(&host, bucket, "large");
        add.args(["-vv", "data", "add", "large"]).arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped());
        add
    };
    let mut child = add().spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let parts_sent = || {
        let journal = std::fs::read_dir(host.state_dir().join("uploads")).ok()?.next()?.ok()?;
        let upload: Value = serde_json::from_slice(&std::fs::read(journal.path()).ok()?).ok()?;
        upload["parts"].as_object().map(serde_json::Map::len)
    };
    while parts_sent().is_none_or(|parts| parts == 0) {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "no part was sent");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let again = ran(add().output().unwrap());
    assert!(again.stderr.contains("going on with an upload"), "{}", again.stderr);
    again.expect_success();
    assert_eq!(files_below(host.state_dir().join("uploads")), 0);
    std::fs::remove_dir_all(host.state_dir().join("cache")).unwrap();
    let shown =
        ran(command(&host, bucket, "large").args(["data", "show", "large", "--json"]).output().unwrap());
    let digest = shown.json()["files"][0]["digest"].as_str().unwrap().to_owned();
    // Half of it is here already.
    let partial = host.state_dir().join("cache/partial");
    std::fs::create_dir_all(&partial).unwrap();
    let hex = digest.strip_prefix("sha256:").unwrap();
    std::fs::write(partial.join(hex), &table[..table.len() / 2]).unwrap();
    let train = ["-vv", "train", "--data", "large", "--label", "text"];
    let trained = ran(command(&host, bucket, "large").args(train).output().unwrap());
    // Texts cannot be trained on, but they are read first.
    assert!(trained.stderr.contains("going on with a download"), "{}", trained.stderr);
    let copy = host.state_dir().join("cache/sha256").join(&hex[..2]).join(hex);
    assert!(std::fs::read(copy).unwrap() == table);
}

#[test]
fn an_object_that_was_changed_is_never_given_out() {
    let (host, bucket) = (Host::new(), Bucket::shared());
    let server = host.server_with_bucket(bucket, "changed", []);
    assert_eq!(put_artifact(&server, "a.txt", b"as it was").status, 200);
    assert_eq!(artifact(&server, "a.txt").body, "as it was");
    std::fs::remove_dir_all(host.state_dir().join("cache/sha256")).unwrap();
    let digest = host_tests::sha256(b"as it was");
    bucket.replace(&format!("changed/sha256/{}/{digest}", &digest[..2]), b"as it is!");
    let answer = artifact(&server, "a.txt");
    assert_refused(&answer, 500, "INTERNAL_ERROR");
    assert!(answer.body.contains("is damaged"), "{}", answer.body);
    assert_eq!(server.get("/health").body, "OK");
}

#[test]
fn a_bucket_that_is_gone_stops_artifacts_and_nothing_else() {
    let (host, mut bucket) = (Host::new(), Bucket::start());
    let server = host.server_with_bucket(&bucket, "gone", []);
    let run_id = start_run(&server);
    assert_eq!(put_artifact(&server, "before.txt", b"before").status, 200);
    bucket.stop();
    assert_refused(&put_artifact(&server, "during.txt", b"during"), 503, "TEMPORARILY_UNAVAILABLE");
    assert_refused(&artifact(&server, "during.txt"), 404, "RESOURCE_DOES_NOT_EXIST");
    let metric = format!(r#"{{"run_id": "{run_id}", "key": "loss", "value": 1, "timestamp": 1}}"#);
    assert_eq!(server.post("/api/2.0/mlflow/runs/log-metric", &metric).status, 200);
    bucket.restart();
    assert_eq!(put_artifact(&server, "during.txt", b"during").status, 200);
    assert_eq!(artifact(&server, "during.txt").body, "during");
    assert_eq!(artifact(&server, "before.txt").body, "before");
}

/// What a hostile server does to a connection.
pub(crate) type Treatment = fn(std::net::TcpStream);

/// Listens, and does to each connection what `treat` says.
fn hostile_s3(treat: Treatment) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || treat(connection));
        }
    });
    format!("http://{address}")
}

#[test]
fn a_bucket_that_fails_or_never_answers_is_told_in_time() {
    let kinds: [(&str, Treatment); 3] = [
        ("500", |connection| answer_always(connection, "500 Internal Server Error")),
        ("503", |connection| answer_always(connection, "503 Slow Down")),
        ("never", |mut connection| while connection.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}),
    ];
    std::thread::scope(|scope| {
        for (name, treat) in kinds {
            scope.spawn(move || {
                let (host, table) = (Host::new(), "x,label\n1,0\n2,1\n");
                let file = host.state_dir().join("table.csv");
                std::fs::write(&file, table).unwrap();
                let mut add = command(&host, Bucket::shared(), "hostile");
                add.env("AWS_ENDPOINT_URL", hostile_s3(treat));
                let added = ran(add.args(["data", "add", "table"]).arg(&file).output().unwrap());
                assert_eq!(added.code, 1, "{name}: {}", added.stderr);
                assert!(added.stderr.starts_with("error: failed to "), "{name}: {}", added.stderr);
                let listed = host.run(["data", "list", "--json"]).json();
                assert_eq!(listed, serde_json::json!([]), "{name}");
                assert_eq!(files_below(host.state_dir().join("temporary")), 0, "{name}");
            });
        }
    });
}

pub(crate) fn answer_always(mut connection: std::net::TcpStream, status: &str) {
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
    while connection.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {
        if connection.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Objects of a bucket in memory, each of which was written two days ago.
#[derive(Default)]
struct OldObjects {
    objects: BTreeMap<String, Vec<u8>>,
    /// Writes without a condition.
    rewritten: BTreeSet<String>,
}

/// Answers one request; none at the end of the connection.
fn answer_old(connection: &mut BufReader<std::net::TcpStream>, bucket: &Mutex<OldObjects>) -> Option<()> {
    let mut line = String::new();
    connection.read_line(&mut line).ok().filter(|&count| count > 0)?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.split('?').next()?.to_owned());
    let (mut length, mut is_create) = (0, false);
    loop {
        let mut header = String::new();
        connection.read_line(&mut header).ok()?;
        let Some((name, value)) = header.split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "if-none-match" => is_create = true,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body).ok()?;
    let mut bucket = bucket.lock().unwrap();
    let is_there = bucket.objects.contains_key(&path);
    let (status, found) = match method.as_str() {
        "PUT" if is_create && is_there => ("412 Precondition Failed", Vec::new()),
        "PUT" => {
            if !is_create {
                bucket.rewritten.insert(path.clone());
            }
            bucket.objects.insert(path, body);
            ("200 OK", Vec::new())
        }
        "GET" | "HEAD" if is_there => ("200 OK", bucket.objects[&path].clone()),
        _ => ("404 Not Found", Vec::new()),
    };
    let time = "last-modified: Mon, 02 Jan 2023 03:04:05 GMT\r\netag: \"e\"";
    let mut answer =
        format!("HTTP/1.1 {status}\r\n{time}\r\ncontent-length: {}\r\n\r\n", found.len()).into_bytes();
    if method == "GET" {
        answer.extend(found);
    }
    connection.get_mut().write_all(&answer).ok()
}

#[test]
fn an_old_object_that_is_put_again_becomes_young() {
    let bucket = Arc::new(Mutex::new(OldObjects::default()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let served = bucket.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let served = served.clone();
            std::thread::spawn(move || {
                let mut connection = BufReader::new(connection);
                while answer_old(&mut connection, &served).is_some() {}
            });
        }
    });
    let host = Host::new();
    let file = host.state_dir().join("table.csv");
    std::fs::write(&file, "x,label\n1,0\n2,1\n").unwrap();
    let run = |arguments: &[&str]| {
        let mut command = command(&host, Bucket::shared(), "old");
        ran(command.env("AWS_ENDPOINT_URL", &endpoint).args(arguments).output().unwrap()).expect_success()
    };
    let add = ["data", "add", "t", file.to_str().unwrap()];
    run(&add);
    let objects: Vec<String> = bucket.lock().unwrap().objects.keys().cloned().collect();
    assert!(bucket.lock().unwrap().rewritten.is_empty());
    assert_eq!(objects.iter().filter(|path| path.contains("/sha256/")).count(), 2, "{objects:?}");
    // Nothing names them any more, so whoever collects garbage sees only how old they are.
    run(&["data", "delete", "t@1"]);
    run(&add);
    let rewritten: Vec<String> = bucket.lock().unwrap().rewritten.iter().cloned().collect();
    let blobs: Vec<String> = objects.into_iter().filter(|path| path.contains("/sha256/")).collect();
    assert_eq!(rewritten, blobs);
}

#[test]
fn places_that_are_none_are_told_in_one_sentence() {
    let host = Host::new();
    for (url, expected) in [
        ("bucket", "found no URL"),
        ("http://127.0.0.1/bucket", "found a URL of `http`"),
        ("s3://key:secret@bucket", "credentials are taken from variables"),
        ("s3://", "found a URL without a bucket"),
        ("file://machine/folder", "without a folder of this machine"),
    ] {
        let refused = host.run(["--blobs", url, "data", "list"]);
        assert_eq!(refused.code, 2, "{url}");
        assert!(refused.stderr.starts_with("error: `--blobs`: expected `s3://"), "{}", refused.stderr);
        assert!(
            refused.stderr.contains(expected) && !refused.stderr.contains("secret"),
            "{}",
            refused.stderr
        );
    }
    let bucket = Bucket::shared();
    let mut server = host.command();
    server.envs(bucket.environment()).args(["--blobs", "s3://no-such-bucket", "server", "--port", "0"]);
    let refused = ran(server.output().unwrap());
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("failed to reach `s3://no-such-bucket`"), "{}", refused.stderr);
}
