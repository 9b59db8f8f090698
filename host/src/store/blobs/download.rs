use std::fs::File;
use std::io::Write as _;

use futures_util::TryStreamExt as _;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _};

/// Fetches the object at `path` into `file`, which may hold its beginning already; it is written at the end.
pub(super) async fn fetch(objects: &dyn ObjectStore, path: &Path, mut file: File) -> Result<(), Error> {
    let io = |error: std::io::Error| Error::Generic { store: "the local file", source: error.into() };
    let mut have = file.metadata().map_err(io)?.len();
    if have > 0 {
        let size = objects.head(path).await?.size;
        if have == size {
            return Ok(());
        }
        if have > size {
            file.set_len(0).map_err(io)?;
            have = 0;
        }
        tracing::debug!(have, size, %path, "going on with a download");
    }
    let options = GetOptions { range: (have > 0).then_some(GetRange::Offset(have)), ..GetOptions::default() };
    let mut pieces = objects.get_opts(path, options).await?.into_stream();
    while let Some(piece) = pieces.try_next().await? {
        // Into the system's memory, mostly: not worth a change of threads.
        file.write_all(&piece).map_err(io)?;
    }
    Ok(())
}
