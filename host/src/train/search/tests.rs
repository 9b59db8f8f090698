use proptest::prelude::*;

use super::*;

fn space(texts: &[&str]) -> Space {
    Space::new(texts.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
}

fn search(texts: &[&str], method: Method, seed: u32) -> Search {
    Search::new(space(texts), method, Direction::Minimize, seed).unwrap()
}

#[test]
fn ranges_and_choices_are_read() {
    let values = |text: &str| text.parse::<Dimension>().unwrap().values;
    assert_eq!(values("max_depth=3..10"), Values::Integer(Range { low: 3, high: 10, log: false }));
    assert_eq!(values("eta=0.01..0.3:log"), Values::Float(Range { low: 0.01, high: 0.3, log: true }));
    assert_eq!(values("x=-2..1e1"), Values::Float(Range { low: -2.0, high: 10.0, log: false }));
    assert_eq!(values("tree_method=hist, exact"), Values::Choice(vec!["hist".into(), "exact".into()]));
    assert_eq!(values("eta=0.3"), Values::Choice(vec!["0.3".into()]));
    let json = serde_json::json!({
        "max_depth": "3..10", "eta": { "low": 0.01, "high": 0.3, "log": true }, "bins": { "low": 16, "high": 64 },
        "method": ["hist", "exact"], "n": [1, 2.5, true]
    });
    let read = Space::from_json(json.as_object().unwrap()).unwrap();
    let written =
        space(&["max_depth=3..10", "eta=0.01..0.3:log", "bins=16..64", "method=hist,exact", "n=1,2.5,true"]);
    assert_eq!(read, written);
}

#[test]
fn nonsense_is_refused_in_a_sentence() {
    let refusal = |text: &str| text.parse::<Dimension>().unwrap_err().to_string();
    assert_eq!(
        refusal("max_depth"),
        "`max_depth` is no parameter to search: expected `NAME=LOW..HIGH`, `NAME=LOW..HIGH:log` or `NAME=VALUE,VALUE,…`"
    );
    assert_eq!(refusal("a=9..3"), "the space of parameter `a` is `9..3`: expected the smaller number first");
    assert_eq!(
        refusal("a=0..3:log"),
        "the space of parameter `a` is `0..3`: expected numbers above 0 where factors count"
    );
    assert_eq!(
        refusal("a=1..3:lgo"),
        "the space of parameter `a` is `1..3:lgo`: expected `:log` or nothing after the range"
    );
    assert_eq!(refusal("a=1,2,1"), "the space of parameter `a` is `1,2,1`: expected `1` only once");
    for text in ["=1..2", "a=", "a=1..", "a=x..y", "a=1,,2", "a=nan..1", "a=0..1e999", "a=1..2:"] {
        assert!(text.parse::<Dimension>().is_err(), "{text}");
    }
    let twice = vec!["a=1..2".parse().unwrap(), "a=1,2".parse().unwrap()];
    assert_eq!(Space::new(twice).unwrap_err().to_string(), "parameter `a` is given twice in the space");
    assert_eq!(Space::new(Vec::new()).unwrap_err(), SearchError::Empty);
    for json in [
        r#"{"a": {"low": 1}}"#,
        r#"{"a": {"low": 1, "hihg": 2}}"#,
        r#"{"a": [[]]}"#,
        r#"{"a": 1}"#,
        r#"{"a": []}"#,
    ] {
        assert!(
            Space::from_json(serde_json::from_str::<serde_json::Value>(json).unwrap().as_object().unwrap())
                .is_err()
        );
    }
    let grid = |text: &[&str]| {
        Search::new(space(text), Method::Grid, Direction::Minimize, 0).unwrap_err().to_string()
    };
    assert!(grid(&["eta=0.1..0.2"]).starts_with("a grid cannot have the range of `eta`"));
    assert!(grid(&["a=1..1000", "b=1..1000", "c=1..1000"]).starts_with("a grid of more than 1000000"));
}

#[test]
fn a_grid_has_every_combination_once() {
    let search = search(&["a=1..3", "b=x,y", "c=0.5..0.5"], Method::Grid, 0);
    assert_eq!(search.trials(), Some(6));
    let all: Vec<String> = (0..6)
        .map(|trial| {
            search
                .suggest(trial, &[])
                .unwrap()
                .into_iter()
                .map(|(_, value)| value)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    assert_eq!(all, ["1 x 0.5", "1 y 0.5", "2 x 0.5", "2 y 0.5", "3 x 0.5", "3 y 0.5"]);
    assert_eq!(search.suggest(6, &[]), None);
}

#[test]
fn bounds_have_every_bound_and_choice() {
    let bounds = space(&["a=1..3", "b=x,y,z", "c=0.1..0.2"]).bounds();
    let values = |place: usize| -> Vec<&str> { bounds.iter().map(|all| all[place].1.as_str()).collect() };
    assert_eq!(
        (values(0), values(1), values(2)),
        (vec!["1", "3", "1"], vec!["x", "y", "z"], vec!["0.1", "0.2", "0.1"])
    );
}

/// What a search finds in so many trials of a function with its least value, 0, at one point.
fn best_found(method: Method, seed: u32) -> f64 {
    let search = search(&["x=-10.0..10.0", "rate=0.0001..1.0:log", "n=1..20", "kind=a,b,c,d"], method, seed);
    let mut observations: Vec<Observation> = Vec::new();
    for trial in 0..80 {
        let assignment = search.suggest(trial, &observations).unwrap();
        let number = |place: usize| assignment[place].1.parse::<f64>().unwrap();
        let value = (number(0) - 3.0).powi(2) / 10.0
            + (number(1).log10() + 2.0).powi(2)
            + (number(2) - 7.0).powi(2) / 20.0
            + if assignment[3].1 == "c" { 0.0 } else { 2.0 };
        observations.push(Observation { assignment, value });
    }
    observations.iter().map(|observation| observation.value).fold(f64::INFINITY, f64::min)
}

#[test]
fn what_is_learned_from_results_finds_more_than_chance() {
    let mean = |method| (0..20).map(|seed| best_found(method, seed)).sum::<f64>() / 20.0;
    let (tpe, random) = (mean(Method::Tpe), mean(Method::Random));
    assert!(tpe < 0.5 * random, "tpe {tpe}, random {random}");
}

#[test]
fn both_ends_of_whole_numbers_are_as_likely_as_the_middle() {
    let search = search(&["n=1..4"], Method::Random, 0);
    let mut counts = [0; 4];
    for trial in 0..4_000 {
        counts[search.suggest(trial, &[]).unwrap()[0].1.parse::<usize>().unwrap() - 1] += 1;
    }
    assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
}

fn dimensions() -> impl Strategy<Value = Space> {
    let integers = (-1_000_i64..1_000, 0_i64..1_000, any::<bool>()).prop_map(|(low, width, log)| {
        Values::Integer(Range {
            low: if log { low.abs() + 1 } else { low },
            high: low.abs() + 1 + width,
            log,
        })
    });
    let floats = (1e-6_f64..1e3, 0.0_f64..1e3, any::<bool>())
        .prop_map(|(low, width, log)| Values::Float(Range { low, high: low + width, log }));
    let choices = (1_usize..6)
        .prop_map(|count| Values::Choice((0..count).map(|choice| format!("c{choice}")).collect()));
    let values = prop_oneof![integers, floats, choices];
    proptest::collection::vec(values, 1..4).prop_map(|all| {
        let named = all
            .into_iter()
            .enumerate()
            .map(|(place, values)| Dimension { name: format!("p{place}"), values });
        Space::new(named.collect()).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn suggestions_are_in_the_space_and_the_same_again(
        space in dimensions(),
        seed in any::<u32>(),
        results in proptest::collection::vec(prop_oneof![Just(f64::NAN), Just(f64::INFINITY), -1e9..1e9_f64], 0..25),
    ) {
        for method in [Method::Random, Method::Tpe] {
            let search = Search::new(space.clone(), method, Direction::Maximize, seed).unwrap();
            let mut observations = Vec::new();
            for (trial, value) in results.iter().enumerate() {
                let assignment = search.suggest(trial as u64, &observations).unwrap();
                prop_assert!(space.point(&assignment).is_some(), "{:?} is not in {:?}", assignment, space);
                let again = search.suggest(trial as u64, &observations);
                prop_assert_eq!(again.as_ref(), Some(&assignment));
                observations.push(Observation { assignment, value: *value });
            }
        }
    }

    #[test]
    fn the_best_so_far_always_goes_on(
        values in proptest::collection::vec(-1e3..1e3_f64, 1..50),
        reduction in 2_u32..5,
    ) {
        let mut scheduler = Scheduler::new(Schedule::Halving, 1, 10, reduction);
        let mut best = f64::INFINITY;
        let mut on = 0;
        for (trial, value) in values.iter().enumerate() {
            let goes_on = scheduler.goes_on(trial as u64, 1, *value);
            if *value < best {
                prop_assert!(goes_on);
                best = *value;
            }
            on += usize::from(goes_on);
        }
        prop_assert!(on >= 1);
    }
}
