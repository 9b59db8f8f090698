//! The program with its things in one place or another: a state folder alone, or PostgreSQL and S3.

use std::path::PathBuf;
use std::process::Command;

use host_tests::{Bucket, Host, Postgres, Ran, Server, ran};
use serde_json::{Value, json};

/// The program on a store of its own.
pub(crate) struct Place {
    pub(crate) host: Host,
    environment: Vec<(&'static str, String)>,
}

impl Place {
    /// SQLite and blobs in the state folder.
    pub(crate) fn local() -> Self {
        Self { host: Host::new(), environment: Vec::new() }
    }

    /// PostgreSQL, and a prefix of the shared bucket.
    pub(crate) fn shared(postgres: &Postgres, prefix: &str) -> Self {
        let bucket = Bucket::shared();
        let mut environment = bucket.environment().to_vec();
        environment.push(("HOST_DATABASE", postgres.url()));
        environment.push(("HOST_BLOBS", bucket.url(prefix)));
        Self { host: Host::new(), environment }
    }

    /// The program, ready for more arguments.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.host.command();
        command.envs(self.environment.iter().cloned());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        ran(self.command().args(arguments).output().unwrap())
    }

    /// What a command that succeeds prints as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        self.run(&[arguments, &["--json"]].concat()).json()
    }

    /// Code and message of a command that fails.
    pub(crate) fn refused(&self, arguments: &[&str]) -> (i32, String) {
        let ran = self.run(arguments);
        assert!(ran.code != 0 && !ran.stderr.contains("panicked"), "{arguments:?}: {}", ran.stderr);
        (ran.code, ran.stderr.trim().to_owned())
    }

    /// A file beside the state; gives its path.
    pub(crate) fn write(&self, path: &str, text: &str) -> String {
        let path = self.folder().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Where such files are.
    pub(crate) fn folder(&self) -> PathBuf {
        self.host.state_dir().join("files")
    }

    /// A table that can be trained on, as the dataset `table`.
    pub(crate) fn add_table(&self) {
        let rows: String =
            (0..60).map(|row| format!("{},{},{}\n", row % 7, row % 5, usize::from(row % 7 > 3))).collect();
        let file = self.write("table.csv", &format!("a,b,label\n{rows}"));
        self.run(&["data", "add", "table", &file]).expect_success();
    }

    /// Starts `host server`.
    pub(crate) fn server(&self) -> Server {
        let environment: Vec<_> =
            self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.host.server_with_environment(&environment)
    }
}

/// Asks a server of MLflow's API, which must succeed.
pub(crate) fn post(server: &Server, path: &str, body: &Value) -> Value {
    let answer = server.post(&format!("/api/2.0/mlflow/{path}"), &body.to_string());
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.json()
}

/// Starts a run in an experiment; gives its id and the path of its artifacts.
pub(crate) fn start_run(server: &Server, experiment_id: &str) -> (String, String) {
    let run = post(server, "runs/create", &json!({ "experiment_id": experiment_id, "start_time": 1 }));
    let info = &run["run"]["info"];
    let path = info["artifact_uri"].as_str().unwrap().replace("mlflow-artifacts:/", "");
    (info["run_id"].as_str().unwrap().to_owned(), path)
}

/// Stores an artifact.
pub(crate) fn put_artifact(server: &Server, path: &str, content: &[u8]) {
    let answer = server.put(&format!("/api/2.0/mlflow-artifacts/artifacts/{path}"), content);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
}

/// Status and body of an artifact.
pub(crate) fn artifact(server: &Server, path: &str) -> (u16, String) {
    let answer = server.get(&format!("/api/2.0/mlflow-artifacts/artifacts/{path}"));
    (answer.status, answer.body)
}
