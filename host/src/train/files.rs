//! What there is to learn from, as files: for programs that train.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::TrainError;
use super::command::CommandError;
use super::matrix::LabelledMatrix;
use crate::data::{self, ResolvedDataset};
use crate::domain::ColumnSpec;
use crate::model::FEATURES;
use crate::store::{Store, TemporaryFolder};

/// Column of the files of rows with what is to be predicted.
pub const LABEL: &str = "label";

/// Rows as the transformers make them and a dataset version's own files, in a folder that is removed when this is let
/// go. Nothing in it can be written by mistake.
#[derive(Debug)]
pub struct DataFiles {
    folder: TemporaryFolder,
    /// `name@sha256:…` of the dataset version.
    pub dataset: String,
    /// The column of the dataset that is predicted.
    pub label: String,
}

impl DataFiles {
    /// Writes them.
    pub(super) fn write(
        store: &Store,
        dataset: &ResolvedDataset,
        label: &str,
        features: &[ColumnSpec],
        [train, test]: [&LabelledMatrix; 2],
    ) -> Result<Self, TrainError> {
        let files = Self {
            folder: store.temporary_folder()?,
            dataset: format!("{}@{}", dataset.name, dataset.version.digest),
            label: label.to_owned(),
        };
        write_rows(&files.train_rows(), train)?;
        write_rows(&files.test_rows(), test)?;
        let columns = serde_json::to_vec(features).map_err(std::io::Error::from);
        let columns = columns.map_err(CommandError::io("write", &files.columns()))?;
        write_read_only(&files.columns(), &mut columns.as_slice())?;
        data::copy_files(store, &dataset.manifest, &files.version())?;
        Ok(files)
    }

    /// The rows to learn from: safetensors with the columns `features` and `label`, both FP32.
    pub fn train_rows(&self) -> PathBuf {
        self.folder.path().join("train.safetensors")
    }

    /// The rows that the model is judged by.
    pub fn test_rows(&self) -> PathBuf {
        self.folder.path().join("test.safetensors")
    }

    /// Of which columns the features are made, in their order: a JSON list of names, types and shapes.
    pub fn columns(&self) -> PathBuf {
        self.folder.path().join("columns.json")
    }

    /// The folder with the dataset version's own files.
    pub fn version(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

fn write_rows(path: &Path, rows: &LabelledMatrix) -> Result<(), TrainError> {
    let count = rows.rows();
    let columns = [
        (FEATURES, vec![count, rows.columns], rows.features.as_slice()),
        (LABEL, vec![count], rows.labels.as_slice()),
    ];
    Ok(write_read_only(path, &mut data::read_f32_as_safetensors(&columns)?)?)
}

fn write_read_only(path: &Path, bytes: &mut dyn std::io::Read) -> Result<(), CommandError> {
    let written = File::create_new(path).and_then(|mut file| {
        std::io::copy(bytes, &mut file)?;
        let mut permissions = file.metadata()?.permissions();
        permissions.set_readonly(true);
        file.set_permissions(permissions)
    });
    written.map_err(CommandError::io("write", path))
}
