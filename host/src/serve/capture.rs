use std::error::Error;
use std::iter::successors;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;

use rustix::process::setpriority_process;
use rustix::thread::gettid;

use super::recorder::FLUSH_INTERVAL;
use super::{Endpoints, Recorder, WindowError};
use crate::data::DataError;

/// How much the thread that writes makes way for others: it gets about a tenth of a core that is wanted by one of them.
const NICENESS: i32 = 10;

/// What was captured of requests could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Of a window.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// Predictions.
    #[error("failed to write predictions")]
    Predictions(#[from] DataError),
    /// There is no thread for it.
    #[error("failed to start a thread")]
    Thread(#[from] std::io::Error),
}

/// Writes what was captured of requests, their rows and predictions, about once a second, and at the end.
///
/// It has a thread of its own, which makes way for those that answer: the work is some milliseconds, and whoever would wait for it
/// is late.
pub struct Capture {
    captured: Captured,
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

#[derive(Clone)]
struct Captured {
    endpoints: Arc<Endpoints>,
    recorder: Option<Arc<Recorder>>,
}

impl Capture {
    /// Begins to write what `endpoints` capture, and predictions where they are recorded.
    pub fn start(endpoints: Arc<Endpoints>, recorder: Option<Arc<Recorder>>) -> Result<Self, CaptureError> {
        let captured = Captured { endpoints, recorder };
        let (stop, stopped) = mpsc::channel();
        let writing = captured.clone();
        let thread = std::thread::Builder::new().name("capture".to_owned()).spawn(move || {
            if let Err(error) = setpriority_process(Some(gettid()), NICENESS) {
                tracing::debug!(%error, "the thread that writes windows makes way for nobody");
            }
            let mut is_broken = false;
            while stopped.recv_timeout(FLUSH_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                // A mistake of ours in one write is no reason for no others.
                let written = catch_unwind(AssertUnwindSafe(|| writing.flush()));
                // Told once, until it works again.
                match &written {
                    Ok(Err(error)) if !is_broken => tracing::error!("{}", with_causes(error)),
                    Err(_) if !is_broken => tracing::error!("the writer of what was captured failed"),
                    _ => {}
                }
                is_broken = !matches!(written, Ok(Ok(())));
            }
        })?;
        Ok(Self { captured, stop, thread })
    }

    /// Writes what is left, and ends. Waits for it.
    pub fn finish(self) -> Result<(), CaptureError> {
        drop(self.stop);
        // It does not panic; if it did, what is left is written all the same.
        let _ = self.thread.join();
        self.captured.flush()
    }
}

/// An error and what led to it, in one line.
pub fn with_causes(error: &dyn Error) -> String {
    let causes = successors(Some(error), |&error| error.source());
    let mut causes: Vec<String> = causes.map(ToString::to_string).collect();
    // Some errors only pass on what another says.
    causes.dedup();
    causes.join(": ")
}

impl Captured {
    fn flush(&self) -> Result<(), CaptureError> {
        let windows = self.endpoints.flush_windows();
        if let Some(recorder) = &self.recorder {
            recorder.flush()?;
        }
        Ok(windows?)
    }
}
