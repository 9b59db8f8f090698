use std::io::Read;

use serde::Serialize;
use sqlx::any::AnyRow;
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

/// Entries of a folder that a listing tells; a folder with more is not listed at all.
const LISTED_MAX: usize = 1_000_000;

/// Bytes of the paths that a listing tells, so that long ones do not fill the memory.
const LISTED_MAX_BYTES: usize = 256 * 1024 * 1024;

/// Rows that a listing reads at first, and at most, by one statement.
const PAGE_ROWS_MIN: usize = 16;
const PAGE_ROWS_MAX: usize = 4_096;

/// Times that a path may be decoded until nothing of it changes. Nobody encodes so often; more is meant to deceive.
const DECODINGS_MAX: usize = 16;

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

    /// Checks a path that was decoded once: the path of a file or folder, which is nothing but a key of the database. It may
    /// have a percent sign or a semicolon, as MLflow's files may, as long as it means the same file to whoever decodes it
    /// again or cuts off what follows a semicolon.
    pub fn parse(text: &str) -> Result<Self, TrackError> {
        Self::checked(text, is_harmless)
    }

    /// Checks a path in a location or a source, which others read too: what a further decoding, another system or a shell
    /// would read differently is refused.
    pub fn parse_location(text: &str) -> Result<Self, TrackError> {
        Self::checked(text, |path| is_name_everywhere(path) && !path.contains(['?', ';', '%']))
    }

    fn checked(text: &str, is_good: impl Fn(&str) -> bool) -> Result<Self, TrackError> {
        let path = text.strip_suffix('/').unwrap_or(text);
        if path.is_empty() {
            return Ok(Self::root());
        }
        if path.len() > PATH_MAX_BYTES || !is_good(path) {
            let shown: String = path.chars().take(300).collect();
            let shown = serde_json::Value::from(shown);
            return Err(TrackError::invalid(format!("Invalid artifact path: {shown}")));
        }
        Ok(Self(path.to_owned()))
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

/// Whether a path is the same relative path of the same parts however often it is decoded.
fn is_harmless(path: &str) -> bool {
    let slashes = |path: &str| path.matches('/').count();
    let mut decoded = path.to_owned();
    for _ in 0..DECODINGS_MAX {
        if !is_name_everywhere(&decoded) || slashes(&decoded) != slashes(path) {
            return false;
        }
        let bytes: Vec<u8> = percent_encoding::percent_decode_str(&decoded).collect();
        let is_text = std::str::from_utf8(&bytes).is_ok();
        // Bytes with which a dot or a slash can be written in a longer way than UTF-8 has it.
        if !is_text && bytes.iter().any(|byte| matches!(byte, 0xC0 | 0xC1 | 0xE0 | 0xF0)) {
            return false;
        }
        let again = String::from_utf8_lossy(&bytes).into_owned();
        if again == decoded {
            return true;
        }
        decoded = again;
    }
    false
}

/// Whether a path is relative on every system, and none of its parts is empty or dots, not even without what follows a
/// semicolon.
fn is_name_everywhere(path: &str) -> bool {
    let has_drive = path.as_bytes().get(1) == Some(&b':');
    let is_strange = |c: char| c.is_control() || matches!(c, '\\' | '#' | '?');
    let names = path.split('/').map(|part| part.split(';').next().unwrap_or_default());
    !has_drive && !path.contains(is_strange) && names.into_iter().all(is_plain_path)
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
    ArtifactPath::parse_location(path).map_err(|_| refuse())
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
        let path = self.artifact_folder(run)?.join(&ArtifactPath::parse(path)?);
        self.put_artifact(path, std::io::Cursor::new(content)).await
    }

    /// The folder of a run's artifacts.
    pub fn artifact_folder(&self, run: &Run) -> Result<ArtifactPath, TrackError> {
        path_of_location(&run.info.artifact_uri)
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

    /// What lies directly in a folder, by path; in a file lies nothing.
    pub async fn list_artifacts(&self, folder: &ArtifactPath) -> Result<Vec<ArtifactEntry>, TrackError> {
        let prefix = if folder.0.is_empty() { String::new() } else { format!("{}/", folder.0) };
        let mut listing = Listing { from: prefix.clone(), prefix, entries: Vec::new(), bytes: 0 };
        let mut limit = PAGE_ROWS_MIN;
        loop {
            let rows = self.artifacts_from(&listing, limit).await?;
            let before = listing.entries.len();
            for row in &rows {
                listing.add(row.try_get(0)?, row.try_get(1)?);
            }
            listing.check()?;
            if rows.len() < limit {
                break;
            }
            // Files follow one another; what is below folders is read in vain, so few rows at a time.
            let is_wasteful = (listing.entries.len() - before) * 2 < rows.len();
            limit = if is_wasteful { PAGE_ROWS_MIN } else { (limit * 4).min(PAGE_ROWS_MAX) };
        }
        listing.entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(listing.entries)
    }

    /// The next rows that a listing may need.
    async fn artifacts_from(&self, listing: &Listing, limit: usize) -> Result<Vec<AnyRow>, TrackError> {
        let sql = "SELECT path, size FROM artifacts WHERE path >= $1 AND ($2 = '' OR path < $2) ORDER BY path \
                   LIMIT $3";
        let rows = sqlx::query(sql)
            .bind(listing.from.as_str())
            .bind(after(&listing.prefix))
            .bind(limit as i64)
            .fetch_all(self.database.readers());
        Ok(rows.await?)
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

/// A listing on its way through the paths of a folder.
struct Listing {
    /// What the paths begin with.
    prefix: String,
    /// The first path that is not read yet; what comes before it is listed, or below a folder that is.
    from: String,
    entries: Vec<ArtifactEntry>,
    /// Bytes of the entries' paths.
    bytes: usize,
}

impl Listing {
    /// Takes the next path in order: a file, or something below a folder, of which the first is enough.
    fn add(&mut self, path: String, size: i64) {
        if path < self.from {
            return;
        }
        let rest = path.get(self.prefix.len()..).unwrap_or_default();
        let entry = match rest.split_once('/') {
            Some((name, _)) => {
                let path = format!("{}{name}", self.prefix);
                self.from = after(&format!("{path}/"));
                ArtifactEntry { path, is_dir: true, file_size: None }
            }
            None => {
                // No path has a control character, so that none lies between.
                self.from = format!("{path}\u{1}");
                ArtifactEntry { path, is_dir: false, file_size: Some(size) }
            }
        };
        self.bytes += entry.path.len();
        self.entries.push(entry);
    }

    fn check(&self) -> Result<(), TrackError> {
        if self.entries.len() > LISTED_MAX || self.bytes > LISTED_MAX_BYTES {
            return Err(TrackError::invalid(format!(
                "'{}' has more than {LISTED_MAX} entries, or their paths more than {LISTED_MAX_BYTES} bytes: list \
                 folders below it",
                self.prefix
            )));
        }
        Ok(())
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

    /// Paths that nobody takes.
    const HOSTILE: [&str; 43] = [
        "..",
        "../a",
        "a/../b",
        "a/..",
        "/a",
        "//a",
        "a//b",
        "./a",
        "a/.",
        "C:/a",
        "c:a",
        "a\\b",
        "..\\a",
        "a\0b",
        "a#b",
        "a?b",
        "a\nb",
        "a\u{85}b",
        // Decoded once more.
        "%2e%2e/a",
        "a/%2e%2e/b",
        "a/.%2e",
        "%2e/a",
        "a%2fb",
        "%2fa",
        "a%5Cb",
        "a%00",
        "a%0Ab",
        "a%23b",
        "a%3Fb",
        "C%3A/a",
        "%43:/a",
        // And more often.
        "%252e%252e/a",
        "%25252e%25252e/a",
        "a%252fb",
        "a%2500",
        "C%253A/a",
        // Longer than UTF-8 has them.
        "%c0%ae%c0%ae/a",
        "a%c0%afb",
        "%e0%80%ae/a",
        // Without what follows a semicolon.
        "..;/a",
        "a/..;b/c",
        "a/;b",
        "%2e%2e%3bx/a",
    ];

    #[test]
    fn takes_plain_relative_paths_only() {
        for path in ["a", "a/b.txt", "0/abc/artifacts/model/MLmodel", "ä b/c-_.d", "a..b", ".hidden", "a/"] {
            assert!(ArtifactPath::parse(path).is_ok(), "{path}");
            assert!(ArtifactPath::parse_location(path).is_ok(), "{path}");
        }
        for path in HOSTILE {
            assert!(ArtifactPath::parse(path).is_err(), "{path:?}");
            assert!(ArtifactPath::parse_location(path).is_err(), "{path:?}");
        }
        let deep = format!("%{}2e%2e/a", "25".repeat(100));
        for path in [&"a".repeat(4_097), &deep] {
            assert!(ArtifactPath::parse(path).is_err());
        }
    }

    #[test]
    fn names_of_files_may_have_a_percent_sign_or_a_semicolon() {
        for path in
            ["50%.txt", "a/50%", "5%accuracy.png", "x%20y", "100%25", "%%", "a;b.txt", "a/b;c;d", "a%3Bb"]
        {
            assert_eq!(ArtifactPath::parse(path).unwrap().as_str(), path);
            assert!(ArtifactPath::parse_location(path).is_err(), "{path}");
        }
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
