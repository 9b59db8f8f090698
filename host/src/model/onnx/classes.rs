//! What an ONNX classifier is: whether its scores are what they are taken for, and which labels they are of. A file tells
//! little of both, so the model is asked about made-up rows too.

use ort::session::SessionOutputs;
use ort::value::TensorElementType;

use super::graph::{Element, Graph, List, Node, Outlet, OutletKind};
use super::sessions::Sessions;
use super::{Input, OnnxModel, ScoreKind, sentence, zipped};
use crate::model::{Model, ModelError};

/// How far probabilities may be from what they should be: those of many classes, or of half precision, are rounded.
const TOLERANCE: f32 = 1e-3;

/// How much larger a score must be than the others to be the largest for certain.
const MARGIN: f32 = 1e-6;

/// Sizes of made-up features, as those that a model was trained on may have any.
const SCALES: [f32; 5] = [0.1, 1.0, 10.0, 1e3, 1e6];

/// Operators that are looked through at most.
const STEPS_MAX: usize = 32;

/// Scores that are shown of a row.
const SHOWN: usize = 8;

/// Labels by which it can be told what most of them are.
const COMPARED_MIN: usize = 3;

/// What a file and made-up rows tell of a model that may be a classifier.
#[derive(Debug, Clone, PartialEq)]
pub struct Classifier {
    /// The labels of its classes.
    pub labels: ClassLabels,
    /// Its scores of a made-up row, if they are not all from 0 to 1.
    pub beyond: Option<String>,
    /// The output with labels of the file's own, if they are mostly not those of the largest scores.
    pub contradiction: Option<String>,
}

/// Labels of classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClassLabels {
    /// 0, 1, 2 and so on, or texts, or nobody knows.
    Places,
    /// Other integers, in the order of the scores.
    Integers(Vec<i64>),
    /// Other integers, of which only this one is known.
    Unlisted(i64),
}

/// Looks at an ONNX model that was loaded from these bytes; none if it is no ONNX model.
pub fn examine(bytes: &[u8], model: &dyn Model) -> Result<Option<Classifier>, ModelError> {
    let Some(choice) = model.output_choice() else { return Ok(None) };
    let unusable = |reason| ModelError::Onnx { reason };
    let graph = Graph::of_file(bytes).map_err(unusable)?;
    let scored = scored_rows(model);
    let beyond = scored.iter().find(|(_, scores)| !are_from_zero_to_one(scores));
    let beyond = beyond.map(|(_, scores)| listed(scores));
    let outlet = graph.outputs.iter().find(|outlet| Some(outlet.name) == choice.name.as_deref());
    let Some(outlet) = outlet else { return Ok(None) };
    let own = label_output(&graph, outlet);
    let classes = model.score_count().max(2);
    let named = class_labels(&graph, outlet, own).map_err(unusable)?.filter(|list| list.len() == classes);
    let answers = match own {
        Some(own) => {
            let sessions = Sessions::new(bytes.to_vec(), own.name.to_owned(), !graph.is_of_fixed_cost());
            own_labels(&sessions, &Input::of(&graph).map_err(unusable)?, &scored)
        }
        None => Vec::new(),
    };
    let labels = ClassLabels::of(named.as_ref(), &answers, classes);
    let contradicts = is_contradicted(named.as_ref(), &labels, &answers);
    let contradiction = own.filter(|_| contradicts).map(|own| own.name.to_owned());
    Ok(Some(Classifier { labels, beyond, contradiction }))
}

impl ClassLabels {
    /// Of the labels in the file; where there are none, of those that the model answers.
    fn of(named: Option<&List>, answers: &[(usize, String)], classes: usize) -> Self {
        match named {
            Some(List::Integers(labels)) if !labels.iter().copied().eq(0..classes as i64) => {
                Self::Integers(labels.clone())
            }
            Some(_) => Self::Places,
            None => {
                let mut numbers = answers.iter().filter_map(|(_, label)| label.parse().ok());
                let other = numbers.find(|label| !(0..classes as i64).contains(label));
                other.map_or(Self::Places, Self::Unlisted)
            }
        }
    }
}

/// Whether the model itself answers mostly other labels than those of the largest scores. Some may differ: of an SVC with
/// probabilities the label is by votes, and of several that are as good the first need not be it.
fn is_contradicted(named: Option<&List>, labels: &ClassLabels, answers: &[(usize, String)]) -> bool {
    let name_of = |class: usize| match named {
        Some(List::Integers(labels)) => labels.get(class).map(i64::to_string),
        Some(List::Texts(labels)) => labels.get(class).cloned(),
        None => Some(class.to_string()).filter(|_| *labels == ClassLabels::Places),
    };
    // Texts of which no list is in the file tell nothing.
    let is_known = |label: &str| named.is_some() || label.parse::<i64>().is_ok();
    let compared = answers.iter().filter(|(_, label)| is_known(label));
    let same: Vec<bool> = compared.filter_map(|(class, label)| Some(name_of(*class)? == *label)).collect();
    same.len() >= COMPARED_MIN && 2 * same.iter().filter(|&&is_same| !is_same).count() > same.len()
}

impl OnnxModel {
    /// Looks whether scores are probabilities that are taken for that because of their name or of what makes them. Those of
    /// a softmax over something else than the classes are values; of all else somebody must say what it is.
    pub(super) fn confirm_probabilities(&mut self, graph: &Graph<'_>) -> Result<(), String> {
        let Some(outlet) = graph.outputs.iter().find(|outlet| outlet.name == self.output) else {
            return Ok(());
        };
        let is_wrong =
            |scores: &Vec<f32>| !are_from_zero_to_one(scores) || (scores.len() > 1 && !add_up_to_one(scores));
        let wrong = scored_rows(self).into_iter().map(|(_, scores)| scores).find(is_wrong);
        let found = match wrong {
            Some(_)
                if matches!(graph.maker(outlet.name), Some(Node { operator: "Softmax" | "Sigmoid", .. })) =>
            {
                self.scores = ScoreKind::Values;
                return Ok(());
            }
            Some(scores) if are_from_zero_to_one(&scores) => {
                return Err(format!(
                    "its output `{}` is taken for probabilities by its name or what makes it, and has {} for a made-up row, which \
                     don't add up to 1\nhint: give `--scores probabilities` to `host model import` if a row is of one class, or \
                     `--scores values` if it can be of several",
                    self.output,
                    listed(&scores)
                ));
            }
            Some(scores) => format!("has {} for a made-up row", listed(&scores)),
            None if is_linear(graph, outlet)? => {
                "is of a `LinearClassifier` without `post_transform`".to_owned()
            }
            None => return Ok(()),
        };
        Err(format!(
            "its output `{}` is taken for probabilities by its name or what makes it, and {found}: expected numbers from 0 to 1 \
             that add up to 1\nhint: give `--scores logits` to `host model import` for decision scores, of which a softmax, or \
             of one in a row a sigmoid, makes probabilities, or `--scores values` for numbers as they are",
            self.output
        ))
    }
}

/// Made-up rows with their scores, as far as the model answers them with numbers, and each answer once.
fn scored_rows(model: &dyn Model) -> Vec<(Vec<f32>, Vec<f32>)> {
    let mut scored: Vec<(Vec<f32>, Vec<f32>)> = Vec::new();
    for row in made_up_rows(model.feature_count(), !model.feature_type().is_float()) {
        let Ok(scores) = model.score(&row) else { continue };
        let is_new = scored.iter().all(|(_, known)| *known != scores);
        if is_new && scores.iter().all(|score| score.is_finite()) {
            scored.push((row, scores));
        }
    }
    scored
}

/// A row of zeros, and rows unlike each other of numbers of several sizes and both signs.
fn made_up_rows(columns: usize, are_whole: bool) -> impl Iterator<Item = Vec<f32>> {
    let scales = SCALES.iter().flat_map(|&scale| [scale, -scale]);
    std::iter::once(0.0).chain(scales).map(move |scale| {
        let feature = |column: usize| {
            let feature = ((7 * column + 8) % 11) as f32 / 5.0 - 1.0;
            let feature = feature * scale;
            if are_whole { feature.round() } else { feature }
        };
        (0..columns).map(feature).collect()
    })
}

fn are_from_zero_to_one(scores: &[f32]) -> bool {
    scores.iter().all(|score| (-TOLERANCE..=1.0 + TOLERANCE).contains(score))
}

fn add_up_to_one(scores: &[f32]) -> bool {
    let sum: f64 = scores.iter().copied().map(f64::from).sum();
    (sum - 1.0).abs() <= TOLERANCE.into()
}

/// The class of the largest score, or that one score says; none where it is too close.
fn class_of(scores: &[f32]) -> Option<usize> {
    if let [score] = scores {
        return ((score - 0.5).abs() > MARGIN).then_some(usize::from(*score > 0.5));
    }
    let (class, best) = scores.iter().enumerate().max_by(|one, other| one.1.total_cmp(other.1))?;
    let near = scores.iter().filter(|&score| best - score <= MARGIN).count();
    (near == 1).then_some(class)
}

fn listed(scores: &[f32]) -> String {
    let mut shown: Vec<String> = scores.iter().take(SHOWN).map(f32::to_string).collect();
    if scores.len() > SHOWN {
        shown.push("…".to_owned());
    }
    format!("[{}]", shown.join(", "))
}

/// The only output besides the scores that has labels, by its name or by what makes it.
fn label_output<'graph>(graph: &'graph Graph<'graph>, scores: &Outlet<'_>) -> Option<&'graph Outlet<'graph>> {
    let is_label = |outlet: &&Outlet<'_>| {
        use Element::{Int32, Int64, Other};
        let OutletKind::Tensor { element, .. } = outlet.kind else { return false };
        let is_made_of_scores = |operator: &str| operator.ends_with("Classifier") || operator == "ArgMax";
        let is_told = outlet.name.contains("label")
            || origin(graph, outlet.name).0.is_some_and(|node| is_made_of_scores(node.operator));
        outlet.name != scores.name && matches!(element, Int32 | Int64 | Other(8)) && is_told
    };
    let mut labels = graph.outputs.iter().filter(is_label);
    labels.next().filter(|_| labels.next().is_none())
}

/// The class of the largest score of each row, and the label that the model itself answers.
fn own_labels(sessions: &Sessions, input: &Input, scored: &[(Vec<f32>, Vec<f32>)]) -> Vec<(usize, String)> {
    let ask = |(row, scores): &(Vec<f32>, Vec<f32>)| {
        let class = class_of(scores)?;
        let label = sessions.with(None, |runner| input.ask_floats(runner, row, 0, label_of)).ok()?;
        Some((class, label))
    };
    scored.iter().filter_map(ask).collect()
}

fn label_of(outputs: &SessionOutputs<'_>) -> Result<String, String> {
    fn only<T: ToString>(labels: &[T]) -> Result<String, String> {
        match labels {
            [label] => Ok(label.to_string()),
            _ => Err(format!("it answers one row with {} labels", labels.len())),
        }
    }
    let told = |error: ort::Error| sentence(error.message());
    let value = outputs.values().next().ok_or_else(|| "it answered nothing".to_owned())?;
    match value.dtype().tensor_type() {
        Some(TensorElementType::Int64) => only(value.try_extract_tensor::<i64>().map_err(told)?.1),
        Some(TensorElementType::Int32) => only(value.try_extract_tensor::<i32>().map_err(told)?.1),
        Some(TensorElementType::String) => only(&value.try_extract_strings().map_err(told)?.1),
        _ => Err("its labels are neither integers nor texts".to_owned()),
    }
}

/// The labels of the classes as the file has them: of the map, else of what makes the label, as a classifier within
/// another may number its classes, else of what makes the scores.
fn class_labels(
    graph: &Graph<'_>,
    scores: &Outlet<'_>,
    own: Option<&Outlet<'_>>,
) -> Result<Option<List>, String> {
    let places = [zipped(graph, scores).map(|_| scores.name), own.map(|own| own.name), Some(scores.name)];
    for tensor in places.into_iter().flatten() {
        let found = match origin(graph, tensor) {
            (Some(node), _) => labels_of(node)?,
            (None, tensor) => graph.list(tensor)?,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn labels_of(node: &Node<'_>) -> Result<Option<List>, String> {
    for name in ["classlabels_int64s", "classlabels_ints", "classlabels_strings"] {
        if let Some(list) = node.list(name)? {
            return Ok(Some(list));
        }
    }
    Ok(None)
}

/// Whether scores are the sums of a linear model as they are, which can be from 0 to 1 for every made-up row.
fn is_linear(graph: &Graph<'_>, outlet: &Outlet<'_>) -> Result<bool, String> {
    match origin(graph, zipped(graph, outlet).unwrap_or(outlet.name)) {
        (Some(node), _) if node.operator == "LinearClassifier" => {
            Ok(matches!(node.text("post_transform")?, None | Some("NONE")))
        }
        _ => Ok(false),
    }
}

/// What makes a tensor, looking through operators that only give it another type or shape, or choose from it; without a
/// node the tensor that is there from the beginning.
fn origin<'graph>(
    graph: &'graph Graph<'_>,
    mut tensor: &'graph str,
) -> (Option<&'graph Node<'graph>>, &'graph str) {
    for _ in 0..STEPS_MAX {
        let Some(node) = graph.maker(tensor) else { return (None, tensor) };
        let through = ["ArrayFeatureExtractor", "Cast", "Flatten", "Identity", "Reshape", "Squeeze"];
        match node.inputs.first() {
            Some(input) if through.contains(&node.operator) => tensor = input,
            _ => return (Some(node), tensor),
        }
    }
    (None, tensor)
}

#[cfg(test)]
mod tests;
