//! Child processes: run, read, time out, and show as a user would type them.

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Context as _, Error, Result};
use crate::layout::variable;

/// Characters of a line; a longer command is broken before its options.
const LINE_MAX: usize = 100;

/// How often a child with a time limit is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Runs a command that prints what it has to say; `what` completes "failed to …".
pub(crate) fn run(command: &mut Command, what: &str) -> Result<()> {
    let status = status(command, what)?;
    if status.success() { Ok(()) } else { Err(failed(command, what, status)) }
}

/// Runs a command whose exit code says something.
pub(crate) fn status(command: &mut Command, what: &str) -> Result<ExitStatus> {
    command.status().map_err(|error| not_started(command, what, &error))
}

/// Runs a command and takes its standard output; what it says on standard error is passed on.
pub(crate) fn read(command: &mut Command, what: &str) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| not_started(command, what, &error))?;
    if output.status.success() { Ok(output.stdout) } else { Err(failed(command, what, output.status)) }
}

/// Runs a command and takes its standard output as text, trimmed.
pub(crate) fn read_text(command: &mut Command, what: &str) -> Result<String> {
    let text = String::from_utf8(read(command, what)?).context(what)?;
    Ok(text.trim().to_owned())
}

/// Runs a command that prints JSON and takes that.
pub(crate) fn read_json(command: &mut Command, what: &str) -> Result<serde_json::Value> {
    let printed = read(command, what)?;
    serde_json::from_slice(&printed).context(format_args!("{what} (what it printed is no JSON)"))
}

/// Whether a command can be started and succeeds; it is not heard.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    silent.status().is_ok_and(|status| status.success())
}

/// Runs a command, and kills it when the time is over; whether it succeeded within.
pub(crate) fn succeeds_within(command: &mut Command, limit: Duration) -> bool {
    let Ok(mut child) = command.stdin(Stdio::null()).spawn() else { return false };
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if started.elapsed() < limit => std::thread::sleep(POLL),
            Ok(None) | Err(_) => {
                // Nothing is left to be done for a child that can be neither killed nor waited for.
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}

/// A command as a user would type it, broken into lines where it is long.
pub(crate) fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let mut groups: Vec<String> = Vec::new();
    for word in words.map(|word| quoted(&word.to_string_lossy())) {
        match groups.last_mut() {
            Some(group) if !word.starts_with("--") => {
                group.push(' ');
                group.push_str(&word);
            }
            _ => groups.push(word),
        }
    }
    let mut lines: Vec<String> = Vec::new();
    for group in groups {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + group.chars().count() <= LINE_MAX => {
                line.push(' ');
                line.push_str(&group);
            }
            _ => lines.push(group),
        }
    }
    lines.join(" \\\n    ")
}

/// A path as a user would type it.
pub(crate) fn display_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// A word that a shell reads as it is; the home folder becomes `~`.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./~-".contains(c);
    if word.is_empty() || !word.chars().all(is_plain) {
        return format!("'{}'", word.replace('\'', r"'\''"));
    }
    let home = variable("HOME").map(|home| home.to_string_lossy().into_owned()).unwrap_or_default();
    match word.strip_prefix(home.as_str()) {
        Some(rest) if home.len() > 1 && rest.starts_with('/') => format!("~{rest}"),
        _ => word.to_owned(),
    }
}

fn failed(command: &Command, what: &str, status: ExitStatus) -> Error {
    Error::new(format!("failed to {what}: `{}` ended with {status}", one_line(command)))
}

fn not_started(command: &Command, what: &str, error: &std::io::Error) -> Error {
    Error::new(format!("failed to {what}: `{}` could not be started: {error}", one_line(command)))
}

fn one_line(command: &Command) -> String {
    display(command).replace(" \\\n    ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_read_as_typed() {
        let mut short = Command::new("host");
        short.args(["train", "--name", "it's", "--set", "max_depth=6"]);
        assert_eq!(display(&short), r"host train --name 'it'\''s' --set max_depth=6");
        let long = format!("/{}", "x".repeat(80));
        short.args(["--preprocess", &long]);
        let text = format!("host train --name 'it'\\''s' --set max_depth=6 \\\n    --preprocess {long}");
        assert_eq!(display(&short), text);
    }

    #[test]
    fn failures_name_the_command() {
        let error = run(Command::new("sh").args(["-c", "exit 7"]), "try").unwrap_err().to_string();
        assert_eq!(error, "failed to try: `sh -c 'exit 7'` ended with exit status: 7");
        let error = run(&mut Command::new("/does/not/exist"), "try").unwrap_err().to_string();
        assert!(error.starts_with("failed to try: `/does/not/exist` could not be started: "), "{error}");
    }

    #[test]
    fn a_child_that_hangs_is_ended() {
        let started = Instant::now();
        assert!(!succeeds_within(Command::new("sleep").arg("60"), Duration::from_millis(100)));
        assert!(started.elapsed() < Duration::from_secs(30));
        assert!(succeeds_within(&mut Command::new("true"), Duration::from_secs(30)));
    }
}
