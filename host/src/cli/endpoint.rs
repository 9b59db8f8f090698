//! `host endpoint`: what a server of models answers, and back to the version before.

mod rollback;

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::output::{Output, Table, printable};
use super::state::StateArguments;
use crate::domain::Name;

/// The longest answer of a server that is read.
const ANSWER_MAX_BYTES: usize = 16 * 1024 * 1024;

/// What is told of an endpoint's graph in a table; `--json` has all of it.
const GRAPH_MAX_CHARS: usize = 100;

/// Time that a server has to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Subcommand)]
pub(super) enum EndpointCommand {
    /// List endpoints, the versions behind them and their parts of the requests.
    List(ListArguments),
    /// Let the version answer again that answered before.
    #[command(after_help = "\
An alias that the endpoint follows is moved back; rolled back twice, it is where it was. Where it
follows the newest version of a model, that one is yanked: the tag `host.yanked` says that it is
not the newest any more, whatever its number is, and it is still reached by number and alias.
Rolled back twice, it is one version further back; `host model tag mnist@3 host.yanked --delete`
takes the mark away. A version that is registered later is newer, and is served.

Both hold for every server that follows the same, within a second (`host serve --refresh`). One
that has answered with the version before still has it loaded, as long as `keep` covers it (1, if
nothing is said); what is further back is loaded first, and could fail to be.

What is rolled back is the version that the server answers with. Where the registry means another
one already, because somebody was faster or the server could not load it, it is told; `--to` says
what should answer then.

Examples:
  host endpoint rollback digits --url http://localhost:8080
  host endpoint rollback digits --to 3
  host endpoint rollback fraud --model fraud@challenger")]
    Rollback(rollback::RollbackArguments),
}

#[derive(Debug, clap::Args)]
pub(super) struct ServerUrl {
    /// The server, as `host serve` printed it.
    #[arg(long, env = "HOST_SERVE_URL", default_value = "http://127.0.0.1:8080", value_parser = parse_url)]
    url: Url,
}

/// A server's URL, of which the scheme may be left out.
fn parse_url(text: &str) -> Result<Url, String> {
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url: Url =
        with_scheme.parse().map_err(|error| format!("{error}: expected one as `http://localhost:8080`"))?;
    match matches!(url.scheme(), "http" | "https") && url.has_host() {
        true => Ok(url),
        false => Err("expected one as `http://localhost:8080`".to_owned()),
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArguments {
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
    routes: Vec<ListedRoute>,
    versions: Vec<ListedVersion>,
    shadows: Vec<ListedShadow>,
    /// What it is made of, where it is made of others.
    graph: Option<Value>,
}

/// What an endpoint is asked to serve, and what that means now.
#[derive(Debug, Deserialize)]
struct ListedRoute {
    asked_for: String,
    model: Option<String>,
    version: Option<i64>,
    bundle: String,
}

#[derive(Debug, Deserialize)]
struct ListedVersion {
    model: Option<String>,
    version: Option<i64>,
    bundle: String,
    weight: u32,
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
        EndpointCommand::Rollback(arguments) => rollback::run(&arguments, state, output).await,
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
        let graph = endpoint.graph.as_ref().and_then(graph_text).map(|text| short(&text));
        for version in endpoint.versions {
            let is_meant = |route: &&ListedRoute| {
                (&route.model, route.version, &route.bundle)
                    == (&version.model, version.version, &version.bundle)
            };
            let meant_by = endpoint.routes.iter().filter(is_meant).map(|route| route.asked_for.as_str());
            let follows = match meant_by.collect::<Vec<_>>().as_slice() {
                [] if version.weight > 0 => graph.clone().unwrap_or_else(|| "-".to_owned()),
                [] => "kept".to_owned(),
                meant_by => meant_by.join(", "),
            };
            let (named, bundle) = cells(version.model, version.version, &version.bundle);
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

/// What an endpoint is made of, as `ensemble one, two × 2`; none where it is written as no graph is.
fn graph_text(graph: &Value) -> Option<String> {
    let (kind, parts) = graph.as_object()?.iter().next()?;
    let parts: Vec<String> = match kind.as_str() {
        "sequence" => parts.as_array()?.iter().map(part_text).collect::<Option<_>>()?,
        "ensemble" => parts.as_array()?.iter().map(member_text).collect::<Option<_>>()?,
        "switch" => {
            let case = |(value, part): (&String, &Value)| Some(format!("{value}={}", part_text(part)?));
            let cases = parts.get("cases")?.as_object()?.iter().map(case);
            let otherwise = parts.get("default").filter(|part| !part.is_null());
            let otherwise = otherwise.map(|part| Some(format!("else {}", part_text(part)?)));
            let parts_text = cases.chain(otherwise).collect::<Option<Vec<_>>>()?.join(", ");
            return Some(format!("switch {}: {parts_text}", parts.get("column")?.as_str()?));
        }
        _ => return None,
    };
    Some(format!("{kind} {}", parts.join(", ")))
}

fn part_text(part: &Value) -> Option<String> {
    match part {
        Value::String(name) => Some(name.clone()),
        graph => Some(format!("({})", graph_text(graph)?)),
    }
}

/// A part of an ensemble, with its weight unless that is 1.
fn member_text(member: &Value) -> Option<String> {
    let part = part_text(member.get("endpoint")?)?;
    let weight = member.get("weight")?.as_f64()?;
    Some(if weight == 1.0 { part } else { format!("{part} × {weight}") })
}

/// As much of a text as a cell of a table has room for.
fn short(text: &str) -> String {
    let text = printable(text);
    match text.char_indices().nth(GRAPH_MAX_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

fn cells(model: Option<String>, version: Option<i64>, bundle: &str) -> (String, String) {
    let named =
        model.zip(version).map_or_else(|| "-".to_owned(), |(model, version)| format!("{model}@{version}"));
    (named, bundle.chars().take("sha256:".len() + 12).collect())
}

impl Listed {
    fn endpoint(&self, name: &Name, server: &ServerUrl) -> anyhow::Result<&ListedEndpoint> {
        let known: Vec<_> = self.endpoints.iter().map(|endpoint| format!("`{}`", endpoint.name)).collect();
        let unknown =
            || anyhow!("there is no endpoint `{name}` at {}: there is {}", server.url, known.join(", "));
        self.endpoints.iter().find(|endpoint| endpoint.name == name.as_str()).ok_or_else(unknown)
    }
}

impl ServerUrl {
    async fn listed(&self) -> anyhow::Result<Listed> {
        understood(self.ask().await?)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_endpoint_is_made_of_is_told_in_a_line() {
        let text = |graph: Value| graph_text(&graph);
        assert_eq!(text(json!({ "sequence": ["a", "b"] })).as_deref(), Some("sequence a, b"));
        let switch = json!({ "column": "route", "cases": { "a": "iris", "b": "two" }, "default": null });
        assert_eq!(text(json!({ "switch": switch })).as_deref(), Some("switch route: a=iris, b=two"));
        let nested = json!({ "ensemble": [
            { "endpoint": { "switch": { "column": "c", "cases": { "1": "one" }, "default": "two" } }, "weight": 1.0 },
            { "endpoint": "three", "weight": 2.5 },
        ] });
        assert_eq!(text(nested).as_deref(), Some("ensemble (switch c: 1=one, else two), three × 2.5"));
        // Of a server that is newer.
        for strange in [json!(null), json!({}), json!({ "vote": ["a"] }), json!({ "sequence": [1] })] {
            assert_eq!(text(strange), None);
        }
        assert_eq!(short("a\u{1b}b"), "a\\u{1b}b");
        assert_eq!(short(&"é".repeat(101)), format!("{}…", "é".repeat(100)));
    }
}
