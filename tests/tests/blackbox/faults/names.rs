//! Names that would be paths, or something else, if anything took them for more than names.

use host_tests::{Host, Server, mnist_files};
use serde_json::{Value, json};

use super::{refused, run};
use crate::tracking::{api, assert_refused, post, start_run};

/// What a file system, a shell, a URL or a further decoding would read differently.
const HOSTILE: [&str; 18] = [
    "..",
    "../x",
    "../../../tmp/x",
    "x/../../y",
    "/etc/passwd",
    "//server/x",
    "%2e%2e/x",
    "%2e%2e%2fx",
    "%252e%252e%252fx",
    "..\\x",
    "C:\\x",
    "file:///etc/passwd",
    "a;b",
    "a#b",
    "a?b",
    "a\0b",
    "a\nb",
    "",
];

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Names in the state folder but for the database's files.
fn state(host: &Host) -> Vec<String> {
    let entries = std::fs::read_dir(host.state_dir()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| !name.starts_with("host.db")).collect();
    names.sort();
    names
}

#[test]
fn keys_that_could_be_paths_are_refused() {
    let host = Host::new();
    let server = host.server([]);
    let run_id = start_run(&server);
    post(&server, "registered-models/create", &json!({ "name": "m" }));
    post(&server, "model-versions/create", &json!({ "name": "m", "source": "mlflow-artifacts:/0/x" }));
    for key in HOSTILE {
        let pairs = json!([{ "key": "good", "value": "v" }, { "key": key, "value": "v" }]);
        let points = json!([{ "key": "good", "value": 1, "timestamp": 1 }, { "key": key, "value": 1, "timestamp": 1 }]);
        for (path, body) in [
            ("runs/log-metric", json!({ "run_id": run_id, "key": key, "value": 1, "timestamp": 1 })),
            ("runs/log-parameter", json!({ "run_id": run_id, "key": key, "value": "v" })),
            ("runs/set-tag", json!({ "run_id": run_id, "key": key, "value": "v" })),
            ("runs/log-batch", json!({ "run_id": run_id, "metrics": points })),
            ("runs/log-batch", json!({ "run_id": run_id, "params": pairs })),
            ("runs/log-batch", json!({ "run_id": run_id, "tags": pairs })),
            ("experiments/set-experiment-tag", json!({ "experiment_id": "0", "key": key, "value": "v" })),
            ("experiments/create", json!({ "name": "bad", "tags": pairs })),
            ("registered-models/set-tag", json!({ "name": "m", "key": key, "value": "v" })),
            ("model-versions/set-tag", json!({ "name": "m", "version": "1", "key": key, "value": "v" })),
            ("registered-models/create", json!({ "name": "bad", "tags": pairs })),
            ("registered-models/alias", json!({ "name": "m", "version": "1", "alias": key })),
        ] {
            let answer = server.post(&api(path), &body.to_string());
            assert_eq!(answer.status, 400, "{path} {key:?}: {}", answer.body);
            refused(&answer);
        }
    }
    let kept = run(&server, &run_id)["data"].clone();
    assert!(kept.get("params").is_none_or(|params| *params == json!([])), "{kept}");
    assert!(!kept.to_string().contains("good"), "nothing of a batch with a bad key: {kept}");
    let experiments = post(&server, "experiments/search", &json!({ "max_results": 10 }));
    assert_eq!(experiments["experiments"].as_array().unwrap().len(), 1);
    assert_eq!(
        post(&server, "runs/search", &json!({ "experiment_ids": ["0"] }))["runs"].as_array().unwrap().len(),
        1
    );
    assert_eq!(state(&host), ["blobs", "known-files", "temporary", "windows"]);
}

/// Where MLflow takes any key, it is text that names no place, and is found again as it is.
#[test]
fn keys_that_mlflow_does_not_check_are_only_text() {
    let host = Host::new();
    let server = host.server([]);
    for key in HOSTILE {
        let pairs = json!([{ "key": key, "value": "v" }]);
        let tags_of_run = json!({ "experiment_id": "0", "tags": pairs });
        let of_model = json!({ "experiment_id": "0", "tags": pairs, "params": pairs });
        let run = server.post(&api("runs/create"), &tags_of_run.to_string());
        let model = server.post(&api("logged-models"), &of_model.to_string());
        if key.contains('\0') {
            refused(&run);
            refused(&model);
            continue;
        }
        let run_id = run.json()["run"]["info"]["run_id"].as_str().unwrap().to_owned();
        let kept = super::run(&server, &run_id)["data"]["tags"].clone();
        assert!(kept.as_array().unwrap().contains(&pairs[0]), "{key:?}: {kept}");
        let delete = json!({ "run_id": run_id, "key": key }).to_string();
        assert_eq!(server.post(&api("runs/delete-tag"), &delete).status, 200, "{key:?}");
        let model = model.json()["model"].clone();
        assert_eq!((&model["info"]["tags"], &model["data"]["params"]), (&pairs, &pairs), "{key:?}");
        let model_id = model["info"]["model_id"].as_str().unwrap();
        post(&server, &format!("logged-models/{model_id}/params"), &json!({ "params": pairs }));
    }
    assert_eq!(state(&host), ["blobs", "known-files", "temporary", "windows"]);
}

/// Experiments and runs may be called anything, as with MLflow: the name is text, and places come from identifiers.
#[test]
fn names_of_experiments_and_runs_are_only_text() {
    let host = Host::new();
    let server = host.server([]);
    for name in HOSTILE {
        let created = server.post(&api("experiments/create"), &json!({ "name": name }).to_string());
        let body = json!({ "experiment_id": "0", "run_name": name }).to_string();
        let run = server.post(&api("runs/create"), &body);
        if name.contains('\0') {
            refused(&created);
            refused(&run);
            continue;
        }
        let run = run.json()["run"].clone();
        let id = run["info"]["run_id"].as_str().unwrap();
        assert_eq!(run["info"]["artifact_uri"], format!("mlflow-artifacts:/0/{id}/artifacts"));
        if name.is_empty() {
            refused(&created);
            continue;
        }
        assert_eq!(run["info"]["run_name"], name);
        let id = created.json()["experiment_id"].as_str().unwrap().to_owned();
        let path = api(&format!("experiments/get-by-name?experiment_name={}", encoded(name)));
        let found = server.get(&path).json()["experiment"].clone();
        assert_eq!((&found["name"], &found["experiment_id"]), (&json!(name), &json!(id)));
        assert_eq!(found["artifact_location"], format!("mlflow-artifacts:/{id}"));
    }
    assert_eq!(state(&host), ["blobs", "known-files", "temporary", "windows"]);
    let listed = host.run(["run", "list", "--json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), HOSTILE.len() - 1);
}

#[test]
fn names_of_models_are_refused_or_only_text() {
    let host = Host::new();
    let server = host.server([]);
    for name in HOSTILE {
        let created = server.post(&api("registered-models/create"), &json!({ "name": name }).to_string());
        let is_text = !name.is_empty() && !name.contains(['/', ':', '\0']) && !name.starts_with("..");
        if is_text {
            assert_eq!(created.json()["registered_model"]["name"], name, "{}", created.body);
        } else {
            refused(&created);
        }
        let found = server.get(&api(&format!("registered-models/get?name={}", encoded(name))));
        assert_eq!(found.status == 200, is_text, "{name:?}: {}", found.body);
        // A logged model's place comes from its identifier.
        let body = json!({ "experiment_id": "0", "name": name }).to_string();
        let logged = server.post(&api("logged-models"), &body);
        if logged.status != 200 {
            refused(&logged);
            continue;
        }
        let info = logged.json()["model"]["info"].clone();
        let id = info["model_id"].as_str().unwrap();
        assert_eq!(info["artifact_uri"], format!("mlflow-artifacts:/0/models/{id}/artifacts"));
    }
    assert_eq!(state(&host), ["blobs", "known-files", "temporary", "windows"]);
}

fn is_refused_by_path(server: &Server, path: &str) {
    let answer = server.get(path);
    assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.body);
    assert!(answer.json()["error_code"].is_string(), "{path}: {}", answer.body);
}

#[test]
fn identifiers_that_could_be_paths_name_nothing() {
    let host = Host::new();
    let server = host.server([]);
    for id in HOSTILE.map(encoded) {
        for path in
            ["experiments/get?experiment_id=", "runs/get?run_id=", "artifacts/list?run_id=", "logged-models/"]
        {
            is_refused_by_path(&server, &api(&format!("{path}{id}")));
        }
        let deleted = server.post(&api("runs/delete"), &json!({ "run_id": id }).to_string());
        assert!(matches!(deleted.status, 400 | 404), "{}", deleted.body);
    }
}

#[test]
fn artifacts_of_hostile_paths_are_neither_listed_nor_removed() {
    let host = Host::new();
    let server = host.server([]);
    let run_id = start_run(&server);
    let kept = format!("/api/2.0/mlflow-artifacts/artifacts/0/{run_id}/artifacts/kept.txt");
    assert_eq!(server.put(&kept, b"kept").status, 200);
    let agent = host_tests::agent();
    // A semicolon alone is a character of a name.
    for path in HOSTILE.into_iter().filter(|path| !matches!(*path, "" | "a;b")) {
        let url = format!("http://{}/api/2.0/mlflow-artifacts/artifacts/{}", server.address(), encoded(path));
        let mut answer = agent.delete(url).call().unwrap();
        let (status, body) = (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap());
        assert_eq!(status, 400, "{path:?}: {body}");
        assert!(body.contains("INVALID_PARAMETER_VALUE"), "{body}");
        refused(&server.get(&api(&format!("artifacts/list?run_id={run_id}&path={}", encoded(path)))));
        refused(&server.get(&format!("/api/2.0/mlflow-artifacts/artifacts?path={}", encoded(path))));
    }
    assert_eq!(server.get(&kept).body, "kept");
}

#[test]
fn places_outside_the_server_are_refused() {
    let host = Host::new();
    let server = host.server([]);
    let run_id = start_run(&server);
    for place in [
        "file:/etc",
        "file:///etc",
        "FILE:///etc",
        "/etc",
        "./x",
        "C:\\x",
        "c:/x",
        "s3://bucket/x",
        "http://127.0.0.1/x",
        "ftp://machine/x",
        "dbfs:/x",
        "runs:/x/y",
        "mlflow-artifacts:x",
        "mlflow-artifacts:/..",
        "mlflow-artifacts:/%2e%2e/x",
        "mlflow-artifacts:/%252e%252e/x",
        "mlflow-artifacts://machine/../x",
        "mlflow-artifacts:/x;y",
        "mlflow-artifacts:/x#y",
        "mlflow-artifacts:/x\0y",
    ] {
        refused(&server.post(
            &api("experiments/create"),
            &json!({ "name": "x", "artifact_location": place }).to_string(),
        ));
        post(&server, "registered-models/create", &json!({ "name": format!("m{}", encoded(place)) }));
        let version = json!({ "name": format!("m{}", encoded(place)), "source": place, "run_id": run_id });
        refused(&server.post(&api("model-versions/create"), &version.to_string()));
    }
    let found = server.get(&api("experiments/get-by-name?experiment_name=x"));
    assert_refused(&found, 404, "RESOURCE_DOES_NOT_EXIST");
}

#[test]
fn names_on_the_command_line_are_no_paths() {
    let host = Host::new();
    let files = mnist_files();
    for name in HOSTILE.into_iter().filter(|name| !name.contains('\0')) {
        for arguments in [
            &["data", "add", name, &files][..],
            &["data", "show", name],
            &["data", "tag", name, "x"],
            &["model", "show", name],
            &["model", "delete", name],
            &["run", "show", name],
            &["train", "--data", name],
            &["train", "--data", "d", "--name", name],
        ] {
            let ran = host.run(arguments.iter().copied());
            assert_eq!(ran.code, 2, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
            assert!(ran.stderr.starts_with("error: ") && !ran.stderr.contains("panicked"), "{}", ran.stderr);
        }
    }
    assert_eq!(host.run(["data", "list", "--json"]).json(), json!([]));
}

#[test]
fn huge_names_are_refused_in_a_short_answer() {
    let host = Host::new();
    let server = host.server([]);
    let run_id = start_run(&server);
    let huge = "x".repeat(1_000_000);
    let cases: [(&str, Value); 9] = [
        ("experiments/create", json!({ "name": huge })),
        ("runs/create", json!({ "experiment_id": huge })),
        ("runs/log-metric", json!({ "run_id": run_id, "key": huge, "value": 1, "timestamp": 1 })),
        ("runs/log-metric", json!({ "run_id": huge, "key": "a", "value": 1, "timestamp": 1 })),
        ("runs/log-parameter", json!({ "run_id": run_id, "key": huge, "value": "v" })),
        ("runs/set-tag", json!({ "run_id": run_id, "key": huge, "value": "v" })),
        ("registered-models/create", json!({ "name": huge })),
        ("registered-models/alias", json!({ "name": "m", "version": "1", "alias": huge })),
        ("experiments/set-experiment-tag", json!({ "experiment_id": "0", "key": huge, "value": "v" })),
    ];
    for (path, body) in cases {
        let answer = server.post(&api(path), &body.to_string());
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
        assert!(answer.json()["error_code"].is_string());
        assert!(answer.body.len() < 2_000, "{path}: an answer of {} bytes", answer.body.len());
    }
}
