use std::net::IpAddr;

use anyhow::Context as _;
use axum::body::Body;
use axum::http::Response;
use serde_json::json;

use super::listener::{HostsArguments, listen, stop_signal};
use super::output::{Output, standard_error};
use super::pipeline::local_executor;
use super::state::StateArguments;
use crate::pipeline::trigger::Scheduler;
use crate::registry::{self, Registry};
use crate::server::{Guarded, Refusal, Routed};
use crate::track;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  host server --port 5000
  MLFLOW_TRACKING_URI=http://127.0.0.1:5000 python train.py")]
pub(super) struct ServerArguments {
    /// Port to listen on; 0 takes any free one.
    #[arg(long, default_value_t = 5000)]
    port: u16,
    /// Address to listen on. Whoever can reach it can read and change everything.
    #[arg(long = "bind", value_name = "IP", default_value = "127.0.0.1")]
    ip: IpAddr,
    #[command(flatten)]
    hosts: HostsArguments,
    /// Start no pipelines by their triggers: where several servers share a database, only those should that have the
    /// pipelines' folders.
    #[arg(long)]
    no_triggers: bool,
}

/// MLflow's API of runs and models.
pub(super) fn routes(registry: Registry) -> Routed {
    let routes = track::rest::router(registry.tracker().clone()).merge(registry::rest::router(registry));
    Routed::new(routes, refuse)
}

/// The answer to a request that is not looked into.
fn refuse(why: &Refusal) -> Response<Body> {
    match why {
        Refusal::Forbidden(why) => track::rest::forbid(why),
        Refusal::Busy { .. } => track::rest::overloaded(why),
        Refusal::TooManyHeaders { .. } | Refusal::Host { .. } => track::rest::invalid(why),
        Refusal::TransferEncoding => track::rest::unsupported(why),
    }
}

pub(super) fn run(
    arguments: &ServerArguments,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<()> {
    let hosts = arguments.hosts.allowed(arguments.ip)?;
    standard_error::write_from_a_thread().context("failed to start a thread")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start threads")?;
    let served = runtime.block_on(async {
        let stop = stop_signal()?;
        let registry = state.open_registry().await?;
        // Now rather than at the first upload.
        state.open_store()?.check_blobs()?;
        let server = listen(arguments.ip, arguments.port).await?;
        let url = format!("http://{}", server.address());
        if output.is_json() {
            output
                .line(&json!({ "status": "ready", "address": server.address(), "url": url }).to_string())?;
        } else {
            output.line(&format!("ready: MLFLOW_TRACKING_URI={url}"))?;
        }
        let (stop_triggers, stopped) = tokio::sync::oneshot::channel::<()>();
        let scheduler = match arguments.no_triggers {
            true => None,
            false => {
                let executor = local_executor(state, registry.tracker().store().clone())?;
                let scheduler = Scheduler::new(registry.clone(), executor);
                Some(tokio::spawn(scheduler.run(async { _ = stopped.await })))
            }
        };
        let stop = async {
            stop.await;
            // At the same time as requests.
            let _ = stop_triggers.send(());
        };
        server.run(Guarded::new(routes(registry), hosts), stop).await;
        if let Some(scheduler) = scheduler {
            scheduler.await.context("the triggers were given up")?;
        }
        output.note("stopped");
        Ok(())
    });
    // What still blocks had its time to finish, and nothing else can stop it.
    runtime.shutdown_background();
    served
}
