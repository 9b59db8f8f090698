use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};

use crate::domain::{Batch, Digest};

/// Bytes that an answer takes beside its elements.
const ENTRY_BYTES: u64 = 512;

/// Bytes of a typical answer, by which the number of places is estimated.
const TYPICAL_BYTES: u64 = 4_096;

/// Answers that were given, by the bundle that gave them and the rows that were asked: the same rows of the same bundle have the same
/// answer.
pub struct AnswerCache {
    answers: Cache<Key, Arc<CachedAnswer>, ByBytes>,
    max_bytes: u64,
}

/// An answer, and what the model saw and said for it, so that monitoring sees it each time.
#[derive(Debug)]
pub(super) struct CachedAnswer {
    pub(super) features: Batch,
    pub(super) scores: Batch,
    pub(super) outputs: Batch,
}

/// What was asked of whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(Digest);

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Arc<CachedAnswer>> for ByBytes {
    fn weight(&self, _: &Key, answer: &Arc<CachedAnswer>) -> u64 {
        let CachedAnswer { features, scores, outputs } = answer.as_ref();
        (features.byte_len() + scores.byte_len() + outputs.byte_len()) as u64 + ENTRY_BYTES
    }
}

impl AnswerCache {
    /// An empty cache that holds up to `max_bytes`.
    pub fn new(max_bytes: u64) -> Self {
        let places = usize::try_from(max_bytes / TYPICAL_BYTES).unwrap_or(usize::MAX).clamp(16, 1 << 20);
        let answers = Cache::with_weighter(places, max_bytes, ByBytes);
        Self { answers, max_bytes }
    }

    /// What it may hold.
    pub fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// What it holds.
    pub fn bytes(&self) -> u64 {
        self.answers.weight()
    }

    pub(super) fn get(&self, key: Key) -> Option<Arc<CachedAnswer>> {
        self.answers.get(&key)
    }

    pub(super) fn insert(&self, key: Key, answer: CachedAnswer) {
        self.answers.insert(key, Arc::new(answer));
    }
}

impl Key {
    /// The key of rows that are asked of a bundle.
    pub(super) fn of(bundle: Digest, inputs: &Batch) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(bundle.hex().as_bytes());
        let number = |hasher: &mut Sha256, value: usize| hasher.update((value as u64).to_le_bytes());
        for tensor in inputs.tensors() {
            // Lengths first, so that no two batches are the same bytes.
            number(&mut hasher, tensor.name().len());
            hasher.update(tensor.name().as_bytes());
            hasher.update(tensor.dtype().to_string().as_bytes());
            number(&mut hasher, tensor.shape().len());
            for &size in tensor.shape() {
                number(&mut hasher, size);
            }
            number(&mut hasher, tensor.data().len());
            hasher.update(tensor.data());
        }
        Self(Digest::from_hasher(hasher))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Tensor;

    fn batch(name: &str, values: &[f32]) -> Batch {
        Batch::new(vec![Tensor::from_f32(name, vec![values.len()], values).unwrap()]).unwrap()
    }

    fn answer(values: &[f32]) -> CachedAnswer {
        let outputs = batch("y", values);
        CachedAnswer { features: outputs.clone(), scores: outputs.clone(), outputs }
    }

    #[test]
    fn the_same_rows_of_the_same_bundle_are_known_again() {
        let cache = AnswerCache::new(1 << 20);
        let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
        cache.insert(Key::of(one, &batch("x", &[1.0])), answer(&[5.0]));
        let found = cache.get(Key::of(one, &batch("x", &[1.0]))).unwrap();
        assert_eq!(found.outputs, batch("y", &[5.0]));
        for key in [
            Key::of(other, &batch("x", &[1.0])),
            Key::of(one, &batch("x", &[2.0])),
            Key::of(one, &batch("z", &[1.0])),
            Key::of(one, &batch("x", &[1.0, 1.0])),
            Key::of(one, &batch("x", &[0.0])),
        ] {
            assert!(cache.get(key).is_none());
        }
        assert_ne!(Key::of(one, &batch("x", &[0.0])), Key::of(one, &batch("x", &[-0.0])));
    }

    #[test]
    fn it_never_holds_more_than_it_may() {
        let cache = AnswerCache::new(100_000);
        for index in 0..2_000 {
            cache.insert(Key::of(Digest::of(b""), &batch("x", &[index as f32])), answer(&[0.0; 100]));
        }
        assert!(cache.bytes() <= 100_000 && cache.bytes() > 10_000, "{}", cache.bytes());
        cache.insert(Key::of(Digest::of(b""), &batch("x", &[-1.0])), answer(&[0.0; 100_000]));
        assert!(cache.bytes() <= 100_000);
    }
}
