use serde_json::{Value, json};

use super::super::output::{Output, Table, number_text, printable};
use crate::data::{self, ResolvedDataset};
use crate::domain::{Batch, DataType, Tensor, TensorError};
use crate::store::Store;

/// Widest image that fits a terminal.
const IMAGE_MAX_WIDTH: usize = 80;

/// Values of a row's vector that are shown.
const VALUES_MAX: usize = 6;

/// Characters of a text that are shown.
const TEXT_MAX: usize = 40;

/// From black to white.
const SHADES: [char; 10] = [' ', '.', ':', '-', '=', '+', '*', '#', '%', '@'];

/// The first rows of a split.
pub(super) struct Preview {
    split: String,
    rows: Batch,
}

/// Reads the first rows; none if `count` is 0.
pub(super) fn rows(
    store: &Store,
    dataset: &ResolvedDataset,
    split: Option<&str>,
    count: u16,
) -> anyhow::Result<Preview> {
    if count == 0 {
        return Ok(Preview { split: String::new(), rows: Batch::default() });
    }
    let (name, number, files) = (dataset.name.clone(), dataset.version.number, dataset.manifest.files.len());
    let first = dataset.manifest.splits.first().map(|split| split.name.clone());
    let first = first.ok_or(data::DataError::NoRows { name, number, files })?;
    let split = split.map_or(first, str::to_owned);
    let mut batches = data::open_split(store, &dataset.manifest, &split, usize::from(count))?;
    let rows = batches.next().transpose()?.unwrap_or_default();
    let tensors = rows.into_tensors().into_iter().map(widened).collect::<Result<_, _>>()?;
    Ok(Preview { split, rows: Batch::new(tensors)? })
}

/// Half floats as FP32, which are numbers everywhere.
fn widened(tensor: Tensor) -> Result<Tensor, TensorError> {
    if tensor.dtype() != DataType::Fp16 {
        return Ok(tensor);
    }
    let values: Vec<f32> = tensor.number_blocks(usize::MAX).flatten().map(|value| value as f32).collect();
    Tensor::from_f32(tensor.name(), tensor.shape().to_vec(), &values)
}

impl Preview {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.rows() == 0
    }

    /// The rows as objects.
    pub(super) fn json(&self) -> Value {
        let rows = data::encode_rows(&self.rows, data::RowForm::List).unwrap_or_default();
        json!({ "split": self.split, "rows": serde_json::from_slice::<Value>(&rows).unwrap_or_default() })
    }

    pub(super) fn print(&self, output: &Output) -> anyhow::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let (images, others): (Vec<_>, Vec<_>) =
            self.rows.tensors().iter().partition(|tensor| image_size(tensor).is_some());
        let mut header = vec![">ROW"];
        let names: Vec<String> = others.iter().map(|tensor| printable(tensor.name())).collect();
        header.extend(names.iter().map(String::as_str));
        let mut table = Table::new(&header);
        for row in 0..self.rows.rows() {
            let mut cells = vec![row.to_string()];
            cells.extend(others.iter().map(|tensor| cell(tensor, row)));
            table.row(cells);
        }
        output.line("")?;
        output.line(&format!("first rows of {}", self.split))?;
        output.table(&table)?;
        for row in 0..self.rows.rows() {
            for image in &images {
                output.line("")?;
                output.line(&format!("row {row}, {}", printable(image.name())))?;
                for line in picture(image, row) {
                    output.line(line.trim_end())?;
                }
            }
        }
        Ok(())
    }
}

/// Height and width of the images in a column of them.
fn image_size(tensor: &Tensor) -> Option<(usize, usize)> {
    let (height, width) = match tensor.shape() {
        [_, height, width] | [_, height, width, 1] => (*height, *width),
        _ => return None,
    };
    (tensor.dtype() == DataType::Uint8 && width <= IMAGE_MAX_WIDTH && height > 1).then_some((height, width))
}

/// An image in characters, two lines of pixels to a line: characters are twice as high as wide.
fn picture(tensor: &Tensor, row: usize) -> Vec<String> {
    let Some((height, width)) = image_size(tensor) else { return Vec::new() };
    let start = row * height * width;
    let pixels = tensor.data().get(start..start + height * width).unwrap_or_default();
    let shade = |upper: u8, lower: u8| {
        let light = (usize::from(upper) + usize::from(lower)) * SHADES.len() / 511;
        SHADES.get(light).copied().unwrap_or('@')
    };
    let mut lines = pixels.chunks(width);
    let mut picture = Vec::new();
    while let Some(upper) = lines.next() {
        let lower = lines.next().unwrap_or(upper);
        picture.push(upper.iter().zip(lower).map(|(upper, lower)| shade(*upper, *lower)).collect());
    }
    picture
}

fn cell(tensor: &Tensor, row: usize) -> String {
    let width = tensor.row_elements();
    if tensor.dtype() == DataType::Bytes {
        let texts = tensor.byte_strings().skip(row * width).take(width.min(VALUES_MAX));
        let texts: Vec<_> = texts.map(text).collect();
        return texts.join(", ");
    }
    let slice = tensor.slice_rows(row..row + 1);
    let values = slice.as_ref().map(numbers).unwrap_or_default();
    let mut shown: Vec<_> = values.iter().take(VALUES_MAX).cloned().collect();
    if values.len() > VALUES_MAX {
        shown.push("…".to_owned());
    }
    if width == 1 { shown.concat() } else { format!("[{}]", shown.join(", ")) }
}

/// Numbers as text; integers of eight bytes with all of their digits, which floats do not hold.
fn numbers(tensor: &Tensor) -> Vec<String> {
    let integers = tensor.data().as_chunks::<8>().0.iter();
    match tensor.dtype() {
        DataType::Int64 => integers.map(|bytes| i64::from_le_bytes(*bytes).to_string()).collect(),
        DataType::Uint64 => integers.map(|bytes| u64::from_le_bytes(*bytes).to_string()).collect(),
        _ => tensor.to_f64().unwrap_or_default().into_iter().map(number_text).collect(),
    }
}

fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown: String = text.chars().take(TEXT_MAX).collect();
    if text.chars().count() > TEXT_MAX {
        shown.push('…');
    }
    printable(&shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_drawn_in_characters() {
        let pixels =
            Tensor::new("p", DataType::Uint8, vec![1, 3, 2], vec![255, 0, 255, 0, 128, 255]).unwrap();
        assert_eq!(picture(&pixels, 0), ["@ ", "+@"]);
        assert_eq!(image_size(&Tensor::new("v", DataType::Uint8, vec![1, 6], vec![0; 6]).unwrap()), None);
    }

    #[test]
    fn long_values_are_cut() {
        let large =
            Tensor::new("v", DataType::Int64, vec![1], 9_007_199_254_740_993_i64.to_le_bytes().into());
        assert_eq!(cell(&large.unwrap(), 0), "9007199254740993");
        let vector: Vec<u8> = (0..8_i64).flat_map(i64::to_le_bytes).collect();
        let vector = Tensor::new("v", DataType::Int64, vec![1, 8], vector).unwrap();
        assert_eq!(cell(&vector, 0), "[0, 1, 2, 3, 4, 5, …]");
        let long = "x".repeat(50);
        let texts = Tensor::from_strings("s", [long.as_bytes(), b"a\nb"]).unwrap();
        assert_eq!(cell(&texts, 0), format!("{}…", "x".repeat(40)));
        assert_eq!(cell(&texts, 1), "a\\nb");
    }
}
