//! What a network is to make small, and what is told of it.

use candle_core::{Device, Tensor};

use crate::model::network::Output;

/// Sums over the rows of an epoch.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    pub rows: usize,
    /// Losses: logarithmic ones in nats, or squared errors on the scale of training.
    pub loss: f64,
    /// Rows whose class was right.
    pub right: usize,
}

/// Mean loss of rows: softmax and cross-entropy, logistic function and cross-entropy, or squared error.
pub(super) fn mean_loss(
    output: Output,
    logits: &Tensor,
    labels: &[f32],
    device: &Device,
) -> candle_core::Result<Tensor> {
    let rows = labels.len();
    match output {
        Output::Classes => {
            // Labels were checked to be classes.
            let classes: Vec<u32> = labels.iter().map(|&label| label as u32).collect();
            let classes = Tensor::from_vec(classes, (rows, 1), device)?;
            let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
            let normalizer = shifted.exp()?.sum_keepdim(1)?.log()?;
            (normalizer - shifted.gather(&classes, 1)?)?.mean_all()
        }
        Output::Binary => {
            let labels = Tensor::from_slice(labels, (rows, 1), device)?;
            let tail = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?;
            ((logits.relu()? - (logits * labels)?)? + tail)?.mean_all()
        }
        Output::Regression { scale, offset } => {
            let scaled: Vec<f32> = labels.iter().map(|label| (label - offset) / scale).collect();
            (logits - Tensor::from_vec(scaled, (rows, 1), device)?)?.sqr()?.mean_all()
        }
    }
}

/// Rows whose largest logit is their class; 0 where there are no classes.
pub(super) fn right(output: Output, logits: &[f32], labels: &[f32]) -> usize {
    let columns = logits.len() / labels.len().max(1);
    let rows = logits.chunks_exact(columns.max(1)).zip(labels);
    match output {
        Output::Classes => rows.filter(|(row, label)| largest(row) as f32 == **label).count(),
        Output::Binary => {
            rows.filter(|(row, label)| f32::from(row.iter().all(|logit| *logit > 0.0)) == **label).count()
        }
        Output::Regression { .. } => 0,
    }
}

fn largest(row: &[f32]) -> usize {
    let better =
        |best: (usize, f32), next: (usize, &f32)| if *next.1 > best.1 { (next.0, *next.1) } else { best };
    row.iter().enumerate().fold((0, f32::NEG_INFINITY), better).0
}
