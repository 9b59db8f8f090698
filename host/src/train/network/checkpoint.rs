//! What a training is continued from: weights, moments, the best epoch so far, and where it stood.
//!
//! Random numbers follow from the seed and the epoch, so none are kept.

use std::collections::HashMap;

use candle_core::Var;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::parameters::Optimizer;
use crate::model::network::{self, Architecture, Network};

/// Key of the metadata under which [`Progress`] stands; model files have none.
const CHECKPOINT: &str = "host.checkpoint";

/// Version of [`Progress`] that is written and read.
const VERSION: u32 = 1;

/// Where a training stands.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Progress {
    version: u32,
    optimizer: Optimizer,
    /// Epochs that are done.
    pub epoch: u32,
    /// Steps that were taken.
    pub steps: u64,
    /// The epoch with the smallest loss on the test rows, where that is of interest.
    pub best: Option<Best>,
}

/// The best epoch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Best {
    pub epoch: u32,
    pub loss: f64,
}

impl Progress {
    pub(super) fn new(optimizer: Optimizer) -> Self {
        Self { version: VERSION, optimizer, epoch: 0, steps: 0, best: None }
    }
}

/// A training that stands still.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Checkpoint {
    pub progress: Progress,
    pub network: Network,
    /// For each of [`Optimizer::moments`], as many numbers as the network has weights, in its order.
    pub moments: Vec<Vec<[Vec<f32>; 2]>>,
    /// Weights of the best epoch.
    pub best: Option<Vec<[Vec<f32>; 2]>>,
}

/// The parts of a checkpoint, each shaped as the weights are.
fn prefixes(progress: &Progress) -> Vec<&'static str> {
    let moments = ["first.", "second."].into_iter().take(progress.optimizer.moments());
    [""].into_iter().chain(moments).chain(progress.best.map(|_| "best.")).collect()
}

impl Checkpoint {
    /// Whether bytes are a checkpoint rather than a model.
    pub(super) fn is_one(bytes: &[u8]) -> bool {
        let metadata = SafeTensors::read_metadata(bytes).ok().map(|(_, metadata)| metadata);
        metadata.is_some_and(|found| {
            found.metadata().as_ref().is_some_and(|found| found.contains_key(CHECKPOINT))
        })
    }

    /// Writes it; the same checkpoint is the same bytes.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let images = self.network.architecture.check()?;
        let shapes = network::shapes(&self.network.architecture, &images);
        let parts = [&self.network.weights].into_iter().chain(&self.moments).chain(&self.best);
        let mut tensors = Vec::new();
        for (prefix, part) in prefixes(&self.progress).into_iter().zip(parts) {
            for (layer, (pair, shapes)) in part.iter().zip(&shapes).enumerate() {
                for ((name, values), shape) in network::names(layer).iter().zip(pair).zip(shapes) {
                    tensors.push((format!("{prefix}{name}"), network::little_endian(values), shape.clone()));
                }
            }
        }
        let text = |value: serde_json::Result<String>| value.map_err(|error| error.to_string());
        // One key: a map of two has no order in which they would always be written.
        let progress = text(serde_json::to_string(&(&self.progress, &self.network.architecture)))?;
        network::write(&tensors, HashMap::from([(CHECKPOINT.to_owned(), progress)]))
    }

    /// Reads and checks it, in words where something is wrong.
    pub(super) fn from_bytes(bytes: &[u8], optimizer: Optimizer) -> Result<Self, String> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
        let text = metadata.metadata().as_ref().and_then(|metadata| metadata.get(CHECKPOINT));
        let text = text.ok_or_else(|| format!("its metadata has no `{CHECKPOINT}`"))?;
        let (progress, architecture): (Progress, Architecture) =
            serde_json::from_str(text).map_err(|error| format!("`{CHECKPOINT}`: {error}"))?;
        if progress.version != VERSION {
            return Err(format!("its version is {}: expected {VERSION}", progress.version));
        }
        if progress.optimizer != optimizer {
            return Err("it was made with another `optimizer`".to_owned());
        }
        let images = architecture.check()?;
        let shapes = network::shapes(&architecture, &images);
        let prefixes = prefixes(&progress);
        let expected = prefixes.len() * shapes.len() * 2;
        if tensors.len() != expected {
            return Err(format!("{} tensors: expected {expected}", tensors.len()));
        }
        let mut parts = Vec::new();
        for prefix in prefixes {
            let mut part = Vec::new();
            for (layer, [weight, bias]) in shapes.iter().enumerate() {
                let [weight_name, bias_name] = network::names(layer).map(|name| format!("{prefix}{name}"));
                let weights = network::read(&tensors, &weight_name, weight)?;
                part.push([weights, network::read(&tensors, &bias_name, bias)?]);
            }
            parts.push(part);
        }
        let best = progress.best.and_then(|_| parts.pop());
        let mut parts = parts.into_iter();
        let network = Network { architecture, weights: parts.next().unwrap_or_default() };
        Ok(Self { progress, network, moments: parts.collect(), best })
    }

    /// Its moments for each variable, as [`super::optimizer::Descent`] holds them.
    pub(super) fn set_moments(&self, moments: &[Vec<Var>]) -> candle_core::Result<()> {
        for (order, part) in self.moments.iter().enumerate() {
            for (values, variable) in part.iter().flatten().zip(moments) {
                if let Some(variable) = variable.get(order) {
                    let shape = variable.shape().clone();
                    variable.set(&candle_core::Tensor::from_slice(values, shape, variable.device())?)?;
                }
            }
        }
        Ok(())
    }
}

/// Moments as they are kept.
pub(super) fn moments_of(moments: &[Vec<Var>], count: usize) -> candle_core::Result<Vec<Vec<[Vec<f32>; 2]>>> {
    let values = |variable: Option<&Var>| match variable {
        Some(variable) => variable.flatten_all()?.to_vec1::<f32>(),
        None => Ok(Vec::new()),
    };
    let order = |order: usize| {
        let pairs = moments.as_chunks().0;
        let pair =
            |[weights, bias]: &[Vec<Var>; 2]| Ok([values(weights.get(order))?, values(bias.get(order))?]);
        pairs.iter().map(pair).collect::<candle_core::Result<Vec<_>>>()
    };
    (0..count).map(order).collect()
}
