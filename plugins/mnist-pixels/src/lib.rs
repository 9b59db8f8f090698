//! Scales images of handwritten digits.
//!
//! Takes one column `pixels` of 28 × 28 or 784 elements a row, of any numeric type, from 0 to 255. Learns the brightest
//! pixel of the training data and gives `features`, FP32, 784 a row: each pixel divided by what was learned.
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used))]

use std::fmt::Display;

use mlops_plugin::{Batch, DataType, Error, Instances, NoConfig, Tensor, Transformer};

const SIDE: usize = 28;
const PIXELS: usize = SIDE * SIDE;

/// The transformer.
#[derive(Debug)]
pub struct MnistPixels {
    /// The largest pixel that `fit` saw.
    brightest: Option<f32>,
}

impl Transformer for MnistPixels {
    type Config = NoConfig;
    type State = f32;
    const NEEDS_FIT: bool = true;
    const ROWS_INDEPENDENT: bool = true;
    const INSTANCES: Instances = Instances::Pooled;
    const CONFIG_SCHEMA: &str = NoConfig::SCHEMA;

    fn open(_config: NoConfig, state: Option<f32>) -> Result<Self, Error> {
        match state {
            Some(brightest) if !(0.0..=255.0).contains(&brightest) => {
                Err(Error::invalid_state(format!("expected a pixel from 0 to 255, found {brightest}")))
            }
            brightest => Ok(Self { brightest }),
        }
    }

    fn fit(&mut self, mut batch: Batch) -> Result<(), Error> {
        let pixels = pixels(&mut batch)?;
        let brightest = if pixels.dtype() == DataType::Uint8 {
            pixels.data().iter().max().map(|&pixel| f32::from(pixel))
        } else {
            pixels.to_f32()?.iter().copied().reduce(f32::max)
        };
        self.brightest = brightest.into_iter().chain(self.brightest).reduce(f32::max);
        Ok(())
    }

    fn state(&self) -> Result<f32, Error> {
        self.brightest.ok_or(Error::NotFitted)
    }

    fn transform(&self, mut batch: Batch) -> Result<Batch, Error> {
        let scale = self.scale().ok_or(Error::NotFitted)?;
        let features = pixels(&mut batch)?.map_f32("features", |pixel| pixel / scale)?;
        Batch::new([features])
    }
}

impl MnistPixels {
    /// What pixels are divided by. Black images alone give no scale.
    fn scale(&self) -> Option<f32> {
        self.brightest.map(|brightest| if brightest > 0.0 { brightest } else { 1.0 })
    }
}

mlops_plugin::export_transformer!(MnistPixels);

/// Column `pixels` with rows of 784 elements that are all in range.
fn pixels(batch: &mut Batch) -> Result<Tensor, Error> {
    batch.refuse_others(&["pixels"])?;
    let pixels = batch.take("pixels")?;
    if !matches!(pixels.row_shape(), [PIXELS] | [SIDE, SIDE]) {
        return Err(unexpected_shape(&pixels));
    }
    match pixels.dtype() {
        // What a byte holds is a pixel.
        DataType::Uint8 | DataType::Bool => {}
        DataType::Fp32 => check_range(&pixels.as_f32()?)?,
        // 64 bits, or 255.000001 would be rounded to a pixel.
        _ => check_range(&pixels.to_f64()?)?,
    }
    pixels.with_row_shape(&[PIXELS])
}

fn check_range<T: Copy + PartialOrd + From<u8> + Display>(values: &[T]) -> Result<(), Error> {
    // NaN is in no range.
    let is_stray = |&value: &T| !(value >= T::from(0) && value <= T::from(255));
    for (row, image) in values.chunks_exact(PIXELS).enumerate() {
        // Counted, because a search that can stop early is not vectorised, and strays are rare.
        let strays: u32 = image.iter().map(|value| u32::from(is_stray(value))).sum();
        if strays > 0
            && let Some(stray) = image.iter().copied().find(is_stray)
        {
            let message = format!("expected a pixel from 0 to 255, found {stray}");
            return Err(Error::invalid_input(message).row(row).column("pixels"));
        }
    }
    Ok(())
}

fn unexpected_shape(pixels: &Tensor) -> Error {
    let found = match pixels.row_shape() {
        [] => "1".to_owned(),
        [elements] => elements.to_string(),
        sizes => {
            let sizes: Vec<_> = sizes.iter().map(ToString::to_string).collect();
            format!("{} ({})", pixels.row_elements(), sizes.join(" × "))
        }
    };
    Error::invalid_input(format!("expected {PIXELS} ({SIDE} × {SIDE}) pixels a row, found {found}"))
        .column("pixels")
}

#[cfg(test)]
mod tests {
    use mlops_plugin::{Element, testing};

    use super::*;

    fn batch<T: Element>(shape: &[usize], values: Vec<T>) -> Batch {
        Batch::new([Tensor::from_values("pixels", shape, values).unwrap()]).unwrap()
    }

    fn image(pixel: f64) -> Vec<f64> {
        let mut image = vec![0.0; PIXELS];
        image[5] = pixel;
        image
    }

    fn opened(state: &str) -> MnistPixels {
        testing::open_transformer("{}", Some(state.as_bytes())).unwrap()
    }

    #[test]
    fn learns_the_brightest_pixel_batch_by_batch() {
        let batches = [image(7.0), image(250.0), image(9.0)].map(|image| batch(&[1, PIXELS], image));
        let state = testing::fit_transformer::<MnistPixels>("{}", batches).unwrap();
        assert_eq!(state, b"250.0");
    }

    #[test]
    fn every_type_and_both_shapes_give_the_same_features() {
        let bytes: Vec<u8> = (0..2 * PIXELS).map(|index| (index % 256) as u8).collect();
        let expected: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte) / 250.0).collect();
        let batches = [
            batch(&[2, PIXELS], bytes.clone()),
            batch(&[2, SIDE, SIDE], bytes.clone()),
            batch(&[2, PIXELS], bytes.iter().map(|&byte| i64::from(byte)).collect()),
            batch(&[2, SIDE, SIDE], bytes.iter().map(|&byte| f32::from(byte)).collect()),
            batch(&[2, PIXELS], bytes.iter().map(|&byte| f64::from(byte)).collect()),
        ];
        for batch in batches {
            let answer = testing::transform(&opened("250"), batch).unwrap();
            let features = answer.column("features").unwrap();
            assert_eq!(features.shape(), [2, PIXELS]);
            assert_eq!(*features.as_f32().unwrap(), expected);
        }
    }

    #[test]
    fn every_byte_is_divided_by_every_brightness_bit_for_bit() {
        let bytes: Vec<u8> = (0..PIXELS).map(|index| (index % 256) as u8).collect();
        for brightest in
            (1..=255).map(|step| step as f32).chain([f32::MIN_POSITIVE / 2.0, 0.1, 1.0 / 3.0, 254.99])
        {
            let answer =
                opened(&brightest.to_string()).transform(batch(&[1, PIXELS], bytes.clone())).unwrap();
            let features = answer.column("features").unwrap();
            for (&byte, feature) in bytes.iter().zip(features.as_f32().unwrap().iter()) {
                assert_eq!(
                    feature.to_bits(),
                    (f32::from(byte) / brightest).to_bits(),
                    "{byte} / {brightest}"
                );
            }
        }
    }

    #[test]
    fn zero_rows_teach_nothing_and_transform_to_zero_rows() {
        let empty = batch::<u8>(&[0, PIXELS], vec![]);
        let fitted = testing::fit_transformer::<MnistPixels>("{}", [empty.clone()]);
        assert_eq!(fitted, Err(Error::NotFitted));
        let unfitted: MnistPixels = testing::open_transformer("{}", None).unwrap();
        assert_eq!(unfitted.transform(empty.clone()), Err(Error::NotFitted));
        let answer = testing::transform(&opened("255"), empty).unwrap();
        assert_eq!(answer.column("features").unwrap().shape(), [0, PIXELS]);
    }

    #[test]
    fn black_images_stay_black() {
        let answer = opened("0").transform(batch(&[1, PIXELS], vec![0_u8; PIXELS])).unwrap();
        assert!(answer.column("features").unwrap().as_f32().unwrap().iter().all(|&value| value == 0.0));
    }

    #[test]
    fn names_row_and_column_of_what_is_no_pixel() {
        for (pixel, found) in [(-1.0, "-1"), (255.001, "255.001"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")]
        {
            let images = [image(1.0), image(pixel)].concat();
            let expected = Error::invalid_input(format!("expected a pixel from 0 to 255, found {found}"));
            let batch = batch(&[2, PIXELS], images);
            assert_eq!(opened("255").transform(batch).unwrap_err(), expected.row(1).column("pixels"));
        }
    }

    #[test]
    fn names_the_shape_that_was_found() {
        for (shape, found) in
            [(&[1, 783][..], "783"), (&[1, 29, 28], "812 (29 × 28)"), (&[1], "1"), (&[1, 0], "0")]
        {
            let values = vec![0_u8; shape.iter().product()];
            assert_eq!(
                opened("255").transform(batch(shape, values)).unwrap_err().to_string(),
                format!("column `pixels`: expected 784 (28 × 28) pixels a row, found {found}")
            );
        }
    }

    #[test]
    fn refuses_other_columns_and_types() {
        let refusal =
            |tensor| opened("255").transform(Batch::new(vec![tensor]).unwrap()).unwrap_err().to_string();
        let other = Tensor::from_values("image", [1], [0_u8]).unwrap();
        assert_eq!(refusal(other), "column `image`: expected no other columns than `pixels`, found `image`");
        let text = Tensor::from_strings("pixels", [1, PIXELS], vec!["0"; PIXELS]).unwrap();
        assert_eq!(refusal(text), "column `pixels`: expected numbers, found BYTES");
    }

    #[test]
    fn refuses_a_state_that_it_cannot_have_written() {
        for state in ["-1", "256", "null", "\"255\"", "{}", ""] {
            let error = testing::open_transformer::<MnistPixels>("{}", Some(state.as_bytes())).unwrap_err();
            assert!(matches!(error, Error::InvalidState(_)), "{state}: {error:?}");
        }
    }
}
