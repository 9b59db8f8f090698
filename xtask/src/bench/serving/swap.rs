//! Full load while the version behind an endpoint changes every second, by turns with the same load without that.
//!
//! An alias moves on among three versions, of which the server keeps two, so that it loads a model each time; the next move
//! waits until the last is followed. The command that moves it takes a core for a moment; so that this is not taken for
//! the swap's price, it runs in other turns too, and says there what is already so.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::form::Form;
use super::servers::{Running, Servers};
use crate::bench::generator::{self, Outcome, Pace};
use crate::bench::report;
use crate::error::{Context as _, Error, Result};
use crate::http::Connection;
use crate::session::Session;
use crate::statistics::median;
use crate::{process, terminal};

/// Connections that ask.
const CONNECTIONS: u32 = 64;

/// Versions that the alias moves among, all trained alike.
const VERSIONS: u32 = 3;

/// From one move to the next, at least.
const MOVE_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is looked whether the next move is due.
const POLL: Duration = Duration::from_millis(5);

/// How often the server is asked which version answers.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The server looks for moves every second, and loads a model within another.
const FOLLOWED_MAX: Duration = Duration::from_secs(30);

/// What is done beside the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// The alias is given to the version that has it.
    SameVersion,
    OtherVersion,
}

struct Sample {
    beside: Beside,
    requests: u64,
    errors: u64,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Times that another version began to answer.
    swaps: u64,
}

/// A model whose alias moves.
struct Moving<'a> {
    session: &'a Session<'a>,
    /// The version that has it.
    version: u32,
}

impl Beside {
    const ALL: [Self; 3] = [Self::Nothing, Self::SameVersion, Self::OtherVersion];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::SameVersion => "`host model alias`, nothing moves",
            Self::OtherVersion => "`host model alias`, another version each time",
        }
    }
}

pub(super) fn run(servers: &Servers<'_>, seconds: u32, rounds: u32) -> Result<String> {
    terminal::heading("Swap under load");
    servers.model.ensure_small()?;
    let mut moving = Moving { session: &servers.model.session, version: 1 };
    moving.set(1)?;
    let running =
        servers.start_host(moving.session, ["--model", "mnist=small@champion"], Form::Json.path())?;
    let mut samples = Vec::new();
    for _ in 0..rounds {
        for beside in Beside::ALL {
            let sample = measure(servers, &running, &mut moving, beside, seconds)?;
            terminal::line(&format!(
                "{:45}  {:>6.0} requests/s  p99 {:.2} ms  {} swaps  {} errors",
                beside.name(),
                sample.per_second,
                sample.p99_ms,
                sample.swaps,
                sample.errors
            ));
            samples.push(sample);
        }
    }
    running.server.stop()?;
    Ok(summary(&samples))
}

fn measure(
    servers: &Servers<'_>,
    running: &Running,
    moving: &mut Moving<'_>,
    beside: Beside,
    seconds: u32,
) -> Result<Sample> {
    let address = running.server.address();
    let requests = Form::Json.requests(address, Form::Json.path(), &servers.model.images);
    let duration = Duration::from_secs(seconds.into());
    // The last move of the turn before may still have to be followed.
    wait_for(address, moving.version)?;
    let is_over = AtomicBool::new(false);
    let answering = AtomicU32::new(moving.version);
    let (outcome, swaps) = std::thread::scope(|scope| -> Result<(Outcome, u64)> {
        let looking = scope.spawn(|| count_swaps(address, &answering, &is_over));
        let doing = scope.spawn(|| moving.keep(beside, &answering, &is_over));
        let outcome = generator::run(address, &requests, CONNECTIONS, Pace::Full, duration);
        is_over.store(true, Ordering::Relaxed);
        let ended = || Error::new("a thread of the bench ended early");
        doing.join().map_err(|_| ended())??;
        Ok((outcome?, looking.join().map_err(|_| ended())??))
    })?;
    if let Some(error) = &outcome.error {
        terminal::note(&format!("{} requests failed: {error}", outcome.errors));
    }
    Ok(Sample {
        beside,
        requests: outcome.answered(),
        errors: outcome.errors,
        per_second: outcome.per_second(),
        p50_ms: outcome.percentile_ms(50.0),
        p99_ms: outcome.percentile_ms(99.0),
        swaps,
    })
}

impl Moving<'_> {
    /// Runs the command once per interval, and not before the version that has the alias answers, until it is over.
    fn keep(&mut self, beside: Beside, answering: &AtomicU32, is_over: &AtomicBool) -> Result<()> {
        let mut last = Instant::now();
        while !is_over.load(Ordering::Relaxed) {
            std::thread::sleep(POLL);
            if last.elapsed() < MOVE_INTERVAL || answering.load(Ordering::Relaxed) != self.version {
                continue;
            }
            last = Instant::now();
            match beside {
                Beside::Nothing => {}
                Beside::SameVersion => self.set(self.version)?,
                Beside::OtherVersion => self.set(self.version % VERSIONS + 1)?,
            }
        }
        Ok(())
    }

    fn set(&mut self, version: u32) -> Result<()> {
        let version_name = format!("small@{version}");
        let mut command = self.session.host(["--quiet", "model", "alias", &version_name, "champion"]);
        process::run(command.stdout(Stdio::null()), "move the alias")?;
        self.version = version;
        Ok(())
    }
}

/// Notes which version answers, and counts how often it is another, until it is over.
fn count_swaps(address: SocketAddr, answering: &AtomicU32, is_over: &AtomicBool) -> Result<u64> {
    let mut swaps = 0;
    while !is_over.load(Ordering::Relaxed) {
        let version = version_that_answers(address)?;
        swaps += u64::from(answering.swap(version, Ordering::Relaxed) != version);
        std::thread::sleep(LOOK_INTERVAL);
    }
    Ok(swaps)
}

fn wait_for(address: SocketAddr, version: u32) -> Result<()> {
    let started = Instant::now();
    while version_that_answers(address)? != version {
        if started.elapsed() > FOLLOWED_MAX {
            return Err(Error::new(format!("the server does not follow the alias to version {version}")));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

fn version_that_answers(address: SocketAddr) -> Result<u32> {
    let mut connection = Connection::open(address).context("reach the server")?;
    let listed = connection.get("/serve").context("ask the server for its endpoints")?;
    read_version(&serde_json::from_slice(&listed.body).context("read the list of endpoints")?)
}

/// The version that answers, of a list of endpoints with one.
fn read_version(listed: &Value) -> Result<u32> {
    let versions = listed.pointer("/endpoints/0/versions").and_then(Value::as_array);
    let answers = |version: &&Value| version.get("weight").and_then(Value::as_u64).is_some_and(|w| w > 0);
    let found = versions.and_then(|versions| versions.iter().find(answers)?.get("version")?.as_u64());
    let found = found.and_then(|version| u32::try_from(version).ok());
    found.ok_or_else(|| Error::new("the server's list of endpoints has no version that answers"))
}

fn summary(samples: &[Sample]) -> String {
    let head = [
        "beside the load",
        "requests/s",
        "p50, ms",
        "p99, ms",
        "p99, of that without",
        "swaps",
        "requests",
        "errors",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let of = |beside: Beside| samples.iter().filter(move |sample| sample.beside == beside);
    let medians =
        |beside: Beside, value: fn(&Sample) -> f64| median(&of(beside).map(value).collect::<Vec<_>>());
    for beside in Beside::ALL {
        let p99 = |beside| medians(beside, |sample| sample.p99_ms);
        let sum = |value: fn(&Sample) -> u64| of(beside).map(value).sum::<u64>().to_string();
        rows.push(vec![
            beside.name().to_owned(),
            format!("{:.0}", medians(beside, |sample| sample.per_second)),
            format!("{:.2}", medians(beside, |sample| sample.p50_ms)),
            format!("{:.2}", p99(beside)),
            format!("{:.2}", p99(beside) / p99(Beside::Nothing)),
            sum(|sample| sample.swaps),
            sum(|sample| sample.requests),
            sum(|sample| sample.errors),
        ]);
    }
    report::table(&rows, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_medians_sums_and_what_a_swap_costs() {
        let sample = |beside, p99_ms, swaps| Sample {
            beside,
            requests: 10,
            errors: 0,
            per_second: 5.0,
            p50_ms: 0.5,
            p99_ms,
            swaps,
        };
        let samples = [
            sample(Beside::Nothing, 2.0, 0),
            sample(Beside::OtherVersion, 2.0, 7),
            sample(Beside::Nothing, 2.0, 0),
            sample(Beside::OtherVersion, 2.4, 8),
        ];
        let text = summary(&samples);
        assert!(text.contains("| nothing | 5 | 0.50 | 2.00 | 1.00 | 0 | 20 | 0 |"), "{text}");
        assert!(
            text.contains("another version each time | 5 | 0.50 | 2.20 | 1.10 | 15 | 20 | 0 |"),
            "{text}"
        );
    }

    #[test]
    fn finds_the_version_that_answers() {
        let listed = serde_json::json!({ "endpoints": [{ "versions": [
            { "version": 1, "weight": 0 }, { "version": 2, "weight": 1 },
        ] }] });
        assert_eq!(read_version(&listed).unwrap(), 2);
        read_version(&serde_json::json!({ "endpoints": [] })).unwrap_err();
    }
}
