//! Looks now and then whether what is served is still what should be.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Interval, MissedTickBehavior};

use super::{Hangups, path_of};
use crate::cli::output::Output;
use crate::domain::Name;
use crate::registry::{ModelReference, VersionSelector};
use crate::serve::{
    ControlChange, ControlRequest, ENDPOINT_FILE_MAX_BYTES, EndpointChange, EndpointOutcome, EndpointPolicy,
    EndpointSpec, Endpoints, Reconciler, with_causes,
};

/// Keeps endpoints what they should be.
pub(super) struct Watch(Option<Watched>);

struct Watched {
    reconciler: Reconciler,
    specs: Vec<EndpointSpec>,
    file: Option<WatchedFile>,
    /// How endpoints are computed that clients load.
    policy: EndpointPolicy,
    interval: Duration,
    /// Endpoints among those of `specs` that clients have loaded and nobody else has asked for.
    added: BTreeSet<Name>,
    /// Endpoints that clients have unloaded.
    unloaded: BTreeSet<Name>,
}

struct WatchedFile {
    path: PathBuf,
    /// What was taken up, or told to be wrong, last.
    text: String,
    /// What the last look has found that was not taken up yet.
    pending: Option<String>,
    /// Endpoints of the file.
    names: BTreeSet<Name>,
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
        policy: EndpointPolicy,
        interval: Duration,
    ) -> Self {
        let names = || specs.iter().map(|spec| spec.name.clone()).collect();
        let file = file.map(|(path, text)| WatchedFile { path, text, pending: None, names: names() });
        let (added, unloaded) = (BTreeSet::new(), BTreeSet::new());
        Self(Some(Watched { reconciler, specs, file, policy, interval, added, unloaded }))
    }

    /// Goes on for ever; does what is asked for by `requests` and `hangups`, too.
    pub(super) async fn run(
        self,
        mut requests: mpsc::Receiver<ControlRequest>,
        mut hangups: Hangups,
        output: &Output,
    ) {
        let Some(mut watched) = self.0 else {
            loop {
                hangups.next().await;
            }
        };
        let mut looks = watched.looks();
        loop {
            let mut is_hangup = false;
            let asked = tokio::select! {
                Some(request) = requests.recv() => Some(request),
                () = next(&mut looks) => None,
                () = hangups.next() => {
                    is_hangup = true;
                    watched.reconciler.forget_failures();
                    None
                }
            };
            let mut was_unloaded = false;
            if let Some(request) = &asked {
                was_unloaded = watched.unloaded.contains(&request.name);
                watched.change(request);
            } else if let Some(file) = &mut watched.file {
                match file.changed(is_hangup).await {
                    Ok(Some(specs)) => watched.take_up(specs),
                    Ok(None) => {}
                    Err(error) => output.warn(&format!("{error:#}: the endpoints stay as they are")),
                }
            }
            let specs: Vec<_> =
                watched.specs.iter().filter(|spec| !watched.unloaded.contains(&spec.name)).cloned().collect();
            let changes = watched.reconciler.reconcile(&specs).await;
            note_changes(&changes, watched.reconciler.endpoints(), output);
            if let Some(request) = asked {
                watched.reply(request, was_unloaded, changes);
            }
        }
    }
}

impl Watched {
    /// When to look, however often clients ask for something in between; none where that is never.
    fn looks(&self) -> Option<Interval> {
        let first = tokio::time::Instant::now() + self.interval;
        let mut looks = (!self.interval.is_zero()).then(|| tokio::time::interval_at(first, self.interval));
        if let Some(looks) = &mut looks {
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        looks
    }

    /// Takes up what the file says now. What clients have loaded beside it stays.
    fn take_up(&mut self, specs: Vec<EndpointSpec>) {
        let before = std::mem::replace(&mut self.specs, specs);
        self.added.retain(|name| !self.specs.iter().any(|spec| spec.name == *name));
        self.specs.extend(before.into_iter().filter(|spec| self.added.contains(&spec.name)));
        self.forget_unloaded();
    }

    /// Forgets what was unloaded and nobody wants any more: it could not be loaded again.
    fn forget_unloaded(&mut self) {
        let is_wanted = |name: &Name| self.specs.iter().any(|spec| spec.name == *name);
        self.unloaded.retain(is_wanted);
        self.reconciler.endpoints().retain_unloaded(is_wanted);
    }

    /// Takes note of what should be.
    fn change(&mut self, request: &ControlRequest) {
        match request.change {
            ControlChange::Unload => {
                self.reconciler.endpoints().note_unload(&request.name);
                // What nobody wants would only take room here, and be in the way of who wants it later.
                if self.specs.iter().any(|spec| spec.name == request.name) {
                    self.unloaded.insert(request.name.clone());
                }
            }
            ControlChange::Load => {
                self.unloaded.remove(&request.name);
                if !self.specs.iter().any(|spec| spec.name == request.name) {
                    let model = ModelReference::Name(request.name.clone(), VersionSelector::Newest);
                    let spec = EndpointSpec::of_model(request.name.clone(), model);
                    self.specs.push(EndpointSpec { policy: self.policy, ..spec });
                    self.added.insert(request.name.clone());
                }
                // What has failed before is to be tried again.
                self.reconciler.forget_failure(&request.name);
            }
        }
    }

    /// Tells who has asked what has become of it. What cannot be loaded is no longer wanted if only a client has asked for it, and
    /// otherwise is what it was before: unloaded, or tried again when something has changed.
    fn reply(&mut self, request: ControlRequest, was_unloaded: bool, changes: Vec<EndpointChange>) {
        let failed = changes.into_iter().find(|change| change.endpoint == request.name);
        let failed = failed.and_then(|change| change.outcome.err());
        let is_there = self.reconciler.endpoints().get(request.name.as_str()).is_some();
        if request.change == ControlChange::Load && !is_there {
            if self.added.remove(&request.name) {
                self.specs.retain(|spec| spec.name != request.name);
                self.forget_unloaded();
                self.reconciler.endpoints().clear_failure(&request.name);
            } else if was_unloaded {
                self.unloaded.insert(request.name.clone());
                self.reconciler.endpoints().clear_failure(&request.name);
            }
        }
        // Whoever has asked may have gone.
        let _ = request.reply.send(failed.map_or(Ok(()), |error| Err(with_causes(&error))));
    }
}

async fn next(looks: &mut Option<Interval>) {
    match looks {
        Some(looks) => _ = looks.tick().await,
        None => std::future::pending().await,
    }
}

impl WatchedFile {
    /// What the file says, if that is another thing than before. What lacks endpoints or is wrong may be half of a file that is
    /// being written: it is believed when the next look finds the same, or when somebody asks for the look.
    async fn changed(&mut self, is_asked_for: bool) -> anyhow::Result<Option<Vec<EndpointSpec>>> {
        // It may be on a server that does not answer, for which only this task shall wait.
        let path = self.path.clone();
        let text = match spawn_blocking(move || read_text_of_file(&path)).await.map_err(Into::into).flatten()
        {
            Ok(text) => text,
            // An editor may be about to put it there again.
            Err(error) => {
                let is_news = is_asked_for || !self.text.is_empty();
                self.text.clear();
                return if is_news { Err(error) } else { Ok(None) };
            }
        };
        let pending = self.pending.take();
        if text == self.text && !is_asked_for {
            return Ok(None);
        }
        let parsed = parse(&self.path, &text);
        let names: BTreeSet<Name> = parsed.iter().flatten().map(|spec| spec.name.clone()).collect();
        let is_believed = is_asked_for || pending.as_ref() == Some(&text);
        if !names.is_superset(&self.names) && !is_believed {
            self.pending = Some(text);
            return Ok(None);
        }
        self.text = text;
        if parsed.is_ok() {
            self.names = names;
        }
        parsed.map(Some)
    }
}

/// Reads an endpoint file: its text, and what it says.
pub(super) fn read(path: &Path) -> anyhow::Result<(String, Vec<EndpointSpec>)> {
    let text = read_text(path)?;
    let specs = parse(path, &text)?;
    Ok((text, specs))
}

/// Reads a file again. Of a pipe nobody knows when there is more.
fn read_text_of_file(path: &Path) -> anyhow::Result<String> {
    let is_file = std::fs::metadata(path).map(|metadata| metadata.is_file());
    if !is_file.with_context(|| format!("failed to read `{}`", path.display()))? {
        anyhow::bail!("`{}` is no file any more", path.display());
    }
    read_text(path)
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
            output.warn(&format!("endpoint `{}`: {}", change.endpoint, with_causes(error)));
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
