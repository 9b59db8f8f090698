use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::engine::{Computed, Engine, stopping};
use super::queue::{Queue, Waiting, until};
use super::{ApiError, ErrorCode};
use crate::domain::Batch;

/// The most that waiting in vain is put off: so many batches go at once between two tries.
const PAUSES_MAX: u32 = 64;

/// How requests of an endpoint are computed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchPolicy {
    /// Rows that are computed together at most.
    pub rows_max: usize,
    /// Longest time, in microseconds, that a batch which is not full waits for more.
    pub delay_us: u64,
}

/// Computes the rows of several requests together.
///
/// What has come while all turns of the queue were taken is one batch. A batch that is not full waits for more, though no
/// longer than the policy's delay, and only as long as waiting pays: after it was in vain twice as many batches as before
/// go at once, until more than one request is there again. So one client alone does not wait for others.
///
/// A batch that fails is computed again request by request, so that only those get an error whose rows are at fault.
pub(super) struct Batcher {
    policy: BatchPolicy,
    queue: Arc<Queue>,
    jobs: mpsc::UnboundedSender<Job>,
}

/// A request that is to be computed.
struct Job {
    inputs: Batch,
    since: Instant,
    deadline: Option<Instant>,
    /// Whether it wants to know what the model saw.
    keeps: bool,
    reply: oneshot::Sender<Result<Computed, ApiError>>,
    _place: Waiting,
}

/// Whether waiting for more requests pays.
#[derive(Debug)]
struct Patience {
    /// Batches that go at once after waiting was in vain.
    pauses: u32,
    /// How many of them are still to come.
    left: u32,
}

impl Patience {
    fn new() -> Self {
        Self { pauses: 1, left: 0 }
    }

    /// Whether the next batch should wait.
    fn waits(&mut self) -> bool {
        let waits = self.left == 0;
        self.left = self.left.saturating_sub(1);
        waits
    }

    /// Learns from a batch: how many requests it has, and whether it has waited for them.
    fn learn(&mut self, requests: usize, has_waited: bool) {
        if requests > 1 {
            *self = Self::new();
        } else if has_waited {
            self.pauses = (self.pauses * 2).min(PAUSES_MAX);
            self.left = self.pauses;
        }
    }
}

impl Batcher {
    /// Batches for `engine` with the turns of `queue`. Ends when it is dropped and those who wait have their answers.
    pub(super) fn new(policy: BatchPolicy, queue: Arc<Queue>, engine: Arc<Engine>) -> Self {
        let (jobs, arriving) = mpsc::unbounded_channel();
        tokio::spawn(run(policy, Arc::clone(&queue), engine, arriving));
        Self { policy, queue, jobs }
    }

    /// How it batches.
    pub(super) fn policy(&self) -> BatchPolicy {
        self.policy
    }

    /// Whether it batches so, with the turns of that queue.
    pub(super) fn is_of(&self, policy: BatchPolicy, queue: &Arc<Queue>) -> bool {
        self.policy == policy && Arc::ptr_eq(&self.queue, queue)
    }

    /// Computes `inputs`, with others if there are any.
    pub(super) async fn compute(
        &self,
        inputs: Batch,
        deadline: Option<Instant>,
        keeps: bool,
    ) -> Result<Computed, ApiError> {
        let (reply, replied) = oneshot::channel();
        let place = self.queue.wait()?;
        let job = Job { inputs, since: Instant::now(), deadline, keeps, reply, _place: place };
        self.jobs.send(job).map_err(|_| stopping())?;
        until(deadline, replied).await?.map_err(|_| stopping())?
    }
}

async fn run(
    policy: BatchPolicy,
    queue: Arc<Queue>,
    engine: Arc<Engine>,
    mut jobs: mpsc::UnboundedReceiver<Job>,
) {
    let mut patience = Patience::new();
    // What did not fit into the batch before.
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(job) => job,
            None => match jobs.recv().await {
                Some(job) => job,
                None => return,
            },
        };
        // Those who come until it is their turn are in the batch.
        let Ok(turn) = queue.turn().await else { return };
        let mut batch = vec![first];
        next = gather(policy, &mut patience, &mut jobs, &mut batch).await;
        let engine = Arc::clone(&engine);
        tokio::spawn(async move {
            answer(&engine, batch).await;
            drop(turn);
        });
    }
}

/// Fills a batch; gives the request that does not fit any more.
async fn gather(
    policy: BatchPolicy,
    patience: &mut Patience,
    jobs: &mut mpsc::UnboundedReceiver<Job>,
    batch: &mut Vec<Job>,
) -> Option<Job> {
    let since = batch.first().map_or_else(Instant::now, |first| first.since);
    let until = since + Duration::from_micros(policy.delay_us);
    let mut rows: usize = batch.iter().map(|job| job.inputs.rows()).sum();
    let mut waits = None;
    let left_over = loop {
        if rows >= policy.rows_max {
            break None;
        }
        let job = match jobs.try_recv() {
            Ok(job) => job,
            Err(_) if policy.delay_us == 0 || !*waits.get_or_insert_with(|| patience.waits()) => break None,
            Err(_) => match tokio::time::timeout_at(until, jobs.recv()).await {
                Ok(Some(job)) => job,
                Ok(None) | Err(_) => break None,
            },
        };
        if rows.saturating_add(job.inputs.rows()) > policy.rows_max {
            break Some(job);
        }
        rows += job.inputs.rows();
        batch.push(job);
    };
    patience.learn(batch.len(), waits == Some(true));
    left_over
}

/// Computes a batch and answers everyone in it who still waits.
async fn answer(engine: &Arc<Engine>, batch: Vec<Job>) {
    let now = Instant::now();
    let is_waited_for =
        |job: &Job| !job.reply.is_closed() && job.deadline.is_none_or(|deadline| now < deadline);
    let batch: Vec<Job> = batch.into_iter().filter(is_waited_for).collect();
    let mut together = Batch::default();
    let fit = batch.len() > 1 && batch.iter().all(|job| together.append(&job.inputs).is_ok());
    let computed = if fit { engine.compute(together).await.and_then(whole) } else { Err(alone()) };
    match computed {
        Ok(computed) => {
            let mut start = 0;
            for (index, job) in batch.into_iter().enumerate() {
                let end = start + job.inputs.rows();
                let mut times = computed.times;
                times.queue = now.duration_since(job.since);
                let outputs = computed.outputs.slice_rows(start..end);
                let seen = computed.seen.as_ref().filter(|_| job.keeps).and_then(|(features, scores)| {
                    Some((features.slice_rows(start..end)?, scores.slice_rows(start..end)?))
                });
                let part = outputs.map(|outputs| Computed {
                    inputs: job.inputs,
                    outputs,
                    seen,
                    times,
                    batch_rows: computed.batch_rows,
                    is_first: index == 0,
                });
                let _ = job.reply.send(part.ok_or_else(stopping));
                start = end;
            }
            engine.offer(computed.seen);
        }
        Err(_) => {
            for job in batch {
                let mut computed = engine.compute(job.inputs).await;
                if let Ok(computed) = &mut computed {
                    computed.times.queue = now.duration_since(job.since);
                    let seen = if job.keeps { computed.seen.clone() } else { computed.seen.take() };
                    engine.offer(seen);
                }
                let _ = job.reply.send(computed);
            }
        }
    }
}

/// A batch whose answer has as many rows as it.
fn whole(computed: Computed) -> Result<Computed, ApiError> {
    if computed.outputs.rows() == computed.inputs.rows() { Ok(computed) } else { Err(alone()) }
}

/// What is not computed together.
fn alone() -> ApiError {
    ApiError::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, "not together")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_in_vain_becomes_rare_and_company_brings_it_back() {
        let mut patience = Patience::new();
        let mut waited = Vec::new();
        for batch in 0..40 {
            let waits = patience.waits();
            if waits {
                waited.push(batch);
            }
            patience.learn(1, waits);
        }
        assert_eq!(waited, [0, 3, 8, 17, 34]);
        patience.learn(2, false);
        assert!(patience.waits());
    }

    #[test]
    fn it_never_stops_trying() {
        let mut patience = Patience::new();
        let waits = (0..10_000).filter(|_| {
            let waits = patience.waits();
            patience.learn(1, waits);
            waits
        });
        assert!(waits.count() > 10_000 / 70);
    }
}
