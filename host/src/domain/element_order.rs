use std::collections::{HashMap, HashSet};

use super::{Batch, ColumnSpec, Tensor};

/// `batch`, whose columns are as `from` says, with the elements of each row where `to` has those of the same names. A column whose
/// elements have no names in one of them, or others, stays as it is.
pub fn elements_in_order(batch: Batch, from: &[ColumnSpec], to: &[ColumnSpec]) -> Batch {
    if !have_other_order(from, to) {
        return batch;
    }
    let ordered = batch.tensors().iter().map(|tensor| {
        let spec =
            to.iter().find(|spec| spec.name == tensor.name()).filter(|spec| has_other_order(from, spec));
        let known = from.iter().find(|known| known.name == tensor.name());
        let places =
            spec.zip(known).and_then(|(spec, known)| places(&known.element_names, &spec.element_names));
        places.and_then(|places| permuted(tensor, &places)).unwrap_or_else(|| tensor.clone())
    });
    Batch::new(ordered.collect()).unwrap_or(batch)
}

/// Whether elements of rows have names in both that do not stand in the same order.
pub fn have_other_order(from: &[ColumnSpec], to: &[ColumnSpec]) -> bool {
    to.iter().any(|spec| has_other_order(from, spec))
}

fn has_other_order(from: &[ColumnSpec], spec: &ColumnSpec) -> bool {
    let known = from.iter().find(|known| known.name == spec.name);
    let known = known.map(|known| known.element_names.as_slice()).unwrap_or_default();
    !spec.element_names.is_empty() && !known.is_empty() && known != spec.element_names
}

/// Whether the elements of a row of `from` can be what `to` means by its own, in whatever order.
pub fn do_elements_fit(from: &ColumnSpec, to: &ColumnSpec) -> bool {
    let (from, to) = (&from.element_names, &to.element_names);
    from.is_empty() || to.is_empty() || places(from, to).is_some()
}

/// Where each of `to` stands in `from`; none where these are not the same names.
fn places(from: &[String], to: &[String]) -> Option<Vec<usize>> {
    let known: HashMap<&String, usize> = from.iter().enumerate().map(|(place, name)| (name, place)).collect();
    let places: Option<Vec<usize>> = to.iter().map(|name| known.get(name).copied()).collect();
    let is_each_once = |places: &Vec<usize>| places.iter().collect::<HashSet<_>>().len() == from.len();
    places.filter(|places| places.len() == from.len() && is_each_once(places))
}

fn permuted(tensor: &Tensor, places: &[usize]) -> Option<Tensor> {
    let size = tensor.dtype().size().filter(|_| tensor.row_elements() == places.len())?;
    let mut data = Vec::with_capacity(tensor.data().len());
    for row in tensor.data().chunks_exact(size * places.len()) {
        for place in places {
            data.extend_from_slice(row.get(place * size..(place + 1) * size)?);
        }
    }
    Tensor::new(tensor.name(), tensor.dtype(), tensor.shape().to_vec(), data).ok()
}

#[cfg(test)]
mod tests {
    use super::super::DataType;
    use super::*;

    fn spec(name: &str, elements: &[&str]) -> ColumnSpec {
        ColumnSpec {
            name: name.to_owned(),
            dtype: DataType::Fp32,
            shape: vec![3],
            nullable: false,
            element_names: elements.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn elements_are_put_where_those_of_the_same_names_are() {
        let tensor = |values: &[f32]| Tensor::from_f32("x", vec![2, 3], values).unwrap();
        let batch = || Batch::new(vec![tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]).unwrap();
        let from = [spec("x", &["a", "b", "c"])];
        let ordered = elements_in_order(batch(), &from, &[spec("x", &["c", "a", "b"])]);
        assert_eq!(ordered.tensors(), [tensor(&[3.0, 1.0, 2.0, 6.0, 4.0, 5.0])]);
        for to in [&["a", "b", "c"][..], &[], &["a", "b", "d"], &["a", "b"], &["a", "a", "b"]] {
            assert_eq!(elements_in_order(batch(), &from, &[spec("x", to)]), batch(), "{to:?}");
        }
        assert_eq!(elements_in_order(batch(), &[], &[spec("x", &["c", "a", "b"])]), batch());
    }
}
