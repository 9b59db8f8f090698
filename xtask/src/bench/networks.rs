//! Training networks on all of MNIST: the program, and PyTorch on the processor with the same network and parameters.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{fresh_session, report};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::session::Session;
use crate::setup::{self, Scope};
use crate::statistics::median;
use crate::{process, terminal};

/// Networks that are trained.
const MODELS: [&str; 2] = ["cnn", "mlp"];

/// What a training reports of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Training {
    seconds: f64,
    accuracy: f64,
}

/// Trainings of one network with one number of threads.
#[derive(Debug)]
struct Case {
    model: &'static str,
    threads: usize,
    ours: Vec<Training>,
    theirs: Vec<Training>,
}

/// Trains by turns. `python` has torch; where none is given, one is installed, which takes several GB.
pub(super) fn run(layout: &Layout, python: Option<PathBuf>, epochs: u32, rounds: u32) -> Result<()> {
    setup::run(layout, Scope::Demo)?;
    let python = match python {
        Some(python) => python,
        None => torch_python(layout)?,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let session = fresh_session(layout, layout.cache().join("bench/networks"))?;
    let mut threads = vec![1, cores];
    threads.dedup();
    let cases = threads.into_iter().flat_map(|threads| MODELS.map(|model| (model, threads)));
    let mut cases: Vec<Case> =
        cases.map(|(model, threads)| Case { model, threads, ours: Vec::new(), theirs: Vec::new() }).collect();
    for round in 1..=rounds {
        for case in &mut cases {
            let host = train(&session, case, epochs)?;
            let peer = train_peer(layout, &python, case, epochs)?;
            let (model, threads) = (case.model, case.threads);
            terminal::line(&format!(
                "round {round}  {model}, {threads} threads  host {:.1} s  PyTorch {:.1} s",
                host.seconds, peer.seconds
            ));
            case.ours.push(host);
            case.theirs.push(peer);
        }
    }
    let result = summary(&cases, epochs);
    terminal::line(&format!("\n{result}"));
    let command = format!("cargo xtask bench networks --epochs {epochs} --rounds {rounds}");
    report::write(layout, "networks", &command, &result)
}

/// Python with torch, apart from what the other peers need: it is large.
fn torch_python(layout: &Layout) -> Result<PathBuf> {
    let folder = layout.cache().join("bench/torch");
    let requirements = layout.root().join("benches/python/networks_requirements.txt");
    setup::ensure_python(layout, &folder, &requirements)?;
    Ok(folder.join("bin/python"))
}

fn train(session: &Session<'_>, case: &Case, epochs: u32) -> Result<Training> {
    let (threads, epochs) = (case.threads.to_string(), format!("epochs={epochs}"));
    let mut command = session.host(["train", "--data", "mnist", "--name", case.model, "--model", case.model]);
    command.arg("--preprocess").arg(session.plugin("mnist-pixels"));
    command.args(["--threads", &threads, "--set", &epochs, "--json"]);
    let report = process::read_json(&mut command, "train the network")?;
    training(&report, "/metrics/accuracy")
}

fn train_peer(layout: &Layout, python: &Path, case: &Case, epochs: u32) -> Result<Training> {
    let mut command = Command::new(python);
    command.arg(layout.root().join("benches/python/networks_peer.py")).arg(layout.mnist());
    command.args(["--model", case.model, "--epochs", &epochs.to_string()]);
    // Threads that spin while they wait steal the time of others.
    command.args(["--threads", &case.threads.to_string()]).env("OMP_WAIT_POLICY", "PASSIVE");
    let report = process::read_json(&mut command, "train PyTorch's network")?;
    training(&report, "/accuracy")
}

fn training(report: &Value, accuracy: &str) -> Result<Training> {
    let number = |pointer: &str| {
        let value = report.pointer(pointer).and_then(Value::as_f64);
        value.ok_or_else(|| Error::new(format!("the training's report has no number at `{pointer}`")))
    };
    Ok(Training { seconds: number("/train_seconds")?, accuracy: number(accuracy)? })
}

fn summary(cases: &[Case], epochs: u32) -> String {
    let head = ["network", "threads", "trainer", "an epoch, s", "of PyTorch's", "test accuracy"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for case in cases {
        let of = |trainings: &[Training], value: fn(&Training) -> f64| {
            median(&trainings.iter().map(value).collect::<Vec<_>>())
        };
        let theirs = of(&case.theirs, |one| one.seconds);
        for (name, trainings) in [("host", &case.ours), ("PyTorch", &case.theirs)] {
            let seconds = of(trainings, |one| one.seconds);
            rows.push(vec![
                case.model.to_owned(),
                case.threads.to_string(),
                name.to_owned(),
                format!("{:.1}", seconds / f64::from(epochs)),
                format!("{:.2}", seconds / theirs),
                format!("{:.2} %", 100.0 * of(trainings, |one| one.accuracy)),
            ]);
        }
    }
    let rounds = cases.first().map_or(0, |case| case.ours.len());
    format!(
        "60,000 images, {epochs} epochs, batches of 64, Adam, each network with its defaults; median of {rounds}.\n\n{}",
        report::table(&rows, 0)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_ratio_of_epochs() {
        let trainings = |seconds: f64| vec![Training { seconds, accuracy: 0.9912 }];
        let case = Case { model: "cnn", threads: 2, ours: trainings(12.0), theirs: trainings(24.0) };
        let text = summary(&[case], 3);
        assert!(text.contains("| cnn | 2 | host | 4.0 | 0.50 | 99.12 % |"), "{text}");
        assert!(text.contains("| cnn | 2 | PyTorch | 8.0 | 1.00 | 99.12 % |"), "{text}");
    }
}
