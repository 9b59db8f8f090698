use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::super::engine::Computed;
use super::super::queue::{Waiting, too_late};
use super::super::{ApiError, RequestBody};
use crate::domain::Batch;
use crate::task::Slot;

/// Requests that are to be computed together.
pub(super) struct Gathering {
    /// Whose requests.
    pub(super) meeting: Slot,
    jobs: Mutex<Jobs>,
    /// Told when one has joined, when nobody else can, and when nobody is left.
    pub(super) changed: Notify,
}

pub(super) struct Jobs {
    pub(super) all: Vec<Job>,
    rows: usize,
    /// When they are computed, however few they are.
    pub(super) until: Instant,
    /// The id of the next.
    next_id: u32,
    /// Whether others may join.
    pub(super) is_open: bool,
    /// Whether somebody computes them already, or waits for the turn to.
    pub(super) is_cared_for: bool,
}

/// A request that is to be computed.
pub(super) struct Job {
    /// Tells it from others of its batch.
    pub(super) id: u32,
    pub(super) inputs: Batch,
    pub(super) since: Instant,
    pub(super) deadline: Option<Instant>,
    /// Whether it wants to know what the model saw.
    pub(super) keeps: bool,
    pub(super) reply: oneshot::Sender<Result<Computed, ApiError>>,
    pub(super) body: Option<RequestBody>,
    /// Its place among those who wait.
    pub(super) place: Option<Waiting>,
}

/// What became of a request that was to join a batch.
pub(super) enum Joined {
    /// It has this id, and there is room for others.
    WithRoom(u32),
    /// It has this id, and there is no more room.
    Last(u32),
    /// There is no room for it.
    Not(Job),
}

/// A request's place in a batch, as the request has it. If its client goes away, it leaves it.
pub(super) struct Seat {
    pub(super) gathering: Arc<Gathering>,
    pub(super) id: u32,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut jobs = self.gathering.jobs();
        // Who is being computed, or was, is not there any more.
        let Some(index) = jobs.all.iter().position(|job| job.id == self.id) else { return };
        let gone = jobs.remove(index);
        let is_abandoned = jobs.is_abandoned();
        drop(jobs);
        drop(gone);
        if is_abandoned {
            self.gathering.changed.notify_one();
        }
    }
}

impl Jobs {
    fn remove(&mut self, index: usize) -> Job {
        let gone = self.all.swap_remove(index);
        self.rows -= gone.inputs.rows();
        gone
    }

    fn is_abandoned(&self) -> bool {
        self.all.is_empty() && !self.is_open
    }
}

impl Gathering {
    pub(super) fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch of one request so far.
    pub(super) fn of(job: Job, until: Instant, meeting: Slot) -> Self {
        let rows = job.inputs.rows();
        let jobs = Jobs { rows, until, next_id: 1, is_open: true, is_cared_for: false, all: vec![job] };
        Self { meeting, jobs: Mutex::new(jobs), changed: Notify::new() }
    }

    /// Adds a request if there is room for it.
    pub(super) fn join(&self, mut job: Job, until: Instant, rows_max: usize) -> Joined {
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
        self.changed.notify_one();
        if rows < rows_max { Joined::WithRoom(id) } else { Joined::Last(id) }
    }

    /// Says that who asks cares for the batch now; whether nobody did.
    pub(super) fn care(&self) -> bool {
        !std::mem::replace(&mut self.jobs().is_cared_for, true)
    }

    /// Whether nobody is left, and nobody can join.
    pub(super) fn is_abandoned(&self) -> bool {
        self.jobs().is_abandoned()
    }

    /// Waits until the time of one is over who is there now; for ever where none has a deadline.
    pub(super) async fn first_deadline(&self) {
        let first = self.jobs().all.iter().filter_map(|job| job.deadline).min();
        match first {
            Some(first) => tokio::time::sleep_until(first).await,
            None => std::future::pending().await,
        }
    }

    /// Tells those whose time is over, who leave.
    pub(super) fn refuse_late(&self) {
        let now = Instant::now();
        let mut jobs = self.jobs();
        while let Some(index) = jobs.all.iter().position(|job| job.is_late(now)) {
            let late = jobs.remove(index);
            let _ = late.reply.send(Err(too_late()));
        }
    }
}

impl Job {
    /// Whether its time is over.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}
