use std::io::Read;

use serde::Serialize;
use sqlx::{AnyConnection, Row as _};

use super::experiments::PROXIED;
use super::names::is_plain_path;
use super::{Run, TrackError, Tracker, now_ms};
use crate::domain::Digest;
use crate::store::BlobInfo;

/// Bytes of an artifact that clients send.
pub(super) const ARTIFACT_MAX_BYTES: u64 = 64 * 1024 * 1024 * 1024;

/// Longest path of an artifact.
const PATH_MAX_BYTES: usize = 4_096;

/// Entries of a folder that a listing tells.
const LISTED_MAX: i64 = 10_000;

/// Name of an artifact: never a path of a file system, only a key of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactPath(String);

/// A file or a folder among artifacts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArtifactEntry {
    /// Its path.
    pub path: String,
    /// Whether others are below it.
    pub is_dir: bool,
    /// Bytes of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_size: Option<i64>,
}

impl ArtifactPath {
    /// The root, below which everything is.
    pub fn root() -> Self {
        Self(String::new())
    }

    /// Checks a path that was decoded once. What a further decoding, another system or a shell would read differently
    /// is refused too.
    pub fn parse(text: &str) -> Result<Self, TrackError> {
        let refuse = || {
            let shown: String = text.chars().take(300).collect();
            Err(TrackError::invalid(format!("Invalid artifact path: {}", serde_json::Value::from(shown))))
        };
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.is_empty() {
            return Ok(Self::root());
        }
        let has_drive = text.as_bytes().get(1) == Some(&b':');
        let is_strange = |c: char| c.is_control() || matches!(c, '\\' | '#' | '?' | ';' | '%');
        if text.len() > PATH_MAX_BYTES || has_drive || text.contains(is_strange) || !is_plain_path(text) {
            return refuse();
        }
        Ok(Self(text.to_owned()))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A path below this one.
    pub fn join(&self, below: &Self) -> Self {
        match (self.0.as_str(), below.0.as_str()) {
            ("", _) => below.clone(),
            (_, "") => self.clone(),
            (folder, below) => Self(format!("{folder}/{below}")),
        }
    }
}

/// The path among our artifacts that `mlflow-artifacts:/…` means; any other location is refused.
pub(crate) fn path_of_location(location: &str) -> Result<ArtifactPath, TrackError> {
    let refuse = || {
        let shown: String = location.chars().take(300).collect();
        TrackError::invalid(format!(
            "Invalid artifact location '{shown}': artifacts are kept by this server, expected `{PROXIED}…` or none"
        ))
    };
    let rest = location.strip_prefix("mlflow-artifacts:").ok_or_else(refuse)?;
    // A server may be named: `mlflow-artifacts://machine:port/path`. Whoever asks us means us.
    let path = match rest.strip_prefix("//") {
        Some(named) => named.split_once('/').map_or("", |(_, path)| path),
        None => rest.strip_prefix('/').ok_or_else(refuse)?,
    };
    ArtifactPath::parse(path).map_err(|_| refuse())
}

impl Tracker {
    /// Stores an artifact; one of the same path is replaced. Durable when it returns.
    pub async fn put_artifact(
        &self,
        path: ArtifactPath,
        mut content: impl Read + Send + 'static,
    ) -> Result<(), TrackError> {
        if path.0.is_empty() {
            return Err(TrackError::invalid("Invalid artifact path: a file needs a name"));
        }
        let store = self.store.clone();
        let stored = tokio::task::spawn_blocking(move || store.put(&mut content));
        let BlobInfo { digest, size } = stored.await.map_err(internal)??;
        self.link_artifacts(vec![(path, digest, size)]).await
    }

    /// Shows blobs that are in the store as artifacts, each with its size; those of the same paths are replaced.
    pub async fn link_artifacts(&self, files: Vec<(ArtifactPath, Digest, u64)>) -> Result<(), TrackError> {
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    for (path, digest, size) in &files {
                        write_artifact(connection, &path.0, *digest, *size).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Stores a file of a run at `path` below the run's artifacts.
    pub async fn put_run_artifact(&self, run: &Run, path: &str, content: Vec<u8>) -> Result<(), TrackError> {
        let path = path_of_location(&run.info.artifact_uri)?.join(&ArtifactPath::parse(path)?);
        self.put_artifact(path, std::io::Cursor::new(content)).await
    }

    /// Opens an artifact, after all of it was checked against its digest; gives its size too.
    pub async fn open_artifact(&self, path: &ArtifactPath) -> Result<(std::fs::File, u64), TrackError> {
        let row = sqlx::query("SELECT digest, size FROM artifacts WHERE path = $1").bind(path.as_str());
        let row = row.fetch_optional(self.database.readers()).await?;
        let row = row.ok_or_else(|| TrackError::missing(format!("No such artifact: '{}'", path.0)))?;
        let digest: Digest = row.try_get::<String, _>(0)?.parse().map_err(internal)?;
        let size: i64 = row.try_get(1)?;
        let store = self.store.clone();
        let opened = tokio::task::spawn_blocking(move || store.open_blob(digest)).await;
        Ok((opened.map_err(internal)??, u64::try_from(size).unwrap_or_default()))
    }

    /// What lies directly in a folder, by path. A file lists itself.
    pub async fn list_artifacts(&self, folder: &ArtifactPath) -> Result<Vec<ArtifactEntry>, TrackError> {
        let prefix = if folder.0.is_empty() { String::new() } else { format!("{}/", folder.0) };
        let mut entries: Vec<ArtifactEntry> = Vec::new();
        let mut from = prefix.clone();
        let end = after(&prefix);
        // Each step finds one entry and jumps over all that is below it.
        while (entries.len() as i64) < LISTED_MAX {
            let sql = "SELECT path, size FROM artifacts WHERE path >= $1 AND ($2 = '' OR path < $2) ORDER BY path \
                       LIMIT 1";
            let row = sqlx::query(sql).bind(from.as_str()).bind(end.as_str());
            let Some(row) = row.fetch_optional(self.database.readers()).await? else { break };
            let path: String = row.try_get(0)?;
            let rest = path.get(prefix.len()..).unwrap_or_default();
            match rest.split_once('/') {
                Some((name, _)) => {
                    let path = format!("{prefix}{name}");
                    from = after(&format!("{path}/"));
                    entries.push(ArtifactEntry { path, is_dir: true, file_size: None });
                }
                None => {
                    from = format!("{path}\u{1}");
                    entries.push(ArtifactEntry { path, is_dir: false, file_size: Some(row.try_get(1)?) });
                }
            }
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    /// What lies directly in `folder` below `root`, with paths below `root`.
    pub async fn list_below(
        &self,
        root: &ArtifactPath,
        folder: &ArtifactPath,
    ) -> Result<Vec<ArtifactEntry>, TrackError> {
        let mut files = self.list_artifacts(&root.join(folder)).await?;
        for file in &mut files {
            let below = file.path.strip_prefix(root.as_str()).unwrap_or(&file.path);
            file.path = below.trim_start_matches('/').to_owned();
        }
        Ok(files)
    }

    /// Forgets an artifact, or a folder with all that is in it; what is not there is no failure.
    pub async fn delete_artifact(&self, path: ArtifactPath) -> Result<(), TrackError> {
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let (from, to) = below(&path.0);
                    let sql = "DELETE FROM artifacts WHERE path = $1 OR (path >= $2 AND path < $3)";
                    sqlx::query(sql).bind(path.0.as_str()).bind(from).bind(to).execute(connection).await?;
                    Ok(())
                })
            })
            .await
    }
}

/// Keeps a file's digest under a path that is no folder, and below no file.
pub(super) async fn write_artifact(
    connection: &mut AnyConnection,
    path: &str,
    digest: Digest,
    size: u64,
) -> Result<(), TrackError> {
    let (from, to) = below(path);
    let sql = "SELECT path FROM artifacts WHERE path >= $1 AND path < $2 LIMIT 1";
    let folder = sqlx::query(sql).bind(from).bind(to).fetch_optional(&mut *connection).await?;
    if folder.is_some() {
        return Err(TrackError::invalid(format!("'{path}' is a folder")));
    }
    for (end, _) in path.match_indices('/') {
        let above = path.get(..end).unwrap_or_default();
        let sql = "SELECT path FROM artifacts WHERE path = $1";
        if sqlx::query(sql).bind(above).fetch_optional(&mut *connection).await?.is_some() {
            return Err(TrackError::invalid(format!("'{above}' is a file")));
        }
    }
    let sql = "INSERT INTO artifacts (path, digest, size, stored_at) VALUES ($1, $2, $3, $4) \
               ON CONFLICT (path) DO UPDATE SET digest = excluded.digest, size = excluded.size, \
               stored_at = excluded.stored_at";
    sqlx::query(sql)
        .bind(path)
        .bind(digest.to_string())
        .bind(i64::try_from(size).unwrap_or(i64::MAX))
        .bind(now_ms())
        .execute(connection)
        .await?;
    Ok(())
}

/// The range of paths below a folder.
pub(super) fn below(folder: &str) -> (String, String) {
    let prefix = format!("{folder}/");
    let end = after(&prefix);
    (prefix, end)
}

/// The first text after all that starts with `prefix`, which ends with a slash; empty where there is no end.
fn after(prefix: &str) -> String {
    // The character after the slash is the zero.
    prefix.strip_suffix('/').map(|folder| format!("{folder}0")).unwrap_or_default()
}

pub(super) fn internal(error: impl std::fmt::Display) -> TrackError {
    TrackError::new(super::ErrorCode::InternalError, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_plain_relative_paths_only() {
        for path in ["a", "a/b.txt", "0/abc/artifacts/model/MLmodel", "ä b/c-_.d", "a..b", ".hidden", "a/"] {
            assert!(ArtifactPath::parse(path).is_ok(), "{path}");
        }
        let hostile = [
            "..", "../a", "a/../b", "a/..", "/a", "//a", "a//b", "./a", "a/.", "C:/a", "c:a", "a\\b",
            "..\\a", "a\0b", "a#b", "a;b", "a?b", "%2e%2e/a", "a%2fb", "a%00", "a\nb", "a\u{85}b",
        ];
        for path in hostile {
            assert!(ArtifactPath::parse(path).is_err(), "{path:?}");
        }
        assert!(ArtifactPath::parse(&"a".repeat(4_097)).is_err());
    }

    #[test]
    fn locations_are_ours_only() {
        assert_eq!(path_of_location("mlflow-artifacts:/0/a").unwrap().as_str(), "0/a");
        assert_eq!(path_of_location("mlflow-artifacts://h:5000/0/a").unwrap().as_str(), "0/a");
        for location in [
            "file:///etc",
            "/etc",
            "s3://bucket/x",
            "mlflow-artifacts:",
            "mlflow-artifacts:a",
            "mlflow-artifacts:/../a",
            "mlflow-artifacts:/a/%2e%2e",
            "C:/x",
            "relative",
        ] {
            assert!(path_of_location(location).is_err(), "{location}");
        }
    }
}
