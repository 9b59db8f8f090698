//! How deep the trees of an ONNX file are. The runtime goes down them by a call for each level when it reads a file, so that
//! deep ones need more stack than there is, and one with a way back never ends.

use super::graph::Node;
use super::protobuf::{Fields, Value};

/// Levels that a tree may have. Those that grow without a limit on noisy data have thousands.
pub(super) const LEVELS_MAX: usize = 16_384;

/// The nodes of the trees of an operator, each list in the same order.
#[derive(Debug, Default)]
struct Trees {
    tree_ids: Vec<i64>,
    node_ids: Vec<i64>,
    true_ids: Vec<i64>,
    false_ids: Vec<i64>,
    is_leaf: Vec<bool>,
    /// Whether what follows where a test holds, or does not, is a leaf; in the newer of the two forms.
    true_leaves: Vec<i64>,
    false_leaves: Vec<i64>,
}

/// Refuses an operator of trees that are too deep.
pub(super) fn check(node: &Node<'_>) -> Result<(), String> {
    if !node.operator.starts_with("TreeEnsemble") {
        return Ok(());
    }
    let trees = Trees::read(node)?;
    let order = trees.order();
    let count = trees.true_ids.len();
    let children = |place| trees.children(place, order.as_deref()).into_iter().flatten();
    // What no node leads to is the first level; then what is led to by nodes that are done.
    let mut parents = vec![0_usize; count];
    for child in (0..count).flat_map(children) {
        if let Some(parents) = parents.get_mut(child) {
            *parents += 1;
        }
    }
    let mut next: Vec<usize> =
        (0..).zip(&parents).filter(|(_, parents)| **parents == 0).map(|(place, _)| place).collect();
    let mut levels = 0;
    let mut done = 0;
    while !next.is_empty() {
        levels += 1;
        done += next.len();
        let mut below = Vec::new();
        for child in next.into_iter().flat_map(children) {
            if let Some(parents) = parents.get_mut(child) {
                *parents -= 1;
                below.extend((*parents == 0).then_some(child));
            }
        }
        next = below;
    }
    if done < count {
        return Err(format!("`{}` has a tree with a way back", node.operator));
    }
    if levels > LEVELS_MAX {
        return Err(format!(
            "`{}` has a tree of {levels} levels: expected at most {LEVELS_MAX}",
            node.operator
        ));
    }
    Ok(())
}

impl Trees {
    fn read(node: &Node<'_>) -> Result<Self, String> {
        let mut trees = Self::default();
        for attribute in &node.attributes {
            let (mut name, mut is_given) = ("", false);
            for field in Fields::of(attribute) {
                match field? {
                    (1, value) => name = value.text()?,
                    (21, value) => is_given = !value.bytes()?.is_empty(),
                    _ => {}
                }
            }
            if is_given {
                return Err(format!(
                    "`{}` in a function is given its trees: expected them in it",
                    node.operator
                ));
            }
            let integers = match name {
                "nodes_treeids" => &mut trees.tree_ids,
                "nodes_nodeids" => &mut trees.node_ids,
                "nodes_truenodeids" => &mut trees.true_ids,
                "nodes_falsenodeids" => &mut trees.false_ids,
                "nodes_trueleafs" => &mut trees.true_leaves,
                "nodes_falseleafs" => &mut trees.false_leaves,
                "nodes_modes" => {
                    read_modes(attribute, &mut trees.is_leaf)?;
                    continue;
                }
                _ => continue,
            };
            // The runtime would take the last.
            if !integers.is_empty() {
                return Err(format!("`{}` has `{name}` several times", node.operator));
            }
            read_integers(attribute, integers)?;
        }
        Ok(trees)
    }

    /// The places of nodes by their trees and numbers; none where numbers are places.
    fn order(&self) -> Option<Vec<usize>> {
        if self.node_ids.is_empty() {
            return None;
        }
        let mut order: Vec<usize> = (0..self.node_ids.len()).collect();
        order.sort_by_key(|&place| self.key(place));
        Some(order)
    }

    fn key(&self, place: usize) -> Option<(i64, i64)> {
        Some((*self.tree_ids.get(place)?, *self.node_ids.get(place)?))
    }

    /// The places of the nodes below one.
    fn children(&self, place: usize, order: Option<&[usize]>) -> [Option<usize>; 2] {
        if self.is_leaf.get(place) == Some(&true) {
            return [None, None];
        }
        let child = |ids: &[i64], leaves: &[i64]| {
            let id = *ids.get(place)?;
            if leaves.get(place).is_some_and(|&is_leaf| is_leaf != 0) {
                return None;
            }
            let Some(order) = order else { return usize::try_from(id).ok() };
            let key = Some((*self.tree_ids.get(place)?, id));
            let found = order.binary_search_by_key(&key, |&place| self.key(place)).ok()?;
            order.get(found).copied()
        };
        [child(&self.true_ids, &self.true_leaves), child(&self.false_ids, &self.false_leaves)]
    }
}

fn read_integers(attribute: &[u8], numbers: &mut Vec<i64>) -> Result<(), String> {
    for field in Fields::of(attribute) {
        match field? {
            // Most files have each by itself.
            (8, Value::Varint(number)) => numbers.push(number.cast_signed()),
            (8, packed) => numbers.extend(packed.integers()?),
            _ => {}
        }
    }
    Ok(())
}

fn read_modes(attribute: &[u8], is_leaf: &mut Vec<bool>) -> Result<(), String> {
    if !is_leaf.is_empty() {
        return Err("`nodes_modes` is there several times".to_owned());
    }
    for field in Fields::of(attribute) {
        if let (9, mode) = field? {
            is_leaf.push(mode.bytes()? == b"LEAF");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::protobuf::write_bytes;
    use super::*;

    fn integers(name: &str, numbers: &[usize]) -> Vec<u8> {
        let varint = |&number: &usize| {
            [(number & 0x7f) as u8 | 0x80, (number >> 7 & 0x7f) as u8 | 0x80, (number >> 14) as u8]
        };
        let packed: Vec<u8> = numbers.iter().flat_map(varint).collect();
        [write_bytes(1, name.as_bytes()), write_bytes(8, &packed)].concat()
    }

    fn checked(attributes: &[Vec<u8>]) -> Result<(), String> {
        let attributes = attributes.iter().map(Vec::as_slice).collect();
        check(&Node { operator: "TreeEnsembleRegressor", attributes, ..Default::default() })
    }

    /// A chain of so many splits, each with a leaf beside the next, whose numbers are `first`, `first + 1`, …
    fn chain(splits: usize, first: usize) -> Vec<Vec<u8>> {
        let count = 2 * splits + 1;
        let ids: Vec<usize> = (first..first + count).collect();
        let is_split = |place: usize| place.is_multiple_of(2) && place + 1 < count;
        let below = |step| move |place: usize| if is_split(place) { first + place + step } else { 0 };
        let modes = (0..count).map(|place| if is_split(place) { &b"BRANCH_LEQ"[..] } else { b"LEAF" });
        let modes: Vec<u8> = modes.flat_map(|mode| write_bytes(9, mode)).collect();
        vec![
            integers("nodes_treeids", &vec![7; count]),
            integers("nodes_nodeids", &ids),
            [write_bytes(1, b"nodes_modes"), modes].concat(),
            integers("nodes_truenodeids", &(0..count).map(below(2)).collect::<Vec<_>>()),
            integers("nodes_falsenodeids", &(0..count).map(below(1)).collect::<Vec<_>>()),
        ]
    }

    #[test]
    fn trees_have_so_many_levels_at_most() {
        for first in [0, 5] {
            checked(&chain(3, first)).unwrap();
            checked(&chain(LEVELS_MAX - 1, first)).unwrap();
            let told = checked(&chain(LEVELS_MAX, first)).unwrap_err();
            assert_eq!(told, "`TreeEnsembleRegressor` has a tree of 16385 levels: expected at most 16384");
        }
        // The newer form, in which numbers are places.
        let newer = |count: usize| {
            let next: Vec<usize> = (1..=count).collect();
            let leaves: Vec<usize> = next.iter().map(|&next| usize::from(next == count)).collect();
            [
                ("nodes_truenodeids", &next),
                ("nodes_falsenodeids", &next),
                ("nodes_trueleafs", &leaves),
                ("nodes_falseleafs", &leaves),
            ]
            .map(|(name, numbers)| integers(name, numbers))
        };
        checked(&newer(LEVELS_MAX)).unwrap();
        assert!(checked(&newer(LEVELS_MAX + 1)).unwrap_err().contains("16385 levels"));
    }

    #[test]
    fn no_tree_has_a_way_back() {
        for back in [0, 2, 4] {
            let mut tree = chain(3, 0);
            tree[3] = integers("nodes_truenodeids", &[2, 0, 4, 0, back, 0, 0]);
            assert_eq!(checked(&tree).unwrap_err(), "`TreeEnsembleRegressor` has a tree with a way back");
        }
    }

    #[test]
    fn what_the_runtime_would_read_otherwise_is_refused() {
        let twice = [chain(3, 0), chain(3, 0)].concat();
        assert!(checked(&twice).unwrap_err().contains("`nodes_treeids` several times"));
        let given = [write_bytes(1, b"nodes_modes"), write_bytes(21, b"modes")].concat();
        assert!(checked(&[given]).unwrap_err().contains("is given its trees"));
        checked(&[integers("nodes_truenodeids", &[9, 9])]).unwrap();
    }
}
