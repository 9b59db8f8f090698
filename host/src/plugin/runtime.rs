use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{HasSelf, Linker};
use wasmtime::{
    Cache, CacheConfig, Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig,
};

use super::bindings::transformer::mlops::plugin::{log, metrics};
use super::call::CallState;
use super::idle::AllIdle;
use super::{InstancePolicy, LimitsCeiling, load};
use crate::domain::SharedByDigest;

/// How often a running guest is looked at: the granularity of time limits. It holds a thread for twice as long at most.
pub(super) const EPOCH_TICK: Duration = Duration::from_micros(2_500);

/// Native stack of a guest. Rust's own default for threads is 2 MiB; guests get less, since thousands may live.
const WASM_STACK_MAX_BYTES: usize = 512 * 1024;

/// Instances that may live at once, over all plugins. Each costs address space, not memory, until it is used.
const INSTANCES_MAX: u32 = 512;

/// Core instances and tables that one of them may be made of; compilers make three and one. No plugin shall take what others
/// need: each has its share of both, whatever it is made of.
const CORE_INSTANCES_MAX: u32 = 16;
const TABLES_MAX: u32 = 4;

/// Memory that a slot keeps between instances: resetting the pages a call has touched is cheaper than giving them back
/// and faulting them in again. Linux since 6.7 tells which those are; before, the first so many bytes are reset.
const KEEP_RESIDENT_BYTES: usize = 512 * 1024;

/// Compiled code that is kept; what was not used for longest goes first.
const CODE_CACHE_MAX_BYTES: u64 = 512 * 1024 * 1024;

/// What an operator decides for all plugins.
#[derive(Debug, Clone, Default)]
pub struct RuntimeConfig {
    /// The most any plugin may have.
    pub ceiling: LimitsCeiling,
    /// Overrides every manifest's instance policy.
    pub instances: Option<InstancePolicy>,
    /// Folder where compiled code is kept, so that a component is compiled once on a machine; none compiles it each time.
    /// Whoever can write there decides what this program runs, so it is made for its owner alone.
    pub code_cache: Option<PathBuf>,
}

/// The engine that all plugins of a process share: compiler, instance pool, clock, imports.
#[derive(Clone)]
pub struct PluginRuntime {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) engine: Engine,
    pub(super) linker: Linker<CallState>,
    pub(super) config: RuntimeConfig,
    /// Plugins that are in use.
    pub(super) plugins: SharedByDigest<load::Inner>,
    /// Instances that wait for a call.
    pub(super) idle: AllIdle,
}

/// The engine could not be started.
#[derive(Debug, thiserror::Error)]
#[error("failed to start the plugin runtime: {0}")]
pub struct RuntimeError(String);

impl PluginRuntime {
    /// Starts the engine and its clock. The clock's thread ends with the last handle.
    pub fn new(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        let fail = |error: wasmtime::Error| RuntimeError(format!("{error:#}"));
        let mut engine_config = engine_config(&config.ceiling);
        if let Some(folder) = &config.code_cache {
            engine_config.cache(open_code_cache(folder));
        }
        let engine = Engine::new(&engine_config).map_err(fail)?;
        let mut linker = Linker::new(&engine);
        log::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut CallState| state).map_err(fail)?;
        metrics::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut CallState| state).map_err(fail)?;
        start_clock(&engine).map_err(|error| RuntimeError(error.to_string()))?;
        let (plugins, idle) = (SharedByDigest::default(), AllIdle::default());
        Ok(Self { inner: Arc::new(Inner { engine, linker, config, plugins, idle }) })
    }
}

/// Opens the folder of compiled code. Where that fails there is none, which costs time and nothing else.
fn open_code_cache(folder: &Path) -> Option<Cache> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    let absolute = made.and_then(|()| folder.canonicalize());
    let opened = absolute.map_err(wasmtime::Error::from).and_then(|folder| {
        let mut config = CacheConfig::new();
        config.with_directory(folder).with_files_total_size_soft_limit(CODE_CACHE_MAX_BYTES);
        Cache::new(config)
    });
    match opened {
        Ok(cache) => Some(cache),
        Err(error) => {
            tracing::warn!("compiled code is not kept in `{}`: {error:#}", folder.display());
            None
        }
    }
}

fn engine_config(ceiling: &LimitsCeiling) -> Config {
    let memory_max_bytes = usize::try_from(ceiling.memory_max_bytes).unwrap_or(usize::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES_MAX)
        .total_core_instances(INSTANCES_MAX * CORE_INSTANCES_MAX)
        .total_memories(INSTANCES_MAX)
        .total_tables(INSTANCES_MAX * TABLES_MAX)
        .total_stacks(INSTANCES_MAX)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(1)
        .max_tables_per_component(TABLES_MAX)
        .max_memory_size(memory_max_bytes)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(16 * 1024)
        .pagemap_scan(Enabled::Auto)
        .async_stack_keep_resident(64 * 1024);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK_MAX_BYTES)
        .async_stack_size(WASM_STACK_MAX_BYTES * 2)
        .memory_init_cow(true)
        .wasm_component_model(true)
        .wasm_simd(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_tail_call(false)
        .generate_address_map(false)
        // Results must not depend on the machine: every NaN has one bit pattern.
        .cranelift_nan_canonicalization(true);
    config
}

fn start_clock(engine: &Engine) -> std::io::Result<()> {
    let engine = engine.weak();
    std::thread::Builder::new().name("plugin-clock".to_owned()).spawn(move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(EPOCH_TICK);
        }
    })?;
    Ok(())
}
