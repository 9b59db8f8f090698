//! `host monitor run`: rows like the training's are stable, inverted ones are not, and it is the training of the model
//! that answered.

use host_tests::{Host, Ran, Server, pixels_json, plugin, test_images};
use serde_json::{Value, json};

use super::endpoints::wait_for;

fn send(server: &Server, images: impl Iterator<Item = Vec<u8>>) {
    for image in images {
        assert_eq!(server.post("/serve/watched", &pixels_json(&image)).status, 200);
    }
}

#[test]
fn drift_is_noticed_and_its_absence_too() {
    let host = Host::trained();
    let server = host.serve(["--model", "mnist", "--endpoint", "watched"]);
    let detector = plugin("psi");
    let run = |rows: &str| {
        let arguments = ["monitor", "run", "--endpoint", "watched", "--detector", &detector];
        host.run(arguments.into_iter().chain(["--rows", rows, "--json"]))
    };
    let early = run("100");
    assert_eq!(early.code, 2);
    assert!(early.stderr.contains("has no window yet"), "{}", early.stderr);
    // What it is, is not known here.
    assert!(early.stderr.contains("if it is made of others, those have windows"), "{}", early.stderr);

    send(&server, test_images().iter().take(300).cloned());
    server.wait_for_window(300);
    let same = run("300");
    assert_eq!(same.code, 0, "{}", same.stdout);
    let report = same.json();
    assert_eq!(report["verdict"], "stable", "{report}");
    assert_eq!(report["window_rows"], 300);

    let inverted = |image: &Vec<u8>| image.iter().map(|pixel| 255 - pixel).collect();
    send(&server, test_images().iter().take(300).map(inverted));
    server.wait_for_window(600);
    let drifted = run("300");
    assert_eq!(drifted.code, 4, "{}", drifted.stderr);
    let report: serde_json::Value = serde_json::from_str(&drifted.stdout).unwrap();
    assert_eq!(report["verdict"], "drifted");
    let scores = report["scores"].as_array().unwrap();
    let value =
        |score: &serde_json::Value| score["value"].as_f64().unwrap() / score["threshold"].as_f64().unwrap();
    assert_eq!(scores[0]["verdict"], "drifted");
    assert!(value(&scores[0]) >= value(&scores[1]), "worst first");
    drop(server);

    let transformer = plugin("argmax-label");
    let wrong = host.run(["monitor", "run", "--endpoint", "watched", "--detector", &transformer]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("it is a transformer, and a detector is needed here"), "{}", wrong.stderr);
}

#[test]
fn rows_are_on_disk_when_the_server_has_stopped() {
    let host = Host::trained();
    let server = host.serve(["--model", "mnist", "--endpoint", "brief"]);
    for image in &test_images()[..40] {
        assert_eq!(server.post("/serve/brief", &pixels_json(image)).status, 200);
    }
    assert_eq!(server.stop().code, 0);
    let detector = plugin("psi");
    let arguments = ["monitor", "run", "--endpoint", "brief", "--detector", &detector, "--json"];
    let report = host.run(arguments).json();
    assert_eq!(report["window_rows"], 40);
}

/// Trains a version of the model `moving` on rows whose `x` begins at `start`.
fn train_moving(host: &Host, start: u32) -> String {
    let mut table = String::from("x,label\n");
    for row in 0..1_000_u32 {
        table.push_str(&format!("{}.5,{}\n", start + row % 97, u32::from(row % 97 > 48)));
    }
    let file = host.state_dir().join(format!("from-{start}.csv"));
    std::fs::write(&file, table).unwrap();
    let dataset = format!("from-{start}");
    host.run(["data", "add", &dataset, file.to_str().unwrap()]).expect_success();
    let arguments = ["train", "--data", &dataset, "--name", "moving", "--rounds", "3", "--json"];
    host.run(arguments).json()["bundle"].as_str().unwrap().to_owned()
}

/// Sends as many rows as `table` has for that start, and waits until they are in the window.
fn send_moving(server: &Server, start: u32, rows_before: u64) {
    let rows: Vec<_> =
        (0..500).map(|row| serde_json::json!({ "x": f64::from(start + row % 97) + 0.5 })).collect();
    let body = serde_json::Value::from(rows).to_string();
    assert_eq!(server.post("/serve/moving", &body).status, 200);
    server.wait_for_window(rows_before + 500);
}

#[test]
fn a_window_is_compared_with_the_version_that_filled_it() {
    let host = Host::new();
    let detector = plugin("psi");
    let monitor = || {
        let ran = host.run(["monitor", "run", "--endpoint", "moving", "--detector", &detector, "--json"]);
        serde_json::from_str::<serde_json::Value>(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.stderr))
    };
    let first = train_moving(&host, 0);
    let server = host.serve(["--model", "moving"]);
    send_moving(&server, 0, 0);
    // A newer version, of other rows, that nobody serves yet.
    let second = train_moving(&host, 1_000);
    assert_ne!(first, second);
    let report = monitor();
    assert_eq!((&report["bundle"], &report["verdict"]), (&first.into(), &"stable".into()), "{report}");
    drop(server);

    // Once it has answered as many, the rows of the old one count no longer.
    let server = host.serve(["--model", "moving"]);
    send_moving(&server, 1_000, 0);
    let report = monitor();
    assert_eq!((&report["bundle"], &report["verdict"]), (&second.into(), &"stable".into()), "{report}");
    assert_eq!(report["window_rows"], 500);
}

/// So many rows whose `x` begins at `start`.
fn rows_from(start: u32, count: u32) -> String {
    let rows: Vec<_> = (0..count).map(|row| json!({ "x": f64::from(start + row % 97) + 0.5 })).collect();
    Value::from(rows).to_string()
}

fn monitor_moving(host: &Host, more: &[&str]) -> Ran {
    let detector = plugin("psi");
    let arguments = ["monitor", "run", "--endpoint", "moving", "--detector", &detector];
    host.run(arguments.into_iter().chain(more.iter().copied()))
}

#[test]
fn a_canary_does_not_hide_who_answers_most() {
    let host = Host::new();
    for start in [0, 1_000, 500] {
        train_moving(&host, start);
    }
    let file = host.state_dir().join("endpoints.yaml");
    let traffic = "[{ model: moving@1, weight: 95 }, { model: moving@2, weight: 5 }]";
    std::fs::write(&file, format!("version: 1\nendpoints: {{ moving: {{ traffic: {traffic} }} }}\n"))
        .unwrap();
    let server = host.serve(["--endpoints", file.to_str().unwrap()]);
    for request in 0..200 {
        assert_eq!(server.post("/serve/moving", &rows_from(request * 5 % 95, 5)).status, 200);
    }
    // In a segment of its own, the newest.
    server.wait_for_window(700);
    assert_eq!(server.post("/serve/moving/2", &rows_from(0, 30)).status, 200);
    assert_eq!(server.stop().code, 0);

    let report = monitor_moving(&host, &["--json"]).json();
    assert_eq!((&report["version"], &report["verdict"]), (&json!("moving@1"), &json!("stable")), "{report}");
    let told = monitor_moving(&host, &[]);
    assert!(told.stdout.contains(" rows of moving@1 against "), "{}", told.stdout);
    let canary = monitor_moving(&host, &["--model", "moving@2", "--json"]);
    assert_eq!(canary.code, 4, "{}", canary.stderr);
    let report: Value = serde_json::from_str(&canary.stdout).unwrap();
    assert_eq!((&report["version"], &report["verdict"]), (&json!("moving@2"), &json!("drifted")), "{report}");
    let nobody = monitor_moving(&host, &["--model", "moving@3"]);
    assert_eq!(nobody.code, 2);
    let expected = "endpoint `moving` has no rows in its window that `moving@3` answered: it has rows of `moving@2`, `moving@1`";
    assert!(nobody.stderr.contains(expected), "{}", nobody.stderr);

    // A pipeline's steps look at the same.
    let look = |more: &str| {
        format!("{{ uses: monitor, with: {{ endpoint: moving, detector: '{}'{more} }} }}", plugin("psi"))
    };
    let pipeline = host.state_dir().join("look.yaml");
    let steps = format!("{{ most: {}, canary: {} }}", look(""), look(", model: moving@2"));
    std::fs::write(&pipeline, format!("version: 1\nname: look\nsteps: {steps}\n")).unwrap();
    let report = host.run(["pipeline", "run", pipeline.to_str().unwrap(), "--json"]).json();
    let verdicts: Vec<_> = report["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (&step["step"], &step["outputs"]["verdict"]))
        .collect();
    assert_eq!(
        verdicts,
        [(&json!("most"), &json!("stable")), (&json!("canary"), &json!("drifted"))],
        "{report}"
    );
}

#[test]
fn what_is_asked_of_a_version_that_is_kept_is_not_watched() {
    let host = Host::new();
    let first = train_moving(&host, 0);
    let server = host.serve(["--model", "moving"]);
    train_moving(&host, 1_000);
    let versions = || server.get("/serve").json()["endpoints"][0]["versions"].clone();
    wait_for("the new version is not served", || versions().as_array().unwrap().len() == 2);
    assert_eq!((&versions()[0]["version"], &versions()[0]["weight"]), (&json!(2), &json!(1)));
    assert_eq!(server.post("/serve/moving", &rows_from(1_000, 100)).status, 200);
    assert_eq!(server.post("/serve/moving/1", &rows_from(1_000, 500)).status, 200);
    assert_eq!(server.stop().code, 0);

    let report = monitor_moving(&host, &["--json"]).json();
    assert_eq!((&report["version"], &report["window_rows"]), (&json!("moving@2"), &json!(100)), "{report}");
    let old = monitor_moving(&host, &["--model", &first]);
    assert_eq!(old.code, 2);
    let expected = format!("no rows in its window that `{first}` answered: it has rows of `moving@2`");
    assert!(old.stderr.contains(&expected), "{}", old.stderr);
}
