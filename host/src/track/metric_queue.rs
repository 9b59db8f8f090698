//! Joins batches of metrics that come at the same time, of whatever runs, into one write.
//!
//! A training logs a metric each few milliseconds, and many train at once. Written one by one, each would cost half a dozen
//! statements; together they cost as many in all. Each batch is still whole or not there, because all of them are part
//! of one transaction, and each is refused for itself.

use std::collections::HashMap;

use sqlx::{AnyConnection, Row as _};
use tokio::sync::{mpsc, oneshot};

use super::metrics::{PointOf, write_metrics};
use super::rows::{pieces, placeholders};
use super::runs::{deleted, no_run};
use super::{Metric, TrackError};
use crate::store::{Database, DatabaseError, Dialect};

/// Batches that may wait; more wait outside.
const QUEUE_MAX: usize = 1_024;

/// Points from which on nothing more is joined.
const JOINED_POINTS_MAX: usize = 4_000;

/// A batch and whoever waits for it.
struct Batch {
    run_id: String,
    metrics: Vec<Metric>,
    answer: oneshot::Sender<Result<(), TrackError>>,
}

/// The queue in front of the task that writes.
#[derive(Debug, Clone)]
pub(super) struct MetricQueue {
    queue: mpsc::Sender<Batch>,
}

impl MetricQueue {
    /// Starts the task; it ends when the last clone is gone.
    pub(super) fn start(database: Database) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run(waiting, database));
        Self { queue }
    }

    /// Logs checked points of one run; durable when this returns without an error.
    pub(super) async fn log(&self, run_id: String, metrics: Vec<Metric>) -> Result<(), TrackError> {
        let (answer, told) = oneshot::channel();
        let batch = Batch { run_id, metrics, answer };
        self.queue.send(batch).await.map_err(|_| DatabaseError::Closed)?;
        told.await.map_err(|_| DatabaseError::Closed)?
    }
}

async fn run(mut waiting: mpsc::Receiver<Batch>, database: Database) {
    while let Some(first) = waiting.recv().await {
        let mut points = first.metrics.len();
        let mut batches = vec![first];
        while points < JOINED_POINTS_MAX {
            let Ok(next) = waiting.try_recv() else { break };
            points += next.metrics.len();
            batches.push(next);
        }
        let dialect = database.dialect();
        let (contents, answers): (Vec<_>, Vec<_>) =
            batches.into_iter().map(|batch| ((batch.run_id, batch.metrics), batch.answer)).unzip();
        let written = database
            .write(move |connection| Box::pin(async move { write(connection, dialect, &contents).await }))
            .await;
        tell(answers, written);
    }
}

/// Writes the batches of runs that take them; gives a result for each.
async fn write(
    connection: &mut AnyConnection,
    dialect: Dialect,
    batches: &[(String, Vec<Metric>)],
) -> Result<Vec<Result<(), TrackError>>, TrackError> {
    let mut run_ids: Vec<&str> = batches.iter().map(|(run_id, _)| run_id.as_str()).collect();
    run_ids.sort_unstable();
    run_ids.dedup();
    let mut runs: HashMap<String, (i64, bool)> = HashMap::new();
    for piece in pieces(&run_ids) {
        let places = placeholders(1, piece.len());
        let sql = format!("SELECT run_id, id, deleted_at FROM runs WHERE run_id IN ({places})");
        let query = sqlx::query(sqlx::AssertSqlSafe(sql));
        let query = piece.iter().fold(query, |query, run_id| query.bind(*run_id));
        for row in query.fetch_all(&mut *connection).await? {
            let is_deleted = row.try_get::<Option<i64>, _>(2)?.is_some();
            runs.insert(row.try_get(0)?, (row.try_get(1)?, is_deleted));
        }
    }
    let mut points: Vec<PointOf<'_>> = Vec::new();
    let mut results = Vec::with_capacity(batches.len());
    for (run_id, metrics) in batches {
        results.push(match runs.get(run_id) {
            None => Err(no_run(run_id)),
            Some((_, true)) => Err(deleted(run_id)),
            Some((run, false)) => {
                points.extend(metrics.iter().map(|metric| (*run, metric)));
                Ok(())
            }
        });
    }
    write_metrics(connection, dialect, &points).await?;
    Ok(results)
}

/// Tells each batch its own result, or all of them why nothing was written. Whoever asked may have gone.
fn tell(
    answers: Vec<oneshot::Sender<Result<(), TrackError>>>,
    written: Result<Vec<Result<(), TrackError>>, TrackError>,
) {
    match written {
        Ok(results) => {
            for (answer, result) in answers.into_iter().zip(results) {
                let _ = answer.send(result);
            }
        }
        Err(error) => {
            for answer in answers {
                let _ = answer.send(Err(TrackError::new(error.code(), error.to_string())));
            }
            tracing::warn!(error = &error as &dyn std::error::Error, "metrics were not written");
        }
    }
}
