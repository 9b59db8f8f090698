//! The weights while they are trained, and the way forward through them.

use std::sync::Arc;

use candle_core::{Device, Tensor, Var};

use super::operations::LayerOperation;
use super::random::{Purpose, Random};
use crate::model::network::{Activation, Architecture, Geometry, Image, Network};
use crate::train::TrainError;

/// A network whose weights candle holds.
pub(super) struct Variables {
    pub architecture: Architecture,
    geometries: Vec<Arc<Geometry>>,
    /// Weights and biases of each layer, by turns.
    pub all: Vec<Var>,
    device: Device,
}

/// What is dropped of a batch: seed, step and share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dropout {
    pub seed: u32,
    pub step: u64,
    pub share: f64,
}

impl Variables {
    /// Takes a network's weights.
    pub(super) fn new(network: &Network, device: &Device) -> Result<Self, TrainError> {
        let architecture = network.architecture.clone();
        let images = architecture.check().map_err(|reason| TrainError::Network { reason })?;
        let (mut geometries, mut all) = (Vec::new(), Vec::new());
        let ends = images.iter().zip(images.iter().skip(1));
        for ((layer, (&input, &output)), [weights, bias]) in
            architecture.layers.iter().zip(ends).zip(&network.weights)
        {
            let [rows, columns] = layer.weight_shape(input);
            all.push(Var::from_slice(weights, (rows, columns), device)?);
            all.push(Var::from_slice(bias, columns, device)?);
            geometries.push(Arc::new(Geometry::new(layer, input, output)));
        }
        Ok(Self { architecture, geometries, all, device: device.clone() })
    }

    /// Weights to start from: uniform as He et al. (2015) for functions that are linear above zero, as Glorot and Bengio
    /// (2010) for the others; biases are zero.
    pub(super) fn initial(architecture: Architecture, seed: u32) -> Result<Network, TrainError> {
        let images = architecture.check().map_err(|reason| TrainError::Network { reason })?;
        let mut weights = Vec::new();
        for (number, (layer, &input)) in (0..).zip(architecture.layers.iter().zip(&images)) {
            let [rows, columns] = layer.weight_shape(input);
            let fan_out = rows / input.channels.max(1) * columns;
            let bound = match layer.activation() {
                Activation::Relu | Activation::LeakyRelu => 6.0 / rows as f32,
                Activation::None | Activation::Tanh | Activation::Sigmoid => {
                    6.0 / (rows + fan_out.max(columns)) as f32
                }
            };
            let bound = bound.sqrt();
            let mut random = Random::new(seed, Purpose::Weights, number);
            let values = (0..rows * columns).map(|_| (2.0 * random.unit() - 1.0) * bound).collect();
            weights.push([values, vec![0.0; columns]]);
        }
        Ok(Network { architecture, weights })
    }

    /// The weights as they are now.
    pub(super) fn network(&self) -> candle_core::Result<Network> {
        let values = |variable: &Var| variable.flatten_all()?.to_vec1::<f32>();
        let pairs = self.all.as_chunks().0;
        let weights = pairs.iter().map(|[weights, bias]| Ok([values(weights)?, values(bias)?]));
        let weights = weights.collect::<candle_core::Result<_>>()?;
        Ok(Network { architecture: self.architecture.clone(), weights })
    }

    /// What the last layer says of rows.
    pub(super) fn forward(&self, rows: Tensor, dropout: Option<Dropout>) -> candle_core::Result<Tensor> {
        let mut values = rows;
        let last = self.geometries.len().saturating_sub(1);
        let pairs = self.all.as_chunks().0;
        for (number, (geometry, [weights, bias])) in self.geometries.iter().zip(pairs).enumerate() {
            values = match self.device.is_cpu() {
                true => {
                    let operation = LayerOperation::new(Arc::clone(geometry), number > 0);
                    values.apply_op3(weights, bias, operation)?
                }
                false => plain(geometry, &values, weights, bias)?,
            };
            let dense =
                geometry.input != geometry.output && geometry.output == Image::flat(geometry.output.channels);
            if let Some(dropout) = dropout.filter(|_| dense && number < last) {
                values = (&values * self.mask(dropout, number as u64, values.dims())?)?;
            }
        }
        Ok(values)
    }

    /// Zero for what is dropped; what stays is scaled so that sums keep their expectation.
    fn mask(&self, dropout: Dropout, layer: u64, shape: &[usize]) -> candle_core::Result<Tensor> {
        let mut random = Random::new(dropout.seed, Purpose::Dropout, dropout.step << 8 | layer);
        let share = dropout.share as f32;
        let kept = 1.0 / (1.0 - share);
        let mask = (0..shape.iter().product()).map(|_| if random.unit() < share { 0.0 } else { kept });
        Tensor::from_vec(mask.collect::<Vec<f32>>(), shape, &self.device)
    }
}

/// A layer put together from candle's own operations, for devices that [`LayerOperation`] has no code for.
pub(super) fn plain(
    geometry: &Geometry,
    rows: &Tensor,
    weights: &Tensor,
    bias: &Tensor,
) -> candle_core::Result<Tensor> {
    let count = rows.dim(0)?;
    if geometry.is_dense() {
        return activate(geometry.activation, &rows.matmul(weights)?.broadcast_add(bias)?);
    }
    let Image { height, width, channels } = geometry.input;
    let kernel = geometry.offsets.len() / geometry.run();
    let image = rows.reshape((count, height, width, channels))?.permute((0, 3, 1, 2))?.contiguous()?;
    let weights = weights.reshape((kernel, kernel, channels, geometry.output.channels))?;
    let product = image.conv2d(&weights.permute((3, 2, 0, 1))?.contiguous()?, 0, 1, 1, 1)?;
    let product = product.broadcast_add(&bias.reshape((1, geometry.output.channels, 1, 1))?)?;
    let pooled = if geometry.pool > 1 { product.max_pool2d(geometry.pool)? } else { product };
    let output = activate(geometry.activation, &pooled)?.permute((0, 2, 3, 1))?.contiguous()?;
    output.reshape((count, geometry.output_elements()))
}

fn activate(activation: Activation, values: &Tensor) -> candle_core::Result<Tensor> {
    match activation {
        Activation::None => Ok(values.clone()),
        Activation::Relu => values.relu(),
        Activation::LeakyRelu => values.maximum(&(values * f64::from(Activation::LEAK))?),
        Activation::Tanh => values.tanh(),
        Activation::Sigmoid => (values.neg()?.exp()? + 1.0)?.recip(),
    }
}

#[cfg(test)]
mod tests;
