use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{Method, Response};
use axum::routing::{MethodFilter, MethodRouter, get, on};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::super::TrackError;
use super::{answer, refusal};

/// Bytes of a request that is JSON. A batch of MLflow has a megabyte at most, a dataset's profile 16.
const BODY_MAX_BYTES: usize = 32 * 1024 * 1024;

/// Time for a body to arrive.
const BODY_MAX: Duration = Duration::from_secs(60);

/// A route that takes JSON in the body of a `POST`.
pub(crate) fn write<Shared, Asked, Told, Handler, Answer>(handler: Handler) -> MethodRouter<Shared>
where
    Shared: Clone + Send + Sync + 'static,
    Asked: DeserializeOwned + Send + 'static,
    Told: Serialize + 'static,
    Handler: Fn(Shared, Asked) -> Answer + Clone + Send + Sync + 'static,
    Answer: Future<Output = Result<Told, TrackError>> + Send,
{
    change(Method::POST, handler)
}

/// A route that takes JSON in the body.
pub(crate) fn change<Shared, Asked, Told, Handler, Answer>(
    method: Method,
    handler: Handler,
) -> MethodRouter<Shared>
where
    Shared: Clone + Send + Sync + 'static,
    Asked: DeserializeOwned + Send + 'static,
    Told: Serialize + 'static,
    Handler: Fn(Shared, Asked) -> Answer + Clone + Send + Sync + 'static,
    Answer: Future<Output = Result<Told, TrackError>> + Send,
{
    let filter = MethodFilter::try_from(method).unwrap_or(MethodFilter::POST);
    on(filter, async move |State(shared): State<Shared>, request: Request| {
        let told = async {
            let asked = read_json(request).await?;
            handler(shared, asked).await
        };
        respond(told.await)
    })
}

/// A route that takes its parameters in the query of a `GET`.
pub(crate) fn read_with_query<Shared, Asked, Told, Handler, Answer>(handler: Handler) -> MethodRouter<Shared>
where
    Shared: Clone + Send + Sync + 'static,
    Asked: DeserializeOwned + Send + 'static,
    Told: Serialize + 'static,
    Handler: Fn(Shared, Asked) -> Answer + Clone + Send + Sync + 'static,
    Answer: Future<Output = Result<Told, TrackError>> + Send,
{
    get(async move |State(shared): State<Shared>, request: Request| {
        let asked = serde_json::from_value(query_of(&request)).map_err(malformed);
        // A body cannot be shared between threads, and nobody reads this one.
        drop(request);
        let told = async { handler(shared, asked?).await };
        respond(told.await)
    })
}

/// Like [`read_with_query`], where the path has parameters too.
pub(crate) fn read_with_path<Shared, Asked, Told, Parameters, Handler, Answer>(
    handler: Handler,
) -> MethodRouter<Shared>
where
    Shared: Clone + Send + Sync + 'static,
    Asked: DeserializeOwned + Send + 'static,
    Told: Serialize + 'static,
    Parameters: DeserializeOwned + Send + 'static,
    Handler: Fn(Shared, Path<Parameters>, Asked) -> Answer + Clone + Send + Sync + 'static,
    Answer: Future<Output = Result<Told, TrackError>> + Send,
{
    get(async move |State(shared): State<Shared>, path: PathOf<Parameters>, request: Request| {
        let asked = serde_json::from_value(query_of(&request)).map_err(malformed);
        drop(request);
        let told = async { handler(shared, path.map_err(bad_path)?, asked?).await };
        respond(told.await)
    })
}

/// A route that takes JSON in the body, where the path has parameters too.
pub(crate) fn change_with_path<Shared, Asked, Told, Parameters, Handler, Answer>(
    method: Method,
    handler: Handler,
) -> MethodRouter<Shared>
where
    Shared: Clone + Send + Sync + 'static,
    Asked: DeserializeOwned + Send + 'static,
    Told: Serialize + 'static,
    Parameters: DeserializeOwned + Send + 'static,
    Handler: Fn(Shared, Path<Parameters>, Asked) -> Answer + Clone + Send + Sync + 'static,
    Answer: Future<Output = Result<Told, TrackError>> + Send,
{
    let filter = MethodFilter::try_from(method).unwrap_or(MethodFilter::POST);
    on(filter, async move |State(shared): State<Shared>, path: PathOf<Parameters>, request: Request| {
        let told = async {
            let asked = read_json(request).await?;
            handler(shared, path.map_err(bad_path)?, asked).await
        };
        respond(told.await)
    })
}

type PathOf<Parameters> = Result<Path<Parameters>, PathRejection>;

pub(super) fn bad_path(error: PathRejection) -> TrackError {
    TrackError::invalid(format!("Invalid path: {error}"))
}

pub(super) fn respond<Told: Serialize>(told: Result<Told, TrackError>) -> Response<Body> {
    match told {
        Ok(told) => answer(&told),
        Err(error) => refusal(&error),
    }
}

/// The query as a JSON object: text, or a list of texts where a key comes more than once.
fn query_of(request: &Request) -> Value {
    let mut object = Map::new();
    let query = request.uri().query().unwrap_or_default();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let value = Value::from(value.into_owned());
        match object.get_mut(key.as_ref()) {
            None => {
                object.insert(key.into_owned(), value);
            }
            Some(Value::Array(values)) => values.push(value),
            Some(first) => {
                let values = vec![first.take(), value];
                *first = Value::Array(values);
            }
        }
    }
    Value::Object(object)
}

/// The body's JSON; no body is an empty object.
pub(super) async fn read_json<Asked: DeserializeOwned>(request: Request) -> Result<Asked, TrackError> {
    let body = read_body(request).await?;
    let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
    serde_json::from_slice(&body).map_err(malformed)
}

async fn read_body(request: Request) -> Result<Bytes, TrackError> {
    let too_large =
        || TrackError::invalid(format!("The body is larger than the limit of {BODY_MAX_BYTES} bytes"));
    if request.body().size_hint().lower() > BODY_MAX_BYTES as u64 {
        return Err(too_large());
    }
    let body = Limited::new(request.into_body(), BODY_MAX_BYTES);
    match tokio::time::timeout(BODY_MAX, body.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(TrackError::invalid(format!("The body broke off: {error}"))),
        Err(_) => Err(TrackError::invalid("The body did not arrive in time")),
    }
}

fn malformed(error: serde_json::Error) -> TrackError {
    let message: String = error.to_string().chars().take(500).collect();
    TrackError::invalid(format!("Invalid request: {message}"))
}
