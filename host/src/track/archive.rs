//! Experiments, runs and logged models as records that can be carried to another database: reading them here, writing
//! them in [`restore`].
//!
//! A record holds everything but keys of this database. Artifacts are told below a root, because the path of the root has
//! the experiment's number in it, which is another one elsewhere.

pub(crate) mod restore;

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::artifacts::{below, path_of_location};
use super::logged_models::{MODEL_COLUMNS, model};
use super::rows::{self, EXPERIMENT_COLUMNS, RUN_COLUMNS, placeholders};
use super::{
    DatasetInput, LoggedModel, LoggedModelStatus, ModelInput, ModelOutput, Pair, Run, RunStatus, TrackError,
    Tracker,
};
use crate::domain::Digest;

/// Records that are read at once.
pub(crate) const RECORDS_AT_ONCE: usize = 200;

/// Points or artifacts of a record.
pub(crate) const RECORD_ROWS: usize = 1_000;

/// An experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentRecord {
    /// Its number where the record was made.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where artifacts of its runs go.
    pub artifact_location: String,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// Milliseconds since 1970.
    pub updated_at: i64,
    /// Milliseconds since 1970, if it is deleted.
    pub deleted_at: Option<i64>,
    /// Notes.
    pub tags: Vec<Pair>,
}

/// A run without its points and artifacts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    /// Its id.
    pub run_id: String,
    /// Name of its experiment.
    pub experiment: String,
    /// For people.
    pub name: String,
    /// Who started it.
    pub user_id: String,
    /// How far it is.
    pub status: RunStatus,
    /// Milliseconds since 1970.
    pub started_at: i64,
    /// Milliseconds since 1970.
    pub ended_at: Option<i64>,
    /// Milliseconds since 1970, if it is deleted.
    pub deleted_at: Option<i64>,
    /// Path of its artifacts where the record was made.
    pub artifacts: String,
    /// Parameters.
    pub params: Vec<Pair>,
    /// Notes.
    pub tags: Vec<Pair>,
    /// Datasets that it read.
    pub datasets: Vec<DatasetInput>,
    /// Logged models that it read.
    pub model_inputs: Vec<ModelInput>,
    /// Logged models that it made.
    pub model_outputs: Vec<ModelOutput>,
}

/// Points of a metric of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointsRecord {
    /// The run.
    pub run_id: String,
    /// The metric.
    pub key: String,
    /// Step, timestamp, and the bits of the 64-bit float as an integer, so that every value is kept.
    pub points: Vec<(i64, i64, i64)>,
}

/// A logged model without its artifacts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoggedModelRecord {
    /// Its id.
    pub model_id: String,
    /// Name of its experiment.
    pub experiment: String,
    /// For people.
    pub name: String,
    /// What kind of model it is.
    pub model_type: String,
    /// The run that made it; empty if none did.
    pub source_run_id: String,
    /// Whether its files are complete.
    pub status: LoggedModelStatus,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// Milliseconds since 1970.
    pub updated_at: i64,
    /// Milliseconds since 1970, if it is deleted.
    pub deleted_at: Option<i64>,
    /// Path of its artifacts where the record was made.
    pub artifacts: String,
    /// Parameters.
    pub params: Vec<Pair>,
    /// Notes.
    pub tags: Vec<Pair>,
    /// The newest point of each metric.
    pub metrics: Vec<ModelMetricRecord>,
}

/// A metric of a logged model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelMetricRecord {
    /// Its name.
    pub key: String,
    /// The run that logged it.
    pub run_id: String,
    /// The dataset it was measured on.
    pub dataset_name: String,
    /// That dataset's digest.
    pub dataset_digest: String,
    /// The x axis.
    pub step: i64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// Bits of the 64-bit float.
    pub bits: i64,
}

/// Artifacts below a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactsRecord {
    /// Path of the root where the record was made: that of a run or a logged model.
    pub root: String,
    /// Some of the files below it.
    pub files: Vec<ArtifactRecord>,
}

/// An artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactRecord {
    /// Its path below the root.
    pub path: String,
    /// Its bytes.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
}

impl Tracker {
    /// Every experiment.
    pub async fn experiment_records(&self) -> Result<Vec<ExperimentRecord>, TrackError> {
        let sql = format!("SELECT {EXPERIMENT_COLUMNS} FROM experiments e ORDER BY e.id");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(self.database.readers()).await?;
        let found = rows.iter().map(rows::experiment).collect::<Result<Vec<_>, _>>()?;
        let with_tags = self.with_tags(found).await?;
        rows.iter()
            .zip(with_tags)
            .map(|(row, experiment)| {
                Ok(ExperimentRecord {
                    id: experiment.experiment_id,
                    name: experiment.name,
                    artifact_location: experiment.artifact_location,
                    created_at: experiment.creation_time,
                    updated_at: experiment.last_update_time,
                    deleted_at: row.try_get(5)?,
                    tags: experiment.tags,
                })
            })
            .collect()
    }

    /// Ids of all runs, the oldest first; or of those of an experiment that are not deleted.
    pub async fn run_ids(&self, experiment: Option<&str>) -> Result<Vec<String>, TrackError> {
        let sql = "SELECT r.run_id FROM runs r JOIN experiments e ON e.id = r.experiment \
                   WHERE $1 = '' OR (e.name = $1 AND r.deleted_at IS NULL) ORDER BY r.id";
        let query = sqlx::query(sql).bind(experiment.unwrap_or_default());
        let rows = query.fetch_all(self.database.readers()).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Ids of all logged models, the oldest first; or of those that some runs made or read.
    pub async fn logged_model_ids(&self, of_runs: Option<&[String]>) -> Result<Vec<String>, TrackError> {
        let Some(runs) = of_runs else {
            let rows = sqlx::query("SELECT model_id FROM logged_models ORDER BY id");
            let rows = rows.fetch_all(self.database.readers()).await?;
            return rows.iter().map(|row| Ok(row.try_get(0)?)).collect();
        };
        let mut found = Vec::new();
        for piece in runs.chunks(RECORDS_AT_ONCE) {
            let places = placeholders(1, piece.len());
            let sql = format!(
                "SELECT m.model_id FROM logged_models m WHERE m.deleted_at IS NULL AND (m.source_run_id IN ({places}) \
                 OR m.model_id IN (SELECT o.model_id FROM run_models o JOIN runs r ON r.id = o.run \
                 WHERE r.run_id IN ({places}))) ORDER BY m.id"
            );
            let query = piece.iter().fold(sqlx::query(sqlx::AssertSqlSafe(sql)), |query, id| query.bind(id));
            for row in query.fetch_all(self.database.readers()).await? {
                found.push(row.try_get(0)?);
            }
        }
        Ok(found)
    }

    /// The runs of at most [`RECORDS_AT_ONCE`] ids, and the keys of their metrics.
    pub(crate) async fn run_records(
        &self,
        ids: &[String],
    ) -> Result<Vec<(RunRecord, Vec<String>)>, TrackError> {
        let sql = format!(
            "SELECT {RUN_COLUMNS}, e.name FROM runs r JOIN experiments e ON e.id = r.experiment \
             WHERE r.run_id IN ({}) ORDER BY r.id",
            placeholders(1, ids.len())
        );
        let query = ids.iter().fold(sqlx::query(sqlx::AssertSqlSafe(sql)), |query, id| query.bind(id));
        let rows = query.fetch_all(self.database.readers()).await?;
        let found = rows.iter().map(rows::run).collect::<Result<Vec<_>, _>>()?;
        let runs = self.with_data(found).await?;
        rows.iter().zip(runs).map(|(row, run)| run_record(row, run)).collect()
    }

    /// The logged models of at most [`RECORDS_AT_ONCE`] ids.
    pub(crate) async fn logged_model_records(
        &self,
        ids: &[String],
    ) -> Result<Vec<LoggedModelRecord>, TrackError> {
        let sql = format!(
            "SELECT {MODEL_COLUMNS}, m.deleted_at, e.name FROM logged_models m \
             JOIN experiments e ON e.id = m.experiment WHERE m.model_id IN ({}) ORDER BY m.id",
            placeholders(1, ids.len())
        );
        let query = ids.iter().fold(sqlx::query(sqlx::AssertSqlSafe(sql)), |query, id| query.bind(id));
        let rows = query.fetch_all(self.database.readers()).await?;
        let found = rows.iter().map(model).collect::<Result<Vec<_>, _>>()?;
        let models = self.with_model_data(found).await?;
        rows.iter().zip(models).map(|(row, model)| logged_model_record(row, model)).collect()
    }

    /// Some artifacts below `root`, which may be empty, that come after the path `last` below it; none at the end.
    pub(crate) async fn artifact_records(
        &self,
        root: &str,
        last: &str,
    ) -> Result<Vec<ArtifactRecord>, TrackError> {
        let (from, to) = if root.is_empty() { (String::new(), String::new()) } else { below(root) };
        let sql = "SELECT path, digest, size FROM artifacts WHERE path > $1 AND ($2 = '' OR path < $2) \
                   ORDER BY path LIMIT $3";
        let query = sqlx::query(sql).bind(format!("{from}{last}")).bind(to).bind(RECORD_ROWS as i64);
        let rows = query.fetch_all(self.database.readers()).await?;
        rows.iter()
            .map(|row| {
                let path: &str = row.try_get(0)?;
                let digest: &str = row.try_get(1)?;
                let odd = |error| TrackError::internal(format!("artifact `{path}` cannot be read: {error}"));
                Ok(ArtifactRecord {
                    path: path.get(from.len()..).unwrap_or_default().to_owned(),
                    digest: digest.parse().map_err(odd)?,
                    size: u64::try_from(row.try_get::<i64, _>(2)?).unwrap_or_default(),
                })
            })
            .collect()
    }
}

fn run_record(row: &AnyRow, run: Run) -> Result<(RunRecord, Vec<String>), TrackError> {
    let keys = run.data.metrics.into_iter().map(|metric| metric.key).collect();
    let record = RunRecord {
        run_id: run.info.run_id,
        experiment: row.try_get(10)?,
        name: run.info.run_name,
        user_id: run.info.user_id,
        status: run.info.status,
        started_at: run.info.start_time,
        ended_at: run.info.end_time,
        deleted_at: row.try_get(9)?,
        artifacts: path_of_location(&run.info.artifact_uri)?.as_str().to_owned(),
        params: run.data.params,
        tags: run.data.tags,
        datasets: run.inputs.dataset_inputs,
        model_inputs: run.inputs.model_inputs,
        model_outputs: run.outputs.model_outputs,
    };
    Ok((record, keys))
}

fn logged_model_record(row: &AnyRow, model: LoggedModel) -> Result<LoggedModelRecord, TrackError> {
    let metrics = model.data.metrics.into_iter().map(|metric| ModelMetricRecord {
        key: metric.key,
        run_id: metric.run_id,
        dataset_name: metric.dataset_name,
        dataset_digest: metric.dataset_digest,
        step: metric.step,
        timestamp: metric.timestamp,
        bits: metric.value.to_bits().cast_signed(),
    });
    Ok(LoggedModelRecord {
        metrics: metrics.collect(),
        model_id: model.info.model_id,
        experiment: row.try_get(11)?,
        name: model.info.name,
        model_type: model.info.model_type,
        source_run_id: model.info.source_run_id,
        status: model.info.status,
        created_at: model.info.creation_timestamp_ms,
        updated_at: model.info.last_updated_timestamp_ms,
        deleted_at: row.try_get(10)?,
        artifacts: path_of_location(&model.info.artifact_uri)?.as_str().to_owned(),
        params: model.data.params,
        tags: model.info.tags,
    })
}
