//! Writes records of another database into this one, inside a transaction of whoever calls. Nothing that is here is
//! changed, and what comes in is checked as a request is.

use sqlx::{AnyConnection, Row as _};

use super::{
    ArtifactRecord, ExperimentRecord, LoggedModelRecord, ModelMetricRecord, PointsRecord, RunRecord,
};
use crate::store::Dialect;
use crate::track::artifacts::{ArtifactPath, path_of_location, write_artifact};
use crate::track::experiments::PROXIED;
use crate::track::inputs;
use crate::track::logged_models::{self, write_model_metric, write_pairs};
use crate::track::metrics::write_metrics;
use crate::track::names::{
    check_experiment_name, check_experiment_tag, check_free, check_free_key, check_length, check_metric,
    check_text, checked_param, checked_run_name,
};
use crate::track::runs::{write_params, write_tags};
use crate::track::{Metric, Pair, TrackError};

/// Longest name of a user, and longest id.
const NAME_MAX_CHARS: usize = 250;

/// An experiment that is here.
#[derive(Debug, Clone)]
pub(crate) struct RestoredExperiment {
    key: i64,
    /// Where artifacts of its runs go.
    location: String,
    /// Whether it was made just now.
    pub(crate) is_new: bool,
}

/// A run or logged model that is here, and where its artifacts go.
#[derive(Debug, Clone)]
pub(crate) struct Restored {
    pub(crate) key: i64,
    /// Path of its artifacts.
    pub(crate) artifacts: ArtifactPath,
    /// Whether it was written just now.
    pub(crate) is_new: bool,
}

impl Restored {
    async fn find(connection: &mut AnyConnection, sql: &'static str, id: &str) -> Result<Self, TrackError> {
        let row = sqlx::query(sql).bind(id).fetch_one(connection).await?;
        let artifacts = path_of_location(row.try_get(1)?)?;
        Ok(Self { key: row.try_get(0)?, artifacts, is_new: false })
    }
}

/// Finds the experiment of the record's name, or makes it.
pub(crate) async fn experiment(
    connection: &mut AnyConnection,
    record: &ExperimentRecord,
) -> Result<RestoredExperiment, TrackError> {
    check_experiment_name(&record.name)?;
    record.tags.iter().try_for_each(check_experiment_tag)?;
    path_of_location(&record.artifact_location)?;
    let sql = "SELECT id, artifact_location, deleted_at FROM experiments WHERE name = $1";
    let found = sqlx::query(sql).bind(record.name.as_str()).fetch_optional(&mut *connection).await?;
    let (key, location, is_new) = match found {
        Some(row) if record.deleted_at.is_none() && row.try_get::<Option<i64>, _>(2)?.is_some() => {
            return Err(TrackError::invalid(format!(
                "experiment `{}` is deleted here: restore it, or remove it for good by `host gc`",
                record.name
            )));
        }
        Some(row) => (row.try_get(0)?, row.try_get(1)?, false),
        None => {
            let (key, location) = insert_experiment(connection, record).await?;
            (key, location, true)
        }
    };
    for tag in &record.tags {
        let sql =
            "INSERT INTO experiment_tags (experiment, key, value) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        let query = sqlx::query(sql).bind(key).bind(tag.key.as_str()).bind(tag.value.as_str());
        query.execute(&mut *connection).await?;
    }
    Ok(RestoredExperiment { key, location, is_new })
}

async fn insert_experiment(
    connection: &mut AnyConnection,
    record: &ExperimentRecord,
) -> Result<(i64, String), TrackError> {
    let sql = "INSERT INTO experiments (name, artifact_location, created_at, updated_at, deleted_at) \
               VALUES ($1, $2, $3, $4, $5) RETURNING id";
    let row = sqlx::query(sql)
        .bind(record.name.as_str())
        .bind(record.artifact_location.as_str())
        .bind(record.created_at)
        .bind(record.updated_at)
        .bind(record.deleted_at)
        .fetch_one(&mut *connection)
        .await?;
    let key: i64 = row.try_get(0)?;
    // The usual location has the experiment's number in it.
    if record.artifact_location != format!("{PROXIED}{}", record.id) {
        return Ok((key, record.artifact_location.clone()));
    }
    let location = format!("{PROXIED}{key}");
    let sql = "UPDATE experiments SET artifact_location = $1 WHERE id = $2";
    sqlx::query(sql).bind(location.as_str()).bind(key).execute(connection).await?;
    Ok((key, location))
}

/// Writes a run; one of its id is left as it is.
pub(crate) async fn run(
    connection: &mut AnyConnection,
    dialect: Dialect,
    record: RunRecord,
    experiment: &RestoredExperiment,
) -> Result<Restored, TrackError> {
    check_id("run", &record.run_id, &record.run_id)?;
    let name = checked_run_name(record.name)?;
    check_length("user_id", &record.user_id, NAME_MAX_CHARS)?;
    record.datasets.iter().try_for_each(inputs::check)?;
    let artifact_uri = format!("{}/{}/artifacts", experiment.location.trim_end_matches('/'), record.run_id);
    let sql = "INSERT INTO runs (run_id, experiment, name, user_id, status, started_at, ended_at, artifact_uri, \
               deleted_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (run_id) DO NOTHING RETURNING id";
    let inserted = sqlx::query(sql)
        .bind(record.run_id.as_str())
        .bind(experiment.key)
        .bind(name.as_str())
        .bind(record.user_id.as_str())
        .bind(record.status.as_str())
        .bind(record.started_at)
        .bind(record.ended_at)
        .bind(artifact_uri.as_str())
        .bind(record.deleted_at)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = inserted else {
        let sql = "SELECT id, artifact_uri FROM runs WHERE run_id = $1";
        return Restored::find(connection, sql, &record.run_id).await;
    };
    let key: i64 = row.try_get(0)?;
    let params = record.params.into_iter().map(|param| checked_param("", param));
    let params = params.collect::<Result<Vec<Pair>, _>>()?;
    write_params(connection, dialect, key, &record.run_id, &params).await?;
    // A tag may be longer than a request may make it: the list of models of older clients is.
    for tag in &record.tags {
        check_free_key("key", &tag.key)?;
        check_text("value", &tag.value)?;
    }
    write_tags(connection, dialect, key, &record.tags).await?;
    for input in &record.datasets {
        inputs::write_dataset(connection, key, experiment.key, input).await?;
    }
    for input in &record.model_inputs {
        check_length("model_id", &input.model_id, NAME_MAX_CHARS)?;
        inputs::write_model(connection, key, &input.model_id, false, 0).await?;
    }
    for output in &record.model_outputs {
        check_length("model_id", &output.model_id, NAME_MAX_CHARS)?;
        inputs::write_model(connection, key, &output.model_id, true, output.step).await?;
    }
    Ok(Restored { key, artifacts: path_of_location(&artifact_uri)?, is_new: true })
}

/// Writes points of a run that was written just now.
pub(crate) async fn points(
    connection: &mut AnyConnection,
    dialect: Dialect,
    run: i64,
    record: PointsRecord,
) -> Result<(), TrackError> {
    let metric = |(step, timestamp, bits): (i64, i64, i64)| {
        Metric::new(record.key.clone(), f64::from_bits(bits.cast_unsigned()), timestamp, step)
    };
    let metrics: Vec<Metric> = record.points.into_iter().map(metric).collect();
    metrics.iter().try_for_each(|metric| check_metric("points.", metric))?;
    for piece in metrics.chunks(super::RECORD_ROWS) {
        let rows: Vec<_> = piece.iter().map(|metric| (run, metric)).collect();
        write_metrics(connection, dialect, &rows).await?;
    }
    Ok(())
}

/// Writes a logged model; one of its id is left as it is.
pub(crate) async fn logged_model(
    connection: &mut AnyConnection,
    record: LoggedModelRecord,
    experiment: &RestoredExperiment,
) -> Result<Restored, TrackError> {
    check_id("logged model", &record.model_id, record.model_id.strip_prefix("m-").unwrap_or_default())?;
    logged_models::check_model_name(&record.name)?;
    check_length("model_type", &record.model_type, NAME_MAX_CHARS)?;
    check_length("source_run_id", &record.source_run_id, NAME_MAX_CHARS)?;
    let location = experiment.location.trim_end_matches('/');
    let artifact_uri = format!("{location}/models/{}/artifacts", record.model_id);
    let sql = "INSERT INTO logged_models (model_id, experiment, name, model_type, source_run_id, status, artifact_uri, \
               created_at, updated_at, deleted_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
               ON CONFLICT (model_id) DO NOTHING RETURNING id";
    let inserted = sqlx::query(sql)
        .bind(record.model_id.as_str())
        .bind(experiment.key)
        .bind(record.name.as_str())
        .bind(record.model_type.as_str())
        .bind(record.source_run_id.as_str())
        .bind(record.status.number())
        .bind(artifact_uri.as_str())
        .bind(record.created_at)
        .bind(record.updated_at)
        .bind(record.deleted_at)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = inserted else {
        let sql = "SELECT id, artifact_uri FROM logged_models WHERE model_id = $1";
        return Restored::find(connection, sql, &record.model_id).await;
    };
    let key: i64 = row.try_get(0)?;
    record.params.iter().chain(&record.tags).try_for_each(|pair| check_free("", pair))?;
    write_pairs(connection, "logged_model_params", key, &record.params).await?;
    write_pairs(connection, "logged_model_tags", key, &record.tags).await?;
    for metric in record.metrics {
        let (run_id, metric) = model_metric(&record.model_id, metric)?;
        write_model_metric(connection, key, &run_id, &metric).await?;
    }
    Ok(Restored { key, artifacts: path_of_location(&artifact_uri)?, is_new: true })
}

fn model_metric(model_id: &str, record: ModelMetricRecord) -> Result<(String, Metric), TrackError> {
    let value = f64::from_bits(record.bits.cast_unsigned());
    let metric = Metric {
        model_id: Some(model_id.to_owned()),
        dataset_name: Some(record.dataset_name),
        dataset_digest: Some(record.dataset_digest),
        ..Metric::new(record.key, value, record.timestamp, record.step)
    };
    check_metric("metrics.", &metric)?;
    check_length("run_id", &record.run_id, NAME_MAX_CHARS)?;
    Ok((record.run_id, metric))
}

impl RestoredExperiment {
    /// Path of the artifacts of its runs.
    pub(crate) fn artifacts(&self) -> Result<ArtifactPath, TrackError> {
        path_of_location(&self.location)
    }
}

/// Shows blobs that are in the store as artifacts below `root`; those of paths that are there are left.
pub(crate) async fn artifacts(
    connection: &mut AnyConnection,
    root: &ArtifactPath,
    files: &[ArtifactRecord],
) -> Result<(), TrackError> {
    for file in files {
        let path = root.join(&ArtifactPath::parse(&file.path)?);
        if path == *root {
            return Err(TrackError::invalid("Invalid artifact path: a file needs a name"));
        }
        let sql = "SELECT 1 FROM artifacts WHERE path = $1";
        let query = sqlx::query(sql).bind(path.as_str());
        if query.fetch_optional(&mut *connection).await?.is_some() {
            continue;
        }
        write_artifact(connection, path.as_str(), file.digest, file.size).await?;
    }
    Ok(())
}

/// An id becomes a part of paths and URIs, so only those are taken that this program makes.
fn check_id(what: &str, id: &str, digits: &str) -> Result<(), TrackError> {
    if digits.len() == 32 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(());
    }
    let id: String = id.chars().take(100).collect();
    Err(TrackError::invalid(format!("'{id}' is no id of a {what}: expected 32 hexadecimal digits")))
}
