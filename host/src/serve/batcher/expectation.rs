use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Whether a request may expect others beside it.
#[derive(Debug, Default)]
pub(super) struct Company {
    /// Requests in a row that nobody joined.
    lonely: AtomicU32,
}

impl Company {
    /// Whether others are worth looking for. After a few in vain, only now and then.
    pub(super) fn is_likely(&self) -> bool {
        let lonely = self.lonely.load(Ordering::Relaxed);
        lonely < 4 || lonely.is_multiple_of(32)
    }

    pub(super) fn learn(&self, requests: usize) {
        if requests > 1 {
            self.lonely.store(0, Ordering::Relaxed);
        } else {
            self.lonely.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// How many requests a batch may be expected to have.
#[derive(Debug)]
pub(super) struct Expectation(AtomicUsize);

impl Default for Expectation {
    /// One: who is alone waits for nobody.
    fn default() -> Self {
        Self(AtomicUsize::new(1))
    }
}

impl Expectation {
    /// Whether more are worth waiting for than those that are there.
    pub(super) fn is_more_than(&self, requests: usize) -> bool {
        requests < self.0.load(Ordering::Relaxed)
    }

    /// Learns from a batch. One that is larger than expected lets one more be expected; one for whose rest was waited in
    /// vain lets no more be expected than came.
    pub(super) fn learn(&self, requests: usize) {
        let expected = self.0.load(Ordering::Relaxed);
        let learned = if requests > expected { expected + 1 } else { requests.max(1) };
        self.0.store(learned, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_few_that_nobody_joined_others_are_looked_for_now_and_then() {
        let company = Company::default();
        let looks = |company: &Company| {
            (0..64)
                .filter(|_| {
                    let looks = company.is_likely();
                    company.learn(1);
                    looks
                })
                .count()
        };
        assert_eq!(looks(&company), 5);
        company.learn(2);
        assert!(company.is_likely());
    }

    #[test]
    fn no_more_are_expected_than_came() {
        let expected = Expectation::default();
        assert!(!expected.is_more_than(1), "one client alone waits for nobody");
        for requests in [3, 5, 5, 5] {
            expected.learn(requests);
        }
        assert!(expected.is_more_than(4) && !expected.is_more_than(5));
        expected.learn(2);
        assert!(expected.is_more_than(1) && !expected.is_more_than(2));
        expected.learn(1);
        assert!(!expected.is_more_than(1));
    }
}
