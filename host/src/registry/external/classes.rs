//! Classifiers that would answer other labels than their own, which nobody would see of an answer.

use super::ExternalModel;
use crate::model::{self, ClassLabels, Model, ModelError, ScoreKind};

/// The transformer that answers the class of the largest score, and takes probabilities.
const ARGMAX_LABEL: &str = "argmax-label";

/// Labels that are told of a model.
const LABELS_TOLD: usize = 100;

/// A classifier whose labels would be wrong.
#[derive(Debug, thiserror::Error)]
pub enum ClassesError {
    /// The file cannot be asked.
    #[error("{0}")]
    Model(#[from] ModelError),
    /// Scores are not what they are said to be.
    #[error(
        "the model's scores are said to be probabilities, and are {found} for a made-up row: expected numbers from 0 to 1\n\
             hint: give `--scores logits` for decision scores, of which a softmax, or of one in a row a sigmoid, makes \
             probabilities"
    )]
    NoProbabilities {
        /// Scores of the row.
        found: String,
    },
    /// Values where a label is made of probabilities.
    #[error(
        "transformer `{ARGMAX_LABEL}` takes probabilities, and the model's scores are {found} for a made-up row\nhint: give \
             `--scores logits` for scores of which a softmax, or of one in a row a sigmoid, makes probabilities"
    )]
    Values {
        /// Scores of the row.
        found: String,
    },
    /// The model has labels that are not places.
    #[error(
        "transformer `{ARGMAX_LABEL}` would answer places from 0, and the model's classes are {found}\nhint: give \
             `--config '{ARGMAX_LABEL}={{\"labels\": {labels}}}'`"
    )]
    Labels {
        /// The labels, or one of them.
        found: String,
        /// The labels for the config, as JSON.
        labels: String,
    },
    /// The model itself answers other labels.
    #[error(
        "the model's own labels, in output `{output}`, are mostly not those of its largest scores in made-up rows\nhint: \
             export it with probabilities, as an SVC of scikit-learn that was trained with `probability=True`, or give \
             `--output {output}` for its labels alone"
    )]
    Contradiction {
        /// The output with the labels.
        output: String,
    },
}

/// Refuses a classifier whose labels would be wrong.
pub(super) fn check(external: &ExternalModel, model: &dyn Model) -> Result<(), ClassesError> {
    let Some(kind) = model.output_choice().and_then(|choice| choice.scores) else { return Ok(()) };
    // Others before it may make something else of the scores.
    let label = external.postprocess.first().filter(|first| {
        let column = first.config.get("column").and_then(serde_json::Value::as_str);
        first.plugin.manifest().name == ARGMAX_LABEL
            && column.is_none_or(|column| column == model.scores().name)
    });
    if kind == ScoreKind::Values && label.is_none() {
        return Ok(());
    }
    let Some(found) = model::examine(&external.file, model)? else { return Ok(()) };
    match (found.beyond, kind) {
        (Some(found), ScoreKind::Probabilities) => return Err(ClassesError::NoProbabilities { found }),
        (Some(found), _) => return Err(ClassesError::Values { found }),
        (None, _) => {}
    }
    if let Some(output) = found.contradiction.filter(|_| kind == ScoreKind::Logits || label.is_some()) {
        return Err(ClassesError::Contradiction { output });
    }
    let has_labels =
        |config: &serde_json::Value| config.get("labels").is_some_and(|labels| !labels.is_null());
    match (label, found.labels) {
        (Some(label), ClassLabels::Integers(labels)) if !has_labels(&label.config) => {
            Err(of_integers(&labels))
        }
        (Some(label), ClassLabels::Unlisted(other)) if !has_labels(&label.config) => {
            Err(ClassesError::Labels {
                found: format!("others, such as {other}"), labels: "[…]".to_owned()
            })
        }
        _ => Ok(()),
    }
}

fn of_integers(labels: &[i64]) -> ClassesError {
    let mut texts: Vec<String> = labels.iter().take(LABELS_TOLD).map(i64::to_string).collect();
    if labels.len() > LABELS_TOLD {
        texts.push("…".to_owned());
    }
    let labels = texts.join(", ");
    ClassesError::Labels { found: labels.clone(), labels: format!("[{labels}]") }
}
