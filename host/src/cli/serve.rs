mod replace;
mod watch;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, Response, StatusCode, Version};
use axum::response::IntoResponse as _;
use futures_util::future::Either;
use http_body_util::{BodyExt as _, Limited};
use serde_json::json;

use self::replace::replace_transformers;
use self::watch::{Watch, note_failures};
use super::device::DeviceArguments;
use super::listener::{HostsArguments, hangup_signal, listen, stop_signal};
use super::output::{Output, standard_error};
use super::plugin::{PluginOptions, parse_pair};
use super::state::StateArguments;
use crate::data::PredictionWriter;
use crate::domain::Name;
use crate::plugin::Transformer;
use crate::registry::{ModelLoader, ModelReference, Predictor, VersionSelector, read_bundle};
use crate::serve::{
    AccessLog, Capture, Control, Deployer, Deployment, DeploymentConfig, Endpoint, EndpointChange,
    EndpointPolicy, EndpointSpec, Endpoints, Observer, PolicyFields, Reconciler, Recorder, Routes, Routing,
    ServeLimits, ServeMetrics, ServeState, ShadowSpec, TraceError, Traces, Work, answered_call,
};
use crate::server::{Answers, Guarded, Refusal, Server, Workers};
use crate::store::Store;

/// Rows that one request may have.
const REQUEST_ROWS_MAX: usize = 100_000;

/// Endpoint of a model that has no name.
const UNNAMED: &str = "model";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  host serve --model mnist@champion --port 8080
  curl localhost:8080/serve/mnist -d '{\"pixels\": [0, 0, …]}'
  host serve --model digits=mnist@champion --model churn
  host serve --endpoints endpoints.yaml")]
#[command(group = clap::ArgGroup::new("served").required(true).multiple(true))]
pub(super) struct ServeArguments {
    /// What to serve: a name, `name@version`, `name@alias`, a `sha256:` digest or a bundle folder such as `./mnist`; with `ENDPOINT=` before it,
    /// served by that name. May be given more than once. A newer version, or an alias that moves, is served at once.
    #[arg(long = "model", value_name = "[ENDPOINT=]MODEL", group = "served")]
    models: Vec<String>,
    /// Serve as `/serve/ENDPOINT` [default: the model's name; `model` for a digest or a folder].
    #[arg(long)]
    endpoint: Option<Name>,
    /// A file that says which endpoints there are and who answers for each; changes of it are taken up at once.
    #[arg(long, value_name = "FILE", group = "served", conflicts_with_all = ["models", "endpoint", "replaced"])]
    endpoints: Option<PathBuf>,
    /// Seconds between two looks whether an alias has moved, there is a new version or the file has changed; 0 never looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = whole_seconds)]
    refresh: u32,
    /// Replace the bundle's preprocess transformers by this component; given more than once, by these in this order. The version
    /// stays then, whatever its model's aliases or newer versions become.
    #[arg(long = "plugin", value_name = "FILE", group = "replaced")]
    plugins: Vec<PathBuf>,
    /// Replace the bundle's postprocess transformers by this component; given more than once, by these in this order. The version
    /// stays then too.
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
    /// Threads that answer connections, and as many beside them for what would hold these up [default: one per core].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Largest body of a request, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = ServeLimits::default().body_max_bytes)]
    body_max_bytes: usize,
    /// Memory for the bodies of all requests under way, and as much for answers that clients have not taken yet, in bytes; bodies
    /// of up to 64 KiB are not counted.
    #[arg(long, value_name = "BYTES", default_value_t = ServeLimits::default().bodies_max_bytes)]
    bodies_max_bytes: usize,
    /// Longest that a body may take to arrive, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = ServeLimits::default().body_max_ms)]
    body_max_ms: u64,
    /// Newest rows that are kept for monitoring, in at most 128 MiB for an endpoint; 0 keeps none.
    #[arg(long, default_value_t = 10_000)]
    window_rows: usize,
    /// Mebibytes of the newest predictions that are kept for `host replay`, of at most 4,096 a second; 0 keeps none.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    record_mib: u32,
    /// Append a line of JSON for each request to this file; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// Let clients load and unload models, as the Open Inference Protocol's repository has it.
    #[arg(long, conflicts_with = "replaced")]
    model_control: bool,
    #[command(flatten)]
    device: DeviceArguments,
    /// Also answer `POST /constant`, which reads a body and says always the same: the yardstick of the benches.
    #[arg(long, hide = true)]
    constant_endpoint: bool,
    #[command(flatten)]
    options: PluginOptions,
    #[command(flatten)]
    policy: PolicyArguments,
}

impl ServeArguments {
    /// Whether a bundle's transformers are replaced by others.
    fn replaces(&self) -> bool {
        !self.plugins.is_empty() || !self.postprocess.is_empty()
    }
}

/// The longest time between two looks.
const REFRESH_MAX_SECONDS: u32 = 86_400;

fn whole_seconds(text: &str) -> Result<u32, String> {
    let seconds = text.parse().ok().filter(|seconds| *seconds <= REFRESH_MAX_SECONDS);
    seconds.ok_or_else(|| format!("expected a whole number of seconds up to {REFRESH_MAX_SECONDS}"))
}

/// How requests are computed. An endpoint file says it for each endpoint.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "How requests are computed")]
struct PolicyArguments {
    /// Compute requests together that come at the same time, up to so many rows; each alone if 0. Rows that depend on each
    /// other, as a plugin's manifest says, are never put together [default: what is there at once, where that changes nothing
    /// but the time].
    #[arg(long, value_name = "ROWS", conflicts_with = "endpoints")]
    batch_rows: Option<usize>,
    /// Longest that a batch waits for as many requests as those before it had, in microseconds [default: 0].
    #[arg(long, value_name = "US", conflicts_with = "endpoints", requires = "batch_rows")]
    batch_delay_us: Option<u64>,
    /// Requests, or batches of them, that an endpoint computes at once [default: 64, with --batch-rows one per core].
    #[arg(long, value_name = "COUNT", conflicts_with = "endpoints")]
    concurrency: Option<usize>,
    /// Requests of an endpoint that may wait for their turn; more get 429 [default: 1024].
    #[arg(long, value_name = "COUNT", conflicts_with = "endpoints")]
    queue: Option<usize>,
    /// Longest that a request waits for its turn, in milliseconds, unless the client says less; 0 sets no limit
    /// [default: 30000].
    #[arg(long, value_name = "MS", conflicts_with = "endpoints")]
    timeout_ms: Option<u64>,
    /// Mebibytes of answers that an endpoint keeps, and gives again to the same rows; 0 keeps none.
    #[arg(long, value_name = "MIB", default_value_t = 0, conflicts_with = "endpoints")]
    cache_mib: u64,
    /// Give the requests to this model too, after they are answered, and compare the answers (`host endpoint list`, `/metrics`).
    /// Of several models a file says whose shadow it is.
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["endpoints", "replaced"])]
    shadow: Option<ModelReference>,
}

impl PolicyArguments {
    fn policy(&self) -> anyhow::Result<EndpointPolicy> {
        let fields = PolicyFields {
            batch_rows: self.batch_rows,
            batch_delay_us: self.batch_delay_us,
            concurrency: self.concurrency,
            queue: self.queue,
            timeout_ms: self.timeout_ms,
            cache_mib: Some(self.cache_mib),
        };
        fields.policy().map_err(anyhow::Error::msg)
    }
}

pub(super) fn run(arguments: ServeArguments, state: &StateArguments, output: &Output) -> anyhow::Result<()> {
    standard_error::write_from_a_thread().context("failed to start a thread")?;
    let store = state.open_store()?;
    let count = match arguments.threads {
        Some(count) => usize::from(count),
        None => std::thread::available_parallelism().map_or(1, NonZero::get),
    };
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(count)
        .enable_all()
        .build()
        .context("failed to start threads")?;
    let workers = Workers::start(count, threads.handle()).context("failed to start threads")?;
    let served = threads.block_on(serve(&arguments, state, store, &workers, output));
    // What still computes on the blocking pool had its time to finish, and nothing else can stop it.
    threads.shutdown_background();
    served
}

async fn serve(
    arguments: &ServeArguments,
    state: &StateArguments,
    store: Store,
    workers: &Workers,
    output: &Output,
) -> anyhow::Result<()> {
    let mut told_to_stop = pin!(stop_signal()?);
    let hangup = hangup_signal()?;
    let hosts = arguments.hosts.allowed(arguments.ip)?;
    let log = arguments.access_log.as_deref().map(AccessLog::open).transpose()?;
    let metrics = ServeMetrics::new()?;
    let traces = match Traces::from_environment(metrics.spans_dropped()) {
        // Variables that are meant for all programs are no reason to serve nobody.
        Err(error @ TraceError::Variable { .. }) => {
            output.warn(&format!("{error}: there are no traces"));
            None
        }
        traces => traces?,
    };
    let observer = Arc::new(Observer { log, traces });
    let endpoints = Arc::new(Endpoints::default());
    let recorder = match arguments.record_mib {
        0 => None,
        mib => {
            let writer = PredictionWriter::open(&store, u64::from(mib) * 1024 * 1024)?;
            Some(Arc::new(Recorder::new(writer, metrics.unrecorded())))
        }
    };
    let watch = tokio::select! {
        watch = deploy(arguments, state, store, &endpoints, output) => watch?,
        // What is loaded may be compiled first, or wait for others that compile.
        () = &mut told_to_stop => {
            output.note("stopped");
            return Ok(());
        }
    };
    let server = listen(arguments.ip, arguments.port).await?;
    let limits = ServeLimits {
        body_max_bytes: arguments.body_max_bytes,
        body_max_ms: arguments.body_max_ms,
        bodies_max_bytes: arguments.bodies_max_bytes,
    };
    let capture = Capture::start(Arc::clone(&endpoints), recorder.clone())?;
    let (control, asked) = Control::new();
    let control = arguments.model_control.then_some(control);
    let told = (!observer.is_idle()).then(|| Arc::clone(&observer));
    let hangups = Hangups { signal: hangup, observer: Arc::clone(&observer) };
    // Nothing can fail any more.
    announce(&endpoints, &server, output)?;
    let stop = async {
        told_to_stop.await;
        endpoints.note_stop();
    };
    let state =
        ServeState { endpoints: Arc::clone(&endpoints), recorder, control, observer: told, metrics, limits };
    let answers = Answering { routes: Routes::new(state), has_constant: arguments.constant_endpoint };
    tokio::select! {
        () = server.run_on(workers, Guarded::new(answers, hosts), stop) => {}
        () = watch.run(asked, hangups, output) => {}
    }
    // They wait for threads that may need this one's others.
    let captured = tokio::task::spawn_blocking(move || {
        let captured = capture.finish();
        observer.finish();
        captured
    });
    captured.await??;
    output.note("stopped");
    Ok(())
}

/// Each is SIGHUP: what is served and the access log are to be looked at now.
struct Hangups {
    signal: tokio::signal::unix::Signal,
    observer: Arc<Observer>,
}

impl Hangups {
    /// Ready when there was one; the access log knows then.
    async fn next(&mut self) {
        if self.signal.recv().await.is_none() {
            std::future::pending().await
        }
        self.observer.reopen_log();
    }
}

/// Loads what should be served. Where several endpoints are asked for, those that cannot be loaded are told, and the others
/// are served.
async fn deploy(
    arguments: &ServeArguments,
    state: &StateArguments,
    store: Store,
    endpoints: &Arc<Endpoints>,
    output: &Output,
) -> anyhow::Result<Watch> {
    let (file, specs) = match &arguments.endpoints {
        Some(path) => {
            let (text, specs) = watch::read(path)?;
            (Some((path.clone(), text)), specs)
        }
        None => (None, specs_of_models(arguments)?),
    };
    let is_named = |model: &ModelReference| matches!(model, ModelReference::Name(..));
    // Clients load models by their names.
    let needs_registry = arguments.endpoints.is_some()
        || arguments.model_control
        || specs.iter().flat_map(EndpointSpec::models).any(is_named);
    let registry = if needs_registry { Some(state.open_registry().await?) } else { None };
    let deployer = Deployer {
        store,
        runtime: arguments.options.start()?,
        models: Arc::new(ModelLoader::new(arguments.device.device(output))),
        registry,
        window_rows: arguments.window_rows,
        window_memory: Arc::default(),
        rows_max: REQUEST_ROWS_MAX,
    };
    if arguments.replaces() {
        let is_moving = |model: &ModelReference| {
            matches!(model, ModelReference::Name(_, VersionSelector::Newest | VersionSelector::Alias(_)))
        };
        if specs.iter().flat_map(EndpointSpec::models).any(is_moving) {
            output.note("the version stays while transformers are replaced: no alias and no newer version is followed");
        }
        deploy_replaced(arguments, &specs, &deployer, endpoints, output).await?;
        return Ok(Watch::never());
    }
    let mut reconciler = Reconciler::new(deployer, Arc::clone(endpoints));
    reconciler.want(specs.clone());
    let changes = reconciler.start().await;
    if endpoints.all().is_empty() {
        return Err(why_none(changes, output));
    }
    note_failures(&changes, output);
    let interval = Duration::from_secs(u64::from(arguments.refresh));
    let policy = arguments.policy.policy()?;
    Ok(Watch::new(reconciler, specs, file, policy, interval))
}

/// Why there is no endpoint to serve. Of several the first to fail is the error, and the others are told.
fn why_none(mut changes: Vec<EndpointChange>, output: &Output) -> anyhow::Error {
    let others = changes.split_off(changes.len().min(1));
    note_failures(&others, output);
    let Some(EndpointChange { endpoint, outcome: Err(error) }) = changes.pop() else {
        return anyhow::anyhow!("there is no endpoint to serve");
    };
    let error = anyhow::Error::from(error);
    if others.is_empty() { error } else { error.context(format!("endpoint `{endpoint}`")) }
}

/// The endpoints that `--model` asks for.
fn specs_of_models(arguments: &ServeArguments) -> anyhow::Result<Vec<EndpointSpec>> {
    let mut specs: Vec<EndpointSpec> = Vec::new();
    if arguments.models.len() > 1 && arguments.endpoint.is_some() {
        bail!("`--endpoint` is for one model: name each with `--model ENDPOINT=MODEL`");
    }
    if arguments.models.len() > 1 && arguments.replaces() {
        bail!(
            "`--plugin` and `--postprocess` are for one model: serve each with its own by another `host serve`"
        );
    }
    if arguments.models.len() > 1 && arguments.policy.shadow.is_some() {
        bail!(
            "`--shadow` is for one model: a file of `--endpoints` says of each endpoint which are its shadows"
        );
    }
    for text in &arguments.models {
        let (name, model) = named_model(text)?;
        let of_model = match &model {
            ModelReference::Name(name, _) => Some(name.clone()),
            ModelReference::Bundle(_) | ModelReference::Folder(_) => None,
        };
        let name = match arguments.endpoint.clone().or(name).or(of_model) {
            Some(name) => name,
            None => UNNAMED.parse()?,
        };
        if specs.iter().any(|spec| spec.name == name) {
            bail!("two endpoints are called `{name}`: name them with `--model ENDPOINT=MODEL`");
        }
        let shadow = arguments.policy.shadow.clone().map(|model| ShadowSpec { model, percent: 100 });
        let policy = arguments.policy.policy()?;
        let shadows = shadow.into_iter().collect();
        specs.push(EndpointSpec { policy, shadows, ..EndpointSpec::of_model(name, model) });
    }
    Ok(specs)
}

/// An endpoint's name, if one is given, and a model. A folder may have `=` in its name.
fn named_model(text: &str) -> anyhow::Result<(Option<Name>, ModelReference)> {
    let is_there = || text.parse().is_ok_and(|model: ModelReference| model.folder_state().is_some());
    match text.split_once('=') {
        Some((name, model)) if !name.contains('/') && !is_there() => {
            Ok((Some(name.parse()?), model.parse()?))
        }
        _ => Ok((None, text.parse()?)),
    }
}

/// Serves one bundle with other transformers than its own.
async fn deploy_replaced(
    arguments: &ServeArguments,
    specs: &[EndpointSpec],
    deployer: &Deployer,
    endpoints: &Endpoints,
    output: &Output,
) -> anyhow::Result<()> {
    for spec in specs {
        for route in &spec.routes {
            let located = deployer.locate(&route.model).await?;
            // It starts instances and waits for them, which a thread that serves must not.
            let (predictor, is_of_bundle, platform, example) = tokio::task::block_in_place(|| {
                let manifest = read_bundle(&deployer.store, located.bundle)?;
                let own =
                    Predictor::load_by(&deployer.models, &deployer.store, &deployer.runtime, &manifest)?;
                let (replaced, is_same) = replace_transformers(own, arguments, &deployer.runtime, output)?;
                let example = deployer.example_of_replaced(&manifest, &replaced)?;
                Ok::<_, anyhow::Error>((replaced, is_same, manifest.model.platform(), example))
            })?;
            let window = deployer.window(&spec.name, &located)?;
            let config = DeploymentConfig {
                version: located.version,
                bundle: located.bundle,
                row_time: None,
                platform,
                work: Work::Bundle(predictor),
                is_of_bundle,
                window,
                rows_max: REQUEST_ROWS_MAX,
                example,
            };
            let deployment = Deployment::new(spec.name.as_str(), config)?;
            let routing = Routing::to(Arc::new(deployment));
            endpoints.insert(Endpoint::new(spec.name.clone(), routing.computing_by(&spec.policy)));
        }
    }
    Ok(())
}

fn announce(endpoints: &Endpoints, server: &Server, output: &Output) -> anyhow::Result<()> {
    let url = |endpoint: &Endpoint| format!("http://{}/serve/{}", server.address(), endpoint.name());
    let all = endpoints.all();
    if output.is_json() {
        let described = |endpoint: &Arc<Endpoint>| {
            let routing = endpoint.routing();
            let bundle = routing.main().map(|deployment| deployment.bundle());
            json!({ "name": endpoint.name(), "url": url(endpoint), "bundle": bundle })
        };
        // One line, so that a program can wait for it.
        let ready = json!({
            "status": "ready",
            "address": server.address(),
            "endpoints": all.iter().map(described).collect::<Vec<_>>(),
        });
        return Ok(output.line(&ready.to_string())?);
    }
    for endpoint in &all {
        for route in endpoint.routing().routes() {
            let of = if all.len() > 1 { format!("{}: ", endpoint.name()) } else { String::new() };
            output.note(&format!("{of}{}", path_of(&route.deployment)));
        }
    }
    match all.as_slice() {
        [only] => Ok(output.line(&format!("ready: POST {}", url(only)))?),
        several => {
            let url = format!("http://{}/serve", server.address());
            Ok(output.line(&format!("ready: POST {url}/ENDPOINT, of which there are {}", several.len()))?)
        }
    }
}

/// What a request to a deployment passes through.
fn path_of(deployment: &Deployment) -> String {
    if deployment.is_graph() {
        return "made of other endpoints".to_owned();
    }
    let (preprocess, postprocess) = deployment.transformers();
    let names = |transformers: &[Transformer]| match transformers {
        [] => String::new(),
        all => all.iter().map(|one| format!("{} → ", one.plugin().manifest().name)).collect(),
    };
    let after = names(postprocess);
    let after = after.trim_end_matches(" → ");
    let arrow = if after.is_empty() { "" } else { " → " };
    let version =
        deployment.version().map(|(model, number)| format!("{model}@{number}, ")).unwrap_or_default();
    format!("{version}bundle {}: {}model{arrow}{after}", deployment.bundle().short(), names(preprocess))
}

/// What answers requests.
#[derive(Clone)]
struct Answering {
    routes: Routes,
    has_constant: bool,
}

impl Answers for Answering {
    fn answer(
        &self,
        request: Request,
        client: SocketAddr,
    ) -> impl Future<Output = Response<Body>> + Send + use<> {
        match self.has_constant && request.method() == Method::POST && request.uri().path() == "/constant" {
            false => Either::Left(self.routes.answer(request, client)),
            true => Either::Right(constant(request)),
        }
    }

    fn refuse(&self, request: &Request, client: SocketAddr, why: &Refusal) -> Response<Body> {
        match why {
            Refusal::Forbidden(why) => self.routes.forbid(request, client, why),
            Refusal::Busy { waited } => self.routes.overloaded(request, client, *waited, why),
            Refusal::TooManyHeaders { .. } => self.routes.too_many_headers(request, client, why),
            Refusal::Host { .. } => self.routes.invalid(request, client, why),
            Refusal::TransferEncoding => self.routes.unsupported(request, client, why),
        }
    }
}

/// Bytes of a body that is answered always the same.
const CONSTANT_BODY_MAX_BYTES: usize = 2 * 1024 * 1024;

/// What the same server costs when it computes nothing, by HTTP/1.1 and as a call of gRPC.
async fn constant(request: Request) -> Response<Body> {
    const ANSWER: &str = r#"{"label":7,"probability":0.9983524}"#;
    let is_call = request.version() == Version::HTTP_2;
    if Limited::new(request.into_body(), CONSTANT_BODY_MAX_BYTES).collect().await.is_err() {
        return StatusCode::BAD_REQUEST.into_response();
    }
    match is_call {
        true => answered_call(ANSWER.as_bytes()),
        false => ([("content-type", "application/json")], ANSWER).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Served {
        #[command(flatten)]
        arguments: ServeArguments,
    }

    #[test]
    fn a_shadow_is_of_one_model() {
        let specs = |arguments: &str| {
            let served = Served::try_parse_from(arguments.split(' ')).unwrap();
            specs_of_models(&served.arguments).map_err(|error| error.to_string())
        };
        assert_eq!(specs("serve --model a@1 --shadow a@2").unwrap()[0].shadows.len(), 1);
        assert_eq!(specs("serve --model a@1 --model b@1").unwrap().len(), 2);
        let refused = specs("serve --model a@1 --model b@1 --shadow a@2").unwrap_err();
        assert!(refused.starts_with("`--shadow` is for one model: "), "{refused}");
    }

    #[test]
    fn an_endpoint_may_be_named_before_a_model() {
        let read = |text: &str| {
            let (name, model) = named_model(text).unwrap();
            (name.map(|name| name.to_string()), model.to_string())
        };
        let named = |model: &str| (Some("d".to_owned()), model.to_owned());
        assert_eq!(read("d=digits@1"), named("digits@1"));
        assert_eq!(read("d=./gone"), named("./gone"));
        assert_eq!(read("d=/gone/a=1"), named("/gone/a=1"));
        assert_eq!(read("digits@1"), (None, "digits@1".to_owned()));
        assert_eq!(read("./gone/a=1"), (None, "./gone/a=1".to_owned()));
        assert!(named_model("D=./gone").unwrap_err().to_string().contains("`D` is not a name"));
        let base = tempfile::tempdir().unwrap();
        let bundle = base.path().join("a=1");
        std::fs::create_dir(&bundle).unwrap();
        std::fs::write(bundle.join("bundle.json"), "{}").unwrap();
        let bundle = bundle.to_str().unwrap();
        assert_eq!(read(bundle), (None, bundle.to_owned()));
    }
}
