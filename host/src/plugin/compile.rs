//! Compiles components in a process of their own: what a component makes of the compiler, which is not bounded by the size of the
//! component, ends that process and no other.
//!
//! The process leaves the code in the folder of compiled code, where this one finds it. This one's engine has no compiler, so
//! what is not there is an error and not work.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::Signal;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::LoadError;
use super::code_cache::{self, CachedCode};
use super::runtime::engine_config;
use super::session::clean;
use crate::process::{self, Cancel, Ended, LimitedCommand, Stopped, Waiting, how_it_ended};

/// The hidden subcommand of this program that calls [`compile`].
const SUBCOMMAND: &str = "compile";

/// Exit code of the subcommand for what is no component; standard output has the reason.
pub const NOT_A_COMPONENT: u8 = 3;

/// Exit code of the subcommand for a component whose code is too large.
pub const CODE_TOO_LARGE: u8 = 4;

/// Compiled code of a component of no size, and how often a component's size more: three times what compilers make. It is memory of
/// whoever loads it.
const CODE_MIN_BYTES: usize = 32 * 1024 * 1024;
const CODE_BYTES_PER_BYTE: usize = 8;

/// Memory that compiling a component may take.
const MEMORY_MAX_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// Time of processors that it may take, all its threads together, and how much more for each MiB of the component: several times
/// what slow machines take for the largest ones.
const PROCESSOR_MIN_SECONDS: u64 = 120;
const PROCESSOR_SECONDS_PER_MIB: u64 = 5;

/// Time that one of no size may take by the clock, on a machine that has much else to do.
pub(super) const WALL_MAX: Duration = Duration::from_secs(300);

/// Longest reason that is read.
const REASON_MAX_BYTES: usize = 4 * 1024;

/// What Rust says last of a process that gets no memory.
const OUT_OF_MEMORY: &[u8] = b"memory allocation of ";

/// Compiles `component` by way of `host`, this program, and leaves the code in `folder`.
pub(super) fn compile_apart(host: &Path, folder: &Path, component: &[u8]) -> Result<(), LoadError> {
    let processor_seconds = processor_max_seconds(component.len());
    outcome(run(host, folder, component, processor_seconds)?, processor_seconds, component.len())
}

fn code_max_bytes(component_bytes: usize) -> usize {
    CODE_MIN_BYTES.saturating_add(component_bytes.saturating_mul(CODE_BYTES_PER_BYTE))
}

fn processor_max_seconds(component_bytes: usize) -> u64 {
    let mib = u64::try_from(component_bytes / (1024 * 1024)).unwrap_or(u64::MAX);
    PROCESSOR_MIN_SECONDS.saturating_add(mib.saturating_mul(PROCESSOR_SECONDS_PER_MIB))
}

/// As much more time by the clock as there is more of processors.
fn wall_max(processor_seconds: u64) -> Duration {
    Duration::from_secs(processor_seconds.saturating_mul(WALL_MAX.as_secs()) / PROCESSOR_MIN_SECONDS)
}

fn run(host: &Path, folder: &Path, component: &[u8], processor_seconds: u64) -> Result<Ended, LoadError> {
    let failed = |error, what: &str| LoadError::NotCompiled(format!("failed to {what}: {error}"));
    let input = input(component).map_err(|error| failed(error, "write it to memory"))?;
    let command: [OsString; 4] = [host.into(), SUBCOMMAND.into(), "--code-cache".into(), folder.into()];
    let limited = LimitedCommand {
        memory_bytes: Some(MEMORY_MAX_BYTES),
        processor_seconds: Some(processor_seconds),
        ..LimitedCommand::of_this_process(command.into())
    };
    let mut command = limited.to_command(host);
    let child = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.map_err(|error| failed(error, &format!("start `{}`", host.display())))?;
    let waiting = Waiting {
        timeout: Some(wall_max(processor_seconds)),
        grace: Duration::ZERO,
        answer_max_bytes: REASON_MAX_BYTES,
        cancel: &Cancel::default(),
        progress: None,
        printed: &mut |_| {},
        tick: &mut || ControlFlow::Continue(()),
    };
    process::wait(child, waiting).map_err(|error| failed(error, "wait for the compiler"))
}

/// A file in memory that has these bytes.
fn input(component: &[u8]) -> std::io::Result<File> {
    // Systems may want it to be told that nothing is executed there, of which kernels before 6.3 know nothing.
    let made = memfd_create("component", MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL);
    let mut input = File::from(made.or_else(|_| memfd_create("component", MemfdFlags::CLOEXEC))?);
    input.write_all(component)?;
    input.rewind()?;
    Ok(input)
}

/// Signals by which others end a process: the kernel that is short of memory, a supervisor, a terminal.
const OF_OTHERS: [Signal; 4] = [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP];

fn outcome(ended: Ended, processor_seconds: u64, component_bytes: usize) -> Result<(), LoadError> {
    let Ended { status, stopped, answer, log, .. } = ended;
    if status.success() {
        return Ok(());
    }
    let last_line = log.last_line();
    let printed = log.into_bytes();
    Err(match status.code() {
        _ if status.signal() == Some(Signal::XCPU.as_raw()) => {
            LoadError::CompileTime { max_seconds: processor_seconds }
        }
        _ if stopped == Some(Stopped::TimedOut) => {
            let waited = wall_max(processor_seconds).as_secs();
            LoadError::NotCompiled(format!(
                "the compiler had not ended after {waited} s, without {processor_seconds} s of a processor: \
                 is the machine busy?"
            ))
        }
        Some(code) if code == i32::from(CODE_TOO_LARGE) => {
            LoadError::CodeSize { max_bytes: code_max_bytes(component_bytes) }
        }
        Some(code) if code == i32::from(NOT_A_COMPONENT) => {
            LoadError::Invalid(clean(&String::from_utf8_lossy(&answer), REASON_MAX_BYTES))
        }
        _ if printed.windows(OUT_OF_MEMORY.len()).any(|text| text == OUT_OF_MEMORY) => {
            LoadError::CompileMemory { max_bytes: MEMORY_MAX_BYTES }
        }
        // It has told why.
        Some(1 | 2) => {
            let reason = last_line.unwrap_or_default();
            LoadError::NotCompiled(reason.trim_start_matches("error: ").to_owned())
        }
        _ if status.signal().is_some_and(|signal| OF_OTHERS.iter().any(|other| other.as_raw() == signal)) => {
            let how = how_it_ended(status, last_line);
            LoadError::NotCompiled(format!(
                "the compiler {how}, which was not its own doing: is there memory?"
            ))
        }
        _ => LoadError::CompilerCrash(how_it_ended(status, last_line)),
    })
}

/// Compiles `component` in this process and leaves the code in `folder` for those that cannot: what the hidden subcommand does.
///
/// # Errors
/// [`LoadError::Invalid`] for what is no component, [`LoadError::CodeSize`], and [`LoadError::NotCompiled`].
pub fn compile(folder: &Path, component: &[u8]) -> Result<(), LoadError> {
    let failed = |error: wasmtime::Error| LoadError::NotCompiled(format!("{error:#}"));
    let mut config = engine_config();
    let loading = Engine::new(config.clone().enable_compiler(false)).map_err(failed)?;
    code_cache::forbid_cleaning(folder).map_err(|error| failed(error.into()))?;
    config.cache(Some(code_cache::cache(folder).map_err(failed)?));
    let compiling = Engine::new(&config).map_err(failed)?;
    let made = CachedCode::of(folder, component, &compiling);
    let wanted = CachedCode::of(folder, component, &loading);
    made.remove_unfinished().and_then(|()| made.remove()).map_err(|error| failed(error.into()))?;
    let compiled = Component::from_binary(&compiling, component);
    let max_bytes = code_max_bytes(component.len());
    if compiled.as_ref().is_ok_and(|compiled| code_bytes(compiled) > max_bytes) {
        made.remove().map_err(|error| failed(error.into()))?;
        return Err(LoadError::CodeSize { max_bytes });
    }
    let handed_over = made.hand_over(&wanted);
    if !matches!(handed_over, Ok(true)) {
        // On a full disk it takes what room there was. The next one removes it too.
        let _ = made.remove_unfinished();
    }
    // Others remove it next time.
    let _ = wanted.trim_others();
    match (handed_over, compiled) {
        // Whether it can be used is for those to say who load it.
        (Ok(true), _) => Ok(()),
        (_, Err(error)) => Err(LoadError::Invalid(format!("{error:#}"))),
        (Ok(false), Ok(_)) => {
            Err(LoadError::NotCompiled(format!("its code could not be written to `{}`", folder.display())))
        }
        (Err(error), Ok(_)) => {
            let folder = folder.display();
            Err(LoadError::NotCompiled(format!("its code could not be kept in `{folder}`: {error}")))
        }
    }
}

/// Memory that code takes where it is loaded.
fn code_bytes(component: &Component) -> usize {
    let range = component.image_range();
    range.end.addr().saturating_sub(range.start.addr())
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;

    fn error(status: i32, answer: &str, printed: &str) -> String {
        told(status, None, answer, printed)
    }

    fn told(status: i32, stopped: Option<Stopped>, answer: &str, printed: &str) -> String {
        let mut log = process::Log::default();
        log.add(printed.as_bytes());
        let (status, answer) = (ExitStatus::from_raw(status), answer.as_bytes().to_vec());
        outcome(Ended { status, stopped, answer, answer_cut: false, log }, 130, 1).unwrap_err().to_string()
    }

    #[test]
    fn code_is_written_where_somebody_was_stopped_while_writing_it() {
        let folder = tempfile::tempdir().unwrap();
        let component = b"\0asm\x0d\0\x01\0";
        compile(folder.path(), component).unwrap();
        let version = std::fs::read_dir(folder.path().join("modules")).unwrap().next().unwrap().unwrap();
        let version = version.path();
        let engine = Engine::new(&engine_config()).unwrap();
        let unfinished = version.join(CachedCode::of(folder.path(), component, &engine).unfinished());
        std::fs::write(&unfinished, "").unwrap();
        compile(folder.path(), component).unwrap();
        assert!(!unfinished.exists());
    }

    #[test]
    fn large_components_have_more_time() {
        for (bytes, processor, wall) in [(0, 120, 300), (100_000, 120, 300), (64 << 20, 440, 1100)] {
            assert_eq!(processor_max_seconds(bytes), processor);
            assert_eq!(wall_max(processor).as_secs(), wall);
        }
    }

    #[test]
    fn what_could_not_be_done_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let host = folder.path().join("none");
        let told = compile_apart(&host, folder.path(), b"").unwrap_err().to_string();
        let start = format!("it could not be compiled: failed to start `{}`: ", host.display());
        assert!(told.starts_with(&start), "{told}");
    }

    #[test]
    fn whatever_ends_the_compiler_is_told() {
        let exited = |code: i32| code << 8;
        assert!(
            error(Signal::XCPU.as_raw(), "", "").contains("longer than the limit of 130 s of a processor")
        );
        let late = told(Signal::KILL.as_raw(), Some(Stopped::TimedOut), "", "");
        let expected = "it could not be compiled: the compiler had not ended after 325 s, without 130 s of a processor: \
                        is the machine busy?";
        assert_eq!(late, expected);
        for other in [Signal::KILL, Signal::TERM] {
            let told = error(other.as_raw(), "", "");
            assert!(
                told.starts_with("it could not be compiled: the compiler was killed by signal "),
                "{told}"
            );
        }
        let no_memory = "memory allocation of 4096 bytes failed\nstack backtrace:\n";
        assert!(
            error(Signal::ABORT.as_raw(), "", no_memory).contains("more memory than the limit of 2147483648")
        );
        let told = error(exited(4), "", "");
        assert_eq!(told, "its compiled code takes more than the limit of 33554440 bytes");
        let crash = "the compiler cannot take it: it was killed by signal 11: last words";
        assert_eq!(error(Signal::SEGV.as_raw(), "", "first\nlast words\n"), crash);
        let reason = "not a valid component: [31mbad";
        assert_eq!(error(exited(3), "\x1b[31mbad\n", ""), reason);
        assert_eq!(error(exited(1), "", "error: no disk\n"), "it could not be compiled: no disk");
        let panicked = "the compiler cannot take it: it exited with code 101: thread panicked";
        assert_eq!(error(exited(101), "", "thread panicked\n"), panicked);
    }
}
