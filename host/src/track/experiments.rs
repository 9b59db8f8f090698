use sqlx::{AnyConnection, Row as _};

use super::names::{check_experiment_name, check_experiment_tag, check_key, check_length};
use super::rows::{self, EXPERIMENT_COLUMNS};
use super::{ErrorCode, Experiment, Lifecycle, Pair, TrackError, Tracker, now_ms};

/// Longest location of artifacts.
const LOCATION_MAX_CHARS: usize = 2_048;

/// Scheme of artifacts that the server keeps for its clients.
pub(super) const PROXIED: &str = "mlflow-artifacts:/";

impl Tracker {
    /// Creates an experiment; gives its id.
    ///
    /// Artifacts are always kept in the store: a location elsewhere is refused, because a server that reads and writes
    /// where a caller says could be made to read and write anywhere.
    pub async fn create_experiment(
        &self,
        name: String,
        artifact_location: Option<String>,
        tags: Vec<Pair>,
    ) -> Result<String, TrackError> {
        check_experiment_name(&name)?;
        tags.iter().try_for_each(check_experiment_tag)?;
        let location = artifact_location.filter(|location| !location.is_empty());
        if let Some(location) = &location {
            check_length("artifact_location", location, LOCATION_MAX_CHARS)?;
            super::artifacts::path_of_location(location)?;
        }
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let sql = "INSERT INTO experiments (name, artifact_location, created_at, updated_at) \
                               VALUES ($1, $2, $3, $3) ON CONFLICT (name) DO NOTHING RETURNING id";
                    let inserted = sqlx::query(sql)
                        .bind(name.as_str())
                        .bind(location.as_deref().unwrap_or_default())
                        .bind(now_ms())
                        .fetch_optional(&mut *connection)
                        .await?;
                    let Some(row) = inserted else {
                        return Err(TrackError::new(
                            ErrorCode::ResourceAlreadyExists,
                            format!("Experiment(name={name}) already exists."),
                        ));
                    };
                    let id: i64 = row.try_get(0)?;
                    if location.is_none() {
                        sqlx::query("UPDATE experiments SET artifact_location = $1 WHERE id = $2")
                            .bind(format!("{PROXIED}{id}"))
                            .bind(id)
                            .execute(&mut *connection)
                            .await?;
                    }
                    for tag in &tags {
                        set_tag(connection, id, tag).await?;
                    }
                    Ok(id.to_string())
                })
            })
            .await
    }

    /// The id of the experiment of a name, created if there is none.
    pub async fn ensure_experiment(&self, name: &str) -> Result<String, TrackError> {
        // In this order, because another may create it at the same time.
        match self.create_experiment(name.to_owned(), None, Vec::new()).await {
            Err(error) if error.code() == ErrorCode::ResourceAlreadyExists => {
                Ok(self.experiment_by_name(name).await?.experiment_id)
            }
            created => created,
        }
    }

    /// The experiment of an id.
    pub async fn experiment(&self, experiment_id: &str) -> Result<Experiment, TrackError> {
        let id = parse_id(experiment_id)?;
        let sql = format!("SELECT {EXPERIMENT_COLUMNS} FROM experiments e WHERE e.id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_optional(self.database.readers());
        match row.await? {
            Some(row) => self.with_tags(vec![rows::experiment(&row)?]).await.map(first)?,
            None => Err(no_experiment(id)),
        }
    }

    /// The experiment of a name.
    pub async fn experiment_by_name(&self, name: &str) -> Result<Experiment, TrackError> {
        let sql = format!("SELECT {EXPERIMENT_COLUMNS} FROM experiments e WHERE e.name = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(name).fetch_optional(self.database.readers());
        match row.await? {
            Some(row) => self.with_tags(vec![rows::experiment(&row)?]).await.map(first)?,
            None => {
                let name: String = name.chars().take(600).collect();
                Err(TrackError::missing(format!("Could not find experiment with name '{name}'")))
            }
        }
    }

    /// Renames an experiment.
    pub async fn rename_experiment(&self, experiment_id: &str, name: String) -> Result<(), TrackError> {
        let id = parse_id(experiment_id)?;
        check_experiment_name(&name)?;
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    active(connection, id).await?;
                    let sql = "SELECT id FROM experiments WHERE name = $1 AND id <> $2";
                    let taken = sqlx::query(sql)
                        .bind(name.as_str())
                        .bind(id)
                        .fetch_optional(&mut *connection)
                        .await?;
                    if taken.is_some() {
                        return Err(TrackError::new(
                            ErrorCode::ResourceAlreadyExists,
                            format!("Experiment(name={name}) already exists."),
                        ));
                    }
                    sqlx::query("UPDATE experiments SET name = $1, updated_at = $2 WHERE id = $3")
                        .bind(name.as_str())
                        .bind(now_ms())
                        .bind(id)
                        .execute(&mut *connection)
                        .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Deletes or restores an experiment with its runs.
    pub async fn set_experiment_lifecycle(
        &self,
        experiment_id: &str,
        wanted: Lifecycle,
    ) -> Result<(), TrackError> {
        let id = parse_id(experiment_id)?;
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let (deleted_at, other) = match wanted {
                        Lifecycle::Deleted => (Some(now_ms()), "IS NULL"),
                        Lifecycle::Active => (None, "IS NOT NULL"),
                    };
                    let sql = format!(
                        "UPDATE experiments SET deleted_at = $1, updated_at = $2 WHERE id = $3 AND deleted_at {other}"
                    );
                    let changed = sqlx::query(sqlx::AssertSqlSafe(sql))
                        .bind(deleted_at)
                        .bind(now_ms())
                        .bind(id)
                        .execute(&mut *connection)
                        .await?;
                    if changed.rows_affected() == 0 {
                        return Err(no_experiment(id));
                    }
                    let sql = format!(
                        "UPDATE runs SET deleted_at = $1 WHERE experiment = $2 AND deleted_at {other}"
                    );
                    sqlx::query(sqlx::AssertSqlSafe(sql))
                        .bind(deleted_at)
                        .bind(id)
                        .execute(&mut *connection)
                        .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Sets a tag of an experiment.
    pub async fn set_experiment_tag(&self, experiment_id: &str, tag: Pair) -> Result<(), TrackError> {
        let id = parse_id(experiment_id)?;
        check_experiment_tag(&tag)?;
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    active(connection, id).await?;
                    set_tag(connection, id, &tag).await
                })
            })
            .await
    }

    /// Removes a tag of an experiment.
    pub async fn delete_experiment_tag(&self, experiment_id: &str, key: String) -> Result<(), TrackError> {
        let id = parse_id(experiment_id)?;
        check_key("key", &key)?;
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    active(connection, id).await?;
                    let sql = "DELETE FROM experiment_tags WHERE experiment = $1 AND key = $2";
                    let gone = sqlx::query(sql).bind(id).bind(key.as_str()).execute(&mut *connection).await?;
                    if gone.rows_affected() == 0 {
                        return Err(TrackError::missing(format!(
                            "No tag with name: {key} in experiment with id {id}"
                        )));
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Puts the tags to experiments.
    pub(super) async fn with_tags(
        &self,
        mut experiments: Vec<(i64, Experiment)>,
    ) -> Result<Vec<Experiment>, TrackError> {
        for (id, experiment) in &mut experiments {
            let sql = "SELECT experiment, key, value FROM experiment_tags WHERE experiment = $1 ORDER BY key";
            for row in sqlx::query(sql).bind(*id).fetch_all(self.database.readers()).await? {
                experiment.tags.push(rows::pair(&row)?.1);
            }
        }
        Ok(experiments.into_iter().map(|(_, experiment)| experiment).collect())
    }
}

/// An id as the database has it.
pub(super) fn parse_id(text: &str) -> Result<i64, TrackError> {
    text.parse().map_err(|_| {
        let text: String = text.chars().take(100).collect();
        TrackError::invalid(format!("Invalid experiment ID '{text}': it must be an integer"))
    })
}

pub(super) fn no_experiment(id: i64) -> TrackError {
    TrackError::missing(format!("No Experiment with id={id} exists"))
}

/// Fails unless there is such an experiment and it is active; gives its artifact location.
pub(super) async fn active(connection: &mut AnyConnection, id: i64) -> Result<String, TrackError> {
    let sql = "SELECT artifact_location, deleted_at FROM experiments WHERE id = $1";
    let row = sqlx::query(sql).bind(id).fetch_optional(connection).await?;
    let row = row.ok_or_else(|| no_experiment(id))?;
    match row.try_get::<Option<i64>, _>(1)? {
        None => Ok(row.try_get(0)?),
        Some(_) => Err(TrackError::invalid(format!(
            "The experiment {id} must be in the 'active' state. Current state is deleted."
        ))),
    }
}

async fn set_tag(connection: &mut AnyConnection, id: i64, tag: &Pair) -> Result<(), TrackError> {
    let sql = "INSERT INTO experiment_tags (experiment, key, value) VALUES ($1, $2, $3) \
               ON CONFLICT (experiment, key) DO UPDATE SET value = excluded.value";
    sqlx::query(sql).bind(id).bind(tag.key.as_str()).bind(tag.value.as_str()).execute(connection).await?;
    Ok(())
}

fn first(experiments: Vec<Experiment>) -> Result<Experiment, TrackError> {
    experiments
        .into_iter()
        .next()
        .ok_or_else(|| TrackError::new(ErrorCode::InternalError, "an experiment was lost"))
}
