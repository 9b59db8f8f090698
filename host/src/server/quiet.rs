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
        let is_over = count == self.count && !excuse && now.duration_since(self.since) >= self.limit;
        if is_over || count != self.count || excuse {
            (self.count, self.since) = (count, now);
        }
        is_over
    }
}

/// Tells connections, again and again, that others wait for their places.
#[derive(Debug, Clone)]
pub(super) struct Crowd(watch::Receiver<()>);

impl Crowd {
    /// What is told by the other, and who tells it.
    pub(super) fn new() -> (watch::Sender<()>, Self) {
        let (tell, told) = watch::channel(());
        (tell, Self(told))
    }

    /// Waits until others wait.
    pub(super) async fn waits(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody comes any more.
            std::future::pending().await
        }
    }
}
