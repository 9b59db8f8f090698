//! Brings endpoints to what they should be: new versions are loaded beside those that answer and take over as one. Each
//! endpoint is looked at by itself, so that one whose versions load slowly, or not at all, keeps no other from moving.

mod columns;
mod folders;
mod look;
mod wanted;

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{AbortHandle, Abortable, Aborted};
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::columns::{of_like, shadows_of, tell_other_columns};
use self::folders::Folders;
use self::look::{Change, Found, Look, Looked, Memory};
use self::wanted::{is_set_as, shape};
use super::capture::with_causes;
use super::deployer::{DeployError, Deployer};
use super::graph::{Graph, GraphError};
use super::spec::EndpointSpec;
use super::{Deployment, Endpoint, Endpoints, Node, Route, Routing, Shadow};
use crate::domain::Name;

/// Versions that are loaded at once while requests are answered, with those for which nobody waits any more. Each may want all cores
/// and, for a moment, a few times the memory that it keeps, some of which stays with its thread; but one that waits for its store
/// shall not keep the others waiting.
const LOADS_MAX: usize = 2;

/// How long who is wanted no more stays there for those that come, and what is made of others waits for those that may be moving.
const WAITS_MAX: Duration = Duration::from_secs(30);

/// How often it is looked whether what has waited for so long can go on.
const LATE_PAUSE: Duration = Duration::from_secs(1);

/// What became of an endpoint.
#[derive(Debug)]
pub struct EndpointChange {
    /// Which.
    pub endpoint: Name,
    /// What.
    pub outcome: Result<EndpointOutcome, DeployError>,
}

/// What became of an endpoint that is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointOutcome {
    /// Others answer than before.
    Deployed,
    /// It is there no more.
    Removed,
}

/// Brings endpoints to what they should be.
pub struct Reconciler {
    deployer: Deployer,
    endpoints: Arc<Endpoints>,
    specs: Vec<EndpointSpec>,
    /// Of endpoints that are not being looked at.
    memories: HashMap<Name, Memory>,
    looks: FuturesUnordered<Abortable<Pin<Box<dyn Future<Output = Looked> + Send>>>>,
    /// Those looks that are not given up.
    looked_at: HashMap<Name, Ongoing>,
    /// The number of the last look that was begun.
    last_begun: u64,
    /// Of each endpoint the number of the last look that came to its end.
    ended: HashMap<Name, u64>,
    /// Of loads at once.
    places: Arc<Semaphore>,
    folders: Arc<Folders>,
    /// What is made of others of which one has moved, until it is known whether the others move too.
    following: HashMap<Name, Following>,
    /// The failures that were told last.
    told: HashMap<Name, String>,
}

/// An endpoint that waits for those it is made of.
struct Following {
    since: Instant,
    /// The number of the last look that was begun when one of them moved: those that were begun later tell what has moved with it.
    after: u64,
}

/// A look that is under way.
struct Ongoing {
    number: u64,
    begun: Instant,
    /// What the endpoint should be.
    spec: EndpointSpec,
    giving_up: AbortHandle,
    /// Whether it has found what to load.
    is_loading: Arc<AtomicBool>,
    /// Whether the endpoint is to be looked at once more after that.
    is_once_more: bool,
    /// Whether what has failed until then is to be forgotten.
    is_forgetting: bool,
}

impl Ongoing {
    fn forget_and_look_again(&mut self) {
        (self.is_once_more, self.is_forgetting) = (true, true);
    }

    /// Whether it is not taken for one that hangs.
    fn ends_soon(&self) -> bool {
        self.begun.elapsed() < WAITS_MAX
    }
}

impl Reconciler {
    /// Changes `endpoints` by what `deployer` loads.
    pub fn new(deployer: Deployer, endpoints: Arc<Endpoints>) -> Self {
        Self {
            deployer,
            endpoints,
            specs: Vec::new(),
            memories: HashMap::new(),
            looks: FuturesUnordered::new(),
            looked_at: HashMap::new(),
            last_begun: 0,
            ended: HashMap::new(),
            places: Arc::new(Semaphore::new(1)),
            folders: Arc::default(),
            following: HashMap::new(),
            told: HashMap::new(),
        }
    }

    /// What is changed.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Takes `specs` for what the endpoints should be, from the next look on. What was to become of those that should be something
    /// else by now is given up.
    pub fn want(&mut self, specs: Vec<EndpointSpec>) {
        self.looked_at.retain(|_, ongoing| {
            let is_wanted_still = specs.contains(&ongoing.spec);
            if !is_wanted_still {
                ongoing.giving_up.abort();
            }
            is_wanted_still
        });
        self.specs = specs;
    }

    /// Tries again what has failed for an endpoint, and tells it again.
    pub fn forget_failure(&mut self, endpoint: &Name) {
        self.told.remove(endpoint);
        if let Some(spec) = self.specs.iter().find(|spec| spec.name == *endpoint) {
            self.folders.forget_failures(|folder| spec.models().any(|model| model == folder));
        }
        if let Some(memory) = self.memories.get_mut(endpoint) {
            memory.forget_failure();
        }
        if let Some(ongoing) = self.looked_at.get_mut(endpoint) {
            ongoing.forget_and_look_again();
        }
    }

    /// Tries again all that has failed, and tells it again.
    pub fn forget_failures(&mut self) {
        self.told.clear();
        self.folders.forget_failures(|_| true);
        self.memories.values_mut().for_each(Memory::forget_failure);
        self.looked_at.values_mut().for_each(Ongoing::forget_and_look_again);
    }

    /// Removes an endpoint that is wanted no more, without waiting for others.
    pub fn remove(&mut self, name: &Name) -> Option<EndpointChange> {
        self.endpoints.get(name.as_str())?;
        self.endpoints.retain(|endpoint| endpoint.name() != name);
        for spec in &self.specs {
            if let Some(node) = spec.graph.as_ref().filter(|node| node.endpoints().contains(&name)) {
                self.note_missing(spec, node, name);
            }
        }
        Some(EndpointChange { endpoint: name.clone(), outcome: Ok(EndpointOutcome::Removed) })
    }

    /// Makes the endpoints what they should be before anybody is served, one after the other, and waits for that; gives what has
    /// changed and what has failed in the order in which they are wanted.
    pub async fn start(&mut self) -> Vec<EndpointChange> {
        let mut changes = self.look();
        while !self.looks.is_empty() {
            changes.extend(self.next().await);
        }
        self.places.add_permits(LOADS_MAX - 1);
        changes.sort_by_key(|change| self.specs.iter().position(|spec| spec.name == change.endpoint));
        changes
    }

    /// Begins to look at all endpoints that are not being looked at. Those for which it fails stay what they are; gives what has
    /// changed at once, and [`Self::next`] the rest.
    pub fn look(&mut self) -> Vec<EndpointChange> {
        let specs = self.specs.iter().filter(|spec| spec.graph.is_none());
        let idle = specs.filter(|spec| !self.looked_at.contains_key(&spec.name)).cloned();
        for spec in idle.collect::<Vec<_>>() {
            self.begin(spec);
        }
        self.settle()
    }

    /// Waits until it is known of one more endpoint whether it is what it should be, and gives what has changed and what has failed,
    /// the same failure only once. Nothing is lost where it is not waited for to the end; where nobody is looked at it has none.
    pub async fn next(&mut self) -> Vec<EndpointChange> {
        // One that is late is looked at now and then.
        let pause =
            |following: &Following| WAITS_MAX.saturating_sub(following.since.elapsed()).max(LATE_PAUSE);
        let waits = self.following.values().map(pause).min();
        let looked = async {
            match self.looks.next().await {
                Some(looked) => looked,
                None => std::future::pending().await,
            }
        };
        let looked = match waits {
            Some(waits) => tokio::time::timeout(waits, looked).await,
            None => Ok(looked.await),
        };
        match looked {
            Ok(Ok(looked)) => self.take(looked),
            // Somebody may have waited for it, or has for long enough.
            Ok(Err(Aborted)) | Err(_) => self.settle(),
        }
    }

    /// The number of the last look that was begun, at whatever endpoint.
    pub fn last_begun(&self) -> u64 {
        self.last_begun
    }

    /// Whether it is not known yet what becomes of an endpoint by a look that was begun after that of number `after`.
    pub fn is_awaited(&self, name: &Name, after: u64) -> bool {
        let spec = self.specs.iter().find(|spec| spec.name == *name);
        let graph = spec.and_then(|spec| spec.graph.as_ref());
        let is_looked_at =
            self.looked_at.contains_key(name) && self.ended.get(name).is_none_or(|ended| *ended <= after);
        is_looked_at || graph.is_some_and(|node| self.is_awaited_by(node))
    }

    fn begin(&mut self, spec: EndpointSpec) {
        let (giving_up, registration) = AbortHandle::new_pair();
        self.last_begun += 1;
        let is_loading = Arc::new(AtomicBool::new(false));
        let ongoing = Ongoing {
            number: self.last_begun,
            begun: Instant::now(),
            spec: spec.clone(),
            giving_up,
            is_loading: Arc::clone(&is_loading),
            is_once_more: false,
            is_forgetting: false,
        };
        self.looked_at.insert(spec.name.clone(), ongoing);
        let look = Look {
            deployer: self.deployer.clone(),
            places: Arc::clone(&self.places),
            folders: Arc::clone(&self.folders),
            present: self.endpoints.get(spec.name.as_str()).map(|endpoint| endpoint.routing()),
            memory: self.memories.remove(&spec.name).unwrap_or_default(),
            is_loading,
            spec,
        };
        self.looks.push(Abortable::new(Box::pin(look.run()), registration));
    }

    /// Makes of an endpoint what a look has found.
    fn take(&mut self, looked: Looked) -> Vec<EndpointChange> {
        let Looked { spec, mut memory, found } = looked;
        let was_coming = self.is_coming(&spec.name);
        let is_change = matches!(found, Found::Change(_));
        let ongoing = self.looked_at.remove(&spec.name);
        if let Some(ongoing) = &ongoing {
            self.ended.insert(spec.name.clone(), ongoing.number);
        }
        let mut changes = Vec::from_iter(self.become_found(&spec, &mut memory, found));
        if ongoing.as_ref().is_some_and(|ongoing| ongoing.is_forgetting) {
            memory.forget_failure();
            self.told.remove(&spec.name);
        }
        self.memories.insert(spec.name.clone(), memory);
        if is_change {
            self.look_beside(&spec.name);
        }
        if ongoing.is_some_and(|ongoing| ongoing.is_once_more) {
            self.begin(spec);
        }
        if was_coming || is_change || !self.following.is_empty() || self.looks.is_empty() {
            changes.extend(self.settle());
        }
        changes
    }

    /// Has what is made of one that has moved wait until the others were looked at once more: they may have been looked at before
    /// whatever moved it, which may move them too.
    fn look_beside(&mut self, moved: &Name) {
        let mut beside: HashSet<Name> = HashSet::new();
        for spec in &self.specs {
            let parts = spec.graph.as_ref().map(Node::endpoints).unwrap_or_default();
            if parts.contains(&moved) {
                let following = Following { since: Instant::now(), after: self.last_begun };
                self.following.entry(spec.name.clone()).or_insert(following).after = self.last_begun;
                beside.extend(parts.into_iter().filter(|name| *name != moved).cloned());
            }
        }
        let specs = self.specs.iter().filter(|spec| spec.graph.is_none() && beside.contains(&spec.name));
        for spec in specs.cloned().collect::<Vec<_>>() {
            match self.looked_at.get_mut(&spec.name) {
                Some(ongoing) => ongoing.is_once_more = true,
                None => self.begin(spec),
            }
        }
    }

    fn become_found(
        &mut self,
        spec: &EndpointSpec,
        memory: &mut Memory,
        found: Found,
    ) -> Option<EndpointChange> {
        let outcome = match found {
            Found::TooEarly => return None,
            Found::AsWanted => Ok(None),
            Found::Change(change) => {
                let wanted = change.wanted.clone();
                let present = self.endpoints.get(spec.name.as_str()).map(|endpoint| endpoint.routing());
                let deployed = self.deploy(spec, change, present.as_deref());
                deployed.map(|()| Some(EndpointOutcome::Deployed)).inspect_err(|_| {
                    memory.note_failure(wanted, spec);
                })
            }
        };
        if outcome.is_ok() {
            memory.forget_failure();
        }
        self.news(&spec.name, outcome)
    }

    /// Makes what is made of others, and removes what nobody wants any more.
    fn settle(&mut self) -> Vec<EndpointChange> {
        let mut changes = Vec::new();
        let specs = std::mem::take(&mut self.specs);
        for spec in &specs {
            let Some(node) = &spec.graph else { continue };
            if self.is_awaited_by(node) {
                continue;
            }
            // All that something moves shall move as one.
            if self.is_answering(&spec.name) && self.is_following(&spec.name, node) {
                continue;
            }
            self.following.remove(&spec.name);
            let outcome = self.one_graph(spec, node);
            changes.extend(self.news(&spec.name, outcome));
        }
        self.following.retain(|name, _| specs.iter().any(|spec| spec.name == *name && spec.graph.is_some()));
        self.open_windows_of_parts();
        // Who comes in the place of others shall be there before they go, if that does not take for ever.
        let is_soon = |name| self.looked_at.get(name).is_some_and(Ongoing::ends_soon);
        let comes_soon = |name| is_soon(name) && self.is_coming(name);
        if !specs.iter().any(|spec| comes_soon(&spec.name) && !self.told.contains_key(&spec.name)) {
            changes.extend(self.remove_unwanted(&specs));
        }
        self.specs = specs;
        changes
    }

    /// Whether an endpoint is being looked at and is not there yet, or is still made of others.
    fn is_coming(&self, name: &Name) -> bool {
        let is_there =
            |endpoint: Arc<Endpoint>| !endpoint.routing().main().is_some_and(|main| main.is_graph());
        self.looked_at.contains_key(name) && !self.endpoints.get(name.as_str()).is_some_and(is_there)
    }

    fn is_answering(&self, name: &Name) -> bool {
        let routing = self.endpoints.get(name.as_str()).map(|endpoint| endpoint.routing());
        let main = routing.as_ref().and_then(|routing| routing.main());
        main.is_some_and(|main| main.check_ready().is_ok())
    }

    /// Whether one of those that something is made of has moved, and it is not known yet whether others move with it. Who hangs is
    /// not waited for, but who loads is.
    fn is_following(&self, name: &Name, node: &Node) -> bool {
        let Some(Following { since, after }) = self.following.get(name) else { return false };
        let is_late = since.elapsed() >= WAITS_MAX;
        let is_awaited = |part: &&Name| {
            let is_new = self.ended.get(*part).is_none_or(|ended| ended <= after);
            let ongoing = self.looked_at.get(*part).filter(|_| is_new);
            ongoing.is_some_and(|ongoing| !is_late || ongoing.is_loading.load(Ordering::Relaxed))
        };
        node.endpoints().iter().any(is_awaited)
    }

    /// Whether what is made of others has to wait for one of them.
    fn is_awaited_by(&self, node: &Node) -> bool {
        node.endpoints().into_iter().any(|part| self.is_coming(part))
    }

    /// Has windows take rows of the versions that are answering for parts of others, also where their own endpoint has moved on.
    fn open_windows_of_parts(&self) {
        for endpoint in self.endpoints.all() {
            if let Some(graph) = endpoint.routing().main().and_then(|main| main.graph()) {
                graph.open_windows();
            }
        }
    }

    fn remove_unwanted(&mut self, specs: &[EndpointSpec]) -> Vec<EndpointChange> {
        let wanted: HashSet<&Name> = specs.iter().map(|spec| &spec.name).collect();
        self.memories.retain(|name, _| wanted.contains(name));
        self.told.retain(|name, _| wanted.contains(name));
        self.ended.retain(|name, _| wanted.contains(name));
        self.folders.retain(|folder| specs.iter().any(|spec| spec.models().any(|model| model == folder)));
        self.endpoints.retain_failures(|name| wanted.contains(name));
        let all = self.endpoints.all();
        let unwanted: Vec<_> = all.iter().filter(|endpoint| !wanted.contains(endpoint.name())).collect();
        unwanted.into_iter().filter_map(|endpoint| self.remove(endpoint.name())).collect()
    }

    /// Takes note of an outcome; gives what of it has not been told yet.
    fn news(
        &mut self,
        endpoint: &Name,
        outcome: Result<Option<EndpointOutcome>, DeployError>,
    ) -> Option<EndpointChange> {
        match &outcome {
            Ok(_) => {
                self.endpoints.clear_failure(endpoint);
                self.told.remove(endpoint);
            }
            Err(error) => {
                let text = with_causes(error);
                self.endpoints.note_failure(endpoint, &text);
                if self.told.get(endpoint) == Some(&text) {
                    return None;
                }
                self.told.insert(endpoint.clone(), text);
            }
        }
        outcome.transpose().map(|outcome| EndpointChange { endpoint: endpoint.clone(), outcome })
    }

    /// Makes an endpoint of others. One that is made so already goes on with these as they are now, if they fit together, and
    /// otherwise as they were.
    fn one_graph(&self, spec: &EndpointSpec, node: &Node) -> Result<Option<EndpointOutcome>, DeployError> {
        let present = self.endpoints.get(spec.name.as_str()).map(|endpoint| endpoint.routing());
        let main = present.as_ref().and_then(|present| present.main());
        let graph = Graph::new(node.clone(), &self.endpoints).inspect_err(|error| {
            let of_main = main.and_then(|main| main.graph()).filter(|of_main| of_main.node() == node);
            // What has all of its parts goes on with them.
            let is_broken =
                |of_main: &&Graph| matches!(error, GraphError::Missing(_)) || of_main.check_ready().is_err();
            if let Some(of_main) = of_main.filter(is_broken) {
                of_main.note_broken(error.clone());
            }
        })?;
        let deployment = match main.and_then(|main| main.graph().map(|of_main| (main, of_main))) {
            Some((main, of_main)) if of_main.is_like(&graph) => {
                of_main.go_on_with(&graph);
                Arc::clone(main)
            }
            _ => Arc::new(self.deployer.deploy_graph(&spec.name, graph)?),
        };
        let is_same = main.is_some_and(|main| Arc::ptr_eq(main, &deployment));
        if is_same && present.as_ref().is_some_and(|present| present.is_computing_by(&spec.policy)) {
            return Ok(None);
        }
        let routing = Routing::to(deployment).going_on(&spec.policy, present.as_deref());
        tell_other_columns(spec, routing.routes(), present.as_deref());
        self.set_routing(spec, routing);
        Ok(Some(EndpointOutcome::Deployed))
    }

    /// Takes note that one of those is not there that an endpoint is made of.
    fn note_missing(&self, spec: &EndpointSpec, node: &Node, part: &Name) {
        let present = self.endpoints.get(spec.name.as_str()).map(|endpoint| endpoint.routing());
        let main = present.as_ref().and_then(|present| present.main());
        if let Some(graph) = main.and_then(|main| main.graph()).filter(|graph| graph.node() == node) {
            graph.note_broken(GraphError::Missing(part.clone()));
        }
    }

    fn set_routing(&self, spec: &EndpointSpec, routing: Routing) {
        match self.endpoints.get(spec.name.as_str()) {
            Some(endpoint) => endpoint.set_routing(routing),
            None => self.endpoints.insert(Endpoint::new(spec.name.clone(), routing)),
        }
    }

    /// Puts what was found in its place. Where a version could not be loaded the one that was there for its reference goes on, or
    /// the one that it was to replace, or else the others go on without it; where none is found that answers, all stays as it is.
    fn deploy(
        &self,
        spec: &EndpointSpec,
        change: Change,
        present: Option<&Routing>,
    ) -> Result<(), DeployError> {
        let Change { wanted, loaded, mut failed } = change;
        let mut routes = Vec::with_capacity(wanted.routes.len());
        let mut is_one_found = false;
        let mut replaced = present.map(|present| wanted.replaced(present)).unwrap_or_default();
        for (place, target) in wanted.routes.iter().enumerate() {
            let found = target.find(&loaded);
            if found.is_some() {
                // Who was there is replaced.
                replaced.retain(|(known, _)| *known != place);
            }
            let same = || present.and_then(|present| present.answering_for(&target.model));
            let deployment = found.or_else(same);
            is_one_found |= deployment.is_some() && target.weight > 0;
            let mut before = || match target.weight {
                0 => None,
                _ => take_at(&mut replaced, place),
            };
            if let Some(deployment) = deployment.or_else(&mut before).map(Arc::clone) {
                let model = Some(target.model.clone());
                routes.push(Route { deployment, weight: target.weight, model });
            }
        }
        if !failed.is_empty() && !is_one_found {
            return DeployError::all(failed);
        }
        let routes = of_like(routes, present, &mut failed);
        let (shadows, unfit) = shadows_of(&spec.name, &wanted, &loaded, &routes, present);
        failed.extend(unfit);
        let is_there = |present: &Routing| {
            shape(present.routes(), present.shadows()) == shape(&routes, &shadows) && is_set_as(present, spec)
        };
        if !present.is_some_and(is_there) {
            self.put(spec, routes, shadows, present);
        }
        DeployError::all(failed)
    }

    fn put(&self, spec: &EndpointSpec, routes: Vec<Route>, shadows: Vec<Shadow>, present: Option<&Routing>) {
        let is_old = |old: &Arc<Deployment>| {
            let mut used =
                routes.iter().map(|route| &route.deployment).chain(shadows.iter().map(Shadow::deployment));
            // A model that was made anew counts its versions anew: of two with one number only one can be told from others.
            let is_same = |used: &Arc<Deployment>| old.version().is_some() && used.version() == old.version();
            !used.any(|used| Arc::ptr_eq(used, old) || is_same(used))
        };
        let present_deployments = present.into_iter().flat_map(Routing::deployments);
        let kept: Vec<_> = present_deployments.filter(|old| is_old(old)).take(spec.kept).cloned().collect();
        let shadows = shadows.into_iter().map(|shadow| shadow.going_on(&routes, present)).collect();
        tell_other_columns(spec, &routes, present);
        let routing = Routing::split(routes, spec.sticky.clone())
            .keeping(kept)
            .shadowed_by(shadows)
            .going_on(&spec.policy, present);
        self.set_routing(spec, routing);
    }
}

/// Takes who was at a place, or else the first.
fn take_at<'a>(
    replaced: &mut Vec<(usize, &'a Arc<Deployment>)>,
    place: usize,
) -> Option<&'a Arc<Deployment>> {
    let at = replaced.iter().position(|(known, _)| *known == place).unwrap_or(0);
    (at < replaced.len()).then(|| replaced.remove(at).1)
}
