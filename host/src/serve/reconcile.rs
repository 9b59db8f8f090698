//! Brings endpoints to what they should be: new versions are loaded beside those that answer and take over as one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::deployer::{DeployError, Deployer, LocatedBundle};
use super::spec::{EndpointSpec, RouteSpec};
use super::{Deployment, Endpoint, Endpoints, Route, Routing};
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
    refused: HashMap<Name, Vec<Target>>,
    /// The failures that were told last.
    told: HashMap<Name, String>,
    /// What folders hold, and when they were last changed.
    folders: HashMap<String, (SystemTime, LocatedBundle)>,
}

/// A version that should answer.
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
        for spec in specs {
            let outcome = self.one(spec).await;
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
        let mut targets = Vec::with_capacity(spec.routes.len());
        for RouteSpec { model, weight } in &spec.routes {
            targets.push(Target { located: self.locate(model).await?, weight: *weight });
        }
        let present = self.endpoints.get(spec.name.as_str()).map(|endpoint| endpoint.routing());
        if present.as_ref().is_some_and(|present| is_as_wanted(present, &targets, spec)) {
            self.refused.remove(&spec.name);
            return Ok(None);
        }
        if self.refused.get(&spec.name) == Some(&targets) {
            return Ok(None);
        }
        match self.routes(&spec.name, &targets, present.as_deref()).await {
            Ok(routes) => {
                self.refused.remove(&spec.name);
                self.put(spec, routes, present.as_deref());
                Ok(Some(EndpointOutcome::Deployed))
            }
            Err(error) => {
                self.refused.insert(spec.name.clone(), targets);
                Err(error)
            }
        }
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

    /// The deployments of all targets: those that are loaded, and new ones.
    async fn routes(
        &self,
        endpoint: &Name,
        targets: &[Target],
        present: Option<&Routing>,
    ) -> Result<Vec<Route>, DeployError> {
        let mut routes = Vec::with_capacity(targets.len());
        for target in targets {
            let loaded = present.and_then(|present| present.deployments().find(|loaded| target.is(loaded)));
            let deployment = match loaded {
                Some(loaded) => Arc::clone(loaded),
                None => Arc::new(self.deployer.deploy(endpoint, target.located.clone()).await?),
            };
            routes.push(Route { deployment, weight: target.weight });
        }
        Ok(routes)
    }

    fn put(&self, spec: &EndpointSpec, routes: Vec<Route>, present: Option<&Routing>) {
        let is_new = |old: &Arc<Deployment>| !routes.iter().any(|route| Arc::ptr_eq(&route.deployment, old));
        let old = present.into_iter().flat_map(Routing::deployments);
        let kept: Vec<_> = old.filter(|old| is_new(old)).take(spec.kept).cloned().collect();
        let routing = Routing::split(routes, spec.sticky.clone()).keeping(kept);
        match self.endpoints.get(spec.name.as_str()) {
            Some(endpoint) => endpoint.set_routing(routing),
            None => self.endpoints.insert(Endpoint::new(spec.name.clone(), routing)),
        }
    }
}

impl Target {
    fn is(&self, deployment: &Deployment) -> bool {
        let LocatedBundle { version, bundle } = &self.located;
        deployment.bundle() == *bundle && deployment.version() == version.as_ref()
    }
}

fn is_as_wanted(routing: &Routing, targets: &[Target], spec: &EndpointSpec) -> bool {
    let routes = routing.routes();
    let pairs = routes.iter().zip(targets);
    routes.len() == targets.len()
        && pairs
            .into_iter()
            .all(|(route, target)| target.is(&route.deployment) && target.weight == route.weight)
        && routing.sticky() == spec.sticky.as_ref()
        && routing.kept().len() <= spec.kept
}
