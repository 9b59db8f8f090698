//! Histograms that threads which answer requests do not take from each other.

use std::array;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::proto::{self, Bucket, LabelPair, Metric, MetricFamily, MetricType};

use super::{family, label};
use crate::task::{PerWorker, Slot};

/// Limits of a histogram at most.
pub(super) const LIMITS_MAX: usize = 19;

/// How often values were of what size: a cumulative histogram, as Prometheus has it. Each worker counts for itself, since a count
/// that all cores write to makes each wait for the others.
pub(super) struct Histogram {
    name: &'static str,
    help: &'static str,
    labels: BTreeMap<String, String>,
    limits: &'static [f64],
    counts: PerWorker<Counts>,
}

struct Counts {
    /// Of each limit, values that are no larger and larger than the one before; then of larger ones than all.
    of_limits: [AtomicU64; LIMITS_MAX + 1],
    /// The bits of the sum of all.
    sum: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        Self { of_limits: array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0_f64.to_bits()) }
    }
}

impl Histogram {
    /// An empty one with the limits of its buckets, which ascend; no more than [`LIMITS_MAX`] of them are used.
    pub(super) fn new(
        name: &'static str,
        help: &'static str,
        labels: BTreeMap<String, String>,
        limits: &'static [f64],
    ) -> Self {
        let limits = limits.get(..LIMITS_MAX).unwrap_or(limits);
        Self { name, help, labels, limits, counts: PerWorker::default() }
    }

    /// Counts a value.
    pub(super) fn observe(&self, value: f64) {
        let counts = self.counts.of(Slot::own());
        let index = self.limits.iter().position(|limit| value <= *limit).unwrap_or(self.limits.len());
        if let Some(count) = counts.of_limits.get(index) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let add = |sum: u64| Some((f64::from_bits(sum) + value).to_bits());
        // It never says no.
        let _ = counts.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Values that were counted.
    pub(super) fn count(&self) -> u64 {
        self.counts
            .all()
            .flat_map(|counts| &counts.of_limits)
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    /// What was counted.
    pub(super) fn collect(&self) -> MetricFamily {
        let mut of_limits = [0; LIMITS_MAX + 1];
        let mut sum = 0.0;
        for counts in self.counts.all() {
            let own = counts.of_limits.iter().map(|count| count.load(Ordering::Relaxed));
            of_limits.iter_mut().zip(own).for_each(|(all, own)| *all += own);
            sum += f64::from_bits(counts.sum.load(Ordering::Relaxed));
        }
        let mut count = 0;
        let mut buckets = Vec::with_capacity(self.limits.len());
        for (limit, of_limit) in self.limits.iter().zip(of_limits) {
            count += of_limit;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*limit);
            bucket.set_cumulative_count(count);
            buckets.push(bucket);
        }
        let mut histogram = proto::Histogram::default();
        histogram.set_sample_count(of_limits.iter().sum());
        histogram.set_sample_sum(sum);
        histogram.set_bucket(buckets);
        let mut metric = Metric::default();
        metric.set_label(self.labels());
        metric.set_histogram(histogram);
        family(self.name, self.help, MetricType::HISTOGRAM, metric)
    }

    /// Its labels, in the order of their names.
    pub(super) fn labels(&self) -> Vec<LabelPair> {
        self.labels.iter().map(|(name, value)| label(name, value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;
    use crate::task::work_as;

    #[test]
    fn buckets_are_cumulative_whoever_has_counted() {
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let histogram = Histogram::new("rows", "Rows.", labels, &[1.0, 2.0, 4.0]);
        [0.5, 1.0, 1.5].into_iter().for_each(|value| histogram.observe(value));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        std::thread::scope(|scope| {
            for worker in [0, 1, 1_000] {
                let (histogram, others) = (&histogram, runtime.handle().clone());
                scope.spawn(move || {
                    work_as(worker, others);
                    [4.0, 9.0].into_iter().for_each(|value| histogram.observe(value));
                });
            }
        });
        assert_eq!(histogram.count(), 9);
        let text = TextEncoder::new().encode_to_string(&[histogram.collect()]).unwrap();
        let expected = "# HELP rows Rows.\n# TYPE rows histogram\nrows_bucket{a=\"b\",le=\"1\"} 2\nrows_bucket{a=\"b\",le=\"2\"} 3\n\
                        rows_bucket{a=\"b\",le=\"4\"} 6\nrows_bucket{a=\"b\",le=\"+Inf\"} 9\nrows_sum{a=\"b\"} 42\n\
                        rows_count{a=\"b\"} 9\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_no_number_is_in_no_bucket_but_the_last() {
        let histogram = Histogram::new("x", "X.", BTreeMap::new(), &[1.0]);
        histogram.observe(f64::NAN);
        assert_eq!(histogram.collect().get_metric()[0].get_histogram().get_bucket()[0].cumulative_count(), 0);
        assert_eq!(histogram.count(), 1);
    }
}
