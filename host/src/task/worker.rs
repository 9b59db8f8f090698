use std::cell::OnceCell;
use std::num::NonZero;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

thread_local! {
    /// Which worker this thread is, if it is one.
    static WORKER: OnceCell<Worker> = const { OnceCell::new() };
}

struct Worker {
    index: usize,
    others: Handle,
}

/// Makes this thread a worker: one of those that answer connections and keep to what is theirs. `others` is a runtime of several
/// threads for what would hold it up.
pub fn work_as(index: usize, others: Handle) {
    WORKER.with(|worker| _ = worker.set(Worker { index, others }));
}

/// The runtime for what shall hold up no worker: that of other threads, if this is one, and otherwise this thread's own. None
/// outside of a runtime.
pub fn shared_threads() -> Option<Handle> {
    let of_worker = WORKER.with(|worker| worker.get().map(|worker| worker.others.clone()));
    of_worker.or_else(|| Handle::try_current().ok())
}

/// Does what takes long or blocks, on a pool that all workers share: those that wait for a thread of it wait for all that there are.
///
/// Panics outside of a runtime.
pub fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    shared_threads().unwrap_or_else(Handle::current).spawn_blocking(work)
}

/// Something for each worker, so that they need not take it from each other, and for all other threads in common.
#[derive(Debug)]
pub struct PerWorker<T> {
    common: T,
    /// Of the workers; of several where there are more of them than cores.
    own: Box<[Padded<T>]>,
}

/// One of what is [`PerWorker`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(Option<usize>);

/// Far enough from others that cores do not take it from each other with them.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

impl Slot {
    /// That of all threads that are no workers.
    pub const COMMON: Self = Self(None);

    /// This thread's.
    pub fn own() -> Self {
        Self(WORKER.with(|worker| worker.get().map(|worker| worker.index)))
    }
}

impl<T: Default> Default for PerWorker<T> {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self { common: T::default(), own: (0..workers).map(|_| Padded::default()).collect() }
    }
}

impl<T> PerWorker<T> {
    /// That of `slot`.
    pub fn of(&self, slot: Slot) -> &T {
        let own = slot.0.and_then(|index| self.own.get(index % self.own.len().max(1)));
        own.map_or(&self.common, |own| &own.0)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.common).chain(self.own.iter().map(|own| &own.0))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn workers_have_what_is_theirs_and_others_have_it_in_common() {
        let counts: PerWorker<AtomicUsize> = PerWorker::default();
        let cores = counts.all().count() - 1;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let others = runtime.handle();
        let count = || {
            let slot = Slot::own();
            counts.of(slot).fetch_add(1, Ordering::Relaxed);
            slot
        };
        let slots: Vec<Slot> = std::thread::scope(|scope| {
            let as_worker = |index: Option<usize>| {
                move || {
                    index.into_iter().for_each(|index| work_as(index, others.clone()));
                    count()
                }
            };
            let asking: Vec<_> = [None, None, Some(0), Some(cores - 1), Some(cores)]
                .map(|index| scope.spawn(as_worker(index)))
                .into();
            asking.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(slots[..2], [Slot::COMMON, Slot::COMMON]);
        assert_ne!(slots[2], slots[4], "workers are told apart");
        let counted: Vec<usize> = counts.all().map(|count| count.load(Ordering::Relaxed)).collect();
        let mut expected = vec![0; cores + 1];
        expected[0] = 2;
        // Where there are more workers than cores, two have the same.
        expected[1] += 2;
        expected[cores] += 1;
        assert_eq!(counted, expected);
    }

    #[test]
    fn what_takes_long_leaves_a_worker() {
        let several = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let others = several.handle().clone();
        let id = others.id();
        let ids = std::thread::spawn(move || {
            assert!(shared_threads().is_none(), "outside of a runtime");
            let own = tokio::runtime::Builder::new_current_thread().build().unwrap();
            own.block_on(async move {
                let before = shared_threads().unwrap().id();
                work_as(0, others);
                let blocking = spawn_blocking(|| Handle::current().id()).await.unwrap();
                (before == Handle::current().id(), shared_threads().unwrap().id(), blocking)
            })
        });
        assert_eq!(ids.join().unwrap(), (true, id, id));
    }
}
