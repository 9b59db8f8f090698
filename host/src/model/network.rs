//! Networks: convolutions and dense layers, one after another.
//!
//! A row's scores are the same bits however rows are grouped, for every number is one chain of fused multiply-adds in
//! an order that the file alone decides; see [`kernel`]. Exponentials and hyperbolic tangents are those of the
//! platform, whose last bits may differ from one platform to another.

mod architecture;
mod device;
mod file;
mod kernel;
mod layers;

pub use architecture::{ARCHITECTURE_VERSION, Activation, Architecture, Image, Layer, Output};
pub(crate) use device::{DeviceNetwork, gpu, plain, reason_of};
pub use file::Network;
pub(crate) use file::{is_safetensors, little_endian, names, read, shapes, write};
pub(crate) use kernel::{LANES, Panels, View, multiply, multiply_transposed};
pub(crate) use layers::{Geometry, Weights};

use rayon::prelude::*;

use super::{Model, ModelError};

/// Rows that go through dense layers together; more would not make them faster.
const ROWS: usize = 8;

/// Multiplications from which on cores share the rows: those of some milliseconds on one.
const SHARED_PRODUCTS_MIN: usize = 1 << 24;

/// Multiplications that one of them takes at once: many times what it takes to wake its thread.
const PART_PRODUCTS_MIN: usize = 1 << 22;

/// Numbers that one layer may have in memory for all of them; larger rows go one by one.
const ELEMENTS_MAX: usize = 1 << 20;

/// A network, ready to score.
#[derive(Debug)]
pub(crate) struct NetworkModel {
    architecture: Architecture,
    layers: Vec<(Geometry, Weights)>,
    feature_count: usize,
    score_count: usize,
    weight_count: usize,
}

impl NetworkModel {
    /// Loads a model file.
    pub(super) fn load(bytes: &[u8]) -> Result<Self, ModelError> {
        let malformed = |reason| ModelError::Malformed { format: "network", reason };
        Self::new(&Network::from_bytes(bytes).map_err(malformed)?).map_err(malformed)
    }

    /// Prepares a network.
    pub(crate) fn new(network: &Network) -> Result<Self, String> {
        let architecture = network.architecture.clone();
        let images = architecture.check()?;
        let outputs = images.iter().skip(1);
        let geometries = architecture.layers.iter().zip(&images).zip(outputs);
        let layers: Vec<_> = geometries
            .zip(&network.weights)
            .map(|(((layer, &input), &output), [weights, bias])| {
                let packed = Weights::pack(weights, bias, layer.weight_shape(input));
                (Geometry::new(layer, input, output), packed)
            })
            .collect();
        Ok(Self {
            feature_count: layers.first().map_or(0, |(geometry, _)| geometry.input_elements()),
            score_count: layers.last().map_or(0, |(geometry, _)| geometry.output_elements()),
            weight_count: network.weights.iter().flatten().map(Vec::len).sum(),
            architecture,
            layers,
        })
    }

    /// Puts a few rows through all layers; `scratch` has two parts for what goes in and out of a layer, and a third for
    /// products before pooling.
    fn forward(&self, rows: usize, scratch: &mut Scratch, scores: &mut [f32]) {
        for (geometry, weights) in &self.layers {
            let Scratch { input, output, product } = &mut *scratch;
            let (from, to) = (geometry.input_elements(), geometry.output_elements());
            let (Some(from_rows), Some(to_rows)) = (input.get(..rows * from), output.get_mut(..rows * to))
            else {
                continue;
            };
            if geometry.is_dense() {
                geometry.dense(weights, from_rows, to_rows);
            } else {
                let products = if geometry.pool > 1 { geometry.product_elements() } else { 0 };
                let product = product.get_mut(..products).unwrap_or_default();
                for (from, to) in from_rows.chunks_exact(from).zip(to_rows.chunks_exact_mut(to)) {
                    geometry.convolve(weights, from, product, to, &mut []);
                }
            }
            std::mem::swap(input, output);
        }
        if let Some(logits) = scratch.input.get(..scores.len()) {
            scores.copy_from_slice(logits);
        }
    }

    /// Scores rows one group after the other.
    fn score_rows(&self, features: &[f32], scores: &mut [f32]) {
        let rows = features.len() / self.feature_count.max(1);
        let together = if self.largest() > ELEMENTS_MAX / ROWS { 1 } else { ROWS };
        let mut scratch = self.scratch(together.min(rows));
        let groups = features.chunks(together * self.feature_count.max(1));
        for (features, scores) in groups.zip(scores.chunks_mut(together * self.score_count.max(1))) {
            let missing = self.architecture.missing;
            for (input, &feature) in scratch.input.iter_mut().zip(features) {
                *input = if feature.is_nan() { missing } else { feature };
            }
            self.forward(features.len() / self.feature_count.max(1), &mut scratch, scores);
        }
    }

    /// Multiplications of a row.
    fn products(&self) -> usize {
        let of_layers = self.layers.iter().map(|(geometry, _)| geometry.products());
        of_layers.fold(1, usize::saturating_add)
    }

    /// Rows that one core takes at once.
    fn part_rows(&self) -> usize {
        match PART_PRODUCTS_MIN.div_ceil(self.products()) {
            few if few < ROWS => few,
            rows => rows.next_multiple_of(ROWS),
        }
    }

    /// Numbers of a row that go in or out of a layer, at most.
    fn largest(&self) -> usize {
        let ends =
            self.layers.iter().map(|(geometry, _)| geometry.input_elements().max(geometry.output_elements()));
        ends.max().unwrap_or_default()
    }

    fn scratch(&self, rows: usize) -> Scratch {
        let side = rows * self.largest();
        let pooled = self.layers.iter().filter(|(geometry, _)| geometry.pool > 1);
        let product = pooled.map(|(geometry, _)| geometry.product_elements()).max().unwrap_or_default();
        Scratch { input: vec![0.0; side], output: vec![0.0; side], product: vec![0.0; product] }
    }
}

/// Memory of one call of [`Model::score`].
struct Scratch {
    input: Vec<f32>,
    output: Vec<f32>,
    product: Vec<f32>,
}

impl Model for NetworkModel {
    fn description(&self) -> String {
        format!("network {} ({} weights)", self.architecture.summary(), self.weight_count)
    }

    fn feature_count(&self) -> usize {
        self.feature_count
    }

    fn score_count(&self) -> usize {
        self.score_count
    }

    fn predicts_values(&self) -> bool {
        matches!(self.architecture.output, Output::Regression { .. })
    }

    fn shares_cores(&self, rows: usize) -> bool {
        rows > 1 && rows.saturating_mul(self.products()) >= SHARED_PRODUCTS_MIN
    }

    fn byte_len(&self) -> usize {
        let places =
            |geometry: &Geometry| geometry.bases.len() + geometry.offsets.len() + geometry.corners.len();
        let layers = self.layers.iter();
        layers.map(|(geometry, weights)| weights.byte_len() + places(geometry) * size_of::<usize>()).sum()
    }

    fn score(&self, features: &[f32]) -> Result<Vec<f32>, ModelError> {
        let rows = features.len() / self.feature_count.max(1);
        let mut scores = vec![0.0; rows * self.score_count];
        if !self.shares_cores(rows) {
            self.score_rows(features, &mut scores);
        } else {
            let part = self.part_rows();
            let parts = features.par_chunks(part * self.feature_count.max(1));
            parts
                .zip(scores.par_chunks_mut(part * self.score_count.max(1)))
                .for_each(|(features, scores)| self.score_rows(features, scores));
        }
        self.architecture.output.apply(&mut scores, self.score_count);
        Ok(scores)
    }
}

#[cfg(test)]
mod tests;
