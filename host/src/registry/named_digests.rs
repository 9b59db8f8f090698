//! What versions of models name: bundles, and files of runs and logged models.

use std::collections::HashSet;

use sqlx::Row as _;

use super::Registry;
use crate::domain::Digest;
use crate::track::artifacts::path_of_location;
use crate::track::{ArtifactPath, NeededFiles, TrackError};

/// A bundle, and the version that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedBundle {
    /// `name@number`.
    pub version: String,
    /// The bundle.
    pub bundle: Digest,
}

impl Registry {
    /// The bundles that versions hold.
    pub async fn named_bundles(&self) -> Result<Vec<NamedBundle>, TrackError> {
        let sql = "SELECT m.name, v.number, v.bundle FROM model_versions v \
                   JOIN registered_models m ON m.id = v.model WHERE v.bundle <> ''";
        let mut bundles = Vec::new();
        for row in sqlx::query(sql).fetch_all(self.database().readers()).await? {
            let (name, number, bundle): (&str, i64, &str) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let version = format!("{name}@{number}");
            let odd =
                |error| TrackError::internal(format!("the bundle of `{version}` cannot be read: {error}"));
            let bundle = bundle.parse().map_err(odd)?;
            bundles.push(NamedBundle { version, bundle });
        }
        Ok(bundles)
    }

    /// Digests that people note in tags of models and versions.
    pub async fn noted_digests(&self) -> Result<HashSet<Digest>, TrackError> {
        let mut digests = HashSet::new();
        for table in ["registered_model_tags", "model_version_tags"] {
            let sql = format!("SELECT value FROM {table} WHERE value LIKE 'sha256:%'");
            let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(self.database().readers()).await?;
            for row in rows {
                digests.extend(row.try_get::<&str, _>(0)?.parse::<Digest>());
            }
        }
        Ok(digests)
    }

    /// The files of runs and logged models that are the files of versions: clients fetch them there.
    pub async fn needed_files(&self) -> Result<NeededFiles, TrackError> {
        let mut needed = NeededFiles::default();
        let sql = "SELECT run_id, model_id, location FROM model_versions";
        for row in sqlx::query(sql).fetch_all(self.database().readers()).await? {
            let (run_id, model_id, location): (String, String, String) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            if let Some(rest) = location.strip_prefix("runs:/") {
                needed.runs.extend(rest.split('/').next().map(str::to_owned));
            }
            needed
                .artifacts
                .extend(path_of_location(&location).ok().filter(|path| *path != ArtifactPath::root()));
            needed.runs.insert(run_id);
            needed.logged_models.insert(model_id);
        }
        Ok(needed)
    }
}
