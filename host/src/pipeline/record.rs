//! What is kept of pipelines that were started: enough to go on after any end, and the results that need not be made
//! again.

mod rows;

use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::{AnyConnection, Row as _};

use self::rows::COLUMNS;
use super::owner::Owner;
use super::source::PipelineFile;
use super::status::StepStatus;
use crate::domain::{Digest, Name};
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
    /// What triggered it, such as `schedule 0 3 * * *`; empty where a person did.
    pub triggered_by: String,
    /// The names of the pipelines that led to it, with spaces between; its own is the last.
    #[serde(skip)]
    pub pipelines: String,
}

impl PipelineRecord {
    /// How far it is, in a word: one whose process is gone is not running, whatever it wrote last.
    pub fn status_text(&self) -> String {
        status_text(self.status.as_str(), self.owner.as_ref().map(Owner::to_string).as_deref())
    }
}

/// How far a pipeline is, from what its record says.
pub(super) fn status_text(status: &str, owner: Option<&str>) -> String {
    let may_live = || owner.and_then(|owner| owner.parse().ok()).is_some_and(|owner: Owner| owner.may_live());
    let is_abandoned = status == PipelineStatus::Running.as_str() && !may_live();
    if is_abandoned { "interrupted".to_owned() } else { status.to_owned() }
}

/// A pipeline that starts.
#[derive(Debug, Clone)]
pub struct NewPipelineRecord {
    /// The pipeline's name.
    pub name: Name,
    /// Its file.
    pub file: PipelineFile,
    /// What triggered it; empty where a person did.
    pub triggered_by: String,
    /// The names of the pipelines that led to it, its own among them.
    pub pipelines: String,
}

/// A pipeline that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunningPipeline {
    pub(super) run_id: String,
    pub(super) name: String,
    /// Who runs it.
    pub(super) owner: Option<Owner>,
    /// Whether a trigger started it.
    pub(super) is_triggered: bool,
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
    /// Its run cannot be created.
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

impl Records {
    /// The records in `database`.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// Writes the run of a pipeline that this process starts, and records it; both or none.
    pub(super) async fn start(
        &self,
        run: PreparedRun,
        new: NewPipelineRecord,
    ) -> Result<PipelineRecord, RecordError> {
        self.database
            .write(move |connection| Box::pin(async move { insert(connection, run, new).await }))
            .await
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
                    rows::write_step(connection, key, &step).await?;
                    if let Some(made_by) = made_by {
                        rows::write_result(connection, made_by.cache_key, &step).await?;
                        rows::write_identity(connection, &pipeline, &step.step, &made_by.identity).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Those that are running, or were when their process was killed.
    pub(super) async fn running(&self) -> Result<Vec<RunningPipeline>, RecordError> {
        let sql = "SELECT run_id, name, owner, triggered_by FROM pipeline_runs WHERE status = 'running' ORDER BY id";
        let rows = sqlx::query(sql).fetch_all(self.database.readers()).await?;
        rows.iter()
            .map(|row| {
                let (owner, triggered_by): (&str, &str) = (row.try_get(2)?, row.try_get(3)?);
                Ok(RunningPipeline {
                    run_id: row.try_get(0)?,
                    name: row.try_get(1)?,
                    owner: owner.parse().ok(),
                    is_triggered: !triggered_by.is_empty(),
                })
            })
            .collect()
    }

    /// The newest pipelines first.
    pub async fn list(&self, name: Option<&str>, limit: u32) -> Result<Vec<PipelineRecord>, RecordError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM pipeline_runs WHERE ($1 = '' OR name = $1) ORDER BY id DESC LIMIT $2"
        );
        let rows =
            sqlx::query(sqlx::AssertSqlSafe(sql)).bind(name.unwrap_or_default()).bind(i64::from(limit));
        rows.fetch_all(self.database.readers()).await?.iter().map(rows::pipeline).collect()
    }

    /// The pipeline whose run's id is `run` or begins with it, or the newest of that name.
    pub async fn find(&self, run: &str) -> Result<PipelineRecord, RecordError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM pipeline_runs WHERE run_id = $1 OR name = $1 \
             OR (LENGTH($1) >= 6 AND SUBSTR(run_id, 1, LENGTH($1)) = $1) ORDER BY id DESC LIMIT 1"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(run);
        match row.fetch_optional(self.database.readers()).await? {
            Some(row) => rows::pipeline(&row),
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
        rows.iter().map(|row| rows::step(row, &record.run_id)).collect()
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
        rows::object(outputs, run_id, "step's outputs").map(Some)
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
                let key: Digest = key.parse().map_err(|_| rows::odd(&run_id, "cache key", key))?;
                let outputs = rows::object(outputs, &run_id, "outputs")?;
                results.push((key, StepResult { outputs, run_id }));
            }
        }
        Ok(results)
    }
}

/// Writes the run of a pipeline that this process starts, and records it.
pub(super) async fn insert(
    connection: &mut AnyConnection,
    run: PreparedRun,
    new: NewPipelineRecord,
) -> Result<PipelineRecord, RecordError> {
    let NewPipelineRecord { name, file, triggered_by, pipelines } = new;
    let run = run.insert(&mut *connection).await?.info;
    let owner = Owner::this_process();
    let params = file.params_map();
    let sql = "INSERT INTO pipeline_runs (run_id, name, file_name, file, folder, params, status, owner, started_at, \
               triggered_by, pipelines) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING id";
    let row = sqlx::query(sql)
        .bind(run.run_id.as_str())
        .bind(name.as_str())
        .bind(file.name.as_str())
        .bind(file.text.as_str())
        .bind(file.folder.display().to_string())
        .bind(Value::Object(params.clone()).to_string())
        .bind(PipelineStatus::Running.as_str())
        .bind(owner.to_string())
        .bind(run.start_time)
        .bind(triggered_by.as_str())
        .bind(pipelines.as_str())
        .fetch_one(connection)
        .await?;
    Ok(PipelineRecord {
        key: row.try_get(0)?,
        run_id: run.run_id,
        name: name.to_string(),
        file_name: file.name,
        file: file.text,
        folder: file.folder.display().to_string(),
        params,
        status: PipelineStatus::Running,
        owner: Some(owner),
        started_at: run.start_time,
        ended_at: None,
        triggered_by,
        pipelines,
    })
}
