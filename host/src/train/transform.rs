//! A version of a dataset made from another: rows filtered, split and sent through transformers, in constant memory.
//!
//! The order of steps: rows that fulfil all filters are kept, the first of them if only so many are wanted; they stay in
//! their splits, or are split by a hash of their places; columns are selected; transformers that learn are fitted on the
//! split `train`, one after another, as in training; and then one thread reads while others transform shards and write
//! them. What is written has no name until all of it is there.

mod rows;
mod shards;

use self::rows::Rows;
use self::shards::Made;
use super::TransformerSpec;
use super::matrix::Split;
use crate::data::{
    AppliedTransformer, BATCH_ROWS, DataError, Filter, FilterError, Recipe, ResolvedDataset, ShardWriter,
    ShardedVersion, SplitRule,
};
use crate::domain::{Batch, BatchError, Digest, Name};
use crate::plugin::{PluginError, Transformer, TransformerFit, block_on};
use crate::store::Store;

/// Label where nobody names another.
const LABEL: &str = "label";

/// What to make, from what.
pub struct TransformSpec {
    /// The version whose rows are taken.
    pub dataset: ResolvedDataset,
    /// The dataset that gets a version.
    pub name: Name,
    /// Conditions, which all hold for the rows that are kept.
    pub filters: Vec<String>,
    /// Rows to keep at most: of each split, or of all where they are split anew.
    pub rows: Option<u64>,
    /// How to split rows; they stay in their splits by default.
    pub split: Option<SplitRule>,
    /// Columns to keep beside the label; all by default.
    pub select: Vec<String>,
    /// The column that transformers do not see; by default `label`, if there is one.
    pub label: Option<String>,
    /// Transformers, in this order.
    pub preprocess: Vec<TransformerSpec>,
    /// Threads that transform, at most.
    pub threads: usize,
    /// When this is, in milliseconds since 1970.
    pub now_ms: i64,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransformEvent {
    /// All rows are read for this purpose.
    Phase {
        /// What is being done.
        name: &'static str,
        /// Rows that are read at most.
        rows: u64,
    },
    /// So many rows more were read.
    Rows(u64),
}

/// A version that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TransformError {
    /// A column that should be kept, or be the label, is not there.
    #[error("dataset `{dataset}` has no column `{column}`: it has {columns}")]
    UnknownColumn {
        /// The dataset.
        dataset: Name,
        /// The column.
        column: String,
        /// The columns there are.
        columns: String,
    },
    /// A column that safetensors cannot hold.
    #[error(
        "column `{column}` is text, which the files of the new version cannot hold: select other columns with \
         `--select`, or encode it with a transformer, such as `one-hot`"
    )]
    Text {
        /// The column.
        column: String,
    },
    /// Nothing is left.
    #[error("no row of `{dataset}` is left to keep: expected at least one that all filters hold for")]
    NoRows {
        /// The dataset.
        dataset: Name,
    },
    /// A transformer has nothing to learn from.
    #[error("transformer `{transformer}` learns from the split `train`, of which no row is kept")]
    NothingToFit {
        /// The plugin's name.
        transformer: String,
    },
    /// A condition cannot be read.
    #[error("{0}")]
    Filter(#[from] FilterError),
    /// The dataset cannot be read or written.
    #[error("{0}")]
    Data(#[from] DataError),
    /// A transformer failed.
    #[error("{0}")]
    Plugin(#[from] PluginError),
    /// Columns do not fit together.
    #[error("{0}")]
    Batch(#[from] BatchError),
    /// A thread has ended.
    #[error("the work was stopped")]
    Stopped,
}

/// Writes the rows of a new version, which `Catalog::add_shards` then adds.
pub fn transform(
    store: &Store,
    spec: &TransformSpec,
    progress: &(dyn Fn(TransformEvent) + Sync),
) -> Result<(ShardWriter, ShardedVersion), TransformError> {
    let label = label(spec)?;
    let rows = Rows::open(store, spec, label.as_deref())?;
    let fitted = fit(spec, &rows, label.as_deref(), progress)?;
    let state = |fitted: &Transformer| fitted.state().map(Digest::of);
    let applied = spec.preprocess.iter().zip(&fitted).map(|(spec, fitted)| AppliedTransformer {
        name: spec.plugin.manifest().name.clone(),
        version: spec.plugin.manifest().version.clone(),
        component: spec.plugin.digest(),
        config: spec.config.clone(),
        state: state(fitted),
    });
    let recipe = Recipe {
        filters: spec.filters.clone(),
        rows: spec.rows,
        split: spec.split,
        select: spec.select.clone(),
        // Where no transformer is, nothing passes by one.
        label: label.clone().filter(|_| !fitted.is_empty()),
        transformers: applied.collect(),
    };
    let independent = spec.preprocess.iter().all(|spec| spec.plugin.manifest().rows_independent);
    let threads = if independent { spec.threads } else { 1 };
    progress(TransformEvent::Phase { name: "transforming", rows: rows.available(None) });
    let writer = ShardWriter::begin(store)?;
    let columns = Columns { label: label.as_deref(), transformers: &fitted };
    let Made { splits } = shards::write(&rows, &columns, &writer, threads, progress)?;
    if splits.iter().all(|split| split.rows() == 0) {
        return Err(TransformError::NoRows { dataset: spec.dataset.name.clone() });
    }
    let (name, parent, now_ms) = (spec.name.clone(), spec.dataset.version.digest, spec.now_ms);
    Ok((writer, ShardedVersion { name, parent, recipe, splits, now_ms }))
}

/// The label that the dataset has.
fn label(spec: &TransformSpec) -> Result<Option<String>, TransformError> {
    let schema = &spec.dataset.manifest.schema;
    let has = |name: &str| schema.iter().any(|column| column.name == name);
    match &spec.label {
        Some(label) if !has(label) => Err(unknown_column(spec, label)),
        Some(label) => Ok(Some(label.clone())),
        None => Ok(has(LABEL).then(|| LABEL.to_owned())),
    }
}

fn unknown_column(spec: &TransformSpec, column: &str) -> TransformError {
    let columns = spec.dataset.manifest.schema.iter().map(|column| format!("`{}`", column.name));
    TransformError::UnknownColumn {
        dataset: spec.dataset.name.clone(),
        column: column.to_owned(),
        columns: columns.collect::<Vec<_>>().join(", "),
    }
}

/// Which columns go through which transformers.
struct Columns<'a> {
    label: Option<&'a str>,
    transformers: &'a [Transformer],
}

impl Columns<'_> {
    /// What becomes of rows: what the transformers make of them, and the label as it was.
    fn make(&self, mut rows: Batch) -> Result<Batch, TransformError> {
        if self.transformers.is_empty() {
            return Ok(rows);
        }
        let label = self.label.and_then(|label| rows.take_column(label));
        let mut made = rows;
        for transformer in self.transformers {
            made = block_on(transformer.transform(&made))?.batch;
        }
        match label {
            None => Ok(made),
            Some(label) => Ok(Batch::new(made.into_tensors().into_iter().chain([label]).collect())?),
        }
    }

    /// Like [`Self::make`], of any number of rows: in such batches as training gives to transformers.
    fn make_all(&self, rows: Batch) -> Result<Batch, TransformError> {
        if self.transformers.is_empty() || rows.rows() <= BATCH_ROWS {
            return self.make(rows);
        }
        let mut all = Batch::default();
        for start in (0..rows.rows()).step_by(BATCH_ROWS) {
            let end = (start + BATCH_ROWS).min(rows.rows());
            let made = self.make(rows.slice_rows(start..end).unwrap_or_default())?;
            if start == 0 {
                all = made;
                all.reserve_rows(rows.rows());
            } else {
                all.append(&made)?;
            }
        }
        Ok(all)
    }
}

/// Opens the transformers; those that learn are fitted on what those before them make of the split `train`.
fn fit(
    spec: &TransformSpec,
    rows: &Rows<'_>,
    label: Option<&str>,
    progress: &(dyn Fn(TransformEvent) + Sync),
) -> Result<Vec<Transformer>, TransformError> {
    let mut fitted: Vec<Transformer> = Vec::new();
    for transformer in &spec.preprocess {
        let config = transformer.config.to_string();
        let mut state = None;
        if transformer.plugin.manifest().needs_fit {
            progress(TransformEvent::Phase { name: "fitting", rows: rows.available(Some(Split::Train)) });
            let mut fit = block_on(TransformerFit::open(&transformer.plugin, &config))?;
            let before = Columns { label, transformers: &fitted };
            let mut seen = 0;
            rows.read(Some(Split::Train), progress, &mut |_, batch| {
                seen += batch.rows();
                let mut made = before.make(batch)?;
                label.and_then(|label| made.take_column(label));
                Ok(block_on(fit.fit(&made))?)
            })?;
            if seen == 0 {
                let transformer = transformer.plugin.manifest().name.clone();
                return Err(TransformError::NothingToFit { transformer });
            }
            state = Some(block_on(fit.finish())?);
        }
        fitted.push(block_on(Transformer::open(&transformer.plugin, &config, state))?);
    }
    Ok(fitted)
}

/// Reads the conditions for the columns that there are.
fn filters(spec: &TransformSpec) -> Result<Vec<Filter>, FilterError> {
    spec.filters.iter().map(|text| Filter::parse(text, &spec.dataset.manifest.schema)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::data::{AddedDataset, Catalog, NewDataset, encode_safetensors};
    use crate::domain::{DataType, Tensor};
    use crate::store::{Database, DatabaseUrl};

    const ROWS: usize = 400;
    const WIDTH: usize = 100_000;

    /// A dataset whose rows fill several shards.
    fn wide(catalog: &Catalog, runtime: &tokio::runtime::Runtime) -> ResolvedDataset {
        let folder = tempfile::tempdir().unwrap();
        let pixels = (0..ROWS * WIDTH).map(|index| (index / WIDTH + index % 7) as u8).collect();
        let label: Vec<u8> = (0..ROWS).map(|row| (row % 5) as u8).collect();
        let batch = Batch::new(vec![
            Tensor::new("pixels", DataType::Uint8, vec![ROWS, WIDTH], pixels).unwrap(),
            Tensor::new("label", DataType::Uint8, vec![ROWS], label).unwrap(),
        ]);
        let path = folder.path().join("train.safetensors");
        std::fs::write(&path, encode_safetensors(&batch.unwrap()).unwrap()).unwrap();
        let new = NewDataset {
            name: "wide".parse().unwrap(),
            paths: vec![path],
            parent: None,
            remove: Vec::new(),
            rows: true,
            reread: false,
            now_ms: 7,
        };
        runtime.block_on(catalog.add(new, std::sync::Arc::new(|_| {}))).unwrap().dataset
    }

    #[test]
    fn the_version_does_not_depend_on_the_number_of_threads() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let database = runtime.block_on(Database::open(&DatabaseUrl::default(), folder.path())).unwrap();
        let catalog = Catalog::new(database, store.clone());
        let dataset = wide(&catalog, &runtime);
        let make = |name: &str, threads| -> AddedDataset {
            let spec = TransformSpec {
                dataset: dataset.clone(),
                name: name.parse().unwrap(),
                filters: vec!["label != 3".to_owned()],
                rows: None,
                split: Some(SplitRule { test: 0.25, seed: 1 }),
                select: Vec::new(),
                label: None,
                preprocess: Vec::new(),
                threads,
                now_ms: 7,
            };
            let (writer, version) = transform(&store, &spec, &|_| {}).unwrap();
            runtime.block_on(catalog.add_shards(writer, version)).unwrap()
        };
        let (one, four) = (make("one", 1).dataset, make("four", 4).dataset);
        assert!(one.manifest.files.len() >= 3, "{:?}", one.manifest.files);
        assert_eq!(
            (&one.manifest.files, &one.manifest.splits),
            (&four.manifest.files, &four.manifest.splits)
        );
        let rows: BTreeMap<_, _> = one.version.rows.clone();
        assert_eq!(rows.values().sum::<u64>(), ROWS as u64 * 4 / 5);
        assert!((50..110).contains(&rows["test"]), "{rows:?}");
        let labels = |split: usize| one.manifest.splits[split].statistics[1].values.clone().unwrap();
        assert!([0, 1].into_iter().flat_map(labels).all(|count| count.value != 3));
        assert_eq!(one.manifest.parents, [dataset.version.digest]);
        assert!(make("one", 2).unchanged);
    }
}
