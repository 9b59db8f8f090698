use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as ObjectPath;
use object_store::{Error, PutPayload};
use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::BlobInfo;
use crate::domain::Digest;

/// Smallest part; the last may be smaller.
const PART_MIN_BYTES: u64 = 8 * 1024 * 1024;

/// Parts of one upload, which S3 limits to 10,000.
const PARTS_MAX: u64 = 9_000;

/// Parts that are sent at the same time; each is in memory.
const PARTS_AT_ONCE: usize = 4;

/// Largest journal that is read.
const JOURNAL_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// What is known of an upload in parts, so that a later try sends only what is missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Upload {
    /// The bucket.
    url: String,
    size: u64,
    part_bytes: u64,
    /// The store's name for the upload.
    id: String,
    /// The store's names for the parts that arrived, by their places.
    parts: BTreeMap<usize, String>,
}

/// Remembers an upload in a file. Where another process sends the same blob, nothing is remembered.
pub(super) struct Journal {
    file: Option<(File, PathBuf)>,
    url: String,
    size: u64,
}

impl Journal {
    pub(super) fn open(folder: &Path, blob: BlobInfo, url: &str) -> Result<Self, StoreError> {
        let path = folder.join(format!("{}.json", blob.digest.hex()));
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(StoreError::io("create", &path))?;
        let ours = file.try_lock().is_ok();
        Ok(Self { file: ours.then_some((file, path)), url: url.to_owned(), size: blob.size })
    }

    /// The upload that an earlier try began.
    fn load(&mut self) -> Option<Upload> {
        let (file, _) = self.file.as_mut()?;
        let upload = read(file)?;
        (upload.url == self.url && upload.size == self.size).then_some(upload)
    }

    /// Best effort: a journal that is lost or torn costs sending again.
    fn save(&mut self, upload: &Upload) {
        let Some((file, path)) = &mut self.file else { return };
        let written = serde_json::to_vec(upload).map_err(std::io::Error::other).and_then(|bytes| {
            file.rewind()?;
            file.set_len(0)?;
            file.write_all(&bytes)
        });
        if let Err(error) = written {
            tracing::warn!(%error, path = %path.display(), "an upload is not remembered");
        }
    }

    fn forget(&mut self) {
        if let Some((_, path)) = self.file.take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn read(file: &mut File) -> Option<Upload> {
    let mut bytes = Vec::new();
    file.rewind().ok()?;
    file.take(JOURNAL_MAX_BYTES).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Sends `file` as the object at `path`, part by part, going on where an earlier try broke off.
pub(super) async fn send(
    store: &dyn MultipartStore,
    path: &ObjectPath,
    file: Arc<File>,
    mut journal: Journal,
) -> Result<(), Error> {
    if let Some(upload) = journal.load() {
        tracing::debug!(parts = upload.parts.len(), %path, "going on with an upload");
        match send_parts(store, path, &file, upload, &mut journal).await {
            // The bucket has forgotten it.
            Err(Error::NotFound { .. }) => tracing::debug!(%path, "the bucket has forgotten the upload"),
            sent => return sent,
        }
    }
    let part_bytes = journal.size.div_ceil(PARTS_MAX).max(PART_MIN_BYTES);
    let id = store.create_multipart(path).await?;
    let upload =
        Upload { url: journal.url.clone(), size: journal.size, part_bytes, id, parts: BTreeMap::new() };
    journal.save(&upload);
    send_parts(store, path, &file, upload, &mut journal).await
}

async fn send_parts(
    store: &dyn MultipartStore,
    path: &ObjectPath,
    file: &Arc<File>,
    mut upload: Upload,
    journal: &mut Journal,
) -> Result<(), Error> {
    let count = usize::try_from(upload.size.div_ceil(upload.part_bytes.max(1))).unwrap_or(usize::MAX);
    let missing: Vec<usize> = (0..count).filter(|part| !upload.parts.contains_key(part)).collect();
    let (id, size, part_bytes) = (upload.id.clone(), upload.size, upload.part_bytes);
    let sending = missing.into_iter().map(|part| {
        let (file, id) = (file.clone(), &id);
        async move {
            let from = part as u64 * part_bytes;
            let bytes = read_part(file, from, part_bytes.min(size - from)).await?;
            let sent = store.put_part(path, id, part, PutPayload::from(bytes)).await?;
            Ok::<_, Error>((part, sent.content_id))
        }
    });
    let mut sending = futures_util::stream::iter(sending).buffer_unordered(PARTS_AT_ONCE);
    while let Some((part, name)) = sending.try_next().await? {
        upload.parts.insert(part, name);
        journal.save(&upload);
    }
    let parts = upload.parts.into_values().map(|content_id| PartId { content_id }).collect();
    let completed = store.complete_multipart(path, &id, parts).await;
    // Also where that failed: what would be sent again is not known to be right.
    journal.forget();
    completed.map(drop)
}

async fn read_part(file: Arc<File>, from: u64, len: u64) -> Result<Vec<u8>, Error> {
    let local =
        |source: Box<dyn std::error::Error + Send + Sync>| Error::Generic { store: "the local file", source };
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, from)?;
        Ok::<_, std::io::Error>(bytes)
    });
    read.await.map_err(|error| local(error.into()))?.map_err(|error| local(error.into()))
}

/// An upload that broke off.
pub(super) struct Abandoned {
    pub(super) journal: PathBuf,
    pub(super) digest: Digest,
    /// The store's name for it.
    pub(super) id: String,
}

/// Uploads that nobody has gone on with since `since`: the bucket should forget them.
pub(super) fn abandoned(folder: &Path, url: &str, since: SystemTime) -> Result<Vec<Abandoned>, StoreError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(StoreError::io("read", folder))? {
        let path = entry.map_err(StoreError::io("read", folder))?.path();
        let Ok(mut file) = File::options().read(true).write(true).open(&path) else { continue };
        let old = file.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|time| time <= since);
        if !old || file.try_lock().is_err() {
            continue;
        }
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let digest = format!("sha256:{name}").parse();
        match (digest, read(&mut file)) {
            (Ok(digest), Some(upload)) if upload.url == url => {
                found.push(Abandoned { journal: path, digest, id: upload.id });
            }
            (_, Some(_)) => {}
            // Nothing was begun.
            (_, None) => {
                let _ = std::fs::remove_file(&path);
            }
        }
    }
    Ok(found)
}
