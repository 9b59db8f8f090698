//! What a server counts and measures, as Prometheus reads it.
//!
//! Every version that is loaded has series of its own ([`DeploymentMetrics`]), which go when it goes; what is common to all
//! is in [`ServeMetrics`]. [`exposition`] puts them into one text.

mod histogram;
mod plugins;
mod process;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, TextEncoder};

use self::histogram::{Histogram, LIMITS_MAX};
use self::plugins::PluginMetrics;
use super::{ApiError, Deployment, Endpoint, Endpoints, ErrorCode};
use crate::plugin::{Fault, PluginError, Transformer};
use crate::registry::TransformerCall;

/// What the text is.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Seconds, from what a row takes to what nobody waits for.
const SECONDS: [f64; LIMITS_MAX] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Rows of a request or of what is computed together.
const ROWS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1_024.0, 16_384.0];

/// How far the largest differing element of a shadow's answer is off.
const DIFFERENCES: [f64; 8] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0];

/// Parts of a request's way, in their order.
const STAGES: [&str; 6] = ["decode", "queue", "preprocess", "model", "postprocess", "encode"];

/// How long the parts of an answer took.
#[derive(Debug, Clone, Copy, Default)]
pub struct StageTimes {
    /// From the body to a batch.
    pub decode: Duration,
    /// Waiting to be computed.
    pub queue: Duration,
    /// In the transformers before the model.
    pub preprocess: Duration,
    /// In the model.
    pub model: Duration,
    /// In the transformers after it.
    pub postprocess: Duration,
    /// From a batch to the body.
    pub encode: Duration,
}

impl StageTimes {
    /// The names of the stages and their times, in their order.
    pub fn stages(&self) -> [(&'static str, Duration); 6] {
        let Self { decode, queue, preprocess, model, postprocess, encode } = *self;
        let times = [decode, queue, preprocess, model, postprocess, encode];
        std::array::from_fn(|index| {
            (STAGES.get(index).copied().unwrap_or_default(), times.get(index).copied().unwrap_or_default())
        })
    }

    /// Time in transformers and model.
    pub fn infer(&self) -> Duration {
        self.preprocess + self.model + self.postprocess
    }
}

/// What became of a request that a shadow was given too.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ShadowOutcome {
    /// The same answer to the bit.
    Same,
    /// Floats differ, and everything else is the same, such as labels; the largest difference of two floats.
    Agrees(Option<f64>),
    /// Another answer; the largest difference of two floats, if any differ.
    Different(Option<f64>),
    /// No answer.
    Failed,
    /// It had too many to do, or its answer would be too large.
    Skipped,
}

/// Errors of any version. Their counters are there before the first, since a rate knows nothing of what came before a series began.
const VERSION_CODES: [ErrorCode; 8] = [
    ErrorCode::InvalidInput,
    ErrorCode::AnswerTooLarge,
    ErrorCode::Unsupported,
    ErrorCode::Overloaded,
    ErrorCode::QueueFull,
    ErrorCode::DeadlineExceeded,
    ErrorCode::Cancelled,
    ErrorCode::Internal,
];

/// Errors of requests before an endpoint is asked.
const REFUSED_CODES: [ErrorCode; 12] = [
    ErrorCode::InvalidInput,
    ErrorCode::BodyTooLarge,
    ErrorCode::BodyTimeout,
    ErrorCode::Forbidden,
    ErrorCode::NotFound,
    ErrorCode::NotReady,
    ErrorCode::Unsupported,
    ErrorCode::MethodNotAllowed,
    ErrorCode::Overloaded,
    ErrorCode::DeadlineExceeded,
    ErrorCode::Cancelled,
    ErrorCode::Internal,
];

/// What is common to all endpoints.
pub struct ServeMetrics {
    refused: IntCounterVec,
    unrecorded: IntCounter,
    spans_dropped: IntCounter,
}

impl ServeMetrics {
    /// Metrics of a server that starts.
    pub fn new() -> Result<Self, prometheus::Error> {
        let refused = Opts::new(
            "host_refused_requests_total",
            "Requests that no endpoint was asked to answer, by the code of the error.",
        );
        let unrecorded = Opts::new(
            "host_predictions_unrecorded_total",
            "Predictions that were too many to be kept for `host replay`, or could not be written.",
        );
        let spans_dropped = Opts::new(
            "host_spans_dropped_total",
            "Spans that found no place in the queue, or that the collector did not take.",
        );
        let refused = IntCounterVec::new(refused, &["code"])?;
        for code in REFUSED_CODES {
            refused.with_label_values(&[code.as_str()]);
        }
        let (unrecorded, spans_dropped) =
            (IntCounter::with_opts(unrecorded)?, IntCounter::with_opts(spans_dropped)?);
        Ok(Self { refused, unrecorded, spans_dropped })
    }

    /// Counts a request that got an error before anybody was asked.
    pub fn count_refused(&self, code: ErrorCode) {
        self.refused.with_label_values(&[code.as_str()]).inc();
    }

    /// The counter of predictions that are not kept.
    pub fn unrecorded(&self) -> IntCounter {
        self.unrecorded.clone()
    }

    /// The counter of spans that do not reach the collector.
    pub fn spans_dropped(&self) -> IntCounter {
        self.spans_dropped.clone()
    }
}

/// The series of a version at an endpoint.
pub struct DeploymentMetrics {
    errors: IntCounterVec,
    /// Of the requests that were answered.
    seconds: Histogram,
    stages: [Histogram; STAGES.len()],
    rows: Histogram,
    batch_rows: Histogram,
    faults: IntCounterVec,
    plugins: Vec<PluginSeries>,
    /// Which of them each transformer is.
    plugin_of_call: Vec<usize>,
    cache: IntCounterVec,
    shadow: IntCounterVec,
    difference: Histogram,
    reported: PluginMetrics,
}

/// The series of one of its transformers.
struct PluginSeries {
    name: String,
    seconds: Histogram,
    memory: IntGauge,
}

impl DeploymentMetrics {
    /// The series of `version` at `endpoint`, which starts.
    pub fn new(
        endpoint: &str,
        version: &str,
        transformers: (&[Transformer], &[Transformer]),
    ) -> Result<Self, prometheus::Error> {
        let labels: BTreeMap<String, String> =
            [("endpoint".to_owned(), endpoint.to_owned()), ("version".to_owned(), version.to_owned())].into();
        let named =
            |name: &str, help: &str| Opts::new(name, help).const_labels(labels.clone().into_iter().collect());
        let histogram =
            |name, help, limits: &'static [f64]| Histogram::new(name, help, labels.clone(), limits);
        let seconds_of = |name, help, of: (&str, &str)| {
            let mut labels = labels.clone();
            labels.insert(of.0.to_owned(), of.1.to_owned());
            Histogram::new(name, help, labels, &SECONDS)
        };
        let stage_help = "Time that a part of a request's way took.";
        let stages = STAGES.map(|stage| seconds_of("host_stage_seconds", stage_help, ("stage", stage)));
        let (before, after) = transformers;
        let plugin = |transformer: &Transformer| {
            let name = &transformer.plugin().manifest().name;
            let of_plugin = |name_of: &str, help: &str| named(name_of, help).const_label("plugin", name);
            let help = "Time that a call of a plugin took.";
            Ok::<_, prometheus::Error>(PluginSeries {
                name: name.clone(),
                seconds: seconds_of("host_plugin_seconds", help, ("plugin", name)),
                memory: IntGauge::with_opts(of_plugin(
                    "host_plugin_memory_bytes",
                    "Memory of the instance that was called last.",
                ))?,
            })
        };
        // The same plugin twice has one series.
        let (mut plugins, mut plugin_of_call): (Vec<PluginSeries>, Vec<usize>) = Default::default();
        for transformer in before.iter().chain(after) {
            let name = &transformer.plugin().manifest().name;
            let known = plugins.iter().position(|series| series.name == *name);
            plugin_of_call.push(known.unwrap_or(plugins.len()));
            if known.is_none() {
                plugins.push(plugin(transformer)?);
            }
        }
        Ok(Self {
            errors: IntCounterVec::new(
                named("host_request_errors_total", "Requests that got an error, by its code."),
                &["code"],
            )?,
            seconds: histogram(
                "host_request_seconds",
                "Time from a request's body being there to its answer.",
                &SECONDS,
            ),
            stages,
            rows: histogram("host_request_rows", "Rows of a request.", &ROWS),
            batch_rows: histogram("host_batch_rows", "Rows that were computed together.", &ROWS),
            faults: IntCounterVec::new(
                named(
                    "host_plugin_faults_total",
                    "Calls of plugins that crashed, hit a limit or broke the contract. A request at fault that was computed \
                     together with others makes several: the call for all of them, for the half that it is in, and so on.",
                ),
                &["plugin", "fault"],
            )?,
            plugins,
            plugin_of_call,
            cache: IntCounterVec::new(
                named("host_cache_requests_total", "Requests that were looked up among the answers kept."),
                &["outcome"],
            )?,
            shadow: IntCounterVec::new(
                named(
                    "host_shadow_requests_total",
                    "Requests that this version was given beside those who answer, by how the answers compare.",
                ),
                &["outcome"],
            )?,
            difference: histogram(
                "host_shadow_difference",
                "Largest difference of two numbers in answers that differ.",
                &DIFFERENCES,
            ),
            reported: PluginMetrics::new(endpoint, version)?,
        })
    }

    /// Counts errors from zero on that are not there yet: also those of what it is made of, if it is a graph.
    pub(super) fn begin_errors(&self, is_graph: bool) {
        let of_plugins = (is_graph || !self.plugins.is_empty()).then_some(ErrorCode::PluginFault);
        let of_graphs = is_graph.then_some(ErrorCode::NotReady);
        for code in VERSION_CODES.into_iter().chain(of_plugins).chain(of_graphs) {
            self.errors.with_label_values(&[code.as_str()]);
        }
        for plugin in &self.plugins {
            for fault in Fault::OF_PLUGINS {
                self.faults.with_label_values(&[plugin.name.as_str(), fault]);
            }
        }
    }

    /// Counts an answer. One from the cache has no stages but those of reading and writing.
    pub fn count_answer(&self, rows: usize, total: Duration, times: &StageTimes, is_cached: bool) {
        self.seconds.observe(total.as_secs_f64());
        self.rows.observe(rows as f64);
        for (histogram, (stage, time)) in self.stages.iter().zip(times.stages()) {
            if is_cached && !matches!(stage, "decode" | "encode") {
                continue;
            }
            histogram.observe(time.as_secs_f64());
        }
    }

    /// Counts what was computed together, and what the plugins did.
    pub fn count_batch(&self, rows: usize, calls: &[TransformerCall]) {
        self.batch_rows.observe(rows as f64);
        for (call, &plugin) in calls.iter().zip(&self.plugin_of_call) {
            let Some(series) = self.plugins.get(plugin) else { continue };
            series.seconds.observe(call.took.as_secs_f64());
            let memory = i64::try_from(call.memory_bytes).unwrap_or(i64::MAX);
            series.memory.set(memory);
            if !call.points.is_empty() {
                self.reported.record(&series.name, &call.points);
            }
        }
    }

    /// Counts a request that got an error.
    pub fn count_error(&self, error: &ApiError) {
        self.errors.with_label_values(&[error.code().as_str()]).inc();
    }

    /// Requests that got an error with this code.
    #[cfg(test)]
    pub(super) fn errors(&self, code: &str) -> u64 {
        self.errors.with_label_values(&[code]).get()
    }

    /// Counts a call of a plugin that failed.
    pub fn count_fault(&self, error: &PluginError) {
        self.faults.with_label_values(&[error.name.as_str(), error.fault.kind()]).inc();
    }

    /// Counts a look among the answers that are kept.
    pub fn count_lookup(&self, is_hit: bool) {
        self.cache.with_label_values(&[if is_hit { "hit" } else { "miss" }]).inc();
    }

    /// Counts a request that it was given as a shadow.
    pub fn count_shadow(&self, outcome: ShadowOutcome) {
        self.shadow.with_label_values(&[outcome.as_str()]).inc();
        if let ShadowOutcome::Agrees(Some(difference)) | ShadowOutcome::Different(Some(difference)) = outcome
        {
            self.difference.observe(difference);
        }
    }

    /// Requests that it was given as a shadow, by how the answers compare.
    pub fn shadow_counts(&self) -> BTreeMap<&'static str, u64> {
        let all = [
            ShadowOutcome::Same,
            ShadowOutcome::Agrees(None),
            ShadowOutcome::Different(None),
            ShadowOutcome::Failed,
            ShadowOutcome::Skipped,
        ];
        all.iter()
            .map(|outcome| (outcome.as_str(), self.shadow.with_label_values(&[outcome.as_str()]).get()))
            .collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let histograms = [&self.seconds, &self.rows, &self.batch_rows];
        let of_plugins = self.plugins.iter().map(|plugin| &plugin.seconds);
        // Most versions are no shadow, and a thousand of them have many lines already.
        let is_shadow = self.shadow.collect().iter().any(|family| !family.get_metric().is_empty());
        let of_shadow = is_shadow.then_some(&self.difference);
        let histograms = histograms.into_iter().chain(&self.stages).chain(of_plugins).chain(of_shadow);
        let histograms = histograms.map(Histogram::collect);
        let counters = [&self.errors, &self.faults, &self.cache, &self.shadow];
        let counters = counters.into_iter().flat_map(Collector::collect);
        let memory = self.plugins.iter().flat_map(|plugin| plugin.memory.collect());
        let own = histograms.chain(counters).chain(memory).chain([self.answered()]);
        own.chain(self.reported.collect()).collect()
    }

    /// The counter of requests that were answered, of which each has a time.
    fn answered(&self) -> MetricFamily {
        let mut counter = Counter::default();
        counter.set_value(self.seconds.count() as f64);
        let mut metric = Metric::default();
        metric.set_label(self.seconds.labels());
        metric.set_counter(counter);
        family("host_requests_total", "Requests that were answered.", MetricType::COUNTER, metric)
    }
}

impl ShadowOutcome {
    /// Its name in metrics and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Agrees(_) => "agrees",
            Self::Different(_) => "different",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// All metrics as Prometheus' text format, version 0.0.4.
pub fn exposition(metrics: &ServeMetrics, endpoints: &Endpoints) -> Result<String, prometheus::Error> {
    let mut families: BTreeMap<String, MetricFamily> = BTreeMap::new();
    let mut add = |family| add(&mut families, family);
    metrics.refused.collect().into_iter().for_each(&mut add);
    metrics.unrecorded.collect().into_iter().for_each(&mut add);
    metrics.spans_dropped.collect().into_iter().for_each(&mut add);
    process::families().into_iter().for_each(&mut add);
    let mut told = BTreeSet::new();
    for endpoint in endpoints.all() {
        families_of(&endpoint).into_iter().for_each(&mut add);
        let routing = endpoint.routing();
        let told_of = |loaded: &Arc<Deployment>| (endpoint.name().clone(), loaded.version_label());
        told.extend(routing.loaded().into_iter().map(told_of));
    }
    for (name, deployment) in endpoints.held() {
        // What was loaded anew meanwhile has its series already.
        if told.insert((name, deployment.version_label())) {
            deployment.metrics().collect().into_iter().for_each(&mut add);
        }
    }
    for (endpoint, _) in endpoints.failures() {
        let help = "Whether the last attempt to load what an endpoint should serve has failed; what was there before may answer.";
        add(gauge("host_endpoint_failed", help, &[("endpoint", endpoint.to_string())], 1.0));
    }
    let help = "Whether the endpoint file could not be read or is wrong, so that it is not followed.";
    let is_file_failed = endpoints.file_failure().is_some();
    add(gauge("host_endpoint_file_failed", help, &[], f64::from(u8::from(is_file_failed))));
    let mut families: Vec<MetricFamily> = families.into_values().collect();
    families.retain(|family| !family.get_metric().is_empty());
    TextEncoder::new().encode_to_string(&families)
}

/// Adds a family to those of its name. Plugins may call a gauge and a histogram alike, which Prometheus takes for one: then the
/// gauge is told as `NAME_gauge`, whichever was there first, so that nobody's series goes.
fn add(families: &mut BTreeMap<String, MetricFamily>, mut family: MetricFamily) {
    loop {
        match families.entry(family.name().to_owned()) {
            Entry::Vacant(free) => {
                free.insert(family);
                return;
            }
            Entry::Occupied(mut present) if present.get().get_field_type() == family.get_field_type() => {
                return present.get_mut().mut_metric().extend(family.take_metric());
            }
            Entry::Occupied(mut present) => {
                if family.get_field_type() == MetricType::HISTOGRAM {
                    family = present.insert(family);
                }
                family.set_name(format!("{}_gauge", family.name()));
            }
        }
    }
}

fn families_of(endpoint: &Endpoint) -> Vec<MetricFamily> {
    let routing = endpoint.routing();
    let mut families: Vec<MetricFamily> = Vec::new();
    for deployment in routing.loaded() {
        families.extend(deployment.metrics().collect());
        let labels = [
            ("endpoint", endpoint.name().to_string()),
            ("version", deployment.version_label()),
            ("bundle", deployment.bundle().to_string()),
        ];
        let help = "Part of an endpoint's requests that a loaded version gets; 0 where it is asked by its number only.";
        families.push(gauge("host_endpoint_weight", help, &labels, f64::from(routing.weight(deployment))));
    }
    let labels = [("endpoint", endpoint.name().to_string())];
    let queue = routing.queue();
    let waiting = "Requests that wait to be computed.";
    families.push(gauge("host_queue_depth", waiting, &labels, queue.waiting() as f64));
    let computing = "Requests, or batches of them, that are being computed.";
    families.push(gauge("host_computing", computing, &labels, queue.computing() as f64));
    if let Some(cache) = routing.cache() {
        let bytes = "Bytes of the answers that are kept.";
        families.push(gauge("host_cache_bytes", bytes, &labels, cache.bytes() as f64));
    }
    families
}

/// A family of one gauge.
fn gauge(name: &str, help: &str, labels: &[(&str, String)], value: f64) -> MetricFamily {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_gauge(gauge);
    metric.set_label(labels.iter().map(|(name, value)| label(name, value)).collect());
    family(name, help, MetricType::GAUGE, metric)
}

/// A family of one metric.
fn family(name: &str, help: &str, kind: MetricType, metric: Metric) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(vec![metric]);
    family
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{MetricKind, MetricPoint};

    #[test]
    fn a_gauge_and_a_histogram_of_one_name_are_both_told() {
        let of = |endpoint: &str, kind| {
            let metrics = PluginMetrics::new(endpoint, "m@1").unwrap();
            let point = MetricPoint { name: "ratio".to_owned(), kind, value: 0.25, labels: Vec::new() };
            metrics.record("p", &[point]);
            metrics.collect().into_iter().filter(|family| family.name() == "plugin_ratio")
        };
        let mut families: Vec<MetricFamily> = [
            of("a", MetricKind::Gauge),
            of("b", MetricKind::Histogram),
            of("c", MetricKind::Gauge),
            of("d", MetricKind::Histogram),
        ]
        .into_iter()
        .flatten()
        .collect();
        for _ in 0..families.len() {
            families.rotate_left(1);
            let mut added = BTreeMap::new();
            families.iter().for_each(|family| add(&mut added, family.clone()));
            let added: Vec<MetricFamily> = added.into_values().collect();
            let text = TextEncoder::new().encode_to_string(&added).unwrap();
            for endpoint in ["a", "c"] {
                let line = format!(
                    "plugin_ratio_gauge{{endpoint=\"{endpoint}\",version=\"m@1\",plugin=\"p\"}} 0.25"
                );
                assert!(text.contains(&line), "{line} in\n{text}");
            }
            for endpoint in ["b", "d"] {
                let line =
                    format!("plugin_ratio_sum{{endpoint=\"{endpoint}\",version=\"m@1\",plugin=\"p\"}} 0.25");
                assert!(text.contains(&line), "{line} in\n{text}");
            }
            assert_eq!(text.matches("# TYPE").count(), 2, "{text}");
        }
    }
}
