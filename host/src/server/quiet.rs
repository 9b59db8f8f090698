use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// For how long nothing has happened.
pub(super) struct Quiet {
    limit: Duration,
    since: Instant,
    count: u64,
}

impl Quiet {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, since: Instant::now(), count: 0 }
    }

    /// Whether `count` has stayed for as long as it may, all of the time without `excuse`. Then the time begins anew.
    pub(super) fn lasts(&mut self, now: Instant, count: u64, excuse: bool) -> bool {
        let is_over = self.has_lasted(now, count, excuse);
        if is_over {
            self.since = now;
        }
        is_over
    }

    /// The same, and it goes on.
    pub(super) fn has_lasted(&mut self, now: Instant, count: u64, excuse: bool) -> bool {
        if count != self.count || excuse {
            (self.count, self.since) = (count, now);
        }
        now.duration_since(self.since) >= self.limit && !excuse
    }
}

/// Tells connections that another waits for a place, until one of them makes room.
#[derive(Debug, Clone)]
pub(super) struct Crowd {
    told: watch::Receiver<()>,
    is_wanted: Arc<AtomicBool>,
}

/// Who tells it.
#[derive(Debug)]
pub(super) struct CrowdTeller {
    tell: watch::Sender<()>,
    is_wanted: Arc<AtomicBool>,
}

impl Crowd {
    pub(super) fn new() -> (CrowdTeller, Self) {
        let (tell, told) = watch::channel(());
        let is_wanted = Arc::<AtomicBool>::default();
        (CrowdTeller { tell, is_wanted: Arc::clone(&is_wanted) }, Self { told, is_wanted })
    }

    /// Waits until another waits.
    pub(super) async fn waits(&mut self) {
        if self.told.changed().await.is_err() {
            // Nobody comes any more.
            std::future::pending().await
        }
    }

    /// Whether this one is to make room: one for each who waits.
    pub(super) fn claims(&self) -> bool {
        self.is_wanted.swap(false, Ordering::Relaxed)
    }
}

impl CrowdTeller {
    /// Tells that one waits.
    pub(super) fn wants(&self) {
        self.is_wanted.store(true, Ordering::Relaxed);
        self.tell.send_replace(());
    }

    /// Takes that back.
    pub(super) fn has_place(&self) {
        self.is_wanted.store(false, Ordering::Relaxed);
    }
}
