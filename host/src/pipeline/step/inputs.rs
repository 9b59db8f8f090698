//! Looks up what a step names: files, datasets, models.

use std::path::Path;

use serde_json::{Map, Value};

use super::{StepContext, StepError, job_path};
use crate::domain::Digest;
use crate::pipeline::job::JobFile;
use crate::pipeline::uses::StepKind;
use crate::registry::ModelReference;

/// A step's values with what they name looked up.
pub(super) struct Inputs {
    /// As the job sees them: files by their paths in its folder.
    pub(super) values: Map<String, Value>,
    /// As its result depends on them: files by digest.
    pub(super) identity: Map<String, Value>,
    /// The files.
    pub(super) files: Vec<JobFile>,
}

/// What a field names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// Nothing: it is a value.
    Nothing,
    /// Components; put where their names cannot meet.
    Components,
    /// Files that keep their paths.
    Files,
    /// A dataset version.
    Dataset,
    /// Bundles.
    Bundles,
    /// A bundle that need not be there yet.
    Champion,
}

fn names(kind: StepKind, field: &str) -> Names {
    match (kind, field) {
        (_, "preprocess" | "postprocess" | "detector") => Names::Components,
        (StepKind::Command | StepKind::Train | StepKind::Sweep, "inputs") => Names::Files,
        (StepKind::Data, _) => Names::Nothing,
        (_, "data") => Names::Dataset,
        (_, "bundle" | "candidates") => Names::Bundles,
        (StepKind::Serve, "model") => Names::Bundles,
        (_, "champion") => Names::Champion,
        _ => Names::Nothing,
    }
}

pub(super) async fn resolve(
    kind: StepKind,
    with: &Map<String, Value>,
    context: &StepContext,
) -> Result<Inputs, StepError> {
    let mut inputs = Inputs { values: Map::new(), identity: Map::new(), files: Vec::new() };
    for (field, value) in with {
        let (value, identity) = match names(kind, field) {
            Names::Nothing => (value.clone(), value.clone()),
            Names::Components => files(field, value, true, context, &mut inputs.files).await?,
            Names::Files => files(field, value, false, context, &mut inputs.files).await?,
            Names::Dataset => both(dataset(value, context).await?),
            Names::Bundles => both(bundles(value, context).await?),
            Names::Champion => champion(value, context).await?,
        };
        inputs.values.insert(field.clone(), value);
        inputs.identity.insert(field.clone(), identity);
    }
    Ok(inputs)
}

fn both(value: Value) -> (Value, Value) {
    (value.clone(), value)
}

async fn dataset(value: &Value, context: &StepContext) -> Result<Value, StepError> {
    let text = text("data", value)?;
    let (name, version) = context.catalog.find_version(text).await?;
    Ok(format!("{name}@{}", version.digest).into())
}

async fn bundles(value: &Value, context: &StepContext) -> Result<Value, StepError> {
    match value {
        Value::Array(several) => {
            let mut bundles = Vec::with_capacity(several.len());
            for one in several {
                bundles.push(bundle(one, context).await?);
            }
            Ok(bundles.into())
        }
        one => bundle(one, context).await,
    }
}

async fn bundle(value: &Value, context: &StepContext) -> Result<Value, StepError> {
    let reference: ModelReference = text("bundle", value)?.parse()?;
    let digest = match reference {
        // It may be given without being anywhere else.
        ModelReference::Bundle(digest) => digest,
        reference => context.registry.resolve(&reference).await?.digest,
    };
    Ok(digest.to_string().into())
}

/// The model's alias as it is told, and what it means now; nothing where there is none yet.
async fn champion(value: &Value, context: &StepContext) -> Result<(Value, Value), StepError> {
    let reference: ModelReference = text("champion", value)?.parse()?;
    let identity = match context.registry.resolve(&reference).await {
        Ok(resolved) => resolved.digest.to_string().into(),
        Err(_) => Value::Null,
    };
    Ok((value.clone(), identity))
}

/// Puts files into the store. A value is a path in the pipeline's folder, or the digest of a blob.
async fn files(
    field: &str,
    value: &Value,
    are_components: bool,
    context: &StepContext,
    files: &mut Vec<JobFile>,
) -> Result<(Value, Value), StepError> {
    let several: Vec<(Option<&String>, &Value)> = match value {
        Value::Array(several) => several.iter().map(|one| (None, one)).collect(),
        // Named by where they are put.
        Value::Object(named) => named.iter().map(|(path, one)| (Some(path), one)).collect(),
        one => vec![(None, one)],
    };
    let (mut paths, mut digests) = (Vec::new(), Vec::new());
    for (target, one) in several {
        let given = text("inputs", one)?;
        let digest = match given.parse::<Digest>() {
            Ok(digest) => digest,
            Err(_) => keep(given, context).await?,
        };
        let path = match target {
            Some(target) => target.clone(),
            // Two may have the same name in different folders, or have come as digests.
            None if are_components => {
                let name = Path::new(given).file_name().and_then(|name| name.to_str()).unwrap_or("component");
                format!("components/{field}-{}/{}", files.len(), name.replace(':', "-"))
            }
            None => job_path(Path::new(given)).ok_or_else(|| StepError::Value {
                field: "inputs",
                found: format!("`{given}`"),
                expected: "paths within the pipeline's folder, or a map of paths to files",
            })?,
        };
        digests.push(Value::from(match are_components {
            true => digest.to_string(),
            false => format!("{path}={digest}"),
        }));
        paths.push(Value::from(path.clone()));
        files.push(JobFile { path, digest });
    }
    Ok((paths.into(), digests.into()))
}

async fn keep(path: &str, context: &StepContext) -> Result<Digest, StepError> {
    let (store, file, path) = (context.store.clone(), context.folder.join(path), path.to_owned());
    let kept = tokio::task::spawn_blocking(move || {
        let refuse = |reason: String| StepError::File { path: path.clone(), reason };
        let metadata = std::fs::metadata(&file).map_err(|error| refuse(error.to_string()))?;
        if !metadata.is_file() {
            return Err(refuse("it is not a plain file".to_owned()));
        }
        let mut file = std::fs::File::open(&file).map_err(|error| refuse(error.to_string()))?;
        Ok(store.put(&mut file)?.digest)
    });
    kept.await.map_err(|_| StepError::Stopped)?
}

fn text<'a>(field: &'static str, value: &'a Value) -> Result<&'a str, StepError> {
    let expected = "text";
    value.as_str().ok_or_else(|| StepError::Value { field, found: value.to_string(), expected })
}
