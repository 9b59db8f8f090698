use mlops_plugin::testing;

use super::*;

/// A small generator (SplitMix64), so that tests depend on nothing but their seed.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in 0 to 1.
    fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// About normal: the sum of twelve uniforms.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

fn batch(name: &str, shape: &[usize], values: Vec<f64>) -> Batch {
    Batch::new([Tensor::from_values(name, shape, values).unwrap()]).unwrap()
}

/// Rows whose `width` elements are zero in part of the rows, as pixels are, and depend on each other.
fn rows(random: &mut Random, count: usize, width: usize, shift: f64) -> Batch {
    let mut values = Vec::with_capacity(count * width);
    for _ in 0..count {
        let common = random.normal();
        values.extend((0..width).map(|index| match index % 3 {
            0 => random.normal() + shift,
            1 => (random.normal() + common + shift).max(0.0),
            _ => (random.uniform() * 3.0 + shift).floor(),
        }));
    }
    batch("x", &[count, width], values)
}

fn fitted(config: &str, batches: impl IntoIterator<Item = Batch>) -> Psi {
    let state = testing::fit_detector::<Psi>(config, batches).unwrap();
    testing::open_detector(config, Some(&state)).unwrap()
}

fn worst(scores: &[Score]) -> Verdict {
    scores.iter().map(|score| score.verdict).max().unwrap()
}

#[test]
fn windows_without_drift_are_stable_at_every_size() {
    let mut random = Random(1);
    let psi = fitted("{}", [rows(&mut random, 4_000, 49, 0.0)]);
    for size in [20, 30, 50, 100, 300, 1_000] {
        let windows = 100;
        let drifted = (0..windows)
            .filter(|_| worst(&psi.score(rows(&mut random, size, 49, 0.0)).unwrap()) == Verdict::Drifted)
            .count();
        // 1 % are expected at most; 5 % would be far beyond.
        assert!(drifted <= windows / 25, "{drifted} of {windows} windows of {size} rows");
    }
}

#[test]
fn windows_with_drift_are_seen_at_every_size() {
    let mut random = Random(2);
    let psi = fitted("{}", [rows(&mut random, 4_000, 49, 0.0)]);
    for (size, shift) in [(20, 2.0), (50, 1.5), (200, 1.0), (1_000, 0.7)] {
        for _ in 0..10 {
            let scores = psi.score(rows(&mut random, size, 49, shift)).unwrap();
            assert_eq!(worst(&scores), Verdict::Drifted, "{size} rows shifted by {shift}");
        }
    }
}

#[test]
fn names_the_region_that_drifted() {
    let mut random = Random(3);
    let images = |random: &mut Random, shift: f64| {
        let mut values: Vec<f64> = (0..500 * 784).map(|_| random.uniform() * 255.0).collect();
        for image in values.chunks_exact_mut(784) {
            for pixel in [4 * 28 + 8, 5 * 28 + 9, 7 * 28 + 11] {
                image[pixel] += shift;
            }
        }
        batch("features", &[500, 784], values)
    };
    let psi = fitted("{}", [images(&mut random, 0.0)]);
    let scores = psi.score(images(&mut random, 200.0)).unwrap();
    assert_eq!(scores.len(), 49);
    let drifted: Vec<_> = scores.iter().filter(|score| score.verdict == Verdict::Drifted).collect();
    assert_eq!(drifted.len(), 1);
    assert_eq!((drifted[0].feature.as_str(), drifted[0].statistic.as_str()), ("features[4:8,8:12]", "psi"));
    assert!(drifted[0].value >= drifted[0].threshold && drifted[0].threshold >= 0.25);
}

#[test]
fn a_constant_that_changes_has_drifted() {
    let psi = fitted("{}", [batch("x", &[100], vec![7.0; 100])]);
    for (value, verdict) in [
        (7.0, Verdict::Stable),
        (8.0, Verdict::Drifted),
        (-8.0, Verdict::Drifted),
        (f64::NAN, Verdict::Drifted),
    ] {
        assert_eq!(worst(&psi.score(batch("x", &[20], vec![value; 20])).unwrap()), verdict, "{value}");
    }
}

#[test]
fn the_same_rows_in_other_batches_give_the_same_state() {
    let values: Vec<f64> = {
        let mut random = Random(4);
        (0..300).map(|_| random.normal()).collect()
    };
    let whole = testing::fit_detector::<Psi>("{}", [batch("x", &[100, 3], values.clone())]).unwrap();
    let pieces = values.chunks(30).map(|values| batch("x", &[10, 3], values.to_vec()));
    assert_eq!(testing::fit_detector::<Psi>("{}", pieces).unwrap(), whole);

    let unsaved = {
        let mut psi: Psi = testing::open_detector("{}", None).unwrap();
        psi.fit(batch("x", &[100, 3], values.clone())).unwrap();
        psi
    };
    let saved: Psi = testing::open_detector("{}", Some(&whole)).unwrap();
    let window = batch("x", &[100, 3], values.iter().map(|value| value * 2.0).collect());
    assert_eq!(unsaved.score(window.clone()), saved.score(window));
}

#[test]
fn a_reference_can_grow_until_it_is_saved() {
    let mut psi: Psi = testing::open_detector("{}", None).unwrap();
    assert_eq!(psi.score(batch("x", &[20], vec![0.0; 20])), Err(Error::NotFitted));
    psi.fit(batch("x", &[0], vec![])).unwrap();
    assert_eq!(psi.state(), Err(Error::NotFitted));
    psi.fit(batch("x", &[30], vec![1.0; 30])).unwrap();
    assert_eq!(psi.state().unwrap().rows, 30);
    psi.fit(batch("x", &[30], vec![2.0; 30])).unwrap();
    assert_eq!(psi.state().unwrap().rows, 60);

    let mut reopened = fitted("{}", [batch("x", &[30], vec![1.0; 30])]);
    assert!(matches!(reopened.fit(batch("x", &[30], vec![1.0; 30])), Err(Error::Other(_))));
}

#[test]
fn refuses_references_and_windows_of_other_sizes() {
    let mut psi: Psi = testing::open_detector("{}", None).unwrap();
    psi.fit(batch("x", &[65_536], vec![0.0; 65_536])).unwrap();
    let error = psi.fit(batch("x", &[1], vec![0.0])).unwrap_err();
    assert_eq!(error, Error::invalid_input("expected a reference of at most 65536 rows, found 65537"));
    let error = psi.score(batch("x", &[19], vec![0.0; 19])).unwrap_err();
    assert_eq!(error, Error::invalid_input("expected at least 20 rows, found 19"));
}

#[test]
fn names_the_column_that_differs_from_the_reference() {
    let psi = fitted("{}", [batch("x", &[30, 2], vec![0.0; 60])]);
    let refusal = |window| psi.score(window).unwrap_err().to_string();
    assert_eq!(
        refusal(batch("y", &[20, 2], vec![0.0; 40])),
        "column `y`: expected no other columns than `x`, found `y`"
    );
    assert_eq!(
        refusal(batch("x", &[20, 3], vec![0.0; 60])),
        "column `x`: expected 2 elements a row, as in the reference, found 3"
    );
    let text = Tensor::from_strings("x", [20, 2], vec!["0"; 40]).unwrap();
    assert_eq!(refusal(Batch::new([text]).unwrap()), "column `x`: expected numbers, found BYTES");
    let mut psi: Psi = testing::open_detector("{}", None).unwrap();
    let error = psi.fit(batch("x", &[1, 0], vec![])).unwrap_err();
    assert_eq!(error.to_string(), "column `x`: expected at least one element a row, found none");
}

#[test]
fn refuses_configs_that_cannot_be() {
    for (config, expected) in [
        (r#"{"bins": 1}"#, "`bins`: expected 2 to 100, found 1"),
        (r#"{"block": [0, 4]}"#, "`block`: expected a height and a width of at least 1, found [0, 4]"),
        (r#"{"warning": 0}"#, "`warning`: expected a number above 0, found 0.0"),
        (r#"{"drifted": 0.05}"#, "`drifted`: expected at least `warning`, found 0.05"),
        (r#"{"alpha": 0.6}"#, "`alpha`: expected a probability above 0, at most 0.5, found 0.6"),
        (r#"{"bin": 3}"#, "unknown field `bin`"),
    ] {
        let error = testing::open_detector::<Psi>(config, None).unwrap_err();
        let Error::InvalidConfig(message) = error else { panic!("{error:?}") };
        assert!(message.starts_with(expected), "{message}");
    }
    let mut psi: Psi = testing::open_detector(r#"{"image": [3, 4]}"#, None).unwrap();
    let error = psi.fit(batch("x", &[1, 784], vec![0.0; 784])).unwrap_err();
    assert_eq!(error, Error::invalid_config("`image`: no column has rows of 3 × 4 elements"));
}

#[test]
fn refuses_states_that_it_cannot_have_written() {
    let group = |group: &str, edges: &str, counts: &str| {
        format!(
            r#"{{"rows": 30, "columns": [{{"name": "x", "row_elements": 4, "groups": [[{group}, {{"edges": {edges}, "counts": {counts}}}]]}}]}}"#
        )
    };
    let open = |state: &str| testing::open_detector::<Psi>("{}", Some(state.as_bytes())).map(drop);
    let element = r#"{"element": {"index": 3}}"#;
    assert_eq!(open(&group(element, "[1.0]", "[10, 20, 0]")), Ok(()));
    for state in [
        group(r#"{"element": {"index": 4}}"#, "[1.0]", "[10, 20, 0]"),
        group(r#"{"run": {"start": 3, "end": 2}}"#, "[1.0]", "[10, 20, 0]"),
        group(r#"{"region": {"width": 2, "rows": [0, 3], "columns": [0, 1]}}"#, "[1.0]", "[10, 20, 0]"),
        group(element, "[1.0, 1.0]", "[10, 20, 0, 0]"),
        group(element, "[1.0]", "[10, 20]"),
        group(element, "[1.0]", "[10, 21, 0]"),
        r#"{"rows": 0, "columns": []}"#.to_owned(),
        "null".to_owned(),
    ] {
        assert!(matches!(open(&state), Err(Error::InvalidState(_))), "{state}");
    }
}
