//! `cargo xtask demo`: the whole path on MNIST, in the commands that a user would type.
//!
//! In order: set up, add the data, train, serve, classify test images over HTTP, see that the detector finds them
//! stable, classify inverted images, see that it finds them drifted, stop the server.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::arguments::Arguments;
use crate::error::{Context as _, Error, Result};
use crate::layout::Layout;
use crate::mnist::{self, TestImages};
use crate::server::Server;
use crate::session::{self, Answers, Session};
use crate::setup::{self, Scope};
use crate::statistics::percentile;
use crate::{process, terminal};

const USAGE: &str = "\
Set up, then train, serve and watch a model of handwritten digits

Usage: cargo xtask demo [OPTIONS]

Options:
  --full       Train on all 60,000 images, 100 rounds of depth 6, instead of 10,000 images and 30 rounds
  --port PORT  Serve on this port [default: any free one]";

/// Images as the model knows them.
const IMAGES: usize = 100;

/// Images that it has not been trained for. Others than those before, so that nothing but the colours differs.
const INVERTED: usize = 500;

/// Exit code of `host monitor run` where it found drift.
const DRIFTED: i32 = 4;

pub(crate) fn command(mut arguments: Arguments) -> Result<()> {
    arguments.help(USAGE);
    let full = arguments.flag("--full");
    let port: u16 = arguments.value("--port", "a number up to 65535")?.unwrap_or(0);
    arguments.finish()?;

    let layout = Layout::find()?;
    terminal::heading("Setting up");
    setup::run(&layout, Scope::Demo)?;
    let images = TestImages::read(&layout.mnist())?;
    let folder = scratch_folder()?;
    let state = folder.join("state");
    let session = Session::new(&layout, state.clone());
    let environment = environment(&layout, &state);
    terminal::line("");
    terminal::command(&environment);

    terminal::heading("Adding the data");
    session.run(&mut session.host(["data", "add", "mnist", "examples/mnist/data"]), "add the data")?;

    terminal::heading(if full { "Training on 60,000 images" } else { "Training on 10,000 images" });
    let options: &[&str] = match full {
        true => &["--rounds", "100", "--set", "max_depth=6"],
        false => &["--train-rows", "10000", "--rounds", "30"],
    };
    session.run(&mut session.train(options.iter().copied()), "train the model")?;

    terminal::heading("Serving");
    let mut serve = session.host(["serve", "--model", "mnist", "--port", &port.to_string()]);
    session.show(&serve);
    let server = Server::start(&mut serve, true)?;

    terminal::heading(&format!("Classifying {IMAGES} test images, one request each"));
    let known = || images.iter().take(IMAGES);
    let bodies: Vec<_> = known().map(|image| mnist::request_body(image.pixels.iter().copied())).collect();
    let request = folder.join("request.json");
    write_request(&request, &bodies)?;
    show_request(&server, &request);
    let answers = session::classify(server.address(), "/serve/mnist", &bodies)?;
    show_answers(&answers, answers.correct(known().map(|image| image.label)));
    watch(&session, &server, IMAGES, IMAGES, false)?;

    terminal::heading(&format!("Classifying {INVERTED} inverted images: black on white"));
    let unknown = || images.iter().skip(IMAGES).take(INVERTED);
    let inverted = unknown().map(|image| mnist::request_body(image.pixels.iter().map(|pixel| 255 - pixel)));
    let inverted: Vec<_> = inverted.collect();
    let request = folder.join("inverted.json");
    write_request(&request, &inverted)?;
    show_request(&server, &request);
    let answers = session::classify(server.address(), "/serve/mnist", &inverted)?;
    show_answers(&answers, answers.correct(unknown().map(|image| image.label)));
    watch(&session, &server, IMAGES + INVERTED, INVERTED, true)?;

    terminal::heading("Stopping the server");
    let status = server.stop()?;
    if !status.success() {
        return Err(Error::new(format!("the server did not stop cleanly: it ended with {status}")));
    }
    show_next(&layout, &environment, &folder.join("request.json"), full);
    Ok(())
}

/// A new folder that only this user can read, and that stays, for what is tried next.
fn scratch_folder() -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("host-demo-{}", std::process::id()));
    // Fails where it exists, so what is in it is ours.
    let created = std::fs::DirBuilder::new().mode(0o700).create(&folder);
    created.context(format_args!("create `{}`", folder.display()))?;
    Ok(folder)
}

/// What a shell needs for the commands that are shown.
fn environment(layout: &Layout, state: &Path) -> String {
    let programs = layout.target().join("release");
    format!("export HOST_STATE_DIR={} PATH={}:$PATH", process::display_path(state), programs.display())
}

/// Keeps the first of `bodies`, for whoever wants to send it again.
fn write_request(path: &Path, bodies: &[Vec<u8>]) -> Result<()> {
    let first = bodies.first().map(Vec::as_slice).unwrap_or_default();
    std::fs::write(path, first).context(format_args!("write `{}`", path.display()))
}

fn show_request(server: &Server, request: &Path) {
    let mut curl = Command::new("curl");
    curl.arg(format!("http://{}/serve/mnist", server.address())).arg("--data");
    terminal::command(&format!("{} @{}", process::display(&curl), process::display_path(request)));
}

fn show_answers(answers: &Answers, correct: usize) {
    let count = answers.labels.len();
    terminal::line(&format!("{}\n… and {} more\n", answers.first.trim(), count.saturating_sub(1)));
    let milliseconds = |percent| format!("{:.2} ms", percentile(&answers.latencies_ms, percent));
    let confidence = answers.probabilities.iter().sum::<f64>() / count.max(1) as f64;
    let rate = count as f64 / answers.elapsed.as_secs_f64();
    let rows = [
        ("accuracy", format!("{:.1} %", 100.0 * correct as f64 / count.max(1) as f64)),
        ("mean probability", format!("{:.1} %", 100.0 * confidence)),
        ("latency p50", milliseconds(50.0)),
        ("latency p90", milliseconds(90.0)),
        ("latency p99", milliseconds(99.0)),
        ("requests/s", format!("{rate:.0}")),
    ];
    terminal::line(&terminal::table(&rows.map(|(name, value)| vec![name.to_owned(), value])));
}

/// Runs the detector on the newest `rows` of the `written` that were sent, and checks its verdict.
fn watch(
    session: &Session<'_>,
    server: &Server,
    written: usize,
    rows: usize,
    expect_drift: bool,
) -> Result<()> {
    session::wait_for_window(server.address(), written as u64)?;
    let mut monitor = session.host(["monitor", "run", "--endpoint", "mnist"]);
    monitor.arg("--detector").arg(session.plugin("psi")).args(["--rows", &rows.to_string()]);
    session.show(&monitor);
    let status = process::status(&mut monitor, "watch the endpoint")?;
    match (status.code(), expect_drift) {
        (Some(0), false) | (Some(DRIFTED), true) => Ok(()),
        (Some(0), true) => Err(Error::new("the detector did not notice that the images are inverted")),
        (Some(DRIFTED), false) => {
            Err(Error::new("the detector found drift in images like those of the training"))
        }
        _ => Err(Error::new(format!("failed to watch the endpoint: `host monitor run` ended with {status}"))),
    }
}

fn show_next(layout: &Layout, environment: &str, request: &Path, full: bool) {
    terminal::heading("What to try next");
    terminal::command(environment);
    terminal::command(
        "host run list    # the training, with its metrics; `host server` shows it to MLflow's clients",
    );
    terminal::command("host model show mnist");
    terminal::command(&format!(
        "host plugin inspect {}",
        process::display_path(&layout.plugin("mnist-pixels"))
    ));
    terminal::command("host serve --model mnist --port 8080");
    let request = process::display_path(request);
    terminal::command(&format!(
        "curl http://localhost:8080/serve/mnist --data @{request}    # in another terminal"
    ));
    if !full {
        terminal::command("cargo xtask demo --full");
    }
}
