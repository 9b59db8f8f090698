//! The walk over a graph: which endpoint is asked for which rows, and what becomes of the answers. It is one for requests and
//! for predictions that are computed again, so that they cannot differ; only who answers does.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::num::NonZero;
use std::pin::Pin;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};

use super::super::ApiError;
use super::super::offload::INLINE_ROWS_MAX;
use super::Node;
use super::batches::{beside, in_order, wrong};
use super::ensemble::Combined;
use crate::domain::{Batch, ColumnSpec, DataType, Name, Tensor};

/// Who answers for the endpoints that a graph is made of.
pub(in crate::serve) trait Answering: Sync {
    /// Why there is no answer.
    type Error: From<ApiError> + OfRows + Send;

    /// What an endpoint answers to a batch, of which it gets the columns that it takes. `place` is its number among the endpoints
    /// of the graph, from 0; each is asked once at most.
    fn ask(
        &self,
        place: usize,
        endpoint: &Name,
        inputs: &Batch,
    ) -> impl Future<Output = Result<Batch, Self::Error>> + Send;
}

/// An error that may name a row.
pub(in crate::serve) trait OfRows {
    /// The same of the whole, if it was told of a part that had these of its rows.
    fn of_rows(self, rows: &[usize]) -> Self;

    /// The same of a part that was asked with `known`, if of the whole with `sent`: that it does not take a column which parts
    /// before it have made is no mistake of whoever asked.
    fn of_known(self, sent: &Batch, known: &Batch) -> Self;
}

/// An answer that is being made.
type Answer<'a, E> = Pin<Box<dyn Future<Output = Result<Batch, E>> + Send + 'a>>;

/// What a node answers to a batch whose first endpoint has the place `first`, which is 0 in a whole graph.
pub(in crate::serve) fn answer<'a, A: Answering>(
    answering: &'a A,
    node: &'a Node,
    first: usize,
    inputs: &'a Batch,
) -> Answer<'a, A::Error> {
    Box::pin(async move {
        match node {
            Node::Endpoint(name) => answering.ask(first, name, inputs).await,
            Node::Sequence(nodes) => {
                let Some((last, before)) = nodes.split_last() else { return Ok(Batch::default()) };
                let mut known = Cow::Borrowed(inputs);
                for part in before {
                    let made = answer(answering, part, node.place_of(part, first), &known).await;
                    let made = made.map_err(|error| error.of_known(inputs, &known))?;
                    known = Cow::Owned(beside(&known, &made)?);
                }
                let made = answer(answering, last, node.place_of(last, first), &known).await;
                made.map_err(|error| error.of_known(inputs, &known))
            }
            Node::Switch { column, cases, otherwise } => {
                let chosen = choose(column, cases, otherwise.as_deref(), inputs)?;
                let mut answers = Vec::with_capacity(chosen.len());
                for (part, rows) in &chosen {
                    let mut kept = vec![false; inputs.rows()];
                    for &row in rows {
                        if let Some(place) = kept.get_mut(row) {
                            *place = true;
                        }
                    }
                    let place = node.place_of(part, first);
                    let own = answer(answering, part, place, &inputs.keep_rows(&kept)).await;
                    answers.push((own.map_err(|error| error.of_rows(rows))?, rows.as_slice()));
                }
                Ok(in_order(&answers, inputs.rows())?)
            }
            Node::Ensemble(nodes) => {
                let ask =
                    |(part, _): &'a (Node, f64)| answer(answering, part, node.place_of(part, first), inputs);
                let asked: Vec<_> = nodes.iter().map(ask).collect();
                // Where the rows are many, no more than keep the cores busy: answers are kept until those before them are there.
                let mut answers = match inputs.rows() <= INLINE_ROWS_MAX {
                    true => stream::iter(join_all(asked).await).left_stream(),
                    false => stream::iter(asked).buffered(2 * cores()).right_stream(),
                };
                let mut combined = Ok(Combined::default());
                for (_, weight) in nodes {
                    // All of them, also where one fails: who is dropped counts as given up by its client.
                    let Some(answer) = answers.next().await else { break };
                    combined = match (combined, answer) {
                        (Ok(mut combined), Ok(answer)) => {
                            combined.add(&answer, *weight).map(|()| combined).map_err(Into::into)
                        }
                        (Err(error), _) | (Ok(_), Err(error)) => Err(error),
                    };
                }
                Ok(combined?.finish()?)
            }
        }
    })
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

impl Node {
    /// The place of the first endpoint of one of its parts, if its own first has the place `first`.
    fn place_of(&self, part: &Self, first: usize) -> usize {
        let before = self.parts().into_iter().take_while(|other| !std::ptr::eq(*other, part));
        first + before.map(Self::endpoint_count).sum::<usize>()
    }
}

/// The columns of a batch that are taken by who has these inputs.
pub(in crate::serve) fn take_columns(specs: &[ColumnSpec], batch: &Batch) -> Result<Batch, ApiError> {
    let columns = specs.iter().filter_map(|spec| batch.column(&spec.name).cloned());
    Batch::new(columns.collect()).map_err(|error| wrong(error.to_string()))
}

/// Who gets which rows.
pub(in crate::serve) fn choose<'a>(
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
            return Err(ApiError::invalid_input(message, Some(row as u64), Some(column.to_owned())));
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::batches::tests::batch;
    use super::*;
    use crate::domain::Digest;
    use crate::plugin::{Fault, PluginError};

    /// Answers with what it is asked, and remembers who was asked for how many rows.
    #[derive(Default)]
    struct Echo(Mutex<Vec<(usize, String, usize)>>);

    impl Answering for Echo {
        type Error = ApiError;

        async fn ask(&self, place: usize, endpoint: &Name, inputs: &Batch) -> Result<Batch, ApiError> {
            let asked = (place, endpoint.to_string(), inputs.rows());
            // Those that are asked together come back in another order than that of their places.
            for _ in place..8 {
                tokio::task::yield_now().await;
            }
            self.0.lock().unwrap().push(asked);
            Ok(inputs.clone())
        }
    }

    fn leaf(name: &str) -> Node {
        Node::Endpoint(name.parse().unwrap())
    }

    fn switch(cases: &[(&str, Node)], otherwise: Option<Node>) -> Node {
        let cases = cases.iter().map(|(case, node)| ((*case).to_owned(), node.clone())).collect();
        Node::Switch { column: "label".to_owned(), cases, otherwise: otherwise.map(Box::new) }
    }

    #[tokio::test]
    async fn each_endpoint_has_the_place_that_the_graph_names_it_at() {
        let case = Node::Sequence(vec![leaf("b"), leaf("a")]);
        let inner = switch(&[("x", leaf("a")), ("y", case)], Some(leaf("c")));
        let node = Node::Ensemble(vec![
            (leaf("a"), 1.0),
            (inner, 2.0),
            (Node::Ensemble(vec![(leaf("b"), 1.0), (leaf("a"), 1.0)]), 1.0),
        ]);
        let names: Vec<String> = node.endpoints().into_iter().map(ToString::to_string).collect();
        assert_eq!(names, ["a", "a", "b", "a", "c", "b", "a"]);
        let rows = batch(&[1.0, 2.0, 3.0], &["z", "y", "y"]);
        let echo = Echo::default();
        assert_eq!(answer(&echo, &node, 0, &rows).await.unwrap(), rows);
        let asked = echo.0.into_inner().unwrap();
        let mut by_place = asked.clone();
        by_place.sort();
        assert_ne!(asked, by_place, "those that are asked together come back in any order");
        let of = |place: usize, name: &str, rows: usize| (place, name.to_owned(), rows);
        // Nobody has asked the first case of the switch, whose place is 1.
        let expected =
            [of(0, "a", 3), of(2, "b", 2), of(3, "a", 2), of(4, "c", 1), of(5, "b", 3), of(6, "a", 3)];
        assert_eq!(by_place, expected);
        assert!(by_place.iter().all(|(place, name, _)| names[*place] == *name));
    }

    /// Refuses the last row.
    struct Refusing;

    impl Answering for Refusing {
        type Error = ApiError;

        async fn ask(&self, _: usize, _: &Name, inputs: &Batch) -> Result<Batch, ApiError> {
            let row = Some(inputs.rows() as u64 - 1);
            let fault = Fault::InvalidInput { message: "row 0 was better".to_owned(), row, column: None };
            let (name, digest) = ("scale".to_owned(), Digest::of(b""));
            Err(PluginError { name, digest, fault }.into())
        }
    }

    #[tokio::test]
    async fn a_refused_row_is_named_as_who_asked_counts_them() {
        let inner = switch(&[("y", leaf("a"))], None);
        let node = switch(&[("x", leaf("b"))], Some(inner));
        for (labels, expected) in
            [(["x", "y", "x", "y", "x"], 4), (["x", "x", "x", "y", "y"], 2), (["y", "y", "y", "y", "y"], 4)]
        {
            let error = answer(&Refusing, &node, 0, &batch(&[0.0; 5], &labels)).await.unwrap_err();
            assert!(error.message().ends_with(&format!("row {expected}: row 0 was better")), "{error:?}");
            assert_eq!(error.row(), Some(expected));
        }
    }

    /// Doubles the column `scores`, and refuses 4 in it and the label `no`.
    struct Doubling;

    impl Answering for Doubling {
        type Error = ApiError;

        async fn ask(&self, _: usize, _: &Name, inputs: &Batch) -> Result<Batch, ApiError> {
            let scores = inputs.column("scores").and_then(Tensor::as_f32).unwrap();
            let labels = texts_of(inputs.column("label").unwrap());
            let refused = |column: &str, row: Option<usize>| {
                let row = row? as u64;
                let message = format!("row {row}, column `{column}`: not that");
                Some(ApiError::invalid_input(message, Some(row), Some(column.to_owned())))
            };
            let error = refused("label", labels.iter().position(|label| label == "no"))
                .or_else(|| refused("scores", scores.iter().position(|score| *score == 4.0)));
            let doubled: Vec<f32> = scores.iter().map(|score| score * 2.0).collect();
            error.map_or(
                Ok(Batch::new(vec![Tensor::from_f32("scores", vec![doubled.len()], &doubled).unwrap()])
                    .unwrap()),
                Err,
            )
        }
    }

    #[tokio::test]
    async fn what_parts_have_made_is_no_mistake_of_whoever_asked() {
        let chain = Node::Sequence(vec![leaf("a"), Node::Sequence(vec![leaf("b"), leaf("c")])]);
        let node = switch(&[("x", leaf("a"))], Some(chain));
        let ask = async |scores: &[f32], labels: &[&str]| {
            let error = answer(&Doubling, &node, 0, &batch(scores, labels)).await.unwrap_err();
            (error.status().as_u16(), error.message().to_owned(), error.row())
        };
        let sent = (400, "row 1, column `scores`: not that".to_owned(), Some(1));
        assert_eq!(ask(&[0.0, 4.0], &["y", "y"]).await, sent);
        let made = "an endpoint was given by those before it what it does not take: row 1, column `scores`: not that";
        for score in [1.0, 2.0] {
            assert_eq!(ask(&[0.0, score], &["x", "y"]).await, (500, made.to_owned(), Some(1)), "{score}");
        }
        let sent = (400, "row 1, column `label`: not that".to_owned(), Some(1));
        assert_eq!(ask(&[0.0, 0.0], &["x", "no"]).await, sent);
    }

    /// Answers with a column of as many rows as it is the how-manieth to be asked, whatever they are.
    struct Growing(Mutex<usize>);

    impl Answering for Growing {
        type Error = ApiError;

        async fn ask(&self, _: usize, _: &Name, inputs: &Batch) -> Result<Batch, ApiError> {
            let mut asked = self.0.lock().unwrap();
            *asked += 1;
            assert!(*asked == 1 || inputs.column("label").is_some(), "what came before is known");
            Ok(batch(&vec![1.0; *asked], &vec!["x"; *asked]))
        }
    }

    #[tokio::test]
    async fn the_last_answer_of_a_sequence_is_its_answer() {
        let ask = async |names: &[&str]| {
            let node = Node::Sequence(names.iter().map(|name| leaf(name)).collect());
            answer(&Growing(Mutex::default()), &node, 0, &batch(&[7.0], &["y"])).await
        };
        for names in [&["a"][..], &["a", "b"], &["a", "b", "c"]] {
            assert_eq!(ask(names).await.unwrap().rows(), names.len());
        }
    }

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
}
