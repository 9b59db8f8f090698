use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::process::{LimitedCommand, exec_limited};

/// How this program starts others that must not outlive it.
#[derive(Debug, clap::Args)]
pub(super) struct JobArguments {
    /// The process that must live.
    #[arg(long)]
    parent: i32,
    /// Bytes of memory that it may write to.
    #[arg(long)]
    memory: Option<u64>,
    /// Seconds of processors that it may take.
    #[arg(long)]
    processor: Option<u64>,
    /// Cores that it may run on.
    #[arg(long, value_delimiter = ',')]
    cores: Vec<usize>,
    /// What it becomes.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

pub(super) fn run(arguments: JobArguments) -> anyhow::Result<ExitCode> {
    let JobArguments { parent, memory, processor, cores, command } = arguments;
    let program = command.first().map(|program| program.display().to_string()).unwrap_or_default();
    let limited =
        LimitedCommand { parent, memory_bytes: memory, processor_seconds: processor, cores, command };
    let error = exec_limited(&limited);
    Err(error).with_context(|| format!("failed to start `{program}`"))
}
