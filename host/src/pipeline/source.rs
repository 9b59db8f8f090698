//! A pipeline file as it lies on disk or in a record, with the parameters that were given for it.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::file::PipelineSpec;
use super::node::FILE_MAX_BYTES;
use super::plan::Plan;
use super::problem::PipelineError;
use super::record::PipelineRecord;

/// A pipeline file and parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineFile {
    /// What it is called.
    pub name: String,
    /// Its text.
    pub text: String,
    /// The folder that its paths start from.
    pub folder: PathBuf,
    /// The parameters that were given, not yet typed.
    pub params: Vec<(String, String)>,
}

/// A pipeline file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read `{path}`")]
pub struct PipelineFileError {
    /// The file, or its folder.
    path: String,
    /// Why not.
    #[source]
    source: std::io::Error,
}

impl PipelineFile {
    /// Reads a file; what it says is checked by [`Self::plan`].
    pub fn read(path: &Path, params: Vec<(String, String)>) -> Result<Self, PipelineFileError> {
        let refuse = |path: &Path| {
            let path = path.display().to_string();
            move |source| PipelineFileError { path, source }
        };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(refuse(path))?;
        // One byte more than what is allowed, so that the check sees that it is too long.
        file.take(FILE_MAX_BYTES as u64 + 1).read_to_string(&mut text).map_err(refuse(path))?;
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let folder = folder.canonicalize().map_err(refuse(folder))?;
        Ok(Self { name: path.display().to_string(), text, folder, params })
    }

    /// Checks and plans it.
    pub fn plan(&self) -> Result<Plan, PipelineError> {
        PipelineSpec::parse(&self.name, &self.text)?.plan(&self.params)
    }

    /// The parameters as a record has them.
    pub(super) fn params_map(&self) -> Map<String, Value> {
        self.params.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect()
    }

    /// The parameters of a record.
    pub(super) fn params_of(map: &Map<String, Value>) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        map.iter().map(|(name, value)| (name.clone(), text(value))).collect()
    }
}

/// The file as it was when the pipeline was started.
impl From<&PipelineRecord> for PipelineFile {
    fn from(record: &PipelineRecord) -> Self {
        Self {
            name: record.file_name.clone(),
            text: record.file.clone(),
            folder: PathBuf::from(&record.folder),
            params: Self::params_of(&record.params),
        }
    }
}
