//! Instances that wait for their next call. All of them are in the one pool that all plugins share, so that whoever finds it full
//! takes from those that wait.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::session::Session;
use crate::task::{PerWorker, Slot};

/// Instances kept per transformer for threads that are no workers; more calls than this at once make fresh ones.
const KEPT_MAX: usize = 64;

/// Instances kept for each worker. It calls one after the other, but for those that yield.
const KEPT_BY_WORKER_MAX: usize = 4;

/// In boxes: a session has some hundred bytes and moves in and out of here in every call.
type Sessions = Mutex<Vec<Box<Session>>>;

/// Those of one transformer.
#[derive(Default)]
pub(super) struct Idle(PerWorker<Sessions>);

/// Those of all transformers.
#[derive(Default)]
pub(super) struct AllIdle(Mutex<Vec<Weak<Idle>>>);

impl Idle {
    /// One of them: this thread's, and otherwise anybody's, so that there are never more than calls at once.
    pub(super) fn take(&self) -> Option<Box<Session>> {
        let take = |sessions: &Sessions| sessions.lock().unwrap_or_else(PoisonError::into_inner).pop();
        take(self.0.of(Slot::own())).or_else(|| self.0.all().find_map(take))
    }

    /// Keeps one for the next call, unless there are enough.
    pub(super) fn keep(&self, session: Box<Session>) {
        let slot = Slot::own();
        let kept_max = if slot == Slot::COMMON { KEPT_MAX } else { KEPT_BY_WORKER_MAX };
        let mut sessions = self.0.of(slot).lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() < kept_max {
            sessions.push(session);
        }
    }

    fn count(&self) -> usize {
        self.0.all().map(|sessions| sessions.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

impl AllIdle {
    /// Has a transformer's among them as long as there is the transformer.
    pub(super) fn add(&self, idle: &Arc<Idle>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|idle| idle.strong_count() > 0);
        all.push(Arc::downgrade(idle));
    }

    /// Ends half of those of the transformer that has most; of several the one whose turn was longest ago. Whether there were any.
    pub(super) fn release(&self) -> bool {
        let most = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let counts = all.iter().map(|idle| idle.upgrade().map_or(0, |idle| idle.count()));
            // Of several with as many `max_by_key` has the last.
            let Some((place, count)) =
                counts.enumerate().max_by_key(|(place, count)| (*count, usize::MAX - place))
            else {
                return false;
            };
            let most = all.remove(place);
            all.push(Weak::clone(&most));
            most.upgrade().filter(|_| count > 0).map(|idle| (idle, count))
        };
        let Some((idle, count)) = most else { return false };
        // They end here, where nobody waits for a lock.
        std::iter::from_fn(|| idle.take()).take(count.div_ceil(2)).for_each(drop);
        true
    }
}
