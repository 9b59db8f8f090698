//! One step of a walk: what a thing was made from, and what was made of it.
//!
//! What a run read and made is what it says in its inputs and tags, as `host train` and the steps of pipelines write them;
//! what a bundle holds and a dataset version was made of stands in their manifests.

use std::collections::HashSet;

use sqlx::Row as _;

use super::{LineageNode, Walk};
use crate::data::{DatasetManifest, DatasetVersion};
use crate::domain::{Digest, Name};
use crate::registry::{BundleManifest, ModelVersion, Registry, RegistryError, TransformerEntry};
use crate::track::{BUNDLE_TAG, PARENT_TAG, PIPELINE_TAG, PLUGIN_TAG, Run, TrackError};

/// Runs of one step of a walk: as many as fit a whole lineage.
const RUNS_MAX: i64 = 1_000;

impl Walk<'_> {
    /// What `node` was made from.
    pub(super) async fn sources(&self, node: &LineageNode) -> Result<Vec<LineageNode>, RegistryError> {
        match node {
            LineageNode::Dataset { digest, .. } => self.sources_of_dataset(*digest).await,
            LineageNode::Component { .. } => Ok(Vec::new()),
            LineageNode::Run { run_id, .. } => self.sources_of_run(run_id).await,
            LineageNode::Bundle { digest, .. } => self.sources_of_bundle(*digest).await,
            LineageNode::Model { name, version, .. } => self.sources_of_model(name, *version).await,
        }
    }

    /// What was made of `node`.
    pub(super) async fn products(&self, node: &LineageNode) -> Result<Vec<LineageNode>, RegistryError> {
        match node {
            LineageNode::Dataset { digest, .. } => {
                let children = self.catalog.children(*digest).await?;
                let mut products: Vec<_> =
                    children.iter().map(|(name, version)| dataset(name, version)).collect();
                let sql = "SELECT DISTINCT r.run_id, r.started_at FROM input_datasets d \
                           JOIN run_inputs i ON i.dataset = d.id JOIN runs r ON r.id = i.run \
                           WHERE d.source_type = 'host' AND d.source LIKE $1 AND r.deleted_at IS NULL \
                           ORDER BY r.started_at, r.run_id LIMIT $2";
                products.extend(self.registry.lineage_runs(sql, &format!("%@{digest}")).await?);
                Ok(products)
            }
            LineageNode::Component { digest, .. } => {
                let sql = "SELECT DISTINCT r.run_id, r.started_at FROM run_tags t JOIN runs r ON r.id = t.run \
                           WHERE t.key LIKE 'host.plugin.%' AND t.value = $1 AND r.deleted_at IS NULL \
                           ORDER BY r.started_at, r.run_id LIMIT $2";
                self.registry.lineage_runs(sql, &digest.to_string()).await
            }
            LineageNode::Run { run_id, .. } => {
                let run = self.registry.tracker().run(run_id).await.map_err(RegistryError::from)?;
                let bundle = tag(&run, BUNDLE_TAG).and_then(|text| text.parse().ok());
                let mut products = Vec::new();
                match bundle {
                    Some(bundle) => products.push(self.registry.lineage_bundle(bundle).await),
                    // A client of MLflow made a version of files of the run.
                    None => products.extend(self.registry.lineage_versions("v.run_id", run_id).await?),
                }
                Ok(products)
            }
            LineageNode::Bundle { digest, .. } => {
                self.registry.lineage_versions("v.bundle", &digest.to_string()).await
            }
            LineageNode::Model { .. } => Ok(Vec::new()),
        }
    }

    async fn sources_of_dataset(&self, digest: Digest) -> Result<Vec<LineageNode>, RegistryError> {
        let store = self.catalog.store().clone();
        let loaded = tokio::task::spawn_blocking(move || {
            let parents = DatasetManifest::parents_of(&store, digest)?;
            let recipe = DatasetManifest::load(&store, digest).ok().and_then(|manifest| manifest.recipe);
            Ok::<_, crate::data::DataError>((parents, recipe))
        });
        // The manifest of a version that was deleted may be gone.
        let Ok(Ok((parents, recipe))) = loaded.await else { return Ok(Vec::new()) };
        let mut sources = Vec::new();
        for parent in parents {
            sources.push(self.dataset_of(parent).await?);
        }
        let transformers = recipe.into_iter().flat_map(|recipe| recipe.transformers);
        sources.extend(transformers.map(|applied| component(applied.name, applied.component)));
        Ok(sources)
    }

    async fn sources_of_run(&self, run_id: &str) -> Result<Vec<LineageNode>, RegistryError> {
        let run = self.registry.tracker().run(run_id).await?;
        let mut sources = Vec::new();
        for input in &run.inputs.dataset_inputs {
            let digest = input.dataset.source.rsplit_once('@').and_then(|(_, digest)| digest.parse().ok());
            if let (Some(digest), "host") = (digest, input.dataset.source_type.as_str()) {
                sources.push(self.dataset_of(digest).await?);
            }
        }
        let components = run.data.tags.iter().filter_map(|pair| {
            let name = pair.key.strip_prefix(PLUGIN_TAG)?;
            Some(component(name.to_owned(), pair.value.parse().ok()?))
        });
        sources.extend(components);
        Ok(sources)
    }

    /// The runs that made the bundle, or, where they are gone, what it says it was made from.
    async fn sources_of_bundle(&self, digest: Digest) -> Result<Vec<LineageNode>, RegistryError> {
        let runs = self.registry.makers_of_bundle(digest).await?;
        // A run that reads nothing only brought the bundle here.
        let has_read = |run: &&Run| !run.inputs.dataset_inputs.is_empty();
        let mut sources: Vec<_> = runs.iter().map(run_node).collect();
        if !runs.iter().any(|run| has_read(&run))
            && let Ok(manifest) = self.registry.manifest(digest).await
        {
            let BundleManifest { dataset, preprocess, postprocess, .. } = manifest;
            if let Some(dataset) = dataset {
                sources.push(self.dataset_of(dataset.version).await?);
            }
            let of = |entry: TransformerEntry| component(entry.name, entry.component.digest);
            sources.extend(preprocess.into_iter().chain(postprocess).map(of));
        }
        Ok(sources)
    }

    async fn sources_of_model(&self, name: &str, number: i64) -> Result<Vec<LineageNode>, RegistryError> {
        let version = self.registry.numbered_version(name, number).await?;
        if let Some(bundle) = version.bundle {
            return Ok(vec![self.registry.lineage_bundle(bundle).await]);
        }
        let run = self.registry.tracker().run(&version.run_id).await;
        Ok(run.iter().map(run_node).collect())
    }

    async fn dataset_of(&self, digest: Digest) -> Result<LineageNode, RegistryError> {
        let found = self.catalog.with_digest(digest).await?.into_iter().next();
        Ok(match found {
            Some((name, version)) => dataset(&name, &version),
            None => LineageNode::Dataset { name: None, version: None, digest },
        })
    }
}

impl Registry {
    /// The runs whose ids a query answers that takes a text and the most rows.
    async fn lineage_runs(&self, sql: &'static str, text: &str) -> Result<Vec<LineageNode>, RegistryError> {
        let query = sqlx::query(sql).bind(text).bind(RUNS_MAX);
        let rows = query.fetch_all(self.database().readers()).await.map_err(TrackError::from)?;
        let mut runs = Vec::with_capacity(rows.len());
        for row in rows {
            let run_id: &str = row.try_get(0).map_err(TrackError::from)?;
            runs.push(run_node(&self.tracker().run(run_id).await?));
        }
        Ok(runs)
    }

    /// The runs that say they made a bundle. Of a search and its trials, the trials.
    async fn makers_of_bundle(&self, bundle: Digest) -> Result<Vec<Run>, RegistryError> {
        let sql = "SELECT r.run_id FROM run_tags t JOIN runs r ON r.id = t.run \
                   WHERE t.key = $1 AND t.value = $2 AND r.deleted_at IS NULL ORDER BY r.id LIMIT $3";
        let query = sqlx::query(sql).bind(BUNDLE_TAG).bind(bundle.to_string()).bind(RUNS_MAX);
        let rows = query.fetch_all(self.database().readers()).await.map_err(TrackError::from)?;
        let mut runs = Vec::with_capacity(rows.len());
        for row in rows {
            let run_id: &str = row.try_get(0).map_err(TrackError::from)?;
            runs.push(self.tracker().run(run_id).await?);
        }
        let parents: HashSet<String> =
            runs.iter().filter_map(|run| tag(run, PARENT_TAG)).map(str::to_owned).collect();
        runs.retain(|run| !parents.contains(&run.info.run_id));
        Ok(runs)
    }

    pub(super) async fn lineage_bundle(&self, digest: Digest) -> LineageNode {
        let manifest = self.manifest(digest).await.ok();
        LineageNode::Bundle { digest, framework: manifest.map(|manifest| manifest.model.framework) }
    }

    /// The model versions with a text in one of their columns.
    async fn lineage_versions(&self, column: &str, text: &str) -> Result<Vec<LineageNode>, RegistryError> {
        let sql = format!(
            "SELECT m.name, v.number FROM model_versions v JOIN registered_models m ON m.id = v.model \
             WHERE {column} = $1 ORDER BY m.name, v.number LIMIT $2"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(text).bind(RUNS_MAX);
        let rows = query.fetch_all(self.database().readers()).await.map_err(TrackError::from)?;
        let mut versions = Vec::with_capacity(rows.len());
        for row in rows {
            let read = || Ok::<_, sqlx::Error>((row.try_get(0)?, row.try_get(1)?));
            let (name, number): (String, i64) = read().map_err(TrackError::from)?;
            versions.push(model(self.numbered_version(&name, number).await?));
        }
        Ok(versions)
    }
}

pub(super) fn dataset(name: &Name, version: &DatasetVersion) -> LineageNode {
    LineageNode::Dataset { name: Some(name.clone()), version: Some(version.number), digest: version.digest }
}

pub(super) fn component(name: String, digest: Digest) -> LineageNode {
    LineageNode::Component { name, digest }
}

pub(super) fn model(version: ModelVersion) -> LineageNode {
    LineageNode::Model { name: version.name, version: version.number, aliases: version.aliases }
}

pub(super) fn run_node(run: &Run) -> LineageNode {
    LineageNode::Run {
        run_id: run.info.run_id.clone(),
        name: run.info.run_name.clone(),
        status: run.info.status,
        pipeline: tag(run, PIPELINE_TAG).map(str::to_owned),
    }
}

fn tag<'a>(run: &'a Run, key: &str) -> Option<&'a str> {
    run.data.tags.iter().find(|pair| pair.key == key).map(|pair| pair.value.as_str())
}
