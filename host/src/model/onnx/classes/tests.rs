use super::super::protobuf::{write_bytes, write_integer};
use super::*;

fn outlet<'a>(name: &'a str, element: Element) -> Outlet<'a> {
    Outlet { name, kind: OutletKind::Tensor { element, shape: None } }
}

/// Operator, input, outputs and attributes of a node.
type Made<'a, 'l> = (&'a str, &'a str, &'l [&'a str], &'l [&'a [u8]]);

/// A graph of these nodes, with outputs of labels and scores.
fn graph<'a>(nodes: &[Made<'a, '_>]) -> Graph<'a> {
    let node = |&(operator, input, outputs, attributes): &Made<'a, '_>| Node {
        operator,
        inputs: vec![input],
        outputs: outputs.to_vec(),
        attributes: attributes.to_vec(),
        ..Default::default()
    };
    Graph {
        outputs: vec![outlet("label", Element::Int64), outlet("scores", Element::Float)],
        nodes: nodes.iter().map(node).collect(),
        ..Default::default()
    }
}

/// An attribute of packed integers below 128.
fn integers(name: &str, numbers: &[u8]) -> Vec<u8> {
    [write_bytes(1, name.as_bytes()), write_bytes(8, numbers)].concat()
}

fn text(name: &str, text: &str) -> Vec<u8> {
    [write_bytes(1, name.as_bytes()), write_bytes(4, text.as_bytes())].concat()
}

fn found(graph: &Graph<'_>) -> Option<List> {
    let scores = graph.outputs.last().unwrap();
    class_labels(graph, scores, label_output(graph, scores)).unwrap()
}

#[test]
fn labels_are_found_where_exporters_put_them() {
    let tens = Some(List::Integers(vec![10, 20]));
    let (ints, int64s) = (integers("classlabels_ints", &[10, 20]), integers("classlabels_int64s", &[10, 20]));
    let places = integers("classlabels_ints", &[0, 1]);
    let words =
        [write_bytes(1, b"classlabels_strings"), write_bytes(9, b"no"), write_bytes(9, b"yes")].concat();
    let made = ["made", "sums"];
    let classifier = |attribute| {
        graph(&[("Cast", "made", &["label"], &[]), ("LinearClassifier", "x", &made, &[attribute])])
    };
    assert_eq!(found(&classifier(&ints)), tens);
    assert_eq!(found(&classifier(&words)), Some(List::Texts(vec!["no".to_owned(), "yes".to_owned()])));
    // A map of the scores comes first, and what makes the label before a classifier within another.
    let map = ("ZipMap", "sums", &["scores"][..], &[int64s.as_slice()][..]);
    assert_eq!(found(&graph(&[map, ("LinearClassifier", "x", &["label", "sums"], &[&places])])), tens);
    let mut within = graph(&[
        ("ArrayFeatureExtractor", "classes", &["label"], &[]),
        ("SVMClassifier", "x", &["place", "scores"], &[&places]),
    ]);
    let number = |number: u64| number.to_le_bytes();
    let raw = [
        &write_bytes(8, b"classes")[..],
        &write_integer(2, 7),
        &write_bytes(9, &[number(10), number(20)].concat()),
    ]
    .concat();
    let packed = [&write_bytes(8, b"classes")[..], &write_integer(2, 6), &write_bytes(5, &[10, 20])].concat();
    for tensor in [&raw, &packed] {
        within.tensors = vec![("classes", tensor)];
        assert_eq!(found(&within), tens);
    }
    assert_eq!(
        found(&graph(&[("ArgMax", "scores", &["label"], &[]), ("Gemm", "x", &["scores"], &[])])),
        None
    );
    // What leads round and round leads nowhere.
    assert_eq!(
        found(&graph(&[("Cast", "label", &["label"], &[]), ("Cast", "scores", &["scores"], &[])])),
        None
    );
}

#[test]
fn sums_of_a_linear_model_are_known_by_its_node() {
    let is_linear = |operator, attribute: &[&[u8]], last| {
        let nodes: [Made<'_, '_>; 2] =
            [(operator, "x", &["label", "sums"], attribute), (last, "sums", &["scores"], &[])];
        let graph = graph(&nodes);
        is_linear(&graph, graph.outputs.last().unwrap()).unwrap()
    };
    let (none, logistic) = (text("post_transform", "NONE"), text("post_transform", "LOGISTIC"));
    assert!(is_linear("LinearClassifier", &[&none], "Cast") && is_linear("LinearClassifier", &[], "ZipMap"));
    assert!(!is_linear("LinearClassifier", &[&logistic], "Cast"));
    assert!(!is_linear("LinearClassifier", &[&none], "Sigmoid"));
    // Of a forest, shares of votes.
    assert!(!is_linear("TreeEnsembleClassifier", &[&none], "Cast"));
}

#[test]
fn probabilities_may_be_rounded() {
    for scores in [&[0.0][..], &[1.000_000_1], &[0.5, 0.500_3], &[0.2, 0.3, 0.5]] {
        assert!(are_from_zero_to_one(scores) && (scores.len() == 1 || add_up_to_one(scores)), "{scores:?}");
    }
    for scores in [&[-0.01][..], &[1.01], &[-0.3, 0.3], &[0.2, 3.0]] {
        assert!(!are_from_zero_to_one(scores), "{scores:?}");
    }
    assert!(!add_up_to_one(&[0.5, 0.6]));
}

#[test]
fn only_a_largest_score_is_a_class() {
    assert_eq!(class_of(&[0.4]), Some(0));
    assert_eq!(class_of(&[0.6]), Some(1));
    assert_eq!(class_of(&[0.1, 0.2, 0.15]), Some(1));
    for scores in [&[0.5][..], &[0.5, 0.5], &[]] {
        assert_eq!(class_of(scores), None, "{scores:?}");
    }
}

#[test]
fn labels_of_the_model_itself_are_compared_with_its_scores() {
    let answers = |answers: &[(usize, &str)]| -> Vec<_> {
        answers.iter().map(|&(class, label)| (class, label.to_owned())).collect()
    };
    let told = |named: Option<&List>, found: &[(usize, &str)]| {
        let found = answers(found);
        let labels = ClassLabels::of(named, &found, 2);
        let is_contradicted = is_contradicted(named, &labels, &found);
        (labels, is_contradicted)
    };
    use ClassLabels::{Integers, Places, Unlisted};
    assert_eq!(told(None, &[(0, "0"), (1, "1")]), (Places, false));
    assert_eq!(told(None, &[(0, "1"), (1, "0"), (1, "1")]), (Places, true));
    assert_eq!(told(None, &[(0, "0"), (1, "0")]), (Places, false), "as many as not");
    assert_eq!(told(None, &[(0, "1"), (1, "2")]), (Unlisted(2), false));
    assert_eq!(told(None, &[(0, "a"), (1, "a")]), (Places, false));
    let tens = List::Integers(vec![10, 20]);
    assert_eq!(told(Some(&tens), &[(0, "10")]), (Integers(vec![10, 20]), false));
    let others = [(0, "20"), (1, "10"), (0, "20")];
    assert_eq!(told(Some(&tens), &others), (Integers(vec![10, 20]), true));
    assert_eq!(told(Some(&tens), &others[..2]), (Integers(vec![10, 20]), false), "too few to tell");
    assert_eq!(told(Some(&List::Integers(vec![0, 1])), &[]), (Places, false));
    let words = List::Texts(vec!["no".to_owned(), "yes".to_owned()]);
    assert_eq!(told(Some(&words), &[(0, "yes"); 3]), (Places, true));
}

#[test]
fn made_up_rows_are_unlike_each_other_and_of_several_sizes() {
    let rows: Vec<_> = made_up_rows(12, false).collect();
    assert_eq!(rows.len(), 11);
    assert!(rows[0].iter().all(|&feature| feature == 0.0));
    assert!(rows[1].iter().all(|feature| feature.abs() <= 0.1) && rows[1].contains(&0.1));
    assert!(rows[10].contains(&1e6) && rows[10].contains(&-1e6));
    assert!(made_up_rows(12, true).flatten().all(|feature| feature.fract() == 0.0));
    assert_eq!(listed(&[0.5; 9]), "[0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, …]");
}
