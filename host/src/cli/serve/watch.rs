//! Looks now and then whether what is served is still what should be.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Interval, MissedTickBehavior};

use super::{Hangups, path_of};
use crate::cli::output::Output;
use crate::domain::Name;
use crate::registry::{ModelReference, VersionSelector};
use crate::serve::{
    ControlChange, ControlRequest, ENDPOINT_FILE_MAX_BYTES, EndpointChange, EndpointOutcome, EndpointPolicy,
    EndpointSpec, Endpoints, Reconciler, with_causes,
};

/// Clients that may wait for what becomes of an endpoint; what more ask for waits where it arrives.
const WAITING_MAX: usize = 64;

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
    /// Who waits for what becomes of an endpoint.
    waiting: Vec<Waiting>,
}

/// A client who has asked for a change.
struct Waiting {
    request: ControlRequest,
    /// Whether the endpoint was one that clients have unloaded.
    was_unloaded: bool,
    /// Looks that were begun before say nothing of what was asked for.
    after: u64,
}

struct WatchedFile {
    path: PathBuf,
    /// What was taken up, or told to be wrong, last.
    text: String,
    /// What the last look has found that was not taken up yet.
    pending: Option<String>,
    /// Endpoints of the file.
    names: BTreeSet<Name>,
    reading: Option<Reading>,
    /// Somebody has asked for a look since the file is being read.
    is_asked_again: bool,
}

/// A file that is being read.
struct Reading {
    text: JoinHandle<anyhow::Result<String>>,
    /// Somebody has asked for that.
    is_asked_for: bool,
}

impl Waiting {
    fn is_for_load_of(&self, name: &Name) -> bool {
        self.request.change == ControlChange::Load && self.request.name == *name
    }
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
        let file = file.map(|(path, text)| WatchedFile {
            path,
            text,
            pending: None,
            names: names(),
            reading: None,
            is_asked_again: false,
        });
        let (added, unloaded, waiting) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        Self(Some(Watched { reconciler, specs, file, policy, interval, added, unloaded, waiting }))
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
            let changes = tokio::select! {
                Some(request) = requests.recv(), if watched.has_room() => watched.change(request),
                () = next(&mut looks) => watched.look(false),
                () = hangups.next() => {
                    watched.reconciler.forget_failures();
                    watched.look(true)
                }
                text = read_to_end(&mut watched.file) => watched.take_up(text, output),
                changes = watched.reconciler.next() => changes,
            };
            note_changes(&changes, watched.reconciler.endpoints(), output);
            watched.reply();
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

    /// Begins to look at what is served. The file is first, unless it is still being read: it may be on a server that does not
    /// answer.
    fn look(&mut self, is_asked_for: bool) -> Vec<EndpointChange> {
        let is_read_first = self.file.as_mut().is_some_and(|file| file.begin_to_read(is_asked_for));
        if is_read_first { Vec::new() } else { self.reconciler.look() }
    }

    /// Takes up what the file says now. What clients have loaded beside it stays.
    fn take_up(&mut self, text: anyhow::Result<String>, output: &Output) -> Vec<EndpointChange> {
        let changed = self.file.as_mut().and_then(|file| file.changed(text).transpose());
        match changed {
            Some(Ok(specs)) => {
                if self.reconciler.endpoints().clear_file_failure() {
                    output.note("the endpoint file is followed again");
                }
                let before = std::mem::replace(&mut self.specs, specs);
                self.added.retain(|name| !self.specs.iter().any(|spec| spec.name == *name));
                let added = before.iter().filter(|spec| self.added.contains(&spec.name));
                self.specs.extend(added.cloned());
                // Whoever says another thing of an endpoint wants it.
                self.unloaded.retain(|name| spec_of(&before, name) == spec_of(&self.specs, name));
                self.forget_unloaded();
                self.want();
            }
            Some(Err(error)) => {
                self.reconciler.endpoints().note_file_failure(&format!("{error:#}"));
                output.warn(&format!("{error:#}: the endpoints stay as they are"));
            }
            None => {}
        }
        self.reconciler.look()
    }

    /// Tells what is wanted by now.
    fn want(&mut self) {
        let wanted = self.specs.iter().filter(|spec| !self.unloaded.contains(&spec.name));
        self.reconciler.want(wanted.cloned().collect());
    }

    /// Forgets what was unloaded and nobody wants any more: it could not be loaded again.
    fn forget_unloaded(&mut self) {
        let is_wanted = |name: &Name| self.specs.iter().any(|spec| spec.name == *name);
        self.unloaded.retain(is_wanted);
        self.reconciler.endpoints().retain_unloaded(is_wanted);
    }

    /// Takes note of what should be, and begins to make it so.
    fn change(&mut self, request: ControlRequest) -> Vec<EndpointChange> {
        let was_unloaded = self.unloaded.contains(&request.name);
        let after = self.reconciler.last_begun();
        let mut changes = Vec::new();
        match request.change {
            ControlChange::Unload => {
                self.reconciler.endpoints().note_unload(&request.name);
                // What nobody wants would only take room here, and be in the way of who wants it later.
                if self.specs.iter().any(|spec| spec.name == request.name) {
                    self.unloaded.insert(request.name.clone());
                }
                self.want();
                changes.extend(self.reconciler.remove(&request.name));
            }
            ControlChange::Load => {
                self.unloaded.remove(&request.name);
                if !self.specs.iter().any(|spec| spec.name == request.name) {
                    let model = ModelReference::Name(request.name.clone(), VersionSelector::Newest);
                    let spec = EndpointSpec::of_model(request.name.clone(), model);
                    self.specs.push(EndpointSpec { policy: self.policy, ..spec });
                    self.added.insert(request.name.clone());
                }
                self.want();
                // What has failed before is to be tried again.
                self.reconciler.forget_failure(&request.name);
            }
        }
        self.waiting.push(Waiting { request, was_unloaded, after });
        changes.extend(self.reconciler.look());
        changes
    }

    /// Whether another client may wait. Of those that have gone away one an endpoint is kept, for what becomes of that.
    fn has_room(&mut self) -> bool {
        let mut gone = BTreeSet::new();
        self.waiting.retain(|Waiting { request, .. }| {
            !request.reply.is_closed() || gone.insert(request.name.clone())
        });
        self.waiting.len() - gone.len() < WAITING_MAX
    }

    /// Tells those who have asked what has become of it, where that is known.
    fn reply(&mut self) {
        let is_known = |waiting: &Waiting, reconciler: &Reconciler| match waiting.request.change {
            ControlChange::Load => !reconciler.is_awaited(&waiting.request.name, waiting.after),
            ControlChange::Unload => true,
        };
        while let Some(at) = self.waiting.iter().position(|waiting| is_known(waiting, &self.reconciler)) {
            let waiting = self.waiting.remove(at);
            self.reply_to(waiting);
        }
    }

    /// Tells who has asked what has become of it. What cannot be loaded is no longer wanted if only clients have asked for it and
    /// none of them still waits, and otherwise is what it was before: unloaded, or tried again when something has changed.
    fn reply_to(&mut self, waiting: Waiting) {
        let Waiting { request: ControlRequest { name, change, reply }, was_unloaded, .. } = waiting;
        if change == ControlChange::Unload {
            _ = reply.send(Ok(()));
            return;
        }
        let mut failure = self.reconciler.endpoints().failure(&name);
        if self.reconciler.endpoints().get(name.as_str()).is_none() {
            failure.get_or_insert_with(|| "somebody else wants it to be gone".to_owned());
            if let Some(next) = self.waiting.iter_mut().find(|waiting| waiting.is_for_load_of(&name)) {
                next.was_unloaded |= was_unloaded;
            } else if self.added.remove(&name) {
                self.specs.retain(|spec| spec.name != name);
                self.forget_unloaded();
                self.want();
                self.reconciler.endpoints().clear_failure(&name);
            } else if was_unloaded {
                self.unloaded.insert(name.clone());
                self.want();
                self.reconciler.endpoints().clear_failure(&name);
            }
        }
        // Whoever has asked may have gone.
        _ = reply.send(failure.map_or(Ok(()), Err));
    }
}

/// What is said of an endpoint.
fn spec_of<'a>(specs: &'a [EndpointSpec], name: &Name) -> Option<&'a EndpointSpec> {
    specs.iter().find(|spec| spec.name == *name)
}

async fn next(looks: &mut Option<Interval>) {
    match looks {
        Some(looks) => _ = looks.tick().await,
        None => std::future::pending().await,
    }
}

/// Waits until the file has been read; where it is not being read, for ever.
async fn read_to_end(file: &mut Option<WatchedFile>) -> anyhow::Result<String> {
    let reading = file.as_mut().and_then(|file| file.reading.as_mut());
    match reading {
        Some(reading) => (&mut reading.text).await.map_err(Into::into).flatten(),
        None => std::future::pending().await,
    }
}

impl WatchedFile {
    /// Begins to read the file; false where it is being read already.
    fn begin_to_read(&mut self, is_asked_for: bool) -> bool {
        if self.reading.is_some() {
            self.is_asked_again |= is_asked_for;
            return false;
        }
        let path = self.path.clone();
        let text = spawn_blocking(move || read_text_of_file(&path));
        self.reading = Some(Reading { text, is_asked_for });
        true
    }

    /// What the file says, which has been read, if that is another thing than before. What lacks endpoints or is wrong may be half of
    /// a file that is being written: it is believed when the next look finds the same, or when somebody asks for the look.
    fn changed(&mut self, text: anyhow::Result<String>) -> anyhow::Result<Option<Vec<EndpointSpec>>> {
        let is_asked_for = self.reading.take().is_some_and(|reading| reading.is_asked_for);
        if std::mem::take(&mut self.is_asked_again) {
            self.begin_to_read(true);
        }
        let text = match text {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::oneshot;

    use super::*;
    use crate::plugin::{PluginRuntime, RuntimeConfig};
    use crate::registry::ModelLoader;
    use crate::serve::Deployer;
    use crate::store::Store;

    fn watched(store: Store) -> Watched {
        let deployer = Deployer {
            store,
            runtime: PluginRuntime::new(RuntimeConfig::default()).unwrap(),
            models: Arc::new(ModelLoader::default()),
            registry: None,
            window_rows: 0,
            window_memory: Arc::default(),
            rows_max: 1,
        };
        let reconciler = Reconciler::new(deployer, Arc::default());
        Watch::new(reconciler, Vec::new(), None, EndpointPolicy::default(), Duration::ZERO).0.unwrap()
    }

    /// Asks for an endpoint whose model cannot be found.
    fn ask_for_load(watched: &mut Watched) -> oneshot::Receiver<Result<(), String>> {
        let (reply, replied) = oneshot::channel();
        let name = "missing".parse().unwrap();
        watched.change(ControlRequest { name, change: ControlChange::Load, reply });
        replied
    }

    #[tokio::test]
    async fn all_who_ask_for_what_cannot_be_loaded_are_told_why() {
        let folder = tempfile::tempdir().unwrap();
        let mut watched = watched(Store::open(folder.path()).unwrap());
        // It is looked at for the first of them, and once more for the others.
        let mut replies = [(); 3].map(|()| ask_for_load(&mut watched));
        while !watched.waiting.is_empty() {
            watched.reconciler.next().await;
            watched.reply();
        }
        for reply in &mut replies {
            let refused = reply.try_recv().unwrap().unwrap_err();
            assert!(!refused.contains("somebody else"), "{refused}");
        }
        assert!(watched.specs.is_empty() && watched.added.is_empty(), "nobody wants it any more");
        assert_eq!(watched.reconciler.endpoints().failure(&"missing".parse().unwrap()), None);
    }
}
