//! What all trainings on one dataset version have in common, done once: transformers fitted, matrices filled.
//!
//! The order of steps: the preprocess transformers are fitted one after another, each on what those before it make of
//! the training split; their opened forms fill the matrices; a trainer trains; the model file is loaded by the same
//! evaluator that serves and compared with the trainer's library bit for bit, and judged on the test split. A model
//! that is to stay gets its postprocess transformers, fitted on the scores; rows of the test split are answered through
//! the finished [`Predictor`]; the bundle is written last, so that a training that fails leaves no trace but unnamed
//! blobs.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::files::DataFiles;
use super::job::{TrainEvent, TrainReport, advance, phase};
use super::matrix::{LabelledMatrix, Source, Split};
use super::report::{Evaluation, evaluate};
use super::trainer::{TrainData, TrainSession, Trained, Trainer};
use super::{Task, TrainError};
use crate::data::{self, ResolvedDataset};
use crate::domain::{Batch, ColumnSpec, DataType, Signature, Tensor};
use crate::model::{self, FEATURES, Model, ModelError, OutputChoice, SCORES, ScoreKind};
use crate::plugin::{Plugin, Transformer, TransformerFit, block_on};
use crate::registry::{
    self, BlobRef, BundleManifest, DatasetRef, MEDIA_TYPE, ModelEntry, Predictor, PredictorParts, Sample,
    TransformerEntry,
};
use crate::store::Store;

/// Rows of the training split that a bundle keeps for comparison with windows.
const REFERENCE_ROWS: usize = 2_048;

/// Rows on which the evaluator is compared with the trainer's library.
const CROSS_CHECK_ROWS: usize = 512;

/// What to train on, through what.
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

/// Everything that trainers of one dataset version share. Several threads may train at once.
pub struct Prepared<'a> {
    store: &'a Store,
    spec: &'a TrainSpec,
    source: Source<'a>,
    preprocess: Vec<Transformer>,
    /// The columns that the preprocess transformers made.
    features: Vec<ColumnSpec>,
    train: LabelledMatrix,
    test: LabelledMatrix,
    /// What programs are given, once one has asked for it.
    files: Mutex<Option<Arc<DataFiles>>>,
}

/// A model that was trained and judged, but not kept yet.
pub struct Learned {
    trained: Trained,
    model: Arc<dyn Model>,
    /// What the test split says.
    pub evaluation: Evaluation,
    /// Time in the trainer alone.
    pub train_seconds: f64,
}

impl<'a> Prepared<'a> {
    /// Fits the preprocess transformers and fills the matrices. `progress` may break to stop it.
    pub fn read(
        store: &'a Store,
        spec: &'a TrainSpec,
        progress: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
    ) -> Result<Self, TrainError> {
        registry::check_transformer_counts(spec.preprocess.len(), spec.postprocess.len())?;
        let source = Source::open(store, &spec.dataset, &spec.label, spec.train_rows, data::BATCH_ROWS)?;
        let preprocess = fit_preprocess(spec, &source, progress)?;
        let (train, features) = collect(&source, Split::Train, &preprocess, progress)?;
        let (test, _) = collect(&source, Split::Test, &preprocess, progress)?;
        Ok(Self { store, spec, source, preprocess, features, train, test, files: Mutex::default() })
    }

    /// The rows and the dataset version as files, which are written at the first call.
    fn files(&self) -> Result<Arc<DataFiles>, TrainError> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = files.as_ref() {
            return Ok(Arc::clone(files));
        }
        let (dataset, label) = (&self.spec.dataset, &self.spec.label);
        let written =
            DataFiles::write(self.store, dataset, label, &self.features, [&self.train, &self.test])?;
        Ok(Arc::clone(files.insert(Arc::new(written))))
    }

    /// Rows to learn from.
    pub fn train_rows(&self) -> usize {
        self.train.rows()
    }

    /// Rows to judge by.
    pub fn test_rows(&self) -> usize {
        self.test.rows()
    }

    /// Trains a model and keeps it as a bundle.
    pub fn train(
        &self,
        trainer: &dyn Trainer,
        session: &mut TrainSession<'_>,
    ) -> Result<TrainReport, TrainError> {
        let started = Instant::now();
        let learned = self.learn(trainer, session)?;
        let report = self.keep(learned)?;
        Ok(TrainReport { total_seconds: started.elapsed().as_secs_f64(), ..report })
    }

    /// Trains a model, checks that this host evaluates it as its library does, and judges it on the test split.
    pub fn learn(
        &self,
        trainer: &dyn Trainer,
        session: &mut TrainSession<'_>,
    ) -> Result<Learned, TrainError> {
        let started = Instant::now();
        let (train, test) = (self.train.as_matrix()?, self.test.as_matrix()?);
        let trained = trainer.train(&TrainData { train, test, files: &|| self.files() }, session)?;
        let train_seconds = started.elapsed().as_secs_f64();
        let model = loaded(&trained.model)?;
        let (expected, found) = (self.train.columns, model.feature_count());
        if found != expected {
            return Err(TrainError::ModelFeatures { expected, found });
        }
        cross_check(model.as_ref(), &self.test, &trained)?;
        let scores = self.test_scores(model.as_ref())?;
        let columns = model.score_count();
        let task = trained.task.unwrap_or_else(|| Task::of_scores(columns, model.predicts_values()));
        let evaluation = evaluate(task, &scores, columns, &self.test.labels)?;
        Ok(Learned { trained, model: Arc::from(model), evaluation, train_seconds })
    }

    /// What a model says of the test split.
    fn test_scores(&self, model: &dyn Model) -> Result<Vec<f32>, TrainError> {
        match model.feature_type() {
            DataType::Fp32 => Ok(model.score(&self.test.features)?),
            _ => self.exact_scores(model, Split::Test, 1),
        }
    }

    /// What a model says of every `step`th row of the training split, whose features these are.
    fn train_scores(&self, model: &dyn Model, features: &[f32], step: usize) -> Result<Batch, TrainError> {
        match model.feature_type() {
            DataType::Fp32 => scores_of(model, features),
            _ => as_batch(model, &self.exact_scores(model, Split::Train, step)?),
        }
    }

    /// What a model of another type than FP32 says of every `step`th row of a split, asked as when it serves: the matrix is
    /// rounded.
    fn exact_scores(&self, model: &dyn Model, split: Split, step: usize) -> Result<Vec<f32>, TrainError> {
        let mut scores = Vec::new();
        let mut first = 0;
        for batch in self.source.batches(split)? {
            let (inputs, _) = batch?;
            let transformed = transform(&self.preprocess, inputs)?;
            let rows = first..first + transformed.rows();
            first = rows.end;
            let kept: Vec<bool> = rows.map(|row| row.is_multiple_of(step)).collect();
            if !kept.contains(&true) {
                continue;
            }
            let kept = transformed.keep_rows(&kept);
            let assembled = registry::assemble(&kept, &self.features, model.feature_type())?;
            let answer = model.predict(assembled.as_ref().unwrap_or(&kept))?;
            scores.extend(answer.column(SCORES).and_then(Tensor::as_f32).unwrap_or_default().iter());
        }
        Ok(scores)
    }

    /// Makes a bundle of a model and writes it.
    pub fn keep(&self, learned: Learned) -> Result<TrainReport, TrainError> {
        let started = Instant::now();
        let Learned { trained, model, evaluation, train_seconds } = learned;
        let postprocess = fit_postprocess(self, model.as_ref())?;
        let mut manifest = BundleManifest {
            media_type: MEDIA_TYPE.to_owned(),
            model: ModelEntry {
                framework: trained.framework.to_owned(),
                framework_version: trained.framework_version,
                file_name: trained.file_name.to_owned(),
                blob: put(self.store, &trained.model)?,
                output: model.output_choice(),
            },
            preprocess: entries(self.store, &self.spec.preprocess, &self.preprocess)?,
            postprocess: entries(self.store, &self.spec.postprocess, &postprocess)?,
            signature: self.signature(model.as_ref(), &postprocess)?,
            dataset: Some(DatasetRef {
                name: self.spec.dataset.name.clone(),
                version: self.spec.dataset.version.digest,
            }),
            parameters: trained.parameters,
            metrics: evaluation.metrics.clone(),
            confusion: evaluation.confusion.clone(),
            reference: Some(put(self.store, &reference(self, model.as_ref())?)?),
            sample: None,
        };
        let sample = self.try_out(&manifest, model, postprocess)?.and_then(|sample| sample.to_bytes());
        manifest.sample = sample.map(|sample| put(self.store, &sample)).transpose()?;
        let bundle = registry::write_bundle(self.store, &manifest)?;
        Ok(TrainReport {
            bundle,
            train_rows: self.train.rows(),
            test_rows: self.test.rows(),
            parameters: manifest.parameters,
            evaluation,
            train_seconds,
            total_seconds: train_seconds + started.elapsed().as_secs_f64(),
        })
    }

    fn signature(&self, model: &dyn Model, postprocess: &[Transformer]) -> Result<Signature, TrainError> {
        // What the postprocess transformers answer is known from asking them about no rows.
        let none = scores_of(model, &[])?;
        let outputs = ColumnSpec::of_batch(&transform(postprocess, none)?);
        Ok(Signature { inputs: self.source.inputs().to_vec(), features: self.features.clone(), outputs })
    }

    /// Answers some rows of the test split as serving will, so that a bundle which cannot is never written; gives some of
    /// them with their answers.
    fn try_out(
        &self,
        manifest: &BundleManifest,
        model: Arc<dyn Model>,
        postprocess: Vec<Transformer>,
    ) -> Result<Option<Sample>, TrainError> {
        let reopen = |opened: &Transformer| {
            block_on(Transformer::open(opened.plugin(), opened.config(), opened.state().map(<[u8]>::to_vec)))
        };
        let preprocess = self.preprocess.iter().map(reopen).collect::<Result<Vec<_>, _>>()?;
        let parts = PredictorParts { preprocess, model, postprocess };
        let predictor = Predictor::new(parts, manifest.signature.clone());
        let Some(batch) = self.source.batches(Split::Test)?.next() else { return Ok(None) };
        let (inputs, _) = batch?;
        let prediction = block_on(predictor.predict(&inputs))?;
        ColumnSpec::check(&manifest.signature.outputs, &prediction.outputs)?;
        Ok(block_on(Sample::record(&predictor, &inputs))?)
    }
}

/// What a model says of rows, as a batch.
fn scores_of(model: &dyn Model, features: &[f32]) -> Result<Batch, TrainError> {
    as_batch(model, &model.score(features)?)
}

fn as_batch(model: &dyn Model, scores: &[f32]) -> Result<Batch, TrainError> {
    let shape = vec![scores.len() / model.score_count().max(1), model.score_count()];
    Ok(Batch::new(vec![Tensor::from_f32(SCORES, shape, scores)?])?)
}

/// Sends a batch through transformers that are open.
fn transform(transformers: &[Transformer], mut batch: Batch) -> Result<Batch, TrainError> {
    for transformer in transformers {
        batch = block_on(transformer.transform(&batch))?.batch;
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
        let assembled = registry::assemble(&transformed, specs, DataType::Fp32)?;
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
    let scores = model.score(features)?;
    let differing = scores.iter().zip(expected).position(|(own, theirs)| own.to_bits() != theirs.to_bits());
    match differing {
        Some(index) => Err(TrainError::CrossCheck {
            framework: trained.framework,
            row: index / model.score_count().max(1),
        }),
        None => Ok(()),
    }
}

fn fit_postprocess(prepared: &Prepared<'_>, model: &dyn Model) -> Result<Vec<Transformer>, TrainError> {
    let Prepared { spec, train, .. } = prepared;
    let needs_fit = spec.postprocess.iter().any(|transformer| transformer.plugin.manifest().needs_fit);
    let train_scores = match needs_fit {
        true => prepared.train_scores(model, &train.features, 1)?,
        false => scores_of(model, &[])?,
    };
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
fn reference(prepared: &Prepared<'_>, model: &dyn Model) -> Result<Vec<u8>, TrainError> {
    let train = &prepared.train;
    let step = train.rows().div_ceil(REFERENCE_ROWS).max(1);
    let rows = (0..train.rows()).step_by(step);
    let features: Vec<f32> = rows.clone().flat_map(|row| train.row(row)).copied().collect();
    let mut columns = vec![Tensor::from_f32(FEATURES, vec![rows.len(), train.columns], &features)?];
    columns.extend(prepared.train_scores(model, &features, step)?.into_tensors());
    Ok(data::encode_safetensors(&Batch::new(columns)?)?)
}

/// A model that was trained. A program's may be called probabilities and be decision scores: it is not lost for that.
fn loaded(file: &[u8]) -> Result<Box<dyn Model>, ModelError> {
    model::load(file).or_else(|error| {
        let ModelError::Onnx { .. } = error else { return Err(error) };
        let load_as = |scores| {
            let choice = OutputChoice { scores: Some(scores), ..OutputChoice::default() };
            model::load_output(file, &choice)
        };
        let Ok(model) = load_as(ScoreKind::Probabilities) else { return Err(error) };
        if model::examine(file, model.as_ref())?.is_some_and(|found| found.beyond.is_none()) {
            return Ok(model);
        }
        tracing::warn!(
            "the model's output is called probabilities, and has other numbers: they are taken for logits, of which a softmax, \
             or of one in a row a sigmoid, makes probabilities"
        );
        load_as(ScoreKind::Logits)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_may_share_what_is_prepared() {
        fn is_shared<T: Send + Sync>() {}
        is_shared::<Prepared<'_>>();
    }
}
