//! Pipelines that are enabled, and what their triggers have seen: rows of the database.

use std::path::PathBuf;

use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::due::{Event, Look, Start, Watched};
use super::{Schedule, Trigger};
use crate::domain::Name;
use crate::pipeline::record::{self, NewPipelineRecord, PipelineRecord, RecordError};
use crate::pipeline::{PipelineFile, Plan};
use crate::store::{Database, DatabaseError};
use crate::track::PreparedRun;

/// Names that an error lists.
const TOLD_MAX: usize = 10;

/// A pipeline that cannot be enabled or disabled.
#[derive(Debug, thiserror::Error)]
pub enum TriggerError {
    /// The database failed.
    #[error("{0}")]
    Database(#[from] DatabaseError),
    /// Nothing would start it.
    #[error(
        "`{file}` has no triggers: expected some, such as `triggers: [{{ schedule: \"0 3 * * *\" }}]`, `{{ dataset: NAME }}` \
         or `{{ drift: ENDPOINT }}`"
    )]
    NoTriggers {
        /// The file.
        file: String,
    },
    /// It is not enabled.
    #[error("pipeline `{pipeline}` is not enabled{}", hint(enabled))]
    NotEnabled {
        /// Which.
        pipeline: String,
        /// Those that are.
        enabled: Vec<String>,
    },
}

fn hint(enabled: &[String]) -> String {
    match enabled {
        [] => ": none is, see `host pipeline enable --help`".to_owned(),
        enabled => format!(": enabled are {}", enabled.join(", ")),
    }
}

impl From<sqlx::Error> for TriggerError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// A trigger of an enabled pipeline, and what it started last.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TriggerRecord {
    /// The pipeline.
    pub pipeline: String,
    /// What its file was called.
    pub file: String,
    /// The folder that its paths start from.
    pub folder: String,
    /// When it was enabled, in milliseconds since 1970.
    pub enabled_at: i64,
    /// The trigger, such as `schedule 0 3 * * *`.
    pub trigger: String,
    /// When a schedule comes next.
    pub next_at: Option<i64>,
    /// When the trigger last started the pipeline, or would have.
    pub fired_at: Option<i64>,
    /// Why, such as `dataset mnist@sha256:…`.
    pub cause: Option<String>,
    /// The run that it started.
    pub run_id: Option<String>,
    /// How far that is.
    pub status: Option<String>,
    /// Why it could not start one.
    pub problem: Option<String>,
}

/// Enabled pipelines and their triggers; clones are cheap and mean the same ones.
#[derive(Debug, Clone)]
pub struct Triggers {
    database: Database,
}

/// An enabled pipeline with what its triggers have seen.
#[derive(Debug)]
pub(super) struct WatchedPipeline {
    pub(super) key: i64,
    pub(super) name: String,
    /// What its triggers have led to so far.
    pub(super) starts: i64,
    /// When one of them did last.
    pub(super) fired_at: Option<i64>,
    pub(super) triggers: Vec<Watched>,
}

/// What a start writes if no other server was quicker.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    /// The enabled pipeline's key.
    pub(super) pipeline: i64,
    /// What its triggers had led to when that was decided.
    pub(super) starts: i64,
    pub(super) start: Start,
    pub(super) now_ms: i64,
}

impl Triggers {
    /// The enabled pipelines in `database`.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// Enables the pipeline of a file, whose plan this is, in place of another of its name. What there is already starts
    /// nothing.
    pub async fn enable(&self, file: &PipelineFile, plan: &Plan, now_ms: i64) -> Result<(), TriggerError> {
        if plan.triggers.is_empty() {
            return Err(TriggerError::NoTriggers { file: file.name.clone() });
        }
        let (file, name, triggers) = (file.clone(), plan.name.clone(), plan.triggers.clone());
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    delete(connection, name.as_str()).await?;
                    insert(connection, &name, &file, &triggers, now_ms).await
                })
            })
            .await
    }

    /// Disables a pipeline; what of it runs goes on.
    pub async fn disable(&self, pipeline: &str) -> Result<(), TriggerError> {
        let name = pipeline.to_owned();
        let deleted = self
            .database
            .write(move |connection| {
                Box::pin(async move { Ok::<_, TriggerError>(delete(connection, &name).await?) })
            })
            .await?;
        if deleted > 0 {
            return Ok(());
        }
        let sql = "SELECT name FROM enabled_pipelines ORDER BY name LIMIT $1";
        let rows = sqlx::query(sql).bind(TOLD_MAX as i64).fetch_all(self.database.readers()).await?;
        let enabled = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        Err(TriggerError::NotEnabled { pipeline: pipeline.to_owned(), enabled })
    }

    /// The triggers of enabled pipelines, by pipeline and in the order of their files.
    pub async fn list(&self, now_ms: i64) -> Result<Vec<TriggerRecord>, TriggerError> {
        let sql = "SELECT p.name, p.file_name, p.folder, p.enabled_at, t.kind, t.subject, t.fired_at, t.cause, t.run_id, \
                   t.problem, r.status, r.owner FROM enabled_pipelines p JOIN pipeline_triggers t ON t.pipeline = p.id \
                   LEFT JOIN pipeline_runs r ON r.run_id = t.run_id ORDER BY p.name, t.place";
        let rows = sqlx::query(sql).fetch_all(self.database.readers()).await?;
        rows.iter().map(|row| trigger_record(row, now_ms)).collect()
    }

    /// What every trigger has seen, and whether there is anything newer. One query, because it is asked every second: it
    /// looks at the versions of `data` and at the alerts itself.
    pub(super) async fn watch(&self) -> Result<Vec<WatchedPipeline>, TriggerError> {
        let sql = "SELECT p.id, p.name, p.starts, t.place, t.kind, t.subject, t.seen, t.fired_at, CASE t.kind \
                   WHEN 'dataset' THEN (SELECT MAX(v.id) FROM dataset_versions v JOIN datasets d ON d.id = v.dataset \
                   WHERE d.name = t.subject AND v.id > t.seen) \
                   WHEN 'drift' THEN (SELECT MAX(a.id) FROM alerts a WHERE a.endpoint = t.subject AND a.id > t.seen) \
                   END FROM enabled_pipelines p JOIN pipeline_triggers t ON t.pipeline = p.id ORDER BY p.id, t.place";
        let mut watched: Vec<WatchedPipeline> = Vec::new();
        for row in sqlx::query(sql).fetch_all(self.database.readers()).await? {
            let key: i64 = row.try_get(0)?;
            if watched.last().is_none_or(|last| last.key != key) {
                let (name, starts) = (row.try_get(1)?, row.try_get(2)?);
                watched.push(WatchedPipeline { key, name, starts, fired_at: None, triggers: Vec::new() });
            }
            let (kind, subject): (&str, &str) = (row.try_get(4)?, row.try_get(5)?);
            let fired_at: Option<i64> = row.try_get(7)?;
            let Some(pipeline) = watched.last_mut() else { continue };
            pipeline.fired_at = pipeline.fired_at.max(fired_at);
            // One that another program wrote is that program's.
            let Some(trigger) = Trigger::of(kind, subject) else { continue };
            pipeline.triggers.push(Watched {
                place: row.try_get(3)?,
                trigger,
                seen: row.try_get(6)?,
                newest: row.try_get(8)?,
                event: None,
            });
        }
        Ok(watched)
    }

    /// The newest version or alert that a trigger has not seen, other than those that its pipeline has led to.
    pub(super) async fn event(
        &self,
        pipeline: &str,
        trigger: &Trigger,
        seen: i64,
    ) -> Result<Option<Event>, TriggerError> {
        let of_others = "REPLACE(' ' || e.pipelines || ' ', $3, '') = ' ' || e.pipelines || ' ' \
                         ORDER BY e.id DESC LIMIT 1";
        let sql = match trigger {
            Trigger::Schedule(_) => return Ok(None),
            Trigger::Dataset(_) => format!(
                "SELECT e.id, e.pipelines, e.digest FROM dataset_versions e JOIN datasets d ON d.id = e.dataset \
                 WHERE d.name = $1 AND e.id > $2 AND {of_others}"
            ),
            Trigger::Drift(_) => format!(
                "SELECT e.id, e.pipelines, '' FROM alerts e WHERE e.endpoint = $1 AND e.id > $2 AND {of_others}"
            ),
        };
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(trigger.subject()).bind(seen);
        let query = query.bind(format!(" {pipeline} "));
        let Some(row) = query.fetch_optional(self.database.readers()).await? else { return Ok(None) };
        let digest: &str = row.try_get(2)?;
        let cause = match trigger {
            Trigger::Dataset(_) => format!("{trigger}@{digest}"),
            _ => trigger.to_string(),
        };
        Ok(Some(Event { key: row.try_get(0)?, cause, pipelines: row.try_get(1)? }))
    }

    /// The file of an enabled pipeline; none where it was disabled meanwhile.
    pub(super) async fn file(&self, pipeline: i64) -> Result<Option<PipelineFile>, TriggerError> {
        let sql = "SELECT file_name, file, folder, params FROM enabled_pipelines WHERE id = $1";
        let row = sqlx::query(sql).bind(pipeline).fetch_optional(self.database.readers()).await?;
        let Some(row) = row else { return Ok(None) };
        let (folder, params): (&str, &str) = (row.try_get(2)?, row.try_get(3)?);
        let params = serde_json::from_str(params).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(Some(PipelineFile {
            name: row.try_get(0)?,
            text: row.try_get(1)?,
            folder: PathBuf::from(folder),
            params: PipelineFile::params_of(&params),
        }))
    }

    /// Notes up to where triggers have looked without anything to start for.
    pub(super) async fn pass(&self, pipeline: i64, looks: Vec<Look>) -> Result<(), TriggerError> {
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    for look in &looks {
                        see(connection, pipeline, look).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Writes a start: the triggers have seen what they start for, and the run and its record are there. None where the
    /// pipeline was disabled, or another server was quicker.
    pub(super) async fn start(
        &self,
        claim: Claim,
        run: PreparedRun,
        new: NewPipelineRecord,
    ) -> Result<Option<PipelineRecord>, RecordError> {
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    if !claim.count(connection).await? {
                        return Ok(None);
                    }
                    let record = record::insert(connection, run, new).await?;
                    claim.note(connection, &record.run_id, "").await?;
                    Ok(Some(record))
                })
            })
            .await
    }

    /// Notes why a pipeline cannot be started; what it was to start for is seen, and not tried again.
    pub(super) async fn refuse(&self, claim: Claim, problem: String) -> Result<(), TriggerError> {
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    if claim.count(connection).await? {
                        claim.note(connection, "", &problem).await?;
                    }
                    Ok(())
                })
            })
            .await
    }
}

impl Claim {
    /// Counts the start; false where another server did, or the pipeline is not enabled any more.
    async fn count(&self, connection: &mut AnyConnection) -> Result<bool, sqlx::Error> {
        let sql = "UPDATE enabled_pipelines SET starts = starts + 1 WHERE id = $1 AND starts = $2";
        let query = sqlx::query(sql).bind(self.pipeline).bind(self.starts);
        Ok(query.execute(connection).await?.rows_affected() > 0)
    }

    /// Notes what the triggers that are due have led to.
    async fn note(
        &self,
        connection: &mut AnyConnection,
        run_id: &str,
        problem: &str,
    ) -> Result<(), sqlx::Error> {
        for (look, cause) in &self.start.fired {
            see(connection, self.pipeline, look).await?;
            let sql = "UPDATE pipeline_triggers SET fired_at = $1, cause = $2, run_id = $3, problem = $4 \
                       WHERE pipeline = $5 AND place = $6";
            sqlx::query(sql)
                .bind(self.now_ms)
                .bind(cause.as_str())
                .bind(run_id)
                .bind(problem)
                .bind(self.pipeline)
                .bind(look.place)
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }
}

/// Notes up to where a trigger has looked; never back.
async fn see(connection: &mut AnyConnection, pipeline: i64, look: &Look) -> Result<(), sqlx::Error> {
    let sql = "UPDATE pipeline_triggers SET seen = $1 WHERE pipeline = $2 AND place = $3 AND seen < $1";
    sqlx::query(sql).bind(look.seen).bind(pipeline).bind(look.place).execute(connection).await.map(drop)
}

async fn delete(connection: &mut AnyConnection, name: &str) -> Result<u64, sqlx::Error> {
    let sql = "DELETE FROM enabled_pipelines WHERE name = $1";
    Ok(sqlx::query(sql).bind(name).execute(connection).await?.rows_affected())
}

async fn insert(
    connection: &mut AnyConnection,
    name: &Name,
    file: &PipelineFile,
    triggers: &[Trigger],
    now_ms: i64,
) -> Result<(), TriggerError> {
    let sql = "INSERT INTO enabled_pipelines (name, file_name, file, folder, params, starts, enabled_at) \
               VALUES ($1, $2, $3, $4, $5, 0, $6) RETURNING id";
    let row = sqlx::query(sql)
        .bind(name.as_str())
        .bind(file.name.as_str())
        .bind(file.text.as_str())
        .bind(file.folder.display().to_string())
        .bind(serde_json::Value::Object(file.params_map()).to_string())
        .bind(now_ms)
        .fetch_one(&mut *connection)
        .await?;
    let pipeline: i64 = row.try_get(0)?;
    for (place, trigger) in triggers.iter().enumerate() {
        let newest = match trigger {
            Trigger::Schedule(_) => None,
            Trigger::Dataset(_) => Some("SELECT COALESCE(MAX(id), 0) FROM dataset_versions"),
            Trigger::Drift(_) => Some("SELECT COALESCE(MAX(id), 0) FROM alerts"),
        };
        let seen = match newest {
            Some(sql) => sqlx::query(sql).fetch_one(&mut *connection).await?.try_get(0)?,
            None => now_ms,
        };
        let sql = "INSERT INTO pipeline_triggers (pipeline, place, kind, subject, seen, cause, run_id, problem) \
                   VALUES ($1, $2, $3, $4, $5, '', '', '')";
        sqlx::query(sql)
            .bind(pipeline)
            .bind(place as i64)
            .bind(trigger.kind())
            .bind(trigger.subject())
            .bind(seen)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

fn trigger_record(row: &AnyRow, now_ms: i64) -> Result<TriggerRecord, TriggerError> {
    let (kind, subject): (&str, &str) = (row.try_get(4)?, row.try_get(5)?);
    let text = |column: usize| -> Result<Option<String>, sqlx::Error> {
        let text: Option<String> = row.try_get(column)?;
        Ok(text.filter(|text| !text.is_empty()))
    };
    let (status, owner) = (text(10)?, text(11)?);
    let next_at = match Trigger::of(kind, subject) {
        Some(Trigger::Schedule(schedule)) => Schedule::next(&schedule, now_ms),
        _ => None,
    };
    Ok(TriggerRecord {
        pipeline: row.try_get(0)?,
        file: row.try_get(1)?,
        folder: row.try_get(2)?,
        enabled_at: row.try_get(3)?,
        trigger: format!("{kind} {subject}"),
        next_at,
        fired_at: row.try_get(6)?,
        cause: text(7)?,
        run_id: text(8)?,
        problem: text(9)?,
        status: status.map(|status| record::status_text(&status, owner.as_deref())),
    })
}
