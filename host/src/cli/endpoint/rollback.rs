//! `host endpoint rollback`: the alias that an endpoint follows is moved back, or the newest version yanked.
//!
//! What is rolled back is the version that the server answers with, as whoever gives the command has seen it: of two who do
//! so within the second until the server follows, one has decided by what is so no more, and is told.

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use serde_json::json;

use super::{Listed, ListedEndpoint, ListedRoute, ServerUrl};
use crate::cli::output::Output;
use crate::cli::state::StateArguments;
use crate::domain::Name;
use crate::registry::{ModelReference, Registry, RegistryError, VersionSelector, YANKED_TAG};

/// Pause between two looks whether the server follows.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct RollbackArguments {
    /// The endpoint.
    endpoint: Name,
    /// Which of the models that share its requests, such as `fraud@challenger`.
    #[arg(long)]
    model: Option<String>,
    /// The version that should answer [default: the one before].
    #[arg(long, value_name = "VERSION", value_parser = version_number)]
    to: Option<i64>,
    /// Seconds to wait until the server answers so.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u32,
    #[command(flatten)]
    server: ServerUrl,
}

fn version_number(text: &str) -> Result<i64, &'static str> {
    text.parse().ok().filter(|number| *number > 0).ok_or("expected a version's number, such as `3`")
}

/// What an endpoint follows: an alias of a model, or its newest version.
struct Followed {
    /// As the server was asked for it.
    asked_for: String,
    model: Name,
    /// None where it is the newest version.
    alias: Option<String>,
    /// The version that the server answers with.
    answering: i64,
}

pub(super) async fn run(
    arguments: &RollbackArguments,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<()> {
    let RollbackArguments { endpoint, to, server, .. } = arguments;
    let followed = chosen(&server.listed().await?, arguments)?;
    let registry = state.open_registry().await?;
    let current = followed.current(&registry).await?;
    let target = match to {
        Some(to) => followed.named(&registry, current, *to).await?,
        None if current != followed.answering => return Err(followed.ahead(current)),
        None => followed.before(&registry).await?,
    };
    let Followed { asked_for, model, alias, .. } = &followed;
    if !followed.go_to(&registry, current, target, endpoint).await? {
        bail!("`{asked_for}` was changed by somebody else meanwhile: look again with `host endpoint list`");
    }
    output.note(&format!("{asked_for}: version {target}, was {current}"));
    if alias.is_none() {
        output.note(&format!(
            "versions above {target} are yanked: `host model tag {model}@{current} {YANKED_TAG} --delete` takes the mark from \
             one"
        ));
    }
    wait(arguments, &followed, &registry, target).await?;
    if output.is_json() {
        return output.value(&json!({
            "endpoint": endpoint,
            "model": model,
            "alias": alias,
            "version": target,
            "was": current,
        }));
    }
    Ok(output.line(&format!("{endpoint}: {model}@{target} answers"))?)
}

/// Waits until the server answers with a version where it was asked for what means that now.
async fn wait(
    arguments: &RollbackArguments,
    followed: &Followed,
    registry: &Registry,
    version: i64,
) -> anyhow::Result<()> {
    let RollbackArguments { endpoint, wait, server, .. } = arguments;
    let asked_for = &followed.asked_for;
    let until = Instant::now() + Duration::from_secs(u64::from(*wait));
    let is_so = |route: &ListedRoute| route.asked_for == *asked_for && route.version == Some(version);
    let unseen = || {
        format!(
            "the registry is changed, `{asked_for}` is version {version} there, but whether the server follows is not known"
        )
    };
    loop {
        let listed = server.listed().await.with_context(unseen)?;
        if listed.endpoint(endpoint, server).with_context(unseen)?.routes.iter().any(is_so) {
            return Ok(());
        }
        let meant = followed.current(registry).await.with_context(unseen)?;
        if meant != version {
            bail!(
                "`{asked_for}` was made version {version}, and was changed by somebody else before the server answered with it: \
                 it is version {meant} now"
            );
        }
        if Instant::now() >= until {
            bail!(
                "the registry is changed, `{asked_for}` is version {version} there, but the server does not answer with it after \
                 {wait} s: it could not load that version (see the server's standard error), follows another registry, or was \
                 started with `--refresh 0`"
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What is rolled back of an endpoint: what `--model` names, or the only thing that can be.
fn chosen(listed: &Listed, arguments: &RollbackArguments) -> anyhow::Result<Followed> {
    let ListedEndpoint { name, routes, .. } = listed.endpoint(&arguments.endpoint, &arguments.server)?;
    if let Some(model) = &arguments.model
        && !routes.is_empty()
    {
        // The server tells what it is asked for as `name@alias`, however the file says it.
        let told = model.parse().map_or_else(|_| model.clone(), |read: ModelReference| read.to_string());
        let named = routes.iter().find(|route| route.asked_for == *model || route.asked_for == told);
        let asked_for = || quoted(routes.iter().map(|route| &route.asked_for));
        let named =
            named.ok_or_else(|| anyhow!("`{name}` is not asked to serve `{model}`, but {}", asked_for()))?;
        return Followed::of(named)?.ok_or_else(|| is_exact(name, named));
    }
    let movable: Vec<_> = routes.iter().map(Followed::of).collect::<Result<_, _>>()?;
    let mut movable: Vec<_> = movable.into_iter().flatten().collect();
    if movable.len() > 1 {
        let movable = quoted(movable.iter().map(|followed| &followed.asked_for));
        bail!("{movable} share the requests of `{name}`: name by `--model` which is rolled back");
    }
    movable.pop().ok_or_else(|| match routes.as_slice() {
        [] => follows_nothing(name, listed),
        [only] => is_exact(name, only),
        routes => anyhow!(
            "`{name}` is asked to serve exactly {}: change what `host serve` is asked to serve",
            quoted(routes.iter().map(|route| &route.asked_for))
        ),
    })
}

fn quoted<'a>(texts: impl Iterator<Item = &'a String>) -> String {
    let quoted: Vec<_> = texts.map(|text| format!("`{text}`")).collect();
    quoted.join(" and ")
}

/// Why an endpoint cannot be rolled back that has no route.
fn follows_nothing(endpoint: &str, listed: &Listed) -> anyhow::Error {
    // Beside one that is made of others there are those, which are asked to serve something.
    if listed.endpoints.iter().all(|endpoint| endpoint.routes.is_empty()) {
        return anyhow!(
            "`{endpoint}` is served with other transformers than its bundle's, and follows no model: change what `host serve` \
             is asked to serve"
        );
    }
    anyhow!(
        "`{endpoint}` follows no model: roll back the endpoints that it is made of, or change what `host serve` is asked to \
         serve"
    )
}

/// Why a route cannot be rolled back that follows nothing.
fn is_exact(endpoint: &str, route: &ListedRoute) -> anyhow::Error {
    let ListedRoute { asked_for, model, .. } = route;
    match model {
        // A bundle by its digest, and a folder, are of no model.
        None => anyhow!(
            "`{endpoint}` is asked to serve exactly `{asked_for}`: change what `host serve` is asked to serve"
        ),
        Some(model) => anyhow!(
            "`{endpoint}` is asked to serve exactly `{asked_for}`: name another version in what `host serve` is asked to serve, \
             or an alias that can be moved, such as `{model}@champion`"
        ),
    }
}

impl Followed {
    /// What a route of an endpoint follows; none where it is asked for exactly one version or bundle.
    fn of(route: &ListedRoute) -> anyhow::Result<Option<Self>> {
        let ListedRoute { asked_for, model, version, .. } = route;
        let (Some(model), Some(answering)) = (model, version) else { return Ok(None) };
        let selector = match asked_for.split_once('@') {
            Some((_, selector)) => selector.parse()?,
            None => VersionSelector::Newest,
        };
        let alias = match selector {
            VersionSelector::Newest => None,
            VersionSelector::Alias(alias) => Some(alias),
            VersionSelector::Number(_) => return Ok(None),
        };
        let (asked_for, answering) = (asked_for.clone(), *answering);
        Ok(Some(Self { asked_for, model: model.parse()?, alias, answering }))
    }

    /// The version that it means.
    async fn current(&self, registry: &Registry) -> anyhow::Result<i64> {
        let selector = self.alias.clone().map_or(VersionSelector::Newest, VersionSelector::Alias);
        Ok(registry.find_version(&self.model, &selector).await?.number)
    }

    /// Why nothing is rolled back where the registry means another version than the server answers with: the version before
    /// that one may be the one that should be left.
    fn ahead(&self, current: i64) -> anyhow::Error {
        let Self { asked_for, answering, .. } = self;
        // A lower one is what somebody went back to: to name the one that answers would undo it.
        let such_as =
            if current > *answering { format!(", such as `--to {answering}`") } else { String::new() };
        anyhow!(
            "`{asked_for}` means version {current} already, and the server still answers with {answering}: it was rolled back, \
             or moved, a moment ago. Wait, or look with `host endpoint list`; if it stays so, the server could not load version \
             {current} (see its standard error) or follows another registry: name by `--to` what should answer{such_as}"
        )
    }

    /// The version that somebody named to go to.
    async fn named(&self, registry: &Registry, current: i64, to: i64) -> anyhow::Result<i64> {
        let name = self.model.clone();
        if to == current {
            bail!("`{}` is version {to} already", self.asked_for);
        }
        let version = registry.find_version(&name, &VersionSelector::Number(to)).await?;
        if let Some(why) = version.yanked_because() {
            return Err(RegistryError::Yanked { name, version: to, why: why.to_owned() }.into());
        }
        if version.bundle.is_none() {
            return Err(RegistryError::NoBundle { name, version: to }.into());
        }
        Ok(to)
    }

    /// The version to go back to.
    async fn before(&self, registry: &Registry) -> anyhow::Result<i64> {
        let (model, answering) = (self.model.as_str(), self.answering);
        match &self.alias {
            Some(alias) => {
                let before = registry.version_before(model, alias, answering).await?;
                before.ok_or_else(|| {
                    anyhow!(
                        "`{}` has meant no other version that is still there, has a bundle and is not yanked: name one by \
                         `--to`",
                        self.asked_for
                    )
                })
            }
            None => {
                let before = registry.newest_below(model, answering).await?;
                before.ok_or_else(|| {
                    anyhow!(
                        "model `{model}` has no version before {answering} that has a bundle and is not yanked: name one by \
                         `--to`"
                    )
                })
            }
        }
    }

    /// Lets it mean another version, if it still means `current`; gives whether it did.
    async fn go_to(
        &self,
        registry: &Registry,
        current: i64,
        target: i64,
        endpoint: &Name,
    ) -> anyhow::Result<bool> {
        let model = self.model.to_string();
        Ok(match &self.alias {
            Some(alias) => registry.move_alias(model, alias.clone(), Some(current), target).await?,
            None => {
                let why = format!("rolled back at endpoint {endpoint}");
                registry.make_newest(model, current, target, why).await?
            }
        })
    }
}
