//! Domain values to and from the generated types of contract version 0.1.

use std::borrow::Cow;

use super::bindings::{detector, transformer};
use super::{Fault, InstancePolicy, Kind, Manifest, ManifestLimits};
use crate::domain::{Batch, DataType, Tensor};

/// A batch in the borrowed form in which it is written into a guest's memory, without a copy in between.
pub(super) struct BatchView<'a> {
    tensors: Vec<TensorView<'a>>,
}

struct TensorView<'a> {
    name: &'a str,
    dtype: DataType,
    shape: Cow<'a, [u64]>,
    data: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// All rows of `batch`.
    pub(super) fn whole(batch: &'a Batch) -> Self {
        let view = |tensor: &'a Tensor| TensorView {
            name: tensor.name(),
            dtype: tensor.dtype(),
            shape: shape(tensor),
            data: tensor.data(),
        };
        Self { tensors: batch.tensors().iter().map(view).collect() }
    }

    /// Rows `range` of `batch`, which has fixed-size types only; none where the rows are not there.
    pub(super) fn rows(batch: &'a Batch, range: std::ops::Range<usize>) -> Option<Self> {
        let view = |tensor: &'a Tensor| {
            let stride = tensor.row_elements() * tensor.dtype().size()?;
            let mut shape = shape(tensor);
            *shape.to_mut().first_mut()? = range.len() as u64;
            let data = tensor.data().get(range.start * stride..range.end * stride)?;
            Some(TensorView { name: tensor.name(), dtype: tensor.dtype(), shape, data })
        };
        Some(Self { tensors: batch.tensors().iter().map(view).collect::<Option<_>>()? })
    }
}

/// The sizes of a tensor as the contract has them: the same bytes, where pointers have 64 bits.
fn shape(tensor: &Tensor) -> Cow<'_, [u64]> {
    match bytemuck::try_cast_slice(tensor.shape()) {
        Ok(shape) => Cow::Borrowed(shape),
        Err(_) => tensor.shape().iter().map(|&size| size as u64).collect(),
    }
}

/// The two worlds generate the same types twice; this writes their conversions once.
macro_rules! conversions {
    ($module:ident, $bindings:ident, $tensor:ident) => {
        pub(super) mod $module {
            use super::*;
            use $bindings::exports::mlops::plugin::description;
            use $bindings::mlops::plugin::types;

            /// A batch as the generated functions take it.
            pub(in super::super) fn params<'a>(batch: &'a BatchView<'_>) -> Vec<types::$tensor<'a>> {
                let param = |tensor: &'a TensorView<'_>| types::$tensor {
                    name: tensor.name,
                    dtype: to_dtype(tensor.dtype),
                    shape: &tensor.shape,
                    data: tensor.data,
                };
                batch.tensors.iter().map(param).collect()
            }

            pub(in super::super) fn manifest(manifest: description::Manifest) -> Manifest {
                Manifest {
                    name: manifest.name,
                    version: manifest.version,
                    kind: match manifest.kind {
                        description::Kind::Transformer => Kind::Transformer,
                        description::Kind::Detector => Kind::Detector,
                    },
                    summary: manifest.summary,
                    config_schema: Manifest::parse_schema(&manifest.config_schema),
                    needs_fit: manifest.needs_fit,
                    rows_independent: manifest.rows_independent,
                    instances: match manifest.instances {
                        description::InstancePolicy::Fresh => InstancePolicy::Fresh,
                        description::InstancePolicy::Pooled => InstancePolicy::Pooled,
                    },
                    limits: ManifestLimits {
                        memory_max_bytes: manifest.limits.memory_max_bytes,
                        call_max_ms: manifest.limits.call_max_ms,
                    },
                }
            }

            pub(in super::super) fn fault(error: types::Error) -> Fault {
                match error {
                    types::Error::InvalidInput(types::InvalidInput { message, row, column }) => {
                        Fault::InvalidInput { message, row, column }
                    }
                    types::Error::InvalidConfig(message) => Fault::InvalidConfig(message),
                    types::Error::InvalidState(message) => Fault::InvalidState(message),
                    types::Error::NotFitted => Fault::NotFitted,
                    types::Error::Other(message) => Fault::Other(message),
                }
            }

            fn to_dtype(dtype: DataType) -> types::Dtype {
                match dtype {
                    DataType::Bool => types::Dtype::Bool,
                    DataType::Uint8 => types::Dtype::Uint8,
                    DataType::Uint16 => types::Dtype::Uint16,
                    DataType::Uint32 => types::Dtype::Uint32,
                    DataType::Uint64 => types::Dtype::Uint64,
                    DataType::Int8 => types::Dtype::Int8,
                    DataType::Int16 => types::Dtype::Int16,
                    DataType::Int32 => types::Dtype::Int32,
                    DataType::Int64 => types::Dtype::Int64,
                    DataType::Fp16 => types::Dtype::Fp16,
                    DataType::Fp32 => types::Dtype::Fp32,
                    DataType::Fp64 => types::Dtype::Fp64,
                    DataType::Bytes => types::Dtype::Bytes,
                }
            }
        }
    };
}

conversions!(for_transformer, transformer, TensorParam);
conversions!(for_detector, detector, Tensor);

/// Columns that a plugin may answer with.
const COLUMNS_MAX: usize = 4_096;

/// Checks and takes what a transformer returned; it must have `rows` rows.
pub(super) fn answer(
    tensors: Vec<transformer::mlops::plugin::types::TensorResult>,
    rows: usize,
) -> Result<Batch, Fault> {
    let breach =
        |error: &dyn std::fmt::Display| Fault::Contract(format!("it returned a batch whose {error}"));
    if tensors.len() > COLUMNS_MAX {
        let found = tensors.len();
        return Err(Fault::Contract(format!("it returned {found} columns: the limit is {COLUMNS_MAX}")));
    }
    // Each collection takes the place of what it is made of, which saves its allocation.
    let column = |tensor: transformer::mlops::plugin::types::TensorResult| {
        let shape: Result<Vec<usize>, _> = tensor.shape.into_iter().map(usize::try_from).collect();
        let shape = shape.map_err(|error| breach(&error))?;
        Tensor::new(tensor.name, from_dtype(tensor.dtype), shape, tensor.data).map_err(|error| breach(&error))
    };
    let columns = tensors.into_iter().map(column).collect::<Result<_, _>>()?;
    let batch = Batch::new(columns).map_err(|error| breach(&error))?;
    if batch.tensors().is_empty() {
        return Err(Fault::Contract("it returned a batch without columns".to_owned()));
    }
    if batch.rows() != rows {
        let found = batch.rows();
        return Err(Fault::Contract(format!("it returned {found} rows for {rows}")));
    }
    Ok(batch)
}

fn from_dtype(dtype: transformer::mlops::plugin::types::Dtype) -> DataType {
    use transformer::mlops::plugin::types::Dtype;
    match dtype {
        Dtype::Bool => DataType::Bool,
        Dtype::Uint8 => DataType::Uint8,
        Dtype::Uint16 => DataType::Uint16,
        Dtype::Uint32 => DataType::Uint32,
        Dtype::Uint64 => DataType::Uint64,
        Dtype::Int8 => DataType::Int8,
        Dtype::Int16 => DataType::Int16,
        Dtype::Int32 => DataType::Int32,
        Dtype::Int64 => DataType::Int64,
        Dtype::Fp16 => DataType::Fp16,
        Dtype::Fp32 => DataType::Fp32,
        Dtype::Fp64 => DataType::Fp64,
        Dtype::Bytes => DataType::Bytes,
    }
}
