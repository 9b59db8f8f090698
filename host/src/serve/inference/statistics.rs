use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::task::{PerWorker, Slot};

/// Batch sizes that are counted each for themselves by a worker; sizes that come when so many were seen only count in the sums.
const BATCH_SIZES_MAX: usize = 128;

/// What one version of a model has done since it was loaded.
#[derive(Debug, Default)]
pub struct ModelStatistics {
    counters: PerWorker<Mutex<Counters>>,
}

/// How long the parts of a request took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Durations {
    /// From its arrival to its answer.
    pub total: Duration,
    /// Waiting for a thread or an instance.
    pub queue: Duration,
    /// Making a batch of the request.
    pub input: Duration,
    /// Transformers and model.
    pub infer: Duration,
    /// Making an answer of the outputs.
    pub output: Duration,
}

/// The statistics at one time, as `GET /v2/models/{name}/stats` answers them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatisticsRecord {
    /// The model.
    pub name: String,
    /// Its version.
    pub version: String,
    /// When the last request was answered, in milliseconds since 1970.
    pub last_inference: u64,
    /// Rows that were computed and answered; as in Triton, those of kept answers are none.
    pub inference_count: u64,
    /// Batches that were computed.
    pub execution_count: u64,
    /// Sums over all requests.
    pub inference_stats: InferenceSums,
    /// Sums over the batches of one size.
    pub batch_stats: Vec<BatchSums>,
}

/// How often something was done, and how long it took in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DurationSum {
    /// How often.
    pub count: u64,
    /// Nanoseconds.
    pub ns: u64,
}

/// Sums over requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the protocol's names")]
pub struct InferenceSums {
    pub success: DurationSum,
    pub fail: DurationSum,
    pub queue: DurationSum,
    pub compute_input: DurationSum,
    pub compute_infer: DurationSum,
    pub compute_output: DurationSum,
    pub cache_hit: DurationSum,
    pub cache_miss: DurationSum,
}

/// Sums over batches of one size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the protocol's names")]
pub struct BatchSums {
    pub batch_size: u64,
    pub compute_input: DurationSum,
    pub compute_infer: DurationSum,
    pub compute_output: DurationSum,
}

#[derive(Debug, Default)]
struct Counters {
    last_inference_ms: u64,
    rows: u64,
    executions: u64,
    sums: InferenceSums,
    batches: BTreeMap<u64, BatchSums>,
}

impl ModelStatistics {
    /// What this thread counts in.
    fn own(&self) -> MutexGuard<'_, Counters> {
        lock(self.counters.of(Slot::own()))
    }

    /// Counts a request of `rows` rows that was computed and answered at `now_ms`, milliseconds since 1970.
    pub fn count_answer(&self, rows: usize, durations: &Durations, now_ms: u64) {
        let mut counters = self.own();
        counters.last_inference_ms = counters.last_inference_ms.max(now_ms);
        counters.rows = counters.rows.saturating_add(rows as u64);
        let sums = &mut counters.sums;
        sums.success.add(durations.total);
        sums.queue.add(durations.queue);
        sums.compute_input.add(durations.input);
        sums.compute_infer.add(durations.infer);
        sums.compute_output.add(durations.output);
    }

    /// Counts `rows` rows that were computed together.
    pub fn count_execution(&self, rows: usize, durations: &Durations) {
        let batch_size = rows as u64;
        let mut counters = self.own();
        counters.executions = counters.executions.saturating_add(1);
        let is_room = counters.batches.len() < BATCH_SIZES_MAX;
        if is_room || counters.batches.contains_key(&batch_size) {
            let batch = counters.batches.entry(batch_size).or_default();
            batch.batch_size = batch_size;
            batch.compute_input.add(durations.input);
            batch.compute_infer.add(durations.infer);
            batch.compute_output.add(durations.output);
        }
    }

    /// Counts a request that was answered at `now_ms` with what was kept from before: nothing was computed for it.
    pub fn count_cached(&self, durations: &Durations, now_ms: u64) {
        let mut counters = self.own();
        counters.last_inference_ms = counters.last_inference_ms.max(now_ms);
        let sums = &mut counters.sums;
        sums.success.add(durations.total);
        sums.queue.add(durations.queue);
        sums.cache_hit.add(durations.total);
    }

    /// Counts a request whose answer was looked for among those that are kept, in vain.
    pub fn count_uncached(&self, total: Duration) {
        self.own().sums.cache_miss.add(total);
    }

    /// Counts a request that got an error.
    pub fn count_failure(&self, total: Duration) {
        self.own().sums.fail.add(total);
    }

    /// What was counted so far.
    pub fn record(&self, name: impl Into<String>, version: impl Into<String>) -> StatisticsRecord {
        let counters = self.counters.all().map(lock).fold(Counters::default(), |all, own| all.with(&own));
        StatisticsRecord {
            name: name.into(),
            version: version.into(),
            last_inference: counters.last_inference_ms,
            inference_count: counters.rows,
            execution_count: counters.executions,
            inference_stats: counters.sums,
            batch_stats: counters.batches.values().copied().collect(),
        }
    }
}

fn lock(counters: &Mutex<Counters>) -> MutexGuard<'_, Counters> {
    counters.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Counters {
    /// What two workers have counted.
    fn with(mut self, other: &Self) -> Self {
        self.last_inference_ms = self.last_inference_ms.max(other.last_inference_ms);
        self.rows = self.rows.saturating_add(other.rows);
        self.executions = self.executions.saturating_add(other.executions);
        self.sums.add(&other.sums);
        for (size, sums) in &other.batches {
            self.batches.entry(*size).or_default().add(sums);
        }
        self
    }
}

impl InferenceSums {
    fn add(&mut self, other: &Self) {
        let Self {
            success,
            fail,
            queue,
            compute_input,
            compute_infer,
            compute_output,
            cache_hit,
            cache_miss,
        } = self;
        success.add_all(other.success);
        fail.add_all(other.fail);
        queue.add_all(other.queue);
        compute_input.add_all(other.compute_input);
        compute_infer.add_all(other.compute_infer);
        compute_output.add_all(other.compute_output);
        cache_hit.add_all(other.cache_hit);
        cache_miss.add_all(other.cache_miss);
    }
}

impl BatchSums {
    fn add(&mut self, other: &Self) {
        self.batch_size = other.batch_size;
        self.compute_input.add_all(other.compute_input);
        self.compute_infer.add_all(other.compute_infer);
        self.compute_output.add_all(other.compute_output);
    }
}

impl DurationSum {
    fn add_all(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.ns = self.ns.saturating_add(other.ns);
    }

    fn add(&mut self, duration: Duration) {
        self.count = self.count.saturating_add(1);
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.ns = self.ns.saturating_add(ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::work_as;

    fn durations(ns: u64) -> Durations {
        let ns = |factor| Duration::from_nanos(ns * factor);
        Durations { total: ns(10), queue: ns(1), input: ns(2), infer: ns(3), output: ns(4) }
    }

    #[test]
    fn rows_requests_and_times_add_up() {
        let statistics = ModelStatistics::default();
        for (rows, ns, now) in [(1, 1, 5_000), (64, 100, 7_000), (1, 10, 6_000)] {
            statistics.count_answer(rows, &durations(ns), now);
            statistics.count_execution(rows, &durations(ns));
        }
        statistics.count_cached(&durations(7), 8_000);
        statistics.count_uncached(Duration::from_nanos(8));
        statistics.count_failure(Duration::from_nanos(9));
        let sum = |count, ns| serde_json::json!({"count": count, "ns": ns});
        let expected = serde_json::json!({
            "name": "mnist",
            "version": "3",
            "last_inference": 8_000,
            "inference_count": 66,
            "execution_count": 3,
            "inference_stats": {
                "success": sum(4, 1_180),
                "fail": sum(1, 9),
                "queue": sum(4, 118),
                "compute_input": sum(3, 222),
                "compute_infer": sum(3, 333),
                "compute_output": sum(3, 444),
                "cache_hit": sum(1, 70),
                "cache_miss": sum(1, 8),
            },
            "batch_stats": [
                {"batch_size": 1, "compute_input": sum(2, 22), "compute_infer": sum(2, 33), "compute_output": sum(2, 44)},
                {"batch_size": 64, "compute_input": sum(1, 200), "compute_infer": sum(1, 300), "compute_output": sum(1, 400)},
            ],
        });
        assert_eq!(serde_json::to_value(statistics.record("mnist", "3")).unwrap(), expected);
    }

    #[test]
    fn callers_cannot_make_the_statistics_grow_without_end() {
        let statistics = ModelStatistics::default();
        for rows in 1..=1_000 {
            statistics.count_answer(rows, &durations(1), 0);
            statistics.count_execution(rows, &durations(1));
        }
        statistics.count_answer(1, &durations(1), 0);
        statistics.count_execution(1, &durations(1));
        let record = statistics.record("mnist", "3");
        assert_eq!(record.batch_stats.len(), 128);
        assert_eq!(record.batch_stats[0].compute_infer.count, 2);
        assert_eq!((record.inference_count, record.execution_count), (500_501, 1_001));
    }

    #[test]
    fn what_workers_count_is_told_together() {
        let statistics = ModelStatistics::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let (statistics, others) = (&statistics, runtime.handle().clone());
                scope.spawn(move || {
                    work_as(worker, others);
                    for rows in 1..=40 {
                        let rows = rows + 40 * worker;
                        statistics.count_answer(rows, &durations(1), rows as u64);
                        statistics.count_execution(rows, &durations(1));
                    }
                    statistics.count_execution(1, &durations(1));
                    statistics.count_failure(Duration::from_nanos(9));
                    statistics.count_cached(&durations(1), 0);
                    statistics.count_uncached(Duration::from_nanos(2));
                });
            }
        });
        let record = statistics.record("mnist", "3");
        assert_eq!(
            (record.last_inference, record.inference_count, record.execution_count),
            (120, 7_260, 123)
        );
        let sums = record.inference_stats;
        let sum = |count, ns| DurationSum { count, ns };
        assert_eq!((sums.success, sums.fail), (sum(123, 1_230), sum(3, 27)));
        assert_eq!((sums.queue, sums.compute_input), (sum(123, 123), sum(120, 240)));
        assert_eq!((sums.compute_infer, sums.compute_output), (sum(120, 360), sum(120, 480)));
        assert_eq!((sums.cache_hit, sums.cache_miss), (sum(3, 30), sum(3, 6)));
        assert_eq!(record.batch_stats.len(), 120);
        let first = record.batch_stats[0];
        assert_eq!((first.batch_size, first.compute_infer), (1, sum(4, 12)));
    }

    #[test]
    fn no_size_is_lost_because_other_workers_have_counted_others() {
        let of_sizes = |sizes: std::ops::Range<u64>| {
            let batches =
                sizes.map(|batch_size| (batch_size, BatchSums { batch_size, ..BatchSums::default() }));
            Counters { batches: batches.collect(), ..Counters::default() }
        };
        assert_eq!(of_sizes(0..100).with(&of_sizes(50..200)).batches.len(), 200);
    }
}
