//! Alerts: that a detector found the window of an endpoint drifted. Rows of the database, the newest for each endpoint.

use serde::Serialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::DataError;
use crate::domain::{Digest, Name};
use crate::plugin::Verdict;
use crate::store::Database;

/// Alerts that are kept for each endpoint: with one every five minutes, those of half a week.
pub const ALERTS_MAX: u32 = 1_000;

/// What a detector found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAlert {
    /// The endpoint.
    pub endpoint: Name,
    /// The bundle that answered the rows.
    pub bundle: Digest,
    /// The detector's name.
    pub detector: String,
    /// The detector's digest.
    pub detector_digest: Digest,
    /// Its worst verdict.
    pub verdict: Verdict,
    /// Scores with that verdict.
    pub drifted: usize,
    /// All scores.
    pub scores: usize,
    /// When this is, in milliseconds since 1970.
    pub now_ms: i64,
}

/// An alert that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alert {
    /// Its number: later ones have higher ones.
    pub id: i64,
    /// The endpoint.
    pub endpoint: String,
    /// The digest of the bundle that answered the rows.
    pub bundle: String,
    /// The detector's name.
    pub detector: String,
    /// The detector's digest.
    pub detector_digest: String,
    /// Its worst verdict.
    pub verdict: String,
    /// Scores with that verdict.
    pub drifted: i64,
    /// All scores.
    pub scores: i64,
    /// When it was found, in milliseconds since 1970.
    pub created_at: i64,
}

/// Alerts by endpoint; clones are cheap and mean the same ones.
#[derive(Debug, Clone)]
pub struct Alerts {
    database: Database,
    pipelines: String,
}

const COLUMNS: &str = "id, endpoint, bundle, detector, detector_digest, verdict, drifted, scores, created_at";

impl Alerts {
    /// The alerts of a database.
    pub fn new(database: Database) -> Self {
        Self { database, pipelines: String::new() }
    }

    /// The same alerts, for a process that pipelines led to: their names with spaces between, which alerts keep.
    pub fn for_pipelines(self, pipelines: String) -> Self {
        Self { pipelines, ..self }
    }

    /// Keeps an alert, and lets go of the endpoint's oldest beyond [`ALERTS_MAX`]; gives its number.
    pub async fn record(&self, alert: NewAlert) -> Result<i64, DataError> {
        let pipelines = self.pipelines.clone();
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let sql = "INSERT INTO alerts (endpoint, bundle, detector, detector_digest, verdict, drifted, \
                               scores, pipelines, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
                               RETURNING id";
                    let row = sqlx::query(sql)
                        .bind(alert.endpoint.as_str())
                        .bind(alert.bundle.to_string())
                        .bind(alert.detector.as_str())
                        .bind(alert.detector_digest.to_string())
                        .bind(alert.verdict.as_str())
                        .bind(alert.drifted as i64)
                        .bind(alert.scores as i64)
                        .bind(pipelines)
                        .bind(alert.now_ms)
                        .fetch_one(&mut *connection)
                        .await?;
                    let sql = "DELETE FROM alerts WHERE endpoint = $1 AND id <= \
                               (SELECT id FROM alerts WHERE endpoint = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)";
                    let query = sqlx::query(sql).bind(alert.endpoint.as_str()).bind(i64::from(ALERTS_MAX));
                    query.execute(connection).await?;
                    Ok::<i64, DataError>(row.try_get(0)?)
                })
            })
            .await
    }

    /// The newest alerts first; of one endpoint, if one is given.
    pub async fn list(&self, endpoint: Option<&Name>, limit: u32) -> Result<Vec<Alert>, DataError> {
        let endpoint = endpoint.map(Name::as_str).unwrap_or_default();
        let sql = format!(
            "SELECT {COLUMNS} FROM alerts WHERE ($1 = '' OR endpoint = $1) ORDER BY id DESC LIMIT $2"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(endpoint).bind(i64::from(limit));
        query.fetch_all(self.database.readers()).await?.iter().map(alert).collect()
    }
}

fn alert(row: &AnyRow) -> Result<Alert, DataError> {
    Ok(Alert {
        id: row.try_get(0)?,
        endpoint: row.try_get(1)?,
        bundle: row.try_get(2)?,
        detector: row.try_get(3)?,
        detector_digest: row.try_get(4)?,
        verdict: row.try_get(5)?,
        drifted: row.try_get(6)?,
        scores: row.try_get(7)?,
        created_at: row.try_get(8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::DatabaseUrl;

    fn found(endpoint: &str, now_ms: i64) -> NewAlert {
        NewAlert {
            endpoint: endpoint.parse().unwrap(),
            bundle: Digest::of(b"bundle"),
            detector: "psi".to_owned(),
            detector_digest: Digest::of(b"psi"),
            verdict: Verdict::Drifted,
            drifted: 2,
            scores: 5,
            now_ms,
        }
    }

    #[tokio::test]
    async fn the_newest_of_each_endpoint_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&DatabaseUrl::default(), folder.path()).await.unwrap();
        let alerts = Alerts::new(database);
        alerts.record(found("quiet", 1)).await.unwrap();
        let most = i64::from(ALERTS_MAX);
        // All at once, so that few syncs serve them.
        let recorded = (0..most + 3).map(|now_ms| alerts.record(found("busy", now_ms)));
        futures_util::future::try_join_all(recorded).await.unwrap();
        let busy = alerts.list(Some(&"busy".parse().unwrap()), u32::MAX).await.unwrap();
        assert_eq!(busy.len(), ALERTS_MAX as usize);
        // One after the other, up to the last.
        assert_eq!(busy[0].id, 1 + most + 3);
        assert!(busy.windows(2).all(|pair| pair[0].id == pair[1].id + 1));
        let newest = &alerts.list(None, 1).await.unwrap()[0];
        assert_eq!((newest, newest.drifted, newest.scores), (&busy[0], 2, 5));
        assert_eq!(alerts.list(None, u32::MAX).await.unwrap().len(), busy.len() + 1);
    }
}
