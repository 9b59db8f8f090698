//! What a request costs the server where its client never sleeps: waking a thread on another core is work of the core that has
//! something for it, so that elsewhere a server pays for its client's sleep.
//!
//! Where there are two cores the server has one of them and the client the other. Clients on machines of their own are woken by their own
//! cores, too.

use std::time::Duration;

use super::servers::{HostSubject, Maker, Servers};
use crate::bench::cores::keep_to;
use crate::bench::cpu::CpuClock;
use crate::bench::generator::{self, Pace};
use crate::bench::report;
use crate::error::Result;
use crate::statistics::median;
use crate::terminal;

/// How many ask at once.
const CONNECTIONS: [u32; 3] = [1, 2, 8];

/// A round of one form over so many connections.
struct Sample {
    name: &'static str,
    connections: u32,
    per_second: f64,
    p50_ms: f64,
    cpu_us: f64,
}

pub(super) fn run(servers: &Servers<'_>, seconds: u32, rounds: u32) -> Result<String> {
    terminal::heading("Clients that do not sleep");
    let apart = servers.apart()?;
    let running = apart.start(Maker::Host)?;
    let clock = CpuClock::new()?;
    let process = running.server.id();
    let mut samples = Vec::new();
    for _ in 0..rounds {
        for connections in CONNECTIONS {
            for HostSubject { name, form, path } in apart.subjects(&running)? {
                let requests = form.requests(running.address(form), path, &servers.model.images);
                let before = clock.read(process)?;
                let duration = Duration::from_secs(seconds.into());
                let outcome = generator::run(
                    running.server.address(),
                    &requests,
                    connections,
                    Pace::Sleepless,
                    duration,
                )?
                .without_errors(name)?;
                let spent = clock.read(process)?.saturating_sub(before);
                let cpu_us = spent.as_secs_f64() * 1e6 / outcome.answered() as f64;
                let (per_second, p50_ms) = (outcome.per_second(), outcome.percentile_ms(50.0));
                terminal::line(&format!(
                    "{connections:>3} connections  {name:14}  {per_second:>8.0} requests/s  {cpu_us:>6.1} µs CPU"
                ));
                samples.push(Sample { name, connections, per_second, p50_ms, cpu_us });
            }
        }
    }
    running.server.stop()?;
    keep_to(servers.cores.of_load())?;
    Ok(summary(&samples))
}

fn summary(samples: &[Sample]) -> String {
    let head = ["connections", "asked by", "requests/s", "p50, ms", "CPU a request, µs"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (index, sample) in samples.iter().enumerate() {
        let is_same = |other: &&Sample| (other.name, other.connections) == (sample.name, sample.connections);
        // Those of later rounds are in the medians of the first.
        if samples.iter().take(index).any(|other| is_same(&other)) {
            continue;
        }
        let medians = |value: fn(&Sample) -> f64| {
            median(&samples.iter().filter(is_same).map(value).collect::<Vec<_>>())
        };
        rows.push(vec![
            sample.connections.to_string(),
            sample.name.to_owned(),
            format!("{:.0}", medians(|sample| sample.per_second)),
            format!("{:.3}", medians(|sample| sample.p50_ms)),
            format!("{:.1}", medians(|sample| sample.cpu_us)),
        ]);
    }
    report::table(&rows, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_medians_of_each() {
        let sample =
            |name, connections, cpu_us| Sample { name, connections, per_second: 9e3, p50_ms: 0.05, cpu_us };
        let samples = [("JSON", 1, 40.0), ("constant", 1, 9.0), ("JSON", 8, 30.0), ("JSON", 1, 42.0)];
        let text = summary(&samples.map(|(name, connections, cpu_us)| sample(name, connections, cpu_us)));
        assert!(text.contains("| 1 | JSON | 9000 | 0.050 | 41.0 |\n| 1 | constant |"), "{text}");
        assert_eq!(text.lines().count(), 5, "{text}");
    }
}
