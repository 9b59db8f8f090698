//! A bucket that turns bad under a server that runs.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use host_tests::{Answer, Bucket, Host, Server, ran};
use serde_json::json;

use crate::bucket::{Treatment, answer_always, files_below};
use crate::endpoints::{ask, wait_for, write};
use crate::tracking::{assert_refused, post, start_run};

/// Longest time in which a server must say that its bucket does not answer.
const TOLD_MAX: Duration = Duration::from_secs(45);

/// Stands before a bucket: hands everything on until it is told to treat clients badly.
struct Gate {
    address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    treatment: Option<Treatment>,
    open: Vec<TcpStream>,
}

impl Gate {
    fn before(bucket: &Bucket) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let target = bucket.environment()[0].1.strip_prefix("http://").unwrap().to_owned();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let mut state = shared.lock().unwrap();
                state.open.push(client.try_clone().unwrap());
                match state.treatment {
                    Some(treat) => {
                        std::thread::spawn(move || treat(client));
                    }
                    None => {
                        let server = TcpStream::connect(&target).unwrap();
                        hand_on(client.try_clone().unwrap(), server.try_clone().unwrap());
                        hand_on(server, client);
                    }
                }
            }
        });
        Self { address, state }
    }

    fn turn(&self, treatment: Option<Treatment>) {
        let mut state = self.state.lock().unwrap();
        state.treatment = treatment;
        for open in state.open.drain(..) {
            let _ = open.shutdown(Shutdown::Both);
        }
    }
}

fn hand_on(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// Answers each request with bytes that never end, a few a second: of what was asked for, or of the answer's head.
fn trickle(mut connection: TcpStream) {
    let mut request = [0; 65_536];
    while connection.read(&mut request).is_ok_and(|count| count > 0) {
        let head = if request.starts_with(b"GET ") {
            "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\netag: \"x\"\r\n\
             last-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n"
        } else {
            "HTTP/1.1 200 OK\r\nx: "
        };
        let mut sent = connection.write_all(head.as_bytes());
        while sent.is_ok() {
            std::thread::sleep(Duration::from_millis(100));
            sent = connection.write_all(b"x");
        }
    }
}

fn put(server: &Server, name: &str, content: &[u8]) -> Answer {
    server.put(&format!("/api/2.0/mlflow-artifacts/artifacts/{name}"), content)
}

fn get(server: &Server, name: &str) -> Answer {
    server.get(&format!("/api/2.0/mlflow-artifacts/artifacts/{name}"))
}

fn unavailable(answer: &Answer) {
    assert_refused(answer, 503, "TEMPORARILY_UNAVAILABLE");
}

/// A bucket that treats clients so is told in time, leaves nothing, and is used again once it is better.
fn is_survived(name: &str, treat: Treatment) {
    let (host, bucket) = (Host::new(), Bucket::shared());
    let gate = Gate::before(bucket);
    let mut command = host.command();
    command.envs(bucket.environment()).env("AWS_ENDPOINT_URL", &gate.address);
    // Limits of time like any other's, but for machines that are near.
    command.env("AWS_TIMEOUT", "3s").env("AWS_READ_TIMEOUT", "1s");
    command.args(["--blobs", &bucket.url(&format!("turned/{name}"))]);
    let server = Server::start(command);
    let run_id = start_run(&server);
    assert_eq!(put(&server, "before.txt", b"before").status, 200);
    std::fs::remove_dir_all(host.state_dir().join("cache/sha256")).unwrap();
    std::fs::create_dir(host.state_dir().join("cache/sha256")).unwrap();
    gate.turn(Some(treat));
    let started = Instant::now();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| get(&server, "before.txt"));
        let small = scope.spawn(|| put(&server, "small.txt", b"small"));
        // Larger than what is sent in one request.
        let large = scope.spawn(|| put(&server, "large.bin", &vec![7; 17 << 20]));
        let waiting = [reading, small, large];
        let mut step = 0;
        while step < 20 || waiting.iter().any(|thread| !thread.is_finished()) {
            let point = json!({ "run_id": run_id, "key": "a", "value": step, "timestamp": 1, "step": step });
            let asked = Instant::now();
            post(&server, "runs/log-metric", &point);
            assert!(asked.elapsed() < Duration::from_secs(10), "{name}: metrics wait for the bucket");
            step += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        for thread in waiting {
            unavailable(&thread.join().unwrap());
        }
    });
    assert!(started.elapsed() < TOLD_MAX, "{name}: {:?}", started.elapsed());
    for file in ["small.txt", "large.bin"] {
        assert_refused(&get(&server, file), 404, "RESOURCE_DOES_NOT_EXIST");
    }
    assert_eq!(files_below(host.state_dir().join("temporary")), 0, "{name}");
    gate.turn(None);
    assert_eq!(get(&server, "before.txt").body, "before", "{name}");
    assert_eq!(put(&server, "small.txt", b"small").status, 200, "{name}");
    assert_eq!(get(&server, "small.txt").body, "small", "{name}");
}

#[test]
fn a_bucket_that_fails_is_told_in_time() {
    is_survived("500", |connection| answer_always(connection, "500 Internal Server Error"));
}

#[test]
fn a_bucket_that_has_no_time_is_told_in_time() {
    is_survived("503", |connection| answer_always(connection, "503 Slow Down"));
}

#[test]
fn a_bucket_that_never_answers_is_told_in_time() {
    is_survived(
        "never",
        |mut connection| while connection.read(&mut [0; 65_536]).is_ok_and(|count| count > 0) {},
    );
}

#[test]
fn a_bucket_that_trickles_is_told_in_time() {
    is_survived("trickle", trickle);
}

#[test]
fn a_bucket_that_hangs_up_is_told_in_time() {
    is_survived("hangs-up", drop);
}

#[test]
fn a_version_whose_store_does_not_answer_holds_up_no_other() {
    let (host, bucket) = (Host::new(), Bucket::shared());
    let gate = Gate::before(bucket);
    let command = || {
        let mut command = host.command();
        command.envs(bucket.environment()).env("HOST_BLOBS", bucket.url("slow"));
        // It would be told long after this test.
        command.env("AWS_TIMEOUT", "1h").env("AWS_READ_TIMEOUT", "1h").env("AWS_ENDPOINT_URL", &gate.address);
        command
    };
    let run = |arguments: &[&str]| ran(command().args(arguments).output().unwrap());
    let table = host.state_dir().join("t.csv");
    let rows: String = (0..60).map(|row| format!("{},{},{}\n", row % 7, row % 5, row % 2)).collect();
    std::fs::write(&table, format!("a,b,label\n{rows}")).unwrap();
    run(&["data", "add", "t", table.to_str().unwrap()]).expect_success();
    for rounds in ["1", "9", "5"] {
        run(&["train", "--data", "t", "--name", "digits", "--rounds", rounds]).expect_success();
    }
    let champion = |version: &str| run(&["model", "alias", version, "champion"]).expect_success();
    champion("digits@1");
    std::fs::remove_dir_all(host.state_dir().join("cache/sha256")).unwrap();
    let say = |others: &str| {
        write(&host, &format!("version: 1\nendpoints: {{ one: {{ model: digits@champion }}, {others} }}\n"))
    };
    let file = say("two: { model: digits@2 }");
    let server = Server::start_serve(command(), ["--endpoints", &file, "--model-control"]);
    let version = |endpoint: &str| ask(&server, &format!("/serve/{endpoint}"), &[]).1;
    gate.turn(Some(|mut connection| while connection.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}));
    // Nobody has the third here.
    say("two: { model: digits@2 }, three: { model: digits@3 }, four: { model: digits@1 }");
    wait_for("what stands behind it is not served", || version("four") == "digits@1");
    for moved in ["digits@2", "digits@1", "digits@2"] {
        champion(moved);
        wait_for("the alias is not followed", || version("one") == moved);
    }
    assert_eq!(server.post("/v2/repository/models/two/unload", "").status, 200);
    assert_eq!(ask(&server, "/serve/two", &[]).0, 404);
    assert_eq!(server.post("/v2/repository/models/two/load", "").status, 200);
    assert_eq!(version("two"), "digits@2");
    assert_eq!(
        (ask(&server, "/serve/three", &[]).0, &server.get("/serve").json()["failed"]),
        (404, &json!([]))
    );
    // What comes in its place does not wait for it, nor does the end.
    say("three: { model: digits@2 }");
    wait_for("what it should be by now is not served", || version("three") == "digits@2");
    wait_for("others are not removed", || ask(&server, "/serve/four", &[]).0 == 404);
    assert_eq!(server.stop().code, 0);
}
