//! Waits for a process with everything that it may do instead of ending: print without end, hang, leave others behind.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};

use super::told::Told;
use super::{Cancel, Log};

/// How often it is looked whether somebody said stop.
const CANCEL_INTERVAL: Duration = Duration::from_millis(100);

/// How often it is looked whether a process has ended where nothing tells it.
const END_INTERVAL: Duration = Duration::from_millis(10);

/// Time for what is still in the pipes when the process has ended but others hold them open.
const DRAIN: Duration = Duration::from_millis(200);

/// How a process is waited for.
pub struct Waiting<'a> {
    /// Time to its end; none if it may take as long as it wants.
    pub timeout: Option<Duration>,
    /// Time that it has to end by itself when it is told to.
    pub grace: Duration,
    /// Bytes of its standard output that are kept apart; where that is 0, it belongs to the log.
    pub answer_max_bytes: usize,
    /// Says that it should end.
    pub cancel: &'a Cancel,
    /// Takes the lines by which a program of this host says how far it is, which are then no part of the log; none where they
    /// are nothing special.
    pub progress: Option<&'a mut dyn FnMut(String)>,
    /// Takes what belongs to the log, as it is printed.
    pub printed: &'a mut dyn FnMut(&[u8]),
    /// Is called again and again, several times a second, and once at the end; tells the process to end when it breaks.
    pub tick: &'a mut dyn FnMut() -> ControlFlow<()>,
}

/// What became of a process.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Why it was told to.
    pub stopped: Option<Stopped>,
    /// The beginning of its standard output, where that was to be kept.
    pub answer: Vec<u8>,
    /// Its standard output was longer than what is kept.
    pub answer_cut: bool,
    /// What it printed.
    pub log: Log,
}

/// Why a process was told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It took too long.
    TimedOut,
    /// Somebody said stop.
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
pub fn wait(mut child: Child, waiting: Waiting<'_>) -> std::io::Result<Ended> {
    let group = Pid::from_child(&child);
    // Kernels before 5.3 have none, and some sandboxes of containers refuse it.
    let ended = pidfd_open(group, PidfdFlags::empty()).ok();
    let waited = wait_in_group(&mut child, group, ended.as_ref(), waiting);
    // Also where the child has ended: what it started must not go on, and neither must anything after an error.
    let _ = kill_process_group(group, Signal::KILL);
    if waited.is_err() {
        let _ = child.wait();
    }
    waited
}

/// Of `ended` there is something to read when the child has ended; without it, it is looked often.
fn wait_in_group(
    child: &mut Child,
    group: Pid,
    ended: Option<&OwnedFd>,
    waiting: Waiting<'_>,
) -> std::io::Result<Ended> {
    let Waiting { timeout, grace, answer_max_bytes, cancel, mut progress, printed, tick } = waiting;
    let mut output = Pipe::new(child.stdout.take())?;
    let mut errors = Pipe::new(child.stderr.take())?;
    let (mut answer, mut answer_cut, mut log, mut told) =
        (Vec::new(), false, Log::default(), Told::default());
    let mut read = |output: &mut Pipe, errors: &mut Pipe| {
        let mut note = |bytes: &[u8]| {
            log.add(bytes);
            printed(bytes);
        };
        output.drain(|bytes| {
            if answer_max_bytes == 0 {
                return note(bytes);
            }
            let kept = bytes.len().min(answer_max_bytes - answer.len());
            answer.extend_from_slice(bytes.get(..kept).unwrap_or_default());
            answer_cut |= kept < bytes.len();
        });
        // After the output that came with them: the last line is to be the one that says what went wrong.
        match &mut progress {
            None => errors.drain(&mut note),
            Some(progress) => errors.drain(|bytes| told.split(bytes, &mut note, &mut **progress)),
        }
    };
    let started = Instant::now();
    let mut stopped = None;
    let mut kill_at = None;
    let mut is_wanted = true;
    loop {
        let now = Instant::now();
        let reason = match timeout {
            _ if cancel.is_cancelled() || !is_wanted => Some(Stopped::Cancelled),
            Some(timeout) if now.duration_since(started) >= timeout => Some(Stopped::TimedOut),
            _ => None,
        };
        if let (Some(reason), None) = (reason, stopped) {
            stopped = Some(reason);
            kill_at = Some(now + grace);
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
        let patience = if ended.is_some() { patience } else { patience.min(END_INTERVAL) };
        let is_told = wait_for(&[ended.map(AsFd::as_fd), fd(&output), fd(&errors)], patience)?;
        let has_ended = is_told || ended.is_none() && has_ended(group)?;
        read(&mut output, &mut errors);
        is_wanted &= tick().is_continue();
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

/// Whether a child has ended. It stays to be waited for, so that nothing else gets its number.
fn has_ended(child: Pid) -> std::io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::Pid(child), options)?.is_some())
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

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    use super::*;

    fn ended(script: &str, timeout: Duration) -> Ended {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let waiting = Waiting {
            timeout: Some(timeout),
            grace: Duration::ZERO,
            answer_max_bytes: 100,
            cancel: &Cancel::default(),
            progress: None,
            printed: &mut |_| {},
            tick: &mut || ControlFlow::Continue(()),
        };
        let group = Pid::from_child(&child);
        wait_in_group(&mut child, group, None, waiting).unwrap()
    }

    #[test]
    fn a_process_is_waited_for_where_nothing_tells_its_end() {
        let patience = Duration::from_secs(600);
        let Ended { status, stopped, answer, log, .. } =
            ended("echo answer; sleep 0.1; echo why >&2; exit 7", patience);
        assert_eq!((status.code(), stopped, answer.as_slice()), (Some(7), None, &b"answer\n"[..]));
        assert_eq!(log.last_line().as_deref(), Some("why"));
        assert_eq!(ended("exec >&- 2>&-; sleep 0.1; exit 7", patience).status.code(), Some(7));
        let slow = ended("sleep 600", Duration::from_millis(10));
        assert_eq!((slow.stopped, slow.status.success()), (Some(Stopped::TimedOut), false));
    }
}
