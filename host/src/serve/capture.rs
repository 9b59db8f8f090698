use std::error::Error;
use std::iter::successors;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;
use rustix::thread::gettid;

use super::recorder::FLUSH_INTERVAL;
use super::{Endpoints, Recorder, WindowError};
use crate::data::DataError;

/// How much the thread that writes makes way for others: it gets about a tenth of a core that is wanted by one of them.
const NICENESS: i32 = 10;

/// How long it rests where one write takes longer than there is between two.
const REST_MIN: Duration = Duration::from_millis(100);

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
/// Each has a thread of its own, so that the windows of many endpoints do not keep predictions waiting. They make way for those that
/// answer: the work is some milliseconds, and whoever would wait for it is late.
pub struct Capture {
    endpoints: Arc<Endpoints>,
    recorder: Option<Arc<Recorder>>,
    writers: Vec<Writer>,
}

/// A thread that writes.
struct Writer {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Capture {
    /// Begins to write what `endpoints` capture, and predictions where they are recorded.
    pub fn start(endpoints: Arc<Endpoints>, recorder: Option<Arc<Recorder>>) -> Result<Self, CaptureError> {
        let windows = Arc::clone(&endpoints);
        let mut writers = vec![Writer::start("windows", move || Ok(windows.flush_windows()?))?];
        if let Some(recorder) = recorder.clone() {
            writers.push(Writer::start("predictions", move || Ok(recorder.flush()?))?);
        }
        Ok(Self { endpoints, recorder, writers })
    }

    /// Writes what is left, and ends. Waits for it.
    pub fn finish(self) -> Result<(), CaptureError> {
        for Writer { stop, thread } in self.writers {
            drop(stop);
            // It does not panic; if it did, what is left is written all the same.
            let _ = thread.join();
        }
        let windows = self.endpoints.flush_windows().map_err(CaptureError::from);
        let predictions = self.recorder.map_or(Ok(()), |recorder| recorder.flush());
        let predictions = predictions.map_err(CaptureError::from);
        if let (Err(error), Err(_)) = (&windows, &predictions) {
            // Only one can be given.
            tracing::error!("{}", with_causes(error));
        }
        predictions.and(windows)
    }
}

impl Writer {
    fn start(
        name: &str,
        write: impl Fn() -> Result<(), CaptureError> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            if let Err(error) = setpriority_process(Some(gettid()), NICENESS) {
                tracing::debug!(%error, "a thread that writes makes way for nobody");
            }
            let (mut waits, mut is_broken) = (FLUSH_INTERVAL, false);
            while stopped.recv_timeout(waits) == Err(RecvTimeoutError::Timeout) {
                let begun = Instant::now();
                // A mistake of ours in one write is no reason for no others.
                let failure = match catch_unwind(AssertUnwindSafe(&write)) {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(with_causes(&error)),
                    Err(_) => Some("the writer of what was captured failed".to_owned()),
                };
                // Told once, until it works again.
                if let Some(failure) = failure.as_ref().filter(|_| !is_broken) {
                    tracing::error!("{failure}");
                }
                is_broken = failure.is_some();
                waits = FLUSH_INTERVAL.saturating_sub(begun.elapsed()).max(REST_MIN);
            }
        })?;
        Ok(Self { stop, thread })
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

#[cfg(test)]
mod tests {
    use prometheus::IntCounter;

    use super::super::deployment::tests::deployment_with;
    use super::super::{Endpoint, Routing, WindowCapture};
    use super::*;
    use crate::data::{AnsweredBy, BundleRecord, PredictionRecord, PredictionWriter, WindowWriter};
    use crate::domain::{Batch, Digest, Name, Tensor};
    use crate::store::Store;

    #[test]
    fn a_writer_goes_on_after_what_fails_and_ends_when_it_is_told_to() {
        let (written, writes) = mpsc::channel();
        let turn = std::sync::atomic::AtomicUsize::new(0);
        let writer = Writer::start("test", move || {
            written.send(()).unwrap();
            match turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                0 => panic!("a mistake of ours"),
                1 => Err(std::io::Error::other("full").into()),
                _ => Ok(()),
            }
        });
        let Writer { stop, thread } = writer.unwrap();
        for _ in 0..3 {
            writes.recv().unwrap();
        }
        drop(stop);
        thread.join().unwrap();
    }

    #[test]
    fn what_cannot_be_written_at_the_end_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (name, bundle): (Name, _) = ("one".parse().unwrap(), Digest::of(b""));
        let writer = WindowWriter::open(&store, &name, bundle, 10).unwrap();
        let window = Arc::new(WindowCapture::new(writer, Arc::default()));
        let endpoints = Endpoints::default();
        let (_, deployment) = deployment_with(1, 1, Some(Arc::clone(&window)));
        endpoints.insert(Endpoint::new(name.clone(), Routing::to(Arc::new(deployment))));
        let writer = PredictionWriter::open(&store, 10).unwrap();
        let recorder = Recorder::new(writer, IntCounter::new("unrecorded", "x").unwrap());
        // A disk that takes no more.
        for taken in ["windows", "predictions"] {
            _ = std::fs::remove_dir_all(folder.path().join(taken));
            std::fs::write(folder.path().join(taken), "").unwrap();
        }
        let rows = || Batch::new(vec![Tensor::from_f32("x", vec![1], &[0.5]).unwrap()]).unwrap();
        window.offer(&rows(), &Batch::default());
        let answered_by = AnsweredBy::Bundle(BundleRecord { version: None, bundle, is_of_bundle: true });
        let (id, inputs, outputs) = ("0".to_owned(), rows(), Batch::default());
        let record = PredictionRecord { id, answered_at: 1, endpoint: name, answered_by, inputs, outputs };
        assert!(recorder.offer(4, || record));
        let endpoints = Arc::new(endpoints);
        let end = |recorder| {
            let endpoints = Arc::clone(&endpoints);
            Capture { endpoints, recorder, writers: Vec::new() }.finish().unwrap_err()
        };
        let predictions = end(Some(Arc::new(recorder)));
        assert!(matches!(predictions, CaptureError::Predictions(_)), "{predictions}");
        window.offer(&rows(), &Batch::default());
        let windows = end(None);
        assert!(matches!(windows, CaptureError::Window(_)), "{windows}");
    }
}
