use std::collections::HashMap;

use sqlx::{AnyConnection, Row as _};

use super::names::{check_length, check_text};
use super::rows::{pieces, placeholders};
use super::runs::active_run;
use super::{
    DatasetInput, InputDataset, ModelInput, ModelOutput, Pair, RunInputs, RunOutputs, TrackError, Tracker,
};

/// What a dataset of a run may hold, in characters, as in MLflow.
const NAME_MAX_CHARS: usize = 500;
const DIGEST_MAX_CHARS: usize = 36;
const SCHEMA_MAX_CHARS: usize = 1_048_575;
const SOURCE_MAX_CHARS: usize = 65_535;
const PROFILE_MAX_CHARS: usize = 16_777_215;
const TAG_KEY_MAX_CHARS: usize = 255;
const TAG_VALUE_MAX_CHARS: usize = 500;

/// Datasets of one request.
const DATASETS_MAX: usize = 1_000;

impl Tracker {
    /// Says that a run read datasets; saying it again changes nothing.
    pub async fn log_inputs(
        &self,
        run_id: String,
        inputs: Vec<DatasetInput>,
        models: Vec<ModelInput>,
    ) -> Result<(), TrackError> {
        if inputs.len().max(models.len()) > DATASETS_MAX {
            return Err(TrackError::invalid(format!(
                "A request can contain at most {DATASETS_MAX} datasets. Got {}.",
                inputs.len()
            )));
        }
        inputs.iter().try_for_each(check)?;
        models.iter().try_for_each(|model| check_length("model_id", &model.model_id, NAME_MAX_CHARS))?;
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let run = active_run(connection, &run_id).await?;
                    let row = sqlx::query("SELECT experiment FROM runs WHERE id = $1").bind(run);
                    let experiment: i64 = row.fetch_one(&mut *connection).await?.try_get(0)?;
                    for input in &inputs {
                        write_dataset(connection, run, experiment, input).await?;
                    }
                    for model in &models {
                        write_model(connection, run, &model.model_id, false, 0).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Says that a run made logged models; saying it again changes nothing.
    pub async fn log_outputs(&self, run_id: String, models: Vec<ModelOutput>) -> Result<(), TrackError> {
        if models.len() > DATASETS_MAX {
            return Err(TrackError::invalid(format!("A request can contain at most {DATASETS_MAX} models.")));
        }
        models.iter().try_for_each(|model| check_length("model_id", &model.model_id, NAME_MAX_CHARS))?;
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let run = active_run(connection, &run_id).await?;
                    for model in &models {
                        write_model(connection, run, &model.model_id, true, model.step).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// The logged models that each of these runs made; those it read are put to `read`.
    pub(super) async fn models_of(
        &self,
        runs: &[i64],
        read: &mut HashMap<i64, RunInputs>,
    ) -> Result<HashMap<i64, RunOutputs>, TrackError> {
        let mut made: HashMap<i64, RunOutputs> = HashMap::new();
        for piece in pieces(runs) {
            let sql = format!(
                "SELECT run, model_id, is_output, step FROM run_models WHERE run IN ({}) ORDER BY run, step, model_id",
                placeholders(1, piece.len())
            );
            let query = piece.iter().fold(sqlx::query(sqlx::AssertSqlSafe(sql)), |query, id| query.bind(*id));
            for row in query.fetch_all(self.database.readers()).await? {
                let (run, model_id, is_output): (i64, String, i64) =
                    (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                if is_output == 0 {
                    read.entry(run).or_default().model_inputs.push(ModelInput { model_id });
                } else {
                    let step = row.try_get(3)?;
                    made.entry(run).or_default().model_outputs.push(ModelOutput { model_id, step });
                }
            }
        }
        Ok(made)
    }

    /// What each of these runs read.
    pub(super) async fn inputs_of(&self, runs: &[i64]) -> Result<HashMap<i64, RunInputs>, TrackError> {
        let mut inputs: HashMap<i64, RunInputs> = HashMap::new();
        for piece in pieces(runs) {
            let places = placeholders(1, piece.len());
            let bound = |sql: String| {
                piece.iter().fold(sqlx::query(sqlx::AssertSqlSafe(sql)), |query, id| query.bind(*id))
            };
            let sql = format!(
                "SELECT run, dataset, key, value FROM run_input_tags WHERE run IN ({places}) \
                 ORDER BY run, dataset, key"
            );
            let mut tags: HashMap<(i64, i64), Vec<Pair>> = HashMap::new();
            for row in bound(sql).fetch_all(self.database.readers()).await? {
                let pair = Pair { key: row.try_get(2)?, value: row.try_get(3)? };
                tags.entry((row.try_get(0)?, row.try_get(1)?)).or_default().push(pair);
            }
            let sql = format!(
                "SELECT i.run, d.id, d.name, d.digest, d.source_type, d.source, d.schema, d.profile \
                 FROM run_inputs i JOIN input_datasets d ON d.id = i.dataset WHERE i.run IN ({places}) \
                 ORDER BY i.run, d.id"
            );
            for row in bound(sql).fetch_all(self.database.readers()).await? {
                let (run, id): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
                let dataset = InputDataset {
                    name: row.try_get(2)?,
                    digest: row.try_get(3)?,
                    source_type: row.try_get(4)?,
                    source: row.try_get(5)?,
                    schema: row.try_get(6)?,
                    profile: row.try_get(7)?,
                };
                let tags = tags.remove(&(run, id)).unwrap_or_default();
                inputs.entry(run).or_default().dataset_inputs.push(DatasetInput { tags, dataset });
            }
        }
        Ok(inputs)
    }
}

pub(super) fn check(input: &DatasetInput) -> Result<(), TrackError> {
    let dataset = &input.dataset;
    if dataset.name.is_empty() || dataset.digest.is_empty() {
        return Err(TrackError::invalid("Dataset name and digest cannot be empty"));
    }
    check_length("name", &dataset.name, NAME_MAX_CHARS)?;
    check_length("digest", &dataset.digest, DIGEST_MAX_CHARS)?;
    check_text("source_type", &dataset.source_type)?;
    check_length("source", &dataset.source, SOURCE_MAX_CHARS)?;
    check_length("schema", dataset.schema.as_deref().unwrap_or_default(), SCHEMA_MAX_CHARS)?;
    check_length("profile", dataset.profile.as_deref().unwrap_or_default(), PROFILE_MAX_CHARS)?;
    for tag in &input.tags {
        check_length("key", &tag.key, TAG_KEY_MAX_CHARS)?;
        check_length("value", &tag.value, TAG_VALUE_MAX_CHARS)?;
    }
    Ok(())
}

/// Says that a run of an experiment read a dataset.
pub(super) async fn write_dataset(
    connection: &mut AnyConnection,
    run: i64,
    experiment: i64,
    input: &DatasetInput,
) -> Result<(), TrackError> {
    let dataset = &input.dataset;
    let sql = "INSERT INTO input_datasets (experiment, name, digest, source_type, source, schema, profile) \
               VALUES ($1, $2, $3, $4, $5, $6, $7) \
               ON CONFLICT (experiment, name, digest) DO UPDATE SET name = excluded.name RETURNING id";
    let row = sqlx::query(sql)
        .bind(experiment)
        .bind(dataset.name.as_str())
        .bind(dataset.digest.as_str())
        .bind(dataset.source_type.as_str())
        .bind(dataset.source.as_str())
        .bind(dataset.schema.as_deref())
        .bind(dataset.profile.as_deref())
        .fetch_one(&mut *connection)
        .await?;
    let id: i64 = row.try_get(0)?;
    let sql = "INSERT INTO run_inputs (run, dataset) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    sqlx::query(sql).bind(run).bind(id).execute(&mut *connection).await?;
    for tag in &input.tags {
        let sql = "INSERT INTO run_input_tags (run, dataset, key, value) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (run, dataset, key) DO UPDATE SET value = excluded.value";
        sqlx::query(sql)
            .bind(run)
            .bind(id)
            .bind(tag.key.as_str())
            .bind(tag.value.as_str())
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

pub(super) async fn write_model(
    connection: &mut AnyConnection,
    run: i64,
    model_id: &str,
    is_output: bool,
    step: i64,
) -> Result<(), TrackError> {
    let sql = "INSERT INTO run_models (run, model_id, is_output, step) VALUES ($1, $2, $3, $4) \
               ON CONFLICT (run, model_id, is_output) DO UPDATE SET step = excluded.step";
    sqlx::query(sql)
        .bind(run)
        .bind(model_id)
        .bind(i64::from(is_output))
        .bind(step)
        .execute(connection)
        .await?;
    Ok(())
}
