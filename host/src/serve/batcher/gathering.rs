use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::super::engine::Computed;
use super::super::queue::Waiting;
use super::super::{ApiError, RequestBody};
use crate::domain::Batch;
use crate::task::Slot;

/// Requests that are to be computed together.
pub(super) struct Gathering {
    /// Whose requests.
    pub(super) meeting: Slot,
    pub(super) jobs: Mutex<Jobs>,
    /// Told when one has joined.
    pub(super) joined: Notify,
    /// Told when nobody is left who waits for the turn, and nobody can join.
    pub(super) abandoned: Notify,
}

pub(super) struct Jobs {
    pub(super) all: Vec<Job>,
    pub(super) rows: usize,
    /// When they are computed, however few they are.
    pub(super) until: Instant,
    /// The id of the next.
    pub(super) next_id: u32,
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

impl Seat {
    /// Takes the request out of its batch; whether it was there still, and so is not being computed.
    pub(super) fn leave(&self) -> bool {
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
    pub(super) fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch of one request so far.
    pub(super) fn of(job: Job, until: Instant, meeting: Slot) -> Self {
        let rows = job.inputs.rows();
        let jobs = Jobs { rows, until, next_id: 1, is_open: true, is_cared_for: false, all: vec![job] };
        Self { meeting, jobs: Mutex::new(jobs), joined: Notify::new(), abandoned: Notify::new() }
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
        self.joined.notify_one();
        if rows < rows_max { Joined::WithRoom(id) } else { Joined::Last(id) }
    }

    /// Says that who asks cares for the batch now; whether nobody did.
    pub(super) fn care(&self) -> bool {
        !std::mem::replace(&mut self.jobs().is_cared_for, true)
    }
}
