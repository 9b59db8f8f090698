//! `host gc`: what nothing names goes, and nothing else.

use std::process::{Command, Stdio};
use std::time::Duration;

use host_tests::{Postgres, python, ran};
use serde_json::{Value, json};

use crate::place::{Place, artifact, post, put_artifact, start_run};

const NOW: [&str; 5] = ["gc", "--older-than", "0s", "--deleted-older-than", "0s"];

/// Frees everything that can go, however young it is; gives the numbers of blobs and their bytes.
fn collect(place: &Place) -> Value {
    place.json(&NOW)
}

fn dry(place: &Place) -> Value {
    place.json(&[&NOW[..], &["--dry-run"]].concat())
}

/// Datasets: files of a deleted version go, unless another version has them.
fn datasets_are_collected(place: &Place) {
    place.write("tree/1.txt", "one");
    place.write("tree/2.txt", "two");
    let tree = place.write("tree/3.txt", "three").replace("/3.txt", "");
    let new = place.write("new/2.txt", "TWO").replace("/2.txt", "");
    place.run(&["data", "add", "d", &tree]).expect_success();
    place.run(&["data", "add", "d", &new, "--parent", "d@1", "--remove", "1.txt"]).expect_success();
    place.run(&["data", "squash", "all", "d@1", "d@2"]).expect_success();
    assert_eq!(collect(place)["blobs"], 0, "everything is named");
    place.run(&["data", "delete", "d@1"]).expect_success();
    place.run(&["data", "delete", "all@1"]).expect_success();
    let would = dry(place);
    // `one`, `two` and the manifest of `all@1`; that of `d@1` is what `d@2` rests on.
    assert_eq!((&would["blobs"], &would["dry_run"]), (&json!(3), &json!(true)), "{would}");
    assert_eq!(dry(place), would, "a dry run removes nothing");
    let young = place.json(&["gc"]);
    assert_eq!((&young["blobs"], &young["young_blobs"]), (&json!(0), &json!(3)), "{young}");
    let freed = collect(place);
    assert_eq!((&freed["blobs"], &freed["bytes"]), (&would["blobs"], &would["bytes"]), "{freed}");
    assert_eq!(freed["named_blobs"], would["named_blobs"]);
    place.run(&["data", "verify", "d@2"]).expect_success();
    let said = place.run(&NOW).expect_success();
    assert_eq!(said, "freed 0 blobs, 0 B\n");
    place.run(&["data", "add", "d", &tree]).expect_success();
    place.run(&["data", "verify", "d@3"]).expect_success();
}

/// Models: a bundle stays while a version holds it, and so do the run that made it and its artifacts.
fn models_are_kept(place: &Place) {
    place.add_table();
    let trained = place.json(&["train", "--data", "table", "--name", "digits", "--rounds", "2"]);
    let run_id = trained["run_id"].as_str().unwrap();
    let predict = || {
        place.run(&["predict", "--model", "digits@1", "--data", "table", "--split", "train"]).expect_success()
    };
    let before = predict();
    assert!(before.lines().count() > 10);
    let server = place.server();
    post(&server, "runs/delete", &json!({ "run_id": run_id }));
    let kept = collect(place);
    assert_eq!((&kept["blobs"], &kept["needed"], &kept["runs"]), (&json!(0), &json!(1), &json!(0)), "{kept}");
    assert_eq!(predict(), before);
    place.run(&["model", "delete", "digits"]).expect_success();
    let would = dry(place);
    let gone = collect(place);
    assert_eq!((&gone["runs"], &gone["needed"]), (&json!(1), &json!(0)), "{gone}");
    assert_eq!(gone["blobs"], would["blobs"]);
    assert!(gone["blobs"].as_u64().unwrap() >= 3, "model, reference and manifest: {gone}");
    let (code, said) = place.refused(&["model", "show", trained["bundle"].as_str().unwrap()]);
    assert_eq!(code, 2, "{said}");
    place.run(&["data", "verify", "table"]).expect_success();
}

/// Runs: what a live one has stays, what a deleted one has goes when its time has come.
fn runs_are_collected(place: &Place) {
    let server = place.server();
    let created = post(&server, "experiments/create", &json!({ "name": "old" }));
    let experiment = created["experiment_id"].as_str().unwrap();
    let (live, live_path) = start_run(&server, "0");
    let (deleted, deleted_path) = start_run(&server, "0");
    let (of_old, old_path) = start_run(&server, experiment);
    put_artifact(&server, &format!("{live_path}/a.txt"), b"live");
    put_artifact(&server, &format!("{live_path}/same.txt"), b"same");
    put_artifact(&server, &format!("{deleted_path}/same.txt"), b"same");
    put_artifact(&server, &format!("{deleted_path}/b.txt"), b"deleted");
    put_artifact(&server, &format!("{old_path}/c.txt"), b"old");
    for run in [&live, &deleted] {
        let points: Vec<_> =
            (0..500).map(|step| json!({ "key": "m", "value": 1, "timestamp": 1, "step": step })).collect();
        post(&server, "runs/log-batch", &json!({ "run_id": run, "metrics": points }));
    }
    let model = json!({ "experiment_id": experiment, "name": "logged", "source_run_id": of_old });
    post(&server, "logged-models", &model);
    post(&server, "runs/delete", &json!({ "run_id": deleted }));
    post(&server, "experiments/delete", &json!({ "experiment_id": experiment }));
    // They can be restored for a while.
    let early = place.json(&["gc", "--older-than", "0s"]);
    assert_eq!((&early["runs"], &early["blobs"]), (&json!(0), &json!(0)), "{early}");
    let would = dry(place);
    assert_eq!(artifact(&server, &format!("{deleted_path}/b.txt")), (200, "deleted".to_owned()));
    let gone = collect(place);
    for counts in [&would, &gone] {
        let of = |name: &str| counts[name].as_u64().unwrap();
        let found = [of("experiments"), of("runs"), of("logged_models"), of("blobs"), of("bytes")];
        assert_eq!(found, [1, 2, 1, 2, 10], "{counts}");
    }
    assert_eq!(artifact(&server, &format!("{live_path}/a.txt")), (200, "live".to_owned()));
    assert_eq!(artifact(&server, &format!("{live_path}/same.txt")), (200, "same".to_owned()));
    for path in [format!("{deleted_path}/same.txt"), format!("{old_path}/c.txt")] {
        assert_eq!(artifact(&server, &path).0, 404, "{path}");
    }
    for run in [&deleted, &of_old] {
        assert_eq!(server.get(&format!("/api/2.0/mlflow/runs/get?run_id={run}")).status, 404);
    }
    let history = server.get(&format!("/api/2.0/mlflow/metrics/get-history?run_id={live}&metric_key=m"));
    assert_eq!(history.json()["metrics"].as_array().unwrap().len(), 500);
}

fn everything_is_collected(place: &Place) {
    datasets_are_collected(place);
    runs_are_collected(place);
    models_are_kept(place);
}

#[test]
fn what_nothing_names_is_freed_on_sqlite() {
    let place = Place::local();
    everything_is_collected(&place);
    let script =
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone()[0])";
    let query = "SELECT COUNT(*) FROM points WHERE series NOT IN (SELECT id FROM series)";
    let database = place.host.state_dir().join("host.db");
    let counted = Command::new(python()).args(["-c", script]).arg(database).arg(query).output().unwrap();
    assert_eq!(ran(counted).expect_success(), "0\n", "points of a run that is gone are left");
}

#[test]
fn what_nothing_names_is_freed_on_postgresql_and_s3() {
    let postgres = Postgres::start();
    everything_is_collected(&Place::shared(&postgres, "garbage"));
}

/// Overwrites a blob in the state folder.
fn damage(place: &Place, digest: &Value) {
    let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
    std::fs::write(place.host.state_dir().join("blobs/sha256").join(&hex[..2]).join(hex), "{}").unwrap();
}

#[test]
fn what_cannot_be_read_stops_it() {
    let place = Place::local();
    let file = place.write("a.txt", "a");
    let added = place.json(&["data", "add", "d", &file]);
    place.run(&["data", "add", "d", &place.write("b.txt", "b")]).expect_success();
    place.run(&["data", "delete", "d@2"]).expect_success();
    place.add_table();
    let trained = place.json(&["train", "--data", "table", "--name", "digits", "--rounds", "1"]);
    let would = dry(&place);
    assert_eq!(would["blobs"], 2, "{would}");
    damage(&place, &added["digest"]);
    let (code, said) = place.refused(&NOW);
    assert_eq!(code, 1, "{said}");
    assert!(said.starts_with("error: nothing was freed, because what dataset version `d@1` names"), "{said}");
    place.run(&["data", "delete", "d@1"]).expect_success();
    damage(&place, &trained["bundle"]);
    let (code, said) = place.refused(&NOW);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("what model version `digits@1` names"), "{said}");
    place.run(&["model", "delete", "digits"]).expect_success();
    let (_, said) = place.refused(&NOW);
    assert!(said.contains("what run `"), "{said}");
    let segment = place.host.state_dir().join("windows/endpoint");
    std::fs::create_dir(&segment).unwrap();
    std::fs::write(segment.join("00000001.safetensors"), "noise").unwrap();
    let (_, said) = place.refused(&NOW);
    assert!(said.contains("segment 1 of the window of endpoint `endpoint` is damaged"), "{said}");
}

#[test]
fn windows_that_nobody_writes_to_go_with_what_only_they_name() {
    let place = Place::local();
    place.add_table();
    let trained = place.json(&["train", "--data", "table", "--name", "digits", "--rounds", "2"]);
    let server = host_tests::Server::start_serve(place.command(), ["--model", "digits"]);
    assert_eq!(server.post("/serve/digits", r#"[{"a":1,"b":2}]"#).status, 200);
    server.stop().expect_success();
    let window = place.host.state_dir().join("windows/digits");
    let segment = std::fs::read_dir(&window).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_dir_all(place.host.state_dir().join("predictions")).unwrap();
    place.run(&["model", "delete", "digits"]).expect_success();
    let tracker = place.server();
    post(&tracker, "runs/delete", &json!({ "run_id": trained["run_id"] }));
    let kept = collect(&place);
    assert_eq!((&kept["windows"], &kept["runs"]), (&json!(0), &json!(1)), "{kept}");
    let file = std::fs::File::options().append(true).open(&segment).unwrap();
    file.set_modified(std::time::SystemTime::now() - Duration::from_secs(31 * 86_400)).unwrap();
    let longer = place.json(&[&NOW[..], &["--windows-older-than", "60d"]].concat());
    assert_eq!((&longer["windows"], &longer["blobs"]), (&json!(0), &json!(0)), "{longer}");
    let would = dry(&place);
    assert!(window.exists() && would["windows"] == 1, "{would}");
    let gone = collect(&place);
    assert_eq!((&gone["windows"], &gone["blobs"]), (&json!(1), &would["blobs"]), "{gone}");
    assert!(!window.exists() && gone["blobs"].as_u64().unwrap() >= 3, "{gone}");
}

#[test]
fn another_database_frees_nothing() {
    let (postgres, place) = (Postgres::start(), Place::local());
    place.run(&["data", "add", "d", &place.write("a.txt", "a")]).expect_success();
    let (code, said) = place.refused(&[&NOW[..], &["--database", &postgres.url()]].concat());
    assert!(code == 2 && said.contains("put for another database"), "{code} {said}");
    // Another state folder with the same blobs.
    let other = Place::local();
    let blobs = format!("file://{}", place.host.state_dir().join("blobs").display());
    let (_, said) = other.refused(&[&NOW[..], &["--blobs", &blobs]].concat());
    assert!(said.contains("put for another database"), "{said}");
    place.run(&["data", "verify", "d"]).expect_success();
}

#[test]
fn a_database_that_was_lost_frees_nothing_until_it_is_said() {
    let place = Place::local();
    place.run(&["data", "add", "d", &place.write("a.txt", "a")]).expect_success();
    let backup = place.folder().join("backup.tar").to_str().unwrap().to_owned();
    place.run(&["export", &backup]).expect_success();
    for file in ["host.db", "host.db-wal", "host.db-shm"] {
        let _ = std::fs::remove_file(place.host.state_dir().join(file));
    }
    place.run(&["data", "add", "new", &place.write("b.txt", "b")]).expect_success();
    let (_, said) = place.refused(&NOW);
    assert!(said.contains("put for another database") && said.contains("--adopt"), "{said}");
    place.run(&["import", &backup]).expect_success();
    place.run(&[&NOW[..], &["--adopt"]].concat()).expect_success();
    place.run(&NOW).expect_success();
    for dataset in ["d", "new"] {
        place.run(&["data", "verify", dataset]).expect_success();
    }
}

#[test]
fn blobs_that_were_put_for_no_database_are_freed_when_it_is_said() {
    let (elsewhere, place) = (Place::local(), Place::local());
    elsewhere.add_table();
    elsewhere.json(&["train", "--data", "table", "--name", "digits", "--rounds", "2"]);
    let folder = elsewhere.host.state_dir().join("bundle").to_str().unwrap().to_owned();
    elsewhere.run(&["model", "export", "digits", &folder]).expect_success();
    // A folder is served without a database.
    let server = place.host.serve(["--model", &folder, "--window-rows", "0", "--record-mib", "0"]);
    assert_eq!(server.stop().code, 0);
    let (code, said) = place.refused(&NOW);
    assert!(code == 2 && said.contains("were put for no database") && said.contains("--adopt"), "{said}");
    let freed = place.json(&[&NOW[..], &["--adopt"]].concat());
    assert_ne!(freed["blobs"], 0, "{freed}");
}

#[test]
fn what_is_no_blob_is_left_alone() {
    let place = Place::local();
    place.run(&["data", "add", "d", &place.write("a.txt", "a")]).expect_success();
    let blobs = place.host.state_dir().join("blobs/sha256");
    let outside = place.folder().join("outside");
    std::fs::create_dir_all(outside.join("00")).unwrap();
    let name = format!("00{}", "1".repeat(62));
    std::fs::write(outside.join("00").join(&name), "not ours").unwrap();
    let _ = std::fs::remove_dir_all(blobs.join("00"));
    std::os::unix::fs::symlink(outside.join("00"), blobs.join("00")).unwrap();
    std::fs::create_dir_all(blobs.join("01")).unwrap();
    let link = blobs.join("01").join(format!("01{}", "1".repeat(62)));
    std::os::unix::fs::symlink(outside.join("00").join(&name), &link).unwrap();
    place.run(&NOW).expect_success();
    assert_eq!(std::fs::read_to_string(outside.join("00").join(&name)).unwrap(), "not ours");
    assert!(link.symlink_metadata().is_ok());
    place.run(&["data", "verify", "d"]).expect_success();
}

/// A dataset of `count` files that was deleted, and one that was not.
fn with_garbage(place: &Place, count: usize) {
    for number in 0..count {
        place.write(&format!("garbage/{number}"), &format!("garbage {number}"));
    }
    let folder = |name: &str| place.folder().join(name).to_str().unwrap().to_owned();
    place.run(&["data", "add", "garbage", &folder("garbage")]).expect_success();
    place.write("kept/1", "garbage 1");
    place.write("kept/2", "kept");
    place.run(&["data", "add", "kept", &folder("kept")]).expect_success();
    place.run(&["data", "delete", "garbage@1"]).expect_success();
}

#[test]
fn one_that_was_killed_is_repeated() {
    let place = Place::local();
    with_garbage(&place, 3_000);
    for wait_ms in [10, 20, 40] {
        let mut child = place.command().args(NOW).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait_ms));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    collect(&place);
    assert_eq!(collect(&place)["named_blobs"], 3);
    place.run(&["data", "verify", "kept"]).expect_success();
}

fn two_share_the_work(place: &Place, count: usize) {
    with_garbage(place, count);
    let start = || place.command().args(NOW).arg("--json").stdout(Stdio::piped()).spawn().unwrap();
    let both = [start(), start()].map(|child| ran(child.wait_with_output().unwrap()).json());
    let freed: u64 = both.iter().map(|report| report["blobs"].as_u64().unwrap()).sum();
    // The manifest goes as well; one of the files stays.
    assert!(freed >= count as u64, "{both:?}");
    assert_eq!(collect(place)["named_blobs"], 3);
    place.run(&["data", "verify", "kept"]).expect_success();
}

#[test]
fn two_at_once_do_no_harm() {
    two_share_the_work(&Place::local(), 1_000);
    let postgres = Postgres::start();
    two_share_the_work(&Place::shared(&postgres, "garbage-twice"), 100);
}

#[test]
fn ages_that_are_none_are_told() {
    let place = Place::local();
    for age in ["7", "-1d", "1w", ""] {
        let (code, said) = place.refused(&["gc", "--older-than", age]);
        assert!(code == 2 && said.contains("such as `24h`") || age.starts_with('-'), "{said}");
    }
}
