//! Records as rows of the database.

use serde_json::{Map, Value};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::{PipelineRecord, PipelineStatus, RecordError, StepRecord};
use crate::domain::Digest;
use crate::pipeline::status::StepStatus;
use crate::track::now_ms;

/// What [`pipeline`] reads.
pub(super) const COLUMNS: &str = "id, run_id, name, file_name, file, folder, params, status, owner, started_at, ended_at, \
                                  triggered_by, pipelines";

pub(super) async fn write_step(
    connection: &mut AnyConnection,
    pipeline_run: i64,
    step: &StepRecord,
) -> Result<(), RecordError> {
    let sql = "INSERT INTO pipeline_steps \
               (pipeline_run, step, status, run_id, attempts, outputs, reason, started_at, ended_at) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
               ON CONFLICT (pipeline_run, step) DO UPDATE SET status = excluded.status, run_id = excluded.run_id, \
               attempts = excluded.attempts, outputs = excluded.outputs, reason = excluded.reason, \
               started_at = excluded.started_at, ended_at = excluded.ended_at";
    sqlx::query(sql)
        .bind(pipeline_run)
        .bind(step.step.as_str())
        .bind(step.status.as_str())
        .bind(step.run_id.as_str())
        .bind(i64::from(step.attempts))
        .bind(Value::Object(step.outputs.clone()).to_string())
        .bind(step.reason.as_str())
        .bind(step.started_at)
        .bind(step.ended_at)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn write_result(
    connection: &mut AnyConnection,
    cache_key: Digest,
    step: &StepRecord,
) -> Result<(), RecordError> {
    let sql = "INSERT INTO step_results (cache_key, outputs, run_id, made_at) VALUES ($1, $2, $3, $4) \
               ON CONFLICT (cache_key) DO UPDATE SET outputs = excluded.outputs, run_id = excluded.run_id, \
               made_at = excluded.made_at";
    sqlx::query(sql)
        .bind(cache_key.to_string())
        .bind(Value::Object(step.outputs.clone()).to_string())
        .bind(step.run_id.as_str())
        .bind(now_ms())
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn write_identity(
    connection: &mut AnyConnection,
    pipeline: &str,
    step: &str,
    identity: &str,
) -> Result<(), RecordError> {
    let sql = "INSERT INTO step_identities (pipeline, step, identity) VALUES ($1, $2, $3) \
               ON CONFLICT (pipeline, step) DO UPDATE SET identity = excluded.identity";
    sqlx::query(sql).bind(pipeline).bind(step).bind(identity).execute(connection).await?;
    Ok(())
}

pub(super) fn odd(run: &str, column: &'static str, found: &str) -> RecordError {
    let found = found.chars().take(100).collect();
    RecordError::Row { run: run.to_owned(), column, found }
}

pub(super) fn object(text: &str, run: &str, column: &'static str) -> Result<Map<String, Value>, RecordError> {
    serde_json::from_str(text).map_err(|_| odd(run, column, text))
}

pub(super) fn pipeline(row: &AnyRow) -> Result<PipelineRecord, RecordError> {
    let run_id: String = row.try_get(1)?;
    let (params, status, owner): (&str, &str, &str) = (row.try_get(6)?, row.try_get(7)?, row.try_get(8)?);
    Ok(PipelineRecord {
        key: row.try_get(0)?,
        name: row.try_get(2)?,
        file_name: row.try_get(3)?,
        file: row.try_get(4)?,
        folder: row.try_get(5)?,
        params: object(params, &run_id, "parameters")?,
        status: PipelineStatus::parse(status).ok_or_else(|| odd(&run_id, "status", status))?,
        owner: owner.parse().ok(),
        started_at: row.try_get(9)?,
        ended_at: row.try_get(10)?,
        triggered_by: row.try_get(11)?,
        pipelines: row.try_get(12)?,
        run_id,
    })
}

pub(super) fn step(row: &AnyRow, run: &str) -> Result<StepRecord, RecordError> {
    let (status, outputs): (&str, &str) = (row.try_get(1)?, row.try_get(4)?);
    let attempts: i64 = row.try_get(3)?;
    Ok(StepRecord {
        step: row.try_get(0)?,
        status: StepStatus::parse(status).ok_or_else(|| odd(run, "step's status", status))?,
        run_id: row.try_get(2)?,
        attempts: u32::try_from(attempts).unwrap_or_default(),
        outputs: object(outputs, run, "step's outputs")?,
        reason: row.try_get(5)?,
        started_at: row.try_get(6)?,
        ended_at: row.try_get(7)?,
    })
}
