//! Tags of models and versions.

use super::Registry;
use super::model_versions::{version_key, write_version_tags};
use super::names::{check_model_name, check_tag, parse_number};
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
}
