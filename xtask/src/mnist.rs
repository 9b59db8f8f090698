//! MNIST's test images, read from their files as a client would have them.

use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};
use crate::process;

/// Pixels of an image.
pub(crate) const PIXELS: usize = 784;

const IMAGES_HEAD: [u8; 16] = [0, 0, 8, 3, 0, 0, 0x27, 0x10, 0, 0, 0, 28, 0, 0, 0, 28];
const LABELS_HEAD: [u8; 8] = [0, 0, 8, 1, 0, 0, 0x27, 0x10];

/// The 10,000 test images and what they show.
pub(crate) struct TestImages {
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

/// An image and what it shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Image<'a> {
    pub(crate) pixels: &'a [u8],
    pub(crate) label: u8,
}

impl TestImages {
    /// Reads the files in `folder`.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let pixels = read(&folder.join("t10k-images-idx3-ubyte.gz"), &IMAGES_HEAD, PIXELS)?;
        let labels = read(&folder.join("t10k-labels-idx1-ubyte.gz"), &LABELS_HEAD, 1)?;
        Ok(Self { pixels, labels })
    }

    /// The images in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Image<'_>> {
        let images = self.pixels.chunks_exact(PIXELS).zip(&self.labels);
        images.map(|(pixels, &label)| Image { pixels, label })
    }
}

/// The body of a request that asks for one image.
pub(crate) fn request_body(pixels: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let pixels: Vec<String> = pixels.into_iter().map(|pixel| pixel.to_string()).collect();
    format!("{{\"pixels\":[{}]}}", pixels.join(",")).into_bytes()
}

/// Unpacks a file with `head` and 10,000 items of `size` bytes after it, and takes the head off.
fn read(path: &Path, head: &[u8], size: usize) -> Result<Vec<u8>> {
    // A program of every Debian instead of a dependency that is compiled before anything else.
    let mut bytes = process::read(Command::new("gzip").arg("-dc").arg(path), "unpack the test images")?;
    if !bytes.starts_with(head) || bytes.len() != head.len() + 10_000 * size {
        return Err(Error::new(format!(
            "`{}` is not the file of MNIST: run `git checkout -- examples/mnist/data`",
            path.display()
        )));
    }
    bytes.drain(..head.len());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_test_images() {
        let folder =
            Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../examples/mnist/data");
        let images = TestImages::read(&folder).unwrap();
        let labels: Vec<u8> = images.iter().map(|image| image.label).collect();
        assert_eq!((labels.len(), &labels[..5]), (10_000, &[7, 2, 1, 0, 4][..]));
        let brightest = images.iter().map(|image| *image.pixels.iter().max().unwrap()).max();
        assert_eq!(brightest, Some(255));
    }

    #[test]
    fn refuses_other_files() {
        let folder =
            Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../examples/mnist/data");
        let error =
            read(&folder.join("train-labels-idx1-ubyte.gz"), &LABELS_HEAD, 1).unwrap_err().to_string();
        assert!(
            error.ends_with("is not the file of MNIST: run `git checkout -- examples/mnist/data`"),
            "{error}"
        );
    }

    #[test]
    fn bodies_are_json() {
        assert_eq!(request_body([0, 128, 255]), br#"{"pixels":[0,128,255]}"#);
    }
}
