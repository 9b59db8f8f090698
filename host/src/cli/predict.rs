use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::device::DeviceArguments;
use super::output::Output;
use super::plugin::PluginOptions;
use super::state::StateArguments;
use crate::data::{self, DatasetManifest, RowForm};
use crate::plugin::block_on;
use crate::registry::{ModelLoader, ModelReference, Predictor};
use crate::store::Store;

#[derive(Debug, clap::Args)]
#[command(after_help = "Prints one JSON object a row, in the order of the data.")]
pub(super) struct PredictArguments {
    /// What to predict with: a name, `name@version`, `name@alias`, a `sha256:` digest or a bundle folder such as `./mnist`.
    #[arg(long)]
    model: ModelReference,
    /// What to predict: a dataset's name, or `name@version`.
    #[arg(long, value_name = "DATASET")]
    data: String,
    /// Which rows of it.
    #[arg(long, default_value = "test")]
    split: String,
    /// Write to this file instead of standard output; it appears whole or not at all.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArguments,
    #[command(flatten)]
    options: PluginOptions,
}

pub(super) fn run(
    arguments: PredictArguments,
    state: &StateArguments,
    output: &Output,
) -> anyhow::Result<()> {
    let store = state.open_store()?;
    let dataset = state.resolve_dataset(&arguments.data)?;
    let resolved = state.resolve_model(&store, &arguments.model)?;
    let runtime = arguments.options.start()?;
    let models = ModelLoader::new(arguments.device.device(output));
    let predictor = Predictor::load_by(&models, &store, &runtime, &resolved.manifest)?;
    match &arguments.out {
        Some(path) => {
            let folder =
                path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let write = || format!("failed to write `{}`", path.display());
            // With the rights that any new file has.
            let rights = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            let mut file =
                tempfile::Builder::new().permissions(rights).tempfile_in(folder).with_context(write)?;
            let mut buffered = std::io::BufWriter::new(&mut file);
            predict(&store, &dataset.manifest, &arguments.split, &predictor, &mut |line| {
                Ok(buffered.write_all(line)?)
            })?;
            buffered.flush().with_context(write)?;
            drop(buffered);
            file.as_file().sync_all().with_context(write)?;
            file.persist(path).with_context(write)?;
            Ok(())
        }
        None => predict(&store, &dataset.manifest, &arguments.split, &predictor, &mut |line| {
            Ok(output.bytes(line)?)
        }),
    }
}

fn predict(
    store: &Store,
    dataset: &DatasetManifest,
    split: &str,
    predictor: &Predictor,
    write: &mut dyn FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for batch in data::open_split(store, dataset, split, data::BATCH_ROWS)? {
        let inputs = predictor.select_inputs(batch?)?;
        let prediction = block_on(predictor.predict(&inputs))?;
        let mut lines = Vec::new();
        for row in 0..prediction.outputs.rows() {
            let row = prediction.outputs.slice_rows(row..row + 1).unwrap_or_default();
            lines.extend(data::encode_rows(&row, RowForm::Object)?);
            lines.push(b'\n');
        }
        write(&lines)?;
    }
    Ok(())
}
