use std::thread::ThreadId;
use std::time::{Duration, Instant};

use wasmtime::{ResourceLimiter, UpdateDeadline};

use super::bindings::transformer::mlops::plugin::log;
use super::runtime::EPOCH_TICK;
use super::{Limits, MetricPoint};

/// How many times as long a call may take as it may have of a processor: a busy machine must not end what does little.
const WALL_MAX: u32 = 10;

/// What a call takes between two looks at most: a tick, and some more where the clock is late.
const LOOK_MAX: Duration = EPOCH_TICK.saturating_mul(4);

/// Table elements of an instance; compiled Rust and C use hundreds.
const TABLE_ELEMENTS_MAX: usize = 100_000;

/// What a store carries: the limits of the call under way and what the guest did so far.
pub(super) struct CallState {
    plugin: String,
    limits: Limits,
    /// What the call has taken; from its first epoch tick on, because most calls end before one and a clock costs more than many of
    /// them do.
    clock: Option<CallClock>,
    /// What the host has done for the call since it was looked at last.
    in_host: HostWork,
    pub(super) log_bytes_left: usize,
    pub(super) log_lines_dropped: u64,
    /// Memory that the instance has.
    pub(super) memory_bytes: u64,
    /// A growth of memory was refused in this call.
    pub(super) memory_refused: bool,
    /// The call ran past its deadline.
    pub(super) timed_out: bool,
    /// The last line logged at level `error`; a guest's panic message arrives this way.
    pub(super) last_error: Option<String>,
    /// Points reported in this call.
    pub(super) metric_points: Vec<MetricPoint>,
}

/// What clocks say when a call is looked at.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    thread: ThreadId,
    /// Processor time of that thread.
    processor: Duration,
}

/// What the host does for a call between two looks.
#[derive(Debug, Default)]
struct HostWork {
    /// Time in `metrics`, which waits for nobody.
    metrics: Duration,
    /// Time in `log`.
    log: Duration,
    /// When the first line began.
    log_began: Option<Reading>,
}

/// What a call has taken.
#[derive(Debug)]
struct CallClock {
    started: Instant,
    last: Reading,
    /// Processor time so far.
    spent: Duration,
}

impl Reading {
    fn now() -> Self {
        let processor = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let processor = Duration::try_from(processor).unwrap_or_default();
        Self { at: Instant::now(), thread: std::thread::current().id(), processor }
    }

    /// What the thread has taken of a processor until `now`. What another has taken of it nobody knows: then all of the time.
    fn taken_until(&self, now: &Self) -> Duration {
        match now.thread == self.thread {
            true => now.processor.saturating_sub(self.processor),
            false => now.at - self.at,
        }
    }
}

impl HostWork {
    /// What counts of it at a look: not the time in which a line waited for who reads the log.
    fn taken_until(&self, now: &Reading) -> Duration {
        let log = self.log_began.map_or(Duration::ZERO, |began| self.log.min(began.taken_until(now)));
        self.metrics + log
    }
}

impl CallClock {
    fn start(now: Reading, in_host: Duration) -> Self {
        Self { started: now.at, last: now, spent: in_host }
    }

    /// Whether the call has had all of its time: `call_max` of a processor, or [`WALL_MAX`] times as long altogether. The time in
    /// which other threads have its core is not its own. What the host does for it, `in_host` since the last look, is.
    fn is_over(&mut self, now: Reading, in_host: Duration, call_max: Duration) -> bool {
        let before = std::mem::replace(&mut self.last, now);
        let taken = before.taken_until(&now);
        let in_host = in_host.min(taken);
        // Since it made way others may have had the thread; it is looked at each tick that it runs, but for the time in which the
        // host does something for it.
        self.spent += (taken - in_host).min(LOOK_MAX) + in_host;
        self.spent >= call_max || now.at - self.started >= call_max * WALL_MAX
    }
}

impl CallState {
    pub(super) fn new(plugin: &str, limits: &Limits) -> Self {
        let mut state = Self {
            plugin: plugin.to_owned(),
            limits: limits.clone(),
            clock: None,
            in_host: HostWork::default(),
            log_bytes_left: 0,
            log_lines_dropped: 0,
            memory_bytes: 0,
            memory_refused: false,
            timed_out: false,
            last_error: None,
            metric_points: Vec::new(),
        };
        state.begin_call();
        state
    }

    /// Starts the clock and the budgets of the next call.
    pub(super) fn begin_call(&mut self) {
        self.clock = None;
        self.in_host = HostWork::default();
        self.log_bytes_left = self.limits.log_max_bytes;
        self.log_lines_dropped = 0;
        self.memory_refused = false;
        self.timed_out = false;
        self.last_error = None;
        self.metric_points.clear();
    }

    /// Tells of log lines that were dropped in the call that ended.
    pub(super) fn end_call(&self) {
        if self.log_lines_dropped > 0 {
            let (plugin, dropped) = (self.plugin.as_str(), self.log_lines_dropped);
            tracing::warn!(target: "plugin", plugin, dropped, "log lines over the limit of a call were dropped");
        }
    }

    /// Begins a line of the log, which [`CallState::end_line`] ends.
    pub(super) fn begin_line(&mut self) -> Instant {
        // Only before the first until the next look, in which a call stays with its thread: a processor's clock costs more.
        self.in_host.log_began.get_or_insert_with(Reading::now);
        Instant::now()
    }

    /// Counts what a line took as the call's own time.
    pub(super) fn end_line(&mut self, began: Instant) {
        self.in_host.log += began.elapsed();
    }

    /// Counts what a point took as the call's own time.
    pub(super) fn end_point(&mut self, began: Instant) {
        self.in_host.metrics += began.elapsed();
    }

    /// At every epoch tick: goes on, after yielding from the second on, or ends the call.
    pub(super) fn on_epoch_tick(&mut self) -> wasmtime::Result<UpdateDeadline> {
        let call_max = Duration::from_millis(u64::from(self.limits.call_max_ms));
        let now = Reading::now();
        let in_host = std::mem::take(&mut self.in_host).taken_until(&now);
        let Some(clock) = &mut self.clock else {
            self.clock = Some(CallClock::start(now, in_host));
            // The tick may have come at once: a call of some microseconds would wait for all others, and who waits for it too.
            return Ok(UpdateDeadline::Continue(1));
        };
        if clock.is_over(now, in_host, call_max) {
            self.timed_out = true;
            return Err(wasmtime::Trap::Interrupt.into());
        }
        // Tokio's own yield, because after it the scheduler looks at its sockets; an ordinary wake would run this guest
        // again dozens of times before it does.
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    }

    /// Whether one more point may be reported in this call.
    pub(super) fn has_room_for_a_point(&self) -> bool {
        self.metric_points.len() < self.limits.metric_points_max
    }

    /// Writes a line of the plugin's, in which there is nothing that could forge another.
    pub(super) fn write_log(&self, level: log::Level, message: &str, fields: &str) {
        let plugin = self.plugin.as_str();
        match level {
            log::Level::Trace => tracing::trace!(target: "plugin", plugin, fields, "{message}"),
            log::Level::Debug => tracing::debug!(target: "plugin", plugin, fields, "{message}"),
            log::Level::Info => tracing::info!(target: "plugin", plugin, fields, "{message}"),
            log::Level::Warn => tracing::warn!(target: "plugin", plugin, fields, "{message}"),
            log::Level::Error => tracing::error!(target: "plugin", plugin, fields, "{message}"),
        }
    }
}

impl ResourceLimiter for CallState {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired as u64 <= self.limits.memory_max_bytes;
        if allowed {
            self.memory_bytes = self.memory_bytes.saturating_add(desired.saturating_sub(current) as u64);
        }
        self.memory_refused |= !allowed;
        Ok(allowed)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(call_max_ms: u32) -> Limits {
        Limits {
            memory_max_bytes: 0,
            call_max_ms,
            output_max_bytes: 0,
            log_max_bytes: 0,
            metric_points_max: 0,
        }
    }

    #[test]
    fn the_time_in_which_others_have_the_core_is_not_the_calls() {
        let start = Reading::now();
        let (none, ms) = (Duration::ZERO, Duration::from_millis);
        let after = |wall, processor| Reading {
            at: start.at + ms(wall),
            processor: start.processor + ms(processor),
            ..start
        };
        let mut clock = CallClock::start(start, none);
        assert!(!clock.is_over(after(900, 5), none, ms(100)));
        // A tick each, and all of a core.
        let ended = (1..).find(|tick| clock.is_over(after(900 + 2 * tick, 5 + 2 * tick), none, ms(100)));
        assert_eq!(ended, Some(48));
        let mut clock = CallClock::start(start, none);
        assert!(!clock.is_over(after(999, 999), none, ms(100)), "others had the thread since it made way");
        assert!(clock.is_over(after(1_000, 999), none, ms(100)), "whatever it does");
        let mut clock = CallClock::start(start, none);
        let elsewhere = Reading { thread: std::thread::spawn(|| ()).thread().id(), ..after(6, 0) };
        assert!(!clock.is_over(elsewhere, none, ms(8)));
        assert!(clock.is_over(after(8, 0), none, ms(8)), "what cannot be told counts");
    }

    #[test]
    fn what_the_host_does_for_a_call_counts_in_full() {
        let start = Reading::now();
        let ms = Duration::from_millis;
        let after =
            |wall| Reading { at: start.at + ms(wall), processor: start.processor + ms(wall), ..start };
        let mut clock = CallClock::start(start, ms(20));
        assert!(!clock.is_over(after(69), ms(69), ms(100)));
        assert!(clock.is_over(after(81), ms(11), ms(100)));
        let mut clock = CallClock::start(start, ms(0));
        let other = Reading { processor: start.processor + ms(5), ..after(900) };
        assert!(!clock.is_over(other, ms(900), ms(100)), "others had the core");
    }

    #[test]
    fn the_time_in_which_the_host_waits_is_not_the_calls() {
        let began = Reading::now();
        let ms = Duration::from_millis;
        let after = |wall, processor| Reading {
            at: began.at + ms(wall),
            processor: began.processor + ms(processor),
            ..began
        };
        let work = HostWork { metrics: ms(1), log: ms(900), log_began: Some(began) };
        assert_eq!(work.taken_until(&after(2_000, 5)), ms(6), "a log that nobody reads");
        assert_eq!(work.taken_until(&after(2_000, 1_000)), ms(901));
        let elsewhere = Reading { thread: std::thread::spawn(|| ()).thread().id(), ..after(2_000, 5) };
        assert_eq!(work.taken_until(&elsewhere), ms(901), "what cannot be told counts");
    }

    #[test]
    fn a_call_that_waits_for_the_log_goes_on() {
        let mut state = CallState::new("p", &limits(500));
        // Before its first look and after it, each longer than the limit.
        for _ in 0..2 {
            let line = state.begin_line();
            state.end_line(line - Duration::from_secs(1));
            assert!(state.on_epoch_tick().is_ok());
        }
        assert!(state.on_epoch_tick().is_ok() && !state.timed_out);
    }

    #[test]
    fn a_guest_yields_from_the_second_tick_on_and_ends_at_its_deadline() {
        let mut state = CallState::new("p", &limits(60_000));
        for _ in 0..2 {
            // Whatever the call before did.
            state.begin_call();
            assert!(matches!(state.on_epoch_tick(), Ok(UpdateDeadline::Continue(1))));
            for _ in 0..3 {
                assert!(matches!(state.on_epoch_tick(), Ok(UpdateDeadline::YieldCustom(1, _))));
            }
        }
        let mut state = CallState::new("p", &limits(0));
        assert!(matches!(state.on_epoch_tick(), Ok(UpdateDeadline::Continue(1))));
        assert!(state.on_epoch_tick().is_err() && state.timed_out);
    }
}
