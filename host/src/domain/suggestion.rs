/// Longest name that is compared: no known one is that long, and the distance takes time in the product of the lengths.
const NAME_MAX_BYTES: usize = 64;

/// The known name with the fewest edits from `name`, if they are few for its length: what a user may have meant.
pub fn closest<'known>(name: &str, known: impl IntoIterator<Item = &'known str>) -> Option<&'known str> {
    if name.len() > NAME_MAX_BYTES {
        return None;
    }
    let candidates = known.into_iter().filter(|known| known.len() <= NAME_MAX_BYTES);
    let (distance, known) = candidates.map(|known| (edits(name, known), known)).min()?;
    (distance <= 1 + known.len() / 5).then_some(known)
}

/// Levenshtein's distance: insertions, deletions and replacements of bytes (Wagner and Fischer 1974, by rows).
fn edits(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, byte) in left.bytes().enumerate() {
        let mut diagonal = index;
        let mut before = index + 1;
        for (cell, other) in row.iter_mut().zip(std::iter::once(None).chain(right.bytes().map(Some))) {
            let cost = match other {
                None => before,
                Some(other) => (diagonal + usize::from(byte != other)).min(before + 1).min(*cell + 1),
            };
            diagonal = std::mem::replace(cell, cost);
            before = cost;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (left, right, distance) in
            [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("eta", "beta", 1)]
        {
            assert_eq!(edits(left, right), distance);
            assert_eq!(edits(right, left), distance);
        }
    }

    #[test]
    fn far_and_long_names_suggest_nothing() {
        assert_eq!(closest("max_dept", ["eta", "max_depth"]), Some("max_depth"));
        assert_eq!(closest("booster", ["eta", "max_depth"]), None);
        assert_eq!(closest(&"e".repeat(1_000_000), ["eta"]), None);
        assert_eq!(closest("eta", []), None);
    }
}
