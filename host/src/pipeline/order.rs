use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// An order in which everything comes after what it needs, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    /// All indices; among those that are ready the lowest comes first.
    pub(super) order: Vec<usize>,
    /// Circles, each from its lowest index: the first needs the second, and the last needs the first.
    pub(super) circles: Vec<Vec<usize>>,
}

/// Circles that are told; finding more takes time in their number.
const CIRCLES_MAX: usize = 20;

/// Sorts the indices of `needs` topologically (Kahn 1962); `needs` has for each index those that come before it.
pub(super) fn order(needs: &[Vec<usize>]) -> Order {
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); needs.len()];
    let mut open: Vec<usize> = needs.iter().map(Vec::len).collect();
    for (index, needed) in needs.iter().enumerate() {
        for &before in needed {
            if let Some(followers) = followers.get_mut(before) {
                followers.push(index);
            }
        }
    }
    let mut is_done = vec![false; needs.len()];
    let mut ready: BinaryHeap<Reverse<usize>> =
        open.iter().enumerate().filter(|(_, open)| **open == 0).map(|(index, _)| Reverse(index)).collect();
    let mut found = Order { order: Vec::with_capacity(needs.len()), circles: Vec::new() };
    loop {
        while let Some(Reverse(index)) = ready.pop() {
            if std::mem::replace(is_done.get_mut(index).unwrap_or(&mut true), true) {
                continue;
            }
            found.order.push(index);
            for &follower in followers.get(index).into_iter().flatten() {
                if let Some(open) = open.get_mut(follower) {
                    *open = open.saturating_sub(1);
                    if *open == 0 {
                        ready.push(Reverse(follower));
                    }
                }
            }
        }
        let Some(circle) = circle(needs, &is_done) else { return found };
        // Goes on as if the circle were not there, to find the others.
        ready.extend(circle.iter().copied().map(Reverse));
        found.circles.push(circle);
        if found.circles.len() == CIRCLES_MAX {
            return found;
        }
    }
}

/// A circle among those that are not done, found by walking from the lowest one to something that it waits for.
fn circle(needs: &[Vec<usize>], is_done: &[bool]) -> Option<Vec<usize>> {
    let waits = |index: &usize| is_done.get(*index) == Some(&false);
    let mut at = (0..needs.len()).find(|index| waits(index))?;
    let mut walked = Vec::new();
    let mut position: Vec<Option<usize>> = vec![None; needs.len()];
    loop {
        let seen = position.get_mut(at)?;
        if let Some(start) = *seen {
            let mut circle = walked.split_off(start);
            let lowest = circle.iter().enumerate().min_by_key(|(_, index)| **index)?.0;
            circle.rotate_left(lowest);
            return Some(circle);
        }
        *seen = Some(walked.len());
        walked.push(at);
        at = needs.get(at)?.iter().copied().find(|index| waits(index))?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_of_the_ready_comes_first() {
        let needs = vec![vec![3], vec![], vec![0], vec![], vec![1, 2]];
        assert_eq!(order(&needs), Order { order: vec![1, 3, 0, 2, 4], circles: vec![] });
    }

    #[test]
    fn circles_are_found_from_their_lowest() {
        let needs = vec![vec![], vec![3], vec![1], vec![2], vec![4], vec![1]];
        assert_eq!(order(&needs).circles, vec![vec![1, 3, 2], vec![4]]);
        let pairs: Vec<Vec<usize>> = (0..10_000).map(|index| vec![index ^ 1]).collect();
        assert_eq!(order(&pairs).circles.len(), CIRCLES_MAX);
    }

    fn needs() -> impl Strategy<Value = Vec<Vec<usize>>> {
        (1..40_usize).prop_flat_map(|count| {
            prop::collection::vec(prop::collection::btree_set(0..count, 0..4), count)
                .prop_map(|sets| sets.into_iter().map(|set| set.into_iter().collect()).collect())
        })
    }

    proptest! {
        #[test]
        fn everything_comes_after_what_it_needs_or_a_circle_is_told(needs in needs()) {
            let found = order(&needs);
            for circle in &found.circles {
                for (index, &step) in circle.iter().enumerate() {
                    let next = circle[(index + 1) % circle.len()];
                    prop_assert!(needs[step].contains(&next));
                }
            }
            if found.circles.is_empty() {
                prop_assert_eq!(found.order.len(), needs.len());
                let mut position = vec![0; needs.len()];
                for (at, &step) in found.order.iter().enumerate() {
                    position[step] = at;
                }
                for (step, needed) in needs.iter().enumerate() {
                    for &before in needed {
                        prop_assert!(position[before] < position[step]);
                    }
                }
            }
        }

        #[test]
        fn without_a_way_back_there_is_no_circle(needs in needs()) {
            let needs: Vec<Vec<usize>> = needs
                .into_iter()
                .enumerate()
                .map(|(index, needed)| needed.into_iter().filter(|before| *before < index).collect())
                .collect();
            let found = order(&needs);
            prop_assert!(found.circles.is_empty());
            prop_assert_eq!(found.order, (0..needs.len()).collect::<Vec<_>>());
        }
    }
}
