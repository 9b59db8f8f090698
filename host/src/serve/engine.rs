use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::capture::with_causes;
use super::graph::Part;
use super::metrics::DeploymentMetrics;
use super::offload::{
    INLINE_BYTES_MAX, INLINE_NANOS_MAX, INLINE_ROWS_MAX, INLINE_SCORES_MAX, on_blocking_pool,
    on_shared_threads,
};
use super::queue::too_late;
use super::window::WindowCapture;
use super::work::{Work, WorkError, Worked};
use super::{ApiError, StageTimes};
use crate::domain::Batch;
use crate::plugin::{Fault, block_on};
use crate::registry::PredictionError;
use crate::task::shared_threads;

/// What a deployment has loaded, at work: computes batches, offers what it saw to the window, and counts.
pub(super) struct Engine {
    pub(super) work: Work,
    pub(super) window: Option<Arc<WindowCapture>>,
    pub(super) metrics: DeploymentMetrics,
    /// What a row takes, in nanoseconds; 0 before the first.
    row_nanos: AtomicU64,
    /// Places on the blocking pool: what more threads began than there are cores would only take longer, and plugins run into
    /// their limits.
    pub(super) places: Arc<Semaphore>,
    /// Places on the threads that ask. What is quick never gives way to others there, so that more than there are threads are
    /// plugins that take long: all of a burst would have their memory at once, and their turns on the thread.
    pub(super) places_here: Semaphore,
}

/// A batch, computed.
#[derive(Debug, Clone)]
pub(super) struct Computed {
    /// What was asked.
    pub(super) inputs: Batch,
    /// What was answered.
    pub(super) outputs: Batch,
    /// What the model saw and what it said; none where it was computed together with others, and offered with them.
    pub(super) seen: Option<(Batch, Batch)>,
    /// Time in transformers and model, and before them in the queue.
    pub(super) times: StageTimes,
    /// Rows that were computed together.
    pub(super) batch_rows: usize,
    /// Who answered for a graph.
    pub(super) parts: Vec<Part>,
    /// Whether this is the one of those computed together that stands for all of them in statistics.
    pub(super) is_first: bool,
}

impl Engine {
    /// Of `work` of which a row takes `row_time`, where that is known.
    pub(super) fn new(
        work: Work,
        window: Option<Arc<WindowCapture>>,
        metrics: DeploymentMetrics,
        row_time: Option<Duration>,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let places = match work {
            Work::Bundle(_) => cores,
            // It waits for others most of the time. What it has of their answers is bounded so.
            Work::Graph(_) => 8 * cores,
        };
        let (places, places_here) = (Arc::new(Semaphore::new(places)), Semaphore::new(2 * cores));
        let row_nanos = AtomicU64::new(row_time.map_or(0, nanos_of));
        Self { work, window, metrics, row_nanos, places, places_here }
    }

    /// Computes a batch: on this thread, if that takes about a millisecond at most, and otherwise on the blocking pool; what a
    /// graph does with many rows on threads that answer no connections. What it asks waits until `deadline`.
    ///
    /// `held` is let go when the work is done, and not before: who asks may go away, which does not end what a thread of
    /// the pool has begun.
    pub(super) async fn compute(
        self: &Arc<Self>,
        inputs: Batch,
        deadline: Option<tokio::time::Instant>,
        held: impl Send + 'static,
    ) -> Result<Computed, ApiError> {
        if let Some(place) = self.place_here(&inputs) {
            let worked = self.work_on(&inputs, deadline, true).await;
            drop(place);
            // What has to wait does so elsewhere.
            if !worked.as_ref().is_err_and(WorkError::is_busy) {
                drop(held);
                return Ok(computed(inputs, worked?));
            }
        }
        let waiting = Instant::now();
        let place = Arc::clone(&self.places).acquire_owned();
        let place = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, place).await.map_err(|_| too_late())?,
            None => place.await,
        };
        let waited = waiting.elapsed();
        let (engine, held) = (Arc::clone(self), (held, place));
        let mut computed = match self.work {
            // It waits for others most of the time, which no thread shall do for it.
            Work::Graph(_) => {
                on_shared_threads(async move {
                    let computed = engine.compute_here(inputs, deadline).await;
                    drop(held);
                    computed
                })
                .await??
            }
            Work::Bundle(_) => {
                on_blocking_pool(move || {
                    let computed = block_on(engine.compute_here(inputs, deadline));
                    drop(held);
                    computed
                })
                .await??
            }
        };
        computed.times.queue = waited;
        Ok(computed)
    }

    async fn compute_here(
        &self,
        inputs: Batch,
        deadline: Option<tokio::time::Instant>,
    ) -> Result<Computed, ApiError> {
        let worked = self.work_on(&inputs, deadline, false).await?;
        Ok(computed(inputs, worked))
    }

    async fn work_on(
        &self,
        inputs: &Batch,
        deadline: Option<tokio::time::Instant>,
        at_once: bool,
    ) -> Result<Worked, WorkError> {
        let (started, rows) = (Instant::now(), inputs.rows());
        let worked = self.work.compute(inputs, deadline, at_once).await;
        if worked.as_ref().is_err_and(WorkError::is_busy) {
            return worked;
        }
        // What one core takes for a row cannot be told where several have shared them.
        if !self.work.shares_cores(rows) {
            self.learn(rows, started.elapsed(), worked.is_err());
        }
        let worked = worked.inspect_err(|error| self.count_fault(error))?;
        self.metrics.count_batch(rows, &worked.calls);
        Ok(worked)
    }

    /// Computes the batch of one request, which has waited for so long, and shows the window what the model saw. That is left in
    /// what comes of it if the request `keeps` it.
    pub(super) async fn compute_request(
        self: &Arc<Self>,
        inputs: Batch,
        waited: Duration,
        deadline: Option<tokio::time::Instant>,
        keeps: bool,
        held: impl Send + 'static,
    ) -> Result<Computed, ApiError> {
        let mut computed = self.compute(inputs, deadline, held).await?;
        computed.times.queue += waited;
        let seen = if keeps { computed.seen.clone() } else { computed.seen.take() };
        if computed.batch_rows <= INLINE_ROWS_MAX {
            self.offer(seen);
        } else {
            let engine = Arc::clone(self);
            on_blocking_pool(move || engine.offer(seen)).await?;
        }
        Ok(computed)
    }

    /// Shows the window what the model saw.
    pub(super) fn offer(&self, seen: Option<(Batch, Batch)>) {
        if let (Some(window), Some((features, scores))) = (&self.window, seen) {
            window.offer(&features, &scores);
        }
    }

    /// What a row takes, in nanoseconds, judging by those before; 0 before the first.
    pub(super) fn row_nanos(&self) -> u64 {
        self.row_nanos.load(Ordering::Relaxed)
    }

    /// As if a row had always taken so long: the first on a busy machine may take anything.
    #[cfg(test)]
    pub(super) fn set_row_nanos(&self, nanos: u64) {
        self.row_nanos.store(nanos, Ordering::Relaxed);
    }

    /// A place on this thread for what is quick; none is counted for a graph, which waits for others.
    fn place_here(&self, inputs: &Batch) -> Option<Option<SemaphorePermit<'_>>> {
        match self.work {
            _ if !self.is_quick(inputs) => None,
            Work::Graph(_) => Some(None),
            Work::Bundle(_) => self.places_here.try_acquire().ok().map(Some),
        }
    }

    fn is_quick(&self, inputs: &Batch) -> bool {
        let rows = inputs.rows();
        let scores = rows.saturating_mul(self.work.score_count());
        if let Work::Graph(graph) = &self.work {
            // It waits for others, and puts their answers together.
            let scores = scores.saturating_mul(graph.node().endpoint_count());
            return rows <= INLINE_ROWS_MAX
                && inputs.byte_len() <= INLINE_BYTES_MAX
                && scores <= INLINE_SCORES_MAX;
        }
        let nanos = match self.row_nanos() {
            // How long the first takes nobody knows before.
            0 => u64::MAX,
            nanos => nanos.saturating_mul(rows as u64),
        };
        // Whoever waits for a pool's threads holds up more than itself.
        rows <= INLINE_ROWS_MAX
            && !self.work.shares_cores(rows)
            && !self.work.cost_varies()
            && inputs.byte_len() <= INLINE_BYTES_MAX
            && scores <= INLINE_SCORES_MAX
            && nanos <= INLINE_NANOS_MAX
    }

    /// Takes into account what rows have taken. Slowly, so that a few that were disturbed do not count much; and those that `failed`
    /// only where that took longer, since most failures come early.
    fn learn(&self, rows: usize, took: Duration, failed: bool) {
        let nanos = nanos_of(took) / (rows.max(1) as u64);
        let known = self.row_nanos();
        if failed && nanos <= known {
            return;
        }
        let learned = if known == 0 { nanos } else { known - known / 8 + nanos / 8 };
        self.row_nanos.store(learned, Ordering::Relaxed);
    }

    /// Counts what a plugin is to blame for.
    fn count_fault(&self, error: &WorkError) {
        let WorkError::Prediction(error) = error else { return };
        match error {
            PredictionError::Plugin(error) if !matches!(error.fault, Fault::InvalidInput { .. }) => {
                self.metrics.count_fault(error);
            }
            PredictionError::Postprocess(error) | PredictionError::Columns(error) => {
                self.metrics.count_fault(error)
            }
            _ => {}
        }
    }
}

fn nanos_of(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Drop for Engine {
    /// Writes what the window has of the last second: it is asked no more when its version has left the endpoint.
    fn drop(&mut self) {
        let Some(window) = self.window.take() else { return };
        let write = move || {
            if let Err(error) = window.flush() {
                tracing::error!("{}", with_causes(&error));
            }
        };
        match shared_threads() {
            Some(threads) => _ = threads.spawn_blocking(write),
            None => write(),
        }
    }
}

fn computed(inputs: Batch, worked: Worked) -> Computed {
    let (batch_rows, Worked { outputs, seen, times, parts, .. }) = (inputs.rows(), worked);
    Computed { inputs, outputs, seen, times, batch_rows, parts, is_first: true }
}
