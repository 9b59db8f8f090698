//! Rows that endpoints take, for documents, where nobody has recorded one with its answer: of those made of others, and of
//! bundles with other transformers.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::graph::{Graph, choose};
use super::{Endpoints, Node};
use crate::data;
use crate::domain::{Batch, ColumnSpec, DataType, Signature};
use crate::model::ModelError;
use crate::plugin::Fault;
use crate::registry::{FeatureError, PredictionError, Predictor, Sample};

/// The row of what the parts of a graph are known to take: each column as the first of them has it, and as a switch's first
/// case wants it. None where nothing is known of a column.
pub(super) fn of_graph(graph: &Graph, endpoints: &Endpoints) -> Option<Value> {
    let columns = &graph.signature().inputs;
    let mut known = Map::new();
    gather(graph.node(), columns, endpoints, &mut known);
    columns.iter().map(|spec| Some((spec.name.clone(), known.remove(&spec.name)?))).collect()
}

/// A row with the answer of a bundle whose transformers are others: the first of those that were recorded with it, or else one of
/// zeros. None where it refuses that, or answers with other columns than the bundle.
///
/// An error where it takes other columns than those that were recorded, so that it could answer nobody.
pub(super) async fn of_replaced(
    predictor: &Predictor,
    recorded: Option<Sample>,
) -> Result<Option<(Value, Value)>, PredictionError> {
    let signature = predictor.signature();
    let answered = match recorded {
        Some(recorded) => {
            let row = recorded.inputs.first().and_then(|row| decoded(row, &signature.inputs));
            let Some(row) = row else { return Ok(None) };
            match Sample::record(predictor, &row).await {
                Err(error) if takes_other_columns(&error, predictor) => return Err(error),
                answered => answered.ok().flatten(),
            }
        }
        None => Sample::of_zeros(predictor).await,
    };
    let first = answered.and_then(Sample::into_first);
    Ok(first.filter(|(_, answer)| decoded(answer, &signature.outputs).is_some()))
}

/// Whether no row could be answered, whatever it holds: where a transformer misses a column that nobody before it has.
fn takes_other_columns(error: &PredictionError, predictor: &Predictor) -> bool {
    let Signature { inputs, features, outputs } = predictor.signature();
    match error {
        PredictionError::Input(_) | PredictionError::Columns(_) => true,
        PredictionError::Features(error) | PredictionError::Transformed(error) => {
            !matches!(error, FeatureError::NotWhole { .. })
        }
        PredictionError::Plugin(error) => misses_column(&error.fault, &[inputs, features]),
        PredictionError::Postprocess(error) => misses_column(&error.fault, &[&[predictor.scores()], outputs]),
        PredictionError::Model(error) => {
            !matches!(error, ModelError::OnnxRun { .. } | ModelError::Device { .. })
        }
    }
}

/// Whether a transformer misses a column that is not among those it could get; what a row holds may be refused in another only.
fn misses_column(fault: &Fault, known: &[&[ColumnSpec]]) -> bool {
    let Fault::InvalidInput { row: None, column: Some(column), .. } = fault else { return false };
    !known.iter().flat_map(|specs| specs.iter()).any(|known| known.name == *column)
}

/// A row of these columns.
fn decoded(row: &Value, specs: &[ColumnSpec]) -> Option<Batch> {
    Some(data::decode_rows(row.to_string().as_bytes(), specs, 1).ok()?.0)
}

/// Adds what a node is known to take.
fn gather(node: &Node, columns: &[ColumnSpec], endpoints: &Endpoints, known: &mut Map<String, Value>) {
    match node {
        Node::Endpoint(name) => {
            for (column, value) in row_of(name.as_str(), endpoints).unwrap_or_default() {
                known.entry(column).or_insert(value);
            }
        }
        _ => node.parts().into_iter().for_each(|part| gather(part, columns, endpoints, known)),
    }
    let Node::Switch { column, cases, otherwise } = node else { return };
    // A column that is not among the request's is made by an earlier part.
    let Some(spec) = columns.iter().find(|spec| spec.name == *column) else { return };
    match first_case(spec, cases) {
        Some(value) => {
            known.insert(column.clone(), value);
        }
        None if otherwise.is_none() => drop(known.remove(column)),
        None => {}
    }
}

/// A row that an endpoint with a model takes.
fn row_of(endpoint: &str, endpoints: &Endpoints) -> Option<Map<String, Value>> {
    let routing = endpoints.get(endpoint)?.routing();
    let (row, _) = routing.main()?.example()?;
    row.as_object().cloned()
}

/// The element of a switch's column by which a row gets to the first case that the column's type can hold.
fn first_case(spec: &ColumnSpec, cases: &BTreeMap<String, Node>) -> Option<Value> {
    let element = |case: &String| match spec.dtype {
        DataType::Bytes => Some(Value::from(case.as_str())),
        _ => serde_json::from_str(case).ok(),
    };
    let nested = |element| spec.shape.iter().fold(element, |inner: Value, _| json!([inner]));
    cases.keys().filter_map(element).map(nested).find(|value| is_chosen(spec, cases, value))
}

/// Whether a row with this value gets to one of the cases.
fn is_chosen(spec: &ColumnSpec, cases: &BTreeMap<String, Node>, value: &Value) -> bool {
    let row = Map::from_iter([(spec.name.clone(), value.clone())]);
    let row = decoded(&Value::Object(row), std::slice::from_ref(spec));
    row.is_some_and(|row| choose(&spec.name, cases, None, &row).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Tensor;
    use crate::registry::assemble;
    use crate::serve::Work;
    use crate::serve::deployment::tests::deployment;

    #[test]
    fn values_that_are_refused_are_no_missing_column() {
        let spec = |name: &str| {
            let (name, dtype) = (name.to_owned(), DataType::Int64);
            ColumnSpec { name, dtype, shape: Vec::new(), nullable: false, element_names: Vec::new() }
        };
        let (inputs, features) = ([spec("a")], [spec("b")]);
        let refused = |row, column: Option<&str>| {
            let (message, column) = ("expected a pixel".to_owned(), column.map(str::to_owned));
            misses_column(&Fault::InvalidInput { message, row, column }, &[&inputs, &features])
        };
        assert!(refused(None, Some("image")), "nobody makes it");
        assert!(!refused(None, Some("a")) && !refused(None, Some("b")), "it is there, and of another kind");
        assert!(!refused(Some(0), Some("a")) && !refused(Some(0), Some("image")), "another row may be taken");
        assert!(!refused(None, None) && !refused(Some(0), None));
        assert!(!misses_column(&Fault::NotFitted, &[]));
    }

    #[test]
    fn a_number_that_the_model_cannot_hold_is_no_other_column() {
        let (_, deployment) = deployment(1, 1);
        let Work::Bundle(predictor) = &deployment.engine().work else { panic!("no bundle") };
        let of = |column: Tensor, dtype| {
            let batch = Batch::new(vec![column]).unwrap();
            let error = assemble(&batch, &ColumnSpec::of_batch(&batch), dtype).unwrap_err();
            takes_other_columns(&error.into(), predictor)
        };
        assert!(!of(Tensor::from_f32("x", vec![1], &[0.5]).unwrap(), DataType::Int64));
        assert!(of(Tensor::from_strings("x", [&b"a"[..]]).unwrap(), DataType::Int64));
    }
}
