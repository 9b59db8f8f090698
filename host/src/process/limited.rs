//! What a process is told before it becomes a program.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// The hidden subcommand of this program that calls [`exec_limited`].
const SUBCOMMAND: &str = "job";

/// A program with its limits.
#[derive(Debug, Default)]
pub struct LimitedCommand {
    /// The process that must live.
    pub parent: i32,
    /// Bytes of memory that it may write to.
    pub memory_bytes: Option<u64>,
    /// Time of processors that it may take; the signal `XCPU` ends it then.
    pub processor_seconds: Option<u64>,
    /// Cores that it may run on; all where there are none.
    pub cores: Vec<usize>,
    /// What it becomes: a program and its arguments.
    pub command: Vec<OsString>,
}

impl LimitedCommand {
    /// A command that lives no longer than this process.
    pub fn of_this_process(command: Vec<OsString>) -> Self {
        // Linux has no larger ones.
        let parent = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
        Self { parent, command, ..Self::default() }
    }

    /// Starts it by way of `host`, this program, in a process group of its own. The rest (folder, environment, pipes) is
    /// the caller's to say.
    pub fn to_command(&self, host: &Path) -> Command {
        let mut command = Command::new(host);
        command.arg(SUBCOMMAND).arg("--parent").arg(self.parent.to_string());
        if let Some(bytes) = self.memory_bytes {
            command.arg("--memory").arg(bytes.to_string());
        }
        if let Some(seconds) = self.processor_seconds {
            command.arg("--processor").arg(seconds.to_string());
        }
        if !self.cores.is_empty() {
            let cores: Vec<String> = self.cores.iter().map(usize::to_string).collect();
            command.arg("--cores").arg(cores.join(","));
        }
        command.arg("--").args(&self.command).process_group(0);
        command
    }
}

/// Takes on the limits of a command and becomes its program; returns only if that fails.
///
/// A program of its own, because between `fork` and `exec` only what is safe in a copied process may be called.
pub fn exec_limited(limited: &LimitedCommand) -> std::io::Error {
    match limit(limited) {
        Ok(()) => {}
        Err(error) => return error.into(),
    }
    let Some((program, rest)) = limited.command.split_first() else {
        return std::io::ErrorKind::InvalidInput.into();
    };
    Command::new(program).args(rest).exec()
}

fn limit(limited: &LimitedCommand) -> rustix::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before that was said.
    if getppid() != Pid::from_raw(limited.parent) {
        return Err(rustix::io::Errno::SRCH);
    }
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    if let Some(bytes) = limited.memory_bytes {
        // Not the address space, of which sandboxes reserve much more than they use.
        set_limit(Resource::Data, bytes, bytes)?;
    }
    if let Some(seconds) = limited.processor_seconds {
        // A program that passes over the signal is killed.
        set_limit(Resource::Cpu, seconds, seconds.saturating_add(1))?;
    }
    if !limited.cores.is_empty() {
        let mut set = CpuSet::new();
        limited.cores.iter().filter(|core| **core < CpuSet::MAX_CPU).for_each(|core| set.set(*core));
        sched_setaffinity(None, &set)?;
    }
    Ok(())
}

/// Sets a limit, or keeps the one that there is where that is lower: a program within limits must not get out of them, and only
/// root could.
fn set_limit(resource: Resource, current: u64, maximum: u64) -> rustix::io::Result<()> {
    let bound = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let (current, maximum) = (Some(current.min(bound)), Some(maximum.min(bound)));
    setrlimit(resource, Rlimit { current, maximum })
}
