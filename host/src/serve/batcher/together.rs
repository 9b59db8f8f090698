use std::ops::Range;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::{Mutex, OwnedSemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::super::engine::{Computed, Engine, stopping};
use super::super::queue::too_late;
use super::super::{ApiError, ErrorCode, StageTimes};
use super::gathering::Job;
use crate::domain::Batch;

/// Computes a batch and answers everyone in it who still waits.
pub(super) async fn answer(engine: Arc<Engine>, batch: Vec<Job>, _turn: OwnedSemaphorePermit) {
    let now = Instant::now();
    let (late, mut batch): (Vec<Job>, Vec<Job>) = batch.into_iter().partition(|job| job.is_late(now));
    batch.iter_mut().for_each(|job| job.place = None);
    for job in late {
        let _ = job.reply.send(Err(too_late()));
    }
    match computed_together(&engine, &batch).await {
        Ok(Some(computed)) => {
            let mut start = 0;
            for (index, job) in batch.into_iter().enumerate() {
                let end = start + job.inputs.rows();
                let part = part_of(&computed, start..end, &job);
                let times = StageTimes {
                    queue: now.duration_since(job.since) + computed.times.queue,
                    ..computed.times
                };
                let part = part.map(|(outputs, seen)| Computed {
                    inputs: job.inputs,
                    outputs,
                    seen,
                    times,
                    batch_rows: computed.batch_rows,
                    parts: Vec::new(),
                    is_first: index == 0,
                });
                // Whoever has asked may have gone.
                let _ = job.reply.send(part.ok_or_else(stopping));
                start = end;
            }
            engine.offer(computed.seen);
        }
        Err(overloaded) => {
            for job in batch {
                let _ = job.reply.send(Err(overloaded.clone()));
            }
        }
        Ok(None) => one_by_one(&engine, batch, now).await,
    }
}

/// Computes each request of a batch, which was begun at `begun`, by itself. Whoever is late is told at once, however long those
/// before it take.
async fn one_by_one(engine: &Arc<Engine>, batch: Vec<Job>, begun: Instant) {
    let turn = Mutex::new(());
    let all = batch.into_iter().filter(|job| !job.reply.is_closed()).map(async |job| {
        let its_turn = match job.deadline {
            Some(deadline) => timeout_at(deadline, turn.lock()).await.ok(),
            None => Some(turn.lock().await),
        };
        let computed = if its_turn.is_none() || job.is_late(Instant::now()) {
            Err(too_late())
        } else {
            let waited = begun.duration_since(job.since);
            engine.compute_request(job.inputs, waited, job.deadline, job.keeps, ()).await
        };
        let _ = job.reply.send(computed);
    });
    join_all(all).await;
}

/// What comes of several requests at once; none where they do not fit together, or where one of them is at fault. An error
/// is everyone's: there is too much to do to try it one by one.
async fn computed_together(engine: &Arc<Engine>, batch: &[Job]) -> Result<Option<Computed>, ApiError> {
    let mut together = Batch::default();
    if batch.len() < 2 || !batch.iter().all(|job| together.append(&job.inputs).is_ok()) {
        return Ok(None);
    }
    // Who would be late is told so one by one.
    let deadline = batch.iter().filter_map(|job| job.deadline).min();
    match engine.compute(together, deadline, ()).await {
        Ok(computed) if computed.outputs.rows() == computed.inputs.rows() => Ok(Some(computed)),
        Err(error) if error.code() == ErrorCode::Overloaded => Err(error),
        Ok(_) | Err(_) => Ok(None),
    }
}

/// The answer to some of the rows, and what the model saw of them if the request wants that.
fn part_of(computed: &Computed, rows: Range<usize>, job: &Job) -> Option<(Batch, Option<(Batch, Batch)>)> {
    let outputs = computed.outputs.slice_rows(rows.clone())?;
    let seen = computed.seen.as_ref().filter(|_| job.keeps);
    let seen = seen.and_then(|(features, scores)| {
        Some((features.slice_rows(rows.clone())?, scores.slice_rows(rows.clone())?))
    });
    Some((outputs, seen))
}
