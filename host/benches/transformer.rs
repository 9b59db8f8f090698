//! What a call of a transformer costs: `mnist-pixels` on images of 28 × 28 bytes, as a component with a fresh instance
//! for every call, as a component with a kept instance, and as the same Rust function called natively.
//!
//! Run by `cargo xtask bench calls`, which builds the component; the numbers are in docs/benchmarks.md.
#![allow(clippy::expect_used, missing_docs)]

use std::hint::black_box;
use std::path::PathBuf;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use host::domain::{Batch, DataType, Tensor};
use host::plugin::{InstancePolicy, Plugin, PluginRuntime, RuntimeConfig, Transformer, block_on};
use mlops_plugin::Transformer as _;
use mnist_pixels::MnistPixels;

/// The program's, or the benches would measure another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PIXELS: usize = 28 * 28;

/// What `fit` learns of images that have a white pixel.
const BRIGHTEST: f32 = 255.0;

fn image_bytes(rows: usize) -> Vec<u8> {
    (0..rows * PIXELS).map(|index| u8::try_from(index % 251).expect("less than 251")).collect()
}

fn component() -> Vec<u8> {
    let folder = std::env::var_os("HOST_PLUGINS_DIR").map(PathBuf::from);
    let folder =
        folder.expect("HOST_PLUGINS_DIR names the folder of the components: run `cargo xtask bench`");
    std::fs::read(folder.join("mnist-pixels.wasm")).expect("the component is built: run `cargo xtask bench`")
}

fn open(component: &[u8], instances: InstancePolicy) -> Transformer {
    let compiler = PathBuf::from(env!("CARGO_BIN_EXE_host"));
    let config = RuntimeConfig { instances: Some(instances), compiler, ..RuntimeConfig::default() };
    let runtime = PluginRuntime::new(config).expect("the runtime starts");
    let plugin = Plugin::load(&runtime, component).expect("the component loads");
    let state = serde_json::to_vec(&BRIGHTEST).expect("a number is JSON");
    block_on(Transformer::open(&plugin, "{}", Some(state))).expect("the transformer opens")
}

fn host_batch(rows: usize) -> Batch {
    let pixels = Tensor::new("pixels", DataType::Uint8, vec![rows, 28, 28], image_bytes(rows));
    Batch::new(vec![pixels.expect("the data fits the shape")]).expect("one column is a batch")
}

fn native_batch(rows: usize) -> mlops_plugin::Batch {
    let dtype = mlops_plugin::DataType::Uint8;
    let pixels = mlops_plugin::Tensor::new("pixels", dtype, [rows, 28, 28], image_bytes(rows));
    mlops_plugin::Batch::new([pixels.expect("the data fits the shape")]).expect("one column is a batch")
}

fn transform(criterion: &mut Criterion) {
    let component = component();
    let fresh = open(&component, InstancePolicy::Fresh);
    let pooled = open(&component, InstancePolicy::Pooled);
    let native = MnistPixels::open(Default::default(), Some(BRIGHTEST)).expect("the transformer opens");
    for rows in [1, 64, 1_024] {
        let mut group = criterion.benchmark_group(format!("transform/{rows}"));
        group.throughput(Throughput::Elements(u64::try_from(rows).expect("small")));
        let batch = host_batch(rows);
        for (name, transformer) in [("fresh", &fresh), ("pooled", &pooled)] {
            group.bench_function(name, |bencher| {
                bencher.iter(|| block_on(transformer.transform(black_box(&batch))).expect("it transforms"));
            });
        }
        // It takes the batch, so a copy is part of it, as one is of a component's call.
        let batch = native_batch(rows);
        group.bench_function("native", |bencher| {
            bencher.iter(|| native.transform(black_box(&batch).clone()).expect("it transforms"));
        });
        group.finish();
    }
}

criterion_group!(benches, transform);
criterion_main!(benches);
