//! Looks now and then whether what is served is still what should be.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use super::path_of;
use crate::cli::output::Output;
use crate::serve::{
    ENDPOINT_FILE_MAX_BYTES, EndpointChange, EndpointOutcome, EndpointSpec, Endpoints, Reconciler,
};

/// Keeps endpoints what they should be.
pub(super) struct Watch(Option<Watched>);

struct Watched {
    reconciler: Reconciler,
    specs: Vec<EndpointSpec>,
    file: Option<WatchedFile>,
    interval: Duration,
}

struct WatchedFile {
    path: PathBuf,
    text: String,
}

impl Watch {
    /// Leaves everything as it is.
    pub(super) fn never() -> Self {
        Self(None)
    }

    pub(super) fn new(
        reconciler: Reconciler,
        specs: Vec<EndpointSpec>,
        file: Option<(PathBuf, String)>,
        interval: Duration,
    ) -> Self {
        let file = file.map(|(path, text)| WatchedFile { path, text });
        let watched = Watched { reconciler, specs, file, interval };
        Self((!interval.is_zero()).then_some(watched))
    }

    /// Goes on for ever.
    pub(super) async fn run(self, output: &Output) {
        let Some(mut watched) = self.0 else { return std::future::pending().await };
        loop {
            tokio::time::sleep(watched.interval).await;
            if let Some(file) = &mut watched.file {
                match file.changed() {
                    Ok(Some(specs)) => watched.specs = specs,
                    Ok(None) => {}
                    Err(error) => output.warn(&format!("{error:#}: the endpoints stay as they are")),
                }
            }
            let changes = watched.reconciler.reconcile(&watched.specs).await;
            note_changes(&changes, watched.reconciler.endpoints(), output);
        }
    }
}

impl WatchedFile {
    /// What the file says, if that is another thing than before.
    fn changed(&mut self) -> anyhow::Result<Option<Vec<EndpointSpec>>> {
        let text = match read_text(&self.path) {
            Ok(text) => text,
            // An editor may be about to put it there again.
            Err(error) => {
                let is_news = !self.text.is_empty();
                self.text.clear();
                return if is_news { Err(error) } else { Ok(None) };
            }
        };
        if text == self.text {
            return Ok(None);
        }
        self.text.clone_from(&text);
        parse(&self.path, &text).map(Some)
    }
}

/// Reads an endpoint file: its text, and what it says.
pub(super) fn read(path: &Path) -> anyhow::Result<(String, Vec<EndpointSpec>)> {
    let text = read_text(path)?;
    let specs = parse(path, &text)?;
    Ok((text, specs))
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    use std::io::Read as _;
    let failed = || format!("failed to read `{}`", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(failed)?;
    file.take(ENDPOINT_FILE_MAX_BYTES as u64 + 1).read_to_string(&mut text).with_context(failed)?;
    Ok(text)
}

fn parse(path: &Path, text: &str) -> anyhow::Result<Vec<EndpointSpec>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    EndpointSpec::parse_file(text, folder).with_context(|| format!("`{}`", path.display()))
}

/// Tells what could not be deployed.
pub(super) fn note_failures(changes: &[EndpointChange], output: &Output) {
    for change in changes {
        if let Err(error) = &change.outcome {
            output.warn(&format!("endpoint `{}`: {error}", change.endpoint));
        }
    }
}

fn note_changes(changes: &[EndpointChange], endpoints: &Endpoints, output: &Output) {
    note_failures(changes, output);
    for change in changes {
        match change.outcome {
            Ok(EndpointOutcome::Deployed) => {
                let routing = endpoints.get(change.endpoint.as_str()).map(|endpoint| endpoint.routing());
                for route in routing.iter().flat_map(|routing| routing.routes()) {
                    output.note(&format!(
                        "endpoint `{}`: now {}",
                        change.endpoint,
                        path_of(&route.deployment)
                    ));
                }
            }
            Ok(EndpointOutcome::Removed) => output.note(&format!("endpoint `{}`: removed", change.endpoint)),
            Err(_) => {}
        }
    }
}
