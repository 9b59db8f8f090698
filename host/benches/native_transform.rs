//! What `host transform` is compared with: the same rows through the same Rust function, called natively.
//!
//! `native_transform FOLDER OUT plain` reads the safetensors files in FOLDER, fits and scales as `mnist-pixels` does, on
//! all cores, and writes safetensors files to OUT. `same` writes them as the program does, with digests and statistics.
//! Both end when everything is on the disk. Run by `cargo xtask bench transform`.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Command;

use host::data::{ShardPlace, ShardWriter};
use host::domain::{Batch, DataType, Tensor, map_parallel};
use host::store::Store;
use mlops_plugin::Transformer as _;
use mnist_pixels::MnistPixels;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

const PIXELS: usize = 28 * 28;

/// Rows that are transformed at a time, and those of a file, as in the program.
const BATCH_ROWS: usize = 1_024;
const SHARD_ROWS: usize = 5_120;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [folder, out, mode] = arguments.as_slice() else { panic!("expected FOLDER OUT MODE") };
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let brightest = each_file(&files, |_, pixels, _| {
        let mut fit = MnistPixels::open(Default::default(), None).unwrap();
        pixels.chunks(BATCH_ROWS * PIXELS).for_each(|rows| fit.fit(batch(rows)).unwrap());
        fit.state().unwrap()
    });
    let brightest = brightest.into_iter().reduce(f32::max);
    let transformer = MnistPixels::open(Default::default(), brightest).unwrap();
    let writer = (mode == "same").then(|| ShardWriter::begin(&Store::open(Path::new(out)).unwrap()).unwrap());
    each_file(&files, |file, pixels, labels| {
        let shards = pixels.chunks(SHARD_ROWS * PIXELS).zip(labels.chunks(SHARD_ROWS));
        for (number, (pixels, labels)) in shards.enumerate() {
            let mut features = Vec::with_capacity(pixels.len() * 4);
            for rows in pixels.chunks(BATCH_ROWS * PIXELS) {
                let scaled = transformer.transform(batch(rows)).unwrap();
                features.extend_from_slice(scaled.column("features").unwrap().data());
            }
            let number = file * 1_000 + number;
            match &writer {
                Some(writer) => write_same(writer, number, features, labels),
                None => write_plain(Path::new(out), number, &features, labels),
            }
        }
    });
    assert!(Command::new("sync").arg("-f").arg(out).status().unwrap().success());
}

/// Calls `work` with the number, pixels and labels of every file, on all cores.
fn each_file<T: Send>(files: &[PathBuf], work: impl Fn(usize, &[u8], &[u8]) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let numbered: Vec<_> = files.iter().enumerate().collect();
    let done = map_parallel(
        &numbered,
        threads,
        || "a thread ended",
        |(number, file)| {
            let bytes = std::fs::read(file).unwrap();
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            let column = |name| tensors.tensor(name).unwrap().data();
            Ok(work(*number, column("pixels"), column("label")))
        },
    );
    done.unwrap()
}

fn batch(pixels: &[u8]) -> mlops_plugin::Batch {
    let shape = [pixels.len() / PIXELS, 28, 28];
    let dtype = mlops_plugin::DataType::Uint8;
    let pixels = mlops_plugin::Tensor::new("pixels", dtype, shape, pixels.to_vec()).unwrap();
    mlops_plugin::Batch::new([pixels]).unwrap()
}

fn write_plain(folder: &Path, number: usize, features: &[u8], labels: &[u8]) {
    let features = TensorView::new(Dtype::F32, vec![labels.len(), PIXELS], features).unwrap();
    let labels = TensorView::new(Dtype::U8, vec![labels.len()], labels).unwrap();
    let path = folder.join(format!("train-{number:06}.safetensors"));
    safetensors::serialize_to_file([("features", features), ("label", labels)], None, &path).unwrap();
}

fn write_same(writer: &ShardWriter, number: usize, features: Vec<u8>, labels: &[u8]) {
    let rows = labels.len();
    let features = Tensor::new("features", DataType::Fp32, vec![rows, PIXELS], features).unwrap();
    let labels = Tensor::new("label", DataType::Uint8, vec![rows], labels.to_vec()).unwrap();
    let place = ShardPlace { split: "train", number: number as u64, first_row: 0 };
    writer.write(place, &Batch::new(vec![features, labels]).unwrap()).unwrap();
}
