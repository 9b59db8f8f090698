use std::str::FromStr;

use serde::Serialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use crate::domain::Digest;
use crate::track::{Pair, TrackError};

/// The columns of [`registered_model`].
pub(super) const MODEL_COLUMNS: &str = "m.id, m.name, m.description, m.created_at, m.updated_at";

/// The columns of [`model_version`], of `model_versions v` joined with `registered_models m`.
pub(super) const VERSION_COLUMNS: &str = "v.id, m.name, v.number, v.description, v.source, v.location, v.run_id, v.run_link, v.model_id, v.bundle, \
     v.status, v.status_message, v.stage, v.user_id, v.created_at, v.updated_at";

/// A name with numbered versions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegisteredModel {
    /// Any text without `/` and `:`.
    pub name: String,
    /// Milliseconds since 1970.
    pub creation_timestamp: i64,
    /// Milliseconds since 1970.
    pub last_updated_timestamp: i64,
    /// For people.
    pub description: String,
    /// The newest version of each stage.
    pub latest_versions: Vec<ModelVersion>,
    /// Notes.
    pub tags: Vec<Pair>,
    /// Names of versions.
    pub aliases: Vec<ModelAlias>,
}

/// A name of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelAlias {
    /// The name.
    pub alias: String,
    /// The version's number.
    #[serde(rename = "version", serialize_with = "as_text")]
    pub number: i64,
}

/// A version of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelVersion {
    /// The model's name.
    pub name: String,
    /// Its number, counted from 1; that of a deleted version is never used again.
    #[serde(rename = "version", serialize_with = "as_text")]
    pub number: i64,
    /// Milliseconds since 1970.
    pub creation_timestamp: i64,
    /// Milliseconds since 1970.
    pub last_updated_timestamp: i64,
    /// Who made it.
    pub user_id: String,
    /// MLflow's stage.
    pub current_stage: Stage,
    /// For people.
    pub description: String,
    /// Where it came from.
    pub source: String,
    /// Where its files are.
    #[serde(skip)]
    pub location: String,
    /// What this host can serve; none where the version holds files for other programs only.
    #[serde(skip)]
    pub bundle: Option<Digest>,
    /// The run that made it; empty if none did.
    pub run_id: String,
    /// Where that run is shown.
    pub run_link: String,
    /// Whether it can be used.
    pub status: String,
    /// Why not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status_message: String,
    /// The logged model that it is; empty if it is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model_id: String,
    /// Notes.
    pub tags: Vec<Pair>,
    /// Its other names.
    pub aliases: Vec<String>,
}

/// How far a version is on its way to use, as MLflow's clients before aliases said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Stage {
    /// Nothing was said.
    None,
    /// Being tried.
    Staging,
    /// In use.
    Production,
    /// No longer in use.
    Archived,
}

impl Stage {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Staging => "Staging",
            Self::Production => "Production",
            Self::Archived => "Archived",
        }
    }

    /// Whether versions of it are in use.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Staging | Self::Production)
    }
}

impl FromStr for Stage {
    type Err = TrackError;

    fn from_str(text: &str) -> Result<Self, TrackError> {
        let all = [Self::None, Self::Staging, Self::Production, Self::Archived];
        all.into_iter().find(|stage| stage.as_str().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let text: String = text.chars().take(100).collect();
            TrackError::invalid(format!(
                "Invalid Model Version stage: {text}. Value must be one of None, Staging, Production, Archived."
            ))
        })
    }
}

/// Protobuf has versions as text.
fn as_text<S: serde::Serializer>(number: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

/// A model without its tags, aliases and versions, and its key.
pub(super) fn registered_model(row: &AnyRow) -> Result<(i64, RegisteredModel), TrackError> {
    let model = RegisteredModel {
        name: row.try_get(1)?,
        description: row.try_get(2)?,
        creation_timestamp: row.try_get(3)?,
        last_updated_timestamp: row.try_get(4)?,
        latest_versions: Vec::new(),
        tags: Vec::new(),
        aliases: Vec::new(),
    };
    Ok((row.try_get(0)?, model))
}

/// A version without its tags and aliases, and its key.
pub(super) fn model_version(row: &AnyRow) -> Result<(i64, ModelVersion), TrackError> {
    let bundle: String = row.try_get(9)?;
    let stage: String = row.try_get(12)?;
    let version = ModelVersion {
        name: row.try_get(1)?,
        number: row.try_get(2)?,
        description: row.try_get(3)?,
        source: row.try_get(4)?,
        location: row.try_get(5)?,
        run_id: row.try_get(6)?,
        run_link: row.try_get(7)?,
        model_id: row.try_get(8)?,
        bundle: match bundle.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| TrackError::internal("a version's bundle is no digest"))?),
        },
        status: row.try_get(10)?,
        status_message: row.try_get(11)?,
        current_stage: stage.parse()?,
        user_id: row.try_get(13)?,
        creation_timestamp: row.try_get(14)?,
        last_updated_timestamp: row.try_get(15)?,
        tags: Vec::new(),
        aliases: Vec::new(),
    };
    Ok((row.try_get(0)?, version))
}
