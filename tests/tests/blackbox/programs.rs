//! `host train --model command`: what a program is given, what becomes of its model, and what can go wrong with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use host_tests::{Postgres, Server, plugin, python, repository, sha256};
use serde_json::{Value, json};

use crate::pipelines::{pipeline, running, statuses};
use crate::place::{Place, artifact};

/// Longest that anything may take which a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Rows of three classes with something missing here and there.
fn table(rows: std::ops::Range<u32>) -> String {
    let row = |row: u32| {
        let noise = row.wrapping_mul(2_654_435_761) >> 28;
        let (x, y) = (row % 23 + noise % 3, row % 7);
        let missing = if row % 31 == 30 { String::new() } else { format!("{x}.5") };
        format!("{missing},{y},{}\n", (x / 9).min(2))
    };
    format!("x,y,label\n{}", rows.map(row).collect::<String>())
}

/// A place with such rows, and the program in the folder of its files.
fn with_program(place: &Place) {
    place.write("table/train.csv", &table(0..240));
    place.write("table/test.csv", &table(240..300));
    let folder = place.folder().join("table");
    place.run(&["data", "add", "table", folder.to_str().unwrap()]).expect_success();
    let script = repository().join("tests/python/train_command.py");
    place.write("train.py", &std::fs::read_to_string(script).unwrap());
}

/// `host train --model command` in the folder of the place's files.
fn command(place: &Place, arguments: &[&str], program: &[&str]) -> Command {
    let mut command = place.command();
    command.args(["train", "--data", "table", "--model", "command", "--json"]).args(arguments);
    command.arg("--").args(program).current_dir(place.folder());
    command
}

fn train(place: &Place, arguments: &[&str], program: &[&str]) -> host_tests::Ran {
    host_tests::ran(command(place, arguments, program).output().unwrap())
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what} took too long");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What is left in the folder for what is needed for a while.
fn left_over(place: &Place) -> usize {
    std::fs::read_dir(place.host.state_dir().join("temporary")).unwrap().count()
}

struct Run<'a> {
    server: &'a Server,
    run: Value,
}

impl<'a> Run<'a> {
    fn of(server: &'a Server, id: &str) -> Self {
        let run = server.get(&format!("/api/2.0/mlflow/runs/get?run_id={id}")).json();
        Self { server, run: run["run"].clone() }
    }

    fn value(&self, kind: &str, key: &str) -> &Value {
        let all = self.run["data"][kind].as_array().unwrap();
        let found = all.iter().find(|one| one["key"] == key);
        &found.unwrap_or_else(|| panic!("no {key} among {kind}: {}", self.run))["value"]
    }

    fn history(&self, key: &str) -> Vec<f64> {
        let id = self.run["info"]["run_id"].as_str().unwrap();
        let path = format!("/api/2.0/mlflow/metrics/get-history?run_id={id}&metric_key={key}");
        let found = self.server.get(&path).json();
        found["metrics"].as_array().unwrap().iter().map(|point| point["value"].as_f64().unwrap()).collect()
    }

    fn file(&self, path: &str) -> String {
        let folder = self.run["info"]["artifact_uri"].as_str().unwrap().replace("mlflow-artifacts:/", "");
        let (status, body) = artifact(self.server, &format!("{folder}/{path}"));
        assert_eq!(status, 200, "{path}: {body}");
        body
    }
}

fn a_program_trains_what_the_host_serves(place: &Place) {
    with_program(place);
    let scores = place.folder().join("scores.json");
    let given = format!("SCORES={}", scores.display());
    let (before, after) = (plugin("standard-scaler"), plugin("argmax-label"));
    let python = python();
    let program = [python.to_str().unwrap(), "train.py", "--depth", "4"];
    let options =
        ["--preprocess", &before, "--set", "rounds=6", "--set", "eta=0.4", "--seed", "7", "--env", &given];
    let report = train(place, &options, &program).json();
    let accuracy = report["metrics"]["accuracy"].as_f64().unwrap();
    assert!(accuracy > 0.8, "{report}");

    // The bundle says what Python said, to the last bit that decimals show.
    let predicted = place.run(&["predict", "--model", "table", "--data", "table"]).expect_success();
    let found: Vec<Value> = predicted
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["scores"].clone())
        .collect();
    let expected: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(&scores).unwrap()).unwrap();
    assert_eq!(found.len() as u64, report["test_rows"].as_u64().unwrap());
    assert_eq!(found.len(), expected.len());
    let numbers = |row: &Value| -> Vec<f32> {
        row.as_array().unwrap().iter().map(|score| score.as_f64().unwrap() as f32).collect()
    };
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(numbers(found), numbers(expected));
    }
    let shown = place.json(&["model", "show", "table"]);
    assert_eq!(shown["manifest"]["model"]["framework"], "xgboost");
    assert_eq!(shown["manifest"]["parameters"], json!({ "eta": "0.4", "rounds": "6", "seed": "7" }));

    // Its run has what the host logged, what the program logged by MLflow, and what it did without.
    let server = place.server();
    let run = Run::of(&server, report["run_id"].as_str().unwrap());
    assert_eq!(run.run["info"]["status"], "FINISHED");
    assert_eq!(run.value("metrics", "test_accuracy"), &json!(accuracy));
    let losses = run.history("python-test-mlogloss");
    assert_eq!(losses.len(), 6);
    assert_eq!(run.history("test-mlogloss"), losses);
    assert!(losses[5] < losses[0], "{losses:?}");
    assert_eq!((run.value("params", "eta"), run.value("params", "seed")), (&json!("0.4"), &json!("7")));
    assert_eq!(run.value("tags", "host.command"), &json!(json!(program).to_string()));
    let script = std::fs::read(place.folder().join("train.py")).unwrap();
    let inputs: Value =
        serde_json::from_str(run.value("tags", "host.command.inputs").as_str().unwrap()).unwrap();
    assert_eq!(inputs, json!({ "train.py": format!("sha256:{}", sha256(&script)) }));
    let environment = run.value("tags", "host.command.environment").as_str().unwrap();
    assert!(environment.contains("SCORES"), "{environment}");
    assert!(run.value("tags", "host.command.program").as_str().unwrap().contains("@sha256:"));
    assert_eq!(run.file("inputs/train.py").as_bytes(), script);

    // What it was given, as it has printed it.
    let log = run.file("program.log");
    let told = log.lines().find(|line| line.starts_with('{')).unwrap();
    let told: Value = serde_json::from_str(told).unwrap();
    let data = place.json(&["data", "show", "table"]);
    assert_eq!(told["dataset"], format!("table@{}", data["digest"].as_str().unwrap()));
    let digest = |rows| sha256(table(rows).as_bytes());
    assert_eq!(told["files"], json!({ "train.csv": digest(0..240), "test.csv": digest(240..300) }));
    assert_eq!(told["columns"], json!(["features"]), "what the scaler makes of both");
    assert_eq!((&told["label"], &told["here"]), (&json!("label"), &json!(["train.py"])));
    assert_eq!(told["run"], report["run_id"]);
    assert_eq!(left_over(place), 0);

    // The same model answers through other transformers, too.
    let options = ["--preprocess", &before, "--postprocess", &after, "--name", "labelled"];
    train(place, &options, &program).json();
    let answer = place.run(&["predict", "--model", "labelled", "--data", "table"]).expect_success();
    assert!(answer.starts_with("{\"label\":"), "{answer}");
}

#[test]
fn a_program_trains_what_the_host_serves_on_sqlite_and_files() {
    a_program_trains_what_the_host_serves(&Place::local());
}

#[test]
fn a_program_trains_what_the_host_serves_on_postgresql_and_s3() {
    let postgres = Postgres::start();
    a_program_trains_what_the_host_serves(&Place::shared(&postgres, "programs"));
}

/// A place where any program can train, and a model file of one feature for programs that write such.
fn with_models(place: &Place) -> PathBuf {
    place.add_table();
    let narrow = place.write("narrow.csv", &format!("a,label\n{}", "1,0\n2,1\n3,0\n".repeat(20)));
    place.run(&["data", "add", "narrow", &narrow]).expect_success();
    let train = ["train", "--data", "narrow", "--rounds", "1", "--threads", "1", "--json"];
    let bundle = place.run(&train).json()["bundle"].as_str().unwrap().to_owned();
    let folder = place.folder().join("bundle");
    place.run(&["model", "export", &bundle, folder.to_str().unwrap()]).expect_success();
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(folder.join("bundle.json")).unwrap()).unwrap();
    let digest = manifest["model"]["blob"]["digest"].as_str().unwrap().replace("sha256:", "");
    folder.join("blobs/sha256").join(digest)
}

#[test]
fn whatever_a_program_does_is_told_in_one_sentence() {
    let place = Place::local();
    let narrow = format!("NARROW={}", with_models(&place).display());
    let versions = || place.json(&["model", "list"]).as_array().unwrap().len();
    let (before, temporary) = (versions(), left_over(&place));
    for (script, expected) in [
        ("echo no; echo 'ValueError: boom' >&2; exit 3", "the program exited with code 3: ValueError: boom"),
        ("kill -9 $$", "the program was killed by signal 9"),
        (
            "true",
            "the program ended well, but wrote no model file: expected one at the path in `HOST_MODEL_OUT`",
        ),
        (
            "mkdir $HOST_MODEL_OUT",
            "the program ended well, but wrote no model file: expected one at the path in `HOST_MODEL_OUT`",
        ),
        ("echo {} > $HOST_MODEL_OUT", "the trained model cannot be loaded: malformed XGBoost JSON model"),
        ("echo text > $HOST_MODEL_OUT", "not a model file: expected an XGBoost model saved as UBJSON"),
        (
            "truncate -s 5G $HOST_MODEL_OUT",
            "the program wrote a model file of 5368709120 bytes: expected at most 4294967296",
        ),
        (
            "cp $NARROW $HOST_MODEL_OUT",
            "the model takes 1 features a row: expected 2, as many as the transformers make",
        ),
    ] {
        let failed = train(&place, &["--env", &narrow], &["sh", "-c", script]);
        assert_eq!(failed.code, 2, "{script}: {}", failed.stderr);
        assert!(failed.stderr.contains(expected), "{script}: {}", failed.stderr);
        assert_eq!(failed.stderr.trim().lines().count(), 1, "{script}: {}", failed.stderr);
        let newest = place.json(&["run", "list", "--limit", "1"]);
        assert_eq!(newest[0]["info"]["status"], "FAILED", "{script}: {newest}");
    }
    assert_eq!((versions(), left_over(&place), running(&place)), (before, temporary, 0));
}

#[test]
fn what_cannot_begin_is_told_before_there_is_a_run() {
    let place = Place::local();
    place.add_table();
    for (arguments, program, expected) in [
        (
            &[][..],
            &["no-such-program"][..],
            "program `no-such-program` cannot be run: it is in no folder of `PATH`",
        ),
        (&[], &["./train.sh"], "program `./train.sh` cannot be run: there is no such file"),
        (&[], &[], "there is no program to train with"),
        (
            &["--input", "../x"],
            &["sh"],
            "input `../x` cannot be used: expected a path below the current folder",
        ),
        (&["--input", "nothing"], &["sh"], "input `"),
        (&["--env", "HOST_SEED=1"], &["sh"], "variable `HOST_SEED` is not yours to set"),
        (&["--set", "label=1"], &["sh"], "parameter `label` is `1`: expected none"),
        (&["--set", "seed=x"], &["sh"], "parameter `seed` is `x`: expected a whole number"),
        (&["--rounds", "3"], &["sh"], "hint: set its rounds with `--set rounds=3`"),
        (&["--checkpoint-every", "3"], &["sh"], "a program keeps its checkpoints itself"),
        (&["--model", "mlp"], &["sh"], "a program after `--` is for `--model command`"),
        (&["--model", "mlp", "--input", "table.csv"], &[], "`--input` is for `--model command`"),
    ] {
        let mut command = place.command();
        command.args(["train", "--data", "table"]);
        if !arguments.contains(&"--model") {
            command.args(["--model", "command"]);
        }
        command.args(arguments).arg("--").args(program).current_dir(place.folder());
        let failed = host_tests::ran(command.output().unwrap());
        assert_eq!(failed.code, 2, "{arguments:?} {program:?}: {}", failed.stderr);
        assert!(failed.stderr.contains(expected), "{arguments:?} {program:?}: {}", failed.stderr);
    }
    assert_eq!(place.json(&["run", "list"]), json!([]));
}

#[test]
fn what_a_program_prints_without_end_fills_neither_memory_nor_the_store() {
    let place = Place::local();
    place.add_table();
    let failed = train(&place, &[], &["sh", "-c", "yes | head -c 100000000; echo the end; exit 1"]);
    assert!(failed.stderr.contains("exited with code 1: the end"), "{}", failed.stderr);
    let server = place.server();
    let newest = place.json(&["run", "list", "--limit", "1"]);
    let log = Run::of(&server, newest[0]["info"]["run_id"].as_str().unwrap()).file("program.log");
    assert!(log.len() < 1_000_000 && log.ends_with("y\nthe end\n") && log.contains("bytes left out"));
}

/// Starts a training whose program never ends; gives the process and the program's.
fn hanging(place: &Place) -> (Child, String) {
    let pid = place.folder().join("pid");
    let given = format!("PID_FILE={}", pid.display());
    let mut command =
        command(place, &["--env", &given], &["sh", "-c", "echo $$ > $PID_FILE; exec sleep 1000"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let read = || std::fs::read_to_string(&pid).unwrap_or_default().trim().to_owned();
    wait_until("starting", || !read().is_empty());
    (child, read())
}

fn is_gone(process: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

#[test]
fn a_program_does_not_outlive_the_host() {
    let place = Place::local();
    place.add_table();
    let (mut host, program) = hanging(&place);
    assert!(Path::new(&format!("/proc/{program}")).exists());
    host.kill().unwrap();
    host.wait().unwrap();
    wait_until("ending the program", || is_gone(&program));
}

#[test]
fn stopped_by_the_keyboard_the_program_ends_and_its_run_is_killed() {
    let place = Place::local();
    place.add_table();
    let (host, program) = hanging(&place);
    Command::new("kill").args(["-INT", &host.id().to_string()]).status().unwrap();
    let output = host.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.trim()), (Some(130), "error: training was stopped"));
    assert!(is_gone(&program));
    let newest = place.json(&["run", "list", "--limit", "1"]);
    assert_eq!(newest[0]["info"]["status"], "KILLED");
    assert_eq!(left_over(&place), 0);
}

#[test]
fn a_program_goes_on_from_a_model_if_it_is_given_one() {
    let place = Place::local();
    place.add_table();
    place.run(&["train", "--data", "table", "--rounds", "2", "--threads", "1"]).expect_success();
    let script = "cp $HOST_START_FROM $HOST_MODEL_OUT";
    let report =
        train(&place, &["--continue-from", "table", "--name", "again"], &["sh", "-c", script]).json();
    let model = |name: &str| place.json(&["model", "show", name])["manifest"]["model"].clone();
    assert_eq!(model("again"), model("table"));
    assert_eq!(report["metrics"], place.json(&["model", "show", "table"])["manifest"]["metrics"]);
}

#[test]
fn a_sweep_searches_the_parameters_of_a_program() {
    let place = Place::local();
    with_program(&place);
    let python = python();
    let sweep = |more: &[&str]| {
        let mut command = place.command();
        command.args(["sweep", "--data", "table", "--model", "command", "--method", "grid", "--json"]);
        command.args(["--space", "eta=0.01,0.5", "--space", "rounds=1..2", "--parallel", "2"]).args(more);
        command.args(["--", python.to_str().unwrap(), "train.py"]).current_dir(place.folder());
        host_tests::ran(command.output().unwrap())
    };
    let swept = sweep(&[]).json();
    let trials = swept["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 4);
    assert_eq!(swept["params"]["eta"], "0.5", "{swept}");
    let server = place.server();
    for trial in trials {
        let run = Run::of(&server, trial["run_id"].as_str().unwrap());
        let rounds: usize = trial["params"]["rounds"].as_str().unwrap().parse().unwrap();
        assert_eq!(run.history("python-test-mlogloss").len(), rounds, "{trial}");
        assert_eq!(run.value("params", "eta"), &trial["params"]["eta"]);
    }
    let refused = sweep(&["--schedule", "halving"]);
    assert!(refused.stderr.contains("its trials are not ended early"), "{}", refused.stderr);
    assert_eq!(left_over(&place), 0);
}

#[test]
fn a_pipeline_trains_with_a_program_and_once() {
    let place = Place::local();
    with_program(&place);
    let python = python();
    let steps = format!(
        "steps:\n  data: {{ uses: data, with: {{ name: table, paths: table }} }}\n  train:\n    uses: train\n    \
         with:\n      data: '${{{{ steps.data.outputs.dataset }}}}'\n      model: command\n      \
         run: ['{}', train.py, --depth, 2]\n      inputs: train.py\n      params: {{ rounds: 3 }}\n      \
         env: {{ MODE: fast }}\n",
        python.display()
    );
    let file = pipeline(&place, "program", &steps.replace("--depth, 2", "--depth, '2'"));
    let ran = place.json(&["pipeline", "run", &file]);
    assert_eq!(ran["status"], "finished", "{ran}");
    let step = &ran["steps"][1];
    assert!(step["outputs"]["bundle"].as_str().unwrap().starts_with("sha256:"), "{ran}");
    let server = place.server();
    let run = Run::of(&server, step["run_id"].as_str().unwrap());
    assert_eq!(run.history("python-test-mlogloss").len(), 3, "it reports to the run of the step");
    assert_eq!(run.value("params", "rounds"), "3");
    assert!(run.value("tags", "host.command.environment").as_str().unwrap().contains("fast"));
    let status = |ran: &Value| statuses(ran)[1].1.clone();
    assert_eq!(status(&place.json(&["pipeline", "run", &file])), "cached");
    let script = std::fs::read_to_string(place.folder().join("train.py")).unwrap();
    place.write("train.py", &format!("{script}\n# Another script.\n"));
    assert_eq!(status(&place.json(&["pipeline", "run", &file])), "finished");
    assert_eq!(running(&place), 0);
}
