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
            let mut is_broken = [false; 2];
            while stopped.recv_timeout(FLUSH_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                // A mistake of ours in one write is no reason for no others.
                let written = catch_unwind(AssertUnwindSafe(|| writing.flush()));
                // Each told once, until it works again.
                let Ok(written) = written else {
                    if is_broken != [true; 2] {
                        tracing::error!("the writer of what was captured failed");
                    }
                    is_broken = [true; 2];
                    continue;
                };
                for (written, is_broken) in written.iter().zip(&mut is_broken) {
                    match written {
                        Err(error) if !*is_broken => tracing::error!("{}", with_causes(error)),
                        _ => {}
                    }
                    *is_broken = written.is_err();
                }
            }
        })?;
        Ok(Self { captured, stop, thread })
    }

    /// Writes what is left, and ends. Waits for it.
    pub fn finish(self) -> Result<(), CaptureError> {
        drop(self.stop);
        // It does not panic; if it did, what is left is written all the same.
        let _ = self.thread.join();
        let [windows, predictions] = self.captured.flush();
        if let (Err(error), Err(_)) = (&windows, &predictions) {
            // Only one can be given.
            tracing::error!("{}", with_causes(error));
        }
        predictions.and(windows)
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
    /// Writes windows, and predictions.
    fn flush(&self) -> [Result<(), CaptureError>; 2] {
        let windows = self.endpoints.flush_windows().map_err(CaptureError::from);
        let predictions = self.recorder.as_ref().map_or(Ok(()), |recorder| recorder.flush());
        [windows, predictions.map_err(CaptureError::from)]
    }
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
    fn of_windows_and_predictions_each_is_told() {
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
        let captured = Captured { endpoints: Arc::new(endpoints), recorder: Some(Arc::new(recorder)) };
        let [windows, predictions] = captured.flush().map(|written| written.unwrap_err());
        assert!(matches!(windows, CaptureError::Window(_)), "{windows}");
        assert!(matches!(predictions, CaptureError::Predictions(_)), "{predictions}");
    }
}
