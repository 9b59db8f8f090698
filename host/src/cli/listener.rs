use std::net::IpAddr;

use anyhow::Context as _;

use super::output::standard_error;
use crate::server::{AllowedHosts, Server, ServerError};

/// Who may send requests.
#[derive(Debug, clap::Args)]
pub(super) struct HostsArguments {
    /// Names by which clients may call this server, as a proxy passes them on in `Host`: `name` or `name:port`; `*` allows
    /// all. Loopback's own names always are [default: any, unless it listens on loopback].
    #[arg(long, env = "HOST_ALLOWED_HOSTS", value_name = "HOST", value_delimiter = ',')]
    allowed_hosts: Vec<String>,
}

impl HostsArguments {
    /// The names that a server which listens on `ip` is called by.
    pub(super) fn allowed(&self, ip: IpAddr) -> anyhow::Result<AllowedHosts> {
        AllowedHosts::new(&self.allowed_hosts, ip)
            .map_err(|error| anyhow::anyhow!("`--allowed-hosts`: {error}"))
    }
}

/// Opens the listener of a command that serves.
pub(super) async fn listen(ip: IpAddr, port: u16) -> anyhow::Result<Server> {
    Server::bind(ip, port).await.map_err(|error| match error {
        ServerError::PortInUse { .. } => anyhow::Error::new(error)
            .context("failed to start the server (give another with `--port`, or 0 for any free one)"),
        other => other.into(),
    })
}

/// SIGHUP, which does not end the process from then on.
pub(super) fn hangup_signal() -> anyhow::Result<tokio::signal::unix::Signal> {
    use tokio::signal::unix::{SignalKind, signal};
    signal(SignalKind::hangup()).context("failed to watch for SIGHUP")
}

/// Ready when the process is told to stop by SIGTERM or SIGINT. Who says it again does not want to wait: the process ends
/// at once, with the exit code that shells give to one which the signal ended.
pub(super) fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("failed to watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to watch for SIGINT")?;
    let mut told = async move || {
        tokio::select! {
            _ = terminate.recv() => SignalKind::terminate(),
            _ = interrupt.recv() => SignalKind::interrupt(),
        }
    };
    Ok(async move {
        told().await;
        tokio::spawn(async move {
            let again = told().await;
            tracing::warn!("told to stop again: ending at once");
            standard_error::flush();
            std::process::exit(128 + again.as_raw_value());
        });
    })
}
