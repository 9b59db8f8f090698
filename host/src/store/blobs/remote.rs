use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt as _;
use object_store::path::Path as ObjectPath;
use object_store::{Error, ObjectMeta, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::super::StoreError;
use super::bucket::connect_from_environment;
use super::cache::Cache;
use super::connect::Bucket;
use super::local::{Staged, hash};
use super::owner::NAME_MAX_BYTES;
use super::{BlobEntry, BlobInfo};
use super::{download, upload};
use crate::domain::Digest;

/// Blobs up to this size are sent in one request, which creates the object or finds it there.
const WHOLE_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Age from which an object that is put again is written again: so that `host gc`, which goes by age, sees that somebody
/// relies on it.
pub(super) const REFRESH_AGE: Duration = Duration::from_secs(12 * 3_600);

/// Blobs in a bucket. What was read or written stays for a while in a cache on this machine.
#[derive(Debug)]
pub(in super::super) struct RemoteBlobs {
    bucket: Bucket,
    url: Url,
    cache: Cache,
    /// Where uploads that broke off are remembered.
    uploads: PathBuf,
    threads: Threads,
}

/// Threads that speak to the bucket: those who ask are not asynchronous, or must not wait for themselves.
#[derive(Debug)]
struct Threads(Option<tokio::runtime::Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        // The last owner may be a task, which could not wait for threads to end.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl RemoteBlobs {
    /// Prepares to use the bucket of `url`; nothing is sent yet.
    pub(super) fn open(url: &Url, state_folder: &Path) -> Result<Self, StoreError> {
        let uploads = state_folder.join("uploads");
        std::fs::create_dir_all(&uploads).map_err(StoreError::io("create", &uploads))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("blobs")
            .enable_all()
            .build()
            .map_err(StoreError::io("start threads for", state_folder))?;
        Ok(Self {
            bucket: connect_from_environment(url)?,
            url: url.clone(),
            cache: Cache::open(state_folder)?,
            uploads,
            threads: Threads(Some(runtime)),
        })
    }

    /// Asks the bucket for anything, to tell early that it cannot be reached.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let (objects, prefix) = (self.bucket.objects.clone(), self.bucket.prefix.clone());
        self.wait("reach", None, async move { objects.list(Some(&prefix)).try_next().await.map(drop) })
    }

    /// Where bytes are staged before they are put.
    pub(super) fn staging(&self) -> &super::local::LocalBlobs {
        self.cache.blobs()
    }

    /// Stores staged bytes; durable when it returns.
    pub(super) fn keep(&self, staged: Staged) -> Result<BlobInfo, StoreError> {
        let blob = staged.blob;
        if !self.is_there(blob)? {
            if blob.size <= WHOLE_MAX_BYTES {
                self.put_whole(&staged)?;
            } else {
                self.put_in_parts(&staged)?;
            }
        }
        self.cache.insert(staged)?;
        Ok(blob)
    }

    /// Opens a blob whose bytes were checked.
    pub(super) fn open_checked(&self, digest: Digest) -> Result<File, StoreError> {
        if let Some(file) = self.cache.get(digest)? {
            return Ok(file);
        }
        let mut partial = self.cache.partial(digest)?;
        // Whoever was waited for may have fetched it.
        if let Some(file) = self.cache.get(digest)? {
            partial.discard()?;
            return Ok(file);
        }
        let file = partial.file.try_clone().map_err(StoreError::io("read", &partial.path))?;
        let (objects, path) = (self.bucket.objects.clone(), self.object_path(digest));
        let fetched =
            self.wait("read", Some(digest), async move { download::fetch(&*objects, &path, file).await });
        if let Err(error) = fetched {
            // What arrived stays for the next try to go on with.
            if partial.file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
                partial.discard()?;
            }
            return Err(error);
        }
        partial.file.rewind().map_err(StoreError::io("read", &partial.path))?;
        let found = hash(&mut partial.file, StoreError::io("read", &partial.path), |_| Ok(()))?;
        if found != digest {
            partial.discard()?;
            return Err(StoreError::Damaged { digest, found });
        }
        self.cache.insert_partial(digest, partial)
    }

    /// The digest of the bytes in the bucket.
    pub(super) fn hash(&self, digest: Digest) -> Result<Digest, StoreError> {
        let (objects, path) = (self.bucket.objects.clone(), self.object_path(digest));
        self.wait("read", Some(digest), async move {
            let mut hasher = Sha256::new();
            download::each_piece(&*objects, &path, 0, |piece| {
                hasher.update(piece);
                Ok(())
            })
            .await?;
            Ok(Digest::from_hasher(hasher))
        })
    }

    /// Bytes of a blob.
    pub(super) fn len(&self, digest: Digest) -> Result<u64, StoreError> {
        let (objects, path) = (self.bucket.objects.clone(), self.object_path(digest));
        self.wait("read", Some(digest), async move { objects.head(&path).await.map(|found| found.size) })
    }

    /// How many bytes there are to read, from the cache where it has them.
    pub(super) fn read_len(&self, digest: Digest) -> Result<u64, StoreError> {
        match self.cache.len(digest)? {
            Some(length) => Ok(length),
            None => self.len(digest),
        }
    }

    /// Tells `each` of every blob.
    pub(super) fn list(
        &self,
        each: &mut dyn FnMut(BlobEntry) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (objects, folder) = (self.bucket.objects.clone(), self.bucket.prefix.clone().join("sha256"));
        let (sender, receiver) = std::sync::mpsc::sync_channel(1_024);
        let listing = async move {
            let mut entries = objects.list(Some(&folder));
            while let Some(found) = entries.try_next().await? {
                if sender.send(found).is_err() {
                    break;
                }
            }
            Ok(())
        };
        let told = self.spawn(listing)?;
        for found in receiver {
            let name = found.location.filename().unwrap_or_default();
            let Ok(digest) = format!("sha256:{name}").parse::<Digest>() else { continue };
            each(BlobEntry { digest, size: found.size, modified: found.last_modified.into() })?;
        }
        self.told("list", None, told)
    }

    /// Removes a blob that nobody has put since `since`, and the copy of it on this machine; says whether it did.
    ///
    /// Buckets remove without conditions, so one who puts the blob again between the question and the removal loses it.
    /// That takes an object which nobody has needed since `since`, and then somebody within this one round trip; what
    /// names it is told that it is missing, and putting it again mends that.
    pub(super) fn remove_unused(&self, digest: Digest, since: SystemTime) -> Result<bool, StoreError> {
        let (objects, path) = (self.bucket.objects.clone(), self.object_path(digest));
        let removed = self.wait("remove", Some(digest), async move {
            match objects.head(&path).await {
                Ok(found) if SystemTime::from(found.last_modified) > since => return Ok(false),
                Ok(_) => {}
                // Somebody else removes too.
                Err(Error::NotFound { .. }) => return Ok(false),
                Err(error) => return Err(error),
            }
            match objects.delete(&path).await {
                Ok(()) => Ok(true),
                Err(Error::NotFound { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        })?;
        if removed {
            self.cache.forget(digest);
        }
        Ok(removed)
    }

    /// Uploads that broke off before `since`.
    pub(super) fn count_abandoned(&self, since: SystemTime) -> Result<usize, StoreError> {
        Ok(upload::abandoned(&self.uploads, self.url.as_str(), since)?.len())
    }

    /// Lets the bucket forget uploads that broke off before `since` and were not gone on with; gives their number.
    pub(super) fn abort_abandoned(&self, since: SystemTime) -> Result<usize, StoreError> {
        let abandoned = upload::abandoned(&self.uploads, self.url.as_str(), since)?;
        for upload in &abandoned {
            let (parts, path) = (self.bucket.parts.clone(), self.object_path(upload.digest));
            let id = upload.id.clone();
            self.wait("remove", Some(upload.digest), async move {
                match parts.abort_multipart(&path, &id).await {
                    Err(Error::NotFound { .. }) => Ok(()),
                    aborted => aborted,
                }
            })?;
            let _ = std::fs::remove_file(&upload.journal);
        }
        Ok(abandoned.len())
    }

    /// Whether the bucket has the blob, whole and not about to be found unused.
    fn is_there(&self, blob: BlobInfo) -> Result<bool, StoreError> {
        let (objects, path) = (self.bucket.objects.clone(), self.object_path(blob.digest));
        self.wait("read", Some(blob.digest), async move {
            match objects.head(&path).await {
                Ok(found) => Ok(is_whole_and_young(&found, blob.size)),
                Err(Error::NotFound { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    /// Stores staged bytes whatever the bucket has under their name.
    pub(super) fn replace(&self, staged: Staged) -> Result<(), StoreError> {
        if staged.blob.size > WHOLE_MAX_BYTES {
            self.put_in_parts(&staged)?;
        } else {
            let payload = PutPayload::from(read_whole(&staged)?);
            let (objects, path) = (self.bucket.objects.clone(), self.object_path(staged.blob.digest));
            self.wait("write", Some(staged.blob.digest), async move {
                objects.put(&path, payload).await.map(drop)
            })?;
        }
        self.cache.insert(staged)
    }

    /// What the object `owner` says.
    pub(super) fn owner(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let (objects, path) = (self.bucket.objects.clone(), self.owner_path());
        self.wait("read", None, async move {
            match objects.get(&path).await {
                Ok(found) if found.meta.size > NAME_MAX_BYTES => Ok(Some(Vec::new())),
                Ok(found) => Ok(Some(found.bytes().await?.to_vec())),
                Err(Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    /// Writes the object `owner`; one that is there is left unless `replace`.
    pub(super) fn set_owner(&self, project: &str, replace: bool) -> Result<(), StoreError> {
        let (objects, path) = (self.bucket.objects.clone(), self.owner_path());
        let payload = PutPayload::from(format!("{project}\n").into_bytes());
        self.wait("write", None, async move {
            let mode = if replace { PutMode::Overwrite } else { PutMode::Create };
            match objects.put_opts(&path, payload.clone(), PutOptions::from(mode)).await {
                Ok(_) | Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(()),
                // The bucket knows no condition.
                Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                    match objects.head(&path).await {
                        Ok(_) => Ok(()),
                        Err(Error::NotFound { .. }) => objects.put(&path, payload).await.map(drop),
                        Err(error) => Err(error),
                    }
                }
                Err(error) => Err(error),
            }
        })
    }

    fn owner_path(&self) -> ObjectPath {
        self.bucket.prefix.clone().join("owner")
    }

    fn put_whole(&self, staged: &Staged) -> Result<(), StoreError> {
        let bytes = read_whole(staged)?;
        let (objects, path, size) =
            (self.bucket.objects.clone(), self.object_path(staged.blob.digest), staged.blob.size);
        self.wait("write", Some(staged.blob.digest), async move {
            let payload = PutPayload::from(bytes);
            let create = PutOptions::from(PutMode::Create);
            match objects.put_opts(&path, payload.clone(), create).await {
                Ok(_) => Ok(()),
                // By another writer, or by our own request whose answer was lost: its name says what it holds.
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. })
                    if is_whole_and_young(&objects.head(&path).await?, size) =>
                {
                    Ok(())
                }
                // Or it is old, or a failing machine left a part of it, or the bucket knows no condition: the same bytes
                // again do no harm.
                Err(
                    Error::AlreadyExists { .. }
                    | Error::Precondition { .. }
                    | Error::NotImplemented { .. }
                    | Error::NotSupported { .. },
                ) => objects.put(&path, payload).await.map(drop),
                Err(error) => Err(error),
            }
        })
    }

    fn put_in_parts(&self, staged: &Staged) -> Result<(), StoreError> {
        let file = File::open(staged.file.path()).map_err(StoreError::io("read", staged.file.path()))?;
        let (parts, path) = (self.bucket.parts.clone(), self.object_path(staged.blob.digest));
        let journal = upload::Journal::open(&self.uploads, staged.blob, self.url.as_str())?;
        self.wait("write", Some(staged.blob.digest), async move {
            upload::send(&*parts, &path, Arc::new(file), journal).await
        })
    }

    fn object_path(&self, digest: Digest) -> ObjectPath {
        let hex = digest.hex();
        let prefix = hex.get(..2).unwrap_or_default();
        self.bucket.prefix.clone().join("sha256").join(prefix).join(hex.as_str())
    }

    /// Runs `work` on the bucket's own threads, and waits.
    fn wait<T: Send + 'static>(
        &self,
        action: &'static str,
        digest: Option<Digest>,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let told = self.spawn(work)?;
        self.told(action, digest, told)
    }

    fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<std::sync::mpsc::Receiver<Result<T, Error>>, StoreError> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let runtime = self.threads.0.as_ref().ok_or(StoreError::Closed)?;
        runtime.spawn(async move {
            // Nobody listens any more only where the program ends.
            let _ = sender.send(work.await);
        });
        Ok(receiver)
    }

    fn told<T>(
        &self,
        action: &'static str,
        digest: Option<Digest>,
        told: std::sync::mpsc::Receiver<Result<T, Error>>,
    ) -> Result<T, StoreError> {
        told.recv().map_err(|_| StoreError::Closed)?.map_err(|error| match (error, digest) {
            (Error::NotFound { .. }, Some(digest)) if action == "read" => StoreError::Missing { digest },
            (error, _) => StoreError::remote(action, self.url.as_str(), error),
        })
    }
}

/// Whether an object holds a blob of so many bytes, and is not about to be found unused.
fn is_whole_and_young(found: &ObjectMeta, size: u64) -> bool {
    let age = SystemTime::from(found.last_modified).elapsed().unwrap_or_default();
    found.size == size && age < REFRESH_AGE
}

/// The staged bytes of a blob that is sent in one request.
fn read_whole(staged: &Staged) -> Result<Vec<u8>, StoreError> {
    let (mut bytes, path) = (Vec::new(), staged.file.path());
    let mut file = staged.file.as_file();
    file.rewind().map_err(StoreError::io("read", path))?;
    file.take(WHOLE_MAX_BYTES).read_to_end(&mut bytes).map_err(StoreError::io("read", path))?;
    Ok(bytes)
}
