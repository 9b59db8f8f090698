//! Waits for a process with everything that it may do instead of ending: print without end, hang, leave others behind.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::Cancel;
use super::log::Log;
use super::told::Told;

/// How often it is looked whether somebody said stop.
const CANCEL_INTERVAL: Duration = Duration::from_millis(100);

/// Time that a process has to end by itself when it is told to.
const GRACE: Duration = Duration::from_secs(2);

/// Time for what is still in the pipes when the process has ended but others hold them open.
const DRAIN: Duration = Duration::from_millis(200);

/// What became of a process.
pub(super) struct Ended {
    /// How it ended.
    pub(super) status: ExitStatus,
    /// Why it was told to.
    pub(super) stopped: Option<Stopped>,
    /// The beginning of its standard output, where that was to be kept.
    pub(super) answer: Vec<u8>,
    /// Its standard output was longer than what is kept.
    pub(super) answer_cut: bool,
    /// What it printed.
    pub(super) log: Log,
}

/// What a program of this host says beside its log.
pub(super) struct Answers<'a> {
    /// Bytes of its standard output that are kept as its answer.
    pub(super) max_bytes: usize,
    /// Is told how far it is.
    pub(super) progress: &'a mut dyn FnMut(String),
}

/// Why a process was told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    TimedOut,
    Cancelled,
}

/// A pipe of a process; none when it has ended.
struct Pipe(Option<File>);

impl Pipe {
    fn new(pipe: Option<impl Into<OwnedFd>>) -> std::io::Result<Self> {
        let Some(pipe) = pipe else { return Ok(Self(None)) };
        let pipe: OwnedFd = pipe.into();
        let flags = rustix::fs::fcntl_getfl(&pipe)?;
        rustix::fs::fcntl_setfl(&pipe, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self(Some(File::from(pipe))))
    }

    /// Hands on what is there.
    fn drain(&mut self, mut take: impl FnMut(&[u8])) {
        let mut buffer = [0; 64 * 1024];
        // A process that prints faster than this reads must not keep the others waiting.
        for _ in 0..16 {
            let Some(file) = &mut self.0 else { return };
            match file.read(&mut buffer) {
                Ok(0) => self.0 = None,
                Ok(count) => take(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.0 = None,
            }
        }
    }
}

/// Waits until `child` has ended; it leads a process group, none of which is left then.
///
/// All that it prints belongs to the log, unless it is one that `answers`.
pub(super) fn wait(
    mut child: Child,
    timeout: Option<Duration>,
    answers: Option<Answers<'_>>,
    cancel: &Cancel,
) -> std::io::Result<Ended> {
    let group = Pid::from_child(&child);
    let waited = wait_in_group(&mut child, group, timeout, answers, cancel);
    // Also where the child has ended: what it started must not go on, and neither must anything after an error.
    let _ = kill_process_group(group, Signal::KILL);
    if waited.is_err() {
        let _ = child.wait();
    }
    waited
}

fn wait_in_group(
    child: &mut Child,
    group: Pid,
    timeout: Option<Duration>,
    mut answers: Option<Answers<'_>>,
    cancel: &Cancel,
) -> std::io::Result<Ended> {
    let ended = pidfd_open(group, PidfdFlags::empty())?;
    let mut output = Pipe::new(child.stdout.take())?;
    let mut errors = Pipe::new(child.stderr.take())?;
    let (mut answer, mut answer_cut, mut log, mut told) =
        (Vec::new(), false, Log::default(), Told::default());
    let mut read = |output: &mut Pipe, errors: &mut Pipe| match &mut answers {
        None => [errors, output].into_iter().for_each(|pipe| pipe.drain(|bytes| log.add(bytes))),
        Some(answers) => {
            errors.drain(|bytes| told.split(bytes, |bytes| log.add(bytes), &mut answers.progress));
            output.drain(|bytes| {
                let kept = bytes.len().min(answers.max_bytes - answer.len());
                answer.extend_from_slice(bytes.get(..kept).unwrap_or_default());
                answer_cut |= kept < bytes.len();
            });
        }
    };
    let started = Instant::now();
    let mut stopped = None;
    let mut kill_at = None;
    loop {
        let now = Instant::now();
        let reason = match timeout {
            _ if cancel.is_cancelled() => Some(Stopped::Cancelled),
            Some(timeout) if now.duration_since(started) >= timeout => Some(Stopped::TimedOut),
            _ => None,
        };
        if let (Some(reason), None) = (reason, stopped) {
            stopped = Some(reason);
            kill_at = Some(now + GRACE);
            let _ = kill_process_group(group, Signal::TERM);
        }
        if kill_at.is_some_and(|at| now >= at) {
            kill_at = None;
            let _ = kill_process_group(group, Signal::KILL);
        }
        let until_timeout = timeout.map(|timeout| timeout.saturating_sub(now.duration_since(started)));
        let patience = match stopped {
            Some(_) => CANCEL_INTERVAL,
            None => until_timeout.map_or(CANCEL_INTERVAL, |left| left.min(CANCEL_INTERVAL)),
        };
        let has_ended = wait_for(&[Some(ended.as_fd()), fd(&output), fd(&errors)], patience)?;
        read(&mut output, &mut errors);
        if has_ended {
            break;
        }
    }
    // The last words; whoever else holds the pipes is not waited for.
    let drain_until = Instant::now() + DRAIN;
    while (output.0.is_some() || errors.0.is_some()) && Instant::now() < drain_until {
        let _ = kill_process_group(group, Signal::KILL);
        wait_for(&[None, fd(&output), fd(&errors)], Duration::from_millis(20))?;
        read(&mut output, &mut errors);
    }
    Ok(Ended { status: child.wait()?, stopped, answer, answer_cut, log })
}

fn fd(pipe: &Pipe) -> Option<std::os::fd::BorrowedFd<'_>> {
    pipe.0.as_ref().map(AsFd::as_fd)
}

/// Waits until one of them has something; says whether the first has.
fn wait_for(of: &[Option<std::os::fd::BorrowedFd<'_>>; 3], patience: Duration) -> std::io::Result<bool> {
    let mut polled: Vec<PollFd<'_>> =
        of.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let timeout = Timespec::try_from(patience).map_err(std::io::Error::other)?;
    match poll(&mut polled, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let [first, ..] = of;
    Ok(first.is_some() && polled.first().is_some_and(|polled| !polled.revents().is_empty()))
}
