//! What every process tells, by the names that Prometheus' client libraries have for it. Read from Linux' `/proc`; elsewhere
//! there is nothing of it.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::proto::{Counter, Metric, MetricFamily, MetricType};

use super::{family, gauge};

/// Ticks of the clock in which Linux counts processor time (`USER_HZ`), the same on every platform that it has.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn families() -> Vec<MetricFamily> {
    let mut families = Vec::new();
    let build = "The program's version.";
    families.push(gauge("host_build_info", build, &[("version", env!("CARGO_PKG_VERSION").to_owned())], 1.0));
    if let Some(open) = std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count) {
        families.push(gauge("process_open_fds", "Number of open file descriptors.", &[], open as f64));
    }
    let Some(stat) = Stat::read() else { return families };
    let resident = "Resident memory size in bytes.";
    families.push(gauge("process_resident_memory_bytes", resident, &[], stat.resident_bytes));
    let threads = "Number of OS threads in the process.";
    families.push(gauge("process_threads", threads, &[], stat.threads));
    let started = "Start time of the process since unix epoch in seconds.";
    families.push(gauge("process_start_time_seconds", started, &[], stat.started));
    let mut counter = Counter::default();
    counter.set_value(stat.processor_seconds);
    let mut metric = Metric::default();
    metric.set_counter(counter);
    let processor = "Total user and system CPU time spent in seconds.";
    families.push(family("process_cpu_seconds_total", processor, MetricType::COUNTER, metric));
    families
}

struct Stat {
    processor_seconds: f64,
    threads: f64,
    resident_bytes: f64,
    /// Since 1970.
    started: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The name of the program, in brackets, may hold anything. After it comes the third field, the state.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
        let age = uptime - field(22)? / TICKS_PER_SECOND;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let resident_kib: f64 = resident.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(Self {
            processor_seconds: (field(14)? + field(15)?) / TICKS_PER_SECOND,
            threads: field(20)?,
            resident_bytes: resident_kib * 1024.0,
            started: now - age,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let stat = Stat::read().unwrap();
        assert!(stat.resident_bytes > 1e6 && stat.threads >= 1.0 && stat.processor_seconds >= 0.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(stat.started > now - 86_400.0 && stat.started <= now + 1.0, "{}", stat.started);
    }
}
