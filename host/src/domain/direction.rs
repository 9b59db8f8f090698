use std::str::FromStr;

/// Which values of a metric are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Small ones.
    Minimize,
    /// Large ones.
    Maximize,
}

/// Parts of the names of metrics that are to be small; all others are to be large.
const COSTS: &[&str] = &[
    "loss",
    "error",
    "rmse",
    "rmsle",
    "mae",
    "mse",
    "mape",
    "mphe",
    "nloglik",
    "deviance",
    "hinge",
    "quantile",
    "perplexity",
    "latency",
    "seconds",
];

impl Direction {
    /// What a metric's name tells.
    pub fn of_metric(name: &str) -> Self {
        let name = name.to_lowercase();
        if COSTS.iter().any(|cost| name.contains(cost)) { Self::Minimize } else { Self::Maximize }
    }

    /// Whether one value is better than another by more than `margin`, which is not negative. What is not a number is never
    /// better, and whatever is a number is better than that.
    pub fn is_better_by(self, value: f64, than: f64, margin: f64) -> bool {
        if value.is_nan() || than.is_nan() {
            return !value.is_nan();
        }
        match self {
            Self::Minimize => value < than - margin,
            Self::Maximize => value > than + margin,
        }
    }

    /// The value as a cost, of which less is better.
    pub fn cost(self, value: f64) -> f64 {
        match self {
            Self::Minimize => value,
            Self::Maximize => -value,
        }
    }

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minimize => "minimize",
            Self::Maximize => "maximize",
        }
    }
}

impl FromStr for Direction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Minimize, Self::Maximize];
        let found = known.into_iter().find(|direction| direction.as_str() == text);
        found.ok_or_else(|| "expected `minimize` or `maximize`".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_direction_as_xgboost_takes_it() {
        // Of <https://xgboost.readthedocs.io/en/release_3.2.0/parameter.html>, `eval_metric`.
        for name in
            ["auc", "aucpr", "pre", "pre@5", "ndcg", "ndcg@2-", "map", "map@3", "accuracy", "f1_macro"]
        {
            assert_eq!(Direction::of_metric(name), Direction::Maximize, "{name}");
        }
        for name in [
            "rmse",
            "rmsle",
            "mae",
            "mape",
            "mphe",
            "logloss",
            "error",
            "error@0.7",
            "merror",
            "mlogloss",
            "poisson-nloglik",
            "gamma-deviance",
            "aft-nloglik",
            "quantile",
            "test_log_loss",
            "RMSE",
        ] {
            assert_eq!(Direction::of_metric(name), Direction::Minimize, "{name}");
        }
    }

    #[test]
    fn better_is_by_more_than_the_margin_and_never_nan() {
        let (up, down) = (Direction::Maximize, Direction::Minimize);
        assert!(up.is_better_by(0.75, 0.5, 0.0) && !up.is_better_by(0.5, 0.5, 0.0));
        assert!(!up.is_better_by(0.75, 0.5, 0.25) && !down.is_better_by(0.5, 0.75, 0.25));
        assert!(down.is_better_by(0.5, 0.75, 0.0));
        assert!(!up.is_better_by(f64::NAN, 0.0, 0.0) && !down.is_better_by(f64::NAN, f64::NAN, 0.0));
        assert!(up.is_better_by(f64::NEG_INFINITY, f64::NAN, 1.0) && down.is_better_by(1e9, f64::NAN, 1.0));
    }
}
