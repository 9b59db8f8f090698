use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use super::output::Output;
use crate::plugin::{self, LoadError};

/// How this program compiles components for itself.
#[derive(Debug, clap::Args)]
pub(super) struct CompileArguments {
    /// Where the code is left.
    #[arg(long, value_name = "DIR")]
    code_cache: PathBuf,
}

pub(super) fn run(arguments: &CompileArguments, output: &Output) -> anyhow::Result<ExitCode> {
    // Where memory is short this process goes before the one that serves.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let mut component = Vec::new();
    std::io::stdin().lock().read_to_end(&mut component).context("failed to read the component")?;
    match plugin::compile(&arguments.code_cache, &component) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(LoadError::Invalid(reason)) => {
            output.line(&reason)?;
            Ok(ExitCode::from(plugin::NOT_A_COMPONENT))
        }
        Err(LoadError::CodeSize { .. }) => Ok(ExitCode::from(plugin::CODE_TOO_LARGE)),
        // The other process says what could not be done.
        Err(LoadError::NotCompiled(reason)) => Err(anyhow::Error::msg(reason)),
        Err(error) => Err(error.into()),
    }
}
