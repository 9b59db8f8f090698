//! One training run from a dataset version to a bundle.
//!
//! The order of steps: the preprocess transformers are fitted one after another, each on what those before it make of
//! the training split; their opened forms fill the matrices; the trainer trains; the model file is loaded by the same
//! evaluator that serves and compared with the trainer's library bit for bit; the postprocess transformers are fitted
//! on the scores; the test split is scored through the finished [`Predictor`]; the bundle is written last, so that a
//! run that fails leaves no trace but unnamed blobs.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use super::matrix::{LabelledMatrix, Source, Split};
use super::report::{Evaluation, evaluate};
use super::trainer::{TrainSession, Trained, Trainer};
use super::{RoundReport, TrainError};
use crate::data::{self, ResolvedDataset};
use crate::domain::{Batch, ColumnSpec, Digest, Signature, Tensor};
use crate::model::{self, FEATURES, Model, SCORES};
use crate::plugin::{Plugin, Transformer, TransformerFit, block_on};
use crate::registry::{
    self, BlobRef, BundleManifest, DatasetRef, MEDIA_TYPE, ModelEntry, Predictor, PredictorParts,
    TransformerEntry,
};
use crate::store::Store;

/// Rows of the training split that a bundle keeps for comparison with windows.
const REFERENCE_ROWS: usize = 2_048;

/// Rows on which the evaluator is compared with the trainer's library.
const CROSS_CHECK_ROWS: usize = 512;

/// What to train, on what, through what.
pub struct TrainSpec {
    /// The dataset version.
    pub dataset: ResolvedDataset,
    /// Column to predict.
    pub label: String,
    /// Rows of the training split to use; all by default.
    pub train_rows: Option<usize>,
    /// Transformers before the model.
    pub preprocess: Vec<TransformerSpec>,
    /// Transformers after it.
    pub postprocess: Vec<TransformerSpec>,
    /// What learns.
    pub trainer: Box<dyn Trainer>,
}

/// A transformer as the user named it.
pub struct TransformerSpec {
    /// The component.
    pub plugin: Plugin,
    /// Its bytes, which become part of the bundle.
    pub bytes: Vec<u8>,
    /// Its config.
    pub config: serde_json::Value,
}

/// How far a run is.
#[derive(Debug, Clone)]
pub enum TrainEvent {
    /// A phase has begun, with the number of steps that it will take.
    Phase {
        /// What is being done.
        name: &'static str,
        /// Rows or rounds.
        steps: u64,
    },
    /// So many steps of the phase are done.
    Progress(u64),
    /// A round of the trainer is done.
    Round(RoundReport),
}

/// What came out of a run.
#[derive(Debug, Clone)]
pub struct TrainReport {
    /// The bundle.
    pub bundle: Digest,
    /// Rows trained on.
    pub train_rows: usize,
    /// Rows tested on.
    pub test_rows: usize,
    /// What the trainer was told, with what followed from the labels.
    pub parameters: BTreeMap<String, String>,
    /// What the test split says.
    pub evaluation: Evaluation,
    /// Time in the trainer alone.
    pub train_seconds: f64,
    /// Time of the whole run.
    pub total_seconds: f64,
}

/// Runs a training to its end. `progress` may break to stop it.
pub fn run(
    store: &Store,
    spec: TrainSpec,
    progress: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
) -> Result<TrainReport, TrainError> {
    let started = Instant::now();
    let source = Source::open(store, &spec.dataset, &spec.label, spec.train_rows, data::BATCH_ROWS)?;
    let preprocess = fit_preprocess(&spec, &source, progress)?;
    let (train, features) = collect(&source, Split::Train, &preprocess, progress)?;
    let (test, _) = collect(&source, Split::Test, &preprocess, progress)?;

    phase(progress, "training", u64::from(spec.trainer.rounds()))?;
    let trained_at = Instant::now();
    let mut on_round = |round| progress(TrainEvent::Round(round));
    let mut session = TrainSession { progress: &mut on_round, checkpoints: None, start_from: None };
    let trained = spec.trainer.train(train.as_matrix()?, test.as_matrix()?, &mut session)?;
    let train_seconds = trained_at.elapsed().as_secs_f64();
    let model = model::load(&trained.model)?;
    cross_check(model.as_ref(), &test, &trained)?;

    let scores = |matrix: &LabelledMatrix| -> Result<Batch, TrainError> {
        let shape = vec![matrix.rows(), model.score_count()];
        Ok(Batch::new(vec![Tensor::from_f32(SCORES, shape, &model.score(&matrix.features))?])?)
    };
    let train_scores = scores(&train)?;
    let postprocess = fit_postprocess(&spec, &train_scores)?;
    let evaluation = evaluate(trained.task, &model.score(&test.features), model.score_count(), &test.labels)?;
    let signature = signature(&source, features, model.as_ref(), &postprocess)?;

    let manifest = BundleManifest {
        media_type: MEDIA_TYPE.to_owned(),
        model: ModelEntry {
            framework: trained.framework.to_owned(),
            framework_version: trained.framework_version,
            file_name: trained.file_name.to_owned(),
            blob: put(store, &trained.model)?,
        },
        preprocess: entries(store, &spec.preprocess, &preprocess)?,
        postprocess: entries(store, &spec.postprocess, &postprocess)?,
        signature,
        dataset: DatasetRef { name: spec.dataset.name.clone(), version: spec.dataset.version.digest },
        parameters: trained.parameters,
        metrics: evaluation.metrics.clone(),
        confusion: evaluation.confusion.clone(),
        reference: put(store, &reference(&train, &train_scores)?)?,
    };
    try_out(&manifest, &source, preprocess, Arc::from(model), postprocess)?;
    let bundle = registry::write_bundle(store, &manifest)?;
    Ok(TrainReport {
        bundle,
        train_rows: train.rows(),
        test_rows: test.rows(),
        parameters: manifest.parameters,
        evaluation,
        train_seconds,
        total_seconds: started.elapsed().as_secs_f64(),
    })
}

fn phase(
    progress: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
    name: &'static str,
    steps: u64,
) -> Result<(), TrainError> {
    match progress(TrainEvent::Phase { name, steps }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(TrainError::Stopped),
    }
}

fn advance(progress: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>, steps: usize) -> Result<(), TrainError> {
    match progress(TrainEvent::Progress(steps as u64)) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(TrainError::Stopped),
    }
}

/// Sends a batch through transformers that are open.
fn transform(transformers: &[Transformer], mut batch: Batch) -> Result<Batch, TrainError> {
    for transformer in transformers {
        batch = block_on(transformer.transform(&batch))?;
    }
    Ok(batch)
}

fn fit_preprocess(
    spec: &TrainSpec,
    source: &Source<'_>,
    progress: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
) -> Result<Vec<Transformer>, TrainError> {
    let mut fitted: Vec<Transformer> = Vec::new();
    for transformer in &spec.preprocess {
        let config = transformer.config.to_string();
        let mut state = None;
        if transformer.plugin.manifest().needs_fit {
            phase(progress, "fitting", source.rows(Split::Train))?;
            let mut fit = block_on(TransformerFit::open(&transformer.plugin, &config))?;
            for batch in source.batches(Split::Train)? {
                let (inputs, _) = batch?;
                let rows = inputs.rows();
                block_on(fit.fit(&transform(&fitted, inputs)?))?;
                advance(progress, rows)?;
            }
            state = Some(block_on(fit.finish())?);
        }
        fitted.push(block_on(Transformer::open(&transformer.plugin, &config, state))?);
    }
    Ok(fitted)
}

/// Fills the matrix of a split; also gives the columns that the transformers made.
fn collect(
    source: &Source<'_>,
    split: Split,
    preprocess: &[Transformer],
    progress: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
) -> Result<(LabelledMatrix, Vec<ColumnSpec>), TrainError> {
    phase(progress, "transforming", source.rows(split))?;
    let mut collected = LabelledMatrix::default();
    let mut specs: Option<Vec<ColumnSpec>> = None;
    for batch in source.batches(split)? {
        let (inputs, labels) = batch?;
        let rows = inputs.rows();
        let transformed = transform(preprocess, inputs)?;
        let specs = specs.get_or_insert_with(|| ColumnSpec::of_batch(&transformed));
        let assembled = registry::assemble(&transformed, specs)?;
        let features = assembled.as_ref().unwrap_or(&transformed);
        let column = features.column(FEATURES).and_then(|column| Some((column, column.as_f32()?)));
        let (column, values) = column.ok_or(TrainError::NoFeatures)?;
        collected.append(column.row_elements(), &values, &labels);
        advance(progress, rows)?;
    }
    Ok((collected, specs.ok_or(TrainError::EmptySplit { split: split.as_str() })?))
}

/// Refuses a model that this host would evaluate otherwise than the library that trained it.
fn cross_check(model: &dyn Model, test: &LabelledMatrix, trained: &Trained) -> Result<(), TrainError> {
    let Some(expected) = &trained.test_scores else { return Ok(()) };
    let rows = test.rows().min(CROSS_CHECK_ROWS);
    let features = test.features.get(..rows * test.columns).unwrap_or_default();
    let scores = model.score(features);
    let differing = scores.iter().zip(expected).position(|(own, theirs)| own.to_bits() != theirs.to_bits());
    match differing {
        Some(index) => Err(TrainError::CrossCheck {
            framework: trained.framework,
            row: index / model.score_count().max(1),
        }),
        None => Ok(()),
    }
}

fn fit_postprocess(spec: &TrainSpec, train_scores: &Batch) -> Result<Vec<Transformer>, TrainError> {
    let mut fitted: Vec<Transformer> = Vec::new();
    for transformer in &spec.postprocess {
        let config = transformer.config.to_string();
        let mut state = None;
        if transformer.plugin.manifest().needs_fit {
            let mut fit = block_on(TransformerFit::open(&transformer.plugin, &config))?;
            block_on(fit.fit(&transform(&fitted, train_scores.clone())?))?;
            state = Some(block_on(fit.finish())?);
        }
        fitted.push(block_on(Transformer::open(&transformer.plugin, &config, state))?);
    }
    Ok(fitted)
}

fn signature(
    source: &Source<'_>,
    features: Vec<ColumnSpec>,
    model: &dyn Model,
    postprocess: &[Transformer],
) -> Result<Signature, TrainError> {
    // What the postprocess transformers answer is known from asking them about no rows.
    let none = Batch::new(vec![Tensor::from_f32(SCORES, vec![0, model.score_count()], &[])?])?;
    let outputs = ColumnSpec::of_batch(&transform(postprocess, none)?);
    Ok(Signature { inputs: source.inputs().to_vec(), features, outputs })
}

fn put(store: &Store, bytes: &[u8]) -> Result<BlobRef, TrainError> {
    Ok(BlobRef { digest: store.put_bytes(bytes)?, size: bytes.len() as u64 })
}

fn entries(
    store: &Store,
    specs: &[TransformerSpec],
    opened: &[Transformer],
) -> Result<Vec<TransformerEntry>, TrainError> {
    let entry = |(spec, transformer): (&TransformerSpec, &Transformer)| {
        Ok(TransformerEntry {
            name: spec.plugin.manifest().name.clone(),
            version: spec.plugin.manifest().version.clone(),
            component: put(store, &spec.bytes)?,
            config: spec.config.clone(),
            state: transformer.state().map(|state| put(store, state)).transpose()?,
        })
    };
    specs.iter().zip(opened).map(entry).collect()
}

/// An even sample of the training rows: features and scores side by side, as windows hold them.
fn reference(train: &LabelledMatrix, scores: &Batch) -> Result<Vec<u8>, TrainError> {
    let step = train.rows().div_ceil(REFERENCE_ROWS).max(1);
    let rows: Vec<usize> = (0..train.rows()).step_by(step).collect();
    let features: Vec<f32> = rows.iter().flat_map(|&row| train.row(row)).copied().collect();
    let mut columns = vec![Tensor::from_f32(FEATURES, vec![rows.len(), train.columns], &features)?];
    for tensor in scores.tensors() {
        let width = tensor.row_elements();
        let values = tensor.as_f32().ok_or(TrainError::NoFeatures)?;
        let row = |&row: &usize| values.get(row * width..(row + 1) * width).unwrap_or_default();
        let sampled: Vec<f32> = rows.iter().flat_map(row).copied().collect();
        columns.push(Tensor::from_f32(tensor.name(), vec![rows.len(), width], &sampled)?);
    }
    Ok(data::encode_safetensors(&Batch::new(columns)?)?)
}

/// Answers some rows of the test split as serving will, so that a bundle which cannot is never written.
fn try_out(
    manifest: &BundleManifest,
    source: &Source<'_>,
    preprocess: Vec<Transformer>,
    model: Arc<dyn Model>,
    postprocess: Vec<Transformer>,
) -> Result<(), TrainError> {
    let parts = PredictorParts { preprocess, model, postprocess };
    let predictor = Predictor::new(parts, manifest.signature.clone());
    if let Some(batch) = source.batches(Split::Test)?.next() {
        let (inputs, _) = batch?;
        let prediction = block_on(predictor.predict(&inputs))?;
        ColumnSpec::check(&manifest.signature.outputs, &prediction.outputs)?;
    }
    Ok(())
}
