//! Programs that are killed, restarted, or several at a time.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use host_tests::{Host, Postgres, Server};
use serde_json::{Value, json};

use super::{pair_of_points, refused, run, steps};
use crate::tracking::{api, assert_refused, post, start_run};

/// Sends batch after batch until the server is gone or `is_over`; gives how many were acknowledged.
fn write_until(address: &str, run_id: &str, key: &str, acknowledged: &AtomicI64, is_over: &AtomicBool) {
    let agent = host_tests::agent();
    let url = format!("http://{address}{}", api("runs/log-batch"));
    let mut number = 0;
    while !is_over.load(Ordering::SeqCst) {
        let batch = pair_of_points(run_id, key, number).to_string();
        match agent.post(&url).send(&batch) {
            Ok(answer) if answer.status() == 200 => {
                number += 1;
                acknowledged.store(number, Ordering::SeqCst);
            }
            Ok(mut answer) => {
                let (status, body) = (answer.status(), answer.body_mut().read_to_string().unwrap());
                assert_eq!(status, 503, "{body}");
                assert!(body.contains("TEMPORARILY_UNAVAILABLE"), "{body}");
            }
            // Killed.
            Err(_) => return,
        }
    }
}

/// All that was acknowledged is there, and of each batch all or nothing.
fn is_kept(server: &Server, run_id: &str, key: &str, acknowledged: i64) {
    let kept = steps(server, run_id, key);
    let expected: Vec<i64> = (0..kept.len() as i64).collect();
    assert_eq!(kept, expected, "{key}");
    assert!(kept.len() as i64 >= acknowledged * 2, "{key}: {} of {acknowledged} batches", kept.len() / 2);
    assert_eq!(kept.len() % 2, 0, "{key}: half a batch was kept");
}

fn wait_for(acknowledged: &AtomicI64, count: i64, is_over: &AtomicBool) {
    while acknowledged.load(Ordering::SeqCst) < count {
        assert!(!is_over.load(Ordering::SeqCst), "a writer ended by itself");
        std::thread::yield_now();
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9_on_postgresql() {
    let (host, postgres) = (Host::new(), Postgres::start());
    let url = postgres.url();
    let start = || host.server(["--database", &url]);
    let mut server = start();
    let run_id = start_run(&server);
    for round in 0..4 {
        let keys: Vec<String> = (0..3).map(|writer| format!("r{round}w{writer}")).collect();
        let counts: Vec<AtomicI64> = keys.iter().map(|_| AtomicI64::new(0)).collect();
        let is_over = AtomicBool::new(false);
        let address = server.address().to_owned();
        std::thread::scope(|scope| {
            for (key, count) in keys.iter().zip(&counts) {
                let (address, run_id, is_over) = (&address, &run_id, &is_over);
                scope.spawn(move || write_until(address, run_id, key, count, is_over));
            }
            wait_for(&counts[0], 15 + round * 7, &is_over);
            server.kill();
        });
        server = start();
        for (key, count) in keys.iter().zip(&counts) {
            is_kept(&server, &run_id, key, count.load(Ordering::SeqCst));
        }
    }
}

#[test]
fn a_database_that_restarts_under_load_loses_nothing() {
    let (host, postgres) = (Host::new(), Postgres::start());
    let server = host.server(["--database", &postgres.url()]);
    let run_id = start_run(&server);
    let keys = ["a", "b", "c"];
    let counts = [const { AtomicI64::new(0) }; 3];
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (key, count) in keys.iter().zip(&counts) {
            let (server, run_id, is_over) = (&server, &run_id, &is_over);
            scope.spawn(move || write_until(server.address(), run_id, key, count, is_over));
        }
        for round in 1..=3 {
            let reached: Vec<i64> = counts.iter().map(|count| count.load(Ordering::SeqCst)).collect();
            for (count, reached) in counts.iter().zip(reached) {
                wait_for(count, reached + 10, &is_over);
            }
            if round < 3 {
                postgres.restart();
            }
        }
        is_over.store(true, Ordering::SeqCst);
    });
    for (key, count) in keys.iter().zip(&counts) {
        is_kept(&server, &run_id, key, count.load(Ordering::SeqCst));
    }
}

#[test]
fn a_database_that_is_gone_is_told_and_artifacts_can_be_sent_again() {
    let (host, postgres) = (Host::new(), Postgres::start());
    let server = host.server(["--database", &postgres.url()]);
    let run_id = start_run(&server);
    postgres.stop();
    let batch = pair_of_points(&run_id, "a", 0).to_string();
    let artifact = "/api/2.0/mlflow-artifacts/artifacts/0/a.txt";
    std::thread::scope(|scope| {
        // Each waits a while for the database, so they wait together.
        let writing = scope.spawn(|| server.post(&api("runs/log-batch"), &batch));
        let reading = scope.spawn(|| server.get(&api(&format!("runs/get?run_id={run_id}"))));
        let storing = scope.spawn(|| server.put(artifact, b"a"));
        for answer in [writing, reading, storing] {
            assert_refused(&answer.join().unwrap(), 503, "TEMPORARILY_UNAVAILABLE");
        }
    });
    assert_eq!(server.get("/health").body, "OK");
    postgres.start_again();
    // A connection that broke meanwhile may be met once.
    let again = (0..10).find(|_| server.post(&api("runs/log-batch"), &batch).status == 200);
    assert!(again.is_some(), "the database is not found again");
    assert_eq!(server.put(artifact, b"a").status, 200);
    assert_eq!(steps(&server, &run_id, "a"), [0, 1]);
}

#[test]
fn servers_and_commands_share_one_file_of_sqlite() {
    let host = Host::new();
    let table = host.state_dir().join("t.csv");
    let rows: String =
        (0..60).map(|row| format!("{},{},{}\n", row % 7, row % 5, usize::from(row % 7 > 3))).collect();
    std::fs::write(&table, format!("a,b,label\n{rows}")).unwrap();
    let servers = [host.server([]), host.server([])];
    let run_id = start_run(&servers[0]);
    host.run(["data", "add", "t", table.to_str().unwrap()]).expect_success();
    let is_over = AtomicBool::new(false);
    let mut written = Vec::new();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (server, run_id, is_over) = (&servers[writer % 2], &run_id, &is_over);
                scope.spawn(move || {
                    let mut number = 0;
                    while !is_over.load(Ordering::SeqCst) {
                        // Fails where anything but 200 comes.
                        post(
                            server,
                            "runs/log-batch",
                            &pair_of_points(run_id, &format!("w{writer}"), number),
                        );
                        number += 1;
                    }
                    number
                })
            })
            .collect();
        let mut commands = Vec::new();
        for rounds in ["1", "2"] {
            let host = &host;
            commands.push(scope.spawn(move || {
                let train = ["train", "--data", "t", "--name", "shared", "--rounds", rounds, "--json"];
                host.run(train).expect_success();
                host.run(["run", "list", "--json"]).expect_success();
                host.run(["data", "tag", "t@1", &format!("tag{rounds}")]).expect_success();
                host.run(["model", "tag", "shared", &format!("rounds{rounds}=yes")]).expect_success();
            }));
        }
        let failed = commands.into_iter().any(|command| command.join().is_err());
        is_over.store(true, Ordering::SeqCst);
        written.extend(writers.into_iter().map(|writer| writer.join()));
        assert!(!failed, "a command failed");
    });
    for (writer, written) in written.into_iter().enumerate() {
        let written = written.expect("a writer failed");
        assert_eq!(steps(&servers[1], &run_id, &format!("w{writer}")).len() as i64, written * 2);
    }
    let models = host.run(["model", "list", "--json"]).json();
    assert_eq!(models[0]["versions"].as_array().unwrap().len(), 2);
    assert_eq!(models[0]["tags"], json!({ "rounds1": "yes", "rounds2": "yes" }));
}

#[test]
fn runs_that_are_deleted_or_unknown_take_nothing() {
    let host = Host::new();
    let server = host.server([]);
    let run_id = start_run(&server);
    let pair = |key: &str| json!({ "key": key, "value": "v" });
    post(&server, "runs/log-batch", &json!({ "run_id": run_id, "params": [pair("p")], "tags": [pair("t")] }));
    let changed = json!({ "run_id": run_id, "key": "p", "value": "other" });
    refused(&server.post(&api("runs/log-parameter"), &changed.to_string()));
    let before = run(&server, &run_id)["data"].clone();
    post(&server, "runs/delete", &json!({ "run_id": run_id }));
    let dataset = json!({ "dataset": { "name": "d", "digest": "1", "source_type": "s", "source": "s" } });
    let model = json!({ "model_id": "m-0", "step": 0 });
    let history = r#"{"artifact_path": "m", "flavors": {}, "utc_time_created": "x", "run_id": "x"}"#;
    let writes: [(&str, Value); 10] = [
        ("runs/log-metric", json!({ "key": "a", "value": 1, "timestamp": 1 })),
        ("runs/log-parameter", json!({ "key": "a", "value": "v" })),
        ("runs/set-tag", json!({ "key": "a", "value": "v" })),
        ("runs/delete-tag", json!({ "key": "t" })),
        ("runs/log-batch", json!({ "metrics": [{ "key": "a", "value": 1, "timestamp": 1 }] })),
        ("runs/log-batch", json!({ "tags": [pair("a")] })),
        ("runs/update", json!({ "run_name": "renamed" })),
        ("runs/log-inputs", json!({ "datasets": [dataset] })),
        ("runs/outputs", json!({ "models": [model] })),
        ("runs/log-model", json!({ "model_json": history })),
    ];
    for (path, mut body) in writes {
        body["run_id"] = json!(run_id);
        let answer = server.post(&api(path), &body.to_string());
        assert_eq!(answer.status, 400, "{path}: {}", answer.body);
        refused(&answer);
        body["run_id"] = json!("0".repeat(32));
        let answer = server.post(&api(path), &body.to_string());
        assert_eq!(answer.status, 404, "{path}: {}", answer.body);
        assert_refused(&answer, 404, "RESOURCE_DOES_NOT_EXIST");
    }
    post(&server, "runs/restore", &json!({ "run_id": run_id }));
    assert_eq!(run(&server, &run_id)["data"], before);
}

/// What two servers write at once to the same runs of one database is neither lost nor refused.
#[test]
fn two_servers_on_postgresql_agree() {
    let (host, postgres) = (Host::new(), Postgres::start());
    let start = || host.server(["--database", &postgres.url()]);
    let servers = [start(), start()];
    let [first, second] = &servers;
    let runs: Vec<String> = (0..4).map(|_| start_run(first)).collect();
    for key in (0..30).map(|trial| format!("m{trial}")) {
        let log = |server: &Server, step: i64| {
            let point = json!({ "run_id": runs[0], "key": key, "value": step, "timestamp": 1, "step": step });
            post(server, "runs/log-metric", &point);
        };
        log(first, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| log(first, 1));
            scope.spawn(|| log(second, 2));
        });
    }
    let newest = run(first, &runs[0])["data"]["metrics"].clone();
    let values: Vec<_> = newest.as_array().unwrap().iter().map(|metric| metric["value"].clone()).collect();
    assert_eq!(values, vec![json!(2.0); 30], "the newest point is that of the highest step");
    // In opposite orders, each holding what the other waits for.
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (server, runs) = (&servers[client % 2], &runs);
            scope.spawn(move || {
                for turn in 0..40 {
                    let place = if client % 2 == 0 { turn % 4 } else { 3 - turn % 4 };
                    let tag = json!({ "run_id": runs[place], "key": "t", "value": turn.to_string() });
                    post(server, "runs/set-tag", &tag);
                }
            });
        }
    });
    for run_id in &runs {
        let tags = run(second, run_id)["data"]["tags"].clone();
        assert!(tags.as_array().unwrap().iter().any(|tag| tag["key"] == "t"), "{tags}");
    }
}

#[test]
fn many_that_open_a_new_store_at_once_all_can() {
    for _ in 0..10 {
        let host = Host::new();
        let open = || {
            host.command()
                .args(["run", "list", "--json"])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
        };
        let opened: Vec<_> = (0..6).map(|_| open().unwrap()).collect();
        for process in opened {
            let output = process.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn a_program_ends_when_it_has_had_its_time_of_processors() {
    let parent = std::process::id().to_string();
    let endless = ["--processor", "1", "--", "sh", "-c", "while :; do :; done"];
    let status = Host::new().command().args(["job", "--parent", &parent]).args(endless).status().unwrap();
    assert_eq!(status.signal(), Some(24), "SIGXCPU");
}

#[test]
fn a_program_within_limits_starts_others_within_them() {
    let host = Host::new();
    let (parent, program) = (std::process::id().to_string(), host.command());
    // A shell that becomes another job, of the same parent.
    let inner = "exec \"$0\" job --parent $PPID --memory 2147483648 --processor 120 -- sh -c 'ulimit -Hd; ulimit -Ht'";
    let limits = ["--memory", "1073741824", "--processor", "60", "--", "sh", "-c", inner];
    let mut job = host.command();
    job.args(["job", "--parent", &parent]).args(limits).arg(program.get_program());
    let ran = job.output().unwrap();
    let printed = String::from_utf8_lossy(&ran.stdout);
    assert_eq!(printed.split_whitespace().collect::<Vec<_>>(), ["1048576", "61"], "{ran:?}");
}
