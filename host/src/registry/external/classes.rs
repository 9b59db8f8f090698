//! Classifiers that would answer other labels than their own, which nobody would see of an answer.

use super::ExternalModel;
use crate::model::{self, Model, ModelError, ScoreKind};

/// The transformer that answers the class of the largest score, and takes probabilities.
const ARGMAX_LABEL: &str = "argmax-label";

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
    let label = external.postprocess.iter().find(|it| it.plugin.manifest().name == ARGMAX_LABEL);
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
    Ok(())
}
