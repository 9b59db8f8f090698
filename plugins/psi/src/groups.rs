//! Divides the elements of a row into groups.

use serde::{Deserialize, Serialize};

/// Elements of a row up to which each is a group of its own.
const SINGLE_ELEMENTS_MAX: usize = 64;

/// Regions along each side of an image, and runs along a row that is none, squared.
const REGIONS_A_SIDE: usize = 7;

/// Elements of a row whose mean is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// The only element.
    Scalar,
    /// One of a few elements.
    Element {
        /// Its index.
        index: usize,
    },
    /// Neighbours in a row that is no image.
    Run {
        /// Index of the first.
        start: usize,
        /// Index past the last.
        end: usize,
    },
    /// A rectangle of an image.
    Region {
        /// Width of the image.
        width: usize,
        /// First row of pixels and the one past the last.
        rows: [usize; 2],
        /// First column of pixels and the one past the last.
        columns: [usize; 2],
    },
}

/// Divides rows of a shape; `image` has as many elements as a row.
pub(crate) fn divide(
    row_shape: &[usize],
    image: Option<[usize; 2]>,
    block: Option<[usize; 2]>,
) -> Vec<Group> {
    let elements = row_shape.iter().product::<usize>();
    if elements == 1 {
        return vec![Group::Scalar];
    }
    if elements <= SINGLE_ELEMENTS_MAX {
        return (0..elements).map(|index| Group::Element { index }).collect();
    }
    let side = elements.isqrt();
    let image = match row_shape {
        _ if image.is_some() => image,
        &[height, width] => Some([height, width]),
        _ if side * side == elements => Some([side, side]),
        _ => None,
    };
    let Some([height, width]) = image else {
        let length = elements.div_ceil(REGIONS_A_SIDE * REGIONS_A_SIDE);
        return pieces(elements, length).map(|[start, end]| Group::Run { start, end }).collect();
    };
    let [block_height, block_width] =
        block.unwrap_or([height, width].map(|side| side.div_ceil(REGIONS_A_SIDE)));
    let region = |rows| pieces(width, block_width).map(move |columns| Group::Region { width, rows, columns });
    pieces(height, block_height).flat_map(region).collect()
}

/// Start and end of pieces of `length`, the last of which may be shorter.
fn pieces(total: usize, length: usize) -> impl Iterator<Item = [usize; 2]> {
    (0..total).step_by(length.max(1)).map(move |start| [start, start.saturating_add(length).min(total)])
}

impl Group {
    /// What a score calls this group of a column.
    pub(crate) fn name(&self, column: &str) -> String {
        match self {
            Self::Scalar => column.to_owned(),
            Self::Element { index } => format!("{column}[{index}]"),
            Self::Run { start, end } => format!("{column}[{start}:{end}]"),
            Self::Region { rows: [top, bottom], columns: [left, right], .. } => {
                format!("{column}[{top}:{bottom},{left}:{right}]")
            }
        }
    }

    /// The mean of the members; NaN where one is missing.
    pub(crate) fn value(&self, row: &[f64]) -> f64 {
        let sum = |start: usize, end: usize| row.get(start..end).unwrap_or_default().iter().sum::<f64>();
        match *self {
            Self::Scalar => sum(0, 1),
            Self::Element { index } => sum(index, index + 1),
            Self::Run { start, end } => sum(start, end) / (end - start) as f64,
            Self::Region { width, rows: [top, bottom], columns: [left, right] } => {
                let total: f64 =
                    (top..bottom).map(|line| sum(line * width + left, line * width + right)).sum();
                total / ((bottom - top) * (right - left)) as f64
            }
        }
    }

    /// Whether this is a group of a row with so many elements.
    pub(crate) fn fits(&self, elements: usize) -> bool {
        match *self {
            Self::Scalar => elements == 1,
            Self::Element { index } => index < elements,
            Self::Run { start, end } => start < end && end <= elements,
            Self::Region { width, rows: [top, bottom], columns: [left, right] } => {
                let is_inside = bottom.checked_mul(width).is_some_and(|end| end <= elements);
                top < bottom && left < right && right <= width && is_inside
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(row_shape: &[usize], image: Option<[usize; 2]>, block: Option<[usize; 2]>) -> Vec<String> {
        divide(row_shape, image, block).iter().map(|group| group.name("x")).collect()
    }

    #[test]
    fn few_elements_are_groups_of_their_own() {
        assert_eq!(names(&[], None, None), ["x"]);
        assert_eq!(names(&[1, 1], None, None), ["x"]);
        assert_eq!(names(&[2], None, None), ["x[0]", "x[1]"]);
        assert_eq!(names(&[8, 8], None, None).len(), 64);
    }

    #[test]
    fn many_elements_are_regions_of_an_image_or_runs() {
        let regions = names(&[784], None, None);
        assert_eq!(regions.len(), 49);
        assert_eq!((regions[0].as_str(), regions[8].as_str()), ("x[0:4,0:4]", "x[4:8,4:8]"));
        assert_eq!(names(&[28, 28], None, None), regions);
        assert_eq!(names(&[784], None, Some([28, 14])), ["x[0:28,0:14]", "x[0:28,14:28]"]);
        assert_eq!(names(&[784], Some([14, 56]), Some([10, 56])), ["x[0:10,0:56]", "x[10:14,0:56]"]);
        assert_eq!(names(&[20, 30], None, None).len(), 7 * 6);
        assert_eq!(names(&[65], None, None)[..2], ["x[0:2]", "x[2:4]"]);
        assert_eq!(names(&[784], None, Some([usize::MAX; 2])), ["x[0:28,0:28]"]);
    }

    #[test]
    fn every_element_is_in_one_group() {
        for (shape, image, block) in [
            (&[784][..], None, None),
            (&[65], None, None),
            (&[10, 13], None, Some([3, 5])),
            (&[3, 7, 9], None, None),
            (&[100], Some([4, 25]), None),
            (&[100], Some([4, 25]), Some([9, 2])),
        ] {
            let elements = shape.iter().product();
            let groups = divide(shape, image, block);
            assert!(groups.iter().all(|group| group.fits(elements)));
            for index in 0..elements {
                let mut row = vec![0.0; elements];
                row[index] = 1.0;
                let touched: Vec<f64> =
                    groups.iter().map(|group| group.value(&row)).filter(|&value| value > 0.0).collect();
                assert_eq!(touched.len(), 1, "element {index} of {shape:?}");
            }
            assert!(groups.iter().all(|group| (group.value(&vec![3.0; elements]) - 3.0).abs() < 1e-12));
        }
    }
}
