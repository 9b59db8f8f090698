//! Models that clients before MLflow 3 log: a tag of the run that lists them.

use serde_json::{Map, Value};
use sqlx::Row as _;

use super::runs::{active_run, write_tags};
use super::{Pair, TrackError, Tracker};

/// The tag, which newer clients read too.
const HISTORY_TAG: &str = "mlflow.log-model.history";

/// Bytes of a run's list: more than other tags have, since cutting it would leave no JSON.
const HISTORY_MAX_BYTES: usize = 1024 * 1024;

/// Bytes of one model as it is sent: not all of it is kept.
const MODEL_MAX_BYTES: usize = 4 * HISTORY_MAX_BYTES;

/// Fields that a model must have.
const REQUIRED: [&str; 4] = ["artifact_path", "flavors", "utc_time_created", "run_id"];

impl Tracker {
    /// Adds a model to those that a run lists.
    pub async fn log_model(&self, run_id: String, model_json: &str) -> Result<(), TrackError> {
        // Parsed, it takes many times the memory.
        if model_json.len() > MODEL_MAX_BYTES {
            return Err(TrackError::invalid(format!("a model can have at most {MODEL_MAX_BYTES} bytes")));
        }
        let entry = entry(model_json)?;
        let dialect = self.database.dialect();
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let run = active_run(connection, &run_id).await?;
                    // Whoever else adds to the list waits.
                    sqlx::query("UPDATE runs SET name = name WHERE id = $1")
                        .bind(run)
                        .execute(&mut *connection)
                        .await?;
                    let row = sqlx::query("SELECT value FROM run_tags WHERE run = $1 AND key = $2")
                        .bind(run)
                        .bind(HISTORY_TAG)
                        .fetch_optional(&mut *connection)
                        .await?;
                    let old: Option<String> = row.map(|row| row.try_get(0)).transpose()?;
                    let mut list: Vec<Value> = match old {
                        None => Vec::new(),
                        Some(text) => serde_json::from_str(&text).map_err(|_| {
                            TrackError::invalid(format!("the tag '{HISTORY_TAG}' of the run is no list"))
                        })?,
                    };
                    list.push(entry);
                    let value = Value::from(list).to_string();
                    if value.len() > HISTORY_MAX_BYTES {
                        return Err(TrackError::invalid(format!(
                            "the models of a run can have at most {HISTORY_MAX_BYTES} bytes together"
                        )));
                    }
                    write_tags(connection, dialect, run, &[Pair { key: HISTORY_TAG.to_owned(), value }]).await
                })
            })
            .await
    }
}

/// What the list keeps of a model.
fn entry(model_json: &str) -> Result<Value, TrackError> {
    let shown = || model_json.chars().take(300).collect::<String>();
    let model: Map<String, Value> = serde_json::from_str(model_json).map_err(|_| {
        TrackError::invalid(format!("Malformed model info. \n {} \n is not a valid JSON.", shown()))
    })?;
    let missing: Vec<_> = REQUIRED.iter().filter(|field| !model.contains_key(**field)).collect();
    if !missing.is_empty() {
        return Err(TrackError::invalid(format!("Model json is missing mandatory fields: {missing:?}")));
    }
    let kept = ["run_id", "utc_time_created", "artifact_path", "model_uuid"];
    let mut entry: Map<String, Value> =
        kept.iter().filter_map(|field| Some(((*field).to_owned(), model.get(*field)?.clone()))).collect();
    let mut flavors = model.get("flavors").cloned().unwrap_or_default();
    for flavor in flavors.as_object_mut().into_iter().flat_map(Map::values_mut) {
        if let Some(config) = flavor.as_object_mut() {
            config.remove("config");
        }
    }
    entry.insert("flavors".to_owned(), flavors);
    Ok(Value::from(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_mlflow_keeps() {
        let entry = entry(
            r#"{"run_id": "r", "artifact_path": "model", "utc_time_created": "now", "model_uuid": "u",
                "flavors": {"sklearn": {"config": {"a": 1}, "code": null}, "x": 1}, "signature": {}}"#,
        );
        assert_eq!(
            entry.unwrap(),
            serde_json::json!({ "run_id": "r", "artifact_path": "model", "utc_time_created": "now",
                "model_uuid": "u", "flavors": { "sklearn": { "code": null }, "x": 1 } })
        );
    }

    #[test]
    fn refuses_what_is_no_model() {
        for text in ["", "{", "[]", "null", "7", "{}", r#"{"run_id": "r", "flavors": {}}"#, "\0"] {
            assert!(entry(text).is_err(), "{text:?}");
        }
    }
}
