//! Training on all of MNIST: the program, and Python's xgboost with the same version, parameters and threads.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{PARAMETERS, fresh_session, peer_python, report};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::session::Session;
use crate::setup::{self, Scope};
use crate::statistics::median;
use crate::{process, terminal};

/// What a training reports of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Training {
    seconds: f64,
    accuracy: f64,
}

pub(super) fn run(layout: &Layout, rounds: u32) -> Result<()> {
    setup::run(layout, Scope::Demo)?;
    let python = peer_python(layout)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let session = fresh_session(layout, layout.cache().join("bench/training"))?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let host = train(&session, &threads)?;
        let peer = train_peer(layout, &python, &threads)?;
        terminal::line(&format!("round {round}  host {:.1} s  Python {:.1} s", host.seconds, peer.seconds));
        ours.push(host);
        theirs.push(peer);
    }
    let result = summary(&ours, &theirs, &threads);
    terminal::line(&format!("\n{result}"));
    report::write(layout, "training", &format!("cargo xtask bench training --rounds {rounds}"), &result)
}

fn train(session: &Session<'_>, threads: &str) -> Result<Training> {
    let mut command = session.train(PARAMETERS.into_iter().chain(["--threads", threads, "--json"]));
    let report = process::read_json(&mut command, "train the model")?;
    training(&report, "/metrics/accuracy")
}

fn train_peer(layout: &Layout, python: &Path, threads: &str) -> Result<Training> {
    let mut command = Command::new(python);
    command.arg(layout.root().join("benches/python/training_peer.py")).arg(layout.mnist());
    // As the program does: threads that spin while they wait steal the time of others.
    command
        .args(["--rounds", "100", "--max-depth", "6", "--threads", threads])
        .env("OMP_WAIT_POLICY", "PASSIVE");
    let report = process::read_json(&mut command, "train Python's model")?;
    training(&report, "/accuracy")
}

fn training(report: &Value, accuracy: &str) -> Result<Training> {
    let number = |pointer: &str| {
        let value = report.pointer(pointer).and_then(Value::as_f64);
        value.ok_or_else(|| Error::new(format!("the training's report has no number at `{pointer}`")))
    };
    Ok(Training { seconds: number("/train_seconds")?, accuracy: number(accuracy)? })
}

fn summary(ours: &[Training], theirs: &[Training], threads: &str) -> String {
    let seconds =
        |trainings: &[Training]| median(&trainings.iter().map(|one| one.seconds).collect::<Vec<_>>());
    let accuracy =
        |trainings: &[Training]| median(&trainings.iter().map(|one| one.accuracy).collect::<Vec<_>>());
    let row = |name: &str, trainings: &[Training]| {
        vec![
            name.to_owned(),
            format!("{:.1}", seconds(trainings)),
            format!("{:.2}", seconds(trainings) / seconds(theirs)),
            format!("{:.2} %", 100.0 * accuracy(trainings)),
        ]
    };
    let head = [
        "trainer".to_owned(),
        "training, s".to_owned(),
        "of Python's".to_owned(),
        "test accuracy".to_owned(),
    ];
    let rows = [head.to_vec(), row("host", ours), row("Python xgboost", theirs)];
    format!(
        "60,000 images, 100 rounds of depth 6, `hist`, {threads} threads, median of {}.\n\n{}",
        ours.len(),
        report::table(&rows, 0)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_ratio() {
        let trainings = |seconds: [f64; 3]| seconds.map(|seconds| Training { seconds, accuracy: 0.97841 });
        let text = summary(&trainings([12.0, 11.0, 10.0]), &trainings([10.0, 9.0, 30.0]), "2");
        assert!(text.contains("| host | 11.0 | 1.10 | 97.84 % |"), "{text}");
        assert!(text.contains("| Python xgboost | 10.0 | 1.00 | 97.84 % |"), "{text}");
    }

    #[test]
    fn reads_reports() {
        let report = serde_json::json!({"train_seconds": 2.5, "metrics": {"accuracy": 0.9}});
        assert_eq!(training(&report, "/metrics/accuracy").unwrap(), Training { seconds: 2.5, accuracy: 0.9 });
        let error = training(&report, "/accuracy").unwrap_err().to_string();
        assert_eq!(error, "the training's report has no number at `/accuracy`");
    }
}
