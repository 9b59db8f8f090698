//! Removes for good what was deleted long ago: experiments, runs and logged models with their artifacts and points.
//!
//! What is deleted can be restored until then, so each removal looks again whether it is still deleted.

use std::collections::HashSet;

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::artifacts::{below, path_of_location};
use super::{ArtifactPath, TrackError, Tracker};

/// Removals of one transaction: others who write wait for it.
const REMOVED_AT_ONCE: usize = 100;

/// Points that are removed at once.
const POINTS_AT_ONCE: i64 = 50_000;

/// Series without a run that are looked for at once.
const SERIES_AT_ONCE: i64 = 1_000;

/// The experiment that clients mean who name none.
const DEFAULT_EXPERIMENT: i64 = 0;

/// Files that somebody else relies on, whatever was deleted.
#[derive(Debug, Clone, Default)]
pub struct NeededFiles {
    /// Ids of runs.
    pub runs: HashSet<String>,
    /// Ids of logged models.
    pub logged_models: HashSet<String>,
    /// Folders and files among the artifacts.
    pub artifacts: Vec<ArtifactPath>,
}

/// What was deleted so long ago that it can go for good.
#[derive(Debug, Clone, Default)]
pub struct Expired {
    /// Runs and logged models.
    runs: Vec<ExpiredItem>,
    models: Vec<ExpiredItem>,
    experiments: Vec<i64>,
    /// Runs and logged models that would go too, if others did not rely on their files.
    needed: usize,
    before_ms: i64,
}

/// How many of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct ExpiredCounts {
    /// Experiments.
    pub experiments: usize,
    /// Runs.
    pub runs: usize,
    /// Logged models.
    pub logged_models: usize,
}

#[derive(Debug, Clone)]
struct ExpiredItem {
    key: i64,
    id: String,
    experiment: i64,
    artifacts: ArtifactPath,
}

impl NeededFiles {
    fn include(&self, ids: &HashSet<String>, item: &ExpiredItem) -> bool {
        ids.contains(&item.id) || self.artifacts.iter().any(|path| overlap(path, &item.artifacts))
    }
}

/// Whether one of two paths is the other or below it.
fn overlap(one: &ArtifactPath, other: &ArtifactPath) -> bool {
    let is_below = |path: &str, folder: &str| {
        path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    is_below(one.as_str(), other.as_str()) || is_below(other.as_str(), one.as_str())
}

impl Expired {
    /// How many of each kind.
    pub fn counts(&self) -> ExpiredCounts {
        ExpiredCounts {
            experiments: self.experiments.len(),
            runs: self.runs.len(),
            logged_models: self.models.len(),
        }
    }

    /// Runs and logged models that stay because others rely on their files.
    pub fn needed(&self) -> usize {
        self.needed
    }

    /// Ids of the runs.
    pub fn run_ids(&self) -> HashSet<&str> {
        self.runs.iter().map(|run| run.id.as_str()).collect()
    }

    /// Folders of the artifacts that go too.
    pub fn artifact_folders(&self) -> HashSet<&str> {
        self.runs.iter().chain(&self.models).map(|item| item.artifacts.as_str()).collect()
    }
}

impl Tracker {
    /// What was deleted before `before_ms`, in milliseconds since 1970, and is not needed by others. The experiment that
    /// is meant where none is named never goes.
    pub async fn expired(&self, before_ms: i64, needed: &NeededFiles) -> Result<Expired, TrackError> {
        let sql = "SELECT id, run_id, experiment, artifact_uri FROM runs WHERE deleted_at <= $1 ORDER BY id";
        let all_runs = self.expired_items(sql, before_ms).await?;
        let sql = "SELECT m.id, m.model_id, m.experiment, m.artifact_uri FROM logged_models m \
                   JOIN experiments e ON e.id = m.experiment \
                   WHERE m.deleted_at <= $1 OR e.deleted_at <= $1 ORDER BY m.id";
        let all_models = self.expired_items(sql, before_ms).await?;
        let all = all_runs.len() + all_models.len();
        let keep = |items: Vec<ExpiredItem>, ids: &HashSet<String>| -> Vec<ExpiredItem> {
            items.into_iter().filter(|item| !needed.include(ids, item)).collect()
        };
        let (runs, models) = (keep(all_runs, &needed.runs), keep(all_models, &needed.logged_models));
        let needed = all - runs.len() - models.len();
        let mut expired = Expired { runs, models, experiments: Vec::new(), needed, before_ms };
        let sql = "SELECT e.id, (SELECT COUNT(*) FROM runs r WHERE r.experiment = e.id), \
                   (SELECT COUNT(*) FROM logged_models m WHERE m.experiment = e.id) \
                   FROM experiments e WHERE e.deleted_at <= $1 AND e.id <> $2 ORDER BY e.id";
        let query = sqlx::query(sql).bind(before_ms).bind(DEFAULT_EXPERIMENT);
        for row in query.fetch_all(self.database.readers()).await? {
            let (id, runs, models): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let of = |items: &[ExpiredItem]| items.iter().filter(|item| item.experiment == id).count() as i64;
            // One that keeps something stays with it.
            if of(&expired.runs) == runs && of(&expired.models) == models {
                expired.experiments.push(id);
            }
        }
        Ok(expired)
    }

    async fn expired_items(&self, sql: &'static str, before_ms: i64) -> Result<Vec<ExpiredItem>, TrackError> {
        let item = |row: &AnyRow| -> Result<_, TrackError> {
            let location: String = row.try_get(3)?;
            Ok(ExpiredItem {
                key: row.try_get(0)?,
                id: row.try_get(1)?,
                experiment: row.try_get(2)?,
                artifacts: path_of_location(&location)?,
            })
        };
        let rows = sqlx::query(sql).bind(before_ms).fetch_all(self.database.readers()).await?;
        rows.iter().map(item).collect()
    }

    /// Removes what has expired, for good. What was restored meanwhile stays; gives what was removed.
    pub async fn purge(&self, expired: &Expired) -> Result<ExpiredCounts, TrackError> {
        let still_deleted = "DELETE FROM runs WHERE id = $1 AND deleted_at <= $2";
        let runs = self.purge_items(&expired.runs, still_deleted, expired.before_ms).await?;
        let still_deleted = "DELETE FROM logged_models WHERE id = $1 AND (deleted_at <= $2 OR EXISTS \
                             (SELECT 1 FROM experiments e WHERE e.id = experiment AND e.deleted_at <= $2))";
        let logged_models = self.purge_items(&expired.models, still_deleted, expired.before_ms).await?;
        let mut experiments = 0;
        for &id in &expired.experiments {
            let before_ms = expired.before_ms;
            let removed = self
                .database
                .write(move |connection| Box::pin(purge_experiment(connection, id, before_ms)))
                .await?;
            experiments += usize::from(removed);
        }
        self.purge_points().await?;
        Ok(ExpiredCounts { experiments, runs, logged_models })
    }

    /// Removes the rows of `items` by `sql`, which takes a key and a time, and the artifacts of those that it removed.
    async fn purge_items(
        &self,
        items: &[ExpiredItem],
        sql: &'static str,
        before_ms: i64,
    ) -> Result<usize, TrackError> {
        let mut removed = 0;
        for piece in items.chunks(REMOVED_AT_ONCE) {
            let piece = piece.to_vec();
            removed += self
                .database
                .write(move |connection| {
                    Box::pin(async move {
                        let mut removed = 0;
                        for item in &piece {
                            let query = sqlx::query(sql).bind(item.key).bind(before_ms);
                            if query.execute(&mut *connection).await?.rows_affected() == 0 {
                                continue;
                            }
                            removed += 1;
                            let (from, to) = below(item.artifacts.as_str());
                            sqlx::query("DELETE FROM artifacts WHERE path >= $1 AND path < $2")
                                .bind(from)
                                .bind(to)
                                .execute(&mut *connection)
                                .await?;
                        }
                        Ok::<_, TrackError>(removed)
                    })
                })
                .await?;
        }
        Ok(removed)
    }

    /// Removes the points of series that are no more, those of runs removed before included. In small steps, since a
    /// run may have millions; one that is interrupted is gone on with the next time.
    async fn purge_points(&self) -> Result<(), TrackError> {
        // Jumps from series to series by the index, however many points each has.
        let sql = "WITH RECURSIVE found (id) AS (SELECT MIN(series) FROM points WHERE series > $1 \
                   UNION ALL SELECT (SELECT MIN(series) FROM points WHERE series > found.id) FROM found \
                   WHERE found.id IS NOT NULL) \
                   SELECT found.id FROM found WHERE found.id IS NOT NULL \
                   AND NOT EXISTS (SELECT 1 FROM series WHERE series.id = found.id) LIMIT $2";
        let mut last = -1_i64;
        loop {
            let query = sqlx::query(sql).bind(last).bind(SERIES_AT_ONCE);
            let rows = query.fetch_all(self.database.readers()).await?;
            if rows.is_empty() {
                return Ok(());
            }
            for row in rows {
                last = row.try_get(0)?;
                while self.purge_points_of(last).await? {}
            }
        }
    }

    /// Removes some points of a series; says whether there are more.
    async fn purge_points_of(&self, series: i64) -> Result<bool, TrackError> {
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let sql = "SELECT step, timestamp, bits FROM points WHERE series = $1 \
                               ORDER BY step, timestamp, bits LIMIT 1 OFFSET $2";
                    let query = sqlx::query(sql).bind(series).bind(POINTS_AT_ONCE);
                    let Some(next) = query.fetch_optional(&mut *connection).await? else {
                        let query = sqlx::query("DELETE FROM points WHERE series = $1").bind(series);
                        query.execute(connection).await?;
                        return Ok(false);
                    };
                    let (step, timestamp, bits): (i64, i64, i64) =
                        (next.try_get(0)?, next.try_get(1)?, next.try_get(2)?);
                    let sql =
                        "DELETE FROM points WHERE series = $1 AND (step, timestamp, bits) < ($2, $3, $4)";
                    let query = sqlx::query(sql).bind(series).bind(step).bind(timestamp).bind(bits);
                    query.execute(connection).await?;
                    Ok::<_, TrackError>(true)
                })
            })
            .await
    }
}

/// Removes an experiment that is still deleted and holds nothing any more; says whether it did.
async fn purge_experiment(
    connection: &mut AnyConnection,
    id: i64,
    before_ms: i64,
) -> Result<bool, TrackError> {
    let sql = "DELETE FROM experiments WHERE id = $1 AND deleted_at <= $2 \
               AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.experiment = $1) \
               AND NOT EXISTS (SELECT 1 FROM logged_models m WHERE m.experiment = $1)";
    let query = sqlx::query(sql).bind(id).bind(before_ms);
    Ok(query.execute(connection).await?.rows_affected() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Database, DatabaseUrl, Store};
    use crate::track::{Lifecycle, Metric, NewRun, now_ms};

    async fn points(tracker: &Tracker) -> i64 {
        let count = sqlx::query("SELECT COUNT(*) FROM points").fetch_one(tracker.database.readers());
        count.await.unwrap().try_get(0).unwrap()
    }

    #[tokio::test]
    async fn a_run_goes_with_all_of_its_points_unless_it_was_restored() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let database = Database::open(&DatabaseUrl::default(), store.folder()).await.unwrap();
        let tracker = Tracker::new(database, store);
        let start = async || tracker.create_run(NewRun::default()).await.unwrap().info.run_id;
        let (live, deleted) = (start().await, start().await);
        // More than are removed at once.
        for batch in 0..POINTS_AT_ONCE / 1_000 + 1 {
            let metrics = (0..1_000).map(|step| Metric::new("m", 0.5, 1, batch * 1_000 + step)).collect();
            tracker.log_batch(deleted.clone(), metrics, Vec::new(), Vec::new()).await.unwrap();
        }
        let metrics = vec![Metric::new("m", 0.5, 1, 1)];
        tracker.log_batch(live.clone(), metrics, Vec::new(), Vec::new()).await.unwrap();
        let set = async |wanted| tracker.set_run_lifecycle(deleted.clone(), wanted).await.unwrap();
        set(Lifecycle::Deleted).await;
        let expired = tracker.expired(now_ms(), &NeededFiles::default()).await.unwrap();
        assert_eq!(expired.counts().runs, 1);
        set(Lifecycle::Active).await;
        assert_eq!(tracker.purge(&expired).await.unwrap(), ExpiredCounts::default());
        assert_eq!(points(&tracker).await, POINTS_AT_ONCE + 1_001);
        set(Lifecycle::Deleted).await;
        let expired = tracker.expired(now_ms(), &NeededFiles::default()).await.unwrap();
        assert_eq!(tracker.purge(&expired).await.unwrap(), expired.counts());
        assert_eq!(points(&tracker).await, 1);
        tracker.run(&live).await.unwrap();
    }

    #[test]
    fn paths_overlap_by_whole_parts() {
        let path = |text: &str| ArtifactPath::parse(text).unwrap();
        for (one, other, expected) in [
            ("0/a/artifacts", "0/a/artifacts", true),
            ("0/a/artifacts/model", "0/a/artifacts", true),
            ("0", "0/a/artifacts", true),
            ("0/a/artifacts2", "0/a/artifacts", false),
            ("0/b", "0/a/artifacts", false),
        ] {
            assert_eq!(overlap(&path(one), &path(other)), expected, "{one} {other}");
            assert_eq!(overlap(&path(other), &path(one)), expected, "{other} {one}");
        }
    }
}
