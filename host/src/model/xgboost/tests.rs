use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::load;

/// Models and scores written by libxgboost (`tests/python/make_model_fixtures.py`).
const FIXTURES: [(&str, &[u8], &[u8], &str); 3] = [
    (
        "softprob",
        include_bytes!("../fixtures/softprob.ubj"),
        include_bytes!("../fixtures/softprob.json"),
        include_str!("../fixtures/softprob.case.json"),
    ),
    (
        "logistic",
        include_bytes!("../fixtures/logistic.ubj"),
        include_bytes!("../fixtures/logistic.json"),
        include_str!("../fixtures/logistic.case.json"),
    ),
    (
        "squarederror",
        include_bytes!("../fixtures/squarederror.ubj"),
        include_bytes!("../fixtures/squarederror.json"),
        include_str!("../fixtures/squarederror.case.json"),
    ),
];

#[derive(Deserialize)]
struct Case {
    features: usize,
    scores: usize,
    feature_bits: Vec<u32>,
    score_bits: Vec<u32>,
}

fn floats(bits: &[u32]) -> Vec<f32> {
    bits.iter().copied().map(f32::from_bits).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn scores_are_bit_for_bit_those_of_libxgboost() {
    for (name, ubjson, json, case) in FIXTURES {
        let case: Case = serde_json::from_str(case).unwrap();
        let features = floats(&case.feature_bits);
        for file in [ubjson, json] {
            let model = load(file).unwrap();
            assert_eq!((model.feature_count(), model.score_count()), (case.features, case.scores), "{name}");
            let batched = model.score(&features);
            assert_eq!(bits(&batched), case.score_bits, "{name}");
            let single: Vec<f32> =
                features.chunks_exact(case.features).flat_map(|row| model.score(row)).collect();
            assert_eq!(bits(&single), case.score_bits, "{name}, one row at a time");
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    for (name, ubjson, json, _) in FIXTURES {
        for file in [ubjson, json] {
            for length in 0..file.len() {
                assert!(load(&file[..length]).is_err(), "{name} cut at {length}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Damage that no check can see gives other scores; all other damage is an error. Neither panics nor takes long.
    #[test]
    fn a_damaged_file_is_harmless(
        (fixture, json) in (0_usize..3, any::<bool>()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (_, ubjson, text, case) = FIXTURES[fixture];
        let mut file = if json { text.to_vec() } else { ubjson.to_vec() };
        for (index, byte) in changes {
            let index = index.index(file.len());
            file[index] = byte;
        }
        let started = Instant::now();
        if let Ok(model) = load(&file) {
            let case: Case = serde_json::from_str(case).unwrap();
            let scores = model.score(&floats(&case.feature_bits));
            prop_assert_eq!(scores.len() % model.score_count(), 0);
        }
        prop_assert!(started.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn every_flipped_bit_of_a_small_file_is_harmless() {
    let (_, ubjson, _, _) = FIXTURES[2];
    for index in 0..ubjson.len() {
        for bit in 0..8 {
            let mut file = ubjson.to_vec();
            file[index] ^= 1 << bit;
            if let Ok(model) = load(&file) {
                model.score(&vec![0.5; model.feature_count()]);
            }
        }
    }
}

/// The smallest JSON model, with what `change` makes of it.
fn refusal(change: impl FnOnce(&mut Value)) -> String {
    let mut model: Value = serde_json::from_slice(FIXTURES[1].2).unwrap();
    change(&mut model["learner"]);
    load(model.to_string().as_bytes()).unwrap_err().to_string()
}

fn first_tree(learner: &mut Value) -> &mut Value {
    &mut learner["gradient_booster"]["model"]["trees"][0]
}

#[test]
fn says_what_is_not_supported() {
    assert_eq!(
        refusal(
            |learner| learner["gradient_booster"] = json!({"name": "dart", "gbtree": {}, "weight_drop": []})
        ),
        "unsupported XGBoost model: booster `dart` (expected `gbtree`)"
    );
    assert_eq!(
        refusal(|learner| {
            learner["gradient_booster"] = json!({"model": {"weights": [1.0]}, "name": "gblinear"});
        }),
        "unsupported XGBoost model: booster `gblinear` (expected `gbtree`)"
    );
    assert_eq!(
        refusal(|learner| learner["objective"]["name"] = json!("rank:ndcg")),
        "unsupported XGBoost model: objective `rank:ndcg` (expected `multi:softprob`, `multi:softmax`, \
         `binary:logistic` or `reg:squarederror`)"
    );
    assert_eq!(
        refusal(|learner| first_tree(learner)["split_type"][0] = json!(1)),
        "unsupported XGBoost model: categorical splits (expected numeric ones)"
    );
    assert_eq!(
        refusal(|learner| first_tree(learner)["tree_param"]["size_leaf_vector"] = json!("2")),
        "unsupported XGBoost model: leaves of 2 values (expected 1)"
    );
    assert_eq!(
        refusal(|learner| learner["learner_model_param"]["num_target"] = json!("2")),
        "unsupported XGBoost model: 2 targets (expected 1)"
    );
    assert_eq!(
        refusal(|learner| learner["learner_model_param"]["num_feature"] = json!("4294967295")),
        "unsupported XGBoost model: 4294967295 features (expected at most 1048576)"
    );
}

#[test]
fn says_what_is_malformed() {
    let malformed = "malformed XGBoost JSON model: ";
    assert_eq!(
        refusal(|learner| first_tree(learner)["left_children"][0] = json!(0)),
        format!("{malformed}tree 0: node 0 is reached twice")
    );
    assert_eq!(
        refusal(|learner| first_tree(learner)["right_children"][0] = json!(1_000)),
        format!("{malformed}tree 0: node 1000 does not exist: expected less than 15")
    );
    assert_eq!(
        refusal(|learner| first_tree(learner)["right_children"][0] = json!(-2)),
        format!("{malformed}tree 0: node 0 has a negative child")
    );
    assert_eq!(
        refusal(|learner| first_tree(learner)["split_indices"][0] = json!(6)),
        format!("{malformed}tree 0: node 0 splits on feature 6: expected less than 6")
    );
    assert_eq!(
        refusal(|learner| learner["gradient_booster"]["model"]["tree_info"][1] = json!(1)),
        format!("{malformed}tree 1: adds to margin 1: expected less than 1")
    );
    assert_eq!(
        refusal(|learner| learner["gradient_booster"]["model"]["tree_info"] = json!([0])),
        format!("{malformed}`tree_info` has 1 entries for 2 trees")
    );
    for (base_score, reason) in [
        ("[0.5,0.5]", "`base_score` has 2 numbers: expected 1 or 1"),
        ("[0.5", "`base_score` has no closing bracket"),
        ("half", "`base_score` is `half`: expected a number"),
        ("1", "`base_score` is 1: expected a finite margin"),
    ] {
        assert_eq!(
            refusal(|learner| learner["learner_model_param"]["base_score"] = json!(base_score)),
            format!("{malformed}{reason}")
        );
    }
    assert!(refusal(|learner| learner["objective"] = json!(1)).starts_with(malformed));
}

#[test]
fn reads_scalar_base_scores_and_boolean_directions_of_older_files() {
    let (_, _, json, case) = FIXTURES[1];
    let case: Case = serde_json::from_str(case).unwrap();
    let mut model: Value = serde_json::from_slice(json).unwrap();
    let parameters = &mut model["learner"]["learner_model_param"];
    parameters["base_score"] = json!(parameters["base_score"].as_str().unwrap().trim_matches(['[', ']']));
    parameters.as_object_mut().unwrap().remove("num_target");
    for tree in model["learner"]["gradient_booster"]["model"]["trees"].as_array_mut().unwrap() {
        for direction in tree["default_left"].as_array_mut().unwrap() {
            *direction = json!(direction.as_i64() == Some(1));
        }
        tree["tree_param"]["size_leaf_vector"] = json!("0");
    }
    let scores = load(model.to_string().as_bytes()).unwrap().score(&floats(&case.feature_bits));
    assert_eq!(bits(&scores), case.score_bits);
}

#[test]
fn extreme_margins_become_probabilities() {
    assert_eq!(sigmoid(0.0), 0.5);
    assert_eq!(sigmoid(f32::MAX), 1.0);
    assert!(sigmoid(f32::MIN) > 0.0);
    let mut margins = [f32::MAX, 0.0, f32::MIN];
    softmax(&mut margins);
    assert_eq!(margins, [1.0, 0.0, 0.0]);
}
