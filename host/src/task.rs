//! Whose turn it is: tasks that wake themselves are polled again at once, others go first where they shall, and work that nobody
//! waits for rests. And what workers keep for themselves ([`PerWorker`]).

mod worker;

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

pub use self::worker::{PerWorker, Slot, shared_threads, spawn_blocking, work_as};

/// How often a future is polled in one go. A request takes two or three.
const POLLS_MAX: usize = 8;

/// A rest of work that nobody waits for.
const REST: Duration = Duration::from_micros(200);

/// States of a [`TaskWaker`].
const WAITING: u8 = 0;
const POLLED: u8 = 1;
const WOKEN: u8 = 2;

thread_local! {
    /// Whether the future that is polled on this thread lets others go first.
    static GIVES_WAY: Cell<bool> = const { Cell::new(false) };
}

/// Polls `future` again at once when it has woken itself.
///
/// hyper's connections do that with every request that has a body: who reads the body and who answers are parts of one task, and
/// wake each other. For tokio such a task yields: it goes behind all others, and a thread that sleeps is woken to take it over, on
/// another core, where nothing of it is in the caches.
pub async fn polled_at_once<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut known: Option<(Arc<TaskWaker>, Waker)> = None;
    poll_fn(|context| {
        let known_still = known.take().filter(|(state, _)| state.task.will_wake(context.waker()));
        let (state, waker) = known.insert(known_still.unwrap_or_else(|| TaskWaker::of(context.waker())));
        state.poll(waker, future.as_mut())
    })
    .await
}

/// Lets the tasks run that are ready on this thread, and then those whose sockets are.
pub async fn let_others_go_first() {
    let mut is_first = true;
    poll_fn(|context| {
        if std::mem::take(&mut is_first) {
            GIVES_WAY.set(true);
            // Wakes this task when the sockets have been looked at. It must not be polled before, or it would not wait.
            return pin!(tokio::task::yield_now()).poll(context);
        }
        Poll::Ready(())
    })
    .await;
}

/// Leaves the core for a moment to those that want it. For threads of their own whose work takes milliseconds and is waited for
/// by nobody: a kernel that does not preempt itself would let them have the core for all of a large write.
pub fn rest() {
    std::thread::sleep(REST);
}

/// Wakes a task, unless that is being polled, which it is again then.
struct TaskWaker {
    task: Waker,
    state: AtomicU8,
}

impl TaskWaker {
    fn of(task: &Waker) -> (Arc<Self>, Waker) {
        let state = Arc::new(Self { task: task.clone(), state: AtomicU8::new(WAITING) });
        (Arc::clone(&state), Waker::from(state))
    }

    fn poll<F: Future>(&self, waker: &Waker, mut future: Pin<&mut F>) -> Poll<F::Output> {
        for _ in 0..POLLS_MAX {
            GIVES_WAY.set(false);
            self.state.swap(POLLED, Ordering::AcqRel);
            let polled = future.as_mut().poll(&mut Context::from_waker(waker));
            let waits =
                self.state.compare_exchange(POLLED, WAITING, Ordering::AcqRel, Ordering::Acquire).is_ok();
            if polled.is_ready() || waits {
                return polled;
            }
            if GIVES_WAY.get() {
                // Whatever else has woken it takes it that it is polled again, and would not wake it once more: it is woken itself
                // when the others have gone first.
                self.state.swap(WAITING, Ordering::AcqRel);
                if pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&self.task)).is_ready() {
                    self.task.wake_by_ref();
                }
                return Poll::Pending;
            }
        }
        self.task.wake_by_ref();
        Poll::Pending
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Also where it was woken already: who polls it then sees what this thread has done before.
        if self.state.swap(WOKEN, Ordering::AcqRel) == WAITING {
            self.task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::Write as _;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;

    use futures_util::StreamExt as _;
    use futures_util::stream::FuturesUnordered;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[derive(Default)]
    struct Task {
        wakes: AtomicUsize,
    }

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.wakes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What a task of `future` comes to when it is polled once, and how often it was woken meanwhile.
    fn poll_once<F: Future>(future: Pin<&mut F>) -> (Poll<F::Output>, usize) {
        let task = Arc::new(Task::default());
        let polled = future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(&task))));
        (polled, task.wakes.load(Ordering::Relaxed))
    }

    /// Wakes itself when it is polled, and is ready at the last of so many times.
    async fn wakes_itself(times: usize, by: fn(&Waker)) {
        let mut polls = 0;
        poll_fn(|context| {
            polls += 1;
            if polls == times {
                return Poll::Ready(());
            }
            by(context.waker());
            Poll::Pending
        })
        .await;
    }

    #[test]
    fn what_wakes_itself_is_polled_again_at_once() {
        let ways: [fn(&Waker); 2] = [Waker::wake_by_ref, |waker| {
            let waker = waker.clone();
            std::thread::spawn(|| waker.wake()).join().unwrap();
        }];
        for way in ways {
            assert_eq!(poll_once(pin!(polled_at_once(wakes_itself(3, way)))), (Poll::Ready(()), 0));
        }
    }

    #[test]
    fn others_get_their_turn_beside_what_always_wakes_itself() {
        let mut endless = pin!(polled_at_once(wakes_itself(2 * POLLS_MAX, Waker::wake_by_ref)));
        assert_eq!(poll_once(endless.as_mut()), (Poll::Pending, 1));
        assert_eq!(poll_once(endless), (Poll::Ready(()), 0));
    }

    #[tokio::test]
    async fn others_go_first_where_they_shall() {
        let (mut client, server) = std::os::unix::net::UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let mut server = tokio::net::UnixStream::from_std(server).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = |what: &'static str| {
            let told = Arc::clone(&told);
            move || told.lock().unwrap().push(what)
        };
        let (reads, another, polite) = (tell("reads"), tell("another"), tell("polite"));
        let reader = tokio::spawn(async move {
            server.read_u8().await.unwrap();
            reads();
        });
        // The reader waits for its socket.
        tokio::task::yield_now().await;
        client.write_all(b"x").unwrap();
        let waits = tokio::spawn(polled_at_once(async move {
            wakes_itself(2, Waker::wake_by_ref).await;
            let_others_go_first().await;
            wakes_itself(2, Waker::wake_by_ref).await;
            polite();
        }));
        tokio::spawn(async move { another() }).await.unwrap();
        reader.await.unwrap();
        waits.await.unwrap();
        assert_eq!(*told.lock().unwrap(), ["another", "reads", "polite"]);
    }

    #[tokio::test]
    async fn what_wakes_itself_while_others_go_first_is_polled_again() {
        // A set of futures wakes itself when it has polled them all, and from then on takes itself to be woken.
        let both =
            || [(); 2].map(|()| Box::pin(let_others_go_first())).into_iter().collect::<FuturesUnordered<_>>();
        let sets: FuturesUnordered<_> =
            [both(), both()].map(|set| Box::pin(set.count())).into_iter().collect();
        let counted = tokio::spawn(polled_at_once(sets.collect::<Vec<_>>()));
        let counted = tokio::time::timeout(Duration::from_secs(60), counted).await;
        assert_eq!(counted.expect("it is never polled again").unwrap(), [2, 2]);
    }

    #[test]
    fn what_waits_is_woken_once_by_whoever_has_its_waker() {
        let kept = RefCell::new(Vec::new());
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        let mut context = Context::from_waker(&waker);
        let mut waits = pin!(polled_at_once(poll_fn(|context: &mut Context<'_>| {
            kept.borrow_mut().push(context.waker().clone());
            if kept.borrow().len() == 2 { Poll::Ready(()) } else { Poll::Pending }
        })));
        assert!(waits.as_mut().poll(&mut context).is_pending());
        assert_eq!(task.wakes.load(Ordering::Relaxed), 0);
        let waker = kept.borrow()[0].clone();
        waker.wake_by_ref();
        waker.wake_by_ref();
        assert_eq!(task.wakes.load(Ordering::Relaxed), 1);
        assert!(waits.as_mut().poll(&mut context).is_ready());
        assert!(kept.borrow()[1].will_wake(&waker), "who knows it already need not be told again");
    }
}
