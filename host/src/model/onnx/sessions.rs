//! Sessions of one model. A session answers one caller at a time, so there are as many as there are cores at most, each
//! made when all others are busy: a server at rest has one.

use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ort::logging::LogLevel;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionOutputs};
use ort::value::{PrimitiveTensorElementType, Tensor, TensorRef};

use super::library::Library;
use super::sentence;

/// Longest time for a row that could take any time, where there is no deadline.
const ROW_MAX: Duration = Duration::from_secs(60);

/// Stack of the thread that makes a session: several times what trees of the most levels take there.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// A session, with how it is asked.
pub(super) struct Runner {
    session: Session,
    asking: Asking,
}

/// How a session is asked for the output.
enum Asking {
    /// Where a row always takes as long as another.
    Plainly(RunOptions<HasSelectedOutputs>),
    /// Where it may take for ever.
    Watched { input: String, output: String, memory: MemoryInfo<'static>, watch: Arc<Watch> },
}

/// By what a run is ended from another thread.
struct Watch {
    /// Those with outputs cannot be shared.
    options: RunOptions,
    /// Since when the row has been computed.
    since: Mutex<Instant>,
}

impl Runner {
    /// Has the session answer a row of this shape.
    pub(super) fn ask<T: PrimitiveTensorElementType + Debug + Clone + 'static, R>(
        &mut self,
        shape: &[usize],
        features: &[T],
        read: impl Fn(&SessionOutputs<'_>) -> Result<R, String>,
    ) -> Result<R, String> {
        let told = |error: ort::Error| sentence(error.message());
        match &self.asking {
            Asking::Plainly(options) => {
                let tensor = TensorRef::from_array_view((shape, features)).map_err(told)?;
                let outputs = self.session.run_with_options(ort::inputs![tensor], options).map_err(told)?;
                read(&outputs)
            }
            Asking::Watched { input, output, memory, watch } => {
                let tensor = Tensor::from_array((shape, features.to_vec())).map_err(told)?;
                let mut binding = self.session.create_binding().map_err(told)?;
                binding.bind_input(input.as_str(), &tensor).map_err(told)?;
                binding.bind_output_to_device(output.as_str(), memory).map_err(told)?;
                *watch.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                let ran = self.session.run_binding_with_options(&binding, &watch.options);
                read(&ran.map_err(told)?)
            }
        }
    }

    /// Does something, in which a run ends that could take for ever: at `deadline` or, where there is none, after [`ROW_MAX`].
    fn within<T>(
        &mut self,
        deadline: Option<Instant>,
        work: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        let Asking::Watched { watch, .. } = &self.asking else { return work(self) };
        let watch = Arc::clone(watch);
        *watch.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let (working, worked) = channel::<()>();
        let (done, is_ended) = thread::scope(|scope| {
            let watch = &watch;
            let end = move || {
                is_over(deadline, &watch.since, ROW_MAX, &worked) && watch.options.terminate().is_ok()
            };
            let watching = thread::Builder::new().spawn_scoped(scope, end);
            let watching = watching.map_err(|error| format!("it cannot be watched: {error}"))?;
            let done = work(self);
            drop(working);
            Ok::<_, String>((done, watching.join().unwrap_or(true)))
        })?;
        if is_ended {
            watch.options.unterminate().map_err(|error| sentence(error.message()))?;
        }
        match done {
            Err(_) if is_ended => Err(format!("a row took longer than its limit of {} s", ROW_MAX.as_secs())),
            done => done,
        }
    }
}

/// Waits until who works has done so, or its time is over, which is told.
fn is_over(
    deadline: Option<Instant>,
    since: &Mutex<Instant>,
    row_max: Duration,
    worked: &Receiver<()>,
) -> bool {
    loop {
        let of_row = || *since.lock().unwrap_or_else(PoisonError::into_inner) + row_max;
        let left = deadline.unwrap_or_else(of_row).saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        if worked.recv_timeout(left) == Err(RecvTimeoutError::Disconnected) {
            return false;
        }
    }
}

/// Makes and lends them.
pub(super) struct Sessions {
    file: Vec<u8>,
    output: String,
    is_watched: bool,
    slots: Vec<Mutex<Option<Runner>>>,
    /// Where those who find all busy wait, one after another.
    next: AtomicUsize,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Sessions").field("output", &self.output).finish_non_exhaustive()
    }
}

impl Sessions {
    /// Prepares sessions of the model `file` that answer the tensor `output`, which are watched where a row may take for ever.
    pub(super) fn new(file: Vec<u8>, output: String, is_watched: bool) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            file,
            output,
            is_watched,
            slots: (0..cores).map(|_| Mutex::new(None)).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// As many as answer at the same time.
    pub(super) fn count(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of the file and, as far as that can be told, of the sessions.
    pub(super) fn byte_len(&self) -> usize {
        let is_made = |slot: &&Mutex<Option<Runner>>| slot.try_lock().map_or(true, |slot| slot.is_some());
        self.file.len() * (1 + self.slots.iter().filter(is_made).count())
    }

    /// Has a session that is free do something, until `deadline` where it is watched; waits where there is none.
    pub(super) fn with<T>(
        &self,
        deadline: Option<Instant>,
        work: impl FnOnce(&mut Runner) -> Result<T, String>,
    ) -> Result<T, String> {
        let Some(mut slot) = free(&self.slots).or_else(|| self.wait()) else {
            return Err("it has no session".to_owned());
        };
        if slot.is_none() {
            *slot = Some(self.make()?);
        }
        match slot.as_mut() {
            Some(runner) => runner.within(deadline, work),
            None => Err("it has no session".to_owned()),
        }
    }

    /// Has a session do something that is made and free; none where there is none.
    pub(super) fn with_free<T>(
        &self,
        work: impl FnOnce(&mut Runner) -> Result<T, String>,
    ) -> Option<Result<T, String>> {
        made(&self.slots)?.as_mut().map(work)
    }

    fn wait(&self) -> Option<MutexGuard<'_, Option<Runner>>> {
        let place = self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len().max(1);
        Some(self.slots.get(place)?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn make(&self) -> Result<Runner, String> {
        let library = Library::get().map_err(|error| error.to_string())?;
        let make = || -> ort::Result<Runner> {
            let session = Session::builder(&library.environment)?
                // One thread for each call: servers have many calls, and bits do not depend on the number of cores.
                .with_intra_threads(1)?
                .with_inter_threads(1)?
                .with_deterministic_compute(true)?
                // Weights are not rounded up to the sizes in which the arena grows.
                .with_device_allocated_initializers()?
                // Its log would go to our standard error; what failed is in the error too.
                .with_log_level(LogLevel::Fatal)?
                // Never the runtime's own format, which is not checked when it is read.
                .with_config_entry("session.load_model_format", "ONNX")?
                .commit_from_memory(&self.file)?;
            let options = RunOptions::new()?;
            let asking = match session.inputs().first() {
                Some(input) if self.is_watched => Asking::Watched {
                    input: input.name().to_owned(),
                    output: self.output.clone(),
                    memory: MemoryInfo::new(
                        AllocationDevice::CPU,
                        0,
                        AllocatorType::Device,
                        MemoryType::CPUOutput,
                    )?,
                    watch: Arc::new(Watch { options, since: Mutex::new(Instant::now()) }),
                },
                _ => Asking::Plainly(options.with_outputs(OutputSelector::no_default().with(&*self.output))),
            };
            Ok(Runner { session, asking })
        };
        thread::scope(|scope| {
            let making = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, make);
            let making = making.map_err(|error| format!("no thread can read it: {error}"))?;
            let made = making.join().map_err(|_| "the thread that read it has ended".to_owned())?;
            made.map_err(|error| format!("ONNX Runtime refuses it: {}", sentence(error.message())))
        })
    }
}

/// A slot that is free: one of which something is made, where there is one.
fn free<T>(slots: &[Mutex<Option<T>>]) -> Option<MutexGuard<'_, Option<T>>> {
    made(slots).or_else(|| slots.iter().find_map(|slot| slot.try_lock().ok()))
}

/// A slot that is free and of which something is made.
fn made<T>(slots: &[Mutex<Option<T>>]) -> Option<MutexGuard<'_, Option<T>>> {
    slots.iter().filter_map(|slot| slot.try_lock().ok()).find(|slot| slot.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_wait_is_given_no_session_that_is_not_made() {
        let sessions = Sessions::new(Vec::new(), "y".to_owned(), false);
        assert!(sessions.with_free(|_| Ok(())).is_none());
        let _busy: Vec<_> = sessions.slots.iter().map(|slot| slot.lock().unwrap()).collect();
        assert!(sessions.with_free(|_| Ok(())).is_none(), "and waits for none");
    }

    #[test]
    fn nothing_is_made_where_what_is_made_is_free() {
        let slots = [None, Some(1), None].map(Mutex::new);
        let first = free(&slots).unwrap();
        assert_eq!(*first, Some(1));
        assert!(free(&slots).unwrap().is_none() && made(&slots).is_none(), "it is busy");
        drop(first);
        let _busy = slots[0].lock().unwrap();
        assert_eq!(*free(&slots).unwrap(), Some(1));
    }

    #[test]
    fn who_has_no_deadline_has_the_time_of_a_row() {
        let (hour, none) = (Duration::from_secs(3_600), Duration::ZERO);
        let since = Mutex::new(Instant::now());
        let (working, worked) = channel();
        assert!(is_over(None, &since, none, &worked));
        assert!(is_over(Some(Instant::now()), &since, hour, &worked), "the deadline counts");
        drop(working);
        assert!(!is_over(None, &since, hour, &worked), "who is done is not ended");
        assert!(!is_over(Some(Instant::now() + hour), &since, none, &worked));
    }
}
