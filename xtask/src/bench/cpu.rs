//! Time that a process and its children spent computing, from `/proc`.

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use crate::error::{Context as _, Error, Result};
use crate::process;

/// Reads the times of processes.
pub(super) struct CpuClock {
    ticks_per_second: f64,
}

/// A line of `/proc/PID/stat`, as far as it is used.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// User and system time of all its threads, also of those that ended.
    ticks: u64,
}

impl CpuClock {
    /// Asks the system for its unit.
    pub(super) fn new() -> Result<Self> {
        let text = process::read_text(Command::new("getconf").arg("CLK_TCK"), "ask for the clock's unit")?;
        Ok(Self { ticks_per_second: text.parse().context("read the clock's unit")? })
    }

    /// Time of the process `root` and of those below it that still run.
    pub(super) fn read(&self, root: u32) -> Result<Duration> {
        let stats = processes()?;
        let own = stats.get(&root).ok_or_else(|| Error::new(format!("there is no process {root}")))?;
        let below = stats.iter().filter(|&(&id, _)| id != root && is_below(&stats, id, root));
        let ticks = own.ticks + below.map(|(_, stat)| stat.ticks).sum::<u64>();
        Ok(Duration::from_secs_f64(ticks as f64 / self.ticks_per_second))
    }
}

fn processes() -> Result<HashMap<u32, Stat>> {
    let entries = std::fs::read_dir("/proc").context("read `/proc`")?;
    let stats = entries.flatten().filter_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        // Processes end while they are listed.
        Some((id, parse(&std::fs::read_to_string(entry.path().join("stat")).ok()?)?))
    });
    Ok(stats.collect())
}

fn is_below(stats: &HashMap<u32, Stat>, id: u32, root: u32) -> bool {
    let parent = |id: &u32| stats.get(id).map(|stat| stat.parent);
    // Bounded, because what is read of a changing system may have a circle.
    std::iter::successors(parent(&id), parent).take(64).any(|ancestor| ancestor == root)
}

/// Reads `PID (NAME) STATE PPID …`; a name may hold anything, also `)`.
fn parse(line: &str) -> Option<Stat> {
    let mut fields = line.rsplit_once(") ")?.1.split(' ');
    let parent = fields.nth(1)?.parse().ok()?;
    let user: u64 = fields.nth(9)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Stat { parent, ticks: user + system })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_line_of_a_process() {
        let line = "42 (a) b) S 7 42 42 0 -1 4194304 100 0 0 0 250 31 9 9 20 0 4 0 1 1 1";
        assert_eq!(parse(line), Some(Stat { parent: 7, ticks: 281 }));
        assert_eq!(parse("42 (a"), None);
    }

    #[test]
    fn children_count() {
        let clock = CpuClock::new().unwrap();
        let own = std::process::id();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let stats = processes().unwrap();
        assert!(is_below(&stats, child.id(), own) && !is_below(&stats, own, child.id()));
        assert!(clock.read(own).unwrap() >= clock.read(child.id()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
