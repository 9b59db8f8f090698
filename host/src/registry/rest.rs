//! MLflow's REST API for the model registry, as its own clients call it; mounted beside that of tracking.

mod model_versions;
mod registered_models;

use axum::Router;
use axum::http::Method;
use serde::Serialize;

use super::Registry;
use crate::track::rest::request::{change, read_with_query, write};
use crate::track::rest::{PREFIXES, unknown_route};

/// Nothing to tell but that it was done.
#[derive(Serialize)]
struct Empty {}

/// The routes of the registry.
pub fn router(registry: Registry) -> Router {
    let mut router = Router::new();
    for prefix in PREFIXES {
        router = router
            .nest(&format!("{prefix}/mlflow/registered-models"), registered_models())
            .nest(&format!("{prefix}/mlflow/model-versions"), model_versions());
    }
    router.method_not_allowed_fallback(unknown_route).with_state(registry)
}

fn registered_models() -> Router<Registry> {
    use registered_models as models;
    Router::new()
        .route("/create", write(models::create))
        .route("/get", read_with_query(models::get))
        .route("/rename", write(models::rename))
        .route("/update", change(Method::PATCH, models::update))
        .route("/delete", change(Method::DELETE, models::delete))
        .route("/search", read_with_query(models::search))
        .route("/get-latest-versions", write(models::latest).merge(read_with_query(models::latest)))
        .route("/set-tag", write(models::set_tag))
        .route("/delete-tag", change(Method::DELETE, models::delete_tag))
        .route(
            "/alias",
            write(models::set_alias)
                .merge(change(Method::DELETE, models::delete_alias))
                .merge(read_with_query(models::version_by_alias)),
        )
}

fn model_versions() -> Router<Registry> {
    use model_versions as versions;
    Router::new()
        .route("/create", write(versions::create))
        .route("/get", read_with_query(versions::get))
        .route("/update", change(Method::PATCH, versions::update))
        .route("/delete", change(Method::DELETE, versions::delete))
        .route("/search", read_with_query(versions::search))
        .route("/get-download-uri", read_with_query(versions::download_uri))
        .route("/transition-stage", write(versions::move_to_stage))
        .route("/set-tag", write(versions::set_tag))
        .route("/delete-tag", change(Method::DELETE, versions::delete_tag))
}
