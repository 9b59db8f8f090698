//! The names that a model's file has for its features, against those of the columns that the features are made of.

use std::collections::{HashMap, HashSet};

use crate::domain::ColumnSpec;

/// Longest name of an element, as of a column.
const NAME_MAX_BYTES: usize = 256;

/// Names that are shown of those there are.
const SHOWN: usize = 20;

/// Names by which features cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum FeatureNamesError {
    /// Not a name for each element.
    #[error(
        "the signature cannot be used: column `{column}` has {found} `element_names`: expected {expected} that differ, one for \
         each element of a row, of 1 to {NAME_MAX_BYTES} bytes"
    )]
    Elements {
        /// The column.
        column: String,
        /// Elements in a row.
        expected: usize,
        /// How many names there are.
        found: usize,
    },
    /// More elements than may have names.
    #[error(
        "the signature cannot be used: column `{column}` has {found} `element_names`: expected at most {}",
        ColumnSpec::ELEMENT_NAMES_MAX
    )]
    Many {
        /// The column.
        column: String,
        /// How many names there are.
        found: usize,
    },
    /// The columns are the features, in an order into which they cannot be brought here.
    #[error("the model's features are in another order: expected {}", listed(expected))]
    Order {
        /// The file's order.
        expected: Vec<String>,
    },
}

/// Checks the names that a signature has for elements.
pub(super) fn check_element_names(specs: &[ColumnSpec]) -> Result<(), FeatureNamesError> {
    for spec in specs.iter().filter(|spec| !spec.element_names.is_empty()) {
        let (names, column) = (&spec.element_names, spec.name.clone());
        let (expected, found) = (spec.row_elements(), names.len());
        if found > ColumnSpec::ELEMENT_NAMES_MAX {
            return Err(FeatureNamesError::Many { column, found });
        }
        let is_sized = names.iter().all(|name| (1..=NAME_MAX_BYTES).contains(&name.len()));
        if found != expected || !is_sized || names.iter().collect::<HashSet<_>>().len() != found {
            return Err(FeatureNamesError::Elements { column, expected, found });
        }
    }
    Ok(())
}

/// Gives the elements of the only column that a model takes the names that its file has for them, unless somebody has named them.
pub(super) fn name_elements(specs: &mut [ColumnSpec], names: &[String]) {
    if let [only] = specs
        && only.element_names.is_empty()
        && only.row_elements() == names.len()
        && (2..=ColumnSpec::ELEMENT_NAMES_MAX).contains(&names.len())
    {
        only.element_names = names.to_vec();
    }
}

/// The columns in the order in which the model's file has its features, where it has the same names for them. Where it has none,
/// or others, they are what they are.
pub(super) fn in_order_of_file(
    specs: Vec<ColumnSpec>,
    names: &[String],
) -> Result<Vec<ColumnSpec>, FeatureNamesError> {
    let places: HashMap<&str, usize> =
        names.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
    // The place of each column's elements; a column of several that have no names has none.
    let of_column = |spec: &ColumnSpec| -> Option<Vec<usize>> {
        let own = std::slice::from_ref(&spec.name);
        let names = match spec.element_names.as_slice() {
            [] if spec.row_elements() == 1 => own,
            [] => return None,
            names => names,
        };
        names.iter().map(|name| places.get(name.as_str()).copied()).collect()
    };
    let Some(found) = specs.iter().map(of_column).collect::<Option<Vec<_>>>() else { return Ok(specs) };
    let distinct: HashSet<usize> = found.iter().flatten().copied().collect();
    let count: usize = found.iter().map(Vec::len).sum();
    if distinct.len() != names.len() || count != names.len() {
        return Ok(specs);
    }
    let mut ordered: Vec<(Vec<usize>, ColumnSpec)> = found.into_iter().zip(specs).collect();
    ordered.sort_by(|(one, _), (other, _)| one.cmp(other));
    if !ordered.iter().flat_map(|(places, _)| places).copied().eq(0..names.len()) {
        return Err(FeatureNamesError::Order { expected: names.to_vec() });
    }
    Ok(ordered.into_iter().map(|(_, spec)| spec).collect())
}

fn listed(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown}, …") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DataType;

    fn spec(name: &str, shape: &[usize], element_names: &[&str]) -> ColumnSpec {
        ColumnSpec {
            name: name.to_owned(),
            dtype: DataType::Fp32,
            shape: shape.to_vec(),
            nullable: false,
            element_names: owned(element_names),
        }
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn ordered(specs: &[ColumnSpec], names: &[&str]) -> Result<Vec<String>, String> {
        let ordered = in_order_of_file(specs.to_vec(), &owned(names)).map_err(|error| error.to_string())?;
        Ok(ordered.into_iter().map(|spec| spec.name).collect())
    }

    #[test]
    fn columns_are_brought_into_the_order_of_the_file() {
        let columns = ["age", "debt", "income"].map(|name| spec(name, &[], &[]));
        let file = ["income", "age", "debt"];
        assert_eq!(ordered(&columns, &file).unwrap(), file);
        // No names, others, fewer, and a column that they do not tell of.
        for other in [&[][..], &["income", "age", "loan"], &["age", "debt"], &["age", "debt", "income", "x"]]
        {
            assert_eq!(ordered(&columns, other).unwrap(), ["age", "debt", "income"]);
        }
        let unnamed = [spec("b", &[], &[]), spec("x", &[2], &[])];
        assert_eq!(ordered(&unnamed, &["a", "b", "c"]).unwrap(), ["b", "x"]);
        let named = [spec("debt", &[1], &[]), spec("x", &[2], &["income", "age"])];
        assert_eq!(ordered(&named, &file).unwrap(), ["x", "debt"]);
        let torn = [spec("age", &[], &[]), spec("x", &[2], &["income", "debt"])];
        let told = "the model's features are in another order: expected `income`, `age`, `debt`";
        assert_eq!(ordered(&torn, &file).unwrap_err(), told);
    }

    #[test]
    fn the_only_column_gets_the_names_of_the_file() {
        let named = |specs: &[ColumnSpec], names: &[&str]| {
            let mut specs = specs.to_vec();
            name_elements(&mut specs, &owned(names));
            specs.into_iter().map(|spec| spec.element_names).collect::<Vec<_>>()
        };
        assert_eq!(named(&[spec("features", &[2], &[])], &["a", "b"]), [["a", "b"]]);
        assert_eq!(named(&[spec("features", &[2], &["x", "y"])], &["a", "b"]), [["x", "y"]]);
        assert_eq!(named(&[spec("features", &[2], &[])], &["a", "b", "c"]), [[""; 0]]);
        assert_eq!(named(&[spec("a", &[], &[]), spec("b", &[], &[])], &["b", "a"]), [[""; 0], [""; 0]]);
        let many: Vec<String> = (0..257).map(|index| format!("n{index}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(named(&[spec("features", &[257], &[])], &many), [[""; 0]]);
    }

    #[test]
    fn names_of_a_signature_are_one_for_each_element() {
        let told = |shape: &[usize], names: &[&str]| {
            check_element_names(&[spec("x", shape, names)]).map_err(|error| error.to_string())
        };
        assert_eq!(told(&[2], &["a", "b"]), Ok(()));
        assert_eq!(told(&[2], &[]), Ok(()));
        for names in [&["a", "a"][..], &["a", ""], &["a"], &["a", "b", "c"]] {
            let error = told(&[2], names).unwrap_err();
            let found = names.len();
            let start =
                format!("the signature cannot be used: column `x` has {found} `element_names`: expected 2");
            assert!(error.starts_with(&start), "{error}");
        }
        let many: Vec<String> = (0..257).map(|index| format!("n{index}")).collect();
        let error = told(&[257], &many.iter().map(String::as_str).collect::<Vec<_>>()).unwrap_err();
        assert!(error.ends_with("column `x` has 257 `element_names`: expected at most 256"), "{error}");
    }
}
