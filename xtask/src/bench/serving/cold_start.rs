//! Time from the start of a server's process to its first answer.
//!
//! A client tries to connect every millisecond. Files are in the system's cache: what is measured is the programs' own
//! work. `host` is started from a bundle's folder, once with a state folder and a cache folder that are new, and again with
//! what it left there.

use std::process::Command;

use super::servers::{Maker, Servers, free_address};
use crate::bench::{fresh_folder, report};
use crate::error::Result;
use crate::session::Session;
use crate::statistics::median;
use crate::terminal;

/// Starts of `host` whose median is told; of the peers one does, which take seconds.
const STARTS: usize = 10;

pub(super) fn run(servers: &Servers<'_>) -> Result<String> {
    terminal::heading("Cold start");
    let mut rows = vec![["server", "starts", "to the first answer, s"].map(str::to_owned).to_vec()];
    let mut tell = |name: &str, starts: &[f64]| {
        let time = format!("{:.3}", median(starts));
        terminal::line(&format!("{name:30}  {time} s"));
        rows.push(vec![name.to_owned(), starts.len().to_string(), time]);
    };
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let folder = servers.model.folder.join("cold-start");
        fresh_folder(&folder)?;
        let session = Session::new(servers.layout, folder.join("state"));
        for times in [&mut first, &mut again] {
            let address = free_address()?;
            let mut command = session.host(["serve", "--endpoint", "mnist", "--model"]);
            command.arg(servers.model.folder.join("bundle"));
            command.args(["--port", &address.port().to_string()]).env("XDG_CACHE_HOME", folder.join("cache"));
            times.push(start(servers, &mut command, address)?);
        }
    }
    tell("host, first start", &first);
    tell("host, with what it has cached", &again);
    for maker in servers.makers().into_iter().filter(|maker| *maker != Maker::Host) {
        let running = servers.start(maker)?;
        let time = running.first_answer.as_secs_f64();
        running.server.stop()?;
        tell(maker.name(), &[time]);
    }
    Ok(report::table(&rows, 0))
}

/// Starts and stops `host`; gives the seconds to its first answer.
fn start(servers: &Servers<'_>, command: &mut Command, address: std::net::SocketAddr) -> Result<f64> {
    let running = servers.answering(Maker::Host, command, address, address, "/serve/mnist")?;
    let time = running.first_answer.as_secs_f64();
    running.server.stop()?;
    Ok(time)
}
