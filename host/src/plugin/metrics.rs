/// Labels that a point may have.
pub(super) const LABELS_MAX: usize = 8;

/// Longest value of a label. Names are shorter.
pub(super) const TEXT_MAX_BYTES: usize = 128;

/// What a metric point does to its series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Adds to a counter.
    Counter,
    /// Sets a gauge.
    Gauge,
    /// One observation of a histogram.
    Histogram,
}

/// One point that a plugin reported during a call.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricPoint {
    /// Metric name.
    pub name: String,
    /// What the value does.
    pub kind: MetricKind,
    /// The value.
    pub value: f64,
    /// Dimensions, in the plugin's order.
    pub labels: Vec<(String, String)>,
}

impl MetricPoint {
    /// Whether the point keeps the contract's rules on names, labels and values.
    pub(super) fn is_valid(&self) -> bool {
        let counts_up = self.kind != MetricKind::Counter || self.value >= 0.0;
        self.value.is_finite()
            && counts_up
            && is_metric_name(&self.name)
            && self.labels.len() <= LABELS_MAX
            && self.labels.iter().all(|(name, value)| is_metric_name(name) && value.len() <= TEXT_MAX_BYTES)
    }
}

fn is_metric_name(name: &str) -> bool {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    name.len() <= 64
        && name.bytes().all(allowed)
        && name.starts_with(|first: char| first.is_ascii_lowercase())
}
