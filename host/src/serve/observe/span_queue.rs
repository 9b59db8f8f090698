//! Spans on their way to the exporter. Its own queue drops without a word what it has no place for; this one, in front of it and as
//! long, counts that and tells it, so that nothing comes to the other that finds no place there.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor,
};
use prometheus::IntCounter;

/// Time after which spans that found no place are told again.
const TOLD_INTERVAL: Duration = Duration::from_secs(60);

/// Spans that wait, and those that found no place.
#[derive(Debug)]
struct Queue {
    places: usize,
    waiting: AtomicUsize,
    /// Those that found no place since that was told.
    untold: AtomicU64,
    told_at: Mutex<Option<Instant>>,
    /// Counts those that do not reach the collector.
    dropped: IntCounter,
}

impl Queue {
    fn new(places: usize, dropped: IntCounter) -> Arc<Self> {
        let (waiting, untold, told_at) = (AtomicUsize::new(0), AtomicU64::new(0), Mutex::new(None));
        Arc::new(Self { places, waiting, untold, told_at, dropped })
    }

    /// Whether there is a place for a span, which it takes.
    fn enter(&self) -> bool {
        let more = |waiting: usize| Some(waiting + 1).filter(|waiting| *waiting <= self.places);
        let has_place = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if !has_place {
            self.untold.fetch_add(1, Ordering::Relaxed);
            self.dropped.inc();
        }
        has_place
    }

    /// Frees the places of spans that are sent from now on.
    fn leave(&self, spans: usize) {
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
    }

    /// Tells of spans that found no place, unless that was told a short time before.
    fn tell(&self, now: Instant) {
        let mut told_at = self.told_at.lock().unwrap_or_else(PoisonError::into_inner);
        if told_at.is_none_or(|told_at| now.saturating_duration_since(told_at) >= TOLD_INTERVAL)
            && self.tell_rest()
        {
            *told_at = Some(now);
        }
    }

    /// The same, whenever that was; whether there were any.
    fn tell_rest(&self) -> bool {
        let spans = self.untold.swap(0, Ordering::Relaxed);
        if spans > 0 {
            tracing::warn!(
                spans,
                "the collector takes spans more slowly than they come, and those without a place in the queue \
                 (`OTEL_BSP_MAX_QUEUE_SIZE`) are lost"
            );
        }
        spans > 0
    }
}

/// Sends spans by an exporter, in batches as the variables say, with at most `places` that wait.
#[derive(Debug)]
pub(super) struct CountedSpans {
    batches: BatchSpanProcessor,
    queue: Arc<Queue>,
}

impl CountedSpans {
    /// Counts by `dropped` what does not reach the collector.
    pub(super) fn new<E: SpanExporter + 'static>(exporter: E, places: usize, dropped: IntCounter) -> Self {
        let queue = Queue::new(places, dropped);
        let exporter = CountedExporter { exporter, queue: Arc::clone(&queue) };
        let config = BatchConfigBuilder::default().with_max_queue_size(places).build();
        let batches = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        Self { batches, queue }
    }
}

impl SpanProcessor for CountedSpans {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.queue.enter() {
            self.batches.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        let sent = self.batches.shutdown_with_timeout(timeout);
        self.queue.tell_rest();
        sent
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

#[derive(Debug)]
struct CountedExporter<E> {
    exporter: E,
    queue: Arc<Queue>,
}

impl<E: SpanExporter> SpanExporter for CountedExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.queue.leave(spans);
        // On this thread, since requests must not wait for whoever reads what is told.
        self.queue.tell(Instant::now());
        let sent = self.exporter.export(batch).await;
        if sent.is_err() {
            self.queue.dropped.inc_by(spans as u64);
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::error::OTelSdkError;
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::super::access_log::tests::Kept;
    use super::*;

    fn dropped() -> IntCounter {
        IntCounter::new("dropped", "x").unwrap()
    }

    #[test]
    fn spans_without_a_place_are_counted_and_told_once_a_minute() {
        let (kept, subscriber) = Kept::subscriber();
        let queue = Queue::new(2, dropped());
        let enter = |spans: usize| (0..spans).filter(|_| queue.enter()).count();
        let start = Instant::now();
        tracing::subscriber::with_default(subscriber, || {
            assert_eq!(enter(2), 2);
            queue.tell(start);
            assert_eq!(kept.text(), "", "nothing is lost");
            assert_eq!(enter(3), 0);
            queue.leave(1);
            assert_eq!(enter(1), 1);
            for seconds in [0, 1, 59, 60, 61] {
                queue.tell(start + Duration::from_secs(seconds));
                assert_eq!(enter(1), 0);
            }
            assert!(queue.tell_rest() && !queue.tell_rest());
        });
        assert_eq!(queue.dropped.get(), 8);
        let told = kept.text();
        let found: Vec<&str> =
            told.lines().filter_map(|line| line.split_once("spans=")?.1.get(..1)).collect();
        assert_eq!(found, ["3", "3", "2"], "{told}");
    }

    /// Takes so many spans and no more.
    #[derive(Debug)]
    struct Taken(Arc<AtomicUsize>, usize);

    impl SpanExporter for Taken {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            if self.0.load(Ordering::SeqCst) >= self.1 {
                return Err(OTelSdkError::InternalFailure("no more".to_owned()));
            }
            self.0.fetch_add(batch.len(), Ordering::SeqCst);
            Ok(())
        }
    }

    #[test]
    fn each_span_reaches_the_collector_or_is_counted() {
        for takes in [0, 5_000, usize::MAX] {
            let (taken, dropped) = (Arc::new(AtomicUsize::new(0)), dropped());
            let processor = CountedSpans::new(Taken(Arc::clone(&taken), takes), 16, dropped.clone());
            let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
            let tracer = provider.tracer("test");
            (0..10_000).for_each(|_| tracer.start("span").end());
            provider.shutdown().unwrap_or_default();
            assert_eq!(taken.load(Ordering::SeqCst) as u64 + dropped.get(), 10_000);
        }
    }
}
