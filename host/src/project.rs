//! A project as a whole: everything that one database and its blobs hold.
//!
//! Knows how datasets, runs and models hang together, which none of them knows alone: what may be freed ([`gc`]), what
//! belongs together where it is carried elsewhere ([`archive`]). Reads
//! and writes through those modules only.

mod archive;
mod gc;

use crate::data::Catalog;
use crate::registry::Registry;
use crate::store::{Database, Store};
use crate::track::Tracker;

pub use archive::{
    ArchiveError, ArchiveProgress, ArchiveWatcher, ExportReport, ExportSpec, ExportTarget, ImportCounts,
    ImportReport,
};
pub use gc::{GcError, GcProgress, GcReport, GcSpec};

/// Datasets, runs and models of one database; clones are cheap and mean the same ones.
#[derive(Debug, Clone)]
pub struct Project {
    registry: Registry,
    catalog: Catalog,
}

impl Project {
    /// The project that `tracker` keeps runs of.
    pub fn new(tracker: Tracker) -> Self {
        let catalog = Catalog::new(tracker.database().clone(), tracker.store().clone());
        Self { registry: Registry::new(tracker), catalog }
    }

    /// How long a blob that nothing names should stay at least, beside what it takes to name one that was put: see
    /// [`Store::unused_age_min`].
    pub fn unused_for_min(&self) -> std::time::Duration {
        self.store().unused_age_min()
    }

    fn tracker(&self) -> &Tracker {
        self.registry.tracker()
    }

    fn store(&self) -> &Store {
        self.tracker().store()
    }

    fn database(&self) -> &Database {
        self.tracker().database()
    }
}
