//! A row that an endpoint made of others takes, for documents.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::graph::{Graph, choose};
use super::{Endpoints, Node};
use crate::data;
use crate::domain::{ColumnSpec, DataType};

/// The row of what the parts of a graph are known to take: each column as the first of them has it, and as a switch's first
/// case wants it. None where nothing is known of a column.
pub(super) fn of_graph(graph: &Graph, endpoints: &Endpoints) -> Option<Value> {
    let columns = &graph.signature().inputs;
    let mut known = Map::new();
    gather(graph.node(), columns, endpoints, &mut known);
    columns.iter().map(|spec| Some((spec.name.clone(), known.remove(&spec.name)?))).collect()
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
    let (row, _) = routing.routes().first()?.deployment.example()?;
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
    let text = Value::Object(row).to_string();
    let decoded = data::decode_rows(text.as_bytes(), std::slice::from_ref(spec), 1);
    decoded.is_ok_and(|(row, _)| choose(&spec.name, cases, None, &row).is_ok())
}
