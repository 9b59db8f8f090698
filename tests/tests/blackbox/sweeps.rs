//! `host sweep`: what is found, what is recorded, what a sweep survives.

use std::collections::BTreeSet;
use std::process::Stdio;

use host_tests::{Host, Ran, mnist_files, plugin, ran};
use serde_json::{Value, json};

/// A state folder with a small table of two classes.
fn with_table() -> Host {
    let host = Host::new();
    let mut table = String::from("x,y,label\n");
    for row in 0..300_u32 {
        let noise = row.wrapping_mul(2_654_435_761) >> 29;
        table.push_str(&format!("{},{},{}\n", row % 17, noise, i32::from(row % 17 + noise > 11)));
    }
    let file = host.state_dir().join("table.csv");
    std::fs::write(&file, table).unwrap();
    host.run(["data", "add", "table", file.to_str().unwrap()]).expect_success();
    host
}

fn sweep(host: &Host, more: &[&str]) -> Ran {
    let base = ["sweep", "--data", "table", "--rounds", "5", "--threads", "1"];
    host.run(base.into_iter().chain(more.iter().copied()))
}

/// Runs below the sweep's, with what a test asks of them.
struct Children(Vec<Value>);

impl Children {
    fn of(host: &Host, parent: &str) -> Self {
        let filter = format!("tags.`mlflow.parentRunId` = '{parent}'");
        let runs = host.run(["run", "list", "--filter", &filter, "--limit", "1000", "--json"]).json();
        Self(runs.as_array().unwrap().clone())
    }

    fn with_status(&self, status: &str) -> Vec<&Value> {
        self.0.iter().filter(|run| run["info"]["status"] == status).collect()
    }
}

fn tag(run: &Value, key: &str) -> Value {
    let tags = run["data"]["tags"].as_array().unwrap();
    tags.iter().find(|tag| tag["key"] == key).map(|tag| tag["value"].clone()).unwrap_or_default()
}

fn status(host: &Host, run: &str) -> Value {
    host.run(["run", "show", run, "--json"]).json()["info"]["status"].clone()
}

#[test]
fn a_grid_tries_every_combination_and_marks_the_best() {
    let host = with_table();
    let grid = ["--method", "grid", "--space", "max_depth=1..2", "--space", "eta=0.01,0.5", "--json"];
    let swept = sweep(&host, &grid).json();
    let trials = swept["trials"].as_array().unwrap();
    let tried: Vec<&Value> = trials.iter().map(|trial| &trial["params"]).collect();
    let params = |depth: &str, eta: &str| json!({ "max_depth": depth, "eta": eta });
    assert_eq!(tried, [&params("1", "0.01"), &params("1", "0.5"), &params("2", "0.01"), &params("2", "0.5")]);
    let accuracy = |trial: &Value| trial["metrics"]["accuracy"].as_f64().unwrap();
    let most = trials.iter().map(accuracy).fold(0.0, f64::max);
    let best = trials.iter().find(|trial| accuracy(trial) == most).unwrap();
    assert_eq!(swept["best_run_id"], best["run_id"], "of equals the first: {swept}");
    assert_eq!((&swept["bundle"], &swept["params"]), (&best["bundle"], &best["params"]));
    assert_eq!(swept["metrics"]["accuracy"], best["metrics"]["accuracy"]);

    let run_id = swept["run_id"].as_str().unwrap();
    let children = Children::of(&host, run_id);
    assert_eq!(children.with_status("FINISHED").len(), 4);
    let marked: Vec<_> = children.0.iter().filter(|run| tag(run, "host.sweep.best") == "true").collect();
    assert_eq!(marked.len(), 1);
    assert_eq!(marked[0]["info"]["run_id"], swept["best_run_id"]);
    let listed = host.run(["run", "list"]).expect_success();
    assert_eq!(listed.matches("(best)").count(), 1, "{listed}");
    let parent = host.run(["run", "show", run_id, "--json"]).json();
    assert_eq!(tag(&parent, "host.sweep.best_run"), swept["best_run_id"]);
    assert_eq!(tag(&parent, "host.bundle"), swept["bundle"]);
    assert_eq!(parent["info"]["status"], "FINISHED");
    // Nothing was registered, and the bundle serves all the same.
    assert_eq!(host.run(["model", "list", "--json"]).json(), json!([]));
    let bundle = swept["bundle"].as_str().unwrap();
    host.run(["predict", "--model", bundle, "--data", "table", "--split", "train"]).expect_success();
}

#[test]
fn the_same_sweep_again_finds_the_same_and_registers_it_under_a_name() {
    let host = with_table();
    let search =
        ["--space", "eta=0.01..0.5:log", "--space", "max_depth=1..4", "--trials", "13", "--seed", "7"];
    let all: Vec<&str> = search.into_iter().chain(["--name", "found", "--json"]).collect();
    let (first, second) = (sweep(&host, &all).json(), sweep(&host, &all).json());
    let tried = |swept: &Value| -> Vec<Value> {
        let trials = swept["trials"].as_array().unwrap().iter();
        trials.map(|trial| json!([trial["params"], trial["metrics"], trial["bundle"]])).collect()
    };
    assert_eq!(tried(&first).len(), 13);
    assert_eq!(tried(&first), tried(&second));
    assert_eq!((&first["model"], &first["version"]), (&json!("found"), &json!(1)));
    let shown = host.run(["model", "show", "found", "--json"]).json();
    assert_eq!(shown["bundle"], first["bundle"]);
}

#[test]
fn several_trials_run_at_once_and_share_the_threads() {
    let host = with_table();
    let swept =
        sweep(&host, &["--space", "max_depth=1..6", "--trials", "6", "--parallel", "3", "--json"]).json();
    let run_id = swept["run_id"].as_str().unwrap();
    let children = Children::of(&host, run_id);
    assert_eq!(children.with_status("FINISHED").len(), 6);
    let numbers: BTreeSet<String> =
        children.0.iter().map(|run| tag(run, "host.sweep.trial").as_str().unwrap().to_owned()).collect();
    assert_eq!(numbers.len(), 6);
}

#[test]
fn a_run_that_was_created_for_the_sweep_is_the_sweeps_and_no_trials() {
    let host = with_table();
    let run_id = crate::tracking::start_run(&host.server([]));
    let mut command = host.command();
    command.args(["sweep", "--data", "table", "--rounds", "2", "--threads", "1", "--method", "grid"]);
    command.args(["--space", "max_depth=1..2", "--json"]).env("HOST_RUN_ID", &run_id);
    let swept = ran(command.output().unwrap()).json();
    assert_eq!(swept["run_id"], run_id.as_str());
    let children = Children::of(&host, &run_id);
    assert_eq!(children.with_status("FINISHED").len(), 2);
    let is_beside =
        |run: &Value| run["info"]["experiment_id"] == "0" && run["info"]["run_id"] != run_id.as_str();
    assert!(children.0.iter().all(is_beside));
}

#[test]
fn one_trial_is_a_sweep_too_and_its_table_is_shown() {
    let host = with_table();
    let ran = sweep(&host, &["--space", "max_depth=3", "--trials", "1", "--metric", "log_loss"]);
    assert!(ran.stderr.contains("trial 0: log_loss 0."), "{}", ran.stderr);
    let shown = ran.expect_success();
    assert!(shown.starts_with("trial  run       ended     log_loss"), "{shown}");
    assert!(shown.contains("*          3\n") && shown.contains("best run"), "{shown}");
}

#[test]
fn a_trial_that_promises_little_is_stopped_and_leaves_no_bundle() {
    let host = with_table();
    let halving = ["--method", "grid", "--space", "eta=0.5,0.001", "--schedule", "halving", "--json"];
    let swept = sweep(&host, &halving).json();
    let ended: Vec<_> =
        swept["trials"].as_array().unwrap().iter().map(|trial| trial["ended"].clone()).collect();
    assert_eq!(ended, ["finished", "stopped"]);
    assert_eq!(swept["trials"][1]["bundle"], Value::Null);
    assert_eq!(swept["best_run_id"], swept["trials"][0]["run_id"]);
}

#[test]
fn a_trial_that_fails_is_a_failed_run_and_not_the_end() {
    let host = with_table();
    let swept = sweep(&host, &["--method", "grid", "--space", "subsample=2,0.5", "--json"]).json();
    let ended: Vec<_> =
        swept["trials"].as_array().unwrap().iter().map(|trial| trial["ended"].clone()).collect();
    assert_eq!(ended, ["failed", "finished"]);
    assert!(swept["trials"][0]["error"].as_str().unwrap().contains("subsample"), "{swept}");
    let children = Children::of(&host, swept["run_id"].as_str().unwrap());
    assert_eq!((children.with_status("FAILED").len(), children.with_status("FINISHED").len()), (1, 1));

    let failed = sweep(&host, &["--space", "subsample=2..5", "--trials", "3"]);
    assert_eq!(failed.code, 2, "{}", failed.stderr);
    assert!(
        failed.stderr.contains("3 of 3 trials failed, the first with: libxgboost: "),
        "{}",
        failed.stderr
    );
    let runs = host.run(["run", "list", "--filter", "attributes.status = 'RUNNING'", "--json"]).json();
    assert_eq!(runs, json!([]));
}

#[test]
fn mistakes_are_told_before_anything_runs() {
    let host = with_table();
    for (more, word) in [
        (&["--space", "max_dept=1..3"][..], "unknown parameter `max_dept`: did you mean `max_depth`?"),
        (&["--space", "max_depth=3..1"], "expected the smaller number first"),
        (&["--space", "max_depth"], "`max_depth` is no parameter to search"),
        (&["--space", "max_depth=1.5..3"], "parameter `max_depth` is `1.5`: expected a whole number"),
        (&["--space", "eta=0.1..2.0"], "parameter `eta` is `2`: expected a number from 0 to 1"),
        (&["--space", "eta=0.1", "--space", "eta=0.2"], "parameter `eta` is given twice"),
        (&["--space", "eta=0.1", "--set", "eta=0.2"], "both set and searched"),
        (&["--space", "eta=0.1..0.2", "--method", "grid"], "a grid cannot have the range of `eta`"),
        (&["--space", "eta=0.1", "--metric", "acuracy"], "did you mean `accuracy`?"),
        (&["--space", "eta=0.1", "--time", "soon"], "expected a time such as"),
        (&["--space", "eta=0.1", "--direction", "up"], "expected `minimize` or `maximize`"),
        (&["--space", "eta=0.1", "--resume", "nothing"], "there is no run `nothing`"),
    ] {
        let ran = sweep(&host, more);
        assert_eq!(ran.code, 2, "{more:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(word), "{more:?}: {}", ran.stderr);
    }
    assert_eq!(host.run(["run", "list", "--json"]).json(), json!([]));
    // That the labels have no such metric is known when the first model is judged.
    let ran = sweep(&host, &["--space", "eta=0.1", "--trials", "1", "--metric", "rmse"]);
    assert!(ran.stderr.contains("there is no metric `rmse`: expected one of accuracy, "), "{}", ran.stderr);
}

#[test]
fn a_sweep_ends_when_its_time_is_up() {
    let host = with_table();
    let swept =
        sweep(&host, &["--space", "eta=0.1..0.2", "--trials", "1000000", "--time", "2s", "--json"]).json();
    let trials = swept["trials"].as_array().unwrap().len();
    assert!((1..1_000_000).contains(&trials), "{trials}");
    assert_eq!(status(&host, swept["run_id"].as_str().unwrap()), "FINISHED");
}

#[test]
fn a_killed_sweep_goes_on_and_nothing_is_lost_or_doubled() {
    let host = Host::new();
    host.run(["data", "add", "mnist", &mnist_files()]).expect_success();
    let pixels = plugin("mnist-pixels");
    let arguments = |more: &[&str]| -> Vec<String> {
        let base =
            ["sweep", "--data", "mnist", "--preprocess", &pixels, "--train-rows", "500", "--rounds", "12"];
        let search = ["--space", "max_depth=2..6", "--space", "eta=0.05..0.5:log", "--trials", "6"];
        let rest = ["--parallel", "2", "--threads", "2", "--schedule", "halving", "--json"];
        let all = base.into_iter().chain(search).chain(rest).chain(more.iter().copied());
        all.map(str::to_owned).collect()
    };
    let mut child = host
        .command()
        .args(arguments(&["--run-name", "interrupted"]))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let parent = loop {
        let named = "attributes.run_name = 'interrupted'";
        let runs = host.run(["run", "list", "--filter", named, "--json"]).json();
        if let Some(run_id) = runs[0]["info"]["run_id"].as_str()
            && Children::of(&host, run_id).with_status("FINISHED").len() >= 2
        {
            break run_id.to_owned();
        }
        assert!(child.try_wait().unwrap().is_none(), "the sweep ended before it could be killed");
    };
    child.kill().unwrap();
    child.wait().unwrap();
    let finished: Vec<Value> =
        Children::of(&host, &parent).with_status("FINISHED").into_iter().cloned().collect();
    let left = Children::of(&host, &parent).with_status("RUNNING").len();

    let other: Vec<String> = arguments(&["--resume", &parent, "--label", "other"]);
    let refused = host.run(other.iter().map(String::as_str));
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("was started with the parameter `label` as `label`"),
        "{}",
        refused.stderr
    );

    let again: Vec<String> = arguments(&["--resume", &parent]);
    let swept = host.run(again.iter().map(String::as_str)).json();
    assert_eq!(swept["run_id"], parent.as_str());
    let numbers: Vec<u64> =
        swept["trials"].as_array().unwrap().iter().map(|trial| trial["trial"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
    let children = Children::of(&host, &parent);
    assert_eq!((children.with_status("FINISHED").len(), children.with_status("RUNNING").len()), (6, 0));
    assert_eq!(children.with_status("KILLED").len(), left);
    for run in &finished {
        assert!(children.0.iter().any(|child| child["info"] == run["info"]), "it is what it was");
    }
    assert_eq!(status(&host, &parent), "FINISHED");
    let refused = host.run(again.iter().map(String::as_str));
    assert!(refused.stderr.contains("has finished: there is nothing to resume"), "{}", refused.stderr);
}
