//! The routes of MLflow's scoring server, so that its clients can ask here: `POST /invocations`, `GET /ping` and
//! `GET /version`. Where there are several endpoints, `POST /endpoints/{endpoint}/invocations` asks one of them, as MLflow's
//! deployments server has it.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::routing::{get, post};

use super::answer::error_response;
use super::body::{accepted_by, packed_json};
use super::deployment::{Given, Writing};
use super::exchange::{answered, arrived, refused};
use super::rows::not_in_json;
use super::shared::Shared;
use super::{ApiError, Decoded, ErrorCode};
use crate::data::{self, UnknownColumns};
use crate::domain::ColumnSpec;

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/invocations", post(invocations))
        .route("/endpoints/{endpoint}/invocations", post(invocations_of))
        .route("/ping", get(ping))
        .route("/version", get(async || env!("CARGO_PKG_VERSION")))
}

/// How the rows of a body are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyFormat {
    Json,
    Csv,
}

async fn ping() -> Response<Body> {
    Response::new(Body::from("\n"))
}

async fn invocations(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let endpoint = match shared.endpoints.all().as_slice() {
        [only] => Ok(only.name().to_string()),
        [] => {
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NotReady, "no endpoint is loaded"))
        }
        several => {
            let names: Vec<_> =
                several.iter().take(10).map(|endpoint| format!("`{}`", endpoint.name())).collect();
            let message = format!(
                "there are several endpoints: ask `/endpoints/ENDPOINT/invocations` with one of {}",
                names.join(", ")
            );
            Err(ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidInput, message))
        }
    };
    match endpoint {
        Ok(endpoint) => scored(&shared, &endpoint, request).await,
        Err(error) => refused(&shared, error, told),
    }
}

async fn invocations_of(
    State(shared): State<Arc<Shared>>,
    endpoint: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response<Body> {
    // What is no text is no name either.
    let endpoint = endpoint.map_or_else(|_| "�".to_owned(), |Path(endpoint)| endpoint);
    scored(&shared, &endpoint, request).await
}

async fn scored(shared: &Shared, endpoint: &str, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let arrived = async {
        let format = format_of(&head.headers)?;
        Ok((format, arrived(shared, endpoint, None, &head.headers, body).await?))
    };
    let (format, (asked, body, call)) = match arrived.await {
        Ok(arrived) => arrived,
        Err(error) => return refused(shared, error, told),
    };
    let decode = move |body: &[u8], specs: &[ColumnSpec], rows_max| {
        let inputs = match format {
            BodyFormat::Json => data::decode_scoring(body, specs, rows_max)?,
            BodyFormat::Csv => data::decode_scoring_csv(body, specs, rows_max, UnknownColumns::Ignored)?,
        };
        Ok(Decoded { inputs, note: (), timeout: None })
    };
    let encode =
        |given: &Given, ()| data::encode_predictions(&given.outputs).map_err(|error| not_in_json(&error));
    let writing = Writing { len_max: |outputs, ()| data::rows_len_max(outputs), encode };
    let answer = asked.deployment.answer_as(body, call, &shared.bodies, decode, writing);
    let write = async |body, room| packed_json(&shared.bodies, body, room, accepted_by(&head.headers)).await;
    answered(shared, &asked, answer, write, told).await
}

/// What the body says that it is; JSON where it says nothing.
fn format_of(headers: &HeaderMap) -> Result<BodyFormat, ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(BodyFormat::Json) };
    let text = value.to_str().unwrap_or("?");
    match text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/json" | "" => Ok(BodyFormat::Json),
        "text/csv" => Ok(BodyFormat::Csv),
        other => {
            let other: String = other.chars().take(80).collect();
            let message = format!(
                "`Content-Type` is `{other}`: expected `application/json` or `text/csv` here; `/serve/ENDPOINT` takes \
                 images and other bytes too"
            );
            Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::Unsupported, message))
        }
    }
}

/// Errors as MLflow tells them: `{"error_code", "message"}`.
fn told(error: ApiError) -> Response<Body> {
    let code = match error.status() {
        StatusCode::NOT_FOUND => "RESOURCE_DOES_NOT_EXIST",
        StatusCode::TOO_MANY_REQUESTS => "REQUEST_LIMIT_EXCEEDED",
        StatusCode::SERVICE_UNAVAILABLE => "TEMPORARILY_UNAVAILABLE",
        status if status.is_client_error() => "BAD_REQUEST",
        _ => "INTERNAL_ERROR",
    };
    let body = serde_json::json!({ "error_code": code, "message": error.message() });
    error_response(error.status(), body.to_string())
}
