//! Layers that compute: the geometry of a convolution is worked out once, weights are packed once.

use super::architecture::{Activation, Image, Layer};
use super::kernel::{LANES, Lanes, Panels, Pooling, View, multiply, pool};

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
    /// For each place of the output, the first position of the product that is pooled to it.
    pub corners: Vec<usize>,
    /// Where the positions that are pooled lie, in positions from the first.
    pub pooled: Vec<usize>,
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
                let only = || vec![0];
                return Self {
                    input,
                    product: output,
                    output,
                    pool: 1,
                    corners: only(),
                    pooled: only(),
                    activation,
                    bases: only(),
                    offsets,
                };
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
        let pooled =
            (0..pool).flat_map(|row| (0..pool).map(move |column| row * product.width + column)).collect();
        let places = (0..output.height).flat_map(|row| (0..output.width).map(move |column| (row, column)));
        let corners = places.map(|(row, column)| (row * product.width + column) * pool).collect();
        Self { input, product, output, pool, corners, pooled, activation, bases, offsets }
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

    /// Multiplications of one row.
    pub(crate) fn products(&self) -> usize {
        self.product_elements().saturating_mul(self.offsets.len())
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
        taken: &mut [u32],
    ) {
        let view = View { data: input, bases: &self.bases, offsets: &self.offsets };
        if self.pool == 1 {
            multiply(view, &weights.panels, &weights.bias, output);
        } else {
            multiply(view, &weights.panels, &weights.bias, product);
            let channels = self.output.channels;
            let pooling = Pooling { product, channels, corners: &self.corners, offsets: &self.pooled };
            pool(pooling, output, taken);
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
