use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::engine::{Computed, Engine, INLINE_NANOS_MAX, stopping};
use super::queue::{Queue, Waiting, too_late, until};
use super::{ApiError, ErrorCode, RequestBody, StageTimes};
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
/// A batch that fails is computed again request by request, so that only those get an error whose rows are at fault.
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

/// Requests that are to be computed together.
struct Gathering {
    /// Whose requests.
    meeting: Slot,
    jobs: Mutex<Jobs>,
    /// Told when one has joined.
    joined: Notify,
    /// Told when nobody is left who waits for the turn, and nobody can join.
    abandoned: Notify,
}

struct Jobs {
    all: Vec<Job>,
    rows: usize,
    /// When they are computed, however few they are.
    until: Instant,
    /// The id of the next.
    next_id: u32,
    /// Whether others may join.
    is_open: bool,
    /// Whether somebody computes them already, or waits for the turn to.
    is_cared_for: bool,
}

/// A request that is to be computed.
struct Job {
    /// Tells it from others of its batch.
    id: u32,
    inputs: Batch,
    since: Instant,
    deadline: Option<Instant>,
    /// Whether it wants to know what the model saw.
    keeps: bool,
    reply: oneshot::Sender<Result<Computed, ApiError>>,
    body: Option<RequestBody>,
    /// Its place among those who wait.
    place: Option<Waiting>,
}

/// What became of a request that was to join a batch.
enum Joined {
    /// It has this id, and there is room for others.
    WithRoom(u32),
    /// It has this id, and there is no more room.
    Last(u32),
    /// There is no room for it.
    Not(Job),
}

/// A request's place in a batch, as the request has it. If its client goes away, it leaves it.
struct Seat {
    gathering: Arc<Gathering>,
    id: u32,
}

impl Seat {
    /// Takes the request out of its batch; whether it was there still, and so is not being computed.
    fn leave(&self) -> bool {
        let mut jobs = self.gathering.jobs();
        let Some(index) = jobs.all.iter().position(|job| job.id == self.id) else { return false };
        let gone = jobs.all.swap_remove(index);
        jobs.rows -= gone.inputs.rows();
        if jobs.all.is_empty() && !jobs.is_open {
            self.gathering.abandoned.notify_one();
        }
        drop(jobs);
        true
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Gathering {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch of one request so far.
    fn of(job: Job, until: Instant, meeting: Slot) -> Self {
        let rows = job.inputs.rows();
        let jobs = Jobs { rows, until, next_id: 1, is_open: true, is_cared_for: false, all: vec![job] };
        Self { meeting, jobs: Mutex::new(jobs), joined: Notify::new(), abandoned: Notify::new() }
    }

    /// Adds a request if there is room for it.
    fn join(&self, mut job: Job, until: Instant, rows_max: usize) -> Joined {
        let mut jobs = self.jobs();
        let rows = jobs.rows + job.inputs.rows();
        if rows > rows_max {
            return Joined::Not(job);
        }
        let id = jobs.next_id;
        job.id = id;
        (jobs.next_id, jobs.rows, jobs.until) = (id + 1, rows, jobs.until.min(until));
        jobs.all.push(job);
        drop(jobs);
        self.joined.notify_one();
        if rows < rows_max { Joined::WithRoom(id) } else { Joined::Last(id) }
    }

    /// Says that who asks cares for the batch now; whether nobody did.
    fn care(&self) -> bool {
        !std::mem::replace(&mut self.jobs().is_cared_for, true)
    }
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

/// Whether a request may expect others beside it.
#[derive(Debug, Default)]
struct Company {
    /// Requests in a row that nobody joined.
    lonely: AtomicU32,
}

impl Company {
    /// Whether others are worth looking for. After a few in vain, only now and then.
    fn is_likely(&self) -> bool {
        let lonely = self.lonely.load(Ordering::Relaxed);
        lonely < 4 || lonely.is_multiple_of(32)
    }

    fn learn(&self, requests: usize) {
        if requests > 1 {
            self.lonely.store(0, Ordering::Relaxed);
        } else {
            self.lonely.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// How many requests a batch may be expected to have.
#[derive(Debug)]
struct Expectation(AtomicUsize);

impl Expectation {
    /// Whether more are worth waiting for than those that are there.
    fn is_more_than(&self, requests: usize) -> bool {
        requests < self.0.load(Ordering::Relaxed)
    }

    /// Learns from a batch. One that is larger than expected lets one more be expected; one for whose rest was waited in
    /// vain lets no more be expected than came.
    fn learn(&self, requests: usize) {
        let expected = self.0.load(Ordering::Relaxed);
        let learned = if requests > expected { expected + 1 } else { requests.max(1) };
        self.0.store(learned, Ordering::Relaxed);
    }
}

impl Batcher {
    /// Batches for `engine` with the turns of `queue`.
    pub(super) fn new(policy: BatchPolicy, queue: Arc<Queue>, engine: Arc<Engine>) -> Self {
        let expected = Expectation(AtomicUsize::new(1));
        Self { policy, queue, engine, meetings: PerWorker::default(), expected }
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
        let (reply, mut replied) = oneshot::channel();
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
        let reply = match until(deadline, &mut replied).await {
            Err(late) if seat.leave() => return Err(late),
            // From when on it is computed no deadline counts.
            Err(_) => replied.await,
            Ok(reply) => reply,
        };
        reply.map_err(|_| stopping())?
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
            self.compute_in_turn(gathering);
        }
    }

    /// Computes a batch when it is its turn.
    fn compute_in_turn(self: &Arc<Self>, gathering: &Arc<Gathering>) {
        let Some(threads) = self.threads() else { return };
        let (batcher, gathering) = (Arc::clone(self), Arc::clone(gathering));
        threads.spawn(async move {
            tokio::select! {
                turn = batcher.queue.turn() => if let Ok(turn) = turn {
                    let batch = batcher.close(&gathering);
                    answer(Arc::clone(&batcher.engine), batch, turn).await;
                },
                () = gathering.abandoned.notified() => {}
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
            let _ = tokio::time::timeout_at(until, gathering.joined.notified()).await;
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

/// Computes a batch and answers everyone in it who still waits.
async fn answer(engine: Arc<Engine>, batch: Vec<Job>, _turn: OwnedSemaphorePermit) {
    let now = Instant::now();
    let is_late = |job: &Job| job.deadline.is_some_and(|deadline| deadline <= now);
    let (late, mut batch): (Vec<Job>, Vec<Job>) = batch.into_iter().partition(is_late);
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
                let times = StageTimes { queue: now.duration_since(job.since), ..computed.times };
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
        Ok(None) => {
            for job in batch.into_iter().filter(|job| !job.reply.is_closed()) {
                let waited = now.duration_since(job.since);
                let computed = engine.compute_request(job.inputs, waited, job.deadline, job.keeps, ()).await;
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
    use futures_util::future::join_all;

    use super::super::deployment::tests::{Zeros, call, deployment};
    use super::super::{Call, Deployment, QueueLimits};
    use super::*;
    use crate::domain::Tensor;
    use crate::task::work_as;

    fn row() -> Batch {
        Batch::new(vec![Tensor::from_f32("features", vec![1, 2], &[1.0, 2.0]).unwrap()]).unwrap()
    }

    /// A deployment that batches by `policy`, what it asks, and who asks it for one row. It knows how long that takes.
    async fn batching(policy: BatchPolicy, limits: QueueLimits) -> (Arc<Zeros>, Deployment, Call) {
        let (model, deployment) = deployment(2, 1);
        let call = Call { queue: Arc::new(Queue::new(limits)), ..call() };
        deployment.answer_rows(row(), call.clone()).await.unwrap();
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
        let soon = Call { deadline: Some(Instant::now() + Duration::from_millis(5)), ..call.clone() };
        let mut patient = Box::pin(deployment.answer_rows(row(), call.clone()));
        assert!(futures_util::poll!(&mut patient).is_pending());
        // One that joins, and one that gathers after it is gone.
        for _ in 0..2 {
            let late = deployment.answer_rows(row(), soon.clone()).await.unwrap_err();
            assert_eq!(late.code(), ErrorCode::DeadlineExceeded);
            assert_eq!(call.queue.waiting(), 1);
        }
        drop(turn);
        assert_eq!(patient.await.unwrap().0.rows(), 1);
        assert_eq!(rows_of(&model), [1], "those who are gone are not computed");
        let turn = call.queue.free_turn().unwrap();
        let late = deployment.answer_rows(row(), soon.clone()).await.unwrap_err();
        assert_eq!((late.code(), call.queue.waiting()), (ErrorCode::DeadlineExceeded, 0));
        drop(turn);
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

    #[test]
    fn after_a_few_that_nobody_joined_others_are_looked_for_now_and_then() {
        let company = Company::default();
        let looks = |company: &Company| {
            (0..64)
                .filter(|_| {
                    let looks = company.is_likely();
                    company.learn(1);
                    looks
                })
                .count()
        };
        assert_eq!(looks(&company), 5);
        company.learn(2);
        assert!(company.is_likely());
    }

    #[test]
    fn no_more_are_expected_than_came() {
        let expected = Expectation(AtomicUsize::new(1));
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
