use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::call::CallState;
use super::code::{self, CodeFolder};
use super::code_cache::{self, CachedCode};
use super::compile::{WALL_MAX, compile_apart};
use super::idle::AllIdle;
use super::{InstancePolicy, LimitsCeiling, LoadError, imports, load};
use crate::domain::SharedByDigest;

/// How often a running guest is looked at: the granularity of time limits. It holds a thread for twice as long at most.
pub(super) const EPOCH_TICK: Duration = Duration::from_micros(2_500);

/// Native stack of a guest. Rust's own default for threads is 2 MiB; guests get less, since thousands may live.
const WASM_STACK_MAX_BYTES: usize = 512 * 1024;

/// Instances that may live at once, over all plugins. Each costs address space, not memory, until it is used.
const INSTANCES_MAX: u32 = 512;

/// Address space that they are laid out in, at least.
const ADDRESS_SPACE_BYTES: u64 = INSTANCES_MAX as u64 * 4 * 1024 * 1024 * 1024;

/// Core instances and tables that one of them may be made of; compilers make three and one. No plugin shall take what others
/// need: each has its share of both, whatever it is made of.
const CORE_INSTANCES_MAX: u32 = 16;
const TABLES_MAX: u32 = 4;

/// Memory that a slot keeps between instances: resetting the pages a call has touched is cheaper than giving them back
/// and faulting them in again. Linux since 6.7 tells which those are; before, the first so many bytes are reset.
const KEEP_RESIDENT_BYTES: usize = 512 * 1024;

/// What an operator decides for all plugins.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// The most any plugin may have.
    pub ceiling: LimitsCeiling,
    /// Overrides every manifest's instance policy.
    pub instances: Option<InstancePolicy>,
    /// Folder where compiled code is kept, so that a component is compiled once on a machine; with none it is once in the life
    /// of the runtime. Whoever can write there decides what this program runs, so it is made for its owner alone, and one that
    /// others can write to is not used.
    pub code_cache: Option<PathBuf>,
    /// The program `host`, which compiles components in a process of its own. By default it is the program that runs; one that
    /// only has this library, such as a bench, names it.
    pub compiler: PathBuf,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        let compiler = PathBuf::from("/proc/self/exe");
        Self { ceiling: LimitsCeiling::default(), instances: None, code_cache: None, compiler }
    }
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
    /// Where compiled code is, or why there is no folder for it, which only those learn who need one.
    code: Result<CodeFolder, String>,
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
        let code = CodeFolder::open(config.code_cache.as_deref());
        Self::with_code(config, code)
    }

    fn with_code(config: RuntimeConfig, code: std::io::Result<CodeFolder>) -> Result<Self, RuntimeError> {
        let fail = |error: wasmtime::Error| RuntimeError(format!("{error:#}"));
        let code = code.map_err(|error| {
            format!("there is no folder for compiled code, name one by `--code-cache`: {error}")
        });
        let mut engine_config = engine_config();
        engine_config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(&config.ceiling)));
        if let Ok(code) = &code {
            engine_config.cache(Some(code_cache::cache(code.path()).map_err(fail)?));
        }
        // Other processes compile.
        engine_config.enable_compiler(false);
        let engine = Engine::new(&engine_config).map_err(|error| {
            let hint = getrlimit(Resource::As).current.and_then(address_space_hint).unwrap_or_default();
            RuntimeError(format!("{error:#}{hint}"))
        })?;
        let mut linker = Linker::new(&engine);
        imports::add_to_linker(&mut linker).map_err(fail)?;
        start_clock(&engine).map_err(|error| RuntimeError(error.to_string()))?;
        let (plugins, idle) = (SharedByDigest::default(), AllIdle::default());
        Ok(Self { inner: Arc::new(Inner { engine, linker, config, code, plugins, idle }) })
    }

    /// A component, ready to be linked; where nobody has compiled it yet, another process does.
    pub(super) fn component(&self, bytes: &[u8]) -> Result<Component, LoadError> {
        let Inner { engine, code, config, .. } = &*self.inner;
        let code = code.as_ref().map_err(|error| LoadError::NotCompiled(error.clone()))?;
        let folder = code.look().map_err(|error| {
            LoadError::NotCompiled(format!("its folder of compiled code is not what it was: {error}"))
        })?;
        let cached = CachedCode::of(folder, bytes, engine);
        // What an engine without a compiler does not find is an error, and nothing else of the component is looked at.
        let find = || cached.is_sound().then(|| Component::from_binary(engine, bytes).ok()).flatten();
        if let Some(component) = find() {
            return Ok(component);
        }
        let turn = code::lock(folder, WALL_MAX);
        let _turn = turn.map_err(|error| {
            LoadError::NotCompiled(format!("failed to lock `{}`: {error}", folder.display()))
        })?;
        // Another process may have been at it.
        if let Some(component) = find() {
            return Ok(component);
        }
        // It may be of an earlier program, which left no digest, or damaged.
        cached.remove().map_err(|error| LoadError::NotCompiled(error.to_string()))?;
        compile_apart(&config.compiler, folder, bytes)?;
        Component::from_binary(engine, bytes).map_err(|error| LoadError::Invalid(format!("{error:#}")))
    }
}

/// What to do where this process may have so many bytes of address space, if that is too little.
fn address_space_hint(bytes: u64) -> Option<String> {
    let (gib, needed) = (bytes / (1024 * 1024 * 1024), ADDRESS_SPACE_BYTES / (1024 * 1024 * 1024));
    (bytes <= ADDRESS_SPACE_BYTES).then(|| {
        format!(
            "\nhint: the limit on address space is {gib} GiB: raise it with `ulimit -v unlimited`; plugins have places in more than \
             {needed} GiB of it, which are no memory until they are used"
        )
    })
}

/// Instances of all plugins, within the limits of an operator.
fn pool(ceiling: &LimitsCeiling) -> PoolingAllocationConfig {
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
    pool
}

/// What code is compiled for.
pub(super) fn engine_config() -> Config {
    let mut config = Config::new();
    config
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

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn a_limit_on_address_space_is_named_where_it_is_too_low() {
        let told = address_space_hint(8 * 1024 * 1024 * 1024).unwrap();
        assert!(told.starts_with("\nhint: the limit on address space is 8 GiB: raise it"), "{told}");
        assert!(told.contains("in more than 2048 GiB"), "{told}");
        assert_eq!(address_space_hint(u64::MAX), None);
    }

    #[test]
    fn only_plugins_need_a_folder_for_code() {
        let none = Err(ErrorKind::ReadOnlyFilesystem.into());
        let runtime = PluginRuntime::with_code(RuntimeConfig::default(), none).unwrap();
        let told = runtime.component(b"\0asm\x0d\0\x01\0").err().unwrap().to_string();
        assert!(told.starts_with("it could not be compiled: there is no folder for compiled code"), "{told}");
    }
}
