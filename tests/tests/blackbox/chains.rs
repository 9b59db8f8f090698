//! Endpoints that are made of others.

use host_tests::{Host, Server};
use serde_json::{Value, json};

use super::endpoints::{ask, two_versions, wait_for, write};
use super::registry::Registry;

const FILE: &str = "version: 1
endpoints:
  one: { model: digits@1 }
  two: { model: digits@champion }
  mean: { ensemble: [one, { endpoint: two, weight: 3 }] }
  pick: { switch: { column: a, cases: { 1: one, 2: two }, default: { sequence: [one] } } }
  routed: { sequence: [one, { switch: { column: scores, cases: { never: two }, default: two } }] }
  strict: { switch: { column: kind, cases: { x: one, y: two } } }
";

fn served(registry: &Registry) -> (Server, String) {
    registry.run(&["model", "alias", "digits@2", "champion"]).expect_success();
    let file = write(&registry.host, FILE);
    (registry.host.serve(["--endpoints", &file]), file)
}

fn scores(server: &Server, endpoint: &str, rows: &Value) -> Vec<f64> {
    let answer = server.post(&format!("/serve/{endpoint}"), &rows.to_string());
    assert_eq!(answer.status, 200, "{endpoint}: {}", answer.body);
    let told = answer.json();
    told.as_array().unwrap().iter().map(|row| row["scores"][0].as_f64().unwrap()).collect()
}

#[test]
fn endpoints_are_asked_one_after_the_other_by_column_or_all() {
    let registry = two_versions();
    let (server, _) = served(&registry);
    let rows = json!([{ "a": 1, "b": 2 }, { "a": 2, "b": 4 }, { "a": 5, "b": 1 }, { "a": 2, "b": 0 }]);
    let (one, two) = (scores(&server, "one", &rows), scores(&server, "two", &rows));
    assert_ne!(one, two);
    let mean: Vec<f64> = scores(&server, "mean", &rows);
    for ((mean, one), two) in mean.iter().zip(&one).zip(&two) {
        assert!((mean - (one + 3.0 * two) / 4.0).abs() < 1e-6, "{mean} {one} {two}");
    }
    assert_eq!(scores(&server, "pick", &rows), [one[0], two[1], one[2], two[3]]);
    assert_eq!(scores(&server, "routed", &rows), two, "what was made before decides, whatever its type");
    let strict = json!([{ "a": 1, "b": 2, "kind": "y" }, { "a": 1, "b": 2, "kind": "x" }]);
    assert_eq!(scores(&server, "strict", &strict), [two[0], one[0]]);
    let unknown = server.post("/serve/strict", r#"{"a": 1, "b": 2, "kind": "z"}"#);
    assert_eq!(
        (unknown.status, &unknown.json()["error"]["message"]),
        (400, &json!("row 0, column `kind`: expected one of `x`, `y`, found `z`"))
    );
    let place = |endpoint: &str, rows: Value| {
        let error = server.post(&format!("/serve/{endpoint}"), &rows.to_string()).json()["error"].clone();
        (error["row"].clone(), error["column"].clone())
    };
    let strange = json!([{ "a": 1, "b": 2, "kind": "x" }, { "a": 1, "b": 2, "kind": "z" }]);
    assert_eq!(place("strict", strange), (json!(1), json!("kind")));
    // Who answered is told: all of an ensemble, and of a switch those that had rows.
    let versions = |endpoint: &str, body: &str| {
        let (answer, headers) = server.post_with_headers(&format!("/serve/{endpoint}"), body, &[]);
        assert_eq!(answer.status, 200, "{}", answer.body);
        headers["x-model-version"].clone()
    };
    assert_eq!(versions("mean", r#"{"a": 1, "b": 2}"#), "digits@1, digits@2");
    assert_eq!(versions("pick", r#"{"a": 2, "b": 2}"#), "digits@2");
    // The protocol's clients can ask them too.
    let metadata = server.get("/v2/models/strict").json();
    let inputs: Vec<_> = metadata["inputs"].as_array().unwrap().iter().map(|input| &input["name"]).collect();
    assert_eq!(inputs, ["a", "b", "kind"]);
}

#[test]
fn what_endpoints_are_made_of_is_listed() {
    let registry = two_versions();
    let (server, _) = served(&registry);
    let told = server.get("/serve").json();
    let graph = |name: &str| {
        let endpoints = told["endpoints"].as_array().unwrap();
        endpoints.iter().find(|endpoint| endpoint["name"] == name).unwrap()["graph"].clone()
    };
    let members = json!([{ "endpoint": "one", "weight": 1.0 }, { "endpoint": "two", "weight": 3.0 }]);
    assert_eq!((graph("mean"), graph("one")), (json!({ "ensemble": members }), Value::Null));
    let url = format!("http://{}", server.address());
    let table = registry.run(&["endpoint", "list", "--url", &url]).expect_success();
    for expected in [
        "ensemble one, two × 3  ",
        "switch a: 1=one, 2=two, else (sequence one)  ",
        "sequence one, (switch scores: never=two, else two)  ",
        "switch kind: x=one, y=two  ",
        "digits@champion  ",
    ] {
        assert!(table.contains(expected), "{expected} in\n{table}");
    }
}

#[test]
fn many_rows_are_answered_as_few_are() {
    let registry = two_versions();
    let (server, _) = served(&registry);
    let rows: Vec<Value> = (0..300).map(|row| json!({ "a": row % 4, "b": row % 7 })).collect();
    for endpoint in ["mean", "pick", "routed"] {
        let few = rows.chunks(30).flat_map(|rows| scores(&server, endpoint, &json!(rows)));
        assert_eq!(scores(&server, endpoint, &json!(rows)), few.collect::<Vec<_>>(), "{endpoint}");
    }
    let mut strange: Vec<Value> = (0..300).map(|_| json!({ "a": 1, "b": 2, "kind": "x" })).collect();
    strange[200]["kind"] = json!("z");
    let refused = server.post("/serve/strict", &json!(strange).to_string());
    assert_eq!((refused.status, &refused.json()["error"]["row"]), (400, &json!(200)));
}

#[test]
fn a_request_is_answered_by_one_version_of_each_endpoint() {
    let registry = two_versions();
    let file = write(
        &registry.host,
        "version: 1
endpoints:
  split:
    traffic:
      - { model: digits@1, weight: 50 }
      - { model: digits@2, weight: 50 }
  all: { ensemble: [split, { endpoint: { sequence: [split, split] } }, split] }
",
    );
    let server = registry.host.serve(["--endpoints", &file]);
    let mut versions: Vec<String> = (0..60).map(|_| ask(&server, "/serve/all", &[]).1).collect();
    versions.sort();
    versions.dedup();
    assert_eq!(versions, ["digits@1", "digits@2"], "each by one of them");
}

#[test]
fn a_switch_by_what_cannot_decide_is_refused_before_anybody_asks() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("endpoints.yaml");
    let text = "version: 1
endpoints:
  d: { model: mnist }
  wide: { switch: { column: pixels, cases: { x: d }, default: d } }
";
    std::fs::write(&file, text).unwrap();
    let server = Host::trained().serve(["--endpoints", file.to_str().unwrap()]);
    assert_eq!(server.post("/serve/wide", "{}").status, 503);
    let told = server.stop().stderr;
    let expected = "endpoint `wide`: column `pixels` has several elements in a row: a switch decides by one";
    assert!(told.contains(expected), "{told}");
}

#[test]
fn a_part_that_moves_moves_the_whole_and_one_that_is_gone_is_told() {
    let registry = two_versions();
    let (server, _) = served(&registry);
    let before = ask(&server, "/serve/mean", &[]).2;
    registry.run(&["model", "alias", "digits@1", "champion"]).expect_success();
    wait_for("the alias is not followed", || ask(&server, "/serve/two", &[]).1 == "digits@1");
    wait_for("the whole does not move", || ask(&server, "/serve/mean", &[]).2 != before);
    assert_eq!(
        ask(&server, "/serve/mean", &[]).2,
        ask(&server, "/serve/one", &[]).2,
        "both are the same version"
    );
    write(&registry.host, "version: 1\nendpoints: { one: { model: digits@1 }, e: { sequence: [gone] } }\n");
    write(&registry.host, "version: 1\nendpoints: { one: { model: digits@1 }, e: { sequence: [one] } }\n");
    wait_for("the file is not followed", || server.post("/serve/mean", "{}").status == 404);
    assert_eq!(ask(&server, "/serve/e", &[]).2, ask(&server, "/serve/one", &[]).2);
    // What an endpoint of others answers is counted for those too.
    let metrics = server.get("/metrics").body;
    assert!(metrics.contains("host_requests_total{endpoint=\"one\",version=\"digits@1\"}"), "{metrics}");
}

#[test]
fn a_client_s_deadline_holds_for_all_parts() {
    let registry = two_versions();
    let file = write(
        &registry.host,
        "version: 1
endpoints:
  one: { model: digits@1, concurrency: 1 }
  both: { ensemble: [one, one] }
",
    );
    let server = registry.host.serve(["--endpoints", &file]);
    let (late, _) =
        server.post_with_headers("/serve/both", super::endpoints::ROW, &[("x-request-timeout-ms", "0")]);
    assert_eq!(
        (late.status, &late.json()["error"]["code"]),
        (504, &json!("deadline_exceeded")),
        "{}",
        late.body
    );
    assert_eq!(ask(&server, "/serve/both", &[]).0, 200);
}

#[test]
fn one_that_is_made_of_what_is_gone_says_so() {
    let registry = two_versions();
    let file = write(
        &registry.host,
        "version: 1\nendpoints: { one: { model: digits@1 }, two: { model: digits@1 }, e: { ensemble: [one, two] } }\n",
    );
    let server = registry.host.serve(["--endpoints", &file, "--model-control"]);
    let ready = || server.get("/v2/models/e/ready").status;
    assert_eq!((ready(), ask(&server, "/serve/e", &[]).0), (200, 200));
    assert_eq!(server.post("/v2/repository/models/two/unload", "").status, 200);
    let refused = server.post("/serve/e", super::endpoints::ROW);
    let error = &refused.json()["error"];
    assert_eq!(
        (refused.status, ready(), &error["code"]),
        (503, 503, &json!("not_ready")),
        "{}",
        refused.body
    );
    assert_eq!(error["message"], "endpoint `two`, which this one is made of, is not loaded");
    let url = format!("http://{}", server.address());
    let rolled = registry.run(&["endpoint", "rollback", "e", "--url", &url]);
    let expected = "`e` follows no model: roll back the endpoints that it is made of";
    assert!(rolled.code == 2 && rolled.stderr.contains(expected), "{}", rolled.stderr);
    assert_eq!(server.post("/v2/repository/models/two/load", "").status, 200);
    assert_eq!((ready(), ask(&server, "/serve/e", &[]).0), (200, 200));
}

#[test]
fn an_alias_of_the_same_version_is_followed_from_then_on() {
    let registry = two_versions();
    for alias in ["champion", "stable"] {
        registry.run(&["model", "alias", "digits@1", alias]).expect_success();
    }
    let endpoint = |alias: &str| format!("version: 1\nendpoints: {{ one: {{ model: digits@{alias} }} }}\n");
    let file = write(&registry.host, &endpoint("champion"));
    let server = registry.host.serve(["--endpoints", &file]);
    let follows = || server.get("/serve").json()["endpoints"][0]["versions"][0]["asked_for"].clone();
    assert_eq!(follows(), "digits@champion");
    write(&registry.host, &endpoint("stable"));
    wait_for("the file is not followed", || follows() == "digits@stable");
}

/// Asks an endpoint; gives the prediction's id and the versions that answered.
fn predicted(server: &Server, endpoint: &str, rows: &Value) -> (String, String) {
    let (answer, headers) = server.post_with_headers(&format!("/serve/{endpoint}"), &rows.to_string(), &[]);
    assert_eq!(answer.status, 200, "{endpoint}: {}", answer.body);
    (headers["x-prediction-id"].clone(), headers["x-model-version"].clone())
}

/// Endpoints and versions that a prediction, which must be the same again, was made of.
fn replayed(host: &Host, (id, versions): &(String, String), endpoint: &str) -> Vec<(String, String)> {
    let told = host.run(["replay", id, "--json"]).json();
    assert_eq!(told["identical"], true, "{told}");
    assert_eq!(told["outputs"], told["outputs_now"]);
    assert_eq!((&told["endpoint"], &told["bundle"]), (&json!(endpoint), &Value::Null));
    assert_eq!(told["version"], json!(versions), "as the header has it");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let part = |part: &Value| (text(&part["endpoint"]), text(&part["version"]));
    told["parts"].as_array().unwrap().iter().map(part).collect()
}

fn owned(parts: &[(&str, &str)]) -> Vec<(String, String)> {
    parts.iter().map(|(endpoint, version)| ((*endpoint).to_owned(), (*version).to_owned())).collect()
}

#[test]
fn what_endpoints_of_others_answer_is_computed_again_bit_for_bit() {
    let registry = two_versions();
    let host = &registry.host;
    let file = write(
        host,
        "version: 1
endpoints:
  one: { model: digits@1, cache_mib: 1 }
  two: { model: digits@2 }
  chain: { sequence: [one, two] }
  pick: { switch: { column: a, cases: { 1: one, 2: two, 3: one }, default: { sequence: [one] } } }
  mean: { ensemble: [one, { endpoint: two, weight: 0.3 }, { endpoint: { sequence: [two, one] }, weight: 1.7 }] }
  nested:
    ensemble:
      - { endpoint: two, weight: 0.1 }
      - switch: { column: a, cases: { 1: { ensemble: [one, two] } }, default: one }
",
    );
    let server = host.serve(["--endpoints", &file]);
    let row = json!({ "a": 3, "b": 2 });
    let rows = json!([{ "a": 1, "b": 2 }, { "a": 2, "b": 4 }, { "a": 5, "b": 1 }, { "a": 2, "b": 0 }]);
    let asked = ["chain", "pick", "mean", "nested"].map(|endpoint| predicted(&server, endpoint, &rows));
    let (of_pick, of_nested) = (predicted(&server, "pick", &row), predicted(&server, "nested", &row));
    // The rows are known to the first endpoint by now, which computes nothing.
    let known = predicted(&server, "chain", &rows);
    server.stop().expect_success();
    let [chain, pick, mean, nested] = &asked;
    let (one, two) = (("one", "digits@1"), ("two", "digits@2"));
    let parts_of = |asked, endpoint| replayed(host, asked, endpoint);
    assert_eq!(parts_of(chain, "chain"), owned(&[one, two]));
    assert_eq!(parts_of(&known, "chain"), owned(&[one, two]));
    assert_eq!(parts_of(pick, "pick"), owned(&[one, two, one]), "nobody asked the case 3");
    assert_eq!(parts_of(&of_pick, "pick"), owned(&[one]));
    assert_eq!(parts_of(mean, "mean"), owned(&[one, two, two, one]));
    assert_eq!(parts_of(nested, "nested"), owned(&[two, one, two, one]));
    assert_eq!(parts_of(&of_nested, "nested"), owned(&[two, one]));
    let bundle = |version: &str| {
        host.run(["model", "show", version, "--json"]).json()["bundle"].as_str().unwrap().to_owned()
    };
    let told = host.run(["replay", &pick.0]).expect_success();
    let lines: Vec<String> =
        told.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let (first, second) = (bundle("digits@1"), bundle("digits@2"));
    let expected = [
        "endpoint pick".to_owned(),
        "version digits@1, digits@2".to_owned(),
        format!("part 0 one digits@1 {first}"),
        format!("part 1 two digits@2 {second}"),
        format!("part 3 one digits@1 {first}"),
        "rows 4".to_owned(),
        "replayed identical, bit for bit".to_owned(),
    ];
    let graph: Value = serde_json::from_str(lines[4].strip_prefix("graph ").unwrap()).unwrap();
    let cases = json!({ "1": "one", "2": "two", "3": "one" });
    let made_of = json!({ "switch": { "column": "a", "cases": cases, "default": { "sequence": ["one"] } } });
    assert_eq!((&lines[2..4], &lines[5..]), expected.split_at(2), "{told}");
    let told = host.run(["replay", &pick.0, "--json"]).json();
    let places: Vec<&Value> = told["parts"].as_array().unwrap().iter().map(|part| &part["place"]).collect();
    assert_eq!((&graph, &told["graph"], places), (&made_of, &made_of, vec![&json!(0), &json!(1), &json!(3)]));
}

#[test]
fn what_a_part_served_then_answers_again_and_not_what_it_serves_now() {
    let registry = two_versions();
    let host = &registry.host;
    let (server, _) = served(&registry);
    let rows = json!([{ "a": 1, "b": 2 }, { "a": 2, "b": 4 }]);
    let before = ["mean", "pick"].map(|endpoint| predicted(&server, endpoint, &rows));
    registry.run(&["model", "alias", "digits@1", "champion"]).expect_success();
    wait_for("the alias is not followed", || ask(&server, "/serve/two", &[]).1 == "digits@1");
    let after = ["mean", "pick"].map(|endpoint| predicted(&server, endpoint, &rows));
    // Neither the endpoints nor the version need be there any more: what answered stays as long as there is a record of it.
    write(host, "version: 1\nendpoints: { one: { model: digits@1 } }\n");
    wait_for("the file is not followed", || server.post("/serve/mean", "{}").status == 404);
    server.stop().expect_success();
    registry.run(&["model", "delete", "digits@2"]).expect_success();
    host.run(["gc", "--older-than", "0s"]).expect_success();
    let (one, two, moved) = (("one", "digits@1"), ("two", "digits@2"), ("two", "digits@1"));
    for (endpoint, before, after) in [("mean", &before[0], &after[0]), ("pick", &before[1], &after[1])] {
        assert_eq!(replayed(host, before, endpoint), owned(&[one, two]));
        assert_eq!(replayed(host, after, endpoint), owned(&[one, moved]));
    }
}

#[test]
fn no_endpoint_comes_to_ask_itself() {
    let registry = two_versions();
    let file = write(
        &registry.host,
        "version: 1\nendpoints: { a: { model: digits@1 }, g: { sequence: [a] }, h: { sequence: [b] }, b: { model: digits@1 } }\n",
    );
    let server = registry.host.serve(["--endpoints", &file]);
    let expected = ask(&server, "/serve/g", &[]);
    // Of what is right by itself one half cannot be done, so that `g` stays made of `a`, and `h` of `b`, which is made of another.
    write(
        &registry.host,
        "version: 1\nendpoints: { a: { sequence: [g] }, g: { model: digits@77 }, h: { model: digits@77 }, b: { sequence: [c] }, \
         c: { model: digits@2 } }\n",
    );
    // `b` is made of another by then, and `h` goes on with what `b` was.
    wait_for("the file is not taken up", || ask(&server, "/serve/b", &[]).1 == "digits@2");
    for endpoint in ["a", "g", "h"] {
        assert_eq!(ask(&server, &format!("/serve/{endpoint}"), &[]), expected, "{endpoint}");
    }
    let failed = |endpoint: &str| {
        let told = server.get("/serve").json();
        told["failed"].as_array().unwrap().iter().any(|failed| failed["name"] == endpoint)
    };
    wait_for("what has failed is not told", || ["a", "g", "h"].into_iter().all(failed));
    let told = server.stop().stderr;
    assert!(
        told.contains("endpoint `a`: endpoint `g`, which it is made of, is made of others itself"),
        "{told}"
    );
}

/// Bytes of all files below a folder.
fn size_of(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.path().is_dir() {
        true => size_of(&entry.path()),
        false => entry.metadata().map_or(0, |metadata| metadata.len()),
    };
    entries.map(size).sum()
}

/// A third version of `digits`, which answers with scores of three classes.
fn train_other(registry: &Registry) {
    let file = registry.host.state_dir().join("w.csv");
    let rows: String = (0..60).map(|row| format!("{},{},{}\n", row % 7, row % 5, row % 3)).collect();
    std::fs::write(&file, format!("a,b,label\n{rows}")).unwrap();
    registry.run(&["data", "add", "w", file.to_str().unwrap()]).expect_success();
    registry.run(&["train", "--data", "w", "--name", "digits", "--rounds", "1"]).expect_success();
}

#[test]
fn a_part_that_moves_to_what_does_not_fit_leaves_the_whole_as_it_was() {
    let registry = two_versions();
    train_other(&registry);
    registry.run(&["model", "alias", "digits@1", "champion"]).expect_success();
    let file = write(
        &registry.host,
        "version: 1\nendpoints: { one: { model: digits@1 }, two: { model: digits@champion }, e: { ensemble: [one, two] } }\n",
    );
    let server = registry.host.serve(["--endpoints", &file, "--model-control"]);
    let before = ask(&server, "/serve/e", &[]);
    registry.run(&["model", "alias", "digits@3", "champion"]).expect_success();
    wait_for("the alias is not followed", || ask(&server, "/serve/two", &[]).1 == "digits@3");
    let failed = || server.get("/metrics").body.contains("host_endpoint_failed{endpoint=\"e\"} 1");
    wait_for("it is not told", failed);
    assert_eq!(ask(&server, "/serve/e", &[]), before);
    assert_eq!(server.get("/v2/models/e/ready").status, 200);
    let reason = &server.get("/serve").json()["failed"][0]["reason"];
    assert!(reason.as_str().unwrap().starts_with("its endpoints answer with different columns"), "{reason}");
    // What it has of `two` is counted still, with the version that `two` has left.
    let counted = "host_requests_total{endpoint=\"two\",version=\"digits@1\"} ";
    let metrics = server.get("/metrics").body;
    assert_eq!(metrics.matches(counted).count(), 1, "{metrics}");
    let window = registry.host.state_dir().join("windows/two");
    let rows = || size_of(&window);
    let before_rows = rows();
    assert_eq!(ask(&server, "/serve/e", &[]), before);
    wait_for("its rows are not captured", || rows() > before_rows);
    // Once `two` was away, `e` cannot go on with what it was.
    assert_eq!(server.post("/v2/repository/models/two/unload", "").status, 200);
    assert_eq!(ask(&server, "/serve/e", &[]).0, 503);
    assert!(!server.get("/metrics").body.contains("endpoint=\"two\""), "nothing is left of it");
    assert_eq!(server.post("/v2/repository/models/two/load", "").status, 200);
    let refused = || server.post("/serve/e", super::endpoints::ROW).body;
    wait_for("it is not told why", || refused().contains("its endpoints answer with different columns"));
    registry.run(&["model", "alias", "digits@2", "champion"]).expect_success();
    wait_for("the whole does not follow", || ask(&server, "/serve/e", &[]).1 == "digits@1, digits@2");
    assert!(!failed());
    let told = server.stop().stderr;
    let warning =
        "endpoint `two`: `digits@3` differs from `digits@1`, which answered before, in column `scores`";
    assert!(told.contains(warning), "{told}");
}

#[test]
fn one_alias_moves_all_that_an_endpoint_is_made_of_as_one() {
    let registry = two_versions();
    registry.run(&["model", "alias", "digits@1", "champion"]).expect_success();
    let parts = ["a", "b", "c", "d"];
    let endpoints: String = parts.map(|name| format!("  {name}: {{ model: digits@champion }}\n")).concat();
    let file = write(
        &registry.host,
        &format!("version: 1\nendpoints:\n{endpoints}  e: {{ ensemble: [a, b, c, d] }}\n"),
    );
    let server = registry.host.serve(["--endpoints", &file]);
    let is_moving = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while is_moving.load(std::sync::atomic::Ordering::Relaxed) {
                    let (status, versions, body) = ask(&server, "/serve/e", &[]);
                    assert!(status == 200 && !versions.contains(','), "{versions}: {body}");
                }
            });
        }
        for turn in 0..8 {
            let version = format!("digits@{}", turn % 2 + 1);
            registry.run(&["model", "alias", &version, "champion"]).expect_success();
            wait_for("the alias is not followed", || ask(&server, "/serve/e", &[]).1 == version);
        }
        is_moving.store(false, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn one_that_cannot_be_replaced_goes_on_with_its_parts() {
    let registry = two_versions();
    let file = write(
        &registry.host,
        "version: 1\nendpoints: { a: { model: digits@1 }, g: { ensemble: [a] }, z: { model: digits@2 } }\n",
    );
    let server = registry.host.serve(["--endpoints", &file]);
    let before = ask(&server, "/serve/g", &[]);
    write(&registry.host, "version: 1\nendpoints: { g: { model: digits@77 }, z: { model: digits@2 } }\n");
    wait_for("the file is not followed", || ask(&server, "/serve/a", &[]).0 == 404);
    assert_eq!(ask(&server, "/serve/g", &[]), before);
    // What is made of one that was made of others waits for it.
    write(
        &registry.host,
        "version: 1\nendpoints: { g: { model: digits@2 }, y: { ensemble: [g] }, z: { model: digits@2 } }\n",
    );
    wait_for("the file is not followed", || ask(&server, "/serve/y", &[]).0 == 200);
    assert_eq!(ask(&server, "/serve/y", &[]), ask(&server, "/serve/g", &[]));
    let told = server.stop().stderr;
    assert!(!told.contains("made of others itself"), "{told}");
}

#[test]
fn a_request_has_one_place_at_an_endpoint_however_often_it_asks() {
    let registry = two_versions();
    let file = write(
        &registry.host,
        "version: 1
endpoints:
  a: { model: digits@1, concurrency: 1, queue: 0 }
  b: { model: digits@2 }
  e: { ensemble: [{ sequence: [a, b] }, { sequence: [b, a] }, a] }
",
    );
    let server = registry.host.serve(["--endpoints", &file]);
    for rows in [1, 500, 5_000] {
        let rows = json!(vec![json!({ "a": 1, "b": 2 }); rows]).to_string();
        for _ in 0..10 {
            let answer = server.post("/serve/e", &rows);
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
    }
}

#[test]
fn bundles_that_answered_are_named() {
    let registry = two_versions();
    let (server, _) = served(&registry);
    let digest =
        |path: &str| server.post_with_headers(path, super::endpoints::ROW, &[]).1["x-bundle-digest"].clone();
    let mut expected = [digest("/serve/one"), digest("/serve/two")];
    expected.sort();
    assert_eq!(digest("/serve/mean"), expected.join(", "));
    assert_eq!(digest("/serve/pick"), digest("/serve/one"));
}

#[test]
fn versions_with_other_columns_share_no_requests() {
    let registry = two_versions();
    train_other(&registry);
    let traffic = "version: 1\nendpoints: { e: { traffic: [{ model: digits@1, weight: 1 }, { model: digits@3, weight: 1 }] } }\n";
    let server = registry.host.serve(["--endpoints", &write(&registry.host, traffic)]);
    for _ in 0..40 {
        let (status, version, body) = ask(&server, "/serve/e", &[]);
        assert_eq!((status, version.as_str()), (200, "digits@1"), "{body}");
    }
    let reason = "`digits@3` differs from `digits@1` in column `scores`: versions that share requests take and answer the same";
    let listed = server.get("/serve").json();
    assert_eq!(listed["failed"][0]["reason"], reason);
    let weights: Vec<_> = listed["endpoints"][0]["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|version| &version["weight"])
        .collect();
    assert_eq!(weights, [1, 0], "it is there to be asked by its number");
    assert_eq!(ask(&server, "/serve/e/3", &[]).1, "digits@3");
    let told = server.stop().stderr;
    assert!(told.contains(reason), "{told}");
}
