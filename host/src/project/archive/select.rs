//! What belongs to what is to be exported.

use std::collections::{BTreeSet, HashSet};

use super::ArchiveError;
use crate::data::DatasetRecord;
use crate::domain::Name;
use crate::project::Project;
use crate::registry::{ModelRecord, VersionRecord};
use crate::track::ExperimentRecord;
use crate::track::archive::RECORDS_AT_ONCE;

/// What to export; with nothing named, everything.
#[derive(Debug, Clone, Default)]
pub struct ExportSpec {
    /// Names of experiments: their runs that are not deleted.
    pub experiments: Vec<String>,
    /// Ids of runs.
    pub runs: Vec<String>,
    /// Datasets: `name` for all versions, or `name@version` or the like for one.
    pub datasets: Vec<String>,
    /// Names of models, which bring the runs that made their versions.
    pub models: Vec<String>,
}

/// What is exported.
#[derive(Debug, Default)]
pub(super) struct Selection {
    pub(super) is_everything: bool,
    pub(super) datasets: Vec<DatasetRecord>,
    pub(super) experiments: Vec<ExperimentRecord>,
    pub(super) runs: Vec<String>,
    pub(super) logged_models: Vec<String>,
    pub(super) models: Vec<(ModelRecord, Vec<VersionRecord>)>,
}

impl ExportSpec {
    fn is_everything(&self) -> bool {
        self.experiments.is_empty()
            && self.runs.is_empty()
            && self.datasets.is_empty()
            && self.models.is_empty()
    }
}

impl Project {
    pub(super) async fn select(&self, spec: &ExportSpec) -> Result<Selection, ArchiveError> {
        let tracker = self.tracker();
        let experiments = tracker.experiment_records().await?;
        let models = self.registry.model_records().await?;
        if spec.is_everything() {
            return Ok(Selection {
                is_everything: true,
                datasets: self.datasets(None).await?,
                experiments,
                runs: tracker.run_ids(None).await?,
                logged_models: tracker.logged_model_ids(None).await?,
                models,
            });
        }
        let mut selection = Selection::default();
        for text in &spec.datasets {
            selection.datasets.extend(self.datasets(Some(text)).await?);
        }
        let mut seen = HashSet::new();
        selection.datasets.retain(|record| seen.insert((record.name.clone(), record.digest)));
        selection.models = named(models, &spec.models)?;
        let mut runs: BTreeSet<String> = spec.runs.iter().cloned().collect();
        for name in &spec.experiments {
            if !experiments.iter().any(|experiment| experiment.name == *name) {
                return Err(ArchiveError::Unknown { what: "experiment", name: name.clone() });
            }
            runs.extend(tracker.run_ids(Some(name)).await?);
        }
        self.add_runs_and_models(spec, runs, &mut selection).await?;
        let mut used: HashSet<String> = spec.experiments.iter().cloned().collect();
        for piece in selection.runs.chunks(RECORDS_AT_ONCE) {
            used.extend(tracker.run_records(piece).await?.into_iter().map(|(run, _)| run.experiment));
        }
        for piece in selection.logged_models.chunks(RECORDS_AT_ONCE) {
            used.extend(tracker.logged_model_records(piece).await?.into_iter().map(|model| model.experiment));
        }
        selection.experiments = experiments;
        selection.experiments.retain(|experiment| used.contains(&experiment.name));
        Ok(selection)
    }

    /// Runs that were named or made versions, and the logged models that belong to either.
    async fn add_runs_and_models(
        &self,
        spec: &ExportSpec,
        mut runs: BTreeSet<String>,
        selection: &mut Selection,
    ) -> Result<(), ArchiveError> {
        let tracker = self.tracker();
        let versions = || selection.models.iter().flat_map(|(_, versions)| versions);
        let mut models: BTreeSet<String> = versions().map(|version| version.model_id.clone()).collect();
        runs.extend(versions().map(|version| version.run_id.clone()));
        let wanted: Vec<String> = models.iter().cloned().collect();
        for piece in wanted.chunks(RECORDS_AT_ONCE) {
            let made = tracker.logged_model_records(piece).await?;
            runs.extend(made.into_iter().map(|model| model.source_run_id));
        }
        runs.remove("");
        models.remove("");
        let runs: Vec<String> = runs.into_iter().collect();
        for piece in runs.chunks(RECORDS_AT_ONCE) {
            let found = tracker.run_records(piece).await?;
            selection.runs.extend(found.into_iter().map(|(run, _)| run.run_id));
        }
        let there: HashSet<&str> = selection.runs.iter().map(String::as_str).collect();
        if let Some(name) = spec.runs.iter().find(|run| !there.contains(run.as_str())) {
            return Err(ArchiveError::Unknown { what: "run", name: name.clone() });
        }
        models.extend(tracker.logged_model_ids(Some(&selection.runs)).await?);
        selection.logged_models = models.into_iter().collect();
        Ok(())
    }

    /// Every dataset version, or those that `text` means.
    async fn datasets(&self, text: Option<&str>) -> Result<Vec<DatasetRecord>, ArchiveError> {
        let found = match text {
            None => self.catalog.list().await?,
            Some(text) => {
                // Also where all versions are meant, so that a name of nothing is told.
                let (name, version) = self.catalog.find_version(text).await?;
                let versions = match text.contains('@') {
                    true => vec![version],
                    false => self.catalog.versions(&name).await?,
                };
                vec![(name, versions)]
            }
        };
        let record = |name: &Name, version: crate::data::DatasetVersion| DatasetRecord {
            name: name.clone(),
            digest: version.digest,
            number: version.number,
            created_at: version.created_at,
            published_at: version.published_at,
            tags: version.tags,
        };
        Ok(found
            .into_iter()
            .flat_map(|(name, versions)| {
                versions.into_iter().map(move |version| record(&name, version)).collect::<Vec<_>>()
            })
            .collect())
    }
}

fn named(
    mut models: Vec<(ModelRecord, Vec<VersionRecord>)>,
    names: &[String],
) -> Result<Vec<(ModelRecord, Vec<VersionRecord>)>, ArchiveError> {
    if let Some(name) = names.iter().find(|name| !models.iter().any(|(model, _)| model.name == **name)) {
        return Err(ArchiveError::Unknown { what: "model", name: name.clone() });
    }
    models.retain(|(model, _)| names.contains(&model.name));
    Ok(models)
}
