//! Medians and percentiles.

/// The value below which the share `percent` of `values` lies, by nearest rank; NaN for none.
pub(crate) fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The middle of `values`, or the mean of the two there; NaN for none.
pub(crate) fn median(values: &[f64]) -> f64 {
    // The upper middle is the lower one of the same values from the other end.
    let negated: Vec<f64> = values.iter().map(|value| -value).collect();
    (percentile(values, 50.0) - percentile(&negated, 50.0)) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(
            [0.0, 50.0, 90.0, 99.0, 100.0].map(|p| percentile(&values, p)),
            [1.0, 50.0, 90.0, 99.0, 100.0]
        );
        assert_eq!(percentile(&[7.0], 99.0), 7.0);
        assert!(percentile(&[], 50.0).is_nan());
    }

    #[test]
    fn medians_of_even_and_odd_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
