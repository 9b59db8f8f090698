use tokio::sync::{Semaphore, SemaphorePermit};

use super::super::{ErrorCode, TrackError};

/// Memory for bodies of JSON under way, of all connections together: of the largest, four at a time.
const BODIES_MAX_BYTES: usize = 128 * 1024 * 1024;

/// Bodies up to this size are not counted, which most are. There are never more of them than connections.
const UNCOUNTED_MAX_BYTES: usize = 64 * 1024;

/// The unit in which memory is counted.
const UNIT_BYTES: usize = 1024;

/// One for the program, as its memory is.
static FREE_UNITS: Semaphore = Semaphore::const_new(BODIES_MAX_BYTES / UNIT_BYTES);

/// The part of the memory for bodies that one request has until it is answered; none for a small one.
#[derive(Default)]
pub(crate) struct Room(Option<SemaphorePermit<'static>>);

impl Room {
    /// Makes room for a body of so many bytes.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), TrackError> {
        if bytes <= UNCOUNTED_MAX_BYTES {
            return Ok(());
        }
        let present = self.0.as_ref().map_or(0, SemaphorePermit::num_permits);
        let missing = bytes.div_ceil(UNIT_BYTES).saturating_sub(present);
        let Some(missing) = u32::try_from(missing).ok().filter(|&missing| missing > 0) else { return Ok(()) };
        // Nobody waits: those who have room already might all wait for more.
        let more = FREE_UNITS.try_acquire_many(missing).map_err(|_| {
            let message = "The requests under way take all of the memory there is for them: try again later";
            TrackError::new(ErrorCode::TemporarilyUnavailable, message)
        })?;
        match &mut self.0 {
            Some(present) => present.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_share_what_there_is() {
        let (mut first, mut second) = (Room::default(), Room::default());
        first.grow(BODIES_MAX_BYTES / 2).unwrap();
        first.grow(BODIES_MAX_BYTES - UNIT_BYTES).unwrap();
        second.grow(UNCOUNTED_MAX_BYTES).unwrap();
        let refused = second.grow(UNCOUNTED_MAX_BYTES + 1).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::TemporarilyUnavailable);
        drop(first);
        second.grow(BODIES_MAX_BYTES).unwrap();
    }
}
