//! Computes a prediction that was served once more, and compares.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::{Answering, OfRows, answer, take_columns};
use super::recorder::is_prediction_id;
use super::{ApiError, Node};
use crate::data::{AnsweredBy, DataError, GraphRecord, PredictionRecord, find_prediction};
use crate::domain::{Batch, Digest, Name};
use crate::plugin::{PluginRuntime, block_on};
use crate::registry::{PredictionError, Predictor, RegistryError, read_bundle};
use crate::store::Store;

/// A prediction and what comes of the same rows now.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    /// What was recorded.
    pub record: PredictionRecord,
    /// The answer of the same bundles now.
    pub outputs: Batch,
}

/// A prediction that cannot be computed again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It was not recorded, or too long ago.
    #[error(
        "prediction `{id}` is not recorded here: they are written once a second, only the newest are kept, and of very many at \
         once only some, see `host serve --help`"
    )]
    Unknown {
        /// Its id.
        id: String,
    },
    /// Text that no prediction is called.
    #[error(
        "`{text}` is no prediction's id: expected 32 hexadecimal digits, as `x-prediction-id` of an answer has them"
    )]
    NoId {
        /// The text.
        text: String,
    },
    /// Others answered than the bundle's transformers.
    #[error("prediction `{id}` was answered by other transformers than the bundle's (`host serve --plugin`)")]
    Replaced {
        /// Its id.
        id: String,
    },
    /// The record does not say how the answer came about.
    #[error("the record of prediction `{id}` is damaged: {reason}")]
    Record {
        /// Its id.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// The records cannot be read.
    #[error("{0}")]
    Data(#[from] DataError),
    /// The bundle is gone or cannot be loaded.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// The rows cannot be answered.
    #[error("the rows cannot be answered any more: {0}")]
    Prediction(#[from] PredictionError),
    /// The rows cannot be sent through the graph, or the answers of its endpoints not be put together.
    #[error("the rows cannot be answered any more: {0}")]
    Graph(String),
}

impl From<ApiError> for ReplayError {
    fn from(error: ApiError) -> Self {
        Self::Graph(error.message().to_owned())
    }
}

/// Has the bundles that answered the prediction `id` answer the same rows again.
pub fn replay(store: &Store, runtime: &PluginRuntime, id: &str) -> Result<Replay, ReplayError> {
    if !is_prediction_id(id) {
        return Err(ReplayError::NoId { text: id.chars().take(80).collect() });
    }
    let unknown = || ReplayError::Unknown { id: id.to_owned() };
    let record = find_prediction(store, id)?.ok_or_else(unknown)?;
    if record.answered_by.bundles().any(|answered| !answered.is_of_bundle) {
        return Err(ReplayError::Replaced { id: record.id });
    }
    let load = |bundle| Predictor::load(store, runtime, &read_bundle(store, bundle)?);
    let outputs = match &record.answered_by {
        AnsweredBy::Bundle(answered) => block_on(load(answered.bundle)?.predict(&record.inputs))?.outputs,
        AnsweredBy::Graph(graph) => {
            let damaged = |reason| ReplayError::Record { id: record.id.clone(), reason };
            let (node, bundles) = parts_of(graph).map_err(damaged)?;
            let distinct: BTreeSet<Digest> = bundles.values().copied().collect();
            let loaded = distinct.into_iter().map(|bundle| Ok((bundle, load(bundle)?)));
            let predictors = loaded.collect::<Result<_, RegistryError>>()?;
            let recorded = Recorded { id: &record.id, bundles, predictors };
            block_on(answer(&recorded, &node, 0, &record.inputs))?
        }
    };
    Ok(Replay { record, outputs })
}

/// The graph of a record, and the bundles that answered at its places; otherwise what is wrong with it.
fn parts_of(record: &GraphRecord) -> Result<(Node, BTreeMap<usize, Digest>), String> {
    let node = Node::of_form(&record.graph)?;
    let endpoints = node.endpoints();
    let mut bundles = BTreeMap::new();
    for part in &record.parts {
        if endpoints.get(part.place) != Some(&&part.endpoint) {
            return Err(format!("its graph has no endpoint `{}` at place {}", part.endpoint, part.place));
        }
        if bundles.insert(part.place, part.answered_by.bundle).is_some() {
            return Err(format!("endpoint `{}` at place {} has answered twice", part.endpoint, part.place));
        }
    }
    Ok((node, bundles))
}

/// The bundles that answered for the endpoints of a graph.
struct Recorded<'a> {
    /// The prediction.
    id: &'a str,
    /// By the places of the endpoints.
    bundles: BTreeMap<usize, Digest>,
    /// Each bundle once, wherever it has answered.
    predictors: BTreeMap<Digest, Predictor>,
}

impl Answering for Recorded<'_> {
    type Error = ReplayError;

    async fn ask(&self, place: usize, endpoint: &Name, inputs: &Batch) -> Result<Batch, ReplayError> {
        let predictor = self.bundles.get(&place).and_then(|bundle| self.predictors.get(bundle));
        let predictor = predictor.ok_or_else(|| ReplayError::Record {
            id: self.id.to_owned(),
            reason: format!("nobody has answered for endpoint `{endpoint}` at place {place}"),
        })?;
        let inputs = take_columns(&predictor.signature().inputs, inputs)?;
        Ok(predictor.predict(&inputs).await?.outputs)
    }
}

impl OfRows for ReplayError {
    /// What was answered once is refused at no row.
    fn of_rows(self, _: &[usize]) -> Self {
        self
    }

    fn of_known(self, _: &Batch, _: &Batch) -> Self {
        self
    }
}

impl Replay {
    /// Whether every bit of the answer is what it was.
    pub fn is_identical(&self) -> bool {
        let (then, now) = (self.record.outputs.tensors(), self.outputs.tensors());
        // Compared by their bytes: NaN is equal to nothing, and zero to minus zero.
        then.len() == now.len()
            && then.iter().zip(now).all(|(then, now)| {
                (then.name(), then.dtype(), then.shape(), then.data())
                    == (now.name(), now.dtype(), now.shape(), now.data())
            })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::data::{BundleRecord, PartRecord};

    fn record(graph: Value, parts: &[(usize, &str, &str)]) -> GraphRecord {
        let part = |(place, endpoint, bundle): &(usize, &str, &str)| PartRecord {
            place: *place,
            endpoint: endpoint.parse().unwrap(),
            answered_by: BundleRecord {
                version: None,
                bundle: Digest::of(bundle.as_bytes()),
                is_of_bundle: true,
            },
        };
        GraphRecord { graph: Arc::new(graph), parts: parts.iter().map(part).collect() }
    }

    #[test]
    fn a_record_says_who_answered_at_each_place() {
        let graph = json!({ "ensemble": ["a", { "switch": { "column": "c", "cases": { "x": "b" }, "default": "a" } }] });
        let (node, bundles) = parts_of(&record(graph, &[(2, "a", "old"), (0, "a", "new")])).unwrap();
        assert_eq!(node.endpoints().len(), 3);
        assert_eq!(bundles, BTreeMap::from([(0, Digest::of(b"new")), (2, Digest::of(b"old"))]));
    }

    #[test]
    fn a_record_that_does_not_fit_its_graph_is_damaged() {
        let damage =
            |graph: Value, parts: &[(usize, &str, &str)]| parts_of(&record(graph, parts)).unwrap_err();
        let graph = json!({ "sequence": ["a", "b"] });
        assert_eq!(damage(graph.clone(), &[(1, "a", "")]), "its graph has no endpoint `a` at place 1");
        assert_eq!(
            damage(graph.clone(), &[(usize::MAX, "a", "")]),
            "its graph has no endpoint `a` at place 18446744073709551615"
        );
        assert_eq!(
            damage(graph, &[(0, "a", "1"), (0, "a", "2")]),
            "endpoint `a` at place 0 has answered twice"
        );
        assert_eq!(damage(json!({ "sequence": [] }), &[]), "it has no endpoints");
        assert_eq!(damage(json!({}), &[]), "expected one of `sequence`, `switch` and `ensemble`");
    }

    #[test]
    fn who_is_not_recorded_cannot_be_asked() {
        let recorded = Recorded { id: "7", bundles: BTreeMap::new(), predictors: BTreeMap::new() };
        let node = Node::Sequence(vec![Node::Endpoint("a".parse().unwrap())]);
        let refused = block_on(answer(&recorded, &node, 0, &Batch::default())).unwrap_err();
        let told = "the record of prediction `7` is damaged: nobody has answered for endpoint `a` at place 0";
        assert_eq!(refused.to_string(), told);
    }
}
