use proptest::prelude::*;

use super::*;

/// A tree as nested boxes, to compare with: walked one node after the other.
#[derive(Debug, Clone)]
enum Reference {
    Leaf(f32),
    /// A value for every margin.
    Leaves(Vec<f32>),
    Split {
        feature: u32,
        threshold: f32,
        default_left: bool,
        left: Box<Reference>,
        right: Box<Reference>,
    },
    Categories {
        feature: u32,
        categories: Vec<u32>,
        default_left: bool,
        left: Box<Reference>,
        right: Box<Reference>,
    },
}

impl Reference {
    fn values(&self, row: &[f32]) -> &[f32] {
        match self {
            Self::Leaf(value) => std::slice::from_ref(value),
            Self::Leaves(values) => values,
            Self::Split { feature, threshold, default_left, left, right } => {
                let value = row[*feature as usize];
                let goes_left = if value.is_nan() { *default_left } else { value < *threshold };
                if goes_left { left.values(row) } else { right.values(row) }
            }
            Self::Categories { feature, categories, default_left, left, right } => {
                let value = row[*feature as usize];
                let goes_left = match value {
                    value if value.is_nan() => *default_left,
                    // What is no category is in no set.
                    value if !(0.0..16_777_216.0).contains(&value) => true,
                    value => !categories.contains(&(value as u32)),
                };
                if goes_left { left.values(row) } else { right.values(row) }
            }
        }
    }

    /// Appends the nodes in depth-first order, which is not the order in memory.
    fn flatten<'a>(&'a self, nodes: &mut Vec<Node<'a>>) -> usize {
        let index = nodes.len();
        nodes.push(Node::Leaf { value: 0.0 });
        nodes[index] = match self {
            Self::Leaf(value) => Node::Leaf { value: *value },
            Self::Leaves(values) => Node::Leaves { values },
            Self::Split { feature, threshold, default_left, left, right } => Node::Split {
                feature: *feature,
                threshold: *threshold,
                default_left: *default_left,
                left: left.flatten(nodes),
                right: right.flatten(nodes),
            },
            Self::Categories { feature, categories, default_left, left, right } => Node::Categories {
                feature: *feature,
                categories,
                default_left: *default_left,
                left: left.flatten(nodes),
                right: right.flatten(nodes),
            },
        };
        index
    }
}

fn add(builder: &mut ForestBuilder, margin: u32, tree: &Reference) {
    let mut nodes = Vec::new();
    tree.flatten(&mut nodes);
    builder.add_tree(margin, nodes.len(), |index| nodes.get(index).copied()).unwrap();
}

fn add_to_all(builder: &mut ForestBuilder, tree: &Reference) {
    let mut nodes = Vec::new();
    tree.flatten(&mut nodes);
    builder.add_tree_to_all(nodes.len(), |index| nodes.get(index).copied()).unwrap();
}

/// Few distinct values, so that features often equal thresholds.
fn number() -> impl Strategy<Value = f32> {
    prop_oneof![
        (-3_i8..3).prop_map(f32::from),
        Just(-0.0_f32),
        Just(f32::MIN_POSITIVE / 2.0),
        Just(f32::MAX),
        Just(f32::MIN),
    ]
}

fn feature() -> impl Strategy<Value = f32> {
    prop_oneof![4 => number(), 1 => Just(f32::NAN), 1 => Just(f32::INFINITY), 1 => Just(f32::NEG_INFINITY)]
}

fn tree(features: u32) -> impl Strategy<Value = Reference> {
    (-100_i8..100).prop_map(|value| Reference::Leaf(f32::from(value) / 7.0)).prop_recursive(
        12,
        64,
        2,
        move |child| {
            let threshold =
                prop_oneof![8 => number(), 1 => Just(f32::INFINITY), 1 => Just(f32::NEG_INFINITY)];
            (0..features, threshold, any::<bool>(), child.clone(), child).prop_map(
                |(feature, threshold, default_left, left, right)| Reference::Split {
                    feature,
                    threshold,
                    default_left,
                    left: Box::new(left),
                    right: Box::new(right),
                },
            )
        },
    )
}

/// Splits by numbers and by categories, with leaves as `leaf` makes them.
fn mixed_tree(features: u32, leaf: BoxedStrategy<Reference>) -> impl Strategy<Value = Reference> {
    let categories = prop_oneof![
        4 => prop::collection::vec(0_u32..70, 1..8),
        1 => prop::collection::vec(0_u32..1 << 24, 1..4),
        1 => Just(vec![(1 << 24) - 1]),
    ];
    leaf.prop_recursive(6, 48, 2, move |child| {
        let ends = (0..features, any::<bool>(), child.clone(), child);
        prop_oneof![
            (number(), ends.clone()).prop_map(|(threshold, (feature, default_left, left, right))| {
                let (left, right) = (Box::new(left), Box::new(right));
                Reference::Split { feature, threshold, default_left, left, right }
            }),
            (categories.clone(), ends).prop_map(|(categories, (feature, default_left, left, right))| {
                let (left, right) = (Box::new(left), Box::new(right));
                Reference::Categories { feature, categories, default_left, left, right }
            }),
        ]
    })
}

/// Values of features that are categories, or nearly.
fn category() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => (0_u8..70).prop_map(f32::from),
        2 => feature(),
        1 => (0_u8..70).prop_map(|category| f32::from(category) + 0.75),
        1 => Just(16_777_215.0_f32),
        1 => Just(16_777_216.0_f32),
        1 => Just(-0.5_f32),
    ]
}

fn expected(intercepts: &[f32], trees: &[Reference], row: &[f32]) -> Vec<u32> {
    let mut margins = intercepts.to_vec();
    let count = margins.len();
    for (index, tree) in trees.iter().enumerate() {
        match tree.values(row) {
            &[value] => margins[index % count] += value,
            values => margins.iter_mut().zip(values).for_each(|(margin, value)| *margin += value),
        }
    }
    margins.into_iter().map(f32::to_bits).collect()
}

proptest! {
    #[test]
    fn margins_are_those_of_one_tree_after_the_other(
        trees in prop::collection::vec(tree(3), 0..20),
        rows in prop::collection::vec(prop::array::uniform3(feature()), 0..40),
        // The wide layout must give what the compact one gives.
        wide in any::<bool>(),
    ) {
        let intercepts = [0.5, -1.0, 0.25];
        let features = if wide { 70_000 } else { 3 };
        let mut builder = ForestBuilder::new(features, intercepts.to_vec());
        for (index, tree) in trees.iter().enumerate() {
            add(&mut builder, index as u32 % 3, tree);
        }
        let forest = builder.build();
        prop_assert_eq!(matches!(forest.trees, Trees::Wide(_)), wide);
        prop_assert_eq!(forest.tree_count(), trees.len());
        let mut padded = Vec::new();
        for row in &rows {
            padded.extend_from_slice(row);
            padded.resize(padded.len() + features - 3, 0.0);
        }
        let margins = forest.margins(&padded);
        prop_assert_eq!(margins.len(), rows.len() * 3);
        for (row, margins) in rows.iter().zip(margins.chunks_exact(3)) {
            let bits: Vec<u32> = margins.iter().map(|margin| margin.to_bits()).collect();
            prop_assert_eq!(bits, expected(&intercepts, &trees, row));
        }
    }

    #[test]
    fn categories_and_leaves_of_several_values_are_as_in_one_tree_after_the_other(
        trees in prop::collection::vec(
            (any::<bool>(), mixed_tree(3, (-100_i8..100).prop_map(|value| Reference::Leaf(f32::from(value) / 7.0)).boxed()),
             mixed_tree(3, prop::collection::vec(-9.0_f32..9.0, 3).prop_map(Reference::Leaves).boxed())), 0..20),
        rows in prop::collection::vec(prop::array::uniform3(category()), 0..40),
        wide in any::<bool>(),
    ) {
        let intercepts = [0.5, -1.0, 0.25];
        // Places of categories are four for each feature.
        let features = if wide { 20_000 } else { 3 };
        let mut builder = ForestBuilder::new(features, intercepts.to_vec());
        let trees: Vec<Reference> =
            trees.into_iter().map(|(several, one, all)| if several { all } else { one }).collect();
        for (index, tree) in trees.iter().enumerate() {
            match tree.values(&[0.0; 3]).len() {
                1 => add(&mut builder, index as u32 % 3, tree),
                _ => add_to_all(&mut builder, tree),
            }
        }
        let forest = builder.build();
        prop_assert_eq!(forest.tree_count(), trees.len());
        let mut padded = Vec::new();
        for row in &rows {
            padded.extend_from_slice(row);
            padded.resize(padded.len() + features - 3, 0.0);
        }
        let margins = forest.margins(&padded);
        prop_assert_eq!(margins.len(), rows.len() * 3);
        for (row, margins) in rows.iter().zip(margins.chunks_exact(3)) {
            let bits: Vec<u32> = margins.iter().map(|margin| margin.to_bits()).collect();
            prop_assert_eq!(bits, expected(&intercepts, &trees, row));
        }
    }
}

#[test]
fn deep_and_wide_trees_keep_their_shape() {
    // A chain that goes left 1,000 times, beside trees that end at once.
    let mut chain = Reference::Leaf(-1.0);
    for step in 0..1_000 {
        chain = Reference::Split {
            feature: 0,
            threshold: (1_000 - step) as f32,
            default_left: true,
            left: Box::new(chain),
            right: Box::new(Reference::Leaf(step as f32)),
        };
    }
    // Complete, with more nodes than a compact distance can span.
    fn complete(depth: u32, value: f32) -> Reference {
        if depth == 0 {
            return Reference::Leaf(value);
        }
        Reference::Split {
            feature: 1,
            threshold: value,
            default_left: false,
            left: Box::new(complete(depth - 1, value - 0.5_f32.powi(16 - depth as i32))),
            right: Box::new(complete(depth - 1, value + 0.5_f32.powi(16 - depth as i32))),
        }
    }
    let trees = [chain, Reference::Leaf(7.0), complete(16, 0.0)];
    let mut builder = ForestBuilder::new(2, vec![0.0]);
    trees.iter().for_each(|tree| add(&mut builder, 0, tree));
    let forest = builder.build();
    assert!(matches!(forest.trees, Trees::Wide(_)));
    for row in [[0.0, 0.0], [500.5, 0.3], [2_000.0, -9.0], [f32::NAN, f32::NAN]] {
        assert_eq!(forest.margins(&row)[0].to_bits(), expected(&[0.0], &trees, &row)[0]);
    }
}

#[test]
fn rows_that_are_not_whole_are_ignored() {
    let forest = ForestBuilder::new(2, vec![1.0]).build();
    assert_eq!(forest.margins(&[0.0; 5]), [1.0, 1.0]);
    assert!(forest.margins(&[]).is_empty());
}

#[test]
fn refuses_trees_that_are_not_trees() {
    let split = |left, right| Node::Split { feature: 0, threshold: 0.0, default_left: true, left, right };
    let leaf = Node::Leaf { value: 1.0 };
    let refusal = |margin, nodes: &[Node]| {
        let mut builder = ForestBuilder::new(1, vec![0.0]);
        builder.add_tree(margin, nodes.len(), |index| nodes.get(index).copied()).unwrap_err().to_string()
    };
    assert_eq!(refusal(0, &[]), "node 0 does not exist: expected less than 0");
    assert_eq!(refusal(0, &[split(1, 2), leaf]), "node 2 does not exist: expected less than 2");
    assert_eq!(refusal(0, &[split(1, 1), leaf]), "node 1 is reached twice");
    assert_eq!(refusal(0, &[split(1, 2), split(0, 2), leaf]), "node 0 is reached twice");
    assert_eq!(refusal(1, &[leaf]), "adds to margin 1: expected less than 1");
    assert_eq!(refusal(0, &[Node::Leaf { value: f32::NAN }]), "node 0 has the value NaN: expected a number");
    let far = Node::Split { feature: 1, threshold: 0.0, default_left: true, left: 1, right: 2 };
    assert_eq!(refusal(0, &[far, leaf, leaf]), "node 0 splits on feature 1: expected less than 1");
    let categories =
        |categories| Node::Categories { feature: 0, categories, default_left: true, left: 1, right: 2 };
    assert_eq!(refusal(0, &[categories(&[]), leaf, leaf]), "node 0 splits by categories, but has none");
    assert_eq!(
        refusal(0, &[categories(&[3, 1 << 24]), leaf, leaf]),
        "node 0 splits by category 16777216: expected less than 16777216"
    );
    assert_eq!(refusal(0, &[Node::Leaves { values: &[1.0; 2] }]), "node 0 is a leaf of 2 values: expected 1");
    let mut builder = ForestBuilder::new(1, vec![0.0; 2]);
    let refusal = |error: Result<(), TreeError>| error.unwrap_err().to_string();
    assert_eq!(
        refusal(builder.add_tree_to_all(1, |_| Some(leaf))),
        "node 0 is a leaf of 1 values: expected 2"
    );
    let large = Node::Leaves { values: &[0.0, 3e38] };
    assert_eq!(builder.add_tree_to_all(1, |_| Some(large)), Ok(()));
    assert_eq!(builder.add_tree_to_all(1, |_| Some(large)), Err(TreeError::Overflow { margin: 1 }));
    assert_eq!(builder.build().margins(&[0.0]), [0.0, 3e38]);
}

#[test]
fn a_margin_that_begins_at_infinity_stays_there() {
    let mut builder = ForestBuilder::new(1, vec![f32::NEG_INFINITY]);
    add(&mut builder, 0, &Reference::Leaf(3e38));
    assert_eq!(builder.build().margins(&[0.0]), [f32::NEG_INFINITY]);
}

#[test]
fn refuses_trees_that_are_too_deep_and_leaves_that_overflow() {
    let chain = |levels: usize| {
        let mut builder = ForestBuilder::new(1, vec![0.0]);
        let count = 2 * levels + 1;
        let node = |index: usize| {
            Some(match index.is_multiple_of(2) && index < 2 * levels {
                true => Node::Split {
                    feature: 0,
                    threshold: 0.0,
                    default_left: true,
                    left: index + 1,
                    right: index + 2,
                },
                false => Node::Leaf { value: 1.0 },
            })
        };
        builder.add_tree(0, count, node)
    };
    assert_eq!(chain(4_096), Ok(()));
    assert!(matches!(chain(4_097), Err(TreeError::TooDeep { .. })));
    let mut builder = ForestBuilder::new(1, vec![0.0]);
    let mut add = || builder.add_tree(0, 1, |_| Some(Node::Leaf { value: -3e38 }));
    assert_eq!(add(), Ok(()));
    assert_eq!(add(), Err(TreeError::Overflow { margin: 0 }));
}
