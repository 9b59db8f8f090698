//! What every process tells, by the names that Prometheus' client libraries have for it. Read from Linux' `/proc`; elsewhere
//! there is nothing of it.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::proto::{Counter, Metric, MetricFamily, MetricType};

use rustix::process::{Resource, getrlimit};

use super::{family, gauge};

/// Ticks of the clock in which Linux counts processor time (`USER_HZ`), the same on every platform that it has.
const TICKS_PER_SECOND: f64 = 100.0;

/// Since 1970. Read once: from two clocks of different moments it is another each time, which means a restart to who watches.
static STARTED: OnceLock<Option<f64>> = OnceLock::new();

pub(super) fn families() -> Vec<MetricFamily> {
    let mut families = Vec::new();
    let build = "The program's version.";
    families.push(gauge("host_build_info", build, &[("version", env!("CARGO_PKG_VERSION").to_owned())], 1.0));
    if let Some(open) = std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count) {
        families.push(gauge("process_open_fds", "Number of open file descriptors.", &[], open as f64));
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        families.push(gauge("process_max_fds", "Maximum number of open file descriptors.", &[], most as f64));
    }
    let Some(stat) = Stat::read() else { return families };
    let resident = "Resident memory size in bytes.";
    families.push(gauge("process_resident_memory_bytes", resident, &[], stat.resident_bytes));
    let virtual_memory = "Virtual memory size in bytes.";
    families.push(gauge("process_virtual_memory_bytes", virtual_memory, &[], stat.virtual_bytes));
    let threads = "Number of OS threads in the process.";
    families.push(gauge("process_threads", threads, &[], stat.threads));
    let started = "Start time of the process since unix epoch in seconds.";
    if let Some(at) = STARTED.get_or_init(|| started_at(&stat)) {
        families.push(gauge("process_start_time_seconds", started, &[], *at));
    }
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
    virtual_bytes: f64,
    /// Since the machine's start.
    started_seconds: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The name of the program, in brackets, may hold anything. After it comes the third field, the state.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let resident_kib: f64 = resident.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(Self {
            processor_seconds: (field(14)? + field(15)?) / TICKS_PER_SECOND,
            threads: field(20)?,
            resident_bytes: resident_kib * 1024.0,
            virtual_bytes: field(23)?,
            started_seconds: field(22)? / TICKS_PER_SECOND,
        })
    }
}

/// When the process was started, as the clock says now.
fn started_at(stat: &Stat) -> Option<f64> {
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    Some(now - (uptime - stat.started_seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let stat = Stat::read().unwrap();
        assert!(stat.virtual_bytes >= stat.resident_bytes && stat.resident_bytes > 1e6);
        assert!(stat.threads >= 1.0 && stat.processor_seconds >= 0.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let started = started_at(&stat).unwrap();
        assert!(started > now - 86_400.0 && started <= now + 1.0, "{started}");
    }

    #[test]
    fn what_does_not_change_is_told_the_same_each_time() {
        let value = |families: &[MetricFamily], name: &str| {
            families.iter().find(|family| family.name() == name).unwrap().get_metric()[0]
                .get_gauge()
                .get_value()
        };
        let first = families();
        assert!(value(&first, "process_max_fds") >= value(&first, "process_open_fds"));
        for _ in 0..50 {
            let again = families();
            let name = "process_start_time_seconds";
            assert_eq!(value(&again, name), value(&first, name));
        }
    }
}
