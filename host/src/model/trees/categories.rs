//! Sets of categories that splits ask for.

/// The category of values that are none, and of those that are missing where that leads left. It is in no set.
pub(super) const NO_CATEGORY: u32 = u32::MAX - 1;

/// Categories are less: floats hold every whole number up to it.
pub(super) const CATEGORY_END: u32 = 1 << 24;

/// Words of 32 bits that a set may take beside four for each of its categories, before it is kept as a list. So a file
/// of a few bytes that names a large category makes no large set.
const WORDS_BESIDE: usize = 16;

/// Stands where a set of bits has its first word, and says that a list follows.
const LIST: u32 = u32::MAX;

/// The category that a value names: its whole part, as in libxgboost.
pub(super) fn category(value: f32) -> u32 {
    if (0.0..CATEGORY_END as f32).contains(&value) { value as u32 } else { NO_CATEGORY }
}

/// Sets of categories, one after the other. A set is three parts: where its bits begin, in words; how many words there
/// are; the words, and one more without any bit, which stands for all that lie elsewhere. Or, where these would be too
/// many: [`LIST`], how many categories there are, and the categories in order.
#[derive(Debug)]
pub(super) struct CategorySets {
    words: Vec<u32>,
}

impl CategorySets {
    /// The set that has no category.
    pub(super) const EMPTY: u32 = 0;

    /// No set but the empty one.
    pub(super) fn new() -> Self {
        Self { words: vec![0, 0, 0] }
    }

    /// Whether there is none but the empty one.
    pub(super) fn is_empty(&self) -> bool {
        self.words.len() == 3
    }

    /// Bytes in memory.
    pub(super) fn byte_len(&self) -> usize {
        size_of_val(self.words.as_slice())
    }

    /// Adds a set of categories, each less than [`CATEGORY_END`], and tells its number; none where there is no number
    /// left.
    pub(super) fn push(&mut self, categories: &[u32]) -> Option<u32> {
        let number = u32::try_from(self.words.len()).ok()?;
        let mut categories = categories.to_vec();
        categories.sort_unstable();
        categories.dedup();
        let (Some(first), Some(last)) = (categories.first(), categories.last()) else {
            return Some(Self::EMPTY);
        };
        let (first, words) = (first >> 5, (last >> 5) - (first >> 5) + 1);
        if words as usize > WORDS_BESIDE + 4 * categories.len() {
            self.words.extend([LIST, categories.len() as u32]);
            self.words.append(&mut categories);
            return Some(number);
        }
        self.words.extend([first, words]);
        let bits = self.words.len();
        self.words.resize(bits + words as usize + 1, 0);
        for category in categories {
            if let Some(word) = self.words.get_mut(bits + ((category >> 5) - first) as usize) {
                *word |= 1 << (category & 31);
            }
        }
        Some(number)
    }

    /// Whether a set has a category.
    #[inline]
    pub(super) fn contains(&self, set: u32, category: u32) -> bool {
        let Some((&[first, count], words)) =
            self.words.get(set as usize..).and_then(|words| words.split_first_chunk::<2>())
        else {
            return false;
        };
        if first == LIST {
            return words.get(..count as usize).is_some_and(|list| list.binary_search(&category).is_ok());
        }
        let place = (category >> 5).wrapping_sub(first).min(count);
        words.get(place as usize).is_some_and(|word| word >> (category & 31) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_names_the_category_that_is_its_whole_part() {
        for (value, expected) in [(0.0, 0), (-0.0, 0), (0.9, 0), (7.5, 7), (16_777_215.0, 16_777_215)] {
            assert_eq!(category(value), expected, "{value}");
        }
        for value in [-1e-45, -1.0, 16_777_216.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            assert_eq!(category(value), NO_CATEGORY, "{value}");
        }
    }

    #[test]
    fn a_large_category_makes_no_large_set() {
        let mut sets = CategorySets::new();
        let set = sets.push(&[0, CATEGORY_END - 1]).unwrap();
        assert!(sets.byte_len() < 64);
        assert!(sets.contains(set, 0) && sets.contains(set, CATEGORY_END - 1));
        assert!(!sets.contains(set, 1) && !sets.contains(set, NO_CATEGORY));
    }

    proptest! {
        #[test]
        fn sets_have_what_was_put_in_and_nothing_else(
            sets in prop::collection::vec(
                prop::collection::vec(prop_oneof![4 => 0_u32..200, 1 => 0..CATEGORY_END], 1..20), 1..8),
            others in prop::collection::vec(0..CATEGORY_END, 20),
        ) {
            let mut kept = CategorySets::new();
            let numbers: Vec<u32> = sets.iter().map(|set| kept.push(set).unwrap()).collect();
            for (set, number) in sets.iter().zip(numbers) {
                for category in sets.iter().flatten().chain(&others) {
                    prop_assert_eq!(kept.contains(number, *category), set.contains(category));
                    prop_assert!(!kept.contains(CategorySets::EMPTY, *category));
                }
                prop_assert!(!kept.contains(number, NO_CATEGORY) && !kept.contains(number, u32::MAX));
            }
        }
    }
}
