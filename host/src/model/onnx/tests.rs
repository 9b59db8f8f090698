use super::*;

fn tensor<'a>(name: &'a str, element: Element, shape: &[Option<u64>]) -> Outlet<'a> {
    Outlet { name, kind: OutletKind::Tensor { element, shape: Some(shape.to_vec()) } }
}

fn float<'a>(name: &'a str, columns: u64) -> Outlet<'a> {
    tensor(name, Element::Float, &[None, Some(columns)])
}

fn sequence(name: &str) -> Outlet<'_> {
    Outlet { name, kind: OutletKind::Other("a sequence") }
}

fn with_inputs<'a>(inputs: &[Outlet<'a>]) -> Graph<'a> {
    Graph { inputs: inputs.to_vec(), ..Default::default() }
}

/// A graph of these outputs, each made by the operator beside it of `made`.
fn with_outputs<'a>(outputs: &[(Outlet<'a>, &'a str)]) -> Graph<'a> {
    let node = |(outlet, operator): &(Outlet<'a>, &'a str)| Node {
        operator,
        inputs: vec!["made"],
        outputs: vec![outlet.name],
        ..Default::default()
    };
    Graph {
        outputs: outputs.iter().map(|(outlet, _)| outlet.clone()).collect(),
        nodes: outputs.iter().map(node).collect(),
        ..Default::default()
    }
}

fn chosen(outputs: &[(Outlet<'_>, &str)], name: Option<&str>) -> Result<(String, String, ScoreKind), String> {
    let choice = OutputChoice { name: name.map(str::to_owned), scores: None };
    let scores = Scores::choose(&with_outputs(outputs), &choice)?;
    Ok((scores.name, scores.tensor, scores.kind))
}

#[test]
fn an_input_has_rows_of_a_fixed_size() {
    let of = |shape: &[Option<u64>]| Input::of(&with_inputs(&[tensor("x", Element::Double, shape)]));
    let image = of(&[Some(1), Some(3), Some(4), Some(5)]).unwrap();
    assert_eq!((image.shape, image.feature_count), (vec![1, 3, 4, 5], 60));
    assert_eq!(of(&[None]).unwrap().feature_count, 1);
    let refused = [
        (&[][..], "`x` DOUBLE []: expected a shape whose first dimension is the row"),
        (&[Some(16), Some(4)], "`x` DOUBLE [16, 4]: expected a first dimension of any size, or of 1"),
        (&[None, None], "`x` DOUBLE [?, ?]: expected every dimension but the first to have a size"),
        (&[None, Some(1 << 40)], "`x` DOUBLE [?, 1099511627776]: expected at most 16777216 features a row"),
        (&[None, Some(1 << 40), Some(1 << 40)], "at most 16777216 features a row"),
    ];
    for (shape, expected) in refused {
        let error = of(shape).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let error = |inputs: &[Outlet<'_>]| Input::of(&with_inputs(inputs)).unwrap_err();
    assert_eq!(error(&[]), "it takes nothing: expected one input");
    assert_eq!(
        error(&[float("x", 1), float("y", 2)]),
        "it takes `x` FLOAT [?, 1], `y` FLOAT [?, 2]: expected one input"
    );
    assert_eq!(
        error(&[tensor("x", Element::Other(8), &[None])]),
        "its input is `x` STRING [?]: expected FLOAT, DOUBLE, INT64 or INT32"
    );
    assert_eq!(error(&[sequence("x")]), "its input is `x` a sequence: expected a tensor");
}

#[test]
fn the_output_with_the_scores_is_found_or_asked_for() {
    let label = || (tensor("label", Element::Int64, &[None]), "ArgMax");
    let is = |name: &str, tensor: &str, kind| Ok((name.to_owned(), tensor.to_owned(), kind));
    use ScoreKind::{Probabilities, Values};
    let found = chosen(&[label(), (float("probabilities", 3), "Normalizer")], None);
    assert_eq!(found, is("probabilities", "probabilities", Probabilities));
    let found = chosen(&[label(), (sequence("output_probability"), "ZipMap")], None);
    assert_eq!(found, is("output_probability", "made", Probabilities));
    assert_eq!(chosen(&[label(), (float("scores", 3), "Sub")], None), is("scores", "scores", Values));
    assert_eq!(chosen(&[(float("y", 3), "Softmax")], None), is("y", "y", Probabilities));
    assert_eq!(chosen(&[(float("y", 1), "Sigmoid")], None), is("y", "y", Probabilities));
    assert_eq!(chosen(&[(float("y", 2), "Sigmoid")], None), is("y", "y", Values));
    assert_eq!(chosen(&[label()], Some("label")), is("label", "label", Values));
    assert_eq!(chosen(&[label()], None).unwrap_err(), "no output has scores: it has `label` INT64 [?]");
    let two = [(float("y", 1), "Neg"), (float("z", 2), "Neg")];
    assert_eq!(chosen(&two, Some("z")), is("z", "z", Values));
    assert_eq!(
        chosen(&two, None).unwrap_err(),
        "several outputs may have the scores: it has `y` FLOAT [?, 1], `z` FLOAT [?, 2]\nhint: give `--output NAME`"
    );
    assert_eq!(
        chosen(&two, Some("a")).unwrap_err(),
        "it has no output `a`: it has `y` FLOAT [?, 1], `z` FLOAT [?, 2]"
    );
    assert_eq!(
        chosen(&[(sequence("y"), "SequenceConstruct")], Some("y")).unwrap_err(),
        "its output is `y` a sequence: expected a tensor of FLOAT, DOUBLE, INT64 or INT32\nhint: export a classifier of \
         scikit-learn with `options={'zipmap': False}`"
    );
    let choice = OutputChoice { name: None, scores: Some(ScoreKind::Logits) };
    let logits = Scores::choose(&with_outputs(&[(float("y", 3), "Gemm")]), &choice).unwrap();
    assert_eq!(logits.kind, ScoreKind::Logits);
}

#[test]
fn many_outputs_are_not_all_listed() {
    let names: Vec<String> = (0..20).map(|number| format!("y{number}")).collect();
    let outputs: Vec<_> = names.iter().map(|name| (float(name, 1), "Neg")).collect();
    let error = chosen(&outputs, None).unwrap_err();
    assert!(
        error.contains("it has 20: `y0` FLOAT [?, 1], ") && error.contains("`y7` FLOAT [?, 1], …"),
        "{error}"
    );
}

#[test]
fn integers_are_made_of_whole_numbers_only() {
    assert_eq!(whole::<i64>(&[3.0, -0.0, 1e10], 0).unwrap(), [3, 0, 10_000_000_000]);
    assert!(whole::<i64>(&[1e19], 0).is_err());
    for feature in [0.5, f32::NAN, f32::INFINITY, 1e10] {
        let error = whole::<i32>(&[1.0, feature], 7).unwrap_err();
        assert_eq!(error, format!("feature 1 of row 7 is {feature}: expected a whole number"));
    }
}

#[test]
fn integers_are_scores_only_where_these_are_exact() {
    let exact = [0, -3, 1 << 24, (1 << 24) + 2, 1 << 62, i64::MIN];
    assert_eq!(of_integers(&exact, "y", 0).unwrap(), exact.map(|value| value as f32));
    assert_eq!(of_integers(&[i32::MIN, 7], "y", 0).unwrap(), [-2_147_483_648.0, 7.0]);
    for value in [(1 << 24) + 1, -(1 << 24) - 1, i64::MAX] {
        let error = of_integers(&[1, value], "y", 7).unwrap_err();
        assert_eq!(
            error,
            format!("output `y` of row 7 is {value}: expected a number that a 32-bit float holds")
        );
    }
}

#[test]
fn what_the_runtime_says_is_one_sentence() {
    assert_eq!(sentence("Load model failed.\n/src/file.cc:12"), "Load model failed");
    assert_eq!(sentence(&"ä".repeat(1_000)), format!("{}…", "ä".repeat(SENTENCE_MAX)));
    assert_eq!(sentence(""), "");
}

#[test]
fn a_choice_is_carried_as_json() {
    let choice = OutputChoice { name: Some("y".to_owned()), scores: Some(ScoreKind::Logits) };
    let text = serde_json::to_string(&choice).unwrap();
    assert_eq!(text, r#"{"name":"y","scores":"logits"}"#);
    assert_eq!(serde_json::from_str::<OutputChoice>(&text).unwrap(), choice);
    assert_eq!(serde_json::from_str::<OutputChoice>("{}").unwrap(), OutputChoice::default());
}
