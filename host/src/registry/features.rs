use crate::domain::{Batch, BatchError, ColumnSpec, DataType, SchemaError, Tensor};
use crate::model::FEATURES;

/// Columns that cannot become the one matrix that models take.
#[derive(Debug, thiserror::Error)]
pub enum FeatureError {
    /// Not the columns that training saw.
    #[error("{0}")]
    Schema(#[from] SchemaError),
    /// A column of text, or of half-precision floats.
    #[error(
        "column `{name}` has type {dtype}, which no model takes: encode it with a transformer, such as `one-hot`"
    )]
    NotNumeric {
        /// The column.
        name: String,
        /// Its type.
        dtype: DataType,
    },
    /// The matrix cannot be made.
    #[error("{0}")]
    Batch(#[from] BatchError),
}

/// Puts numeric columns side by side as the one FP32 column that models take, in the order of `specs`.
///
/// Gives nothing where the batch is that column already, which is the usual case and costs nothing.
pub fn assemble(batch: &Batch, specs: &[ColumnSpec]) -> Result<Option<Batch>, FeatureError> {
    ColumnSpec::check(specs, batch)?;
    if let [tensor] = batch.tensors()
        && tensor.name() == FEATURES
        && tensor.dtype() == DataType::Fp32
        && tensor.row_shape().len() == 1
    {
        return Ok(None);
    }
    let mut columns = Vec::with_capacity(specs.len());
    for spec in specs {
        let tensor = batch.column(&spec.name);
        let values = tensor
            .and_then(Tensor::to_f64)
            .ok_or_else(|| FeatureError::NotNumeric { name: spec.name.clone(), dtype: spec.dtype })?;
        columns.push((spec.row_elements(), values));
    }
    let width = columns.iter().map(|(width, _)| width).sum();
    let mut matrix = Vec::with_capacity(batch.rows() * width);
    for row in 0..batch.rows() {
        for (width, values) in &columns {
            let values = values.get(row * width..(row + 1) * width).unwrap_or_default();
            matrix.extend(values.iter().map(|&value| value as f32));
        }
    }
    let tensor = Tensor::from_f32(FEATURES, vec![batch.rows(), width], &matrix).map_err(BatchError::from)?;
    Ok(Some(Batch::new(vec![tensor])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_in_the_order_of_the_specs() {
        let x = Tensor::new("x", DataType::Uint8, vec![2, 2], vec![1, 2, 3, 4]).unwrap();
        let y = Tensor::from_f32("y", vec![2], &[0.5, f32::NAN]).unwrap();
        let specs = [ColumnSpec::of(&y), ColumnSpec::of(&x)];
        let batch = Batch::new(vec![x, y]).unwrap();
        let matrix = assemble(&batch, &specs).unwrap().unwrap();
        let values = matrix.column(FEATURES).unwrap();
        assert_eq!(values.shape(), [2, 3]);
        let values = values.as_f32().unwrap();
        assert_eq!(values[..3], [0.5, 1.0, 2.0]);
        assert!(values[3].is_nan());
        assert_eq!(values[4..], [3.0, 4.0]);
    }

    #[test]
    fn a_matrix_passes_untouched_and_text_is_refused() {
        let matrix = Tensor::from_f32(FEATURES, vec![1, 2], &[1.0, 2.0]).unwrap();
        let batch = Batch::new(vec![matrix]).unwrap();
        let specs = ColumnSpec::of_batch(&batch);
        assert!(matches!(assemble(&batch, &specs), Ok(None)));
        let text = Batch::new(vec![Tensor::from_strings("city", [&b"Ulm"[..]]).unwrap()]).unwrap();
        let error = assemble(&text, &ColumnSpec::of_batch(&text)).unwrap_err();
        assert!(error.to_string().contains("`city` has type BYTES"), "{error}");
    }
}
