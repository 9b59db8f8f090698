//! Brings endpoints to what they should be: new versions are loaded beside those that answer and take over as one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::capture::with_causes;
use super::deployer::{DeployError, Deployer, LocatedBundle};
use super::graph::Graph;
use super::spec::EndpointSpec;
use super::{Deployment, Endpoint, Endpoints, Node, Route, Routing, Shadow};
use crate::domain::Name;
use crate::registry::{FolderState, ModelReference};
use crate::task::spawn_blocking;

/// When what could not be deployed is tried again: after the first, and twice as long after each, up to the last.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

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
    /// What could not be deployed, and was told.
    refused: HashMap<Name, Refused>,
    /// The failures that were told last.
    told: HashMap<Name, String>,
    /// What folders hold, and in which state.
    folders: HashMap<ModelReference, (FolderState, LocatedBundle)>,
}

/// The versions that an endpoint should have.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    routes: Vec<Target>,
    /// With their percentages.
    shadows: Vec<Target>,
}

/// A version that should answer, or be given requests.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    model: ModelReference,
    /// None where there is no such version.
    located: Option<LocatedBundle>,
    weight: u32,
}

/// What could not be deployed. It is tried again when something else is asked for, and after a while: a store may have failed.
struct Refused {
    wanted: Wanted,
    spec: EndpointSpec,
    waits: Duration,
    until: Instant,
}

impl Refused {
    fn is_of(&self, wanted: &Wanted, spec: &EndpointSpec) -> bool {
        (&self.wanted, &self.spec) == (wanted, spec)
    }
}

impl Reconciler {
    /// Changes `endpoints` by what `deployer` loads.
    pub fn new(deployer: Deployer, endpoints: Arc<Endpoints>) -> Self {
        Self { deployer, endpoints, refused: HashMap::new(), told: HashMap::new(), folders: HashMap::new() }
    }

    /// What is changed.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Tries again what has failed for an endpoint, and tells it again.
    pub fn forget_failure(&mut self, endpoint: &Name) {
        self.refused.remove(endpoint);
        self.told.remove(endpoint);
    }

    /// Tries again all that has failed, and tells it again.
    pub fn forget_failures(&mut self) {
        self.refused.clear();
        self.told.clear();
    }

    /// Makes the endpoints what `specs` say. An endpoint for which that fails stays what it is, and so do all others; gives
    /// what has changed and what has failed, the same failure only once.
    pub async fn reconcile(&mut self, specs: &[EndpointSpec]) -> Vec<EndpointChange> {
        let mut changes = Vec::new();
        // Graphs last: they are made of the others.
        let (graphs, others): (Vec<_>, Vec<_>) = specs.iter().partition(|spec| spec.graph.is_some());
        for spec in others.into_iter().chain(graphs) {
            let outcome = match &spec.graph {
                Some(node) => self.one_graph(spec, node),
                None => self.one(spec).await,
            };
            if let Some(outcome) = self.news(&spec.name, outcome) {
                changes.push(EndpointChange { endpoint: spec.name.clone(), outcome });
            }
        }
        let is_wanted = |endpoint: &Endpoint| specs.iter().any(|spec| spec.name == *endpoint.name());
        for endpoint in self.endpoints.all().iter().filter(|endpoint| !is_wanted(endpoint)) {
            let (endpoint, outcome) = (endpoint.name().clone(), Ok(EndpointOutcome::Removed));
            changes.push(EndpointChange { endpoint, outcome });
        }
        self.endpoints.retain(is_wanted);
        self.refused.retain(|name, _| specs.iter().any(|spec| spec.name == *name));
        self.endpoints.retain_failures(|name| specs.iter().any(|spec| spec.name == *name));
        self.told.retain(|name, _| specs.iter().any(|spec| spec.name == *name));
        self.folders.retain(|folder, _| specs.iter().any(|spec| spec.models().any(|model| model == folder)));
        changes
    }

    /// Takes note of an outcome; gives what of it has not been told yet.
    fn news(
        &mut self,
        endpoint: &Name,
        outcome: Result<Option<EndpointOutcome>, DeployError>,
    ) -> Option<Result<EndpointOutcome, DeployError>> {
        match &outcome {
            Ok(None) if self.refused.contains_key(endpoint) => {}
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
        outcome.transpose()
    }

    async fn one(&mut self, spec: &EndpointSpec) -> Result<Option<EndpointOutcome>, DeployError> {
        let (wanted, missing) = self.locate_all(spec).await;
        let present = self.endpoints.get(spec.name.as_str()).map(|endpoint| endpoint.routing());
        let is_as_wanted = |present: &Arc<Routing>| {
            Some(shape(present.routes(), present.shadows())) == wanted.shape() && is_set_as(present, spec)
        };
        if present.as_ref().is_some_and(is_as_wanted) {
            self.refused.remove(&spec.name);
            return Ok(None);
        }
        let before = self.refused.get(&spec.name).filter(|refused| refused.is_of(&wanted, spec));
        if before.is_some_and(|refused| Instant::now() < refused.until) {
            return Ok(None);
        }
        let waits = before.map_or(RETRY.0, |refused| (refused.waits * 2).min(RETRY.1));
        match self.deploy(spec, &wanted, missing, present.as_deref()).await {
            Ok(()) => {
                self.refused.remove(&spec.name);
                Ok(Some(EndpointOutcome::Deployed))
            }
            Err(error) => {
                let (spec, until) = (spec.clone(), Instant::now() + waits);
                self.refused.insert(spec.name.clone(), Refused { wanted, spec, waits, until });
                Err(error)
            }
        }
    }

    /// The versions that `spec` means now, and why there are not all of them.
    async fn locate_all(&mut self, spec: &EndpointSpec) -> (Wanted, Vec<DeployError>) {
        let (mut wanted, mut failed) = (Wanted { routes: Vec::new(), shadows: Vec::new() }, Vec::new());
        let routes = spec.routes.iter().map(|route| (&route.model, route.weight, true));
        let shadows = spec.shadows.iter().map(|shadow| (&shadow.model, shadow.percent, false));
        for (model, weight, answers) in routes.chain(shadows) {
            let located = self.locate(model).await.map_err(|error| failed.push(error)).ok();
            let targets = if answers { &mut wanted.routes } else { &mut wanted.shadows };
            targets.push(Target { model: model.clone(), located, weight });
        }
        (wanted, failed)
    }

    /// Makes an endpoint of others.
    fn one_graph(&self, spec: &EndpointSpec, node: &Node) -> Result<Option<EndpointOutcome>, DeployError> {
        let graph = Graph::new(node.clone(), &self.endpoints)?;
        let present = self.endpoints.get(spec.name.as_str()).map(|endpoint| endpoint.routing());
        let is_as_wanted = |present: &Arc<Routing>| {
            let deployment = present.routes().first().map(|route| &route.deployment);
            deployment
                .and_then(|deployment| deployment.graph())
                .is_some_and(|present| present.is_like(&graph))
                && present.is_computing_by(&spec.policy)
        };
        if present.as_ref().is_some_and(is_as_wanted) {
            return Ok(None);
        }
        let deployment = Arc::new(self.deployer.deploy_graph(&spec.name, graph)?);
        let routing = Routing::to(deployment).going_on(&spec.policy, present.as_deref());
        self.set_routing(spec, routing);
        Ok(Some(EndpointOutcome::Deployed))
    }

    fn set_routing(&self, spec: &EndpointSpec, routing: Routing) {
        match self.endpoints.get(spec.name.as_str()) {
            Some(endpoint) => endpoint.set_routing(routing),
            None => self.endpoints.insert(Endpoint::new(spec.name.clone(), routing)),
        }
    }

    /// Loads what is missing and puts it in its place. Where a version cannot be loaded the one that was there for its
    /// reference goes on, or the one that it was to replace, or else the others go on without it; where none is found that
    /// answers, all stays as it is.
    async fn deploy(
        &self,
        spec: &EndpointSpec,
        wanted: &Wanted,
        mut failed: Vec<DeployError>,
        present: Option<&Routing>,
    ) -> Result<(), DeployError> {
        let mut loaded: Vec<Arc<Deployment>> =
            present.into_iter().flat_map(Routing::loaded).map(Arc::clone).collect();
        let mut routes = Vec::with_capacity(wanted.routes.len());
        let mut is_one_found = false;
        let mut replaced = present.map(|present| wanted.replaced(present)).unwrap_or_default();
        for (place, target) in wanted.routes.iter().enumerate() {
            let loading = self.load(&spec.name, target, &mut loaded).await;
            let deployment = loading.map_err(|error| failed.push(error)).ok();
            if matches!(deployment, Some(Some(_))) {
                // Who was there is replaced.
                replaced.retain(|(known, _)| *known != place);
            }
            let same = || present.and_then(|present| present.answering_for(&target.model)).map(Arc::clone);
            let deployment = deployment.flatten().or_else(same);
            is_one_found |= deployment.is_some() && target.weight > 0;
            let mut before = || match target.weight {
                0 => None,
                _ => take_at(&mut replaced, place).map(Arc::clone),
            };
            if let Some(deployment) = deployment.or_else(&mut before) {
                let model = Some(target.model.clone());
                routes.push(Route { deployment, weight: target.weight, model });
            }
        }
        if !failed.is_empty() && !is_one_found {
            return DeployError::all(failed);
        }
        let mut shadows = Vec::with_capacity(wanted.shadows.len());
        for target in &wanted.shadows {
            let loading = self.load(&spec.name, target, &mut loaded).await;
            let deployment = loading.map_err(|error| failed.push(error)).ok();
            let before = || present.and_then(|present| present.shadowing_for(&target.model));
            let deployment = deployment.flatten().or_else(|| before().map(Arc::clone));
            shadows.extend(deployment.map(|found| Shadow::new(found, target.model.clone(), target.weight)));
        }
        let is_there = |present: &Routing| {
            shape(present.routes(), present.shadows()) == shape(&routes, &shadows) && is_set_as(present, spec)
        };
        if !present.is_some_and(is_there) {
            self.put(spec, routes, shadows, present);
        }
        DeployError::all(failed)
    }

    /// The deployment of a target: one that is loaded, or a new one. None where there is no such version.
    async fn load(
        &self,
        endpoint: &Name,
        target: &Target,
        loaded: &mut Vec<Arc<Deployment>>,
    ) -> Result<Option<Arc<Deployment>>, DeployError> {
        let Some(located) = &target.located else { return Ok(None) };
        if let Some(known) = loaded.iter().find(|known| located_of(known) == *located) {
            return Ok(Some(Arc::clone(known)));
        }
        let deployment = Arc::new(self.deployer.deploy(endpoint, located.clone()).await?);
        loaded.push(Arc::clone(&deployment));
        Ok(Some(deployment))
    }

    /// The bundle that `model` means now. A folder is read again only when it has changed.
    async fn locate(&mut self, model: &ModelReference) -> Result<LocatedBundle, DeployError> {
        let ModelReference::Folder(_) = model else { return self.deployer.locate(model).await };
        // A folder may be on a server that does not answer.
        let folder = model.clone();
        let state = spawn_blocking(move || folder.folder_state()).await.map_err(|_| DeployError::Stopped)?;
        let Some(state) = state else { return self.deployer.locate(model).await };
        if let Some((_, located)) = self.folders.get(model).filter(|(known, _)| *known == state) {
            return Ok(located.clone());
        }
        let located = self.deployer.locate(model).await?;
        self.folders.insert(model.clone(), (state, located.clone()));
        Ok(located)
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
        let routing = Routing::split(routes, spec.sticky.clone())
            .keeping(kept)
            .shadowed_by(shadows)
            .going_on(&spec.policy, present);
        self.set_routing(spec, routing);
    }
}

/// Who answers how much and who is given how many requests, each with what it follows.
type Shape = [Vec<(LocatedBundle, u32, Option<ModelReference>)>; 2];

fn shape(routes: &[Route], shadows: &[Shadow]) -> Shape {
    // What is followed may be another alias of the same version.
    let route = |route: &Route| (located_of(&route.deployment), route.weight, route.model.clone());
    let shadow =
        |shadow: &Shadow| (located_of(shadow.deployment()), shadow.percent(), Some(shadow.model().clone()));
    [routes.iter().map(route).collect(), shadows.iter().map(shadow).collect()]
}

impl Wanted {
    /// Who has requests now and is not among what is wanted, with the places of their routes.
    fn replaced<'a>(&self, present: &'a Routing) -> Vec<(usize, &'a Arc<Deployment>)> {
        let is_wanted = |model: &ModelReference| self.routes.iter().any(|target| target.model == *model);
        // What is made of others goes on as a whole or not at all.
        let goes = |route: &Route| {
            route.weight > 0 && !route.deployment.is_graph() && !route.model.as_ref().is_some_and(is_wanted)
        };
        let routes = present.routes().iter().enumerate().filter(|(_, route)| goes(route));
        routes.map(|(place, route)| (place, &route.deployment)).collect()
    }

    /// None where not all of them are there.
    fn shape(&self) -> Option<Shape> {
        let one =
            |target: &Target| Some((target.located.clone()?, target.weight, Some(target.model.clone())));
        let all = |targets: &[Target]| targets.iter().map(one).collect::<Option<_>>();
        Some([all(&self.routes)?, all(&self.shadows)?])
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

fn located_of(deployment: &Deployment) -> LocatedBundle {
    LocatedBundle { version: deployment.version().cloned(), bundle: deployment.bundle() }
}

/// Whether all but who answers is as it is said.
fn is_set_as(routing: &Routing, spec: &EndpointSpec) -> bool {
    routing.sticky() == spec.sticky.as_ref()
        && routing.kept().len() <= spec.kept
        && routing.is_computing_by(&spec.policy)
}
