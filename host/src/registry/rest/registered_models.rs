use serde::{Deserialize, Serialize};

use super::super::{ModelVersion, RegisteredModel, Registry, RegistrySearch};
use super::Empty;
use super::model_versions::Found as FoundVersion;
use crate::track::rest::fields;
use crate::track::{Pair, TrackError};

#[derive(Serialize)]
pub(super) struct Found {
    registered_model: RegisteredModel,
}

#[derive(Deserialize)]
pub(super) struct Create {
    #[serde(default, deserialize_with = "fields::or_default")]
    name: String,
    #[serde(default, deserialize_with = "fields::or_default")]
    description: String,
    #[serde(default, deserialize_with = "fields::objects")]
    tags: Vec<Pair>,
}

pub(super) async fn create(registry: Registry, asked: Create) -> Result<Found, TrackError> {
    Ok(Found { registered_model: registry.create_model(asked.name, asked.description, asked.tags).await? })
}

#[derive(Deserialize)]
pub(super) struct ByName {
    #[serde(default, deserialize_with = "fields::or_default")]
    name: String,
}

pub(super) async fn get(registry: Registry, asked: ByName) -> Result<Found, TrackError> {
    Ok(Found { registered_model: registry.model(&asked.name).await? })
}

#[derive(Deserialize)]
pub(super) struct Rename {
    #[serde(default, deserialize_with = "fields::or_default")]
    name: String,
    #[serde(default, deserialize_with = "fields::or_default")]
    new_name: String,
}

pub(super) async fn rename(registry: Registry, asked: Rename) -> Result<Found, TrackError> {
    Ok(Found { registered_model: registry.rename_model(asked.name, asked.new_name).await? })
}

#[derive(Deserialize)]
pub(super) struct Update {
    #[serde(default, deserialize_with = "fields::or_default")]
    name: String,
    #[serde(default, deserialize_with = "fields::or_default")]
    description: String,
}

pub(super) async fn update(registry: Registry, asked: Update) -> Result<Found, TrackError> {
    Ok(Found { registered_model: registry.describe_model(asked.name, asked.description).await? })
}

pub(super) async fn delete(registry: Registry, asked: ByName) -> Result<Empty, TrackError> {
    registry.delete_model(asked.name).await?;
    Ok(Empty {})
}

#[derive(Serialize)]
pub(super) struct FoundAll {
    registered_models: Vec<RegisteredModel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

pub(super) async fn search(registry: Registry, asked: RegistrySearch) -> Result<FoundAll, TrackError> {
    let page = registry.search_models(asked).await?;
    Ok(FoundAll { registered_models: page.found, next_page_token: page.next_page_token })
}

#[derive(Deserialize)]
pub(super) struct Latest {
    #[serde(default, deserialize_with = "fields::or_default")]
    name: String,
    #[serde(default, deserialize_with = "fields::texts")]
    stages: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct FoundVersions {
    model_versions: Vec<ModelVersion>,
}

pub(super) async fn latest(registry: Registry, asked: Latest) -> Result<FoundVersions, TrackError> {
    Ok(FoundVersions { model_versions: registry.latest_versions(&asked.name, &asked.stages).await? })
}

#[derive(Deserialize)]
pub(super) struct Tagged {
    #[serde(default, deserialize_with = "fields::or_default")]
    name: String,
    #[serde(default, deserialize_with = "fields::or_default")]
    key: String,
    #[serde(default, deserialize_with = "fields::or_default")]
    value: String,
}

pub(super) async fn set_tag(registry: Registry, asked: Tagged) -> Result<Empty, TrackError> {
    registry.set_model_tag(asked.name, Pair { key: asked.key, value: asked.value }).await?;
    Ok(Empty {})
}

pub(super) async fn delete_tag(registry: Registry, asked: Tagged) -> Result<Empty, TrackError> {
    registry.delete_model_tag(asked.name, asked.key).await?;
    Ok(Empty {})
}

#[derive(Deserialize)]
pub(super) struct Aliased {
    #[serde(default, deserialize_with = "fields::or_default")]
    name: String,
    #[serde(default, deserialize_with = "fields::or_default")]
    alias: String,
    #[serde(default, deserialize_with = "fields::or_default")]
    version: String,
}

pub(super) async fn set_alias(registry: Registry, asked: Aliased) -> Result<Empty, TrackError> {
    registry.set_alias(asked.name, asked.alias, &asked.version).await?;
    Ok(Empty {})
}

pub(super) async fn delete_alias(registry: Registry, asked: Aliased) -> Result<Empty, TrackError> {
    registry.delete_alias(asked.name, asked.alias).await?;
    Ok(Empty {})
}

pub(super) async fn version_by_alias(registry: Registry, asked: Aliased) -> Result<FoundVersion, TrackError> {
    Ok(FoundVersion { model_version: registry.version_by_alias(&asked.name, &asked.alias).await? })
}
