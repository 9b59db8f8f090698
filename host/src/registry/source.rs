//! Where a version's files may come from: runs, logged models, other versions and artifacts of this server.
//!
//! Nothing else is taken, so that no version makes a client, or this program, read a file or another server.

use super::model_versions::is_prompt;
use super::names::is_latest;
use super::{ModelVersion, Registry};
use crate::track::artifacts::path_of_location;
use crate::track::names::check_length;
use crate::track::{ArtifactPath, ErrorCode, TrackError};

/// Longest source of a version.
const SOURCE_MAX_CHARS: usize = 500;

/// What clients send for a prompt, which has no files.
const PROMPT_SOURCES: [&str; 2] = ["dummy-source", "prompt-template"];

/// A source that was checked, and what follows from it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct CheckedSource {
    /// As it is told again.
    pub(super) source: String,
    /// Where the files are.
    pub(super) location: String,
    pub(super) run_id: String,
    pub(super) model_id: String,
    /// Digest of a bundle, or empty.
    pub(super) bundle: String,
}

/// What the text of a source names.
#[derive(Debug, PartialEq)]
enum Named {
    Artifact(ArtifactPath),
    Run { run_id: String, path: ArtifactPath },
    LoggedModel(String),
    Version { name: String, number: String },
    Alias { name: String, alias: String },
}

/// Reads a source; whatever is not of this server is refused.
fn parse(source: &str) -> Result<Named, TrackError> {
    let refuse =
        || invalid(source, "expected `runs:/…`, `models:/…` or `mlflow-artifacts:/…` of this server");
    check_length("source", source, SOURCE_MAX_CHARS)?;
    if source.starts_with("mlflow-artifacts:") {
        let path = path_of_location(source).map_err(|_| refuse())?;
        return if path.as_str().is_empty() { Err(refuse()) } else { Ok(Named::Artifact(path)) };
    }
    let (scheme, rest) = source.split_once(":/").ok_or_else(refuse)?;
    // Decoded nowhere, and the same in every reading: no part may be empty, a dot or encoded.
    let path = ArtifactPath::parse_location(rest).map_err(|_| refuse())?;
    let (first, below) = path.as_str().split_once('/').unwrap_or((path.as_str(), ""));
    match scheme {
        "runs" if !first.is_empty() => {
            Ok(Named::Run { run_id: first.to_owned(), path: ArtifactPath::parse_location(below)? })
        }
        "models" if first.is_empty() || below.contains('/') => Err(refuse()),
        "models" if !below.is_empty() => {
            Ok(Named::Version { name: first.to_owned(), number: below.to_owned() })
        }
        "models" => Ok(match first.rsplit_once('@') {
            Some((name, alias)) => Named::Alias { name: name.to_owned(), alias: alias.to_owned() },
            None => Named::LoggedModel(first.to_owned()),
        }),
        _ => Err(refuse()),
    }
}

impl Registry {
    /// Checks where a version's files come from; what was said of run and model must agree with it.
    pub(super) async fn check_source(
        &self,
        source: &str,
        run_id: &str,
        model_id: &str,
        for_prompt: bool,
    ) -> Result<CheckedSource, TrackError> {
        if for_prompt {
            return check_prompt(source);
        }
        let checked = match parse(source)? {
            Named::Artifact(path) => self.check_artifact(source, &path, run_id, model_id).await?,
            Named::Run { run_id: of_source, path } => {
                let run = self.tracker.run(&of_source).await.map_err(|error| unknown(error, source))?;
                let location = format!("runs:/{}/{}", run.info.run_id, path.as_str());
                let location = location.trim_end_matches('/').to_owned();
                let run_id = run.info.run_id;
                CheckedSource { source: location.clone(), location, run_id, ..CheckedSource::default() }
            }
            Named::LoggedModel(of_source) => {
                let model = self.tracker.logged_model(&of_source).await;
                let info = model.map_err(|error| unknown(error, source))?.info;
                CheckedSource {
                    source: format!("models:/{}", info.model_id),
                    location: info.artifact_uri,
                    run_id: if run_id.is_empty() { info.source_run_id } else { run_id.to_owned() },
                    model_id: info.model_id,
                    bundle: String::new(),
                }
            }
            Named::Version { name, number } => {
                let version = match number.as_str() {
                    latest if is_latest(latest) => self.latest_version(&name).await,
                    number => self.version(&name, number).await,
                };
                of_version(version?, source)?
            }
            Named::Alias { name, alias } => of_version(self.version_by_alias(&name, &alias).await?, source)?,
        };
        let differs = |said: &str, found: &str| !said.is_empty() && said != found;
        if differs(run_id, &checked.run_id) || differs(model_id, &checked.model_id) {
            return Err(invalid(source, "run_id and model_id must be those of the source"));
        }
        Ok(checked)
    }

    /// Artifacts of a run or model must lie below what belongs to it.
    async fn check_artifact(
        &self,
        source: &str,
        path: &ArtifactPath,
        run_id: &str,
        model_id: &str,
    ) -> Result<CheckedSource, TrackError> {
        let mut checked =
            CheckedSource { source: format!("mlflow-artifacts:/{}", path.as_str()), ..Default::default() };
        checked.location.clone_from(&checked.source);
        let root = if !model_id.is_empty() {
            let info =
                self.tracker.logged_model(model_id).await.map_err(|error| unknown(error, source))?.info;
            checked.run_id = if run_id.is_empty() { info.source_run_id } else { run_id.to_owned() };
            checked.model_id = info.model_id;
            info.artifact_uri
        } else if !run_id.is_empty() {
            let info = self.tracker.run(run_id).await.map_err(|error| unknown(error, source))?.info;
            checked.run_id = info.run_id;
            info.artifact_uri
        } else {
            return Ok(checked);
        };
        let root = path_of_location(&root)?;
        let below = path.as_str().strip_prefix(root.as_str());
        if !below.is_some_and(|below| below.is_empty() || below.starts_with('/')) {
            return Err(invalid(source, "it must lie below the artifacts of the run or model that is named"));
        }
        Ok(checked)
    }
}

fn check_prompt(source: &str) -> Result<CheckedSource, TrackError> {
    if !PROMPT_SOURCES.contains(&source) {
        return Err(TrackError::invalid(format!(
            "Invalid prompt source: '{}'. Prompt sources must use an MLflow placeholder.",
            source.chars().take(300).collect::<String>()
        )));
    }
    Ok(CheckedSource { source: source.to_owned(), location: source.to_owned(), ..CheckedSource::default() })
}

/// A copy of a version holds what that version holds.
fn of_version(version: ModelVersion, source: &str) -> Result<CheckedSource, TrackError> {
    if is_prompt(&version.tags) {
        return Err(invalid(source, "Prompt versions cannot be used as model version sources."));
    }
    Ok(CheckedSource {
        source: format!("models:/{}/{}", version.name, version.number),
        location: version.location,
        run_id: version.run_id,
        model_id: version.model_id,
        bundle: version.bundle.map(|bundle| bundle.to_string()).unwrap_or_default(),
    })
}

/// Checks the form of a source or location of a version that was made elsewhere: what a request could not name is refused.
pub(super) fn check_carried(place: &str, for_prompt: bool) -> Result<(), TrackError> {
    if for_prompt { check_prompt(place).map(drop) } else { parse(place).map(drop) }
}

/// What a source names is not there: the source is wrong.
fn unknown(error: TrackError, source: &str) -> TrackError {
    match error.code() {
        ErrorCode::ResourceDoesNotExist | ErrorCode::InvalidParameterValue => {
            invalid(source, &error.to_string())
        }
        _ => error,
    }
}

fn invalid(source: &str, why: &str) -> TrackError {
    let source: String = source.chars().take(300).collect();
    TrackError::invalid(format!("Invalid model version source: '{source}'. {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sources_of_this_server() {
        let path = |text: &str| ArtifactPath::parse(text).unwrap();
        for (source, named) in [
            ("mlflow-artifacts:/0/a/artifacts/model", Named::Artifact(path("0/a/artifacts/model"))),
            ("mlflow-artifacts://host:5000/0/a", Named::Artifact(path("0/a"))),
            ("runs:/abc/model", Named::Run { run_id: "abc".to_owned(), path: path("model") }),
            ("runs:/abc", Named::Run { run_id: "abc".to_owned(), path: path("") }),
            ("models:/m-1", Named::LoggedModel("m-1".to_owned())),
            ("models:/a b/3", Named::Version { name: "a b".to_owned(), number: "3".to_owned() }),
            ("models:/a@b@c", Named::Alias { name: "a@b".to_owned(), alias: "c".to_owned() }),
        ] {
            assert_eq!(parse(source).unwrap(), named, "{source}");
        }
    }

    #[test]
    fn refuses_every_other_place() {
        for source in [
            "",
            "/etc/passwd",
            "etc",
            "file:///etc/passwd",
            "file:/etc/passwd",
            "FILE:///etc",
            "s3://bucket/x",
            "gs://bucket/x",
            "http://127.0.0.1/x",
            "https://127.0.0.1/x",
            "dbfs:/x",
            "dummy-source",
            "C:\\x",
            "C:/x",
            "mlflow-artifacts:",
            "mlflow-artifacts:/",
            "mlflow-artifacts://",
            "mlflow-artifacts://host",
            "mlflow-artifacts:/../x",
            "mlflow-artifacts:/a/../x",
            "mlflow-artifacts:/a/%2e%2e/x",
            "mlflow-artifacts:/a/%252e%252e/x",
            "mlflow-artifacts:/a%00",
            "mlflow-artifacts:/a\\..\\x",
            "MLFLOW-ARTIFACTS:/a",
            "runs:/",
            "runs://host/abc/model",
            "runs:/abc/../x",
            "runs:/abc/%2e%2e/x",
            "runs:/abc//etc",
            "runs:abc",
            "models:/",
            "models://host/m-1",
            "models:/a/1/b",
            "models:/a/../1",
            "models:/%2e%2e/1",
            "models:/a\0",
            " runs:/abc",
            "runs:/abc\n",
            "runs:/a?x#y",
        ] {
            let error = parse(source).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidParameterValue, "{source:?}");
        }
        assert!(parse(&format!("runs:/{}", "a".repeat(500))).is_err());
    }
}
