//! Endpoints made of endpoints: one after the other, one of several, or several together.

mod batches;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use self::batches::{beside, combine, in_order, wrong};
use super::{ApiError, Deployment, Endpoints, ErrorCode, StageTimes};
use crate::domain::{Batch, ColumnSpec, DataType, Digest, Name, Signature, Tensor};

/// Deepest nesting of a graph.
const DEPTH_MAX: usize = 8;

/// Nodes of a graph.
const NODES_MAX: usize = 64;

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
    /// Weak, because the graph is one of them.
    endpoints: Weak<Endpoints>,
    signature: Signature,
}

/// A graph that cannot be made of the endpoints that there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// An endpoint is not there.
    #[error("there is no endpoint `{0}`, which it is made of")]
    Missing(Name),
    /// Two of its endpoints want a column of different types or shapes, or answer with such.
    #[error("column `{column}` is not the same in all of its endpoints")]
    Column {
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

/// A request that a graph answers.
struct Asking<'a> {
    endpoints: &'a Endpoints,
    deadline: Option<Instant>,
    started: Instant,
    /// Who was asked so far.
    parts: Mutex<Vec<Part>>,
}

impl Node {
    /// The endpoints that it is made of.
    pub fn endpoints(&self) -> Vec<&Name> {
        match self {
            Self::Endpoint(name) => vec![name],
            _ => self.parts().into_iter().flat_map(Self::endpoints).collect(),
        }
    }

    /// Whether it is neither too deep nor too large; otherwise what is wrong.
    pub(super) fn check_size(&self) -> Result<(), String> {
        if self.depth() > DEPTH_MAX {
            return Err(format!("it is {} levels deep: expected at most {DEPTH_MAX}", self.depth()));
        }
        match self.endpoints().len() {
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

    /// What it takes and answers, with the versions that answer now.
    fn signature(&self, endpoints: &Endpoints) -> Result<Signature, GraphError> {
        match self {
            Self::Endpoint(name) => {
                let routing = endpoints.get(name.as_str()).map(|endpoint| endpoint.routing());
                let route = routing.as_ref().and_then(|routing| routing.routes().first());
                let route = route.ok_or_else(|| GraphError::Missing(name.clone()))?;
                Ok(route.deployment.signature().clone())
            }
            Self::Sequence(nodes) => {
                let (mut inputs, mut made, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
                for node in nodes {
                    let signature = node.signature(endpoints)?;
                    let mut wanted = Vec::new();
                    for spec in signature.inputs {
                        match made.iter().find(|known: &&ColumnSpec| known.name == spec.name) {
                            None => wanted.push(spec),
                            Some(known) if is_like(known, &spec) => {}
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
            Self::Switch { column, .. } => {
                let mut signature = self.signature_of_like(endpoints)?;
                if !signature.inputs.iter().any(|spec| spec.name == *column) {
                    let (name, dtype) = (column.clone(), DataType::Bytes);
                    signature.inputs.push(ColumnSpec { name, dtype, shape: Vec::new(), nullable: false });
                }
                Ok(signature)
            }
            Self::Ensemble(_) => self.signature_of_like(endpoints),
        }
    }

    /// The signature of nodes whose answers have the same columns.
    fn signature_of_like(&self, endpoints: &Endpoints) -> Result<Signature, GraphError> {
        let mut all: Option<Signature> = None;
        for part in self.parts() {
            let signature = part.signature(endpoints)?;
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

fn is_like(one: &ColumnSpec, other: &ColumnSpec) -> bool {
    (one.dtype, &one.shape) == (other.dtype, &other.shape)
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
            Some(known) if is_like(known, &spec) => {
                // What one of them cannot take is not taken.
                known.nullable &= spec.nullable;
            }
            Some(_) => return Err(GraphError::Column { column: spec.name }),
        }
    }
    Ok(())
}

impl Graph {
    /// Puts a graph together of the endpoints that there are.
    pub(super) fn new(node: Node, endpoints: &std::sync::Arc<Endpoints>) -> Result<Self, GraphError> {
        let signature = node.signature(endpoints)?;
        Ok(Self { node, endpoints: std::sync::Arc::downgrade(endpoints), signature })
    }

    pub(super) fn signature(&self) -> &Signature {
        &self.signature
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// Whether it is made of the same endpoints in the same way, which take and answer the same.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (&self.node, &self.signature) == (&other.node, &other.signature)
    }

    /// Names what it is made of.
    pub(super) fn digest(&self) -> Digest {
        Digest::of(format!("{:?}", self.node).as_bytes())
    }

    /// Whether all that it is made of is loaded; otherwise what is not.
    pub(super) fn check_ready(&self) -> Result<(), ApiError> {
        let endpoints = self.endpoints.upgrade().ok_or_else(super::engine::stopping)?;
        match self.node.endpoints().into_iter().find(|name| endpoints.get(name.as_str()).is_none()) {
            Some(gone) => Err(missing(gone)),
            None => Ok(()),
        }
    }

    /// The answer to a batch, for which its endpoints wait until `deadline`, and who gave it.
    pub(super) async fn answer(
        &self,
        inputs: &Batch,
        deadline: Option<Instant>,
    ) -> Result<(Batch, Vec<Part>), ApiError> {
        let endpoints = self.endpoints.upgrade().ok_or_else(super::engine::stopping)?;
        let asking =
            Asking { endpoints: &endpoints, deadline, started: Instant::now(), parts: Mutex::default() };
        let outputs = asking.answer(&self.node, inputs).await?;
        Ok((outputs, asking.parts.into_inner().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Asking<'_> {
    /// What a node answers to a batch.
    fn answer<'a>(
        &'a self,
        node: &'a Node,
        inputs: &'a Batch,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Batch, ApiError>> + Send + 'a>> {
        Box::pin(async move {
            match node {
                Node::Endpoint(name) => self.ask(name, inputs).await,
                Node::Sequence(nodes) => {
                    let (mut known, mut last) = (inputs.clone(), Batch::default());
                    for node in nodes {
                        last = self.answer(node, &known).await?;
                        known = beside(&known, &last)?;
                    }
                    Ok(last)
                }
                Node::Switch { column, cases, otherwise } => {
                    let chosen = choose(column, cases, otherwise.as_deref(), inputs)?;
                    let mut answers = Vec::with_capacity(chosen.len());
                    for (node, rows) in &chosen {
                        let mut kept = vec![false; inputs.rows()];
                        for &row in rows {
                            if let Some(place) = kept.get_mut(row) {
                                *place = true;
                            }
                        }
                        answers.push((self.answer(node, &inputs.keep_rows(&kept)).await?, rows.as_slice()));
                    }
                    in_order(&answers, inputs.rows())
                }
                Node::Ensemble(nodes) => {
                    let asked = nodes.iter().map(|(node, _)| self.answer(node, inputs));
                    let answers = futures_util::future::try_join_all(asked).await?;
                    let weights: Vec<f64> = nodes.iter().map(|(_, weight)| *weight).collect();
                    combine(&answers, &weights)
                }
            }
        })
    }

    /// Asks an endpoint, which gets the columns that it takes.
    async fn ask(&self, name: &Name, inputs: &Batch) -> Result<Batch, ApiError> {
        let endpoint = self.endpoints.get(name.as_str()).ok_or_else(|| missing(name))?;
        let routing = endpoint.routing();
        let deployment = endpoint.choose(&routing, &HeaderMap::new()).ok_or_else(|| missing(name))?;
        let specs = &deployment.signature().inputs;
        let columns = specs.iter().filter_map(|spec| inputs.column(&spec.name).cloned());
        let inputs = Batch::new(columns.collect()).map_err(|error| wrong(error.to_string()))?;
        let asked = (!routing.shadows().is_empty()).then(|| inputs.clone());
        let after = self.started.elapsed();
        let (outputs, times) = deployment.answer_rows(inputs, routing.call(self.deadline)).await?;
        for shadow in routing.shadows() {
            if let Some(asked) = &asked {
                shadow.mirror(asked, &outputs);
            }
        }
        let took = self.started.elapsed().saturating_sub(after);
        let part = Part { endpoint: name.clone(), deployment, after, took, times };
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).push(part);
        Ok(outputs)
    }
}

/// Who gets which rows.
pub(super) fn choose<'a>(
    column: &str,
    cases: &'a BTreeMap<String, Node>,
    otherwise: Option<&'a Node>,
    inputs: &Batch,
) -> Result<Vec<(&'a Node, Vec<usize>)>, ApiError> {
    let tensor = inputs.column(column).ok_or_else(|| wrong(format!("there is no column `{column}`")))?;
    let values = texts_of(tensor);
    if values.len() != inputs.rows() {
        return Err(wrong(format!("column `{column}` has several elements in a row: one decides")));
    }
    let mut chosen: Vec<(&Node, Vec<usize>)> = Vec::new();
    for (row, value) in values.iter().enumerate() {
        let Some(node) = cases.get(value).or(otherwise) else {
            let value: String = value.chars().take(80).collect();
            let known: Vec<_> = cases.keys().take(10).map(|case| format!("`{case}`")).collect();
            let message = format!(
                "row {row}, column `{column}`: expected one of {}, found `{value}`",
                known.join(", ")
            );
            return Err(ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidInput, message));
        };
        match chosen.iter_mut().find(|(known, _)| std::ptr::eq(*known, node)) {
            Some((_, rows)) => rows.push(row),
            None => chosen.push((node, vec![row])),
        }
    }
    Ok(chosen)
}

/// The elements of a column as text: as JSON has them, and strings as they are.
fn texts_of(tensor: &Tensor) -> Vec<String> {
    macro_rules! numbers {
        ($number:ty) => {{
            let (numbers, _) = tensor.data().as_chunks::<{ size_of::<$number>() }>();
            numbers.iter().map(|bytes| <$number>::from_le_bytes(*bytes).to_string()).collect()
        }};
    }
    match tensor.dtype() {
        DataType::Bool => tensor.data().iter().map(|byte| (*byte != 0).to_string()).collect(),
        DataType::Uint8 => numbers!(u8),
        DataType::Uint16 => numbers!(u16),
        DataType::Uint32 => numbers!(u32),
        DataType::Uint64 => numbers!(u64),
        DataType::Int8 => numbers!(i8),
        DataType::Int16 => numbers!(i16),
        DataType::Int32 => numbers!(i32),
        DataType::Int64 => numbers!(i64),
        DataType::Fp32 => numbers!(f32),
        DataType::Fp64 => numbers!(f64),
        DataType::Fp16 => {
            tensor.number_blocks(usize::MAX).flatten().map(|number| number.to_string()).collect()
        }
        DataType::Bytes => {
            tensor.byte_strings().map(|text| String::from_utf8_lossy(text).into_owned()).collect()
        }
    }
}

/// What is answered while an endpoint is not loaded that this one is made of.
fn missing(name: &Name) -> ApiError {
    let message = format!("endpoint `{name}`, which this one is made of, is not loaded");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NotReady, message)
}

#[cfg(test)]
mod tests {
    use super::batches::in_order;
    use super::batches::tests::batch;
    use super::*;

    #[test]
    fn rows_go_where_their_column_says_and_come_back_in_order() {
        let node = |name: &str| Node::Endpoint(name.parse().unwrap());
        let cases = BTreeMap::from([("ch".to_owned(), node("swiss")), ("de".to_owned(), node("german"))]);
        let rows = batch(&[1.0, 2.0, 3.0], &["de", "ch", "de"]);
        let chosen = choose("label", &cases, None, &rows).unwrap();
        let chosen: Vec<_> =
            chosen.iter().map(|(node, rows)| (node.endpoints()[0].as_str(), rows.clone())).collect();
        assert_eq!(chosen, [("german", vec![0, 2]), ("swiss", vec![1])]);
        let parts = [(batch(&[10.0, 30.0], &["x", "z"]), &[0, 2][..]), (batch(&[20.0], &["y"]), &[1][..])];
        assert_eq!(in_order(&parts, 3).unwrap(), batch(&[10.0, 20.0, 30.0], &["x", "y", "z"]));
        let unknown = choose("label", &cases, None, &batch(&[1.0], &["fr"])).unwrap_err();
        assert_eq!(unknown.message(), "row 0, column `label`: expected one of `ch`, `de`, found `fr`");
        let otherwise = node("other");
        assert_eq!(choose("label", &cases, Some(&otherwise), &batch(&[1.0], &["fr"])).unwrap().len(), 1);
        let numbers = BTreeMap::from([("1".to_owned(), node("one"))]);
        assert_eq!(choose("scores", &numbers, None, &batch(&[1.0], &["x"])).unwrap().len(), 1);
    }

    #[test]
    fn values_that_decide_are_what_json_has() {
        let texts = |dtype, data: &[u8]| {
            let rows = data.len() / DataType::size(dtype).unwrap();
            texts_of(&Tensor::new("x", dtype, vec![rows], data.to_vec()).unwrap())
        };
        assert_eq!(texts(DataType::Bool, &[0, 1]), ["false", "true"]);
        let large = 9_007_199_254_740_993_i64;
        assert_eq!(texts(DataType::Int64, &large.to_le_bytes()), ["9007199254740993"]);
        assert_eq!(texts(DataType::Fp32, &0.1_f32.to_le_bytes()), ["0.1"]);
        assert_eq!(texts(DataType::Fp16, &[0x00, 0x3c, 0x00, 0xc0]), ["1", "-2"]);
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
