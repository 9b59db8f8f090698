//! Decodes images of PNG to their pixels, so that a client can send a file.
//!
//! Takes a BYTES column of files, `image` unless configured otherwise, with one element a row. Gives a UINT8 column,
//! `pixels` unless configured otherwise, of `height` × `width` brightnesses. Images of another size are refused: what a model
//! has learned from is decided where it was trained. Colours become brightness by ITU-R BT.601's weights, what is transparent is laid on
//! black, 16 bits become 8, and smaller depths are spread over all brightnesses. Other columns are not passed on.
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used))]

use mlops_plugin::{Batch, Error, Instances, Tensor, Transformer};
use png::{ColorType, Decoder, Limits, Transformations};
use serde::Deserialize;

/// Memory that decoding an image may take, beside its pixels.
const DECODER_MAX_BYTES: usize = 32 * 1024 * 1024;

/// The largest side of an image.
const SIDE_MAX: u32 = 4_096;

/// What the user configures.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name of the column of files.
    pub column: String,
    /// Name of the column of pixels.
    pub output: String,
    /// Pixels from left to right.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { column: "image".to_owned(), output: "pixels".to_owned(), width: 28, height: 28 }
    }
}

/// The transformer.
#[derive(Debug)]
pub struct PngPixels {
    config: Config,
}

impl Transformer for PngPixels {
    type Config = Config;
    type State = ();
    const ROWS_INDEPENDENT: bool = true;
    const INSTANCES: Instances = Instances::Pooled;
    const CONFIG_SCHEMA: &str = r#"{
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "column": {"type": "string", "default": "image", "description": "Name of the column of files"},
            "output": {"type": "string", "default": "pixels", "description": "Name of the column of pixels"},
            "width": {"type": "integer", "minimum": 1, "maximum": 4096, "default": 28, "description": "Pixels from left to right"},
            "height": {"type": "integer", "minimum": 1, "maximum": 4096, "default": 28, "description": "Pixels from top to bottom"}
        }
    }"#;

    fn open(config: Config, _state: Option<()>) -> Result<Self, Error> {
        for (name, found) in [("width", config.width), ("height", config.height)] {
            if !(1..=SIDE_MAX).contains(&found) {
                let message = format!("`{name}`: expected from 1 to {SIDE_MAX}, found {found}");
                return Err(Error::invalid_config(message));
            }
        }
        Ok(Self { config })
    }

    fn transform(&self, batch: Batch) -> Result<Batch, Error> {
        let Config { column, output, width, height } = &self.config;
        let files = batch.column(column)?;
        if files.row_elements() != 1 {
            let message = format!("expected one file in a row, found rows of {:?}", files.row_shape());
            return Err(Error::invalid_input(message).column(column.clone()));
        }
        let size = [*height as usize, *width as usize];
        let mut pixels = Vec::with_capacity(files.rows() * size[0] * size[1]);
        for (row, file) in files.byte_strings()?.enumerate() {
            let decoded = self.decode(file, &mut pixels);
            decoded.map_err(|message| Error::invalid_input(message).row(row).column(column.clone()))?;
        }
        let shape = [files.rows(), size[0], size[1]];
        Batch::new([Tensor::from_values(output.clone(), shape, pixels)?])
    }
}

impl PngPixels {
    /// Appends the pixels of a file.
    fn decode(&self, file: &[u8], pixels: &mut Vec<u8>) -> Result<(), String> {
        let Config { width, height, .. } = self.config;
        let told = |error: png::DecodingError| format!("the image is not PNG: {error}");
        let limits = Limits { bytes: DECODER_MAX_BYTES };
        let mut decoder = Decoder::new_with_limits(std::io::Cursor::new(file), limits);
        decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
        let mut reader = decoder.read_info().map_err(told)?;
        let found = (reader.info().width, reader.info().height);
        if found != (width, height) {
            return Err(format!(
                "expected an image of {width} × {height} pixels, found {} × {}",
                found.0, found.1
            ));
        }
        let bytes = reader.output_buffer_size().ok_or("the image is too large")?;
        let mut samples = vec![0; bytes];
        let frame = reader.next_frame(&mut samples).map_err(told)?;
        samples.truncate(frame.buffer_size());
        match frame.color_type {
            ColorType::Grayscale => pixels.extend_from_slice(&samples),
            ColorType::GrayscaleAlpha => {
                pixels
                    .extend(samples.as_chunks::<2>().0.iter().map(|&[gray, alpha]| over_black(gray, alpha)));
            }
            ColorType::Rgb => {
                pixels.extend(samples.as_chunks::<3>().0.iter().map(|&[r, g, b]| brightness(r, g, b)))
            }
            ColorType::Rgba => {
                let laid = |&[r, g, b, alpha]: &[u8; 4]| over_black(brightness(r, g, b), alpha);
                pixels.extend(samples.as_chunks::<4>().0.iter().map(laid));
            }
            ColorType::Indexed => return Err("the image has a palette that cannot be read".to_owned()),
        }
        Ok(())
    }
}

/// The brightness of a colour: ITU-R BT.601's weights, in thousandths, rounded.
fn brightness(red: u8, green: u8, blue: u8) -> u8 {
    let sum = 299 * u32::from(red) + 587 * u32::from(green) + 114 * u32::from(blue);
    u8::try_from((sum + 500) / 1_000).unwrap_or(u8::MAX)
}

/// What is seen of a brightness on black.
fn over_black(gray: u8, alpha: u8) -> u8 {
    u8::try_from((u32::from(gray) * u32::from(alpha) + 127) / 255).unwrap_or(u8::MAX)
}

mlops_plugin::export_transformer!(PngPixels);

#[cfg(test)]
mod tests {
    use mlops_plugin::testing::{open_transformer, transform};

    use super::*;

    fn png(width: u32, height: u32, color: ColorType, depth: png::BitDepth, data: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(color);
        encoder.set_depth(depth);
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        file
    }

    fn files(files: &[&[u8]]) -> Batch {
        Batch::new([Tensor::from_strings("image", [files.len()], files.iter().copied()).unwrap()]).unwrap()
    }

    fn small() -> PngPixels {
        open_transformer(r#"{"width": 2, "height": 1}"#, None).unwrap()
    }

    #[test]
    fn images_of_every_kind_become_brightness() {
        use png::BitDepth::{Eight, One, Sixteen};
        for (color, depth, data, expected) in [
            (ColorType::Grayscale, Eight, &[7, 255][..], [7, 255]),
            (ColorType::Grayscale, One, &[0b0100_0000], [0, 255]),
            (ColorType::Grayscale, Sixteen, &[200, 99, 0, 1], [200, 0]),
            (ColorType::GrayscaleAlpha, Eight, &[100, 255, 100, 0], [100, 0]),
            (ColorType::Rgb, Eight, &[255, 0, 0, 0, 0, 255], [76, 29]),
            (ColorType::Rgba, Eight, &[255, 255, 255, 128, 9, 9, 9, 255], [128, 9]),
        ] {
            let file = png(2, 1, color, depth, data);
            let made = transform(&small(), files(&[&file])).unwrap();
            assert_eq!(made.columns()[0].shape(), [1, 1, 2]);
            assert_eq!(made.columns()[0].data(), expected, "{color:?} {depth:?}");
        }
    }

    #[test]
    fn what_is_no_image_of_that_size_is_told_with_its_row() {
        let good = png(2, 1, ColorType::Grayscale, png::BitDepth::Eight, &[1, 2]);
        let wide = png(3, 1, ColorType::Grayscale, png::BitDepth::Eight, &[1, 2, 3]);
        let told = |file: &[u8]| transform(&small(), files(&[&good, file])).unwrap_err();
        let error = told(&wide);
        assert!(error.to_string().contains("expected an image of 2 × 1 pixels, found 3 × 1"), "{error}");
        assert!(error.to_string().contains('1'), "{error}");
        for bad in [&b""[..], b"\xff\xd8\xff\xe0JFIF", &good[..good.len() - 20], &good[..8]] {
            assert!(told(bad).to_string().contains("the image is not PNG"), "{:?}", told(bad));
        }
        let mut damaged = good.clone();
        damaged[45] ^= 0xff;
        assert!(transform(&small(), files(&[&damaged])).is_err());
    }

    #[test]
    fn an_image_that_says_it_is_huge_takes_no_memory() {
        let mut file = png(2, 1, ColorType::Grayscale, png::BitDepth::Eight, &[1, 2]);
        // Width and height of the header are its first fields; without its checksum it is refused for that.
        file[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
        assert!(transform(&small(), files(&[&file])).is_err());
    }

    #[test]
    fn sizes_have_limits() {
        let error = open_transformer::<PngPixels>(r#"{"width": 0}"#, None).unwrap_err();
        assert!(error.to_string().contains("`width`: expected from 1 to 4096, found 0"), "{error}");
    }
}
