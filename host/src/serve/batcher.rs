use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::engine::{Computed, Engine, stopping};
use super::queue::{Queue, Waiting, too_late, until};
use super::{ApiError, ErrorCode, RequestBody, StageTimes};
use crate::domain::Batch;

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
/// What has come while all turns of the queue were taken is one batch. One that is not full waits for more, though no longer
/// than the policy's delay, and only for as many as the batches before it had: clients that wait for their answers
/// before they ask again are all there then, and one client alone never waits for others.
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
    /// Dropped when it is computed: from then on no deadline counts.
    waits: Option<(oneshot::Sender<()>, Waiting)>,
    reply: oneshot::Sender<Result<Computed, ApiError>>,
    _body: Option<RequestBody>,
}

/// How many requests a batch may be expected to have.
#[derive(Debug)]
struct Expectation(usize);

impl Expectation {
    /// Whether more are worth waiting for than those that are there.
    fn is_more_than(&self, requests: usize) -> bool {
        requests < self.0
    }

    /// Learns from a batch. One that is larger than expected lets one more be expected; one for whose rest was waited in
    /// vain lets no more be expected than came.
    fn learn(&mut self, requests: usize) {
        self.0 = if requests > self.0 { self.0 + 1 } else { requests.max(1) };
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
        body: Option<RequestBody>,
        deadline: Option<Instant>,
        keeps: bool,
    ) -> Result<Computed, ApiError> {
        let ((reply, replied), (waiting, taken)) = (oneshot::channel(), oneshot::channel());
        let waits = Some((waiting, self.queue.wait()?));
        let since = Instant::now();
        let job = Job { inputs, since, deadline, keeps, waits, reply, _body: body };
        self.jobs.send(job).map_err(|_| stopping())?;
        // It ends by being dropped.
        let _ = until(deadline, taken).await?;
        replied.await.map_err(|_| stopping())?
    }
}

async fn run(
    policy: BatchPolicy,
    queue: Arc<Queue>,
    engine: Arc<Engine>,
    mut jobs: mpsc::UnboundedReceiver<Job>,
) {
    let mut expected = Expectation(1);
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
        next = gather(policy, &mut expected, &mut jobs, &mut batch).await;
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
    expected: &mut Expectation,
    jobs: &mut mpsc::UnboundedReceiver<Job>,
    batch: &mut Vec<Job>,
) -> Option<Job> {
    let since = batch.first().map_or_else(Instant::now, |first| first.since);
    let mut until = since + Duration::from_micros(policy.delay_us);
    // Nobody is made to wait for others until it is too late.
    let sooner = |until: Instant, job: &Job| match job.deadline {
        Some(deadline) => until.min(since + deadline.saturating_duration_since(since) / 2),
        None => until,
    };
    for job in batch.iter() {
        until = sooner(until, job);
    }
    let mut rows: usize = batch.iter().map(|job| job.inputs.rows()).sum();
    let left_over = loop {
        if rows >= policy.rows_max {
            break None;
        }
        let job = match jobs.try_recv() {
            Ok(job) => job,
            Err(_) if policy.delay_us == 0 || !expected.is_more_than(batch.len()) => break None,
            Err(_) => match tokio::time::timeout_at(until, jobs.recv()).await {
                Ok(Some(job)) => job,
                Ok(None) | Err(_) => break None,
            },
        };
        if rows.saturating_add(job.inputs.rows()) > policy.rows_max {
            break Some(job);
        }
        rows += job.inputs.rows();
        until = sooner(until, &job);
        batch.push(job);
    };
    expected.learn(batch.len());
    left_over
}

/// Computes a batch and answers everyone in it who still waits.
async fn answer(engine: &Arc<Engine>, batch: Vec<Job>) {
    let now = Instant::now();
    let is_late = |job: &Job| job.deadline.is_some_and(|deadline| deadline <= now);
    let (late, batch): (Vec<Job>, Vec<Job>) = batch.into_iter().partition(is_late);
    for job in late {
        let _ = job.reply.send(Err(too_late()));
    }
    let mut batch: Vec<Job> = batch.into_iter().filter(|job| !job.reply.is_closed()).collect();
    batch.iter_mut().for_each(|job| job.waits = None);
    match computed_together(engine, &batch).await {
        Ok(Some(computed)) => {
            let mut start = 0;
            for (index, job) in batch.into_iter().enumerate() {
                let end = start + job.inputs.rows();
                let part = part_of(&computed, start..end, &job);
                let times = StageTimes { queue: now.duration_since(job.since), ..computed.times };
                let part = part.map(|(outputs, seen)| Computed {
                    inputs: job.inputs,
                    outputs,
                    seen,
                    times,
                    batch_rows: computed.batch_rows,
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
        Ok(None) => {
            for job in batch.into_iter().filter(|job| !job.reply.is_closed()) {
                let mut computed = engine.compute(job.inputs, job.deadline, ()).await;
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

/// What comes of several requests at once; none where they do not fit together, or where one of them is at fault. An error
/// is everyone's: there is too much to do to try it one by one.
async fn computed_together(engine: &Arc<Engine>, batch: &[Job]) -> Result<Option<Computed>, ApiError> {
    let mut together = Batch::default();
    if batch.len() < 2 || !batch.iter().all(|job| together.append(&job.inputs).is_ok()) {
        return Ok(None);
    }
    match engine.compute(together, None, ()).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_expected_than_came() {
        let mut expected = Expectation(1);
        assert!(!expected.is_more_than(1), "one client alone waits for nobody");
        for requests in [3, 5, 5, 5] {
            expected.learn(requests);
        }
        assert!(expected.is_more_than(4) && !expected.is_more_than(5));
        expected.learn(2);
        assert!(expected.is_more_than(1) && !expected.is_more_than(2));
        expected.learn(1);
        assert!(!expected.is_more_than(1));
    }
}
