//! Experiments and runs: what was tried, with which parameters, and what came of it.
//!
//! Words and rules are MLflow's, whose REST API [`rest`] answers; what is kept lies in the store's database. A write is
//! atomic and durable when it is acknowledged; what is logged is harmless to repeat. Knows nothing of models, trainers and
//! endpoints.

pub(crate) mod archive;
pub(crate) mod artifacts;
mod entities;
mod error;
mod experiments;
mod inputs;
pub(crate) mod logged_models;
mod metric_queue;
mod metrics;
mod model_history;
mod multipart;
mod named_digests;
pub(crate) mod names;
mod names_of_runs;
mod purge;
pub mod rest;
pub(crate) mod rows;
mod runs;
pub(crate) mod search;

use self::metric_queue::MetricQueue;
use crate::store::{Database, Store};

pub use archive::{
    ArtifactRecord, ArtifactsRecord, ExperimentRecord, LoggedModelRecord, ModelMetricRecord, PointsRecord,
    RunRecord,
};
pub use artifacts::{ArtifactEntry, ArtifactPath};
pub use entities::{
    DatasetInput, Experiment, InputDataset, Lifecycle, Metric, ModelInput, ModelOutput, Pair, Run, RunData,
    RunInfo, RunInputs, RunOutputs, RunStatus, ViewType,
};
pub use error::{ErrorCode, TrackError};
pub use logged_models::{
    LoggedModel, LoggedModelData, LoggedModelInfo, LoggedModelStatus, ModelMetric, NewLoggedModel,
};
pub use metrics::MetricPage;
pub use named_digests::{BUNDLE_TAG, NamedDigests};
pub use purge::{Expired, ExpiredCounts, NeededFiles};
pub use runs::{NewRun, PreparedRun, RunChange};
pub use search::{DatasetFilter, ModelOrder, ModelSearch, Page, RunSearch};

/// Tag of a run that is a part of another: that one's id, as MLflow has it.
pub const PARENT_TAG: &str = "mlflow.parentRunId";

/// Tag of the run of a pipeline and of those of its steps: the pipeline's name.
pub const PIPELINE_TAG: &str = "host.pipeline";

/// How the tags of a run begin that say which components it used: the plugin's name follows, the value is the digest.
pub const PLUGIN_TAG: &str = "host.plugin.";

/// Reads and writes experiments and runs; clones are cheap and mean the same store.
#[derive(Debug, Clone)]
pub struct Tracker {
    database: Database,
    store: Store,
    metrics: MetricQueue,
}

impl Tracker {
    /// A tracker that keeps metadata in `database` and artifacts in `store`; starts a task on the runtime that calls it.
    pub fn new(database: Database, store: Store) -> Self {
        let metrics = MetricQueue::start(database.clone());
        Self { database, store, metrics }
    }

    /// Where metadata is kept.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Where files are kept.
    pub fn store(&self) -> &Store {
        &self.store
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map(|time| time.as_millis() as i64).unwrap_or_default()
}
