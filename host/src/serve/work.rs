use super::graph::{Graph, Part};
use super::{ApiError, BatchPolicy, StageTimes};
use crate::domain::{Batch, Signature};
use crate::model::ModelError;
use crate::plugin::Transformer;
use crate::registry::{Prediction, PredictionError, Predictor, TransformerCall};

/// What computes the answers of a deployment.
pub enum Work {
    /// A bundle: transformers and a model.
    Bundle(Predictor),
    /// Other endpoints.
    Graph(Graph),
}

/// A batch that could not be computed.
#[derive(Debug)]
pub(super) enum WorkError {
    /// By a bundle.
    Prediction(PredictionError),
    /// By a graph: one of its endpoints could not.
    Graph(ApiError),
}

impl WorkError {
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Prediction(PredictionError::Model(ModelError::Busy)))
    }
}

impl From<WorkError> for ApiError {
    fn from(error: WorkError) -> Self {
        match error {
            WorkError::Prediction(error) => error.into(),
            WorkError::Graph(error) => error,
        }
    }
}

/// What came of a batch.
pub(super) struct Worked {
    pub(super) outputs: Batch,
    /// What the model saw and what it said; none of a graph.
    pub(super) seen: Option<(Batch, Batch)>,
    pub(super) times: StageTimes,
    /// What calling the transformers took.
    pub(super) calls: Vec<TransformerCall>,
    /// Who answered for a graph.
    pub(super) parts: Vec<Part>,
}

impl Work {
    /// What it takes and answers.
    pub(super) fn signature(&self) -> &Signature {
        match self {
            Self::Bundle(predictor) => predictor.signature(),
            Self::Graph(graph) => graph.signature(),
        }
    }

    /// Scores that are made of a row.
    pub(super) fn score_count(&self) -> usize {
        match self {
            Self::Bundle(predictor) => predictor.score_count(),
            Self::Graph(graph) => {
                let elements = |shape: &Vec<usize>| shape.iter().product::<usize>();
                graph.signature().outputs.iter().map(|spec| elements(&spec.shape)).sum()
            }
        }
    }

    /// Whether cores share so many rows. What a graph asks shares them itself.
    pub(super) fn shares_cores(&self, rows: usize) -> bool {
        matches!(self, Self::Bundle(predictor) if predictor.shares_cores(rows))
    }

    /// Whether what a row takes cannot be told by those before it.
    pub(super) fn cost_varies(&self) -> bool {
        matches!(self, Self::Bundle(predictor) if predictor.cost_varies())
    }

    /// Whether requests may be computed together here. What a graph asks puts them together itself.
    pub(super) fn may_batch(&self, policy: BatchPolicy) -> bool {
        let Self::Bundle(predictor) = self else { return false };
        let is_said = policy != BatchPolicy::Auto;
        // Nobody who wants a fresh instance for every call wants others' rows in it, and what rounds may round otherwise in a batch.
        predictor.rows_independent()
            // All would wait for the row that takes long, and be late with it.
            && !predictor.cost_varies()
            && (is_said || (predictor.keeps_instances() && !predictor.may_round()))
    }

    /// The transformers before and after the model.
    pub(super) fn transformers(&self) -> (&[Transformer], &[Transformer]) {
        match self {
            Self::Bundle(predictor) => predictor.transformers(),
            Self::Graph(_) => (&[], &[]),
        }
    }

    /// Computes a batch whose columns are the signature's; what a graph asks waits until `deadline`, and a model that could take for
    /// ever is ended then. Where it is to be done `at_once` a model that has to wait is [`ModelError::Busy`].
    pub(super) async fn compute(
        &self,
        inputs: &Batch,
        deadline: Option<tokio::time::Instant>,
        at_once: bool,
    ) -> Result<Worked, WorkError> {
        match self {
            Self::Bundle(predictor) => {
                let predicted = match at_once {
                    true => predictor.predict_at_once(inputs).await,
                    false => {
                        let deadline = deadline.map(tokio::time::Instant::into_std);
                        predictor.predict_until(inputs, deadline).await
                    }
                };
                let prediction = predicted.map_err(WorkError::Prediction)?;
                let times = times_of(&prediction, predictor.transformers().0.len());
                let Prediction { features, scores, outputs, calls, .. } = prediction;
                Ok(Worked { outputs, seen: Some((features, scores)), times, calls, parts: Vec::new() })
            }
            Self::Graph(graph) => {
                let started = std::time::Instant::now();
                let (outputs, parts) = graph.answer(inputs, deadline).await.map_err(WorkError::Graph)?;
                let times = StageTimes { model: started.elapsed(), ..StageTimes::default() };
                Ok(Worked { outputs, seen: None, times, calls: Vec::new(), parts })
            }
        }
    }
}

/// The times of a prediction, of whose calls the first `before` are of transformers before the model.
fn times_of(prediction: &Prediction, before: usize) -> StageTimes {
    let sum = |calls: &[TransformerCall]| calls.iter().map(|call| call.took).sum();
    let (preprocess, postprocess) = prediction.calls.split_at(before.min(prediction.calls.len()));
    StageTimes {
        preprocess: sum(preprocess),
        model: prediction.model_time,
        postprocess: sum(postprocess),
        ..StageTimes::default()
    }
}
