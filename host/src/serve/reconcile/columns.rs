//! Which of the versions that an endpoint should have fit together, by the columns that they take and answer with.

use std::sync::Arc;

use super::super::deployer::DeployError;
use super::super::endpoint::main_of;
use super::super::spec::EndpointSpec;
use super::super::{Deployment, Route, Routing, Shadow};
use super::wanted::Wanted;
use crate::domain::Name;

/// The routes, without requests for those whose versions do not take and answer with the same columns as the one that gets most of
/// them: whoever asks shall not be refused by chance. Where there was a version before that does, it goes on.
pub(super) fn of_like(
    routes: Vec<Route>,
    present: Option<&Routing>,
    failed: &mut Vec<DeployError>,
) -> Vec<Route> {
    let Some(main) = main_of(&routes).map(Arc::clone) else { return routes };
    let unlike =
        |deployment: &Deployment| main.signature().column_unlike(deployment.signature()).map(str::to_owned);
    let alike = |route: Route| {
        let Some(column) = unlike(&route.deployment).filter(|_| route.weight > 0) else { return route };
        let (version, main) = (route.deployment.version_label(), main.version_label());
        failed.push(DeployError::Columns { version, main, column });
        let before = route.model.as_ref().and_then(|model| present?.answering_for(model));
        match before.filter(|before| unlike(before).is_none()) {
            Some(before) => Route { deployment: Arc::clone(before), ..route },
            None => Route { weight: 0, ..route },
        }
    };
    routes.into_iter().map(alike).collect()
}

/// Warns where who answers from now on takes or answers with other columns than who did before.
pub(super) fn tell_other_columns(spec: &EndpointSpec, routes: &[Route], present: Option<&Routing>) {
    let (Some(before), Some(now)) = (present.and_then(Routing::main), main_of(routes)) else { return };
    if let Some(column) = before.signature().column_unlike(now.signature()) {
        tracing::warn!(
            "endpoint `{}`: `{}` differs from `{}`, which answered before, in column `{column}`",
            spec.name,
            now.version_label(),
            before.version_label(),
        );
    }
}

/// Who is given requests too, and why that is not everybody who should be: whoever takes other columns than those who answer can
/// answer nothing. Where a shadow could not be loaded the one that was there for its reference goes on.
pub(super) fn shadows_of(
    endpoint: &Name,
    wanted: &Wanted,
    loaded: &[Arc<Deployment>],
    routes: &[Route],
    present: Option<&Routing>,
) -> (Vec<Shadow>, Vec<DeployError>) {
    let (mut shadows, mut unfit) = (Vec::with_capacity(wanted.shadows.len()), Vec::new());
    for target in &wanted.shadows {
        let before = || present.and_then(|present| present.shadowing_for(&target.model));
        let Some(found) = target.find(loaded).or_else(before) else { continue };
        let shadow = Shadow::new(endpoint.clone(), Arc::clone(found), target.model.clone(), target.weight);
        let answering = routes.iter().filter(|route| route.weight > 0).map(|route| &route.deployment);
        match answering.into_iter().find_map(|version| Some((version, shadow.check_columns(version).err()?)))
        {
            None => shadows.push(shadow),
            Some((version, error)) => {
                let (shadow, version) = (target.model.clone(), version.version_label());
                let error = Box::new(error);
                unfit.push(DeployError::Shadow { shadow, version, error });
            }
        }
    }
    (shadows, unfit)
}
