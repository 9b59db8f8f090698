use std::collections::HashMap;

use serde::Deserialize;
use sqlx::{AnyConnection, Row as _};

use super::aliases::note_deletion;
use super::bundle::{BLOBS_FOLDER, MANIFEST_FILE};
use super::entities::{ModelVersion, Stage, VERSION_COLUMNS, model_version};
use super::names::{check_description, check_model_name, checked_tags, parse_number, required};
use super::registered_models::model_key;
use super::source::CheckedSource;
use super::{Registry, RegistryError, read_bundle};
use crate::domain::{Digest, Name};
use crate::track::artifacts::path_of_location;
use crate::track::logged_models::note_version;
use crate::track::names::check_length;
use crate::track::rest::fields::objects;
use crate::track::rows::{self, pieces, placeholders};
use crate::track::{ArtifactPath, Pair, RunInfo, TrackError, now_ms};

/// Status of a version: it is there as soon as it is registered.
const READY: &str = "READY";

/// Tag that makes a prompt of a model or version.
pub(super) const PROMPT_TAG: &str = "mlflow.prompt.is_prompt";

/// Longest id of a run or logged model, and longest name of a user.
const ID_MAX_CHARS: usize = 256;

/// Longest link to a run.
pub(super) const LINK_MAX_CHARS: usize = 500;

/// What a new version starts with.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct NewVersion {
    /// The model.
    #[serde(default, deserialize_with = "crate::track::rest::fields::or_default")]
    pub name: String,
    /// Where its files are: `runs:/…`, `models:/…` or `mlflow-artifacts:/…`.
    #[serde(default, deserialize_with = "crate::track::rest::fields::or_default")]
    pub source: String,
    /// The run that made it.
    #[serde(default, deserialize_with = "crate::track::rest::fields::or_default")]
    pub run_id: String,
    /// Where that run is shown.
    #[serde(default, deserialize_with = "crate::track::rest::fields::or_default")]
    pub run_link: String,
    /// For people.
    #[serde(default, deserialize_with = "crate::track::rest::fields::or_default")]
    pub description: String,
    /// The logged model that it is.
    #[serde(default, deserialize_with = "crate::track::rest::fields::or_default")]
    pub model_id: String,
    /// Notes.
    #[serde(default, deserialize_with = "objects")]
    pub tags: Vec<Pair>,
}

impl Registry {
    /// Adds a version to a model.
    pub async fn create_version(&self, new: NewVersion) -> Result<ModelVersion, TrackError> {
        check_model_name("name", &new.name)?;
        required("source", &new.source)?;
        check_description(&new.description)?;
        check_length("run_link", &new.run_link, LINK_MAX_CHARS)?;
        check_length("run_id", &new.run_id, ID_MAX_CHARS)?;
        check_length("model_id", &new.model_id, ID_MAX_CHARS)?;
        let tags = checked_tags(new.tags)?;
        let source = self.check_source(&new.source, &new.run_id, &new.model_id, is_prompt(&tags)).await?;
        let name = new.name.clone();
        let number = self
            .database()
            .write(move |connection| {
                Box::pin(async move {
                    let model = model_key(connection, &new.name).await?;
                    hold_bundle(connection, &source).await?;
                    let row =
                        NewRow { source, run_link: new.run_link, description: new.description, user_id: "" };
                    let (id, number) = insert_version(connection, model, &row).await?;
                    write_version_tags(connection, id, &tags).await?;
                    if !row.source.model_id.is_empty() {
                        note_version(connection, &row.source.model_id, &new.name, number).await?;
                    }
                    Ok::<_, TrackError>(number)
                })
            })
            .await?;
        self.numbered_version(&name, number).await
    }

    /// The version of a number, which may be any text.
    pub async fn version(&self, name: &str, number: &str) -> Result<ModelVersion, TrackError> {
        check_model_name("name", name)?;
        self.numbered_version(name, parse_number(number)?).await
    }

    /// The version of a number.
    pub(super) async fn numbered_version(&self, name: &str, number: i64) -> Result<ModelVersion, TrackError> {
        let found = self.find_versions("m.name = $1 AND v.number = $2", name, Some(number)).await?;
        found.into_iter().next().ok_or_else(|| no_version(name, number))
    }

    /// What MLflow calls the latest: the version of the highest number, yanked or not.
    pub(super) async fn latest_version(&self, name: &str) -> Result<ModelVersion, TrackError> {
        let condition =
            "m.name = $1 AND v.number = (SELECT MAX(o.number) FROM model_versions o WHERE o.model = m.id)";
        let found = self.find_versions(condition, name, None).await?;
        found
            .into_iter()
            .next()
            .ok_or_else(|| TrackError::missing(format!("Latest version not found for model {name}.")))
    }

    /// Every version of a model, the newest first.
    pub(super) async fn versions_of(&self, name: &str) -> Result<Vec<ModelVersion>, TrackError> {
        self.find_versions("m.name = $1 ORDER BY v.number DESC", name, None).await
    }

    /// The versions that a condition on the name `$1` and the number `$2` holds for.
    pub(super) async fn find_versions(
        &self,
        condition: &str,
        name: &str,
        number: Option<i64>,
    ) -> Result<Vec<ModelVersion>, TrackError> {
        let sql = format!(
            "SELECT {VERSION_COLUMNS} FROM model_versions v JOIN registered_models m ON m.id = v.model \
             WHERE {condition}"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(name);
        let query = number.into_iter().fold(query, |query, number| query.bind(number));
        let rows = query.fetch_all(self.database().readers()).await?;
        let found = rows.iter().map(model_version).collect::<Result<Vec<_>, _>>()?;
        self.with_version_details(found).await
    }

    /// The newest version of each of `stages`, or of all stages where none is named.
    pub async fn latest_versions(
        &self,
        name: &str,
        stages: &[String],
    ) -> Result<Vec<ModelVersion>, TrackError> {
        let stages = stages.iter().map(|stage| stage.parse()).collect::<Result<Vec<Stage>, _>>()?;
        let mut latest = self.model(name).await?.latest_versions;
        latest.retain(|version| stages.is_empty() || stages.contains(&version.current_stage));
        Ok(latest)
    }

    /// Describes a version.
    pub async fn describe_version(
        &self,
        name: String,
        number: &str,
        description: String,
    ) -> Result<ModelVersion, TrackError> {
        check_model_name("name", &name)?;
        check_description(&description)?;
        let number = parse_number(number)?;
        let described = name.clone();
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    let (_, version) = version_key(connection, &name, number).await?;
                    sqlx::query("UPDATE model_versions SET description = $1, updated_at = $2 WHERE id = $3")
                        .bind(description.as_str())
                        .bind(now_ms())
                        .bind(version)
                        .execute(connection)
                        .await?;
                    Ok::<_, TrackError>(())
                })
            })
            .await?;
        self.numbered_version(&described, number).await
    }

    /// Moves a version to a stage, and those that were there to the archive if asked to.
    pub async fn move_to_stage(
        &self,
        name: String,
        number: &str,
        stage: &str,
        archive_others: bool,
    ) -> Result<ModelVersion, TrackError> {
        check_model_name("name", &name)?;
        let number = parse_number(number)?;
        let stage: Stage = stage.parse()?;
        if archive_others && !stage.is_active() {
            return Err(TrackError::invalid(format!(
                "Model version transition cannot archive existing model versions because '{}' is not an Active stage. \
                 Valid stages are ['Staging', 'Production']",
                stage.as_str()
            )));
        }
        let moved = name.clone();
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    let (model, version) = version_key(connection, &name, number).await?;
                    touch_model(connection, model).await?;
                    if archive_others {
                        let sql = "UPDATE model_versions SET stage = $1, updated_at = $2 \
                                   WHERE model = $3 AND stage = $4 AND id <> $5";
                        sqlx::query(sql)
                            .bind(Stage::Archived.as_str())
                            .bind(now_ms())
                            .bind(model)
                            .bind(stage.as_str())
                            .bind(version)
                            .execute(&mut *connection)
                            .await?;
                    }
                    sqlx::query("UPDATE model_versions SET stage = $1, updated_at = $2 WHERE id = $3")
                        .bind(stage.as_str())
                        .bind(now_ms())
                        .bind(version)
                        .execute(connection)
                        .await?;
                    Ok::<_, TrackError>(())
                })
            })
            .await?;
        self.numbered_version(&moved, number).await
    }

    /// Forgets a version with its tags and aliases; its number is not used again, and the history of the aliases stays.
    pub async fn delete_version(&self, name: String, number: &str) -> Result<(), TrackError> {
        check_model_name("name", &name)?;
        let number = parse_number(number)?;
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    let (model, version) = version_key(connection, &name, number).await?;
                    touch_model(connection, model).await?;
                    note_deletion(connection, version).await?;
                    sqlx::query("DELETE FROM model_versions WHERE id = $1")
                        .bind(version)
                        .execute(connection)
                        .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Puts to versions their tags and aliases.
    pub(super) async fn with_version_details(
        &self,
        mut found: Vec<(i64, ModelVersion)>,
    ) -> Result<Vec<ModelVersion>, TrackError> {
        let ids: Vec<i64> = found.iter().map(|(id, _)| *id).collect();
        let mut places: HashMap<i64, &mut ModelVersion> =
            found.iter_mut().map(|(id, version)| (*id, version)).collect();
        for piece in pieces(&ids) {
            let inside = placeholders(1, piece.len());
            let select = |sql: String| {
                let query = sqlx::query(sqlx::AssertSqlSafe(sql));
                piece.iter().fold(query, |query, id| query.bind(*id)).fetch_all(self.database().readers())
            };
            let condition = format!("WHERE version IN ({inside}) ORDER BY version");
            for row in
                select(format!("SELECT version, key, value FROM model_version_tags {condition}, key")).await?
            {
                let (id, pair) = rows::pair(&row)?;
                places.entry(id).and_modify(|version| version.tags.push(pair));
            }
            let sql = format!("SELECT version, alias FROM registered_model_aliases {condition}, alias");
            for row in select(sql).await? {
                let alias: String = row.try_get(1)?;
                places.entry(row.try_get(0)?).and_modify(|version| version.aliases.push(alias));
            }
        }
        Ok(found.into_iter().map(|(_, version)| version).collect())
    }

    /// Adds a version that holds a bundle, made by a run, to a model, which is made if need be. The same bundle again
    /// is the version that it already is, so repeating changes nothing. Clients of MLflow find it among the run's
    /// artifacts, as the folder that this program serves too.
    pub async fn register_bundle(
        &self,
        name: &Name,
        bundle: Digest,
        run_id: &str,
    ) -> Result<ModelVersion, RegistryError> {
        let run = self.tracker.run(run_id).await?.info;
        self.show_bundle(bundle, &run).await?;
        let (name, run_id, user_id) = (name.to_string(), run.run_id, run.user_id);
        let registered = name.clone();
        let number = self
            .database()
            .write(move |connection| {
                Box::pin(async move {
                    super::registered_models::insert_model(connection, &name, "").await?;
                    let model = model_key(connection, &name).await?;
                    // Whoever else registers waits until this is done, and then finds what was added.
                    touch_model(connection, model).await?;
                    let bundle = bundle.to_string();
                    let sql =
                        "SELECT number FROM model_versions WHERE model = $1 AND bundle = $2 ORDER BY number";
                    let same = sqlx::query(sql).bind(model).bind(bundle.as_str());
                    if let Some(row) = same.fetch_optional(&mut *connection).await? {
                        return Ok::<_, TrackError>(row.try_get(0)?);
                    }
                    let source = format!("runs:/{run_id}/{BUNDLE_FOLDER}");
                    let location = source.clone();
                    let source = CheckedSource { source, location, run_id, model_id: String::new(), bundle };
                    let row = NewRow {
                        source,
                        run_link: String::new(),
                        description: String::new(),
                        user_id: &user_id,
                    };
                    Ok(insert_version(connection, model, &row).await?.1)
                })
            })
            .await?;
        Ok(self.numbered_version(&registered, number).await?)
    }

    async fn show_bundle(&self, bundle: Digest, run: &RunInfo) -> Result<(), RegistryError> {
        let root = path_of_location(&run.artifact_uri)?.join(&ArtifactPath::parse(BUNDLE_FOLDER)?);
        let store = self.store().clone();
        let read = move || Ok::<_, RegistryError>((read_bundle(&store, bundle)?, store.blob_len(bundle)?));
        let read = tokio::task::spawn_blocking(read).await;
        let (manifest, size) = read.map_err(|error| TrackError::internal(error.to_string()))??;
        let place = |path: &str| Ok::<_, TrackError>(root.join(&ArtifactPath::parse(path)?));
        let mut files = vec![(place(MANIFEST_FILE)?, bundle, size)];
        for blob in manifest.blobs() {
            files.push((place(&format!("{BLOBS_FOLDER}/{}", blob.digest.hex()))?, blob.digest, blob.size));
        }
        Ok(self.tracker.link_artifacts(files).await?)
    }
}

/// Folder of a run's artifacts that shows the bundle it made.
const BUNDLE_FOLDER: &str = "bundle";

/// What a new row holds.
struct NewRow<'a> {
    source: CheckedSource,
    run_link: String,
    description: String,
    user_id: &'a str,
}

/// Adds a version of the next number; gives its key and number.
async fn insert_version(
    connection: &mut AnyConnection,
    model: i64,
    new: &NewRow<'_>,
) -> Result<(i64, i64), TrackError> {
    // The row of the model is a lock too: no other process gives the number meanwhile.
    let sql = "UPDATE registered_models SET last_number = last_number + 1, updated_at = $1 WHERE id = $2 \
               RETURNING last_number";
    let row = sqlx::query(sql).bind(now_ms()).bind(model).fetch_one(&mut *connection).await?;
    let number: i64 = row.try_get(0)?;
    let sql = "INSERT INTO model_versions (model, number, description, source, location, run_id, run_link, model_id, \
               bundle, status, status_message, stage, user_id, created_at, updated_at) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, '', $11, $12, $13, $13) RETURNING id";
    let row = sqlx::query(sql)
        .bind(model)
        .bind(number)
        .bind(new.description.as_str())
        .bind(new.source.source.as_str())
        .bind(new.source.location.as_str())
        .bind(new.source.run_id.as_str())
        .bind(new.run_link.as_str())
        .bind(new.source.model_id.as_str())
        .bind(new.source.bundle.as_str())
        .bind(READY)
        .bind(Stage::None.as_str())
        .bind(new.user_id)
        .bind(now_ms())
        .fetch_one(connection)
        .await?;
    Ok((row.try_get(0)?, number))
}

/// A bundle that is copied from another version is held by it until this one holds it too, so that `host gc` never sees
/// neither: whoever deletes the other waits.
async fn hold_bundle(connection: &mut AnyConnection, source: &CheckedSource) -> Result<(), TrackError> {
    if source.bundle.is_empty() {
        return Ok(());
    }
    let sql = "SELECT 1 FROM model_versions WHERE bundle = $1 LIMIT 1";
    let held = sqlx::query(sql).bind(source.bundle.as_str()).fetch_optional(connection).await?;
    let gone = || TrackError::missing(format!("{} was deleted meanwhile", source.source));
    held.map(drop).ok_or_else(gone)
}

/// Whether tags make a prompt of what has them.
pub(super) fn is_prompt(tags: &[Pair]) -> bool {
    tags.iter().any(|tag| tag.key == PROMPT_TAG && tag.value.eq_ignore_ascii_case("true"))
}

/// The keys of a model and of its version.
pub(super) async fn version_key(
    connection: &mut AnyConnection,
    name: &str,
    number: i64,
) -> Result<(i64, i64), TrackError> {
    let sql = "SELECT v.model, v.id FROM model_versions v JOIN registered_models m ON m.id = v.model \
               WHERE m.name = $1 AND v.number = $2";
    let row = sqlx::query(sql).bind(name).bind(number).fetch_optional(connection).await?;
    let row = row.ok_or_else(|| no_version(name, number))?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

pub(super) async fn write_version_tags(
    connection: &mut AnyConnection,
    version: i64,
    tags: &[Pair],
) -> Result<(), TrackError> {
    for tag in tags {
        let sql = "INSERT INTO model_version_tags (version, key, value) VALUES ($1, $2, $3) \
                   ON CONFLICT (version, key) DO UPDATE SET value = excluded.value";
        sqlx::query(sql)
            .bind(version)
            .bind(tag.key.as_str())
            .bind(tag.value.as_str())
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

async fn touch_model(connection: &mut AnyConnection, model: i64) -> Result<(), TrackError> {
    sqlx::query("UPDATE registered_models SET updated_at = $1 WHERE id = $2")
        .bind(now_ms())
        .bind(model)
        .execute(connection)
        .await?;
    Ok(())
}

fn no_version(name: &str, number: i64) -> TrackError {
    TrackError::missing(format!("Model Version (name={name}, version={number}) not found"))
}
