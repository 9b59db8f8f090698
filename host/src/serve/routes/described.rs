use std::sync::Arc;

use super::super::graph::Graph;
use super::super::{Deployment, Endpoint, Routing};

/// An endpoint with who answers most, which is the only one as a rule, and all that are loaded.
pub(super) fn described(endpoint: &Endpoint) -> serde_json::Value {
    let routing = endpoint.routing();
    let main = routing.main();
    let asked_for = |deployment: &Arc<Deployment>| {
        let route = routing.routes().iter().find(|route| Arc::ptr_eq(&route.deployment, deployment));
        route.and_then(|route| route.model.as_ref()).map(ToString::to_string)
    };
    let versions: Vec<_> = routing
        .deployments()
        .map(|deployment| {
            serde_json::json!({
                "model": deployment.version().map(|(model, _)| model),
                "version": deployment.version().map(|(_, number)| number),
                "bundle": deployment.bundle(),
                "weight": routing.weight(deployment),
                "asked_for": asked_for(deployment),
                "window_rows": deployment.window().map(|window| window.rows_written()),
            })
        })
        .collect();
    let shadows: Vec<_> = routing
        .shadows()
        .iter()
        .map(|shadow| {
            let deployment = shadow.deployment();
            serde_json::json!({
                "model": deployment.version().map(|(model, _)| model),
                "version": deployment.version().map(|(_, number)| number),
                "bundle": deployment.bundle(),
                "percent": shadow.percent(),
                "answers": shadow.counts(),
                "failure": shadow.failure(),
            })
        })
        .collect();
    serde_json::json!({
        "name": endpoint.name(),
        "bundle": main.map(|deployment| deployment.bundle()),
        "graph": main.and_then(|deployment| deployment.graph()).map(Graph::form),
        "signature": main.map(|deployment| deployment.signature()),
        "window_rows": main.and_then(|main| main.window()).map(|window| window.rows_written()),
        "routes": described_routes(&routing),
        "versions": versions,
        "shadows": shadows,
        "waiting": routing.queue().waiting(),
        "computing": routing.queue().computing(),
    })
}

/// What an endpoint is asked to serve, and what that means now; several may mean the same version.
fn described_routes(routing: &Routing) -> Vec<serde_json::Value> {
    let described = routing.routes().iter().filter_map(|route| {
        let version = route.deployment.version();
        Some(serde_json::json!({
            "asked_for": route.model.as_ref()?.to_string(),
            "model": version.map(|(model, _)| model),
            "version": version.map(|(_, number)| number),
            "bundle": route.deployment.bundle(),
            "weight": route.weight,
        }))
    });
    described.collect()
}
