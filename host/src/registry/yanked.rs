//! Versions that are yanked: they keep their numbers and aliases, and are not the newest.
//!
//! The mark is a tag, not a column: clients of MLflow see and set it, archives carry it, and `host model tag` takes it away.
//! What MLflow calls the latest is still the highest number, for its clients count on that.

#[cfg(test)]
mod tests;

use sqlx::{AnyConnection, AssertSqlSafe, Row as _};

use super::model_versions::version_key;
use super::names::check_tag;
use super::{ModelVersion, Registry};
use crate::track::{Pair, TrackError};

/// Tag of a version that is yanked. Its value may say why; only `false`, in any case, says that it is not.
pub const YANKED_TAG: &str = "host.yanked";

/// The value that says that a version is not yanked. MLflow's client for Python writes it `False`.
const NOT_YANKED: &str = "false";

impl ModelVersion {
    /// Whether it is not the newest, whatever its number is.
    pub fn is_yanked(&self) -> bool {
        self.yanked_because().is_some()
    }

    /// The value of the tag by which it is yanked; none where it is not.
    pub fn yanked_because(&self) -> Option<&str> {
        let tag = self.tags.iter().find(|tag| tag.key == YANKED_TAG)?;
        (!tag.value.eq_ignore_ascii_case(NOT_YANKED)).then_some(tag.value.as_str())
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

    /// Makes a version the newest one, if that is still `expected`: those of higher numbers are yanked, `why` says for what
    /// reason. Gives whether it did: of two that decided by the same version, the second must decide anew. Nor does it where
    /// the version is yanked itself: somebody may have said why, so that the mark is theirs to take away.
    pub async fn make_newest(
        &self,
        name: String,
        expected: i64,
        number: i64,
        why: String,
    ) -> Result<bool, TrackError> {
        let tag = Pair { key: YANKED_TAG.to_owned(), value: why };
        check_tag(&tag)?;
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    let (model, _) = version_key(connection, &name, number).await?;
                    let is_expected = newest_number(connection, model, i64::MAX).await? == Some(expected);
                    if !is_expected || newest_number(connection, model, number).await? != Some(number) {
                        return Ok(false);
                    }
                    yank_above(connection, model, number, &tag).await?;
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
        "COALESCE((SELECT LOWER(t.value) FROM model_version_tags t WHERE t.version = v.id AND t.key = \
         '{YANKED_TAG}'), '{NOT_YANKED}') = '{NOT_YANKED}' ORDER BY v.number DESC LIMIT 1"
    )
}

/// The highest number that is not yanked, of those up to `highest`.
async fn newest_number(
    connection: &mut AnyConnection,
    model: i64,
    highest: i64,
) -> Result<Option<i64>, TrackError> {
    let sql = format!(
        "SELECT v.number FROM model_versions v WHERE v.model = $1 AND v.number <= $2 AND {}",
        newest_not_yanked()
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(model).bind(highest);
    let row = query.fetch_optional(connection).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

/// Yanks the versions of higher numbers; those that are keep the value that says why.
async fn yank_above(
    connection: &mut AnyConnection,
    model: i64,
    number: i64,
    tag: &Pair,
) -> Result<(), TrackError> {
    let sql = format!(
        "INSERT INTO model_version_tags (version, key, value) \
         SELECT v.id, CAST($1 AS TEXT), CAST($2 AS TEXT) FROM model_versions v \
         WHERE v.model = $3 AND v.number > $4 \
         ON CONFLICT (version, key) DO UPDATE SET value = excluded.value \
         WHERE LOWER(model_version_tags.value) = '{NOT_YANKED}'"
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(tag.key.as_str()).bind(tag.value.as_str());
    query.bind(model).bind(number).execute(connection).await?;
    Ok(())
}
