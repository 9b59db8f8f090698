mod expectation;
mod gathering;
mod together;

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use self::expectation::{Company, Expectation};
use self::gathering::{Gathering, Job, Joined, Seat};
use self::together::answer;
use super::engine::{Computed, Engine};
use super::offload::{INLINE_NANOS_MAX, stopping};
use super::queue::{Queue, too_late};
use super::{ApiError, RequestBody};
use crate::domain::Batch;
use crate::task::{PerWorker, Slot, let_others_go_first, shared_threads};

/// Rows that are computed together at most where nothing is said.
pub(super) const AUTO_ROWS_MAX: usize = 32;

/// How requests of an endpoint are computed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchPolicy {
    /// What is there at the same moment, where it is known that this helps and changes nothing: rows are independent,
    /// instances of plugins are kept anyway, and what is computed takes no longer than may hold up a thread.
    Auto,
    /// As it is said.
    Rows {
        /// Rows that are computed together at most.
        max: usize,
        /// Longest time, in microseconds, that a batch which is not full waits for more.
        delay_us: u64,
    },
}

/// Computes the rows of several requests together.
///
/// The first of them gathers. It lets others go first once, so that whoever is there already can join; who comes while it is not its
/// turn joins too. With a delay it also waits, though for no more requests than the batches before had: clients that wait
/// for their answers before they ask again are all there then, and one client alone never waits for others.
///
/// Of a batch that fails the halves are computed again, and so on, so that only those get an error whose rows are at fault.
pub(super) struct Batcher {
    policy: BatchPolicy,
    queue: Arc<Queue>,
    engine: Arc<Engine>,
    meetings: PerWorker<Meeting>,
    expected: Expectation,
}

/// Where requests find each other.
#[derive(Default)]
struct Meeting {
    /// The batch that others may join.
    open: Mutex<Option<Arc<Gathering>>>,
    company: Company,
}

/// Whoever gathers a batch. If its client goes away, those who have joined are computed without it.
struct Gatherer<'a> {
    batcher: &'a Arc<Batcher>,
    gathering: &'a Arc<Gathering>,
}

impl Drop for Gatherer<'_> {
    fn drop(&mut self) {
        if self.gathering.care() {
            self.batcher.compute_in_turn(self.gathering);
        }
    }
}

impl Batcher {
    /// Batches for `engine` with the turns of `queue`.
    pub(super) fn new(policy: BatchPolicy, queue: Arc<Queue>, engine: Arc<Engine>) -> Self {
        Self { policy, queue, engine, meetings: PerWorker::default(), expected: Expectation::default() }
    }

    /// How it batches.
    pub(super) fn policy(&self) -> BatchPolicy {
        self.policy
    }

    /// Whether it batches so, with the turns of that queue.
    pub(super) fn is_of(&self, policy: BatchPolicy, queue: &Arc<Queue>) -> bool {
        self.policy == policy && Arc::ptr_eq(&self.queue, queue)
    }

    /// Whether there is room for others beside so many rows.
    pub(super) fn takes(&self, rows: usize) -> bool {
        rows < self.rows_max()
    }

    /// Rows that are computed together at most.
    fn rows_max(&self) -> usize {
        match self.policy {
            BatchPolicy::Rows { max, .. } => max,
            BatchPolicy::Auto => match self.engine.row_nanos() {
                // Nobody knows yet how long a batch would take.
                0 => 1,
                nanos => {
                    AUTO_ROWS_MAX.min(usize::try_from(INLINE_NANOS_MAX / nanos).unwrap_or(AUTO_ROWS_MAX))
                }
            },
        }
    }

    /// Where requests of this thread find others: what is there at the same moment, those of the same worker, so that no
    /// thread has to wake another; what was asked for, all.
    fn meeting_here(&self) -> Slot {
        match self.policy {
            BatchPolicy::Auto => Slot::own(),
            BatchPolicy::Rows { .. } => Slot::COMMON,
        }
    }

    /// Who computes batches: this thread those of its own requests, and whoever is free those of all. There is none when the
    /// server has stopped.
    fn threads(&self) -> Option<Handle> {
        match self.policy {
            BatchPolicy::Auto => Handle::try_current().ok(),
            BatchPolicy::Rows { .. } => shared_threads(),
        }
    }

    fn delay(&self) -> Duration {
        match self.policy {
            BatchPolicy::Rows { delay_us, .. } => Duration::from_micros(delay_us),
            BatchPolicy::Auto => Duration::ZERO,
        }
    }

    /// Computes `inputs`, with others if there are any.
    pub(super) async fn compute(
        self: &Arc<Self>,
        inputs: Batch,
        body: Option<RequestBody>,
        deadline: Option<Instant>,
        keeps: bool,
    ) -> Result<Computed, ApiError> {
        let (reply, replied) = oneshot::channel();
        let (id, since, place) = (0, Instant::now(), Some(self.queue.wait()?));
        let job = Job { id, inputs, since, deadline, keeps, reply, body, place };
        let (seat, is_first) = self.join(job);
        if is_first {
            let gatherer = Gatherer { batcher: self, gathering: &seat.gathering };
            self.wait_for_others(&seat.gathering).await;
            if let Some(turn) = self.queue.free_turn()
                && gatherer.gathering.care()
            {
                let mut batch = self.close(&seat.gathering);
                if batch.len() == 1
                    && let Some(job) = batch.pop()
                {
                    return self.compute_alone(job, turn).await;
                }
                if let Some(threads) = self.threads() {
                    threads.spawn(answer(Arc::clone(&self.engine), batch, turn));
                }
            }
        }
        // No deadline is looked at here: until the batch is computed, who gathers it waits for half of the shortest at most, and
        // `compute_in_turn` refuses those who are late.
        replied.await.unwrap_or_else(|_| Err(stopping()))
    }

    async fn compute_alone(&self, job: Job, turn: OwnedSemaphorePermit) -> Result<Computed, ApiError> {
        let Job { inputs, since, deadline, keeps, body, place, .. } = job;
        drop(place);
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(too_late());
        }
        self.engine.compute_request(inputs, since.elapsed(), deadline, keeps, (turn, body)).await
    }

    /// Joins those who gather. If nobody does, or there is no room, it begins to, and is the first.
    fn join(self: &Arc<Self>, mut job: Job) -> (Seat, bool) {
        let rows_max = self.rows_max();
        // Nobody is made to wait for others until it is too late.
        let left = |deadline: Instant| job.since + deadline.saturating_duration_since(job.since) / 2;
        let until = [Some(job.since + self.delay()), job.deadline.map(left)];
        let until = until.into_iter().flatten().min().unwrap_or(job.since);
        let meeting = self.meeting_here();
        let mut open = self.meetings.of(meeting).open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gathering) = open.clone() {
            let joined = gathering.join(job, until, rows_max);
            if !matches!(joined, Joined::WithRoom(_)) {
                *open = None;
                self.compute_full(&gathering);
            }
            match joined {
                Joined::WithRoom(id) | Joined::Last(id) => return (Seat { gathering, id }, false),
                Joined::Not(back) => job = back,
            }
        }
        let gathering = Arc::new(Gathering::of(job, until, meeting));
        *open = Some(Arc::clone(&gathering));
        (Seat { gathering, id: 0 }, true)
    }

    /// Sees to it that a batch is computed which nobody can join any more.
    fn compute_full(self: &Arc<Self>, gathering: &Arc<Gathering>) {
        gathering.jobs().is_open = false;
        if gathering.care() {
            // Who gathers it waits for no others any more.
            gathering.changed.notify_one();
            self.compute_in_turn(gathering);
        }
    }

    /// Computes a batch when it is its turn. Until then whose deadline passes is told so.
    fn compute_in_turn(self: &Arc<Self>, gathering: &Arc<Gathering>) {
        let Some(threads) = self.threads() else { return };
        let (batcher, gathering) = (Arc::clone(self), Arc::clone(gathering));
        threads.spawn(async move {
            let mut turn = pin!(batcher.queue.turn());
            while !gathering.is_abandoned() {
                tokio::select! {
                    // As a rule it is its turn at once, and no timer is needed.
                    biased;
                    turn = &mut turn => {
                        let Ok(turn) = turn else { return };
                        let batch = batcher.close(&gathering);
                        return answer(Arc::clone(&batcher.engine), batch, turn).await;
                    }
                    () = gathering.changed.notified() => {}
                    () = gathering.first_deadline() => gathering.refuse_late(),
                }
            }
        });
    }

    /// Lets others go first, and waits for as many as are expected, no longer than allowed.
    async fn wait_for_others(&self, gathering: &Gathering) {
        if self.meetings.of(gathering.meeting).company.is_likely() {
            let_others_go_first().await;
        }
        while !self.delay().is_zero() {
            let (requests, until, is_cared_for) = {
                let jobs = gathering.jobs();
                (jobs.all.len(), jobs.until, jobs.is_cared_for)
            };
            if is_cared_for || !self.expected.is_more_than(requests) || until <= Instant::now() {
                return;
            }
            let _ = tokio::time::timeout_at(until, gathering.changed.notified()).await;
        }
    }

    /// Lets nobody join a batch any more, and takes its requests to compute them.
    fn close(&self, gathering: &Arc<Gathering>) -> Vec<Job> {
        let meeting = self.meetings.of(gathering.meeting);
        let mut open = meeting.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.take_if(|open| Arc::ptr_eq(open, gathering));
        drop(open);
        let mut jobs = gathering.jobs();
        jobs.is_open = false;
        let batch = std::mem::take(&mut jobs.all);
        drop(jobs);
        meeting.company.learn(batch.len());
        if !self.delay().is_zero() {
            self.expected.learn(batch.len());
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use futures_util::future::join_all;

    use super::super::deployment::tests::{REFUSED, Zeros, call, deployment};
    use super::super::{Call, Deployment, ErrorCode, QueueLimits};
    use super::*;
    use crate::domain::Tensor;
    use crate::task::work_as;

    fn row() -> Batch {
        row_of(1.0)
    }

    fn row_of(first: f32) -> Batch {
        Batch::new(vec![Tensor::from_f32("features", vec![1, 2], &[first, 2.0]).unwrap()]).unwrap()
    }

    /// A deployment that batches by `policy`, what it asks, and who asks it for one row. It knows how long that takes.
    async fn batching(policy: BatchPolicy, limits: QueueLimits) -> (Arc<Zeros>, Deployment, Call) {
        let (model, deployment) = deployment(2, 1);
        let call = Call { queue: Arc::new(Queue::new(limits)), ..call() };
        deployment.answer_rows(row(), call.clone()).await.unwrap();
        deployment.engine().set_row_nanos(1_000);
        model.rows.lock().unwrap().clear();
        deployment.batch_by(Some(policy), &call.queue);
        (model, deployment, call)
    }

    fn rows_of(model: &Zeros) -> Vec<usize> {
        model.rows.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn what_is_there_at_once_is_computed_together() {
        let (model, deployment, call) = batching(BatchPolicy::Auto, QueueLimits::default()).await;
        let all = join_all((0..10).map(|_| deployment.answer_rows(row(), call.clone())));
        assert!(all.await.iter().all(|answer| answer.as_ref().unwrap().0.rows() == 1));
        assert_eq!(rows_of(&model), [10]);
        // Another 70 are two full batches and the rest.
        join_all((0..70).map(|_| deployment.answer_rows(row(), call.clone()))).await;
        let mut rows = rows_of(&model).split_off(1);
        rows.sort_unstable();
        assert_eq!(rows, [6, 32, 32]);
        assert_eq!((call.queue.waiting(), call.queue.computing()), (0, 0));
    }

    #[tokio::test]
    async fn where_nobody_knows_how_long_rows_take_the_first_is_computed_alone() {
        let (model, deployment) = deployment(2, 1);
        let call = call();
        deployment.batch_by(Some(BatchPolicy::Auto), &call.queue);
        join_all((0..10).map(|_| deployment.answer_rows(row(), call.clone()))).await;
        assert_eq!(rows_of(&model)[0], 1);
    }

    #[tokio::test]
    async fn if_who_gathers_goes_away_the_others_are_computed_all_the_same() {
        let (model, deployment, call) = batching(BatchPolicy::Auto, QueueLimits::default()).await;
        let mut first = Box::pin(deployment.answer_rows(row(), call.clone()));
        assert!(futures_util::poll!(&mut first).is_pending());
        let mut second = Box::pin(deployment.answer_rows(row(), call.clone()));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        assert_eq!(second.await.unwrap().0.rows(), 1);
        assert_eq!(rows_of(&model), [1]);
        assert_eq!(call.queue.waiting(), 0);
    }

    #[tokio::test]
    async fn who_waits_too_long_for_a_turn_is_told_and_leaves_its_place() {
        let limits = QueueLimits { concurrency: 1, ..QueueLimits::default() };
        let (model, deployment, call) = batching(BatchPolicy::Auto, limits).await;
        let turn = call.queue.free_turn().unwrap();
        let soon = || Call { deadline: Some(Instant::now() + Duration::from_millis(5)), ..call.clone() };
        let late = async {
            // They join one that has more time, before and after it waits for its turn.
            for _ in 0..2 {
                let late = deployment.answer_rows(row(), soon()).await.unwrap_err();
                assert_eq!(late.code(), ErrorCode::DeadlineExceeded);
                assert_eq!(call.queue.waiting(), 1);
            }
            drop(turn);
        };
        let (patient, ()) = tokio::join!(deployment.answer_rows(row(), call.clone()), late);
        assert_eq!(patient.unwrap().0.rows(), 1);
        assert_eq!(rows_of(&model), [1], "those who are gone are not computed");
        // One that gathers.
        let turn = call.queue.free_turn().unwrap();
        let late = deployment.answer_rows(row(), soon()).await.unwrap_err();
        assert_eq!((late.code(), call.queue.waiting()), (ErrorCode::DeadlineExceeded, 0));
        drop(turn);
    }

    #[tokio::test]
    async fn who_waits_too_long_for_a_core_is_told_and_the_others_are_computed() {
        let (model, deployment, call) = batching(BatchPolicy::Auto, QueueLimits::default()).await;
        model.shared_from.store(1, Ordering::Relaxed);
        let places = Arc::clone(&deployment.engine().places);
        let all = places.available_permits();
        let busy = Arc::clone(&places).acquire_many_owned(all as u32).await.unwrap();
        let deadline = Some(Instant::now() + Duration::from_millis(5));
        let soon = Call { deadline, ..call.clone() };
        let late = async {
            let late = deployment.answer_rows(row(), soon).await.unwrap_err();
            drop(busy);
            late.code()
        };
        let (patient, late) = tokio::join!(deployment.answer_rows(row(), call.clone()), late);
        assert_eq!((patient.unwrap().0.rows(), late), (1, ErrorCode::DeadlineExceeded));
        assert_eq!((rows_of(&model), places.available_permits()), (vec![1], all));
    }

    #[tokio::test]
    async fn one_at_fault_is_looked_for_by_halves() {
        let (model, deployment, call) = batching(BatchPolicy::Auto, QueueLimits::default()).await;
        let ask = |index| {
            let first = if index == 21 { REFUSED } else { 1.0 };
            deployment.answer_rows(row_of(first), call.clone())
        };
        let answers = join_all((0..32).map(ask)).await;
        let refused = answers.iter().map(Result::is_err);
        assert_eq!(refused.collect::<Vec<_>>(), (0..32).map(|index| index == 21).collect::<Vec<_>>());
        let mut rows = rows_of(&model);
        rows.sort_unstable();
        assert_eq!(rows, [1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32]);
        assert_eq!((call.queue.waiting(), call.queue.computing()), (0, 0));
    }

    #[tokio::test]
    async fn a_batch_with_a_delay_waits_for_as_many_as_came_before() {
        let policy = BatchPolicy::Rows { max: 8, delay_us: 60_000_000 };
        let (model, deployment, call) = batching(policy, QueueLimits::default()).await;
        // Nobody is expected.
        deployment.answer_rows(row(), call.clone()).await.unwrap();
        for _ in 0..3 {
            join_all((0..3).map(|_| deployment.answer_rows(row(), call.clone()))).await;
        }
        assert_eq!(rows_of(&model), [1, 3, 3, 3]);
        // Three are expected now, and the deadline of one who is alone does not come too late.
        let deadline = Some(Instant::now() + Duration::from_millis(400));
        deployment.answer_rows(row(), Call { deadline, ..call.clone() }).await.unwrap();
        assert_eq!(rows_of(&model).last(), Some(&1));
    }

    #[tokio::test]
    async fn who_gathers_waits_no_more_when_its_batch_is_computed() {
        let policy = BatchPolicy::Rows { max: 8, delay_us: 60_000_000 };
        let (model, deployment, call) = batching(policy, QueueLimits::default()).await;
        // More than one request is expected.
        join_all((0..3).map(|_| deployment.answer_rows(row(), call.clone()))).await;
        let five = || {
            let rows = Tensor::from_f32("features", vec![5, 2], &[0.0; 10]).unwrap();
            Batch::new(vec![rows]).unwrap()
        };
        let first = deployment.answer_rows(five(), call.clone());
        let second = deployment.answer_rows(five(), Call { deadline: Some(Instant::now()), ..call.clone() });
        // The second finds no room beside the first, which is computed.
        let (first, _) = tokio::join!(first, second);
        assert_eq!(first.unwrap().0.rows(), 5);
        assert!(rows_of(&model).contains(&5));
    }

    #[tokio::test]
    async fn workers_have_batches_of_their_own_unless_they_are_asked_for() {
        for (policy, is_shared) in
            [(BatchPolicy::Auto, false), (BatchPolicy::Rows { max: 8, delay_us: 0 }, true)]
        {
            let (_, deployment, call) = batching(policy, QueueLimits::default()).await;
            let batcher = Batcher::new(policy, Arc::clone(&call.queue), Arc::clone(deployment.engine()));
            let others = Handle::current();
            let of_worker = std::thread::scope(|scope| {
                let asking = scope.spawn(|| {
                    work_as(0, others.clone());
                    (batcher.meeting_here(), batcher.threads().map(|threads| threads.id()))
                });
                asking.join().unwrap()
            });
            assert_eq!(of_worker.0 == batcher.meeting_here(), is_shared);
            // The worker of this test has no runtime of its own.
            assert_eq!(of_worker.1, is_shared.then(|| others.id()));
        }
    }
}
