//! Programs as child processes: with limits, in a process group of their own, watched while they run.
//!
//! Owns what may become of a process instead of ending well: it prints without end, hangs, leaves others behind, or is
//! left behind itself. Refuses to know what the programs are for.
//!
//! 1. [`LimitedCommand::to_command`] starts this program's hidden subcommand `job`, which takes on the limits and becomes
//!    the program ([`exec_limited`]); from then on it dies with the process that started it.
//! 2. [`wait()`] reads what it prints, ends it when it has to, and leaves none of its group.

mod children;
mod limited;
mod log;
mod told;
mod wait;

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};

pub use children::heed_children;
pub use limited::{LimitedCommand, exec_limited};
pub use log::Log;
pub use wait::{Ended, Stopped, Waiting, wait};

/// Variable of the environment that asks a program of this host to say how far it is, by lines on standard error that
/// begin with [`PROGRESS_MARK`].
pub const PROGRESS: &str = "HOST_PROGRESS";

/// What a line begins with that says how far a program is: the record separator of ASCII.
pub const PROGRESS_MARK: u8 = 0x1e;

/// Says to programs that they should stop.
#[derive(Debug, Default)]
pub struct Cancel(AtomicBool);

impl Cancel {
    /// Says stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether somebody said stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// How a process that did not end well has ended, after `it` or its name: `exited with code 1: what it said last`.
pub fn how_it_ended(status: ExitStatus, last_line: Option<String>) -> String {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    };
    match last_line {
        Some(line) => format!("{how}: {line}"),
        None => how,
    }
}
