//! Names for runs that were given none.

const ADJECTIVES: [&str; 32] = [
    "able", "bold", "brave", "bright", "calm", "clean", "clever", "cool", "eager", "fair", "fast", "fine",
    "fresh", "gentle", "glad", "grand", "happy", "keen", "kind", "light", "lively", "lucky", "merry", "neat",
    "nimble", "proud", "quick", "quiet", "sharp", "smart", "swift", "warm",
];

const NOUNS: [&str; 32] = [
    "badger", "beaver", "crane", "deer", "dove", "duck", "eagle", "falcon", "finch", "fox", "frog", "goose",
    "hare", "hawk", "heron", "horse", "lark", "lynx", "mole", "moose", "newt", "otter", "owl", "panda",
    "raven", "robin", "salmon", "seal", "sparrow", "swan", "trout", "wolf",
];

/// A name that is easy to say, made of a run's id.
pub(super) fn make(run_id: &str) -> String {
    let number = u64::from_str_radix(run_id.get(..12).unwrap_or("0"), 16).unwrap_or_default();
    let pick =
        |words: [&'static str; 32], bits: u64| words.get((bits % 32) as usize).copied().unwrap_or("run");
    format!("{}-{}-{}", pick(ADJECTIVES, number), pick(NOUNS, number >> 5), (number >> 10) % 1_000)
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_of_the_id() {
        let name = super::make("0123456789abcdef0123456789abcdef");
        assert_eq!(name, super::make("0123456789abcdef0123456789abcdef"));
        assert_ne!(name, super::make("1123456789abcdef0123456789abcdef"));
        assert_eq!(name.split('-').count(), 3);
    }
}
