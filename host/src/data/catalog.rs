//! Names for datasets: numbered versions, tags, what was made from what. Rows of the database; the contents are blobs.

pub(crate) mod restore;

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::DataError;
use super::dataset::DatasetManifest;
use crate::domain::{Digest, Name};
use crate::store::{Database, Store};

/// Datasets with names; clones are cheap and mean the same ones.
#[derive(Debug, Clone)]
pub struct Catalog {
    database: Database,
    store: Store,
    /// What led to versions that are added by this one.
    pipelines: String,
}

/// A version of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatasetVersion {
    /// Its number: from 1, in order of adding.
    #[serde(rename = "version")]
    pub number: u32,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Its files.
    pub files: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Rows of each split, by name.
    pub rows: BTreeMap<String, u64>,
    /// When it was added, in milliseconds since 1970.
    pub created_at: i64,
    /// When it was published, in milliseconds since 1970.
    pub published_at: Option<i64>,
    /// Names that point at it, in order.
    pub tags: Vec<String>,
}

/// A version with its content.
#[derive(Debug, Clone)]
pub struct ResolvedDataset {
    /// The dataset.
    pub name: Name,
    /// The version.
    pub version: DatasetVersion,
    /// What it holds.
    pub manifest: DatasetManifest,
}

/// Which version of a dataset is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Selector {
    Newest,
    Number(u32),
    Digest(Digest),
    Tag(String),
}

/// A version that is to be named.
pub(super) struct NewVersion<'a> {
    pub(super) digest: Digest,
    pub(super) content: Digest,
    pub(super) manifest: &'a DatasetManifest,
    /// Versions whose files it has without having stored them again.
    pub(super) relies_on: Vec<Digest>,
    /// When this is, in milliseconds since 1970.
    pub(super) now_ms: i64,
}

const VERSION_COLUMNS: &str =
    "v.id, v.number, v.digest, v.files, v.bytes, v.rows, v.created_at, v.published_at, d.name";

impl Catalog {
    /// The datasets of a database and a store.
    pub fn new(database: Database, store: Store) -> Self {
        Self { database, store, pipelines: String::new() }
    }

    /// The same datasets, for a process that pipelines led to: their names with spaces between, which versions that are
    /// added keep.
    pub fn for_pipelines(self, pipelines: String) -> Self {
        Self { pipelines, ..self }
    }

    /// Where the contents are.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Every dataset with its versions, the oldest first.
    pub async fn list(&self) -> Result<Vec<(Name, Vec<DatasetVersion>)>, DataError> {
        let mut datasets: Vec<(Name, Vec<DatasetVersion>)> = Vec::new();
        for (name, version) in self.find("1 = 1 ORDER BY d.name, v.number", &[]).await? {
            match datasets.last_mut().filter(|(last, _)| *last == name) {
                Some((_, versions)) => versions.push(version),
                None => datasets.push((name, vec![version])),
            }
        }
        Ok(datasets)
    }

    /// Finds what `text` means: `name` is the newest version, `name@2` the second, `name@tag` the one that has the tag,
    /// `name@sha256:…` the one of that digest.
    pub async fn resolve(&self, text: &str) -> Result<ResolvedDataset, DataError> {
        let (name, version) = self.find_version(text).await?;
        let (store, digest) = (self.store.clone(), version.digest);
        let manifest = blocking(move || DatasetManifest::load(&store, digest)).await?;
        Ok(ResolvedDataset { name, version, manifest })
    }

    /// Like [`Self::resolve`], without the content.
    pub async fn find_version(&self, text: &str) -> Result<(Name, DatasetVersion), DataError> {
        let (name, selector) = parse_reference(text)?;
        let mut versions = self.versions(&name).await?;
        let Some(newest) = versions.last().map(|version| version.number) else {
            let datasets = self.list().await?.into_iter().map(|(name, _)| name).collect();
            return Err(DataError::UnknownDataset { name, datasets });
        };
        let is_meant = |version: &DatasetVersion| match &selector {
            Selector::Newest => version.number == newest,
            Selector::Number(number) => version.number == *number,
            Selector::Digest(digest) => version.digest == *digest,
            Selector::Tag(tag) => version.tags.contains(tag),
        };
        let found = versions.iter().position(is_meant).map(|place| versions.swap_remove(place));
        let version = found.ok_or_else(|| DataError::UnknownVersion {
            name: name.clone(),
            version: text.split_once('@').map_or(text, |(_, version)| version).to_owned(),
            newest,
        })?;
        Ok((name, version))
    }

    /// The versions of a dataset, the oldest first; none if there is no such dataset.
    pub async fn versions(&self, name: &Name) -> Result<Vec<DatasetVersion>, DataError> {
        let found = self.find("d.name = $1 ORDER BY v.number", &[name.as_str()]).await?;
        Ok(found.into_iter().map(|(_, version)| version).collect())
    }

    /// The versions that were made from the one of `digest`.
    pub async fn children(&self, digest: Digest) -> Result<Vec<(Name, DatasetVersion)>, DataError> {
        let condition =
            "v.id IN (SELECT version FROM dataset_parents WHERE parent = $1) ORDER BY d.name, v.number";
        self.find(condition, &[&digest.to_string()]).await
    }

    /// The versions whose manifest is `digest`.
    pub async fn with_digest(&self, digest: Digest) -> Result<Vec<(Name, DatasetVersion)>, DataError> {
        self.find("v.digest = $1 ORDER BY d.name, v.number", &[&digest.to_string()]).await
    }

    /// The version of a dataset that has exactly the files of `content`.
    pub(super) async fn with_content(
        &self,
        name: &Name,
        content: Digest,
    ) -> Result<Option<DatasetVersion>, DataError> {
        let condition = "d.name = $1 AND v.content = $2 ORDER BY v.number";
        let found = self.find(condition, &[name.as_str(), &content.to_string()]).await?;
        Ok(found.into_iter().next().map(|(_, version)| version))
    }

    /// Names a version that is stored; gives it, and whether there was one of its content already, which is left then.
    pub(super) async fn insert(
        &self,
        name: &Name,
        new: NewVersion<'_>,
    ) -> Result<(DatasetVersion, bool), DataError> {
        let row = NewRow { pipelines: self.pipelines.clone(), ..NewRow::of(name, &new)? };
        let unchanged = self
            .database
            .write(move |connection| Box::pin(async move { insert_row(connection, &row).await }))
            .await?;
        let version = self.with_content(name, new.content).await?;
        let digest = new.digest;
        let lost = || DataError::Manifest { digest, reason: "the version was deleted meanwhile".to_owned() };
        Ok((version.ok_or_else(lost)?, unchanged))
    }

    /// Points a tag at a version; it leaves the one that it pointed at.
    pub async fn tag(&self, name: &Name, number: u32, tag: String) -> Result<(), DataError> {
        check_tag(&tag)?;
        let name = name.clone();
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let (dataset, version) = version_key(connection, &name, number).await?;
                    let sql = "INSERT INTO dataset_tags (dataset, tag, version) VALUES ($1, $2, $3) \
                               ON CONFLICT (dataset, tag) DO UPDATE SET version = excluded.version";
                    let query = sqlx::query(sql).bind(dataset).bind(tag.as_str()).bind(version);
                    query.execute(connection).await?;
                    Ok::<_, DataError>(())
                })
            })
            .await
    }

    /// Takes a tag from a version; false if that does not have it.
    pub async fn untag(&self, name: &Name, number: u32, tag: String) -> Result<bool, DataError> {
        let name = name.clone();
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let (_, version) = version_key(connection, &name, number).await?;
                    let sql = "DELETE FROM dataset_tags WHERE tag = $1 AND version = $2";
                    let query = sqlx::query(sql).bind(tag.as_str()).bind(version);
                    Ok::<_, DataError>(query.execute(connection).await?.rows_affected() > 0)
                })
            })
            .await
    }

    /// Publishes a version: it can no longer be deleted. False if it was published already.
    pub async fn publish(&self, name: &Name, number: u32, now_ms: i64) -> Result<bool, DataError> {
        let name = name.clone();
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let (_, version) = version_key(connection, &name, number).await?;
                    let sql = "UPDATE dataset_versions SET published_at = $1 WHERE id = $2 AND published_at IS NULL";
                    let query = sqlx::query(sql).bind(now_ms).bind(version);
                    Ok::<_, DataError>(query.execute(connection).await?.rows_affected() > 0)
                })
            })
            .await
    }

    /// Forgets a version that is not published. Its blobs stay until nothing names them and `host gc` is run.
    pub async fn delete(&self, name: &Name, number: u32) -> Result<(), DataError> {
        let name = name.clone();
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    let (_, version) = version_key(connection, &name, number).await?;
                    let sql = "DELETE FROM dataset_versions WHERE id = $1 AND published_at IS NULL";
                    let deleted = sqlx::query(sql).bind(version).execute(connection).await?;
                    match deleted.rows_affected() {
                        0 => Err(DataError::Published { name, number }),
                        _ => Ok(()),
                    }
                })
            })
            .await
    }

    /// The versions that a condition on `v` and `d` holds for.
    async fn find(&self, condition: &str, values: &[&str]) -> Result<Vec<(Name, DatasetVersion)>, DataError> {
        let sql = format!(
            "SELECT {VERSION_COLUMNS} FROM dataset_versions v JOIN datasets d ON d.id = v.dataset WHERE {condition}"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql));
        let query = values.iter().fold(query, |query, value| query.bind(*value));
        let rows = query.fetch_all(self.database.readers()).await?;
        let mut tags = self.tags_of(&rows).await?;
        rows.iter()
            .map(|row| {
                let id: i64 = row.try_get(0)?;
                Ok((decode(row.try_get(8)?)?, version(row, tags.remove(&id).unwrap_or_default())?))
            })
            .collect()
    }

    async fn tags_of(&self, versions: &[AnyRow]) -> Result<HashMap<i64, Vec<String>>, DataError> {
        let mut tags: HashMap<i64, Vec<String>> = HashMap::new();
        // Tags are few, also where versions are many.
        let sql = match versions.is_empty() {
            true => return Ok(tags),
            false => "SELECT version, tag FROM dataset_tags ORDER BY tag",
        };
        for row in sqlx::query(sql).fetch_all(self.database.readers()).await? {
            tags.entry(row.try_get(0)?).or_default().push(row.try_get(1)?);
        }
        Ok(tags)
    }
}

/// Runs what waits for the disk where it holds up nobody else.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DataError> + Send + 'static,
) -> Result<T, DataError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(DataError::Stopped),
    }
}

/// What [`insert_row`] writes.
#[derive(Debug)]
struct NewRow {
    name: Name,
    digest: Digest,
    content: Digest,
    parents: Vec<Digest>,
    relies_on: Vec<Digest>,
    files: i64,
    bytes: i64,
    rows: String,
    now_ms: i64,
    pipelines: String,
}

impl NewRow {
    fn of(name: &Name, new: &NewVersion<'_>) -> Result<Self, DataError> {
        let NewVersion { digest, content, manifest, relies_on, now_ms } = new;
        let rows: BTreeMap<_, _> = manifest.splits.iter().map(|split| (&split.name, split.rows)).collect();
        Ok(Self {
            name: name.clone(),
            digest: *digest,
            content: *content,
            parents: manifest.parents.clone(),
            relies_on: relies_on.clone(),
            files: manifest.files.len() as i64,
            bytes: i64::try_from(manifest.bytes()).unwrap_or(i64::MAX),
            rows: serde_json::to_string(&rows).map_err(DataError::Encode)?,
            now_ms: *now_ms,
            pipelines: String::new(),
        })
    }
}

/// Adds a version with the next number; true if there was one of its content already.
async fn insert_row(connection: &mut AnyConnection, row: &NewRow) -> Result<bool, DataError> {
    let sql = "INSERT INTO datasets (name, last_number) VALUES ($1, 0) ON CONFLICT (name) DO NOTHING";
    sqlx::query(sql).bind(row.name.as_str()).execute(&mut *connection).await?;
    // Counting up first makes others who add to this dataset wait.
    let sql = "UPDATE datasets SET last_number = last_number + 1 WHERE name = $1 RETURNING id, last_number";
    let found = sqlx::query(sql).bind(row.name.as_str()).fetch_one(&mut *connection).await?;
    let (dataset, number): (i64, i64) = (found.try_get(0)?, found.try_get(1)?);
    let sql = "SELECT 1 FROM dataset_versions WHERE dataset = $1 AND (content = $2 OR digest = $3)";
    let same = sqlx::query(sql).bind(dataset).bind(row.content.to_string()).bind(row.digest.to_string());
    if same.fetch_optional(&mut *connection).await?.is_some() {
        let sql = "UPDATE datasets SET last_number = last_number - 1 WHERE id = $1";
        sqlx::query(sql).bind(dataset).execute(&mut *connection).await?;
        return Ok(true);
    }
    for relied in &row.relies_on {
        // This version has files that nobody has put of late, because others name them. Whoever deletes one of those waits
        // until this one names them too, so that `host gc` never sees neither.
        let sql = "SELECT 1 FROM dataset_versions WHERE digest = $1";
        let held = sqlx::query(sql).bind(relied.to_string()).fetch_optional(&mut *connection).await?;
        held.ok_or(DataError::Superseded { digest: *relied })?;
    }
    insert_content(connection, dataset, number, row).await?;
    Ok(false)
}

/// Writes a version of a number that is free; gives its key.
async fn insert_content(
    connection: &mut AnyConnection,
    dataset: i64,
    number: i64,
    row: &NewRow,
) -> Result<i64, DataError> {
    let sql = "INSERT INTO dataset_versions \
               (dataset, number, digest, content, files, bytes, rows, created_at, pipelines) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id";
    let inserted = sqlx::query(sql)
        .bind(dataset)
        .bind(number)
        .bind(row.digest.to_string())
        .bind(row.content.to_string())
        .bind(row.files)
        .bind(row.bytes)
        .bind(row.rows.as_str())
        .bind(row.now_ms)
        .bind(row.pipelines.as_str())
        .fetch_one(&mut *connection)
        .await?;
    let version: i64 = inserted.try_get(0)?;
    for parent in &row.parents {
        let sql = "INSERT INTO dataset_parents (version, parent) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        sqlx::query(sql).bind(version).bind(parent.to_string()).execute(&mut *connection).await?;
    }
    Ok(version)
}

/// Keys of a dataset and a version of it.
async fn version_key(
    connection: &mut AnyConnection,
    name: &Name,
    number: u32,
) -> Result<(i64, i64), DataError> {
    let sql = "SELECT v.dataset, v.id FROM dataset_versions v JOIN datasets d ON d.id = v.dataset \
               WHERE d.name = $1 AND v.number = $2";
    let query = sqlx::query(sql).bind(name.as_str()).bind(i64::from(number));
    let row = query.fetch_optional(connection).await?;
    let version = number.to_string();
    let row = row.ok_or_else(|| DataError::UnknownVersion { name: name.clone(), version, newest: number })?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

fn version(row: &AnyRow, tags: Vec<String>) -> Result<DatasetVersion, DataError> {
    let unsigned = |value: i64| u64::try_from(value).unwrap_or_default();
    Ok(DatasetVersion {
        number: u32::try_from(row.try_get::<i64, _>(1)?).unwrap_or(u32::MAX),
        digest: decode(row.try_get(2)?)?,
        files: unsigned(row.try_get(3)?),
        bytes: unsigned(row.try_get(4)?),
        rows: serde_json::from_str(row.try_get(5)?).map_err(|_| odd_row())?,
        created_at: row.try_get(6)?,
        published_at: row.try_get(7)?,
        tags,
    })
}

/// A value that this program has written, in its own type.
fn decode<T: std::str::FromStr>(text: &str) -> Result<T, DataError> {
    text.parse().map_err(|_| odd_row())
}

fn odd_row() -> DataError {
    sqlx::Error::Decode("expected what `host` writes, found something else".into()).into()
}

fn parse_reference(text: &str) -> Result<(Name, Selector), DataError> {
    let reference = || DataError::Reference { text: text.chars().take(200).collect() };
    let Some((name, version)) = text.split_once('@') else {
        return Ok((text.parse().map_err(|_| reference())?, Selector::Newest));
    };
    let name = name.parse().map_err(|_| reference())?;
    let selector = if let Ok(number) = version.parse() {
        Selector::Number(number)
    } else if let Ok(digest) = version.parse() {
        Selector::Digest(digest)
    } else {
        check_tag(version).map_err(|_| reference())?;
        Selector::Tag(version.to_owned())
    };
    Ok((name, selector))
}

/// A tag is a name that cannot be taken for a number.
fn check_tag(tag: &str) -> Result<(), DataError> {
    let is_number = tag.bytes().all(|byte| byte.is_ascii_digit());
    if is_number || tag.parse::<Name>().is_err() {
        return Err(DataError::Tag { tag: tag.chars().take(80).collect() });
    }
    Ok(())
}

impl From<sqlx::Error> for DataError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}
