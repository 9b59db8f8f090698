//! What happens to requests of `host serve` under way: batches, queues, deadlines, kept answers, shadows, and what
//! `/metrics` says of them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use host_tests::{Answer, Server, guest};
use serde_json::{Value, json};

use super::endpoints::{ask, two_versions, wait_for};
use super::registry::Registry;

fn row(a: i64) -> String {
    json!({ "a": a, "b": 2 }).to_string()
}

/// A server of `digits@1` with the guest `picky`, whose calls take a while.
fn picky(registry: &Registry, work: u64, arguments: &[&str]) -> Server {
    let (file, config) = (guest("picky"), format!("picky={{\"work\":{work}}}"));
    let picky = ["--model", "digits@1", "--plugin", &file, "--config", &config];
    registry.host.serve(picky.into_iter().chain(arguments.iter().copied()))
}

/// The value of a series, whose labels are written as the exposition has them; 0 where there is none.
fn metric(server: &Server, series: &str) -> f64 {
    let text = server.get("/metrics").body;
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}

/// Labels of the only version that is served, after `more`.
fn labels(more: &str) -> String {
    format!("{{{more}endpoint=\"digits\",version=\"digits@1\"}}")
}

/// Asks for each row at the same time.
fn ask_together(server: &Server, rows: &[i64]) -> Vec<Answer> {
    std::thread::scope(|scope| {
        let asked: Vec<_> =
            rows.iter().map(|&a| scope.spawn(move || server.post("/serve/digits", &row(a)))).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    })
}

#[test]
fn requests_are_computed_together_and_a_bad_row_harms_only_its_own() {
    let registry = two_versions();
    let alone = picky(&registry, 0, &[]);
    let expected: Vec<String> = (0..24).map(|a| alone.post("/serve/digits", &row(a)).body).collect();
    assert!(expected.iter().any(|body| *body != expected[0]), "rows must be told apart");
    let together = picky(&registry, 20_000_000, &["--batch-rows", "16", "--batch-delay-us", "50000"]);
    // 255 makes the plugin panic.
    let rows: Vec<i64> = (0..24).chain([255]).collect();
    for _ in 0..3 {
        let answers = ask_together(&together, &rows);
        let (bad, good) = answers.split_last().unwrap();
        let found: Vec<&str> = good.iter().map(|answer| answer.body.as_str()).collect();
        assert_eq!(found, expected);
        assert_eq!((bad.status, &bad.json()["error"]["code"]), (500, &json!("plugin_fault")), "{}", bad.body);
    }
    assert_eq!(metric(&together, &format!("host_requests_total{}", labels(""))), 72.0);
    let batches = metric(&together, &format!("host_batch_rows_count{}", labels("")));
    assert!(batches < 72.0, "{batches} batches of 72 rows");
    assert_eq!(
        metric(&together, &format!("host_request_errors_total{}", labels("code=\"plugin_fault\","))),
        3.0
    );
    // Calls are counted: that of the batch has trapped, and of its halves one, and so on down to the bad row alone.
    let faults =
        "host_plugin_faults_total{endpoint=\"digits\",fault=\"trap\",plugin=\"picky\",version=\"digits@1\"}";
    assert!((6.0..=15.0).contains(&metric(&together, faults)), "{}", metric(&together, faults));
    let exposed = together.get("/metrics").body;
    let help = exposed.lines().find(|line| line.starts_with("# HELP host_plugin_faults_total ")).unwrap();
    assert!(help.contains("computed together"), "{help}");
}

/// The greatest of the scores in an answer.
fn greatest(answer: &Answer) -> f64 {
    let scores = answer.json()["scores"].clone();
    let scores = scores.as_array().cloned().unwrap_or_else(|| vec![scores]);
    scores.iter().map(|score| score.as_f64().unwrap()).fold(f64::NEG_INFINITY, f64::max)
}

#[test]
fn an_answer_with_other_columns_harms_only_its_own_row() {
    let registry = two_versions();
    let rows: Vec<i64> = (0..24).collect();
    let alone = registry.host.serve(["--model", "digits@1"]);
    let expected: Vec<Answer> = rows.iter().map(|&a| alone.post("/serve/digits", &row(a))).collect();
    let most = expected.iter().map(greatest).fold(f64::NEG_INFINITY, f64::max);
    let next = expected.iter().map(greatest).filter(|score| *score < most).fold(f64::NEG_INFINITY, f64::max);
    assert!(next.is_finite(), "rows must be told apart");
    let (file, config) = (guest("picky"), format!("picky={{\"renames_above\":{}}}", (most + next) / 2.0));
    let model = ["--model", "digits@1", "--postprocess", &file, "--config", &config];
    let batched = ["--batch-rows", "16", "--batch-delay-us", "50000"];
    let together = registry.host.serve(model.into_iter().chain(batched));
    for _ in 0..3 {
        for (answer, expected) in ask_together(&together, &rows).iter().zip(&expected) {
            if greatest(expected) < most {
                assert_eq!(answer, expected);
                continue;
            }
            let error = answer.json()["error"].clone();
            assert_eq!((answer.status, &error["code"]), (500, &json!("plugin_fault")), "{}", answer.body);
            let told = " broke the contract: it returned other columns than its bundle says: column `scoresforged` is \
                        unknown: expected `scores`";
            assert!(error["message"].as_str().unwrap().ends_with(told), "{error}");
        }
    }
    let fault = "fault=\"contract\",plugin=\"picky\",version=\"digits@1\"";
    assert!(metric(&together, &format!("host_plugin_faults_total{{endpoint=\"digits\",{fault}}}")) >= 3.0);
    let stopped = together.stop();
    assert!(!stopped.stderr.lines().any(|line| line.starts_with("forged")), "{}", stopped.stderr);
}

#[test]
fn features_with_other_columns_are_the_plugins_fault() {
    let registry = two_versions();
    // Half of an integer as a float that is hardly more than 0: this one is between 71 and 72.
    let (file, config) = (guest("picky"), "picky={\"renames_above\":1e-43}");
    let server = registry.host.serve(["--model", "digits@1", "--plugin", &file, "--config", config]);
    assert_eq!(server.post("/serve/digits", &row(1)).status, 200);
    let answer = server.post("/serve/digits", &row(200));
    let error = answer.json()["error"].clone();
    assert_eq!((answer.status, &error["code"]), (500, &json!("plugin_fault")), "{}", answer.body);
    let told = " broke the contract: it returned other columns than its bundle says: column `aforged` is unknown: \
                expected `a`, `b`";
    assert!(error["message"].as_str().unwrap().ends_with(told), "{error}");
    let fault = "fault=\"contract\",plugin=\"picky\",version=\"digits@1\"";
    assert_eq!(metric(&server, &format!("host_plugin_faults_total{{endpoint=\"digits\",{fault}}}")), 1.0);
}

#[test]
fn rows_that_depend_on_each_other_are_never_put_together() {
    let registry = two_versions();
    let (file, config) = (guest("misbehaving"), "misbehaving={\"behaviour\":\"none\"}");
    let arguments = [
        "--model",
        "digits@1",
        "--plugin",
        &file,
        "--config",
        config,
        "--batch-rows",
        "16",
        "--batch-delay-us",
        "50000",
    ];
    let server = registry.host.serve(arguments);
    let answers = ask_together(&server, &[1; 12]);
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!(metric(&server, &format!("host_batch_rows_count{}", labels(""))), 12.0);
}

#[test]
fn who_comes_when_too_many_wait_is_told_to_come_again() {
    let registry = two_versions();
    // Each call runs into its limit.
    let arguments = ["--concurrency", "1", "--queue", "1", "--plugin-call-max-ms", "1000"];
    let server = picky(&registry, u64::MAX >> 1, &arguments);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.post("/serve/digits", &row(1)));
        wait_for("nothing is computed", || metric(&server, "host_computing{endpoint=\"digits\"}") == 1.0);
        let (late, _) = server.post_with_headers("/serve/digits", &row(2), &[("x-request-timeout-ms", "50")]);
        assert_eq!(
            (late.status, &late.json()["error"]["code"]),
            (504, &json!("deadline_exceeded")),
            "{}",
            late.body
        );
        let second = scope.spawn(|| server.post("/serve/digits", &row(2)));
        wait_for("nobody waits", || metric(&server, "host_queue_depth{endpoint=\"digits\"}") == 1.0);
        let (third, headers) = server.post_with_headers("/serve/digits", &row(3), &[]);
        assert_eq!(
            (third.status, &third.json()["error"]["code"]),
            (429, &json!("queue_full")),
            "{}",
            third.body
        );
        assert_eq!(headers["retry-after"], "1");
        for answer in [first, second] {
            assert_eq!(answer.join().unwrap().json()["error"]["code"], "plugin_fault");
        }
    });
    let faults = "host_plugin_faults_total{endpoint=\"digits\",fault=\"time_limit\",plugin=\"picky\",version=\"digits@1\"}";
    assert_eq!(metric(&server, faults), 2.0);
    let (bad, _) = server.post_with_headers("/serve/digits", &row(1), &[("x-request-timeout-ms", "soon")]);
    assert_eq!(bad.status, 400, "{}", bad.body);
}

#[test]
fn the_client_s_time_runs_while_its_body_comes() {
    let registry = two_versions();
    let server = registry.host.serve(["--model", "digits"]);
    for never in ["4294967296", "9223372036854775807", "18446744073709551615"] {
        let (answer, _) =
            server.post_with_headers("/serve/digits", &row(1), &[("x-request-timeout-ms", never)]);
        assert_eq!(answer.status, 200, "{never}: {}", answer.body);
    }
    let tensor = |name: &str| json!({"name": name, "shape": [1], "datatype": "INT64", "data": [1]});
    let tensors = json!({"inputs": [tensor("a"), tensor("b")]}).to_string();
    for (path, body) in [
        ("/serve/digits", &row(1)),
        ("/endpoints/digits/invocations", &format!(r#"{{"dataframe_records": [{}]}}"#, row(1))),
        ("/v2/models/digits/infer", &tensors),
    ] {
        assert_eq!(server.post(path, body).status, 200, "{path}");
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nx-request-timeout-ms: 200\r\nexpect: 100-continue\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // The server says so when it has the head and asks for the body.
        let expected = "HTTP/1.1 100 Continue\r\n\r\n";
        let mut asked_for = vec![0; expected.len()];
        stream.read_exact(&mut asked_for).unwrap();
        assert_eq!(String::from_utf8_lossy(&asked_for), expected);
        std::thread::sleep(Duration::from_millis(250));
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 504 "), "{path}: {answer}");
    }
}

#[test]
fn kept_answers_are_given_again_until_another_version_answers() {
    let registry = two_versions();
    registry.run(&["model", "alias", "digits@1", "champion"]).expect_success();
    let server = registry.host.serve(["--model", "digits@champion", "--cache-mib", "4"]);
    let asked = |a: i64| {
        let (answer, headers) = server.post_with_headers("/serve/digits", &row(a), &[]);
        assert_eq!(answer.status, 200, "{}", answer.body);
        (answer.body, headers["x-cache"].clone(), headers["x-model-version"].clone())
    };
    let (first, cache, _) = asked(3);
    assert_eq!(cache, "miss");
    assert_eq!(asked(3), (first.clone(), "hit".to_owned(), "digits@1".to_owned()));
    assert_eq!(asked(4).1, "miss");
    registry.run(&["model", "alias", "digits@2", "champion"]).expect_success();
    wait_for("the alias is not followed", || ask(&server, "/serve/digits", &[]).1 == "digits@2");
    assert_ne!(asked(3).0, first);
    assert_eq!(asked(3).1, "hit");
    let looked_up = metric(
        &server,
        "host_cache_requests_total{endpoint=\"digits\",outcome=\"hit\",version=\"digits@2\"}",
    );
    assert!(looked_up >= 1.0, "{looked_up}");
    // What was kept was not computed again, so that it takes no part in how long that takes.
    let stage = |stage: &str| {
        let labels = format!("{{endpoint=\"digits\",stage=\"{stage}\",version=\"digits@2\"}}");
        metric(&server, &format!("host_stage_seconds_count{labels}"))
    };
    let computed = metric(&server, "host_batch_rows_count{endpoint=\"digits\",version=\"digits@2\"}");
    assert_eq!((stage("model"), stage("queue")), (computed, computed));
    assert!(stage("decode") > computed && stage("encode") > computed);
    assert!(metric(&server, "host_cache_bytes{endpoint=\"digits\"}") > 0.0);
}

#[test]
fn a_shadow_is_given_requests_and_only_compared() {
    let registry = two_versions();
    let server = registry.host.serve(["--model", "digits@1", "--shadow", "digits@2"]);
    let alone = registry.host.serve(["--model", "digits@1"]);
    let expected = ask(&alone, "/serve/digits", &[]);
    for _ in 0..5 {
        assert_eq!(ask(&server, "/serve/digits", &[]), expected);
    }
    let url = format!("http://{}", server.address());
    let shadow = || {
        let listed = registry.run(&["endpoint", "list", "--url", &url, "--json"]).json();
        listed["endpoints"][0]["shadows"][0].clone()
    };
    wait_for("the shadow has not answered", || shadow()["answers"]["different"] == 5);
    assert_eq!((&shadow()["version"], &shadow()["percent"]), (&json!(2), &json!(100)));
    assert_eq!(shadow()["answers"]["same"], 0);
    let table = registry.run(&["endpoint", "list", "--url", &url]).expect_success();
    assert!(table.contains("digits@2") && table.contains("shadow: 5 different"), "{table}");
    let difference = "host_shadow_difference_count{endpoint=\"digits\",version=\"digits@2\"}";
    assert_eq!(metric(&server, difference), 5.0);
    // Who is no shadow has no series of one.
    let of_shadows = server.get("/metrics").body;
    let mut of_shadows = of_shadows.lines().filter(|line| line.starts_with("host_shadow_"));
    assert!(of_shadows.all(|line| line.contains("version=\"digits@2\"")));
}

#[test]
fn what_a_shadow_is_compared_with_is_what_answers_now() {
    let registry = two_versions();
    registry.run(&["model", "alias", "digits@1", "champion"]).expect_success();
    let server = registry.host.serve(["--model", "digits@champion", "--shadow", "digits@2"]);
    let compared = || {
        let shadow = server.get("/serve").json()["endpoints"][0]["shadows"][0]["answers"].clone();
        [shadow["same"].as_u64().unwrap(), shadow["different"].as_u64().unwrap()]
    };
    for _ in 0..5 {
        assert_eq!(ask(&server, "/serve/digits", &[]).1, "digits@1");
    }
    wait_for("the shadow has not answered", || compared() == [0, 5]);
    registry.run(&["model", "alias", "digits@2", "champion"]).expect_success();
    wait_for("the alias is not followed", || ask(&server, "/serve/digits", &[]).1 == "digits@2");
    // A version that is kept is not what the endpoint answers.
    assert_eq!(ask(&server, "/serve/digits/1", &[]).1, "digits@1");
    for _ in 0..4 {
        ask(&server, "/serve/digits", &[]);
    }
    // It tells nothing of itself. One that was answered by the one before may just have been on its way.
    wait_for("what was compared before still counts", || compared()[1] < 5);
    assert_eq!(compared()[0], 0);
    let same = "host_shadow_requests_total{endpoint=\"digits\",outcome=\"same\",version=\"digits@2\"}";
    assert_eq!(metric(&server, same), 0.0);
    // Prometheus wants counts that never fall.
    let different =
        "host_shadow_requests_total{endpoint=\"digits\",outcome=\"different\",version=\"digits@2\"}";
    assert!(metric(&server, different) >= 5.0);
}

/// What promtool finds wrong with the metrics.
fn promtool(text: &str) -> String {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut checking = command.spawn().expect("promtool is there");
    checking.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = checking.wait_with_output().unwrap();
    let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    if output.status.success() { told } else { format!("{}: {told}", output.status) }
}

#[test]
fn metrics_are_what_prometheus_takes_and_what_has_happened() {
    let registry = two_versions();
    let server = picky(&registry, 0, &["--cache-mib", "1"]);
    // Rates need what was there before the first.
    for series in [
        format!("host_request_errors_total{}", labels("code=\"plugin_fault\",")),
        "host_refused_requests_total{code=\"not_found\"}".to_owned(),
        "host_plugin_faults_total{endpoint=\"digits\",fault=\"trap\",plugin=\"picky\",version=\"digits@1\"}"
            .to_owned(),
    ] {
        assert!(server.get("/metrics").body.contains(&format!("{series} 0\n")), "{series}");
    }
    for a in [1, 2, 2] {
        assert_eq!(server.post("/serve/digits", &row(a)).status, 200);
    }
    assert_eq!(server.post("/serve/digits", &format!("[{},{}]", row(5), row(6))).status, 200);
    assert_eq!(server.post("/serve/digits", "[]").status, 400);
    assert_eq!(server.post("/serve/digits", &row(255)).status, 500);
    assert_eq!(server.post("/serve/nothing", &row(1)).status, 404);
    let answer = server.get("/metrics");
    assert_eq!(promtool(&answer.body), "", "{}", answer.body);
    for (series, expected) in [
        (format!("host_requests_total{}", labels("")), 4.0),
        (format!("host_request_errors_total{}", labels("code=\"invalid_input\",")), 1.0),
        (format!("host_request_errors_total{}", labels("code=\"plugin_fault\",")), 1.0),
        ("host_refused_requests_total{code=\"not_found\"}".to_owned(), 1.0),
        (format!("host_request_seconds_count{}", labels("")), 4.0),
        (format!("host_request_rows_sum{}", labels("")), 5.0),
        (
            "host_stage_seconds_count{endpoint=\"digits\",stage=\"encode\",version=\"digits@1\"}".to_owned(),
            4.0,
        ),
        // One was kept, and not computed.
        (
            "host_stage_seconds_count{endpoint=\"digits\",stage=\"preprocess\",version=\"digits@1\"}".to_owned(),
            3.0,
        ),
        ("plugin_rows_seen_total{endpoint=\"digits\",version=\"digits@1\",plugin=\"picky\"}".to_owned(), 4.0),
        (
            "host_plugin_faults_total{endpoint=\"digits\",fault=\"trap\",plugin=\"picky\",version=\"digits@1\"}"
                .to_owned(),
            1.0,
        ),
    ] {
        assert_eq!(metric(&server, &series), expected, "{series} in\n{}", answer.body);
    }
    let buckets: Vec<f64> = answer
        .body
        .lines()
        .filter(|line| line.starts_with("host_request_seconds_bucket"))
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(buckets.is_sorted() && buckets.last() == Some(&4.0), "{buckets:?}");
}

/// Names of metrics that stand in an expression of Prometheus.
fn metrics_in(expression: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(|c: char| !is_part(c));
    words
        .filter(|word| word.starts_with("host_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_dashboard_asks_for_what_is_there() {
    let registry = two_versions();
    let server = picky(&registry, 0, &["--cache-mib", "1"]);
    for body in [row(1), row(255), "x".to_owned()] {
        server.post("/serve/digits", &body);
    }
    server.post("/serve/nobody", "{}");
    let shadowed = registry.host.serve(["--model", "digits@1", "--shadow", "digits@2"]);
    assert_eq!(shadowed.post("/serve/digits", &row(1)).status, 200);
    wait_for("the shadow has not answered", || {
        shadowed.get("/metrics").body.contains("outcome=\"different\"")
    });
    let endpoints = registry.host.state_dir().join("failing.yaml");
    let failing = "version: 1\nendpoints: { one: { model: digits@1 }, none: { model: digits@9 } }\n";
    std::fs::write(&endpoints, failing).unwrap();
    let failing = registry.host.serve(["--endpoints", endpoints.to_str().unwrap()]);
    let exposed: String =
        [&server, &shadowed, &failing].into_iter().map(|server| server.get("/metrics").body).collect();
    let file = host_tests::repository().join("docs/grafana-dashboard.json");
    let dashboard: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut asked = Vec::new();
    for target in
        dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap())
    {
        for name in metrics_in(target["expr"].as_str().unwrap()) {
            let is_there = exposed.lines().any(|line| line.starts_with(&name) && !line.starts_with('#'));
            assert!(is_there, "{name} in\n{exposed}");
            asked.push(name);
        }
    }
    assert!(asked.len() >= 20, "{asked:?}");
    for name in ["host_endpoint_failed", "host_endpoint_file_failed"] {
        assert!(asked.iter().any(|asked| asked == name), "{asked:?}");
    }
    // Also what was never loaded can be chosen.
    let chosen_from = dashboard["templating"]["list"][1]["query"]["query"].as_str().unwrap();
    assert!(chosen_from.contains("host_endpoint_failed"), "{chosen_from}");
}

#[test]
fn the_dashboard_holds_what_a_shadow_has_skipped_against_nobody() {
    let file = host_tests::repository().join("docs/grafana-dashboard.json");
    let dashboard: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let expressions = panels
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap());
    let agreeing: Vec<_> = expressions.filter(|expression| expression.contains("same|agrees")).collect();
    assert!(!agreeing.is_empty());
    for expression in agreeing {
        let (_, of_all) = expression.split_once(" / ").unwrap();
        assert!(of_all.contains("outcome!=\"skipped\""), "{expression}");
    }
}
