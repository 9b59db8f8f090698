/// What is added at each step of a sequence of [`mix`]: the golden ratio, in 64 bits.
pub const MIX_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads what numbers differ in over all bits: the first number that SplitMix64 gives from the state `bits` (Steele, Lea
/// and Flood, "Fast splittable pseudorandom number generators", 2014). The same on every machine; not for secrets.
pub fn mix(bits: u64) -> u64 {
    let mut mixed = bits.wrapping_add(MIX_STEP);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_numbers_of_splitmix64() {
        // The reference implementation's first three for the seed 1234567.
        let numbers = [0_u64, 1, 2].map(|step| mix(1_234_567_u64.wrapping_add(step.wrapping_mul(MIX_STEP))));
        assert_eq!(
            numbers,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }
}
