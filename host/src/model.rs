//! Models behind one trait: load, predict.
//!
//! Owns the formats of model files and the code that evaluates them; a file is checked completely when it is loaded,
//! so that predicting cannot fail for a reason in the file. Refuses to know where files come from, what bundles are,
//! and how models are trained: a model is immutable, and saving one means keeping the bytes it was loaded from.
//!
//! Entry point: [`load`]. A new backend implements [`Model`] and is recognised there by the first bytes of its files.

mod library_search;
pub(crate) mod network;
mod onnx;
mod trees;
mod ubjson;
mod xgboost;

use std::time::Instant;

use crate::domain::{Batch, BatchError, ColumnSpec, DataType, Tensor, TensorError};

pub use library_search::LibrarySearch;
pub use onnx::{ClassLabels, Classifier, LibraryError, OutputChoice, ScoreKind, examine};

/// Name of the one column that a model takes.
pub const FEATURES: &str = "features";

/// Name of the one column that a model answers.
pub const SCORES: &str = "scores";

/// Where models are computed that can be computed anywhere else than on the processor, which are networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// On the processor.
    #[default]
    Cpu,
    /// On the first GPU of NVIDIA's.
    Cuda,
}

/// Something that maps rows of features to rows of scores: a pure function of both.
pub trait Model: std::fmt::Debug + Send + Sync {
    /// What the model is, for people: `XGBoost multi:softprob, 1000 trees`.
    fn description(&self) -> String;

    /// Number of features in a row.
    fn feature_count(&self) -> usize;

    /// Number of scores in a row: one for each class, label or target, or a single probability or value.
    fn score_count(&self) -> usize;

    /// Whether scores are values, and not probabilities of classes, or of one class of two. Probabilities of several
    /// labels, of which each may be true, count as values.
    fn predicts_values(&self) -> bool;

    /// Bytes of memory that the loaded model occupies.
    fn byte_len(&self) -> usize;

    /// Scores row-major rows of [`Model::feature_count`] features each, where NaN says that a feature is missing. Features of
    /// another [`Model::feature_type`] are rounded here, and exact in [`Model::score_exact`].
    ///
    /// Returns row-major rows of [`Model::score_count`] scores. Features after the last whole row are ignored. It fails
    /// where another library evaluates the model, and that fails.
    fn score(&self, features: &[f32]) -> Result<Vec<f32>, ModelError>;

    /// The type of features that it takes, in which they are exact: FP32, or what its file says.
    fn feature_type(&self) -> DataType {
        DataType::Fp32
    }

    /// Scores features of [`Model::feature_type`] as [`Model::score`] does; none where they are of another type.
    fn score_exact(&self, features: &Tensor) -> Result<Option<Vec<f32>>, ModelError> {
        features.as_f32().map(|features| self.score(&features)).transpose()
    }

    /// Whether so many rows are shared by the threads of a pool, for which the one that asks has to wait.
    fn shares_cores(&self, _rows: usize) -> bool {
        false
    }

    /// Whether what a row takes depends on what is in it, so that rows before it tell nothing.
    fn cost_varies(&self) -> bool {
        false
    }

    /// Which of several outputs has the scores, and what they are; none where the file itself tells.
    fn output_choice(&self) -> Option<OutputChoice> {
        None
    }

    /// Whether something else evaluates it than this program's own code, which may round otherwise elsewhere, or in a batch.
    fn may_round(&self) -> bool {
        self.output_choice().is_some()
    }

    /// The column that [`Model::predict`] takes.
    fn features(&self) -> ColumnSpec {
        ColumnSpec {
            name: FEATURES.to_owned(),
            dtype: self.feature_type(),
            shape: vec![self.feature_count()],
            nullable: self.feature_type().is_float(),
            element_names: Vec::new(),
        }
    }

    /// The column that [`Model::predict`] answers.
    fn scores(&self) -> ColumnSpec {
        ColumnSpec {
            name: SCORES.to_owned(),
            dtype: DataType::Fp32,
            shape: vec![self.score_count()],
            nullable: false,
            element_names: Vec::new(),
        }
    }

    /// Scores a batch that is exactly one column `features` of [`Model::feature_type`] and [`Model::feature_count`] elements
    /// a row.
    fn predict(&self, batch: &Batch) -> Result<Batch, ModelError> {
        predict_by(self, batch, |features| self.score_exact(features))
    }

    /// The same for who waits until `deadline` and no longer: [`ModelError::Late`] where a row takes longer, of a model whose
    /// [cost varies](Model::cost_varies).
    fn predict_until(&self, batch: &Batch, _deadline: Option<Instant>) -> Result<Batch, ModelError> {
        self.predict(batch)
    }

    /// The same for a thread that others wait for: [`ModelError::Busy`] where it would have to wait for others, or to make
    /// first what it needs.
    fn predict_at_once(&self, batch: &Batch) -> Result<Batch, ModelError> {
        self.predict(batch)
    }
}

/// Scores a batch as [`Model::predict`] says, its column by `score`.
fn predict_by<M: Model + ?Sized>(
    model: &M,
    batch: &Batch,
    score: impl FnOnce(&Tensor) -> Result<Option<Vec<f32>>, ModelError>,
) -> Result<Batch, ModelError> {
    let refuse = || ModelError::Features {
        dtype: model.feature_type(),
        expected: model.feature_count(),
        found: Columns::of(batch),
    };
    let [tensor] = batch.tensors() else { return Err(refuse()) };
    if tensor.name() != FEATURES || tensor.row_shape() != [model.feature_count()] {
        return Err(refuse());
    }
    let scores = score(tensor)?.ok_or_else(refuse)?;
    let shape = vec![tensor.rows(), model.score_count()];
    Ok(Batch::new(vec![Tensor::from_f32(SCORES, shape, &scores)?])?)
}

/// A model file or a batch that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The bytes do not begin as any model file does.
    #[error(
        "not a model file: expected an XGBoost model saved as UBJSON (`.ubj`) or JSON, a network saved as safetensors, or an \
         ONNX model"
    )]
    UnknownFormat,
    /// The file is damaged, or was not written by the program whose format it has.
    #[error("malformed {format} model: {reason}")]
    Malformed {
        /// The format that the first bytes promised.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The file is sound, but asks for something that is not implemented here.
    #[error("unsupported XGBoost model: {what} (expected {expected})")]
    Unsupported {
        /// What the file asks for.
        what: String,
        /// What would be taken.
        expected: String,
    },
    /// The file is an ONNX model, but none that is taken.
    #[error("the ONNX model cannot be used: {reason}")]
    Onnx {
        /// What it has, and what was expected.
        reason: String,
    },
    /// ONNX Runtime is needed and cannot be had.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// There is no GPU, or it could not answer.
    #[error("the GPU cannot be used: {reason}")]
    Device {
        /// Why not.
        reason: String,
    },
    /// ONNX Runtime could not answer, or answered something else than before.
    #[error("ONNX Runtime could not answer: {reason}")]
    OnnxRun {
        /// Its reason.
        reason: String,
    },
    /// It was ended at the deadline.
    #[error("the model did not answer by the deadline")]
    Late,
    /// It computes for others, and whoever asked does not wait.
    #[error("the model is busy")]
    Busy,
    /// An output is chosen where there is no choice.
    #[error("which output has the scores, and what they are, can be said of ONNX models only")]
    NoChoice,
    /// The batch is not what the model takes.
    #[error("a model takes one {dtype} column `{FEATURES}` with rows of {expected}, found {found}")]
    Features {
        /// Type of the features.
        dtype: DataType,
        /// Features in a row.
        expected: usize,
        /// The columns of the batch.
        found: Columns,
    },
    /// The scores do not make a batch.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The scores do not make a batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

/// The columns of a batch that was refused, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns(Vec<String>);

impl Columns {
    fn of(batch: &Batch) -> Self {
        let text =
            |tensor: &Tensor| format!("{} `{}` {:?}", tensor.dtype(), tensor.name(), tensor.row_shape());
        Self(batch.tensors().iter().map(text).collect())
    }
}

impl std::fmt::Display for Columns {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_slice() {
            [] => formatter.write_str("no column"),
            [first, second, third, _, ..] => {
                write!(formatter, "{} columns: {first}, {second}, {third}, …", self.0.len())
            }
            columns => formatter.write_str(&columns.join(", ")),
        }
    }
}

/// Loads a model from the bytes of its file, whose format is told by the first of them.
pub fn load(bytes: &[u8]) -> Result<Box<dyn Model>, ModelError> {
    load_output(bytes, &OutputChoice::default())
}

/// Loads a model of which somebody says which output has the scores.
pub fn load_output(bytes: &[u8], choice: &OutputChoice) -> Result<Box<dyn Model>, ModelError> {
    if onnx::is_onnx(bytes) && !network::is_safetensors(bytes) {
        return Ok(Box::new(onnx::OnnxModel::load(bytes, choice)?));
    }
    if *choice != OutputChoice::default() {
        return Err(ModelError::NoChoice);
    }
    if network::is_safetensors(bytes) {
        return Ok(Box::new(network::NetworkModel::load(bytes)?));
    }
    Ok(Box::new(xgboost::XgboostModel::load(bytes)?))
}

/// Loads a model as [`load_output`] does, where `device` says. What has no code for a GPU stays on the processor.
pub fn load_on(bytes: &[u8], choice: &OutputChoice, device: Device) -> Result<Box<dyn Model>, ModelError> {
    if device == Device::Cuda && network::is_safetensors(bytes) && *choice == OutputChoice::default() {
        return Ok(Box::new(network::DeviceNetwork::load(bytes, network::gpu()?)?));
    }
    load_output(bytes, choice)
}

/// What wrote a model file, or evaluates it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framework {
    /// The library, for example `xgboost`.
    pub name: &'static str,
    /// Its version; empty where the file does not tell.
    pub version: String,
    /// The file's usual name.
    pub file_name: &'static str,
}

/// Tells what wrote a model file that [`load`] takes; of an ONNX model, which many programs write, what evaluates it here.
pub fn framework(bytes: &[u8]) -> Result<Framework, ModelError> {
    if network::is_safetensors(bytes) {
        let version = network::ARCHITECTURE_VERSION.to_string();
        return Ok(Framework { name: "network", version, file_name: "model.safetensors" });
    }
    if onnx::is_onnx(bytes) {
        return onnx::framework();
    }
    xgboost::framework(bytes)
}

/// What a model's features are called, in their order; nothing where its file has no names for them, which of those that [`load`]
/// takes only XGBoost's may have. Scores need no names, so [`load`] does not look at them.
pub fn feature_names(bytes: &[u8]) -> Result<Vec<String>, ModelError> {
    if network::is_safetensors(bytes) || onnx::is_onnx(bytes) {
        return Ok(Vec::new());
    }
    xgboost::feature_names(bytes)
}

/// Of a training that was stopped early the rounds up to the best one, and all that the model has, where these are more; only
/// XGBoost's files tell that. All of them answer.
pub fn best_rounds(bytes: &[u8]) -> Result<Option<(usize, usize)>, ModelError> {
    if network::is_safetensors(bytes) || onnx::is_onnx(bytes) {
        return Ok(None);
    }
    xgboost::best_rounds(bytes)
}

/// The version of the ONNX Runtime that evaluates ONNX models here.
pub fn onnx_runtime_version() -> Result<String, ModelError> {
    Ok(onnx::framework()?.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Sums;

    impl Model for Sums {
        fn description(&self) -> String {
            "sums of two".to_owned()
        }

        fn feature_count(&self) -> usize {
            2
        }

        fn score_count(&self) -> usize {
            1
        }

        fn predicts_values(&self) -> bool {
            true
        }

        fn byte_len(&self) -> usize {
            0
        }

        fn score(&self, features: &[f32]) -> Result<Vec<f32>, ModelError> {
            Ok(features.as_chunks::<2>().0.iter().map(|[left, right]| left + right).collect())
        }
    }

    fn column(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
        Tensor::from_f32(name, shape.to_vec(), values).unwrap()
    }

    #[test]
    fn predicts_column_to_column_as_its_specs_say() {
        let batch = Batch::new(vec![column(FEATURES, &[2, 2], &[1.0, 2.0, 3.0, 4.0])]).unwrap();
        ColumnSpec::check(&[Sums.features()], &batch).unwrap();
        let scores = Sums.predict(&batch).unwrap();
        ColumnSpec::check(&[Sums.scores()], &scores).unwrap();
        assert_eq!(scores.column(SCORES).unwrap().as_f32().unwrap().as_ref(), [3.0, 7.0]);
        let empty = Batch::new(vec![column(FEATURES, &[0, 2], &[])]).unwrap();
        assert_eq!(Sums.predict(&empty).unwrap().rows(), 0);
    }

    #[test]
    fn says_what_it_takes_and_what_it_found() {
        let error = |tensors| Sums.predict(&Batch::new(tensors).unwrap()).unwrap_err().to_string();
        let expected = "a model takes one FP32 column `features` with rows of 2, found ";
        assert_eq!(error(vec![]), format!("{expected}no column"));
        assert_eq!(
            error(vec![column(FEATURES, &[1, 3], &[0.0; 3])]),
            format!("{expected}FP32 `features` [3]")
        );
        assert_eq!(error(vec![column("x", &[1, 2], &[0.0; 2])]), format!("{expected}FP32 `x` [2]"));
        let many = ["a", "b", "c", "d"].map(|name| column(name, &[1], &[0.0]));
        assert_eq!(
            error(many.to_vec()),
            format!("{expected}4 columns: FP32 `a` [], FP32 `b` [], FP32 `c` [], …")
        );
        let wide = Tensor::new(FEATURES, DataType::Fp64, vec![1, 2], vec![0; 16]).unwrap();
        assert_eq!(error(vec![wide]), format!("{expected}FP64 `features` [2]"));
    }

    #[test]
    fn refuses_other_files() {
        for bytes in [&b""[..], b"binf", b"PK\x03\x04", b"[1]", b"\0"] {
            assert!(matches!(load(bytes), Err(ModelError::UnknownFormat)), "{}", bytes.escape_ascii());
        }
    }
}
