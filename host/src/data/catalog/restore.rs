//! Versions of datasets as records that can be carried to another database, and writing them there. Nothing that is there
//! is changed.

use serde::{Deserialize, Serialize};
use sqlx::{AnyConnection, Row as _};

use super::{DatasetManifest, NewRow, NewVersion, check_tag, insert_content};
use crate::data::DataError;
use crate::domain::{Digest, Name};
use crate::store::Store;

/// Highest number that a version may bring: those of later ones must have room.
const NUMBER_MAX: u32 = 1_000_000_000;

/// A version of a dataset; what it holds is told by its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetRecord {
    /// The dataset.
    pub name: Name,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Its number.
    pub number: u32,
    /// When it was added, in milliseconds since 1970.
    pub created_at: i64,
    /// When it was published, in milliseconds since 1970.
    pub published_at: Option<i64>,
    /// Names that point at it.
    pub tags: Vec<String>,
}

/// A record whose manifest was read.
#[derive(Debug)]
pub(crate) struct ReadRecord {
    record: DatasetRecord,
    row: NewRow,
    /// Every blob that it needs.
    pub(crate) blobs: Vec<Digest>,
}

/// What became of a version that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RestoredDataset {
    pub(crate) number: u32,
    /// Whether it was written just now.
    pub(crate) is_new: bool,
    /// Tags that other versions have.
    pub(crate) taken: Vec<String>,
}

/// Reads the manifest of a record from the store.
pub(crate) fn read_record(store: &Store, record: DatasetRecord) -> Result<ReadRecord, DataError> {
    record.tags.iter().try_for_each(|tag| check_tag(tag))?;
    if !(1..=NUMBER_MAX).contains(&record.number) {
        let (digest, number) = (record.digest, record.number);
        let reason = format!("expected a version from 1 to {NUMBER_MAX}, found {number}");
        return Err(DataError::Manifest { digest, reason });
    }
    let (manifest, mut blobs) = DatasetManifest::load_chain(store, record.digest)?;
    blobs.extend(manifest.files.iter().map(|file| file.digest));
    let content = DatasetManifest::content(&manifest.files)?;
    // All of its files have just been put.
    let relies_on = Vec::new();
    let now_ms = record.created_at;
    let new = NewVersion { digest: record.digest, content, manifest: &manifest, relies_on, now_ms };
    let row = NewRow::of(&record.name, &new)?;
    Ok(ReadRecord { record, row, blobs })
}

/// Finds the version of the record's digest, or writes it: under its number if that is free, under the next otherwise.
pub(crate) async fn restore(
    connection: &mut AnyConnection,
    read: &ReadRecord,
) -> Result<RestoredDataset, DataError> {
    let (record, name) = (&read.record, read.record.name.as_str());
    let sql = "INSERT INTO datasets (name, last_number) VALUES ($1, 0) ON CONFLICT (name) DO NOTHING";
    sqlx::query(sql).bind(name).execute(&mut *connection).await?;
    // Whoever else adds a version waits.
    let sql = "UPDATE datasets SET last_number = last_number WHERE name = $1 RETURNING id, last_number";
    let row = sqlx::query(sql).bind(name).fetch_one(&mut *connection).await?;
    let (dataset, last): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let sql = "SELECT id, number FROM dataset_versions WHERE dataset = $1 AND digest = $2";
    let query = sqlx::query(sql).bind(dataset).bind(record.digest.to_string());
    let (version, number, is_new) = match query.fetch_optional(&mut *connection).await? {
        Some(row) => (row.try_get(0)?, row.try_get(1)?, false),
        None => {
            let wanted = i64::from(record.number);
            let sql = "SELECT 1 FROM dataset_versions WHERE dataset = $1 AND number = $2";
            let query = sqlx::query(sql).bind(dataset).bind(wanted);
            let is_taken = query.fetch_optional(&mut *connection).await?.is_some();
            let number = if is_taken { last + 1 } else { wanted };
            let version = insert_content(connection, dataset, number, &read.row).await?;
            let sql = "UPDATE dataset_versions SET published_at = $1 WHERE id = $2";
            let query = sqlx::query(sql).bind(record.published_at).bind(version);
            query.execute(&mut *connection).await?;
            let sql = "UPDATE datasets SET last_number = $1 WHERE id = $2 AND last_number < $1";
            sqlx::query(sql).bind(number).bind(dataset).execute(&mut *connection).await?;
            (version, number, true)
        }
    };
    let mut taken = Vec::new();
    for tag in &record.tags {
        let sql = "INSERT INTO dataset_tags (dataset, tag, version) VALUES ($1, $2, $3) \
                   ON CONFLICT (dataset, tag) DO UPDATE SET tag = excluded.tag RETURNING version";
        let row = sqlx::query(sql).bind(dataset).bind(tag.as_str()).bind(version);
        let holder: i64 = row.fetch_one(&mut *connection).await?.try_get(0)?;
        if holder != version {
            taken.push(tag.clone());
        }
    }
    Ok(RestoredDataset { number: u32::try_from(number).unwrap_or(u32::MAX), is_new, taken })
}
