//! `host serve --plugin`: the user's components in place of a bundle's.

use std::path::PathBuf;

use super::ServeArguments;
use crate::cli::output::Output;
use crate::cli::plugin::load;
use crate::plugin::{PluginRuntime, Transformer, block_on};
use crate::registry::Predictor;

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
        let before = std::mem::replace(bundled, replacements);
        Ok(before.len() == bundled.len()
            && before.iter().zip(bundled.iter()).all(|(old, new)| is_same(old, new)))
    };
    let is_same_before = replace(&arguments.plugins, &mut parts.preprocess)?;
    let is_same_after = replace(&arguments.postprocess, &mut parts.postprocess)?;
    let mut replaced = Predictor::new(parts, signature);
    if !is_same_after {
        block_on(replaced.learn_outputs());
    }
    Ok((replaced, is_same_before && is_same_after))
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
