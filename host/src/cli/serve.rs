use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use serde_json::json;

use super::listener::{HostsArguments, listen, stop_signal};
use super::output::Output;
use super::plugin::{PluginOptions, load, parse_pair};
use super::state::StateArguments;
use crate::data::WindowWriter;
use crate::domain::Name;
use crate::plugin::{PluginRuntime, Transformer, block_on};
use crate::registry::{ModelReference, Predictor};
use crate::serve::{Endpoint, EndpointConfig, ServeLimits, WindowCapture, forbid, router};
use crate::server::{Server, guarded};
use crate::store::Store;

/// How often captured rows are written.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Rows that one request may have.
const REQUEST_ROWS_MAX: usize = 100_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  host serve --model mnist --port 8080
  curl localhost:8080/serve/mnist -d '{\"pixels\": [0, 0, …]}'")]
pub(super) struct ServeArguments {
    /// What to serve: a name, `name@version`, `name@alias`, a `sha256:` digest or a bundle folder.
    #[arg(long)]
    model: ModelReference,
    /// Serve as `/serve/ENDPOINT` [default: the model's name].
    #[arg(long)]
    endpoint: Option<Name>,
    /// Replace the bundle's preprocess transformers by these components, in this order.
    #[arg(long = "plugin", value_name = "FILE", group = "replaced")]
    plugins: Vec<PathBuf>,
    /// Replace the bundle's postprocess transformers by these components, in this order.
    #[arg(long = "postprocess", value_name = "FILE", group = "replaced")]
    postprocess: Vec<PathBuf>,
    /// Config of a replacing component by its plugin's name, as `NAME={…}`.
    #[arg(long, value_name = "NAME=JSON", value_parser = parse_pair, requires = "replaced")]
    config: Vec<(String, String)>,
    /// Port to listen on; 0 takes any free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Address to listen on.
    #[arg(long = "bind", value_name = "IP", default_value = "127.0.0.1")]
    ip: IpAddr,
    #[command(flatten)]
    hosts: HostsArguments,
    /// Threads that answer requests [default: one per core].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Largest body of a request, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = ServeLimits::default().body_max_bytes)]
    body_max_bytes: usize,
    /// Memory for the bodies of all requests under way, in bytes; bodies of up to 64 KiB are not counted.
    #[arg(long, value_name = "BYTES", default_value_t = ServeLimits::default().bodies_max_bytes)]
    bodies_max_bytes: usize,
    /// Longest that a body may take to arrive, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = ServeLimits::default().body_max_ms)]
    body_max_ms: u64,
    /// Newest rows that are kept for monitoring; 0 keeps none.
    #[arg(long, default_value_t = 10_000)]
    window_rows: usize,
    /// Also answer `POST /constant`, which reads a body and says always the same: the yardstick of the benches.
    #[arg(long, hide = true)]
    constant_endpoint: bool,
    #[command(flatten)]
    options: PluginOptions,
}

pub(super) fn run(arguments: ServeArguments, state: &StateArguments, output: &Output) -> anyhow::Result<()> {
    let store = state.open_store()?;
    let runtime = arguments.options.start()?;
    let endpoint = open_endpoint(&arguments, state, &store, &runtime, output)?;
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    if let Some(count) = arguments.threads {
        threads.worker_threads(usize::from(count));
    }
    let threads = threads.enable_all().build().context("failed to start threads")?;
    let served = threads.block_on(serve(&arguments, endpoint, output));
    // What still computes on the blocking pool had its time to finish, and nothing else can stop it.
    threads.shutdown_background();
    served
}

fn open_endpoint(
    arguments: &ServeArguments,
    state: &StateArguments,
    store: &Store,
    runtime: &PluginRuntime,
    output: &Output,
) -> anyhow::Result<Endpoint> {
    let resolved = state.resolve_model(store, &arguments.model)?;
    let name = match (&arguments.endpoint, &resolved.name) {
        (Some(name), _) | (None, Some(name)) => name.clone(),
        (None, None) => "model".parse()?,
    };
    let mut predictor = Predictor::load(store, runtime, &resolved.manifest)?;
    if !arguments.plugins.is_empty() || !arguments.postprocess.is_empty() {
        predictor = replace_transformers(predictor, arguments, runtime, output)?;
    }
    let window = match arguments.window_rows {
        0 => None,
        rows => Some(Arc::new(WindowCapture::new(WindowWriter::open(store, &name, resolved.digest, rows)?))),
    };
    let bundle = resolved.digest;
    Ok(Endpoint::new(EndpointConfig { name, bundle, predictor, window, rows_max: REQUEST_ROWS_MAX }))
}

/// Puts the user's components where the bundle's were. A component of the same plugin takes over config and state.
fn replace_transformers(
    predictor: Predictor,
    arguments: &ServeArguments,
    runtime: &PluginRuntime,
    output: &Output,
) -> anyhow::Result<Predictor> {
    let (mut parts, signature) = predictor.into_parts();
    let replace = |files: &[PathBuf], bundled: &mut Vec<Transformer>| -> anyhow::Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let mut replacements = Vec::new();
        for file in files {
            let (plugin, _) = load(runtime, file)?;
            let same = bundled.iter().find(|old| old.plugin().manifest().name == plugin.manifest().name);
            let (config, state) =
                same.map_or(("{}", None), |old| (old.config(), old.state().map(<[u8]>::to_vec)));
            let given = arguments.config.iter().rev().find(|(name, _)| *name == plugin.manifest().name);
            let config = given.map_or(config, |(_, config)| config.as_str());
            if same.is_some_and(|old| old.plugin().digest() == plugin.digest()) {
                output.note(&format!("`{}` is the bundle's own component", file.display()));
            } else {
                output.warn(&format!(
                    "`{}` ({}) replaces the bundle's {}: answers may differ from what was measured in training",
                    file.display(),
                    plugin.digest(),
                    describe(bundled),
                ));
            }
            replacements.push(block_on(Transformer::open(&plugin, config, state))?);
        }
        *bundled = replacements;
        Ok(())
    };
    replace(&arguments.plugins, &mut parts.preprocess)?;
    replace(&arguments.postprocess, &mut parts.postprocess)?;
    Ok(Predictor::new(parts, signature))
}

fn describe(transformers: &[Transformer]) -> String {
    match transformers {
        [] => "none".to_owned(),
        all => {
            all.iter().map(|old| format!("`{}`", old.plugin().manifest().name)).collect::<Vec<_>>().join(", ")
        }
    }
}

async fn serve(arguments: &ServeArguments, endpoint: Endpoint, output: &Output) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    let hosts = arguments.hosts.allowed(arguments.ip)?;
    let server = listen(arguments.ip, arguments.port).await?;
    let window = endpoint.window().cloned();
    announce(&endpoint, &server, output)?;
    let limits = ServeLimits {
        body_max_bytes: arguments.body_max_bytes,
        body_max_ms: arguments.body_max_ms,
        bodies_max_bytes: arguments.bodies_max_bytes,
    };
    let mut routes = router(vec![endpoint], limits);
    if arguments.constant_endpoint {
        routes = routes.merge(constant_route());
    }
    let flushing = window.clone().map(|window| tokio::spawn(flush_regularly(window)));
    server.run(guarded(routes, hosts, forbid), stop).await;
    if let Some(flushing) = flushing {
        flushing.abort();
    }
    if let Some(window) = window {
        window.flush()?;
    }
    output.note("stopped");
    Ok(())
}

fn announce(endpoint: &Endpoint, server: &Server, output: &Output) -> anyhow::Result<()> {
    let url = format!("http://{}/serve/{}", server.address(), endpoint.name());
    if output.is_json() {
        // One line, so that a program can wait for it.
        let ready = json!({
            "status": "ready",
            "address": server.address(),
            "endpoints": [{ "name": endpoint.name(), "url": url, "bundle": endpoint.bundle() }],
        });
        return Ok(output.line(&ready.to_string())?);
    }
    let (preprocess, postprocess) = endpoint.predictor().transformers();
    let names = |transformers: &[Transformer]| match transformers {
        [] => String::new(),
        all => all.iter().map(|one| format!("{} → ", one.plugin().manifest().name)).collect(),
    };
    let after = names(postprocess);
    let after = after.trim_end_matches(" → ");
    output.note(&format!(
        "bundle {}: {}model{}{after}",
        endpoint.bundle().short(),
        names(preprocess),
        if after.is_empty() { "" } else { " → " },
    ));
    Ok(output.line(&format!("ready: POST {url}"))?)
}

async fn flush_regularly(window: Arc<WindowCapture>) {
    let mut ticks = tokio::time::interval(FLUSH_INTERVAL);
    loop {
        ticks.tick().await;
        let window = Arc::clone(&window);
        match tokio::task::spawn_blocking(move || window.flush()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::error!(
                    "{}",
                    anyhow::Error::new(error).chain().map(|e| e.to_string()).collect::<Vec<_>>().join(": ")
                );
            }
            Err(error) => tracing::error!(%error, "the window's writer failed"),
        }
    }
}

/// What the same HTTP server costs when it computes nothing.
fn constant_route() -> Router {
    let answer = |_: Bytes| async {
        ([("content-type", "application/json")], r#"{"label":7,"probability":0.9983524}"#)
    };
    Router::new().route("/constant", post(answer))
}
