//! What is kept of pipelines that were started: enough to go on after any end, and the results that need not be made
//! again.

use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::owner::Owner;
use super::status::StepStatus;
use crate::domain::Digest;
use crate::store::{Database, DatabaseError};
use crate::track::{PreparedRun, TrackError, now_ms};

/// Results of one query by key; SQLite takes so many placeholders at any time.
const KEYS_PER_QUERY: usize = 500;

/// How far a pipeline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineStatus {
    /// Its process is at it, or was when it was killed.
    Running,
    /// Every step has ended well or was left out.
    Finished,
    /// A step has failed.
    Failed,
    /// Somebody said stop.
    Cancelled,
}

/// A column that holds one of a few words.
macro_rules! words {
    ($type:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $type {
            /// Its name, as the database has it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            fn parse(text: &str) -> Option<Self> {
                match text { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

words!(PipelineStatus {
    Running = "running",
    Finished = "finished",
    Failed = "failed",
    Cancelled = "cancelled",
});

/// A pipeline that was started.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PipelineRecord {
    #[serde(skip)]
    key: i64,
    /// The run that the runs of its steps are children of.
    pub run_id: String,
    /// The pipeline's name.
    pub name: String,
    /// What its file was called.
    pub file_name: String,
    /// The file's text.
    #[serde(skip)]
    pub file: String,
    /// The folder that its paths start from.
    pub folder: String,
    /// The parameters that were given.
    pub params: Map<String, Value>,
    /// How far it is.
    pub status: PipelineStatus,
    /// Who runs it.
    #[serde(skip)]
    pub owner: Option<Owner>,
    /// When it began, in milliseconds since 1970.
    pub started_at: i64,
    /// When it ended.
    pub ended_at: Option<i64>,
}

/// A pipeline that starts.
#[derive(Debug, Clone)]
pub struct NewPipelineRecord {
    /// The pipeline's name.
    pub name: String,
    /// What its file is called.
    pub file_name: String,
    /// The file's text.
    pub file: String,
    /// The folder that its paths start from.
    pub folder: String,
    /// The parameters that were given.
    pub params: Map<String, Value>,
}

/// How far a step is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepRecord {
    /// Its name in the plan.
    pub step: String,
    /// How far it is.
    pub status: StepStatus,
    /// Its run; of a cached step, the run that made its result; empty where there is none.
    pub run_id: String,
    /// How often it was tried.
    pub attempts: u32,
    /// What it answered.
    pub outputs: Map<String, Value>,
    /// Why it is not finished, where it is not.
    pub reason: String,
    /// When it began, in milliseconds since 1970.
    pub started_at: i64,
    /// When it ended.
    pub ended_at: Option<i64>,
}

/// What a step has made.
#[derive(Debug, Clone, PartialEq)]
pub struct StepResult {
    /// What it answered.
    pub outputs: Map<String, Value>,
    /// The run in which it was made.
    pub run_id: String,
}

/// What a step depended on that has made something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeBy {
    /// What finds its result again.
    pub cache_key: Digest,
    /// The document of which that is the digest.
    pub identity: String,
}

/// What is kept cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The database failed.
    #[error("{0}")]
    Database(#[from] DatabaseError),
    /// A pipeline's run cannot be started.
    #[error("{0}")]
    Track(#[from] TrackError),
    /// A row is not what this program writes.
    #[error("the record of pipeline run `{run}` cannot be read: its {column} is `{found}`")]
    Row {
        /// Which.
        run: String,
        /// Of the row.
        column: &'static str,
        /// What it is.
        found: String,
    },
    /// There is no such pipeline run.
    #[error("there is no pipeline run `{run}`{}", hint(runs))]
    Unknown {
        /// What was asked for.
        run: String,
        /// The newest there are.
        runs: Vec<String>,
    },
    /// It cannot go on twice at a time.
    #[error("pipeline run `{run}` is being run by {owner}")]
    Owned {
        /// Which.
        run: String,
        /// By whom.
        owner: String,
    },
    /// It has ended well.
    #[error("pipeline run `{run}` has finished: there is nothing to go on with")]
    Finished {
        /// Which.
        run: String,
    },
}

fn hint(runs: &[String]) -> String {
    match runs {
        [] => ": none has been started yet, see `host pipeline run --help`".to_owned(),
        runs => format!(": the newest are {}", runs.join(", ")),
    }
}

impl From<sqlx::Error> for RecordError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Reads and writes records; clones are cheap and mean the same ones.
#[derive(Debug, Clone)]
pub struct Records {
    database: Database,
}

const COLUMNS: &str =
    "id, run_id, name, file_name, file, folder, params, status, owner, started_at, ended_at";

impl Records {
    /// The records in `database`.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// Records a pipeline that this process starts together with its run: a process that is killed leaves both or none.
    pub async fn start(
        &self,
        run: PreparedRun,
        new: NewPipelineRecord,
    ) -> Result<PipelineRecord, RecordError> {
        let owner = Owner::this_process();
        let started_at = now_ms();
        let NewPipelineRecord { name, file_name, file, folder, params } = new;
        let row = PipelineRecord {
            key: 0,
            run_id: run.run_id().to_owned(),
            name,
            file_name,
            file,
            folder,
            params,
            status: PipelineStatus::Running,
            owner: Some(owner.clone()),
            started_at,
            ended_at: None,
        };
        let written = row.clone();
        let key = self
            .database
            .write(move |connection| {
                Box::pin(async move {
                    run.insert(&mut *connection).await?;
                    let sql = "INSERT INTO pipeline_runs \
                               (run_id, name, file_name, file, folder, params, status, owner, started_at) \
                               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id";
                    let params = Value::Object(written.params).to_string();
                    let row = sqlx::query(sql)
                        .bind(written.run_id.as_str())
                        .bind(written.name.as_str())
                        .bind(written.file_name.as_str())
                        .bind(written.file.as_str())
                        .bind(written.folder.as_str())
                        .bind(params.as_str())
                        .bind(written.status.as_str())
                        .bind(owner.to_string())
                        .bind(written.started_at)
                        .fetch_one(connection)
                        .await?;
                    Ok::<i64, RecordError>(row.try_get(0)?)
                })
            })
            .await?;
        Ok(PipelineRecord { key, ..row })
    }

    /// Makes this process the one that runs a pipeline whose process is gone; of several that try, one succeeds.
    pub async fn take_over(
        &self,
        record: &PipelineRecord,
        force: bool,
    ) -> Result<PipelineRecord, RecordError> {
        if record.status == PipelineStatus::Finished {
            return Err(RecordError::Finished { run: record.run_id.clone() });
        }
        let owned = |owner: String| RecordError::Owned { run: record.run_id.clone(), owner };
        if let Some(owner) = record.owner.as_ref().filter(|owner| !force && owner.may_live()) {
            return Err(owned(owner.description()));
        }
        let before = record.owner.as_ref().map(Owner::to_string).unwrap_or_default();
        let owner = Owner::this_process();
        let (key, new) = (record.key, owner.to_string());
        let changed = self
            .database
            .write(move |connection| {
                Box::pin(async move {
                    let sql = "UPDATE pipeline_runs SET owner = $1, status = 'running', ended_at = NULL \
                               WHERE id = $2 AND owner = $3";
                    let query = sqlx::query(sql).bind(new).bind(key).bind(before);
                    Ok::<u64, RecordError>(query.execute(connection).await?.rows_affected())
                })
            })
            .await?;
        match changed {
            0 => Err(owned("another process, which was quicker".to_owned())),
            _ => Ok(PipelineRecord {
                owner: Some(owner),
                status: PipelineStatus::Running,
                ended_at: None,
                ..record.clone()
            }),
        }
    }

    /// Records how a pipeline ended.
    pub async fn end(&self, record: &PipelineRecord, status: PipelineStatus) -> Result<(), RecordError> {
        let key = record.key;
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let sql = "UPDATE pipeline_runs SET status = $1, owner = '', ended_at = $2 WHERE id = $3";
                    sqlx::query(sql)
                        .bind(status.as_str())
                        .bind(now_ms())
                        .bind(key)
                        .execute(connection)
                        .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Records how far a step is, and what it has made by what; both or none.
    pub async fn step(
        &self,
        record: &PipelineRecord,
        step: StepRecord,
        made_by: Option<MadeBy>,
    ) -> Result<(), RecordError> {
        let (key, pipeline) = (record.key, record.name.clone());
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    write_step(connection, key, &step).await?;
                    if let Some(made_by) = made_by {
                        write_result(connection, made_by.cache_key, &step).await?;
                        write_identity(connection, &pipeline, &step.step, &made_by.identity).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// The newest pipelines first.
    pub async fn list(&self, name: Option<&str>, limit: u32) -> Result<Vec<PipelineRecord>, RecordError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM pipeline_runs WHERE ($1 = '' OR name = $1) ORDER BY id DESC LIMIT $2"
        );
        let rows =
            sqlx::query(sqlx::AssertSqlSafe(sql)).bind(name.unwrap_or_default()).bind(i64::from(limit));
        rows.fetch_all(self.database.readers()).await?.iter().map(pipeline).collect()
    }

    /// The pipeline whose run's id is `run` or begins with it, or the newest of that name.
    pub async fn find(&self, run: &str) -> Result<PipelineRecord, RecordError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM pipeline_runs WHERE run_id = $1 OR name = $1 \
             OR (LENGTH($1) >= 6 AND SUBSTR(run_id, 1, LENGTH($1)) = $1) ORDER BY id DESC LIMIT 1"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(run);
        match row.fetch_optional(self.database.readers()).await? {
            Some(row) => pipeline(&row),
            None => {
                let newest = self.list(None, 5).await?;
                let runs = newest.into_iter().map(|record| format!("{} ({})", record.run_id, record.name));
                Err(RecordError::Unknown { run: run.to_owned(), runs: runs.collect() })
            }
        }
    }

    /// The steps of a pipeline of which something is known.
    pub async fn steps(&self, record: &PipelineRecord) -> Result<Vec<StepRecord>, RecordError> {
        let sql = "SELECT step, status, run_id, attempts, outputs, reason, started_at, ended_at \
                   FROM pipeline_steps WHERE pipeline_run = $1 ORDER BY started_at, step";
        let rows = sqlx::query(sql).bind(record.key).fetch_all(self.database.readers()).await?;
        rows.iter().map(|row| step(row, &record.run_id)).collect()
    }

    /// What a step of a pipeline depended on when it last made something.
    pub async fn last_identity(&self, pipeline: &str, step: &str) -> Result<Option<String>, RecordError> {
        let sql = "SELECT identity FROM step_identities WHERE pipeline = $1 AND step = $2";
        let query = sqlx::query(sql).bind(pipeline).bind(step);
        let row = query.fetch_optional(self.database.readers()).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    /// What a step of a pipeline answered when it last ended well.
    pub async fn last_outputs(
        &self,
        pipeline: &str,
        step: &str,
    ) -> Result<Option<Map<String, Value>>, RecordError> {
        let sql = "SELECT r.run_id, s.outputs FROM pipeline_steps s JOIN pipeline_runs r ON r.id = s.pipeline_run \
                   WHERE r.name = $1 AND s.step = $2 AND s.status = 'finished' ORDER BY r.id DESC LIMIT 1";
        let query = sqlx::query(sql).bind(pipeline).bind(step);
        let Some(row) = query.fetch_optional(self.database.readers()).await? else { return Ok(None) };
        let (run_id, outputs): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        object(outputs, run_id, "step's outputs").map(Some)
    }

    /// What was made for some keys.
    pub async fn results(&self, keys: &[Digest]) -> Result<Vec<(Digest, StepResult)>, RecordError> {
        let mut results = Vec::new();
        for keys in keys.chunks(KEYS_PER_QUERY) {
            let places: Vec<String> = (1..=keys.len()).map(|place| format!("${place}")).collect();
            let places = places.join(", ");
            let sql =
                format!("SELECT cache_key, outputs, run_id FROM step_results WHERE cache_key IN ({places})");
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
            for key in keys {
                query = query.bind(key.to_string());
            }
            for row in query.fetch_all(self.database.readers()).await? {
                let (key, outputs): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
                let run_id: String = row.try_get(2)?;
                let key: Digest = key.parse().map_err(|_| odd(&run_id, "cache key", key))?;
                let outputs = object(outputs, &run_id, "outputs")?;
                results.push((key, StepResult { outputs, run_id }));
            }
        }
        Ok(results)
    }
}

async fn write_step(
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

async fn write_result(
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

async fn write_identity(
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

fn odd(run: &str, column: &'static str, found: &str) -> RecordError {
    let found = found.chars().take(100).collect();
    RecordError::Row { run: run.to_owned(), column, found }
}

fn object(text: &str, run: &str, column: &'static str) -> Result<Map<String, Value>, RecordError> {
    serde_json::from_str(text).map_err(|_| odd(run, column, text))
}

fn pipeline(row: &AnyRow) -> Result<PipelineRecord, RecordError> {
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
        run_id,
    })
}

fn step(row: &AnyRow, run: &str) -> Result<StepRecord, RecordError> {
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
