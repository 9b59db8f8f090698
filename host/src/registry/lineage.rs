//! What was made from what, across datasets, components, runs, bundles and models: a graph that can be walked from
//! anything in it to all that it was made from and to all that it led to.

mod neighbours;
mod subject;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use serde::Serialize;

use super::{Registry, RegistryError};
use crate::data::Catalog;
use crate::domain::{Digest, Name};
use crate::track::RunStatus;

pub use subject::LineageSubject;

/// Things that one lineage tells of at most.
const NODES_MAX: usize = 1_000;

/// Everything that something was made from, and everything that it led to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lineage {
    /// Each thing once; the first is the one that was asked about.
    pub nodes: Vec<LineageNode>,
    /// What went into what, in the order of `from` and `to`.
    pub edges: Vec<LineageEdge>,
    /// Whether there is more that is left out, because it is too much.
    pub is_truncated: bool,
}

/// One thing went into the making of another. The numbers are places among the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LineageEdge {
    /// What was taken.
    pub from: usize,
    /// What came of it.
    pub to: usize,
}

/// Something that was made, or made something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LineageNode {
    /// A version of a dataset.
    Dataset {
        /// The dataset; none if the version was deleted.
        name: Option<Name>,
        /// The version's number.
        version: Option<u32>,
        /// Digest of its manifest.
        digest: Digest,
    },
    /// A component.
    Component {
        /// The plugin's name; empty where nobody has noted it.
        name: String,
        /// Digest of its bytes.
        digest: Digest,
    },
    /// A run.
    Run {
        /// Its id.
        run_id: String,
        /// Its name.
        name: String,
        /// How far it is.
        status: RunStatus,
        /// The pipeline of which it is a step.
        pipeline: Option<String>,
    },
    /// The content of a model version.
    Bundle {
        /// Its digest.
        digest: Digest,
        /// The library that trained its model; none if the bundle is gone.
        framework: Option<String>,
    },
    /// A version of a model.
    Model {
        /// The model.
        name: String,
        /// The version's number.
        version: i64,
        /// Names of the version.
        aliases: Vec<String>,
    },
}

/// Which way to walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineageDirection {
    /// To what things were made from.
    Up,
    /// To what they led to.
    Down,
}

impl Registry {
    /// All that `subject` was made from and led to.
    pub async fn lineage(
        &self,
        catalog: &Catalog,
        subject: &LineageSubject,
    ) -> Result<Lineage, RegistryError> {
        let root = self.lineage_root(catalog, subject).await?;
        let mut walk = Walk::new(self, catalog, NODES_MAX);
        walk.place(root);
        walk.all(LineageDirection::Up).await?;
        walk.all(LineageDirection::Down).await?;
        Ok(walk.finish())
    }
}

impl Lineage {
    /// The places of what the node in a place was made from, or of what it led to.
    pub fn next(&self, place: usize, direction: LineageDirection) -> Vec<usize> {
        let next = self.edges.iter().filter_map(|edge| match direction {
            LineageDirection::Up => (edge.to == place).then_some(edge.from),
            LineageDirection::Down => (edge.from == place).then_some(edge.to),
        });
        next.collect()
    }
}

/// What nodes are told apart by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Dataset(Digest),
    Component(Digest),
    Run(String),
    Bundle(Digest),
    Model(String, i64),
}

impl LineageNode {
    fn key(&self) -> Key {
        match self {
            Self::Dataset { digest, .. } => Key::Dataset(*digest),
            Self::Component { digest, .. } => Key::Component(*digest),
            Self::Run { run_id, .. } => Key::Run(run_id.clone()),
            Self::Bundle { digest, .. } => Key::Bundle(*digest),
            Self::Model { name, version, .. } => Key::Model(name.clone(), *version),
        }
    }
}

/// A graph that is being explored.
struct Walk<'a> {
    registry: &'a Registry,
    catalog: &'a Catalog,
    nodes: Vec<LineageNode>,
    nodes_max: usize,
    places: HashMap<Key, usize>,
    edges: BTreeSet<LineageEdge>,
    is_truncated: bool,
}

impl<'a> Walk<'a> {
    fn new(registry: &'a Registry, catalog: &'a Catalog, nodes_max: usize) -> Self {
        Self {
            registry,
            catalog,
            nodes: Vec::new(),
            nodes_max,
            places: HashMap::new(),
            edges: BTreeSet::new(),
            is_truncated: false,
        }
    }

    /// The place of a node, which is new or not; none where there is no more room.
    fn place(&mut self, node: LineageNode) -> Option<usize> {
        let key = node.key();
        if let Some(place) = self.places.get(&key) {
            return Some(*place);
        }
        if self.nodes.len() >= self.nodes_max {
            self.is_truncated = true;
            return None;
        }
        let place = self.nodes.len();
        self.places.insert(key, place);
        self.nodes.push(node);
        Some(place)
    }

    /// Explores all that can be reached from the first node, the nearest first.
    async fn all(&mut self, direction: LineageDirection) -> Result<(), RegistryError> {
        let mut waiting = VecDeque::from([0]);
        let mut seen = HashSet::from([0]);
        while let Some(place) = waiting.pop_front() {
            let Some(node) = self.nodes.get(place).cloned() else { continue };
            let next = match direction {
                LineageDirection::Up => self.sources(&node).await?,
                LineageDirection::Down => self.products(&node).await?,
            };
            for node in next {
                let Some(other) = self.place(node) else { continue };
                self.edges.insert(match direction {
                    LineageDirection::Up => LineageEdge { from: other, to: place },
                    LineageDirection::Down => LineageEdge { from: place, to: other },
                });
                if seen.insert(other) {
                    waiting.push_back(other);
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Lineage {
        Lineage {
            nodes: self.nodes,
            edges: self.edges.into_iter().collect(),
            is_truncated: self.is_truncated,
        }
    }
}

#[cfg(test)]
mod tests;
