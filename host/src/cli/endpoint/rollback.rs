//! `host endpoint rollback`: the alias that an endpoint follows is moved back, or the newest version yanked.

use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use serde_json::json;

use super::{ListedEndpoint, ListedRoute, ServerUrl};
use crate::cli::output::Output;
use crate::cli::state::StateArguments;
use crate::domain::Name;
use crate::registry::{Registry, RegistryError, VersionSelector, YANKED_TAG};

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
    #[arg(long, value_name = "VERSION")]
    to: Option<i64>,
    /// Seconds to wait until the server answers so.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u32,
    #[command(flatten)]
    server: ServerUrl,
}

/// What an endpoint follows: an alias of a model, or its newest version.
struct Followed {
    /// As the server was asked for it.
    asked_for: String,
    model: Name,
    /// None where it is the newest version.
    alias: Option<String>,
}

pub(super) async fn run(
    arguments: &RollbackArguments,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<()> {
    let RollbackArguments { endpoint, model, to, server, .. } = arguments;
    let listed = server.endpoint(endpoint).await?;
    let followed = Followed::of(&listed.name, chosen(&listed, model.as_deref())?)?;
    let registry = state.open_registry().await?;
    let current = followed.current(&registry).await?;
    let target = match to {
        Some(to) => *to,
        None => followed.before(&registry, current).await?,
    };
    let Followed { asked_for, model, alias } = &followed;
    if target == current {
        bail!("`{asked_for}` is version {current} already");
    }
    let version = registry.find_version(model, &VersionSelector::Number(target)).await?;
    if version.bundle.is_none() {
        return Err(RegistryError::NoBundle { name: model.clone(), version: target }.into());
    }
    if !followed.go_to(&registry, current, target).await? {
        bail!("`{asked_for}` was changed by somebody else meanwhile: look again with `host endpoint list`");
    }
    output.note(&format!("{asked_for}: version {target}, was {current}"));
    if alias.is_none() && target < current {
        output.note(&format!(
            "versions above {target} are yanked: `host model tag {model}@{current} {YANKED_TAG} --delete` takes the mark from \
             one"
        ));
    }
    wait(arguments, asked_for, target).await?;
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
async fn wait(arguments: &RollbackArguments, asked_for: &str, version: i64) -> anyhow::Result<()> {
    let RollbackArguments { endpoint, wait, server, .. } = arguments;
    let until = Instant::now() + Duration::from_secs(u64::from(*wait));
    let is_so = |route: &ListedRoute| route.asked_for == asked_for && route.version == Some(version);
    while !server.endpoint(endpoint).await?.routes.iter().any(is_so) {
        if Instant::now() >= until {
            bail!(
                "`{asked_for}` is version {version} now, but the server does not answer with it after {wait} s: does it \
                 follow the same registry, and was it started with `--refresh 0`?"
            );
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// The route of an endpoint that is rolled back: the one that `model` names, or the only one.
fn chosen<'a>(endpoint: &'a ListedEndpoint, model: Option<&str>) -> anyhow::Result<&'a ListedRoute> {
    let ListedEndpoint { name, routes, .. } = endpoint;
    let all = || {
        let quoted: Vec<_> = routes.iter().map(|route| format!("`{}`", route.asked_for)).collect();
        quoted.join(" and ")
    };
    match (routes.as_slice(), model) {
        ([], _) => bail!(
            "`{name}` follows no model: roll back the endpoints that it is made of, or change what `host serve` is asked to serve"
        ),
        (routes, Some(model)) => {
            let named = routes.iter().find(|route| route.asked_for == model);
            named.ok_or_else(|| anyhow!("`{name}` is not asked to serve `{model}`, but {}", all()))
        }
        ([only], None) => Ok(only),
        (_, None) => {
            bail!("{} share the requests of `{name}`: name by `--model` which is rolled back", all())
        }
    }
}

impl Followed {
    /// What a route of an endpoint follows.
    fn of(endpoint: &str, route: &ListedRoute) -> anyhow::Result<Self> {
        let ListedRoute { asked_for, model, .. } = route;
        // A bundle by its digest, and a folder, are of no model.
        let Some(model) = model else {
            bail!(
                "`{endpoint}` is asked to serve exactly `{asked_for}`: change what `host serve` is asked to serve"
            );
        };
        let selector = match asked_for.split_once('@') {
            Some((_, selector)) => selector.parse()?,
            None => VersionSelector::Newest,
        };
        let alias = match selector {
            VersionSelector::Newest => None,
            VersionSelector::Alias(alias) => Some(alias),
            VersionSelector::Number(_) => bail!(
                "`{endpoint}` is asked to serve exactly `{asked_for}`: name another version in what `host serve` is asked to \
                 serve, or an alias that can be moved, such as `{model}@champion`"
            ),
        };
        Ok(Self { asked_for: asked_for.clone(), model: model.parse()?, alias })
    }

    /// The version that it means.
    async fn current(&self, registry: &Registry) -> anyhow::Result<i64> {
        let selector = self.alias.clone().map_or(VersionSelector::Newest, VersionSelector::Alias);
        Ok(registry.find_version(&self.model, &selector).await?.number)
    }

    /// The version to go back to.
    async fn before(&self, registry: &Registry, current: i64) -> anyhow::Result<i64> {
        let (model, asked_for) = (self.model.as_str(), &self.asked_for);
        match &self.alias {
            Some(alias) => {
                let before = registry.version_before(model, alias, current).await?;
                before.ok_or_else(|| anyhow!("`{asked_for}` has meant no other version: name one by `--to`"))
            }
            None => {
                let before = registry.newest_below(model, current).await?;
                before.ok_or_else(|| {
                    anyhow!(
                        "model `{model}` has no version before {current} that has a bundle and is not yanked: name one by \
                         `--to`"
                    )
                })
            }
        }
    }

    /// Lets it mean another version, if it still means `current`; gives whether it did.
    async fn go_to(&self, registry: &Registry, current: i64, target: i64) -> anyhow::Result<bool> {
        let model = self.model.to_string();
        Ok(match &self.alias {
            Some(alias) => registry.move_alias(model, alias.clone(), Some(current), target).await?,
            None => registry.make_newest(model, current, target).await?,
        })
    }
}
