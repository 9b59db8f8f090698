/// The area under the ROC curve: how probable it is that a row of the class scores higher than one that is not, where
/// equal scores count half (Fawcett, "An introduction to ROC analysis", 2006; scikit-learn's `roc_auc_score`).
///
/// None where all rows are of the class or none is, or where a score is not a number.
pub(super) fn roc_auc(scored: impl Iterator<Item = (f32, bool)>) -> Option<f64> {
    let mut scored: Vec<(f32, bool)> = scored.collect();
    if scored.iter().any(|(score, _)| score.is_nan()) {
        return None;
    }
    scored.sort_unstable_by(|(left, _), (right, _)| left.total_cmp(right));
    let (mut pairs, mut others_below, mut of_class) = (0.0_f64, 0_usize, 0_usize);
    // `==` and not the order's equality: zero has two signs.
    for equal in scored.chunk_by(|(left, _), (right, _)| left == right) {
        let here = equal.iter().filter(|(_, is_of_class)| *is_of_class).count();
        let others = equal.len() - here;
        pairs += here as f64 * (others_below as f64 + others as f64 / 2.0);
        others_below += others;
        of_class += here;
    }
    (of_class > 0 && others_below > 0).then(|| pairs / (of_class as f64 * others_below as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rows: &[(f32, bool)]) -> Option<f64> {
        roc_auc(rows.iter().copied())
    }

    #[test]
    fn pairs_in_the_right_order_are_counted_and_ties_are_halves() {
        assert_eq!(of(&[(0.1, false), (0.4, false), (0.35, true), (0.8, true)]), Some(0.75));
        assert_eq!(of(&[(0.5, false), (0.5, true)]), Some(0.5));
        assert_eq!(of(&[(-0.0, true), (0.0, false)]), Some(0.5));
        assert_eq!(of(&[(0.2, true), (0.7, false)]), Some(0.0));
        // By hand: (0.7 over 0.3) + (0.7 over 0.7)/2 + (0.3 over 0.3)/2, of four pairs.
        assert_eq!(of(&[(0.3, true), (0.3, false), (0.7, true), (0.7, false)]), Some(0.5));
    }

    #[test]
    fn one_class_or_no_number_has_no_area() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[(0.5, true), (0.6, true)]), None);
        assert_eq!(of(&[(f32::NAN, true), (0.6, false)]), None);
    }
}
