//! One image at a time, as fast as the answers come, at several numbers of connections.
//!
//! All servers run all the time and are asked by turns, so that what else the machine does hits them alike. What is told
//! is the median of the rounds.

use std::path::PathBuf;
use std::time::Duration;

use super::form::Form;
use super::servers::{Maker, Running, Servers};
use crate::bench::cpu::CpuClock;
use crate::bench::generator::{self, Pace, Requests};
use crate::bench::load::{self, Load, Script};
use crate::bench::report;
use crate::error::Result;
use crate::statistics::median;
use crate::terminal;

/// Connections at once.
const CONNECTIONS: [u32; 4] = [1, 8, 64, 512];

/// How often it is looked whether a server still works on what nobody waits for any more.
const IDLE_INTERVAL: Duration = Duration::from_millis(200);

/// What is asked, and the process that answers.
struct Subject<'a> {
    name: String,
    running: &'a Running,
    form: Form,
    is_constant: bool,
    source: Source,
}

/// Where its requests come from.
enum Source {
    Wrk { url: String, script: Script, file: PathBuf },
    Generator(Requests),
}

/// A run of a load generator.
struct Sample {
    connections: u32,
    subject: usize,
    load: Load,
    cpu_us: f64,
}

pub(super) fn run(servers: &Servers<'_>, seconds: u32, rounds: u32) -> Result<String> {
    terminal::heading("Starting the servers");
    let running = servers.makers().into_iter().map(|maker| {
        let running = servers.start(maker)?;
        terminal::line(&format!("{:8}  {}", maker.name(), running.server.address()));
        Ok(running)
    });
    let running = running.collect::<Result<Vec<_>>>()?;
    let subjects = subjects(servers, &running)?;
    terminal::heading("Full load");
    let samples = measure(servers, &subjects, seconds, rounds)?;
    let result = format!("{}.\n\n{}", servers.cores.summary(), summary(&samples, &subjects));
    drop(subjects);
    for one in running {
        one.server.stop()?;
    }
    Ok(result)
}

/// Every server in every form that it speaks, after it has answered as `host` does.
fn subjects<'a>(servers: &Servers<'_>, running: &'a [Running]) -> Result<Vec<Subject<'a>>> {
    let mut subjects = Vec::new();
    let mut expected = Vec::new();
    for one in running {
        if one.maker == Maker::Host {
            expected = servers.predictions(one, Form::Json)?;
        }
        for &form in one.maker.forms() {
            if form == Form::Grpc
                && let Err(error) = servers.predictions(one, form)
            {
                terminal::note(&format!("{} is not measured by gRPC: {error}", one.maker.name()));
                continue;
            }
            servers.compare(one, form, &expected)?;
            subjects.push(subject(servers, one, form, false)?);
        }
        if one.maker == Maker::Host {
            // The constants behind what they are compared with.
            subjects.push(subject(servers, one, Form::Json, true)?);
            subjects.push(subject(servers, one, Form::Grpc, true)?);
        }
    }
    terminal::line(&format!("{} answers of each are the same", expected.len()));
    Ok(subjects)
}

fn subject<'a>(
    servers: &Servers<'_>,
    running: &'a Running,
    form: Form,
    is_constant: bool,
) -> Result<Subject<'a>> {
    let maker = running.maker;
    let name = match (is_constant, maker.forms().len()) {
        (true, _) if form == Form::Grpc => format!("constant, {}", form.name()),
        (true, _) => "constant".to_owned(),
        (false, 1) => maker.name().to_owned(),
        (false, _) => format!("{}, {}", maker.name(), form.name()),
    };
    let path = if is_constant { "/constant" } else { form.path() };
    let address = running.address(form);
    let source = match form.write_bodies(&servers.model.folder, &servers.model.images)? {
        Some((script, file)) => Source::Wrk { url: format!("http://{address}{path}"), script, file },
        None => Source::Generator(form.requests(address, path, &servers.model.images)),
    };
    Ok(Subject { name, running, form, is_constant, source })
}

fn measure(
    servers: &Servers<'_>,
    subjects: &[Subject<'_>],
    seconds: u32,
    rounds: u32,
) -> Result<Vec<Sample>> {
    let clock = CpuClock::new()?;
    for subject in subjects {
        put(servers, subject, 8, 1)?;
    }
    let mut samples = Vec::new();
    for round in 1..=rounds {
        for connections in CONNECTIONS {
            for (index, subject) in subjects.iter().enumerate() {
                let process = subject.running.server.id();
                clock.wait_until_idle(process, IDLE_INTERVAL)?;
                let before = clock.read(process)?;
                let load = match put(servers, subject, connections, seconds) {
                    // What a peer cannot do is a result, too.
                    Err(error) if subject.running.maker != Maker::Host => {
                        terminal::note(&format!("{connections:>3} connections  {}: {error}", subject.name));
                        continue;
                    }
                    load => load?,
                };
                let spent = clock.read(process)?.saturating_sub(before);
                let cpu_us = spent.as_secs_f64() * 1e6 / load.requests as f64;
                terminal::line(&format!(
                    "round {round}  {connections:>3} connections  {:17}  {:>8.0} requests/s  {cpu_us:>7.1} µs CPU",
                    subject.name, load.requests_per_second
                ));
                samples.push(Sample { connections, subject: index, load, cpu_us });
            }
        }
    }
    Ok(samples)
}

fn put(servers: &Servers<'_>, subject: &Subject<'_>, connections: u32, seconds: u32) -> Result<Load> {
    let threads = servers.cores.load_threads();
    match &subject.source {
        Source::Wrk { url, script, file } => {
            load::run(servers.layout, *script, url, file, connections, threads, seconds)
        }
        Source::Generator(requests) => {
            let address = subject.running.address(subject.form);
            let duration = Duration::from_secs(seconds.into());
            let outcome =
                generator::run_together(threads, address, requests, connections, Pace::Full, duration)?;
            let outcome = outcome.without_errors(&subject.name)?;
            Ok(Load {
                requests: outcome.answered(),
                requests_per_second: outcome.per_second(),
                p50_ms: outcome.percentile_ms(50.0),
                p95_ms: outcome.percentile_ms(95.0),
                p99_ms: outcome.percentile_ms(99.0),
                p999_ms: outcome.percentile_ms(99.9),
            })
        }
    }
}

/// Medians of the rounds.
struct Medians<'a> {
    samples: &'a [Sample],
    connections: u32,
}

impl Medians<'_> {
    fn of(&self, subject: usize, value: fn(&Sample) -> f64) -> f64 {
        let is_chosen =
            |sample: &&Sample| (sample.connections, sample.subject) == (self.connections, subject);
        median(&self.samples.iter().filter(is_chosen).map(value).collect::<Vec<_>>())
    }

    fn rate(&self, subject: usize) -> f64 {
        self.of(subject, |sample| sample.load.requests_per_second)
    }

    fn cpu(&self, subject: usize) -> f64 {
        self.of(subject, |sample| sample.cpu_us)
    }
}

/// What a form of the program's is compared with, each by its index among the subjects.
struct Compared {
    host: usize,
    constant: Option<usize>,
    peers: Vec<usize>,
}

/// What was measured, and what it is relative to each other.
fn summary(samples: &[Sample], subjects: &[Subject<'_>]) -> String {
    let names: Vec<&str> = subjects.iter().map(|subject| subject.name.as_str()).collect();
    let mut hosts = Vec::new();
    for (host, subject) in subjects.iter().enumerate() {
        if subject.running.maker == Maker::Host && !subject.is_constant {
            let (constant, peers) = (constant(subjects, subject.form), peers(subjects, subject.form));
            hosts.push(Compared { host, constant, peers });
        }
    }
    format!("{}\n{}", measured(samples, &names), ratios(samples, &names, &hosts))
}

/// The constant that is asked in the same way: by gRPC, or by HTTP/1.1.
fn constant(subjects: &[Subject<'_>], form: Form) -> Option<usize> {
    let is_same = |subject: &Subject<'_>| (subject.form == Form::Grpc) == (form == Form::Grpc);
    subjects.iter().position(|subject| subject.is_constant && is_same(subject))
}

/// Each peer's subject to compare with: by gRPC where both speak it.
fn peers(subjects: &[Subject<'_>], form: Form) -> Vec<usize> {
    let of = |maker: Maker| {
        let mut own =
            subjects.iter().enumerate().filter(|(_, subject)| subject.running.maker == maker).peekable();
        let first = own.peek().map(|(index, _)| *index);
        own.find(|(_, subject)| subject.form == form).map(|(index, _)| index).or(first)
    };
    [Maker::FastApi, Maker::MlServer, Maker::BentoMl].into_iter().filter_map(of).collect()
}

fn measured(samples: &[Sample], names: &[&str]) -> String {
    let head =
        ["connections", "server", "requests/s", "p50, ms", "p99, ms", "p99.9, ms", "CPU a request, µs"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for connections in CONNECTIONS {
        let medians = Medians { samples, connections };
        for (subject, name) in names.iter().enumerate() {
            rows.push(vec![
                connections.to_string(),
                (*name).to_owned(),
                number(medians.rate(subject), 0),
                number(medians.of(subject, |sample| sample.load.p50_ms), 2),
                number(medians.of(subject, |sample| sample.load.p99_ms), 2),
                number(medians.of(subject, |sample| sample.load.p999_ms), 2),
                number(medians.cpu(subject), 1),
            ]);
        }
    }
    report::table(&rows, 1)
}

/// What `hosts` are relative to what they are compared with.
fn ratios(samples: &[Sample], names: &[&str], hosts: &[Compared]) -> String {
    let mut rows = Vec::new();
    for connections in CONNECTIONS {
        let medians = Medians { samples, connections };
        for Compared { host, constant, peers } in hosts {
            let share = constant.map_or(f64::NAN, |one| 100.0 * medians.rate(*host) / medians.rate(one));
            let name = names.get(*host).copied().unwrap_or_default();
            let mut row = vec![connections.to_string(), name.to_owned(), format!("{} %", number(share, 0))];
            row.extend(peers.iter().flat_map(|&peer| {
                [medians.rate(*host) / medians.rate(peer), medians.cpu(peer) / medians.cpu(*host)]
                    .map(|times| number(times, 0))
            }));
            rows.push(row);
        }
    }
    let head = ["connections", "", "share of the constant's requests/s"].map(str::to_owned);
    let mut head = head.to_vec();
    for peer in hosts.first().map(|host| host.peers.as_slice()).unwrap_or_default() {
        // The first word is the maker's; which of its forms depends on the row.
        let name = names.get(*peer).and_then(|name| name.split(',').next()).unwrap_or_default();
        head.extend([format!("times {name}'s requests/s"), format!("{name}'s CPU, times")]);
    }
    rows.insert(0, head);
    report::table(&rows, 1)
}

/// A number as a cell; a dash where nothing was measured.
fn number(value: f64, decimals: usize) -> String {
    if value.is_finite() { format!("{value:.decimals$}") } else { "–".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_medians_and_ratios() {
        let sample = |subject, requests_per_second, cpu_us| {
            let (p50_ms, p95_ms, p99_ms, p999_ms) = (0.1, 0.3, 0.5, 0.7);
            let load = Load { requests: 1, requests_per_second, p50_ms, p95_ms, p99_ms, p999_ms };
            CONNECTIONS.map(|connections| Sample { connections, subject, load, cpu_us })
        };
        let samples: Vec<Sample> =
            [(0, 10.0, 60.0), (0, 30.0, 50.0), (0, 20.0, 40.0), (1, 25.0, 30.0), (2, 2.0, 500.0)]
                .into_iter()
                .flat_map(|(subject, rate, cpu)| sample(subject, rate, cpu))
                .collect();
        let names = ["host, JSON", "constant", "MLServer, gRPC", "BentoML"];
        let text = measured(&samples, &names);
        assert!(text.contains("| 8 | host, JSON | 20 | 0.10 | 0.50 | 0.70 | 50.0 |"), "{text}");
        assert!(text.contains("| 512 | BentoML | – | – | – | – | – |"), "{text}");
        let text = ratios(&samples, &names, &[Compared { host: 0, constant: Some(1), peers: vec![2, 3] }]);
        assert!(
            text.contains("| times MLServer's requests/s | MLServer's CPU, times | times BentoML"),
            "{text}"
        );
        assert!(text.contains("| 8 | host, JSON | 80 % | 10 | 10 | – | – |"), "{text}");
    }
}
