//! What a step of each kind is when it runs: its inputs by digest, the command line that does it, the outputs that its
//! answer has.

mod arguments;
mod inputs;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::job::{JobFile, Program};
use super::uses::{StepKind, Uses};
use crate::data::{Catalog, DataError};
use crate::registry::{Registry, RegistryError};
use crate::store::{Store, StoreError};

/// Where steps find what they name.
#[derive(Debug, Clone)]
pub struct StepContext {
    /// Models.
    pub registry: Registry,
    /// Datasets.
    pub catalog: Catalog,
    /// Where files are kept.
    pub store: Store,
    /// The folder that paths in the file start from.
    pub folder: std::path::PathBuf,
}

impl StepContext {
    /// What is in the database and the store of `registry`, for a pipeline in `folder`.
    pub fn new(registry: Registry, folder: std::path::PathBuf) -> Self {
        let tracker = registry.tracker();
        let (database, store) = (tracker.database().clone(), tracker.store().clone());
        Self { catalog: Catalog::new(database, store.clone()), registry, store, folder }
    }
}

/// A step that is ready to run.
#[derive(Debug, Clone, PartialEq)]
pub struct PreparedStep {
    /// What is run.
    pub program: Program,
    /// Files that it needs.
    pub files: Vec<JobFile>,
    /// Variables that it is given.
    pub environment: BTreeMap<String, String>,
    /// Whether it has to run in the pipeline's own folder, because it brings in files from there.
    pub in_folder: bool,
    /// Its values with everything that they name by digest: what its result depends on.
    pub identity: Map<String, Value>,
}

/// A step that cannot be run as it is described.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A file cannot be read.
    #[error("`{path}` cannot be read: {reason}")]
    File {
        /// The path, as the pipeline has it.
        path: String,
        /// Why not.
        reason: String,
    },
    /// A value is not what the step takes.
    #[error("`{field}` is {found}: expected {expected}")]
    Value {
        /// The field of `with`.
        field: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A dataset is not there.
    #[error("{0}")]
    Data(#[from] DataError),
    /// A model is not there.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// A file cannot be kept.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The program is closing.
    #[error("the work was given up")]
    Stopped,
}

/// Makes a step ready: what it names is looked up and fixed by digest.
pub async fn prepare(
    uses: &Uses,
    with: &Map<String, Value>,
    context: &StepContext,
) -> Result<PreparedStep, StepError> {
    let inputs = inputs::resolve(uses.kind, with, context).await?;
    let environment = match uses.kind {
        StepKind::Command => arguments::environment(with),
        _ => BTreeMap::new(),
    };
    Ok(PreparedStep {
        program: arguments::program(uses.kind, &inputs.values, &context.folder)?,
        files: inputs.files,
        environment,
        in_folder: uses.kind == StepKind::Data,
        identity: inputs.identity,
    })
}

/// The outputs that later steps see of what a step has answered.
pub fn outputs(uses: &Uses, answer: Map<String, Value>) -> Map<String, Value> {
    let mut outputs = answer;
    if matches!(uses.kind, StepKind::Data | StepKind::Transform) {
        let text = |name: &str| outputs.get(name).and_then(Value::as_str);
        if let (Some(name), Some(digest)) = (text("name"), text("digest")) {
            let dataset = format!("{name}@{digest}");
            outputs.insert("dataset".to_owned(), dataset.into());
        }
    }
    if !uses.is_open {
        outputs.retain(|name, _| uses.outputs.iter().any(|output| output.name == name));
    }
    outputs
}

/// Where a file of the pipeline's folder is put for a job: as it is called there, without ways out.
fn job_path(path: &Path) -> Option<String> {
    use std::path::Component;
    let parts = path.components().filter_map(|part| match part {
        Component::CurDir => None,
        Component::Normal(name) => Some(name.to_str()),
        _ => Some(None),
    });
    let parts: Vec<&str> = parts.collect::<Option<_>>()?;
    (!parts.is_empty()).then(|| parts.join("/"))
}
