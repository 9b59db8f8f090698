//! The weights while they are trained, and the way forward through them.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3 as _, Device, InplaceOp2, Layout, Tensor, Var, bail};

use super::loss::mean_loss;
use super::operations::{LayerOperation, slice, slice_mut};
use super::random::{Purpose, Random};
use crate::model::network::{Activation, Architecture, Geometry, Layer, Network, plain};
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

    /// Loss of rows, what the last layer says of them, and the gradients of all variables.
    pub(super) fn differentiate(
        &self,
        rows: Tensor,
        labels: &[f32],
        dropout: Option<Dropout>,
    ) -> candle_core::Result<Differentiated> {
        match self.device.is_cpu() {
            true => self.by_layers(rows, labels, dropout),
            false => self.by_candle(rows, labels, dropout),
        }
    }

    /// Goes through the layers and back without candle's graph, whose sums of gradients cost copies, and threads of its
    /// own that spin.
    fn by_layers(
        &self,
        rows: Tensor,
        labels: &[f32],
        dropout: Option<Dropout>,
    ) -> candle_core::Result<Differentiated> {
        let mut values = rows;
        let mut tape = Vec::with_capacity(self.geometries.len());
        let pairs = self.all.as_chunks().0;
        for (number, (geometry, [weights, bias])) in self.geometries.iter().zip(pairs).enumerate() {
            let operation = LayerOperation::new(Arc::clone(geometry), number > 0);
            let output = values.apply_op3_no_bwd(weights, bias, &operation)?;
            let mask = self.mask(number, dropout, output.dims())?;
            let dropped = match &mask {
                // A copy, for the layer's gradient is known from what it said before.
                Some(mask) => {
                    let dropped = output.copy()?;
                    dropped.inplace_op2(mask, &Multiply)?;
                    dropped
                }
                None => output.clone(),
            };
            tape.push((operation, values, output, mask));
            values = dropped;
        }
        let logits = Var::from_tensor(&values)?;
        let loss = mean_loss(self.architecture.output, &logits, labels, &self.device)?;
        let mut gradient = loss.backward()?.remove(&logits);
        let mut gradients = Vec::with_capacity(self.all.len());
        for ((operation, input, output, mask), [weights, bias]) in tape.into_iter().zip(pairs).rev() {
            let Some(given) = gradient.take() else { bail!("a layer has no gradient") };
            if let Some(mask) = mask {
                given.inplace_op2(&mask, &Multiply)?;
            }
            let (of_input, of_weights, of_bias) = operation.bwd(&input, weights, bias, &output, &given)?;
            gradients.extend([of_bias, of_weights].into_iter().flatten());
            gradient = of_input;
        }
        gradients.reverse();
        Ok(Differentiated { loss, logits: values, gradients })
    }

    /// The same by candle's own operations and graph, for devices that [`LayerOperation`] has no code for.
    fn by_candle(
        &self,
        rows: Tensor,
        labels: &[f32],
        dropout: Option<Dropout>,
    ) -> candle_core::Result<Differentiated> {
        let mut values = rows;
        let pairs = self.all.as_chunks().0;
        for (number, (geometry, [weights, bias])) in self.geometries.iter().zip(pairs).enumerate() {
            values = plain(geometry, &values, weights, bias)?;
            if let Some(mask) = self.mask(number, dropout, values.dims())? {
                values = (values * mask)?;
            }
        }
        let loss = mean_loss(self.architecture.output, &values, labels, &self.device)?;
        let mut found = loss.backward()?;
        let gradient = |variable: &Var| match found.remove(variable) {
            Some(gradient) => gradient.contiguous(),
            None => bail!("a variable has no gradient"),
        };
        let gradients = self.all.iter().map(gradient).collect::<candle_core::Result<_>>()?;
        Ok(Differentiated { loss, logits: values, gradients })
    }

    /// What to multiply the output of a layer with, if something of it is dropped, which is only between dense layers: zero
    /// for what is dropped; what stays is scaled so that sums keep their expectation.
    fn mask(
        &self,
        layer: usize,
        dropout: Option<Dropout>,
        shape: &[usize],
    ) -> candle_core::Result<Option<Tensor>> {
        let is_dense = matches!(self.architecture.layers.get(layer), Some(Layer::Dense { .. }));
        let is_last = layer + 1 == self.geometries.len();
        let Some(dropout) = dropout.filter(|_| is_dense && !is_last) else { return Ok(None) };
        let mut random = Random::new(dropout.seed, Purpose::Dropout, dropout.step << 8 | layer as u64);
        let share = dropout.share as f32;
        let kept = 1.0 / (1.0 - share);
        let mask = (0..shape.iter().product()).map(|_| if random.unit() < share { 0.0 } else { kept });
        Tensor::from_vec(mask.collect::<Vec<f32>>(), shape, &self.device).map(Some)
    }
}

/// What [`Variables::differentiate`] finds.
pub(super) struct Differentiated {
    pub loss: Tensor,
    pub logits: Tensor,
    /// One for each variable.
    pub gradients: Vec<Tensor>,
}

/// `value · factor`, in place.
struct Multiply;

impl InplaceOp2 for Multiply {
    fn name(&self) -> &'static str {
        "multiply"
    }

    fn cpu_fwd(
        &self,
        values: &mut CpuStorage,
        values_layout: &Layout,
        factors: &CpuStorage,
        factors_layout: &Layout,
    ) -> candle_core::Result<()> {
        let factors = slice(factors, factors_layout)?;
        let pairs = slice_mut(values, values_layout)?.iter_mut().zip(factors);
        pairs.for_each(|(value, factor)| *value *= factor);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
