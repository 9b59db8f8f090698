//! Bundles of models that were trained elsewhere: a model file, what it takes, and the transformers around it.
//!
//! What the file itself cannot tell, a signature must: the columns of a request where transformers stand before the
//! model. All else follows from the model and from what the transformers make of no rows.

mod classes;

use serde::Deserialize;

use super::bundle::{BlobRef, BundleManifest, MEDIA_TYPE, ModelEntry, TransformerEntry, write_bundle};
use super::feature_names::{FeatureNamesError, check_element_names, in_order_of_file, name_elements};
use super::parts::check_transformer_counts;
use super::predictor::made_up_scores;
use super::{FeatureError, PredictionError, Predictor, PredictorParts, RegistryError, Sample, assemble};
use crate::domain::{Batch, BatchError, ColumnSpec, Digest, SchemaError, Signature, Tensor, TensorError};
use crate::model::{self, Model, ModelError, OutputChoice};
use crate::plugin::{Kind, Plugin, PluginError, Transformer, block_on};
use crate::store::Store;

pub use classes::ClassesError;

/// A model of elsewhere.
pub struct ExternalModel {
    /// The file.
    pub file: Vec<u8>,
    /// Which of its outputs has the scores, and what they are, as far as somebody says so.
    pub output: OutputChoice,
    /// What it takes; where there is none, one column of all features.
    pub signature: Option<ExternalSignature>,
    /// Transformers before the model.
    pub preprocess: Vec<ExternalTransformer>,
    /// Transformers after it.
    pub postprocess: Vec<ExternalTransformer>,
}

/// A transformer of a model of elsewhere.
pub struct ExternalTransformer {
    /// The component.
    pub plugin: Plugin,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its config.
    pub config: serde_json::Value,
    /// What it learned elsewhere.
    pub state: Option<Vec<u8>>,
}

/// A signature of which only the inputs need be given.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalSignature {
    /// Columns of a request.
    pub inputs: Vec<ColumnSpec>,
    /// Columns that the model sees; compared with those it will see.
    pub features: Option<Vec<ColumnSpec>>,
    /// Columns of the answer; compared with those there will be.
    pub outputs: Option<Vec<ColumnSpec>>,
}

/// A model that cannot become a bundle.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    /// The file is no model's.
    #[error("{0}")]
    Model(#[from] ModelError),
    /// The inputs are not known.
    #[error(
        "the columns of a request are not known where a transformer stands before the model: expected a signature\nhint: \
         give `--signature FILE` with `{{\"inputs\": [{{\"name\": …, \"dtype\": …, \"shape\": […]}}]}}`"
    )]
    NoSignature,
    /// The signature says otherwise.
    #[error("the signature's {what} are {expected}, and those of the model and its transformers {found}")]
    Signature {
        /// `features` or `outputs`.
        what: &'static str,
        /// What the signature has.
        expected: String,
        /// What there is.
        found: String,
    },
    /// A transformer has not learned anything yet.
    #[error(
        "transformer `{name}` learns from training data, and there is none: expected its state\nhint: give `--state {name}=FILE`"
    )]
    NoState {
        /// The plugin.
        name: String,
    },
    /// A transformer cannot have learned anything.
    #[error("transformer `{name}` learns nothing: leave out its state")]
    NeedlessState {
        /// The plugin.
        name: String,
    },
    /// The answers would have other labels than the model's.
    #[error("{0}")]
    Classes(#[from] ClassesError),
    /// The columns have names by which the features cannot be told.
    #[error("{0}")]
    Names(#[from] FeatureNamesError),
    /// The columns make no features.
    #[error("the model cannot take what it gets: {0}")]
    Features(#[from] FeatureError),
    /// The answer is not what was promised.
    #[error("{0}")]
    Schema(#[from] SchemaError),
    /// The model or a transformer cannot answer.
    #[error("the model cannot answer: {0}")]
    Prediction(#[from] PredictionError),
    /// A transformer failed.
    #[error("{0}")]
    Plugin(#[from] PluginError),
    /// A column cannot be.
    #[error("the signature cannot be used: {0}")]
    Tensor(#[from] TensorError),
    /// Columns do not fit together.
    #[error("the signature cannot be used: {0}")]
    Batch(#[from] BatchError),
    /// The bundle cannot be written.
    #[error("{0}")]
    Registry(#[from] RegistryError),
}

/// Makes a bundle of a model that was trained elsewhere, and asks it about no rows; gives the bundle's digest.
pub fn bundle_external(store: &Store, external: &ExternalModel) -> Result<Digest, ExternalError> {
    let model = model::load_output(&external.file, &external.output)?;
    let output = model.output_choice();
    let framework = model::framework(&external.file)?;
    check_transformer_counts(external.preprocess.len(), external.postprocess.len())?;
    let preprocess = open_all(&external.preprocess)?;
    let postprocess = open_all(&external.postprocess)?;
    classes::check(external, model.as_ref())?;
    let names = model::feature_names(&external.file)?;
    let mut inputs = match &external.signature {
        Some(signature) => signature.inputs.clone(),
        None if preprocess.is_empty() => vec![model.features()],
        None => return Err(ExternalError::NoSignature),
    };
    // From it the columns can be told that transformers make.
    let no_rows = ColumnSpec::no_rows(&inputs)?;
    check_element_names(&inputs)?;
    let features = match preprocess.is_empty() {
        true => {
            name_elements(&mut inputs, &names);
            inputs.clone()
        }
        false => ColumnSpec::of_batch(&transform(&preprocess, no_rows.clone())?),
    };
    let features = in_order_of_file(features, &names)?;
    check_features(&features, model.as_ref())?;
    let no_scores = Batch::new(vec![Tensor::from_f32(model::SCORES, vec![0, model.score_count()], &[])?])?;
    let of_no_rows = transform(&postprocess, no_scores)?;
    // Rows count where these are answered otherwise.
    let of_row = made_up_scores(&model.scores()).find_map(|row| transform(&postprocess, row).ok());
    let outputs = ColumnSpec::of_batch(&of_row.unwrap_or(of_no_rows));
    if let Some(said) = &external.signature {
        check_said("features", said.features.as_deref(), &features)?;
        check_said("outputs", said.outputs.as_deref(), &outputs)?;
    }
    let signature = Signature { inputs, features, outputs };
    signature.check().map_err(RegistryError::from)?;
    let parts = PredictorParts { preprocess, model: model.into(), postprocess };
    let predictor = Predictor::new(parts, signature.clone());
    let answer = block_on(predictor.predict(&no_rows))?;
    if external.postprocess.is_empty() {
        ColumnSpec::check(&signature.outputs, &answer.outputs)?;
    }
    // Where the answer depends on more than the bundle, on the library that evaluates the model, rows tell of a change.
    let sample = match output {
        Some(_) => block_on(Sample::of_made_up_rows(&predictor)).and_then(|sample| sample.to_bytes()),
        None => None,
    };
    let manifest = BundleManifest {
        media_type: MEDIA_TYPE.to_owned(),
        model: ModelEntry {
            framework: framework.name.to_owned(),
            framework_version: framework.version,
            file_name: framework.file_name.to_owned(),
            blob: put(store, &external.file)?,
            output,
        },
        preprocess: entries(store, &external.preprocess)?,
        postprocess: entries(store, &external.postprocess)?,
        signature,
        dataset: None,
        parameters: Default::default(),
        metrics: Default::default(),
        confusion: Vec::new(),
        reference: None,
        sample: sample.map(|sample| put(store, &sample)).transpose()?,
    };
    manifest.check()?;
    Ok(write_bundle(store, &manifest)?)
}

fn open_all(transformers: &[ExternalTransformer]) -> Result<Vec<Transformer>, ExternalError> {
    let open = |transformer: &ExternalTransformer| {
        let manifest = transformer.plugin.manifest();
        let name = manifest.name.clone();
        transformer.plugin.expect_kind(Kind::Transformer)?;
        match (manifest.needs_fit, &transformer.state) {
            (true, None) => return Err(ExternalError::NoState { name }),
            (false, Some(_)) => return Err(ExternalError::NeedlessState { name }),
            _ => {}
        }
        let config = transformer.config.to_string();
        Ok(block_on(Transformer::open(&transformer.plugin, &config, transformer.state.clone()))?)
    };
    transformers.iter().map(open).collect()
}

fn transform(transformers: &[Transformer], mut batch: Batch) -> Result<Batch, ExternalError> {
    for transformer in transformers {
        batch = block_on(transformer.transform(&batch))?.batch;
    }
    Ok(batch)
}

fn check_features(features: &[ColumnSpec], model: &dyn Model) -> Result<(), ExternalError> {
    assemble(&ColumnSpec::no_rows(features)?, features, model.feature_type())?;
    let found: usize = features.iter().map(ColumnSpec::row_elements).sum();
    let expected = model.feature_count();
    if found == expected {
        return Ok(());
    }
    Err(RegistryError::ModelCount { what: "features", expected: found, found: expected }.into())
}

/// Compares columns with those that were said; whether elements may be missing is not told by a batch.
fn check_said(
    what: &'static str,
    said: Option<&[ColumnSpec]>,
    found: &[ColumnSpec],
) -> Result<(), ExternalError> {
    let text = |specs: &[ColumnSpec]| {
        let column = |spec: &ColumnSpec| format!("`{}` {} {:?}", spec.name, spec.dtype, spec.shape);
        specs.iter().map(column).collect::<Vec<_>>().join(", ")
    };
    match said.map(text) {
        Some(expected) if expected != text(found) => {
            Err(ExternalError::Signature { what, expected, found: text(found) })
        }
        _ => Ok(()),
    }
}

fn put(store: &Store, bytes: &[u8]) -> Result<BlobRef, RegistryError> {
    Ok(BlobRef { digest: store.put_bytes(bytes)?, size: bytes.len() as u64 })
}

fn entries(
    store: &Store,
    transformers: &[ExternalTransformer],
) -> Result<Vec<TransformerEntry>, RegistryError> {
    let entry = |transformer: &ExternalTransformer| {
        let manifest = transformer.plugin.manifest();
        Ok(TransformerEntry {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            component: put(store, &transformer.bytes)?,
            config: transformer.config.clone(),
            state: transformer.state.as_deref().map(|state| put(store, state)).transpose()?,
        })
    };
    transformers.iter().map(entry).collect()
}
