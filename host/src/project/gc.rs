//! Frees what nothing names.
//!
//! The order of steps, which is what makes it safe beside others who write:
//!
//! 1. A moment is fixed: `unused_for` ago. What was put after it stays.
//! 2. All names are read. What cannot be read ends it here: what it names is not known, so nothing may be freed.
//! 3. What was deleted long ago is removed from the database. Where somebody restored some of it meanwhile, names are
//!    read again. Windows to which nothing was written for long are removed, and what was written to them meanwhile is read.
//! 4. Blobs that were not named and not put since the moment are removed, one by one; each is looked at again under the
//!    lock that those who put hold too.
//!
//! Whoever writes puts a blob first and names it then. A name that step 2 does not see is given after step 1, so its blob
//! was put at most as long ago as its writer takes from putting to naming. `unused_for` must be longer than that: then
//! the blob is younger than the moment. Putting a blob that is there already counts, since that makes it young again; in
//! a bucket only every [`Store::unused_age_min`], which is to be added. Names that are copied, such as those of a
//! dataset's parent, are written only while what they are copied from is there.
//!
//! Two at once, or one that was killed and is repeated, do no harm: each step looks at what is there.

mod names;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use self::names::Names;
use super::Project;
use crate::data::DataError;
use crate::domain::{Digest, map_parallel};
use crate::store::{Store, StoreError};
use crate::track::{Expired, ExpiredCounts, TrackError};

/// Blobs that are removed at the same time; a bucket takes a while for each.
const REMOVED_AT_ONCE: usize = 16;

/// What may go.
#[derive(Debug, Clone, Copy)]
pub struct GcSpec {
    /// When this is.
    pub now: SystemTime,
    /// A blob stays that was put within this time.
    pub unused_for: Duration,
    /// Runs, experiments and logged models stay that were deleted within this time.
    pub deleted_for: Duration,
    /// The window of an endpoint stays to which something was written within this time.
    pub windows_unused_for: Duration,
    /// Only say what would go.
    pub dry_run: bool,
    /// Take the blobs over from the database that they were put for.
    pub adopt: bool,
}

/// What went, or would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct GcReport {
    /// Whether it only would.
    pub dry_run: bool,
    /// Blobs that nothing names.
    pub blobs: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Blobs that nothing names and that stay because they are young.
    pub young_blobs: u64,
    /// Bytes of them.
    pub young_bytes: u64,
    /// Blobs that something names.
    pub named_blobs: u64,
    /// Bytes of them.
    pub named_bytes: u64,
    /// What was deleted long ago.
    #[serde(flatten)]
    pub expired: ExpiredCounts,
    /// Runs and logged models that were deleted long ago and stay because versions of models have their files there.
    pub needed: usize,
    /// Uploads that broke off.
    pub uploads: usize,
    /// Windows of endpoints to which nothing was written for long.
    pub windows: usize,
}

/// What it is at, for who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcProgress {
    /// Names are being read.
    Marking,
    /// So many blobs will be removed.
    Removing(u64),
    /// One of them is.
    Removed,
}

/// Who waits.
type Watcher = Arc<dyn Fn(GcProgress) + Send + Sync>;

/// Why nothing, or not all, was freed.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// Something that names blobs cannot be read.
    #[error(
        "nothing was freed, because what {what} names cannot be known\nhint: restore its blobs from a backup, or \
         delete {what}"
    )]
    Unreadable {
        /// A dataset version, a version of a model, a run or a window.
        what: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another database may name blobs of this store.
    #[error(
        "nothing was freed, because these blobs were put for another database, which names some of them\nhint: give \
         that one by `--database`; where it is gone and this one has all that it had, use `--adopt` once"
    )]
    OtherDatabase,
    /// Nobody knows which database names blobs of this store.
    #[error(
        "nothing was freed, because these blobs were put for no database, and another one may name some of them\nhint: \
         where there is none, or this one has all that it had, use `--adopt` once"
    )]
    NoDatabase,
    /// The database failed.
    #[error("{0}")]
    Track(#[from] TrackError),
    /// Datasets cannot be listed, or windows read.
    #[error("{0}")]
    Data(#[from] DataError),
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A thread has ended, because the program is about to.
    #[error("the work was stopped")]
    Stopped,
}

impl GcError {
    fn unreadable(what: String, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unreadable { what, source: source.into() }
    }
}

/// Blobs that are there, by what becomes of them.
#[derive(Debug, Default)]
struct Sweep {
    unused: Vec<(Digest, u64)>,
    report: GcReport,
}

impl Project {
    /// Frees what nothing names; see the module for how.
    pub async fn collect_garbage(&self, spec: GcSpec, watcher: Watcher) -> Result<GcReport, GcError> {
        self.check_owner(spec).await?;
        let since = spec.now.checked_sub(spec.unused_for).unwrap_or(SystemTime::UNIX_EPOCH);
        let before_ms = milliseconds(spec.now).saturating_sub_unsigned(spec.deleted_for.as_millis() as u64);
        let windows_since = spec.now.checked_sub(spec.windows_unused_for).unwrap_or(SystemTime::UNIX_EPOCH);
        watcher(GcProgress::Marking);
        let expired = self.tracker().expired(before_ms, &self.registry.needed_files().await?).await?;
        let mut names = self.read_names(&expired, windows_since).await?;
        let mut counts = expired.counts();
        if !spec.dry_run {
            counts = self.tracker().purge(&expired).await?;
            if counts != expired.counts() {
                names = self.read_names(&Expired::default(), windows_since).await?;
            }
        }
        let store = self.store().clone();
        let swept = blocking(move || {
            let windows = match spec.dry_run {
                true => names.unused_windows.len(),
                false => names.remove_unused_windows(windows_since)?,
            };
            let sweep = find_unused(&store, &names.blobs, since)?;
            let mut report = GcReport { dry_run: spec.dry_run, windows, ..sweep.report };
            if spec.dry_run {
                report.uploads = store.count_abandoned_uploads(since)?;
            } else {
                report.uploads = store.abort_abandoned_uploads(since)?;
                (report.blobs, report.bytes) = remove(&store, &sweep.unused, since, &watcher)?;
            }
            Ok(report)
        });
        Ok(GcReport { expired: counts, needed: expired.needed(), ..swept.await? })
    }

    /// Only the database that blobs were put for knows what names them.
    async fn check_owner(&self, spec: GcSpec) -> Result<(), GcError> {
        let (store, project) = (self.store().clone(), self.database().project().to_owned());
        blocking(move || {
            let owner = store.owner()?;
            if owner.as_deref() == Some(project.as_str()) || (spec.adopt && spec.dry_run) {
                return Ok(());
            }
            if spec.adopt {
                return Ok(store.set_owner(&project)?);
            }
            let mut is_empty = true;
            store.list_blobs(&mut |_| {
                is_empty = false;
                Ok(())
            })?;
            match owner {
                _ if is_empty => Ok(()),
                Some(_) => Err(GcError::OtherDatabase),
                // They were put by who knew no database.
                None => Err(GcError::NoDatabase),
            }
        })
        .await
    }

    async fn read_names(&self, expired: &Expired, windows_since: SystemTime) -> Result<Names, GcError> {
        let tracked = self.tracker().named_digests(expired).await?;
        let bundles = self.registry.named_bundles().await?;
        let noted = self.registry.noted_digests().await?;
        let datasets = self.catalog.list().await?;
        let store = self.store().clone();
        blocking(move || {
            let mut names = Names::new(store);
            names.add_datasets(&datasets)?;
            names.add_bundles(&bundles)?;
            names.add_windows(windows_since)?;
            names.add_predictions()?;
            names.add_tracked(tracked)?;
            names.blobs.extend(noted);
            Ok(names)
        })
        .await
    }
}

/// Looks which blobs are there, and which of them are neither named nor young.
fn find_unused(store: &Store, named: &HashSet<Digest>, since: SystemTime) -> Result<Sweep, StoreError> {
    let mut sweep = Sweep::default();
    store.list_blobs(&mut |blob| {
        let report = &mut sweep.report;
        let (count, bytes) = if named.contains(&blob.digest) {
            (&mut report.named_blobs, &mut report.named_bytes)
        } else if blob.modified > since {
            (&mut report.young_blobs, &mut report.young_bytes)
        } else {
            sweep.unused.push((blob.digest, blob.size));
            (&mut report.blobs, &mut report.bytes)
        };
        *count += 1;
        *bytes += blob.size;
        Ok(())
    })?;
    Ok(sweep)
}

/// Removes blobs; gives how many went, and their bytes.
fn remove(
    store: &Store,
    unused: &[(Digest, u64)],
    since: SystemTime,
    watcher: &Watcher,
) -> Result<(u64, u64), StoreError> {
    watcher(GcProgress::Removing(unused.len() as u64));
    let (count, size) = (AtomicUsize::new(0), AtomicU64::new(0));
    map_parallel(
        unused,
        REMOVED_AT_ONCE,
        || StoreError::Closed,
        |(digest, bytes)| {
            if store.remove_unused_blob(*digest, since)? {
                count.fetch_add(1, Ordering::Relaxed);
                size.fetch_add(*bytes, Ordering::Relaxed);
            }
            watcher(GcProgress::Removed);
            Ok(())
        },
    )?;
    Ok((count.into_inner() as u64, size.into_inner()))
}

fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Runs what waits for the disk or the bucket where it holds up nobody else.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GcError> + Send + 'static,
) -> Result<T, GcError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(GcError::Stopped))
}
