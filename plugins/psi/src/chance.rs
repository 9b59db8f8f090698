//! What PSI chance alone explains.
//!
//! Without drift PSI is not zero but grows with the number of bins and shrinks with the number of rows: divided by
//! 1/n + 1/m, for n rows of the reference and m of the window, it follows about a chi-square distribution with one
//! degree of freedom less than there are bins (B. Yurdakul, *Statistical Properties of Population Stability Index*,
//! Western Michigan University, 2018). A group has drifted only where PSI exceeds the quantile at one minus the
//! significance level, which is divided by the number of groups (Bonferroni), because many are judged at once.
//!
//! The quantiles are approximations that need no special functions: chi-square's by E. B. Wilson and M. M. Hilferty,
//! *The distribution of chi-square* (1931), within 2 % at the levels of interest, and the normal's by C. Hastings, in
//! Abramowitz and Stegun, *Handbook of Mathematical Functions*, 26.2.23, within 0.00045.

/// The PSI that chance exceeds with probability `alpha` (0 to 0.5).
pub fn psi_max(reference_rows: usize, window_rows: usize, bins: usize, alpha: f64) -> f64 {
    // A single bin cannot differ; a degree of freedom all the same keeps the quantile defined.
    let degrees = bins.saturating_sub(1).max(1);
    let scale = 1.0 / reference_rows as f64 + 1.0 / window_rows as f64;
    scale * chi_square_upper_quantile(degrees, alpha)
}

/// The value that a chi-square variable exceeds with probability `alpha`.
fn chi_square_upper_quantile(degrees: usize, alpha: f64) -> f64 {
    let degrees = degrees as f64;
    let variance = 2.0 / (9.0 * degrees);
    degrees * (1.0 - variance + normal_upper_quantile(alpha) * variance.sqrt()).powi(3)
}

/// The value that a standard normal variable exceeds with probability `alpha`, at most 0.5.
fn normal_upper_quantile(alpha: f64) -> f64 {
    // The smallest normal number stands for zero, whose quantile is infinite.
    let t = (-2.0 * alpha.max(f64::MIN_POSITIVE).ln()).sqrt();
    let numerator = 2.515517 + t * (0.802853 + t * 0.010328);
    let denominator = 1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308));
    t - numerator / denominator
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_quantiles_agree_with_tables() {
        for (alpha, expected) in
            [(0.5, 0.0), (0.05, 1.644854), (0.01, 2.326348), (1e-4, 3.719016), (1e-9, 5.997807)]
        {
            let found = normal_upper_quantile(alpha);
            assert!((found - expected).abs() < 4.5e-4, "{alpha}: {found}");
        }
    }

    #[test]
    fn chi_square_quantiles_agree_with_tables() {
        for (degrees, alpha, expected) in [
            (1, 0.05, 3.8415),
            (1, 0.01, 6.6349),
            (2, 0.01, 9.2103),
            (9, 0.05, 16.9190),
            (9, 0.01, 21.6660),
            (9, 0.001, 27.8772),
            (99, 0.01, 134.6416),
        ] {
            let found = chi_square_upper_quantile(degrees, alpha);
            assert!((found / expected - 1.0).abs() < 0.025, "{degrees} at {alpha}: {found}");
        }
    }

    #[test]
    fn small_windows_need_more() {
        assert!(psi_max(10_000, 20, 10, 0.01) > 1.0);
        assert!(psi_max(10_000, 10_000, 10, 0.01) < 0.005);
        assert!(psi_max(1, 1, 1, f64::MIN_POSITIVE).is_finite());
    }
}
