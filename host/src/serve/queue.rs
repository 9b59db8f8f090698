use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::{ApiError, ErrorCode};

/// How much of an endpoint is done at once, and how much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Requests, or batches of them, that are computed at once.
    pub concurrency: usize,
    /// Requests that wait; more are refused.
    pub waiting: usize,
    /// Longest time, in milliseconds, from a request's body being there to its being computed; 0 sets no limit. What a
    /// client allows may be less.
    pub timeout_ms: u64,
}

impl Default for QueueLimits {
    /// More at once than there are cores, because plugins may yield; few enough that one endpoint does not take all
    /// instances of the pool from the others. Those who wait cost the memory of their rows.
    fn default() -> Self {
        Self { concurrency: 64, waiting: 1_024, timeout_ms: 30_000 }
    }
}

/// What of an endpoint is computed at once, and who waits for that: first come, first served.
#[derive(Debug)]
pub struct Queue {
    limits: QueueLimits,
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// A place among those who wait, until it is dropped.
pub(super) struct Waiting(Arc<Queue>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Queue {
    /// An empty queue.
    pub fn new(limits: QueueLimits) -> Self {
        let free = Arc::new(Semaphore::new(limits.concurrency.clamp(1, Semaphore::MAX_PERMITS)));
        Self { limits, free, waiting: AtomicUsize::new(0) }
    }

    /// What it was made with.
    pub fn limits(&self) -> QueueLimits {
        self.limits
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Requests, or batches of them, that are being computed.
    pub fn computing(&self) -> usize {
        self.limits.concurrency.saturating_sub(self.free.available_permits())
    }

    /// The time until which a request that has come now may wait: the client's, if that is earlier.
    pub fn deadline(&self, of_client: Option<Instant>) -> Option<Instant> {
        let timeout = std::time::Duration::from_millis(self.limits.timeout_ms);
        let own = (!timeout.is_zero()).then(|| Instant::now() + timeout);
        [own, of_client].into_iter().flatten().min()
    }

    /// Whether so many requests more would find a place, and as many of others after them.
    pub(super) fn has_room_for(&self, requests: usize) -> bool {
        self.waiting().saturating_add(2 * requests) <= self.limits.waiting
    }

    /// Takes a place among those who wait, if there is one.
    pub(super) fn wait(self: &Arc<Self>) -> Result<Waiting, ApiError> {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Waiting(Arc::clone(self));
        // Who can be computed at once does not wait.
        if waiting < self.limits.waiting.saturating_add(self.free.available_permits()) {
            return Ok(place);
        }
        let message =
            format!("too many requests wait already: the limit of the endpoint is {}", self.limits.waiting);
        Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::QueueFull, message))
    }

    /// Waits for its turn to compute, which ends when the permit is dropped.
    pub(super) async fn enter(
        self: &Arc<Self>,
        deadline: Option<Instant>,
    ) -> Result<OwnedSemaphorePermit, ApiError> {
        if let Some(turn) = self.free_turn() {
            return match deadline {
                Some(deadline) if deadline <= Instant::now() => Err(too_late()),
                _ => Ok(turn),
            };
        }
        let _place = self.wait()?;
        until(deadline, self.turn()).await?
    }

    /// A turn, if nobody has to be waited for.
    pub(super) fn free_turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// Waits for a turn, however long that takes.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        // It is never closed.
        Arc::clone(&self.free).acquire_owned().await.map_err(|_| super::offload::stopping())
    }
}

/// Waits for `work` until the deadline.
pub(super) async fn until<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = T>,
) -> Result<T, ApiError> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, work).await.map_err(|_| too_late()),
        None => Ok(work.await),
    }
}

pub(super) fn too_late() -> ApiError {
    let message = "the request was not computed by its deadline";
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, ErrorCode::DeadlineExceeded, message)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn room_for_many_is_left_for_others_too() {
        let queue = queue(1, 33);
        assert!(queue.has_room_for(16) && !queue.has_room_for(17));
        let (_turn, _place) = (queue.free_turn().unwrap(), queue.wait().unwrap());
        assert!(queue.has_room_for(16));
        let _another = queue.wait().unwrap();
        assert!(!queue.has_room_for(16));
    }

    fn queue(concurrency: usize, waiting: usize) -> Arc<Queue> {
        Arc::new(Queue::new(QueueLimits { concurrency, waiting, timeout_ms: 0 }))
    }

    #[tokio::test]
    async fn those_over_the_limits_wait_or_are_refused() {
        let queue = queue(1, 1);
        let computing = queue.enter(None).await.unwrap();
        let second = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { queue.enter(None).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert_eq!((queue.computing(), queue.waiting()), (1, 1));
        let refused = queue.enter(None).await.unwrap_err();
        assert_eq!((refused.status().as_u16(), refused.code()), (429, ErrorCode::QueueFull));
        drop(computing);
        second.await.unwrap().unwrap();
        assert_eq!((queue.computing(), queue.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn nobody_waits_beyond_the_deadline() {
        let queue = queue(1, 9);
        let _computing = queue.enter(None).await.unwrap();
        let deadline = Instant::now() + Duration::from_millis(50);
        let late = queue.enter(Some(deadline)).await.unwrap_err();
        assert_eq!((late.status().as_u16(), late.code()), (504, ErrorCode::DeadlineExceeded));
        assert_eq!(queue.waiting(), 0);
        assert!(Instant::now() >= deadline);
    }

    #[tokio::test]
    async fn what_is_late_already_is_not_begun() {
        let queue = queue(1, 9);
        let late = queue.enter(Some(Instant::now())).await.unwrap_err();
        assert_eq!(late.code(), ErrorCode::DeadlineExceeded);
        assert_eq!(queue.computing(), 0);
    }

    #[test]
    fn who_can_be_computed_at_once_does_not_wait() {
        let queue = queue(1, 0);
        let first = queue.wait().unwrap();
        assert!(queue.wait().is_err());
        drop(first);
        assert!(queue.wait().is_ok());
    }

    #[test]
    fn the_earlier_deadline_counts() {
        let own = Queue::new(QueueLimits { timeout_ms: 1_000, ..QueueLimits::default() });
        let now = Instant::now();
        let client = now + Duration::from_millis(10);
        assert_eq!(own.deadline(Some(client)), Some(client));
        assert!(own.deadline(Some(now + Duration::from_secs(60))).unwrap() < now + Duration::from_secs(10));
        let endless = queue(1, 1);
        assert_eq!(endless.deadline(None), None);
    }
}
