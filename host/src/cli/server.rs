use std::net::IpAddr;

use anyhow::Context as _;
use serde_json::json;

use super::listener::{HostsArguments, listen, stop_signal};
use super::output::Output;
use super::state::StateArguments;
use crate::server::guarded;
use crate::{registry, track};

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
}

pub(super) fn run(
    arguments: &ServerArguments,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<()> {
    let hosts = arguments.hosts.allowed(arguments.ip)?;
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
        let tracking = track::rest::router(registry.tracker().clone());
        let routes = tracking.merge(registry::rest::router(registry));
        server.run(guarded(routes, hosts, track::rest::forbid), stop).await;
        output.note("stopped");
        Ok(())
    });
    // What still blocks had its time to finish, and nothing else can stop it.
    runtime.shutdown_background();
    served
}
