//! The aliases of versions, and what each meant when.
//!
//! Every change is noted in the transaction that makes it. The database runs those one after the other, so what one reads
//! of an alias before it moves it is still so when it is done.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sqlx::{AnyConnection, Row as _};

use super::Registry;
use super::entities::ModelVersion;
use super::model_versions::version_key;
use super::names::{check_alias, check_model_name, check_new_alias, is_latest, parse_number, required};
use super::registered_models::{model_key, no_model};
use crate::domain::Digest;
use crate::track::{TrackError, now_ms};

/// What an alias has meant since a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AliasChange {
    /// The alias.
    pub alias: String,
    /// Number of the version; none where the alias was taken away, or its version deleted.
    pub version: Option<i64>,
    /// The version's bundle, which may be gone by now; none too where it holds files for other programs only.
    pub bundle: Option<Digest>,
    /// Milliseconds since 1970.
    pub changed_at: i64,
}

impl Registry {
    /// Gives a version a name, which no other version of the model has then.
    pub async fn set_alias(&self, name: String, alias: String, number: &str) -> Result<(), TrackError> {
        check_model_name("name", &name)?;
        required("alias", &alias)?;
        check_new_alias(&alias)?;
        let number = parse_number(number)?;
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    let (model, version) = version_key(connection, &name, number).await?;
                    point(connection, model, &alias, version).await
                })
            })
            .await
    }

    /// Moves a name to a version if the version that has it is still `expected`, none if no version should have it.
    /// Gives whether it did: of two that decided by the same version, the second must decide anew.
    pub async fn move_alias(
        &self,
        name: String,
        alias: String,
        expected: Option<i64>,
        number: i64,
    ) -> Result<bool, TrackError> {
        check_model_name("name", &name)?;
        check_new_alias(&alias)?;
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    let (model, version) = version_key(connection, &name, number).await?;
                    let sql = "SELECT v.number FROM registered_model_aliases a \
                               JOIN model_versions v ON v.id = a.version WHERE a.model = $1 AND a.alias = $2";
                    let row = sqlx::query(sql).bind(model).bind(alias.as_str());
                    let row = row.fetch_optional(&mut *connection).await?;
                    let holder: Option<i64> = row.map(|row| row.try_get(0)).transpose()?;
                    if holder != expected {
                        return Ok(false);
                    }
                    point(connection, model, &alias, version).await?;
                    Ok::<_, TrackError>(true)
                })
            })
            .await
    }

    /// Takes a name from whichever version has it; gives whether there was one.
    pub async fn delete_alias(&self, name: String, alias: String) -> Result<bool, TrackError> {
        check_model_name("name", &name)?;
        check_alias(&alias)?;
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    let model = model_key(connection, &name).await?;
                    let sql = "DELETE FROM registered_model_aliases WHERE model = $1 AND alias = $2";
                    let gone = sqlx::query(sql).bind(model).bind(alias.as_str());
                    let was_there = gone.execute(&mut *connection).await?.rows_affected() > 0;
                    if was_there {
                        let sql = "INSERT INTO alias_history (model, alias, number, bundle, changed_at) \
                                   VALUES ($1, $2, NULL, '', $3)";
                        let noted = sqlx::query(sql).bind(model).bind(alias.as_str()).bind(now_ms());
                        noted.execute(connection).await?;
                    }
                    Ok(was_there)
                })
            })
            .await
    }

    /// The version that has a name; `latest` is what MLflow calls so.
    pub async fn version_by_alias(&self, name: &str, alias: &str) -> Result<ModelVersion, TrackError> {
        check_model_name("name", name)?;
        check_alias(alias)?;
        if is_latest(alias) {
            return self.latest_version(name).await;
        }
        let sql = "SELECT v.number FROM registered_models m \
                   LEFT JOIN registered_model_aliases a ON a.model = m.id AND a.alias = $1 \
                   LEFT JOIN model_versions v ON v.id = a.version WHERE m.name = $2";
        let row = sqlx::query(sql).bind(alias).bind(name).fetch_optional(self.database().readers()).await?;
        let row = row.ok_or_else(|| no_model(name))?;
        match row.try_get::<Option<i64>, _>(0)? {
            Some(number) => self.numbered_version(name, number).await,
            None => Err(TrackError::invalid(format!("Registered model alias {alias} not found."))),
        }
    }

    /// The version that an alias meant before the one that it means now, and that can still be served and is not yanked; none
    /// where it has meant no such one.
    pub async fn version_before(
        &self,
        name: &str,
        alias: &str,
        current: i64,
    ) -> Result<Option<i64>, TrackError> {
        let changes = self.alias_history(name, Some(alias)).await?;
        let versions = self.versions_of(name).await?;
        let fit = versions.iter().filter(|version| version.bundle.is_some() && !version.is_yanked());
        let fit: BTreeSet<i64> = fit.map(|version| version.number).collect();
        let mut meant = changes.iter().rev().filter_map(|change| change.version);
        Ok(meant.find(|number| *number != current && fit.contains(number)))
    }

    /// What the aliases of a model meant, or one of them, in the order of the changes. What was before this was kept, or
    /// before the model of this name was made, is not known.
    pub async fn alias_history(
        &self,
        name: &str,
        alias: Option<&str>,
    ) -> Result<Vec<AliasChange>, TrackError> {
        let sql = "SELECT h.alias, h.number, h.bundle, h.changed_at FROM alias_history h \
                   JOIN registered_models m ON m.id = h.model WHERE m.name = $1 ORDER BY h.id";
        let rows = sqlx::query(sql).bind(name).fetch_all(self.database().readers()).await?;
        let mut changes = Vec::with_capacity(rows.len());
        for row in rows {
            let bundle: String = row.try_get(2)?;
            let change = AliasChange {
                alias: row.try_get(0)?,
                version: row.try_get(1)?,
                bundle: bundle.parse().ok(),
                changed_at: row.try_get(3)?,
            };
            if alias.is_none_or(|alias| alias == change.alias) {
                changes.push(change);
            }
        }
        Ok(changes)
    }
}

/// Gives a version a name, and notes it if another version had it, or none; what an imported history says already is not
/// noted again.
pub(super) async fn point(
    connection: &mut AnyConnection,
    model: i64,
    alias: &str,
    version: i64,
) -> Result<(), TrackError> {
    let sql = "SELECT version FROM registered_model_aliases WHERE model = $1 AND alias = $2";
    let row = sqlx::query(sql).bind(model).bind(alias).fetch_optional(&mut *connection).await?;
    let holder: Option<i64> = row.map(|row| row.try_get(0)).transpose()?;
    if holder == Some(version) {
        return Ok(());
    }
    let sql = "INSERT INTO registered_model_aliases (model, alias, version) VALUES ($1, $2, $3) \
               ON CONFLICT (model, alias) DO UPDATE SET version = excluded.version";
    sqlx::query(sql).bind(model).bind(alias).bind(version).execute(&mut *connection).await?;
    let sql = "INSERT INTO alias_history (model, alias, number, bundle, changed_at) \
               SELECT v.model, CAST($1 AS TEXT), v.number, v.bundle, CAST($2 AS BIGINT) FROM model_versions v \
               WHERE v.id = $3 AND NOT EXISTS (SELECT 1 FROM alias_history h WHERE h.number = v.number AND h.id = \
               (SELECT MAX(o.id) FROM alias_history o WHERE o.model = v.model AND o.alias = $1))";
    sqlx::query(sql).bind(alias).bind(now_ms()).bind(version).execute(connection).await?;
    Ok(())
}

/// Notes that a version which will be deleted takes its names with it.
pub(super) async fn note_deletion(connection: &mut AnyConnection, version: i64) -> Result<(), TrackError> {
    let sql = "INSERT INTO alias_history (model, alias, number, bundle, changed_at) \
               SELECT model, alias, CAST(NULL AS BIGINT), '', CAST($1 AS BIGINT) FROM registered_model_aliases \
               WHERE version = $2 ORDER BY alias";
    sqlx::query(sql).bind(now_ms()).bind(version).execute(connection).await?;
    Ok(())
}
