//! Memory of the servers when idle and under load, and of `host` with many endpoints.
//!
//! `host` serves bundles from their folders, with a state folder that is new: rows that it kept of another bench would
//! count as its own.

use std::time::Duration;

use serde_json::Value;

use super::form::Form;
use super::servers::{Maker, Running, Servers};
use crate::bench::cpu::{CpuClock, Resident, resident};
use crate::bench::generator::{self, Pace, Requests};
use crate::bench::model::SMALL_VERSIONS;
use crate::bench::{fresh_folder, report};
use crate::error::{Context as _, Result};
use crate::session::Session;
use crate::terminal;

/// Connections that ask.
const CONNECTIONS: u32 = 64;

/// Endpoints of a server with many.
const ENDPOINTS: usize = 50;

/// A server has nothing to do any more when it computes less than a fifth of that.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// A server's memory.
struct Measured {
    name: String,
    /// Before the load, and after it with the most that there was.
    idle: Resident,
    loaded: Resident,
    /// Of the files of its models.
    models_mib: f64,
}

pub(super) fn run(servers: &Servers<'_>, seconds: u32) -> Result<String> {
    terminal::heading("Memory");
    let mnist_mib = servers.model.file_bytes("mnist")? as f64 / 1024.0 / 1024.0;
    let mut measured = Vec::new();
    for maker in servers.makers() {
        let running = match maker {
            Maker::Host => {
                let bundle = servers.model.folder.join("bundle");
                let bundle = format!("mnist={}", bundle.display());
                start_host(servers, ["--model", &bundle], Form::Json.path())?
            }
            _ => servers.start(maker)?,
        };
        let form = maker.forms().first().copied().unwrap_or(Form::Json);
        let requests = form.requests(running.address(form), form.path(), &servers.model.images);
        measured.push(measure(running, maker.name().to_owned(), &requests, mnist_mib, seconds)?);
    }
    servers.model.ensure_small()?;
    let small = (1..=SMALL_VERSIONS).map(|version| format!("small@{version}"));
    let different: Vec<String> = std::iter::once("mnist@1".to_owned()).chain(small).collect();
    for models in [different.get(..1).unwrap_or_default(), &different] {
        let name = match models.len() {
            1 => format!("host, {ENDPOINTS} endpoints of one model"),
            count => format!("host, {ENDPOINTS} endpoints of {count} models"),
        };
        let bytes = models.iter().map(|model| servers.model.file_bytes(model)).sum::<Result<u64>>()?;
        let (running, requests) = many_endpoints(servers, models)?;
        measured.push(measure(running, name, &requests, bytes as f64 / 1024.0 / 1024.0, seconds)?);
    }
    Ok(summary(&measured))
}

fn start_host(servers: &Servers<'_>, options: [&str; 2], path: &str) -> Result<Running> {
    let folder = servers.model.folder.join("memory");
    fresh_folder(&folder)?;
    servers.start_host(&Session::new(servers.layout, folder.join("state")), options, path)
}

/// Starts `host` with endpoints that take turns among `models`; gives requests for all of them too.
fn many_endpoints(servers: &Servers<'_>, models: &[String]) -> Result<(Running, Requests)> {
    let bundles = models.iter().map(|model| servers.model.bundle(model)).collect::<Result<Vec<_>>>()?;
    let endpoints = (0..ENDPOINTS).zip(bundles.iter().cycle());
    let lines = endpoints.map(|(index, bundle)| {
        // JSON is YAML, too.
        let bundle = Value::from(bundle.to_string_lossy());
        format!("  digits-{index}: {{ model: {bundle} }}\n")
    });
    let text = format!("version: 1\nendpoints:\n{}", lines.collect::<String>());
    let file = servers.model.folder.join("endpoints.yaml");
    std::fs::write(&file, text).context(format_args!("write `{}`", file.display()))?;
    let running = start_host(servers, ["--endpoints", &file.to_string_lossy()], "/serve/digits-0")?;
    let address = running.server.address();
    let mut all = Form::Json.requests(address, "", &[]);
    for (index, image) in servers.model.images.iter().enumerate() {
        let path = format!("/serve/digits-{}", index % ENDPOINTS);
        all.messages.extend(Form::Json.requests(address, &path, std::slice::from_ref(image)).messages);
    }
    Ok((running, all))
}

/// Measures a server before and after load, and stops it.
fn measure(
    running: Running,
    name: String,
    requests: &Requests,
    models_mib: f64,
    seconds: u32,
) -> Result<Measured> {
    let clock = CpuClock::new()?;
    let process = running.server.id();
    clock.wait_until_idle(process, IDLE_INTERVAL)?;
    let idle = resident(process)?;
    let duration = Duration::from_secs(seconds.into());
    let address = running.server.address();
    generator::run(address, requests, CONNECTIONS, Pace::Full, duration)?.without_errors(&name)?;
    let loaded = resident(process)?;
    running.server.stop()?;
    terminal::line(&format!(
        "{name:34}  {:>4.0} MiB idle  {:>4.0} MiB at most",
        idle.now_mib, loaded.most_mib
    ));
    Ok(Measured { name, idle, loaded, models_mib })
}

fn summary(measured: &[Measured]) -> String {
    let head = [
        "server",
        "idle, MiB",
        "after load, MiB",
        "at most, MiB",
        "models' files, MiB",
        "at most without them, MiB",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for Measured { name, idle, loaded, models_mib } in measured {
        let most = loaded.most_mib;
        let numbers = [idle.now_mib, loaded.now_mib, most, *models_mib, most - models_mib];
        let mut row = vec![name.clone()];
        row.extend(numbers.map(|mebibytes| format!("{mebibytes:.0}")));
        rows.push(row);
    }
    report::table(&rows, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_is_left_without_the_models() {
        let idle = Resident { now_mib: 40.0, most_mib: 41.0 };
        let loaded = Resident { now_mib: 60.0, most_mib: 70.0 };
        let text = summary(&[Measured { name: "host".to_owned(), idle, loaded, models_mib: 3.0 }]);
        assert!(text.contains("| host | 40 | 60 | 70 | 3 | 67 |"), "{text}");
    }
}
