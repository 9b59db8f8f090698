use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Does `work` for every item on some threads of its own; gives the results in the items' order, or the first error
/// that was met. After an error nothing new is begun.
///
/// `stopped` is the error where a thread has ended without a word, which a panic in `work` would cause.
pub fn map_parallel<I: Sync, T: Send, E: Send>(
    items: &[I],
    threads: usize,
    stopped: fn() -> E,
    work: impl Fn(&I) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let done: Mutex<Vec<Option<T>>> = Mutex::new(items.iter().map(|_| None).collect());
    let run = || {
        while !failed.load(Ordering::Relaxed) {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(place) else { break };
            let result = work(item).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(slot) = done.get_mut(place) {
                *slot = Some(result);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.clamp(1, items.len().max(1))).map(|_| scope.spawn(run)).collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(stopped())));
        ended.fold(Ok(()), Result::and)
    })?;
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.into_iter().map(|result| result.ok_or_else(stopped)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_and_an_error_ends_it() {
        let items: Vec<u32> = (0..1_000).collect();
        let doubled = map_parallel(&items, 4, || "stopped", |item| Ok(item * 2)).unwrap();
        assert_eq!(doubled, items.iter().map(|item| item * 2).collect::<Vec<_>>());
        let begun = AtomicUsize::new(0);
        let refuse = |_: &u32| {
            begun.fetch_add(1, Ordering::Relaxed);
            Err::<(), _>("no")
        };
        assert_eq!(map_parallel(&items, 4, || "stopped", refuse), Err("no"));
        assert!(begun.into_inner() <= 4);
        assert_eq!(map_parallel(&[], 4, || "stopped", |(): &()| Ok(())), Ok(vec![]));
    }
}
