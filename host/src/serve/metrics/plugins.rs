//! Metrics that plugins report themselves.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::plugin::{MetricKind, MetricPoint};

/// Series that the plugins of a version may make: their labels can be anything.
const SERIES_MAX: usize = 500;

/// Upper bounds of the buckets of a plugin's histograms, of which nobody knows what they measure.
const BOUNDS: [f64; 13] =
    [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0, 1_000_000.0];

/// Labels that are ours.
const RESERVED_LABELS: [&str; 4] = ["endpoint", "version", "plugin", "le"];

/// Endings that mean something to Prometheus.
const RESERVED_ENDINGS: [&str; 4] = ["_total", "_bucket", "_sum", "_count"];

/// What the plugins of a version report, as `plugin_NAME` with the labels endpoint, version and plugin.
pub(super) struct PluginMetrics {
    /// Endpoint and version.
    labels: [(&'static str, String); 2],
    series: Mutex<BTreeMap<Series, Value>>,
    dropped: prometheus::IntCounter,
}

/// What a point belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Counter(f64),
    Gauge(f64),
    Histogram { counts: [u64; BOUNDS.len()], count: u64, sum: f64 },
}

impl PluginMetrics {
    pub(super) fn new(endpoint: &str, version: &str) -> Result<Self, prometheus::Error> {
        let labels = [("endpoint", endpoint.to_owned()), ("version", version.to_owned())];
        let dropped = prometheus::Opts::new(
            "host_plugin_points_dropped_total",
            "Points that plugins reported of series that were too many.",
        );
        let dropped = labels.iter().fold(dropped, |options, (name, value)| options.const_label(*name, value));
        Ok(Self { labels, series: Mutex::default(), dropped: prometheus::IntCounter::with_opts(dropped)? })
    }

    /// Adds what `plugin` reported in a call.
    pub(super) fn record(&self, plugin: &str, points: &[MetricPoint]) {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        for point in points {
            let series = Series::of(plugin, point);
            let is_room = all.len() < SERIES_MAX;
            match all.get_mut(&series) {
                Some(value) => value.add(point),
                None if is_room => drop(all.insert(series, Value::of(point))),
                None => self.dropped.inc(),
            }
        }
    }

    pub(super) fn collect(&self) -> Vec<MetricFamily> {
        use prometheus::core::Collector as _;
        let all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.iter().map(|(series, value)| {
            let (kind, mut metric) = value.metric();
            let own = self.labels.iter().map(|(name, value)| pair(name, value));
            let given = series.labels.iter().map(|(name, value)| pair(name, value));
            metric.set_label(own.chain(given).collect());
            let mut family = MetricFamily::default();
            family.set_name(series.name.clone());
            family.set_help("Reported by a plugin.".to_owned());
            family.set_field_type(kind);
            family.set_metric(vec![metric]);
            family
        });
        own.chain(self.dropped.collect()).collect()
    }
}

impl Series {
    fn of(plugin: &str, point: &MetricPoint) -> Self {
        let is_reserved = RESERVED_ENDINGS.iter().any(|ending| point.name.ends_with(ending));
        let name = match point.kind {
            MetricKind::Counter if point.name.ends_with("_total") => format!("plugin_{}", point.name),
            MetricKind::Counter => format!("plugin_{}_total", point.name),
            MetricKind::Gauge | MetricKind::Histogram if is_reserved => {
                format!("plugin_{}_value", point.name)
            }
            MetricKind::Gauge | MetricKind::Histogram => format!("plugin_{}", point.name),
        };
        let mut labels: BTreeMap<String, String> = [("plugin".to_owned(), plugin.to_owned())].into();
        for (name, value) in &point.labels {
            match RESERVED_LABELS.contains(&name.as_str()) {
                true => labels.insert(format!("exported_{name}"), value.clone()),
                false => labels.insert(name.clone(), value.clone()),
            };
        }
        Self { name, labels: labels.into_iter().collect() }
    }
}

impl Value {
    fn of(point: &MetricPoint) -> Self {
        let mut value = match point.kind {
            MetricKind::Counter => Self::Counter(0.0),
            MetricKind::Gauge => Self::Gauge(0.0),
            MetricKind::Histogram => Self::Histogram { counts: [0; BOUNDS.len()], count: 0, sum: 0.0 },
        };
        value.add(point);
        value
    }

    /// Adds a point. One whose series had another kind before is taken as that kind.
    fn add(&mut self, point: &MetricPoint) {
        match self {
            Self::Counter(sum) => *sum += point.value.max(0.0),
            Self::Gauge(value) => *value = point.value,
            Self::Histogram { counts, count, sum } => {
                *count += 1;
                *sum += point.value;
                let first = BOUNDS.iter().position(|&bound| point.value <= bound);
                if let Some(place) = first.and_then(|first| counts.get_mut(first)) {
                    *place += 1;
                }
            }
        }
    }

    fn metric(&self) -> (MetricType, Metric) {
        let mut metric = Metric::default();
        let kind = match self {
            Self::Counter(sum) => {
                let mut counter = Counter::default();
                counter.set_value(*sum);
                metric.set_counter(counter);
                MetricType::COUNTER
            }
            Self::Gauge(value) => {
                let mut gauge = Gauge::default();
                gauge.set_value(*value);
                metric.set_gauge(gauge);
                MetricType::GAUGE
            }
            Self::Histogram { counts, count, sum } => {
                let mut histogram = Histogram::default();
                let mut below = 0;
                let bucket = |(&bound, &count): (&f64, &u64)| {
                    below += count;
                    let mut bucket = Bucket::default();
                    bucket.set_upper_bound(bound);
                    bucket.set_cumulative_count(below);
                    bucket
                };
                histogram.set_bucket(BOUNDS.iter().zip(counts).map(bucket).collect());
                histogram.set_sample_count(*count);
                histogram.set_sample_sum(*sum);
                metric.set_histogram(histogram);
                MetricType::HISTOGRAM
            }
        };
        (kind, metric)
    }
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(name: &str, kind: MetricKind, value: f64, labels: &[(&str, &str)]) -> MetricPoint {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        MetricPoint { name: name.to_owned(), kind, value, labels }
    }

    fn text(metrics: &PluginMetrics) -> String {
        prometheus::TextEncoder::new().encode_to_string(&metrics.collect()).unwrap()
    }

    #[test]
    fn points_become_series_with_the_plugin_s_name_and_labels_of_its_own() {
        let metrics = PluginMetrics::new("digits", "mnist@3").unwrap();
        let blank = |value| point("blank_images", MetricKind::Counter, value, &[("why", "dark")]);
        metrics.record("mnist-pixels", &[blank(2.0), blank(3.0)]);
        metrics.record("mnist-pixels", &[point("mean_sum", MetricKind::Gauge, 0.25, &[("le", "x")])]);
        let histogram = |value| point("ratio", MetricKind::Histogram, value, &[]);
        metrics.record("mnist-pixels", &[histogram(0.05), histogram(0.5), histogram(5e9)]);
        let text = text(&metrics);
        let labels = "endpoint=\"digits\",version=\"mnist@3\"";
        for line in [
            format!("plugin_blank_images_total{{{labels},plugin=\"mnist-pixels\",why=\"dark\"}} 5"),
            format!("plugin_mean_sum_value{{{labels},exported_le=\"x\",plugin=\"mnist-pixels\"}} 0.25"),
            format!("plugin_ratio_bucket{{{labels},plugin=\"mnist-pixels\",le=\"0.1\"}} 1"),
            format!("plugin_ratio_bucket{{{labels},plugin=\"mnist-pixels\",le=\"1000000\"}} 2"),
            format!("plugin_ratio_bucket{{{labels},plugin=\"mnist-pixels\",le=\"+Inf\"}} 3"),
            format!("plugin_ratio_count{{{labels},plugin=\"mnist-pixels\"}} 3"),
        ] {
            assert!(text.contains(&line), "{line} in\n{text}");
        }
    }

    #[test]
    fn plugins_cannot_make_series_without_end() {
        let metrics = PluginMetrics::new("e", "v").unwrap();
        for index in 0..SERIES_MAX + 7 {
            metrics.record("p", &[point("x", MetricKind::Gauge, 1.0, &[("id", &index.to_string())])]);
        }
        metrics.record("p", &[point("x", MetricKind::Gauge, 2.0, &[("id", "0")])]);
        assert_eq!(metrics.series.lock().unwrap().len(), SERIES_MAX);
        assert!(text(&metrics).contains("host_plugin_points_dropped_total{endpoint=\"e\",version=\"v\"} 7"));
        assert!(text(&metrics).contains("id=\"0\",plugin=\"p\"} 2"));
    }
}
