//! Trains with any program: it gets the rows as files and everything else in its environment, and writes a model file.
//!
//! The order of steps: the program is found and the files that its command line names are kept in the store
//! ([`Program::open`]), before anything is trained; then the rows are written, as the transformers made them, with the
//! files of the dataset version; the program runs in a folder of its own, with its files and nothing else, and is ended
//! with this process; what it prints is kept with the run; its model file is read, and becomes what a model file of any
//! other trainer becomes. `docs/training.md` has the table of variables.

mod program;
mod rounds;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use self::rounds::RoundLines;
use super::parameter::{parsed, refuse};
use super::trainer::{Surroundings, TrainData, TrainSession, Trained, Trainer};
use super::{DataFiles, TrainError};
use crate::model;
use crate::pipeline::{FILES_OUT, OUTPUTS, RUN_ID};
use crate::process::{self, Cancel, Ended, PROGRESS, Waiting, how_it_ended};
use crate::store::StoreError;

pub use program::{Program, ProgramSpec};

/// Largest model file, as of a blob of a bundle folder.
const MODEL_MAX_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// Time that a program has to end by itself when it is told to; less than a pipeline gives to this process.
const GRACE: Duration = Duration::from_secs(1);

/// What the program printed, among the files of its run.
const LOG: &str = "program.log";

/// Parameters of a run that are the host's own.
const OWN_PARAMETERS: [&str; 3] = ["continue_from", "label", "train_rows"];

/// Variables with which MLflow's clients would report elsewhere than to the run.
const MISLEADING: [&str; 3] = ["MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_REGISTRY_URI"];

/// A program that cannot train.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is none.
    #[error("there is no program to train with\nhint: give it at the end: `-- python3 train.py`")]
    NoProgram,
    /// It cannot be started.
    #[error("program `{program}` cannot be run: {reason}")]
    Program {
        /// As it was given.
        program: String,
        /// Why not.
        reason: &'static str,
    },
    /// A file that it needs cannot be had.
    #[error("input `{path}` cannot be used: {reason}")]
    Input {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// A variable that only the host can know.
    #[error("variable `{name}` is not yours to set: the host tells the program by it")]
    Variable {
        /// Its name.
        name: String,
    },
    /// It ended otherwise than well.
    #[error("the program {how}")]
    Ended {
        /// How.
        how: String,
    },
    /// It ended well, and for nothing.
    #[error("the program ended well, but wrote no model file: expected one at the path in `HOST_MODEL_OUT`")]
    NoModel,
    /// It wrote too much.
    #[error("the program wrote a model file of {found} bytes: expected at most {limit}")]
    TooLarge {
        /// Bytes of the file.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// The operating system refused.
    #[error("failed to {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Files cannot be kept.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl CommandError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Io { action, path, source }
    }
}

/// Whether a variable tells the program something that only the host knows.
fn is_own_variable(name: &str) -> bool {
    name.starts_with("HOST_") || name == "MLFLOW_RUN_ID" || name == "MLFLOW_TRACKING_URI"
}

/// Trains with a program.
#[derive(Debug, Clone)]
pub struct CommandTrainer {
    program: Arc<Program>,
    /// This program, which starts the other.
    host: PathBuf,
    parameters: BTreeMap<String, String>,
    /// Start of all that is random.
    pub seed: u32,
    /// Threads to train with; 0 for all cores.
    pub threads: usize,
}

impl CommandTrainer {
    /// Trains with `program`, which `host`, this program, starts.
    pub fn new(program: Program, host: PathBuf) -> Self {
        Self { program: Arc::new(program), host, parameters: BTreeMap::new(), seed: 0, threads: 0 }
    }

    /// Sets a parameter, which may have any name.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), TrainError> {
        match name {
            "seed" => self.seed = parsed(name, value, "a whole number less than 4294967296")?,
            "threads" => self.threads = parsed(name, value, "a whole number")?,
            name if OWN_PARAMETERS.contains(&name) => {
                let expected = "none: the host keeps its own under this name".to_owned();
                return Err(refuse(name, value, expected));
            }
            _ => {
                self.parameters.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(())
    }

    /// The parameters with their types: what is a JSON number, boolean, list or object is that, any other is text.
    fn typed(&self) -> Map<String, Value> {
        let typed = |value: &String| match serde_json::from_str(value) {
            Ok(Value::Null | Value::String(_)) | Err(_) => Value::from(value.as_str()),
            Ok(value) => value,
        };
        self.parameters.iter().map(|(name, value)| (name.clone(), typed(value))).collect()
    }

    /// What the program is told.
    fn variables(
        &self,
        files: &DataFiles,
        places: &Places<'_>,
        surroundings: Surroundings<'_>,
    ) -> Vec<(&'static str, OsString)> {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = if self.threads == 0 { cores() } else { self.threads };
        let mut variables: Vec<(&'static str, OsString)> = vec![
            ("HOST_DATASET", files.dataset.clone().into()),
            ("HOST_DATA_DIR", files.version().into()),
            ("HOST_TRAIN_ROWS", files.train_rows().into()),
            ("HOST_TEST_ROWS", files.test_rows().into()),
            ("HOST_COLUMNS", files.columns().into()),
            ("HOST_LABEL", files.label.clone().into()),
            ("HOST_PARAMS", Value::Object(self.typed()).to_string().into()),
            ("HOST_SEED", self.seed.to_string().into()),
            ("HOST_THREADS", threads.to_string().into()),
            ("HOST_MODEL_OUT", places.model().into()),
            ("HOST_METRICS_OUT", places.metrics().into()),
        ];
        if places.start_from().exists() {
            variables.push(("HOST_START_FROM", places.start_from().into()));
        }
        if let Some(log) = surroundings.log {
            variables.push((RUN_ID, log.run_id().into()));
            variables.push(("MLFLOW_RUN_ID", log.run_id().into()));
        }
        if let Some(url) = surroundings.tracking_url {
            variables.push(("MLFLOW_TRACKING_URI", url.into()));
            variables.extend(past_proxies());
        }
        if std::env::var_os("PYTHONUNBUFFERED").is_none() {
            // What it prints is to be seen when it is printed.
            variables.push(("PYTHONUNBUFFERED", "1".into()));
        }
        variables
    }

    fn start(
        &self,
        data: &DataFiles,
        places: &Places<'_>,
        around: Surroundings<'_>,
    ) -> std::io::Result<Child> {
        let mut command: Command = self.program.to_command(&self.host);
        for name in MISLEADING.into_iter().chain([OUTPUTS, FILES_OUT, PROGRESS]) {
            command.env_remove(name);
        }
        command.envs(self.variables(data, places, around)).current_dir(places.work());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }
}

impl Trainer for CommandTrainer {
    fn parameters(&self) -> BTreeMap<String, String> {
        let mut parameters = self.parameters.clone();
        parameters.insert("seed".to_owned(), self.seed.to_string());
        if self.threads > 0 {
            parameters.insert("threads".to_owned(), self.threads.to_string());
        }
        parameters
    }

    fn tags(&self) -> BTreeMap<String, String> {
        self.program.tags()
    }

    fn rounds(&self) -> u32 {
        0
    }

    fn train(&self, data: &TrainData<'_>, session: &mut TrainSession<'_>) -> Result<Trained, TrainError> {
        let files = (data.files)()?;
        let folder = self.program.store().temporary_folder()?;
        let places = Places { folder: folder.path() };
        std::fs::create_dir(places.work()).map_err(CommandError::io("create", &places.work()))?;
        self.program.place(&places.work())?;
        if let Some(model) = session.start_from.take() {
            let path = places.start_from();
            std::fs::write(&path, model).map_err(CommandError::io("write", &path))?;
        }
        let surroundings = session.surroundings;
        if let Some(log) = surroundings.log {
            self.program.keep(log)?;
        }
        let child = self.start(&files, &places, surroundings);
        let child = child.map_err(CommandError::io("start", &self.host))?;
        let ended = watch(child, session, RoundLines::new(places.metrics()))?;
        let last_line = ended.log.last_line();
        let printed = ended.log.into_bytes();
        if let Some(log) = surroundings.log.filter(|_| !printed.is_empty()) {
            log.artifact(LOG, printed)?;
        }
        if ended.stopped.is_some() {
            return Err(TrainError::Stopped);
        }
        if !ended.status.success() {
            return Err(CommandError::Ended { how: how_it_ended(ended.status, last_line) }.into());
        }
        let model = read_model(&places.model())?;
        let framework = model::framework(&model)?;
        Ok(Trained {
            model,
            framework: framework.name,
            framework_version: framework.version,
            file_name: framework.file_name,
            task: None,
            parameters: self.parameters(),
            test_scores: None,
        })
    }
}

/// Waits for the program; hands on what it prints and what it tells of its rounds.
fn watch(child: Child, session: &mut TrainSession<'_>, mut lines: RoundLines) -> Result<Ended, CommandError> {
    let Surroundings { cancel, show, .. } = session.surroundings;
    let never = Cancel::default();
    let waiting = Waiting {
        timeout: None,
        grace: GRACE,
        answer_max_bytes: 0,
        cancel: cancel.unwrap_or(&never),
        progress: None,
        printed: &mut |bytes| {
            if let Some(show) = show {
                show(bytes);
            }
        },
        tick: &mut || loop {
            let reports = lines.read();
            if reports.is_empty() {
                return ControlFlow::Continue(());
            }
            for report in reports {
                (session.progress)(report)?;
            }
        },
    };
    process::wait(child, waiting).map_err(|source| CommandError::Io {
        action: "wait for",
        path: "the program".to_owned(),
        source,
    })
}

fn read_model(path: &Path) -> Result<Vec<u8>, CommandError> {
    let found = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return Err(CommandError::NoModel),
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(CommandError::NoModel),
        Err(error) => return Err(CommandError::io("read", path)(error)),
    };
    if found > MODEL_MAX_BYTES {
        return Err(CommandError::TooLarge { found, limit: MODEL_MAX_BYTES });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(found).unwrap_or_default());
    let file = File::open(path).map_err(CommandError::io("read", path))?;
    file.take(MODEL_MAX_BYTES).read_to_end(&mut bytes).map_err(CommandError::io("read", path))?;
    Ok(bytes)
}

/// Where things lie in the folder of a program that runs.
struct Places<'a> {
    folder: &'a Path,
}

impl Places<'_> {
    /// The folder that it runs in.
    fn work(&self) -> PathBuf {
        self.folder.join("work")
    }

    /// The name is one by which XGBoost's Python package writes UBJSON; what the file is, its content tells.
    fn model(&self) -> PathBuf {
        self.folder.join("model.ubj")
    }

    fn metrics(&self) -> PathBuf {
        self.folder.join("metrics")
    }

    fn start_from(&self) -> PathBuf {
        self.folder.join("start-from")
    }
}

/// Keeps clients from asking a proxy for this machine.
fn past_proxies() -> impl Iterator<Item = (&'static str, OsString)> {
    ["NO_PROXY", "no_proxy"].into_iter().map(|name| {
        let mut hosts = std::env::var_os(name).filter(|hosts| !hosts.is_empty()).unwrap_or_default();
        if !hosts.is_empty() {
            hosts.push(",");
        }
        hosts.push("127.0.0.1,localhost");
        (name, hosts)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_files_are_read_within_limits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.ubj");
        assert!(matches!(read_model(&path), Err(CommandError::NoModel)));
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(read_model(&path), Err(CommandError::NoModel)));
        let large = folder.path().join("large");
        File::create(&large).unwrap().set_len(MODEL_MAX_BYTES + 1).unwrap();
        let error = read_model(&large).unwrap_err().to_string();
        assert_eq!(error, "the program wrote a model file of 4294967297 bytes: expected at most 4294967296");
        std::fs::write(folder.path().join("small"), "x").unwrap();
        assert_eq!(read_model(&folder.path().join("small")).unwrap(), b"x");
    }

    #[test]
    fn only_the_host_tells_what_only_it_knows() {
        for (name, is_own) in [("HOST_SEED", true), ("MLFLOW_RUN_ID", true), ("MODE", false)] {
            assert_eq!(is_own_variable(name), is_own, "{name}");
        }
    }
}
