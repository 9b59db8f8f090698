//! One image over HTTP: the program, the same server answering a constant, and FastAPI with the same model.
//!
//! All three run all the time and are asked by turns, so that what else the machine does hits them alike. What is told
//! is the median of the rounds.

use std::path::Path;
use std::process::Command;

use super::cpu::CpuClock;
use super::load::{self, Load, Script};
use super::model::ServedModel;
use super::{peer_python, report};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::server::Server;
use crate::session;
use crate::setup::{self, Scope, Tool};
use crate::statistics::median;
use crate::terminal;

/// Connections at once.
const CONNECTIONS: [u32; 3] = [1, 8, 64];

/// Answers of program and peer that are compared before anything is measured.
const COMPARED: usize = 100;

/// Two libraries' softmax may differ in the last bits.
const PROBABILITY_DIFFERENCE_MAX: f64 = 1e-6;

/// What is asked, and the process that answers.
struct Subject<'a> {
    name: &'static str,
    path: &'static str,
    server: &'a Server,
}

/// A run of the load generator.
struct Sample {
    connections: u32,
    subject: usize,
    load: Load,
    cpu_us: f64,
}

pub(super) fn run(layout: &Layout, seconds: u32, rounds: u32) -> Result<()> {
    setup::run(layout, Scope::Demo)?;
    setup::ensure_tools(&[Tool::WRK])?;
    let python = peer_python(layout)?;
    let ServedModel { session, folder, bodies, bodies_file } = ServedModel::ensure(layout)?;

    terminal::heading("Starting the servers");
    let mut serve = session.host(["serve", "--model", "mnist", "--port", "0", "--constant-endpoint"]);
    let host = Server::start(&mut serve, true)?;
    let mut peer = Command::new(python);
    peer.arg(layout.root().join("benches/python/serving_peer.py")).arg(folder.join("bundle"));
    let peer = Server::start(&mut peer, true)?;
    let subjects = [
        Subject { name: "host", path: "/serve/mnist", server: &host },
        Subject { name: "constant", path: "/constant", server: &host },
        Subject { name: "FastAPI", path: "/serve/mnist", server: &peer },
    ];
    let compared = bodies.get(..COMPARED).unwrap_or(&bodies);
    compare(&subjects, compared)?;

    terminal::heading("Measuring");
    let samples = measure(layout, &subjects, &bodies_file, seconds, rounds)?;
    host.stop()?;
    peer.stop()?;
    let result = summary(&samples, &["host", "constant", "FastAPI"]);
    terminal::line(&format!("\n{result}"));
    let command = format!("cargo xtask bench serving --seconds {seconds} --rounds {rounds}");
    report::write(layout, "serving", &command, &result)
}

/// Sees that the peer does the same work, or its time would say nothing.
fn compare(subjects: &[Subject<'_>; 3], bodies: &[Vec<u8>]) -> Result<()> {
    let [ours, _, theirs] = subjects;
    let ask = |subject: &Subject<'_>| session::classify(subject.server.address(), subject.path, bodies);
    let (ours, theirs) = (ask(ours)?, ask(theirs)?);
    let is_close = |(a, b): (&f64, &f64)| (a - b).abs() <= PROBABILITY_DIFFERENCE_MAX;
    if ours.labels != theirs.labels || !ours.probabilities.iter().zip(&theirs.probabilities).all(is_close) {
        return Err(Error::new(
            "host and its Python peer answer differently: see benches/python/serving_peer.py",
        ));
    }
    terminal::line(&format!("{} answers are the same to {PROBABILITY_DIFFERENCE_MAX:e}", bodies.len()));
    Ok(())
}

fn measure(
    layout: &Layout,
    subjects: &[Subject<'_>],
    bodies: &Path,
    seconds: u32,
    rounds: u32,
) -> Result<Vec<Sample>> {
    let clock = CpuClock::new()?;
    let url = |subject: &Subject<'_>| format!("http://{}{}", subject.server.address(), subject.path);
    for subject in subjects {
        load::run(layout, Script::Rotate, &url(subject), bodies, 8, 1)?;
    }
    let mut samples = Vec::new();
    for round in 1..=rounds {
        for connections in CONNECTIONS {
            for (index, subject) in subjects.iter().enumerate() {
                let before = clock.read(subject.server.id())?;
                let load = load::run(layout, Script::Rotate, &url(subject), bodies, connections, seconds)?;
                let spent = clock.read(subject.server.id())?.saturating_sub(before);
                let cpu_us = spent.as_secs_f64() * 1e6 / load.requests as f64;
                terminal::line(&format!(
                    "round {round}  {connections:>2} connections  {:8}  {:>8.0} requests/s  {cpu_us:>6.1} µs CPU",
                    subject.name, load.requests_per_second
                ));
                samples.push(Sample { connections, subject: index, load, cpu_us });
            }
        }
    }
    Ok(samples)
}

/// Medians, and what they are relative to each other.
fn summary(samples: &[Sample], names: &[&str; 3]) -> String {
    let medians = |connections: u32, subject: usize, value: fn(&Sample) -> f64| {
        let chosen =
            samples.iter().filter(|sample| (sample.connections, sample.subject) == (connections, subject));
        median(&chosen.map(value).collect::<Vec<_>>())
    };
    let rate = |sample: &Sample| sample.load.requests_per_second;
    let head = ["connections", "server", "requests/s", "p50, ms", "p99, ms", "CPU a request, µs"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let head = [
        "connections",
        "",
        "share of the constant's requests/s",
        "times FastAPI's requests/s",
        "FastAPI's CPU, times",
    ];
    let mut ratios = vec![head.map(str::to_owned).to_vec()];
    for connections in CONNECTIONS {
        for (subject, name) in names.iter().enumerate() {
            rows.push(vec![
                connections.to_string(),
                (*name).to_owned(),
                format!("{:.0}", medians(connections, subject, rate)),
                format!("{:.2}", medians(connections, subject, |sample| sample.load.p50_ms)),
                format!("{:.2}", medians(connections, subject, |sample| sample.load.p99_ms)),
                format!("{:.1}", medians(connections, subject, |sample| sample.cpu_us)),
            ]);
        }
        let of = |subject| medians(connections, subject, rate);
        let cpu = |subject| medians(connections, subject, |sample| sample.cpu_us);
        ratios.push(vec![
            connections.to_string(),
            "host".to_owned(),
            format!("{:.0} %", 100.0 * of(0) / of(1)),
            format!("{:.0}", of(0) / of(2)),
            format!("{:.0}", cpu(2) / cpu(0)),
        ]);
    }
    format!("{}\n{}", report::table(&rows, 1), report::table(&ratios, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_medians_and_ratios() {
        let sample = |subject, requests_per_second, cpu_us| {
            let load = Load { requests: 1, requests_per_second, p50_ms: 0.1, p95_ms: 0.3, p99_ms: 0.5 };
            CONNECTIONS.map(|connections| Sample { connections, subject, load, cpu_us })
        };
        let samples: Vec<Sample> =
            [(0, 10.0, 60.0), (0, 30.0, 50.0), (0, 20.0, 40.0), (1, 25.0, 30.0), (2, 2.0, 500.0)]
                .into_iter()
                .flat_map(|(subject, rate, cpu)| sample(subject, rate, cpu))
                .collect();
        let text = summary(&samples, &["a", "b", "c"]);
        assert!(text.contains("| 8 | a | 20 | 0.10 | 0.50 | 50.0 |"), "{text}");
        assert!(text.contains("| 8 | host | 80 % | 10 | 10 |"), "{text}");
    }
}
