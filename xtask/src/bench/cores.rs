//! Which cores the servers have that are measured, and which the load that is put on them.
//!
//! Servers have two, whatever the machine has, so that results of machines are alike. The load has the others, where there are any.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::error::{Context as _, Result};

/// Cores of a server.
const OF_SERVERS: usize = 2;

/// Threads of a load generator that has cores of its own; more would not be kept busy by two cores.
const THREADS_MAX: usize = 4;

/// The cores that this process may use, divided.
#[derive(Debug, Clone)]
pub(super) struct Cores {
    of_servers: Vec<usize>,
    others: Vec<usize>,
}

impl Cores {
    /// Divides those of this thread.
    pub(super) fn find() -> Result<Self> {
        let all = sched_getaffinity(None).context("find the cores")?;
        let all = (0..CpuSet::MAX_CPU).filter(|&core| all.is_set(core)).collect();
        Ok(Self::divide(all, siblings))
    }

    /// Divides `all`. What the system calls a core may be a half of one: the servers' are no halves of the same, and nothing runs
    /// on their other halves, where there are enough.
    fn divide(all: Vec<usize>, siblings: impl Fn(usize) -> Vec<usize>) -> Self {
        let mut of_servers: Vec<usize> = Vec::new();
        for &core in &all {
            if of_servers.len() < OF_SERVERS
                && !of_servers.iter().any(|other| siblings(*other).contains(&core))
            {
                of_servers.push(core);
            }
        }
        if of_servers.len() < OF_SERVERS {
            of_servers = all.iter().copied().take(OF_SERVERS).collect();
        }
        let rest: Vec<usize> = all.into_iter().filter(|core| !of_servers.contains(core)).collect();
        let halves: Vec<usize> = of_servers.iter().flat_map(|&core| siblings(core)).collect();
        let apart: Vec<usize> = rest.iter().copied().filter(|core| !halves.contains(core)).collect();
        Self { of_servers, others: if apart.is_empty() { rest } else { apart } }
    }

    /// Those of servers.
    pub(super) fn of_servers(&self) -> &[usize] {
        &self.of_servers
    }

    /// Those of the load: of all that there are, where servers need all.
    pub(super) fn of_load(&self) -> &[usize] {
        if self.others.is_empty() { &self.of_servers } else { &self.others }
    }

    /// One core for a server and others for the load, where there are two, if servers need all.
    pub(super) fn apart(&self) -> (&[usize], &[usize]) {
        match self.of_servers.as_slice() {
            [load, server] if self.others.is_empty() => {
                (std::slice::from_ref(server), std::slice::from_ref(load))
            }
            _ => (self.of_servers(), self.of_load()),
        }
    }

    /// Threads that put load on servers: one, where they would take the servers' cores from them.
    pub(super) fn load_threads(&self) -> u32 {
        u32::try_from(self.others.len().clamp(1, THREADS_MAX)).unwrap_or(1)
    }

    /// What a table says of them.
    pub(super) fn summary(&self) -> String {
        match self.others.len() {
            0 => format!("{} cores, for servers and load together", self.of_servers.len()),
            others => format!("Servers on {OF_SERVERS} cores, the load on {others} others"),
        }
    }
}

/// The cores that are parts of the same one as `core`, with itself; only itself where the system does not tell.
fn siblings(core: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
    std::fs::read_to_string(path).ok().and_then(|text| cores_of(&text)).unwrap_or_else(|| vec![core])
}

/// The cores of a list such as `0-1,8`.
fn cores_of(text: &str) -> Option<Vec<usize>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    };
    let ranges: Option<Vec<_>> = text.trim().split(',').map(range).collect();
    Some(ranges?.into_iter().flatten().collect())
}

/// Lets this thread, and what it starts, run on these cores only.
pub(super) fn keep_to(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    sched_setaffinity(None, &set).context("keep to some cores")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_two_and_the_load_the_others() {
        let divided = |count: usize| Cores::divide((4..4 + count).collect(), |core| vec![core]);
        let one = divided(1);
        assert_eq!((one.of_servers(), one.of_load(), one.load_threads()), (&[4][..], &[4][..], 1));
        assert_eq!(one.apart(), (&[4][..], &[4][..]));
        let two = divided(2);
        assert_eq!((two.of_servers(), two.of_load(), two.load_threads()), (&[4, 5][..], &[4, 5][..], 1));
        assert_eq!(two.apart(), (&[5][..], &[4][..]));
        let many = divided(16);
        assert_eq!((many.of_servers(), many.of_load().len(), many.load_threads()), (&[4, 5][..], 14, 4));
        assert_eq!(many.apart(), (many.of_servers(), many.of_load()));
        assert_eq!(many.summary(), "Servers on 2 cores, the load on 14 others");
    }

    #[test]
    fn servers_have_whole_cores() {
        let pairs = |core: usize| vec![core & !1, core | 1];
        let divided = |all: std::ops::Range<usize>| {
            let cores = Cores::divide(all.collect(), pairs);
            (cores.of_servers().to_vec(), cores.of_load().to_vec())
        };
        assert_eq!(divided(0..8), (vec![0, 2], vec![4, 5, 6, 7]));
        assert_eq!(divided(0..4), (vec![0, 2], vec![1, 3]), "or there would be none for the load");
        assert_eq!(divided(0..2), (vec![0, 1], vec![0, 1]));
    }

    #[test]
    fn lists_of_cores() {
        assert_eq!(cores_of("0-1\n"), Some(vec![0, 1]));
        assert_eq!(cores_of("3,7-8"), Some(vec![3, 7, 8]));
        assert_eq!(cores_of("?"), None);
    }
}
