use std::sync::Arc;
use std::time::{Duration, Instant};

use super::parts::{Part, read_part};
use super::{BundleManifest, FeatureError, ModelLoader, RegistryError, TransformerEntry, assemble};
use crate::domain::{Batch, BatchError, ColumnSpec, DataType, SchemaError, Signature, Tensor};
use crate::model::{Model, ModelError};
use crate::plugin::{MetricPoint, Plugin, PluginError, PluginRuntime, Transformed, Transformer, block_on};
use crate::store::Store;

/// A bundle loaded to compute: preprocess, model, postprocess.
pub struct Predictor {
    parts: PredictorParts,
    signature: Signature,
}

/// What a predictor consists of.
pub struct PredictorParts {
    /// Transformers before the model.
    pub preprocess: Vec<Transformer>,
    /// The model.
    pub model: Arc<dyn Model>,
    /// Transformers after it.
    pub postprocess: Vec<Transformer>,
}

/// What a batch became on its way.
#[derive(Debug)]
pub struct Prediction {
    /// What the model saw, as 32-bit floats.
    pub features: Batch,
    /// What the model said.
    pub scores: Batch,
    /// The answer.
    pub outputs: Batch,
    /// What calling the transformers took: those before the model, then those after it.
    pub calls: Vec<TransformerCall>,
    /// Time in the model.
    pub model_time: Duration,
}

/// What calling a transformer took.
#[derive(Debug)]
pub struct TransformerCall {
    /// Time in it.
    pub took: Duration,
    /// Memory of the instance that was called.
    pub memory_bytes: u64,
    /// What the plugin reported.
    pub points: Vec<MetricPoint>,
}

/// In what an answer differs from the signature, and the columns that it has.
type Unlike = (SchemaError, Vec<ColumnSpec>);

/// A batch that could not be predicted.
#[derive(Debug, thiserror::Error)]
pub enum PredictionError {
    /// The batch does not have the signature's columns.
    #[error("{0}")]
    Input(#[from] SchemaError),
    /// A transformer before the model failed.
    #[error("{0}")]
    Plugin(#[from] PluginError),
    /// A transformer after the model failed: what it got is no doing of whoever asked.
    #[error("{0}")]
    Postprocess(#[source] Box<PluginError>),
    /// The last transformer before or after the model made other columns than the signature has.
    #[error("{0}")]
    Columns(#[source] Box<PluginError>),
    /// The transformers made something else than they did in training, or a row was sent with what the model cannot take.
    #[error("{0}")]
    Features(#[from] FeatureError),
    /// The transformers made what the model cannot take of a row: that is no doing of whoever asked.
    #[error("{0}")]
    Transformed(FeatureError),
    /// The model does not take what the transformers make.
    #[error("{0}")]
    Model(#[from] ModelError),
}

impl Predictor {
    /// Loads a bundle's model and transformers, and opens each with its config and state. A model that does not fit the
    /// signature is refused, since it could answer nothing.
    pub fn load(
        store: &Store,
        runtime: &PluginRuntime,
        manifest: &BundleManifest,
    ) -> Result<Self, RegistryError> {
        Self::load_by(&ModelLoader::default(), store, runtime, manifest)
    }

    /// The same, with the model that `models` loads or has.
    pub fn load_by(
        models: &ModelLoader,
        store: &Store,
        runtime: &PluginRuntime,
        manifest: &BundleManifest,
    ) -> Result<Self, RegistryError> {
        manifest.check()?;
        let model = models.load(store, &manifest.model)?;
        check_counts(model.as_ref(), manifest)?;
        let open = |entries: &[TransformerEntry]| {
            entries.iter().map(|entry| open_transformer(store, runtime, entry)).collect::<Result<Vec<_>, _>>()
        };
        let parts = PredictorParts {
            preprocess: open(&manifest.preprocess)?,
            model,
            postprocess: open(&manifest.postprocess)?,
        };
        let mut predictor = Self::new(parts, manifest.signature.clone());
        if let Some(Err((difference, outputs))) = block_on(predictor.check_outputs()) {
            let name = predictor.parts.postprocess.last().map_or("", |last| &last.plugin().manifest().name);
            tracing::warn!(
                "plugin `{name}` answers rows with other columns than its bundle says, which are taken for those of the \
                 answer: {difference}"
            );
            predictor.signature.outputs = outputs;
        }
        Ok(predictor)
    }

    /// Puts parts together; `signature` says what they take.
    pub fn new(parts: PredictorParts, signature: Signature) -> Self {
        Self { parts, signature }
    }

    /// What it takes and answers.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The column of the model's scores.
    pub fn scores(&self) -> ColumnSpec {
        self.parts.model.scores()
    }

    /// Scores that the model makes of a row.
    pub fn score_count(&self) -> usize {
        self.parts.model.score_count()
    }

    /// Whether the scores are values, and not probabilities of classes.
    pub fn predicts_values(&self) -> bool {
        self.parts.model.predicts_values()
    }

    /// Whether another library evaluates the model, of which a newer version or another processor may round otherwise.
    pub fn may_round(&self) -> bool {
        self.parts.model.may_round()
    }

    /// Whether the model has so many rows shared by cores.
    pub fn shares_cores(&self, rows: usize) -> bool {
        self.parts.model.shares_cores(rows)
    }

    /// Whether what the model takes for a row depends on what is in it.
    pub fn cost_varies(&self) -> bool {
        self.parts.model.cost_varies()
    }

    /// Leaves out the columns of a dataset that it does not take, such as the label. Those that it takes as FP64 may be integers or
    /// truth values: so a file has them that misses none, whatever the one that was trained on missed.
    pub fn select_inputs(&self, batch: Batch) -> Result<Batch, BatchError> {
        let taken = |tensor: Tensor| {
            let spec = self.signature.inputs.iter().find(|spec| spec.name == tensor.name())?;
            Some(if spec.dtype == DataType::Fp64 { tensor.widened_to_f64() } else { tensor })
        };
        Batch::new(batch.into_tensors().into_iter().filter_map(taken).collect())
    }

    /// The transformers before and after the model.
    pub fn transformers(&self) -> (&[Transformer], &[Transformer]) {
        (&self.parts.preprocess, &self.parts.postprocess)
    }

    /// Whether a row's answer is the same whatever rows are beside it.
    pub fn rows_independent(&self) -> bool {
        let (before, after) = self.transformers();
        before.iter().chain(after).all(|transformer| transformer.plugin().manifest().rows_independent)
    }

    /// Whether instances of all transformers are kept from call to call.
    pub fn keeps_instances(&self) -> bool {
        let (before, after) = self.transformers();
        before.iter().chain(after).all(|transformer| transformer.plugin().keeps_instances())
    }

    /// Takes from the transformers after the model what they answer, where they are others than those of the signature: they are asked
    /// about scores that are made up, or else about no rows, as in training. If they refuse that too, the signature stays.
    pub async fn learn_outputs(&mut self) {
        let answered = match self.check_outputs().await {
            None => match ColumnSpec::no_rows(&[self.scores()]) {
                Ok(none) => self.check_answer(&none).await,
                Err(_) => None,
            },
            answered => answered,
        };
        if let Some(Err((_, outputs))) = answered {
            self.signature.outputs = outputs;
        }
    }

    /// Compares what made-up scores are answered with. They differ if none of the answers is what the signature says: what is made up
    /// may be answered in a way of its own. None where nobody answers.
    async fn check_outputs(&self) -> Option<Result<(), Unlike>> {
        let mut answered = None;
        for scores in made_up_scores(&self.scores()) {
            match self.check_answer(&scores).await {
                Some(Ok(())) => return Some(Ok(())),
                differs => answered = answered.or(differs),
            }
        }
        answered
    }

    async fn check_answer(&self, scores: &Batch) -> Option<Result<(), Unlike>> {
        let outputs = apply(&self.parts.postprocess, scores, &mut Vec::new()).await.ok()??;
        let checked = ColumnSpec::check(&self.signature.outputs, &outputs);
        Some(checked.map_err(|difference| (difference, ColumnSpec::of_batch(&outputs))))
    }

    /// Gives the parts away, so that some can be replaced.
    pub fn into_parts(self) -> (PredictorParts, Signature) {
        (self.parts, self.signature)
    }

    /// Predicts a batch whose columns are checked against the signature.
    pub async fn predict(&self, inputs: &Batch) -> Result<Prediction, PredictionError> {
        self.predict_by(inputs, |model, features| model.predict(features)).await
    }

    /// The same for who waits until `deadline`: [`ModelError::Late`] where the model could take for ever.
    pub async fn predict_until(
        &self,
        inputs: &Batch,
        deadline: Option<Instant>,
    ) -> Result<Prediction, PredictionError> {
        self.predict_by(inputs, |model, features| model.predict_until(features, deadline)).await
    }

    /// The same for a thread that others wait for: [`ModelError::Busy`] where the model would have to wait.
    pub async fn predict_at_once(&self, inputs: &Batch) -> Result<Prediction, PredictionError> {
        self.predict_by(inputs, |model, features| model.predict_at_once(features)).await
    }

    async fn predict_by(
        &self,
        inputs: &Batch,
        score: impl FnOnce(&dyn Model, &Batch) -> Result<Batch, ModelError>,
    ) -> Result<Prediction, PredictionError> {
        ColumnSpec::check(&self.signature.inputs, inputs)?;
        let PredictorParts { preprocess, model, postprocess } = &self.parts;
        let mut calls = Vec::with_capacity(preprocess.len() + postprocess.len());
        let transformed = apply(preprocess, inputs, &mut calls).await?;
        let batch = transformed.as_ref().unwrap_or(inputs);
        let misfit = |error| blamed(error, preprocess.last(), inputs, batch);
        let exact = assemble_exact(batch, &self.signature.features, model.feature_type()).map_err(misfit)?;
        let assembled = assemble(batch, &self.signature.features, DataType::Fp32).map_err(misfit)?;
        let features = assembled.or(transformed).unwrap_or_else(|| inputs.clone());
        let started = Instant::now();
        let scores = score(model.as_ref(), exact.as_ref().unwrap_or(&features))?;
        let model_time = started.elapsed();
        let outputs = apply(postprocess, &scores, &mut calls)
            .await
            .map_err(|error| PredictionError::Postprocess(Box::new(error)))?;
        // Some answer no rows with other columns than rows; nobody misses any of these.
        if let (Some(outputs), Some(last)) = (&outputs, postprocess.last())
            && outputs.rows() > 0
        {
            ColumnSpec::check(&self.signature.outputs, outputs)
                .map_err(|error| other_columns(last, &error))?;
        }
        let outputs = outputs.unwrap_or_else(|| scores.clone());
        Ok(Prediction { features, scores, outputs, calls, model_time })
    }
}

/// What a model sees that takes another type than FP32, which would lose digits; none where that is what it takes.
fn assemble_exact(
    batch: &Batch,
    specs: &[ColumnSpec],
    dtype: DataType,
) -> Result<Option<Batch>, FeatureError> {
    if dtype == DataType::Fp32 {
        return Ok(None);
    }
    Ok(Some(assemble(batch, specs, dtype)?.unwrap_or_else(|| batch.clone())))
}

/// Whose mistake it is that a model cannot take what it gets: of other columns the last transformer's, if there is one; of an
/// element, in a column that is still as it was sent, that of whoever asked.
fn blamed(
    error: FeatureError,
    last: Option<&Transformer>,
    inputs: &Batch,
    transformed: &Batch,
) -> PredictionError {
    match (&error, last) {
        (FeatureError::Schema(error), Some(last)) => other_columns(last, error),
        (FeatureError::NotWhole { column, .. }, _) if inputs.column(column) != transformed.column(column) => {
            PredictionError::Transformed(error)
        }
        _ => error.into(),
    }
}

/// What the last of some transformers is to blame for.
fn other_columns(last: &Transformer, error: &SchemaError) -> PredictionError {
    let breach = last.breach(format!("it returned other columns than its bundle says: {error}"));
    PredictionError::Columns(Box::new(breach))
}

/// Rows of scores to ask transformers about, one at a time: some take nothing but probabilities whose sum is 1.
pub(super) fn made_up_scores(spec: &ColumnSpec) -> impl Iterator<Item = Batch> {
    let row = |score: f32| {
        let shape = std::iter::once(1).chain(spec.shape.iter().copied()).collect();
        let scores = Tensor::from_f32(&*spec.name, shape, &vec![score; spec.row_elements()]).ok()?;
        Batch::new(vec![scores]).ok()
    };
    [0.0, 1.0 / spec.row_elements().max(1) as f32].into_iter().filter_map(row)
}

/// Sends a batch through transformers; none where there are none.
async fn apply(
    transformers: &[Transformer],
    batch: &Batch,
    calls: &mut Vec<TransformerCall>,
) -> Result<Option<Batch>, PluginError> {
    let mut current = None;
    for transformer in transformers {
        let started = Instant::now();
        let Transformed { batch, points, memory_bytes } =
            transformer.transform(current.as_ref().unwrap_or(batch)).await?;
        calls.push(TransformerCall { took: started.elapsed(), memory_bytes, points });
        current = Some(batch);
    }
    Ok(current)
}

/// Compares what the model takes and makes with what the signature promises. What postprocess transformers make of the
/// scores is compared when they make it; without any alone the signature tells their number.
fn check_counts(model: &dyn Model, manifest: &BundleManifest) -> Result<(), RegistryError> {
    let signature = &manifest.signature;
    let check = |what: &'static str, specs: &[ColumnSpec], found: usize| {
        let expected = elements(specs);
        let wrong = RegistryError::ModelCount { what, expected, found };
        if expected == found { Ok(()) } else { Err(wrong) }
    };
    check("features", &signature.features, model.feature_count())?;
    if manifest.postprocess.is_empty() {
        check("scores", &signature.outputs, model.score_count())?;
    }
    Ok(())
}

/// Elements that a row has in all columns together; the largest number there is where they are more.
fn elements(specs: &[ColumnSpec]) -> usize {
    let of_column =
        |spec: &ColumnSpec| spec.shape.iter().fold(1, |all: usize, &size| all.saturating_mul(size));
    specs.iter().fold(0, |all: usize, spec| all.saturating_add(of_column(spec)))
}

fn open_transformer(
    store: &Store,
    runtime: &PluginRuntime,
    entry: &TransformerEntry,
) -> Result<Transformer, RegistryError> {
    let component = read_part(store, Part::Component(&entry.name), &entry.component)?;
    let plugin = Plugin::load(runtime, &component)
        .map_err(|source| RegistryError::Plugin { name: entry.name.clone(), source })?;
    let state = entry.state.as_ref().map(|state| read_part(store, Part::State(&entry.name), state));
    let state = state.transpose()?;
    Ok(block_on(Transformer::open(&plugin, &entry.config.to_string(), state))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asked_is_to_blame_for_what_is_as_it_was_sent() {
        let batch = |x: &[f32], y: &[f32]| {
            let column = |name, values: &[f32]| Tensor::from_f32(name, vec![values.len()], values).unwrap();
            Batch::new(vec![column("x", x), column("y", y)]).unwrap()
        };
        let blame = |inputs: &Batch, transformed: &Batch| {
            let specs = ColumnSpec::of_batch(transformed);
            let error = assemble_exact(transformed, &specs, DataType::Int64).unwrap_err();
            blamed(error, None, inputs, transformed)
        };
        let sent = batch(&[1.0, 1.5], &[2.0, 3.0]);
        assert!(matches!(blame(&sent, &sent), PredictionError::Features(_)));
        // A transformer of another column, of this one, and of all to one.
        assert!(matches!(blame(&sent, &batch(&[1.0, 1.5], &[0.0, 1.0])), PredictionError::Features(_)));
        assert!(matches!(blame(&sent, &batch(&[1.0, 2.5], &[2.0, 3.0])), PredictionError::Transformed(_)));
        let joined = Batch::new(vec![Tensor::from_f32("features", vec![2], &[1.0, 0.5]).unwrap()]).unwrap();
        let error = blame(&sent, &joined);
        assert!(matches!(error, PredictionError::Transformed(_)));
        let told = "row 1, column `features`: expected a whole number that INT64 holds, found 0.5";
        assert_eq!(error.to_string(), told);
    }
}
