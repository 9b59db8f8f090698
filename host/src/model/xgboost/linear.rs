//! Linear models: booster `gblinear`.

use super::CheckError;

/// A weight for each feature and margin.
#[derive(Debug)]
pub(super) struct Linear {
    features: usize,
    /// What margins begin with.
    intercepts: Vec<f32>,
    /// Rows of a weight for each margin, one row for each feature; none where all would be 0.
    weights: Vec<f32>,
}

impl Linear {
    /// Takes the weights of a file: a row for each feature and one of biases, each with a weight for each margin. A
    /// model that was never trained has none. Of several margins of `base_score` libxgboost adds the first to all.
    pub(super) fn new(
        features: usize,
        base_margins: &[f32],
        mut weights: Vec<f32>,
    ) -> Result<Self, CheckError> {
        let margins = base_margins.len();
        let (found, expected) = (weights.len(), (features + 1) * margins);
        if found != expected && found != 0 {
            let reason =
                format!("{found} weights: expected {expected}, one more than features for each score");
            return Err(reason.into());
        }
        if let Some((index, weight)) = weights.iter().enumerate().find(|(_, weight)| !weight.is_finite()) {
            return Err(format!("weight {index} is {weight}: expected a finite number").into());
        }
        let base_margin = base_margins.first().copied().unwrap_or_default();
        let mut intercepts = vec![base_margin; margins];
        for (intercept, bias) in intercepts.iter_mut().zip(weights.iter().skip(features * margins)) {
            *intercept += bias;
        }
        weights.truncate(features * margins);
        Ok(Self { features, intercepts, weights })
    }

    /// Number of features in a row.
    pub(super) fn feature_count(&self) -> usize {
        self.features
    }

    /// Number of margins in a row.
    pub(super) fn margin_count(&self) -> usize {
        self.intercepts.len()
    }

    /// Bytes in memory.
    pub(super) fn byte_len(&self) -> usize {
        size_of_val(self.weights.as_slice()) + size_of_val(self.intercepts.as_slice())
    }

    /// The margins of row-major rows. Products are added in the order of the features, and missing ones left out.
    pub(super) fn margins(&self, features: &[f32]) -> Vec<f32> {
        let rows = features.chunks_exact(self.features);
        let mut margins = self.intercepts.repeat(rows.len());
        for (row, margins) in rows.zip(margins.chunks_exact_mut(self.margin_count())) {
            for (feature, weights) in row.iter().zip(self.weights.chunks_exact(self.margin_count())) {
                if !feature.is_nan() {
                    margins.iter_mut().zip(weights).for_each(|(margin, weight)| *margin += feature * weight);
                }
            }
        }
        margins
    }
}
