//! The best round of a training that was stopped early, as far as a file has it.

use serde::Deserialize;

/// What the rounds are told by.
#[derive(Deserialize)]
pub(super) struct StoppedFile {
    learner: StoppedLearner,
}

#[derive(Deserialize)]
struct StoppedLearner {
    #[serde(default)]
    attributes: Attributes,
    gradient_booster: Booster,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Attributes {
    /// Counted from 0.
    best_iteration: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Booster {
    model: Rounds,
    /// Of `dart`, whose trees stand within.
    gbtree: InnerBooster,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct InnerBooster {
    model: Rounds,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Rounds {
    /// Where the trees of each round begin, and where those of the last one end; written since 2.0.
    iteration_indptr: Vec<i64>,
}

impl StoppedFile {
    /// How many rounds there are up to the best one, and how many in all, where these are more.
    pub(super) fn best_rounds(self) -> Option<(usize, usize)> {
        let StoppedLearner { attributes, gradient_booster: Booster { model, gbtree } } = self.learner;
        let rounds = model.iteration_indptr.len().max(gbtree.model.iteration_indptr.len()).saturating_sub(1);
        let best: usize = attributes.best_iteration?.parse().ok()?;
        let used = best.checked_add(1)?;
        (used < rounds).then_some((used, rounds))
    }
}

#[cfg(test)]
mod tests {
    use super::super::best_rounds;

    #[test]
    fn rounds_after_the_best_one_are_told() {
        let file = include_str!("../fixtures/softprob.json");
        let best = |best: serde_json::Value| {
            let mut file: serde_json::Value = serde_json::from_str(file).unwrap();
            file["learner"]["attributes"] = serde_json::json!({ "best_iteration": best });
            best_rounds(file.to_string().as_bytes()).unwrap()
        };
        assert_eq!(best("0".into()), Some((1, 2)));
        for other in ["1", "2", "18446744073709551615", "-1", "first"] {
            assert_eq!(best(other.into()), None, "{other}");
        }
        assert_eq!(best_rounds(file.as_bytes()).unwrap(), None);
        assert_eq!(best_rounds(include_bytes!("../fixtures/softprob.ubj")).unwrap(), None);
        assert_eq!(best_rounds(include_bytes!("../fixtures/dart.ubj")).unwrap(), None);
    }
}
