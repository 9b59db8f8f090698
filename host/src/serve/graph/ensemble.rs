//! The answers of several endpoints to the same rows, made one.

use super::super::ApiError;
use super::batches::{differ, of_rows, rows_of, wrong};
use crate::domain::{Batch, DataType, Tensor};

/// The mean of columns of floats, and what most say of others; the first of those that as many say.
///
/// Answers are added one by one, so that those of floats need not all be kept, and in their order, since sums of floats depend on it.
#[derive(Default)]
pub(super) struct Combined {
    columns: Vec<Column>,
    /// Of all answers that were added.
    weight: f64,
}

/// What was answered in a column.
struct Column {
    first: Tensor,
    said: Said,
}

enum Said {
    /// The elements with their weights, added.
    Sums(Vec<f64>),
    /// All answers, the first too.
    All(Vec<(Tensor, f64)>),
}

impl Combined {
    /// Takes an answer into account, which must have the columns of the first.
    pub(super) fn add(&mut self, answer: &Batch, weight: f64) -> Result<(), ApiError> {
        if self.columns.is_empty() {
            self.columns = answer.tensors().iter().map(Column::like).collect();
        }
        self.weight += weight;
        for column in &mut self.columns {
            let found = answer.column(column.first.name()).filter(|found| column.is_like(found));
            let found = found.ok_or_else(|| differ(column.first.name()))?;
            match &mut column.said {
                Said::Sums(sums) => {
                    for (sum, value) in sums.iter_mut().zip(found.to_f64().unwrap_or_default()) {
                        *sum += value * weight;
                    }
                }
                Said::All(all) => all.push((found.clone(), weight)),
            }
        }
        Ok(())
    }

    /// The answer of all.
    pub(super) fn finish(self) -> Result<Batch, ApiError> {
        if self.columns.is_empty() {
            return Err(wrong("there are no answers".to_owned()));
        }
        let columns = self.columns.into_iter().map(|column| column.finish(self.weight));
        Batch::new(columns.collect::<Result<_, _>>()?).map_err(|error| wrong(error.to_string()))
    }
}

impl Column {
    fn like(first: &Tensor) -> Self {
        let said = match first.dtype() {
            DataType::Fp32 | DataType::Fp64 => Said::Sums(vec![0.0; first.shape().iter().product()]),
            // Two halves have a mean that is none as a rule.
            _ => Said::All(Vec::new()),
        };
        Self { first: first.clone(), said }
    }

    fn is_like(&self, other: &Tensor) -> bool {
        (self.first.dtype(), self.first.shape()) == (other.dtype(), other.shape())
    }

    fn finish(self, weight: f64) -> Result<Tensor, ApiError> {
        let Self { first, said } = self;
        let data: Vec<u8> = match (said, first.dtype()) {
            (Said::All(all), _) => return majority(&first, &all),
            (Said::Sums(sums), DataType::Fp64) => {
                sums.into_iter().flat_map(|sum| (sum / weight).to_le_bytes()).collect()
            }
            (Said::Sums(sums), _) => {
                sums.into_iter().flat_map(|sum| ((sum / weight) as f32).to_le_bytes()).collect()
            }
        };
        let made = Tensor::new(first.name(), first.dtype(), first.shape().to_vec(), data);
        made.map_err(|error| wrong(error.to_string()))
    }
}

/// What most say of each row, by their weights.
fn majority(first: &Tensor, all: &[(Tensor, f64)]) -> Result<Tensor, ApiError> {
    let rows: Vec<(Vec<&[u8]>, f64)> =
        all.iter().map(|(tensor, weight)| (rows_of(tensor), *weight)).collect();
    let mut data = Vec::with_capacity(first.data().len());
    let mut votes: Vec<(&[u8], f64)> = Vec::new();
    for row in 0..first.rows() {
        votes.clear();
        for (said, weight) in rows.iter().filter_map(|(rows, weight)| Some((*rows.get(row)?, *weight))) {
            match votes.iter_mut().find(|(known, _)| *known == said) {
                Some((_, count)) => *count += weight,
                None => votes.push((said, weight)),
            }
        }
        let mut best: Option<(&[u8], f64)> = None;
        for &(said, count) in &votes {
            if best.is_none_or(|(_, most)| count > most) {
                best = Some((said, count));
            }
        }
        data.extend_from_slice(best.map(|(best, _)| best).unwrap_or_default());
    }
    of_rows(first, first.rows(), data)
}

#[cfg(test)]
mod tests {
    use super::super::batches::tests::batch;
    use super::*;

    fn combine(answers: &[Batch], weights: &[f64]) -> Result<Batch, ApiError> {
        let mut combined = Combined::default();
        answers.iter().zip(weights).try_for_each(|(answer, weight)| combined.add(answer, *weight))?;
        combined.finish()
    }

    #[test]
    fn an_ensemble_has_the_mean_of_floats_and_what_most_say() {
        let answers = [
            batch(&[1.0, 0.0], &["a", "a"]),
            batch(&[2.0, 0.5], &["b", "c"]),
            batch(&[6.0, 1.0], &["b", "b"]),
        ];
        let all = combine(&answers, &[1.0, 1.0, 1.0]).unwrap();
        assert_eq!(all, batch(&[3.0, 0.5], &["b", "a"]));
        let weighted = combine(&answers, &[2.0, 1.0, 0.5]).unwrap();
        assert_eq!(weighted.column("label"), batch(&[0.0; 2], &["a", "a"]).column("label"));
        assert!(combine(&[batch(&[1.0], &["a"]), batch(&[1.0, 2.0], &["a", "b"])], &[1.0, 1.0]).is_err());
    }
}
