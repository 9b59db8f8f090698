use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::objective::{sigmoid, softmax};
use super::*;
use crate::model::load;

/// A model written by libxgboost, as UBJSON and as JSON, and what it says of some rows.
struct Fixture {
    name: &'static str,
    files: &'static [&'static [u8]],
    case: &'static str,
}

macro_rules! fixtures {
    ($extensions:tt $($name:literal)*) => {
        [$(fixtures!(@one $extensions $name)),*]
    };
    (@one [$($extension:literal)*] $name:literal) => {
        Fixture {
            name: $name,
            files: &[$(include_bytes!(concat!("../fixtures/", $name, ".", $extension))),*],
            case: include_str!(concat!("../fixtures/", $name, ".case.json")),
        }
    };
}

/// Of `tests/python/make_model_fixtures.py`. The first three are small, and others build on them.
const FIXTURES: [Fixture; 29] = fixtures!(["ubj" "json"]
    "softprob" "logistic" "squarederror"
    "dart" "dart-softprob" "linear" "linear-softprob" "linear-poisson" "forest"
    "categories" "categories-onehot" "categories-dart"
    "targets" "targets-vector" "labels" "labels-vector" "softprob-vector" "untrained"
    // Of older versions.
    "1.7.6/categories" "1.7.6/logistic" "1.7.6/softprob"
    "2.1.4/categories" "2.1.4/logistic" "2.1.4/softprob" "2.1.4/targets-vector"
    "3.1.3/categories" "3.1.3/logistic" "3.1.3/softprob" "3.1.3/targets-vector"
);

/// One for each objective that the others do not have.
const OBJECTIVES: [Fixture; 16] = fixtures!(["json"]
    "binary-hinge" "binary-logitraw" "count-poisson" "multi-softmax" "rank-map" "rank-ndcg" "rank-pairwise"
    "reg-absoluteerror" "reg-gamma" "reg-logistic" "reg-pseudohubererror" "reg-quantileerror" "reg-squaredlogerror"
    "reg-tweedie" "survival-aft" "survival-cox"
);

fn all_fixtures() -> impl Iterator<Item = &'static Fixture> {
    const { &FIXTURES }.iter().chain(const { &OBJECTIVES })
}

/// The fixture of this name.
fn fixture(name: &str) -> &'static Fixture {
    all_fixtures().find(|fixture| fixture.name == name).unwrap()
}

impl Fixture {
    fn json(&self) -> &'static [u8] {
        self.files.last().unwrap()
    }

    fn case(&self) -> Case {
        serde_json::from_str(self.case).unwrap()
    }
}

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
    for fixture in all_fixtures() {
        let (name, case) = (fixture.name, fixture.case());
        let features = floats(&case.feature_bits);
        for file in fixture.files {
            let model = load(file).unwrap();
            assert_eq!((model.feature_count(), model.score_count()), (case.features, case.scores), "{name}");
            let batched = model.score(&features).unwrap();
            assert_eq!(bits(&batched), case.score_bits, "{name}");
            let single: Vec<f32> =
                features.chunks_exact(case.features).flat_map(|row| model.score(row).unwrap()).collect();
            assert_eq!(bits(&single), case.score_bits, "{name}, one row at a time");
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    for fixture in all_fixtures() {
        for file in fixture.files {
            for length in 0..file.len() {
                assert!(load(&file[..length]).is_err(), "{} cut at {length}", fixture.name);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Damage that no check can see gives other scores; all other damage is an error. Neither panics nor takes long.
    #[test]
    fn a_damaged_file_is_harmless(
        (fixture, json) in (0..FIXTURES.len(), any::<bool>()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let fixture = &FIXTURES[fixture];
        let mut file = fixture.files[usize::from(json)].to_vec();
        for (index, byte) in changes {
            let index = index.index(file.len());
            file[index] = byte;
        }
        let started = Instant::now();
        if let Ok(model) = load(&file) {
            let scores = model.score(&floats(&fixture.case().feature_bits)).unwrap();
            prop_assert_eq!(scores.len() % model.score_count(), 0);
        }
        prop_assert!(started.elapsed() < Duration::from_secs(2));
    }

    /// Whole numbers of a file are counts, indices and categories: each of them may be any other.
    #[test]
    fn a_file_with_another_number_is_harmless(
        fixture in 0..FIXTURES.len(),
        place in any::<prop::sample::Index>(),
        number in prop_oneof![-3_i64..50, Just(1 << 24), Just((1 << 24) - 1), Just(i64::from(u32::MAX)), any::<i64>()],
    ) {
        let fixture = &FIXTURES[fixture];
        let mut model: Value = serde_json::from_slice(&json::with_numbers(fixture.json())).unwrap();
        let mut numbers = Vec::new();
        whole_numbers(&mut model["learner"]["gradient_booster"], &mut numbers);
        if !numbers.is_empty() {
            *numbers.swap_remove(place.index(numbers.len())) = json!(number);
        }
        let started = Instant::now();
        if let Ok(model) = load(model.to_string().as_bytes()) {
            model.score(&floats(&fixture.case().feature_bits)).unwrap();
        }
        prop_assert!(started.elapsed() < Duration::from_secs(2));
    }
}

fn whole_numbers<'a>(value: &'a mut Value, numbers: &mut Vec<&'a mut Value>) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| whole_numbers(value, numbers)),
        Value::Object(fields) => fields.values_mut().for_each(|value| whole_numbers(value, numbers)),
        Value::Number(number) if !number.is_f64() => numbers.push(value),
        _ => {}
    }
}

#[test]
fn every_flipped_bit_of_a_small_file_is_harmless() {
    for name in ["squarederror", "linear", "untrained"] {
        let ubjson = fixture(name).files[0];
        for index in 0..ubjson.len() {
            for bit in 0..8 {
                let mut file = ubjson.to_vec();
                file[index] ^= 1 << bit;
                if let Ok(model) = load(&file) {
                    model.score(&vec![0.5; model.feature_count()]).unwrap();
                }
            }
        }
    }
}

/// Why the JSON model of this name is refused, with what `change` makes of its learner.
fn refusal_of(name: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut model: Value = serde_json::from_slice(fixture(name).json()).unwrap();
    change(&mut model["learner"]);
    load(model.to_string().as_bytes()).unwrap_err().to_string()
}

fn refusal(change: impl FnOnce(&mut Value)) -> String {
    refusal_of("logistic", change)
}

fn first_tree(learner: &mut Value) -> &mut Value {
    &mut learner["gradient_booster"]["model"]["trees"][0]
}

#[test]
fn says_what_is_not_supported() {
    assert_eq!(
        refusal(|learner| learner["gradient_booster"] = json!({"name": "gbforest", "model": {}})),
        "unsupported XGBoost model: booster `gbforest` (expected `gbtree`, `dart` or `gblinear`)"
    );
    assert_eq!(
        refusal(|learner| learner["objective"]["name"] = json!("my:objective")),
        "unsupported XGBoost model: objective `my:objective` (expected one of XGBoost 3.2, which are \
         `reg:squarederror`, `reg:squaredlogerror`, `reg:absoluteerror`, `reg:pseudohubererror`, \
         `reg:quantileerror`, `reg:logistic`, `reg:gamma`, `reg:tweedie`, `count:poisson`, `survival:cox`, \
         `survival:aft`, `binary:logistic`, `binary:logitraw`, `binary:hinge`, `multi:softprob`, `multi:softmax`, \
         `rank:pairwise`, `rank:ndcg`, `rank:map`)"
    );
    assert_eq!(
        refusal_of("dart", |learner| {
            let tree = &mut learner["gradient_booster"]["gbtree"]["model"]["trees"][0];
            tree["tree_param"]["size_leaf_vector"] = json!("2");
        }),
        "unsupported XGBoost model: booster `dart` with leaves of 2 values (expected 1)"
    );
    assert_eq!(
        refusal(|learner| learner["learner_model_param"]["num_target"] = json!("65537")),
        "unsupported XGBoost model: 65537 scores in a row (expected at most 65536)"
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
        ("2", "`base_score` is 2: expected a number from 0 to 1"),
        ("nan", "`base_score` is NaN: expected a number from 0 to 1"),
    ] {
        assert_eq!(
            refusal(|learner| learner["learner_model_param"]["base_score"] = json!(base_score)),
            format!("{malformed}{reason}")
        );
    }
    assert!(refusal(|learner| learner["objective"] = json!(1)).starts_with(malformed));
    assert_eq!(
        refusal(|learner| first_tree(learner)["tree_param"]["size_leaf_vector"] = json!("2")),
        format!("{malformed}tree 0: leaves of 2 values: expected 1 or 1")
    );
    assert_eq!(
        refusal(|learner| {
            learner["learner_model_param"]["num_target"] = json!("2");
            learner["learner_model_param"]["num_class"] = json!("2");
        }),
        format!("{malformed}2 classes and 2 targets: expected one of them")
    );
    assert_eq!(
        refusal(|learner| first_tree(learner)["id"] = json!(1)),
        format!("{malformed}tree 0 has the id 1: expected 0")
    );
    assert_eq!(
        refusal(|learner| first_tree(learner)["split_type"][0] = json!(2)),
        format!("{malformed}tree 0: `split_type` 2: expected 0 or 1")
    );
}

#[test]
fn says_what_is_malformed_of_other_boosters_splits_and_leaves() {
    let malformed = "malformed XGBoost JSON model: ";
    assert_eq!(
        refusal_of("dart", |learner| learner["gradient_booster"]["weight_drop"] = json!([1.0])),
        format!("{malformed}`weight_drop` has 1 entries for 5 trees")
    );
    let large =
        refusal_of("dart", |learner| learner["gradient_booster"]["weight_drop"] = json!(vec![3e38; 5]));
    assert!(large.ends_with("margin 0 can add up to more than the largest float"), "{large}");
    assert_eq!(
        refusal_of("linear", |learner| learner["gradient_booster"]["model"]["weights"] = json!([1.0])),
        format!("{malformed}1 weights: expected 7, one more than features for each score")
    );
    let categories = |name: &'static str, value: Value| {
        refusal_of("categories", move |learner| first_tree(learner)[name][0] = value)
    };
    assert_eq!(
        categories("categories_nodes", json!(7)),
        format!("{malformed}tree 0: node 0 splits by categories, but has none")
    );
    assert_eq!(
        categories("categories_sizes", json!(0)),
        format!("{malformed}tree 0: a split's categories begin at 9: expected 0")
    );
    let of_tree =
        |change: fn(&mut Value)| refusal_of("categories", move |learner| change(first_tree(learner)));
    assert_eq!(
        of_tree(|tree| tree["categories_segments"][1] = json!(0)),
        format!("{malformed}tree 0: a split's categories begin at 0: expected 9"),
        "shared by two splits"
    );
    assert!(
        of_tree(|tree| tree["categories"].as_array_mut().unwrap().push(json!(1))).contains("categories: ")
    );
    assert!(of_tree(|tree| drop(tree["categories_sizes"].as_array_mut().unwrap().pop())).contains("as many"));
    assert_eq!(
        categories("categories", json!(16_777_216)),
        format!("{malformed}tree 0: node 0 splits by category 16777216: expected less than 16777216")
    );
    assert!(categories("categories", json!(-1)).starts_with(malformed));
    assert_eq!(
        refusal_of("targets-vector", |learner| first_tree(learner)["leaf_weights"] = json!([1.0, 2.0])),
        format!("{malformed}tree 0: node 7 is a leaf of 0 values: expected 3")
    );
}

#[test]
fn leaves_that_share_values_are_refused() {
    let refused = refusal_of("targets-vector", |learner| {
        let tree = first_tree(learner);
        let is_leaf: Vec<bool> =
            tree["left_children"].as_array().unwrap().iter().map(|child| *child == json!(-1)).collect();
        let rows = tree["right_children"].as_array_mut().unwrap().iter_mut();
        rows.zip(is_leaf).filter(|(_, is_leaf)| *is_leaf).for_each(|(row, _)| *row = json!(0));
    });
    let expected = "tree 0: node 8 is a leaf with the values of another: expected its own";
    assert_eq!(refused, format!("malformed XGBoost JSON model: {expected}"));
}

/// The names that the JSON model of `logistic` has with these in its file.
fn names_in_json(names: &Value) -> Result<Vec<String>, String> {
    let mut model: Value = serde_json::from_slice(fixture("logistic").json()).unwrap();
    model["learner"]["feature_names"] = names.clone();
    let file = model.to_string();
    // Scores need no names, so that whatever is in their place takes no model from who serves it.
    load(file.as_bytes()).unwrap();
    feature_names(file.as_bytes()).map_err(|error| error.to_string())
}

#[test]
fn features_have_the_names_of_the_file() {
    for fixture in all_fixtures() {
        for file in fixture.files {
            assert_eq!(feature_names(file).unwrap(), [""; 0], "{}", fixture.name);
        }
    }
    let names = ["income", "Größe", "age", "d\"e", "NaN", "f"];
    assert_eq!(names_in_json(&json!(names)).unwrap(), names);
    // As libxgboost writes it: a list with its length, then each name with its own.
    let place = b"feature_names[#L";
    let ubjson = fixture("logistic").files[0];
    let start = ubjson.windows(place.len()).position(|window| window == place).unwrap() + place.len();
    let long = |length: usize| (length as i64).to_be_bytes();
    let mut file = [&ubjson[..start], &long(names.len())].concat();
    for name in names {
        file.extend([b"SL", &long(name.len())[..], name.as_bytes()].concat());
    }
    file.extend_from_slice(&ubjson[start + 8..]);
    assert_eq!(feature_names(&file).unwrap(), names);
    load(&file).unwrap();
}

#[test]
fn names_that_no_table_has_are_none() {
    for name in ["", "a", &"x".repeat(257)] {
        assert_eq!(names_in_json(&json!(["a", name, "c", "d", "e", "f"])).unwrap(), [""; 0], "{name}");
    }
}

#[test]
fn says_what_is_malformed_of_names() {
    let refused = |names: Value| {
        let error = names_in_json(&names).unwrap_err();
        error.strip_prefix("malformed XGBoost JSON model: ").unwrap().to_owned()
    };
    assert_eq!(refused(json!(["a", "b"])), "2 names of features: expected 6");
    assert!(refused(json!([1, 2, 3, 4, 5, 6])).starts_with("invalid type: integer"));
    assert!(refused(json!("abcdef")).contains("expected a list of names"));
    let many = refused(json!(vec![""; FEATURES_MAX + 1]));
    assert!(many.starts_with("more than 1048576 names of features"), "{many}");
}

#[test]
fn reads_scalar_base_scores_and_boolean_directions_of_older_files() {
    let (json, case) = (fixture("logistic").json(), fixture("logistic").case());
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
    let scores = load(model.to_string().as_bytes()).unwrap().score(&floats(&case.feature_bits)).unwrap();
    assert_eq!(bits(&scores), case.score_bits);
}

#[test]
fn infinite_thresholds_are_read_from_json() {
    let json = fixture("squarederror").json();
    let feature = {
        let mut model: Value = serde_json::from_slice(json).unwrap();
        first_tree(&mut model["learner"])["split_indices"][0].as_u64().unwrap() as usize
    };
    let text = std::str::from_utf8(json).unwrap();
    // The first number of the first tree's thresholds.
    let (before, after) = text.split_once("\"split_conditions\":[").unwrap();
    let (_, after) = after.split_once(',').unwrap();
    let load =
        |threshold: &str| load(format!("{before}\"split_conditions\":[{threshold},{after}").as_bytes());
    let score = |threshold: &str, value: f32| {
        let mut row = [0.0; 6];
        row[feature] = value;
        load(threshold).unwrap().score(&row).unwrap()
    };
    assert_ne!(score("1E0", 0.0), score("-1E0", 0.0), "left and right");
    assert_eq!(score("Infinity", 0.0), score("1E0", 0.0));
    assert_eq!(score("-Infinity", 0.0), score("-1E0", 0.0));
    assert_ne!(score("Infinity", f32::INFINITY), score("Infinity", f32::MAX), "infinity is not less");
    assert_eq!(
        load("NaN").unwrap_err().to_string(),
        "malformed XGBoost JSON model: tree 0: node 0 has the value NaN: expected a number"
    );
}

#[test]
fn a_model_that_was_never_trained_takes_no_memory_for_its_weights() {
    let mut model: Value = serde_json::from_slice(fixture("linear-softprob").json()).unwrap();
    let learner = &mut model["learner"];
    learner["gradient_booster"]["model"]["weights"] = json!([]);
    let parameters = &mut learner["learner_model_param"];
    (parameters["num_class"], parameters["num_feature"]) = (json!("65536"), json!("1048576"));
    parameters["base_score"] = json!("5E-1");
    let model = load(model.to_string().as_bytes()).unwrap();
    assert!(model.byte_len() < 1 << 20);
    assert_eq!(model.score(&vec![1.0; 1 << 20]).unwrap(), [1.0 / 65_536.0; 65_536]);
}

#[test]
fn margins_of_a_model_that_was_never_trained_are_its_base_score() {
    // What Python's XGBoost 3.2 answers to these files: the link only counts where the score is not to be guessed.
    for (objective, base_score, flag, expected) in [
        ("reg:squarederror", "3E-1", Some("1"), 0.3_f32),
        ("binary:logistic", "7E-1", Some("1"), 0.668_187_74),
        ("binary:logistic", "[7E-1]", None, 0.668_187_74),
        ("binary:logistic", "-2", Some("1"), 0.119_202_92),
        ("binary:logistic", "7E-1", Some("0"), 0.7),
        ("count:poisson", "3E-1", Some("1"), 1.349_858_9),
        ("count:poisson", "3E-1", Some("0"), 0.299_999_98),
        ("count:poisson", "5E-1", Some("1"), 1.648_721_2),
    ] {
        let mut model: Value = serde_json::from_slice(fixture("untrained").json()).unwrap();
        model["learner"]["objective"]["name"] = json!(objective);
        let parameters = &mut model["learner"]["learner_model_param"];
        (parameters["base_score"], parameters["num_target"]) = (json!(base_score), json!("1"));
        parameters["num_class"] = json!("0");
        parameters["boost_from_average"] = json!(flag);
        let model = load(model.to_string().as_bytes()).unwrap();
        let scores = model.score(&vec![0.0; model.feature_count()]).unwrap();
        assert_eq!(bits(&scores), bits(&[expected]), "{objective} {base_score} {flag:?}");
    }
    let infinite = refusal_of("untrained", |learner| {
        learner["learner_model_param"]["base_score"] = json!("1e39");
        learner["learner_model_param"]["boost_from_average"] = json!("1");
    });
    assert!(infinite.ends_with("`base_score` is inf: expected a finite number"), "{infinite}");
    let mut targets: Value = serde_json::from_slice(fixture("targets").json()).unwrap();
    targets["learner"]["gradient_booster"]["model"] = json!({ "trees": [], "tree_info": [] });
    targets["learner"]["learner_model_param"]["base_score"] = json!("[1E-1,2E-1,3E-1]");
    let targets = load(targets.to_string().as_bytes()).unwrap();
    assert_eq!(targets.score(&vec![0.0; targets.feature_count()]).unwrap(), [0.1, 0.2, 0.3]);
}

#[test]
fn tells_what_scores_are() {
    let values = |name: &str| load(fixture(name).json()).unwrap().predicts_values();
    for name in ["logistic", "softprob", "multi-softmax", "binary-hinge", "dart-softprob", "softprob-vector"]
    {
        assert!(!values(name), "{name}");
    }
    for name in
        ["squarederror", "reg-logistic", "binary-logitraw", "rank-map", "survival-cox", "linear-poisson"]
    {
        assert!(values(name), "{name}");
    }
    // Each score is of another label, and several may be 1.
    assert!(values("labels") && values("labels-vector"));
    let description = |name: &str| load(fixture(name).json()).unwrap().description();
    assert_eq!(description("multi-softmax"), "XGBoost multi:softprob, 3 trees");
    assert_eq!(description("dart"), "XGBoost dart reg:squarederror, 5 trees");
    assert_eq!(description("linear-softprob"), "XGBoost gblinear multi:softprob");
    assert_eq!(description("forest"), "XGBoost reg:squarederror, 6 trees");
}

#[test]
fn base_scores_become_margins_as_in_libxgboost() {
    let margin = |name, score| Objective::named(name).ok().unwrap().margin(score).ok();
    // A model of labels that are all alike.
    assert_eq!(margin("binary:logistic", 0.0), Some(-13.815_51));
    assert_eq!(margin("reg:logistic", 1.0), Some(13.745_16));
    assert_eq!(margin("binary:logistic", 2e-6), Some(-13.122_361));
    assert_eq!(margin("count:poisson", 0.0), Some(f32::NEG_INFINITY));
    assert_eq!(margin("survival:aft", 0.25), Some(-1.386_294_4));
    assert_eq!(margin("binary:logitraw", 0.45), Some(0.45));
    assert_eq!(margin("reg:linear", -2.0), Some(-2.0));
    for (name, score) in [("binary:logistic", -0.1), ("reg:gamma", -1.0), ("rank:map", f32::NAN)] {
        assert_eq!(margin(name, score), None);
    }
    let mut scores = [f32::NEG_INFINITY];
    Objective::named("reg:tweedie").ok().unwrap().transform(&mut scores, 1);
    assert_eq!(scores, [0.0]);
}

#[test]
fn accelerated_failure_times_are_exponentials_of_64_bits() {
    let scores = |name| {
        // What a compiler computes beforehand has other last bits.
        let mut scores = [std::hint::black_box(f32::from_bits(0x3f00_ff7a))];
        Objective::named(name).ok().unwrap().transform(&mut scores, 1);
        scores.map(f32::to_bits)
    };
    assert_eq!(scores("survival:aft"), [0x3fd3_dc50]);
    assert_eq!(scores("survival:cox"), [0x3fd3_dc51]);
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
