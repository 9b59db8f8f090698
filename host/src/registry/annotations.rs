//! Tags of models and versions, and the aliases of versions.

use sqlx::Row as _;

use super::Registry;
use super::entities::ModelVersion;
use super::model_versions::{version_key, write_version_tags};
use super::names::{
    check_alias, check_model_name, check_new_alias, check_tag, is_latest, parse_number, required,
};
use super::registered_models::{model_key, write_model_tags};
use crate::track::names::check_key;
use crate::track::{Pair, TrackError};

impl Registry {
    /// Sets a tag of a model.
    pub async fn set_model_tag(&self, name: String, tag: Pair) -> Result<(), TrackError> {
        check_model_name("name", &name)?;
        check_tag(&tag)?;
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    let model = model_key(connection, &name).await?;
                    write_model_tags(connection, model, &[tag]).await
                })
            })
            .await
    }

    /// Removes a tag of a model; one that is not there is no failure.
    pub async fn delete_model_tag(&self, name: String, key: String) -> Result<(), TrackError> {
        check_model_name("name", &name)?;
        check_key("key", &key)?;
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    let model = model_key(connection, &name).await?;
                    sqlx::query("DELETE FROM registered_model_tags WHERE model = $1 AND key = $2")
                        .bind(model)
                        .bind(key.as_str())
                        .execute(connection)
                        .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Sets a tag of a version.
    pub async fn set_version_tag(&self, name: String, number: &str, tag: Pair) -> Result<(), TrackError> {
        check_model_name("name", &name)?;
        let number = parse_number(number)?;
        check_tag(&tag)?;
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    let (_, version) = version_key(connection, &name, number).await?;
                    write_version_tags(connection, version, &[tag]).await
                })
            })
            .await
    }

    /// Removes a tag of a version; one that is not there is no failure.
    pub async fn delete_version_tag(
        &self,
        name: String,
        number: &str,
        key: String,
    ) -> Result<(), TrackError> {
        check_model_name("name", &name)?;
        let number = parse_number(number)?;
        check_key("key", &key)?;
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    let (_, version) = version_key(connection, &name, number).await?;
                    sqlx::query("DELETE FROM model_version_tags WHERE version = $1 AND key = $2")
                        .bind(version)
                        .bind(key.as_str())
                        .execute(connection)
                        .await?;
                    Ok(())
                })
            })
            .await
    }

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
                    let sql = "INSERT INTO registered_model_aliases (model, alias, version) VALUES ($1, $2, $3) \
                               ON CONFLICT (model, alias) DO UPDATE SET version = excluded.version";
                    sqlx::query(sql)
                        .bind(model)
                        .bind(alias.as_str())
                        .bind(version)
                        .execute(connection)
                        .await?;
                    Ok(())
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
                    let gone =
                        sqlx::query("DELETE FROM registered_model_aliases WHERE model = $1 AND alias = $2")
                            .bind(model)
                            .bind(alias.as_str())
                            .execute(connection)
                            .await?;
                    Ok(gone.rows_affected() > 0)
                })
            })
            .await
    }

    /// The version that has a name; `latest` is the newest.
    pub async fn version_by_alias(&self, name: &str, alias: &str) -> Result<ModelVersion, TrackError> {
        check_model_name("name", name)?;
        check_alias(alias)?;
        if is_latest(alias) {
            return self.newest_version(name).await;
        }
        let sql = "SELECT v.number FROM registered_models m \
                   LEFT JOIN registered_model_aliases a ON a.model = m.id AND a.alias = $1 \
                   LEFT JOIN model_versions v ON v.id = a.version WHERE m.name = $2";
        let row = sqlx::query(sql).bind(alias).bind(name).fetch_optional(self.database().readers()).await?;
        let row = row.ok_or_else(|| super::registered_models::no_model(name))?;
        match row.try_get::<Option<i64>, _>(0)? {
            Some(number) => self.numbered_version(name, number).await,
            None => Err(TrackError::invalid(format!("Registered model alias {alias} not found."))),
        }
    }
}
