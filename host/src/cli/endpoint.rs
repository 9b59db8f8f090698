//! `host endpoint`: what a server of models answers, and back to the version before.

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::output::{Output, Table};
use super::state::StateArguments;
use crate::domain::Name;
use crate::registry::{ModelReference, VersionSelector};

/// The longest answer of a server that is read.
const ANSWER_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Time that a server has to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Pause between two looks whether the server follows.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Subcommand)]
pub(super) enum EndpointCommand {
    /// List endpoints, the versions behind them and their parts of the requests.
    List(ListArguments),
    /// Let the version answer again that answered before.
    #[command(after_help = "\
The alias that the endpoint follows is moved back, for every server that follows it; each has the version before still
loaded, so that it answers within a second (`host serve --refresh`). Rolled back twice, it is where it was.

Example:
  host endpoint rollback digits --url http://localhost:8080")]
    Rollback(RollbackArguments),
}

#[derive(Debug, clap::Args)]
pub(super) struct ServerUrl {
    /// The server, as `host serve` printed it.
    #[arg(long, env = "HOST_SERVE_URL", default_value = "http://127.0.0.1:8080")]
    url: Url,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArguments {
    #[command(flatten)]
    server: ServerUrl,
}

#[derive(Debug, clap::Args)]
pub(super) struct RollbackArguments {
    /// The endpoint.
    endpoint: Name,
    /// The version that should answer [default: the one before].
    #[arg(long, value_name = "VERSION")]
    to: Option<i64>,
    /// Seconds to wait until the server answers so.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u32,
    #[command(flatten)]
    server: ServerUrl,
}

#[derive(Debug, Deserialize)]
struct Listed {
    endpoints: Vec<ListedEndpoint>,
}

#[derive(Debug, Deserialize)]
struct ListedEndpoint {
    name: String,
    versions: Vec<ListedVersion>,
    shadows: Vec<ListedShadow>,
}

#[derive(Debug, Deserialize)]
struct ListedVersion {
    model: Option<String>,
    version: Option<i64>,
    bundle: String,
    weight: u32,
    asked_for: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ListedShadow {
    model: Option<String>,
    version: Option<i64>,
    bundle: String,
    percent: u32,
    answers: std::collections::BTreeMap<String, u64>,
}

pub(super) async fn run(
    command: EndpointCommand,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<()> {
    match command {
        EndpointCommand::List(arguments) => list(&arguments.server, output).await,
        EndpointCommand::Rollback(arguments) => rollback(&arguments, state, output).await,
    }
}

async fn list(server: &ServerUrl, output: &Output) -> anyhow::Result<()> {
    let document = server.ask().await?;
    if output.is_json() {
        return output.value(&document);
    }
    let listed: Listed = understood(document)?;
    let mut table = Table::new(&["ENDPOINT", "VERSION", ">WEIGHT", "FOLLOWS", "BUNDLE"]);
    for endpoint in listed.endpoints {
        for version in endpoint.versions {
            let (named, bundle) = cells(version.model, version.version, &version.bundle);
            let unnamed = if version.weight > 0 { "-" } else { "kept" };
            let follows = version.asked_for.unwrap_or_else(|| unnamed.to_owned());
            table.row(vec![endpoint.name.clone(), named, version.weight.to_string(), follows, bundle]);
        }
        for shadow in endpoint.shadows {
            let (named, bundle) = cells(shadow.model, shadow.version, &shadow.bundle);
            let counts = shadow.answers.iter().filter(|(_, count)| **count > 0);
            let counts: Vec<_> = counts.map(|(outcome, count)| format!("{count} {outcome}")).collect();
            let told = if counts.is_empty() {
                "shadow".to_owned()
            } else {
                format!("shadow: {}", counts.join(", "))
            };
            table.row(vec![endpoint.name.clone(), named, format!("{} %", shadow.percent), told, bundle]);
        }
    }
    Ok(output.table(&table)?)
}

fn cells(model: Option<String>, version: Option<i64>, bundle: &str) -> (String, String) {
    let named =
        model.zip(version).map_or_else(|| "-".to_owned(), |(model, version)| format!("{model}@{version}"));
    (named, bundle.chars().take("sha256:".len() + 12).collect())
}

async fn rollback(
    arguments: &RollbackArguments,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<()> {
    let RollbackArguments { endpoint, to, wait, server } = arguments;
    let (model, alias) = followed(&server.endpoint(endpoint).await?)?;
    let registry = state.open_registry().await?;
    let before = registry.version_before(model.as_str(), &alias).await?;
    let (target, current) = match (to, before) {
        (Some(to), _) => (*to, registry.version_by_alias(model.as_str(), &alias).await?.number),
        (None, Some((before, current))) => (before, current),
        (None, None) => bail!("`{model}@{alias}` has meant no other version: name one by `--to`"),
    };
    if target == current {
        bail!("`{model}@{alias}` is version {current} already");
    }
    if !registry.move_alias(model.to_string(), alias.clone(), Some(current), target).await? {
        bail!("`{model}@{alias}` was moved by somebody else meanwhile: look again with `host endpoint list`");
    }
    output.note(&format!("{model}@{alias}: version {target}, was {current}"));
    let until = Instant::now() + Duration::from_secs(u64::from(*wait));
    loop {
        let listed = server.endpoint(endpoint).await?;
        let answers =
            listed.versions.iter().any(|version| version.weight > 0 && version.version == Some(target));
        if answers {
            break;
        }
        if Instant::now() >= until {
            bail!(
                "the alias is moved, but the server does not answer with version {target} after {wait} s: does it follow \
                 the same registry, and was it started with `--refresh 0`?"
            );
        }
        tokio::time::sleep(LOOK).await;
    }
    if output.is_json() {
        return output.value(&json!({ "endpoint": endpoint, "model": model, "alias": alias, "version": target, "was": current }));
    }
    Ok(output.line(&format!("{endpoint}: {model}@{target} answers"))?)
}

/// The alias that an endpoint follows.
fn followed(endpoint: &ListedEndpoint) -> anyhow::Result<(Name, String)> {
    let name = &endpoint.name;
    let all: Vec<&str> =
        endpoint.versions.iter().filter_map(|version| version.asked_for.as_deref()).collect();
    let followed = match all.as_slice() {
        [] => bail!(
            "`{name}` follows no model: roll back the endpoints that it is made of, or change what `host serve` is asked to serve"
        ),
        [only] => *only,
        _ => bail!(
            "{} share the requests of `{name}`: change their weights in its file, or move the alias of one with \
             `host model alias`",
            all.iter().map(|one| format!("`{one}`")).collect::<Vec<_>>().join(" and ")
        ),
    };
    match followed.parse::<ModelReference>() {
        Ok(ModelReference::Name(model, VersionSelector::Alias(alias))) => Ok((model, alias)),
        Ok(ModelReference::Name(model, _)) => bail!(
            "`{name}` follows `{followed}`, which is no alias that could be moved back: serve the model by an alias, such as \
             `{model}@champion`, or name another version in what is served"
        ),
        _ => bail!(
            "`{name}` follows `{followed}`, which is no alias that could be moved back: change what `host serve` is asked \
             to serve"
        ),
    }
}

impl ServerUrl {
    async fn endpoint(&self, name: &Name) -> anyhow::Result<ListedEndpoint> {
        let listed: Listed = understood(self.ask().await?)?;
        let known: Vec<_> = listed.endpoints.iter().map(|endpoint| format!("`{}`", endpoint.name)).collect();
        let unknown =
            || anyhow!("there is no endpoint `{name}` at {}: there is {}", self.url, known.join(", "));
        listed.endpoints.into_iter().find(|endpoint| endpoint.name == name.as_str()).ok_or_else(unknown)
    }

    /// What the server tells of its endpoints.
    async fn ask(&self) -> anyhow::Result<Value> {
        // Which fails only where it has been done.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let failed = || format!("no answer of a `host serve` at {}: name it by `--url`", self.url);
        let client = reqwest::Client::builder().timeout(ANSWER_MAX).build().with_context(failed)?;
        let url = self.url.join("/serve").with_context(failed)?;
        let mut answer = client
            .get(url)
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .with_context(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.with_context(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_MAX_BYTES {
                bail!("the answer of {} is longer than {ANSWER_MAX_BYTES} bytes", self.url);
            }
        }
        serde_json::from_slice(&body).with_context(failed)
    }
}

fn understood(document: Value) -> anyhow::Result<Listed> {
    serde_json::from_value(document).context("the server is no `host serve` of this version")
}
