use std::path::PathBuf;

use clap::Subcommand;

use super::output::{Output, Table, bytes_text, number_text, thousands};
use super::state::{StateArguments, now};
use crate::data;
use crate::domain::Name;

#[derive(Debug, Subcommand)]
pub(super) enum DataCommand {
    /// Add files as a new version of a dataset.
    ///
    /// IDX (as MNIST has them), CSV and Parquet files are read. Files named `train*` and `test*` or `t10k*` become the
    /// splits `train` and `test`; other files belong to `train`.
    Add {
        /// The dataset.
        name: Name,
        /// Files and folders.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// List the datasets.
    List,
    /// Show a version's schema, rows and statistics.
    Show {
        /// The dataset: a name, `name@version` or `name@sha256:…`.
        dataset: String,
    },
}
