//! Graphs of endpoints, as an endpoint file has them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::Node;

/// A part of a graph: an endpoint's name, or a graph.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum NodeFields {
    Endpoint(String),
    Graph(Box<GraphFields>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GraphFields {
    pub(super) sequence: Option<Vec<NodeFields>>,
    pub(super) switch: Option<SwitchFields>,
    pub(super) ensemble: Option<Vec<MemberFields>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SwitchFields {
    column: String,
    cases: BTreeMap<String, NodeFields>,
    default: Option<Box<NodeFields>>,
}

/// A part of an ensemble, with its weight.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum MemberFields {
    Weighted(WeightedFields),
    Node(NodeFields),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WeightedFields {
    endpoint: NodeFields,
    weight: f64,
}

impl GraphFields {
    /// Whether nothing is said of a graph.
    pub(super) fn is_empty(&self) -> bool {
        self.sequence.is_none() && self.switch.is_none() && self.ensemble.is_none()
    }

    /// The graph, if it is one and within its limits; otherwise what is wrong.
    pub(super) fn node(self) -> Result<Node, String> {
        let node = match (self.sequence, self.switch, self.ensemble) {
            (Some(nodes), None, None) => {
                Node::Sequence(nodes.into_iter().map(NodeFields::node).collect::<Result<_, _>>()?)
            }
            (None, Some(SwitchFields { column, cases, default }), None) => {
                let case = |(value, node): (String, NodeFields)| Ok::<_, String>((value, node.node()?));
                let cases = cases.into_iter().map(case).collect::<Result<_, _>>()?;
                let otherwise = default.map(|node| node.node()).transpose()?.map(Box::new);
                Node::Switch { column, cases, otherwise }
            }
            (None, None, Some(members)) => {
                Node::Ensemble(members.into_iter().map(MemberFields::member).collect::<Result<_, _>>()?)
            }
            _ => return Err("expected one of `sequence`, `switch` and `ensemble`".to_owned()),
        };
        node.check_size()?;
        Ok(node)
    }
}

impl NodeFields {
    fn node(self) -> Result<Node, String> {
        match self {
            Self::Endpoint(name) => {
                let name = name.parse().map_err(|error: crate::domain::NameError| error.to_string())?;
                Ok(Node::Endpoint(name))
            }
            Self::Graph(graph) => graph.node(),
        }
    }
}

impl MemberFields {
    fn member(self) -> Result<(Node, f64), String> {
        match self {
            Self::Node(node) => Ok((node.node()?, 1.0)),
            Self::Weighted(WeightedFields { endpoint, weight }) if weight > 0.0 && weight <= 1e6 => {
                Ok((endpoint.node()?, weight))
            }
            Self::Weighted(WeightedFields { weight, .. }) => {
                Err(format!("a weight is {weight}: expected more than 0 and at most 1000000"))
            }
        }
    }
}
