//! The program as a user runs it: commands on one state folder, and a client of what it serves.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Context as _, Error, Result};
use crate::http::Connection;
use crate::layout::Layout;
use crate::{process, terminal};

/// The program writes its windows every second.
const WINDOW_MAX: Duration = Duration::from_secs(15);

/// A state folder to run the program on.
pub(crate) struct Session<'a> {
    layout: &'a Layout,
    state: PathBuf,
}

/// What a model said to images, one request each.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// The first of them, as it came.
    pub(crate) first: String,
    pub(crate) labels: Vec<i64>,
    pub(crate) probabilities: Vec<f64>,
    /// Time of each request, in milliseconds.
    pub(crate) latencies_ms: Vec<f64>,
    /// Time of all of them, one after another.
    pub(crate) elapsed: Duration,
}

impl<'a> Session<'a> {
    /// Uses the state in `state`, which is created by the first command.
    pub(crate) fn new(layout: &'a Layout, state: PathBuf) -> Self {
        Self { layout, state }
    }

    /// The program with `arguments`, called in the clone.
    pub(crate) fn host<'s>(&self, arguments: impl IntoIterator<Item = &'s str>) -> Command {
        let mut command = Command::new(self.layout.host());
        command.args(arguments).current_dir(self.layout.root()).env("HOST_STATE_DIR", &self.state);
        command
    }

    /// Trains the model `mnist` on the dataset of that name, with the plugins of the demo.
    pub(crate) fn train<'s>(&self, options: impl IntoIterator<Item = &'s str>) -> Command {
        self.train_as("mnist", options)
    }

    /// The same for a model of another name.
    pub(crate) fn train_as<'s>(&self, name: &str, options: impl IntoIterator<Item = &'s str>) -> Command {
        let mut command = self.host(["train", "--data", "mnist"]);
        command.arg("--preprocess").arg(self.layout.plugin("mnist-pixels"));
        command.arg("--postprocess").arg(self.layout.plugin("argmax-label"));
        command.args(["--model", "xgboost", "--name", name]).args(options);
        command
    }

    /// The component of a first-party plugin.
    pub(crate) fn plugin(&self, name: &str) -> PathBuf {
        self.layout.plugin(name)
    }

    /// Shows a command as the user would type it with the program on the path.
    pub(crate) fn show(&self, command: &Command) {
        let typed = process::display(command);
        terminal::command(&typed.replacen(&process::display_path(&self.layout.host()), "host", 1));
    }

    /// Shows a command and runs it.
    pub(crate) fn run(&self, command: &mut Command, what: &str) -> Result<()> {
        self.show(command);
        process::run(command, what)
    }
}

/// Sends `bodies` one after another over one connection.
pub(crate) fn classify(address: SocketAddr, path: &str, bodies: &[Vec<u8>]) -> Result<Answers> {
    let mut connection = Connection::open(address).context("reach the server")?;
    let mut answers = Answers::default();
    let started = Instant::now();
    for (index, body) in bodies.iter().enumerate() {
        let sent = Instant::now();
        let response = connection.post(path, body).context(format_args!("have image {index} classified"))?;
        answers.latencies_ms.push(sent.elapsed().as_secs_f64() * 1e3);
        if index == 0 {
            answers.first = String::from_utf8_lossy(&response.body).into_owned();
        }
        let answer: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        let label = answer.get("label").and_then(Value::as_i64);
        match (response.status, label, answer.get("probability").and_then(Value::as_f64)) {
            (200, Some(label), Some(probability)) => {
                answers.labels.push(label);
                answers.probabilities.push(probability);
            }
            (status, ..) => {
                let text = String::from_utf8_lossy(&response.body);
                return Err(Error::new(format!(
                    "the server answered {status} to image {index}: {}",
                    text.trim()
                )));
            }
        }
    }
    answers.elapsed = started.elapsed();
    Ok(answers)
}

/// Waits until the server has written `rows` rows of its window, so that another process can read them.
pub(crate) fn wait_for_window(address: SocketAddr, rows: u64) -> Result<()> {
    let started = Instant::now();
    let mut connection = Connection::open(address).context("reach the server")?;
    loop {
        let response = connection.get("/serve").context("ask the server for its endpoints")?;
        let listed: Value =
            serde_json::from_slice(&response.body).context("read the server's list of endpoints")?;
        let written = listed.pointer("/endpoints/0/window_rows").and_then(Value::as_u64);
        if written.is_some_and(|written| written >= rows) {
            return Ok(());
        }
        if started.elapsed() > WINDOW_MAX {
            let written = written.map_or("none".to_owned(), |written| written.to_string());
            return Err(Error::new(format!("the server wrote {written} of {rows} rows of its window")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Answers {
    /// How many labels are those of `expected`.
    pub(crate) fn correct(&self, expected: impl IntoIterator<Item = u8>) -> usize {
        self.labels.iter().zip(expected).filter(|&(&found, expected)| found == i64::from(expected)).count()
    }
}
