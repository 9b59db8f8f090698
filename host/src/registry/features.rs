use crate::domain::{Batch, BatchError, ColumnSpec, DataType, SchemaError, Tensor, whole_number};
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
    /// An element that a model of whole numbers cannot take: the columns are right, and the row is at fault.
    #[error("row {row}, column `{column}`: {place}expected a whole number that {dtype} holds, found {found}")]
    NotWhole {
        /// The row, from 0.
        row: usize,
        /// The column.
        column: String,
        /// Which of several elements of the row, in words.
        place: String,
        /// What the model takes.
        dtype: DataType,
        /// The element.
        found: String,
    },
    /// The matrix cannot be made.
    #[error("{0}")]
    Batch(#[from] BatchError),
}

/// Puts numeric columns side by side as the one column that models take, in the order of `specs`. Its type is FP32, or what a
/// model of another type takes: FP64, INT32 or INT64.
///
/// Floats of it are the nearest, integers exact or an error. Gives nothing where the batch is that column already, which is the
/// usual case and costs nothing.
pub fn assemble(batch: &Batch, specs: &[ColumnSpec], dtype: DataType) -> Result<Option<Batch>, FeatureError> {
    ColumnSpec::check(specs, batch)?;
    if let [tensor] = batch.tensors()
        && tensor.name() == FEATURES
        && tensor.dtype() == dtype
        && tensor.row_shape().len() == 1
    {
        return Ok(None);
    }
    let rows = batch.rows();
    let data = match dtype {
        DataType::Int32 => side_by_side(&columns(batch, specs, integers::<i32>)?, rows),
        DataType::Int64 => side_by_side(&columns(batch, specs, integers::<i64>)?, rows),
        DataType::Fp64 => side_by_side(&columns(batch, specs, |tensor| Ok(tensor.to_f64()))?, rows),
        _ => side_by_side(&columns(batch, specs, |tensor| Ok(tensor.to_f32()))?, rows),
    };
    let width = specs.iter().map(ColumnSpec::row_elements).sum();
    let tensor = Tensor::new(FEATURES, dtype, vec![rows, width], data).map_err(BatchError::from)?;
    Ok(Some(Batch::new(vec![tensor])?))
}

/// The elements of each column, and how many of them are a row's.
fn columns<T>(
    batch: &Batch,
    specs: &[ColumnSpec],
    elements: impl Fn(&Tensor) -> Result<Option<Vec<T>>, FeatureError>,
) -> Result<Vec<(usize, Vec<T>)>, FeatureError> {
    let mut columns = Vec::with_capacity(specs.len());
    for spec in specs {
        let values = batch.column(&spec.name).map(&elements).transpose()?.flatten();
        let values =
            values.ok_or_else(|| FeatureError::NotNumeric { name: spec.name.clone(), dtype: spec.dtype })?;
        columns.push((spec.row_elements(), values));
    }
    Ok(columns)
}

fn integers<T: Integer>(tensor: &Tensor) -> Result<Option<Vec<T>>, FeatureError> {
    // As floats of 64 bits, only these two would be rounded; and one of 32 bits is told as what it is.
    if let Some(values) = tensor.as_i64() {
        return each(tensor, &values, Some).map(Some);
    }
    if let Some(values) = tensor.as_u64() {
        return each(tensor, &values, |value| value.try_into().ok()).map(Some);
    }
    if let Some(values) = tensor.as_f32() {
        return each(tensor, &values, |value| whole_number(value.into())).map(Some);
    }
    tensor.to_f64().map(|values| each(tensor, &values, whole_number)).transpose()
}

/// A type of integers that models take.
trait Integer: TryFrom<i64> {
    const TYPE: DataType;
}

impl Integer for i32 {
    const TYPE: DataType = DataType::Int32;
}

impl Integer for i64 {
    const TYPE: DataType = DataType::Int64;
}

/// The elements of a column as integers, which `whole` must make of all of them.
fn each<S: Copy + std::fmt::Display, T: Integer>(
    tensor: &Tensor,
    values: &[S],
    whole: impl Fn(S) -> Option<i64>,
) -> Result<Vec<T>, FeatureError> {
    let width = tensor.row_elements().max(1);
    let refuse = |index: usize, value: S| FeatureError::NotWhole {
        row: index / width,
        column: tensor.name().to_owned(),
        place: if width == 1 { String::new() } else { format!("element {}: ", index % width) },
        dtype: T::TYPE,
        found: value.to_string(),
    };
    let convert = |(index, &value): (usize, &S)| {
        whole(value).and_then(|value| value.try_into().ok()).ok_or_else(|| refuse(index, value))
    };
    values.iter().enumerate().map(convert).collect()
}

/// The bytes of a matrix of `rows` rows, of columns with so many elements a row each.
fn side_by_side<T: bytemuck::NoUninit>(columns: &[(usize, Vec<T>)], rows: usize) -> Vec<u8> {
    let width: usize = columns.iter().map(|(width, _)| width).sum();
    let mut matrix = Vec::with_capacity(rows * width);
    for row in 0..rows {
        for (width, values) in columns {
            let values = values.get(row * width..(row + 1) * width).unwrap_or_default();
            matrix.extend(values.iter().copied());
        }
    }
    bytemuck::cast_slice(&matrix).to_vec()
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
        let matrix = assemble(&batch, &specs, DataType::Fp32).unwrap().unwrap();
        let values = matrix.column(FEATURES).unwrap();
        assert_eq!(values.shape(), [2, 3]);
        let values = values.as_f32().unwrap();
        assert_eq!(values[..3], [0.5, 1.0, 2.0]);
        assert!(values[3].is_nan());
        assert_eq!(values[4..], [3.0, 4.0]);
    }

    fn column<T: bytemuck::NoUninit>(dtype: DataType, width: usize, values: &[T]) -> Tensor {
        let shape = vec![values.len() / width, width];
        Tensor::new("x", dtype, shape, bytemuck::cast_slice(values).to_vec()).unwrap()
    }

    fn assembled(column: Tensor, dtype: DataType) -> Result<Tensor, String> {
        let batch = Batch::new(vec![column]).unwrap();
        let matrix =
            assemble(&batch, &ColumnSpec::of_batch(&batch), dtype).map_err(|error| error.to_string())?;
        Ok(matrix.unwrap().column(FEATURES).unwrap().clone())
    }

    #[test]
    fn wider_types_lose_nothing_that_they_hold() {
        use DataType::{Bool, Fp32, Fp64, Int32, Int64, Uint8, Uint64};
        let beyond = (1_i64 << 53) + 1;
        let long = [16_777_217, beyond, i64::MIN, i64::MAX];
        let matrix = assembled(column(Int64, 2, &long), Int64).unwrap();
        assert_eq!((matrix.dtype(), matrix.shape()), (Int64, &[2, 2][..]));
        assert_eq!(matrix.as_i64().unwrap().as_ref(), long);
        // To the nearest, as NumPy casts it.
        let doubles = assembled(column(Int64, 2, &[16_777_217, beyond]), Fp64).unwrap();
        assert_eq!(doubles.as_f64().unwrap().as_ref(), [16_777_217.0, 9_007_199_254_740_992.0]);
        // Rounded once, and not by way of 64 bits.
        let float = assembled(column(Int64, 1, &[(1_i64 << 60) + (1 << 36) + 1]), Fp32).unwrap();
        assert_eq!(float.as_f32().unwrap().as_ref(), [1_152_921_642_045_800_448.0]);
        let doubles = assembled(column(Fp64, 1, &[0.1]), Fp64).unwrap();
        assert_eq!(doubles.as_f64().unwrap().as_ref(), [0.1]);
        let short = [i32::MIN, 16_777_217, i32::MAX];
        let whole = [
            assembled(column(Int64, 3, &short.map(i64::from)), Int32).unwrap(),
            assembled(column(Fp64, 3, &short.map(f64::from)), Int32).unwrap(),
            assembled(column(Int32, 3, &short), Int32).unwrap(),
        ];
        assert!(whole.iter().all(|matrix| matrix.as_i32().unwrap().as_ref() == short), "{whole:?}");
        let integers = |tensor| assembled(tensor, Int64).unwrap().as_i64().unwrap().into_owned();
        assert_eq!(integers(column(Uint64, 1, &[beyond as u64, i64::MAX as u64])), [beyond, i64::MAX]);
        assert_eq!(integers(column(Fp64, 1, &[i64::MIN as f64, -0.0])), [i64::MIN, 0]);
        assert_eq!(integers(column(Fp32, 1, &[1e10_f32])), [10_000_000_000]);
        assert_eq!(integers(column(Bool, 1, &[1_u8, 0])), [1, 0]);
        assert_eq!(integers(column(Uint8, 1, &[255_u8])), [255]);
    }

    #[test]
    fn what_is_no_integer_of_the_model_is_told_with_its_place() {
        use DataType::{Fp32, Fp64, Int32, Int64, Uint64};
        let error = |column, dtype| assembled(column, dtype).unwrap_err();
        assert_eq!(
            error(column(Fp32, 2, &[1.0_f32, 2.0, 3.0, 0.1]), Int64),
            "row 1, column `x`: element 1: expected a whole number that INT64 holds, found 0.1"
        );
        assert_eq!(
            error(column(Int64, 1, &[0_i64, 1 << 31]), Int32),
            "row 1, column `x`: expected a whole number that INT32 holds, found 2147483648"
        );
        for value in [f64::NAN, f64::INFINITY, 0.5, -(i64::MIN as f64)] {
            let told = error(column(Fp64, 1, &[value]), Int64);
            assert_eq!(
                told,
                format!("row 0, column `x`: expected a whole number that INT64 holds, found {value}")
            );
        }
        assert!(error(column(Uint64, 1, &[1_u64 << 63]), Int64).ends_with("found 9223372036854775808"));
    }

    #[test]
    fn a_matrix_passes_untouched_and_text_is_refused() {
        let matrix = Tensor::from_f32(FEATURES, vec![1, 2], &[1.0, 2.0]).unwrap();
        let batch = Batch::new(vec![matrix]).unwrap();
        let specs = ColumnSpec::of_batch(&batch);
        assert!(matches!(assemble(&batch, &specs, DataType::Fp32), Ok(None)));
        let wide = Tensor::new(FEATURES, DataType::Int64, vec![1, 1], vec![0; 8]).unwrap();
        let wide = Batch::new(vec![wide]).unwrap();
        assert!(matches!(assemble(&wide, &ColumnSpec::of_batch(&wide), DataType::Int64), Ok(None)));
        let text = Batch::new(vec![Tensor::from_strings("city", [&b"Ulm"[..]]).unwrap()]).unwrap();
        let error = assemble(&text, &ColumnSpec::of_batch(&text), DataType::Fp32).unwrap_err();
        assert!(error.to_string().contains("`city` has type BYTES"), "{error}");
    }
}
