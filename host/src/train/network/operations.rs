//! Layers as operations of candle, with gradients of their own.
//!
//! candle's convolution copies its patches and computes the gradient of the input as a transposed convolution, also for
//! the first layer; its pooling finds the largest numbers again on the way back. Here one operation is a whole layer:
//! product, bias, pooling and activation, by the same code that scores.
//!
//! Gradients of weights are summed over groups of [`ROWS`] rows, and those in order, so that a result does not depend on
//! the number of threads.

#![expect(clippy::indexing_slicing, reason = "numeric kernels; shapes are those of the geometry")]

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

use crate::model::network::{Geometry, LANES, Panels, View, Weights, multiply, multiply_transposed};

/// Rows that one thread takes at a time.
const ROWS: usize = 8;

/// A layer. Its arguments are rows, weights of [`crate::model::network::Layer::weight_shape`], and biases.
pub(super) struct LayerOperation {
    geometry: Arc<Geometry>,
    /// Whether anybody wants the gradient of the rows.
    input_gradient: bool,
    /// Which of the pooled positions each result came from.
    taken: OnceLock<Vec<u32>>,
}

impl LayerOperation {
    pub(super) fn new(geometry: Arc<Geometry>, input_gradient: bool) -> Self {
        Self { geometry, input_gradient, taken: OnceLock::new() }
    }

    fn shape(&self) -> [usize; 2] {
        [self.geometry.offsets.len(), self.geometry.output.channels]
    }

    fn forward_convolution(&self, input: &[f32], weights: &Weights, output: &mut [f32]) -> Vec<u32> {
        let geometry = &*self.geometry;
        let (from, to) = (geometry.input_elements(), geometry.output_elements());
        let pooled = geometry.pool > 1;
        let mut taken = vec![0; if pooled { output.len() } else { 0 }];
        let run = |(input, output, taken): (&[f32], &mut [f32], &mut [u32])| {
            let mut product = vec![0.0; if pooled { geometry.product_elements() } else { 0 }];
            let mut taken = taken.chunks_exact_mut(to);
            for (input, output) in input.chunks_exact(from).zip(output.chunks_exact_mut(to)) {
                let taken = taken.next().unwrap_or_default();
                geometry.convolve(weights, input, &mut product, output, taken);
            }
        };
        let input = input.par_chunks(ROWS * from);
        let output = output.par_chunks_mut(ROWS * to);
        match pooled {
            true => {
                let taken = taken.par_chunks_mut(ROWS * to);
                input.zip(output).zip(taken).for_each(|((input, output), taken)| run((input, output, taken)));
            }
            false => input.zip(output).for_each(|(input, output)| run((input, output, &mut []))),
        }
        taken
    }

    fn forward_dense(&self, input: &[f32], weights: &Weights, output: &mut [f32]) {
        let (from, to) = (self.geometry.input_elements(), self.geometry.output_elements());
        let groups = input.par_chunks(ROWS * from).zip(output.par_chunks_mut(ROWS * to));
        groups.for_each(|(input, output)| self.geometry.dense(weights, input, output));
    }

    fn backward_convolution(&self, tape: &Tape<'_>) -> Gradients {
        let geometry = &*self.geometry;
        let (from, to) = (geometry.input_elements(), geometry.output_elements());
        let [patch, channels] = self.shape();
        let transposed = Panels::pack_transposed(tape.weights, channels, patch);
        let taken = self.taken.get().map(Vec::as_slice).unwrap_or_default();
        let group = |group: usize| {
            let rows = group * ROWS..tape.rows(to).min((group + 1) * ROWS);
            let mut sums = ConvolutionGradients::new(self, rows.len());
            for (place, row) in rows.enumerate() {
                let taken = taken.get(row * to..(row + 1) * to).unwrap_or_default();
                let span = row * to..(row + 1) * to;
                sums.unpool(geometry, &tape.output[span.clone()], &tape.gradient[span], taken);
                let view = View {
                    data: &tape.input[row * from..(row + 1) * from],
                    bases: &geometry.bases,
                    offsets: &geometry.offsets,
                };
                multiply_transposed(view, sums.product.lanes(), sums.weights.lanes_mut());
                if self.input_gradient {
                    sums.input(geometry, &transposed, place);
                }
            }
            sums
        };
        let groups = 0..tape.rows(to).div_ceil(ROWS);
        let groups: Vec<_> = groups.into_par_iter().map(group).collect();
        let mut weights = Panels::zeros(patch, channels);
        let mut bias = vec![0.0; channels];
        let mut input = Vec::with_capacity(if self.input_gradient { tape.input.len() } else { 0 });
        for sums in groups {
            add(weights.lanes_mut().as_flattened_mut(), sums.weights.lanes().as_flattened());
            add(&mut bias, &sums.bias);
            input.extend_from_slice(&sums.input);
        }
        Gradients { input: self.input_gradient.then_some(input), weights: weights.unpack(), bias }
    }

    fn backward_dense(&self, tape: &Tape<'_>) -> Gradients {
        let [from, to] = self.shape();
        let activation = self.geometry.activation;
        let values = tape.gradient.iter().zip(tape.output);
        let product: Vec<f32> = values.map(|(gradient, value)| gradient * activation.slope(*value)).collect();
        let mut bias = vec![0.0; to];
        product.chunks_exact(to).for_each(|product| add(&mut bias, product));
        let rows = tape.rows(to);
        let product = Panels::pack(&product, rows, to);
        let bases: Vec<usize> = (0..rows).map(|row| row * from).collect();
        let view = View { data: tape.input, bases: &bases, offsets: &self.geometry.offsets };
        let mut weights = Panels::zeros(from, to);
        let panels = product.lanes().par_chunks(rows).zip(weights.lanes_mut().par_chunks_mut(from));
        panels.for_each(|(product, weights)| multiply_transposed(view, product, weights));
        let input = self.input_gradient.then(|| {
            let transposed = Panels::pack_transposed(tape.weights, to, from);
            let zeros = vec![[0.0; LANES]; from.div_ceil(LANES)];
            let bases: Vec<usize> = (0..rows).map(|row| row * LANES).collect();
            let offsets = panel_offsets(&product, to);
            let mut input = vec![0.0; rows * from];
            let groups = input.par_chunks_mut(ROWS * from).zip(bases.par_chunks(ROWS));
            groups.for_each(|(input, bases)| {
                let view = View { data: product.lanes().as_flattened(), bases, offsets: &offsets };
                multiply(view, &transposed, &zeros, input);
            });
            input
        });
        Gradients { input, weights: weights.unpack(), bias }
    }
}

/// What is known on the way back.
struct Tape<'a> {
    input: &'a [f32],
    weights: &'a [f32],
    output: &'a [f32],
    gradient: &'a [f32],
}

impl Tape<'_> {
    fn rows(&self, elements: usize) -> usize {
        self.output.len() / elements
    }
}

/// Gradients of a layer's arguments.
struct Gradients {
    input: Option<Vec<f32>>,
    weights: Vec<f32>,
    bias: Vec<f32>,
}

/// Gradients of a group of rows, with the scratch for one.
struct ConvolutionGradients {
    /// Gradient of the products of one row.
    product: Panels,
    /// Gradient of the patches of one row.
    patches: Vec<f32>,
    /// Where the channels of `product` lie.
    offsets: Vec<usize>,
    /// Where the positions of `product` lie.
    bases: Vec<usize>,
    zeros: Vec<[f32; LANES]>,
    weights: Panels,
    bias: Vec<f32>,
    input: Vec<f32>,
}

impl ConvolutionGradients {
    fn new(operation: &LayerOperation, rows: usize) -> Self {
        let geometry = &*operation.geometry;
        let [patch, channels] = operation.shape();
        let positions = geometry.bases.len();
        let product = Panels::zeros(positions, channels);
        let wanted = |count: usize| if operation.input_gradient { count } else { 0 };
        Self {
            patches: vec![0.0; wanted(positions * patch)],
            offsets: panel_offsets(&product, channels),
            bases: (0..positions).map(|position| position * LANES).collect(),
            zeros: vec![[0.0; LANES]; patch.div_ceil(LANES)],
            weights: Panels::zeros(patch, channels),
            bias: vec![0.0; channels],
            input: vec![0.0; wanted(rows * geometry.input_elements())],
            product,
        }
    }

    /// Takes the gradient of one row's results to that of its products.
    fn unpool(&mut self, geometry: &Geometry, output: &[f32], gradient: &[f32], taken: &[u32]) {
        let channels = geometry.output.channels;
        let positions = self.product.rows();
        let lanes = self.product.lanes_mut();
        lanes.fill([0.0; LANES]);
        let places = output.chunks_exact(channels).zip(gradient.chunks_exact(channels));
        for ((place, corner), (values, gradients)) in geometry.corners.iter().enumerate().zip(places) {
            for (channel, (value, gradient)) in values.iter().zip(gradients).enumerate() {
                let within = taken.get(place * channels + channel).copied().unwrap_or_default();
                let position = corner + geometry.pooled[within as usize];
                let gradient = gradient * geometry.activation.slope(*value);
                self.bias[channel] += gradient;
                lanes[channel / LANES * positions + position][channel % LANES] = gradient;
            }
        }
    }

    /// Adds what each patch says to the gradient of the image at `place`.
    fn input(&mut self, geometry: &Geometry, transposed: &Panels, place: usize) {
        let view =
            View { data: self.product.lanes().as_flattened(), bases: &self.bases, offsets: &self.offsets };
        multiply(view, transposed, &self.zeros, &mut self.patches);
        let from = geometry.input_elements();
        let input = &mut self.input[place * from..(place + 1) * from];
        let run = geometry.run();
        for (base, patch) in geometry.bases.iter().zip(self.patches.chunks_exact(geometry.offsets.len())) {
            for (values, offset) in patch.chunks_exact(run).zip(geometry.offsets.iter().step_by(run)) {
                add(&mut input[base + offset..][..run], values);
            }
        }
    }
}

/// Where the columns of panels lie in a row of them.
fn panel_offsets(panels: &Panels, columns: usize) -> Vec<usize> {
    (0..columns).map(|column| column / LANES * panels.rows() * LANES + column % LANES).collect()
}

fn add(sums: &mut [f32], values: &[f32]) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

impl CustomOp3 for LayerOperation {
    fn name(&self) -> &'static str {
        "layer"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        input_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let input = slice(input, input_layout)?;
        let weights = Weights::pack(slice(weights, weights_layout)?, slice(bias, bias_layout)?, self.shape());
        let rows = input.len() / self.geometry.input_elements();
        let mut output = vec![0.0; rows * self.geometry.output_elements()];
        if self.geometry.is_dense() {
            self.forward_dense(input, &weights, &mut output);
        } else {
            let taken = self.forward_convolution(input, &weights, &mut output);
            if self.taken.set(taken).is_err() {
                bail!("a layer's operation ran twice");
            }
        }
        Ok((CpuStorage::F32(output), Shape::from((rows, self.geometry.output_elements()))))
    }

    fn bwd(
        &self,
        input: &Tensor,
        weights: &Tensor,
        bias: &Tensor,
        output: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let found = {
            let locked = [input, weights, output, &gradient].map(Tensor::storage_and_layout);
            let [input, weights, output, gradient] = &locked;
            let tape = Tape {
                input: stored(input)?,
                weights: stored(weights)?,
                output: stored(output)?,
                gradient: stored(gradient)?,
            };
            match self.geometry.is_dense() {
                true => self.backward_dense(&tape),
                false => self.backward_convolution(&tape),
            }
        };
        let tensor = |values: Vec<f32>, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        let input = found.input.map(|values| tensor(values, input)).transpose()?;
        Ok((input, Some(tensor(found.weights, weights)?), Some(tensor(found.bias, bias)?)))
    }
}

fn stored<'a>(
    (storage, layout): &'a (impl Deref<Target = Storage>, &Layout),
) -> candle_core::Result<&'a [f32]> {
    match &**storage {
        Storage::Cpu(storage) => slice(storage, layout),
        _ => bail!("a layer's operation is for the processor only"),
    }
}

/// The numbers of a tensor that lie in a row.
pub(super) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets().and_then(|(start, end)| values.get(start..end)) {
        Some(values) => Ok(values),
        None => bail!("a layer's operation takes tensors that lie in a row only"),
    }
}

/// The same, to write to.
pub(super) fn slice_mut<'a>(
    storage: &'a mut CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a mut [f32]> {
    let CpuStorage::F32(values) = storage else { bail!("a step takes numbers of 32 bits only") };
    match layout.contiguous_offsets().and_then(|(start, end)| values.get_mut(start..end)) {
        Some(values) => Ok(values),
        None => bail!("a step takes tensors that lie in a row only"),
    }
}

#[cfg(test)]
mod tests;
