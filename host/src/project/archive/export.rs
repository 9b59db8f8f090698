use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Seek as _, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::container::ArchiveWriter;
use super::select::{ExportSpec, Selection};
use super::{
    ArchiveError, ArchiveProgress, ArchiveWatcher, BLOBS_FOLDER, ExportReport, FORMAT, HEADER_NAME, Header,
    Line, METADATA_NAME, blocking, nameless, nameless_file,
};
use crate::data::{DataError, DatasetManifest};
use crate::domain::Digest;
use crate::project::Project;
use crate::registry::read_bundle;
use crate::store::{Store, StoreError};
use crate::track::archive::{RECORD_ROWS, RECORDS_AT_ONCE};
use crate::track::artifacts::path_of_location;
use crate::track::{ArtifactsRecord, PointsRecord, now_ms};

/// Where an archive is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportTarget {
    /// A file, which appears whole or not at all.
    File {
        /// Its path.
        path: PathBuf,
        /// Whether one that is there is replaced.
        replace: bool,
    },
    /// Standard output.
    Stdout,
}

/// Metadata, written to a file that has no name while it is not known how long it will be.
struct Metadata {
    file: BufWriter<File>,
    hasher: Sha256,
    size: u64,
    blobs: BTreeSet<Digest>,
    report: ExportReport,
}

impl Metadata {
    fn new(store: &Store) -> Result<Self, ArchiveError> {
        Ok(Self {
            file: BufWriter::new(nameless_file(store)?),
            hasher: Sha256::new(),
            size: 0,
            blobs: BTreeSet::new(),
            report: ExportReport::default(),
        })
    }

    fn add(&mut self, line: &Line) -> Result<(), ArchiveError> {
        let mut text = serde_json::to_vec(line).map_err(ArchiveError::Encode)?;
        text.push(b'\n');
        self.hasher.update(&text);
        self.size += text.len() as u64;
        self.file.write_all(&text).map_err(nameless("write"))
    }
}

impl Project {
    /// Writes what `spec` names, and all that it needs, to one file.
    pub async fn export(
        &self,
        spec: &ExportSpec,
        target: ExportTarget,
        watcher: ArchiveWatcher,
    ) -> Result<ExportReport, ArchiveError> {
        if let ExportTarget::File { path, replace: false } = &target
            && std::fs::symlink_metadata(path).is_ok()
        {
            return Err(ArchiveError::Exists { path: path.clone() });
        }
        watcher(ArchiveProgress::Metadata);
        let selection = self.select(spec).await?;
        let mut metadata = Metadata::new(self.store())?;
        self.add_datasets(&selection, &mut metadata).await?;
        for experiment in &selection.experiments {
            metadata.report.experiments += 1;
            metadata.add(&Line::Experiment(experiment.clone()))?;
        }
        let mut roots = HashSet::new();
        for piece in selection.runs.chunks(RECORDS_AT_ONCE) {
            self.add_runs(piece, &mut roots, &mut metadata).await?;
        }
        for piece in selection.logged_models.chunks(RECORDS_AT_ONCE) {
            for model in self.tracker().logged_model_records(piece).await? {
                let root = model.artifacts.clone();
                metadata.report.logged_models += 1;
                metadata.add(&Line::LoggedModel(Box::new(model)))?;
                self.add_artifacts(&root, &mut metadata).await?;
                roots.insert(root);
            }
        }
        if selection.is_everything {
            self.add_other_artifacts(&selection, &roots, &mut metadata).await?;
        }
        self.add_models(&selection, &mut metadata).await?;
        let store = self.store().clone();
        blocking(move || write(&store, metadata, target, &watcher)).await
    }

    async fn add_datasets(&self, selection: &Selection, metadata: &mut Metadata) -> Result<(), ArchiveError> {
        for record in &selection.datasets {
            let (store, digest) = (self.store().clone(), record.digest);
            let blobs = blocking(move || {
                let (manifest, chain) = DatasetManifest::load_chain(&store, digest)?;
                let mut blobs = ancestry(&store, chain)?;
                blobs.extend(manifest.files.iter().map(|file| file.digest));
                Ok(blobs)
            });
            metadata.blobs.extend(blobs.await?);
            metadata.report.dataset_versions += 1;
            metadata.add(&Line::Dataset(record.clone()))?;
        }
        Ok(())
    }

    async fn add_runs(
        &self,
        ids: &[String],
        roots: &mut HashSet<String>,
        metadata: &mut Metadata,
    ) -> Result<(), ArchiveError> {
        for (run, keys) in self.tracker().run_records(ids).await? {
            let (run_id, root) = (run.run_id.clone(), run.artifacts.clone());
            metadata.report.runs += 1;
            metadata.add(&Line::Run(Box::new(run)))?;
            for key in keys {
                self.add_points(&run_id, key, metadata).await?;
            }
            self.add_artifacts(&root, metadata).await?;
            roots.insert(root);
        }
        Ok(())
    }

    async fn add_points(
        &self,
        run_id: &str,
        key: String,
        metadata: &mut Metadata,
    ) -> Result<(), ArchiveError> {
        let mut token = None;
        loop {
            let page =
                self.tracker().metric_history(run_id, &key, Some(RECORD_ROWS), token.as_deref()).await?;
            let points = page.metrics.into_iter();
            let points =
                points.map(|point| (point.step, point.timestamp, point.value.to_bits().cast_signed()));
            let (run_id, key) = (run_id.to_owned(), key.clone());
            metadata.add(&Line::Points(PointsRecord { run_id, key, points: points.collect() }))?;
            token = page.next_page_token;
            if token.is_none() {
                return Ok(());
            }
        }
    }

    /// Artifacts of a run or logged model.
    async fn add_artifacts(&self, root: &str, metadata: &mut Metadata) -> Result<(), ArchiveError> {
        let mut last = String::new();
        loop {
            let files = self.tracker().artifact_records(root, &last).await?;
            let Some(newest) = files.last() else { return Ok(()) };
            last.clone_from(&newest.path);
            metadata.blobs.extend(files.iter().map(|file| file.digest));
            metadata.add(&Line::Artifacts(ArtifactsRecord { root: root.to_owned(), files }))?;
        }
    }

    /// Artifacts that belong to no run and no logged model: told below the experiment whose location they are in.
    async fn add_other_artifacts(
        &self,
        selection: &Selection,
        owned: &HashSet<String>,
        metadata: &mut Metadata,
    ) -> Result<(), ArchiveError> {
        let mut locations = HashSet::new();
        for experiment in &selection.experiments {
            locations.insert(path_of_location(&experiment.artifact_location)?.as_str().to_owned());
        }
        let mut last = String::new();
        loop {
            let files = self.tracker().artifact_records("", &last).await?;
            let Some(newest) = files.last() else { return Ok(()) };
            last.clone_from(&newest.path);
            let mut by_root: HashMap<&str, Vec<_>> = HashMap::new();
            for file in &files {
                let folders = || file.path.match_indices('/').filter_map(|(end, _)| file.path.get(..end));
                if folders().any(|folder| owned.contains(folder)) {
                    continue;
                }
                let root = folders().rfind(|folder| locations.contains(*folder)).unwrap_or_default();
                let path = file.path.get(root.len()..).unwrap_or_default().trim_start_matches('/');
                metadata.blobs.insert(file.digest);
                let below = crate::track::ArtifactRecord { path: path.to_owned(), ..file.clone() };
                by_root.entry(root).or_default().push(below);
            }
            for (root, files) in by_root {
                metadata.add(&Line::Artifacts(ArtifactsRecord { root: root.to_owned(), files }))?;
            }
        }
    }

    async fn add_models(&self, selection: &Selection, metadata: &mut Metadata) -> Result<(), ArchiveError> {
        for (model, versions) in &selection.models {
            metadata.add(&Line::Model(model.clone()))?;
            for version in versions {
                if let Some(bundle) = version.bundle {
                    let store = self.store().clone();
                    let blobs = blocking(move || {
                        let manifest = read_bundle(&store, bundle)?;
                        let mut blobs =
                            ancestry(&store, manifest.dataset.as_ref().map(|dataset| dataset.version))?;
                        blobs.extend(manifest.blobs().map(|blob| blob.digest));
                        blobs.insert(bundle);
                        Ok(blobs)
                    });
                    metadata.blobs.extend(blobs.await?);
                }
                metadata.report.model_versions += 1;
                metadata.add(&Line::ModelVersion(Box::new(version.clone())))?;
            }
        }
        Ok(())
    }
}

/// These manifests of datasets and those that they were made from, as far as they are there.
fn ancestry(
    store: &Store,
    manifests: impl IntoIterator<Item = Digest>,
) -> Result<BTreeSet<Digest>, ArchiveError> {
    let mut found = BTreeSet::new();
    let mut waiting: Vec<Digest> = manifests.into_iter().collect();
    while let Some(manifest) = waiting.pop() {
        if found.contains(&manifest) {
            continue;
        }
        match DatasetManifest::parents_of(store, manifest) {
            Ok(parents) => {
                found.insert(manifest);
                waiting.extend(parents);
            }
            Err(DataError::Store(StoreError::Missing { .. })) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

fn write(
    store: &Store,
    metadata: Metadata,
    target: ExportTarget,
    watcher: &ArchiveWatcher,
) -> Result<ExportReport, ArchiveError> {
    match target {
        ExportTarget::Stdout => {
            let mut stdout = std::io::stdout().lock();
            write_archive(store, metadata, &mut stdout, Path::new("standard output"), watcher)
        }
        ExportTarget::File { path, replace } => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            // With the rights that any new file has.
            let rights = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            let mut builder = tempfile::Builder::new();
            let builder = builder.prefix(".host-export-").permissions(rights);
            let mut file = builder.tempfile_in(folder).map_err(ArchiveError::io("create", &path))?;
            let report = write_archive(store, metadata, &mut file, &path, watcher)?;
            file.as_file().sync_all().map_err(ArchiveError::io("write", &path))?;
            let named = if replace { file.persist(&path) } else { file.persist_noclobber(&path) };
            named.map_err(|error| match error.error.kind() {
                std::io::ErrorKind::AlreadyExists => ArchiveError::Exists { path: path.clone() },
                _ => ArchiveError::io("write", &path)(error.error),
            })?;
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(ArchiveError::io("write", &path))?;
            Ok(report)
        }
    }
}

fn write_archive(
    store: &Store,
    metadata: Metadata,
    writer: &mut dyn Write,
    path: &Path,
    watcher: &ArchiveWatcher,
) -> Result<ExportReport, ArchiveError> {
    let failed = || ArchiveError::io("write", path);
    let Metadata { file, hasher, size, blobs, mut report } = metadata;
    let mut file = file.into_inner().map_err(|error| nameless("write")(error.into_error()))?;
    file.rewind().map_err(nameless("read"))?;
    let mut sizes = Vec::with_capacity(blobs.len());
    for digest in blobs {
        sizes.push((digest, store.blob_len(digest)?));
    }
    report.blobs = sizes.len() as u64;
    report.bytes = sizes.iter().map(|(_, size)| size).sum();
    let header = Header {
        format: FORMAT,
        created_at: now_ms(),
        host: env!("CARGO_PKG_VERSION").to_owned(),
        metadata: Digest::from_hasher(hasher),
        blobs: report.blobs,
        bytes: report.bytes,
    };
    let header = serde_json::to_vec_pretty(&header).map_err(ArchiveError::Encode)?;
    let mut archive = ArchiveWriter::new(BufWriter::new(writer));
    let length = header.len() as u64;
    archive.begin_file(HEADER_NAME, length).and_then(|to| to.write_all(&header)).map_err(failed())?;
    archive.end_file(length).map_err(failed())?;
    let to = archive.begin_file(METADATA_NAME, size).map_err(failed())?;
    std::io::copy(&mut file, to).map_err(failed())?;
    archive.end_file(size).map_err(failed())?;
    watcher(ArchiveProgress::Blobs(report.bytes));
    for (digest, size) in sizes {
        let name = format!("{BLOBS_FOLDER}{}", digest.hex());
        let to = archive.begin_file(&name, size).map_err(failed())?;
        store.copy_blob(digest, to)?;
        archive.end_file(size).map_err(failed())?;
        watcher(ArchiveProgress::Done(size));
    }
    archive.finish().map_err(failed())?;
    Ok(report)
}
