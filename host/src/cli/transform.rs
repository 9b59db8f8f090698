use std::path::PathBuf;
use std::sync::Mutex;

use indicatif::ProgressBar;

use super::data::tell_added;
use super::output::Output;
use super::plugin::{PluginOptions, parse_pair};
use super::state::{StateArguments, wait};
use super::train::transformers;
use crate::data::SplitRule;
use crate::domain::Name;
use crate::track::now_ms;
use crate::train::{TransformEvent, TransformSpec, transform};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Rows are filtered first, the first of them kept, then split; then columns are selected and transformers applied, which
are fitted on the split `train`. The label passes by the transformers. A missing value fulfils no filter but `is missing`.

Examples:
  host transform mnist --name mnist-scaled --preprocess mnist-pixels.wasm
  host transform mnist --name zeros-and-ones --filter 'label in [0, 1]' --rows 1000
  host transform sales --name big-sales --filter 'amount >= 1000' --filter 'city is present' \\
    --select amount --select age --split test=0.2 --split seed=7")]
pub(super) struct TransformArguments {
    /// The version whose rows are taken: a name, `name@version`, `name@tag` or `name@sha256:…`.
    dataset: String,
    /// The dataset that gets the new version.
    #[arg(long)]
    name: Name,
    /// Transformers: components, in this order.
    #[arg(long, value_name = "FILE")]
    preprocess: Vec<PathBuf>,
    /// Config of a transformer by its plugin's name, as `NAME={…}`.
    #[arg(long, value_name = "NAME=JSON", value_parser = parse_pair)]
    config: Vec<(String, String)>,
    /// Keep only rows for which this holds: `COLUMN OP VALUE` with ==, !=, <, <=, >, >= or `in [A, B]`, `COLUMN is
    /// present` or `COLUMN is missing`; may be given more than once.
    #[arg(long, value_name = "CONDITION")]
    filter: Vec<String>,
    /// Keep this column, and of the others only the label; may be given more than once.
    #[arg(long, value_name = "COLUMN")]
    select: Vec<String>,
    /// Split all rows anew: `test=0.2` puts a fifth of them into the split `test`, by a hash; `seed=N` chooses which.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    split: Vec<(String, String)>,
    /// Keep only the first rows: of each split, or of all where they are split anew.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rows: Option<u64>,
    /// The column that transformers do not see [default: `label`, if there is one].
    #[arg(long, value_name = "COLUMN")]
    label: Option<String>,
    #[command(flatten)]
    options: PluginOptions,
}

pub(super) fn run(
    arguments: TransformArguments,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<()> {
    let split = split_rule(&arguments.split)?;
    let runtime = arguments.options.start()?;
    let preprocess = transformers(&arguments.preprocess, &arguments.config, &runtime)?;
    let used = |name: &str| preprocess.iter().any(|spec| spec.plugin.manifest().name == name);
    if let Some((name, _)) = arguments.config.iter().find(|(name, _)| !used(name)) {
        anyhow::bail!("`--config {name}=…` names no plugin of this command");
    }
    wait(async {
        let catalog = state.open_catalog().await?;
        let spec = TransformSpec {
            dataset: catalog.resolve(&arguments.dataset).await?,
            name: arguments.name,
            filters: arguments.filter,
            rows: arguments.rows,
            split,
            select: arguments.select,
            label: arguments.label,
            preprocess,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            now_ms: now_ms(),
        };
        let progress = Progress { output, bar: Mutex::default() };
        let made = transform(catalog.store(), &spec, &|event| progress.on(event));
        progress.finish();
        let (writer, version) = made?;
        tell_added(&catalog.add_shards(writer, version).await?, output)
    })
}

/// What `--split` says.
fn split_rule(given: &[(String, String)]) -> anyhow::Result<Option<SplitRule>> {
    let (mut test, mut seed) = (None, 0);
    for (name, value) in given {
        match name.as_str() {
            "test" => {
                let share = value.parse().ok().filter(|share| *share > 0.0 && *share < 1.0);
                let wrong = || anyhow::anyhow!("`--split test={value}`: expected a number between 0 and 1");
                test = Some(share.ok_or_else(wrong)?);
            }
            "seed" => {
                let wrong = |_| anyhow::anyhow!("`--split seed={value}`: expected a whole number from 0 on");
                seed = value.parse().map_err(wrong)?;
            }
            other => anyhow::bail!("`--split {other}=…`: expected `test` or `seed`"),
        }
    }
    match test {
        None if !given.is_empty() => anyhow::bail!("`--split seed={seed}` needs `--split test=…` too"),
        test => Ok(test.map(|test| SplitRule { test, seed })),
    }
}

/// Shows how far it is.
struct Progress<'a> {
    output: &'a Output,
    bar: Mutex<Option<ProgressBar>>,
}

impl Progress<'_> {
    fn on(&self, event: TransformEvent) {
        let mut bar = self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            TransformEvent::Phase { name, rows } => {
                if let Some(before) = bar.replace(self.output.progress(rows, name)) {
                    before.finish();
                }
            }
            TransformEvent::Rows(rows) => bar.iter().for_each(|bar| bar.inc(rows)),
        }
    }

    fn finish(&self) {
        let mut bar = self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(bar) = bar.take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_is_a_share_and_a_seed() {
        let rule = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            split_rule(&pairs).map_err(|error| error.to_string())
        };
        assert_eq!(rule(&[]), Ok(None));
        assert_eq!(rule(&[("test", "0.2")]), Ok(Some(SplitRule { test: 0.2, seed: 0 })));
        assert_eq!(rule(&[("seed", "7"), ("test", ".5")]), Ok(Some(SplitRule { test: 0.5, seed: 7 })));
        for pairs in [
            &[("test", "0")][..],
            &[("test", "1")],
            &[("test", "nan")],
            &[("test", "a")],
            &[("seed", "1")],
            &[("test", "0.2"), ("seed", "-1")],
            &[("train", "0.8")],
        ] {
            assert!(rule(pairs).unwrap_err().contains("--split"), "{pairs:?}");
        }
    }
}
