//! Models and their versions as records that can be carried to another database, and writing them there. Nothing that is
//! there is changed.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use sqlx::{AnyConnection, Row as _};

use super::Registry;
use super::aliases::{AliasChange, point};
use super::entities::{MODEL_COLUMNS, Stage, VERSION_COLUMNS, model_version, registered_model};
use super::model_versions::{LINK_MAX_CHARS, is_prompt, write_version_tags};
use super::names::{check_description, check_model_name, check_new_alias, check_tag};
use super::registered_models::{insert_model, model_key, write_model_tags};
use super::source::check_carried;
use crate::domain::Digest;
use crate::track::names::check_length;
use crate::track::{Pair, TrackError};

/// Highest number that a version may bring: those of later ones must have room.
const NUMBER_MAX: i64 = 1_000_000_000;

/// Longest id, name of a user, or status.
const ID_MAX_CHARS: usize = 256;

/// A model without its versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecord {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// Milliseconds since 1970.
    pub updated_at: i64,
    /// Notes.
    pub tags: Vec<Pair>,
    /// What its aliases meant, in the order of the changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alias_history: Vec<AliasChange>,
}

/// A version of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionRecord {
    /// The model.
    pub model: String,
    /// Its number.
    pub number: i64,
    /// For people.
    pub description: String,
    /// Where it came from.
    pub source: String,
    /// Where its files are.
    pub location: String,
    /// The run that made it; empty if none did.
    pub run_id: String,
    /// Where that run is shown.
    pub run_link: String,
    /// The logged model that it is; empty if it is none.
    pub model_id: String,
    /// What a host can serve.
    pub bundle: Option<Digest>,
    /// Whether it can be used.
    pub status: String,
    /// Why not.
    pub status_message: String,
    /// MLflow's stage.
    pub stage: String,
    /// Who made it.
    pub user_id: String,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// Milliseconds since 1970.
    pub updated_at: i64,
    /// Notes.
    pub tags: Vec<Pair>,
    /// Its other names.
    pub aliases: Vec<String>,
}

/// What became of a version that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RestoredVersion {
    pub(crate) number: i64,
    /// Whether it was written just now.
    pub(crate) is_new: bool,
    /// Aliases that other versions have.
    pub(crate) taken: Vec<String>,
}

impl Registry {
    /// Every model with its versions, the oldest first; prompts too.
    pub async fn model_records(&self) -> Result<Vec<(ModelRecord, Vec<VersionRecord>)>, TrackError> {
        let sql = format!("SELECT {MODEL_COLUMNS} FROM registered_models m ORDER BY m.name");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(self.database().readers()).await?;
        let found = rows.iter().map(registered_model).collect::<Result<Vec<_>, _>>()?;
        let mut records = Vec::with_capacity(found.len());
        for model in self.with_model_details(found).await? {
            let versions = self.version_records(&model.name).await?;
            let alias_history = self.alias_history(&model.name, None).await?;
            let record = ModelRecord {
                name: model.name,
                description: model.description,
                created_at: model.creation_timestamp,
                updated_at: model.last_updated_timestamp,
                tags: model.tags,
                alias_history,
            };
            records.push((record, versions));
        }
        Ok(records)
    }

    async fn version_records(&self, name: &str) -> Result<Vec<VersionRecord>, TrackError> {
        let sql = format!(
            "SELECT {VERSION_COLUMNS} FROM model_versions v JOIN registered_models m ON m.id = v.model \
             WHERE m.name = $1 ORDER BY v.number"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(name);
        let rows = query.fetch_all(self.database().readers()).await?;
        let found = rows.iter().map(model_version).collect::<Result<Vec<_>, _>>()?;
        let versions = self.with_version_details(found).await?.into_iter();
        let record = versions.map(|version| VersionRecord {
            model: version.name,
            number: version.number,
            description: version.description,
            source: version.source,
            location: version.location,
            run_id: version.run_id,
            run_link: version.run_link,
            model_id: version.model_id,
            bundle: version.bundle,
            status: version.status,
            status_message: version.status_message,
            stage: version.current_stage.as_str().to_owned(),
            user_id: version.user_id,
            created_at: version.creation_timestamp,
            updated_at: version.last_updated_timestamp,
            tags: version.tags,
            aliases: version.aliases,
        });
        Ok(record.collect())
    }
}

/// Finds the model of the record's name, or makes it; says whether it did.
pub(crate) async fn restore_model(
    connection: &mut AnyConnection,
    record: &ModelRecord,
) -> Result<bool, TrackError> {
    check_model_name("name", &record.name)?;
    check_description(&record.description)?;
    record.tags.iter().try_for_each(check_tag)?;
    let inserted = insert_model(connection, &record.name, &record.description).await?;
    if let Some(model) = inserted {
        let sql = "UPDATE registered_models SET created_at = $1, updated_at = $2 WHERE id = $3";
        let query = sqlx::query(sql).bind(record.created_at).bind(record.updated_at).bind(model);
        query.execute(&mut *connection).await?;
        write_model_tags(connection, model, &record.tags).await?;
        write_history(connection, model, &record.alias_history).await?;
        return Ok(true);
    }
    let model = model_key(connection, &record.name).await?;
    for tag in &record.tags {
        let sql = "INSERT INTO registered_model_tags (model, key, value) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        let query = sqlx::query(sql).bind(model).bind(tag.key.as_str()).bind(tag.value.as_str());
        query.execute(&mut *connection).await?;
    }
    Ok(false)
}

/// Writes the history of a new model's aliases, whose versions will keep their numbers. One that is there already keeps the
/// history that it has: there a version may have another number.
async fn write_history(
    connection: &mut AnyConnection,
    model: i64,
    changes: &[AliasChange],
) -> Result<(), TrackError> {
    for change in changes {
        check_new_alias(&change.alias)?;
        if !change.version.is_none_or(|number| (1..=NUMBER_MAX).contains(&number)) {
            return Err(TrackError::invalid("a number in the history of an alias is no number of a version"));
        }
        let sql = "INSERT INTO alias_history (model, alias, number, bundle, changed_at) \
                   VALUES ($1, $2, $3, $4, $5)";
        sqlx::query(sql)
            .bind(model)
            .bind(change.alias.as_str())
            .bind(change.version)
            .bind(change.bundle.map(|bundle| bundle.to_string()).unwrap_or_default())
            .bind(change.changed_at)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Finds the version that the record is, or writes it: under its number if no version had that or a higher one yet, under
/// the next otherwise. `own` are the keys of versions that were written before from the same archive.
pub(crate) async fn restore_version(
    connection: &mut AnyConnection,
    record: &VersionRecord,
    own: &mut HashSet<i64>,
) -> Result<RestoredVersion, TrackError> {
    check(record)?;
    let model = model_key(connection, &record.model).await?;
    // Whoever else adds a version waits.
    let row = sqlx::query(
        "UPDATE registered_models SET updated_at = updated_at WHERE id = $1 RETURNING last_number",
    );
    let last: i64 = row.bind(model).fetch_one(&mut *connection).await?.try_get(0)?;
    let (key, number, is_new) = match find_version(connection, model, record, own).await? {
        Some((key, number)) => (key, number, false),
        None => {
            let number = if record.number > last { record.number } else { last + 1 };
            let key = insert_version(connection, model, number, record).await?;
            own.insert(key);
            (key, number, true)
        }
    };
    let mut taken = Vec::new();
    for alias in &record.aliases {
        let sql = "SELECT version FROM registered_model_aliases WHERE model = $1 AND alias = $2";
        let row = sqlx::query(sql).bind(model).bind(alias.as_str());
        let holder = row.fetch_optional(&mut *connection).await?;
        match holder.map(|row| row.try_get::<i64, _>(0)).transpose()? {
            None => point(connection, model, alias, key).await?,
            Some(holder) if holder != key => taken.push(alias.clone()),
            Some(_) => {}
        }
    }
    Ok(RestoredVersion { number, is_new, taken })
}

fn check(record: &VersionRecord) -> Result<(), TrackError> {
    check_model_name("name", &record.model)?;
    check_description(&record.description)?;
    check_length("run_link", &record.run_link, 500)?;
    check_length("status_message", &record.status_message, LINK_MAX_CHARS)?;
    for text in [&record.run_id, &record.model_id, &record.user_id, &record.status] {
        check_length("run_id", text, ID_MAX_CHARS)?;
    }
    record.stage.parse::<Stage>()?;
    record.tags.iter().try_for_each(check_tag)?;
    record.aliases.iter().try_for_each(|alias| check_new_alias(alias))?;
    if !(1..=NUMBER_MAX).contains(&record.number) {
        return Err(TrackError::invalid(format!("{} is no number of a version", record.number)));
    }
    let for_prompt = is_prompt(&record.tags);
    [&record.source, &record.location].into_iter().try_for_each(|place| check_carried(place, for_prompt))
}

/// The version that holds the same bundle, or the same files since the same moment.
async fn find_version(
    connection: &mut AnyConnection,
    model: i64,
    record: &VersionRecord,
    own: &HashSet<i64>,
) -> Result<Option<(i64, i64)>, TrackError> {
    let bundle = bundle_text(record);
    let sql = "SELECT id, number, created_at, source FROM model_versions WHERE model = $1 AND bundle = $2 \
               AND ($2 <> '' OR (location = $3 AND created_at = $4)) ORDER BY number";
    let rows = sqlx::query(sql)
        .bind(model)
        .bind(bundle.as_str())
        .bind(record.location.as_str())
        .bind(record.created_at)
        .fetch_all(connection)
        .await?;
    let mut same = None;
    for row in rows {
        let (key, number): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let is_exact =
            row.try_get::<i64, _>(2)? == record.created_at && row.try_get::<&str, _>(3)? == record.source;
        if is_exact && !own.contains(&key) {
            return Ok(Some((key, number)));
        }
        // Two versions of one archive stay two, also where they hold the same.
        if same.is_none() && !own.contains(&key) {
            same = Some((key, number));
        }
    }
    Ok(same)
}

async fn insert_version(
    connection: &mut AnyConnection,
    model: i64,
    number: i64,
    record: &VersionRecord,
) -> Result<i64, TrackError> {
    let sql = "INSERT INTO model_versions (model, number, description, source, location, run_id, run_link, model_id, \
               bundle, status, status_message, stage, user_id, created_at, updated_at) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) RETURNING id";
    let row = sqlx::query(sql)
        .bind(model)
        .bind(number)
        .bind(record.description.as_str())
        .bind(record.source.as_str())
        .bind(record.location.as_str())
        .bind(record.run_id.as_str())
        .bind(record.run_link.as_str())
        .bind(record.model_id.as_str())
        .bind(bundle_text(record))
        .bind(record.status.as_str())
        .bind(record.status_message.as_str())
        .bind(record.stage.as_str())
        .bind(record.user_id.as_str())
        .bind(record.created_at)
        .bind(record.updated_at)
        .fetch_one(&mut *connection)
        .await?;
    let key = row.try_get(0)?;
    write_version_tags(connection, key, &record.tags).await?;
    sqlx::query("UPDATE registered_models SET last_number = $1 WHERE id = $2 AND last_number < $1")
        .bind(number)
        .bind(model)
        .execute(connection)
        .await?;
    Ok(key)
}

fn bundle_text(record: &VersionRecord) -> String {
    record.bundle.map(|bundle| bundle.to_string()).unwrap_or_default()
}
