//! Versions that are yanked: they keep their numbers and aliases, and are not the newest.
//!
//! The mark is a tag, not a column: clients of MLflow see and set it, archives carry it, and `host model tag` takes it away.
//! What MLflow calls the latest is still the highest number, for its clients count on that.

#[cfg(test)]
mod tests;

use sqlx::{AnyConnection, AssertSqlSafe, Row as _};

use super::model_versions::version_key;
use super::{ModelVersion, Registry};
use crate::track::TrackError;

/// Tag of a version that is yanked. Its value may say why; only `false` says that it is not.
pub const YANKED_TAG: &str = "host.yanked";

/// The value of the tag where nobody says why, and the one that says that a version is not yanked.
const YANKED: &str = "true";
const NOT_YANKED: &str = "false";

impl ModelVersion {
    /// Whether it is not the newest, whatever its number is.
    pub fn is_yanked(&self) -> bool {
        self.tags.iter().any(|tag| tag.key == YANKED_TAG && tag.value != NOT_YANKED)
    }
}

impl Registry {
    /// The version of the highest number that is not yanked.
    pub(super) async fn newest_version(&self, name: &str) -> Result<ModelVersion, TrackError> {
        let condition = format!("{OF_MODEL} AND {}", newest_not_yanked());
        let found = self.find_versions(&condition, name, None).await?.into_iter().next();
        found.ok_or_else(|| TrackError::missing(format!("Newest version not found for model {name}.")))
    }

    /// The version that has a bundle and would be the newest if all from `number` on were yanked; none where there is none.
    pub async fn newest_below(&self, name: &str, number: i64) -> Result<Option<i64>, TrackError> {
        let condition =
            format!("{OF_MODEL} AND v.number < $2 AND v.bundle <> '' AND {}", newest_not_yanked());
        let found = self.find_versions(&condition, name, Some(number)).await?;
        Ok(found.first().map(|version| version.number))
    }

    /// Makes a version the newest one, if that is still `expected`: those of higher numbers are yanked, and it is not. Gives
    /// whether it did: of two that decided by the same version, the second must decide anew.
    pub async fn make_newest(&self, name: String, expected: i64, number: i64) -> Result<bool, TrackError> {
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    let (model, version) = version_key(connection, &name, number).await?;
                    if newest_number(connection, model).await? != Some(expected) {
                        return Ok(false);
                    }
                    yank_above(connection, model, number).await?;
                    sqlx::query("DELETE FROM model_version_tags WHERE version = $1 AND key = $2")
                        .bind(version)
                        .bind(YANKED_TAG)
                        .execute(connection)
                        .await?;
                    Ok::<_, TrackError>(true)
                })
            })
            .await
    }
}

/// The condition on versions `v` to be of the model whose name is `$1`. By the key of the model alone PostgreSQL knows that the
/// index of numbers has them in order.
const OF_MODEL: &str = "v.model = (SELECT o.id FROM registered_models o WHERE o.name = $1)";

/// The end of a query of versions `v` of one model that finds the newest. Servers ask it every second: it goes down the index
/// of numbers, and looks for the tag of each, until one is not yanked. With `NOT EXISTS` PostgreSQL would join, and read the
/// tags of all versions.
fn newest_not_yanked() -> String {
    format!(
        "COALESCE((SELECT t.value FROM model_version_tags t WHERE t.version = v.id AND t.key = '{YANKED_TAG}'), \
         '{NOT_YANKED}') = '{NOT_YANKED}' ORDER BY v.number DESC LIMIT 1"
    )
}

async fn newest_number(connection: &mut AnyConnection, model: i64) -> Result<Option<i64>, TrackError> {
    let sql = format!("SELECT v.number FROM model_versions v WHERE v.model = $1 AND {}", newest_not_yanked());
    let row = sqlx::query(AssertSqlSafe(sql)).bind(model).fetch_optional(connection).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

/// Yanks the versions of higher numbers; those that are keep the value that says why.
async fn yank_above(connection: &mut AnyConnection, model: i64, number: i64) -> Result<(), TrackError> {
    let sql = format!(
        "INSERT INTO model_version_tags (version, key, value) \
         SELECT v.id, '{YANKED_TAG}', '{YANKED}' FROM model_versions v WHERE v.model = $1 AND v.number > $2 \
         ON CONFLICT (version, key) DO UPDATE SET value = excluded.value \
         WHERE model_version_tags.value = '{NOT_YANKED}'"
    );
    sqlx::query(AssertSqlSafe(sql)).bind(model).bind(number).execute(connection).await?;
    Ok(())
}
