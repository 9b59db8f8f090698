use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use console::Term;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::super::listener::{listen, stop_signal};
use super::super::output::Output;
use super::super::server::routes;
use crate::process::Cancel;
use crate::registry::Registry;
use crate::server::{AllowedHosts, Guarded};
use crate::track::Tracker;
use crate::train::Surroundings;

/// What is there for programs while they train: a server of the runs, on this machine alone, and the end of their work
/// when this program is told to stop.
pub(in crate::cli) struct ProgramSupport {
    url: String,
    cancel: Arc<Cancel>,
    tasks: [JoinHandle<()>; 2],
}

impl ProgramSupport {
    /// Opens the server at any free port.
    pub(in crate::cli) fn start(runtime: &Runtime, tracker: Tracker) -> anyhow::Result<Self> {
        let cancel = Arc::new(Cancel::default());
        let stopping = Arc::clone(&cancel);
        let _context = runtime.enter();
        let stop = stop_signal()?;
        let stopped = tokio::spawn(async move {
            stop.await;
            stopping.cancel();
        });
        let ip = IpAddr::from(Ipv4Addr::LOCALHOST);
        let server = runtime.block_on(listen(ip, 0))?;
        let url = format!("http://{}", server.address());
        let hosts = AllowedHosts::new(&[], ip)?;
        let routes = Guarded::new(routes(Registry::new(tracker)), hosts);
        let served = tokio::spawn(server.run(routes, std::future::pending()));
        Ok(Self { url, cancel, tasks: [stopped, served] })
    }

    /// What the training is told of it.
    pub(in crate::cli) fn surroundings(&self) -> Surroundings<'_> {
        Surroundings { tracking_url: Some(&self.url), cancel: Some(&self.cancel), ..Surroundings::default() }
    }

    /// Whether this program was told to stop.
    pub(in crate::cli) fn is_stopping(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

impl Drop for ProgramSupport {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Whether somebody watches what a program prints.
pub(super) fn is_watched(output: &Output) -> bool {
    !output.is_quiet() && Term::stderr().is_term()
}

/// Shows what a program prints, as it is: the program is the user's own, and so may its colours be.
pub(super) fn show(bytes: &[u8]) {
    // Nothing can be done where even standard error is gone.
    let _ = std::io::stderr().lock().write_all(bytes);
}
