use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::json;

use super::output::{Output, bytes_text};
use crate::data;
use crate::domain::{Batch, Digest};
use crate::plugin::{
    self, InstancePolicy, Kind, LimitsCeiling, Plugin, PluginRuntime, RuntimeConfig, Toolchain, Transformer,
    TransformerFit, block_on,
};

#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// Compile a plugin crate and make a component of it.
    Build {
        /// Folder of the crate.
        directory: PathBuf,
        /// Where to write the component [default: NAME.wasm in cargo's target folder].
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Compiler for WebAssembly: `rustup` or `debian` [default: the first that works].
        #[arg(long, env = "HOST_WASM_TOOLCHAIN")]
        toolchain: Option<Toolchain>,
    },
    /// Show what a component is, wants and may do.
    Inspect {
        /// The component.
        file: PathBuf,
    },
    /// Run a transformer on a batch.
    #[command(after_help = RUN_HELP)]
    Run {
        /// The component.
        file: PathBuf,
        /// The batch: an object, a list of objects, or Open Inference Protocol `inputs`; `-` for standard input.
        #[arg(long = "in", value_name = "FILE")]
        input: PathBuf,
        /// Learn from this batch first.
        #[arg(long, value_name = "FILE", conflicts_with = "state")]
        fit: Option<PathBuf>,
        /// Use this state.
        #[arg(long, value_name = "FILE")]
        state: Option<PathBuf>,
        /// Write the state here.
        #[arg(long, value_name = "FILE", requires = "fit")]
        save_state: Option<PathBuf>,
        #[command(flatten)]
        options: PluginOptions,
        /// Config, a JSON object.
        #[arg(long, value_name = "JSON", default_value = "{}")]
        config: String,
    },
}

const RUN_HELP: &str = "\
Example:
  echo '{\"pixels\": [0, 128, 255, …]}' | host plugin run mnist-pixels.wasm --fit train.json --in -";

/// What the operator decides for plugins.
#[derive(Debug, clap::Args)]
pub(super) struct PluginOptions {
    /// Most memory that a plugin's instance may have, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4096))]
    plugin_memory_max_mib: u32,
    /// Longest that a plugin's call may take, in milliseconds, whatever its manifest asks for.
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    plugin_call_max_ms: u32,
    /// Give every call a fresh instance, even of plugins that allow theirs to be kept.
    #[arg(long)]
    fresh_instances: bool,
    /// Folder where compiled plugins are kept, so that each is compiled once; `none` compiles them each time
    /// [default: ~/.cache/host/code].
    #[arg(long, value_name = "DIR", env = "HOST_CODE_CACHE")]
    code_cache: Option<PathBuf>,
}

impl PluginOptions {
    /// Starts a runtime with these options.
    pub(super) fn start(&self) -> anyhow::Result<PluginRuntime> {
        let ceiling = LimitsCeiling {
            memory_max_bytes: u64::from(self.plugin_memory_max_mib) * 1024 * 1024,
            call_max_ms: self.plugin_call_max_ms,
            ..LimitsCeiling::default()
        };
        let instances = self.fresh_instances.then_some(InstancePolicy::Fresh);
        let code_cache = match &self.code_cache {
            Some(folder) if folder.as_os_str() == "none" => None,
            Some(folder) => Some(folder.clone()),
            None => default_code_cache(),
        };
        let config = RuntimeConfig { ceiling, instances, code_cache, ..RuntimeConfig::default() };
        Ok(PluginRuntime::new(config)?)
    }
}

/// Where compiled plugins are kept where nobody says it; none where there is no home.
fn default_code_cache() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
    Some(caches.join("host/code"))
}

/// Parses `NAME=VALUE`.
pub(super) fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("expected NAME=VALUE, found `{text}`"))?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Loads the plugin in `file`.
pub(super) fn load(runtime: &PluginRuntime, file: &Path) -> anyhow::Result<(Plugin, Vec<u8>)> {
    let bytes = std::fs::read(file).with_context(|| format!("failed to read `{}`", file.display()))?;
    let plugin =
        Plugin::load(runtime, &bytes).with_context(|| format!("`{}` cannot be loaded", file.display()))?;
    Ok((plugin, bytes))
}

/// The digest that names the component in a file.
pub(super) fn digest_of(file: &Path) -> anyhow::Result<Digest> {
    let bytes = std::fs::read(file).with_context(|| format!("failed to read `{}`", file.display()))?;
    Ok(Digest::of(&bytes))
}

pub(super) fn run(command: PluginCommand, output: &Output) -> anyhow::Result<()> {
    match command {
        PluginCommand::Build { directory, output: file, toolchain } => {
            build(&directory, file.as_deref(), toolchain, output)
        }
        PluginCommand::Inspect { file } => inspect(&file, output),
        PluginCommand::Run { file, input, fit, state, save_state, options, config } => {
            let runtime = options.start()?;
            let (plugin, _) = load(&runtime, &file)?;
            if plugin.manifest().kind == Kind::Detector {
                let file = file.display();
                anyhow::bail!(
                    "`{file}` is a detector, which is run by `host monitor run`: expected a transformer"
                );
            }
            if fit.is_some() && !plugin.manifest().needs_fit {
                anyhow::bail!("`{}` learns nothing: leave out `--fit`", file.display());
            }
            let state = match (&fit, &state) {
                (Some(fit), _) => Some(learn(&plugin, &config, &read_batch(fit)?)?),
                (None, Some(state)) => Some(
                    std::fs::read(state).with_context(|| format!("failed to read `{}`", state.display()))?,
                ),
                (None, None) => None,
            };
            if let (Some(path), Some(state)) = (&save_state, &state) {
                std::fs::write(path, state)
                    .with_context(|| format!("failed to write `{}`", path.display()))?;
            }
            let batch = read_batch(&input)?;
            let answer = block_on(async {
                let transformer = Transformer::open(&plugin, &config, state).await?;
                transformer.transform(&batch).await
            })?;
            for point in answer.points {
                output.note(&format!(
                    "metric {} {:?} {} {:?}",
                    point.name, point.kind, point.value, point.labels
                ));
            }
            let answer = if output.is_json() {
                data::encode_tensors(&answer.batch)?
            } else {
                data::encode_rows(&answer.batch, data::RowForm::List)?
            };
            output.bytes(&answer)?;
            Ok(output.line("")?)
        }
    }
}

fn learn(plugin: &Plugin, config: &str, batch: &Batch) -> anyhow::Result<Vec<u8>> {
    block_on(async {
        let mut fit = TransformerFit::open(plugin, config).await?;
        fit.fit(batch).await?;
        Ok(fit.finish().await?)
    })
}

fn read_batch(path: &Path) -> anyhow::Result<Batch> {
    let text = match path.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin()).map(String::into_bytes),
        _ => std::fs::read(path),
    };
    let text = text.with_context(|| format!("failed to read `{}`", path.display()))?;
    data::decode_untyped(&text).with_context(|| format!("`{}` is not a batch", path.display()))
}

fn build(
    directory: &Path,
    file: Option<&Path>,
    toolchain: Option<Toolchain>,
    output: &Output,
) -> anyhow::Result<()> {
    let report = plugin::build(directory, file, toolchain)?;
    if output.is_json() {
        return output.value(&json!({
            "package": report.package,
            "path": report.path,
            "size_bytes": report.component_bytes,
            "digest": report.digest,
        }));
    }
    output.field("component", report.path.display())?;
    output.field("size", bytes_text(report.component_bytes))?;
    output.field("digest", report.digest)?;
    Ok(())
}

fn inspect(file: &Path, output: &Output) -> anyhow::Result<()> {
    let runtime = PluginRuntime::new(RuntimeConfig::default())?;
    let (plugin, _) = load(&runtime, file)?;
    let (manifest, interfaces, limits) = (plugin.manifest(), plugin.interfaces(), plugin.limits());
    if output.is_json() {
        return output.value(&json!({
            "name": manifest.name,
            "version": manifest.version,
            "kind": manifest.kind,
            "summary": manifest.summary,
            "contract": format!("mlops:plugin@{}", interfaces.contract_version),
            "imports": interfaces.imports,
            "exports": interfaces.exports,
            "needs_fit": manifest.needs_fit,
            "rows_independent": manifest.rows_independent,
            "instances": manifest.instances,
            "memory_max_bytes": limits.memory_max_bytes,
            "call_max_ms": limits.call_max_ms,
            "config_schema": manifest.config_schema,
            "size_bytes": plugin.size_bytes(),
            "digest": plugin.digest(),
        }));
    }
    let imports = match interfaces.imports.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    let yes_no = |value| if value { "yes" } else { "no" };
    let kind = match manifest.kind {
        Kind::Transformer => "transformer (preprocess or postprocess)",
        Kind::Detector => "detector",
    };
    output.field("name", format!("{} {}", manifest.name, manifest.version))?;
    output.field("kind", kind)?;
    output.field("summary", &manifest.summary)?;
    output.field("contract", format!("mlops:plugin@{}", interfaces.contract_version))?;
    output.field("imports", imports)?;
    output.field("learns", yes_no(manifest.needs_fit))?;
    output.field("rows", if manifest.rows_independent { "independent" } else { "depend on each other" })?;
    output
        .field("instances", if manifest.instances == InstancePolicy::Pooled { "pooled" } else { "fresh" })?;
    output.field("memory", format!("at most {}", bytes_text(limits.memory_max_bytes)))?;
    output.field("call", format!("at most {} ms", limits.call_max_ms))?;
    output.field("size", bytes_text(plugin.size_bytes() as u64))?;
    output.field("digest", plugin.digest())?;
    output.field("config schema", serde_json::to_string_pretty(&manifest.config_schema)?)?;
    Ok(())
}
