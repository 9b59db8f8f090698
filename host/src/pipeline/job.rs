//! What an executor is given and gives back: a step as a description that means the same on any machine.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain::Digest;

/// One attempt at a step. Files are named by digest, so that whoever runs it needs the store and nothing else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The step, for people: `train[depth=4]`.
    pub name: String,
    /// What is run.
    pub program: Program,
    /// Files that are there when it starts, in its working folder.
    pub files: Vec<JobFile>,
    /// Variables of its environment, besides those that the executor adds.
    pub environment: BTreeMap<String, String>,
    /// What it may use.
    pub limits: JobLimits,
    /// The folder it runs in, for steps that bring in files of the machine where the pipeline was started; else it gets
    /// an empty one of its own.
    pub folder: Option<PathBuf>,
}

/// What is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// This program with arguments; its answer is the JSON object on its standard output.
    Host(Vec<String>),
    /// Any program with arguments; its answer is what it writes to the file that [`OUTPUTS`] names.
    Command(Vec<String>),
}

/// Variable of the environment with the file to which a command writes its outputs, as lines `name=value`.
pub const OUTPUTS: &str = "HOST_OUTPUTS";

/// Variable of the environment with the folder whose files a command hands on.
pub const FILES_OUT: &str = "HOST_FILES_OUT";

/// A file by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobFile {
    /// Where it lies in the working folder: a relative path.
    pub path: String,
    /// Its content.
    pub digest: Digest,
}

/// What a job may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobLimits {
    /// Time to its end, in milliseconds; none if it may take as long as it wants.
    pub timeout_ms: Option<u64>,
    /// Processor cores of its own; none if it may use all, beside others.
    pub cores: Option<u32>,
    /// Bytes of memory that each of its processes may write to; none if as much as there is.
    pub memory_bytes: Option<u64>,
}

/// How a job ended and what it left.
#[derive(Debug, Clone, PartialEq)]
pub struct JobOutcome {
    /// How it ended.
    pub end: JobEnd,
    /// What it answered, by name; a file that it handed on is its digest.
    pub outputs: Map<String, Value>,
    /// The files that it handed on, by the path under [`FILES_OUT`].
    pub files: Vec<JobFile>,
    /// What it printed, as far as it was kept.
    pub log: Vec<u8>,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEnd {
    /// As it should.
    Done,
    /// With an error, told in one sentence; trying again may help.
    Failed(String),
    /// It took longer than it may; it is gone.
    TimedOut,
    /// Somebody said stop; it is gone.
    Cancelled,
}

impl JobEnd {
    /// Whether it ended as it should.
    pub fn is_done(&self) -> bool {
        *self == Self::Done
    }
}
