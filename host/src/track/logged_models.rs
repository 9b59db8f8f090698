use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::experiments::{active, parse_id};
use super::names::{check_free, check_free_key, check_length, check_text, last_of_each_key};
use super::rest::fields::{Numbered, double, objects, or_default};
use super::rows::{self, number_or_null, pieces, placeholders};
use super::{ErrorCode, Metric, Pair, TrackError, Tracker, now_ms};

/// The columns of [`model`].
pub(super) const MODEL_COLUMNS: &str = "m.id, m.model_id, m.experiment, m.name, m.model_type, m.source_run_id, \
                                        m.status, m.artifact_uri, m.created_at, m.updated_at";

/// Longest name or type of a model.
const NAME_MAX_CHARS: usize = 500;

/// What a model may hold of each kind.
const PAIRS_MAX: usize = 1_000;

/// A model that a run logged.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoggedModel {
    /// What it is.
    pub info: LoggedModelInfo,
    /// What is known of it.
    pub data: LoggedModelData,
}

/// What a logged model is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoggedModelInfo {
    /// `m-` and 32 hexadecimal digits.
    pub model_id: String,
    /// Its experiment.
    pub experiment_id: String,
    /// For people.
    pub name: String,
    /// Milliseconds since 1970.
    pub creation_timestamp_ms: i64,
    /// Milliseconds since 1970.
    pub last_updated_timestamp_ms: i64,
    /// Where its files are.
    pub artifact_uri: String,
    /// Whether its files are complete.
    pub status: LoggedModelStatus,
    /// What kind of model it is.
    pub model_type: String,
    /// The run that made it; empty if none did.
    pub source_run_id: String,
    /// Notes.
    pub tags: Vec<Pair>,
}

/// What is known of a logged model.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LoggedModelData {
    /// Parameters.
    pub params: Vec<Pair>,
    /// The newest point of each metric.
    pub metrics: Vec<ModelMetric>,
}

/// A metric of a model on a dataset.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelMetric {
    /// Its name.
    pub key: String,
    /// Any float.
    #[serde(serialize_with = "double::serialize")]
    pub value: f64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// The x axis.
    pub step: i64,
    /// The dataset it was measured on.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub dataset_name: String,
    /// That dataset's digest.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub dataset_digest: String,
    /// The model.
    pub model_id: String,
    /// The run that logged it.
    pub run_id: String,
}

/// Whether a model's files are complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoggedModelStatus {
    /// Nothing is known.
    #[serde(rename = "LOGGED_MODEL_STATUS_UNSPECIFIED")]
    Unspecified,
    /// They are being uploaded.
    #[serde(rename = "LOGGED_MODEL_PENDING")]
    Pending,
    /// They are there.
    #[serde(rename = "LOGGED_MODEL_READY")]
    Ready,
    /// They will not come.
    #[serde(rename = "LOGGED_MODEL_UPLOAD_FAILED")]
    UploadFailed,
}

/// What a new model starts with.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct NewLoggedModel {
    /// Its experiment.
    pub experiment_id: String,
    /// For people; one is made up where there is none.
    pub name: Option<String>,
    /// What kind of model it is.
    #[serde(default, deserialize_with = "or_default")]
    pub model_type: String,
    /// The run that makes it.
    #[serde(default, deserialize_with = "or_default")]
    pub source_run_id: String,
    /// Parameters.
    #[serde(default, deserialize_with = "objects")]
    pub params: Vec<Pair>,
    /// Notes.
    #[serde(default, deserialize_with = "objects")]
    pub tags: Vec<Pair>,
}

impl LoggedModelStatus {
    const ALL: [Self; 4] = [Self::Unspecified, Self::Pending, Self::Ready, Self::UploadFailed];

    /// MLflow's number for it.
    pub(super) fn number(self) -> i64 {
        Self::ALL.iter().position(|status| *status == self).unwrap_or_default() as i64
    }

    /// The status that a filter names, as `READY`, or as in a request.
    pub(super) fn of_word(word: &str) -> Option<Self> {
        let word = word.strip_prefix("LOGGED_MODEL_").unwrap_or(word);
        let words = ["STATUS_UNSPECIFIED", "PENDING", "READY", "UPLOAD_FAILED"];
        let place = match word {
            "UNSPECIFIED" => 0,
            "FAILED" => 3,
            word => words.iter().position(|known| *known == word)?,
        };
        Self::ALL.get(place).copied()
    }
}

impl Numbered for LoggedModelStatus {
    fn of_number(number: i64) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// A model without its tags and data, and its key.
pub(super) fn model(row: &AnyRow) -> Result<(i64, LoggedModel), TrackError> {
    let status = LoggedModelStatus::of_number(row.try_get(6)?).unwrap_or(LoggedModelStatus::Unspecified);
    let info = LoggedModelInfo {
        model_id: row.try_get(1)?,
        experiment_id: row.try_get::<i64, _>(2)?.to_string(),
        name: row.try_get(3)?,
        model_type: row.try_get(4)?,
        source_run_id: row.try_get(5)?,
        status,
        artifact_uri: row.try_get(7)?,
        creation_timestamp_ms: row.try_get(8)?,
        last_updated_timestamp_ms: row.try_get(9)?,
        tags: Vec::new(),
    };
    Ok((row.try_get(0)?, LoggedModel { info, data: LoggedModelData::default() }))
}

impl Tracker {
    /// Announces a model whose files will follow.
    pub async fn create_logged_model(&self, new: NewLoggedModel) -> Result<LoggedModel, TrackError> {
        let experiment = parse_id(&new.experiment_id)?;
        let model_id = format!("m-{}", uuid::Uuid::new_v4().simple());
        let name = new.name.filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| super::names_of_runs::make(model_id.get(2..).unwrap_or_default()));
        check_model_name(&name)?;
        check_length("model_type", &new.model_type, NAME_MAX_CHARS)?;
        check_length("source_run_id", &new.source_run_id, NAME_MAX_CHARS)?;
        let params = checked(new.params)?;
        let tags = last_of_each_key(checked(new.tags)?);
        let id = model_id.clone();
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let location = active(connection, experiment).await?;
                    let artifact_uri = format!("{}/models/{model_id}/artifacts", location.trim_end_matches('/'));
                    let sql = "INSERT INTO logged_models (model_id, experiment, name, model_type, source_run_id, status, \
                               artifact_uri, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8) \
                               RETURNING id";
                    let row = sqlx::query(sql)
                        .bind(model_id.as_str())
                        .bind(experiment)
                        .bind(name.as_str())
                        .bind(new.model_type.as_str())
                        .bind(new.source_run_id.as_str())
                        .bind(LoggedModelStatus::Pending.number())
                        .bind(artifact_uri.as_str())
                        .bind(now_ms())
                        .fetch_one(&mut *connection)
                        .await?;
                    let key = row.try_get(0)?;
                    write_params(connection, key, &params).await?;
                    write_pairs(connection, "logged_model_tags", key, &tags).await
                })
            })
            .await?;
        self.logged_model(&id).await
    }

    /// The model of an id.
    pub async fn logged_model(&self, model_id: &str) -> Result<LoggedModel, TrackError> {
        self.find_logged_model(model_id, "AND m.deleted_at IS NULL").await
    }

    /// The model of an id, deleted or not.
    pub async fn logged_model_even_deleted(&self, model_id: &str) -> Result<LoggedModel, TrackError> {
        self.find_logged_model(model_id, "").await
    }

    async fn find_logged_model(
        &self,
        model_id: &str,
        condition: &'static str,
    ) -> Result<LoggedModel, TrackError> {
        let sql = format!("SELECT {MODEL_COLUMNS} FROM logged_models m WHERE m.model_id = $1 {condition}");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(model_id);
        let row = row.fetch_optional(self.database.readers()).await?.ok_or_else(|| no_model(model_id))?;
        let models = self.with_model_data(vec![model(&row)?]).await?;
        models.into_iter().next().ok_or_else(|| no_model(model_id))
    }

    /// Says whether a model's files are complete.
    pub async fn finalize_logged_model(
        &self,
        model_id: String,
        status: LoggedModelStatus,
    ) -> Result<LoggedModel, TrackError> {
        let id = model_id.clone();
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let key = live_model(connection, &id).await?;
                    sqlx::query("UPDATE logged_models SET status = $1, updated_at = $2 WHERE id = $3")
                        .bind(status.number())
                        .bind(now_ms())
                        .bind(key)
                        .execute(connection)
                        .await?;
                    Ok::<_, TrackError>(())
                })
            })
            .await?;
        self.logged_model(&model_id).await
    }

    /// Forgets a model; one that is forgotten already is no failure.
    pub async fn delete_logged_model(&self, model_id: String) -> Result<(), TrackError> {
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    // One that is deleted already stays deleted since then.
                    let sql =
                        "UPDATE logged_models SET deleted_at = COALESCE(deleted_at, $1) WHERE model_id = $2";
                    let query = sqlx::query(sql).bind(now_ms()).bind(model_id.as_str());
                    match query.execute(connection).await?.rows_affected() {
                        0 => Err(no_model(&model_id)),
                        _ => Ok(()),
                    }
                })
            })
            .await
    }

    /// Adds parameters, each of which is set once, and sets tags of a model.
    pub async fn describe_logged_model(
        &self,
        model_id: String,
        params: Vec<Pair>,
        tags: Vec<Pair>,
    ) -> Result<LoggedModel, TrackError> {
        let params = checked(params)?;
        let tags = last_of_each_key(checked(tags)?);
        let id = model_id.clone();
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let key = live_model(connection, &id).await?;
                    write_params(connection, key, &params).await?;
                    write_pairs(connection, "logged_model_tags", key, &tags).await
                })
            })
            .await?;
        self.logged_model(&model_id).await
    }

    /// Removes a tag of a model.
    pub async fn delete_logged_model_tag(&self, model_id: String, key: String) -> Result<(), TrackError> {
        check_free_key("tag_key", &key)?;
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let model = live_model(connection, &model_id).await?;
                    let gone = sqlx::query("DELETE FROM logged_model_tags WHERE model = $1 AND key = $2")
                        .bind(model)
                        .bind(key.as_str())
                        .execute(connection)
                        .await?;
                    if gone.rows_affected() == 0 {
                        return Err(TrackError::missing(format!(
                            "No tag with key '{key}' found for model with ID '{model_id}'."
                        )));
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Puts to models their tags, parameters and metrics.
    pub(super) async fn with_model_data(
        &self,
        mut found: Vec<(i64, LoggedModel)>,
    ) -> Result<Vec<LoggedModel>, TrackError> {
        let ids: Vec<i64> = found.iter().map(|(id, _)| *id).collect();
        let mut places: HashMap<i64, &mut LoggedModel> =
            found.iter_mut().map(|(id, model)| (*id, model)).collect();
        for piece in pieces(&ids) {
            let condition = format!("WHERE model IN ({}) ORDER BY model, key", placeholders(1, piece.len()));
            let select = |sql: String| {
                let query = sqlx::query(sqlx::AssertSqlSafe(sql));
                piece.iter().fold(query, |query, id| query.bind(*id)).fetch_all(self.database.readers())
            };
            for row in select(format!("SELECT model, key, value FROM logged_model_tags {condition}")).await? {
                let (id, pair) = rows::pair(&row)?;
                places.entry(id).and_modify(|model| model.info.tags.push(pair));
            }
            for row in
                select(format!("SELECT model, key, value FROM logged_model_params {condition}")).await?
            {
                let (id, pair) = rows::pair(&row)?;
                places.entry(id).and_modify(|model| model.data.params.push(pair));
            }
            let sql = format!(
                "SELECT model, key, step, timestamp, value, dataset_name, dataset_digest, run_id \
                 FROM logged_model_metrics {condition}"
            );
            for row in select(sql).await? {
                let (id, metric) = rows::newest(&row)?;
                let (dataset_name, dataset_digest) = (row.try_get(5)?, row.try_get(6)?);
                let run_id = row.try_get(7)?;
                places.entry(id).and_modify(|model| {
                    model.data.metrics.push(ModelMetric {
                        key: metric.key,
                        value: metric.value,
                        timestamp: metric.timestamp,
                        step: metric.step,
                        dataset_name,
                        dataset_digest,
                        model_id: model.info.model_id.clone(),
                        run_id,
                    });
                });
            }
        }
        Ok(found.into_iter().map(|(_, model)| model).collect())
    }
}

/// Keeps the newest point of metrics that name a model.
pub(super) async fn write_model_metrics(
    connection: &mut AnyConnection,
    run_id: &str,
    metrics: &[Metric],
) -> Result<(), TrackError> {
    for metric in metrics {
        let Some(model_id) = metric.model_id.as_deref().filter(|id| !id.is_empty()) else { continue };
        let model = live_model(connection, model_id).await?;
        write_model_metric(connection, model, run_id, metric).await?;
    }
    Ok(())
}

/// Keeps a point of a model's metric if it is the newest.
pub(super) async fn write_model_metric(
    connection: &mut AnyConnection,
    model: i64,
    run_id: &str,
    metric: &Metric,
) -> Result<(), TrackError> {
    let sql = format!(
        "INSERT INTO logged_model_metrics (model, key, run_id, dataset_name, dataset_digest, step, timestamp, value) \
         VALUES ({}, {}) ON CONFLICT (model, key, run_id, dataset_name, dataset_digest) DO UPDATE \
         SET step = excluded.step, timestamp = excluded.timestamp, value = excluded.value \
         WHERE (excluded.step, excluded.timestamp) >= (logged_model_metrics.step, logged_model_metrics.timestamp)",
        placeholders(1, 7),
        number_or_null("$8")
    );
    sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(model)
        .bind(metric.key.as_str())
        .bind(run_id)
        .bind(metric.dataset_name.as_deref().unwrap_or_default())
        .bind(metric.dataset_digest.as_deref().unwrap_or_default())
        .bind(metric.step)
        .bind(metric.timestamp)
        .bind(metric.value)
        .execute(connection)
        .await?;
    Ok(())
}

/// Tag of a logged model that lists the versions which hold it, as MLflow writes it.
const VERSIONS_TAG: &str = "mlflow.modelVersions";

/// Versions that the tag lists; the oldest make room.
const VERSIONS_MAX: usize = 200;

/// Notes with a logged model that version `number` of the model `name` holds it.
pub(crate) async fn note_version(
    connection: &mut AnyConnection,
    model_id: &str,
    name: &str,
    number: i64,
) -> Result<(), TrackError> {
    let model = live_model(connection, model_id).await?;
    let row = sqlx::query("SELECT value FROM logged_model_tags WHERE model = $1 AND key = $2")
        .bind(model)
        .bind(VERSIONS_TAG)
        .fetch_optional(&mut *connection)
        .await?;
    let old: Option<String> = row.map(|row| row.try_get(0)).transpose()?;
    // A client may have written something else there.
    let mut versions: Vec<serde_json::Value> =
        old.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    versions.push(serde_json::json!({ "name": name, "version": number }));
    versions.drain(..versions.len().saturating_sub(VERSIONS_MAX));
    let value = serde_json::Value::from(versions).to_string();
    write_pairs(connection, "logged_model_tags", model, &[Pair { key: VERSIONS_TAG.to_owned(), value }]).await
}

fn checked(pairs: Vec<Pair>) -> Result<Vec<Pair>, TrackError> {
    if pairs.len() > PAIRS_MAX {
        return Err(TrackError::invalid(format!("A request can contain at most {PAIRS_MAX} params or tags")));
    }
    pairs.iter().try_for_each(|pair| check_free("", pair))?;
    Ok(pairs)
}

/// MLflow's rule: the name becomes a part of URIs.
pub(super) fn check_model_name(name: &str) -> Result<(), TrackError> {
    check_text("name", name)?;
    if name.contains(['/', ':', '.', '%', '"', '\'']) {
        return Err(TrackError::invalid(format!(
            "Invalid model name ({}) provided. Model name must be a non-empty string and cannot contain the following \
             characters: ('/', ':', '.', '%', '\"', \"'\")",
            name.chars().take(100).collect::<String>()
        )));
    }
    check_length("name", name, NAME_MAX_CHARS)
}

fn no_model(model_id: &str) -> TrackError {
    let model_id: String = model_id.chars().take(300).collect();
    TrackError::new(ErrorCode::ResourceDoesNotExist, format!("Logged model with ID '{model_id}' not found."))
}

async fn live_model(connection: &mut AnyConnection, model_id: &str) -> Result<i64, TrackError> {
    let sql = "SELECT id FROM logged_models WHERE model_id = $1 AND deleted_at IS NULL";
    let row = sqlx::query(sql).bind(model_id).fetch_optional(connection).await?;
    Ok(row.ok_or_else(|| no_model(model_id))?.try_get(0)?)
}

/// Sets parameters; one that has the same value already is no change, and one that has another is refused.
async fn write_params(connection: &mut AnyConnection, model: i64, params: &[Pair]) -> Result<(), TrackError> {
    for param in params {
        let sql = "INSERT INTO logged_model_params (model, key, value) VALUES ($1, $2, $3) \
                   ON CONFLICT (model, key) DO NOTHING";
        let query = sqlx::query(sql).bind(model).bind(param.key.as_str()).bind(param.value.as_str());
        if query.execute(&mut *connection).await?.rows_affected() > 0 {
            continue;
        }
        let sql = "SELECT value FROM logged_model_params WHERE model = $1 AND key = $2";
        let row = sqlx::query(sql).bind(model).bind(param.key.as_str()).fetch_one(&mut *connection).await?;
        let old: String = row.try_get(0)?;
        if old != param.value {
            let shown = |text: &str| text.chars().take(300).collect::<String>();
            return Err(TrackError::invalid(format!(
                "Changing param values is not allowed. Param with key='{}' was already logged with value='{}'. \
                 Attempted logging new value '{}'.",
                shown(&param.key),
                shown(&old),
                shown(&param.value)
            )));
        }
    }
    Ok(())
}

pub(super) async fn write_pairs(
    connection: &mut AnyConnection,
    table: &'static str,
    model: i64,
    pairs: &[Pair],
) -> Result<(), TrackError> {
    for pair in pairs {
        let sql = format!(
            "INSERT INTO {table} (model, key, value) VALUES ($1, $2, $3) \
             ON CONFLICT (model, key) DO UPDATE SET value = excluded.value"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(model)
            .bind(pair.key.as_str())
            .bind(pair.value.as_str())
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
