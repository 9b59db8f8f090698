use serde::{Deserialize, Serialize};

use super::{Batch, BatchError, DataType, Tensor, do_elements_fit};

/// What one column looks like: everything about a tensor but its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnSpec {
    /// Column name.
    pub name: String,
    /// Element type.
    pub dtype: DataType,
    /// Dimensions of one row; empty for one element a row.
    pub shape: Vec<usize>,
    /// Whether elements may be missing. Only floating-point columns can have missing elements; they are NaN.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nullable: bool,
    /// What the elements of a row are called, in their order; empty where they have no names. By these, tables are put in order
    /// whose columns are the elements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub element_names: Vec<String>,
}

/// What a bundle takes, what its model sees and what it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Columns of a request, before the first transformer.
    pub inputs: Vec<ColumnSpec>,
    /// Columns that the model sees, after the preprocess transformers.
    pub features: Vec<ColumnSpec>,
    /// Columns of the answer, after the last transformer.
    pub outputs: Vec<ColumnSpec>,
}

/// A signature that no batch could have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SignatureError {
    #[error("{found} columns: expected at most {}", Signature::COLUMNS_MAX)]
    TooManyColumns { found: usize },
    #[error(transparent)]
    Columns(#[from] BatchError),
}

impl Signature {
    /// Columns of a request, of features or of an answer. A file of a dataset has fewer; a model of elsewhere may have a column for
    /// each of more features.
    pub const COLUMNS_MAX: usize = 65_536;

    /// Checks that batches can have these columns: their names, and the sizes of their rows.
    pub fn check(&self) -> Result<(), SignatureError> {
        for specs in [&self.inputs, &self.features, &self.outputs] {
            if specs.len() > Self::COLUMNS_MAX {
                return Err(SignatureError::TooManyColumns { found: specs.len() });
            }
            ColumnSpec::no_rows(specs)?;
        }
        Ok(())
    }
}

/// A batch that is not what a signature promises.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SchemaError {
    #[error("column `{name}` is missing")]
    Missing { name: String },
    #[error("column `{name}` is unknown: expected {}", list(expected))]
    Unknown { name: String, expected: Vec<String> },
    #[error("column `{name}`: expected {expected}, found {found}")]
    DataType { name: String, expected: DataType, found: DataType },
    #[error("column `{name}`: expected rows of {}, found {}", shape_text(expected), shape_text(found))]
    Shape { name: String, expected: Vec<usize>, found: Vec<usize> },
}

impl Signature {
    /// A column of requests or answers in which another signature differs, so that who is used to the one cannot ask by the other;
    /// none where there is none. Elements of a row that have names may stand in another order.
    pub fn column_unlike<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        let unlike = |one: &'a [ColumnSpec], other: &'a [ColumnSpec]| {
            let is_missing = |spec: &&ColumnSpec| {
                !other.iter().any(|known| known.name == spec.name && is_asked_alike(known, spec))
            };
            let added = |spec: &&ColumnSpec| !one.iter().any(|known| known.name == spec.name);
            let found = one.iter().find(is_missing).or_else(|| other.iter().find(added));
            found.map(|spec| spec.name.as_str())
        };
        unlike(&self.inputs, &other.inputs).or_else(|| unlike(&self.outputs, &other.outputs))
    }
}

/// Whether what is asked by one can be asked by the other, in the other's order.
fn is_asked_alike(one: &ColumnSpec, other: &ColumnSpec) -> bool {
    (one.dtype, &one.shape) == (other.dtype, &other.shape) && do_elements_fit(one, other)
}

impl ColumnSpec {
    /// Whether rows of both have the same type and shape, and call their elements the same in the same order, as far as both have
    /// names for them.
    pub fn is_like(&self, other: &Self) -> bool {
        let (names, of_other) = (&self.element_names, &other.element_names);
        (self.dtype, &self.shape) == (other.dtype, &other.shape)
            && (names.is_empty() || of_other.is_empty() || names == of_other)
    }

    /// Elements of a row up to which they may have names.
    pub const ELEMENT_NAMES_MAX: usize = 256;

    /// The spec that describes `tensor`.
    pub fn of(tensor: &Tensor) -> Self {
        Self {
            name: tensor.name().to_owned(),
            dtype: tensor.dtype(),
            shape: tensor.row_shape().to_vec(),
            nullable: false,
            element_names: Vec::new(),
        }
    }

    /// The specs of every column of `batch`, in its order.
    pub fn of_batch(batch: &Batch) -> Vec<Self> {
        batch.tensors().iter().map(Self::of).collect()
    }

    /// Whether a tensor is this column.
    fn is_of(&self, tensor: &Tensor) -> bool {
        self.name == tensor.name() && self.dtype == tensor.dtype() && self.shape == tensor.row_shape()
    }

    /// A batch of these columns without rows.
    pub fn no_rows(specs: &[Self]) -> Result<Batch, BatchError> {
        let tensor = |spec: &Self| {
            let shape = std::iter::once(0).chain(spec.shape.iter().copied()).collect();
            Tensor::new(&*spec.name, spec.dtype, shape, Vec::new())
        };
        Batch::new(specs.iter().map(tensor).collect::<Result<_, _>>()?)
    }

    /// Number of elements in one row.
    pub fn row_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Checks that `batch` has exactly the columns that `specs` name, in any order.
    pub fn check(specs: &[Self], batch: &Batch) -> Result<(), SchemaError> {
        // The usual case, and quick however many there are.
        let tensors = batch.tensors();
        if specs.len() == tensors.len() && specs.iter().zip(tensors).all(|(spec, tensor)| spec.is_of(tensor))
        {
            return Ok(());
        }
        if let Some(stray) =
            batch.tensors().iter().find(|tensor| !specs.iter().any(|spec| spec.name == tensor.name()))
        {
            let expected = specs.iter().map(|spec| spec.name.clone()).collect();
            return Err(SchemaError::Unknown { name: stray.name().to_owned(), expected });
        }
        for spec in specs {
            let Some(tensor) = batch.column(&spec.name) else {
                return Err(SchemaError::Missing { name: spec.name.clone() });
            };
            let name = spec.name.clone();
            if tensor.dtype() != spec.dtype {
                return Err(SchemaError::DataType { name, expected: spec.dtype, found: tensor.dtype() });
            }
            if tensor.row_shape() != spec.shape {
                let found = tensor.row_shape().to_vec();
                return Err(SchemaError::Shape { name, expected: spec.shape.clone(), found });
            }
        }
        Ok(())
    }
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn shape_text(shape: &[usize]) -> String {
    match shape {
        [] => "one element".to_owned(),
        sizes => sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" × "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_by_which_the_same_can_be_asked_are_alike() {
        let column = |name: &str, dtype, names: &[&str]| ColumnSpec {
            name: name.to_owned(),
            dtype,
            shape: vec![2],
            nullable: false,
            element_names: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let signature = |inputs: &[ColumnSpec], outputs: &[ColumnSpec]| Signature {
            inputs: inputs.to_vec(),
            features: Vec::new(),
            outputs: outputs.to_vec(),
        };
        let [x, y, double] = [("x", DataType::Fp32), ("y", DataType::Fp32), ("x", DataType::Fp64)]
            .map(|(name, dtype)| column(name, dtype, &[]));
        let (named, turned) =
            (column("x", DataType::Fp32, &["a", "b"]), column("x", DataType::Fp32, &["b", "a"]));
        let one = signature(&[x.clone(), y.clone()], std::slice::from_ref(&x));
        let unlike = |inputs: &[ColumnSpec], outputs: &[ColumnSpec]| {
            let other = signature(inputs, outputs);
            let found = one.column_unlike(&other).map(str::to_owned);
            assert_eq!(found.is_some(), other.column_unlike(&one).is_some());
            found
        };
        assert_eq!(unlike(&[y.clone(), named.clone()], std::slice::from_ref(&x)), None, "in any order");
        assert_eq!(unlike(&[double, y.clone()], std::slice::from_ref(&x)).as_deref(), Some("x"));
        assert_eq!(unlike(std::slice::from_ref(&x), std::slice::from_ref(&x)).as_deref(), Some("y"));
        assert_eq!(unlike(&[x.clone(), y.clone()], &[x.clone(), y.clone()]).as_deref(), Some("y"));
        let strange = column("x", DataType::Fp32, &["a", "c"]);
        let [named, turned, strange] = [named, turned, strange].map(|column| signature(&[column], &[]));
        assert_eq!((named.column_unlike(&turned), named.column_unlike(&strange)), (None, Some("x")));
    }

    #[test]
    fn refuses_columns_that_no_batch_could_have() {
        let column = |name: &str, shape: &[usize]| ColumnSpec {
            name: name.to_owned(),
            dtype: DataType::Fp32,
            shape: shape.to_vec(),
            nullable: false,
            element_names: Vec::new(),
        };
        let honest = || Signature {
            inputs: vec![column("two\nlines", &[28, 28])],
            features: vec![column("features", &[784]), column("none", &[3, 0])],
            outputs: vec![column("scores", &[10])],
        };
        assert_eq!(honest().check(), Ok(()));
        let many = (0..=Signature::COLUMNS_MAX).map(|index| column(&format!("c{index}"), &[])).collect();
        for (columns, told) in [
            (vec![column("x", &[1; 50_000])], "column `x`: expected at most 64 dimensions, found 50001"),
            (vec![column("x", &[1 << 40, 1 << 40])], "is too large to address"),
            (vec![column("x", &[1 << 40, 0])], "expected at most 1024 lists in a row of no elements"),
            (vec![column(&"x".repeat(100_000), &[])], "column name of 100000 bytes: expected 1 to 256"),
            (vec![column("x", &[]), column("x", &[])], "column `x` appears twice"),
            (many, "65537 columns: expected at most 65536"),
        ] {
            let changed = [
                Signature { inputs: columns.clone(), ..honest() },
                Signature { features: columns.clone(), ..honest() },
                Signature { outputs: columns, ..honest() },
            ];
            for signature in changed {
                let error = signature.check().unwrap_err().to_string();
                assert!(error.contains(told), "{error}");
            }
        }
    }

    #[test]
    fn names_the_column_that_differs() {
        let specs = [ColumnSpec {
            name: "x".into(),
            dtype: DataType::Fp32,
            shape: vec![2],
            nullable: false,
            element_names: Vec::new(),
        }];
        let batch = |name: &str, dtype, shape: &[usize]| {
            let bytes = shape.iter().product::<usize>() * DataType::size(dtype).unwrap();
            Batch::new(vec![Tensor::new(name, dtype, shape.to_vec(), vec![0; bytes]).unwrap()]).unwrap()
        };
        let error = |batch| ColumnSpec::check(&specs, &batch).unwrap_err().to_string();
        assert!(ColumnSpec::check(&specs, &batch("x", DataType::Fp32, &[7, 2])).is_ok());
        assert_eq!(error(Batch::default()), "column `x` is missing");
        assert_eq!(error(batch("y", DataType::Fp32, &[1, 2])), "column `y` is unknown: expected `x`");
        assert_eq!(error(batch("x", DataType::Fp64, &[1, 2])), "column `x`: expected FP32, found FP64");
        assert_eq!(
            error(batch("x", DataType::Fp32, &[1, 2, 3])),
            "column `x`: expected rows of 2, found 2 × 3"
        );
    }
}
