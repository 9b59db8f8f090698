//! Latency at four fifths of what `host` can take: requests come evenly, whatever it does.
//!
//! The generator has cores of its own and the server others, where there are two. On the same ones the scheduler's turns,
//! which are some milliseconds, would be all that is measured. What is left of that is measured too, by a thread that has nothing
//! to do but look at the clock.

use std::time::{Duration, Instant};

use super::servers::{HostSubject, Maker, Running, Servers};
use crate::bench::cores::keep_to;
use crate::bench::generator::{self, Outcome, Pace, Requests};
use crate::bench::report;
use crate::error::Result;
use crate::statistics::{median, percentile};
use crate::terminal;

/// Connections that the requests are spread over.
const CONNECTIONS: u32 = 64;

/// The share of what it can take.
const SHARE: f64 = 0.8;

/// A look at the clock that comes so late was kept from it.
const PAUSE_MIN: Duration = Duration::from_micros(20);

/// A round of one form.
struct Sample {
    name: &'static str,
    /// What it answers over as many connections as fast as it can.
    capacity: f64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    /// p50 and p99 of each quarter of a second.
    parts: Vec<(f64, f64)>,
}

pub(super) fn run(servers: &Servers<'_>, seconds: u32, rounds: u32) -> Result<String> {
    terminal::heading("Constant rate");
    let watched = Duration::from_secs(seconds.into());
    let watch = |cores: &[usize]| -> Result<Pauses> {
        keep_to(cores.get(..1).unwrap_or(cores))?;
        Ok(Pauses::watch(watched))
    };
    let (of_server, of_load) = servers.cores.apart();
    let pauses = [("generator's", watch(of_load)?), ("server's", watch(of_server)?)];
    let servers = servers.apart()?;
    let running = servers.start(Maker::Host)?;
    let subjects = servers.subjects(&running)?;
    let mut samples = Vec::new();
    for _ in 0..rounds {
        for &HostSubject { name, form, path } in &subjects {
            let requests = form.requests(running.address(form), path, &servers.model.images);
            samples.push(measure(&running, servers.cores.load_threads(), name, &requests, seconds)?);
        }
    }
    running.server.stop()?;
    keep_to(servers.cores.of_load())?;
    Ok(format!("{}\n{}", summary(&samples), Pauses::summary(&pauses)))
}

fn median_of<T>(values: &[T], of: fn(&T) -> f64) -> f64 {
    median(&values.iter().map(of).collect::<Vec<_>>())
}

impl Sample {
    /// p99 by p50 in the median quarter of a second.
    fn ratio_of_parts(&self) -> f64 {
        median_of(&self.parts, |(p50, p99)| p99 / p50)
    }
}

/// How a core keeps what runs on it waiting, though nothing else is to be done there.
#[derive(Debug, Clone, Copy)]
struct Pauses {
    longest: Duration,
    /// The part of the time that they take.
    share: f64,
}

impl Pauses {
    /// Looks at the clock for `duration`.
    fn watch(duration: Duration) -> Self {
        let start = Instant::now();
        let (mut last, mut all, mut longest) = (start, Duration::ZERO, Duration::ZERO);
        while last - start < duration {
            let now = Instant::now();
            let pause = now - last;
            if pause >= PAUSE_MIN {
                all += pause;
                longest = longest.max(pause);
            }
            last = now;
        }
        Self { longest, share: all.as_secs_f64() / (last - start).as_secs_f64() }
    }

    fn summary(cores: &[(&str, Self)]) -> String {
        let head = ["core", "time lost to pauses", "the longest, ms"];
        let row = |(core, pauses): &(&str, Self)| {
            let longest = format!("{:.2}", pauses.longest.as_secs_f64() * 1e3);
            vec![(*core).to_owned(), format!("{:.2} %", 100.0 * pauses.share), longest]
        };
        let rows = std::iter::once(head.map(str::to_owned).to_vec()).chain(cores.iter().map(row));
        report::table(&rows.collect::<Vec<_>>(), 0)
    }
}

fn measure(
    running: &Running,
    threads: u32,
    name: &'static str,
    requests: &Requests,
    seconds: u32,
) -> Result<Sample> {
    let duration = Duration::from_secs(seconds.into());
    let ask = |pace: Pace| -> Result<Outcome> {
        let address = running.server.address();
        generator::run_together(threads, address, requests, CONNECTIONS, pace, duration)?.without_errors(name)
    };
    let capacity = ask(Pace::Full)?.per_second();
    let outcome = ask(Pace::PerSecond(SHARE * capacity))?;
    let [p50_ms, p99_ms, p999_ms] = [50.0, 99.0, 99.9].map(|percent| outcome.percentile_ms(percent));
    let parts = outcome.of_parts(|latencies| (percentile(latencies, 50.0), percentile(latencies, 99.0)));
    let sample = Sample { name, capacity, p50_ms, p99_ms, p999_ms, parts };
    terminal::line(&format!(
        "{name:10}  takes {capacity:>8.0} requests/s; at {SHARE} of it p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms, in the median \
         quarter of a second {:.1} times its p50",
        sample.ratio_of_parts()
    ));
    Ok(sample)
}

fn summary(samples: &[Sample]) -> String {
    let head = [
        "asked by",
        "it can take, requests/s",
        "asked, requests/s",
        "p50, ms",
        "p99, ms",
        "p99.9, ms",
        "p99 / p50",
        "in the median quarter of a second p50, ms",
        "p99, ms",
        "p99 / p50",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut names: Vec<&str> = samples.iter().map(|sample| sample.name).collect();
    // The first round has each of them.
    let rounds = names.iter().filter(|name| names.first() == Some(name)).count().max(1);
    names.truncate(samples.len() / rounds);
    for name in names {
        let medians = |value: fn(&Sample) -> f64| {
            median(&samples.iter().filter(|sample| sample.name == name).map(value).collect::<Vec<_>>())
        };
        let capacity = medians(|sample| sample.capacity);
        rows.push(vec![
            name.to_owned(),
            format!("{capacity:.0}"),
            format!("{:.0}", SHARE * capacity),
            format!("{:.2}", medians(|sample| sample.p50_ms)),
            format!("{:.2}", medians(|sample| sample.p99_ms)),
            format!("{:.2}", medians(|sample| sample.p999_ms)),
            format!("{:.1}", medians(|sample| sample.p99_ms / sample.p50_ms)),
            format!("{:.2}", medians(|sample| median_of(&sample.parts, |(p50, _)| *p50))),
            format!("{:.2}", medians(|sample| median_of(&sample.parts, |(_, p99)| *p99))),
            format!("{:.1}", medians(Sample::ratio_of_parts)),
        ]);
    }
    report::table(&rows, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_medians_of_each() {
        let sample = |name, capacity, p99_ms| {
            let parts = vec![(0.4, 0.8), (0.5, 8.0), (0.6, 1.2)];
            Sample { name, capacity, p50_ms: 0.5, p99_ms, p999_ms: 9.0, parts }
        };
        let samples = [("JSON", 90.0, 1.0), ("gRPC", 50.0, 2.0), ("JSON", 110.0, 1.2), ("gRPC", 50.0, 2.0)];
        let text = summary(&samples.map(|(name, capacity, p99_ms)| sample(name, capacity, p99_ms)));
        assert!(
            text.contains("| JSON | 100 | 80 | 0.50 | 1.10 | 9.00 | 2.2 | 0.50 | 1.20 | 2.0 |"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 4, "{text}");
    }
}
