use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::Digest;

/// Values that are made from bytes, by the digest of these: whoever wants one that others use shares it, and it goes with the
/// last of them.
#[derive(Debug)]
pub struct SharedByDigest<T: ?Sized> {
    places: Mutex<HashMap<Digest, Arc<Place<T>>>>,
}

/// Locked while the value is being made.
type Place<T> = Mutex<Option<Weak<T>>>;

impl<T: ?Sized> SharedByDigest<T> {
    /// The value of `digest`, if somebody uses it. Waits for one that is being made.
    pub fn get(&self, digest: Digest) -> Option<Arc<T>> {
        let place = lock(&self.places).get(&digest).map(Arc::clone)?;
        lock(&place).as_ref().and_then(Weak::upgrade)
    }

    /// The same, and where nobody uses it the one that `make` makes. Who wants it meanwhile waits; who comes after one that
    /// failed makes it anew.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn get_or_make<E>(
        &self,
        digest: Digest,
        make: impl FnOnce() -> Result<Arc<T>, E>,
    ) -> Result<Arc<T>, E> {
        let place = self.place(digest);
        let mut place = lock(&place);
        if let Some(known) = place.as_ref().and_then(Weak::upgrade) {
            return Ok(known);
        }
        let made = make()?;
        *place = Some(Arc::downgrade(&made));
        Ok(made)
    }

    /// The place of a digest; those whose values are gone are given up.
    fn place(&self, digest: Digest) -> Arc<Place<T>> {
        let mut places = lock(&self.places);
        // One that nobody holds is not being made.
        let is_used = |place: &Arc<Place<T>>| {
            Arc::strong_count(place) > 1 || lock(place).as_ref().is_some_and(|value| value.strong_count() > 0)
        };
        places.retain(|known, place| *known == digest || is_used(place));
        Arc::clone(places.entry(digest).or_default())
    }
}

impl<T: ?Sized> Default for SharedByDigest<T> {
    fn default() -> Self {
        Self { places: Mutex::default() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn make(shared: &SharedByDigest<str>, of: &str) -> Arc<str> {
        shared.get_or_make(Digest::of(of.as_bytes()), || Ok::<_, Infallible>(Arc::from(of))).unwrap()
    }

    #[test]
    fn what_is_used_is_made_once() {
        let shared = SharedByDigest::default();
        let (one, again, other) = (make(&shared, "one"), make(&shared, "one"), make(&shared, "other"));
        assert!(Arc::ptr_eq(&one, &again) && !Arc::ptr_eq(&one, &other));
        let digest = Digest::of(b"one");
        assert!(Arc::ptr_eq(&one, &shared.get(digest).unwrap()));
        drop((one, again));
        assert!(shared.get(digest).is_none(), "nobody uses it");
        let one = make(&shared, "one");
        drop(other);
        let third = make(&shared, "third");
        assert_eq!(lock(&shared.places).len(), 2, "what is gone is forgotten");
        drop((one, third));
    }

    #[test]
    fn those_who_want_it_at_once_share_it() {
        let (shared, start) = (SharedByDigest::default(), std::sync::Barrier::new(8));
        let values: Vec<_> = std::thread::scope(|scope| {
            let want = || {
                start.wait();
                make(&shared, "one")
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(want)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(values.iter().all(|value| Arc::ptr_eq(value, &values[0])));
    }

    #[test]
    fn what_could_not_be_made_is_tried_again() {
        let shared = SharedByDigest::<str>::default();
        let fail = || shared.get_or_make(Digest::of(b"one"), || Err("no"));
        assert!(fail().is_err() && fail().is_err());
        make(&shared, "one");
        make(&shared, "other");
        assert_eq!(lock(&shared.places).len(), 1, "what was never made is forgotten");
    }
}
