//! The command line that does a step.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::StepError;
use crate::pipeline::job::Program;
use crate::pipeline::uses::StepKind;

/// The program of a step whose `values` are looked up; `folder` is the pipeline's.
pub(super) fn program(
    kind: StepKind,
    values: &Map<String, Value>,
    folder: &Path,
) -> Result<Program, StepError> {
    let line = Line { values, arguments: Vec::new() };
    let line = match kind {
        StepKind::Command => {
            return Ok(Program::Command(words(values.get("run").unwrap_or(&Value::Null))?));
        }
        StepKind::Data => line
            .words(&["data", "add"])
            .positional("name")
            .paths("paths", folder)
            .option("parent", "--parent")
            .option("tags", "--tag"),
        StepKind::Transform => line
            .words(&["transform"])
            .positional("data")
            .option("name", "--name")
            .option("preprocess", "--preprocess")
            .configs()
            .option("filter", "--filter")
            .option("select", "--select")
            .pairs("split", "--split")
            .option("rows", "--rows"),
        StepKind::Train => line.words(&["train", "--no-register"]).training(),
        StepKind::Sweep => line.words(&["sweep"]).training().pairs("space", "--space").search(),
        StepKind::Evaluate => {
            line.words(&["evaluate"]).positional("bundle").option("data", "--data").option("label", "--label")
        }
        StepKind::Compare => line
            .words(&["model", "compare"])
            .positional("candidates")
            .option("champion", "--champion")
            .option("data", "--data")
            .option("metric", "--metric")
            .option("direction", "--direction")
            .option("label", "--label"),
        StepKind::Register => {
            line.words(&["model", "register"]).positional("bundle").positional("name").pairs("tags", "--tag")
        }
        StepKind::Promote => line
            .words(&["model", "promote"])
            .model_version()
            .option("alias", "--alias")
            .option("data", "--data")
            .option("metric", "--metric")
            .option("direction", "--direction")
            .option("margin", "--margin"),
        StepKind::Serve => line.words(&["model", "check"]).positional("model"),
        StepKind::Monitor => line
            .words(&["monitor", "run"])
            .option("endpoint", "--endpoint")
            .option("model", "--model")
            .option("detector", "--detector")
            .json("config", "--config"),
    };
    let mut arguments = line.arguments;
    arguments.push("--json".to_owned());
    if let (StepKind::Train | StepKind::Sweep, Some(run)) = (kind, values.get("run")) {
        arguments.push("--".to_owned());
        arguments.extend(words(run)?);
    }
    Ok(Program::Host(arguments))
}

/// Variables that a step is given.
pub(super) fn environment(with: &Map<String, Value>) -> BTreeMap<String, String> {
    let variables = with.get("env").and_then(Value::as_object).into_iter().flatten();
    variables.map(|(name, value)| (name.clone(), written(value))).collect()
}

/// The program that `run` means, and its arguments.
fn words(run: &Value) -> Result<Vec<String>, StepError> {
    let words = match run {
        Value::String(script) => vec!["sh".to_owned(), "-c".to_owned(), script.clone()],
        Value::Array(words) => words.iter().map(written).collect(),
        _ => Vec::new(),
    };
    match words.is_empty() {
        true => Err(StepError::Value {
            field: "run",
            found: run.to_string(),
            expected: "a line for the shell, or a list of a program and its arguments",
        }),
        false => Ok(words),
    }
}

/// A command line under construction.
struct Line<'a> {
    values: &'a Map<String, Value>,
    arguments: Vec<String>,
}

impl<'a> Line<'a> {
    fn words(mut self, words: &[&str]) -> Self {
        self.arguments.extend(words.iter().map(|&word| word.to_owned()));
        self
    }

    /// The values of a field, without a name in front of them.
    fn positional(mut self, field: &str) -> Self {
        self.arguments.extend(self.several(field));
        self
    }

    /// The values of a field as paths that are right in any folder.
    fn paths(mut self, field: &str, folder: &Path) -> Self {
        let absolute = |path: String| match path.contains("://") {
            true => path,
            false => folder.join(path).display().to_string(),
        };
        self.arguments.extend(self.several(field).into_iter().map(absolute));
        self
    }

    /// The values of a field, each after `name`.
    fn option(mut self, field: &str, name: &str) -> Self {
        for value in self.several(field) {
            // In one word, or a value that begins with a hyphen would be taken for an option.
            self.arguments.push(format!("{name}={value}"));
        }
        self
    }

    /// The entries of a map as `name=key=value`.
    fn pairs(mut self, field: &str, name: &str) -> Self {
        for (key, value) in self.map(field) {
            self.arguments.push(format!("{name}={key}={}", written(value)));
        }
        self
    }

    /// How to search: methods that end trials early are schedules of the command's.
    fn search(mut self) -> Self {
        for (key, value) in self.map("search") {
            let value = written(value);
            let name = match (key.as_str(), value.as_str()) {
                ("method", "halving" | "hyperband") => "schedule",
                (key, _) => key,
            };
            self.arguments.push(format!("--{name}={value}"));
        }
        self
    }

    /// A value as JSON.
    fn json(mut self, field: &str, name: &str) -> Self {
        if let Some(value) = self.values.get(field) {
            self.arguments.push(format!("{name}={value}"));
        }
        self
    }

    fn configs(mut self) -> Self {
        for (plugin, config) in self.map("config") {
            self.arguments.push(format!("--config={plugin}={config}"));
        }
        self
    }

    fn model_version(mut self) -> Self {
        let model = self.several("model").join("");
        let version = self.several("version").into_iter().next();
        self.arguments.push(match version {
            Some(version) => format!("{model}@{version}"),
            None => model,
        });
        self
    }

    /// What training and search have in common.
    fn training(self) -> Self {
        self.option("data", "--data")
            .option("model", "--model")
            .option("preprocess", "--preprocess")
            .option("postprocess", "--postprocess")
            .configs()
            .pairs("params", "--set")
            .option("label", "--label")
            .option("train_rows", "--train-rows")
            .option("seed", "--seed")
            .option("threads", "--threads")
            .option("experiment", "--experiment")
            .option("inputs", "--input")
            .pairs("env", "--env")
    }

    fn map(&self, field: &str) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.values.get(field).and_then(Value::as_object).into_iter().flatten()
    }

    fn several(&self, field: &str) -> Vec<String> {
        match self.values.get(field) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(several)) => several.iter().map(written).collect(),
            Some(one) => vec![written(one)],
        }
    }
}

/// A value as a command line has it.
fn written(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        // Lists within values: choices of a space.
        Value::Array(several) => several.iter().map(written).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
