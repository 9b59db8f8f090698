use serde::{Deserialize, Serialize};

use super::super::{ModelVersion, NewVersion, Registry, RegistrySearch};
use super::Empty;
use crate::track::rest::fields;
use crate::track::{Pair, TrackError};

#[derive(Serialize)]
pub(super) struct Found {
    pub(super) model_version: ModelVersion,
}

pub(super) async fn create(registry: Registry, asked: NewVersion) -> Result<Found, TrackError> {
    Ok(Found { model_version: registry.create_version(asked).await? })
}

#[derive(Deserialize)]
pub(super) struct ByNumber {
    #[serde(default, deserialize_with = "fields::or_default")]
    name: String,
    #[serde(default, deserialize_with = "fields::or_default")]
    version: String,
}

pub(super) async fn get(registry: Registry, asked: ByNumber) -> Result<Found, TrackError> {
    Ok(Found { model_version: registry.version(&asked.name, &asked.version).await? })
}

#[derive(Deserialize)]
pub(super) struct Update {
    #[serde(default, deserialize_with = "fields::or_default")]
    name: String,
    #[serde(default, deserialize_with = "fields::or_default")]
    version: String,
    #[serde(default, deserialize_with = "fields::or_default")]
    description: String,
}

pub(super) async fn update(registry: Registry, asked: Update) -> Result<Found, TrackError> {
    let changed = registry.describe_version(asked.name, &asked.version, asked.description).await?;
    Ok(Found { model_version: changed })
}

pub(super) async fn delete(registry: Registry, asked: ByNumber) -> Result<Empty, TrackError> {
    registry.delete_version(asked.name, &asked.version).await?;
    Ok(Empty {})
}

#[derive(Serialize)]
pub(super) struct FoundAll {
    model_versions: Vec<ModelVersion>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

pub(super) async fn search(registry: Registry, asked: RegistrySearch) -> Result<FoundAll, TrackError> {
    let page = registry.search_versions(asked).await?;
    Ok(FoundAll { model_versions: page.found, next_page_token: page.next_page_token })
}

#[derive(Serialize)]
pub(super) struct DownloadUri {
    artifact_uri: String,
}

pub(super) async fn download_uri(registry: Registry, asked: ByNumber) -> Result<DownloadUri, TrackError> {
    Ok(DownloadUri { artifact_uri: registry.version(&asked.name, &asked.version).await?.location })
}

#[derive(Deserialize)]
pub(super) struct MoveToStage {
    #[serde(default, deserialize_with = "fields::or_default")]
    name: String,
    #[serde(default, deserialize_with = "fields::or_default")]
    version: String,
    #[serde(default, deserialize_with = "fields::or_default")]
    stage: String,
    #[serde(default, deserialize_with = "fields::or_default")]
    archive_existing_versions: bool,
}

pub(super) async fn move_to_stage(registry: Registry, asked: MoveToStage) -> Result<Found, TrackError> {
    let MoveToStage { name, version, stage, archive_existing_versions } = asked;
    let moved = registry.move_to_stage(name, &version, &stage, archive_existing_versions).await?;
    Ok(Found { model_version: moved })
}

#[derive(Deserialize)]
pub(super) struct Tagged {
    #[serde(default, deserialize_with = "fields::or_default")]
    name: String,
    #[serde(default, deserialize_with = "fields::or_default")]
    version: String,
    #[serde(default, deserialize_with = "fields::or_default")]
    key: String,
    #[serde(default, deserialize_with = "fields::or_default")]
    value: String,
}

pub(super) async fn set_tag(registry: Registry, asked: Tagged) -> Result<Empty, TrackError> {
    let tag = Pair { key: asked.key, value: asked.value };
    registry.set_version_tag(asked.name, &asked.version, tag).await?;
    Ok(Empty {})
}

pub(super) async fn delete_tag(registry: Registry, asked: Tagged) -> Result<Empty, TrackError> {
    registry.delete_version_tag(asked.name, &asked.version, asked.key).await?;
    Ok(Empty {})
}
