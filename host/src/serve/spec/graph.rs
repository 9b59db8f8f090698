//! Graphs of endpoints, as an endpoint file has them, and records of predictions.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::super::Node;

/// A part of a graph: an endpoint's name, or a graph.
pub(super) enum NodeFields {
    Endpoint(String),
    Graph(Box<GraphFields>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "one of `sequence`, `switch` and `ensemble`")]
pub(super) struct GraphFields {
    pub(super) sequence: Option<Vec<NodeFields>>,
    pub(super) switch: Option<SwitchFields>,
    pub(super) ensemble: Option<Vec<MemberFields>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "`column` and `cases` of a switch")]
pub(super) struct SwitchFields {
    column: String,
    cases: BTreeMap<String, NodeFields>,
    default: Option<Box<NodeFields>>,
}

/// A part of an ensemble: an endpoint's name, a graph, or one of them with its weight.
pub(super) enum MemberFields {
    Endpoint(String),
    Other(Box<OtherMemberFields>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OtherMemberFields {
    endpoint: Option<NodeFields>,
    weight: Option<f64>,
    sequence: Option<Vec<NodeFields>>,
    switch: Option<SwitchFields>,
    ensemble: Option<Vec<MemberFields>>,
}

impl<'de> Deserialize<'de> for NodeFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name_or_fields = NameOrFields { of_name: Self::Endpoint, of_fields: Self::Graph };
        deserializer.deserialize_any(name_or_fields)
    }
}

impl<'de> Deserialize<'de> for MemberFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name_or_fields = NameOrFields { of_name: Self::Endpoint, of_fields: Self::Other };
        deserializer.deserialize_any(name_or_fields)
    }
}

/// Reads an endpoint's name or fields. An untagged enum would take all of them as they look before it knows which it is, so that
/// `1` as a case of a switch would be no text any more; and it could not say what is wrong.
struct NameOrFields<F, T> {
    of_name: fn(String) -> T,
    of_fields: fn(Box<F>) -> T,
}

impl<'de, F: Deserialize<'de>, T> Visitor<'de> for NameOrFields<F, T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the name of an endpoint or a graph")
    }

    fn visit_str<E>(self, name: &str) -> Result<T, E> {
        Ok((self.of_name)(name.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
        F::deserialize(MapAccessDeserializer::new(fields)).map(|fields| (self.of_fields)(Box::new(fields)))
    }
}

impl Node {
    /// It as JSON, with the fields that it has in an endpoint file.
    pub(in crate::serve) fn form(&self) -> Value {
        match self {
            Self::Endpoint(name) => json!(name),
            Self::Sequence(nodes) => json!({ "sequence": nodes.iter().map(Self::form).collect::<Vec<_>>() }),
            Self::Switch { column, cases, otherwise } => {
                let cases: Map<_, _> =
                    cases.iter().map(|(value, node)| (value.clone(), node.form())).collect();
                let default = otherwise.as_deref().map(Self::form);
                json!({ "switch": { "column": column, "cases": cases, "default": default } })
            }
            Self::Ensemble(nodes) => {
                let member =
                    |(node, weight): &(Self, f64)| json!({ "endpoint": node.form(), "weight": weight });
                json!({ "ensemble": nodes.iter().map(member).collect::<Vec<_>>() })
            }
        }
    }

    /// The graph of such JSON, if it is one and within its limits; otherwise what is wrong.
    pub(in crate::serve) fn of_form(form: &Value) -> Result<Self, String> {
        GraphFields::deserialize(form).map_err(|error| error.to_string())?.node()
    }
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
        let other = match self {
            Self::Endpoint(name) => return Ok((NodeFields::Endpoint(name).node()?, 1.0)),
            Self::Other(other) => *other,
        };
        let OtherMemberFields { endpoint, weight, sequence, switch, ensemble } = other;
        let graph = GraphFields { sequence, switch, ensemble };
        let node = match endpoint {
            None => graph.node()?,
            Some(endpoint) if graph.is_empty() => endpoint.node()?,
            Some(_) => {
                return Err(
                    "expected one of `endpoint`, `sequence`, `switch` and `ensemble` of a part of `ensemble`"
                        .to_owned(),
                );
            }
        };
        let weight = weight.unwrap_or(1.0);
        if weight > 0.0 && weight <= 1e6 {
            return Ok((node, weight));
        }
        Err(format!("a weight is {weight}: expected more than 0 and at most 1000000"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_node() -> impl Strategy<Value = Node> {
        let leaf = "[a-z][a-z0-9-]{0,8}".prop_map(|name| Node::Endpoint(name.parse().unwrap()));
        leaf.prop_recursive(4, 24, 4, |inner| {
            let member = (inner.clone(), prop_oneof![Just(1.0), 1e-300..=1e6]);
            let cases = prop::collection::btree_map("\\PC{0,4}", inner.clone(), 1..4);
            let otherwise = prop::option::of(inner.clone().prop_map(Box::new));
            prop_oneof![
                prop::collection::vec(inner, 1..4).prop_map(Node::Sequence),
                ("\\PC{0,8}", cases, otherwise).prop_map(|(column, cases, otherwise)| Node::Switch {
                    column,
                    cases,
                    otherwise
                }),
                prop::collection::vec(member, 1..4).prop_map(Node::Ensemble),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_graph_is_the_same_when_it_is_read_back(node in any_node()) {
            // An endpoint alone is no graph.
            let node = Node::Sequence(vec![node]);
            let text = node.form().to_string();
            let read = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(Node::of_form(&read).ok(), node.check_size().ok().map(|()| node));
        }
    }

    #[test]
    fn what_is_no_graph_or_too_large_is_refused() {
        let refused = |form: Value| Node::of_form(&form).unwrap_err();
        let deep = |levels: usize| (0..levels).fold(json!("e"), |inner, _| json!({ "sequence": [inner] }));
        assert_eq!(refused(deep(8)), "it is 9 levels deep: expected at most 8");
        assert_eq!(refused(deep(50)), "it is 9 levels deep: expected at most 8");
        let wide = json!({ "ensemble": vec!["e"; 65] });
        assert_eq!(refused(wide), "it has 65 endpoints: expected at most 64");
        let weighted = json!({ "ensemble": [{ "endpoint": "e", "weight": -1.0 }] });
        assert_eq!(refused(weighted), "a weight is -1: expected more than 0 and at most 1000000");
        for form in [
            json!(null),
            json!("e"),
            json!([]),
            json!({ "sequence": ["../e"] }),
            json!({ "sequence": [1] }),
            json!({ "sequence": ["e"], "ensemble": ["e"] }),
            json!({ "sequence": ["e"], "more": 1 }),
            json!({ "switch": { "column": "c" } }),
            json!({ "ensemble": [{ "weight": 1.0 }] }),
            json!({ "ensemble": [{ "endpoint": "e", "weight": 1.0, "sequence": ["e"] }] }),
            json!({ "ensemble": [null] }),
            json!({ "ensemble": [{ "endpoint": null }] }),
            json!({ "switch": "e" }),
            json!({ "switch": [] }),
            json!({ "sequence": [[]] }),
        ] {
            let told = refused(form.clone());
            assert!(!told.contains("struct") && !told.contains("Fields"), "{form}: {told}");
        }
        assert_eq!(
            refused(json!(null)),
            "invalid type: null, expected one of `sequence`, `switch` and `ensemble`"
        );
    }

    #[test]
    fn a_part_of_an_ensemble_has_the_weight_1_if_nothing_is_said() {
        let sequence = || json!(["a"]);
        let form = json!({ "ensemble": [
            "a", { "endpoint": "a" }, { "endpoint": { "sequence": sequence() } }, { "sequence": sequence() },
            { "sequence": sequence(), "weight": 2 },
        ] });
        let Node::Ensemble(parts) = Node::of_form(&form).unwrap() else { panic!("{form}") };
        assert_eq!(parts.iter().map(|(_, weight)| *weight).collect::<Vec<_>>(), [1.0, 1.0, 1.0, 1.0, 2.0]);
    }
}
