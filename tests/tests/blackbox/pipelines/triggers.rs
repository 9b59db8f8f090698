//! Pipelines that `host server` starts: once for each reason, whatever is killed and however many servers look.

use std::path::PathBuf;
use std::time::Duration;

use host_tests::{Postgres, Server, pixels_json, plugin, python, ran, test_images};
use serde_json::{Value, json};

use super::faults::wait_until;
use super::{ledger, pipeline, running};
use crate::place::{Place, post};

/// Adds a version of these bytes to a dataset; gives it as `name@sha256:…`.
fn add(place: &Place, dataset: &str, content: &str) -> String {
    let file = place.write(&format!("added/{dataset}/rows.txt"), content);
    let added = place.json(&["data", "add", dataset, &file]);
    format!("{dataset}@{}", added["digest"].as_str().unwrap())
}

/// Runs of a pipeline, the oldest first: what triggered each, and its status.
fn runs(place: &Place, name: &str) -> Vec<(String, String)> {
    let listed = place.json(&["pipeline", "list", "--name", name, "--limit", "1000"]);
    let text = |run: &Value, key: &str| run[key].as_str().unwrap().to_owned();
    let runs = listed.as_array().unwrap().iter().rev();
    runs.map(|run| (text(run, "triggered_by"), text(run, "status"))).collect()
}

fn finished(cause: &str) -> (String, String) {
    (cause.to_owned(), "finished".to_owned())
}

fn wait_for_run(place: &Place, name: &str, cause: &str) {
    wait_until(&format!("running `{name}` for {cause}"), || runs(place, name).contains(&finished(cause)));
}

/// The triggers of a pipeline.
fn triggers(place: &Place, name: &str) -> Vec<Value> {
    place.json(&["pipeline", "triggers", "--name", name]).as_array().unwrap().clone()
}

fn enable(place: &Place, name: &str, triggers: &str, run: &str) {
    let steps = format!(
        "triggers: [{triggers}]\nsteps:\n  a:\n    uses: command\n    cache: false\n    with:\n      run: |\n        {run}\n"
    );
    let file = pipeline(place, name, &steps);
    place.run(&["pipeline", "enable", &file]).expect_success();
}

/// Waits until the server has looked twice at all that is there now: it has started what it was going to start.
fn settle(place: &Place) {
    let is_enabled = !triggers(place, "settle").is_empty();
    if !is_enabled {
        enable(place, "settle", "{ dataset: settle }", "true");
    }
    for _ in 0..2 {
        let before = runs(place, "settle").len();
        let version = add(place, "settle", &format!("{before} of {:?}", std::time::SystemTime::now()));
        wait_for_run(place, "settle", &format!("dataset {version}"));
    }
}

/// A step that goes on when `place` has the file `go`; it notes that it began, and that it ended.
fn waits(place: &Place) -> (String, PathBuf, PathBuf) {
    let (ledger, go) = (place.folder().join("ledger"), place.folder().join("go"));
    let run = format!(
        "echo began >> {ledger}; while ! test -e {go}; do sleep 0.02; done; echo ended >> {ledger}",
        ledger = ledger.display(),
        go = go.display()
    );
    (run, ledger, go)
}

fn new_versions_start(place: &Place, restart_database: impl FnOnce()) {
    let before = add(place, "rows", "one");
    assert!(before.starts_with("rows@sha256:"));
    let path = place.folder().join("ledger");
    let host = place.command();
    // It adds a version to the dataset that it waits for, another one each time.
    let own = place.folder().join("own.txt");
    let run = format!(
        "echo ran >> {ledger}; cat {ledger} > {own}; {host} data add rows {own}",
        ledger = path.display(),
        own = own.display(),
        host = host.get_program().display()
    );
    enable(place, "fresh", "{ dataset: rows }", &run);
    let server = place.server();
    settle(place);
    assert_eq!(runs(place, "fresh"), [], "what there was starts nothing");

    let second = format!("dataset {}", add(place, "rows", "two"));
    wait_for_run(place, "fresh", &second);
    settle(place);
    assert_eq!(runs(place, "fresh"), [finished(&second)], "what it adds itself starts nothing");
    assert_eq!(ledger(&path), ["ran"]);
    let told = &triggers(place, "fresh")[0];
    assert_eq!((&told["trigger"], &told["cause"]), (&json!("dataset rows"), &json!(second)), "{told}");
    assert_eq!((&told["status"], &told["problem"]), (&json!("finished"), &Value::Null));
    let run = post_run(&server, told["run_id"].as_str().unwrap());
    assert!(run.contains(&("host.trigger".to_owned(), second.clone())), "{run:?}");

    restart_database();
    let third = format!("dataset {}", add(place, "rows", "three"));
    wait_for_run(place, "fresh", &third);
    place.run(&["pipeline", "disable", "fresh"]).expect_success();
    add(place, "rows", "four");
    settle(place);
    assert_eq!(runs(place, "fresh"), [finished(&second), finished(&third)]);
    assert_eq!(running(place), 0);
    let ran = server.stop();
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

/// The tags of a run.
fn post_run(server: &Server, run_id: &str) -> Vec<(String, String)> {
    let answer = server.get(&format!("/api/2.0/mlflow/runs/get?run_id={run_id}")).json();
    let tags = answer["run"]["data"]["tags"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    tags.map(|tag| (text(&tag["key"]), text(&tag["value"]))).collect()
}

#[test]
fn a_new_version_starts_it_once() {
    new_versions_start(&Place::local(), || {});
}

#[test]
fn a_new_version_starts_it_once_on_postgresql_and_s3_also_after_the_database_was_away() {
    let postgres = Postgres::start();
    let place = Place::shared(&postgres, "triggers");
    new_versions_start(&place, || postgres.restart());
}

#[test]
fn pipelines_that_start_each_other_come_to_an_end() {
    let place = Place::local();
    let host = place.command();
    let adds = |to: &str| {
        let file = place.folder().join(format!("to-{to}"));
        let file = file.display();
        format!("date +%s%N > {file}; {} data add {to} {file}", host.get_program().display())
    };
    enable(&place, "ping", "{ dataset: left }", &adds("right"));
    enable(&place, "pong", "{ dataset: right }", &adds("left"));
    let _server = place.server();
    add(&place, "left", "by hand");
    wait_until("the second", || runs(&place, "pong").iter().any(|(_, status)| status == "finished"));
    settle(&place);
    assert_eq!((runs(&place, "ping").len(), runs(&place, "pong").len()), (1, 1));
    // What a person adds starts them again.
    add(&place, "right", "by hand");
    wait_until("both again", || runs(&place, "ping").len() == 2 && running(&place) == 0);
    settle(&place);
    assert_eq!((runs(&place, "ping").len(), runs(&place, "pong").len()), (2, 2));
}

/// Puts what a schedule has seen two days back, as if no server had been there since.
fn miss_two_days(place: &Place) {
    let script = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\n\
                  c.execute(\"UPDATE pipeline_triggers SET seen = seen - 2 * 86400000 WHERE kind = 'schedule'\")\n\
                  c.commit()";
    let database = place.host.state_dir().join("host.db");
    ran(std::process::Command::new(python()).args(["-c", script]).arg(database).output().unwrap())
        .expect_success();
}

#[test]
fn of_missed_times_the_newest_starts_it_once_whatever_servers_there_are() {
    let place = Place::local();
    // Never near now.
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let schedule = format!("0 {} * * *", (seconds / 3_600 + 12) % 24);
    enable(&place, "nightly", &format!("{{ schedule: '{schedule}' }}"), "true");
    let told = &triggers(&place, "nightly")[0];
    let next = told["next_at"].as_i64().unwrap() / 1_000;
    assert!(next > seconds as i64 && next < seconds as i64 + 86_400, "{told}");
    assert_eq!(told["fired_at"], Value::Null);
    miss_two_days(&place);
    let servers = [place.server(), place.server(), place.server()];
    let cause = format!("schedule {schedule}");
    wait_for_run(&place, "nightly", &cause);
    settle(&place);
    assert_eq!(runs(&place, "nightly"), [finished(&cause)]);
    drop(servers);
    let _again = place.server();
    settle(&place);
    assert_eq!(runs(&place, "nightly"), [finished(&cause)]);
    let runs_of_it = place.json(&["run", "list", "--experiment", "nightly"]);
    assert_eq!(runs_of_it.as_array().unwrap().len(), 2, "the pipeline's and its step's: {runs_of_it}");
}

#[test]
fn while_it_runs_one_more_start_waits() {
    let place = Place::local();
    let (run, path, go) = waits(&place);
    enable(&place, "slow", "{ dataset: rows }", &run);
    let _server = place.server();
    let first = format!("dataset {}", add(&place, "rows", "one"));
    wait_until("the first start", || ledger(&path).len() == 1);
    add(&place, "rows", "two");
    let last = format!("dataset {}", add(&place, "rows", "three"));
    settle(&place);
    assert_eq!(runs(&place, "slow"), [(first.clone(), "running".to_owned())]);
    std::fs::write(&go, "").unwrap();
    wait_for_run(&place, "slow", &last);
    settle(&place);
    assert_eq!(runs(&place, "slow"), [finished(&first), finished(&last)]);
}

#[test]
fn a_server_runs_four_at_a_time_and_the_others_after_them() {
    let place = Place::local();
    let (run, path, go) = waits(&place);
    let names: Vec<String> = (0..6).map(|number| format!("one-of-{number}")).collect();
    names.iter().for_each(|name| enable(&place, name, "{ dataset: rows }", &run));
    add(&place, "rows", "one");
    let _server = place.server();
    wait_until("four starts", || ledger(&path).len() == 4);
    let statuses = || names.iter().flat_map(|name| runs(&place, name)).collect::<Vec<_>>();
    assert_eq!(statuses().len(), 4);
    std::fs::write(&go, "").unwrap();
    wait_until("all", || statuses().iter().filter(|(_, status)| status == "finished").count() == 6);
    assert_eq!(statuses().len(), 6);
}

#[test]
fn a_run_whose_server_was_killed_goes_on_with_the_next_and_is_not_started_again() {
    let place = Place::local();
    let (run, path, go) = waits(&place);
    enable(&place, "killed", "{ dataset: rows }", &run);
    let mut server = place.server();
    let cause = format!("dataset {}", add(&place, "rows", "one"));
    wait_until("the start", || ledger(&path).len() == 1);
    server.kill();
    assert_eq!(runs(&place, "killed"), [(cause.clone(), "interrupted".to_owned())]);
    let run_id = place.json(&["pipeline", "show", "killed"])["run_id"].clone();
    std::fs::write(&go, "").unwrap();
    let _server = place.server();
    wait_for_run(&place, "killed", &cause);
    settle(&place);
    assert_eq!(runs(&place, "killed"), [finished(&cause)]);
    assert_eq!(place.json(&["pipeline", "show", "killed"])["run_id"], run_id);
    assert_eq!(ledger(&path), ["began", "began", "ended"]);
    assert_eq!(running(&place), 0);
}

#[test]
fn killed_at_any_moment_of_a_start_there_is_one_run_for_each_reason() {
    let place = Place::local();
    enable(&place, "often", "{ dataset: rows }", "true");
    let mut causes = Vec::new();
    for (round, moment_ms) in [0, 5, 15, 30, 60, 90, 130, 180, 250].into_iter().enumerate() {
        causes.push(format!("dataset {}", add(&place, "rows", &format!("round {round}"))));
        let mut server = place.server();
        std::thread::sleep(Duration::from_millis(moment_ms));
        server.kill();
        let server = place.server();
        wait_for_run(&place, "often", &causes[round]);
        drop(server);
    }
    let expected: Vec<_> = causes.iter().map(|cause| finished(cause)).collect();
    assert_eq!(runs(&place, "often"), expected);
    assert_eq!(running(&place), 0);
}

#[test]
fn a_server_that_is_stopped_cancels_what_it_started() {
    let place = Place::local();
    let (run, path, go) = waits(&place);
    enable(&place, "stopped", "{ dataset: rows }", &run);
    let server = place.server();
    let cause = format!("dataset {}", add(&place, "rows", "one"));
    wait_until("the start", || ledger(&path).len() == 1);
    let ended = server.stop();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("it is cancelled; go on with it: host pipeline resume"),
        "{}",
        ended.stderr
    );
    assert_eq!(runs(&place, "stopped"), [(cause.clone(), "cancelled".to_owned())]);
    assert_eq!(running(&place), 0);
    std::fs::write(&go, "").unwrap();
    let _server = place.server();
    settle(&place);
    assert_eq!(runs(&place, "stopped"), [(cause.clone(), "cancelled".to_owned())]);
    assert_eq!(place.json(&["pipeline", "resume", "stopped"])["status"], "finished");
    assert_eq!(runs(&place, "stopped"), [finished(&cause)]);
}

#[test]
fn what_cannot_be_started_is_told_and_not_tried_again() {
    let place = Place::local();
    let folder = place.folder().join("gone");
    let text = "version: 1\nname: homeless\ntriggers: [{ dataset: rows }]\n\
                steps: { a: { uses: command, with: { run: 'true' } } }\n";
    let file = place.write("gone/pipeline.yaml", text);
    place.run(&["pipeline", "enable", &file]).expect_success();
    std::fs::rename(&folder, place.folder().join("elsewhere")).unwrap();
    let server = place.server();
    add(&place, "rows", "one");
    wait_until("telling", || !triggers(&place, "homeless")[0]["problem"].is_null());
    let told = triggers(&place, "homeless");
    let problem = told[0]["problem"].as_str().unwrap();
    assert_eq!(problem, format!("its folder `{}` is not there", folder.display()));
    settle(&place);
    assert_eq!(triggers(&place, "homeless"), told, "it was not tried again");
    assert_eq!(runs(&place, "homeless"), []);
    // A new reason, a new try.
    std::fs::rename(place.folder().join("elsewhere"), &folder).unwrap();
    let cause = format!("dataset {}", add(&place, "rows", "two"));
    wait_for_run(&place, "homeless", &cause);
    assert_eq!(triggers(&place, "homeless")[0]["problem"], Value::Null);
    let ended = server.stop();
    assert_eq!(
        ended.stderr.matches("a pipeline cannot be started: its folder").count(),
        1,
        "{}",
        ended.stderr
    );
}

#[test]
fn pipelines_that_cannot_be_enabled_are_told() {
    let place = Place::local();
    let file = pipeline(&place, "idle", "steps: { a: { uses: command, with: { run: x } } }\n");
    let (code, said) = place.refused(&["pipeline", "enable", &file]);
    assert_eq!(code, 2);
    assert!(said.contains("has no triggers: expected some, such as `triggers: [{ schedule:"), "{said}");
    let (code, said) = place.refused(&["pipeline", "disable", "idle"]);
    assert!(code == 2 && said.contains("pipeline `idle` is not enabled: none is"), "{said}");
    let own = "triggers: [{ dataset: rows }]\nsteps: { a: { uses: data, with: { name: rows, paths: x } } }\n";
    let (code, said) = place.refused(&["pipeline", "enable", &pipeline(&place, "own", own)]);
    assert!(code == 2 && said.contains("step `a` adds versions to dataset `rows`"), "{said}");

    let ran =
        place.run(&["pipeline", "enable", &pipeline(&place, "yes", &own.replace("name: rows", "name: b"))]);
    assert!(ran.stderr.contains("there is no dataset `rows` yet"), "{}", ran.stderr);
    assert!(ran.expect_success().contains("dataset rows"));
    let (_, said) = place.refused(&["pipeline", "disable", "no"]);
    assert!(said.contains("pipeline `no` is not enabled: enabled are yes"), "{said}");
    // The same name again takes its place.
    let other = own.replace("dataset: rows", "schedule: '0 3 * * *'");
    place.run(&["pipeline", "enable", &pipeline(&place, "yes", &other)]).expect_success();
    let told = triggers(&place, "yes");
    assert_eq!((told.len(), &told[0]["trigger"]), (1, &json!("schedule 0 3 * * *")));
}

#[test]
fn drift_that_was_found_starts_a_pipeline_and_not_the_one_that_looked() {
    let place = Place::local();
    place.run(&["data", "add", "mnist", &host_tests::mnist_files()]).expect_success();
    let train = ["train", "--data", "mnist", "--train-rows", "2000", "--rounds", "3", "--preprocess"];
    place.run(&[&train[..], &[&plugin("mnist-pixels")]].concat()).expect_success();
    let detector = plugin("psi");
    std::fs::create_dir_all(place.folder()).unwrap();
    std::fs::copy(&detector, place.folder().join("psi.wasm")).unwrap();
    let watch = "triggers: [{ drift: mnist }]\n\
                 steps: { look: { uses: monitor, with: { endpoint: mnist, detector: psi.wasm } } }\n";
    let watch = pipeline(&place, "watch", watch);
    place.run(&["pipeline", "enable", &watch]).expect_success();
    enable(&place, "retrain", "{ drift: mnist }", "true");
    enable(&place, "elsewhere", "{ drift: other }", "true");
    assert_eq!(place.json(&["monitor", "alerts"]), json!([]));

    let serving = place.host.serve(["--model", "mnist"]);
    for image in &test_images()[..200] {
        let inverted: Vec<u8> = image.iter().map(|pixel| 255 - pixel).collect();
        assert_eq!(serving.post("/serve/mnist", &pixels_json(&inverted)).status, 200);
    }
    serving.wait_for_window(200);
    let server = place.server();
    let report = place.json(&["pipeline", "run", &watch]);
    let outputs = &report["steps"][0]["outputs"];
    assert_eq!((&report["status"], &outputs["verdict"]), (&json!("finished"), &json!("drifted")), "{report}");
    assert!(outputs["drifted"].as_u64().unwrap() > 0, "{report}");
    wait_for_run(&place, "retrain", "drift mnist");
    settle(&place);
    assert_eq!(runs(&place, "watch"), [finished("")], "its own alert starts it not");
    assert_eq!(runs(&place, "retrain"), [finished("drift mnist")]);
    assert_eq!(runs(&place, "elsewhere"), []);

    // One that a person found starts both.
    let by_hand = ["monitor", "run", "--endpoint", "mnist", "--detector", &detector];
    assert_eq!(place.run(&by_hand).code, 4);
    wait_until("both", || runs(&place, "watch").len() == 2 && runs(&place, "retrain").len() >= 2);
    wait_for_run(&place, "watch", "drift mnist");
    drop(server);
    let alerts = place.json(&["monitor", "alerts", "--endpoint", "mnist"]);
    let newest = &alerts[0];
    assert_eq!((&newest["verdict"], &newest["detector"]), (&json!("drifted"), &json!("psi")), "{alerts}");
    assert!(newest["drifted"].as_u64().unwrap() <= newest["scores"].as_u64().unwrap());
    assert_eq!(place.json(&["monitor", "alerts", "--endpoint", "other"]), json!([]));
}

#[test]
fn a_server_can_leave_triggers_to_others() {
    let place = Place::local();
    enable(&place, "left", "{ dataset: rows }", "true");
    let idle = place.host.server(["--no-triggers"]);
    let cause = format!("dataset {}", add(&place, "rows", "one"));
    // It is up and answers, and has all the time in the world.
    let answer = post(&idle, "experiments/search", &json!({ "max_results": 1 }));
    assert!(answer["experiments"].is_array());
    assert_eq!(runs(&place, "left"), []);
    drop(idle);
    let _server = place.server();
    wait_for_run(&place, "left", &cause);
}
