use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Context as _;

use crate::data::{Alerts, Catalog, ResolvedDataset};
use crate::pipeline::PIPELINES;
use crate::project::Project;
use crate::registry::{self, ModelReference, Registry, ResolvedModel};
use crate::store::{BlobsUrl, BlobsUrlError, Database, DatabaseUrl, DatabaseUrlError, Store};
use crate::track::Tracker;

/// Where the program keeps its things.
#[derive(Debug, clap::Args)]
pub(super) struct StateArguments {
    /// Folder for datasets, bundles and windows [default: ~/.local/share/host].
    #[arg(long, global = true, env = "HOST_STATE_DIR", value_name = "DIR", help_heading = "Global options")]
    state_dir: Option<OsString>,

    /// Database of datasets, experiments, runs and models, as `postgres://user:password@machine/name` [default: a file of SQLite in the
    /// state folder].
    #[arg(
        long,
        global = true,
        env = "HOST_DATABASE",
        value_name = "URL",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    database: Option<String>,

    /// Where datasets, bundles and artifacts are kept, as `s3://bucket/prefix`, `gs://…`, `az://…` or `file:///folder`
    /// [default: the state folder]. Endpoint and credentials are taken from the variables that the provider's own tools
    /// read, such as AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    #[arg(long, global = true, env = "HOST_BLOBS", value_name = "URL", help_heading = "Global options")]
    blobs: Option<String>,
}

impl StateArguments {
    /// Opens the store, creating the folder if need be.
    pub(super) fn open_store(&self) -> anyhow::Result<Store> {
        let blobs = match self.blobs.as_deref() {
            None | Some("") => BlobsUrl::default(),
            Some(url) => url.parse().map_err(|error: BlobsUrlError| anyhow::anyhow!("`--blobs`: {error}"))?,
        };
        Ok(Store::open_with(&self.folder()?, &blobs)?)
    }

    /// Opens the store and its database, and brings that up to date.
    pub(super) async fn open_tracker(&self) -> anyhow::Result<Tracker> {
        let store = self.open_store()?;
        // Not left to the parser of arguments, which would repeat a password in its error.
        let url = match self.database.as_deref() {
            None | Some("") => DatabaseUrl::default(),
            Some(url) => {
                url.parse().map_err(|error: DatabaseUrlError| anyhow::anyhow!("`--database`: {error}"))?
            }
        };
        let database = Database::open(&url, store.folder()).await;
        let failed = || format!("failed to open the database `{}`", url.place(store.folder()));
        let database = database.with_context(failed)?;
        let store = store.for_project(database.project());
        Ok(Tracker::new(database, store))
    }

    /// Like [`Self::open_tracker`], for models and their versions.
    pub(super) async fn open_registry(&self) -> anyhow::Result<Registry> {
        Ok(Registry::new(self.open_tracker().await?))
    }

    /// Opens datasets, runs and models together.
    pub(super) async fn open_project(&self) -> anyhow::Result<Project> {
        Ok(Project::new(self.open_tracker().await?))
    }

    /// Opens the datasets.
    pub(super) async fn open_catalog(&self) -> anyhow::Result<Catalog> {
        let tracker = self.open_tracker().await?;
        let catalog = Catalog::new(tracker.database().clone(), tracker.store().clone());
        Ok(catalog.for_pipelines(pipelines_before()))
    }

    /// Opens the alerts.
    pub(super) async fn open_alerts(&self) -> anyhow::Result<Alerts> {
        let tracker = self.open_tracker().await?;
        Ok(Alerts::new(tracker.database().clone()).for_pipelines(pipelines_before()))
    }

    /// Finds the dataset that `text` means.
    pub(super) fn resolve_dataset(&self, text: &str) -> anyhow::Result<ResolvedDataset> {
        wait(async { Ok(self.open_catalog().await?.resolve(text).await?) })
    }

    /// Finds the bundle that `model` means; the database is opened only where that is a name.
    pub(super) fn resolve_model(
        &self,
        store: &Store,
        model: &ModelReference,
    ) -> anyhow::Result<ResolvedModel> {
        if let Some(resolved) = registry::resolve_unnamed(store, model)? {
            return Ok(resolved);
        }
        wait(async { Ok(self.open_registry().await?.resolve(model).await?) })
    }

    /// What tells another process of this program to use the same state.
    pub(super) fn to_environment(&self) -> anyhow::Result<Vec<(OsString, OsString)>> {
        let folder = std::path::absolute(self.folder()?).context("failed to find the state folder")?;
        let mut environment = vec![("HOST_STATE_DIR".into(), folder.into_os_string())];
        for (name, value) in [("HOST_DATABASE", &self.database), ("HOST_BLOBS", &self.blobs)] {
            environment.extend(value.as_ref().map(|value| (name.into(), value.into())));
        }
        Ok(environment)
    }

    fn folder(&self) -> anyhow::Result<PathBuf> {
        if let Some(folder) = given(self.state_dir.clone()) {
            return Ok(folder);
        }
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let data_home = variable("XDG_DATA_HOME").or_else(|| Some(variable("HOME")?.join(".local/share")));
        Ok(data_home
            .context("no state folder: give `--state-dir DIR`, or set HOST_STATE_DIR or HOME")?
            .join("host"))
    }
}

/// The names of the pipelines that led to this process, with spaces between: it is a step of the last.
pub(super) fn pipelines_before() -> String {
    std::env::var(PIPELINES).unwrap_or_default()
}

/// Threads beside this one, for work that goes back and forth between what waits and what computes.
pub(super) fn start_threads() -> anyhow::Result<tokio::runtime::Runtime> {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    threads.context("failed to start threads")
}

/// Runs `work` on this thread.
pub(super) fn wait<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("failed to start threads")?.block_on(work)
}

/// A path that a user gave; a variable that is set to nothing gives none.
pub(super) fn given(path: Option<OsString>) -> Option<PathBuf> {
    path.filter(|path| !path.is_empty()).map(PathBuf::from)
}
