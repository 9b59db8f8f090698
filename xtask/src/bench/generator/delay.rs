use std::fs::File;
use std::io::Result;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

/// Shorter waits for the core are part of every wakeup.
const KEPT_MIN: Duration = Duration::from_micros(50);

/// How long this thread waits for its core while it has something to do, as Linux counts it.
pub(super) struct RunDelay {
    counts: File,
    seen: Duration,
}

impl RunDelay {
    /// Of the thread that calls.
    pub(super) fn of_this_thread() -> Result<Self> {
        let counts = File::open("/proc/thread-self/schedstat")?;
        let seen = read(&counts)?;
        Ok(Self { counts, seen })
    }

    /// For how long it was kept from its core since it asked the last time; short waits, which are part of waking, are none.
    pub(super) fn kept(&mut self) -> Result<Duration> {
        let seen = read(&self.counts)?;
        Ok(self.noticed(seen))
    }

    fn noticed(&mut self, seen: Duration) -> Duration {
        let kept = seen.saturating_sub(std::mem::replace(&mut self.seen, seen));
        if kept >= KEPT_MIN { kept } else { Duration::ZERO }
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
    fn long_waits_count_and_short_ones_are_forgotten() {
        let mut delay = RunDelay::of_this_thread().unwrap();
        delay.seen = Duration::ZERO;
        let micros = Duration::from_micros;
        let waits = [30, 60, 89, 189, 189].map(|seen| delay.noticed(micros(seen)));
        assert_eq!(waits, [0, 0, 0, 100, 0].map(micros));
    }
}
