//! Endpoints made of endpoints: one after the other, one of several, or several together.

mod batches;
mod ensemble;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::sync::Mutex as TurnMutex;
use tokio::time::Instant;

pub(super) use self::walk::{Answering, OfRows, answer, choose, take_columns};
use super::{ApiError, Deployment, Endpoint, Endpoints, ErrorCode, Routing, StageTimes};
use crate::data::{GraphRecord, PartRecord};
use crate::domain::{Batch, ColumnSpec, DataType, Digest, Name, Signature, elements_in_order};

/// Deepest nesting of a graph.
const DEPTH_MAX: usize = 8;

/// Nodes of a graph.
const NODES_MAX: usize = 64;

/// About what the record of a prediction has for each endpoint that was asked: two names, a version's number and a digest.
const PART_RECORD_BYTES: usize = 300;

/// A part of a graph.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// An endpoint that answers.
    Endpoint(Name),
    /// One after the other: each gets the columns of the request and of those before it, and the last one's answer is the
    /// answer.
    Sequence(Vec<Node>),
    /// Each row to one of several.
    Switch {
        /// The column that decides; numbers are compared as text.
        column: String,
        /// Who gets a row, by what the column holds.
        cases: BTreeMap<String, Node>,
        /// Who gets the others; none where they are an error.
        otherwise: Option<Box<Node>>,
    },
    /// All of them: the answer has the mean of columns of floats, and of others what most say.
    Ensemble(Vec<(Node, f64)>),
}

/// A graph whose endpoints are there.
pub struct Graph {
    node: Node,
    /// Exchanged as one.
    parts: RwLock<Arc<Parts>>,
    signature: Signature,
    /// The node as records have it.
    form: Arc<Value>,
    record_bytes: usize,
}

/// The endpoints that a graph is made of as they were when it was known that they fit together: where one of them has moved on to
/// what does not, the graph goes on with what it has. None is made of others, so that no graph comes to ask itself.
struct Parts {
    by_name: BTreeMap<Name, (Arc<Endpoint>, Arc<Routing>)>,
    /// Why nothing is answered: one of them is there no more.
    broken: Option<GraphError>,
}

/// A graph that cannot be made of the endpoints that there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// An endpoint is not there.
    #[error("there is no endpoint `{0}`, which it is made of")]
    Missing(Name),
    /// An endpoint is made of others itself, so that it could be made of this one.
    #[error("endpoint `{0}`, which it is made of, is made of others itself")]
    Nested(Name),
    /// Two of its endpoints want a column of different types or shapes, or answer with such.
    #[error("column `{column}` is not the same in all of its endpoints")]
    Column {
        /// The column.
        column: String,
    },
    /// A column by which rows are to be told apart has more than one element a row.
    #[error("column `{column}` has several elements in a row: a switch decides by one")]
    Switch {
        /// The column.
        column: String,
    },
    /// Endpoints whose answers should be alike have other columns.
    #[error("its endpoints answer with different columns: {one}; and {other}")]
    Outputs {
        /// Some columns.
        one: String,
        /// Others.
        other: String,
    },
}

/// What one of the endpoints that a graph is made of did for a request.
#[derive(Clone)]
pub struct Part {
    /// Its number among the endpoints of the graph, from 0: several may be the same endpoint.
    pub place: usize,
    /// Which.
    pub endpoint: Name,
    /// Who answered for it.
    pub deployment: Arc<Deployment>,
    /// When it was asked, from when the graph was.
    pub after: Duration,
    /// How long it took.
    pub took: Duration,
    /// How long its own parts took.
    pub times: StageTimes,
}

impl fmt::Debug for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} by {}", self.endpoint, self.deployment.version_label())
    }
}

impl Part {
    fn record(&self) -> PartRecord {
        let Self { place, endpoint, deployment, .. } = self;
        PartRecord { place: *place, endpoint: endpoint.clone(), answered_by: deployment.bundle_record() }
    }
}

/// The versions that answered for endpoints that another is made of: each once, in the order of their names.
pub(super) fn versions_of(parts: &[Part]) -> String {
    let versions: BTreeSet<String> = parts.iter().map(|part| part.deployment.version_label()).collect();
    versions.into_iter().collect::<Vec<_>>().join(", ")
}

/// The digests of the bundles that did, in the same way.
pub(super) fn bundles_of(parts: &[Part]) -> String {
    let bundles: BTreeSet<String> = parts.iter().map(|part| part.deployment.bundle().to_string()).collect();
    bundles.into_iter().collect::<Vec<_>>().join(", ")
}

/// A version that answers for an endpoint, and how the endpoint is set.
struct Chosen {
    routing: Arc<Routing>,
    deployment: Arc<Deployment>,
    /// Whoever asks it for the request, since a request has one of the endpoint's places, however often it asks.
    turn: TurnMutex<()>,
}

/// A request that a graph answers.
struct Asking<'a> {
    /// Who answers for each endpoint: it is asked of one version, however often and late it is asked.
    chosen: BTreeMap<&'a Name, Chosen>,
    /// What the rows hold that all are asked for.
    columns: &'a [ColumnSpec],
    deadline: Option<Instant>,
    started: Instant,
    /// Who was asked so far.
    parts: Mutex<Vec<Part>>,
}

impl Node {
    /// The endpoints that it is made of, by their places.
    pub fn endpoints(&self) -> Vec<&Name> {
        match self {
            Self::Endpoint(name) => vec![name],
            _ => self.parts().into_iter().flat_map(Self::endpoints).collect(),
        }
    }

    /// How many endpoints it is made of.
    pub(super) fn endpoint_count(&self) -> usize {
        match self {
            Self::Endpoint(_) => 1,
            _ => self.parts().into_iter().map(Self::endpoint_count).sum(),
        }
    }

    /// Whether it is neither too deep nor too large; otherwise what is wrong.
    pub(super) fn check_size(&self) -> Result<(), String> {
        if self.depth() > DEPTH_MAX {
            return Err(format!("it is {} levels deep: expected at most {DEPTH_MAX}", self.depth()));
        }
        match self.endpoint_count() {
            0 => Err("it has no endpoints".to_owned()),
            found if found > NODES_MAX => {
                Err(format!("it has {found} endpoints: expected at most {NODES_MAX}"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn parts(&self) -> Vec<&Self> {
        match self {
            Self::Endpoint(_) => Vec::new(),
            Self::Sequence(nodes) => nodes.iter().collect(),
            Self::Switch { cases, otherwise, .. } => cases.values().chain(otherwise.as_deref()).collect(),
            Self::Ensemble(nodes) => nodes.iter().map(|(node, _)| node).collect(),
        }
    }

    fn depth(&self) -> usize {
        1 + self.parts().into_iter().map(Self::depth).max().unwrap_or(0)
    }

    /// What it takes and answers.
    fn signature(&self, parts: &Parts) -> Result<Signature, GraphError> {
        let mut decisive = Vec::new();
        let mut signature = self.signature_beside(parts, &mut decisive)?;
        for name in decisive {
            match signature.inputs.iter().find(|spec| spec.name == name) {
                Some(known) => check_decisive(known)?,
                // Nobody says what it is: text says anything.
                None => signature.inputs.push(ColumnSpec {
                    name,
                    dtype: DataType::Bytes,
                    shape: Vec::new(),
                    nullable: false,
                    element_names: Vec::new(),
                }),
            }
        }
        Ok(signature)
    }

    /// What it takes and answers, beside the columns by which its switches decide, which are added to `decisive`: whoever makes
    /// or takes one says of what type it is.
    fn signature_beside(&self, parts: &Parts, decisive: &mut Vec<String>) -> Result<Signature, GraphError> {
        match self {
            Self::Endpoint(name) => Ok(parts.main(name)?.signature().clone()),
            Self::Sequence(nodes) => sequence_signature(nodes, parts, decisive),
            Self::Switch { column, .. } => {
                decisive.push(column.clone());
                self.signature_of_like(parts, decisive)
            }
            Self::Ensemble(_) => self.signature_of_like(parts, decisive),
        }
    }

    /// The signature of nodes whose answers have the same columns.
    fn signature_of_like(&self, parts: &Parts, decisive: &mut Vec<String>) -> Result<Signature, GraphError> {
        let mut all: Option<Signature> = None;
        for part in self.parts() {
            let mut signature = part.signature_beside(parts, decisive)?;
            if matches!(self, Self::Switch { .. }) {
                // A row's elements are called as the endpoint calls them that gets it.
                signature.inputs.iter_mut().for_each(|spec| spec.element_names.clear());
            }
            match &mut all {
                None => all = Some(Signature { features: Vec::new(), ..signature }),
                Some(all) if all.outputs != signature.outputs => {
                    return Err(GraphError::Outputs {
                        one: names(&all.outputs),
                        other: names(&signature.outputs),
                    });
                }
                Some(all) => add(&mut all.inputs, signature.inputs)?,
            }
        }
        let none = || Signature { inputs: Vec::new(), features: Vec::new(), outputs: Vec::new() };
        Ok(all.unwrap_or_else(none))
    }
}

/// The signature of nodes of which each takes what was asked for and what those before it made.
fn sequence_signature(
    nodes: &[Node],
    parts: &Parts,
    decisive: &mut Vec<String>,
) -> Result<Signature, GraphError> {
    let (mut inputs, mut made, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
    for node in nodes {
        let mut decides = Vec::new();
        let signature = node.signature_beside(parts, &mut decides)?;
        for column in decides {
            match made.iter().find(|known: &&ColumnSpec| known.name == column) {
                Some(known) => check_decisive(known)?,
                None => decisive.push(column),
            }
        }
        let mut wanted = Vec::new();
        for spec in signature.inputs {
            match made.iter().find(|known: &&ColumnSpec| known.name == spec.name) {
                None => wanted.push(spec),
                Some(known) if (known.dtype, &known.shape) == (spec.dtype, &spec.shape) => {}
                Some(_) => return Err(GraphError::Column { column: spec.name }),
            }
        }
        add(&mut inputs, wanted)?;
        made.retain(|known| !signature.outputs.iter().any(|spec| spec.name == known.name));
        made.extend(signature.outputs.iter().cloned());
        outputs = signature.outputs;
    }
    Ok(Signature { inputs, features: Vec::new(), outputs })
}

/// Refuses a column that cannot decide where a row goes.
fn check_decisive(spec: &ColumnSpec) -> Result<(), GraphError> {
    match spec.shape.iter().product::<usize>() {
        1 => Ok(()),
        _ => Err(GraphError::Switch { column: spec.name.clone() }),
    }
}

fn names(specs: &[ColumnSpec]) -> String {
    let shown = |spec: &ColumnSpec| format!("`{}` {} {:?}", spec.name, spec.dtype, spec.shape);
    specs.iter().take(5).map(shown).collect::<Vec<_>>().join(", ")
}

/// Adds columns that are not there yet.
fn add(columns: &mut Vec<ColumnSpec>, more: Vec<ColumnSpec>) -> Result<(), GraphError> {
    for spec in more {
        match columns.iter_mut().find(|known| known.name == spec.name) {
            None => columns.push(spec),
            Some(known) if known.is_like(&spec) => {
                // What one of them cannot take is not taken.
                known.nullable &= spec.nullable;
                if known.element_names.is_empty() {
                    known.element_names = spec.element_names;
                }
            }
            Some(_) => return Err(GraphError::Column { column: spec.name }),
        }
    }
    Ok(())
}

impl Parts {
    /// The endpoints of a graph as they are now.
    fn of(node: &Node, endpoints: &Endpoints) -> Result<Self, GraphError> {
        let part = |name: &Name| {
            let endpoint = endpoints.get(name.as_str()).ok_or_else(|| GraphError::Missing(name.clone()))?;
            let routing = endpoint.routing();
            Ok((name.clone(), (endpoint, routing)))
        };
        let by_name = node.endpoints().into_iter().map(part).collect::<Result<_, GraphError>>()?;
        Ok(Self { by_name, broken: None })
    }

    /// Who speaks for an endpoint.
    fn main(&self, name: &Name) -> Result<&Deployment, GraphError> {
        let main = self.by_name.get(name).and_then(|(_, routing)| routing.main());
        match main.ok_or_else(|| GraphError::Missing(name.clone()))? {
            nested if nested.is_graph() => Err(GraphError::Nested(name.clone())),
            main => Ok(main),
        }
    }

    /// Who answers for each endpoint.
    fn choose(&self) -> Result<BTreeMap<&Name, Chosen>, ApiError> {
        if let Some(error) = &self.broken {
            return Err(not_ready(error));
        }
        let choose = |(name, (endpoint, routing)): (_, &(Arc<Endpoint>, Arc<Routing>))| {
            let deployment = endpoint.choose(routing, &HeaderMap::new());
            let deployment = deployment.ok_or_else(|| missing(name))?;
            Ok((name, Chosen { routing: Arc::clone(routing), deployment, turn: TurnMutex::default() }))
        };
        self.by_name.iter().map(choose).collect()
    }
}

impl Graph {
    /// Puts a graph together of the endpoints that there are.
    pub(super) fn new(node: Node, endpoints: &Endpoints) -> Result<Self, GraphError> {
        let parts = Parts::of(&node, endpoints)?;
        let signature = node.signature(&parts)?;
        let form = Arc::new(node.form());
        let record_bytes = form.to_string().len() + node.endpoint_count() * PART_RECORD_BYTES;
        Ok(Self { node, parts: RwLock::new(Arc::new(parts)), signature, form, record_bytes })
    }

    fn parts(&self) -> Arc<Parts> {
        Arc::clone(&self.parts.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_parts(&self, parts: Arc<Parts>) {
        *self.parts.write().unwrap_or_else(PoisonError::into_inner) = parts;
    }

    /// Goes on with the parts of one that is like it.
    pub(super) fn go_on_with(&self, other: &Self) {
        let parts = other.parts();
        // Who has answered for them until now does so no more.
        parts.by_name.values().for_each(|(_, routing)| routing.open_windows());
        self.set_parts(parts);
    }

    /// Takes note that nothing can be answered any more. Its parts are let go.
    pub(super) fn note_broken(&self, error: GraphError) {
        self.set_parts(Arc::new(Parts { by_name: BTreeMap::new(), broken: Some(error) }));
    }

    /// Has the windows of those that answer for its parts take their rows.
    pub(super) fn open_windows(&self) {
        for (_, routing) in self.parts().by_name.values() {
            routing.open_answering_windows();
        }
    }

    /// The versions that answer for its parts.
    pub(super) fn routings(&self) -> Vec<(Name, Arc<Routing>)> {
        let routing = |(name, (_, routing)): (&Name, &(_, Arc<Routing>))| (name.clone(), Arc::clone(routing));
        self.parts().by_name.iter().map(routing).collect()
    }

    pub(super) fn signature(&self) -> &Signature {
        &self.signature
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// What it is made of, as records have it.
    pub(super) fn form(&self) -> &Value {
        &self.form
    }

    /// Whether it is made of the same endpoints in the same way, which take and answer the same.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (&self.node, &self.signature) == (&other.node, &other.signature)
    }

    /// Names how it is made of which endpoints, whatever they answer with.
    pub(super) fn digest(&self) -> Digest {
        Digest::of(format!("{:?}", self.node).as_bytes())
    }

    /// The record of who answered.
    pub(super) fn record(&self, parts: &[Part]) -> GraphRecord {
        GraphRecord { graph: Arc::clone(&self.form), parts: parts.iter().map(Part::record).collect() }
    }

    /// Bytes that such a record has at most, about.
    pub(super) fn record_bytes(&self) -> usize {
        self.record_bytes
    }

    /// Whether all that it is made of is loaded; otherwise what is not.
    pub(super) fn check_ready(&self) -> Result<(), ApiError> {
        self.parts().broken.as_ref().map_or(Ok(()), |error| Err(not_ready(error)))
    }

    /// The answer to a batch, for which its endpoints wait until `deadline`, and who gave it, by their places.
    pub(super) async fn answer(
        &self,
        inputs: &Batch,
        deadline: Option<Instant>,
    ) -> Result<(Batch, Vec<Part>), ApiError> {
        let parts = self.parts();
        let (chosen, columns) = (parts.choose()?, self.signature.inputs.as_slice());
        let asking = Asking { chosen, columns, deadline, started: Instant::now(), parts: Mutex::default() };
        let outputs = answer(&asking, &self.node, 0, inputs).await?;
        let mut parts = asking.parts.into_inner().unwrap_or_else(PoisonError::into_inner);
        parts.sort_unstable_by_key(|part| part.place);
        Ok((outputs, parts))
    }
}

impl Answering for Asking<'_> {
    type Error = ApiError;

    async fn ask(&self, place: usize, name: &Name, inputs: &Batch) -> Result<Batch, ApiError> {
        let Chosen { routing, deployment, turn } = self.chosen.get(name).ok_or_else(|| missing(name))?;
        let wanted = &deployment.signature().inputs;
        let inputs = elements_in_order(take_columns(wanted, inputs)?, self.columns, wanted);
        let asked = (!routing.shadows().is_empty()).then(|| inputs.clone());
        let _turn = turn.lock().await;
        let after = self.started.elapsed();
        let (outputs, times) = deployment.answer_rows(inputs, routing.call(self.deadline)).await?;
        for shadow in routing.shadows() {
            if let Some(asked) = &asked {
                shadow.mirror(deployment, asked, &outputs);
            }
        }
        let took = self.started.elapsed().saturating_sub(after);
        let deployment = Arc::clone(deployment);
        let part = Part { place, endpoint: name.clone(), deployment, after, took, times };
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).push(part);
        Ok(outputs)
    }
}

/// What is answered while an endpoint is not loaded that this one is made of.
fn missing(name: &Name) -> ApiError {
    not_ready(&GraphError::Missing(name.clone()))
}

fn not_ready(error: &GraphError) -> ApiError {
    let message = match error {
        GraphError::Missing(name) => format!("endpoint `{name}`, which this one is made of, is not loaded"),
        error => format!("what this endpoint is made of does not fit together: {error}"),
    };
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NotReady, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_which_two_mean_other_elements_are_not_the_same() {
        let column = |names: &[&str]| ColumnSpec {
            name: "features".to_owned(),
            dtype: DataType::Fp32,
            shape: vec![2],
            nullable: true,
            element_names: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let added = |one: &[&str], other: &[&str]| {
            let mut columns = vec![column(one)];
            add(&mut columns, vec![column(other)]).map(|()| columns.remove(0).element_names)
        };
        let named = ["age", "debt"];
        for (one, other) in [(&named[..], &named[..]), (&named, &[]), (&[], &named)] {
            assert_eq!(added(one, other).unwrap(), named);
        }
        let error = added(&named, &["debt", "age"]).unwrap_err().to_string();
        assert_eq!(error, "column `features` is not the same in all of its endpoints");
    }

    #[test]
    fn graphs_have_limits() {
        let leaf = || Node::Endpoint("e".parse().unwrap());
        let mut deep = leaf();
        for _ in 0..DEPTH_MAX {
            deep = Node::Sequence(vec![deep]);
        }
        assert_eq!(deep.check_size().unwrap_err(), "it is 9 levels deep: expected at most 8");
        let wide = Node::Sequence((0..65).map(|_| leaf()).collect());
        assert_eq!(wide.check_size().unwrap_err(), "it has 65 endpoints: expected at most 64");
        assert!(Node::Sequence(Vec::new()).check_size().is_err());
    }
}
