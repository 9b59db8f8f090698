//! Layers that compute: the geometry of a convolution is worked out once, weights are packed once.

#![expect(clippy::indexing_slicing, reason = "numeric kernels; shapes are checked when a network is made")]

use super::architecture::{Activation, Image, Layer};
use super::kernel::{LANES, Lanes, Panels, View, multiply};

/// Where the numbers lie that a layer multiplies.
#[derive(Debug, Clone)]
pub(crate) struct Geometry {
    /// What goes in.
    pub input: Image,
    /// What comes out of the products; what goes out where nothing is pooled.
    pub product: Image,
    /// What goes out.
    pub output: Image,
    /// Rows and columns of what is pooled; 1 for nothing.
    pub pool: usize,
    /// Applied to what is pooled.
    pub activation: Activation,
    /// Where in the input each patch under the kernel begins, by position of the product.
    pub bases: Vec<usize>,
    /// Where the numbers of a patch lie from its beginning.
    pub offsets: Vec<usize>,
}

impl Geometry {
    /// That of a layer which [`Layer::output`] says fits.
    pub(crate) fn new(layer: &Layer, input: Image, output: Image) -> Self {
        let activation = layer.activation();
        let (kernel, pool) = match *layer {
            Layer::Convolution { kernel, pool, .. } => (kernel, pool),
            Layer::Dense { .. } => {
                let offsets = (0..input.height * input.width * input.channels).collect();
                return Self { input, product: output, output, pool: 1, activation, bases: vec![0], offsets };
            }
        };
        // Positions that no pool takes are not computed.
        let side = |side: usize| side * pool;
        let product =
            Image { height: side(output.height), width: side(output.width), channels: output.channels };
        let pitch = input.width * input.channels;
        let at = |row: usize, column: usize| row * pitch + column * input.channels;
        let positions =
            (0..product.height).flat_map(|row| (0..product.width).map(move |column| (row, column)));
        let bases = positions.map(|(row, column)| at(row, column)).collect();
        let run = kernel * input.channels;
        let offsets = (0..kernel).flat_map(|row| row * pitch..row * pitch + run).collect();
        Self { input, product, output, pool, activation, bases, offsets }
    }

    /// Numbers of a patch that lie one after another: those of one row of the kernel.
    pub(crate) fn run(&self) -> usize {
        let following =
            self.offsets.windows(2).position(|pair| !matches!(pair, [left, right] if left + 1 == *right));
        following.map_or(self.offsets.len(), |last| last + 1)
    }

    /// Numbers of one row that come out of the products.
    pub(crate) fn product_elements(&self) -> usize {
        self.product.height * self.product.width * self.product.channels
    }

    /// Numbers of one row that go in.
    pub(crate) fn input_elements(&self) -> usize {
        self.input.height * self.input.width * self.input.channels
    }

    /// Numbers of one row that go out.
    pub(crate) fn output_elements(&self) -> usize {
        self.output.height * self.output.width * self.output.channels
    }

    /// Whether the layer has one position, so that rows can be multiplied together.
    pub(crate) fn is_dense(&self) -> bool {
        self.bases.len() == 1
    }

    /// Computes one image. `product` is scratch of [`Geometry::product_elements`]; `taken`, if it is not empty, is told
    /// for each number of `output` which of the pooled positions it came from.
    pub(crate) fn convolve(
        &self,
        weights: &Weights,
        input: &[f32],
        product: &mut [f32],
        output: &mut [f32],
        taken: &mut [u16],
    ) {
        let view = View { data: input, bases: &self.bases, offsets: &self.offsets };
        if self.pool == 1 {
            multiply(view, &weights.panels, &weights.bias, output);
        } else {
            multiply(view, &weights.panels, &weights.bias, product);
            match taken.is_empty() {
                true => self.pool(product, output),
                false => self.pool_and_tell(product, output, taken),
            }
        }
        self.activation.apply(output);
    }

    /// Computes rows of a dense layer together.
    pub(crate) fn dense(&self, weights: &Weights, input: &[f32], output: &mut [f32]) {
        let bases: Vec<usize> = (0..input.len()).step_by(self.input_elements()).collect();
        let view = View { data: input, bases: &bases, offsets: &self.offsets };
        multiply(view, &weights.panels, &weights.bias, output);
        self.activation.apply(output);
    }

    /// The place of a pooled position in the product, in numbers.
    pub(crate) fn position(&self, row: usize, column: usize, within: usize) -> usize {
        let (row, column) = (row * self.pool + within / self.pool, column * self.pool + within % self.pool);
        (row * self.product.width + column) * self.product.channels
    }

    fn pool(&self, product: &[f32], output: &mut [f32]) {
        let channels = self.output.channels;
        for (place, output) in output.chunks_exact_mut(channels).enumerate() {
            let (row, column) = (place / self.output.width, place % self.output.width);
            for within in 0..self.pool * self.pool {
                let values = &product[self.position(row, column, within)..][..channels];
                match within {
                    0 => output.copy_from_slice(values),
                    _ => output.iter_mut().zip(values).for_each(|(output, value)| {
                        // Not `f32::max`, which costs more for a choice that is not needed of NaN.
                        *output = if *value > *output { *value } else { *output };
                    }),
                }
            }
        }
    }

    fn pool_and_tell(&self, product: &[f32], output: &mut [f32], taken: &mut [u16]) {
        let channels = self.output.channels;
        let places = output.chunks_exact_mut(channels).zip(taken.chunks_exact_mut(channels)).enumerate();
        for (place, (output, taken)) in places {
            let (row, column) = (place / self.output.width, place % self.output.width);
            for within in 0..self.pool * self.pool {
                let values = &product[self.position(row, column, within)..][..channels];
                if within == 0 {
                    output.copy_from_slice(values);
                    taken.fill(0);
                    continue;
                }
                // At most `KERNEL_MAX` squared.
                let within = within as u16;
                for ((output, taken), value) in output.iter_mut().zip(&mut *taken).zip(values) {
                    let larger = *value > *output;
                    *output = if larger { *value } else { *output };
                    *taken = if larger { within } else { *taken };
                }
            }
        }
    }
}

/// Weights of a layer, packed for products.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Weights {
    pub panels: Panels,
    pub bias: Vec<Lanes>,
}

impl Weights {
    /// Takes row-major weights of this shape and a bias for each column.
    pub(crate) fn pack(weights: &[f32], bias: &[f32], [rows, columns]: [usize; 2]) -> Self {
        let panels = Panels::pack(weights, rows, columns);
        Self { panels, bias: Panels::pack(bias, 1, columns).lanes().to_vec() }
    }

    /// Bytes that they occupy.
    pub(crate) fn byte_len(&self) -> usize {
        (self.panels.lanes().len() + self.bias.len()) * LANES * size_of::<f32>()
    }
}
