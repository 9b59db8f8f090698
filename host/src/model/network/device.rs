//! A network computed by candle's own operations, on a device that the layers of [`super::layers`] have no code for: a GPU.

use candle_core::{Device, Tensor};

use super::{Activation, Geometry, Image, Network, Output};
use crate::model::{Model, ModelError};

/// Numbers that the widest layer may have on the device for all rows at once: 1 GiB of them.
const ELEMENTS_MAX: usize = 1 << 28;

/// Rows that are sent together at most.
const ROWS_MAX: usize = 4_096;

/// A network whose weights are on a device. Its scores are those of [`super::NetworkModel`] up to rounding, which may depend on how
/// many rows there are.
#[derive(Debug)]
pub(crate) struct DeviceNetwork {
    description: String,
    layers: Vec<(Geometry, [Tensor; 2])>,
    output: Output,
    missing: f32,
    device: Device,
    byte_len: usize,
}

impl DeviceNetwork {
    /// Loads a model file, and sends its weights to `device`.
    pub(crate) fn load(bytes: &[u8], device: Device) -> Result<Self, ModelError> {
        let malformed = |reason| ModelError::Malformed { format: "network", reason };
        let Network { architecture, weights } = Network::from_bytes(bytes).map_err(malformed)?;
        let images = architecture.check().map_err(malformed)?;
        let ends = images.iter().zip(images.iter().skip(1));
        let mut layers = Vec::with_capacity(architecture.layers.len());
        for ((layer, (&input, &output)), [weights, bias]) in
            architecture.layers.iter().zip(ends).zip(&weights)
        {
            let [rows, columns] = layer.weight_shape(input);
            let weights = Tensor::from_slice(weights, (rows, columns), &device).map_err(failed)?;
            let bias = Tensor::from_slice(bias, columns, &device).map_err(failed)?;
            layers.push((Geometry::new(layer, input, output), [weights, bias]));
        }
        let count: usize = weights.iter().flatten().map(Vec::len).sum();
        Ok(Self {
            description: format!(
                "network {} ({count} weights) on {:?}",
                architecture.summary(),
                device.location()
            ),
            layers,
            output: architecture.output,
            missing: architecture.missing,
            device,
            byte_len: count * size_of::<f32>(),
        })
    }

    /// Rows that go through all layers together.
    fn rows_together(&self) -> usize {
        let of_layer = |geometry: &Geometry| geometry.input_elements().max(geometry.product_elements());
        let largest = self.layers.iter().map(|(geometry, _)| of_layer(geometry)).max().unwrap_or(1);
        (ELEMENTS_MAX / largest.max(1)).clamp(1, ROWS_MAX)
    }

    fn score_rows(&self, features: &[f32]) -> candle_core::Result<Vec<f32>> {
        let or_missing = |&feature: &f32| if feature.is_nan() { self.missing } else { feature };
        let (columns, features) =
            (self.feature_count().max(1), features.iter().map(or_missing).collect::<Vec<_>>());
        let mut values = Tensor::from_slice(&features, (features.len() / columns, columns), &self.device)?;
        for (geometry, [weights, bias]) in &self.layers {
            values = plain(geometry, &values, weights, bias)?;
        }
        values.flatten_all()?.to_vec1()
    }
}

impl Model for DeviceNetwork {
    fn description(&self) -> String {
        self.description.clone()
    }

    fn feature_count(&self) -> usize {
        self.layers.first().map_or(0, |(geometry, _)| geometry.input_elements())
    }

    fn score_count(&self) -> usize {
        self.layers.last().map_or(0, |(geometry, _)| geometry.output_elements())
    }

    fn predicts_values(&self) -> bool {
        matches!(self.output, Output::Regression { .. })
    }

    fn byte_len(&self) -> usize {
        self.byte_len
    }

    fn may_round(&self) -> bool {
        true
    }

    fn score(&self, features: &[f32]) -> Result<Vec<f32>, ModelError> {
        let columns = self.feature_count().max(1);
        let rows = features.len() / columns;
        let whole = features.get(..rows * columns).unwrap_or_default();
        let mut scores = Vec::with_capacity(rows * self.score_count());
        for features in whole.chunks(self.rows_together() * columns) {
            scores.extend(self.score_rows(features).map_err(failed)?);
        }
        self.output.apply(&mut scores, self.score_count());
        Ok(scores)
    }
}

/// The first GPU.
pub(crate) fn gpu() -> Result<Device, ModelError> {
    if !cfg!(feature = "cuda") {
        let reason =
            "this program was built without CUDA: build it with `cargo build --release --features cuda`";
        return Err(ModelError::Device { reason: reason.to_owned() });
    }
    Device::new_cuda(0).map_err(failed)
}

fn failed(error: candle_core::Error) -> ModelError {
    ModelError::Device { reason: reason_of(&error) }
}

/// What candle says of a failure, without where in the program it was, which says nothing to who uses it.
pub(crate) fn reason_of(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => reason_of(inner),
        other => other.to_string(),
    }
}

/// A layer put together from candle's own operations, by which networks are trained on such devices too.
pub(crate) fn plain(
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
    let pooled = if geometry.pool > 1 { max_pool(&product, geometry.pool)? } else { product };
    let output = activate(geometry.activation, &pooled)?.permute((0, 2, 3, 1))?.contiguous()?;
    output.reshape((count, geometry.output_elements()))
}

/// The largest value of each square of `pool` × `pool`; what is left at the edges is left out.
///
/// Not `max_pool2d`, whose gradient in candle 0.11 is too small by the number of values in a square.
fn max_pool(values: &Tensor, pool: usize) -> candle_core::Result<Tensor> {
    let (count, channels, height, width) = values.dims4()?;
    let (height, width) = (height / pool, width / pool);
    let whole = values.narrow(2, 0, height * pool)?.narrow(3, 0, width * pool)?.contiguous()?;
    whole
        .reshape((count, channels, height, pool, width * pool))?
        .max(3)?
        .reshape((count, channels, height, width, pool))?
        .max(4)
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
mod tests {
    use std::backtrace::Backtrace;

    use candle_core::Error;

    use super::*;

    #[test]
    fn reasons_are_told_without_where_they_were_found() {
        let (inner, backtrace) =
            (Box::new(Error::Msg("no device".to_owned())), Box::new(Backtrace::force_capture()));
        assert_eq!(reason_of(&Error::WithBacktrace { inner, backtrace }), "no device");
    }
}
