//! Load on a server by our own hands, where wrk cannot: gRPC, requests at a constant rate, errors that are counted.
//!
//! A thread waits for all of its connections, of which each has at most one request under way. At a constant rate a request's
//! time starts when it should have been sent, not when a connection was free for it: a server that stalls is charged for
//! all that it kept waiting ("coordinated omission" is the name of not doing so). Where the system keeps this thread from its
//! core though it has a connection free, that is no doing of a server's on other cores, and what is due pauses; answers that have
//! come meanwhile are late all the same.

mod client;
mod delay;
mod http1;
mod http2;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use crate::error::{Context as _, Error, Result};
use crate::statistics::percentile;

pub(super) use client::{Answer, Client};
use delay::RunDelay;

/// A server that answers nothing for so long is stuck.
const STALL_MAX: Duration = Duration::from_secs(30);

/// The kernel may wake a thread so much later than it was asked to; its default would be a part of what is measured.
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::MIN;

/// Time for connections to be there, before several threads ask.
const CONNECTING_MAX: Duration = Duration::from_millis(50);

/// Connections that are looked at in one go.
const EVENTS_MAX: usize = 64;

/// What is asked, prepared, so that sending takes next to no time.
#[derive(Debug, Clone)]
pub(super) struct Requests {
    pub(super) wire: Wire,
    /// Sent in turn: of HTTP/1.1 all of a request, of gRPC its message.
    pub(super) messages: Vec<Vec<u8>>,
}

/// Parts of a run that are looked at by themselves: long enough for a percentile, and short enough that most have none of the
/// pauses which a machine makes every second or so.
const PART: Duration = Duration::from_millis(250);

/// The protocol of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wire {
    Http1,
    /// Unary calls of the method with this path, over HTTP/2 without TLS.
    Grpc(String),
}

/// When requests are sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// As soon as a connection is free.
    Full,
    /// The same, by a thread that looks for answers and never sleeps.
    Sleepless,
    /// So many a second, evenly, whatever the server does.
    PerSecond(f64),
}

/// What the requests met.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Of those with an answer that is a success, in milliseconds, and in which part of the run each was due.
    latencies_ms: Vec<(f64, u32)>,
    /// Answers that are none, and connections that ended with a request under way.
    pub(super) errors: u64,
    /// The first of them.
    pub(super) error: Option<String>,
    pub(super) elapsed: Duration,
}

/// When the next request is due.
struct Schedule {
    start: Instant,
    end: Instant,
    interval: Option<Duration>,
    issued: u32,
}

/// A connection and what it is doing.
struct Slot {
    client: Client,
    /// Since when its request is under way, and in which part of the run that was.
    asked: Option<(Instant, u32)>,
}

/// A run of the generator.
struct Run<'a> {
    address: SocketAddr,
    requests: &'a Requests,
    next_message: usize,
    poller: OwnedFd,
    slots: Vec<Slot>,
    /// Connections without a request, the longest idle first.
    free: VecDeque<usize>,
    outcome: Outcome,
}

/// Asks `address` for `duration` over as many connections as are given, and waits for what is under way then.
pub(super) fn run(
    address: SocketAddr,
    requests: &Requests,
    connections: u32,
    pace: Pace,
    duration: Duration,
) -> Result<Outcome> {
    run_from(Instant::now(), address, requests, connections, pace, duration)
}

/// [`run`], whose first request is due at `start`, if its connections are there by then.
fn run_from(
    start: Instant,
    address: SocketAddr,
    requests: &Requests,
    connections: u32,
    pace: Pace,
    duration: Duration,
) -> Result<Outcome> {
    rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NS)).context("have exact timers")?;
    let mut run = Run::open(address, requests, connections)?;
    let start = start.max(Instant::now());
    let interval = match pace {
        Pace::Full | Pace::Sleepless => None,
        Pace::PerSecond(rate) => Some(Duration::from_secs_f64(1.0 / rate)),
    };
    let mut schedule = Schedule { start, end: start + duration, interval, issued: 0 };
    let mut last_news = start;
    let told = "tell when this thread is kept from its core";
    let mut delay = interval.map(|_| RunDelay::of_this_thread()).transpose().context(told)?;
    loop {
        let now = Instant::now();
        let kept = delay.as_mut().map(RunDelay::kept).transpose().context(told)?;
        if let Some(kept) = kept.filter(|_| !run.free.is_empty()) {
            schedule.pause(kept);
        }
        while let Some(due) = schedule.next(now).filter(|due| *due <= now) {
            let Some(index) = run.free.pop_front() else { break };
            schedule.issued += 1;
            run.send(index, (due, schedule.part_of(due)))?;
        }
        let next = schedule.next(now);
        if next.is_none() && run.free.len() == run.slots.len() {
            break;
        }
        let wake = next.filter(|_| !run.free.is_empty()).unwrap_or(now + STALL_MAX);
        if run.receive(if matches!(pace, Pace::Sleepless) { now } else { wake })? {
            last_news = Instant::now();
        } else if last_news.elapsed() >= STALL_MAX {
            return Err(Error::new(format!("{address} answers nothing any more")));
        }
    }
    run.outcome.elapsed = start.elapsed();
    Ok(run.outcome)
}

/// [`run`] by several threads that share the connections, and ask in turn where there is a rate.
pub(super) fn run_together(
    threads: u32,
    address: SocketAddr,
    requests: &Requests,
    connections: u32,
    pace: Pace,
    duration: Duration,
) -> Result<Outcome> {
    let threads = threads.clamp(1, connections.max(1));
    let part = |thread: u32| connections / threads + u32::from(thread < connections % threads);
    let (pace, turn) = match pace {
        Pace::Full | Pace::Sleepless => (pace, Duration::ZERO),
        Pace::PerSecond(rate) => {
            (Pace::PerSecond(rate / f64::from(threads)), Duration::from_secs_f64(1.0 / rate))
        }
    };
    let first = Instant::now() + CONNECTING_MAX;
    std::thread::scope(|scope| {
        let ask =
            |thread| move || run_from(first + turn * thread, address, requests, part(thread), pace, duration);
        let asking: Vec<_> = (0..threads).map(|thread| scope.spawn(ask(thread))).collect();
        let ended = |_| Error::new("a thread of the load generator ended early");
        let outcomes = asking.into_iter().map(|one| one.join().map_err(ended)?);
        outcomes.reduce(|one, other| Ok(one?.with(other?))).unwrap_or_else(|| Ok(Outcome::default()))
    })
}

impl Outcome {
    /// What two that asked at the same time met.
    fn with(mut self, other: Self) -> Self {
        self.latencies_ms.extend(other.latencies_ms);
        self.errors += other.errors;
        self.error = self.error.or(other.error);
        self.elapsed = self.elapsed.max(other.elapsed);
        self
    }

    /// Requests that were answered.
    pub(super) fn answered(&self) -> u64 {
        self.latencies_ms.len() as u64
    }

    /// Requests that were answered, a second.
    pub(super) fn per_second(&self) -> f64 {
        self.latencies_ms.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The time within which the share `percent` was answered.
    pub(super) fn percentile_ms(&self, percent: f64) -> f64 {
        let all: Vec<f64> = self.latencies_ms.iter().map(|(latency, _)| *latency).collect();
        percentile(&all, percent)
    }

    /// What `of` tells of the latencies in each quarter of a second, in milliseconds, of all but the last, which may be shorter.
    pub(super) fn of_parts<T>(&self, of: impl Fn(&[f64]) -> T) -> Vec<T> {
        let mut parts = BTreeMap::<u32, Vec<f64>>::new();
        self.latencies_ms.iter().for_each(|(latency, part)| parts.entry(*part).or_default().push(*latency));
        parts.pop_last();
        parts.values().map(|latencies| of(latencies)).collect()
    }

    /// Refuses errors.
    pub(super) fn without_errors(self, what: &str) -> Result<Self> {
        match &self.error {
            None => Ok(self),
            Some(error) => Err(Error::new(format!("{what}: {} requests failed: {error}", self.errors))),
        }
    }
}

impl Schedule {
    /// The part of the run in which a request is due.
    fn part_of(&self, due: Instant) -> u32 {
        due.saturating_duration_since(self.start).div_duration_f64(PART) as u32
    }

    /// Nothing was due for so long.
    fn pause(&mut self, time: Duration) {
        self.start += time;
        self.end += time;
    }

    fn next(&self, now: Instant) -> Option<Instant> {
        let due = self.interval.map_or(now, |interval| self.start + interval.mul_f64(self.issued.into()));
        (due < self.end).then_some(due)
    }
}

impl<'a> Run<'a> {
    fn open(address: SocketAddr, requests: &'a Requests, connections: u32) -> Result<Self> {
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC).context("wait for connections")?;
        let outcome = Outcome::default();
        let (slots, free) = (Vec::new(), VecDeque::new());
        let mut run = Self { address, requests, next_message: 0, poller, slots, free, outcome };
        for index in 0..connections as usize {
            let client = run.connect(index)?;
            run.slots.push(Slot { client, asked: None });
            run.free.push_back(index);
        }
        Ok(run)
    }

    fn connect(&self, index: usize) -> Result<Client> {
        let reach = || format!("reach {}", self.address);
        let client = Client::open(self.address, &self.requests.wire).context(reach())?;
        client.stream().set_nonblocking(true).context(reach())?;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.poller, client.stream(), data, epoll::EventFlags::IN).context(reach())?;
        Ok(client)
    }

    fn send(&mut self, index: usize, due: (Instant, u32)) -> Result<()> {
        self.next_message = (self.next_message + 1) % self.requests.messages.len().max(1);
        let (Some(message), Some(slot)) =
            (self.requests.messages.get(self.next_message), self.slots.get_mut(index))
        else {
            return Err(Error::new("there is nothing to send"));
        };
        slot.asked = Some(due);
        let sent = slot.client.send(message);
        sent.or_else(|error| self.lost(index, &error))
    }

    /// Waits, at most until `wake`, and takes what has come; whether anything has.
    fn receive(&mut self, wake: Instant) -> Result<bool> {
        // epoll's own limit of time is in milliseconds on systems before Linux 5.11.
        let left = wake.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            let left = Timespec::try_from(left).context("wait for answers")?;
            poll(&mut [PollFd::new(&self.poller, PollFlags::IN)], Some(&left)).context("wait for answers")?;
        }
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let at_once = Timespec::default();
        epoll::wait(&self.poller, rustix::buffer::spare_capacity(&mut events), Some(&at_once))
            .context("wait for answers")?;
        for event in &events {
            let index = usize::try_from(event.data.u64()).context("tell connections apart")?;
            let Some(slot) = self.slots.get_mut(index) else { continue };
            match slot.client.receive() {
                Ok(None) => {}
                Ok(Some(answer)) => self.answered(index, &answer),
                Err(error) => self.lost(index, &error)?,
            }
        }
        Ok(!events.is_empty())
    }

    fn answered(&mut self, index: usize, answer: &Answer) {
        // An answer to no question would be counted nowhere; the protocols refuse it.
        let Some((asked, part)) = self.slots.get_mut(index).and_then(|slot| slot.asked.take()) else {
            return;
        };
        match answer.failure() {
            None => {
                self.outcome.latencies_ms.push((asked.elapsed().as_secs_f64() * 1e3, part));
            }
            Some(failure) => self.failed(failure),
        }
        self.free.push_back(index);
    }

    /// Connects again where a connection has ended.
    fn lost(&mut self, index: usize, error: &std::io::Error) -> Result<()> {
        let client = self.connect(index)?;
        let Some(slot) = self.slots.get_mut(index) else { return Ok(()) };
        // The socket before is closed with it, which ends the waiting for it too.
        slot.client = client;
        if slot.asked.take().is_some() {
            self.failed(error.to_string());
            self.free.push_back(index);
        }
        Ok(())
    }

    fn failed(&mut self, failure: String) {
        self.outcome.errors += 1;
        self.outcome.error.get_or_insert(failure);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;

    use super::*;

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

    /// Answers what `answer` gives for the number of the request, until the connections are closed.
    fn server(answer: impl Fn(usize) -> &'static str + Clone + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, answer) = (stream.unwrap(), answer.clone());
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                std::thread::spawn(move || {
                    let ends = lines.map_while(std::result::Result::ok).filter(String::is_empty);
                    for (count, _) in ends.enumerate() {
                        match answer(count) {
                            "" => return,
                            text => stream.write_all(text.as_bytes()).unwrap(),
                        }
                    }
                });
            }
        });
        address
    }

    fn requests() -> Requests {
        Requests { wire: Wire::Http1, messages: vec![b"GET /a HTTP/1.1\r\n\r\n".to_vec()] }
    }

    #[test]
    fn a_rate_is_kept_whatever_the_server_takes() {
        let address = server(|_| OK);
        let outcome =
            run(address, &requests(), 3, Pace::PerSecond(500.0), Duration::from_millis(200)).unwrap();
        assert_eq!((outcome.answered(), outcome.errors), (100, 0), "{:?}", outcome.error);
        assert!(outcome.percentile_ms(50.0) > 0.0);
    }

    #[test]
    fn waiting_for_a_connection_counts() {
        let start = Instant::now();
        let interval = Some(Duration::from_millis(10));
        let schedule = Schedule { start, end: start + Duration::from_millis(45), interval, issued: 4 };
        let late = start + Duration::from_secs(1);
        assert_eq!(
            schedule.next(late),
            Some(start + Duration::from_millis(40)),
            "due long ago, and still sent"
        );
        let mut paused = Schedule { ..schedule };
        paused.pause(Duration::from_millis(7));
        assert_eq!(paused.next(late), Some(start + Duration::from_millis(47)), "kept from its core itself");
        assert_eq!(Schedule { issued: 5, ..schedule }.next(start), None);
    }

    #[test]
    fn refusals_and_ended_connections_are_counted() {
        let address = server(|count| match count {
            0 => OK,
            1 => "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy",
            _ => "",
        });
        let outcome = run(address, &requests(), 1, Pace::PerSecond(500.0), Duration::from_millis(12));
        let outcome = outcome.unwrap();
        assert_eq!((outcome.answered(), outcome.errors), (2, 4));
        let error = outcome.without_errors("load").unwrap_err().to_string();
        assert_eq!(error, "load: 4 requests failed: status 503: busy");
    }

    #[test]
    fn at_full_pace_every_connection_is_used() {
        for threads in [1, 3, 9] {
            for pace in [Pace::Full, Pace::Sleepless] {
                let duration = Duration::from_millis(50);
                let outcome = run_together(threads, server(|_| OK), &requests(), 4, pace, duration).unwrap();
                assert!(outcome.answered() >= 4 && outcome.errors == 0);
                assert!(outcome.per_second() > 0.0);
            }
        }
    }

    #[test]
    fn threads_share_a_rate_and_parts_of_the_time_are_told_apart() {
        let address = server(|_| OK);
        let (pace, duration) = (Pace::PerSecond(300.0), Duration::from_millis(600));
        let outcome = run_together(3, address, &requests(), 4, pace, duration).unwrap();
        assert_eq!((outcome.answered(), outcome.errors), (180, 0), "{:?}", outcome.error);
        assert_eq!(outcome.of_parts(<[f64]>::len), [75, 75], "of 250 ms each, without the last of 100 ms");
    }
}
