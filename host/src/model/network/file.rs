//! Networks as safetensors: the architecture as JSON in the metadata, and for each layer a weight and a bias.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::architecture::{Architecture, Image};

/// Key of the metadata under which the architecture stands.
pub(crate) const ARCHITECTURE: &str = "host.network";

/// The longest description of an architecture.
const ARCHITECTURE_BYTES_MAX: usize = 1 << 20;

/// A network's weights as they are trained: row-major, of [`super::Layer::weight_shape`].
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// What it is made of.
    pub architecture: Architecture,
    /// For each layer, its weights and its biases.
    pub weights: Vec<[Vec<f32>; 2]>,
}

/// Whether a file is one of safetensors: the length of a header that stands in memory, and its first brace.
pub(crate) fn is_safetensors(bytes: &[u8]) -> bool {
    matches!(bytes, [_, _, _, _, 0, 0, 0, 0, b'{', ..])
}

/// Names of a layer's tensors.
pub(crate) fn names(layer: usize) -> [String; 2] {
    [format!("layers.{layer}.weight"), format!("layers.{layer}.bias")]
}

/// Shapes of the tensors of each layer.
pub(crate) fn shapes(architecture: &Architecture, images: &[Image]) -> Vec<[Vec<usize>; 2]> {
    let layers = architecture.layers.iter().zip(images);
    layers
        .map(|(layer, input)| {
            let [rows, columns] = layer.weight_shape(*input);
            [vec![rows, columns], vec![columns]]
        })
        .collect()
}

impl Network {
    /// Writes it; the same network is the same bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let images = self.architecture.check()?;
        let text = serde_json::to_string(&self.architecture).map_err(|error| error.to_string())?;
        let shapes = shapes(&self.architecture, &images);
        let named = (0..)
            .zip(self.weights.iter().zip(&shapes))
            .flat_map(|(layer, (weights, shapes))| names(layer).into_iter().zip(weights.iter().zip(shapes)));
        let bytes: Vec<_> =
            named.map(|(name, (values, shape))| (name, little_endian(values), shape.clone())).collect();
        write(&bytes, HashMap::from([(ARCHITECTURE.to_owned(), text)]))
    }

    /// Reads and checks it, in words where something is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
        let text = metadata.metadata().as_ref().and_then(|metadata| metadata.get(ARCHITECTURE));
        let text = text.ok_or_else(|| format!("its metadata has no `{ARCHITECTURE}`"))?;
        if text.len() > ARCHITECTURE_BYTES_MAX {
            return Err(format!(
                "`{ARCHITECTURE}` has {} bytes: expected at most {ARCHITECTURE_BYTES_MAX}",
                text.len()
            ));
        }
        let architecture: Architecture =
            serde_json::from_str(text).map_err(|error| format!("`{ARCHITECTURE}`: {error}"))?;
        let images = architecture.check()?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let shapes = shapes(&architecture, &images);
        if tensors.len() != 2 * shapes.len() {
            return Err(format!("{} tensors: expected {}", tensors.len(), 2 * shapes.len()));
        }
        let mut weights = Vec::with_capacity(shapes.len());
        for (layer, [weight, bias]) in shapes.iter().enumerate() {
            let [weight_name, bias_name] = names(layer);
            weights.push([read(&tensors, &weight_name, weight)?, read(&tensors, &bias_name, bias)?]);
        }
        Ok(Self { architecture, weights })
    }
}

/// Writes named tensors of `f32`.
pub(crate) fn write(
    tensors: &[(String, Vec<u8>, Vec<usize>)],
    metadata: HashMap<String, String>,
) -> Result<Vec<u8>, String> {
    let mut views = Vec::with_capacity(tensors.len());
    for (name, bytes, shape) in tensors {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(|error| error.to_string())?;
        views.push((name.as_str(), view));
    }
    safetensors::serialize(views, Some(metadata)).map_err(|error| error.to_string())
}

/// Reads a tensor of finite `f32` of this shape.
pub(crate) fn read(tensors: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
    let tensor = tensors.tensor(name).map_err(|_| format!("it has no tensor `{name}`"))?;
    if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
        let (dtype, found) = (tensor.dtype(), tensor.shape());
        return Err(format!("tensor `{name}` is {dtype:?} {found:?}: expected F32 {shape:?}"));
    }
    let values: Vec<f32> =
        tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(format!("number {index} of tensor `{name}` is not finite")),
        None => Ok(values),
    }
}

pub(crate) fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
