//! ONNX models (<https://onnx.ai>), evaluated by ONNX Runtime: what scikit-learn, LightGBM, PyTorch and many others export.
//!
//! A file is read in two steps. [`graph`] reads what it says of itself and refuses what cannot be taken, in words; the
//! runtime, native code that is not sandboxed, reads it only then, from memory. It is asked about a row of zeros at once,
//! which tells how many scores there are.
//!
//! Rows go through the model one by one, on one thread each: the runtime's products of matrices round otherwise for
//! another number of rows, and a row's scores are to be the same bits however rows are grouped. The bits are those of one
//! version of the runtime on one kind of processor.

mod classes;
mod cost;
mod graph;
mod levels;
mod library;
mod protobuf;
mod sessions;

use std::borrow::Cow;
use std::fmt::Debug;
use std::time::Instant;

use ort::session::SessionOutputs;
use ort::value::PrimitiveTensorElementType;
use serde::{Deserialize, Serialize};

use crate::domain::{Batch, DataType, Tensor, map_parallel, whole_number};

pub use classes::{ClassLabels, Classifier, examine};
pub use library::LibraryError;

use graph::{Element, Graph, Node, Outlet, OutletKind};
use library::Library;
use sessions::{Runner, Sessions};

use super::network::Output;
use super::{Framework, Model, ModelError, predict_by};

pub(super) use graph::is_onnx;

/// More features than an image has, as a file of a few bytes can claim any number.
const FEATURES_MAX: u64 = 1 << 24;

/// More scores than anything needs that is judged by classes.
const SCORES_MAX: usize = 1 << 20;

/// Rows that are worth a thread of their own.
const ROWS_OF_THREAD: usize = 256;

/// The longest message of the runtime that is handed on.
const SENTENCE_MAX: usize = 300;

/// What the scores of a model are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoreKind {
    /// Probabilities of classes, or of one class of two; taken as they are.
    Probabilities,
    /// What becomes probabilities by a softmax, or of one in a row by a sigmoid, which are applied here.
    Logits,
    /// Values; taken as they are.
    Values,
}

impl std::fmt::Display for ScoreKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Probabilities => "probabilities",
            Self::Logits => "logits",
            Self::Values => "values",
        })
    }
}

/// Which output of an ONNX model has the scores, and what they are; what is not said is told by the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputChoice {
    /// The output's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<ScoreKind>,
}

/// An ONNX model, ready to score.
#[derive(Debug)]
pub(super) struct OnnxModel {
    sessions: Sessions,
    input: Input,
    output: String,
    scores: ScoreKind,
    score_count: usize,
    operators: usize,
    /// Whether every row takes as long as any other.
    is_of_fixed_cost: bool,
}

/// How long whoever asks waits.
#[derive(Debug, Clone, Copy)]
enum Patience {
    /// Not for others, nor for what is to be made first.
    None,
    /// Until then, or as long as a row may take.
    Until(Option<Instant>),
}

/// The input of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Input {
    element: Element,
    /// Of one row.
    shape: Vec<usize>,
    feature_count: usize,
}

/// The output of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scores {
    /// Its name in the file.
    name: String,
    /// The tensor that is asked for: where the output is no tensor, the one that it is made of.
    tensor: String,
    kind: ScoreKind,
}

impl OnnxModel {
    pub(super) fn load(bytes: &[u8], choice: &OutputChoice) -> Result<Self, ModelError> {
        let unusable = |reason| ModelError::Onnx { reason };
        let graph = Graph::of_file(bytes).map_err(unusable)?;
        let input = Input::of(&graph).map_err(unusable)?;
        let scores = Scores::choose(&graph, choice).map_err(unusable)?;
        let mut file = bytes.to_vec();
        if !graph.outputs.iter().any(|output| output.name == scores.tensor) {
            file.extend(graph::output_of(&scores.tensor));
        }
        Library::get()?;
        let is_of_fixed_cost = graph.is_of_fixed_cost();
        let mut model = Self {
            sessions: Sessions::new(file, scores.tensor, !is_of_fixed_cost),
            input,
            output: scores.name,
            scores: scores.kind,
            score_count: 0,
            operators: graph.nodes.len(),
            is_of_fixed_cost,
        };
        let zeros = vec![0.0; model.input.feature_count];
        let found = model.sessions.with(None, |runner| model.run(runner, &zeros, 0)).map_err(unusable)?;
        if found.is_empty() || found.len() > SCORES_MAX {
            let reason = format!("it has {} scores a row: expected from 1 to {SCORES_MAX}", found.len());
            return Err(unusable(reason));
        }
        model.score_count = found.len();
        if choice.scores.is_none() && model.scores == ScoreKind::Probabilities {
            model.confirm_probabilities(&graph).map_err(unusable)?;
        }
        Ok(model)
    }

    /// Scores rows on as many threads as they are worth, each row by `run`, which is told its place; or without patience by a
    /// session that is free, on this one.
    fn score_by<T: Sync>(
        &self,
        features: &[T],
        patience: Patience,
        run: impl Fn(&mut Runner, &[T], usize) -> Result<Vec<f32>, String> + Sync,
    ) -> Result<Vec<f32>, ModelError> {
        let columns = self.input.feature_count.max(1);
        if matches!(patience, Patience::None) || features.len() / columns < 2 * ROWS_OF_THREAD {
            return self.score_rows(features, 0, patience, &run);
        }
        let parts: Vec<(usize, &[T])> = (0..).zip(features.chunks(ROWS_OF_THREAD * columns)).collect();
        let stopped = || ModelError::OnnxRun { reason: "a thread has ended".to_owned() };
        let scores = map_parallel(&parts, self.sessions.count(), stopped, |(part, features)| {
            self.score_rows(features, part * ROWS_OF_THREAD, patience, &run)
        });
        Ok(scores?.concat())
    }

    fn score_rows<T>(
        &self,
        features: &[T],
        first: usize,
        patience: Patience,
        run: impl Fn(&mut Runner, &[T], usize) -> Result<Vec<f32>, String>,
    ) -> Result<Vec<f32>, ModelError> {
        let rows = features.chunks_exact(self.input.feature_count.max(1));
        let mut scores = Vec::with_capacity(rows.len() * self.score_count);
        let run_all = |runner: &mut Runner| {
            for (row, features) in (first..).zip(rows) {
                let found = run(runner, features, row)?;
                if found.len() != self.score_count {
                    return Err(format!(
                        "row {row} has {} scores: expected {}",
                        found.len(),
                        self.score_count
                    ));
                }
                scores.extend(found);
            }
            Ok(())
        };
        match patience {
            Patience::None => self.sessions.with_free(run_all).ok_or(ModelError::Busy)?,
            Patience::Until(deadline) => self.sessions.with(deadline, run_all),
        }
        .map_err(|reason| match patience {
            Patience::Until(Some(deadline)) if deadline <= Instant::now() => ModelError::Late,
            _ => ModelError::OnnxRun { reason },
        })?;
        if self.scores == ScoreKind::Logits {
            let output = if self.score_count == 1 { Output::Binary } else { Output::Classes };
            output.apply(&mut scores, self.score_count);
        }
        Ok(scores)
    }

    /// Scores features of the type of the input; none where they are of another.
    fn score_as_typed(&self, features: &Tensor, patience: Patience) -> Result<Option<Vec<f32>>, ModelError> {
        fn each<T: PrimitiveTensorElementType + Debug + Clone + Sync + 'static>(
            model: &OnnxModel,
            features: Option<Cow<'_, [T]>>,
            patience: Patience,
        ) -> Result<Option<Vec<f32>>, ModelError> {
            let run = |runner: &mut Runner, features: &[T], row| model.answer(runner, features, row);
            features.map(|features| model.score_by(&features, patience, run)).transpose()
        }
        match self.input.element {
            Element::Float | Element::Other(_) => each(self, features.as_f32(), patience),
            Element::Double => each(self, features.as_f64(), patience),
            Element::Int32 => each(self, features.as_i32(), patience),
            Element::Int64 => each(self, features.as_i64(), patience),
        }
    }

    /// Has a session answer a row of 32-bit floats; `row` is its place, for errors.
    fn run(&self, runner: &mut Runner, features: &[f32], row: usize) -> Result<Vec<f32>, String> {
        self.input.ask_floats(runner, features, row, |outputs| scores_of(outputs, &self.output, row))
    }

    /// Has a session answer a row of the type of the input.
    fn answer<T: PrimitiveTensorElementType + Debug + Clone + 'static>(
        &self,
        runner: &mut Runner,
        features: &[T],
        row: usize,
    ) -> Result<Vec<f32>, String> {
        self.input.ask(runner, features, |outputs| scores_of(outputs, &self.output, row))
    }
}

impl Model for OnnxModel {
    fn description(&self) -> String {
        format!("ONNX, {} operators, {} in `{}`", self.operators, self.scores, self.output)
    }

    fn feature_count(&self) -> usize {
        self.input.feature_count
    }

    fn score_count(&self) -> usize {
        self.score_count
    }

    fn predicts_values(&self) -> bool {
        self.scores == ScoreKind::Values
    }

    fn byte_len(&self) -> usize {
        self.sessions.byte_len()
    }

    fn output_choice(&self) -> Option<OutputChoice> {
        Some(OutputChoice { name: Some(self.output.clone()), scores: Some(self.scores) })
    }

    fn score(&self, features: &[f32]) -> Result<Vec<f32>, ModelError> {
        self.score_by(features, Patience::Until(None), |runner, features, row| {
            self.run(runner, features, row)
        })
    }

    fn feature_type(&self) -> DataType {
        match self.input.element {
            Element::Float | Element::Other(_) => DataType::Fp32,
            Element::Double => DataType::Fp64,
            Element::Int32 => DataType::Int32,
            Element::Int64 => DataType::Int64,
        }
    }

    fn score_exact(&self, features: &Tensor) -> Result<Option<Vec<f32>>, ModelError> {
        self.score_as_typed(features, Patience::Until(None))
    }

    fn cost_varies(&self) -> bool {
        !self.is_of_fixed_cost
    }

    fn predict_until(&self, batch: &Batch, deadline: Option<Instant>) -> Result<Batch, ModelError> {
        predict_by(self, batch, |features| self.score_as_typed(features, Patience::Until(deadline)))
    }

    fn predict_at_once(&self, batch: &Batch) -> Result<Batch, ModelError> {
        predict_by(self, batch, |features| self.score_as_typed(features, Patience::None))
    }
}

impl Input {
    /// The one input of a model, if it can be taken.
    fn of(graph: &Graph<'_>) -> Result<Self, String> {
        let [outlet] = graph.inputs.as_slice() else {
            return Err(format!("it takes {}: expected one input", listed(&graph.inputs)));
        };
        let refuse = |expected: &str| Err(format!("its input is {outlet}: expected {expected}"));
        let OutletKind::Tensor { element, shape } = &outlet.kind else { return refuse("a tensor") };
        if let Element::Other(_) = element {
            return refuse("FLOAT, DOUBLE, INT64 or INT32");
        }
        let Some([batch, row @ ..]) = shape.as_deref() else {
            return refuse("a shape whose first dimension is the row");
        };
        if batch.is_some_and(|rows| rows != 1) {
            return refuse("a first dimension of any size, or of 1");
        }
        let Some(row) = row.iter().copied().collect::<Option<Vec<u64>>>() else {
            return refuse("every dimension but the first to have a size");
        };
        let count = row.iter().try_fold(1_u64, |all, &size| all.checked_mul(size));
        match count.filter(|&count| count <= FEATURES_MAX) {
            None => refuse(&format!("at most {FEATURES_MAX} features a row")),
            // Below the limit, so that they fit.
            Some(count) => Ok(Self {
                element: *element,
                shape: std::iter::once(1).chain(row.iter().map(|&size| size as usize)).collect(),
                feature_count: count as usize,
            }),
        }
    }

    /// Has a session answer a row of 32-bit floats; `row` is its place, for errors.
    fn ask_floats<R>(
        &self,
        runner: &mut Runner,
        features: &[f32],
        row: usize,
        read: impl Fn(&SessionOutputs<'_>) -> Result<R, String>,
    ) -> Result<R, String> {
        match self.element {
            Element::Float | Element::Other(_) => self.ask(runner, features, read),
            Element::Double => {
                let features: Vec<f64> = features.iter().copied().map(f64::from).collect();
                self.ask(runner, &features, read)
            }
            Element::Int32 => self.ask::<i32, _>(runner, &whole(features, row)?, read),
            Element::Int64 => self.ask::<i64, _>(runner, &whole(features, row)?, read),
        }
    }

    /// Has a session answer a row of the type of the input.
    fn ask<T: PrimitiveTensorElementType + Debug + Clone + 'static, R>(
        &self,
        runner: &mut Runner,
        features: &[T],
        read: impl Fn(&SessionOutputs<'_>) -> Result<R, String>,
    ) -> Result<R, String> {
        runner.ask(&self.shape, features, read)
    }
}

/// Features as integers, which they must be.
fn whole<T: TryFrom<i64>>(features: &[f32], row: usize) -> Result<Vec<T>, String> {
    let convert = |(column, &feature): (usize, &f32)| {
        let number = whole_number(feature.into()).and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| format!("feature {column} of row {row} is {feature}: expected a whole number"))
    };
    features.iter().enumerate().map(convert).collect()
}

/// The scores of a row, of an output of that name.
fn scores_of(outputs: &SessionOutputs<'_>, output: &str, row: usize) -> Result<Vec<f32>, String> {
    let value = outputs.values().next().ok_or_else(|| "it answered nothing".to_owned())?;
    let told = |error: ort::Error| sentence(error.message());
    let Some(shape) = value.dtype().tensor_shape().map(|shape| shape.to_vec()) else {
        return Err("its output is no tensor".to_owned());
    };
    if shape.first() != Some(&1) {
        return Err(format!("it answers one row with {shape:?}: expected a first dimension of 1"));
    }
    use ort::value::TensorElementType as Type;
    match value.dtype().tensor_type() {
        Some(Type::Float32) => Ok(value.try_extract_tensor::<f32>().map_err(told)?.1.to_vec()),
        Some(Type::Float64) => {
            let scores = value.try_extract_tensor::<f64>().map_err(told)?.1;
            Ok(scores.iter().map(|&score| score as f32).collect())
        }
        Some(Type::Int64) => of_integers(value.try_extract_tensor::<i64>().map_err(told)?.1, output, row),
        Some(Type::Int32) => of_integers(value.try_extract_tensor::<i32>().map_err(told)?.1, output, row),
        _ => Err("its output has no numbers that are taken".to_owned()),
    }
}

/// Integers as scores, which they must be exactly: a label or a time that is rounded is another one.
fn of_integers<T: Copy + Into<i64>>(values: &[T], output: &str, row: usize) -> Result<Vec<f32>, String> {
    let convert = |&value: &T| {
        let value: i64 = value.into();
        let score = value as f32;
        // Wider than both, as the cast back saturates.
        let is_exact = score as i128 == i128::from(value);
        is_exact.then_some(score).ok_or_else(|| {
            format!("output `{output}` of row {row} is {value}: expected a number that a 32-bit float holds")
        })
    };
    values.iter().map(convert).collect()
}

impl Scores {
    /// The output that was chosen, or the only one that can have scores.
    fn choose(graph: &Graph<'_>, choice: &OutputChoice) -> Result<Self, String> {
        let outputs = &graph.outputs;
        let outlet = match &choice.name {
            Some(name) => {
                let found = outputs.iter().find(|output| output.name == name);
                found.ok_or_else(|| format!("it has no output `{name}`: it has {}", listed(outputs)))?
            }
            None => {
                let mut floats =
                    outputs.iter().filter(|output| is_float(output) || zipped(graph, output).is_some());
                match (floats.next(), floats.next()) {
                    (Some(outlet), None) => outlet,
                    (None, _) => return Err(format!("no output has scores: it has {}", listed(outputs))),
                    _ => {
                        return Err(format!(
                            "several outputs may have the scores: it has {}\nhint: give `--output NAME`",
                            listed(outputs)
                        ));
                    }
                }
            }
        };
        let zipped = zipped(graph, outlet);
        let is_number = matches!(&outlet.kind, OutletKind::Tensor { element, .. } if !matches!(element, Element::Other(_)));
        if zipped.is_none() && !is_number {
            let expected = "expected a tensor of FLOAT, DOUBLE, INT64 or INT32";
            return Err(format!("its output is {outlet}: {expected}{}", zip_hint(outlet)));
        }
        Ok(Self {
            name: outlet.name.to_owned(),
            tensor: zipped.unwrap_or(outlet.name).to_owned(),
            kind: choice.scores.unwrap_or_else(|| kind_of(graph, outlet)),
        })
    }
}

fn is_float(outlet: &Outlet<'_>) -> bool {
    matches!(outlet.kind, OutletKind::Tensor { element: Element::Float | Element::Double, .. })
}

/// The tensor of probabilities of which `ZipMap` makes a map for each row: what scikit-learn's and LightGBM's exports have
/// unless they are told not to. The tensor is the same numbers, in the order of the classes.
fn zipped<'graph>(graph: &'graph Graph<'_>, outlet: &Outlet<'_>) -> Option<&'graph str> {
    match graph.maker(outlet.name) {
        Some(Node { operator: "ZipMap", inputs, .. }) => inputs.first().copied(),
        _ => None,
    }
}

fn zip_hint(outlet: &Outlet<'_>) -> &'static str {
    match outlet.kind {
        OutletKind::Tensor { .. } => "",
        OutletKind::Other(_) => {
            "\nhint: export a classifier of scikit-learn with `options={'zipmap': False}`"
        }
    }
}

/// What an output has where nobody says it.
fn kind_of(graph: &Graph<'_>, outlet: &Outlet<'_>) -> ScoreKind {
    let columns = match &outlet.kind {
        OutletKind::Tensor { shape: Some(shape), .. } => shape.get(1).copied().flatten(),
        _ => None,
    };
    let is_probability = match graph.maker(outlet.name).map(|node| node.operator) {
        Some("Softmax" | "ZipMap") => true,
        // Of several columns each is a label of its own, which counts as values.
        Some("Sigmoid") => columns == Some(1),
        _ => outlet.name.contains("prob"),
    };
    if is_probability { ScoreKind::Probabilities } else { ScoreKind::Values }
}

fn listed(outlets: &[Outlet<'_>]) -> String {
    const SHOWN: usize = 8;
    let texts: Vec<String> = outlets.iter().take(SHOWN).map(Outlet::to_string).collect();
    match outlets.len() {
        0 => "nothing".to_owned(),
        count if count > SHOWN => format!("{count}: {}, …", texts.join(", ")),
        _ => texts.join(", "),
    }
}

/// The first line of what the runtime says, which goes on with places in its source.
fn sentence(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default().trim().trim_end_matches('.');
    match line.char_indices().nth(SENTENCE_MAX) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line.to_owned(),
    }
}

/// The runtime that evaluates ONNX models here.
pub(super) fn framework() -> Result<Framework, ModelError> {
    // As Triton names the platform of such a model: `onnxruntime_onnx`.
    let version = Library::get()?.version.clone();
    Ok(Framework { name: "onnxruntime", version, file_name: "model.onnx" })
}

#[cfg(test)]
mod tests;
