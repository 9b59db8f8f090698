//! What the stages of a request cost in process, without HTTP: images as JSON, `mnist-pixels`, a model of 1,000 trees,
//! `argmax-label`.
//!
//! Run by `cargo xtask bench calls`, which trains the model; the numbers are in docs/benchmarks.md. The images come in
//! turn, since one alone would be in every cache.
#![allow(clippy::expect_used, missing_docs)]

use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{Criterion, criterion_group, criterion_main};
use host::data::{self, RowForm};
use host::domain::{Batch, ColumnSpec};
use host::plugin::{PluginRuntime, RuntimeConfig, block_on};
use host::registry::{Predictor, Registry};
use host::store::{Database, DatabaseUrl, Store};
use host::track::Tracker;

/// The program's, or the benches would measure another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rows that a request may have.
const ROWS_MAX: usize = 1_024;

/// Folder with the store `state`, in which the model `mnist` is, and `bodies.jsonl`, one request a line.
fn folder() -> PathBuf {
    let folder = std::env::var_os("HOST_BENCH_FOLDER").map(PathBuf::from);
    folder.expect("HOST_BENCH_FOLDER names the folder of the trained model: run `cargo xtask bench calls`")
}

fn open_predictor(folder: &Path) -> Predictor {
    let store = Store::open(&folder.join("state")).expect("the store opens");
    let compiler = PathBuf::from(env!("CARGO_BIN_EXE_host"));
    let runtime = PluginRuntime::new(RuntimeConfig { compiler, ..RuntimeConfig::default() });
    let runtime = runtime.expect("the runtime starts");
    let model = "mnist".parse().expect("it is a model's name");
    let threads = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let resolved = threads.expect("threads start").block_on(async {
        let database = Database::open(&DatabaseUrl::InStateFolder, store.folder()).await;
        let tracker = Tracker::new(database.expect("the database opens"), store.clone());
        Registry::new(tracker).resolve(&model).await.expect("the model is there")
    });
    Predictor::load(&store, &runtime, &resolved.manifest).expect("the bundle loads")
}

fn decode(body: &[u8], inputs: &[ColumnSpec]) -> (Batch, RowForm) {
    data::decode_rows(body, inputs, ROWS_MAX).expect("the body is a row")
}

fn request(criterion: &mut Criterion) {
    let folder = folder();
    let predictor = open_predictor(&folder);
    let bodies = std::fs::read_to_string(folder.join("bodies.jsonl")).expect("the requests are there");
    let bodies: Vec<&[u8]> = bodies.lines().map(str::as_bytes).collect();
    let inputs = &predictor.signature().inputs;
    let batches: Vec<Batch> = bodies.iter().map(|body| decode(body, inputs).0).collect();
    let predict = |batch: &Batch| block_on(predictor.predict(batch)).expect("it predicts");

    let mut group = criterion.benchmark_group("request");
    let mut turn = bodies.iter().cycle();
    group.bench_function("decode", |bencher| {
        bencher.iter(|| decode(black_box(turn.next().expect("there are requests")), inputs));
    });
    let mut turn = batches.iter().cycle();
    group.bench_function("transformers and model", |bencher| {
        bencher.iter(|| predict(black_box(turn.next().expect("there are requests"))));
    });
    let mut turn = bodies.iter().cycle();
    group.bench_function("all", |bencher| {
        bencher.iter(|| {
            let (batch, form) = decode(black_box(turn.next().expect("there are requests")), inputs);
            data::encode_rows(&predict(&batch).outputs, form).expect("the outputs are JSON")
        });
    });
    group.finish();
}

criterion_group!(benches, request);
criterion_main!(benches);
