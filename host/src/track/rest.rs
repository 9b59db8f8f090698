//! MLflow's REST API for tracking, as its own clients call it.
//!
//! Each route exists below `/api/2.0` and `/ajax-api/2.0`. Errors have MLflow's shape, `{"error_code", "message"}`.
//! Which endpoints there are, and what differs from MLflow's server, is told in `docs/mlflow.md`.

mod artifacts;
mod body;
mod experiments;
pub(crate) mod fields;
mod logged_models;
mod metrics;
mod multipart;
pub(crate) mod request;
mod room;
mod runs;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, Response, StatusCode, header};
use axum::routing::get;
use serde::Serialize;

use self::request::{change_with_path, read_with_path, read_with_query, write};
use super::{ErrorCode, TrackError, Tracker};

/// Version of MLflow whose API this is; clients compare it with theirs.
const MLFLOW_VERSION: &str = "3.17.2";

/// Prefixes of the API.
pub(crate) const PREFIXES: [&str; 2] = ["/api/2.0", "/ajax-api/2.0"];

/// The routes of tracking.
pub fn router(tracker: Tracker) -> Router {
    let mut router = Router::new()
        .route("/health", get(async || "OK"))
        .route("/version", get(async || MLFLOW_VERSION))
        .route("/api/3.0/mlflow/server-info", get(server_info))
        .route("/ajax-api/3.0/mlflow/server-info", get(server_info));
    for prefix in PREFIXES {
        router = router
            .nest(&format!("{prefix}/mlflow"), api())
            .nest(&format!("{prefix}/mlflow-artifacts"), artifacts::router());
    }
    router.fallback(unknown_route).method_not_allowed_fallback(unknown_route).with_state(tracker)
}

fn api() -> Router<Tracker> {
    Router::new()
        .route("/experiments/create", write(experiments::create))
        .route("/experiments/get", read_with_query(experiments::get))
        .route("/experiments/get-by-name", read_with_query(experiments::get_by_name))
        .route("/experiments/search", write(experiments::search).merge(read_with_query(experiments::search)))
        .route("/experiments/update", write(experiments::update))
        .route("/experiments/delete", write(experiments::delete))
        .route("/experiments/restore", write(experiments::restore))
        .route("/experiments/set-experiment-tag", write(experiments::set_tag))
        .route("/experiments/delete-experiment-tag", write(experiments::delete_tag))
        .route("/runs/create", write(runs::create))
        .route("/runs/get", read_with_query(runs::get))
        .route("/runs/update", write(runs::update))
        .route("/runs/delete", write(runs::delete))
        .route("/runs/restore", write(runs::restore))
        .route("/runs/search", write(runs::search))
        .route("/runs/log-metric", write(runs::log_metric))
        .route("/runs/log-parameter", write(runs::log_parameter))
        .route("/runs/log-batch", write(runs::log_batch))
        .route("/runs/log-inputs", write(runs::log_inputs))
        .route("/runs/outputs", write(runs::log_outputs))
        .route("/runs/log-model", write(runs::log_model))
        .route("/runs/set-tag", write(runs::set_tag))
        .route("/runs/delete-tag", write(runs::delete_tag))
        .route("/metrics/get-history", read_with_query(metrics::history))
        .route("/metrics/get-history-bulk-interval", read_with_query(metrics::bulk_interval))
        .route("/logged-models", write(logged_models::create))
        .route("/logged-models/search", write(logged_models::search))
        .route(
            "/logged-models/{model_id}",
            read_with_path(logged_models::get)
                .merge(change_with_path(Method::PATCH, logged_models::finalize))
                .merge(change_with_path(Method::DELETE, logged_models::delete)),
        )
        .route("/logged-models/{model_id}/params", change_with_path(Method::POST, logged_models::describe))
        .route("/logged-models/{model_id}/tags", change_with_path(Method::PATCH, logged_models::describe))
        .route(
            "/logged-models/{model_id}/tags/{key}",
            change_with_path(Method::DELETE, logged_models::delete_tag),
        )
        .route(
            "/logged-models/{model_id}/artifacts/directories",
            read_with_path(logged_models::list_artifacts),
        )
        .route("/artifacts/list", read_with_query(artifacts::list_of_run))
}

pub(crate) async fn unknown_route(request: Request) -> Response<Body> {
    let path: String = request.uri().path().chars().take(200).collect();
    let message = format!("There is no endpoint {} {path}", request.method());
    refusal(&TrackError::new(ErrorCode::EndpointNotFound, message))
}

/// The answer to who may not ask, `why` says why not.
pub fn forbid(why: &impl std::fmt::Display) -> Response<Body> {
    refusal(&TrackError::new(ErrorCode::PermissionDenied, why.to_string()))
}

/// The answer where too many ask at once, as `why` says.
pub fn overloaded(why: &impl std::fmt::Display) -> Response<Body> {
    refusal(&TrackError::new(ErrorCode::TemporarilyUnavailable, why.to_string()))
}

/// The answer to a request that is wrong, or more than it may be, whatever the route, as `why` says.
pub fn invalid(why: &impl std::fmt::Display) -> Response<Body> {
    refusal(&TrackError::new(ErrorCode::InvalidParameterValue, why.to_string()))
}

/// The answer to a request that asks for what is not there whatever the route, as `why` says.
pub fn unsupported(why: &impl std::fmt::Display) -> Response<Body> {
    refusal(&TrackError::new(ErrorCode::NotImplemented, why.to_string()))
}

async fn server_info() -> Response<Body> {
    #[derive(Serialize)]
    struct ServerInfo {
        store_type: &'static str,
        workspaces_enabled: bool,
        trace_archival_enabled: bool,
        presigned_upload_enabled: bool,
    }
    answer(&ServerInfo {
        store_type: "SqlStore",
        workspaces_enabled: false,
        trace_archival_enabled: false,
        presigned_upload_enabled: false,
    })
}

/// A successful response.
fn answer<T: Serialize>(value: &T) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(body) => json(StatusCode::OK, body),
        Err(error) => refusal(&TrackError::new(ErrorCode::InternalError, error.to_string())),
    }
}

/// The response that tells of an error.
fn refusal(error: &TrackError) -> Response<Body> {
    #[derive(Serialize)]
    struct Refusal<'a> {
        error_code: ErrorCode,
        message: &'a str,
    }
    let status = match error.code() {
        ErrorCode::InvalidParameterValue | ErrorCode::ResourceAlreadyExists => StatusCode::BAD_REQUEST,
        ErrorCode::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorCode::ResourceDoesNotExist | ErrorCode::EndpointNotFound => StatusCode::NOT_FOUND,
        ErrorCode::TemporarilyUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        ErrorCode::InvalidState | ErrorCode::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
    };
    if status.is_server_error() {
        tracing::error!(error = error as &dyn std::error::Error, "a request failed");
    }
    let refusal = Refusal { error_code: error.code(), message: &error.to_string() };
    json(status, serde_json::to_vec(&refusal).unwrap_or_default())
}

fn json(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
