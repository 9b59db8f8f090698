//! Whose blobs these are: the database that put the first one here. Another one does not know what this one names, and
//! must free nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::{Store, StoreError};
use super::Blobs;

/// Longest name that is read; ours have 32 characters.
pub(super) const NAME_MAX_BYTES: u64 = 200;

/// The database that this process puts blobs for.
#[derive(Debug)]
pub(in super::super) struct Owner {
    project: String,
    /// Whether the blobs have an owner, this one or another.
    is_settled: AtomicBool,
}

impl Store {
    /// The same blobs, put from now on for the database that calls itself `project`.
    pub fn for_project(mut self, project: &str) -> Self {
        self.owner =
            Some(Arc::new(Owner { project: project.to_owned(), is_settled: AtomicBool::new(false) }));
        self
    }

    /// What the database that owns the blobs calls itself; none where none has put one yet.
    pub fn owner(&self) -> Result<Option<String>, StoreError> {
        let name = match &self.blobs {
            Blobs::Local(blobs) => blobs.owner()?,
            Blobs::Remote(blobs) => blobs.owner()?,
        };
        Ok(name.map(|name| String::from_utf8_lossy(&name).trim().to_owned()))
    }

    /// Makes `project` the owner, whoever was before.
    pub fn set_owner(&self, project: &str) -> Result<(), StoreError> {
        match &self.blobs {
            Blobs::Local(blobs) => blobs.set_owner(project, true),
            Blobs::Remote(blobs) => blobs.set_owner(project, true),
        }
    }

    /// Before the first blob of this process: where the blobs have no owner, they get this one.
    pub(super) fn claim(&self) -> Result<(), StoreError> {
        let Some(owner) = self.owner.as_ref().filter(|owner| !owner.is_settled.load(Ordering::Relaxed))
        else {
            return Ok(());
        };
        match &self.blobs {
            Blobs::Local(blobs) => blobs.set_owner(&owner.project, false)?,
            Blobs::Remote(blobs) => blobs.set_owner(&owner.project, false)?,
        }
        owner.is_settled.store(true, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_puts_a_blob_owns_them() {
        let folder = tempfile::tempdir().unwrap();
        let open = |project: &str| Store::open(folder.path()).unwrap().for_project(project);
        assert_eq!(open("a").owner().unwrap(), None);
        Store::open(folder.path()).unwrap().put_bytes(b"nobody's").unwrap();
        assert_eq!(open("a").owner().unwrap(), None);
        open("b").put_bytes(b"1").unwrap();
        open("a").put_bytes(b"2").unwrap();
        assert_eq!(open("a").owner().unwrap().as_deref(), Some("b"));
        open("a").set_owner("a").unwrap();
        assert_eq!(open("b").owner().unwrap().as_deref(), Some("a"));
    }
}
