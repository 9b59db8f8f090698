use std::path::PathBuf;

use anyhow::Context as _;

use crate::store::Store;

/// Where the program keeps its things.
#[derive(Debug, clap::Args)]
pub(super) struct StateArguments {
    /// Folder for datasets, bundles and windows [default: ~/.local/share/host].
    #[arg(long, global = true, env = "HOST_STATE_DIR", value_name = "DIR", help_heading = "Global options")]
    state_dir: Option<PathBuf>,
}

impl StateArguments {
    /// Opens the store, creating the folder if need be.
    pub(super) fn open_store(&self) -> anyhow::Result<Store> {
        Ok(Store::open(&self.folder()?)?)
    }

    fn folder(&self) -> anyhow::Result<PathBuf> {
        if let Some(folder) = &self.state_dir {
            return Ok(folder.clone());
        }
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let data_home = variable("XDG_DATA_HOME").or_else(|| Some(variable("HOME")?.join(".local/share")));
        Ok(data_home
            .context("no state folder: give `--state-dir DIR`, or set HOST_STATE_DIR or HOME")?
            .join("host"))
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map(|time| time.as_secs()).unwrap_or_default()
}
