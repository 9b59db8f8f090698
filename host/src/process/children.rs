use tokio::signal::unix::{SignalKind, signal};

/// Bit of the signal by which the system tells that a child has ended, among those that are ignored.
const CHILD_BIT: u64 = 1 << 16;

/// Has the system tell how children of this process end. Who ignores that, as supervisors do to be rid of them, leaves it to all that
/// it starts, which then wait for their own children in vain.
pub fn heed_children() -> std::io::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !ignores_children(&status) {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    // What takes a signal stays when nobody waits for it any more.
    signal(SignalKind::child()).map(drop)
}

fn ignores_children(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & CHILD_BIT != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ignores_its_children_is_told() {
        assert!(ignores_children("Name:\thost\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000011000\n"));
        assert!(!ignores_children("SigIgn:\t0000000000001000\nSigCgt:\t0000000000010000\n"));
        assert!(!ignores_children(""));
    }
}
