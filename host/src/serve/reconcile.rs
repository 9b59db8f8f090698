//! Brings endpoints to what they should be: new versions are loaded beside those that answer and take over as one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::deployer::{DeployError, Deployer, LocatedBundle};
use super::graph::Graph;
use super::spec::EndpointSpec;
use super::{Deployment, Endpoint, Endpoints, Node, Route, Routing, Shadow};
use crate::domain::Name;
use crate::registry::ModelReference;

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
    /// What could not be deployed, and was told: it is not tried again until something else is asked for.
    refused: HashMap<Name, (Wanted, EndpointSpec)>,
    /// The failures that were told last.
    told: HashMap<Name, String>,
    /// What folders hold, and when they were last changed.
    folders: HashMap<String, (SystemTime, LocatedBundle)>,
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
    located: LocatedBundle,
    weight: u32,
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
        changes
    }

    /// What of an outcome has not been told yet.
    fn news(
        &mut self,
        endpoint: &Name,
        outcome: Result<Option<EndpointOutcome>, DeployError>,
    ) -> Option<Result<EndpointOutcome, DeployError>> {
        match &outcome {
            Ok(None) if self.refused.contains_key(endpoint) => {}
            Ok(_) => drop(self.told.remove(endpoint)),
            Err(error) => {
                let text = error.to_string();
                if self.told.get(endpoint) == Some(&text) {
                    return None;
                }
                self.told.insert(endpoint.clone(), text);
            }
        }
        outcome.transpose()
    }

    async fn one(&mut self, spec: &EndpointSpec) -> Result<Option<EndpointOutcome>, DeployError> {
        let mut wanted = Wanted { routes: Vec::new(), shadows: Vec::new() };
        for route in &spec.routes {
            wanted.routes.push(Target { located: self.locate(&route.model).await?, weight: route.weight });
        }
        for shadow in &spec.shadows {
            wanted
                .shadows
                .push(Target { located: self.locate(&shadow.model).await?, weight: shadow.percent });
        }
        let present = self.endpoints.get(spec.name.as_str()).map(|endpoint| endpoint.routing());
        if present.as_ref().is_some_and(|present| is_as_wanted(present, &wanted, spec)) {
            self.refused.remove(&spec.name);
            return Ok(None);
        }
        if self.refused.get(&spec.name).is_some_and(|(tried, as_)| (tried, as_) == (&wanted, spec)) {
            return Ok(None);
        }
        match self.deploy(spec, &wanted, present.as_deref()).await {
            Ok(()) => {
                self.refused.remove(&spec.name);
                Ok(Some(EndpointOutcome::Deployed))
            }
            Err(error) => {
                self.refused.insert(spec.name.clone(), (wanted, spec.clone()));
                Err(error)
            }
        }
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

    /// Loads what is missing and puts it in its place. Without a shadow that cannot be loaded the others are put there.
    async fn deploy(
        &self,
        spec: &EndpointSpec,
        wanted: &Wanted,
        present: Option<&Routing>,
    ) -> Result<(), DeployError> {
        let mut loaded: Vec<Arc<Deployment>> =
            present.into_iter().flat_map(Routing::loaded).map(Arc::clone).collect();
        let mut routes = Vec::with_capacity(wanted.routes.len());
        for (target, route) in wanted.routes.iter().zip(&spec.routes) {
            let deployment = self.load(&spec.name, target, &mut loaded).await?;
            let model = Some(route.model.clone());
            routes.push(Route { deployment, weight: target.weight, model });
        }
        let (mut shadows, mut failed) = (Vec::new(), Ok(()));
        for target in &wanted.shadows {
            match self.load(&spec.name, target, &mut loaded).await {
                Ok(deployment) => shadows.push(Shadow::new(deployment, target.weight)),
                Err(error) => failed = Err(error),
            }
        }
        self.put(spec, routes, shadows, present);
        failed
    }

    /// The deployment of a target: one that is loaded, or a new one.
    async fn load(
        &self,
        endpoint: &Name,
        target: &Target,
        loaded: &mut Vec<Arc<Deployment>>,
    ) -> Result<Arc<Deployment>, DeployError> {
        if let Some(known) = loaded.iter().find(|known| target.is(known)) {
            return Ok(Arc::clone(known));
        }
        let deployment = Arc::new(self.deployer.deploy(endpoint, target.located.clone()).await?);
        loaded.push(Arc::clone(&deployment));
        Ok(deployment)
    }

    /// The bundle that `model` means now. A folder is read again only when it has changed.
    async fn locate(&mut self, model: &ModelReference) -> Result<LocatedBundle, DeployError> {
        let Some(changed_at) = model.folder_changed_at() else { return self.deployer.locate(model).await };
        let folder = model.to_string();
        if let Some((_, located)) = self.folders.get(&folder).filter(|(taken_at, _)| *taken_at == changed_at)
        {
            return Ok(located.clone());
        }
        let located = self.deployer.locate(model).await?;
        self.folders.insert(folder, (changed_at, located.clone()));
        Ok(located)
    }

    fn put(&self, spec: &EndpointSpec, routes: Vec<Route>, shadows: Vec<Shadow>, present: Option<&Routing>) {
        let is_old = |old: &Arc<Deployment>| {
            let mut used =
                routes.iter().map(|route| &route.deployment).chain(shadows.iter().map(Shadow::deployment));
            !used.any(|used| Arc::ptr_eq(used, old))
        };
        let present_deployments = present.into_iter().flat_map(Routing::deployments);
        let kept: Vec<_> = present_deployments.filter(|old| is_old(old)).take(spec.kept).cloned().collect();
        let routing = Routing::split(routes, spec.sticky.clone())
            .keeping(kept)
            .shadowed_by(shadows)
            .going_on(&spec.policy, present);
        self.set_routing(spec, routing);
    }
}

impl Target {
    fn is(&self, deployment: &Deployment) -> bool {
        let LocatedBundle { version, bundle } = &self.located;
        deployment.bundle() == *bundle && deployment.version() == version.as_ref()
    }
}

fn is_as_wanted(routing: &Routing, wanted: &Wanted, spec: &EndpointSpec) -> bool {
    let (routes, shadows) = (routing.routes(), routing.shadows());
    let mut routes_with_targets = routes.iter().zip(&wanted.routes);
    let mut shadows_with_targets = shadows.iter().zip(&wanted.shadows);
    routes.len() == wanted.routes.len()
        && shadows.len() == wanted.shadows.len()
        && routes_with_targets
            .all(|(route, target)| target.is(&route.deployment) && target.weight == route.weight)
        && shadows_with_targets
            .all(|(shadow, target)| target.is(shadow.deployment()) && target.weight == shadow.percent())
        // What is followed may be another alias of the same version.
        && routes.iter().zip(&spec.routes).all(|(route, spec)| route.model.as_ref() == Some(&spec.model))
        && routing.sticky() == spec.sticky.as_ref()
        && routing.kept().len() <= spec.kept
        && routing.is_computing_by(&spec.policy)
}
