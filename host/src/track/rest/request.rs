use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{Method, Response};
use axum::routing::{MethodFilter, MethodRouter, get, on};
use http_body_util::BodyExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::super::TrackError;
use super::fields::Object;
use super::room::Room;
use super::{answer, refusal};

/// Bytes of a request that is JSON. A batch of MLflow has a megabyte at most, a dataset's profile 16.
const BODY_MAX_BYTES: usize = 32 * 1024 * 1024;

/// Bytes for which there is room before they arrive: a batch of MLflow.
const RESERVED_MAX_BYTES: usize = 1024 * 1024;

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
            let (asked, _room) = read_json(request).await?;
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
        let asked = read_query(&request);
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
        let asked = read_query(&request);
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
            let (asked, _room) = read_json(request).await?;
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

fn read_query<Asked: DeserializeOwned>(request: &Request) -> Result<Asked, TrackError> {
    let query = request.uri().query().unwrap_or_default();
    // The parser would put a character of its own in the place of what is no text.
    percent_encoding::percent_decode_str(query)
        .decode_utf8()
        .map_err(|_| TrackError::invalid("Invalid request: the query is not UTF-8"))?;
    serde_json::from_value(query_of(query)).map_err(malformed)
}

/// The query as a JSON object: text, or a list of texts where a key comes more than once.
fn query_of(query: &str) -> Value {
    let mut object = Map::new();
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

/// The body's JSON, and the memory that it takes; no body is an empty object.
pub(super) async fn read_json<Asked: DeserializeOwned>(
    request: Request,
) -> Result<(Asked, Room), TrackError> {
    let (body, room) = tokio::time::timeout(BODY_MAX, read_body(request.into_body()))
        .await
        .map_err(|_| TrackError::invalid("The body did not arrive in time"))??;
    // All of it: the parser does not look into what nobody asks for.
    let body = std::str::from_utf8(&body)
        .map_err(|_| TrackError::invalid("Invalid request: the body is not UTF-8"))?;
    let asked: Object<Asked> =
        serde_json::from_str(if body.is_empty() { "{}" } else { body }).map_err(malformed)?;
    Ok((asked.0, room))
}

async fn read_body(mut body: Body) -> Result<(Vec<u8>, Room), TrackError> {
    // What the head announces is refused before any of it is read.
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    check_size(announced)?;
    let mut room = Room::default();
    // Not all that is announced: it may never come.
    let mut bytes = Vec::with_capacity(announced.min(RESERVED_MAX_BYTES));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| TrackError::invalid(format!("The body broke off: {error}")))?;
        // What is no data are trailers, which mean nothing here.
        let Some(data) = frame.data_ref() else { continue };
        check_size(bytes.len() + data.len())?;
        room.grow(bytes.len() + data.len())?;
        bytes.extend_from_slice(data);
    }
    Ok((bytes, room))
}

fn check_size(bytes: usize) -> Result<(), TrackError> {
    if bytes > BODY_MAX_BYTES {
        return Err(TrackError::invalid(format!(
            "The body is larger than the limit of {BODY_MAX_BYTES} bytes"
        )));
    }
    Ok(())
}

fn malformed(error: serde_json::Error) -> TrackError {
    let message: String = error.to_string().chars().take(500).collect();
    TrackError::invalid(format!("Invalid request: {message}"))
}
