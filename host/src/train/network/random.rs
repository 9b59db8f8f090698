//! Random numbers that depend only on a seed and on what they are for, so that nothing has to be kept to go on.

use crate::domain::{MIX_STEP, mix};

/// What numbers are for: no two purposes share them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// The weights to start from.
    Weights = 1,
    /// The order of an epoch's rows.
    Order = 2,
    /// What is dropped in a batch.
    Dropout = 3,
}

/// SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators").
pub(super) struct Random(u64);

impl Random {
    /// Numbers for a purpose; `number` tells one use from the next.
    pub(super) fn new(seed: u32, purpose: Purpose, number: u64) -> Self {
        let mut random = Self(u64::from(seed) << 8 | purpose as u64);
        // What differs in few bits begins far apart.
        random.0 = random.next() ^ number;
        random.0 = random.next();
        random
    }

    fn next(&mut self) -> u64 {
        let number = mix(self.0);
        self.0 = self.0.wrapping_add(MIX_STEP);
        number
    }

    /// From 0 to 1, without 1.
    pub(super) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u32 << 24) as f32
    }

    /// The numbers from 0 to `count`, without it, in an order.
    pub(super) fn order(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            // The bias of the remainder is below 2^-32 for any number of rows there is memory for.
            let other = self.next() % (last as u64 + 1);
            order.swap(last, other as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_have_every_row_once_and_differ_by_epoch() {
        let order = |number| Random::new(7, Purpose::Order, number).order(100);
        let mut sorted = order(1);
        assert_ne!(sorted, order(2));
        assert_eq!(sorted, order(1));
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn numbers_are_even() {
        let mut random = Random::new(0, Purpose::Weights, 0);
        let mean = (0..10_000).map(|_| random.unit()).sum::<f32>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }
}
