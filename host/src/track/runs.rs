use std::collections::HashMap;

use sqlx::{AnyConnection, Row as _};

use super::experiments::{active, parse_id};
use super::logged_models::write_model_metrics;
use super::metrics::write_metrics;
use super::names::{
    check_free, check_free_key, check_length, check_metric, checked_param, checked_run_name, checked_tag,
    last_of_each_key,
};
use super::rows::{self, RUN_COLUMNS, pieces, placeholders, value_rows};
use super::{
    Lifecycle, Metric, Pair, Run, RunData, RunInfo, RunInputs, RunOutputs, RunStatus, TrackError, Tracker,
    now_ms,
};
use crate::store::Dialect;

/// Tag that holds a run's name, as MLflow's clients read it.
const NAME_TAG: &str = "mlflow.runName";

/// Longest name of a user.
const USER_MAX_CHARS: usize = 250;

/// What a batch may hold at most.
const BATCH_METRICS_MAX: usize = 1_000;
const BATCH_PARAMS_MAX: usize = 100;
const BATCH_TAGS_MAX: usize = 100;
const BATCH_ENTITIES_MAX: usize = 1_000;

/// What a new run starts with.
#[derive(Debug, Clone, Default)]
pub struct NewRun {
    /// Its experiment.
    pub experiment_id: String,
    /// For people; one is made up where there is none.
    pub run_name: Option<String>,
    /// Who starts it.
    pub user_id: String,
    /// Milliseconds since 1970; now where there is none.
    pub start_time: Option<i64>,
    /// Notes.
    pub tags: Vec<Pair>,
}

/// What is to change about a run.
#[derive(Debug, Clone, Default)]
pub struct RunChange {
    /// How far it is.
    pub status: Option<RunStatus>,
    /// When it ended.
    pub end_time: Option<i64>,
    /// Its name.
    pub run_name: Option<String>,
}

/// A run whose values have been checked and that has its id, but stands in no database yet: for what is to begin together
/// with it, or not at all.
#[derive(Debug, Clone)]
pub struct PreparedRun {
    run_id: String,
    experiment: i64,
    name: String,
    user_id: String,
    start_time: i64,
    tags: Vec<Pair>,
    dialect: Dialect,
}

impl PreparedRun {
    /// The id that it will have.
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Writes it, as a part of the transaction of `connection`.
    pub async fn insert(self, connection: &mut AnyConnection) -> Result<Run, TrackError> {
        let Self { run_id, experiment, name, user_id, start_time, mut tags, dialect } = self;
        let location = active(connection, experiment).await?;
        let artifact_uri = format!("{}/{run_id}/artifacts", location.trim_end_matches('/'));
        let sql = "INSERT INTO runs (run_id, experiment, name, user_id, status, started_at, artifact_uri) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id";
        let row = sqlx::query(sql)
            .bind(run_id.as_str())
            .bind(experiment)
            .bind(name.as_str())
            .bind(user_id.as_str())
            .bind(RunStatus::Running.as_str())
            .bind(start_time)
            .bind(artifact_uri.as_str())
            .fetch_one(&mut *connection)
            .await?;
        write_tags(connection, dialect, row.try_get(0)?, &tags).await?;
        tags.sort_by(|a, b| a.key.cmp(&b.key));
        let info = RunInfo {
            run_uuid: run_id.clone(),
            run_id,
            run_name: name,
            experiment_id: experiment.to_string(),
            user_id,
            status: RunStatus::Running,
            start_time,
            end_time: None,
            artifact_uri,
            lifecycle_stage: Lifecycle::Active,
        };
        let data = RunData { tags, ..RunData::default() };
        Ok(Run { info, data, inputs: RunInputs::default(), outputs: RunOutputs::default() })
    }
}

impl Tracker {
    /// Starts a run.
    pub async fn create_run(&self, new: NewRun) -> Result<Run, TrackError> {
        let prepared = self.prepare_run(new)?;
        self.database
            .write(move |connection| Box::pin(async move { prepared.insert(connection).await }))
            .await
    }

    /// Checks what a run is to start with.
    pub fn prepare_run(&self, new: NewRun) -> Result<PreparedRun, TrackError> {
        let experiment = parse_id(if new.experiment_id.is_empty() { "0" } else { &new.experiment_id })?;
        let run_id = uuid::Uuid::new_v4().simple().to_string();
        let (name, tags) = name_and_tags(&run_id, new.run_name, new.tags)?;
        check_length("user_id", &new.user_id, USER_MAX_CHARS)?;
        let start_time = new.start_time.filter(|time| *time != 0).unwrap_or_else(now_ms);
        let (user_id, dialect) = (new.user_id, self.database.dialect());
        Ok(PreparedRun { run_id, experiment, name, user_id, start_time, tags, dialect })
    }

    /// The run of an id, deleted or not.
    pub async fn run(&self, run_id: &str) -> Result<Run, TrackError> {
        let sql = format!("SELECT {RUN_COLUMNS} FROM runs r WHERE r.run_id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(run_id);
        let row = row.fetch_optional(self.database.readers()).await?.ok_or_else(|| no_run(run_id))?;
        let runs = self.with_data(vec![rows::run(&row)?]).await?;
        runs.into_iter().next().ok_or_else(|| no_run(run_id))
    }

    /// Changes status, end or name.
    pub async fn update_run(&self, run_id: String, change: RunChange) -> Result<RunInfo, TrackError> {
        let name = change.run_name.filter(|name| !name.is_empty()).map(checked_run_name).transpose()?;
        let dialect = self.database.dialect();
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let id = active_run(connection, &run_id).await?;
                    let sql = "UPDATE runs SET status = COALESCE($1, status), ended_at = COALESCE($2, ended_at), \
                               name = COALESCE($3, name) WHERE id = $4";
                    sqlx::query(sql)
                        .bind(change.status.map(RunStatus::as_str))
                        .bind(change.end_time)
                        .bind(name.as_deref())
                        .bind(id)
                        .execute(&mut *connection)
                        .await?;
                    if let Some(value) = name {
                        write_tags(connection, dialect, id, &[Pair { key: NAME_TAG.to_owned(), value }]).await?;
                    }
                    let sql = format!("SELECT {RUN_COLUMNS} FROM runs r WHERE r.id = $1");
                    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_one(connection).await?;
                    Ok(rows::run(&row)?.1)
                })
            })
            .await
    }

    /// Deletes or restores a run.
    pub async fn set_run_lifecycle(&self, run_id: String, wanted: Lifecycle) -> Result<(), TrackError> {
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let (deleted_at, other) = match wanted {
                        Lifecycle::Deleted => (Some(now_ms()), "IS NULL"),
                        Lifecycle::Active => (None, "IS NOT NULL"),
                    };
                    let found = sqlx::query("SELECT id FROM runs WHERE run_id = $1")
                        .bind(run_id.as_str())
                        .fetch_optional(&mut *connection)
                        .await?;
                    found.ok_or_else(|| no_run(&run_id))?;
                    let sql =
                        format!("UPDATE runs SET deleted_at = $1 WHERE run_id = $2 AND deleted_at {other}");
                    sqlx::query(sqlx::AssertSqlSafe(sql))
                        .bind(deleted_at)
                        .bind(run_id.as_str())
                        .execute(connection)
                        .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Logs metrics, parameters and tags: all of them or, with an error, none.
    pub async fn log_batch(
        &self,
        run_id: String,
        metrics: Vec<Metric>,
        params: Vec<Pair>,
        tags: Vec<Pair>,
    ) -> Result<(), TrackError> {
        check_batch(&metrics, &params, &tags)?;
        for (index, metric) in metrics.iter().enumerate() {
            check_metric(&format!("metrics[{index}]."), metric)?;
        }
        let params: Vec<Pair> = params
            .into_iter()
            .enumerate()
            .map(|(index, param)| checked_param(&format!("params[{index}]."), param))
            .collect::<Result<_, _>>()?;
        let mut unique = std::collections::HashSet::new();
        if let Some(twice) = params.iter().find(|param| !unique.insert(param.key.as_str())) {
            return Err(TrackError::invalid(format!(
                "Duplicate parameter keys have been submitted: ['{}']. Please ensure the request contains only one \
                 param value per param key.",
                twice.key
            )));
        }
        let tags: Vec<Pair> = tags
            .into_iter()
            .enumerate()
            .map(|(index, tag)| checked_tag(&format!("tags[{index}]."), tag))
            .collect::<Result<_, _>>()?;
        let mut newest_tags = last_of_each_key(tags);
        // A run is never without a name: it keeps the one that it has.
        newest_tags.retain(|tag| tag.key != NAME_TAG || !tag.value.is_empty());
        let names_a_model = |metric: &Metric| metric.model_id.as_ref().is_some_and(|id| !id.is_empty());
        if params.is_empty() && newest_tags.is_empty() && !metrics.iter().any(names_a_model) {
            return self.metrics.log(run_id, metrics).await;
        }
        let dialect = self.database.dialect();
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let run = active_run(connection, &run_id).await?;
                    write_params(connection, dialect, run, &run_id, &params).await?;
                    let points: Vec<_> = metrics.iter().map(|metric| (run, metric)).collect();
                    write_metrics(connection, dialect, &points).await?;
                    write_model_metrics(connection, &run_id, &metrics).await?;
                    write_tags(connection, dialect, run, &newest_tags).await?;
                    if let Some(name) = newest_tags.iter().find(|tag| tag.key == NAME_TAG) {
                        rename(connection, run, &name.value).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Removes a tag.
    pub async fn delete_tag(&self, run_id: String, key: String) -> Result<(), TrackError> {
        check_free_key("key", &key)?;
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let run = active_run(connection, &run_id).await?;
                    let gone = sqlx::query("DELETE FROM run_tags WHERE run = $1 AND key = $2")
                        .bind(run)
                        .bind(key.as_str())
                        .execute(&mut *connection)
                        .await?;
                    if gone.rows_affected() == 0 {
                        return Err(TrackError::missing(format!(
                            "No tag with name: {key} in run with id {run_id}"
                        )));
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Puts to runs what they logged and read.
    pub(super) async fn with_data(&self, found: Vec<(i64, RunInfo)>) -> Result<Vec<Run>, TrackError> {
        let ids: Vec<i64> = found.iter().map(|(id, _)| *id).collect();
        let mut data: HashMap<i64, RunData> = HashMap::with_capacity(ids.len());
        for piece in pieces(&ids) {
            let places = placeholders(1, piece.len());
            let select = |sql: String| {
                let query = sqlx::query(sqlx::AssertSqlSafe(sql));
                piece.iter().fold(query, |query, id| query.bind(*id)).fetch_all(self.database.readers())
            };
            let order = format!("WHERE run IN ({places}) ORDER BY run, key");
            for row in select(format!("SELECT run, key, step, timestamp, value FROM series {order}")).await? {
                let (id, metric) = rows::newest(&row)?;
                data.entry(id).or_default().metrics.push(metric);
            }
            for row in select(format!("SELECT run, key, value FROM run_params {order}")).await? {
                let (id, param) = rows::pair(&row)?;
                data.entry(id).or_default().params.push(param);
            }
            for row in select(format!("SELECT run, key, value FROM run_tags {order}")).await? {
                let (id, tag) = rows::pair(&row)?;
                data.entry(id).or_default().tags.push(tag);
            }
        }
        let mut read = self.inputs_of(&ids).await?;
        let mut made = self.models_of(&ids, &mut read).await?;
        Ok(found
            .into_iter()
            .map(|(id, info)| Run {
                info,
                data: data.remove(&id).unwrap_or_default(),
                inputs: read.remove(&id).unwrap_or_default(),
                outputs: made.remove(&id).unwrap_or_default(),
            })
            .collect())
    }
}

/// The name of a new run, and its tags with the one that holds the name. MLflow takes any tag here.
fn name_and_tags(
    run_id: &str,
    run_name: Option<String>,
    tags: Vec<Pair>,
) -> Result<(String, Vec<Pair>), TrackError> {
    tags.iter().try_for_each(|tag| check_free("", tag))?;
    let mut tags = last_of_each_key(tags);
    let tagged = tags.iter().position(|tag| tag.key == NAME_TAG).map(|place| tags.remove(place).value);
    let is_name = |name: &String| !name.is_empty();
    let name = match (run_name.filter(is_name), tagged.filter(is_name)) {
        (Some(name), Some(tagged)) if name != tagged => {
            let shown = |name: &str| name.chars().take(300).collect::<String>();
            return Err(TrackError::invalid(format!(
                "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values \
                 (run_name='{}', mlflow.runName='{}').",
                shown(&name),
                shown(&tagged)
            )));
        }
        (Some(name), _) | (None, Some(name)) => checked_run_name(name)?,
        (None, None) => super::names_of_runs::make(run_id),
    };
    tags.push(Pair { key: NAME_TAG.to_owned(), value: name.clone() });
    Ok((name, tags))
}

fn check_batch(metrics: &[Metric], params: &[Pair], tags: &[Pair]) -> Result<(), TrackError> {
    let limits = [
        ("metrics", metrics.len(), BATCH_METRICS_MAX),
        ("params", params.len(), BATCH_PARAMS_MAX),
        ("tags", tags.len(), BATCH_TAGS_MAX),
    ];
    for (what, found, limit) in limits {
        if found > limit {
            return Err(TrackError::invalid(format!(
                "A batch logging request can contain at most {limit} {what}. Got {found} {what}. Please split up \
                 {what} across multiple requests and try again."
            )));
        }
    }
    let found = metrics.len() + params.len() + tags.len();
    if found > BATCH_ENTITIES_MAX {
        return Err(TrackError::invalid(format!(
            "A batch logging request can contain at most {BATCH_ENTITIES_MAX} metrics, params, and tags. Got {found} \
             metrics, params, and tags. Please split up metrics, params, and tags across multiple requests and try \
             again."
        )));
    }
    Ok(())
}

pub(super) fn no_run(run_id: &str) -> TrackError {
    let run_id: String = run_id.chars().take(300).collect();
    TrackError::missing(format!("Run with id={run_id} not found"))
}

/// The key of a run that can be written to.
pub(super) async fn active_run(connection: &mut AnyConnection, run_id: &str) -> Result<i64, TrackError> {
    let row = sqlx::query("SELECT id, deleted_at FROM runs WHERE run_id = $1")
        .bind(run_id)
        .fetch_optional(connection)
        .await?
        .ok_or_else(|| no_run(run_id))?;
    match row.try_get::<Option<i64>, _>(1)? {
        None => Ok(row.try_get(0)?),
        Some(_) => Err(deleted(run_id)),
    }
}

/// A run that is deleted takes nothing.
pub(super) fn deleted(run_id: &str) -> TrackError {
    TrackError::invalid(format!("The run {run_id} must be in the 'active' state. Current state is deleted."))
}

async fn rename(connection: &mut AnyConnection, run: i64, name: &str) -> Result<(), TrackError> {
    sqlx::query("UPDATE runs SET name = $1 WHERE id = $2").bind(name).bind(run).execute(connection).await?;
    Ok(())
}

pub(super) async fn write_tags(
    connection: &mut AnyConnection,
    dialect: Dialect,
    run: i64,
    tags: &[Pair],
) -> Result<(), TrackError> {
    for piece in pieces(tags) {
        let sql = format!(
            "INSERT INTO run_tags (run, key, value) VALUES {} \
             ON CONFLICT (run, key) DO UPDATE SET value = excluded.value",
            value_rows(dialect, piece.len(), 3)
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for tag in piece {
            query = query.bind(run).bind(tag.key.as_str()).bind(tag.value.as_str());
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// A parameter is set once; setting it to the same value again is no change.
pub(super) async fn write_params(
    connection: &mut AnyConnection,
    dialect: Dialect,
    run: i64,
    run_id: &str,
    params: &[Pair],
) -> Result<(), TrackError> {
    for piece in pieces(params) {
        let sql = format!(
            "INSERT INTO run_params (run, key, value) VALUES {} ON CONFLICT (run, key) DO NOTHING",
            value_rows(dialect, piece.len(), 3)
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for param in piece {
            query = query.bind(run).bind(param.key.as_str()).bind(param.value.as_str());
        }
        if query.execute(&mut *connection).await?.rows_affected() == piece.len() as u64 {
            continue;
        }
        for param in piece {
            let row = sqlx::query("SELECT value FROM run_params WHERE run = $1 AND key = $2")
                .bind(run)
                .bind(param.key.as_str())
                .fetch_one(&mut *connection)
                .await?;
            let old: String = row.try_get(0)?;
            if old != param.value {
                return Err(TrackError::invalid(format!(
                    "Changing param values is not allowed. Param with key='{}' was already logged with value='{old}' \
                     for run ID='{run_id}'. Attempted logging new value '{}'.",
                    param.key, param.value
                )));
            }
        }
    }
    Ok(())
}
