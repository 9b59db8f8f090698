use std::collections::BTreeMap;

use anyhow::bail;

use crate::pipeline::RUN_ID;
use crate::track::{InputDataset, PLUGIN_TAG, Pair, Run, RunStatus};
use crate::train::{RunStart, TrainSpec, Trainer};

pub(in crate::cli) fn tag(key: &str, value: impl Into<String>) -> Pair {
    Pair { key: key.to_owned(), value: value.into() }
}

pub(in crate::cli) fn pairs(map: &BTreeMap<String, String>) -> Vec<Pair> {
    map.iter().map(|(key, value)| tag(key, value.clone())).collect()
}

/// What a run records before it starts: everything that its result depends on.
pub(in crate::cli) fn run_start(
    spec: &TrainSpec,
    trainer: &dyn Trainer,
    experiment: String,
    run_name: Option<String>,
) -> RunStart {
    let mut params = pairs(&trainer.parameters());
    params.push(tag("label", spec.label.clone()));
    if let Some(rows) = spec.train_rows {
        params.push(tag("train_rows", rows.to_string()));
    }
    let mut tags = pairs(&trainer.tags());
    for transformer in spec.preprocess.iter().chain(&spec.postprocess) {
        let name = &transformer.plugin.manifest().name;
        tags.push(tag(&format!("{PLUGIN_TAG}{name}"), transformer.plugin.digest().to_string()));
        let config = transformer.config.to_string();
        if config != "{}" {
            tags.push(tag(&format!("host.config.{name}"), config));
        }
    }
    let (dataset, version) = (&spec.dataset, &spec.dataset.version);
    tags.push(tag("host.dataset", format!("{}@{}", dataset.name, version.number)));
    let dataset = InputDataset {
        name: dataset.name.to_string(),
        // MLflow's limit is 36 characters.
        digest: version.digest.hex().chars().take(32).collect(),
        source_type: "host".to_owned(),
        source: format!("{}@{}", dataset.name, version.digest),
        schema: None,
        profile: None,
    };
    RunStart {
        source: "host train",
        run_id: std::env::var(RUN_ID).ok().filter(|run_id| !run_id.is_empty()),
        parent: None,
        experiment,
        run_name,
        params,
        tags,
        dataset: Some(dataset),
    }
}

/// Refuses to go on with a run that was started with something else than `start`.
pub(in crate::cli) fn check_resumed(run: &Run, start: &RunStart) -> anyhow::Result<()> {
    let id = &run.info.run_id;
    if run.info.status == RunStatus::Finished {
        bail!("run `{id}` has finished: there is nothing to resume");
    }
    let read = run.inputs.dataset_inputs.iter().map(|input| &input.dataset.source).next();
    let reads = start.dataset.as_ref().map(|dataset| &dataset.source);
    if read != reads {
        let text = |source: Option<&String>| source.cloned().unwrap_or_else(|| "nothing".to_owned());
        bail!(
            "run `{id}` cannot be resumed with other data: it read `{}`, found `{}`",
            text(read),
            text(reads)
        );
    }
    for (what, started, now) in
        [("parameter", &run.data.params, &start.params), ("tag", &run.data.tags, &start.tags)]
    {
        let value = |pairs: &[Pair], key: &str| {
            let pair = pairs.iter().find(|pair| pair.key == key);
            pair.map_or_else(|| "nothing".to_owned(), |pair| pair.value.clone())
        };
        // What a run notes while it goes on is not in its start; of its tags, only these say what it depends on.
        let is_input = |key: &str| {
            [PLUGIN_TAG, "host.config.", "host.command"].iter().any(|begin| key.starts_with(begin))
        };
        let keys = started.iter().chain(now.iter()).map(|pair| pair.key.as_str());
        for key in keys.filter(|key| what == "parameter" || is_input(key)) {
            let (then, found) = (value(started, key), value(now, key));
            if then != found {
                bail!("run `{id}` was started with the {what} `{key}` as `{then}`: found `{found}`");
            }
        }
    }
    Ok(())
}
