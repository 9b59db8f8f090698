//! Structured log lines, which the host publishes with the plugin's name, digest and the call.
//!
//! Never fails and never blocks: past the host's limit on bytes of one call lines are dropped and counted. Natively
//! lines are recorded for [`testing::take_lines`](crate::testing::take_lines).

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every step.
    Trace,
    /// For the plugin's author.
    Debug,
    /// For the operator, rarely.
    Info,
    /// Something to look at.
    Warn,
    /// Something failed.
    Error,
}

/// Writes a line at [`Level::Debug`].
pub fn debug(message: &str) {
    write(Level::Debug, message, &[]);
}

/// Writes a line at [`Level::Info`].
pub fn info(message: &str) {
    write(Level::Info, message, &[]);
}

/// Writes a line at [`Level::Warn`].
pub fn warn(message: &str) {
    write(Level::Warn, message, &[]);
}

/// Writes a line at [`Level::Error`].
pub fn error(message: &str) {
    write(Level::Error, message, &[]);
}

/// Writes a line with named fields.
///
/// ```
/// use mlops_plugin::log::{self, Level};
///
/// log::write(Level::Warn, "column is constant", &[("column", "age"), ("value", "0")]);
/// ```
pub fn write(level: Level, message: &str, fields: &[(&str, &str)]) {
    #[cfg(target_arch = "wasm32")]
    crate::guest::log(level, message, fields);
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::record_line(level, message, fields);
}
