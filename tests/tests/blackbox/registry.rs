//! Models, their versions and their other names: `host model …`, `serve --model name@alias`, and MLflow's REST API.

use std::collections::BTreeSet;

use host_tests::{Answer, Host, Postgres, Ran, Server, ran};
use serde_json::{Value, json};

/// A state folder with a small dataset, and arguments that name its database.
pub(super) struct Registry {
    pub(super) host: Host,
    database: Vec<String>,
}

impl Registry {
    pub(super) fn new(database: Option<&Postgres>) -> Self {
        let host = Host::new();
        let file = host.state_dir().join("t.csv");
        let rows: String =
            (0..60).map(|row| format!("{},{},{}\n", row % 7, row % 5, usize::from(row % 7 > 3))).collect();
        std::fs::write(&file, format!("a,b,label\n{rows}")).unwrap();
        let database =
            database.map(|postgres| vec!["--database".to_owned(), postgres.url()]).unwrap_or_default();
        let registry = Self { host, database };
        registry.run(&["data", "add", "t", file.to_str().unwrap()]).expect_success();
        registry
    }

    pub(super) fn run(&self, arguments: &[&str]) -> Ran {
        self.host.run(arguments.iter().copied().chain(self.database()))
    }

    pub(super) fn database(&self) -> impl Iterator<Item = &str> {
        self.database.iter().map(String::as_str)
    }

    pub(super) fn server(&self) -> Server {
        self.host.server(self.database())
    }

    /// Trains a version of the model `digits`.
    pub(super) fn train(&self, rounds: &str) -> Value {
        self.run(&["train", "--data", "t", "--name", "digits", "--rounds", rounds, "--json"]).json()
    }

    /// Numbers and aliases of the versions of `digits`, oldest first.
    pub(super) fn versions(&self) -> Vec<(i64, Value)> {
        let models = self.run(&["model", "list", "--json"]).json();
        let digits = models.as_array().unwrap().iter().find(|model| model["name"] == "digits");
        let versions = digits.map(|model| model["versions"].as_array().unwrap().clone()).unwrap_or_default();
        versions
            .iter()
            .map(|version| (version["number"].as_i64().unwrap(), version["aliases"].clone()))
            .collect()
    }

    /// The bundle that `reference` is served from.
    fn served(&self, reference: &str) -> String {
        let arguments = ["--model", reference].into_iter().chain(self.database());
        let server = self.host.serve(arguments);
        let stopped = server.stop();
        assert_eq!(stopped.code, 0, "{}", stopped.stderr);
        self.run(&["model", "show", reference, "--json"]).json()["bundle"].as_str().unwrap().to_owned()
    }

    /// What is said about arguments that are wrong.
    pub(super) fn refused(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.stderr);
        ran.stderr.trim().to_owned()
    }
}

pub(super) fn api(path: &str) -> String {
    format!("/api/2.0/mlflow/{path}")
}

pub(super) fn post(server: &Server, path: &str, body: &Value) -> Value {
    let answer = server.post(&api(path), &body.to_string());
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.json()
}

fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(
        (answer.status, answer.json()["error_code"].as_str()),
        (status, Some(code)),
        "{}",
        answer.body
    );
}

fn versions_can_be_named_tagged_and_deleted(registry: &Registry) {
    let (first, second) = (registry.train("1"), registry.train("2"));
    assert_eq!((&first["version"], &second["version"]), (&json!(1), &json!(2)));
    let again = registry.train("1");
    assert_eq!((&again["version"], &again["bundle"]), (&json!(1), &first["bundle"]), "the same bundle");
    let said = registry.run(&["model", "alias", "digits@1", "champion"]).expect_success();
    assert_eq!(said, "digits@champion is version 1\n");
    assert_eq!(registry.served("digits@champion"), first["bundle"]);
    let told = registry.run(&["model", "alias", "digits", "champion", "--json"]).json();
    assert_eq!(told, json!({ "name": "digits", "version": 2, "alias": "champion" }));
    assert_eq!(registry.served("digits@champion"), second["bundle"]);
    assert_eq!(registry.served("digits@1"), first["bundle"]);
    assert_eq!(registry.versions(), [(1, json!([])), (2, json!(["champion"]))]);
    let table = registry.run(&["model", "list"]).expect_success();
    assert!(table.contains("ALIASES") && table.contains("champion"), "{table}");

    registry.run(&["model", "tag", "digits", "team=vision = best"]).expect_success();
    registry.run(&["model", "tag", "digits@champion", "checked=yes"]).expect_success();
    registry.run(&["model", "tag", "digits@2", "gone=x"]).expect_success();
    registry.run(&["model", "tag", "digits@2", "gone", "--delete"]).expect_success();
    let models = registry.run(&["model", "list", "--json"]).json();
    assert_eq!(models[0]["tags"], json!({ "team": "vision = best" }));
    assert_eq!(models[0]["versions"][1]["tags"], json!({ "checked": "yes" }));
    assert_eq!(models[0]["versions"][0]["run_id"], first["run_id"]);

    let unknown = registry.refused(&["model", "show", "digits@challenger"]);
    assert_eq!(unknown, "error: model `digits` has no alias `challenger`: it has `champion`");
    let unknown = registry.refused(&["serve", "--port", "0", "--model", "digits@9"]);
    assert_eq!(unknown, "error: model `digits` has no version 9: its highest is 2");
    registry.run(&["model", "delete", "digits@champion"]).expect_success();
    assert_eq!(registry.versions(), [(1, json!([]))], "the alias went with its version");
    assert_eq!(registry.train("3")["version"], 3, "a number is not used twice");
    let gone = registry.refused(&["model", "alias", "digits", "champion", "--delete"]);
    assert_eq!(gone, "error: model `digits` has no alias `champion`: it has none");
    registry.run(&["model", "alias", "digits@3", "champion"]).expect_success();
    registry.run(&["model", "alias", "digits", "champion", "--delete"]).expect_success();
    assert_eq!(registry.versions(), [(1, json!([])), (3, json!([]))]);
    for alias in ["7", "latest", "v1", "a b"] {
        registry.refused(&["model", "alias", "digits@1", alias]);
    }
    registry.run(&["model", "delete", "digits"]).expect_success();
    assert_eq!(registry.run(&["model", "list", "--json"]).json(), json!([]));
    let none = registry.refused(&["serve", "--port", "0", "--model", "digits"]);
    assert_eq!(none, "error: there is no model `digits`: none has been trained yet, see `host train --help`");
    // What it held is still there, by its digest.
    registry.run(&["model", "show", first["bundle"].as_str().unwrap()]).expect_success();
}

#[test]
fn versions_can_be_named_tagged_and_deleted_on_sqlite() {
    versions_can_be_named_tagged_and_deleted(&Registry::new(None));
}

#[test]
fn versions_can_be_named_tagged_and_deleted_on_postgresql() {
    let postgres = Postgres::start();
    let registry = Registry::new(Some(&postgres));
    versions_can_be_named_tagged_and_deleted(&registry);
    assert!(!registry.host.state_dir().join("host.db").exists());
}

#[test]
fn a_version_without_a_bundle_is_not_served() {
    let registry = Registry::new(None);
    let server = registry.server();
    post(&server, "registered-models/create", &json!({ "name": "remote" }));
    let empty = registry.refused(&["serve", "--port", "0", "--model", "remote"]);
    assert_eq!(empty, "error: model `remote` has no version yet");
    let version = json!({ "name": "remote", "source": "mlflow-artifacts:/0/files" });
    assert_eq!(post(&server, "model-versions/create", &version)["model_version"]["version"], "1");
    let said = registry.refused(&["serve", "--port", "0", "--model", "remote@1"]);
    assert_eq!(
        said,
        "error: version 1 of model `remote` has no bundle: only what `host train` or `host model import` made can be used here"
    );
    // Names that only clients of MLflow can use are listed as well.
    post(&server, "registered-models/create", &json!({ "name": "My Model" }));
    let names: Vec<Value> = registry.run(&["model", "list", "--json"]).json().as_array().unwrap().clone();
    assert_eq!(names.iter().map(|model| &model["name"]).collect::<Vec<_>>(), ["My Model", "remote"]);
    assert!(registry.run(&["model", "list"]).expect_success().contains("remote"));
}

#[test]
fn mlflows_clients_find_what_was_trained() {
    let registry = Registry::new(None);
    let trained = registry.train("2");
    let run_id = trained["run_id"].as_str().unwrap();
    let server = registry.server();
    let found = server.get(&api(&format!("model-versions/search?filter=run_id%3D'{run_id}'"))).json();
    let version = &found["model_versions"][0];
    assert_eq!((&version["name"], &version["version"]), (&json!("digits"), &json!("1")));
    assert_eq!((&version["run_id"], &version["status"]), (&trained["run_id"], &json!("READY")));
    let uri = server.get(&api("model-versions/get-download-uri?name=digits&version=1")).json();
    assert_eq!(uri["artifact_uri"], format!("runs:/{run_id}/bundle"));
    // The artifacts are the bundle: downloaded, they are what this program serves.
    let carried = tempfile::tempdir().unwrap();
    let folder = carried.path().join("bundle");
    let mut folders = vec!["bundle".to_owned()];
    while let Some(path) = folders.pop() {
        let listed = server.get(&api(&format!("artifacts/list?run_id={run_id}&path={path}"))).json();
        let root = listed["root_uri"].as_str().unwrap().replace("mlflow-artifacts:/", "").to_owned();
        std::fs::create_dir_all(carried.path().join(&path)).unwrap();
        for file in listed["files"].as_array().unwrap() {
            let path = file["path"].as_str().unwrap().to_owned();
            if file["is_dir"] == true {
                folders.push(path);
                continue;
            }
            let url = format!("http://{}/api/2.0/mlflow-artifacts/artifacts/{root}/{path}", server.address());
            let bytes = host_tests::agent().get(url).call().unwrap().body_mut().read_to_vec().unwrap();
            assert_eq!(file["file_size"], bytes.len());
            std::fs::write(carried.path().join(&path), bytes).unwrap();
        }
    }
    let shown = Host::new().run(["model", "show", folder.to_str().unwrap(), "--json"]).json();
    assert_eq!(shown["bundle"], trained["bundle"]);
    // A copy holds the same bundle, and can be served.
    post(&server, "registered-models/create", &json!({ "name": "copy" }));
    post(&server, "model-versions/create", &json!({ "name": "copy", "source": "models:/digits/1" }));
    assert_eq!(registry.served("copy"), trained["bundle"]);
}

#[test]
fn refuses_bad_requests_in_mlflows_shape() {
    let registry = Registry::new(None);
    let server = registry.server();
    post(&server, "registered-models/create", &json!({ "name": "m" }));
    let bad = |path: &str, body: &str| {
        assert_refused(&server.post(&api(path), body), 400, "INVALID_PARAMETER_VALUE");
    };
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for body in ["", "{", "[]", "null", "\u{1}", r#"{"name": 7}"#, r#"{"name": "a\u0000b"}"#, &deep] {
        bad("registered-models/create", body);
        bad("model-versions/create", body);
        bad("registered-models/rename", body);
        bad("model-versions/transition-stage", body);
    }
    for body in [
        json!({ "name": "x", "tags": [{ "key": "../a", "value": "b" }] }),
        json!({ "name": "x", "tags": [{ "key": "a", "value": "x".repeat(100_001) }] }),
        json!({ "name": "x", "description": "x".repeat(100_001) }),
        json!({ "name": "x", "tags": "no" }),
    ] {
        bad("registered-models/create", &body.to_string());
    }
    for source in [
        "",
        "file:///etc/passwd",
        "file:/etc",
        "/etc/passwd",
        "./x",
        "s3://bucket/x",
        "https://example.org/x",
        "mlflow-artifacts:/../x",
        "mlflow-artifacts:/0/%2e%2e/%2e%2e/x",
        "mlflow-artifacts:/0/%252e%252e/x",
        "mlflow-artifacts:/0/..%2fx",
        "mlflow-artifacts:/0\\..\\x",
        "mlflow-artifacts:/0/x\n",
        "runs:/x/../y",
        "models:/../1",
        "models:/m",
        "dummy-source",
    ] {
        bad("model-versions/create", &json!({ "name": "m", "source": source }).to_string());
    }
    let prompt = [json!({ "key": "mlflow.prompt.is_prompt", "value": "true" })];
    for source in ["file:///etc/passwd", "mlflow-artifacts:/0/x"] {
        bad("model-versions/create", &json!({ "name": "m", "source": source, "tags": prompt }).to_string());
    }
    for query in
        ["filter=x", "filter=name%20=", "max_results=0", "max_results=1001", "page_token=x", "order_by=x"]
    {
        let answer = server.get(&api(&format!("registered-models/search?{query}")));
        assert_refused(&answer, 400, "INVALID_PARAMETER_VALUE");
    }
    let injected = "registered-models/search?filter=name%20%3D%20'x''%20OR%201%3D1%3B%20DROP%20TABLE%20runs'";
    assert_eq!(server.get(&api(injected)).json()["registered_models"], json!([]));
    assert_refused(&server.get(&api("registered-models/create")), 404, "ENDPOINT_NOT_FOUND");
    assert_refused(&server.get(&api("registered-models/none")), 404, "ENDPOINT_NOT_FOUND");
    assert_refused(&server.get(&api("registered-models/get?name=none")), 404, "RESOURCE_DOES_NOT_EXIST");
    for path in ["registered-models/get?name=m", "registered-models/search"] {
        assert_eq!(server.get(&format!("/ajax-api/2.0/mlflow/{path}")).status, 200);
    }
    assert_eq!(server.get("/health").status, 200);
}

fn numbers_are_given_once(registry: &Registry) {
    let servers = [registry.server(), registry.server()];
    post(&servers[0], "registered-models/create", &json!({ "name": "busy" }));
    let version = json!({ "name": "busy", "source": "mlflow-artifacts:/0/files" });
    let numbers: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|thread| {
                let (server, version) = (&servers[thread % 2], &version);
                let create = move || {
                    let created = post(server, "model-versions/create", version);
                    created["model_version"]["version"].as_str().unwrap().to_owned()
                };
                scope.spawn(move || (0..10).map(|_| create()).collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let unique: BTreeSet<i64> = numbers.iter().map(|number| number.parse().unwrap()).collect();
    assert_eq!(unique, (1..=60).collect());
}

#[test]
fn two_servers_give_every_number_once_on_sqlite() {
    numbers_are_given_once(&Registry::new(None));
}

#[test]
fn two_servers_give_every_number_once_on_postgresql() {
    let postgres = Postgres::start();
    numbers_are_given_once(&Registry::new(Some(&postgres)));
}

#[test]
fn a_version_that_was_acknowledged_survives_a_kill() {
    let registry = Registry::new(None);
    let mut server = registry.server();
    post(&server, "registered-models/create", &json!({ "name": "kept" }));
    let version = json!({ "name": "kept", "source": "mlflow-artifacts:/0/files" });
    for round in 1..=3 {
        post(&server, "model-versions/create", &version);
        let alias = json!({ "name": "kept", "alias": "newest", "version": round.to_string() });
        post(&server, "registered-models/alias", &alias);
        server.kill();
        server = registry.server();
        let found = server.get(&api("registered-models/alias?name=kept&alias=newest")).json();
        assert_eq!(found["model_version"]["version"], round.to_string());
    }
}

#[test]
fn two_trainings_at_once_give_two_versions() {
    let registry = Registry::new(None);
    let children: Vec<_> = ["1", "2", "3"]
        .map(|rounds| {
            let mut train = registry.host.command();
            train.args(["train", "--data", "t", "--name", "digits", "--rounds", rounds]);
            train.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .into();
    for child in children {
        ran(child.wait_with_output().unwrap()).expect_success();
    }
    let numbers: Vec<i64> = registry.versions().into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, [1, 2, 3]);
}
