use std::fs::File;
use std::io::Result;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

/// Whoever comes back sooner was not kept from its core.
const LOOK_MIN: Duration = Duration::from_micros(100);

/// Shorter waits for the core are part of every wakeup.
const KEPT_MIN: Duration = Duration::from_micros(50);

/// How long this thread waits for its core while it has something to do, as Linux counts it.
pub(super) struct RunDelay {
    counts: File,
    seen: Duration,
    looked_at: Instant,
}

impl RunDelay {
    /// Of the thread that calls.
    pub(super) fn of_this_thread() -> Result<Self> {
        let counts = File::open("/proc/thread-self/schedstat")?;
        let seen = read(&counts)?;
        Ok(Self { counts, seen, looked_at: Instant::now() })
    }

    /// For how long it was kept from its core since it asked the last time.
    pub(super) fn kept(&mut self, now: Instant) -> Result<Duration> {
        let is_late = now.duration_since(std::mem::replace(&mut self.looked_at, now)) >= LOOK_MIN;
        if !is_late {
            return Ok(Duration::ZERO);
        }
        let seen = read(&self.counts)?;
        let kept = seen.saturating_sub(std::mem::replace(&mut self.seen, seen));
        Ok(if kept >= KEPT_MIN { kept } else { Duration::ZERO })
    }
}

/// The second of its numbers: nanoseconds on the list of those who could run.
fn read(counts: &File) -> Result<Duration> {
    let mut text = [0; 128];
    let length = counts.read_at(&mut text, 0)?;
    Ok(text.get(..length).and_then(parse).map_or(Duration::ZERO, Duration::from_nanos))
}

fn parse(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_number_is_the_wait() {
        assert_eq!(parse(b"12 345 6\n"), Some(345));
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn who_comes_back_soon_is_not_looked_after() {
        let mut delay = RunDelay::of_this_thread().unwrap();
        let now = delay.looked_at;
        delay.seen = Duration::ZERO;
        assert_eq!(delay.kept(now + LOOK_MIN / 2).unwrap(), Duration::ZERO);
        let waited = read(&delay.counts).unwrap();
        let kept = delay.kept(now + 2 * LOOK_MIN).unwrap();
        assert!(kept >= waited || waited < KEPT_MIN, "{kept:?} {waited:?}");
    }
}
