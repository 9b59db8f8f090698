use std::process::ExitCode;

use super::output::Output;
use crate::plugin::{ErrorClass, LoadError, PluginError};
use crate::serve::WindowError;
use crate::store::{DatabaseError, StoreError};
use crate::train::TrainError;

/// The host itself failed, or the machine under it: disk, memory, threads.
const HOST_FAILED: u8 = 1;
/// Something the user gave is wrong.
const USER_ERROR: u8 = 2;
/// A plugin crashed, hit a limit or broke the contract.
const PLUGIN_FAILED: u8 = 3;

/// Somebody said stop: what shells give to a program that the keyboard ended.
pub(super) const CANCELLED: u8 = 130;

/// Prints an error with its causes, and gives the exit code for its class.
pub(super) fn report(error: &anyhow::Error, output: &Output) -> ExitCode {
    let code = exit_code(error);
    // A reader that went away, as in `host … | head`, is not worth a word.
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    output.error(&text);
    ExitCode::from(code)
}

fn exit_code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        let boxed = || cause.downcast_ref::<Box<PluginError>>().map(Box::as_ref);
        if let Some(error) = cause.downcast_ref::<PluginError>().or_else(boxed) {
            return code_of(error.fault.class());
        }
        if let Some(error) = cause.downcast_ref::<LoadError>() {
            return code_of(error.class());
        }
        if let Some(TrainError::Stopped) = cause.downcast_ref() {
            return CANCELLED;
        }
        let ours = cause.is::<WindowError>()
            || cause.is::<crate::plugin::RuntimeError>()
            || cause.is::<DatabaseError>()
            || cause.downcast_ref::<std::io::Error>().is_some_and(|error| is_of_the_machine(error.kind()))
            || cause.downcast_ref::<StoreError>().is_some_and(StoreError::is_host_failure);
        if ours {
            return HOST_FAILED;
        }
    }
    USER_ERROR
}

fn code_of(class: ErrorClass) -> u8 {
    match class {
        ErrorClass::User => USER_ERROR,
        ErrorClass::Plugin => PLUGIN_FAILED,
        ErrorClass::Overload | ErrorClass::Host => HOST_FAILED,
    }
}

/// Whether a failure of a file is nobody's mistake.
fn is_of_the_machine(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind;
    matches!(
        kind,
        ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::OutOfMemory
            | ErrorKind::WouldBlock
    )
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
