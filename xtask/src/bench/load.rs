//! Load on a server, by wrk.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::error::{Context as _, Error, Result};
use crate::layout::Layout;
use crate::process;

/// What one run of wrk saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Load {
    pub(super) requests: u64,
    pub(super) requests_per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p999_ms: f64,
}

/// How wrk makes requests of a file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Script {
    /// Its lines, as they are.
    Rotate,
    /// Tensors of the Open Inference Protocol: every so many bytes are a body, whose first are JSON.
    Tensors { body_bytes: usize, json_bytes: usize },
    /// Its lines, with a new number wherever `@N` stands.
    Count,
}

impl Script {
    fn file(self) -> &'static str {
        match self {
            Self::Rotate | Self::Tensors { .. } => "rotate.lua",
            Self::Count => "count.lua",
        }
    }

    fn arguments(self) -> Vec<String> {
        match self {
            Self::Tensors { body_bytes, json_bytes } => vec![body_bytes.to_string(), json_bytes.to_string()],
            Self::Rotate | Self::Count => vec![],
        }
    }
}

/// Asks `url` for `seconds` over as many connections as are given, with what `script` makes of `bodies` in turn, by `threads` at
/// most.
pub(super) fn run(
    layout: &Layout,
    script: Script,
    url: &str,
    bodies: &Path,
    connections: u32,
    threads: u32,
    seconds: u32,
) -> Result<Load> {
    let mut wrk = Command::new("wrk");
    // It wants a connection for each.
    wrk.args(["--threads", &threads.min(connections).to_string(), "--connections", &connections.to_string()]);
    wrk.args(["--duration", &format!("{seconds}s"), "--timeout", "10s", "--script"]);
    wrk.arg(layout.root().join("xtask/src/bench").join(script.file())).args([url, "--"]).arg(bodies);
    wrk.args(script.arguments());
    parse(&process::read_text(&mut wrk, "put load on the server")?, url)
}

fn parse(printed: &str, url: &str) -> Result<Load> {
    let line = printed.lines().find_map(|line| line.strip_prefix("result "));
    let line = line.ok_or_else(|| Error::new(format!("wrk gave no result for {url}")))?;
    let result: Value = serde_json::from_str(line).context("read the result of wrk")?;
    let number = |name: &str| result.get(name).and_then(Value::as_u64).unwrap_or_default();
    if number("errors") > 0 || number("requests") == 0 || number("duration_us") == 0 {
        return Err(Error::new(format!("{url} does not answer as it should: wrk says {line}")));
    }
    let requests = number("requests");
    Ok(Load {
        requests,
        requests_per_second: requests as f64 / (number("duration_us") as f64 / 1e6),
        p50_ms: number("p50_us") as f64 / 1e3,
        p95_ms: number("p95_us") as f64 / 1e3,
        p99_ms: number("p99_us") as f64 / 1e3,
        p999_ms: number("p999_us") as f64 / 1e3,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_line_of_the_script() {
        let line = r#"result {"requests":300,"duration_us":2000000,"p50_us":120,"p95_us":500,"p99_us":900,"p999_us":950,"errors":0}"#;
        let load = parse(&format!("Running 2s test\n{line}\n"), "u").unwrap();
        let expected = Load {
            requests: 300,
            requests_per_second: 150.0,
            p50_ms: 0.12,
            p95_ms: 0.5,
            p99_ms: 0.9,
            p999_ms: 0.95,
        };
        assert_eq!(load, expected);
    }

    #[test]
    fn errors_are_no_result() {
        for printed in ["", r#"result {"requests":3,"duration_us":2,"errors":1}"#, r#"result {"requests":0}"#]
        {
            parse(printed, "u").unwrap_err();
        }
    }
}
