//! The answers of several endpoints, put together.

use axum::http::StatusCode;

use super::super::{ApiError, ErrorCode};
use crate::domain::{Batch, Tensor};

/// The columns of both; a later one takes the place of an earlier one of its name.
pub(super) fn beside(known: &Batch, made: &Batch) -> Result<Batch, ApiError> {
    let old = known.tensors().iter().filter(|tensor| made.column(tensor.name()).is_none());
    let all = old.chain(made.tensors()).cloned().collect();
    Batch::new(all).map_err(|error| wrong(error.to_string()))
}

/// Puts the answers of parts into the order of the rows.
pub(super) fn in_order(parts: &[(Batch, &[usize])], rows: usize) -> Result<Batch, ApiError> {
    let mut places: Vec<Option<(usize, usize)>> = vec![None; rows];
    for (part, (answer, own)) in parts.iter().enumerate() {
        if answer.rows() != own.len() {
            return Err(wrong("an endpoint has answered with another number of rows".to_owned()));
        }
        for (index, &row) in own.iter().enumerate() {
            if let Some(place) = places.get_mut(row) {
                *place = Some((part, index));
            }
        }
    }
    let Some((first, _)) = parts.first() else { return Err(wrong("there are no rows".to_owned())) };
    let mut columns = Vec::with_capacity(first.tensors().len());
    for tensor in first.tensors() {
        let all: Option<Vec<&Tensor>> = parts.iter().map(|(answer, _)| like(tensor, answer)).collect();
        let all = all.ok_or_else(|| differ(tensor.name()))?;
        let of_parts: Vec<Vec<&[u8]>> = all.iter().copied().map(rows_of).collect();
        let mut data = Vec::with_capacity(all.iter().map(|tensor| tensor.data().len()).sum());
        for (part, index) in places.iter().copied().flatten() {
            let row = of_parts.get(part).and_then(|rows| rows.get(index));
            data.extend_from_slice(row.ok_or_else(|| wrong("a row has no answer".to_owned()))?);
        }
        columns.push(of_rows(tensor, rows, data)?);
    }
    Batch::new(columns).map_err(|error| wrong(error.to_string()))
}

/// The column of a batch whose rows are like those of another column.
fn like<'a>(column: &Tensor, batch: &'a Batch) -> Option<&'a Tensor> {
    let found = batch.column(column.name());
    found.filter(|found| (found.dtype(), found.row_shape()) == (column.dtype(), column.row_shape()))
}

/// The bytes of each row of a column, as the column holds them.
pub(super) fn rows_of(tensor: &Tensor) -> Vec<&[u8]> {
    let elements = tensor.row_elements();
    if let Some(size) = tensor.dtype().size() {
        let width = elements * size;
        return (0..tensor.rows())
            .map(|row| tensor.data().get(row * width..(row + 1) * width).unwrap_or_default())
            .collect();
    }
    // Each string has its length before it, in four bytes.
    let (mut lengths, mut start, mut rest) = (tensor.byte_strings(), 0, Vec::with_capacity(tensor.rows()));
    for _ in 0..tensor.rows() {
        let width: usize = lengths.by_ref().take(elements).map(|string| string.len() + 4).sum();
        rest.push(tensor.data().get(start..start + width).unwrap_or_default());
        start += width;
    }
    rest
}

/// A column like another, of other rows.
pub(super) fn of_rows(like: &Tensor, rows: usize, data: Vec<u8>) -> Result<Tensor, ApiError> {
    let shape = [rows].into_iter().chain(like.row_shape().iter().copied()).collect();
    Tensor::new(like.name(), like.dtype(), shape, data).map_err(|error| wrong(error.to_string()))
}

pub(super) fn differ(column: &str) -> ApiError {
    wrong(format!("the endpoints' answers differ in the type or shape of `{column}`"))
}

/// An answer of an endpoint that does not fit the others, which is the server's fault.
pub(super) fn wrong(message: String) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, message)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::domain::DataType;

    pub(in crate::serve::graph) fn batch(scores: &[f32], labels: &[&str]) -> Batch {
        let scores = Tensor::from_f32("scores", vec![scores.len()], scores).unwrap();
        let labels = Tensor::from_strings("label", labels.iter().map(|label| label.as_bytes())).unwrap();
        Batch::new(vec![scores, labels]).unwrap()
    }

    #[test]
    fn rows_of_several_strings_come_back_in_order() {
        let strings = |all: &[&str], rows: usize| {
            let flat = Tensor::from_strings("t", all.iter().map(|text| text.as_bytes())).unwrap();
            Batch::new(vec![Tensor::new("t", DataType::Bytes, vec![rows, 2], flat.into_data()).unwrap()])
                .unwrap()
        };
        let parts = [(strings(&["a", "", "ccc", "d"], 2), &[0, 2][..]), (strings(&["e", "ff"], 1), &[1][..])];
        assert_eq!(in_order(&parts, 3).unwrap(), strings(&["a", "", "e", "ff", "ccc", "d"], 3));
    }

    #[test]
    fn a_sequence_hands_on_what_was_made_and_asked() {
        let known = batch(&[1.0], &["old"]);
        let made = Batch::new(vec![Tensor::from_strings("label", [b"new".as_slice()]).unwrap()]).unwrap();
        let both = beside(&known, &made).unwrap();
        assert_eq!(both.column("scores"), known.column("scores"));
        assert_eq!(both.column("label"), made.column("label"));
    }
}
