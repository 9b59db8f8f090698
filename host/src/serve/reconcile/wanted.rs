//! The versions that an endpoint should have, and those that it has.

use std::sync::Arc;

use super::super::deployer::LocatedBundle;
use super::super::spec::EndpointSpec;
use super::super::{Deployment, Route, Routing, Shadow};
use crate::registry::ModelReference;

/// The versions that an endpoint should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) routes: Vec<Target>,
    /// With their percentages.
    pub(super) shadows: Vec<Target>,
}

/// A version that should answer, or be given requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) model: ModelReference,
    /// None where there is no such version.
    pub(super) located: Option<LocatedBundle>,
    pub(super) weight: u32,
}

/// Who answers how much and who is given how many requests, each with what it follows.
type Shape = [Vec<(LocatedBundle, u32, Option<ModelReference>)>; 2];

pub(super) fn shape(routes: &[Route], shadows: &[Shadow]) -> Shape {
    // What is followed may be another alias of the same version.
    let route = |route: &Route| (located_of(&route.deployment), route.weight, route.model.clone());
    let shadow =
        |shadow: &Shadow| (located_of(shadow.deployment()), shadow.percent(), Some(shadow.model().clone()));
    [routes.iter().map(route).collect(), shadows.iter().map(shadow).collect()]
}

impl Target {
    /// Who of `loaded` is that version; none where nobody is.
    pub(super) fn find<'a>(&self, loaded: &'a [Arc<Deployment>]) -> Option<&'a Arc<Deployment>> {
        let located = self.located.as_ref()?;
        loaded.iter().find(|known| located_of(known) == *located)
    }
}

impl Wanted {
    /// Who has requests now and is not among what is wanted, with the places of their routes.
    pub(super) fn replaced<'a>(&self, present: &'a Routing) -> Vec<(usize, &'a Arc<Deployment>)> {
        let is_wanted = |model: &ModelReference| self.routes.iter().any(|target| target.model == *model);
        // What is made of others goes on as a whole or not at all.
        let goes = |route: &Route| {
            route.weight > 0 && !route.deployment.is_graph() && !route.model.as_ref().is_some_and(is_wanted)
        };
        let routes = present.routes().iter().enumerate().filter(|(_, route)| goes(route));
        routes.map(|(place, route)| (place, &route.deployment)).collect()
    }

    /// None where not all of them are there.
    pub(super) fn shape(&self) -> Option<Shape> {
        let one =
            |target: &Target| Some((target.located.clone()?, target.weight, Some(target.model.clone())));
        let all = |targets: &[Target]| targets.iter().map(one).collect::<Option<_>>();
        Some([all(&self.routes)?, all(&self.shadows)?])
    }
}

fn located_of(deployment: &Deployment) -> LocatedBundle {
    LocatedBundle { version: deployment.version().cloned(), bundle: deployment.bundle() }
}

/// Whether all but who answers is as it is said.
pub(super) fn is_set_as(routing: &Routing, spec: &EndpointSpec) -> bool {
    routing.sticky() == spec.sticky.as_ref()
        && routing.kept().len() <= spec.kept
        && routing.is_computing_by(&spec.policy)
}
