use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::super::engine::{Computed, Engine};
use super::super::offload::internal;
use super::super::queue::too_late;
use super::super::{ApiError, ErrorCode, StageTimes};
use super::gathering::Job;
use crate::domain::Batch;

/// What failed after so long may have been ended for taking long, which halves of it would be, too, and theirs.
const SLOW: Duration = Duration::from_millis(100);

/// Computes a batch and answers everyone in it who still waits.
pub(super) async fn answer(engine: Arc<Engine>, mut batch: Vec<Job>, _turn: OwnedSemaphorePermit) {
    batch.iter_mut().for_each(|job| job.place = None);
    answer_parts(&engine, batch, &Mutex::new(())).await;
}

/// Computes some requests together when nobody else of their batch is computed. Where that fails for one of them its halves
/// are, and so on, so that the others need not wait for each to be computed by itself. Whoever is late is told so at once.
fn answer_parts<'a>(
    engine: &'a Arc<Engine>,
    mut jobs: Vec<Job>,
    turn: &'a Mutex<()>,
) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
    Box::pin(async move {
        let size = loop {
            jobs = still_waiting(jobs);
            let Some(its_turn) = in_time(&jobs, turn).await else { continue };
            let now = Instant::now();
            if jobs.iter().any(|job| job.is_late(now)) {
                continue;
            }
            if jobs.len() < 2 {
                for job in jobs {
                    let waited = now.duration_since(job.since);
                    let computed =
                        engine.compute_request(job.inputs, waited, job.deadline, job.keeps, ()).await;
                    let _ = job.reply.send(computed);
                }
                return;
            }
            match computed_together(engine, &jobs).await {
                Ok(Some(computed)) => return share_out(engine, jobs, computed, now),
                Err(overloaded) => {
                    return jobs.into_iter().for_each(|job| _ = job.reply.send(Err(overloaded.clone())));
                }
                Ok(None) => {}
            }
            drop(its_turn);
            // It may have failed for those who came too late while it waited for a core.
            if jobs.iter().all(|job| !job.is_late(Instant::now())) {
                break if now.elapsed() < SLOW { jobs.len().div_ceil(2) } else { 1 };
            }
        };
        let mut parts = Vec::with_capacity(jobs.len().div_ceil(size));
        while !jobs.is_empty() {
            let rest = jobs.split_off(size.min(jobs.len()));
            parts.push(answer_parts(engine, std::mem::replace(&mut jobs, rest), turn));
        }
        join_all(parts).await;
    })
}

/// Those who have not gone away, without those who are late, who are told so.
fn still_waiting(jobs: Vec<Job>) -> Vec<Job> {
    let now = Instant::now();
    let (late, in_time): (Vec<Job>, Vec<Job>) =
        jobs.into_iter().filter(|job| !job.reply.is_closed()).partition(|job| job.is_late(now));
    late.into_iter().for_each(|job| _ = job.reply.send(Err(too_late())));
    in_time
}

/// The turn of some requests; none when the first of them is late.
async fn in_time<'a>(jobs: &[Job], turn: &'a Mutex<()>) -> Option<MutexGuard<'a, ()>> {
    match jobs.iter().filter_map(|job| job.deadline).min() {
        Some(deadline) => timeout_at(deadline, turn.lock()).await.ok(),
        None => Some(turn.lock().await),
    }
}

/// Answers requests that were begun to be computed together at `begun`.
fn share_out(engine: &Arc<Engine>, jobs: Vec<Job>, computed: Computed, begun: Instant) {
    let mut start = 0;
    // Whoever has asked may have gone, and then another stands for all of them in statistics.
    let mut is_first = true;
    for job in jobs {
        let end = start + job.inputs.rows();
        let part = part_of(&computed, start..end, &job);
        let queue = begun.duration_since(job.since) + computed.times.queue;
        let times = StageTimes { queue, ..computed.times };
        let part = part.map(|(outputs, seen)| Computed {
            inputs: job.inputs,
            outputs,
            seen,
            times,
            batch_rows: computed.batch_rows,
            parts: Vec::new(),
            is_first,
        });
        let part = part.ok_or_else(|| internal(&"the answer to a batch lacks rows of it"));
        if job.reply.send(part).is_ok() {
            is_first = false;
        }
        start = end;
    }
    engine.offer(computed.seen);
}

/// What comes of several requests at once; none where they do not fit together, or where one of them is at fault. An error
/// is everyone's: there is too much to do to try it again.
async fn computed_together(engine: &Arc<Engine>, batch: &[Job]) -> Result<Option<Computed>, ApiError> {
    let mut together = Batch::default();
    if !batch.iter().all(|job| together.append(&job.inputs).is_ok()) {
        return Ok(None);
    }
    // Whoever would be late is told so, and the others are computed.
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
