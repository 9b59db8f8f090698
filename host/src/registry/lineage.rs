use std::collections::{BTreeMap, HashSet};

use futures_core::future::BoxFuture;
use serde::Serialize;
use sqlx::Row as _;

use super::{Registry, RegistryError};
use crate::data::{Catalog, DatasetManifest};
use crate::domain::{Digest, Name};
use crate::track::TrackError;

/// Generations of parents that are followed.
const GENERATIONS_MAX: usize = 32;

/// Where a dataset version comes from, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineageDataset {
    /// The dataset; none if the version was deleted.
    pub name: Option<Name>,
    /// The version's number.
    pub version: Option<u32>,
    /// Digest of its manifest.
    pub digest: Digest,
    /// What it was made from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<LineageDataset>,
    /// Whether it stands in the lineage already, with its parents, which are left out here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_told_above: bool,
    /// Whether it was made from others that are left out here, because they are too many generations away.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_truncated: bool,
    /// What was made from it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<LineageDataset>,
    /// Runs that read it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<LineageRun>,
}

/// A run that read a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineageRun {
    /// Its id.
    pub run_id: String,
    /// Its name.
    pub run_name: String,
    /// Model versions that it made.
    pub models: Vec<LineageModel>,
}

/// A model version that a run made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineageModel {
    /// The model.
    pub name: String,
    /// The version's number.
    pub version: i64,
}

impl Registry {
    /// Where the dataset version that `text` means comes from, and what came of it.
    pub async fn lineage(&self, catalog: &Catalog, text: &str) -> Result<LineageDataset, RegistryError> {
        let (name, version) = catalog.find_version(text).await?;
        let mut lineage = self.ancestry(catalog, version.digest, 0, &mut HashSet::new()).await?;
        (lineage.name, lineage.version) = (Some(name), Some(version.number));
        for (name, child) in catalog.children(version.digest).await? {
            lineage.children.push(LineageDataset {
                name: Some(name),
                version: Some(child.number),
                ..LineageDataset::unnamed(child.digest)
            });
        }
        lineage.runs = self.runs_that_read(version.digest).await?;
        Ok(lineage)
    }

    /// A version with its parents and theirs; each of them once, since versions that share parents would otherwise double
    /// the tree with every generation. `told` has those that stand in it.
    fn ancestry<'a>(
        &'a self,
        catalog: &'a Catalog,
        digest: Digest,
        generation: usize,
        told: &'a mut HashSet<Digest>,
    ) -> BoxFuture<'a, Result<LineageDataset, RegistryError>> {
        Box::pin(async move {
            let mut dataset = LineageDataset::unnamed(digest);
            if let Some((name, version)) = catalog.with_digest(digest).await?.into_iter().next() {
                (dataset.name, dataset.version) = (Some(name), Some(version.number));
            }
            if told.contains(&digest) {
                dataset.is_told_above = true;
                return Ok(dataset);
            }
            let store = self.store().clone();
            let parents =
                tokio::task::spawn_blocking(move || DatasetManifest::parents_of(&store, digest)).await;
            // The manifest of a version that was deleted may be gone.
            let parents = parents.ok().and_then(Result::ok).unwrap_or_default();
            if generation == GENERATIONS_MAX {
                // It may stand elsewhere in the lineage, with its parents.
                dataset.is_truncated = !parents.is_empty();
                return Ok(dataset);
            }
            told.insert(digest);
            for parent in parents {
                dataset.parents.push(self.ancestry(catalog, parent, generation + 1, told).await?);
            }
            Ok(dataset)
        })
    }

    /// Runs that read the version, with what they made.
    async fn runs_that_read(&self, digest: Digest) -> Result<Vec<LineageRun>, RegistryError> {
        let sql = "SELECT r.run_id, r.name, m.name, v.number FROM input_datasets d \
                   JOIN run_inputs i ON i.dataset = d.id JOIN runs r ON r.id = i.run \
                   LEFT JOIN model_versions v ON v.run_id = r.run_id \
                   LEFT JOIN registered_models m ON m.id = v.model \
                   WHERE d.source_type = 'host' AND d.source LIKE $1 AND r.deleted_at IS NULL \
                   ORDER BY r.started_at, r.run_id, m.name, v.number";
        let query = sqlx::query(sql).bind(format!("%@{digest}"));
        let rows = query.fetch_all(self.database().readers()).await.map_err(TrackError::from)?;
        let mut order: Vec<String> = Vec::new();
        let mut runs: BTreeMap<String, LineageRun> = BTreeMap::new();
        for row in rows {
            let read = || -> Result<_, sqlx::Error> {
                Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?))
            };
            let (run_id, run_name, model, number): (String, String, Option<String>, Option<i64>) =
                read().map_err(TrackError::from)?;
            let run = runs.entry(run_id.clone()).or_insert_with(|| {
                order.push(run_id.clone());
                LineageRun { run_id, run_name, models: Vec::new() }
            });
            if let (Some(name), Some(version)) = (model, number) {
                run.models.push(LineageModel { name, version });
            }
        }
        Ok(order.into_iter().filter_map(|run_id| runs.remove(&run_id)).collect())
    }
}

impl LineageDataset {
    fn unnamed(digest: Digest) -> Self {
        Self {
            name: None,
            version: None,
            digest,
            parents: Vec::new(),
            is_told_above: false,
            is_truncated: false,
            children: Vec::new(),
            runs: Vec::new(),
        }
    }
}
