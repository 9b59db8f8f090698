use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::files;
use crate::task::work_as;

/// Tasks after which a worker looks at those that another thread has woken. A task may compute for a millisecond; tokio's 31
/// would let others wait for as many.
const LOOK_AT_OTHERS_AFTER: u32 = 4;

/// Sockets that a worker learns of at once, about as many as have their requests computed together: what it has read of them is
/// still in its core's caches when they are answered.
const SOCKETS_AT_ONCE: usize = 32;

/// Tasks after which it looks at sockets, timers and new connections even if there are others. It takes some four to six of a request, so
/// that those it has learnt of are answered before it learns of more.
const LOOK_AT_SOCKETS_AFTER: u32 = 256;

/// Threads that answer connections, each with an event loop of its own.
///
/// A connection stays with the worker that it was given to, and so do its requests as a rule: no thread wakes another, and what a
/// request has touched is in the caches of the core where the next one finds it. What takes long goes to other threads
/// ([`crate::task::shared_threads`]), so that connections which share a worker wait for little of each other's work.
pub struct Workers {
    all: Vec<Worker>,
    /// Where to look first for the one with the fewest connections, so that those that are short are shared out too.
    first: AtomicUsize,
}

/// A connection that is being served.
pub(super) type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Worker {
    given: UnboundedSender<Serving>,
    /// Connections that it has.
    open: Arc<AtomicUsize>,
}

/// A connection of a worker, until it is dropped.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts so many of them, at least one, beside `others`, the runtime for what would hold them up. Each has a few open files,
    /// so that the process may have as many from then on as the system allows it.
    pub fn start(count: usize, others: &Handle) -> std::io::Result<Self> {
        files::raise_limit();
        let all = (0..count.max(1)).map(|index| Worker::start(index, others.clone()));
        Ok(Self { all: all.collect::<Result<_, _>>()?, first: AtomicUsize::new(0) })
    }

    /// Gives a connection to the one that has the fewest.
    pub(super) fn give(&self, connection: Serving) {
        let first = self.first.fetch_add(1, Ordering::Relaxed) % self.all.len().max(1);
        let (before, from_first) = self.all.split_at(first);
        let in_turn = from_first.iter().chain(before);
        let Some(worker) = in_turn.min_by_key(|worker| worker.open.load(Ordering::Relaxed)) else { return };
        let open = Open::new(&worker.open);
        // A worker takes what comes for as long as there is a sender.
        let _ = worker.given.send(Box::pin(async move {
            connection.await;
            drop(open);
        }));
    }
}

impl Worker {
    fn start(index: usize, others: Handle) -> std::io::Result<Self> {
        let (given, taken) = unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .global_queue_interval(LOOK_AT_OTHERS_AFTER)
            .event_interval(LOOK_AT_SOCKETS_AFTER)
            .max_io_events_per_tick(SOCKETS_AT_ONCE)
            .enable_all()
            .build()?;
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            work_as(index, others);
            runtime.block_on(serve(taken));
            // What still computes had its time to finish, and nothing else can stop it.
            runtime.shutdown_background();
        })?;
        Ok(Self { given, open: Arc::default() })
    }
}

/// Serves the connections that come, until no more can.
async fn serve(mut given: UnboundedReceiver<Serving>) {
    while let Some(connection) = given.recv().await {
        tokio::spawn(connection);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::thread::ThreadId;

    use tokio::sync::oneshot;

    use super::*;

    /// Gives a connection that lasts until the second is sent; the first tells which thread has it.
    async fn give(workers: &Workers) -> (ThreadId, oneshot::Sender<()>) {
        let (tell, told) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        workers.give(Box::pin(async move {
            tell.send(std::thread::current().id()).unwrap();
            let _ = ended.await;
        }));
        (told.await.unwrap(), end)
    }

    #[tokio::test]
    async fn connections_are_shared_out_evenly() {
        let workers = Workers::start(3, &Handle::current()).unwrap();
        let mut connections = Vec::new();
        for _ in 0..6 {
            connections.push(give(&workers).await);
        }
        let mut of_thread = BTreeMap::<String, usize>::new();
        connections.iter().for_each(|(id, _)| *of_thread.entry(format!("{id:?}")).or_default() += 1);
        assert_eq!(of_thread.into_values().collect::<Vec<_>>(), [2, 2, 2]);
        // Who has ended leaves room.
        let (thread, end) = connections.swap_remove(2);
        end.send(()).unwrap();
        while workers.all.iter().map(|worker| worker.open.load(Ordering::Relaxed)).sum::<usize>() > 5 {
            tokio::task::yield_now().await;
        }
        assert_eq!(give(&workers).await.0, thread);
    }

    #[tokio::test]
    async fn a_connection_that_panics_ends_alone() {
        let workers = Workers::start(1, &Handle::current()).unwrap();
        let (thread, _end) = give(&workers).await;
        workers.give(Box::pin(async { panic!("as it shall") }));
        assert_eq!(give(&workers).await.0, thread);
        while workers.all[0].open.load(Ordering::Relaxed) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
