//! What a network is made of, as its file tells it.

use serde::{Deserialize, Serialize};

/// The version of the description that this host writes and reads.
pub const ARCHITECTURE_VERSION: u32 = 1;

/// Features in a row. Also what one row may grow to between two layers.
const ELEMENTS_MAX: usize = 1 << 22;

/// Numbers of one row that are computed in all layers, before pooling: what a small file may make a host allocate.
const COMPUTED_MAX: usize = 1 << 23;

/// Weights of all layers: 1 GiB of them.
const WEIGHTS_MAX: usize = 1 << 28;

/// Layers of a network; far more than help without connections around them.
const LAYERS_MAX: usize = 64;

/// Rows or columns of a kernel, and of what is pooled.
const KERNEL_MAX: usize = 64;

/// A network: layers one after another, and what their last numbers mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Version of this description, [`ARCHITECTURE_VERSION`].
    pub version: u32,
    /// What a row of features is.
    pub input: Image,
    /// What stands for a feature that is missing.
    pub missing: f32,
    /// Convolutions, then dense layers.
    pub layers: Vec<Layer>,
    /// What the numbers of the last layer mean.
    pub output: Output,
}

/// The shape of a row: numbers by row of the image, then by column, then by channel. A row that is no image is one pixel
/// of as many channels as features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Rows of pixels.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Numbers of a pixel.
    pub channels: usize,
}

impl Image {
    /// A row of features without a shape.
    pub fn flat(features: usize) -> Self {
        Self { height: 1, width: 1, channels: features }
    }

    /// Numbers in the image; none where there are more than any row may have.
    pub fn elements(self) -> Option<usize> {
        let elements = self.height.checked_mul(self.width)?.checked_mul(self.channels)?;
        (elements <= ELEMENTS_MAX).then_some(elements)
    }
}

impl std::fmt::Display for Image {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}x{}x{}", self.height, self.width, self.channels)
    }
}

/// A layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Layer {
    /// A kernel slides over the image without padding; of every `pool` × `pool` results the largest is taken.
    Convolution {
        /// Rows and columns of the kernel.
        kernel: usize,
        /// Channels of the image that comes out.
        channels: usize,
        /// Rows and columns of what is pooled; 1 for no pooling. What is left over at the edges is dropped.
        pool: usize,
        /// Applied to every result.
        activation: Activation,
    },
    /// Every number out is a weighted sum of every number in.
    Dense {
        /// Numbers that come out.
        units: usize,
        /// Applied to every result.
        activation: Activation,
    },
}

impl Layer {
    /// What comes out for what goes in; in words where the layer does not fit.
    pub fn output(&self, input: Image) -> Result<Image, String> {
        let output = match *self {
            Self::Convolution { kernel, channels, pool, .. } => {
                if kernel == 0 || kernel > KERNEL_MAX || pool == 0 || pool > KERNEL_MAX {
                    return Err(format!(
                        "a kernel of {kernel} and a pool of {pool}: expected from 1 to {KERNEL_MAX}"
                    ));
                }
                let side = |side: usize| (side + 1).saturating_sub(kernel) / pool;
                Image { height: side(input.height), width: side(input.width), channels }
            }
            Self::Dense { units, .. } => Image::flat(units),
        };
        match output.elements() {
            None => Err(format!("its output {output} is too large")),
            Some(0) => Err(format!("nothing is left of the {input} that it is given")),
            Some(_) => Ok(output),
        }
    }

    /// Rows and columns of the layer's weights: a column for each channel or number that comes out, whose rows are
    /// those of the kernel, its columns, and the channels that go in.
    pub fn weight_shape(&self, input: Image) -> [usize; 2] {
        match *self {
            Self::Convolution { kernel, channels, .. } => [kernel * kernel * input.channels, channels],
            Self::Dense { units, .. } => [input.height * input.width * input.channels, units],
        }
    }

    /// What is applied to the results.
    pub fn activation(&self) -> Activation {
        match *self {
            Self::Convolution { activation, .. } | Self::Dense { activation, .. } => activation,
        }
    }
}

/// A function of one number. None decreases, so that the largest of several numbers stays the largest. NaN stays NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// The number itself.
    None,
    /// The number, or 0 if it is negative.
    Relu,
    /// The number, or a hundredth of it if it is negative.
    LeakyRelu,
    /// Hyperbolic tangent.
    Tanh,
    /// Logistic function.
    Sigmoid,
}

impl Activation {
    /// Those that a hidden layer may have, with their names.
    pub const HIDDEN: [(Self, &'static str); 4] = [
        (Self::Relu, "relu"),
        (Self::LeakyRelu, "leaky_relu"),
        (Self::Tanh, "tanh"),
        (Self::Sigmoid, "sigmoid"),
    ];

    /// Slope of the part below zero of [`Activation::LeakyRelu`].
    pub const LEAK: f32 = 0.01;

    /// Applies it to all values.
    pub(crate) fn apply(self, values: &mut [f32]) {
        match self {
            Self::None => {}
            // Not `f32::max`, which takes 0 for NaN.
            Self::Relu => {
                values.iter_mut().for_each(|value| *value = if *value <= 0.0 { 0.0 } else { *value });
            }
            Self::LeakyRelu => values.iter_mut().for_each(|value| *value = value.max(*value * Self::LEAK)),
            Self::Tanh => values.iter_mut().for_each(|value| *value = value.tanh()),
            Self::Sigmoid => values.iter_mut().for_each(|value| *value = sigmoid(*value)),
        }
    }

    /// Its slope where its value is `value`.
    pub(crate) fn slope(self, value: f32) -> f32 {
        match self {
            Self::None => 1.0,
            Self::Relu => f32::from(value > 0.0),
            Self::LeakyRelu => {
                if value > 0.0 {
                    1.0
                } else {
                    Self::LEAK
                }
            }
            Self::Tanh => 1.0 - value * value,
            Self::Sigmoid => value * (1.0 - value),
        }
    }
}

/// The logistic function.
pub(super) fn sigmoid(value: f32) -> f32 {
    1.0 / (1.0 + (-value).exp())
}

/// What the numbers of the last layer mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", try_from = "OutputFields")]
pub enum Output {
    /// Logits of several classes; scores are their softmax.
    Classes,
    /// The logit of class 1 of two; the score is its logistic function.
    Binary,
    /// A value on the scale of training; the score is `value · scale + offset`.
    Regression {
        /// Standard deviation of the training labels.
        scale: f32,
        /// Their mean.
        offset: f32,
    },
}

/// An [`Output`] as a file has it; unknown fields beside a variant without any would be let through.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OutputFields {
    kind: String,
    scale: Option<f32>,
    offset: Option<f32>,
}

impl TryFrom<OutputFields> for Output {
    type Error = String;

    fn try_from(fields: OutputFields) -> Result<Self, String> {
        match (fields.kind.as_str(), fields.scale, fields.offset) {
            ("classes", None, None) => Ok(Self::Classes),
            ("binary", None, None) => Ok(Self::Binary),
            ("regression", Some(scale), Some(offset)) => Ok(Self::Regression { scale, offset }),
            (kind, ..) => Err(format!("unknown output `{}`", kind.chars().take(40).collect::<String>())),
        }
    }
}

impl Output {
    /// Makes scores of rows of logits or values of the last layer.
    pub(in crate::model) fn apply(self, values: &mut [f32], columns: usize) {
        match self {
            Self::Classes => values.chunks_exact_mut(columns.max(1)).for_each(softmax),
            Self::Binary => values.iter_mut().for_each(|value| *value = sigmoid(*value)),
            Self::Regression { scale, offset } => {
                values.iter_mut().for_each(|value| *value = value.mul_add(scale, offset));
            }
        }
    }
}

/// Exponentials of the distances to the largest, divided by their sum.
fn softmax(logits: &mut [f32]) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for logit in logits.iter_mut() {
        *logit = (*logit - largest).exp();
        sum += *logit;
    }
    logits.iter_mut().for_each(|logit| *logit /= sum);
}

impl Architecture {
    /// Checks everything that can be wrong, in words; gives the images between the layers, the input first.
    pub fn check(&self) -> Result<Vec<Image>, String> {
        if self.version != ARCHITECTURE_VERSION {
            return Err(format!("its version is {}: expected {ARCHITECTURE_VERSION}", self.version));
        }
        if !self.missing.is_finite() {
            return Err("what stands for a missing feature is no finite number".to_owned());
        }
        if !matches!(self.input.elements(), Some(1..)) {
            return Err(format!("its input is {}: expected from 1 to {ELEMENTS_MAX} features", self.input));
        }
        if self.layers.is_empty() || self.layers.len() > LAYERS_MAX {
            return Err(format!("{} layers: expected from 1 to {LAYERS_MAX}", self.layers.len()));
        }
        let mut images = vec![self.input];
        let (mut image, mut dense, mut weights, mut computed) = (self.input, false, 0_usize, 0_usize);
        for (number, layer) in self.layers.iter().enumerate() {
            if dense && matches!(layer, Layer::Convolution { .. }) {
                return Err(format!("layer {number} is a convolution after a dense layer"));
            }
            dense |= matches!(layer, Layer::Dense { .. });
            let output = layer.output(image).map_err(|reason| format!("layer {number}: {reason}"))?;
            let [rows, columns] = layer.weight_shape(image);
            weights =
                rows.checked_mul(columns).and_then(|own| own.checked_add(weights)).unwrap_or(usize::MAX);
            if weights > WEIGHTS_MAX {
                return Err(format!("more than {WEIGHTS_MAX} weights"));
            }
            let pool = if let Layer::Convolution { pool, .. } = layer { *pool } else { 1 };
            // Both factors were bounded.
            computed += output.elements().unwrap_or_default() * pool * pool;
            if computed > COMPUTED_MAX {
                return Err(format!("more than {COMPUTED_MAX} numbers to compute for a row"));
            }
            image = output;
            images.push(image);
        }
        self.check_output(image, dense)?;
        Ok(images)
    }

    fn check_output(&self, image: Image, dense: bool) -> Result<(), String> {
        if !dense || self.layers.last().map(Layer::activation) != Some(Activation::None) {
            return Err("its last layer is not a dense one without activation".to_owned());
        }
        let fits = match self.output {
            Output::Classes => image.channels >= 2,
            Output::Binary => image.channels == 1,
            Output::Regression { scale, offset } => {
                if !(scale.is_finite() && offset.is_finite()) {
                    return Err("the scale or offset of its output is no finite number".to_owned());
                }
                image.channels == 1
            }
        };
        match fits {
            true => Ok(()),
            false => Err(format!(
                "its last layer gives {} numbers, which {:?} does not take",
                image.channels, self.output
            )),
        }
    }

    /// The layers in words: `28x28x1, convolution 5x5 16, dense 10`.
    pub fn summary(&self) -> String {
        let layer = |layer: &Layer| match layer {
            Layer::Convolution { kernel, channels, .. } => {
                format!("convolution {kernel}x{kernel} {channels}")
            }
            Layer::Dense { units, .. } => format!("dense {units}"),
        };
        let layers = self.layers.iter().map(layer);
        std::iter::once(self.input.to_string()).chain(layers).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense(units: usize, activation: Activation) -> Layer {
        Layer::Dense { units, activation }
    }

    fn convolution(kernel: usize, channels: usize, pool: usize) -> Layer {
        Layer::Convolution { kernel, channels, pool, activation: Activation::Relu }
    }

    fn network(side: usize, layers: &[Layer]) -> Architecture {
        Architecture {
            version: 1,
            input: Image { height: side, width: side, channels: 1 },
            missing: 0.0,
            layers: layers.to_vec(),
            output: Output::Classes,
        }
    }

    #[test]
    fn images_shrink_from_layer_to_layer() {
        let layers = [convolution(5, 16, 2), convolution(5, 32, 2), dense(10, Activation::None)];
        let images = network(28, &layers).check().unwrap();
        assert_eq!(
            images.iter().map(Image::to_string).collect::<Vec<_>>(),
            ["28x28x1", "12x12x16", "4x4x32", "1x1x10"]
        );
        assert_eq!(
            network(28, &layers).summary(),
            "28x28x1, convolution 5x5 16, convolution 5x5 32, dense 10"
        );
    }

    #[test]
    fn refuses_what_cannot_be_computed() {
        let last = || dense(2, Activation::None);
        for (network, word) in [
            (network(8, &[]), "0 layers"),
            (network(8, &[dense(2, Activation::Relu)]), "without activation"),
            (network(8, &[convolution(3, 2, 1)]), "dense"),
            (network(8, &[last(), convolution(1, 2, 1), last()]), "after a dense"),
            (network(8, &[convolution(9, 2, 1), last()]), "nothing is left"),
            (network(8, &[convolution(0, 2, 1), last()]), "from 1 to"),
            (network(8, &[convolution(1, 2, 0), last()]), "from 1 to"),
            (network(8, &[convolution(1, usize::MAX, 1), last()]), "too large"),
            (network(0, &[last()]), "features"),
            (network(usize::MAX, &[last()]), "features"),
            (network(8, &[dense(1, Activation::None)]), "1 numbers"),
            (network(1, &vec![dense(1 << 20, Activation::Relu); 3]), "weights"),
            (network(2048, &vec![convolution(1, 1, 1); 3]), "to compute"),
            (network(1, &vec![last(); 65]), "65 layers"),
            (Architecture { version: 2, ..network(8, &[last()]) }, "version"),
            (Architecture { missing: f32::NAN, ..network(8, &[last()]) }, "missing"),
            (Architecture { output: Output::Binary, ..network(8, &[last()]) }, "2 numbers"),
        ] {
            let error = network.check().unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for activation in Activation::HIDDEN.map(|(activation, _)| activation) {
            // As many as fill registers, and some more.
            let mut values = [f32::NAN; 19];
            activation.apply(&mut values);
            assert!(values.iter().all(|value| value.is_nan()), "{activation:?}: {values:?}");
        }
        let mut values = [-0.0, 0.0, -1.0, f32::MIN_POSITIVE, f32::NEG_INFINITY, f32::INFINITY];
        Activation::Relu.apply(&mut values);
        let expected = [0.0, 0.0, 0.0, f32::MIN_POSITIVE, 0.0, f32::INFINITY];
        assert_eq!(values.map(f32::to_bits), expected.map(f32::to_bits));
    }

    #[test]
    fn slopes_are_those_of_the_functions() {
        for (activation, _) in Activation::HIDDEN {
            for at in [-1.5_f32, -0.25, 0.75, 2.0] {
                let value = |at: f32| {
                    let mut value = [at];
                    activation.apply(&mut value);
                    value[0]
                };
                let expected = (value(at + 1e-3) - value(at - 1e-3)) / 2e-3;
                let slope = activation.slope(value(at));
                assert!((slope - expected).abs() < 1e-3, "{activation:?} at {at}: {slope}, {expected}");
            }
        }
    }
}
