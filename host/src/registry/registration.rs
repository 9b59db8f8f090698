//! Makes versions of bundles that no run registers itself.

use sqlx::Row as _;

use super::bundle::check_bundle;
use super::names::checked_tags;
use super::{ModelVersion, Registry, RegistryError};
use crate::domain::{Digest, Name};
use crate::track::{BUNDLE_TAG, ErrorCode, NewRun, Pair, RunChange, RunStatus, TrackError, now_ms};

/// Tag of a run that says which program made it.
const SOURCE_TAG: &str = "mlflow.source.name";

/// How a bundle came to be registered, for the record of the run that is made where none made the bundle here.
#[derive(Debug, Clone)]
pub struct BundleOrigin {
    /// The command, such as `host model import`.
    pub command: &'static str,
    /// Who gave it.
    pub user_id: String,
}

impl Registry {
    /// Adds a version that holds a bundle of the store to a model, which is made if need be, and sets tags of it. The same
    /// bundle again is the version that it already is.
    ///
    /// Its run is the one that made the bundle; where that is not here, a finished one is made, named after the model: so
    /// every version has a run, and clients of MLflow find the bundle among its artifacts.
    pub async fn register(
        &self,
        name: &Name,
        bundle: Digest,
        tags: Vec<Pair>,
        origin: BundleOrigin,
    ) -> Result<ModelVersion, RegistryError> {
        let tags = checked_tags(tags)?;
        let store = self.store().clone();
        let checked = tokio::task::spawn_blocking(move || check_bundle(&store, bundle)).await;
        checked.map_err(|error| TrackError::internal(error.to_string()))??;
        let version = match self.version_of_bundle(name, bundle).await? {
            Some(number) => self.numbered_version(name.as_str(), number).await?,
            None => {
                let run_id = match self.run_of_bundle(bundle).await? {
                    Some(run_id) => run_id,
                    None => self.make_run(name, bundle, origin).await?,
                };
                self.register_bundle(name, bundle, &run_id).await?
            }
        };
        let number = version.number.to_string();
        for tag in tags {
            self.set_version_tag(version.name.clone(), &number, tag).await?;
        }
        Ok(self.numbered_version(name.as_str(), version.number).await?)
    }

    /// The first version of a model that holds a bundle.
    async fn version_of_bundle(&self, name: &Name, bundle: Digest) -> Result<Option<i64>, TrackError> {
        let sql = "SELECT v.number FROM model_versions v JOIN registered_models m ON m.id = v.model \
                   WHERE m.name = $1 AND v.bundle = $2 ORDER BY v.number LIMIT 1";
        let query = sqlx::query(sql).bind(name.as_str()).bind(bundle.to_string());
        let row = query.fetch_optional(self.database().readers()).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    /// The first run that says it made a bundle.
    async fn run_of_bundle(&self, bundle: Digest) -> Result<Option<String>, TrackError> {
        let sql = "SELECT r.run_id FROM run_tags t JOIN runs r ON r.id = t.run \
                   WHERE t.key = $1 AND t.value = $2 AND r.deleted_at IS NULL ORDER BY r.id LIMIT 1";
        let query = sqlx::query(sql).bind(BUNDLE_TAG).bind(bundle.to_string());
        let row = query.fetch_optional(self.database().readers()).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    async fn make_run(
        &self,
        name: &Name,
        bundle: Digest,
        origin: BundleOrigin,
    ) -> Result<String, TrackError> {
        let tracker = self.tracker();
        let experiment_id = match tracker.create_experiment(name.to_string(), None, Vec::new()).await {
            Err(error) if error.code() == ErrorCode::ResourceAlreadyExists => {
                tracker.experiment_by_name(name.as_str()).await?.experiment_id
            }
            created => created?,
        };
        let tag = |key: &str, value: String| Pair { key: key.to_owned(), value };
        let tags = vec![
            tag(BUNDLE_TAG, bundle.to_string()),
            tag(SOURCE_TAG, origin.command.to_owned()),
            tag("mlflow.source.type", "LOCAL".to_owned()),
        ];
        let new = NewRun { experiment_id, run_name: None, user_id: origin.user_id, start_time: None, tags };
        let run_id = tracker.create_run(new).await?.info.run_id;
        let change =
            RunChange { status: Some(RunStatus::Finished), end_time: Some(now_ms()), run_name: None };
        tracker.update_run(run_id.clone(), change).await?;
        Ok(run_id)
    }
}
