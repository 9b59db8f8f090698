//! `host pipeline`: what is done is kept, what fails is told, and no end leaves anything half done.

mod faults;
mod triggers;

use std::path::Path;

use host_tests::{Host, Postgres, plugin, repository};
use serde_json::{Value, json};

use crate::place::Place;

/// Writes a pipeline file; gives its path.
pub(crate) fn pipeline(place: &Place, name: &str, steps: &str) -> String {
    place.write(&format!("{name}.yaml"), &format!("version: 1\nname: {name}\n{steps}"))
}

/// The steps of a report by name: status and outputs.
pub(crate) fn statuses(report: &Value) -> Vec<(String, String)> {
    let text = |step: &Value, key: &str| step[key].as_str().unwrap().to_owned();
    report["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (text(step, "step"), text(step, "status")))
        .collect()
}

fn status<'a>(statuses: &'a [(String, String)], step: &str) -> &'a str {
    &statuses.iter().find(|(name, _)| name == step).unwrap().1
}

/// How often each line stands in a ledger that steps write to.
pub(crate) fn ledger(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Runs of the tracker that are under way.
pub(crate) fn running(place: &Place) -> usize {
    place.json(&["run", "list", "--filter", "status = 'RUNNING'"]).as_array().unwrap().len()
}

const STEPS: &str = "\
params: { word: hello, extra: false }
steps:
  first:
    uses: command
    with:
      run: |
        echo \"text=${{ params.word }}\" >> $HOST_OUTPUTS
        echo 'a table' > $HOST_FILES_OUT/table
        echo first >> LEDGER
      env: { LEDGER: 'LEDGER' }
    outputs: [text, table]
  each:
    uses: command
    with:
      run: ['sh', '-c', 'echo n=${{ matrix.n }} >> $HOST_OUTPUTS; echo each ${{ matrix.n }} >> LEDGER; cat in/table']
      inputs: { in/table: '${{ steps.first.outputs.table }}' }
    matrix: { n: [1, 2, 3] }
    outputs: [n]
  extra:
    uses: command
    with: { run: 'echo extra >> LEDGER' }
    when: ${{ params.extra }}
  last:
    uses: command
    with: { run: 'echo \"all=${{ steps.each.outputs.n }} ${{ steps.first.outputs.text }}\" >> $HOST_OUTPUTS; echo last >> LEDGER' }
";

fn runs_once_and_reuses(place: &Place) {
    let path = place.folder().join("ledger");
    let ledger_path = path.to_str().unwrap();
    let file = pipeline(place, "reuse", &STEPS.replace("LEDGER", ledger_path));
    let will = |arguments: &[&str]| -> Vec<String> {
        let plan = place.json(&[&["pipeline", "plan", &file], arguments].concat());
        plan["steps"]
            .as_array()
            .unwrap()
            .iter()
            .map(|step| step["outcome"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(will(&[]), ["run", "unknown", "unknown", "unknown", "skip", "unknown"]);
    let report = place.json(&["pipeline", "run", &file]);
    let found = statuses(&report);
    assert_eq!(report["status"], "finished");
    assert_eq!((status(&found, "each[n=2]"), status(&found, "extra")), ("finished", "skipped"));
    let last = report["steps"].as_array().unwrap().iter().find(|step| step["step"] == "last").unwrap();
    assert_eq!(last["outputs"]["all"], "[1,2,3] hello");
    assert_eq!(ledger(&path), ["each 1", "each 2", "each 3", "first", "last"]);

    let again = statuses(&place.json(&["pipeline", "run", &file]));
    assert!(again.iter().all(|(_, status)| ["cached", "skipped"].contains(&status.as_str())), "{again:?}");
    assert_eq!(ledger(&path).len(), 5, "nothing ran again");
    assert_eq!(will(&[]), ["cached", "cached", "cached", "cached", "skip", "cached"]);

    // Another value: what does not depend on it is still there.
    let changed = statuses(&place.json(&["pipeline", "run", &file, "-p", "word=hi", "-p", "extra=true"]));
    assert_eq!(status(&changed, "first"), "finished");
    assert_eq!(status(&changed, "each[n=1]"), "cached", "the table is the same");
    assert_eq!((status(&changed, "last"), status(&changed, "extra")), ("finished", "finished"));
    assert_eq!(place.json(&["pipeline", "run", &file, "--force"])["status"], "finished");
    assert_eq!(ledger(&path).len(), 5 + 3 + 5);
    let listed = place.json(&["pipeline", "list", "--name", "reuse", "--limit", "3"]);
    assert_eq!(listed.as_array().unwrap().len(), 3);
    let newest = &listed[0]["run_id"];
    assert_eq!(&place.json(&["pipeline", "show", "reuse"])["run_id"], newest);
    assert_eq!(&place.json(&["pipeline", "show", &newest.as_str().unwrap()[..8]])["run_id"], newest);
    let (_, said) = place.refused(&["pipeline", "resume", "reuse"]);
    assert!(said.contains("has finished"), "{said}");
    assert_eq!(running(place), 0);
}

#[test]
fn what_was_done_with_the_same_inputs_is_not_done_again() {
    runs_once_and_reuses(&Place::local());
}

#[test]
fn what_was_done_is_not_done_again_on_postgresql_and_s3() {
    runs_once_and_reuses(&Place::shared(&Postgres::start(), "pipelines"));
}

#[test]
fn a_plan_tells_what_has_changed_since() {
    let place = Place::local();
    place.write("t.csv", "x\n1\n");
    let steps = "
params: { word: hello }
steps:
  data: { uses: data, with: { name: t, paths: t.csv } }
  say:
    uses: command
    with: { run: ['echo', '${{ steps.data.outputs.version }}', '${{ params.word }}'] }
  after:
    uses: command
    with: { run: 'true' }
    needs: [say]
";
    let file = pipeline(&place, "told", steps);
    let plan = |arguments: &[&str]| -> Vec<(String, String)> {
        let plan = place.json(&[&["pipeline", "plan", &file], arguments].concat());
        let text = |step: &Value, field: &str| step[field].as_str().unwrap().to_owned();
        let steps = plan["steps"].as_array().unwrap().iter();
        steps.map(|step| (text(step, "outcome"), text(step, "reason"))).collect()
    };
    let before = plan(&[]);
    assert_eq!(before[0], ("run".to_owned(), "it is always run".to_owned()));
    assert_eq!(before[1].0, "unknown", "{before:?}");
    assert_eq!(place.json(&["pipeline", "run", &file])["status"], "finished");
    let again = plan(&[]);
    assert_eq!((again[1].0.as_str(), again[2].0.as_str()), ("cached", "cached"), "{again:?}");
    assert!(again[1].1.ends_with(", if `data` answers as last time"), "{again:?}");
    let changed = plan(&["-p", "word=hi"]);
    assert_eq!(changed[1].0, "run");
    assert_eq!(changed[1].1, "`run[2]` is hi, was hello, if `data` answers as last time");
    let forgotten = plan(&["-p", "word=bye"]);
    assert_eq!(forgotten[1].1, "`run[2]` is bye, was hello, if `data` answers as last time");
}

#[test]
fn a_step_is_a_run_with_its_log_and_files() {
    let place = Place::local();
    let ledger_path = place.folder().join("ledger");
    let file = pipeline(&place, "runs", &STEPS.replace("LEDGER", ledger_path.to_str().unwrap()));
    let report = place.json(&["pipeline", "run", &file]);
    let runs = place.json(&["run", "list", "--experiment", "runs"]);
    let names: Vec<&str> =
        runs.as_array().unwrap().iter().map(|run| run["info"]["run_name"].as_str().unwrap()).collect();
    for step in ["first", "each[n=1]", "each[n=3]", "last"] {
        assert!(names.contains(&step), "{step}: {names:?}");
    }
    let server = place.server();
    let step = report["steps"].as_array().unwrap().iter().find(|step| step["step"] == "each[n=1]").unwrap();
    let run_id = step["run_id"].as_str().unwrap();
    let run = server.get(&format!("/api/2.0/mlflow/runs/get?run_id={run_id}")).json();
    let tag = |key: &str| {
        let tags = run["run"]["data"]["tags"].as_array().unwrap();
        tags.iter().find(|tag| tag["key"] == key).map(|tag| tag["value"].as_str().unwrap().to_owned())
    };
    assert_eq!(tag("mlflow.parentRunId").as_deref(), report["run_id"].as_str());
    assert_eq!(run["run"]["info"]["status"], "FINISHED");
    let uri = run["run"]["info"]["artifact_uri"].as_str().unwrap().replace("mlflow-artifacts:/", "");
    assert_eq!(server.get(&format!("/api/2.0/mlflow-artifacts/artifacts/{uri}/log.txt")).body, "a table\n");
}

#[test]
fn a_failure_stops_what_needs_it_and_nothing_else() {
    let place = Place::local();
    let path = place.folder().join("ledger");
    let ledger_path = path.to_str().unwrap();
    let mended = place.folder().join("mended");
    let steps = format!(
        "steps:\n  \
         good: {{ uses: command, with: {{ run: 'echo good >> {ledger_path}' }} }}\n  \
         bad:\n    uses: command\n    with: {{ run: 'echo bad >> {ledger_path}; test -e {} || (echo broken >&2; exit 3)' }}\n    \
         retry: {{ count: 2, backoff: 10ms }}\n  \
         after_bad: {{ uses: command, needs: [bad], with: {{ run: 'echo after_bad >> {ledger_path}' }} }}\n  \
         after_good: {{ uses: command, needs: [good], with: {{ run: 'echo after_good >> {ledger_path}' }} }}\n",
        mended.display()
    );
    let file = pipeline(&place, "failing", &steps);
    let ran = place.run(&["pipeline", "run", &file, "--json"]);
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let found = statuses(&report);
    assert_eq!(status(&found, "bad"), "failed");
    assert_eq!(status(&found, "after_bad"), "blocked");
    assert_eq!(status(&found, "after_good"), "finished");
    let bad = report["steps"].as_array().unwrap().iter().find(|step| step["step"] == "bad").unwrap();
    assert_eq!((&bad["attempts"], &bad["reason"]), (&json!(3), &json!("it exited with code 3: broken")));
    assert_eq!(ledger(&path), ["after_good", "bad", "bad", "bad", "good"]);

    std::fs::write(&mended, "").unwrap();
    let run_id = report["run_id"].as_str().unwrap();
    let resumed = place.json(&["pipeline", "resume", run_id]);
    assert_eq!((&resumed["status"], &resumed["run_id"]), (&json!("finished"), &json!(run_id)));
    assert_eq!(ledger(&path), ["after_bad", "after_good", "bad", "bad", "bad", "bad", "good"]);
    let (code, said) = place.refused(&["pipeline", "resume", run_id]);
    assert_eq!(code, 2);
    assert!(said.contains("has finished: there is nothing to go on with"), "{said}");
}

#[test]
fn fail_fast_starts_nothing_new() {
    let place = Place::local();
    let file = pipeline(
        &place,
        "fast",
        "steps:\n  a: { uses: command, with: { run: 'exit 1' } }\n  \
         b: { uses: command, with: { run: 'true' } }\n",
    );
    let ran = place.run(&["pipeline", "run", &file, "--fail-fast", "--cores", "1", "--json"]);
    assert_eq!(ran.code, 5);
    let found = statuses(&serde_json::from_str(&ran.stdout).unwrap());
    assert_eq!((status(&found, "a"), status(&found, "b")), ("failed", "blocked"));
}

#[test]
fn mistakes_in_a_file_are_told_together_with_their_places() {
    let place = Place::local();
    let told = |name: &str, steps: &str| {
        let file = pipeline(&place, name, steps);
        let (code, said) = place.refused(&["pipeline", "check", &file]);
        assert_eq!(code, 2, "{said}");
        said.replace(place.folder().to_str().unwrap(), "[FILES]")
    };
    let said = told(
        "wrong",
        "steps:\n  train:\n    uses: train\n    need: [data]\n    with: { data: 3, modle: cnn }\n  data:\n    uses: dat\n",
    );
    for expected in [
        "[FILES]/wrong.yaml:6:5: unknown key `need` of step `train`: did you mean `needs`?",
        "unknown key `modle` of `with` of step `train`: did you mean `model`?",
        "`data` in `with` of step `train`: expected a string, found the number `3`",
        "did you mean `data`?",
    ] {
        assert!(said.contains(expected), "{expected}\n{said}");
    }
    let circle = told(
        "circle",
        "steps:\n  a: { uses: command, needs: [b], with: { run: x } }\n  b: { uses: command, needs: [a], with: { run: x } }\n",
    );
    assert!(circle.contains("a → b → a") || circle.contains("b → a → b"), "{circle}");
    let bomb = (1..12).fold("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, level| {
        let before = format!("*a{}", level - 1);
        format!("{text}a{level}: &a{level} [{}]\n", vec![before; 9].join(", "))
    });
    let bomb = told("bomb", &format!("params:\n  {}\nsteps: {{}}\n", bomb.trim_end().replace('\n', "\n  ")));
    assert!(bomb.contains("alias"), "{bomb}");
    let (code, said) = place.refused(&["pipeline", "run", "/nowhere/pipeline.yaml"]);
    assert!(code == 2 && said.contains("failed to read `/nowhere/pipeline.yaml`"), "{said}");
    let file =
        pipeline(&place, "params", "params: { rows: 5 }\nsteps:\n  a: { uses: command, with: { run: x } }\n");
    let (_, said) = place.refused(&["pipeline", "check", &file, "-p", "row=6"]);
    assert!(said.contains("unknown parameter `row`: did you mean `rows`?"), "{said}");
    let (_, said) = place.refused(&["pipeline", "show", "nothing"]);
    assert!(said.contains("there is no pipeline run `nothing`"), "{said}");
}

#[test]
fn it_is_drawn_and_described() {
    let place = Place::local();
    let file = pipeline(
        &place,
        "drawn",
        "steps:\n  a: { uses: command, with: { run: x } }\n  b: { uses: command, needs: [a], with: { run: x } }\n",
    );
    let graph = |format: &str| place.run(&["pipeline", "graph", &file, "--format", format]).expect_success();
    assert!(graph("mermaid").contains("-->"));
    assert!(graph("svg").starts_with("<svg") || graph("svg").starts_with("<?xml"));
    assert!(graph("text").contains('b'));
    let schema: Value = serde_json::from_str(&place.run(&["pipeline", "schema"]).expect_success()).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
}

/// Runs an example; gives the report.
fn example(host: &Host, name: &str, params: &[&str]) -> Value {
    let file = repository().join("examples").join(name).join("pipeline.yaml");
    let plugins = format!("plugins={}", Path::new(&plugin("one-hot")).parent().unwrap().display());
    let mut arguments = vec!["pipeline", "run", file.to_str().unwrap(), "--json", "-p", &plugins];
    params.iter().for_each(|param| arguments.extend(["-p", *param]));
    host.run(arguments).json()
}

#[test]
fn the_digits_of_the_examples_get_a_champion() {
    let host = Host::new();
    let few = ["rows=1500", "rounds=4", "epochs=1", "trials=2"];
    let report = example(&host, "mnist", &few);
    assert!(statuses(&report).iter().all(|(_, status)| status == "finished"), "{report}");
    let served = host.run(["model", "show", "mnist@champion", "--json"]).json();
    let best = report["steps"].as_array().unwrap().iter().find(|step| step["step"] == "best").unwrap();
    assert_eq!(served["bundle"], best["outputs"]["bundle"]);
    assert!(best["outputs"]["metrics"]["accuracy"].as_f64().unwrap() > 0.75, "{best}");
    assert_eq!(host.run(["model", "check", "mnist@champion", "--json"]).json()["answered"], 8);
    // Nothing new: the champion stays, and what was computed is not computed again.
    let again = statuses(&example(&host, "mnist", &few));
    for step in ["digits", "xgboost", "cnn", "search"] {
        assert_eq!(status(&again, step), "cached", "{again:?}");
    }
    let history = host.run(["model", "history", "mnist", "--json"]).json();
    assert_eq!(history["changes"].as_array().unwrap().len(), 1, "{history}");
}

#[test]
fn the_penguins_of_the_examples_are_weighed() {
    let host = Host::new();
    let report = example(&host, "tabular", &[]);
    assert!(statuses(&report).iter().all(|(_, status)| status == "finished"), "{report}");
    let best = report["steps"].as_array().unwrap().iter().find(|step| step["step"] == "best").unwrap();
    let error = best["outputs"]["metrics"]["rmse"].as_f64().unwrap();
    // Their weights differ by 800 g from their mean.
    assert!((200.0..450.0).contains(&error), "{error}");
}

#[test]
fn the_schema_in_the_documentation_is_that_of_the_program() {
    let kept = std::fs::read_to_string(repository().join("docs/pipeline.schema.json")).unwrap();
    let told = Place::local().run(&["pipeline", "schema"]).expect_success();
    assert_eq!(kept, told, "write it anew: host pipeline schema > docs/pipeline.schema.json");
}
