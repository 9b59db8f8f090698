//! A plugin's own metrics, which the host publishes beside its own under the plugin's name.
//!
//! Names are 1 to 64 of `a-z`, `0-9` and `_`, starting with a letter; at most 8 labels. What does not fit is dropped and
//! counted by the host; none of these functions can fail. Natively points are recorded for
//! [`testing::take_points`](crate::testing::take_points).

/// Which kind of metric a point belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An amount was added to a counter.
    Counter,
    /// A gauge was set.
    Gauge,
    /// A histogram observed a value.
    Histogram,
}

/// Adds a finite, non-negative amount to a counter.
pub fn counter_add(name: &str, amount: f64, labels: &[(&str, &str)]) {
    write(Kind::Counter, name, amount, labels);
}

/// Sets a gauge.
pub fn gauge_set(name: &str, value: f64, labels: &[(&str, &str)]) {
    write(Kind::Gauge, name, value, labels);
}

/// Records one observation of a histogram.
pub fn histogram_record(name: &str, value: f64, labels: &[(&str, &str)]) {
    write(Kind::Histogram, name, value, labels);
}

fn write(kind: Kind, name: &str, value: f64, labels: &[(&str, &str)]) {
    #[cfg(target_arch = "wasm32")]
    crate::guest::metric(kind, name, value, labels);
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::record_point(kind, name, value, labels);
}
