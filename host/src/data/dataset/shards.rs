//! Versions whose rows are made here rather than found in files: safetensors files, written shard by shard.

use super::AddedDataset;
use super::files::FileFormat;
use super::manifest::{self, DatasetManifest, FileEntry, SplitEntry};
use super::recipe::Recipe;
use crate::data::DataError;
use crate::data::catalog::{Catalog, NewVersion, ResolvedDataset, blocking};
use crate::data::safetensors::read_as_safetensors;
use crate::data::statistics::StatisticsBuilder;
use crate::domain::{Batch, ColumnSpec, Digest, Name};
use crate::store::{BlobBatch, ExistingBlobs, NextRead, Store};

/// Writes shards that no version names yet. Several threads may write; what is not added to a version leaves nothing.
#[derive(Debug)]
pub struct ShardWriter {
    batch: BlobBatch,
}

/// Where rows belong.
#[derive(Debug, Clone, Copy)]
pub struct ShardPlace<'a> {
    /// The split.
    pub split: &'a str,
    /// Shards of the split before this one.
    pub number: u64,
    /// Rows of the split before these.
    pub first_row: u64,
}

/// Rows that were written.
pub struct Shard {
    file: FileEntry,
    rows: u64,
    schema: Vec<ColumnSpec>,
    statistics: StatisticsBuilder,
}

/// What is known of the shards of one split so far.
#[derive(Default)]
pub struct ShardedSplit {
    files: Vec<FileEntry>,
    rows: u64,
    schema: Vec<ColumnSpec>,
    statistics: StatisticsBuilder,
}

/// A version that consists of shards.
pub struct ShardedVersion {
    /// The dataset.
    pub name: Name,
    /// The version whose rows it was made of.
    pub parent: Digest,
    /// How.
    pub recipe: Recipe,
    /// Its splits.
    pub splits: Vec<ShardedSplit>,
    /// When this is, in milliseconds since 1970.
    pub now_ms: i64,
}

impl ShardWriter {
    /// Begins in the store.
    pub fn begin(store: &Store) -> Result<Self, DataError> {
        Ok(Self { batch: store.blob_batch(ExistingBlobs::Keep)? })
    }

    /// Writes rows as one file and looks at them.
    pub fn write(&self, place: ShardPlace<'_>, rows: &Batch) -> Result<Shard, DataError> {
        let ShardPlace { split, number, first_row } = place;
        let (blob, _) = self.batch.stage(&mut read_as_safetensors(rows)?, NextRead::Later)?;
        let mut statistics = StatisticsBuilder::from_row(first_row);
        statistics.observe(rows);
        let spec = |mut spec: ColumnSpec| {
            spec.nullable = spec.dtype.is_float();
            spec
        };
        Ok(Shard {
            file: FileEntry {
                path: format!("{split}-{number:06}.safetensors"),
                digest: blob.digest,
                size: blob.size,
                format: FileFormat::Safetensors,
                split: split.to_owned(),
                column: None,
            },
            rows: rows.rows() as u64,
            schema: ColumnSpec::of_batch(rows).into_iter().map(spec).collect(),
            statistics,
        })
    }
}

impl ShardedSplit {
    /// Adds the shard that follows.
    pub fn push(&mut self, shard: Shard) -> Result<(), DataError> {
        match self.files.first() {
            Some(first) if self.schema != shard.schema => {
                return Err(disagree(&shard.file, first, &self.schema, &shard.schema));
            }
            Some(_) => {}
            None => self.schema = shard.schema,
        }
        self.rows += shard.rows;
        self.files.push(shard.file);
        self.statistics.merge(shard.statistics);
        Ok(())
    }

    /// Its rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

impl ShardedVersion {
    fn manifest(self) -> Result<DatasetManifest, DataError> {
        let mut manifest = DatasetManifest {
            name: self.name,
            parents: vec![self.parent],
            recipe: Some(self.recipe),
            files: Vec::new(),
            schema: Vec::new(),
            splits: Vec::new(),
        };
        for split in self.splits {
            let Some(file) = split.files.first() else { continue };
            match manifest.files.first() {
                Some(first) if manifest.schema != split.schema => {
                    return Err(disagree(file, first, &manifest.schema, &split.schema));
                }
                Some(_) => {}
                None => manifest.schema = split.schema,
            }
            let statistics = split.statistics.finish();
            manifest.splits.push(SplitEntry { name: file.split.clone(), rows: split.rows, statistics });
            manifest.files.extend(split.files);
        }
        manifest.splits.sort_by(|a, b| a.name.cmp(&b.name));
        manifest::check_files(&manifest.files)?;
        manifest::sort(&mut manifest.files);
        Ok(manifest)
    }
}

impl Catalog {
    /// Adds shards as a new version; one that has exactly these files is left as it is.
    pub async fn add_shards(
        &self,
        writer: ShardWriter,
        version: ShardedVersion,
    ) -> Result<AddedDataset, DataError> {
        let (name, now_ms) = (version.name.clone(), version.now_ms);
        let manifest = version.manifest()?;
        if manifest.files.is_empty() {
            return Err(DataError::NoData { paths: "what is left".to_owned() });
        }
        let content = DatasetManifest::content(&manifest.files)?;
        let same = self.with_content(&name, content).await?;
        let (store, known) = (self.store().clone(), same.as_ref().map(|version| version.digest));
        let (manifest, digest) = blocking(move || {
            // Also what a version names that there is, in case the store has lost it.
            writer.batch.keep()?;
            match known {
                Some(digest) => Ok((DatasetManifest::load(&store, digest)?, digest)),
                None => {
                    let digest = manifest.store(&store, None)?;
                    Ok((manifest, digest))
                }
            }
        })
        .await?;
        let (version, unchanged) = match same {
            Some(version) => (version, true),
            None => {
                let relies_on = Vec::new();
                let new = NewVersion { digest, content, manifest: &manifest, relies_on, now_ms };
                self.insert(&name, new).await?
            }
        };
        let dataset = ResolvedDataset { name, version, manifest };
        Ok(AddedDataset { dataset, unchanged, files_read: 0, notes: Vec::new() })
    }
}

/// A transformer made other columns of some rows than of others.
fn disagree(file: &FileEntry, first: &FileEntry, expected: &[ColumnSpec], found: &[ColumnSpec]) -> DataError {
    let text = |specs: &[ColumnSpec]| {
        let columns = specs.iter().map(|spec| format!("`{}` {} {:?}", spec.name, spec.dtype, spec.shape));
        columns.take(20).collect::<Vec<_>>().join(", ")
    };
    DataError::Disagree {
        file: file.path.clone(),
        first: first.path.clone(),
        expected: text(expected),
        found: text(found),
    }
}
