//! A layered layout (Sugiyama, Tagawa and Toda 1981): layers by longest path, long edges split at each layer, order
//! within layers by the mean place of neighbours, then places pulled towards neighbours.

use super::Node;

/// Points on long edges; with more, edges are drawn straight through.
const BENDS_MAX: usize = 20_000;
const SWEEPS: usize = 8;

/// Something that has a place: a node, or a bend of an edge that passes a layer.
#[derive(Debug, Clone)]
pub(super) struct Vertex {
    pub(super) layer: usize,
    /// The node; none for a bend.
    pub(super) node: Option<usize>,
    /// The middle, in rows from the top.
    pub(super) row: f64,
    before: Vec<usize>,
    after: Vec<usize>,
}

/// Places of all nodes and the ways of all edges.
#[derive(Debug)]
pub(super) struct Layout {
    /// Nodes first, by their index, then bends.
    pub(super) vertices: Vec<Vertex>,
    pub(super) layer_count: usize,
    pub(super) row_count: f64,
    /// Each edge as the vertices that it passes.
    pub(super) edges: Vec<Vec<usize>>,
}

/// The nodes of each layer, ascending: what needs nothing, then what needs only those, and so on.
pub(super) fn layers(nodes: &[Node]) -> Vec<Vec<usize>> {
    let mut layers: Vec<Vec<usize>> = Vec::new();
    let mut layer_of: Vec<usize> = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        let before = node.needs.iter().filter_map(|needed| layer_of.get(*needed)).max();
        let layer = before.map_or(0, |layer| layer + 1);
        layer_of.push(layer);
        if layers.len() <= layer {
            layers.resize(layer + 1, Vec::new());
        }
        if let Some(layer) = layers.get_mut(layer) {
            layer.push(index);
        }
    }
    layers
}

pub(super) fn layout(nodes: &[Node]) -> Layout {
    let mut layers = layers(nodes);
    let mut vertices: Vec<Vertex> = nodes
        .iter()
        .enumerate()
        .map(|(index, _)| Vertex {
            layer: 0,
            node: Some(index),
            row: 0.0,
            before: Vec::new(),
            after: Vec::new(),
        })
        .collect();
    for (layer, members) in layers.iter().enumerate() {
        for index in members {
            if let Some(vertex) = vertices.get_mut(*index) {
                vertex.layer = layer;
            }
        }
    }
    let edges = route(nodes, &mut vertices, &mut layers);
    for edge in &edges {
        for pair in edge.windows(2) {
            let [from, to] = *pair else { continue };
            if let Some(vertex) = vertices.get_mut(from) {
                vertex.after.push(to);
            }
            if let Some(vertex) = vertices.get_mut(to) {
                vertex.before.push(from);
            }
        }
    }
    sort(&mut vertices, &mut layers);
    pull(&mut vertices, &layers);
    let top = vertices.iter().map(|vertex| vertex.row).fold(f64::INFINITY, f64::min);
    let mut row_count: f64 = 1.0;
    for vertex in &mut vertices {
        vertex.row -= top;
        row_count = row_count.max(vertex.row + 1.0);
    }
    Layout { vertices, layer_count: layers.len(), row_count, edges }
}

/// The way of each edge, with a new bend in each layer that it passes.
fn route(nodes: &[Node], vertices: &mut Vec<Vertex>, layers: &mut [Vec<usize>]) -> Vec<Vec<usize>> {
    let layer_of = |vertices: &[Vertex], index: usize| vertices.get(index).map_or(0, |vertex| vertex.layer);
    let pairs =
        || nodes.iter().enumerate().flat_map(|(to, node)| node.needs.iter().map(move |from| (*from, to)));
    let bend_count: usize = pairs()
        .map(|(from, to)| layer_of(vertices, to).saturating_sub(layer_of(vertices, from) + 1))
        .fold(0, usize::saturating_add);
    let mut edges = Vec::new();
    for (from, to) in pairs() {
        let mut edge = vec![from];
        if bend_count <= BENDS_MAX {
            for layer in layer_of(vertices, from) + 1..layer_of(vertices, to) {
                edge.push(vertices.len());
                if let Some(members) = layers.get_mut(layer) {
                    members.push(vertices.len());
                }
                vertices.push(Vertex { layer, node: None, row: 0.0, before: Vec::new(), after: Vec::new() });
            }
        }
        edge.push(to);
        edges.push(edge);
    }
    edges
}

/// Orders each layer by the mean row of its neighbours, from left to right and back.
fn sort(vertices: &mut [Vertex], layers: &mut [Vec<usize>]) {
    for layer in layers.iter() {
        number(vertices, layer);
    }
    for sweep in 0..SWEEPS {
        let forwards = sweep % 2 == 0;
        let count = layers.len();
        for step in 0..count {
            let at = if forwards { step } else { count - 1 - step };
            let Some(layer) = layers.get_mut(at) else { continue };
            layer.sort_by(|left, right| {
                let key = |index: &usize| {
                    vertices.get(*index).map_or(0.0, |vertex| wish(vertices, vertex, forwards))
                };
                key(left).total_cmp(&key(right))
            });
            number(vertices, layer);
        }
    }
}

fn number(vertices: &mut [Vertex], layer: &[usize]) {
    let mut row = 0.0;
    for index in layer {
        if let Some(vertex) = vertices.get_mut(*index) {
            vertex.row = row;
            row += 1.0;
        }
    }
}

/// Where a vertex would stand for its edges to be straight.
fn wish(vertices: &[Vertex], vertex: &Vertex, forwards: bool) -> f64 {
    let neighbours = if forwards { &vertex.before } else { &vertex.after };
    let (mut sum, mut count) = (0.0, 0.0);
    for row in neighbours.iter().filter_map(|index| vertices.get(*index)).map(|vertex| vertex.row) {
        sum += row;
        count += 1.0;
    }
    if count > 0.0 { sum / count } else { vertex.row }
}

/// Moves the vertices of each layer towards their neighbours, in order and at least a row apart.
fn pull(vertices: &mut [Vertex], layers: &[Vec<usize>]) {
    for sweep in 0..SWEEPS {
        let forwards = sweep % 2 == 0;
        let count = layers.len();
        for step in 0..count {
            let at = if forwards { step } else { count - 1 - step };
            let Some(layer) = layers.get(at) else { continue };
            let wishes: Vec<f64> = layer
                .iter()
                .filter_map(|index| vertices.get(*index))
                .map(|vertex| wish(vertices, vertex, forwards))
                .collect();
            let mut rows: Vec<f64> = Vec::with_capacity(wishes.len());
            for wish in &wishes {
                let least = rows.last().map_or(f64::NEG_INFINITY, |row| row + 1.0);
                rows.push(wish.max(least));
            }
            // Pushing apart went downwards only: the layer as a whole goes back to where it wants to be.
            let off: f64 = rows.iter().zip(&wishes).map(|(row, wish)| row - wish).sum();
            let shift = off / f64::from(u32::try_from(rows.len().max(1)).unwrap_or(u32::MAX));
            for (index, row) in layer.iter().zip(rows) {
                if let Some(vertex) = vertices.get_mut(*index) {
                    vertex.row = row - shift;
                }
            }
        }
    }
}
