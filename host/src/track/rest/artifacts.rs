use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Response, header};
use axum::routing::get;
use serde::{Deserialize, Serialize};

use super::super::artifacts::{ARTIFACT_MAX_BYTES, path_of_location};
use super::super::{ArtifactEntry, ArtifactPath, TrackError, Tracker};
use super::body::{Transfer, begin_transfer, reader_of};
use super::fields;
use super::request::read_with_query;
use super::runs::{ById, Empty};
use super::{answer, multipart, refusal};

/// Pieces in which an artifact is sent.
const PIECE_BYTES: usize = 256 * 1024;

/// Routes of the artifacts that the server keeps.
pub(super) fn router() -> Router<Tracker> {
    Router::new()
        .route("/artifacts", read_with_query(list))
        .route("/artifacts/{*path}", get(download).put(upload).delete(delete))
        .merge(multipart::router())
}

#[derive(Deserialize)]
pub(super) struct ListOfRun {
    #[serde(flatten)]
    run: ById,
    #[serde(default, deserialize_with = "fields::or_default")]
    path: String,
}

#[derive(Serialize)]
pub(super) struct ListedOfRun {
    root_uri: String,
    files: Vec<ArtifactEntry>,
}

pub(super) async fn list_of_run(tracker: Tracker, asked: ListOfRun) -> Result<ListedOfRun, TrackError> {
    let run = tracker.run(&asked.run.id()?).await?;
    let root = path_of_location(&run.info.artifact_uri)?;
    let files = tracker.list_below(&root, &ArtifactPath::parse(&asked.path)?).await?;
    Ok(ListedOfRun { root_uri: run.info.artifact_uri, files })
}

#[derive(Deserialize)]
struct List {
    #[serde(default, deserialize_with = "fields::or_default")]
    path: String,
}

#[derive(Serialize)]
struct Listed {
    files: Vec<ArtifactEntry>,
}

async fn list(tracker: Tracker, asked: List) -> Result<Listed, TrackError> {
    let mut files = tracker.list_artifacts(&ArtifactPath::parse(&asked.path)?).await?;
    // The client joins these names to the folder that it asked for.
    for file in &mut files {
        file.path = file.path.rsplit('/').next().unwrap_or_default().to_owned();
    }
    Ok(Listed { files })
}

fn path_of(request: &Request) -> Result<ArtifactPath, TrackError> {
    path_after(request, "/artifacts/")
}

/// The artifact's path: what follows `route`, decoded once and only once.
pub(super) fn path_after(request: &Request, route: &str) -> Result<ArtifactPath, TrackError> {
    let path = request.uri().path();
    let encoded = path.split_once(route).map(|(_, rest)| rest).unwrap_or_default();
    let decoded = percent_encoding::percent_decode_str(encoded).decode_utf8();
    let decoded = decoded.map_err(|_| TrackError::invalid("Invalid artifact path: it is not UTF-8"))?;
    ArtifactPath::parse(&decoded)
}

async fn download(State(tracker): State<Tracker>, request: Request) -> Response<Body> {
    let path = path_of(&request);
    drop(request);
    let opened = async {
        let (path, transfer) = (path?, begin_transfer()?);
        let (file, size) = tracker.open_artifact(&path).await?;
        Ok::<_, TrackError>((path, file, size, transfer))
    };
    let (path, file, size, transfer) = match opened.await {
        Ok(opened) => opened,
        Err(error) => return refusal(&error),
    };
    let mut response = Response::new(file_body(file, transfer));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    // What a run stored must never act as a page of this server.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let name = path.as_str().rsplit('/').next().unwrap_or_default();
    let name = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename*=UTF-8''{name}")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    response
}

/// The file's bytes, read ahead by a piece or two.
fn file_body(mut file: std::fs::File, transfer: Transfer) -> Body {
    let (pieces, body) = tokio::sync::mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let _transfer = transfer;
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let read = std::io::Read::read(&mut file, &mut piece);
            let piece = match read {
                Ok(0) => return,
                Ok(count) => {
                    piece.truncate(count);
                    Ok(Bytes::from(piece))
                }
                Err(error) => Err(error),
            };
            let failed = piece.is_err();
            // Whoever asked may have gone.
            if pieces.blocking_send(piece).is_err() || failed {
                return;
            }
        }
    });
    Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(body))
}

async fn upload(State(tracker): State<Tracker>, request: Request) -> Response<Body> {
    let path = path_of(&request);
    let stored = async {
        let path = path?;
        let (content, sent) = reader_of(request.into_body(), ARTIFACT_MAX_BYTES)?;
        let (stored, ()) = tokio::join!(tracker.put_artifact(path, content), sent);
        stored
    };
    match stored.await {
        Ok(()) => answer(&Empty {}),
        Err(error) => refusal(&error),
    }
}

async fn delete(State(tracker): State<Tracker>, request: Request) -> Response<Body> {
    let path = path_of(&request);
    drop(request);
    let deleted = async { tracker.delete_artifact(path?).await };
    match deleted.await {
        Ok(()) => answer(&Empty {}),
        Err(error) => refusal(&error),
    }
}
