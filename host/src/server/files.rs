//! What the system's limit on open files leaves for connections, each of which is one.

use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are kept for what the server does besides, beyond those that it has open when it begins: the database, what is
/// recorded, logs and plugins.
const SPARE_FILES: usize = 64;

/// How often it is told that connections could not be accepted.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Raises the limit on open files to the highest that this process may choose; where that fails it stays as it is.
pub(super) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "the limit on open files stays as it is");
    }
}

/// As many connections as there may be at once, of those that are wanted. Where they are fewer, that is told.
pub(super) fn connections_max(wanted: usize) -> usize {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return wanted };
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let max = left(usize::try_from(limit).unwrap_or(usize::MAX), open).min(wanted);
    if max < wanted {
        tracing::warn!(
            "there may be {max} connections at once: this process may open {limit} files (`ulimit -n`)"
        );
    }
    max
}

/// Files that are left for connections. Where there are few, the server keeps half of them.
fn left(limit: usize, open: usize) -> usize {
    let free = limit.saturating_sub(open);
    free.saturating_sub(SPARE_FILES).max(free / 2).max(1)
}

/// Connections that could not be accepted.
#[derive(Debug, Default)]
pub(super) struct Failures {
    told: Option<Instant>,
}

impl Failures {
    /// Tells of one, unless that was told of another a short time ago.
    pub(super) fn tell(&mut self, error: &std::io::Error) {
        if self.told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL) {
            self.told = Some(Instant::now());
            tracing::warn!(%error, "could not accept a connection");
        }
    }
}

/// Whether there was no file left for a connection.
pub(super) fn is_for_want_of_files(error: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_keeps_files_for_itself() {
        for (limit, open, expected) in [
            (1_048_576, 30, 1_048_482),
            (4_096, 30, 4_002),
            (1_024, 30, 930),
            (256, 30, 162),
            (64, 30, 17),
            (32, 30, 1),
            (32, 40, 1),
        ] {
            assert_eq!(left(limit, open), expected, "{limit}");
        }
    }
}
