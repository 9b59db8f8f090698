//! Bins of a group's values, and how a window fills them.

use serde::{Deserialize, Serialize};

/// Pseudo-count a bin, as in Krichevsky and Trofimov's estimator: an empty bin has a small share instead of an infinite
/// index.
const PRIOR: f64 = 0.5;

/// Bins that hold about equal shares of a reference, and how many of its rows each holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bins {
    /// Largest value of each bin but the last, strictly ascending.
    edges: Vec<f64>,
    /// Rows of the reference in each bin; the last is that of missing values.
    counts: Vec<usize>,
}

/// How far a window is from the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Divergence {
    /// Population stability index.
    pub(crate) psi: f64,
    /// Bins with rows of the reference or the window.
    pub(crate) bins_filled: usize,
}

impl Bins {
    /// Divides `values` into at most `count` bins by their quantiles, which are values themselves.
    ///
    /// A value that several quantiles share, a constant at the extreme, gets a bin of its own: what lies on either side
    /// of it is then seen, even where the reference has nothing there.
    pub(crate) fn learn(values: &[f64], count: usize) -> Self {
        let mut sorted: Vec<f64> =
            values.iter().copied().filter(|value| !value.is_nan()).map(within_range).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        let quantiles: Vec<f64> =
            (0..=count).filter_map(|part| sorted.get(last * part / count).copied()).collect();

        let mut edges = Vec::with_capacity(count);
        for (part, same) in quantiles.chunk_by(f64::eq).scan(0, |next, same| {
            let part = *next;
            *next += same.len();
            Some((part, same))
        }) {
            let Some(&edge) = same.first() else { continue };
            let is_shared = same.len() > 1;
            if is_shared {
                edges.push(edge.next_down());
            }
            if is_shared || (part > 0 && part < count) {
                edges.push(edge);
            }
        }
        edges.retain(|edge| edge.is_finite());
        edges.dedup();
        let mut bins = Self { counts: Vec::new(), edges };
        bins.counts = bins.count(values.iter().copied());
        bins
    }

    /// Rows of the reference; none where the parts do not fit.
    pub(crate) fn rows(&self) -> Option<usize> {
        let is_sorted = self.edges.is_sorted_by(|one, other| one < other);
        // Without edges there is one bin, and always that of missing values.
        (is_sorted && self.counts.len() == self.edges.len() + 2)
            .then(|| self.counts.iter().try_fold(0_usize, |sum, &count| sum.checked_add(count)))?
    }

    /// Compares a window's values with the reference.
    ///
    /// Bins that are empty in both do not count. The window's shares are drawn towards the reference's by the prior, so
    /// that a bin that is empty by chance weighs little in a small window.
    pub(crate) fn compare(&self, window: impl Iterator<Item = f64>) -> Divergence {
        let found = self.count(window);
        let filled = || self.counts.iter().zip(&found).filter(|&(&one, &other)| one + other > 0);
        let total = |counts: &[usize]| counts.iter().sum::<usize>() as f64;
        let (reference_rows, window_rows) = (total(&self.counts), total(&found));
        let bins_filled = filled().count();
        let prior = PRIOR * bins_filled as f64;
        let term = |(&expected, &found): (&usize, &usize)| {
            let expected = (expected as f64 + PRIOR) / (reference_rows + prior);
            let found = (found as f64 + prior * expected) / (window_rows + prior);
            (found - expected) * (found / expected).ln()
        };
        Divergence { psi: filled().map(term).sum(), bins_filled }
    }

    fn count(&self, values: impl Iterator<Item = f64>) -> Vec<usize> {
        let missing = self.edges.len() + 1;
        let mut counts = vec![0; missing + 1];
        for value in values {
            let bin = match value.is_nan() {
                true => missing,
                false => self.edges.partition_point(|&edge| edge < within_range(value)),
            };
            if let Some(count) = counts.get_mut(bin) {
                *count += 1;
            }
        }
        counts
    }
}

/// Infinities become the largest numbers, which a state can hold; zero loses its sign, which no order should see.
fn within_range(value: f64) -> f64 {
    value.clamp(f64::MIN, f64::MAX) + 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_divide_distinct_values_evenly() {
        let values: Vec<f64> = (0..1000).rev().map(f64::from).collect();
        let bins = Bins::learn(&values, 10);
        assert_eq!(bins.edges.len(), 9);
        assert!(bins.counts[..10].iter().all(|&count| (99..=101).contains(&count)), "{:?}", bins.counts);
        assert_eq!(bins.counts[10], 0);
        assert_eq!(bins.rows(), Some(1000));
    }

    #[test]
    fn a_constant_has_a_bin_of_its_own() {
        let bins = Bins::learn(&[7.0; 100], 10);
        assert_eq!(bins.edges, [7.0_f64.next_down(), 7.0]);
        assert_eq!(bins.counts, [0, 100, 0, 0]);
        for extreme in [0.0, -0.0, f64::MAX, f64::MIN, f64::INFINITY, f64::NEG_INFINITY] {
            let bins = Bins::learn(&[extreme; 100], 10);
            assert_eq!((bins.rows(), bins.counts.iter().max()), (Some(100), Some(&100)), "{extreme}");
            assert!(bins.edges.iter().all(|edge| edge.is_finite()));
            let same = bins.compare([extreme; 50].into_iter());
            assert!(same.psi < 0.02, "{extreme}: {same:?}");
        }
    }

    #[test]
    fn a_common_value_among_others_has_a_bin_of_its_own() {
        let values: Vec<f64> = (0..100).map(|index| f64::from((index - 60).max(0))).collect();
        let bins = Bins::learn(&values, 10);
        assert_eq!(bins.edges[..2], [0.0_f64.next_down(), 0.0]);
        assert_eq!(bins.counts[..2], [0, 61]);
    }

    #[test]
    fn a_common_value_is_seen_to_move_either_way() {
        let rising: Vec<f64> =
            (0..100).map(|index| if index < 40 { f64::from(index) } else { 100.0 }).collect();
        let falling: Vec<f64> = rising.iter().map(|value| -value).collect();
        for (values, moved) in [(rising, 50.0), (falling, -50.0)] {
            let bins = Bins::learn(&values, 10);
            assert!(bins.counts.contains(&60), "{bins:?}");
            let window = values.iter().map(|&value| if value.abs() == 100.0 { moved } else { value });
            assert!(bins.compare(window).psi > 1.0, "{bins:?}");
            assert!(bins.compare(values.iter().copied()).psi < 0.01);
        }
    }

    #[test]
    fn missing_values_have_a_bin_of_their_own() {
        let bins = Bins::learn(&[1.0, f64::NAN, 2.0, f64::NAN], 2);
        assert_eq!(bins.counts.last(), Some(&2));
        let nothing = Bins::learn(&[f64::NAN; 30], 10);
        assert_eq!((nothing.edges.len(), nothing.rows()), (0, Some(30)));
        assert!(nothing.compare([f64::NAN; 30].into_iter()).psi < 0.01);
        assert!(nothing.compare([1.0; 30].into_iter()).psi > 1.0);
    }

    #[test]
    fn the_same_values_do_not_differ_and_others_do() {
        let values: Vec<f64> = (0..500).map(f64::from).collect();
        let bins = Bins::learn(&values, 10);
        let same = bins.compare(values.iter().copied());
        assert!(same.psi < 1e-4 && same.bins_filled == 10, "{same:?}");
        let shifted = bins.compare(values.iter().map(|value| value + 250.0));
        assert!(shifted.psi > 1.0, "{shifted:?}");
        assert!(bins.compare([f64::INFINITY; 20].into_iter()).psi.is_finite());
    }
}
