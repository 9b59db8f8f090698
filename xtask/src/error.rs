//! What went wrong, in one sentence that says how to mend it.

use std::fmt;
use std::process::ExitCode;

/// The result of everything here.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// A sentence for the person at the terminal; programs only see the exit code.
#[derive(Debug)]
pub(crate) struct Error {
    message: String,
    is_usage: bool,
}

impl Error {
    /// Something failed.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_usage: false }
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_usage: true }
    }

    /// As clap does it: 2 for a wrong command line, 1 for the rest.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(if self.is_usage { 2 } else { 1 })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

/// Says what was tried when something failed.
pub(crate) trait Context<T> {
    /// `what` completes "failed to …".
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error::new(format!("failed to {what}: {error}")))
    }
}
