//! Scripts as users of MLflow write them, with nothing set but where the server is.

use std::process::Command;

use host_tests::{Bucket, Host, Postgres, Server, python, ran, repository};
use serde_json::{Value, json};

/// Runs a script; gives what it printed.
fn run_script(server: &Server, name: &str) -> String {
    let mut script = Command::new(python());
    for (variable, _) in std::env::vars_os() {
        if variable.to_str().is_some_and(|name| name.starts_with("MLFLOW_")) {
            script.env_remove(variable);
        }
    }
    script.arg(repository().join("tests/python").join(name));
    script.env("MLFLOW_TRACKING_URI", format!("http://{}", server.address()));
    ran(script.output().unwrap()).expect_success()
}

fn get(server: &Server, path: &str) -> Value {
    let answer = server.get(&format!("/api/2.0/mlflow/{path}"));
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.json()
}

fn post(server: &Server, path: &str, body: &Value) -> Value {
    let answer = server.post(&format!("/api/2.0/mlflow/{path}"), &body.to_string());
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.json()
}

/// The only run of an experiment.
fn only_run(server: &Server, experiment_id: &Value) -> Value {
    let found = post(server, "runs/search", &json!({ "experiment_ids": [experiment_id] }));
    assert_eq!(found["runs"].as_array().unwrap().len(), 1, "{found}");
    found["runs"][0].clone()
}

/// The value of a key among a run's `params`, `metrics` or `tags`.
fn value<'a>(run: &'a Value, kind: &str, key: &str) -> &'a Value {
    let all = run["data"][kind].as_array().unwrap();
    let found = all.iter().find(|one| one["key"] == key);
    &found.unwrap_or_else(|| panic!("no {key} among {kind}"))["value"]
}

/// Names of the files of a logged model.
fn model_files(server: &Server, model_id: &str) -> Vec<String> {
    let listed = get(server, &format!("logged-models/{model_id}/artifacts/directories"));
    listed["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect()
}

fn quickstart_works(server: &Server) {
    let printed = run_script(server, "quickstart.py");
    assert!(printed.contains("accuracy 0."), "{printed}");
    let experiment = get(server, "experiments/get-by-name?experiment_name=Quickstart");
    let run = only_run(server, &experiment["experiment"]["experiment_id"]);
    assert_eq!(run["info"]["status"], "FINISHED");
    assert_eq!(
        (value(&run, "params", "max_iter"), value(&run, "params", "solver")),
        (&json!("1000"), &json!("lbfgs"))
    );
    assert!(value(&run, "metrics", "accuracy").as_f64().unwrap() > 0.8);
    assert_eq!(value(&run, "tags", "Training Info"), "Logistic regression of irises");
    let model_id = run["outputs"]["model_outputs"][0]["model_id"].as_str().unwrap();
    let files = model_files(server, model_id);
    for file in ["MLmodel", "input_example.json", "requirements.txt"] {
        assert!(files.iter().any(|found| found == file), "{files:?}");
    }
    let version = get(server, "model-versions/get?name=iris-quickstart&version=1")["model_version"].clone();
    assert_eq!((&version["run_id"], &version["status"]), (&run["info"]["run_id"], &json!("READY")));
    assert_eq!(version["source"], format!("models:/{model_id}"));
}

fn xgboost_autolog_works(server: &Server) {
    let printed = run_script(server, "xgboost_autolog.py");
    let run = only_run(server, &json!("0"));
    let run_id = run["info"]["run_id"].as_str().unwrap();
    assert!(printed.contains(run_id), "{printed}");
    assert_eq!(run["info"]["status"], "FINISHED");
    assert_eq!(value(&run, "params", "max_depth"), "3");
    let history = get(server, &format!("metrics/get-history?run_id={run_id}&metric_key=test-logloss"));
    let losses: Vec<f64> =
        history["metrics"].as_array().unwrap().iter().map(|point| point["value"].as_f64().unwrap()).collect();
    // One a round; and the best again, as MLflow does where a training may stop early.
    assert!(losses.len() >= 20 && losses[19] < losses[0], "{losses:?}");
    let files = get(server, &format!("artifacts/list?run_id={run_id}")).to_string();
    assert!(files.contains("feature_importance_weight.json"), "{files}");
    let datasets = run["inputs"]["dataset_inputs"].as_array().unwrap();
    assert!(!datasets.is_empty(), "{run}");
    let model_id = run["outputs"]["model_outputs"][0]["model_id"].as_str().unwrap();
    assert!(model_files(server, model_id).iter().any(|file| file == "MLmodel"));
}

#[test]
fn the_scripts_of_users_work_on_sqlite_and_files() {
    let host = Host::new();
    let server = host.server([]);
    quickstart_works(&server);
    xgboost_autolog_works(&server);
}

#[test]
fn the_scripts_of_users_work_on_postgresql_and_s3() {
    let (host, postgres) = (Host::new(), Postgres::start());
    let server = host.server_with_bucket(Bucket::shared(), "scripts", ["--database", &postgres.url()]);
    quickstart_works(&server);
    xgboost_autolog_works(&server);
    assert!(!host.state_dir().join("host.db").exists());
}
