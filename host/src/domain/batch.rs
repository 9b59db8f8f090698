use std::collections::HashSet;

use super::{DataType, Tensor, TensorError};

/// Columns up to which names are compared with each other.
const COMPARED_ONE_BY_ONE: usize = 16;

/// Named columns with the same number of rows; the only thing that flows between steps.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    tensors: Vec<Tensor>,
}

/// Columns that do not make a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BatchError {
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error("column `{name}` appears twice")]
    DuplicateColumn { name: String },
    #[error("column `{name}` has {found} rows: expected {expected}, as in `{first}`")]
    RowCount { name: String, first: String, expected: usize, found: usize },
    #[error("column `{name}` does not continue the one before: its type, shape or name differ")]
    Append { name: String },
}

impl Batch {
    /// Makes a batch of columns with unique names and equally many rows.
    pub fn new(tensors: Vec<Tensor>) -> Result<Self, BatchError> {
        // A few names are compared quickest one by one; many come from a plugin that may mean no good.
        let mut names = (tensors.len() > COMPARED_ONE_BY_ONE).then(HashSet::new);
        for (index, tensor) in tensors.iter().enumerate() {
            let earlier = tensors.get(..index).unwrap_or_default();
            let is_known = match &mut names {
                Some(names) => !names.insert(tensor.name()),
                None => earlier.iter().any(|other| other.name() == tensor.name()),
            };
            if is_known {
                return Err(BatchError::DuplicateColumn { name: tensor.name().to_owned() });
            }
            if let Some(first) = earlier.first().filter(|first| first.rows() != tensor.rows()) {
                return Err(BatchError::RowCount {
                    name: tensor.name().to_owned(),
                    first: first.name().to_owned(),
                    expected: first.rows(),
                    found: tensor.rows(),
                });
            }
        }
        Ok(Self { tensors })
    }

    /// The columns.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Gives the columns away.
    pub fn into_tensors(self) -> Vec<Tensor> {
        self.tensors
    }

    /// Number of rows; 0 for a batch without columns.
    pub fn rows(&self) -> usize {
        self.tensors.first().map_or(0, Tensor::rows)
    }

    /// Bytes of all elements together.
    pub fn byte_len(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.data().len()).sum()
    }

    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name() == name)
    }

    /// Takes the column of that name out of the batch.
    pub fn take_column(&mut self, name: &str) -> Option<Tensor> {
        let index = self.tensors.iter().position(|tensor| tensor.name() == name)?;
        Some(self.tensors.remove(index))
    }

    /// Rows `range` as a batch of their own; none where they are not all there.
    pub fn slice_rows(&self, range: std::ops::Range<usize>) -> Option<Self> {
        let tensors = self.tensors.iter().map(|tensor| tensor.slice_rows(range.clone()));
        Some(Self { tensors: tensors.collect::<Option<_>>()? })
    }

    /// The rows for which `kept` is true, as a batch of their own.
    pub fn keep_rows(&self, kept: &[bool]) -> Self {
        Self { tensors: self.tensors.iter().map(|tensor| tensor.keep_rows(kept)).collect() }
    }

    /// Appends the rows of `other`, which must have the same columns in the same order. An empty batch takes anything.
    pub fn append(&mut self, other: &Self) -> Result<(), BatchError> {
        if self.tensors.is_empty() {
            *self = other.clone();
            return Ok(());
        }
        if let Some(stray) = other.tensors.get(self.tensors.len()) {
            return Err(BatchError::Append { name: stray.name().to_owned() });
        }
        let same = |(own, new): (&Tensor, &Tensor)| {
            own.name() == new.name() && own.dtype() == new.dtype() && own.row_shape() == new.row_shape()
        };
        if let Some(own) = self.tensors.get(other.tensors.len()) {
            return Err(BatchError::Append { name: own.name().to_owned() });
        }
        if let Some((_, new)) = self.tensors.iter().zip(&other.tensors).find(|pair| !same(*pair)) {
            return Err(BatchError::Append { name: new.name().to_owned() });
        }
        for (own, new) in self.tensors.iter_mut().zip(&other.tensors) {
            own.append(new);
        }
        Ok(())
    }

    /// Makes room for `rows` rows in all, judging by the rows that are there.
    pub fn reserve_rows(&mut self, rows: usize) {
        let present = self.rows().max(1);
        for tensor in &mut self.tensors {
            tensor.reserve_rows(rows.saturating_sub(present), present);
        }
    }

    /// Whether every column holds numbers.
    pub fn is_numeric(&self) -> bool {
        self.tensors.iter().all(|tensor| tensor.dtype() != DataType::Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, values: &[f32]) -> Tensor {
        Tensor::from_f32(name, vec![values.len()], values).unwrap()
    }

    #[test]
    fn refuses_duplicates_and_unequal_rows() {
        let error = Batch::new(vec![column("a", &[1.0]), column("a", &[2.0])]).unwrap_err();
        assert_eq!(error.to_string(), "column `a` appears twice");
        let error = Batch::new(vec![column("a", &[1.0]), column("b", &[2.0, 3.0])]).unwrap_err();
        assert_eq!(error.to_string(), "column `b` has 2 rows: expected 1, as in `a`");
    }

    #[test]
    fn slices_and_appends_are_inverse() {
        let whole = Batch::new(vec![column("a", &[1.0, 2.0, 3.0]), column("b", &[4.0, 5.0, 6.0])]).unwrap();
        let mut joined = Batch::default();
        joined.append(&whole.slice_rows(0..1).unwrap()).unwrap();
        joined.append(&whole.slice_rows(1..3).unwrap()).unwrap();
        assert_eq!(joined, whole);
        assert!(joined.append(&Batch::new(vec![column("a", &[1.0])]).unwrap()).is_err());
        assert_eq!(joined, whole, "a refused append changes nothing");
    }

    #[test]
    fn many_columns_are_compared_quickly() {
        let column = |index: usize| Tensor::from_f32(format!("c{index}"), vec![1], &[0.0]).unwrap();
        let mut columns: Vec<Tensor> = (0..100_000).map(column).collect();
        assert_eq!(Batch::new(columns.clone()).unwrap().tensors().len(), 100_000);
        columns.push(column(99_999));
        assert_eq!(Batch::new(columns), Err(BatchError::DuplicateColumn { name: "c99999".to_owned() }));
    }
}
