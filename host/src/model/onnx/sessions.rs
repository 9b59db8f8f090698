//! Sessions of one model. A session answers one caller at a time, so there are as many as there are cores at most, each
//! made when all others are busy: a server at rest has one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ort::logging::LogLevel;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session};

use super::library::Library;
use super::sentence;

/// A session, with what it is asked for.
pub(super) struct Runner {
    pub(super) session: Session,
    pub(super) options: RunOptions<HasSelectedOutputs>,
}

/// Makes and lends them.
pub(super) struct Sessions {
    file: Vec<u8>,
    output: String,
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
    /// Prepares sessions of the model `file` that answer the tensor `output`.
    pub(super) fn new(file: Vec<u8>, output: String) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            file,
            output,
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

    /// Has a session that is free do something; waits where there is none.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Runner) -> Result<T, String>) -> Result<T, String> {
        let free = self.slots.iter().find_map(|slot| slot.try_lock().ok());
        let Some(mut slot) = free.or_else(|| self.wait()) else { return Err("it has no session".to_owned()) };
        if slot.is_none() {
            *slot = Some(self.make()?);
        }
        match slot.as_mut() {
            Some(runner) => work(runner),
            None => Err("it has no session".to_owned()),
        }
    }

    /// Has a session do something that is made and free; none where there is none.
    pub(super) fn with_free<T>(
        &self,
        work: impl FnOnce(&mut Runner) -> Result<T, String>,
    ) -> Option<Result<T, String>> {
        let mut free = self.slots.iter().filter_map(|slot| slot.try_lock().ok());
        let mut slot = free.find(|slot| slot.is_some())?;
        slot.as_mut().map(work)
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
            let outputs = OutputSelector::no_default().with(&*self.output);
            Ok(Runner { session, options: RunOptions::new()?.with_outputs(outputs) })
        };
        make().map_err(|error| format!("ONNX Runtime refuses it: {}", sentence(error.message())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_wait_is_given_no_session_that_is_not_made() {
        let sessions = Sessions::new(Vec::new(), "y".to_owned());
        assert!(sessions.with_free(|_| Ok(())).is_none());
        let _busy: Vec<_> = sessions.slots.iter().map(|slot| slot.lock().unwrap()).collect();
        assert!(sessions.with_free(|_| Ok(())).is_none(), "and waits for none");
    }
}
