use serde::{Deserialize, Serialize};

use super::super::names::required;
use super::super::{Experiment, Lifecycle, Pair, TrackError, Tracker, ViewType};
use super::fields;
use super::runs::Empty;

#[derive(Deserialize)]
pub(super) struct Create {
    name: String,
    artifact_location: Option<String>,
    #[serde(default, deserialize_with = "fields::objects")]
    tags: Vec<Pair>,
}

#[derive(Serialize)]
pub(super) struct Created {
    experiment_id: String,
}

pub(super) async fn create(tracker: Tracker, asked: Create) -> Result<Created, TrackError> {
    let experiment_id = tracker.create_experiment(asked.name, asked.artifact_location, asked.tags).await?;
    Ok(Created { experiment_id })
}

#[derive(Deserialize)]
pub(super) struct ById {
    experiment_id: String,
}

#[derive(Serialize)]
pub(super) struct Found {
    experiment: Experiment,
}

pub(super) async fn get(tracker: Tracker, asked: ById) -> Result<Found, TrackError> {
    Ok(Found { experiment: tracker.experiment(&asked.experiment_id).await? })
}

#[derive(Deserialize)]
pub(super) struct ByName {
    experiment_name: String,
}

pub(super) async fn get_by_name(tracker: Tracker, asked: ByName) -> Result<Found, TrackError> {
    required("experiment_name", &asked.experiment_name)?;
    Ok(Found { experiment: tracker.experiment_by_name(&asked.experiment_name).await? })
}

#[derive(Deserialize)]
pub(super) struct Search {
    #[serde(default, deserialize_with = "fields::or_default")]
    filter: String,
    #[serde(default, deserialize_with = "fields::word_or_default")]
    view_type: ViewType,
    #[serde(default, deserialize_with = "fields::texts")]
    order_by: Vec<String>,
    #[serde(default, deserialize_with = "fields::or_default")]
    page_token: String,
    #[serde(default, deserialize_with = "fields::opt_int")]
    max_results: Option<i64>,
}

#[derive(Serialize)]
pub(super) struct FoundAll {
    experiments: Vec<Experiment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

pub(super) async fn search(tracker: Tracker, asked: Search) -> Result<FoundAll, TrackError> {
    let page = tracker
        .search_experiments(
            &asked.filter,
            asked.view_type,
            &asked.order_by,
            &asked.page_token,
            asked.max_results,
        )
        .await?;
    Ok(FoundAll { experiments: page.found, next_page_token: page.next_page_token })
}

#[derive(Deserialize)]
pub(super) struct Update {
    experiment_id: String,
    #[serde(default, deserialize_with = "fields::or_default")]
    new_name: String,
}

pub(super) async fn update(tracker: Tracker, asked: Update) -> Result<Empty, TrackError> {
    required("new_name", &asked.new_name)?;
    tracker.rename_experiment(&asked.experiment_id, asked.new_name).await?;
    Ok(Empty {})
}

pub(super) async fn delete(tracker: Tracker, asked: ById) -> Result<Empty, TrackError> {
    tracker.set_experiment_lifecycle(&asked.experiment_id, Lifecycle::Deleted).await?;
    Ok(Empty {})
}

pub(super) async fn restore(tracker: Tracker, asked: ById) -> Result<Empty, TrackError> {
    tracker.set_experiment_lifecycle(&asked.experiment_id, Lifecycle::Active).await?;
    Ok(Empty {})
}

#[derive(Deserialize)]
pub(super) struct SetTag {
    experiment_id: String,
    key: String,
    #[serde(default, deserialize_with = "fields::or_default")]
    value: String,
}

pub(super) async fn set_tag(tracker: Tracker, asked: SetTag) -> Result<Empty, TrackError> {
    tracker.set_experiment_tag(&asked.experiment_id, Pair { key: asked.key, value: asked.value }).await?;
    Ok(Empty {})
}

#[derive(Deserialize)]
pub(super) struct DeleteTag {
    experiment_id: String,
    key: String,
}

pub(super) async fn delete_tag(tracker: Tracker, asked: DeleteTag) -> Result<Empty, TrackError> {
    tracker.delete_experiment_tag(&asked.experiment_id, asked.key).await?;
    Ok(Empty {})
}
