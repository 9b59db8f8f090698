//! Digests that tracking names: those of artifacts, and those that people note in tags and parameters.

use std::collections::{BTreeMap, HashSet};

use sqlx::Row as _;

use super::{Expired, TrackError, Tracker};
use crate::domain::Digest;

/// Artifacts that are read at once.
const PAGE_ROWS: i64 = 10_000;

/// How digests begin, as a pattern.
const DIGESTS: &str = "sha256:%";

/// Tag of a run whose value is the digest of the bundle that it made.
pub const BUNDLE_TAG: &str = "host.bundle";

/// Digests that tracking names.
#[derive(Debug, Default)]
pub struct NamedDigests {
    /// Of artifacts, tags and parameters.
    pub blobs: HashSet<Digest>,
    /// Of bundles, by the runs that say to have made them. Anybody can set a tag, so it may be none.
    pub bundles: BTreeMap<Digest, String>,
    /// Of dataset versions that runs say to have read; may be none as well.
    pub datasets: HashSet<Digest>,
}

impl Tracker {
    /// Every digest that is named, as if what has `expired` were gone.
    pub async fn named_digests(&self, expired: &Expired) -> Result<NamedDigests, TrackError> {
        let mut named = NamedDigests::default();
        self.add_artifacts(expired, &mut named).await?;
        self.add_values(expired, &mut named).await?;
        self.add_inputs(expired, &mut named).await?;
        Ok(named)
    }

    async fn add_artifacts(&self, expired: &Expired, named: &mut NamedDigests) -> Result<(), TrackError> {
        let folders = expired.artifact_folders();
        let goes = |path: &str| {
            path.match_indices('/').any(|(end, _)| folders.contains(path.get(..end).unwrap_or(path)))
        };
        let mut last = String::new();
        loop {
            // A page after the other: nothing that is named later is missed, because its blob was put later too.
            let sql = "SELECT path, digest FROM artifacts WHERE path > $1 ORDER BY path LIMIT $2";
            let query = sqlx::query(sql).bind(last.as_str()).bind(PAGE_ROWS);
            let rows = query.fetch_all(self.database.readers()).await?;
            for row in &rows {
                let path: String = row.try_get(0)?;
                if !goes(&path) {
                    let digest: &str = row.try_get(1)?;
                    named.blobs.insert(digest.parse().map_err(|error| odd(&path, error))?);
                }
                last = path;
            }
            if (rows.len() as i64) < PAGE_ROWS {
                return Ok(());
            }
        }
    }

    /// Tags and parameters of which the whole value is a digest.
    async fn add_values(&self, expired: &Expired, named: &mut NamedDigests) -> Result<(), TrackError> {
        let gone = expired.run_ids();
        for table in ["run_tags", "run_params"] {
            let sql = format!(
                "SELECT r.run_id, t.key, t.value FROM {table} t JOIN runs r ON r.id = t.run WHERE t.value LIKE $1"
            );
            let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(DIGESTS);
            for row in query.fetch_all(self.database.readers()).await? {
                let (run_id, key, value): (String, &str, &str) =
                    (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                let Ok(digest) = value.parse() else { continue };
                if gone.contains(run_id.as_str()) {
                    continue;
                }
                named.blobs.insert(digest);
                if key == BUNDLE_TAG {
                    named.bundles.insert(digest, run_id);
                }
            }
        }
        for table in ["experiment_tags", "logged_model_tags", "logged_model_params"] {
            let sql = format!("SELECT value FROM {table} WHERE value LIKE $1");
            let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(DIGESTS);
            for row in query.fetch_all(self.database.readers()).await? {
                named.blobs.extend(row.try_get::<&str, _>(0)?.parse::<Digest>());
            }
        }
        Ok(())
    }

    /// Dataset versions that runs read, which have `name@digest` as their source.
    async fn add_inputs(&self, expired: &Expired, named: &mut NamedDigests) -> Result<(), TrackError> {
        let gone = expired.run_ids();
        let sql = "SELECT r.run_id, d.source FROM input_datasets d JOIN run_inputs i ON i.dataset = d.id \
                   JOIN runs r ON r.id = i.run WHERE d.source_type = 'host'";
        for row in sqlx::query(sql).fetch_all(self.database.readers()).await? {
            let (run_id, source): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
            if let (false, Some((_, digest))) = (gone.contains(run_id), source.rsplit_once('@')) {
                named.datasets.extend(digest.parse::<Digest>());
            }
        }
        Ok(())
    }
}

fn odd(path: &str, error: impl std::fmt::Display) -> TrackError {
    TrackError::internal(format!("artifact `{path}` cannot be read: {error}"))
}
