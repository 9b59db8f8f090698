//! Experiments and runs: what MLflow's clients send, to the program and to MLflow's own server, both on SQLite.
//!
//! Both run all the time and are asked by turns. Search and history are measured on the program alone: MLflow's server
//! would take hours to be filled with as much.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cpu::{CpuClock, resident};
use super::load::{self, Load, Script};
use super::{fresh_folder, peer_python, report};
use crate::error::{Context as _, Error, Result};
use crate::http::Connection;
use crate::layout::Layout;
use crate::server::Server;
use crate::session::Session;
use crate::setup::{self, Scope, Tool};
use crate::statistics::{median, percentile};
use crate::terminal;

/// What is sent, over how many connections, and how many metrics a request has.
const LOADS: [(&str, u32, u32); 3] = [("log-batch", 1, 1_000), ("log-batch", 4, 1_000), ("log-metric", 8, 1)];

const SERVERS: [&str; 2] = ["host", "mlflow server"];

/// Before each measurement; a batch takes MLflow's server more than one on a busy machine.
const WARM_UP_SECONDS: u32 = 3;

/// Runs that are searched.
const RUNS: usize = 100_000;

/// Points of the metric whose history is asked for.
const POINTS: usize = 1_000_000;

/// Times that a start or a page is measured.
const REPEATED: usize = 20;

/// Connections that fill the program: their writes share commits.
const FILLERS: usize = 32;

struct Sample {
    load: usize,
    server: usize,
    measured: Load,
    cpu_us: f64,
}

/// What is measured on the program alone.
struct Alone {
    start_ms: f64,
    idle_mib: f64,
    search: Load,
    page_ms: f64,
    sampled_ms: f64,
}

pub(super) fn run(layout: &Layout, seconds: u32, rounds: u32) -> Result<()> {
    setup::run(layout, Scope::Demo)?;
    setup::ensure_tools(&[Tool::WRK])?;
    let python = peer_python(layout)?;
    let folder = layout.cache().join("bench/tracking");
    fresh_folder(&folder)?;
    let session = Session::new(layout, folder.join("state"));
    terminal::heading("Starting the servers");
    let start_ms = start_time(&session)?;
    let host = Server::start(&mut session.host(["server", "--port", "0"]), true)?;
    Connection::open(host.address()).and_then(|mut host| host.get("/health")).context("ask the server")?;
    let idle_mib = resident(host.id())?.now_mib;
    let (peer, peer_address) = start_mlflow(&python, &folder)?;

    terminal::heading("Measuring");
    let subjects = [(&host, host.address()), (&peer, peer_address)];
    let samples = measure(layout, &folder, subjects, seconds, rounds);
    // Also where that failed: killed, it would leave its workers behind.
    peer.stop()?;
    let samples = samples?;
    let search = measure_search(layout, &folder, host.address(), seconds)?;
    let (page_ms, sampled_ms) = measure_history(host.address())?;
    host.stop()?;
    let result = summary(&samples, &Alone { start_ms, idle_mib, search, page_ms, sampled_ms });
    terminal::line(&format!("\n{result}"));
    let command = format!("cargo xtask bench tracking --seconds {seconds} --rounds {rounds}");
    report::write(layout, "tracking", &command, &result)
}

/// Time from the start of the process to its word that it is ready, on a store that exists.
fn start_time(session: &Session<'_>) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..=REPEATED {
        let started = Instant::now();
        let server = Server::start(&mut session.host(["--quiet", "server", "--port", "0"]), false)?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        server.stop()?;
    }
    // The first made the store.
    Ok(median(times.get(1..).unwrap_or_default()))
}

/// MLflow's server as its documentation starts it.
fn start_mlflow(python: &Path, folder: &Path) -> Result<(Server, SocketAddr)> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.context("find a free port")?;
    // Its own word that it runs comes before its workers do, so that is not waited for.
    let arguments = format!(
        "echo http://{address}; exec {} -m mlflow server --host 127.0.0.1 --port {} --backend-store-uri sqlite:///{}/mlflow.db \
         --artifacts-destination {}/artifacts 2>&1",
        python.display(),
        address.port(),
        folder.display(),
        folder.display()
    );
    let server = Server::start(Command::new("sh").args(["-c", &arguments]), false)?;
    let started = Instant::now();
    loop {
        let answer = Connection::open(address).and_then(|mut mlflow| mlflow.get("/health"));
        if answer.is_ok_and(|answer| answer.status == 200) {
            break;
        }
        if started.elapsed() > Duration::from_secs(120) {
            return Err(Error::new("MLflow's server does not answer `/health`"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    // One of its workers is enough for that; the others still load, and would take the cores from what is measured.
    let clock = CpuClock::new()?;
    clock.wait_until_idle(server.id(), Duration::from_secs(1))?;
    Ok((server, address))
}

fn measure(
    layout: &Layout,
    folder: &Path,
    subjects: [(&Server, SocketAddr); 2],
    seconds: u32,
    rounds: u32,
) -> Result<Vec<Sample>> {
    let clock = CpuClock::new()?;
    let mut samples = Vec::new();
    for round in 1..=rounds {
        for (load, (endpoint, connections, metrics)) in LOADS.into_iter().enumerate() {
            for (server, (process, address)) in subjects.into_iter().enumerate() {
                let bodies = bodies(address, folder, endpoint, connections, metrics)?;
                let url = format!("http://{address}/api/2.0/mlflow/runs/{endpoint}");
                load::run(layout, Script::Count, &url, &bodies, connections, 1, WARM_UP_SECONDS)?;
                let before = clock.read(process.id())?;
                let measured = load::run(layout, Script::Count, &url, &bodies, connections, 1, seconds)?;
                let spent = clock.read(process.id())?.saturating_sub(before);
                let cpu_us = spent.as_secs_f64() * 1e6 / measured.requests as f64;
                terminal::line(&format!(
                    "round {round}  {endpoint:10} {connections} connections  {:13}  {:>7.0} requests/s  {cpu_us:>8.0} µs CPU",
                    SERVERS.get(server).copied().unwrap_or_default(),
                    measured.requests_per_second
                ));
                samples.push(Sample { load, server, measured, cpu_us });
            }
        }
    }
    Ok(samples)
}

/// A file of bodies, one for a run of each connection, in which `@N` stands for a number that is new each time.
fn bodies(
    address: SocketAddr,
    folder: &Path,
    endpoint: &str,
    connections: u32,
    metrics: u32,
) -> Result<PathBuf> {
    let mut client = Client::open(address)?;
    let mut text = String::new();
    for _ in 0..connections {
        let run_id = client.create_run()?;
        let points = (0..metrics).map(|point| {
            // Steps go on from batch to batch, as those of a training do.
            let (key, step) = (point % 10, point / 10);
            format!(r#"{{"key":"m{key}","value":0.{point},"timestamp":17@N,"step":@N{step:02}}}"#)
        });
        let points = points.collect::<Vec<_>>().join(",");
        text.push_str(&match endpoint {
            "log-batch" => format!("{{\"run_id\":\"{run_id}\",\"metrics\":[{points}]}}\n"),
            _ => format!(
                "{{\"run_id\":\"{run_id}\",\"key\":\"loss\",\"value\":0.5,\"timestamp\":17@N,\"step\":@N}}\n"
            ),
        });
    }
    let path = folder.join("bodies.jsonl");
    std::fs::write(&path, text).context("write bodies")?;
    Ok(path)
}

/// Fills an experiment with runs of one metric and one parameter each, and searches them by both.
fn measure_search(layout: &Layout, folder: &Path, address: SocketAddr, seconds: u32) -> Result<Load> {
    terminal::line(&format!("filling in {RUNS} runs"));
    let mut client = Client::open(address)?;
    let experiment = client.ask("experiments/create", &json!({ "name": "searched" }))?;
    let experiment = text(&experiment, "/experiment_id")?;
    let fill = |filler: usize| -> Result<()> {
        let mut client = Client::open(address)?;
        for run in (filler..RUNS).step_by(FILLERS) {
            // Spread evenly and without order: a multiplicative hash.
            let loss = (run as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) as f64 / u64::MAX as f64;
            let new = json!({ "experiment_id": experiment, "start_time": run });
            let run_id = text(&client.ask("runs/create", &new)?, "/run/info/run_id")?;
            client.ask(
                "runs/log-batch",
                &json!({
                    "run_id": run_id,
                    "metrics": [{ "key": "loss", "value": loss, "timestamp": 1, "step": 0 }],
                    "params": [{ "key": "depth", "value": (run % 10).to_string() }],
                }),
            )?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let fill = &fill;
        let fillers: Vec<_> = (0..FILLERS).map(|filler| scope.spawn(move || fill(filler))).collect();
        fillers.into_iter().try_for_each(|filler| {
            filler.join().map_err(|_| Error::new("a thread that fills in runs has failed"))?
        })
    })?;
    let search = |filter: String| {
        json!({
            "experiment_ids": [experiment], "max_results": 100, "filter": filter,
            "order_by": ["metrics.loss ASC"],
        })
    };
    let filters = (1..=50).flat_map(|step| {
        let bound = f64::from(step) / 50.0;
        [
            format!("metrics.loss < {bound}"),
            format!("metrics.loss > {bound} and params.depth = '{}'", step % 10),
        ]
    });
    let lines: Vec<String> = filters.map(|filter| search(filter).to_string()).collect();
    let path = folder.join("searches.jsonl");
    std::fs::write(&path, lines.join("\n") + "\n").context("write searches")?;
    let url = format!("http://{address}/api/2.0/mlflow/runs/search");
    load::run(layout, Script::Rotate, &url, &path, 1, 1, seconds)
}

/// Logs one long metric; gives the median time of its first page and of a view with 320 of its points.
fn measure_history(address: SocketAddr) -> Result<(f64, f64)> {
    terminal::line(&format!("filling in {POINTS} points"));
    let mut client = Client::open(address)?;
    let run_id = client.create_run()?;
    for batch in 0..POINTS / 1_000 {
        let points: Vec<Value> = (0..1_000)
            .map(|point| json!({ "key": "long", "value": point, "timestamp": 1, "step": batch * 1_000 + point }))
            .collect();
        client.ask("runs/log-batch", &json!({ "run_id": run_id, "metrics": points }))?;
    }
    let mut time = |path: String, expected: usize| -> Result<f64> {
        let mut times = Vec::new();
        for _ in 0..REPEATED {
            let started = Instant::now();
            let answer = client.connection.get(&path).context("ask for a history")?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
            let answer: Value = serde_json::from_slice(&answer.body).context("read a history")?;
            let found = answer.get("metrics").and_then(Value::as_array).map_or(0, Vec::len);
            if found < expected {
                return Err(Error::new(format!("expected {expected} points of {path}, found {found}")));
            }
        }
        Ok(percentile(&times, 50.0))
    };
    let page =
        format!("/api/2.0/mlflow/metrics/get-history?run_id={run_id}&metric_key=long&max_results=1000");
    let sampled = format!(
        "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval?run_ids={run_id}&metric_key=long&max_results=320"
    );
    Ok((time(page, 1_000)?, time(sampled, 320)?))
}

/// A client of MLflow's API.
struct Client {
    connection: Connection,
}

impl Client {
    fn open(address: SocketAddr) -> Result<Self> {
        Ok(Self { connection: Connection::open(address).context("connect to the server")? })
    }

    fn ask(&mut self, endpoint: &str, body: &Value) -> Result<Value> {
        let path = format!("/api/2.0/mlflow/{endpoint}");
        let answer = self.connection.post(&path, body.to_string().as_bytes()).context("ask the server")?;
        if answer.status != 200 {
            let said = String::from_utf8_lossy(&answer.body).into_owned();
            return Err(Error::new(format!("{endpoint} answered {}: {said}", answer.status)));
        }
        serde_json::from_slice(&answer.body).context("read an answer")
    }

    fn create_run(&mut self) -> Result<String> {
        let run = self.ask("runs/create", &json!({ "experiment_id": "0", "start_time": 1 }))?;
        text(&run, "/run/info/run_id")
    }
}

fn text(value: &Value, pointer: &str) -> Result<String> {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.map(str::to_owned).ok_or_else(|| Error::new(format!("an answer has no `{pointer}`")))
}

/// Medians, and what they are relative to each other.
fn summary(samples: &[Sample], alone: &Alone) -> String {
    let head = [
        "sent",
        "connections",
        "server",
        "requests/s",
        "metrics/s",
        "p50, ms",
        "p99, ms",
        "CPU a request, µs",
        "times",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (load, (endpoint, connections, metrics)) in LOADS.into_iter().enumerate() {
        let medians = |server: usize, value: fn(&Sample) -> f64| {
            let chosen = samples.iter().filter(|sample| (sample.load, sample.server) == (load, server));
            median(&chosen.map(value).collect::<Vec<_>>())
        };
        let rate = |server| medians(server, |sample| sample.measured.requests_per_second);
        for (server, name) in SERVERS.into_iter().enumerate() {
            rows.push(vec![
                endpoint.to_owned(),
                connections.to_string(),
                name.to_owned(),
                format!("{:.0}", rate(server)),
                format!("{:.0}", rate(server) * f64::from(metrics)),
                format!("{:.2}", medians(server, |sample| sample.measured.p50_ms)),
                format!("{:.2}", medians(server, |sample| sample.measured.p99_ms)),
                format!("{:.0}", medians(server, |sample| sample.cpu_us)),
                format!("{:.1}", rate(server) / rate(1)),
            ]);
        }
    }
    let Alone { start_ms, idle_mib, search, page_ms, sampled_ms } = alone;
    let measured = [
        ("`host server`, from its start to ready".to_owned(), format!("{start_ms:.0} ms")),
        ("memory when idle".to_owned(), format!("{idle_mib:.0} MiB")),
        (
            format!("search over {RUNS} runs by metric, ordered by it, p50"),
            format!("{:.1} ms", search.p50_ms),
        ),
        ("the same, p95".to_owned(), format!("{:.1} ms", search.p95_ms)),
        (format!("first 1,000 of {POINTS} points of a metric"), format!("{page_ms:.1} ms")),
        ("320 points that stand for all of them".to_owned(), format!("{sampled_ms:.1} ms")),
    ];
    let mut alone = vec![vec!["host alone".to_owned(), "median".to_owned()]];
    alone.extend(measured.map(|(what, value)| vec![what, value]));
    format!("{}\n{}", report::table(&rows, 0), report::table(&alone, 0))
}
