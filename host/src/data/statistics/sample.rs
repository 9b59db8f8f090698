use serde::{Deserialize, Serialize};

use crate::domain::mix;

/// Values that are held at most; half of them at least.
const SAMPLE_MAX: usize = 20_000;

/// Bars of a histogram.
const BINS: usize = 20;

/// Values below which a given part of a column's finite numbers lies.
///
/// Between two values they are interpolated linearly, as numpy and pandas do by default.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantiles {
    /// 1 %.
    pub p01: f64,
    /// 5 %.
    pub p05: f64,
    /// 25 %.
    pub p25: f64,
    /// The median.
    pub p50: f64,
    /// 75 %.
    pub p75: f64,
    /// 95 %.
    pub p95: f64,
    /// 99 %.
    pub p99: f64,
}

/// How many numbers lie in each of equally wide intervals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Histogram {
    /// Lower end of the first.
    pub min: f64,
    /// Upper end of the last, which belongs to it.
    pub max: f64,
    /// Numbers in each.
    pub counts: Vec<u64>,
}

/// Numbers of a column: all of them as long as they are few, and otherwise an evenly drawn part.
///
/// Which are drawn depends on their places alone, so that the same column always gives the same sample. Each doubling of
/// a column's length halves the chance of a place, so some 10,000 stay: a quantile of them is off by half a percent of
/// the rows (one standard deviation).
#[derive(Default)]
pub(super) struct Sample {
    /// Each with the hash of its place.
    values: Vec<(u64, f64)>,
    seen: u64,
    /// Places whose hash starts with this many zeros are drawn.
    zeros: u32,
}

impl Sample {
    pub(super) fn observe(&mut self, value: f64) {
        let hash = mix(self.seen);
        self.seen += 1;
        if hash.leading_zeros() < self.zeros {
            return;
        }
        self.values.push((hash, value));
        self.thin_out();
    }

    /// Starts at another place than the first, for a part of a column.
    pub(super) fn from_place(place: u64) -> Self {
        Self { seen: place, ..Self::default() }
    }

    /// Adds the part of the column that follows.
    pub(super) fn merge(&mut self, other: Self) {
        self.zeros = self.zeros.max(other.zeros);
        self.seen = other.seen;
        let zeros = self.zeros;
        self.values.extend(other.values);
        self.values.retain(|(hash, _)| hash.leading_zeros() >= zeros);
        self.thin_out();
    }

    fn thin_out(&mut self) {
        while self.values.len() > SAMPLE_MAX {
            self.zeros += 1;
            let zeros = self.zeros;
            self.values.retain(|(hash, _)| hash.leading_zeros() >= zeros);
        }
    }

    /// Quantiles and histogram, and whether they are those of a part.
    pub(super) fn finish(self) -> Option<(Quantiles, Histogram, bool)> {
        let is_part = self.zeros > 0;
        let mut values: Vec<(f64, u64)> = self.values.into_iter().map(|(_, value)| (value, 1)).collect();
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        describe(&values).map(|(quantiles, histogram)| (quantiles, histogram, is_part))
    }
}

/// Quantiles and histogram of values in ascending order, each with how often it occurs.
pub(super) fn describe(values: &[(f64, u64)]) -> Option<(Quantiles, Histogram)> {
    let (&(min, _), &(max, _)) = (values.first()?, values.last()?);
    let total: u64 = values.iter().map(|(_, count)| count).sum();
    let at = |rank: u64| {
        let mut below = 0;
        let found = values.iter().find(|(_, count)| {
            below += count;
            below > rank
        });
        found.map_or(max, |(value, _)| *value)
    };
    let quantile = |part: f64| {
        let rank = part * total.saturating_sub(1) as f64;
        let (low, high) = (at(rank.floor() as u64), at(rank.ceil() as u64));
        if low == high { low } else { low * (1.0 - rank.fract()) + high * rank.fract() }
    };
    let quantiles = Quantiles {
        p01: quantile(0.01),
        p05: quantile(0.05),
        p25: quantile(0.25),
        p50: quantile(0.5),
        p75: quantile(0.75),
        p95: quantile(0.95),
        p99: quantile(0.99),
    };
    let mut counts = vec![0; BINS];
    // Halves keep the span of the largest floats finite; otherwise they change nothing but the smallest.
    let half = if (max - min).is_finite() { 1.0 } else { 0.5 };
    let width = (max * half - min * half) / BINS as f64;
    for (value, count) in values {
        let bin = if width > 0.0 { ((value * half - min * half) / width) as usize } else { 0 };
        let bin = bin.min(BINS - 1);
        if let Some(bin) = counts.get_mut(bin) {
            *bin += count;
        }
    }
    Some((quantiles, Histogram { min, max, counts }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_are_exact() {
        let mut sample = Sample::default();
        [4.0, 1.0, 3.0, 2.0].iter().for_each(|value| sample.observe(*value));
        let (quantiles, histogram, is_part) = sample.finish().unwrap();
        // numpy.quantile([4, 1, 3, 2], [0.05, 0.25, 0.5, 0.99])
        assert_eq!((quantiles.p25, quantiles.p50), (1.75, 2.5));
        assert!((quantiles.p05 - 1.15).abs() < 1e-12 && (quantiles.p99 - 3.97).abs() < 1e-12);
        assert_eq!((histogram.min, histogram.max, histogram.counts.iter().sum::<u64>()), (1.0, 4.0, 4));
        assert_eq!([0, 6, 13, 19].map(|bin| histogram.counts[bin]), [1; 4]);
        assert!(!is_part);
        assert!(Sample::default().finish().is_none());
    }

    #[test]
    fn quantiles_of_many_are_near_and_always_the_same() {
        let run = || {
            let mut sample = Sample::default();
            // Runs of powers of two, which a regular choice of places would see only one value of.
            (0..1_000_000_u32).for_each(|place| sample.observe(f64::from(place % 1_024)));
            assert!((SAMPLE_MAX / 4..=SAMPLE_MAX).contains(&sample.values.len()), "{}", sample.values.len());
            sample.finish().unwrap()
        };
        let (quantiles, histogram, is_part) = run();
        assert!(is_part);
        assert!((quantiles.p50 - 512.0).abs() < 20.0, "{quantiles:?}");
        assert!((quantiles.p05 - 51.0).abs() < 10.0, "{quantiles:?}");
        assert_eq!(run(), (quantiles, histogram, true));
    }

    #[test]
    fn parts_of_a_column_have_the_sample_of_the_whole() {
        let value = |place: u64| (place % 1_024) as f64;
        let mut whole = Sample::default();
        (0..200_000).for_each(|place| whole.observe(value(place)));
        let mut merged = Sample::default();
        for start in (0..200_000).step_by(50_000) {
            let mut part = Sample::from_place(start);
            (start..start + 50_000).for_each(|place| part.observe(value(place)));
            merged.merge(part);
        }
        assert_eq!(merged.finish(), whole.finish());
    }

    #[test]
    fn large_values_that_are_near_each_other_fill_even_bins() {
        let values: Vec<(f64, u64)> = (0..1_000).map(|step| (1.7e18 + 256.0 * f64::from(step), 1)).collect();
        let (_, histogram) = describe(&values).unwrap();
        assert!(histogram.counts.iter().all(|count| (49..=51).contains(count)), "{histogram:?}");
    }

    #[test]
    fn one_value_and_the_largest_ones_have_histograms() {
        let (quantiles, histogram) = describe(&[(7.0, 3)]).unwrap();
        assert_eq!((quantiles.p01, quantiles.p99, histogram.counts[0]), (7.0, 7.0, 3));
        let (quantiles, histogram) = describe(&[(f64::MIN, 1), (f64::MAX, 1)]).unwrap();
        assert_eq!((histogram.counts[0], histogram.counts[19]), (1, 1));
        assert!(quantiles.p25.is_finite() && quantiles.p50 == 0.0);
    }
}
