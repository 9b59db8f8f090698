use std::collections::HashMap;

use sqlx::{AnyConnection, Row as _};

use super::Registry;
use super::entities::{
    MODEL_COLUMNS, ModelAlias, RegisteredModel, VERSION_COLUMNS, model_version, registered_model,
};
use super::names::{check_description, check_model_name, checked_tags};
use crate::track::rows::{self, pieces, placeholders};
use crate::track::{ErrorCode, Pair, TrackError, now_ms};

impl Registry {
    /// Makes a model without versions.
    pub async fn create_model(
        &self,
        name: String,
        description: String,
        tags: Vec<Pair>,
    ) -> Result<RegisteredModel, TrackError> {
        check_model_name("name", &name)?;
        check_description(&description)?;
        let tags = checked_tags(tags)?;
        let created = name.clone();
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    let model = insert_model(connection, &name, &description).await?;
                    let model = model.ok_or_else(|| model_exists(&name))?;
                    write_model_tags(connection, model, &tags).await
                })
            })
            .await?;
        self.model(&created).await
    }

    /// The model of a name.
    pub async fn model(&self, name: &str) -> Result<RegisteredModel, TrackError> {
        check_model_name("name", name)?;
        let sql = format!("SELECT {MODEL_COLUMNS} FROM registered_models m WHERE m.name = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(name);
        let row = row.fetch_optional(self.database().readers()).await?.ok_or_else(|| no_model(name))?;
        let models = self.with_model_details(vec![registered_model(&row)?]).await?;
        models.into_iter().next().ok_or_else(|| no_model(name))
    }

    /// Gives a model another name; its versions keep everything.
    pub async fn rename_model(&self, name: String, new_name: String) -> Result<RegisteredModel, TrackError> {
        check_model_name("name", &name)?;
        check_model_name("new_name", &new_name)?;
        let renamed = new_name.clone();
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    let model = model_key(connection, &name).await?;
                    let now = now_ms();
                    let other = sqlx::query("SELECT id FROM registered_models WHERE name = $1 AND id <> $2")
                        .bind(new_name.as_str())
                        .bind(model)
                        .fetch_optional(&mut *connection)
                        .await?;
                    if other.is_some() {
                        return Err(model_exists(&new_name));
                    }
                    sqlx::query("UPDATE registered_models SET name = $1, updated_at = $2 WHERE id = $3")
                        .bind(new_name.as_str())
                        .bind(now)
                        .bind(model)
                        .execute(&mut *connection)
                        .await?;
                    sqlx::query("UPDATE model_versions SET updated_at = $1 WHERE model = $2")
                        .bind(now)
                        .bind(model)
                        .execute(connection)
                        .await?;
                    Ok(())
                })
            })
            .await?;
        self.model(&renamed).await
    }

    /// Describes a model.
    pub async fn describe_model(
        &self,
        name: String,
        description: String,
    ) -> Result<RegisteredModel, TrackError> {
        check_model_name("name", &name)?;
        check_description(&description)?;
        let described = name.clone();
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    let model = model_key(connection, &name).await?;
                    sqlx::query(
                        "UPDATE registered_models SET description = $1, updated_at = $2 WHERE id = $3",
                    )
                    .bind(description.as_str())
                    .bind(now_ms())
                    .bind(model)
                    .execute(connection)
                    .await?;
                    Ok::<_, TrackError>(())
                })
            })
            .await?;
        self.model(&described).await
    }

    /// Forgets a model with its versions, tags, aliases and their history. Bundles and artifacts stay.
    pub async fn delete_model(&self, name: String) -> Result<(), TrackError> {
        check_model_name("name", &name)?;
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    let model = model_key(connection, &name).await?;
                    // What refers to it goes with it, by the schema.
                    sqlx::query("DELETE FROM registered_models WHERE id = $1")
                        .bind(model)
                        .execute(connection)
                        .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Puts to models their tags, aliases and newest versions.
    pub(super) async fn with_model_details(
        &self,
        mut found: Vec<(i64, RegisteredModel)>,
    ) -> Result<Vec<RegisteredModel>, TrackError> {
        let ids: Vec<i64> = found.iter().map(|(id, _)| *id).collect();
        let mut places: HashMap<i64, &mut RegisteredModel> =
            found.iter_mut().map(|(id, model)| (*id, model)).collect();
        for piece in pieces(&ids) {
            let inside = placeholders(1, piece.len());
            let select = |sql: String| {
                let query = sqlx::query(sqlx::AssertSqlSafe(sql));
                piece.iter().fold(query, |query, id| query.bind(*id)).fetch_all(self.database().readers())
            };
            let sql = format!(
                "SELECT model, key, value FROM registered_model_tags WHERE model IN ({inside}) ORDER BY model, key"
            );
            for row in select(sql).await? {
                let (id, pair) = rows::pair(&row)?;
                places.entry(id).and_modify(|model| model.tags.push(pair));
            }
            let sql = format!(
                "SELECT a.model, a.alias, v.number FROM registered_model_aliases a \
                 JOIN model_versions v ON v.id = a.version WHERE a.model IN ({inside}) ORDER BY a.model, a.alias"
            );
            for row in select(sql).await? {
                let alias = ModelAlias { alias: row.try_get(1)?, number: row.try_get(2)? };
                places.entry(row.try_get(0)?).and_modify(|model| model.aliases.push(alias));
            }
            let sql = format!(
                "SELECT {VERSION_COLUMNS} FROM model_versions v JOIN registered_models m ON m.id = v.model \
                 JOIN (SELECT model, MAX(number) AS number FROM model_versions WHERE model IN ({inside}) \
                 GROUP BY model, stage) newest ON newest.model = v.model AND newest.number = v.number \
                 ORDER BY v.number"
            );
            let rows = select(sql).await?;
            let newest = rows.iter().map(model_version).collect::<Result<Vec<_>, _>>()?;
            let newest = self.with_version_details(newest).await?;
            let by_name: HashMap<String, i64> =
                places.iter().map(|(id, model)| (model.name.clone(), *id)).collect();
            for version in newest {
                let Some(id) = by_name.get(&version.name) else { continue };
                places.entry(*id).and_modify(|model| model.latest_versions.push(version));
            }
        }
        Ok(found.into_iter().map(|(_, model)| model).collect())
    }
}

/// Makes a model; none if the name is taken.
pub(super) async fn insert_model(
    connection: &mut AnyConnection,
    name: &str,
    description: &str,
) -> Result<Option<i64>, TrackError> {
    let sql = "INSERT INTO registered_models (name, description, last_number, created_at, updated_at) \
               VALUES ($1, $2, 0, $3, $3) ON CONFLICT (name) DO NOTHING RETURNING id";
    let row = sqlx::query(sql).bind(name).bind(description).bind(now_ms()).fetch_optional(connection).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

/// The key of a model.
pub(super) async fn model_key(connection: &mut AnyConnection, name: &str) -> Result<i64, TrackError> {
    let row = sqlx::query("SELECT id FROM registered_models WHERE name = $1").bind(name);
    let row = row.fetch_optional(connection).await?;
    Ok(row.ok_or_else(|| no_model(name))?.try_get(0)?)
}

pub(super) async fn write_model_tags(
    connection: &mut AnyConnection,
    model: i64,
    tags: &[Pair],
) -> Result<(), TrackError> {
    for tag in tags {
        let sql = "INSERT INTO registered_model_tags (model, key, value) VALUES ($1, $2, $3) \
                   ON CONFLICT (model, key) DO UPDATE SET value = excluded.value";
        sqlx::query(sql)
            .bind(model)
            .bind(tag.key.as_str())
            .bind(tag.value.as_str())
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

pub(super) fn no_model(name: &str) -> TrackError {
    let name: String = name.chars().take(300).collect();
    TrackError::missing(format!("Registered Model with name={name} not found"))
}

fn model_exists(name: &str) -> TrackError {
    TrackError::new(
        ErrorCode::ResourceAlreadyExists,
        format!("Registered Model (name={name}) already exists."),
    )
}
