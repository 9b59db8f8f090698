use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests of a connection up to which it has a part in the places that are kept for those with few.
const FEW: u64 = 8;

/// Places for the requests of HTTP/2 of all connections together, so that what they may take is bounded. A quarter is kept for
/// connections with few, or some with many would leave nothing to others.
#[derive(Debug, Clone)]
pub(super) struct Places {
    common: Arc<Semaphore>,
    kept: Arc<Semaphore>,
    /// Places to wait for one, since a request that waits takes memory too.
    waiting: Arc<Semaphore>,
    /// How long one may wait.
    limit: Duration,
}

impl Places {
    /// So many places, and as many for those who wait up to `limit`.
    pub(super) fn new(requests: usize, limit: Duration) -> Self {
        let kept = requests / 4;
        let places = |count| Arc::new(Semaphore::new(count));
        Self { common: places(requests - kept), kept: places(kept), waiting: places(requests), limit }
    }

    /// A place for a request of a connection that has `open` with it; where there is none, for how long it has waited.
    pub(super) async fn take(&self, open: u64) -> Result<OwnedSemaphorePermit, Duration> {
        let kept = (open <= FEW).then_some(&self.kept);
        let mut free = [Some(&self.common), kept].into_iter().flatten();
        if let Some(place) = free.find_map(|places| Arc::clone(places).try_acquire_owned().ok()) {
            return Ok(place);
        }
        let Ok(_waiting) = self.waiting.try_acquire() else { return Err(Duration::ZERO) };
        let of_kept = async {
            match kept {
                Some(kept) => Arc::clone(kept).acquire_owned().await,
                None => std::future::pending().await,
            }
        };
        let place = async {
            tokio::select! {
                place = Arc::clone(&self.common).acquire_owned() => place,
                place = of_kept => place,
            }
        };
        // The semaphores are never closed.
        let place = tokio::time::timeout(self.limit, place).await;
        place.ok().and_then(Result::ok).ok_or(self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_with_many_requests_leave_places_to_others() {
        let soon = Duration::from_millis(20);
        let places = Places::new(8, soon);
        let mut taken = Vec::new();
        for _ in 0..6 {
            taken.push(places.take(FEW + 1).await.unwrap());
        }
        assert_eq!(places.take(FEW + 1).await.unwrap_err(), soon);
        for open in [1, FEW] {
            taken.push(places.take(open).await.unwrap());
        }
        assert_eq!(places.take(1).await.unwrap_err(), soon, "there are none left");
        let (place, ()) = tokio::join!(places.take(FEW + 1), async { drop(taken.remove(0)) });
        assert!(place.is_ok());
        let of_few = taken.pop();
        let (place, ()) = tokio::join!(places.take(1), async { drop(of_few) });
        assert!(place.is_ok());
    }

    #[tokio::test]
    async fn no_more_wait_than_there_are_places() {
        let places = Places::new(1, Duration::from_secs(3_600));
        let _taken = places.take(1).await.unwrap();
        let waiting = tokio::spawn({
            let places = places.clone();
            async move { places.take(1).await }
        });
        while places.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(places.take(1).await.unwrap_err(), Duration::ZERO);
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        assert_eq!(places.waiting.available_permits(), 1);
    }
}
