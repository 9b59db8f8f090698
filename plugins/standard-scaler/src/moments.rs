use serde::{Deserialize, Serialize};

/// Mean and spread of the numbers that were added, by Welford's algorithm.
///
/// One number at a time, so that what is learned depends on the numbers alone and not on how they came in batches, and
/// exact for a constant, whose spread is zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moments {
    count: u64,
    mean: f64,
    /// Sum of the squared differences from the mean.
    squares: f64,
}

impl Moments {
    /// Adds a number; NaN is none.
    pub fn add(&mut self, value: f64) {
        if value.is_nan() {
            return;
        }
        self.count += 1;
        let difference = value - self.mean;
        self.mean += difference / self.count as f64;
        self.squares += difference * (value - self.mean);
    }

    /// The mean and the population's standard deviation, or one where that is zero.
    pub fn mean_and_deviation(&self) -> (f64, f64) {
        let deviation = (self.squares / self.count.max(1) as f64).sqrt();
        (self.mean, if deviation > 0.0 { deviation } else { 1.0 })
    }

    /// Whether numbers could have given this.
    pub(crate) fn is_valid(&self) -> bool {
        self.mean.is_finite() && self.squares.is_finite() && self.squares >= 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_two_passes_where_the_mean_is_large() {
        let values: Vec<f64> = (0..1000).map(|index| 1e9 + f64::from(index % 10)).collect();
        let mut moments = Moments::default();
        values.iter().for_each(|&value| moments.add(value));
        let (mean, deviation) = moments.mean_and_deviation();
        assert!((mean - (1e9 + 4.5)).abs() < 1e-6, "{mean}");
        assert!((deviation - 8.25_f64.sqrt()).abs() < 1e-6, "{deviation}");
    }
}
