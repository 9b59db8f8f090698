//! `host server`: experiments and runs over MLflow's REST API.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use host_tests::{Answer, Host, Postgres, Server, plugin, python, ran, repository};
use serde_json::{Value, json};

/// Path of an endpoint.
pub(crate) fn api(path: &str) -> String {
    format!("/api/2.0/mlflow/{path}")
}

pub(crate) fn post(server: &Server, path: &str, body: &Value) -> Value {
    let answer = server.post(&api(path), &body.to_string());
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.json()
}

/// Starts a run in the default experiment; gives its id.
pub(crate) fn start_run(server: &Server) -> String {
    let run = post(server, "runs/create", &json!({ "experiment_id": "0", "start_time": 1 }));
    run["run"]["info"]["run_id"].as_str().unwrap().to_owned()
}

/// Status, code and message of an error in MLflow's shape.
fn refusal(answer: &Answer) -> (u16, String, String) {
    let error = answer.json();
    let text = |name: &str| error[name].as_str().unwrap_or_else(|| panic!("{}", answer.body)).to_owned();
    (answer.status, text("error_code"), text("message"))
}

pub(crate) fn assert_refused(answer: &Answer, status: u16, code: &str) {
    let (found, found_code, message) = refusal(answer);
    assert_eq!((found, found_code.as_str()), (status, code), "{message}");
}

pub(crate) fn use_mlflows_client(server: &Server) {
    let output = Command::new(python())
        .arg("-W")
        .arg("ignore")
        .arg(repository().join("tests/python/mlflow_client.py"))
        .env("MLFLOW_TRACKING_URI", format!("http://{}", server.address()))
        .output()
        .unwrap();
    let printed = ran(output).expect_success();
    assert!(printed.ends_with("all as MLflow would\n"), "{printed}");
}

#[test]
fn mlflows_own_client_works_on_sqlite() {
    let host = Host::new();
    use_mlflows_client(&host.server([]));
}

#[test]
fn mlflows_own_client_works_on_postgresql() {
    let (host, postgres) = (Host::new(), Postgres::start());
    use_mlflows_client(&host.server(["--database", &postgres.url()]));
    assert!(!host.state_dir().join("host.db").exists());
}

#[test]
fn tells_its_version_and_health() {
    let host = Host::new();
    let server = host.server([]);
    assert_eq!(server.get("/health").body, "OK");
    assert!(server.get("/version").body.starts_with("3."));
    for prefix in ["/api/3.0", "/ajax-api/3.0"] {
        assert_eq!(server.get(&format!("{prefix}/mlflow/server-info")).json()["store_type"], "SqlStore");
    }
    let same = server.post("/ajax-api/2.0/mlflow/experiments/search", r#"{"max_results": 1}"#);
    assert_eq!(same.json()["experiments"][0]["name"], "Default");
    assert_refused(&server.get("/api/2.0/mlflow/none"), 404, "ENDPOINT_NOT_FOUND");
    assert_refused(&server.get(&api("runs/create")), 404, "ENDPOINT_NOT_FOUND");
}

#[test]
fn a_batch_is_all_or_nothing_and_harmless_to_repeat() {
    let host = Host::new();
    let server = host.server([]);
    let run_id = start_run(&server);
    let point = |step: i64| json!({ "key": "loss", "value": 0.5, "timestamp": 7, "step": step });
    let batch = json!({ "run_id": run_id, "metrics": [point(1), point(2)], "params": [{ "key": "a", "value": "1" }] });
    post(&server, "runs/log-batch", &batch);
    post(&server, "runs/log-batch", &batch);
    let history = || {
        let answer = server.get(&api(&format!("metrics/get-history?run_id={run_id}&metric_key=loss"))).json();
        answer["metrics"]
            .as_array()
            .unwrap()
            .iter()
            .map(|point| point["step"].as_i64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(history(), [1, 2]);
    let changed = json!({ "run_id": run_id, "metrics": [point(3)], "params": [{ "key": "a", "value": "2" }],
        "tags": [{ "key": "t", "value": "x" }] });
    assert_refused(
        &server.post(&api("runs/log-batch"), &changed.to_string()),
        400,
        "INVALID_PARAMETER_VALUE",
    );
    assert_eq!(history(), [1, 2]);
    let run = server.get(&api(&format!("runs/get?run_id={run_id}"))).json();
    assert_eq!(run["run"]["data"]["params"], json!([{ "key": "a", "value": "1" }]));
    assert!(!run.to_string().contains("\"t\""), "{run}");
}

#[test]
fn keeps_to_mlflows_limits() {
    let host = Host::new();
    let server = host.server([]);
    let run_id = start_run(&server);
    let metrics = |count: usize| {
        (0..count)
            .map(|step| json!({ "key": "m", "value": 1, "timestamp": 1, "step": step }))
            .collect::<Vec<_>>()
    };
    let pairs = |count: usize| {
        (0..count).map(|key| json!({ "key": format!("k{key}"), "value": "v" })).collect::<Vec<_>>()
    };
    post(&server, "runs/log-batch", &json!({ "run_id": run_id, "metrics": metrics(1_000) }));
    for body in [
        json!({ "run_id": run_id, "metrics": metrics(1_001) }),
        json!({ "run_id": run_id, "params": pairs(101) }),
        json!({ "run_id": run_id, "tags": pairs(101) }),
        json!({ "run_id": run_id, "metrics": metrics(950), "params": pairs(51) }),
        json!({ "run_id": run_id, "params": [{ "key": "a", "value": "1" }, { "key": "a", "value": "1" }] }),
    ] {
        assert_refused(
            &server.post(&api("runs/log-batch"), &body.to_string()),
            400,
            "INVALID_PARAMETER_VALUE",
        );
    }
}

#[test]
fn refuses_bad_requests_in_mlflows_shape() {
    let host = Host::new();
    let server = host.server([]);
    let run_id = start_run(&server);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let metric =
        |value: &str| format!(r#"{{"run_id": "{run_id}", "key": "a", "value": {value}, "timestamp": 1}}"#);
    for body in [
        "",
        "{",
        "[]",
        "null",
        "\u{1}",
        r#"{"run_id": 7}"#,
        r#"{"run_id": "x", "run_id": "y", "metrics": []}"#,
        &deep,
        &format!(r#"{{"run_id": "{run_id}", "metrics": "no"}}"#),
        &format!(r#"{{"run_id": "{run_id}", "metrics": [{{"key": "a"}}]}}"#),
    ] {
        let answer = server.post(&api("runs/log-batch"), body);
        assert_refused(&answer, 400, "INVALID_PARAMETER_VALUE");
    }
    for value in ["true", "\"one\"", "null", "[]", "\"1e999\""] {
        assert_refused(&server.post(&api("runs/log-metric"), &metric(value)), 400, "INVALID_PARAMETER_VALUE");
    }
    for key in ["../x", "/x", "x//y", "a\\u0000b", "a\\nb", "a;b", ""] {
        let body = format!(r#"{{"run_id": "{run_id}", "key": "{key}", "value": 1, "timestamp": 1}}"#);
        assert_refused(&server.post(&api("runs/log-metric"), &body), 400, "INVALID_PARAMETER_VALUE");
    }
    let unknown = json!({ "run_id": "0".repeat(32), "key": "a", "value": 1, "timestamp": 1 }).to_string();
    assert_refused(&server.post(&api("runs/log-metric"), &unknown), 404, "RESOURCE_DOES_NOT_EXIST");
    for location in
        ["file:///etc", "/etc", "s3://bucket/x", "mlflow-artifacts:/../x", "mlflow-artifacts:/%2e%2e/x"]
    {
        let body = json!({ "name": "x", "artifact_location": location }).to_string();
        assert_refused(&server.post(&api("experiments/create"), &body), 400, "INVALID_PARAMETER_VALUE");
    }
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn artifact_paths_stay_names() {
    let host = Host::new();
    let server = host.server([]);
    let artifacts = |path: &str| format!("/api/2.0/mlflow-artifacts/artifacts/{path}");
    assert_eq!(server.put(&artifacts("0/a/b.txt"), b"hello").status, 200);
    assert_eq!(server.get(&artifacts("0/a/b.txt")).body, "hello");
    for path in [
        "..",
        "../x",
        "0/../../x",
        "%2e%2e/x",
        "%2e%2e%2fx",
        "%252e%252e/x",
        "0/%2e%2e/x",
        "C:/x",
        "C%3A/x",
        "..;/x",
        "0/..%3Bx/y",
        "0/%252e%252e/x",
        "0%252fx",
        "0%2500x",
        "%c0%ae%c0%ae/x",
        "0%23x",
        "0%3Fx",
        "0%00x",
        "0%5Cx",
        "%2Fetc/passwd",
        "0//x",
        "0/./x",
        "%ff",
        "0%0Ax",
        &"x".repeat(5_000),
    ] {
        for answer in [server.put(&artifacts(path), b"x"), server.get(&artifacts(path))] {
            let (status, code, _) = refusal(&answer);
            assert!(matches!(status, 400 | 404), "{path}: {status} {code}");
        }
        let list = server.get(&format!("/api/2.0/mlflow-artifacts/artifacts?path={path}"));
        assert!(list.status == 400 || list.json()["files"] == json!([]), "{path}: {}", list.body);
    }
    let listed = server.get("/api/2.0/mlflow-artifacts/artifacts?path=0").json();
    assert_eq!(listed, json!({ "files": [{ "path": "a", "is_dir": true }] }));
    assert_refused(&server.put(&artifacts("0/a"), b"x"), 400, "INVALID_PARAMETER_VALUE");
    assert_refused(&server.put(&artifacts("0/a/b.txt/c"), b"x"), 400, "INVALID_PARAMETER_VALUE");
    let mut names: Vec<_> =
        std::fs::read_dir(host.state_dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let names: Vec<_> =
        names.iter().map(|name| name.to_str().unwrap()).filter(|name| !name.starts_with("host.db")).collect();
    assert_eq!(names, ["blobs", "known-files", "temporary", "windows"]);
}

#[test]
fn two_servers_share_one_store() {
    let host = Host::new();
    let (one, other) = (host.server([]), host.server([]));
    let run_id = start_run(&one);
    std::thread::scope(|scope| {
        for (part, server) in [&one, &other].into_iter().enumerate() {
            let run_id = &run_id;
            scope.spawn(move || {
                for step in 0..50 {
                    let body = json!({ "run_id": run_id, "key": format!("m{part}"), "value": step, "timestamp": 1, "step": step });
                    post(server, "runs/log-metric", &body);
                }
            });
        }
    });
    let run = other.get(&api(&format!("runs/get?run_id={run_id}"))).json();
    let values: Vec<_> = run["run"]["data"]["metrics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|metric| metric["value"].as_f64())
        .collect();
    assert_eq!(values, [Some(49.0), Some(49.0)]);
}

/// Writes as fast as it can until the server is killed; what was acknowledged must be there afterwards, and of what
/// was not, all or nothing.
#[test]
fn what_was_acknowledged_survives_kill_9() {
    let host = Host::new();
    let mut server = host.server([]);
    let run_id = start_run(&server);
    for round in 0..5_u64 {
        let acknowledged = AtomicU64::new(0);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (address, run_id, acknowledged) =
                (server.address().to_owned(), run_id.clone(), &acknowledged);
            let is_over = &is_over;
            scope.spawn(move || {
                let agent = host_tests::agent();
                for number in 0.. {
                    let point = |half: i64| json!({ "key": format!("r{round}"), "value": 1, "timestamp": 1, "step": number * 2 + half });
                    let body = json!({ "run_id": run_id, "metrics": [point(0), point(1)] }).to_string();
                    match agent.post(format!("http://{address}{}", api("runs/log-batch"))).send(&body) {
                        Ok(response) if response.status() == 200 => {
                            acknowledged.store(number as u64 + 1, Ordering::SeqCst);
                        }
                        _ => break,
                    }
                }
                is_over.store(true, Ordering::SeqCst);
            });
            while acknowledged.load(Ordering::SeqCst) < 20 + round * 7 {
                assert!(!is_over.load(Ordering::SeqCst), "the server stopped answering by itself");
                std::thread::yield_now();
            }
            server.kill();
        });
        server = host.server([]);
        let answer =
            server.get(&api(&format!("metrics/get-history?run_id={run_id}&metric_key=r{round}"))).json();
        let points = answer["metrics"].as_array().unwrap().len() as u64;
        let acknowledged = acknowledged.load(Ordering::SeqCst);
        assert!(points >= acknowledged * 2, "{points} points, {acknowledged} batches acknowledged");
        assert_eq!(points % 2, 0, "half a batch was kept");
    }
}

#[test]
fn a_database_that_restarts_is_found_again() {
    let (host, postgres) = (Host::new(), Postgres::start());
    let server = host.server(["--database", &postgres.url()]);
    let run_id = start_run(&server);
    let body = |step: i64| {
        json!({ "run_id": run_id, "key": "a", "value": 1, "timestamp": 1, "step": step }).to_string()
    };
    assert_eq!(server.post(&api("runs/log-metric"), &body(1)).status, 200);
    postgres.restart();
    // The first write may meet the connection that broke.
    let first = server.post(&api("runs/log-metric"), &body(2));
    if first.status != 200 {
        assert_refused(&first, 503, "TEMPORARILY_UNAVAILABLE");
    }
    assert_eq!(server.post(&api("runs/log-metric"), &body(2)).status, 200);
    let answer = server.get(&api(&format!("metrics/get-history?run_id={run_id}&metric_key=a"))).json();
    assert_eq!(answer["metrics"].as_array().unwrap().len(), 2);
}

#[test]
fn a_server_without_its_database_says_so() {
    let host = Host::new();
    let refused = |url: &str| host.run(["server", "--port", "0", "--database", url]).failure(&host);
    insta::assert_snapshot!(refused("postgres://me:secret@127.0.0.1:1/x"), @r"
    exit 1
    error: failed to open the database `postgres://127.0.0.1:1/x`: the database cannot be reached: error communicating with database: Connection refused (os error 111)
    ");
    insta::assert_snapshot!(refused("mysql://me:secret@h/x"), @r"
    exit 2
    error: `--database`: expected `postgres://user:password@machine:port/database`, found a URL of `mysql`
    ");
}

#[test]
fn a_damaged_database_is_told_with_its_place_and_a_way_out() {
    let host = Host::new();
    host.run(["model", "list"]).expect_success();
    let file = host.state_dir().join("host.db");
    std::fs::write(&file, "no database\n".repeat(1_000)).unwrap();
    // What is there would be put back from its log.
    for log in ["host.db-wal", "host.db-shm"] {
        _ = std::fs::remove_file(host.state_dir().join(log));
    }
    let ran = host.run(["model", "list"]);
    let told = format!(
        "failed to open the database `{}`: the database is damaged: put back a backup",
        file.display()
    );
    assert!(ran.code == 1 && ran.stderr.contains(&told), "{}: {}", ran.code, ran.stderr);
}

#[test]
fn samples_long_histories_evenly() {
    let host = Host::new();
    let server = host.server([]);
    let run_id = start_run(&server);
    for part in 0..5 {
        let metrics: Vec<_> = (0..1_000)
            .map(|step| json!({ "key": "a", "value": part * 1_000 + step, "timestamp": 1, "step": part * 1_000 + step }))
            .collect();
        post(&server, "runs/log-batch", &json!({ "run_id": run_id, "metrics": metrics }));
    }
    let sample = |more: &str| {
        let path = format!("metrics/get-history-bulk-interval?run_ids={run_id}&metric_key=a{more}");
        let answer = server.get(&api(&path)).json();
        answer["metrics"]
            .as_array()
            .unwrap()
            .iter()
            .map(|point| point["step"].as_i64().unwrap())
            .collect::<Vec<_>>()
    };
    let ten = sample("&max_results=10");
    assert_eq!(ten.len(), 10);
    assert_eq!((ten[0], ten[9]), (0, 4_999));
    assert!(ten.windows(2).all(|pair| (540..=570).contains(&(pair[1] - pair[0]))), "{ten:?}");
    assert_eq!(sample("&max_results=1"), [4_999]);
    assert_eq!(sample("&start_step=10&end_step=12&max_results=100"), [10, 11, 12]);
    let mut pages = Vec::new();
    let mut token = String::new();
    loop {
        let path =
            format!("metrics/get-history?run_id={run_id}&metric_key=a&max_results=2000&page_token={token}");
        let page = server.get(&api(&path)).json();
        pages.push(page["metrics"].as_array().unwrap().len());
        match page["next_page_token"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(pages, [2_000, 2_000, 1_000]);
}

#[test]
fn a_training_reports_to_a_run() {
    let host = Host::trained();
    let (before, after) = (plugin("mnist-pixels"), plugin("argmax-label"));
    let arguments = [
        "train",
        "--data",
        "mnist",
        "--preprocess",
        &before,
        "--postprocess",
        &after,
        "--train-rows",
        "500",
        "--rounds",
        "4",
        "--name",
        "reported",
        "--experiment",
        "digits",
        "--run-name",
        "small",
        "--json",
    ];
    let trained = host.run(arguments).json();
    let run_id = trained["run_id"].as_str().unwrap();
    let server = host.server([]);
    let run = &server.get(&api(&format!("runs/get?run_id={run_id}"))).json()["run"];
    assert_eq!((&run["info"]["status"], &run["info"]["run_name"]), (&json!("FINISHED"), &json!("small")));
    let of = |kind: &str, key: &str| {
        let all = run["data"][kind].as_array().unwrap();
        all.iter().find(|one| one["key"] == key).map(|one| one["value"].clone()).unwrap_or_default()
    };
    assert_eq!(of("params", "rounds"), "4");
    assert_eq!(of("params", "objective"), "multi:softprob");
    assert_eq!(of("tags", "host.bundle"), trained["bundle"]);
    assert_eq!(of("tags", "host.dataset"), "mnist@1");
    assert!(of("tags", "host.plugin.mnist-pixels").as_str().unwrap().starts_with("sha256:"));
    assert_eq!(of("metrics", "test_accuracy"), trained["metrics"]["accuracy"]);
    assert!(of("metrics", "system/system_memory_usage_megabytes").as_f64().unwrap() > 1.0);
    assert_eq!(run["inputs"]["dataset_inputs"][0]["dataset"]["name"], "mnist");
    let history =
        server.get(&api(&format!("metrics/get-history?run_id={run_id}&metric_key=test-mlogloss"))).json();
    let steps: Vec<_> =
        history["metrics"].as_array().unwrap().iter().map(|point| point["step"].clone()).collect();
    assert_eq!(steps, [1, 2, 3, 4]);
    let files = server.get(&api(&format!("artifacts/list?run_id={run_id}"))).json();
    let files: Vec<_> = files["files"].as_array().unwrap().iter().map(|file| file["path"].clone()).collect();
    assert_eq!(files, ["bundle", "confusion.json", "evaluation.json"]);
    let listed = host.run(["run", "list", "--experiment", "digits"]).expect_success();
    assert!(listed.contains("small") && listed.contains("finished"), "{listed}");
    let shown = host.run(["run", "show", "small"]).expect_success();
    assert!(shown.contains("test-mlogloss") && shown.contains('█'), "{shown}");
    let compared = host.run(["run", "compare", "small", &run_id[..8]]).expect_success();
    assert!(compared.contains("test_accuracy"), "{compared}");
    let watched = host.run(["run", "watch", "small"]).expect_success();
    assert!(watched.contains("test_accuracy"), "{watched}");
}

#[test]
fn a_training_that_fails_is_recorded_as_failed() {
    let host = Host::new();
    let file = host.state_dir().join("t.csv");
    std::fs::write(&file, "a,label\n1,0\n2,1\n3,0\n4,1\n5,0\n6,1\n7,0\n8,1\n9,0\n10,1\n").unwrap();
    host.run(["data", "add", "t", file.to_str().unwrap()]).expect_success();
    let mut train = host.command();
    train.args(["train", "--data", "t"]).env("HOST_XGBOOST_LIBRARY", host.state_dir().join("none.so"));
    let failed = ran(train.output().unwrap());
    assert_ne!(failed.code, 0, "{}", failed.stdout);
    let runs = host.run(["run", "list", "--json"]).json();
    let status: Vec<_> = runs.as_array().unwrap().iter().map(|run| run["info"]["status"].clone()).collect();
    assert_eq!(status, ["FAILED"]);
}

#[test]
fn a_long_history_is_sampled_evenly_whatever_its_steps_are() {
    let host = Host::new();
    let server = host.server([]);
    let run_id = start_run(&server);
    let count = 60_000_u64;
    let log = |key: &str, step: fn(u64) -> u64| {
        for batch in 0..count / 1_000 {
            let points: Vec<Value> = (batch * 1_000..(batch + 1) * 1_000)
                .map(|point| json!({ "key": key, "value": point, "timestamp": point, "step": step(point) }))
                .collect();
            post(&server, "runs/log-batch", &json!({ "run_id": run_id, "metrics": points }));
        }
    };
    // One step a point; all but the last at the same step; all close together but the last.
    log("even", |point| point * 3);
    log("flat", |point| u64::from(point == 59_999));
    log("gap", |point| if point == 59_999 { 1 << 40 } else { point });
    for key in ["even", "flat", "gap"] {
        let sample = |limit: usize| {
            let query = format!("run_ids={run_id}&metric_key={key}&max_results={limit}");
            let answer = server.get(&api(&format!("metrics/get-history-bulk-interval?{query}"))).json();
            let points = answer["metrics"].as_array().unwrap().clone();
            points.iter().map(|point| point["value"].as_f64().unwrap() as u64).collect::<Vec<_>>()
        };
        let points = sample(320);
        assert_eq!((points.len(), points[0], points[319]), (320, 0, count - 1), "{key}");
        let widest = points.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(widest <= 2 * count / 320, "{key}: {widest}");
        assert_eq!(sample(1), [count - 1], "{key}");
    }
}
