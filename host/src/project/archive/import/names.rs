//! Writes what an archive says, line by line, with the names that things have here.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Seek as _};

use sqlx::AnyConnection;

use super::super::{ArchiveError, Line, nameless, shown};
use super::{ImportReport, datasets, read_line};
use crate::domain::Name;
use crate::registry::VersionRecord;
use crate::registry::archive::{restore_model, restore_version};
use crate::store::Dialect;
use crate::track::archive::restore::{self, Restored, RestoredExperiment};
use crate::track::artifacts::path_of_location;
use crate::track::{ArtifactPath, ArtifactsRecord, LoggedModelRecord, RunRecord};

/// What was written so far, by the names that later lines call it.
pub(super) struct Names {
    dialect: Dialect,
    report: ImportReport,
    experiments: HashMap<String, RestoredExperiment>,
    runs: HashMap<String, Restored>,
    /// Where artifacts go, by where they were, and whether they are to be written.
    roots: HashMap<String, (ArtifactPath, bool)>,
    /// Versions of models that this archive brought.
    versions: HashSet<i64>,
}

impl Names {
    pub(super) fn new(dialect: Dialect, report: ImportReport) -> Self {
        let roots = HashMap::from([(String::new(), (ArtifactPath::root(), true))]);
        Self {
            dialect,
            report,
            experiments: HashMap::new(),
            runs: HashMap::new(),
            roots,
            versions: HashSet::new(),
        }
    }

    /// Writes all names, inside a transaction of whoever calls. It may take long, and others who write wait; the other way
    /// would be that they see a half.
    pub(super) async fn write(
        mut self,
        connection: &mut AnyConnection,
        mut metadata: File,
        read: &[datasets::ReadRecord],
    ) -> Result<ImportReport, ArchiveError> {
        metadata.rewind().map_err(nameless("read"))?;
        let (mut reader, mut buffer) = (BufReader::new(metadata), Vec::new());
        let mut read = read.iter();
        while let Some(line) = read_line(&mut reader, &mut buffer)? {
            match line {
                Line::Dataset(record) => {
                    let dataset = read.next().ok_or_else(|| lost("dataset", record.name.as_str()))?;
                    self.dataset(connection, &record.name, record.number, dataset).await?;
                }
                Line::Experiment(record) => {
                    let experiment = restore::experiment(connection, &record).await?;
                    self.report.experiments.count(experiment.is_new);
                    let root = path_of_location(&record.artifact_location)?.as_str().to_owned();
                    self.roots.insert(root, (experiment.artifacts()?, true));
                    self.experiments.insert(record.name, experiment);
                }
                Line::Run(record) => self.run(connection, *record).await?,
                Line::Points(record) => {
                    let run = self.runs.get(&record.run_id).ok_or_else(|| lost("run", &record.run_id))?;
                    if run.is_new {
                        restore::points(connection, self.dialect, run.key, record).await?;
                    }
                }
                Line::LoggedModel(record) => self.logged_model(connection, *record).await?,
                Line::Artifacts(record) => self.artifacts(connection, record).await?,
                Line::Model(record) => {
                    restore_model(connection, &record).await?;
                }
                Line::ModelVersion(record) => self.version(connection, *record).await?,
            }
        }
        Ok(self.report)
    }

    async fn dataset(
        &mut self,
        connection: &mut AnyConnection,
        name: &Name,
        number: u32,
        dataset: &datasets::ReadRecord,
    ) -> Result<(), ArchiveError> {
        let restored = datasets::restore(connection, dataset).await?;
        self.report.dataset_versions.count(restored.is_new);
        if restored.number != number {
            self.report.note(format!("dataset version {name}@{number} is {name}@{} here", restored.number));
        }
        for tag in restored.taken {
            self.report.note(format!("{name}@{tag} is another version here, and stays it"));
        }
        Ok(())
    }

    async fn run(&mut self, connection: &mut AnyConnection, record: RunRecord) -> Result<(), ArchiveError> {
        let experiment = self.experiment(&record.experiment)?;
        let (run_id, root) = (record.run_id.clone(), record.artifacts.clone());
        let restored = restore::run(connection, self.dialect, record, &experiment).await?;
        self.report.runs.count(restored.is_new);
        self.roots.insert(root, (restored.artifacts.clone(), restored.is_new));
        // The same run twice would get twice the points.
        if self.runs.insert(run_id.clone(), restored).is_some() {
            return Err(ArchiveError::format(format!("run `{}` is in it twice", shown(&run_id))));
        }
        Ok(())
    }

    async fn logged_model(
        &mut self,
        connection: &mut AnyConnection,
        record: LoggedModelRecord,
    ) -> Result<(), ArchiveError> {
        let experiment = self.experiment(&record.experiment)?;
        let root = record.artifacts.clone();
        let restored = restore::logged_model(connection, record, &experiment).await?;
        self.report.logged_models.count(restored.is_new);
        self.roots.insert(root, (restored.artifacts, restored.is_new));
        Ok(())
    }

    async fn artifacts(
        &mut self,
        connection: &mut AnyConnection,
        record: ArtifactsRecord,
    ) -> Result<(), ArchiveError> {
        let (root, write) =
            self.roots.get(&record.root).ok_or_else(|| lost("folder of artifacts", &record.root))?;
        if *write {
            restore::artifacts(connection, root, &record.files).await?;
        }
        Ok(())
    }

    async fn version(
        &mut self,
        connection: &mut AnyConnection,
        mut record: VersionRecord,
    ) -> Result<(), ArchiveError> {
        record.source = self.place_here(&record.source);
        record.location = self.place_here(&record.location);
        let restored = restore_version(connection, &record, &mut self.versions).await?;
        self.report.model_versions.count(restored.is_new);
        let (name, number) = (shown(&record.model), record.number);
        if restored.number != number {
            self.report.note(format!("model version {name}@{number} is {name}@{} here", restored.number));
        }
        for alias in restored.taken {
            self.report.note(format!("{name}@{} is another version here, and stays it", shown(&alias)));
        }
        Ok(())
    }

    /// Where files are here that were at `place`.
    fn place_here(&self, place: &str) -> String {
        let Ok(path) = path_of_location(place) else { return place.to_owned() };
        let path = path.as_str();
        let folders = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        let here = folders.rev().find_map(|end| {
            let (root, _) = self.roots.get(path.get(..end)?)?;
            Some(format!("mlflow-artifacts:/{}{}", root.as_str(), path.get(end..)?))
        });
        here.unwrap_or_else(|| place.to_owned())
    }

    fn experiment(&self, name: &str) -> Result<RestoredExperiment, ArchiveError> {
        self.experiments.get(name).cloned().ok_or_else(|| lost("experiment", name))
    }
}

fn lost(what: &str, name: &str) -> ArchiveError {
    ArchiveError::format(format!("{what} `{}` is named before it is told", shown(name)))
}
