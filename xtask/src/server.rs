//! A server as a child process: started, awaited, and ended whatever happens.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::error::{Context as _, Error, Result};
use crate::{process, terminal};

/// A model is loaded within; Python's libraries alone take seconds.
const READY_MAX: Duration = Duration::from_secs(60);

/// Longer than the program grants to requests that are under way.
const STOP_MAX: Duration = Duration::from_secs(15);

/// A running server; dropped, it is told to stop, and killed if it does not.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts a server, which says on standard output, in a line with its URL, that it is ready. Its lines are shown if
    /// `is_shown`; what it says on standard error always is.
    pub(crate) fn start(command: &mut Command, is_shown: bool) -> Result<Self> {
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start the server")?;
        let mut server = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let stdout =
            server.child.stdout.take().ok_or_else(|| Error::new("the server has no standard output"))?;
        let (sender, receiver) = mpsc::channel();
        // Reads on after the server is ready, or it would hang at a full pipe one day.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
                if is_shown {
                    terminal::line(&line);
                }
                // Nobody listens any more once the address is known.
                let _ = sender.send(address(&line));
            }
        });
        let started = Instant::now();
        loop {
            match receiver.recv_timeout(READY_MAX.saturating_sub(started.elapsed())) {
                Ok(Some(address)) => {
                    server.address = address;
                    return Ok(server);
                }
                Ok(None) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    return Err(Error::new(format!(
                        "the server was not ready within {}: see what `{}` says",
                        terminal::duration(READY_MAX),
                        process::display(command)
                    )));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = server.child.wait().context("wait for the server")?;
                    return Err(Error::new(format!("the server ended before it was ready, with {status}")));
                }
            }
        }
    }

    /// Starts a server that will listen on `address`, and does not wait for it.
    pub(crate) fn spawn(command: &mut Command, address: SocketAddr) -> Result<Self> {
        Ok(Self { child: command.stdin(Stdio::null()).spawn().context("start the server")?, address })
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("look after the server")
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to stop, as an operator would, and waits until it has; gives how it ended.
    pub(crate) fn stop(mut self) -> Result<ExitStatus> {
        match self.terminate()? {
            Some(status) => Ok(status),
            None => Err(Error::new(format!(
                "the server did not stop within {} of SIGTERM",
                terminal::duration(STOP_MAX)
            ))),
        }
    }

    /// How it ended within the time that it has for that.
    fn terminate(&mut self) -> Result<Option<ExitStatus>> {
        let id = self.child.id().to_string();
        // The shell's own `kill`: small systems have no other.
        process::run(Command::new("sh").args(["-c", "kill -TERM \"$0\"", &id]), "stop the server")?;
        let started = Instant::now();
        while started.elapsed() < STOP_MAX {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(None)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.ended(), Ok(Some(_))) {
            return;
        }
        // Killed at once, one that has processes of its own would leave them behind.
        let _ = self.terminate();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in the URL of a line such as `ready: POST http://127.0.0.1:8080/serve/mnist`.
fn address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("http://")?;
    rest.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Result<Server> {
        Server::start(Command::new("sh").args(["-c", script]), false)
    }

    #[test]
    fn waits_for_the_address_and_stops() {
        let server =
            shell("echo loading; echo ready: POST http://127.0.0.1:1234/serve/m; exec sleep 60").unwrap();
        assert_eq!(server.address(), "127.0.0.1:1234".parse().unwrap());
        assert!(!server.stop().unwrap().success(), "sleep does not survive SIGTERM");
    }

    #[test]
    fn tells_of_a_server_that_ends_early() {
        let error = shell("exit 2").unwrap_err().to_string();
        assert_eq!(error, "the server ended before it was ready, with exit status: 2");
    }

    #[test]
    fn finds_the_address_in_a_line() {
        assert_eq!(address(r#"{"url":"http://[::1]:80/serve/m"}"#), Some("[::1]:80".parse().unwrap()));
        assert_eq!(address("ready: POST http://localhost/serve/m"), None);
        assert_eq!(address("loading"), None);
    }
}
