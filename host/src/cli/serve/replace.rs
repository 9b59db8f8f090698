//! `host serve --plugin`: the user's components in place of a bundle's.

use std::path::PathBuf;

use super::ServeArguments;
use crate::cli::output::Output;
use crate::cli::plugin::load;
use crate::plugin::{PluginRuntime, Transformer, block_on};
use crate::registry::Predictor;

/// What a warning says of other transformers than those of training.
const MAY_DIFFER: &str = "answers may differ from what was measured in training";

/// Puts the user's components where the bundle's were, and tells whether they are the same. A component of the same plugin takes
/// over config and state.
pub(super) fn replace_transformers(
    predictor: Predictor,
    arguments: &ServeArguments,
    runtime: &PluginRuntime,
    output: &Output,
) -> anyhow::Result<(Predictor, bool)> {
    let (mut parts, signature) = predictor.into_parts();
    let replace = |files: &[PathBuf], bundled: &mut Vec<Transformer>| -> anyhow::Result<bool> {
        if files.is_empty() {
            return Ok(true);
        }
        let (mut replacements, mut are_told) = (Vec::new(), false);
        for file in files {
            let (plugin, _) = load(runtime, file)?;
            let same = bundled.iter().find(|old| old.plugin().manifest().name == plugin.manifest().name);
            let (config, state) =
                same.map_or(("{}", None), |old| (old.config(), old.state().map(<[u8]>::to_vec)));
            let given = arguments.config.iter().rev().find(|(name, _)| *name == plugin.manifest().name);
            let given = given.map_or(config, |(_, config)| config.as_str());
            let (file, is_own) =
                (file.display(), same.is_some_and(|old| old.plugin().digest() == plugin.digest()));
            let given = if is_own && is_same_json(given, config) { config } else { given };
            if is_own && given == config {
                output.note(&format!("`{file}` is the bundle's own component"));
            } else if is_own {
                output.warn(&format!(
                    "`{file}` is the bundle's own component with another config: {MAY_DIFFER}"
                ));
                are_told = true;
            } else {
                let (digest, before) = (plugin.digest(), describe(bundled));
                output.warn(&format!("`{file}` ({digest}) replaces the bundle's {before}: {MAY_DIFFER}"));
                are_told = true;
            }
            replacements.push(block_on(Transformer::open(&plugin, given, state))?);
        }
        let before = std::mem::replace(bundled, replacements);
        let are_same = before.len() == bundled.len()
            && before.iter().zip(bundled.iter()).all(|(old, new)| is_same(old, new));
        // Each may be the bundle's own, and not all of them be there, or not in their order.
        if !are_same && !are_told {
            let (now, before) = (describe(bundled), describe(&before));
            output.warn(&format!("{now} replaces the bundle's {before}: {MAY_DIFFER}"));
        }
        Ok(are_same)
    };
    let is_same_before = replace(&arguments.plugins, &mut parts.preprocess)?;
    let is_same_after = replace(&arguments.postprocess, &mut parts.postprocess)?;
    let mut replaced = Predictor::new(parts, signature);
    if !is_same_after {
        block_on(replaced.learn_outputs());
    }
    Ok((replaced, is_same_before && is_same_after))
}

/// Whether two configs say the same, however they are written.
fn is_same_json(one: &str, other: &str) -> bool {
    let value = |text| serde_json::from_str::<serde_json::Value>(text).ok();
    one == other || value(one).is_some_and(|one| value(other) == Some(one))
}

/// Whether two transformers answer the same.
fn is_same(one: &Transformer, other: &Transformer) -> bool {
    let of = |transformer: &Transformer| {
        (
            transformer.plugin().digest(),
            transformer.config().to_owned(),
            transformer.state().map(<[u8]>::to_vec),
        )
    };
    of(one) == of(other)
}

fn describe(transformers: &[Transformer]) -> String {
    match transformers {
        [] => "none".to_owned(),
        all => {
            all.iter().map(|old| format!("`{}`", old.plugin().manifest().name)).collect::<Vec<_>>().join(", ")
        }
    }
}
