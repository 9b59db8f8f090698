use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Response, header};
use axum::routing::{post, put};
use serde::{Deserialize, Serialize};

use super::super::artifacts::internal;
use super::super::{ArtifactPath, TrackError, Tracker};
use super::artifacts::path_after;
use super::body::reader_of;
use super::request::{bad_path, read_json, respond};
use super::runs::Empty;
use super::{answer, fields, refusal};
use crate::domain::Digest;

/// Where parts are sent, whichever prefix the client began with.
const PART_PREFIX: &str = "/api/2.0/mlflow-artifacts/mpu/part";

/// Routes of artifacts that are sent in parts. A store that is a bucket would have clients send parts to it by themselves;
/// here they send them to this server, which keeps the credentials and names what arrived by its digest.
pub(super) fn router() -> Router<Tracker> {
    Router::new()
        .route("/mpu/create/{*path}", post(create))
        .route("/mpu/part/{upload_id}/{number}", put(put_part))
        .route("/mpu/complete/{*path}", post(complete))
        .route("/mpu/abort/{*path}", post(abort))
}

#[derive(Deserialize)]
struct Create {
    /// Path of the file on the client's machine; its name is the artifact's.
    path: String,
    #[serde(deserialize_with = "fields::int")]
    num_parts: i64,
}

#[derive(Serialize)]
struct Created {
    upload_id: String,
    credentials: Vec<Credential>,
}

/// Where and how a part is sent.
#[derive(Serialize)]
struct Credential {
    url: String,
    part_number: i64,
    headers: Empty,
}

async fn create(State(tracker): State<Tracker>, request: Request) -> Response<Body> {
    let created = async {
        let folder = path_after(&request, "/mpu/create/")?;
        let server = server_url(request.uri().authority(), request.headers())?;
        let (asked, _room): (Create, _) = read_json(request).await?;
        let path = path_of_file(&folder, &asked.path)?;
        let upload_id = tracker.begin_multipart(path, asked.num_parts).await?;
        let credential = |part_number| Credential {
            url: format!("{server}{PART_PREFIX}/{upload_id}/{part_number}"),
            part_number,
            headers: Empty {},
        };
        let credentials = (1..=asked.num_parts).map(credential).collect();
        Ok(Created { upload_id, credentials })
    };
    respond(created.await)
}

async fn put_part(
    State(tracker): State<Tracker>,
    path: Result<Path<(String, u32)>, axum::extract::rejection::PathRejection>,
    request: Request,
) -> Response<Body> {
    let stored = async {
        let Path((upload_id, number)) = path.map_err(bad_path)?;
        let max_bytes = tracker.part_max_bytes(upload_id.clone(), number).await?;
        let (content, sent) = reader_of(request.into_body(), max_bytes)?;
        let (stored, ()) = tokio::join!(tracker.put_part(upload_id, number, content), sent);
        stored
    };
    let digest = match stored.await {
        Ok(digest) => digest,
        Err(error) => return refusal(&error),
    };
    let mut response = answer(&Empty {});
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", digest.hex())) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

#[derive(Deserialize)]
struct Complete {
    path: String,
    upload_id: String,
    #[serde(deserialize_with = "fields::objects")]
    parts: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(deserialize_with = "fields::int")]
    part_number: i64,
    etag: String,
}

async fn complete(State(tracker): State<Tracker>, request: Request) -> Response<Body> {
    let completed = async {
        let folder = path_after(&request, "/mpu/complete/")?;
        let (asked, _room): (Complete, _) = read_json(request).await?;
        let path = path_of_file(&folder, &asked.path)?;
        let parts = asked.parts.into_iter().map(|part| Ok((part.part_number, digest_of(&part.etag)?)));
        let parts = parts.collect::<Result<_, TrackError>>()?;
        // On a task of its own: a client that gives up while a large file is put together finds it done when it asks again.
        let completing =
            tokio::spawn(async move { tracker.complete_multipart(asked.upload_id, path, parts).await });
        completing.await.map_err(internal)??;
        Ok(Empty {})
    };
    respond(completed.await)
}

#[derive(Deserialize)]
struct Abort {
    path: String,
    upload_id: String,
}

async fn abort(State(tracker): State<Tracker>, request: Request) -> Response<Body> {
    let aborted = async {
        let folder = path_after(&request, "/mpu/abort/")?;
        let (asked, _room): (Abort, _) = read_json(request).await?;
        tracker.abort_multipart(asked.upload_id, path_of_file(&folder, &asked.path)?).await?;
        Ok(Empty {})
    };
    respond(aborted.await)
}

/// The artifact that a file of the client's machine becomes: the file's name, in `folder`.
fn path_of_file(folder: &ArtifactPath, file: &str) -> Result<ArtifactPath, TrackError> {
    let is_windows = file.as_bytes().get(1) == Some(&b':') || file.starts_with("\\\\");
    let separators: &[char] = if is_windows { &['/', '\\'] } else { &['/'] };
    let name = ArtifactPath::parse(file.rsplit(separators).next().unwrap_or_default())?;
    if name == ArtifactPath::root() {
        return Err(TrackError::invalid("Invalid artifact path: a file needs a name"));
    }
    ArtifactPath::parse(folder.join(&name).as_str())
}

/// The digest that an etag of [`put_part`] tells.
fn digest_of(etag: &str) -> Result<Digest, TrackError> {
    format!("sha256:{}", etag.trim_matches('"')).parse().map_err(|_| {
        let shown: String = etag.chars().take(100).collect();
        TrackError::invalid(format!("Invalid etag {}", serde_json::Value::from(shown)))
    })
}

/// How the client reached this server: parts are sent by a client that does not know it. Only the one who asked is told
/// what its own request said.
fn server_url(authority: Option<&Authority>, headers: &HeaderMap) -> Result<String, TrackError> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = authority.cloned().or_else(|| host.and_then(|host| host.parse().ok()));
    let authority = authority.filter(|authority| !authority.as_str().contains('@'));
    let authority =
        authority.ok_or_else(|| TrackError::invalid("Invalid request: its Host is not a machine"))?;
    // A proxy that speaks TLS for us says so.
    let is_secure =
        headers.get("x-forwarded-proto").is_some_and(|scheme| scheme.as_bytes().starts_with(b"https"));
    Ok(format!("{}://{authority}", if is_secure { "https" } else { "http" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Result<String, TrackError> {
        let folder = ArtifactPath::parse("0/run/artifacts")?;
        path_of_file(&folder, path).map(|path| path.as_str().to_owned())
    }

    #[test]
    fn a_file_keeps_its_name_and_nothing_of_its_folders() {
        for path in ["a.bin", "/home/me/a.bin", "../../a.bin", "C:\\Users\\me\\a.bin", "\\\\server\\x\\a.bin"]
        {
            assert_eq!(file(path).unwrap(), "0/run/artifacts/a.bin", "{path}");
        }
        for path in ["", "/", "..", "/home/..", "a/", "a\\b", "C:\\", "a\0", "%2e%2e", "..;b", "a#"] {
            assert!(file(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn the_server_is_where_the_client_reached_it() {
        let url = |host: &str, scheme: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
            if let Some(scheme) = scheme {
                headers.insert("x-forwarded-proto", HeaderValue::from_str(scheme).unwrap());
            }
            server_url(None, &headers)
        };
        assert_eq!(url("127.0.0.1:5000", None).unwrap(), "http://127.0.0.1:5000");
        assert_eq!(url("ml.example", Some("https")).unwrap(), "https://ml.example");
        assert_eq!(url("[::1]:5000", Some("javascript")).unwrap(), "http://[::1]:5000");
        for host in ["", "a b", "me@ml.example", "ml.example/x", "ml.example?x"] {
            assert!(url(host, None).is_err(), "{host}");
        }
        assert!(server_url(None, &HeaderMap::new()).is_err());
    }

    #[test]
    fn etags_are_digests() {
        let digest = Digest::of(b"part");
        assert_eq!(digest_of(&format!("\"{}\"", digest.hex())).unwrap(), digest);
        assert_eq!(digest_of(&digest.hex()).unwrap(), digest);
        for etag in ["", "\"\"", "d41d8cd98f00b204e9800998ecf8427e", "../x"] {
            assert!(digest_of(etag).is_err(), "{etag}");
        }
    }
}
