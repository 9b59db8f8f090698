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
    all: Vec<usize>,
}

impl Cores {
    /// Divides those of this thread.
    pub(super) fn find() -> Result<Self> {
        let all = sched_getaffinity(None).context("find the cores")?;
        Ok(Self { all: (0..CpuSet::MAX_CPU).filter(|&core| all.is_set(core)).collect() })
    }

    /// Those of servers.
    pub(super) fn of_servers(&self) -> &[usize] {
        self.all.get(..OF_SERVERS).unwrap_or(&self.all)
    }

    /// Those of the load: of all that there are, where servers need all.
    pub(super) fn of_load(&self) -> &[usize] {
        self.all.get(OF_SERVERS..).filter(|others| !others.is_empty()).unwrap_or(&self.all)
    }

    /// One core for a server and others for the load, where there are two, if servers need all.
    pub(super) fn apart(&self) -> (&[usize], &[usize]) {
        match self.all.as_slice() {
            [load, server] => (std::slice::from_ref(server), std::slice::from_ref(load)),
            _ => (self.of_servers(), self.of_load()),
        }
    }

    /// Threads that put load on servers: one, where they would take the servers' cores from them.
    pub(super) fn load_threads(&self) -> u32 {
        let others = self.all.len().saturating_sub(OF_SERVERS);
        u32::try_from(others.clamp(1, THREADS_MAX)).unwrap_or(1)
    }

    /// What a table says of them.
    pub(super) fn summary(&self) -> String {
        match self.all.len().saturating_sub(OF_SERVERS) {
            0 => format!("{} cores, for servers and load together", self.all.len()),
            others => format!("Servers on {OF_SERVERS} cores, the load on {others} others"),
        }
    }
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
        let divided = |count: usize| Cores { all: (4..4 + count).collect() };
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
}
