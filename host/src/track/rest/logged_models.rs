use axum::extract::Path;
use serde::{Deserialize, Serialize};

use super::super::artifacts::path_of_location;
use super::super::{
    ArtifactEntry, ArtifactPath, LoggedModel, LoggedModelStatus, ModelSearch, NewLoggedModel, Pair,
    TrackError, Tracker,
};
use super::fields;
use super::runs::Empty;

#[derive(Serialize)]
pub(super) struct Found {
    model: LoggedModel,
}

pub(super) async fn create(tracker: Tracker, asked: NewLoggedModel) -> Result<Found, TrackError> {
    Ok(Found { model: tracker.create_logged_model(asked).await? })
}

#[derive(Deserialize)]
pub(super) struct Get {
    /// `true` or anything else, as text in the query.
    #[serde(default, deserialize_with = "fields::or_default")]
    allow_deleted: String,
}

pub(super) async fn get(
    tracker: Tracker,
    Path(model_id): Path<String>,
    asked: Get,
) -> Result<Found, TrackError> {
    let model = match asked.allow_deleted.eq_ignore_ascii_case("true") {
        true => tracker.logged_model_even_deleted(&model_id).await?,
        false => tracker.logged_model(&model_id).await?,
    };
    Ok(Found { model })
}

#[derive(Deserialize)]
pub(super) struct Nothing {}

#[derive(Deserialize)]
pub(super) struct Finalize {
    /// Clients send the number, people the word.
    #[serde(default, deserialize_with = "fields::word_or_number")]
    status: Option<LoggedModelStatus>,
}

pub(super) async fn finalize(
    tracker: Tracker,
    Path(model_id): Path<String>,
    asked: Finalize,
) -> Result<Found, TrackError> {
    let status =
        asked.status.ok_or_else(|| TrackError::invalid("'status' is no status of a logged model"))?;
    Ok(Found { model: tracker.finalize_logged_model(model_id, status).await? })
}

pub(super) async fn delete(
    tracker: Tracker,
    Path(model_id): Path<String>,
    _: Nothing,
) -> Result<Empty, TrackError> {
    tracker.delete_logged_model(model_id).await?;
    Ok(Empty {})
}

#[derive(Deserialize)]
pub(super) struct Described {
    #[serde(default, deserialize_with = "fields::objects")]
    params: Vec<Pair>,
    #[serde(default, deserialize_with = "fields::objects")]
    tags: Vec<Pair>,
}

pub(super) async fn describe(
    tracker: Tracker,
    Path(model_id): Path<String>,
    asked: Described,
) -> Result<Found, TrackError> {
    Ok(Found { model: tracker.describe_logged_model(model_id, asked.params, asked.tags).await? })
}

pub(super) async fn delete_tag(
    tracker: Tracker,
    Path((model_id, key)): Path<(String, String)>,
    _: Nothing,
) -> Result<Empty, TrackError> {
    tracker.delete_logged_model_tag(model_id, key).await?;
    Ok(Empty {})
}

#[derive(Serialize)]
pub(super) struct FoundAll {
    models: Vec<LoggedModel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

pub(super) async fn search(tracker: Tracker, asked: ModelSearch) -> Result<FoundAll, TrackError> {
    let page = tracker.search_logged_models(asked).await?;
    Ok(FoundAll { models: page.found, next_page_token: page.next_page_token })
}

#[derive(Deserialize)]
pub(super) struct List {
    #[serde(default, deserialize_with = "fields::or_default")]
    artifact_directory_path: String,
}

#[derive(Serialize)]
pub(super) struct Listed {
    root_uri: String,
    files: Vec<ArtifactEntry>,
}

pub(super) async fn list_artifacts(
    tracker: Tracker,
    Path(model_id): Path<String>,
    asked: List,
) -> Result<Listed, TrackError> {
    let model = tracker.logged_model(&model_id).await?;
    let root = path_of_location(&model.info.artifact_uri)?;
    let files = tracker.list_below(&root, &ArtifactPath::parse(&asked.artifact_directory_path)?).await?;
    Ok(Listed { root_uri: model.info.artifact_uri, files })
}
