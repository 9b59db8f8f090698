//! Time that a process and its children spent computing, and memory that they have, from `/proc`.

use std::collections::HashMap;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::error::{Context as _, Error, Result};
use crate::process;

/// A server that computes for longer after the last answer does so of itself.
const IDLE_WAIT_MAX: Duration = Duration::from_secs(60);

/// Memory of a process and its children. What they share is counted for each of them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Resident {
    pub(super) now_mib: f64,
    /// The most since each of them started.
    pub(super) most_mib: f64,
}

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

    /// Waits until `root` and those below it compute for less than a fifth of `interval`.
    pub(super) fn wait_until_idle(&self, root: u32, interval: Duration) -> Result<()> {
        let started = Instant::now();
        let mut before = self.read(root)?;
        while started.elapsed() < IDLE_WAIT_MAX {
            std::thread::sleep(interval);
            let now = self.read(root)?;
            if now.saturating_sub(before) < interval / 5 {
                break;
            }
            before = now;
        }
        Ok(())
    }

    /// Time of the process `root` and of those below it that still run.
    pub(super) fn read(&self, root: u32) -> Result<Duration> {
        let ticks: u64 = family(root)?.values().map(|stat| stat.ticks).sum();
        Ok(Duration::from_secs_f64(ticks as f64 / self.ticks_per_second))
    }
}

/// Memory of the process `root` and of those below it.
pub(super) fn resident(root: u32) -> Result<Resident> {
    let mut sum = Resident::default();
    for id in family(root)?.into_keys() {
        // Those below end when they like.
        let Ok(status) = std::fs::read_to_string(format!("/proc/{id}/status")) else { continue };
        sum.now_mib += mebibytes(&status, "VmRSS:");
        sum.most_mib += mebibytes(&status, "VmHWM:");
    }
    Ok(sum)
}

fn mebibytes(status: &str, name: &str) -> f64 {
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().split(' ').next()?.parse::<f64>().ok());
    kilobytes.unwrap_or_default() / 1024.0
}

/// The process `root` and those below it.
fn family(root: u32) -> Result<HashMap<u32, Stat>> {
    let mut stats = processes()?;
    if !stats.contains_key(&root) {
        return Err(Error::new(format!("there is no process {root}")));
    }
    let others: Vec<u32> =
        stats.keys().copied().filter(|&id| id != root && !is_below(&stats, id, root)).collect();
    others.iter().for_each(|id| {
        stats.remove(id);
    });
    Ok(stats)
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
    fn reads_the_memory_of_a_process() {
        let status = "Name:\tx\nVmHWM:\t    3072 kB\nVmRSS:\t    2048 kB\n";
        assert_eq!((mebibytes(status, "VmRSS:"), mebibytes(status, "VmHWM:")), (2.0, 3.0));
        assert_eq!(mebibytes("Name:\tkthreadd\n", "VmRSS:"), 0.0);
    }

    #[test]
    fn children_count() {
        let clock = CpuClock::new().unwrap();
        let own = std::process::id();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let stats = processes().unwrap();
        assert!(is_below(&stats, child.id(), own) && !is_below(&stats, own, child.id()));
        assert!(clock.read(own).unwrap() >= clock.read(child.id()).unwrap());
        assert!(resident(own).unwrap().now_mib > resident(child.id()).unwrap().now_mib);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
